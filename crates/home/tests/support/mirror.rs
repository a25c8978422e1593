//! The mirror's folder and the worker that keeps it, as the tests use them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use home::{Limits, Programs, RemoteWorker, Worker};
use roster::desired::HomeDesired;
use roster::plan::refresh;
use roster::plan::{Action, MirrorAction, Plan};
use roster::remote::{Answer, Asked, LookAt, Remote, Remotes};
use roster::report::StepResult;
use tempfile::TempDir;

use crate::support::{Somebody, open_dir};
use crate::work::{LIMITS, person, program, programs};

/// A system user's.
pub const UID: u32 = 991;

/// The folder of the mirrors.
pub struct Mirrors {
    pub limits: Limits,
    dir: TempDir,
}

impl Mirrors {
    pub fn new() -> Mirrors {
        let dir = open_dir();
        let path = dir.path().join("mirror");
        fs::create_dir(&path).unwrap();
        chown(&path, Some(UID), Some(UID)).unwrap();
        // Leaked: a test is short.
        let mirrors = Box::leak(path.to_str().unwrap().to_owned().into_boxed_str());
        Mirrors { limits: Limits { mirrors, ..LIMITS }, dir }
    }

    pub fn path(&self) -> &Path {
        Path::new(self.limits.mirrors)
    }

    /// The only mirror in it.
    pub fn only(&self) -> PathBuf {
        let all: Vec<_> = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    pub async fn worker(&self, url: &str) -> RemoteWorker {
        RemoteWorker::start(&program(), (UID, UID), url, true, self.limits).await.unwrap()
    }

    /// Asks, and fetches what the mirror does not have.
    pub async fn refresh(&self, url: &str) -> Asked {
        let mut worker = self.worker(url).await;
        let asked = worker.ask().await.unwrap();
        for step in refresh::mirror(url, &asked).steps {
            let Action::Mirror(action) = step.action else { panic!("{step}") };
            assert_eq!(worker.apply(&action).await, StepResult::Done);
        }
        worker.finish();
        asked
    }

    pub async fn check(&self, url: &str) {
        let mut worker = self.worker(url).await;
        assert_eq!(worker.apply(&MirrorAction::Check { url: url.into() }).await, StepResult::Done);
        worker.finish();
    }

    /// What a run knows of a remote.
    pub async fn remotes(&self, url: &str) -> Remotes {
        let asked = self.refresh(url).await;
        let mirrored = matches!(asked.answer, Answer::Refs(_));
        Remotes::from([(url.to_owned(), Remote { answer: asked.answer, mirrored })])
    }

    /// The same with a worker that may die at any moment: whether it lived to the end.
    pub async fn run_with(
        &self,
        program: &Path,
        of: &Somebody,
        desired: &HomeDesired,
        remotes: &Remotes,
    ) -> bool {
        let look: Vec<LookAt> = refresh::look_at(desired, remotes);
        let programs = Programs { work: program.to_owned(), ..programs() };
        let started = Worker::start_looking(&programs, &person(of), self.limits, desired, look.clone()).await;
        let Ok((mut worker, observed, states)) = started else { return false };
        let who = person(of).user;
        let mut plan = refresh::fetches(&who, desired, &refresh::ours(desired, &observed, states), remotes);
        let mut lived = true;
        for _ in 0..2 {
            for step in &plan.steps {
                let Action::Home(action) = &step.action else { panic!("{step}") };
                lived &= worker.apply(action).await == StepResult::Done;
            }
            let Ok(states) = worker.look(look.clone()).await else { return false };
            let (branches, _) = refresh::behind(&who, desired, &states, remotes);
            let Ok(standings) = worker.inspect(branches.clone()).await else { return false };
            plan = refresh::fast_forwards(&who, &branches.into_iter().zip(standings).collect::<Vec<_>>());
        }
        worker.finish();
        lived
    }

    /// A whole refresh of a home, as a run does it: the plan of each part, the first of them with the steps that were
    /// applied.
    pub async fn run(&self, of: &Somebody, desired: &HomeDesired, remotes: &Remotes) -> Refreshed {
        let look: Vec<LookAt> = refresh::look_at(desired, remotes);
        let started =
            Worker::start_looking(&programs(), &person(of), self.limits, desired, look.clone()).await;
        let (mut worker, observed, states) = started.unwrap();
        let mut told = Plan::default();
        let mut without_mirror = None;
        let who = person(of).user;
        let states = refresh::ours(desired, &observed, states);
        let fetches = refresh::fetches(&who, desired, &states, remotes);
        for step in &fetches.steps {
            let Action::Home(action) = &step.action else { panic!("{step}") };
            let (result, why) = worker.apply_from(action, &roster::plan::refresh::Way::Server).await;
            assert_eq!(result, StepResult::Done, "{step}");
            without_mirror = without_mirror.or(why);
        }
        told.append(fetches);
        let states = refresh::ours(desired, &observed, worker.look(look).await.unwrap());
        let (branches, notices) = refresh::behind(&who, desired, &states, remotes);
        told.append(notices);
        let standings = worker.inspect(branches.clone()).await.unwrap();
        let pairs: Vec<_> = branches.into_iter().zip(standings).collect();
        let forwards = refresh::fast_forwards(&who, &pairs);
        for step in &forwards.steps {
            let Action::Home(action) = &step.action else { panic!("{step}") };
            assert_eq!(worker.apply(action).await, StepResult::Done, "{step}");
        }
        told.append(forwards);
        worker.finish();
        Refreshed { plan: told, without_mirror }
    }
}

/// What a refresh did.
pub struct Refreshed {
    pub plan: Plan,
    pub without_mirror: Option<String>,
}

impl Refreshed {
    /// The kinds of the steps.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.plan.steps.iter().map(|step| step.action.kind()).collect()
    }

    /// What was told.
    pub fn told(&self) -> Vec<&str> {
        self.plan.notices.iter().map(|notice| notice.text.as_str()).collect()
    }
}
