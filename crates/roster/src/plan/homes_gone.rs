//! Whether the file system of the homes seems not to be mounted. Making every home again below an empty mount point
//! would fill the wrong disk, and hide there as soon as the real one is back.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Problem, Subject};
use crate::config::Config;
use crate::desired::Desired;
use crate::ledger::Ledger;
use crate::name::OsUser;
use crate::observed::{HomeFolder, HostObserved};

/// Homes that rosterd made and that are gone, more at once than anybody removes by hand.
#[derive(Debug)]
pub(super) struct HomesGone<'a> {
    base: &'a Path,
    users: BTreeSet<&'a OsUser>,
}

impl<'a> HomesGone<'a> {
    /// One home that is gone is made again. More than `[guard] max_cuts`, or several and none that is left, are not.
    pub(super) fn look(
        desired: &'a Desired,
        config: &'a Config,
        ledger: &Ledger,
        observed: &HostObserved,
    ) -> Option<HomesGone<'a>> {
        let base = config.accounts.home_base.as_path();
        let (mut users, mut left) = (BTreeSet::new(), 0);
        for (user, wanted) in &desired.accounts {
            let Some(entry) = observed.accounts.get(user.as_str()) else { continue };
            match observed.homes.get(user) {
                Some(HomeFolder::Absent) => {
                    let made_by_us = ledger.identities.get(user).is_some_and(|known| known.created);
                    if made_by_us && entry.home == wanted.home {
                        users.insert(user);
                    }
                }
                Some(_) if entry.home.starts_with(base) => left += 1,
                Some(_) | None => {}
            }
        }
        let too_many = users.len() > config.guard.max_cuts.max(1) || (users.len() > 1 && left == 0);
        too_many.then_some(HomesGone { base, users })
    }

    pub(super) fn has(&self, user: &OsUser) -> bool {
        self.users.contains(user)
    }

    /// What is told of the machine.
    pub(super) fn problem(&self) -> Problem {
        let base = self.base.display();
        Problem {
            subject: Subject::Machine,
            what: format!("{base} seems not to be mounted, so no home is made"),
            why: format!("{} homes that rosterd made there are gone at once", self.users.len()),
            next: format!(
                "mount it; if the homes are really lost, restore them, or make the folders by hand, each as \
                 `install -d -o USER -g USER -m 0700 {base}/USER`"
            ),
        }
    }

    /// What is told of a person whose home or account would have to be made there.
    pub(super) fn of(&self, user: &OsUser) -> Problem {
        let base = self.base.display();
        Problem {
            subject: Subject::User(user.clone()),
            what: match self.has(user) {
                true => "its home is gone, and is not made again".into(),
                false => "no account is made".into(),
            },
            why: format!("so many homes are gone that {base} seems not to be mounted"),
            next: format!("mount {base}; the machine's own lines in `rosterctl status` say more"),
        }
    }
}
