//! The process that speaks to the identity provider. Root never does (invariant 3): the process becomes the system user
//! `rosterd` before it opens a socket, for good, and gets its token over a pipe. What it says is members or a reason, and
//! it is killed when its time is up.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, User, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid, setuid};
use roster::config::Membership;
use roster::membership::Member;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{CommandError, Result};
use crate::membership::authentik;

/// The word by which this program starts itself as a worker.
pub(crate) const WORD: &str = "membership-worker";

/// Whom a worker of root becomes.
const ACCOUNT: &str = "rosterd";

/// More than fifty thousand members take.
const MOST_BYTES: u64 = 32 << 20;

/// What it costs to start and to end, beside the reading.
const GRACE: Duration = Duration::from_secs(5);

/// A token is some hundred characters.
const LONGEST_TOKEN: u64 = 8 << 10;

/// What a worker is told.
#[derive(Serialize, Deserialize)]
struct Task {
    server: String,
    group: String,
    token: String,
    deadline_s: u64,
    /// Whom to become; nobody else when it is not started by root.
    becomes: Option<(u32, u32)>,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Members(Vec<Member>),
    Failed { why: String },
}

/// The members of the group, read by a worker.
pub(crate) fn members(membership: &Membership) -> Result<Vec<Member>> {
    let (Some(server), Some(group), Some(token_file)) =
        (&membership.authentik, &membership.group, &membership.token_file)
    else {
        return Err(CommandError::new("[membership] in config.toml is not complete"));
    };
    let task = Task {
        server: server.clone(),
        group: group.clone(),
        token: token(token_file)?,
        deadline_s: membership.deadline_s,
        becomes: whom_to_become()?,
    };
    let cannot = |error: io::Error| {
        CommandError::new("cannot start a worker for the identity provider").because(error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    match runtime.block_on(ask(&task)).map_err(cannot)? {
        Reply::Members(members) => Ok(members),
        Reply::Failed { why } => Err(CommandError::new(format!(
            "cannot read the group from {server}, so nothing is concluded: {why}"
        ))
        .next(
            "see whether the server answers, and whether the account of the token may view groups and users",
        )),
    }
}

fn token(path: &std::path::Path) -> Result<String> {
    let cannot = |error: io::Error| {
        CommandError::new(format!("cannot read the token in {}", path.display()))
            .because(error)
            .next("run it as root, and see `token_file` of [membership] in config.toml")
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(LONGEST_TOKEN).read_to_string(&mut text).map_err(cannot)?;
    let token = text.trim();
    // What it is instead is not repeated: it may well be the secret.
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CommandError::new(format!("{} does not hold a token and nothing else", path.display())));
    }
    Ok(token.to_owned())
}

fn whom_to_become() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match User::from_name(ACCOUNT) {
        Ok(Some(user)) if !user.uid.is_root() => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        Ok(_) => Err(CommandError::new(format!(
            "there is no system user `{ACCOUNT}`, and root speaks to no network"
        ))
        .next("`systemd-sysusers rosterd.conf` makes it")),
        Err(error) => {
            Err(CommandError::new(format!("cannot look up the system user `{ACCOUNT}`")).because(error))
        }
    }
}

async fn ask(task: &Task) -> io::Result<Reply> {
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .arg(WORD)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let text = serde_json::to_vec(task)?;
    let mut said = Vec::new();
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&text).await?;
        }
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_BYTES).read_to_end(&mut said).await?;
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(task.deadline_s) + GRACE, talk).await {
        Ok(talked) => talked?,
        Err(_) => return Ok(Reply::Failed { why: format!("it took longer than {} s", task.deadline_s) }),
    }
    Ok(serde_json::from_slice(&said)
        .unwrap_or_else(|_| Reply::Failed { why: "the worker ended without an answer".into() }))
}

/// The worker's own life.
pub(crate) fn work() -> ExitCode {
    let reply = match read_task().and_then(|task| {
        become_nobody(task.becomes)
            .map_err(|errno| format!("the worker could not become `{ACCOUNT}`: {errno}"))?;
        Ok(task)
    }) {
        Ok(task) => match authentik::members(&task.server, &task.group, &task.token, task.deadline_s) {
            Ok(members) => Reply::Members(members),
            Err(why) => Reply::Failed { why },
        },
        Err(why) => Reply::Failed { why },
    };
    let said =
        serde_json::to_vec(&reply).map_err(io::Error::from).and_then(|text| io::stdout().write_all(&text));
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_task() -> std::result::Result<Task, String> {
    let mut text = Vec::new();
    io::stdin().take(1 << 20).read_to_end(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|_| "this is not for use by hand".to_owned())
}

/// Becomes the system user `rosterd`, for workers that the daemon starts.
pub(crate) fn become_rosterd() -> std::result::Result<(), String> {
    let whom = whom_to_become().map_err(|error| error.to_string())?;
    become_nobody(whom).map_err(|errno| format!("the worker could not become `{ACCOUNT}`: {errno}"))
}

/// No way back, nothing to inherit, no core dump with a token in it.
fn become_nobody(whom: Option<(u32, u32)>) -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if let Some((uid, gid)) = whom {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // Asks the kernel whether it is so, rather than believing the calls.
        let (uids, gids) = (getresuid()?, getresgid()?);
        let shed = [uids.real, uids.effective, uids.saved].iter().all(|id| *id == uid)
            && [gids.real, gids.effective, gids.saved].iter().all(|id| *id == gid);
        if !shed || setuid(Uid::from_raw(0)).is_ok() {
            return Err(nix::errno::Errno::EPERM);
        }
    } else if geteuid().is_root() {
        return Err(nix::errno::Errno::EPERM);
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)
}
