//! What people are promised: a reboot costs nothing, losses and closes are told apart, what is live is left alone.

use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};

use crate::{PEOPLE, capture, ctl, id, machine, tmux};

on_each_debian!(
    a_reboot_costs_nothing,
    a_restored_server_outlives_what_started_it,
    losses_and_closes_are_told_apart,
    restores_leave_alone_what_is_live,
    one_persons_server_is_nobody_elses_trouble,
    nobody_gets_anothers_sessions,
    the_picker_works_in_a_small_terminal,
);

/// Twenty sessions with every kind of attribution.
fn plant(machine: &Machine) {
    for (number, user) in PEOPLE.iter().enumerate() {
        let number = u32::try_from(number).unwrap() * 10;
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| id(number + n));
        let projects = "$HOME/.claude/projects";
        let slug = |folder: &str| format!("{projects}/-home-{user}-{folder}");
        tmux(
            machine,
            user,
            &format!(
                r#"set -e
                mkdir -p ~/a.b ~/guess ~/only ~/'deep folder/#(x)'
                tmux new-session -d -s stamped -c ~/a.b -x 150 -y 50 claude --session-id {b}
                tmux split-window -h -t =stamped: -c ~/guess
                tmux split-window -v -t =stamped: -c ~/'deep folder'
                tmux new-window -t =stamped:7 -n 'edit #1' 'nano -v /etc/hostname'
                tmux new-window -t =stamped: -c ~/'deep folder/##(x)'
                tmux select-window -t =stamped:7
                tmux new-session -d -s argued -c ~/a.b claude --name argued --resume {c}
                tmux split-window -t =argued: -c ~/only
                tmux resize-pane -Z -t =argued:
                tmux new-session -d -s guessed -c ~/guess claude
                tmux new-session -d -s 007 -c ~/only claude
                tmux new-session -d -s 'warm spare'
                for i in 1 2 3 4 5 6 7 8 9 10; do
                    [ -d {guess} ] && [ -d {only} ] && [ -d {ab} ] && break; sleep 0.2
                done
                echo '{{"cwd":"'$HOME'/a.b"}}' >{ab}/{a}.jsonl
                tmux set-option -t =stamped: @claude_transcript {ab}/{a}.jsonl
                echo '{{"agentName":"guessed"}}' >{guess}/{d}.jsonl
                echo '{{"agentName":"other"}}' >{guess}/{other}.jsonl
                echo '{{}}' >{only}/{only_id}.jsonl
                "#,
                ab = slug("a-b"),
                guess = slug("guess"),
                only = slug("only"),
                other = id(number + 8),
                only_id = id(number + 5),
            ),
        );
    }
}

fn a_reboot_costs_nothing(suite: Suite) {
    let mut machine = machine(suite);
    plant(&machine);
    let before = machine.eventually("the panes are where they belong", Duration::from_secs(20), |machine| {
        let before = capture(machine, "before");
        before
            .iter()
            .all(|saved| saved.contains("nano") && saved.matches("conversation").count() == 4)
            .then_some(before)
    });
    for (number, saved) in before.iter().enumerate() {
        let number = u32::try_from(number).unwrap() * 10;
        for wanted in [1, 3, 4, 5].map(|n| id(number + n)) {
            assert!(saved.contains(&wanted), "{wanted} in {saved}");
        }
        assert_eq!(saved.lines().count(), 4, "four sessions and no warm spare: {saved}");
    }
    // No save is asked for: the shutdown does it.
    machine.sh("rm -rf /var/lib/tmux-persist/users").ok();
    machine.reboot();
    assert_eq!(machine.run(&["systemctl", "is-active", "rosterd-tmux-restore"]).stdout, "active\n");
    machine.eventually("all is as before", Duration::from_secs(30), |machine| {
        (capture(machine, "after") == before).then_some(())
    });
    // Conversations were resumed, by the name of their session, where they were.
    for (number, user) in PEOPLE.iter().enumerate() {
        let number = u32::try_from(number).unwrap() * 10;
        let log = machine.read_file(&format!("/home/{user}/claude.log"));
        for (folder, session, n) in
            [("a.b", "stamped", 1), ("a.b", "argued", 3), ("guess", "guessed", 4), ("only", "007", 5)]
        {
            let line = format!("/home/{user}/{folder}|--resume {} --name {session}", id(number + n));
            assert_eq!(log.lines().filter(|l| *l == line).count(), 1, "{line} in:\n{log}");
        }
        assert_eq!(log.lines().count(), 8, "no fresh chat and none twice:\n{log}");
    }
    // Nothing is left to do, and nothing to save.
    ctl(&machine, "save").ok();
    let restored = ctl(&machine, "restore --tsv").ok();
    assert!(restored.lines().all(|line| line.contains("\tleft_alone\t")), "{restored}");
    assert_eq!(restored.lines().count(), 20);
    machine.power_off_hard();
    machine.boot();
    // After a power cut too, from what the last save left.
    machine.eventually("all is as before", Duration::from_secs(30), |machine| {
        (capture(machine, "again") == before).then_some(())
    });
}

fn a_restored_server_outlives_what_started_it(suite: Suite) {
    let machine = machine(suite);
    tmux(
        &machine,
        "ann",
        "tmux new-session -d -s work -c /tmp claude --session-id 00000000-0000-4000-8000-000000000001",
    );
    machine.eventually("it is saved", Duration::from_secs(10), |machine| {
        ctl(machine, "save").ok();
        ctl(machine, "snapshot --user ann --tsv").ok().contains("000000000001").then_some(())
    });
    tmux(&machine, "ann", "tmux kill-server");
    // One that cannot start is told with systemd's reason.
    machine.sh("chmod 700 /usr/bin/tmux").ok();
    let told = ctl(&machine, "restore --user ann").exits(1).stderr;
    assert!(told.contains("Job for rosterd-tmux-ann-") && told.contains(" failed"), "{told}");
    machine.sh("chmod 755 /usr/bin/tmux").ok();
    machine.sh("systemctl restart rosterd-tmux-restore").ok();
    let pid = || machine.sh_as("ann", "tmux display-message -p -t =work: '#{pid}'").stdout.trim().to_owned();
    let server = pid();
    let cgroup = machine.read_file(&format!("/proc/{server}/cgroup"));
    assert!(cgroup.contains("/user.slice/user-") && cgroup.contains("/rosterd-tmux-ann-"), "{cgroup}");
    // The machine has filters of its own; the server has no others than its systemd.
    let confinement = |pid: &str| {
        let status = machine.read_file(&format!("/proc/{pid}/status"));
        let lines =
            status.lines().filter(|line| line.starts_with("NoNewPrivs") || line.starts_with("Seccomp"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(confinement(&server), confinement("1"));
    let limits = machine.read_file(&format!("/proc/{server}/limits"));
    assert!(!limits.contains("Max processes             0"), "{limits}");

    machine.sh("systemctl restart rosterd-tmux-restore; systemctl stop rosterd-tmux-restore rosterd-tmux-save.timer").ok();
    assert_eq!(pid(), server);
    // A login and its end, with logind's clean-up of the person.
    machine.sh_as("ann", "true").ok();
    machine
        .sh("id=$(id -u ann); systemctl start user@$id; systemctl stop user@$id user-runtime-dir@$id")
        .ok();
    assert_eq!(pid(), server);
    std::fs::copy(machine_tests::deb(), machine.root().join("root/rosterd.deb")).unwrap();
    machine.sh("dpkg --install /root/rosterd.deb").ok();
    assert_eq!(pid(), server);
    // When the person ends it, the unit goes.
    tmux(&machine, "ann", "tmux kill-server");
    machine.eventually("the unit is gone", Duration::from_secs(20), |machine| {
        (machine.sh("systemctl list-units --plain --no-legend 'rosterd-tmux-ann-*'").ok().is_empty())
            .then_some(())
    });
}

fn losses_and_closes_are_told_apart(suite: Suite) {
    let machine = machine(suite);
    let sessions = |machine: &Machine| {
        let mut all: Vec<String> = machine
            .sh_as("ann", "tmux list-sessions -F '#{session_name}' 2>/dev/null")
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();
        all.sort();
        all.join(" ")
    };
    tmux(&machine, "ann", "for s in a b c d e; do tmux new-session -d -s $s; done");
    ctl(&machine, "save --now 1700000000").ok();

    // Killed as the kernel kills for memory: the socket stays, nothing is saved over the good snapshot.
    machine.sh("pkill -KILL -u ann tmux; test -S /tmp/tmux-$(id -u ann)/default").ok();
    assert!(ctl(&machine, "save --user ann --now 1700000300").ok().contains("no session"));
    ctl(&machine, "restore --user ann").ok();
    assert_eq!(sessions(&machine), "a b c d e");

    // A save in the middle of a loss is kept and not restored from.
    tmux(&machine, "ann", "for s in a b c d; do tmux kill-session -t =$s; done");
    let held = ctl(&machine, "save --user ann --tsv --now 1700000600").ok();
    assert_eq!(held, "ann\theld\t20231114T222320\t1\n");
    assert!(ctl(&machine, "snapshots --user ann --tsv").ok().contains("20231114T221320\t5\tnewest\n"));
    ctl(&machine, "restore --user ann").ok();
    assert_eq!(sessions(&machine), "a b c d e");
    ctl(&machine, "save --user ann --now 1700000900").ok();

    // What was closed on purpose stays closed, and can still be chosen.
    tmux(&machine, "ann", "tmux kill-session -t =b; tmux kill-session -t =c; tmux kill-session -t =d");
    for name in ["b", "c"] {
        ctl(&machine, &format!("forget --user ann {name}")).ok();
    }
    ctl(&machine, "restore --user ann").ok();
    assert_eq!(sessions(&machine), "a d e");
    let rows = ctl(&machine, "snapshot --user ann --tsv").ok();
    let b = rows.lines().find(|line| line.starts_with("b\t")).unwrap();
    assert!(b.contains("\tmissing\tnew\tb\toff\tkilled@"), "{rows}");
    let newest = ctl(&machine, "snapshots --user ann --tsv").ok();
    let newest =
        newest.lines().find(|line| line.ends_with("newest")).unwrap().split('\t').next().unwrap().to_owned();
    let refused = ctl(&machine, &format!("restore-selection --user ann {newest} b nope")).exits(1);
    assert!(refused.stderr.contains("nope"), "{refused}");
    assert_eq!(sessions(&machine), "a d e", "all or nothing");
    ctl(&machine, &format!("restore-selection --user ann {newest} b")).ok();
    assert_eq!(sessions(&machine), "a b d e");
    // From any snapshot, by its exact name.
    ctl(&machine, "restore-one --user ann c").ok();
    assert_eq!(sessions(&machine), "a b c d e");
    let _ = ctl(&machine, "restore-one --user ann 0").exits(1);
    let history = ctl(&machine, "history --user ann --tsv").ok();
    assert_eq!(history.lines().filter(|line| line.contains("\talive\t")).count(), 5, "{history}");
}

fn restores_leave_alone_what_is_live(suite: Suite) {
    let machine = machine(suite);
    let [x, y, z] = [1, 2, 3].map(id);
    tmux(
        &machine,
        "ann",
        &format!(
            "mkdir -p ~/p; cd ~/p; for i in {x} {y}; do tmux new-session -d -s s-$(echo $i | tail -c 2) -c ~/p claude --session-id $i; done; \
         tmux new-session -d -s long-name-of-thirty-two-letter-x -c ~/p claude --session-id {z}"
        ),
    );
    machine.eventually("three conversations are saved", Duration::from_secs(10), |machine| {
        ctl(machine, "save --now 1700000000 --user ann").ok();
        let rows = ctl(machine, "snapshot --user ann --tsv").ok();
        (rows.matches("00000000-").count() == 3).then_some(()).or_else(|| {
            machine.sh("rm -rf /var/lib/tmux-persist/users/ann").ok();
            None
        })
    });
    // One is live with another conversation, one's claude died and left a shell, and the third's name is long.
    let fresh = id(9);
    tmux(
        &machine,
        "ann",
        &format!(
            "tmux kill-server; sleep 0.3; cd ~/p; tmux new-session -d -s s-1 -c ~/p claude --session-id {fresh}; tmux new-session -d -s s-2 -c ~; \
         tmux new-session -d -s s-22 -c ~; tmux new-session -d -s long-name-of-thirty-two-letter-x -c ~/p claude --session-id {}",
            id(8)
        ),
    );
    // What is half typed is somebody's, as long as it is.
    tmux(&machine, "ann", "sleep 1; tmux send-keys -t =s-2: -l 'half typed'");
    machine.eventually("it is left alone", Duration::from_secs(10), |machine| {
        ctl(machine, "snapshot --user ann --tsv").ok().contains("\tsuffixed\ts-2-2213\t").then_some(())
    });
    tmux(&machine, "ann", "tmux send-keys -t =s-2: C-u");
    let rows = machine.eventually("all are live", Duration::from_secs(10), |machine| {
        let rows = ctl(machine, "snapshot --user ann --tsv").ok();
        (rows.matches("live_other_conv").count() == 2 && rows.contains("live_no_claude")).then_some(rows)
    });
    assert!(rows.contains("\tsuffixed\ts-1-2213\ton"), "{rows}");
    assert!(rows.contains("\tsuffixed\tlong-name-of-thirty-two-let-2213\ton"), "{rows}");
    assert!(rows.contains("\tlive_no_claude\tin_place\ts-2\ton"), "{rows}");
    ctl(&machine, "restore --user ann").ok();
    let log = machine.eventually("all are resumed", Duration::from_secs(20), |machine| {
        let log = machine.read_file("/home/ann/claude.log");
        (log.matches("--resume").count() == 3).then_some(log)
    });
    for (id, name) in [(&x, "s-1-2213"), (&y, "s-2"), (&z, "long-name-of-thirty-two-let-2213")] {
        assert!(log.contains(&format!("/home/ann/p|--resume {id} --name {name}\n")), "{log}");
    }
    assert!(!tmux(&machine, "ann", "tmux capture-pane -p -t =s-22:").contains("resume"), "an exact target");
    let again = ctl(&machine, "restore --user ann --tsv").ok();
    assert!(again.lines().all(|line| line.contains("\tleft_alone\t")), "{again}");

    // A conversation whose transcript is gone, a folder that is gone, and no claude at all.
    ctl(&machine, "save --user ann").ok();
    tmux(&machine, "ann", &format!("tmux kill-server; rm ~/.claude/projects/*/{x}.jsonl"));
    machine.sh("mv /usr/local/bin/claude /usr/local/bin/claude.away").ok();
    ctl(&machine, "restore --user ann").ok();
    let screen = |session: &str| machine.sh_as("ann", &format!("tmux capture-pane -p -t ={session}:")).stdout;
    machine.eventually("the panes say it", Duration::from_secs(20), |_| {
        let gone = screen("s-1-2213");
        let missing = screen("s-2");
        (gone.contains(&x) && gone.contains("is gone") && missing.contains("resumes with: claude --resume"))
            .then_some(())
    });
    let shells = tmux(&machine, "ann", "tmux list-panes -a -F '#{pane_current_command}'");
    assert!(shells.lines().all(|shell| shell == "bash"), "{shells}");
    // A name that is taken between the look and the deed is not touched: the person's own file makes it.
    ctl(&machine, "save --user ann").ok();
    tmux(&machine, "ann", "tmux kill-server; echo 'new-session -d -s s-22 \"sleep 5000\"' >~/.tmux.conf");
    let told = ctl(&machine, "restore --user ann --tsv").exits(0);
    let panes = tmux(&machine, "ann", "tmux list-panes -t =s-22: -F '#{pane_current_command}'");
    assert_eq!(panes, "sleep\n", "{told}");
}

fn one_persons_server_is_nobody_elses_trouble(suite: Suite) {
    let machine = machine(suite);
    for user in PEOPLE {
        tmux(&machine, user, "tmux new-session -d -s work");
    }
    // One hangs, one is a socket that nobody answers, one is a FIFO, one has a disk that is full.
    machine.sh("pkill -STOP -u ann tmux").ok();
    machine.sh("pkill -KILL -u bob tmux; rm /tmp/tmux-$(id -u bob)/default; mkfifo /tmp/tmux-$(id -u bob)/default; chown bob /tmp/tmux-$(id -u bob)/default").ok();
    machine.sh("mkdir -p /var/lib/tmux-persist/users/cyd; mount -t tmpfs -o size=64k,uid=$(id -u cyd),mode=700 tmpfs /var/lib/tmux-persist/users/cyd; su cyd -s /bin/sh -c 'head -c 1M /dev/zero >/var/lib/tmux-persist/users/cyd/full' || true").ok();
    let output = ctl(&machine, "save --tsv").exits(1);
    let saved: Vec<&str> = output.stdout.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(saved, ["bob", "dan", "eve"], "{output}");
    assert!(output.stdout.starts_with("bob\tnone\t-\t-\n"), "{output}");
    for (user, why) in [("ann", "did not answer within"), ("cyd", "No space left")] {
        let line = output.stderr.lines().find(|line| line.contains(&format!("error: {user}: ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{user}: {output}");
    }
    let left = machine.sh("find /var/lib/tmux-persist/users -name '.*.new'").ok();
    assert_eq!(left, "");
    assert_eq!(machine.sh("pgrep -u ann -f list-panes || true").ok(), "", "the call that hung was ended");
    // It mends itself.
    machine.sh("pkill -CONT -u ann tmux; umount /var/lib/tmux-persist/users/cyd; rm /tmp/tmux-$(id -u bob)/default").ok();
    let output = ctl(&machine, "save --tsv").ok();
    assert_eq!(output.matches("\tstored\t").count(), 2, "{output}");

    // Eight at once write one snapshot; foreign files stay; the clock may go back.
    tmux(&machine, "eve", "tmux new-session -d -s more");
    let place = "/var/lib/tmux-persist/users/eve/snapshots";
    machine
        .sh(&format!("echo x >{place}/notes; mkdir {place}/20990101T000000; ls {place} | wc -l >/root/count"))
        .ok();
    machine.sh("for i in 1 2 3 4 5 6 7 8; do rosterctl tmux save --user eve & done; wait").ok();
    assert_eq!(machine.sh(&format!("echo $(( $(ls {place} | wc -l) - $(cat /root/count) ))")).ok(), "1\n");
    tmux(&machine, "eve", "tmux kill-session -t =more");
    ctl(&machine, "save --user eve --now 1000").ok();
    let listed = ctl(&machine, "snapshots --user eve --tsv").ok();
    assert!(listed.lines().next().unwrap().ends_with("\t1\tnewest"), "{listed}");
    assert_eq!(listed.lines().count(), 3);
    assert_eq!(
        machine.sh(&format!("cat {place}/notes; ls -d {place}/20990101T000000")).ok(),
        format!("x\n{place}/20990101T000000\n")
    );

    // Hostile names: of folders, windows and titles.
    tmux(
        &machine,
        "dan",
        r#"
        mkdir -p "$(printf 'tab\tline\nesc\033[2J')"; cd "$(printf 'tab\tline\nesc\033[2J')"
        tmux new-session -d -s odd -c "$PWD" -n "$(printf 'w\tx\033]0;y')"
        tmux set-option -t =odd: @claude_transcript "$(printf '/x\n<a>\tb')"
    "#,
    );
    ctl(&machine, "save --user dan").ok();
    let rows = ctl(&machine, "snapshot --user dan --tsv").ok();
    let odd = rows.lines().find(|line| line.starts_with("odd\t")).unwrap();
    assert_eq!(odd.split('\t').nth(1).unwrap(), r"/home/dan/tab\tline\nesc\x1b[2J", "{rows}");
    assert!(rows.lines().all(|line| line.split('\t').count() == 8), "{rows}");
    assert!(!ctl(&machine, "snapshot --user dan").ok().contains('\u{1b}'));
    let before = machine.sh("tail -n +2 /var/lib/tmux-persist/users/dan/newest").ok();
    tmux(&machine, "dan", "tmux kill-server");
    ctl(&machine, "restore --user dan").ok();
    machine.eventually("the odd one is as before", Duration::from_secs(10), |machine| {
        machine.sh("rm -rf /srv/odd; rosterctl tmux save --user dan --state /srv/odd").ok();
        (machine.sh("tail -n +2 /srv/odd/users/dan/newest").ok() == before).then_some(())
    });
}

fn nobody_gets_anothers_sessions(suite: Suite) {
    let machine = machine(suite);
    tmux(&machine, "ann", "tmux new-session -d -s work");
    ctl(&machine, "save").ok();
    // Each for themself, with the same store.
    assert!(tmux(&machine, "ann", "rosterctl tmux snapshots --tsv").ends_with("\t1\tnewest\n"));
    tmux(
        &machine,
        "ann",
        "tmux new-session -d -s mine; rosterctl tmux save; tmux kill-server; rosterctl tmux restore",
    );
    assert_eq!(tmux(&machine, "ann", "tmux list-sessions -F '#{session_name}'"), "mine\nwork\n");
    assert_eq!(machine.sh_as("bob", "rosterctl tmux snapshots --user ann").status, 2);
    assert_ne!(machine.sh_as("bob", "cat /var/lib/tmux-persist/users/ann/newest").status, 0);
    assert_eq!(machine.sh_as("bob", "rosterctl tmux worker <<<'{\"work\":{}}'").status, 1);
    for who in ["root", "nobody", "zoe", "../ann"] {
        let _ = ctl(&machine, &format!("save --user {who}")).exits(2);
    }
    // Links in bob's store and home lead root nowhere: what follows them is bob.
    machine.sh("install -d -o ann -g ann -m 700 /root/secret; echo s >/root/secret/x").ok();
    tmux(
        &machine,
        "bob",
        "cd /var/lib/tmux-persist/users/bob; rm -rf snapshots newest; ln -s /root/secret snapshots; ln -s /etc/shadow newest; ln -s /etc/shadow forgotten",
    );
    let told = ctl(&machine, "save --user bob").exits(1);
    assert!(!told.stdout.contains("root:") && !told.stderr.contains("root:"), "{told}");
    assert_eq!(machine.sh("ls /root/secret").ok(), "x\n");

    // The earlier layout is carried over, once, and stays as it is.
    let old = "/var/lib/tmux-persist";
    machine.sh(&format!(
        "mkdir -m 700 -p {old}/snapshots/cyd; printf 'one\\t/tmp\\t-\\n007\\t/home/cyd\\t{}\\n' >{old}/snapshots/cyd/20260301T120000.tsv; \
         printf 'one\\t/tmp\\t-\\n' >{old}/snapshots/cyd/20260301T120500.tsv; ln -s snapshots/cyd/20260301T120500.tsv {old}/cyd.tsv; \
         printf 'one\\t1900000000\\n' >{old}/cyd.forgotten.tsv; rm -rf {old}/users/cyd", id(1)
    ))
    .ok();
    assert_eq!(
        ctl(&machine, "snapshots --user cyd --tsv").ok(),
        "20260301T120500\t1\tnewest\n20260301T120000\t2\t-\n"
    );
    assert!(ctl(&machine, "snapshot --user cyd --tsv").ok().contains("\tone\toff\tkilled@1900000000\n"));
    ctl(&machine, "restore-one --user cyd 007").ok();
    assert_eq!(tmux(&machine, "cyd", "tmux list-sessions -F '#{session_name}'"), "007\n");
    assert_eq!(machine.sh(&format!("ls {old}/snapshots/cyd | wc -l")).ok(), "2\n");

    // One call of tmux for a person, however many sessions; the rest is read from /proc.
    tmux(&machine, "ann", "for i in $(seq 40); do tmux new-session -d -s many-$i; done");
    machine.sh("strace -f -e trace=execve -o /root/trace rosterctl tmux save --user ann").ok();
    let started = machine.sh("grep -c ' = 0$' /root/trace").ok();
    assert_eq!(started.trim(), "3", "rosterctl, its worker, tmux:\n{}", machine.read_file("/root/trace"));

    // Whoever can trace that tmux, as its person can from its first instruction on, finds it limited already.
    machine.sh("strace -f -e trace=execve,prlimit64 -o /root/trace rosterctl tmux save --user ann").ok();
    let trace = machine.read_file("/root/trace");
    let at = |what: &str| trace.lines().position(|line| line.contains(what));
    let (limited, started) = (at("RLIMIT_NPROC, {rlim_cur=0, rlim_max=0}"), at("[\"tmux\", \"-u\""));
    assert!(limited.is_some() && limited < started, "{trace}");
}

fn the_picker_works_in_a_small_terminal(suite: Suite) {
    let machine = machine(suite);
    // Before root's first save there is nothing, which is no failure.
    let yet = "rosterctl tmux snapshots && rosterctl tmux history && rosterctl tmux restore";
    assert_eq!(
        machine.sh_as("ann", yet).ok(),
        "no snapshot yet; `rosterctl tmux save` makes one\nno session was ever saved\nann: there is no snapshot yet\n"
    );
    ctl(&machine, "save").ok();
    tmux(
        &machine,
        "ann",
        "for s in alpha beta gamma; do tmux new-session -d -s $s; done; rosterctl tmux save; tmux kill-session -t =alpha; tmux kill-session -t =gamma; rosterctl tmux forget gamma",
    );
    // Another server is the person's terminal.
    tmux(
        &machine,
        "ann",
        "tmux -L terminal new-session -d -s t -x 80 -y 24 'bash --norc'; tmux -L terminal send-keys -t t 'rosterctl tmux restore --pick; echo ended $?' Enter",
    );
    let screen = |machine: &Machine| machine.sh_as("ann", "tmux -L terminal capture-pane -p -t t").stdout;
    let shown = machine.eventually("the picker is drawn", Duration::from_secs(10), |machine| {
        let shown = screen(machine);
        shown.contains("Enter to the sessions").then_some(shown)
    });
    for line in ["[x] alpha", "    beta", "[ ] gamma", "closed on purpose since", "1 ticked"] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80) && shown.lines().count() <= 24, "{shown}");
    // To the rows, to the last of them, tick it, restore.
    tmux(&machine, "ann", "tmux -L terminal send-keys -t t Tab End Space Enter");
    machine.eventually("it has restored", Duration::from_secs(20), |machine| {
        screen(machine).contains("ended 0").then_some(())
    });
    assert_eq!(tmux(&machine, "ann", "tmux list-sessions -F '#{session_name}'"), "alpha\nbeta\ngamma\n");
    tmux(&machine, "ann", "tmux -L terminal kill-server");
    let refused = machine.sh_as("ann", "rosterctl tmux restore --pick </dev/null");
    assert!(refused.status == 1 && refused.stderr.contains("needs a terminal"), "{refused}");
}
