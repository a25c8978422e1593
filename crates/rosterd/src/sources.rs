//! The two files an admin edits, as they are on disk. Reads them and decides nothing.

use std::path::{Path, PathBuf};

pub(crate) use host::source::{SourceError, read, read_linked};
use roster::config::Config;
use roster::name::HostName;
use roster::parse;

/// What is on disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// Where the roster was looked for.
    pub(crate) roster_path: PathBuf,
    /// The bytes of the roster.
    pub(crate) roster: Result<Vec<u8>, SourceError>,
    /// The bytes of the config.
    pub(crate) config: Result<Vec<u8>, SourceError>,
    /// What the machine calls itself, or why that cannot be used: without a name nobody can say whose `hosts` it
    /// is, and an empty name would cut them all (invariant 8).
    pub(crate) host: Result<HostName, String>,
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

fn own_name() -> Result<HostName, String> {
    let unfit = |why: String| {
        format!(
            "this machine's name cannot be used ({why}); set it with hostnamectl, or `host` in config.toml"
        )
    };
    let name = nix::unistd::gethostname().map_err(|error| unfit(error.to_string()))?;
    let name = name.to_string_lossy().into_owned();
    HostName::new(name.as_str()).map_err(|error| unfit(format!("`{}` {error}", name.escape_debug())))
}
