//! Values as YAML. What is written here reads the same in every reader of YAML, old ones too, within braces and
//! without.

use crate::edit::field::{Assignment, Kind};
use crate::parse::is_plain_text;

/// How a text was written until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    None,
    Single,
    Double,
}

impl Quotes {
    pub(super) fn of(written: &str) -> Self {
        match written.bytes().next() {
            Some(b'\'') => Quotes::Single,
            Some(b'"') => Quotes::Double,
            _ => Quotes::None,
        }
    }
}

/// A text.
pub(super) fn text(text: &str, quotes: Quotes) -> String {
    // YAML 1.1 takes these for booleans.
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    let word = |text: &str| WORDS.contains(&text.to_ascii_lowercase().as_str());
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./@+-".contains(c))
        && !text.ends_with('.')
        && !word(text)
        // YAML 1.1 reads digits with `_` or `-` as numbers and dates.
        && !(text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| !c.is_ascii_alphabetic()))
        && is_plain_text(text);
    match quotes {
        Quotes::None if plain => text.to_owned(),
        Quotes::Single => format!("'{}'", text.replace('\'', "''")),
        _ => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// A list on one line.
pub(super) fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| text(item, Quotes::None)).collect();
    format!("[{}]", items.join(", "))
}

/// The one value of a field that is no list.
pub(super) fn scalar(assignment: &Assignment, quotes: Quotes) -> String {
    let value = assignment.value.as_str();
    let bare = match assignment.kind {
        Kind::Bool => matches!(value, "true" | "false"),
        Kind::Number => !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    // What is neither is written as the text it is, and the parser tells what it should have been.
    if bare { value.to_owned() } else { text(value, quotes) }
}

/// A value that stands on one line.
pub(super) fn value(assignment: &Assignment) -> String {
    if !assignment.is_list() {
        return scalar(assignment, Quotes::None);
    }
    list(&assignment.items().into_iter().map(str::to_owned).collect::<Vec<_>>())
}

/// The fields of a new person as key and value, the inner ones of `quota` and its like in braces.
pub(super) fn fields(assignments: &[Assignment]) -> Vec<(&'static str, String)> {
    let mut fields: Vec<(&'static str, Vec<String>)> = Vec::new();
    for assignment in assignments.iter().filter(|assignment| !assignment.value.is_empty()) {
        let (key, written) = match assignment.path.split_once('.') {
            Some((outer, inner)) => (outer, format!("{inner}: {}", value(assignment))),
            None => (assignment.path, value(assignment)),
        };
        match fields.iter_mut().find(|(known, _)| *known == key && assignment.path.contains('.')) {
            Some((_, inner)) => inner.push(written),
            None => fields.push((key, vec![written])),
        }
    }
    let nested =
        |key: &str| assignments.iter().any(|a| a.path.split_once('.').is_some_and(|(k, _)| k == key));
    let written = fields.into_iter().map(|(key, values)| {
        let values = values.join(", ");
        (key, if nested(key) { format!("{{{values}}}") } else { values })
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_some_reader_of_yaml_takes_for_something_else_is_quoted() {
        for plain in ["alice", "bob.roe", "a@b.org", "/bin/zsh", "_x", "1st", "carol-dev", "power-user"] {
            assert_eq!(text(plain, Quotes::None), plain);
        }
        for other in [
            "",
            "yes",
            "No",
            "on",
            "null",
            "~",
            "true",
            "4",
            "1e3",
            "0x1f",
            "1_000",
            "2026-11-25",
            "1.5",
            "-a",
            "a: b",
            "a #b",
            "*",
            "lab-*",
            "{",
            "a,b",
            "a b",
            "é",
            "'",
            "\"",
            "\\",
            ".inf",
            "a.",
            "@a",
            "!t",
            "&a",
            "12:30",
        ] {
            let written = text(other, Quotes::None);
            assert!(written.starts_with('"'), "{written}");
        }
        assert_eq!(text("it's", Quotes::Single), "'it''s'");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_written_text_reads_as_itself(
            value in "[a-zA-Z0-9 _.@+\\\\\"'#:{}*&!,é~<>=|%-]{0,12}",
            quotes in prop::sample::select(vec![Quotes::None, Quotes::Single, Quotes::Double]),
        ) {
            for document in [format!("k: {}", text(&value, quotes)), format!("{{k: [{}]}}", text(&value, quotes))] {
                let read: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
                let read = read["k"].get(0).unwrap_or(&read["k"]);
                prop_assert_eq!(read, &serde_json::Value::from(value.as_str()), "{}", document);
            }
        }
    }
}
