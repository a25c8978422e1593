//! The worker as the tests use it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::Duration;

use home::{Limits, Person, Worker, WorkerError};
use roster::desired::{CloneDesired, HomeDesired};
use roster::name::OsUser;
use roster::plan::HomeAction;
use roster::report::StepResult;

use crate::support::Somebody;

pub const LIMITS: Limits = Limits { deadline: Duration::from_secs(30), memory_mib: 512, mirrors: "/nonexistent" };

/// `support/worker_main.rs`.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_home-test-worker").into()
}

pub fn person(of: &Somebody) -> Person {
    Person {
        user: OsUser::new("ana").unwrap(),
        uid: of.uid,
        gid: of.uid,
        groups: vec![],
        home: of.home.clone(),
    }
}

pub async fn start(of: &Somebody) -> Worker {
    start_within(of, LIMITS).await.unwrap()
}

pub async fn start_within(of: &Somebody, limits: Limits) -> Result<Worker, WorkerError> {
    Worker::start(&program(), &person(of), limits).await
}

pub fn wanted(path: &str, url: &str, locked: bool) -> CloneDesired {
    CloneDesired { path: path.into(), url: url.into(), locked }
}

pub fn home(clones: &[&CloneDesired]) -> HomeDesired {
    HomeDesired {
        workspace: clones.iter().any(|clone| clone.path != "code"),
        clones: clones.iter().copied().cloned().collect(),
    }
}

/// One clone by a worker of its own.
pub async fn clone(of: &Somebody, path: &str, url: &str, locked: bool) -> StepResult {
    let mut worker = start(of).await;
    let result = worker.apply(&HomeAction::Clone(wanted(path, url, locked))).await;
    worker.finish().await;
    result
}

pub fn why(result: &StepResult) -> &str {
    match result {
        StepResult::Failed { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

pub fn next(result: &StepResult) -> &str {
    match result {
        StepResult::Failed { next, .. } => next,
        other => panic!("{other:?}"),
    }
}
