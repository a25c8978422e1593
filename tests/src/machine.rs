//! One machine: a Debian that boots over an overlay, takes commands, and is gone at the end of its test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use serde_json::{Map, Value};

use crate::image::{Suite, deb, mount_overlay};
use crate::scratch::Scratch;

/// rosterd's workers narrow themselves with Landlock, which nspawn's own filter refuses.
const LANDLOCK: &str =
    "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// How long a command in a machine may take before it counts as hanging.
const PATIENCE: &str = "300";

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    suite: Suite,
    container: Option<Container>,
    // After the container: the fields are dropped in this order, and the scratch folder is what it runs in.
    scratch: Scratch,
}

#[derive(Debug)]
struct Container {
    nspawn: Child,
    /// Its systemd, as the host numbers processes.
    init: i32,
}

impl Machine {
    /// A machine that has just booted, with the `.deb` of `./dev build` installed, as after the first reboot.
    pub fn with_rosterd(suite: Suite) -> Machine {
        Machine::over(suite, &suite.layers_with(&deb()), Scratch::new("m"))
    }

    /// A machine that has just booted and has nothing of rosterd.
    pub fn bare(suite: Suite) -> Machine {
        Machine::over(suite, &[suite.base()], Scratch::new("m"))
    }

    /// A machine with rosterd that outlives this process, until `sweep(true)` or the next one of this name.
    pub fn kept(suite: Suite, name: &str) -> Machine {
        let mut scratch = Scratch::named(name.to_owned());
        scratch.keep();
        Machine::over(suite, &suite.layers_with(&deb()), scratch)
    }

    fn over(suite: Suite, lower: &[PathBuf], scratch: Scratch) -> Machine {
        let folder = |name: &str| {
            let path = scratch.path().join(name);
            fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
            path
        };
        let (upper, work, root) = (folder("upper"), folder("work"), folder("root"));
        mount_overlay(lower, &upper, &work, &root);
        fs::write(root.join("etc/machine-id"), format!("{}\n", machine_id())).expect("a machine id");
        fs::write(root.join("etc/hostname"), format!("{}\n", scratch.name())).expect("a host name");
        let mut machine = Machine { suite, container: None, scratch };
        machine.boot();
        machine
    }

    /// Which Debian it runs.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Its root folder as the host sees it. Follow no absolute symlink in it: it would lead into the host.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// The process id of its systemd on the host, for `nsenter`.
    pub fn init(&self) -> i32 {
        self.container.as_ref().expect("the machine runs").init
    }

    /// Boots a machine that was stopped and waits until its systemd has nothing more to start.
    pub fn boot(&mut self) {
        assert!(self.container.is_none(), "{} runs already", self.scratch.name());
        let begun = Instant::now();
        let log = self.scratch.path().join("console.log");
        let console = fs::File::create(&log).expect("a console log");
        let nspawn = self
            .scratch
            .command("systemd-nspawn")
            .args([
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--console=read-only",
                "--resolv-conf=off",
                LANDLOCK,
            ])
            .args(["--machine", self.scratch.name()])
            .arg("--directory")
            .arg(self.root())
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("a second handle of the console log"))
            .stderr(console)
            .spawn()
            .expect("starting systemd-nspawn");
        let supervisor = nspawn.id();
        self.container = Some(Container { nspawn, init: 0 });
        loop {
            assert!(begun.elapsed() < Duration::from_secs(60), "no boot within 60 s:\n{}", read_tail(&log));
            let container = self.container.as_mut().expect("just set");
            if let Ok(Some(status)) = container.nspawn.try_wait() {
                panic!("systemd-nspawn ended with {status}:\n{}", read_tail(&log));
            }
            if container.init == 0 {
                container.init = systemd_below(supervisor).unwrap_or(0);
                // For `./dev shell`.
                fs::write(self.scratch.path().join("init"), container.init.to_string())
                    .expect("writing the pid");
            } else {
                let state = self.run(&["systemctl", "is-system-running"]);
                if ["running", "degraded"].contains(&state.stdout.trim()) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Shuts the machine down in order, as `poweroff` does; `boot` starts it again with all its files.
    pub fn stop(&mut self) {
        let mut container = self.container.take().expect("the machine runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(container.nspawn.id()).expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("asking nspawn to shut down");
        let begun = Instant::now();
        while container.nspawn.try_wait().expect("waiting for nspawn").is_none() {
            if begun.elapsed() > Duration::from_secs(100) {
                self.scratch.kill();
                panic!("no shutdown within 100 s:\n{}", read_tail(&self.scratch.path().join("console.log")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Pulls the plug: everything is killed at once, nothing is told.
    pub fn power_off_hard(&mut self) {
        let mut container = self.container.take().expect("the machine runs");
        self.scratch.kill();
        container.nspawn.wait().expect("waiting for nspawn");
    }

    /// Stops and boots again: files, journal and enabled units stay, processes and `/run` do not.
    pub fn reboot(&mut self) {
        self.stop();
        self.boot();
    }

    /// The command that runs a program in the machine as root, with root's plain environment.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--all").arg("--target").arg(self.init().to_string()).arg("--");
        command.args(["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["HOME=/root", "LANG=C.UTF-8", "TERM=xterm-256color"]);
        command.args(argv.iter().map(AsRef::as_ref));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program in the machine as root. Ended, with status 124, when it takes longer than five minutes.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Output {
        self.run_with_input(argv, b"")
    }

    fn run_with_input<S: AsRef<str>>(&self, argv: &[S], input: &[u8]) -> Output {
        let argv: Vec<&str> = ["timeout", "--kill-after=5", PATIENCE]
            .into_iter()
            .chain(argv.iter().map(AsRef::as_ref))
            .collect();
        let mut command = self.command(&argv);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting nsenter");
        let mut stdin = child.stdin.take().expect("its input");
        // A program that reads nothing closes the pipe; that is its right.
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().expect("waiting for nsenter");
        Output {
            what: argv[3..].join(" "),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a shell script as root; its first failing command ends it.
    pub fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-euc", script])
    }

    /// Runs a shell script as a user, in their home and as by their login.
    pub fn sh_as(&self, user: &str, script: &str) -> Output {
        self.run(&["runuser", "--login", user, "--command", script])
    }

    /// Replaces a file as editors do: written beside, then renamed over it. Folders are made as needed.
    #[track_caller]
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1.test-new" && mv -f "$1.test-new" "$1""#;
        self.run_with_input(&["sh", "-euc", script, "sh", path], content.as_ref()).ok();
    }

    /// The text of a file.
    #[track_caller]
    pub fn read_file(&self, path: &str) -> String {
        self.run(&["cat", "--", path]).ok()
    }

    /// Whether something stands at a path; a symlink counts, wherever it leads.
    pub fn exists(&self, path: &str) -> bool {
        self.sh(&format!("test -e '{path}' || test -L '{path}'")).status == 0
    }

    /// The journal's records that match, oldest first: `&["SYSLOG_IDENTIFIER=rosterd"]`.
    #[track_caller]
    pub fn journal(&self, matches: &[&str]) -> Vec<Record> {
        // What was sent before this point must be readable after it.
        let argv: Vec<&str> = ["journalctl", "--sync"].into_iter().collect();
        self.run(&argv).ok();
        let argv: Vec<&str> = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json"]
            .into_iter()
            .chain(matches.iter().copied())
            .collect();
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Record(fields),
            other => panic!("journalctl printed no JSON object: {other:?}: {line}"),
        };
        self.run(&argv).ok().lines().map(parse).collect()
    }

    /// Asks until the answer is there, and panics when it does not come in time.
    #[track_caller]
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut ask: impl FnMut(&Machine) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            if begun.elapsed() > within {
                let journal = self.sh("journalctl --no-pager --quiet --lines=40").stdout;
                panic!("not within {within:?}: {what}\nthe journal's end:\n{journal}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Of a kept machine, nspawn lives on as an orphan; of another, it is killed here and reaped.
        if self.scratch.is_kept() {
            return;
        }
        self.scratch.kill();
        if let Some(mut container) = self.container.take() {
            let _ = container.nspawn.wait();
        }
    }
}

/// What a program in a machine printed and how it ended.
#[derive(Debug)]
#[must_use = "check how it ended: .ok(), .status"]
pub struct Output {
    what: String,
    /// Its exit code; 124 when it was ended for taking too long.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// What it printed; panics unless it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0).stdout
    }

    /// Itself; panics unless it ended with this code.
    #[track_caller]
    pub fn exits(self, status: i32) -> Output {
        assert!(self.status == status, "expected exit code {status}: {self}");
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ended with {}\n{}{}", self.what, self.status, self.stdout, self.stderr)
    }
}

/// One record of the journal.
#[derive(Debug, Clone)]
pub struct Record(Map<String, Value>);

impl Record {
    /// A field's text, or nothing when the record has no such field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    /// Its message.
    pub fn message(&self) -> &str {
        self.get("MESSAGE").unwrap_or_default()
    }
}

/// nspawn's only child is the machine's systemd, after a moment in which it is another nspawn.
fn systemd_below(supervisor: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    let program = fs::read_link(format!("/proc/{child}/exe")).ok()?;
    program.ends_with("lib/systemd/systemd").then(|| child.parse().ok())?
}

fn machine_id() -> String {
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random number");
    random.trim().replace('-', "")
}

fn read_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
}
