//! The daemon's end of a worker. What comes from the worker is untrusted: lines and counts are bounded, an answer to
//! something that was not asked is an error, and texts are cleaned before anyone reads them.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use nix::libc;
use roster::desired::{CloneDesired, HomeDesired};
use roster::name::OsUser;
use roster::observed::HomeObserved;
use roster::plan::HomeAction;
use roster::report::StepResult;

use crate::place::without_user;
use crate::protocol::{Become, Landlock, MAX_LINE, Reply, Request, clean};
use crate::{checked, tree};

/// Looking at a home takes a millisecond. A file system that the person made hang must not hold up the run for the
/// time that a clone may take.
const OBSERVE: Duration = Duration::from_secs(20);

/// What is kept of a worker's last words.
const MAX_STDERR: usize = 2048;

/// Whose home a worker works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Account name, for messages.
    pub user: OsUser,
    /// User id; a person's, never below 1000.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Supplementary groups. Nothing here needs any; a group such as docker's is better left out.
    pub groups: Vec<u32>,
    /// The home: a real folder that the person owns.
    pub home: PathBuf,
}

/// What a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the whole home, from the start of the worker.
    pub deadline: Duration,
    /// Heap and other private memory, in MiB.
    pub memory_mib: u64,
    /// What a server may send for one clone, in MiB.
    pub max_clone_mib: u64,
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
        source: std::io::Error,
    },
    /// The worker, or this end before it started one, refuses to work for this account or in this home.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// It took longer than looking at a home may take, whatever the config allows for the rest.
    #[error("gave up after {seconds} s while {doing}")]
    Hangs {
        /// How long it was given.
        seconds: u64,
        /// At what.
        doing: String,
    },
    /// The time was up; the worker was killed.
    #[error("gave up after {seconds} s while {doing}")]
    Deadline {
        /// How long it was given.
        seconds: u64,
        /// At what.
        doing: String,
    },
    /// The worker needed more memory than it may use.
    #[error("needed more than {mib} MiB of memory while {doing}")]
    Memory {
        /// The limit.
        mib: u64,
        /// At what.
        doing: String,
    },
    /// An earlier step ended the worker, so this one was not tried.
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
    },
    /// The worker said what it may not say; it was killed.
    #[error("the worker's answer makes no sense while {doing}: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
        /// At what.
        doing: String,
    },
}

impl WorkerError {
    /// What an admin can do.
    pub fn next(&self) -> String {
        match self {
            WorkerError::Start { .. } => "check that rosterd is installed completely and may start processes".into(),
            WorkerError::Refused { next, .. } | WorkerError::NotTried { next, .. } => next.clone(),
            WorkerError::Hangs { .. } => {
                "tried again later by itself; look whether the home is on a file system that hangs".into()
            }
            WorkerError::Deadline { .. } => {
                "tried again later by itself; if the work is that big, raise `worker.deadline_s` in the config".into()
            }
            WorkerError::Memory { .. } => "raise `worker.memory_mib` in /etc/rosterd/config.toml".into(),
            WorkerError::Ended { .. } => "tried again later by itself; a person who ends all of their processes ends this one too".into(),
            WorkerError::Protocol { .. } => {
                "find out what the person runs: a worker that was not tampered with does not do this".into()
            }
        }
    }
}

/// A process that works in one home as its user. Dropping it kills it.
///
/// Start it from a thread that lives as long as the worker: the kernel kills a worker when the thread that started
/// it ends.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    stderr: JoinHandle<String>,
    limits: Limits,
    deadline: Instant,
    landlock: Landlock,
    /// How it ended, and what to do, once it has.
    over: Option<(String, String)>,
}

impl Worker {
    /// Starts `program worker` and waits until it has become `person`.
    pub async fn start(program: &Path, person: &Person, limits: Limits) -> Result<Worker, WorkerError> {
        let who = Become {
            user: person.user.clone(),
            uid: person.uid,
            gid: person.gid,
            groups: person.groups.clone(),
            home: person.home.clone(),
            memory_mib: limits.memory_mib,
            max_clone_mib: limits.max_clone_mib,
            deadline_s: limits.deadline.as_secs().max(1),
        };
        who.check().map_err(|failure| WorkerError::Refused { why: failure.why, next: failure.next })?;
        // Beyond a month no clock is meant to reach.
        let deadline = Instant::now() + limits.deadline.min(Duration::from_secs(30 * 86_400));
        let start = |source| WorkerError::Start { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .arg("worker")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let mut worker = Worker {
            child,
            requests: Some(stdin),
            replies: BufReader::new(stdout),
            stderr: tokio::spawn(last_words(stderr)),
            limits,
            deadline,
            landlock: Landlock::Absent,
            over: None,
        };
        let doing = format!("becoming {}", person.user);
        match worker.ask(&Request::Become(who), &doing, deadline.min(Instant::now() + OBSERVE)).await? {
            Reply::Ready { landlock } => worker.landlock = landlock,
            Reply::Failed(failure) => {
                return Err(WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) });
            }
            _ => return Err(worker.nonsense("not what was asked", &doing)),
        }
        Ok(worker)
    }

    /// How far Landlock confines it.
    pub fn landlock(&self) -> Landlock {
        self.landlock
    }

    /// What the home shows of what is desired in it.
    pub async fn observe(&mut self, desired: &HomeDesired) -> Result<HomeObserved, WorkerError> {
        let doing = "looking at the home";
        let until = self.deadline.min(Instant::now() + OBSERVE);
        match self.ask(&Request::Observe(desired.clone()), doing, until).await? {
            Reply::Observed(observed) => {
                checked(observed, desired).map_err(|what| self.nonsense(what, doing))
            }
            Reply::Failed(failure) => {
                Err(WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) })
            }
            _ => Err(self.nonsense("not what was asked", doing)),
        }
    }

    /// Does one step. After a worker has failed as such, every further step fails at once.
    pub async fn apply(&mut self, action: &HomeAction) -> StepResult {
        let doing = doing(action);
        let reply = match self.ask(&Request::Apply(action.clone()), &doing, self.deadline).await {
            Ok(Reply::Done) => return StepResult::Done,
            Ok(Reply::Failed(failure)) => {
                return StepResult::Failed { why: clean(&failure.why), next: clean(&failure.next) };
            }
            Ok(_) => self.nonsense("not what was asked", &doing),
            Err(error) => error,
        };
        StepResult::Failed { why: reply.to_string(), next: reply.next() }
    }

    /// Lets the worker end. One that does not is killed, and not waited for: a file system that hangs can keep a
    /// process for ever.
    pub async fn finish(mut self) {
        self.requests = None;
        let _ = timeout_at(Instant::now() + Duration::from_secs(2), self.child.wait()).await;
        let _ = self.child.start_kill();
    }

    async fn ask(&mut self, request: &Request, doing: &str, until: Instant) -> Result<Reply, WorkerError> {
        if let Some((why, next)) = self.over.clone() {
            return Err(WorkerError::NotTried { why, next });
        }
        let answer = self.exchange(request, doing, until).await;
        if let Err(error) = &answer {
            self.over = Some((error.to_string(), error.next()));
        }
        answer
    }

    async fn exchange(
        &mut self,
        request: &Request,
        doing: &str,
        until: Instant,
    ) -> Result<Reply, WorkerError> {
        let line = serde_json::to_vec(request).map_err(|e| self.nonsense(e, doing))?;
        if line.len() > MAX_LINE {
            return Err(self.nonsense("more is desired in this home than fits into a message", doing));
        }
        let Some(requests) = self.requests.as_mut() else {
            return Err(WorkerError::Ended { how: "it had failed before".into(), doing: doing.into() });
        };
        let asked = Instant::now();
        let answer = timeout_at(until, async {
            // Whether the worker is there shows when the answer is read.
            let _ = requests.write_all(&line).await;
            let _ = requests.write_all(b"\n").await;
            read_line(&mut self.replies).await
        })
        .await;
        match answer {
            Err(_) => {
                self.stop();
                let doing = doing.into();
                Err(match until == self.deadline {
                    true => WorkerError::Deadline { seconds: self.limits.deadline.as_secs(), doing },
                    false => {
                        let given = until.saturating_duration_since(asked);
                        WorkerError::Hangs { seconds: given.as_secs_f64().round() as u64, doing }
                    }
                })
            }
            Ok(Ok(Some(line))) => {
                serde_json::from_slice(&line).map_err(|e| self.nonsense(clean(&e.to_string()), doing))
            }
            Ok(Ok(None)) => Err(self.ended(doing).await),
            Ok(Err(error)) => Err(self.nonsense(error, doing)),
        }
    }

    fn stop(&mut self) {
        self.requests = None;
        let _ = self.child.start_kill();
    }

    fn nonsense(&mut self, what: impl std::fmt::Display, doing: &str) -> WorkerError {
        self.stop();
        WorkerError::Protocol { what: what.to_string(), doing: doing.into() }
    }

    /// The worker closed its end: why?
    async fn ended(&mut self, doing: &str) -> WorkerError {
        self.requests = None;
        let soon = Instant::now() + Duration::from_secs(2);
        let status = timeout_at(soon, self.child.wait()).await.ok().and_then(Result::ok);
        self.stop();
        let said = match timeout_at(soon, &mut self.stderr).await {
            Ok(Ok(said)) => said,
            _ => String::new(),
        };
        let doing = doing.to_owned();
        match status.and_then(|status| status.signal()) {
            Some(libc::SIGXCPU) => WorkerError::Deadline { seconds: self.limits.deadline.as_secs(), doing },
            // What Rust says before it aborts.
            Some(libc::SIGABRT) if said.contains("memory allocation of") => {
                WorkerError::Memory { mib: self.limits.memory_mib, doing }
            }
            _ => WorkerError::Ended { how: how(status, &clean(said.trim())), doing },
        }
    }
}

fn how(status: Option<ExitStatus>, said: &str) -> String {
    let status = match status {
        Some(status) => status.to_string(),
        None => "it closed its output and went on".to_owned(),
    };
    if said.is_empty() { status } else { format!("{status}: {said}") }
}

fn doing(action: &HomeAction) -> String {
    match action {
        HomeAction::RemoveUnfinished { path } => format!("removing ~/{path}"),
        HomeAction::MakeFolder { path } => format!("making ~/{path}"),
        HomeAction::Clone(CloneDesired { path, url, .. }) => {
            format!("cloning {} to ~/{path}", without_user(url))
        }
        HomeAction::Move(action) => format!("trying to {action}"),
        HomeAction::Wire(wire) => format!("trying to {wire}"),
    }
}

/// What a worker says it saw, as far as it was asked, with texts that can be shown.
fn checked(observed: HomeObserved, desired: &HomeDesired) -> Result<HomeObserved, &'static str> {
    let asked = |path: &str| desired.clones.iter().any(|clone| clone.path == path);
    let same_count = observed.clones.len() <= desired.clones.len();
    if !same_count
        || !observed.clones.keys().all(|path| asked(path))
        || !desired.clones.iter().all(|c| observed.clones.contains_key(&c.path))
    {
        return Err("it tells of other places than were asked for");
    }
    let may_be_left = |path: &String| {
        *path == tree::unfinished("code") || desired.clones.iter().any(|c| *path == tree::unfinished(&c.path))
    };
    if observed.unfinished.len() > desired.clones.len() + 1 || !observed.unfinished.iter().all(may_be_left) {
        return Err("it names an unfinished clone that cannot be one");
    }
    Ok(HomeObserved {
        code: checked::place(observed.code),
        clones: observed.clones.into_iter().map(|(path, found)| (path, checked::place(found))).collect(),
        unfinished: observed.unfinished,
        moves: checked::moves(observed.moves, desired)?,
        wiring: checked::wiring(observed.wiring)?,
    })
}

/// Reads a line of at most `MAX_LINE` bytes; nothing at the end.
async fn read_line(from: &mut BufReader<ChildStdout>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let part = from.fill_buf().await?;
        if part.is_empty() {
            return Ok(None);
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let (part, used) = end.map_or((part, part.len()), |end| (&part[..end], end + 1));
        if line.len() + part.len() > MAX_LINE {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a line without an end"));
        }
        line.extend_from_slice(part);
        from.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
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
