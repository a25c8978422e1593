//! What a person has on the line in a shell that waits: the screen cannot always tell, and none of it is run or lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tmux_persist::{Action, Answer, Job, Outcome, Row, Settings};

use crate::prompts::{Live, id, live, there};
use crate::{Place, eventually};

impl Place {
    fn cursor(&self, session: &str) -> String {
        self.tmux(&["display-message", "-p", "-t", &format!("={session}:0.0"), "#{cursor_x} #{cursor_y}"])
    }

    fn restored(&self, settings: &Settings) -> Vec<(Row, Outcome)> {
        match self.ask(settings, Job::Restore).unwrap() {
            Answer::Restored(restored) => restored.sessions,
            other => panic!("{other:?}"),
        }
    }

    /// Until the screen says that a shell waits in each.
    fn all_wait(&self, settings: &Settings) {
        let mut told = String::new();
        // Shells start background work of their own, for a moment.
        for _ in 0..200 {
            let others = self.actions(settings).into_iter().filter(|(_, action)| *action != Action::InPlace);
            told =
                others.map(|(name, action)| format!("{name} {action:?}\n{}\n", self.shown(&name))).collect();
            if told.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{told}");
    }

    fn precious(&self) -> Vec<String> {
        let files = fs::read_dir(self.home()).unwrap().map(|entry| entry.unwrap().file_name());
        files.map(|name| name.into_string().unwrap()).filter(|name| name.contains("precious")).collect()
    }
}

const ZSH: &[&str] = &["PS1='%m%% '", ""];
const ZSH_VI: &[&str] = &["PS1='%m%% '; bindkey -v", ""];

const AHEAD: &[&str] = &["until [ -e go ]; do sleep 0.1; done; clear", "touch precious-ahead"];

/// A shell, what is pasted in it and which keys are pressed then.
type Line = (Live, &'static str, &'static [&'static str]);

/// Screens that are those of an empty prompt, with something on the line. `HOST` and `USER` stand for their names, `EDGE` for
/// blanks up to the right edge.
fn lines() -> Vec<Line> {
    let bash = |name, typed| live(name, &["bash", "--norc"], typed, "$");
    let mut all: Vec<Line> = vec![
        (bash("bash", &[]), "touch precious-bash\nUSER$ ", &[]),
        (bash("bash-vi", &["set -o vi", ""]), "touch precious-bash-vi\nUSER$ ", &[]),
        // In the mode in which letters are commands, the cursor stands on the last letter.
        (bash("bash-vi-cmd", &["set -o vi", ""]), "touch precious-bash-cmd\nUSER$  ", &["Escape"]),
        (bash("bash-vi-none", &["set -o vi", ""]), "", &["Escape"]),
        (bash("bash-middle", &[]), "touch precious-middle\nUSER$    ", &["Left", "Left", "Left"]),
        (bash("bash-read", &["read -e x; touch precious-read", ""]), "x\nUSER$ ", &[]),
        // Typed before the prompt was there, and wiped from the screen.
        (live("dash-ahead", &["dash"], AHEAD, "touch precious-ahead"), "", &[]),
    ];
    if there("zsh") {
        let zsh = |name, typed| live(name, &["zsh", "-f"], typed, "% ");
        all.extend::<[Line; 9]>([
            // What is right of the cursor ends where a right prompt would.
            (zsh("zsh-right", ZSH), "EDGEtouch precious-zsh-right", &["C-a"]),
            (zsh("zsh", ZSH), "touch precious-zsh\nHOST% ", &[]),
            (zsh("zsh-vi", ZSH_VI), "touch precious-zsh-vi\nHOST% ", &[]),
            (zsh("zsh-vi-cmd", ZSH_VI), "touch precious-zsh-cmd\nHOST%  ", &["Escape"]),
            (zsh("zsh-vi-none", ZSH_VI), "", &["Escape"]),
            // What was typed before the mode was changed may not be taken away there.
            (zsh("zsh-vi-again", ZSH_VI), "touch precious-zsh-again\nHOST% ", &["Escape", "A"]),
            (zsh("zsh-middle", ZSH), "touch precious-zsh-middle\nHOST%    ", &["Left", "Left", "Left"]),
            (zsh("zsh-blank-below", ZSH), "touch precious-zsh-below\nHOST% \n\n", &["Left", "Left"]),
            (
                zsh("zsh-vared", &["PS1='%m%% '", "x=; vared x; touch precious-zsh-vared", ""]),
                "x\nHOST% ",
                &[],
            ),
        ]);
    }
    if there("fish") {
        let typed = &["function fish_prompt; echo -n (uname -n)'% '; end", ""];
        let fish = live("fish", &["fish", "--no-config"], typed, "% ");
        all.push((fish, "touch precious-fish\nHOST% ", &[]));
    }
    all
}

#[test]
fn what_is_on_a_line_is_neither_run_nor_lost() {
    let place = Place::new();
    let all = lines();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
    place.lost(all.iter().map(|(live, ..)| live.name));
    for (live, pasted, keys) in &all {
        place.start(live);
        let at = format!("={}:", live.name);
        let pasted = pasted.replace("HOST", &host).replace("USER", &user);
        let room = 79 - (host.len() + "% touch precious-zsh-right".len());
        let pasted = pasted.replace("EDGE", &" ".repeat(room));
        if let ("fish", Some((first, last))) = (live.name, pasted.split_once('\n')) {
            place.tmux(&["send-keys", "-t", &at, "-l", first]);
            place.tmux(&["send-keys", "-t", &at, "M-Enter"]);
            place.tmux(&["send-keys", "-t", &at, "-l", last]);
        } else if !pasted.is_empty() {
            place.tmux(&["set-buffer", &pasted]);
            place.tmux(&["paste-buffer", "-p", "-t", &at]);
        }
        place.settled(&at);
        for key in *keys {
            place.tmux(&["send-keys", "-t", &at, key]);
            place.settled(&at);
        }
    }
    fs::write(place.home().join("go"), "").unwrap();
    eventually("it is wiped", || (place.cursor("dash-ahead") == "2 0").then_some(()));
    let settings = place.with_claude();
    // The screen of each is that of an empty prompt.
    place.all_wait(&settings);
    let screen = |live: &Live| (place.shown(live.name), place.cursor(live.name));
    let before: Vec<_> = all.iter().map(|(live, ..)| screen(live)).collect();
    for (row, outcome) in place.restored(&settings) {
        assert_eq!((row.action, &outcome), (Action::Suffixed, &Outcome::Made), "{row:?}");
        assert_ne!(row.name, row.target);
        assert_eq!(row.note.as_deref(), Some("half_typed"));
    }
    for ((live, ..), before) in all.iter().zip(before) {
        if live.name == "dash-ahead" {
            // It is seen now.
            eventually(live.name, || {
                (place.shown(live.name).trim() == "$ ^R\ntouch precious-ahead").then_some(())
            });
        } else {
            eventually(live.name, || (screen(live) == before).then_some(()));
        }
    }
    assert_eq!(place.precious(), Vec::<String>::new());
    // Each line is whole: sent, it does what was to be done.
    for (live, pasted, _) in all.iter().filter(|(live, ..)| !live.name.ends_with("-none")) {
        let file = pasted
            .split("precious")
            .nth(1)
            .map_or_else(String::new, |rest| format!("precious{}", rest.split('\n').next().unwrap()));
        place.tmux(&["send-keys", "-t", &format!("={}:", live.name), "Enter"]);
        let file = match live.name {
            "bash-read" => "precious-read".into(),
            "zsh-vared" => "precious-zsh-vared".into(),
            "dash-ahead" => "precious-ahead".into(),
            _ => file,
        };
        eventually(&file, || place.home().join(&file).exists().then_some(()));
    }
}

/// Runs the next three with a tmux that types for a person between two calls or turns their wheel around one, and writes
/// down what is said to it.
#[test]
fn whoever_types_meanwhile_keeps_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let real = Command::new("sh").args(["-c", "command -v tmux"]).output().unwrap().stdout;
    let real = String::from_utf8(real).unwrap();
    // Before the call of that number, once a file says so for that server.
    let script = format!(
        "#!/bin/sh\nd={dir}/$3\n\
         if [ -e $d ] && [ \"$4\" != -f ]; then\n\
         echo \"$4\" >>$d.calls\n\
         if [ \"$(wc -l <$d.calls)\" = \"$(cat $d)\" ]; then\n\
         {real} -L \"$3\" send-keys -t =work: -l 'touch precious'\n\
         until {real} -L \"$3\" capture-pane -p -t =work: | grep -q precious; do sleep 0.02; done\n\
         fi; fi\n\
         if [ -e $d.wheel ] && [ \"$4\" = source-file ]; then\n\
         said=$(cat; echo .); said=${{said%.}}\n\
         case $said in *Left*) echo turned >>$d.wheel; {real} -L \"$3\" copy-mode -t =work: ;; esac\n\
         printf %s \"$said\" | {real} \"$@\"; rc=$?\n\
         case $said in *Left*) {real} -L \"$3\" send-keys -t =work: -X cancel ;; esac\n\
         exit $rc\n\
         fi\nexec {real} \"$@\"\n",
        dir = dir.path().display(),
        real = real.trim(),
    );
    fs::write(dir.path().join("tmux"), script).unwrap();
    fs::set_permissions(dir.path().join("tmux"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "lines::with_calls_counted"])
        .env("PATH", format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap()))
        .env("CALLS", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 passed"));
}

#[test]
#[ignore = "of the test before"]
fn with_calls_counted_a_person_types() {
    let calls = std::path::PathBuf::from(std::env::var("CALLS").unwrap());
    let shells = ["bash", "zsh"].into_iter().filter(|shell| there(shell));
    let all: Vec<_> = shells.flat_map(|shell| (1..=9).map(move |number| (shell, number))).collect();
    std::thread::scope(|scope| {
        for (shell, number) in all {
            let calls = &calls;
            scope.spawn(move || {
                let place = Place::new();
                place.lost(["work"].into_iter());
                place.start(&match shell {
                    "bash" => live("work", &["bash", "--norc"], &[], "$"),
                    _ => live("work", &["zsh", "-f"], ZSH, "% "),
                });
                let settings = place.with_claude();
                place.all_wait(&settings);
                fs::write(calls.join(&place.socket), number.to_string()).unwrap();
                let restored = place.restored(&settings);
                let (row, outcome) = &restored[0];
                fs::remove_file(calls.join(&place.socket)).unwrap();
                let shown = place.shown("work");
                let what = format!("{shell} {number} {row:?} {outcome:?}\n{shown}");
                assert_eq!(place.precious(), Vec::<String>::new(), "{what}");
                let both = shown.lines().any(|line| line.contains("precious") && line.contains("--resume"));
                assert!(!both, "{what}");
                // What was typed first is what counts.
                if *outcome == Outcome::Resumed {
                    assert!(number > 6, "{what}");
                    return;
                }
                assert!(
                    shown.trim_end().ends_with("touch precious") && !shown.contains("--resume"),
                    "{what}"
                );
                // It is whole.
                place.tmux(&["send-keys", "-t", "=work:0.0", "Enter"]);
                eventually(&what, || (place.precious() == ["precious"]).then_some(()));
            });
        }
    });
}

#[test]
#[ignore = "of the test before"]
fn with_calls_counted_all_panes_are_asked_together() {
    let calls = std::path::PathBuf::from(std::env::var("CALLS").unwrap());
    let place = Place::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    place.lost(names.into_iter());
    names.iter().for_each(|name| place.start(&live(name, &["bash", "--norc"], &[], "$")));
    let settings = place.with_claude();
    place.all_wait(&settings);
    fs::write(calls.join(&place.socket), "0").unwrap();
    for (row, outcome) in place.restored(&settings) {
        assert_eq!(outcome, Outcome::Resumed, "{row:?}");
    }
    let said = fs::read_to_string(calls.join(format!("{}.calls", place.socket))).unwrap();
    // To the left, a blank, and the lines.
    assert_eq!(said.matches("source-file").count(), 3, "{said}");
    let asked = said.split("source-file").nth(2).unwrap().matches("display-message").count();
    assert!(asked < names.len(), "{said}");
    for (number, name) in names.iter().enumerate() {
        let shown = place.shown(name);
        assert!(shown.contains("$  cd ") && shown.contains(&id(number)[30..]), "{shown}");
    }
}

#[test]
#[ignore = "of the test before"]
fn with_calls_counted_a_wheel_is_turned() {
    let calls = std::path::PathBuf::from(std::env::var("CALLS").unwrap());
    let place = Place::new();
    place.lost(["work"].into_iter());
    place.start(&live("work", &["bash", "--norc"], &[], "$"));
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
    place.tmux(&["set-buffer", &format!("touch precious\n{user}$ ")]);
    place.tmux(&["paste-buffer", "-p", "-t", "=work:"]);
    place.settled("=work:");
    let settings = place.with_claude();
    place.all_wait(&settings);
    let wheel = calls.join(format!("{}.wheel", place.socket));
    fs::write(&wheel, "").unwrap();
    let (row, outcome) = place.restored(&settings).remove(0);
    // Where `Left` was not pressed, a cursor that stays tells nothing.
    assert_eq!(fs::read_to_string(&wheel).unwrap(), "turned\n");
    assert_eq!((row.action, &outcome), (Action::Suffixed, &Outcome::Made), "{row:?}");
    assert_eq!(place.precious(), Vec::<String>::new());
    place.tmux(&["send-keys", "-t", "=work:0.0", "Enter"]);
    eventually("the line is whole", || (place.precious() == ["precious"]).then_some(()));
}
