//! Help, schemas, completions and manual pages: generated, so only their being there is tested.

use crate::Place;

const COMMANDS: &[&str] = &[
    "validate",
    "derive",
    "plan",
    "reconcile",
    "wait",
    "status",
    "access",
    "history",
    "show",
    "confirm",
    "freshen",
    "tmux",
    "doctor",
    "user",
    "membership",
    "offboard",
    "restore-account",
    "schema",
    "completions",
    "man",
];

#[test]
fn help_shows_every_command() {
    insta::assert_snapshot!(Place::new().run(&["-h"]).answer(0), @"
    Keep a shared machine as its roster says

    Usage: rosterctl [OPTIONS] <COMMAND>

    Commands:
      validate         Check a roster, and the configuration when there is one
      derive           Show what should be on a machine, without looking at it
      plan             Show what a reconcile would do, changing nothing
      reconcile        Make everything as the roster says, now, and show each step
      wait             Wait until the roster on disk is applied
      status           Show how everything is: generation, last run, and who is not as the roster says
      access           Show what a person can reach, and why
      history          List the past runs, the newest first
      show             Show one past run with its steps and their durations
      confirm          Let a roster proceed that the guard holds, after showing whom it cuts
      freshen          Refresh your own clones, within ten seconds
      tmux             Keep tmux sessions across reboots, killed servers and mistakes
      doctor           Check rosterd and this machine, and say what to do about what is wrong
      user             Change the roster: add, set, park, unpark, remove people
      membership       Compare the identity provider's group with the roster
      offboard         Archive and remove the account and home of somebody who was cut
      restore-account  Bring account and home back that `offboard` removed
      schema           Print the JSON Schema of the roster or the configuration
      completions      Print completions for a shell
      man              Print the manual page, or write all of them

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --json           Print JSON for programs
          --socket <PATH>  Ask the daemon at this socket [default: /run/rosterd/control.sock]
          --config <FILE>  Read the configuration from this file [default: /etc/rosterd/config.toml]
    ");
}

#[test]
fn every_command_explains_itself() {
    for command in COMMANDS {
        let text = Place::new().run(&[command, "--help"]).answer(0);
        assert!(text.contains(&format!("Usage: rosterctl {command}")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn a_wrong_command_line_exits_64() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["status", "--frob"],
        &["status", "-x"],
        &["wait", "--timeout", "soon"],
        &["plan", "--user", "root"],
    ] {
        let done = Place::new().run(args);
        assert_eq!(done.code, Some(64), "{args:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty());
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let place = Place::new();
    assert!(place.run(&["man"]).answer(0).contains(".TH rosterctl 1"));
    assert_eq!(place.run(&["man", "--dir", "pages"]).answer(0), "");
    for name in COMMANDS.iter().map(|command| format!("rosterctl-{command}")).chain(["rosterctl".into()]) {
        let page = std::fs::read_to_string(place.path().join("pages").join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")) && page.contains(".SH SYNOPSIS"), "{page}");
        assert!(!page.contains("EXTRA"), "{page}");
    }
}

#[test]
fn commands_of_commands_have_pages_and_what_is_internal_has_none() {
    let place = Place::new();
    let _ = place.run(&["man", "--dir", "pages"]).answer(0);
    let has = |name: &str| place.path().join("pages").join(format!("rosterctl-tmux-{name}.1")).exists();
    for name in
        ["save", "restore", "snapshots", "snapshot", "restore-selection", "restore-one", "history", "forget"]
    {
        assert!(has(name), "{name}");
    }
    assert!(!has("worker") && !has("pane"));
    assert!(!place.run(&["tmux", "--help"]).answer(0).contains("worker"));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = Place::new().run(&["completions", shell]).answer(0);
        for command in COMMANDS {
            assert!(text.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn schemas_are_json_schemas() {
    for what in ["roster", "config"] {
        let schema = Place::new().run(&["schema", what]).json(0);
        assert!(schema["$schema"].as_str().unwrap().starts_with("https://json-schema.org/"), "{schema}");
    }
}

#[test]
fn the_reference_mentions_every_command() {
    let reference = include_str!("../../../../docs/cli.md");
    for command in COMMANDS {
        assert!(reference.contains(&format!("`{command}")), "{command}");
    }
}

#[test]
fn whoever_reads_may_leave_early() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Place::new().command(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(141));
}
