//! How a provider is, as a part of `rosterctl status` and by itself.

use jiff::Timestamp;
use roster::plan::Subject;
use roster::provider::{Provider, ProviderStatus};

use super::status::last_run;
use super::{list, problem};
use crate::page::{Look, Page, Style, count};
use crate::when::{due, lasting};

/// The status of one provider.
pub(crate) fn provider(name: Provider, status: &ProviderStatus, now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    section(&mut page, name, status, now);
    page.finish()
}

/// The same, as a part of a page.
pub(super) fn section(page: &mut Page, name: Provider, status: &ProviderStatus, now: Timestamp) {
    let (style, word) = match status.degraded.is_empty() {
        true if status.last_run.is_none() => (Style::Plain, "no run yet"),
        true => (Style::Good, "converged"),
        false => (Style::Bad, "degraded"),
    };
    let last = status.last_run.as_ref().map(|run| format!("last run {}", last_run(run, now)));
    let running = status.running.then(|| "a run is under way".to_owned());
    match [last, running].into_iter().flatten().collect::<Vec<_>>().join("; ") {
        text if text.is_empty() => page.open(&format!("{name}, {word}."), style, ""),
        text => page.open(&format!("{name}, {word}: "), style, &format!("{text}.")),
    }
    if !status.pending.is_empty() {
        let who = list(&status.pending.iter().collect::<Vec<_>>());
        let text =
            format!("{who} left the roster; what they had here goes with the next run that can take it");
        page.hang("  may be left: ", Style::Warn, &text, Style::Plain);
    }
    for (subject, degraded) in &status.degraded {
        let whom = match subject {
            Subject::Machine => "as a whole".to_owned(),
            Subject::User(user) => user.to_string(),
        };
        let runs = count(degraded.failures as usize, "run", "runs");
        let since =
            format!("for {}, {runs}; next try {}", lasting(degraded.since, now), due(degraded.next_try, now));
        page.hang(&format!("  {whom}: "), Style::Strong, &since, Style::Plain);
        for found in &degraded.problems {
            problem(page, "    ! ", found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use roster::ledger::Degraded;
    use roster::plan::Problem;
    use roster::report::{Outcome, RunSummary, Trigger};

    use super::super::samples::{LOOK, at, now, subject, user};
    use super::*;

    #[test]
    fn a_degraded_provider_says_whom_why_and_what_next() {
        let problem = Problem {
            subject: subject("carol"),
            what: "RoleBinding carol-dev/carol-admin is not as the roster says".into(),
            why: "subjects is set by terraform".into(),
            next: "let only one of the two keep it".into(),
        };
        let degraded = Degraded {
            since: at("2026-03-01T11:00:00Z"),
            failures: 3,
            next_try: at("2026-03-01T12:04:00Z"),
            problems: vec![problem],
        };
        let last_run = RunSummary {
            id: "20260301T115600Z-000-kubernetes".into(),
            trigger: Trigger::Request,
            generation: 12,
            started: at("2026-03-01T11:56:00Z"),
            took_ms: 412,
            outcome: Outcome::Degraded,
            done: 4,
            failed: 0,
            commit: None,
        };
        let status = ProviderStatus {
            running: false,
            last_run: Some(last_run),
            degraded: BTreeMap::from([(subject("carol"), degraded)]),
            pending: BTreeSet::new(),
        };
        let text = provider(Provider::Kubernetes, &status, now(), LOOK);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for told in [
            "kubernetes, degraded: last run degraded 4 min ago (20260301T115600Z-000-kubernetes, 4 steps",
            "carol: for 60 min, 3 runs; next try",
            "! RoleBinding carol-dev/carol-admin is not as the roster says: subjects is set by terraform",
            "next: let only one of the two keep it",
        ] {
            assert!(text.contains(told), "{told} is not in: {text}");
        }
    }
    #[test]
    fn a_provider_without_a_run_says_so_and_who_may_have_something_left_there_invariant_8() {
        let status =
            ProviderStatus { pending: ["carol", "dave"].map(user).into(), ..ProviderStatus::default() };
        insta::assert_snapshot!(provider(Provider::Vault, &status, now(), LOOK), @"
        vault, no run yet.
          may be left: carol, dave left the roster; what they had here goes with the
                       next run that can take it
        ");
        let running = ProviderStatus { running: true, ..ProviderStatus::default() };
        insta::assert_snapshot!(provider(Provider::Vault, &running, now(), LOOK), @"vault, no run yet: a run is under way.");
    }
}
