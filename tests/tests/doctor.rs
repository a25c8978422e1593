//! `rosterctl doctor` on a machine that is well, and on one whose daemon is dead.

use machine_tests::{Machine, Suite, on_each_debian};
use serde_json::Value;

on_each_debian!(a_doctor_finds_what_is_wrong_also_when_the_daemon_is_dead);

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
    let ill = doctor(3);
    assert!(of(&ill, "modes").1.contains("chmod 0600 /etc/t3-serve/ann.env"), "{ill}");
    assert_eq!(of(&ill, "ledger").0, "red", "{ill}");
    assert_eq!(ill["worst"], "red");
}
