//! `rosterctl reconcile`, `wait`, `show` and `history`: runs and their steps.

use std::collections::BTreeSet;

use jiff::Timestamp;
use roster::plan::Subject;
use roster::report::{Outcome, Run, RunSummary, StepRecord, StepResult, WaitingStatus};

use super::status::{cause_on, waiting_roster};
use super::{action, list, next, outcome, trigger};
use crate::page::{Look, Page, Style, count};
use crate::when::{ago, took};

/// One step as it happened.
pub(crate) fn step(record: &StepRecord, look: Look) -> String {
    let mut page = Page::new(look);
    step_on(&mut page, record, "");
    page.finish()
}

fn step_on(page: &mut Page, record: &StepRecord, reason: &str) {
    let (style, plain, mark) = match record.result {
        StepResult::Done => (Style::Good, "ok      ", "✓ "),
        StepResult::Failed { .. } => (Style::Bad, "FAILED  ", "✗ "),
        StepResult::Skipped { .. } => (Style::Warn, "skipped ", "- "),
    };
    let lead = if page.look.marks { mark } else { plain };
    let took = match record.result {
        StepResult::Skipped { .. } => String::new(),
        _ => format!(", {}", took(record.took_ms)),
    };
    let text = format!("{}: {}{took}{reason}", record.step.subject, action(&record.step));
    page.hang(lead, style, &text, Style::Plain);
    let indent = lead.chars().count();
    match &record.result {
        StepResult::Done => {}
        StepResult::Failed { why, next: what } => {
            page.hang(&format!("{}why: ", " ".repeat(indent)), Style::Faint, why, Style::Plain);
            next(page, indent, what);
        }
        StepResult::Skipped { why } => {
            page.hang(&format!("{}why: ", " ".repeat(indent)), Style::Faint, why, Style::Plain);
        }
    }
}

/// What remains to be said when the steps of a run have been shown; `waiting` is what holds the roster back now.
pub(crate) fn closing(run: &Run, waiting: Option<&WaitingStatus>, now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    closing_on(&mut page, run);
    if run.outcome == Outcome::Degraded {
        let text = match &*affected(run) {
            [] => "`rosterctl status` shows who is affected and when it is tried again".into(),
            who => format!("`rosterctl status` shows when it is tried again; affected: {}", list(who)),
        };
        next(&mut page, 2, &text);
    }
    if let Some(waiting) = waiting {
        waiting_roster(&mut page, waiting, now);
    }
    page.finish()
}

/// Who is not as the roster says because of this run; those that wait for their next try were not looked at.
fn affected(run: &Run) -> Vec<&Subject> {
    let failed = run.steps.iter().filter(|record| matches!(record.result, StepResult::Failed { .. }));
    let subjects = run.problems.iter().map(|problem| &problem.subject);
    let subjects: BTreeSet<_> = subjects.chain(failed.map(|record| &record.step.subject)).collect();
    subjects.into_iter().collect()
}

fn closing_on(page: &mut Page, run: &Run) {
    for found in &run.problems {
        page.open("! ", Style::Bad, &format!("{}: {}: {}", found.subject, found.what, found.why));
        next(page, 2, &found.next);
    }
    for notice in &run.notices {
        page.open("note: ", Style::Faint, &format!("{}: {}", notice.subject, notice.text));
    }
    if !run.unfinished.is_empty() {
        let text = format!(
            "still at work in the homes of {}; the next run goes on with it",
            list(&run.unfinished.iter().collect::<Vec<_>>())
        );
        page.open("note: ", Style::Faint, &text);
    }
    let (style, word) = outcome(run.outcome);
    let mut text = count_steps(run);
    text.push_str(&format!(" in {}; run {}, generation {}.", took(run.took_ms), run.id, run.generation));
    page.open(&format!("{word}: "), style, &text);
}

fn count_steps(run: &Run) -> String {
    let number =
        |wanted: fn(&StepResult) -> bool| run.steps.iter().filter(|step| wanted(&step.result)).count();
    if run.steps.is_empty() {
        return if run.outcome == Outcome::Converged { "nothing to do".into() } else { "no steps".into() };
    }
    let mut text =
        format!("{} done", count(number(|result| matches!(result, StepResult::Done)), "step", "steps"));
    for (number, word) in [
        (number(|result| matches!(result, StepResult::Failed { .. })), "failed"),
        (number(|result| matches!(result, StepResult::Skipped { .. })), "skipped"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {number} {word}"));
        }
    }
    text
}

/// A past run, whole.
pub(crate) fn run(run: &Run, now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    let started = run.started.strftime("%Y-%m-%d %H:%M:%S UTC");
    let text = format!("{}, {} ({started})", trigger(run.trigger), ago(run.started, now));
    page.open(&format!("run {}: ", run.id), Style::Strong, &text);
    for record in &run.steps {
        step_on(&mut page, record, &format!(" ({})", record.step.reason));
    }
    closing_on(&mut page, run);
    if let Some(cause) = &run.waiting {
        cause_on(&mut page, cause, None);
    }
    page.finish()
}

/// Past runs, one a line.
pub(crate) fn history(runs: &[RunSummary], now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    if runs.is_empty() {
        page.para(Style::Plain, "No run yet.");
        return page.finish();
    }
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            let (style, word) = outcome(run.outcome);
            let failed = if run.failed == 0 { String::new() } else { format!(", {} failed", run.failed) };
            vec![
                (Style::Strong, run.id.clone()),
                (Style::Plain, ago(run.started, now)),
                (Style::Plain, trigger(run.trigger).into()),
                (Style::Plain, run.generation.to_string()),
                (style, word.into()),
                (Style::Plain, took(run.took_ms)),
                (Style::Plain, format!("{}{failed}", run.done)),
            ]
        })
        .collect();
    page.table(&["RUN", "STARTED", "TRIGGER", "GEN", "OUTCOME", "TOOK", "STEPS"], &rows);
    page.finish()
}

#[cfg(test)]
mod tests {
    use roster::ledger::WaitingCause;
    use roster::plan::Notice;
    use roster::report::Trigger;

    use super::super::samples::{LOOK, at, clone, create, now, unreachable, user, write};
    use super::*;

    fn sample() -> Run {
        let record = |step, result, took_ms| StepRecord { step, result, took_ms };
        Run {
            commit: None,
            id: "20260301T115600Z-0001".into(),
            trigger: Trigger::Change,
            generation: 12,
            started: at("2026-03-01T11:56:00Z"),
            took_ms: 2_345,
            outcome: Outcome::Degraded,
            waiting: None,
            steps: vec![
                record(create("alice"), StepResult::Done, 34),
                record(
                    clone("alice"),
                    StepResult::Failed {
                        why: "failed to connect to git.example.org: connection refused".into(),
                        next: "see whether the remote answers; it is tried again by itself".into(),
                    },
                    2_001,
                ),
                record(write(), StepResult::Skipped { why: "rosterd was told to stop".into() }, 0),
            ],
            problems: vec![unreachable("bob")],
            notices: vec![Notice {
                subject: Subject::Machine,
                text: "group code-shared does not exist".into(),
            }],
            unfinished: BTreeSet::from([user("carol")]),
        }
    }

    #[test]
    fn a_run_shows_its_steps_with_durations_and_what_to_do() {
        insta::assert_snapshot!(run(&sample(), now(), LOOK), @"
        run 20260301T115600Z-0001: change, 4 min ago (2026-03-01 11:56:00 UTC)
        ok      alice: create account with uid 1005, shell /bin/zsh, home /home/alice,
                groups docker, sudo, 34 ms (in the roster, no such account)
        FAILED  alice: clone https://git.example.org/infra.git into ~/code/infra,
                locked, 2.0 s (no such clone)
                why: failed to connect to git.example.org: connection refused
                next: see whether the remote answers; it is tried again by itself
        skipped machine: write /etc/ttyd-user-map, 2 lines (the content differs)
                why: rosterd was told to stop
        ! bob: cannot clone https://git.example.org/tripit.git into ~/code/tripit:
          failed to connect to git.example.org: connection refused
          next: see whether the remote answers; it is tried again by itself
        note: machine: group code-shared does not exist
        note: still at work in the homes of carol; the next run goes on with it
        degraded: 1 step done, 1 failed, 1 skipped in 2.3 s; run 20260301T115600Z-0001,
          generation 12.
        ");
    }

    #[test]
    fn a_terminal_gets_marks() {
        let look = Look { marks: true, ..LOOK };
        let text: String = sample().steps.iter().map(|record| step(record, look)).collect();
        insta::assert_snapshot!(text, @r"
        ✓ alice: create account with uid 1005, shell /bin/zsh, home /home/alice, groups
          docker, sudo, 34 ms
        ✗ alice: clone https://git.example.org/infra.git into ~/code/infra, locked,
          2.0 s
          why: failed to connect to git.example.org: connection refused
          next: see whether the remote answers; it is tried again by itself
        - machine: write /etc/ttyd-user-map, 2 lines
          why: rosterd was told to stop
        ");
    }

    #[test]
    fn a_run_without_work_is_one_line() {
        let quiet = Run {
            outcome: Outcome::Converged,
            took_ms: 12,
            steps: vec![],
            problems: vec![],
            notices: vec![],
            unfinished: BTreeSet::new(),
            ..sample()
        };
        insta::assert_snapshot!(closing(&quiet, None, now(), LOOK), @"converged: nothing to do in 12 ms; run 20260301T115600Z-0001, generation 12.");
    }

    #[test]
    fn a_run_that_was_held_says_what_holds_it() {
        let held = Run {
            outcome: Outcome::Held,
            took_ms: 12,
            steps: vec![],
            problems: vec![],
            unfinished: BTreeSet::new(),
            ..sample()
        };
        let waiting = WaitingStatus {
            since: at("2026-03-01T11:55:00Z"),
            cause: WaitingCause::Held {
                cuts: vec![user("dave"), user("erin")],
                why: roster::guard::Objection::TooManyCuts { cuts: 2, max_cuts: 1 },
                confirmed: false,
            },
        };
        insta::assert_snapshot!(closing(&held, Some(&waiting), now(), LOOK), @"
        note: machine: group code-shared does not exist
        held: no steps in 12 ms; run 20260301T115600Z-0001, generation 12.
        held for 5 min: the roster on disk would cut 2 people, more than the 1 that
          [guard] max_cuts allows: dave, erin
          next: put them back into the roster, or let them go with `rosterctl confirm`
        ");
    }

    #[test]
    fn history_is_a_table() {
        let summary = |id: &str, outcome, failed| RunSummary {
            commit: None,
            id: id.into(),
            trigger: Trigger::Request,
            generation: 12,
            started: at("2026-03-01T11:56:00Z"),
            took_ms: 1_412,
            outcome,
            done: 3,
            failed,
        };
        let runs = [
            summary("20260301T115600Z-0002", Outcome::Degraded, 1),
            summary("20260301T115600Z-0001", Outcome::Converged, 0),
        ];
        insta::assert_snapshot!(history(&runs, now(), LOOK), @r"
        RUN                    STARTED    TRIGGER  GEN  OUTCOME    TOOK   STEPS
        20260301T115600Z-0002  4 min ago  request  12   degraded   1.4 s  3, 1 failed
        20260301T115600Z-0001  4 min ago  request  12   converged  1.4 s  3
        ");
        insta::assert_snapshot!(history(&[], now(), LOOK), @"No run yet.");
    }
}
