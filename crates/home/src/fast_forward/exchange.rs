//! The files of the work tree, each moved by one rename that can be undone. Every path is opened below the
//! descriptor of the work tree, and no component of it is a symlink.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use serde::{Deserialize, Serialize};

use super::inspect::Change;
use super::{Stamp, Stop};

/// One file to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Op {
    #[serde(with = "as_bytes")]
    path: PathBuf,
    /// The staged file, when there is a new one.
    new: Option<Stamp>,
    /// The file as it was in the work tree, when there was one.
    old: Option<Stamp>,
}

/// A work tree and the files that are staged for it. An old file goes to where the new one was staged.
pub(crate) struct WorkTree {
    pub(crate) tree: OwnedFd,
    pub(crate) staged: OwnedFd,
}

impl WorkTree {
    /// What a path of the work tree is, itself.
    pub(crate) fn stat(&self, path: &Path) -> nix::Result<Option<FileStat>> {
        stat(&self.tree, path)
    }

    /// Stages a symlink.
    pub(crate) fn stage_link(&self, path: &Path, target: &[u8]) -> nix::Result<()> {
        symlinkat(OsStr::from_bytes(target), make_below(&self.staged, path)?, name(path)?)
    }

    /// Makes the empty folder that stands for a new submodule until its person asks for it. What is there stays.
    pub(crate) fn make_submodule(&self, path: &Path) {
        let _ = make_below(&self.tree, path)
            .and_then(|above| mkdirat(above, name(path)?, Mode::from_bits_truncate(0o777)));
    }

    /// What there is to do, what goes first.
    pub(crate) fn ops(&self, changes: &[Change]) -> Result<Vec<Op>, Stop> {
        let mut ops = Vec::new();
        for change in changes.iter().filter(|change| !change.is_submodule()) {
            let new = match change.new {
                Some(_) => {
                    let staged = stat(&self.staged, &change.path)?;
                    let missing = || Stop::Because(format!("{} was not written", change.path.display()));
                    Some(staged.ok_or_else(missing)?.into())
                }
                None => None,
            };
            let old = match change.old {
                Some(_) => stat(&self.tree, &change.path)?.map(Stamp::from),
                None => None,
            };
            ops.push(Op { path: change.path.clone(), new, old });
        }
        // A file that goes may stand where a folder of new ones will be, and the other way round.
        ops.sort_by_key(|op| op.new.is_some());
        Ok(ops)
    }

    /// Writes the staged files to disk.
    pub(crate) fn sync(&self, ops: &[Op]) -> nix::Result<()> {
        for op in ops.iter().filter(|op| op.new.is_some()) {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            match openat(below(&self.staged, &op.path)?, name(&op.path)?, flags, Mode::empty()) {
                Ok(file) => nix::unistd::fsync(file)?,
                // A symlink has no content of its own.
                Err(Errno::ELOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Does all that is not done yet, or nothing.
    pub(crate) fn forward(&self, ops: &[Op]) -> Result<(), Stop> {
        for (index, op) in ops.iter().enumerate() {
            if let Err(stop) = self.one(op) {
                self.back(&ops[..index]);
                return Err(stop);
            }
        }
        Ok(())
    }

    fn one(&self, op: &Op) -> Result<(), Stop> {
        let changed = || Stop::Because(format!("{} was changed meanwhile", op.path.display()));
        let name = name(&op.path)?;
        match (op.old, op.new) {
            (Some(old), Some(new)) => {
                let (staged, tree) = (below(&self.staged, &op.path)?, below(&self.tree, &op.path)?);
                if stamp(&staged, name)? != Some(new) {
                    return Ok(());
                }
                renameat2(&staged, name, &tree, name, RenameFlags::RENAME_EXCHANGE)?;
                if stamp(&staged, name)? != Some(old) {
                    renameat2(&staged, name, &tree, name, RenameFlags::RENAME_EXCHANGE)?;
                    return Err(changed());
                }
            }
            (None, Some(new)) => {
                let staged = below(&self.staged, &op.path)?;
                if stamp(&staged, name)? != Some(new) {
                    return Ok(());
                }
                let tree = make_below(&self.tree, &op.path)?;
                renameat2(&staged, name, &tree, name, RenameFlags::RENAME_NOREPLACE)
                    .map_err(|errno| if errno == Errno::EEXIST { changed() } else { errno.into() })?;
            }
            (Some(old), None) => {
                let (staged, aside) = (self.aside()?, aside_name(op));
                if stamp(&staged, &aside)?.is_some() {
                    return Ok(());
                }
                let tree = below(&self.tree, &op.path)?;
                renameat2(&tree, name, &staged, aside.as_os_str(), RenameFlags::RENAME_NOREPLACE)?;
                if stamp(&staged, &aside)? != Some(old) {
                    renameat2(&staged, aside.as_os_str(), &tree, name, RenameFlags::RENAME_NOREPLACE)?;
                    return Err(changed());
                }
                self.remove_empty_above(&op.path);
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Undoes what was done, the last first. What cannot be undone, because its person has put something there
    /// since, stays as it is: it shows as a change, and nothing is lost.
    pub(crate) fn back(&self, ops: &[Op]) {
        for op in ops.iter().rev() {
            let _ = self.one_back(op);
        }
    }

    fn one_back(&self, op: &Op) -> Result<(), Stop> {
        let name = name(&op.path)?;
        match (op.old, op.new) {
            (old, Some(new)) => {
                let (staged, tree) = (below(&self.staged, &op.path)?, below(&self.tree, &op.path)?);
                if stamp(&tree, name)? != Some(new) {
                    return Ok(());
                }
                let how =
                    if old.is_some() { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
                renameat2(&tree, name, &staged, name, how)?;
                if old.is_none() {
                    self.remove_empty_above(&op.path);
                }
            }
            (Some(_), None) => {
                let tree = make_below(&self.tree, &op.path)?;
                renameat2(
                    self.aside()?,
                    aside_name(op).as_os_str(),
                    &tree,
                    name,
                    RenameFlags::RENAME_NOREPLACE,
                )?;
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Where files go that are no more: no path of a repository begins with `.git`.
    fn aside(&self) -> nix::Result<OwnedFd> {
        match mkdirat(&self.staged, ".git", Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => open(&self.staged, Path::new(".git")),
            Err(errno) => Err(errno),
        }
    }

    /// As git does: a folder that has lost its last file goes.
    fn remove_empty_above(&self, path: &Path) {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            let gone = below(&self.tree, folder).and_then(|above| {
                let name = folder.file_name().ok_or(Errno::EINVAL)?;
                unlinkat(above, name, UnlinkatFlags::RemoveDir)
            });
            if gone.is_err() {
                break;
            }
        }
    }
}

fn aside_name(op: &Op) -> std::ffi::OsString {
    let hex = op.path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // A name may be 255 bytes long; the inode makes it the only one.
    let ino = op.old.map_or(0, |old| old.ino);
    format!("{ino}-{}", &hex[..hex.len().min(200)]).into()
}

fn name(path: &Path) -> nix::Result<&OsStr> {
    path.file_name().ok_or(Errno::EINVAL)
}

fn open(dir: impl AsFd, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(dir, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// The folder that holds `path`.
fn below(dir: impl AsFd, path: &Path) -> nix::Result<OwnedFd> {
    open(dir, path.parent().unwrap_or(Path::new("")))
}

/// The same, made where it is missing.
fn make_below(dir: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let mut here = open(dir, Path::new(""))?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        match mkdirat(&here, part, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        here = open(&here, Path::new(part))?;
    }
    Ok(here)
}

fn stat(dir: &OwnedFd, path: &Path) -> nix::Result<Option<FileStat>> {
    let found =
        below(dir, path).and_then(|folder| fstatat(folder, name(path)?, AtFlags::AT_SYMLINK_NOFOLLOW));
    match found {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn stamp(folder: &OwnedFd, name: &OsStr) -> nix::Result<Option<Stamp>> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.into())),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A path of a repository need not be text.
mod as_bytes {
    use super::{OsStrExt, OsStringExt, Path, PathBuf};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(from).map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }
}
