//! Who is told: a webhook, a monitoring, and whoever reads nothing but the journal. And a roster that comes from git.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine_tests::{Forge, Machine, Suite, on_each_debian};
use serde_json::{Value, json};

on_each_debian!(
    each_thing_is_announced_once_whatever_the_server_does_and_metrics_follow,
    a_roster_comes_from_git_with_its_commit_and_stays_when_that_fails_invariant_2,
    the_life_of_one_person_is_told_by_the_journal_alone_invariant_10
);

/// What the server of a test answers, and what it was asked.
#[derive(Default)]
struct Site {
    /// The status of every answer to a POST.
    status: u16,
    posted: Vec<String>,
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
            site.posted.push(String::from_utf8(body).unwrap());
            (site.status, String::from("ok"))
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

fn each_thing_is_announced_once_whatever_the_server_does_and_metrics_follow(suite: Suite) {
    let site = Arc::new(Mutex::new(Site { status: 500, ..Site::default() }));
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
        site.status = 200;
        site.posted.clear();
    }
    let texts = || -> Vec<String> {
        let site = site.lock().unwrap();
        let text =
            |body: &String| serde_json::from_str::<Value>(body).unwrap()["text"].as_str().unwrap().to_owned();
        site.posted.iter().map(text).collect()
    };
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

fn a_roster_comes_from_git_with_its_commit_and_stays_when_that_fails_invariant_2(suite: Suite) {
    let mut forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let people = |names: &[&str]| -> String {
        let all: String = names.iter().map(|name| person(name, "power-user")).collect();
        format!("# reviewed\nusers:\n{all}")
    };
    let url = forge.url("website");
    let config = |more: &str| {
        let text = format!(
            "[source]\ngit = \"{url}\"\nref = \"master\"\npath = \"roster.yaml\"\ninterval_s = 10\n{more}"
        );
        machine.write_file("/etc/rosterd/config.toml", text);
    };
    let status = || machine.run(&["rosterctl", "status", "--json"]).json();
    let until = |what: &str, is: &dyn Fn(&Value) -> bool| {
        machine.eventually(what, Duration::from_secs(60), |_| Some(status()).filter(|status| is(status)))
    };
    let is_here = |name: &'static str| move |status: &Value| status["subjects"][name]["state"] == "converged";
    forge.push("website", "roster.yaml", &people(&["ann", "bea"]));
    config("");
    let first = until("ann is here", &is_here("ann"));
    let commit = forge.head("website");
    assert_eq!(first["commit"], commit.as_str());
    assert!(machine.run(&["rosterctl", "status"]).ok().contains(&commit[..12]));
    let accepted = machine.journal(&["MESSAGE_ID=0c36f454c6f2483eb7e458385af15721"]);
    assert_eq!(accepted.last().unwrap().get("ROSTERD_COMMIT"), Some(commit.as_str()));
    // She is there before the run that made her has ended.
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.run(&["rosterctl", "history", "--json"]).json()[0]["commit"], commit.as_str());
    assert_eq!(machine.sh("stat -c %U /var/cache/rosterd/source/*.git/HEAD").ok(), "rosterd\n");
    let out = machine
        .run(&["rosterctl", "user", "add", "eve", "authentik_user=eve", "k8s_user=eve", "tier=power-user"])
        .exits(1);
    assert!(out.stderr.contains("comes from"), "{out}");

    // An invalid roster is not taken over, and neither is one that nobody can fetch.
    forge.push("website", "roster.yaml", "users: {ann: {teir: admin}}\n");
    let waits = until("it waits", &|status| status["waiting"]["cause"] == "invalid");
    assert_eq!((&waits["commit"], &waits["subjects"]["ann"]["state"]), (&json!(commit), &json!("converged")));
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid"]));
    until("cid is here", &is_here("cid"));
    forge.down();
    let failed = until("the failure is told", &|status| status["source"]["failed"].is_object());
    assert_eq!(failed["subjects"]["cid"]["state"], "converged");
    assert!(machine.run(&["rosterctl", "status"]).stdout.contains("not fetched since"));
    machine.run(&["rosterctl", "reconcile"]).ok();
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid", "dan"]));
    forge.up();
    until("dan is here", &is_here("dan"));
    assert_eq!(machine.journal(&["MESSAGE_ID=d40b8e27f1a94c6e9a3d5c18b7e602f9"]).len(), 1, "told once");

    // Signed, by somebody who may.
    let key = forge.work("website").with_file_name("key");
    let key = key.to_str().unwrap();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", key])
        .status()
        .unwrap();
    assert!(made.success());
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    machine.write_file("/etc/rosterd/allowed_signers", format!("admin@example.org {public}"));
    config("allowed_signers = \"/etc/rosterd/allowed_signers\"\n");
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid", "dan", "mal"]));
    until("it is refused", &|status| {
        status["source"]["failed"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("is not signed by anybody who may"))
    });
    assert_eq!(status()["subjects"]["mal"], Value::Null);
    let roster = forge.work("website").join("roster.yaml");
    std::fs::write(roster, people(&["ann", "bea", "cid", "dan", "sig"])).unwrap();
    let signing = format!("user.signingKey={key}");
    forge.git("website", &["-c", "gpg.format=ssh", "-c", &signing, "commit", "-qaS", "-m", "Signed"]);
    forge.git("website", &["push", "--quiet", "origin", "HEAD"]);
    let signed = until("the signed one is taken", &is_here("sig"));
    assert_eq!(signed["commit"], forge.head("website").as_str());
    assert_eq!(signed["subjects"]["mal"], Value::Null);
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
    members(&["ann", "dave"]);
    machine.sh_as("dave", "echo work > ~/work").ok();
    user(&["set", "dave", "tier=power-user", "namespaces="]);
    user(&["park", "dave"]);
    user(&["unpark", "dave"]);
    members(&["ann"]);
    let text = machine.read_file("/etc/rosterd/roster.yaml");
    let is_note = |line: &str| line.trim_start().starts_with('#') && line.contains("dave");
    assert!(text.lines().any(is_note), "{text}");
    machine.run(&["rosterctl", "offboard", "dave", "--yes", "dave"]).ok();
    let archive = machine.sh("ls /var/backups/rosterd/dave-*.json").ok();
    machine.run(&["rosterctl", "restore-account", archive.trim()]).ok();
    // An account of the name exists, so the group alone does not decide that it is the same person.
    members(&["ann", "dave"]);
    assert!(!machine.read_file("/etc/ttyd-user-map").contains("dave"));
    user(&["add", "dave", "authentik_user=dave", "k8s_user=dave", "tier=power-user"]);
    assert_eq!(machine.read_file("/home/dave/work"), "work\n");

    // Nothing but fields: who, which step, and the kind of the record.
    let kind = |id: &str| match id {
        "5a4c1b7f0e6d4f0b9d3a7c2e81f65b04" => "roster",
        "37e7b5abc11242ec968e2a048936e263" => "done",
        "c1f4b8d0a5634f67b0b9a4e7d2f35a18" => "removed",
        "e93a6f1c7d2b4c0c8a54f16b0d7e2943" => "restored",
        _ => "",
    };
    let told: Vec<String> = machine
        .journal(&["ROSTERD_USER=dave"])
        .iter()
        .filter_map(|record| match kind(record.get("MESSAGE_ID")?) {
            "" => None,
            "roster" => Some(record.message().to_owned()),
            "done" => record.get("ROSTERD_STEP").filter(|step| *step != "set-env-keys").map(str::to_owned),
            kind => Some(kind.to_owned()),
        })
        .collect();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let in_order = [
        "dave: joined",
        "create-account",
        "dave: tier",
        "dave: parked",
        "dave: ",
        "dave: left",
        "cut",
        "lock-login",
        "removed",
        "restored",
        "dave: joined",
        "return",
        "restore-login",
    ];
    let mut rest = told.iter();
    for step in in_order {
        assert!(
            rest.any(|found| found.starts_with(step)),
            "{step} is not told, or not in its place: {told:#?}"
        );
    }
    for once in ["create-account", "cut", "lock-login", "removed", "restored", "return", "restore-login"] {
        assert_eq!(told.iter().filter(|found| **found == once).count(), 1, "{once}: {told:#?}");
    }
    // Each record of a step names its run and generation.
    for record in machine.journal(&["ROSTERD_USER=dave", "MESSAGE_ID=37e7b5abc11242ec968e2a048936e263"]) {
        assert!(record.get("ROSTERD_RUN").is_some() && record.get("ROSTERD_GENERATION").is_some());
    }
}
