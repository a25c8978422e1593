//! The roster: the people of this machine and the policy of each, as validated data.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{
    Domain, Email, GroupName, HostGlob, KubeUser, Login, MemorySize, Namespace, OsUser, Quantity, RepoName,
    Shell, SshKey,
};

/// The whole roster, keyed by Unix account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Everybody who has access, by `os_user`.
    #[serde(default)]
    pub users: BTreeMap<OsUser, Person>,
}

/// What a person may do. The order is by reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Own namespaces, nothing else: the floor.
    NamespaceOwner,
    /// Reads the cluster widely, no secrets.
    PowerUser,
    /// Administers machine and cluster.
    Admin,
}

impl Tier {
    /// Every tier, the floor first.
    pub const ALL: [Tier; 3] = [Tier::NamespaceOwner, Tier::PowerUser, Tier::Admin];

    /// The tier as the roster spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::NamespaceOwner => "namespace-owner",
            Tier::PowerUser => "power-user",
            Tier::Admin => "admin",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a person's clones lie below `~/code`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CodeLayout {
    /// `~/code` is the infra clone.
    #[default]
    Single,
    /// `~/code` is a plain folder; the infra clone is `~/code/infra`, every other one `~/code/<name>`.
    Workspace,
}

/// One person and their policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The login at the identity provider.
    pub authentik_user: Login,
    /// The name in the cluster's `k8s_users` map.
    pub k8s_user: KubeUser,
    /// The e-mail address that the cluster knows the person by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// What the person may do.
    pub tier: Tier,
    /// The person's Kubernetes namespaces; required for `namespace-owner`, forbidden for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// How the clones lie below `~/code`.
    #[serde(default)]
    pub code_layout: CodeLayout,
    /// Repositories besides the infra repository; only with the workspace layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repos: Vec<RepoName>,
    /// DNS names that lead to the person's services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
    /// Limits of each of the person's namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Account and data stay, every per-user service is stopped.
    #[serde(default)]
    pub parked: bool,
    /// Whether the person's agent sign-in is kept in step.
    #[serde(default = "yes")]
    pub claude_auth: bool,
    /// Rights at the git forge; checked, not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgejo: Option<Forgejo>,
    /// The login shell of a new account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
    /// The uid of a new account; the next one above those in use when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 60_000))]
    pub uid: Option<u32>,
    /// Groups besides those of the tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupName>,
    /// Public ssh keys; checked, not applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<SshKey>,
    /// Resource limits that override those of the tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The hosts the person has an account on, as names or globs; everywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostGlob>,
}

fn yes() -> bool {
    true
}

impl Roster {
    /// What it asks for and nothing does: fields that are checked, so that a roster may have them, and no more. They name
    /// nobody, so that each is told once.
    pub fn not_applied(&self) -> Vec<&'static str> {
        let has = |is: fn(&Person) -> bool| self.users.values().any(is);
        let keys = "`ssh_keys` are checked and not applied: a person's keys go into their own ~/.ssh/authorized_keys";
        let forgejo = "`forgejo` is checked and not applied: rights at the forge are given there";
        let mut told = Vec::new();
        told.extend(has(|person| !person.ssh_keys.is_empty()).then_some(keys));
        told.extend(has(|person| person.forgejo.is_some()).then_some(forgejo));
        told
    }
}

/// Limits of a namespace. Two spellings are in use: `cpu`/`memory` and the Kubernetes one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// CPU requests.
    #[serde(default, alias = "cpu_requests", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory requests.
    #[serde(default, alias = "memory_requests", skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Memory limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limits: Option<Quantity>,
    /// Requested storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Quantity>,
    /// Number of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Quantity>,
}

/// Rights at the git forge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forgejo {
    /// The login at the forge.
    pub user: Login,
    /// How far the person may push.
    #[serde(default)]
    pub push: Push,
}

/// How far a person may push to the infra repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Push {
    /// Not at all.
    #[default]
    None,
    /// To branches of their own.
    Collaborator,
    /// Also to the protected default branch.
    Whitelist,
}

/// Resource limits of a person's slice, in systemd's spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `MemoryMax=`, such as `16G`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<MemorySize>,
    /// `MemorySwapMax=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<MemorySize>,
    /// `CPUWeight=`, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub cpu_weight: Option<u32>,
    /// `IOWeight=`, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub io_weight: Option<u32>,
    /// `TasksMax=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 4_194_304))]
    pub tasks_max: Option<u32>,
}
