//! What is beside each archive: whose it is, the account as it was, and by what the archive is known.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use host::{AccountLines, Outside};
use jiff::Timestamp;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use roster::name::OsUser;
use serde::{Deserialize, Serialize};

use crate::error::{CommandError, Result};
use crate::removal::worker::Measured;

/// Where it belongs.
const BESIDE: &str = "it lies beside the archive, as NAME.json, in a folder that only root can change";

/// More than any has: names of files are in a list beside.
const MOST_BYTES: u64 = 16 << 20;

/// A manifest. Holds the account's lines, the hash of its password too: for root alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) user: OsUser,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    pub(crate) made: Timestamp,
    /// The name of the archive beside; nothing where there was no home.
    pub(crate) archive: Option<String>,
    pub(crate) archive_bytes: u64,
    pub(crate) archive_sha256: String,
    pub(crate) tar_bytes: u64,
    pub(crate) tar_sha256: String,
    /// The checksums of the files in it; nothing where there was no home.
    #[serde(default)]
    pub(crate) files: Option<Files>,
    pub(crate) measured: Measured,
    pub(crate) outside: Outside,
    pub(crate) account: Option<AccountLines>,
}

/// The list of the files' checksums.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Files {
    /// Its name, beside.
    pub(crate) list: String,
    pub(crate) sha256: String,
}

impl Manifest {
    /// Reads the one of an archive, named by either of the two.
    pub(crate) fn read(path: &Path) -> Result<(PathBuf, Manifest)> {
        let path = match path.to_str().and_then(|text| text.strip_suffix(".tar.zst")) {
            Some(stem) => PathBuf::from(format!("{stem}.json")),
            None => path.to_path_buf(),
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        let cannot = || CommandError::new(format!("cannot read the manifest {}", path.display()));
        let text = text(&path).map_err(|why| cannot().because(why).next(BESIDE))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| cannot().because(error).next(BESIDE))?;
        if manifest.version != 1 {
            return Err(cannot().next("it was written by another version of rosterd"));
        }
        manifest.fits(&path).map_err(|why| cannot().because(why))?;
        Ok((path, manifest))
    }

    /// Whether it is about one person, and names nothing but what lies beside it.
    fn fits(&self, path: &Path) -> std::result::Result<(), String> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_beside = |name: &Option<&String>, ending: &str| {
            name.is_none_or(|name| name.strip_suffix(ending) == Some(stem))
        };
        let list = self.files.as_ref().map(|files| &files.list);
        if !is_beside(&self.archive.as_ref(), ".tar.zst") || !is_beside(&list, ".sha256") {
            return Err(format!("it is not that of {stem}.tar.zst beside it; the three keep one name"));
        }
        let Some(account) = &self.account else { return Ok(()) };
        let field = |line: &str, index| line.split(':').nth(index).unwrap_or_default().to_owned();
        let ids = [(&account.passwd, 2, self.uid), (&account.passwd, 3, self.gid)];
        let group = account.group.iter().map(|line| (line, 2, self.gid));
        let same_ids =
            ids.into_iter().chain(group).all(|(line, index, id)| field(line, index) == id.to_string());
        if !same_ids || Path::new(&field(&account.passwd, 5)) != self.home {
            return Err("the account in it has other ids, or another home, than the archive".into());
        }
        Ok(())
    }
}

/// What becomes an account is read where nobody but root could have put it.
fn text(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let place = host::open_parent(path);
    // What it advises is for paths of the configuration, not for `/tmp`.
    let place = place.map_err(|why| why.split("; ").next().unwrap_or_default().to_owned())?;
    let Some((folder, name)) = place else { return Err("there is no such folder".into()) };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&folder, name, flags, Mode::empty()).map_err(|errno| errno.desc().to_owned())?;
    let file = File::from(file);
    let seen = file.metadata().map_err(|error| error.to_string())?;
    if !seen.is_file() || seen.uid() != 0 || seen.mode() & 0o022 != 0 {
        return Err("it is no file that only root can write".into());
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
