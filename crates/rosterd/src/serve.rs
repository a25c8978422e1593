//! The control socket: who asks, whether they may, and the answer. Each connection is served by itself, so that a
//! client that does not read holds up nobody else.

use std::cell::Cell;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::time::Duration;

use control::{ControlError, HistoryReply, PlanReply, ProgressReply, ShowReply, StatusReply};
use futures_util::Stream;
use roster::ledger::WaitingCause;
use roster::name::OsUser;
use roster::plan::Subject;
use roster::provider::Provider;
use roster::report::{Outcome, Progress, RunSummary, Status, SubjectStatus, Trigger, WaitingStatus};
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use zlink::{Connection, Reply, Server};

use crate::daemon::{Ask, Daemon};
use crate::journal;
use crate::providers;
use crate::run;

/// More than an admin and the timers need; a reader of the group who opens more is turned away.
const MOST_CONNECTIONS: usize = 64;

/// The group whose members may read.
const READERS: &str = "rosterd";

/// Serves until the daemon stops.
pub(crate) async fn serve(daemon: Rc<Daemon>, listener: StdUnixListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: wait, the kernel keeps the queue.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        if open.get() >= MOST_CONNECTIONS {
            continue;
        }
        open.set(open.get() + 1);
        let (daemon, open) = (Rc::clone(&daemon), Rc::clone(&open));
        tokio::task::spawn_local(async move {
            if let Err(error) = one_connection(daemon, stream).await {
                tracing::debug!("a control connection ended: {error}");
            }
            open.set(open.get() - 1);
        });
    }
}

async fn one_connection(daemon: Rc<Daemon>, stream: tokio::net::UnixStream) -> zlink::Result<()> {
    let mut connection = Connection::from(zlink::tokio::unix::Stream::try_from(stream)?);
    let peer = connection.peer_credentials().await?;
    let uid = peer.unix_user_id().as_raw();
    let readers = users::get_group_by_name(READERS).map(|group| group.gid());
    let groups = peer.unix_supplementary_group_ids().iter().map(|gid| gid.as_raw());
    let reads =
        uid == 0 || groups.chain([peer.unix_primary_group_id().as_raw()]).any(|gid| Some(gid) == readers);
    Server::new(One::First(Box::new(connection)), Control { daemon, uid, reads }).run().await
}

/// A listener that gives one connection, says that there are no more, and is then silent, as zlink asks.
#[derive(Debug)]
enum One {
    First(Box<zlink::tokio::unix::Connection>),
    Last,
    Silent,
}

impl zlink::Listener for One {
    type Socket = zlink::tokio::unix::Stream;

    async fn accept(&mut self) -> zlink::Result<Option<Connection<Self::Socket>>> {
        match std::mem::replace(self, One::Last) {
            One::First(connection) => Ok(Some(*connection)),
            One::Last => {
                *self = One::Silent;
                Ok(None)
            }
            One::Silent => std::future::pending().await,
        }
    }
}

/// One peer's view of the daemon.
struct Control {
    daemon: Rc<Daemon>,
    uid: u32,
    reads: bool,
}

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<Reply<ProgressReply>, ControlError>>>>;

impl Control {
    fn may_read(&self) -> Result<(), ControlError> {
        if self.reads {
            Ok(())
        } else {
            Err(ControlError::PermissionDenied { needs: format!("root or a member of the group {READERS}") })
        }
    }

    fn may_change(&self) -> Result<(), ControlError> {
        if self.uid == 0 { Ok(()) } else { Err(ControlError::PermissionDenied { needs: "root".into() }) }
    }

    fn known(&self, user: Option<String>) -> Result<Option<OsUser>, ControlError> {
        let Some(text) = user else { return Ok(None) };
        let ledger = self.daemon.ledger();
        match OsUser::new(text.as_str()) {
            Ok(user)
                if self.daemon.in_force().is_some_and(|f| f.roster.users.contains_key(&user))
                    || ledger.identities.contains_key(&user) =>
            {
                Ok(Some(user))
            }
            _ => Err(ControlError::NoSuchUser { user: text }),
        }
    }

    fn provider(&self, name: &str) -> Result<Provider, ControlError> {
        let provider: Provider = name.parse().map_err(|what| ControlError::Failed { what })?;
        if providers::is_configured(&self.daemon.config(), provider) {
            return Ok(provider);
        }
        let what = format!("no {provider} is configured; see `[{provider}]` in /etc/rosterd/config.toml");
        Err(ControlError::Failed { what })
    }

    fn status_of(&self, user: Option<&OsUser>) -> Status {
        let daemon = &self.daemon;
        let ledger = daemon.ledger();
        let mut subjects = std::collections::BTreeMap::new();
        subjects.insert(Subject::Machine, SubjectStatus::Converged);
        if let Some(in_force) = daemon.in_force() {
            for (user, person) in &in_force.roster.users {
                let status = if person.parked { SubjectStatus::Parked } else { SubjectStatus::Converged };
                subjects.insert(Subject::User(user.clone()), status);
            }
        }
        for (subject, degraded) in &ledger.degraded {
            subjects.insert(subject.clone(), SubjectStatus::Degraded(degraded.clone()));
        }
        for (user, since) in &ledger.cut {
            subjects.insert(Subject::User(user.clone()), SubjectStatus::Cut { since: *since });
        }
        if let Some(problem) = daemon.ledger_trouble().or_else(|| daemon.write_trouble()) {
            let now = jiff::Timestamp::now();
            let degraded =
                roster::ledger::Degraded { since: now, failures: 1, next_try: now, problems: vec![problem] };
            subjects.insert(Subject::Machine, SubjectStatus::Degraded(degraded));
        }
        if let Some(user) = user {
            subjects.retain(|subject, _| *subject == Subject::User(user.clone()));
        }
        let concerns = |subject: &Subject| user.is_none_or(|user| *subject == Subject::User(user.clone()));
        let notices = ledger.told.iter().filter(|notice| concerns(&notice.subject)).cloned().collect();
        let last_run = daemon.last_run();
        let providers = providers::status(daemon);
        let mut outcome = last_run.as_ref().map_or(Outcome::Converged, |run| run.outcome);
        if outcome == Outcome::Converged && providers.values().any(|provider| !provider.degraded.is_empty()) {
            outcome = Outcome::Degraded;
        }
        Status {
            generation: ledger.generation,
            since: ledger.applied.as_ref().map(|applied| applied.since),
            activity: daemon.activity(),
            waiting: ledger
                .waiting
                .as_ref()
                .map(|waiting| WaitingStatus { since: waiting.since, cause: waiting.cause.clone() }),
            outcome,
            providers,
            last_run,
            subjects,
            notices,
        }
    }
}

fn value(data: &impl Serialize) -> Result<Value, ControlError> {
    serde_json::to_value(data).map_err(|error| ControlError::Failed { what: error.to_string() })
}

fn store_failed(error: &crate::store::StoreError) -> ControlError {
    ControlError::Failed { what: run::chain(error) }
}

/// Progress as replies; the last one ends the call.
fn answers(progress: mpsc::UnboundedReceiver<Progress>, more: bool) -> Answers {
    let stream = futures_util::stream::unfold(Some(progress), move |state| async move {
        let mut progress = state?;
        loop {
            return match progress.recv().await {
                None => Some((Err(ControlError::Stopping), None)),
                Some(event) => {
                    let last = matches!(event, Progress::Ended(_));
                    if !last && !more {
                        continue;
                    }
                    let reply = value(&event).map(|progress| {
                        Reply::new(Some(ProgressReply { progress })).set_continues(Some(!last))
                    });
                    Some((reply, (!last).then_some(progress)))
                }
            };
        }
    });
    Box::pin(stream)
}

fn refused(error: ControlError) -> Answers {
    Box::pin(futures_util::stream::iter([Err(error)]))
}

/// Waits until a run has looked at what is on disk, and tells that run.
async fn wait_for_disk(daemon: Rc<Daemon>, tell: mpsc::UnboundedSender<Progress>) {
    let mut ends = daemon.run_ends();
    let mut asked = false;
    while !tell.is_closed() {
        if !daemon.is_running() && daemon.is_considered(&daemon.read_disk()) {
            let last = daemon.last_run().and_then(|last| daemon.store.run(&last.id).ok().flatten());
            if let Some(run) = last {
                let _ = tell.send(Progress::Ended(Box::new(run)));
                return;
            }
        }
        if !daemon.is_running() && !asked {
            asked = true;
            daemon.ask(Ask::new(Trigger::Change, None, None));
        } else {
            asked = false;
        }
        tokio::select! {
            ended = ends.changed() => if ended.is_err() { return },
            () = tell.closed() => return,
            () = daemon.stopped() => return,
        }
    }
}

#[zlink::service(
    interface = "io.rosterd.Control",
    vendor = "rosterd",
    product = "rosterd",
    version = env!("CARGO_PKG_VERSION"),
    url = "man:rosterctl(1)"
)]
impl Control {
    /// Generation, last run, and how every subject is, or one.
    async fn status(&self, user: Option<String>) -> Result<StatusReply, ControlError> {
        self.may_read()?;
        let user = self.known(user)?;
        Ok(StatusReply { status: value(&self.status_of(user.as_ref()))? })
    }

    /// What a reconcile would do. Changes nothing.
    async fn plan(&self, user: Option<String>) -> Result<PlanReply, ControlError> {
        self.may_read()?;
        let user = match user {
            // A person may be on disk and not yet in force.
            Some(text) => {
                Some(OsUser::new(text.as_str()).map_err(|_| ControlError::NoSuchUser { user: text })?)
            }
            None => None,
        };
        match run::preview(&self.daemon, user.as_ref()).await {
            Ok(plan) => Ok(PlanReply { plan: value(&plan)? }),
            Err(problem) => Err(ControlError::Failed {
                what: format!("{}: {}; {}", problem.what, problem.why, problem.next),
            }),
        }
    }

    /// Runs now and tells every step; the last reply is the whole run.
    #[zlink(more)]
    async fn reconcile(
        &self,
        more: bool,
        user: Option<String>,
    ) -> impl Stream<Item = Result<Reply<ProgressReply>, ControlError>> + Unpin {
        let user = match self.may_change().and_then(|()| self.known(user)) {
            Ok(user) => user,
            Err(error) => return refused(error),
        };
        let (tell, told) = mpsc::unbounded_channel();
        self.daemon.ask(Ask::new(Trigger::Request, user, Some(tell)));
        answers(told, more)
    }

    /// What a reconcile of a provider would do. Changes nothing.
    async fn plan_provider(&self, provider: String, user: Option<String>) -> Result<PlanReply, ControlError> {
        self.may_read()?;
        let provider = self.provider(&provider)?;
        let user = self.known(user)?;
        match providers::preview(&self.daemon, provider, user.as_ref()).await {
            Ok(plan) => Ok(PlanReply { plan: value(&plan)? }),
            Err(problem) => Err(ControlError::Failed {
                what: format!("{}: {}; {}", problem.what, problem.why, problem.next),
            }),
        }
    }

    /// Reconciles a provider now and tells every step; the last reply is the whole run.
    #[zlink(more)]
    async fn reconcile_provider(
        &self,
        more: bool,
        provider: String,
        user: Option<String>,
    ) -> impl Stream<Item = Result<Reply<ProgressReply>, ControlError>> + Unpin {
        let asked = self.may_change().and_then(|()| Ok((self.provider(&provider)?, self.known(user)?)));
        let (provider, user) = match asked {
            Ok(asked) => asked,
            Err(error) => return refused(error),
        };
        let (tell, told) = mpsc::unbounded_channel();
        self.daemon.providers.ask_one(provider, Ask::new(Trigger::Request, user, Some(tell)));
        answers(told, more)
    }

    /// Answers when the content on disk has been looked at, with the run that did it.
    #[zlink(more)]
    async fn wait(
        &self,
        more: bool,
        timeout_s: Option<u32>,
    ) -> impl Stream<Item = Result<Reply<ProgressReply>, ControlError>> + Unpin {
        if let Err(error) = self.may_read() {
            return refused(error);
        }
        let (tell, told) = mpsc::unbounded_channel();
        tokio::task::spawn_local(wait_for_disk(Rc::clone(&self.daemon), tell));
        let answers = answers(told, more);
        match timeout_s {
            None => answers,
            Some(seconds) => {
                let end = Box::pin(tokio::time::sleep(Duration::from_secs(seconds.into())));
                let timed_out = futures_util::stream::once(async move {
                    end.await;
                    Err(ControlError::TimedOut)
                });
                first_of(answers, Box::pin(timed_out))
            }
        }
    }

    /// The newest runs, the newest first.
    async fn history(&self, limit: u32) -> Result<HistoryReply, ControlError> {
        self.may_read()?;
        let ids = self.daemon.store.run_ids().map_err(|error| store_failed(&error))?;
        let mut runs = Vec::new();
        for id in ids.iter().rev().take(limit as usize) {
            if let Ok(Some(run)) = self.daemon.store.run(id) {
                runs.push(value(&RunSummary::from(&run))?);
            }
        }
        Ok(HistoryReply { runs })
    }

    /// One run with its steps; `last` is the newest.
    async fn show(&self, run: String) -> Result<ShowReply, ControlError> {
        self.may_read()?;
        let id = match run.as_str() {
            "last" => self.daemon.last_run().map(|last| last.id).unwrap_or_default(),
            _ => run,
        };
        match self.daemon.store.run(&id).map_err(|error| store_failed(&error))? {
            Some(run) => Ok(ShowReply { run: value(&run)? }),
            None => Err(ControlError::NoSuchRun { id }),
        }
    }

    /// Lets a held roster proceed that would cut exactly these people.
    async fn confirm(&self, cuts: Vec<String>) -> Result<(), ControlError> {
        self.may_change()?;
        let ledger = self.daemon.ledger();
        let Some(waiting) = &ledger.waiting else { return Err(ControlError::NothingHeld) };
        let WaitingCause::Held { cuts: held, .. } = &waiting.cause else {
            return Err(ControlError::NothingHeld);
        };
        let mut asked = cuts.clone();
        asked.sort_unstable();
        if !asked.iter().map(String::as_str).eq(held.iter().map(OsUser::as_str)) {
            return Err(ControlError::HeldDiffers);
        }
        journal::confirmed(ledger.generation, self.uid, &cuts);
        let kept = self.daemon.change_ledger(|ledger| {
            if let Some(waiting) = &mut ledger.waiting
                && let WaitingCause::Held { confirmed, .. } = &mut waiting.cause
            {
                *confirmed = true;
            }
        });
        if !kept {
            return Err(ControlError::Failed {
                what: "the ledger cannot be written; see the journal".into(),
            });
        }
        self.daemon.ask(Ask::new(Trigger::Change, None, None));
        Ok(())
    }
}

/// Items of `answers` until it ends or `end` speaks.
fn first_of(answers: Answers, end: Answers) -> Answers {
    let both = futures_util::stream::unfold(Some((answers, end)), |state| async move {
        use futures_util::StreamExt;
        let (mut answers, mut end) = state?;
        tokio::select! {
            biased;
            item = answers.next() => item.map(|item| (item, Some((answers, end)))),
            item = end.next() => item.map(|item| (item, None)),
        }
    });
    Box::pin(both)
}
