//! From the entries of the configuration to the files of each person and of the machine. What a source does not give
//! makes no file: what stands there stays, and the machine is degraded until the source is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::template::{self, Variable};
use super::{FileDesired, FileWanted, Text, block};
use crate::config::{Config, FileEntry, FileKind, Service};
use crate::desired::{Account, Desired, Ports};
use crate::model::{Person, Roster};
use crate::name::{OsUser, ServiceName};
use crate::observed::FileState;
use crate::plan::{Notice, Plan, Problem, Subject};

/// More than anybody writes by hand; each home is sent all of it.
const MAX_SOURCE: usize = 1 << 20;

/// What new files may be read by, unless their entry says otherwise.
const MODE: u32 = 0o644;

/// The files that entries take their text from.
pub fn sources(config: &Config) -> BTreeSet<&PathBuf> {
    config.file.iter().filter_map(|entry| entry.source.as_ref()).collect()
}

/// What links lead to.
pub fn targets(config: &Config) -> BTreeSet<&PathBuf> {
    config.file.iter().filter_map(|entry| entry.target.as_ref()).collect()
}

/// Adds the files of each home to what should be. Tells which cannot be had.
pub fn add(
    desired: &mut Desired,
    roster: &Roster,
    config: &Config,
    sources: &BTreeMap<PathBuf, FileState>,
) -> Plan {
    let mut told = Plan::default();
    for target in targets(config) {
        for account in desired.accounts.values_mut() {
            if let Ok(below) = target.strip_prefix(&account.home) {
                account.home_content.bases.push(below.display().to_string());
            }
        }
    }
    for entry in config.file.iter().filter(|entry| entry.in_home().is_some()) {
        let text = match text_of(entry, sources) {
            Ok(text) => text,
            Err(why) => {
                told.problems.push(no_source(entry, why));
                continue;
            }
        };
        for (user, account) in &mut desired.accounts {
            let Some(person) = roster.users.get(user) else { continue };
            if !entry.tiers.contains(&account.tier) {
                continue;
            }
            let whose = Whose { user, person, account, ports: &desired.ports, services: &config.service };
            match whose.file(entry, &text) {
                Ok(file) => add_one(&mut account.home_content.files, file),
                // A service that the person does not have asks for nothing.
                Err(Variable::Port(_)) => {}
                Err(_) => told.notices.push(Notice {
                    subject: Subject::User(user.clone()),
                    text: format!(
                        "{} is not made: it wants an `email`, and the roster gives none",
                        entry.path
                    ),
                }),
            }
        }
    }
    told
}

/// Keys of several entries for one file are one wish.
fn add_one(files: &mut Vec<FileDesired>, new: FileDesired) {
    let same = files.iter_mut().find(|file| file.path == new.path);
    match (same, new.wanted) {
        (Some(FileDesired { wanted: FileWanted::Json { keys }, .. }), FileWanted::Json { keys: more }) => {
            keys.extend(more);
        }
        (_, wanted) => files.push(FileDesired { path: new.path, wanted }),
    }
}

/// Where an entry's text comes from.
enum From {
    /// It is the same for everybody.
    Source(Text),
    /// It is in the entry, or there is none.
    Entry,
}

fn text_of(entry: &FileEntry, sources: &BTreeMap<PathBuf, FileState>) -> Result<From, String> {
    let Some(source) = &entry.source else { return Ok(From::Entry) };
    let content = match sources.get(source) {
        // What is kept from people must not reach them by a slip of the configuration.
        Some(FileState::Present { mode, .. }) if entry.in_home().is_some() && mode & 0o004 == 0 => {
            return Err(format!(
                "its mode {:04o} keeps it from people, and each would get a copy; if nothing in it is secret, `chmod o+r` it",
                mode & 0o7777
            ));
        }
        Some(FileState::Present { content, .. }) => content,
        Some(FileState::Absent) => return Err("there is no such file".into()),
        Some(FileState::Unreadable(why)) => return Err(format!("it cannot be read: {why}")),
        None => return Err("it was not looked at".into()),
    };
    if content.len() > MAX_SOURCE {
        return Err(format!("it is bigger than {} KiB", MAX_SOURCE >> 10));
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
    // As an editor leaves it that empties a file before it writes.
    if text.trim().is_empty() {
        return Err("it is empty".into());
    }
    let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
    let text: Arc<str> = match &entry.source_key {
        Some(key) => {
            let value: Value = serde_json::from_str(text).map_err(|error| not_json(&error))?;
            match value.pointer(key) {
                Some(Value::String(text)) if !text.is_empty() => text.as_str().into(),
                _ => return Err(format!("it has no text under {key}")),
            }
        }
        None if is_json(source) || is_json(Path::new(&entry.path)) => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| not_json(&error))?;
            text.into()
        }
        None => text.into(),
    };
    Ok(From::Source(finished(entry, text)))
}

fn not_json(error: &serde_json::Error) -> String {
    format!("it is no valid JSON: {error}")
}

/// The text as it is written: behind its header, with the end of its last line.
fn finished(entry: &FileEntry, text: Arc<str>) -> Text {
    match (entry.kind, &entry.header) {
        (FileKind::Copy, Some(header)) => Text::new(format!("{header}\n{}", block::body(&text))),
        (FileKind::Block, _) => Text::new(block::body(&text)),
        _ => Text::new(text),
    }
}

fn no_source(entry: &FileEntry, why: String) -> Problem {
    let source = entry.source.as_ref().map_or_else(String::new, |path| path.display().to_string());
    Problem {
        subject: Subject::Machine,
        what: format!("{} is not kept up to date from {source}", entry.path),
        why,
        next: format!(
            "correct {source}, which is read again when it is saved; until then what is there stays"
        ),
    }
}

/// For whom an entry is read.
struct Whose<'a> {
    user: &'a OsUser,
    person: &'a Person,
    account: &'a Account,
    ports: &'a Ports,
    services: &'a [Service],
}

impl Whose<'_> {
    fn file<'e>(&self, entry: &'e FileEntry, text: &From) -> Result<FileDesired, Variable<'e>> {
        let text = || match (text, &entry.content) {
            (From::Source(text), _) => Ok(text.clone()),
            (From::Entry, content) => {
                let content = self.filled(content.as_deref().unwrap_or_default())?;
                Ok(finished(entry, content.into()))
            }
        };
        let mode = entry.mode_bits().unwrap_or(MODE);
        let wanted = match entry.kind {
            FileKind::Copy => FileWanted::Copy { text: text()?, header: entry.header.clone(), mode },
            FileKind::Once => FileWanted::Once { text: text()?, mode },
            FileKind::Link => FileWanted::Link { target: target(entry) },
            FileKind::Json => {
                let keys =
                    entry.keys.iter().map(|(pointer, value)| Ok((pointer.clone(), self.value(value)?)));
                FileWanted::Json { keys: keys.collect::<Result<_, _>>()? }
            }
            FileKind::Block => FileWanted::Block { text: text()?, comment: comment(entry) },
        };
        Ok(FileDesired { path: entry.in_home().unwrap_or_default().to_owned(), wanted })
    }

    fn value<'v>(&self, value: &'v Value) -> Result<Value, Variable<'v>> {
        Ok(match value {
            Value::String(text) => Value::String(self.filled(text)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let field = |(key, value): (&String, &'v Value)| Ok((key.clone(), self.value(value)?));
                Value::Object(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            plain => plain.clone(),
        })
    }

    fn filled<'t>(&self, text: &'t str) -> Result<String, Variable<'t>> {
        template::fill(text, &|variable| match variable {
            Variable::OsUser => Some(self.user.to_string()),
            Variable::Home => Some(self.account.home.display().to_string()),
            Variable::Login => Some(self.person.authentik_user.local_part().to_owned()),
            Variable::Email => self.person.email.as_ref().map(ToString::to_string),
            Variable::Port(service) => {
                let port = self.ports.get(&ServiceName::new(service).ok()?)?.get(self.user)?;
                // A port is kept for ever, also by those whose tier no longer has the service.
                let has = |of: &Service| of.name.as_str() == service && of.tiers.contains(&self.account.tier);
                self.services.iter().any(has).then(|| port.to_string())
            }
        })
    }
}

fn target(entry: &FileEntry) -> String {
    entry.target.as_ref().map_or_else(String::new, |path| path.display().to_string())
}

fn comment(entry: &FileEntry) -> String {
    entry.comment.clone().unwrap_or_else(|| "#".into())
}

/// A file of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFile<'c> {
    /// Where.
    pub path: &'c Path,
    /// How it is kept: `copy`, `once` or `block`.
    pub kind: FileKind,
    /// Its text, or what keeps it from having one.
    pub text: Result<Text, Problem>,
    /// Permission bits.
    pub mode: u32,
    /// How a line of comment begins.
    pub comment: String,
}

/// The files of the machine.
pub fn machine<'c>(config: &'c Config, sources: &BTreeMap<PathBuf, FileState>) -> Vec<MachineFile<'c>> {
    let of_machine = config.file.iter().filter(|entry| entry.in_home().is_none());
    of_machine
        .map(|entry| {
            let text = match text_of(entry, sources) {
                Ok(From::Source(text)) => Ok(text),
                Ok(From::Entry) => Ok(finished(entry, entry.content.as_deref().unwrap_or_default().into())),
                Err(why) => Err(no_source(entry, why)),
            };
            MachineFile {
                path: Path::new(&entry.path),
                kind: entry.kind,
                text,
                mode: entry.mode_bits().unwrap_or(MODE),
                comment: comment(entry),
            }
        })
        .collect()
}
