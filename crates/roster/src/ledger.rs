//! The ledger: the only state that rosterd keeps. Plain data; where it is stored is the daemon's affair.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::Ports;
use crate::guard::Objection;
use crate::name::{OsUser, UnitName};
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

    /// Takes note of a step that was applied: the ids of an account that was made are never chosen anew.
    pub fn applied(&mut self, action: &Action) {
        if let Action::CreateAccount(account) = action
            && let Some(identity) = self.identities.get_mut(&account.user)
        {
            identity.used = true;
        }
    }
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
