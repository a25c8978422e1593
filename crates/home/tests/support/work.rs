//! The worker as the tests use it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::Duration;

use home::{Limits, Person, Programs, Worker, WorkerError};
use roster::desired::{CloneDesired, HomeDesired};
use roster::name::OsUser;
use roster::plan::HomeAction;
use roster::report::StepResult;

use crate::support::Somebody;

pub const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(30),
    memory_mib: 512,
    max_clone_mib: 4096,
    mirrors: "/nonexistent",
};

/// `support/worker_main.rs`.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_home-test-worker").into()
}

/// The same with `support/look_main.rs`.
pub fn programs() -> Programs {
    Programs { look: env!("CARGO_BIN_EXE_home-test-look").into(), work: program() }
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
        ..HomeDesired::default()
    }
}

/// One clone by a worker of its own.
pub async fn clone(of: &Somebody, path: &str, url: &str, locked: bool) -> StepResult {
    let mut worker = start(of).await;
    let result = worker.apply(&HomeAction::Clone(wanted(path, url, locked))).await;
    worker.finish();
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

/// One run in a home as the daemon does it: look, plan, do each step whose needs were met. What was planned, as
/// people read it, with the outcome of each step that failed.
pub async fn run_in(of: &Somebody, desired: &HomeDesired) -> String {
    run_by(&program(), of, desired).await
}

/// The same by another worker.
pub async fn run_by(program: &std::path::Path, of: &Somebody, desired: &HomeDesired) -> String {
    let mut worker = Worker::start(program, &person(of), LIMITS).await.unwrap();
    let observed = match worker.observe(desired).await {
        Ok(observed) => observed,
        Err(error) => return format!("? {error}\n"),
    };
    let plan = roster::plan::home(&person(of).user, desired, &observed);
    let mut text = String::new();
    let mut done = Vec::new();
    for step in &plan.steps {
        let roster::plan::Action::Home(action) = &step.action else { panic!("{step:?}") };
        let met = step.needs.iter().all(|need| done[*need]);
        let result = if met { Some(worker.apply(action).await) } else { None };
        done.push(result == Some(StepResult::Done));
        match result {
            Some(StepResult::Done) => text += &format!("{}\n", step.action),
            Some(StepResult::Failed { why, .. }) => text += &format!("{}: FAILED: {why}\n", step.action),
            _ => text += &format!("{}: skipped\n", step.action),
        }
    }
    for problem in plan.problems {
        text += &format!("! {}: {}\n", problem.what, problem.why);
    }
    for notice in plan.notices {
        text += &format!("- {}\n", notice.text);
    }
    worker.finish();
    text
}

/// A home as the roster and the configuration of a site make it: infra, other clones, all of the wiring.
pub fn site(infra: CloneDesired, others: &[&CloneDesired], push: Option<&str>) -> HomeDesired {
    let workspace = infra.path != "code";
    let clones = std::iter::once(infra).chain(others.iter().copied().cloned()).collect();
    let push = push.map(|url| roster::config::PushRemote {
        name: roster::name::RemoteName::new("forgejo").unwrap(),
        url: url.into(),
    });
    let wiring = roster::wiring::WiringDesired {
        name: Some("Ana A".into()),
        email: Some("ana@example.org".into()),
        store_credentials: true,
        push,
    };
    HomeDesired { workspace, clones, wiring, ..HomeDesired::default() }
}
