//! Conversations, programs and what else a session has, each by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tmux_persist::{Answer, Job, Known, Outcome, Saved, SessionName, Settings};

use crate::{Place, eventually, restore, same_again};

const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";
const C: &str = "00000000-0000-4000-8000-00000000000c";
const D: &str = "00000000-0000-4000-8000-00000000000d";

#[test]
fn conversations_are_attributed_and_resumed_where_they_were() {
    let place = Place::new();
    let claude = place.claude().display().to_string();
    let folder = |name: &str| {
        let folder = place.home().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let start = |session: &str, folder: &Path, arguments: &[&str]| {
        let folder = folder.display().to_string();
        let mut command = vec!["new-session", "-d", "-s", session, "-c", &folder, "--", &claude];
        command.extend(arguments);
        place.tmux(&command);
    };
    let (one, two, three) = (folder("one.d"), folder("two"), folder("three"));
    // By stamp, which beats the arguments; by arguments; by name; as the only one; and two that cannot be told apart.
    start("stamp", &one, &["--session-id", B]);
    let stamp = place.transcript(&one, A, "");
    place.tmux(&["set-option", "-t", "=stamp:", "@claude_transcript", stamp.to_str().unwrap()]);
    start("argument", &one, &["--name", "argument", "--resume", B]);
    start("named", &two, &[]);
    place.transcript(&two, C, "{\"agentName\":\"named\"}\n");
    place.transcript(&two, "00000000-0000-4000-8000-0000000000ff", "");
    start("nameless", &two, &[]);
    start("only", &three, &[]);
    place.transcript(&one, B, "");
    start("lost", &one, &["--resume", "00000000-0000-4000-8000-0000000000ee"]);
    // What another person's or no transcript is counts for nothing.
    start("forged", &three, &["--resume", "not-an-id"]);
    place.tmux(&["set-option", "-t", "=forged:", "@claude_transcript", "/etc/passwd"]);
    // Both that may have it run already: the first by name gets it.
    place.transcript(&three, D, "");
    // Each claude takes a moment to be there.
    let begun = Instant::now();
    for probe in 0.. {
        if place.saved(&format!("probe{probe}")).matches("\"conversation\"").count() == 5 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not all conversations are seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    place.saved("state");
    let rows = |place: &Place| match place.job("state", Job::Snapshot(None)) {
        Answer::Snapshot(view) => view
            .rows
            .iter()
            .map(|row| {
                let id = row.conversation.as_ref().map_or("-", |id| &id.as_str()[35..]);
                let note = row.note.as_deref().unwrap_or("-");
                format!("{} {id} {} {} {note}", row.name, row.state.as_str(), row.action.as_str())
            })
            .collect::<Vec<_>>()
            .join("\n"),
        other => panic!("{other:?}"),
    };
    insta::assert_snapshot!(rows(&place), @r"
    argument b live_same skip -
    forged d live_same skip -
    lost e live_same skip -
    named c live_same skip -
    nameless - live_same skip -
    only - live_same skip -
    stamp a live_same skip -
    ");
    place.kill_server();
    insta::assert_snapshot!(rows(&place), @r"
    argument b missing new -
    forged d missing new -
    lost e missing new gone
    named c missing new -
    nameless - missing new -
    only - missing new -
    stamp a missing new -
    ");
    assert!(restore(&place).sessions.iter().all(|(_, outcome)| *outcome == Outcome::Made));
    let begun = Instant::now();
    let wanted = [(A, "stamp", &one), (B, "argument", &one), (C, "named", &two), (D, "forged", &three)];
    for (id, session, folder) in wanted {
        loop {
            let pid = place.tmux(&["list-panes", "-t", &format!("={session}:"), "-F", "#{pane_pid}"]);
            let arguments =
                fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
            if arguments.contains(&format!("--name {session} --resume {id}"))
                && fs::read_link(format!("/proc/{pid}/cwd")).unwrap() == *folder
            {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{session}: {arguments}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn listed_programs_and_variables_come_back() {
    let place = Place::new();
    place.tmux(&[
        "new-session",
        "-d",
        "-s",
        "work",
        "-e",
        "PROJECT=x 'y' $z #{pid}",
        "-e",
        "TOKEN=t",
        "--",
        "sleep",
        "77777",
    ]);
    let settings = Settings { environment: vec!["PROJECT".into()], ..place.settings("state") };
    eventually("both are saved", || {
        place.ask(&settings, Job::Save).unwrap();
        let saved = fs::read_to_string(place.store("state").join("newest")).unwrap();
        assert!(!saved.contains("TOKEN"), "{saved}");
        (saved.contains(r#""command":["sleep","77777"]"#) && saved.contains(r#""PROJECT":"x 'y' $z #{pid}""#))
            .then_some(())
    });
    place.kill_server();
    restore(&place);
    assert_eq!(place.tmux(&["show-environment", "-t", "=work:", "PROJECT"]), "PROJECT=x 'y' $z #{pid}");
    eventually("the program runs", || {
        let runs = place.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_current_command}"]);
        (runs == "sleep").then_some(())
    });
}

#[test]
fn sessions_that_share_windows_come_back_as_such() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "first", "--", "sleep", "99999"]);
    for at in ["=first:4", "=first:7"] {
        place.tmux(&["new-window", "-d", "-t", at, "--", "sleep", "99999"]);
    }
    // Each has a current window of its own.
    for (name, window) in [("second", "7"), ("third", "4")] {
        place.tmux(&["new-session", "-d", "-s", name, "-t", "=first"]);
        place.tmux(&["select-window", "-t", &format!("={name}:{window}")]);
    }
    let before = place.saved("state");
    place.kill_server();
    restore(&place);
    same_again(&place, &before);
    let current =
        ["list-sessions", "-F", "#{session_name} #{session_group} #{window_index} #{session_windows}"];
    assert_eq!(place.tmux(&current), "first first 0 3\nsecond first 7 3\nthird first 4 3");
}

#[test]
fn nothing_is_started_where_there_is_no_server() {
    let place = Place::new();
    assert_eq!(place.save("state"), Saved::NoSessions);
    assert_eq!(place.job("state", Job::Snapshots), Answer::Snapshots(vec![]));
    let running = Command::new("tmux").args(["-L", &place.socket, "has-session"]).output().unwrap();
    assert!(!running.status.success());
}

#[test]
fn a_claude_that_ended_is_resumed_in_its_pane() {
    let place = Place::new();
    // A folder in which a shell or tmux would find something to do.
    let folder = place.home().join(r"it's \';touch pwned;# #(touch pwned) $(touch pwned)");
    fs::create_dir(&folder).unwrap();
    place.transcript(&folder, A, "");
    let claude = place.claude().display().to_string();
    let quoted = format!("exec '{claude}' --session-id {A}");
    place.tmux(&[
        "new-session",
        "-d",
        "-s",
        "work",
        "--",
        "sh",
        "-c",
        &format!("cd \"$0\"; {quoted}"),
        folder.to_str().unwrap(),
    ]);
    eventually("the conversation is saved", || place.saved("state").contains(A).then_some(()));
    place.kill_server();
    place.tmux(&["new-session", "-d", "-s", "work", "--", "sh"]);
    let settings = Settings { claude, ..place.settings("state") };
    eventually("a shell waits", || match place.ask(&settings, Job::Snapshot(None)).unwrap() {
        Answer::Snapshot(view) => (view.rows[0].action == tmux_persist::Action::InPlace).then_some(()),
        other => panic!("{other:?}"),
    });
    match place.ask(&settings, Job::Restore).unwrap() {
        Answer::Restored(restored) => assert_eq!(restored.sessions[0].1, Outcome::Resumed),
        other => panic!("{other:?}"),
    }
    eventually("it goes on where it was", || {
        let saved = place.saved("after");
        (saved.contains(A) && saved.contains("touch pwned")).then_some(())
    });
    assert!(!place.home().join("pwned").exists() && !folder.join("pwned").exists());
}

#[test]
fn what_panes_showed_is_kept_only_when_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let mut place = Place::new();
    let show = |text: &str| format!("printf '{text}'; exec sleep 99999");
    place.tmux(&[
        "new-session",
        "-d",
        "-s",
        "work",
        "-x",
        "60",
        "-y",
        "10",
        "--",
        "sh",
        "-c",
        &show("first\\n\\033[31mred\\033[0m\\n"),
    ]);
    place.tmux(&[
        "split-window",
        "-t",
        "=work:",
        "--",
        "sh",
        "-c",
        "i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo this is line $i; done; exec sleep 99999",
    ]);
    eventually("both panes show all", || {
        let run = place.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_current_command}"]);
        (run == "sleep\nsleep").then_some(())
    });
    let screens = place.store("state").join("scrollback");
    place.saved("state");
    assert!(!screens.exists(), "off by default");

    place.scrollback_kib = 1;
    let screen = |name: &str| {
        let newest = fs::read_link(place.store("state").join("newest")).unwrap();
        fs::read(screens.join(newest.file_name().unwrap()).join(name)).unwrap_or_default()
    };
    // It is written for the snapshot that there is, although the sessions are the same.
    let long = eventually("all is shown", || {
        assert_eq!(place.save("state"), Saved::Unchanged);
        Some(screen("work.0.1")).filter(|text| text.ends_with(b"this is line 300\x1b[0m\n"))
    });
    assert!((900..=1024).contains(&long.len()), "{}", long.len());
    assert!(long.starts_with(b"this is line "), "whole lines: {}", String::from_utf8_lossy(&long));
    let short = screen("work.0.0");
    assert!(short.starts_with(b"first\n\x1b[31mred"), "{}", String::from_utf8_lossy(&short));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = fs::read_dir(&screens).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&screens), mode(&dir), mode(&dir.join("work.0.0"))), (0o700, 0o700, 0o600));

    // After a loss the panes show it again.
    place.kill_server();
    restore(&place);
    let shown = |pane: usize| {
        let panes = place.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_id}"]);
        place.tmux(&["capture-pane", "-p", "-S", "-100", "-t", panes.lines().nth(pane).unwrap()])
    };
    eventually("it is shown again", || {
        (shown(0).starts_with("first\nred") && shown(1).contains("line 299\nthis is line 300")).then_some(())
    });
    assert!(!shown(1).contains("is line 1\n"));

    // Turned off, what was kept goes.
    place.scrollback_kib = 0;
    place.saved("state");
    assert!(!screens.exists());
}

#[test]
fn a_screen_that_is_too_large_costs_no_other() {
    let mut place = Place::new();
    place.scrollback_kib = 64;
    place.tmux(&[
        "new-session",
        "-d",
        "-s",
        "a",
        "-x",
        "20",
        "-y",
        "5",
        "--",
        "sh",
        "-c",
        "echo small; exec sleep 99999",
    ]);
    // Each of its cells has a colour of its own, so that a few hundred lines are far more than an answer may have.
    let colours = r#"awk 'BEGIN { for (l = 0; l < 900; l++) { for (c = 0; c < 900; c++) printf "\033[38;2;%d;%d;%dm#", c % 250, l % 250, (c * l) % 250; print "" } print "\033[0mdone" }'; exec sleep 99999"#;
    place.tmux(&["new-session", "-d", "-s", "b", "-x", "900", "-y", "100", "--", "sh", "-c", colours]);
    eventually("it is drawn", || {
        place.tmux(&["capture-pane", "-p", "-t", "=b:"]).contains("done").then_some(())
    });
    place.saved("state");
    let newest = fs::read_link(place.store("state").join("newest")).unwrap();
    let screens = place.store("state").join("scrollback").join(newest.file_name().unwrap());
    assert_eq!(fs::read_to_string(screens.join("a.0.0")).unwrap(), "small\u{1b}[0m\n");
    let large = fs::read_to_string(screens.join("b.0.0")).unwrap();
    assert!(large.len() <= 64 * 1024 && large.ends_with("done\u{1b}[0m\n"), "{}", large.len());
}

#[test]
fn a_folder_that_is_no_text_comes_back_byte_for_byte() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let folder = place.home().join(std::ffi::OsStr::from_bytes(b"raw \xff\xfe"));
    fs::create_dir(&folder).unwrap();
    let started = Command::new("tmux")
        .args(["-u", "-L", &place.socket, "-f", "/dev/null", "new-session", "-d", "-s", "raw", "--"])
        .args(["sh", "-c", "cd \"$0\"; exec sleep 99999"])
        .arg(&folder)
        .env_remove("TMUX")
        .status();
    assert!(started.unwrap().success());
    let before =
        eventually("it is there", || Some(place.saved("state")).filter(|saved| saved.contains("255,254")));
    place.kill_server();
    restore(&place);
    same_again(&place, &before);
}

#[test]
fn what_was_forgotten_and_is_live_at_a_save_is_closed_no_more() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "docs", "sh"]);
    place.tmux(&["new-session", "-d", "-s", "other", "sh"]);
    // A shell that has just begun may be called otherwise.
    eventually("nothing changes", || (place.save("state") == Saved::Unchanged).then_some(()));
    let docs = SessionName::new("docs").unwrap();
    match place.job("state", Job::Forget(docs.clone(), None)) {
        Answer::Forgotten(one) => assert_eq!(one.known, Known::Live),
        other => panic!("{other:?}"),
    }
    assert_eq!(place.save("state"), Saved::Unchanged);
    place.kill_server();
    let restored = restore(&place);
    assert_eq!(restored.sessions[0].0.name, docs);
    assert!(restored.sessions.iter().all(|(_, outcome)| *outcome == Outcome::Made), "{restored:?}");
    // Closed after that save, it stays so.
    place.tmux(&["kill-session", "-t", "=docs"]);
    place.job("state", Job::Forget(docs.clone(), None));
    place.save("state");
    place.kill_server();
    assert!(
        restore(&place)
            .sessions
            .iter()
            .all(|(row, outcome)| { row.name != docs || *outcome == Outcome::LeftAlone })
    );
}
