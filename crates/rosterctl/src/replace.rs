//! The roster's file gets another content: whole or not at all, with its owner and mode, and without losing what
//! somebody else saved meanwhile. The content before is kept beside it as `roster.yaml~`.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use roster::parse::LARGEST_ROSTER;

use crate::error::{CommandError, Result};

/// A file and what it held when it was read.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    meta: Metadata,
}

/// Whether a new content is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Replaced,
    /// Somebody saved the file after it was read, and that stays.
    Overtaken,
}

impl Document {
    /// Reads the file; a link is not followed, as the daemon does not follow it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let cannot = |error: io::Error| {
            let next = match error.kind() {
                io::ErrorKind::PermissionDenied => "run it as root",
                io::ErrorKind::NotFound => {
                    "name the roster by [roster] path in config.toml, or make one: `echo 'users:' > roster.yaml`"
                }
                _ if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
                    "it is a symlink; name the file itself by [roster] path in config.toml"
                }
                _ => "see whether the file is there and readable",
            };
            CommandError::new(format!("cannot read {}", path.display())).because(error).next(next)
        };
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags.bits()).open(path).map_err(cannot)?;
        let meta = file.metadata().map_err(cannot)?;
        if !meta.is_file() {
            return Err(CommandError::new(format!("{} is not a regular file", path.display())));
        }
        let mut bytes = Vec::new();
        // One more than the parser takes, so that it tells what is wrong.
        file.take(LARGEST_ROSTER as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
        Ok(Document { path: path.to_owned(), bytes, meta })
    }

    /// Puts `text` in its place.
    pub(crate) fn replace(&self, text: &str) -> Result<Outcome> {
        self.replace_with(text, || {})
    }

    /// `before` happens in the last moment before the file is put in place: what a test needs to be somebody else.
    fn replace_with(&self, text: &str, before: impl FnOnce()) -> Result<Outcome> {
        let cannot = |error: io::Error| {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let failure = CommandError::new(format!("cannot write {}; it is as it was", self.path.display()))
                .because(error);
            if denied { failure.next("run it as root") } else { failure }
        };
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Owner before mode: a new file is its maker's alone until it has the right owner.
        let mut new = tempfile::Builder::new().prefix(".roster.").tempfile_in(folder).map_err(cannot)?;
        new.write_all(text.as_bytes()).map_err(cannot)?;
        let (uid, gid) = (self.meta.uid(), self.meta.gid());
        let made = new.as_file().metadata().map_err(cannot)?;
        if (made.uid(), made.gid()) != (uid, gid) {
            std::os::unix::fs::fchown(new.as_file(), Some(uid), Some(gid)).map_err(cannot)?;
        }
        let mode = Permissions::from_mode(self.meta.mode() & 0o7777);
        new.as_file().set_permissions(mode).map_err(cannot)?;
        new.as_file().sync_all().map_err(cannot)?;
        if !self.is_unchanged(&self.path)? {
            return Ok(Outcome::Overtaken);
        }
        before();
        // Both change places in one step, and so the old file is never gone: when it turns out to be another than
        // the one that was read, they change back.
        let exchange = || {
            renameat2(AT_FDCWD, new.path(), AT_FDCWD, &self.path, RenameFlags::RENAME_EXCHANGE)
                .map_err(|errno| cannot(errno.into()))
        };
        exchange()?;
        if !self.is_unchanged(new.path())? {
            exchange()?;
            return Ok(Outcome::Overtaken);
        }
        let backup = backup_of(&self.path);
        if let Err(error) = new.into_temp_path().persist(&backup) {
            return Err(CommandError::new(format!(
                "{} is changed, but what it held is not kept",
                self.path.display()
            ))
            .because(error.error)
            .next(format!("see what is at {}", backup.display())));
        }
        // The names are safe on disk only with their folder.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        Ok(Outcome::Replaced)
    }

    fn is_unchanged(&self, path: &Path) -> Result<bool> {
        let now = Document::read(path)?;
        let same = (now.meta.uid(), now.meta.gid(), now.meta.mode())
            == (self.meta.uid(), self.meta.gid(), self.meta.mode());
        Ok(same && now.bytes == self.bytes)
    }
}

/// `roster.yaml~`, as editors name it.
pub(crate) fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push("~");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(text: &str) -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("roster.yaml");
        fs::write(&path, text).unwrap();
        (place, path)
    }

    fn names(place: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_new_content_has_the_old_mode_and_the_old_content_is_kept_invariant_5() {
        let (place, path) = place("old");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        fs::write(place.path().join("roster.yaml~"), "older").unwrap();
        assert_eq!(Document::read(&path).unwrap().replace("new").unwrap(), Outcome::Replaced);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_to_string(place.path().join("roster.yaml~")).unwrap(), "old");
        assert_eq!(names(place.path()), ["roster.yaml", "roster.yaml~"]);
    }

    #[test]
    fn the_owner_stays() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (_place, path) = place("old");
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
        Document::read(&path).unwrap().replace("new").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 2345));
    }

    #[test]
    fn what_somebody_saved_meanwhile_stays_whole_whenever_it_was_saved() {
        // Before the last look, and after it: in place, and by renaming as editors do.
        for moment in 0..3 {
            let (place, path) = place("old");
            let document = Document::read(&path).unwrap();
            let save = || {
                if moment == 2 {
                    fs::write(place.path().join("editor"), "theirs").unwrap();
                    fs::rename(place.path().join("editor"), &path).unwrap();
                } else {
                    fs::write(&path, "theirs").unwrap();
                }
            };
            if moment == 0 {
                save();
            }
            let outcome = document
                .replace_with("ours", || {
                    if moment > 0 {
                        save()
                    }
                })
                .unwrap();
            assert_eq!(outcome, Outcome::Overtaken, "{moment}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "theirs", "{moment}");
            assert_eq!(names(place.path()), ["roster.yaml"], "{moment}");
        }
    }

    #[test]
    fn a_link_and_a_folder_are_refused() {
        let (place, path) = place("old");
        let link = place.path().join("link.yaml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = Document::read(&link).unwrap_err().to_string();
        assert!(error.contains("it is a symlink"), "{error}");
        assert!(Document::read(place.path()).unwrap_err().to_string().ends_with("is not a regular file"));
    }
}
