//! What is: what the host and the homes show, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::desired::HomeDesired;
use crate::files::{ClosedFolder, FileDesired, FileSeen};
use crate::moves::MovesObserved;
use crate::name::{OsUser, Shell, UnitName};
use crate::wiring::{CredentialsFile, PersonConfig, WiringObserved};

/// What the machine shows. Everything in it was read in one pass each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostObserved {
    /// `/etc/passwd` by name; local accounts only.
    pub accounts: BTreeMap<String, PasswdEntry>,
    /// `/etc/group` by name.
    pub groups: BTreeMap<String, GroupEntry>,
    /// Whether each account of `/etc/shadow` can log in.
    pub logins: BTreeMap<String, LoginState>,
    /// `/etc/subuid` in its order.
    pub subuids: Vec<SubordinateRange>,
    /// `/etc/subgid` in its order.
    pub subgids: Vec<SubordinateRange>,
    /// What `/etc/login.defs` says.
    pub limits: IdLimits,
    /// Sources besides local files that nsswitch names for `passwd`, such as `sss` or `ldap`.
    pub directory_services: Vec<String>,
    /// Desired names that are no local account but that a directory service answers for, with the uid it gives.
    pub foreign_accounts: BTreeMap<OsUser, u32>,
    /// Desired names that are no local account and that a directory service gave no answer for: why.
    pub unanswered_accounts: BTreeMap<OsUser, String>,
    /// Of the shells that the roster or the config names, those that are installed.
    pub shells: BTreeSet<Shell>,
    /// Per desired account, what stands in the place of its home: the one that `/etc/passwd` names, or for an
    /// account that does not exist the one it would get. Only the folder itself was looked at.
    pub homes: BTreeMap<OsUser, HomeFolder>,
    /// The generated files by path; bigger than 4 MiB counts as unreadable.
    pub files: BTreeMap<PathBuf, FileState>,
    /// The environment files of services by path.
    pub env_files: BTreeMap<PathBuf, EnvFileState>,
    /// The drop-ins of rosterd's that stand below systemd's configuration, by path.
    pub drop_ins: BTreeMap<PathBuf, FileState>,
    /// The source of the managed settings, when one is configured.
    pub managed_settings_source: Option<FileState>,
    /// Of the configured files of the machine, those that are as rosterd wrote them.
    pub untouched: BTreeSet<PathBuf>,
    /// The sources of configured files, by path.
    pub sources: BTreeMap<PathBuf, FileState>,
    /// What homes link to and others cannot reach, as far as root looks: not below the homes.
    pub closed_bases: BTreeMap<PathBuf, ClosedFolder>,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdEntry {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: String,
}

/// Whether somebody can log in, as `/etc/shadow` has it. The password itself is never kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginState {
    /// No password that could be typed is accepted.
    pub locked: bool,
    /// The day since 1970 from which on PAM refuses the account, whatever the way in: keys too.
    pub expires: Option<i64>,
}

impl LoginState {
    /// What a cut makes of it. Day 0 would be read as "never" by some (shadow(5)).
    pub const CUT: LoginState = LoginState { locked: true, expires: Some(1) };
}

/// A line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Group id.
    pub gid: u32,
    /// Its members by supplementary membership.
    pub members: BTreeSet<String>,
}

/// A line of `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubordinateRange {
    /// Account name, or a uid as text.
    pub owner: String,
    /// First id.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The id ranges of `/etc/login.defs`, with shadow's defaults for what is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdLimits {
    /// First uid of a person.
    pub uid_min: u32,
    /// Last uid of a person.
    pub uid_max: u32,
    /// First gid of a person.
    pub gid_min: u32,
    /// Last gid of a person.
    pub gid_max: u32,
    /// First subordinate uid.
    pub sub_uid_min: u32,
    /// Last subordinate uid.
    pub sub_uid_max: u32,
    /// Subordinate uids of a new account; 0 gives none.
    pub sub_uid_count: u32,
    /// First subordinate gid.
    pub sub_gid_min: u32,
    /// Last subordinate gid.
    pub sub_gid_max: u32,
    /// Subordinate gids of a new account; 0 gives none.
    pub sub_gid_count: u32,
}

impl Default for IdLimits {
    fn default() -> Self {
        IdLimits {
            uid_min: 1000,
            uid_max: 60_000,
            gid_min: 1000,
            gid_max: 60_000,
            sub_uid_min: 100_000,
            sub_uid_max: 600_100_000,
            sub_uid_count: 65_536,
            sub_gid_min: 100_000,
            sub_gid_max: 600_100_000,
            sub_gid_count: 65_536,
        }
    }
}

/// What stands in the place of a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeFolder {
    /// Nothing.
    Absent,
    /// A real folder.
    Folder {
        /// Owner.
        uid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// Something else: a symlink, a file; with its name for people.
    Other(String),
    /// Nothing, because a removal that was interrupted has put it aside, under this name.
    Aside(String),
}

/// A file that is read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// There is none.
    Absent,
    /// A regular file.
    Present {
        /// Its bytes.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// It could not be read: why.
    Unreadable(String),
}

/// An environment file. Its other lines may be secrets, so they are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvFileState {
    /// There is none.
    Absent,
    /// A regular file.
    Present {
        /// The values of the port keys that were asked for, as text.
        ports: BTreeMap<String, String>,
        /// Permission bits.
        mode: u32,
    },
    /// It could not be read: why.
    Unreadable(String),
}

/// What systemd shows of the units of people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitsObserved {
    /// Every unit that was asked for.
    pub units: BTreeMap<UnitName, UnitState>,
    /// By the name of its file, whether instances of a template can be enabled: it has an `[Install]` section.
    pub installable: BTreeMap<String, bool>,
    /// Who listens on a port that is a person's, as far as it is not known to be the person's own unit.
    pub holders: BTreeMap<u16, PortHolder>,
}

/// What systemd shows of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// Whether its file could be read.
    pub file: UnitFile,
    /// What it does.
    pub activity: Activity,
    /// Whether it starts at boot.
    pub enabled: bool,
}

impl UnitState {
    /// A unit that neither runs nor would at boot.
    pub fn stopped() -> UnitState {
        UnitState { file: UnitFile::Loaded, activity: Activity::Inactive, enabled: false }
    }
}

/// What became of the file of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitFile {
    /// It is as systemd wants it.
    Loaded,
    /// There is none.
    Missing,
    /// An admin forbade the unit: it is masked.
    Masked,
    /// It is not valid: why.
    Broken(String),
}

/// What a unit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// It runs, is about to, or has done what it is there for.
    Active,
    /// It does nothing.
    Inactive,
    /// It is about to stop.
    Stopping,
    /// It ended and systemd is about to start it again: how it ended.
    Restarting(String),
    /// It ended and stays so: how it ended.
    Failed(String),
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The owner of the socket: an account's name, or `uid` and the number.
    pub user: String,
    /// The process and the name of its program, when it was found.
    pub process: Option<(u32, String)>,
    /// The unit that the process belongs to, when it was found.
    pub unit: Option<String>,
}

/// What a home shows of what is desired in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeObserved {
    /// `~/code` itself.
    pub code: Place,
    /// By path below the home, what stands in the place of each desired clone.
    pub clones: BTreeMap<String, Place>,
    /// Unfinished clones of an earlier run, by path below the home.
    pub unfinished: Vec<String>,
    /// Clones that may have to move.
    #[serde(default)]
    pub moves: MovesObserved,
    /// What git is told already.
    #[serde(default)]
    pub wiring: WiringObserved,
    /// What stands in the place of each file, by path below the home.
    #[serde(default)]
    pub files: BTreeMap<String, FileSeen>,
    /// Of the folders here that other homes link to, those that others cannot reach.
    #[serde(default)]
    pub closed_bases: BTreeMap<String, ClosedFolder>,
}

impl HomeObserved {
    /// A home that is not there yet, as a worker will find it: nothing in the place of anything.
    pub fn of_a_new_home(desired: &HomeDesired) -> Self {
        let clones = desired.clones.iter().map(|clone| (clone.path.clone(), Place::Absent)).collect();
        let person = PersonConfig {
            file: ".gitconfig".into(),
            closed: None,
            set: Vec::new(),
            stores: false,
            credentials: CredentialsFile::Absent,
        };
        let person = (!desired.wiring.is_empty()).then_some(person);
        let wiring = WiringObserved { person, ..WiringObserved::default() };
        let absent = |file: &FileDesired| (file.path.clone(), FileSeen::default());
        let files = desired.files.iter().map(absent).collect();
        HomeObserved { clones, wiring, files, ..HomeObserved::default() }
    }
}

/// What stands at a place in a home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Nothing.
    #[default]
    Absent,
    /// A folder without anything in it.
    EmptyFolder,
    /// A folder that is no clone.
    Folder,
    /// A git repository with a work tree.
    Clone {
        /// URL of `origin`, without user information.
        origin: Option<String>,
        /// Whether git-crypt's filter is answered by its own configuration.
        locked: bool,
    },
    /// Something else, in words: a symlink, a file, a bare repository.
    Other(String),
    /// It could not be looked at: why.
    Unreadable(String),
}
