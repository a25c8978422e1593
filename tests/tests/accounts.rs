//! What can be in the way of an account: told, nothing half-made, everybody else converges.

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(
    what_is_in_the_way_of_an_account_is_told_and_nothing_is_half_made,
    accounts_of_a_directory_service_are_neither_adopted_nor_hidden
);

fn person(name: &str, more: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user{more}}}\n")
}

fn state(machine: &Machine, user: &str) -> (String, String) {
    let subject = machine.run(&["rosterctl", "status", "--json"]).json()["subjects"][user].clone();
    (subject["state"].as_str().unwrap_or_default().to_owned(), subject["problems"].to_string())
}

fn what_is_in_the_way_of_an_account_is_told_and_nothing_is_half_made(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine
        .sh("useradd -u 1700 -M holder
             mkdir /home/squat && echo mine > /home/squat/file
             ln -s /etc /home/link
             groupadd grouped
             useradd -m -s /bin/sh old && chmod 755 /home/old && echo old > /home/old/file")
        .ok();
    let account = |name: &str| machine.run(&["getent", "passwd", name]).stdout;
    let shadow = |name: &str| machine.sh(&format!("grep ^{name}: /etc/shadow")).stdout;
    let before = (account("old"), shadow("old"), machine.sh("stat -c '%a %U %Y' /home/old /home/squat").ok());
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        [
            "users:\n",
            &person("ann", ""),
            &person("taken", ", uid: 1700"),
            &person("squat", ""),
            &person("link", ""),
            &person("grouped", ""),
            &person("old", ""),
        ]
        .concat(),
    );
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    for (user, word) in
        [("taken", "holder"), ("squat", "belongs to uid 0"), ("link", "/home/link"), ("grouped", "groupdel")]
    {
        let (state, problems) = state(&machine, user);
        assert_eq!(state, "degraded", "{user}");
        assert!(problems.contains(word), "{user}: {problems}");
        assert_eq!(account(user), "", "{user} is half-made");
        assert_eq!(
            machine.sh(&format!("cat /etc/shadow /etc/subuid /etc/gshadow | grep -c ^{user}: || true")).ok(),
            if user == "grouped" { "1\n" } else { "0\n" },
            "{user} is half-made"
        );
    }
    for user in ["ann", "old"] {
        assert_eq!(state(&machine, user).0, "converged", "{user}");
    }
    assert_eq!(machine.sh("stat -c %a /home/ann").ok(), "700\n");
    let after = (account("old"), shadow("old"), machine.sh("stat -c '%a %U %Y' /home/old /home/squat").ok());
    assert_eq!(after, before, "an account that was there is adopted as it is");
    machine.run(&["pwck", "-q", "-r"]).ok();
    machine.run(&["grpck", "-r"]).ok();

    // What was in the way is gone: they are made.
    machine.sh("mv /home/squat /home/somebody; rm /home/link; groupdel grouped; userdel holder").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert!(account("taken").contains(":1700:"), "{}", account("taken"));
    assert_eq!(machine.read_file("/home/somebody/file"), "mine\n");
}

fn accounts_of_a_directory_service_are_neither_adopted_nor_hidden(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let nsswitch = |sources: &str| {
        machine.sh(&format!("sed -i 's/^passwd:.*/passwd: {sources}/' /etc/nsswitch.conf")).ok()
    };
    machine
        .sh("mkdir -p /var/lib/extrausers
             echo 'dir:x:1500:1500::/home/dir:/bin/sh' > /var/lib/extrausers/passwd")
        .ok();
    nsswitch("files extrausers");
    assert_eq!(machine.sh("id -u dir").ok(), "1500\n");
    let mut text = ["users:\n", &person("ann", ""), &person("dir", "")].concat();
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    let (is, why) = state(&machine, "dir");
    assert!(is == "degraded" && why.contains("directory service") && why.contains("1500"), "{why}");
    assert_eq!(machine.sh("grep -c ^dir: /etc/passwd || true").ok(), "0\n");
    assert!(!machine.exists("/home/dir"));
    assert_eq!(state(&machine, "ann").0, "converged");

    // Invariant 8: a service that does not answer has not said that there is nobody.
    nsswitch("files sss");
    text += &person("eve", "");
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    let (is, why) = state(&machine, "eve");
    assert!(is == "degraded" && why.contains("did not answer"), "{why}");
    assert_eq!(machine.sh("grep -c ^eve: /etc/passwd || true").ok(), "0\n");
    nsswitch("files");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(state(&machine, "eve").0, "converged");
}
