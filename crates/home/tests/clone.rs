//! Clones from a real git server, looked at with the person's own git.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use roster::observed::Place;
use roster::plan::HomeAction;
use roster::report::StepResult;

use support::{GitServer, Somebody};
use work::{clone, home, next, start, wanted, why};

const HEADER: &[u8] = b"\0GITCRYPT\0";

fn assert_normal_clone(ana: &Somebody, folder: &str, url: &str) {
    assert_eq!(ana.git_ok(folder, &["status", "--porcelain", "--ignored"]), "");
    ana.git_ok(folder, &["fsck", "--full", "--strict"]);
    assert_eq!(ana.git_ok(folder, &["rev-parse", "--abbrev-ref", "HEAD", "@{u}"]), "main\norigin/main\n");
    assert_eq!(
        ana.git_ok(folder, &["symbolic-ref", "refs/remotes/origin/HEAD"]),
        "refs/remotes/origin/main\n"
    );
    assert_eq!(ana.git_ok(folder, &["config", "remote.origin.url"]), format!("{url}\n"));
    assert_eq!(
        ana.git_ok(folder, &["config", "remote.origin.fetch"]),
        "+refs/heads/*:refs/remotes/origin/*\n"
    );
    assert_eq!(ana.git_ok(folder, &["tag"]), "v1\n");
    let owner = fs::metadata(ana.path(folder)).unwrap();
    assert_eq!((owner.uid(), owner.gid(), owner.mode() & 0o777), (ana.uid, ana.uid, 0o755));
    let mode = |path: &str| fs::metadata(ana.path(folder).join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("README.md"), mode("src/run.sh"), mode(".git/config")), (0o644, 0o755, 0o644));
}

#[tokio::test]
async fn a_workspace_is_made_of_normal_clones() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let work = server.plain("infra.git");
    server.plain("tripit.git");
    let infra = wanted("code/infra", &server.url("public", "infra.git"), false);
    let tripit = wanted("code/tripit", &server.url("public", "tripit.git"), false);
    let desired = home(&[&infra, &tripit]);

    let mut worker = start(&ana).await;
    let before = worker.observe(&desired).await.unwrap();
    assert_eq!((&before.code, &before.clones["code/infra"]), (&Place::Absent, &Place::Absent));
    assert_eq!(worker.apply(&HomeAction::MakeFolder { path: "code".into() }).await, StepResult::Done);
    assert_eq!(worker.observe(&desired).await.unwrap().code, Place::EmptyFolder);
    for one in [&infra, &tripit] {
        assert_eq!(worker.apply(&HomeAction::Clone(one.clone())).await, StepResult::Done);
    }
    let after = worker.observe(&desired).await.unwrap();
    worker.finish();

    assert_eq!(after.code, Place::Folder);
    for one in [&infra, &tripit] {
        let expected = Place::Clone { origin: Some(one.url.clone()), locked: false };
        assert_eq!(after.clones[&one.path], expected);
        assert_normal_clone(&ana, &one.path, &one.url);
    }
    assert_eq!(after.unfinished, [""; 0]);
    assert_eq!(fs::read_dir(ana.path("code")).unwrap().count(), 2, "nothing is left beside");
    assert_eq!(fs::read(ana.path("code/infra/a.bat")).unwrap(), b"echo\r\n");
    assert_eq!(fs::read_link(ana.path("code/infra/run")).unwrap().to_str(), Some("src/run.sh"));

    // The clone is the person's: it goes on with their own git.
    fs::write(work.join("README.md"), "# newer\n").unwrap();
    server.git(&work, &["commit", "-qam", "Second"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    ana.git_ok("code/infra", &["pull", "-q", "--ff-only"]);
    assert_eq!(fs::read_to_string(ana.path("code/infra/README.md")).unwrap(), "# newer\n");
    ana.git_ok("code/infra", &["checkout", "-q", "other"]);
    assert_eq!(ana.git_ok("code/infra", &["rev-parse", "--abbrev-ref", "@{u}"]), "origin/other\n");
}

#[tokio::test]
async fn a_locked_clone_keeps_secrets_encrypted_and_plain_text_out_until_it_is_unlocked() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let key = server.encrypted("infra.git");
    let url = server.url("public", "infra.git");
    let infra = wanted("code", &url, true);
    let mut worker = start(&ana).await;
    assert_eq!(worker.apply(&HomeAction::Clone(infra.clone())).await, StepResult::Done);
    let seen = worker.observe(&home(&[&infra])).await.unwrap();
    worker.finish();
    assert_eq!(seen.code, Place::Clone { origin: Some(url.clone()), locked: true });
    assert_normal_clone(&ana, "code", &url);

    let secret = |path: &str| fs::read(ana.path(path)).unwrap();
    let first = secret("code/secrets/db");
    assert!(first.starts_with(HEADER));
    assert!(secret("code/secrets/empty").starts_with(HEADER));

    // The person's own git keeps it so: another branch, a worktree, files whose times changed.
    ana.git_ok("code", &["checkout", "-q", "rotated"]);
    assert!(secret("code/secrets/db").starts_with(HEADER));
    assert_ne!(secret("code/secrets/db"), first);
    ana.git_ok("code", &["checkout", "-q", "main"]);
    assert_eq!(secret("code/secrets/db"), first);
    ana.git_ok("code", &["worktree", "add", "-q", "../tree", "rotated"]);
    assert!(secret("tree/secrets/db").starts_with(HEADER));
    assert_eq!(ana.git_ok("tree", &["status", "--porcelain"]), "");
    support::run(ana.command("touch").args(["code/secrets/db", "code/secrets/empty", "code/README.md"]));
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    assert!(
        ana.git_ok("code", &["diff", "main", "rotated"])
            .contains("Binary files a/secrets/db and b/secrets/db differ")
    );

    // Plain text over a secret, or as a new one, is refused, also in a worktree.
    let head = ana.git_ok("code", &["rev-parse", "HEAD"]);
    for (folder, file) in [("code", "secrets/db"), ("code", "secrets/new"), ("tree", "secrets/db")] {
        ana.write(&format!("{folder}/{file}"), "a secret in plain text, long enough\n");
        for arguments in [&["add", file][..], &["commit", "-qm", "x", file], &["commit", "-qam", "x"]] {
            if file.ends_with("new") && arguments[0] == "commit" {
                continue;
            }
            let refused = ana.git(folder, arguments);
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(!refused.status.success(), "{arguments:?}");
            assert!(
                said.contains(&format!("{file}: plain text")) && said.contains("this clone is locked"),
                "{said}"
            );
        }
        match file {
            "secrets/new" => fs::remove_file(ana.path("code/secrets/new")).unwrap(),
            _ => drop(ana.git_ok(folder, &["checkout", "-q", "--", file])),
        }
    }
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), head);
    let objects = ana.git_ok("code", &["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]);
    for object in objects.lines() {
        let content = ana.git("code", &["cat-file", "-p", object]).stdout;
        assert!(!content.starts_with(b"a secret in plain"), "{object} is in the repository");
    }

    // Ciphertext of another person with the key may be committed, and other files are as ever.
    let other = ana.git("code", &["show", "rotated:secrets/db"]).stdout;
    assert!(other.starts_with(HEADER));
    ana.write("code/secrets/db", &other);
    ana.write("code/README.md", "# changed\n");
    ana.git_ok("code", &["commit", "-qam", "Take over"]);
    assert_eq!(ana.git("code", &["show", "HEAD:secrets/db"]).stdout, other);
    ana.git_ok("code", &["reset", "-q", "--hard", "origin/main"]);

    // A plain unlock takes over.
    fs::copy(&key, ana.path("key")).unwrap();
    std::os::unix::fs::chown(ana.path("key"), Some(ana.uid), Some(ana.uid)).unwrap();
    support::run(ana.command("git-crypt").args(["unlock", "../key"]).current_dir(ana.path("code")));
    assert_eq!(secret("code/secrets/db"), b"the database password\n");
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    ana.write("code/secrets/db", "a new password\n");
    ana.git_ok("code", &["commit", "-qam", "New password"]);
    assert!(ana.git("code", &["cat-file", "-p", "HEAD:secrets/db"]).stdout.starts_with(HEADER));
    let mut worker = start(&ana).await;
    let seen = worker.observe(&home(&[&infra])).await.unwrap();
    worker.finish();
    assert_eq!(seen.code, Place::Clone { origin: Some(url), locked: false });
}

#[tokio::test]
async fn a_private_repository_is_opened_by_the_persons_own_login() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("private.git");
    let (port, url) = (server.port, server.url("private", "private.git"));

    let refused = clone(&ana, "code", &url, false).await;
    assert_eq!(why(&refused), "the server asks for a login, and ~/.git-credentials has none for it");
    assert!(next(&refused).ends_with(&format!("http://NAME:TOKEN@127.0.0.1:{port}")));
    assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 0);

    // Wrong ones and others' are there too; each is tried once.
    let wrong = format!("http://ana:wrong@127.0.0.1:{port}\n");
    ana.write(
        ".git-credentials",
        format!("https://ana:s3cret@git.example\nhttp://ana:s3cret@127.0.0.1\n{wrong}"),
    );
    let refused = clone(&ana, "code", &url, false).await;
    assert!(why(&refused).ends_with("it refused what ~/.git-credentials has for it"), "{refused:?}");
    ana.write(".git-credentials", format!("{wrong}http://ana:t%3aken%2F1@127.0.0.1:{port}\n"));
    assert_eq!(clone(&ana, "code", &url, false).await, StepResult::Done);
    assert_normal_clone(&ana, "code", &url);

    let config = fs::read_to_string(ana.path("code/.git/config")).unwrap();
    assert!(!config.contains("ken") && !format!("{refused:?}").contains("wrong"), "invariant 7");
    // "ana:s3cret", which is for another host and for another port.
    assert!(!server.log().contains("YW5hOnMzY3JldA"), "invariant 7: a login went to another server");
}

#[tokio::test]
async fn invariant_7_a_redirect_to_another_host_gets_no_login() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("private.git");
    let port = server.port;
    let login = |host: &str| format!("http://ana:t%3aken%2F1@{host}:{port}\n");
    ana.write(".git-credentials", login("127.0.0.1") + &login("localhost"));
    let refused = clone(&ana, "code", &server.url("elsewhere", "private.git"), false).await;
    assert!(why(&refused).contains("the server sends to another host"), "{refused:?}");
    assert!(
        server.log().lines().all(|line| line.starts_with("127.0.0.1 ") && line.contains("\"-\"")),
        "{}",
        server.log()
    );

    // To another path of the same host is as git does it.
    assert_eq!(clone(&ana, "code", &server.url("moved", "private.git"), false).await, StepResult::Done);
}

#[tokio::test]
async fn an_empty_repository_and_one_without_its_default_branch_are_cloned() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.empty("empty.git");
    server.plain("headless.git");
    server.git(&server.bare("headless.git"), &["symbolic-ref", "HEAD", "refs/heads/gone"]);
    server.plain("detached.git");
    let bare = server.bare("detached.git");
    server.git(&bare, &["update-ref", "--no-deref", "HEAD", "v1"]);
    for name in ["empty", "headless", "detached"] {
        let url = server.url("public", &format!("{name}.git"));
        assert_eq!(clone(&ana, name, &url, true).await, StepResult::Done, "{name}");
        assert_eq!(ana.git_ok(name, &["status", "--porcelain"]), "");
    }
    assert_eq!(ana.git_ok("headless", &["branch", "-r"]), "  origin/main\n  origin/other\n");
    assert!(ana.path("detached/README.md").exists());

    // A first commit into the empty one arrives.
    let work = server.empty("first.git");
    server.git(&work, &["commit", "-q", "--allow-empty", "-m", "First"]);
    server.git(&work, &["push", "-q", server.bare("empty.git").to_str().unwrap(), "main:master"]);
    ana.git_ok("empty", &["pull", "-q", "--ff-only"]);
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_what_to_do() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, said) in [
        (server.url("public", "none.git"), "there is no such repository, or it is private"),
        (server.url("broken", "x.git"), "503"),
        (server.url("forbidden", "x.git"), "the server forbids it"),
        (format!("http://{closed}/x.git"), "connection refused"),
        ("http://no-such-host.invalid/x.git".into(), "no address is known for no-such-host.invalid"),
        ("ssh://git@127.0.0.1/x.git".into(), "only https:// and http:// are possible"),
        ("git@127.0.0.1:x.git".into(), "only https:// and http:// are possible"),
        (format!("file://{}", server.bare("x.git").display()), "only https:// and http:// are possible"),
        ("ext::sh -c 'touch ~/run'".into(), "only https:// and http:// are possible"),
        ("http://ana:t0ken@127.0.0.1/x.git".into(), "has a login in it"),
        (format!("https://127.0.0.1:{}/x.git", server.port), "it does not answer as a TLS server: SSL error"),
    ] {
        let failed = clone(&ana, "code", &url, false).await;
        assert!(why(&failed).contains(said), "{url}: {failed:?}");
        assert!(!why(&failed).contains("t0ken") && !next(&failed).is_empty());
        assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 0, "{url} left something");
    }
}

#[tokio::test]
async fn an_existing_target_is_never_touched() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("x.git");
    let url = server.url("public", "x.git");
    ana.mkdir("folder");
    ana.mkdir("folder/.git");
    ana.write("file", "mine");
    std::os::unix::fs::symlink("folder", ana.path("link")).unwrap();
    let before = ana.snapshot();
    for target in ["folder", "file", "link", "link/below", "file/below", "missing/below"] {
        let failed = clone(&ana, target, &url, false).await;
        assert!(why(&failed).starts_with(&format!("cannot make ~/{target}: ")), "{failed:?}");
    }
    assert_eq!(ana.snapshot(), before);
}

#[tokio::test]
async fn an_interrupted_clone_is_found_removed_and_made_again() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("x.git");
    let one = wanted("code", &server.url("public", "x.git"), false);
    // As `kill -9` leaves it, with a tree as deep as a repository can be and symlinks that lead out of it.
    let left = ".code.rosterd-unfinished";
    ana.mkdir(left);
    ana.write("keep", "mine");
    std::os::unix::fs::symlink(ana.path("keep"), ana.path(left).join("link")).unwrap();
    std::os::unix::fs::symlink(&ana.home, ana.path(left).join("home")).unwrap();
    ana.mkdir_deep(left, 1500);

    let mut worker = start(&ana).await;
    let seen = worker.observe(&home(&[&one])).await.unwrap();
    assert_eq!(seen.unfinished, [left]);
    assert_eq!(worker.apply(&HomeAction::RemoveUnfinished { path: left.into() }).await, StepResult::Done);
    assert_eq!(worker.apply(&HomeAction::Clone(one)).await, StepResult::Done);
    worker.finish();
    assert_eq!(fs::read(ana.path("keep")).unwrap(), b"mine");
    assert!(!ana.path(left).exists());
}

#[tokio::test]
async fn invariant_5_killed_at_any_moment_the_next_run_converges() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let work = server.plain("x.git");
    for folder in 0..10 {
        fs::create_dir(work.join(format!("d{folder}"))).unwrap();
        for file in 0..20 {
            fs::write(work.join(format!("d{folder}/{file}")), format!("{folder} {file}\n").repeat(50))
                .unwrap();
        }
    }
    server.git(&work, &["add", "."]);
    server.git(&work, &["commit", "-qm", "Many"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    let one = wanted("code", &server.url("public", "x.git"), true);
    let (mut interrupted, mut whole) = (0, 0);
    let (mut moment, moments) = (0, 30);
    // At last it is given all the time it wants.
    while whole == 0 || moment < moments {
        moment += 1;
        let mut worker = start(&ana).await;
        let seen = worker.observe(&home(&[&one])).await.unwrap();
        for path in &seen.unfinished {
            assert_eq!(
                worker.apply(&HomeAction::RemoveUnfinished { path: path.clone() }).await,
                StepResult::Done
            );
            interrupted += 1;
        }
        match seen.code {
            Place::Absent => {
                let action = HomeAction::Clone(one.clone());
                let _ =
                    tokio::time::timeout(std::time::Duration::from_millis(moment * 5), worker.apply(&action))
                        .await;
                // Dropped here, which is SIGKILL.
            }
            Place::Clone { locked: true, .. } => {
                assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
                ana.git_ok("code", &["fsck", "--full"]);
                assert_eq!(fs::read_dir(&ana.home).unwrap().count(), 1);
                fs::remove_dir_all(ana.path("code")).unwrap();
                whole += 1;
            }
            half => panic!("{half:?}"),
        }
    }
    assert!(interrupted > 10, "{interrupted} interrupted, {whole} whole");
}

#[tokio::test]
async fn only_what_carries_the_mark_is_ever_removed() {
    let ana = Somebody::new();
    ana.mkdir("code");
    ana.write("code/work", "mine");
    std::os::unix::fs::symlink("code", ana.path(".code.rosterd-unfinished")).unwrap();
    let before = ana.snapshot();
    let mut worker = start(&ana).await;
    for path in ["code", ".", "", "..", "../..", "code/..", ".rosterd-unfinished", ".code.rosterd-unfinished"]
    {
        let failed = worker.apply(&HomeAction::RemoveUnfinished { path: path.into() }).await;
        assert!(why(&failed).starts_with("refused to remove"), "{path}: {failed:?}");
    }
    worker.finish();
    assert_eq!(ana.snapshot(), before);
}

#[tokio::test]
async fn a_full_disk_fails_that_clone_and_leaves_nothing() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let work = server.empty("big.git");
    let noise: Vec<u8> =
        (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (i >> 7) as u8).collect();
    fs::write(work.join("big"), noise).unwrap();
    server.git(&work, &["add", "."]);
    server.git(&work, &["commit", "-qm", "Big"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    let options = format!("size=1m,uid={0},gid={0},mode=700", ana.uid);
    support::run(
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "home"]).arg(&ana.home),
    );
    let failed = clone(&ana, "code", &server.url("public", "big.git"), false).await;
    let left = fs::read_dir(&ana.home).unwrap().count();
    support::run(std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(&ana.home));
    let read_only = clone(&ana, "code", &server.url("public", "big.git"), false).await;
    support::run(std::process::Command::new("umount").arg("-l").arg(&ana.home));
    assert!(why(&failed).ends_with("the disk is full"), "{failed:?}");
    assert_eq!(left, 0);
    assert!(why(&read_only).ends_with("read-only file system"), "{read_only:?}");
}

#[tokio::test]
async fn a_home_nobody_may_enter_is_told() {
    let ana = Somebody::new();
    fs::set_permissions(&ana.home, fs::Permissions::from_mode(0o0)).unwrap();
    let error = work::start_within(&ana, work::LIMITS).await.unwrap_err();
    assert!(error.to_string().ends_with("cannot be used: permission denied"), "{error}");
    assert!(error.next().contains("ana owns and may enter"));
}
