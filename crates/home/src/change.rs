//! Replaces one file, and loses nothing of what other programs of the person write to it at the same time.
//!
//! The new file is written beside. Then the two are *exchanged*, rather than one put over the other: what comes out must
//! be what was read, or it goes back and all begins anew. Agents that take a lock find it taken meanwhile.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use roster::files::sha256;

use crate::edit::{closed, create};
use crate::tree;

/// The file beside, which becomes the file.
const BESIDE: &str = ".rosterd-new.";
/// As often as a change is begun anew because another program was faster.
const TRIES: u32 = 20;
/// After this, whoever had the old file open for writing is done with it.
const SETTLE: Duration = Duration::from_millis(30);
/// A lock that was not touched for so long was left behind: as proper-lockfile has it, which agents use.
const STALE: Duration = Duration::from_secs(10);
/// As long as is waited for a lock: one that a kill of ours left is stale by then.
const PATIENCE: Duration = Duration::from_secs(12);

/// The name beside a file, or the path of it.
pub(crate) fn beside(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/{BESIDE}{name}"),
        None => format!("{BESIDE}{path}"),
    }
}

pub(crate) fn remove(dir: &OwnedFd, name: &str) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

pub(crate) fn sync(dir: &OwnedFd) -> nix::Result<()> {
    fsync(tree::open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}

/// An attribute of each file that is written whole: the digest of what was written.
const MARK: &str = "user.rosterd.sha256";

/// Whether the file with this digest is as it was written here. Where the file system keeps no attributes it is not known
/// to be.
pub(crate) fn is_untouched(home: &OwnedFd, path: &str, digest: &str) -> bool {
    let mut mark = [0; 64];
    let Ok(file) = tree::open(home, path, OFlag::O_RDONLY) else { return false };
    rustix::fs::fgetxattr(&file, MARK, &mut mark)
        .is_ok_and(|length| mark.get(..length) == Some(digest.as_bytes()))
}

/// Writes the file beside, finished and on disk. Gives its inode.
pub(crate) fn write(dir: &OwnedFd, name: &str, mode: u32, content: &[u8]) -> Result<u64, String> {
    let beside = beside(name);
    remove(dir, &beside).map_err(words)?;
    let mut file = File::from(create(dir, &beside, mode).map_err(words)?);
    let _ = rustix::fs::fsetxattr(&file, MARK, sha256(content).as_bytes(), rustix::fs::XattrFlags::empty());
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|error| match error.raw_os_error() {
        Some(errno) => words(Errno::from_raw(errno)),
        None => error.to_string(),
    })?;
    Ok(fstat(&file).map_err(words)?.st_ino)
}

/// An errno in words.
pub(crate) fn words(errno: Errno) -> String {
    tree::words(errno).to_owned()
}

/// The lock that agents take before they change one of their JSON files: a folder beside it.
pub(crate) struct Lock<'a> {
    dir: &'a OwnedFd,
    name: String,
}

impl<'a> Lock<'a> {
    pub(crate) fn take(dir: &'a OwnedFd, name: &str) -> Result<Lock<'a>, String> {
        let (name, until) = (format!("{name}.lock"), Instant::now() + PATIENCE);
        loop {
            match mkdirat(dir, name.as_str(), Mode::S_IRWXU) {
                Ok(()) => return Ok(Lock { dir, name }),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(words(errno)),
            }
            let stat = tree::stat(dir, &name).map_err(words)?;
            if stat.is_some_and(|stat| tree::is_folder(&stat) && is_stale(&stat)) {
                // Somebody else may have been faster, and then theirs is no longer stale.
                let _ = unlinkat(dir, name.as_str(), UnlinkatFlags::RemoveDir);
            } else if Instant::now() > until {
                return Err(format!("another program is changing it: {name} is there"));
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // One that stays is stale soon.
        let _ = unlinkat(self.dir, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

fn is_stale(stat: &FileStat) -> bool {
    let touched = SystemTime::UNIX_EPOCH + Duration::from_secs(stat.st_mtime.max(0).unsigned_abs());
    SystemTime::now().duration_since(touched).is_ok_and(|age| age > STALE)
}

/// Makes the new content of the old one; nothing when there was no file.
type Make<'m> = &'m dyn Fn(Option<&[u8]>) -> Result<Vec<u8>, String>;

/// Replaces a file by what `new` makes of it, and loses nothing of what others write meanwhile. `mode` makes the new
/// mode of the old one.
pub(crate) fn change(
    dir: &OwnedFd,
    name: &str,
    most: u64,
    mode: &dyn Fn(Option<u32>) -> u32,
    new: Make<'_>,
) -> Result<(), String> {
    change_with(dir, name, most, mode, new, &mut |_| {})
}

/// Between two looks; there a test does what another program might.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It was read, and is about to be looked at again.
    Read,
    /// It is what was read, and is about to be exchanged.
    Same,
    /// It was exchanged, and what came out is about to be looked at.
    Exchanged,
    /// What came out is another's and is about to go back.
    Other,
}

fn change_with(
    dir: &OwnedFd,
    name: &str,
    most: u64,
    mode: &dyn Fn(Option<u32>) -> u32,
    new: Make<'_>,
    at: &mut dyn FnMut(Moment),
) -> Result<(), String> {
    let beside = beside(name);
    for attempt in 0..TRIES {
        std::thread::sleep(Duration::from_millis(5 * u64::from(attempt)));
        let stat = tree::stat(dir, name).map_err(words)?;
        if let Some(why) = stat.as_ref().and_then(closed) {
            return Err(why);
        }
        let old = tree::read(dir, name, most)?;
        let content = new(old.as_deref())?;
        if old.as_ref() == Some(&content) {
            return Ok(());
        }
        let ours = write(dir, name, mode(stat.map(|stat| stat.st_mode & 0o777)), &content)?;
        at(Moment::Read);
        if tree::read(dir, name, most)? != old {
            continue;
        }
        at(Moment::Same);
        if old.is_none() {
            match renameat2(dir, beside.as_str(), dir, name, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return sync(dir).map_err(words),
                Err(Errno::EEXIST) => continue,
                Err(errno) => return Err(words(errno)),
            }
        }
        match tree::exchange(dir, &beside, dir, name) {
            Ok(()) => {}
            // Another program is between removing it and putting it back.
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(words(errno)),
        }
        at(Moment::Exchanged);
        // What came out may be another's, which was put there a moment ago or is written to still.
        let is_what_was_read = || tree::read(dir, &beside, most).map(|out| out == old);
        let out = is_what_was_read().and_then(|is| {
            std::thread::sleep(if is { SETTLE } else { Duration::ZERO });
            Ok(is && is_what_was_read()?)
        });
        if out == Ok(true) {
            return remove(dir, &beside).and_then(|()| sync(dir)).map_err(words);
        }
        at(Moment::Other);
        put_back(dir, name, ours).map_err(words)?;
        out?;
    }
    remove(dir, &beside).map_err(words)?;
    Err("other programs change it all the time".to_owned())
}

/// Puts what came out back in its place; but what another program has put in the place of ours meanwhile is newer, and
/// stays.
fn put_back(dir: &OwnedFd, name: &str, ours: u64) -> nix::Result<()> {
    let beside = beside(name);
    match tree::exchange(dir, &beside, dir, name) {
        Err(Errno::ENOENT) => tree::rename(dir, &beside, name),
        Err(errno) => Err(errno),
        Ok(()) => match tree::stat(dir, &beside)? {
            Some(stat) if stat.st_ino != ours => tree::exchange(dir, &beside, dir, name),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn upper(old: Option<&[u8]>) -> Result<Vec<u8>, String> {
        Ok(old.unwrap_or(b"new").to_ascii_uppercase())
    }

    /// Lets `other` do something at one moment of a change, once.
    fn race(before: Option<&str>, when: Moment, other: impl Fn(&Path)) -> (Result<(), String>, String) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        if let Some(text) = before {
            fs::write(&file, text).unwrap();
        }
        let dir = tree::open_home(home.path()).unwrap();
        let mut is_done = false;
        let mut at = |moment| {
            if moment == when && !is_done {
                is_done = true;
                other(&file);
            }
        };
        let done = change_with(&dir, "file", 1000, &|_| 0o600, &upper, &mut at);
        assert!(is_done, "{when:?} never came");
        let names: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        if done.is_ok() {
            assert_eq!(names, ["file"], "{when:?}");
        }
        (done, fs::read_to_string(&file).unwrap_or_default())
    }

    /// Another program replaces the file, writes into it, or makes it, right between two of our looks.
    #[test]
    fn what_another_program_writes_at_any_moment_is_kept_invariant_1() {
        let rename = |text: &'static str| {
            move |file: &Path| {
                fs::write(file.with_extension("tmp"), text).unwrap();
                fs::rename(file.with_extension("tmp"), file).unwrap();
            }
        };
        for when in [Moment::Read, Moment::Same] {
            assert_eq!(race(Some("a"), when, rename("ab")), (Ok(()), "AB".to_owned()), "{when:?}");
            assert_eq!(race(None, when, rename("made")), (Ok(()), "MADE".to_owned()), "{when:?}");
            let into = |file: &Path| fs::write(file, "into").unwrap();
            assert_eq!(race(Some("a"), when, into), (Ok(()), "INTO".to_owned()), "{when:?}");
        }
        // It had the old file open, and writes into it after it came out.
        let late = |file: &Path| fs::write(file.with_file_name(".rosterd-new.file"), "late").unwrap();
        assert_eq!(race(Some("a"), Moment::Exchanged, late), (Ok(()), "LATE".to_owned()));
        // It read ours already and wrote on: that is the newest.
        assert_eq!(
            race(Some("a"), Moment::Exchanged, rename("A and more")),
            (Ok(()), "A and more".to_owned())
        );
        // Gone, and gone again while the other's goes back.
        let gone = |file: &Path| fs::remove_file(file).unwrap();
        assert_eq!(race(Some("a"), Moment::Read, gone), (Ok(()), "NEW".to_owned()));
        assert_eq!(race(Some("a"), Moment::Same, gone), (Ok(()), "NEW".to_owned()));
    }

    /// Two at once: a newer one comes out, and an even newer one takes the place of ours before it goes back.
    #[test]
    fn the_newest_of_two_other_writers_stays_invariant_1() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "a").unwrap();
        let dir = tree::open_home(home.path()).unwrap();
        let put = |text: &str| {
            fs::write(file.with_extension("tmp"), text).unwrap();
            fs::rename(file.with_extension("tmp"), &file).unwrap();
        };
        let mut rounds = 0;
        let mut at = |moment| match moment {
            Moment::Same if rounds == 0 => put("ab"),
            Moment::Other if rounds == 0 => {
                rounds += 1;
                put("abc");
            }
            _ => {}
        };
        change_with(&dir, "file", 1000, &|_| 0o600, &upper, &mut at).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "ABC");
    }

    #[test]
    fn a_folder_that_takes_the_place_of_the_file_goes_back_to_it() {
        let swap = |file: &Path| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
            fs::write(file.join("mine"), "x").unwrap();
        };
        let (done, _) = race(Some("a"), Moment::Same, swap);
        assert_eq!(done, Err("it is a folder".to_owned()));
    }

    /// A program that never rests makes us give up, and not wait for ever.
    #[test]
    fn tries_are_bounded_and_nothing_stays_beside() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "x").unwrap();
        let dir = tree::open_home(home.path()).unwrap();
        let mut count = 0;
        let mut at = |moment| {
            if moment == Moment::Read {
                count += 1;
                fs::write(&file, count.to_string() + "x").unwrap();
            }
        };
        let done = change_with(&dir, "file", 1000, &|_| 0o600, &upper, &mut at);
        assert_eq!(done, Err("other programs change it all the time".to_owned()));
        assert_eq!(
            (fs::read_to_string(&file).unwrap(), fs::read_dir(home.path()).unwrap().count()),
            ("20x".into(), 1)
        );
    }

    #[test]
    fn a_stale_lock_is_taken_over_and_a_fresh_one_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let dir = tree::open_home(home.path()).unwrap();
        let lock = home.path().join("file.lock");
        fs::create_dir(&lock).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        fs::File::open(&lock).unwrap().set_modified(long_ago).unwrap();
        drop(Lock::take(&dir, "file").unwrap());
        assert!(!lock.exists());
        fs::create_dir(&lock).unwrap();
        let freed = lock.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            fs::remove_dir(freed).unwrap();
        });
        drop(Lock::take(&dir, "file").unwrap());
        other.join().unwrap();
        assert!(!lock.exists());
    }
}
