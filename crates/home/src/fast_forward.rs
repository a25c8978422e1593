//! Moves a checked out branch forward, when that provably loses nothing, and the files with it.
//!
//! libgit2's checkout truncates a file and writes it anew, so that whoever reads it meanwhile gets a half. Here each
//! new file is written beside, in `.git/rosterd-fast-forward`, and *exchanged* with the old one: an open file keeps
//! its content, and what comes out of the exchange is compared with what was seen to be unchanged, so that an edit
//! of the last moment is put back. All is done under git's own `index.lock`, and a journal says how to end it when
//! it is interrupted: see [`finish`].
//!
//! | module | what it does |
//! | --- | --- |
//! | `inspect` | whether it is a fast-forward that loses nothing |
//! | `exchange` | the files of the work tree, forward and back |

mod exchange;
mod inspect;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::build::CheckoutBuilder;
use git2::{Index, IndexEntry, IndexTime, Oid, Repository};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat};
use serde::{Deserialize, Serialize};

use roster::remote::{FastForward, Relation, Standing};

use crate::protocol::Failure;
use crate::ref_files::{ROOM, RefFiles};
use crate::{fetch, locked, tree};

pub(crate) use inspect::MAX_PLAIN;

use exchange::{Op, WorkTree};
pub(crate) use inspect::inspect;
use inspect::{Change, LINK};

/// Where new files are written, below `.git`.
pub(crate) const STAGING: &str = "rosterd-fast-forward";
const JOURNAL: &str = "journal";
/// git's own lock, and in the staging folder the file that is linked to become it.
const LOCK: &str = "index.lock";
const OUR_LOCK: &str = "lock";
/// So many files are written to disk by one call for the file system.
const MANY: usize = 50;
/// Room for a hundred thousand files.
const MAX_JOURNAL: u64 = 64 << 20;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    ino: u64,
    size: i64,
    mtime: (i64, i64),
}

impl From<FileStat> for Stamp {
    fn from(stat: FileStat) -> Stamp {
        Stamp { ino: stat.st_ino, size: stat.st_size, mtime: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// What is to be done, written before the first file is touched.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    forward: FastForward,
    /// The index that all of it rests on.
    index: Stamp,
    ops: Vec<Op>,
}

/// The folders that it happens in.
struct Folders {
    git: OwnedFd,
    staging: OwnedFd,
    work: WorkTree,
    /// Held while somebody works here: a session that begins may refresh while a run does.
    _at_work: Flock<OwnedFd>,
}

impl Folders {
    /// `EWOULDBLOCK` when another process works here.
    fn open(home: &OwnedFd, path: &str) -> nix::Result<Folders> {
        let folder = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let tree = tree::open(home, path, folder)?;
        let git = tree::open(&tree, ".git", folder)?;
        let staging = tree::open(&git, STAGING, folder)?;
        let itself = tree::open(&staging, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let _at_work = Flock::lock(itself, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        let staged = tree::open(&staging, "files", folder)?;
        Ok(Folders { work: WorkTree { tree, staged }, git, staging, _at_work })
    }

    fn index(&self) -> nix::Result<Stamp> {
        tree::stat(&self.git, "index")?.map(Stamp::from).ok_or(Errno::ENOENT)
    }

    /// Whether `index.lock` is ours: the file that was linked from the staging folder.
    fn has_lock(&self) -> nix::Result<bool> {
        let (ours, theirs) = (tree::stat(&self.staging, OUR_LOCK)?, tree::stat(&self.git, LOCK)?);
        Ok(ours.zip(theirs).is_some_and(|(ours, theirs)| ours.st_ino == theirs.st_ino))
    }

    /// Removes the lock, if it is ours, and then all that was staged.
    fn clear(&self) -> nix::Result<()> {
        if self.has_lock()? {
            unlinkat(&self.git, LOCK, UnlinkatFlags::NoRemoveDir)?;
        }
        match unlinkat(&self.staging, JOURNAL, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        tree::remove(&self.git, STAGING)
    }
}

/// Why it was not done. Whatever had been done is undone.
enum Stop {
    Os(Errno),
    Git(git2::Error),
    Because(String),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Os(errno)
    }
}

impl From<git2::Error> for Stop {
    fn from(error: git2::Error) -> Stop {
        Stop::Git(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Because(error.to_string())
    }
}

impl Stop {
    fn failure(self, path: &str) -> Failure {
        let why = match self {
            Stop::Os(errno) => tree::words(errno).to_owned(),
            Stop::Git(error) => error.message().to_owned(),
            Stop::Because(why) => why,
        };
        let next = format!(
            "nothing was changed, and it is tried again later by itself; look at ~/{path} if it stays so"
        );
        Failure::new(format!("cannot fast-forward ~/{path}: {why}"), next)
    }
}

/// Goes forward.
pub(crate) fn apply(home: &OwnedFd, forward: &FastForward) -> Result<(), Failure> {
    let path = &forward.path;
    let made = tree::open(home, &format!("{path}/.git"), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .and_then(|git| {
            tree::make_folder(&git, STAGING)?;
            tree::make_folder(tree::open(&git, STAGING, OFlag::O_PATH | OFlag::O_DIRECTORY)?, "files")
        })
        .and_then(|()| Folders::open(home, path));
    let folders = made.map_err(|errno| Stop::Os(errno).failure(path))?;
    let done = fetch::open(path)
        .map_err(Stop::Because)
        .and_then(|repository| go(home, &folders, &repository, forward));
    // If this fails as well, the next observation finds it.
    let _ = folders.clear();
    done.map_err(|stop| stop.failure(path))
}

fn go(home: &OwnedFd, folders: &Folders, repository: &Repository, forward: &FastForward) -> Result<(), Stop> {
    let before = folders.index()?;
    let changes = inspect::changes(repository, forward)?;
    // Before there is a file that they are about.
    let drivers = inspect::new_drivers(repository, &changes)?;
    if !drivers.is_empty() {
        locked::guard(home, &forward.path, &drivers).map_err(Stop::Because)?;
    }
    let mut index = stage(folders, repository, forward, &changes)?;

    let mode = Mode::from_bits_truncate(0o644);
    let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(&folders.staging, OUR_LOCK, new, mode)?;
    let ops = folders.work.ops(&changes)?;
    let journal = Journal { forward: forward.clone(), index: before, ops };
    let text = serde_json::to_vec(&journal).map_err(|error| Stop::Because(error.to_string()))?;
    let mut file = File::from(openat(&folders.staging, JOURNAL, new, mode)?);
    file.write_all(&text)?;
    // New files and journal are on disk before any of them takes the place of an old one.
    if journal.ops.len() > MANY {
        tree::sync(&folders.staging)?;
    } else {
        folders.work.sync(&journal.ops)?;
        file.sync_all()?;
    }
    linkat(&folders.staging, OUR_LOCK, &folders.git, LOCK, LinkatFlags::empty()).map_err(
        |errno| match errno {
            Errno::EEXIST => Stop::Because("another git command is at work in it (`.git/index.lock`)".into()),
            errno => Stop::Os(errno),
        },
    )?;

    // Nothing of git changes index and branch from here on; look once more.
    if folders.index()? != before {
        return Err(Stop::Because("its index has changed meanwhile".into()));
    }
    match inspect::standing(repository, forward)? {
        Standing { relation: Relation::Behind, dirty: false, obstacle: None, .. } => {}
        Standing { obstacle: Some(obstacle), .. } => return Err(Stop::Because(obstacle)),
        _ => return Err(Stop::Because("its person has changed something meanwhile".into())),
    }
    folders.work.forward(&journal.ops)?;
    complete(folders, repository, &journal.forward, &mut index, &changes).inspect_err(|_| {
        // With the old index in its place, all can be undone.
        if folders.index().is_ok_and(|now| now == before) {
            folders.work.back(&journal.ops);
        }
    })
}

/// Writes the new files and gives the new index, whose entries know nothing of files yet.
fn stage(
    folders: &Folders,
    repository: &Repository,
    forward: &FastForward,
    changes: &[Change],
) -> Result<Index, Stop> {
    let staging = Path::new(&forward.path).join(".git").join(STAGING);
    let mut index = new_index(folders, &staging, changes)?;
    // What is staged by hand makes its folders; libgit2 takes those that are there.
    let mut options = CheckoutBuilder::new();
    let home = std::env::current_dir()?;
    options.force().update_index(false).refresh(false).disable_pathspec_match(true);
    options.target_dir(&home.join(&staging).join("files"));
    let (mut any, mut links) = (false, Vec::new());
    for change in changes.iter().filter(|change| !change.is_submodule()) {
        match change.new {
            Some((id, LINK)) => links.push((&change.path, id)),
            Some(_) => {
                options.path(change.path.as_os_str().as_bytes());
                any = true;
            }
            None => {}
        }
    }
    if any {
        repository.checkout_index(Some(&mut index), Some(&mut options))?;
    }
    // libgit2 makes no link where a file was. And it goes by path: with a link in its way it would write wherever that
    // leads, so they come when it is done.
    for (path, id) in links {
        folders.work.stage_link(path, repository.find_blob(id)?.content())?;
    }
    Ok(index)
}

/// A copy of the index with the entries of the new commit.
fn new_index(folders: &Folders, staging: &Path, changes: &[Change]) -> Result<Index, Stop> {
    let mut old = File::from(tree::open(&folders.git, "index", OFlag::O_RDONLY)?);
    let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let copy = openat(&folders.staging, "index", new, Mode::from_bits_truncate(0o644))?;
    std::io::copy(&mut old, &mut File::from(copy))?;
    let mut index = Index::open(&staging.join("index"))?;
    // First, so that a file can take the place of a folder.
    for change in changes.iter().filter(|change| change.new.is_none()) {
        index.remove(&change.path, 0)?;
    }
    for change in changes {
        if let Some((id, mode)) = change.new {
            index.add(&entry(change, id, mode, None))?;
        }
    }
    Ok(index)
}

fn entry(change: &Change, id: Oid, mode: u32, stat: Option<FileStat>) -> IndexEntry {
    // git's own index keeps the lower 32 bits of each of these.
    let low = |number: i64| number as u32;
    let time = |seconds, nanoseconds| IndexTime::new(seconds, nanoseconds);
    let stat = stat.as_ref();
    IndexEntry {
        ctime: stat.map_or(time(0, 0), |s| time(s.st_ctime as i32, low(s.st_ctime_nsec))),
        mtime: stat.map_or(time(0, 0), |s| time(s.st_mtime as i32, low(s.st_mtime_nsec))),
        dev: stat.map_or(0, |s| s.st_dev as u32),
        ino: stat.map_or(0, |s| s.st_ino as u32),
        mode,
        uid: stat.map_or(0, |s| s.st_uid),
        gid: stat.map_or(0, |s| s.st_gid),
        file_size: stat.map_or(0, |s| low(s.st_size)),
        id,
        flags: 0,
        flags_extended: 0,
        path: change.path.as_os_str().as_bytes().to_vec(),
    }
}

/// The files are there: index and branch follow, or neither.
fn complete(
    folders: &Folders,
    repository: &Repository,
    forward: &FastForward,
    index: &mut Index,
    changes: &[Change],
) -> Result<(), Stop> {
    for change in changes.iter().filter(|change| change.is_submodule() && change.old.is_none()) {
        folders.work.make_submodule(&change.path);
    }
    for change in changes.iter().filter(|change| !change.is_submodule()) {
        if let Some((id, mode)) = change.new {
            index.add(&entry(change, id, mode, folders.work.stat(&change.path)?))?;
        }
    }
    index.write()?;
    // The old one stays in the staging folder until the branch has moved: git may hold the lock of that.
    let exchange =
        || renameat2(&folders.staging, "index", &folders.git, "index", RenameFlags::RENAME_EXCHANGE);
    exchange()?;
    move_branch(folders, repository, forward).inspect_err(|_| {
        // When this fails as well, the index says that the files are staged, and nothing is lost.
        let _ = exchange();
    })
}

fn move_branch(folders: &Folders, repository: &Repository, forward: &FastForward) -> Result<(), Stop> {
    let who = fetch::who(repository);
    let files = RefFiles::begin(&folders.git, &who)?;
    let name = format!("refs/heads/{}", forward.branch);
    let done = files.set(&name, Some(&forward.from), &forward.to, "rosterd: Fast-forward");
    files.end()?;
    done.map_err(|errno| match errno {
        Errno::EEXIST => Stop::Because("another git command holds the lock of its branch".into()),
        Errno::ESTALE => Stop::Because("its branch has moved meanwhile".into()),
        errno => Stop::Os(errno),
    })
}

/// Ends a fast-forward that was interrupted. Before the journal was written nothing had been touched. After it the
/// files that are not in their place yet go there, unless git changed the index since: then what is in the work
/// tree is what its person wants there.
pub(crate) fn finish(home: &OwnedFd, path: &str) -> Result<(), Failure> {
    let failed = |stop: Stop| stop.failure(path);
    let git = tree::open(home, &format!("{path}/.git"), OFlag::O_PATH | OFlag::O_DIRECTORY);
    let git = git.map_err(|errno| failed(Stop::Os(errno)))?;
    if exists(&git, ROOM).is_ok_and(|exists| exists) {
        match RefFiles::begin(&git, "").and_then(RefFiles::end) {
            Ok(()) | Err(Errno::EWOULDBLOCK) => {}
            Err(errno) => return Err(failed(Stop::Os(errno))),
        }
    }
    if !exists(&git, STAGING).is_ok_and(|exists| exists) {
        return Ok(());
    }
    let folders = match Folders::open(home, path) {
        Ok(folders) => folders,
        // It is not interrupted at all.
        Err(Errno::EWOULDBLOCK) => return Ok(()),
        // Killed between the making of the two folders.
        Err(Errno::ENOENT) => {
            return tree::remove(&git, STAGING).map_err(|errno| failed(Stop::Os(errno)));
        }
        Err(errno) => return Err(failed(Stop::Os(errno))),
    };
    let journal = tree::read(&folders.staging, JOURNAL, MAX_JOURNAL).ok().flatten();
    let journal = journal.and_then(|text| serde_json::from_slice::<Journal>(&text).ok());
    let done = match journal {
        Some(journal) if folders.has_lock().is_ok_and(|has| has) && journal.forward.path == path => {
            resume(&folders, &journal)
        }
        _ => Ok(()),
    };
    done.and_then(|()| folders.clear().map_err(Stop::Os)).map_err(failed)
}

fn resume(folders: &Folders, journal: &Journal) -> Result<(), Stop> {
    let Journal { forward, index: before, ops } = journal;
    let repository = fetch::open(&forward.path).map_err(Stop::Because)?;
    let name = format!("refs/heads/{}", forward.branch);
    let tip = repository.find_reference(&name).ok().and_then(|reference| reference.target());
    if tip.map(|id| id.to_string()).as_deref() != Some(forward.from.as_str()) {
        return Ok(());
    }
    if folders.index()? != *before {
        // Either ours is there already, and only the branch is missing, or git has been at work.
        let head = Oid::from_str(forward.to.as_str())?;
        let tree = repository.find_commit(head)?.tree()?;
        let same = repository.diff_tree_to_index(Some(&tree), None, None)?.deltas().len() == 0;
        let exchanged = tree::stat(&folders.staging, "index")?.map(Stamp::from) == Some(*before);
        if same && exchanged {
            move_branch(folders, &repository, forward)?;
        }
        return Ok(());
    }
    let changes = inspect::changes(&repository, forward)?;
    // An index that was being written when the kill came is made anew.
    for name in ["index", LOCK] {
        match unlinkat(&folders.staging, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    folders.work.forward(ops)?;
    let staging = Path::new(&forward.path).join(".git").join(STAGING);
    let mut index = new_index(folders, &staging, &changes)?;
    complete(folders, &repository, forward, &mut index, &changes)
}

fn exists(dir: &OwnedFd, name: &str) -> nix::Result<bool> {
    match nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
