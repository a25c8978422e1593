//! A process of root's that becomes a person for good and then does one job: its own end, and what the two say.
//!
//! ```text
//! root                                            worker
//! Order { whom, settings, job } ────────────────> becomes that person, opens their folder, asks their server
//!                                <─────────────── Earlier: what does the earlier layout hold?   (once in a life)
//! Earlier { … } ────────────────────────────────>
//!                                <─────────────── StartServer: there is none, the script is written
//! Started ──────────────────────────────────────>
//!                                <─────────────── Done { answer } or Failed { why, next }
//! ```
//! One JSON value a line. What comes from the worker is untrusted.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use become_user::{Identity, Limits, become_user};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::earlier::Earlier;
use crate::job::{Answer, Help, Job, Settings};
use crate::work::run;

/// The longest line of either: four hundred captures of the earlier layout.
pub(crate) const LONGEST: usize = 64 << 20;

const LIMITS: Limits = Limits { memory: 1 << 30, cpu_s: 60, processes: None };

/// From root.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Work(Box<Work>),
    Earlier(Result<Earlier, String>),
    Started(Result<(), String>),
}

/// The first order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) user: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) job: Job,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Earlier,
    StartServer,
    Done(Answer),
    Failed(Failure),
}

/// The entry of `rosterctl tmux worker`.
pub fn worker() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tmux worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let first = take()?;
    let Order::Work(work) = first else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first order must be the work"));
    };
    if !become_user::is_person(work.uid) || !become_user::is_group(work.gid) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "these are not the ids of a person"));
    }
    let identity = Identity { uid: work.uid, gid: work.gid, groups: work.groups.clone() };
    if let Err(error) = become_user(&identity, LIMITS) {
        return say(&Report::Failed(Failure {
            why: format!("the worker could not become {}: {error}", work.user),
            next: "run it as root".into(),
        }));
    }
    // Nothing of this person was looked at before this line.
    let mut start_server = |_: &Path| match ask(&Report::StartServer) {
        Ok(Order::Started(started)) => started,
        Ok(_) => Err("not what was asked".into()),
        Err(error) => Err(error.to_string()),
    };
    let mut earlier = || match ask(&Report::Earlier) {
        Ok(Order::Earlier(earlier)) => earlier,
        Ok(_) => Err("not what was asked".into()),
        Err(error) => Err(error.to_string()),
    };
    let help = Help { start_server: Some(&mut start_server), earlier: &mut earlier };
    let done = run(&work.user, &work.home, &work.settings, &work.job, help);
    say(&match done {
        Ok(answer) => Report::Done(answer),
        Err(error) => Report::Failed(Failure::of(&error)),
    })
}

fn ask(report: &Report) -> io::Result<Order> {
    say(report)?;
    take()
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

fn take() -> io::Result<Order> {
    let mut line = Vec::new();
    io::stdin().lock().take(LONGEST as u64).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}
