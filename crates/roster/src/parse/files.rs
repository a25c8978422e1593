//! The rules of `[[file]]`: which keys a kind has, which paths may be named, what may be written between braces.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::config::read_tiers_of;
use super::paths::{Paths, absolute};
use crate::config::{Config, FileEntry, FileKind, Service};
use crate::diagnostic::quoted;
use crate::files::template::{self, Variable};
use crate::model::Tier;
use crate::parse::node::{Node, Span, Value};
use crate::parse::reader::{Field, Fields, Found, Reader};

/// What rosterd keeps in a home by other means.
const KEPT: &[(&str, &str)] = &[
    ("code", "the clones are there"),
    (".gitconfig", "git is told by rosterd already, where it has no value"),
    (".config/git/config", "git is told by rosterd already, where it has no value"),
    (".git-credentials", "logins are the person's own"),
];

/// As deep as anybody nests.
const MAX_DEPTH: usize = 16;

pub(super) fn read(reader: &mut Reader, paths: &mut Paths, field: &Field<'_>) -> Vec<(FileEntry, Span)> {
    let items = match &field.node.value {
        Value::Sequence(items) => items.as_slice(),
        Value::Mapping(_) => {
            let found = Found::new(field.key_span.clone(), "`file` is a list of tables");
            reader.tell(found.help("write `[[file]]` with two brackets, once for each file"));
            return Vec::new();
        }
        _ => reader.items("file", field.node),
    };
    items.iter().filter_map(|item| one(reader, paths, item)).collect()
}

fn one(reader: &mut Reader, paths: &mut Paths, item: &Node<'_>) -> Option<(FileEntry, Span)> {
    let mut fields = reader.fields(item, "a `[[file]]`", &item.span)?;
    let mut span = item.span.clone();
    let path = fields.require("path", "add one, such as `path = \"~/start-claude.sh\"`").and_then(|field| {
        span = field.node.span.clone();
        read_path(reader, paths, &field)
    });
    let kinds = [FileKind::Copy, FileKind::Once, FileKind::Link, FileKind::Json, FileKind::Block];
    let kinds = kinds.map(|kind| (kind.as_str(), kind));
    let kind = fields
        .require("kind", "it is one of `copy`, `once`, `link`, `json` and `block`")
        .and_then(|field| reader.choice(field.node, "kind", &kinds));
    let source = fields.take("source").and_then(|field| {
        let path = absolute(reader, &field)?;
        paths.read.push((path.clone(), field.node.span.clone()));
        Some(path)
    });
    let content = fields.take("content").and_then(|field| {
        let text = reader.text(field.node)?;
        paths.templates.extend(variables(reader, text, &field.node.span));
        Some(text.to_owned())
    });
    let target = fields.take("target").and_then(|field| absolute(reader, &field));
    let source_key = fields.take("source_key").and_then(|field| {
        let text = reader.text(field.node)?;
        pointer(reader, &field.node.span, text)
    });
    let keys = fields.take("keys").map_or_else(BTreeMap::new, |field| read_keys(reader, paths, &field));
    let mut line = |reader: &mut Reader, key: &'static str| {
        fields.take(key).and_then(|field| {
            let text = reader.text(field.node)?;
            if text.trim() == text
                && !text.is_empty()
                && !text.contains(char::is_control)
                && text.len() <= 200
            {
                return Some(text.to_owned());
            }
            let what = format!("`{key}` is one line without white space around it");
            reader.tell(Found::new(field.node.span.clone(), what));
            None
        })
    };
    let header = line(reader, "header");
    let comment = line(reader, "comment");
    let mode = fields.take("mode").and_then(|field| read_mode(reader, &field));
    let tiers = read_tiers_of(reader, &mut fields);
    if let (Some(path), Some(kind)) = (&path, kind) {
        fitting(reader, &fields, item, path, kind);
    }
    fields.finish(reader);
    let entry = FileEntry {
        path: path?,
        kind: kind?,
        source,
        source_key,
        content,
        target,
        keys,
        header,
        comment,
        mode,
        tiers: tiers.unwrap_or_else(|| Tier::ALL.to_vec()),
    };
    Some((entry, span))
}

/// `~/…` in a home, or an absolute path of the machine.
fn read_path(reader: &mut Reader, paths: &mut Paths, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field.node)?;
    let Some(below) = text.strip_prefix("~/") else {
        if !text.starts_with('/') {
            let found = Found::new(
                field.node.span.clone(),
                format!("{} begins with neither `~/` nor `/`", quoted(text)),
            );
            reader.tell(found.help("`~/…` is in each person's home, `/…` is the machine's"));
            return None;
        }
        let path = absolute(reader, field)?;
        paths.written.push((path, field.node.span.clone()));
        return Some(text.to_owned());
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 200;
    let problem = if !below.split('/').all(plain) {
        "holds an empty part, `.` or `..`"
    } else if below.chars().any(char::is_control) || below.len() > 512 {
        "holds a control character or is longer than 512 bytes"
    } else if below.split('/').count() > MAX_DEPTH {
        "lies in more folders than anybody needs"
    } else {
        let kept = KEPT.iter().find(|(kept, _)| Path::new(below).starts_with(kept));
        let Some((kept, why)) = kept else { return Some(text.to_owned()) };
        let message = format!("{} is not for a `[[file]]`: ~/{kept} is kept otherwise", quoted(text));
        reader.tell(Found::new(field.node.span.clone(), message).help(*why));
        return None;
    };
    reader.tell(Found::new(field.node.span.clone(), format!("{} {problem}", quoted(text))));
    None
}

/// A JSON pointer.
fn pointer(reader: &mut Reader, span: &Span, text: &str) -> Option<String> {
    let parts = text.strip_prefix('/').map(|rest| rest.split('/'));
    let fits = |part: &str| {
        let escapes = part.match_indices('~').all(|(at, _)| part[at + 1..].starts_with(['0', '1']));
        !part.is_empty() && escapes && !part.contains(char::is_control)
    };
    if let Some(mut parts) = parts
        && text.len() <= 512
        && text.split('/').count() <= MAX_DEPTH
        && parts.all(fits)
    {
        return Some(text.to_owned());
    }
    let found = Found::new(span.clone(), format!("{} is not a JSON pointer", quoted(text)));
    reader.tell(found.help("write each key behind a `/`, such as \"/mcpServers/playwright\""));
    None
}

fn read_keys(reader: &mut Reader, paths: &mut Paths, field: &Field<'_>) -> BTreeMap<String, Json> {
    let mut keys = BTreeMap::new();
    let Value::Mapping(entries) = &field.node.value else {
        let found = Found::new(field.node.span.clone(), "`keys` is a table");
        reader.tell(found.help("such as `keys = {\"/hasCompletedOnboarding\" = true}`"));
        return keys;
    };
    for field in reader.unique(entries) {
        let value = json(reader, paths, field.node, 0);
        if let (Some(pointer), Some(value)) = (pointer(reader, field.key_span, field.key), value) {
            let below =
                |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
            if let Some(other) =
                keys.keys().find(|key: &&String| below(&pointer, key) || below(key, &pointer))
            {
                let message = format!("{} is below another key, or above it", quoted(&pointer));
                reader.tell(
                    Found::new(field.key_span.clone(), message)
                        .help(format!("the other is {}", quoted(other))),
                );
                continue;
            }
            keys.insert(pointer, value);
        }
    }
    keys
}

/// What TOML says, as JSON.
fn json(reader: &mut Reader, paths: &mut Paths, node: &Node<'_>, depth: usize) -> Option<Json> {
    let refuse = |reader: &mut Reader, what: &str| {
        reader.tell(Found::new(node.span.clone(), what));
        None
    };
    if depth > MAX_DEPTH {
        return refuse(reader, "this is nested deeper than anybody needs");
    }
    Some(match &node.value {
        Value::Bool(boolean) => Json::from(*boolean),
        Value::Number(number) => match serde_json::from_str(number) {
            Ok(number) => number,
            Err(_) => return refuse(reader, "JSON cannot write this number"),
        },
        Value::Text(text) => {
            paths.templates.extend(variables(reader, text, &node.span));
            Json::from(text.as_ref())
        }
        Value::Sequence(items) => {
            Json::Array(items.iter().filter_map(|item| json(reader, paths, item, depth + 1)).collect())
        }
        Value::Mapping(entries) => {
            let fields = reader.unique(entries).into_iter();
            let mut object = serde_json::Map::new();
            for field in fields {
                object.insert(field.key.to_owned(), json(reader, paths, field.node, depth + 1)?);
            }
            Json::Object(object)
        }
        Value::Refused => return None,
        Value::Null | Value::Other(_) => return refuse(reader, "JSON has no such value"),
    })
}

/// The services whose port a text names. Other variables are told when nobody knows them.
fn variables(reader: &mut Reader, text: &str, span: &Span) -> Vec<(String, Span)> {
    match template::variables(text) {
        Ok(variables) => variables
            .into_iter()
            .filter_map(|variable| match variable {
                Variable::Port(service) => Some((service.to_owned(), span.clone())),
                _ => None,
            })
            .collect(),
        Err(template::Unknown(name)) => {
            let shown: String = name.chars().take(40).collect();
            let found =
                Found::new(span.clone(), format!("`{{{{{}}}}}` stands for nothing", shown.escape_debug()));
            reader.tell(found.help(format!("what differs between people is {}", template::KNOWN)));
            Vec::new()
        }
    }
}

fn read_mode(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field.node)?;
    let bits = u32::from_str_radix(text, 8).ok().filter(|_| text.len() == 4 && text.starts_with('0'));
    let found = match bits {
        Some(bits) if bits & 0o022 == 0 && bits & 0o400 != 0 => return Some(text.to_owned()),
        Some(_) => Found::new(
            field.node.span.clone(),
            format!("{} lets others write, or not its owner read", quoted(text)),
        ),
        None => Found::new(field.node.span.clone(), format!("{} is not a mode", quoted(text))),
    };
    reader.tell(found.help("such as \"0644\", \"0755\" or \"0600\""));
    None
}

/// Whether the keys that are given are those of the kind.
fn fitting(reader: &mut Reader, fields: &Fields<'_>, item: &Node<'_>, path: &str, kind: FileKind) {
    let (name, has) = (kind.as_str(), |key: &str| fields.has(key));
    let mut tell = |message: String, help: &str| {
        let found = Found::new(item.span.clone(), message);
        reader.tell(if help.is_empty() { found } else { found.help(help) });
    };
    let allowed: &[&str] = match kind {
        FileKind::Copy => &["source", "source_key", "content", "header", "mode"],
        FileKind::Once => &["source", "source_key", "content", "mode"],
        FileKind::Block => &["source", "source_key", "content", "comment"],
        FileKind::Link => &["target"],
        FileKind::Json => &["keys"],
    };
    for key in ["source", "source_key", "content", "header", "mode", "comment", "target", "keys"] {
        if has(key) && !allowed.contains(&key) {
            tell(format!("a file of kind `{name}` has no `{key}`"), "");
        }
    }
    match kind {
        FileKind::Copy | FileKind::Once | FileKind::Block if has("source") == has("content") => {
            let message = format!("a file of kind `{name}` has a `source` or a `content`, and not both");
            tell(message, "`source` names a file of root's, `content` is the text itself");
        }
        FileKind::Link if !has("target") => tell("a link has a `target`".into(), ""),
        FileKind::Json if !has("keys") => tell("a file of kind `json` has `keys`".into(), ""),
        _ => {}
    }
    if has("source_key") && !has("source") {
        tell("`source_key` is of a `source`".into(), "");
    }
    if path.starts_with('/') {
        if matches!(kind, FileKind::Link | FileKind::Json) {
            tell(format!("a file of kind `{name}` is in a home"), "begin its path with `~/`");
        }
        for key in ["header", "tiers"] {
            if has(key) {
                tell(format!("a file of the machine has no `{key}`"), "it is nobody's but rosterd's");
            }
        }
    }
}

/// The rules between entries, and between them and the services.
pub(super) fn judge(
    reader: &mut Reader,
    config: &Config,
    files: &[(FileEntry, Span)],
    ports: &[(String, Span)],
) {
    for (service, span) in ports {
        let known = config.service.iter().find(|of| of.name.as_str() == service);
        if known.and_then(Service::port).is_none() {
            let message = format!("there is no service {} with a port", quoted(service));
            reader.tell(
                Found::new(span.clone(), message).help("`{{port.NAME}}` is the port of a `[[service]]`"),
            );
        }
    }
    for (index, (file, span)) in files.iter().enumerate() {
        for (other, first) in &files[..index] {
            let shared = file.tiers.iter().any(|tier| other.tiers.contains(tier));
            let both_json = file.kind == FileKind::Json && other.kind == FileKind::Json;
            if file.path == other.path && shared && !both_json {
                let message = format!("a second entry for {}", quoted(&file.path));
                reader.tell(Found::new(span.clone(), message).also(first, "the first one"));
            } else if file.path == other.path && both_json && shared {
                for key in file.keys.keys().filter(|key| other.keys.contains_key(*key)) {
                    let message = format!("another entry adds {} to this file already", quoted(key));
                    reader.tell(Found::new(span.clone(), message).also(first, "this one"));
                }
            } else if file.path != other.path {
                let (upper, lower, at) = match Path::new(&file.path).starts_with(&other.path) {
                    true => (other, file, span),
                    false if Path::new(&other.path).starts_with(&file.path) => (file, other, first),
                    false => continue,
                };
                let message =
                    format!("{} lies below {}, which is no folder", quoted(&lower.path), quoted(&upper.path));
                reader.tell(Found::new(at.clone(), message));
            }
        }
    }
}
