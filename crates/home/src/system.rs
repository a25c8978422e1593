//! Becoming a user of the system instead of a person: the same way down, for workers that only speak to a network.

use std::time::Duration;

use become_user::{Identity, Limits};
use landlock::{
    Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};

use crate::confine::{KNOWN, READABLE};
use crate::protocol::Landlock;

/// Whom to become, and what a worker that is a system user may use.
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
    let system = |id: u32| id != 0 && id < 1000;
    if !(system(user.uid) && system(user.gid)) {
        return Err(format!("uid {} and gid {} are not a system user's", user.uid, user.gid));
    }
    let identity = Identity { uid: user.uid, gid: user.gid, groups: Vec::new() };
    let limits = Limits {
        memory: user.memory_mib.saturating_mul(1 << 20),
        cpu_s: user.cpu.as_secs(),
        // Names are asked for by threads, which the kernel counts as processes. No program can be started: see below.
        processes: true,
    };
    ::become_user::become_user(&identity, limits).map_err(|error| error.to_string())?;
    confine().map_err(|error| format!("the worker could not confine itself: {error}"))
}

fn confine() -> Result<Landlock, landlock::RulesetError> {
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, readable))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Enforced,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}
