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
const PLAIN: &str = "plain text, where only encrypted content may be committed";
const CHANGED: &str = "changed encrypted content, which its key no longer opens";
const ADVICE: &str = "this clone is locked. Undo the change with `git checkout -- FILE`, or ask an admin for the key and \
                      run `git-crypt unlock`.";

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

    /// What git says when it refuses plain text; it has to, and to say what to do.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) {
        self.refused_as(PLAIN, arguments);
    }

    #[track_caller]
    fn refused_as(&self, what: &str, arguments: &[&str]) {
        let output = self.ana.git("code", arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains(&format!(": {what}; {ADVICE}")), "{arguments:?}: {said}");
    }

    /// What the message advises, to the letter.
    fn undo(&self, path: &str) {
        run(self.ana.command("git").args(["checkout", "--", path]).current_dir(self.ana.path("code")));
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
    ana.git_ok("code", &["checkout", "-q", "-b", "third", "origin/third"]);
    assert!(!ana.git("code", &["merge", "--no-edit", "origin/rotated"]).status.success());
    assert_eq!(ana.git_ok("code", &["diff", "--name-only", "--diff-filter=U"]), "secrets/db\n");
    ana.git_ok("code", &["checkout", "-q", "--theirs", "secrets/db"]);
    ana.git_ok("code", &["add", "secrets/db"]);
    ana.git_ok("code", &["commit", "-qm", "Merged"]);
    assert_eq!(one.read(DB), one.other_ciphertext());
    one.is_clean();
    // The same content under another name, and beside.
    ana.git_ok("code", &["mv", "secrets/db", "secrets/moved"]);
    ana.git_ok("code", &["commit", "-qam", "Moved"]);
    fs::copy(ana.path("code/secrets/moved"), ana.path(DB)).unwrap();
    ana.git_ok("code", &["add", "--", "secrets/db"]);
    ana.git_ok("code", &["commit", "-qm", "Copied"]);
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
    // Stored already, but in another place: before it was moved to where it belongs.
    ana.write("code/.env", plain);
    ana.git_ok("code", &["add", ".env"]);
    fs::rename(ana.path("code/.env"), ana.path("code/secrets/a new one")).unwrap();
    one.refused(&["add", "-A"]);
    ana.git_ok("code", &["rm", "-q", "--cached", ".env"]);
    run(ana.command("git").args(["-C", "code", "prune", "--expire=now"]));
    // Short, and nearly encrypted.
    for (almost, what) in [
        (&b"x"[..], PLAIN),
        (b"\n\0GITCRYPT\0and more", PLAIN),
        (b"a-GITCRYPT", PLAIN),
        (b"\0GITCRYPT", CHANGED),
        (b"\0GITCRYPT\x01more", CHANGED),
        (b"GITCRYPT\0more and more", CHANGED),
    ] {
        ana.write(DB, almost);
        one.refused_as(what, &["add", "secrets/db"]);
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

/// Whoever has the key would get "encrypted file has been tampered with".
#[tokio::test]
async fn a_ciphertext_that_was_changed_is_refused() {
    let one = Locked::new().await;
    let ana = &one.ana;
    let head = ana.git_ok("code", &["rev-parse", "HEAD"]);
    let before = one.read(DB);
    let flipped = [&before[..20], &[before[20] ^ 1], &before[21..]].concat();
    let appended = [&before[..], b"changed\n"].concat();
    for changed in [appended, before[..before.len() - 1].to_vec(), flipped, HEADER.to_vec()] {
        ana.write(DB, &changed);
        for arguments in [
            &["add", "secrets/db"][..],
            &["commit", "-qam", "x"],
            &["commit", "-qm", "x", "secrets/db"],
            &["stash"],
            &["hash-object", "-w", "secrets/db"],
        ] {
            one.refused_as(CHANGED, arguments);
            assert_eq!(one.read(DB), changed, "{arguments:?} took it away");
        }
        one.undo("secrets/db");
        one.is_clean();
    }
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), head);
}

/// Older sites left some: with `cat` as a filter nobody noticed.
#[tokio::test]
async fn a_plain_file_of_upstream_hinders_nothing_and_is_not_changed() {
    let one = Locked::new().await;
    let ana = &one.ana;
    let work = one.server.work("infra.git");
    let odd = "secrets/it's [a] *.txt";
    let cat = ["-c", "filter.git-crypt.clean=cat"];
    for text in ["plain of old\n", "plain of new\n"] {
        fs::write(work.join("secrets/old"), text).unwrap();
        fs::write(work.join(odd), text).unwrap();
        one.server.git(&work, &[&cat[..], &["add", "secrets/old", odd]].concat());
        one.server.git(&work, &["commit", "-qm", text.trim()]);
    }
    one.server.git(&work, &["push", "-q", "origin", "main"]);
    ana.git_ok("code", &["pull", "-q", "--ff-only"]);
    let touch = || run(ana.command("sh").args(["-c", "touch code/secrets/*"]));
    for arguments in [
        &["status", "--porcelain"][..],
        &["diff"],
        &["stash"],
        &["add", "--renormalize", "."],
        &["switch", "-q", "--detach", "origin/rotated"],
        &["switch", "-q", "main"],
        &["checkout", "-q", "--detach", "HEAD^"],
        &["checkout", "-q", "main", "--", "secrets/old"],
        &["switch", "-q", "main"],
        &["rebase", "-q", "origin/rotated"],
        &["reset", "-q", "--hard", "origin/main"],
    ] {
        touch();
        ana.git_ok("code", arguments);
    }
    one.is_clean();
    // Beside a change that may be committed, as `git commit -a` does.
    ana.write("code/README.md", "# mine\n");
    touch();
    ana.git_ok("code", &["stash", "-q"]);
    ana.git_ok("code", &["stash", "pop", "-q"]);
    touch();
    ana.git_ok("code", &["commit", "-qam", "Mine"]);
    ana.git_ok("code", &["worktree", "add", "-q", "../tree"]);
    run(ana.command("sh").args(["-c", "touch tree/secrets/*"]));
    assert_eq!(ana.git_ok("tree", &["status", "--porcelain"]), "");
    // Another version is one that is stored.
    ana.git_ok("code", &["checkout", "-q", "HEAD~2", "--", "secrets/old"]);
    assert_eq!(one.read("code/secrets/old"), b"plain of old\n");
    ana.git_ok("code", &["commit", "-qam", "Older"]);
    for (path, text) in
        [("secrets/old", "plain of me\n"), (odd, "plain of me\n"), ("secrets/db", "plain of old\n")]
    {
        ana.write(&format!("code/{path}"), text);
        one.refused(&["add", path]);
        one.undo(path);
    }
    one.is_clean();
}

/// Hooks, scripts and tools say by environment which repository and which index it is.
#[tokio::test]
async fn the_filter_is_at_home_wherever_git_runs_it() {
    let one = Locked::new().await;
    let ana = &one.ana;
    ana.mkdir("elsewhere");
    let git = |folder: &str, environment: &[(&str, &str)], arguments: &[&str]| {
        let mut command = ana.command("git");
        command.current_dir(ana.path(folder)).args(["-c", "user.name=A", "-c", "user.email=a@x"]);
        command.envs(environment.iter().copied()).args(arguments).output().unwrap()
    };
    let (dir, tree) = (ana.path("code/.git"), ana.path("code"));
    let (dir, tree) = (dir.to_str().unwrap(), tree.to_str().unwrap());
    fs::copy(ana.path("code/.git/index"), ana.path("index")).unwrap();
    chown(ana.path("index"), Some(ana.uid), Some(ana.uid)).unwrap();
    let index = ana.path("index");
    let places: [(&str, Vec<(&str, &str)>); 6] = [
        ("code/secrets", vec![]),
        ("code", vec![("GIT_DIR", ".git"), ("GIT_INDEX_FILE", ".git/index")]),
        ("code/secrets", vec![("GIT_DIR", "../.git"), ("GIT_WORK_TREE", "..")]),
        ("elsewhere", vec![("GIT_DIR", dir), ("GIT_WORK_TREE", tree)]),
        ("code", vec![("GIT_INDEX_FILE", index.to_str().unwrap())]),
        ("code", vec![("GIT_LITERAL_PATHSPECS", "1")]),
    ];
    let plain = b"plain of upstream\n";
    let id = {
        ana.write("plain", plain);
        ana.git_ok("code", &["hash-object", "-w", "--no-filters", "../plain"]).trim().to_owned()
    };
    let entry = format!("100644,{id},secrets/old");
    ana.write("code/secrets/old", plain);
    for (folder, environment) in &places {
        let ok = |arguments: &[&str]| {
            let output = git(folder, environment, arguments);
            assert!(output.status.success(), "{folder} {environment:?} {arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        ok(&["update-index", "--add", "--cacheinfo", &entry]);
        run(ana.command("sh").args(["-c", "touch code/secrets/*"]));
        assert_eq!(ok(&["status", "--porcelain"]), "A  secrets/old\n");
        ok(&["add", "-A"]);
        ana.write("code/secrets/old", "plain of me!!!!!!\n");
        let output = git(folder, environment, &["add", "-u"]);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(PLAIN),
            "{folder} {environment:?}: {output:?}"
        );
        ana.write("code/secrets/old", plain);
    }
    ana.git_ok("code", &["rm", "-q", "-f", "secrets/old"]);
    one.is_clean();

    // In a submodule, whose folder of git is elsewhere, and with the other hash.
    ana.git_ok("", &["init", "-q", "--object-format=sha256", "-b", "main", "new"]);
    let new = "new";
    ana.write("new/.gitattributes", "secrets/** filter=git-crypt diff=git-crypt\n");
    ana.mkdir("new/secrets");
    ana.write("new/secrets/db", one.read(DB));
    ana.write("new/secrets/empty", "");
    ana.git_ok(new, &["add", "."]);
    ana.git_ok(new, &["commit", "-qm", "One"]);
    ana.git_ok("", &["init", "-q", "--object-format=sha256", "-b", "main", "above"]);
    let file = ["-c", "protocol.file.allow=always"];
    ana.git_ok("above", &[&file[..], &["submodule", "--quiet", "add", "../new", "sub"]].concat());
    ana.git_ok("above", &["commit", "-qm", "Sub"]);
    let answers = one.read("code/.git/rosterd-locked");
    for (folder, config) in [("new", "new/.git"), ("above/sub", "above/.git/modules/sub")] {
        ana.write(&format!("{config}/rosterd-locked"), &answers);
        ana.git_ok(folder, &["config", "include.path", "rosterd-locked"]);
        run(ana.command("sh").args(["-c", &format!("touch {folder}/secrets/*")]));
        assert_eq!(ana.git_ok(folder, &["status", "--porcelain"]), "");
        ana.write(&format!("{folder}/secrets/db"), [&one.read(DB)[..], b"more"].concat());
        let output = ana.git(folder, &["commit", "-qam", "x"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains(CHANGED), "{folder}: {output:?}");
        ana.git_ok(folder, &["checkout", "-q", "--", "secrets/db"]);
    }
    assert_eq!(ana.git_ok("above", &["status", "--porcelain"]), "");
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

        // `git-crypt lock` takes its own filter away, and ours answers again without a run.
        one.crypt(&["lock"]);
        one.is_clean();
        ana.write(DB, "plain\n");
        one.refused(&["commit", "-qam", "x"]);
        ana.git_ok("code", &["checkout", "-q", "--", "secrets/db"]);
        assert_eq!(run_in(ana, &desired).await, "");
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

/// How rosterd locked clones first: with the header alone, and in the clone's own `config`.
const FIRST: &str = r#"set -- $(dd bs=1 count=10 2>/dev/null | od -An -tx1); case "$*" in "") ;; "00 47 49 54 43 52 59 50 54 00") printf '\000GITCRYPT\000' && cat ;; *) exit 1 ;; esac"#;

/// As scripts made them, `cat` both ways, and as rosterd did.
#[tokio::test]
async fn a_clone_with_a_plain_filter_is_converted_in_place_and_never_cloned_again() {
    for extra in [&[][..], &["required"], &["required", "textconv"], &["first"]] {
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
                "first" => ana.git_ok("code", &["config", "filter.git-crypt.clean", FIRST]),
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
            assert!(String::from_utf8_lossy(&refused.stderr).contains(PLAIN), "{folder}: {refused:?}");
            ana.git_ok(folder, &["checkout", "-q", "--", "secrets/db"]);
        }
        // The person's key still opens it: git itself can change each of the keys.
        ana.git_ok("code", &["checkout", "-q", "--", "README.md"]);
        one.give_key();
        one.crypt(&["unlock", "../key"]);
        assert_eq!(one.read(DB), b"the database password\n");
        assert_eq!(run_in(ana, &desired).await, "");
        // And what guarded it is still there when the key goes.
        one.crypt(&["lock"]);
        ana.write(DB, "plain\n");
        one.refused(&["add", "secrets/db"]);
        assert_eq!(run_in(ana, &desired).await, "");
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
        assert!(!output.status.success() && said.contains(PLAIN), "{said}");
        ana.git_ok("code", &["checkout", "--", "deploy"]);
        assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
    };
    refuses();

    // A clone that a script made, or of a time before the key: what its own attributes name is guarded by the next run.
    let section = ["--file", ".git/rosterd-locked", "--remove-section", "filter.git-crypt-prod"];
    ana.git_ok("code", &[&["config"], &section[..]].concat());
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
