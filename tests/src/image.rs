//! Base images, made once by mmdebstrap, and over each a layer with the `.deb` that was just built: a test does
//! neither again.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::cmd;
use crate::scratch::{cache, once, unmount};

/// A Debian to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

/// What a machine has besides Debian's essential packages: what rosterd's package depends on, what it works with and
/// what tests look at it with.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    // tmux 3.4 and later asks for the scopes of panes over the person's bus.
    "dbus-user-session",
    "init-system-helpers",
    "ca-certificates",
    "sudo",
    "passwd",
    "acl",
    "attr",
    "zsh",
    "tmux",
    "git",
    "git-crypt",
    "procps",
    "strace",
    "less",
    // Sources of accounts besides files: one that answers, and one that cannot (its daemon is not there).
    "libnss-extrausers",
    "libnss-sss",
    "nano",
    // A way in by key. It listens only where a test starts it: machines share the host's loopback.
    "openssh-server",
    "openssh-client",
];

/// What is done to the image once. Housekeeping timers would make measurements uncertain.
const CUSTOMIZE: &str = r#"
for unit in ssh.service ssh.socket apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
# Only the tests that want them name them.
sed -i 's/ sss//; s/ extrausers//' "$1/etc/nsswitch.conf"
mkdir -p "$1/var/log/journal"
rm -f "$1/etc/machine-id"
"#;

impl Suite {
    /// Both, the older first.
    pub const ALL: [Suite; 2] = [Suite::Bookworm, Suite::Trixie];

    fn packages(self) -> Vec<&'static str> {
        let openssl = match self {
            Suite::Bookworm => "libssl3",
            Suite::Trixie => "libssl3t64",
        };
        PACKAGES.iter().copied().chain([openssl]).collect()
    }

    fn key(self) -> String {
        let mut hasher = DefaultHasher::new();
        (self.packages(), CUSTOMIZE).hash(&mut hasher);
        format!("{self}-{:016x}", hasher.finish())
    }

    /// The folder of the base image; made now when there is none.
    pub(crate) fn base(self) -> PathBuf {
        let place = cache().join("images").join(self.key());
        once(&place, |folder| {
            let begun = Instant::now();
            eprintln!("harness: making the {self} image, once");
            // A log of its own beside the image: mmdebstrap says thousands of lines and one of them matters.
            cmd::run(
                Command::new("mmdebstrap")
                    .args(["--variant=minbase", "--quiet", "--aptopt=Acquire::Retries \"5\""])
                    .arg(format!("--include={}", self.packages().join(",")))
                    .arg(format!("--customize-hook=set -eu; {CUSTOMIZE}"))
                    .arg(self.to_string())
                    .arg(folder),
            );
            eprintln!("harness: the {self} image took {:.0} s", begun.elapsed().as_secs_f64());
        });
        place
    }

    /// The overlay's lower folders of a machine that has rosterd installed, the upper one first.
    pub(crate) fn layers_with(self, deb: &Path) -> Vec<PathBuf> {
        let base = self.base();
        let mut hasher = DefaultHasher::new();
        fs::read(deb)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", deb.display()))
            .hash(&mut hasher);
        let layers = cache().join("layers");
        let place = layers.join(format!("{}-{:016x}", self.key(), hasher.finish()));
        once(&place, |folder| {
            forget_old_layers(&layers);
            for name in ["layer", "work", "root"] {
                fs::create_dir(folder.join(name)).expect("a folder of a layer");
            }
            let root = folder.join("root");
            mount_overlay(std::slice::from_ref(&base), &folder.join("layer"), &folder.join("work"), &root);
            let target = root.join("tmp/rosterd.deb");
            fs::copy(deb, &target).expect("copying the .deb into the layer");
            let installed = Command::new("chroot")
                .arg(&root)
                .args([
                    "env",
                    "-i",
                    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                    "LANG=C.UTF-8",
                    "DEBIAN_FRONTEND=noninteractive",
                ])
                .args(["dpkg", "--install", "/tmp/rosterd.deb"])
                .output();
            fs::remove_file(&target).expect("removing the .deb from the layer");
            unmount(&root);
            let installed = installed.expect("running dpkg");
            assert!(
                installed.status.success(),
                "dpkg cannot install {} on {self}:\n{}{}",
                deb.display(),
                String::from_utf8_lossy(&installed.stdout),
                String::from_utf8_lossy(&installed.stderr)
            );
        });
        vec![place.join("layer"), base]
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        })
    }
}

/// Makes the base images, both at the same time.
pub fn build_images() {
    let threads = Suite::ALL.map(|suite| std::thread::spawn(move || suite.base()));
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The newest `.deb` that `./dev build` made, or the one that `ROSTERD_DEB` names.
pub fn deb() -> PathBuf {
    if let Some(path) = std::env::var_os("ROSTERD_DEB") {
        return path.into();
    }
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let entries = fs::read_dir(&dist).into_iter().flatten().flatten().map(|entry| entry.path());
    let packages = entries.filter(|path| path.extension().is_some_and(|ending| ending == "deb"));
    packages
        .max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
        .unwrap_or_else(|| panic!("no .deb in {}: run `./dev build` first", dist.display()))
}

/// Mounts an overlay; of `lower`, the first covers the next.
pub(crate) fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) {
    let lower = lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    cmd::run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at));
}

/// Each build makes a layer per suite; a machine may still run on one of the last few.
fn forget_old_layers(layers: &Path) {
    let mut all: Vec<_> = fs::read_dir(layers)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("layer").is_dir() && entry.path().extension().is_none())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    for (_, layer) in all.iter().rev().skip(8) {
        if let Err(error) = fs::remove_dir_all(layer) {
            eprintln!("harness: cannot remove {}: {error}", layer.display());
        }
        let mut lock = layer.clone();
        lock.set_extension("lock");
        let _ = fs::remove_file(lock);
    }
}
