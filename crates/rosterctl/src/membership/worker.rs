//! The process that speaks to the identity provider. What it says is members or a reason, and it is killed when its time
//! is up.

use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use roster::config::Membership;
use roster::membership::Member;
use serde::{Deserialize, Serialize};
use worker_process::{Advice, WorkerError, ask_once};

use crate::error::{CommandError, Result};
use crate::membership::authentik;
use crate::network;

/// The word by which this program starts itself as a worker.
pub(crate) const WORD: &str = "membership-worker";

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
}

const ADVICE: Advice = {
    let server =
        "see whether the server answers, and whether the account of the token may view groups and users";
    Advice { deadline: server, memory: server, ended: server, protocol: "please report it" }
};

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
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::new("cannot start").because(error))?;
    let program = Path::new("/proc/self/exe");
    let given = Duration::from_secs(task.deadline_s) + GRACE;
    let asked = ask_once(program, &["rosterctl", WORD], &task, "reading the group", given, &ADVICE);
    runtime.block_on(asked).map_err(|error: WorkerError| {
        let next = error.next();
        let what = format!("cannot read the group from {server}, so nothing is concluded");
        CommandError::new(what).because(error).next(next)
    })
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

/// The worker's own life.
pub(crate) fn work() -> ExitCode {
    network::work(|task: Task| authentik::members(&task.server, &task.group, &task.token, task.deadline_s))
}
