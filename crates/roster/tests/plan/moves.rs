//! Plans of moves: what moves, what stays, and what an interrupted run left.

use roster::desired::{CloneDesired, HomeDesired};
use roster::moves::{Candidate, Move, Tracked};
use roster::observed::{HomeObserved, Place};
use roster::plan::{Action, HomeAction, Plan, home};

use crate::machine::{shown, user};

const INFRA: &str = "https://git.example.org/infra.git";
const HIDDEN: &str = ".code.rosterd-moving";
const TRIPIT_HIDDEN: &str = "code/.tripit.rosterd-moving";

fn wanted(workspace: bool) -> HomeDesired {
    let clone = |path: &str, url: &str| CloneDesired { path: path.into(), url: url.into(), locked: false };
    let clones = match workspace {
        true => {
            vec![clone("code/infra", INFRA), clone("code/tripit", "https://git.example.org/tripit.git")]
        }
        false => vec![clone("code", INFRA)],
    };
    HomeDesired { workspace, clones, ..HomeDesired::default() }
}

fn a_clone() -> Place {
    Place::Clone { origin: Some(INFRA.into()), locked: false }
}

fn candidate(tracked: Tracked) -> Candidate {
    Candidate { tracked, obstacles: vec![], remarks: vec![] }
}

/// A home whose `~/code` is `code`, with these other places.
fn seen(code: Place, clones: &[(&str, Place)]) -> HomeObserved {
    let mut observed = HomeObserved { code, ..HomeObserved::default() };
    for path in ["code/infra", "code/tripit"] {
        observed.clones.insert(path.into(), Place::Absent);
    }
    observed.clones.extend(clones.iter().map(|(path, place)| ((*path).into(), place.clone())));
    observed
}

fn single(nested: Option<Candidate>) -> HomeObserved {
    let tripit = if nested.is_some() { a_clone() } else { Place::Absent };
    let mut observed = seen(a_clone(), &[("code/tripit", tripit)]);
    observed.moves.candidates.insert("code".into(), candidate(Tracked::No));
    observed.moves.candidates.extend(nested.map(|nested| ("code/tripit".to_owned(), nested)));
    observed
}

fn plan(observed: &HomeObserved) -> Plan {
    home(&user("alice"), &wanted(true), observed)
}

#[test]
fn a_clone_becomes_a_workspace_and_what_lies_in_it_takes_its_place() {
    let whole = plan(&single(Some(candidate(Tracked::No))));
    insta::assert_snapshot!(shown(&whole), @"
    alice: move the clone ~/code to ~/code/infra
    alice: move the clone ~/code/infra/tripit to ~/code/tripit
    ");
    assert_eq!(whole.steps[1].needs, [0]);
    assert!(whole.steps.iter().all(|step| step.inverse.is_some()));

    let without = plan(&single(None));
    insta::assert_snapshot!(shown(&without), @"
    alice: move the clone ~/code to ~/code/infra
    alice: clone https://git.example.org/tripit.git to ~/code/tripit
    ");
    assert_eq!(without.steps[1].needs, [0], "there is no folder for it before");
}

#[test]
fn what_the_infra_repository_holds_never_moves_invariant_1() {
    insta::assert_snapshot!(shown(&plan(&single(Some(candidate(Tracked::Yes))))), @"
    alice: move the clone ~/code to ~/code/infra
    alice: clone https://git.example.org/tripit.git to ~/code/tripit
    ");
    let mut workspace = seen(Place::Folder, &[("code/infra", a_clone())]);
    workspace.moves.candidates.insert("code/infra/tripit".into(), candidate(Tracked::Yes));
    insta::assert_snapshot!(shown(&plan(&workspace)), @"alice: clone https://git.example.org/tripit.git to ~/code/tripit");
    // Where it cannot be told, nothing moves, and nothing is cloned in its place.
    workspace
        .moves
        .candidates
        .insert("code/infra/tripit".into(), candidate(Tracked::Unknown("it has no index".into())));
    insta::assert_snapshot!(shown(&plan(&workspace)), @"- alice: ~/code/infra/tripit stays where it is: whether the infra repository holds it cannot be told (it has no index)");
}

#[test]
fn a_nested_clone_of_a_workspace_moves_to_a_free_place_only_invariant_1() {
    let mut observed = seen(Place::Folder, &[("code/infra", a_clone())]);
    observed.moves.candidates.insert("code/infra/tripit".into(), candidate(Tracked::No));
    insta::assert_snapshot!(shown(&plan(&observed)), @"alice: move the clone ~/code/infra/tripit to ~/code/tripit");
    observed.clones.insert("code/tripit".into(), Place::Folder);
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    - alice: ~/code/infra/tripit is a clone as well as ~/code/tripit; both are left alone
    - alice: ~/code/tripit is a folder, not a clone of https://git.example.org/tripit.git; it is left alone
    ");
}

#[test]
fn what_would_not_survive_keeps_a_clone_in_its_place() {
    let mut observed = single(Some(candidate(Tracked::No)));
    let code = observed.moves.candidates.get_mut("code").unwrap();
    code.obstacles = vec!["its core.worktree says where its files are".into()];
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    - alice: ~/code does not move to ~/code/infra by itself: its core.worktree says where its files are
    - alice: ~/code is a clone and the roster says `code_layout: workspace`; it stays as it is until its person has moved it
    - alice: not cloned, for ~/code is no plain folder: ~/code/infra, ~/code/tripit
    ");
    let mut observed = single(Some(candidate(Tracked::No)));
    observed.moves.candidates.get_mut("code").unwrap().remarks = vec!["a worktree is elsewhere".into()];
    observed.moves.candidates.get_mut("code/tripit").unwrap().obstacles = vec!["it borrows objects".into()];
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    alice: move the clone ~/code to ~/code/infra
    - alice: a worktree is elsewhere
    - alice: ~/code/tripit does not move to ~/code/tripit by itself: it borrows objects
    ");
}

#[test]
fn an_interrupted_move_is_brought_on_and_nothing_is_cloned_in_its_place_invariant_5() {
    // After the exchange.
    let mut observed = seen(Place::EmptyFolder, &[]);
    observed.moves.on_the_way.insert(HIDDEN.into(), a_clone());
    let nested = format!("{HIDDEN}/tripit");
    observed.moves.candidates.insert(nested, candidate(Tracked::No));
    let resumed = plan(&observed);
    insta::assert_snapshot!(shown(&resumed), @"
    alice: move the clone ~/code to ~/code/infra
    alice: move the clone ~/code/infra/tripit to ~/code/tripit
    ");
    assert_eq!(resumed.steps[0].action, Action::Home(HomeAction::Move(Move::infra())));
    assert_eq!(resumed.steps[1].needs, [0]);
    // The same when the roster has gone back to `single` meanwhile: a clone is never left on its way.
    let back = home(&user("alice"), &wanted(false), &observed);
    insta::assert_snapshot!(shown(&back), @"
    alice: move the clone ~/code to ~/code/infra
    - alice: ~/code is a workspace and the roster says `code_layout: single`; nothing is moved back by itself. Say `workspace` in the roster, or let the person move ~/code/infra to ~/code
    ");

    // Before it: the empty folder is of use when the move begins again, and of none otherwise.
    let mut observed = single(None);
    observed.moves.on_the_way.insert(HIDDEN.into(), Place::EmptyFolder);
    assert_eq!(shown(&plan(&observed)), shown(&plan(&single(None))));
    observed.code = Place::Folder;
    observed.clones.insert("code/infra".into(), a_clone());
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    alice: remove the empty folder ~/.code.rosterd-moving
    alice: clone https://git.example.org/tripit.git to ~/code/tripit
    ");

    let mut observed = seen(Place::Folder, &[("code/infra", a_clone())]);
    observed.moves.on_the_way.insert(TRIPIT_HIDDEN.into(), a_clone());
    insta::assert_snapshot!(shown(&plan(&observed)), @"alice: move the clone ~/code/infra/tripit to ~/code/tripit");
}

#[test]
fn what_is_on_its_way_stays_where_its_place_is_taken() {
    let mut observed = seen(Place::Folder, &[("code/infra", Place::Folder)]);
    observed.moves.on_the_way.insert(HIDDEN.into(), a_clone());
    observed.moves.on_the_way.insert(TRIPIT_HIDDEN.into(), Place::Other("a FIFO".into()));
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    ! alice: ~/.code.rosterd-moving, which was on its way to ~/code/infra, stays where it is: something is at ~/code/infra by now; let alice look into ~/.code.rosterd-moving and move one of the two away
    ! alice: ~/code/.tripit.rosterd-moving, which was on its way to ~/code/tripit, stays where it is: it is no clone; let alice look into ~/code/.tripit.rosterd-moving and move one of the two away
    ");
}

#[test]
fn a_workspace_is_never_moved_back_invariant_1() {
    let mut observed = seen(Place::Folder, &[]);
    observed.clones.clear();
    observed.moves.infra = a_clone();
    insta::assert_snapshot!(shown(&home(&user("alice"), &wanted(false), &observed)), @"- alice: ~/code is a workspace and the roster says `code_layout: single`; nothing is moved back by itself. Say `workspace` in the roster, or let the person move ~/code/infra to ~/code");
}

#[test]
fn a_worker_that_does_not_say_what_is_in_a_clone_moves_nothing_invariant_8() {
    let observed = seen(a_clone(), &[]);
    insta::assert_snapshot!(shown(&plan(&observed)), @"
    ! alice: ~/code cannot be moved: the worker did not say what is in it; this is an error in rosterd; please report it
    - alice: ~/code is a clone and the roster says `code_layout: workspace`; it stays as it is until its person has moved it
    - alice: not cloned, for ~/code is no plain folder: ~/code/infra, ~/code/tripit
    ");
}
