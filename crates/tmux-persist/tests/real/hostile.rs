//! A server, a socket or a folder of sockets that somebody arranged.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tmux_persist::{Answer, Job, Saved};

use crate::Place;

impl Place {
    /// Where the server listens.
    fn listens_at(&self) -> PathBuf {
        let base = std::env::var_os("TMUX_TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from);
        let folder = base.join(format!("tmux-{}", nix::unistd::Uid::current()));
        // Whoever has not used tmux yet has none.
        let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
        folder.join(&self.socket)
    }

    fn complaint(&self) -> String {
        self.ask(&self.settings("state"), Job::Save).unwrap_err().why
    }
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let place = Place::new();
    let listener = UnixListener::bind(place.listens_at()).unwrap();
    let why = place.complaint();
    assert!(why.contains("did not answer within 5 s"), "{why}");
    drop(listener);
    // What is left of it is a socket that outlived its server.
    assert_eq!(place.save("state"), Saved::NoSessions);
    fs::remove_file(place.listens_at()).unwrap();
}

#[test]
fn a_server_that_says_what_is_no_answer_is_told() {
    let place = Place::new();
    let listener = UnixListener::bind(place.listens_at()).unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming() {
            let noise: Vec<u8> =
                (0..1 << 16).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
            let _ = stream.unwrap().write_all(&noise);
        }
    });
    let why = place.complaint();
    assert!(why.starts_with("tmux failed: ") || why.contains("did not answer"), "{why}");
    assert!(!place.store("state").join("newest").exists());
    fs::remove_file(place.listens_at()).unwrap();
}

#[test]
fn what_a_server_says_cannot_pass_for_a_line_of_ours() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "work", "--", "sleep", "99999"]);
    let forged = "list-panes='no\nerror: root: all is lost\n  next: run this\u{1b}[2J'";
    place.tmux(&["set-option", "-s", "command-alias[99]", forged]);
    let failure = place.ask(&place.settings("state"), Job::Save).unwrap_err();
    assert!(failure.why.contains("all is lost"), "{failure:?}");
    assert!(
        !failure.why.contains(char::is_control) && !failure.next.contains(char::is_control),
        "{failure:?}"
    );
}

#[test]
fn a_session_that_does_not_stay_is_told_with_a_reason() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "work", "--", "sleep", "99999"]);
    place.saved("state");
    place.tmux(&["set-option", "-g", "exit-empty", "off"]);
    place.tmux(&["set-option", "-g", "destroy-unattached", "on"]);
    crate::eventually("it is gone", || place.tmux(&["list-sessions", "-F", "x"]).is_empty().then_some(()));
    // A server without sessions is no failure.
    assert_eq!(place.save("state"), Saved::NoSessions);
    match place.job("state", Job::Restore) {
        Answer::Restored(restored) => match &restored.sessions[..] {
            [(_, tmux_persist::Outcome::Failed(why))] => {
                assert!(why.contains("destroy-unattached"), "{why}");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_without_end_is_given_up() {
    let place = Place::new();
    // Far more than the arguments of a call may hold, so from a file.
    let file = place.home().join("stamp");
    fs::write(&file, format!("set-option -g @claude_transcript {}\n", "x".repeat(9 << 20))).unwrap();
    place.tmux(&["new-session", "-d", "-s", "work", "--", "sleep", "99999"]);
    place.tmux(&["source-file", file.to_str().unwrap()]);
    let why = place.complaint();
    assert!(why.contains("said more than 8388608 bytes"), "{why}");
}

#[test]
fn what_is_never_work_and_what_no_name_can_hold_changes_nothing() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "work", "-n", "w", "--", "sleep", "99999"]);
    let before = crate::eventually("its program runs", || {
        Some(place.saved("state")).filter(|saved| saved.contains("\"command\""))
    });
    // tmux forbids some of these names and rewrites others; none of them is anybody's work.
    for name in [
        "#(touch pwned)",
        "#{pid}",
        "a\tb",
        "a\nb",
        "a\u{1b}]0;x\u{7}b",
        "$(touch pwned)",
        "`id`",
        "a b",
        "a'b",
    ] {
        let escaped = name.replace('#', "##");
        place.try_tmux(&["new-session", "-d", "-s", &escaped, "--", "sleep", "99999"]);
    }
    assert_eq!(place.saved("state"), before);
    assert!(!place.home().join("pwned").exists());
}
