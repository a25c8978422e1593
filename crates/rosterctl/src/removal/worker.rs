//! The process that works in a home that is removed or restored. It is started in that folder, becomes its person for
//! good and only then looks; what it reads and writes leaves and comes by its pipes. Root opens nothing in there
//! (invariant 3).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::{fs, io};

use become_user::{Identity, Limits};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{CommandError, Result};

/// The word by which this program starts itself as such a worker.
pub(crate) const WORD: &str = "removal-worker";

/// The archiver: it knows ACLs, extended attributes, holes and hard links, and it is part of every Debian.
const TAR: &str = "/usr/bin/tar";

/// What is kept of what a worker says.
const MAX_WORDS: u64 = 256 << 10;

/// How many paths are named to the admin.
const NAMED: usize = 20;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Says what is in the folder.
    Measure,
    /// Writes it as a tar to its standard output.
    Pack,
    /// Compares it with the tar on its standard input.
    Compare,
    /// Unpacks the tar on its standard input.
    Unpack,
    /// Removes what is in the folder.
    Empty,
    /// Says the checksum of each file, to its standard output.
    List,
}

impl Task {
    const ALL: [(&str, Task); 6] = [
        ("measure", Task::Measure),
        ("pack", Task::Pack),
        ("compare", Task::Compare),
        ("unpack", Task::Unpack),
        ("empty", Task::Empty),
        ("list", Task::List),
    ];

    fn word(self) -> &'static str {
        Task::ALL.iter().find(|(_, task)| *task == self).map_or("", |(word, _)| word)
    }
}

/// What is in a home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// How many files and folders.
    pub(crate) entries: u64,
    /// What they take on disk.
    pub(crate) bytes: u64,
    /// What its person cannot read, and so cannot be archived.
    pub(crate) unreadable: Named,
    /// What belongs to somebody else.
    pub(crate) foreign: Named,
    /// Folders of somebody else with something in them, which their person cannot remove.
    pub(crate) stuck: Named,
    /// Other file systems.
    pub(crate) mounts: Named,
    /// Files that are nearly all hole, and would take hours to be read and compared.
    #[serde(default)]
    pub(crate) holes: Named,
}

/// A file with more holes than this, in bytes: `truncate -s 15T` costs its person nothing, and whoever reads it a day.
const MOST_HOLE: u64 = 256 << 30;

/// How many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) count: u64,
    pub(crate) first: Vec<String>,
}

impl Named {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path.strip_prefix(".").unwrap_or(path).display().to_string());
        }
    }
}

/// A worker that was started.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) child: Child,
    /// What it says that is not its product. A file and no pipe: nobody waits for it to be read.
    words: File,
}

impl Worker {
    /// Waits for it: whether it ended well, and what it said.
    pub(crate) fn end(mut self) -> io::Result<(bool, String)> {
        drop((self.child.stdin.take(), self.child.stdout.take()));
        let status = self.child.wait()?;
        let mut words = Vec::new();
        self.words.rewind()?;
        self.words.take(MAX_WORDS).read_to_end(&mut words)?;
        Ok((status.success(), String::from_utf8_lossy(&words).into_owned()))
    }
}

/// Starts a worker in `folder`.
pub(crate) fn start(task: Task, (uid, gid): (u32, u32), folder: &OwnedFd) -> Result<Worker> {
    let cannot = |error: io::Error| CommandError::new("cannot start a worker for the home").because(error);
    let words = tempfile::tempfile().map_err(cannot)?;
    let words_too = || words.try_clone().map(Stdio::from);
    let stdin = match task {
        Task::Compare | Task::Unpack => Stdio::piped(),
        Task::Measure | Task::Pack | Task::Empty | Task::List => Stdio::null(),
    };
    let stdout = match task {
        Task::Measure | Task::Pack | Task::List => Stdio::piped(),
        Task::Compare | Task::Unpack | Task::Empty => words_too().map_err(cannot)?,
    };
    let stderr = words_too().map_err(cannot)?;
    let child = Command::new("/proc/self/exe")
        .args([WORD, task.word(), &uid.to_string(), &gid.to_string()])
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir(host::path_of(folder))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(cannot)?;
    Ok(Worker { child, words })
}

/// The worker's own life.
pub(crate) fn work() -> ExitCode {
    match become_and_work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn become_and_work() -> std::result::Result<(), String> {
    let mut words = std::env::args().skip(2);
    let task = words.next().and_then(|word| Task::ALL.into_iter().find(|(name, _)| *name == word));
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok());
    let (Some((_, task)), Some(uid), Some(gid)) = (task, number(), number()) else {
        return Err("this is not for use by hand".into());
    };
    if !become_user::is_person(uid) || !become_user::is_group(gid) {
        return Err(format!("uid {uid} and gid {gid} are nobody's here"));
    }
    let person = Identity { uid, gid, groups: Vec::new() };
    let limits = Limits { memory: 2 << 30, cpu_s: 24 * 3600, processes: None };
    become_user::become_user(&person, limits).map_err(|error| error.to_string())?;
    let here = home::Here {
        may_change: matches!(task, Task::Unpack | Task::Empty),
        program: matches!(task, Task::Pack | Task::Compare | Task::Unpack).then_some(Path::new(TAR)),
    };
    // Where the kernel has no Landlock, the uid alone keeps it there.
    home::stay_here(&here).map_err(|error| format!("it cannot be confined to the home: {error}"))?;
    let tar = |arguments: &[&str]| {
        let common = ["--file=-", "--acls", "--xattrs", "--xattrs-include=user.*", "--numeric-owner"];
        let error = Command::new(TAR).args(arguments).args(common).env_clear().env("LC_ALL", "C").exec();
        format!("cannot start {TAR}: {error}")
    };
    match task {
        Task::Measure => {
            let measured = measure(uid).map_err(|error| error.to_string())?;
            serde_json::to_writer(io::stdout(), &measured).map_err(|error| error.to_string())
        }
        Task::Pack => {
            Err(tar(&["--create", "--format=posix", "--sparse", "--one-file-system", "--sort=name", "."]))
        }
        Task::Compare => Err(tar(&["--compare"])),
        Task::Unpack => {
            Err(tar(&["--extract", "--same-permissions", "--no-same-owner", "--delay-directory-restore"]))
        }
        Task::Empty => empty().map_err(|error| error.to_string()),
        Task::List => list(&mut BufWriter::new(io::stdout().lock())).map_err(|error| error.to_string()),
    }
}

fn measure(uid: u32) -> io::Result<Measured> {
    let mut found = Measured::default();
    let top = fs::symlink_metadata(".")?;
    let mut ahead = vec![PathBuf::from(".")];
    while let Some(path) = ahead.pop() {
        let Ok(entries) = fs::read_dir(&path) else {
            found.unreadable.add(&path);
            continue;
        };
        let mut holds_something = false;
        for entry in entries {
            let Ok(entry) = entry else {
                found.unreadable.add(&path);
                break;
            };
            holds_something = true;
            let (path, Ok(seen)) = (entry.path(), entry.metadata()) else { continue };
            found.entries += 1;
            found.bytes += seen.blocks() * 512;
            if seen.dev() != top.dev() {
                found.mounts.add(&path);
                continue;
            }
            if seen.uid() != uid {
                found.foreign.add(&path);
            }
            if seen.is_file() && seen.len().saturating_sub(seen.blocks() * 512) > MOST_HOLE {
                found.holes.add(&path);
            }
            if seen.is_dir() {
                ahead.push(path);
            } else if seen.is_file() && nix::unistd::access(&path, nix::unistd::AccessFlags::R_OK).is_err() {
                found.unreadable.add(&path);
            }
        }
        if holds_something && fs::symlink_metadata(&path).is_ok_and(|seen| seen.uid() != uid) {
            found.stuck.add(&path);
        }
    }
    Ok(found)
}

/// Writes the checksum of each file, by name, as `sha256sum` writes and reads it. A file with several names is read once.
fn list(into: &mut impl Write) -> io::Result<()> {
    let mut ahead = vec![PathBuf::from(".")];
    let mut known = BTreeMap::new();
    while let Some(path) = ahead.pop() {
        let seen = fs::symlink_metadata(&path)?;
        if seen.is_dir() {
            let mut inner: Vec<_> = fs::read_dir(&path)?
                .map(|entry| Ok(path.join(entry?.file_name())))
                .collect::<io::Result<_>>()?;
            // The last is taken first.
            inner.sort_by(|one, other| other.cmp(one));
            ahead.extend(inner);
        } else if seen.is_file() {
            let sha256 = match known.get(&(seen.dev(), seen.ino())) {
                Some(sha256) => String::clone(sha256),
                None => checksum(&path)?,
            };
            let (mark, name) = escaped(path.as_os_str().as_bytes());
            write!(into, "{mark}{sha256}  ")?;
            into.write_all(&name)?;
            into.write_all(b"\n")?;
            if seen.nlink() > 1 {
                known.insert((seen.dev(), seen.ino()), sha256);
            }
        }
    }
    into.flush()
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut file =
        File::options().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => digest.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// A name as it stands in such a list, and what its line begins with.
fn escaped(name: &[u8]) -> (&'static str, Vec<u8>) {
    let mark = if name.iter().any(|byte| matches!(byte, b'\\' | b'\n')) { "\\" } else { "" };
    let escape = |byte: &u8| match byte {
        b'\\' => b"\\\\".to_vec(),
        b'\n' => b"\\n".to_vec(),
        byte => vec![*byte],
    };
    (mark, name.iter().flat_map(escape).collect())
}

/// Removes what is in the folder, also out of folders that their person had closed to themself, as some caches are.
fn empty() -> io::Result<()> {
    let mut ahead = vec![PathBuf::from(".")];
    while let Some(path) = ahead.pop() {
        let mode = fs::symlink_metadata(&path).map_or(0o700, |seen| seen.permissions().mode());
        if mode & 0o700 != 0o700 {
            // What cannot be opened is told by the removal that follows.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700));
        }
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                ahead.push(entry.path());
            }
        }
    }
    let mut failed = None;
    for entry in fs::read_dir(".")? {
        let entry = entry?;
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        failed = failed.or(removed
            .err()
            .map(|error| io::Error::other(format!("{}: {error}", entry.file_name().display()))));
    }
    failed.map_or(Ok(()), Err)
}
