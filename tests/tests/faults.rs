//! Faults from outside: kills, a remote that is down or hangs, a full disk, a held lock.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite};

/// Invariant 5. The daemon is killed at sixty moments of a first run; systemd starts it again each time.
#[test]
fn killed_at_any_moment_the_next_run_converges() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let mut text = String::from("users:\n");
    for number in 0..60 {
        text.push_str(&format!(
            "  u{number}: {{authentik_user: u{number}, k8s_user: u{number}, tier: power-user}}\n"
        ));
        machine.write_file("/etc/rosterd/roster.yaml", &text);
        // The debounce takes 100 ms; from there on the moments lie 5 ms apart, over twice the length of a run.
        let wait = 0.100 + f64::from(number) * 0.005;
        machine.sh(&format!("sleep {wait:.3}; systemctl kill --kill-whom=all -s KILL rosterd")).ok();
        machine.eventually("rosterd is back", Duration::from_secs(20), |machine| {
            (machine.run(&["systemctl", "is-active", "rosterd"]).stdout == "active\n").then_some(())
        });
    }
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]);
    machine.run(&["rosterctl", "reconcile"]).ok();
    machine.run(&["rosterctl", "plan"]).ok();
    for number in 0..60 {
        let user = format!("u{number}");
        assert_eq!(machine.sh_as(&user, "git -C ~/code status --porcelain").ok(), "", "{user}");
        assert_eq!(machine.sh(&format!("stat -c '%U %a' /home/{user}")).ok(), format!("{user} 700\n"));
    }
    assert_eq!(machine.sh("getent passwd | cut -d: -f3 | sort | uniq -d").ok(), "", "an id was given twice");
    machine.run(&["grpck", "-r"]).ok();
    let stray = machine.sh("find /etc /home -xdev \\( -name '*rosterd-*' -o -name '.rosterd*' -o -name '*.lock' -size -1 \\) ! -path '/etc/.pwd.lock' ! -path '/etc/systemd/*' ! -path '/etc/rosterd/*' ! -path '/home/*/code/.git/*'").ok();
    assert_eq!(stray, "");
}

/// Invariant 4: one person's failure is that person's, and it mends itself.
#[test]
fn one_persons_trouble_is_nobody_elses_and_mends_itself() {
    let mut forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let person =
        |name: &str| format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}\n");
    let mut text = format!("users:\n{}", person("ann"));
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();

    // A home that is full, and one that cannot be written, before their clones are made.
    text += &(person("full") + &person("fine"));
    forge.down();
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]).exits(3);
    machine
        .sh("mount -t tmpfs -o size=64k,uid=$(id -u full),gid=$(id -g full),mode=700 tmpfs /home/full")
        .ok();
    forge.up();
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["full"]["state"], "degraded", "{status}");
    for field in ["since", "next_try"] {
        assert!(status["subjects"]["full"][field].is_string(), "{status}");
    }
    assert_eq!(status["subjects"]["fine"]["state"], "converged", "{status}");
    assert_eq!(status["subjects"]["ann"]["state"], "converged", "{status}");

    // Space again: it recovers without anybody asking.
    machine.sh("umount /home/full").ok();
    machine.eventually("full recovers by itself", Duration::from_secs(120), |machine| {
        (machine.run(&["rosterctl", "status", "--json"]).json()["subjects"]["full"]["state"] == "converged")
            .then_some(())
    });
    assert_eq!(machine.sh_as("full", "git -C ~/code status --porcelain").ok(), "");
}

/// A held password lock, a home that cannot be written and a remote that hangs: each told, nothing half-made, the
/// others converge.
#[test]
fn what_hangs_or_refuses_is_told_and_the_rest_converges() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", format!("{}[worker]\ndeadline_s = 10\n", forge.config()));
    let person = |name: &str, more: &str| {
        format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user{more}}}\n")
    };
    let mut text = format!("users:\n{}", person("ann", ""));

    // As lckpwdf(3) locks, for the first 30 seconds.
    machine
        .sh("perl -e 'use Fcntl; open(my $f, \">>\", \"/etc/.pwd.lock\") or die; \
             my $l = pack(\"s s x4 q q i x4\", F_WRLCK, 0, 0, 0, 0); fcntl($f, F_SETLK, $l) or die; sleep 30' \
             </dev/null >/dev/null 2>&1 & sleep 0.3")
        .ok();
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    let status = machine.run(&["rosterctl", "status"]).exits(3);
    assert!(status.stdout.contains("lock"), "{status}");
    assert_eq!(machine.run(&["getent", "passwd", "ann"]).status, 2, "half-made");
    assert!(!machine.exists("/home/ann"), "half-made");
    machine.eventually("ann is made when the lock is free", Duration::from_secs(90), |machine| {
        (machine.run(&["rosterctl", "status", "--json"]).json()["subjects"]["ann"]["state"] == "converged")
            .then_some(())
    });

    // One hangs, one is read-only, one is fine.
    machine
        .sh("useradd -m readonly; mount -t tmpfs -o mode=0700,uid=readonly,gid=readonly tmpfs /home/readonly; \
             mount -o remount,ro /home/readonly")
        .ok();
    forge.hang("website", true);
    text += &person("hangs", ", code_layout: workspace, repos: [website]");
    text += &(person("readonly", "") + &person("fine", ""));
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]).exits(3);
    let subjects = machine.run(&["rosterctl", "status", "--json"]).json()["subjects"].clone();
    for (user, state) in
        [("ann", "converged"), ("fine", "converged"), ("hangs", "degraded"), ("readonly", "degraded")]
    {
        assert_eq!(subjects[user]["state"], state, "{user}: {subjects}");
    }
    assert!(machine.exists("/home/hangs/code/infra/.git"), "what does not hang is there");
    machine.sh("umount /home/readonly").ok();
    forge.hang("website", false);
    machine.run(&["rosterctl", "reconcile"]).ok();
}
