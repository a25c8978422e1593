//! Environment files as text: reads one key, sets one key, and keeps every other byte. The files hold lines of
//! other programs and people, a token among them, so nothing is parsed and printed again.
//!
//! What an assignment is and how far its value reaches follows systemd's reading of `EnvironmentFile=`
//! (`parse_env_file_internal()` in its `src/basic/env-file.c`): comments begin with `#` or `;`, values may be
//! quoted and reach over several lines, a `\` before the line's end joins two lines, and the last assignment of
//! a key counts. `export KEY=…` is read too, as shells do that source the same file.

use std::ops::Range;

/// The value of `key`, or nothing where the file does not set it to UTF-8 text.
pub fn get(text: &[u8], key: &str) -> Option<String> {
    let last = scan(text).assignments.into_iter().rfind(|found| found.key == key.as_bytes())?;
    String::from_utf8(last.value).ok()
}

/// The text with `key` set to `value`. Replaces the value of the assignment that counts, or adds a line; every
/// other byte stays. A value that is set already changes nothing.
pub fn set(text: &[u8], key: &str, value: &str) -> Vec<u8> {
    let Scan { assignments, end } = scan(text);
    if let Some(last) = assignments.into_iter().rfind(|found| found.key == key.as_bytes()) {
        if last.value == value.as_bytes() {
            return text.to_vec();
        }
        return [&text[..last.raw.start], quoted(value).as_bytes(), &text[last.raw.end..]].concat();
    }
    let has_crlf = text.split(|&byte| byte == b'\n').next().is_some_and(|line| line.ends_with(b"\r"));
    let line_end = if has_crlf { "\r\n" } else { "\n" };
    let line = format!("{key}={}{line_end}", quoted(value));
    if matches!(
        end,
        State::ValueEscape | State::Single | State::Double | State::DoubleEscape | State::CommentEscape
    ) {
        // Behind an open quote or a trailing `\` a new line would belong to somebody else's value.
        return [line.as_bytes(), text].concat();
    }
    // A line end behind a `\` ends no assignment.
    let ends_a_line = end == State::BeforeKey && matches!(text.last(), None | Some(b'\n'));
    let gap = if ends_a_line { "" } else { line_end };
    [text, gap.as_bytes(), line.as_bytes()].concat()
}

struct Scan {
    assignments: Vec<Assignment>,
    /// The state behind the last byte.
    end: State,
}

struct Assignment {
    key: Vec<u8>,
    /// Without quotes and escapes.
    value: Vec<u8>,
    /// Where the value stands in the text, quotes and trailing blanks included.
    raw: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeKey,
    Key,
    BeforeValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

/// One pass over the text with the states of systemd's parser.
fn scan(text: &[u8]) -> Scan {
    let is_newline = |byte: u8| byte == b'\n' || byte == b'\r';
    let is_blank = |byte: u8| is_newline(byte) || byte == b' ' || byte == b'\t';
    let mut state = State::BeforeKey;
    let mut assignments = Vec::new();
    let mut key = Vec::new();
    let mut value = Vec::new();
    let mut start = 0;
    // How much of the value stays when trailing blanks go: quoted and escaped ones do not.
    let mut kept = 0;
    for (at, &byte) in text.iter().enumerate() {
        let ends_assignment = is_newline(byte) && matches!(state, State::BeforeValue | State::Value);
        if ends_assignment {
            value.truncate(kept);
            assignments.push(assignment(&key, &mut value, start..at));
            state = State::BeforeKey;
            continue;
        }
        state = match state {
            State::BeforeKey if byte == b'#' || byte == b';' => State::Comment,
            State::BeforeKey if is_blank(byte) => State::BeforeKey,
            State::BeforeKey => {
                key.clear();
                key.push(byte);
                State::Key
            }
            State::Key if is_newline(byte) => State::BeforeKey,
            State::Key if byte == b'=' => {
                (start, kept) = (at + 1, 0);
                value.clear();
                State::BeforeValue
            }
            State::Key => {
                key.push(byte);
                State::Key
            }
            State::BeforeValue if byte == b'\'' => State::Single,
            State::BeforeValue if byte == b'"' => State::Double,
            State::BeforeValue | State::Value if byte == b'\\' => State::ValueEscape,
            State::BeforeValue if is_blank(byte) => State::BeforeValue,
            State::BeforeValue | State::Value => {
                value.push(byte);
                if !is_blank(byte) {
                    kept = value.len();
                }
                State::Value
            }
            State::ValueEscape => {
                if !is_newline(byte) {
                    value.push(byte);
                    kept = value.len();
                }
                State::Value
            }
            State::Single if byte == b'\'' => State::BeforeValue,
            State::Double if byte == b'"' => State::BeforeValue,
            State::Double if byte == b'\\' => State::DoubleEscape,
            State::DoubleEscape => {
                if !b"\"\\`$\n".contains(&byte) {
                    value.push(b'\\');
                }
                if byte != b'\n' {
                    value.push(byte);
                }
                kept = value.len();
                State::Double
            }
            State::Single | State::Double => {
                value.push(byte);
                kept = value.len();
                state
            }
            State::Comment if byte == b'\\' => State::CommentEscape,
            State::Comment | State::CommentEscape if is_newline(byte) => State::BeforeKey,
            State::Comment | State::CommentEscape => State::Comment,
        };
    }
    use State::{BeforeValue, Double, DoubleEscape, Single, Value, ValueEscape};
    if matches!(state, BeforeValue | Value | ValueEscape | Single | Double | DoubleEscape) {
        value.truncate(kept);
        assignments.push(assignment(&key, &mut value, start..text.len()));
    }
    Scan { assignments, end: state }
}

fn assignment(key: &[u8], value: &mut Vec<u8>, raw: Range<usize>) -> Assignment {
    let name = key.trim_ascii();
    let exported =
        name.strip_prefix(b"export").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace));
    Assignment { key: exported.unwrap_or(name).trim_ascii().to_vec(), value: std::mem::take(value), raw }
}

/// A value as it is written: bare where that is safe, in double quotes elsewhere.
fn quoted(value: &str) -> String {
    if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@%+,".contains(&byte)) {
        return value.into();
    }
    let mut text = String::from('"');
    for c in value.chars() {
        if "\"\\`$".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set_text(text: &str, value: &str) -> String {
        String::from_utf8(set(text.as_bytes(), "PORT", value)).unwrap()
    }

    #[test]
    fn sets_one_value_and_keeps_every_other_byte() {
        for (before, after) in [
            ("", "PORT=1\n"),
            ("PORT=9", "PORT=1"),
            ("PORT=9\n", "PORT=1\n"),
            ("A=b\nPORT=9 \n# end", "A=b\nPORT=1\n# end"),
            ("# PORT=9\n;PORT=8\nTOKEN=x y", "# PORT=9\n;PORT=8\nTOKEN=x y\nPORT=1\n"),
            ("A=b\r\nPORT=9\r\n", "A=b\r\nPORT=1\r\n"),
            ("A=b\r\nC=d", "A=b\r\nC=d\r\nPORT=1\r\n"),
            ("  export PORT=\"9\"\nA='\nPORT=7\n'\n", "  export PORT=1\nA='\nPORT=7\n'\n"),
            ("PORT=8\nPORT=9\n", "PORT=8\nPORT=1\n"),
            ("TOKEN=a\\\nPORT=9\n", "TOKEN=a\\\nPORT=9\nPORT=1\n"),
            ("TOKEN=a\\", "PORT=1\nTOKEN=a\\"),
            ("TOKEN=a\\\n", "TOKEN=a\\\n\nPORT=1\n"),
            ("TOKEN=\"a", "PORT=1\nTOKEN=\"a"),
            ("PORT\nXPORT=9\n", "PORT\nXPORT=9\nPORT=1\n"),
            ("PORT = 9\n", "PORT =1\n"),
        ] {
            assert_eq!(set_text(before, "1"), after, "{before:?}");
        }
    }

    #[test]
    fn a_value_that_is_set_already_changes_nothing() {
        for text in ["PORT=1", "export PORT='1' \nA=b", "PORT=9\nPORT=\"1\"\n"] {
            assert_eq!(set_text(text, "1"), text);
        }
    }

    #[test]
    fn reads_what_systemd_reads() {
        let get = |text: &str| get(text.as_bytes(), "PORT");
        assert_eq!(get("PORT=1\nPORT= 2 \n").as_deref(), Some("2"));
        assert_eq!(get("PORT='a'\"b\\\"\\x\"c d \n").as_deref(), Some("ab\"\\xc d"));
        assert_eq!(get("PORT=a\\\nb\\ \n").as_deref(), Some("ab "));
        assert_eq!(get("PORT=\n").as_deref(), Some(""));
        assert_eq!(get("# x \\\nPORT=1\n").as_deref(), Some("1"));
        assert_eq!(get("#PORT=1\nPORT\nA=PORT=1\nport=1\n"), None);
        assert_eq!(super::get(b"PORT=\xff\n", "PORT"), None);
    }

    fn any_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "PORT",
            "TOKEN",
            "export ",
            "=",
            "=",
            "\n",
            "\n",
            "\r\n",
            "\"",
            "'",
            "\\",
            "#",
            ";",
            " ",
            "\t",
            "1",
            "42",
            "x",
            "\u{e9}",
            "$",
            "`",
            "PORT=7\n",
            "TOKEN=abc\n",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    fn others(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = scan(text).assignments.into_iter();
        all.filter(|found| found.key != b"PORT").map(|found| (found.key, found.value)).collect()
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_again_and_the_others_stay(text in any_text(), value in ".{0,12}") {
            let after = set(&text, "PORT", &value);
            prop_assert_eq!(get(&after, "PORT"), Some(value.clone()));
            prop_assert_eq!(others(&after), others(&text));
            prop_assert_eq!(set(&after, "PORT", &value), after);
        }

        #[test]
        fn the_bytes_around_the_value_stay(text in any_text(), port in 1024u16..) {
            let after = set(&text, "PORT", &port.to_string());
            let same_head = text.iter().zip(&after).take_while(|(a, b)| a == b).count();
            let same_tail = text.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
            match scan(&text).assignments.into_iter().rfind(|found| found.key == b"PORT") {
                Some(last) => prop_assert!(same_head >= last.raw.start && same_tail >= text.len() - last.raw.end),
                None => prop_assert!(same_head == text.len() || same_tail == text.len()),
            }
        }
    }
}
