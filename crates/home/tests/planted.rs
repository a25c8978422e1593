//! Homes arranged against the worker: links out, FIFOs, devices, closed folders, endless ones, and races. Each test looks
//! at what did not happen outside: nothing there was opened, read, listed, changed or made.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use roster::desired::HomeDesired;

use ::home::{Limits, Worker};
use mirror::Mirrors;
use support::{GitServer, Somebody, open_dir, run};
use work::{LIMITS, clone, home, program, run_by, run_in, site, start_within, wanted};

/// A folder outside every home, open to everyone, with all that a worker might look for. It tells what happens in it.
struct Outside {
    dir: tempfile::TempDir,
    watch: Inotify,
}

impl Outside {
    fn new(server: &GitServer) -> Outside {
        let dir = open_dir();
        let path = dir.path();
        run(std::process::Command::new("git")
            .args(["clone", "-q", &server.url("public", "infra.git")])
            .arg(path.join("code")));
        run(std::process::Command::new("git")
            .args(["clone", "-q", &server.url("public", "tripit.git")])
            .arg(path.join("code/tripit")));
        for folder in ["config", "config/git", "tree", "worktrees"] {
            fs::create_dir(path.join(folder)).unwrap();
        }
        for file in ["config/git/config", "gitconfig", "credentials", "file", "tree/.git"] {
            fs::write(path.join(file), "[user]\n\tname = outside\n").unwrap();
        }
        run(std::process::Command::new("chmod").arg("-R").arg("a+rwX").arg(path));
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            watch.add_watch(&folder, AddWatchFlags::IN_ALL_EVENTS).unwrap();
            let entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            folders.extend(entries.into_iter().filter(|path| path.is_dir() && !path.is_symlink()));
        }
        let outside = Outside { dir, watch };
        // It does tell.
        fs::read(outside.path("credentials")).unwrap();
        assert!(outside.watch.read_events().is_ok_and(|events| !events.is_empty()));
        outside.forget();
        outside
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn forget(&self) {
        while self.watch.read_events().is_ok_and(|events| !events.is_empty()) {}
    }

    #[track_caller]
    fn is_untouched(&self, case: &str) {
        match self.watch.read_events() {
            Err(nix::errno::Errno::EAGAIN) => {}
            events => panic!("{case}: {events:?}"),
        }
    }
}

struct Site {
    server: GitServer,
    outside: Outside,
}

impl Site {
    fn new() -> Site {
        let server = GitServer::start();
        server.encrypted("infra.git");
        server.plain("tripit.git");
        let outside = Outside::new(&server);
        Site { server, outside }
    }

    fn url(&self, name: &str) -> String {
        self.server.url("public", name)
    }

    /// A person whose clone has to move, with another clone in it, and who has a worktree.
    async fn person(&self) -> Somebody {
        let ana = Somebody::new();
        clone(&ana, "code", &self.url("infra.git"), true).await;
        ana.git_ok("code", &["clone", "-q", &self.url("tripit.git"), "tripit"]);
        ana.git_ok("code", &["worktree", "add", "-q", "../tree"]);
        ana.write("code/mine", "precious");
        ana
    }

    fn desired(&self) -> HomeDesired {
        let tripit = wanted("code/tripit", &self.url("tripit.git"), false);
        let forge = self.url("forge.git");
        site(wanted("code/infra", &self.url("infra.git"), true), &[&tripit], Some(&forge))
    }
}

/// Removes what is there.
fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn special(ana: &Somebody, path: &str, kind: SFlag, device: u64) {
    clear(&ana.path(path));
    mknod(&ana.path(path), kind, Mode::from_bits_truncate(0o666), device).unwrap();
    chown(ana.path(path), Some(ana.uid), Some(ana.uid)).unwrap();
}

/// Where something is planted, and what of `Outside` has that name.
const PLACES: &[(&str, &str)] = &[
    ("code", "code"),
    ("code/.git", "code/.git"),
    ("code/.git/config", "gitconfig"),
    ("code/.git/HEAD", "file"),
    ("code/.git/objects", "code/.git/objects"),
    ("code/.git/objects/info/alternates", "file"),
    ("code/.git/refs", "code/.git/refs"),
    ("code/.git/refs/remotes/origin/HEAD", "code/.git/refs/remotes/origin/HEAD"),
    ("code/.git/index", "code/.git/index"),
    ("code/.git/config.lock", "file"),
    ("code/.git/config.rosterd-unfinished", "file"),
    ("code/.git/worktrees", "worktrees"),
    ("code/.git/worktrees/tree", "tree"),
    ("code/.git/worktrees/tree/gitdir", "file"),
    ("code/.git/modules", "code/.git"),
    ("code/tripit", "code/tripit"),
    ("code/tripit/.git", "code/tripit/.git"),
    ("code/tripit/.git/config", "gitconfig"),
    ("tree", "tree"),
    ("tree/.git", "tree/.git"),
    ("tree/.git.rosterd-unfinished", "file"),
    (".code.rosterd-moving", "code"),
    (".code.rosterd-unfinished", "code"),
    (".git-credentials", "credentials"),
    (".gitconfig", "gitconfig"),
    (".gitconfig.lock", "file"),
    (".gitconfig.rosterd-unfinished", "file"),
    (".config", "config"),
    (".config/git", "config/git"),
    (".config/git/config", "config/git/config"),
];

#[tokio::test]
async fn links_out_of_a_home_fifos_devices_and_closed_folders_lead_nowhere_invariant_3() {
    let site = Site::new();
    let one = site.person().await;
    let saved = one.base().join("saved");
    run(std::process::Command::new("cp").arg("-a").arg(&one.home).arg(&saved));
    let restore = || {
        run(std::process::Command::new("chmod").args(["-R", "u+rwx"]).arg(&one.home));
        fs::remove_dir_all(&one.home).unwrap();
        run(std::process::Command::new("cp").arg("-a").arg(&saved).arg(&one.home));
    };
    let foreign = one.base().join("foreign");
    fs::write(&foreign, "[user]\n\tname = root\n").unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o666)).unwrap();
    // On a kernel without Landlock, so that only the worker's own care counts.
    let careful = one.base().join("careful");
    let script = format!(
        "#!/bin/sh\nexec /usr/bin/strace -f --seccomp-bpf -qq -o /dev/null -e trace=landlock_create_ruleset \
         -e inject=landlock_create_ruleset:error=EOPNOTSUPP {} worker\n",
        work::program().display()
    );
    fs::write(&careful, script).unwrap();
    fs::set_permissions(&careful, fs::Permissions::from_mode(0o755)).unwrap();
    let worker = Worker::start(&careful, &work::person(&one), LIMITS).await.unwrap();
    assert_eq!(worker.landlock(), ::home::Landlock::Absent);
    worker.finish();
    let mut told = 0;
    for (place, target) in PLACES {
        for kind in ["symlink", "fifo", "zeroes", "hard link", "closed", "folder"] {
            // What stands for a folder is tried as a folder.
            if site.outside.path(target).is_dir() && matches!(kind, "zeroes" | "hard link") {
                continue;
            }
            restore();
            let path = one.path(place);
            let mut above = PathBuf::new();
            for part in Path::new(place).parent().unwrap() {
                above.push(part);
                if !one.path(above.to_str().unwrap()).exists() {
                    one.mkdir(above.to_str().unwrap());
                }
            }
            match kind {
                "symlink" | "etc" => {
                    clear(&path);
                    let target =
                        if kind == "etc" { PathBuf::from("/etc") } else { site.outside.path(target) };
                    symlink(target, &path).unwrap();
                }
                "fifo" => special(&one, place, SFlag::S_IFIFO, 0),
                "zeroes" => special(&one, place, SFlag::S_IFCHR, makedev(1, 5)),
                "hard link" => {
                    clear(&path);
                    fs::hard_link(&foreign, &path).unwrap();
                }
                "closed" => match fs::symlink_metadata(&path) {
                    Ok(_) => fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap(),
                    Err(_) => continue,
                },
                _ => {
                    clear(&path);
                    one.mkdir(place);
                    one.write(&format!("{place}/mine"), "precious");
                }
            }
            let case = format!("{place} {kind}");
            let begun = Instant::now();
            let said = run_by(&careful, &one, &site.desired()).await;
            assert!(begun.elapsed() < Duration::from_secs(15), "{case}: {said}");
            assert!(!said.contains("? "), "{case}: {said}");
            site.outside.is_untouched(&case);
            assert_eq!(fs::read_to_string(&foreign).unwrap(), "[user]\n\tname = root\n", "{case}");
            told += usize::from(said.contains("- ") || said.contains("! ") || said.contains("FAILED"));
            // What was planted is what it was, unless it carries a mark of ours.
            if kind == "folder" && !place.contains("rosterd-unfinished") {
                let found = run(one.command("find").args([".", "-name", "mine", "-size", "8c"]));
                assert!(!found.is_empty(), "{case}: {said}");
            }
        }
    }
    assert!(told > PLACES.len(), "{told}");
}

#[tokio::test]
async fn links_to_worktrees_outside_are_not_followed_invariant_3() {
    let site = Site::new();
    let ana = site.person().await;
    // A worktree outside that names the clone as a real one would.
    let admin = ana.path("code/.git/worktrees/tree");
    fs::write(site.outside.path("tree/.git"), format!("gitdir: {}\n", admin.display())).unwrap();
    let gitdir = format!("{}\n", site.outside.path("tree/.git").display());
    ana.write("code/.git/worktrees/tree/gitdir", &gitdir);
    site.outside.forget();
    let said = run_in(&ana, &site.desired()).await;
    assert!(
        said.contains("is outside the home. After the move: git -C ~/code/infra worktree repair"),
        "{said}"
    );
    site.outside.is_untouched("an absolute link");
    assert_eq!(fs::read_to_string(ana.path("code/infra/.git/worktrees/tree/gitdir")).unwrap(), gitdir);

    // The same by way of a symlink in the home, and by dots.
    for link in ["HOME/way/tree/.git", "HOME/../OUT/tree/.git", "../../../../../OUT/tree/.git"] {
        let ana = site.person().await;
        symlink(site.outside.path(""), ana.path("way")).unwrap();
        let out = format!("../{}", site.outside.path("").file_name().unwrap().to_string_lossy());
        let link = link.replace("HOME", &ana.home.display().to_string()).replace("OUT", &out);
        ana.write("code/.git/worktrees/tree/gitdir", format!("{link}\n"));
        let admin = ana.path("code/.git/worktrees/tree");
        fs::write(site.outside.path("tree/.git"), format!("gitdir: {}\n", admin.display())).unwrap();
        site.outside.forget();
        run_in(&ana, &site.desired()).await;
        site.outside.is_untouched(&link);
    }
}

/// Folders and files change places with links out, all the time, while workers look, clone, move and write.
#[test]
fn a_folder_that_becomes_a_symlink_at_any_moment_leads_nowhere_invariant_3() {
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let site = Site::new();
    let desired = site.desired();
    let mut swaps_in_all = 0;
    for race in [
        &[("code", "code")][..],
        &[("code/.git", "code/.git"), ("code/tripit", "code/tripit")],
        &[("code/.git/config", "gitconfig"), ("code/.git/worktrees", "worktrees")],
        &[(".gitconfig", "gitconfig"), (".git-credentials", "credentials"), (".config", "config")],
        &[("code/.git/index", "file"), ("tree/.git", "tree/.git"), ("tree", "tree")],
    ] {
        let ana = here.block_on(site.person());
        ana.write(".gitconfig", "[core]\n\tx = y\n");
        ana.write(".git-credentials", "");
        ana.mkdir(".config");
        for (number, (_, target)) in race.iter().enumerate() {
            symlink(site.outside.path(target), ana.path(&format!("evil{number}"))).unwrap();
        }
        let stop = AtomicBool::new(false);
        let (mut swaps, mut runs) = (0, 0);
        let said = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    for (number, (place, _)) in race.iter().enumerate() {
                        // After a move it is elsewhere.
                        for place in [(*place).to_owned(), place.replacen("code", "code/infra", 1)] {
                            let (evil, place) = (ana.path(&format!("evil{number}")), ana.path(&place));
                            let flags = RenameFlags::RENAME_EXCHANGE;
                            swaps += usize::from(renameat2(AT_FDCWD, &evil, AT_FDCWD, &place, flags).is_ok());
                        }
                    }
                }
                swaps
            });
            let begun = Instant::now();
            let mut said = String::new();
            while begun.elapsed() < Duration::from_secs(4) || runs < 5 {
                let run =
                    async { tokio::time::timeout(Duration::from_secs(60), run_in(&ana, &desired)).await };
                said = here.block_on(run).unwrap();
                runs += 1;
            }
            stop.store(true, Ordering::Relaxed);
            swaps = swapper.join().unwrap();
            said
        });
        println!("{race:?}: {runs} runs, {swaps} swaps; at last:\n{said}");
        site.outside.is_untouched(&format!("{race:?}"));
        swaps_in_all += swaps;
        // Nothing of the person's got lost, wherever it is now.
        let found = run(ana.command("find").args([".", "-name", "mine", "-size", "8c"]));
        assert_eq!(found.lines().count(), 1, "{race:?}: {found}");
    }
    assert!(swaps_in_all > 1000, "{swaps_in_all}");
}

/// How many entries an endless folder has; `ROSTERD_TEST_ENTRIES=10000000` for once.
fn many() -> usize {
    std::env::var("ROSTERD_TEST_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000)
}

#[tokio::test]
async fn a_folder_without_end_costs_neither_time_nor_memory() {
    let site = Site::new();
    let ana = site.person().await;
    let heap = ana.base().join("heap");
    fs::create_dir(&heap).unwrap();
    for number in 0..many() {
        fs::File::create(heap.join(number.to_string())).unwrap();
    }
    chown(&heap, Some(ana.uid), Some(ana.uid)).unwrap();
    let limits = Limits { memory_mib: 64, ..LIMITS };
    let look = async |what: &str| {
        let begun = Instant::now();
        let mut worker = start_within(&ana, limits).await.unwrap();
        let observed = worker.observe(&site.desired()).await;
        worker.finish();
        println!("{what}: looked at in {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5));
        observed.unwrap()
    };
    for place in [
        "code",
        "code/.git/worktrees",
        "code/.git/modules",
        "code/.git/objects/info",
        "code/infra",
        ".config",
        "code/.git/refs/remotes/origin",
        "code/tripit",
        ".code.rosterd-moving",
    ] {
        let kept = ana.base().join("kept");
        let was_there = fs::rename(ana.path(place), &kept).is_ok();
        fs::rename(&heap, ana.path(place)).unwrap();
        let observed = look(place).await;
        if place == "code/.git/worktrees" {
            let obstacles = &observed.moves.candidates["code"].obstacles;
            assert_eq!(*obstacles, ["it has too many worktrees"]);
        }
        fs::rename(ana.path(place), &heap).unwrap();
        if was_there {
            fs::rename(&kept, ana.path(place)).unwrap();
        }
    }
    // An unfinished clone of that size is removed, a part at a time.
    fs::rename(&heap, ana.path(".code.rosterd-unfinished")).unwrap();
    let deadline = Duration::from_secs(600);
    let mut worker = start_within(&ana, Limits { deadline, ..limits }).await.unwrap();
    let begun = Instant::now();
    let path = ".code.rosterd-unfinished".to_owned();
    let done = worker.apply(&roster::plan::HomeAction::RemoveUnfinished { path }).await;
    worker.finish();
    println!("removed in {:?}", begun.elapsed());
    assert_eq!(done, roster::report::StepResult::Done);
}

/// The same while clones are fetched and go forward. libgit2 opens by path, so this shows what Landlock is for.
#[test]
fn a_clone_that_becomes_a_symlink_while_it_is_refreshed_leads_nowhere_invariant_3() {
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (site, mirrors, ana) = (Site::new(), Mirrors::new(), Somebody::new());
    let infra = wanted("code", &site.url("infra.git"), true);
    let desired = home(&[&infra]);
    here.block_on(clone(&ana, "code", &infra.url, true));
    let work = site.server.work("infra.git");
    let push = |number: usize| {
        fs::write(work.join("src/counter"), format!("{number}\n")).unwrap();
        site.server.git(&work, &["add", "."]);
        site.server.git(&work, &["commit", "-qm", "Count"]);
        site.server.git(&work, &["push", "-q", "origin", "main"]);
        site.server.git(&work, &["rev-parse", "HEAD"])
    };
    let places = ["code/.git", "code/.git/objects", "code/.git/refs", "code/.git/index", "code/src"];
    for (number, place) in places.iter().enumerate() {
        symlink(site.outside.path(place), ana.path(&format!("evil{number}"))).unwrap();
    }
    let swap = |number: usize, place: &str| {
        let (evil, place) = (ana.path(&format!("evil{number}")), ana.path(place));
        renameat2(AT_FDCWD, &evil, AT_FDCWD, &place, RenameFlags::RENAME_EXCHANGE).is_ok()
    };
    site.outside.forget();
    for (number, place) in places.iter().enumerate() {
        let stop = AtomicBool::new(false);
        let swaps = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    swaps += usize::from(swap(number, place));
                }
                swaps
            });
            let begun = Instant::now();
            let mut runs = 0;
            while begun.elapsed() < Duration::from_secs(2) || runs < 3 {
                push(100 * number + runs);
                let remotes = here.block_on(mirrors.remotes(&infra.url));
                let program = program();
                let run = mirrors.run_with(&program, &ana, &desired, &remotes);
                here.block_on(async { tokio::time::timeout(Duration::from_secs(60), run).await }).unwrap();
                runs += 1;
            }
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap()
        });
        assert!(swaps > 100, "{place}: {swaps}");
        site.outside.is_untouched(place);
        if ana.path(place).is_symlink() {
            assert!(swap(number, place));
        }
    }
    // Left in peace, it is where it should be, or it is told or left alone: a lock of git's, or half a checkout, may be left
    // of what was swapped in the middle of a deed, and is its person's to take away.
    let tip = push(1000);
    let mut done = false;
    for _ in 0..2 {
        let remotes = here.block_on(mirrors.remotes(&infra.url));
        done = here.block_on(mirrors.run_with(&program(), &ana, &desired, &remotes));
    }
    let (head, changed) =
        (ana.git_ok("code", &["rev-parse", "HEAD"]), ana.git_ok("code", &["status", "--porcelain"]));
    assert!(!done || !changed.is_empty() || head == tip, "{head}, not {tip}");
}
