//! What is live in a pane whose claude has ended: a shell at its prompt is typed into, anything else is somebody's work.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tmux_persist::{Action, Answer, Job, Outcome, Settings};

use crate::{Place, eventually};

pub(crate) fn id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A session that is live again without its claude.
pub(crate) struct Live {
    pub(crate) name: &'static str,
    /// What runs in its pane.
    runs: Vec<String>,
    /// What a person types there, line by line; the last one is not sent.
    typed: &'static [&'static str],
    /// What shows that it is as it should be.
    shows: &'static str,
}

pub(crate) fn live(
    name: &'static str,
    runs: &[&str],
    typed: &'static [&'static str],
    shows: &'static str,
) -> Live {
    Live { name, runs: runs.iter().map(|word| (*word).to_owned()).collect(), typed, shows }
}

impl Place {
    /// Sessions of these names, each with a conversation, are saved and gone.
    pub(crate) fn lost<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let claude = self.claude().display().to_string();
        let mut count = 0;
        for (number, name) in names.enumerate() {
            self.transcript(&self.home(), &id(number), "");
            let command = ["new-session", "-d", "-s", name, "--", &claude, "--session-id", &id(number)];
            self.tmux(&command);
            count += 1;
        }
        eventually("the conversations are saved", || {
            let saved = self.saved("state");
            (saved.matches("\"conversation\"").count() == count).then_some(()).or_else(|| {
                fs::remove_dir_all(self.store("state")).unwrap();
                None
            })
        });
        self.kill_server();
    }

    pub(crate) fn start(&self, live: &Live) {
        let at = format!("={}:", live.name);
        let mut command = vec!["new-session", "-d", "-x", "80", "-y", "24", "-s", live.name];
        // Nobody's own files; prompts as the shells have them.
        let (home, plain) = (format!("HOME={}", self.home().display()), "ENV=");
        // dash shows its prompt as it is.
        let prompt = if live.runs == ["dash"] { "PS1=$ " } else { "PS1=\\u$ " };
        command.extend(["-e", "LC_ALL=C.UTF-8"]);
        command.extend(["-e", &home, "-e", plain, "-e", prompt, "--"]);
        command.extend(live.runs.iter().map(String::as_str));
        // A server that was just killed may take the first call of the next one along.
        eventually(live.name, || self.try_tmux(&command));
        // A shell that is not there yet would lose or show twice what is typed.
        self.settled(&at);
        if let Some((last, lines)) = live.typed.split_last() {
            for line in lines {
                self.tmux(&["send-keys", "-t", &at, "-l", line]);
                self.tmux(&["send-keys", "-t", &at, "Enter"]);
                self.settled(&at);
            }
            self.tmux(&["send-keys", "-t", &at, "-l", last]);
        }
        let mut shown = String::new();
        for _ in 0..1000 {
            shown = self.shown(live.name);
            if shown.contains(live.shows) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{} shows\n{shown}", live.name);
    }

    /// Waits until nothing has moved for a moment.
    pub(crate) fn settled(&self, at: &str) {
        let look = || self.tmux(&["display-message", "-p", "-t", at, "#{cursor_x} #{cursor_y} #{pane_pid}"]);
        let mut before = String::new();
        eventually("it has settled", || {
            let now = look();
            let same = now == before && !now.starts_with("0 0 ");
            before = now;
            std::thread::sleep(std::time::Duration::from_millis(150));
            same.then_some(())
        });
    }

    pub(crate) fn shown(&self, session: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-t", &format!("={session}:0.0")])
    }

    pub(crate) fn actions(&self, settings: &Settings) -> BTreeMap<String, Action> {
        match self.ask(settings, Job::Snapshot(None)).unwrap() {
            Answer::Snapshot(view) => {
                view.rows.iter().map(|row| (row.name.to_string(), row.action)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn with_claude(&self) -> Settings {
        Settings { claude: self.claude().display().to_string(), ..self.settings("state") }
    }
}

pub(crate) fn there(program: &str) -> bool {
    Command::new(program).args(["-c", "true"]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_conversation_is_resumed_in_a_shell_that_waits() {
    let place = Place::new();
    let mut all = vec![
        live("bash", &["bash", "--norc", "-i"], &[], "$"),
        live("login", &["bash", "-c", "exec -a -bash bash --noprofile --norc -i"], &[], "bash-"),
        live("dash", &["dash"], &[], "$"),
        live("nested", &["bash", "--norc"], &["bash --norc -i", ""], "$"),
        live("launcher", &["bash", "-c", "sleep 0.1; bash --norc -i; sleep 99999"], &[], "bash-"),
        live("job", &["bash", "--norc"], &["sleep 99999 &", ""], "[1]"),
        live("ended", &["bash", "--norc"], &["set -o vi", "sleep 0", ""], "sleep"),
    ];
    if there("zsh") {
        all.push(live("zsh", &["zsh", "-f"], &["PS1='%m%% '", ""], "% "));
        all.push(live("zsh-vi", &["zsh", "-f"], &["PS1='%m%% '; bindkey -v", ""], "% "));
        all.push(live("zsh-two", &["zsh", "-f"], &["PS1=$'%n in %~\\n❯ ' RPROMPT=%T", ""], "\n❯"));
    }
    if there("fish") {
        all.push(live(
            "fish",
            &["fish", "--no-config"],
            &["function fish_prompt; echo -n (whoami)@(uname -n)' ~> '; end", ""],
            " ~>",
        ));
    }
    place.lost(all.iter().map(|live| live.name));
    all.iter().for_each(|live| place.start(live));
    let settings = place.with_claude();
    let mut actions = BTreeMap::new();
    // Shells start background work of their own, for a moment.
    for _ in 0..200 {
        actions = place.actions(&settings);
        if actions.values().all(|action| *action == Action::InPlace) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for (name, action) in &actions {
        assert_eq!(*action, Action::InPlace, "{name}:\n{}", place.shown(name));
    }
    match place.ask(&settings, Job::Restore).unwrap() {
        Answer::Restored(restored) => {
            for (row, outcome) in &restored.sessions {
                assert_eq!(*outcome, Outcome::Resumed, "{row:?}");
            }
        }
        other => panic!("{other:?}"),
    }
    for (number, live) in all.iter().enumerate() {
        // The program shows its arguments by being found again.
        eventually(live.name, || {
            let saved = place.saved("after");
            let line = saved.lines().find(|line| line.contains(&format!("\"name\":\"{}\"", live.name)))?;
            line.contains(&id(number)).then_some(())
        });
    }
}

/// Lines that go on in the next row, of 80 columns, and end with a sign there.
const WIDE: &str =
    "echo 長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長い文章。";
const WIDE_SIGN: &str =
    "echo 長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長長い文章% ";
const FAR: &str =
    "echo important                                                                    and then 50% ";

#[test]
fn what_is_no_waiting_shell_is_never_typed_into() {
    let place = Place::new();
    let wizard = place.home().join("wizard.sh");
    // It asks as a shell would, with words that are a prompt.
    let asks = "printf '~$ '; read x; echo \"taken: $x\"; sleep 99999";
    fs::write(&wizard, asks).unwrap();
    let wizard = wizard.display().to_string();
    let mut all = vec![
        live("script", &["bash", &wizard], &[], "~$"),
        live("script-i", &["bash", "--norc", "-i", &wizard], &[], "~$"),
        live("command", &["bash", "-c", asks], &[], "~$"),
        live("command-i", &["bash", "--norc", "-i", "-c", asks], &[], "~$"),
        live("dash-c", &["dash", "-c", asks], &[], "~$"),
        live("piped", &["bash", "-c", "exec bash --norc -i < <(sleep 99999)"], &[], "bash-"),
        live("read", &["bash", "--norc"], &["read -p '~$ '", ""], "\n~$"),
        live("dash-read", &["dash"], &["read x", ""], "read x"),
        live("dash-ask", &["dash"], &["read -p '~$ ' x", ""], "\n~$"),
        live("select", &["bash", "--norc"], &["select x in a b; do echo; done", ""], "#?"),
        live("sourced", &["bash", "--norc"], &["printf '~$ '; read x", ""], "\n~$"),
        live("program", &["bash", "--norc"], &["printf '~$ '; sleep 99999", ""], "\n~$"),
        live("piping", &["bash", "-c", "sleep 99999 & exec bash --norc"], &[], "bash-"),
        live("half", &["bash", "--norc"], &["half typed"], "half typed"),
        live("half-dash", &["dash"], &["half typed"], "half typed"),
        live("redirect", &["bash", "--norc"], &["echo precious >"], "precious >"),
        live("quote", &["bash", "--norc"], &["echo 'so", ""], "\n>"),
        live("here", &["dash"], &["cat >precious <<E", ""], "\n>"),
        live(
            "wrapped",
            &["bash", "--norc"],
            &["0123456789012345678901234567890123456789012345678901234567890123456789012345678901234 $"],
            "01234 $",
        ),
        live("start", &["bash", "--norc"], &["half typed"], "half typed"),
        live("blanks", &["bash", "--norc"], &["   ; touch precious-blanks"], "; touch precious"),
        live("symbol", &["bash", "--norc"], &["PS2='∙ '", "cat >precious-symbol <<E", ""], "\n∙"),
        live("known-symbol", &["bash", "--norc"], &["PS2='➜ '", "cat >precious-known-symbol <<E", ""], "\n➜"),
        live("key", &["bash", "--norc"], &["read -n1 -p '~$ ' x; touch precious-key", ""], "\n~$"),
        live(
            "hidden-key",
            &["bash", "--norc"],
            &["read -s -n1 -p '~$ ' x; touch precious-hidden-key", ""],
            "\n~$",
        ),
        live("wide", &["bash", "--norc"], &[WIDE], "文章。"),
        live("wide-sign", &["bash", "--norc"], &[WIDE_SIGN], "文章%"),
        live("far", &["bash", "--norc"], &[FAR], "and then 50%"),
        live("no-sign", &["bash", "--norc"], &["PS1='~: '", "echo important > "], "~: echo important >"),
        live("lines", &["bash", "--norc"], &[], "$"),
        live("search", &["bash", "--norc"], &[], "$"),
        live("copy", &["bash", "--norc"], &[], "$"),
        live("both", &["bash", "--norc"], &[], "$"),
        live("off", &["bash", "--norc"], &[], "$"),
    ];
    if there("zsh") {
        all.push(live("zsh-quote", &["zsh", "-f"], &["echo 'so", ""], "quote>"));
        all.push(live("zsh-read", &["zsh", "-f"], &["read 'x?~% '", ""], "\n~%"));
        all.push(live("zsh-lines", &["zsh", "-f"], &["PS1='%n%% '", ""], "% "));
        all.push(live("zsh-key", &["zsh", "-f"], &["read -k1 'x?~% '; touch precious-zsh-key", ""], "\n~%"));
        all.push(live(
            "zsh-hidden",
            &["zsh", "-f"],
            &["read -sk1 'x?~% '; touch precious-zsh-hidden", ""],
            "\n~%",
        ));
    }
    if there("fish") {
        all.push(live("fish-read", &["fish", "--no-config"], &["read x", ""], "read>"));
        all.push(live("fish-half", &["fish", "--no-config"], &["half typed"], "half typed"));
        all.push(live("fish-lines", &["fish", "--no-config"], &[], "~"));
    }
    let container = Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|s| s.success());
    if container {
        all.push(live("container", &["unshare", "-Urm", "bash", "--norc"], &[], "$"));
    }
    place.lost(all.iter().map(|live| live.name));
    all.iter().for_each(|live| place.start(live));
    place.tmux(&["send-keys", "-t", "=start:", "Home"]);
    place.tmux(&["send-keys", "-t", "=blanks:", "Home"]);
    // Pasted or typed, and not sent yet.
    for live in all.iter().filter(|live| live.name.ends_with("lines")) {
        let (at, first) = (format!("={}:", live.name), format!("touch precious-{}", live.name));
        if live.name.starts_with("fish") {
            place.tmux(&["send-keys", "-t", &at, "-l", &first]);
            place.tmux(&["send-keys", "-t", &at, "M-Enter"]);
            place.tmux(&["send-keys", "-t", &at, "-l", "echo done 50% "]);
        } else {
            place.tmux(&["set-buffer", &format!("{first}\necho done 50% ")]);
            place.tmux(&["paste-buffer", "-p", "-t", &at]);
        }
        eventually("it is there", || place.shown(live.name).contains("done 50%").then_some(()));
    }
    place.tmux(&["send-keys", "-t", "=search:", "C-r"]);
    place.tmux(&["copy-mode", "-t", "=copy:"]);
    // What is typed into one goes to both.
    place.tmux(&["split-window", "-d", "-t", "=both:", "--", "cat"]);
    place.tmux(&["set-option", "-w", "-t", "=both:", "synchronize-panes", "on"]);
    place.tmux(&["select-pane", "-d", "-t", "=off:"]);
    eventually("the search is shown", || place.shown("search").contains("reverse-i-search").then_some(()));
    eventually("it has split", || {
        place.tmux(&["capture-pane", "-p", "-t", "=both:0.1"]);
        Some(())
    });
    let settings = place.with_claude();
    let before: Vec<String> = all.iter().map(|live| place.shown(live.name)).collect();
    // For longer than a shell's own passing work.
    for _ in 0..5 {
        let actions = place.actions(&settings);
        let typed: Vec<_> = actions.iter().filter(|(_, action)| **action != Action::Suffixed).collect();
        assert!(typed.is_empty(), "{typed:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    match place.ask(&settings, Job::Restore).unwrap() {
        Answer::Restored(restored) => {
            for (row, outcome) in &restored.sessions {
                assert_eq!(*outcome, Outcome::Made, "{row:?}");
            }
        }
        other => panic!("{other:?}"),
    }
    for (live, before) in all.iter().zip(before) {
        assert_eq!(place.shown(live.name), before, "{}", live.name);
    }
    assert_eq!(place.tmux(&["display-message", "-p", "-t", "=copy:", "#{pane_in_mode}"]), "1");
    assert_eq!(place.tmux(&["capture-pane", "-p", "-t", "=both:0.1"]), "");
    let files = fs::read_dir(place.home()).unwrap().map(|entry| entry.unwrap().file_name());
    let files: Vec<_> = files.filter(|name| name.to_string_lossy().contains("precious")).collect();
    assert!(files.is_empty(), "{files:?}");
}

/// What became of sessions when several restores ran at once.
fn at_once(place: &Place, settings: &Settings) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..4).map(|_| scope.spawn(|| place.ask(settings, Job::Restore).unwrap())).collect();
        let outcomes = asked.into_iter().flat_map(|asked| match asked.join().unwrap() {
            Answer::Restored(restored) => restored.sessions.into_iter().map(|(_, outcome)| outcome),
            other => panic!("{other:?}"),
        });
        outcomes.filter(|outcome| *outcome != Outcome::LeftAlone).collect()
    })
}

#[test]
fn restores_at_once_resume_a_conversation_once() {
    let place = Place::new();
    place.lost(["work"].into_iter());
    place.start(&live("work", &["bash", "--norc"], &[], "$"));
    let settings = place.with_claude();
    eventually("a shell waits", || (place.actions(&settings)["work"] == Action::InPlace).then_some(()));
    // Its claude takes a while to be one.
    let slow = place.home().join("slow");
    fs::write(&slow, format!("#!/bin/sh\nsleep 1\nexec {} \"$@\"\n", settings.claude)).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let slow = Settings { claude: slow.display().to_string(), ..settings.clone() };
    assert_eq!(at_once(&place, &slow), [Outcome::Resumed]);
    assert_eq!(place.shown("work").matches("--resume").count(), 1);
    // Nor when the session has to be made, and its claude takes long to come.
    place.kill_server();
    let mut slow = settings.clone();
    slow.pane[2] = format!("sleep 3; {}", slow.pane[2]);
    assert_eq!(at_once(&place, &slow), [Outcome::Made]);
    assert_eq!(place.tmux(&["list-sessions", "-F", "#{session_name}"]), "work");
    // A save in that moment keeps the conversation.
    assert!(place.saved("state").contains(&id(0)));
    assert_eq!(place.actions(&settings)["work"], Action::Skip);
}
