//! The text of a file: what no parser should see is refused here, and spans become places.

use crate::diagnostic::{Also, Diagnostic, Diagnostics, Place};
use crate::parse::node::Span;
use crate::parse::reader::{Found, Reader};

/// A line up to this length is kept whole, of a longer one this much on each side of the place.
const SHOWN: usize = 240;

pub(super) struct Source<'t> {
    file: &'t str,
    /// The text without its byte order mark.
    pub(super) text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(file: &'t str, bytes: &'t [u8], largest: usize) -> Result<Self, Diagnostics> {
        let refuse = |text: &'t str, found: Found| Err(Source::lined(file, text).diagnostics(vec![found], 0));
        if bytes.len() > largest {
            let mib = bytes.len() as f64 / (1 << 20) as f64;
            let found = Found::new(
                0..0,
                format!(
                    "the file has {mib:.1} MiB, at most {} MiB are read",
                    largest as f64 / (1 << 20) as f64
                ),
            );
            return refuse("", found.help("this is not the file you meant, or something has written to it"));
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return refuse("", Found::new(0..0, "the file is UTF-16").help("save it as UTF-8"));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                let valid = std::str::from_utf8(valid).unwrap_or_default();
                let byte = rest.first().copied().unwrap_or_default();
                let found = Found::new(
                    valid.len()..valid.len(),
                    format!(
                        "the file is not UTF-8: the byte 0x{byte:02x} at offset {} is part of no character",
                        valid.len()
                    ),
                );
                return refuse(valid, found.help("save the file as UTF-8"));
            }
        };
        // NUL above all: the YAML scanner takes one for the end of the text, and a file that a crash left half
        // zeroed would read as a shorter roster.
        let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
        if let Some((at, c)) = text.char_indices().find(|&(_, c)| control(c)) {
            let message = format!("the file holds the control character U+{:04X}", u32::from(c));
            return refuse(
                text,
                Found::new(at..at + c.len_utf8(), message)
                    .help("remove it; was the file cut off by a crash?"),
            );
        }
        Ok(Source::lined(file, text))
    }

    fn lined(file: &'t str, text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { file, text, lines }
    }

    /// `value` when nothing was found wrong.
    pub(super) fn judge<T>(&self, value: T, reader: Reader) -> Result<T, Diagnostics> {
        if reader.found.is_empty() { Ok(value) } else { Err(self.diagnostics(reader.found, reader.omitted)) }
    }

    fn diagnostics(&self, mut found: Vec<Found>, omitted: usize) -> Diagnostics {
        found.sort_by_key(|found| found.span.start);
        let omitted = omitted + found.len().saturating_sub(Diagnostics::MOST);
        found.truncate(Diagnostics::MOST);
        let diagnostics = found.into_iter().map(|found| Diagnostic {
            file: self.file.to_owned(),
            place: self.place(&found.span, found.secret),
            message: found.message,
            help: found.help,
            also: found.also.map(|(span, message)| Also { place: self.place(&span, false), message }),
        });
        Diagnostics { diagnostics: diagnostics.collect(), omitted }
    }

    fn place(&self, span: &Span, secret: bool) -> Place {
        let at = boundary(self.text, span.start);
        let line = self.lines.partition_point(|&begin| begin <= at);
        let begin = self.lines.get(line - 1).copied().unwrap_or_default();
        let rest = &self.text[begin..];
        let text = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let at = (at - begin).min(text.len());
        let end = boundary(text, span.end.saturating_sub(begin).max(at));
        let (before, here, after) = (&text[..at], &text[at..end], &text[end..]);

        let column = before.chars().count() + 1;
        let whole = text.chars().nth(SHOWN).is_none();
        let most = if whole { SHOWN } else { SHOWN / 4 };
        let here = if secret { "*".repeat(8) } else { cut(here, most) };
        let left = before.char_indices().rev().nth(most - 1).map_or(0, |(at, _)| if whole { 0 } else { at });
        let mut shown = String::new();
        if left > 0 {
            shown.push('…');
        }
        shown.push_str(&before[left..]);
        let start = shown.chars().count();
        shown.push_str(&here);
        shown.push_str(&cut(after, most));
        let width = here.chars().count();
        Place { line, column, text: shown, start, width }
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The last boundary of a character at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default()
}
