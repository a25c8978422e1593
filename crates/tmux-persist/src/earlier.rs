//! The earlier layout of the store, which belongs to root. It is read and never changed, so that going back is possible.
//!
//! ```text
//! <state>/<user>.tsv                  the last capture, or a symlink to the newest below
//! <state>/snapshots/<user>/<ts>.tsv   a series
//! <state>/<user>.forgotten.tsv        sessions closed on purpose
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::format::{self, from_tsv};
use crate::model::{Folder, Moment, SessionName, Snapshot};

/// No capture of the earlier layout is nearly as large.
const MAX_FILE: u64 = 1 << 20;
/// Twice as many as it kept.
const MAX_FILES: usize = 400;

/// What the earlier layout holds of one person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Earlier {
    snapshots: Vec<(Moment, String)>,
    forgotten: String,
}

impl Earlier {
    /// Reads it; what is not there is empty, what cannot be read is an error.
    pub(crate) fn read(state: &Path, user: &str) -> io::Result<Earlier> {
        let mut snapshots = Vec::new();
        let series = state.join("snapshots").join(user);
        for entry in or_empty(fs::read_dir(&series))?.into_iter().flatten() {
            let name = entry?.file_name();
            let taken = name.to_str().and_then(|name| name.strip_suffix(".tsv")).and_then(Moment::parse);
            if let Some(taken) = taken
                && let Some((text, _)) = read(&series.join(&name))?
            {
                snapshots.push((taken, text));
            }
        }
        snapshots.sort();
        snapshots.drain(..snapshots.len().saturating_sub(MAX_FILES));
        if snapshots.is_empty()
            && let Some((text, written)) = read(&state.join(format!("{user}.tsv")))?
        {
            snapshots.push((Moment::new(written), text));
        }
        let forgotten = read(&state.join(format!("{user}.forgotten.tsv")))?;
        Ok(Earlier { snapshots, forgotten: forgotten.map(|(text, _)| text).unwrap_or_default() })
    }

    /// The snapshots in today's form, without those that say nothing.
    pub(crate) fn snapshots(&self, home: &Folder) -> Vec<Snapshot> {
        let snapshots = self.snapshots.iter().map(|(taken, text)| from_tsv(*taken, text.as_bytes(), home));
        snapshots.filter(|snapshot| !snapshot.sessions.is_empty()).collect()
    }

    /// The closes.
    pub(crate) fn forgotten(&self) -> Vec<(SessionName, Moment)> {
        format::tombstones(self.forgotten.as_bytes())
    }
}

/// A regular file's text and when it was written.
fn read(path: &Path) -> io::Result<Option<(String, i64)>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        // A symlink leads to what the series has anyway.
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(Some((String::from_utf8_lossy(&content).into_owned(), meta.mtime())))
}

fn or_empty<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_earlier_layout_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let home = Folder::new("/home/ann").unwrap();
        assert_eq!(Earlier::read(dir.path(), "ann").unwrap(), Earlier::default());
        fs::write(dir.path().join("ann.tsv"), "a\t/srv\t\n").unwrap();
        fs::write(dir.path().join("ann.forgotten.tsv"), "a\t5\n").unwrap();
        let single = Earlier::read(dir.path(), "ann").unwrap();
        assert_eq!(single.snapshots(&home).len(), 1);
        assert_eq!(single.forgotten().len(), 1);

        let series = dir.path().join("snapshots/ann");
        fs::create_dir_all(&series).unwrap();
        fs::write(series.join("20260301T120000.tsv"), "a\t/srv\t-\n").unwrap();
        fs::write(series.join("20260301T120500.tsv"), "a\t/srv\t-\nb\t/srv\t-\n").unwrap();
        fs::write(series.join("20260301T121000.tsv"), "").unwrap();
        fs::write(series.join("notes"), "x").unwrap();
        let series = Earlier::read(dir.path(), "ann").unwrap().snapshots(&home);
        let counts: Vec<_> = series.iter().map(|s| (s.taken.to_string(), s.sessions.len())).collect();
        assert_eq!(counts, [("20260301T120000".to_owned(), 1), ("20260301T120500".to_owned(), 2)]);
    }
}
