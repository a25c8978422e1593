//! Refs of a clone, written as git writes them: a lock beside, then a rename. libgit2 does the same, but whatever kills it
//! in between leaves a lock that nobody may ever remove, because it may be that of a git at work. Each lock here is a
//! hard link to a file in `.git/rosterd-refs`, so that after a kill it is known to be ours.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, fsync, linkat, unlinkat};

use roster::name::ObjectId;

use crate::{refs, tree};

/// The folder of the locks, below `.git`.
pub(crate) const ROOM: &str = "rosterd-refs";
/// The ref that is being written, and what becomes its lock.
const NAME: &str = "name";
const VALUE: &str = "value";
const PACKED: &str = "packed-refs";
const ZERO: &str = "0000000000000000000000000000000000000000";

/// The refs of one clone, while they are written.
pub(crate) struct RefFiles<'a> {
    git: &'a OwnedFd,
    room: OwnedFd,
    /// Who is recorded to have moved a ref.
    who: &'a str,
    _at_work: Flock<OwnedFd>,
}

impl<'a> RefFiles<'a> {
    /// Begins, and removes the lock that a kill left. `EWOULDBLOCK` when another process of ours writes.
    pub(crate) fn begin(git: &'a OwnedFd, who: &'a str) -> nix::Result<RefFiles<'a>> {
        match mkdirat(git, ROOM, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let room = tree::open(git, ROOM, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let itself = tree::open(&room, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let _at_work = Flock::lock(itself, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        let files = RefFiles { git, room, who, _at_work };
        files.recover()?;
        Ok(files)
    }

    /// Ends.
    pub(crate) fn end(self) -> nix::Result<()> {
        self.recover()?;
        tree::remove(self.git, ROOM)
    }

    fn recover(&self) -> nix::Result<()> {
        let name = tree::read(&self.room, NAME, 4096).ok().flatten();
        let name = name.and_then(|name| String::from_utf8(name).ok());
        if let (Some(name), Some(ours)) = (name, tree::stat(&self.room, VALUE)?) {
            let lock = format!("{name}.lock");
            let theirs = tree::open(self.git, &lock, OFlag::O_PATH).and_then(nix::sys::stat::fstat);
            if theirs.is_ok_and(|theirs| theirs.st_ino == ours.st_ino) {
                self.unlink(&lock)?;
            }
        }
        for name in [VALUE, NAME] {
            match unlinkat(&self.room, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Takes git's lock of a file below `.git`, with the new content in it. `EEXIST` when git has it.
    fn lock(&self, name: &str, content: &str) -> nix::Result<()> {
        self.recover()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO));
        for (file, text) in [(NAME, name), (VALUE, content)] {
            let mut file = File::from(openat(&self.room, file, flags, Mode::from_bits_truncate(0o644))?);
            file.write_all(text.as_bytes()).map_err(io)?;
            if text == content {
                fsync(&file)?;
            }
        }
        let (folder, last) = self.make_parent(name)?;
        linkat(&self.room, VALUE, folder, format!("{last}.lock").as_str(), LinkatFlags::empty())
    }

    /// Gives the locked file its new content, and the lock back.
    fn commit(&self, name: &str) -> nix::Result<()> {
        let (folder, last) = tree::parent(self.git, name)?;
        let rename = || renameat(&folder, format!("{last}.lock").as_str(), &folder, last);
        match rename() {
            // A folder of branches that are gone, such as `topic` of `topic/a`.
            Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {
                remove_empty(&folder, last)?;
                rename()
            }
            done => done,
        }
    }

    /// Sets a ref. With `from` only when that is what it is; `ESTALE` when it is not.
    pub(crate) fn set(
        &self,
        name: &str,
        from: Option<&ObjectId>,
        to: &ObjectId,
        why: &str,
    ) -> nix::Result<()> {
        self.lock(name, &format!("{to}\n"))?;
        let before = refs::value(self.git, name);
        if from.is_some() && from != before.as_ref() {
            self.recover()?;
            return Err(Errno::ESTALE);
        }
        self.commit(name)?;
        // The record is a help for its person; without it the ref is as good.
        let _ = self.record(name, before.as_ref(), to, why);
        Ok(())
    }

    /// Removes refs.
    pub(crate) fn remove(&self, names: &[String]) -> nix::Result<()> {
        let packed = tree::read(self.git, PACKED, refs::MAX_PACKED).ok().flatten().unwrap_or_default();
        let gone = |line: &[u8]| {
            let name = line.splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
            names.iter().any(|gone| gone.as_bytes() == name.trim_ascii_end())
        };
        if packed.split(|byte| *byte == b'\n').any(gone) {
            self.unpack(gone)?;
        }
        for name in names {
            if tree::open(self.git, name, OFlag::O_PATH).is_ok() {
                self.lock(name, "")?;
                self.unlink(name)?;
                self.recover()?;
            }
            let _ = self.unlink(&format!("logs/{name}"));
        }
        Ok(())
    }

    /// Rewrites `packed-refs` without some lines.
    fn unpack(&self, gone: impl Fn(&[u8]) -> bool) -> nix::Result<()> {
        self.lock(PACKED, "")?;
        // Under the lock it is what it stays.
        let packed = tree::read(self.git, PACKED, refs::MAX_PACKED).ok().flatten().unwrap_or_default();
        let mut kept = Vec::with_capacity(packed.len());
        let mut skips = false;
        for line in packed.split_inclusive(|byte| *byte == b'\n') {
            // What an annotated tag points to is on the line after it.
            skips = if line.starts_with(b"^") { skips } else { gone(line.trim_ascii_end()) };
            if !skips {
                kept.extend_from_slice(line);
            }
        }
        let lock = tree::open(&self.room, VALUE, OFlag::O_WRONLY)?;
        let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO));
        let mut file = File::from(lock);
        file.write_all(&kept).map_err(io)?;
        fsync(&file)?;
        self.commit(PACKED)
    }

    fn record(&self, name: &str, from: Option<&ObjectId>, to: &ObjectId, why: &str) -> nix::Result<()> {
        let from = from.map_or(ZERO, ObjectId::as_str);
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = seconds.map_or(0, |since| since.as_secs());
        let line = format!("{from} {to} {} {seconds} +0000\t{why}\n", self.who);
        let is_head = refs::head(self.git).as_deref() == Some(name);
        for name in std::iter::once(name).chain(is_head.then_some("HEAD")) {
            let path = format!("logs/{name}");
            let (folder, last) = self.make_parent(&path)?;
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let log = openat(&folder, last, flags | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o644))?;
            nix::unistd::write(log, line.as_bytes())?;
        }
        Ok(())
    }

    /// The folder that holds a file below `.git`, made where it is missing.
    fn make_parent<'p>(&self, path: &'p str) -> nix::Result<(OwnedFd, &'p str)> {
        let (above, last) = path.rsplit_once('/').unwrap_or((".", path));
        let mut here = tree::open(self.git, ".", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        for part in above.split('/') {
            match mkdirat(&here, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            here = tree::open(&here, part, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        }
        Ok((here, last))
    }

    fn unlink(&self, path: &str) -> nix::Result<()> {
        let (folder, last) = tree::parent(self.git, path)?;
        unlinkat(folder, last, UnlinkatFlags::NoRemoveDir)
    }
}

/// Removes a folder that holds nothing but empty folders.
fn remove_empty(above: &OwnedFd, name: &str) -> nix::Result<()> {
    let folder = tree::open(above, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let here = folder.try_clone().map_err(|_| Errno::EMFILE)?;
    for entry in nix::dir::Dir::from_fd(folder)?.iter() {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => remove_empty(&here, name)?,
            Err(_) => return Err(Errno::ENOTEMPTY),
        }
    }
    unlinkat(above, name, UnlinkatFlags::RemoveDir)
}
