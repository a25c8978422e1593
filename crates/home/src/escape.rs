//! Invariant 3 from within: what could code do that has taken over a worker? The test starts itself again, becomes a
//! person exactly as a worker does, and then tries.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};

use crate::protocol::{Become, Landlock, Task};
use crate::worker::enter;

const ME: &str = "ROSTERD_TEST_ESCAPE";
const UID: u32 = 60_901;

fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn invariant_3_a_worker_that_is_taken_over_gets_nowhere() {
    let (mine, other) = (open_dir(), open_dir());
    chown(mine.path(), Some(UID), Some(UID)).unwrap();
    // Another home as careless as it can be.
    fs::write(other.path().join("readable"), "theirs").unwrap();
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(other.path(), mine.path().join("link")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "escape::attempts", "--nocapture"])
        .env(ME, format!("{}:{}", mine.path().display(), other.path().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(mine.path().join("made")).unwrap(), b"mine", "the attempts were made");
    let left: Vec<_> = fs::read_dir(other.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["readable"]);
}

#[test]
fn attempts() {
    let Some(paths) = std::env::var(ME).ok() else { return };
    let (mine, other) = paths.split_once(':').map(|(a, b)| (PathBuf::from(a), PathBuf::from(b))).unwrap();
    let person = Become {
        user: "ana".into(),
        uid: UID,
        gid: UID,
        groups: vec![],
        home: mine.clone(),
        memory_mib: 1024,
        deadline_s: 60,
        task: Task::Home { mirrors: "/nonexistent".into() },
    };
    let (_place, landlock) = enter(&person).unwrap();
    assert_ne!(landlock, Landlock::Absent, "this kernel has no Landlock: the test shows nothing");

    // What it is for.
    fs::write("made", "mine").unwrap();
    assert_eq!(fs::read(mine.join("made")).unwrap(), b"mine");
    assert!(fs::read("/etc/ssl/openssl.cnf").is_ok() && fs::read("/etc/hosts").is_ok());

    // Another home and the world outside, though they are open to everyone.
    let denied = |result: std::io::Result<()>, what: &str| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::EACCES as i32), "{what}");
    };
    denied(fs::read(other.join("readable")).map(drop), "read another home");
    denied(fs::read("link/readable").map(drop), "read it through a symlink");
    denied(fs::read_dir(&other).map(drop), "list another home");
    denied(fs::write(other.join("x"), "x"), "write to another home");
    denied(fs::rename("made", other.join("made")), "move to another home");
    assert!(fs::hard_link(other.join("readable"), "stolen").is_err(), "link from another home");
    for path in ["/tmp/rosterd-escape", "/dev/shm/rosterd-escape", "/var/tmp/rosterd-escape"] {
        denied(fs::write(path, "x"), path);
        assert!(!Path::new(path).exists());
    }
    for path in ["/etc/passwd", "/proc/1/status", "/etc/machine-id", "/usr/bin/git"] {
        denied(fs::read(path).map(drop), path);
    }

    // Programs, its own included.
    fs::write("script", "#!/bin/sh\n").unwrap();
    fs::set_permissions("script", fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["/bin/sh", "/usr/bin/git", "./script", "/lib64/ld-linux-x86-64.so.2"] {
        denied(Err(Command::new(program).exec()), program);
    }
    assert!(Command::new("/bin/true").spawn().is_err(), "a new process");
    fs::remove_file("script").unwrap();

    // Root, devices, the network as a server.
    assert!(nix::unistd::setuid(Uid::from_raw(0)).is_err() && nix::unistd::setgid(Gid::from_raw(0)).is_err());
    assert!(nix::unistd::setgroups(&[Gid::from_raw(0)]).is_err() && nix::unistd::chroot(".").is_err());
    assert!(nix::unistd::mkfifo("fifo", nix::sys::stat::Mode::S_IRWXU).is_err());
    if landlock == Landlock::Enforced {
        denied(TcpListener::bind("127.0.0.1:0").map(drop), "listen");
    }
}
