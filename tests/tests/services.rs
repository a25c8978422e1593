//! Services of people on real systemd units: started, left alone, stopped, and told about when they do not run.

use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};
use serde_json::Value;

on_each_debian!(
    thirty_people_have_their_services_and_a_second_run_asks_only,
    a_service_that_is_renamed_keeps_its_port_and_leaves_nothing_behind,
    what_keeps_a_service_from_running_is_told_with_its_holder,
    limits_are_in_force_and_go_away,
);

/// A server on the port of its environment, as far as Debian's base has one.
const LISTEN: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
my $port = $ENV{T3_PORT} || $ARGV[0];
my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => $port, ReuseAddr => 1)
    or die "cannot listen on $port: $!\n";
sleep 1 while 1;
"#;

const WEB: &str = "[Unit]\nDescription=Web of %i\n[Service]\nUser=%i\nEnvironmentFile=/etc/t3-serve/%i.env\n\
                   ExecStart=/usr/local/bin/listen\nRestart=on-failure\n[Install]\nWantedBy=multi-user.target\n";
const SLEEPER: &str =
    "[Service]\nUser=%i\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

/// The machines share the loopback of whoever tests, so each claim has ports of its own, and so has each Debian.
fn config(suite: Suite, claim: u16) -> String {
    let base = 20_000 + 500 * claim + if suite == Suite::Trixie { 250 } else { 0 };
    CONFIG.replace("3773", &base.to_string()).replace("8931", &(base + 100).to_string())
}

const CONFIG: &str = r#"
[[service]]
name = "t3"
base_port = 3773
env_file = "/etc/t3-serve/{user}.env"
port_key = "T3_PORT"
units = ["web@{user}.service"]

[[service]]
name = "play"
base_port = 8931
env_file = "/etc/play/{user}.env"
port_key = "PLAY_PORT"
units = ["play@{user}.service"]

[[service]]
name = "auth"
units = ["auth@{user}.timer"]
tiers = ["admin", "power-user"]
stop_without_claude_auth = true
"#;

fn install_units(machine: &Machine) {
    machine.write_file("/usr/local/bin/listen", LISTEN);
    machine.sh("chmod 755 /usr/local/bin/listen").ok();
    machine.write_file("/etc/systemd/system/web@.service", WEB);
    machine.write_file("/etc/systemd/system/play@.service", SLEEPER);
    machine.write_file(
        "/etc/systemd/system/auth@.service",
        "[Service]\nType=oneshot\nUser=%i\nExecStart=/usr/bin/true\n",
    );
    machine.write_file(
        "/etc/systemd/system/auth@.timer",
        "[Timer]\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n",
    );
    machine.sh("systemctl daemon-reload").ok();
}

fn person(number: usize, more: &str) -> String {
    let name = format!("u{number:02}");
    let tier = match number % 3 {
        0 => "admin".to_owned(),
        1 => "power-user".to_owned(),
        _ => format!("namespace-owner, namespaces: [{name}]"),
    };
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: {tier}{more}}}\n")
}

/// A roster of `count` people, some of them with something more, some left out.
fn roster(count: usize, more: &[(usize, &str)], without: &[usize]) -> String {
    let mut text = String::from("users:\n");
    for number in (0..count).filter(|number| !without.contains(number)) {
        text += &person(number, more.iter().find(|(who, _)| *who == number).map_or("", |(_, more)| more));
    }
    text
}

fn apply(machine: &Machine, roster: &str) {
    machine.write_file("/etc/rosterd/roster.yaml", roster);
    machine.run(&["rosterctl", "wait", "--timeout", "120"]).ok();
}

/// What `systemctl show` says, `key=value` a line.
fn show(machine: &Machine, unit: &str, keys: &str) -> String {
    machine.run(&["systemctl", "show", "-p", keys, unit]).ok()
}

fn runs(machine: &Machine, unit: &str) -> bool {
    machine.run(&["systemctl", "is-active", unit]).stdout == "active\n"
}

fn is_enabled(machine: &Machine, unit: &str) -> bool {
    machine.run(&["systemctl", "is-enabled", unit]).stdout == "enabled\n"
}

fn pids(machine: &Machine) -> String {
    machine.sh("systemctl show -p Id,MainPID,ActiveEnterTimestampMonotonic 'web@*' 'play@*' | sort").ok()
}

fn last_run(machine: &Machine) -> Value {
    machine.run(&["rosterctl", "show", "last", "--json"]).json()
}

/// What the run before now did, `subject kind` a line.
fn steps(run: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = run["steps"].as_array().expect("steps");
    steps.iter().map(|step| format!("{} {}", text(&step["subject"]), text(&step["action"]["kind"]))).collect()
}

/// How many lines a command prints.
fn count(machine: &Machine, what: &str) -> String {
    machine.sh(&format!("{what} | wc -l")).ok().trim().to_owned()
}

/// Watches systemd's bus during a run that is asked for, and gives the methods that were called.
fn methods_of_a_run(machine: &Machine) -> Vec<String> {
    let seen = machine
        .sh("busctl monitor --json=short org.freedesktop.systemd1 >/run/seen 2>/dev/null & sleep 1; \
             rosterctl reconcile >/dev/null; sleep 0.5; kill $!; wait || true; cat /run/seen")
        .stdout;
    let messages = seen.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let calls = messages.filter(|message| message["type"] == "method_call");
    let mut methods: Vec<_> =
        calls.filter_map(|message| message["member"].as_str().map(str::to_owned)).collect();
    methods.sort();
    methods.dedup();
    methods
}

fn thirty_people_have_their_services_and_a_second_run_asks_only(suite: Suite) {
    let mut machine = Machine::with_rosterd(suite);
    install_units(&machine);
    let config = config(suite, 0);
    machine.write_file("/etc/rosterd/config.toml", &config);
    apply(&machine, &roster(30, &[], &[]));
    let base = if suite == Suite::Trixie { 20_250 } else { 20_000 };
    let t3 = |number: u16| format!("T3_PORT={}\n", base + number);
    let first = last_run(&machine);
    println!("{suite}: first run of 30 people: {} ms, {} steps", first["took_ms"], steps(&first).len());
    assert_eq!(steps(&first).iter().filter(|step| step.ends_with(" reload")).count(), 1, "one reload a run");

    let count = |what: &str| count(&machine, what);
    for (pattern, number) in [("web@*.service", "30"), ("play@*.service", "30"), ("auth@*.timer", "20")] {
        assert_eq!(
            count(&format!("systemctl list-units --plain --no-legend --state=active '{pattern}'")),
            number
        );
    }
    assert_eq!(count("ls /etc/systemd/system/multi-user.target.wants | grep -E '^(web|play)@'"), "60");
    assert_eq!(count("ls /etc/systemd/system/timers.target.wants | grep '^auth@'"), "20");

    // Invariant 9: nothing is written, no unit is touched, systemd is only asked.
    let before = pids(&machine);
    machine.sh("touch /run/before").ok();
    let methods = methods_of_a_run(&machine);
    assert!(methods.contains(&"ListUnitsByNames".to_owned()), "nothing was seen: {methods:?}");
    let reads = ["Get", "GetAll", "GetUnitFileState", "Hello", "ListUnitsByNames"];
    assert!(methods.iter().all(|method| reads.contains(&method.as_str())), "{methods:?}");
    let quiet = last_run(&machine);
    println!("{suite}: a run with nothing to do: {} ms", quiet["took_ms"]);
    assert_eq!(steps(&quiet), Vec::<String>::new());
    assert_eq!(machine.sh("find /etc -xdev -newer /run/before ! -path '/etc/.pwd.lock'").ok(), "");
    assert_eq!(pids(&machine), before, "what runs is never restarted");

    // Parked: stopped and disabled for good, a failed state cleared, and everybody else's units untouched.
    machine.sh("systemctl kill -s SEGV play@u01.service; sleep 0.3").ok();
    assert_eq!(machine.run(&["systemctl", "is-failed", "play@u01.service"]).stdout, "failed\n");
    apply(&machine, &roster(30, &[(1, ", parked: true")], &[]));
    for unit in ["web@u01.service", "play@u01.service", "auth@u01.timer"] {
        assert_eq!(show(&machine, unit, "ActiveState"), "ActiveState=inactive\n", "{unit}");
        assert!(!is_enabled(&machine, unit), "{unit}");
    }
    assert_eq!(machine.run(&["rosterctl", "status", "--json"]).json()["subjects"]["u01"]["state"], "parked");
    let others = |pids: &str| pids.lines().filter(|line| line.starts_with("MainPID")).count();
    assert!(others(&pids(&machine)) >= 58);
    assert_eq!(machine.read_file("/etc/t3-serve/u01.env"), t3(1));
    // An admin who starts it by hand does not get it past the roster.
    machine.sh("systemctl start web@u01.service").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert!(!runs(&machine, "web@u01.service"));
    apply(&machine, &roster(30, &[], &[]));
    assert_eq!(machine.read_file("/etc/t3-serve/u01.env"), t3(1));
    for unit in ["web@u01.service", "play@u01.service", "auth@u01.timer"] {
        assert!(runs(&machine, unit) && is_enabled(&machine, unit), "{unit}");
    }

    // `claude_auth: false` stops what config.toml says it stops, and a cut stops everything.
    apply(&machine, &roster(30, &[(4, ", claude_auth: false")], &[7]));
    assert!(runs(&machine, "web@u04.service") && !runs(&machine, "auth@u04.timer"));
    for unit in ["web@u07.service", "play@u07.service", "auth@u07.timer"] {
        assert!(!runs(&machine, unit) && !is_enabled(&machine, unit), "{unit}");
    }
    // The cut is an edge: what an admin starts for somebody who left is the admin's.
    machine.sh("systemctl start play@u07.service").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert!(runs(&machine, "play@u07.service"));
    apply(&machine, &roster(30, &[], &[]));
    assert!(runs(&machine, "web@u07.service") && is_enabled(&machine, "auth@u07.timer"));
    assert!(runs(&machine, "auth@u04.timer"));
    assert_eq!(machine.read_file("/etc/t3-serve/u07.env"), t3(7));

    // What is enabled comes up at boot without anybody.
    machine.reboot();
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(steps(&last_run(&machine)), Vec::<String>::new());
    let up = "systemctl list-units --plain --no-legend --state=active 'web@*.service'";
    assert_eq!(self::count(&machine, up), "30");
}

fn a_service_that_is_renamed_keeps_its_port_and_leaves_nothing_behind(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    install_units(&machine);
    let config = config(suite, 1);
    let port = 20_700 + if suite == Suite::Trixie { 250 } else { 0 };
    machine.write_file("/etc/systemd/system/site@.service", WEB);
    machine.write_file("/etc/systemd/system/own@.service", SLEEPER);
    machine.sh("systemctl daemon-reload").ok();
    // As scripts left it: accounts, environment files, enabled and running units.
    machine
        .sh(&format!(
            "for u in u00 u01 u02; do useradd -m $u; done; install -d /etc/t3-serve; \
             echo T3_PORT={port} >/etc/t3-serve/u00.env; echo T3_PORT={} >/etc/t3-serve/u01.env; \
             chmod 600 /etc/t3-serve/*.env; systemctl enable --now web@u00 web@u01 own@u00 own@u02",
            port + 1
        ))
        .ok();
    let before = machine.sh("systemctl show -p Id,MainPID web@u00 web@u01 own@u00 own@u02").ok();
    machine.write_file("/etc/rosterd/config.toml", &config);
    apply(&machine, &roster(3, &[], &[]));
    assert_eq!(machine.sh("systemctl show -p Id,MainPID web@u00 web@u01 own@u00 own@u02").ok(), before);
    assert!(runs(&machine, "web@u02.service"));

    let renamed = config.replace("name = \"t3\"", "name = \"site\"").replace("web@{user}", "site@{user}");
    machine.write_file("/etc/rosterd/config.toml", renamed);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    for user in ["u00", "u01", "u02"] {
        let (old, new) = (format!("web@{user}.service"), format!("site@{user}.service"));
        assert!(!runs(&machine, &old) && !is_enabled(&machine, &old), "{old}");
        assert!(runs(&machine, &new) && is_enabled(&machine, &new), "{new}");
    }
    assert_eq!(machine.read_file("/etc/t3-serve/u01.env"), format!("T3_PORT={}\n", port + 1));
    assert_eq!(machine.sh("find /etc/systemd/system -name 'web@u*'").ok(), "");
    // Whatever nobody configured stays.
    for unit in ["own@u00.service", "own@u02.service"] {
        assert!(runs(&machine, unit) && is_enabled(&machine, unit), "{unit}");
    }
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(steps(&last_run(&machine)), Vec::<String>::new());

    // The template is gone and so is the service: its links do not stay either.
    machine.sh("rm /etc/systemd/system/play@.service; systemctl daemon-reload").ok();
    let (one, rest) = config.split_once("[[service]]\nname = \"play\"").expect("the service");
    let (_, last) = rest.split_once("[[service]]").expect("the last service");
    let without = format!("{one}[[service]]{last}");
    machine.write_file("/etc/rosterd/config.toml", without);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.sh("find /etc/systemd/system -name 'play@u*'").ok(), "");
    assert_eq!(machine.sh("systemctl list-units --plain --no-legend 'play@*'").ok(), "");
}

/// What `status` says of a person, all problems in one text.
fn told(machine: &Machine, user: &str) -> String {
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    let subject = &status["subjects"][user];
    let text = |problem: &Value| {
        ["what", "why", "next"].map(|key| problem[key].as_str().unwrap_or_default().to_owned()).join(": ")
    };
    let problems =
        subject["problems"].as_array().map(|all| all.iter().map(text).collect::<Vec<_>>().join("\n"));
    format!("{}\n{}", subject["state"].as_str().unwrap_or_default(), problems.unwrap_or_default())
}

fn what_keeps_a_service_from_running_is_told_with_its_holder(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    install_units(&machine);
    let config = config(suite, 2);
    let port = 21_002 + if suite == Suite::Trixie { 250 } else { 0 };
    machine.write_file(
        "/etc/systemd/system/play@.service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nUser=%i\nExecStart=/bin/sh -c 'test ! -e /run/crash-%i || exit 7; exec sleep infinity'\n\
         Restart=always\nRestartSec=200ms\n[Install]\nWantedBy=multi-user.target\n",
    );
    machine.sh("useradd -m mallory").ok();
    // On the port that u02 will get.
    machine
        .sh(&format!(
            "systemctl daemon-reload; touch /run/crash-u01; \
             systemd-run --quiet --unit=squat --uid=mallory /usr/local/bin/listen {port}; sleep 0.5"
        ))
        .ok();
    machine.write_file("/etc/rosterd/config.toml", &config);
    machine.write_file("/etc/rosterd/roster.yaml", roster(6, &[], &[]));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);

    let crash = told(&machine, "u01");
    assert!(crash.starts_with("degraded") && crash.contains("play@u01.service"), "{crash}");
    assert!(crash.contains("status 7") && crash.contains("journalctl -u play@u01.service"), "{crash}");
    let squat = told(&machine, "u02");
    assert!(squat.starts_with(&format!("degraded\nport {port} of `t3` is taken")), "{squat}");
    for word in ["(listen) of mallory", "squat.service", "systemctl status squat.service", "web@u02.service"]
    {
        assert!(squat.contains(word), "no {word}: {squat}");
    }
    assert!(!runs(&machine, "web@u02.service"), "the port's holder may be anybody");
    assert!(runs(&machine, "play@u02.service") && runs(&machine, "auth@u01.timer"));
    for user in ["u00", "u03", "u04", "u05"] {
        assert_eq!(told(&machine, user), "converged\n", "{user}");
    }
    // The same, told by a run that only looks.
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    let again = told(&machine, "u01");
    assert!(again.contains("does not stay up"), "{again}");

    // A broken file and a missing one.
    machine.write_file("/etc/systemd/system/auth@.timer", "[Timer]\nnothing\n");
    machine.sh("systemctl daemon-reload").ok();
    let missing = config.replace("play@{user}.service\"", "play@{user}.service\", \"gone@{user}.service\"");
    machine.write_file("/etc/rosterd/config.toml", missing);
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    let gone = told(&machine, "u05");
    assert!(gone.contains("gone@u05.service does not exist") && gone.contains("gone@.service"), "{gone}");
    let broken = told(&machine, "u04");
    println!("{suite}: {broken}");
    machine.write_file("/etc/systemd/system/web@.service", "[Service]\nUser=%i\n");
    machine.write_file("/etc/rosterd/config.toml", &config);
    machine.sh("systemctl daemon-reload; systemctl stop web@u05.service").ok();
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    let broken = told(&machine, "u05");
    assert!(broken.contains("web@u05.service cannot be loaded"), "{broken}");
    assert!(broken.contains("systemd-analyze verify web@u05.service"), "{broken}");

    // Somebody whose account cannot be made gets no service, and systemd is not asked to read everything again in
    // each run for the sake of units that nobody enables. A try before its time does not make them wait longer either.
    machine.sh("mkdir /home/u06; chown mallory /home/u06").ok();
    machine.write_file("/etc/rosterd/roster.yaml", roster(7, &[], &[]));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    let waits = |machine: &Machine| {
        let status = machine.run(&["rosterctl", "status", "u06", "--json"]).json();
        let subject = &status["subjects"]["u06"];
        assert_eq!(subject["state"], "degraded", "{status}");
        (subject["failures"].clone(), subject["next_try"].clone())
    };
    let before = waits(&machine);
    let _ = machine.run(&["rosterctl", "reconcile", "--user", "u06"]).exits(3);
    assert_eq!(steps(&last_run(&machine)), Vec::<String>::new());
    assert_eq!(waits(&machine), before);
    let plan = machine.run(&["rosterctl", "plan", "--user", "u06"]).exits(0);
    assert!(!plan.stdout.contains("reload"), "{plan}");
    machine.sh("rmdir /home/u06").ok();

    // Mended, it recovers.
    machine.write_file("/etc/systemd/system/web@.service", WEB);
    machine.write_file(
        "/etc/systemd/system/auth@.timer",
        "[Timer]\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n",
    );
    machine.sh("systemctl daemon-reload; rm /run/crash-u01; systemctl stop squat").ok();
    machine.eventually("all recover", Duration::from_secs(150), |machine| {
        std::thread::sleep(Duration::from_secs(3));
        (machine.run(&["rosterctl", "reconcile"]).status == 0).then_some(())
    });
    assert!(runs(&machine, "web@u02.service") && runs(&machine, "play@u01.service"));
}

fn limits_are_in_force_and_go_away(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    let config = "service = []\n[tiers.power-user.limits]\nmemory_max = \"2G\"\ntasks_max = 300\n\
                  [panes]\nmemory_max = \"1G\"\n";
    machine.write_file("/etc/rosterd/config.toml", "service = []\n");
    apply(&machine, &roster(3, &[], &[]));
    // u00 is an admin, u01 a power user, u02 an owner; u01 is logged in when the limits come.
    let uid = |user: &str| machine.run(&["id", "-u", user]).ok().trim().to_owned();
    let slice = |user: &str| format!("user-{}.slice", uid(user));
    let keys = "MemoryMax,MemorySwapMax,CPUWeight,TasksMax";
    machine.sh(&format!("systemctl start user@{}.service", uid("u01"))).ok();
    let unlimited = show(&machine, &slice("u01"), keys);
    assert!(unlimited.contains("MemoryMax=infinity"), "{unlimited}");

    machine.write_file("/etc/rosterd/config.toml", config);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    let own = ", limits: {memory_max: 3G, memory_swap_max: 0, cpu_weight: 50}";
    let written = ["u01 write-file", "(machine) write-file", "(machine) reload"];
    assert_eq!(steps(&last_run(&machine)), written);
    apply(&machine, &roster(3, &[(2, own)], &[]));
    assert_eq!(steps(&last_run(&machine)), ["u02 write-file", "(machine) reload"]);
    let limited = show(&machine, &slice("u01"), keys);
    assert!(limited.contains("MemoryMax=2147483648") && limited.contains("TasksMax=300"), "{limited}");
    let other = show(&machine, &slice("u02"), keys);
    for word in ["MemoryMax=3221225472", "MemorySwapMax=0", "CPUWeight=50"] {
        assert!(other.contains(word), "{other}");
    }
    assert!(show(&machine, &slice("u00"), keys).contains("MemoryMax=infinity"));
    // A new pane of somebody whose manager runs since before.
    let id = uid("u01");
    let as_user = format!("runuser -u u01 -- env XDG_RUNTIME_DIR=/run/user/{id}");
    let pane = machine.sh(&format!(
        "{as_user} systemd-run --quiet --user --scope --unit=tmux-spawn-x sleep 30 </dev/null >/dev/null 2>&1 & sleep 1; \
         {as_user} systemctl --user show -p MemoryMax tmux-spawn-x.scope"
    ));
    assert_eq!(pane.ok(), "MemoryMax=1073741824\n");

    // Nothing to do is nothing done.
    machine.sh("touch /run/before").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(steps(&last_run(&machine)), Vec::<String>::new());
    assert_eq!(machine.sh("find /etc/systemd -newer /run/before").ok(), "");

    // Who is cut has none, and has them back with the return.
    let drop_in = format!("ls /etc/systemd/system/{}.d | wc -l", slice("u02"));
    apply(&machine, &roster(3, &[], &[2]));
    assert_eq!(machine.sh(&format!("{drop_in} 2>/dev/null")).ok(), "0\n");
    assert!(show(&machine, &slice("u02"), keys).contains("MemoryMax=infinity"));
    apply(&machine, &roster(3, &[(2, own)], &[]));
    assert_eq!(show(&machine, &slice("u02"), keys), other);

    // Removed when no longer wanted, with the folder, and the running slice is free again.
    machine.write_file("/etc/rosterd/config.toml", "service = []\n");
    apply(&machine, &roster(3, &[], &[]));
    assert_eq!(show(&machine, &slice("u01"), keys), unlimited);
    assert_eq!(machine.sh("find /etc/systemd -name '*rosterd*.conf'; ls -d /etc/systemd/system/user-*.slice.d 2>/dev/null || true").ok(), "");
}
