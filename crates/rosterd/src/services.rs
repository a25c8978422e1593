//! The units of people within a run: looked at with the machine, stopped with its steps, started when the homes are
//! done. What is done about which unit is the core's plan; here is only when.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use roster::desired::Desired;
use roster::ledger::{Ledger, Reload};
use roster::observed::{HostObserved, UnitsObserved};
use roster::plan::{self, Action, Plan, Problem, Subject, UnitsPlan};
use roster::report::StepResult;

use crate::daemon::Daemon;
use crate::run::chain;
use crate::running::Running;

/// What the units do that are wanted or ours, or why systemd does not say.
pub(crate) async fn observe(
    desired: &Desired,
    ledger: &Rc<Ledger>,
    host: &HostObserved,
) -> Result<UnitsObserved, String> {
    let watched = plan::units_to_watch(desired, ledger);
    if watched.is_empty() {
        return Ok(UnitsObserved::default());
    }
    let host = HostObserved { accounts: host.accounts.clone(), ..HostObserved::default() };
    match tokio::task::spawn_blocking(move || host::observe_units(&watched, &host)).await {
        Ok(observed) => observed.map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// Looks at the units and plans their steps. When systemd does not answer, nothing is concluded: no step, and the units
/// that are ours stay so.
pub(crate) async fn plan(desired: &Desired, ledger: &Rc<Ledger>, host: &HostObserved) -> UnitsPlan {
    match observe(desired, ledger, host).await {
        Ok(observed) => plan::units(desired, ledger, &observed),
        Err(why) => UnitsPlan {
            start: Plan {
                problems: vec![Problem {
                    subject: Subject::Machine,
                    what: "the units of people could not be looked at".into(),
                    why,
                    next: "see whether `busctl status org.freedesktop.systemd1` answers; the next run tries again".into(),
                }],
                ..Plan::default()
            },
            owned: ledger.units.clone(),
            ..UnitsPlan::default()
        },
    }
}

/// What systemd will have to read again, counting what an earlier run did not get to.
pub(crate) fn reload_due(ledger: &Ledger, host: &Plan, units: &UnitsPlan) -> Reload {
    let steps = host.steps.iter().chain(&units.stop.steps).chain(&units.start.steps);
    plan::reload_due(steps).max(ledger.reload)
}

/// Stops what is no longer wanted. What was stopped is no longer ours.
pub(crate) async fn stop(daemon: &Rc<Daemon>, running: &mut Running<'_>, plan: Plan) {
    if plan.steps.is_empty() {
        return;
    }
    running.phase("stopping services");
    let before = running.steps.len();
    apply(daemon, running, plan).await;
    let done: Vec<_> =
        running.steps.iter().skip(before).filter(|record| record.result == StepResult::Done).collect();
    daemon.change_ledger(|ledger| {
        for record in done {
            plan::is_done(&mut ledger.units, &record.step);
        }
    });
}

/// Enables and starts what is wanted, for those whose account is as it should be, and then lets systemd read again
/// what has changed.
pub(crate) async fn start(
    daemon: &Rc<Daemon>,
    running: &mut Running<'_>,
    plan: Plan,
    blocked: &BTreeSet<Subject>,
) {
    let plan = plan.only(|subject| !blocked.contains(subject));
    running.take(&plan);
    if !plan.steps.is_empty() && !daemon.is_stopping() {
        running.phase("starting services");
        apply(daemon, running, plan).await;
    }
    let due = daemon.ledger().reload;
    if due != Reload::None && !daemon.is_stopping() {
        running.phase("reloading systemd");
        apply(daemon, running, plan::reload(due)).await;
        let is_done = running.steps.last().is_some_and(|last| {
            matches!(last.step.action, Action::Reload { .. }) && last.result == StepResult::Done
        });
        if is_done {
            daemon.change_ledger(|ledger| ledger.reload = Reload::None);
        }
    }
}

async fn apply(daemon: &Rc<Daemon>, running: &mut Running<'_>, plan: Plan) {
    let stop = Arc::clone(&daemon.stop);
    let work = plan.clone();
    let thread = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        host::apply_units(&work, &stop, &mut |index, result, took: Duration| {
            told.push((index, result, took))
        });
        told
    });
    match thread.await {
        Ok(told) => {
            for (index, result, took) in told {
                if let Some(step) = plan.steps.get(index) {
                    running.record(step.clone(), result, took);
                }
            }
        }
        Err(error) => running.problems.push(Problem {
            subject: Subject::Machine,
            what: "the steps of services ended early".into(),
            why: error.to_string(),
            next: "this is a defect of rosterd; the next run tries again".into(),
        }),
    }
}
