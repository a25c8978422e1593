//! What the parser takes and what it refuses, on a corpus whose file names are the claims.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roster::config::Config;
use roster::diagnostic::Diagnostics;
use roster::model::{Roster, Tier};

fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

fn snapshot(folder: &str, name: &str, diagnostics: &Diagnostics) {
    insta::with_settings!({
        snapshot_path => format!("corpus/snapshots/{folder}"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, diagnostics.render(false));
    });
}

/// True of all diagnostics, whatever is wrong.
fn check(name: &str, text: &[u8], diagnostics: &Diagnostics) {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').split('\n').collect();
    assert!(!diagnostics.diagnostics.is_empty(), "{name}");
    let places: Vec<_> =
        diagnostics.diagnostics.iter().map(|one| (one.place.line, one.place.column)).collect();
    assert!(places.is_sorted(), "{name}: in the order of the places: {places:?}");
    for diagnostic in &diagnostics.diagnostics {
        let line = lines[diagnostic.place.line - 1];
        assert!(diagnostic.place.column <= line.chars().count() + 1, "{name}: {diagnostic:?}");
        assert_eq!(diagnostic.file, name);
    }
    let json = serde_json::to_string(diagnostics).unwrap();
    assert_eq!(&serde_json::from_str::<Diagnostics>(&json).unwrap(), diagnostics, "{name}");
}

#[test]
fn every_invalid_roster_of_the_corpus_is_refused_with_its_places() {
    for (name, bytes) in corpus("invalid") {
        let Err(diagnostics) = roster::parse::roster(&name, &bytes) else { panic!("{name} was accepted") };
        check(&name, &bytes, &diagnostics);
        snapshot("invalid", &name, &diagnostics);
    }
}

#[test]
fn every_invalid_config_of_the_corpus_is_refused_with_its_places() {
    for (name, bytes) in corpus("invalid-config") {
        let Err(diagnostics) = roster::parse::config(&name, &bytes) else { panic!("{name} was accepted") };
        check(&name, &bytes, &diagnostics);
        snapshot("invalid-config", &name, &diagnostics);
    }
}

#[test]
fn every_valid_roster_of_the_corpus_is_accepted() {
    for (name, bytes) in corpus("valid") {
        let people = match roster::parse::roster(&name, &bytes) {
            Ok(roster) => roster.users.len(),
            Err(diagnostics) => panic!("{}", diagnostics.render(false)),
        };
        let nobody = ["empty_file", "comment_only", "document_marker_only", "users_"];
        assert_eq!(people == 0, nobody.iter().any(|prefix| name.starts_with(prefix)), "{name}: {people}");
    }
}

fn config(name: &str) -> Config {
    let (_, bytes) = corpus("valid-config").into_iter().find(|(file, _)| file == name).unwrap();
    roster::parse::config(name, &bytes).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)))
}

#[test]
fn every_valid_config_of_the_corpus_is_accepted() {
    for (name, _) in corpus("valid-config") {
        config(&name);
    }
    assert_eq!(config("empty.toml"), Config::default());
}

#[test]
fn a_tier_that_is_given_leaves_the_others_their_defaults() {
    let config = config("one_tier_keeps_the_others.toml");
    assert_eq!(config.tiers[&Tier::Admin], Config::default().tiers[&Tier::Admin]);
    assert_eq!(config.tiers[&Tier::PowerUser].groups.len(), 1);
}

#[test]
fn services_that_are_given_replace_the_default_ones() {
    let names =
        |file| config(file).service.iter().map(|service| service.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names("services_replace_the_defaults.toml"), ["only"]);
    assert!(names("no_services.toml").is_empty());
    assert_eq!(names("empty.toml"), ["t3", "playwright"]);
}

#[test]
fn a_token_in_a_url_is_not_repeated() {
    // Invariant 7: diagnostics end in the journal.
    let (name, bytes) =
        corpus("invalid-config").into_iter().find(|(name, _)| name == "token_in_a_url.toml").unwrap();
    let diagnostics = roster::parse::config(&name, &bytes).unwrap_err();
    let all = [diagnostics.render(true), diagnostics.to_string(), format!("{diagnostics:?}")].concat();
    assert!(!all.contains("secret"), "{all}");
}

#[test]
fn a_private_key_is_not_repeated() {
    // Invariant 7.
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n        b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz\n";
    let one_line = key.replace("\n        ", " ").replace('\n', "");
    for written in [
        format!("\n      - |\n        {key}"),
        format!("\n      - >\n        {key}"),
        format!("\n      - {one_line}"),
        format!(" [\"{one_line}\"]"),
        format!(" \"{one_line}\""),
        format!(" |\n        {key}"),
    ] {
        let text = format!("users:\n  alice:\n    tier: admin\n    ssh_keys:{written}");
        let diagnostics = roster::parse::roster("roster.yaml", text.as_bytes()).unwrap_err();
        let all = [diagnostics.render(true), diagnostics.to_string(), format!("{diagnostics:?}")].concat();
        assert!(all.contains("ssh_keys") || all.contains("private key"), "{all}");
        assert!(!all.contains("b3Blbn"), "{all}");
    }
}

/// Parses what is big or deep; a person waits for the answer, and the daemon has other things to do.
fn refused_quickly(name: &str, bytes: &[u8]) -> String {
    let begun = Instant::now();
    let text = match name.ends_with(".toml") {
        true => roster::parse::config(name, bytes).unwrap_err().render(false),
        false => roster::parse::roster(name, bytes).unwrap_err().render(false),
    };
    // Some hundred times what a release build needs, on a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
    assert!(text.len() < 1 << 20, "{name}: {} bytes of diagnostics", text.len());
    text
}

#[test]
fn ten_megabytes_are_refused() {
    let line = "  alice: {authentik_user: alice, k8s_user: alice, tier: admin}\n";
    let text = format!("users:\n{}", line.repeat(10_000_000 / line.len()));
    insta::assert_snapshot!(refused_quickly("roster.yaml", text.as_bytes()), @r"
    error: the file has 9.5 MiB, at most 4 MiB are read
     --> roster.yaml:1:1
      |
    1 |
      | ^
      |
      = help: this is not the file you meant, or something has written to it

    roster.yaml: 1 error
    ");
}

#[test]
fn what_is_big_or_deep_below_the_size_limit_is_refused_quickly_too() {
    let bomb: String = (1..500).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1)).collect();
    for (name, text) in [
        ("values.yaml", format!("users: [{}]", "a,".repeat(2_000_000))),
        ("people.yaml", format!("users: {{{}}}", "alice: {tier: x},".repeat(40_000))),
        (
            "fields.yaml",
            format!("users: {{alice: {{{}}}}}", (0..90_000).map(|i| format!("f{i}: x,")).collect::<String>()),
        ),
        ("brackets.yaml", "[".repeat(4_000_000)),
        ("braces.yaml", "{a: ".repeat(1_000_000)),
        ("indents.yaml", (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
        ("dashes.yaml", "- ".repeat(2_000_000)),
        ("quote.yaml", format!("users: \"{}", "a".repeat(4_000_000))),
        ("key.yaml", format!("{}: x", "a".repeat(4_000_000))),
        ("anchors.yaml", "&a ".repeat(1_000_000)),
        ("bomb.yaml", format!("a0: &a0 x\n{bomb}")),
        ("questions.yaml", "? ".repeat(2_000_000)),
        ("dots.toml", format!("a{} = 1", ".a".repeat(100_000))),
        (
            "tables.toml",
            format!("{}b = 1{}", format!("a{} = {{\n", ".a".repeat(16)).repeat(70), "}".repeat(70)),
        ),
        ("brackets.toml", format!("a = {}", "[".repeat(200_000))),
        ("keys.toml", (0..20_000).map(|i| format!("a{i} = 1\n")).collect()),
    ] {
        refused_quickly(name, text.as_bytes());
    }
}

#[test]
fn the_deepest_accepted_toml_fits_a_small_stack() {
    let table = format!("a{} = {{\n", ".a".repeat(16));
    let text = format!("{}b = 1{}", table.repeat(32), "}".repeat(32));
    // A thread of tokio or of a test has 2 MiB.
    let parse =
        move || roster::parse::config("deep.toml", text.as_bytes()).map(|_| ()).unwrap_err().to_string();
    let message = std::thread::Builder::new().stack_size(2 << 20).spawn(parse).unwrap().join().unwrap();
    assert!(message.contains("unknown field `a`"), "{message}");
}

#[test]
fn the_first_line_and_the_number_of_the_others_fit_one_line() {
    let (name, bytes) =
        corpus("invalid").into_iter().find(|(name, _)| name == "everything_at_once.yaml").unwrap();
    let diagnostics = roster::parse::roster(&name, &bytes).unwrap_err();
    insta::assert_snapshot!(diagnostics, @"everything_at_once.yaml:3:68: only a namespace-owner has `namespaces`, user `alice` is admin; remove `namespaces`, or make the tier `namespace-owner` (and 8 more)");
}

#[test]
fn a_program_gets_the_same_as_data() {
    let text = "users:\n  bob: {authentik_user: b, k8s_user: b, tier: admn, tier: admin}\n";
    let diagnostics = roster::parse::roster("roster.yaml", text.as_bytes()).unwrap_err();
    insta::assert_json_snapshot!(diagnostics, @r#"
    {
      "diagnostics": [
        {
          "file": "roster.yaml",
          "line": 2,
          "column": 47,
          "text": "  bob: {authentik_user: b, k8s_user: b, tier: admn, tier: admin}",
          "start": 46,
          "width": 4,
          "message": "unknown tier `admn`",
          "help": "did you mean `admin`?"
        },
        {
          "file": "roster.yaml",
          "line": 2,
          "column": 53,
          "text": "  bob: {authentik_user: b, k8s_user: b, tier: admn, tier: admin}",
          "start": 52,
          "width": 4,
          "message": "`tier` is given twice",
          "help": "keep one of them",
          "also": {
            "line": 2,
            "column": 41,
            "text": "  bob: {authentik_user: b, k8s_user: b, tier: admn, tier: admin}",
            "start": 40,
            "width": 4,
            "message": "first given here"
          }
        }
      ],
      "omitted": 0
    }
    "#);
}

#[test]
fn colour_changes_nothing_but_colour() {
    let (name, bytes) = corpus("invalid").into_iter().find(|(name, _)| name == "unknown_tier.yaml").unwrap();
    let diagnostics = roster::parse::roster(&name, &bytes).unwrap_err();
    let coloured = diagnostics.render(true);
    assert!(coloured.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, diagnostics.render(false));
}

#[test]
fn an_empty_roster_is_a_roster() {
    // Invariant 2 is the guard's business; here it is only read.
    assert_eq!(roster::parse::roster("roster.yaml", b"").unwrap(), Roster::default());
}
