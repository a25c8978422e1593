//! Landlock: the worker sees its home and what names and certificates need, and may execute nothing. One that only
//! looks may change nothing either, and speak to nobody.
//!
//! The kernel already keeps a user out of what is not theirs. This keeps the worker also out of what is readable by
//! everyone, such as another home of mode 0755, and out of `/tmp`, so that a hostile server that takes over the
//! worker finds nothing to go on with.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::protocol::Landlock;

/// What git is told machine-wide.
const GIT_CONFIG: &str = "/etc/gitconfig";

/// Read by libc, NSS and OpenSSL for names, time and certificates. What is missing is skipped.
const READABLE: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/run/systemd/resolve",
    "/etc/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/lib",
    "/lib",
    "/lib64",
    "/usr/share/zoneinfo",
    "/dev/urandom",
];

/// The newest version of Landlock whose rights were thought through here; an older kernel enforces what it knows.
const KNOWN: ABI = ABI::V6;

/// Starts programs.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// What a worker of another crate does in the folder that it was started in.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Whether it changes anything there.
    pub may_change: bool,
    /// The one program that it becomes.
    pub program: Option<&'a Path>,
}

/// Confines a worker that has become its user to the folder that it was started in: it reaches no other file of
/// anybody's and no network. For whoever packs or unpacks a home by a program of the system.
pub fn stay_here(here: &Here<'_>) -> Result<Landlock, StayError> {
    let folder = open(".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
    let changes: BitFlags<AccessFs> =
        AccessFs::from_all(KNOWN) & !(devices | AccessFs::Execute | AccessFs::IoctlDev);
    let in_folder = if here.may_change { changes } else { readable };
    let libraries = here.program.map(|_| ["/etc/ld.so.cache", "/usr/lib", "/lib", "/lib64"]);
    let runs = here.program.into_iter().chain(LOADERS.iter().map(Path::new));
    let runs = here.program.is_some().then_some(runs).into_iter().flatten();
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rule(PathBeneath::new(folder, in_folder))?
        .add_rules(path_beneath_rules(libraries.into_iter().flatten(), readable))?
        .add_rules(path_beneath_rules(runs, AccessFs::ReadFile | AccessFs::Execute))?
        .restrict_self()?;
    Ok(enforced(status.ruleset))
}

/// Why a worker could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum StayError {
    /// Its folder cannot be opened.
    #[error("its folder cannot be opened: {0}")]
    Folder(#[from] nix::errno::Errno),
    /// The kernel refused the rules.
    #[error(transparent)]
    Rules(#[from] RulesetError),
}

fn enforced(status: RulesetStatus) -> Landlock {
    match status {
        RulesetStatus::FullyEnforced => Landlock::Enforced,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    }
}

/// What a worker works in.
pub(crate) struct Room<'a> {
    /// May be changed: a home, or one mirror.
    pub(crate) write: Option<&'a OwnedFd>,
    /// May be read: the mirrors, or a home that is only looked at.
    pub(crate) read: Option<&'a OwnedFd>,
    /// Whether it may speak to a server.
    pub(crate) network: bool,
}

/// Confines this thread, and with it the worker, which has only one.
pub(crate) fn confine(room: &Room<'_>) -> Result<Landlock, RulesetError> {
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let special = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo | AccessFs::MakeSock;
    let in_home: BitFlags<AccessFs> =
        AccessFs::from_all(KNOWN) & !(special | AccessFs::Execute | AccessFs::IoctlDev);
    let null = path_beneath_rules([Path::new("/dev/null")], AccessFs::ReadFile | AccessFs::WriteFile);
    let files = if room.network { READABLE } else { &[] };
    let files = files.iter().copied().chain([GIT_CONFIG]);
    let net = if room.network { AccessNet::BindTcp.into() } else { AccessNet::from_all(KNOWN) };
    let write = room.write.map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, in_home)));
    let read = room.read.map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, readable)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(net)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(write)?
        .add_rules(read)?
        .add_rules(path_beneath_rules(files, readable))?
        .add_rules(null)?
        .restrict_self()?;
    Ok(enforced(status.ruleset))
}
