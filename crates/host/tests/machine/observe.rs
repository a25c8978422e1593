//! What the machine shows.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::ObserveError;
use roster::config::Config;
use roster::model::Roster;
use roster::name::Shell;
use roster::observed::{EnvFileState, FileState, HomeFolder};

use crate::tree::{Tree, account, can_run, create, plan, user};

fn roster(names: &[&str]) -> Roster {
    let users: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .map(|name| {
            let person = serde_json::json!({ "authentik_user": name, "k8s_user": name, "tier": "admin" });
            (name.to_string(), person)
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "users": users })).unwrap()
}

#[test]
fn everything_is_seen_as_it_is() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    tree.apply(&plan(vec![create(account("alice", 1000, &["sudo"]))]));
    fs::create_dir(tree.path("etc/t3-serve")).unwrap();
    tree.write("etc/t3-serve/alice.env", "TOKEN=s3cret\nT3_PORT=3780\n", 0o640, 0);
    tree.write("etc/ttyd-user-map", "alice=alice\n", 0o644, 0);
    symlink("ttyd-user-map", tree.path("etc/ttyd-admins")).unwrap();
    symlink("/home/alice", tree.path("home/carol")).unwrap();
    fs::create_dir(tree.path("home/dora")).unwrap();
    std::os::unix::fs::chown(tree.path("home/dora"), Some(4711), None).unwrap();
    let config = Config::default();
    let observed = tree.host().observe(&roster(&["alice", "bob", "carol", "dora"]), &config).unwrap();

    assert_eq!(observed.accounts["alice"].uid, 1000);
    assert!(observed.groups["sudo"].members.contains("alice"));
    assert_eq!(observed.subuids[0].owner, "alice");
    assert_eq!(observed.limits.sub_uid_count, 65_536);
    assert!(observed.directory_services.is_empty() && observed.foreign_accounts.is_empty());
    assert_eq!(observed.shells, BTreeSet::from([Shell::new("/bin/zsh").unwrap()]));
    assert_eq!(observed.homes[&user("alice")], HomeFolder::Folder { uid: 1000, mode: 0o700 });
    assert_eq!(observed.homes[&user("bob")], HomeFolder::Absent);
    assert_eq!(observed.homes[&user("carol")], HomeFolder::Other("a symbolic link".into()));
    assert!(matches!(observed.homes[&user("dora")], HomeFolder::Folder { uid: 4711, .. }));
    let map = FileState::Present { content: b"alice=alice\n".to_vec(), mode: 0o644 };
    assert_eq!(observed.files[Path::new("/etc/ttyd-user-map")], map);
    assert_eq!(
        observed.files[Path::new("/etc/ttyd-admins")],
        FileState::Unreadable("it is a symbolic link".into())
    );
    assert_eq!(observed.files[Path::new("/etc/claude-code/managed-settings.json")], FileState::Absent);
    let EnvFileState::Present { ports, mode } = &observed.env_files[Path::new("/etc/t3-serve/alice.env")]
    else {
        panic!("{:?}", observed.env_files)
    };
    assert_eq!((ports["T3_PORT"].as_str(), *mode), ("3780", 0o640));
    assert_eq!(observed.env_files[Path::new("/etc/playwright-mcp/bob.env")], EnvFileState::Absent);
    assert!(!format!("{observed:?}").contains("s3cret"), "invariant 7");
}

#[test]
fn invariant_3_root_does_not_look_below_a_home_for_a_file_of_ours() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    tree.apply(&plan(vec![create(account("alice", 1000, &[]))]));
    fs::write(tree.path("home/alice/settings.json"), "{}").unwrap();
    let mut config = Config::default();
    config.claude.managed_settings_source = Some(PathBuf::from("/home/alice/settings.json"));
    let observed = tree.host().observe(&roster(&["alice"]), &config).unwrap();
    let Some(FileState::Unreadable(why)) = observed.managed_settings_source else { panic!() };
    assert_eq!(why, "/home/alice belongs to uid 1000, who could exchange what root is about to use");
}

#[test]
fn invariant_8_a_failed_read_is_no_empty_answer() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    tree.write("etc/passwd", "", 0o644, 0);
    let error = tree.host().observe(&roster(&["alice"]), &Config::default()).unwrap_err();
    assert!(matches!(error, ObserveError::Empty { .. }), "{error}");
    let tree = Tree::new();
    fs::remove_file(tree.path("etc/group")).unwrap();
    fs::create_dir(tree.path("etc/group")).unwrap();
    let error = tree.host().observe(&roster(&["alice"]), &Config::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /etc/group: it is a folder");
    let tree = Tree::new();
    fs::remove_file(tree.path("etc/subuid")).unwrap();
    let observed = tree.host().observe(&roster(&["alice"]), &Config::default()).unwrap();
    assert_eq!(observed.limits.sub_uid_count, 0, "as useradd: no file, no subordinate ids");
}

#[test]
fn a_directory_is_noticed_and_asked_only_for_names_that_are_not_local() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    tree.apply(&plan(vec![create(account("alice", 1000, &[]))]));
    tree.write("etc/nsswitch.conf", "passwd: files sss\n", 0o644, 0);
    let observed = tree.host().observe(&roster(&["alice", "nosuchuser"]), &Config::default()).unwrap();
    assert_eq!(observed.directory_services, ["sss"]);
    assert!(observed.foreign_accounts.is_empty());
}

#[test]
fn a_thousand_people_are_observed_in_a_moment() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let names: Vec<String> = (0..1000).map(|number| format!("dev{number}")).collect();
    let steps = names.iter().zip(1000..).map(|(name, id)| create(account(name, id, &["sudo"]))).collect();
    let began = Instant::now();
    assert!(tree.apply(&plan(steps)).iter().all(|result| *result == Some(roster::report::StepResult::Done)));
    let creating = began.elapsed();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let roster = roster(&names);
    let began = Instant::now();
    let observed = tree.host().observe(&roster, &Config::default()).unwrap();
    println!("created in {creating:?}, observed in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(500));
    assert_eq!(
        observed.homes.values().filter(|home| matches!(home, HomeFolder::Folder { mode: 0o700, .. })).count(),
        1000
    );
}
