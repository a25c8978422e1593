//! One reconcile: accept, observe, plan, apply, record. Makes no choice of its own beyond the order of these.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roster::derive;
use roster::desired::Desired;
use roster::ledger::{Applied, Identity, Ledger, Reload, Waiting, WaitingCause, Withheld};
use roster::name::OsUser;
use roster::observed::HostObserved;
use roster::plan::{self, Action, Notice, Plan, Problem, Subject, UnitsPlan};
use roster::report::{Outcome, Run, StepResult, Trigger};
use roster::tier_check;

use crate::accept::{self, Decision, InForce};
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::homes::Homes;
use crate::journal;
use crate::providers;
use crate::running::{Running, due, outcome_of, waits_for};
use crate::services;
use crate::sources;

/// What to do where there is no roster.
const NO_ROSTER: &str =
    "begin with /usr/share/doc/rosterd/roster.example.yaml, saved as /etc/rosterd/roster.yaml";

/// Reconciles once. Never fails: what went wrong is in the record.
pub(crate) async fn reconcile(daemon: &Rc<Daemon>, ask: &Ask) -> Run {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let mut running = Running::new(daemon, ask, started);
    let mut unfinished = BTreeSet::new();
    let failed_saves = daemon.failed_saves();
    let outcome = match daemon.ledger_trouble() {
        Some(problem) => {
            // Seen, so that who waits is told why nothing is done about it.
            daemon.considered(daemon.read_disk(), false);
            running.problems.push(problem);
            Outcome::Failed
        }
        None => {
            let mut homes = daemon.take_homes();
            let outcome = match prepare(daemon, &mut running, &homes).await {
                Ok(prepared) => carry_out(daemon, &mut running, prepared, &mut homes, &mut unfinished).await,
                Err(outcome) => {
                    // They may have worked towards something else than what is in force by now, so that only failure
                    // is concluded.
                    let done = homes.see_through(daemon, &mut running).await;
                    let done = done.into_iter().map(Subject::User).collect();
                    running.settle_failed(&done, std::iter::empty());
                    outcome
                }
            };
            homes.keep(&running);
            daemon.leave_homes(homes);
            outcome
        }
    };
    let outcome = match daemon.write_trouble() {
        // Without a ledger that can be written nothing is as it should be, whatever was done.
        Some(trouble) if daemon.failed_saves() != failed_saves => {
            running.problems.extend(trouble.problems);
            Outcome::Failed
        }
        _ => outcome,
    };
    let mut run = Run {
        id: running.id,
        trigger: ask.trigger,
        generation: running.generation,
        commit: daemon.commit(),
        started,
        took_ms: clock.elapsed().as_millis() as u64,
        outcome,
        waiting: waits_for(&daemon.ledger()).map(|waiting| waiting.cause.clone()),
        steps: running.steps,
        problems: running.problems,
        notices: running.notices,
        unfinished,
    };
    if !daemon.keep(&run) {
        run.outcome = Outcome::Failed;
        run.problems.extend(daemon.write_trouble().into_iter().flat_map(|trouble| trouble.problems));
    }
    if daemon.failed_saves() == failed_saves {
        daemon.is_writable();
    }
    journal::ended(&run);
    run
}

/// What a run is going to do.
struct Prepared {
    in_force: Rc<InForce>,
    host: HostWork,
    plan: Plan,
    units: UnitsPlan,
    scope: BTreeSet<Subject>,
}

/// Everything before the first change; or how the run ends when there is to be none.
async fn prepare(daemon: &Rc<Daemon>, running: &mut Running<'_>, homes: &Homes) -> Result<Prepared, Outcome> {
    running.phase("reading roster and config");
    let before = running.generation;
    if !accept_disk(daemon, running) {
        return Err(Outcome::Failed);
    }
    let Some(in_force) = daemon.in_force() else { return Err(outcome_of(&daemon.ledger(), |_| true)) };
    if in_force.roster.users.is_empty() && in_force.elsewhere() > 0 {
        running.notices.push(nobody_here(&daemon.ledger(), in_force.elsewhere()));
    }
    if tiers_differ(daemon, running, &in_force) {
        return Err(Outcome::Failed);
    }
    daemon.providers.ask(running.ask);
    running.phase("looking at the machine");
    let host = match plan_host(daemon, &in_force).await {
        Ok(host) => host,
        Err(problem) => {
            running.problems.push(problem);
            running.settle(&BTreeSet::from([Subject::Machine]));
            put_off(daemon);
            return Err(Outcome::Failed);
        }
    };
    let accepted = running.generation != before;
    let in_hand = homes.in_hand().cloned().collect();
    let scope = scope(&daemon.ledger(), &host.desired, running.ask, accepted, &in_hand, Timestamp::now());
    let plan = host.plan.clone().only(|subject| scope.contains(subject));
    running.take(&plan);
    let units = UnitsPlan {
        stop: host.units.stop.clone().only(|subject| scope.contains(subject)),
        start: host.units.start.clone().only(|subject| scope.contains(subject)),
        owned: host.units.owned.clone(),
    };
    if !reserve(daemon, &host, services::reload_due(&daemon.ledger(), &plan, &units)) {
        return Err(Outcome::Failed);
    }
    Ok(Prepared { in_force, host, plan, units, scope })
}

/// Applies the steps and says how it went. Whose homes are left to the next run is put into `unfinished`.
async fn carry_out(
    daemon: &Rc<Daemon>,
    running: &mut Running<'_>,
    prepared: Prepared,
    homes: &mut Homes,
    unfinished: &mut BTreeSet<OsUser>,
) -> Outcome {
    let Prepared { in_force, host, plan, units, mut scope } = prepared;
    apply_host(daemon, running, plan).await;
    services::stop(daemon, running, units.stop).await;
    // Whose account is not as it should be gets no service; a home that is not ready yet keeps nobody from theirs.
    let blocked = running.troubles().into_keys().filter(|subject| *subject != Subject::Machine).collect();
    let done = homes.work(daemon, running, &in_force.config, &host, &scope).await;
    services::start(daemon, running, units.start, &blocked).await;
    // Homes of an earlier run that were done meanwhile count as well; those still in hand do not.
    if daemon.is_stopping() {
        let has_content = |user: &&OsUser| {
            host.desired.accounts.get(*user).is_some_and(|account| !account.home_content.is_empty())
        };
        let in_scope = scope.iter().filter_map(|subject| match subject {
            Subject::User(user) => Some(user),
            Subject::Machine => None,
        });
        unfinished.extend(in_scope.filter(has_content).filter(|user| !done.contains(user)).cloned());
    }
    scope.extend(done.into_iter().map(Subject::User));
    unfinished
        .extend(homes.in_hand().filter(|user| scope.contains(&Subject::User((*user).clone()))).cloned());
    scope.retain(|subject| !matches!(subject, Subject::User(user) if unfinished.contains(user)));
    if running.troubles().contains_key(&Subject::Machine) {
        // A mirror's, perhaps, which an earlier run asked for.
        scope.insert(Subject::Machine);
    }
    if !unfinished.is_empty() && !running.troubles().contains_key(&Subject::Machine) {
        // What those homes still need, a mirror for one, may be in trouble: nothing is concluded.
        scope.remove(&Subject::Machine);
    }
    running.settle(&scope);
    let ledger = daemon.ledger();
    // Somebody else's failure is not this person's.
    let concerns = |subject: &Subject| match running.ask.whom {
        Whom::One(_) => scope.contains(subject),
        Whom::Everybody | Whom::InHand => true,
    };
    match outcome_of(&ledger, concerns) {
        Outcome::Converged if !unfinished.is_empty() => Outcome::Degraded,
        outcome => outcome,
    }
}

/// Nobody is due before the machine that could not be looked at: what stopped this run would stop the next one, too.
fn put_off(daemon: &Daemon) {
    daemon.change_ledger(|ledger| {
        let Some(machine) = ledger.degraded.get(&Subject::Machine).map(|machine| machine.next_try) else {
            return;
        };
        for degraded in ledger.degraded.values_mut() {
            degraded.next_try = degraded.next_try.max(machine);
        }
    });
}

/// Takes over what is on disk, or tells why not. False when the ledger could not be written: then nothing has been
/// decided, and the same content is looked at again.
fn accept_disk(daemon: &Rc<Daemon>, running: &mut Running<'_>) -> bool {
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
    let kept = match decision {
        Decision::Unchanged => daemon.change_ledger(|ledger| ledger.waiting = None),
        Decision::NothingYet => {
            running.notices.push(Notice {
                subject: Subject::Machine,
                text: format!("there is no roster yet; {NO_ROSTER}"),
            });
            true
        }
        Decision::Wait(waiting) => {
            if daemon.ledger().waiting.as_ref() != Some(&waiting) {
                journal::waiting(running.generation, &waiting.cause);
            }
            daemon.change_ledger(|ledger| ledger.waiting = Some(waiting))
        }
        Decision::Accept { new, roster, config, host, changes } => {
            let accepted = daemon.change_ledger(|ledger| {
                // Another configuration may be what mends anybody.
                let reconfigured = ledger.applied.as_ref().is_none_or(|applied| applied.config != config);
                if reconfigured {
                    ledger.degraded.values_mut().for_each(|degraded| degraded.next_try = now);
                }
                ledger.generation += 1;
                ledger.applied = Some(Applied { roster, config, host: Some(host), since: now });
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
                journal::accepted(running.generation, daemon.commit().as_deref(), &changes);
                daemon.put_in_force(*new);
            }
            accepted
        }
    };
    daemon.considered(disk, kept);
    kept
}

/// A misspelt host looks like this.
fn nobody_here(ledger: &Ledger, elsewhere: usize) -> Notice {
    let host = ledger.applied.as_ref().and_then(|applied| applied.host.as_ref());
    let name = host.map_or_else(String::new, |host| format!(", {host}"));
    let people = journal::count(elsewhere, "person", "people");
    Notice {
        subject: Subject::Machine,
        text: format!(
            "the roster has {people}, and nobody on this machine{name}: `hosts` names other machines; \
             `host` in config.toml is the name that it is compared with"
        ),
    }
}

/// Compares the tiers with the cluster's map; a difference stops the run before any change.
fn tiers_differ(daemon: &Rc<Daemon>, running: &mut Running<'_>, in_force: &InForce) -> bool {
    let told = |text: String| Notice { subject: Subject::Machine, text };
    let Some(path) = providers::map::to_compare(daemon, &in_force.config) else {
        daemon.change_ledger(|ledger| ledger.tiers_differ = None);
        return false;
    };
    let compared = sources::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| tier_check::compare(&in_force.roster, &bytes).map_err(|error| error.to_string()));
    match compared {
        Err(why) => {
            running.notices.push(told(format!("the tiers are not compared with the cluster's map: {why}")));
            daemon.change_ledger(|ledger| ledger.tiers_differ = None);
            false
        }
        Ok(check) if check.differences.is_empty() => {
            running.notices.extend(check.warnings.iter().map(|warning| told(warning.to_string())));
            daemon.change_ledger(|ledger| ledger.tiers_differ = None);
            false
        }
        Ok(check) => {
            let differences = check.differences.iter().map(ToString::to_string).collect();
            let cause = WaitingCause::TierMismatch { differences };
            let ledger = daemon.ledger();
            let before = ledger.tiers_differ.as_ref();
            if before.map(|before| &before.cause) != Some(&cause) {
                journal::waiting(running.generation, &cause);
            }
            let since = before.map_or_else(Timestamp::now, |before| before.since);
            let waiting = Waiting { since, cause, fingerprint: String::new() };
            daemon.change_ledger(|ledger| ledger.tiers_differ = Some(waiting));
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
    pub(crate) withheld: BTreeMap<OsUser, Withheld>,
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
    let mut desired = derive::derive(&in_force.roster, &in_force.config, &ports, &unknown, &observed.shells)
        .map_err(|error| {
            problem("no desired state can be derived", chain(&error), "change the base port in config.toml")
        })?;
    let files = roster::files::add(&mut desired, &in_force.roster, &in_force.config, &observed.sources);
    let host = plan::host(&desired, &in_force.config, &ledger, &observed);
    let mut plan = host.plan;
    plan.append(files);
    plan.notices.extend(told);
    let not_applied = in_force.roster.not_applied().into_iter();
    plan.notices.extend(not_applied.map(|text| Notice { subject: Subject::Machine, text: text.into() }));
    let units = services::plan(&desired, &ledger, &observed).await.for_ready(&plan);
    Ok(HostWork { desired, observed, plan, units, identities: host.identities, withheld: host.withheld })
}

/// Which subjects this run works on. A change of the roster does not wake those that wait for their next try, but
/// always the machine: its maps must follow, whatever else is wrong with it.
fn scope(
    ledger: &Ledger,
    desired: &Desired,
    ask: &Ask,
    accepted: bool,
    in_hand: &BTreeSet<OsUser>,
    now: Timestamp,
) -> BTreeSet<Subject> {
    let users = desired.accounts.keys().chain(ledger.known()).cloned().map(Subject::User);
    let all = users.chain([Subject::Machine]);
    let waits =
        |subject: &Subject| ledger.degraded.get(subject).is_some_and(|degraded| due(degraded, now) > now);
    let waits = |subject: &Subject| match (subject, ask.trigger) {
        (Subject::Machine, Trigger::Change) => false,
        _ => waits(subject),
    };
    match (&ask.whom, ask.trigger) {
        // What was taken over on the way is everybody's: nothing would look at it again before the hourly run.
        (Whom::One(_) | Whom::InHand, _) if accepted => all.collect(),
        (Whom::One(user), _) => all.filter(|subject| *subject == Subject::User(user.clone())).collect(),
        (Whom::InHand, _) => in_hand.iter().cloned().map(Subject::User).collect(),
        (Whom::Everybody, Trigger::Request | Trigger::Start) => all.collect(),
        (Whom::Everybody, Trigger::Change | Trigger::Retry) => {
            all.filter(|subject| !waits(subject)).collect()
        }
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
            || ledger.withheld != host.withheld
            || host.identities.iter().any(|(user, ids)| ledger.identities.get(user) != Some(ids))
    };
    !new || daemon.change_ledger(|ledger| {
        ledger.ports = host.desired.ports.clone();
        ledger.units = host.units.owned.clone();
        ledger.reload = reload;
        ledger.withheld = host.withheld.clone();
        ledger.identities.extend(host.identities.iter().map(|(user, ids)| (user.clone(), ids.clone())));
    })
}

/// Applies the steps of the machine in a thread of their own, in the order of the plan.
async fn apply_host(daemon: &Rc<Daemon>, running: &mut Running<'_>, plan: Plan) {
    if plan.steps.is_empty() {
        return;
    }
    running.phase(format!("applying {}", journal::count(plan.steps.len(), "step", "steps")));
    // First, so that a kill cannot make an edge be crossed twice (invariant 6), and in one write for all.
    let edges = plan.steps.iter().filter(|step| matches!(step.action, Action::Cut | Action::Return));
    let now = Timestamp::now();
    let kept = daemon.change_ledger(|ledger| {
        for step in edges.clone() {
            match (&step.subject, &step.action) {
                (Subject::User(user), Action::Cut) => drop(ledger.cut.insert(user.clone(), now)),
                (Subject::User(user), _) => drop(ledger.cut.remove(user)),
                (Subject::Machine, _) => {}
            }
        }
    });
    for step in edges {
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
