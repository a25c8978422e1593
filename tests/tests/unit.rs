//! What systemd sees of the daemon: its timer, its watchdog; and how many processes work at the same time.

use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(the_timer_fires_by_itself_and_a_daemon_that_hangs_is_started_again);

const SOON: Duration = Duration::from_secs(90);

fn people(count: usize) -> String {
    let line = |number| {
        format!("  u{number}: {{authentik_user: u{number}, k8s_user: u{number}, tier: power-user}}\n")
    };
    format!("users:\n{}", (0..count).map(line).collect::<String>())
}

fn the_timer_fires_by_itself_and_a_daemon_that_hangs_is_started_again(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/roster.yaml", people(2));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.run(&["systemctl", "is-enabled", "rosterd-reconcile.timer"]).ok(), "enabled\n");
    // The same timer with a shorter hour.
    machine.sh("mkdir -p /etc/systemd/system/rosterd-reconcile.timer.d").ok();
    machine.write_file(
        "/etc/systemd/system/rosterd-reconcile.timer.d/soon.conf",
        "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=1s\n",
    );
    machine.sh("systemctl daemon-reload; systemctl restart rosterd-reconcile.timer").ok();
    machine.eventually("the timer has asked for a run", SOON, |machine| {
        let runs = machine.run(&["rosterctl", "history", "--json"]).json();
        let asked = runs.as_array().is_some_and(|runs| runs.iter().any(|run| run["trigger"] == "request"));
        asked.then_some(())
    });
    let service = machine.sh("journalctl -u rosterd-reconcile.service -o cat --no-pager").ok();
    assert!(service.contains("nothing to do") || service.contains("converged"), "{service}");
    machine.run(&["systemctl", "stop", "rosterd-reconcile.timer"]).ok();

    // The watchdog, with less patience than the shipped minute.
    machine.sh("mkdir -p /etc/systemd/system/rosterd.service.d").ok();
    machine.write_file("/etc/systemd/system/rosterd.service.d/soon.conf", "[Service]\nWatchdogSec=4s\n");
    machine.sh("systemctl daemon-reload; systemctl restart rosterd").ok();
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let pid = || machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).ok();
    let before = pid();
    // A daemon that is well is left alone for longer than that.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(pid(), before);
    machine.sh(&format!("kill -STOP {before}")).ok();
    machine.eventually("systemd has started another", SOON, |machine| {
        let now = machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).stdout;
        (now != before && now.trim() != "0").then_some(())
    });
    machine.write_file("/etc/rosterd/roster.yaml", people(3));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.sh("stat -c '%U %a' /home/u2").ok(), "u2 700\n");
    assert_eq!(machine.sh("getent passwd | cut -d: -f3 | sort | uniq -d").ok(), "");
}

/// Homes are worked in side by side, and by no more processes than `[worker] parallel` says.
#[test]
fn homes_are_worked_in_side_by_side_and_no_more_of_them_than_asked_for() {
    let machine = Machine::with_rosterd(Suite::Trixie);
    machine.write_file("/etc/rosterd/roster.yaml", people(8));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    // A lock that somebody holds keeps a worker waiting for some seconds.
    machine
        .sh("for n in 0 1 2 3 4 5 6 7; do install -d -o u$n -g u$n /home/u$n/.claude.json.lock; done")
        .ok();
    machine.write_file(
        "/etc/rosterd/config.toml",
        "[worker]\nparallel = 3\n[[file]]\npath = \"~/.claude.json\"\nkind = \"json\"\n[file.keys]\n\"/a\" = true\n",
    );
    let seen = machine
        .sh("for n in $(seq 60); do pgrep -c -f '^rosterd-worker' || true; touch /home/u*/.claude.json.lock; sleep 0.1; done | sort -n | uniq")
        .ok();
    let most = seen.lines().filter_map(|line| line.parse::<u32>().ok()).max();
    assert_eq!(most, Some(3), "{seen}");
    machine.sh("rmdir /home/u*/.claude.json.lock").ok();
    machine.eventually("everybody has the key", SOON, |machine| {
        (machine.sh("grep -l '\"a\"' /home/*/.claude.json | wc -l").stdout == "8\n").then_some(())
    });
}
