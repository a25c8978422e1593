//! The package and its units: installing it changes no account by itself, and the units do what they say.

use std::time::Duration;

use machine_tests::{Machine, Suite, deb, on_each_debian};

on_each_debian!(
    installing_changes_no_account_and_needs_no_roster,
    the_daemon_has_neither_git_nor_tls_in_it_invariant_3,
    the_units_are_valid_and_confined,
    removing_stops_everything_and_purging_forgets_the_ledger,
);

/// systemd's own measure, 0 to 10: below 4 it says "OK". What stays open is the work itself: other people's files, ids,
/// the network of the workers, and which process holds a socket.
const EXPOSURE_BELOW: f64 = 3.6;

fn installing_changes_no_account_and_needs_no_roster(suite: Suite) {
    let machine = Machine::bare(suite);
    machine.sh("useradd -m zoe").ok();
    let accounts = |machine: &Machine| {
        let all =
            machine.sh("cat /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/subuid /etc/subgid").ok();
        let others = all.lines().filter(|line| !line.starts_with("rosterd:")).map(str::to_owned);
        others.collect::<Vec<_>>()
    };
    let before = accounts(&machine);
    std::fs::copy(deb(), machine.root().join("root/rosterd.deb")).unwrap();
    machine.sh("dpkg --install /root/rosterd.deb").ok();

    assert_eq!(accounts(&machine), before);
    let user = machine.sh("getent passwd rosterd").ok();
    assert!(user.trim_end().ends_with("/usr/sbin/nologin"), "{user}");
    for unit in [
        "rosterd.socket",
        "rosterd.service",
        "rosterd-reconcile.timer",
        "rosterd-tmux-save.timer",
        "rosterd-tmux-shutdown.service",
    ] {
        assert_eq!(machine.run(&["systemctl", "is-enabled", unit]).stdout, "enabled\n", "{unit}");
        assert_eq!(machine.run(&["systemctl", "is-active", unit]).stdout, "active\n", "{unit}");
    }
    // A restore is for a boot: an installation brings nobody's old sessions back.
    let restore = machine
        .sh("systemctl is-enabled rosterd-tmux-restore; systemctl is-active rosterd-tmux-restore || true");
    assert_eq!(restore.ok(), "enabled\ninactive\n");
    let told = machine.run(&["rosterctl", "status"]);
    assert!((told.stdout.clone() + &told.stderr).contains("no roster"), "{told}");
    machine.run(&["rosterctl", "validate", "/usr/share/doc/rosterd/roster.example.yaml"]).ok();
    for kind in ["roster", "config"] {
        let schema = machine.read_file(&format!("/usr/share/rosterd/{kind}.schema.json"));
        assert_eq!(schema.trim(), machine.run(&["rosterctl", "schema", kind]).ok().trim());
    }
    assert!(machine.exists("/usr/share/man/man1/rosterctl.1.gz"));
    assert!(machine.exists("/usr/share/bash-completion/completions/rosterctl"));
    let explained = machine.sh("journalctl -x -u rosterd").ok();
    assert!(explained.contains("rosterd watches its roster"), "the catalog is not known:\n{explained}");
    assert_eq!(accounts(&machine), before);
    // Installing it again, as an upgrade does, keeps it running and takes no choice back.
    machine.sh("systemctl disable --now rosterd-reconcile.timer; dpkg --install /root/rosterd.deb").ok();
    assert_eq!(machine.run(&["systemctl", "is-enabled", "rosterd-reconcile.timer"]).stdout, "disabled\n");
    assert_eq!(machine.run(&["systemctl", "is-active", "rosterd.service"]).stdout, "active\n");
}

/// Root's own program speaks to no network and reads no repository, so it has nothing in it that could (invariant 3). Nor
/// has what looks at homes, which starts in half a millisecond therefore: see `./dev bench refresh`.
fn the_daemon_has_neither_git_nor_tls_in_it_invariant_3(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let loads = |program: &str| machine.run(&["ldd", program]).ok();
    let has_git =
        |program: &str| machine.sh(&format!("grep -c libgit2 {program} || true")).ok().trim() != "0";
    for program in ["/usr/lib/rosterd/rosterd", "/usr/lib/rosterd/rosterd-look"] {
        assert!(!loads(program).contains("libssl") && !has_git(program), "{program}");
    }
    let has_rustls =
        |program: &str| machine.sh(&format!("grep -c rustls {program} || true")).ok().trim() != "0";
    assert!(!has_rustls("/usr/lib/rosterd/rosterd") && has_rustls("/usr/lib/rosterd/rosterd-provider"));
    let worker = "/usr/lib/rosterd/rosterd-worker";
    assert!(loads(worker).contains("libssl") && has_git(worker), "the test looks for the wrong names");
}

fn the_units_are_valid_and_confined(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let units = [
        "rosterd.service",
        "rosterd.socket",
        "rosterd-reconcile.service",
        "rosterd-reconcile.timer",
        "rosterd-tmux-save.service",
        "rosterd-tmux-save.timer",
        "rosterd-tmux-restore.service",
        "rosterd-tmux-shutdown.service",
    ];
    let verified = machine
        .sh(&format!("cd /usr/lib/systemd/system && systemd-analyze verify --man=no {}", units.join(" ")));
    assert_eq!((verified.status, verified.stderr.as_str()), (0, ""), "{verified}");
    for unit in units.into_iter().filter(|unit| unit.ends_with(".service")) {
        let told = machine.run(&["systemd-analyze", "security", "--no-pager", unit]).ok();
        let exposure = told
            .lines()
            .find_map(|line| {
                line.split_once("Overall exposure level for")?
                    .1
                    .split_whitespace()
                    .nth(1)?
                    .parse::<f64>()
                    .ok()
            })
            .unwrap_or_else(|| panic!("no overall exposure in:\n{told}"));
        println!("{suite}: exposure of {unit}: {exposure}");
        assert!(exposure < EXPOSURE_BELOW, "{unit}: {exposure}\n{told}");
    }
    // As it runs, not as it is written.
    let pid = machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).ok();
    let status = machine.read_file(&format!("/proc/{}/status", pid.trim()));
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    let limits = machine.read_file(&format!("/proc/{}/limits", pid.trim()));
    assert!(limits.lines().any(|line| line.starts_with("Max core file size        0  ")), "{limits}");
    assert_eq!(machine.sh("stat -c '%U %G %a' /run/rosterd/control.sock").ok(), "root rosterd 660\n");
    assert_eq!(machine.sh("stat -c '%U %G %a' /var/lib/rosterd").ok(), "root root 700\n");
    let show = |key: &str| {
        machine.run(&["systemctl", "show", "--value", "-p", key, "rosterd"]).ok().trim().to_owned()
    };
    assert_eq!((show("Type").as_str(), show("WatchdogUSec").as_str()), ("notify", "1min"));
    assert!(!show("StatusText").is_empty(), "STATUS= is empty");
}

fn removing_stops_everything_and_purging_forgets_the_ledger(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.sh("groupadd docker").ok();
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  alice: {authentik_user: alice, k8s_user: alice, tier: admin}\n",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "30"]).ok();
    machine.sh("dpkg --remove rosterd").ok();
    assert_eq!(machine.sh("systemctl list-units --plain --no-legend 'rosterd*'").ok(), "");
    assert!(machine.exists("/var/lib/rosterd/ledger.json"));
    machine.sh("dpkg --purge rosterd").ok();
    assert!(!machine.exists("/var/lib/rosterd"));
    assert!(machine.exists("/etc/rosterd/roster.yaml"), "the roster is the admin's");
    machine.sh("getent passwd alice && test -d /home/alice").ok();
    machine.eventually("nothing is left to start", Duration::from_secs(5), |machine| {
        machine.run(&["systemctl", "is-system-running"]).stdout.starts_with("running").then_some(())
    });
}
