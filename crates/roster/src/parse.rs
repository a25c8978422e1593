//! Bytes in, a validated [`Roster`] or [`Config`] out, or every diagnostic at once.
//!
//! Both files become one small tree whose every part knows its place (`node`, built by `yaml` and `toml`);
//! one reader walks it and collects what is wrong (`reader`); the rules of each file are on top (`roster`,
//! `config`, `files`). serde is not asked: it stops at the first error, knows no place of a duplicate key, and
//! reads `"true"` where a boolean is wanted or `007` as 7.

mod config;
mod files;
mod k8s_users;
mod kubernetes;
pub(crate) mod node;
mod paths;
pub(crate) mod reader;
mod roster;
mod source;
mod toml;
mod vault;
mod yaml;

pub use reader::nearest;

use crate::config::Config;
use crate::diagnostic::Diagnostics;
use crate::k8s_users::K8sUsers;
use crate::model::Roster;

/// The largest roster that is read, in bytes; one of a thousand people is well below 1 MiB. Whoever reads the file
/// needs to read no more than one byte beyond.
pub const LARGEST_ROSTER: usize = 4 << 20;

/// The largest configuration that is read, in bytes.
pub const LARGEST_CONFIG: usize = 256 << 10;

/// Reads a roster; `file` is only its name in the diagnostics.
pub fn roster(file: &str, bytes: &[u8]) -> Result<Roster, Diagnostics> {
    let source = source::Source::new(file, bytes, LARGEST_ROSTER)?;
    let mut reader = reader::Reader::new(reader::Format::Yaml);
    let roster = match yaml::parse(source.text, &mut reader) {
        Some(root) => roster::read(&mut reader, &root),
        None => Roster::default(),
    };
    source.judge(roster, reader)
}

/// The tree of a roster's text, without its byte order mark: nothing when there is no value in it, an error when it is
/// not YAML as a roster may be.
pub(crate) fn tree(text: &str) -> Result<Option<node::Node<'_>>, ()> {
    let mut reader = reader::Reader::new(reader::Format::Yaml);
    let root = yaml::parse(text, &mut reader);
    if reader.found.is_empty() { Ok(root) } else { Err(()) }
}

/// Whether a text without quotes is read as that text, and not as a number, a boolean or nothing.
pub(crate) fn is_plain_text(text: &str) -> bool {
    yaml::is_text(text)
}

/// Reads a configuration; `file` is only its name in the diagnostics.
pub fn config(file: &str, bytes: &[u8]) -> Result<Config, Diagnostics> {
    let source = source::Source::new(file, bytes, LARGEST_CONFIG)?;
    let mut reader = reader::Reader::new(reader::Format::Toml);
    let config = match toml::parse(source.text, &mut reader) {
        Some(root) => config::read(&mut reader, &root),
        None => Config::default(),
    };
    source.judge(config, reader)
}

/// Reads the cluster's list of people; `file` is only its name in the diagnostics. What is wrong with single entries is
/// in the result.
pub fn k8s_users(file: &str, bytes: &[u8]) -> Result<K8sUsers, Diagnostics> {
    let source = source::Source::new(file, bytes, LARGEST_ROSTER)?;
    let mut reader = reader::Reader::new(reader::Format::Yaml);
    let users = yaml::parse(source.text, &mut reader).and_then(|root| k8s_users::read(&mut reader, &root));
    if users.is_none() && reader.found.is_empty() {
        reader.tell(reader::Found::new(0..0, "the map is empty").help("one without people is `{}`"));
    }
    match (users, source.judge((), reader)) {
        (Some(users), judged) => Ok(K8sUsers { diagnostics: judged.err(), ..users }),
        (None, Err(diagnostics)) => Err(diagnostics),
        (None, Ok(())) => Ok(K8sUsers::default()),
    }
}
