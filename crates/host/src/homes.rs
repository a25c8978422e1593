//! New homes. Each is built in a folder that only root can enter, given away there, and moved into its place
//! whole: while root works in it nobody else can reach it, and from then on root never does (invariant 3).
//! `useradd` makes the home in its place and fills it there (shadow issue 1649: two of them, one home).
//!
//! Each file is synced by itself. One `syncfs` for all of them measures the same for a thousand homes, and for
//! one home on a busy machine it waits until everybody's builds are on the disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, fsync, symlinkat, unlinkat};
use roster::plan::NewHome;

use crate::failure::Failure;
use crate::folder::{self, Missing};

/// Where homes are built: in the folder that holds the homes, because a rename cannot cross file systems.
pub(crate) const STAGING: &str = ".rosterd-new";

/// More would only wait for each other at the same file system.
const THREADS: usize = 4;

/// Homes of one base folder on their way.
pub(crate) struct Nursery {
    base: OwnedFd,
    staging: OwnedFd,
    shown: PathBuf,
}

/// Builds all `homes` at the same time. Gives the nurseries in which the finished ones wait, and what became of
/// each home in the order given.
pub(crate) fn build(root: &Path, homes: &[&NewHome]) -> (Nurseries, Vec<Result<(), Failure>>) {
    let mut nurseries = Nurseries(BTreeMap::new());
    let mut skels: BTreeMap<&Path, Result<Option<OwnedFd>, Failure>> = BTreeMap::new();
    for home in homes {
        let base = base_of(&home.path);
        nurseries.0.entry(base.to_path_buf()).or_insert_with(|| Nursery::open(root, base));
        skels.entry(&home.skel).or_insert_with(|| open_skel(root, &home.skel));
    }
    let results: Vec<Mutex<Result<(), Failure>>> = homes.iter().map(|_| Mutex::new(Ok(()))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((home, result)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            homes.get(index).zip(results.get(index))
        } {
            let built = nurseries.get(home).and_then(|nursery| match skels.get(home.skel.as_path()) {
                Some(Ok(skel)) => nursery.build(home, skel.as_ref()),
                Some(Err(failure)) => Err(failure.clone()),
                None => Ok(()),
            });
            if let (Err(failure), Ok(mut result)) = (built, result.lock()) {
                *result = Err(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(homes.len()) {
            scope.spawn(work);
        }
        work();
    });
    let results = results
        .into_iter()
        .map(|result| result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
        .collect();
    (nurseries, results)
}

/// The nurseries of a change, by base folder. Dropped, they remove what was not moved into place.
pub(crate) struct Nurseries(BTreeMap<PathBuf, Result<Nursery, Failure>>);

impl Nurseries {
    /// Moves a finished home into its place, which must be free.
    pub(crate) fn place(&self, home: &NewHome) -> Result<(), Failure> {
        self.get(home)?.place(home)
    }

    /// Takes a home that was placed for an account that could not be written back. Nobody can have entered it:
    /// its owner does not exist.
    pub(crate) fn take_back(&self, home: &NewHome) {
        if let (Ok(nursery), Some(name)) = (self.get(home), home.path.file_name()) {
            // Should this fail, the next run finds a home of the uid that is kept for the account, and uses it.
            let _ = renameat2(&nursery.base, name, &nursery.staging, name, RenameFlags::RENAME_NOREPLACE);
        }
    }

    /// Makes the moves durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        for (base, nursery) in &self.0 {
            if let Ok(nursery) = nursery {
                fsync(&nursery.base)
                    .map_err(|error| Failure::io(format!("syncing {}", base.display()), error))?;
            }
        }
        Ok(())
    }

    fn get(&self, home: &NewHome) -> Result<&Nursery, Failure> {
        match self.0.get(base_of(&home.path)) {
            Some(Ok(nursery)) => Ok(nursery),
            Some(Err(failure)) => Err(failure.clone()),
            None => {
                Err(Failure::new(format!("no home was built for {}", home.path.display()), "run it again"))
            }
        }
    }
}

impl Drop for Nurseries {
    fn drop(&mut self) {
        for nursery in self.0.values().flatten() {
            // What cannot be removed now is removed before the next home is built.
            let _ = remove_tree(&nursery.base, OsStr::new(STAGING));
        }
    }
}

/// Whether the home that an earlier run placed before it was killed is there: a folder of the right owner.
pub(crate) fn check_existing(root: &Path, home: &NewHome) -> Result<(), Failure> {
    let (base, name) =
        folder::open_parent(root, &home.path, Missing::Fail).map_err(|error| error.failure())?;
    match fstatat(&base, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(seen) if folder::kind(&seen) == SFlag::S_IFDIR && seen.st_uid == home.uid => Ok(()),
        Ok(seen) => Err(occupied(home, &seen)),
        Err(error) => Err(Failure::io(format!("looking at {}", home.path.display()), error)),
    }
}

/// Removes unfinished homes of a run that was killed; tells whether there were any.
pub(crate) fn clear_leftovers(root: &Path, base: &Path) -> io::Result<bool> {
    let Ok(base) = folder::open(root, base, Missing::Fail) else { return Ok(false) };
    match fstatat(&base, STAGING, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(false),
        _ => remove_tree(&base, OsStr::new(STAGING)).map(|()| true),
    }
}

fn base_of(home: &Path) -> &Path {
    home.parent().unwrap_or(Path::new("/"))
}

fn occupied(home: &NewHome, seen: &FileStat) -> Failure {
    let path = home.path.display();
    Failure::new(
        format!("{path} is there already: {}, owned by uid {}", folder::kind_name(seen.st_mode), seen.st_uid),
        format!("if it is this person's, `chown -R {}:{} {path}`; if not, move it away", home.uid, home.gid),
    )
}

fn open_skel(root: &Path, skel: &Path) -> Result<Option<OwnedFd>, Failure> {
    match folder::open(root, skel, Missing::Fail) {
        Ok(skel) => Ok(Some(skel)),
        // As for useradd: without a skeleton, homes are empty.
        Err(folder::FolderError::Absent(_)) => Ok(None),
        Err(error) => Err(error.failure()),
    }
}

impl Nursery {
    fn open(root: &Path, base: &Path) -> Result<Nursery, Failure> {
        let shown = base.join(STAGING);
        let failed = |error: io::Error| Failure::io(format!("making {}", shown.display()), error);
        let base = folder::open(root, base, Missing::Create).map_err(|error| error.failure())?;
        remove_tree(&base, OsStr::new(STAGING)).map_err(|error| {
            Failure::io(format!("removing what a killed run left in {}", shown.display()), error)
        })?;
        mkdirat(&base, STAGING, Mode::S_IRWXU).map_err(|error| failed(error.into()))?;
        let staging = openat(&base, STAGING, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
        let seen = fstat(&staging).map_err(|error| failed(error.into()))?;
        if seen.st_uid != folder::owner() || seen.st_mode & 0o077 != 0 {
            let why = format!("{} was exchanged while it was made", shown.display());
            return Err(Failure::new(why, "look who can write there; only root may"));
        }
        Ok(Nursery { base, staging, shown })
    }

    fn build(&self, home: &NewHome, skel: Option<&OwnedFd>) -> Result<(), Failure> {
        let Some(name) = home.path.file_name() else {
            return Err(Failure::new(
                format!("{} is no home", home.path.display()),
                "configure another path",
            ));
        };
        let failed =
            |error: io::Error| Failure::io(format!("building {}", self.shown.join(name).display()), error);
        let copy = Copy { home, skel: &home.skel };
        mkdirat(&self.staging, name, Mode::S_IRWXU).map_err(|error| failed(error.into()))?;
        let folder =
            openat(&self.staging, name, FOLDER, Mode::empty()).map_err(|error| failed(error.into()))?;
        if let Some(skel) = skel {
            copy.content(skel, &folder, &home.skel)?;
        }
        copy.give(&folder, Mode::S_IRWXU).map_err(failed)?;
        fsync(&folder).map_err(|error| failed(error.into()))
    }

    fn place(&self, home: &NewHome) -> Result<(), Failure> {
        let Some(name) = home.path.file_name() else { return Ok(()) };
        match renameat2(&self.staging, name, &self.base, name, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => match fstatat(&self.base, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(seen) => Err(occupied(home, &seen)),
                Err(error) => Err(Failure::io(format!("looking at {}", home.path.display()), error)),
            },
            Err(error) => Err(Failure::io(format!("moving {} into place", home.path.display()), error)),
        }
    }
}

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A copy of the skeleton for one home.
struct Copy<'a> {
    home: &'a NewHome,
    skel: &'a Path,
}

impl Copy<'_> {
    /// Copies what is in `from` to `to`; `shown` is the path of `from`.
    fn content(&self, from: &OwnedFd, to: &OwnedFd, shown: &Path) -> Result<(), Failure> {
        let names = folder::names(from)
            .map_err(|error| Failure::io(format!("reading {}", shown.display()), error))?;
        for name in names {
            let place = shown.join(&name);
            let failed = |error: io::Error| {
                let home = Path::new(STAGING).join(self.home.path.file_name().unwrap_or_default());
                let to = base_of(&self.home.path).join(home);
                Failure::io(format!("copying {} to {}", place.display(), to.display()), error)
            };
            let seen = fstatat(from, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|e| failed(e.into()))?;
            match folder::kind(&seen) {
                SFlag::S_IFDIR => {
                    mkdirat(to, name.as_os_str(), Mode::S_IRWXU).map_err(|error| failed(error.into()))?;
                    let source = openat(from, name.as_os_str(), FOLDER, Mode::empty())
                        .map_err(|e| failed(e.into()))?;
                    let copy =
                        openat(to, name.as_os_str(), FOLDER, Mode::empty()).map_err(|e| failed(e.into()))?;
                    self.content(&source, &copy, &place)?;
                    self.give(&copy, mode_of(&seen)).map_err(failed)?;
                    keep_times(&copy, &seen).map_err(failed)?;
                    fsync(&copy).map_err(|error| failed(error.into()))?;
                }
                SFlag::S_IFREG => self.file(from, to, &name).map_err(failed)?,
                SFlag::S_IFLNK => self.link(from, to, &name, &seen).map_err(failed)?,
                _ => {
                    return Err(Failure::new(
                        format!(
                            "{} is {}; only files, folders and links are copied",
                            place.display(),
                            folder::kind_name(seen.st_mode)
                        ),
                        format!("remove {}", place.display()),
                    ));
                }
            }
        }
        Ok(())
    }

    fn file(&self, from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let source = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut source = File::from(openat(from, name, source, Mode::empty())?);
        let seen = fstat(&source)?;
        if folder::kind(&seen) != SFlag::S_IFREG {
            return Err(io::Error::other("it was exchanged while it was copied"));
        }
        let copy = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let copy = openat(to, name, copy, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut copy = File::from(copy);
        io::copy(&mut source, &mut copy)?;
        let copy = OwnedFd::from(copy);
        self.give(&copy, mode_of(&seen))?;
        keep_times(&copy, &seen)?;
        Ok(fsync(&copy)?)
    }

    fn link(&self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, seen: &FileStat) -> io::Result<()> {
        let target = PathBuf::from(readlinkat(from, name)?);
        // As useradd does: a link to something in the skeleton leads to the same thing in the home.
        let target = match target.strip_prefix(self.skel) {
            Ok(inside) => self.home.path.join(inside),
            Err(_) => target,
        };
        symlinkat(&target, to, name)?;
        let link = openat(to, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let (uid, gid) = (Uid::from_raw(self.home.uid), Gid::from_raw(self.home.gid));
        fchownat(&link, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
        let (accessed, modified) = times_of(seen);
        Ok(utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
    }

    /// Owner before mode: giving a file away clears its set-id bits.
    fn give(&self, what: &OwnedFd, mode: Mode) -> io::Result<()> {
        fchown(what, Some(Uid::from_raw(self.home.uid)), Some(Gid::from_raw(self.home.gid)))?;
        Ok(fchmod(what, mode)?)
    }
}

fn mode_of(seen: &FileStat) -> Mode {
    Mode::from_bits_truncate(seen.st_mode)
}

fn times_of(seen: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(seen.st_atime, seen.st_atime_nsec), TimeSpec::new(seen.st_mtime, seen.st_mtime_nsec))
}

fn keep_times(what: &OwnedFd, seen: &FileStat) -> io::Result<()> {
    let (accessed, modified) = times_of(seen);
    Ok(futimens(what, &accessed, &modified)?)
}

/// Removes what root built: follows no link, leaves no file system, and enters only what is still ours to
/// enter. It is fine when there is nothing.
fn remove_tree(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = openat(parent, name, FOLDER, Mode::empty())?;
    if fstat(&folder)?.st_dev != fstat(parent)?.st_dev {
        return Err(io::Error::other(format!("{} is a mount point", Path::new(name).display())));
    }
    for name in folder::names(&folder)? {
        remove_tree(&folder, &name)?;
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn machine() -> tempfile::TempDir {
        let machine = tempfile::tempdir().unwrap();
        let skel = machine.path().join("etc/skel");
        fs::create_dir_all(skel.join("bin")).unwrap();
        fs::create_dir(machine.path().join("home")).unwrap();
        fs::write(skel.join(".profile"), "profile").unwrap();
        fs::write(skel.join("bin/run"), "#!/bin/sh").unwrap();
        fs::set_permissions(skel.join("bin/run"), fs::Permissions::from_mode(0o754)).unwrap();
        symlink("/etc/skel/bin/run", skel.join("inside")).unwrap();
        symlink("/usr/share/base", skel.join("outside")).unwrap();
        machine
    }

    /// The test's own ids, so that no root is needed.
    fn home(name: &str) -> NewHome {
        NewHome {
            path: format!("/home/{name}").into(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            skel: "/etc/skel".into(),
            exists: false,
        }
    }

    fn names(path: PathBuf) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_home_is_the_skeleton_with_its_modes_times_and_links() {
        let machine = machine();
        let alice = home("alice");
        let (nurseries, results) = build(machine.path(), &[&alice]);
        assert_eq!(results, [Ok(())]);
        assert_eq!(
            names(machine.path().join("home")),
            [".rosterd-new"],
            "nothing in place before it is whole"
        );
        nurseries.place(&alice).unwrap();
        drop(nurseries);
        let home = machine.path().join("home/alice");
        assert_eq!(names(machine.path().join("home")), ["alice"]);
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(names(home.clone()), [".profile", "bin", "inside", "outside"]);
        assert_eq!(fs::metadata(home.join("bin/run")).unwrap().mode() & 0o7777, 0o754);
        assert_eq!(fs::read_link(home.join("inside")).unwrap(), Path::new("/home/alice/bin/run"));
        assert_eq!(fs::read_link(home.join("outside")).unwrap(), Path::new("/usr/share/base"));
        for name in [".profile", "bin/run"] {
            let modified = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
            assert_eq!(modified(home.join(name)), modified(machine.path().join("etc/skel").join(name)));
        }
    }

    #[test]
    fn a_home_that_appeared_meanwhile_is_left_as_it_is() {
        let machine = machine();
        let alice = home("alice");
        let (nurseries, _) = build(machine.path(), &[&alice]);
        fs::create_dir(machine.path().join("home/alice")).unwrap();
        fs::write(machine.path().join("home/alice/theirs"), "").unwrap();
        let why = nurseries.place(&alice).unwrap_err().why;
        assert!(why.starts_with("/home/alice is there already: a folder, owned by uid"), "{why}");
        drop(nurseries);
        assert_eq!(names(machine.path().join("home")), ["alice"]);
        assert_eq!(names(machine.path().join("home/alice")), ["theirs"]);
    }

    #[test]
    fn a_pipe_in_the_skeleton_is_named_and_nothing_is_half_made() {
        let machine = machine();
        nix::unistd::mkfifo(&machine.path().join("etc/skel/pipe"), Mode::S_IRUSR).unwrap();
        let (nurseries, results) = build(machine.path(), &[&home("alice"), &home("bob")]);
        drop(nurseries);
        for result in results {
            let failure = result.unwrap_err();
            assert_eq!(
                failure.why,
                "/etc/skel/pipe is a named pipe; only files, folders and links are copied"
            );
        }
        assert!(names(machine.path().join("home")).is_empty());
    }

    #[test]
    fn without_a_skeleton_a_home_is_empty() {
        let machine = machine();
        fs::remove_dir_all(machine.path().join("etc/skel")).unwrap();
        let alice = home("alice");
        let (nurseries, results) = build(machine.path(), &[&alice]);
        assert_eq!(results, [Ok(())]);
        nurseries.place(&alice).unwrap();
        assert!(names(machine.path().join("home/alice")).is_empty());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_without_following_links() {
        let machine = machine();
        let staging = machine.path().join("home/.rosterd-new");
        fs::create_dir_all(staging.join("old/deep")).unwrap();
        symlink("/etc/skel", staging.join("old/link")).unwrap();
        symlink(machine.path().join("etc/skel"), staging.join("old/deep/link")).unwrap();
        assert!(clear_leftovers(machine.path(), Path::new("/home")).unwrap());
        assert!(!clear_leftovers(machine.path(), Path::new("/home")).unwrap());
        assert!(names(machine.path().join("home")).is_empty());
        assert_eq!(names(machine.path().join("etc/skel")).len(), 4);
    }
}
