//! Repositories that hold what git itself never writes: whoever may push one commit must not reach a file outside the
//! clone, and must not stop anybody's other clones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use git2::{ObjectType, Oid, Repository};
use roster::plan::Action;
use roster::plan::refresh;
use roster::remote::{Answer, Remotes};
use roster::report::StepResult;

use mirror::Mirrors;
use support::{GitServer, Somebody};
use work::{home, person, programs, wanted};

/// A tree of exactly these entries, in this order.
fn tree(repository: &Repository, entries: &[(&str, &[u8], Oid)]) -> Oid {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend([mode.as_bytes(), b" ", name, b"\0", id.as_bytes()].concat());
    }
    repository.odb().unwrap().write(ObjectType::Tree, &bytes).unwrap()
}

/// Puts a commit on `main` whose tree is what the tip has and these entries.
fn commit(repository: &Repository, more: &[(&str, &[u8], Oid)]) -> Oid {
    let tip = repository.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    let old = tip.tree().unwrap();
    let modes: Vec<_> = old.iter().map(|entry| format!("{:o}", entry.filemode())).collect();
    let mut entries: Vec<(&str, &[u8], Oid)> = Vec::new();
    let names: Vec<_> = old.iter().map(|entry| (entry.name_bytes().to_vec(), entry.id())).collect();
    for (mode, (name, id)) in modes.iter().zip(&names) {
        entries.push((mode, name, *id));
    }
    entries.extend(more);
    let id = tree(repository, &entries);
    let text = format!(
        "tree {id}\nparent {}\nauthor Dev <dev@example.org> 1700000000 +0000\ncommitter Dev <dev@example.org> \
         1700000000 +0000\n\nCrafted\n",
        tip.id()
    );
    repository.odb().unwrap().write(ObjectType::Commit, text.as_bytes()).unwrap()
}

/// All files of a home but what git keeps of itself, and the parts of that which run something.
fn untouched(ana: &Somebody) -> String {
    let script = "find . -path ./code/infra/.git -prune -o -path ./code/website/.git -prune -o -printf '%p %s %l\\n' | sort
                  for git in code/infra/.git code/website/.git; do ls $git/hooks; cat $git/config; done";
    let output = ana.command("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A person with two clones from two remotes, of which `website` will be crafted.
struct Site {
    server: GitServer,
    mirrors: Mirrors,
    ana: Somebody,
    urls: [String; 2],
}

impl Site {
    async fn new() -> Site {
        let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
        let urls = ["infra.git", "website.git"].map(|name| {
            server.plain(name);
            server.url("public", name)
        });
        ana.mkdir("code");
        for (path, url) in ["code/infra", "code/website"].into_iter().zip(&urls) {
            assert_eq!(work::clone(&ana, path, url, false).await, StepResult::Done);
        }
        Site { server, mirrors, ana, urls }
    }

    fn crafted(&self) -> Repository {
        Repository::open_bare(self.server.bare("website.git")).unwrap()
    }

    /// Pushes to the other one, as a colleague.
    fn push(&self, content: &str) -> String {
        let work = self.server.work("infra.git");
        fs::write(work.join("README.md"), content).unwrap();
        self.server.git(&work, &["commit", "-qam", content]);
        self.server.git(&work, &["push", "-q", "origin", "HEAD"]);
        self.server.git(&work, &["rev-parse", "HEAD"])
    }

    async fn run(&self) -> mirror::Refreshed {
        let mut remotes = Remotes::new();
        for url in &self.urls {
            remotes.extend(self.mirrors.remotes(url).await);
        }
        let clones =
            [wanted("code/infra", &self.urls[0], false), wanted("code/website", &self.urls[1], false)];
        self.mirrors.run(&self.ana, &home(&[&clones[0], &clones[1]]), &remotes).await
    }
}

#[tokio::test]
async fn a_tree_that_leads_out_of_the_clone_is_left_alone_and_the_other_clone_goes_forward_invariant_3() {
    let site = Site::new().await;
    site.ana.write(".profile", "theirs\n");
    let repository = site.crafted();
    let blob = |content: &[u8]| repository.blob(content).unwrap();
    let folder = |entries: &[(&str, &[u8], Oid)]| tree(&repository, entries);
    let evil = blob(b"#!/bin/sh\ntouch /tmp/rosterd-canary\n");
    let hook = folder(&[("40000", b"hooks", folder(&[("100755", b"post-checkout", evil)]))]);
    let config =
        folder(&[("100644", b"config", blob(b"[core]\n\tfsmonitor = \"touch /tmp/rosterd-canary\"\n"))]);
    let login = folder(&[
        ("100644", b".profile", evil),
        ("40000", b".ssh", folder(&[("100644", b"authorized_keys", evil)])),
    ]);
    let link = |target: &str| ("120000", b"z".as_slice(), blob(target.as_bytes()));
    let deep = folder(&[("40000", b"..", folder(&[("100644", b"x", evil)]))]);
    let up = "../".repeat(5);
    type Entry<'a> = (&'a str, &'a [u8], Oid);
    let trees: Vec<(&str, Vec<Entry<'_>>)> = vec![
        ("a link and a folder of one name: hooks", vec![link("../.."), ("40000", b"z", hook)]),
        ("the same: configuration", vec![link("../.."), ("40000", b"z", config)]),
        ("the same: the home", vec![link(&up), ("40000", b"z", login)]),
        ("the folder first", vec![("40000", b"z", login), link(&up)]),
        ("two files of one name", vec![("100644", b"z", evil), ("100755", b"z", evil)]),
        ("a folder above", vec![("40000", b"..", login)]),
        ("a file above", vec![("100644", b"../x", evil)]),
        ("deep above", vec![("40000", b"z", deep)]),
        ("here", vec![("40000", b".", login)]),
        ("from the root", vec![("100644", b"/tmp/rosterd-canary", evil)]),
        ("git's own folder", vec![("40000", b".git", hook)]),
        ("the same in capitals", vec![("40000", b".GIT", hook)]),
        ("the same by its short name", vec![("40000", b"git~1", hook)]),
    ];
    let before = untouched(&site.ana);
    let tip = repository.find_reference("refs/heads/main").unwrap().target().unwrap();
    for (number, (name, entries)) in trees.iter().enumerate() {
        let crafted = commit(&repository, entries);
        repository.reference("refs/heads/main", crafted, true, "crafted").unwrap();
        let content = format!("step {number}\n");
        let infra = site.push(&content);
        let done = site.run().await;
        println!("{name}: {:?}", done.told());
        assert_eq!(site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]), infra, "{name}");
        assert_eq!(site.ana.git_ok("code/website", &["rev-parse", "HEAD"]).trim(), tip.to_string(), "{name}");
        assert_eq!(site.ana.git_ok("code/website", &["status", "--porcelain"]), "", "{name}");
        let readme = fs::read_to_string(site.ana.path("code/infra/README.md")).unwrap();
        assert_eq!(readme, content, "{name}");
        let size = |text: &str| text.replace(&format!(" {} ", content.len()), " ");
        let only_readme = |text: String| {
            text.lines().filter(|line| !line.contains("infra/README.md")).map(size).collect::<String>()
        };
        assert_eq!(only_readme(untouched(&site.ana)), only_readme(before.clone()), "{name}");
        assert!(!done.told().is_empty(), "{name} is not told");
        assert!(!Path::new("/tmp/rosterd-canary").exists(), "{name}");
        repository.reference("refs/heads/main", tip, true, "back").unwrap();
    }
    assert_eq!(fs::read_to_string(site.ana.path(".profile")).unwrap(), "theirs\n");
    // And then an honest one.
    site.run().await;
    let work = site.server.work("website.git");
    fs::write(work.join("new"), "new\n").unwrap();
    site.server.git(&work, &["add", "."]);
    site.server.git(&work, &["commit", "-qm", "New"]);
    site.server.git(&work, &["push", "-q", "origin", "HEAD"]);
    site.run().await;
    let head = site.server.git(&work, &["rev-parse", "HEAD"]);
    assert_eq!(site.ana.git_ok("code/website", &["rev-parse", "HEAD"]), head);
}

/// git allows any bytes in the name of a branch; git2 panics at those that are no text.
#[tokio::test]
async fn a_branch_whose_name_is_no_text_is_left_out_and_stops_nobody() {
    let site = Site::new().await;
    let bare = site.server.bare("website.git");
    let name = std::ffi::OsStr::from_bytes(b"refs/heads/\xe9t\xe9");
    let tip = site.server.git(&bare, &["rev-parse", "main"]);
    fs::write(bare.join(name), &tip).unwrap();
    let work = site.server.work("website.git");
    fs::write(work.join("new"), "new\n").unwrap();
    site.server.git(&work, &["add", "."]);
    site.server.git(&work, &["commit", "-qm", "New"]);
    site.server.git(&work, &["push", "-q", "origin", "HEAD"]);
    let infra = site.push("a step\n");

    let asked = site.mirrors.remotes(&site.urls[1]).await;
    let Answer::Refs(refs) = &asked[&site.urls[1]].answer else { panic!("{asked:?}") };
    assert_eq!(refs.branches.len(), 2, "{refs:?}");
    site.run().await;
    assert_eq!(site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]), infra);
    let head = site.server.git(&work, &["rev-parse", "HEAD"]);
    assert_eq!(site.ana.git_ok("code/website", &["rev-parse", "HEAD"]), head);
    // A person's own question, and a first clone, as well.
    assert_eq!(work::clone(&site.ana, "again", &site.urls[1], false).await, StepResult::Done);
}

/// git holds the lock of the branch while it packs refs, for one: nothing may be half done then.
#[tokio::test]
async fn a_branch_that_git_holds_the_lock_of_is_as_it_was_and_goes_forward_later() {
    let site = Site::new().await;
    let head = site.push("a step\n");
    let lock = site.ana.path("code/infra/.git/refs/heads/main.lock");
    fs::write(&lock, "").unwrap();
    let before = site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]);
    let remotes = site.mirrors.remotes(&site.urls[0]).await;
    let infra = wanted("code/infra", &site.urls[0], false);
    let desired = home(&[&infra]);
    let look = refresh::look_at(&desired, &remotes);
    let who = person(&site.ana);
    let started =
        home::Worker::start_looking(&programs(), &who, site.mirrors.limits, &desired, look.clone()).await;
    let (mut worker, observed, states) = started.unwrap();
    let states = refresh::ours(&desired, &observed, states);
    for step in refresh::fetches(&who.user, &desired, &states, &remotes).steps {
        let Action::Home(action) = &step.action else { panic!("{step}") };
        assert_eq!(worker.apply(action).await, StepResult::Done);
    }
    let states = refresh::ours(&desired, &observed, worker.look(look).await.unwrap());
    let (branches, _) = refresh::behind(&who.user, &desired, &states, &remotes);
    let standings = worker.inspect(branches.clone()).await.unwrap();
    let pairs: Vec<_> = branches.into_iter().zip(standings).collect();
    let forwards = refresh::fast_forwards(&who.user, &pairs);
    assert_eq!(forwards.steps.len(), 1, "{forwards:?}");
    let Action::Home(action) = &forwards.steps[0].action else { panic!() };
    let StepResult::Failed { why, next } = worker.apply(action).await else { panic!("done") };
    assert!(
        why.contains("holds the lock of its branch") && next.contains("nothing was changed"),
        "{why}; {next}"
    );
    worker.finish();
    // As it said.
    assert_eq!(site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]), before);
    assert_eq!(site.ana.git_ok("code/infra", &["status", "--porcelain"]), "");
    fs::remove_file(&lock).unwrap();
    site.run().await;
    assert_eq!(site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]), head);
    assert_eq!(site.ana.git_ok("code/infra", &["status", "--porcelain"]), "");
}
