//! The two files an admin edits, as they are on disk. Reads them and decides nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
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
    /// The bytes of the config; without a file the defaults hold, as if it were empty.
    pub(crate) config: Result<Vec<u8>, SourceError>,
    /// What the machine calls itself.
    pub(crate) host: Result<HostName, SourceError>,
}

/// Reads a file that decides what root does.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let unreadable = |error: io::Error| SourceError::Unreadable { path: path.into(), why: error.to_string() };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match File::options().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::Absent(path.into()));
        }
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(SourceError::Symlink(path.into()));
        }
        Err(error) => return Err(unreadable(error)),
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
        let config = match read(config_path) {
            Err(SourceError::Absent(_)) => Ok(Vec::new()),
            other => other,
        };
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
