//! What git is told in a home, read back by the person's own git.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use roster::desired::HomeDesired;

use support::{GitServer, Somebody, run};
use work::{clone, run_in, site, wanted};

/// Nothing but the wiring of the person: the clone is there.
struct Site {
    server: GitServer,
    ana: Somebody,
}

impl Site {
    async fn new() -> Site {
        let (server, ana) = (GitServer::start(), Somebody::new());
        server.encrypted("infra.git");
        clone(&ana, "code", &server.url("public", "infra.git"), true).await;
        Site { server, ana }
    }

    fn desired(&self, push: Option<&str>) -> HomeDesired {
        site(wanted("code", &self.server.url("public", "infra.git"), true), &[], push)
    }

    async fn run(&self) -> String {
        run_in(&self.ana, &self.desired(None)).await
    }

    fn value(&self, key: &str) -> String {
        let output = self.ana.command("git").args(["-C", "code", "config", key]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.ana.path(path)).unwrap()
    }
}

const ALL: &str = "set user.name=Ana A user.email=ana@example.org credential.helper=store in ~/.gitconfig\n\
                   make ~/.git-credentials, mode 0600\n";

#[tokio::test]
async fn a_person_without_settings_gets_them_and_git_uses_them() {
    let site = Site::new().await;
    assert_eq!(site.run().await, ALL);
    assert_eq!(site.run().await, "", "invariant 9");
    assert_eq!(
        site.read(".gitconfig"),
        b"[user]\n\tname = Ana A\n\temail = ana@example.org\n[credential]\n\thelper = store\n"
    );
    let stat = |path: &str| {
        let meta = fs::metadata(site.ana.path(path)).unwrap();
        (meta.mode() & 0o7777, meta.len(), meta.uid(), meta.gid())
    };
    assert_eq!(stat(".git-credentials"), (0o600, 0, site.ana.uid, site.ana.uid));
    assert_eq!((stat(".gitconfig").0, stat(".gitconfig").2), (0o644, site.ana.uid));
    // A commit needs no more, and a login is kept.
    run(site.ana.command("git").args(["-C", "code", "commit", "-q", "--allow-empty", "-m", "x"]));
    let mut approve = site.ana.command("sh");
    approve.args([
        "-c",
        "printf 'protocol=https\\nhost=x\\nusername=a\\npassword=b\\n\\n' | git credential approve",
    ]);
    run(&mut approve);
    assert_eq!(site.read(".git-credentials"), b"https://a:b@x\n");
    assert_eq!(stat(".git-credentials").0, 0o600);
    // Other tools of git go on writing the same file.
    run(site.ana.command("git").args(["config", "--global", "user.name", "Another"]));
    assert_eq!(site.run().await, "");
    assert_eq!(site.value("user.name"), "Another");
}

#[tokio::test]
async fn a_file_keeps_every_other_byte_its_mode_and_its_order_invariant_1() {
    let site = Site::new().await;
    let mine = b"; mine \xff\n[core]\r\n\teditor = vi # best\r\n[User]\n  NAME=\"Own Name\"\n[alias]\n\tx = !touch ran";
    site.ana.write(".gitconfig", mine);
    fs::set_permissions(site.ana.path(".gitconfig"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(
        site.run()
            .await
            .starts_with("set user.email=ana@example.org credential.helper=store in ~/.gitconfig\n")
    );
    let after = site.read(".gitconfig");
    assert_eq!(&after[..mine.len()], mine);
    assert_eq!(
        &after[mine.len()..],
        b"\n[user]\n\temail = ana@example.org\n[credential]\n\thelper = store\n"
    );
    assert_eq!(fs::metadata(site.ana.path(".gitconfig")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(
        (site.value("user.name"), site.value("user.email")),
        ("Own Name".into(), "ana@example.org".into())
    );
}

#[tokio::test]
async fn a_value_that_git_finds_elsewhere_is_not_overridden() {
    let with = |files: &'static [(&'static str, &'static str)]| async move {
        let site = Site::new().await;
        for (path, content) in files {
            let path = path.replace("HOME", &site.ana.home.display().to_string());
            let mut folder = String::new();
            for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
                folder = format!("{folder}{part}");
                if !site.ana.path(&folder).exists() {
                    site.ana.mkdir(&folder);
                }
                folder += "/";
            }
            site.ana.write(&path, content.replace("HOME", &site.ana.home.display().to_string()));
        }
        let said = site.run().await;
        assert_eq!(
            site.run().await,
            said.lines()
                .filter(|line| line.starts_with('-'))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        );
        (said, site)
    };

    // Included, by each way to name a file of the home, also under a condition, also one file deeper.
    for include in [
        "[include]\n\tpath = more",
        "[include]\n\tpath = ~/more",
        "[include]\n\tpath = HOME/more",
        "[includeIf \"gitdir:~/projects/\"]\n\tpath = more",
    ] {
        let leaked: &'static str = include.to_owned().leak();
        let files: &'static [(&str, &str)] = vec![
            (".gitconfig", leaked),
            ("more", "[include]\n\tpath = deeper/still\n[user]\n\tname = Mine\n"),
            (
                "deeper/still",
                "[user]\n\temail = mine@example.org\n[credential \"https://x\"]\n\thelper = cache\n",
            ),
        ]
        .leak();
        let (said, site) = with(files).await;
        assert_eq!(said, "", "{include}");
        assert_eq!(
            site.read(".gitconfig"),
            include.replace("HOME", &site.ana.home.display().to_string()).as_bytes()
        );
    }

    // git's other place for the same; it is also where git itself would write then.
    let (said, site) = with(&[(".config/git/config", "[user]\n\tname = Mine\n\temail = mine@x\n")]).await;
    assert_eq!(
        said,
        "set credential.helper=store in ~/.config/git/config\nmake ~/.git-credentials, mode 0600\n"
    );
    assert!(!site.ana.path(".gitconfig").exists());
    assert_eq!((site.value("user.name"), site.value("credential.helper")), ("Mine".into(), "store".into()));

    // What cannot be known is not overridden, and told.
    for (include, told) in [
        ("/etc/hosts", "~/.gitconfig includes /etc/hosts, outside the home"),
        ("~other/x", "~/.gitconfig includes ~other/x, outside the home"),
        ("../x", "~/../x is not read: Cross-device link"),
        (".gitconfig", "~/.gitconfig is included too deeply"),
    ] {
        let files: &'static [(&str, &str)] =
            vec![(".gitconfig", &*format!("[include]\n\tpath = {include}\n").leak())].leak();
        let (said, _) = with(files).await;
        let rest = "not set: user.name, user.email, credential.helper";
        assert_eq!(said, format!("- ~/.gitconfig is left alone: {told}; {rest}\n"));
    }
    // A file that is not there says nothing, to git as to us.
    let (said, _) = with(&[(".gitconfig", "[include]\n\tpath = missing\n")]).await;
    assert_eq!(said, ALL);
}

#[tokio::test]
async fn a_configuration_that_is_no_plain_file_of_the_person_is_left_alone_invariant_3() {
    let outside = support::open_dir();
    let foreign = outside.path().join("foreign");
    fs::write(&foreign, "[core]\n\tbare = false\n").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o666)).unwrap();
    type Plant = fn(&Somebody, &std::path::Path);
    let cases: [(Plant, &str); 8] = [
        (
            |ana, foreign| symlink(foreign, ana.path(".gitconfig")).unwrap(),
            "~/.gitconfig is not read: it is a symlink",
        ),
        (
            |ana, _| symlink("dotfiles", ana.path(".gitconfig")).unwrap(),
            "~/.gitconfig is not read: it is a symlink",
        ),
        (
            |ana, _| {
                ana.write("other", "[core]\n");
                fs::hard_link(ana.path("other"), ana.path(".gitconfig")).unwrap();
            },
            "it is a hard link: it has another name elsewhere",
        ),
        (
            |ana, _| {
                nix::unistd::mkfifo(&ana.path(".gitconfig"), nix::sys::stat::Mode::S_IRWXU).unwrap();
                chown(ana.path(".gitconfig"), Some(ana.uid), Some(ana.uid)).unwrap();
            },
            "~/.gitconfig is not read: it is a FIFO",
        ),
        (
            |ana, _| fs::write(ana.path(".gitconfig"), "").unwrap(),
            "~/.gitconfig is not read: it belongs to uid 0",
        ),
        (|ana, _| ana.mkdir(".gitconfig"), "~/.gitconfig is not read: it is a folder"),
        (|ana, _| ana.write(".gitconfig", "[user\n"), "line 1 of ~/.gitconfig is malformed"),
        (
            |ana, _| ana.write(".gitconfig", vec![b'\n'; (1 << 20) + 1]),
            "~/.gitconfig is not read: it is bigger than 1048576 bytes",
        ),
    ];
    for (plant, told) in cases {
        let site = Site::new().await;
        plant(&site.ana, &foreign);
        let before = site.ana.snapshot();
        let said = site.run().await;
        let rest = "not set: user.name, user.email, credential.helper";
        assert_eq!(said, format!("- ~/.gitconfig is left alone: {told}; {rest}\n"));
        assert_eq!(site.ana.snapshot(), before, "{told}");
    }
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "[core]\n\tbare = false\n");
}

#[tokio::test]
async fn a_lock_of_somebody_else_is_respected_and_told() {
    let site = Site::new().await;
    site.ana.write(".gitconfig.lock", "");
    let said = site.run().await;
    assert!(
        said.contains("in ~/.gitconfig: FAILED: ")
            && said.contains("another program is changing it: ~/.gitconfig.lock is there"),
        "{said}"
    );
    assert_eq!(site.read(".gitconfig.lock"), b"");
    assert!(
        !site.ana.path(".gitconfig").exists() && !site.ana.path(".gitconfig.rosterd-unfinished").exists()
    );
    fs::remove_file(site.ana.path(".gitconfig.lock")).unwrap();
    assert_eq!(site.run().await, ALL);
}

#[tokio::test]
async fn the_persons_git_and_ours_never_lose_each_others_changes() {
    let site = Site::new().await;
    // git gives up at once where a lock is, so it tries again.
    let script = "for i in $(seq 1 120); do until git config --global own.k$i v$i 2>/dev/null; do :; done; \
                  git config --global --unset user.name; git config --global --unset user.email; done; exit 0";
    let mut person = site.ana.command("sh");
    let mut person = person.args(["-c", script]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut ours = 0;
    while person.try_wait().unwrap().is_none() {
        ours += usize::from(!site.run().await.contains("FAILED"));
    }
    site.run().await;
    for i in 1..=120 {
        assert_eq!(site.value(&format!("own.k{i}")), format!("v{i}"));
    }
    assert!(ours > 3);
    assert_eq!(site.value("user.email"), "ana@example.org");
    assert!(!site.ana.path(".gitconfig.lock").exists());
}

#[tokio::test]
async fn logins_are_closed_to_others_and_never_followed_elsewhere_invariant_7() {
    let site = Site::new().await;
    site.ana.write(".git-credentials", "https://a:s3cret@x\n");
    fs::set_permissions(site.ana.path(".git-credentials"), fs::Permissions::from_mode(0o664)).unwrap();
    let said = site.run().await;
    assert!(
        said.contains("set the mode of ~/.git-credentials from 0664 to 0600\n") && !said.contains("s3cret"),
        "{said}"
    );
    assert_eq!(fs::metadata(site.ana.path(".git-credentials")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(site.read(".git-credentials"), b"https://a:s3cret@x\n");
    assert_eq!(site.run().await, "");

    let site = Site::new().await;
    let foreign = site.ana.base().join("foreign");
    fs::write(&foreign, "").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o666)).unwrap();
    symlink(&foreign, site.ana.path(".git-credentials")).unwrap();
    assert!(site.run().await.ends_with("- ~/.git-credentials is a symlink; it is left alone\n"));
    assert_eq!(fs::metadata(&foreign).unwrap().mode() & 0o7777, 0o666);
}

#[tokio::test]
async fn the_infra_clone_gets_the_push_remote_and_its_branch_follows_it() {
    let site = Site::new().await;
    let forge_work = site.server.bare("infra.git");
    let forge = site.server.bare("forge.git");
    run(std::process::Command::new("cp").arg("-a").arg(forge_work).arg(&forge));
    let url = site.server.url("public", "forge.git");
    let desired = site.desired(Some(&url));
    let before = site.read("code/.git/config");
    let said = run_in(&site.ana, &desired).await;
    assert!(
        said.ends_with(&format!(
            "add the remote forgejo ({url}) to ~/code and let main follow forgejo/main\n"
        )),
        "{said}"
    );
    assert_eq!(run_in(&site.ana, &desired).await, "", "invariant 9");
    // Two lines differ, the rest is at the end.
    let after = String::from_utf8(site.read("code/.git/config")).unwrap();
    let before = String::from_utf8(before).unwrap();
    let (head, added) = after.split_at(after.find("[remote \"forgejo\"]").unwrap());
    assert_eq!(head, before.replace("remote = origin", "remote = forgejo"));
    assert_eq!(
        added,
        format!("[remote \"forgejo\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/forgejo/*\n")
    );

    let ana = &site.ana;
    ana.git_ok("code", &["fetch", "-q", "--all"]);
    assert_eq!(ana.git_ok("code", &["status", "-sb"]), "## main...forgejo/main\n");
    assert_eq!(ana.git_ok("code", &["rev-parse", "--abbrev-ref", "main@{push}"]), "forgejo/main\n");
    ana.git_ok("code", &["pull", "-q", "--ff-only"]);
    // What the person does with it is theirs.
    ana.git_ok("code", &["branch", "-q", "-u", "origin/main", "main"]);
    let said = run_in(ana, &desired).await;
    assert!(
        said.starts_with("- main of ~/code follows origin/main, not forgejo/main; it is left alone"),
        "{said}"
    );
    ana.git_ok("code", &["remote", "set-url", "forgejo", "https://a:t0ken@mine.example/x"]);
    let said = run_in(ana, &desired).await;
    assert!(
        said.starts_with("- the remote forgejo of ~/code is https://mine.example/x, not ")
            && !said.contains("t0ken"),
        "{said}"
    );
    ana.git_ok("code", &["remote", "remove", "forgejo"]);
    run_in(ana, &desired).await;
    assert_eq!(site.value("remote.forgejo.url"), url);

    // A new clone is wired in the same run.
    let bob = Somebody::new();
    let said = run_in(&bob, &desired).await;
    assert!(said.ends_with("and let its default branch follow it\n") && !said.contains("FAILED"), "{said}");
    assert_eq!(run_in(&bob, &desired).await, "");
    bob.git_ok("code", &["fetch", "-q", "--all"]);
    assert_eq!(bob.git_ok("code", &["status", "-sb"]), "## main...forgejo/main\n");
}

#[tokio::test]
async fn a_clone_without_a_default_branch_gets_the_remote_alone() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    server.empty("infra.git");
    let url = server.url("public", "infra.git");
    let desired = site(wanted("code", &url, true), &[], Some(&url));
    let said = run_in(&ana, &desired).await;
    assert!(!said.contains("FAILED"), "{said}");
    assert_eq!(ana.git_ok("code", &["remote"]), "forgejo\norigin\n");
    assert!(!fs::read_to_string(ana.path("code/.git/config")).unwrap().contains("remote = forgejo"));
    assert_eq!(run_in(&ana, &desired).await, "");
}
