//! Repositories of a size that is not rare: many files, and a long history.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::io::{Read as _, Write};
use std::time::{Duration, Instant};

use roster::plan::HomeAction;
use roster::plan::refresh::way;
use roster::report::StepResult;

use mirror::Mirrors;
use support::{GitServer, Somebody};
use work::{home, start_within, wanted};

/// Clones from a mirror that is made for it, goes forward by one more commit, and looks at the result with git.
async fn clone_and_refresh(
    ana: &Somebody,
    first: impl FnOnce(&mut dyn Write),
    second: impl FnOnce(&mut dyn Write),
) {
    let server = GitServer::start();
    let mut mirrors = Mirrors::new();
    mirrors.limits.deadline = Duration::from_secs(600);
    server.empty("infra.git");
    server.import("infra.git", first);
    let infra = wanted("code", &server.url("public", "infra.git"), true);
    let desired = home(&[&infra]);
    let clock = Instant::now();
    let remotes = mirrors.remotes(&infra.url).await;
    println!("mirrored after {:?}", clock.elapsed());
    let action = HomeAction::Clone(infra.clone());
    let mut worker = start_within(ana, mirrors.limits).await.unwrap();
    let (cloned, without_mirror) = worker.apply_from(&action, &way(&action, &remotes)).await;
    worker.finish();
    assert_eq!((cloned, without_mirror), (StepResult::Done, None));
    println!("cloned after {:?}", clock.elapsed());

    let tip = server.import("infra.git", second);
    let remotes = mirrors.remotes(&infra.url).await;
    let done = mirrors.run(ana, &desired, &remotes).await;
    println!("refreshed after {:?}", clock.elapsed());
    assert_eq!((done.kinds(), done.told()), (vec!["fetch", "fast-forward"], vec![]));
    assert_eq!(ana.git_ok("code", &["rev-parse", "HEAD"]), tip);
    assert_eq!(ana.git_ok("code", &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn twenty_thousand_files_are_no_matter() {
    let files = |text: &'static str, every: usize| {
        move |to: &mut dyn Write| {
            for number in (0..20_000).step_by(every) {
                let content = format!("{number} {text}\n");
                let (folder, size) = (number % 100, content.len());
                write!(to, "M 644 inline d{folder}/f{number}\ndata {size}\n{content}").unwrap();
            }
        }
    };
    let ana = Somebody::in_memory();
    clone_and_refresh(&ana, files("old", 1), files("new", 4)).await;
    let content = |path: &str| fs::read_to_string(ana.path("code").join(path)).unwrap();
    assert_eq!((content("d4/f4"), content("d5/f5")), ("4 new\n".into(), "5 old\n".into()));
}

#[tokio::test]
async fn a_gigabyte_of_history_is_no_matter() {
    let noise = |count: usize| {
        move |to: &mut dyn Write| {
            let mut noise = fs::File::open("/dev/urandom").unwrap();
            let mut content = vec![0; 1 << 20];
            // Each is the content of one file in a commit of its own.
            for number in 0..count {
                if number > 0 {
                    write!(to, "commit refs/heads/main\ncommitter D <d@e> 1700000000 +0000\ndata 1\nx\n")
                        .unwrap();
                }
                noise.read_exact(&mut content).unwrap();
                write!(to, "M 644 inline file\ndata {}\n", content.len()).unwrap();
                to.write_all(&content).unwrap();
                to.write_all(b"\n").unwrap();
            }
        }
    };
    let ana = Somebody::new();
    clone_and_refresh(&ana, noise(1024), noise(1)).await;
    assert_eq!(ana.git_ok("code", &["rev-list", "--count", "HEAD"]).trim(), "1025");
    let size: u64 = fs::read_dir(ana.path("code/.git/objects/pack"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size > 1 << 30, "{size}");
}
