//! Files that are replaced whole: written beside, synced, given owner and mode, and only then renamed, so that
//! a reader sees the old text or the new one. Reading has a cap and follows no link.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, getegid, geteuid, unlinkat};
use roster::files::sha256;
use roster::plan::WholeFile;

use crate::Host;
use crate::failure::Failure;
use crate::folder::{self, FolderError, Missing};

/// No file that rosterd reads whole is ever near this; a bigger one is a mistake or an attack.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// Every temporary file of ours is this and the name of the file it becomes: a run that was killed leaves at
/// most one for each file, the next one takes its place, and a person who finds it sees whose it is.
pub(crate) const BESIDE: &str = ".rosterd-new.";

/// A file as read.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Reads the regular file `name`; nothing when there is none. The error says why it cannot be read.
pub(crate) fn read(folder: &OwnedFd, name: &OsStr, cap: u64) -> Result<Option<Content>, String> {
    read_with(folder, name, cap, OFlag::O_NOFOLLOW)
}

/// The same for a file of the system that root may have made a link, such as `nsswitch.conf`, in a folder where
/// only root makes links.
pub(crate) fn read_linked(folder: &OwnedFd, name: &OsStr, cap: u64) -> Result<Option<Content>, String> {
    read_with(folder, name, cap, OFlag::empty())
}

fn read_with(folder: &OwnedFd, name: &OsStr, cap: u64, links: OFlag) -> Result<Option<Content>, String> {
    // Without O_NONBLOCK a named pipe in its place would hold the run for ever.
    let flags = links | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut file = match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err("it is a symbolic link".into()),
        Err(Errno::ENXIO) => return Err("it is a socket".into()),
        Err(error) => return Err(error.desc().into()),
    };
    let words = |error: std::io::Error| Failure::io("reading it", error).why;
    let seen = file.metadata().map_err(words)?;
    if !seen.is_file() {
        return Err(if seen.is_dir() { "it is a folder" } else { "it is no regular file" }.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(seen.len().min(cap)).unwrap_or(0) + 1);
    (&mut file).take(cap + 1).read_to_end(&mut bytes).map_err(words)?;
    if bytes.len() as u64 > cap {
        return Err(format!("it is bigger than {} MiB", cap >> 20));
    }
    Ok(Some(Content { bytes, mode: seen.mode() & 0o7777, uid: seen.uid(), gid: seen.gid() }))
}

/// A finished file beside the one that it will replace. Dropped before [`Beside::replace`], it is gone.
pub(crate) struct Beside<'a> {
    folder: &'a OwnedFd,
    name: OsString,
    temporary: OsString,
}

impl<'a> Beside<'a> {
    /// Writes and syncs it.
    pub(crate) fn write(
        folder: &'a OwnedFd,
        name: &OsStr,
        bytes: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> std::io::Result<Beside<'a>> {
        let mut temporary = OsString::from(BESIDE);
        temporary.push(name);
        remove(folder, &temporary)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(folder, temporary.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let beside = Beside { folder, name: name.to_os_string(), temporary };
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        fchmod(&file, Mode::from_bits_truncate(mode))?;
        fsync(&file)?;
        Ok(beside)
    }

    /// Lets it be known again as what was written here, where the file system can keep that.
    fn mark(&self, bytes: &[u8]) {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if let Ok(file) = openat(self.folder, self.temporary.as_os_str(), flags, Mode::empty()) {
            let none = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::fsetxattr(&file, MARK, sha256(bytes).as_bytes(), none);
        }
    }

    /// Puts it in its place. The caller syncs the folder.
    pub(crate) fn replace(self) -> nix::Result<()> {
        renameat(self.folder, self.temporary.as_os_str(), self.folder, self.name.as_os_str())
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // After the rename there is none; if removing fails, the next run does it.
        let _ = remove(self.folder, &self.temporary);
    }
}

/// Removes a file; it is fine when there is none.
pub(crate) fn remove(folder: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Whoever owns the files that we write: root.
fn ours() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

impl Host {
    /// Replaces a file that is no step of a plan, whole.
    pub fn write_whole_file(&self, file: &WholeFile) -> Result<(), Failure> {
        self.write_file(file)
    }

    pub(crate) fn write_file(&self, file: &WholeFile) -> Result<(), Failure> {
        let (folder, name) =
            folder::open_parent(self.root(), &file.path, Missing::Create).map_err(|error| error.failure())?;
        only_replace_a_file(&folder, name, &file.path)?;
        replace(&folder, name, &file.path, file.content.as_bytes(), file.mode)
    }

    /// Removes a generated file, and its folder when that is a drop-in folder with nothing else in it.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error| Failure::io(format!("removing {}", path.display()), error);
        let (folder, name) =
            folder::open_parent(self.root(), path, Missing::Fail).map_err(|error| error.failure())?;
        only_replace_a_file(&folder, name, path)?;
        remove(&folder, name).map_err(failed)?;
        fsync(&folder).map_err(failed)?;
        if let Some(parent) = path.parent().filter(|parent| parent.extension() == Some(OsStr::new("d")))
            && let Ok((above, name)) = folder::open_parent(self.root(), parent, Missing::Fail)
        {
            // Somebody else's drop-ins keep it.
            let _ = unlinkat(&above, name, UnlinkatFlags::RemoveDir);
        }
        Ok(())
    }

    /// Sets keys in environment files and keeps every other line of them. No path may occur twice.
    pub(crate) fn set_env_keys(&self, files: &[EnvKeys<'_>]) -> Vec<Result<(), Failure>> {
        let mut folders: BTreeMap<Option<&Path>, Vec<usize>> = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            folders.entry(file.path.parent()).or_default().push(index);
        }
        let mut results: BTreeMap<usize, Result<(), Failure>> = BTreeMap::new();
        for (folder, indices) in folders {
            let files = indices.iter().filter_map(|index| files.get(*index));
            let set = match folder::open(self.root(), folder.unwrap_or(Path::new("")), Missing::Create) {
                Ok(folder) => set_in_folder(&folder, &files.collect::<Vec<_>>()),
                Err(error) => vec![Err(error.failure()); indices.len()],
            };
            results.extend(indices.into_iter().zip(set));
        }
        results.into_values().collect()
    }
}

/// One sync of the folder makes all of them durable.
fn set_in_folder(folder: &OwnedFd, files: &[&EnvKeys<'_>]) -> Vec<Result<(), Failure>> {
    let replaced: Vec<_> =
        files.iter().map(|file| file.write(folder)?.replace().map_err(|error| file.failed(error))).collect();
    let synced = fsync(folder);
    let last = |(file, replaced): (&&EnvKeys<'_>, Result<(), Failure>)| {
        replaced.and_then(|()| synced.map_err(|error| file.failed(error)))
    };
    files.iter().zip(replaced).map(last).collect()
}

/// Keys to set in an environment file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnvKeys<'a> {
    pub(crate) path: &'a Path,
    pub(crate) keys: &'a BTreeMap<String, String>,
}

impl EnvKeys<'_> {
    fn write<'f>(&self, folder: &'f OwnedFd) -> Result<Beside<'f>, Failure> {
        let shown = self.path.display();
        let Some(name) = self.path.file_name() else {
            return Err(FolderError::Path(self.path.to_path_buf()).failure());
        };
        only_replace_a_file(folder, name, self.path)?;
        // Read right before it is written: a service may have added its token since the plan was made.
        let old = read(folder, name, MAX_BYTES).map_err(|why| {
            Failure::new(format!("reading {shown}: {why}"), "make it a regular file of root, mode 0600")
        })?;
        let old = String::from_utf8(old.map(|old| old.bytes).unwrap_or_default()).map_err(|_| {
            Failure::new(format!("{shown} is not UTF-8"), "correct it, or move it away to have it made anew")
        })?;
        let new = self.keys.iter().fold(old, |text, (key, value)| set_key(&text, key, value));
        Beside::write(folder, name, new.as_bytes(), 0o600, ours()).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<std::io::Error>) -> Failure {
        Failure::io(format!("writing {}", self.path.display()), error)
    }
}

/// An atomic rename would put a file in the place of an admin's link and cut whatever it led to (a settings
/// file that "atomic save" unlinked from its repository: CC#80276), so that is refused, as is a folder.
fn only_replace_a_file(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Failure> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(Failure::io(format!("looking at {}", path.display()), error)),
        Ok(seen) if folder::kind(&seen) == SFlag::S_IFREG => Ok(()),
        Ok(seen) => Err(Failure::new(
            format!("{} is {}, and only a file is replaced", path.display(), folder::kind_name(seen.st_mode)),
            "remove it, or configure the path that it stands for in /etc/rosterd/config.toml",
        )),
    }
}

/// An attribute of each file that is written whole: the digest of what was written.
const MARK: &str = "user.rosterd.sha256";

/// Whether a file with these bytes is as it was written here. Where the file system keeps no attributes it is not known
/// to be.
pub(crate) fn is_untouched(folder: &OwnedFd, name: &OsStr, bytes: &[u8]) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(file) = openat(folder, name, flags, Mode::empty()) else { return false };
    let mut mark = [0; 64];
    let length = rustix::fs::fgetxattr(&file, MARK, &mut mark);
    length.is_ok_and(|length| mark.get(..length) == Some(sha256(bytes).as_bytes()))
}

fn replace(folder: &OwnedFd, name: &OsStr, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    Beside::write(folder, name, bytes, mode, ours())
        .and_then(|beside| {
            beside.mark(bytes);
            Ok(beside.replace()?)
        })
        .and_then(|()| Ok(fsync(folder)?))
        .map_err(|error| Failure::io(format!("writing {}", path.display()), error))
}

/// Sets one key and keeps every other line.
fn set_key(text: &str, key: &str, value: &str) -> String {
    let mut found = false;
    let mut new = String::with_capacity(text.len() + key.len() + value.len() + 2);
    for line in text.lines() {
        if line.split_once('=').is_some_and(|(name, _)| name.trim() == key) {
            if !found {
                new.push_str(&format!("{key}={value}\n"));
            }
            found = true;
        } else {
            new.push_str(line);
            new.push('\n');
        }
    }
    if !found {
        new.push_str(&format!("{key}={value}\n"));
    }
    new
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    fn machine() -> (tempfile::TempDir, Host) {
        let machine = tempfile::tempdir().unwrap();
        fs::create_dir(machine.path().join("etc")).unwrap();
        let host = Host::at(machine.path());
        (machine, host)
    }

    fn file(path: &str, content: &str) -> WholeFile {
        WholeFile { path: path.into(), content: content.into(), mode: 0o644 }
    }

    fn set(host: &Host, path: &str, value: &str) -> Result<(), Failure> {
        let keys = BTreeMap::from([("T3_PORT".to_string(), value.to_string())]);
        host.set_env_keys(&[EnvKeys { path: Path::new(path), keys: &keys }]).remove(0)
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
    fn a_generated_file_is_replaced_whole_with_its_mode_and_nothing_stays_beside() {
        let (machine, host) = machine();
        let map = machine.path().join("etc/maps/users");
        host.write_file(&file("/etc/maps/users", "one\n")).unwrap();
        fs::set_permissions(&map, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(machine.path().join("etc/maps/.rosterd-new.users"), "half a li").unwrap();
        host.write_file(&file("/etc/maps/users", "two\n")).unwrap();
        assert_eq!(fs::read_to_string(&map).unwrap(), "two\n");
        assert_eq!(fs::metadata(&map).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(machine.path().join("etc/maps")), ["users"]);
    }

    #[test]
    fn an_admins_link_in_the_place_of_a_generated_file_is_refused() {
        let (machine, host) = machine();
        fs::write(machine.path().join("etc/real"), "theirs").unwrap();
        symlink("real", machine.path().join("etc/users")).unwrap();
        let failure = host.write_file(&file("/etc/users", "ours")).unwrap_err();
        assert_eq!(failure.why, "/etc/users is a symbolic link, and only a file is replaced");
        assert_eq!(fs::read_to_string(machine.path().join("etc/real")).unwrap(), "theirs");
        let failure = set(&host, "/etc/users", "1").unwrap_err();
        assert_eq!(failure.why, "/etc/users is a symbolic link, and only a file is replaced");
    }

    #[test]
    fn invariant_7_an_environment_file_keeps_its_token_and_becomes_0600() {
        let (machine, host) = machine();
        let path = machine.path().join("etc/alice.env");
        fs::write(&path, "# by hand\nTOKEN=s3cret\nT3_PORT=1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        set(&host, "/etc/alice.env", "3773").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# by hand\nTOKEN=s3cret\nT3_PORT=3773\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        set(&host, "/etc/new/bob.env", "3774").unwrap();
        assert_eq!(fs::read_to_string(machine.path().join("etc/new/bob.env")).unwrap(), "T3_PORT=3774\n");
    }

    #[test]
    fn a_named_pipe_does_not_hold_the_run() {
        let (machine, host) = machine();
        nix::unistd::mkfifo(&machine.path().join("etc/alice.env"), Mode::S_IRUSR).unwrap();
        let failure = set(&host, "/etc/alice.env", "1").unwrap_err();
        assert_eq!(failure.why, "/etc/alice.env is a named pipe, and only a file is replaced");
        let folder = folder::open(machine.path(), Path::new("/etc"), Missing::Fail).unwrap();
        assert_eq!(read(&folder, OsStr::new("alice.env"), 10).err().unwrap(), "it is no regular file");
        fs::write(machine.path().join("etc/big"), vec![b'x'; 11]).unwrap();
        assert!(read(&folder, OsStr::new("big"), 10).is_err());
        assert!(read(&folder, OsStr::new("none"), 10).unwrap().is_none());
    }
}
