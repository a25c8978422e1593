//! Which of several hosts with the same roster changes what they share. The hosts agree by a Lease of the cluster; here is
//! what each concludes from it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a host that has gone is waited for: two hourly ticks and a late one.
pub const LEASE_S: i64 = 3 * 3600;

/// A Lease as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenLease {
    /// Who holds it; empty when it was given up.
    pub holder: String,
    /// When the holder last said so.
    pub renewed: Timestamp,
    /// For how long that counts.
    pub seconds: i64,
    /// Changes with each write.
    pub version: String,
    /// How often it has changed hands.
    pub transitions: i64,
}

/// What a host does about a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is ours, and long enough: nothing is written.
    Ours,
    /// It is free, or ours and soon over: we say that it is ours. Of two that do so, the server lets one.
    Take,
    /// Another host has it.
    Theirs {
        /// Which.
        holder: String,
        /// Until when, if it does not say so again.
        until: Timestamp,
    },
}

/// What host `me` concludes from a Lease at `now`.
pub fn verdict(seen: Option<&SeenLease>, me: &str, now: Timestamp) -> Verdict {
    let Some(lease) = seen.filter(|lease| !lease.holder.is_empty()) else { return Verdict::Take };
    let until = |seconds: i64| {
        lease.renewed.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
    };
    match (lease.holder == me, now) {
        (true, now) if now < until(lease.seconds / 2) => Verdict::Ours,
        (false, now) if now < until(lease.seconds) => {
            Verdict::Theirs { holder: lease.holder.clone(), until: until(lease.seconds) }
        }
        _ => Verdict::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_by_one_host_until_it_is_over() {
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let lease = |holder: &str| SeenLease {
            holder: holder.into(),
            renewed: at(0),
            seconds: LEASE_S,
            version: "1".into(),
            transitions: 0,
        };
        let theirs = Verdict::Theirs { holder: "b".into(), until: at(LEASE_S) };
        for (seen, now, expected) in [
            (None, 0, Verdict::Take),
            (Some(lease("")), 0, Verdict::Take),
            (Some(lease("a")), 10, Verdict::Ours),
            // Said again in time, so that an hourly tick does not lose it.
            (Some(lease("a")), LEASE_S / 2, Verdict::Take),
            (Some(lease("b")), 10, theirs.clone()),
            (Some(lease("b")), LEASE_S - 1, theirs),
            (Some(lease("b")), LEASE_S, Verdict::Take),
            // A clock that is behind takes nothing from anybody.
            (Some(lease("a")), -9999, Verdict::Ours),
        ] {
            assert_eq!(verdict(seen.as_ref(), "a", at(now)), expected, "{seen:?} {now}");
        }
    }
}
