//! Times and durations as people say them. A number and its unit are held together by a no-break space, which
//! [`Page::finish`](crate::page::Page::finish) takes out.

use jiff::Timestamp;

/// `3 min ago`, `just now`; for what is to come `in 3 min`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    match seconds {
        0..=4 => "just now".into(),
        5.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

/// `in 3 min`, or `now` when the time has come.
pub(crate) fn due(then: Timestamp, now: Timestamp) -> String {
    if then <= now {
        "now".into()
    } else {
        format!("in {}", span((then.as_second() - now.as_second()).max(1)))
    }
}

/// How long something has lasted: `3 h`.
pub(crate) fn lasting(since: Timestamp, now: Timestamp) -> String {
    span((now.as_second() - since.as_second()).max(0))
}

fn span(seconds: i64) -> String {
    match seconds {
        0..=119 => format!("{seconds}\u{a0}s"),
        120..=7_199 => format!("{}\u{a0}min", seconds / 60),
        7_200..=172_799 => format!("{}\u{a0}h", seconds / 3_600),
        _ => format!("{}\u{a0}days", seconds / 86_400),
    }
}

/// How long something took: `34 ms`, `1.4 s`, `2 min 3 s`.
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms}\u{a0}ms"),
        1_000..=59_999 => format!("{}.{}\u{a0}s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{}\u{a0}min {}\u{a0}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: String) -> String {
        text.replace('\u{a0}', " ")
    }

    #[test]
    fn times_are_told_as_distances() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |seconds| Timestamp::from_second(now.as_second() + seconds).unwrap();
        assert_eq!(plain(ago(at(0), now)), "just now");
        assert_eq!(plain(ago(at(-42), now)), "42 s ago");
        assert_eq!(plain(ago(at(-200), now)), "3 min ago");
        assert_eq!(plain(ago(at(-7_200), now)), "2 h ago");
        assert_eq!(plain(ago(at(-400_000), now)), "4 days ago");
        assert_eq!(plain(ago(at(300), now)), "in 5 min");
        assert_eq!(plain(due(at(-1), now)), "now");
        assert_eq!(plain(due(at(720), now)), "in 12 min");
        assert_eq!(plain(lasting(at(10), now)), "0 s");
    }

    #[test]
    fn durations_are_as_fine_as_needed() {
        assert_eq!(
            [took(0), took(34), took(1_449), took(123_999)].map(plain),
            ["0 ms", "34 ms", "1.4 s", "2 min 3 s"]
        );
    }
}
