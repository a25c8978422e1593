//! The people of a roster in a Vault: what should be there and what is, as plain data.
//!
//! | part | what it holds |
//! | --- | --- |
//! | [`Vault`] | `[vault]` of the config |
//! | [`desired()`] | from roster and config to what should be there |
//! | [`VaultLook`], [`VaultObserved`] | what is looked at, and what it shows |
//! | [`Mark`], [`Rules`] | whose a policy is, and what it allows |
//! | [`published`] | the roster's people in the cluster's list, `k8s_users` |
//!
//! The steps between the two are planned in [`crate::plan::vault()`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::PlacedName;
use crate::name::OsUser;
use crate::plan::{Notice, Problem, Subject};

mod config;
mod desired;
mod json;
mod policy;
mod publish;

pub use config::{AliasName, KvField, LoginMethod, Vault, VaultLogin};
pub use desired::desired;
pub use policy::{Mark, Rules, same_policy};
pub use publish::{PublishError, published};

pub(crate) use policy::{allows, text as policy_text};

/// The prefixes of our policies' names. Of others nothing is read.
pub const PREFIXES: [&str; 3] = ["namespace-owner-", "workstation-", "state-"];

/// The ending of the names of pipelines' roles.
pub const ROLE_ENDING: &str = "-deployer";

/// How long what a pipeline gets is valid, in seconds.
pub const ROLE_TTL_S: u64 = 3600;

/// Everything that should be in Vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VaultDesired {
    /// Which rosterd this is.
    pub instance: String,
    /// Where to look.
    pub look: VaultLook,
    /// Policies by name: whom each is about, and what it allows.
    pub policies: BTreeMap<String, (Mark, Rules)>,
    /// People by account.
    pub people: BTreeMap<OsUser, Entity>,
    /// The service account of the pipelines, when there are roles for them.
    pub pipelines: Option<PlacedName>,
    /// The pipelines' roles by name.
    pub roles: BTreeMap<String, (OsUser, Role)>,
    /// Keys in the transit engine, and whose they are.
    pub keys: BTreeMap<String, OsUser>,
    /// What is written into the cluster's list; nothing when it is only read.
    pub publish: Option<Map<String, Value>>,
    /// People whose policies stay although they left the roster.
    pub kept: BTreeSet<OsUser>,
    /// The most that may be taken away in one run.
    pub max_deletes: usize,
    /// What keeps people from what the roster says.
    pub problems: Vec<Problem>,
    /// What an admin should know.
    pub notices: Vec<Notice>,
}

/// Where to look in Vault, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultLook {
    /// The mount by which people log in.
    pub people_mount: String,
    /// The auth method of pipelines, when there are roles for them.
    pub pipelines_mount: Option<String>,
    /// The transit engine, when there are keys.
    pub transit_mount: Option<String>,
    /// The cluster's list of people.
    pub k8s_users: Option<KvField>,
    /// Names of entities.
    pub entities: BTreeSet<String>,
    /// What the people's mount knows people by.
    pub aliases: BTreeSet<String>,
    /// Names of pipelines' roles.
    pub roles: BTreeSet<String>,
}

/// A person in Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// The name of the entity, when it has to be made.
    pub name: String,
    /// What the people's mount knows the person by; nothing when that is not known.
    pub alias: Option<String>,
    /// Their policies.
    pub policies: BTreeSet<String>,
}

/// What a pipeline gets when it logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Who may log in.
    pub service_account: PlacedName,
    /// The policies that they get.
    pub policies: BTreeSet<String>,
}

/// Why a part of Vault could not be read: nothing is concluded about it (invariant 8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Why.
    pub why: String,
    /// What an admin can do.
    pub next: String,
}

/// What Vault shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultObserved {
    /// The list of people as text, when it was asked for; nothing when there is none.
    pub list: Result<Option<String>, Unread>,
    /// The accessor of the people's mount; nothing when there is no such mount.
    pub accessor: Result<Option<String>, Unread>,
    /// The policies with one of our prefixes.
    pub policies: Result<BTreeMap<String, String>, Unread>,
    /// The entities that were asked for, and those of people whom a policy of ours names.
    pub entities: Result<Vec<SeenEntity>, Unread>,
    /// The pipelines' roles that were asked for, and all others with our ending.
    pub roles: Result<BTreeMap<String, SeenRole>, Unread>,
    /// The keys in the transit engine.
    pub keys: Result<BTreeSet<String>, Unread>,
}

/// An entity as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenEntity {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its policies.
    pub policies: BTreeSet<String>,
    /// What the people's mount knows it by.
    pub aliases: BTreeSet<String>,
    /// Who else logs in as it: what other mounts know it by, in words.
    pub others: BTreeSet<String>,
}

/// A role as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRole {
    /// Names of service accounts.
    pub names: BTreeSet<String>,
    /// Their namespaces.
    pub namespaces: BTreeSet<String>,
    /// The policies that they get.
    pub policies: BTreeSet<String>,
    /// How long that is valid, in seconds.
    pub ttl_s: u64,
    /// Its other settings that are not as Vault makes them.
    pub changed: BTreeSet<String>,
}

impl VaultObserved {
    /// Nothing of it was read, for one reason.
    pub fn unread(why: &Unread) -> VaultObserved {
        VaultObserved {
            list: Err(why.clone()),
            accessor: Err(why.clone()),
            policies: Err(why.clone()),
            entities: Err(why.clone()),
            roles: Err(why.clone()),
            keys: Err(why.clone()),
        }
    }
}

/// A policy or an entity is the same one however its name is spelled; Vault keeps it in small letters.
pub fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// The subject of a person.
pub(crate) fn subject(user: &OsUser) -> Subject {
    Subject::User(user.clone())
}
