//! The asking side: one connection, typed questions and answers.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use roster::access::Access;
use roster::name::OsUser;
use roster::plan::Plan;
use roster::provider::Provider;
use roster::report::{Leaver, Progress, Run, RunSummary, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;
use zlink::tokio::unix;

use crate::{
    AccessReply, ControlError, HistoryReply, LeaverReply, PlanReply, ProgressReply, ShowReply, StatusReply,
};

/// How often, and after what time each, a connection is tried that the kernel has no room for.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// What went wrong on the way.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the socket may not be opened.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: zlink::Error,
    },
    /// The connection broke.
    #[error("the connection to rosterd broke")]
    Broken(#[source] zlink::Error),
    /// The daemon refuses.
    #[error("{}", .0.text())]
    Refused(ControlError),
    /// The daemon answers in a form that this version does not know.
    #[error("rosterd answers in a form that this version does not know")]
    Form(#[source] serde_json::Error),
    /// The daemon went away before the end.
    #[error("rosterd went away before the run ended")]
    Gone,
}

/// What a run tells while it goes on. Ends after [`Progress::Ended`].
pub type Events<'a> = Pin<Box<dyn Stream<Item = Result<Progress, ClientError>> + 'a>>;

#[zlink::proxy("io.rosterd.Control")]
trait Control {
    async fn status(&mut self, user: Option<&str>) -> zlink::Result<Result<StatusReply, ControlError>>;
    async fn plan(
        &mut self,
        user: Option<&str>,
        roster: Option<&str>,
    ) -> zlink::Result<Result<PlanReply, ControlError>>;
    #[zlink(more)]
    async fn reconcile(
        &mut self,
        user: Option<&str>,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<ProgressReply, ControlError>>>>;
    #[zlink(more)]
    async fn wait(
        &mut self,
        timeout_s: Option<u32>,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<ProgressReply, ControlError>>>>;
    async fn history(&mut self, limit: u32) -> zlink::Result<Result<HistoryReply, ControlError>>;
    async fn show(&mut self, run: &str) -> zlink::Result<Result<ShowReply, ControlError>>;
    async fn access(&mut self, user: &str) -> zlink::Result<Result<AccessReply, ControlError>>;
    async fn plan_provider(
        &mut self,
        provider: &str,
        user: Option<&str>,
    ) -> zlink::Result<Result<PlanReply, ControlError>>;
    #[zlink(more)]
    async fn reconcile_provider(
        &mut self,
        provider: &str,
        user: Option<&str>,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<ProgressReply, ControlError>>>>;
    async fn confirm(&mut self, cuts: Vec<String>) -> zlink::Result<Result<(), ControlError>>;
    async fn leaver(&mut self, user: &str) -> zlink::Result<Result<LeaverReply, ControlError>>;
    async fn removed(&mut self, user: &str, archive: &str) -> zlink::Result<Result<(), ControlError>>;
    async fn restored(&mut self, user: &str, archive: &str) -> zlink::Result<Result<(), ControlError>>;
}

/// One connection to the daemon.
#[derive(Debug)]
pub struct Client {
    connection: zlink::tokio::unix::Connection,
}

impl Client {
    /// Connects to the socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let mut tries = 0;
        loop {
            match unix::connect(path).await {
                Ok(connection) => return Ok(Self { connection }),
                // Others connect faster than the daemon accepts.
                Err(zlink::Error::Io(error))
                    if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(source) => return Err(ClientError::Connect { path: path.to_path_buf(), source }),
            }
        }
    }

    /// Generation, last run, and how every subject is, or one.
    pub async fn status(&mut self, user: Option<&OsUser>) -> Result<Status, ClientError> {
        let reply = answer(self.connection.status(user.map(OsUser::as_str)).await)?;
        read(reply.status)
    }

    /// What a reconcile would do; with the text of a draft, what it would do if that were the roster.
    pub async fn plan(&mut self, user: Option<&OsUser>, draft: Option<&str>) -> Result<Plan, ClientError> {
        let reply = answer(self.connection.plan(user.map(OsUser::as_str), draft).await)?;
        read(reply.plan)
    }

    /// Runs now and tells every step.
    pub async fn reconcile<'a>(&'a mut self, user: Option<&'a OsUser>) -> Result<Events<'a>, ClientError> {
        let stream =
            self.connection.reconcile(user.map(OsUser::as_str)).await.map_err(ClientError::Broken)?;
        Ok(events(stream))
    }

    /// What a person can reach, and why.
    pub async fn access(&mut self, user: &OsUser) -> Result<Access, ClientError> {
        let asked = self.connection.access(user.as_str()).await;
        read(answer(asked)?.access)
    }

    /// What a reconcile of a provider would do.
    pub async fn plan_provider(
        &mut self,
        provider: Provider,
        user: Option<&OsUser>,
    ) -> Result<Plan, ClientError> {
        let asked = self.connection.plan_provider(provider.as_str(), user.map(OsUser::as_str)).await;
        read(answer(asked)?.plan)
    }

    /// Reconciles a provider now and tells every step.
    pub async fn reconcile_provider<'a>(
        &'a mut self,
        provider: Provider,
        user: Option<&'a OsUser>,
    ) -> Result<Events<'a>, ClientError> {
        let asked = self.connection.reconcile_provider(provider.as_str(), user.map(OsUser::as_str)).await;
        Ok(events(asked.map_err(ClientError::Broken)?))
    }

    /// Ends when the roster on disk is applied; the last event is the run that did it.
    pub async fn wait(&mut self, timeout_s: Option<u32>) -> Result<Events<'_>, ClientError> {
        let stream = self.connection.wait(timeout_s).await.map_err(ClientError::Broken)?;
        Ok(events(stream))
    }

    /// The newest runs, the newest first.
    pub async fn history(&mut self, limit: u32) -> Result<Vec<RunSummary>, ClientError> {
        let reply = answer(self.connection.history(limit).await)?;
        reply.runs.into_iter().map(read).collect()
    }

    /// One run with its steps; `last` is the newest.
    pub async fn show(&mut self, run: &str) -> Result<Run, ClientError> {
        let reply = answer(self.connection.show(run).await)?;
        read(reply.run)
    }

    /// Lets a held roster proceed that would cut exactly `cuts`.
    pub async fn confirm(&mut self, cuts: &[OsUser]) -> Result<(), ClientError> {
        answer(self.connection.confirm(cuts.iter().map(OsUser::to_string).collect()).await)
    }
}

impl Client {
    /// What the daemon knows of somebody who is cut or removed.
    pub async fn leaver(&mut self, user: &OsUser) -> Result<Leaver, ClientError> {
        let reply = answer(self.connection.leaver(user.as_str()).await)?;
        read(reply.leaver)
    }

    /// Tells that account and home of somebody who was cut are removed.
    pub async fn removed(&mut self, user: &OsUser, archive: &str) -> Result<(), ClientError> {
        answer(self.connection.removed(user.as_str(), archive).await)
    }

    /// Tells that they are back; the person is cut again, until the roster has them.
    pub async fn restored(&mut self, user: &OsUser, archive: &str) -> Result<(), ClientError> {
        answer(self.connection.restored(user.as_str(), archive).await)
    }
}

fn answer<T>(reply: zlink::Result<Result<T, ControlError>>) -> Result<T, ClientError> {
    reply.map_err(ClientError::Broken)?.map_err(ClientError::Refused)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(ClientError::Form)
}

fn events<'a>(
    stream: impl Stream<Item = zlink::Result<Result<ProgressReply, ControlError>>> + 'a,
) -> Events<'a> {
    Box::pin(stream.map(|reply| read(answer(reply)?.progress)))
}
