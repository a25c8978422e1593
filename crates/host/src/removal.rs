//! What `rosterctl offboard` and `restore-account` do as root: an account out of the user database and back, a home out
//! of its place and back. Only the folder of a home is ever opened here, as a place to send a worker to; what is in it is
//! the affair of workers that have become its user.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};
use serde::{Deserialize, Serialize};

use crate::Host;
use crate::database::Database;
use crate::failure::Failure;
use crate::folder::{self, Missing};
use crate::lock::{self, LockError};

/// What the user database holds of one person: enough to make the account again as it was. It holds the hash of a
/// password, so it is written nowhere but into a file of root's, and shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLines {
    /// The line of `passwd`.
    pub passwd: String,
    /// The line of `shadow`.
    pub shadow: Option<String>,
    /// The line of the account's own group.
    pub group: Option<String>,
    /// The same in `gshadow`.
    pub gshadow: Option<String>,
    /// The other groups that it is in.
    pub member_of: Vec<String>,
    /// The lines of `subuid`.
    pub subuid: Vec<String>,
    /// The lines of `subgid`.
    pub subgid: Vec<String>,
}

impl fmt::Debug for AccountLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountLines").finish_non_exhaustive()
    }
}

/// What a process of somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

/// What somebody owns outside their home, as far as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// How many files and folders.
    pub count: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// Where people own things outside their homes. `/proc`, `/sys`, `/run` and other homes are not looked at.
const OUTSIDE: [&str; 8] =
    ["/tmp", "/var/tmp", "/var/spool", "/var/mail", "/var/lib", "/srv", "/opt", "/etc"];

/// More than a look may take: what is beyond is not counted.
const MOST_ENTRIES: u64 = 2_000_000;

/// How a home is called, beside its place, from the moment its archive is whole: this, the person and the archive's time.
pub const ASIDE: &str = ".rosterd-removed-";

/// The one of these names under which the home of somebody is aside.
pub fn aside_of<'n>(names: &'n [OsString], user: &str) -> Option<&'n str> {
    let before = format!("{ASIDE}{user}-");
    names.iter().filter_map(|name| name.to_str()).find(|name| {
        // Another person's name may begin with this one's and a hyphen.
        name.strip_prefix(&before).is_some_and(|stamp| !stamp.contains('-'))
    })
}

impl Host {
    /// What the user database holds of an account; nothing when there is none.
    pub fn account_lines(&self, user: &str) -> Result<Option<AccountLines>, Failure> {
        let etc = self.etc()?;
        Ok(Database::new(&crate::accounts::texts(&etc)?).lines_of(user))
    }

    /// Takes an account out of the user database, whole, if it is there with this uid.
    pub fn remove_account(&self, user: &str, uid: u32) -> Result<(), Failure> {
        self.change_accounts(|database| database.remove(user, uid))
    }

    /// Puts an account back that [`Host::remove_account`] took out.
    pub fn put_account_back(&self, user: &str, lines: &AccountLines) -> Result<(), Failure> {
        self.change_accounts(|database| database.put_back(user, lines))
    }

    fn change_accounts(
        &self,
        change: impl FnOnce(&mut Database) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let etc = self.etc()?;
        let stop = AtomicBool::new(false);
        let _lock = lock::take(&etc, self.lock_wait, &stop).map_err(|error| match error {
            LockError::Failed(failure) => failure,
            LockError::Stopped => Failure::new("it was stopped", "run it again"),
        })?;
        crate::accounts::rewrite(&etc, change)
    }

    fn etc(&self) -> Result<OwnedFd, Failure> {
        folder::open(self.root(), Path::new("/etc"), Missing::Fail).map_err(folder::FolderError::failure)
    }

    /// The folder of a home, to send a worker to: a real folder of this uid, on the file system of the homes.
    pub fn home_folder(&self, path: &Path, uid: u32) -> Result<OwnedFd, Failure> {
        let (base, name) = self.base(path)?;
        let home = openat(&base, name, O_FOLDER, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR => {
                Failure::new(format!("{} is not a real folder", path.display()), "look at it")
            }
            _ => Failure::io(format!("opening {}", path.display()), errno),
        })?;
        let io = |errno| Failure::io(format!("looking at {}", path.display()), errno);
        let (seen, above) = (fstat(&home).map_err(io)?, fstat(&base).map_err(io)?);
        if seen.st_uid != uid {
            let why = format!("{} belongs to uid {}, not to {uid}", path.display(), seen.st_uid);
            return Err(Failure::new(why, "find out whose it is"));
        }
        if seen.st_dev != above.st_dev {
            let why = format!("{} is a file system of its own", path.display());
            return Err(Failure::new(why, "unmount it, or remove the account by hand"));
        }
        Ok(home)
    }

    /// Whether anything stands at a path directly below the folder of the homes.
    pub fn stands(&self, path: &Path) -> Result<bool, Failure> {
        let (base, name) = self.base(path)?;
        match fstatat(&base, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Failure::io(format!("looking at {}", path.display()), errno)),
        }
    }

    /// The names in the folder of the homes.
    pub fn names_beside(&self, path: &Path) -> Result<Vec<OsString>, Failure> {
        let (base, _) = self.base(path)?;
        folder::names(&base).map_err(|error| Failure::io(format!("reading beside {}", path.display()), error))
    }

    /// Gives a folder another name beside. Nothing is ever replaced.
    pub fn move_folder(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        let (base, old) = self.base(from)?;
        let Some(new) = to.file_name().filter(|_| to.parent() == from.parent()) else {
            return Err(Failure::new("a folder of a home moves only beside itself", "report this"));
        };
        let io = |errno| Failure::io(format!("moving {} to {}", from.display(), to.display()), errno);
        renameat2(&base, old, &base, new, RenameFlags::RENAME_NOREPLACE).map_err(io)?;
        fsync(&base).map_err(io)
    }

    /// Makes an empty folder that only this uid may enter.
    pub fn make_folder(&self, path: &Path, (uid, gid): (u32, u32)) -> Result<(), Failure> {
        let (base, name) = self.base(path)?;
        let io = |errno| Failure::io(format!("making {}", path.display()), errno);
        mkdirat(&base, name, Mode::S_IRWXU).map_err(io)?;
        let made =
            openat(&base, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(io)?;
        fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(io)
    }

    /// Removes an empty folder; it is fine when there is none.
    pub fn remove_folder(&self, path: &Path) -> Result<(), Failure> {
        let (base, name) = self.base(path)?;
        match unlinkat(&base, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::ENOTEMPTY) => Err(Failure::new(
                format!("{} still holds something that its person could not remove", path.display()),
                "it is in the archive as far as it could be read: look at it and remove the folder by hand",
            )),
            Err(errno) => Err(Failure::io(format!("removing {}", path.display()), errno)),
        }
    }

    fn base<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Failure> {
        folder::open_parent(self.root(), path, Missing::Fail).map_err(folder::FolderError::failure)
    }

    /// A folder of root's and nobody else's, made when there is none.
    pub fn private_folder(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let (above, name) =
            folder::open_parent(self.root(), path, Missing::Create).map_err(folder::FolderError::failure)?;
        let io = |errno| Failure::io(format!("making {}", path.display()), errno);
        match mkdirat(&above, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(io(errno)),
        }
        let made = folder::open(self.root(), path, Missing::Fail).map_err(folder::FolderError::failure)?;
        let seen = fstat(&made).map_err(io)?;
        if seen.st_mode & 0o077 != 0 {
            return Err(Failure::new(
                format!("{} may be entered by others (mode {:04o})", path.display(), seen.st_mode & 0o7777),
                format!("close it: `chmod 700 {}`", path.display()),
            ));
        }
        Ok(made)
    }

    /// The processes of a uid, without its own idle manager, which logind keeps for a while after a session.
    pub fn processes(&self, uid: u32) -> Result<Vec<Process>, Failure> {
        let io = |error| Failure::io("reading /proc", error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").map_err(io)? {
            let entry = entry.map_err(io)?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that ended meanwhile has nothing to read.
            let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
            let ids = field("Uid:").unwrap_or_default();
            let cgroups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let manager = format!("/user@{uid}.service/init.scope");
            let is_manager = cgroups.lines().any(|line| line.ends_with(&manager));
            let is_zombie = field("State:").is_some_and(|state| state.trim_start().starts_with('Z'));
            if !is_zombie && !is_manager && ids.split_whitespace().any(|id| id.parse() == Ok(uid)) {
                let name = field("Name:").unwrap_or_default().trim().to_owned();
                found.push(Process { pid, name });
            }
        }
        Ok(found)
    }

    /// Ends all sessions of a uid and what is in its slice.
    pub fn end_sessions(&self, uid: u32) -> Result<(), Failure> {
        crate::sessions::end(uid)
    }

    /// Forgets that logind should start the manager of somebody at boot.
    pub fn forget_linger(&self, user: &str) -> Result<(), Failure> {
        match folder::open(self.root(), Path::new("/var/lib/systemd/linger"), Missing::Fail) {
            Ok(folder) => crate::files::remove(&folder, OsStr::new(user))
                .map_err(|errno| Failure::io("removing the linger file", errno)),
            Err(folder::FolderError::Absent(_)) => Ok(()),
            Err(error) => Err(error.failure()),
        }
    }

    /// What a uid owns in the places where people own things outside their homes. Only names and owners are looked at,
    /// from folder to folder by descriptor; no link is followed, and no other file system is entered.
    pub fn outside(&self, uid: u32, homes: &Path) -> Outside {
        let mut found = Outside::default();
        let mut seen = 0;
        for place in OUTSIDE.iter().map(Path::new).filter(|place| !homes.starts_with(place)) {
            let Ok((above, name)) = folder::open_parent(self.root(), place, Missing::Fail) else { continue };
            let Ok(folder) = openat(&above, name, O_LISTED, Mode::empty()) else { continue };
            let Ok(device) = fstat(&folder).map(|seen| seen.st_dev) else { continue };
            let mut ahead = vec![(folder, place.to_path_buf())];
            while let Some((folder, path)) = ahead.pop() {
                for name in folder::names(&folder).unwrap_or_default() {
                    seen += 1;
                    if seen > MOST_ENTRIES {
                        return found;
                    }
                    let Ok(entry) = fstatat(&folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                        continue;
                    };
                    if entry.st_uid == uid {
                        found.count += 1;
                        found.bytes += u64::try_from(entry.st_blocks).unwrap_or(0) * 512;
                        if found.first.len() < 10 {
                            found.first.push(path.join(&name).display().to_string());
                        }
                    }
                    let is_folder = folder::kind(&entry) == SFlag::S_IFDIR && entry.st_dev == device;
                    if is_folder
                        && ahead.len() < 512
                        && let Ok(inner) = openat(&folder, name.as_os_str(), O_LISTED, Mode::empty())
                    {
                        ahead.push((inner, path.join(&name)));
                    }
                }
            }
        }
        found
    }
}

const O_FOLDER: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const O_LISTED: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where a folder that is open is found by a child, whatever stands at its path by then.
pub fn path_of(folder: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}
