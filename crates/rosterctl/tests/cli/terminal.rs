//! What is different on a terminal: colour, marks, the progress line, and questions.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

use crate::Place;
use crate::daemon::{daemon, done, events, reply};
use crate::online::{ended, held, status, step_event};

/// Runs on a terminal of 60 columns where somebody types `input`.
fn on_terminal(place: &Place, args: &[&str], env: &[(&str, &str)], input: &str) -> (Option<i32>, String) {
    let size = Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let mut command = place.command(&[&["--socket", "control.sock"], args].concat());
    command.envs(env.iter().copied());
    let end = || File::from(pty.slave.try_clone().unwrap());
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop((command, pty.slave));
    let mut master = File::from(pty.master);
    master.write_all(input.as_bytes()).unwrap();
    let mut screen = Vec::new();
    // The end of a terminal is an error, EIO.
    let _ = master.read_to_end(&mut screen);
    (child.wait().unwrap().code(), String::from_utf8(screen).unwrap().replace("\r\n", "\n"))
}

#[test]
fn colour_is_for_terminals_and_no_color_is_obeyed() {
    let place = Place::new();
    let _asked = daemon(&place, |_| reply(json!({ "status": status("degraded", Value::Null) })));
    let (code, text) = on_terminal(&place, &["status"], &[], "");
    assert_eq!(code, Some(3));
    assert!(text.contains("\u{1b}[31mdegraded: \u{1b}[0m"), "{text}");
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (_, text) = on_terminal(&place, &["status"], &[env], "");
        assert!(text.starts_with("degraded: ") && !text.contains('\u{1b}'), "{text}");
    }
    let (_, text) = on_terminal(&place, &["status"], &[("NO_COLOR", "")], "");
    assert!(text.contains('\u{1b}'), "an empty NO_COLOR is none: {text}");
    let (_, text) = on_terminal(&place, &["status", "--json"], &[], "");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn text_fits_the_terminal() {
    let place = Place::new();
    let _asked = daemon(&place, |_| reply(json!({ "status": status("held", held()) })));
    let (_, text) = on_terminal(&place, &["status"], &[("NO_COLOR", "1")], "");
    assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
}

#[test]
fn a_run_shows_its_phase_and_marks_its_steps() {
    let place = Place::new();
    let _asked = daemon(&place, |_| {
        // Long enough for the progress line to be drawn.
        std::thread::sleep(Duration::from_millis(400));
        events(vec![json!({ "event": "phase", "text": "looking" }), step_event(), ended("converged", vec![])])
    });
    let (code, text) = on_terminal(&place, &["reconcile"], &[("NO_COLOR", "1")], "");
    assert_eq!(code, Some(0));
    assert!(text.contains("\r\u{1b}[K⠋ waiting for rosterd, 0 s"), "{text:?}");
    assert!(text.contains("\r\u{1b}[K✓ alice: add to group docker, 7 ms\n"), "{text:?}");
    let (_, text) = on_terminal(&place, &["reconcile"], &[("NO_COLOR", "1"), ("LC_ALL", "C")], "");
    assert!(text.is_ascii() && text.contains("ok      alice"), "{text:?}");
}

#[test]
fn ctrl_c_says_that_the_run_goes_on() {
    let place = Place::new();
    let _asked = daemon(&place, |_| {
        std::thread::sleep(Duration::from_secs(5));
        vec![]
    });
    let mut command = place.command(&["--socket", "control.sock", "reconcile"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("rosterd goes on"), "{text}");
}

#[test]
fn confirm_asks_and_takes_only_yes() {
    let place = Place::new();
    let asked = daemon(&place, |method| match method {
        "Confirm" => done(),
        _ => reply(json!({ "status": status("held", held()) })),
    });
    let (code, text) = on_terminal(&place, &["confirm"], &[], "y\n");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("nobody is cut: the answer was not yes"), "{text}");
    assert_eq!(asked.lock().unwrap().len(), 1, "only the status was asked for");
    let (code, text) = on_terminal(&place, &["confirm"], &[], "yes\n");
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(asked.lock().unwrap()[2].0, "Confirm");
}
