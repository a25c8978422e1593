//! Homes as they are found: each is looked at, planned for and worked in, and what its person made is as it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use roster::desired::HomeDesired;

use support::{GitServer, Somebody, run};
use work::{clone, run_in, site, wanted};

/// A site, and a home whose person is wired already, so that only the clones are new.
struct Site {
    server: GitServer,
    ana: Somebody,
}

impl Site {
    async fn new() -> Site {
        let (server, ana) = (GitServer::start(), Somebody::new());
        server.encrypted("infra.git");
        server.plain("tripit.git");
        ana.write(".gitconfig", "[user]\n\tname = A\n\temail = a@x\n[credential]\n\thelper = store\n");
        ana.write(".git-credentials", "");
        fs::set_permissions(ana.path(".git-credentials"), fs::Permissions::from_mode(0o600)).unwrap();
        Site { server, ana }
    }

    fn url(&self, name: &str) -> String {
        self.server.url("public", name)
    }

    fn single(&self) -> HomeDesired {
        site(wanted("code", &self.url("infra.git"), true), &[], Some(&self.url("forge.git")))
    }

    fn workspace(&self) -> HomeDesired {
        let tripit = wanted("code/tripit", &self.url("tripit.git"), false);
        site(wanted("code/infra", &self.url("infra.git"), true), &[&tripit], Some(&self.url("forge.git")))
    }

    /// Runs twice. What was said, which is notices alone, and nothing was touched.
    async fn left_alone(&self, desired: &HomeDesired) -> String {
        let before = self.ana.snapshot();
        let said = run_in(&self.ana, desired).await;
        assert_eq!(run_in(&self.ana, desired).await, said);
        assert!(said.lines().all(|line| line.starts_with("- ")), "{said}");
        assert_eq!(self.ana.snapshot(), before, "{said}");
        said.replace(&format!("http://127.0.0.1:{}", self.server.port), "URL")
    }

    /// Runs until nothing is left to do. What was done at first.
    async fn converges(&self, desired: &HomeDesired) -> String {
        let said = run_in(&self.ana, desired).await;
        assert!(!said.contains("FAILED") && !said.contains("! "), "{said}");
        assert_eq!(run_in(&self.ana, desired).await, "");
        said.replace(&format!("http://127.0.0.1:{}", self.server.port), "URL")
    }

    fn git_clone(&self, arguments: &[&str], path: &str) {
        run(self
            .ana
            .command("git")
            .args(["clone", "-q"])
            .args(arguments)
            .args([&self.url("infra.git"), path]));
    }
}

#[tokio::test]
async fn code_is_a_symlink_invariant_1() {
    for (target, real) in [("work", true), ("/etc", false), ("gone", false)] {
        let site = Site::new().await;
        if real {
            clone(&site.ana, target, &site.url("infra.git"), true).await;
        }
        symlink(target, site.ana.path("code")).unwrap();
        let said = site.left_alone(&site.single()).await;
        assert_eq!(said, "- ~/code is a symlink, not a clone of URL/public/infra.git; it is left alone\n");
        let said = site.left_alone(&site.workspace()).await;
        assert_eq!(
            said,
            "- ~/code is a symlink, not a folder; it is left alone\n\
             - not cloned, for ~/code is no plain folder: ~/code/infra, ~/code/tripit\n"
        );
    }
}

#[tokio::test]
async fn foreign_folders_and_bare_repositories_invariant_1() {
    let site = Site::new().await;
    site.ana.mkdir("code");
    site.ana.write("code/notes", "mine");
    let said = site.left_alone(&site.single()).await;
    assert_eq!(said, "- ~/code is a folder, not a clone of URL/public/infra.git; it is left alone\n");

    let site = Site::new().await;
    site.ana.mkdir("code");
    site.ana.git_ok("code", &["init", "-q", "--bare"]);
    let said = site.left_alone(&site.single()).await;
    assert!(said.starts_with("- ~/code is a bare repository, not a clone"), "{said}");
    let said = site.left_alone(&site.workspace()).await;
    assert!(said.starts_with("- ~/code is a bare repository, not a folder"), "{said}");

    // In a workspace: a bare repository, a folder and another repository in the places of clones.
    let site = Site::new().await;
    site.ana.mkdir("code");
    run(site.ana.command("git").args(["clone", "-q", "--bare", &site.url("infra.git"), "code/infra"]));
    run(site.ana.command("git").args(["clone", "-q", &site.url("infra.git"), "code/tripit"]));
    let said = site.left_alone(&site.workspace()).await;
    assert_eq!(
        said,
        "- ~/code/infra is a bare repository, not a clone of URL/public/infra.git; it is left alone\n\
         - ~/code/tripit is a clone of URL/public/infra.git, not of URL/public/tripit.git; it is left alone. If that is the same \
         repository at its new address: git -C ~/code/tripit remote set-url origin URL/public/tripit.git; if not, move \
         ~/code/tripit away, and URL/public/tripit.git is cloned there\n"
    );

    // A clone whose .git is a file: a worktree of another, or a store elsewhere.
    let site = Site::new().await;
    run(site.ana.command("git").args([
        "clone",
        "-q",
        "--separate-git-dir",
        "store",
        &site.url("infra.git"),
        "code",
    ]));
    let said = site.left_alone(&site.workspace()).await;
    assert!(said.starts_with("- ~/code is a folder whose .git is a file, not a folder"), "{said}");
}

#[tokio::test]
async fn shallow_and_partial_and_sparse_clones_move_and_are_wired() {
    for arguments in [
        &["--depth", "1"][..],
        &["--filter=blob:none", "--no-checkout"],
        &["--sparse"],
        &["--no-tags", "--single-branch"],
        &["--reference-if-able", "none", "--config", "core.autocrlf=input"],
    ] {
        let site = Site::new().await;
        site.server.git(&site.server.bare("infra.git"), &["config", "uploadpack.allowFilter", "true"]);
        site.git_clone(arguments, "code");
        if arguments.contains(&"--no-checkout") {
            site.ana.git_ok("code", &["checkout", "-q", "main"]);
        }
        let head = site.ana.git_ok("code", &["rev-parse", "HEAD"]);
        let said = site.converges(&site.workspace()).await;
        assert_eq!(
            said,
            "move the clone ~/code to ~/code/infra\n\
             clone URL/public/tripit.git to ~/code/tripit\n\
             let ~/code/infra refuse plain text in encrypted files\n\
             add the remote forgejo (URL/public/forge.git) to ~/code/infra and let main follow forgejo/main\n",
            "{arguments:?}"
        );
        assert_eq!(site.ana.git_ok("code/infra", &["rev-parse", "HEAD"]), head);
        assert_eq!(site.ana.git_ok("code/infra", &["status", "--porcelain"]), "", "{arguments:?}");
        site.ana.git_ok("code/infra", &["fetch", "-q", "origin"]);
    }
}

#[tokio::test]
async fn lfs_pointers_submodules_and_odd_names_are_cloned_as_they_are() {
    let site = Site::new().await;
    site.server.plain("part.git");
    let work = site.server.empty("odd.git");
    // As git-lfs stores them; nobody here answers its filter.
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "4d".repeat(32));
    fs::write(work.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n").unwrap();
    fs::write(work.join("big.bin"), &pointer).unwrap();
    let names: [&[u8]; 7] = [
        b"with space",
        b" lead",
        b"caf\xe9",
        b"\xff\xfe",
        b"new\nline",
        "\u{1f980}".as_bytes(),
        b"quote\"'\\",
    ];
    for name in names {
        fs::create_dir(work.join(OsStr::from_bytes(name))).unwrap();
        fs::write(work.join(OsStr::from_bytes(name)).join(OsStr::from_bytes(name)), name).unwrap();
    }
    let part = site.url("part.git");
    site.server.git(&work, &["submodule", "--quiet", "add", &part, "lib/a part"]);
    site.server.git(&work, &["add", "."]);
    site.server.git(&work, &["commit", "-qm", "Odd"]);
    site.server.git(&work, &["push", "-q", "origin", "main"]);

    let odd = wanted("code/odd", &site.url("odd.git"), false);
    let desired = site_of(&site, &[&odd]);
    site.converges(&desired).await;
    let ana = &site.ana;
    for name in names {
        let path: PathBuf = ana.path("code/odd").join(OsStr::from_bytes(name)).join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), name);
    }
    assert_eq!(fs::read_to_string(ana.path("code/odd/big.bin")).unwrap(), pointer);
    assert_eq!(ana.git_ok("code/odd", &["status", "--porcelain", "-z"]), "");
    assert_eq!(fs::read_dir(ana.path("code/odd/lib/a part")).unwrap().count(), 0);
    ana.git_ok("code/odd", &["submodule", "--quiet", "update", "--init"]);
    assert!(ana.path("code/odd/lib/a part/README.md").exists());
    assert_eq!(ana.git_ok("code/odd", &["status", "--porcelain", "-z"]), "");
    assert_eq!(run_in(ana, &desired).await, "");
}

fn site_of(site: &Site, others: &[&roster::desired::CloneDesired]) -> HomeDesired {
    work::site(wanted("code/infra", &site.url("infra.git"), true), others, None)
}

/// A configuration full of programs. Each leaves a mark when it runs, and none may.
#[tokio::test]
async fn hooks_filters_aliases_and_includes_of_the_person_run_nothing_and_stay() {
    let site = Site::new().await;
    let ana = &site.ana;
    let mark = |name: &str| format!("touch {}/ran-{name}", ana.home.display());
    let script = |path: &str, name: &str| {
        ana.write(path, format!("#!/bin/sh\n{}\ncat\n", mark(name)));
        fs::set_permissions(ana.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    ana.mkdir("hooks");
    for hook in ["post-checkout", "post-merge", "reference-transaction", "post-index-change", "pre-auto-gc"] {
        script(&format!("hooks/{hook}"), hook);
    }
    let home = ana.home.display();
    let global = format!(
        "[user]\n\tname = A\n\temail = a@x\n[credential]\n\thelper = store\n\thelper = \"!{}\"\n\
         [core]\n\thooksPath = {home}/hooks\n\tfsmonitor = {}\n\tsshCommand = {}\n\tpager = {}\n\teditor = {}\n\
         [alias]\n\tst = \"!{}\"\n\tclone = \"!{}\"\n[filter \"lfs\"]\n\tsmudge = {}\n\tprocess = {}\n\trequired = true\n\
         [includeIf \"gitdir:~/code/\"]\n\tpath = more\n[include]\n\tpath = ~/more\n\
         [url \"ext::{} \"]\n\tinsteadOf = http://\n[http]\n\tproxy = http://127.0.0.1:1\n",
        mark("helper"),
        mark("fsmonitor"),
        mark("ssh"),
        mark("pager"),
        mark("editor"),
        mark("alias"),
        mark("alias"),
        mark("smudge"),
        mark("process"),
        mark("ext"),
    );
    ana.write(".gitconfig", &global);
    ana.write("more", format!("[core]\n\tgitProxy = {}\n", mark("gitproxy")));
    // The same in the clone itself.
    site.server.plain("lfs.git");
    clone(ana, "code", &site.url("infra.git"), true).await;
    let own = format!(
        "[core]\n\tfsmonitor = {}\n\thooksPath = {home}/hooks\n[filter \"x\"]\n\tsmudge = {}\n[remote \"origin\"]\n\tuploadpack = {}\n\tvcs = ext\n",
        mark("fsmonitor"),
        mark("smudge"),
        mark("uploadpack"),
    );
    let config = [fs::read_to_string(ana.path("code/.git/config")).unwrap(), own.clone()].concat();
    ana.write("code/.git/config", &config);
    ana.write("code/.git/info/attributes", "* filter=x\n");
    for hook in ["post-checkout", "reference-transaction"] {
        script(&format!("code/.git/hooks/{hook}"), hook);
    }
    let said = site.converges(&site.workspace()).await;
    assert!(said.contains("move the clone") && said.contains("clone URL/public/tripit.git"), "{said}");
    let ran: Vec<_> = fs::read_dir(&ana.home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("ran-"))
        .collect();
    assert_eq!(ran, [""; 0]);
    assert_eq!(fs::read_to_string(ana.path(".gitconfig")).unwrap(), global);
    let after = fs::read_to_string(ana.path("code/infra/.git/config")).unwrap();
    assert!(after.contains(&own), "{after}");
}

#[tokio::test]
async fn a_clone_with_a_lock_or_an_operation_in_progress_is_wired_and_moves() {
    let site = Site::new().await;
    let ana = &site.ana;
    clone(ana, "code", &site.url("infra.git"), true).await;
    ana.git_ok("code", &["bisect", "start"]);
    ana.git_ok("code", &["checkout", "-q", "--detach"]);
    ana.write("code/.git/index.lock", "");
    let head = fs::read(ana.path("code/.git/HEAD")).unwrap();
    site.converges(&site.workspace()).await;
    assert_eq!(fs::read(ana.path("code/infra/.git/HEAD")).unwrap(), head);
    assert_eq!(fs::read(ana.path("code/infra/.git/index.lock")).unwrap(), b"");
    assert!(ana.path("code/infra/.git/BISECT_START").exists());
}

#[tokio::test]
async fn a_home_of_another_owner_inside_is_told_once_invariant_3() {
    let site = Site::new().await;
    let ana = &site.ana;
    clone(ana, "code", &site.url("infra.git"), true).await;
    // As a `sudo git` leaves it.
    chown(ana.path("code/.git/config"), Some(0), Some(0)).unwrap();
    let said = run_in(ana, &site.single()).await;
    assert_eq!(said, "! ~/code cannot be looked at: its .git/config: it belongs to uid 0\n");
}
