//! What somebody who means harm, or a machine in a bad state, has done to rosterd once.

use std::time::Duration;

use machine_tests::{Machine, Suite};

/// `/home` is not mounted after a reboot: no home is made on the wrong disk, nothing runs there, and all is well as
/// soon as it is back.
#[test]
fn homes_are_not_made_again_below_an_unmounted_base() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    let mut text = String::from("users:\n");
    for user in ["ann", "bea", "cid"] {
        text += &format!("  {user}: {{authentik_user: {user}, k8s_user: {user}, tier: power-user}}\n");
    }
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.sh("mount -t tmpfs -o mode=755 tmpfs /home").ok();
    text += "  dan: {authentik_user: dan, k8s_user: dan, tier: power-user}\n";
    machine.write_file("/etc/rosterd/roster.yaml", &text);
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    assert_eq!(machine.sh("ls -A /home").ok(), "", "something was made on the wrong disk");
    let status = machine.run(&["rosterctl", "status"]).exits(3);
    assert!(status.stdout.contains("/home seems not to be mounted"), "{status}");
    assert_eq!(machine.run(&["getent", "passwd", "dan"]).status, 2, "an account without its home");
    machine.sh("umount /home").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(machine.sh("ls /home").ok(), "ann\nbea\ncid\ndan\n");
    // One that is gone alone is made again, as ever.
    machine.sh("rm -r /home/bea").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(machine.sh("stat -c '%U %a' /home/bea").ok(), "bea 700\n");
}

/// Invariant 5: what a killed run left is gone after the start, though no later step would meet it.
#[test]
fn a_start_removes_what_a_killed_run_left() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    // As a kill leaves them: the lock names a process that is dead.
    machine
        .sh("systemctl kill -s KILL rosterd; systemctl stop rosterd.service rosterd.socket; \
             install -d -m 0700 /home/.rosterd-new/dan; \
             touch /etc/.rosterd-new.passwd /etc/t3-serve/.rosterd-new.dispatch.json \
                 /var/lib/rosterd/runs/20260101T000000Z-000.json.new; \
             sh -c 'printf \"%s\\\\0rosterd\\\\n\" $$ >/etc/passwd.lock'; systemctl reset-failed; systemctl start rosterd.socket rosterd")
        .ok();
    let left = "ls -d /home/.rosterd-new /etc/.rosterd-new.* /etc/t3-serve/.rosterd-new.* /etc/passwd.lock \
                /var/lib/rosterd/runs/*.new 2>/dev/null || true";
    machine.eventually("what was left is gone", Duration::from_secs(20), |machine| {
        machine.sh(left).ok().is_empty().then_some(())
    });
    machine.run(&["rosterctl", "plan"]).ok();
}

/// A run that is asked for one person and takes over a new roster on the way works for everybody: nobody would look at
/// the others again before the hourly run.
#[test]
fn what_a_run_for_one_person_takes_over_is_everybodys() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    let person =
        |name: &str| format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}\n");
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}", person("ann")));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.write_file("/root/more.yaml", person("quin"));
    // Within the time that the daemon waits for an editor to finish.
    machine.sh("cat /root/more.yaml >>/etc/rosterd/roster.yaml; rosterctl reconcile --user ann").ok();
    machine.run(&["getent", "passwd", "quin"]).ok();
    assert!(machine.read_file("/etc/ttyd-user-map").contains("quin=quin"));
}
