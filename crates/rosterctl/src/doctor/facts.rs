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
use host::Failure;
use host::source::{self, SourceError};
use nix::sys::statvfs::statvfs;
use roster::config::Config;
use roster::diagnostic::Diagnostics;
use roster::ledger::{Applied, Ledger};
use roster::model::Roster;
use roster::report::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::args::{CONFIG, Global};
use crate::replace::backup_of;

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
    pub(super) config: SourceFact<()>,
    /// How many people are in the roster on disk.
    pub(super) roster: SourceFact<usize>,
    /// What `rosterctl user` has kept of the roster before its last change.
    pub(super) kept: Option<PathBuf>,
    /// What is in force by the ledger.
    pub(super) applied: Option<Applied>,
    pub(super) ledger: LedgerFact,
    pub(super) files: Vec<FileFact>,
    /// The other files that decide what root does: where each is, or why the daemon does not read it.
    pub(super) sources: Vec<Result<PathBuf, Failure>>,
    pub(super) tools: Vec<(&'static str, Option<PathBuf>)>,
}

/// Roster or configuration, read as the daemon reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SourceFact<T> {
    /// It is not where it should be.
    Absent(PathBuf),
    /// Others may write it, or it cannot be read.
    Refused(Failure),
    /// Its first mistake.
    Invalid(String),
    /// It is valid.
    Valid(T),
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
    let read_config = read(&config_path, roster::parse::config);
    let (ledger, applied) = ledger(Path::new(STATE));
    let config = match &read_config {
        SourceFact::Valid(config) => config.clone(),
        // As the daemon does: what is in force says where the roster is.
        _ => applied
            .as_ref()
            .and_then(|applied| roster::parse::config(CONFIG, applied.config.as_bytes()).ok())
            .unwrap_or_default(),
    };
    let roster = read(&config.roster.path, roster::parse::roster);
    Facts {
        is_root: nix::unistd::geteuid().is_root(),
        units: units(),
        daemon: ask(global.daemon()),
        clock: clock(),
        disks: disks(&config),
        config: read_config.map(drop),
        files: files(&config, &roster),
        sources: sources(&config),
        roster: roster.map(|roster| roster.users.len()),
        kept: Some(backup_of(&config.roster.path)).filter(|kept| kept.is_file()),
        applied,
        ledger,
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

impl<T> SourceFact<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> SourceFact<U> {
        match self {
            SourceFact::Absent(path) => SourceFact::Absent(path),
            SourceFact::Refused(failure) => SourceFact::Refused(failure),
            SourceFact::Invalid(why) => SourceFact::Invalid(why),
            SourceFact::Valid(it) => SourceFact::Valid(change(it)),
        }
    }
}

fn read<T>(path: &Path, parse: fn(&str, &[u8]) -> Result<T, Diagnostics>) -> SourceFact<T> {
    match source::read(path) {
        Ok(bytes) => match parse(&path.display().to_string(), &bytes) {
            Ok(it) => SourceFact::Valid(it),
            Err(diagnostics) => SourceFact::Invalid(first(&diagnostics)),
        },
        Err(SourceError::Absent(path)) => SourceFact::Absent(path),
        Err(SourceError::Refused(failure)) => SourceFact::Refused(failure),
    }
}

/// The ledger as the daemon stores it.
#[derive(Deserialize)]
struct Envelope {
    sha256: String,
    ledger: Box<RawValue>,
}

fn ledger(dir: &Path) -> (LedgerFact, Option<Applied>) {
    let newest = dir.join("ledger.json");
    match read_ledger(&newest) {
        Ok(ledger) => (LedgerFact::Whole { people: ledger.known().len() }, ledger.applied),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (LedgerFact::Forbidden, None),
        Err(error) => {
            let before = read_ledger(&dir.join("ledger.json.prev"));
            let has_runs = fs::read_dir(dir.join("runs")).is_ok_and(|mut runs| runs.next().is_some());
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            if is_gone && before.is_err() && !has_runs {
                return (LedgerFact::NoneYet, None);
            }
            let why = if is_gone { "it is gone".into() } else { error.to_string() };
            let fact = LedgerFact::Damaged { why, before: before.is_ok() };
            (fact, before.ok().and_then(|ledger| ledger.applied))
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

/// The folder of the ledger, and what holds tokens, of people and of rosterd.
fn files(config: &Config, roster: &SourceFact<Roster>) -> Vec<FileFact> {
    let mut wanted: Vec<(PathBuf, u32)> = vec![(STATE.into(), 0o700)];
    if let SourceFact::Valid(roster) = roster {
        let ports = config.service.iter().filter_map(|service| service.port());
        wanted.extend(
            ports.flat_map(|port| roster.users.keys().map(move |user| (port.env_file_of(user), 0o600))),
        );
    }
    let secrets = [
        config.kubernetes.kubeconfig.as_ref(),
        config.vault.address.is_some().then_some(&config.vault.login.file),
        config.membership.token_file.as_ref(),
        config.announce.webhook_file.as_ref(),
        config.source.credentials_file.as_ref(),
    ];
    // A link, or the folder of a pod's service account, is judged by whoever reads it.
    let plain = |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|seen| seen.is_file());
    wanted.extend(secrets.into_iter().flatten().filter(plain).map(|path| (path.clone(), 0o600)));
    let fact = |(path, widest): (PathBuf, u32)| {
        let seen = fs::symlink_metadata(&path).ok()?;
        Some(FileFact { path, uid: seen.uid(), mode: seen.permissions().mode() & 0o7777, widest })
    };
    wanted.into_iter().filter_map(fact).collect()
}

fn sources(config: &Config) -> Vec<Result<PathBuf, Failure>> {
    let settings = config.claude.managed_settings_source.iter();
    let all = settings.chain(roster::files::sources(config)).chain(&config.tier_check.k8s_users);
    let judged = |path: &PathBuf| match source::read(path) {
        Ok(_) => Some(Ok(path.clone())),
        Err(SourceError::Absent(_)) => None,
        Err(SourceError::Refused(failure)) => Some(Err(failure)),
    };
    all.filter_map(judged).collect()
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
