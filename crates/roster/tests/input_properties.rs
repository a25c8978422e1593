//! Properties of the parser: it never panics, and what is written is what is read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod generated;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use generated::roster;

/// Pieces of YAML and TOML, so that random texts get past the first character.
fn pieces() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "users",
        "alice",
        "tier",
        "admin",
        "namespaces",
        "repos",
        "quota",
        "cpu",
        ":",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "\r\n",
        "\t",
        " ",
        "- ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "|",
        ">",
        "&a ",
        "*a",
        "!t ",
        "<<",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "~",
        "true",
        "yes",
        "0x1",
        "1.5",
        "=",
        " = ",
        ".",
        "[[service]]\n",
        "[guard]\n",
        "\"\"\"",
        "\\",
        "\\u",
        "\u{feff}",
        "é",
        "日",
        "\0",
    ]);
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn parse(bytes: &[u8]) {
    let roster = roster::parse::roster("roster.yaml", bytes);
    let config = roster::parse::config("config.toml", bytes);
    for diagnostics in [roster.err(), config.err()].into_iter().flatten() {
        assert!(!diagnostics.diagnostics.is_empty());
        assert!(!diagnostics.render(false).is_empty());
        assert!(!diagnostics.render(true).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_in_a_value_or_diagnostics(bytes in vec(any::<u8>(), 0..400)) {
        parse(&bytes);
    }

    #[test]
    fn any_text_ends_in_a_value_or_diagnostics(text in any::<String>()) {
        parse(text.as_bytes());
    }

    #[test]
    fn any_pieces_of_yaml_and_toml_end_in_a_value_or_diagnostics(text in pieces()) {
        parse(text.as_bytes());
    }

    #[test]
    fn a_damaged_roster_ends_in_a_value_or_diagnostics(
        roster in roster(),
        damage in vec((any::<Index>(), pieces()), 1..4),
    ) {
        let mut text = serde_saphyr::to_string(&roster).unwrap();
        for (index, piece) in damage {
            let at = text.char_indices().map(|(at, _)| at).nth(index.index(text.chars().count().max(1))).unwrap_or(0);
            text.replace_range(at..at, &piece);
        }
        parse(text.as_bytes());
    }

    #[test]
    fn a_written_roster_reads_as_itself(roster in roster()) {
        let yaml = serde_saphyr::to_string(&roster).unwrap();
        match roster::parse::roster("roster.yaml", yaml.as_bytes()) {
            Ok(read) => prop_assert_eq!(&read, &roster),
            Err(diagnostics) => prop_assert!(false, "{}\n{yaml}", diagnostics.render(false)),
        }
        // JSON is YAML too.
        let json = serde_json::to_string(&roster).unwrap();
        prop_assert_eq!(&roster::parse::roster("roster.json", json.as_bytes()).unwrap(), &roster);
    }

    #[test]
    fn what_the_parser_accepts_the_schema_accepts(roster in roster()) {
        let schema = roster::schema::roster().to_value();
        let instance = serde_json::to_value(&roster).unwrap();
        if let Err(error) = jsonschema::draft202012::new(&schema).unwrap().validate(&instance) {
            prop_assert!(false, "{}: {error}", error.instance_path());
        }
    }
}
