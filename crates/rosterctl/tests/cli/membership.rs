//! `rosterctl membership` against a stand-in for Authentik that can be as wrong as a server can be.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::{Done, Place};

const ROSTER: &str = "\
users:
  alice: {authentik_user: alice, k8s_user: alice, tier: admin}
  carol: {authentik_user: carol, k8s_user: carol, tier: power-user}
";

/// The group's members, and what is wrong with the server.
#[derive(Clone)]
struct Site {
    groups: Vec<&'static str>,
    members: Vec<String>,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Accepts, and says nothing.
    Silent,
    /// Ends in the middle of a page.
    Truncates,
    /// A page that never ends.
    Endless,
    WrongTypes,
    Refuses,
    Redirects,
    /// Forgets somebody on the second page.
    Forgets,
}

/// What was asked, with the token.
type Log = Arc<Mutex<Vec<String>>>;

fn serve(site: Site) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let written = Arc::clone(&log);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (site, log) = (site.clone(), Arc::clone(&written));
            thread::spawn(move || connection(stream.unwrap(), &site, &log));
        }
    });
    (address, log)
}

fn connection(stream: TcpStream, site: &Site, log: &Log) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        log.lock().unwrap().push(head.clone());
        // Whoever asks may be gone by now; that is its right.
        if answer(&mut stream, site, &head).is_err() {
            return;
        }
    }
}

fn answer(stream: &mut TcpStream, site: &Site, head: &str) -> std::io::Result<()> {
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let body = match path.contains("/groups/") {
        true => groups(site),
        false => users(site, &path),
    }
    .to_string();
    let length = body.len();
    match site.fault {
        Fault::Silent => loop {
            thread::park();
        },
        Fault::Truncates if path.contains("/users/") => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", &body[..length / 2])?;
            stream.shutdown(std::net::Shutdown::Both)
        }
        Fault::Endless if path.contains("/users/") => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                write!(stream, "10000\r\n{}\r\n", " ".repeat(0x10000))?;
            }
        }
        Fault::Refuses => {
            write!(stream, "HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n{body}")
        }
        Fault::Redirects => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        }
        _ => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
    }
}

fn groups(site: &Site) -> Value {
    let results: Vec<_> = site.groups.iter().map(|name| json!({ "pk": "the-key", "name": name })).collect();
    json!({ "pagination": { "next": 0, "previous": 0, "count": results.len(), "current": 1 }, "results": results })
}

fn users(site: &Site, path: &str) -> Value {
    let parameter = |name: &str| {
        let (_, query) = path.split_once('?').unwrap();
        query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap().to_owned()
    };
    assert_eq!(parameter("groups_by_pk"), "the-key");
    let (page, size): (usize, usize) =
        (parameter("page").parse().unwrap(), parameter("page_size").parse().unwrap());
    let from = (page - 1) * size;
    let forgotten = usize::from(site.fault == Fault::Forgets && page == 2);
    let results: Vec<_> = site.members.iter().enumerate().skip(from + forgotten).take(size - forgotten)
        .map(|(key, login)| {
            let name = if site.fault == Fault::WrongTypes { json!(7) } else { json!(login) };
            json!({ "pk": key, "username": name, "name": "Some One", "email": format!("{login}@example.org"), "is_active": true })
        })
        .collect();
    let next = if from + size < site.members.len() { page + 1 } else { 0 };
    json!({ "pagination": { "next": next, "count": site.members.len(), "current": page }, "results": results })
}

fn site(members: &[&str]) -> Site {
    Site {
        groups: vec!["T3 Users"],
        members: members.iter().map(|login| (*login).to_owned()).collect(),
        fault: Fault::None,
    }
}

fn place(server: &str, mode: &str) -> Place {
    let place = Place::new();
    let folder = place.path().display().to_string();
    place.write(
        "config.toml",
        &format!(
            "[roster]\npath = \"{folder}/roster.yaml\"\n[membership]\nmode = \"{mode}\"\nauthentik = \"{server}\"\n\
             group = \"T3 Users\"\ntoken_file = \"{folder}/token\"\ndeadline_s = 2\n"
        ),
    );
    place.write("token", "s3cret\n");
    place.write("roster.yaml", ROSTER);
    place
}

/// Nobody in particular, for tests that root runs: root itself would need the system user that the package makes.
const NOBODY: u32 = 65_534;

fn membership(place: &Place, args: &[&str]) -> Done {
    let mut command = place.command(&[&["--config", "config.toml", "membership"], args].concat());
    if nix::unistd::geteuid().is_root() {
        let files = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in files.chain([place.path().to_owned()]) {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let done = ended(place, command);
    // Invariant 7.
    assert!(!done.stdout.contains("s3cret") && !done.stderr.contains("s3cret"), "{}", done.stderr);
    done
}

fn ended(place: &Place, mut command: Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text =
        |bytes| String::from_utf8(bytes).unwrap().replace(&place.path().display().to_string(), "PLACE");
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn roster(place: &Place) -> String {
    fs::read_to_string(place.path().join("roster.yaml")).unwrap()
}

#[test]
fn the_plan_shows_who_joins_and_leaves_and_apply_does_it() {
    let (server, log) = serve(site(&["alice", "dave.roe"]));
    let place = place(&server, "apply");
    insta::assert_snapshot!(membership(&place, &["plan"]).answer(2), @r"
    dave_roe: joins as namespace-owner with the namespace dave-roe (dave.roe is in the group)
    carol: leaves, the lines become comments (carol is not in the group)
    ");
    assert_eq!(roster(&place), ROSTER);
    let heads = log.lock().unwrap().join("");
    assert!(heads.contains("uthorization: Bearer s3cret") && heads.contains("name=T3+Users"), "{heads}");

    let done = membership(&place, &["apply"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stdout, "carol: left\ndave_roe: joined as namespace-owner\n");
    let text = roster(&place);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ROSTER.lines().collect::<Vec<_>>()[..2]);
    assert!(
        lines[2].ends_with(": carol left the group T3 Users; commented out by rosterctl membership"),
        "{text}"
    );
    assert_eq!(lines[3], "  # carol: {authentik_user: carol, k8s_user: carol, tier: power-user}");
    assert!(
        lines[4].ends_with(": Some One, joined the group T3 Users; added by rosterctl membership"),
        "{text}"
    );
    assert!(
        lines[5].starts_with(
            "  dave_roe: {authentik_user: dave.roe, k8s_user: dave_roe, email: dave.roe@example.org, "
        ),
        "{text}"
    );
    assert_eq!(fs::read_to_string(place.path().join("roster.yaml~")).unwrap(), ROSTER);

    let text = membership(&place, &["plan"]).answer(0);
    assert_eq!(text, "the group and PLACE/roster.yaml agree, 2 members\n");
}

#[test]
fn ten_thousand_members_come_over_their_pages() {
    let mut many = site(&["alice", "carol"]);
    many.members.extend((0..9_998).map(|number| format!("u{number}")));
    let (server, _) = serve(many);
    let place = place(&server, "report");
    let config = fs::read_to_string(place.path().join("config.toml")).unwrap();
    place.write("config.toml", &config.replace("deadline_s = 2", "deadline_s = 120"));
    let proposals = membership(&place, &["plan", "--json"]).json(2);
    assert_eq!(proposals.as_array().unwrap().len(), 9_998);
    assert!(proposals.as_array().unwrap().iter().all(|proposal| proposal["proposal"] == "join"));
}

#[test]
fn a_server_that_is_wrong_changes_nothing_and_is_told_invariant_8() {
    let many: Vec<String> = (0..150).map(|number| format!("u{number}")).collect();
    for (fault, why) in [
        (Fault::Silent, "it took longer than 2 s"),
        (Fault::Truncates, "api/v3/core/users/: error decoding response body"),
        (Fault::Endless, "the answer is larger than 4 MiB"),
        (Fault::WrongTypes, "the answer is not what Authentik answers"),
        (Fault::Refuses, "the server answers 403 Forbidden"),
        (Fault::Redirects, "the server answers 302 Found"),
        (Fault::Forgets, "149 members came of 150"),
    ] {
        let (server, _) = serve(Site { members: many.clone(), fault, ..site(&[]) });
        told(&place(&server, "apply"), why);
    }
    let two = Site { groups: vec!["T3 Users", "T3 Users"], ..site(&["alice"]) };
    told(&place(&serve(two).0, "apply"), "there are 2 groups that answer to \"T3 Users\"");
    let none = Site { groups: vec![], ..site(&["alice"]) };
    told(&place(&serve(none).0, "apply"), "there is no group \"T3 Users\"");
    told(&place(&serve(site(&[])).0, "apply"), "the group is empty, and nothing is concluded from that");
    told(&place(&serve(site(&["x", "y"])).0, "apply"), "not one of the 2 members is in the roster");
    told(&place("http://127.0.0.1:1", "apply"), "Connection refused");
}

#[track_caller]
fn told(place: &Place, why: &str) {
    for args in [&["plan"][..], &["apply"]] {
        let text = membership(place, args).complaint(1);
        assert!(text.contains(why) && text.contains("\n  next: "), "{text}");
    }
    assert_eq!(roster(place), ROSTER);
    assert!(!place.path().join("roster.yaml~").exists());
}

#[test]
fn the_mode_says_what_may_come_of_it() {
    let off = place("http://127.0.0.1:1", "off");
    let text = membership(&off, &["plan"]).complaint(1);
    assert!(text.starts_with("error: membership is off\n  next: "), "{text}");
    let report = place("http://127.0.0.1:1", "report");
    let text = membership(&report, &["apply"]).complaint(1);
    assert!(
        text.starts_with("error: [membership] mode is `report`, so the roster is not changed\n"),
        "{text}"
    );
}

#[test]
fn a_token_that_is_none_is_not_shown() {
    let place = place("http://127.0.0.1:1", "report");
    place.write("token", "s3cret\nand more\n");
    let text = membership(&place, &["plan"]).complaint(1);
    assert_eq!(text, "error: PLACE/token does not hold a token and nothing else\n");
}

/// Invariant 3: what speaks to the network has become somebody who is nobody.
#[test]
fn the_worker_of_root_is_the_system_user_invariant_3() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // A machine that has the user, whatever this one has.
    let rosterd = 987;
    let (server, log) = serve(Site { fault: Fault::Silent, ..site(&[]) });
    let place = place(&server, "report");
    let users: String = fs::read_to_string("/etc/passwd")
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("rosterd:"))
        .map(|line| format!("{line}\n"))
        .collect();
    place.write("passwd", &format!("{users}rosterd:x:{rosterd}:{rosterd}::/:/usr/sbin/nologin\n"));
    let script = "mount --bind passwd /etc/passwd && exec \"$0\" --config config.toml membership plan";
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_rosterctl")]).current_dir(place.path());
    let asked = thread::spawn(move || ended(&place, command).complaint(1));
    while log.lock().unwrap().is_empty() {
        assert!(!asked.is_finished(), "{:?}", asked.join());
        thread::yield_now();
    }
    let workers: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let line = fs::read_to_string(path.join("cmdline")).ok()?;
            let status = fs::read_to_string(path.join("status")).ok()?;
            line.contains("membership-worker").then_some(status)
        })
        .collect();
    let of = |status: &String, key: &str| {
        status.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned)).unwrap()
    };
    let expected = format!("\t{rosterd}\t{rosterd}\t{rosterd}\t{rosterd}");
    assert!(
        workers.iter().any(|status| {
            of(status, "Uid:") == expected
                && of(status, "CapEff:").trim().trim_matches('0').is_empty()
                && of(status, "CapPrm:").trim().trim_matches('0').is_empty()
                && of(status, "NoNewPrivs:").trim() == "1"
                && of(status, "Groups:").trim().is_empty()
        }),
        "{workers:?}"
    );
    assert!(asked.join().unwrap().contains("it took longer than 2 s"));
}
