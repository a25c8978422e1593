//! Plans for the refresh of clones.

use std::collections::BTreeMap;

use proptest::prelude::*;
use roster::desired::{CloneDesired, HomeDesired};
use roster::name::{ObjectId, RefName};
use roster::plan::refresh::{self, States, Way};
use roster::plan::{Action, HomeAction, Plan, Subject};
use roster::remote::{
    Answer, Asked, CloneState, FastForward, Refs, Relation, Remote, RemoteRefs, Remotes, Side, Standing,
};

use crate::machine::{shown, user};

const URL: &str = "https://git.example.org/infra.git";

fn id(number: u8) -> ObjectId {
    ObjectId::new(format!("{number:040x}")).unwrap()
}

fn branch(name: &str) -> RefName {
    RefName::new(name).unwrap()
}

fn refs(branches: &[(&str, u8)]) -> Refs {
    branches.iter().map(|(name, number)| (branch(name), id(*number))).collect()
}

fn desired() -> HomeDesired {
    let clone = CloneDesired { path: "code".into(), url: URL.into(), locked: true };
    HomeDesired { clones: vec![clone], ..HomeDesired::default() }
}

fn answered(branches: &[(&str, u8)], head: &str) -> Remotes {
    let refs = RemoteRefs { branches: refs(branches), tags: Refs::new(), head: Some(branch(head)) };
    Remotes::from([(URL.into(), Remote { answer: Answer::Refs(refs), mirrored: true })])
}

fn failed(answer: fn(String, String) -> Answer) -> Remotes {
    let answer = answer("connection refused".into(), "tried again later by itself".into());
    Remotes::from([(URL.into(), Remote { answer, mirrored: false })])
}

/// A clone on `main`, which follows `origin/main`, with the same commit in both.
fn clone_at(local: u8, tracking: &[(&str, u8)]) -> CloneState {
    CloneState {
        head: Some(branch("main")),
        upstream: Some(("origin".into(), branch("main"))),
        branches: refs(&[("main", local)]),
        remotes: BTreeMap::from([(
            "origin".into(),
            Side { url: URL.into(), whole: true, head: Some(branch("main")), branches: refs(tracking) },
        )]),
        ..CloneState::default()
    }
}

fn states(state: CloneState) -> States {
    States::from([("code".into(), state)])
}

fn fetches(state: CloneState, remotes: &Remotes) -> Plan {
    refresh::fetches(&user("ann"), &desired(), &states(state), remotes)
}

fn behind(state: CloneState, remotes: &Remotes) -> (Vec<FastForward>, String) {
    let (branches, plan) = refresh::behind(&user("ann"), &desired(), &states(state), remotes);
    (branches, shown(&plan))
}

#[test]
fn only_what_has_moved_is_fetched() {
    let remotes = answered(&[("main", 2), ("new", 3), ("same", 4)], "main");
    let plan = fetches(clone_at(1, &[("main", 1), ("same", 4), ("gone", 5)]), &remotes);
    insta::assert_snapshot!(shown(&plan), @"ann: fetch https://git.example.org/infra.git into ~/code: main new +1 gone");
    let Action::Home(HomeAction::Fetch(fetch)) = &plan.steps[0].action else { panic!("{plan:?}") };
    assert_eq!((&fetch.moved, &fetch.gone), (&refs(&[("main", 2), ("new", 3)]), &vec![branch("gone")]));
    assert!(fetch.mirrored);
    let same = [("main", 2), ("new", 3), ("same", 4)];
    assert_eq!(fetches(clone_at(2, &same), &remotes), Plan::default());
}

#[test]
fn a_remote_that_did_not_answer_moves_nothing_invariant_8() {
    let state = || clone_at(1, &[("main", 1), ("topic", 2)]);
    let silent = failed(|why, next| Answer::Failed { why, next });
    let hidden = failed(|why, next| Answer::WantsLogin { why, next });
    let empty = answered(&[], "main");
    let all = [&Remotes::new(), &silent, &hidden, &empty].map(|remotes| shown(&fetches(state(), remotes)));
    insta::assert_snapshot!(all.join("--\n"), @"
    --
    --
    - ann: ~/code is not refreshed: connection refused; tried again later by itself
    --
    - ann: https://git.example.org/infra.git says that it has no branches any more; ~/code keeps those it has
    ");
    insta::assert_snapshot!(shown(&refresh::not_asked(&Subject::Machine, URL, &silent[URL].answer)), @"
    - machine: https://git.example.org/infra.git cannot be read (connection refused); clones of it stay as they are until it can
    ");
}

#[test]
fn a_clone_that_is_more_than_plain_is_left_to_its_person_invariant_1() {
    let remotes = answered(&[("main", 2)], "main");
    let unfit = CloneState { unfit: Some("a shallow clone".into()), ..CloneState::default() };
    let mut narrow = clone_at(1, &[("main", 1)]);
    narrow.remotes.get_mut("origin").unwrap().whole = false;
    let mut elsewhere = clone_at(1, &[("main", 1)]);
    elsewhere.remotes.get_mut("origin").unwrap().url = "https://elsewhere.example.org/infra.git".into();
    let all = [unfit, narrow, elsewhere].map(|state| shown(&fetches(state, &remotes)));
    insta::assert_snapshot!(all.join("--\n"), @"
    - ann: ~/code is a shallow clone; it is not refreshed, its person does that
    --
    - ann: ~/code has its own idea of what `origin` fetches; it is not refreshed, its person does that
    --
    ");
}

#[test]
fn what_was_interrupted_is_finished_first() {
    let state = CloneState { unfinished: true, ..clone_at(1, &[("main", 1)]) };
    insta::assert_snapshot!(shown(&fetches(state, &answered(&[("main", 2)], "main"))), @"
    ann: finish the refresh of ~/code
    ann: fetch https://git.example.org/infra.git into ~/code: main
    ");
}

#[test]
fn a_branch_goes_forward_only_from_the_plain_state_and_the_rest_is_told() {
    let remotes = answered(&[("main", 2)], "main");
    let state = || clone_at(1, &[("main", 2)]);
    let (branches, told) = behind(state(), &remotes);
    assert_eq!(told, "");
    let forward = FastForward { path: "code".into(), branch: branch("main"), from: id(1), to: id(2) };
    assert_eq!(branches, [forward]);
    assert_eq!(behind(clone_at(2, &[("main", 2)]), &remotes), (vec![], String::new()), "it is there");

    let all = [
        CloneState { head: None, upstream: None, ..state() },
        CloneState { head: Some(branch("topic")), upstream: None, ..state() },
        CloneState { upstream: None, ..state() },
        CloneState { busy: Some("a rebase".into()), head: None, ..state() },
        CloneState { upstream: Some(("origin".into(), branch("stable"))), ..state() },
        // A remote that the person added is theirs.
        CloneState { upstream: Some(("fork".into(), branch("main"))), ..state() },
        // The remote's default branch has another name now.
        CloneState { head: Some(branch("master")), branches: refs(&[("master", 1)]), ..state() },
    ]
    .map(|state| {
        let (branches, told) = behind(state, &remotes);
        assert_eq!(branches, []);
        told
    });
    insta::assert_snapshot!(all.join("--\n"), @"
    - ann: ~/code does not follow its remote: no branch is checked out (detached head)
    --
    - ann: ~/code does not follow its remote: `topic` is checked out, not the default branch `main`
    --
    - ann: ~/code does not follow its remote: `main` has no upstream; `git branch --set-upstream-to=origin/main main` sets it
    --
    - ann: ~/code does not follow its remote: its person is in the middle of a rebase
    --
    - ann: ~/code does not follow its remote: `main` follows `origin/stable`, not the default branch; `git branch --set-upstream-to=origin/main main` changes that
    --
    --
    - ann: ~/code does not follow its remote: `master` is checked out, and the default branch of the remote is `main`; `git switch main` goes over to it
    ");
    // Without an answer, what was fetched last still counts.
    let silent = failed(|why, next| Answer::Failed { why, next });
    assert_eq!(behind(state(), &silent).0.len(), 1);
}

#[test]
fn a_closer_look_decides() {
    let forward =
        |path: &str| FastForward { path: path.into(), branch: branch("main"), from: id(1), to: id(2) };
    let standing = |relation, dirty, obstacle: Option<&str>| Standing {
        relation,
        dirty,
        obstacle: obstacle.map(Into::into),
        plain: Vec::new(),
    };
    let plain = vec!["secrets/old".to_owned(), "secrets/older".to_owned()];
    let plan = refresh::fast_forwards(
        &user("ann"),
        &[
            (forward("a"), standing(Relation::Behind, false, None)),
            (forward("b"), standing(Relation::Ahead, true, None)),
            (forward("c"), standing(Relation::Diverged, false, None)),
            (forward("d"), standing(Relation::Behind, true, None)),
            (forward("e"), standing(Relation::Behind, false, Some("x is in the way, which is not in git"))),
            (forward("f"), Standing { plain, ..standing(Relation::Behind, false, None) }),
        ],
    );
    insta::assert_snapshot!(shown(&plan), @"
    ann: fast-forward main in ~/a to 000000000000
    ann: fast-forward main in ~/f to 000000000000
    - ann: ~/c does not follow its remote: `main` has commits that its upstream does not have, and lacks some that it has
    - ann: ~/d does not follow its remote: there are changes that are not committed
    - ann: ~/e does not follow its remote: x is in the way, which is not in git
    - ann: ~/f gets in plain text what its attributes say is encrypted: secrets/old, secrets/older. Whoever has the key can encrypt it (`git-crypt status -f`), and what was a secret needs a new one
    ");
}

#[test]
fn a_clone_comes_from_the_mirror_the_server_or_not_now() {
    let clone = HomeAction::Clone(desired().clones[0].clone());
    let way = |remotes: &Remotes| refresh::way(&clone, remotes);
    assert!(matches!(way(&answered(&[("main", 1)], "main")), Way::Mirror(_)));
    let mut not_mirrored = answered(&[("main", 1)], "main");
    not_mirrored.get_mut(URL).unwrap().mirrored = false;
    for remotes in [
        not_mirrored,
        Remotes::new(),
        answered(&[], "main"),
        answered(&[("main", 1)], "gone"),
        failed(|why, next| Answer::WantsLogin { why, next }),
    ] {
        assert_eq!(way(&remotes), Way::Server, "{remotes:?}");
    }
    let silent = failed(|why, next| Answer::Failed { why, next });
    let Way::NotNow { why, .. } = way(&silent) else { panic!("it is asked again") };
    assert_eq!(why, "connection refused");
    assert_eq!(refresh::way(&HomeAction::MakeFolder { path: "code".into() }, &silent), Way::Server);
}

#[test]
fn a_mirror_is_fetched_when_it_lacks_something() {
    let asked = |answer, not_mirrored| shown(&refresh::mirror(URL, &Asked { answer, not_mirrored }));
    let refs = || Answer::Refs(RemoteRefs::default());
    assert_eq!(asked(refs(), 0), "");
    assert_eq!(asked(refs(), 2), "machine: fetch https://git.example.org/infra.git into the mirror\n");
    assert_eq!(asked(Answer::Failed { why: String::new(), next: String::new() }, 2), "");
}

fn any_refs() -> impl Strategy<Value = Refs> {
    let names = prop::sample::select(vec!["main", "a", "b", "c/d"]);
    prop::collection::btree_map(names, 1u8..6, 0..4)
        .prop_map(|refs| refs.into_iter().map(|(name, number)| (branch(name), id(number))).collect())
}

proptest! {
    #[test]
    fn after_a_fetch_the_clone_knows_the_remote_and_nothing_is_left_to_fetch_invariant_9(
        remote in any_refs(),
        tracking in any_refs(),
        tags in any_refs(),
    ) {
        prop_assume!(!remote.is_empty());
        let mut state = clone_at(1, &[]);
        state.remotes.get_mut("origin").unwrap().branches = tracking;
        let refs = RemoteRefs { branches: remote.clone(), tags, head: Some(branch("main")) };
        let remotes = Remotes::from([(URL.into(), Remote { answer: Answer::Refs(refs), mirrored: true })]);
        for step in fetches(state.clone(), &remotes).steps {
            let Action::Home(HomeAction::Fetch(fetch)) = step.action else { panic!("{step}") };
            let side = state.remotes.get_mut("origin").unwrap();
            for gone in &fetch.gone {
                prop_assert!(side.branches.remove(gone).is_some() && !remote.contains_key(gone));
            }
            side.branches.extend(fetch.moved);
            for (tag, _) in fetch.tags {
                prop_assert!(state.tags.insert(tag), "a tag of the person's is never replaced");
            }
        }
        prop_assert_eq!(&state.remotes["origin"].branches, &remote);
        prop_assert_eq!(fetches(state, &remotes), Plan::default());
    }
}
