//! One person's snapshots on disk. The folder belongs to that person, and only a process that is that person reads or
//! writes it.
//!
//! ```text
//! <state>/users/<user>/        0700, the person's
//!   lock                       held by whoever saves, restores or forgets
//!   newest -> snapshots/<ts>   what a restore takes; a symlink, replaced by rename once that file is whole and synced
//!   snapshots/<ts>             one capture each, the newest 200; 0600, written beside, synced and renamed
//!   scrollback/<ts>/           what the panes showed, if configured; 0600
//!   forgotten                  `name <TAB> seconds`: sessions closed on purpose
//!   panes                      in which pane each conversation was seen last
//!   carried-over               there once what the earlier layout held has been taken over
//! ```
//! Other files are nobody's business and stay as they are.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::format::{self, FormatError, HEAD, MAX_FILE, decode, encode};
use crate::model::{Moment, Session, SessionName, Snapshot};
use crate::places::Places;
use crate::plan::Live;
use crate::series::{Tombstones, lacks_most};

/// How long one save waits for another.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the snapshot {} cannot be used", path.display())]
    Unusable { path: PathBuf, source: FormatError },
    #[error("another save or restore has held {} for {} s", path.display(), LOCK_PATIENCE.as_secs())]
    Locked { path: PathBuf },
}

/// One person's folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    /// The folder of a person below `state`.
    pub(crate) fn place(state: &Path, user: &str) -> PathBuf {
        state.join("users").join(user)
    }

    /// Opens the folder; makes it where whoever asks may.
    pub(crate) fn open(dir: PathBuf) -> Result<Store, StoreError> {
        let snapshots = dir.join("snapshots");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&snapshots)
            .map_err(|source| StoreError::Write { path: snapshots, source })?;
        Ok(Store { dir })
    }

    /// Waits until nobody else saves or restores. Released when the answer is dropped.
    pub(crate) fn lock(&self) -> Result<Flock<File>, StoreError> {
        let path = self.dir.join("lock");
        let mut file = options(true)
            .create(true)
            .open(&path)
            .map_err(|source| StoreError::Write { path: path.clone(), source })?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, _)) if Instant::now() > until => return Err(StoreError::Locked { path }),
                Err((unlocked, _)) => file = unlocked,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The names of all snapshots, the oldest first.
    pub(crate) fn moments(&self) -> Result<Vec<Moment>, StoreError> {
        let path = self.dir.join("snapshots");
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let mut moments = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                moments.extend(entry.file_name().to_str().and_then(Moment::parse));
            }
        }
        moments.sort_unstable();
        Ok(moments)
    }

    /// How many sessions a snapshot has, if its file has the size that its beginning says.
    pub(crate) fn sessions_in(&self, taken: Moment) -> Result<usize, StoreError> {
        let path = self.path(taken);
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let mut beginning = [0; HEAD];
        let mut file = options(false).open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let read = file.read(&mut beginning).map_err(failed)?;
        match format::sessions_in(beginning.get(..read).unwrap_or_default(), size) {
            Ok(Some(sessions)) => Ok(sessions),
            Ok(None) => Ok(self.read(taken)?.sessions.len()),
            Err(source) => Err(StoreError::Unusable { path, source }),
        }
    }

    /// A snapshot.
    pub(crate) fn read(&self, taken: Moment) -> Result<Snapshot, StoreError> {
        let file = self.file(taken)?;
        let snapshot =
            decode(&file).map_err(|source| StoreError::Unusable { path: self.path(taken), source })?;
        // The name is what tells the order.
        Ok(Snapshot { taken, ..snapshot })
    }

    /// A snapshot's file.
    pub(crate) fn file(&self, taken: Moment) -> Result<Vec<u8>, StoreError> {
        let path = self.path(taken);
        read_all(&path).map_err(|source| StoreError::Read { path, source })
    }

    /// The snapshot that a restore takes: the one that `newest` names, or the newest one before it that is whole and was
    /// not held back when it was taken, because most of what was there before it was missing.
    pub(crate) fn promoted(&self) -> Result<Option<Snapshot>, StoreError> {
        let pointed = self.pointed();
        if let Some(pointed) = pointed
            && let Some(snapshot) = whole(self.read(pointed))?
        {
            return Ok(Some(snapshot));
        }
        let mut found: Option<Snapshot> = None;
        let before = |taken: &Moment| pointed.is_none_or(|pointed| *taken < pointed);
        for taken in self.moments()?.into_iter().filter(before).rev() {
            let Some(snapshot) = whole(self.read(taken))? else { continue };
            if found.as_ref().is_some_and(|found| {
                !lacks_most(&found.sessions, snapshot.sessions.iter().map(Session::panes).sum())
            }) {
                break;
            }
            found = Some(snapshot);
        }
        Ok(found)
    }

    /// The newest snapshot that is whole.
    pub(crate) fn stored(&self) -> Result<Option<Snapshot>, StoreError> {
        self.newest_whole(self.moments()?.into_iter())
    }

    fn newest_whole(
        &self,
        moments: impl DoubleEndedIterator<Item = Moment>,
    ) -> Result<Option<Snapshot>, StoreError> {
        for taken in moments.rev() {
            if let Some(snapshot) = whole(self.read(taken))? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// What `newest` names, if that is there.
    pub(crate) fn pointed(&self) -> Option<Moment> {
        let target = fs::read_link(self.dir.join("newest")).ok()?;
        let taken = Moment::parse(target.strip_prefix("snapshots").ok()?.to_str()?)?;
        self.path(taken).is_file().then_some(taken)
    }

    /// Writes a snapshot. When this returns, it survives a power loss.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let path = self.path(snapshot.taken);
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let content = encode(snapshot).map_err(|error| failed(error.into()))?;
        self.replace(&path, &content).map_err(failed)
    }

    /// Writes snapshots of the earlier layout, all of them synced at once, and leaves those alone that are there.
    pub(crate) fn take_over(&self, snapshots: &[Snapshot]) -> Result<(), StoreError> {
        for snapshot in snapshots {
            let path = self.path(snapshot.taken);
            let failed = |source| StoreError::Write { path: path.clone(), source };
            if path.exists() {
                continue;
            }
            let beside = self.dir.join("snapshots/.carried-over.new");
            remove_if_there(&beside).map_err(failed)?;
            let content = encode(snapshot).map_err(|error| failed(error.into()))?;
            let written = options(true).create_new(true).open(&beside).and_then(|mut file| {
                file.write_all(&content)?;
                file.sync_data()?;
                fs::rename(&beside, &path)
            });
            if written.is_err() {
                let _ = fs::remove_file(&beside);
            }
            written.map_err(failed)?;
        }
        let path = self.dir.join("snapshots");
        sync_folder(&path).map_err(|source| StoreError::Write { path, source })
    }

    /// Makes `newest` name a snapshot, which is whole and synced.
    pub(crate) fn promote(&self, taken: Moment) -> Result<(), StoreError> {
        let path = self.dir.join("newest");
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let beside = self.dir.join(".newest.new");
        remove_if_there(&beside).map_err(failed)?;
        std::os::unix::fs::symlink(format!("snapshots/{taken}"), &beside).map_err(failed)?;
        fs::rename(&beside, &path).and_then(|()| sync_folder(&self.dir)).map_err(failed)
    }

    /// Keeps the newest `keep` snapshots, and the one that a restore takes.
    pub(crate) fn prune(&self, keep: usize) -> Result<usize, StoreError> {
        let moments = self.moments()?;
        let pointed = self.pointed();
        let surplus = moments.len().saturating_sub(keep);
        let mut removed = 0;
        for taken in moments.into_iter().take(surplus).filter(|taken| Some(*taken) != pointed) {
            let path = self.path(taken);
            remove_if_there(&path).map_err(|source| StoreError::Write { path, source })?;
            let scrollback = self.scrollback(taken);
            match fs::remove_dir_all(&scrollback) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Write { path: scrollback, source });
                }
                _ => removed += 1,
            }
        }
        Ok(removed)
    }

    /// The sessions that were closed on purpose.
    pub(crate) fn tombstones(&self) -> Result<Tombstones, StoreError> {
        let path = self.dir.join("forgotten");
        match read_all(&path) {
            Ok(content) => Ok(Tombstones::new(format::tombstones(&content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Tombstones::default()),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// Records a close. Records that no snapshot needs any more go.
    pub(crate) fn bury(&self, name: &SessionName, at: Moment) -> Result<(), StoreError> {
        let before = self.tombstones()?;
        let oldest = self.moments()?.first().copied().unwrap_or(Moment(i64::MIN));
        let others = before.since(oldest).filter(|(other, _)| *other != name);
        self.write_tombstones(others.chain([(name, at)]))
    }

    /// Ends the records of sessions that are live; what is left.
    pub(crate) fn unbury(&self, live: &[Session]) -> Result<Tombstones, StoreError> {
        let before = self.tombstones()?;
        let left = before.clone().without(live);
        if left != before {
            self.write_tombstones(left.iter())?;
        }
        Ok(left)
    }

    fn write_tombstones<'a>(
        &self,
        records: impl Iterator<Item = (&'a SessionName, Moment)>,
    ) -> Result<(), StoreError> {
        let text: String = records.map(|(name, at)| format!("{name}\t{}\n", at.0)).collect();
        let path = self.dir.join("forgotten");
        self.replace(&path, text.as_bytes()).map_err(|source| StoreError::Write { path, source })
    }

    /// In which pane each conversation was seen last. A file that cannot be read tells nothing.
    pub(crate) fn places(&self) -> Places {
        let read = read_all(&self.dir.join("panes"));
        read.ok().and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
    }

    /// Records it, if it is something else than before.
    pub(crate) fn remember(&self, live: &Live) -> Result<(), StoreError> {
        let before = self.places();
        let places = before.clone().with(live);
        if places == before {
            return Ok(());
        }
        let path = self.dir.join("panes");
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let content = serde_json::to_vec(&places).map_err(|error| failed(error.into()))?;
        self.replace(&path, &content).map_err(failed)
    }

    /// Whether the earlier layout has been taken over.
    pub(crate) fn is_carried_over(&self) -> bool {
        self.dir.join("carried-over").exists()
    }

    /// Records that it has.
    pub(crate) fn carried_over(&self) -> Result<(), StoreError> {
        let path = self.dir.join("carried-over");
        self.replace(&path, b"").map_err(|source| StoreError::Write { path, source })
    }

    /// Where the screens of a snapshot lie.
    pub(crate) fn scrollback(&self, taken: Moment) -> PathBuf {
        self.dir.join("scrollback").join(taken.to_string())
    }

    /// Writes one pane's screen, if it shows something else than before.
    pub(crate) fn write_screen(&self, taken: Moment, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let dir = self.scrollback(taken);
        let path = dir.join(name);
        let failed = |source| StoreError::Write { path: path.clone(), source };
        if read_all(&path).is_ok_and(|before| before == content) {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        self.replace(&path, content).map_err(failed)
    }

    /// Removes all screens.
    pub(crate) fn drop_screens(&self) -> Result<(), StoreError> {
        let path = self.dir.join("scrollback");
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// A file for one command, such as the script of a restore.
    pub(crate) fn write_file(&self, name: &str, content: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(name);
        self.replace(&path, content).map_err(|source| StoreError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    /// Removes such a file.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        remove_if_there(&path).map_err(|source| StoreError::Write { path, source })
    }

    fn path(&self, taken: Moment) -> PathBuf {
        self.dir.join("snapshots").join(taken.to_string())
    }

    /// Beside, synced, renamed. A disk that is full leaves what was there.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(".new");
        let beside = folder.join(beside);
        remove_if_there(&beside)?;
        let written = options(true)
            .create_new(true)
            .open(&beside)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| sync_folder(folder));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

/// What was read of one snapshot; none when that one is damaged or gone and the others go on: its content or its file
/// cannot be read by its owner. When nothing can be read, as without memory, nothing is concluded.
pub(crate) fn whole<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    let of_file = |errno: Option<i32>| {
        [Errno::EACCES, Errno::EIO, Errno::EISDIR, Errno::ELOOP, Errno::ENOENT, Errno::EUCLEAN]
            .iter()
            .any(|known| errno == Some(*known as i32))
    };
    match read {
        Ok(read) => Ok(Some(read)),
        Err(StoreError::Unusable { .. }) => Ok(None),
        Err(StoreError::Read { source, .. }) if of_file(source.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn options(write: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(!write).write(write).mode(0o600);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    options(false).open(path)?.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::Folder;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("ann")).unwrap();
        (dir, store)
    }

    fn snapshot(taken: i64, names: &str) -> Snapshot {
        let text: String = names.split(' ').map(|name| format!("{name}\t/srv\t-\n")).collect();
        format::from_tsv(Moment(taken), text.as_bytes(), &Folder::new("/home/ann").unwrap())
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written_by_its_owner_alone() {
        let (dir, store) = store();
        store.write(&snapshot(100, "a b")).unwrap();
        assert_eq!(store.read(Moment(100)).unwrap(), snapshot(100, "a b"));
        assert_eq!(store.sessions_in(Moment(100)).unwrap(), 2);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("ann")), 0o700);
        assert_eq!(mode(&store.path(Moment(100))), 0o600);
    }

    #[test]
    fn newest_never_names_a_file_that_is_not_whole() {
        let (_dir, store) = store();
        assert_eq!(store.promoted().unwrap(), None);
        store.write(&snapshot(100, "a")).unwrap();
        store.write(&snapshot(200, "b")).unwrap();
        store.promote(Moment(200)).unwrap();
        store.write(&snapshot(300, "c")).unwrap();
        assert_eq!(store.promoted().unwrap(), Some(snapshot(200, "b")));
        assert_eq!(store.stored().unwrap(), Some(snapshot(300, "c")));
        // Damaged by the disk: the one before.
        fs::write(store.path(Moment(200)), "{\"format\":\"rosterd-tmux\",\"ver").unwrap();
        assert_eq!(store.promoted().unwrap(), Some(snapshot(100, "a")));
        // Not one that was held back: of what was there before it, most was missing.
        let many = ["c", "d", "e"].map(|name| snapshot(50, name).sessions.remove(0));
        store.write(&Snapshot { taken: Moment(50), sessions: many.to_vec() }).unwrap();
        assert_eq!(store.promoted().unwrap().unwrap().taken, Moment(50));
        fs::remove_file(store.path(Moment(50))).unwrap();
        // What cannot be opened is no better.
        fs::remove_file(store.path(Moment(200))).unwrap();
        nix::unistd::mkfifo(&store.path(Moment(200)), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(store.promoted().unwrap(), Some(snapshot(300, "c")), "a pointer to no file is none");
        fs::remove_file(store.path(Moment(200))).unwrap();
        store.write(&snapshot(200, "b")).unwrap();
        // Cut at the end of a line, as by a disk that was full: the list tells it as well.
        let file = fs::read(store.path(Moment(300))).unwrap();
        let line = file.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in [0, 10, line, file.len() - 1] {
            fs::write(store.path(Moment(300)), &file[..length]).unwrap();
            assert!(store.sessions_in(Moment(300)).is_err(), "{length}");
            assert_eq!(store.stored().unwrap(), Some(snapshot(200, "b")), "{length}");
        }
        fs::write(store.path(Moment(300)), &file).unwrap();
        // A pointer that leads nowhere, or out of the folder, is none.
        for target in ["snapshots/20000101T000000", "../../etc/passwd", "snapshots/../lock"] {
            fs::remove_file(store.dir.join("newest")).unwrap();
            std::os::unix::fs::symlink(target, store.dir.join("newest")).unwrap();
            assert_eq!(store.promoted().unwrap(), Some(snapshot(300, "c")), "{target}");
        }
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let (_dir, store) = store();
        store.write(&snapshot(100, "a")).unwrap();
        let snapshots = store.dir.join("snapshots");
        for name in ["notes.txt", "20260301T120000.tsv", ".20260301T120000.new", "20269999T999999"] {
            fs::write(snapshots.join(name), "x").unwrap();
        }
        fs::create_dir(snapshots.join("20260301T120001")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", snapshots.join("20260301T120002")).unwrap();
        assert_eq!(store.moments().unwrap(), [Moment(100)]);
        assert!(store.read(Moment::parse("20260301T120002").unwrap()).is_err());
        assert_eq!(store.stored().unwrap(), Some(snapshot(100, "a")));
    }

    #[test]
    fn the_newest_are_kept_and_the_one_that_a_restore_takes() {
        let (_dir, store) = store();
        for taken in 1..=10 {
            store.write(&snapshot(taken, "a")).unwrap();
        }
        store.promote(Moment(2)).unwrap();
        store.write_screen(Moment(1), "a.0.0", b"x").unwrap();
        assert_eq!(store.prune(3).unwrap(), 6);
        assert_eq!(store.moments().unwrap(), [2, 8, 9, 10].map(Moment));
        assert!(!store.scrollback(Moment(1)).exists());
    }

    #[test]
    fn closes_are_recorded_as_long_as_they_matter() {
        let (_dir, store) = store();
        let name = |name| SessionName::new(name).unwrap();
        store.bury(&name("a"), Moment(5)).unwrap();
        store.bury(&name("b"), Moment(6)).unwrap();
        store.write(&snapshot(6, "x")).unwrap();
        store.bury(&name("a"), Moment(9)).unwrap();
        let closed = store.tombstones().unwrap();
        assert_eq!(closed.closed_at(&name("a"), Moment(6)), Some(Moment(9)));
        assert_eq!(fs::read_to_string(store.dir.join("forgotten")).unwrap(), "a\t9\n");
    }
}
