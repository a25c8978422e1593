//! The processes of this program that speak to a network. Root never does (invariant 3): such a process becomes the system
//! user `rosterd`, for good, before it opens a socket. It is asked one thing in a line on its standard input, secrets
//! included, and answers in a line.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::process::ExitCode;

use become_user::{Identity, Limits, become_user, is_system};
use nix::unistd::{User, geteuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use worker_process::Answer;

/// Whom a worker of root becomes.
const ACCOUNT: &str = "rosterd";

/// The longest question: a file of credentials and one of signers.
const LONGEST: u64 = 4 << 20;

/// More than fifty thousand members of a group, or a fetch of the roster, take.
const MEMORY: u64 = 1 << 30;

/// The life of such a process: `answer` is given the question once root is shed.
pub(crate) fn work<Q: DeserializeOwned, A: Serialize>(
    answer: impl FnOnce(Q) -> Result<A, String>,
) -> ExitCode {
    let answered = question().and_then(|question| shed_root().map(|()| question)).and_then(answer);
    let answer = match answered {
        Ok(answer) => Answer::Done(answer),
        Err(why) => Answer::Failed(why),
    };
    let said = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|mut line| {
        line.push(b'\n');
        io::stdout().write_all(&line)
    });
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn question<Q: DeserializeOwned>() -> Result<Q, String> {
    let mut line = Vec::new();
    let read = io::stdin().lock().take(LONGEST).read_until(b'\n', &mut line);
    read.map_err(|error| error.to_string())?;
    serde_json::from_slice(&line).map_err(|_| "this is not for use by hand".to_owned())
}

fn shed_root() -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let account = User::from_name(ACCOUNT)
        .map_err(|error| format!("the system user `{ACCOUNT}` cannot be looked up: {error}"))?
        .filter(|account| is_system(account.uid.as_raw()) && is_system(account.gid.as_raw()))
        .ok_or_else(|| {
            format!(
                "there is no system user `{ACCOUNT}`, and root speaks to no network; `systemd-sysusers rosterd.conf` makes it"
            )
        })?;
    let account = Identity { uid: account.uid.as_raw(), gid: account.gid.as_raw(), groups: Vec::new() };
    // The deadline is held by whoever asks; this is for a process that nobody watches any more.
    let limits = Limits { memory: MEMORY, cpu_s: 3600, processes: None };
    become_user(&account, limits).map_err(|error| format!("the worker could not become `{ACCOUNT}`: {error}"))
}
