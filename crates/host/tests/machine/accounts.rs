//! Accounts as `useradd` makes them, and beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use roster::name::GroupName;
use roster::observed::LoginState;
use roster::plan::{Action, Subject};
use roster::report::StepResult;

use crate::tree::{Mount, Tree, account, can_run, create, plan, step, user, why};

const FILES: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];

#[test]
fn an_account_is_what_useradd_makes_to_the_byte() {
    if !can_run() {
        return;
    }
    let (theirs, ours) = (Tree::new(), Tree::new());
    // Without it, useradd ends in the middle of the skeleton, and says nothing.
    let Some(_proc) = Mount::proc(theirs.path("proc")) else { return };
    // The same skeleton, to the times of its links.
    fs::remove_dir_all(ours.path("etc/skel")).unwrap();
    let copied =
        Command::new("cp").arg("-a").arg(theirs.path("etc/skel")).arg(ours.path("etc")).status().unwrap();
    assert!(copied.success());
    for (name, groups) in [("alice", "sudo,docker"), ("bob", "sudo"), ("carol", "")] {
        let mut arguments = vec!["-m", "-p", "!", "-s", "/bin/zsh", name];
        if !groups.is_empty() {
            arguments.extend(["-G", groups]);
        }
        let output = theirs.shadow("useradd", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let steps = vec![
        create(account("alice", 1000, &["sudo", "docker"])),
        create(account("bob", 1001, &["sudo"])),
        create(account("carol", 1002, &[])),
    ];
    assert_eq!(ours.apply(&plan(steps)), vec![Some(StepResult::Done); 3]);
    let date = |tree: &Tree| tree.read("etc/shadow").split(':').nth(10).unwrap().to_string();
    if date(&theirs) != date(&ours) {
        return; // Midnight has passed between the two.
    }
    for file in FILES {
        let path = format!("etc/{file}");
        assert_eq!(ours.picture(&path), theirs.picture(&path));
    }
    assert_eq!(ours.picture("home"), theirs.picture("home"));
    ours.check_with_shadow();
}

/// Locked, expired and out of the group as shadow's own tools do it, and back to the byte.
#[test]
fn a_cut_is_what_usermod_and_gpasswd_make_of_it_and_a_return_takes_it_back() {
    if !can_run() {
        return;
    }
    let tree = || {
        let tree = Tree::new();
        tree.apply(&plan(vec![
            create(account("alice", 1000, &["docker"])),
            create(account("bob", 1001, &["docker"])),
        ]));
        for (user, password) in [("alice", "$6$salt$hash"), ("bob", "!")] {
            let shadow =
                tree.read("etc/shadow").replace(&format!("{user}:!:"), &format!("{user}:{password}:"));
            tree.write("etc/shadow", &shadow, 0o640, 42);
        }
        tree
    };
    let (theirs, ours) = (tree(), tree());
    let before = FILES.map(|file| ours.picture(&format!("etc/{file}")));
    for arguments in [["--lock", "--expiredate", "1", "alice"], ["--lock", "--expiredate", "1", "bob"]] {
        let output = theirs.shadow("usermod", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output =
        Command::new("gpasswd").arg("-Q").arg(theirs.root()).args(["-d", "alice", "docker"]).output();
    assert!(output.unwrap().status.success());
    let (open, locked) =
        (LoginState { locked: false, expires: None }, LoginState { locked: true, expires: None });
    let of = |name: &str, action| step(Subject::User(user(name)), action, &[]);
    let docker = || GroupName::new("docker").unwrap();
    let cut = vec![
        of("alice", Action::LockLogin { user: user("alice"), before: open }),
        of("bob", Action::LockLogin { user: user("bob"), before: locked }),
        of("alice", Action::RemoveFromGroup { user: user("alice"), group: docker() }),
    ];
    // A kill may have it done a second time.
    for _ in 0..2 {
        assert_eq!(ours.apply(&plan(cut.clone())), vec![Some(StepResult::Done); 3]);
        for file in FILES {
            let path = format!("etc/{file}");
            assert_eq!(ours.picture(&path), theirs.picture(&path));
        }
    }
    let observed = ours.host().observe(&Default::default(), &Default::default()).unwrap();
    assert_eq!(observed.logins["alice"], LoginState::CUT);
    let back = vec![
        of("alice", Action::RestoreLogin { user: user("alice"), before: open }),
        of("bob", Action::RestoreLogin { user: user("bob"), before: locked }),
        of("alice", Action::AddToGroup { user: user("alice"), group: docker() }),
    ];
    assert_eq!(ours.apply(&plan(back)), vec![Some(StepResult::Done); 3]);
    let after = FILES.map(|file| ours.picture(&format!("etc/{file}")));
    let sorted =
        |pictures: &[BTreeMap<_, String>; 6]| format!("{pictures:?}").replace("alice,bob", "bob,alice");
    assert_eq!(sorted(&after), sorted(&before));
    ours.check_with_shadow();

    // A password and a date that an admin gave meanwhile are the admin's.
    ours.apply(&plan(vec![of("alice", Action::LockLogin { user: user("alice"), before: open })]));
    let shadow = ours.read("etc/shadow").replace("!$6$salt$hash", "$6$new");
    ours.write("etc/shadow", &shadow.replace(":1:\n", ":30000:\n"), 0o640, 42);
    ours.apply(&plan(vec![of("alice", Action::RestoreLogin { user: user("alice"), before: open })]));
    let alice = ours.read("etc/shadow").lines().find(|line| line.starts_with("alice:")).unwrap().to_owned();
    assert!(alice.starts_with("alice:$6$new:") && alice.ends_with(":30000:"), "{alice}");
}

#[test]
fn shadows_copies_of_the_files_before_are_kept() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let before: Vec<_> = FILES.map(|file| tree.picture(&format!("etc/{file}")).into_values().next()).into();
    tree.apply(&plan(vec![create(account("alice", 1000, &[]))]));
    let after: Vec<_> = FILES.map(|file| tree.picture(&format!("etc/{file}-")).into_values().next()).into();
    assert_eq!(after, before);
}

#[test]
fn a_collision_is_that_accounts_failure_alone() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let steps = vec![
        create(account("alice", 1000, &[])),
        create(account("bob", 1000, &[])),
        create(account("carol", 1002, &["wheel"])),
        create(account("dora", 1003, &["sudo"])),
        step(
            Subject::User(user("dora")),
            Action::AddToGroup { user: user("dora"), group: GroupName::new("docker").unwrap() },
            &[3],
        ),
        step(
            Subject::User(user("bob")),
            Action::AddToGroup { user: user("bob"), group: GroupName::new("docker").unwrap() },
            &[1],
        ),
        step(
            Subject::User(user("alice")),
            Action::AddToGroup { user: user("alice"), group: GroupName::new("dora").unwrap() },
            &[0, 3],
        ),
        step(
            Subject::User(user("alice")),
            Action::AddToGroup { user: user("alice"), group: GroupName::new("docker").unwrap() },
            &[0, 2],
        ),
    ];
    let results = tree.apply(&plan(steps));
    assert_eq!(results[0], Some(StepResult::Done));
    assert_eq!(why(&results[1]), "uid 1000 belongs to alice since the plan was made");
    assert_eq!(why(&results[2]), "there is no group wheel any more");
    assert_eq!(results[3], Some(StepResult::Done));
    assert_eq!(results[4], Some(StepResult::Done));
    assert_eq!(why(&results[5]), "it needs create-account of bob, which was not done");
    let homes: BTreeSet<_> =
        fs::read_dir(tree.path("home")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(homes, BTreeSet::from(["alice".into(), "dora".into()]));
    assert!(tree.read("etc/group").contains("docker:x:998:dora\n"));
    tree.check_with_shadow();
}

#[test]
fn a_home_that_appeared_meanwhile_fails_that_account_and_is_left_alone() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    fs::create_dir(tree.path("home/alice")).unwrap();
    fs::write(tree.path("home/alice/theirs"), "").unwrap();
    std::os::unix::fs::chown(tree.path("home/alice"), Some(4711), Some(4711)).unwrap();
    let before = tree.picture("home/alice");
    let results =
        tree.apply(&plan(vec![create(account("alice", 1000, &[])), create(account("bob", 1001, &[]))]));
    assert_eq!(why(&results[0]), "/home/alice is there already: a folder, owned by uid 4711");
    assert_eq!(results[1], Some(StepResult::Done));
    assert_eq!(tree.picture("home/alice"), before);
    assert!(!tree.read("etc/passwd").contains("alice"));
    assert!(!tree.read("etc/shadow").contains("alice"));
    tree.check_with_shadow();
}

#[test]
fn a_home_that_a_killed_run_placed_is_used() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    fs::create_dir(tree.path("home/alice")).unwrap();
    std::os::unix::fs::chown(tree.path("home/alice"), Some(1000), Some(1000)).unwrap();
    let mut alice = account("alice", 1000, &[]);
    alice.home.exists = true;
    let mut bob = account("bob", 1001, &[]);
    bob.home.exists = true;
    let results = tree.apply(&plan(vec![create(alice), create(bob)]));
    assert_eq!(results[0], Some(StepResult::Done));
    assert!(why(&results[1]).starts_with("looking at /home/bob"), "{:?}", results[1]);
    assert_eq!(fs::read_dir(tree.path("home/alice")).unwrap().count(), 0, "root does not enter it");
}

/// shadow issue 347 and its like: nobody's line is lost while both write.
#[test]
fn lines_of_useradd_and_ours_survive_each_other() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let done = AtomicBool::new(false);
    let mut theirs = 0;
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut made = 0;
            while !done.load(Ordering::Relaxed) && made < 200 {
                let uid = (5000 + made).to_string();
                let output = tree.shadow("useradd", &["-u", &uid, "-G", "docker", &format!("theirs{made}")]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                made += 1;
            }
            made
        });
        for number in 0..40 {
            let mut account = account(&format!("ours{number}"), 1000 + number, &["docker"]);
            // useradd takes the lowest free subordinate ids, so ours are elsewhere.
            account.subuid = Some((400_000_000 + number * 65_536, 65_536));
            account.subgid = account.subuid;
            let results = tree.apply(&plan(vec![create(account)]));
            assert_eq!(results, [Some(StepResult::Done)]);
        }
        done.store(true, Ordering::Relaxed);
        theirs = beside.join().unwrap();
    });
    assert!(theirs > 0);
    let expected: BTreeSet<String> =
        (0..40).map(|n| format!("ours{n}")).chain((0..theirs).map(|n| format!("theirs{n}"))).collect();
    for file in FILES {
        let text = tree.read(&format!("etc/{file}"));
        let names: BTreeSet<String> =
            text.lines().filter_map(|line| line.split(':').next()).map(str::to_string).collect();
        assert!(expected.is_subset(&names), "{file} lost {:?}", expected.difference(&names));
    }
    let group = tree.read("etc/group");
    let docker = group.lines().find_map(|line| line.strip_prefix("docker:x:998:")).unwrap();
    assert_eq!(docker.split(',').map(str::to_string).collect::<BTreeSet<_>>(), expected);
    assert_eq!(fs::read_dir(tree.path("etc")).unwrap().filter(|e| leftover(e.as_ref().unwrap())).count(), 0);
}

fn leftover(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name().into_string().unwrap();
    name.ends_with(".lock") && name != ".pwd.lock" || name.starts_with(".rosterd")
}
