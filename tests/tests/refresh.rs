//! The refresh of clones on a machine: each remote asked once, what is safe goes forward, the rest is left alone and
//! told once, and whatever is killed converges.

use std::collections::BTreeMap;
use std::time::Duration;

use machine_tests::{Forge, Machine, Suite, on_each_debian};

on_each_debian!(clones_follow_their_remote_where_that_is_safe);

fn roster(users: &[&str]) -> String {
    let people = users
        .iter()
        .map(|user| format!("  {user}: {{authentik_user: {user}, k8s_user: {user}, tier: power-user}}\n"));
    format!("users:\n{}", people.collect::<String>())
}

fn provision(machine: &Machine, forge: &Forge, users: &[&str]) {
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    machine.write_file("/etc/rosterd/roster.yaml", roster(users));
    machine.run(&["rosterctl", "wait", "--timeout", "240"]).ok();
}

/// How often the ref list of a repository was asked for, and how often objects of it.
fn asked(forge: &Forge, repository: &str) -> (usize, usize) {
    let requests = forge.requests(repository);
    let of = |what: &str| requests.iter().filter(|request| request.what.starts_with(what)).count();
    (of("GET /info/refs"), of("POST /git-upload-pack"))
}

/// The notices of the status, by person.
fn notices(machine: &Machine) -> BTreeMap<String, String> {
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    let notices = status["notices"].as_array().unwrap_or_else(|| panic!("no notices in {status}")).clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    notices.iter().map(|notice| (text(&notice["subject"]), text(&notice["text"]))).collect()
}

fn steps(machine: &Machine) -> Vec<(String, String)> {
    let run = machine.run(&["rosterctl", "show", "last", "--json"]).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let steps = run["steps"].as_array().unwrap_or_else(|| panic!("no steps in {run}"));
    let kind = |step: &serde_json::Value| match &step["action"]["what"] {
        serde_json::Value::String(what) => format!("{}/{what}", text(&step["action"]["kind"])),
        _ => text(&step["action"]["kind"]),
    };
    steps.iter().map(|step| (text(&step["subject"]), kind(step))).collect()
}

fn clones_follow_their_remote_where_that_is_safe(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let states = [
        ("clean", ""),
        ("untracked", "echo mine > notes; mkdir build; echo x > build/out"),
        ("dirty", "echo more >> README.md"),
        ("staged", "echo more > staged && git add staged"),
        ("ahead", "git commit -q --allow-empty -m Mine"),
        ("detached", "git checkout -q --detach"),
        ("topic", "git checkout -q -b topic"),
        ("stray", "git branch --unset-upstream"),
        (
            "rebasing",
            "echo a > README.md && git commit -qam A && git checkout -q -b other HEAD~ && \
             echo b > README.md && git commit -qam B && git checkout -q main && ! git rebase -q other 2>/dev/null",
        ),
        (
            "merging",
            "git checkout -q -b other && git commit -q --allow-empty -m O && git checkout -q main && \
             git merge -q --no-ff --no-commit other",
        ),
        ("bisecting", "git bisect start -q 2>/dev/null || git bisect start >/dev/null"),
        ("busy", "touch .git/index.lock"),
        ("intheway", "echo mine > new-file"),
        (
            "shallow",
            "cd && git clone -q --bare code bare && rm -rf code && git clone -q --depth 1 file://$HOME/bare code && \
             git -C code remote set-url origin $URL",
        ),
        ("linked", "rm README.md && ln -s /etc/passwd README.md"),
    ];
    let users: Vec<_> = states.iter().map(|(user, _)| *user).collect();
    provision(&machine, &forge, &users);
    assert_eq!(asked(&forge, "infra"), (1, 1), "fifteen clones, one request for refs and one for objects");

    let identity = "git config --global user.name x; git config --global user.email x@example.org";
    for (user, script) in states {
        let script = script.replace("$URL", &forge.url("infra"));
        machine.sh_as(user, &format!("{identity}; set -e; cd ~/code; {script}")).ok();
    }
    let look = |user: &str| {
        machine
            .sh_as(
                user,
                "cd ~/code && git rev-parse HEAD && git status --porcelain=v1 && cat README.md 2>/dev/null; \
                ls -la | sed 's/ [0-9:]* \\.*$//' | grep -v '\\.git$'",
            )
            .stdout
    };
    let before: BTreeMap<_, _> = users.iter().map(|user| (*user, look(user))).collect();

    // Nothing moved: one request in all, no step, and nothing told.
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(asked(&forge, "infra"), (2, 1));
    // The clone that its person made by hand is locked, and nothing else is done.
    assert_eq!(steps(&machine), [("shallow".to_owned(), "home/wire".to_owned())]);

    forge.push("infra", "new-file", "new\n");
    forge.push("infra", "README.md", "# changed\n");
    // The plan says what the run will do, asks once, and brings nothing.
    let plan = machine.run(&["rosterctl", "plan"]).exits(2).stdout;
    let mirrors = format!("fetch {} into the mirror", forge.url("infra"));
    assert!(plan.contains(&mirrors) && plan.contains("into ~/code"), "{plan}");
    assert_eq!(asked(&forge, "infra"), (3, 1));
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(asked(&forge, "infra"), (4, 2), "one fetch, into the mirror");
    for user in ["clean", "untracked"] {
        let git = |words: &str| machine.sh_as(user, &format!("git -C ~/code {words}")).ok();
        assert_eq!(git("rev-parse HEAD").trim(), forge.head("infra"), "{user}");
        assert_eq!(git("diff HEAD"), "", "{user}");
        git("fsck --no-progress");
    }
    assert_eq!(machine.sh_as("untracked", "cat ~/code/notes ~/code/build/out").ok(), "mine\nx\n");
    for user in users.iter().filter(|user| !["clean", "untracked"].contains(*user)) {
        assert_eq!(look(user), before[user], "{user} was left alone");
    }
    // All of them have the commits, and keep what is theirs.
    for user in users.iter().filter(|user| **user != "shallow") {
        let head = machine.sh_as(user, "git -C ~/code rev-parse origin/main").ok();
        assert_eq!(head.trim(), forge.head("infra"), "{user}");
    }
    let told = notices(&machine);
    for (user, part) in [
        ("dirty", "changes that are not committed"),
        ("staged", "changes that are not committed"),
        ("linked", "changes that are not committed"),
        ("ahead", "has commits that its upstream does not have"),
        ("detached", "detached head"),
        ("topic", "`topic` is checked out"),
        ("stray", "no upstream"),
        ("rebasing", "in the middle of a rebase"),
        ("merging", "in the middle of a merge"),
        ("bisecting", "in the middle of a bisect"),
        ("busy", "index.lock"),
        ("intheway", "new-file is in the way"),
        ("shallow", "a shallow clone"),
    ] {
        assert!(told.get(user).is_some_and(|text| text.contains(part)), "{user}: {told:#?}");
    }
    assert!(!told.contains_key("clean") && !told.contains_key("untracked"), "{told:#?}");
    let status = machine.run(&["rosterctl", "status"]).ok();
    assert!(status.contains("note: dirty: ~/code does not follow its remote"), "{status}");

    // Told once: the next hour says nothing, and fetches nothing.
    let records = |machine: &Machine| machine.journal(&["MESSAGE_ID=0f112dd227ff4950ba5ea3682638ac33"]).len();
    let count = records(&machine);
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!((records(&machine), steps(&machine)), (count, vec![]));
    assert_eq!(asked(&forge, "infra"), (5, 2));
    assert_eq!(notices(&machine), told);

    // What kept them is gone: they follow.
    machine.sh_as("dirty", "git -C ~/code checkout -q README.md").ok();
    machine.sh_as("detached", "git -C ~/code checkout -q main").ok();
    machine.sh_as("busy", "rm ~/code/.git/index.lock").ok();
    machine.sh_as("intheway", "rm ~/code/new-file").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    for user in ["dirty", "detached", "busy", "intheway"] {
        assert_eq!(
            machine.sh_as(user, "git -C ~/code rev-parse HEAD").ok().trim(),
            forge.head("infra"),
            "{user}"
        );
        assert_eq!(machine.sh_as(user, "git -C ~/code status --porcelain").ok(), "", "{user}");
    }

    // The history was rewritten upstream: nobody is moved back, and who had followed is told.
    forge.git("infra", &["reset", "-q", "--hard", "HEAD~1"]);
    std::fs::write(forge.work("infra").join("rewritten"), "x\n").unwrap();
    forge.git("infra", &["add", "--all"]);
    forge.git("infra", &["commit", "-q", "-m", "Rewritten"]);
    let old = machine.sh_as("clean", "git -C ~/code rev-parse HEAD").ok();
    forge.git("infra", &["push", "-q", "--force", "origin", "HEAD"]);
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(machine.sh_as("clean", "git -C ~/code rev-parse HEAD").ok(), old);
    assert!(notices(&machine)["clean"].contains("has commits that its upstream does not have"));
    machine.sh_as("clean", "git -C ~/code reset -q --hard origin/main").ok();

    // The default branch has another name: who is on the old one is told how to go over.
    forge.git("infra", &["branch", "-q", "-m", "main", "trunk"]);
    forge.git("infra", &["push", "-q", "-u", "origin", "trunk"]);
    forge.set_default("infra", "trunk");
    forge.git("infra", &["push", "-q", "origin", ":main"]);
    forge.push("infra", "after", "the rename\n");
    machine.run(&["rosterctl", "reconcile"]).ok();
    let told = notices(&machine);
    assert!(told["clean"].contains("`git switch trunk`"), "{told:#?}");
    machine.sh_as("clean", "git -C ~/code switch -q trunk").ok();
    forge.push("infra", "later", "still\n");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(machine.sh_as("clean", "git -C ~/code rev-parse HEAD").ok().trim(), forge.head("infra"));
    assert!(!notices(&machine).contains_key("clean"));
}

/// However many they are, and whoever of them has moved on: counted at the server.
#[test]
fn a_hundred_people_on_one_repository_cost_one_request() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    let people: Vec<_> = (0..100).map(|number| format!("dev{number:02}")).collect();
    let people: Vec<_> = people.iter().map(String::as_str).collect();
    provision(&machine, &forge, &people);
    assert_eq!(asked(&forge, "infra"), (1, 1), "a hundred clones");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!((steps(&machine), asked(&forge, "infra")), (vec![], (2, 1)), "nothing moved");

    forge.push("infra", "README.md", "# changed\n");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(asked(&forge, "infra"), (3, 2), "one commit for everybody");
    let heads = "for home in /home/*; do git -c safe.directory='*' -C $home/code rev-parse HEAD; done | sort | uniq -c";
    let heads = machine.sh(heads).ok();
    assert_eq!(heads.split_whitespace().collect::<Vec<_>>(), ["100", &forge.head("infra")]);
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!((steps(&machine), asked(&forge, "infra")), (vec![], (4, 2)), "nothing moved");
}

/// A person's own token opens what nobody else may see, and is asked with by that person's worker only.
#[test]
fn a_private_repository_is_asked_by_each_person_with_their_own_login() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let carol = "  carol: {authentik_user: carol, k8s_user: carol, tier: namespace-owner, namespaces: [carol-dev], \
                 code_layout: workspace, repos: [ledgerbook]}\n";
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{carol}"));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]).exits(3);
    let line = forge.credentials();
    machine.sh_as("carol", &format!("umask 077; echo '{}' > ~/.git-credentials", line.trim_end())).ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    forge.push("ledgerbook", "README.md", "# more\n");
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(
        machine.sh_as("carol", "git -C ~/code/ledgerbook rev-parse HEAD").ok().trim(),
        forge.head("ledgerbook")
    );
    assert!(!machine.sh("ls /var/cache/rosterd/mirror").ok().contains("ledgerbook-"), "it is not mirrored");
    let mirrored =
        machine.sh("find /var/cache/rosterd/mirror -name 'pack-*.pack' | grep -c ledgerbook || true").ok();
    assert_eq!(mirrored, "0\n");

    // The login does not work any more: the clone stays, its person is told, nobody is degraded.
    machine.sh_as("carol", "sed -i 's/carol:[^@]*@/carol:wrong@/' ~/.git-credentials").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    let told = notices(&machine);
    assert!(told["carol"].contains("~/code/ledgerbook is not refreshed"), "{told:#?}");
    assert!(!told["carol"].contains("wrong") && !told["carol"].contains("t0ken"), "{told:#?}");
}

/// Invariant 8: a remote that is down or hangs proves nothing about its refs.
#[test]
fn a_remote_that_cannot_be_read_changes_nothing_invariant_8() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    provision(&machine, &forge, &["ann", "bea"]);
    let refs = || machine.sh_as("ann", "git -C ~/code for-each-ref").ok();
    let before = refs();
    for (fail, hang, part) in [(true, false, "503"), (false, true, "does not answer")] {
        machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "bea"]));
        machine.run(&["rosterctl", "wait", "--timeout", "120"]).ok();
        forge.fail("infra", fail);
        forge.hang("infra", hang);
        // Whoever has a clone is as the roster says; the remote is told of once.
        machine.run(&["rosterctl", "reconcile"]).ok();
        let told = notices(&machine);
        assert!(
            told["(machine)"].contains("cannot be read") && told["(machine)"].contains(part),
            "{told:#?}"
        );
        assert_eq!((refs(), steps(&machine)), (before.clone(), vec![]));
        // Whoever has none is degraded, and says why, without asking again.
        let count = forge.requests("infra").len();
        machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "bea", "new"]));
        let _ = machine.run(&["rosterctl", "wait", "--timeout", "120"]).exits(3);
        let status = machine.run(&["rosterctl", "status", "--json"]).json();
        assert_eq!(status["subjects"]["new"]["state"], "degraded", "{status}");
        assert_eq!(status["subjects"]["ann"]["state"], "converged", "{status}");
        if fail {
            assert_eq!(forge.requests("infra").len(), count + 1);
        }
    }
    forge.hang("infra", false);
    machine.eventually("new gets a clone without anybody asking", Duration::from_secs(120), |machine| {
        machine.exists("/home/new/code/.git").then_some(())
    });
    assert!(!notices(&machine).contains_key("(machine)"));
}

/// Invariant 5: killed at any moment of the mirror's fetch and of the fast-forwards, the next run converges.
#[test]
fn killed_at_any_moment_of_a_refresh_the_next_run_converges_invariant_5() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    let users = ["u0", "u1", "u2", "u3"];
    provision(&machine, &forge, &users);
    for number in 0..30 {
        for file in 0..40 {
            std::fs::write(forge.work("infra").join(format!("f{file}")), format!("{number}\n")).unwrap();
        }
        forge.push("infra", "number", &format!("{number}\n"));
        let wait = f64::from(number) * 0.008;
        machine
            .sh(&format!(
                "rosterctl reconcile >/dev/null 2>&1 & sleep {wait:.3}; systemctl kill --kill-whom=all -s KILL rosterd"
            ))
            .ok();
        machine.eventually("rosterd is back", Duration::from_secs(20), |machine| {
            (machine.run(&["systemctl", "is-active", "rosterd"]).stdout == "active\n").then_some(())
        });
        // A half is never seen: each file is one number or the next.
        if number % 5 == 4 {
            machine.run(&["rosterctl", "reconcile"]).ok();
            for user in users {
                let git = |words: &str| machine.sh_as(user, &format!("git -C ~/code {words}")).ok();
                assert_eq!(git("rev-parse HEAD").trim(), forge.head("infra"), "{user} after {number}");
                assert_eq!(git("status --porcelain"), "", "{user} after {number}");
            }
        }
    }
    for user in users {
        machine.sh_as(user, "git -C ~/code fsck --full --strict --no-progress").ok();
    }
    let stray = "find /home /var/cache/rosterd \\( -name 'rosterd-fast-forward' -o -name '*.lock' -o -name '*unfinished*' \\)";
    assert_eq!(machine.sh(stray).ok(), "");
    // A mirror that a kill or a disk damaged hurts nobody: clones come from the server, and it is made anew.
    machine.sh("for f in /var/cache/rosterd/mirror/*/objects/pack/*.pack; do printf x | dd of=$f bs=1 seek=40 conv=notrunc status=none; done").ok();
    let mut all = users.to_vec();
    all.push("late");
    machine.write_file("/etc/rosterd/roster.yaml", roster(&all));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.sh_as("late", "git -C ~/code fsck --full --strict --no-progress").ok();
    assert!(steps(&machine).contains(&("(machine)".into(), "mirror/check".into())), "{:?}", steps(&machine));
    all.push("later");
    machine.write_file("/etc/rosterd/roster.yaml", roster(&all));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.sh_as("later", "git -C ~/code fsck --full --strict --no-progress").ok();
    let kinds: Vec<_> = steps(&machine).into_iter().map(|(_, kind)| kind).collect();
    assert!(
        kinds.contains(&"mirror/fetch".to_owned()) && !kinds.contains(&"mirror/check".to_owned()),
        "{kinds:?}"
    );
}

/// `rosterctl freshen`, as a launcher calls it: the same rules, and a session begins whatever happens.
#[test]
fn a_session_freshens_its_own_clones_and_begins_whatever_happens() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    provision(&machine, &forge, &["ann"]);
    forge.push("infra", "README.md", "# newer\n");
    let freshen = || machine.sh_as("ann", "timeout 30 rosterctl freshen").exits(0);
    assert_eq!(freshen().stderr, "");
    let head = || machine.sh_as("ann", "git -C ~/code rev-parse HEAD").ok().trim().to_owned();
    assert_eq!(head(), forge.head("infra"));
    assert_eq!(machine.sh_as("ann", "git -C ~/code status --porcelain").ok(), "");

    // What locks the clone comes back without a run.
    machine.sh_as("ann", "rm ~/code/.git/rosterd-locked").ok();
    assert_eq!(freshen().stderr, "");
    let refused = |script: &str| {
        let refused = machine.sh_as("ann", &format!("cd ~/code && {script} && git add secrets"));
        assert!(refused.status != 0 && refused.stderr.contains("this clone is locked"), "{refused}");
        machine
            .sh_as("ann", "cd ~/code && git checkout -- secrets && touch secrets/* && git status --porcelain")
            .ok()
    };
    assert_eq!(refused("echo plain >secrets/db"), "");
    assert_eq!(refused("echo changed >>secrets/db"), "");

    machine.sh_as("ann", "echo mine >> ~/code/README.md").ok();
    let before = head();
    forge.push("infra", "README.md", "# newer still\n");
    let said = freshen();
    assert!(said.stderr.contains("changes that are not committed"), "{said}");
    assert_eq!(head(), before);
    assert!(machine.sh_as("ann", "cat ~/code/README.md").ok().ends_with("mine\n"));

    forge.hang("infra", true);
    let said = freshen();
    assert!(said.stderr.contains("longer than 10 s") || said.stderr.contains("cannot be read"), "{said}");
    let said = machine.run(&["rosterctl", "freshen"]).exits(0);
    assert!(said.stderr.contains("not for root"), "{said}");
    machine.sh_as("ann", "rm -rf ~/code && mkfifo ~/code").ok();
    assert_eq!(freshen().stderr, "");
}
