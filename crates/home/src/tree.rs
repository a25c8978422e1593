//! Paths below the home, by descriptor only: no component of any path is a symlink, a FIFO is never waited for, and
//! what is removed is only what carries our mark.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Uid, UnlinkatFlags, syncfs, unlinkat};

/// The mark of an unfinished clone.
const UNFINISHED: &str = ".rosterd-unfinished";

/// As deep as `PATH_MAX` lets a repository be.
const MAX_DEPTH: usize = 2100;

/// Opens the home itself, which must be a real folder of this user.
pub(crate) fn open_home(path: &std::path::Path) -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let home = nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOTDIR | Errno::ELOOP => "it is not a folder but a symlink or a file".to_owned(),
        Errno::ENOENT => "there is none".to_owned(),
        errno => words(errno).to_owned(),
    })?;
    let owner = fstat(&home).map_err(words)?.st_uid;
    if owner != Uid::current().as_raw() {
        return Err(format!("it belongs to uid {owner}"));
    }
    Ok(home)
}

/// Opens what is at `path` below `dir`.
pub(crate) fn open(dir: impl AsFd, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let always = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    // `O_PATH` takes no flag that is about reading or writing.
    let always = if flags.contains(OFlag::O_PATH) { OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC } else { always };
    openat2(dir, path, OpenHow::new().flags(flags | always).resolve(resolve))
}

/// Opens the folder that holds `path`, and says under which name.
pub(crate) fn parent(home: impl AsFd, path: &str) -> nix::Result<(OwnedFd, &str)> {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    Ok((open(home, folder, OFlag::O_PATH | OFlag::O_DIRECTORY)?, name))
}

/// What a name in a folder is, itself.
pub(crate) fn stat(dir: impl AsFd, name: &str) -> nix::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The kind of a file, for a person.
pub(crate) fn kind(stat: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => "a folder",
        SFlag::S_IFREG => "a file",
        SFlag::S_IFLNK => "a symlink",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    }
}

/// Whether it is a folder, itself.
pub(crate) fn is_folder(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == libc::S_IFDIR
}

/// Whether it is a regular file, itself.
pub(crate) fn is_file(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == libc::S_IFREG
}

/// Reads a small regular file of this user.
pub(crate) fn read(dir: impl AsFd, name: &str, most: u64) -> Result<Option<Vec<u8>>, String> {
    read_if(dir, name, most, |uid| uid == Uid::current().as_raw())
}

/// Reads a small regular file, whoever owns it.
pub(crate) fn read_anyones(dir: impl AsFd, name: &str, most: u64) -> Result<Option<Vec<u8>>, String> {
    read_if(dir, name, most, |_| true)
}

fn read_if(
    dir: impl AsFd,
    name: &str,
    most: u64,
    may_own: impl FnOnce(u32) -> bool,
) -> Result<Option<Vec<u8>>, String> {
    let fd = match open(dir, name, OFlag::O_RDONLY) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err("it is a symlink".to_owned()),
        Err(Errno::ENXIO) => return Err("it is a socket".to_owned()),
        Err(errno) => return Err(words(errno).to_owned()),
    };
    let stat = fstat(&fd).map_err(words)?;
    if !is_file(&stat) {
        return Err(format!("it is {}", kind(&stat)));
    }
    if !may_own(stat.st_uid) {
        return Err(format!("it belongs to uid {}", stat.st_uid));
    }
    // Room for all of it, or many small reads take longer than the file.
    let mut content = Vec::with_capacity(u64::try_from(stat.st_size).unwrap_or(0).min(most) as usize + 64);
    std::fs::File::from(fd).take(most + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
    if content.len() as u64 > most {
        return Err(format!("it is bigger than {most} bytes"));
    }
    Ok(Some(content))
}

/// Whether a folder has no entry. Reads one, however many there are.
pub(crate) fn is_empty(dir: impl AsFd) -> nix::Result<bool> {
    let mut entries = Dir::from_fd(open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
    for entry in entries.iter() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder.
pub(crate) fn make_folder(dir: impl AsFd, name: &str) -> nix::Result<()> {
    mkdirat(dir, name, Mode::from_bits_truncate(0o755))
}

/// Writes all of the file system that a folder is on to disk: one call for the thousands of files of a clone.
pub(crate) fn sync(dir: impl AsFd) -> nix::Result<()> {
    syncfs(open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}

/// Moves within a folder, to a name that must be free.
pub(crate) fn rename(dir: impl AsFd, from: &str, to: &str) -> nix::Result<()> {
    renameat2(&dir, from, &dir, to, RenameFlags::RENAME_NOREPLACE)
}

/// Moves from one folder to another, to a name that must be free.
pub(crate) fn bring(from: impl AsFd, name: &str, to: impl AsFd, new: &str) -> nix::Result<()> {
    renameat2(from, name, to, new, RenameFlags::RENAME_NOREPLACE)
}

/// Lets two things change places in one step.
pub(crate) fn exchange(dir: impl AsFd, name: &str, other: impl AsFd, with: &str) -> nix::Result<()> {
    renameat2(dir, name, other, with, RenameFlags::RENAME_EXCHANGE)
}

/// The place beside `path` where it is made before it is moved.
pub(crate) fn unfinished(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}{UNFINISHED}"),
        None => format!(".{path}{UNFINISHED}"),
    }
}

/// Whether a name carries the mark of an unfinished clone.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED)).is_some_and(|name| !name.is_empty())
}

/// Removes a folder with all that is in it. Each step is from the descriptor of the folder it happens in, and no
/// symlink is followed.
pub(crate) fn remove(dir: impl AsFd, name: &str) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let mut path = vec![Folder::open(&dir, name)?];
    while let Some(depth) = path.len().checked_sub(1) {
        let folder = &mut path[depth];
        if folder.entries.is_empty() {
            folder.look()?;
        }
        match folder.entries.pop() {
            Some(entry) => match unlinkat(&folder.dir, entry.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) if depth >= MAX_DEPTH => return Err(Errno::ENAMETOOLONG),
                Err(Errno::EISDIR) => {
                    let below = Folder::open(&folder.dir, entry)?;
                    path.push(below);
                }
                Err(errno) => return Err(errno),
            },
            None => {
                let Some(done) = path.pop() else { break };
                let above = path.last().map_or(dir.as_fd(), |folder| folder.dir.as_fd());
                unlinkat(above, done.name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
        }
    }
    Ok(())
}

/// How many names of a folder are held at a time: a person may make ten million.
const MAX_ENTRIES: usize = 4096;

/// A folder that is being removed, and some of what is left in it.
struct Folder {
    dir: Dir,
    name: CString,
    entries: Vec<CString>,
}

impl Folder {
    fn open(above: impl AsFd, name: CString) -> nix::Result<Folder> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = Dir::openat(above, name.as_c_str(), flags, Mode::empty())?;
        Ok(Folder { dir, name, entries: Vec::new() })
    }

    /// Takes the next names, from the beginning: those that were there before are gone.
    fn look(&mut self) -> nix::Result<()> {
        for entry in self.dir.iter() {
            let entry = entry?.file_name().to_owned();
            if !matches!(entry.to_bytes(), b"." | b"..") {
                self.entries.push(entry);
            }
            if self.entries.len() >= MAX_ENTRIES {
                break;
            }
        }
        Ok(())
    }
}

/// An errno in words.
pub(crate) fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => "permission denied",
        Errno::ENOSPC => "the disk is full",
        Errno::EDQUOT => "the disk quota is used up",
        Errno::EROFS => "it is on a read-only file system",
        Errno::ELOOP => "a symlink is in the way",
        Errno::ENOTDIR => "something that is no folder is in the way",
        Errno::ENOENT => "the folder above it is not there",
        Errno::EEXIST => "something is there already",
        errno => errno.desc(),
    }
}
