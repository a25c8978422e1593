//! Why a step could not be applied, in words for an admin.

use std::fmt;
use std::io;

use nix::errno::Errno;
use roster::report::StepResult;

/// What went wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub why: String,
    /// What an admin can do.
    pub next: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(why: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure { why: why.into(), next: next.into() }
    }

    /// A system call that failed while `doing`, such as "writing /etc/group".
    pub(crate) fn io(doing: impl fmt::Display, source: impl Into<io::Error>) -> Failure {
        let source = source.into();
        let next = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => "free some space there; the next run tries again",
            Some(Errno::EROFS) => {
                "make the file system writable (`mount -o remount,rw`), then run `rosterctl reconcile`"
            }
            Some(Errno::EACCES | Errno::EPERM) => {
                "look for an immutable flag (`lsattr`) or a sandbox setting of rosterd.service that forbids it"
            }
            _ => "the next run tries again; if it stays so, look at the file and the kernel's log",
        };
        // The system's words without Rust's "(os error 28)".
        let what = source
            .raw_os_error()
            .map_or_else(|| source.to_string(), |code| Errno::from_raw(code).desc().to_string());
        Failure::new(format!("{doing}: {what}"), next)
    }
}

impl From<Failure> for StepResult {
    fn from(failure: Failure) -> StepResult {
        StepResult::Failed { why: failure.why, next: failure.next }
    }
}
