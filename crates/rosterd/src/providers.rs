//! The providers' runs: on the same tick as the machine's, but each on a lane of its own, so that none of them can hold
//! up the machine or another one. A lane makes no choice of its own beyond the order of observe, plan, apply, record.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use identity::{Credential, Worker, WorkerError};
use jiff::Timestamp;
use roster::cluster::{self, ClusterDesired, Kubernetes};
use roster::config::Config;
use roster::k8s_users::MapState;
use roster::ledger::{Degraded, Ledger, WaitingCause};
use roster::name::OsUser;
use roster::plan::{self, Notice, Plan, Problem, Subject};
use roster::provider::{Provider, ProviderState, ProviderStatus};
use roster::report::{Outcome, Progress, Run, RunSummary, StepRecord, StepResult, Trigger};
use tokio::sync::mpsc;

use crate::accept::InForce;
use crate::daemon::{Ask, Daemon};
use crate::run::{about_to_be_in_force, chain, wait_after};
use crate::{journal, sources};

/// The system user that speaks to providers; the package makes it.
const ACCOUNT: &str = "rosterd";

/// More than every object of a few thousand people takes.
const MEMORY_MIB: u64 = 1024;

/// Where wishes for a run of a provider go.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    asks: RefCell<BTreeMap<Provider, mpsc::UnboundedSender<Ask>>>,
    running: RefCell<BTreeSet<Provider>>,
}

impl Lanes {
    /// The machine has a run; so have the providers. What the machine tries again is none of their business.
    pub(crate) fn ask(&self, machine: &Ask) {
        if machine.trigger != Trigger::Retry {
            for provider in Provider::ALL {
                self.ask_one(provider, Ask::new(machine.trigger, machine.user.clone(), None));
            }
        }
    }

    /// One of them is to have a run.
    pub(crate) fn ask_one(&self, provider: Provider, ask: Ask) {
        if let Some(lane) = self.asks.borrow().get(&provider) {
            // Nobody receives only when the daemon stops.
            let _ = lane.send(ask);
        }
    }
}

/// Starts the lanes. They end when the daemon stops.
pub(crate) fn keep_all(daemon: &Rc<Daemon>) {
    for provider in Provider::ALL {
        let (ask, asked) = mpsc::unbounded_channel();
        daemon.providers.asks.borrow_mut().insert(provider, ask);
        tokio::task::spawn_local(keep(Rc::clone(daemon), provider, asked));
    }
}

async fn keep(daemon: Rc<Daemon>, provider: Provider, mut asked: mpsc::UnboundedReceiver<Ask>) {
    loop {
        let retry = next_retry(&daemon.ledger(), provider);
        let mut ask = tokio::select! {
            () = daemon.stopped() => return,
            () = retry => Ask::new(Trigger::Retry, None, None),
            Some(ask) = asked.recv() => ask,
        };
        while let Ok(more) = asked.try_recv() {
            ask.join(more);
        }
        daemon.providers.running.borrow_mut().insert(provider);
        let run = tokio::select! {
            // What is under way is a single request each; the next start looks again.
            () = daemon.stopped() => return,
            run = one_run(&daemon, provider, &ask) => run,
        };
        daemon.providers.running.borrow_mut().remove(&provider);
        if let Some(run) = run {
            ask.tell(&Progress::Ended(Box::new(run)));
        }
    }
}

/// Waits until the next degraded subject is due; for ever when there is none.
fn next_retry(ledger: &Ledger, provider: Provider) -> impl Future<Output = ()> + use<> {
    let due =
        ledger.providers.get(&provider).and_then(|state| state.degraded.values().map(|d| d.next_try).min());
    async move {
        match due {
            Some(due) => {
                let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
                tokio::time::sleep(wait.max(Duration::from_secs(1))).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Whether there is anything to do for a provider.
pub(crate) fn is_configured(config: &Config, provider: Provider) -> bool {
    match provider {
        Provider::Kubernetes => config.kubernetes.kubeconfig.is_some(),
    }
}

/// How the configured providers are.
pub(crate) fn status(daemon: &Daemon) -> BTreeMap<Provider, ProviderStatus> {
    let (ledger, config) = (daemon.ledger(), daemon.config());
    let one = |provider| {
        let state = ledger.providers.get(&provider).cloned().unwrap_or_default();
        let last_run = state.last_run.and_then(|id| daemon.store.run(&id).ok().flatten());
        let status = ProviderStatus {
            running: daemon.providers.running.borrow().contains(&provider),
            last_run: last_run.as_ref().map(RunSummary::from),
            degraded: state.degraded,
        };
        (provider, status)
    };
    Provider::ALL.into_iter().filter(|provider| is_configured(&config, *provider)).map(one).collect()
}

/// What a run gathers while it goes on.
struct Gathered<'a> {
    ask: &'a Ask,
    id: String,
    generation: u64,
    steps: Vec<StepRecord>,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
}

/// Reconciles a provider once. What went wrong is in the record; there is none when the provider is not configured.
async fn one_run(daemon: &Daemon, provider: Provider, ask: &Ask) -> Option<Run> {
    let in_force = daemon.in_force()?;
    if !is_configured(&in_force.config, provider) {
        daemon.change_ledger(|ledger| drop(ledger.providers.remove(&provider)));
        return None;
    }
    let (started, clock) = (Timestamp::now(), Instant::now());
    let mut run = Gathered {
        ask,
        id: format!("{}-{provider}", daemon.next_run_id(started)),
        generation: daemon.ledger().generation,
        steps: Vec::new(),
        problems: Vec::new(),
        notices: Vec::new(),
    };
    let outcome = match held(daemon) {
        Some(problem) => {
            run.problems.push(problem);
            Outcome::Failed
        }
        None => {
            // A failure of the whole provider says nothing about anybody's rights there.
            let scope = match kubernetes(daemon, &in_force, &mut run).await {
                Ok(scope) => scope,
                Err(problem) => {
                    run.problems.push(problem);
                    BTreeSet::from([Subject::Machine])
                }
            };
            settle(daemon, provider, &run, &scope)
        }
    };
    let run = Run {
        id: run.id,
        trigger: ask.trigger,
        generation: run.generation,
        started,
        took_ms: clock.elapsed().as_millis() as u64,
        outcome,
        waiting: daemon.ledger().waiting.as_ref().map(|waiting| waiting.cause.clone()),
        steps: run.steps,
        problems: run.problems,
        notices: run.notices,
    };
    journal::ended(&run);
    match daemon.store.keep_run(&run) {
        Ok(()) => drop(daemon.change_ledger(|ledger| {
            ledger.providers.entry(provider).or_default().last_run = Some(run.id.clone());
        })),
        Err(error) => daemon.ledger_failed(&error),
    }
    Some(run)
}

/// Why nothing may be changed anywhere.
fn held(daemon: &Daemon) -> Option<Problem> {
    if let Some(problem) = daemon.ledger_trouble() {
        return Some(problem);
    }
    match daemon.ledger().waiting.as_ref().map(|waiting| &waiting.cause) {
        Some(WaitingCause::TierMismatch { .. }) => Some(problem(
            "nothing is changed",
            "tiers differ from the cluster's map",
            "see `rosterctl status`",
        )),
        _ => None,
    }
}

fn problem(what: &str, why: impl Into<String>, next: impl Into<String>) -> Problem {
    Problem { subject: Subject::Machine, what: what.into(), why: why.into(), next: next.into() }
}

/// What the cluster needs to be looked at.
struct Cluster {
    desired: ClusterDesired,
    worker: Worker,
    notices: Vec<Notice>,
}

/// Starts a worker for the cluster that `in_force` wants.
async fn begin(daemon: &Daemon, in_force: &InForce) -> Result<Cluster, Problem> {
    let config = &in_force.config.kubernetes;
    let Some(path) = config.kubeconfig.clone() else {
        return Err(problem(
            "no cluster is configured",
            "there is no `kubeconfig`",
            "name one in config.toml",
        ));
    };
    let map_file = in_force.config.tier_check.k8s_users.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut notices = Vec::new();
        if std::fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
            let text = format!("{} can be read by others than root: chmod 0600 it", path.display());
            notices.push(Notice { subject: Subject::Machine, text });
        }
        let read = |path: &std::path::Path| sources::read(path).map_err(|error| error.to_string());
        let credential = Credential::kubeconfig(&path, read);
        let map = match map_file {
            None => MapState::None,
            Some(file) => {
                match read(&file).map(|text| roster::parse::k8s_users(&file.display().to_string(), &text)) {
                    Ok(Ok(map)) => MapState::Known(map),
                    Ok(Err(_)) | Err(_) => MapState::Unreadable,
                }
            }
        };
        (credential, map, notices)
    });
    let stopped = |error: tokio::task::JoinError| {
        problem("the files of the cluster cannot be read", error.to_string(), "see the journal")
    };
    let (credential, map, mut notices) = read.await.map_err(stopped)?;
    let credential = credential.map_err(|error| {
        problem(
            "there is no credential for the cluster",
            chain(&error),
            "mend it; it is read anew for each run",
        )
    })?;
    match &map {
        MapState::Unreadable => notices.push(Notice {
            subject: Subject::Machine,
            text: "the cluster's map cannot be read, so whatever it would say of people is left as it is"
                .into(),
        }),
        MapState::Known(map) => {
            if let Some(wrong) = &map.diagnostics {
                let text = format!("entries of the cluster's map are left out: {wrong}");
                notices.push(Notice { subject: Subject::Machine, text });
            }
        }
        MapState::None => {}
    }
    let account = match nix::unistd::User::from_name(ACCOUNT) {
        Ok(Some(user)) => (user.uid.as_raw(), user.gid.as_raw()),
        _ => {
            return Err(problem(
                "nobody may speak to the cluster",
                format!("there is no system user `{ACCOUNT}`"),
                "make it: systemd-sysusers rosterd.conf",
            ));
        }
    };
    let ledger = daemon.ledger();
    let left = ledger.known().into_iter().filter(|user| !in_force.roster.users.contains_key(*user));
    let desired = cluster::desired(&in_force.roster, config, &map, left);
    let worker = Worker::start(&daemon.program, account, &credential, limits(config)).await;
    let worker = worker.map_err(|error| failed("no worker for the cluster", &error))?;
    Ok(Cluster { desired, worker, notices })
}

fn limits(config: &Kubernetes) -> identity::Limits {
    identity::Limits {
        deadline: Duration::from_secs(config.deadline_s),
        memory_mib: MEMORY_MIB,
        parallel: config.parallel,
    }
}

fn failed(what: &str, error: &WorkerError) -> Problem {
    problem(what, chain(error), error.next())
}

/// Brings the cluster to what the roster says. Gives the subjects that it worked on.
async fn kubernetes(
    daemon: &Daemon,
    in_force: &InForce,
    run: &mut Gathered<'_>,
) -> Result<BTreeSet<Subject>, Problem> {
    let phase = |text: &str| run.ask.tell(&Progress::Phase { text: text.into() });
    phase("looking at the cluster");
    let Cluster { desired, mut worker, notices } = begin(daemon, in_force).await?;
    let observed = worker.observe(&desired).await;
    let observed = observed.map_err(|error| failed("the cluster could not be looked at", &error))?;
    let whole = plan::cluster(&desired, &observed);
    let scope = scope(daemon, in_force, &whole, run.ask);
    let plan = whole.only(|subject| scope.contains(subject));
    run.problems.extend(plan.problems.iter().cloned());
    run.notices.extend(notices.into_iter().chain(plan.notices.iter().cloned()));
    if !plan.steps.is_empty() {
        phase(&format!("applying {}", journal::count(plan.steps.len(), "step", "steps")));
    }
    worker
        .apply(&plan, |index, result, took| {
            let Some(step) = plan.steps.get(index) else { return };
            let record = StepRecord { step: step.clone(), result, took_ms: took.as_millis() as u64 };
            journal::step(&run.id, run.generation, &record);
            run.ask.tell(&Progress::Step(Box::new(record.clone())));
            run.steps.push(record);
        })
        .await;
    worker.finish().await;
    Ok(scope)
}

/// Which subjects this run works on. Those that wait for their next try are left alone, unless somebody asks.
fn scope(daemon: &Daemon, in_force: &InForce, plan: &Plan, ask: &Ask) -> BTreeSet<Subject> {
    let ledger = daemon.ledger();
    let now = Timestamp::now();
    let planned = plan.steps.iter().map(|step| step.subject.clone());
    let people = in_force.roster.users.keys().chain(ledger.known()).cloned().map(Subject::User);
    let all = planned.chain(people).chain([Subject::Machine]);
    let waits = |subject: &Subject| {
        let state = ledger.providers.get(&Provider::Kubernetes);
        state.and_then(|state| state.degraded.get(subject)).is_some_and(|degraded| degraded.next_try > now)
    };
    match (&ask.user, ask.trigger) {
        (Some(user), _) => BTreeSet::from([Subject::User(user.clone())]),
        (None, Trigger::Request | Trigger::Start | Trigger::Change) => all.collect(),
        (None, Trigger::Retry) => all.filter(|subject| !waits(subject)).collect(),
    }
}

/// Brings the list of degraded subjects up to date, and tells what is new.
fn settle(daemon: &Daemon, provider: Provider, run: &Gathered<'_>, scope: &BTreeSet<Subject>) -> Outcome {
    let now = Timestamp::now();
    let mut troubles: BTreeMap<Subject, Vec<Problem>> = BTreeMap::new();
    for problem in &run.problems {
        troubles.entry(problem.subject.clone()).or_default().push(problem.clone());
    }
    for record in &run.steps {
        if let StepResult::Failed { why, next } = &record.result {
            let subject = record.step.subject.clone();
            let what = record.step.action.to_string();
            let problem = Problem { subject: subject.clone(), what, why: why.clone(), next: next.clone() };
            troubles.entry(subject).or_default().push(problem);
        }
    }
    let ledger = daemon.ledger();
    let mut state = ledger.providers.get(&provider).cloned().unwrap_or_default();
    for subject in scope {
        let before = state.degraded.remove(subject);
        let Some(problems) = troubles.remove(subject) else {
            if before.is_some() {
                journal::recovered(&run.id, run.generation, subject);
            }
            continue;
        };
        let known = before.as_ref().map_or(&[][..], |before| &before.problems);
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            // A failed step has told it already.
            if run.problems.contains(problem) {
                journal::problem(&run.id, run.generation, problem);
            }
        }
        let failures = before.as_ref().map_or(1, |before| before.failures.saturating_add(1));
        let since = before.map_or(now, |before| before.since);
        let next_try = now.checked_add(wait_after(failures)).unwrap_or(now);
        state.degraded.insert(subject.clone(), Degraded { since, failures, next_try, problems });
    }
    for notice in run.notices.iter().filter(|notice| !state.told.contains(notice)) {
        journal::notice(&run.id, run.generation, notice);
    }
    state.told.retain(|notice| !scope.contains(&notice.subject));
    state.told.extend(run.notices.iter().cloned());
    let outcome = if state.degraded.is_empty() { Outcome::Converged } else { Outcome::Degraded };
    daemon.change_ledger(|ledger| {
        let ProviderState { degraded, told, .. } = state;
        let kept = ledger.providers.entry(provider).or_default();
        (kept.degraded, kept.told) = (degraded, told);
    });
    outcome
}

/// What a reconcile of a provider would do, for `rosterctl plan`. Changes nothing.
pub(crate) async fn preview(
    daemon: &Daemon,
    provider: Provider,
    user: Option<&OsUser>,
) -> Result<Plan, Problem> {
    let Provider::Kubernetes = provider;
    let Some(in_force) = about_to_be_in_force(daemon, &daemon.read_disk()) else {
        return Ok(Plan::default());
    };
    let Cluster { desired, mut worker, notices } = begin(daemon, &in_force).await?;
    let observed = worker.observe(&desired).await;
    let observed = observed.map_err(|error| failed("the cluster could not be looked at", &error))?;
    worker.finish().await;
    let mut plan = plan::cluster(&desired, &observed);
    plan.notices.extend(notices);
    Ok(match user {
        Some(user) => plan.only(|subject| *subject == Subject::User(user.clone())),
        None => plan,
    })
}
