//! A wish for a run: who made it, for whom, and who is told how it went. Wishes that come while a run goes on join into
//! one.

use std::cell::RefCell;

use roster::name::OsUser;
use roster::report::{Progress, Run, Trigger};
use tokio::sync::mpsc;

use crate::daemon::Daemon;

/// Whom a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whom {
    Everybody,
    One(OsUser),
    /// Those whose homes an earlier run has left in hand.
    InHand,
}

/// A wish for a run.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) trigger: Trigger,
    pub(crate) whom: Whom,
    /// The number of the latest wish that this one answers.
    pub(crate) number: u64,
    /// Who is told, and what they asked for.
    watchers: RefCell<Vec<(Whom, Watcher)>>,
}

type Watcher = mpsc::UnboundedSender<Progress>;

impl Ask {
    pub(crate) fn new(trigger: Trigger, whom: Whom, watcher: Option<Watcher>) -> Self {
        let watchers = watcher.into_iter().map(|watcher| (whom.clone(), watcher)).collect();
        Ask { trigger, whom, number: 0, watchers: RefCell::new(watchers) }
    }

    /// Tells everyone who asked for the run.
    pub(crate) fn tell(&self, progress: &Progress) {
        self.watchers.borrow_mut().retain(|(_, watcher)| watcher.send(progress.clone()).is_ok());
    }

    /// Tells the end to each whose wish is answered, as it is for them; and gives the wish for what is left in hand,
    /// which those take along who wait for it.
    pub(crate) fn ended(self, daemon: &Daemon, run: &Run) -> Option<Ask> {
        let in_hand = daemon.in_hand();
        let waits = |whom: &Whom| match whom {
            Whom::One(user) => in_hand.contains(user),
            Whom::Everybody | Whom::InHand => !in_hand.is_empty(),
        };
        let mut watchers = self.watchers.into_inner();
        for (whom, watcher) in watchers.extract_if(.., |(whom, _)| !waits(whom)) {
            let outcome = daemon.outcome_for(&whom, run);
            // Who has gone away does not miss it.
            let _ = watcher.send(Progress::Ended(Box::new(Run { outcome, ..run.clone() })));
        }
        (!in_hand.is_empty()).then(|| Ask {
            trigger: Trigger::Retry,
            whom: Whom::InHand,
            number: self.number,
            watchers: RefCell::new(watchers),
        })
    }

    /// One run that serves both wishes.
    pub(crate) fn join(&mut self, other: Ask) {
        let weight = |trigger| match trigger {
            Trigger::Retry => 0,
            Trigger::Change => 1,
            Trigger::Start => 2,
            Trigger::Request => 3,
        };
        if weight(other.trigger) > weight(self.trigger) {
            self.trigger = other.trigger;
        }
        self.whom = match (std::mem::replace(&mut self.whom, Whom::Everybody), other.whom) {
            (Whom::InHand, whom) | (whom, Whom::InHand) => whom,
            (one, other) if one == other => one,
            _ => Whom::Everybody,
        };
        self.number = self.number.max(other.number);
        self.watchers.borrow_mut().append(&mut other.watchers.borrow_mut());
    }
}
