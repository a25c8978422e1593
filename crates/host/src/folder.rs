//! The only way to a path. Root walks from folder to folder, looks at each before it enters, and enters none
//! that somebody else could exchange meanwhile; systemd-tmpfiles calls the contrary an "unsafe path
//! transition" (CVE-2018-6954). What is done at the end of the walk is done through the folder's descriptor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{fsync, geteuid};

use crate::failure::Failure;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What to do about a folder that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Fail,
    Create,
}

/// Why a folder was not entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("there is no folder {0}")]
    Absent(PathBuf),
    #[error("{0} is no folder")]
    NotAFolder(PathBuf),
    #[error("{path} belongs to uid {uid}, who could exchange what root is about to use")]
    Foreign { path: PathBuf, uid: u32 },
    #[error(
        "{path} may be written by others (mode {mode:04o}), who could exchange what root is about to use"
    )]
    Writable { path: PathBuf, mode: u32 },
    #[error("{0} is a folder, no regular file")]
    NoFile(PathBuf),
    #[error("{0} leads through too many symbolic links")]
    Links(PathBuf),
    #[error("{0} is not an absolute path without `..`")]
    Path(PathBuf),
    #[error("cannot enter {path}")]
    Io { path: PathBuf, source: Errno },
}

impl FolderError {
    pub(crate) fn failure(self) -> Failure {
        let next = match &self {
            FolderError::Absent(path) => format!("make it: `install -d -m 0755 {}`", path.display()),
            FolderError::NoFile(_) => "put a file in its place".into(),
            FolderError::NotAFolder(path) => {
                format!("move {} away, or configure another path in /etc/rosterd/config.toml", path.display())
            }
            FolderError::Foreign { path, .. } => {
                format!("give it to root (`chown root: {}`) or configure another path", path.display())
            }
            FolderError::Writable { path, .. } => {
                format!("close it (`chmod go-w {}`) or configure another path", path.display())
            }
            FolderError::Links(_) | FolderError::Path(_) => {
                "configure another path in /etc/rosterd/config.toml".to_string()
            }
            FolderError::Io { path, source } => {
                return Failure::io(format!("entering {}", path.display()), *source);
            }
        };
        Failure::new(self.to_string(), next)
    }
}

/// Opens the folder `path` of the machine at `root`.
///
/// Every folder on the way, the last one included, must belong to root and be writable by no one else; symbolic
/// links are followed only when root made them. (In a test without root, "root" is whoever runs it.)
pub(crate) fn open(root: &Path, path: &Path, missing: Missing) -> Result<OwnedFd, FolderError> {
    let mut way = Way::new(root, path)?;
    match way.walk(missing)? {
        Some(name) => Err(FolderError::NotAFolder(way.place(&name)?.1)),
        None => Ok(way.here()?.0),
    }
}

/// Opens the folder that holds what `path` names at last, when all links are followed, and gives the name in it.
///
/// Judged as by [`open`], but links and folders may also stand in a folder where everybody may put something and nobody
/// but root can exchange what is root's (`/tmp` is such, and what kubelet projects into a pod). A file there is not
/// taken for root's, because a name that is free may be anybody's.
pub(crate) fn open_parent_of_target(root: &Path, path: &Path) -> Result<(OwnedFd, OsString), FolderError> {
    let mut way = Way::new(root, path)?;
    way.check = check_shared;
    let Some(name) = way.walk(Missing::Fail)? else { return Err(FolderError::NoFile(path.into())) };
    let (folder, shown) = way.here()?;
    let seen = fstat(&folder).map_err(|source| FolderError::Io { path: shown.clone(), source })?;
    check(&seen, &shown)?;
    Ok((folder, name))
}

/// The folders from the top to where one is, and the names that are ahead.
struct Way {
    path: PathBuf,
    behind: Vec<(OwnedFd, PathBuf)>,
    ahead: Vec<OsString>,
    check: fn(&FileStat, &Path) -> Result<(), FolderError>,
}

impl Way {
    fn new(root: &Path, path: &Path) -> Result<Way, FolderError> {
        let mut ahead = steps(path).ok_or_else(|| FolderError::Path(path.to_path_buf()))?;
        ahead.reverse();
        let top = nix::fcntl::open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|source| FolderError::Io { path: "/".into(), source })?;
        Ok(Way { path: path.into(), behind: vec![(top, "/".into())], ahead, check })
    }

    fn here(&mut self) -> Result<(OwnedFd, PathBuf), FolderError> {
        self.behind.pop().ok_or_else(|| FolderError::Path(self.path.clone()))
    }

    /// The folder where one is, and the path of a name in it.
    fn place(&self, name: &OsStr) -> Result<(&OwnedFd, PathBuf), FolderError> {
        let (here, shown) = self.behind.last().ok_or_else(|| FolderError::Path(self.path.clone()))?;
        Ok((here, shown.join(name)))
    }

    /// Goes on as far as there are folders. Gives the last name when that is no folder.
    fn walk(&mut self, missing: Missing) -> Result<Option<OsString>, FolderError> {
        let mut links = 0;
        while let Some(step) = self.ahead.pop() {
            if step == ".." {
                if self.behind.len() > 1 {
                    self.behind.pop();
                }
                continue;
            }
            let (here, place) = self.place(&step)?;
            let io = |source| FolderError::Io { path: place.clone(), source };
            let seen = match fstatat(here, step.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(seen) => seen,
                Err(Errno::ENOENT) if missing == Missing::Create => {
                    make(here, &step).map_err(io)?;
                    fstatat(here, step.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(io)?
                }
                Err(Errno::ENOENT) => return Err(FolderError::Absent(place)),
                Err(source) => return Err(io(source)),
            };
            match kind(&seen) {
                SFlag::S_IFDIR => {
                    // Looked at before it is opened, so that root opens no folder of another, and once more after.
                    (self.check)(&seen, &place)?;
                    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let folder = openat(here, step.as_os_str(), flags, Mode::empty()).map_err(io)?;
                    (self.check)(&fstat(&folder).map_err(io)?, &place)?;
                    self.behind.push((folder, place));
                }
                SFlag::S_IFLNK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FolderError::Links(self.path.clone()));
                    }
                    if !is_trusted(seen.st_uid) {
                        return Err(FolderError::Foreign { path: place, uid: seen.st_uid });
                    }
                    let target = PathBuf::from(readlinkat(here, step.as_os_str()).map_err(io)?);
                    if target.is_absolute() {
                        self.behind.truncate(1);
                    }
                    self.ahead.extend(link_steps(&target).into_iter().rev());
                }
                _ if self.ahead.is_empty() => return Ok(Some(step)),
                _ => return Err(FolderError::NotAFolder(place)),
            }
        }
        Ok(None)
    }
}

/// Opens the folder that holds `path`, and gives the name in it.
pub(crate) fn open_parent<'a>(
    root: &Path,
    path: &'a Path,
    missing: Missing,
) -> Result<(OwnedFd, &'a OsStr), FolderError> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((open(root, parent, missing)?, name)),
        _ => Err(FolderError::Path(path.to_path_buf())),
    }
}

/// Who is trusted with a folder: root; in a test without root, whoever runs it.
pub(crate) fn owner() -> u32 {
    geteuid().as_raw()
}

/// Whether what belongs to `uid` is as good as root's, also for somebody who is not root and only looks.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == owner()
}

/// What kind of thing it is.
pub(crate) fn kind(seen: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(seen.st_mode & SFlag::S_IFMT.bits())
}

/// The kind in words, for an error.
pub(crate) fn kind_name(mode: u32) -> &'static str {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => "a folder",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFREG => "a file",
        SFlag::S_IFIFO => "a named pipe",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
        _ => "something unknown",
    }
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in nix::dir::Dir::openat(folder, c".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_os_string());
        }
    }
    names.sort();
    Ok(names)
}

fn check(seen: &FileStat, path: &Path) -> Result<(), FolderError> {
    let mode = seen.st_mode & 0o7777;
    if !is_trusted(seen.st_uid) {
        return Err(FolderError::Foreign { path: path.to_path_buf(), uid: seen.st_uid });
    }
    if mode & 0o022 != 0 {
        return Err(FolderError::Writable { path: path.to_path_buf(), mode });
    }
    Ok(())
}

/// The same, and a folder in which nobody can exchange what is another's.
fn check_shared(seen: &FileStat, path: &Path) -> Result<(), FolderError> {
    const STICKY: u32 = 0o1000;
    match check(seen, path) {
        Err(FolderError::Writable { .. }) if seen.st_mode & STICKY != 0 => Ok(()),
        judged => judged,
    }
}

fn make(here: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    mkdirat(here, name, Mode::from_bits_truncate(0o755))?;
    // Whatever our umask took away.
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    fchmod(openat(here, name, flags, Mode::empty())?, Mode::from_bits_truncate(0o755))?;
    fsync(here)
}

/// The names of a path that we were given: absolute, without `..`.
fn steps(path: &Path) -> Option<Vec<OsString>> {
    let mut steps = Vec::new();
    let mut absolute = false;
    for component in path.components() {
        match component {
            Component::RootDir => absolute = true,
            Component::Normal(name) => steps.push(name.to_os_string()),
            Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    absolute.then_some(steps)
}

/// The names of a link's target, `..` among them.
fn link_steps(target: &Path) -> Vec<OsString> {
    target
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn machine() -> tempfile::TempDir {
        let machine = tempfile::tempdir().unwrap();
        fs::create_dir_all(machine.path().join("etc/ours")).unwrap();
        machine
    }

    #[test]
    fn a_missing_folder_is_made_0755_whatever_the_umask() {
        let machine = machine();
        open(machine.path(), Path::new("/etc/a/b"), Missing::Create).unwrap();
        let mode = fs::metadata(machine.path().join("etc/a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        let error = open(machine.path(), Path::new("/etc/c/d"), Missing::Fail).unwrap_err();
        assert_eq!(error.to_string(), "there is no folder /etc/c");
    }

    #[test]
    fn a_folder_that_others_may_write_is_not_entered() {
        let machine = machine();
        let open_to_all = machine.path().join("etc/ours");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o775)).unwrap();
        let error = open(machine.path(), Path::new("/etc/ours/deep"), Missing::Create).unwrap_err();
        assert!(matches!(error, FolderError::Writable { mode: 0o775, .. }), "{error}");
        assert!(!open_to_all.join("deep").exists());
    }

    #[test]
    fn invariant_3_a_folder_of_somebody_else_is_not_entered_even_through_a_link() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let machine = machine();
        let home = machine.path().join("home/alice");
        fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
        symlink("/home/alice", machine.path().join("etc/link")).unwrap();
        for path in ["/home/alice/x", "/etc/link/x"] {
            let error = open(machine.path(), Path::new(path), Missing::Create).unwrap_err();
            assert!(matches!(error, FolderError::Foreign { uid: 1000, .. }), "{error}");
        }
        std::os::unix::fs::lchown(machine.path().join("etc/link"), Some(1000), Some(1000)).unwrap();
        let error = open(machine.path(), Path::new("/etc/link"), Missing::Fail).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/etc/link belongs to uid 1000, who could exchange what root is about to use"
        );
    }

    #[test]
    fn a_link_made_by_root_is_followed_within_the_machine() {
        let machine = machine();
        fs::create_dir_all(machine.path().join("srv/maps")).unwrap();
        symlink("/srv/maps", machine.path().join("etc/absolute")).unwrap();
        symlink("../srv/maps", machine.path().join("etc/relative")).unwrap();
        symlink("../../../../srv", machine.path().join("etc/up")).unwrap();
        symlink("loop", machine.path().join("etc/loop")).unwrap();
        let expected =
            fstat(open(machine.path(), Path::new("/srv/maps"), Missing::Fail).unwrap()).unwrap().st_ino;
        for path in ["/etc/absolute", "/etc/relative", "/etc/up/maps"] {
            let folder = open(machine.path(), Path::new(path), Missing::Fail).unwrap();
            assert_eq!(fstat(folder).unwrap().st_ino, expected, "{path}");
        }
        assert!(matches!(
            open(machine.path(), Path::new("/etc/loop"), Missing::Fail),
            Err(FolderError::Links(_))
        ));
        assert!(matches!(
            open(machine.path(), Path::new("/etc/../x"), Missing::Fail),
            Err(FolderError::Path(_))
        ));
    }
}
