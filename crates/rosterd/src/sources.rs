//! The two files an admin edits, as they are on disk. Reads them and decides nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use roster::config::Config;
use roster::name::HostName;
use roster::parse;

/// More than any roster needs; the parser has a smaller limit with a better message.
const MOST_BYTES: u64 = 16 << 20;

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("there is no {}", .0.display())]
    Absent(PathBuf),
    #[error("{} cannot be read: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{} is a symlink; name the file itself, so that whoever owns the link's target folder cannot swap it", .0.display())]
    Symlink(PathBuf),
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Whoever may write the roster has the power of root on this machine.
    #[error("{} belongs to uid {uid} with mode {mode:04o}, but whoever may write it has the power of root here; chown root it and chmod o-w it", path.display())]
    NotOurs { path: PathBuf, uid: u32, mode: u32 },
    #[error("{} is bigger than {} MiB", .0.display(), MOST_BYTES >> 20)]
    TooBig(PathBuf),
    /// Without a name nobody can say whose `hosts` it is, and an empty name would cut them all (invariant 8).
    #[error("this machine's name cannot be used ({0}); set it with hostnamectl, or `host` in config.toml")]
    NoName(String),
}

/// What is on disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// Where the roster was looked for.
    pub(crate) roster_path: PathBuf,
    /// The bytes of the roster.
    pub(crate) roster: Result<Vec<u8>, SourceError>,
    /// The bytes of the config.
    pub(crate) config: Result<Vec<u8>, SourceError>,
    /// What the machine calls itself.
    pub(crate) host: Result<HostName, SourceError>,
}

/// Reads a file that decides what root does. Every folder on the way to it is root's and nobody else's to change:
/// by way of a link to a home, root would open what a person put there (invariant 3).
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let unreadable = |error: io::Error| SourceError::Unreadable { path: path.into(), why: error.to_string() };
    let (folder, name) = match host::open_parent(path) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(SourceError::Absent(path.into())),
        Err(why) => return Err(SourceError::Unreadable { path: path.into(), why }),
    };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match openat(&folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Err(SourceError::Absent(path.into())),
        Err(Errno::ELOOP) => return Err(SourceError::Symlink(path.into())),
        Err(error) => return Err(unreadable(error.into())),
    };
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(SourceError::NotAFile(path.into()));
    }
    if meta.uid() != 0 || meta.mode() & 0o002 != 0 {
        return Err(SourceError::NotOurs { path: path.into(), uid: meta.uid(), mode: meta.mode() & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(SourceError::TooBig(path.into()));
    }
    Ok(bytes)
}

impl OnDisk {
    /// Reads both. The config says where the roster is; while it is not valid, `in_force` says it.
    pub(crate) fn read(config_path: &Path, in_force: &Config) -> Self {
        let config = read(config_path);
        let parsed = config.as_ref().ok().and_then(|bytes| parse::config("config.toml", bytes).ok());
        let roster_path = parsed.as_ref().unwrap_or(in_force).roster.path.clone();
        OnDisk { roster: read(&roster_path), roster_path, config, host: own_name() }
    }
}

fn own_name() -> Result<HostName, SourceError> {
    let name = nix::unistd::gethostname().map_err(|error| SourceError::NoName(error.to_string()))?;
    let name = name.to_string_lossy().into_owned();
    HostName::new(name.as_str())
        .map_err(|error| SourceError::NoName(format!("`{}` {error}", name.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `/people -> /home` and a roster below it: root would wait at a person's FIFO, or read what they wrote.
    #[test]
    fn root_reads_nothing_by_way_of_a_folder_of_somebody_else_invariant_3() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::Builder::new().tempdir_in("/root").unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["ours", "ann", "open"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("roster.yaml"), "users:").unwrap();
        }
        std::os::unix::fs::chown(at("ann"), Some(4242), Some(4242)).unwrap();
        std::fs::set_permissions(at("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        symlink(at("ann"), at("people")).unwrap();
        symlink(at("ours"), at("link")).unwrap();
        assert_eq!(read(&at("ours/roster.yaml")).unwrap(), b"users:");
        assert_eq!(read(&at("link/roster.yaml")).unwrap(), b"users:", "root made that link");
        assert_eq!(read(&at("none/roster.yaml")), Err(SourceError::Absent(at("none/roster.yaml"))));
        for (path, why) in [
            ("ann/roster.yaml", "belongs to uid 4242"),
            ("people/roster.yaml", "belongs to uid 4242"),
            ("open/roster.yaml", "may be written by others"),
        ] {
            let refused = read(&at(path)).unwrap_err().to_string();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }
}
