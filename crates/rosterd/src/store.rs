//! Where the ledger is kept: `/var/lib/rosterd`. Touches that folder and nothing else.
//!
//! ```text
//! ledger.json        {format, sha256, ledger}; replaced by rename, so it is whole or it is the one before
//! ledger.json.prev   the one before
//! ledger.json.damaged  one that could not be used, for whoever finds out why
//! runs/<id>.json     one run each, the newest 500
//! ```
//! A ledger that cannot be read is never taken for an empty one: that would give the ids of people who left to
//! others and forget who is cut (NixOS lost its uid-map to a full disk that way: nixpkgs#229194).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roster::ledger::Ledger;
use roster::report::Run;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How many runs are kept: about three weeks of hourly ticks.
const RUNS_KEPT: usize = 500;

const FORMAT: u32 = 1;

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} is of format {found}; this rosterd reads format {FORMAT}", path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("another rosterd works with {}", dir.display())]
    InUse { dir: PathBuf },
    #[error("{} has runs but no ledger", dir.display())]
    Lost { dir: PathBuf },
}

/// The folder of the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Locked as long as it is open: two daemons would each forget what the other gave out.
    _lock: Arc<File>,
}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    format: u32,
    sha256: String,
    ledger: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct EnvelopeIn {
    format: u32,
    sha256: String,
    ledger: Box<serde_json::value::RawValue>,
}

impl Store {
    /// Opens the folder, which systemd's `StateDirectory=` has made.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let runs = dir.join("runs");
        let failed = |source| StoreError::Write { path: runs.clone(), source };
        fs::create_dir_all(&runs).map_err(failed)?;
        let lock = File::open(dir).map_err(|source| StoreError::Read { path: dir.into(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { dir: dir.into() }),
            Err(fs::TryLockError::Error(source)) => {
                return Err(StoreError::Write { path: dir.into(), source });
            }
        }
        for entry in fs::read_dir(&runs).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.as_os_str().as_encoded_bytes().ends_with(b".json.new") {
                // Half a record of a run that was killed.
                remove_if_there(&path).map_err(failed)?;
            }
        }
        Ok(Self { dir: dir.to_path_buf(), _lock: Arc::new(lock) })
    }

    /// The ledger and, when the newest copy was damaged, what was wrong with it; the damaged one is put aside.
    pub(crate) fn load(&self) -> Result<(Ledger, Option<StoreError>), StoreError> {
        let newest = self.dir.join("ledger.json");
        let before = self.dir.join("ledger.json.prev");
        let damaged = match read_ledger(&newest) {
            Ok(Some(ledger)) => return Ok((ledger, None)),
            Ok(None) => None,
            // Not damaged: a later version's, and the copy before it is older than what was given out since.
            Err(error @ StoreError::Format { .. }) => return Err(error),
            Err(error) => Some(error),
        };
        match (read_ledger(&before), damaged) {
            (Ok(Some(ledger)), damaged) => {
                if damaged.is_some() {
                    let aside = self.dir.join("ledger.json.damaged");
                    fs::rename(&newest, &aside)
                        .map_err(|source| StoreError::Write { path: aside, source })?;
                }
                let gone = || StoreError::Damaged { path: newest, what: "it is gone".into() };
                Ok((ledger, Some(damaged.unwrap_or_else(gone))))
            }
            (_, Some(damaged)) => Err(damaged),
            (Err(error), None) => Err(error),
            (Ok(None), None) if self.run_ids()?.is_empty() => {
                // Written at once: runs are kept also while there is no roster, and runs without a ledger look like
                // a lost one.
                let ledger = Ledger::default();
                self.save(&ledger)?;
                Ok((ledger, None))
            }
            (Ok(None), None) => Err(StoreError::Lost { dir: self.dir.clone() }),
        }
    }

    /// Replaces the ledger. When this returns, the new one survives a power loss.
    pub(crate) fn save(&self, ledger: &Ledger) -> Result<(), StoreError> {
        let path = self.dir.join("ledger.json");
        self.save_by(ledger, &mut || Ok(())).map_err(|source| StoreError::Write { path, source })
    }

    /// `next` is called before each call that changes the folder: a test lets it fail there. At every one of them
    /// there is a good ledger under one of the two names that [`Store::load`] reads.
    fn save_by(&self, ledger: &Ledger, next: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let path = self.dir.join("ledger.json");
        let body = serde_json::value::to_raw_value(ledger)?;
        let envelope = EnvelopeOut { format: FORMAT, sha256: checksum(body.get()), ledger: &body };
        let text = serde_json::to_vec(&envelope)?;
        let beside = write_beside(&path, &text, next)?;
        // One that does not verify never takes the place of the good one before.
        if let Ok(Some(_)) = read_ledger(&path) {
            let link = self.dir.join("ledger.json.prev.new");
            next()?;
            remove_if_there(&link)?;
            next()?;
            fs::hard_link(&path, &link)?;
            next()?;
            fs::rename(&link, self.dir.join("ledger.json.prev"))?;
            // When both are one file, as after a kill right here, rename(2) does nothing and leaves the first.
            next()?;
            remove_if_there(&link)?;
        }
        next()?;
        fs::rename(&beside, &path)?;
        next()?;
        sync_folder_of(&path)
    }

    /// Keeps the record of a run and drops the oldest ones.
    pub(crate) fn keep_run(&self, run: &Run) -> Result<(), StoreError> {
        let path = self.run_path(&run.id);
        let failed = |source| StoreError::Write { path: path.clone(), source };
        let text = serde_json::to_vec(run).map_err(|error| failed(error.into()))?;
        // Somebody may have removed the folder, and the runs in it are no state.
        fs::create_dir_all(self.dir.join("runs")).map_err(failed)?;
        replace(&path, &text).map_err(failed)?;
        let ids = self.run_ids()?;
        for old in ids.iter().take(ids.len().saturating_sub(RUNS_KEPT)) {
            let path = self.run_path(old);
            fs::remove_file(&path).map_err(|source| StoreError::Write { path, source })?;
        }
        Ok(())
    }

    /// Where the cluster's list of people is kept.
    pub(crate) fn map_path(&self) -> PathBuf {
        self.dir.join("k8s_users.json")
    }

    /// Keeps the cluster's list of people; whether it is another one than before.
    pub(crate) fn keep_map(&self, text: &str) -> Result<bool, StoreError> {
        let path = self.map_path();
        if fs::read(&path).is_ok_and(|before| before == text.as_bytes()) {
            return Ok(false);
        }
        replace(&path, text.as_bytes()).map_err(|source| StoreError::Write { path, source })?;
        Ok(true)
    }

    /// The identifiers of all runs, the oldest first.
    pub(crate) fn run_ids(&self) -> Result<Vec<String>, StoreError> {
        let path = self.dir.join("runs");
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
                && let Some(id) = name.strip_suffix(".json")
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// One run; nothing when there is no such run.
    pub(crate) fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        // Identifiers come from the socket: only our own alphabet reaches a path.
        if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(None);
        }
        let path = self.run_path(id);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| StoreError::Damaged { path, what: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    fn run_path(&self, id: &str) -> PathBuf {
        self.dir.join("runs").join(format!("{id}.json"))
    }
}

fn read_ledger(path: &Path) -> Result<Option<Ledger>, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path: path.to_path_buf(), source }),
    };
    let damaged = |what: String| StoreError::Damaged { path: path.to_path_buf(), what };
    let envelope: EnvelopeIn = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if envelope.format != FORMAT {
        return Err(StoreError::Format { path: path.to_path_buf(), found: envelope.format });
    }
    if checksum(envelope.ledger.get()) != envelope.sha256 {
        return Err(damaged("its checksum does not fit".into()));
    }
    serde_json::from_str(envelope.ledger.get()).map(Some).map_err(|error| damaged(error.to_string()))
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes beside, syncs, renames, syncs the folder.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, text, &mut || Ok(()))?;
    fs::rename(&beside, path)?;
    sync_folder_of(path)
}

/// Writes and syncs the file that will take the place of `path`. Its name is fixed, so a kill leaves at most one
/// stray file, which the next write takes over.
fn write_beside(path: &Path, text: &[u8], next: &mut dyn FnMut() -> io::Result<()>) -> io::Result<PathBuf> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    next()?;
    remove_if_there(&beside)?;
    next()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let mut write = || {
        next()?;
        file.write_all(text)?;
        next()?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // What did not fit takes no place away from what will.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    Ok(beside)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(generation: u64) -> Ledger {
        Ledger { generation, ..Ledger::default() }
    }

    #[test]
    fn a_saved_ledger_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap().0, Ledger::default());
        store.save(&ledger(1)).unwrap();
        store.save(&ledger(2)).unwrap();
        assert_eq!(store.load().unwrap().0.generation, 2);
    }

    /// A full disk or a crash left NULs in NixOS's uid-map: nixpkgs#229194.
    #[test]
    fn a_damaged_ledger_gives_way_to_the_one_before_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&ledger(1)).unwrap();
        store.save(&ledger(2)).unwrap();
        for damage in
            [&b"\0\0\0\0"[..], b"", b"{}", b"{\"format\":1,\"sha256\":\"0\",\"ledger\":{\"generation\":9}}"]
        {
            fs::write(dir.path().join("ledger.json"), damage).unwrap();
            let (found, damaged) = store.load().unwrap();
            assert_eq!(found.generation, 1);
            assert!(damaged.is_some());
            assert_eq!(fs::read(dir.path().join("ledger.json.damaged")).unwrap(), damage);
        }
        fs::write(dir.path().join("ledger.json"), "{\"format\":2,\"sha256\":\"0\",\"ledger\":{}}").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Format { found: 2, .. })));
    }

    /// Killed, or out of space, before each of its calls: the next start finds the old ledger or the new one, also
    /// when the newest was damaged, and the next save leaves nothing else behind.
    #[test]
    fn a_save_that_ends_anywhere_loses_no_ledger_invariant_5() {
        for damaged in [false, true] {
            for calls in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let store = Store::open(dir.path()).unwrap();
                store.save(&ledger(1)).unwrap();
                store.save(&ledger(2)).unwrap();
                let good = if damaged { 1 } else { 2 };
                if damaged {
                    fs::write(dir.path().join("ledger.json"), b"\0\0\0").unwrap();
                }
                let mut left = calls;
                let saved = store.save_by(&ledger(3), &mut || {
                    left = usize::checked_sub(left, 1).ok_or(io::ErrorKind::StorageFull)?;
                    Ok(())
                });
                let found = store.load().unwrap().0.generation;
                assert!(found == 3 || (found == good && saved.is_err()), "{calls} calls, {damaged}: {found}");
                for generation in 4..6 {
                    store.save(&ledger(generation)).unwrap();
                    assert_eq!(store.load().unwrap().0.generation, generation);
                }
                fs::write(dir.path().join("ledger.json"), "").unwrap();
                assert_eq!(store.load().unwrap().0.generation, 4, "the one before");
                let mut names: Vec<_> =
                    fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort_unstable();
                assert_eq!(names, ["ledger.json.damaged", "ledger.json.prev", "runs"], "{calls} calls");
                if saved.is_ok() {
                    assert!(calls > 5);
                    break;
                }
            }
        }
    }

    #[test]
    fn a_second_daemon_on_one_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
        drop(first);
        fs::write(dir.path().join("runs/20260101T000000Z-001.json.new"), "{").unwrap();
        Store::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 0, "half a record is left");
    }

    /// A machine that waits for its first roster restarts, too.
    #[test]
    fn runs_without_a_roster_do_not_look_like_a_lost_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.load().unwrap();
        fs::write(dir.path().join("runs/20260101T000000Z-0001.json"), "{}").unwrap();
        assert_eq!(store.load().unwrap().0, Ledger::default());
    }

    #[test]
    fn a_lost_ledger_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&ledger(1)).unwrap();
        fs::write(dir.path().join("ledger.json"), "\0").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
        fs::remove_file(dir.path().join("ledger.json")).unwrap();
        fs::write(dir.path().join("runs/20260101T000000Z-0001.json"), "{}").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Lost { .. })));
    }

    #[test]
    fn a_run_is_not_looked_up_outside_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.run("../ledger").unwrap().is_none());
    }
}
