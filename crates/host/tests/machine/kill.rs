//! Invariant 5: `kill -9` at any moment, and the next run converges.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::tree::{Tree, can_run};

/// Every system call by which a change can become visible.
const CALLS: [&str; 15] = [
    "mkdirat",
    "symlinkat",
    "fchown",
    "fchownat",
    "fchmod",
    "utimensat",
    "write",
    "fdatasync",
    "fsync",
    "syncfs",
    "linkat",
    "unlinkat",
    "renameat",
    "renameat2",
    "fcntl",
];

fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/create_accounts")
}

fn run(tree: &Tree, killed_at: Option<(&str, u32)>) -> Output {
    let arguments = [tree.root().to_str().unwrap(), "3", "sudo"];
    match killed_at {
        None => Command::new(example()).args(arguments).output().unwrap(),
        Some((call, number)) => Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}")])
            .arg(example())
            .args(arguments)
            .output()
            .unwrap(),
    }
}

/// Whoever is in passwd is there with all that belongs to an account.
fn nobody_is_half_made(tree: &Tree, when: &str) {
    let names = |file: &str| -> BTreeSet<String> {
        tree.read(&format!("etc/{file}"))
            .lines()
            .filter_map(|line| line.split(':').next())
            .filter(|name| name.starts_with("dev"))
            .map(str::to_string)
            .collect()
    };
    let accounts = names("passwd");
    for file in ["shadow", "group", "gshadow", "subuid", "subgid"] {
        assert!(accounts.is_subset(&names(file)), "{when}: {file}");
    }
    for name in &accounts {
        let picture = tree.picture(&format!("home/{name}"));
        assert_eq!(picture.len(), 7, "{when}: {picture:?}");
        assert!(picture.values().next().unwrap().starts_with("40700 1"), "{when}: {picture:?}");
        let member =
            tree.read("etc/group").lines().any(|line| line.starts_with("sudo:") && line.contains(name));
        assert!(member, "{when}: {name} is not in sudo");
    }
}

#[test]
fn invariant_5_killed_at_any_call_the_next_run_converges() {
    if !can_run() || !Path::new("/usr/bin/strace").exists() {
        return println!("skipped: needs root and strace");
    }
    let undisturbed = Tree::new();
    let output = run(&undisturbed, None);
    assert!(output.status.success(), "{output:?}");
    undisturbed.check_with_shadow();
    let expected = |tree: &Tree| {
        let mut picture = tree.picture("");
        // How often the database was written is not what it says: the copies may be of a step between.
        picture.retain(|path, _| !path.to_str().unwrap().ends_with('-'));
        picture.remove(Path::new(""));
        picture
            .into_iter()
            .map(|(path, line)| (path, line.split(" of SystemTime").next().unwrap_or_default().to_string()))
            .collect::<Vec<_>>()
    };
    let whole = expected(&undisturbed);
    let mut killed = 0;
    for call in CALLS {
        for number in 1.. {
            let tree = Tree::new();
            let output = run(&tree, Some((call, number)));
            let when = format!("killed at {call} number {number}");
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{when}: {output:?}");
            killed += 1;
            nobody_is_half_made(&tree, &when);
            let output = run(&tree, None);
            assert!(output.status.success(), "{when}: {output:?}");
            assert_eq!(expected(&tree), whole, "{when}");
        }
    }
    println!("killed at {killed} points");
    assert!(killed > 100, "only {killed} points");
}
