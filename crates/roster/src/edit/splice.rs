//! Replacements in a text, all of them at places of the same text.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;

/// What stands in the range becomes `text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splice {
    pub(super) range: Range<usize>,
    pub(super) text: String,
    /// An insertion above what begins here; one at the end of what ended here comes before it.
    pub(super) above: bool,
}

impl Splice {
    pub(super) fn new(range: Range<usize>, text: impl Into<String>) -> Self {
        Splice { range, text: text.into(), above: false }
    }

    pub(super) fn insert(at: usize, text: impl Into<String>) -> Self {
        Splice::new(at..at, text)
    }

    pub(super) fn above(at: usize, text: impl Into<String>) -> Self {
        Splice { above: true, ..Splice::insert(at, text) }
    }

    pub(super) fn delete(range: Range<usize>) -> Self {
        Splice::new(range, "")
    }
}

/// Splices that do not touch each other.
#[derive(Debug, Default)]
pub(super) struct Splices {
    all: Vec<Splice>,
    /// The end of each range by its start.
    ranges: BTreeMap<usize, usize>,
}

impl Splices {
    /// Takes all of `new`, or none of them when one reaches into what is to be changed already.
    pub(super) fn take(&mut self, new: Vec<Splice>) -> bool {
        let reaches = |splice: &Splice| {
            let Range { start, end } = splice.range;
            let before = self.ranges.range(..=start).next_back().is_some_and(|(_, until)| *until > start);
            let behind =
                self.ranges.range((Excluded(start), Unbounded)).next().is_some_and(|(at, _)| *at < end);
            before || behind
        };
        if new.iter().any(reaches) {
            return false;
        }
        for splice in &new {
            let end = self.ranges.entry(splice.range.start).or_insert(splice.range.end);
            *end = splice.range.end.max(*end);
        }
        self.all.extend(new);
        true
    }

    /// The text with all of them. Insertions at one place stay in their order, and before a replacement there.
    pub(super) fn apply(mut self, text: &str) -> String {
        self.all.sort_by_key(|splice| (splice.range.start, splice.above, splice.range.end));
        let mut new = String::with_capacity(text.len());
        let mut at = 0;
        for splice in self.all {
            new.push_str(text.get(at..splice.range.start).unwrap_or_default());
            new.push_str(&splice.text);
            at = splice.range.end;
        }
        new.push_str(text.get(at..).unwrap_or_default());
        new
    }
}
