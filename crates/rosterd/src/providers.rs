//! The providers' runs: on the same tick as the machine's, but each on a lane of its own, so that none of them can hold
//! up the machine or another one. A lane makes no choice of its own beyond the order of observe, plan, apply, record.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use identity::{Worker, WorkerError};
use jiff::Timestamp;
use roster::access::{self, Place};
use roster::cluster::{ClusterDesired, ClusterObserved};
use roster::config::Config;
use roster::ledger::{Degraded, Ledger};
use roster::name::OsUser;
use roster::plan::{Action, ClusterAction, Notice, Plan, Problem, Subject};
use roster::provider::{Provider, ProviderState, ProviderStatus};
use roster::report::{Outcome, Progress, Run, RunSummary, StepRecord, StepResult, Trigger};
use roster::revocation::{self, Left};
use roster::vault::{VaultDesired, VaultObserved};
use tokio::sync::mpsc;

use crate::accept::InForce;
use crate::announce;
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::journal;
use crate::preview::about_to_be_in_force;
use crate::run::chain;
use crate::running::{wait_after, waits_for};

mod kubernetes;
mod lease;
pub(crate) mod map;
mod vault;

/// The system user that speaks to providers; the package makes it.
const ACCOUNT: &str = "rosterd";

/// More than every object of a few thousand people takes.
const MEMORY_MIB: u64 = 1024;

/// Where wishes for a run of a provider go.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    asks: RefCell<BTreeMap<Provider, mpsc::UnboundedSender<Ask>>>,
    running: RefCell<BTreeSet<Provider>>,
    /// When the machine was asked, or will be, because of what one of them said.
    news: RefCell<VecDeque<tokio::time::Instant>>,
}

impl Lanes {
    /// The machine has a run; so have the providers. What the machine tries again is none of their business.
    pub(crate) fn ask(&self, machine: &Ask) {
        if machine.trigger != Trigger::Retry && machine.whom != Whom::InHand {
            for provider in Provider::ALL {
                self.ask_one(provider, Ask::new(machine.trigger, machine.whom.clone(), None));
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
            () = retry => Ask::new(Trigger::Retry, Whom::Everybody, None),
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
        if !daemon.is_running() {
            daemon.is_idle();
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
        Provider::Vault => config.vault.address.is_some(),
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
            pending: daemon
                .in_force()
                .map(|in_force| pending(&ledger, &in_force, provider))
                .unwrap_or_default(),
        };
        (provider, status)
    };
    Provider::ALL.into_iter().filter(|provider| is_configured(&config, *provider)).map(one).collect()
}

fn revokes_on_cut(config: &Config, provider: Provider) -> bool {
    match provider {
        Provider::Kubernetes => config.kubernetes.revoke_on_cut,
        Provider::Vault => config.vault.revoke_on_cut,
    }
}

/// Who left and may still have something there.
fn pending(ledger: &Ledger, in_force: &InForce, provider: Provider) -> BTreeSet<OsUser> {
    revocation::pending(ledger, &in_force.whole, provider, revokes_on_cut(&in_force.config, provider))
}

/// What somebody who left may still have at each configured provider.
pub(crate) fn rights_left(daemon: &Daemon, user: &OsUser) -> BTreeMap<Provider, Left> {
    let (Some(in_force), ledger) = (daemon.in_force(), daemon.ledger()) else { return BTreeMap::new() };
    let configured = Provider::ALL.into_iter().filter(|provider| is_configured(&in_force.config, *provider));
    let of = |provider| {
        let revokes = revokes_on_cut(&in_force.config, provider);
        (provider, revocation::left(&ledger, &in_force.whole, provider, revokes, user))
    };
    configured.map(of).collect()
}

/// What a run gathers while it goes on.
struct Gathered<'a> {
    ask: &'a Ask,
    id: String,
    generation: u64,
    steps: Vec<StepRecord>,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
    /// Who had something there when it was looked at; nothing when that was not seen.
    holders: Option<BTreeSet<OsUser>>,
}

/// Reconciles a provider once. What went wrong is in the record; there is none when the provider is not configured.
async fn one_run(daemon: &Rc<Daemon>, provider: Provider, ask: &Ask) -> Option<Run> {
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
        holders: None,
    };
    // A failure of the whole provider says nothing about anybody's rights there.
    let outcome = match daemon.ledger_trouble() {
        Some(problem) => {
            run.problems.push(problem);
            Outcome::Failed
        }
        None => {
            let scope = match reconcile(daemon, provider, &in_force, &mut run).await {
                Ok(scope) => scope,
                Err(problem) => {
                    run.problems.push(problem);
                    BTreeSet::from([Subject::Machine])
                }
            };
            note_gone(daemon, provider, &in_force, &run);
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
        waiting: waits_for(&daemon.ledger()).map(|waiting| waiting.cause.clone()),
        steps: run.steps,
        problems: run.problems,
        notices: run.notices,
        unfinished: BTreeSet::new(),
        commit: daemon.commit(),
    };
    journal::ended(&run);
    announce::note_provider(daemon);
    match daemon.store.keep_run(&run) {
        Ok(()) => drop(daemon.change_ledger(|ledger| {
            ledger.providers.entry(provider).or_default().last_run = Some(run.id.clone());
        })),
        Err(error) => daemon.ledger_failed(&error),
    }
    Some(run)
}

/// Takes note of who left and has lost everything there. Whoever was not seen stays as far as they were.
fn note_gone(daemon: &Daemon, provider: Provider, in_force: &InForce, run: &Gathered<'_>) {
    let Some(holders) = &run.holders else { return };
    let ledger = daemon.ledger();
    let people = ledger.cut.keys().chain(ledger.removed.keys());
    let left = people.filter(|user| !in_force.whole.users.contains_key(*user));
    keep_gone(daemon, provider, revocation::gone(left, holders, &run.steps));
}

fn keep_gone(daemon: &Daemon, provider: Provider, gone: BTreeSet<OsUser>) {
    let known = daemon.ledger().providers.get(&provider).map(|state| state.gone.clone()).unwrap_or_default();
    if known != gone {
        daemon.change_ledger(|ledger| ledger.providers.entry(provider).or_default().gone = gone);
    }
}

/// Why nothing may be changed anywhere. Looking goes on: what is seen may be what ends it.
fn held(daemon: &Daemon) -> Option<Problem> {
    daemon.ledger().tiers_differ.as_ref().map(|_| {
        problem("nothing is changed", "tiers differ from the cluster's map", "see `rosterctl status`")
    })
}

fn problem(what: &str, why: impl Into<String>, next: impl Into<String>) -> Problem {
    Problem { subject: Subject::Machine, what: what.into(), why: why.into(), next: next.into() }
}

/// What a look at a provider gave.
pub(super) struct Looked {
    /// All that is to be done there.
    pub(super) plan: Plan,
    /// Who does it.
    pub(super) worker: Worker,
    /// What should be there, and what is.
    pub(super) sides: Sides,
    /// What an admin should know.
    pub(super) notices: Vec<Notice>,
    /// The cluster's list of people, where this provider has it; nothing inside where there is none.
    pub(super) list: Option<Option<String>>,
}

/// What should be at a provider, and what is.
pub(super) enum Sides {
    Kubernetes(Box<(ClusterDesired, ClusterObserved)>),
    Vault(Box<(VaultDesired, VaultObserved)>),
}

impl Sides {
    fn holders(&self) -> Option<BTreeSet<OsUser>> {
        match self {
            Sides::Kubernetes(sides) => revocation::holders_in_the_cluster(&sides.1, &sides.0.instance),
            Sides::Vault(sides) => revocation::holders_in_vault(&sides.1, &sides.0.instance),
        }
    }
}

/// What one person can reach there.
pub(crate) async fn access(
    daemon: &Daemon,
    provider: Provider,
    in_force: &InForce,
    user: &OsUser,
) -> Result<Place, Problem> {
    let Looked { sides, worker, .. } = look(daemon, provider, in_force).await?;
    worker.finish().await;
    let roster = &in_force.whole;
    Ok(match &sides {
        Sides::Kubernetes(sides) => access::in_the_cluster(user, roster, &sides.0, &sides.1),
        Sides::Vault(sides) => access::in_vault(user, roster, &sides.0, &sides.1),
    })
}

async fn look(daemon: &Daemon, provider: Provider, in_force: &InForce) -> Result<Looked, Problem> {
    match provider {
        Provider::Kubernetes => kubernetes::look(daemon, in_force).await,
        Provider::Vault => vault::look(daemon, in_force).await,
    }
}

/// The ids of the system user that speaks to providers.
fn account() -> Result<(u32, u32), Problem> {
    match nix::unistd::User::from_name(ACCOUNT) {
        Ok(Some(user)) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        _ => Err(problem(
            "nobody may speak to the provider",
            format!("there is no system user `{ACCOUNT}`"),
            "make it: systemd-sysusers rosterd.conf",
        )),
    }
}

fn limits(deadline_s: u64, parallel: usize) -> identity::Limits {
    identity::Limits { deadline: Duration::from_secs(deadline_s), memory_mib: MEMORY_MIB, parallel }
}

fn failed(what: &str, error: &WorkerError) -> Problem {
    problem(what, chain(error), error.next())
}

/// People who left the roster, whom the ledger knows. Whose account was removed keeps nothing anywhere, also where a
/// cut takes nothing.
fn left<'l>(ledger: &'l Ledger, in_force: &'l InForce) -> impl Iterator<Item = &'l OsUser> {
    let is_left =
        |user: &&OsUser| !in_force.whole.users.contains_key(*user) && !ledger.removed.contains_key(*user);
    ledger.known().into_iter().filter(is_left)
}

/// Brings a provider to what the roster says. Gives the subjects that it worked on.
async fn reconcile(
    daemon: &Rc<Daemon>,
    provider: Provider,
    in_force: &InForce,
    run: &mut Gathered<'_>,
) -> Result<BTreeSet<Subject>, Problem> {
    let phase = |text: &str| run.ask.tell(&Progress::Phase { text: text.into() });
    phase(&format!("looking at {provider}"));
    let Looked { plan: whole, mut worker, sides, notices, list } = look(daemon, provider, in_force).await?;
    if let Some(list) = &list {
        map::keep(daemon, list.as_deref())?;
    }
    let differs = list.flatten().and_then(|list| map::differs(in_force, &list));
    if let Some(problem) = differs.or_else(|| held(daemon)) {
        worker.finish().await;
        return Err(problem);
    }
    let scope = scope(daemon, provider, in_force, &whole, run.ask);
    let plan = whole.only(|subject| scope.contains(subject));
    run.problems.extend(plan.problems.iter().cloned());
    run.notices.extend(notices.into_iter().chain(plan.notices.iter().cloned()));
    let has_steps = !plan.steps.is_empty();
    // Before anything is given to whoever is back, so that no kill hides that they have it.
    let gone = daemon.ledger().providers.get(&provider).map(|state| state.gone.clone()).unwrap_or_default();
    let is_away = |user: &OsUser| !in_force.whole.users.contains_key(user);
    keep_gone(daemon, provider, gone.into_iter().filter(is_away).collect());
    run.holders = sides.holders();
    let others = lease::held_by_another(daemon, provider, &in_force.config, &mut worker, has_steps).await?;
    let mut record = |index: usize, result: StepResult, took: Duration| {
        let Some(step) = plan.steps.get(index) else { return };
        let record = StepRecord { step: step.clone(), result, took_ms: took.as_millis() as u64 };
        journal::step(&run.id, run.generation, &record);
        run.ask.tell(&Progress::Step(Box::new(record.clone())));
        run.steps.push(record);
    };
    match others {
        // It is that host's to change; here it is only told.
        Some(why) => {
            for index in 0..plan.steps.len() {
                record(index, StepResult::Skipped { why: why.clone() }, Duration::ZERO);
            }
        }
        None => {
            if !plan.steps.is_empty() {
                phase(&format!("applying {}", journal::count(plan.steps.len(), "step", "steps")));
            }
            worker.apply(&plan, record).await;
        }
    }
    worker.finish().await;
    Ok(scope)
}

/// Which subjects this run works on. Those that wait for their next try are left alone, unless somebody asks.
fn scope(
    daemon: &Daemon,
    provider: Provider,
    in_force: &InForce,
    plan: &Plan,
    ask: &Ask,
) -> BTreeSet<Subject> {
    let ledger = daemon.ledger();
    let now = Timestamp::now();
    let planned = plan.steps.iter().map(|step| step.subject.clone());
    let people = in_force.whole.users.keys().chain(ledger.known()).cloned().map(Subject::User);
    let all = planned.chain(people).chain([Subject::Machine]);
    let waits = |subject: &Subject| {
        let state = ledger.providers.get(&provider);
        state.and_then(|state| state.degraded.get(subject)).is_some_and(|degraded| degraded.next_try > now)
    };
    match (&ask.whom, ask.trigger) {
        (Whom::One(user), _) => BTreeSet::from([Subject::User(user.clone())]),
        (_, Trigger::Request | Trigger::Start | Trigger::Change) => all.collect(),
        (_, Trigger::Retry) => all.filter(|subject| !waits(subject)).collect(),
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
        let after = |failures| match failures {
            1 if is_torn(run, subject) => now,
            _ => now.checked_add(wait_after(failures)).unwrap_or(now),
        };
        let (since, failures, next_try) = match before {
            // As on the machine: a try before its time does not count.
            Some(before) if now < before.next_try => (before.since, before.failures, before.next_try),
            Some(before) => {
                let failures = before.failures.saturating_add(1);
                (before.since, failures, after(failures))
            }
            None => (now, 1, after(1)),
        };
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

/// Whether somebody may have lost a grant that was to be replaced. For them the next look, which finds what is missing, does
/// not wait at first.
fn is_torn(run: &Gathered<'_>, subject: &Subject) -> bool {
    run.steps.iter().any(|record| {
        let replaces = matches!(record.step.action, Action::Cluster(ClusterAction::Replace { .. }));
        let failed = matches!(record.result, StepResult::Failed { .. });
        replaces && failed && record.step.subject == *subject
    })
}

/// What a reconcile of a provider would do, for `rosterctl plan`. Changes nothing.
pub(crate) async fn preview(
    daemon: &Daemon,
    provider: Provider,
    user: Option<&OsUser>,
) -> Result<Plan, Problem> {
    let Some(in_force) = about_to_be_in_force(daemon) else {
        return Ok(Plan::default());
    };
    let Looked { mut plan, worker, notices, .. } = look(daemon, provider, &in_force).await?;
    worker.finish().await;
    plan.notices.extend(notices);
    Ok(match user {
        Some(user) => plan.only(|subject| *subject == Subject::User(user.clone())),
        None => plan,
    })
}
