//! A machine that does not play along.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use roster::report::StepResult;

use crate::tree::{Mount, Tree, account, apply, can_run, create, plan, why};

/// Takes the write lock that `lckpwdf` takes; as an open-file lock, so that it also keeps this process out.
fn hold_pwd_lock(tree: &Tree, kind: libc::c_int) -> fs::File {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(tree.path("etc/.pwd.lock"))
        .unwrap();
    lock(&file, kind);
    file
}

fn lock(file: &fs::File, kind: libc::c_int) {
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole)).unwrap();
}

#[test]
fn a_held_password_lock_is_told_and_nothing_is_half_made() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let held = hold_pwd_lock(&tree, libc::F_WRLCK);
    let before = tree.picture("");
    let host = tree.host().with_lock_wait(Duration::from_millis(200));
    let steps = plan(vec![create(account("alice", 1000, &[])), create(account("bob", 1001, &[]))]);
    let results = apply(&host, &steps);
    for result in &results {
        assert!(why(result).starts_with("the user database is locked: another program holds /etc/.pwd.lock"));
    }
    assert_eq!(tree.picture(""), before);
    drop(held);
    assert_eq!(apply(&host, &steps), vec![Some(StepResult::Done); 2]);
}

#[test]
fn a_password_lock_that_is_let_go_in_time_is_waited_for() {
    if !can_run() {
        return;
    }
    let tree = Tree::new();
    let held = hold_pwd_lock(&tree, libc::F_WRLCK);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(held);
        });
        assert_eq!(tree.apply(&plan(vec![create(account("alice", 1000, &[]))])), [Some(StepResult::Done)]);
    });
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn useradd_waits_for_us() {
    if !can_run() || !std::path::Path::new("/usr/bin/strace").exists() {
        return;
    }
    // Held at the last rename but one, our change keeps useradd out, which then sees all of it.
    let tree = Tree::new();
    let example = std::env::current_exe().unwrap();
    let example = example.parent().unwrap().parent().unwrap().join("examples/create_accounts");
    let mut ours = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=renameat",
            "-e",
            "inject=renameat:delay_enter=100000",
        ])
        .arg(example)
        .args([tree.root().to_str().unwrap(), "3", "sudo"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !tree.path("etc/passwd.lock").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = tree.shadow("useradd", &["theirs"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(ours.wait().unwrap().success());
    assert!(tree.read("etc/passwd").contains("theirs:x:1003:1003:"), "{}", tree.read("etc/passwd"));
}

#[test]
fn an_empty_or_missing_database_is_never_taken_for_a_machine_without_accounts() {
    if !can_run() {
        return;
    }
    let steps = plan(vec![create(account("alice", 1000, &[]))]);
    let tree = Tree::new();
    tree.write("etc/passwd", "", 0o644, 0);
    assert_eq!(why(&tree.apply(&steps)[0]), "/etc/passwd holds no entry at all");
    assert_eq!(tree.read("etc/passwd"), "");
    let tree = Tree::new();
    fs::remove_file(tree.path("etc/shadow")).unwrap();
    assert_eq!(why(&tree.apply(&steps)[0]), "there is no /etc/shadow");
    assert_eq!(fs::read_dir(tree.path("home")).unwrap().count(), 0);
}

/// Writes zeros until there is no space left.
fn fill(path: PathBuf) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// Mounts a small file system at `at` before the machine is laid out there.
fn small(at: &str) -> Option<(Mount, Tree)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(at);
    fs::create_dir_all(&path).unwrap();
    let mount = Mount::tmpfs(path, "1m")?;
    Some((mount, Tree::within(folder)))
}

#[test]
fn with_the_disk_of_the_homes_full_nothing_is_half_made() {
    if !can_run() {
        return;
    }
    let Some((mount, tree)) = small("home") else { return };
    fill(tree.path("home/big"));
    let before = tree.picture("etc");
    let steps = plan(vec![create(account("alice", 1000, &[])), create(account("bob", 1001, &[]))]);
    for result in tree.apply(&steps) {
        let why = why(&result).to_string();
        assert!(why.contains("/home/.rosterd-new/") && why.contains("No space left on device"), "{why}");
    }
    let mut after = tree.picture("etc");
    after.retain(|path, _| !path.ends_with(".pwd.lock"));
    assert_eq!(after, before);
    assert_eq!(fs::read_dir(tree.path("home")).unwrap().count(), 1);
    fs::remove_file(tree.path("home/big")).unwrap();
    assert_eq!(tree.apply(&steps), vec![Some(StepResult::Done); 2]);
    drop(mount);
}

#[test]
fn with_the_disk_of_etc_full_the_database_stays_whole_and_homes_are_taken_back() {
    if !can_run() {
        return;
    }
    let Some((mount, tree)) = small("etc") else { return };
    // Big enough that its copies do not fit, whatever a page is.
    let padding: String =
        (0..6000).map(|n| format!("# line {n:06} of a long file of another tool\n")).collect();
    tree.write("etc/subgid", &padding, 0o644, 0);
    fill(tree.path("etc/big"));
    let size = fs::metadata(tree.path("etc/big")).unwrap().len();
    fs::OpenOptions::new().write(true).open(tree.path("etc/big")).unwrap().set_len(size - 100_000).unwrap();
    let before = tree.picture("etc");
    let steps = plan(vec![create(account("alice", 1000, &[])), create(account("bob", 1001, &[]))]);
    for result in tree.apply(&steps) {
        assert_eq!(why(&result), "writing /etc/subgid: No space left on device");
    }
    let mut after = tree.picture("etc");
    after.retain(|path, _| !path.ends_with(".pwd.lock"));
    assert_eq!(after, before);
    assert_eq!(fs::read_dir(tree.path("home")).unwrap().count(), 0);
    fs::remove_file(tree.path("etc/big")).unwrap();
    assert_eq!(tree.apply(&steps), vec![Some(StepResult::Done); 2]);
    drop(mount);
}
