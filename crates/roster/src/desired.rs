//! What should be: roster, config and ledger thought through to single facts, without looking at the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::files::FileDesired;
use crate::model::{CodeLayout, Limits, Tier};
use crate::name::{GroupName, KubeUser, Login, Namespace, OsUser, RepoName, ServiceName, Shell, UnitName};
use crate::wiring::WiringDesired;

/// `{service: {os_user: port}}`: the ports that were given out, which never move.
pub type Ports = BTreeMap<ServiceName, BTreeMap<OsUser, u16>>;

/// Services and people whose port is not known, because their environment file cannot be read.
pub type UnknownPorts = BTreeSet<(ServiceName, OsUser)>;

/// Everything that should be on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Desired {
    /// Per account, what it should be.
    pub accounts: BTreeMap<OsUser, Account>,
    /// The text of `/etc/ttyd-user-map`.
    pub ttyd_user_map: String,
    /// The text of `/etc/ttyd-admins`.
    pub ttyd_admins: String,
    /// The content of `dispatch.json`.
    pub dispatch: BTreeMap<Login, Dispatch>,
    /// Every port, also of people who left.
    pub ports: Ports,
}

impl Desired {
    /// The text of `dispatch.json`.
    pub fn dispatch_json(&self) -> String {
        let entry = |(login, to): (&Login, &Dispatch)| {
            let to = [("os_user", Value::from(to.os_user.as_str())), ("port", Value::from(to.port))];
            let to: Map<String, Value> = to.into_iter().map(|(key, value)| (key.into(), value)).collect();
            (login.to_string(), Value::Object(to))
        };
        format!("{:#}\n", Value::Object(self.dispatch.iter().map(entry).collect()))
    }
}

/// Where a login's requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dispatch {
    /// The account.
    pub os_user: OsUser,
    /// The port of the first configured service.
    pub port: u16,
}

/// What one account should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The login at the identity provider.
    pub authentik_user: Login,
    /// The name in the cluster's map.
    pub k8s_user: KubeUser,
    /// What the person may do.
    pub tier: Tier,
    /// The Unix groups of tier and person, sorted, each once.
    pub groups: Vec<GroupName>,
    /// The login shell of a new account.
    pub shell: Shell,
    /// Whether the roster names that shell; without that, an account that exists may well have another.
    #[serde(skip)]
    pub shell_is_asked_for: bool,
    /// The home of a new account.
    pub home: PathBuf,
    /// The uid that the roster asks for.
    pub uid: Option<u32>,
    /// How the clones lie.
    pub code_layout: CodeLayout,
    /// Repositories besides infra.
    pub repos: Vec<RepoName>,
    /// The person's namespaces.
    pub namespaces: Vec<Namespace>,
    /// Whether every service is stopped.
    pub parked: bool,
    /// Whether the agent's sign-in is kept in step.
    pub claude_auth: bool,
    /// New accounts get a locked password: always true.
    pub login_locked: bool,
    /// The units of the person's services.
    pub units: Vec<UnitDesired>,
    /// The limits of the person's slice.
    pub limits: Limits,
    /// What should be in the home.
    pub home_content: HomeDesired,
}

/// A unit of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitDesired {
    /// Its name.
    pub unit: UnitName,
    /// The service that it runs.
    pub service: ServiceName,
    /// The person's port of that service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What it should do.
    #[serde(flatten)]
    pub wish: UnitWish,
}

/// What a unit should do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "wish", rename_all = "kebab-case")]
pub enum UnitWish {
    /// Enabled and started.
    Running,
    /// Stopped and disabled, whoever started it.
    Stopped {
        /// What in the roster says so.
        why: String,
    },
}

/// What should be in one home. Travels to the worker, so it holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct HomeDesired {
    /// `~/code` is a plain folder that holds the clones.
    pub workspace: bool,
    /// The clones, in the order in which they are made.
    pub clones: Vec<CloneDesired>,
    /// What git is told in this home.
    #[serde(default, skip_serializing_if = "WiringDesired::is_empty")]
    pub wiring: WiringDesired,
    /// The files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDesired>,
    /// Folders here that other homes link to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<String>,
}

impl HomeDesired {
    /// Whether no worker is needed.
    pub fn is_empty(&self) -> bool {
        self.clones.is_empty()
            && !self.workspace
            && self.wiring.is_empty()
            && self.files.is_empty()
            && self.bases.is_empty()
    }

    /// The clone of the infra repository; no repository of the roster may have its name.
    pub fn infra(&self) -> Option<&CloneDesired> {
        self.clones.iter().find(|clone| matches!(clone.path.as_str(), "code" | "code/infra"))
    }
}

/// A clone that should be in a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct CloneDesired {
    /// Its place below the home, such as `code/infra`. Made from validated names only.
    pub path: String,
    /// Where it is cloned from.
    pub url: String,
    /// Whether git-crypt's filter is answered by the clone's own configuration, so that encrypted files stay
    /// ciphertext and no plain text can be committed over them.
    pub locked: bool,
}
