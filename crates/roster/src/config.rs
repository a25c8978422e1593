//! `config.toml`: this host and this site. Every key has a default; nothing of a site is in the code.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Kubernetes;
use crate::model::{Limits, Tier};
use crate::name::{
    GroupName, HostName, MemorySize, OsUser, ProgramName, ProgramPath, RemoteName, ServiceName, Shell,
    UnitTemplate, VariableName,
};
use crate::vault::Vault;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name by which the roster's `hosts` know this machine; its own host name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Where the roster is.
    pub roster: RosterSource,
    /// The git repository that the roster comes from.
    pub source: Source,
    /// New accounts.
    pub accounts: Accounts,
    /// What each tier brings on this machine.
    pub tiers: BTreeMap<Tier, TierPolicy>,
    /// The files generated for other programs.
    pub maps: Maps,
    /// The people's clones.
    pub code: Code,
    /// Machine-wide agent configuration.
    pub claude: Claude,
    /// Per-user services; each user keeps one port of each for ever.
    pub service: Vec<Service>,
    /// Files of the homes and of the machine.
    pub file: Vec<FileEntry>,
    /// What bounds each pane of a terminal session.
    pub panes: Panes,
    /// What a person who leaves the roster loses besides their login, maps and services.
    pub cut: Cut,
    /// The removal of people who left.
    pub removal: Removal,
    /// What holds a run back.
    pub guard: Guard,
    /// The comparison with the cluster's `k8s_users` map.
    pub tier_check: TierCheck,
    /// The group of the identity provider that says who is in the roster.
    pub membership: Membership,
    /// Who is told what happens.
    pub announce: Announce,
    /// The state of things for a monitoring.
    pub metrics: Metrics,
    /// The processes that work in homes.
    pub worker: Worker,
    /// tmux sessions that survive a reboot.
    pub tmux: Tmux,
    /// The cluster that people have rights in.
    pub kubernetes: Kubernetes,
    /// The Vault that keeps people's secrets.
    pub vault: Vault,
}

/// Where the roster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RosterSource {
    /// The file that the admin edits.
    #[schemars(extend("pattern" = "^/"))]
    pub path: PathBuf,
}

/// The git repository that the roster comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Its URL; without one, the roster is the file that an admin edits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s]+/[^?#\s]+$"))]
    pub git: Option<String>,
    /// The branch, tag or full name of a ref.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._/-]*$"))]
    pub r#ref: String,
    /// The roster in it.
    #[schemars(extend("pattern" = "^[A-Za-z0-9_.][A-Za-z0-9_./-]*$"))]
    pub path: String,
    /// Who may sign its commits, as ssh-keygen reads it; without it no signature is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^/"))]
    pub allowed_signers: Option<PathBuf>,
    /// What opens a private repository, as git's credential store keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^/"))]
    pub credentials_file: Option<PathBuf>,
    /// From one fetch to the next, in seconds.
    #[schemars(range(min = 10, max = 86_400))]
    pub interval_s: u64,
    /// How long a fetch may take, in seconds.
    #[schemars(range(min = 1, max = 3600))]
    pub deadline_s: u64,
}

impl Default for Source {
    fn default() -> Self {
        Source {
            git: None,
            r#ref: "main".into(),
            path: "roster.yaml".into(),
            allowed_signers: None,
            credentials_file: None,
            interval_s: 300,
            deadline_s: 60,
        }
    }
}

/// New accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// The folder that holds the homes.
    #[schemars(extend("pattern" = "^/"))]
    pub home_base: PathBuf,
    /// Copied into each new home.
    #[schemars(extend("pattern" = "^/"))]
    pub skel: PathBuf,
    /// The shell of a new account is the first of these that is installed.
    pub shells: Vec<Shell>,
}

/// What a tier brings on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TierPolicy {
    /// Unix groups; one that does not exist is skipped and told.
    pub groups: Vec<GroupName>,
    /// Resource limits of each person's slice; those of the roster come before them, one by one.
    pub limits: Limits,
}

/// The files generated for other programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Maps {
    /// `<authentik_user>=<os_user>` a line, ordered by port.
    #[schemars(extend("pattern" = "^/"))]
    pub ttyd_user_map: PathBuf,
    /// The admins' accounts, one a line, sorted.
    #[schemars(extend("pattern" = "^/"))]
    pub ttyd_admins: PathBuf,
    /// `{authentik_user: {os_user, port}}`.
    #[schemars(extend("pattern" = "^/"))]
    pub dispatch: PathBuf,
}

/// The people's clones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Code {
    /// URL of the infra repository; without one nobody gets a clone of it.
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s]+/[^?#\s]+$"))]
    pub infra: Option<String>,
    /// URL of every other repository, with `{name}` in the place of its name.
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s{]+/[^?#\s{]*\{name\}[^?#\s{]*$"))]
    pub repositories: Option<String>,
    /// A second remote of every infra clone, for what people push; none when absent.
    pub push_remote: Option<PushRemote>,
}

/// The remote that people push infra to, where `origin` only gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRemote {
    /// Its name.
    pub name: RemoteName,
    /// Its URL.
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s]+/[^?#\s]+$"))]
    pub url: String,
}

/// Machine-wide agent configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Claude {
    /// The file an admin edits; without one nothing is installed.
    #[schemars(extend("pattern" = "^/"))]
    pub managed_settings_source: Option<PathBuf>,
    /// Where Claude Code reads it.
    #[schemars(extend("pattern" = "^/"))]
    pub managed_settings: PathBuf,
}

/// A service that each user has one instance of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("dependentRequired" = {
    "base_port": ["env_file", "port_key"],
    "env_file": ["base_port", "port_key"],
    "port_key": ["base_port", "env_file"],
}))]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// The first port; a user gets the lowest free one from here and keeps it. A service without a port has none of
    /// the three keys.
    #[schemars(range(min = 1024, max = 65_000))]
    pub base_port: Option<u16>,
    /// The environment file that holds the port, with `{user}` in the place of the account's name.
    #[schemars(extend("pattern" = r"^/[^{}]*\{user\}[^{}]*$"))]
    pub env_file: Option<String>,
    /// The key of the port in that file.
    #[schemars(extend("pattern" = "^[A-Z_][A-Z0-9_]{0,63}$"))]
    pub port_key: Option<String>,
    /// The units that run it, with `{user}` in the place of the account's name.
    #[serde(default)]
    pub units: Vec<UnitTemplate>,
    /// Whose it is; everybody's unless some are named.
    #[serde(default = "every_tier")]
    pub tiers: Vec<Tier>,
    /// Whether `parked: true` stops it.
    #[serde(default = "yes")]
    pub stop_when_parked: bool,
    /// Whether `claude_auth: false` stops it.
    #[serde(default)]
    pub stop_without_claude_auth: bool,
}

fn every_tier() -> Vec<Tier> {
    Tier::ALL.to_vec()
}

fn yes() -> bool {
    true
}

/// Where the ports of a service are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort<'a> {
    /// The first one.
    pub base: u16,
    /// The environment file, with `{user}`.
    pub env_file: &'a str,
    /// The key in it.
    pub key: &'a str,
}

impl Service {
    /// Where its ports are; nothing when it has none.
    pub fn port(&self) -> Option<ServicePort<'_>> {
        Some(ServicePort {
            base: self.base_port?,
            env_file: self.env_file.as_deref()?,
            key: self.port_key.as_deref()?,
        })
    }
}

impl ServicePort<'_> {
    /// The environment file of one user.
    pub fn env_file_of(&self, user: &OsUser) -> PathBuf {
        self.env_file.replace("{user}", user.as_str()).into()
    }
}

/// A file that should be in each home, or on the machine. Which keys it has depends on its kind; the parser sees to it,
/// and [`crate::files`] reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("allOf" = [
    {"if": {"properties": {"kind": {"enum": ["copy", "once", "block"]}}},
     "then": {"oneOf": [{"required": ["source"]}, {"required": ["content"]}]},
     "else": {"properties": {"source": false, "content": false, "source_key": false}}},
    {"if": {"properties": {"kind": {"const": "link"}}},
     "then": {"required": ["target"]}, "else": {"properties": {"target": false}}},
    {"if": {"properties": {"kind": {"const": "json"}}},
     "then": {"required": ["keys"]}, "else": {"properties": {"keys": false}}},
]))]
pub struct FileEntry {
    /// Where: `~/…` in each person's home, or an absolute path of the machine.
    #[schemars(extend("pattern" = r"^(~/|/)[^/]"))]
    pub path: String,
    /// How it is kept.
    pub kind: FileKind,
    /// The file of root's that has its text.
    #[schemars(extend("pattern" = "^/"))]
    pub source: Option<PathBuf>,
    /// The key of a JSON `source` whose text is taken, as a JSON pointer such as `/claudeMd`.
    #[schemars(extend("pattern" = "^/."))]
    pub source_key: Option<String>,
    /// Its text, with `{{…}}` in the place of what differs between people.
    pub content: Option<String>,
    /// Where a link leads.
    #[schemars(extend("pattern" = "^/"))]
    pub target: Option<PathBuf>,
    /// By JSON pointer, what a JSON file should hold where it has nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, serde_json::Value>,
    /// The first line of a copy that is rosterd's; without that line it is the person's.
    pub header: Option<String>,
    /// How a line of comment begins, around a block.
    pub comment: Option<String>,
    /// Permission bits, such as `0644`.
    #[schemars(extend("pattern" = "^0[0-7][0145][0145]$"))]
    pub mode: Option<String>,
    /// Whose it is; everybody's unless some are named.
    #[serde(default = "every_tier")]
    pub tiers: Vec<Tier>,
}

/// How a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Whole, and replaced whenever it differs.
    Copy,
    /// Made where there is none, and then the person's.
    Once,
    /// A link, made where there is nothing.
    Link,
    /// Single keys of the person's JSON file, each added where it is absent.
    Json,
    /// A marked block in the person's file.
    Block,
}

impl FileKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Copy => "copy",
            FileKind::Once => "once",
            FileKind::Link => "link",
            FileKind::Json => "json",
            FileKind::Block => "block",
        }
    }
}

impl FileEntry {
    /// Its path below each home; nothing for a file of the machine.
    pub fn in_home(&self) -> Option<&str> {
        self.path.strip_prefix("~/")
    }

    /// Its permission bits, where they are given.
    pub fn mode_bits(&self) -> Option<u32> {
        u32::from_str_radix(self.mode.as_deref()?, 8).ok()
    }
}

/// What bounds each pane of a terminal session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Panes {
    /// `MemoryMax=` of each pane, such as `8G`; without one there is none.
    pub memory_max: Option<MemorySize>,
}

/// What holds a run back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// The most people that may leave in one run; more are held until `rosterctl confirm`.
    #[schemars(range(max = 10_000))]
    pub max_cuts: usize,
}

/// The comparison with the cluster's `k8s_users` map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TierCheck {
    /// A JSON file with the map, `{k8s_user: {role: …}}`; without one the check is skipped.
    #[schemars(extend("pattern" = "^/"))]
    pub k8s_users: Option<PathBuf>,
}

/// The group of the identity provider that says who is in the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Membership {
    /// Whether the group is asked, and whether the roster may be changed by it.
    pub mode: MembershipMode,
    /// The address of Authentik.
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s]+[^?#\s]*$"))]
    pub authentik: Option<String>,
    /// The name of the group, exactly.
    pub group: Option<String>,
    /// The file that holds the token of the API and nothing else.
    #[schemars(extend("pattern" = "^/"))]
    pub token_file: Option<PathBuf>,
    /// How long the whole of the reading may take, in seconds.
    #[schemars(range(min = 1, max = 3600))]
    pub deadline_s: u64,
}

/// What may come of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MembershipMode {
    /// Nobody asks.
    #[default]
    Off,
    /// Differences are told.
    Report,
    /// The roster may be changed.
    Apply,
}

/// What a person who leaves the roster loses besides their login, maps and services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cut {
    /// Whether what they run is ended.
    pub end_sessions: bool,
    /// The Unix groups that they are taken out of, and put into again when they return.
    pub groups: Vec<GroupName>,
}

/// The removal of people who left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Removal {
    /// The folder of the archives.
    #[schemars(extend("pattern" = "^/"))]
    pub archives: PathBuf,
}

impl Default for Removal {
    fn default() -> Self {
        Removal { archives: "/var/backups/rosterd".into() }
    }
}

/// Who is told what happens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Announce {
    /// A file that holds the address of a webhook and nothing else: whoever knows it may write there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^/"))]
    pub webhook_file: Option<PathBuf>,
}

/// The state of things for a monitoring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A file for the textfile collector of Prometheus' node exporter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^/"))]
    pub textfile: Option<PathBuf>,
}

/// The processes that work in homes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// How many homes are worked on at the same time.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: usize,
    /// How long one home may take, in seconds.
    #[schemars(range(min = 5, max = 86_400))]
    pub deadline_s: u64,
    /// How much memory one worker may use, in MiB.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub memory_mib: u64,
    /// How much a server may send for one clone or fetch, in MiB.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_clone_mib: u64,
}

/// tmux sessions that survive a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tmux {
    /// The folder of the snapshots.
    #[schemars(extend("pattern" = "^/"))]
    pub state: PathBuf,
    /// The program that resumes a conversation.
    pub claude: ProgramPath,
    /// The programs that a restore starts again, with their arguments.
    pub commands: Vec<ProgramName>,
    /// The keys of a session's environment that are saved and restored.
    pub environment: Vec<VariableName>,
    /// How much of each pane's text is saved, in KiB; none when 0.
    #[schemars(range(max = 1024))]
    pub scrollback_kib: u32,
}

impl Default for Config {
    fn default() -> Self {
        let group = |name: &str| GroupName::new(name).ok();
        let admin = TierPolicy {
            groups: ["sudo", "docker", "code-shared"].into_iter().filter_map(group).collect(),
            ..TierPolicy::default()
        };
        let service = |name: &str, base_port: u16, env_file: &str, port_key: &str| {
            ServiceName::new(name).ok().map(|name| Service {
                name,
                base_port: Some(base_port),
                env_file: Some(String::from(env_file)),
                port_key: Some(String::from(port_key)),
                units: Vec::new(),
                tiers: every_tier(),
                stop_when_parked: true,
                stop_without_claude_auth: false,
            })
        };
        Config {
            host: None,
            roster: RosterSource::default(),
            source: Source::default(),
            accounts: Accounts::default(),
            tiers: BTreeMap::from([(Tier::Admin, admin)]),
            maps: Maps::default(),
            code: Code::default(),
            claude: Claude::default(),
            service: [
                service("t3", 3773, "/etc/t3-serve/{user}.env", "T3_PORT"),
                service("playwright", 8931, "/etc/playwright-mcp/{user}.env", "PLAYWRIGHT_PORT"),
            ]
            .into_iter()
            .flatten()
            .collect(),
            file: Vec::new(),
            panes: Panes::default(),
            cut: Cut::default(),
            removal: Removal::default(),
            announce: Announce::default(),
            metrics: Metrics::default(),
            guard: Guard::default(),
            tier_check: TierCheck::default(),
            membership: Membership::default(),
            kubernetes: Kubernetes::default(),
            vault: Vault::default(),
            worker: Worker::default(),
            tmux: Tmux::default(),
        }
    }
}

impl Default for RosterSource {
    fn default() -> Self {
        RosterSource { path: "/etc/rosterd/roster.yaml".into() }
    }
}

impl Default for Accounts {
    fn default() -> Self {
        let shells = ["/bin/zsh", "/bin/bash"].into_iter().filter_map(|path| Shell::new(path).ok()).collect();
        Accounts { home_base: "/home".into(), skel: "/etc/skel".into(), shells }
    }
}

impl Default for Maps {
    fn default() -> Self {
        Maps {
            ttyd_user_map: "/etc/ttyd-user-map".into(),
            ttyd_admins: "/etc/ttyd-admins".into(),
            dispatch: "/etc/t3-serve/dispatch.json".into(),
        }
    }
}

impl Default for Claude {
    fn default() -> Self {
        Claude {
            managed_settings_source: None,
            managed_settings: "/etc/claude-code/managed-settings.json".into(),
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Guard { max_cuts: 3 }
    }
}

impl Default for Membership {
    fn default() -> Self {
        Membership {
            mode: MembershipMode::Off,
            authentik: None,
            group: None,
            token_file: None,
            deadline_s: 60,
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Worker { parallel: 4, deadline_s: 600, memory_mib: 2048, max_clone_mib: 16_384 }
    }
}

impl Default for Tmux {
    fn default() -> Self {
        let commands = ["vim", "nvim", "vi", "nano", "less", "man", "htop", "top", "tail", "watch"];
        Tmux {
            state: "/var/lib/tmux-persist".into(),
            claude: ProgramPath::claude(),
            commands: commands.into_iter().filter_map(|name| ProgramName::new(name).ok()).collect(),
            environment: Vec::new(),
            scrollback_kib: 0,
        }
    }
}
