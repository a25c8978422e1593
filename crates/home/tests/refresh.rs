//! The mirror and the refresh of clones, on a real git server and looked at with the person's own git.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::io::Read;
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
    worker.finish().await;
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
    assert!(!ana.path("code/.git/rosterd-fast-forward").exists() && !ana.path("code/.git/index.lock").exists());
    let again = mirrors.run(&ana, &desired, &mirrors.remotes(&url).await).await;
    assert_eq!((again.kinds(), again.told()), (vec![], vec![]));
}
