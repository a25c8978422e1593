//! On a file system that can share blocks, a clone from the mirror takes no room of its own for what both have.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

#[path = "support/mirror.rs"]
mod mirror;
mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::path::Path;
use std::process::Command;

use roster::plan::HomeAction;
use roster::plan::refresh::{Way, way};
use roster::report::StepResult;

use mirror::Mirrors;
use support::{GitServer, Somebody, run};
use work::{start_within, wanted};

/// A btrfs in a file, mounted until it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Mounted {
        let dir = support::open_dir();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Mounted(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path().join("at")).status();
    }
}

#[test]
fn a_clone_from_the_mirror_shares_its_blocks_where_the_file_system_can() {
    let mounted = Mounted::new();
    // Everything that the other test makes goes where temporary files go.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "on_that_file_system", "--ignored", "--nocapture"])
        .env("TMPDIR", mounted.0.path().join("at"))
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "started by the test above, on a file system that shares blocks"]
async fn on_that_file_system() {
    let (server, ana, mirrors) = (GitServer::start(), Somebody::new(), Mirrors::new());
    let work = server.plain("infra.git");
    // What does not compress, and is more than what stands beside an inode.
    let mut random = vec![0; 4 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    fs::write(work.join("big"), random).unwrap();
    server.git(&work, &["add", "big"]);
    server.git(&work, &["commit", "-qm", "Big"]);
    server.git(&work, &["push", "-q", "origin", "HEAD"]);
    let infra = wanted("code", &server.url("public", "infra.git"), false);
    let remotes = mirrors.remotes(&infra.url).await;
    let clone = HomeAction::Clone(infra);
    let way = way(&clone, &remotes);
    assert!(matches!(way, Way::Mirror(_)), "{way:?}");
    let mut worker = start_within(&ana, mirrors.limits).await.unwrap();
    assert_eq!(worker.apply_from(&clone, &way).await, (StepResult::Done, None));
    worker.finish();

    let pack = |folder: &Path| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
    };
    let pack = pack(&ana.path("code/.git/objects/pack"));
    run(Command::new("sync").arg("-f").arg(&pack));
    let extents = run(Command::new("filefrag").arg("-v").arg(&pack));
    println!("{extents}");
    let rows = || extents.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    assert!(rows().count() > 0 && rows().all(|line| line.contains("shared")), "{extents}");
    ana.git_ok("code", &["fsck", "--full", "--strict"]);
}
