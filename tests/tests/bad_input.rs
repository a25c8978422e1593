//! Rosters that must not be taken over: a clear error, the machine untouched, the daemon alive, the last one in force.

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(
    a_bad_roster_changes_nothing,
    a_shrunken_roster_is_held_until_confirmed,
    a_draft_is_planned_and_nothing_happens,
);

fn people(count: usize) -> String {
    let mut text = String::from("users:\n");
    for number in 0..count {
        text.push_str(&format!(
            "  user{number}: {{authentik_user: user{number}, k8s_user: user{number}, tier: power-user}}\n"
        ));
    }
    text
}

fn untouched(machine: &Machine) -> String {
    machine.sh("cat /etc/passwd /etc/group /etc/shadow /etc/ttyd-user-map /etc/ttyd-admins /etc/t3-serve/dispatch.json; ls -l /home").ok()
}

fn a_bad_roster_changes_nothing(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let good = people(3);
    machine.write_file("/etc/rosterd/roster.yaml", &good);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let before = untouched(&machine);
    let pid = machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).ok();

    let line = |fields: &str| format!("{good}  eve: {{{fields}}}\n").into_bytes();
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n{good}"
    );
    let bad: [(&str, Vec<u8>, &str); 9] = [
        ("a tab", b"users:\n\teve: {}\n".to_vec(), "tab"),
        ("an unknown tier", line("authentik_user: eve, k8s_user: eve, tier: root"), "tier"),
        ("a misspelt field", line("authentik_user: eve, k8s_user: eve, teir: admin"), "did you mean"),
        (
            "a duplicate key",
            format!("{good}  user0: {{authentik_user: eve, k8s_user: eve, tier: admin}}\n").into_bytes(),
            "user0",
        ),
        ("a shared login", line("authentik_user: user0, k8s_user: eve, tier: admin"), "user0"),
        (
            "a scalar",
            line("authentik_user: eve, k8s_user: eve, tier: namespace-owner, namespaces: eve"),
            "namespaces",
        ),
        ("10 MB", vec![b'#'; 10 << 20], "MiB"),
        ("an alias bomb", bomb.into_bytes(), "roster.yaml:"),
        ("not UTF-8", b"users:\n  eve: {authentik_user: \"\xff\"}\n".to_vec(), "UTF-8"),
    ];
    for (name, text, word) in bad {
        machine.write_file("/etc/rosterd/roster.yaml", text);
        let told = machine.run(&["rosterctl", "validate"]).exits(1);
        assert!((told.stderr.clone() + &told.stdout).contains(word), "{name}: {told}");
        let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(1);
        let status = machine.run(&["rosterctl", "status", "--json"]).json();
        assert_eq!(status["waiting"]["cause"], "invalid", "{name}: {status}");
        assert!(status["waiting"]["since"].is_string(), "{name}: {status}");
        assert_eq!(status["generation"], 1, "{name}");
        assert_eq!(untouched(&machine), before, "{name}");
        assert_eq!(
            machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).ok(),
            pid,
            "{name}"
        );
    }
    machine.write_file("/etc/rosterd/roster.yaml", &good);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
}

fn a_shrunken_roster_is_held_until_confirmed(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/roster.yaml", people(8));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let before = untouched(&machine);
    for shrunken in ["users:\n".to_owned(), String::new(), people(3)] {
        machine.write_file("/etc/rosterd/roster.yaml", &shrunken);
        let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(4);
        let _ = machine.run(&["rosterctl", "reconcile"]).exits(4);
        let _ = machine.run(&["rosterctl", "status"]).exits(4);
        assert_eq!(untouched(&machine), before);
    }
    assert!(!machine.journal(&["MESSAGE_ID=8618293d7aba457c80c48da2cc08bb37"]).is_empty());
    machine.run(&["rosterctl", "confirm", "--yes"]).ok();
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let map = machine.read_file("/etc/ttyd-user-map");
    assert_eq!(map.lines().filter(|line| !line.starts_with('#')).count(), 3, "{map}");
    machine.run(&["getent", "passwd", "user7"]).ok();
}

fn a_draft_is_planned_and_nothing_happens(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/roster.yaml", people(6));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let before = untouched(&machine);
    let more = people(6) + "  eve: {authentik_user: eve, k8s_user: eve, tier: power-user}\n";
    machine.write_file("/root/draft.yaml", &more);
    let plan = machine.run(&["rosterctl", "plan", "/root/draft.yaml"]).exits(2);
    assert!(
        plan.stdout.contains("\neve\n  + create account with uid") && !plan.stdout.contains("user0"),
        "{plan}"
    );
    let plan = machine.sh("rosterctl plan - --json </root/draft.yaml").exits(2);
    assert!(plan.stdout.contains("\"create-account\""), "{plan}");
    // What the guard would hold is planned with that remark; what is wrong is told as by `validate`.
    machine.write_file("/root/draft.yaml", people(1));
    let plan = machine.run(&["rosterctl", "plan", "/root/draft.yaml"]);
    let words = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("it would be held, because 5 people would be cut at once"), "{plan}");
    machine.write_file("/root/draft.yaml", more.replace("tier: power-user}", "teir: power-user}"));
    let plan = machine.run(&["rosterctl", "plan", "/root/draft.yaml"]).exits(1);
    assert!(plan.stderr.contains("/root/draft.yaml:2:") && plan.stderr.contains("did you mean"), "{plan}");
    // For root alone, and nothing happened.
    machine.sh("usermod -aG rosterd user0; chmod 644 /root/draft.yaml").ok();
    machine.write_file("/tmp/draft.yaml", &more);
    let refused = machine.sh_as("user0", "rosterctl plan /tmp/draft.yaml").exits(1);
    assert!(refused.stderr.contains("needs root"), "{refused}");
    machine.sh("gpasswd -d user0 rosterd").ok();
    assert_eq!(machine.run(&["rosterctl", "status", "--json"]).json()["generation"], 1);
    assert_eq!(untouched(&machine), before);
}
