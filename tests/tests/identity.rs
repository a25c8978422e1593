//! A cluster follows the roster on the machine's tick, by a process that is not root, and holds up nothing on the machine.
//! The cluster is a stand-in on the loopback that the machines share with us, or the real one that `ROSTERD_TEST_KUBECONFIG`
//! names (`./dev test cluster`).

#[path = "../../crates/identity/tests/support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../../crates/identity/tests/support/real.rs"]
#[allow(dead_code)]
mod real;
#[path = "../../crates/identity/tests/support/real_vault.rs"]
#[allow(dead_code)]
mod real_vault;
#[path = "../../crates/identity/tests/support/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../../crates/identity/tests/support/stand_in.rs"]
#[allow(dead_code)]
mod stand_in;
#[path = "../../crates/identity/tests/support/vault.rs"]
#[allow(dead_code)]
mod vault;

use std::time::Duration;

use cluster::Cluster;
use machine_tests::{Machine, Suite, on_each_debian};
use roster::cluster::Kubernetes;
use server::Wrong;
use vault::VaultStandIn;

on_each_debian!(
    the_cluster_follows_the_roster,
    a_cluster_that_hangs_holds_up_nobody_invariant_4,
    the_vault_follows_the_roster_and_its_list_guards_the_tiers,
    only_the_host_that_has_the_lease_changes_the_cluster,
    a_grant_whose_worker_or_daemon_is_killed_between_two_calls_is_made_again_at_once_invariant_5,
    a_cut_takes_all_rights_everywhere_and_a_return_gives_them_back_invariant_6,
    what_may_be_left_in_a_cluster_that_cannot_be_reached_is_told_until_it_is_gone_invariant_8,
);

/// For whatever is to happen by itself.
const WITHIN: Duration = Duration::from_secs(60);

const TOKEN: &str = "hunter2-the-token";

const CAROL: &str = "  carol: {authentik_user: carol, k8s_user: carol, tier: namespace-owner, \
                     namespaces: [carol-dev], email: carol@example.org}\n";
const BOB: &str = "  bob: {authentik_user: bob, k8s_user: bobr, tier: power-user, email: bob@example.org}\n";

/// People as this test's part of the cluster has to name them.
fn of(server: &Cluster, people: &str) -> String {
    let own = |text: String, field: &str| text.replace(field, &format!("{field}{}", server.own("")));
    ["k8s_user: ", "namespaces: [", "email: "].iter().fold(people.to_owned(), |text, field| own(text, field))
}

fn with_cluster(suite: Suite) -> (Machine, Cluster) {
    let server = Cluster::start();
    let machine = Machine::with_rosterd(suite);
    open(&machine, &server);
    machine.write_file("/etc/rosterd/config.toml", format!("{}deadline_s = 5\n", table(&server.config())));
    (machine, server)
}

/// The machine gets what opens the cluster, whatever goes wrong there from now on.
fn open(machine: &Machine, server: &Cluster) {
    machine.write_file("/etc/rosterd/kubeconfig", server.kubeconfig(&server.token()));
    machine.sh("chmod 0600 /etc/rosterd/kubeconfig").ok();
}

/// The beginning of `[kubernetes]`.
fn table(config: &Kubernetes) -> String {
    format!(
        "[kubernetes]\nkubeconfig = \"/etc/rosterd/kubeconfig\"\ninstance = \"{}\"\npower_user_role = \"{}\"\n",
        config.instance, config.power_user_role
    )
}

fn keys(server: &Cluster) -> Vec<String> {
    server.objects().into_keys().collect()
}

fn the_cluster_follows_the_roster(suite: Suite) {
    let (machine, server) = with_cluster(suite);
    let (bob, carol) = (of(&server, BOB), of(&server, CAROL));
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{bob}{carol}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.eventually("the cluster has carol's grant", WITHIN, |_| {
        keys(&server).contains(&"rolebindings carol-dev/carol-admin".to_owned()).then_some(())
    });
    machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]).ok();
    let plan = machine.run(&["rosterctl", "plan", "--provider", "kubernetes"]).exits(0);
    assert!(plan.stdout.contains("No change"), "{plan}");
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["providers"]["kubernetes"]["degraded"], serde_json::json!({}), "{status}");

    // Nothing to do is no write, and is told as that.
    let before = server.objects();
    server.requests();
    machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]).ok();
    assert!(server.requests().iter().all(|request| request.starts_with("GET ")));
    assert_eq!(server.objects(), before);

    // A tier that changes on disk takes the old rights along, on the same tick.
    let lower = BOB.replace("tier: power-user", "tier: namespace-owner, namespaces: [bob-dev]");
    let lower = of(&server, &lower);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{lower}{carol}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.eventually("bob has the rights of today", WITHIN, |_| {
        let keys = keys(&server);
        let now = keys.contains(&"rolebindings bob-dev/bobr-admin".to_owned());
        (now && !keys.contains(&"clusterrolebindings bobr-power-user".to_owned())).then_some(())
    });

    // Who leaves loses all of it; the namespace stays.
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{lower}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.eventually("carol has no right left", WITHIN, |_| {
        (!keys(&server).iter().any(|key| key.contains("bindings") && key.contains("carol"))).then_some(())
    });
    assert!(keys(&server).contains(&"namespaces carol-dev".to_owned()));

    // Each change is one record with its fields, and the token is in none.
    let records = machine.journal(&["ROSTERD_USER=carol", "ROSTERD_STEP=cluster-delete"]);
    assert!(
        records
            .iter()
            .any(|record| server.shown(record.message()).contains("RoleBinding carol-dev/carol-admin"))
    );
    assert!(!machine.sh("journalctl -o export --no-pager").ok().contains(&server.token()));
    let runs = machine.run(&["rosterctl", "history"]).ok();
    assert!(runs.contains("-kubernetes"), "{runs}");
}

fn a_cluster_that_hangs_holds_up_nobody_invariant_4(suite: Suite) {
    let (machine, server) = with_cluster(suite);
    server.wrong("GET ", 0, usize::MAX, Wrong::Hang);
    open(&machine, &server);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}", of(&server, CAROL)));
    // The machine is converged while the cluster has not answered.
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.run(&["getent", "passwd", "carol"]).ok();
    let worker = machine.eventually("a worker waits for the cluster", WITHIN, |machine| {
        let all = "for s in /proc/[0-9]*/status; do grep -q \"^Uid:.*[[:space:]]$(id -u rosterd)$\" $s && cat $s; done";
        let found = machine.sh(all).stdout;
        found.contains("Name:").then_some(found)
    });
    assert!(worker.contains("NoNewPrivs:\t1") && worker.contains("CapEff:\t0000000000000000"), "{worker}");
    let told = machine.eventually("the cluster is told as degraded", WITHIN, |machine| {
        let told = machine.run(&["rosterctl", "status", "--json", "--provider", "kubernetes"]);
        (told.status == 3).then_some(told.stdout)
    });
    assert!(told.contains("gave up after 5 s while looking at the cluster"), "{told}");
    // The person is as the roster says on the machine.
    let status = machine.run(&["rosterctl", "status", "--json", "carol"]).json();
    assert_eq!(status["subjects"]["carol"]["state"], "converged", "{status}");
}

fn the_vault_follows_the_roster_and_its_list_guards_the_tiers(suite: Suite) {
    let server = VaultStandIn::start(TOKEN);
    let list = |role: &str| {
        let fields = serde_json::json!({
            "k8s_users": serde_json::json!({"carol": {"role": role}}).to_string(), "other": "hunter2-the-other",
        });
        server.state().secrets.insert("platform".into(), (1, fields.as_object().cloned()));
    };
    list("power-user");
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/vault-token", TOKEN);
    machine.sh("chmod 0600 /etc/rosterd/vault-token").ok();
    let config = format!(
        "[vault]\naddress = \"{}\"\nk8s_users = \"secret/platform#k8s_users\"\ntransit_mount = \"transit\"\n\
         pipelines = \"ci/deployer\"\n",
        server.address()
    );
    machine.write_file("/etc/rosterd/config.toml", &config);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{CAROL}"));

    // The list says another tier: once it has been read, nothing is changed anywhere.
    machine.eventually("the roster waits for the list", WITHIN, |machine| {
        let waits = machine.run(&["rosterctl", "status"]);
        waits.stdout.contains("`carol` is `power-user` in the map").then_some(())
    });
    assert!(server.state().policies.is_empty());
    // Somebody mends the list.
    list("namespace-owner");
    // Read by this run or by one before it; the first that reads it is still held by what the machine saw last.
    let _ = machine.run(&["rosterctl", "reconcile", "--provider", "vault"]);
    machine.eventually("carol has what is hers", WITHIN, |_| {
        server.shown().contains("entity carol (carol): namespace-owner-carol").then_some(())
    });
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.run(&["getent", "passwd", "carol"]).ok();
    machine.run(&["rosterctl", "reconcile", "--provider", "vault"]).ok();
    let plan = machine.run(&["rosterctl", "plan", "--provider", "vault"]).exits(0);
    assert!(plan.stdout.contains("No change"), "{plan}");

    // What she can reach, and what differs.
    let access = machine.run(&["rosterctl", "access", "carol"]).exits(0);
    for told in
        ["account carol", "policy namespace-owner-carol (tier namespace-owner)", "All is as the roster says"]
    {
        assert!(access.stdout.contains(told), "{told}: {access}");
    }
    server.state().entities.values_mut().next().unwrap()["policies"] =
        serde_json::json!(["workstation-carol"]);
    let access = machine.run(&["rosterctl", "access", "carol"]).exits(3);
    assert!(access.stdout.contains("it is not there"), "{access}");
    machine.run(&["rosterctl", "reconcile", "--provider", "vault"]).ok();
    assert_eq!(machine.run(&["rosterctl", "access", "carol"]).status, 0);

    // Published, the roster is what the list says; and nothing of the secret is told to anybody.
    machine.write_file("/etc/rosterd/config.toml", format!("{config}publish = true\n"));
    let power = CAROL.replace("tier: namespace-owner, namespaces: [carol-dev]", "tier: power-user");
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{power}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.eventually("carol is published with her tier", WITHIN, |_| {
        server.shown().contains(r#"\"role\":\"power-user\""#).then_some(())
    });
    assert!(server.shown().contains("hunter2-the-other"));
    assert!(
        !machine
            .sh("journalctl -o export --no-pager; grep -r hunter2 /var/lib/rosterd || true")
            .ok()
            .contains("hunter2")
    );

    // A Vault that hangs holds up nothing on the machine.
    machine.write_file("/etc/rosterd/config.toml", format!("{config}publish = true\ndeadline_s = 5\n"));
    server.wrong("GET ", 0, usize::MAX, Wrong::Hang);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{power}{BOB}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.run(&["getent", "passwd", "bob"]).ok();
}

fn only_the_host_that_has_the_lease_changes_the_cluster(suite: Suite) {
    let (machine, server) = with_cluster(suite);
    let now = machine.sh("date -u +%Y-%m-%dT%H:%M:%S.000000Z").ok();
    server.lease_of(
        "rosterd/hosts",
        &serde_json::json!({"holderIdentity": "other_1a2b", "leaseDurationSeconds": 3600, "renewTime": now.trim()}),
    );
    let lease = format!("lease = \"{}/{}\"\n", server.own("rosterd"), server.own("hosts"));
    machine.write_file("/etc/rosterd/config.toml", table(&server.config()) + &lease);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}", of(&server, CAROL)));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let run = machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]).ok();
    assert!(run.contains("other_1a2b does it, until"), "{run}");
    assert!(keys(&server).is_empty());
    // That host is gone for longer than it said.
    server.lease_of(
        "rosterd/hosts",
        &serde_json::json!({
            "holderIdentity": "other_1a2b", "leaseDurationSeconds": 3600, "renewTime": "2020-01-01T00:00:00.000000Z",
        }),
    );
    machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]).ok();
    assert!(keys(&server).contains(&"rolebindings carol-dev/carol-admin".to_owned()));
    let holder = server.holder("rosterd/hosts").unwrap();
    assert!(holder.starts_with(machine.sh("hostname").ok().trim()), "{holder}");
}

fn a_grant_whose_worker_or_daemon_is_killed_between_two_calls_is_made_again_at_once_invariant_5(
    suite: Suite,
) {
    const BOBS: &str = "clusterrolebindings bobr-power-user";
    let (machine, server) = with_cluster(suite);
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}", of(&server, BOB)));
    let config = |role: &str| {
        let power_user_role = server.own(role);
        machine.write_file(
            "/etc/rosterd/config.toml",
            table(&Kubernetes { power_user_role, ..server.config() }),
        );
        machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    };
    let has = |role: &str| {
        let objects = server.objects();
        objects.get(BOBS).map(|grant| grant["roleRef"]["name"].clone()) == Some(role.into())
    };
    config("first");
    machine.eventually("bob has his grant", WITHIN, |_| has("first").then_some(()));
    for (role, kill) in [
        ("second", "kill -9 $(pgrep -u rosterd)"),
        ("third", "systemctl kill --signal=KILL --kill-who=main rosterd.service"),
    ] {
        let grants = "PATCH /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/";
        server.wrong(&format!("{grants}{}?", server.own("bobr-power-user")), 0, 1, Wrong::Hang);
        open(&machine, &server);
        config(role);
        machine
            .eventually("neither is there", WITHIN, |_| (!server.objects().contains_key(BOBS)).then_some(()));
        machine.sh(kill).ok();
        // Nobody asks for it.
        machine.eventually("bob has his grant again", WITHIN, |_| has(role).then_some(()));
    }
    let told = machine.journal(&["ROSTERD_USER=bob", "ROSTERD_STEP=cluster-replace"]);
    assert!(told.iter().any(|r| r.message().contains("nobody has it until it is made again")), "{told:?}");
    machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]).ok();
    let runs = machine.run(&["rosterctl", "history", "--json"]).json();
    let retried = runs.as_array().unwrap().iter().any(|run| {
        run["trigger"] == "retry" && run["id"].as_str().is_some_and(|id| id.ends_with("-kubernetes"))
    });
    assert!(retried, "{runs}");
}

/// The machine's gate group and login, the cluster's grants and Vault's policies are one cut.
fn a_cut_takes_all_rights_everywhere_and_a_return_gives_them_back_invariant_6(suite: Suite) {
    let (machine, cluster) = with_cluster(suite);
    let vault = VaultStandIn::start(TOKEN);
    let (bob, carol) = (of(&cluster, BOB), of(&cluster, CAROL));
    machine.write_file("/etc/rosterd/vault-token", TOKEN);
    machine.sh("chmod 0600 /etc/rosterd/vault-token").ok();
    let config = |revoke: bool| {
        let text = format!(
            "host = \"devvm\"\n[cut]\ngroups = [\"gate\"]\n{}revoke_on_cut = {revoke}\n\
             [vault]\naddress = \"{}\"\nrevoke_on_cut = {revoke}\n",
            table(&cluster.config()),
            vault.address()
        );
        machine.write_file("/etc/rosterd/config.toml", text);
    };
    machine
        .sh("groupadd gate && useradd -m -s /bin/bash carol && echo carol:secret | chpasswd && gpasswd -a carol gate")
        .ok();
    // Machine, cluster and Vault as far as a cut may touch them.
    let save = |people: &str| {
        machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{people}"));
        machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
        for provider in ["kubernetes", "vault"] {
            machine.run(&["rosterctl", "reconcile", "--provider", provider]).ok();
        }
    };
    let here = || {
        machine.sh("grep ^carol: /etc/shadow; getent group gate; cat /etc/ttyd-user-map /etc/t3-serve/carol.env; id carol").ok()
    };
    let rights = || {
        let of = |(key, object): (String, serde_json::Value)| {
            let said: Vec<_> =
                ["rules", "roleRef", "subjects", "spec"].map(|field| object[field].to_string()).into();
            format!("{key} {}\n", said.join(" "))
        };
        let rights: String = cluster.objects().into_iter().map(of).collect();
        format!("{rights}{}", cluster.shown(&vault.shown()))
    };
    config(true);
    save(&format!("{bob}{carol}"));
    let (here_before, rights_before) = (here(), rights());
    for right in ["rolebindings carol-dev/carol-admin", "entity carol (carol): namespace-owner-carol"] {
        assert!(rights_before.contains(right), "{right}: {rights_before}");
    }

    save(&bob);
    let (here_cut, rights_cut) = (here(), rights());
    let login = here_cut.lines().next().unwrap();
    assert!(login.starts_with("carol:!$") && login.ends_with(":1:"), "{here_cut}");
    assert!(here_cut.contains("gate:x:") && !here_cut.contains("gate:x:1000:carol"), "{here_cut}");
    for line in rights_cut.lines().filter(|line| line.contains("carol")) {
        // The namespace and whoever Vault knows stay; nothing in them gives a right.
        assert!(
            ["namespaces carol-dev ", "entity carol (carol):"].iter().any(|kept| line.starts_with(kept)),
            "{line}"
        );
        assert!(!line.contains("namespace-owner") && !line.contains("workstation"), "{line}");
    }
    // Once: nothing is done again, and what an admin gives by hand meanwhile is theirs to give.
    let _ = (cluster.requests(), vault.requests());
    save(&bob);
    let asked: Vec<String> = cluster.requests().into_iter().chain(vault.requests()).collect();
    let writes = |what: &&String| !what.starts_with("GET ") && !what.contains("identity/lookup");
    assert_eq!(asked.iter().filter(writes).collect::<Vec<_>>(), Vec::<&String>::new());

    save(&format!("{bob}{carol}"));
    assert_eq!(here(), here_before);
    assert_eq!(rights(), rights_before);

    // Each part of it once, with its fields, and nothing secret.
    let told = |step: &str, target: &str| {
        let all = machine.journal(&["ROSTERD_USER=carol", &format!("ROSTERD_STEP={step}")]);
        let fits = all.iter().filter(|record| {
            record.get("ROSTERD_TARGET").is_some_and(|found| cluster.shown(found).contains(target))
        });
        fits.count()
    };
    for (step, target) in [
        ("cut", ""),
        ("lock-login", "unlocked, never expires"),
        ("remove-from-group", "gate"),
        ("return", ""),
        ("restore-login", "unlocked, never expires"),
        ("add-to-group", "gate"),
        ("cluster-delete", "RoleBinding carol-dev/carol-admin"),
        ("cluster-delete", "ClusterRoleBinding carol-read-only"),
        ("vault-delete-policy", "namespace-owner-carol"),
    ] {
        assert_eq!(told(step, target), 1, "{step} {target}");
    }
    assert_eq!(told("cluster-apply", "RoleBinding carol-dev/carol-admin"), 2, "given, and given back");
    let told_all = machine.sh("journalctl -o export --no-pager").ok();
    assert!(!told_all.contains(TOKEN) && !told_all.contains(&cluster.token()));

    // Who works on another machine only has left this one, and nothing else.
    let elsewhere = carol.replace("email:", "hosts: [other], email:");
    save(&format!("{bob}{elsewhere}"));
    let login = here();
    assert!(login.starts_with("carol:!$"), "{login}");
    assert_eq!(rights(), rights_before);
    // But who is gone from there is gone.
    save(&bob);
    assert_eq!(rights(), rights_cut);

    // A site whose cuts take nothing there: what is left goes with the account.
    save(&format!("{bob}{carol}"));
    config(false);
    save(&bob);
    assert_eq!(rights(), rights_before);
    machine.run(&["rosterctl", "offboard", "carol", "--yes", "carol", "--force"]).ok();
    save(&bob);
    assert_eq!(rights(), rights_cut);
}

/// Nobody listens there.
const NOWHERE: &str = "apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {token: hunter2-nowhere}}]
";

fn what_may_be_left_in_a_cluster_that_cannot_be_reached_is_told_until_it_is_gone_invariant_8(suite: Suite) {
    let (machine, cluster) = with_cluster(suite);
    // Long enough for all tries of a busy machine.
    machine.write_file("/etc/rosterd/config.toml", format!("{}deadline_s = 60\n", table(&cluster.config())));
    let (bob, carol) = (of(&cluster, BOB), of(&cluster, CAROL));
    let save = |people: &str| {
        machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{people}"));
        machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    };
    let reconcile = || machine.run(&["rosterctl", "reconcile", "--provider", "kubernetes"]);
    let pending = || {
        let status = machine.run(&["rosterctl", "status", "--json"]).json();
        status["providers"]["kubernetes"]["pending"].clone()
    };
    // However wide the lines are.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    save(&format!("{bob}{carol}"));
    reconcile().ok();
    const GRANT: &str = "rolebindings carol-dev/carol-admin";
    assert!(keys(&cluster).contains(&GRANT.to_owned()));

    machine.write_file("/etc/rosterd/kubeconfig", NOWHERE);
    save(&bob);
    let _ = reconcile().exits(3);
    assert_eq!(pending(), serde_json::json!(["carol"]));
    let status = words(&machine.run(&["rosterctl", "status"]).exits(3).stdout);
    assert!(status.contains("may be left: carol left the roster"), "{status}");
    assert_eq!(status.matches("cannot be read").count(), 1, "{status}");
    assert!(status.contains("127.0.0.1:1: tcp connect error: Connection refused"), "{status}");
    let plan = machine.run(&["rosterctl", "plan", "--provider", "kubernetes"]).exits(1);
    assert!(words(&plan.stdout).contains("the cluster cannot be read, so nothing is done there"), "{plan}");
    let access = words(&machine.run(&["rosterctl", "access", "carol"]).exits(3).stdout);
    assert!(
        access.contains("not in the roster, cut since")
            && access.contains("what carol had there may be left"),
        "{access}"
    );

    let offboard =
        || words(&machine.run(&["rosterctl", "offboard", "carol", "--yes", "carol", "--force"]).ok());
    let told = offboard();
    assert!(
        told.contains("rights in kubernetes: may be left, and go when they can be taken: the cluster"),
        "{told}"
    );
    assert!(
        told.contains("carol is removed") && told.contains("what carol had in kubernetes may be left"),
        "{told}"
    );
    let _ = reconcile().exits(3);
    assert_eq!(pending(), serde_json::json!(["carol"]));
    let access = words(&machine.run(&["rosterctl", "access", "carol"]).exits(3).stdout);
    assert!(access.contains("not in the roster, removed since"), "{access}");
    assert!(keys(&cluster).contains(&GRANT.to_owned()));

    // A daemon that begins anew knows it as well.
    machine.run(&["systemctl", "restart", "rosterd.service"]).ok();
    assert_eq!(pending(), serde_json::json!(["carol"]));

    open(&machine, &cluster);
    reconcile().ok();
    assert!(!keys(&cluster).contains(&GRANT.to_owned()));
    assert_eq!(pending(), serde_json::Value::Null);
    let access = words(&machine.run(&["rosterctl", "access", "carol"]).exits(0).stdout);
    assert!(access.contains("no namespace is deleted when its person leaves"), "{access}");
    assert!(!offboard().contains("may be left"));
    assert!(!machine.sh("journalctl -o export --no-pager").ok().contains("hunter2"));
}
