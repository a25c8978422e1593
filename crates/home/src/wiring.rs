//! What git is told in this home: looks at the configuration as git reads it, includes and all, and sets what the
//! plan says. Nothing here decides what git should be told.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;

use roster::desired::HomeDesired;
use roster::wiring::{
    CloneConfig, CredentialsFile, Driver, Filter, Follower, PERSON_KEYS, PersonConfig, Wire, WiringObserved,
};

use crate::gitconfig::{self, Entry};
use crate::place::without_user;
use crate::protocol::Failure;
use crate::{edit, files, locked, tree};

const CREDENTIALS: &str = ".git-credentials";
/// The person's own files, in git's order.
pub(crate) const PERSON_FILES: [&str; 2] = [".config/git/config", ".gitconfig"];
/// As deep as git follows includes.
const MAX_DEPTH: usize = 10;
/// As many files as anybody has; one that includes itself a hundred times would take for ever.
const MAX_FILES: usize = 100;

/// What git is told already. `clones` are the places where the infra clone is.
pub(crate) fn observe(home: &OwnedFd, desired: &HomeDesired, clones: &[String]) -> WiringObserved {
    if desired.wiring.is_empty() && !desired.clones.iter().any(|clone| clone.locked) {
        return WiringObserved::default();
    }
    let remote = desired.wiring.push.as_ref().map_or("", |push| push.name.as_str());
    let configs: Vec<_> = clones.iter().flat_map(|path| configs_of(path)).collect();
    let files = PERSON_FILES.into_iter().chain(configs.iter().map(String::as_str));
    let clones: BTreeMap<_, _> =
        clones.iter().map(|path| (path.clone(), clone(home, path, remote))).collect();
    let drivers = clones.values().flat_map(|clone| clone.filters.keys().cloned());
    WiringObserved {
        person: Some(person(home, &drivers.chain([Driver::default_key()]).collect())),
        interrupted: files.filter(|file| edit::is_interrupted(home, file)).map(str::to_owned).collect(),
        clones,
    }
}

/// The filters of git-crypt that a clone uses, as far as the attributes at its top say.
fn drivers(home: &OwnedFd, clone: &str) -> BTreeSet<Driver> {
    let attributes = tree::read(home, &format!("{clone}/.gitattributes"), edit::MAX_CONFIG);
    // What cannot be read is not in force for git either.
    let mut drivers = locked::drivers_in(&attributes.ok().flatten().unwrap_or_default());
    drivers.insert(Driver::default_key());
    drivers
}

/// The configuration file of a clone.
pub(crate) fn config_of(clone: &str) -> String {
    format!("{clone}/.git/config")
}

/// All that rosterd changes of a clone's configuration.
pub(crate) fn configs_of(clone: &str) -> [String; 2] {
    [config_of(clone), locked::answers_of(clone)]
}

fn person(home: &OwnedFd, drivers: &BTreeSet<Driver>) -> PersonConfig {
    let mut machine = Settings::default();
    machine.add_machine();
    let mut own = Settings::default();
    for file in PERSON_FILES {
        own.add(home, file, 0);
    }
    // Where git itself writes.
    let [xdg, usual] = PERSON_FILES;
    let has_usual = !matches!(tree::stat(home, usual), Ok(None));
    let file = if !has_usual && tree::open(home, xdg, OFlag::O_PATH).is_ok() { xdg } else { usual };
    let is_set = |key: &str| {
        let of_one_server = |entry: &&Entry| {
            key == "credential.helper" && entry.section == "credential" && entry.key == "helper"
        };
        gitconfig::value(&own.entries, key).is_some()
            || gitconfig::value(&machine.entries, key).is_some()
            // Of the machine's it would say nothing about the servers of this person.
            || own.entries.iter().any(|entry| of_one_server(&entry))
    };
    let helpers = machine.entries.iter().chain(&own.entries);
    let helper = gitconfig::Key::of("credential.helper");
    let stores =
        helpers.filter(|entry| entry.is(&helper)).fold(false, |stores, entry| match entry.value.as_str() {
            "" => false,
            "store" => true,
            _ => stores,
        });
    let closed = machine.unknown.or(own.unknown).or_else(|| closed(home, file));
    PersonConfig {
        file: file.to_owned(),
        closed,
        set: PERSON_KEYS
            .into_iter()
            .map(str::to_owned)
            .chain(drivers.iter().map(Driver::clean))
            .filter(|key| is_set(key))
            .collect(),
        stores,
        credentials: match tree::stat(home, CREDENTIALS) {
            Ok(None) => CredentialsFile::Absent,
            Ok(Some(stat)) => match edit::closed(&stat) {
                None => CredentialsFile::Present { mode: stat.st_mode & 0o7777 },
                Some(what) => CredentialsFile::Other(what.trim_start_matches("it is ").to_owned()),
            },
            Err(errno) => CredentialsFile::Other(tree::words(errno).to_owned()),
        },
    }
}

/// Why a file cannot be changed, if it cannot.
fn closed(home: &OwnedFd, file: &str) -> Option<String> {
    // Our own second name of it is no reason.
    if edit::is_interrupted(home, file) {
        return None;
    }
    let (dir, name) = match tree::parent(home, file) {
        Ok(parent) => parent,
        Err(errno) => return Some(tree::words(errno).to_owned()),
    };
    match tree::stat(&dir, name) {
        Ok(stat) => stat.as_ref().and_then(edit::closed),
        Err(errno) => Some(tree::words(errno).to_owned()),
    }
}

fn clone(home: &OwnedFd, path: &str, remote: &str) -> CloneConfig {
    let file = config_of(path);
    let mut settings = Settings::default();
    settings.add(home, &file, 0);
    let value = |name: &str| gitconfig::value(&settings.entries, name);
    let default_branch = default_branch(home, path);
    let is_remote = |entry: &Entry| entry.section == "remote" && entry.subsection == remote;
    let push_url = settings
        .entries
        .iter()
        .any(is_remote)
        .then(|| without_user(value(&format!("remote.{remote}.url")).unwrap_or_default()));
    let follows = default_branch.as_ref().and_then(|branch| {
        let part = |key: &str| value(&format!("branch.{branch}.{key}")).map(str::to_owned);
        let (remote, merge) = (part("remote"), part("merge"));
        (remote.is_some() || merge.is_some()).then(|| (remote.unwrap_or_default(), merge.unwrap_or_default()))
    });
    let mut answers = Settings::default();
    answers.add(home, &locked::answers_of(path), 0);
    let has_answers = locked::has_answers(&settings.entries);
    let filter = |driver: &Driver| match locked::filter(&settings.entries, driver) {
        // It would go with the next `git-crypt lock`.
        Filter::Ours if !has_answers || !locked::is_answered(&answers.entries, driver) => Filter::Weak,
        filter => filter,
    };
    let filters = drivers(home, path).into_iter().map(|driver| (driver.clone(), filter(&driver))).collect();
    let closed = settings.unknown.clone().or_else(|| closed(home, &file));
    let is_open = files::is_open(home, path);
    CloneConfig { closed, push_url, default_branch, follows, filters, is_open }
}

/// The branch that `origin` has as its default, as this clone last heard.
fn default_branch(home: &OwnedFd, clone: &str) -> Option<String> {
    let head = tree::read(home, &format!("{clone}/.git/refs/remotes/origin/HEAD"), 1024).ok()??;
    let text = String::from_utf8(head).ok()?;
    let branch = text.strip_prefix("ref: refs/remotes/origin/")?.trim_end_matches('\n');
    let plain = !branch.is_empty() && branch.len() < 200 && !branch.chars().any(char::is_control);
    plain.then(|| branch.to_owned())
}

/// Variables of several files, in the order in which git reads them.
#[derive(Default)]
struct Settings {
    entries: Vec<Entry>,
    /// Why not all of them are known, if so.
    unknown: Option<String>,
    /// How many files were read.
    files: usize,
}

impl Settings {
    fn add_machine(&mut self) {
        match std::fs::read("/etc/gitconfig") {
            Ok(content) => match gitconfig::entries(&content) {
                Ok(entries) => self.entries.extend(entries),
                Err(line) => self.unknown = Some(format!("line {line} of /etc/gitconfig is malformed")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.unknown = Some(format!("/etc/gitconfig cannot be read: {error}")),
        }
    }

    /// A file below the home, with what it includes under whatever condition: a value that the person gave to some
    /// of their repositories is theirs.
    fn add(&mut self, home: &OwnedFd, file: &str, depth: usize) {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return self.is_unknown(format!("~/{file} is included too deeply"));
        }
        let content = match tree::read(home, file, edit::MAX_CONFIG) {
            Ok(Some(content)) => content,
            Ok(None) => return,
            Err(why) => return self.is_unknown(format!("~/{file} is not read: {why}")),
        };
        let entries = match gitconfig::entries(&content) {
            Ok(entries) => entries,
            Err(line) => return self.is_unknown(format!("line {line} of ~/{file} is malformed")),
        };
        for entry in entries {
            let includes = entry.key == "path" && matches!(entry.section.as_str(), "include" | "includeif");
            if includes && self.unknown.is_none() {
                match included(file, &entry.value) {
                    Some(path) => self.add(home, &path, depth + 1),
                    None => self.is_unknown(format!("~/{file} includes {}, outside the home", entry.value)),
                }
            }
            self.entries.push(entry);
        }
    }

    fn is_unknown(&mut self, why: String) {
        self.unknown.get_or_insert(why);
    }
}

/// A path that `file` includes, below the home.
fn included(file: &str, path: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("~/") {
        return Some(rest.to_owned());
    }
    if path.starts_with('/') {
        // The worker stands in the home.
        let home = std::env::current_dir().ok()?;
        return Path::new(path).strip_prefix(home).ok()?.to_str().map(str::to_owned);
    }
    if path.starts_with(['~', '%']) {
        return None;
    }
    let folder = file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    Some(format!("{folder}{path}"))
}

/// Tells git one thing.
pub(crate) fn apply(home: &OwnedFd, wire: &Wire) -> Result<(), Failure> {
    let done = match wire {
        Wire::CleanUp { file } => edit::clean_up(home, file).map_err(|errno| tree::words(errno).to_owned()),
        Wire::Set { file, settings } => edit::edit(home, file, |old| {
            let seen = entries(old)?;
            let absent: Vec<_> = settings
                .iter()
                .filter(|(key, _)| gitconfig::value(&seen, key).is_none())
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            set(old, &absent)
        }),
        Wire::CredentialsFile => {
            edit::create(home, CREDENTIALS, 0o600).map(drop).map_err(|errno| tree::words(errno).to_owned())
        }
        Wire::CredentialsMode { .. } => edit::close_to_others(home, CREDENTIALS),
        Wire::PushRemote { clone, remote, branch } => {
            let branch = match branch {
                Follower::None => None,
                Follower::Branch(branch) => Some(branch.clone()),
                Follower::Default => default_branch(home, clone),
            };
            edit::edit(home, &config_of(clone), |old| {
                let name = remote.name.as_str();
                if entries(old)?.iter().any(|entry| entry.section == "remote" && entry.subsection == name) {
                    return Err(format!("it has a remote {name} by now"));
                }
                let mut settings = vec![
                    (format!("remote.{name}.url"), remote.url.clone()),
                    (format!("remote.{name}.fetch"), format!("+refs/heads/*:refs/remotes/{name}/*")),
                ];
                if let Some(branch) = branch {
                    settings.push((format!("branch.{branch}.remote"), name.to_owned()));
                    settings.push((format!("branch.{branch}.merge"), format!("refs/heads/{branch}")));
                }
                let settings: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                set(old, &settings)
            })
        }
        Wire::Lock { clone, driver } => match locked::guard(home, clone, &BTreeSet::from([driver.clone()])) {
            Ok(others) if !others.is_empty() => Err("something else answers its filter by now".to_owned()),
            done => done.map(drop),
        },
    };
    done.map_err(|why| {
        let next = if why.contains(".lock is there") {
            "tried again later by itself; if no git is at work there, let the person remove the lock file"
        } else {
            "tried again later by itself; nothing was changed"
        };
        Failure::new(format!("cannot {wire}: {why}"), next)
    })
}

fn entries(text: &[u8]) -> Result<Vec<Entry>, String> {
    gitconfig::entries(text).map_err(|line| format!("line {line} is malformed"))
}

/// The text with the settings, which has to say what it should to whoever reads it.
fn set(text: &[u8], settings: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let new = gitconfig::set(text, settings).map_err(|line| format!("line {line} is malformed"))?;
    let read = entries(&new)?;
    match settings.iter().all(|(key, value)| gitconfig::value(&read, key) == Some(value)) {
        true => Ok(new),
        false => Err("the change would not be read back".to_owned()),
    }
}
