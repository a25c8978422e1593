//! Plans for a home.

use roster::desired::{CloneDesired, HomeDesired};
use roster::observed::{HomeObserved, Place};
use roster::plan::{Action, HomeAction, home};

use crate::machine::{shown, user};

fn wanted(workspace: bool, paths: &[&str]) -> HomeDesired {
    let clone = |path: &&str| CloneDesired {
        path: (*path).into(),
        url: format!("https://git.example.org/{}.git", path.rsplit('/').next().unwrap()),
        locked: matches!(*path, "code" | "code/infra"),
    };
    HomeDesired { workspace, clones: paths.iter().map(clone).collect(), ..HomeDesired::default() }
}

fn seen(code: Place, clones: &[(&str, Place)]) -> HomeObserved {
    let clones = clones.iter().map(|(path, place)| ((*path).into(), place.clone())).collect();
    HomeObserved { code, clones, ..HomeObserved::default() }
}

fn clone_of(url: &str) -> Place {
    Place::Clone { origin: Some(url.into()), locked: true }
}

#[test]
fn an_empty_home_gets_its_workspace_and_the_clones_wait_for_the_folder() {
    let wanted = wanted(true, &["code/infra", "code/tripit"]);
    let mut observed = seen(Place::Absent, &[("code/infra", Place::Absent), ("code/tripit", Place::Absent)]);
    observed.unfinished = vec![".code.rosterd-unfinished".into()];
    let plan = home(&user("alice"), &wanted, &observed);
    insta::assert_snapshot!(shown(&plan), @"
    alice: remove the unfinished clone ~/.code.rosterd-unfinished
    alice: make folder ~/code
    alice: clone https://git.example.org/infra.git to ~/code/infra, locked
    alice: clone https://git.example.org/tripit.git to ~/code/tripit
    ");
    for step in &plan.steps[2..] {
        let needed = &plan.steps[step.needs[0]].action;
        assert_eq!(*needed, Action::Home(HomeAction::MakeFolder { path: "code".into() }));
    }
}

#[test]
fn a_home_with_all_its_clones_needs_nothing() {
    let wanted = wanted(true, &["code/infra", "code/tripit"]);
    let observed = seen(
        Place::Folder,
        &[
            ("code/infra", clone_of("https://git.example.org/infra")),
            ("code/tripit", clone_of("https://alice:pw@git.example.org/tripit.git/")),
        ],
    );
    assert_eq!(shown(&home(&user("alice"), &wanted, &observed)), "");
}

#[test]
fn what_stands_in_the_place_of_a_single_clone_is_left_alone_and_told_invariant_1() {
    let wanted = wanted(false, &["code"]);
    let tell = |place| shown(&home(&user("alice"), &wanted, &seen(place, &[])));
    let all = [
        tell(Place::Absent),
        tell(clone_of("https://git.example.org/code.git")),
        tell(clone_of("https://alice:pw@elsewhere.example.org/code.git")),
        tell(Place::Clone { origin: None, locked: false }),
        tell(Place::EmptyFolder),
        tell(Place::Folder),
        tell(Place::Other("a symlink".into())),
        tell(Place::Unreadable("permission denied".into())),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: clone https://git.example.org/code.git to ~/code, locked
    --
    --
    - alice: ~/code is a clone of https://elsewhere.example.org/code.git, not of https://git.example.org/code.git; it is left alone. If that is the same repository at its new address: git -C ~/code remote set-url origin https://git.example.org/code.git; if not, move ~/code away, and https://git.example.org/code.git is cloned there
    --
    - alice: ~/code is a git repository without an `origin`; it is left alone
    --
    - alice: ~/code is an empty folder that rosterd did not make; it is left alone. Without it, https://git.example.org/code.git is cloned there
    --
    - alice: ~/code is a folder, not a clone of https://git.example.org/code.git; it is left alone
    --
    - alice: ~/code is a symlink, not a clone of https://git.example.org/code.git; it is left alone
    --
    ! alice: ~/code cannot be looked at: permission denied; see to it that alice can read ~/code
    ");
}

#[test]
fn a_workspace_whose_folder_is_taken_gets_no_clones_invariant_1() {
    let wanted = wanted(true, &["code/infra", "code/tripit"]);
    let tell = |place| shown(&home(&user("alice"), &wanted, &seen(place, &[("code/infra", Place::Absent)])));
    let all = [
        tell(clone_of("https://git.example.org/elsewhere.git")),
        tell(Place::Other("a file".into())),
        tell(Place::Unreadable("permission denied".into())),
        // The worker did not answer for one of the clones: nothing is concluded from that (invariant 8).
        tell(Place::EmptyFolder),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    - alice: ~/code is a clone and the roster says `code_layout: workspace`; it stays as it is until its person has moved it
    - alice: not cloned, for ~/code is no plain folder: ~/code/infra, ~/code/tripit
    --
    - alice: ~/code is a file, not a folder; it is left alone
    - alice: not cloned, for ~/code is no plain folder: ~/code/infra, ~/code/tripit
    --
    ! alice: ~/code cannot be looked at: permission denied; see to it that alice can read ~/code
    --
    alice: clone https://git.example.org/infra.git to ~/code/infra, locked
    ! alice: ~/code/tripit cannot be looked at: the worker did not answer for it; see to it that alice can read ~/code/tripit
    ");
}

#[test]
fn a_workspace_without_clones_is_a_folder() {
    let tell = |place| shown(&home(&user("alice"), &wanted(true, &[]), &seen(place, &[])));
    assert_eq!(tell(Place::Absent), "alice: make folder ~/code\n");
    assert_eq!(tell(Place::Folder), "");
}
