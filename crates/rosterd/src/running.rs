//! What a run gathers while it goes on, and what of it is kept in the ledger: who is degraded, since when, why, and when
//! the next try is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use roster::ledger::{Degraded, Ledger, Waiting, WaitingCause};
use roster::name::OsUser;
use roster::plan::{Notice, Plan, Problem, Step, Subject};
use roster::report::{Outcome, Progress, StepRecord, StepResult};

use crate::ask::Ask;
use crate::daemon::Daemon;
use crate::homes::Found;
use crate::journal;

/// The first wait before a degraded subject is tried again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What a run gathers while it goes on.
pub(crate) struct Running<'a> {
    daemon: &'a Daemon,
    pub(crate) ask: &'a Ask,
    pub(crate) id: String,
    pub(crate) generation: u64,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) notices: Vec<Notice>,
    /// Steps in homes that failed in an earlier run.
    failed_before: Vec<Problem>,
    /// Whose failure is in the ledger already.
    settled: BTreeSet<Subject>,
}

impl<'a> Running<'a> {
    /// One that begins now.
    pub(crate) fn new(daemon: &'a Daemon, ask: &'a Ask, started: Timestamp) -> Self {
        Running {
            daemon,
            ask,
            id: daemon.next_run_id(started),
            generation: daemon.ledger().generation,
            steps: Vec::new(),
            problems: Vec::new(),
            notices: Vec::new(),
            failed_before: Vec::new(),
            settled: BTreeSet::new(),
        }
    }

    pub(crate) fn phase(&self, text: impl Into<String>) {
        let text = text.into();
        if self.daemon.activity().as_deref() == Some(&text) {
            // No progress, and so no sign of life.
            return;
        }
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
        self.daemon.has_seen(&plan.seen);
    }

    /// Writes down who of `scope` has failed, while the homes of others are still in hand: their next try is due
    /// before those may end.
    pub(crate) fn settle_failed<'u>(
        &mut self,
        scope: &BTreeSet<Subject>,
        in_hand: impl Iterator<Item = &'u OsUser>,
    ) {
        let in_hand: BTreeSet<_> = in_hand.cloned().map(Subject::User).collect();
        let mut troubles = self.troubles();
        troubles.retain(|subject, _| {
            scope.contains(subject) && !in_hand.contains(subject) && !self.settled.contains(subject)
        });
        if troubles.is_empty() {
            return;
        }
        let mut ledger = Ledger::clone(&self.daemon.ledger());
        for (subject, problems) in troubles {
            self.degrade(&mut ledger, &subject, problems);
            self.settled.insert(subject);
        }
        self.daemon.change_ledger(|old| *old = ledger);
    }

    /// Puts what is wrong with a subject into the ledger, and tells what is new.
    fn degrade(&self, ledger: &mut Ledger, subject: &Subject, problems: Vec<Problem>) {
        let now = Timestamp::now();
        let before = ledger.degraded.get(subject);
        let known = before.map(|before| before.problems.as_slice()).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            // A failed step has told it already.
            if self.problems.contains(problem) {
                journal::problem(&self.id, self.generation, problem);
            }
        }
        let after = |failures| now.checked_add(wait_after(failures)).unwrap_or(now);
        let (since, failures, next_try) = match before {
            // Counted when it was settled before.
            Some(before) if self.settled.contains(subject) => {
                (before.since, before.failures, after(before.failures))
            }
            // A try before its time, because an admin asked for it or saved, must not make them wait longer.
            Some(before) if now < before.next_try => (before.since, before.failures, before.next_try),
            Some(before) => {
                let failures = before.failures.saturating_add(1);
                (before.since, failures, after(failures))
            }
            None => (now, 1, after(1)),
        };
        ledger.degraded.insert(subject.clone(), Degraded { since, failures, next_try, problems });
    }

    /// Brings the ledger's list of degraded subjects up to date, and tells what is new.
    pub(crate) fn settle(&self, scope: &BTreeSet<Subject>) {
        let daemon = self.daemon;
        let mut troubles = self.troubles();
        let mut ledger = Ledger::clone(&daemon.ledger());
        for subject in scope {
            match (troubles.remove(subject), ledger.degraded.get_mut(subject)) {
                (None, None) => {}
                // Told to stop, not everything was tried: nothing is concluded from that.
                (None, Some(_)) if daemon.is_stopping() => {}
                (None, Some(_)) => {
                    journal::recovered(&self.id, self.generation, subject);
                    ledger.degraded.remove(subject);
                }
                (Some(problems), _) => self.degrade(&mut ledger, subject, problems),
            }
        }
        let people: BTreeSet<_> =
            daemon.in_force().map(|f| f.roster.users.keys().cloned().collect()).unwrap_or_default();
        ledger.degraded.retain(|subject, _| match subject {
            Subject::Machine => true,
            Subject::User(user) => people.contains(user) || ledger.cut.contains_key(user),
        });
        for notice in &self.notices {
            if !ledger.told.contains(notice) {
                journal::notice(&self.id, self.generation, notice);
            }
        }
        ledger.told.retain(|notice| !scope.contains(&notice.subject));
        ledger.told.extend(self.notices.iter().cloned());
        let done = self.steps.iter().filter(|record| record.result == StepResult::Done);
        done.for_each(|record| ledger.applied(&record.step.action));
        ledger.last_run = Some(self.id.clone());
        daemon.change_ledger(|old| *old = ledger);
    }

    /// What is wrong with each subject, from the problems found and the steps that failed.
    pub(crate) fn troubles(&self) -> BTreeMap<Subject, Vec<Problem>> {
        let mut troubles: BTreeMap<Subject, Vec<Problem>> = BTreeMap::new();
        for problem in &self.problems {
            troubles.entry(problem.subject.clone()).or_default().push(problem.clone());
        }
        for problem in self.failed_before.iter().cloned().chain(self.steps.iter().filter_map(failure)) {
            troubles.entry(problem.subject.clone()).or_default().push(problem);
        }
        troubles
    }

    /// What this run found about one subject.
    pub(crate) fn found(&self, subject: &Subject) -> Found {
        let ours = |problem: &Problem| problem.subject == *subject;
        let failed = self.steps.iter().filter_map(failure);
        Found {
            problems: self.problems.iter().filter(|problem| ours(problem)).cloned().collect(),
            failed: failed.filter(ours).collect(),
            notices: self.notices.iter().filter(|notice| notice.subject == *subject).cloned().collect(),
        }
    }

    /// What earlier runs found about a home that is done now.
    pub(crate) fn found_before(&mut self, found: Found) {
        self.problems.extend(found.problems);
        self.failed_before.extend(found.failed);
        self.notices.extend(found.notices);
    }
}

/// A step that failed, as what keeps its subject from being as it should be.
fn failure(record: &StepRecord) -> Option<Problem> {
    let StepResult::Failed { why, next } = &record.result else { return None };
    Some(Problem {
        subject: record.step.subject.clone(),
        what: record.step.action.to_string(),
        why: why.clone(),
        next: next.clone(),
    })
}

/// How it is with those whom it concerns.
pub(crate) fn outcome_of(ledger: &Ledger, concerns: impl Fn(&Subject) -> bool) -> Outcome {
    match waits_for(ledger).map(|waiting| &waiting.cause) {
        Some(WaitingCause::Held { .. }) => Outcome::Held,
        Some(_) => Outcome::Failed,
        None if ledger.degraded.keys().any(concerns) => Outcome::Degraded,
        None => Outcome::Converged,
    }
}

/// What an admin has to see to first: a roster that is not taken over, then one that must not be applied.
pub(crate) fn waits_for(ledger: &Ledger) -> Option<&Waiting> {
    ledger.waiting.as_ref().or(ledger.tiers_differ.as_ref())
}

/// How long to wait after so many failures in a row.
pub(crate) fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

/// When a degraded subject is tried again. Nobody waits longer than the longest wait, also when the clock was ahead.
pub(crate) fn due(degraded: &Degraded, now: Timestamp) -> Timestamp {
    match now.checked_add(LONGEST_WAIT) {
        Ok(latest) if degraded.next_try > latest => now,
        _ => degraded.next_try,
    }
}
