//! Gathers what is judged: asks systemd, the daemon, the clock and the file systems, and reads roster and ledger. Changes
//! nothing, and what cannot be found out is a fact too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use control::Client;
use nix::sys::statvfs::statvfs;
use roster::config::Config;
use roster::diagnostic::Diagnostics;
use roster::ledger::Ledger;
use roster::model::Roster;
use roster::report::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::args::{CONFIG, Global};

/// Where the daemon keeps its ledger.
pub(super) const STATE: &str = "/var/lib/rosterd";

/// A daemon that does not answer such a question at once is no well one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The units of the package.
const UNITS: &[&str] =
    &["rosterd.service", "rosterd.socket", "rosterd-reconcile.timer", "rosterd-reconcile.service"];

/// Programs that people work with.
const TOOLS: &[&str] = &["tmux", "git", "claude"];

/// What was found.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) is_root: bool,
    /// Properties of each unit, or why systemd could not be asked.
    pub(super) units: Result<BTreeMap<String, BTreeMap<String, String>>, String>,
    /// What the daemon says, or why it says nothing.
    pub(super) daemon: Result<Option<Status>, String>,
    /// Whether the clock is kept in step; nothing when nobody knows.
    pub(super) clock: Option<bool>,
    pub(super) disks: Vec<Disk>,
    pub(super) config: Result<(), String>,
    /// How many people are in the roster on disk; nothing when there is none.
    pub(super) roster: Result<Option<usize>, String>,
    pub(super) ledger: LedgerFact,
    pub(super) files: Vec<FileFact>,
    pub(super) tools: Vec<(&'static str, Option<PathBuf>)>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// A folder on it that matters.
    pub(super) path: PathBuf,
    pub(super) free: u64,
    pub(super) total: u64,
    pub(super) free_files: u64,
    pub(super) total_files: u64,
}

/// The ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum LedgerFact {
    /// There is none, and there never was a run.
    #[default]
    NoneYet,
    /// It may not be read by who asks.
    Forbidden,
    /// The newest is whole.
    Whole {
        /// How many people it knows.
        people: usize,
    },
    /// The newest is not: why. `before` tells whether the copy before it is whole.
    Damaged { why: String, before: bool },
}

/// A file whose owner and mode matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFact {
    pub(super) path: PathBuf,
    pub(super) uid: u32,
    pub(super) mode: u32,
    /// The widest mode that is all right.
    pub(super) widest: u32,
}

/// Looks at everything.
pub(super) fn gather(global: &Global) -> Facts {
    let config_path = global.config.clone().unwrap_or_else(|| CONFIG.into());
    let parsed = read_config(&config_path);
    let config = parsed.as_ref().ok().cloned().unwrap_or_default();
    let roster = read_roster(&config);
    Facts {
        is_root: nix::unistd::geteuid().is_root(),
        units: units(),
        daemon: ask(global.daemon()),
        clock: clock(),
        disks: disks(&config),
        config: parsed.map(drop),
        files: files(&config_path, &config, roster.as_ref().ok().and_then(Option::as_ref)),
        roster: roster.map(|roster| roster.map(|roster| roster.users.len())),
        ledger: ledger(Path::new(STATE)),
        tools: TOOLS.iter().map(|tool| (*tool, find(tool))).collect(),
    }
}

/// What a program prints, when it ends well.
fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let run = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = run.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().lines().next().unwrap_or_default().to_owned();
    Err(format!("{program}: {}", if told.is_empty() { output.status.to_string() } else { told }))
}

fn units() -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let mut args =
        vec!["show", "-p", "Id,LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainStatus"];
    args.extend(UNITS);
    let text = output("systemctl", &args)?;
    let mut units = BTreeMap::new();
    for block in text.split("\n\n") {
        let all: BTreeMap<String, String> = block
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        if let Some(id) = all.get("Id").cloned() {
            units.insert(id, all);
        }
    }
    Ok(units)
}

fn ask(socket: &Path) -> Result<Option<Status>, String> {
    let words = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text += &format!(": {source}");
        }
        text
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let asked = async {
            let mut client = Client::connect(socket).await.map_err(|error| words(&error))?;
            client.status(None).await.map(Some).map_err(|error| words(&error))
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer for {} s", PATIENCE.as_secs())))
    })
}

fn clock() -> Option<bool> {
    match output("timedatectl", &["show", "--value", "-p", "NTPSynchronized"]).ok()?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn disks(config: &Config) -> Vec<Disk> {
    let mut seen = BTreeSet::new();
    let mut disks = Vec::new();
    for path in [Path::new("/"), Path::new("/etc"), Path::new(STATE), &config.accounts.home_base] {
        let (Ok(folder), Ok(stat)) = (fs::metadata(path), statvfs(path)) else { continue };
        if seen.insert(folder.dev()) {
            disks.push(Disk {
                path: path.to_path_buf(),
                free: stat.blocks_available().saturating_mul(stat.fragment_size()),
                total: stat.blocks().saturating_mul(stat.fragment_size()),
                free_files: stat.files_available(),
                total_files: stat.files(),
            });
        }
    }
    disks
}

/// The first thing that is wrong, in one line.
fn first(diagnostics: &Diagnostics) -> String {
    diagnostics.render(false).lines().take(2).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn read_config(path: &Path) -> Result<Config, String> {
    match fs::read(path) {
        Ok(bytes) => {
            roster::parse::config(&path.display().to_string(), &bytes).map_err(|error| first(&error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn read_roster(config: &Config) -> Result<Option<Roster>, String> {
    let path = &config.roster.path;
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    roster::parse::roster(&path.display().to_string(), &bytes).map(Some).map_err(|error| first(&error))
}

/// The ledger as the daemon stores it.
#[derive(Deserialize)]
struct Envelope {
    sha256: String,
    ledger: Box<RawValue>,
}

fn ledger(dir: &Path) -> LedgerFact {
    let newest = dir.join("ledger.json");
    match read_ledger(&newest) {
        Ok(ledger) => LedgerFact::Whole { people: ledger.known().len() },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => LedgerFact::Forbidden,
        Err(error) => {
            let before = read_ledger(&dir.join("ledger.json.prev")).is_ok();
            let has_runs = fs::read_dir(dir.join("runs")).is_ok_and(|mut runs| runs.next().is_some());
            if error.kind() == io::ErrorKind::NotFound && !before && !has_runs {
                return LedgerFact::NoneYet;
            }
            let why =
                if error.kind() == io::ErrorKind::NotFound { "it is gone".into() } else { error.to_string() };
            LedgerFact::Damaged { why, before }
        }
    }
}

fn read_ledger(path: &Path) -> io::Result<Ledger> {
    let envelope: Envelope = serde_json::from_slice(&fs::read(path)?)?;
    let sum: String =
        Sha256::digest(envelope.ledger.get()).iter().map(|byte| format!("{byte:02x}")).collect();
    if sum != envelope.sha256 {
        return Err(io::Error::other("its checksum does not fit"));
    }
    Ok(serde_json::from_str(envelope.ledger.get())?)
}

fn files(config_path: &Path, config: &Config, roster: Option<&Roster>) -> Vec<FileFact> {
    let mut wanted: Vec<(PathBuf, u32)> =
        vec![(config_path.to_path_buf(), 0o755), (config.roster.path.clone(), 0o755), (STATE.into(), 0o700)];
    wanted.extend(config.claude.managed_settings_source.clone().map(|path| (path, 0o755)));
    wanted.extend(roster::files::sources(config).into_iter().map(|path| (path.clone(), 0o755)));
    wanted.extend(config.tier_check.k8s_users.clone().map(|path| (path, 0o755)));
    for service in &config.service {
        let Some(port) = service.port() else { continue };
        // They hold tokens.
        wanted.extend(
            roster.iter().flat_map(|roster| roster.users.keys()).map(|user| (port.env_file_of(user), 0o600)),
        );
    }
    let fact = |(path, widest): (PathBuf, u32)| {
        let seen = fs::symlink_metadata(&path).ok()?;
        Some(FileFact { path, uid: seen.uid(), mode: seen.permissions().mode() & 0o7777, widest })
    };
    wanted.into_iter().filter_map(fact).collect()
}

/// A program where everybody finds it.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(OsStr::new(&path))
        .chain(usual)
        .map(|folder| folder.join(tool))
        .find(|program| fs::metadata(program).is_ok_and(|seen| seen.is_file() && seen.mode() & 0o111 != 0))
}
