//! A locked clone in the hands of its person: real git and real git-crypt, day to day, until the key comes and goes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use support::{GitServer, Somebody, run};
use work::{clone, run_in, site, wanted};

const HEADER: &[u8] = b"\0GITCRYPT\0";
const DB: &str = "code/secrets/db";

struct Locked {
    server: GitServer,
    ana: Somebody,
    key: std::path::PathBuf,
    url: String,
}

impl Locked {
    async fn new() -> Locked {
        let (server, ana) = (GitServer::start(), Somebody::new());
        let key = server.encrypted("infra.git");
        let url = server.url("public", "infra.git");
        clone(&ana, "code", &url, true).await;
        Locked { server, ana, key, url }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.ana.path(path)).unwrap()
    }

    fn is_clean(&self) {
        assert_eq!(self.ana.git_ok("code", &["status", "--porcelain"]), "");
        assert!(self.read(DB).starts_with(HEADER));
    }

    /// The same secret in another ciphertext, as a colleague with the key would push it.
    fn other_ciphertext(&self) -> Vec<u8> {
        self.ana.git("code", &["show", "origin/rotated:secrets/db"]).stdout
    }

    /// What git says when it refuses; it has to, and to say what to do.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) {
        let output = self.ana.git("code", arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        let advice = "this clone is locked, and only encrypted content may be committed here. Undo the change with \
                      `git checkout -- FILE`, or ask an admin for the key and run `git-crypt unlock`.";
        assert!(said.contains(advice), "{arguments:?}: {said}");
    }

    fn crypt(&self, arguments: &[&str]) -> String {
        run(self.ana.command("git-crypt").args(arguments).current_dir(self.ana.path("code")))
    }

    fn give_key(&self) {
        fs::copy(&self.key, self.ana.path("key")).unwrap();
        chown(self.ana.path("key"), Some(self.ana.uid), Some(self.ana.uid)).unwrap();
    }

    /// No object of the repository holds the plain text.
    fn holds_no(&self, plain: &str) {
        let objects =
            self.ana.git_ok("code", &["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]);
        for object in objects.lines() {
            let content = self.ana.git("code", &["cat-file", "-p", object]).stdout;
            assert!(!content.windows(plain.len()).any(|part| part == plain.as_bytes()), "{object}");
        }
    }
}

#[tokio::test]
async fn branches_are_rebased_merged_picked_and_stashed_over_encrypted_files() {
    let one = Locked::new().await;
    let ana = &one.ana;
    one.is_clean();
    let main = one.read(DB);
    ana.write("code/README.md", "# mine\n");
    ana.git_ok("code", &["checkout", "-q", "-b", "mine"]);
    ana.git_ok("code", &["commit", "-qam", "Mine"]);

    // A rebase onto a branch where the secret was changed, and back.
    ana.git_ok("code", &["rebase", "-q", "origin/rotated"]);
    one.is_clean();
    assert_eq!(one.read(DB), one.other_ciphertext());
    ana.git_ok("code", &["rebase", "-q", "--onto", "main", "origin/rotated"]);
    assert_eq!(one.read(DB), main);
    // A merge, its undoing, a cherry-pick and a revert.
    ana.git_ok("code", &["merge", "-q", "--no-edit", "origin/rotated"]);
    one.is_clean();
    assert_eq!(one.read(DB), one.other_ciphertext());
    ana.git_ok("code", &["reset", "-q", "--hard", "HEAD^"]);
    assert_eq!(one.read(DB), main);
    ana.git_ok("code", &["cherry-pick", "origin/rotated"]);
    one.is_clean();
    ana.git_ok("code", &["revert", "--no-edit", "HEAD"]);
    assert_eq!(one.read(DB), main);
    one.is_clean();

    // Stashes: of something else, and of ciphertext.
    ana.write("code/README.md", "# later\n");
    ana.write(DB, one.other_ciphertext());
    ana.git_ok("code", &["stash", "-q"]);
    one.is_clean();
    assert_eq!(one.read(DB), main);
    ana.git_ok("code", &["stash", "pop", "-q"]);
    assert_eq!(one.read(DB), one.other_ciphertext());
    ana.git_ok("code", &["checkout", "-q", "--", "."]);

    // Both sides changed the secret: a conflict that either side solves.
    ana.git_ok("code", &["checkout", "-q", "-b", "third", "main"]);
    let third = [HEADER, b"twelve bytes and more of a third"].concat();
    ana.write(DB, &third);
    ana.git_ok("code", &["commit", "-qam", "Third"]);
    assert!(!ana.git("code", &["merge", "--no-edit", "origin/rotated"]).status.success());
    assert_eq!(ana.git_ok("code", &["diff", "--name-only", "--diff-filter=U"]), "secrets/db\n");
    ana.git_ok("code", &["checkout", "-q", "--theirs", "secrets/db"]);
    ana.git_ok("code", &["add", "secrets/db"]);
    ana.git_ok("code", &["commit", "-qm", "Merged"]);
    assert_eq!(one.read(DB), one.other_ciphertext());
    one.is_clean();

    // Worktrees are locked by the same configuration.
    ana.git_ok("code", &["worktree", "add", "-q", "../tree", "-b", "tree", "origin/rotated"]);
    assert_eq!(one.read("tree/secrets/db"), one.other_ciphertext());
    assert_eq!(ana.git_ok("tree", &["status", "--porcelain"]), "");
    ana.git_ok("tree", &["switch", "-q", "--detach", "origin/main"]);
    assert_eq!(one.read("tree/secrets/db"), main);
    ana.git_ok("code", &["worktree", "remove", "../tree"]);
}

#[tokio::test]
async fn plain_text_is_refused_by_each_way_into_the_repository_and_stays_where_it_is_invariant_7() {
    let one = Locked::new().await;
    let ana = &one.ana;
    let plain = "a secret in plain text, long enough\n";
    let head = ana.git_ok("code", &["rev-parse", "HEAD"]);
    ana.write(DB, plain);
    for arguments in [
        &["add", "secrets/db"][..],
        &["add", "-A"],
        &["add", "-u"],
        &["add", "--renormalize", "."],
        &["commit", "-qm", "x", "secrets/db"],
        &["commit", "-qam", "x"],
        &["commit", "-qm", "x", "--include", "secrets/db"],
        &["stash"],
        &["stash", "push", "-m", "x"],
        &["hash-object", "-w", "secrets/db"],
        &["update-index", "--add", "secrets/db"],
    ] {
        one.refused(arguments);
        assert_eq!(one.read(DB), plain.as_bytes(), "{arguments:?} took it away");
    }
    ana.git_ok("code", &["checkout", "-q", "--", "secrets/db"]);
    ana.write("code/secrets/a new one", plain);
    for arguments in [&["add", "."][..], &["add", "secrets/a new one"], &["stash", "-u"]] {
        one.refused(arguments);
        assert_eq!(one.read("code/secrets/a new one"), plain.as_bytes(), "{arguments:?} took it away");
    }
    // Short, and nearly encrypted.
    for almost in [&b"x"[..], b"\0GITCRYPT", b"\0GITCRYPT\x01more", b"GITCRYPT\0more and more"] {
        ana.write(DB, almost);
        one.refused(&["add", "secrets/db"]);
    }
    ana.git_ok("code", &["checkout", "-q", "--", "secrets/db"]);
    fs::remove_file(ana.path("code/secrets/a new one")).unwrap();
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), head);
    one.is_clean();
    one.holds_no("a secret in plain");

    // All else goes in as ever, in the same commit too, and a secret can be removed and moved.
    ana.write("code/README.md", "# changed\n");
    ana.git_ok("code", &["mv", "secrets/empty", "secrets/moved"]);
    ana.git_ok("code", &["commit", "-qam", "Move"]);
    ana.git_ok("code", &["rm", "-q", "secrets/moved"]);
    ana.git_ok("code", &["commit", "-qm", "Remove"]);
    one.is_clean();
}

#[tokio::test]
async fn the_key_opens_the_clone_and_a_lock_closes_it_again() {
    let one = Locked::new().await;
    let ana = &one.ana;
    one.give_key();
    let desired = site(wanted("code", &one.url, true), &[], None);
    run_in(ana, &desired).await;
    for _ in 0..2 {
        one.crypt(&["unlock", "../key"]);
        assert_eq!(one.read(DB), b"the database password\n");
        assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
        assert_eq!(run_in(ana, &desired).await, "", "an unlocked clone is its person's");
        ana.write(DB, "a new password\n");
        ana.git_ok("code", &["commit", "-qam", "New"]);
        assert!(ana.git("code", &["cat-file", "-p", "HEAD:secrets/db"]).stdout.starts_with(HEADER));
        ana.git_ok("code", &["reset", "-q", "--hard", "origin/main"]);

        // `git-crypt lock` takes its filter away, and the next run gives ours.
        one.crypt(&["lock"]);
        one.is_clean();
        assert_eq!(run_in(ana, &desired).await, "let ~/code refuse plain text in encrypted files\n");
        one.is_clean();
        ana.write(DB, "plain\n");
        one.refused(&["commit", "-qam", "x"]);
        ana.git_ok("code", &["checkout", "-q", "--", "secrets/db"]);
    }
}

#[tokio::test]
async fn a_person_of_the_keyring_unlocks_without_a_key_file() {
    let one = Locked::new().await;
    let ana = &one.ana;
    ana.mkdir(".gnupg");
    run(ana.command("chmod").args(["700", ".gnupg"]));
    let id = "Ana <ana@example.org>";
    run(ana.command("gpg").args([
        "--batch",
        "--passphrase",
        "",
        "--quick-generate-key",
        id,
        "default",
        "default",
        "never",
    ]));
    let public = run(ana.command("gpg").args(["--armor", "--export", "ana@example.org"]));
    // A colleague lets the person in.
    let ring = support::open_dir();
    let work = one.server.bare("infra.git").parent().unwrap().parent().unwrap().join("work-infra.git");
    let colleague = |program: &str| {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", ring.path()).env("GIT_AUTHOR_NAME", "D").env("GIT_AUTHOR_EMAIL", "d@x");
        command.env("GIT_COMMITTER_NAME", "D").env("GIT_COMMITTER_EMAIL", "d@x").current_dir(&work);
        command
    };
    let import = ring.path().join("ana.asc");
    fs::write(&import, public).unwrap();
    run(colleague("gpg").args(["--batch", "--quiet", "--import"]).arg(&import));
    run(colleague("git-crypt").args(["add-gpg-user", "--trusted", "ana@example.org"]));
    one.server.git(&work, &["push", "-q", "origin", "main"]);
    ana.git_ok("code", &["pull", "-q", "--ff-only"]);
    one.is_clean();
    one.crypt(&["unlock"]);
    assert_eq!(one.read(DB), b"the database password\n");
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    let _ = run(ana.command("gpgconf").args(["--kill", "all"]));
    let _ = Command::new("gpgconf").env("GNUPGHOME", ring.path()).args(["--kill", "all"]).status();
}

/// As scripts made them: `cat` both ways.
#[tokio::test]
async fn a_clone_with_a_plain_filter_is_converted_in_place_and_never_cloned_again() {
    for extra in [&[][..], &["required"], &["required", "textconv"]] {
        let one = Locked::new().await;
        let ana = &one.ana;
        fs::remove_dir_all(ana.path("code")).unwrap();
        let filter = ["-c", "filter.git-crypt.smudge=cat", "-c", "filter.git-crypt.clean=cat"];
        run(ana.command("git").args(filter).args(["clone", "-q", &one.url, "code"]));
        ana.git_ok("code", &["config", "filter.git-crypt.smudge", "cat"]);
        ana.git_ok("code", &["config", "filter.git-crypt.clean", "cat"]);
        for key in extra {
            match *key {
                "required" => ana.git_ok("code", &["config", "filter.git-crypt.required", "false"]),
                _ => ana.git_ok("code", &["config", "diff.git-crypt.textconv", "cat"]),
            };
        }
        ana.write("code/README.md", "# mine\n");
        ana.git_ok("code", &["worktree", "add", "-q", "../tree"]);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let kept = ["code", "code/.git", DB, "code/README.md", "code/.git/index"].map(|path| ana.path(path));
        let before: Vec<_> = kept.iter().map(|path| inode(path)).collect();
        let desired = site(wanted("code", &one.url, true), &[], None);
        let said = run_in(ana, &desired).await;
        assert!(
            said.ends_with(
                "make ~/.git-credentials, mode 0600\nlet ~/code refuse plain text in encrypted files\n"
            ),
            "{said}"
        );
        assert_eq!(run_in(ana, &desired).await, "");
        assert_eq!(kept.iter().map(|path| inode(path)).collect::<Vec<_>>(), before);
        assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), " M README.md\n");
        for folder in ["code", "tree"] {
            ana.write(&format!("{folder}/secrets/db"), "plain\n");
            let refused = ana.git(folder, &["commit", "-qam", "x"]);
            assert!(
                String::from_utf8_lossy(&refused.stderr).contains("this clone is locked"),
                "{folder}: {refused:?}"
            );
            ana.git_ok(folder, &["checkout", "-q", "--", "secrets/db"]);
        }
        // The person's key still opens it: git itself can change each of the keys.
        ana.git_ok("code", &["checkout", "-q", "--", "README.md"]);
        one.give_key();
        one.crypt(&["unlock", "../key"]);
        assert_eq!(one.read(DB), b"the database password\n");
    }
}

#[tokio::test]
async fn a_filter_that_a_person_wrote_stays() {
    let one = Locked::new().await;
    let ana = &one.ana;
    let desired = site(wanted("code", &one.url, true), &[], None);
    run_in(ana, &desired).await;
    ana.git_ok("code", &["config", "filter.git-crypt.clean", "my-own-filter %f"]);
    let config = one.read("code/.git/config");
    assert_eq!(run_in(ana, &desired).await, "");
    assert_eq!(one.read("code/.git/config"), config);
}

/// git-crypt has keys beside the default one, each with a filter of its own, which attributes anywhere may name.
#[tokio::test]
async fn named_keys_are_guarded_like_the_default_one_invariant_7() {
    let (server, ana) = (GitServer::start(), Somebody::new());
    let work = server.plain("infra.git");
    let key = server.named_key(&work, "prod");
    fs::create_dir_all(work.join("deploy/keys")).unwrap();
    fs::write(work.join("deploy/.gitattributes"), "*.key filter=git-crypt-prod diff=git-crypt-prod\n")
        .unwrap();
    fs::write(work.join("deploy/keys/one.key"), "the key of production\n").unwrap();
    server.git(&work, &["add", "."]);
    server.git(&work, &["commit", "-qm", "A named key"]);
    server.git(&work, &["push", "-q", "origin", "main"]);
    clone(&ana, "code", &server.url("public", "infra.git"), true).await;
    let file = "code/deploy/keys/one.key";
    assert!(fs::read(ana.path(file)).unwrap().starts_with(HEADER));
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    let refuses = || {
        ana.write(file, "plain\n");
        let output = ana.git("code", &["commit", "-qam", "Plain"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("this clone is locked"), "{said}");
        ana.git_ok("code", &["checkout", "--", "deploy"]);
        assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    };
    refuses();

    // A clone that a script made, or of a time before the key: what its own attributes name is guarded by the next run.
    ana.git_ok("code", &["config", "--remove-section", "filter.git-crypt-prod"]);
    ana.write("code/.gitattributes", "*.key filter=git-crypt-prod\n");
    let desired = site(wanted("code", &server.url("public", "infra.git"), true), &[], None);
    let told = run_in(&ana, &desired).await;
    assert!(told.contains("let ~/code refuse plain text in encrypted files (git-crypt-prod)"), "{told}");
    assert!(!run_in(&ana, &desired).await.contains("git-crypt"), "it is done once");
    ana.git_ok("code", &["checkout", "--", ".gitattributes"]);
    refuses();

    // Whoever gets this key unlocks as ever, and it stays so.
    fs::copy(&key, ana.path("key")).unwrap();
    chown(ana.path("key"), Some(ana.uid), Some(ana.uid)).unwrap();
    run(ana.command("git-crypt").args(["unlock", "../key"]).current_dir(ana.path("code")));
    assert_eq!(fs::read_to_string(ana.path(file)).unwrap(), "the key of production\n");
    assert!(!run_in(&ana, &desired).await.contains("git-crypt"));
    ana.write(file, "changed\n");
    ana.git_ok("code", &["commit", "-qam", "By its owner"]);
    let stored = ana.git("code", &["show", "HEAD:deploy/keys/one.key"]).stdout;
    assert!(stored.starts_with(HEADER));
}
