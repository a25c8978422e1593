//! The locks of the user database. Everything that changes it takes `/etc/.pwd.lock` by `lckpwdf(3)`: PAM,
//! systemd-sysusers, and shadow's tools, which take their own `passwd.lock` and so on besides (and only those
//! when they run with `--prefix`). We take both, in shadow's order, so that no line of anybody's is lost:
//! gpasswd once read before it locked (shadow issue 347), authd once had a lock of its own (authd pull 723).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, fdatasync, getpid, linkat};

use crate::failure::Failure;
use crate::files::{self, remove};

/// shadow's order.
const FILES: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];

/// What our lock files hold after the process id. shadow's tools read up to the zero byte and see a number, as
/// in their own; we know by the rest which locks of dead processes were ours.
const OURS: &[u8] = b"\0rosterd\n";

/// The name under which a lock file is prepared before it is linked into place.
const PREPARED: &str = ".rosterd-new.lock";

/// How often we look whether the lock is free.
const PAUSE: Duration = Duration::from_millis(50);

/// The user database is ours until this is dropped.
pub(crate) struct Lock<'a> {
    etc: &'a OwnedFd,
    held: Vec<&'static str>,
    /// Held by its being open; closed after the lock files are gone.
    _pwd_lock: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// We were told to stop while waiting.
    Stopped,
    Failed(Failure),
}

/// Takes all locks, waiting at most `wait`.
pub(crate) fn take<'a>(etc: &'a OwnedFd, wait: Duration, stop: &AtomicBool) -> Result<Lock<'a>, LockError> {
    let deadline = Instant::now() + wait;
    let pwd_lock = open_pwd_lock(etc).map_err(LockError::Failed)?;
    while let Err(holder) = try_pwd_lock(&pwd_lock).map_err(LockError::Failed)? {
        pause(deadline, stop, wait, "/etc/.pwd.lock", holder)?;
    }
    // From here on, what was taken is given back by Drop.
    let mut lock = Lock { etc, held: Vec::new(), _pwd_lock: pwd_lock };
    for file in FILES {
        while let Err(holder) = try_lock_file(etc, file).map_err(LockError::Failed)? {
            pause(deadline, stop, wait, &format!("/etc/{file}.lock"), Some(holder))?;
        }
        lock.held.push(file);
    }
    Ok(lock)
}

/// Removes lock files that we left when we were killed. Only under `/etc/.pwd.lock`, and only if that is free.
pub(crate) fn clear_leftovers(etc: &OwnedFd) -> Vec<String> {
    let Ok(pwd_lock) = open_pwd_lock(etc) else { return Vec::new() };
    if !matches!(try_pwd_lock(&pwd_lock), Ok(Ok(()))) {
        return Vec::new();
    }
    let mut cleared = Vec::new();
    for file in FILES {
        let name = format!("{file}.lock");
        let Ok(Some(content)) = files::read(etc, OsStr::new(&name), 64) else { continue };
        let dead = content.bytes.ends_with(OURS) && holder(&content.bytes).is_none_or(|pid| !alive(pid));
        if dead && remove(etc, OsStr::new(&name)).is_ok() {
            cleared.push(format!("/etc/{name}"));
        }
    }
    cleared
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        for file in self.held.iter().rev() {
            // Should this fail, the lock holds the id of a process that will be dead: anyone may take it over.
            let _ = remove(self.etc, OsStr::new(&format!("{file}.lock")));
        }
    }
}

fn open_pwd_lock(etc: &OwnedFd) -> Result<File, Failure> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(etc, ".pwd.lock", flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map(File::from)
        .map_err(|error| Failure::io("opening /etc/.pwd.lock", error))
}

/// Takes the lock, or says who holds it (nobody when it was let go meanwhile).
fn try_pwd_lock(file: &File) -> Result<Result<(), Option<Pid>>, Failure> {
    let mut whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_SETLK(&whole)) {
        Ok(_) => Ok(Ok(())),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let holder = match fcntl(file, FcntlArg::F_GETLK(&mut whole)) {
                Ok(_) if whole.l_type != libc::F_UNLCK as libc::c_short && whole.l_pid > 0 => {
                    Some(Pid::from_raw(whole.l_pid))
                }
                _ => None,
            };
            Ok(Err(holder))
        }
        Err(error) => Err(Failure::io("locking /etc/.pwd.lock", error)),
    }
}

/// As `commonio_lock_nowait()` does: a file with our process id, linked to the name of the lock. A lock whose
/// process is dead is taken over. The error is the living process that holds it.
fn try_lock_file(etc: &OwnedFd, file: &str) -> Result<Result<(), Pid>, Failure> {
    let name = format!("{file}.lock");
    let failed = |error: std::io::Error| Failure::io(format!("locking /etc/{file}"), error);
    if let Some(content) = files::read(etc, OsStr::new(&name), 64).map_err(|why| {
        Failure::new(
            format!("/etc/{name}: {why}"),
            format!("remove /etc/{name} once nothing changes accounts"),
        )
    })? {
        let Some(pid) = holder(&content.bytes) else {
            return Err(Failure::new(
                format!("/etc/{name} holds no process id, so nobody can tell whether it is in use"),
                format!("remove /etc/{name} once nothing changes accounts"),
            ));
        };
        // Our own id can only be there by reuse, after a reboot: we would know.
        if pid != getpid() && alive(pid) {
            return Ok(Err(pid));
        }
        remove(etc, OsStr::new(&name)).map_err(|error| failed(error.into()))?;
    }
    prepare(etc).map_err(failed)?;
    let linked = linkat(etc, PREPARED, etc, name.as_str(), AtFlags::empty());
    remove(etc, OsStr::new(PREPARED)).map_err(|error| failed(error.into()))?;
    match linked {
        Ok(()) => Ok(Ok(())),
        // Somebody was faster; the next look tells who.
        Err(Errno::EEXIST) => try_lock_file_again(etc, &name),
        Err(error) => Err(failed(error.into())),
    }
}

fn try_lock_file_again(etc: &OwnedFd, name: &str) -> Result<Result<(), Pid>, Failure> {
    let pid =
        files::read(etc, OsStr::new(name), 64).ok().flatten().and_then(|content| holder(&content.bytes));
    Ok(Err(pid.unwrap_or(Pid::from_raw(0))))
}

fn prepare(etc: &OwnedFd) -> std::io::Result<()> {
    remove(etc, OsStr::new(PREPARED))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(etc, PREPARED, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(getpid().to_string().as_bytes())?;
    file.write_all(OURS)?;
    Ok(fdatasync(&file)?)
}

/// The process id in a lock file: the digits before the zero byte.
fn holder(bytes: &[u8]) -> Option<Pid> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).ok()?.trim();
    text.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

fn alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH)
}

fn pause(
    deadline: Instant,
    stop: &AtomicBool,
    wait: Duration,
    what: &str,
    holder: Option<Pid>,
) -> Result<(), LockError> {
    if stop.load(Ordering::Relaxed) {
        return Err(LockError::Stopped);
    }
    if Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        return Ok(());
    }
    let who = match holder.filter(|pid| pid.as_raw() > 0) {
        Some(pid) => {
            format!("process {pid}{}", command(pid).map_or_else(String::new, |name| format!(" ({name})")))
        }
        None => "another program".to_string(),
    };
    Err(LockError::Failed(Failure::new(
        format!("the user database is locked: {who} holds {what} since more than {} s", wait.as_secs()),
        "let it finish (an open vipw, a package being installed?) or end it; the next run tries again",
    )))
}

/// The name of a process, for the admin.
fn command(pid: Pid) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(OsStr::from_bytes(&name).as_bytes()).trim().to_string();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::folder::{self, Missing};

    const SHORT: Duration = Duration::from_millis(120);

    fn etc(machine: &tempfile::TempDir) -> OwnedFd {
        folder::open(machine.path(), Path::new("/etc"), Missing::Create).unwrap()
    }

    fn why(result: Result<Lock<'_>, LockError>) -> String {
        match result {
            Ok(_) => panic!("the lock was taken"),
            Err(LockError::Stopped) => panic!("stopped"),
            Err(LockError::Failed(failure)) => failure.why,
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap()
    }

    fn dead_pid() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn every_lock_of_shadow_is_taken_and_given_back() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        let lock = take(&etc, SHORT, &AtomicBool::new(false)).ok().unwrap();
        let mine = format!("{}\0rosterd\n", getpid());
        for file in FILES {
            assert_eq!(
                std::fs::read_to_string(machine.path().join(format!("etc/{file}.lock"))).unwrap(),
                mine
            );
        }
        drop(lock);
        assert_eq!(folder::names(&etc).unwrap(), [".pwd.lock"]);
    }

    #[test]
    fn a_lock_of_a_dead_process_is_taken_over() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        std::fs::write(machine.path().join("etc/passwd.lock"), format!("{}\0", dead_pid())).unwrap();
        std::fs::write(machine.path().join("etc/group.lock"), format!("{}\0", getpid())).unwrap();
        drop(take(&etc, SHORT, &AtomicBool::new(false)).ok().unwrap());
        assert_eq!(folder::names(&etc).unwrap(), [".pwd.lock"]);
    }

    #[test]
    fn a_living_process_is_waited_for_and_then_named() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        let mut child = sleeper();
        std::fs::write(machine.path().join("etc/shadow.lock"), format!("{}\0", child.id())).unwrap();
        let began = Instant::now();
        let why = why(take(&etc, SHORT, &AtomicBool::new(false)));
        assert!(began.elapsed() >= SHORT);
        assert!(why.contains(&format!("process {} (sleep) holds /etc/shadow.lock", child.id())), "{why}");
        assert_eq!(folder::names(&etc).unwrap(), [".pwd.lock", "shadow.lock"], "the others are given back");
        child.kill().unwrap();
        child.wait().unwrap();
        drop(take(&etc, SHORT, &AtomicBool::new(false)).ok().unwrap());
    }

    #[test]
    fn a_lock_without_a_process_id_is_left_to_the_admin() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        std::fs::write(machine.path().join("etc/passwd.lock"), "").unwrap();
        let why = why(take(&etc, SHORT, &AtomicBool::new(false)));
        assert!(why.contains("/etc/passwd.lock holds no process id"), "{why}");
    }

    #[test]
    fn a_stop_ends_the_wait_at_once() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        let mut child = sleeper();
        std::fs::write(machine.path().join("etc/passwd.lock"), child.id().to_string()).unwrap();
        let result = take(&etc, Duration::from_secs(60), &AtomicBool::new(true));
        assert!(matches!(result, Err(LockError::Stopped)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_our_own_dead_locks_are_cleared() {
        let machine = tempfile::tempdir().unwrap();
        let etc = etc(&machine);
        let dead = dead_pid();
        std::fs::write(machine.path().join("etc/passwd.lock"), format!("{dead}\0rosterd\n")).unwrap();
        std::fs::write(machine.path().join("etc/group.lock"), format!("{dead}\0")).unwrap();
        assert_eq!(clear_leftovers(&etc), ["/etc/passwd.lock"]);
        assert_eq!(folder::names(&etc).unwrap(), [".pwd.lock", "group.lock"]);
    }
}
