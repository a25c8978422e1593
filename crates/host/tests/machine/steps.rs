//! The walk through a plan.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use roster::name::GroupName;
use roster::plan::{Action, Subject, WholeFile};
use roster::report::StepResult;

use crate::tree::{Tree, account, can_run, create, plan, step, user, why};

fn write(path: &str, content: &str) -> Action {
    Action::WriteFile(WholeFile { path: path.into(), content: content.into(), mode: 0o644 })
}

#[test]
fn every_step_of_ours_is_done_and_reported_once_and_others_are_left_to_the_caller() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let alice = account("alice", 1000, &[]);
    let steps = vec![
        step(Subject::User(user("zoe")), Action::Cut, &[]),
        create(alice.clone()),
        step(Subject::Machine, write("/etc/ttyd-user-map", "alice.doe=alice\n"), &[0, 1]),
        step(
            Subject::User(user("alice")),
            Action::SetEnvKeys {
                path: "/etc/t3-serve/alice.env".into(),
                keys: BTreeMap::from([("T3_PORT".into(), "3773".into())]),
            },
            &[1],
        ),
        step(
            Subject::User(user("alice")),
            Action::AddToGroup { user: user("alice"), group: GroupName::new("docker").unwrap() },
            &[2],
        ),
    ];
    let results = tree.apply(&plan(steps));
    assert_eq!(results[0], None);
    assert_eq!(results[1..], vec![Some(StepResult::Done); 4]);
    assert_eq!(tree.read("etc/ttyd-user-map"), "alice.doe=alice\n");
    assert_eq!(tree.read("etc/t3-serve/alice.env"), "T3_PORT=3773\n");
    let mode = |path: &str| fs::metadata(tree.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("etc/t3-serve"), 0o755);
    assert_eq!(mode("etc/t3-serve/alice.env"), 0o600);
    assert!(tree.read("etc/group").contains("docker:x:998:alice\n"));
}

#[test]
fn a_home_that_was_lost_is_made_again() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let alice = account("alice", 1000, &[]);
    tree.apply(&plan(vec![create(alice.clone())]));
    let before = tree.picture("home");
    fs::remove_dir_all(tree.path("home/alice")).unwrap();
    let again = step(Subject::User(user("alice")), Action::CreateHome(alice.home), &[]);
    assert_eq!(tree.apply(&plan(vec![again.clone()])), [Some(StepResult::Done)]);
    assert_eq!(tree.picture("home"), before);
    let results = tree.apply(&plan(vec![again]));
    assert_eq!(why(&results[0]), "/home/alice is there already: a folder, owned by uid 1000");
}

#[test]
fn a_stop_finishes_the_step_in_hand_and_skips_the_rest() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("etc")).unwrap();
    let steps = (0..3).map(|n| step(Subject::Machine, write(&format!("/etc/file{n}"), "x"), &[])).collect();
    let stop = AtomicBool::new(false);
    let mut results = Vec::new();
    host::Host::at(tree.path()).apply(&plan(steps), &stop, &mut |index, result, _| {
        stop.store(true, Ordering::Relaxed);
        results.push((index, result));
    });
    let skipped = StepResult::Skipped { why: "rosterd was told to stop; the next run does it".into() };
    assert_eq!(results, [(0, StepResult::Done), (1, skipped.clone()), (2, skipped)]);
    assert!(!tree.path().join("etc/file1").exists());
}

#[test]
fn invariant_4_a_failed_step_stops_only_what_needs_it() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("etc/open")).unwrap();
    fs::set_permissions(tree.path().join("etc/open"), fs::Permissions::from_mode(0o777)).unwrap();
    let steps = vec![
        step(Subject::Machine, write("/etc/open/map", "x"), &[]),
        step(Subject::Machine, write("/etc/map", "x"), &[0]),
        step(Subject::Machine, write("/etc/dispatch", "x"), &[]),
    ];
    let results = crate::tree::apply(&host::Host::at(tree.path()), &plan(steps));
    assert_eq!(
        why(&results[0]),
        "/etc/open may be written by others (mode 0777), who could exchange what root is about to use"
    );
    assert_eq!(why(&results[1]), "it needs write-file of machine, which was not done");
    assert_eq!(results[2], Some(StepResult::Done));
}

#[test]
fn a_thousand_environment_files_are_written_together_and_one_file_twice_in_turn() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("etc")).unwrap();
    let set = |path: String, key: &str, value: usize| {
        let keys = BTreeMap::from([(key.to_string(), value.to_string())]);
        step(Subject::Machine, Action::SetEnvKeys { path: path.into(), keys }, &[])
    };
    let mut steps: Vec<_> = (0..1000).map(|n| set(format!("/etc/env/{n}.env"), "PORT", n)).collect();
    steps.push(set("/etc/env/7.env".into(), "OTHER", 1));
    let began = std::time::Instant::now();
    let results = crate::tree::apply(&host::Host::at(tree.path()), &plan(steps));
    println!("written in {:?}", began.elapsed());
    assert_eq!(results, vec![Some(StepResult::Done); 1001]);
    assert_eq!(fs::read_to_string(tree.path().join("etc/env/7.env")).unwrap(), "PORT=7\nOTHER=1\n");
    assert_eq!(fs::read_dir(tree.path().join("etc/env")).unwrap().count(), 1000);
}
