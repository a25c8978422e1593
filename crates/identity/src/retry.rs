//! When a request is tried again. What a server says about it is obeyed; otherwise the waits double, with jitter, so
//! that many that failed together do not come back together.

use std::time::Duration;

use rand::Rng;

/// How often a request is tried that fails at once.
const TRIES: u32 = 5;
/// How often one is tried that hangs: its time is better spent on the others.
const HANGING_TRIES: u32 = 2;
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);
/// A server that asks for a longer rest, at once or bit by bit, gets it from the next run.
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// How a try ended that may be worth another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The server is busy or broken; it may have said when to come back.
    Busy(Option<Duration>),
    /// There was no answer in time.
    Hung,
}

/// How long to wait before the next try, after having `waited` already; nothing when there is none.
pub(crate) fn wait(ended: Ended, tries: u32, waited: Duration) -> Option<Duration> {
    let most = if ended == Ended::Hung { HANGING_TRIES } else { TRIES };
    if tries >= most {
        return None;
    }
    match ended {
        Ended::Busy(Some(asked)) => (waited + asked <= LONGEST_ASKED).then_some(asked),
        _ => {
            let most = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST);
            // At least half: a wait of nothing is no rest for the server.
            Some(most.mul_f64(rand::rng().random_range(0.5..=1.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_and_a_server_that_says_when_is_obeyed() {
        let none = Duration::ZERO;
        for tries in 1..TRIES {
            let most = FIRST * 2_u32.pow(tries - 1);
            for _ in 0..100 {
                let wait = wait(Ended::Busy(None), tries, none).unwrap();
                assert!(wait >= most / 2 && wait <= most, "{wait:?}");
            }
        }
        assert_eq!(wait(Ended::Busy(None), TRIES, none), None);
        assert_eq!(wait(Ended::Hung, HANGING_TRIES, none), None);
        assert_eq!(wait(Ended::Busy(Some(Duration::from_secs(7))), 1, none), Some(Duration::from_secs(7)));
        assert_eq!(wait(Ended::Busy(Some(Duration::from_secs(3600))), 1, none), None);
        assert_eq!(wait(Ended::Busy(Some(Duration::from_secs(7))), 4, Duration::from_secs(24)), None);
    }
}
