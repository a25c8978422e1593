//! The machine, as root: what it shows ([`observe`]) and the steps of a plan that root does ([`apply`]).
//!
//! It touches the user database, the folders that hold homes (never what is in a home), the files that the plan
//! names, and units by the bus of systemd. It runs no program, speaks to no network and decides nothing: the plan
//! said what.
//!
//! | module | what it does |
//! | --- | --- |
//! | `observe`, `parse` | reads the machine, each file once |
//! | `apply` | walks the plan, one report a step |
//! | `accounts` | all accounts and memberships of a plan in one locked, atomic change |
//! | `database` | that change as pure functions on the text of the six files |
//! | `lock` | the locks that shadow, PAM and systemd hold while they change the same files |
//! | `homes` | new homes, built where nobody can reach them and moved into place whole |
//! | `files` | generated files and environment files |
//! | `units`, `systemd` | units of people: what they do, stopping, enabling, starting; all in a few calls |
//! | `ports` | who listens on a port |
//! | `sessions` | ends what somebody runs |
//! | `removal` | an account out of the database and back, a home out of its place and back |
//! | [`source`] | reads the files that decide what root does, and judges who may write them |
//! | `folder` | the only way to a path: from folder to folder, past nothing that others may change |

mod accounts;
mod apply;
mod database;
mod failure;
mod files;
mod folder;
mod homes;
mod leftovers;
mod lock;
mod observe;
mod parse;
mod ports;
mod removal;
mod sessions;
pub mod source;
mod systemd;
mod units;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use roster::config::Config;
use roster::model::Roster;
use roster::name::UnitName;
use roster::observed::{HostObserved, UnitsObserved};
use roster::plan::Plan;
use roster::report::StepResult;

pub use failure::Failure;
pub use observe::ObserveError;
pub use removal::{ASIDE, AccountLines, Outside, Process, aside_of, path_of};
pub use units::UnitsError;

/// Shows what the machine is. Reads each file once, whatever the number of people.
pub fn observe(roster: &Roster, config: &Config) -> Result<HostObserved, ObserveError> {
    Host::system().observe(roster, config)
}

/// Applies those steps of `plan` that are root's: accounts, homes, memberships, generated files and environment
/// files. Every step whose needs were met is tried; each is reported once, by its index in the plan. Steps of
/// other kinds are left to the caller and count as met.
///
/// When `stop` is set, the step in hand is finished and the rest is reported as skipped.
pub fn apply(plan: &Plan, stop: &AtomicBool, report: &mut dyn FnMut(usize, StepResult, Duration)) {
    Host::system().apply(plan, stop, report);
}

/// Shows what the units `watched` do, with the port that each should listen on. A few calls of systemd's bus for all of
/// them, and none when there are none.
pub fn observe_units(
    watched: &BTreeMap<UnitName, Option<u16>>,
    host: &HostObserved,
) -> Result<UnitsObserved, UnitsError> {
    Host::system().observe_units(watched, host)
}

/// Applies the steps of units: stops, enables, starts and reloads, in this order, those of a kind together. Each step
/// is reported once, by its index in the plan.
pub fn apply_units(plan: &Plan, stop: &AtomicBool, report: &mut dyn FnMut(usize, StepResult, Duration)) {
    units::apply(plan, stop, report);
}

/// Removes what a killed run left: unfinished homes, temporary files, locks of the dead process. Meant for the
/// start of the daemon, before the first run. Returns what it removed, in words.
pub fn clear_leftovers(config: &Config) -> Vec<String> {
    Host::system().clear_leftovers(config)
}

/// Makes the folder of the mirrors, for the system user with these ids. One that is there is left as it is: its
/// worker says when it cannot be used.
pub fn mirrors_folder(path: &Path, (uid, gid): (u32, u32)) -> std::io::Result<()> {
    let (above, name) = folder::open_parent(Path::new("/"), path, folder::Missing::Create)
        .map_err(|error| std::io::Error::other(error.failure().why))?;
    if fstatat(&above, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
        return Ok(());
    }
    // Built beside, so that whoever finds it finds it with its owner. Only root may write above it.
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    match unlinkat(&above, &*new, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    mkdirat(&above, &*new, Mode::S_IRWXU)?;
    let made =
        openat(&above, &*new, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(&made, Mode::from_bits_truncate(0o755))?;
    Ok(renameat(&above, &*new, &above, name)?)
}

/// The folder that holds the file `path`, and the file's name in it; nothing where there is no such folder. As on
/// every way that root goes, each folder belongs to root and is writable by no one else, and so does each link.
pub fn open_parent(path: &Path) -> Result<Option<(OwnedFd, &OsStr)>, String> {
    match folder::open_parent(Path::new("/"), path, folder::Missing::Fail) {
        Ok(found) => Ok(Some(found)),
        Err(folder::FolderError::Absent(_)) => Ok(None),
        Err(error) => {
            let failure = error.failure();
            Err(format!("{}; {}", failure.why, failure.next))
        }
    }
}

/// A machine by the folder that is its `/`.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    lock_wait: Duration,
}

impl Host {
    /// This machine.
    pub fn system() -> Host {
        Host::at("/")
    }

    /// The machine whose root folder is `root`: a chroot, or a test's.
    pub fn at(root: impl Into<PathBuf>) -> Host {
        // As long as lckpwdf() waits.
        Host { root: root.into(), lock_wait: Duration::from_secs(15) }
    }

    /// The same machine, waiting at most `wait` for the lock of the user database.
    pub fn with_lock_wait(self, wait: Duration) -> Host {
        Host { lock_wait: wait, ..self }
    }

    fn root(&self) -> &Path {
        &self.root
    }
}
