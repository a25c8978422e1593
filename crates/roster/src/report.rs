//! What a run did: the record that the ledger keeps, `rosterctl` prints and programs read as JSON.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ledger::{Degraded, Identity, SourceState, WaitingCause};
use crate::name::OsUser;
use crate::plan::{Notice, Problem, Seen, Step, Subject};
use crate::provider::{Provider, ProviderStatus};
use crate::remote::Answer;
use crate::revocation::Left;

/// Why a run took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// The daemon started.
    Start,
    /// Roster or config changed.
    Change,
    /// Somebody asked: `rosterctl reconcile` or the hourly timer.
    Request,
    /// A degraded subject was due.
    Retry,
}

/// How a run ended. The number is the exit code of `rosterctl reconcile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything is as the roster says.
    Converged,
    /// Some subjects are not.
    Degraded,
    /// A guard holds the roster.
    Held,
    /// Nothing could be done: the roster is invalid, or differs from the cluster's map.
    Failed,
}

impl Outcome {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Converged => 0,
            Outcome::Failed => 1,
            Outcome::Degraded => 3,
            Outcome::Held => 4,
        }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Sorts by time: `20261124T190042Z-0001`.
    pub id: String,
    /// Why it took place.
    pub trigger: Trigger,
    /// The generation it applied.
    pub generation: u64,
    /// The commit that the roster in force came from, when it came from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why the roster on disk was not in force when it ended, when it was not.
    #[serde(default)]
    pub waiting: Option<WaitingCause>,
    /// Every step with what became of it, in order.
    pub steps: Vec<StepRecord>,
    /// What kept subjects from what the roster says.
    pub problems: Vec<Problem>,
    /// What was told.
    pub notices: Vec<Notice>,
    /// Whose homes were still being worked in when another run was wanted, which goes on with them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unfinished: BTreeSet<OsUser>,
}

/// A step and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// What became of it.
    pub result: StepResult,
    /// How long it took, in milliseconds; of steps that are applied together, the time of all.
    pub took_ms: u64,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StepResult {
    /// Applied.
    Done,
    /// Tried, in vain.
    Failed {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// Not tried, because a step that it needs failed or the daemon was told to stop.
    Skipped {
        /// Because of what.
        why: String,
    },
}

/// What `rosterctl status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The generation in force.
    pub generation: u64,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The commit that the roster in force came from, when it came from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What is known of the git repository that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceState>,
    /// What the daemon does right now, in words; nothing between runs.
    pub activity: Option<String>,
    /// Why the roster on disk is not in force, when it is not.
    pub waiting: Option<WaitingStatus>,
    /// The newest run.
    pub last_run: Option<RunSummary>,
    /// How everything is.
    pub outcome: Outcome,
    /// Every subject.
    pub subjects: BTreeMap<Subject, SubjectStatus>,
    /// What is left as it is on purpose.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// The providers that are configured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<Provider, ProviderStatus>,
    /// What was seen of each subject when it was last looked at; the files of one person only when they are asked for.
    #[serde(default)]
    pub seen: BTreeMap<Subject, Seen>,
    /// What each git remote said when it was last asked for everybody.
    #[serde(default)]
    pub remotes: BTreeMap<String, RemoteStatus>,
}

/// What a git remote said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// When it was asked.
    pub asked: Timestamp,
    /// What came of it.
    pub answer: RemoteAnswer,
}

/// What came of asking a git remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteAnswer {
    /// It answers everybody.
    Answers,
    /// It answers those who have a login, and each person asks with theirs.
    WantsLogin,
    /// It does not answer.
    Fails {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
}

impl From<&Answer> for RemoteAnswer {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Refs(_) => RemoteAnswer::Answers,
            Answer::WantsLogin { .. } => RemoteAnswer::WantsLogin,
            Answer::Failed { why, next } => RemoteAnswer::Fails { why: why.clone(), next: next.clone() },
        }
    }
}

/// Why the roster on disk is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingStatus {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    #[serde(flatten)]
    pub cause: WaitingCause,
}

/// A run in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its identifier.
    pub id: String,
    /// Why it took place.
    pub trigger: Trigger,
    /// The generation it applied.
    pub generation: u64,
    /// The commit that the roster in force came from, when it came from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How many steps were applied.
    pub done: usize,
    /// How many failed.
    pub failed: usize,
}

impl From<&Run> for RunSummary {
    fn from(run: &Run) -> Self {
        let with = |wanted: fn(&StepResult) -> bool| {
            run.steps.iter().filter(|record| wanted(&record.result)).count()
        };
        RunSummary {
            id: run.id.clone(),
            trigger: run.trigger,
            generation: run.generation,
            commit: run.commit.clone(),
            started: run.started,
            took_ms: run.took_ms,
            outcome: run.outcome,
            done: with(|result| *result == StepResult::Done),
            failed: with(|result| matches!(result, StepResult::Failed { .. })),
        }
    }
}

/// How one subject is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SubjectStatus {
    /// As the roster says.
    Converged,
    /// As the roster says, with every service stopped.
    Parked,
    /// Not as the roster says.
    Degraded(Degraded),
    /// Left the roster.
    Cut {
        /// Since when.
        since: Timestamp,
    },
}

/// Somebody who left, as the ledger knows them: what a removal needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaver {
    /// Since when they are cut.
    pub cut: Timestamp,
    /// The archive, when account and home are removed already.
    pub archive: Option<String>,
    /// The ids of the account; nothing when it never had any.
    pub identity: Option<Identity>,
    /// What they may still have at each configured provider.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rights: BTreeMap<Provider, Left>,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    /// What the run is at, in words.
    Phase {
        /// The words.
        text: String,
    },
    /// A step was applied, failed or skipped.
    Step(Box<StepRecord>),
    /// The run ended.
    Ended(Box<Run>),
}
