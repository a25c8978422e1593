//! The process, and why it did not do what it was asked.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::libc;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::text::{clean, read_line};

/// What is kept of a worker's last words, in bytes.
const MAX_STDERR: usize = 2048;

/// How long a worker that was let go may take to end, or one that closed its output to say how.
const SOON: Duration = Duration::from_secs(2);

/// What an admin can do when a worker of some kind fails, by how it failed.
#[derive(Debug, Clone, Copy)]
pub struct Advice {
    /// Its time was up.
    pub deadline: &'static str,
    /// It needed more memory than it may use.
    pub memory: &'static str,
    /// It ended.
    pub ended: &'static str,
    /// It said what it may not say.
    pub protocol: &'static str,
}

/// Why a worker did not do what it was asked. Its `Display` says why, [`WorkerError::next`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The process could not be started.
    #[error("cannot start a worker with {}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker, or this end before it started one, refuses.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// The time was up; the worker was killed.
    #[error("gave up after {seconds} s while {doing}")]
    Deadline {
        /// How long it was given.
        seconds: u64,
        /// At what.
        doing: String,
        /// What an admin can do.
        next: &'static str,
    },
    /// The worker needed more memory than it may use.
    #[error("needed more memory than it may use while {doing}")]
    Memory {
        /// At what.
        doing: String,
        /// What an admin can do.
        next: &'static str,
    },
    /// The worker ended before, so this was not tried.
    #[error("not tried: {why}")]
    NotTried {
        /// How the worker ended.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// The worker ended without an answer.
    #[error("the worker ended while {doing}: {how}")]
    Ended {
        /// Exit status and last words.
        how: String,
        /// At what.
        doing: String,
        /// What an admin can do.
        next: &'static str,
    },
    /// The worker said what it may not say; it was killed.
    #[error("the worker's answer makes no sense while {doing}: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
        /// At what.
        doing: String,
        /// What an admin can do.
        next: &'static str,
    },
}

impl WorkerError {
    /// What an admin can do.
    pub fn next(&self) -> String {
        let next = match self {
            WorkerError::Start { .. } => "check that rosterd is installed completely and may start processes",
            WorkerError::Refused { next, .. } | WorkerError::NotTried { next, .. } => next,
            WorkerError::Deadline { next, .. }
            | WorkerError::Memory { next, .. }
            | WorkerError::Ended { next, .. }
            | WorkerError::Protocol { next, .. } => next,
        };
        next.to_owned()
    }
}

/// A worker. Dropping it kills it.
///
/// Start it from a thread that lives as long as the worker: the kernel kills a worker when the thread that started
/// it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: JoinHandle<String>,
    /// The longest line that either may write, in bytes.
    longest: usize,
    /// For the messages.
    given: Duration,
    began: Instant,
    deadline: Instant,
    advice: &'static Advice,
    /// How it ended and what to do, once it has.
    over: Option<(String, String)>,
}

impl Process {
    /// Starts `program` with `arguments`, the first of which is its name in a list of processes, for at most `given`
    /// from `began`.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        (began, given): (Instant, Duration),
        longest: usize,
        advice: &'static Advice,
    ) -> Result<Process, WorkerError> {
        let failed = |source| WorkerError::Start { program: program.to_owned(), source };
        let (name, arguments) = arguments.split_first().map_or(("", arguments), |(name, rest)| (*name, rest));
        let mut child = Command::new(program)
            .arg0(name)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Process {
            child,
            input: Some(stdin),
            output: BufReader::new(stdout),
            said: tokio::spawn(last_words(stderr)),
            longest,
            given,
            began,
            // Beyond a month no clock is meant to reach.
            deadline: began + given.min(Duration::from_secs(30 * 86_400)),
            advice,
            over: None,
        })
    }

    /// Since when its time counts.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When it is killed.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it can still be asked.
    pub fn is_open(&self) -> bool {
        self.input.is_some()
    }

    /// Sends requests without waiting for answers.
    pub async fn tell(&mut self, requests: &[&impl Serialize], doing: &str) -> Result<(), WorkerError> {
        let lines = self.lines(requests, doing)?;
        let deadline = self.deadline;
        let Some(input) = self.input.as_mut() else { return Err(self.not_tried()) };
        // Whether the worker is there shows when an answer is read.
        match timeout_at(deadline, input.write_all(&lines)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.out_of_time(self.given, doing)),
        }
    }

    /// The next answer, until the deadline.
    pub async fn hear<R: DeserializeOwned>(&mut self, doing: &str) -> Result<R, WorkerError> {
        self.hear_until(doing, self.deadline).await
    }

    /// The next answer, until an earlier time.
    pub async fn hear_until<R: DeserializeOwned>(
        &mut self,
        doing: &str,
        until: Instant,
    ) -> Result<R, WorkerError> {
        let began = Instant::now();
        match timeout_at(until, read_line(&mut self.output, self.longest)).await {
            Err(_) if until == self.deadline => Err(self.out_of_time(self.given, doing)),
            Err(_) => Err(self.out_of_time(until.saturating_duration_since(began), doing)),
            Ok(Ok(Some(line))) => {
                serde_json::from_slice(&line).map_err(|e| self.nonsense(clean(&e.to_string()), doing))
            }
            Ok(Ok(None)) => Err(self.ended(doing).await),
            Ok(Err(error)) => Err(self.nonsense(error, doing)),
        }
    }

    /// Sends requests and receives the answer to the first, which the worker may give before it has read the others.
    pub async fn ask<R: DeserializeOwned>(
        &mut self,
        requests: &[&impl Serialize],
        doing: &str,
        until: Instant,
    ) -> Result<R, WorkerError> {
        let lines = self.lines(requests, doing)?;
        let Some(mut input) = self.input.take() else { return Err(self.not_tried()) };
        let answer = {
            let writing = async {
                // Whether the worker is there shows when the answer is read.
                let _ = input.write_all(&lines).await;
            };
            let hearing = self.hear_until(doing, until);
            tokio::pin!(writing, hearing);
            tokio::select! {
                answer = &mut hearing => {
                    if answer.is_ok() {
                        let _ = timeout_at(until, writing).await;
                    }
                    answer
                }
                () = &mut writing => hearing.await,
            }
        };
        // After a failure the input stays closed.
        if answer.is_ok() {
            self.input = Some(input);
        }
        answer
    }

    fn lines(&mut self, requests: &[&impl Serialize], doing: &str) -> Result<Vec<u8>, WorkerError> {
        let mut lines = Vec::new();
        for request in requests {
            let line = serde_json::to_vec(request).map_err(|error| self.nonsense(error, doing))?;
            if line.len() > self.longest {
                return Err(self.nonsense("more is desired than fits into a message", doing));
            }
            lines.extend(line);
            lines.push(b'\n');
        }
        Ok(lines)
    }

    /// Kills a worker that said what it may not say.
    pub fn nonsense(&mut self, what: impl std::fmt::Display, doing: &str) -> WorkerError {
        let error =
            WorkerError::Protocol { what: what.to_string(), doing: doing.into(), next: self.advice.protocol };
        self.is_over(error)
    }

    fn out_of_time(&mut self, after: Duration, doing: &str) -> WorkerError {
        let seconds = after.as_secs_f64().round() as u64;
        let error = WorkerError::Deadline { seconds, doing: doing.into(), next: self.advice.deadline };
        self.is_over(error)
    }

    /// The worker closed its end: why?
    async fn ended(&mut self, doing: &str) -> WorkerError {
        self.input = None;
        let soon = Instant::now() + SOON;
        let status = timeout_at(soon, self.child.wait()).await.ok().and_then(Result::ok);
        let _ = self.child.start_kill();
        let said = match timeout_at(soon, &mut self.said).await {
            Ok(Ok(said)) => said,
            _ => String::new(),
        };
        let error = match status.and_then(|status| status.signal()) {
            Some(libc::SIGXCPU) => return self.out_of_time(self.given, doing),
            // What Rust says before it aborts.
            Some(libc::SIGABRT) if said.contains("memory allocation of") => {
                WorkerError::Memory { doing: doing.into(), next: self.advice.memory }
            }
            _ => WorkerError::Ended {
                how: how(status, &clean(said.trim())),
                doing: doing.into(),
                next: self.advice.ended,
            },
        };
        self.is_over(error)
    }

    fn is_over(&mut self, error: WorkerError) -> WorkerError {
        self.input = None;
        let _ = self.child.start_kill();
        self.over = Some((error.to_string(), error.next()));
        error
    }

    fn not_tried(&self) -> WorkerError {
        let (why, next) = self.over.clone().unwrap_or_default();
        WorkerError::NotTried { why, next }
    }

    /// Lets the worker end. One that does not is killed, which need not be waited for: a file system that hangs can keep a
    /// process for ever.
    pub fn finish(mut self) -> JoinHandle<()> {
        self.input = None;
        tokio::spawn(async move {
            let _ = timeout_at(Instant::now() + SOON, self.child.wait()).await;
            let _ = self.child.start_kill();
        })
    }
}

fn how(status: Option<ExitStatus>, said: &str) -> String {
    let status = match status {
        Some(status) => status.to_string(),
        None => "it closed its output and went on".to_owned(),
    };
    if said.is_empty() { status } else { format!("{status}: {said}") }
}

/// Keeps the beginning, and reads on, so that a worker that says too much does not wait for us.
async fn last_words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut part).await {
        let room = MAX_STDERR - kept.len();
        kept.extend_from_slice(&part[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
