//! Who left and who is back: what a cut takes, once, and what a return gives back (invariant 6). What was there before
//! goes into the ledger before the first step; what could not be taken yet is due there until it is.

use std::collections::BTreeMap;

use super::{Action, Plan, Problem, Subject};
use crate::config::Config;
use crate::desired::Desired;
use crate::ledger::{Due, Ledger, Withheld};
use crate::name::OsUser;
use crate::observed::{HostObserved, LoginState, PasswdEntry};

/// What the ledger knows of each cut from the first step of this plan on.
pub(super) type AllWithheld = BTreeMap<OsUser, Withheld>;

/// What cuts and returns are decided from.
pub(super) struct Edges<'a> {
    pub(super) desired: &'a Desired,
    pub(super) config: &'a Config,
    pub(super) ledger: &'a Ledger,
    pub(super) observed: &'a HostObserved,
}

impl Edges<'_> {
    /// The steps of those who left and of those who are back, and what the ledger keeps before them.
    pub(super) fn plan(&self, plan: &mut Plan) -> AllWithheld {
        let mut all = AllWithheld::new();
        let gone = |user: &&OsUser| !self.desired.accounts.contains_key(*user);
        for user in self.ledger.known().into_iter().filter(gone) {
            // Nothing of them is left here; what is withheld waits for the account to be restored.
            if self.ledger.removed.contains_key(user) {
                all.extend(self.ledger.withheld.get(user).map(|kept| (user.clone(), kept.clone())));
                continue;
            }
            let known = self.ledger.withheld.get(user);
            let withheld = if self.ledger.cut.contains_key(user) {
                known.cloned().unwrap_or_default()
            } else {
                plan.step(&Subject::User(user.clone()), Action::Cut, LEFT).inverse =
                    Some(format!("write {user} into the roster again"));
                self.taken(user, known, plan)
            };
            self.take(user, withheld, plan, &mut all);
        }
        for user in self.desired.accounts.keys() {
            if self.ledger.cut.contains_key(user) {
                plan.step(&Subject::User(user.clone()), Action::Return, BACK).inverse =
                    Some(format!("take {user} out of the roster"));
            }
            if let Some(withheld) = self.ledger.withheld.get(user) {
                self.give_back(user, withheld.clone(), plan, &mut all);
            }
        }
        all
    }

    /// Ends the sessions of those who are cut, when nothing sends them new ones any more.
    pub(super) fn end_sessions(&self, plan: &mut Plan, all: &AllWithheld) {
        for (user, withheld) in all {
            let Some(entry) = self.account(user).filter(|_| withheld.due.contains(&Due::Sessions)) else {
                continue;
            };
            let locks = plan.steps.iter().position(
                |step| matches!(&step.action, Action::LockLogin { user: locked, .. } if locked == user),
            );
            let action = Action::EndSessions { user: user.clone(), uid: entry.uid };
            let step = plan.step(&Subject::User(user.clone()), action, "`[cut] end_sessions` asks for it");
            step.needs.extend(locks);
        }
    }

    /// The person's account, if it is the one that the ledger knows: another of that name is somebody else's.
    fn account(&self, user: &OsUser) -> Option<&PasswdEntry> {
        let known = self.ledger.identities.get(user)?;
        self.observed.accounts.get(user.as_str()).filter(|entry| entry.uid == known.uid)
    }

    /// What a cut takes. What an earlier one took and no return has given back yet is how it was before.
    fn taken(&self, user: &OsUser, earlier: Option<&Withheld>, plan: &mut Plan) -> Withheld {
        let mut withheld = earlier.cloned().unwrap_or_default();
        withheld.due.clear();
        if self.account(user).is_none() {
            return Withheld::default();
        }
        match self.observed.logins.get(user.as_str()) {
            Some(now) => {
                withheld.login.get_or_insert(*now);
                withheld.due.insert(Due::Login);
            }
            None => plan.problems.push(Problem {
                subject: Subject::User(user.clone()),
                what: "the login is not locked".into(),
                why: format!("/etc/shadow has no line of {user}"),
                next: "`pwconv` makes one, with a password that nobody can type".into(),
            }),
        }
        for group in &self.config.cut.groups {
            let found = self.observed.groups.get(group.as_str());
            if found.is_some_and(|found| found.members.contains(user.as_str())) {
                withheld.groups.insert(group.clone());
                withheld.due.insert(Due::Group(group.clone()));
            }
        }
        if self.config.cut.end_sessions {
            withheld.due.insert(Due::Sessions);
        }
        withheld
    }

    /// The steps of what is due. What is so already needs none, and neither does an account that is gone.
    fn take(&self, user: &OsUser, mut withheld: Withheld, plan: &mut Plan, all: &mut AllWithheld) {
        let subject = Subject::User(user.clone());
        let Some(entry) = self.account(user) else {
            withheld.due.clear();
            if !withheld.is_empty() {
                all.insert(user.clone(), withheld);
            }
            return;
        };
        if let Some(before) = withheld.login.filter(|_| withheld.due.contains(&Due::Login)) {
            if self.observed.logins.get(user.as_str()) == Some(&LoginState::CUT) {
                withheld.due.remove(&Due::Login);
            } else {
                plan.step(&subject, Action::LockLogin { user: user.clone(), before }, LEFT).inverse =
                    Some(unlock(user, before));
            }
        }
        for group in withheld.groups.clone() {
            let due = Due::Group(group.clone());
            let found = self.observed.groups.get(group.as_str());
            let is_in =
                found.is_some_and(|found| found.gid != entry.gid && found.members.contains(user.as_str()));
            if !is_in {
                withheld.due.remove(&due);
            } else if withheld.due.contains(&due) {
                let inverse = format!("gpasswd --add {user} {group}");
                let action = Action::RemoveFromGroup { user: user.clone(), group };
                plan.step(&subject, action, "no longer in the roster, and `[cut] groups` names it").inverse =
                    Some(inverse);
            }
        }
        if !withheld.is_empty() {
            all.insert(user.clone(), withheld);
        }
    }

    /// The steps of a return. What is as it was needs none; an account that was made anew has nothing to be given back.
    fn give_back(&self, user: &OsUser, mut withheld: Withheld, plan: &mut Plan, all: &mut AllWithheld) {
        if !self.observed.accounts.contains_key(user.as_str()) {
            return;
        }
        let subject = Subject::User(user.clone());
        withheld.due.clear();
        if self.account(user).is_some() {
            if let Some(before) = withheld.login {
                if self.observed.logins.get(user.as_str()) == Some(&before) {
                    withheld.login = None;
                } else {
                    let action = Action::RestoreLogin { user: user.clone(), before };
                    plan.step(&subject, action, BACK).inverse =
                        Some(format!("usermod --lock --expiredate 1 {user}"));
                }
            }
            let wanted = self.desired.accounts.get(user).map(|account| account.groups.as_slice());
            withheld.groups.retain(|group| {
                let found = self.observed.groups.get(group.as_str());
                found.is_some_and(|found| !found.members.contains(user.as_str()))
            });
            // What the roster names as well is added by its own step.
            for group in withheld.groups.iter().filter(|group| !wanted.unwrap_or_default().contains(group)) {
                let action = Action::AddToGroup { user: user.clone(), group: group.clone() };
                plan.step(&subject, action, "the cut had taken it").inverse =
                    Some(format!("gpasswd --delete {user} {group}"));
            }
        }
        if !withheld.is_empty() {
            all.insert(user.clone(), withheld);
        }
    }
}

const LEFT: &str = "no longer in the roster";
const BACK: &str = "in the roster again";

fn unlock(user: &OsUser, before: LoginState) -> String {
    let unlock = if before.locked { "" } else { " --unlock" };
    let expires = before.expires.map_or_else(|| "\"\"".into(), |day| day.to_string());
    format!("usermod{unlock} --expiredate {expires} {user}")
}
