//! The plan: the ordered steps from what is to what should be, as data that prints, serialises and compares.
//! Whoever applies it makes no choice.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::{FileAction, FileStatus};
use crate::ledger::Reload;
use crate::moves::Move;
use crate::name::{GroupName, OsUser, Shell, UnitName};
use crate::observed::LoginState;
use crate::remote::{FastForward, Fetch};
use crate::wiring::Wire;

mod accounts;
mod cluster;
mod cut;
mod files;
mod home;
mod home_files;
mod homes_gone;
mod host;
mod ids;
mod limits;
mod moves;
pub mod refresh;
mod target;
mod units;
pub(crate) mod unread;
mod vault;
mod wiring;

pub(crate) use cluster::unseen;
pub use cluster::{ClusterAction, cluster};
pub use home::home;
pub use host::{HostPlan, host};
pub use limits::{PANE_DROP_IN, SLICE_DROP_IN};
pub use target::Target;
pub use units::{UnitsPlan, is_done, reload, reload_due, units, units_to_watch};
pub use vault::{VaultAction, vault};
pub use wiring::locks;

/// Whom something is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Subject {
    /// The machine as a whole.
    Machine,
    /// One person's account.
    User(OsUser),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Machine => f.write_str("machine"),
            Subject::User(user) => user.fmt(f),
        }
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        match subject {
            Subject::Machine => "(machine)".into(),
            Subject::User(user) => user.into(),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = crate::name::NameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "(machine)" { Ok(Subject::Machine) } else { OsUser::new(text).map(Subject::User) }
    }
}

/// The ordered steps, and what is only told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order in which they are applied.
    pub steps: Vec<Step>,
    /// What keeps a subject from what the roster says; such a subject is degraded.
    pub problems: Vec<Problem>,
    /// What an admin should know and nothing is done about.
    pub notices: Vec<Notice>,
    /// What was seen of whom, before the steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<Subject, Seen>,
}

impl Plan {
    /// Adds another plan behind this one.
    pub fn append(&mut self, other: Plan) {
        let offset = self.steps.len();
        self.steps.extend(other.steps.into_iter().map(|mut step| {
            step.needs.iter_mut().for_each(|need| *need += offset);
            step
        }));
        self.problems.extend(other.problems);
        self.notices.extend(other.notices);
        self.seen.extend(other.seen);
    }

    /// The same plan for some subjects only. A step that needs one of somebody else's stays away with that.
    pub fn only(self, wanted: impl Fn(&Subject) -> bool) -> Plan {
        let mut new_index = BTreeMap::new();
        let mut steps = Vec::new();
        for (index, mut step) in self.steps.into_iter().enumerate() {
            let has_needs = step.needs.iter().all(|need| new_index.contains_key(need));
            if has_needs && wanted(&step.subject) {
                step.needs = step.needs.iter().filter_map(|need| new_index.get(need).copied()).collect();
                new_index.insert(index, steps.len());
                steps.push(step);
            }
        }
        let problems = self.problems.into_iter().filter(|problem| wanted(&problem.subject)).collect();
        let notices = self.notices.into_iter().filter(|notice| wanted(&notice.subject)).collect();
        let seen = self.seen.into_iter().filter(|(subject, _)| wanted(subject)).collect();
        Plan { steps, problems, notices, seen }
    }

    /// Adds a step behind the others.
    fn step(&mut self, subject: &Subject, action: Action, reason: impl Into<String>) -> &mut Step {
        let reason = reason.into();
        let step = Step { subject: subject.clone(), action, reason, inverse: None, needs: Vec::new() };
        self.steps.push(step);
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    /// Somebody may read or not read what they should not or should, with the one line that mends it.
    fn access(&mut self, subject: &Subject, what: impl Into<String>, fix: impl Into<String>) {
        let access = Access { what: what.into(), fix: fix.into() };
        self.notice(subject, format!("{}: {}", access.what, access.fix));
        self.seen.entry(subject.clone()).or_default().access.push(access);
    }

    fn notice(&mut self, subject: &Subject, text: impl Into<String>) {
        self.notices.push(Notice { subject: subject.clone(), text: text.into() });
    }
}

/// What was seen of somebody, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How each configured file of the home stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileStatus>,
    /// Who can read what, where that is not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<Access>,
}

/// What others can do that they should not, or cannot that they should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The fact.
    pub what: String,
    /// The one line that mends it.
    pub fix: String,
}

/// One smallest change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whom it is about.
    pub subject: Subject,
    /// What is done.
    pub action: Action,
    /// Why, for a person: "in the roster, no such account".
    pub reason: String,
    /// How to take it back by hand, or nothing where there is no way back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inverse: Option<String>,
    /// Indices in the same plan of the steps that must have succeeded before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub needs: Vec<usize>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Account, primary group, subordinate ids and home, in one change of the user database for all of a plan.
    CreateAccount(NewAccount),
    /// The home of an account that rosterd created and that has lost it.
    CreateHome(NewHome),
    /// Adds an existing account to an existing group.
    AddToGroup {
        /// The account.
        user: OsUser,
        /// The group.
        group: GroupName,
    },
    /// Replaces a generated file as a whole.
    WriteFile(WholeFile),
    /// Removes a generated file, and its folder when nothing else is in it.
    RemoveFile {
        /// The file.
        path: PathBuf,
    },
    /// Sets keys of an environment file and keeps every other line.
    SetEnvKeys {
        /// The file.
        path: PathBuf,
        /// The keys to set.
        keys: BTreeMap<String, String>,
    },
    /// Stops a unit, disables it and clears its failed state.
    StopUnit {
        /// The unit.
        unit: UnitName,
    },
    /// Lets a unit start at boot.
    EnableUnit {
        /// The unit.
        unit: UnitName,
    },
    /// Starts a unit that does not run, after clearing a failed state.
    StartUnit {
        /// The unit.
        unit: UnitName,
    },
    /// Lets systemd read again what was written for it.
    Reload {
        /// Whose managers.
        what: Reload,
    },
    /// A person left the roster. Recorded once; what else a cut takes are steps of their own.
    Cut,
    /// Locks the password of an account and lets the account expire, so that no way in through PAM is left.
    LockLogin {
        /// The account.
        user: OsUser,
        /// Its login until now.
        before: LoginState,
    },
    /// Gives back a login that a cut had locked, as far as nobody has changed it since.
    RestoreLogin {
        /// The account.
        user: OsUser,
        /// Its login before the cut.
        before: LoginState,
    },
    /// Takes an account out of a group.
    RemoveFromGroup {
        /// The account.
        user: OsUser,
        /// The group.
        group: GroupName,
    },
    /// Ends everything that runs in the slice of a person.
    EndSessions {
        /// The account.
        user: OsUser,
        /// Its uid.
        uid: u32,
    },
    /// A person who had been cut is back.
    Return,
    /// Work in a home, done by a worker as its user.
    Home(HomeAction),
    /// Work on the mirror of a public repository, done by a worker as the user `rosterd`.
    Mirror(MirrorAction),
    /// Work in the cluster, done by a worker as the system user `rosterd`.
    Cluster(ClusterAction),
    /// Work in Vault, done by a worker as the system user `rosterd`.
    Vault(VaultAction),
}

impl Action {
    /// The kind as the journal and `plan` name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::CreateAccount(_) => "create-account",
            Action::CreateHome(_) => "create-home",
            Action::AddToGroup { .. } => "add-to-group",
            Action::WriteFile(_) => "write-file",
            Action::RemoveFile { .. } => "remove-file",
            Action::SetEnvKeys { .. } => "set-env-keys",
            Action::StopUnit { .. } => "stop-unit",
            Action::EnableUnit { .. } => "enable-unit",
            Action::StartUnit { .. } => "start-unit",
            Action::Reload { .. } => "reload",
            Action::Cut => "cut",
            Action::LockLogin { .. } => "lock-login",
            Action::RestoreLogin { .. } => "restore-login",
            Action::RemoveFromGroup { .. } => "remove-from-group",
            Action::EndSessions { .. } => "end-sessions",
            Action::Return => "return",
            Action::Home(HomeAction::RemoveUnfinished { .. }) => "remove-unfinished-clone",
            Action::Home(HomeAction::MakeFolder { .. }) => "make-folder",
            Action::Home(HomeAction::Clone(_)) => "clone",
            Action::Home(HomeAction::Move(moved)) => moved.kind(),
            Action::Home(HomeAction::Wire(wire)) => wire.kind(),
            Action::Home(HomeAction::File(file)) => file.kind(),
            Action::Home(HomeAction::Fetch(_)) => "fetch",
            Action::Home(HomeAction::FastForward(_)) => "fast-forward",
            Action::Home(HomeAction::FinishRefresh { .. }) => "finish-refresh",
            Action::Mirror(MirrorAction::Fetch { .. }) => "fetch-mirror",
            Action::Mirror(MirrorAction::Check { .. }) => "check-mirror",
            Action::Cluster(action) => action.kind(),
            Action::Vault(action) => action.kind(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.action)
    }
}

/// What is done, in one line without the subject.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::CreateAccount(account) => {
                let NewAccount { uid, gid, shell, groups, home, .. } = account;
                write!(f, "create account uid {uid}")?;
                if gid != uid {
                    write!(f, " gid {gid}")?;
                }
                let kept = if home.exists { " (is there already)" } else { "" };
                write!(f, ", home {}{kept}, shell {shell}", home.path.display())?;
                if !groups.is_empty() {
                    f.write_str(", groups")?;
                }
                groups.iter().try_for_each(|group| write!(f, " {group}"))
            }
            Action::CreateHome(home) => write!(f, "create home {}", home.path.display()),
            Action::AddToGroup { group, .. } => write!(f, "add to group {group}"),
            Action::WriteFile(file) => write!(f, "write {}, mode {:04o}", file.path.display(), file.mode),
            Action::SetEnvKeys { path, keys } => {
                f.write_str("set")?;
                keys.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))?;
                write!(f, " in {}", path.display())
            }
            Action::RemoveFile { path } => write!(f, "remove {}", path.display()),
            Action::StopUnit { unit } => write!(f, "stop and disable {unit}"),
            Action::EnableUnit { unit } => write!(f, "enable {unit}"),
            Action::StartUnit { unit } => write!(f, "start {unit}"),
            Action::Reload { what: Reload::Users } => {
                f.write_str("reload systemd and the managers of those who are logged in")
            }
            Action::Reload { .. } => f.write_str("reload systemd"),
            Action::Cut => f.write_str("no longer sent sessions; account and files stay"),
            Action::LockLogin { .. } => f.write_str("lock and expire the login"),
            Action::RestoreLogin { before, .. } => {
                let password = if before.locked { "locked" } else { "unlocked" };
                write!(f, "give the login back as it was: password {password}")?;
                match before.expires {
                    Some(day) => write!(f, ", expires on day {day}"),
                    None => f.write_str(", never expires"),
                }
            }
            Action::RemoveFromGroup { group, .. } => write!(f, "remove from group {group}"),
            Action::EndSessions { .. } => f.write_str("end all sessions and processes"),
            Action::Return => f.write_str("give access back"),
            Action::Home(HomeAction::RemoveUnfinished { path }) => {
                write!(f, "remove the unfinished clone ~/{path}")
            }
            Action::Home(HomeAction::MakeFolder { path }) => write!(f, "make folder ~/{path}"),
            Action::Home(HomeAction::Clone(clone)) => {
                let locked = if clone.locked { ", locked" } else { "" };
                write!(f, "clone {} to ~/{}{locked}", clone.url, clone.path)
            }
            Action::Home(HomeAction::Fetch(fetch)) => {
                write!(f, "fetch {} into ~/{}:{}", fetch.url, fetch.path, summary(fetch))
            }
            Action::Home(HomeAction::FastForward(FastForward { path, branch, to, .. })) => {
                write!(f, "fast-forward {branch} in ~/{path} to {:.12}", to.as_str())
            }
            Action::Home(HomeAction::FinishRefresh { path }) => {
                write!(f, "finish the refresh of ~/{path}")
            }
            Action::Mirror(MirrorAction::Fetch { url }) => write!(f, "fetch {url} into the mirror"),
            Action::Mirror(MirrorAction::Check { url }) => write!(f, "check the mirror of {url}"),
            Action::Home(HomeAction::Move(moved)) => moved.fmt(f),
            Action::Home(HomeAction::Wire(wire)) => wire.fmt(f),
            Action::Home(HomeAction::File(file)) => file.fmt(f),
            Action::Cluster(action) => action.fmt(f),
            Action::Vault(action) => action.fmt(f),
        }
    }
}

/// What a fetch brings, in a few words.
fn summary(fetch: &Fetch) -> String {
    let mut text = String::new();
    for branch in fetch.moved.keys().take(3) {
        text.push_str(&format!(" {branch}"));
    }
    for (count, what) in [
        (fetch.moved.len().saturating_sub(3), "more moved"),
        (fetch.gone.len(), "gone"),
        (fetch.tags.len(), "new tags"),
    ] {
        if count > 0 {
            text.push_str(&format!(" +{count} {what}"));
        }
    }
    text
}

/// A new account, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAccount {
    /// Name of account and primary group.
    pub user: OsUser,
    /// User id; free, and never given to anyone else.
    pub uid: u32,
    /// Id of the primary group; equal to the uid where that is free.
    pub gid: u32,
    /// The comment field.
    pub gecos: String,
    /// Login shell.
    pub shell: Shell,
    /// First subordinate uid and how many, or none.
    pub subuid: Option<(u32, u32)>,
    /// First subordinate gid and how many, or none.
    pub subgid: Option<(u32, u32)>,
    /// Supplementary groups, all of which exist.
    pub groups: Vec<GroupName>,
    /// Its home.
    pub home: NewHome,
}

/// A new home, built beside and moved into place whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHome {
    /// Where; directly below the configured base.
    pub path: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Copied into it.
    pub skel: PathBuf,
    /// Whether the folder is there already, from an earlier run that ended between home and account.
    pub exists: bool,
}

/// A file that is replaced as a whole. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeFile {
    /// Where.
    pub path: PathBuf,
    /// All of its text.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// Work in a home. Paths are below the home and made from validated names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum HomeAction {
    /// Removes what an interrupted clone left.
    RemoveUnfinished {
        /// The unfinished clone.
        path: String,
    },
    /// Makes a folder.
    MakeFolder {
        /// The folder.
        path: String,
    },
    /// Clones a repository beside and moves it into place.
    Clone(crate::desired::CloneDesired),
    /// Moves a clone with all that is in it.
    Move(Move),
    /// Tells git something that nobody has told it.
    Wire(Wire),
    /// Changes a file that the configuration names.
    File(FileAction),
    /// Brings objects and refs of a remote into a clone, and nothing into its work tree.
    Fetch(Fetch),
    /// Moves the checked out branch forward, and the work tree with it.
    FastForward(FastForward),
    /// Ends a fetch or a fast-forward that was interrupted.
    FinishRefresh {
        /// The clone.
        path: String,
    },
}

impl HomeAction {
    /// Whether a server may have to send something for it.
    pub fn is_transfer(&self) -> bool {
        matches!(self, HomeAction::Clone(_) | HomeAction::Fetch(_))
    }
}

/// Work on the mirror of a public repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum MirrorAction {
    /// Brings objects that it does not have into it.
    Fetch {
        /// The repository.
        url: String,
    },
    /// Compares each file of it with its digest, and empties it when one differs: the next fetch makes it anew.
    Check {
        /// The repository.
        url: String,
    },
}

/// What keeps a subject from what the roster says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whom it is about.
    pub subject: Subject,
    /// What is not as it should be.
    pub what: String,
    /// Why.
    pub why: String,
    /// What an admin can do.
    pub next: String,
}

/// What an admin should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// Whom it is about.
    pub subject: Subject,
    /// The fact and what to do about it.
    pub text: String,
}
