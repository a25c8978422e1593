//! What git is told in a home: who the person is, where logins are kept, where the infra clone pushes to, and how
//! a locked clone answers git-crypt. Each is set where it is absent; a person's own value always wins.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::PushRemote;

/// What git should be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WiringDesired {
    /// `user.name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// `user.email`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    /// Whether `credential.helper` is `store`, with its file.
    #[serde(default)]
    pub store_credentials: bool,
    /// The remote that the infra clone pushes to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub push: Option<PushRemote>,
}

impl WiringDesired {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == WiringDesired::default()
    }
}

/// What git is told already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WiringObserved {
    /// The person's own configuration; nothing when it was not asked for.
    pub person: Option<PersonConfig>,
    /// Of the infra clone, by each path below the home where one is.
    pub clones: BTreeMap<String, CloneConfig>,
    /// Configuration files whose change ended in the middle, by path below the home.
    pub interrupted: Vec<String>,
}

/// A person's git configuration, with what it includes and what the machine's says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonConfig {
    /// The file that git itself would write to, below the home.
    pub file: String,
    /// Why that file is left alone, if it is.
    pub closed: Option<String>,
    /// Which of the keys that were asked for have a value, whatever it is.
    pub set: Vec<String>,
    /// Whether the credential helper in force is `store` with its usual file.
    pub stores: bool,
    /// `~/.git-credentials`.
    pub credentials: CredentialsFile,
}

/// `~/.git-credentials`, of which nobody reads more than this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialsFile {
    /// There is none.
    Absent,
    /// The person's own file.
    Present {
        /// Permission bits.
        mode: u32,
    },
    /// Something else, in words.
    Other(String),
}

/// The configuration of a clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneConfig {
    /// Why the file is left alone, if it is.
    pub closed: Option<String>,
    /// URL of the push remote, without user information; nothing where there is no remote of that name.
    pub push_url: Option<String>,
    /// The default branch, as `origin` says.
    pub default_branch: Option<String>,
    /// What the default branch follows: remote and ref.
    pub follows: Option<(String, String)>,
    /// What answers each filter of git-crypt: that of the default key, and those of named keys that the clone uses.
    pub filters: BTreeMap<Driver, Filter>,
    /// Whether others can go through to it and into it.
    #[serde(default)]
    pub is_open: bool,
}

/// A filter of git-crypt: `git-crypt` for the default key, `git-crypt-NAME` for a named one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Driver(String);

impl Driver {
    /// That of the default key.
    pub fn default_key() -> Driver {
        Driver("git-crypt".into())
    }

    /// A driver of git-crypt, if it is one: names of keys are letters, digits, `-` and `_`.
    pub fn new(name: &str) -> Option<Driver> {
        let rest = name.strip_prefix("git-crypt")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_key = |key: &str| (1..=128).contains(&key.len()) && key.chars().all(plain);
        (rest.is_empty() || rest.strip_prefix('-').is_some_and(is_key)).then(|| Driver(name.to_owned()))
    }

    /// Its key in a configuration of git.
    pub fn clean(&self) -> String {
        format!("filter.{self}.clean")
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Driver {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Driver, Self::Error> {
        Driver::new(&name).ok_or("not a filter of git-crypt")
    }
}

impl From<Driver> for String {
    fn from(driver: Driver) -> String {
        driver.0
    }
}

/// What answers a filter of git-crypt in a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Nothing: ciphertext stays, and plain text can be committed over it.
    Absent,
    /// `cat`, with which plain text can be committed as well, an earlier version of ours, or ours in a place where the next
    /// `git-crypt lock` would take it away.
    Weak,
    /// Ours.
    Ours,
    /// git-crypt itself: the person has the key.
    Unlocked,
    /// Something that the person wrote.
    Own,
}

/// The keys of the person's configuration that are looked for, beside those of git-crypt's filters.
pub const PERSON_KEYS: [&str; 3] = [NAME, EMAIL, HELPER];
pub(crate) const NAME: &str = "user.name";
pub(crate) const EMAIL: &str = "user.email";
pub(crate) const HELPER: &str = "credential.helper";

/// One thing that git is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wire", rename_all = "kebab-case")]
pub enum Wire {
    /// Removes what an interrupted change of a configuration file left beside it.
    CleanUp {
        /// The configuration file, below the home.
        file: String,
    },
    /// Sets keys that a configuration file does not have.
    Set {
        /// The file, below the home; made when there is none.
        file: String,
        /// Key and value.
        settings: Vec<(String, String)>,
    },
    /// Makes an empty `~/.git-credentials` of mode 0600.
    CredentialsFile,
    /// Takes away what others may do with `~/.git-credentials`.
    CredentialsMode {
        /// The permission bits it has.
        from: u32,
    },
    /// Adds the push remote to a clone.
    PushRemote {
        /// The clone, below the home.
        clone: String,
        /// The remote.
        remote: PushRemote,
        /// Which branch follows it.
        branch: Follower,
    },
    /// Lets a clone refuse plain text in the place of what git-crypt encrypted.
    Lock {
        /// The clone, below the home.
        clone: String,
        /// The filter that is answered.
        driver: Driver,
    },
}

/// Which branch of a clone follows a new remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follower {
    /// None: the person has decided what it follows, or there is none.
    None,
    /// This one.
    Branch(String),
    /// The default branch of a clone that is made in the same run.
    Default,
}

impl Wire {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Wire::CleanUp { .. } => "clean-up-git-config",
            Wire::Set { .. } => "set-git-config",
            Wire::CredentialsFile => "make-git-credentials",
            Wire::CredentialsMode { .. } => "close-git-credentials",
            Wire::PushRemote { .. } => "add-push-remote",
            Wire::Lock { .. } => "lock-clone",
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wire::CleanUp { file } => write!(f, "remove what an interrupted change of ~/{file} left"),
            Wire::Set { file, settings } => {
                f.write_str("set")?;
                settings.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))?;
                write!(f, " in ~/{file}")
            }
            Wire::CredentialsFile => f.write_str("make ~/.git-credentials, mode 0600"),
            Wire::CredentialsMode { from } => {
                write!(f, "set the mode of ~/.git-credentials from {from:04o} to 0600")
            }
            Wire::PushRemote { clone, remote, branch } => {
                let PushRemote { name, url } = remote;
                write!(f, "add the remote {name} ({url}) to ~/{clone}")?;
                match branch {
                    Follower::None => Ok(()),
                    Follower::Branch(branch) => write!(f, " and let {branch} follow {name}/{branch}"),
                    Follower::Default => write!(f, " and let its default branch follow it"),
                }
            }
            Wire::Lock { clone, driver } if *driver == Driver::default_key() => {
                write!(f, "let ~/{clone} refuse plain text in encrypted files")
            }
            Wire::Lock { clone, driver } => {
                write!(f, "let ~/{clone} refuse plain text in encrypted files ({driver})")
            }
        }
    }
}
