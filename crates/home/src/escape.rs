//! Invariant 3 from within: what could code do that has taken over a worker? The test starts itself again, becomes a
//! person exactly as a worker does, and then tries.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid};

use crate::identity::become_user;
use crate::protocol::{Become, Landlock, Task};
use crate::worker::enter;

const ME: &str = "ROSTERD_TEST_ESCAPE";
const UID: u32 = 60_901;

fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A home, and another one as careless as it can be, to which a link in the first leads.
fn mine_and_a_careless_one() -> (tempfile::TempDir, tempfile::TempDir) {
    let (mine, other) = (open_dir(), open_dir());
    chown(mine.path(), Some(UID), Some(UID)).unwrap();
    fs::write(other.path().join("readable"), "theirs").unwrap();
    fs::set_permissions(other.path().join("readable"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(other.path(), mine.path().join("link")).unwrap();
    (mine, other)
}

/// The other home holds what it held.
fn assert_untouched(other: &Path) {
    let left: Vec<_> = fs::read_dir(other).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["readable"]);
    assert_eq!(fs::read(other.join("readable")).unwrap(), b"theirs");
}

fn denied(result: std::io::Result<()>, what: &str) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::EACCES as i32), "{what}");
}

fn held(landlock: Landlock) -> Landlock {
    assert_ne!(landlock, Landlock::Absent, "this kernel has no Landlock: the test shows nothing");
    landlock
}

/// Starts this test program again as `attempts`, held by the uid alone or by Landlock as well.
fn try_in(mine: &Path, other: &Path, held_by: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "escape::attempts", "--nocapture"])
        .env(ME, format!("{}:{}:{held_by}", mine.display(), other.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(mine.join("made")).unwrap(), b"mine", "the attempts were made");
}

#[test]
fn invariant_3_a_worker_that_is_taken_over_gets_nowhere() {
    let (mine, other) = mine_and_a_careless_one();
    let name = SocketAddr::from_abstract_name(format!("rosterd-escape-{}", std::process::id())).unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    try_in(mine.path(), other.path(), "landlock");
    assert_untouched(other.path());
}

/// On a kernel without Landlock: the same process, held by who it is.
#[test]
fn invariant_3_a_worker_without_landlock_is_held_by_its_uid() {
    let (mine, other) = (open_dir(), open_dir());
    chown(mine.path(), Some(UID), Some(UID)).unwrap();
    // Another home as every new one is.
    fs::write(other.path().join("file"), "theirs").unwrap();
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for path in [other.path().to_owned(), other.path().join("file")] {
        chown(path, Some(UID + 1), Some(UID + 1)).unwrap();
    }
    std::os::unix::fs::symlink(other.path(), mine.path().join("link")).unwrap();
    try_in(mine.path(), other.path(), "uid");
    assert_eq!(fs::read(other.path().join("file")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

/// Who only looks at homes, which is what happens to most of them: not even the own home can be changed.
#[test]
fn invariant_3_a_worker_that_looks_changes_nothing_and_speaks_to_nobody() {
    let (mine, other) = mine_and_a_careless_one();
    fs::write(mine.path().join("made"), "mine").unwrap();
    chown(mine.path().join("made"), Some(UID), Some(UID)).unwrap();
    try_in(mine.path(), other.path(), "look");
    assert_eq!(fs::read_dir(mine.path()).unwrap().count(), 2);
    assert_untouched(other.path());
}

/// Who becomes `tar` in a home: it reaches no other one, and starts nothing else.
#[test]
fn invariant_3_a_worker_that_packs_or_unpacks_stays_where_it_was_started() {
    let (mine, other) = mine_and_a_careless_one();
    try_in(mine.path(), other.path(), "unpack");
    assert!(mine.path().join("made.tar").exists(), "tar did its work");
    try_in(mine.path(), other.path(), "pack");
    assert_untouched(other.path());
}

fn against_staying(other: &Path, may_change: bool) -> ! {
    let tar = Path::new("/usr/bin/tar");
    let landlock = held(crate::stay_here(&crate::Here { may_change, program: Some(tar) }).unwrap());
    denied(fs::read(other.join("readable")).map(drop), "read another home");
    denied(fs::read("link/readable").map(drop), "read it through a symlink");
    denied(fs::write("link/new", "x"), "write to it through a symlink");
    denied(fs::write(other.join("readable"), "x"), "write to another home");
    denied(fs::write("/tmp/rosterd-escape", "x"), "write to /tmp");
    denied(fs::read("/etc/passwd").map(drop), "read the user database");
    denied(Err(Command::new("/bin/sh").exec()), "run a shell");
    if landlock == Landlock::Enforced {
        denied(TcpStream::connect("127.0.0.1:9").map(drop), "connect");
    }
    against_anything();
    if may_change {
        fs::write("made", "mine").unwrap();
        nix::unistd::mkfifo("fifo", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Command::new(tar).args(["--create", "--file=made.tar", "made", "fifo"]).exec();
        panic!("{error}");
    }
    denied(fs::write("made", "x"), "change a file");
    denied(fs::remove_file("made"), "remove a file");
    let error = Command::new(tar).args(["--compare", "--file=made.tar"]).exec();
    panic!("{error}");
}

fn against_looking(mine: &Path, other: &Path, landlock: Landlock) {
    assert_eq!(fs::read("made").unwrap(), b"mine");
    denied(fs::write("made", "x"), "write a file");
    denied(fs::write("new", "x"), "make a file");
    denied(fs::create_dir("new"), "make a folder");
    denied(fs::remove_file("made"), "remove a file");
    denied(fs::rename("made", "new"), "rename a file");
    denied(fs::read(other.join("readable")).map(drop), "read another home");
    denied(fs::read("/etc/hosts").map(drop), "read what names need");
    denied(Err(Command::new("/bin/sh").exec()), "run a program");
    denied(fs::read("link/readable").map(drop), "read it through a symlink");
    assert_eq!(fs::read_dir(mine).unwrap().count(), 2);
    if landlock == Landlock::Enforced {
        denied(TcpStream::connect("127.0.0.1:9").map(drop), "connect");
    }
    against_anything();
}

#[test]
fn attempts() {
    let Some(paths) = std::env::var(ME).ok() else { return };
    let [mine, other, held_by] = paths.split(':').collect::<Vec<_>>().try_into().unwrap();
    let (mine, other) = (PathBuf::from(mine), PathBuf::from(other));
    let person = Become {
        user: "ana".into(),
        uid: UID,
        gid: UID,
        groups: vec![],
        home: mine.clone(),
        memory_mib: 1024,
        max_clone_mib: 1024,
        deadline_s: 60,
        task: if held_by == "look" { Task::Look } else { Task::Home { mirrors: "/nonexistent".into() } },
    };
    match held_by {
        "look" => {
            let (_place, landlock) = enter(&person).unwrap();
            against_looking(&mine, &other, held(landlock));
        }
        "pack" | "unpack" => {
            become_user(&person).unwrap();
            std::env::set_current_dir(&mine).unwrap();
            against_staying(&other, held_by == "unpack");
        }
        "uid" => {
            become_user(&person).unwrap();
            std::env::set_current_dir(&mine).unwrap();
            against_the_uid(&other);
        }
        _ => {
            let (_place, landlock) = enter(&person).unwrap();
            against_landlock(&mine, &other, held(landlock));
        }
    }
}

/// What needs no Landlock to fail.
fn against_the_uid(other: &Path) {
    fs::write("made", "mine").unwrap();
    let refused = |result: std::io::Result<()>, what: &str| {
        let errno = result.unwrap_err().raw_os_error();
        assert!(
            errno == Some(Errno::EACCES as i32) || errno == Some(Errno::EPERM as i32),
            "{what}: {errno:?}"
        );
    };
    refused(fs::read(other.join("file")).map(drop), "read another home");
    refused(fs::read("link/file").map(drop), "read it through a symlink");
    refused(fs::read_dir(other).map(drop), "list another home");
    refused(fs::write(other.join("x"), "x"), "write to another home");
    refused(fs::rename("made", other.join("made")), "move to another home");
    refused(fs::set_permissions(other, fs::Permissions::from_mode(0o777)), "open another home");
    refused(chown("made", Some(0), None), "give a file away");
    for path in ["/etc/shadow", "/proc/1/environ", "/dev/mem", "/dev/kmsg", "/proc/self/mem"] {
        let file = fs::File::options().read(true).write(true).open(path);
        assert!(file.is_err(), "{path}");
    }
    assert!(fs::write("/etc/passwd", "").is_err() && fs::write("/etc/rosterd-escape", "").is_err());
    against_anything();
}

/// Root, other processes, other namespaces.
fn against_anything() {
    let me = nix::unistd::getppid();
    assert_eq!(nix::sys::signal::kill(me, None), Err(Errno::EPERM), "signal the daemon");
    assert_eq!(nix::sys::signal::kill(Pid::from_raw(1), Signal::SIGHUP), Err(Errno::EPERM), "signal init");
    assert!(nix::unistd::setuid(Uid::from_raw(0)).is_err() && nix::unistd::setgid(Gid::from_raw(0)).is_err());
    assert!(nix::unistd::setgroups(&[Gid::from_raw(0)]).is_err() && nix::unistd::chroot(".").is_err());
    assert!(nix::unistd::sethostname("taken").is_err());
    assert!(setrlimit(Resource::RLIMIT_NPROC, 100, 100).is_err(), "more processes");
    assert!(setrlimit(Resource::RLIMIT_CORE, 1 << 20, 1 << 20).is_err(), "a core dump");
    assert!(Command::new("/bin/true").spawn().is_err(), "a new process");
    let core = nix::sys::prctl::get_dumpable();
    assert_eq!(core, Ok(false));
}

fn against_landlock(mine: &Path, other: &Path, landlock: Landlock) {
    // What it is for.
    fs::write("made", "mine").unwrap();
    assert_eq!(fs::read(mine.join("made")).unwrap(), b"mine");
    assert!(fs::read("/etc/ssl/openssl.cnf").is_ok() && fs::read("/etc/hosts").is_ok());

    // Another home and the world outside, though they are open to everyone.
    denied(fs::read(other.join("readable")).map(drop), "read another home");
    denied(fs::read("link/readable").map(drop), "read it through a symlink");
    denied(fs::read_dir(other).map(drop), "list another home");
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
    fs::remove_file("script").unwrap();

    // What is there and open to everyone.
    denied(
        fs::File::options().write(true).truncate(true).open(other.join("readable")).map(drop),
        "empty a file",
    );
    denied(fs::create_dir(other.join("x")), "make a folder");
    denied(fs::remove_file(other.join("readable")), "remove a file");
    denied(std::os::unix::fs::symlink("/", other.join("x")), "make a symlink");
    assert!(nix::unistd::mkfifo("fifo", nix::sys::stat::Mode::S_IRWXU).is_err());
    against_anything();

    // Sockets: as a server, and of other processes.
    if landlock == Landlock::Enforced {
        denied(TcpListener::bind("127.0.0.1:0").map(drop), "listen");
        let name = format!("rosterd-escape-{}", nix::unistd::getppid());
        let name = SocketAddr::from_abstract_name(name).unwrap();
        let refused = UnixStream::connect_addr(&name).unwrap_err().raw_os_error();
        assert_eq!(refused, Some(Errno::EPERM as i32), "talk to a process outside");
    }
    // A new namespace may be had where the kernel gives one to everybody; it opens nothing.
    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
    let none: Option<&str> = None;
    assert!(nix::mount::mount(none, ".", Some("tmpfs"), nix::mount::MsFlags::empty(), none).is_err());
    denied(fs::read(other.join("readable")).map(drop), "read another home from a new namespace");
    denied(fs::write(other.join("x"), "x"), "write to it from there");
}
