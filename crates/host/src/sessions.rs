//! Ends what somebody runs: their sessions by logind, and whatever else is in their slice by systemd.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::systemd::{CallError, Systemd};
use crate::units::block_on;

/// How long the processes may take to end before the step fails; what is still there then is ended by systemd in its
/// own time, and the next run looks again.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Ends all sessions and the slice of a uid, and returns when nothing of it runs.
pub(crate) fn end(uid: u32) -> Result<(), Failure> {
    block_on(end_now(uid)).map_err(|error: CallError| {
        Failure::new(
            format!("ending the sessions: {}", error.why),
            format!("see `loginctl user-status {uid}`; the next run tries again"),
        )
    })
}

async fn end_now(uid: u32) -> Result<(), CallError> {
    let systemd = Systemd::connect().await?;
    systemd.terminate_user(uid).await?;
    // What runs in the slice and is no session, such as a restored tmux server, logind may not know of.
    let slice = format!("user-{uid}.slice");
    systemd.stop(&slice).await.or_else(|error| if error.no_such_unit { Ok(()) } else { Err(error) })?;
    let begun = Instant::now();
    loop {
        let rows = systemd.list(&[slice.as_str()]).await?;
        if rows.iter().all(|row| matches!(row.active.as_str(), "inactive" | "failed") && !row.has_job) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let why = format!("{slice} still runs after {} s", PATIENCE.as_secs());
            return Err(CallError { why, no_such_unit: false });
        }
        tokio::time::sleep(POLL).await;
    }
}
