//! A folder, a lock on it and a cgroup, for something that must leave nothing behind: whatever started in it is
//! killed, whatever is mounted in it is unmounted, and the folder goes, at the end of the test or, when the test
//! process was killed, at the start of the next one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything the harness keeps between runs and during one.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("ROSTERD_TEST_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        Path::new(&home).join(".cache/rosterd-test")
    });
    fs::create_dir_all(&base).unwrap_or_else(|error| panic!("cannot make {}: {error}", base.display()));
    base
}

#[derive(Debug)]
pub(crate) struct Scratch {
    name: String,
    dir: PathBuf,
    /// Held while the owner lives; released by the kernel when it dies in any way.
    _lock: File,
    keep: bool,
}

impl Scratch {
    /// A new one, with a name that no other has: also a valid host name.
    pub(crate) fn new(kind: &str) -> Scratch {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(|| sweep(false));
        let name = format!("{kind}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Scratch::named(name)
    }

    /// A new one with a fixed name, in the place of an earlier one of that name.
    pub(crate) fn named(name: String) -> Scratch {
        let dir = scratches().join(&name);
        if dir.exists() {
            clear(&name, &dir);
        }
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        let lock = File::create(dir.join("lock")).expect("the lock of a scratch folder");
        lock.lock().expect("locking a scratch folder of our own");
        for cgroup in cgroups(&name) {
            fs::create_dir_all(&cgroup)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", cgroup.display()));
        }
        Scratch { name, dir, _lock: lock, keep: false }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// A command that starts in this cgroup and in a session of its own.
    pub(crate) fn command(&self, program: &str) -> Command {
        let enter =
            r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec setsid "$@""#;
        let mut command = Command::new("sh");
        command.arg("-euc").arg(enter).arg("sh").args(cgroups(&self.name)).arg("--").arg(program);
        command
    }

    /// Ends everything that runs in it.
    pub(crate) fn kill(&self) {
        kill_all(&self.name);
    }

    /// Lives on after this process, until `sweep(true)`.
    pub(crate) fn keep(&mut self) {
        File::create(self.dir.join("keep")).expect("the mark of a scratch folder that stays");
        self.keep = true;
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.keep
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            clear(&self.name, &self.dir);
        }
    }
}

/// Clears what dead test processes left behind; with `kept`, also what was meant to stay, such as the demo's.
pub fn sweep(kept: bool) {
    for entry in fs::read_dir(scratches()).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !kept && dir.join("keep").exists() {
            continue;
        }
        let owned = File::open(dir.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if !owned {
            clear(&entry.file_name().to_string_lossy(), &dir);
        }
    }
}

fn scratches() -> PathBuf {
    cache().join("running")
}

fn clear(name: &str, dir: &Path) {
    kill_all(name);
    unmount_below(dir);
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("harness: cannot remove {}: {error}", dir.display());
    }
    for cgroup in cgroups(name) {
        remove_cgroup(&cgroup);
    }
}

/// The cgroup in each hierarchy that systemd uses: one where cgroup v2 is alone, two where v1 is beside it.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = if top.join("cgroup.controllers").exists() {
        vec![top.to_path_buf()]
    } else {
        ["systemd", "unified"].iter().map(|name| top.join(name)).filter(|path| path.is_dir()).collect()
    };
    hierarchies.into_iter().map(|path| path.join(format!("rosterd-test-{name}"))).collect()
}

fn kill_all(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pids: Vec<i32> = cgroups(name).iter().flat_map(|cgroup| pids_below(cgroup)).collect();
        if pids.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            eprintln!("harness: {name}: these processes do not die: {pids:?}");
            return;
        }
        for pid in pids {
            // It may have ended by itself since it was listed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pids_below(cgroup: &Path) -> Vec<i32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in folders(cgroup) {
        pids.extend(pids_below(&child));
    }
    pids
}

fn remove_cgroup(cgroup: &Path) {
    for child in folders(cgroup) {
        remove_cgroup(&child);
    }
    // A cgroup whose last process is still being reaped cannot go; an empty cgroup harms nobody.
    let _ = fs::remove_dir(cgroup);
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    for point in points {
        unmount(&point);
    }
}

/// Unmounts, lazily when something of a dying process still holds it.
pub(crate) fn unmount(point: &Path) {
    for _ in 0..20 {
        match Command::new("umount").arg(point).output() {
            Ok(output) if output.status.success() => return,
            _ => std::thread::sleep(Duration::from_millis(25)),
        }
    }
    let lazily = Command::new("umount").arg("--lazy").arg(point).status();
    if !lazily.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!("harness: cannot unmount {}: {lazily:?}", point.display());
    }
}

/// Makes a folder by a function that fills another one, once for all processes; an interrupted attempt leaves nothing
/// that counts.
pub(crate) fn once(place: &Path, fill: impl FnOnce(&Path)) {
    if place.exists() {
        return;
    }
    let parent = place.parent().expect("a cached folder has a parent");
    fs::create_dir_all(parent).unwrap_or_else(|error| panic!("cannot make {}: {error}", parent.display()));
    let beside = |suffix: &str| {
        let mut name = place.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let lock = File::create(beside(".lock")).expect("a lock file beside a cached folder");
    lock.lock().expect("waiting for another process that fills the cache");
    if place.exists() {
        return;
    }
    let unfinished = beside(".unfinished");
    if unfinished.exists() {
        unmount_below(&unfinished);
        fs::remove_dir_all(&unfinished).expect("removing what an interrupted attempt left");
    }
    fs::create_dir(&unfinished).expect("a folder to fill");
    fill(&unfinished);
    fs::rename(&unfinished, place)
        .unwrap_or_else(|error: io::Error| panic!("cannot finish {}: {error}", place.display()));
}

/// Stops what runs and forgets every image and layer.
pub fn clean() {
    sweep(true);
    for folder in ["images", "layers"] {
        let folder = cache().join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .unwrap_or_else(|error| panic!("cannot remove {}: {error}", folder.display()));
        }
    }
}
