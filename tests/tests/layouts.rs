//! People's clones on a machine that was there before rosterd, and a layout that changes: shown in the plan first, then
//! done, whatever happens meanwhile.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite, on_each_debian};

on_each_debian!(
    a_machine_of_scripts_is_adopted_and_the_plan_says_what_changes_invariant_1,
    a_clone_becomes_a_workspace_though_the_daemon_is_killed_invariant_5,
);

fn config(forge: &Forge) -> String {
    format!("{}[code.push_remote]\nname = \"forgejo\"\nurl = \"{}\"\n", forge.config(), forge.url("infra"))
}

/// As scripts left it: an account, a clone with `cat` filters and a dirty file, credentials that others may read.
fn provision_by_scripts(machine: &Machine, forge: &Forge, user: &str) {
    machine.sh(&format!("useradd -m -s /bin/bash {user}; chmod 700 /home/{user}")).ok();
    let script = format!(
        "git -c filter.git-crypt.smudge=cat -c filter.git-crypt.clean=cat clone -q {0} code
         cd code
         git config filter.git-crypt.smudge cat
         git config filter.git-crypt.clean cat
         git config filter.git-crypt.required true
         echo mine >>README.md
         git config --global user.name 'Own Name'
         printf 'https://a:s3cret@x\\n' >~/.git-credentials
         chmod 644 ~/.git-credentials",
        forge.url("infra")
    );
    machine.sh_as(user, &format!("set -eu; {script}")).ok();
}

fn a_machine_of_scripts_is_adopted_and_the_plan_says_what_changes_invariant_1(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    provision_by_scripts(&machine, &forge, "ann");
    let files = "find /home/ann -path '*/.git/config' -prune -o -name '.git*' -prune -o -type f -printf '%p %i %s %m %T@\\n' | sort";
    let before = machine.sh(files).ok();
    machine.write_file("/etc/rosterd/config.toml", config(&forge));
    let ann =
        "users:\n  ann: {authentik_user: ann.lee, k8s_user: ann, tier: admin, email: ann@example.org}\n";
    machine.write_file("/etc/rosterd/roster.yaml", ann);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let run = machine.run(&["rosterctl", "show", "last"]).ok();
    for step in [
        "set user.email=ann@example.org credential.helper=store in ~/.gitconfig",
        "set the mode of ~/.git-credentials from 0644 to 0600",
        "let ~/code refuse plain text in encrypted files",
        "add the remote forgejo",
    ] {
        assert!(run.split_whitespace().collect::<Vec<_>>().join(" ").contains(step), "{step}\n{run}");
    }
    assert!(!run.contains("clone http") && !run.contains("s3cret"), "{run}");
    assert_eq!(machine.sh(files).ok(), before);
    let git = |words: &str| machine.sh_as("ann", &format!("git -C ~/code {words}")).ok();
    assert_eq!(git("status --porcelain"), " M README.md\n");
    assert_eq!(git("config user.name"), "Own Name\n");
    let refused = machine.sh_as("ann", "cd ~/code && echo plain >secrets/db && git commit -qam x");
    assert!(refused.status != 0 && refused.stderr.contains("this clone is locked"), "{refused}");
    git("checkout -q -- secrets/db");

    // Undone by hand, the plan says what the next run will do, and does nothing.
    git("remote remove forgejo");
    git("config --replace-all filter.git-crypt.clean cat");
    machine.sh_as("ann", "chmod 640 ~/.git-credentials").ok();
    let planned = machine.run(&["rosterctl", "plan"]).exits(2).stdout;
    for step in ["from 0640 to 0600", "refuse plain text", "add the remote forgejo"] {
        assert!(planned.contains(step), "{step}\n{planned}");
    }
    assert_eq!(git("remote"), "origin\n");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(git("remote"), "forgejo\norigin\n");
    machine.run(&["rosterctl", "plan"]).exits(0).ok();
}

fn a_clone_becomes_a_workspace_though_the_daemon_is_killed_invariant_5(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/config.toml", config(&forge));
    let people = 24;
    let roster = |workspaces: usize| {
        let mut text = String::from("users:\n");
        for number in 0..people {
            let more = if number < workspaces { ", code_layout: workspace, repos: [tripit]" } else { "" };
            text += &format!(
                "  u{number}: {{authentik_user: u{number}, k8s_user: u{number}, tier: power-user{more}}}\n"
            );
        }
        text
    };
    machine.write_file("/etc/rosterd/roster.yaml", roster(0));
    machine.run(&["rosterctl", "wait", "--timeout", "200"]).ok();
    for number in 0..people {
        let tripit = forge.url("tripit");
        let script = format!(
            "set -eu; cd code; git checkout -q -b mine; echo dirty >>README.md; echo new >untracked
             git worktree add -q ../tree; git clone -q {tripit} tripit; echo kept >tripit/kept"
        );
        machine.sh_as(&format!("u{number}"), &script).ok();
    }
    let before: Vec<String> = (0..people)
        .map(|number| {
            machine
                .sh(&format!("cd /home/u{number}; stat -c %i code code/tripit code/untracked tree/.git"))
                .ok()
        })
        .collect();
    // One person after the other becomes a workspace, and each time the daemon is killed some milliseconds later.
    for number in 0..people {
        machine.write_file("/etc/rosterd/roster.yaml", roster(number + 1));
        let wait = 0.100 + 0.006 * f64::from(u32::try_from(number).unwrap());
        machine.sh(&format!("sleep {wait:.3}; systemctl kill --kill-whom=all -s KILL rosterd")).ok();
        machine.eventually("rosterd is back", Duration::from_secs(20), |machine| {
            (machine.run(&["systemctl", "is-active", "rosterd"]).stdout == "active\n").then_some(())
        });
    }
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]);
    machine.run(&["rosterctl", "reconcile"]).ok();
    machine.run(&["rosterctl", "plan"]).exits(0).ok();
    for (number, before) in before.iter().enumerate() {
        let user = format!("u{number}");
        let now = machine.sh(&format!("cd /home/{user}/code; stat -c %i infra tripit infra/untracked")).ok();
        assert!(before.starts_with(&now), "{user}: {before} is {now}");
        assert_eq!(
            machine.sh(&format!("ls -A /home/{user}/code; cat /home/{user}/code/tripit/kept")).ok(),
            "infra\ntripit\nkept\n"
        );
        let status = machine
            .sh_as(&user, "git -C ~/code/infra status --porcelain; git -C ~/tree status --porcelain")
            .ok();
        assert_eq!(status, " M README.md\n?? untracked\n", "{user}");
        assert_eq!(
            machine.sh_as(&user, "git -C ~/code/infra worktree prune --dry-run -v").ok(),
            "",
            "{user}"
        );
    }
    assert_eq!(
        machine.sh("find /home -name '*rosterd-*' ! -path '*/.git/rosterd-locked' -o -name '*.lock'").ok(),
        ""
    );
}
