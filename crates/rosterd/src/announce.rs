//! Sends what the ledger has to announce, one at a time, beside the runs and never in their way. A worker that has become
//! the system user `rosterd` speaks to the server: root speaks to no network (invariant 3).

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use roster::announce::{self, Announcement};
use roster::report::Run;
use serde_json::json;

use crate::daemon::Daemon;
use crate::journal;
use crate::network;
use crate::sources;

/// For one announcement, from the start of the worker.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a daemon that stops waits for the one that is under way.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Queues what a run has brought.
pub(crate) fn note(daemon: &Daemon, run: &Run) {
    let wanted = daemon.config().announce.webhook_file.is_some();
    daemon.change_ledger(|ledger| match wanted {
        true => announce::after_run(ledger, run, Timestamp::now()),
        // Nobody wants to hear years later what happened before they asked.
        false => ledger.announcements.queue.clear(),
    });
}

/// Queues what a provider's run has brought; it is sent when the machine's next run has ended.
pub(crate) fn note_provider(daemon: &Daemon) {
    if daemon.config().announce.webhook_file.is_some() {
        daemon.change_ledger(|ledger| announce::long_troubles(ledger, Timestamp::now()));
    }
}

/// Queues one sentence, where anybody is told.
pub(crate) fn say(daemon: &Daemon, text: String) {
    if daemon.config().announce.webhook_file.is_some() {
        daemon.change_ledger(|ledger| ledger.announcements.add(Timestamp::now(), text));
    }
}

/// Sends for as long as the daemon lives.
pub(crate) async fn send(daemon: Rc<Daemon>) {
    let mut ends = daemon.run_ends();
    let mut failures: u32 = 0;
    // One that is under way is seen to its end, so that what the server has taken is not sent again after a restart.
    while !daemon.is_stopping() {
        let next = daemon.ledger().announcements.queue.first().cloned();
        let file = daemon.config().announce.webhook_file;
        let wait = match (next, file) {
            (Some(next), Some(file)) => {
                match post(&daemon, &file, &next).await {
                    Ok(()) => {
                        failures = 0;
                        daemon.change_ledger(|ledger| {
                            ledger.announcements.queue.retain(|queued| queued.number != next.number);
                        });
                        journal::announced(&next);
                        continue;
                    }
                    Err(why) => {
                        failures = failures.saturating_add(1);
                        // Once: what cannot be announced must not fill the journal either.
                        if failures == 1 {
                            journal::not_announced(&next, &why);
                        }
                        Some(FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_WAIT))
                    }
                }
            }
            _ => None,
        };
        tokio::select! {
            () = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => drop(ends.changed().await),
                }
            } => {}
            () = daemon.stopped() => return,
        }
    }
}

async fn post(daemon: &Daemon, file: &Path, announcement: &Announcement) -> Result<(), String> {
    let url = sources::read(file).map_err(|error| error.to_string())?;
    let url = String::from_utf8(url).map_err(|_| format!("{} is not text", file.display()))?;
    let host = daemon.ledger().applied.as_ref().and_then(|applied| applied.host.clone());
    let host = host.map_or_else(|| "this machine".to_owned(), |host| host.to_string());
    let task = json!({ "url": url.trim(), "body": announce::body(&host, announcement) });
    network::ask("webhook-worker", &task, "sending it", PATIENCE).await
}
