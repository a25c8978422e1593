//! The state of things for a Prometheus node exporter's textfile collector, written whole after each run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use roster::ledger::{Ledger, WaitingCause};
use roster::plan::{Action, Subject, WholeFile};
use roster::report::{Outcome, Run, StepResult};

use crate::accept::InForce;
use crate::daemon::Daemon;
use crate::journal;

/// Counters, since the daemon started: Prometheus knows that they begin anew.
static RUNS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static STEPS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static CUTS: AtomicU64 = AtomicU64::new(0);
static DURATION_MS: AtomicU64 = AtomicU64::new(0);
/// Seconds since 1970; 0 is not looked up yet.
static LAST_SUCCESS: AtomicI64 = AtomicI64::new(0);

const OUTCOMES: [Outcome; 4] = [Outcome::Converged, Outcome::Degraded, Outcome::Held, Outcome::Failed];

/// Counts a run, and writes the file when one is configured.
pub(crate) async fn after_run(daemon: &Daemon, run: &Run) {
    count(run);
    let Some(path) = daemon.config().metrics.textfile else { return };
    if run.outcome == Outcome::Converged {
        LAST_SUCCESS.store(ended(run), Ordering::Relaxed);
    } else if LAST_SUCCESS.load(Ordering::Relaxed) == 0 {
        LAST_SUCCESS.store(earlier_success(daemon), Ordering::Relaxed);
    }
    let text = text(&daemon.ledger(), daemon.in_force().as_deref(), run);
    write(path, text).await;
}

async fn write(path: PathBuf, content: String) {
    let shown = path.display().to_string();
    let file = WholeFile { path, content, mode: 0o644 };
    let written = tokio::task::spawn_blocking(move || host::Host::system().write_whole_file(&file)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::warn!("cannot write {shown}: {failure}; {}", failure.next),
        Err(error) => tracing::warn!("cannot write {shown}: {error}"),
    }
}

fn count(run: &Run) {
    for (outcome, counter) in OUTCOMES.iter().zip(&RUNS) {
        counter.fetch_add(u64::from(run.outcome == *outcome), Ordering::Relaxed);
    }
    let done = run.steps.iter().filter(|record| record.result == StepResult::Done);
    let cuts = done.clone().filter(|record| record.step.action == Action::Cut).count();
    CUTS.fetch_add(cuts as u64, Ordering::Relaxed);
    let failed = run.steps.iter().filter(|record| matches!(record.result, StepResult::Failed { .. }));
    let [all_done, all_failed] = &STEPS;
    all_done.fetch_add(done.count() as u64, Ordering::Relaxed);
    all_failed.fetch_add(failed.count() as u64, Ordering::Relaxed);
    DURATION_MS.fetch_add(run.took_ms, Ordering::Relaxed);
}

fn ended(run: &Run) -> i64 {
    run.started.as_second() + (run.took_ms / 1000) as i64
}

fn earlier_success(daemon: &Daemon) -> i64 {
    let ids = daemon.store.run_ids().unwrap_or_default();
    let runs = ids.iter().rev().filter_map(|id| daemon.store.run(id).ok().flatten());
    runs.into_iter().find(|run| run.outcome == Outcome::Converged).map_or(0, |run| ended(&run))
}

fn text(ledger: &Ledger, in_force: Option<&InForce>, run: &Run) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
        let _ = writeln!(text, "# HELP rosterd_{name} {help}\n# TYPE rosterd_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "rosterd_{name}{labels} {value}");
        }
    };
    let one = |value: String| [(String::new(), value)];
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let runs: Vec<_> = OUTCOMES
        .iter()
        .zip(&RUNS)
        .map(|(outcome, counter)| (format!("{{outcome=\"{}\"}}", journal::outcome(*outcome)), read(counter)))
        .collect();
    metric("runs_total", "counter", "Runs since the daemon started.", &runs);
    let total = DURATION_MS.load(Ordering::Relaxed);
    metric("run_seconds_total", "counter", "How long all of them took.", &one(seconds(total)));
    metric("last_run_seconds", "gauge", "How long the last run took.", &one(seconds(run.took_ms)));
    metric("last_run_timestamp_seconds", "gauge", "When the last run ended.", &one(ended(run).to_string()));
    let success = LAST_SUCCESS.load(Ordering::Relaxed).to_string();
    metric(
        "last_success_timestamp_seconds",
        "gauge",
        "When a run last left everything as it should be.",
        &one(success),
    );
    let [done, failed] = &STEPS;
    let steps =
        [("{result=\"done\"}".to_owned(), read(done)), ("{result=\"failed\"}".to_owned(), read(failed))];
    metric("steps_total", "counter", "Steps since the daemon started.", &steps);
    metric("cuts_total", "counter", "People cut since the daemon started.", &one(read(&CUTS)));
    metric("generation", "gauge", "The generation in force.", &one(ledger.generation.to_string()));
    metric("subjects", "gauge", "People and the machine, by state.", &states(ledger, in_force));
    let waits = |wanted: fn(&WaitingCause) -> bool| {
        u8::from(ledger.waiting.as_ref().is_some_and(|waiting| wanted(&waiting.cause))).to_string()
    };
    let waiting = [
        ("{cause=\"held\"}".to_owned(), waits(|cause| matches!(cause, WaitingCause::Held { .. }))),
        ("{cause=\"invalid\"}".to_owned(), waits(|cause| matches!(cause, WaitingCause::Invalid { .. }))),
        (
            "{cause=\"tier-mismatch\"}".to_owned(),
            waits(|cause| matches!(cause, WaitingCause::TierMismatch { .. })),
        ),
    ];
    metric("roster_waiting", "gauge", "Whether the roster on disk is not in force, and why.", &waiting);
    let queued = ledger.announcements.queue.len().to_string();
    metric("announcements_queued", "gauge", "Announcements that are not sent yet.", &one(queued));
    text
}

fn states(ledger: &Ledger, in_force: Option<&InForce>) -> Vec<(String, String)> {
    let (mut converged, mut parked) = (0, 0);
    let is_degraded = |subject: &Subject| ledger.degraded.contains_key(subject);
    converged += usize::from(!is_degraded(&Subject::Machine));
    for (user, person) in in_force.iter().flat_map(|in_force| &in_force.roster.users) {
        match (is_degraded(&Subject::User(user.clone())), person.parked) {
            (true, _) => {}
            (false, true) => parked += 1,
            (false, false) => converged += 1,
        }
    }
    let cut = ledger.cut.keys().filter(|user| !is_degraded(&Subject::User((*user).clone()))).count();
    [("converged", converged), ("degraded", ledger.degraded.len()), ("parked", parked), ("cut", cut)]
        .into_iter()
        .map(|(state, number)| (format!("{{state=\"{state}\"}}"), number.to_string()))
        .collect()
}
