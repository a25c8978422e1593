//! Leaving and coming back: what a cut takes on a real machine, by every way in, and that a return gives it back.

use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(
    a_cut_closes_every_way_in_and_a_return_opens_them_as_they_were_invariant_6,
    an_admin_is_not_cut_unasked_invariant_2,
    what_a_cut_person_left_running_is_no_way_to_root
);

fn person(name: &str, more: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user{more}}}\n")
}

fn save(machine: &Machine, people: &[&str], code: i32) {
    let text = people.concat();
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{text}"));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(code);
}

/// The machines share the loopback of whoever tests.
fn sshd_port(suite: Suite) -> u16 {
    if suite == Suite::Trixie { 22_822 } else { 22_922 }
}

fn a_cut_closes_every_way_in_and_a_return_opens_them_as_they_were_invariant_6(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let port = sshd_port(suite);
    machine.write_file("/etc/rosterd/config.toml", "[cut]\nend_sessions = true\ngroups = [\"gate\"]\n");
    // ann was there before, with a password, a date and a key; bea is rosterd's own.
    machine
        .sh("groupadd gate
             useradd -m -s /bin/bash ann && echo ann:secret | chpasswd && usermod -e 2099-12-31 -aG gate ann
             ssh-keygen -q -t ed25519 -N '' -f /root/key
             install -d -m 700 -o ann -g ann /home/ann/.ssh
             install -m 600 -o ann -g ann /root/key.pub /home/ann/.ssh/authorized_keys
             mkdir -p /run/sshd && ssh-keygen -A")
        .ok();
    machine.sh(&format!("/usr/sbin/sshd -p {port} -o ListenAddress=127.0.0.1")).ok();
    let ssh = || {
        machine.sh(&format!(
            "ssh -p {port} -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=no ann@127.0.0.1 id -un"
        ))
    };
    let (ann, bea) = (person("ann", ""), person("bea", ""));
    save(&machine, &[&ann, &bea], 0);
    assert_eq!(ssh().ok(), "ann\n");
    let shadow = || machine.sh("grep -E '^(ann|bea):' /etc/shadow").ok();
    let group = || machine.sh("getent group gate").ok();
    let (shadow_before, group_before) = (shadow(), group());
    // What ann left running: a process in her slice that is no session.
    machine
        .sh("systemd-run --quiet --unit=left --slice=user-$(id -u ann).slice --uid=ann sleep infinity
             systemctl start user@$(id -u ann).service")
        .ok();
    machine.eventually("ann's manager runs", Duration::from_secs(10), |m| {
        (m.sh("systemctl is-active user@$(id -u ann).service").status == 0).then_some(())
    });

    save(&machine, &[&bea], 0);
    let refused = ssh();
    assert_ne!(refused.status, 0, "{refused}");
    assert!(refused.stderr.contains("expired") || refused.stderr.contains("closed"), "{refused}");
    assert_ne!(machine.sh("su -c true ann").status, 0, "PAM lets an expired account in");
    assert!(machine.exists("/home/ann/.ssh/authorized_keys"), "keys are files of the home, and stay");
    // Nor does an sshd that does not ask PAM.
    machine
        .sh(&format!(
            "/usr/sbin/sshd -p {} -o ListenAddress=127.0.0.1 -o UsePAM=no -o PidFile=/run/sshd-2.pid",
            port + 1
        ))
        .ok();
    let refused = machine.sh(&format!(
        "ssh -p {} -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=no ann@127.0.0.1 id -un",
        port + 1
    ));
    assert_ne!(refused.status, 0, "{refused}");
    machine.sh("pkill -F /run/sshd-2.pid").ok();
    let line = machine.sh("grep ^ann: /etc/shadow").ok();
    assert!(line.starts_with("ann:!$") && line.ends_with(":1:\n"), "{line}");
    assert!(!group().contains("ann"), "{}", group());
    assert_eq!(machine.sh("pgrep -u ann || true").ok(), "", "something of ann's runs on");
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["ann"]["state"], "cut", "{status}");
    let steps: Vec<String> = machine
        .journal(&["ROSTERD_USER=ann"])
        .iter()
        .filter_map(|record| record.get("ROSTERD_STEP").map(str::to_owned))
        .collect();
    for step in ["cut", "lock-login", "remove-from-group", "end-sessions"] {
        assert_eq!(steps.iter().filter(|told| *told == step).count(), 1, "{step}: {steps:?}");
    }
    assert!(
        !machine.sh("cat /var/lib/rosterd/ledger.json").ok().contains("$y$"),
        "a password is in the ledger"
    );

    // Once: what an admin opens by hand stays open, and a run has nothing to do.
    machine.sh("usermod -e '' ann").ok();
    let again = machine.run(&["rosterctl", "reconcile", "--json"]).ok();
    assert!(again.contains("\"steps\":[]"), "{again}");
    machine.sh("usermod -e 1 ann").ok();

    save(&machine, &[&ann, &bea], 0);
    assert_eq!(shadow(), shadow_before);
    assert_eq!(group(), group_before);
    assert_eq!(ssh().ok(), "ann\n");
    assert_eq!(
        machine.run(&["rosterctl", "status", "--json"]).json()["subjects"]["ann"]["state"],
        "converged"
    );
    machine.run(&["pwck", "-q", "-r"]).ok();
    machine.run(&["grpck", "-r"]).ok();
    machine.sh("pkill -F /run/sshd.pid").ok();
}

fn an_admin_is_not_cut_unasked_invariant_2(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let admin = |name: &str| person(name, "").replace("power-user", "admin");
    let (ann, bea) = (admin("ann"), admin("bea"));
    save(&machine, &[&ann, &bea], 0);
    save(&machine, &[&ann], 4);
    let held = machine.run(&["rosterctl", "status"]).exits(4).stdout;
    assert!(held.contains("the admin bea"), "{held}");
    assert_eq!(machine.sh("grep ^bea: /etc/shadow | cut -d: -f8").ok(), "\n", "bea was cut");
    machine.run(&["rosterctl", "confirm", "--yes"]).ok();
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.sh("grep ^bea: /etc/shadow | cut -d: -f8").ok(), "1\n");
}

/// Without `end_sessions` their processes run on. Those are in `sudo`, as the kernel has it, until they end.
fn what_a_cut_person_left_running_is_no_way_to_root(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/sudoers.d/all", "%sudo ALL=(ALL) NOPASSWD: ALL\n");
    machine.sh("useradd -m -s /bin/bash -G sudo ann && echo ann:secret | chpasswd").ok();
    let (ann, bea) = (person("ann", ""), person("bea", ""));
    save(&machine, &[&ann, &bea], 0);
    let root = || {
        let as_left = "setpriv --reuid ann --regid ann --groups ann,sudo --reset-env sudo -n id -u";
        machine.sh(as_left)
    };
    assert_eq!(root().ok(), "0\n");
    machine
        .sh("systemd-run --quiet --unit=left --slice=user-$(id -u ann).slice --uid=ann sleep infinity")
        .ok();
    save(&machine, &[&bea], 0);
    machine.run(&["systemctl", "is-active", "left"]).ok();
    let refused = root();
    assert_ne!(refused.status, 0, "{refused}");
    assert!(
        refused.stderr.contains("account validation failure") || refused.stderr.contains("expired"),
        "{refused}"
    );
    save(&machine, &[&ann, &bea], 0);
    assert_eq!(root().ok(), "0\n");
}
