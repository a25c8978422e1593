//! The control socket as any Varlink client sees it, and whom it answers.

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(only_root_may_change_and_only_the_group_may_read);

/// Debian 12's systemd has no `varlinkctl`.
#[test]
fn varlinkctl_introspects_and_calls() {
    let machine = Machine::with_rosterd(Suite::Trixie);
    let socket = "/run/rosterd/control.sock";
    let interface = machine.run(&["varlinkctl", "introspect", socket, "io.rosterd.Control"]).ok();
    for method in
        ["Status", "Plan", "Reconcile", "Wait", "History", "Show", "Confirm", "Leaver", "Removed", "Restored"]
    {
        assert!(interface.contains(&format!("method {method}")), "{interface}");
    }
    let status = machine
        .run(&["varlinkctl", "call", "--json=short", socket, "io.rosterd.Control.Status", "{}"])
        .json();
    assert_eq!(status["status"]["generation"], 0, "{status}");
    machine
        .run(&["varlinkctl", "call", "--more", "--json=short", socket, "io.rosterd.Control.Reconcile", "{}"])
        .ok();
}

fn only_root_may_change_and_only_the_group_may_read(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.sh("useradd -m -G rosterd reader && useradd -m stranger").ok();
    machine.sh_as("reader", "rosterctl status").ok();
    let refused = machine.sh_as("reader", "rosterctl reconcile").exits(1);
    assert!(refused.stderr.contains("root"), "{refused}");
    let _ = machine.sh_as("reader", "rosterctl confirm --yes").exits(0);
    let stranger = machine.sh_as("stranger", "rosterctl status").exits(1);
    assert!(stranger.stderr.contains("group rosterd"), "{stranger}");
}
