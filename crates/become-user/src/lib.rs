//! Becoming a user, for good. This is the one place where a process of rosterd sheds root: whoever works in somebody's
//! home or at somebody's socket calls [`become_user`] first, and nothing can be undone after it.

mod alone;

pub use alone::alone;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, getgroups, getppid, getresgid, getresuid, setgroups, setresgid, setresuid, setsid, setuid,
};

/// More than a deep tree needs while it is removed, far less than a leak.
const MAX_FILES: u64 = 4096;

/// Whom to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What the process may use from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Heap and other private memory, in bytes.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_s: u64,
    /// Processes and threads of the user, all together; as many as the system allows when it is none.
    pub processes: Option<u64>,
}

/// Why the process did not become the user. It must end; nothing of the user's was touched.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The kernel refused a call.
    #[error("{what} failed: {errno}")]
    Call {
        /// Which one.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Something of root is left.
    #[error("{0}")]
    NotShed(&'static str),
    /// What is left cannot be seen.
    #[error("/proc/self/status cannot be read: {0}")]
    Proc(std::io::Error),
}

/// Whether this is the uid of a person: not below the first one, and none of the ids that mean "nobody" or "no change".
pub fn is_person(uid: u32) -> bool {
    uid >= 1000 && uid != 65_534 && uid < u32::MAX - 1
}

/// Whether this gid may be a person's: any but root's and the one that means "no change".
pub fn is_group(gid: u32) -> bool {
    gid != 0 && gid < u32::MAX - 1
}

/// Whether this is the uid or gid of a user of the system: not root's, and below the first one of a person.
pub fn is_system(id: u32) -> bool {
    id != 0 && id < 1000
}

/// Becomes `person` for good: session, limits, ids, no way back.
pub fn become_user(person: &Identity, limits: Limits) -> Result<(), IdentityError> {
    let parent = getppid();
    close_inherited()?;
    // No controlling terminal, and no signal meant for the parent's group. Fails only for a group leader.
    let _ = setsid();
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    limit(limits)?;

    let (uid, gid) = (Uid::from_raw(person.uid), Gid::from_raw(person.gid));
    let groups: Vec<Gid> = person.groups.iter().copied().map(Gid::from_raw).collect();
    call("setgroups", setgroups(&groups))?;
    call("setresgid", setresgid(gid, gid, gid))?;
    call("setresuid", setresuid(uid, uid, uid))?;

    call("prctl(PR_SET_NO_NEW_PRIVS)", prctl::set_no_new_privs())?;
    // The person owns this process now. They may kill it, but not read its memory or take over its pipes.
    call("prctl(PR_SET_DUMPABLE)", prctl::set_dumpable(false))?;
    // Cleared by the change of ids, so it is set after. A worker does not outlive its parent.
    call("prctl(PR_SET_PDEATHSIG)", prctl::set_pdeathsig(Signal::SIGKILL))?;
    if getppid() != parent {
        return Err(IdentityError::NotShed("the parent ended meanwhile"));
    }
    if let Some(most) = limits.processes {
        // From here on the kernel counts. With 0 it refuses every new process.
        call("setrlimit(RLIMIT_NPROC)", setrlimit(Resource::RLIMIT_NPROC, most, most))?;
    }
    verify(uid, gid, &groups)
}

/// A worker has its three pipes and nothing else that the parent may have open.
fn close_inherited() -> Result<(), IdentityError> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map_err(IdentityError::Proc)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // One of them was the listing itself and is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

fn limit(limits: Limits) -> Result<(), IdentityError> {
    for (name, resource, value) in [
        ("setrlimit(RLIMIT_CORE)", Resource::RLIMIT_CORE, 0),
        ("setrlimit(RLIMIT_DATA)", Resource::RLIMIT_DATA, limits.memory),
        ("setrlimit(RLIMIT_NOFILE)", Resource::RLIMIT_NOFILE, MAX_FILES),
        ("setrlimit(RLIMIT_CPU)", Resource::RLIMIT_CPU, limits.cpu_s.max(1)),
    ] {
        call(name, setrlimit(resource, value, value))?;
    }
    Ok(())
}

/// Asks the kernel whether what was shed is gone, rather than believing the calls.
fn verify(uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), IdentityError> {
    let uids = call("getresuid", getresuid())?;
    let gids = call("getresgid", getresgid())?;
    if (uids.real, uids.effective, uids.saved) != (uid, uid, uid) {
        return Err(IdentityError::NotShed("a user id is not the person's"));
    }
    if (gids.real, gids.effective, gids.saved) != (gid, gid, gid) {
        return Err(IdentityError::NotShed("a group id is not the person's"));
    }
    let mut left = call("getgroups", getgroups())?;
    let mut wanted = groups.to_vec();
    left.sort_by_key(|gid| gid.as_raw());
    wanted.sort_by_key(|gid| gid.as_raw());
    wanted.dedup();
    if left != wanted {
        return Err(IdentityError::NotShed("the supplementary groups are not the person's"));
    }
    if setuid(Uid::from_raw(0)).is_ok() {
        return Err(IdentityError::NotShed("there is a way back to root"));
    }
    let status = std::fs::read_to_string("/proc/self/status").map_err(IdentityError::Proc)?;
    let empty = |set: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(set))
            .is_some_and(|value| value.trim().trim_matches('0').is_empty())
    };
    if !["CapPrm:", "CapEff:", "CapAmb:"].into_iter().all(empty) {
        return Err(IdentityError::NotShed("capabilities are left"));
    }
    Ok(())
}

fn call<T>(what: &'static str, result: nix::Result<T>) -> Result<T, IdentityError> {
    result.map_err(|errno| IdentityError::Call { what, errno })
}
