//! The archive of a home: what a worker packs, compressed and written by root to a folder of its own, with a manifest
//! beside. Neither counts before it is on disk and has been read back.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use host::{AccountLines, Outside};
use jiff::Timestamp;
use roster::name::OsUser;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{CommandError, Result};
use crate::removal::worker::{self, Measured, Task, Worker};

/// zstd's own default: fast, and half of most homes is compressed already.
const LEVEL: i32 = 3;

/// What is beside each archive. Holds the account's lines, the hash of its password too: for root alone.
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
    pub(crate) measured: Measured,
    pub(crate) outside: Outside,
    pub(crate) account: Option<AccountLines>,
}

impl Manifest {
    /// Reads the one of an archive, named by either of the two.
    pub(crate) fn read(path: &Path) -> Result<(PathBuf, Manifest)> {
        let path = match path.to_str().and_then(|text| text.strip_suffix(".tar.zst")) {
            Some(stem) => PathBuf::from(format!("{stem}.json")),
            None => path.to_path_buf(),
        };
        let cannot = || CommandError::new(format!("cannot read the manifest {}", path.display()));
        let text = fs::read(&path).map_err(|error| cannot().because(error))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| cannot().because(error).next("it lies beside the archive, as NAME.json"))?;
        if manifest.version != 1 {
            return Err(cannot().next("it was written by another version of rosterd"));
        }
        Ok((path, manifest))
    }
}

/// The folder of the archives.
pub(crate) struct Archives {
    folder: OwnedFd,
    path: PathBuf,
}

impl Archives {
    pub(crate) fn open(path: &Path) -> Result<Archives> {
        let folder = host::Host::system().private_folder(path).map_err(|error| {
            CommandError::new("the folder of the archives cannot be used")
                .because(error.why.clone())
                .next(error.next)
        })?;
        Ok(Archives { folder, path: path.to_path_buf() })
    }

    fn place(&self, name: &str) -> PathBuf {
        host::path_of(&self.folder).join(name)
    }

    /// How an archive is shown and found again.
    pub(crate) fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is free there.
    pub(crate) fn free(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::fstatvfs(&self.folder)
            .map_err(|error| CommandError::new("cannot see what is free for the archive").because(error))?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// Removes what killed runs left of this person's archives. Those that are whole stay.
    pub(crate) fn clear(&self, user: &OsUser) -> Result<()> {
        let cannot =
            |error: io::Error| CommandError::new("cannot clear the folder of the archives").because(error);
        for entry in fs::read_dir(host::path_of(&self.folder)).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!(".{user}-"))) {
                fs::remove_file(entry.path()).map_err(cannot)?;
            }
        }
        Ok(())
    }

    /// Packs a home, reads the archive back from the disk and compares it with the home. Only then it gets its name.
    pub(crate) fn pack(
        &self,
        stem: &str,
        ids: (u32, u32),
        home: &OwnedFd,
        manifest: &mut Manifest,
    ) -> Result<()> {
        let name = format!("{stem}.tar.zst");
        let partial = self.place(&format!(".{name}"));
        let cannot = |error: io::Error| {
            CommandError::new(format!("cannot write the archive {}", self.shown(&name).display()))
                .because(error)
                .next("nothing was removed; mend that and run it again")
        };
        let file = File::options().write(true).create_new(true).mode(0o600).open(&partial).map_err(cannot)?;
        let mut worker = worker::start(Task::Pack, ids, home)?;
        let mut tar = Hashing::new(worker.child.stdout.take().ok_or_else(lost)?);
        let copied = compress(&mut tar, file);
        let (tar_bytes, tar_sha256) = tar.finish();
        let ended = end(worker, "packing the home");
        let copied = copied.map_err(cannot).and(ended);
        if let Err(error) = copied {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        (manifest.tar_bytes, manifest.tar_sha256) = (tar_bytes, tar_sha256);
        let verified = self.verify(&partial, ids, home, manifest);
        if let Err(error) = verified {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        fs::rename(&partial, self.place(&name)).map_err(cannot)?;
        manifest.archive = Some(name);
        Ok(())
    }

    /// Reads the archive from the disk: its checksums, and every file in it against the home.
    fn verify(&self, file: &Path, ids: (u32, u32), home: &OwnedFd, manifest: &mut Manifest) -> Result<()> {
        let wrong = |why: &str| {
            CommandError::new(format!("the archive is not what the home is: {why}"))
                .next("nothing was removed; see what still changes the home, or whether the disk is sound")
        };
        let mut worker = worker::start(Task::Compare, ids, home)?;
        let into = worker.child.stdin.take().ok_or_else(lost)?;
        let read = unpack_into(file, into);
        let said = end(worker, "comparing the archive with the home");
        let read = match read {
            // tar reads to the end of its archive, which may be before the end of the stream.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(wrong(&error.to_string())),
            read => read,
        };
        said.map_err(|error| wrong(&error.to_string()))?;
        let read = match read {
            Ok(read) => read,
            Err(_) => unpack_into(file, io::sink()).map_err(|error| wrong(&error.to_string()))?,
        };
        if (read.tar_bytes, &read.tar_sha256) != (manifest.tar_bytes, &manifest.tar_sha256) {
            return Err(wrong("what is read from the disk is not what was written to it"));
        }
        (manifest.archive_bytes, manifest.archive_sha256) = (read.archive_bytes, read.archive_sha256);
        Ok(())
    }

    /// Writes the manifest, from which on the archive counts.
    pub(crate) fn seal(&self, stem: &str, manifest: &Manifest) -> Result<()> {
        let name = format!("{stem}.json");
        let cannot = |error: io::Error| {
            CommandError::new(format!("cannot write {}", self.shown(&name).display())).because(error)
        };
        let partial = self.place(&format!(".{name}"));
        let mut file =
            File::options().write(true).create_new(true).mode(0o600).open(&partial).map_err(cannot)?;
        serde_json::to_writer_pretty(&mut file, manifest).map_err(io::Error::from).map_err(cannot)?;
        file.sync_all().map_err(cannot)?;
        fs::rename(&partial, self.place(&name)).map_err(cannot)?;
        nix::unistd::fsync(&self.folder).map_err(io::Error::from).map_err(cannot)
    }
}

/// Unpacks an archive into a folder that is its person's, and compares the two.
pub(crate) fn restore(
    file: &Path,
    ids: (u32, u32),
    folder: &OwnedFd,
    manifest: &Manifest,
) -> Result<Vec<String>> {
    let broken =
        |why: String| CommandError::new(format!("the archive {} cannot be restored: {why}", file.display()));
    // First of all: nothing is made of an archive that is not what it was.
    let read = unpack_into(file, io::sink()).map_err(|error| broken(error.to_string()))?;
    if (&read.archive_sha256, &read.tar_sha256) != (&manifest.archive_sha256, &manifest.tar_sha256) {
        return Err(broken("its checksum is not the one in the manifest".into()));
    }
    let mut worker = worker::start(Task::Unpack, ids, folder)?;
    let into = worker.child.stdin.take().ok_or_else(lost)?;
    let written = unpack_into(file, into);
    end(worker, "unpacking the archive")?;
    written.map(drop).or_else(ends_early).map_err(|error| broken(error.to_string()))?;
    let mut worker = worker::start(Task::Compare, ids, folder)?;
    let into = worker.child.stdin.take().ok_or_else(lost)?;
    let compared = unpack_into(file, into);
    let (well, said) = worker.end().map_err(|error| broken(error.to_string()))?;
    compared.map(drop).or_else(ends_early).map_err(|error| broken(error.to_string()))?;
    // Whatever belonged to somebody else is the person's now: only root could give it away.
    let (owners, others): (Vec<_>, Vec<_>) = said
        .lines()
        .map(crate::page::clean)
        .partition(|line| line.ends_with("Uid differs") || line.ends_with("Gid differs"));
    match others.first() {
        Some(first) if !well => Err(broken(format!("what was unpacked differs from it: {first}"))),
        _ => Ok(owners),
    }
}

fn ends_early(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn lost() -> CommandError {
    CommandError::new("a worker has no pipe")
}

/// What was read of an archive.
struct Checked {
    archive_bytes: u64,
    archive_sha256: String,
    tar_bytes: u64,
    tar_sha256: String,
}

fn compress(tar: &mut impl Read, file: File) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(BufWriter::with_capacity(1 << 20, file), LEVEL)?;
    encoder.include_checksum(true)?;
    io::copy(tar, &mut encoder)?;
    let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// Reads an archive whole, with its checksums, and gives the tar in it to `into`.
fn unpack_into(path: &Path, mut into: impl Write) -> io::Result<Checked> {
    let mut archive = Hashing::new(BufReader::with_capacity(1 << 20, File::open(path)?));
    let mut tar = Hashing::new(zstd::Decoder::with_buffer(BufReader::with_capacity(1 << 20, &mut archive))?);
    io::copy(&mut tar, &mut into)?;
    into.flush()?;
    let (tar_bytes, tar_sha256) = tar.finish();
    // What is behind the last frame counts as well.
    io::copy(&mut archive, &mut io::sink())?;
    let (archive_bytes, archive_sha256) = archive.finish();
    Ok(Checked { archive_bytes, archive_sha256, tar_bytes, tar_sha256 })
}

/// A reader that knows the checksum of what went through it.
struct Hashing<R> {
    inner: R,
    digest: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Hashing { inner, digest: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (u64, String) {
        (self.bytes, self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}

/// What a worker says of what is in its folder.
pub(crate) fn measure(ids: (u32, u32), folder: &OwnedFd) -> Result<Measured> {
    let cannot = |error: io::Error| CommandError::new("cannot look into the home").because(error);
    let mut worker = worker::start(Task::Measure, ids, folder)?;
    let mut said = Vec::new();
    if let Some(stdout) = worker.child.stdout.take() {
        stdout.take(1 << 20).read_to_end(&mut said).map_err(cannot)?;
    }
    end(worker, "looking into the home")?;
    serde_json::from_slice(&said).map_err(io::Error::from).map_err(cannot)
}

/// Waits for a worker that should end well. What it complains about is the error.
pub(crate) fn end(worker: Worker, doing: &str) -> Result<()> {
    let failed = |why: String| CommandError::new(format!("{doing} failed: {why}"));
    let (well, words) = worker.end().map_err(|error| failed(error.to_string()))?;
    let first: Vec<_> = words.lines().take(5).map(crate::page::clean).collect();
    if well { Ok(()) } else { Err(failed(first.join("; "))) }
}
