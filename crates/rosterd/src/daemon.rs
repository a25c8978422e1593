//! The daemon's state and its loop: one run at a time, requests that come meanwhile join the next one.
//!
//! Everything here lives on one thread; the ledger is shared as whole snapshots, so nobody sees half a change.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roster::config::Config;
use roster::ledger::{Ledger, WaitingCause};
use roster::name::OsUser;
use roster::parse;
use roster::plan::{Problem, Subject};
use roster::report::{Progress, Run, RunSummary, Trigger};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::accept::InForce;
use crate::journal;
use crate::run::{self, chain};
use crate::sources::OnDisk;
use crate::store::{Store, StoreError};
use crate::watch::Watch;

/// An editor writes several times; this long after the last write, the file is looked at.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A run that shows no progress for longer than a home's deadline and this is stuck, and systemd may restart us.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// A wish for a run.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) trigger: Trigger,
    /// Only this person; everybody when absent.
    pub(crate) user: Option<OsUser>,
    watchers: RefCell<Vec<mpsc::UnboundedSender<Progress>>>,
}

impl Ask {
    pub(crate) fn new(
        trigger: Trigger,
        user: Option<OsUser>,
        watcher: Option<mpsc::UnboundedSender<Progress>>,
    ) -> Self {
        Ask { trigger, user, watchers: RefCell::new(watcher.into_iter().collect()) }
    }

    /// Tells everyone who asked for the run.
    pub(crate) fn tell(&self, progress: &Progress) {
        self.watchers.borrow_mut().retain(|watcher| watcher.send(progress.clone()).is_ok());
    }

    /// One run that serves both wishes.
    fn join(&mut self, other: Ask) {
        let weight = |trigger| match trigger {
            Trigger::Retry => 0,
            Trigger::Change => 1,
            Trigger::Start => 2,
            Trigger::Request => 3,
        };
        if weight(other.trigger) > weight(self.trigger) {
            self.trigger = other.trigger;
        }
        if self.user != other.user {
            self.user = None;
        }
        self.watchers.borrow_mut().append(&mut other.watchers.borrow_mut());
    }
}

/// What the daemon knows.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) store: Store,
    pub(crate) config_path: PathBuf,
    /// Ourselves, for who only looks at homes, and the program of the workers.
    pub(crate) program: home::Programs,
    /// Set once, at SIGTERM.
    pub(crate) stop: Arc<AtomicBool>,
    stopping: watch::Sender<bool>,
    asks: mpsc::UnboundedSender<Ask>,
    /// Counts the runs that ended.
    runs: watch::Sender<u64>,
    ledger: RefCell<Rc<Ledger>>,
    in_force: RefCell<Option<Rc<InForce>>>,
    considered: RefCell<Option<OnDisk>>,
    last_run: RefCell<Option<RunSummary>>,
    activity: RefCell<Option<String>>,
    /// Why the ledger could not be read at the start: nothing is changed until somebody looks.
    unreadable: Option<Problem>,
    unwritable: RefCell<Option<Problem>>,
    running: Cell<bool>,
    alive: Cell<Instant>,
}

impl Daemon {
    /// Loads the ledger and what was in force.
    pub(crate) fn load(
        store: Store,
        config_path: PathBuf,
        program: home::Programs,
    ) -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (asks, asked) = mpsc::unbounded_channel();
        let (ledger, unreadable) = match store.load() {
            Ok((ledger, None)) => (ledger, None),
            Ok((ledger, Some(damage))) => {
                tracing::error!("{}; the one before is used", chain(&damage));
                (ledger, None)
            }
            Err(error) => (
                Ledger::default(),
                Some(ledger_problem("the ledger cannot be read, so nothing is changed", &error)),
            ),
        };
        let in_force = ledger.applied.as_ref().and_then(|applied| {
            let config = parse::config("config.toml in force", applied.config.as_bytes()).ok()?;
            let roster = parse::roster("roster.yaml in force", applied.roster.as_bytes()).ok()?;
            Some(Rc::new(InForce { roster, config }))
        });
        if in_force.is_none() && ledger.applied.is_some() {
            tracing::error!(
                "the roster in force does not parse with this version; it waits for a valid one on disk"
            );
        }
        let last_run = ledger.last_run.as_ref().and_then(|id| store.run(id).ok().flatten());
        let daemon = Daemon {
            store,
            config_path,
            program,
            stop: Arc::new(AtomicBool::new(false)),
            stopping: watch::Sender::new(false),
            asks,
            runs: watch::Sender::new(0),
            ledger: RefCell::new(Rc::new(ledger)),
            in_force: RefCell::new(in_force),
            considered: RefCell::new(None),
            last_run: RefCell::new(last_run.as_ref().map(RunSummary::from)),
            activity: RefCell::new(Some("starting".into())),
            unreadable,
            unwritable: RefCell::new(None),
            running: Cell::new(false),
            alive: Cell::new(Instant::now()),
        };
        (daemon, asked)
    }

    pub(crate) fn ledger(&self) -> Rc<Ledger> {
        Rc::clone(&self.ledger.borrow())
    }

    /// Changes the ledger on disk and then here; false when it could not be written.
    pub(crate) fn change_ledger(&self, change: impl FnOnce(&mut Ledger)) -> bool {
        let mut ledger = Ledger::clone(&self.ledger());
        change(&mut ledger);
        if ledger == **self.ledger.borrow() {
            return true;
        }
        match self.store.save(&ledger) {
            Ok(()) => {
                *self.unwritable.borrow_mut() = None;
                *self.ledger.borrow_mut() = Rc::new(ledger);
                true
            }
            Err(error) => {
                self.ledger_failed(&error);
                false
            }
        }
    }

    pub(crate) fn ledger_failed(&self, error: &StoreError) {
        let problem = ledger_problem("the ledger cannot be written", error);
        tracing::error!("{}: {}; {}", problem.what, problem.why, problem.next);
        *self.unwritable.borrow_mut() = Some(problem);
    }

    /// What is wrong with the ledger, when something is.
    pub(crate) fn ledger_trouble(&self) -> Option<Problem> {
        self.unreadable.clone()
    }

    /// Why the ledger could not be written just now.
    pub(crate) fn write_trouble(&self) -> Option<Problem> {
        self.unwritable.borrow().clone()
    }

    pub(crate) fn in_force(&self) -> Option<Rc<InForce>> {
        self.in_force.borrow().clone()
    }

    pub(crate) fn put_in_force(&self, new: InForce) {
        *self.in_force.borrow_mut() = Some(Rc::new(new));
    }

    pub(crate) fn config(&self) -> Config {
        self.in_force().map(|in_force| in_force.config.clone()).unwrap_or_default()
    }

    pub(crate) fn read_disk(&self) -> OnDisk {
        OnDisk::read(&self.config_path, &self.config())
    }

    pub(crate) fn considered(&self, disk: OnDisk) {
        *self.considered.borrow_mut() = Some(disk);
    }

    /// Whether a run has looked at exactly what is on disk now.
    pub(crate) fn is_considered(&self, disk: &OnDisk) -> bool {
        self.considered.borrow().as_ref() == Some(disk)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    pub(crate) fn ask(&self, ask: Ask) {
        // Nobody receives only when the loop has ended, and then there is no run to wait for.
        let _ = self.asks.send(ask);
    }

    /// Changes each time a run has ended.
    pub(crate) fn run_ends(&self) -> watch::Receiver<u64> {
        self.runs.subscribe()
    }

    pub(crate) fn last_run(&self) -> Option<RunSummary> {
        self.last_run.borrow().clone()
    }

    pub(crate) fn ended(&self, summary: RunSummary) {
        *self.last_run.borrow_mut() = Some(summary);
    }

    pub(crate) fn activity(&self) -> Option<String> {
        self.activity.borrow().clone()
    }

    /// Tells `rosterctl status` and `systemctl status` what we do.
    pub(crate) fn is_at(&self, activity: &str) {
        *self.activity.borrow_mut() = Some(activity.to_owned());
        self.is_alive();
        let _ = sd_notify::notify(&[NotifyState::Status(activity)]);
    }

    /// Between runs, `systemctl status` tells how the last one ended.
    fn is_idle(&self) {
        *self.activity.borrow_mut() = None;
        self.is_alive();
        let _ = sd_notify::notify(&[NotifyState::Status(&self.idle_text())]);
    }

    pub(crate) fn is_alive(&self) {
        self.alive.set(Instant::now());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns when the daemon is told to stop.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Sorts by time, and is unique on this machine as long as its clock does not jump back.
    pub(crate) fn next_run_id(&self, now: Timestamp) -> String {
        let ms = now.as_millisecond().rem_euclid(1000);
        format!("{}-{ms:03}", now.strftime("%Y%m%dT%H%M%SZ"))
    }

    fn idle_text(&self) -> String {
        let ledger = self.ledger();
        let Some(last) = self.last_run() else { return "no run yet".into() };
        let people = self.in_force().map_or(0, |in_force| in_force.roster.users.len());
        let mut text = format!(
            "generation {}, {}; last run {}: {}",
            ledger.generation,
            journal::count(people, "person", "people"),
            last.started.strftime("%F %TZ"),
            journal::outcome(last.outcome)
        );
        if !ledger.degraded.is_empty() {
            let names: Vec<_> = ledger.degraded.keys().take(5).map(ToString::to_string).collect();
            text.push_str(&format!(
                " ({} degraded: {}{})",
                ledger.degraded.len(),
                names.join(", "),
                if ledger.degraded.len() > 5 { ", …" } else { "" }
            ));
        }
        match ledger.waiting.as_ref().map(|waiting| &waiting.cause) {
            Some(WaitingCause::Held { cuts, .. }) => {
                let cuts = journal::count(cuts.len(), "cut is", "cuts are");
                text.push_str(&format!("; {cuts} held, see `rosterctl status` and `rosterctl confirm`"));
            }
            Some(WaitingCause::Invalid { .. }) => {
                text.push_str("; what is on disk is not valid, see `rosterctl status`");
            }
            Some(WaitingCause::TierMismatch { .. }) => {
                text.push_str("; tiers differ from the cluster's map, see `rosterctl status`");
            }
            None => {}
        }
        text
    }

    /// When the next degraded subject is due.
    fn next_retry(&self) -> Option<Duration> {
        let due = self.ledger().degraded.values().map(|degraded| degraded.next_try).min()?;
        // Never at once again: a subject that is due and that no run takes up must not make a busy loop.
        Some(
            Duration::try_from(due.duration_since(Timestamp::now()))
                .unwrap_or_default()
                .max(Duration::from_secs(1)),
        )
    }
}

fn ledger_problem(what: &str, error: &StoreError) -> Problem {
    Problem {
        subject: Subject::Machine,
        what: what.into(),
        why: chain(error),
        next: "look at /var/lib/rosterd; ledger.json.prev is the copy before; docs/security.md tells what a ledger holds".into(),
    }
}

/// Runs until SIGTERM.
pub(crate) async fn run_until_stopped(
    daemon: Rc<Daemon>,
    mut asked: mpsc::UnboundedReceiver<Ask>,
) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut watch = Watch::new()?;
    // Half the time that systemd allows, as sd_watchdog_enabled(3) asks.
    let beat = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut next_beat = beat.map(|beat| tokio::time::Instant::now() + beat);
    let mut pending = Some(Ask::new(Trigger::Start, None, None));
    let mut running: Option<tokio::task::JoinHandle<()>> = None;
    let mut retry_at: Option<tokio::time::Instant> = None;
    watch.follow(&daemon.config_path, &daemon.config());
    loop {
        if running.is_none()
            && let Some(ask) = pending.take()
        {
            running = Some(tokio::task::spawn_local(one_run(Rc::clone(&daemon), ask)));
        }
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => join(&mut pending, Ask::new(Trigger::Change, None, None)),
            Some(ask) = asked.recv() => join(&mut pending, ask),
            changed = watch.changed(DEBOUNCE) => {
                if changed.others || !daemon.is_considered(&daemon.read_disk()) {
                    join(&mut pending, Ask::new(Trigger::Change, None, None));
                }
            }
            () = until(retry_at), if running.is_none() => {
                retry_at = None;
                join(&mut pending, Ask::new(Trigger::Retry, None, None));
            }
            () = until(next_beat) => {
                let limit = STUCK_AFTER + Duration::from_secs(daemon.config().worker.deadline_s);
                if !daemon.is_running() || daemon.alive.get().elapsed() < limit {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
                next_beat = beat.map(|beat| tokio::time::Instant::now() + beat);
            }
            () = finished(&mut running) => {
                running = None;
                watch.follow(&daemon.config_path, &daemon.config());
                retry_at = daemon.next_retry().map(|wait| tokio::time::Instant::now() + wait);
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("finishing the step in hand")]);
    daemon.stop.store(true, Ordering::Relaxed);
    let _ = daemon.stopping.send(true);
    finished_or_none(running).await;
    tracing::info!(message_id = journal::id::STOPPED, "stopped");
    Ok(())
}

async fn one_run(daemon: Rc<Daemon>, ask: Ask) {
    daemon.running.set(true);
    daemon.is_alive();
    let run: Run = run::reconcile(&daemon, &ask).await;
    daemon.running.set(false);
    daemon.is_idle();
    daemon.runs.send_modify(|runs| *runs += 1);
    ask.tell(&Progress::Ended(Box::new(run)));
}

fn join(pending: &mut Option<Ask>, ask: Ask) {
    match pending {
        Some(pending) => pending.join(ask),
        None => *pending = Some(ask),
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn finished(running: &mut Option<tokio::task::JoinHandle<()>>) {
    match running {
        Some(running) => drop(running.await),
        None => std::future::pending().await,
    }
}

async fn finished_or_none(running: Option<tokio::task::JoinHandle<()>>) {
    if let Some(running) = running {
        let _ = running.await;
    }
}
