//! Panes in scopes of their own, as tmux makes them from 3.4 on where the person has a manager.

use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};

use crate::{CLAUDE, capture, ctl, id, machine, tmux};

on_each_debian!(restored_panes_are_in_their_scopes_although_the_manager_is_slow);

fn restored_panes_are_in_their_scopes_although_the_manager_is_slow(suite: Suite) {
    let mut machine = machine(suite);
    // What claude's first process and its first child find themselves in.
    let telling =
        CLAUDE.replacen('\n', "\n(cat /proc/$$/cgroup /proc/self/cgroup) >>\"$HOME/cgroup.log\"\n", 1);
    machine.write_file("/usr/local/bin/claude", telling);
    machine.sh("chmod 755 /usr/local/bin/claude; mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/ann").ok();
    let conversation = id(1);
    tmux(
        &machine,
        "ann",
        &format!(
            "mkdir -p ~/p; tmux new-session -d -s work -c ~/p claude --session-id {conversation}; \
             tmux split-window -t =work: -c ~/p; tmux new-window -t =work: 'nano /etc/hostname'"
        ),
    );
    let before = machine.eventually("all of it is seen", Duration::from_secs(20), |machine| {
        let before = capture(machine, "before");
        (before[0].contains(&conversation) && before[0].contains("nano")).then_some(before)
    });
    machine.write_file(
        "/etc/systemd/system/user@.service.d/slow.conf",
        "[Service]\nExecStartPre=/bin/sleep 7\n",
    );
    // Twice: the second shutdown stops what the first boot has made, scopes and all.
    for time in ["first", "second"] {
        machine.sh("rm -f /home/ann/cgroup.log; rm -rf /var/lib/tmux-persist/users").ok();
        machine.reboot();
        machine.eventually(
            &format!("all is as before, the {time} time"),
            Duration::from_secs(40),
            |machine| (capture(machine, "after") == before).then_some(()),
        );
        let log = machine.read_file("/home/ann/cgroup.log");
        let own = |line: &&str| match suite {
            Suite::Bookworm => line.contains("/rosterd-tmux-ann-"),
            Suite::Trixie => line.contains("/user@") && line.contains("/tmux-spawn-"),
        };
        // The machine may have hierarchies besides the one that counts.
        let counts: Vec<&str> = log.lines().filter(|line| line.starts_with("0::")).collect();
        assert!(counts.len() == 2 && counts.iter().all(own), "{time}: {log}");
        for process in below_panes(&machine) {
            let cgroup = machine.read_file(&format!("/proc/{process}/cgroup"));
            let cgroup = cgroup.lines().find(|line| line.starts_with("0::")).unwrap().to_owned();
            assert!(own(&cgroup.as_str()), "{time}: {cgroup}");
        }
        // The server itself outlives the manager.
        let server = tmux(&machine, "ann", "tmux display-message -p -t =work: '#{pid}'");
        let cgroup = machine.read_file(&format!("/proc/{}/cgroup", server.trim()));
        assert!(cgroup.contains("/rosterd-tmux-ann-"), "{cgroup}");
    }
    // A manager that never comes up costs only the scopes.
    machine.write_file(
        "/etc/systemd/system/user@.service.d/slow.conf",
        "[Service]\nExecStartPre=/bin/sleep infinity\nTimeoutStartSec=30\n",
    );
    machine.reboot();
    machine.eventually("the sessions are there without it", Duration::from_secs(40), |machine| {
        (capture(machine, "without") == before).then_some(())
    });
    assert_ne!(machine.sh("systemctl is-active user@$(id -u ann)").stdout, "active\n");
    let restored = ctl(&machine, "restore --user ann --tsv").ok();
    assert_eq!(restored, "ann\twork\tleft_alone\twork\t-\n");
}

/// The processes of all panes of ann and what descends from them.
fn below_panes(machine: &Machine) -> Vec<String> {
    let script = r#"
        below() { echo $1; for child in $(cat /proc/$1/task/*/children); do below $child; done; }
        for pane in $(tmux list-panes -a -F '#{pane_pid}'); do below $pane; done
    "#;
    let found: Vec<String> = tmux(machine, "ann", script).lines().map(str::to_owned).collect();
    assert!(found.len() >= 4, "three panes, and more than their first processes: {found:?}");
    found
}
