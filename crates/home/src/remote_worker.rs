//! The daemon's end of a worker that asks one public remote as the user `rosterd`, and keeps its mirror.

use std::path::Path;

use roster::plan::MirrorAction;
use roster::remote::Asked;
use roster::report::StepResult;
use tokio::time::Instant;
use worker_process::WorkerError;

use crate::protocol::{Become, Request, Task};
use crate::supervisor::{Limits, Worker};
use crate::worker::ASK;

/// A process that speaks to one remote. Dropping it kills it.
#[derive(Debug)]
pub struct RemoteWorker {
    worker: Worker,
    url: String,
}

impl RemoteWorker {
    /// Starts `program` as a system user with these ids, who owns the folder of the mirrors. With `mirror` it may
    /// change the mirror of `url` in it, else only look at it, and nothing else on this machine.
    pub async fn start(
        program: &Path,
        (uid, gid): (u32, u32),
        url: &str,
        mirror: bool,
        limits: Limits,
    ) -> Result<RemoteWorker, WorkerError> {
        let who = Become {
            user: "the user of the mirrors".into(),
            uid,
            gid,
            groups: Vec::new(),
            home: limits.mirrors.into(),
            memory_mib: limits.memory_mib,
            max_clone_mib: limits.max_clone_mib,
            deadline_s: limits.deadline.as_secs().max(1),
            task: Task::Remote { url: url.to_owned(), mirror },
        };
        let worker = Worker::begin(program, who, &[], limits, Instant::now()).await?;
        Ok(RemoteWorker { worker, url: url.to_owned() })
    }

    /// Asks the remote for its refs. To be done once, and first.
    pub async fn ask(&mut self) -> Result<Asked, WorkerError> {
        self.worker.asked(&self.url, ASK).await
    }

    /// Does one step in the mirror: a fetch after the question, or a check instead of it.
    pub async fn apply(&mut self, action: &MirrorAction) -> StepResult {
        let doing = match action {
            MirrorAction::Fetch { url } => format!("fetching {url} into the mirror"),
            MirrorAction::Check { url } => format!("checking the mirror of {url}"),
        };
        self.worker.step(&Request::Mirror(action.clone()), &doing).await.0
    }

    /// Lets the worker end.
    pub fn finish(self) {
        self.worker.finish();
    }
}
