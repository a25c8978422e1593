//! `./dev bench`: how long rosterd takes on a real machine, beside the ordinary tool in the same run. A table, no
//! verdict: the numbers are of this computer, the ratios are what to compare.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use machine_tests::{Forge, Machine, Suite};

#[path = "../bench_code.rs"]
mod code;
#[path = "bench/identity.rs"]
mod identity_part;
#[path = "bench/tmux.rs"]
mod tmux;

/// New accounts in the comparison with `useradd`.
const MANY: usize = 1000;
/// People with clones.
const CLONERS: usize = 100;

fn main() {
    println!("| what | rosterd | ordinary tool | ratio |\n| --- | --- | --- | --- |");
    // `./dev bench refresh` measures one part.
    let only = std::env::args().nth(1);
    let parts: [(&str, fn()); 6] = [
        ("accounts", accounts),
        ("clones", clones),
        ("refresh", code::refresh),
        ("first-clones", code::first_clones),
        ("tmux", || tmux::rows(row)),
        ("identity", || identity_part::rows(row)),
    ];
    for (_, part) in parts.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        part();
    }
}

fn row(what: &str, ours: Duration, other: Option<(&str, Duration)>) {
    let ours = ours.as_secs_f64();
    match other {
        None => println!("| {what} | {ours:.3} s | | |"),
        Some((name, other)) => {
            let other = other.as_secs_f64();
            println!("| {what} | {ours:.3} s | {name}: {other:.3} s | {:.1} |", other / ours);
        }
    }
}

fn roster(count: usize) -> String {
    (0..count).fold(String::from("users:\n"), |mut text, number| {
        let name = format!("dev{number:04}");
        let _ = writeln!(text, "  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}");
        text
    })
}

/// From the file's save to the answer of `rosterctl wait`.
fn apply(machine: &Machine, roster: &str) -> Duration {
    let began = Instant::now();
    machine.write_file("/etc/rosterd/roster.yaml", roster);
    machine.run(&["rosterctl", "wait", "--timeout", "600"]).ok();
    began.elapsed()
}

/// The best of five: the others are disturbances.
fn no_op(machine: &Machine) -> Duration {
    let once = || {
        let began = Instant::now();
        machine.run(&["rosterctl", "reconcile"]).ok();
        let run = machine.run(&["rosterctl", "show", "last", "--json"]).json();
        assert_eq!(run["steps"].as_array().map(Vec::len), Some(0), "not a no-op: {run}");
        began.elapsed()
    };
    (0..5).map(|_| once()).min().unwrap_or_default()
}

fn accounts() {
    let ours = Machine::with_rosterd(Suite::Bookworm);
    let theirs = Machine::bare(Suite::Bookworm);
    let by_loop = timed(|| {
        theirs.sh(&format!("for n in $(seq -w 0 {}); do useradd -m -p '!' dev$n; done", MANY - 1)).ok()
    });
    let first = apply(&ours, &roster(MANY));
    // The same result: a database that shadow's tools find sound, and homes, files and ranges as useradd makes them.
    let made = |machine: &Machine| {
        machine
            .sh("pwck -rq 2>&1 | grep dev || true; grpck -r 2>&1 | grep dev || true; ls /home | wc -l
                 for file in passwd shadow group gshadow subuid subgid; do grep -c ^dev /etc/$file; done
                 cut -d: -f3 /etc/subuid /etc/subgid | sort | uniq -c; cut -d: -f2 /etc/subuid | sort -n | uniq -d
                 cd /home; find . -mindepth 2 -printf '%f %y %m %s\n' | sort | uniq -c
                 for home in dev*; do find $home ! -user $home -o ! -group $home; done")
            .ok()
    };
    assert_eq!(made(&ours), made(&theirs));
    row(
        &format!("first run, {MANY} new accounts with homes"),
        first,
        Some(("useradd -m -p '!' in a loop", by_loop)),
    );
    let by_loop = timed(|| {
        theirs.sh(&format!(
            "for n in $(seq -w 0 {}); do getent passwd dev$n; id -nG dev$n; stat -c %a /home/dev$n; done",
            MANY - 1
        ))
    });
    row(
        &format!("no-op run, {MANY} people without clones"),
        no_op(&ours),
        Some(("getent, id, stat in a loop", by_loop)),
    );
    let by_hand =
        timed(|| theirs.sh("useradd -m -p '!' new; usermod -aG sudo new; chmod 700 /home/new").ok());
    row(
        "one new person without clones, from save to applied",
        apply(&ours, &roster(MANY + 1)),
        Some(("useradd, usermod, chmod", by_hand)),
    );
    resident(&ours, "1,000 people");
    idle(&ours);
}

fn clones() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    row(&format!("first run, {CLONERS} people with a clone each"), apply(&machine, &roster(CLONERS)), None);
    let ours = no_op(&machine);
    let by_loop = timed(|| {
        machine.sh(&format!(
            "for n in $(seq -f %04g 0 {}); do getent passwd dev$n; id -nG dev$n; stat -c %a /home/dev$n; \
             runuser -u dev$n -- git -C /home/dev$n/code remote get-url origin; done",
            CLONERS - 1
        ))
    });
    row(
        &format!("no-op run, {CLONERS} people with a clone each"),
        ours,
        Some(("getent, id, stat, git remote in a loop", by_loop)),
    );
    machine.write_file("/etc/rosterd/config.toml", format!("{}{FILES}", forge.config()));
    row(
        &format!("eight new files for each of {CLONERS} people"),
        timed(|| machine.run(&["rosterctl", "wait", "--timeout", "600"]).ok()),
        None,
    );
    row(&format!("no-op run, {CLONERS} people with a clone and eight files each"), no_op(&machine), None);
    // As agents leave it after some months.
    machine
        .sh("for json in /home/*/.claude.json; do
                 { echo '{\"history\": ['; seq -f '  {\"number\": %g, \"display\": \"what was asked\"},' 18000
                   echo 'null],'; tail -n +2 $json; } >$json.new; cat $json.new >$json; rm $json.new
             done")
        .ok();
    row(&format!("the same, with a JSON file of 1 MB in each of {CLONERS} homes"), no_op(&machine), None);
    resident(&machine, "100 people with clones and files");
}

/// Two of each kind but one: what a site begins with.
const FILES: &str = r#"
[[file]]
path = "~/start-claude.sh"
kind = "copy"
source = "/usr/share/rosterd/start-claude.sh"
mode = "0755"
[[file]]
path = "~/.claude/rules/10-shared.md"
kind = "copy"
source = "/usr/share/doc/rosterd/docs/config.md"
[[file]]
path = "~/.claude/rules/99-personal.md"
kind = "once"
content = "mine"
[[file]]
path = "~/.claude/skills"
kind = "link"
target = "/usr/share/doc"
[[file]]
path = "~/.claude/agents"
kind = "link"
target = "/usr/share/doc"
[[file]]
path = "~/.claude.json"
kind = "json"
[file.keys]
"/hasCompletedOnboarding" = true
"/mcpServers/playwright" = {type = "http", url = "http://localhost:{{port.playwright}}/mcp"}
[[file]]
path = "~/.kube/config"
kind = "once"
source = "/usr/share/doc/rosterd/README.md"
mode = "0600"
[[file]]
path = "~/.zshrc"
kind = "block"
content = "export SITE=yes"
"#;

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    let _ = work();
    began.elapsed()
}

/// A number of `/proc/PID/status` of the daemon.
fn of_the_daemon(machine: &Machine, key: &str) -> u64 {
    let text = machine.sh(&format!("grep ^{key} /proc/$(pidof rosterd)/status")).ok();
    text.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// After the watchdog's next beat, when what a run took is given back.
fn resident(machine: &Machine, who: &str) {
    std::thread::sleep(Duration::from_secs(35));
    let megabytes = of_the_daemon(machine, "VmRSS") as f64 / 1024.0;
    println!("| resident memory of the idle daemon, {who} | {megabytes:.1} MB | | |");
}

/// The watchdog is told every 30 s; tokio's timer wakes two or three times on the way there.
fn idle(machine: &Machine) {
    // The threads of the last run end after ten idle seconds.
    std::thread::sleep(Duration::from_secs(15));
    let before = of_the_daemon(machine, "voluntary_ctxt_switches");
    std::thread::sleep(Duration::from_secs(60));
    let after = of_the_daemon(machine, "voluntary_ctxt_switches");
    println!("| wake-ups of the idle daemon in 60 s, the watchdog's two beats | {} | | |", after - before);
}
