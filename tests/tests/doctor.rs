//! `rosterctl doctor` on a machine that is well, and on one whose daemon is dead.

use machine_tests::{Machine, Suite, on_each_debian};
use serde_json::Value;

on_each_debian!(
    a_doctor_finds_what_is_wrong_also_when_the_daemon_is_dead,
    a_doctor_judges_the_roster_as_the_daemon_does,
);

/// Of a kind of check, the worst light, and everything that was said of it.
fn of(told: &Value, kind: &str) -> (String, String) {
    let checks = told["checks"].as_array().expect("checks").iter().filter(|check| check["check"] == kind);
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks: Vec<&Value> = checks.collect();
    let rank = |light: &str| ["green", "yellow", "red"].iter().position(|known| *known == light);
    let worst = checks.iter().map(|check| text(check, "light")).max_by_key(|light| rank(light));
    let said = checks.iter().map(|check| format!("{} -> {}\n", text(check, "found"), text(check, "next")));
    (worst.unwrap_or_default(), said.collect())
}

fn a_doctor_finds_what_is_wrong_also_when_the_daemon_is_dead(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let doctor = |code: i32| machine.run(&["rosterctl", "doctor", "--json"]).exits(code).json();
    let fresh = doctor(0);
    assert_eq!(of(&fresh, "roster").0, "yellow", "{fresh}");
    // A machine that waits for its first roster restarts, too.
    machine.run(&["systemctl", "restart", "rosterd"]).ok();
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let well = doctor(0);
    for kind in [
        "service", "socket", "timer", "hourly", "daemon", "people", "config", "roster", "ledger", "modes",
        "tmux", "git",
    ] {
        assert_eq!(of(&well, kind).0, "green", "{kind}: {well}");
    }
    assert_eq!(of(&well, "claude").0, "yellow", "{well}");
    let text = machine.run(&["rosterctl", "doctor"]).ok();
    assert!(text.contains("green  service  rosterd.service runs"), "{text}");

    // A token that everybody may read, a roster that is broken, a ledger that was cut short; and nobody answers.
    machine
        .sh("systemctl stop rosterd.socket rosterd.service; chmod 644 /etc/t3-serve/ann.env; \
             echo 'users: [' >/etc/rosterd/roster.yaml; truncate -s 40 /var/lib/rosterd/ledger.json")
        .ok();
    let before = machine
        .sh("find / -xdev -newer /etc/rosterd/roster.yaml -type f ! -path '/var/log/*' ! -path '/run/*'")
        .ok();
    let ill = doctor(3);
    for (kind, light, word) in [
        ("service", "red", "systemctl enable --now rosterd.service"),
        ("socket", "red", "rosterd.socket is inactive"),
        ("daemon", "red", "systemctl restart rosterd"),
        ("roster", "red", "rosterctl validate"),
        ("ledger", "yellow", "the copy before is whole"),
        ("timer", "green", ""),
        ("config", "green", ""),
    ] {
        let (found, said) = of(&ill, kind);
        assert!(found == light && said.contains(word), "{kind}: {found}: {said}");
    }
    let after = machine
        .sh("find / -xdev -newer /etc/rosterd/roster.yaml -type f ! -path '/var/log/*' ! -path '/run/*'")
        .ok();
    assert_eq!(before, after, "it wrote something");
    // With the roster it knows whose file it is.
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n",
    );
    machine.sh("rm /var/lib/rosterd/ledger.json.prev").ok();
    // Nor may others read what opens the cluster for rosterd.
    machine
        .write_file("/etc/rosterd/config.toml", "[kubernetes]\nkubeconfig = \"/etc/rosterd/kubeconfig\"\n");
    machine.sh("echo x >/etc/rosterd/kubeconfig; chmod 644 /etc/rosterd/kubeconfig").ok();
    let ill = doctor(3);
    for open in ["chmod 0600 /etc/t3-serve/ann.env", "chmod 0600 /etc/rosterd/kubeconfig"] {
        assert!(ill.to_string().contains(open), "{ill}");
    }
    assert_eq!(of(&ill, "ledger").0, "red", "{ill}");
    assert_eq!(ill["worst"], "red");
}

/// Whatever makes the daemon refuse a file, or keep what it has, is red and named; what it takes is green.
fn a_doctor_judges_the_roster_as_the_daemon_does(suite: Suite) {
    const ROSTER: &str = "/etc/rosterd/roster.yaml";
    let machine = Machine::with_rosterd(suite);
    let ann = "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n";
    let bob = "  bob: {authentik_user: bob, k8s_user: bob, tier: power-user}\n";
    machine.write_file("/etc/rosterd/config.toml", "[guard]\nmax_cuts = 5\n");
    machine.write_file(ROSTER, format!("{ann}{bob}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    // Somebody who left as a cut has it is as the roster says.
    machine.write_file(ROSTER, ann);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let access = machine.run(&["rosterctl", "access", "bob"]).ok();
    assert!(access.contains("cut since") && access.contains("login locked and expired"), "{access}");
    assert!(access.ends_with("All is as the roster says.\n"), "{access}");

    // Each is undone by the last command; the roster differs meanwhile, so that the daemon has to decide.
    let cases = [
        ("chmod 777 /etc/rosterd", "roster", "chmod go-w /etc/rosterd", "chmod 755 /etc/rosterd"),
        ("chgrp ann roster.yaml; chmod 664 roster.yaml", "roster", "chmod g-w", "chgrp root roster.yaml"),
        (
            "mv roster.yaml real.yaml; ln -s real.yaml roster.yaml",
            "roster",
            "is a symlink",
            "mv real.yaml roster.yaml",
        ),
        (
            "cp -p roster.yaml roster.yaml~; rm roster.yaml",
            "roster",
            "cp /etc/rosterd/roster.yaml~",
            "mv roster.yaml~ roster.yaml",
        ),
        ("mv config.toml away", "config", "is gone", "mv away config.toml"),
    ];
    for (breaks, kind, word, mends) in cases {
        machine.sh(&format!("cd /etc/rosterd; echo '# changed' >>roster.yaml; {breaks}")).ok();
        let daemon = machine.run(&["rosterctl", "wait", "--timeout", "60"]);
        assert_ne!(daemon.status, 0, "{breaks}: the daemon took it: {daemon}");
        let (light, said) = of(&machine.run(&["rosterctl", "doctor", "--json"]).exits(3).json(), kind);
        assert!(light == "red" && said.contains(word), "{breaks}: {light}: {said}");
        assert!(!said.contains("example.yaml"), "{breaks}: {said}");
        machine.sh(&format!("cd /etc/rosterd; {mends}")).ok();
        machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
        let (light, said) = of(&machine.run(&["rosterctl", "doctor", "--json"]).json(), kind);
        assert_eq!(light, "green", "{mends}: {said}");
    }
    // Root's own group may write it: the file of the second case has mode 0664 still.
    assert_eq!(machine.run(&["stat", "-c", "%a %G", ROSTER]).ok(), "664 root\n");
    // Where the doctor's command looks for what is in force.
    let ledger: Value =
        serde_json::from_str(&machine.read_file("/var/lib/rosterd/ledger.json")).expect("JSON");
    assert!(ledger["ledger"]["applied"]["roster"].as_str().is_some_and(|text| text.starts_with("users:")));
}
