//! What somebody else, or the person in the very moment, may do while sessions are looked at; and other set-ups.

use std::time::Duration;

use machine_tests::{Suite, on_each_debian};

use crate::{PEOPLE, ctl, id, machine, tmux};

on_each_debian!(
    a_folder_of_sockets_that_somebody_else_made_is_not_entered,
    a_server_that_hangs_holds_nobody_up,
    what_a_server_makes_of_a_client_of_roots_is_gone_when_the_job_is,
    a_session_renamed_between_look_and_deed_is_not_typed_into,
    a_zsh_that_has_no_file_yet_resumes_instead_of_asking_for_one,
    every_option_of_another_set_up_is_heeded,
    what_panes_showed_comes_back_when_the_configuration_says_so,
    the_picker_works_over_ssh,
);

fn a_folder_of_sockets_that_somebody_else_made_is_not_entered(suite: Suite) {
    let machine = machine(suite);
    tmux(&machine, "cyd", "tmux new-session -d -s work");
    // bob was first: his server waits where ann's would.
    tmux(
        &machine,
        "bob",
        "mkdir -m 777 /tmp/trap; tmux -S /tmp/trap/default new-session -d -s trap; chmod 777 /tmp/trap/default; ln -s /tmp/trap /tmp/tmux-$(id -u ann)",
    );
    for planted in ["a link", "a folder"] {
        let told = ctl(&machine, "save --tsv").exits(1);
        let line = told.stderr.lines().find(|line| line.contains("error: ann: ")).unwrap_or_default();
        assert!(line.contains("is a link or belongs to somebody else"), "{planted}: {told}");
        assert!(told.stdout.contains("cyd\t"), "{planted}: {told}");
        assert!(!told.stdout.contains("ann\t"), "{planted}: {told}");
        let told = machine.sh_as("ann", "rosterctl tmux save");
        assert!(told.status == 1 && told.stderr.contains("belongs to somebody else"), "{planted}: {told}");
        tmux(
            &machine,
            "bob",
            "rm -f /tmp/tmux-$(id -u ann); mkdir -m 777 /tmp/tmux-$(id -u ann); ln /tmp/trap/default /tmp/tmux-$(id -u ann)/default || true",
        );
    }
    assert_eq!(machine.sh("ls /var/lib/tmux-persist/users/ann/snapshots").ok(), "");
    // With that gone, all is well.
    machine.sh("rm -r /tmp/tmux-$(id -u ann)").ok();
    tmux(&machine, "ann", "tmux new-session -d -s mine");
    assert!(ctl(&machine, "save --tsv").ok().starts_with("ann\tstored\t"));
}

fn a_server_that_hangs_holds_nobody_up(suite: Suite) {
    let machine = machine(suite);
    for user in PEOPLE {
        tmux(&machine, user, "tmux new-session -d -s work");
    }
    machine.sh("pkill -STOP -u ann tmux").ok();
    // Everybody else's snapshot is there while ann's server is still being waited for: she comes first by name.
    let script = r#"
        rosterctl tmux save >/root/said 2>&1 </dev/null & save=$!
        for user in bob cyd dan eve; do
            until [ -e /var/lib/tmux-persist/users/$user/newest ]; do kill -0 $save; sleep 0.01; done
        done
        pgrep -u ann -f list-panes >/dev/null
        kill -0 $save
        status=0; wait $save || status=$?
        echo $status
    "#;
    assert_eq!(machine.sh(script).ok(), "1\n");
    let said = machine.read_file("/root/said");
    assert!(said.contains("ann: the tmux server at") && said.contains("did not answer within 5 s"), "{said}");
    machine.sh("pkill -CONT -u ann tmux").ok();
    ctl(&machine, "save").ok();
}

/// Speaks tmux's own protocol and answers every client with "become this program" (`MSG_SHELL`, 209, of version 8).
const SERVER: &str = r#"
    use strict; use IO::Socket::UNIX; use Socket;
    my $path = "/tmp/tmux-$</default";
    mkdir "/tmp/tmux-$<", 0700; unlink $path;
    my $server = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $path, Listen => 9) or die $!;
    my $program = "/home/ann/program\0";
    $SIG{PIPE} = "IGNORE";
    my @kept;
    while (my $client = $server->accept) {
        # Whether somebody listens is asked by a connection that says nothing.
        next unless sysread $client, my $said, 16384;
        syswrite $client, pack("VvvVV", 209, 16 + length $program, 0, 8, 0) . $program;
        push @kept, $client;
    }
"#;

/// What the client becomes: it ends who watches it, leaves the process group, ignores what can be ignored, and stays.
const PROGRAM: &str = r#"#!/usr/bin/perl
    use Socket;
    $SIG{$_} = "IGNORE" for qw(TERM HUP INT QUIT);
    setpgrp 0, 0;
    my $parent = getppid;
    my $child = fork;
    exit sleep 1000 if defined $child && $child == 0;
    $SIG{XFSZ} = "IGNORE";
    open my $log, ">", "/tmp/ann.program." . (defined $child ? "forked" : "alone");
    rename "/tmp/ann.program.alone", "/tmp/ann.program.grown" if syswrite $log, "x";
    my $shared = shmget 0, 1 << 20, 01600;
    shmwrite $shared, "kept", 0, 4 or rename "/tmp/ann.program.alone", "/tmp/ann.program.refused";
    socket my $journal, AF_UNIX, SOCK_DGRAM, 0;
    send $journal, "MESSAGE=forged\nPRIORITY=3\n", 0, pack_sockaddr_un("/run/systemd/journal/socket");
    kill KILL => $parent if -e "/tmp/ann.kill";
    sleep 1000 while 1;
"#;

fn what_a_server_makes_of_a_client_of_roots_is_gone_when_the_job_is(suite: Suite) {
    let machine = machine(suite);
    for user in ["ann", "bob"] {
        tmux(&machine, user, "tmux new-session -d -s work");
    }
    ctl(&machine, "save").ok();
    tmux(&machine, "ann", "tmux kill-server");
    machine.write_file("/home/ann/server", SERVER);
    machine.write_file("/home/ann/program", PROGRAM);
    machine.sh("chown ann: /home/ann/server /home/ann/program; chmod 755 /home/ann/program").ok();
    machine.sh_as("ann", "setsid perl server >server.log 2>&1 </dev/null & sleep 0.5").ok();
    let jobs = [
        ("systemctl start rosterd-tmux-save.service", 1),
        ("systemctl restart rosterd-tmux-restore.service", 1),
        ("rosterctl tmux save", 1),
        ("rosterctl tmux restore", 1),
        // The unit for a shutdown saves when it is stopped, and that this worked is nobody's condition.
        ("systemctl stop rosterd-tmux-shutdown.service", 0),
    ];
    for watcher_is_killed in [false, true] {
        machine.sh(if watcher_is_killed { "touch /tmp/ann.kill" } else { "rm -f /tmp/ann.kill" }).ok();
        for (job, status) in jobs {
            machine.sh("rm -f /tmp/ann.program.*; systemctl start rosterd-tmux-shutdown.service").ok();
            let told = machine.sh(job).exits(status);
            // The program did run (homes are read-only to it in the units), could not start another or let a
            // file grow, and is gone as soon as the job has ended.
            assert_eq!(machine.sh("ls /tmp/ann.program.*").ok(), "/tmp/ann.program.alone\n", "{job}: {told}");
            assert_eq!(machine.sh("pgrep -u ann -af ann/program || true").ok(), "", "{job}: {told}");
            // Nor is memory left that it shared. By hand it is, in root's own session.
            let left = machine.sh("ipcs -m | awk '$3 == \"ann\" { print $2 }'").ok();
            assert_eq!(left.is_empty(), job.starts_with("systemctl"), "{job}: {left}");
            machine.sh(&format!("for id in {}; do ipcrm -m $id; done", left.replace('\n', " "))).ok();
        }
    }
    // It told the journal something in the name of root's shell, which is not to be prevented, and of no unit of ours.
    let forged = machine.journal(&["MESSAGE=forged"]);
    assert!(!forged.is_empty());
    for record in forged {
        let unit = record.get("_SYSTEMD_UNIT").unwrap_or_default();
        assert!(!unit.starts_with("rosterd"), "{record:?}");
    }
    // It cost the others nothing.
    assert!(machine.exists("/var/lib/tmux-persist/users/bob/newest"));
}

/// A tmux that does something before a line is typed into a pane.
fn before_typing(script: &str) -> String {
    format!(
        "#!/bin/sh\ncase $* in *'source-file -')\ninput=$(cat)\ncase $input in *--resume*) {script} ;; esac\n\
         printf '%s\\n' \"$input\" | /usr/bin/tmux \"$@\"\nexit ;; esac\nexec /usr/bin/tmux \"$@\"\n"
    )
}

fn a_session_renamed_between_look_and_deed_is_not_typed_into(suite: Suite) {
    let machine = machine(suite);
    let conversation = id(1);
    tmux(
        &machine,
        "ann",
        &format!("mkdir -p ~/p; tmux new-session -d -s web -c ~/p claude --session-id {conversation}"),
    );
    machine.eventually("the conversation is saved", Duration::from_secs(20), |machine| {
        ctl(machine, "save --user ann").ok();
        ctl(machine, "snapshot --user ann --tsv").ok().contains(&conversation).then_some(())
    });
    tmux(&machine, "ann", "tmux kill-server; sleep 0.3; tmux new-session -d -s web");
    machine.eventually("a shell waits", Duration::from_secs(20), |machine| {
        ctl(machine, "snapshot --user ann --tsv").ok().contains("\tin_place\t").then_some(())
    });
    // In the moment between the two calls, ann renames it and opens another of that name. She asks herself: a client of
    // root's cannot start what this needs.
    machine.write_file(
        "/usr/local/bin/tmux",
        before_typing("/usr/bin/tmux rename-session -t =web kept; /usr/bin/tmux new-session -d -s web"),
    );
    let cursor = |session: &str| {
        tmux(
            &machine,
            "ann",
            &format!("tmux display-message -p -t ={session}: '#{{cursor_x}} #{{cursor_y}}'"),
        )
    };
    let before = cursor("web");
    machine.sh("chmod 755 /usr/local/bin/tmux").ok();
    let told = machine.sh_as("ann", "rosterctl tmux restore --tsv").exits(1).stdout;
    assert!(told.starts_with("ann\tweb\tfailed\tweb\ta pane of it is not as it was any more"), "{told}");
    machine.sh("rm /usr/local/bin/tmux").ok();
    for session in ["web", "kept"] {
        let shown = tmux(&machine, "ann", &format!("tmux capture-pane -p -t ={session}:"));
        assert!(!shown.contains("resume"), "{session}: {shown}");
    }
    // The blank by which it was found empty is gone again.
    machine
        .eventually("it is as it was", Duration::from_secs(20), |_| (cursor("kept") == before).then_some(()));
    // Nor when she types something in that moment.
    machine.write_file(
        "/usr/local/bin/tmux",
        before_typing("/usr/bin/tmux send-keys -t =web: -l 'rm -rf x '; sleep 1"),
    );
    machine.sh("chmod 755 /usr/local/bin/tmux").ok();
    let told = machine.sh_as("ann", "rosterctl tmux restore --tsv").exits(1).stdout;
    assert!(told.starts_with("ann\tweb\tfailed\tweb\ta pane of it is not as it was any more"), "{told}");
    machine.sh("rm /usr/local/bin/tmux").ok();
    let shown = tmux(&machine, "ann", "tmux capture-pane -p -t =web:");
    assert!(shown.trim_end().ends_with("$  rm -rf x") && !shown.contains("resume"), "{shown}");
    tmux(&machine, "ann", "tmux send-keys -t =web: C-u");
    machine.eventually("the prompt is empty again", Duration::from_secs(20), |machine| {
        ctl(machine, "snapshot --user ann --tsv").ok().contains("\tin_place\t").then_some(())
    });
    // Asked again, it is as it looks now.
    assert!(ctl(&machine, "restore --user ann --tsv").ok().starts_with("ann\tweb\tresumed\tweb\t"));
}

fn a_zsh_that_has_no_file_yet_resumes_instead_of_asking_for_one(suite: Suite) {
    let machine = machine(suite);
    machine.sh("usermod --shell /bin/zsh ann; rm -f /home/ann/.z*").ok();
    let start =
        format!("mkdir -p ~/p; tmux new-session -d -s web -x 100 -y 40 -c ~/p claude --session-id {}", id(1));
    tmux(&machine, "ann", &start);
    machine.eventually("the conversation is saved", Duration::from_secs(20), |machine| {
        ctl(machine, "save --user ann").ok();
        ctl(machine, "snapshot --user ann --tsv").ok().contains(&id(1)).then_some(())
    });
    tmux(&machine, "ann", "tmux kill-server; sleep 0.3");
    ctl(&machine, "restore --user ann").ok();
    machine.eventually("it runs", Duration::from_secs(20), |machine| {
        (machine.sh("pgrep -u ann -x claude").status == 0).then_some(())
    });
    // Nor is what there is to say hidden afterwards.
    tmux(&machine, "ann", "pkill -u ann -x claude");
    machine.eventually("it is told", Duration::from_secs(20), |machine| {
        let shown = tmux(machine, "ann", "tmux capture-pane -p -t '=web:'");
        (shown.contains("This is a shell") && !shown.contains("zsh-newuser-install")).then_some(())
    });
}

fn every_option_of_another_set_up_is_heeded(suite: Suite) {
    let machine = machine(suite);
    let conversation = id(1);
    machine.write_file("/root/map", "ann.doe=ann\n");
    machine.sh("install -d -o ann -g ann /srv/home /srv/home/.claude/projects/-srv-home; cp /usr/local/bin/claude /opt/claude").ok();
    machine.sh(&format!("su ann -c 'touch /srv/home/.claude/projects/-srv-home/{conversation}.jsonl'")).ok();
    tmux(
        &machine,
        "ann",
        &format!(
            "tmux -L other new-session -d -s work -c /srv/home claude --session-id {conversation}; tmux new-session -d -s usual"
        ),
    );
    let options = "--map /root/map --state /srv/state --socket other --home /srv/home --claude /opt/claude --now 1700000000";
    machine.eventually("the conversation is saved", Duration::from_secs(20), |machine| {
        machine.sh("rm -rf /srv/state").ok();
        assert_eq!(ctl(machine, &format!("{options} save --tsv")).ok(), "ann\tstored\t20231114T221320\t1\n");
        ctl(machine, &format!("{options} snapshot --tsv")).ok().contains(&conversation).then_some(())
    });
    tmux(&machine, "ann", "tmux -L other kill-server; rm -f ~/claude.log");
    machine.sh("mv /usr/local/bin/claude /usr/local/bin/claude.away").ok();
    assert_eq!(ctl(&machine, &format!("{options} restore --tsv")).ok(), "ann\twork\tmade\twork\t-\n");
    machine.eventually("the other claude resumes it", Duration::from_secs(20), |machine| {
        let log = machine.sh("cat /home/ann/claude.log").stdout;
        (log == format!("/srv/home|--resume {conversation} --name work\n")).then_some(())
    });
    assert_eq!(tmux(&machine, "ann", "tmux -L other list-sessions -F '#{session_name}'"), "work\n");
    assert!(!machine.exists("/var/lib/tmux-persist/users/ann/newest"), "the usual store is not touched");
    // bob is in the usual map only.
    let _ = ctl(&machine, "--map /root/map snapshots --user bob").exits(2);
}

fn what_panes_showed_comes_back_when_the_configuration_says_so(suite: Suite) {
    let machine = machine(suite);
    tmux(
        &machine,
        "ann",
        "tmux new-session -d -s work; tmux send-keys -t =work: 'echo seen-$((40 + 2))' Enter",
    );
    machine.eventually("it is on the screen", Duration::from_secs(20), |machine| {
        tmux(machine, "ann", "tmux capture-pane -p -t =work:").contains("seen-42").then_some(())
    });
    ctl(&machine, "save").ok();
    let place = "/var/lib/tmux-persist/users/ann/scrollback";
    assert!(!machine.exists(place), "off by default");
    machine.write_file("/etc/rosterd/config.toml", "[tmux]\nscrollback_kib = 4\n");
    assert!(ctl(&machine, "save --tsv").ok().starts_with("ann\tunchanged\t"));
    let listed = machine.sh(&format!("find {place} -type f -printf '%m %u %f\\n'")).ok();
    assert_eq!(listed, "600 ann work.0.0\n");
    tmux(&machine, "ann", "tmux kill-server");
    ctl(&machine, "restore --user ann").ok();
    machine.eventually("it is there again, above a shell", Duration::from_secs(20), |machine| {
        let shown = tmux(machine, "ann", "tmux capture-pane -p -t =work:");
        (shown.contains("seen-42") && shown.trim_end().ends_with('$')).then_some(())
    });
    machine.write_file("/etc/rosterd/config.toml", "");
    ctl(&machine, "save").ok();
    assert!(!machine.exists(place), "what was kept goes");
}

/// The machines share the loopback of whoever tests.
fn sshd_port(suite: Suite) -> u16 {
    if suite == Suite::Trixie { 22_823 } else { 22_923 }
}

fn the_picker_works_over_ssh(suite: Suite) {
    let machine = machine(suite);
    let port = sshd_port(suite);
    ctl(&machine, "save").ok();
    machine
        .sh("mkdir -p /run/sshd && ssh-keygen -A
             install -d -m 700 -o ann -g ann /home/ann/.ssh
             su ann -c 'ssh-keygen -q -t ed25519 -N \"\" -f ~/.ssh/id_ed25519; cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys'")
        .ok();
    machine.sh(&format!("/usr/sbin/sshd -p {port} -o ListenAddress=127.0.0.1")).ok();
    tmux(
        &machine,
        "ann",
        "tmux new-session -d -s alpha; tmux new-session -d -s beta; rosterctl tmux save; tmux kill-session -t =alpha",
    );
    // Another server is the person's terminal, on which ssh asks for one at the other end.
    tmux(
        &machine,
        "ann",
        &format!(
            "tmux -L terminal new-session -d -s t -x 80 -y 24 'bash --norc'; \
             tmux -L terminal send-keys -t t 'ssh -t -p {port} -o StrictHostKeyChecking=no 127.0.0.1 rosterctl tmux restore --pick; echo ended $?' Enter"
        ),
    );
    machine.eventually("the picker is drawn", Duration::from_secs(20), |machine| {
        let shown = machine.sh_as("ann", "tmux -L terminal capture-pane -p -t t").stdout;
        (shown.contains("Enter to the sessions") && shown.contains("[x] alpha")).then_some(())
    });
    tmux(&machine, "ann", "tmux -L terminal send-keys -t t Enter Enter");
    machine.eventually("it has restored", Duration::from_secs(20), |machine| {
        let shown = machine.sh_as("ann", "tmux -L terminal capture-pane -p -t t").stdout;
        shown.contains("ended 0").then_some(())
    });
    assert_eq!(tmux(&machine, "ann", "tmux list-sessions -F '#{session_name}'"), "alpha\nbeta\n");
    machine.sh("pkill -F /run/sshd.pid").ok();
}
