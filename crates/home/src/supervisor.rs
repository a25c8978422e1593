//! The daemon's end of a worker. What comes from the worker is untrusted: lines and counts are bounded, an answer to
//! something that was not asked is an error, and texts are cleaned before anyone reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use roster::desired::{CloneDesired, HomeDesired};
use roster::files::Text;
use roster::name::OsUser;
use roster::observed::HomeObserved;
use roster::plan::refresh::Way;
use roster::plan::{Action, HomeAction, Plan};
use roster::remote::{Answer, Asked, CloneState, FastForward, LookAt, Standing};
use roster::report::StepResult;
use worker_process::{Advice, Process, WorkerError, clean};

use crate::fast_forward::MAX_PLAIN;
use crate::place::without_user;
use crate::protocol::{Become, Landlock, MAX_LINE, Reply, Request, Task};
use crate::worker::ASK;
use crate::{checked, tree};

/// Looking at a home takes a millisecond. A file system that the person made hang must not hold up the run for the
/// time that a clone may take.
const OBSERVE: Duration = Duration::from_secs(20);

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

/// The programs that a worker can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Calls [`look`](crate::look()).
    pub look: PathBuf,
    /// Calls [`worker`](crate::worker()).
    pub work: PathBuf,
}

/// What a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the whole home, from the start of the worker.
    pub deadline: Duration,
    /// Heap and other private memory, in MiB.
    pub memory_mib: u64,
    /// What a server may send for one clone or fetch, in MiB.
    pub max_clone_mib: u64,
    /// The folder of the mirrors, from which a home may take objects. It need not be there.
    pub mirrors: &'static str,
}

/// What an admin can do when a worker fails.
const ADVICE: Advice = Advice {
    deadline: "tried again later by itself; if the work is that big, raise `worker.deadline_s` in the config",
    memory: "raise `worker.memory_mib` in /etc/rosterd/config.toml",
    ended: "tried again later by itself; a person who ends all of their processes ends this one too",
    protocol: "a remote with very many branches and tags can be the cause (`git ls-remote`); if it is not, find out what the person runs, for the worker was tampered with",
};

/// A process that works in one home as its user. Dropping it kills it.
///
/// Start it from a thread that lives as long as the worker: the kernel kills a worker when the thread that started
/// it ends.
#[derive(Debug)]
pub struct Worker {
    who: Become,
    /// The program that takes over when there is more to do than to look.
    work: Option<PathBuf>,
    process: Process,
    limits: Limits,
    landlock: Landlock,
    /// How many clones should be in the home.
    clones: usize,
}

impl Worker {
    /// Starts `program` and waits until it has become `person`.
    pub async fn start(program: &Path, person: &Person, limits: Limits) -> Result<Worker, WorkerError> {
        Worker::begin(program, work_of(person, limits), &[], limits, Instant::now()).await
    }

    /// Starts a worker for any task; `also` are requests whose answers the caller receives.
    pub(crate) async fn begin(
        program: &Path,
        who: Become,
        also: &[Request],
        limits: Limits,
        began: Instant,
    ) -> Result<Worker, WorkerError> {
        who.check().map_err(|failure| WorkerError::Refused { why: failure.why, next: failure.next })?;
        let name = if who.task == Task::Look { "rosterd-look" } else { "rosterd-worker" };
        let process = Process::start(program, &[name], (began, limits.deadline), MAX_LINE, &ADVICE)?;
        let mut worker =
            Worker { who: who.clone(), work: None, process, limits, landlock: Landlock::Absent, clones: 0 };
        let doing = format!("becoming {}", who.user);
        let until = worker.soon(OBSERVE);
        let first = Request::Become(who);
        let requests: Vec<_> = std::iter::once(&first).chain(also).collect();
        match worker.process.ask(&requests, &doing, until).await? {
            Reply::Ready { landlock } => worker.landlock = landlock,
            Reply::Failed(failure) => {
                return Err(WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) });
            }
            _ => return Err(worker.process.nonsense("not what was asked", &doing)),
        }
        Ok(worker)
    }

    /// Starts a worker that looks at the home at once: what it shows, and what its clones know of their remotes, by
    /// path. All is asked in one go, because most homes want nothing more, and on a busy machine each answer that is
    /// waited for costs a turn. When there is more to do, another program takes over by itself.
    pub async fn start_looking(
        programs: &Programs,
        person: &Person,
        limits: Limits,
        desired: &HomeDesired,
        clones: Vec<LookAt>,
    ) -> Result<(Worker, HomeObserved, BTreeMap<String, CloneState>), WorkerError> {
        let who = Become { task: Task::Look, ..work_of(person, limits) };
        let paths: Vec<_> = clones.iter().map(|look| look.path.clone()).collect();
        let also = [Request::Observe(desired.clone()), Request::Look(clones.clone())];
        let mut worker = Worker::begin(&programs.look, who, &also, limits, Instant::now()).await?;
        worker.work = Some(programs.work.clone());
        worker.clones = desired.clones.len();
        let until = worker.soon(OBSERVE);
        let doing = "looking at the home";
        let observed = match worker.process.hear_until(doing, until).await? {
            Reply::NeedsGit => {
                worker.take_over().await?;
                let observed = worker.observe(desired).await?;
                let states = worker.look(clones).await?;
                return Ok((worker, observed, states));
            }
            Reply::Observed(observed) => {
                checked(*observed, desired).map_err(|what| worker.process.nonsense(what, doing))?
            }
            reply => return Err(worker.unexpected(reply, doing)),
        };
        let doing = "looking at the clones";
        let reply = worker.process.hear_until(doing, until).await?;
        let states = worker.states(reply, paths, doing)?;
        Ok((worker, observed, states))
    }

    /// Lets the program that works take the place of the one that looks: for the same person, in what is left of the
    /// time.
    async fn take_over(&mut self) -> Result<(), WorkerError> {
        let Some(program) = self.work.take_if(|_| self.process.is_open()) else { return Ok(()) };
        let left = self.process.deadline().saturating_duration_since(Instant::now());
        let task = Task::Home { mirrors: self.limits.mirrors.into() };
        let who = Become { task, deadline_s: left.as_secs().max(1), ..self.who.clone() };
        let mut next = Worker::begin(&program, who, &[], self.limits, self.process.began()).await?;
        next.clones = self.clones;
        std::mem::replace(self, next).finish();
        Ok(())
    }

    /// How far Landlock confines it.
    pub fn landlock(&self) -> Landlock {
        self.landlock
    }

    /// What the home shows of what is desired in it.
    pub async fn observe(&mut self, desired: &HomeDesired) -> Result<HomeObserved, WorkerError> {
        let doing = "looking at the home";
        let until = self.soon(OBSERVE);
        match self.ask(&Request::Observe(desired.clone()), doing, until).await? {
            Reply::Observed(observed) => {
                checked(*observed, desired).map_err(|what| self.process.nonsense(what, doing))
            }
            Reply::Failed(failure) => {
                Err(WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) })
            }
            _ => Err(self.process.nonsense("not what was asked", doing)),
        }
    }

    /// Prepares for the steps of a plan: each clone and each fetch among them gets its share of the time that is left, so
    /// that one that hangs does not take that of the others. New clones leave a share for those that are there.
    pub async fn prepare(&mut self, plan: &Plan) {
        let is = |kind: fn(&HomeAction) -> bool| {
            let actions = plan.steps.iter().filter(|step| matches!(&step.action, Action::Home(a) if kind(a)));
            actions.count()
        };
        let clones = is(|action| matches!(action, HomeAction::Clone(_)));
        let others = usize::from((1..self.clones).contains(&clones));
        let count = u32::try_from(is(HomeAction::is_transfer) + others).unwrap_or(u32::MAX);
        if count > 1 {
            // When this fails, the steps will fail and say why.
            let _ = self.ask(&Request::Transfers(count), "preparing", self.process.deadline()).await;
        }
    }

    /// Does one step. After a worker has failed as such, every further step fails at once.
    pub async fn apply(&mut self, action: &HomeAction) -> StepResult {
        self.step(&request(action), &doing(action)).await.0
    }

    /// The same, and why a mirror failed it, when one did and the step was done from the server.
    pub async fn apply_from(&mut self, action: &HomeAction, way: &Way) -> (StepResult, Option<String>) {
        let request = match way {
            Way::Mirror(wanted) => Request::CloneMirrored(wanted.clone()),
            Way::Server => request(action),
            Way::NotNow { why, next } => {
                return (StepResult::Failed { why: why.clone(), next: next.clone() }, None);
            }
        };
        self.step(&request, &doing(action)).await
    }

    pub(crate) async fn step(&mut self, request: &Request, doing: &str) -> (StepResult, Option<String>) {
        let failed = |why, next| (StepResult::Failed { why, next }, None);
        let error = match self.ask(request, doing, self.process.deadline()).await {
            Ok(Reply::Done) => return (StepResult::Done, None),
            Ok(Reply::DoneWithoutMirror { why }) => return (StepResult::Done, Some(clean(&why))),
            Ok(Reply::Failed(failure)) => return failed(clean(&failure.why), clean(&failure.next)),
            Ok(_) => self.process.nonsense("not what was asked", doing),
            Err(error) => error,
        };
        failed(error.to_string(), error.next())
    }

    /// What clones know of their remotes, by path.
    pub async fn look(&mut self, clones: Vec<LookAt>) -> Result<BTreeMap<String, CloneState>, WorkerError> {
        let doing = "looking at the clones";
        let paths: Vec<_> = clones.iter().map(|look| look.path.clone()).collect();
        let until = self.soon(OBSERVE);
        let reply = self.ask(&Request::Look(clones), doing, until).await?;
        self.states(reply, paths, doing)
    }

    fn states(
        &mut self,
        reply: Reply,
        paths: Vec<String>,
        doing: &str,
    ) -> Result<BTreeMap<String, CloneState>, WorkerError> {
        match reply {
            Reply::States(states) if states.len() == paths.len() => {
                let states = states.into_iter().map(|state| CloneState {
                    unfit: state.unfit.map(|what| clean(&what)),
                    busy: state.busy.map(|what| clean(&what)),
                    ..state
                });
                Ok(paths.into_iter().zip(states).collect())
            }
            reply => Err(self.unexpected(reply, doing)),
        }
    }

    /// Asks a remote for its refs, with the person's own login where it wants one.
    pub async fn ask_remote(&mut self, url: &str) -> Result<Asked, WorkerError> {
        // The worker gives up by itself, so that the rest of the home is not lost.
        self.asked(url, ASK + OBSERVE).await
    }

    pub(crate) async fn asked(&mut self, url: &str, within: Duration) -> Result<Asked, WorkerError> {
        let doing = format!("asking {url}");
        let until = self.soon(within);
        match self.ask(&Request::Ask { url: url.to_owned() }, &doing, until).await? {
            Reply::Asked(asked) => {
                let answer = match asked.answer {
                    Answer::Failed { why, next } => Answer::Failed { why: clean(&why), next: clean(&next) },
                    Answer::WantsLogin { why, next } => {
                        Answer::WantsLogin { why: clean(&why), next: clean(&next) }
                    }
                    refs => refs,
                };
                Ok(Asked { answer, ..asked })
            }
            reply => Err(self.unexpected(reply, &doing)),
        }
    }

    /// How branches stand that may be behind, in their order.
    pub async fn inspect(&mut self, branches: Vec<FastForward>) -> Result<Vec<Standing>, WorkerError> {
        let (doing, count) = ("looking at branches that are behind", branches.len());
        match self.ask(&Request::Inspect(branches), doing, self.process.deadline()).await? {
            Reply::Standings(standings) if standings.len() == count => {
                let cleaned = standings.into_iter().map(|standing| Standing {
                    obstacle: standing.obstacle.map(|what| clean(&what)),
                    plain: standing.plain.iter().take(MAX_PLAIN).map(|path| clean(path)).collect(),
                    ..standing
                });
                Ok(cleaned.collect())
            }
            reply => Err(self.unexpected(reply, doing)),
        }
    }

    fn unexpected(&mut self, reply: Reply, doing: &str) -> WorkerError {
        match reply {
            Reply::Failed(failure) => {
                WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) }
            }
            _ => self.process.nonsense("not what was asked", doing),
        }
    }

    /// Lets the worker end, which nobody has to wait for.
    pub fn finish(self) {
        self.process.finish();
    }

    async fn ask(&mut self, request: &Request, doing: &str, until: Instant) -> Result<Reply, WorkerError> {
        if !matches!(request, Request::Observe(_) | Request::Look(_)) {
            self.take_over().await?;
        }
        match self.process.ask(&[request], doing, until).await? {
            Reply::NeedsGit if self.work.is_some() => {
                self.take_over().await?;
                self.process.ask(&[request], doing, until).await
            }
            reply => Ok(reply),
        }
    }

    fn soon(&self, within: Duration) -> Instant {
        self.process.deadline().min(Instant::now() + within)
    }
}

fn work_of(person: &Person, limits: Limits) -> Become {
    Become {
        user: person.user.to_string(),
        uid: person.uid,
        gid: person.gid,
        groups: person.groups.clone(),
        home: person.home.clone(),
        memory_mib: limits.memory_mib,
        max_clone_mib: limits.max_clone_mib,
        deadline_s: limits.deadline.as_secs().max(1),
        task: Task::Home { mirrors: limits.mirrors.into() },
    }
}

/// How a step is asked for.
fn request(action: &HomeAction) -> Request {
    match action {
        HomeAction::File(file) => {
            let text = file.text().map_or("", Text::as_str).to_owned();
            Request::File { action: file.clone(), text }
        }
        action => Request::Apply(action.clone()),
    }
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
        HomeAction::File(file) => format!("trying to {file}"),
        HomeAction::Fetch(fetch) => format!("fetching {} into ~/{}", without_user(&fetch.url), fetch.path),
        HomeAction::FastForward(FastForward { path, .. }) | HomeAction::FinishRefresh { path } => {
            format!("fast-forwarding ~/{path}")
        }
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
        files: checked::files(observed.files, desired)?,
        closed_bases: checked::bases(observed.closed_bases, desired)?,
    })
}
