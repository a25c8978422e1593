//! Changes a git configuration file as git itself does it: under its lock, beside, and moved into place whole.
//!
//! A lock file that is left behind would stop the person's own git. So ours is a second name of the file that we
//! write beside: whoever finds both knows that the lock is ours, and that the change did not happen.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{Uid, UnlinkatFlags, fsync, linkat, unlinkat};

use crate::tree;

/// Far more than a configuration of git ever is.
pub(crate) const MAX_CONFIG: u64 = 1 << 20;

/// What a new one gets, as git makes it.
const NEW: u32 = 0o644;

/// Replaces the content of `path` by what `change` makes of it. A file that is not there is empty to `change`.
pub(crate) fn edit(
    home: &OwnedFd,
    path: &str,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<(), String> {
    let (dir, name) = tree::parent(home, path).map_err(tree::words)?;
    clean_up(home, path).map_err(tree::words)?;
    let (beside, lock) = names(name);
    let file = create(&dir, &beside, 0o600).map_err(tree::words)?;
    let done = match linkat(&dir, beside.as_str(), &dir, lock.as_str(), AtFlags::empty()) {
        Ok(()) => under_lock(&dir, name, &lock, &file, change),
        Err(Errno::EEXIST) => Err(format!("another program is changing it: ~/{path}.lock is there")),
        Err(errno) => Err(tree::words(errno).to_owned()),
    };
    // A lock that became the file is gone already, and one of somebody else is not ours.
    clean_up(home, path).map_err(tree::words)?;
    done
}

fn under_lock(
    dir: &OwnedFd,
    name: &str,
    lock: &str,
    file: &OwnedFd,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<(), String> {
    let before = tree::stat(dir, name).map_err(tree::words)?;
    if let Some(why) = before.as_ref().and_then(closed) {
        return Err(why);
    }
    let old = tree::read(dir, name, MAX_CONFIG)?.unwrap_or_default();
    let new = change(&old)?;
    if new == old && before.is_some() {
        return Ok(());
    }
    let mode = before.as_ref().map_or(NEW, |stat| stat.st_mode & 0o777);
    fchmod(file, Mode::from_bits_truncate(mode)).map_err(tree::words)?;
    let mut writer = File::from(file.try_clone().map_err(|error| error.to_string())?);
    writer.write_all(&new).and_then(|()| writer.sync_all()).map_err(|error| match error.raw_os_error() {
        Some(errno) => tree::words(Errno::from_raw(errno)).to_owned(),
        None => error.to_string(),
    })?;
    // A program that knows no lock may have written meanwhile; an editor does.
    let now = tree::stat(dir, name).map_err(tree::words)?;
    let same = |stat: &FileStat| (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if now.as_ref().map(same) != before.as_ref().map(same) {
        return Err("it was changed meanwhile".to_owned());
    }
    match before {
        Some(_) => renameat(dir, lock, dir, name),
        None => renameat2(dir, lock, dir, name, RenameFlags::RENAME_NOREPLACE),
    }
    .map_err(tree::words)?;
    let folder = tree::open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(tree::words)?;
    fsync(&folder).map_err(|errno| tree::words(errno).to_owned())
}

/// Why a file is not to be replaced, if it is not.
pub(crate) fn closed(stat: &FileStat) -> Option<String> {
    let own = Uid::current().as_raw();
    if !tree::is_file(stat) {
        Some(format!("it is {}", tree::kind(stat)))
    } else if stat.st_uid != own {
        Some(format!("it belongs to uid {}", stat.st_uid))
    } else if stat.st_nlink > 1 {
        Some("it is a hard link: it has another name elsewhere".to_owned())
    } else {
        None
    }
}

/// Whether a change of `path` ended in the middle.
pub(crate) fn is_interrupted(home: &OwnedFd, path: &str) -> bool {
    let Ok((dir, name)) = tree::parent(home, path) else { return false };
    tree::stat(&dir, &names(name).0).is_ok_and(|stat| stat.is_some())
}

/// Removes what a change of `path` left beside it: our file, and the lock if it is that same file.
pub(crate) fn clean_up(home: &OwnedFd, path: &str) -> nix::Result<()> {
    let (dir, name) = tree::parent(home, path)?;
    let (beside, lock) = names(name);
    let Some(ours) = tree::stat(&dir, &beside)? else { return Ok(()) };
    if !tree::is_file(&ours) {
        return Err(Errno::EEXIST);
    }
    let same = |stat: &FileStat| (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino);
    if tree::stat(&dir, &lock)?.is_some_and(|stat| same(&stat)) {
        unlinkat(&dir, lock.as_str(), UnlinkatFlags::NoRemoveDir)?;
    }
    unlinkat(&dir, beside.as_str(), UnlinkatFlags::NoRemoveDir)
}

/// The file beside, and git's lock.
fn names(name: &str) -> (String, String) {
    (format!("{name}.rosterd-unfinished"), format!("{name}.lock"))
}

/// Makes an empty file that was not there.
pub(crate) fn create(dir: impl AsFd, name: &str, mode: u32) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).mode(Mode::from_bits_truncate(mode)).resolve(resolve);
    let file = openat2(dir, name, how)?;
    // Whatever the umask of this process is.
    fchmod(&file, Mode::from_bits_truncate(mode))?;
    Ok(file)
}

/// Takes away what others may do with a file of this user.
pub(crate) fn close_to_others(home: &OwnedFd, name: &str) -> Result<(), String> {
    let file = tree::open(home, name, OFlag::O_RDONLY).map_err(tree::words)?;
    let stat = fstat(&file).map_err(tree::words)?;
    match closed(&stat) {
        Some(why) => Err(why),
        None => fchmod(&file, Mode::from_bits_truncate(stat.st_mode & 0o600))
            .map_err(|e| tree::words(e).to_owned()),
    }
}
