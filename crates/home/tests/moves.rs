//! Moves of clones that people work in, looked at with their own git.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use roster::desired::HomeDesired;
use roster::plan::HomeAction;

use support::{GitServer, Somebody, run};
use work::{clone, run_by, run_in, site, start, wanted};

/// A home of the layout `single`, in the middle of work.
struct Busy {
    server: GitServer,
    ana: Somebody,
    /// What git says of each repository before the move.
    before: Vec<String>,
    /// The inode of every file in them.
    inodes: Vec<(Vec<u8>, u64)>,
}

const NOT_UTF8: &[u8] = b"caf\xe9 \xff";

impl Busy {
    async fn new() -> Busy {
        let (server, ana) = (GitServer::start(), Somebody::new());
        server.encrypted("infra.git");
        let tripit_work = server.plain("tripit.git");
        server.plain("src.git");
        server.plain("part.git");
        let infra = server.url("public", "infra.git");
        let done = clone(&ana, "code", &infra, true).await;
        assert_eq!(done, roster::report::StepResult::Done);

        // Branches, a stash, staged, dirty, untracked and ignored files, odd names, hard links.
        ana.git_ok("code", &["checkout", "-q", "-b", "mine"]);
        ana.write("code/of-mine", "committed");
        ana.git_ok("code", &["add", "of-mine"]);
        ana.git_ok("code", &["commit", "-qm", "Mine"]);
        ana.write("code/README.md", "stashed\n");
        ana.git_ok("code", &["stash", "-q"]);
        ana.write("code/README.md", "dirty\n");
        ana.write("code/staged file", "staged");
        ana.git_ok("code", &["add", "staged file"]);
        ana.write("code/untracked", "untracked");
        ana.write("code/.git/info/exclude", "*.log\n");
        ana.write("code/ignored.log", "ignored");
        fs::write(ana.path("code").join(OsStr::from_bytes(NOT_UTF8)), "odd").unwrap();
        std::os::unix::fs::chown(
            ana.path("code").join(OsStr::from_bytes(NOT_UTF8)),
            Some(ana.uid),
            Some(ana.uid),
        )
        .unwrap();
        run(ana.command("ln").args(["code/untracked", "hard"]));
        // Worktrees beside the clone and within it, and a submodule.
        ana.git_ok("code", &["worktree", "add", "-q", "../tree of mine", "rotated"]);
        ana.git_ok("code", &["worktree", "add", "-q", ".agent/worktrees/w", "-b", "inner"]);
        ana.git_ok("code", &["submodule", "--quiet", "add", &server.url("public", "part.git"), "lib/part"]);
        // A clone within the clone, with a worktree of its own and a rebase that waits.
        ana.git_ok("code", &["clone", "-q", &server.url("public", "tripit.git"), "tripit"]);
        ana.git_ok("code/tripit", &["worktree", "add", "-q", "../../tripit tree", "-b", "trip"]);
        ana.write("code/tripit/README.md", "ours\n");
        ana.git_ok("code/tripit", &["commit", "-qam", "Ours"]);
        fs::write(tripit_work.join("README.md"), "theirs\n").unwrap();
        server.git(&tripit_work, &["commit", "-qam", "Theirs"]);
        server.git(&tripit_work, &["push", "-q", "origin", "main"]);
        ana.git_ok("code/tripit", &["fetch", "-q"]);
        assert!(!ana.git("code/tripit", &["rebase", "origin/main"]).status.success());

        let mut busy = Busy { server, ana, before: vec![], inodes: vec![] };
        busy.before = busy.say("code", "code/tripit");
        busy.inodes = busy.inodes_below("code");
        busy
    }

    fn desired(&self) -> HomeDesired {
        let url = |name: &str| self.server.url("public", name);
        let tripit = wanted("code/tripit", &url("tripit.git"), false);
        let src = wanted("code/src", &url("src.git"), false);
        let forge = url("forge.git");
        site(wanted("code/infra", &url("infra.git"), true), &[&tripit, &src], Some(&forge))
    }

    /// All that git says about the repositories and worktrees, without the paths that change.
    fn say(&self, infra: &str, tripit: &str) -> Vec<String> {
        let inner = format!("{infra}/.agent/worktrees/w");
        let part = format!("{infra}/lib/part");
        let trees = [infra, &*inner, &*part, "tree of mine", tripit, "tripit tree"];
        let mut said = Vec::new();
        for tree in trees {
            for arguments in [
                &["status", "--porcelain", "--branch", "--ignored", "--untracked-files=all"][..],
                &["stash", "list"],
                &["for-each-ref", "--format=%(refname) %(objectname) %(upstream)"],
                &["fsck", "--full", "--no-dangling"],
                &["rev-parse", "HEAD"],
                &["diff", "HEAD"],
            ] {
                // A clone within another shows as an untracked folder there, until it moves.
                let text = self.ana.git_ok(tree, arguments);
                let own = |line: &&str| !line.contains("tripit/") && !line.contains("origin/main");
                said.push(format!(
                    "{arguments:?}: {}",
                    text.lines().filter(own).collect::<Vec<_>>().join("\n")
                ));
            }
        }
        for clone in [infra, tripit] {
            let trees = self.ana.git_ok(clone, &["worktree", "list", "--porcelain"]);
            assert!(!trees.contains("prunable"), "{trees}");
            said.push(
                trees.lines().filter(|line| !line.starts_with("worktree ")).collect::<Vec<_>>().join("\n"),
            );
            assert_eq!(self.ana.git_ok(clone, &["worktree", "prune", "--dry-run", "--verbose"]), "");
        }
        assert!(fs::read(self.ana.path(infra).join("secrets/db")).unwrap().starts_with(b"\0GITCRYPT\0"));
        said
    }

    fn inodes_below(&self, folder: &str) -> Vec<(Vec<u8>, u64)> {
        let mut command = self.ana.command("find");
        command.arg(self.ana.path(folder)).args(["-type", "f", "-printf", "%i %P\\0"]);
        let out = command.output().unwrap().stdout;
        let all = out.split(|byte| *byte == 0).filter(|line| !line.is_empty()).map(|line| {
            let space = line.iter().position(|byte| *byte == b' ').unwrap();
            let inode = std::str::from_utf8(&line[..space]).unwrap().parse().unwrap();
            (line[space + 1..].to_vec(), inode)
        });
        // git writes these anew whenever it is asked something, and the worker mends the links.
        let moving = |path: &[u8]| {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
            matches!(name, b"index" | b"gitdir" | b".git" | b"config")
        };
        let mut all: Vec<_> = all.filter(|(path, _)| !moving(path)).collect();
        all.sort();
        all
    }

    /// Everything is where it should be and as it was, and nothing is left over.
    fn assert_moved(&self, clones: &[&str]) {
        let ana = &self.ana;
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(ana.path(folder)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names("code"), clones);
        assert_eq!(
            names(""),
            [".git-credentials", ".gitconfig", "code", "hard", "tree of mine", "tripit tree"]
        );
        assert!(!ana.path("code/infra/tripit").exists() && ana.path("code/infra/src/run.sh").exists());
        // What the wiring adds is new; without it all is as before.
        assert_eq!(ana.git_ok("code/infra", &["config", "branch.main.remote"]), "forgejo\n");
        ana.git_ok("code/infra", &["config", "branch.main.remote", "origin"]);
        let after = self.say("code/infra", "code/tripit");
        ana.git_ok("code/infra", &["config", "branch.main.remote", "forgejo"]);
        for (before, after) in self.before.iter().zip(&after) {
            assert_eq!(before, after);
        }
        let ino = |path: &str| fs::metadata(ana.path(path)).unwrap().ino();
        assert_eq!(ino("hard"), ino("code/infra/untracked"));
        assert_eq!(ana.git("code/infra", &["cat-file", "-p", "stash:README.md"]).stdout, b"stashed\n");
    }

    /// Each file is the one that it was.
    fn assert_same_files(&self) {
        let mut inodes = self.inodes_below("code/infra");
        let tripit = self.inodes_below("code/tripit").into_iter();
        inodes.extend(tripit.map(|(path, inode)| ([b"tripit/", &path[..]].concat(), inode)));
        let is_gone = |one: &&(Vec<u8>, u64)| !inodes.contains(one);
        let gone: Vec<_> =
            self.inodes.iter().filter(is_gone).map(|(path, _)| String::from_utf8_lossy(path)).collect();
        assert!(gone.is_empty() && self.inodes.len() > 100, "not the same file: {gone:?}");
    }
}

#[tokio::test]
async fn a_clone_becomes_a_workspace_with_all_that_is_in_it() {
    let busy = Busy::new().await;
    let ana = &busy.ana;
    let script = "while [ ! -e go ]; do sleep 0.05; done; echo here >written; git status --porcelain >said 2>&1; readlink /proc/self/cwd >where";
    let mut shell = ana.command("sh");
    let mut shell = shell.args(["-c", script]).current_dir(ana.path("code")).spawn().unwrap();
    let open = fs::File::open(ana.path("code/of-mine")).unwrap();

    let said = run_in(ana, &busy.desired()).await;
    assert_eq!(
        said.replace(&format!("http://127.0.0.1:{}", busy.server.port), "URL"),
        "move the clone ~/code to ~/code/infra\n\
         move the clone ~/code/infra/tripit to ~/code/tripit\n\
         clone URL/public/src.git to ~/code/src\n\
         set user.name=Ana A user.email=ana@example.org credential.helper=store in ~/.gitconfig\n\
         make ~/.git-credentials, mode 0600\n\
         add the remote forgejo (URL/public/forge.git) to ~/code/infra and let main follow forgejo/main\n"
    );
    busy.assert_moved(&["infra", "src", "tripit"]);
    busy.assert_same_files();
    assert_eq!(run_in(ana, &busy.desired()).await, "", "invariant 9");

    // What ran in it runs on in the moved folder.
    ana.write("code/infra/go", "");
    assert!(shell.wait().unwrap().success());
    let read = |path: &str| fs::read_to_string(ana.path(path)).unwrap();
    assert_eq!(read("code/infra/written"), "here\n");
    assert_eq!(read("code/infra/where").trim_end(), ana.path("code/infra").to_str().unwrap());
    assert!(read("code/infra/said").contains("?? go"));
    assert_eq!(open.metadata().unwrap().ino(), fs::metadata(ana.path("code/infra/of-mine")).unwrap().ino());

    // And git goes on in each: worktrees, the submodule, the rebase.
    ana.git_ok("code/tripit", &["rebase", "--abort"]);
    ana.git_ok("code/infra", &["checkout", "-q", "--", "README.md"]);
    ana.git_ok("code/infra", &["stash", "pop", "-q"]);
    for tree in ["tree of mine", "code/infra/.agent/worktrees/w", "tripit tree", "code/infra/lib/part"] {
        ana.write(&format!("{tree}/new"), "new");
        ana.git_ok(tree, &["add", "new"]);
        ana.git_ok(tree, &["commit", "-qm", "After the move"]);
    }
    ana.git_ok("code/infra", &["worktree", "remove", "../../tree of mine"]);
    ana.git_ok("code/infra", &["submodule", "--quiet", "update", "--init"]);
}

/// `strace` kills the worker at every call of the kernel that changes something, each in its turn, so that a run ends
/// between any two steps and in the middle of each.
#[tokio::test]
async fn invariant_5_killed_between_any_two_calls_the_next_run_completes_the_move() {
    let busy = Busy::new().await;
    let ana = &busy.ana;
    let mut desired = busy.desired();
    // How a clone is killed is shown elsewhere; here it would only take time.
    desired.clones.retain(|clone| clone.path != "code/src");
    let saved = ana.base().join("saved");
    let restore = || {
        let _ = fs::remove_dir_all(&ana.home);
        run(Command::new("cp").arg("-a").arg(&saved).arg(&ana.home));
    };
    run(Command::new("cp").arg("-a").arg(&ana.home).arg(&saved));
    let tracer = ana.base().join("tracer");
    let mut killed = 0;
    for call in ["mkdirat", "renameat2", "renameat", "linkat", "unlinkat", "fsync"] {
        for number in 1.. {
            restore();
            let script = format!(
                "#!/bin/sh\nexec /usr/bin/strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=SIGKILL:when={number} {} worker\n",
                work::program().display()
            );
            fs::write(&tracer, script).unwrap();
            fs::set_permissions(&tracer, fs::Permissions::from_mode(0o755)).unwrap();
            let first = run_by(&tracer, ana, &desired).await;
            let was_killed = first.contains("FAILED");
            let rest = run_in(ana, &desired).await;
            let told = format!("killed at {call} {number}\n--\n{first}--\n{rest}");
            assert!(!rest.contains("FAILED") && !rest.contains("! "), "{told}");
            assert!(was_killed || rest.is_empty(), "{told}");
            assert_eq!(run_in(ana, &desired).await, "", "{told}");
            busy.assert_moved(&["infra", "tripit"]);
            if !was_killed {
                break;
            }
            killed += 1;
        }
    }
    println!("killed at {killed} calls");
    assert!(killed > 20, "{killed}");
}

#[tokio::test]
async fn what_git_would_lose_keeps_a_clone_in_its_place() {
    let server = GitServer::start();
    server.plain("infra.git");
    server.plain("part.git");
    let url = server.url("public", "infra.git");
    let desired = site(wanted("code/infra", &url, true), &[], None);
    let left =
        |ana: &Somebody| assert!(ana.path("code/README.md").exists() && !ana.path("code/infra").exists());

    let ana = Somebody::new();
    clone(&ana, "code", &url, true).await;
    ana.git_ok("code", &["config", "core.worktree", ana.path("code").to_str().unwrap()]);
    let said = run_in(&ana, &desired).await;
    assert!(
        said.contains("does not move to ~/code/infra by itself: its core.worktree says where its files are"),
        "{said}"
    );
    left(&ana);

    let ana = Somebody::new();
    clone(&ana, "code", &url, true).await;
    ana.git_ok("code", &["worktree", "add", "-q", "../tree"]);
    ana.git_ok("tree", &["submodule", "--quiet", "add", &server.url("public", "part.git"), "part"]);
    let said = run_in(&ana, &desired).await;
    assert!(said.contains("by itself: its worktree tree has submodules"), "{said}");
    left(&ana);

    let ana = Somebody::new();
    run(ana.command("git").args(["clone", "-q", &url, "source"]));
    run(ana.command("git").args(["clone", "-q", "--shared", "source", "code"]));
    ana.git_ok("code", &["remote", "set-url", "origin", &url]);
    ana.write("code/.git/objects/info/alternates", "../../../source/.git/objects\n");
    ana.git_ok("code", &["fsck"]);
    let said = run_in(&ana, &desired).await;
    assert!(said.contains("by itself: it borrows objects from another clone by a relative path"), "{said}");
    left(&ana);

    // Another repository in the place of infra is nobody's to move.
    let ana = Somebody::new();
    clone(&ana, "code", &server.url("public", "part.git"), false).await;
    let before = ana.git_ok("code", &["rev-parse", "HEAD"]);
    let said = run_in(&ana, &desired).await;
    assert!(said.contains("it stays as it is until its person has moved it"), "{said}");
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), before);
}

#[tokio::test]
async fn what_a_person_must_see_to_after_a_move_is_told_before_it() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("infra.git");
    let url = server.url("public", "infra.git");
    clone(&ana, "code", &url, true).await;
    let outside = support::open_dir();
    std::os::unix::fs::chown(outside.path(), Some(ana.uid), Some(ana.uid)).unwrap();
    let tree = outside.path().join("tree");
    ana.git_ok("code", &["worktree", "add", "-q", tree.to_str().unwrap()]);
    ana.git_ok("code", &["config", "core.hooksPath", ana.path("code/hooks").to_str().unwrap()]);
    let said = run_in(&ana, &site(wanted("code/infra", &url, true), &[], None)).await;
    let told = format!(
        "- the worktree {}/.git of ~/code is outside the home. After the move: git -C ~/code/infra worktree repair\n\
         - core.hooksPath of ~/code names {}, which will be below ~/code/infra\n",
        tree.display(),
        ana.path("code/hooks").display()
    );
    assert!(said.contains(&told.replace("hooksPath", "hookspath")), "{said}");
    // As it says.
    let in_tree =
        |arguments: &[&str]| ana.command("git").arg("-C").arg(&tree).args(arguments).output().unwrap();
    assert!(!in_tree(&["status"]).status.success());
    ana.git_ok("code/infra", &["worktree", "repair"]);
    assert!(in_tree(&["status"]).status.success());
}

/// A clone is never kept on its way by what its person can mend afterwards.
#[tokio::test]
async fn a_worktree_that_cannot_be_written_does_not_keep_its_clone_away() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("infra.git");
    let url = server.url("public", "infra.git");
    clone(&ana, "code", &url, true).await;
    ana.git_ok("code", &["worktree", "add", "-q", "../tree"]);
    ana.git_ok("code", &["worktree", "add", "-q", "../other"]);
    run(ana.command("chmod").args(["a-w", "tree"]));
    let desired = site(wanted("code/infra", &url, true), &[], None);
    let said = run_in(&ana, &desired).await;
    let told = format!(
        "move the clone ~/code to ~/code/infra: FAILED: ~/code is at ~/code/infra now, but not all of its worktrees know: \
         {}/tree/.git: permission denied\n",
        ana.home.display()
    );
    assert!(said.starts_with(&told), "{said}");
    assert_eq!(ana.git_ok("other", &["status", "--porcelain"]), "");
    run(ana.command("chmod").args(["u+w", "tree"]));
    ana.git_ok("code/infra", &["worktree", "repair"]);
    assert_eq!(ana.git_ok("tree", &["status", "--porcelain"]), "");
    assert_eq!(run_in(&ana, &desired).await, "");
}

#[tokio::test]
async fn tracked_content_and_taken_places_never_move_invariant_1() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("infra.git");
    for name in ["part.git", "taken.git", "file.git", "lost.git"] {
        server.plain(name);
    }
    let public = |name: &str| server.url("public", name);
    let url = public("infra.git");
    ana.mkdir("code");
    clone(&ana, "code/infra", &url, true).await;
    // A submodule, a clone whose place is taken, a clone whose files infra tracks as well, one that is a symlink.
    ana.git_ok("code/infra", &["submodule", "--quiet", "add", &public("part.git"), "part"]);
    ana.git_ok("code/infra", &["clone", "-q", &public("taken.git"), "taken"]);
    ana.mkdir("code/taken");
    ana.mkdir("code/infra/file");
    ana.write("code/infra/file/x", "tracked");
    ana.git_ok("code/infra", &["add", "file/x"]);
    ana.git_ok("code/infra/file", &["init", "-q"]);
    run(ana.command("git").args(["clone", "-q", &public("lost.git"), "lost"]));
    symlink("../../lost", ana.path("code/infra/lost")).unwrap();
    let inodes = |path: &str| fs::symlink_metadata(ana.path(path)).unwrap().ino();
    let places =
        ["code/infra/part", "code/infra/taken", "code/infra/file", "code/infra/lost", "code/taken", "lost"];
    let before = places.map(inodes);
    let wanted_there: Vec<_> = ["part", "taken", "file", "lost"]
        .map(|name| wanted(&format!("code/{name}"), &public(&format!("{name}.git")), false))
        .into();
    let desired = site(wanted("code/infra", &url, true), &wanted_there.iter().collect::<Vec<_>>(), None);
    let said = run_in(&ana, &desired).await;
    assert!(!said.contains("move the clone"), "{said}");
    assert!(
        said.contains("- ~/code/infra/taken is a clone as well as ~/code/taken; both are left alone\n"),
        "{said}"
    );
    assert_eq!(places.map(inodes), before);
    assert!(ana.path("code/part/README.md").exists(), "{said}");
}

#[tokio::test]
async fn a_workspace_stays_one_when_the_roster_says_single() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.plain("infra.git");
    let url = server.url("public", "infra.git");
    ana.mkdir("code");
    clone(&ana, "code/infra", &url, true).await;
    run_in(&ana, &site(wanted("code/infra", &url, true), &[], None)).await;
    let before = ana.snapshot();
    let said = run_in(&ana, &site(wanted("code", &url, true), &[], None)).await;
    assert!(said.starts_with("- ~/code is a workspace and the roster says `code_layout: single`"), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert_eq!(ana.snapshot(), before);
}

#[tokio::test]
async fn only_an_empty_folder_with_the_mark_is_removed() {
    let ana = Somebody::new();
    ana.mkdir(".code.rosterd-moving");
    ana.write(".code.rosterd-moving/work", "mine");
    let mut worker = start(&ana).await;
    let action = roster::moves::Move::CleanUp { path: ".code.rosterd-moving".into() };
    let failed = worker.apply(&HomeAction::Move(action.clone())).await;
    assert!(work::why(&failed).contains("cannot remove ~/.code.rosterd-moving"), "{failed:?}");
    assert_eq!(fs::read(ana.path(".code.rosterd-moving/work")).unwrap(), b"mine");
    fs::remove_file(ana.path(".code.rosterd-moving/work")).unwrap();
    assert_eq!(worker.apply(&HomeAction::Move(action)).await, roster::report::StepResult::Done);
    worker.finish();
}
