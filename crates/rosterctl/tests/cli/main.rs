//! The real program with nothing of this machine's environment: what it prints, and its exit codes.
//! What the texts look like is tested where they are made; here it is the wiring.

// The lint spares tests, and does not see that all of this program is one.
#![allow(clippy::unwrap_used)]

mod daemon;
mod generated;
mod membership;
mod offline;
mod online;
mod terminal;
mod tmux;
mod user;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A folder of its own for each test, with the program in it.
struct Place {
    dir: TempDir,
}

/// How a call ended.
#[must_use = "look at the exit code or the output"]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Place { dir: TempDir::new().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rosterctl"));
        command.env_clear().env("TERM", "xterm").env("LANG", "C.UTF-8").current_dir(self.path()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Done {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input closes the pipe; that is its right.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text =
            |bytes| String::from_utf8(bytes).unwrap().replace(&self.path().display().to_string(), "PLACE");
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Done {
    /// What it wrote on standard output when it ended with `code` and wrote nothing else.
    #[track_caller]
    fn answer(self, code: i32) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(code), ""), "stdout: {}", self.stdout);
        self.stdout
    }

    /// What it wrote on standard error when it ended with `code` and wrote nothing else.
    #[track_caller]
    fn complaint(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "stderr: {}", self.stderr);
        self.stderr
    }

    #[track_caller]
    fn json(self, code: i32) -> serde_json::Value {
        serde_json::from_str(&self.answer(code)).unwrap()
    }
}
