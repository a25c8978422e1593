//! The daemon's loop: one run at a time, and what begins one: a change on disk, a wish, a retry that is due. It ends at
//! SIGTERM, when the step in hand is finished.

use std::rc::Rc;
use std::time::Duration;

use roster::report::{Run, Trigger};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::announce;
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::journal;
use crate::memory;
use crate::metrics;
use crate::providers;
use crate::run;
use crate::watch::Watch;

/// An editor writes several times; this long after the last write, the file is looked at.
const DEBOUNCE: Duration = Duration::from_millis(100);

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
    let mut pending = Some(Ask::new(Trigger::Start, Whom::Everybody, None));
    let mut running: Option<JoinHandle<Option<Ask>>> = None;
    let mut retry_at: Option<tokio::time::Instant> = None;
    watch.follow(&daemon.config_path, &daemon.config());
    providers::keep_all(&daemon);
    loop {
        if running.is_none()
            && let Some(ask) = pending.take()
        {
            daemon.run_begins();
            running = Some(tokio::task::spawn_local(one_run(Rc::clone(&daemon), ask)));
        }
        daemon.another_is_wanted(pending.is_some());
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => join(&mut pending, Ask::new(Trigger::Change, Whom::Everybody, None)),
            Some(ask) = asked.recv() => join(&mut pending, ask),
            changed = watch.changed(DEBOUNCE) => {
                if changed.others || !daemon.is_decided(&daemon.read_disk()) {
                    join(&mut pending, Ask::new(Trigger::Change, Whom::Everybody, None));
                }
            }
            () = until(retry_at), if running.is_none() => {
                retry_at = None;
                join(&mut pending, Ask::new(Trigger::Retry, Whom::Everybody, None));
            }
            () = until(next_beat) => {
                if !daemon.is_stuck() {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
                // We are awake anyway.
                if !daemon.is_running() {
                    memory::give_back();
                }
                next_beat = beat.map(|beat| tokio::time::Instant::now() + beat);
            }
            goes_on = finished(&mut running) => {
                running = None;
                if let Some(ask) = goes_on {
                    join(&mut pending, ask);
                    if daemon.is_due() {
                        join(&mut pending, Ask::new(Trigger::Retry, Whom::Everybody, None));
                    }
                }
                watch.follow(&daemon.config_path, &daemon.config());
                retry_at = daemon.next_retry().map(|wait| tokio::time::Instant::now() + wait);
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("finishing the step in hand")]);
    daemon.told_to_stop();
    finished_or_none(running).await;
    tracing::info!(message_id = journal::id::STOPPED, "stopped");
    Ok(())
}

async fn one_run(daemon: Rc<Daemon>, ask: Ask) -> Option<Ask> {
    daemon.is_alive();
    let run: Run = run::reconcile(&daemon, &ask).await;
    announce::note(&daemon, &run);
    metrics::after_run(&daemon, &run).await;
    daemon.run_ended(run.unfinished.is_empty().then_some(ask.number));
    let goes_on = ask.ended(&daemon, &run);
    daemon.tell_run_ended();
    goes_on
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

/// What the run that ended has left to be done.
async fn finished(running: &mut Option<JoinHandle<Option<Ask>>>) -> Option<Ask> {
    match running {
        Some(running) => running.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

async fn finished_or_none(running: Option<JoinHandle<Option<Ask>>>) {
    if let Some(running) = running {
        let _ = running.await;
    }
}
