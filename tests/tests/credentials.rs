//! Where the credential of a provider may come from on a real machine, and what it takes to exchange it.

#[path = "../../crates/identity/tests/support/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../../crates/identity/tests/support/stand_in.rs"]
#[allow(dead_code)]
mod stand_in;

use machine_tests::{Machine, Suite, TlsFront, on_each_debian};
use stand_in::StandIn;

on_each_debian!(
    a_pod_opens_its_cluster_by_its_service_account_and_a_new_token_needs_no_restart_invariant_3,
    a_credential_of_systemd_is_that_of_the_last_start_and_a_file_that_of_the_last_run,
);

const FIRST: &str = "hunter2-the-first";
const NEXT: &str = "hunter2-the-next";
const THIRD: &str = "hunter2-the-third";

const CAROL: &str = "users:\n  carol: {authentik_user: carol, k8s_user: carol, tier: namespace-owner, \
                     namespaces: [carol-dev], email: carol@example.org}\n";

/// As kubelet does it: a folder for each version, one link that is exchanged, and one for each file that leads through it.
/// The folder is open to all, as the memory file systems are that it mounts.
const PROJECT: &str = r#"#!/bin/sh -eu
mkdir -p /run/secrets/kubernetes.io/serviceaccount
chmod 1777 /run/secrets/kubernetes.io/serviceaccount
cd /run/secrets/kubernetes.io/serviceaccount
old=$(readlink ..data || true)
new=..$(date +%s%N)
mkdir -m 0755 "$new"
cp "$1" "$new/token"
cp "$2" "$new/ca.crt"
chmod "$3" "$new/token"
ln -s "$new" ..data_tmp
mv -T ..data_tmp ..data
[ -L token ] || ln -s ..data/token token
[ -L ca.crt ] || ln -s ..data/ca.crt ca.crt
[ -z "$old" ] || rm -rf "$old"
"#;

fn reconcile(machine: &Machine) -> machine_tests::Output {
    machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"])
}

/// What is said of a run that comes to nothing, however wide the lines are.
fn comes_to_nothing(machine: &Machine) -> String {
    reconcile(machine).exits(3).stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn daemon(machine: &Machine) -> String {
    machine.run(&["systemctl", "show", "-P", "MainPID", "rosterd.service"]).ok()
}

fn has_grant(server: &StandIn) -> bool {
    server.objects().contains_key("rolebindings carol-dev/carol-admin")
}

fn a_pod_opens_its_cluster_by_its_service_account_and_a_new_token_needs_no_restart_invariant_3(suite: Suite) {
    let server = StandIn::start(FIRST);
    let front = TlsFront::start(server.port);
    let machine = Machine::with_rosterd(suite);
    let passed = machine.run(&["systemctl", "show", "-P", "PassEnvironment", "rosterd.service"]).ok();
    assert_eq!(passed.trim(), "KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT");
    // In place of what the container's first process would have been given.
    let environment = format!(
        "[Service]\nEnvironment=KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT={}\n",
        front.port
    );
    machine.write_file("/etc/systemd/system/rosterd.service.d/pod.conf", environment);
    machine.sh("systemctl daemon-reload && systemctl restart rosterd.service").ok();
    machine.write_file("/root/ca.crt", &front.authority);
    machine.write_file("/root/project", PROJECT);
    let project = |token: &str, ca: &str, mode: &str| {
        machine.write_file("/root/token", token);
        machine.run(&["sh", "-eu", "/root/project", "/root/token", ca, mode]).ok();
    };
    project(FIRST, "/root/ca.crt", "0644");
    let config = "[kubernetes]\nkubeconfig = \"/var/run/secrets/kubernetes.io/serviceaccount\"\n";
    machine.write_file("/etc/rosterd/config.toml", config);
    machine.write_file("/etc/rosterd/roster.yaml", CAROL);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    reconcile(&machine).ok();
    assert!(has_grant(&server));
    let told = machine.sh("journalctl -u rosterd -o cat --no-pager").ok();
    assert!(told.contains("serviceaccount/token can be read by others than root: project it with"), "{told}");

    // Kubelet has a new one, and the old one is over.
    let before = daemon(&machine);
    server.accept(NEXT);
    project(NEXT, "/root/ca.crt", "0400");
    reconcile(&machine).ok();
    assert_eq!(daemon(&machine), before);

    // While it is exchanged all the time, each run finds a whole one.
    let exchange = "while :; do sh -eu /root/project /root/token /root/ca.crt 0400; done";
    machine.run(&["systemd-run", "--quiet", "--unit=kubelet", "sh", "-c", exchange]).ok();
    for _ in 0..5 {
        reconcile(&machine).ok();
    }
    machine.run(&["systemctl", "stop", "kubelet.service"]).ok();
    machine.sh("cd /run/secrets/kubernetes.io/serviceaccount && rm -rf ..data_tmp").ok();

    // A server that another authority has signed is not this cluster.
    let other = TlsFront::start(server.port);
    machine.write_file("/root/other.crt", &other.authority);
    project(NEXT, "/root/other.crt", "0400");
    server.requests();
    let refused = comes_to_nothing(&machine);
    assert!(refused.contains("the certificate of the cluster is signed by"), "{refused}");
    assert!(server.requests().is_empty());
    project(NEXT, "/root/ca.crt", "0400");
    reconcile(&machine).ok();

    // What somebody else may have put there is not read.
    machine.sh("chown -h carol /run/secrets/kubernetes.io/serviceaccount/..data").ok();
    server.requests();
    let refused = comes_to_nothing(&machine);
    assert!(refused.contains("..data belongs to uid"), "{refused}");
    assert!(server.requests().is_empty());
    assert!(!machine.sh("journalctl -o export --no-pager").ok().contains("hunter2"));
}

fn a_credential_of_systemd_is_that_of_the_last_start_and_a_file_that_of_the_last_run(suite: Suite) {
    let server = StandIn::start(FIRST);
    let machine = Machine::with_rosterd(suite);
    let keep = |token: &str| {
        machine.write_file("/etc/rosterd/cluster.kubeconfig", server.kubeconfig(token));
        machine.sh("chmod 0600 /etc/rosterd/cluster.kubeconfig").ok();
    };
    keep(FIRST);
    machine.write_file(
        "/etc/systemd/system/rosterd.service.d/credential.conf",
        "[Service]\nLoadCredential=cluster:/etc/rosterd/cluster.kubeconfig\n",
    );
    machine.sh("systemctl daemon-reload && systemctl restart rosterd.service").ok();
    machine.write_file(
        "/etc/rosterd/config.toml",
        "[kubernetes]\nkubeconfig = \"/run/credentials/rosterd.service/cluster\"\n",
    );
    machine.write_file("/etc/rosterd/roster.yaml", CAROL);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    reconcile(&machine).ok();
    assert!(has_grant(&server));

    // systemd has copied it when it started the daemon.
    server.accept(NEXT);
    keep(NEXT);
    let refused = comes_to_nothing(&machine);
    assert!(refused.contains("the cluster does not accept the credential"), "{refused}");
    machine.run(&["systemctl", "restart", "rosterd.service"]).ok();
    reconcile(&machine).ok();

    // The file itself is read anew for each run.
    machine.write_file(
        "/etc/rosterd/config.toml",
        "[kubernetes]\nkubeconfig = \"/etc/rosterd/cluster.kubeconfig\"\n",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let before = daemon(&machine);
    server.accept(THIRD);
    keep(THIRD);
    reconcile(&machine).ok();
    assert_eq!(daemon(&machine), before);
    let said = machine.sh("journalctl -o export --no-pager; grep -r hunter2 /var/lib/rosterd || true").ok();
    assert!(!said.contains("hunter2"));
}
