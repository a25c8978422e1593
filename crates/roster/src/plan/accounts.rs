//! What becomes of one person's account: made whole, added to groups, or told why not. Existing accounts keep
//! uid, shell, home and groups whatever the roster says (invariant 1).

use std::collections::{BTreeMap, BTreeSet};

use super::homes_gone::HomesGone;
use super::ids::{Holder, Ids, Range};
use super::{NewAccount, NewHome, Notice, Problem, Subject};
use crate::config::Config;
use crate::desired::{Account, Desired};
use crate::ledger::{Identity, Ledger};
use crate::name::{GroupName, OsUser};
use crate::observed::{HomeFolder, HostObserved, PasswdEntry};

/// What the decisions are made from.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) config: &'a Config,
    pub(super) ledger: &'a Ledger,
    pub(super) observed: &'a HostObserved,
    /// The groups that each name is listed in.
    pub(super) groups_of: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Set while so many homes are gone that their file system seems not to be mounted.
    pub(super) homes_gone: Option<HomesGone<'a>>,
}

/// What is done about an account that exists.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// Ids that the ledger does not have yet.
    pub(super) adopted: Option<Identity>,
    /// Groups to add it to.
    pub(super) groups: Vec<GroupName>,
    /// Its home, when rosterd made the account and the home is gone.
    pub(super) home: Option<NewHome>,
    /// What is told.
    pub(super) notices: Vec<Notice>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        desired: &'a Desired,
        config: &'a Config,
        ledger: &'a Ledger,
        observed: &'a HostObserved,
    ) -> View<'a> {
        let mut groups_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, group) in &observed.groups {
            for member in &group.members {
                groups_of.entry(member).or_default().insert(name);
            }
        }
        let homes_gone = HomesGone::look(desired, config, ledger, observed);
        View { config, ledger, observed, groups_of, homes_gone }
    }

    /// The ids that the ledger keeps for somebody without an account. Those that no account ever had, and that
    /// somebody else took meanwhile, are nobody's: a `useradd` by hand does not know the ledger.
    pub(super) fn reserved(&self, user: &OsUser, ids: &Ids<'_>) -> Option<&'a Identity> {
        self.ledger.identities.get(user).filter(|known| {
            known.used
                || (ids.uid_holder(known.uid, user).is_none() && ids.gid_holder(known.gid, user).is_none())
        })
    }

    fn is_in(&self, user: &OsUser, group: &GroupName) -> bool {
        self.groups_of.get(user.as_str()).is_some_and(|groups| groups.contains(group.as_str()))
    }

    /// Decides about an account that exists.
    pub(super) fn existing(
        &self,
        user: &OsUser,
        wanted: &Account,
        entry: &PasswdEntry,
        ids: &Ids<'_>,
    ) -> Result<Existing, Problem> {
        let uid = entry.uid;
        // Ids that were reserved and never used say nothing about an account that somebody else made.
        let known = self.ledger.identities.get(user).filter(|known| known.used || known.uid == uid);
        if let Some(known) = known.filter(|known| known.uid != uid) {
            return Err(problem(
                user,
                format!("the account has uid {uid}, the ledger knows it with uid {}", known.uid),
                "it was made anew or changed by hand; files and processes of the earlier uid are not this account's",
                format!("give it its uid back: `usermod --uid {} {user}`", known.uid),
            ));
        }
        let limits = &self.observed.limits;
        if known.is_none() && !(limits.uid_min..=limits.uid_max).contains(&uid) {
            return Err(problem(
                user,
                format!("`{user}` is an account of the system (uid {uid})"),
                format!("people have uids from {} to {}", limits.uid_min, limits.uid_max),
                "choose another name for this person in the roster",
            ));
        }
        if let Some(gone) = self.homes_gone.as_ref().filter(|gone| gone.has(user)) {
            return Err(gone.of(user));
        }
        self.not_aside(user)?;
        let mut told = Told::new(user);
        if let Some(holder) = ids.uid_holder(uid, user) {
            told.add(format!("uid {uid} is also that of {holder}: each owns the other's files"));
        }
        if let Some(asked) = wanted.uid.filter(|asked| *asked != uid) {
            told.add(format!(
                "has uid {uid}, the roster asks for {asked}; the uid of an account is never changed"
            ));
        }
        if wanted.shell_is_asked_for && wanted.shell.as_str() != entry.shell {
            told.add(format!(
                "has the shell {}, the roster asks for {}; the shell of an account is never changed, `chsh` does it",
                entry.shell, wanted.shell
            ));
        }
        let is_primary = |group: &&GroupName| {
            self.observed.groups.get(group.as_str()).is_some_and(|found| found.gid == entry.gid)
        };
        let exists = |group: &&GroupName| self.observed.groups.contains_key(group.as_str());
        let groups = wanted.groups.iter().filter(exists).filter(|group| !is_primary(group));
        let groups = groups.filter(|group| !self.is_in(user, group)).cloned().collect();
        self.tell_groups_of_other_tiers(user, wanted, &mut told);
        let home = self.lost_home(user, wanted, entry, &mut told);
        let adopted = match known {
            None => {
                let (subuid, subgid) = ids.ranges_of(user, uid);
                Some(Identity { uid, gid: entry.gid, subuid, subgid, created: false, used: true })
            }
            // Made by a run that was killed before it could note that, or by hand meanwhile.
            Some(known) if !known.used => Some(Identity {
                gid: entry.gid,
                created: known.created && known.gid == entry.gid,
                used: true,
                ..known.clone()
            }),
            Some(_) => None,
        };
        Ok(Existing { adopted, groups, home, notices: told.notices })
    }

    /// The home to make for an account that has none. Only what rosterd made is made again: a home that
    /// somebody else took away may be an unmounted file system.
    fn lost_home(
        &self,
        user: &OsUser,
        wanted: &Account,
        entry: &PasswdEntry,
        told: &mut Told,
    ) -> Option<NewHome> {
        let path = entry.home.display();
        match self.observed.homes.get(user)? {
            HomeFolder::Absent => {
                let made_by_us = self.ledger.identities.get(user).is_some_and(|known| known.created);
                if made_by_us && entry.home == wanted.home {
                    return Some(self.home(wanted, entry.uid, entry.gid, false));
                }
                told.add(format!(
                    "its home {path} does not exist; rosterd makes only homes that it made before"
                ));
            }
            HomeFolder::Folder { uid, .. } if *uid != entry.uid => {
                told.add(format!(
                    "its home {path} belongs to uid {uid}, not to {}; it is left as it is",
                    entry.uid
                ));
            }
            HomeFolder::Folder { .. } | HomeFolder::Other(_) | HomeFolder::Aside(_) => {}
        }
        None
    }

    /// Whose home a removal has put aside gets no other one: the two could never be one again.
    fn not_aside(&self, user: &OsUser) -> Result<(), Problem> {
        let Some(HomeFolder::Aside(name)) = self.observed.homes.get(user) else { return Ok(()) };
        Err(problem(
            user,
            format!("a removal was interrupted, and the home is aside as {name}"),
            "an account made now would have another, empty home",
            format!(
                "take {user} out of the roster, then `rosterctl restore-account` with the archive takes the removal back, \
                 or `rosterctl offboard {user}` ends it"
            ),
        ))
    }

    fn home(&self, wanted: &Account, uid: u32, gid: u32, exists: bool) -> NewHome {
        NewHome { path: wanted.home.clone(), uid, gid, skel: self.config.accounts.skel.clone(), exists }
    }

    /// Decides about an account that does not exist: it is made whole, or not at all.
    pub(super) fn absent(
        &self,
        user: &'a OsUser,
        wanted: &Account,
        ids: &mut Ids<'a>,
    ) -> Result<(NewAccount, Vec<Notice>), Problem> {
        if let Some(gone) = &self.homes_gone {
            return Err(gone.of(user));
        }
        self.not_aside(user)?;
        let known = self.reserved(user, ids);
        self.may_be_made(user, self.ledger.identities.get(user))?;
        let mut told = Told::new(user);
        // Reserved ids and those that the roster asks for were meant for this person before the folder was seen.
        let owner = known.map(|known| known.uid).or(wanted.uid);
        let exists = self.home_is_there(user, wanted, owner)?;
        let uid = self.uid(user, wanted, known, ids, &mut told)?;
        let gid = match known {
            Some(known) => known.gid,
            // A group of the name is there only when a killed run made it.
            None => match self.observed.groups.get(user.as_str()) {
                Some(group) => group.gid,
                None => ids.free_gid(uid).ok_or_else(|| exhausted(user, "gid", "GID_MAX"))?,
            },
        };
        if let Some(holder) = ids.gid_holder(gid, user).filter(|_| known.is_some()) {
            return Err(taken(user, "gid", gid, holder, true));
        }
        let (kept_uids, kept_gids) = known.map_or((None, None), |known| (known.subuid, known.subgid));
        // An account without subordinate ids gets none when it returns, and so keeps what it had.
        let none = known.is_some_and(|known| known.subuid.is_none() && known.subgid.is_none());
        let no_range = |kind, limit| move |_| exhausted(user, kind, limit);
        let subuid = match none {
            true => None,
            false => {
                ids.subuids(user, kept_uids).map_err(no_range("range of subordinate uids", "SUB_UID_MAX"))?
            }
        };
        let subgid = match none {
            true => None,
            false => {
                ids.subgids(user, kept_gids).map_err(no_range("range of subordinate gids", "SUB_GID_MAX"))?
            }
        };
        for (kept, given) in [(kept_uids, subuid), (kept_gids, subgid)] {
            if let (Some(kept), Some(given)) = (kept, given)
                && kept != given
            {
                told.add(moved(kept, given));
            }
        }
        ids.take(user, uid, gid);
        if known.is_none() {
            self.tell_stale_groups(user, wanted, &mut told);
        }
        if !self.observed.shells.contains(&wanted.shell) {
            told.add(format!("its shell {} is not installed, so nobody can log in with it", wanted.shell));
        }
        let exist = |group: &&GroupName| {
            self.observed.groups.contains_key(group.as_str()) && group.as_str() != user.as_str()
        };
        let account = NewAccount {
            user: user.clone(),
            uid,
            gid,
            gecos: String::new(),
            shell: wanted.shell.clone(),
            subuid,
            subgid,
            groups: wanted.groups.iter().filter(exist).cloned().collect(),
            home: self.home(wanted, uid, gid, exists),
        };
        Ok((account, told.notices))
    }

    /// Nobody else has the name. A group of that name is ours when it has the gid that the ledger reserved: a
    /// run that was killed wrote `group` before `passwd`.
    fn may_be_made(&self, user: &OsUser, known: Option<&Identity>) -> Result<(), Problem> {
        if let Some(uid) = self.observed.foreign_accounts.get(user) {
            let services = self.observed.directory_services.join(", ");
            return Err(problem(
                user,
                format!("`{user}` exists in a directory service (uid {uid}), not on this machine"),
                format!(
                    "nsswitch.conf names {services} for passwd; a local account of the same name would hide it"
                ),
                "take the person out of the roster, or out of the directory",
            ));
        }
        // An account that rosterd made before is no news to the directory.
        if let Some(why) = self.observed.unanswered_accounts.get(user).filter(|_| known.is_none()) {
            let services = self.observed.directory_services.join(", ");
            return Err(problem(
                user,
                format!("nobody can say whether `{user}` exists in a directory service"),
                format!("nsswitch.conf names {services} for passwd, which did not answer: {why}"),
                format!("see whether `getent passwd {user}` answers; the account is made when it does"),
            ));
        }
        match self.observed.groups.get(user.as_str()) {
            Some(group) if known.is_none_or(|known| known.gid != group.gid) => Err(problem(
                user,
                format!("a group `{user}` (gid {}) exists without an account of that name", group.gid),
                "a new account gets a group of its own name, and this one may own files of somebody else",
                format!("`groupdel {user}` if nobody needs it, or choose another name in the roster"),
            )),
            _ => Ok(()),
        }
    }

    fn uid(
        &self,
        user: &OsUser,
        wanted: &Account,
        known: Option<&Identity>,
        ids: &Ids<'_>,
        told: &mut Told,
    ) -> Result<u32, Problem> {
        let limits = &self.observed.limits;
        let uid = match (known, wanted.uid) {
            (Some(known), asked) => {
                if let Some(asked) = asked.filter(|asked| *asked != known.uid) {
                    told.add(format!(
                        "gets its earlier uid {} again, not {asked} as in the roster: its files are there under it",
                        known.uid
                    ));
                }
                known.uid
            }
            (None, Some(asked)) if !(limits.uid_min..=limits.uid_max).contains(&asked) => {
                return Err(problem(
                    user,
                    format!("uid {asked} is not one of a person"),
                    format!(
                        "people have uids from {} to {} (/etc/login.defs)",
                        limits.uid_min, limits.uid_max
                    ),
                    "change `uid:` in the roster, or leave it out",
                ));
            }
            (None, Some(asked)) => asked,
            (None, None) => {
                return ids.free_uid().ok_or_else(|| exhausted(user, "uid", "UID_MAX"));
            }
        };
        match ids.uid_holder(uid, user) {
            Some(holder) => Err(taken(user, "uid", uid, holder, known.is_some())),
            None => Ok(uid),
        }
    }

    /// Whether the home is there already. `owner` is whose folder may be taken as it is.
    fn home_is_there(&self, user: &OsUser, wanted: &Account, owner: Option<u32>) -> Result<bool, Problem> {
        let path = wanted.home.display();
        let refused = |what: String, next: String| {
            Err(problem(user, what, "no account is made around a home that may be somebody else's", next))
        };
        match self.observed.homes.get(user) {
            Some(HomeFolder::Absent) => Ok(false),
            Some(HomeFolder::Folder { uid, .. }) if Some(*uid) == owner => Ok(true),
            Some(HomeFolder::Folder { uid, .. }) => {
                let limits = &self.observed.limits;
                let is_a_persons = (limits.uid_min..=limits.uid_max).contains(uid);
                let or = if is_a_persons {
                    format!("; or, if it is {user}'s and the uid is free, set `uid: {uid}` in the roster")
                } else {
                    String::new()
                };
                refused(format!("{path} exists and belongs to uid {uid}"), format!("move it away{or}"))
            }
            Some(HomeFolder::Other(what)) => {
                refused(format!("{path} is {what}, not a folder"), "move it away".into())
            }
            Some(HomeFolder::Aside(_)) | None => Err(problem(
                user,
                format!("{path} could not be looked at"),
                "what stands there is not known",
                format!("see to it that {path} can be read"),
            )),
        }
    }

    /// Nobody is taken out of a group, so who came down from a tier still has what only that tier brings.
    fn tell_groups_of_other_tiers(&self, user: &OsUser, wanted: &Account, told: &mut Told) {
        for (tier, policy) in self.config.tiers.iter().filter(|(tier, _)| **tier != wanted.tier) {
            let kept = policy.groups.iter().filter(|group| !wanted.groups.contains(group));
            for group in kept.filter(|group| self.is_in(user, group)) {
                told.add(format!(
                    "is in the group `{group}`, which the tier {tier} brings and {} does not; nobody is taken out of \
                     a group, `gpasswd --delete {user} {group}` does it",
                    wanted.tier
                ));
            }
        }
    }

    /// `/etc/group` can list a name whose account is gone; a new account of that name has those groups.
    fn tell_stale_groups(&self, user: &OsUser, wanted: &Account, told: &mut Told) {
        let listed = self.groups_of.get(user.as_str()).into_iter().flatten();
        let wanted: BTreeSet<&str> = wanted.groups.iter().map(GroupName::as_str).collect();
        for group in listed.filter(|group| !wanted.contains(*group)) {
            told.add(format!(
                "/etc/group lists the name in `{group}` from before the account existed; \
                 `gpasswd --delete {user} {group}` unless that is meant"
            ));
        }
    }
}

fn moved(kept: Range, given: Range) -> String {
    format!(
        "gets the subordinate ids from {} on: somebody else has those from {} on that the ledger kept for it",
        given.0, kept.0
    )
}

fn taken(user: &OsUser, kind: &str, id: u32, holder: Holder<'_>, is_kept: bool) -> Problem {
    let next = match holder {
        _ if is_kept => format!("the ledger keeps it for {user}, whose files have it: change {holder}"),
        Holder::Ledger(_) => {
            "set another `uid:` in the roster: ids of people who left are given to nobody".into()
        }
        _ => "set another `uid:` in the roster, or leave it out".into(),
    };
    problem(user, format!("{kind} {id} is taken"), format!("it is that of {holder}"), next)
}

fn exhausted(user: &OsUser, kind: &str, limit: &str) -> Problem {
    problem(
        user,
        format!("no {kind} is free for a new account"),
        "every one of the range is in use, or kept for somebody who left",
        format!("raise {limit} in /etc/login.defs"),
    )
}

fn problem(
    user: &OsUser,
    what: impl Into<String>,
    why: impl Into<String>,
    next: impl Into<String>,
) -> Problem {
    Problem { subject: Subject::User(user.clone()), what: what.into(), why: why.into(), next: next.into() }
}

/// What is told about one person.
#[derive(Debug)]
struct Told {
    subject: Subject,
    notices: Vec<Notice>,
}

impl Told {
    fn new(user: &OsUser) -> Told {
        Told { subject: Subject::User(user.clone()), notices: Vec::new() }
    }

    fn add(&mut self, text: String) {
        self.notices.push(Notice { subject: self.subject.clone(), text });
    }
}
