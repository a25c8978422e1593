//! How a worker becomes its user: as [`become_user`] does, and it may start no process.

use become_user::{Identity, IdentityError, Limits};

use crate::protocol::{Become, Failure};

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Failure {
        Failure::new(
            format!("the worker could not become the user: {error}"),
            "rosterd must run as root with CAP_SETUID, CAP_SETGID and CAP_KILL; see `systemctl cat rosterd`",
        )
    }
}

/// Becomes `person` for good. No path below the home is looked at before this returns.
pub(crate) fn become_user(person: &Become) -> Result<(), IdentityError> {
    let identity = Identity { uid: person.uid, gid: person.gid, groups: person.groups.clone() };
    let limits = Limits {
        memory: person.memory_mib.saturating_mul(1 << 20),
        cpu_s: person.deadline_s,
        processes: Some(0),
    };
    ::become_user::become_user(&identity, limits)
}
