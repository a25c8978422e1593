//! Sessions on real tmux servers, of whichever tmux is first in `PATH`.

// The lint spares tests, and does not see that all of this program is one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod hostile;
mod lines;
mod places;
mod prompts;
mod sessions;
mod trees;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tmux_persist::{Answer, Failure, Job, Restored, Saved, Settings, run_here};

/// In the place of `rosterctl tmux pane`: goes to the folder, shows the text, and becomes what it is told to.
const PANE: &str = r#"
cd "$2"; shift 2
if [ "$1" = --scrollback ]; then cat "$2"; shift 2; fi
case $1 in --claude) exec "$0" "$@" ;; --) shift; exec "$@" ;; *) exec sh ;; esac
"#;

/// A server, a home and a store of their own.
struct Place {
    dir: TempDir,
    socket: String,
    scrollback_kib: u32,
}

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
            socket: format!("rosterd-test-{}-{number}", std::process::id()),
            scrollback_kib: 0,
        };
        fs::create_dir(place.home()).unwrap();
        place
    }

    fn home(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("home")
    }

    fn settings(&self, state: &str) -> Settings {
        Settings {
            state: self.dir.path().join(state),
            socket: self.socket.clone(),
            claude: "claude".into(),
            commands: vec!["sleep".into()],
            environment: vec![],
            scrollback_kib: self.scrollback_kib,
            now: None,
            pane: ["sh", "-c", PANE, &self.claude().display().to_string()].map(str::to_owned).into(),
        }
    }

    /// A program that the kernel names claude, whatever its arguments.
    fn claude(&self) -> PathBuf {
        let program = self.dir.path().join("claude");
        if !program.exists() {
            // By another process: what forks here meanwhile would hold it open, and what is written cannot be executed.
            let script = r"printf '#!/bin/sh\nwhile :; do sleep 1000; done\n' >$0 && chmod 755 $0";
            assert!(Command::new("sh").args(["-c", script]).arg(&program).status().unwrap().success());
        }
        program
    }

    fn job(&self, state: &str, job: Job) -> Answer {
        self.ask(&self.settings(state), job).unwrap_or_else(|f| panic!("{f:?}"))
    }

    fn save(&self, state: &str) -> Saved {
        match self.job(state, Job::Save) {
            Answer::Saved { saved, .. } => saved,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, settings: &Settings, job: Job) -> Result<Answer, Failure> {
        run_here("ann", &self.home(), settings, &job)
    }

    /// That person's folder in a store.
    fn store(&self, state: &str) -> PathBuf {
        self.dir.path().join(state).join("users/ann")
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn try_tmux(&self, arguments: &[&str]) -> Option<String> {
        let output = self.call(arguments);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn call(&self, arguments: &[&str]) -> Output {
        // A word that ends so would end the command.
        let whole =
            |word: &&str| word.strip_suffix(';').map_or((*word).to_owned(), |rest| format!("{rest}\\;"));
        Command::new("tmux")
            .args(["-u", "-L", &self.socket, "-f", "/dev/null"])
            .args(arguments.iter().map(whole))
            .env_remove("TMUX")
            .env("SHELL", "/bin/sh")
            .current_dir(self.home())
            .output()
            .unwrap()
    }

    fn kill_server(&self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
        while Command::new("tmux")
            .args(["-L", &self.socket, "has-session"])
            .output()
            .unwrap()
            .status
            .success()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a save writes, without its first line.
    fn saved(&self, state: &str) -> String {
        let saved = self.save(state);
        assert!(matches!(saved, Saved::Stored { .. } | Saved::Unchanged), "{saved:?}");
        let text = fs::read_to_string(self.store(state).join("newest")).unwrap();
        text.split_once('\n').unwrap().1.to_owned()
    }

    fn transcript(&self, folder: &Path, id: &str, text: &str) -> PathBuf {
        let slug = folder.display().to_string().replace(['/', '.'], "-");
        let place = self.home().join(".claude/projects").join(slug);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(format!("{id}.jsonl")), text).unwrap();
        place.join(format!("{id}.jsonl"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_server();
    }
}

/// Asks until the answer is there.
#[track_caller]
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Programs in panes take a moment to go where they belong; the snapshots are asked for until they are the same.
#[track_caller]
fn same_again(place: &Place, before: &str) {
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let after = place.saved(&format!("after{tries}"));
        if after == before {
            return;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            assert_eq!(after, before);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn restore(place: &Place) -> Restored {
    match place.job("state", Job::Restore) {
        Answer::Restored(restored) => restored,
        other => panic!("{other:?}"),
    }
}
