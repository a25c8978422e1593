//! What becomes of a capture: whether it is stored, and whether a restore takes it. Pure.

use std::collections::BTreeMap;

use crate::model::{Moment, Session, SessionName, Snapshot};

/// How long a capture in which most is missing is kept out of the way of a restore. Longer than one tick of the timer:
/// what is still missing then was not caught in the middle of a kill or a shutdown.
const HELD_FOR: i64 = 240;

/// What to do with a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As the newest snapshot, which this names.
    Unchanged(Moment),
    /// As the newest snapshot, which from now on is what a restore takes.
    Confirm(Moment),
    /// A new snapshot of this name. When most is missing in it, a restore goes on taking the one before.
    Store { taken: Moment, promote: bool },
}

/// Judges a capture. `stored` is the newest snapshot and `promoted` the one that a restore takes.
///
/// `now` may be anything: the name is always later than that of every snapshot and every recorded close, so that the
/// order of names is the order of events when the clock jumps back.
pub(crate) fn judge(
    sessions: &[Session],
    stored: Option<&Snapshot>,
    promoted: Option<&Snapshot>,
    tombstones: &Tombstones,
    now: Moment,
) -> Verdict {
    let same = |snapshot: &Snapshot| {
        snapshot.sessions.len() == sessions.len()
            && snapshot.sessions.iter().zip(sessions).all(|(a, b)| a.without_titles() == b.without_titles())
    };
    let taken = [stored.map(|stored| stored.taken.next()), tombstones.newest()]
        .into_iter()
        .flatten()
        .fold(Moment::new(now.0), Moment::max);
    let held_since = match (stored, promoted) {
        (Some(stored), Some(promoted)) if stored.taken > promoted.taken => Some(stored.taken),
        _ => None,
    };
    let most_is_missing = promoted.is_some_and(|promoted| {
        let wanted = |session: &&Session| !tombstones.closed(&session.name, promoted.taken);
        lacks_most(sessions, promoted.sessions.iter().filter(wanted).map(Session::panes).sum())
    });
    let seen_for_long = held_since.is_some_and(|since| taken.0.saturating_sub(since.0) >= HELD_FOR);
    let promote = !most_is_missing || seen_for_long;
    match stored {
        Some(stored) if same(stored) => match held_since {
            Some(_) if promote => Verdict::Confirm(stored.taken),
            _ => Verdict::Unchanged(stored.taken),
        },
        _ => Verdict::Store { taken, promote },
    }
}

/// Whether most of the panes that were there are missing.
pub(crate) fn lacks_most(sessions: &[Session], before: usize) -> bool {
    sessions.iter().map(Session::panes).sum::<usize>() * 2 < before
}

/// When sessions were closed on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tombstones(BTreeMap<SessionName, Moment>);

impl Tombstones {
    /// The last of a name counts.
    pub(crate) fn new(records: Vec<(SessionName, Moment)>) -> Tombstones {
        Tombstones(records.into_iter().collect())
    }

    /// When `name` was closed, if that was after the snapshot of `taken`. An older close was undone by the session
    /// being there again.
    pub(crate) fn closed_at(&self, name: &SessionName, taken: Moment) -> Option<Moment> {
        self.0.get(name).copied().filter(|at| *at > taken)
    }

    fn closed(&self, name: &SessionName, taken: Moment) -> bool {
        self.closed_at(name, taken).is_some()
    }

    /// The latest close of all.
    pub(crate) fn newest(&self) -> Option<Moment> {
        self.0.values().max().copied()
    }

    /// Those of sessions that are not among these: what is live is closed no more.
    pub(crate) fn without(self, live: &[Session]) -> Tombstones {
        let closed = |name: &SessionName| live.iter().all(|session| session.name != *name);
        Tombstones(self.0.into_iter().filter(|(name, _)| closed(name)).collect())
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SessionName, Moment)> {
        self.0.iter().map(|(name, at)| (name, *at))
    }

    /// Those that may still matter for a snapshot of `oldest` or a later one.
    pub(crate) fn since(&self, oldest: Moment) -> impl Iterator<Item = (&SessionName, Moment)> {
        self.iter().filter(move |(_, at)| *at > oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::from_tsv;
    use crate::model::Folder;

    fn sessions(names: &[&str]) -> Vec<Session> {
        snapshot(0, names).sessions
    }

    fn snapshot(taken: i64, names: &[&str]) -> Snapshot {
        let text: String = names.iter().map(|name| format!("{name}\t/srv\t-\n")).collect();
        from_tsv(Moment(taken), text.as_bytes(), &Folder::new("/home/ann").unwrap())
    }

    fn closed(records: &[(&str, i64)]) -> Tombstones {
        Tombstones::new(records.iter().map(|(n, at)| (SessionName::new(n).unwrap(), Moment(*at))).collect())
    }

    fn verdict(names: &[&str], stored: &Snapshot, promoted: &Snapshot, now: i64) -> Verdict {
        judge(&sessions(names), Some(stored), Some(promoted), &Tombstones::default(), Moment(now))
    }

    #[test]
    fn a_snapshot_is_stored_only_when_it_differs() {
        let before = snapshot(100, &["a", "b"]);
        assert_eq!(verdict(&["a", "b"], &before, &before, 200), Verdict::Unchanged(Moment(100)));
        assert_eq!(
            verdict(&["a", "c"], &before, &before, 200),
            Verdict::Store { taken: Moment(200), promote: true }
        );
        let none = judge(&sessions(&["a"]), None, None, &Tombstones::default(), Moment(7));
        assert_eq!(none, Verdict::Store { taken: Moment(7), promote: true });
    }

    #[test]
    fn a_title_alone_makes_no_snapshot() {
        let before = snapshot(100, &["a"]);
        let mut after = sessions(&["a"]);
        after[0].windows[0].panes[0].title = Some("✳ thinking".into());
        let verdict = judge(&after, Some(&before), Some(&before), &Tombstones::default(), Moment(200));
        assert_eq!(verdict, Verdict::Unchanged(Moment(100)));
    }

    #[test]
    fn a_clock_that_jumps_back_keeps_the_order() {
        let before = snapshot(1000, &["a"]);
        assert_eq!(
            verdict(&["b"], &before, &before, 10),
            Verdict::Store { taken: Moment(1001), promote: true }
        );
        let verdict =
            judge(&sessions(&["b"]), Some(&before), Some(&before), &closed(&[("a", 5000)]), Moment(10));
        assert_eq!(verdict, Verdict::Store { taken: Moment(5000), promote: true });
    }

    #[test]
    fn a_loss_of_most_is_stored_and_a_restore_does_not_take_it_yet() {
        let before = snapshot(1000, &["a", "b", "c", "d", "e"]);
        let held = Verdict::Store { taken: Moment(1300), promote: false };
        assert_eq!(verdict(&["a", "b"], &before, &before, 1300), held);
        // Half of it is no such loss.
        let half = Verdict::Store { taken: Moment(1300), promote: true };
        assert_eq!(verdict(&["a", "b", "c"], &before, &before, 1300), half);
        // A second look a moment later, as at a shutdown, confirms nothing.
        let lost = snapshot(1300, &["a", "b"]);
        assert_eq!(verdict(&["a", "b"], &lost, &before, 1302), Verdict::Unchanged(Moment(1300)));
        let less = Verdict::Store { taken: Moment(1302), promote: false };
        assert_eq!(verdict(&["a"], &lost, &before, 1302), less);
        // The next tick does.
        assert_eq!(verdict(&["a", "b"], &lost, &before, 1600), Verdict::Confirm(Moment(1300)));
        let more = Verdict::Store { taken: Moment(1600), promote: true };
        assert_eq!(verdict(&["a", "x"], &lost, &before, 1600), more);
    }

    #[test]
    fn what_was_closed_on_purpose_is_no_loss() {
        let before = snapshot(1000, &["a", "b", "c"]);
        let closed = closed(&[("b", 1100), ("c", 1100)]);
        let verdict = judge(&sessions(&["a"]), Some(&before), Some(&before), &closed, Moment(1300));
        assert_eq!(verdict, Verdict::Store { taken: Moment(1300), promote: true });
    }

    #[test]
    fn a_close_counts_for_older_snapshots_only() {
        let closed = closed(&[("a", 500)]);
        let a = SessionName::new("a").unwrap();
        assert_eq!(closed.closed_at(&a, Moment(499)), Some(Moment(500)));
        assert_eq!(closed.closed_at(&a, Moment(500)), None);
    }
}
