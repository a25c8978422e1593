//! A worker that is asked one thing and ends.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::process::{Advice, Process, WorkerError};
use crate::text::clean;

/// The longest line that either may write: more than fifty thousand members of a group take.
const LONGEST: usize = 32 << 20;

/// What such a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// What was asked for.
    Done(T),
    /// It did not work: why.
    Failed(String),
}

/// Starts `program` with `arguments`, the first of which is its name, and asks it one thing.
pub async fn ask_once<T: DeserializeOwned>(
    program: &Path,
    arguments: &[&str],
    question: &impl Serialize,
    doing: &str,
    given: Duration,
    advice: &'static Advice,
) -> Result<T, WorkerError> {
    let mut worker = Process::start(program, arguments, (Instant::now(), given), LONGEST, advice)?;
    let until = worker.deadline();
    let answer = worker.ask(&[question], doing, until).await?;
    worker.finish();
    match answer {
        Answer::Done(answer) => Ok(answer),
        Answer::Failed(why) => Err(WorkerError::Refused { why: clean(&why), next: advice.ended.into() }),
    }
}
