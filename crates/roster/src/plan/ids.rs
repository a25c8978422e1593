//! The choice of ids for new accounts. An id or range that is in use, or that the ledger keeps for somebody who
//! left, is never given out: whoever got it would own the other person's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ledger::Ledger;
use crate::name::OsUser;
use crate::observed::{HostObserved, IdLimits, SubordinateRange};

/// First id and how many.
pub(super) type Range = (u32, u32);

/// Who has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    Account(&'a str),
    Group(&'a str),
    Directory(&'a OsUser),
    /// Reserved, also for people who left.
    Ledger(&'a OsUser),
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Account(name) => write!(f, "the account `{name}`"),
            Holder::Group(name) => write!(f, "the group `{name}`"),
            Holder::Directory(name) => write!(f, "`{name}` in the directory service"),
            Holder::Ledger(name) => write!(f, "`{name}`, for whom the ledger keeps it"),
        }
    }
}

/// Everything that is given out, kept up to date with what a plan gives out.
#[derive(Debug)]
pub(super) struct Ids<'a> {
    limits: &'a IdLimits,
    uid_holders: BTreeMap<u32, Vec<Holder<'a>>>,
    gid_holders: BTreeMap<u32, Vec<Holder<'a>>>,
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
    subuids: Subordinate,
    subgids: Subordinate,
}

impl<'a> Ids<'a> {
    pub(super) fn new(ledger: &'a Ledger, observed: &'a HostObserved) -> Ids<'a> {
        let mut uid_holders: BTreeMap<u32, Vec<Holder<'_>>> = BTreeMap::new();
        let mut gid_holders: BTreeMap<u32, Vec<Holder<'_>>> = BTreeMap::new();
        for (name, entry) in &observed.accounts {
            uid_holders.entry(entry.uid).or_default().push(Holder::Account(name));
            gid_holders.entry(entry.gid).or_default().push(Holder::Account(name));
        }
        for (name, group) in &observed.groups {
            gid_holders.entry(group.gid).or_default().push(Holder::Group(name));
        }
        for (name, uid) in &observed.foreign_accounts {
            uid_holders.entry(*uid).or_default().push(Holder::Directory(name));
        }
        for (name, identity) in &ledger.identities {
            uid_holders.entry(identity.uid).or_default().push(Holder::Ledger(name));
            gid_holders.entry(identity.gid).or_default().push(Holder::Ledger(name));
        }
        let uids: BTreeSet<u32> = uid_holders.keys().copied().collect();
        let gids: BTreeSet<u32> = gid_holders.keys().copied().collect();
        let IdLimits { sub_uid_min, sub_uid_max, sub_uid_count, .. } = observed.limits;
        let IdLimits { sub_gid_min, sub_gid_max, sub_gid_count, .. } = observed.limits;
        let kept = ledger.identities.iter();
        let subuids = Subordinate::new(
            (sub_uid_min, sub_uid_max, sub_uid_count),
            &observed.subuids,
            kept.clone().map(|(user, ids)| (user, ids.subuid)),
            &uids,
        );
        let subgids = Subordinate::new(
            (sub_gid_min, sub_gid_max, sub_gid_count),
            &observed.subgids,
            kept.map(|(user, ids)| (user, ids.subgid)),
            &gids,
        );
        Ids { limits: &observed.limits, uid_holders, gid_holders, uids, gids, subuids, subgids }
    }

    /// Who besides `user` has this uid.
    pub(super) fn uid_holder(&self, uid: u32, user: &OsUser) -> Option<Holder<'a>> {
        other_than(user, self.uid_holders.get(&uid))
    }

    /// Who besides `user` has this gid.
    pub(super) fn gid_holder(&self, gid: u32, user: &OsUser) -> Option<Holder<'a>> {
        other_than(user, self.gid_holders.get(&gid))
    }

    /// The next free uid, as `useradd` chooses it.
    pub(super) fn free_uid(&self) -> Option<u32> {
        next_free(&self.uids, self.limits.uid_min, self.limits.uid_max)
    }

    /// The gid that is the same number as the uid where that is free, else the next free one.
    pub(super) fn free_gid(&self, uid: u32) -> Option<u32> {
        let IdLimits { gid_min, gid_max, .. } = *self.limits;
        if (gid_min..=gid_max).contains(&uid) && !self.gids.contains(&uid) {
            return Some(uid);
        }
        next_free(&self.gids, gid_min, gid_max)
    }

    /// Keeps uid and gid from whoever comes next.
    pub(super) fn take(&mut self, user: &'a OsUser, uid: u32, gid: u32) {
        self.uids.insert(uid);
        self.gids.insert(gid);
        self.uid_holders.entry(uid).or_default().push(Holder::Account(user.as_str()));
        self.gid_holders.entry(gid).or_default().push(Holder::Group(user.as_str()));
    }

    /// The subordinate uids of a new account: what the ledger keeps or `/etc/subuid` has for it already, else
    /// new ones. `Ok(None)` where new accounts get none.
    pub(super) fn subuids(&mut self, user: &OsUser, kept: Option<Range>) -> Result<Option<Range>, NoRange> {
        self.subuids.give(user, kept)
    }

    /// The same for subordinate gids.
    pub(super) fn subgids(&mut self, user: &OsUser, kept: Option<Range>) -> Result<Option<Range>, NoRange> {
        self.subgids.give(user, kept)
    }

    /// The subordinate ranges that an account has, by name or by uid, in `/etc/subuid` and `/etc/subgid`.
    pub(super) fn ranges_of(&self, user: &OsUser, uid: u32) -> (Option<Range>, Option<Range>) {
        let first = |all: &Subordinate| {
            all.by_owner.get(user.as_str()).or_else(|| all.by_owner.get(&uid.to_string())).copied()
        };
        (first(&self.subuids), first(&self.subgids))
    }
}

fn other_than<'a>(user: &OsUser, holders: Option<&Vec<Holder<'a>>>) -> Option<Holder<'a>> {
    holders?.iter().copied().find(|holder| match holder {
        Holder::Account(name) | Holder::Group(name) => *name != user.as_str(),
        Holder::Directory(name) | Holder::Ledger(name) => *name != user,
    })
}

/// One more than the highest, as `useradd` does it; the lowest free one when the range ends there.
fn next_free(used: &BTreeSet<u32>, min: u32, max: u32) -> Option<u32> {
    if min > max {
        return None;
    }
    match used.range(min..=max).next_back() {
        None => Some(min),
        Some(highest) if *highest < max => Some(highest + 1),
        Some(_) => (min..=max).find(|id| !used.contains(id)),
    }
}

/// No range of subordinate ids is left.
#[derive(Debug)]
pub(super) struct NoRange;

/// Subordinate ids that are given out, with whom they belong to.
#[derive(Debug)]
struct Subordinate {
    /// First and last id and owner.
    ranges: BTreeSet<(u32, u32, String)>,
    /// The first range of each owner in the file.
    by_owner: BTreeMap<String, Range>,
    /// The last id of the ranges that begin within the limits.
    highest: Option<u32>,
    min: u32,
    max: u32,
    count: u32,
}

impl Subordinate {
    /// `ids` are those of users or groups: a subordinate range may not hold one, or its owner would become them.
    fn new<'a>(
        (min, max, count): (u32, u32, u32),
        lines: &[SubordinateRange],
        kept: impl Iterator<Item = (&'a OsUser, Option<Range>)>,
        ids: &BTreeSet<u32>,
    ) -> Subordinate {
        let (ranges, by_owner) = (BTreeSet::new(), BTreeMap::new());
        let mut all = Subordinate { ranges, by_owner, highest: None, min, max, count };
        for line in lines {
            all.by_owner.entry(line.owner.clone()).or_insert((line.start, line.count));
            all.add(&line.owner, (line.start, line.count));
        }
        for (user, range) in kept {
            range.into_iter().for_each(|range| all.add(user.as_str(), range));
        }
        ids.iter().for_each(|id| all.add("", (*id, 1)));
        all
    }

    fn add(&mut self, owner: &str, range: Range) {
        if range.1 == 0 {
            return;
        }
        let (start, last) = (range.0, last_of(range));
        if start <= self.max {
            self.highest = self.highest.max(Some(last));
        }
        self.ranges.insert((start, last, owner.into()));
    }

    fn give(&mut self, user: &OsUser, kept: Option<Range>) -> Result<Option<Range>, NoRange> {
        let kept = kept.filter(|range| !self.overlaps(user, *range));
        let range = match kept.or_else(|| self.by_owner.get(user.as_str()).copied()) {
            Some(range) => range,
            None if self.count == 0 => return Ok(None),
            None => (self.free().ok_or(NoRange)?, self.count),
        };
        self.add(user.as_str(), range);
        Ok(Some(range))
    }

    /// Whether somebody else has a part of the range: a `useradd` by hand does not know the ledger.
    fn overlaps(&self, user: &OsUser, range: Range) -> bool {
        let mut ranges = self.ranges.iter();
        ranges.any(|(start, last, owner)| {
            *start <= last_of(range) && *last >= range.0 && owner != user.as_str()
        })
    }

    /// Behind the highest range, and where there is no room in the lowest gap.
    fn free(&self) -> Option<u32> {
        let fits = |start: u32| start.checked_add(self.count - 1).is_some_and(|last| last <= self.max);
        let behind = self.highest.map_or(Some(self.min), |last| last.checked_add(1));
        if let Some(start) = behind.map(|start| start.max(self.min)).filter(|start| fits(*start)) {
            return Some(start);
        }
        let mut start = self.min;
        for (first, last, _) in &self.ranges {
            if *first > start && first - start >= self.count {
                break;
            }
            start = start.max(last.checked_add(1)?);
        }
        fits(start).then_some(start)
    }
}

fn last_of((start, count): Range) -> u32 {
    start.saturating_add(count.saturating_sub(1))
}
