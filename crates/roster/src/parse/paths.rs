//! The rules of the paths in the configuration.
//!
//! rosterd reads and writes the files named there as root. So every path is absolute and says what it means, and none
//! lies below the homes: there a person could put a link in its place (invariant 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::diagnostic::quoted;
use crate::parse::node::Span;
use crate::parse::reader::{Field, Fields, Found, Reader};

/// An absolute path that needs no resolving: what is written is what is opened.
pub(super) fn absolute(reader: &mut Reader, field: &Field<'_>) -> Option<PathBuf> {
    let text = reader.text(field.node)?;
    let problem = if !text.starts_with('/') {
        "is not an absolute path"
    } else if text.split('/').any(|part| part == ".." || part == ".") {
        "holds `.` or `..`"
    } else if text.contains("//") || (text.len() > 1 && text.ends_with('/')) {
        "holds an empty part"
    } else if text.chars().any(char::is_control) {
        "holds a control character"
    } else if text.len() > 1024 {
        "is longer than 1024 bytes"
    } else {
        return Some(PathBuf::from(text));
    };
    reader.tell(Found::new(field.node.span.clone(), format!("{} {problem}", quoted(text))));
    None
}

/// Folders of the system, where no homes are and nothing is that rosterd writes.
const SYSTEM: &[&str] =
    &["/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/sbin", "/sys"];

/// Besides those, where an account's home would shadow or expose what programs rely on.
const NO_HOMES: &[&str] = &[
    "/etc",
    "/run",
    "/tmp",
    "/usr",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// Besides those, what rosterd may not be told to write: whoever can log in and become root is decided here, programs are
/// kept here, or rosterd itself reads it. A name with `-` behind it is the copy that shadow's tools keep.
const NEVER_WRITTEN: &[&str] = &[
    "/etc/apt",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/cron.hourly",
    "/etc/cron.monthly",
    "/etc/cron.weekly",
    "/etc/crontab",
    "/etc/environment",
    "/etc/fstab",
    "/etc/group",
    "/etc/group-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/login.defs",
    "/etc/machine-id",
    "/etc/nsswitch.conf",
    "/etc/pam.conf",
    "/etc/pam.d",
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/resolv.conf",
    "/etc/rosterd",
    "/etc/security",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/shells",
    "/etc/ssh",
    "/etc/subgid",
    "/etc/subgid-",
    "/etc/subuid",
    "/etc/subuid-",
    "/etc/sudo.conf",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/systemd",
    "/etc/udev",
    "/run/rosterd",
    "/run/systemd",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/share",
    "/var/lib/rosterd",
    "/var/lib/systemd",
    "/var/run/rosterd",
    "/var/run/systemd",
    "/var/spool/cron",
];

fn never_written<'p>() -> impl Iterator<Item = &'p str> {
    SYSTEM.iter().chain(NEVER_WRITTEN).copied()
}

/// Files that open something, and so are never the source of a file that people can read.
const SECRET: &[&str] = &[
    "membership.token_file",
    "source.credentials_file",
    "announce.webhook_file",
    "kubernetes.kubeconfig",
    "vault.login.file",
];

/// Of `files`, the one that `written` is or lies in, for some account in the place of its `{user}`.
fn is_or_is_in<'p>(written: &str, files: impl IntoIterator<Item = &'p str>) -> Option<&'p str> {
    files.into_iter().find(|file| {
        Path::new(written).ancestors().filter_map(Path::to_str).any(|part| match part.split_once("{user}") {
            None => part == *file,
            Some((before, after)) => file
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|user| !user.is_empty() && !user.contains('/')),
        })
    })
}

/// Where a site puts what login shells run, which a `[[file]]` may do as well.
fn may_be_added(path: &Path) -> bool {
    path.parent() == Some(Path::new("/etc/profile.d"))
}

pub(super) fn check_home_base(reader: &mut Reader, field: &Field<'_>, path: &Path) {
    let system = SYSTEM.iter().chain(NO_HOMES).any(|folder| path.starts_with(folder));
    if system || path == Path::new("/") || path == Path::new("/var") {
        let found = Found::new(
            field.node.span.clone(),
            format!("homes may not be in {}", quoted(&path.to_string_lossy())),
        );
        reader.tell(found.help("it is a folder of the system; use `/home` or a folder of its own"));
    }
}

/// Where the file says which files rosterd opens as root, for the rules that hold between them.
#[derive(Debug, Default)]
pub(super) struct Paths {
    given: BTreeMap<&'static str, Span>,
    /// Of `[[file]]`: what is written, and what is read.
    pub(super) written: Vec<(PathBuf, Span)>,
    pub(super) read: Vec<(PathBuf, Span)>,
    /// The services whose ports texts name.
    pub(super) templates: Vec<(String, Span)>,
    /// With the key of the port: two services may share a file when each sets a key of its own.
    pub(super) env_files: BTreeMap<(String, String), Span>,
}

impl Paths {
    /// Reads the path `key`, such as `maps.dispatch`, from its table.
    pub(super) fn file(
        &mut self,
        reader: &mut Reader,
        fields: &mut Fields<'_>,
        key: &'static str,
        into: &mut PathBuf,
    ) {
        let Some(field) = fields.take(key.rsplit('.').next().unwrap_or(key)) else { return };
        if let Some(path) = absolute(reader, &field) {
            *into = path;
            self.given.insert(key, field.node.span.clone());
        }
    }

    pub(super) fn optional(
        &mut self,
        reader: &mut Reader,
        fields: &mut Fields<'_>,
        key: &'static str,
        into: &mut Option<PathBuf>,
    ) {
        let mut path = PathBuf::new();
        self.file(reader, fields, key, &mut path);
        if self.given.contains_key(key) {
            *into = Some(path);
        }
    }

    /// Told at the end, when all are known, the defaults among them.
    pub(super) fn judge(self, reader: &mut Reader, config: &Config) {
        let named = [
            ("roster.path", Some(&config.roster.path)),
            ("accounts.skel", Some(&config.accounts.skel)),
            ("maps.ttyd_user_map", Some(&config.maps.ttyd_user_map)),
            ("maps.ttyd_admins", Some(&config.maps.ttyd_admins)),
            ("maps.dispatch", Some(&config.maps.dispatch)),
            ("claude.managed_settings_source", config.claude.managed_settings_source.as_ref()),
            ("claude.managed_settings", Some(&config.claude.managed_settings)),
            ("tier_check.k8s_users", config.tier_check.k8s_users.as_ref()),
            ("tmux.state", Some(&config.tmux.state)),
            ("membership.token_file", config.membership.token_file.as_ref()),
            ("source.allowed_signers", config.source.allowed_signers.as_ref()),
            ("source.credentials_file", config.source.credentials_file.as_ref()),
            ("removal.archives", Some(&config.removal.archives)),
            ("announce.webhook_file", config.announce.webhook_file.as_ref()),
            ("metrics.textfile", config.metrics.textfile.as_ref()),
            ("kubernetes.kubeconfig", config.kubernetes.kubeconfig.as_ref()),
            ("vault.ca", config.vault.ca.as_ref()),
            ("vault.login.file", Some(&config.vault.login.file)),
        ];
        let homes = &config.accounts.home_base;
        let written = [
            "maps.ttyd_user_map",
            "maps.ttyd_admins",
            "maps.dispatch",
            "claude.managed_settings",
            "removal.archives",
            "metrics.textfile",
        ];
        for key in written {
            let path = named.iter().find(|(name, _)| *name == key).and_then(|(_, path)| path.as_ref());
            if let (Some(span), Some(path)) = (self.given.get(key), path)
                && let Some(file) = is_or_is_in(&path.to_string_lossy(), never_written())
            {
                reader.tell(refusal(span, &path.to_string_lossy(), file));
            }
        }
        for (path, span) in &self.written {
            let text = path.to_string_lossy();
            if let Some(file) = is_or_is_in(&text, never_written()).filter(|_| !may_be_added(path)) {
                reader.tell(refusal(span, &text, file));
            }
            let same = |(_, other): &(&str, Option<&PathBuf>)| *other == Some(path);
            if let Some((key, _)) = named.iter().find(|named| same(named)) {
                let message = format!("{} is `{key}` already", quoted(&text));
                reader.tell(Found::new(span.clone(), message));
            }
        }
        for (path, span) in &self.read {
            let opens = |(key, named): &&(&str, Option<&PathBuf>)| {
                SECRET.contains(key) && named.is_some_and(|named| path.starts_with(named))
            };
            if let Some((key, named)) = named.iter().find(opens) {
                let is = if *named == Some(path) { "is" } else { "is in" };
                let message =
                    format!("{} {is} `{key}`, which holds a secret", quoted(&path.to_string_lossy()));
                reader.tell(
                    Found::new(span.clone(), message)
                        .help("people can read what is copied from a source; name another file"),
                );
            }
        }
        for (path, span) in self.written.iter().chain(&self.read) {
            if below(path, homes) {
                reader.tell(below_homes(span, path, homes));
            }
        }
        let others = named.iter().filter_map(|(_, path)| path.as_ref()?.to_str());
        let files = self.written.iter().filter_map(|(path, _)| path.to_str());
        let never: Vec<&str> = never_written().chain(others).chain(files).collect();
        for ((path, _), span) in &self.env_files {
            if let Some(file) = is_or_is_in(path, never.iter().copied()) {
                reader.tell(refusal(span, path, file));
            }
        }
        for (index, (key, path)) in named.into_iter().enumerate() {
            let Some(path) = path else { continue };
            let same = named[..index].iter().find(|(_, other)| *other == Some(path));
            if let Some((other, _)) = same
                && let Some(span) = self.given.get(key).or(self.given.get(other))
            {
                let message = format!("`{other}` and `{key}` are the same file");
                reader.tell(Found::new(span.clone(), message).help("each needs a file of its own"));
            }
            if let Some(span) = self.given.get(key).filter(|_| below(path, homes)) {
                reader.tell(below_homes(span, path, homes));
            }
        }
        for ((path, _), span) in self.env_files {
            if below(Path::new(&path), homes) {
                reader.tell(below_homes(&span, Path::new(&path), homes));
            }
        }
    }
}

/// Below `/` is everything; that base was refused already.
fn below(path: &Path, homes: &Path) -> bool {
    homes != Path::new("/") && path.starts_with(homes)
}

fn refusal(span: &Span, path: &str, file: &str) -> Found {
    let message = match path == file {
        true => format!("{} is not a file for rosterd to write", quoted(path)),
        false => format!("{} can be or be in {}, where rosterd writes nothing", quoted(path), quoted(file)),
    };
    Found::new(span.clone(), message)
        .help("what is written there is replaced: choose a path that nothing else uses, such as one in a folder of its own below /etc")
}

fn below_homes(span: &Span, path: &Path, homes: &Path) -> Found {
    let (path, homes) = (quoted(&path.to_string_lossy()), quoted(&homes.to_string_lossy()));
    Found::new(span.clone(), format!("{path} is below {homes}, where the homes are"))
        .help("rosterd opens this file as root, so it must be where only root can put files")
}
