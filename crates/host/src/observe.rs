//! Reads the machine: every file once, every home by one look at its folder, whatever the number of people.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::User;
use roster::config::Config;
use roster::files::ClosedFolder;
use roster::model::Roster;
use roster::name::{OsUser, Shell};
use roster::observed::{EnvFileState, FileState, HomeFolder, HostObserved, PasswdEntry};
use roster::plan::{PANE_DROP_IN, SLICE_DROP_IN};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use crate::Host;
use crate::files::{self, Content, MAX_BYTES};
use crate::folder::{self, FolderError, Missing};
use crate::parse::{self, LoginDefs};
use crate::removal;
use crate::source::{self, SourceError};

/// As in a change of the database.
const MAX_DATABASE_BYTES: u64 = 64 << 20;

/// Why the machine could not be observed. A failed read is not an empty answer (invariant 8), so there is no
/// observation then, and nothing is concluded.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// `/etc` itself cannot be entered.
    #[error("cannot enter /etc: {why}; {next}")]
    Etc {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// A file that must be known cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file without which there is no machine holds nothing.
    #[error("{path} holds no entry at all: restore it (shadow's tools keep the one before in {path}-)")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Host {
    /// See [`crate::observe`].
    pub fn observe(&self, roster: &Roster, config: &Config) -> Result<HostObserved, ObserveError> {
        let etc = folder::open(self.root(), Path::new("/etc"), Missing::Fail).map_err(|error| {
            let failure = error.failure();
            ObserveError::Etc { why: failure.why, next: failure.next }
        })?;
        let accounts = parse::passwd(&text(&etc, "passwd")?.unwrap_or_default());
        if accounts.is_empty() {
            return Err(ObserveError::Empty { path: "/etc/passwd".into() });
        }
        let groups = parse::group(&text(&etc, "group")?.unwrap_or_default());
        if groups.is_empty() {
            return Err(ObserveError::Empty { path: "/etc/group".into() });
        }
        // Its bytes are gone with this line: nothing of a password is kept.
        let logins = files::read(&etc, OsStr::new("shadow"), MAX_DATABASE_BYTES)
            .map_err(|why| ObserveError::Unreadable { path: "/etc/shadow".into(), why })?
            .map(|content| parse::shadow(&content.bytes))
            .unwrap_or_default();
        let mut limits = LoginDefs::new(&linked_text(&etc, "login.defs")?.unwrap_or_default()).id_limits();
        // As for useradd: without the file, new accounts get no subordinate ids.
        let subuids = match text(&etc, "subuid")? {
            Some(text) => parse::subordinate(&text),
            None => {
                limits.sub_uid_count = 0;
                Vec::new()
            }
        };
        let subgids = match text(&etc, "subgid")? {
            Some(text) => parse::subordinate(&text),
            None => {
                limits.sub_gid_count = 0;
                Vec::new()
            }
        };
        let directory_services =
            parse::directory_services(&linked_text(&etc, "nsswitch.conf")?.unwrap_or_default());
        let (foreign_accounts, unanswered_accounts) = if directory_services.is_empty() {
            Default::default()
        } else {
            foreign_accounts(roster, &accounts)
        };
        let homes = self.homes(roster, config, &accounts);
        let mut folders = Folders::new(self.root());
        let maps = &config.maps;
        let generated =
            [&maps.ttyd_user_map, &maps.ttyd_admins, &maps.dispatch, &config.claude.managed_settings];
        let configured = config.file.iter().filter(|entry| entry.in_home().is_none());
        let configured: Vec<PathBuf> = configured.map(|entry| PathBuf::from(&entry.path)).collect();
        let files: BTreeMap<PathBuf, FileState> =
            generated.into_iter().chain(&configured).map(|path| (path.clone(), folders.file(path))).collect();
        let untouched = configured.into_iter().filter(|path| folders.is_untouched(path, files.get(path)));
        Ok(HostObserved {
            untouched: untouched.collect(),
            sources: roster::files::sources(config)
                .into_iter()
                .map(|path| (path.clone(), folders.source(path)))
                .collect(),
            files,
            managed_settings_source: config
                .claude
                .managed_settings_source
                .as_ref()
                .map(|path| folders.source(path)),
            closed_bases: self.closed_bases(config),
            env_files: env_files(&mut folders, roster, config),
            drop_ins: self.drop_ins(&mut folders)?,
            shells: self.shells(roster, config),
            accounts,
            groups,
            logins,
            subuids,
            subgids,
            limits,
            directory_services,
            foreign_accounts,
            unanswered_accounts,
            homes,
        })
    }

    /// The drop-ins of ours that bound slices and panes: known by their names, so that one of a person who left is
    /// seen too.
    fn drop_ins(&self, folders: &mut Folders<'_>) -> Result<BTreeMap<PathBuf, FileState>, ObserveError> {
        let (before, after) = SLICE_DROP_IN.split_once("{uid}").unwrap_or((SLICE_DROP_IN, ""));
        let units = Path::new(before).parent().unwrap_or(Path::new("/"));
        let mut paths = vec![PathBuf::from(PANE_DROP_IN)];
        for name in self.names_in(units)? {
            let uid = name.to_str().and_then(|name| name.strip_prefix("user-")?.strip_suffix(".slice.d"));
            if let Some(uid) = uid.filter(|uid| uid.parse::<u32>().is_ok()) {
                paths.push(format!("{before}{uid}{after}").into());
            }
        }
        let states = paths.into_iter().map(|path| (folders.file(&path), path));
        Ok(states
            .filter(|(state, _)| *state != FileState::Absent)
            .map(|(state, path)| (path, state))
            .collect())
    }

    /// Of what homes link to, what others cannot reach. Each folder on the way is looked at from outside; a link ends the
    /// look, because it may lead below a home, and so does a home's own folder (invariant 3).
    fn closed_bases(&self, config: &Config) -> BTreeMap<PathBuf, ClosedFolder> {
        let closed = |target: &PathBuf| {
            let mut way: Vec<&Path> = target.ancestors().collect();
            way.pop();
            for path in way.into_iter().rev() {
                let at = self.root().join(path.strip_prefix("/").unwrap_or(path));
                let seen = std::fs::symlink_metadata(at).ok().filter(|seen| seen.is_dir())?;
                let mode = seen.mode() & 0o7777;
                let wanted = if path == target { 0o005 } else { 0o001 };
                if mode & wanted != wanted {
                    return Some(ClosedFolder { folder: path.display().to_string(), mode });
                }
                if path.parent() == Some(&config.accounts.home_base) {
                    return None;
                }
            }
            None
        };
        let targets = roster::files::targets(config).into_iter();
        targets.filter_map(|target| Some((target.clone(), closed(target)?))).collect()
    }

    /// The names in a folder; none when there is no such folder.
    pub(crate) fn names_in(&self, path: &Path) -> Result<Vec<OsString>, ObserveError> {
        let unreadable = |why| ObserveError::Unreadable { path: path.to_path_buf(), why };
        match folder::open(self.root(), path, Missing::Fail) {
            Ok(folder) => folder::names(&folder).map_err(|error| unreadable(error.to_string())),
            Err(FolderError::Absent(_)) => Ok(Vec::new()),
            Err(error) => Err(unreadable(error.failure().why)),
        }
    }

    /// Of the shells that are named, those that can be run.
    fn shells(&self, roster: &Roster, config: &Config) -> BTreeSet<Shell> {
        let named: BTreeSet<&Shell> = config
            .accounts
            .shells
            .iter()
            .chain(roster.users.values().filter_map(|person| person.shell.as_ref()))
            .collect();
        named
            .into_iter()
            .filter(|shell| {
                let path = Path::new(shell.as_str());
                // Invariant 3, also for a shell that somebody keeps at home.
                if path.starts_with(&config.accounts.home_base) {
                    return false;
                }
                let path = self.root().join(path.strip_prefix("/").unwrap_or(path));
                std::fs::metadata(path).is_ok_and(|seen| seen.is_file() && seen.mode() & 0o111 != 0)
            })
            .cloned()
            .collect()
    }

    /// What stands in the place of each home. Only the folder's own entry is looked at, from outside.
    fn homes(
        &self,
        roster: &Roster,
        config: &Config,
        accounts: &BTreeMap<String, PasswdEntry>,
    ) -> BTreeMap<OsUser, HomeFolder> {
        let mut folders = Folders::new(self.root());
        let mut homes = BTreeMap::new();
        for user in roster.users.keys() {
            let path = match accounts.get(user.as_str()) {
                Some(entry) => entry.home.clone(),
                None => config.accounts.home_base.join(user.as_str()),
            };
            let seen = match folders.home(&path) {
                HomeFolder::Absent => match folders.aside(&path, user) {
                    Ok(aside) => aside.map_or(HomeFolder::Absent, HomeFolder::Aside),
                    // Invariant 8: it is not known whether the home is beside, so nothing is said of it.
                    Err(_) => continue,
                },
                seen => seen,
            };
            homes.insert(user.clone(), seen);
        }
        homes
    }
}

/// Folders that were opened once, and listed once, by path.
struct Folders<'a> {
    root: &'a Path,
    open: BTreeMap<PathBuf, Result<OwnedFd, FolderError>>,
    names: BTreeMap<PathBuf, Vec<OsString>>,
}

impl<'a> Folders<'a> {
    fn new(root: &'a Path) -> Folders<'a> {
        Folders { root, open: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// The folder of `path` and the name in it; nothing when there is no such folder.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<Option<(&OwnedFd, &'p OsStr)>, String> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err("it is no path of a file".into());
        };
        let folder = self
            .open
            .entry(parent.to_path_buf())
            .or_insert_with(|| folder::open(self.root, parent, Missing::Fail));
        match folder {
            Ok(folder) => Ok(Some((folder, name))),
            Err(FolderError::Absent(_)) => Ok(None),
            Err(FolderError::Io { path, source }) => {
                Err(format!("entering {}: {}", path.display(), source.desc()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn read(&mut self, path: &Path) -> Result<Option<Content>, String> {
        match self.parent(path)? {
            Some((folder, name)) => files::read(folder, name, MAX_BYTES),
            None => Ok(None),
        }
    }

    fn file(&mut self, path: &Path) -> FileState {
        state(self.read(path))
    }

    /// Whether a file that was read is as it was written here.
    fn is_untouched(&mut self, path: &Path, state: Option<&FileState>) -> bool {
        match (state, self.parent(path)) {
            (Some(FileState::Present { content, .. }), Ok(Some((folder, name)))) => {
                files::is_untouched(folder, name, content)
            }
            _ => false,
        }
    }

    /// The same for what goes into everybody's home or decides for everybody: whoever writes it has root's power.
    fn source(&mut self, path: &Path) -> FileState {
        let read = match self.parent(path) {
            Ok(Some((folder, name))) => source::read_in(folder, name, path),
            Ok(None) => return FileState::Absent,
            Err(why) => return FileState::Unreadable(why),
        };
        match read {
            Ok((content, mode)) => FileState::Present { content, mode },
            Err(SourceError::Absent(_)) => FileState::Absent,
            Err(SourceError::Refused(failure)) => {
                FileState::Unreadable(format!("{}; {}", failure.why, failure.next))
            }
        }
    }

    /// Where a removal that was interrupted has put a home that is not in its place. However many homes there are, their
    /// folder is listed once.
    fn aside(&mut self, path: &Path, user: &OsUser) -> Result<Option<String>, String> {
        let Some(parent) = path.parent() else { return Ok(None) };
        if !self.names.contains_key(parent) {
            let names = match self.parent(path)? {
                Some((folder, _)) => folder::names(folder).map_err(|error| error.to_string())?,
                None => Vec::new(),
            };
            self.names.insert(parent.to_path_buf(), names);
        }
        let names = self.names.get(parent).map(Vec::as_slice).unwrap_or_default();
        Ok(removal::aside_of(names, user.as_str()).map(str::to_owned))
    }

    fn home(&mut self, path: &Path) -> HomeFolder {
        let (folder, name) = match self.parent(path) {
            Ok(Some(place)) => place,
            Ok(None) => return HomeFolder::Absent,
            Err(why) => return HomeFolder::Other(format!("out of root's reach ({why})")),
        };
        // What the kernel knows already: a person may mount a file system on their home whose server never answers,
        // and everybody would wait for it.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID;
        match rustix::fs::statx(folder, name, flags, wanted) {
            Err(Errno::NOENT) => HomeFolder::Absent,
            Err(error) => {
                let why = nix::errno::Errno::from_raw(error.raw_os_error()).desc();
                HomeFolder::Other(format!("out of root's reach ({why})"))
            }
            Ok(seen) if FileType::from_raw_mode(seen.stx_mode.into()) == FileType::Directory => {
                HomeFolder::Folder { uid: seen.stx_uid, mode: u32::from(seen.stx_mode) & 0o7777 }
            }
            Ok(seen) => HomeFolder::Other(folder::kind_name(seen.stx_mode.into()).into()),
        }
    }
}

fn state(read: Result<Option<Content>, String>) -> FileState {
    match read {
        Ok(Some(content)) => FileState::Present { content: content.bytes, mode: content.mode },
        Ok(None) => FileState::Absent,
        Err(why) => FileState::Unreadable(why),
    }
}

/// The environment files of every service and person; of their content, only the ports are kept.
fn env_files(folders: &mut Folders<'_>, roster: &Roster, config: &Config) -> BTreeMap<PathBuf, EnvFileState> {
    let mut keys: BTreeMap<PathBuf, BTreeSet<&str>> = BTreeMap::new();
    for at in config.service.iter().filter_map(|service| service.port()) {
        for user in roster.users.keys() {
            keys.entry(at.env_file_of(user)).or_default().insert(at.key);
        }
    }
    keys.into_iter()
        .map(|(path, keys)| {
            let state = match folders.file(&path) {
                FileState::Absent => EnvFileState::Absent,
                FileState::Unreadable(why) => EnvFileState::Unreadable(why),
                FileState::Present { content, mode } => match String::from_utf8(content) {
                    Err(_) => EnvFileState::Unreadable("it is not UTF-8".into()),
                    Ok(text) => EnvFileState::Present {
                        ports: keys
                            .into_iter()
                            .filter_map(|key| Some((key.to_string(), value_of(&text, key)?)))
                            .collect(),
                        mode,
                    },
                },
            };
            (path, state)
        })
        .collect()
}

/// The value of a key in an environment file.
fn value_of(text: &str, key: &str) -> Option<String> {
    let mut values =
        text.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| name.trim() == key);
    values.next_back().map(|(_, value)| value.trim().trim_matches('"').to_string())
}

/// Names that are no local account but that a directory service knows. Asked name by name: listing a directory
/// may be forbidden, and is slow. The second map holds those it gave no answer for (invariant 8).
fn foreign_accounts(
    roster: &Roster,
    accounts: &BTreeMap<String, PasswdEntry>,
) -> (BTreeMap<OsUser, u32>, BTreeMap<OsUser, String>) {
    let (mut foreign, mut unanswered) = (BTreeMap::new(), BTreeMap::new());
    for user in roster.users.keys().filter(|user| !accounts.contains_key(user.as_str())) {
        match User::from_name(user.as_str()) {
            Ok(Some(found)) => drop(foreign.insert(user.clone(), found.uid.as_raw())),
            Ok(None) => {}
            Err(errno) => drop(unanswered.insert(user.clone(), errno.desc().to_owned())),
        }
    }
    (foreign, unanswered)
}

/// A text of `/etc`; nothing when there is no such file.
fn text(etc: &OwnedFd, name: &str) -> Result<Option<String>, ObserveError> {
    words(name, files::read(etc, OsStr::new(name), MAX_DATABASE_BYTES))
}

/// The same for a file that an admin may have made a link.
fn linked_text(etc: &OwnedFd, name: &str) -> Result<Option<String>, ObserveError> {
    words(name, files::read_linked(etc, OsStr::new(name), MAX_BYTES))
}

fn words(name: &str, read: Result<Option<Content>, String>) -> Result<Option<String>, ObserveError> {
    match read {
        Ok(content) => Ok(content.map(|content| String::from_utf8_lossy(&content.bytes).into_owned())),
        Err(why) => Err(ObserveError::Unreadable { path: Path::new("/etc").join(name), why }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_folder_of_the_homes_is_listed_once_for_all_that_are_absent() {
        let machine = tempfile::tempdir().unwrap();
        let aside = |name: &str| machine.path().join("home").join(format!("{}{name}-1", removal::ASIDE));
        fs::create_dir_all(aside("ann")).unwrap();
        let mut folders = Folders::new(machine.path());
        let mut look =
            |name: &str| folders.aside(&Path::new("/home").join(name), &OsUser::new(name).unwrap()).unwrap();
        assert_eq!(look("ann").as_deref(), Some(".rosterd-removed-ann-1"));
        assert_eq!(look("bea"), None);
        // What comes after the listing is seen by a later one only.
        fs::create_dir(aside("bea")).unwrap();
        assert_eq!(look("bea"), None);
        let bea = OsUser::new("bea").unwrap();
        let anew = Folders::new(machine.path()).aside(Path::new("/home/bea"), &bea).unwrap();
        assert_eq!(anew.as_deref(), Some(".rosterd-removed-bea-1"));
    }
}
