//! The control socket: who asks, whether they may, and the answer. Each connection is served by itself, so that a
//! client that does not read holds up nobody else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::time::Duration;

use control::{Call, CallError, Connection, ControlError, DESCRIPTION, INTERFACE, SERVICE_DESCRIPTION};
use roster::access::Access;
use roster::ledger::{Degraded, WaitingCause};
use roster::name::OsUser;
use roster::plan::{Notice, Plan, Problem, Seen, Subject};
use roster::provider::Provider;
use roster::report::{
    Leaver, Outcome, Progress, Run, RunSummary, Status, SubjectStatus, Trigger, WaitingStatus,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::access;
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::journal;
use crate::preview::preview;
use crate::providers;
use crate::removal;
use crate::run::chain;
use crate::running;
use crate::store::StoreError;

/// What one user may have open; more than a person and their scripts need.
const OPEN_EACH: usize = 8;
/// What all users but root may have open.
const OPEN_TOGETHER: usize = 64;
/// What root may have open besides: whoever reads may not lock root out, and a script of root's that leaks connections
/// may not take the daemon's descriptors.
const OPEN_ROOT: usize = 128;

/// How long a connection may say nothing. A person who is asked for a confirmation reads first.
const SILENCE: Duration = Duration::from_secs(600);

/// The group whose members may read.
const READERS: &str = "rosterd";

/// Serves until the daemon stops.
pub(crate) async fn serve(daemon: Rc<Daemon>, listener: StdUnixListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let open = Rc::new(RefCell::new(BTreeMap::<u32, usize>::new()));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: wait, the kernel keeps the queue.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
        if is_full(&open.borrow(), uid) {
            continue;
        }
        *open.borrow_mut().entry(uid).or_default() += 1;
        let (daemon, open) = (Rc::clone(&daemon), Rc::clone(&open));
        tokio::task::spawn_local(async move {
            if let Err(error) = one_connection(daemon, stream).await {
                tracing::debug!("a control connection ended: {error}");
            }
            let mut open = open.borrow_mut();
            let left = open.get(&uid).map_or(0, |open| open - 1);
            open.insert(uid, left);
            open.retain(|_, open| *open > 0);
        });
    }
}

fn is_full(open: &BTreeMap<u32, usize>, uid: u32) -> bool {
    if uid == 0 {
        return open.get(&0).is_some_and(|open| *open >= OPEN_ROOT);
    }
    let together: usize = open.iter().filter(|(uid, _)| **uid != 0).map(|(_, open)| open).sum();
    open.get(&uid).is_some_and(|open| *open >= OPEN_EACH) || together >= OPEN_TOGETHER
}

async fn one_connection(daemon: Rc<Daemon>, stream: UnixStream) -> io::Result<()> {
    let mut connection = Connection::new(stream).await?;
    let peer = connection.peer();
    let readers = users::get_group_by_name(READERS).map(|group| group.gid());
    let reads = peer.uid == 0 || peer.gids.iter().any(|gid| Some(*gid) == readers);
    let control = Control { daemon, uid: peer.uid, reads };
    while let Some(call) = tokio::time::timeout(SILENCE, connection.call()).await?? {
        control.answer(&mut connection, &call).await?;
    }
    Ok(())
}

/// One peer's view of the daemon.
struct Control {
    daemon: Rc<Daemon>,
    uid: u32,
    reads: bool,
}

/// Parameters of a method that may concern one person.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanOf {
    user: Option<String>,
    roster: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfOne {
    user: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    provider: String,
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    timeout_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    limit: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    run: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirm {
    cuts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    user: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    user: String,
    archive: String,
}

#[derive(Deserialize)]
struct Describe {
    interface: String,
}

impl Control {
    /// Answers one call; an error is one of the connection.
    async fn answer(&self, connection: &mut Connection, call: &Call) -> io::Result<()> {
        let refused = match self.try_to(connection, call).await? {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        connection.refuse(call, &refused).await
    }

    async fn try_to(&self, connection: &mut Connection, call: &Call) -> io::Result<Result<(), CallError>> {
        let method = call.method.strip_prefix(INTERFACE).and_then(|rest| rest.strip_prefix('.'));
        let answered = match (method, call.method.as_str()) {
            (Some("Status"), _) => self.status(call).and_then(|status| one("status", &status)),
            (Some("Plan"), _) => tokio::select! {
                plan = self.plan(call) => plan.and_then(|plan| one("plan", &plan)),
                () = connection.hung_up() => return Ok(Ok(())),
            },
            (Some("History"), _) => self.history(call).await.and_then(|runs| one("runs", &runs)),
            (Some("Show"), _) => self.show(call).and_then(|run| one("run", &run)),
            (Some("Confirm"), _) => self.confirm(call).map(|()| None),
            (Some("Leaver"), _) => self.leaver(call).and_then(|leaver| one("leaver", &leaver)),
            (Some("Removed"), _) => self.removed(call).map(|()| None),
            (Some("Restored"), _) => self.restored(call).map(|()| None),
            (Some("Access"), _) => tokio::select! {
                access = self.access(call) => access.and_then(|access| one("access", &access)),
                () = connection.hung_up() => return Ok(Ok(())),
            },
            (Some("PlanProvider"), _) => tokio::select! {
                plan = self.plan_provider(call) => plan.and_then(|plan| one("plan", &plan)),
                () = connection.hung_up() => return Ok(Ok(())),
            },
            (Some("ReconcileProvider"), _) => match self.reconcile_provider(call) {
                Ok(told) => return tell(connection, call, told, None).await,
                Err(error) => Err(error),
            },
            (Some("Reconcile"), _) => match self.reconcile(call) {
                Ok(told) => return tell(connection, call, told, None).await,
                Err(error) => Err(error),
            },
            (Some("Wait"), _) => match self.wait(call) {
                Ok((told, until)) => return tell(connection, call, told, until).await,
                Err(error) => Err(error),
            },
            (_, "org.varlink.service.GetInfo") => raw(&json!({
                "vendor": "rosterd",
                "product": "rosterd",
                "version": env!("CARGO_PKG_VERSION"),
                "url": "man:rosterctl(1)",
                "interfaces": ["org.varlink.service", INTERFACE],
            })),
            (_, "org.varlink.service.GetInterfaceDescription") => {
                call.parameters().and_then(|Describe { interface }| match interface.as_str() {
                    INTERFACE => raw(&json!({ "description": DESCRIPTION })),
                    "org.varlink.service" => raw(&json!({ "description": SERVICE_DESCRIPTION })),
                    _ => Err(CallError::InterfaceNotFound(interface)),
                })
            }
            _ => Err(CallError::MethodNotFound(call.method.clone())),
        };
        match answered {
            Ok(parameters) => connection.reply(call, parameters, false).await.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

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

    fn status(&self, call: &Call) -> Result<Status, CallError> {
        self.may_read()?;
        let Of { user } = call.parameters()?;
        let user = self.known(user)?;
        Ok(self.status_of(user.as_ref()))
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
        for (user, since) in &ledger.cut {
            subjects.insert(Subject::User(user.clone()), SubjectStatus::Cut { since: *since });
        }
        // Also of a cut that is not done whole.
        for (subject, degraded) in &ledger.degraded {
            subjects.insert(subject.clone(), SubjectStatus::Degraded(degraded.clone()));
        }
        let unreadable = daemon.ledger_trouble().map(|problem| {
            let now = jiff::Timestamp::now();
            Degraded { since: now, failures: 1, next_try: now, problems: vec![problem] }
        });
        if let Some(degraded) = unreadable.or_else(|| daemon.write_trouble()) {
            subjects.insert(Subject::Machine, SubjectStatus::Degraded(degraded));
        }
        if let Some(user) = user {
            subjects.retain(|subject, _| *subject == Subject::User(user.clone()));
        }
        let concerns = |subject: &Subject| user.is_none_or(|user| *subject == Subject::User(user.clone()));
        let told = ledger.told.iter().filter(|notice| concerns(&notice.subject)).cloned();
        // Both may hold at once; one of them is what has to be seen to first.
        let second = ledger.tiers_differ.as_ref().filter(|_| ledger.waiting.is_some()).map(|_| Notice {
            subject: Subject::Machine,
            text:
                "besides, tiers differ from the cluster's map, so nothing is applied; the journal tells whose"
                    .into(),
        });
        let in_hand = daemon.in_hand().into_iter().map(Subject::User).filter(|subject| concerns(subject));
        let in_hand = in_hand.map(|subject| Notice {
            subject,
            text: "the home is still being worked in, and takes long; nobody else waits for it".into(),
        });
        let notices = told.chain(second).chain(in_hand).collect();
        let mut seen = daemon.seen();
        seen.retain(|subject, _| concerns(subject) && subjects.contains_key(subject));
        // Of everybody there are too many.
        if user.is_none() {
            let of_people = seen.iter_mut().filter(|(subject, _)| **subject != Subject::Machine);
            of_people.for_each(|(_, seen)| seen.files.clear());
        }
        seen.retain(|_, seen| *seen != Seen::default());
        let last_run = daemon.last_run();
        let providers = providers::status(daemon);
        let outcome = match daemon.outcome(&Whom::Everybody) {
            Outcome::Converged if providers.values().any(|one| !one.degraded.is_empty()) => Outcome::Degraded,
            outcome => outcome,
        };
        Status {
            generation: ledger.generation,
            since: ledger.applied.as_ref().map(|applied| applied.since),
            commit: daemon.commit(),
            source: ledger.source.clone(),
            activity: daemon.activity(),
            waiting: running::waits_for(&ledger)
                .map(|waiting| WaitingStatus { since: waiting.since, cause: waiting.cause.clone() }),
            outcome,
            providers,
            last_run,
            subjects,
            notices,
            seen,
            remotes: if user.is_none() { daemon.remotes() } else { Default::default() },
        }
    }

    async fn plan(&self, call: &Call) -> Result<Plan, CallError> {
        self.may_read()?;
        let PlanOf { user, roster: draft } = call.parameters()?;
        if draft.is_some() {
            // Whoever may write the roster is root; what a draft asks for is looked at with the daemon's hands.
            self.may_change()?;
        }
        let user = match user {
            // A person may be on disk and not yet in force.
            Some(text) => {
                Some(OsUser::new(text.as_str()).map_err(|_| ControlError::NoSuchUser { user: text })?)
            }
            None => None,
        };
        let _turn = self.turn().await;
        Ok(preview(&self.daemon, user.as_ref(), draft).await.map_err(failed)?)
    }

    /// A plan looks at every home, and asks every remote or a provider: one at a time for all who may only read.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.uid {
            0 => None,
            _ => Some(self.daemon.previews.lock().await),
        }
    }

    async fn access(&self, call: &Call) -> Result<Access, CallError> {
        self.may_read()?;
        let OfOne { user } = call.parameters()?;
        let Some(user) = self.known(Some(user.clone()))? else {
            return Err(ControlError::NoSuchUser { user }.into());
        };
        let _turn = self.turn().await;
        Ok(access::of(&self.daemon, &user).await.map_err(failed)?)
    }

    fn provider(&self, name: &str) -> Result<Provider, ControlError> {
        let provider: Provider = name.parse().map_err(|what| ControlError::Failed { what })?;
        if providers::is_configured(&self.daemon.config(), provider) {
            return Ok(provider);
        }
        let what = format!("no {provider} is configured; see `[{provider}]` in /etc/rosterd/config.toml");
        Err(ControlError::Failed { what })
    }

    async fn plan_provider(&self, call: &Call) -> Result<Plan, CallError> {
        self.may_read()?;
        let At { provider, user } = call.parameters()?;
        let (provider, user) = (self.provider(&provider)?, self.known(user)?);
        let _turn = self.turn().await;
        Ok(providers::preview(&self.daemon, provider, user.as_ref()).await.map_err(failed)?)
    }

    fn reconcile_provider(&self, call: &Call) -> Result<mpsc::UnboundedReceiver<Progress>, CallError> {
        self.may_change()?;
        let At { provider, user } = call.parameters()?;
        let provider = self.provider(&provider)?;
        let whom = self.known(user)?.map_or(Whom::Everybody, Whom::One);
        let (tell, told) = mpsc::unbounded_channel();
        self.daemon.providers.ask_one(provider, Ask::new(Trigger::Request, whom, Some(tell)));
        Ok(told)
    }

    fn reconcile(&self, call: &Call) -> Result<mpsc::UnboundedReceiver<Progress>, CallError> {
        self.may_change()?;
        let Of { user } = call.parameters()?;
        let whom = self.known(user)?.map_or(Whom::Everybody, Whom::One);
        let (tell, told) = mpsc::unbounded_channel();
        self.daemon.ask(Ask::new(Trigger::Request, whom, Some(tell)));
        Ok(told)
    }

    fn wait(&self, call: &Call) -> Result<(mpsc::UnboundedReceiver<Progress>, Option<Duration>), CallError> {
        self.may_read()?;
        let Wait { timeout_s } = call.parameters()?;
        let (tell, told) = mpsc::unbounded_channel();
        let heard = self.daemon.heard();
        tokio::task::spawn_local(wait_for_disk(Rc::clone(&self.daemon), heard, tell));
        Ok((told, timeout_s.map(|seconds| Duration::from_secs(seconds.into()))))
    }

    async fn history(&self, call: &Call) -> Result<Vec<RunSummary>, CallError> {
        self.may_read()?;
        let History { limit } = call.parameters()?;
        let store = self.daemon.store.clone();
        // In a thread of its own: hundreds of runs, each with thousands of steps, take their time to read.
        let read = tokio::task::spawn_blocking(move || {
            let ids = store.run_ids()?;
            let runs = ids.iter().rev().filter_map(|id| store.run(id).ok().flatten());
            Ok(runs.map(|run| RunSummary::from(&run)).take(limit as usize).collect())
        });
        match read.await {
            Ok(runs) => Ok(runs.map_err(|error: StoreError| store_failed(&error))?),
            Err(error) => Err(ControlError::Failed { what: error.to_string() }.into()),
        }
    }

    fn show(&self, call: &Call) -> Result<Run, CallError> {
        self.may_read()?;
        let Show { run } = call.parameters()?;
        let id = match run.as_str() {
            "last" => self.daemon.last_run().map(|last| last.id).unwrap_or_default(),
            _ => run,
        };
        let run = self.daemon.run(&id).map_err(|error| store_failed(&error))?;
        Ok(run.ok_or(ControlError::NoSuchRun { id })?)
    }

    fn confirm(&self, call: &Call) -> Result<(), CallError> {
        self.may_change()?;
        let Confirm { cuts } = call.parameters()?;
        let ledger = self.daemon.ledger();
        let Some(WaitingCause::Held { cuts: held, .. }) = ledger.waiting.as_ref().map(|w| &w.cause) else {
            return Err(ControlError::NothingHeld.into());
        };
        let mut asked = cuts.clone();
        asked.sort_unstable();
        if !asked.iter().map(String::as_str).eq(held.iter().map(OsUser::as_str)) {
            return Err(ControlError::HeldDiffers.into());
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
            let what = "the ledger cannot be written; see the journal".into();
            return Err(ControlError::Failed { what }.into());
        }
        self.daemon.ask(Ask::new(Trigger::Change, Whom::Everybody, None));
        Ok(())
    }

    /// What the ledger knows of somebody who is cut or removed.
    fn leaver(&self, call: &Call) -> Result<Leaver, CallError> {
        self.may_change()?;
        let Person { user } = call.parameters()?;
        Ok(removal::leaver(&self.daemon, &user)?)
    }

    /// Account and home of somebody who was cut are removed, and kept in this archive.
    fn removed(&self, call: &Call) -> Result<(), CallError> {
        self.may_change()?;
        let Kept { user, archive } = call.parameters()?;
        Ok(removal::removed(&self.daemon, &user, archive)?)
    }

    /// They were restored from this archive.
    fn restored(&self, call: &Call) -> Result<(), CallError> {
        self.may_change()?;
        let Kept { user, archive } = call.parameters()?;
        Ok(removal::restored(&self.daemon, &user, &archive)?)
    }
}

/// Rendered at once and only once: a reply may be megabytes.
fn raw(data: &impl Serialize) -> Result<Option<Box<RawValue>>, CallError> {
    let failed = |error: serde_json::Error| ControlError::Failed { what: error.to_string() };
    Ok(Some(serde_json::value::to_raw_value(data).map_err(failed)?))
}

fn one(name: &str, data: &impl Serialize) -> Result<Option<Box<RawValue>>, CallError> {
    raw(&BTreeMap::from([(name, data)]))
}

fn failed(problem: Problem) -> ControlError {
    ControlError::Failed { what: format!("{}: {}; {}", problem.what, problem.why, problem.next) }
}

fn store_failed(error: &StoreError) -> ControlError {
    ControlError::Failed { what: chain(error) }
}

/// Sends progress as replies until the run has ended, the client has hung up or the time is up.
async fn tell(
    connection: &mut Connection,
    call: &Call,
    mut told: mpsc::UnboundedReceiver<Progress>,
    time: Option<Duration>,
) -> io::Result<Result<(), CallError>> {
    let end = time.map(|time| tokio::time::Instant::now() + time);
    loop {
        let progress = tokio::select! {
            biased;
            progress = told.recv() => progress,
            () = connection.hung_up() => return Ok(Ok(())),
            () = async { tokio::time::sleep_until(end.unwrap_or_else(tokio::time::Instant::now)).await }, if end.is_some() => {
                return Ok(Err(ControlError::TimedOut.into()));
            }
        };
        let Some(progress) = progress else { return Ok(Err(ControlError::Stopping.into())) };
        let is_last = matches!(progress, Progress::Ended(_));
        if is_last || call.more {
            connection.reply(call, Some(BTreeMap::from([("progress", progress)])), !is_last).await?;
        }
        if is_last {
            return Ok(Ok(()));
        }
    }
}

/// Waits until a run has looked at what is on disk and has answered all wishes up to `heard`, and tells that run.
async fn wait_for_disk(daemon: Rc<Daemon>, heard: u64, tell: mpsc::UnboundedSender<Progress>) {
    let mut ends = daemon.run_ends();
    let mut asked = false;
    while !tell.is_closed() {
        if daemon.has_answered(heard) {
            let last = daemon.last_run().and_then(|last| daemon.run(&last.id).ok().flatten());
            if let Some(run) = last {
                // It may have been for one person; what is asked here is how everything is.
                let outcome = daemon.outcome_for(&Whom::Everybody, &run);
                let _ = tell.send(Progress::Ended(Box::new(Run { outcome, ..run })));
                return;
            }
        }
        // A run that left homes in hand is followed by another without our asking.
        if !daemon.is_running() && !asked && daemon.in_hand().is_empty() {
            asked = true;
            daemon.ask(Ask::new(Trigger::Change, Whom::Everybody, None));
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
