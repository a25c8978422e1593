//! The archive of a home: what a worker packs, compressed and written by root to a folder of its own, with a manifest
//! beside. Neither counts before it is on disk and has been read back.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use roster::name::OsUser;
use sha2::{Digest as _, Sha256};

use crate::error::{CommandError, Result};
use crate::removal::manifest::{Files, Manifest};
use crate::removal::worker::{self, Measured, Task, Worker};

/// zstd's own default: fast, and half of most homes is compressed already.
const LEVEL: i32 = 3;

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
            let name = entry.file_name();
            // Another person's name may begin with this one's and a hyphen.
            let stamp = name.to_str().and_then(|name| name.strip_prefix(&format!(".{user}-")));
            if stamp.is_some_and(|stamp| !stamp.contains('-')) {
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
        // Between the packing and the comparison: when both saw the same home, so did the checksums.
        let list = format!("{stem}.sha256");
        let listed = self.place(&format!(".{list}"));
        let verified = self
            .list(&listed, ids, home)
            .and_then(|files| self.verify(&partial, ids, home, manifest).map(|()| files));
        match verified {
            Ok(files) => manifest.files = Some(Files { list: list.clone(), ..files }),
            Err(error) => {
                let _ = (fs::remove_file(&partial), fs::remove_file(&listed));
                return Err(error);
            }
        }
        fs::rename(&listed, self.place(&list)).map_err(cannot)?;
        fs::rename(&partial, self.place(&name)).map_err(cannot)?;
        manifest.archive = Some(name);
        Ok(())
    }

    /// Writes the checksum of each file of a home, as `sha256sum --check` reads it.
    fn list(&self, path: &Path, ids: (u32, u32), home: &OwnedFd) -> Result<Files> {
        let cannot = |error: io::Error| {
            CommandError::new("cannot write the checksums of the home's files")
                .because(error)
                .next("nothing was removed; mend that and run it again")
        };
        let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
        let mut worker = worker::start(Task::List, ids, home)?;
        let mut lines = Hashing::new(worker.child.stdout.take().ok_or_else(lost)?);
        let copied = io::copy(&mut lines, &mut &file).and_then(|_| file.sync_all());
        // With it goes the pipe, so that a worker whose words find no room ends.
        let (_, sha256) = lines.finish();
        let ended = end(worker, "reading the home's files");
        copied.map_err(cannot).and(ended)?;
        Ok(Files { list: String::new(), sha256 })
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
    if let Some(files) = &manifest.files {
        compare_files(&file.with_file_name(&files.list), files, ids, folder).map_err(broken)?;
    }
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

/// Compares each file that was unpacked with its checksum of before. The error names the first that differs.
fn compare_files(
    list: &Path,
    files: &Files,
    ids: (u32, u32),
    folder: &OwnedFd,
) -> std::result::Result<(), String> {
    let cannot = |error: io::Error| format!("{}: {error}", list.display());
    let mut worker = worker::start(Task::List, ids, folder).map_err(|error| error.to_string())?;
    let now = worker.child.stdout.take().ok_or("a worker has no pipe")?;
    let mut before = Hashing::new(BufReader::new(File::open(list).map_err(cannot)?));
    let differs = first_difference(BufReader::new(now), BufReader::new(&mut before)).map_err(cannot)?;
    let ended = end(worker, "reading the files that were unpacked").map_err(|error| error.to_string());
    // After a difference nobody reads what else it says, and it ends for that.
    if differs.is_none() {
        ended?;
    }
    io::copy(&mut before, &mut io::sink()).map_err(cannot)?;
    match (before.finish().1 == files.sha256, differs) {
        (false, _) => Err(format!("the checksum of {} is not the one in the manifest", list.display())),
        (true, Some(line)) => Err(format!("a file is not what it was: {line}")),
        (true, None) => Ok(()),
    }
}

/// The first line that only one of the two has.
fn first_difference(mut one: impl BufRead, mut other: impl BufRead) -> io::Result<Option<String>> {
    let (mut line, mut beside) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        beside.clear();
        one.read_until(b'\n', &mut line)?;
        other.read_until(b'\n', &mut beside)?;
        if line != beside {
            let shown = if beside.is_empty() { &line } else { &beside };
            return Ok(Some(crate::page::clean(String::from_utf8_lossy(shown).trim_end())));
        }
        if line.is_empty() {
            return Ok(None);
        }
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
