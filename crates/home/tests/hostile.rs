//! What people, servers and workers may try. Each test also looks at what did not happen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use home::{Limits, Worker, WorkerError};
use roster::observed::{HomeObserved, Place};
use roster::plan::{Action, HomeAction};
use roster::report::StepResult;

use support::{GitServer, Somebody, run};
use work::{LIMITS, clone, home, next, person, program, start, start_within, wanted, why};

/// The living processes of a uid.
fn processes_of(uid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let status = |path: &PathBuf| fs::read_to_string(path.join("status")).unwrap_or_default();
    let lives =
        |status: String| status.contains(&format!("\nUid:\t{uid}\t")) && !status.contains("\nState:\tZ");
    entries.filter(|path| lives(status(path))).collect()
}

async fn assert_gone(uid: u32) {
    for _ in 0..100 {
        if processes_of(uid).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still there: {:?}", processes_of(uid));
}

async fn look(at: &Somebody, path: &str) -> HomeObserved {
    let mut worker = start(at).await;
    let seen = worker.observe(&home(&[&wanted(path, "https://git.example/x.git", false)])).await.unwrap();
    worker.finish();
    seen
}

#[tokio::test]
async fn invariant_3_a_worker_seen_from_outside_is_the_user_and_nothing_else() {
    let ana = Somebody::new();
    let inherited = fs::File::open("/etc/shadow").unwrap();
    // As a socket from systemd is: it survives an exec.
    nix::fcntl::fcntl(&inherited, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let groups = vec![61_990, 61_991];
    let worker = Worker::start(&program(), &home::Person { groups, ..person(&ana) }, LIMITS).await.unwrap();
    drop(inherited);
    let [process] = processes_of(ana.uid).try_into().unwrap();
    let status = fs::read_to_string(process.join("status")).unwrap();
    let uid = ana.uid;
    for line in [
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        format!("Gid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        "Groups:\t61990 61991".into(),
        "CapPrm:\t0000000000000000".into(),
        "CapEff:\t0000000000000000".into(),
        "CapAmb:\t0000000000000000".into(),
        "NoNewPrivs:\t1".into(),
        "Umask:\t0077".into(),
        "Threads:\t1".into(),
    ] {
        assert!(status.contains(&line), "{line} in\n{status}");
    }
    assert_eq!(fs::read(process.join("environ")).unwrap(), b"", "no environment");
    assert_eq!(fs::read_link(process.join("cwd")).unwrap(), ana.home);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(process.join("mem")).unwrap());
    assert_eq!(owner, 0, "not dumpable, so the user cannot read its memory");
    for fd in fs::read_dir(process.join("fd")).unwrap() {
        let leads = fs::read_link(fd.unwrap().path()).unwrap();
        assert!(leads == ana.home || leads.to_string_lossy().starts_with("pipe:"), "{leads:?}");
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    for (name, value) in [
        ("Max core file size", "0"),
        ("Max data size", "536870912"),
        ("Max processes", "0"),
        ("Max cpu time", "30"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(value), "{line}");
    }
    // Dropped, it is killed.
    drop(worker);
    assert_gone(ana.uid).await;
}

#[tokio::test]
async fn invariant_3_a_worker_dies_with_its_daemon() {
    let ana = Somebody::new();
    let fifo = ana.base().join("requests");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("{} worker <{} & wait", program().display(), fifo.display());
    let mut daemon = Command::new("sh").arg("-c").arg(script).spawn().unwrap();
    let mut requests = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let home = ana.home.display();
    let uid = ana.uid;
    writeln!(
        requests,
        r#"{{"Become":{{"user":"ana","uid":{uid},"gid":{uid},"groups":[],"home":"{home}","memory_mib":64,"max_clone_mib":64,"deadline_s":60,"task":{{"Home":{{"mirrors":"/var/cache/rosterd/mirror"}}}}}}}}"#
    )
    .unwrap();
    while processes_of(uid).is_empty() {
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(100));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_gone(uid).await;
    drop(requests);
}

#[tokio::test]
async fn planted_things_are_told_not_followed_and_not_waited_for() {
    let (ana, other) = (Somebody::new(), Somebody::new());
    other.mkdir("infra");
    fs::set_permissions(&other.home, fs::Permissions::from_mode(0o755)).unwrap();
    let repository = |folder: &str| {
        ana.mkdir(folder);
        ana.git_ok(folder, &["init", "-q"]);
    };
    let other_place = |what: &str| Place::Other(what.into());
    let fifo = |path: &str| {
        nix::unistd::mkfifo(&ana.path(path), nix::sys::stat::Mode::S_IRWXU).unwrap();
        chown(ana.path(path), Some(ana.uid), Some(ana.uid)).unwrap();
    };
    symlink("/etc", ana.path("etc")).unwrap();
    symlink(&other.home, ana.path("neighbour")).unwrap();
    fifo("fifo");
    ana.write("file", "");
    fs::create_dir(ana.path("roots")).unwrap();
    ana.mkdir("closed");
    fs::set_permissions(ana.path("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    repository("waiting");
    fs::remove_file(ana.path("waiting/.git/config")).unwrap();
    fifo("waiting/.git/config");
    repository("linked");
    fs::remove_file(ana.path("linked/.git/config")).unwrap();
    symlink("/etc/passwd", ana.path("linked/.git/config")).unwrap();
    repository("huge");
    ana.write("huge/.git/config", vec![b'\n'; (1 << 20) + 1]);
    repository("malformed");
    ana.write("malformed/.git/config", "[core]\n\tbare = false\n[remote \"origin\nurl = x\n");
    repository("secret");
    ana.git_ok("secret", &["remote", "add", "origin", "https://ana:t0ken@git.example/\u{1b}[2Jx.git"]);
    ana.mkdir("worktree");
    ana.write("worktree/.git", "gitdir: /etc");
    ana.mkdir("half");
    ana.mkdir("half/.git");
    ana.mkdir("bare");
    ana.git_ok("bare", &["init", "-q", "--bare"]);
    let before = (ana.snapshot(), other.snapshot());

    let started = Instant::now();
    for (path, expected) in [
        ("etc", other_place("a symlink")),
        ("etc/ssl", other_place("a place behind a symlink")),
        ("neighbour/infra", other_place("a place behind a symlink")),
        ("fifo", other_place("a FIFO")),
        ("fifo/infra", other_place("a place below something that is no folder")),
        ("file", other_place("a file")),
        ("roots", other_place("a folder that belongs to uid 0")),
        ("closed", Place::Unreadable("permission denied".into())),
        ("waiting", Place::Unreadable("its .git/config: it is a FIFO".into())),
        ("linked", Place::Unreadable("its .git/config: it is a symlink".into())),
        ("huge", Place::Unreadable("its .git/config: it is bigger than 1048576 bytes".into())),
        ("malformed", Place::Unreadable("its .git/config: line 3 is malformed".into())),
        (
            "secret",
            Place::Clone { origin: Some("https://git.example/\u{fffd}[2Jx.git".into()), locked: false },
        ),
        ("worktree", other_place("a folder whose .git is a file")),
        ("half", other_place("a folder whose .git is no repository")),
        ("bare", other_place("a bare repository")),
        ("../home", Place::Unreadable("Cross-device link".into())),
    ] {
        assert_eq!(look(&ana, path).await.clones[path], expected, "{path}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((ana.snapshot(), other.snapshot()), before);
}

#[tokio::test]
async fn a_login_is_not_read_from_elsewhere() {
    let (server, ana, other) = (GitServer::start(), Somebody::new(), Somebody::new());
    server.plain("private.git");
    let login = format!("http://ana:t%3aken%2F1@127.0.0.1:{}\n", server.port);
    other.write("credentials", &login);
    fs::set_permissions(&other.home, fs::Permissions::from_mode(0o755)).unwrap();
    let file = ana.path(".git-credentials");
    let url = server.url("private", "private.git");
    symlink(other.path("credentials"), &file).unwrap();
    let failed = clone(&ana, "code", &url, false).await;
    assert!(why(&failed).ends_with("~/.git-credentials is not read: it is a symlink"), "{failed:?}");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    chown(&file, Some(ana.uid), Some(ana.uid)).unwrap();
    let failed = clone(&ana, "code", &url, false).await;
    assert!(why(&failed).ends_with("~/.git-credentials is not read: it is a FIFO"), "{failed:?}");
    assert!(server.log().lines().all(|line| line.contains("\"-\" 401")), "{}", server.log());
    assert!(!ana.path("code").exists());
}

#[tokio::test]
async fn the_persons_git_configuration_and_hooks_run_nothing() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.encrypted("x.git");
    let touch = |name: &str| format!("sh -c 'touch {}/{name}'", ana.home.display());
    ana.mkdir("template");
    ana.mkdir("template/hooks");
    ana.write("template/hooks/post-checkout", format!("#!/bin/sh\n{}\n", touch("ran-hook")));
    fs::set_permissions(ana.path("template/hooks/post-checkout"), fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = ana.path("template/hooks").display().to_string();
    ana.write(
        ".gitconfig",
        format!(
            "[core]\n\tfsmonitor = {0}\n\thooksPath = {hooks}\n\tsshCommand = {0}\n[init]\n\ttemplateDir = {1}\n[credential]\n\thelper = !{0}\n\
             [filter \"git-crypt\"]\n\tsmudge = {0}\n\tclean = {0}\n[url \"ext::{0} \"]\n\tinsteadOf = http://\n[http]\n\tproxy = http://127.0.0.1:1\n",
            touch("ran-config"),
            ana.path("template").display()
        ),
    );
    assert_eq!(clone(&ana, "code", &server.url("public", "x.git"), true).await, StepResult::Done);
    assert!(
        why(&clone(&ana, "private", &server.url("private", "x.git"), true).await)
            .contains("asks for a login")
    );
    assert!(
        fs::read_dir(&ana.home).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("ran-"))
    );
    assert!(fs::read(ana.path("code/secrets/db")).unwrap().starts_with(b"\0GITCRYPT\0"));
}

#[tokio::test]
async fn a_home_that_is_not_the_persons_own_folder_is_refused() {
    let (ana, other) = (Somebody::new(), Somebody::new());
    symlink(&other.home, ana.base().join("link")).unwrap();
    fs::write(ana.base().join("file"), "").unwrap();
    for (home, said) in [
        (ana.base().join("link"), "it is not a folder but a symlink or a file"),
        (ana.base().join("file"), "it is not a folder but a symlink or a file"),
        (ana.base().join("none"), "there is none"),
        (other.home.clone(), &*format!("it belongs to uid {}", other.uid)),
    ] {
        let someone = home::Person { home, ..person(&ana) };
        let error = Worker::start(&program(), &someone, LIMITS).await.unwrap_err();
        assert!(error.to_string().ends_with(said), "{error}");
    }
    for uid in [0, 1, 999, 65_534] {
        let error =
            Worker::start(&program(), &home::Person { uid, ..person(&ana) }, LIMITS).await.unwrap_err();
        assert!(error.to_string().contains("is a system account's"), "{error}");
    }
    assert_gone(ana.uid).await;
}

/// A server that says what it likes.
fn server(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.git", listener.local_addr().unwrap());
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    url
}

#[tokio::test]
async fn invariant_4_a_server_that_hangs_costs_its_user_the_deadline() {
    let ana = Somebody::new();
    let url = server(|stream| {
        sleep(Duration::from_secs(60));
        drop(stream);
    });
    let limits = Limits { deadline: Duration::from_secs(2), ..LIMITS };
    let started = Instant::now();
    let mut worker = start_within(&ana, limits).await.unwrap();
    let hangs = HomeAction::Clone(wanted("code", &url, false));
    let failed = worker.apply(&hangs).await;
    assert!((1..5).contains(&started.elapsed().as_secs()));
    assert_eq!(why(&failed), "the server does not answer");
    assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 0);
    let late = worker.apply(&hangs).await;
    assert_eq!(why(&late), "not tried: what came before it has used up the time for one home");
    // What needs no server needs no time of it.
    let made = worker.apply(&HomeAction::MakeFolder { path: "code".into() }).await;
    assert_eq!(made, StepResult::Done);
    worker.finish();
    assert_gone(ana.uid).await;
}

/// One that hangs, one that sends without end, one too big: each has its share of the time and leaves nothing, and the last
/// one, which is as it should be, is there.
#[tokio::test]
async fn invariant_4_bad_repositories_do_not_take_the_time_of_the_others_of_the_same_person() {
    let (git, ana) = (GitServer::start(), Somebody::new());
    git.plain("good.git");
    let noise = |to: &mut dyn std::io::Write| {
        let mut content = vec![0; 3 << 20];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut content).unwrap();
        write!(to, "M 644 inline noise\ndata {}\n", content.len()).unwrap();
        to.write_all(&content).unwrap();
        to.write_all(b"\n").unwrap();
    };
    git.empty("big.git");
    git.import("big.git", noise);
    let silent = server(|stream| {
        sleep(Duration::from_secs(60));
        drop(stream);
    });
    let messages = "working on it\n".repeat(1000);
    let endless = server(move |stream| self::endless(stream, 2, b"hello\n", messages.as_bytes()));
    let urls = [
        ("code/a", silent),
        ("code/b", endless),
        ("code/c", git.url("public", "big.git")),
        ("code/d", git.url("public", "good.git")),
    ];
    let clones: Vec<_> = urls.iter().map(|(path, url)| wanted(path, url, false)).collect();
    let desired = home(&clones.iter().collect::<Vec<_>>());
    let plan = roster::plan::home(&person(&ana).user, &desired, &HomeObserved::of_a_new_home(&desired));
    let limits = Limits { deadline: Duration::from_secs(12), max_clone_mib: 1, ..LIMITS };
    let mut worker = start_within(&ana, limits).await.unwrap();
    worker.prepare(&plan).await;
    let mut told = String::new();
    for step in &plan.steps {
        let Action::Home(action) = &step.action else { panic!("{step}") };
        let result = worker.apply(action).await;
        let HomeAction::Clone(clone) = action else { continue };
        let said = if result == StepResult::Done { "done" } else { why(&result) };
        told += &format!("{}: {}\n", clone.path, said.rsplit(&format!("~/{}: ", clone.path)).next().unwrap());
    }
    worker.finish();
    assert_eq!(
        told,
        "code/a: the server does not answer\n\
         code/b: the server sends more than 1 MiB\n\
         code/c: the server sends more than 1 MiB\n\
         code/d: done\n"
    );
    let left: Vec<_> =
        fs::read_dir(ana.path("code")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["d"]);
}

/// Answers a clone properly up to the pack, then goes on with `body` for ever.
fn endless(mut stream: TcpStream, band: u8, first: &[u8], body: &[u8]) {
    let packet = |content: &[u8]| [format!("{:04x}", content.len() + 4).as_bytes(), content].concat();
    let chunk = |content: &[u8]| [format!("{:x}\r\n", content.len()).as_bytes(), content, b"\r\n"].concat();
    let mut request = [0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut request) {
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let kind = if request.starts_with("GET") { "advertisement" } else { "result" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-{kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        if request.starts_with("GET") {
            let id = "1".repeat(40);
            let refs = [
                packet(b"# service=git-upload-pack\n"),
                b"0000".to_vec(),
                packet(
                    format!("{id} HEAD\0side-band-64k ofs-delta symref=HEAD:refs/heads/main\n").as_bytes(),
                ),
                packet(format!("{id} refs/heads/main\n").as_bytes()),
                b"0000".to_vec(),
            ];
            let _ = stream.write_all(&[chunk(&refs.concat()), b"0\r\n\r\n".to_vec()].concat());
            continue;
        }
        let start = [packet(b"NAK\n"), packet(&[&[band][..], first].concat())].concat();
        let more = chunk(&packet(&[&[band][..], body].concat()));
        let mut sent = stream.write_all(&chunk(&start));
        while sent.is_ok() {
            sleep(Duration::from_millis(2));
            sent = stream.write_all(&more);
        }
    }
}

#[tokio::test]
async fn invariant_4_a_server_that_never_stops_sending_is_cut_off_and_cleaned_up_after() {
    // A blob of a size without end, in stored blocks of zeros.
    let pack = b"PACK\0\0\0\x02\0\0\0\x01\xbf\xff\xff\xff\xff\xff\x7f\x78\x01";
    let block = [&[0, 0x00, 0x80, 0xff, 0x7f][..], &[0; 0x8000]].concat();
    let messages = "working on it\n".repeat(1000);
    let urls = [
        server(move |stream| endless(stream, 1, pack, &block)),
        server(move |stream| endless(stream, 2, b"hello\n", messages.as_bytes())),
    ];
    for url in urls {
        let ana = Somebody::new();
        let limits = Limits { deadline: Duration::from_secs(3), memory_mib: 64, ..work::LIMITS };
        let mut worker = start_within(&ana, limits).await.unwrap();
        let failed = worker.apply(&HomeAction::Clone(wanted("code", &url, false))).await;
        assert!(
            why(&failed).ends_with("it is not done after 2 s, its share of the time for one home"),
            "{failed:?}"
        );
        worker.finish();
        assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 0);
        assert_gone(ana.uid).await;
    }
}

#[tokio::test]
async fn invariant_4_a_worker_has_a_memory_limit() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let work = server.empty("bomb.git");
    let bomb = fs::File::create(work.join("bomb")).unwrap();
    bomb.set_len(200 << 20).unwrap();
    server.git(&work, &["add", "."]);
    server.git(&work, &["commit", "-qm", "Bomb"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    let limits = Limits { memory_mib: 48, ..LIMITS };
    let mut worker = start_within(&ana, limits).await.unwrap();
    let failed =
        worker.apply(&HomeAction::Clone(wanted("code", &server.url("public", "bomb.git"), false))).await;
    worker.finish();
    assert!(why(&failed).contains("memory"), "{failed:?}");
    assert!(next(&failed).contains("worker.memory_mib"));
    assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 0);
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_killed_and_told() {
    let ana = Somebody::new();
    let limits = Limits { deadline: Duration::from_secs(2), ..LIMITS };
    let ready = r#"echo '{"Ready":{"landlock":"enforced"}}'; read x;"#;
    let observed = |text: &str| format!("read x; {ready} echo '{{\"Observed\":{text}}}'; sleep 60");
    for (script, said) in [
        ("head -c 20000000 /dev/zero; sleep 60".to_owned(), "a line that is too long"),
        ("echo '\"Done\"'; sleep 60".to_owned(), "not what was asked"),
        ("echo hello; sleep 60".to_owned(), "the worker's answer makes no sense"),
        (format!("echo '{}'; sleep 60", "[".repeat(100_000)), "the worker's answer makes no sense"),
        (
            "printf 'no\\033[2J\\nMESSAGE=x' >&2; exit 3".to_owned(),
            "exit status: 3: no\u{fffd}[2J\u{fffd}MESSAGE=x",
        ),
        ("yes >&2 & sleep 60".to_owned(), "gave up after 2 s while becoming ana"),
        (
            observed(r#"{"code":"absent","clones":{"../../etc":"absent"},"unfinished":[]}"#),
            "other places than were asked for",
        ),
        (
            observed(r#"{"code":"absent","clones":{"code":"absent"},"unfinished":["work"]}"#),
            "an unfinished clone that cannot be one",
        ),
        (observed(r#"{"code":"absent","clones":{},"unfinished":[]}"#), "other places than were asked for"),
        (format!("read x; {ready} sleep 60"), "gave up after 2 s while looking at the home"),
    ] {
        let program = ana.base().join("program");
        let pid = ana.base().join("pid");
        fs::write(&program, format!("#!/bin/sh\nPATH=/usr/bin:/bin\necho $$ >{}\n{script}\n", pid.display()))
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let error = match Worker::start(&program, &person(&ana), limits).await {
            Err(error) => error,
            Ok(mut worker) => {
                let error = worker
                    .observe(&home(&[&wanted("code", "https://git.example/x", false)]))
                    .await
                    .unwrap_err();
                assert!(matches!(
                    worker.apply(&HomeAction::MakeFolder { path: "x".into() }).await,
                    StepResult::Failed { .. }
                ));
                error
            }
        };
        assert!(error.to_string().contains(said), "{script:.60}: {error}");
        assert!(error.to_string().len() < 4000 && !error.next().is_empty());
        let pid = fs::read_to_string(pid).unwrap();
        for _ in 0..100 {
            let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if status.is_empty() || status.contains(") Z ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = Command::new("pkill").args(["-KILL", "-P", pid.trim()]).status();
    }
    let missing = Worker::start(&ana.base().join("none"), &person(&ana), limits).await.unwrap_err();
    assert!(matches!(missing, WorkerError::Start { .. }), "{missing}");
}

#[tokio::test]
async fn certificates_are_checked_against_the_systems_authorities() {
    let (mut git, ana) = (GitServer::start(), Somebody::new());
    git.plain("x.git");
    let dir = ana.base();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(std::process::Stdio::null()));
    let port = git.serve_tls(&certificate, &key);
    let url = format!("https://127.0.0.1:{port}/public/x.git");
    let refused = clone(&ana, "code", &url, false).await;
    assert!(why(&refused).contains("its certificate is not trusted"), "{refused:?}");
    assert!(next(&refused).contains("update-ca-certificates"));

    // The same worker on a machine that trusts it, in a mount namespace of its own.
    let (trusting, authorities) = (dir.join("trusting"), dir.join("authorities"));
    fs::create_dir(&authorities).unwrap();
    fs::copy(&certificate, authorities.join("ours.pem")).unwrap();
    run(Command::new("openssl").arg("rehash").arg(&authorities));
    fs::write(
        &trusting,
        format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\nexec unshare -m sh -c 'mount --bind {} /etc/ssl/certs && exec {} worker'\n",
            authorities.display(),
            program().display()
        ),
    )
    .unwrap();
    fs::set_permissions(&trusting, fs::Permissions::from_mode(0o755)).unwrap();
    let mut worker = Worker::start(&trusting, &person(&ana), LIMITS).await.unwrap();
    assert_eq!(worker.apply(&HomeAction::Clone(wanted("code", &url, false))).await, StepResult::Done);
    let wrong_name = url.replace("127.0.0.1", "127.0.0.2");
    let refused = worker.apply(&HomeAction::Clone(wanted("other", &wrong_name, false))).await;
    assert!(why(&refused).contains("its certificate is not trusted"), "{refused:?}");
    worker.finish();
}
