//! Who or what stands still, and whom that holds up: nobody else.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite};

const SOON: Duration = Duration::from_secs(60);

fn person(name: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}\n")
}

fn roster(names: &[&str]) -> String {
    format!("users:\n{}", names.iter().map(|name| person(name)).collect::<String>())
}

fn apply(machine: &Machine, names: &[&str]) {
    machine.write_file("/etc/rosterd/roster.yaml", roster(names));
    machine.run(&["rosterctl", "wait", "--timeout", "120"]).ok();
}

/// A person may stop every process of theirs, our worker too. The next run goes on without that home: somebody is cut
/// and somebody joins, with a clone, while it stands still. Who had asked for the run that began with it is told its
/// end when there is one.
#[test]
fn a_person_who_stops_their_worker_holds_up_nobody_else_invariant_4() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    apply(&machine, &["ann", "bob"]);
    machine.write_file(
        "/root/stop.pl",
        "while (1) { kill 'STOP', grep { $_ != $$ && (stat \"/proc/$_\")[4] == $> } map { m,(\\d+), } glob '/proc/[0-9]*' }",
    );
    machine
        .sh("cp /root/stop.pl /home/ann/ && systemd-run -q --unit stopper -p User=ann perl /home/ann/stop.pl")
        .ok();
    // Now and then a worker is faster.
    let ask = "while rosterctl reconcile; do :; done";
    machine.sh(&format!("systemd-run -q --unit asker -p RemainAfterExit=yes sh -c '{ask}'")).ok();
    machine.eventually("a run waits for ann's worker", SOON, |machine| {
        let status = machine.run(&["rosterctl", "status"]);
        status.stdout.contains("waiting for the home of ann").then_some(())
    });
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "cid"]));
    machine.eventually("cid has a clone", SOON, |machine| {
        machine.exists("/home/cid/code/.git/HEAD").then_some(())
    });
    let maps = machine.read_file("/etc/ttyd-user-map");
    assert!(maps.contains("cid=cid") && !maps.contains("bob=bob"), "{maps}");
    machine.sh("systemctl stop stopper; pkill -KILL -u ann || true").ok();
    machine.eventually("the one who asked is told the end", SOON, |machine| {
        (machine.sh("systemctl show -P SubState asker").ok() == "exited\n").then_some(())
    });
    machine.eventually("ann recovers by herself", Duration::from_secs(120), |machine| {
        (machine.run(&["rosterctl", "status"]).status == 0).then_some(())
    });
    let unfinished = machine.sh("grep -l '\"unfinished\":\\[\"ann\"\\]' /var/lib/rosterd/runs/*.json").ok();
    assert!(!unfinished.is_empty(), "no run says that it left ann's home to the next");
}

/// The disk of the ledger is full or broken: nothing is taken over, nothing is said to be well, and it is tried again.
#[test]
fn a_ledger_that_cannot_be_written_is_told_and_tried_again() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine
        .sh("systemctl stop rosterd.service rosterd.socket; \
             mount -t tmpfs -o mode=700 tmpfs /var/lib/rosterd; systemctl start rosterd.socket rosterd")
        .ok();
    apply(&machine, &["ann"]);
    machine.sh("mount -o remount,ro /var/lib/rosterd").ok();
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "bob"]));
    let waited = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(1);
    assert!(waited.stdout.contains("the ledger cannot be written"), "{waited}");
    let status = machine.run(&["rosterctl", "status"]).exits(1);
    assert!(status.stdout.contains("the ledger cannot be written"), "{status}");
    assert_eq!(
        machine.run(&["getent", "passwd", "bob"]).status,
        2,
        "an id that no ledger knows was given out"
    );
    // The run that the ledger has no room for is known nevertheless.
    let last = machine.run(&["rosterctl", "show", "last", "--json"]).json();
    assert_eq!(last["outcome"], "failed", "{last}");
    // Time for a try that fails as well: what is in memory must not stand in for what was to be decided.
    std::thread::sleep(Duration::from_secs(17));
    machine.sh("mount -o remount,rw /var/lib/rosterd").ok();
    machine.eventually("bob is there, though nobody asked again", Duration::from_secs(90), |machine| {
        (machine.run(&["getent", "passwd", "bob"]).status == 0).then_some(())
    });
    machine.eventually("all is well", SOON, |machine| {
        (machine.run(&["rosterctl", "status"]).status == 0).then_some(())
    });
}

/// While the tiers differ from the cluster's map, a degraded person is no reason for a run a second; and a roster that
/// is held meanwhile is told as that.
#[test]
fn a_tier_mismatch_neither_makes_runs_nor_hides_what_is_held() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/k8s_users.json", "{}");
    machine.write_file(
        "/etc/rosterd/config.toml",
        "[guard]\nmax_cuts = 1\n[tier_check]\nk8s_users = \"/etc/rosterd/k8s_users.json\"\n",
    );
    // Somebody else's folder is where one of them would live.
    machine.sh("install -d -o daemon /home/eve").ok();
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "bob", "cid", "eve"]));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    machine.write_file("/etc/rosterd/k8s_users.json", "{\"ann\": {\"role\": \"admin\"}}");
    machine.eventually("the mismatch is told", SOON, |machine| {
        machine.run(&["rosterctl", "status"]).stdout.contains("cluster's map").then_some(())
    });
    let runs = |machine: &Machine| {
        machine.sh("ls /var/lib/rosterd/runs | wc -l").ok().trim().parse::<u32>().unwrap()
    };
    let before = runs(&machine);
    std::thread::sleep(Duration::from_secs(20));
    let made = runs(&machine) - before;
    assert!(made <= 3, "{made} runs in 20 s for one that is due after 15 s and later");
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann"]));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]);
    let status = machine.run(&["rosterctl", "status"]).exits(4);
    assert!(status.stdout.contains("held") && status.stdout.contains("tiers differ"), "{status}");
    // What one person gets is no answer to who asks for all.
    let _ = machine.run(&["rosterctl", "reconcile", "--user", "ann"]).exits(1);
    // Who confirms and waits gets the outcome of what was confirmed, not of what was before.
    machine.write_file("/etc/rosterd/k8s_users.json", "{}");
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]);
    let told = machine.sh(
        "(rosterctl reconcile || true) & rosterctl confirm --yes && rosterctl wait --timeout 60; wait $!",
    );
    let map = machine.read_file("/etc/ttyd-user-map");
    assert!(!map.contains("bob=bob"), "{map}\n{told}\n{}", machine.run(&["rosterctl", "status"]));
    // A map that is gone says nothing any more.
    machine.write_file("/etc/rosterd/k8s_users.json", "{\"ann\": {\"role\": \"admin\"}}");
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(1);
    machine.sh("rm /etc/rosterd/k8s_users.json; rosterctl reconcile").ok();
    machine.run(&["rosterctl", "status"]).ok();
}

/// A reply of megabytes, and clients that are silent, flood or do not read: the daemon answers root as ever.
#[test]
fn what_a_reader_does_at_the_socket_keeps_the_daemon_from_nobody() {
    let machine = Machine::with_rosterd(Suite::Trixie);
    apply(&machine, &["ann"]);
    machine.sh("useradd -m -G rosterd reader").ok();
    // A run of 20,000 steps: some eight megabytes.
    let run = machine.run(&["rosterctl", "show", "last", "--json"]).json();
    let step =
        run["steps"].as_array().and_then(|steps| steps.first()).expect("a first run has steps").clone();
    let mut long = run;
    long["id"] = "20200101T000000Z-000".into();
    long["steps"] = serde_json::Value::Array(vec![step; 20_000]);
    machine.write_file("/var/lib/rosterd/runs/20200101T000000Z-000.json", long.to_string());
    let daemon = machine.sh("systemctl show -P MainPID -P NRestarts rosterd").ok();
    let shown = machine.sh_as("reader", "rosterctl show 20200101T000000Z-000 --json").json();
    assert_eq!(shown["steps"].as_array().map(Vec::len), Some(20_000));
    let talk = "use Socket; sub to { socket(my $s, PF_UNIX, SOCK_STREAM, 0); \
                connect($s, sockaddr_un('/run/rosterd/control.sock')) ? $s : undef }";
    // Silent ones, more than are let in.
    machine
        .sh_as(
            "reader",
            &format!(
                "setsid perl -e \"{}\" >/dev/null 2>&1 </dev/null &",
                format!("{talk} my @all = map {{ to() }} 1..200; sleep 300").replace('$', "\\$")
            ),
        )
        .ok();
    // One that asks for megabytes and never reads them, one that sends without end.
    machine.write_file(
        "/root/flood.pl",
        format!(
            "{talk} my $s = to(); $SIG{{PIPE}} = sub {{ exit 0 }}; my $sent = 0; \
             while (defined(my $n = syswrite($s, ' ' x 65536))) {{ $sent += $n; die 'all taken' if $sent > 1 << 30 }}"
        ),
    );
    machine.write_file(
        "/root/deaf.pl",
        format!(
            "{talk} my $s = to(); \
             syswrite($s, '{{\"method\":\"io.rosterd.Control.Show\",\"parameters\":{{\"run\":\"20200101T000000Z-000\"}}}}'.chr(0)); \
             sleep 300"
        ),
    );
    machine.sh("for i in 1 2 3 4 5; do setsid perl /root/deaf.pl >/dev/null 2>&1 </dev/null & done").ok();
    machine.run(&["perl", "/root/flood.pl"]).ok();
    machine.run(&["rosterctl", "status"]).ok();
    let reader = machine.sh_as("reader", "rosterctl status");
    assert_ne!(reader.status, 0, "a reader has more connections than are let in: {reader}");
    machine.run(&["rosterctl", "reconcile"]).ok();
    let rss = machine.sh("awk '/VmRSS/ {print $2}' /proc/$(systemctl show -P MainPID rosterd)/status").ok();
    assert!(rss.trim().parse::<u64>().unwrap() < 400_000, "{rss} KiB");
    assert_eq!(machine.sh("systemctl show -P MainPID -P NRestarts rosterd").ok(), daemon, "it was restarted");
}

/// What was found about a home counts when the home is done, however many runs ended before: a clone that failed at once
/// keeps its person degraded although the run that saw it left the home, where another clone takes its time, to the next.
#[test]
fn what_one_run_found_in_a_home_is_not_forgotten_by_the_next() {
    let forge = Forge::start();
    forge.grow("ledgerbook", 1, 2);
    forge.slow("ledgerbook", true);
    let machine = Machine::with_rosterd(Suite::Trixie);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let ann = "  ann: {authentik_user: ann, k8s_user: ann, tier: power-user, code_layout: workspace, \
               repos: [aaa, ledgerbook]}\n";
    // Her credentials come with the account.
    machine.write_file("/etc/skel/.git-credentials", forge.credentials());
    machine.sh("chmod 600 /etc/skel/.git-credentials").ok();
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{ann}"));
    machine.eventually("a run waits for ann's slow clone", SOON, |machine| {
        let status = machine.run(&["rosterctl", "status"]);
        status.stdout.contains("waiting for the home of ann").then_some(())
    });
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{ann}{}", person("bob")));
    machine.eventually("bob is there", SOON, |machine| {
        (machine.run(&["getent", "passwd", "bob"]).status == 0).then_some(())
    });
    assert!(!machine.exists("/home/ann/code/ledgerbook/.git/HEAD"), "it was not slow");
    // Somebody else's next try is not put off by her either.
    machine.sh("install -d -o daemon /home/eve").ok();
    machine
        .write_file("/etc/rosterd/roster.yaml", format!("users:\n{ann}{}{}", person("bob"), person("eve")));
    machine.eventually("eve waits for her next try", SOON, |machine| {
        machine.run(&["rosterctl", "status"]).stdout.contains("around a home").then_some(())
    });
    machine.sh("rmdir /home/eve").ok();
    machine.eventually("eve is tried again", SOON, |machine| {
        (machine.run(&["getent", "passwd", "eve"]).status == 0).then_some(())
    });
    assert!(!machine.exists("/home/ann/code/ledgerbook/.git/HEAD"), "it was not slow");
    machine.sh("rosterctl reconcile --user eve").ok();
    let runs = machine.sh("ls /var/lib/rosterd/runs | wc -l").ok().trim().parse::<u32>().unwrap();
    assert!(runs < 15, "{runs} runs");
    let waited = machine.run(&["rosterctl", "wait", "--timeout", "400"]).exits(3);
    assert!(machine.exists("/home/ann/code/ledgerbook/.git/HEAD"), "{waited}");
    let status = machine.run(&["rosterctl", "status", "ann"]).exits(3);
    assert!(status.stdout.contains("aaa"), "{status}");
}

/// A ledger of a later version, or a damaged one, is not replaced by an empty one, however long that lasts; and who
/// waits is told.
#[test]
fn a_ledger_that_cannot_be_read_stays_what_it_is() {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    apply(&machine, &["ann"]);
    machine
        .sh("systemctl stop rosterd.service rosterd.socket; cd /var/lib/rosterd; \
             sed -i 's/^{\"format\":1/{\"format\":2/' ledger.json; cp ledger.json /root/; rm -r runs; \
             systemctl start rosterd.socket rosterd")
        .ok();
    let waited = machine.run(&["rosterctl", "wait", "--timeout", "30"]).exits(1);
    assert!(waited.stdout.contains("the ledger cannot be read"), "{waited}");
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann", "bob"]));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "30"]).exits(1);
    let _ = machine.run(&["rosterctl", "plan"]).exits(1);
    machine.sh("cmp /root/ledger.json /var/lib/rosterd/ledger.json").ok();
    machine
        .sh("systemctl stop rosterd.service rosterd.socket; \
             sed -i 's/^{\"format\":2/{\"format\":1/' /var/lib/rosterd/ledger.json; systemctl start rosterd.socket rosterd; \
             rosterctl wait --timeout 60; getent passwd bob")
        .ok();
}

/// A roster that does not fit beside what is in force is taken over as soon as there is room, though smaller ledgers
/// could be written all the time.
#[test]
fn a_roster_that_did_not_fit_on_the_disk_is_not_forgotten() {
    let machine = Machine::with_rosterd(Suite::Trixie);
    machine
        .sh("systemctl stop rosterd.service rosterd.socket; \
             mount -t tmpfs -o mode=700,size=256k tmpfs /var/lib/rosterd; systemctl start rosterd.socket rosterd")
        .ok();
    apply(&machine, &["ann"]);
    machine.sh("head -c 1M /dev/zero >/var/lib/rosterd/filler 2>/dev/null || true; truncate -s -32k /var/lib/rosterd/filler").ok();
    let long = format!("{}# {}\n", roster(&["ann", "bob"]), "x".repeat(60_000));
    machine.write_file("/etc/rosterd/roster.yaml", long);
    let waited = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(1);
    assert!(waited.stdout.contains("the ledger cannot be written"), "{waited}");
    let _ = machine.run(&["rosterctl", "status"]).exits(1);
    machine.sh("rm /var/lib/rosterd/filler").ok();
    machine.eventually("bob is there, though nobody asked again", Duration::from_secs(90), |machine| {
        (machine.run(&["getent", "passwd", "bob"]).status == 0).then_some(())
    });
    machine.sh("rosterctl wait --timeout 60 && rosterctl status").ok();
}

/// A run that is told to stop says whom it has not come to, and is not said to have converged.
#[test]
fn a_run_that_was_stopped_has_not_converged() {
    let forge = Forge::start();
    forge.grow("ledgerbook", 1, 2);
    forge.slow("ledgerbook", true);
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    machine.write_file("/etc/skel/.git-credentials", forge.credentials());
    machine.sh("chmod 600 /etc/skel/.git-credentials").ok();
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user, code_layout: workspace, \
         repos: [ledgerbook]}\n",
    );
    machine.eventually("a run waits for ann's slow clone", SOON, |machine| {
        let status = machine.run(&["rosterctl", "status"]);
        status.stdout.contains("waiting for the home of ann").then_some(())
    });
    machine.sh("systemctl stop rosterd.socket rosterd.service").ok();
    let last = machine.sh("cat $(ls /var/lib/rosterd/runs/*.json | tail -n 1)").json();
    assert_eq!(
        (&last["outcome"], &last["unfinished"]),
        (&"degraded".into(), &serde_json::json!(["ann"])),
        "{last}"
    );
}
