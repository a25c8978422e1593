//! Who is told: a webhook, a monitoring, and whoever reads nothing but the journal.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};
use serde_json::{Value, json};

on_each_debian!(
    each_thing_is_announced_once_whatever_the_server_does_and_metrics_follow,
    a_webhook_that_hangs_holds_up_no_run_and_gets_each_thing_once,
    who_is_degraded_for_more_than_a_day_is_announced_once_and_so_is_their_recovery,
    the_life_of_one_person_is_told_by_the_journal_alone_invariant_10
);

/// What the server of a test answers, and what it was asked.
#[derive(Default)]
struct Site {
    /// The status of every answer to a POST; none is never answered.
    status: Option<u16>,
    posted: Vec<String>,
    /// How many waited for an answer.
    hanging: usize,
    /// Whose sockets asked.
    uids: Vec<u32>,
    members: Vec<&'static str>,
}

/// A server on the loopback that the machines share: a webhook, and the two pages of Authentik that matter.
fn serve(site: &Arc<Mutex<Site>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let site = Arc::clone(site);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let site = Arc::clone(&site);
            std::thread::spawn(move || drop(answer(stream.unwrap(), &site)));
        }
    });
    address
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let peer = stream.peer_addr()?.port();
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.to_lowercase());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut site = site.lock().unwrap();
        site.uids.extend(uid_of(peer));
        let (status, text) = if head[0].starts_with("post") {
            let Some(status) = site.status else {
                site.hanging += 1;
                drop(site);
                // Until the client has had enough.
                reader.read_line(&mut String::new())?;
                return Ok(());
            };
            site.posted.push(String::from_utf8(body).unwrap());
            (status, String::from("ok"))
        } else if head[0].contains("/groups/") {
            let results = json!([{ "pk": "the-key", "name": "Developers" }]);
            (
                200,
                json!({ "pagination": { "next": 0, "count": 1, "current": 1 }, "results": results })
                    .to_string(),
            )
        } else {
            let user = |(pk, name): (usize, &&str)| json!({ "pk": pk, "username": name, "name": name, "email": format!("{name}@example.org"), "is_active": true });
            let results: Vec<_> = site.members.iter().enumerate().map(user).collect();
            let page = json!({ "next": 0, "count": results.len(), "current": 1 });
            (200, json!({ "pagination": page, "results": results }).to_string())
        };
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
    }
}

/// The owner of the connected socket with this local port. One whose process was killed has none: it shows as root's.
fn uid_of(port: u16) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let at = format!(":{port:04X}");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.len() > 9 && row[1].ends_with(&at) && row[3] == ESTABLISHED)?;
    row[7].parse().ok().filter(|_| row[9] != "0")
}

fn person(name: &str, tier: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: {tier}}}\n")
}

fn save(machine: &Machine, people: &[String], code: i32) {
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}", people.concat()));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(code);
}

/// What was announced so far.
fn texts(site: &Mutex<Site>) -> Vec<String> {
    let text =
        |body: &String| serde_json::from_str::<Value>(body).unwrap()["text"].as_str().unwrap().to_owned();
    site.lock().unwrap().posted.iter().map(text).collect()
}

/// A machine that tells a webhook.
fn announcing(suite: Suite, site: &Arc<Mutex<Site>>) -> Machine {
    let address = serve(site);
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/webhook", format!("{address}/hook\n"));
    machine.sh("chmod 600 /etc/rosterd/webhook").ok();
    let config = "host = \"devvm\"\n[announce]\nwebhook_file = \"/etc/rosterd/webhook\"\n";
    machine.write_file("/etc/rosterd/config.toml", config);
    machine
}

fn each_thing_is_announced_once_whatever_the_server_does_and_metrics_follow(suite: Suite) {
    let site = Arc::new(Mutex::new(Site { status: Some(500), ..Site::default() }));
    let address = serve(&site);
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/webhook", format!("{address}/services/THE-SECRET\n"));
    machine.sh("chmod 600 /etc/rosterd/webhook").ok();
    let config = "host = \"devvm\"\n[announce]\nwebhook_file = \"/etc/rosterd/webhook\"\n\
                  [metrics]\ntextfile = \"/var/lib/node-exporter/rosterd.prom\"\n";
    machine.write_file("/etc/rosterd/config.toml", config);
    let (ann, bea) = (person("ann", "power-user"), person("bea", "power-user"));
    save(&machine, &[ann.clone(), bea.clone()], 0);
    machine.eventually("the server refuses", Duration::from_secs(30), |_| {
        (!site.lock().unwrap().posted.is_empty()).then_some(())
    });
    // What is queued survives a restart, and then the server takes it.
    machine.run(&["systemctl", "kill", "-s", "KILL", "rosterd"]).ok();
    machine.eventually("it is started again", Duration::from_secs(30), |m| {
        (m.run(&["rosterctl", "status"]).status == 0).then_some(())
    });
    machine.run(&["systemctl", "restart", "rosterd"]).ok();
    {
        let mut site = site.lock().unwrap();
        site.status = Some(200);
        site.posted.clear();
    }
    let texts = || texts(&site);
    let sent = |expected: &[&str]| {
        machine.eventually("all is announced", Duration::from_secs(40), |_| {
            (texts().len() >= expected.len()).then_some(())
        });
        assert_eq!(texts(), expected);
    };
    let mut all = vec!["[devvm] ann joined: the account is made", "[devvm] bea joined: the account is made"];
    sent(&all);
    save(&machine, std::slice::from_ref(&bea), 0);
    all.push("[devvm] ann left and is cut; account and files stay");
    sent(&all);
    // Held is announced once, however often it is looked at.
    save(&machine, &[], 4);
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(4);
    all.push("[devvm] a roster is held: the roster is empty, everybody would be cut (bea); `rosterctl confirm` lets it proceed");
    sent(&all);
    save(&machine, &[bea], 0);
    machine.run(&["rosterctl", "offboard", "ann", "--yes", "ann"]).ok();
    machine.eventually("the removal is announced", Duration::from_secs(40), |_| {
        (texts().len() > all.len()).then_some(())
    });
    assert!(
        texts()
            .pop()
            .unwrap()
            .starts_with("[devvm] ann is removed; account and home are kept in /var/backups/rosterd/ann-")
    );
    // Root spoke to no network, and the address is in no record.
    let rosterd: u32 = machine.run(&["id", "-u", "rosterd"]).ok().trim().parse().unwrap();
    let uids = site.lock().unwrap().uids.clone();
    assert!(!uids.is_empty() && uids.iter().all(|uid| *uid == rosterd), "{uids:?}");
    assert!(!machine.sh("journalctl --no-pager -o export").ok().contains("THE-SECRET"));
    assert_eq!(machine.journal(&["MESSAGE_ID=5f0d9b3a4e7c4b60a2c81e95d7f4036b"]).len(), all.len() + 1);

    let metrics = machine.read_file("/var/lib/node-exporter/rosterd.prom");
    for line in [
        "rosterd_subjects{state=\"converged\"} 2",
        "rosterd_subjects{state=\"cut\"} 0",
        "rosterd_subjects{state=\"degraded\"} 0",
        "rosterd_roster_waiting{cause=\"held\"} 0",
        "rosterd_cuts_total 1",
        "rosterd_runs_total{outcome=\"failed\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    let held: u32 = metrics
        .lines()
        .find_map(|l| l.strip_prefix("rosterd_runs_total{outcome=\"held\"} "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(held >= 2, "{metrics}");
    let names = |kind: &str| metrics.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!(names("# HELP"), names("# TYPE"));
    assert_eq!(
        machine.sh("ls -A /var/lib/node-exporter; stat -c %a /var/lib/node-exporter/rosterd.prom").ok(),
        "rosterd.prom\n644\n"
    );
}

fn a_webhook_that_hangs_holds_up_no_run_and_gets_each_thing_once(suite: Suite) {
    let site = Arc::new(Mutex::new(Site::default()));
    let machine = announcing(suite, &site);
    let names = ["ann", "bea", "cid", "dan"];
    let mut people = Vec::new();
    let hanging = || site.lock().unwrap().hanging;
    for name in names {
        people.push(person(name, "power-user"));
        // While the first is still waiting for its answer, everybody's account is made.
        save(&machine, &people, 0);
        machine.eventually("the server is asked", Duration::from_secs(30), |_| (hanging() > 0).then_some(()));
    }
    assert_eq!(hanging(), 1, "one at a time, and it is still waiting");
    for kill in ["KILL", "TERM"] {
        machine.run(&["systemctl", "kill", "-s", kill, "rosterd"]).ok();
        machine.eventually("it is started again", Duration::from_secs(60), |m| {
            (m.run(&["rosterctl", "status"]).status == 0).then_some(())
        });
    }
    assert_eq!(texts(&site), Vec::<String>::new());
    site.lock().unwrap().status = Some(200);
    machine.run(&["systemctl", "restart", "rosterd"]).ok();
    machine.eventually("all is announced", Duration::from_secs(90), |_| {
        (texts(&site).len() >= names.len()).then_some(())
    });
    let expected: Vec<_> =
        names.iter().map(|name| format!("[devvm] {name} joined: the account is made")).collect();
    assert_eq!(texts(&site), expected);
    // Nothing is left to be told, and nothing is told again.
    machine.run(&["systemctl", "restart", "rosterd"]).ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    save(&machine, &people[1..], 0);
    machine.eventually("the next one is announced", Duration::from_secs(40), |_| {
        (texts(&site).len() > names.len()).then_some(())
    });
    assert_eq!(texts(&site)[names.len()..], ["[devvm] ann left and is cut; account and files stay"]);
}

/// Lets all that is degraded be so since a day and an hour ago. The ledger is whole before and after.
fn a_day_passes(machine: &Machine) {
    machine.run(&["systemctl", "stop", "rosterd.socket", "rosterd.service"]).ok();
    let envelope = machine.read_file("/var/lib/rosterd/ledger.json");
    let (_, body) = envelope.split_once("\"ledger\":").unwrap();
    let mut ledger: Value = serde_json::from_str(body.trim_end().strip_suffix('}').unwrap()).unwrap();
    let ago = machine.sh("date -u -d '25 hours ago' +%Y-%m-%dT%H:%M:%SZ").ok();
    for degraded in ledger["degraded"].as_object_mut().unwrap().values_mut() {
        degraded["since"] = json!(ago.trim());
    }
    let body = ledger.to_string();
    machine.write_file("/root/body", &body);
    let sum = machine.sh("sha256sum /root/body | cut -c1-64").ok();
    let envelope = format!("{{\"format\":1,\"sha256\":\"{}\",\"ledger\":{body}}}", sum.trim());
    machine.write_file("/var/lib/rosterd/ledger.json", envelope);
    machine
        .sh("chmod 600 /var/lib/rosterd/ledger.json && systemctl start rosterd.socket rosterd.service")
        .ok();
}

fn who_is_degraded_for_more_than_a_day_is_announced_once_and_so_is_their_recovery(suite: Suite) {
    let site = Arc::new(Mutex::new(Site { status: Some(200), ..Site::default() }));
    let machine = announcing(suite, &site);
    machine.sh("install -d /home/bea").ok();
    let people = [person("ann", "power-user"), person("bea", "power-user")];
    save(&machine, &people, 3);
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    let mut all = vec![String::from("[devvm] ann joined: the account is made")];
    let until = |all: &[String]| {
        machine.eventually("it is announced", Duration::from_secs(40), |_| {
            (texts(&site).len() >= all.len()).then_some(())
        });
        assert_eq!(texts(&site), all);
    };
    until(&all);
    a_day_passes(&machine);
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    all.push("[devvm] bea is degraded for more than a day: /home/bea exists and belongs to uid 0: no account is made \
              around a home that may be somebody else's".into());
    until(&all);
    // However often it is looked at, and by whom.
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    machine.run(&["systemctl", "restart", "rosterd"]).ok();
    let _ = machine.run(&["rosterctl", "reconcile"]).exits(3);
    machine.run(&["rmdir", "/home/bea"]).ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    all.extend(["[devvm] bea joined: the account is made", "[devvm] bea has recovered"].map(str::to_owned));
    until(&all);
    machine.run(&["rosterctl", "reconcile"]).ok();
    save(&machine, &people[1..], 0);
    all.push("[devvm] ann left and is cut; account and files stay".into());
    until(&all);
}

/// From the group of the identity provider to the removal and back, and then only the journal is read.
fn the_life_of_one_person_is_told_by_the_journal_alone_invariant_10(suite: Suite) {
    let site = Arc::new(Mutex::new(Site { members: vec!["ann"], ..Site::default() }));
    let address = serve(&site);
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/token", "secret-token\n");
    machine.sh("chmod 600 /etc/rosterd/token").ok();
    let config = format!(
        "[membership]\nmode = \"apply\"\nauthentik = \"{address}\"\ngroup = \"Developers\"\ntoken_file = \"/etc/rosterd/token\"\n"
    );
    machine.write_file("/etc/rosterd/config.toml", config);
    save(&machine, &[person("ann", "admin")], 0);
    let wait = || drop(machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok());
    let members = |all: &[&'static str]| {
        site.lock().unwrap().members = all.to_vec();
        machine.run(&["rosterctl", "membership", "apply"]).ok();
        wait();
    };
    let user = |argv: &[&str]| {
        let argv: Vec<&str> = ["rosterctl", "user"].into_iter().chain(argv.iter().copied()).collect();
        machine.run(&argv).ok();
        wait();
    };
    is_told(&machine, "before all");
    members(&["ann", "dave"]);
    is_told(&machine, "joined");
    machine.sh_as("dave", "echo work > ~/work").ok();
    user(&["set", "dave", "tier=power-user", "namespaces="]);
    is_told(&machine, "with another tier");
    user(&["park", "dave"]);
    is_told(&machine, "parked");
    user(&["unpark", "dave"]);
    is_told(&machine, "no longer parked");
    members(&["ann"]);
    is_told(&machine, "left");
    let text = machine.read_file("/etc/rosterd/roster.yaml");
    let is_note = |line: &str| line.trim_start().starts_with('#') && line.contains("dave");
    assert!(text.lines().any(is_note), "{text}");
    machine.run(&["rosterctl", "offboard", "dave", "--yes", "dave"]).ok();
    wait();
    is_told(&machine, "removed");
    let archive = machine.sh("ls /var/backups/rosterd/dave-*.json").ok();
    machine.run(&["rosterctl", "restore-account", archive.trim()]).ok();
    wait();
    is_told(&machine, "restored");
    // An account of the name exists, so the group alone does not decide that it is the same person.
    members(&["ann", "dave"]);
    assert!(!machine.read_file("/etc/ttyd-user-map").contains("dave"));
    user(&["add", "dave", "authentik_user=dave", "k8s_user=dave", "tier=power-user"]);
    assert_eq!(machine.read_file("/home/dave/work"), "work\n");
    is_told(&machine, "back again");

    // Each of them once.
    let once = |kind: &str| machine.journal(&["ROSTERD_USER=dave", &format!("ROSTERD_STEP={kind}")]).len();
    for step in ["create-account", "cut", "lock-login", "return", "restore-login"] {
        assert_eq!(once(step), 1, "{step}");
    }
    // Each record of a step names its run and generation, and how it is taken back where it can be.
    for record in machine.journal(&["ROSTERD_USER=dave", &format!("MESSAGE_ID={DONE}")]) {
        assert!(record.get("ROSTERD_RUN").is_some() && record.get("ROSTERD_GENERATION").is_some());
    }
    let cut = machine.journal(&["ROSTERD_USER=dave", "ROSTERD_STEP=lock-login"]);
    assert_eq!(cut[0].get("ROSTERD_INVERSE"), Some("usermod --expiredate \"\" dave"));
}

const CHANGED: &str = "5a4c1b7f0e6d4f0b9d3a7c2e81f65b04";
const DONE: &str = "37e7b5abc11242ec968e2a048936e263";
const REMOVED: &str = "c1f4b8d0a5634f67b0b9a4e7d2f35a18";
const RESTORED: &str = "e93a6f1c7d2b4c0c8a54f16b0d7e2943";

/// How it is with somebody.
#[derive(Debug, Default, Clone, PartialEq)]
struct Life {
    /// The tier, while they are in the roster.
    tier: Option<String>,
    parked: bool,
    /// While there is an account.
    uid: Option<String>,
    is_cut: bool,
    login_is_withheld: bool,
    /// Where what was theirs is kept, while it is removed.
    archive: Option<String>,
}

/// As the journal has it: nothing but fields of the records about them, from the first to the last; no message.
fn told(machine: &Machine) -> Life {
    let (mut life, mut last_uid) = (Life::default(), None);
    for record in machine.journal(&["ROSTERD_USER=dave"]) {
        let field =
            |name: &str| record.get(name).unwrap_or_else(|| panic!("no {name}: {record:?}")).to_owned();
        match record.get("MESSAGE_ID").unwrap_or_default() {
            CHANGED => match field("ROSTERD_CHANGE").as_str() {
                "joined" | "tier" => life.tier = Some(field("ROSTERD_TO")),
                "left" => (life.tier, life.parked) = (None, false),
                "parked" => life.parked = field("ROSTERD_TO") == "true",
                _ => {}
            },
            DONE => match field("ROSTERD_STEP").as_str() {
                "create-account" => {
                    (life.uid, last_uid) = (Some(field("ROSTERD_TARGET")), Some(field("ROSTERD_TARGET")))
                }
                "cut" => life.is_cut = true,
                "return" => life.is_cut = false,
                "lock-login" => life.login_is_withheld = true,
                "restore-login" => life.login_is_withheld = false,
                _ => {}
            },
            REMOVED => (life.uid, life.archive, life.is_cut) = (None, Some(field("ROSTERD_ARCHIVE")), false),
            RESTORED => (life.uid, life.archive, life.is_cut) = (last_uid.clone(), None, true),
            _ => {}
        }
    }
    life
}

/// As it is.
fn truth(machine: &Machine) -> Life {
    let desired = machine.run(&["rosterctl", "derive", "--json"]).json();
    let account = &desired["accounts"]["dave"];
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    let shadow = machine.sh("grep ^dave: /etc/shadow || true").ok();
    let there = machine.sh("ls -A /home /var/backups/rosterd 2>/dev/null || true").ok();
    let uid = machine.sh("id -u dave 2>/dev/null || true").ok();
    let archive = machine.sh("ls /var/backups/rosterd/dave-*.json 2>/dev/null || true").ok();
    let is_removed = uid.is_empty() && !archive.is_empty();
    assert_eq!(there.lines().any(|name| name == "dave"), !uid.is_empty(), "{there}");
    Life {
        tier: account["tier"].as_str().map(str::to_owned),
        parked: account["parked"].as_bool().unwrap_or_default(),
        uid: Some(uid.trim().to_owned()).filter(|uid| !uid.is_empty()),
        is_cut: status["subjects"]["dave"]["state"] == "cut",
        // It expired long ago. Of one that is removed, the archive has it.
        login_is_withheld: shadow.trim_end().ends_with(":1:") || is_removed,
        archive: is_removed.then(|| archive.trim().to_owned()),
    }
}

#[track_caller]
fn is_told(machine: &Machine, when: &str) {
    assert_eq!(told(machine), truth(machine), "{when}");
}
