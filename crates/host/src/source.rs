//! The files that decide what root does: the roster, the configuration, what is put into everybody's home. Who may
//! write such a file has the power of root, so one that others may write is not read. This is the one judgement of that,
//! for the daemon, which refuses the file, and for `rosterctl doctor`, which says so.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::failure::Failure;
use crate::folder::{self, FolderError, Missing};

/// More than any roster needs; the parser has a smaller limit with a better message.
const MOST_BYTES: u64 = 16 << 20;

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It, or the folder that should hold it, is not there.
    #[error("there is no {}", .0.display())]
    Absent(PathBuf),
    /// It is there, and cannot or must not be read.
    #[error("{}; {}", .0.why, .0.next)]
    Refused(Failure),
}

/// Reads a file that decides what root does. Every folder on the way to it is root's and nobody else's to change:
/// by way of a link to a home, root would open what a person put there (invariant 3).
pub fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let (folder, name) =
        folder::open_parent(Path::new("/"), path, Missing::Fail).map_err(|e| no_way(e, path))?;
    read_in(&folder, name, path).map(|(content, _)| content)
}

/// How often a file is looked for that is exchanged at this moment.
const TRIES: usize = 3;

/// The same for a file that may stand there by way of links, and its mode. Kubelet projects a token so: `token` is a link to
/// `..data/token`, and `..data` one to a folder that is exchanged as a whole. The links are judged like the folders:
/// only root may have made them, and nobody else may be able to exchange one.
pub fn read_linked(path: &Path) -> Result<(Vec<u8>, u32), SourceError> {
    let mut found = Err(SourceError::Absent(path.into()));
    for _ in 0..TRIES {
        found = folder::open_parent_of_target(Path::new("/"), path)
            .map_err(|error| no_way(error, path))
            .and_then(|(folder, name)| read_in(&folder, &name, path));
        // The folder of yesterday's is removed right after today's is in its place.
        if !matches!(found, Err(SourceError::Absent(_))) {
            break;
        }
    }
    found
}

fn no_way(error: FolderError, path: &Path) -> SourceError {
    match error {
        FolderError::Absent(_) => SourceError::Absent(path.into()),
        FolderError::Io { path: folder, source: Errno::EACCES } => denied(&folder),
        error => SourceError::Refused(error.failure()),
    }
}

/// The same in a folder that was opened already, which is shown as `path`; and the file's mode.
pub(crate) fn read_in(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(Vec<u8>, u32), SourceError> {
    let shown = path.display();
    let cannot = |error: std::io::Error| SourceError::Refused(Failure::io(format!("reading {shown}"), error));
    let no_file =
        |what: &str| refused(format!("{shown} is {what}, no regular file"), "put a file in its place");
    // Without O_NONBLOCK a named pipe in its place would hold whoever reads it for ever.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Err(SourceError::Absent(path.into())),
        Err(Errno::ELOOP) => {
            return Err(refused(
                format!(
                    "{shown} is a symlink, and whoever owns the folder it leads to could exchange what it names"
                ),
                "put the file itself there, or let config.toml name where it is",
            ));
        }
        Err(Errno::ENXIO) => return Err(no_file("a socket")),
        Err(Errno::EACCES) => return Err(denied(path)),
        Err(error) => return Err(cannot(error.into())),
    };
    let seen = file.metadata().map_err(cannot)?;
    if !seen.is_file() {
        return Err(no_file(folder::kind_name(seen.mode())));
    }
    judge(&seen, has_acl(&file), path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MOST_BYTES {
        let next = "see what has written so much into it";
        return Err(refused(format!("{shown} is bigger than {} MiB", MOST_BYTES >> 20), next));
    }
    Ok((bytes, seen.mode() & 0o7777))
}

/// Who may write it: root, and root's group where an admin wants it so.
fn judge(seen: &Metadata, has_acl: bool, path: &Path) -> Result<(), SourceError> {
    const POWER: &str = "and whoever may write it has the power of root here";
    let (shown, mode) = (path.display(), seen.mode() & 0o7777);
    let why = |who: String| format!("{shown} may be written by {who} (mode {mode:04o}), {POWER}");
    if !folder::is_trusted(seen.uid()) {
        let why = format!("{shown} belongs to uid {} (mode {mode:04o}), {POWER}", seen.uid());
        return Err(refused(why, format!("chown root:root {shown}")));
    }
    if mode & 0o002 != 0 {
        return Err(refused(why("everybody".into()), format!("chmod go-w {shown}")));
    }
    // With an access list the bits of the group say what the list may give at most, to whomever it names.
    if mode & 0o020 != 0 && has_acl {
        return Err(refused(why("whom its access list names".into()), format!("setfacl -b {shown}")));
    }
    if mode & 0o020 != 0 && seen.gid() != 0 {
        let next = format!("chmod g-w {shown}, or chgrp root {shown}");
        return Err(refused(why(format!("the group {}", seen.gid())), next));
    }
    Ok(())
}

fn has_acl(file: impl AsFd) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::fgetxattr(file, c"system.posix_acl_access", &mut none).is_ok()
}

fn refused(why: String, next: impl Into<String>) -> SourceError {
    SourceError::Refused(Failure::new(why, next))
}

fn denied(path: &Path) -> SourceError {
    refused(format!("{} cannot be read: permission denied", path.display()), "run it as root")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// `/people -> /home` and a roster below it: root would wait at a person's FIFO, or read what they wrote.
    #[test]
    fn root_reads_nothing_by_way_of_a_folder_of_somebody_else_invariant_3() {
        if !is_root() {
            return;
        }
        let dir = tempfile::Builder::new().tempdir_in("/root").unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["ours", "ann", "open"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("roster.yaml"), "users:").unwrap();
        }
        chown(at("ann"), Some(4242), Some(4242)).unwrap();
        fs::set_permissions(at("open"), Permissions::from_mode(0o777)).unwrap();
        symlink(at("ann"), at("people")).unwrap();
        symlink(at("ours"), at("link")).unwrap();
        assert_eq!(read(&at("ours/roster.yaml")).unwrap(), b"users:");
        assert_eq!(read(&at("link/roster.yaml")).unwrap(), b"users:", "root made that link");
        assert_eq!(read(&at("none/roster.yaml")), Err(SourceError::Absent(at("none/roster.yaml"))));
        for (path, why) in [
            ("ann/roster.yaml", "belongs to uid 4242"),
            ("people/roster.yaml", "belongs to uid 4242"),
            ("open/roster.yaml", "may be written by others"),
        ] {
            let refused = read(&at(path)).unwrap_err().to_string();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }

    /// As kubelet lays it out, and as somebody would who may put files into that folder.
    #[test]
    fn a_link_of_roots_is_followed_and_nobody_elses_invariant_3() {
        if !is_root() {
            return;
        }
        let dir = tempfile::Builder::new().tempdir_in("/root").unwrap();
        let at = |name: &str| dir.path().join(name);
        for (day, token) in [("..monday", "old"), ("..tuesday", "new")] {
            fs::create_dir(at(day)).unwrap();
            fs::write(at(day).join("token"), token).unwrap();
        }
        symlink("..data/token", at("token")).unwrap();
        symlink("..monday", at("..data")).unwrap();
        for mode in [0o755, 0o1777] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_linked(&at("token")).unwrap(), (b"old".to_vec(), 0o644), "{mode:o}");
        }
        assert!(read(&at("token")).is_err(), "the roster is no link");
        symlink("..tuesday", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at("..monday")).unwrap();
        assert_eq!(read_linked(&at("token")).unwrap().0, b"new");

        let told = || {
            read_linked(&at("token")).unwrap_err().to_string().replace(dir.path().to_str().unwrap(), "DIR")
        };
        // Without the sticky bit anybody could exchange the links.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(told().starts_with("DIR may be written by others (mode 0777)"), "{}", told());
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::lchown(at("..data"), Some(4242), Some(4242)).unwrap();
        assert!(told().starts_with("DIR/..data belongs to uid 4242"), "{}", told());
        std::os::unix::fs::lchown(at("..data"), Some(0), Some(0)).unwrap();
        chown(at("..tuesday"), Some(4242), Some(4242)).unwrap();
        assert!(told().starts_with("DIR/..tuesday belongs to uid 4242"), "{}", told());
        chown(at("..tuesday"), Some(0), Some(0)).unwrap();
        fs::set_permissions(at("..tuesday/token"), Permissions::from_mode(0o666)).unwrap();
        assert!(told().starts_with("DIR/token may be written by everybody"), "{}", told());
        // Where anybody may put a file, a file is nobody's in particular.
        fs::remove_file(at("token")).unwrap();
        fs::write(at("token"), "planted").unwrap();
        assert!(told().starts_with("DIR may be written by others (mode 1777)"), "{}", told());
        fs::remove_file(at("token")).unwrap();
        symlink("token", at("token")).unwrap();
        assert!(told().contains("too many symbolic links"), "{}", told());
        fs::remove_file(at("token")).unwrap();
        assert_eq!(told(), "there is no DIR/token");
        fs::create_dir(at("token")).unwrap();
        assert!(told().starts_with("DIR/token is a folder, no regular file"), "{}", told());
    }

    /// Whoever may write the roster makes themself an admin.
    #[test]
    fn root_reads_no_file_that_others_than_root_may_write() {
        if !is_root() {
            return;
        }
        let dir = tempfile::Builder::new().tempdir_in("/root").unwrap();
        let path = dir.path().join("roster.yaml");
        let told = |uid: u32, gid: u32, mode: u32| {
            fs::write(&path, "users:").unwrap();
            chown(&path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read(&path).err().map(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
        };
        for (gid, mode) in [(0, 0o644), (0, 0o600), (0, 0o664), (4242, 0o644), (4242, 0o640)] {
            assert_eq!(told(0, gid, mode), None, "{gid} {mode:o}");
        }
        let power = "and whoever may write it has the power of root here";
        assert_eq!(
            [told(4242, 0, 0o644), told(0, 0, 0o666), told(0, 4242, 0o664)].map(Option::unwrap),
            [
                format!("FILE belongs to uid 4242 (mode 0644), {power}; chown root:root FILE"),
                format!("FILE may be written by everybody (mode 0666), {power}; chmod go-w FILE"),
                format!(
                    "FILE may be written by the group 4242 (mode 0664), {power}; chmod g-w FILE, or chgrp root FILE"
                ),
            ]
        );
        told(0, 0, 0o644);
        // user::rw-, user:4242:rw-, group::r--, mask::rw-, other::r--, as setfacl writes it.
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, u32::MAX), (2, 6, 4242), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)];
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let file = File::open(&path).unwrap();
        match rustix::fs::fsetxattr(&file, c"system.posix_acl_access", &list, rustix::fs::XattrFlags::empty())
        {
            Ok(()) => {
                let refused = read(&path).unwrap_err().to_string();
                assert!(refused.contains("whom its access list names (mode 0664)"), "{refused}");
            }
            // A file system without access lists has none to look for.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => panic!("{error}"),
        }
        fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is a symlink"));
    }
}
