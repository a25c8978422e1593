//! Accounts and memberships: all of a plan in one change of the user database.
//!
//! The order makes a kill at any moment harmless. Homes are built aside; the database is locked and read; each
//! account is checked against it and its home moved into place; all new texts are written beside and synced;
//! then the files are renamed, `passwd` last. So an account exists from one moment to the next, with its home,
//! its group and its locked password, and what a killed run left (a home of a reserved uid, lines without an
//! account) is used again by the next.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::fsync;
use roster::name::{GroupName, OsUser};
use roster::observed::LoginState;
use roster::plan::{NewAccount, NewHome};
use roster::report::StepResult;

use crate::Host;
use crate::database::{Aging, Changed, Database, Texts};
use crate::failure::Failure;
use crate::files::{self, Beside, Content};
use crate::folder::{self, Missing};
use crate::homes::{self, Nurseries};
use crate::lock::{self, LockError};
use crate::parse::LoginDefs;

/// A database bigger than this is not one (a uid map once grew to 2.1 GB: NX#80426).
const MAX_BYTES: u64 = 64 << 20;

/// One step of the change.
#[derive(Debug)]
pub(crate) struct UserChange<'a> {
    pub(crate) what: What<'a>,
    /// Places in the same list of steps without which this one is not done.
    pub(crate) needs: Vec<usize>,
}

/// What a step of the change does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    Account(&'a NewAccount),
    Member { user: &'a OsUser, group: &'a GroupName },
    NoMember { user: &'a OsUser, group: &'a GroupName },
    Lock { user: &'a OsUser, before: LoginState },
    Restore { user: &'a OsUser, before: LoginState },
}

impl Host {
    /// Makes the changes that can be made, and says what became of each, in the order given.
    pub(crate) fn change_users(&self, changes: &[UserChange<'_>], stop: &AtomicBool) -> Vec<StepResult> {
        let mut results: Vec<Option<Failure>> = vec![None; changes.len()];
        let new: Vec<(usize, &NewAccount)> = changes
            .iter()
            .enumerate()
            .filter_map(|(index, change)| match change.what {
                What::Account(account) if !account.home.exists => Some((index, account)),
                _ => None,
            })
            .collect();
        let homes: Vec<&NewHome> = new.iter().map(|(_, account)| &account.home).collect();
        let (nurseries, built) = homes::build(self.root(), &homes);
        for ((index, _), result) in new.iter().zip(built) {
            set(&mut results, *index, result);
        }
        match self.change_database(changes, &nurseries, &mut results, stop) {
            Ok(()) => {
                results.into_iter().map(|result| result.map_or(StepResult::Done, StepResult::from)).collect()
            }
            Err(LockError::Failed(failure)) => results
                .into_iter()
                .map(|result| StepResult::from(result.unwrap_or_else(|| failure.clone())))
                .collect(),
            Err(LockError::Stopped) => {
                results.iter().map(|_| StepResult::Skipped { why: crate::apply::STOPPED.into() }).collect()
            }
        }
    }

    /// Homes of accounts that have lost theirs.
    pub(crate) fn make_homes(&self, homes: &[&NewHome]) -> Vec<StepResult> {
        let (nurseries, built) = homes::build(self.root(), homes);
        let mut results: Vec<Result<(), Failure>> =
            homes.iter().zip(built).map(|(home, built)| built.and_then(|()| nurseries.place(home))).collect();
        if let Err(failure) = nurseries.sync() {
            results = results.into_iter().map(|result| result.and(Err(failure.clone()))).collect();
        }
        results
            .into_iter()
            .map(|result| result.map_or_else(StepResult::from, |()| StepResult::Done))
            .collect()
    }

    /// The error is of the change as a whole; nothing of it came into force then.
    fn change_database(
        &self,
        changes: &[UserChange<'_>],
        nurseries: &Nurseries,
        results: &mut [Option<Failure>],
        stop: &AtomicBool,
    ) -> Result<(), LockError> {
        let etc = folder::open(self.root(), Path::new("/etc"), Missing::Fail)
            .map_err(|error| LockError::Failed(error.failure()))?;
        let _lock = lock::take(&etc, self.lock_wait, stop)?;
        let old = read_all(&etc).map_err(LockError::Failed)?;
        let aging = aging(&etc).map_err(LockError::Failed)?;
        let mut database = Database::new(&old.texts());
        let mut placed = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            if results.get(index).is_none_or(Option::is_some) {
                continue;
            }
            let not_done = |needed: &&usize| results.get(**needed).is_none_or(Option::is_some);
            if change.needs.iter().any(|needed| not_done(&needed)) {
                // The caller, who knows the plan, words it.
                set(results, index, Err(Failure::new("a step that it needs was not done", "see that step")));
                continue;
            }
            let result = match change.what {
                What::Account(account) => database
                    .check(account)
                    .and_then(|()| {
                        if account.home.exists {
                            homes::check_existing(self.root(), &account.home)
                        } else {
                            nurseries.place(&account.home).inspect(|()| placed.push(&account.home))
                        }
                    })
                    .map(|()| database.add(account, &aging)),
                What::Member { user, group } => database.add_member(user.as_str(), group.as_str()),
                What::NoMember { user, group } => {
                    database.remove_member(user.as_str(), group.as_str());
                    Ok(())
                }
                What::Lock { user, before } => database.lock_login(user.as_str(), before),
                What::Restore { user, before } => database.restore_login(user.as_str(), before),
            };
            set(results, index, result);
        }
        let written = nurseries.sync().and_then(|()| write_all(&etc, &old, database.changed()));
        if written.is_err() {
            for home in placed {
                nurseries.take_back(home);
            }
        }
        written.map_err(LockError::Failed)?;
        // Too late to take anything back: the accounts are there.
        fsync(&etc).map_err(|error| LockError::Failed(Failure::io("syncing /etc", error)))
    }
}

/// The texts as they are now.
pub(crate) fn texts(etc: &OwnedFd) -> Result<Texts, Failure> {
    Ok(read_all(etc)?.texts())
}

/// Changes the texts. The caller has the lock.
pub(crate) fn rewrite(
    etc: &OwnedFd,
    change: impl FnOnce(&mut Database) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let old = read_all(etc)?;
    let mut database = Database::new(&old.texts());
    change(&mut database)?;
    write_all(etc, &old, database.changed())?;
    fsync(etc).map_err(|error| Failure::io("syncing /etc", error))
}

fn set(results: &mut [Option<Failure>], index: usize, result: Result<(), Failure>) {
    if let (Some(slot), Err(failure)) = (results.get_mut(index), result) {
        *slot = Some(failure);
    }
}

/// The files as they were read under the lock.
struct Files(BTreeMap<&'static str, Content>);

impl Files {
    fn texts(&self) -> Texts {
        let text = |name: &str| self.0.get(name).map(|content| content.bytes.clone());
        Texts {
            passwd: text("passwd").unwrap_or_default(),
            group: text("group").unwrap_or_default(),
            shadow: text("shadow").unwrap_or_default(),
            gshadow: text("gshadow"),
            subuid: text("subuid"),
            subgid: text("subgid"),
        }
    }
}

fn read_all(etc: &OwnedFd) -> Result<Files, Failure> {
    let mut all = BTreeMap::new();
    for (name, needed) in [
        ("passwd", true),
        ("group", true),
        ("shadow", true),
        ("gshadow", false),
        ("subuid", false),
        ("subgid", false),
    ] {
        let content = files::read(etc, OsStr::new(name), MAX_BYTES).map_err(|why| {
            Failure::new(format!("reading /etc/{name}: {why}"), "make it a regular file of root again")
        })?;
        match content {
            // An empty passwd is a broken one, never a machine without accounts (NX#229194).
            Some(content) if !needed || content.bytes.contains(&b':') => {
                all.insert(name, content);
            }
            Some(_) => {
                let next = format!("restore it: shadow's tools keep the one before in /etc/{name}-");
                return Err(Failure::new(format!("/etc/{name} holds no entry at all"), next));
            }
            None if needed => {
                let next = if name == "shadow" {
                    "make it with `pwconv`: accounts get locked passwords there".to_string()
                } else {
                    format!("restore it: shadow's tools keep the one before in /etc/{name}-")
                };
                return Err(Failure::new(format!("there is no /etc/{name}"), next));
            }
            None => {}
        }
    }
    Ok(Files(all))
}

fn aging(etc: &OwnedFd) -> Result<Aging, Failure> {
    let defs = files::read_linked(etc, OsStr::new("login.defs"), files::MAX_BYTES).map_err(|why| {
        Failure::new(format!("reading /etc/login.defs: {why}"), "make it a regular file of root again")
    })?;
    let defs = defs.map(|content| String::from_utf8_lossy(&content.bytes).into_owned()).unwrap_or_default();
    let defs = LoginDefs::new(&defs);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Aging {
        min: defs.number("PASS_MIN_DAYS"),
        max: defs.number("PASS_MAX_DAYS"),
        warn: defs.number("PASS_WARN_AGE"),
        today: i64::try_from(seconds / 86_400).unwrap_or(0),
    })
}

/// Writes all texts beside, and only when all are on the disk puts them in place. Before that, what was there
/// is kept as `passwd-` and so on, where admins look for it and shadow's tools put it.
fn write_all(etc: &OwnedFd, old: &Files, changed: Changed) -> Result<(), Failure> {
    let mut backups = Vec::new();
    let mut new = Vec::new();
    for (name, text) in changed.in_order() {
        let failed = |error: std::io::Error| Failure::io(format!("writing /etc/{name}"), error);
        let (mode, owner) = match old.0.get(name) {
            Some(before) => {
                let backup = format!("{name}-");
                let owner = (before.uid, before.gid);
                backups.push(
                    Beside::write(etc, OsStr::new(&backup), &before.bytes, before.mode, owner)
                        .map_err(failed)?,
                );
                (before.mode, owner)
            }
            None => (0o644, (folder::owner(), nix::unistd::getegid().as_raw())),
        };
        let beside = Beside::write(etc, OsStr::new(name), &text, mode, owner).map_err(failed)?;
        new.push((name, beside));
    }
    for backup in backups {
        backup.replace().map_err(|error| Failure::io("keeping a copy of the user database", error))?;
    }
    for (name, beside) in new {
        beside.replace().map_err(|error| Failure::io(format!("replacing /etc/{name}"), error))?;
    }
    Ok(())
}
