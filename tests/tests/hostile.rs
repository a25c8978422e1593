//! Homes that are arranged against the machine, on a real one: root opens nothing below them, nothing outside changes,
//! nothing of theirs runs, and everybody else gets what the roster says.

use std::time::{Duration, Instant};

use machine_tests::{Forge, Machine, Suite, on_each_debian};

on_each_debian!(
    hostile_homes_hurt_nobody_but_themselves_invariant_3,
    a_worker_refuses_what_is_not_its_home_invariant_3,
);

/// A name for each trap, and the script that sets it, as root in the person's home.
const TRAPS: &[(&str, &str)] = &[
    ("etclink", "mv code was; ln -s /etc code"),
    ("homelink", "mv code was; ln -s /home/fay/code code"),
    ("gitlink", "mv code/.git was; ln -s /home/fay/code/.git code/.git"),
    ("conflink", "mv code/.git/config was; ln -s /home/fay/code/.git/config code/.git/config"),
    ("objlink", "mv code/.git/objects was; ln -s /home/fay/code/.git/objects code/.git/objects"),
    ("credlink", "rm .git-credentials; ln -s /etc/shadow .git-credentials; rm -rf .config; ln -s /etc .config"),
    ("conflink2", "rm .gitconfig; ln -s /etc/canary .gitconfig; ln -s /etc/canary .gitconfig.lock"),
    ("hardlink", "rm .gitconfig; ln /etc/canary .gitconfig; rm .git-credentials; ln /etc/canary .git-credentials"),
    ("movelink", "ln -s /etc .code.rosterd-moving; ln -s /etc .code.rosterd-unfinished"),
    ("fifo", "rm code/.git/config; mkfifo -m 666 code/.git/config; rm .gitconfig; mkfifo -m 666 .gitconfig"),
    ("closed", "chmod 0 code"),
    ("heap", "mkdir code/.git/worktrees code/.git/modules; cd code/.git/worktrees; seq 50000 | xargs touch"),
    ("worktree", "mkdir -p code/.git/worktrees/x; echo /home/fay/code/.git >code/.git/worktrees/x/gitdir"),
    (
        "programs",
        "run='touch /run/ran/programs'
         printf '#!/bin/sh\\n%s\\n' \"$run\" >hook; chmod 755 hook; mkdir hooks
         for name in post-checkout post-merge reference-transaction pre-push post-index-change; do
             cp hook hooks/$name; cp hook code/.git/hooks/$name
         done
         for file in .gitconfig code/.git/config; do
             printf '[core]\\n\\thooksPath = %s/hooks\\n\\tfsmonitor = %s/hook\\n\\tsshCommand = %s/hook\\n' $PWD $PWD $PWD >>$file
             printf '[credential]\\n\\thelper = !%s/hook\\n[filter \"git-crypt\"]\\n\\tclean = %s/hook\\n' $PWD $PWD >>$file
             printf '[filter \"git-crypt\"]\\n\\tsmudge = %s/hook\\n\\tprocess = %s/hook\\n' $PWD $PWD >>$file
             printf '[url \"ext::%s/hook \"]\\n\\tinsteadOf = http\\n' $PWD >>$file
         done",
    ),
];

/// Whoever changes `~/code` and a symlink, as fast as the machine can.
const RACER: &str = "perl -e 'while (1) { syscall(316, -100, \"code\", -100, \"evil\", 2) }'";

fn person(name: &str, more: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user{more}}}\n")
}

fn roster(workspace: bool) -> String {
    let more = if workspace { ", code_layout: workspace, repos: [website]" } else { "" };
    let mut text = String::from("users:\n");
    for (name, _) in TRAPS {
        text += &person(name, more);
    }
    text + &person("racer", more) + &person("good", more) + &person("fay", "")
}

fn hostile_homes_hurt_nobody_but_themselves_invariant_3(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let push = format!("[code.push_remote]\nname = \"forgejo\"\nurl = \"{}\"\n", forge.url("infra"));
    machine.write_file(
        "/etc/rosterd/config.toml",
        format!("{}{push}[worker]\ndeadline_s = 30\n", forge.config()),
    );
    machine.write_file("/etc/rosterd/roster.yaml", roster(false));
    machine.run(&["rosterctl", "wait", "--timeout", "200"]).ok();

    machine.sh("mkdir -m 1777 /run/ran; echo canary >/etc/canary; chmod 666 /etc/canary").ok();
    for (name, script) in TRAPS {
        // A link is the person's own, and so is what root made here.
        let own = "find . -user root ! -links +1 -exec chown -h OWNER {} +; find . -type l -exec chown -h OWNER {} +";
        let own = own.replace("OWNER", &format!("{name}:{name}"));
        machine.sh(&format!("cd /home/{name}; {script}; cd /home/{name}; {own}")).ok();
    }
    machine.sh_as("racer", "ln -s /etc evil").ok();
    machine
        .sh(&format!("systemd-run --quiet --uid=racer --working-directory=/home/racer --unit=racer {RACER}"))
        .ok();
    // Everybody can read this home and write to it: only rosterd's own care keeps a worker out.
    machine.sh("chmod 777 /home/fay /home/fay/code; chmod -R a+rwX /home/fay/code/.git").ok();
    let outside = "find /home/fay /etc/canary -printf '%p %i %m %U %s %T@ %C@\\n' | sort";
    let before = machine.sh(outside).ok();
    let etc = "cd /etc; find . -path ./rosterd -prune -o -path ./t3-serve -prune -o -path ./playwright-mcp -prune -o \\
               -type f ! -name 'passwd*' ! -name 'group*' ! -name '*shadow*' ! -name 'sub?id*' ! -name '.pwd.lock' \\
               ! -name 'ttyd-*' -exec sha256sum {} + -o -type l -print -o -type d -print | sort";
    let etc_before = machine.sh(etc).ok();

    // The daemon and all that it starts, as the kernel sees them.
    let pid = machine.run(&["systemctl", "show", "--value", "-p", "MainPID", "rosterd"]).ok();
    let trace = format!(
        "systemd-run --quiet --unit=trace strace -f -qq -y -s 256 -e trace=%file,setresuid -e signal=none \\
         -o /root/trace -p {}; sleep 1",
        pid.trim()
    );
    machine.sh(&trace).ok();
    let begun = Instant::now();
    machine.write_file("/etc/rosterd/roster.yaml", roster(true) + &person("new", ""));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "200"]);
    let _ = machine.run(&["rosterctl", "reconcile"]);
    // 18 homes, four at a time, under a tracer; one that hung would take its whole deadline, twice.
    println!("{suite}: two runs in {:?}", begun.elapsed());
    machine.sh("systemctl stop trace racer").ok();

    // Nothing outside: not a byte, not an owner, not a time.
    assert_eq!(machine.sh(outside).ok(), before);
    assert_eq!(machine.sh(etc).ok(), etc_before);
    assert_eq!(machine.sh("ls /run/ran").ok(), "", "something of a home ran");
    root_stayed_out(&machine.read_file("/root/trace"));

    // Everybody else has what the roster says.
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    for name in ["good", "new", "fay"] {
        assert_eq!(status["subjects"][name]["state"], "converged", "{name}: {status}");
    }
    for (user, path) in [("good", "code/infra"), ("good", "code/website"), ("new", "code")] {
        assert_eq!(machine.sh_as(user, &format!("git -C ~/{path} status --porcelain")).ok(), "", "{user}");
    }
    // And of those, nobody lost anything.
    for (name, kept) in [("etclink", "was/README.md"), ("closed", "code"), ("gitlink", "code/README.md")] {
        assert!(machine.exists(&format!("/home/{name}/{kept}")), "{name}");
    }
    let racer =
        machine.sh("find /home/racer -name README.md -path '*code*' -o -name README.md -path '*evil*'").ok();
    assert!(!racer.is_empty(), "the racer's clone is gone");
    for (user, said) in [
        ("etclink", "~/code is a symlink"),
        ("credlink", "~/.git-credentials is a symlink"),
        ("conflink2", "~/.gitconfig is not read: it is a symlink"),
        ("hardlink", "~/.gitconfig is not read: it belongs to uid 0"),
        ("fifo", "its .git/config: it is a FIFO"),
        ("closed", "permission denied"),
        ("heap", "it has too many worktrees"),
    ] {
        let told = machine.sh(&format!("journalctl --quiet --no-pager ROSTERD_USER={user}")).ok();
        assert!(told.contains(said), "{user}:\n{told}");
    }
    machine.eventually("the daemon is well", Duration::from_secs(10), |machine| {
        (machine.run(&["systemctl", "is-active", "rosterd"]).stdout == "active\n").then_some(())
    });
}

/// No process names a path below a home before it has become a user for good.
fn root_stayed_out(trace: &str) {
    let (mut users, mut below, mut by_root) = (std::collections::BTreeSet::new(), 0, Vec::new());
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("setresuid(") && !call.contains("setresuid(0") {
            users.insert(pid.to_owned());
        }
        if users.contains(pid) {
            below += 1;
        } else if names_a_path_in_a_home(call) {
            by_root.push(line);
        }
    }
    assert!(by_root.is_empty(), "root was in a home:\n{}", by_root.join("\n"));
    assert!(
        users.len() > 20 && below > 1000,
        "the trace shows no work: {} workers, {below} calls",
        users.len()
    );
}

/// By a whole path, or from a descriptor of a home or of a folder in it.
fn names_a_path_in_a_home(call: &str) -> bool {
    // A new home is made with all that is in it in a folder of root's own beside it, and moved into place whole.
    let is_home = |name: &str| !name.is_empty() && !name.starts_with('.');
    let by_path = call.split('"').skip(1).step_by(2).any(|path| {
        let rest = path.strip_prefix("/home/").and_then(|rest| rest.split_once('/'));
        rest.is_some_and(|(name, rest)| is_home(name) && !rest.is_empty())
    });
    let by_descriptor = call.split("</home/").skip(1).any(|rest| {
        let (folder, rest) = rest.split_once('>').unwrap_or((rest, ""));
        is_home(folder) && rest.starts_with(", \"") && !rest.starts_with(", \"\"")
    });
    by_path || by_descriptor
}

#[test]
fn what_counts_as_a_path_in_a_home() {
    for call in [
        r#"openat(AT_FDCWD</>, "/home/ana/.gitconfig", O_RDONLY) = 3</home/ana/.gitconfig>"#,
        r#"openat(5</home/ana>, "code", O_RDONLY) = -1 ENOENT"#,
        r#"unlinkat(5</home/ana/code>, "x", 0) = 0"#,
    ] {
        assert!(names_a_path_in_a_home(call), "{call}");
    }
    for call in [
        r#"newfstatat(5</home>, "ana", {st_mode=S_IFDIR}, AT_SYMLINK_NOFOLLOW) = 0"#,
        r#"openat(5</home/.ana.rosterd>, ".profile", O_WRONLY) = 6</home/.ana.rosterd/.profile>"#,
        r#"newfstatat(5</home/ana>, "", {st_mode=S_IFDIR}, AT_EMPTY_PATH) = 0"#,
        r#"statx(AT_FDCWD</>, "/home/ana", AT_SYMLINK_NOFOLLOW) = 0"#,
    ] {
        assert!(!names_a_path_in_a_home(call), "{call}");
    }
}

/// The worker's own door, opened by hand: whom it becomes, where, and what it may be told.
fn a_worker_refuses_what_is_not_its_home_invariant_3(suite: Suite) {
    let machine = Machine::bare(suite);
    std::fs::copy(machine_tests::deb(), machine.root().join("root/rosterd.deb")).unwrap();
    machine.sh("dpkg --install /root/rosterd.deb; useradd -m ana; useradd -m bob; chmod 777 /home/bob").ok();
    machine
        .sh("ln -s /home/bob /home/ana/bob; chown -h ana: /home/ana/bob; echo theirs >/home/bob/file")
        .ok();
    let uid = machine.run(&["id", "-u", "ana"]).ok().trim().to_owned();
    let become_ana = |uid: &str, home: &str| {
        format!(
            r#"{{"Become":{{"user":"ana","uid":{uid},"gid":{uid},"groups":[],"home":"{home}","memory_mib":256,"max_clone_mib":64,"deadline_s":20,"task":{{"Home":{{"mirrors":"/var/cache/rosterd/mirror"}}}}}}}}"#
        )
    };
    let ask = |lines: &[String]| {
        let lines = lines.join("\n");
        machine.sh(&format!("printf '%s\\n' '{lines}' | timeout 30 /usr/lib/rosterd/rosterd-worker")).stdout
    };
    for (uid, home, said) in [
        ("0", "/home/ana", "is a system account"),
        ("65534", "/home/ana", "is a system account"),
        (&*uid, "/home/bob", "it belongs to uid"),
        (&*uid, "/etc", "it belongs to uid 0"),
        (&*uid, "/home/ana/bob", "not a folder but a symlink"),
        (&*uid, "../home/ana", "is no absolute path"),
    ] {
        let answer = ask(&[become_ana(uid, home)]);
        assert!(answer.contains("Failed") && answer.contains(said), "{uid} {home}: {answer}");
    }
    let apply = |action: &str| format!(r#"{{"Apply":{action}}}"#);
    let before = machine.sh("find /home/bob -printf '%p %i %s %T@ %C@\\n' | sort").ok();
    for action in [
        r#"{"what":"make-folder","path":"../bob/x"}"#,
        r#"{"what":"make-folder","path":"bob/x"}"#,
        r#"{"what":"make-folder","path":"/home/bob/x"}"#,
        r#"{"what":"remove-unfinished","path":"../bob"}"#,
        r#"{"what":"remove-unfinished","path":"bob/.x.rosterd-unfinished"}"#,
        r#"{"what":"clone","path":"bob/x","url":"http://127.0.0.1:1/x.git","locked":false}"#,
        r#"{"what":"move","move":"clone","from":"bob/file","through":".x.rosterd-moving","to":"mine"}"#,
        r#"{"what":"move","move":"clone","from":"../bob","through":".x.rosterd-moving","to":"mine"}"#,
        r#"{"what":"move","move":"clean-up","path":"../bob"}"#,
        r#"{"what":"wire","wire":"set","file":"bob/.gitconfig","settings":[["user.name","x"]]}"#,
        r#"{"what":"wire","wire":"set","file":"../bob/.gitconfig","settings":[["user.name","x"]]}"#,
        r#"{"what":"wire","wire":"lock","clone":"bob/code","driver":"git-crypt"}"#,
        r#"{"what":"wire","wire":"clean-up","file":"bob/file"}"#,
    ] {
        let answer = ask(&[become_ana(&uid, "/home/ana"), apply(action)]);
        assert!(answer.contains("Ready") && answer.contains("Failed"), "{action}: {answer}");
    }
    assert_eq!(machine.sh("find /home/bob -printf '%p %i %s %T@ %C@\\n' | sort").ok(), before);
}
