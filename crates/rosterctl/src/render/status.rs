//! `rosterctl status`: what is not as the roster says comes first.

use jiff::Timestamp;
use roster::files::FileStatus;
use roster::guard::Objection;
use roster::ledger::{Degraded, WaitingCause};
use roster::name::OsUser;
use roster::plan::Subject;
use roster::report::{RunSummary, Status, SubjectStatus, WaitingStatus};

use super::{list, next, outcome, problem};
use crate::page::{Look, Page, Style, count};
use crate::when::{ago, due, lasting, took};

/// The whole status.
pub(crate) fn status(status: &Status, now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    let generation = match status.since {
        Some(since) => format!("generation {} in force for {}", status.generation, lasting(since, now)),
        None => "no roster has been applied yet".into(),
    };
    let (style, word) = outcome(status.outcome);
    let last = match &status.last_run {
        Some(run) => format!("last run {}", last_run(run, now)),
        None => "no run yet".into(),
    };
    let commit = status.commit.as_ref().map_or_else(String::new, |commit| format!(", commit {commit:.12}"));
    page.open(&format!("{word}: "), style, &format!("{generation}{commit}; {last}."));
    if let Some(failed) = status.source.as_ref().and_then(|source| source.failed.as_ref()) {
        let lead = format!("not fetched for {}: ", lasting(failed.since, now));
        page.open(&lead, Style::Bad, &format!("what is in force stays: {}", failed.why));
        next(&mut page, 2, "see [source] in config.toml; it is tried again by itself");
    }
    if let Some(activity) = &status.activity {
        page.hang("rosterd: ", Style::Faint, activity, Style::Plain);
    }
    if status.since.is_none() && status.waiting.is_none() {
        next(
            &mut page,
            2,
            "begin with /usr/share/doc/rosterd/roster.example.yaml, saved as /etc/rosterd/roster.yaml",
        );
    }
    if let Some(waiting) = &status.waiting {
        page.gap();
        waiting_roster(&mut page, waiting, now);
    }
    if !status.subjects.is_empty() {
        page.gap();
        subjects(&mut page, status, now);
    }
    for seen in status.seen.values().filter(|seen| !seen.files.is_empty()) {
        page.gap();
        files(&mut page, &seen.files);
    }
    if !status.notices.is_empty() {
        page.gap();
    }
    for notice in &status.notices {
        page.open("note: ", Style::Faint, &format!("{}: {}", notice.subject, notice.text));
    }
    for (name, provider) in &status.providers {
        page.gap();
        super::provider::section(&mut page, *name, provider, now);
    }
    page.finish()
}

/// The configured files of one home: which kind each is, and whose.
pub(super) fn files(page: &mut Page, files: &[FileStatus]) {
    let row = |file: &FileStatus| {
        let cells =
            [file.path.clone(), file.kind.as_str().into(), file.owner.as_str().into(), file.found.clone()];
        cells.map(|text| (Style::Plain, text)).to_vec()
    };
    page.table(&["FILE", "KIND", "OWNER", "FOUND"], &files.iter().map(row).collect::<Vec<_>>());
}

pub(super) fn last_run(run: &RunSummary, now: Timestamp) -> String {
    let (_, word) = outcome(run.outcome);
    let failed = if run.failed == 0 { String::new() } else { format!(", {} failed", run.failed) };
    let steps = count(run.done, "step", "steps");
    format!("{word} {} ({}, {steps}{failed}, {})", ago(run.started, now), run.id, took(run.took_ms))
}

/// Why the roster on disk is not in force, and what to do.
pub(super) fn waiting_roster(page: &mut Page, waiting: &WaitingStatus, now: Timestamp) {
    cause_on(page, &waiting.cause, Some(&lasting(waiting.since, now)));
}

/// The same for a run of the past, of which nobody knows any more for how long.
pub(super) fn cause_on(page: &mut Page, cause: &WaitingCause, lasting: Option<&str>) {
    let lead = |word: &str| match lasting {
        Some(lasting) => format!("{word} for {lasting}: "),
        None => format!("{word}: "),
    };
    match cause {
        WaitingCause::Invalid { diagnostics } => {
            let text = "what is on disk cannot be taken over, so what was in force before stays:";
            page.open(&lead("waiting"), Style::Bad, text);
            page.verbatim("  ", diagnostics.trim_end());
            next(
                page,
                2,
                "correct it; it is read again when it is saved (`rosterctl validate` checks the text)",
            );
        }
        WaitingCause::Held { cuts, why, confirmed } => {
            let word = if *confirmed { "confirmed" } else { "held" };
            page.open(&lead(word), Style::Warn, &would_cut(cuts, why));
            if *confirmed {
                next(page, 2, "nothing to do: the next run applies it");
            } else {
                next(page, 2, "put them back into the roster, or let them go with `rosterctl confirm`");
            }
        }
        WaitingCause::TierMismatch { differences } => {
            let text = "tiers differ from the cluster's map, so nothing is changed:";
            page.open(&lead("waiting"), Style::Bad, text);
            for difference in differences {
                page.hang("  - ", Style::Plain, difference, Style::Plain);
            }
            next(page, 2, "make the roster and the cluster's map agree");
        }
    }
}

/// What an admin is asked to confirm.
pub(crate) fn held(cuts: &[OsUser], why: &Objection, look: Look) -> String {
    let mut page = Page::new(look);
    page.open("held: ", Style::Warn, &would_cut(cuts, why));
    page.hang(
        "  ",
        Style::Plain,
        "They lose access; accounts, files and ports stay, and all comes back with them.",
        Style::Plain,
    );
    page.finish()
}

fn would_cut(cuts: &[OsUser], why: &Objection) -> String {
    let people = count(cuts.len(), "person", "people");
    let what = match why {
        Objection::Emptied => format!("is empty and would cut {people}, which is everybody"),
        Objection::NoAdminLeft => format!("would leave no admin and cut {people}"),
        Objection::AdminCut { admins } => {
            let who = if admins.len() == 1 { "the admin" } else { "the admins" };
            format!("would cut {people}, with {who} {}", list(admins))
        }
        Objection::TooManyCuts { max_cuts, .. } => {
            format!("would cut {people}, more than the {max_cuts} that [guard] max_cuts allows")
        }
        Objection::HostRenamed { from, to } => {
            format!(
                "gives {people} to {from}, as this machine was called, and not to {to}, as it is called now"
            )
        }
    };
    format!("the roster on disk {what}: {}", list(cuts))
}

fn subjects(page: &mut Page, status: &Status, now: Timestamp) {
    let mut named = Vec::new();
    let mut converged = Vec::new();
    for (subject, state) in &status.subjects {
        let row = |style, word: &str, since: String, next: String| {
            (
                subject,
                vec![
                    (Style::Strong, subject.to_string()),
                    (style, word.to_owned()),
                    (Style::Plain, since),
                    (Style::Plain, next),
                ],
            )
        };
        match state {
            SubjectStatus::Degraded(degraded) => {
                let since = format!(
                    "{}, {}",
                    ago(degraded.since, now),
                    count(degraded.failures as usize, "run", "runs")
                );
                named.push((
                    0,
                    row(Style::Bad, "degraded", since, due(degraded.next_try, now)),
                    Some(degraded),
                ));
            }
            SubjectStatus::Cut { since } => {
                named.push((1, row(Style::Warn, "cut", ago(*since, now), String::new()), None));
            }
            SubjectStatus::Parked => {
                named.push((2, row(Style::Plain, "parked", String::new(), String::new()), None))
            }
            SubjectStatus::Converged => converged.push(subject),
        }
    }
    named.sort_by_key(|(order, (subject, _), _)| (*order, *subject));
    if !named.is_empty() {
        let rows: Vec<_> = named.iter().map(|(_, (_, row), _)| row.clone()).collect();
        page.table(&["WHO", "STATE", "SINCE", "NEXT TRY"], &rows);
    }
    for (_, (subject, _), degraded) in &named {
        if let Some(degraded) = degraded {
            page.gap();
            why(page, subject, degraded);
        }
    }
    if !converged.is_empty() {
        page.gap();
        page.open(&format!("converged, {}: ", converged.len()), Style::Good, &list(&converged));
    }
}

fn why(page: &mut Page, subject: &Subject, degraded: &Degraded) {
    page.para(Style::Strong, &subject.to_string());
    for found in &degraded.problems {
        problem(page, "  ! ", found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use roster::name::HostName;
    use roster::plan::Notice;
    use roster::report::{Outcome, Trigger};

    use super::super::samples::{LOOK, at, now, subject, unreachable, user};
    use super::*;

    fn sample(outcome: Outcome) -> Status {
        Status {
            generation: 12,
            since: Some(at("2026-03-01T09:00:00Z")),
            activity: None,
            waiting: None,
            commit: None,
            source: None,
            last_run: Some(RunSummary {
                commit: None,
                id: "20260301T115600Z-0001".into(),
                trigger: Trigger::Request,
                generation: 12,
                started: at("2026-03-01T11:56:00Z"),
                took_ms: 1_412,
                outcome,
                done: 3,
                failed: 0,
            }),
            outcome,
            subjects: BTreeMap::from([
                (Subject::Machine, SubjectStatus::Converged),
                (subject("bob"), SubjectStatus::Converged),
                (subject("carol"), SubjectStatus::Converged),
            ]),
            notices: vec![],
            seen: BTreeMap::new(),
            remotes: BTreeMap::new(),
            providers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_converged_machine_is_three_lines() {
        insta::assert_snapshot!(status(&sample(Outcome::Converged), now(), LOOK), @r"
        converged: generation 12 in force for 3 h; last run converged 4 min ago
          (20260301T115600Z-0001, 3 steps, 1.4 s).

        converged, 3: machine, bob, carol
        ");
    }

    #[test]
    fn what_is_left_alone_comes_last() {
        let mut sample = sample(Outcome::Converged);
        let text = "~/code does not follow its remote: there are changes that are not committed";
        sample.notices = vec![Notice { subject: subject("bob"), text: text.into() }];
        insta::assert_snapshot!(status(&sample, now(), LOOK), @"
        converged: generation 12 in force for 3 h; last run converged 4 min ago
          (20260301T115600Z-0001, 3 steps, 1.4 s).

        converged, 3: machine, bob, carol

        note: bob: ~/code does not follow its remote: there are changes that are not
          committed
        ");
    }

    #[test]
    fn who_is_degraded_comes_first_with_why_since_when_and_the_next_try() {
        let mut sample = sample(Outcome::Degraded);
        sample.activity = Some("looking at 3 homes".into());
        sample.subjects.insert(subject("adam"), SubjectStatus::Parked);
        sample.subjects.insert(subject("dave"), SubjectStatus::Cut { since: at("2026-02-25T12:00:00Z") });
        sample.subjects.insert(
            subject("zoe"),
            SubjectStatus::Degraded(Degraded {
                since: at("2026-03-01T10:00:00Z"),
                failures: 3,
                next_try: at("2026-03-01T12:12:00Z"),
                problems: vec![unreachable("zoe")],
            }),
        );
        insta::assert_snapshot!(status(&sample, now(), LOOK), @r"
        degraded: generation 12 in force for 3 h; last run degraded 4 min ago
          (20260301T115600Z-0001, 3 steps, 1.4 s).
        rosterd: looking at 3 homes

        WHO   STATE     SINCE            NEXT TRY
        zoe   degraded  2 h ago, 3 runs  in 12 min
        dave  cut       4 days ago
        adam  parked

        zoe
          ! cannot clone https://git.example.org/tripit.git into ~/code/tripit: failed
            to connect to git.example.org: connection refused
            next: see whether the remote answers; it is tried again by itself

        converged, 3: machine, bob, carol
        ");
    }

    #[test]
    fn a_held_roster_names_whom_it_would_cut() {
        let mut sample = sample(Outcome::Held);
        sample.waiting = Some(WaitingStatus {
            since: at("2026-03-01T11:55:00Z"),
            cause: WaitingCause::Held {
                cuts: ["alice", "bob", "carol", "dave", "erin"].map(user).to_vec(),
                why: Objection::TooManyCuts { cuts: 5, max_cuts: 3 },
                confirmed: false,
            },
        });
        insta::assert_snapshot!(status(&sample, now(), LOOK), @"
        held: generation 12 in force for 3 h; last run held 4 min ago
          (20260301T115600Z-0001, 3 steps, 1.4 s).

        held for 5 min: the roster on disk would cut 5 people, more than the 3 that
          [guard] max_cuts allows: alice, bob, carol, dave, erin
          next: put them back into the roster, or let them go with `rosterctl confirm`

        converged, 3: machine, bob, carol
        ");
    }

    #[test]
    fn every_objection_of_the_guard_is_a_sentence() {
        let cuts = ["alice", "bob"].map(user);
        for (why, text) in [
            (
                Objection::Emptied,
                "the roster on disk is empty and would cut 2 people, which is everybody: alice, bob",
            ),
            (Objection::NoAdminLeft, "the roster on disk would leave no admin and cut 2 people: alice, bob"),
            (
                Objection::HostRenamed {
                    from: HostName::new("devvm").unwrap(),
                    to: HostName::new("localhost").unwrap(),
                },
                "the roster on disk gives 2 people to devvm, as this machine was called, and not to localhost, as it is called now: alice, bob",
            ),
        ] {
            assert_eq!(would_cut(&cuts, &why), text);
        }
    }

    #[test]
    fn an_invalid_roster_shows_its_diagnostics() {
        let mut sample = sample(Outcome::Failed);
        sample.waiting = Some(WaitingStatus {
            since: at("2026-03-01T11:55:00Z"),
            cause: WaitingCause::Invalid {
                diagnostics: "error: unknown field `teir`\n --> roster.yaml:4:5\n  |\n4 |     teir: admin\n  |     ^^^^ did you mean `tier`?\n".into(),
            },
        });
        insta::assert_snapshot!(status(&sample, now(), LOOK), @"
        failed: generation 12 in force for 3 h; last run failed 4 min ago
          (20260301T115600Z-0001, 3 steps, 1.4 s).

        waiting for 5 min: what is on disk cannot be taken over, so what was in force
          before stays:
          error: unknown field `teir`
           --> roster.yaml:4:5
            |
          4 |     teir: admin
            |     ^^^^ did you mean `tier`?
          next: correct it; it is read again when it is saved (`rosterctl validate`
                checks the text)

        converged, 3: machine, bob, carol
        ");
    }

    #[test]
    fn a_tier_mismatch_names_both_sides() {
        let mut sample = sample(Outcome::Failed);
        sample.since = None;
        sample.last_run = None;
        sample.subjects.clear();
        sample.waiting = Some(WaitingStatus {
            since: at("2026-03-01T11:55:00Z"),
            cause: WaitingCause::TierMismatch {
                differences: vec![
                    "carol: power-user in the roster, namespace-owner in the cluster's map".into(),
                ],
            },
        });
        insta::assert_snapshot!(status(&sample, now(), LOOK), @"
        failed: no roster has been applied yet; no run yet.

        waiting for 5 min: tiers differ from the cluster's map, so nothing is changed:
          - carol: power-user in the roster, namespace-owner in the cluster's map
          next: make the roster and the cluster's map agree
        ");
    }
}
