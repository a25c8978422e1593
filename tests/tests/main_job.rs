//! The main job, from outside: edit the roster, wait, and look with `getent`, `stat`, `git` and `journalctl`.

use machine_tests::{Forge, Machine, Suite, on_each_debian};
use serde_json::Value;

on_each_debian!(
    the_machine_becomes_what_the_roster_says,
    one_edit_is_one_person,
    a_reboot_loses_nothing_and_the_hourly_run_is_armed,
);

const ROSTER: &str = "users:
  alice: {authentik_user: alice.doe, k8s_user: alice, tier: admin}
  bob:   {authentik_user: bob.roe, k8s_user: bobr, tier: power-user}
  carol:
    authentik_user: carol
    k8s_user: carol
    tier: namespace-owner
    namespaces: [carol-dev]
    code_layout: workspace
    repos: [website, ledgerbook]
";

fn provision(machine: &Machine, forge: &Forge) {
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    machine.write_file("/etc/rosterd/roster.yaml", ROSTER);
}

fn steps_of_last_run(machine: &Machine) -> usize {
    let run = machine.run(&["rosterctl", "show", "last", "--json"]).json();
    run["steps"].as_array().map_or_else(|| panic!("no steps in {run}"), Vec::len)
}

fn the_machine_becomes_what_the_roster_says(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    provision(&machine, &forge);
    let plan = machine.run(&["rosterctl", "plan", "--json"]);
    assert!(plan.status == 0 || plan.json()["problems"].as_array().is_some_and(Vec::is_empty), "{plan}");

    // Carol may not read the private repository yet: that is carol's alone (invariant 4).
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]).exits(3);
    let told = machine.run(&["rosterctl", "status"]).exits(3);
    assert!(told.stdout.contains("carol") && told.stdout.contains(".git-credentials"), "{told}");
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["bob"]["state"], "converged", "{status}");
    assert_eq!(status["subjects"]["carol"]["state"], "degraded", "{status}");

    // The token opens it.
    let line = forge.credentials();
    machine
        .sh_as("carol", &format!("umask 077; printf '%s' '{}' > ~/.git-credentials", line.trim_end()))
        .ok();
    machine.run(&["rosterctl", "reconcile"]).ok();

    for user in ["alice", "bob", "carol"] {
        let passwd = machine.run(&["getent", "passwd", user]).ok();
        assert!(passwd.contains(&format!(":/home/{user}:/bin/zsh")), "{passwd}");
        assert_eq!(
            machine.sh(&format!("stat -c '%U %G %a' /home/{user}")).ok(),
            format!("{user} {user} 700\n")
        );
        let shadow = machine.sh(&format!("getent shadow {user} | cut -d: -f2")).ok();
        assert!(shadow.starts_with('!'), "the password is not locked: {shadow}");
    }
    assert!(machine.run(&["id", "-Gn", "alice"]).ok().split_whitespace().any(|group| group == "sudo"));
    assert_eq!(machine.run(&["id", "-Gn", "bob"]).ok(), "bob\n");
    assert!(machine.sh("pwck -r 2>&1 | grep -E 'alice|bob|carol'").stdout.is_empty());
    machine.run(&["grpck", "-r"]).ok();

    for (user, path, repository) in [
        ("alice", "code", "infra"),
        ("bob", "code", "infra"),
        ("carol", "code/infra", "infra"),
        ("carol", "code/website", "website"),
        ("carol", "code/ledgerbook", "ledgerbook"),
    ] {
        let git = |words: &str| machine.sh_as(user, &format!("git -C ~/{path} {words}")).ok();
        assert_eq!(git("status --porcelain"), "", "{user}:{path}");
        assert_eq!(git("rev-parse HEAD").trim(), forge.head(repository).trim(), "{user}:{path}");
        assert_eq!(git("remote get-url origin").trim(), forge.url(repository));
        git("fsck --no-progress");
        assert_eq!(machine.sh(&format!("find /home/{user}/{path} ! -user {user} | head -n 3")).ok(), "");
    }
    // Secrets stay ciphertext, also after the person's own checkout.
    machine.sh_as("bob", "cd ~/code && git checkout -q -b mine && git checkout -q main").ok();
    let head = machine.sh_as("bob", "head -qc 10 ~/code/secrets/* | od -An -tx1 | head -n 1").ok();
    assert_eq!(head.split_whitespace().take(10).collect::<String>(), "00474954435259505400", "{head}");

    let map = machine.read_file("/etc/ttyd-user-map");
    let lines: Vec<_> = map.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["alice.doe=alice", "bob.roe=bob", "carol=carol"]);
    let admins = machine.read_file("/etc/ttyd-admins");
    assert_eq!(admins.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), ["alice"]);
    let dispatch: Value = serde_json::from_str(&machine.read_file("/etc/t3-serve/dispatch.json")).unwrap();
    assert_eq!(dispatch["bob.roe"]["os_user"], "bob");
    assert_eq!(dispatch["bob.roe"]["port"], 3774);
    assert_eq!(
        machine.sh("stat -c '%U %a' /etc/t3-serve/bob.env; cat /etc/t3-serve/bob.env").ok(),
        "root 600\nT3_PORT=3774\n"
    );

    // Invariant 10: each step is a record with its fields.
    let created = machine.journal(&["ROSTERD_STEP=create-account", "ROSTERD_USER=bob"]);
    assert_eq!(created.len(), 1);
    for field in ["MESSAGE_ID", "ROSTERD_RUN", "ROSTERD_GENERATION", "ROSTERD_REASON"] {
        assert!(created[0].get(field).is_some_and(|value| !value.is_empty()), "{field}: {:?}", created[0]);
    }

    // Invariant 9: a second run changes nothing, here and in the homes.
    let everything = "find /etc /home -xdev -newer /run/before ! -path '/etc/.pwd.lock' | sort";
    machine.sh("touch /run/before").ok();
    machine.run(&["rosterctl", "plan"]).ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(steps_of_last_run(&machine), 0);
    assert_eq!(machine.sh(everything).ok(), "");
}

fn one_edit_is_one_person(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let ann = "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n";
    machine.write_file("/etc/rosterd/roster.yaml", ann);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let bea = format!("{ann}  bea: {{authentik_user: bea, k8s_user: bea, tier: power-user}}\n");
    machine.write_file("/etc/rosterd/roster.yaml", &bea);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let run = machine.run(&["rosterctl", "show", "last", "--json"]).json();
    let subjects: Vec<_> =
        run["steps"].as_array().unwrap().iter().map(|step| step["subject"].as_str().unwrap()).collect();
    assert!(subjects.contains(&"bea") && !subjects.contains(&"ann"), "{subjects:?}");
    let uid = machine.run(&["id", "-u", "bea"]).ok();

    // Whoever leaves keeps account, home and ids, and gets the same port back.
    machine.write_file("/etc/rosterd/roster.yaml", ann);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert!(!machine.read_file("/etc/ttyd-user-map").contains("bea"));
    assert!(machine.exists("/home/bea/code/.git"));
    assert_eq!(machine.run(&["rosterctl", "status", "--json"]).json()["subjects"]["bea"]["state"], "cut");
    machine.write_file("/etc/rosterd/roster.yaml", &bea);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert!(machine.read_file("/etc/ttyd-user-map").contains("bea=bea"));
    assert_eq!(machine.run(&["id", "-u", "bea"]).ok(), uid);
    assert_eq!(machine.read_file("/etc/t3-serve/bea.env"), "T3_PORT=3774\n");
}

fn a_reboot_loses_nothing_and_the_hourly_run_is_armed(suite: Suite) {
    let forge = Forge::start();
    let mut machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let generation = machine.run(&["rosterctl", "status", "--json"]).json()["generation"].clone();
    let head = machine.sh_as("ann", "git -C ~/code rev-parse HEAD").ok();
    machine.reboot();
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.run(&["rosterctl", "status", "--json"]).json()["generation"], generation);
    assert_eq!(steps_of_last_run(&machine), 0);
    assert_eq!(machine.sh_as("ann", "git -C ~/code rev-parse HEAD").ok(), head);
    // The timer is armed, and what it starts does the work.
    let timer =
        machine.run(&["systemctl", "show", "-p", "NextElapseUSecRealtime", "rosterd-reconcile.timer"]).ok();
    assert!(timer.trim() != "NextElapseUSecRealtime=", "{timer}");
    machine.run(&["systemctl", "start", "rosterd-reconcile.service"]).ok();
    let result =
        machine.run(&["systemctl", "show", "--value", "-p", "Result", "rosterd-reconcile.service"]).ok();
    assert_eq!(result, "success\n");
}
