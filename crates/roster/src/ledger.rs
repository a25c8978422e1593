//! The ledger: the only state that rosterd keeps. Plain data; where it is stored is the daemon's affair.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::announce::Announcements;
use crate::desired::Ports;
use crate::guard::Objection;
use crate::name::{GroupName, HostName, OsUser, UnitName};
use crate::observed::LoginState;
use crate::plan::{Action, Problem, Subject};
use crate::provider::{Provider, ProviderState};

/// Everything that rosterd remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Grows with each accepted content of roster or config.
    pub generation: u64,
    /// The roster in force; nothing before the first valid one.
    pub applied: Option<Applied>,
    /// The roster on disk when it is not the one in force, and why not.
    pub waiting: Option<Waiting>,
    /// Why the roster in force is not applied: its tiers differ from the cluster's map. Beside `waiting`, which may
    /// hold another roster back at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers_differ: Option<Waiting>,
    /// Ports, also of people who left.
    pub ports: Ports,
    /// Ids, also of people who left: never given to anyone else.
    pub identities: BTreeMap<OsUser, Identity>,
    /// Units that rosterd enabled or adopted, of people who left too, until they are stopped and disabled.
    #[serde(default)]
    pub units: BTreeMap<OsUser, BTreeSet<UnitName>>,
    /// What systemd has not read yet of what was written for it. Kept here, so that a kill in between loses nothing.
    #[serde(default)]
    pub reload: Reload,
    /// People who left, and since when.
    pub cut: BTreeMap<OsUser, Timestamp>,
    /// What cuts took, of people who left and of those to whom not everything is given back yet.
    #[serde(default)]
    pub withheld: BTreeMap<OsUser, Withheld>,
    /// People who were cut and whose account and home were removed since, until one is made for them again.
    #[serde(default)]
    pub removed: BTreeMap<OsUser, Removed>,
    /// What is known of the git repository that the roster comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceState>,
    /// What was announced, and what is still to be sent.
    #[serde(default)]
    pub announcements: Announcements,
    /// Subjects that are not what they should be.
    pub degraded: BTreeMap<Subject, Degraded>,
    /// Notices that were told already, so that each is told once.
    pub told: BTreeSet<crate::plan::Notice>,
    /// The providers that rosterd worked with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<Provider, ProviderState>,
    /// Identifier of the newest run.
    pub last_run: Option<String>,
}

impl Ledger {
    /// Everybody who ever was in a roster that came into force here: such a person has a port or ids.
    pub fn known(&self) -> BTreeSet<&OsUser> {
        self.identities
            .keys()
            .chain(self.ports.values().flat_map(BTreeMap::keys))
            .chain(self.units.keys())
            .collect()
    }

    /// Takes note of a step that was applied: the ids of an account that was made are never chosen anew, and what a
    /// cut took, or a return gave back, is no longer to be done.
    pub fn applied(&mut self, action: &Action) {
        match action {
            Action::CreateAccount(account) => {
                if let Some(identity) = self.identities.get_mut(&account.user) {
                    identity.used = true;
                }
                self.removed.remove(&account.user);
            }
            Action::LockLogin { user, .. } => self.taken(user, &Due::Login),
            Action::RemoveFromGroup { user, group } => self.taken(user, &Due::Group(group.clone())),
            Action::EndSessions { user, .. } => self.taken(user, &Due::Sessions),
            Action::RestoreLogin { user, .. } => self.given_back(user, |withheld| withheld.login = None),
            Action::AddToGroup { user, group } => {
                self.given_back(user, |withheld| withheld.groups.retain(|other| other != group));
            }
            _ => {}
        }
    }

    fn taken(&mut self, user: &OsUser, due: &Due) {
        if let Some(withheld) = self.withheld.get_mut(user) {
            withheld.due.remove(due);
        }
    }

    fn given_back(&mut self, user: &OsUser, change: impl FnOnce(&mut Withheld)) {
        if let Some(withheld) = self.withheld.get_mut(user) {
            change(withheld);
            if withheld.is_empty() {
                self.withheld.remove(user);
            }
        }
    }
}

/// What is known of the git repository that the roster comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The commit that was fetched last.
    pub commit: Option<String>,
    /// Why it cannot be fetched, when it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<SourceFailure>,
}

/// Why the roster cannot be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    /// Since when.
    pub since: Timestamp,
    /// Why, in words.
    pub why: String,
}

/// Where what was removed is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// When.
    pub since: Timestamp,
    /// When the person was cut.
    pub cut: Timestamp,
    /// The archive of the home.
    pub archive: String,
}

/// What a cut took from a person, so that a return gives back exactly that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// The login as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginState>,
    /// The groups that the person was taken out of.
    #[serde(default)]
    pub groups: BTreeSet<GroupName>,
    /// What of the cut is still to be done. Once done it is not done again, whatever an admin changes by hand
    /// (invariant 6).
    #[serde(default)]
    pub due: BTreeSet<Due>,
}

impl Withheld {
    /// Whether there is nothing to give back and nothing to do.
    pub fn is_empty(&self) -> bool {
        self.login.is_none() && self.groups.is_empty() && self.due.is_empty()
    }
}

/// A part of a cut that is still to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Due {
    /// The login is not locked yet.
    Login,
    /// The person is still in the group.
    Group(GroupName),
    /// What the person runs is not ended yet.
    Sessions,
}

/// What systemd has not read yet of what was written for it. The greater includes the lesser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// Nothing.
    #[default]
    None,
    /// Units and drop-ins of the system.
    System,
    /// Also drop-ins of the people's own managers.
    Users,
}

/// The roster in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its text, so that it stays in force when the file is gone.
    pub roster: String,
    /// The text of the config at the time.
    pub config: String,
    /// The name by which this machine's part of the roster was chosen. Without one all of it is in force: so it was
    /// before `hosts` was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// When it was accepted.
    pub since: Timestamp,
}

/// A roster that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub cause: WaitingCause,
    /// A digest of what is on disk, to notice when it changes.
    pub fingerprint: String,
}

/// Why a roster is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum WaitingCause {
    /// It does not parse, or cannot be read; the diagnostics as text.
    Invalid {
        /// What an admin reads.
        diagnostics: String,
    },
    /// More people would be cut than the guard allows.
    Held {
        /// Who would be cut.
        cuts: Vec<OsUser>,
        /// What the guard has against it.
        why: Objection,
        /// Whether an admin has confirmed exactly this.
        confirmed: bool,
    },
    /// Tiers differ from the cluster's map.
    TierMismatch {
        /// One sentence for each person.
        differences: Vec<String>,
    },
}

/// The ids of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Subordinate uids: first and count.
    pub subuid: Option<(u32, u32)>,
    /// Subordinate gids: first and count.
    pub subgid: Option<(u32, u32)>,
    /// True only when rosterd itself created the account. An adopted account is never removed by rosterd.
    pub created: bool,
    /// Whether the account was there with these ids. Until then nobody has files under them, and they may be chosen
    /// anew when somebody else took them. Ledgers of earlier versions do not say, and then it was.
    #[serde(default = "yes")]
    pub used: bool,
}

fn yes() -> bool {
    true
}

/// A subject that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// Since when.
    pub since: Timestamp,
    /// How many runs in a row.
    pub failures: u32,
    /// When it is tried again.
    pub next_try: Timestamp,
    /// What is wrong.
    pub problems: Vec<Problem>,
}
