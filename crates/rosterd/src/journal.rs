//! What rosterd tells the journal: one record for each applied step, problem and run, each with a message id that
//! `packaging/rosterd.catalog` explains. Nothing else in the daemon writes records about subjects.

use std::collections::BTreeSet;

use roster::announce::Announcement;
use roster::change::Change;
use roster::ledger::WaitingCause;
use roster::name::OsUser;
use roster::plan::{Notice, Problem, Subject, Target};
use roster::report::{Outcome, Run, StepRecord, StepResult};

/// The message ids; `journalctl MESSAGE_ID=…` finds all of a kind.
pub(crate) mod id {
    pub(crate) const STARTED: &str = "8e13657633c94fa08ed4d93e0aed09bd";
    pub(crate) const STOPPED: &str = "d642af3970d2429086904d16a7eb2b69";
    pub(crate) const ACCEPTED: &str = "0c36f454c6f2483eb7e458385af15721";
    pub(crate) const CHANGED: &str = "5a4c1b7f0e6d4f0b9d3a7c2e81f65b04";
    pub(crate) const REJECTED: &str = "996033e62d5549a5a3607c353f445e33";
    pub(crate) const HELD: &str = "8618293d7aba457c80c48da2cc08bb37";
    pub(crate) const CONFIRMED: &str = "a18c8d653c6a4ca9a3e873d863a1ab50";
    pub(crate) const STEP_DONE: &str = "37e7b5abc11242ec968e2a048936e263";
    pub(crate) const STEP_FAILED: &str = "a10716df17e54e1994ffa19ee8f3d6ec";
    pub(crate) const PROBLEM: &str = "3e13b919f09442f5841af584f489c60c";
    pub(crate) const NOTICE: &str = "0f112dd227ff4950ba5ea3682638ac33";
    pub(crate) const RECOVERED: &str = "28c1dc42ebdf4ea79e6c8b3b24596757";
    pub(crate) const FETCHED: &str = "7ac3d15e9f084d2b8e6b1f40c95a73d8";
    pub(crate) const NOT_FETCHED: &str = "d40b8e27f1a94c6e9a3d5c18b7e602f9";
    pub(crate) const ANNOUNCED: &str = "5f0d9b3a4e7c4b60a2c81e95d7f4036b";
    pub(crate) const NOT_ANNOUNCED: &str = "b27e41c9d86f4a1f93d05c7a18e6b4f2";
    pub(crate) const REMOVED: &str = "c1f4b8d0a5634f67b0b9a4e7d2f35a18";
    pub(crate) const RESTORED: &str = "e93a6f1c7d2b4c0c8a54f16b0d7e2943";
    pub(crate) const RUN_ENDED: &str = "b5a25076c8fe46d38482f100ac142998";
}

/// The user field: empty for the machine as a whole, so that `ROSTERD_USER=alice` finds a person and nothing else.
fn user(subject: &Subject) -> &str {
    match subject {
        Subject::Machine => "",
        Subject::User(user) => user.as_str(),
    }
}

/// A step was applied, failed or was left out.
pub(crate) fn step(run: &str, generation: u64, record: &StepRecord) {
    let step = &record.step;
    let (kind, user) = (step.action.kind(), user(&step.subject));
    let target = Target(&step.action);
    let inverse = step.inverse.as_deref().unwrap_or_default();
    match &record.result {
        StepResult::Done => tracing::info!(
            message_id = id::STEP_DONE,
            rosterd_run = run,
            rosterd_generation = generation,
            rosterd_user = user,
            rosterd_step = kind,
            rosterd_target = %target,
            rosterd_reason = step.reason,
            rosterd_inverse = inverse,
            "{step}"
        ),
        StepResult::Failed { why, next } => tracing::warn!(
            message_id = id::STEP_FAILED,
            rosterd_run = run,
            rosterd_generation = generation,
            rosterd_user = user,
            rosterd_step = kind,
            rosterd_target = %target,
            rosterd_reason = step.reason,
            "{step}: failed: {why}; {next}"
        ),
        StepResult::Skipped { why } => tracing::info!(
            message_id = id::STEP_FAILED,
            rosterd_run = run,
            rosterd_generation = generation,
            rosterd_user = user,
            rosterd_step = kind,
            rosterd_target = %target,
            rosterd_reason = step.reason,
            "{step}: not tried: {why}"
        ),
    }
}

/// A subject has a problem that it did not have in the run before.
pub(crate) fn problem(run: &str, generation: u64, problem: &Problem) {
    tracing::warn!(
        message_id = id::PROBLEM,
        rosterd_run = run,
        rosterd_generation = generation,
        rosterd_user = user(&problem.subject),
        "{}: {}: {}; {}",
        problem.subject,
        problem.what,
        problem.why,
        problem.next
    );
}

/// A fact to know that was not told before.
pub(crate) fn notice(run: &str, generation: u64, notice: &Notice) {
    tracing::info!(
        message_id = id::NOTICE,
        rosterd_run = run,
        rosterd_generation = generation,
        rosterd_user = user(&notice.subject),
        "{}: {}",
        notice.subject,
        notice.text
    );
}

/// A degraded subject is as it should be again.
pub(crate) fn recovered(run: &str, generation: u64, subject: &Subject) {
    tracing::info!(
        message_id = id::RECOVERED,
        rosterd_run = run,
        rosterd_generation = generation,
        rosterd_user = user(subject),
        "{subject}: recovered"
    );
}

/// A new content of roster or config is in force: what changed about each person, then that it is.
pub(crate) fn accepted(generation: u64, commit: Option<&str>, changes: &[Change]) {
    for change in changes {
        let told = change.what.told();
        tracing::info!(
            message_id = id::CHANGED,
            rosterd_generation = generation,
            rosterd_user = change.user.as_str(),
            rosterd_change = told.about,
            rosterd_from = told.from,
            rosterd_to = told.to,
            "{change}"
        );
    }
    let people: BTreeSet<_> = changes.iter().map(|change| &change.user).collect();
    let told = if people.is_empty() {
        "no change of a person".into()
    } else {
        format!("changes of {}", count(people.len(), "person", "people"))
    };
    tracing::info!(
        message_id = id::ACCEPTED,
        rosterd_generation = generation,
        rosterd_commit = commit.unwrap_or_default(),
        "generation {generation} is in force{}: {told}",
        commit.map_or_else(String::new, |commit| format!(", commit {commit:.12}"))
    );
}

/// The content on disk is not taken over.
pub(crate) fn waiting(generation: u64, cause: &WaitingCause) {
    match cause {
        WaitingCause::Invalid { diagnostics } => tracing::error!(
            message_id = id::REJECTED,
            rosterd_generation = generation,
            "not taken over, generation {generation} stays in force:\n{diagnostics}"
        ),
        WaitingCause::Held { cuts, why, .. } => tracing::error!(
            message_id = id::HELD,
            rosterd_generation = generation,
            "held, generation {generation} stays in force: {why} ({}); look at it and run `rosterctl confirm`, or mend \
             the roster",
            cuts.iter().map(|user| user.as_str()).collect::<Vec<_>>().join(", "),
        ),
        WaitingCause::TierMismatch { differences } => tracing::error!(
            message_id = id::REJECTED,
            rosterd_generation = generation,
            "nothing is changed, because tiers differ from the cluster's map: {}",
            differences.join("; ")
        ),
    }
}

/// An admin let a held roster proceed.
pub(crate) fn confirmed(generation: u64, by: u32, cuts: &[String]) {
    tracing::warn!(
        message_id = id::CONFIRMED,
        rosterd_generation = generation,
        rosterd_peer_uid = by,
        "uid {by} confirmed the cut of {}",
        cuts.join(", ")
    );
}

/// The repository of the roster has another commit.
pub(crate) fn fetched(url: &str, commit: &str) {
    tracing::info!(message_id = id::FETCHED, rosterd_commit = commit, "{url} is at commit {commit}");
}

/// It cannot be read; what is in force stays. Told once for as long as it lasts.
pub(crate) fn not_fetched(url: &str, why: &str) {
    tracing::error!(
        message_id = id::NOT_FETCHED,
        "the roster cannot be fetched from {url}, what is in force stays: {why}"
    );
}

/// Something was told to the webhook.
pub(crate) fn announced(announcement: &Announcement) {
    tracing::info!(message_id = id::ANNOUNCED, "announced: {}", announcement.text);
}

/// The webhook does not take it; it is tried again, and that is told once.
pub(crate) fn not_announced(announcement: &Announcement, why: &str) {
    tracing::warn!(
        message_id = id::NOT_ANNOUNCED,
        "not announced yet, tried again by itself: {}: {why}",
        announcement.text
    );
}

/// Account and home of somebody who was cut are removed.
pub(crate) fn removed(generation: u64, user: &OsUser, archive: &str) {
    tracing::info!(
        message_id = id::REMOVED,
        rosterd_generation = generation,
        rosterd_user = user.as_str(),
        rosterd_archive = archive,
        "{user}: account and home removed, kept in {archive}"
    );
}

/// They are back.
pub(crate) fn restored(generation: u64, user: &OsUser, archive: &str) {
    tracing::info!(
        message_id = id::RESTORED,
        rosterd_generation = generation,
        rosterd_user = user.as_str(),
        rosterd_archive = archive,
        "{user}: account and home restored from {archive}; cut until the roster has them again"
    );
}

/// A run ended.
pub(crate) fn ended(run: &Run) {
    let done = run.steps.iter().filter(|record| record.result == StepResult::Done).count();
    let outcome = outcome(run.outcome);
    let text = if run.steps.is_empty() && run.outcome == Outcome::Converged {
        format!("run {}: nothing to do ({} ms)", run.id, run.took_ms)
    } else {
        format!(
            "run {}: {outcome}, {done} of {} applied ({} ms)",
            run.id,
            count(run.steps.len(), "step", "steps"),
            run.took_ms
        )
    };
    tracing::info!(
        message_id = id::RUN_ENDED,
        rosterd_run = run.id,
        rosterd_generation = run.generation,
        rosterd_outcome = outcome,
        rosterd_steps = done,
        rosterd_took_ms = run.took_ms,
        "{text}"
    );
}

/// The outcome as the journal and `systemctl status` name it.
pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Converged => "converged",
        Outcome::Degraded => "degraded",
        Outcome::Held => "held",
        Outcome::Failed => "failed",
    }
}

/// `1 person`, `2 people`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    /// Invariant 10: every record has a catalog entry, and the catalog has no others.
    #[test]
    fn the_catalog_explains_each_message_id_and_no_other() {
        let ids = |text: &str, before: &str, after: char| -> Vec<String> {
            let mut ids: Vec<_> = text
                .split(before)
                .skip(1)
                .filter_map(|rest| rest.split(after).next())
                .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
                .map(str::to_owned)
                .collect();
            ids.sort();
            ids
        };
        let here = ids(include_str!("journal.rs"), ": &str = \"", '"');
        let catalog = ids(include_str!("../../../packaging/rosterd.catalog"), "-- ", '\n');
        assert_eq!(here.len(), 19);
        assert_eq!(here, catalog);
    }
}
