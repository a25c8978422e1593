//! What the daemon knows, between runs and while one goes on.
//!
//! Everything here lives on one thread; the ledger is shared as whole snapshots, so nobody sees half a change.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use roster::config::Config;
use roster::ledger::{Degraded, Ledger, WaitingCause};
use roster::name::OsUser;
use roster::plan::{Problem, Seen, Subject};
use roster::remote::Answer;
use roster::report::{Outcome, RemoteStatus, Run, RunSummary};
use roster::{parse, source};
use sd_notify::NotifyState;
use tokio::sync::{Mutex, mpsc, watch};

use crate::accept::InForce;
use crate::ask::{Ask, Whom};
use crate::homes::Homes;
use crate::journal;
use crate::providers::{self, Lanes};
use crate::run::chain;
use crate::running;
use crate::sources::OnDisk;
use crate::store::{Store, StoreError};

/// A run that shows no progress for longer than a home's deadline and this is stuck, and systemd may restart us.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// What the daemon knows.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) store: Store,
    pub(crate) config_path: PathBuf,
    /// Ourselves, for who only looks at homes, and the program of the workers.
    pub(crate) program: home::Programs,
    /// The program that speaks to providers.
    pub(crate) provider: PathBuf,
    /// Set once, at SIGTERM.
    pub(crate) stop: Arc<AtomicBool>,
    stopping: watch::Sender<bool>,
    asks: mpsc::UnboundedSender<Ask>,
    /// Counts the runs that ended.
    runs: watch::Sender<u64>,
    ledger: RefCell<Rc<Ledger>>,
    in_force: RefCell<Option<Rc<InForce>>>,
    /// What a run has looked at last, and whether what it decided about it is in the ledger.
    considered: RefCell<Option<(OnDisk, bool)>>,
    last_run: RefCell<Option<RunSummary>>,
    /// The newest run when it could not be kept on disk.
    unkept: RefCell<Option<Rc<Run>>>,
    /// The time in the newest identifier of a run.
    newest: Cell<Timestamp>,
    activity: RefCell<Option<String>>,
    /// What was seen of each subject when it was last looked at.
    seen: RefCell<BTreeMap<Subject, Seen>>,
    /// What each remote said when it was last asked for everybody.
    remotes: RefCell<BTreeMap<String, RemoteStatus>>,
    /// Why the ledger could not be read at the start: nothing is changed until somebody looks.
    unreadable: Option<Problem>,
    /// Since when and why the ledger cannot be written, and when that is tried again.
    unwritable: RefCell<Option<Degraded>>,
    failed_saves: Cell<u64>,
    /// What a run has left to be done in homes, and whose those are, which is known while the next run has them.
    homes: RefCell<Homes>,
    in_hand: RefCell<BTreeSet<OsUser>>,
    /// Held while a mirror is written, by its URL: two runs may have work in hand at the same time.
    mirrors: RefCell<BTreeMap<String, Arc<Mutex<()>>>>,
    /// Held by a reader whose plan is made.
    pub(crate) previews: Mutex<()>,
    running: Cell<bool>,
    /// Whether somebody wants another run while one goes on.
    wanted: Cell<bool>,
    /// How many wishes were heard, and which was the latest that a run has answered.
    heard: Cell<u64>,
    answered: Cell<u64>,
    alive: Cell<Instant>,
    /// Where wishes for a run of the providers go, once there is somebody to meet them.
    pub(crate) providers: Lanes,
}

impl Daemon {
    /// Loads the ledger and what was in force.
    pub(crate) fn load(
        store: Store,
        config_path: PathBuf,
        program: home::Programs,
        provider: PathBuf,
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
            Some(Rc::new(InForce::new(roster, config, applied.host.as_ref())))
        });
        if in_force.is_none() && ledger.applied.is_some() {
            tracing::error!(
                "the roster in force does not parse with this version; it waits for a valid one on disk"
            );
        }
        let last_run = ledger.last_run.as_ref().and_then(|id| store.run(id).ok().flatten());
        let ids = store.run_ids().unwrap_or_default();
        let newest = ids.iter().rev().find_map(|id| time_of(id)).unwrap_or(Timestamp::UNIX_EPOCH);
        let daemon = Daemon {
            store,
            config_path,
            program,
            provider,
            stop: Arc::new(AtomicBool::new(false)),
            stopping: watch::Sender::new(false),
            asks,
            runs: watch::Sender::new(0),
            ledger: RefCell::new(Rc::new(ledger)),
            in_force: RefCell::new(in_force),
            considered: RefCell::new(None),
            last_run: RefCell::new(last_run.as_ref().map(RunSummary::from)),
            unkept: RefCell::new(None),
            newest: Cell::new(newest),
            activity: RefCell::new(Some("starting".into())),
            seen: RefCell::default(),
            remotes: RefCell::default(),
            unreadable,
            unwritable: RefCell::new(None),
            failed_saves: Cell::new(0),
            homes: RefCell::default(),
            in_hand: RefCell::default(),
            mirrors: RefCell::default(),
            previews: Mutex::new(()),
            running: Cell::new(false),
            wanted: Cell::new(false),
            heard: Cell::new(0),
            answered: Cell::new(0),
            alive: Cell::new(Instant::now()),
            providers: Lanes::default(),
        };
        (daemon, asked)
    }

    pub(crate) fn ledger(&self) -> Rc<Ledger> {
        Rc::clone(&self.ledger.borrow())
    }

    /// Changes the ledger on disk and then here; false when it could not be written.
    pub(crate) fn change_ledger(&self, change: impl FnOnce(&mut Ledger)) -> bool {
        // What is here stands for one that could not be read, and must never take its place, whoever asks.
        if self.unreadable.is_some() {
            return false;
        }
        let mut ledger = Ledger::clone(&self.ledger());
        change(&mut ledger);
        if ledger == **self.ledger.borrow() {
            return true;
        }
        match self.store.save(&ledger) {
            Ok(()) => {
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
        self.failed_saves.set(self.failed_saves.get() + 1);
        let problem = ledger_problem("the ledger cannot be written", error);
        let now = Timestamp::now();
        let mut unwritable = self.unwritable.borrow_mut();
        let (since, failures) = match &*unwritable {
            // One run may fail to write more than once.
            Some(before) if before.next_try > now => (before.since, before.failures),
            Some(before) => (before.since, before.failures.saturating_add(1)),
            None => (now, 1),
        };
        if unwritable.as_ref().is_none_or(|before| before.problems.first() != Some(&problem)) {
            tracing::error!("{}: {}; {}", problem.what, problem.why, problem.next);
        }
        let next_try = now.checked_add(running::wait_after(failures)).unwrap_or(now);
        *unwritable = Some(Degraded { since, failures, next_try, problems: vec![problem] });
    }

    /// What is wrong with the ledger, so that nothing may be changed.
    pub(crate) fn ledger_trouble(&self) -> Option<Problem> {
        self.unreadable.clone()
    }

    /// How often the ledger could not be written.
    pub(crate) fn failed_saves(&self) -> u64 {
        self.failed_saves.get()
    }

    /// A run has ended that wrote whatever it wanted to.
    pub(crate) fn is_writable(&self) {
        *self.unwritable.borrow_mut() = None;
    }

    /// Since when and why the ledger cannot be written: until a run has written all it wanted to. That a smaller one
    /// could be written meanwhile says nothing about what was to be decided.
    pub(crate) fn write_trouble(&self) -> Option<Degraded> {
        self.unwritable.borrow().clone()
    }

    /// Keeps a run that ended, on disk or, when that fails, until the next one. False when it failed.
    pub(crate) fn keep(&self, run: &Run) -> bool {
        *self.last_run.borrow_mut() = Some(RunSummary::from(run));
        let kept = self.store.keep_run(run);
        *self.unkept.borrow_mut() = kept.is_err().then(|| Rc::new(run.clone()));
        if let Err(error) = &kept {
            self.ledger_failed(error);
        }
        kept.is_ok()
    }

    /// How everything is for somebody who asked for `whom`, between runs.
    pub(crate) fn outcome(&self, whom: &Whom) -> Outcome {
        let ledger = self.ledger();
        let concerns = |subject: &Subject| match whom {
            Whom::One(user) => *subject == Subject::User(user.clone()),
            Whom::Everybody | Whom::InHand => true,
        };
        if self.unreadable.is_some() || self.unwritable.borrow().is_some() {
            return Outcome::Failed;
        }
        let is_in_hand = || self.in_hand().into_iter().any(|user| concerns(&Subject::User(user)));
        match running::outcome_of(&ledger, concerns) {
            Outcome::Converged if is_in_hand() => Outcome::Degraded,
            outcome => outcome,
        }
    }

    /// How a run ended for somebody who asked for `whom`; others may have joined it.
    pub(crate) fn outcome_for(&self, whom: &Whom, run: &Run) -> Outcome {
        match run.outcome {
            Outcome::Failed => Outcome::Failed,
            _ => self.outcome(whom),
        }
    }

    /// A run that took place; nothing when none is known by this identifier.
    pub(crate) fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        match &*self.unkept.borrow() {
            Some(run) if run.id == id => Ok(Some(Run::clone(run))),
            _ => self.store.run(id),
        }
    }

    /// What an earlier run has left in homes. Put it back with [`Daemon::leave_homes`].
    pub(crate) fn take_homes(&self) -> Homes {
        self.homes.take()
    }

    pub(crate) fn leave_homes(&self, homes: Homes) {
        *self.in_hand.borrow_mut() = homes.in_hand().cloned().collect();
        *self.homes.borrow_mut() = homes;
    }

    /// Whose homes the last run has left in hand.
    pub(crate) fn in_hand(&self) -> BTreeSet<OsUser> {
        self.in_hand.borrow().clone()
    }

    /// The lock of a mirror.
    pub(crate) fn mirror(&self, url: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.mirrors.borrow_mut().entry(url.to_owned()).or_default())
    }

    pub(crate) fn in_force(&self) -> Option<Rc<InForce>> {
        self.in_force.borrow().clone()
    }

    /// The commit that the roster in force came from, when it came from git.
    pub(crate) fn commit(&self) -> Option<String> {
        let ledger = self.ledger();
        ledger.applied.as_ref().and_then(|applied| source::commit_of(&applied.roster)).map(str::to_owned)
    }

    pub(crate) fn put_in_force(&self, new: InForce) {
        *self.in_force.borrow_mut() = Some(Rc::new(new));
        // It may name other remotes; those that it names are asked in this run.
        self.remotes.borrow_mut().clear();
    }

    pub(crate) fn config(&self) -> Config {
        self.in_force().map(|in_force| in_force.config.clone()).unwrap_or_default()
    }

    pub(crate) fn read_disk(&self) -> OnDisk {
        OnDisk::read(&self.config_path, &self.config())
    }

    pub(crate) fn considered(&self, disk: OnDisk, decided: bool) {
        *self.considered.borrow_mut() = Some((disk, decided));
    }

    /// Whether a run has decided about exactly what is on disk now.
    pub(crate) fn is_decided(&self, disk: &OnDisk) -> bool {
        self.considered.borrow().as_ref().is_some_and(|(seen, decided)| *decided && seen == disk)
    }

    fn has_looked_at(&self, disk: &OnDisk) -> bool {
        self.considered.borrow().as_ref().is_some_and(|(seen, _)| seen == disk)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    pub(crate) fn run_begins(&self) {
        self.running.set(true);
    }

    /// A run has ended; one that left nothing undone has answered the wish of this number.
    pub(crate) fn run_ended(&self, answered: Option<u64>) {
        self.running.set(false);
        self.is_idle();
        self.answered.set(self.answered.get().max(answered.unwrap_or_default()));
    }

    /// Whether somebody wants another run while one goes on.
    pub(crate) fn another_is_wanted(&self, wanted: bool) {
        self.wanted.set(wanted);
    }

    /// Whether a run has shown nothing of itself for longer than any part of it may take.
    pub(crate) fn is_stuck(&self) -> bool {
        let limit = STUCK_AFTER + Duration::from_secs(self.config().worker.deadline_s);
        self.is_running() && self.alive.get().elapsed() >= limit
    }

    /// Has the run that goes on finish the step in hand, and nothing else.
    pub(crate) fn told_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.stopping.send(true);
    }

    pub(crate) fn ask(&self, mut ask: Ask) {
        self.heard.set(self.heard.get() + 1);
        ask.number = self.heard.get();
        // Nobody receives only when the loop has ended, and then there is no run to wait for.
        let _ = self.asks.send(ask);
    }

    /// The number of the latest wish.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Whether runs have answered all wishes up to this one, looked at what is on disk and left nothing in hand.
    pub(crate) fn has_answered(&self, number: u64) -> bool {
        !self.is_running()
            && self.answered.get() >= number
            && self.homes.borrow().in_hand().next().is_none()
            && self.has_looked_at(&self.read_disk())
    }

    /// Whether there is something to do besides the homes of `in_hand`.
    pub(crate) fn is_wanted<'a>(&self, in_hand: impl Iterator<Item = &'a OsUser>) -> bool {
        let in_hand: BTreeSet<_> = in_hand.cloned().map(Subject::User).collect();
        self.wanted.get()
            || self.next_due(|subject| !in_hand.contains(subject)).is_some_and(|due| due <= Timestamp::now())
    }

    /// Those who wait for the end of a run look again.
    pub(crate) fn tell_run_ended(&self) {
        self.runs.send_modify(|runs| *runs += 1);
    }

    /// Changes each time a run has ended.
    pub(crate) fn run_ends(&self) -> watch::Receiver<u64> {
        self.runs.subscribe()
    }

    pub(crate) fn last_run(&self) -> Option<RunSummary> {
        self.last_run.borrow().clone()
    }

    pub(crate) fn activity(&self) -> Option<String> {
        self.activity.borrow().clone()
    }

    pub(crate) fn seen(&self) -> BTreeMap<Subject, Seen> {
        self.seen.borrow().clone()
    }

    /// Takes note of what a plan has seen, each subject as a whole.
    pub(crate) fn has_seen(&self, seen: &BTreeMap<Subject, Seen>) {
        self.seen.borrow_mut().extend(seen.iter().map(|(subject, seen)| (subject.clone(), seen.clone())));
    }

    pub(crate) fn remotes(&self) -> BTreeMap<String, RemoteStatus> {
        self.remotes.borrow().clone()
    }

    /// Takes note of what a remote said.
    pub(crate) fn remote_said(&self, url: &str, answer: &Answer) {
        let status = RemoteStatus { asked: Timestamp::now(), answer: answer.into() };
        self.remotes.borrow_mut().insert(url.to_owned(), status);
    }

    /// Tells `rosterctl status` and `systemctl status` what we do.
    pub(crate) fn is_at(&self, activity: &str) {
        *self.activity.borrow_mut() = Some(activity.to_owned());
        self.is_alive();
        let _ = sd_notify::notify(&[NotifyState::Status(activity)]);
    }

    /// Between runs, `systemctl status` tells how the last one ended.
    pub(crate) fn is_idle(&self) {
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

    /// Greater than every one before, also when the clock jumps back: the greatest are the newest.
    pub(crate) fn next_run_id(&self, now: Timestamp) -> String {
        let after = self.newest.get().checked_add(Duration::from_millis(1)).unwrap_or(now);
        let time = now.max(after);
        self.newest.set(time);
        format!("{}-{:03}", time.strftime(RUN_TIME), time.as_millisecond().rem_euclid(1000))
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
        let config = self.config();
        for (provider, state) in &ledger.providers {
            if !state.degraded.is_empty() && providers::is_configured(&config, *provider) {
                text.push_str(&format!("; {provider}: degraded, see `rosterctl status`"));
            }
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

    /// When the next degraded subject is due, or the ledger that could not be written. Nothing is due while nothing may
    /// be changed: what is waited for then is an edit.
    fn next_due(&self, counts: impl Fn(&Subject) -> bool) -> Option<Timestamp> {
        let now = Timestamp::now();
        let ledger = self.ledger();
        if self.unreadable.is_some() {
            return None;
        }
        if let Some(unwritable) = &*self.unwritable.borrow() {
            return Some(running::due(unwritable, now));
        }
        if ledger.tiers_differ.is_some() {
            return None;
        }
        let due = ledger.degraded.iter().filter(|(subject, _)| counts(subject));
        due.map(|(_, degraded)| running::due(degraded, now)).min()
    }

    /// Whether somebody is due whose home is not in hand.
    pub(crate) fn is_due(&self) -> bool {
        let in_hand: BTreeSet<_> = self.in_hand().into_iter().map(Subject::User).collect();
        self.next_due(|subject| !in_hand.contains(subject)).is_some_and(|due| due <= Timestamp::now())
    }

    /// How long until the next retry.
    pub(crate) fn next_retry(&self) -> Option<Duration> {
        let due = self.next_due(|_| true)?;
        // Never at once again: a subject that is due and that no run takes up must not make a busy loop.
        let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        Some(wait.max(Duration::from_secs(1)))
    }
}

/// The time in the identifier of a run, to the second.
const RUN_TIME: &str = "%Y%m%dT%H%M%SZ";

/// When the run of this identifier began.
fn time_of(id: &str) -> Option<Timestamp> {
    let (time, ms) = id.split_once('-')?;
    let civil = jiff::civil::DateTime::strptime(RUN_TIME, time).ok()?;
    let time = jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?;
    time.checked_add(Duration::from_millis(ms.parse().ok()?)).ok()
}

fn ledger_problem(what: &str, error: &StoreError) -> Problem {
    Problem {
        subject: Subject::Machine,
        what: what.into(),
        why: chain(error),
        next: "look at /var/lib/rosterd and its disk; `rosterctl doctor` says whether the ledger or the copy before is whole".into(),
    }
}
