//! Becoming a user of the system instead of a person: the same way down, for workers that only speak to a network.

use std::time::Duration;

use become_user::{Identity, Limits};

use crate::confine::{Room, confine};
use crate::protocol::Landlock;

/// Threads that ask for names and addresses. The kernel counts those of all workers of this user together, and no
/// program can be started by any of them: Landlock grants no execution.
const MOST_THREADS: u64 = 512;

/// What a worker that is a system user may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemUser {
    /// User id; below the first one of a person, and not root's.
    pub uid: u32,
    /// Group id; likewise.
    pub gid: u32,
    /// Heap and other private memory, in MiB.
    pub memory_mib: u64,
    /// CPU time.
    pub cpu: Duration,
}

/// Becomes a system user for good, with nothing but the network and what names and certificates need. To be called
/// while the process has one thread, and before it opens anything.
pub fn become_system_user(user: &SystemUser) -> Result<Landlock, String> {
    if !(become_user::is_system(user.uid) && become_user::is_system(user.gid)) {
        return Err(format!("uid {} and gid {} are not a system user's", user.uid, user.gid));
    }
    let identity = Identity { uid: user.uid, gid: user.gid, groups: vec![] };
    let limits = Limits {
        memory: user.memory_mib.saturating_mul(1 << 20),
        cpu_s: user.cpu.as_secs(),
        processes: Some(MOST_THREADS),
    };
    become_user::become_user(&identity, limits).map_err(|error| error.to_string())?;
    confine(&Room { write: None, read: None, network: true })
        .map_err(|error| format!("the worker could not confine itself: {error}"))
}
