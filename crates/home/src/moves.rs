//! Moves a clone with all that is in it, by renames alone: no file is copied, opened or removed, so whatever runs in
//! it runs on in the moved folder. Every rename wants a free name or exchanges two, below descriptors.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use roster::desired::HomeDesired;
use roster::moves::{Candidate, Lookout, Move, MovesObserved, Tracked};
use roster::observed::Place;

use crate::clone::cannot;
use crate::links::{self, Moving};
use crate::place::look;
use crate::protocol::Failure;
use crate::{sys, tree};

/// The index of a repository with a million files.
const MAX_INDEX: i64 = 256 << 20;

/// Whether a repository has something at a name in its index: [`tracked`], where there is libgit2.
pub(crate) type Tracks = fn(&OwnedFd, &str, &str) -> Result<Tracked, String>;

/// What may have to move. `code` is what stands at `~/code`. Nothing, when it takes `tracked` to tell and there is none.
pub(crate) fn observe(
    home: &OwnedFd,
    desired: &HomeDesired,
    code: &Place,
    tracked: Option<Tracks>,
) -> Option<MovesObserved> {
    let is_clone = |path: &str| matches!(look(home, path), Place::Clone { .. });
    let [single, on_the_way, workspace] = Lookout::infra();
    let infra = match () {
        () if desired.workspace && matches!(code, Place::Clone { .. }) => single.clone(),
        () if is_clone(&on_the_way) => on_the_way,
        () => workspace.clone(),
    };
    let lookout = Lookout::of(desired, &infra);
    let mut observed = MovesObserved::default();
    // Behind a symlink there is nothing of ours.
    let can_hold = |path: &String| !path.starts_with("code/") || *code == Place::Folder;
    for path in lookout.hidden.into_iter().filter(can_hold) {
        match look(home, &path) {
            Place::Absent => {}
            found => _ = observed.on_the_way.insert(path, found),
        }
    }
    if infra == single {
        let candidate = candidate(home, &single, &workspace, Tracked::No);
        observed.candidates.insert(single, candidate);
    }
    for path in lookout.nested.into_iter().filter(|path| is_clone(path)) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let tracked = tracked?(home, &infra, name).unwrap_or_else(Tracked::Unknown);
        let candidate = candidate(home, &path, &format!("code/{name}"), tracked);
        observed.candidates.insert(path, candidate);
    }
    if !desired.workspace && !matches!(code, Place::Clone { .. }) {
        observed.infra = look(home, &workspace);
    }
    Some(observed)
}

fn candidate(home: &OwnedFd, from: &str, to: &str, tracked: Tracked) -> Candidate {
    // A clone is moved to `to`, but its links name the place where it is now.
    let found = std::env::current_dir()
        .map_err(|_| Errno::ENOENT)
        .and_then(|root| links::baggage(home, &root, from, to));
    match found {
        Ok((obstacles, remarks)) => Candidate { tracked, obstacles, remarks },
        Err(errno) => {
            let obstacle = format!("its worktrees cannot be looked at: {}", tree::words(errno));
            Candidate { tracked, obstacles: vec![obstacle], remarks: Vec::new() }
        }
    }
}

/// Whether the repository at `infra` has something at `name` in its index.
pub(crate) fn tracked(home: &OwnedFd, infra: &str, name: &str) -> Result<Tracked, String> {
    let path = format!("{infra}/.git/index");
    let stat = tree::open(home, &path, OFlag::O_PATH).and_then(fstat).map_err(|errno| match errno {
        Errno::ENOENT => "it has no index".to_owned(),
        errno => tree::words(errno).to_owned(),
    })?;
    // libgit2 opens it by its path: what could make it wait is kept from it here.
    if !tree::is_file(&stat) || stat.st_size > MAX_INDEX {
        return Err("its index is no file of a usual size".to_owned());
    }
    let said = |error: git2::Error| error.message().to_owned();
    sys::set_up_libgit2().map_err(said)?;
    let index = git2::Index::open(Path::new(&path)).map_err(said)?;
    let below = format!("{name}/");
    let holds =
        index.iter().any(|entry| entry.path == name.as_bytes() || entry.path.starts_with(below.as_bytes()));
    Ok(if holds { Tracked::Yes } else { Tracked::No })
}

/// Does one move, or the rest of one.
pub(crate) fn apply(home: &OwnedFd, action: &Move) -> Result<(), Failure> {
    match action {
        Move::Clone { from, through, to } => bring(home, from, through, to),
        Move::CleanUp { path } => {
            let (dir, name) = tree::parent(home, path).map_err(|errno| cannot("remove", path, errno))?;
            unlinkat(&dir, name, UnlinkatFlags::RemoveDir).map_err(|errno| cannot("remove", path, errno))
        }
    }
}

fn bring(home: &OwnedFd, from: &str, through: &str, to: &str) -> Result<(), Failure> {
    let failed = |errno| {
        let failure = cannot("move", from, errno);
        Failure { why: format!("{} (on its way to ~/{to})", failure.why), next: failure.next }
    };
    let (hidden_in, hidden) = tree::parent(home, through).map_err(failed)?;
    let makes_room = Path::new(to).starts_with(from);
    if !is_there(home, through).map_err(failed)? {
        let (above, name) = tree::parent(home, from).map_err(failed)?;
        if makes_room {
            make_room(&above, name, &hidden_in, hidden).map_err(failed)?;
        } else {
            tree::bring(&above, name, &hidden_in, hidden).map_err(failed)?;
        }
        sync(&above).and_then(|()| sync(&hidden_in)).map_err(failed)?;
    }
    let root = std::env::current_dir().map_err(|_| failed(Errno::ENOENT))?;
    let broken = Moving { home, root: &root, now: through, from, to }.repair();
    if makes_room {
        match mkdirat(home, from, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let (folder, name) = tree::parent(home, to).map_err(failed)?;
    tree::bring(&hidden_in, hidden, &folder, name).map_err(failed)?;
    sync(&folder).and_then(|()| sync(&hidden_in)).map_err(failed)?;
    if broken.is_empty() {
        return Ok(());
    }
    let why = format!("~/{from} is at ~/{to} now, but not all of its worktrees know: {}", broken.join("; "));
    Err(Failure::new(why, format!("let the person run `git -C ~/{to} worktree repair`")))
}

/// Whether the clone bears its hidden name already: what is there is more than the empty folder that was to take its
/// place.
fn is_there(home: &OwnedFd, through: &str) -> nix::Result<bool> {
    match tree::open(home, through, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Ok(folder) => Ok(!tree::is_empty(&folder)?),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Exchanges the clone and a new empty folder of the same mode, so that its place is never without one.
fn make_room(above: &OwnedFd, name: &str, hidden_in: &OwnedFd, hidden: &str) -> nix::Result<()> {
    let stat = fstat(tree::open(above, name, OFlag::O_PATH | OFlag::O_DIRECTORY)?)?;
    match mkdirat(hidden_in, hidden, Mode::from_bits_truncate(stat.st_mode & 0o777)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let exchanged = tree::exchange(above, name, hidden_in, hidden).and_then(|()| {
        let moved = tree::stat(hidden_in, hidden)?;
        if moved.is_some_and(|moved| (moved.st_dev, moved.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        // It was not the clone any more. Whatever it is goes back.
        tree::exchange(above, name, hidden_in, hidden)?;
        Err(Errno::ESTALE)
    });
    if exchanged.is_err() {
        // Empty, or not ours to remove.
        let _ = unlinkat(hidden_in, hidden, UnlinkatFlags::RemoveDir);
    }
    exchanged
}

fn sync(dir: &OwnedFd) -> nix::Result<()> {
    fsync(tree::open(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}
