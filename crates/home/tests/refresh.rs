//! The mirror and the refresh of clones, on a real git server and looked at with the person's own git.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use roster::desired::CloneDesired;
use roster::plan::HomeAction;
use roster::plan::refresh::{Way, way};
use roster::remote::Answer;
use roster::report::StepResult;

use mirror::Mirrors;
use support::{GitServer, Somebody};
use work::{home, start_within, wanted};

/// A clone as a run makes it; why the mirror failed, when it did.
async fn clone_mirrored(mirrors: &Mirrors, ana: &Somebody, wanted: &CloneDesired) -> Option<String> {
    let remotes = mirrors.remotes(&wanted.url).await;
    let way = way(&HomeAction::Clone(wanted.clone()), &remotes);
    assert!(matches!(way, Way::Mirror(_)), "{way:?}");
    let mut worker = start_within(ana, mirrors.limits).await.unwrap();
    let (result, why) = worker.apply_from(&HomeAction::Clone(wanted.clone()), &way).await;
    assert_eq!(result, StepResult::Done);
    worker.finish();
    why
}

/// Commits a file and pushes it, as a colleague.
fn push(server: &GitServer, work: &Path, file: &str, content: &str) -> String {
    fs::create_dir_all(work.join(file).parent().unwrap()).unwrap();
    fs::write(work.join(file), content).unwrap();
    server.git(work, &["add", "--all"]);
    server.git(work, &["commit", "-qm", &format!("Change {file}")]);
    server.git(work, &["push", "-q", "origin", "HEAD"]);
    server.git(work, &["rev-parse", "HEAD"])
}

fn requests(server: &GitServer, what: &str) -> usize {
    server.log().lines().filter(|line| line.contains(what)).count()
}

/// All that a person's git says about refs and settings.
fn facts(ana: &Somebody, folder: &str) -> String {
    [
        &["for-each-ref"][..],
        &["symbolic-ref", "HEAD"],
        &["config", "--local", "--list"],
        &["status", "--porcelain", "--ignored"],
        &["ls-files", "--stage"],
        &["rev-parse", "@{u}"],
    ]
    .map(|arguments| ana.git_ok(folder, arguments))
    .concat()
}

#[tokio::test]
async fn a_clone_from_the_mirror_is_what_the_server_would_have_given() {
    let (server, ana, bob, mirrors) = (GitServer::start(), Somebody::new(), Somebody::new(), Mirrors::new());
    let key = server.encrypted("infra.git");
    let url = server.url("public", "infra.git");
    for locked in [true, false] {
        let path = if locked { "code" } else { "plain" };
        let infra = wanted(path, &url, locked);
        assert_eq!(work::clone(&ana, path, &url, locked).await, StepResult::Done);
        assert_eq!(clone_mirrored(&mirrors, &bob, &infra).await, None);
        assert_eq!(facts(&ana, path), facts(&bob, path));
        for person in [&ana, &bob] {
            person.git_ok(path, &["fsck", "--full", "--strict"]);
            assert!(fs::read(person.path(path).join("secrets/db")).unwrap().starts_with(b"\0GITCRYPT\0"));
        }
    }
    assert!(!bob.path("code/.git/objects/info/alternates").exists(), "it depends on nothing");
    let pack = fs::read_dir(bob.path("code/.git/objects/pack")).unwrap().next().unwrap().unwrap();
    let pack = pack.metadata().unwrap();
    assert_eq!((pack.uid(), pack.nlink(), pack.mode() & 0o777), (bob.uid, 1, 0o444));
    let _ = key;

    // The network carried it once for the mirror and twice for ana.
    assert_eq!(requests(&server, "/public/infra.git/git-upload-pack"), 3);
    fs::remove_dir_all(mirrors.path()).unwrap();
    bob.git_ok("code", &["fsck", "--full"]);
    bob.git_ok("code", &["checkout", "-q", "rotated"]);
}

#[tokio::test]
async fn one_upstream_commit_is_one_fetch_of_the_mirror_and_each_clone_goes_forward_by_itself() {
    let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
    let work = server.plain("infra.git");
    let url = server.url("public", "infra.git");
    let infra = wanted("code", &url, true);
    clone_mirrored(&mirrors, &ana, &infra).await;
    let desired = home(&[&infra]);

    // Nothing moved: one request, and nothing is touched.
    let before = (ana.snapshot(), requests(&server, "info/refs"), requests(&server, "git-upload-pack HTTP"));
    let remotes = mirrors.remotes(&url).await;
    let nothing = mirrors.run(&ana, &desired, &remotes).await;
    assert_eq!((nothing.kinds(), nothing.told()), (vec![], vec![]));
    assert_eq!(ana.snapshot(), before.0);
    assert_eq!(requests(&server, "info/refs"), before.1 + 1);

    // A commit, a new branch, a new tag, a branch that goes.
    server.git(&work, &["push", "-q", "origin", "main:topic/a", ":other"]);
    let tip = push(&server, &work, "src/new/file with spaces", "new\n");
    server.git(&work, &["tag", "-a", "-m", "Second", "v2"]);
    server.git(&work, &["push", "-q", "--tags"]);
    let remotes = mirrors.remotes(&url).await;
    let log = server.log().len();
    let moved = mirrors.run(&ana, &desired, &remotes).await;
    assert_eq!((moved.kinds(), moved.told()), (vec!["fetch", "fast-forward"], vec![]));
    assert_eq!(moved.without_mirror, None);
    assert_eq!(server.log().len(), log, "the home asked nobody");
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), tip);
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    assert_eq!(ana.git_ok("code", &["tag"]), "v1\nv2\n");
    let branches = ana.git_ok("code", &["branch", "-r", "--format=%(refname:short)"]);
    assert_eq!(branches, "origin\norigin/main\norigin/topic/a\n");
    ana.git_ok("code", &["fsck", "--full", "--strict"]);
    assert!(
        !ana.path("code/.git/rosterd-fast-forward").exists() && !ana.path("code/.git/index.lock").exists()
    );
    let again = mirrors.run(&ana, &desired, &mirrors.remotes(&url).await).await;
    assert_eq!((again.kinds(), again.told()), (vec![], vec![]));
}

/// A clone that is current, and the remote one step further by what `change` does in the work tree that pushes.
struct OneStep {
    server: GitServer,
    mirrors: Mirrors,
    ana: Somebody,
    infra: CloneDesired,
    work: std::path::PathBuf,
}

impl OneStep {
    async fn new(prepare: impl FnOnce(&GitServer, &Path)) -> OneStep {
        let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
        let work = server.plain("infra.git");
        prepare(&server, &work);
        server.git(&work, &["add", "--all"]);
        server.git(&work, &["commit", "-q", "--allow-empty", "-m", "Prepared"]);
        server.git(&work, &["push", "-q", "origin", "HEAD"]);
        let infra = wanted("code", &server.url("public", "infra.git"), true);
        clone_mirrored(&mirrors, &ana, &infra).await;
        OneStep { server, mirrors, ana, infra, work }
    }

    fn push(&self, change: impl FnOnce(&Path)) -> String {
        change(&self.work);
        self.server.git(&self.work, &["add", "--all"]);
        self.server.git(&self.work, &["commit", "-qm", "Changed"]);
        self.server.git(&self.work, &["push", "-q", "origin", "HEAD"]);
        self.server.git(&self.work, &["rev-parse", "HEAD"])
    }

    async fn run(&self) -> mirror::Refreshed {
        let remotes = self.mirrors.remotes(&self.infra.url).await;
        self.mirrors.run(&self.ana, &home(&[&self.infra]), &remotes).await
    }

    fn assert_at(&self, tip: &str) {
        assert_eq!(self.ana.git_ok("code", &["rev-parse", "HEAD"]), tip);
        assert_eq!(self.ana.git_ok("code", &["status", "--porcelain"]), "");
        self.ana.git_ok("code", &["fsck", "--strict"]);
        let left =
            ["rosterd-fast-forward", "index.lock"].map(|name| self.ana.path("code/.git").join(name).exists());
        assert_eq!(left, [false, false]);
    }
}

fn remove(path: std::path::PathBuf) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

#[tokio::test]
async fn a_step_may_be_anything_that_a_commit_can_hold() {
    use std::os::unix::ffi::OsStrExt;
    let odd = |work: &Path, name: &[u8]| work.join(std::ffi::OsStr::from_bytes(name));
    let step = OneStep::new(|_, work| {
        fs::create_dir_all(work.join("folder/deep")).unwrap();
        for path in ["folder/deep/file", "folder/file", "becomes-folder", "mode", "becomes-link", "goes"] {
            fs::write(work.join(path), format!("{path}\n")).unwrap();
        }
        symlink("src", work.join("link")).unwrap();
        fs::write(odd(work, b"not \xff utf-8"), "old\n").unwrap();
        fs::write(work.join("dos.bat"), "one\n").unwrap();
    })
    .await;
    let tip = step.push(|work| {
        remove(work.join("folder"));
        remove(work.join("becomes-folder"));
        fs::create_dir(work.join("becomes-folder")).unwrap();
        fs::write(work.join("becomes-folder/in it"), "x\n").unwrap();
        fs::set_permissions(work.join("mode"), fs::Permissions::from_mode(0o755)).unwrap();
        remove(work.join("becomes-link"));
        symlink("/etc/passwd", work.join("becomes-link")).unwrap();
        remove(work.join("link"));
        symlink("src/run.sh", work.join("link")).unwrap();
        remove(work.join("goes"));
        fs::write(odd(work, b"not \xff utf-8"), "new\n").unwrap();
        fs::create_dir(odd(work, b"new \xfe folder")).unwrap();
        fs::write(odd(work, b"new \xfe folder/\n"), "x").unwrap();
        fs::write(work.join("dos.bat"), "two\n").unwrap();
    });
    let done = step.run().await;
    assert_eq!((done.kinds(), done.told()), (vec!["fetch", "fast-forward"], vec![]));
    step.assert_at(&tip);
    // As git itself would have written it.
    assert_eq!(fs::read(step.ana.path("code/dos.bat")).unwrap(), b"two\r\n");
    assert_eq!(fs::metadata(step.ana.path("code/mode")).unwrap().mode() & 0o777, 0o755);
    assert!(!step.ana.path("code/goes").exists());
    step.ana.git_ok("code", &["diff", "--quiet", "HEAD"]);
    // A new submodule is an empty folder until its person asks for it.
    let link = format!("160000,{},sub/module", tip.trim());
    step.server.git(&step.work, &["update-index", "--add", "--cacheinfo", &link]);
    step.server.git(&step.work, &["commit", "-qm", "A submodule"]);
    step.server.git(&step.work, &["push", "-q", "origin", "HEAD"]);
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"]);
    step.assert_at(&step.server.git(&step.work, &["rev-parse", "HEAD"]));
    assert_eq!(fs::read_dir(step.ana.path("code/sub/module")).unwrap().count(), 0);

    // A file where a folder or a symlink was is left to git itself, and told.
    for (change, part) in
        [("src", "makes a file of the folder src"), ("link", "makes a file of the symlink link")]
    {
        let tip = step.push(|work| {
            remove(work.join(change));
            fs::write(work.join(change), "a file\n").unwrap();
        });
        let done = step.run().await;
        assert!(done.told()[0].contains(part), "{:?}", done.told());
        step.ana.git_ok("code", &["merge", "-q", "--ff-only", "origin/main"]);
        step.assert_at(&tip);
    }
    // With nothing to go by but the content.
    support::run(step.ana.command("rm").arg("code/.git/index"));
    step.ana.git_ok("code", &["reset", "-q"]);
    assert_eq!(step.ana.git_ok("code", &["status", "--porcelain"]), "");
}

/// What git does not look at is not known to be clean.
#[tokio::test]
async fn a_file_that_git_was_told_to_look_away_from_is_never_replaced_invariant_1() {
    let step = OneStep::new(|_, work| {
        fs::write(work.join("assumed"), "theirs\n").unwrap();
        fs::write(work.join("skipped"), "theirs\n").unwrap();
    })
    .await;
    for (file, flag) in [("assumed", "--assume-unchanged"), ("skipped", "--skip-worktree")] {
        step.ana.git_ok("code", &["update-index", flag, file]);
        step.ana.write(&format!("code/{file}"), "mine\n");
    }
    assert_eq!(step.ana.git_ok("code", &["status", "--porcelain"]), "");
    for file in ["assumed", "skipped"] {
        step.push(|work| fs::write(work.join(file), "newer\n").unwrap());
        let done = step.run().await;
        assert!(done.told()[0].contains("look away from"), "{:?}", done.told());
        assert_eq!(fs::read(step.ana.path("code").join(file)).unwrap(), b"mine\n");
    }
}

#[tokio::test]
async fn an_open_file_keeps_its_content_and_nobody_sees_a_half() {
    let old = "old\n".repeat(100_000);
    let new = "new!\n".repeat(150_000);
    let step = OneStep::new(|_, work| fs::write(work.join("big"), &old).unwrap()).await;
    let mut open = fs::File::open(step.ana.path("code/big")).unwrap();
    let tip = step.push(|work| fs::write(work.join("big"), &new).unwrap());
    let path = step.ana.path("code/big");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, seen) = (stop.clone(), path.clone());
    let reader = std::thread::spawn(move || {
        let mut kinds = std::collections::BTreeSet::new();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            kinds.insert(fs::read(&seen).unwrap());
        }
        kinds.len()
    });
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() <= 2, "a half was seen");
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert!(content == old, "the open file has changed");
    assert!(fs::read_to_string(path).unwrap() == new);
    step.assert_at(&tip);
}

#[tokio::test]
async fn what_the_persons_configuration_names_is_not_run_invariant_3() {
    let step = OneStep::new(|_, work| {
        fs::write(work.join(".gitattributes"), "*.x filter=mine\n*.lfs filter=lfs\n").unwrap();
        fs::write(work.join("a.x"), "a\n").unwrap();
    })
    .await;
    let canary = |name: &str| format!("touch {}", step.ana.path(name).display());
    for (key, name) in [
        ("filter.mine.smudge", "smudged"),
        ("filter.mine.clean", "cleaned"),
        ("filter.mine.process", "processed"),
        ("core.fsmonitor", "monitored"),
        ("core.sshCommand", "sshed"),
        ("credential.helper", "helped"),
        ("core.askPass", "asked"),
        ("core.pager", "paged"),
        ("gpg.program", "signed"),
        ("uploadpack.packObjectsHook", "packed"),
    ] {
        let helper = if key == "credential.helper" { "!" } else { "" };
        step.ana.git_ok("code", &["config", key, &format!("{helper}{}", canary(name))]);
    }
    step.ana.mkdir("hooks");
    for hook in ["post-merge", "post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"] {
        step.ana.write(&format!("hooks/{hook}"), format!("#!/bin/sh\n{}\n", canary(hook)));
        fs::set_permissions(step.ana.path(&format!("hooks/{hook}")), fs::Permissions::from_mode(0o755))
            .unwrap();
    }
    step.ana.git_ok("code", &["config", "core.hooksPath", step.ana.path("hooks").to_str().unwrap()]);
    let before = fs::read_dir(&step.ana.home).unwrap().count();

    let tip = step.push(|work| fs::write(work.join("plain"), "x\n").unwrap());
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"]);
    assert_eq!(fs::read_dir(&step.ana.home).unwrap().count(), before, "something ran");
    assert_eq!(step.ana.git_ok("code", &["rev-parse", "HEAD"]), tip);

    // A file that a filter writes cannot be written without running it.
    step.push(|work| fs::write(work.join("a.x"), "b\n").unwrap());
    let done = step.run().await;
    assert_eq!(done.kinds(), ["fetch"]);
    assert!(done.told()[0].contains("a.x, which the filter `mine` writes"), "{:?}", done.told());
    assert_eq!(fs::read(step.ana.path("code/a.x")).unwrap(), b"a\n");
    assert_eq!(fs::read_dir(&step.ana.home).unwrap().count(), before, "something ran");
}

#[tokio::test]
async fn a_locked_clone_goes_forward_over_encrypted_files_and_keeps_them_encrypted() {
    let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
    server.encrypted("infra.git");
    let work = server.bare("infra.git").parent().unwrap().parent().unwrap().join("work-infra.git");
    let infra = wanted("code", &server.url("public", "infra.git"), true);
    clone_mirrored(&mirrors, &ana, &infra).await;
    let tip = push(&server, &work, "secrets/db", "a newer password\n");
    let remotes = mirrors.remotes(&infra.url).await;
    let done = mirrors.run(&ana, &home(&[&infra]), &remotes).await;
    assert_eq!((done.kinds(), done.told()), (vec!["fetch", "fast-forward"], vec![]));
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), tip);
    assert!(fs::read(ana.path("code/secrets/db")).unwrap().starts_with(b"\0GITCRYPT\0"));
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
}

/// As older sites have them, where `cat` was the filter: it is told when it comes, and stands in nobody's way.
#[tokio::test]
async fn plain_text_that_comes_where_ciphertext_should_is_told_and_hinders_nothing() {
    let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
    server.encrypted("infra.git");
    let work = server.work("infra.git");
    let infra = wanted("code", &server.url("public", "infra.git"), true);
    clone_mirrored(&mirrors, &ana, &infra).await;
    fs::write(work.join("secrets/old"), "plain of old\n").unwrap();
    fs::write(work.join("secrets/nothing"), "").unwrap();
    server.git(&work, &["-c", "filter.git-crypt.clean=cat", "add", "secrets/old", "secrets/nothing"]);
    server.git(&work, &["commit", "-qm", "Plain"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    let remotes = mirrors.remotes(&infra.url).await;
    let done = mirrors.run(&ana, &home(&[&infra]), &remotes).await;
    assert_eq!(done.kinds(), ["fetch", "fast-forward"]);
    let told = "~/code gets in plain text what its attributes say is encrypted: secrets/old. ";
    assert!(matches!(done.told()[..], [notice] if notice.starts_with(told)), "{:?}", done.told());
    assert_eq!(fs::read(ana.path("code/secrets/old")).unwrap(), b"plain of old\n");
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    ana.write("code/README.md", "# mine\n");
    ana.git_ok("code", &["commit", "-qam", "Mine"]);
}

#[tokio::test]
async fn a_named_key_that_comes_with_a_commit_is_guarded_before_its_files_are_there_invariant_7() {
    let step = OneStep::new(|server, work| drop(server.named_key(work, "prod"))).await;
    let tip = step.push(|work| {
        fs::create_dir(work.join("deploy")).unwrap();
        fs::write(work.join("deploy/.gitattributes"), "*.key filter=git-crypt-prod diff=git-crypt-prod\n")
            .unwrap();
        fs::write(work.join("deploy/one.key"), "the key of production\n").unwrap();
    });
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"]);
    step.assert_at(&tip);
    assert!(fs::read(step.ana.path("code/deploy/one.key")).unwrap().starts_with(b"\0GITCRYPT\0"));
    step.ana.write("code/deploy/one.key", "plain\n");
    let refused = step.ana.git("code", &["add", "deploy"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("this clone is locked"), "{refused:?}");
    step.ana.git_ok("code", &["checkout", "--", "deploy"]);

    // Its next content comes as ciphertext too.
    let tip = step.push(|work| fs::write(work.join("deploy/one.key"), "another key\n").unwrap());
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"]);
    step.assert_at(&tip);
}

/// Pointers are what git-lfs would replace by content, which rosterd cannot.
#[tokio::test]
async fn lfs_pointers_are_left_to_their_persons_git_and_all_else_goes_forward() {
    let pointer = |digit: char| {
        let digest = digit.to_string().repeat(64);
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 12\n")
    };
    let step = OneStep::new(|_, work| {
        fs::write(work.join("big.bin"), pointer('a')).unwrap();
        fs::write(work.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n").unwrap();
    })
    .await;
    let content = || fs::read_to_string(step.ana.path("code/big.bin")).unwrap();
    assert_eq!(content(), pointer('a'));
    step.push(|work| fs::write(work.join("other"), "x\n").unwrap());
    assert_eq!(step.run().await.kinds(), ["fetch", "fast-forward"], "what LFS has no part in goes forward");
    let before = step.ana.git_ok("code", &["rev-parse", "HEAD"]);
    step.push(|work| fs::write(work.join("big.bin"), pointer('b')).unwrap());
    let done = step.run().await;
    assert_eq!(done.kinds(), ["fetch"]);
    assert!(done.told()[0].contains("big.bin, which the filter `lfs` writes; rosterd runs no filter"));
    assert_eq!((step.ana.git_ok("code", &["rev-parse", "HEAD"]), content()), (before, pointer('a')));
    // Their own git brings it, with LFS or without.
    step.ana.git_ok("code", &["merge", "-q", "--ff-only", "@{u}"]);
    assert_eq!(content(), pointer('b'));
    assert_eq!(step.run().await.told(), [""; 0]);
}

#[tokio::test]
async fn a_mirror_that_lies_hurts_nobody_invariant_3() {
    let step = OneStep::new(|_, _| {}).await;
    let url = step.infra.url.clone();
    let only = step.mirrors.only();
    let packs = only.join("objects/pack");
    let pack = |extension: &str| {
        let names = fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
    };
    let whole = fs::read(pack("pack")).unwrap();
    let path = pack("pack");
    type Harm = Box<dyn Fn()>;
    let ana_secret = step.ana.path("secret");
    step.ana.write("secret", "a secret of ana's\n");
    let other = open_secret();
    let harms: Vec<(&str, Harm)> = vec![
        ("a flipped bit", {
            let (path, mut bytes) = (path.clone(), whole.clone());
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Box::new(move || replace(&path, &bytes))
        }),
        ("cut off", {
            let (path, bytes) = (path.clone(), whole[..whole.len() / 2].to_vec());
            Box::new(move || replace(&path, &bytes))
        }),
        ("a FIFO", {
            let path = path.clone();
            Box::new(move || {
                fs::remove_file(&path).unwrap();
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
            })
        }),
        ("a symlink to a file of hers", {
            let path = path.clone();
            Box::new(move || {
                fs::remove_file(&path).unwrap();
                symlink(&ana_secret, &path).unwrap();
            })
        }),
        ("a symlink to a file of somebody else's", {
            let path = path.clone();
            let target = other.path().join("secret");
            Box::new(move || {
                fs::remove_file(&path).unwrap();
                symlink(&target, &path).unwrap();
            })
        }),
        ("gone", {
            let path = path.clone();
            Box::new(move || fs::remove_file(&path).unwrap())
        }),
        ("a list of nonsense", {
            let list = only.join("packs");
            Box::new(move || replace(&list, b"rosterd mirror 1\n../../etc/passwd\n"))
        }),
    ];
    let remotes = step.mirrors.remotes(&url).await;
    for (number, (what, harm)) in harms.iter().enumerate() {
        let list = fs::read(only.join("packs")).unwrap();
        harm();
        let bob = Somebody::new();
        let mut worker = start_within(&bob, step.mirrors.limits).await.unwrap();
        let clone = HomeAction::Clone(step.infra.clone());
        let (result, why) = worker.apply_from(&clone, &way(&clone, &remotes)).await;
        worker.finish();
        assert_eq!(result, StepResult::Done, "{what}");
        assert!(why.is_some(), "{number}: {what} was not noticed");
        bob.git_ok("code", &["fsck", "--full", "--strict"]);
        assert_eq!(fs::read_dir(&bob.home).unwrap().count(), 1, "{what}: nothing is left beside");
        replace(&path, &whole);
        replace(&only.join("packs"), &list);
    }
    // Its own user looks, empties it, and makes it anew.
    harms[0].1();
    step.mirrors.check(&url).await;
    assert!(!only.join("packs").exists());
    let asked = step.mirrors.refresh(&url).await;
    assert!(matches!(asked.answer, Answer::Refs(_)) && asked.not_mirrored > 0);
    let bob = Somebody::new();
    assert_eq!(clone_mirrored(&step.mirrors, &bob, &step.infra).await, None);
    // A whole one stays.
    let list = fs::read(only.join("packs")).unwrap();
    step.mirrors.check(&url).await;
    assert_eq!(fs::read(only.join("packs")).unwrap(), list);

    // Fetches turn to the server as well.
    let tip = step.push(|work| fs::write(work.join("x"), "x\n").unwrap());
    let remotes = step.mirrors.remotes(&url).await;
    fs::remove_file(pack("idx")).unwrap();
    nix::unistd::mkfifo(&packs.join("pack-x.idx"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let done = step.mirrors.run(&step.ana, &home(&[&step.infra]), &remotes).await;
    assert!(done.without_mirror.is_some_and(|why| why.contains("no plain file")));
    step.assert_at(&tip);
}

fn replace(path: &Path, content: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
    std::os::unix::fs::chown(path, Some(mirror::UID), Some(mirror::UID)).unwrap();
}

fn open_secret() -> tempfile::TempDir {
    let dir = support::open_dir();
    fs::write(dir.path().join("secret"), "somebody else's\n").unwrap();
    dir
}

/// `strace` kills the worker at every call of the kernel that changes something, each in its turn. A second run ends
/// what the first began, and in between the branch is at one commit or the other.
#[tokio::test]
async fn killed_at_any_call_of_a_fast_forward_the_next_run_ends_it_invariant_5() {
    let step = OneStep::new(|_, work| {
        fs::create_dir(work.join("gone")).unwrap();
        for path in ["one", "two", "gone/x", "gone/y"] {
            fs::write(work.join(path), format!("{path}\n")).unwrap();
        }
    })
    .await;
    let tip = step.push(|work| {
        remove(work.join("gone"));
        for path in ["one", "two", "new", "src/new"] {
            fs::write(work.join(path), format!("{path}, newer\n")).unwrap();
        }
    });
    let remotes = step.mirrors.remotes(&step.infra.url).await;
    let desired = home(&[&step.infra]);
    let (saved, program) = (step.ana.base().join("saved"), step.ana.base().join("killed"));
    support::run(std::process::Command::new("cp").arg("-a").arg(&step.ana.home).arg(&saved));
    let mut killed = 0;
    for call in ["renameat2", "rename", "renameat", "linkat", "unlinkat", "mkdirat", "mkdir", "unlink"] {
        for number in 1.. {
            fs::remove_dir_all(&step.ana.home).unwrap();
            support::run(std::process::Command::new("cp").arg("-a").arg(&saved).arg(&step.ana.home));
            let script = format!(
                "#!/bin/sh\nexec /usr/bin/strace -qq -o /dev/null -e trace={call} \
                 -e inject={call}:signal=SIGKILL:when={number} {} worker\n",
                work::program().display()
            );
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let lived = step.mirrors.run_with(&program, &step.ana, &desired, &remotes).await;
            let told = format!("killed at {call} {number}");
            let done = step.mirrors.run(&step.ana, &desired, &remotes).await;
            assert_eq!(done.told(), [""; 0], "{told}");
            println!("{told}: {:?}", done.kinds());
            step.assert_at(&tip);
            let content = |path: &str| fs::read_to_string(step.ana.path("code").join(path)).unwrap();
            assert_eq!(
                (content("one"), content("src/new")),
                ("one, newer\n".into(), "src/new, newer\n".into())
            );
            if lived {
                break;
            }
            killed += 1;
        }
    }
    println!("killed at {killed} calls");
    assert!(killed > 15, "{killed}");
}
