//! One reconcile: accept, observe, plan, apply, record. Makes no choice of its own beyond the order of these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roster::config::Config;
use roster::derive;
use roster::desired::{Desired, HomeDesired};
use roster::ledger::{Applied, Degraded, Identity, Ledger, Reload, Waiting, WaitingCause};
use roster::name::OsUser;
use roster::observed::{HomeObserved, HostObserved};
use roster::plan::{self, Action, HomeAction, Notice, Plan, Problem, Step, Subject, UnitsPlan};
use roster::report::{Outcome, Progress, Run, RunSummary, StepRecord, StepResult, Trigger};
use roster::tier_check;

use crate::accept::{self, Decision, InForce};
use crate::daemon::{Ask, Daemon};
use crate::journal;
use crate::refresh;
use crate::remotes::{ACCOUNT, MIRRORS, Remotes};
use crate::services;
use crate::sources::{self, OnDisk};

/// The first wait before a degraded subject is tried again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What to do where there is no roster.
const NO_ROSTER: &str =
    "begin with /usr/share/doc/rosterd/roster.example.yaml, saved as /etc/rosterd/roster.yaml";

/// What a run gathers while it goes on.
pub(crate) struct Running<'a> {
    daemon: &'a Daemon,
    ask: &'a Ask,
    id: String,
    generation: u64,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) problems: Vec<Problem>,
    notices: Vec<Notice>,
}

impl Running<'_> {
    pub(crate) fn phase(&self, text: impl Into<String>) {
        let text = text.into();
        self.daemon.is_at(&text);
        self.ask.tell(&Progress::Phase { text });
    }

    pub(crate) fn record(&mut self, step: Step, result: StepResult, took: Duration) {
        let record = StepRecord { step, result, took_ms: took.as_millis() as u64 };
        journal::step(&self.id, self.generation, &record);
        self.daemon.is_alive();
        self.ask.tell(&Progress::Step(Box::new(record.clone())));
        self.steps.push(record);
    }

    pub(crate) fn take(&mut self, plan: &Plan) {
        self.problems.extend(plan.problems.iter().cloned());
        self.notices.extend(plan.notices.iter().cloned());
    }

    /// What is wrong with each subject, from the problems found and the steps that failed.
    fn troubles(&self) -> BTreeMap<Subject, Vec<Problem>> {
        let mut troubles: BTreeMap<Subject, Vec<Problem>> = BTreeMap::new();
        for problem in &self.problems {
            troubles.entry(problem.subject.clone()).or_default().push(problem.clone());
        }
        for record in &self.steps {
            if let StepResult::Failed { why, next } = &record.result {
                troubles.entry(record.step.subject.clone()).or_default().push(Problem {
                    subject: record.step.subject.clone(),
                    what: record.step.action.to_string(),
                    why: why.clone(),
                    next: next.clone(),
                });
            }
        }
        troubles
    }
}

/// Reconciles once. Never fails: what went wrong is in the record.
pub(crate) async fn reconcile(daemon: &Rc<Daemon>, ask: &Ask) -> Run {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let mut running = Running {
        daemon,
        ask,
        id: daemon.next_run_id(started),
        generation: daemon.ledger().generation,
        steps: Vec::new(),
        problems: Vec::new(),
        notices: Vec::new(),
    };
    let outcome = match daemon.ledger_trouble() {
        Some(problem) => {
            running.problems.push(problem);
            Outcome::Failed
        }
        None => steps(daemon, &mut running).await,
    };
    let run = Run {
        id: running.id,
        trigger: ask.trigger,
        generation: running.generation,
        started,
        took_ms: clock.elapsed().as_millis() as u64,
        outcome,
        waiting: daemon.ledger().waiting.as_ref().map(|waiting| waiting.cause.clone()),
        steps: running.steps,
        problems: running.problems,
        notices: running.notices,
    };
    journal::ended(&run);
    daemon.ended(RunSummary::from(&run));
    if let Err(error) = daemon.store.keep_run(&run) {
        daemon.ledger_failed(&error);
    }
    run
}

async fn steps(daemon: &Rc<Daemon>, running: &mut Running<'_>) -> Outcome {
    running.phase("reading roster and config");
    let before = running.generation;
    let Some(in_force) = accept_disk(daemon, running) else {
        return match daemon.ledger().waiting.as_ref().map(|waiting| &waiting.cause) {
            None => Outcome::Converged,
            Some(WaitingCause::Held { .. }) => Outcome::Held,
            Some(_) => Outcome::Failed,
        };
    };
    if tiers_differ(daemon, running, &in_force) {
        return Outcome::Failed;
    }
    running.phase("looking at the machine");
    let host = match plan_host(daemon, &in_force).await {
        Ok(host) => host,
        Err(problem) => {
            running.problems.push(problem);
            settle(daemon, running, &BTreeSet::from([Subject::Machine]));
            return Outcome::Failed;
        }
    };
    let accepted = running.generation != before;
    let scope = scope(&daemon.ledger(), &host.desired, running.ask, accepted, Timestamp::now());
    let host_plan = host.plan.clone().only(|subject| scope.contains(subject));
    running.take(&host_plan);
    let units = host.units.clone();
    let units = UnitsPlan {
        stop: units.stop.only(|subject| scope.contains(subject)),
        start: units.start.only(|subject| scope.contains(subject)),
        owned: units.owned,
    };
    if !reserve(daemon, &host, services::reload_due(&daemon.ledger(), &host_plan, &units)) {
        running.problems.extend(daemon.write_trouble());
        return Outcome::Failed;
    }
    apply_host(daemon, running, host_plan).await;
    services::stop(daemon, running, units.stop).await;
    // Whose account is not as it should be gets no service; a home that is not ready yet keeps nobody from theirs.
    let blocked = running.troubles().into_keys().filter(|subject| *subject != Subject::Machine).collect();
    apply_homes(daemon, running, &in_force.config, &host, &scope).await;
    services::start(daemon, running, units.start, &blocked).await;
    settle(daemon, running, &scope);
    let ledger = daemon.ledger();
    match ledger.waiting.as_ref().map(|waiting| &waiting.cause) {
        Some(WaitingCause::Held { .. }) => Outcome::Held,
        Some(_) => Outcome::Failed,
        None if ledger.degraded.is_empty() => Outcome::Converged,
        None => Outcome::Degraded,
    }
}

/// Takes over what is on disk, or tells why not. Gives what is in force afterwards.
fn accept_disk(daemon: &Rc<Daemon>, running: &mut Running<'_>) -> Option<Rc<InForce>> {
    let disk = daemon.read_disk();
    let before = daemon.in_force();
    let now = Timestamp::now();
    let decision = accept::decide(
        &daemon.ledger(),
        before.as_deref(),
        &daemon.config_path.display().to_string(),
        &disk,
        now,
    );
    daemon.considered(disk);
    match decision {
        Decision::Unchanged => {
            // A tier mismatch is settled by the comparison that follows.
            let settled = |waiting: &Waiting| !matches!(waiting.cause, WaitingCause::TierMismatch { .. });
            if daemon.ledger().waiting.as_ref().is_some_and(settled) {
                daemon.change_ledger(|ledger| ledger.waiting = None);
            }
        }
        Decision::NothingYet => {
            running.notices.push(Notice {
                subject: Subject::Machine,
                text: format!("there is no roster yet; {NO_ROSTER}"),
            });
        }
        Decision::Wait(waiting) => {
            if daemon.ledger().waiting.as_ref() != Some(&waiting) {
                journal::waiting(running.generation, &waiting.cause);
                daemon.change_ledger(|ledger| ledger.waiting = Some(waiting));
            }
        }
        Decision::Accept { new, roster, config, changes } => {
            let accepted = daemon.change_ledger(|ledger| {
                // Another configuration may be what mends anybody.
                let reconfigured = ledger.applied.as_ref().is_none_or(|applied| applied.config != config);
                if reconfigured {
                    ledger.degraded.values_mut().for_each(|degraded| degraded.next_try = now);
                }
                ledger.generation += 1;
                ledger.applied = Some(Applied { roster, config, since: now });
                ledger.waiting = None;
                // Who changed is tried at once, whatever their back-off says.
                for change in &changes {
                    if let Some(degraded) = ledger.degraded.get_mut(&Subject::User(change.user.clone())) {
                        degraded.next_try = now;
                    }
                }
            });
            if accepted {
                running.generation = daemon.ledger().generation;
                journal::accepted(running.generation, &changes);
                daemon.put_in_force(*new);
            }
        }
    }
    daemon.in_force()
}

/// Compares the tiers with the cluster's map; a difference stops the run before any change.
fn tiers_differ(daemon: &Rc<Daemon>, running: &mut Running<'_>, in_force: &InForce) -> bool {
    let told = |text: String| Notice { subject: Subject::Machine, text };
    let Some(path) = &in_force.config.tier_check.k8s_users else { return false };
    let compared = sources::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| tier_check::compare(&in_force.roster, &bytes).map_err(|error| error.to_string()));
    match compared {
        Err(why) => {
            running.notices.push(told(format!("the tiers are not compared with the cluster's map: {why}")));
            false
        }
        Ok(check) if check.differences.is_empty() => {
            running.notices.extend(check.warnings.iter().map(|warning| told(warning.to_string())));
            if matches!(
                daemon.ledger().waiting.as_ref().map(|w| &w.cause),
                Some(WaitingCause::TierMismatch { .. })
            ) {
                daemon.change_ledger(|ledger| ledger.waiting = None);
            }
            false
        }
        Ok(check) => {
            let differences = check.differences.iter().map(ToString::to_string).collect();
            let disk = daemon.read_disk();
            let cause = WaitingCause::TierMismatch { differences };
            let waiting = accept::waiting(&daemon.ledger(), &disk, cause, Timestamp::now());
            if daemon.ledger().waiting.as_ref() != Some(&waiting) {
                journal::waiting(running.generation, &waiting.cause);
                daemon.change_ledger(|ledger| ledger.waiting = Some(waiting));
            }
            true
        }
    }
}

/// The machine as it is, what should be on it, and the steps between.
pub(crate) struct HostWork {
    pub(crate) desired: Desired,
    pub(crate) observed: HostObserved,
    pub(crate) plan: Plan,
    pub(crate) units: UnitsPlan,
    pub(crate) identities: BTreeMap<OsUser, Identity>,
}

/// Observes the machine and plans its steps. Changes nothing.
pub(crate) async fn plan_host(daemon: &Daemon, in_force: &Rc<InForce>) -> Result<HostWork, Problem> {
    let problem = |what: &str, why: String, next: &str| Problem {
        subject: Subject::Machine,
        what: what.into(),
        why,
        next: next.into(),
    };
    let (roster, config) = (in_force.roster.clone(), in_force.config.clone());
    let observed = tokio::task::spawn_blocking(move || host::observe(&roster, &config))
        .await
        .map_err(|error| problem("the machine could not be looked at", error.to_string(), "see the journal"))?
        .map_err(|error| {
            problem("the machine could not be looked at", chain(&error), "mend it; the next run tries again")
        })?;
    let ledger = daemon.ledger();
    let mut ports = ledger.ports.clone();
    let (unknown, told) = derive::adopt_ports(&mut ports, &in_force.roster, &in_force.config, &observed);
    let desired = derive::derive(&in_force.roster, &in_force.config, &ports, &unknown, &observed.shells)
        .map_err(|error| {
            problem("no desired state can be derived", chain(&error), "change the base port in config.toml")
        })?;
    let host = plan::host(&desired, &in_force.config, &ledger, &observed);
    let mut plan = host.plan;
    plan.notices.extend(told);
    let units = services::plan(&desired, &ledger, &observed).await;
    Ok(HostWork { desired, observed, plan, units, identities: host.identities })
}

/// Which subjects this run works on. A change of the roster does not wake those that wait for their next try, but
/// always the machine: its maps must follow, whatever else is wrong with it.
fn scope(ledger: &Ledger, desired: &Desired, ask: &Ask, accepted: bool, now: Timestamp) -> BTreeSet<Subject> {
    let users = desired.accounts.keys().chain(ledger.known()).cloned().map(Subject::User);
    let all = users.chain([Subject::Machine]);
    let waits =
        |subject: &Subject| ledger.degraded.get(subject).is_some_and(|degraded| degraded.next_try > now);
    let waits = |subject: &Subject| match (subject, ask.trigger) {
        (Subject::Machine, Trigger::Change) => false,
        _ => waits(subject),
    };
    match (&ask.user, ask.trigger) {
        // What was taken over on the way is everybody's: nothing would look at it again before the hourly run.
        (Some(_), _) if accepted => all.collect(),
        (Some(user), _) => all.filter(|subject| *subject == Subject::User(user.clone())).collect(),
        (None, Trigger::Request | Trigger::Start) => all.collect(),
        (None, Trigger::Change | Trigger::Retry) => all.filter(|subject| !waits(subject)).collect(),
    }
}

/// Writes ids, ports, units and the reload that is due to the ledger before anything uses them, so that a kill can
/// neither give them out twice nor lose them.
fn reserve(daemon: &Daemon, host: &HostWork, reload: Reload) -> bool {
    let new = {
        let ledger = daemon.ledger();
        ledger.ports != host.desired.ports
            || ledger.units != host.units.owned
            || ledger.reload != reload
            || host.identities.iter().any(|(user, ids)| ledger.identities.get(user) != Some(ids))
    };
    !new || daemon.change_ledger(|ledger| {
        ledger.ports = host.desired.ports.clone();
        ledger.units = host.units.owned.clone();
        ledger.reload = reload;
        ledger.identities.extend(host.identities.iter().map(|(user, ids)| (user.clone(), ids.clone())));
    })
}

/// Applies the steps of the machine in a thread of their own, in the order of the plan.
async fn apply_host(daemon: &Rc<Daemon>, running: &mut Running<'_>, plan: Plan) {
    if plan.steps.is_empty() {
        return;
    }
    running.phase(format!("applying {}", journal::count(plan.steps.len(), "step", "steps")));
    let now = Timestamp::now();
    for step in &plan.steps {
        let Subject::User(user) = &step.subject else { continue };
        let kept = match step.action {
            Action::Cut => daemon.change_ledger(|ledger| {
                ledger.cut.insert(user.clone(), now);
            }),
            Action::Return => daemon.change_ledger(|ledger| {
                ledger.cut.remove(user);
            }),
            _ => continue,
        };
        let result = if kept { StepResult::Done } else { ledger_failed() };
        running.record(step.clone(), result, Duration::ZERO);
    }
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let stop = Arc::clone(&daemon.stop);
    let work = plan.clone();
    let thread = tokio::task::spawn_blocking(move || {
        host::apply(&work, &stop, &mut |index, result, took| drop(tell.send((index, result, took))));
    });
    while let Some((index, result, took)) = told.recv().await {
        if let Some(step) = plan.steps.get(index) {
            running.record(step.clone(), result, took);
        }
    }
    if let Err(error) = thread.await {
        running.problems.push(Problem {
            subject: Subject::Machine,
            what: "the steps of the machine ended early".into(),
            why: error.to_string(),
            next: "this is a defect of rosterd; the next run tries again".into(),
        });
    }
}

fn ledger_failed() -> StepResult {
    StepResult::Failed { why: "the ledger cannot be written".into(), next: "see /var/lib/rosterd".into() }
}

/// Works in the homes, several at a time, each in a worker of its own.
async fn apply_homes(
    daemon: &Rc<Daemon>,
    running: &mut Running<'_>,
    config: &Config,
    host: &HostWork,
    scope: &BTreeSet<Subject>,
) {
    let mut homes = Vec::new();
    for (user, account) in &host.desired.accounts {
        if account.home_content.is_empty() || !scope.contains(&Subject::User(user.clone())) {
            continue;
        }
        if let Some(person) = person(user, host, running) {
            homes.push((person, account.home_content.clone()));
        }
    }
    if homes.is_empty() || daemon.is_stopping() {
        return;
    }
    running.phase(format!("looking at {}", journal::count(homes.len(), "home", "homes")));
    let limits = limits(config);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let parallel = Rc::new(tokio::sync::Semaphore::new(config.worker.parallel.max(1)));
    let account = prepare_mirrors(host, running);
    let urls = plan::refresh::to_ask(homes.iter().map(|(_, desired)| desired));
    let how = (limits, config.worker.parallel);
    let remotes = Rc::new(Remotes::ask(daemon, urls, account, how, true, tell.clone()));
    let mut workers = tokio::task::JoinSet::new();
    let shared = Rc::clone(daemon);
    workers.spawn_local(async move {
        let mut each = tokio::task::JoinSet::new();
        for (person, desired) in homes {
            let (tell, parallel, daemon) = (tell.clone(), Rc::clone(&parallel), Rc::clone(&shared));
            let remotes = Rc::clone(&remotes);
            each.spawn_local(async move {
                // Before its turn: a remote that hangs keeps only those waiting who need it.
                let known = remotes.of(&desired).await;
                let _turn = parallel.acquire().await;
                one_home(&daemon, &person, &desired, limits, (&remotes, known), &tell).await;
            });
        }
        while each.join_next().await.is_some() {}
        remotes.check_failed().await;
    });
    loop {
        tokio::select! {
            said = told.recv() => match said {
                Some(Said::Plan(plan)) => running.take(&plan),
                Some(Said::Step(step, result, took)) => running.record(*step, result, took),
                Some(Said::Problem(problem)) => running.problems.push(*problem),
                None => break,
            },
            () = daemon.stopped() => {
                // A worker that is killed loses nothing: a clone counts from its last rename on.
                workers.shutdown().await;
                break;
            }
        }
    }
}

fn limits(config: &Config) -> home::Limits {
    home::Limits {
        deadline: Duration::from_secs(config.worker.deadline_s),
        memory_mib: config.worker.memory_mib,
        max_clone_mib: config.worker.max_clone_mib,
        mirrors: MIRRORS,
    }
}

/// The ids of the system user that asks remotes, with a folder for the mirrors that is its own. Without either,
/// each person asks.
fn prepare_mirrors(host: &HostWork, running: &mut Running<'_>) -> Option<(u32, u32)> {
    let account = asker(&host.observed)?;
    if let Err(error) = host::mirrors_folder(Path::new(MIRRORS), account) {
        running.problems.push(Problem {
            subject: Subject::Machine,
            what: format!("the folder of the mirrors {MIRRORS} cannot be made"),
            why: error.to_string(),
            next: "see to it that it can be; until then each person asks the remotes".into(),
        });
        return None;
    }
    Some(account)
}

fn asker(observed: &HostObserved) -> Option<(u32, u32)> {
    observed.accounts.get(ACCOUNT).map(|entry| (entry.uid, entry.gid))
}

/// Who a worker becomes: an account that exists now, with the ids that the ledger reserved.
fn person(user: &OsUser, host: &HostWork, running: &Running<'_>) -> Option<home::Person> {
    if let Some(entry) = host.observed.accounts.get(user.as_str()) {
        let refused = running.problems.iter().any(|problem| problem.subject == Subject::User(user.clone()));
        return (!refused).then(|| home::Person {
            user: user.clone(),
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.clone(),
        });
    }
    running.steps.iter().find_map(|record| match (&record.step.action, &record.result) {
        (Action::CreateAccount(new), StepResult::Done) if new.user == *user => Some(home::Person {
            user: user.clone(),
            uid: new.uid,
            gid: new.gid,
            groups: Vec::new(),
            home: new.home.path.clone(),
        }),
        _ => None,
    })
}

pub(crate) enum Said {
    Plan(Plan),
    Step(Box<Step>, StepResult, Duration),
    Problem(Box<Problem>),
}

/// Observe, plan and apply in one home. What goes wrong is that subject's alone (invariant 4).
async fn one_home(
    daemon: &Daemon,
    person: &home::Person,
    desired: &HomeDesired,
    limits: home::Limits,
    (remotes, known): (&Remotes, roster::remote::Remotes),
    tell: &tokio::sync::mpsc::UnboundedSender<Said>,
) {
    let subject = Subject::User(person.user.clone());
    let say = |said| drop(tell.send(said));
    let failed = |what: &str, error: &home::WorkerError| {
        let (why, next) = (chain(error), error.next());
        Said::Problem(Box::new(Problem { subject: subject.clone(), what: what.into(), why, next }))
    };
    let look = plan::refresh::look_at(desired, &known);
    let started = home::Worker::start_looking(&daemon.program, person, limits, desired, look).await;
    let (mut worker, mut observed, mut states) = match started {
        Ok(started) => started,
        Err(error) => return say(failed("the home could not be looked at", &error)),
    };
    let plan = plan::home(&person.user, desired, &observed);
    say(Said::Plan(Plan { steps: Vec::new(), ..plan.clone() }));
    worker.prepare(&plan).await;
    let mut done = vec![false; plan.steps.len()];
    for (index, step) in plan.steps.into_iter().enumerate() {
        let clock = Instant::now();
        let missing = step.needs.iter().any(|need| !done.get(*need).copied().unwrap_or(false));
        let result = match &step.action {
            Action::Home(action) if !missing && !daemon.is_stopping() => {
                let way = plan::refresh::way(action, &known);
                let (result, without_mirror) = worker.apply_from(action, &way).await;
                if let (Some(why), HomeAction::Clone(clone)) = (without_mirror, action) {
                    remotes.mirror_failed(&clone.url, why);
                }
                result
            }
            _ => StepResult::Skipped { why: "a step that it needs was not applied".into() },
        };
        done[index] = result == StepResult::Done;
        say(Said::Step(Box::new(step), result, clock.elapsed()));
    }
    if done.contains(&true) {
        let look = plan::refresh::look_at(desired, &known);
        let again = async { Ok((worker.observe(desired).await?, worker.look(look).await?)) };
        (observed, states) = match again.await {
            Ok(seen) => seen,
            Err(error) => return say(failed("the home could not be looked at", &error)),
        };
    }
    let states = plan::refresh::ours(desired, &observed, states);
    let home = refresh::Home { daemon, user: &person.user, desired, say: &say };
    if let Err(error) = refresh::refresh(&home, &mut worker, states, known).await {
        say(failed("the clones could not be refreshed", &error));
    }
    worker.finish().await;
}

/// Brings the ledger's list of degraded subjects up to date, and tells what is new.
fn settle(daemon: &Rc<Daemon>, running: &mut Running<'_>, scope: &BTreeSet<Subject>) {
    let mut troubles = running.troubles();
    let now = Timestamp::now();
    let mut ledger = Ledger::clone(&daemon.ledger());
    for subject in scope {
        match (troubles.remove(subject), ledger.degraded.get_mut(subject)) {
            (None, None) => {}
            // Told to stop, not everything was tried: nothing is concluded from that.
            (None, Some(_)) if daemon.is_stopping() => {}
            (None, Some(_)) => {
                journal::recovered(&running.id, running.generation, subject);
                ledger.degraded.remove(subject);
            }
            (Some(problems), before) => {
                let (since, failures, known) = match before {
                    Some(before) => {
                        (before.since, before.failures.saturating_add(1), before.problems.clone())
                    }
                    None => (now, 1, Vec::new()),
                };
                for problem in problems.iter().filter(|problem| !known.contains(problem)) {
                    // A failed step has told it already.
                    if running.problems.contains(problem) {
                        journal::problem(&running.id, running.generation, problem);
                    }
                }
                let next_try = now.checked_add(wait_after(failures)).unwrap_or(now);
                ledger.degraded.insert(subject.clone(), Degraded { since, failures, next_try, problems });
            }
        }
    }
    let people: BTreeSet<_> =
        daemon.in_force().map(|f| f.roster.users.keys().cloned().collect()).unwrap_or_default();
    ledger.degraded.retain(|subject, _| match subject {
        Subject::Machine => true,
        Subject::User(user) => people.contains(user),
    });
    for notice in &running.notices {
        if !ledger.told.contains(notice) {
            journal::notice(&running.id, running.generation, notice);
        }
    }
    ledger.told.retain(|notice| !scope.contains(&notice.subject));
    ledger.told.extend(running.notices.iter().cloned());
    let done = running.steps.iter().filter(|record| record.result == StepResult::Done);
    done.for_each(|record| ledger.applied(&record.step.action));
    ledger.last_run = Some(running.id.clone());
    daemon.change_ledger(|old| *old = ledger);
}

fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What a reconcile would do, for `rosterctl plan`. Changes nothing.
pub(crate) async fn preview(daemon: &Rc<Daemon>, user: Option<&OsUser>) -> Result<Plan, Problem> {
    let disk = daemon.read_disk();
    preview_of(daemon, &disk, user).await
}

async fn preview_of(daemon: &Rc<Daemon>, disk: &OnDisk, user: Option<&OsUser>) -> Result<Plan, Problem> {
    let before = daemon.in_force();
    let name = daemon.config_path.display().to_string();
    let decision = accept::decide(&daemon.ledger(), before.as_deref(), &name, disk, Timestamp::now());
    let in_force = match decision {
        Decision::Accept { new, .. } => Some(Rc::new(*new)),
        _ => before,
    };
    let Some(in_force) = in_force else { return Ok(Plan::default()) };
    let host = plan_host(daemon, &in_force).await?;
    let mut plan = host.plan.clone();
    let reload = services::reload_due(&daemon.ledger(), &plan, &host.units);
    plan.append(host.units.stop.clone());
    let limits = limits(&in_force.config);
    let wanted = |name: &OsUser| user.is_none_or(|user| user == name);
    let homes = host
        .desired
        .accounts
        .iter()
        .filter(|(name, account)| !account.home_content.is_empty() && wanted(name));
    let urls = plan::refresh::to_ask(homes.clone().map(|(_, account)| &account.home_content));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let how = (limits, in_force.config.worker.parallel);
    let remotes = Remotes::ask(daemon, urls, asker(&host.observed), how, false, tell);
    let mut in_homes = Plan::default();
    for (name, account) in homes {
        let subject = Subject::User(name.clone());
        if plan.problems.iter().any(|problem| problem.subject == subject) {
            continue;
        }
        let makes_home =
            |step: &Step| step.subject == subject && matches!(step.action, Action::CreateHome(_));
        let is_new = plan.steps.iter().any(makes_home);
        let looked = match host.observed.accounts.get(name.as_str()).filter(|_| !is_new) {
            None => {
                let observed = HomeObserved::of_a_new_home(&account.home_content);
                Ok(plan::home(name, &account.home_content, &observed))
            }
            Some(entry) => {
                let person = home::Person {
                    user: name.clone(),
                    uid: entry.uid,
                    gid: entry.gid,
                    groups: Vec::new(),
                    home: entry.home.clone(),
                };
                let known = remotes.of(&account.home_content).await;
                look(daemon, &person, &account.home_content, limits, known).await
            }
        };
        match looked {
            Ok(looked) => in_homes.append(looked),
            Err(error) => plan.problems.push(Problem {
                subject,
                what: "the home could not be looked at".into(),
                why: chain(&error),
                next: error.next(),
            }),
        }
    }
    drop(remotes);
    while let Ok(said) = told.try_recv() {
        match said {
            Said::Plan(more) => plan.append(more),
            Said::Problem(problem) => plan.problems.push(*problem),
            Said::Step(..) => {}
        }
    }
    plan.append(in_homes);
    // As in a run: whose account is not as it should be gets no service.
    let is_blocked = |subject: &Subject| host.plan.problems.iter().any(|problem| problem.subject == *subject);
    plan.append(
        host.units.start.clone().only(|subject| *subject == Subject::Machine || !is_blocked(subject)),
    );
    plan.append(plan::reload(reload));
    Ok(match user {
        Some(user) => plan.only(|subject| *subject == Subject::User(user.clone())),
        None => plan,
    })
}

async fn look(
    daemon: &Daemon,
    person: &home::Person,
    desired: &HomeDesired,
    limits: home::Limits,
    known: roster::remote::Remotes,
) -> Result<Plan, home::WorkerError> {
    let look = plan::refresh::look_at(desired, &known);
    let (mut worker, observed, states) =
        home::Worker::start_looking(&daemon.program, person, limits, desired, look).await?;
    let mut plan = plan::home(&person.user, desired, &observed);
    let home = refresh::Home { daemon, user: &person.user, desired, say: &drop };
    plan.append(
        refresh::preview(&home, &mut worker, plan::refresh::ours(desired, &observed, states), known).await?,
    );
    worker.finish().await;
    Ok(plan)
}
