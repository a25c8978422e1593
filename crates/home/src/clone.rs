//! The steps in a home: make a folder, clone a repository, remove an unfinished clone. A clone is made beside its
//! place and moved there whole, so that at any moment there is none or all of it.

use std::os::fd::OwnedFd;
use std::path::Path;

use git2::build::{CheckoutBuilder, CloneLocal, RepoBuilder};
use git2::{Oid, Repository};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};

use roster::desired::CloneDesired;
use roster::plan::HomeAction;
use roster::remote::MirrorClone;

use crate::credentials::Credentials;
use crate::objects::Mirrors;
use crate::protocol::Failure;
use crate::transfer::{self, Bounds, Transfer};
use crate::{fast_forward, fetch, locked, moves, sys, tree, wiring};

/// Does one step. `bounds` are those of a transfer, when it is one. Says why it was not done as it should be, when it was
/// done in another way.
pub(crate) fn apply(
    home: &OwnedFd,
    mirrors: Option<&Mirrors>,
    action: &HomeAction,
    bounds: Bounds,
) -> Result<Option<String>, Failure> {
    // What a person finds in the clone has the modes that their own git would give it; the home itself is 0700.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    match action {
        HomeAction::MakeFolder { path } => {
            let (parent, name) = tree::parent(home, path).map_err(|errno| cannot("make", path, errno))?;
            tree::make_folder(&parent, name).map_err(|errno| cannot("make", path, errno))?;
        }
        HomeAction::RemoveUnfinished { path } => remove_unfinished(home, path)?,
        HomeAction::Clone(wanted) => clone(home, wanted, bounds)?,
        HomeAction::Fetch(wanted) => return fetch::fetch(home, mirrors, wanted, bounds),
        HomeAction::FastForward(forward) => fast_forward::apply(home, forward)?,
        HomeAction::FinishRefresh { path } => fast_forward::finish(home, path)?,
        HomeAction::Move(action) => moves::apply(home, action)?,
        HomeAction::Wire(wire) => wiring::apply(home, wire)?,
        HomeAction::File(_) => {
            return Err(Failure::new(
                "its text did not come with it",
                "this is a defect of rosterd; report it",
            ));
        }
    }
    Ok(None)
}

pub(crate) fn cannot(what: &str, path: &str, errno: Errno) -> Failure {
    let next = match errno {
        Errno::ENOSPC | Errno::EDQUOT => "free some space; tried again later by itself".to_owned(),
        Errno::EROFS => "make the file system writable; tried again later by itself".to_owned(),
        Errno::EACCES => format!("let the person make ~/{path} accessible to themselves (`chmod u+rwx`)"),
        _ => format!("look at ~/{path} with the person; nothing there was touched"),
    };
    Failure::new(format!("cannot {what} ~/{path}: {}", tree::words(errno)), next)
}

/// Only what carries the mark is ever removed, whoever asks.
fn remove_unfinished(home: &OwnedFd, path: &str) -> Result<(), Failure> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if !tree::is_unfinished(name) {
        let why = format!("refused to remove ~/{path}: it is no unfinished clone");
        return Err(Failure::new(why, "this is an error in rosterd; please report it"));
    }
    let (parent, name) = tree::parent(home, path).map_err(|errno| cannot("remove", path, errno))?;
    match tree::stat(&parent, name).map_err(|errno| cannot("remove", path, errno))? {
        None => Ok(()),
        Some(stat) if !tree::is_folder(&stat) => {
            let why = format!(
                "refused to remove ~/{path}: it is {}, which rosterd did not make",
                tree::kind(&stat)
            );
            Err(Failure::new(why, format!("let the person move ~/{path} away")))
        }
        Some(_) => tree::remove(&parent, name).map_err(|errno| cannot("remove", path, errno)),
    }
}

/// Clones from the server.
fn clone(home: &OwnedFd, wanted: &CloneDesired, bounds: Bounds) -> Result<(), Failure> {
    let transfer = Transfer::new(&wanted.url, bounds, Some(Credentials::new(home, &wanted.url)));
    beside(home, wanted, |into, _| {
        from_server(wanted, &transfer, into).map_err(|error| {
            let (why, next) = transfer.explain(&error);
            Failure::new(why, next)
        })
    })
}

/// Clones from the mirror, and from the server when that fails: then it says why.
pub(crate) fn clone_mirrored(
    home: &OwnedFd,
    mirrors: Option<&Mirrors>,
    wanted: &MirrorClone,
    bounds: Bounds,
) -> Result<Option<String>, Failure> {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let failed = |why: String| Failure::new(why, "");
    let mirrors = mirrors.ok_or_else(|| failed("the folder of the mirrors cannot be opened".into()));
    let copied = mirrors.and_then(|mirrors| {
        beside(home, &wanted.wanted, |into, fd| {
            from_mirror(mirrors, wanted, bounds, into, fd).map_err(failed)
        })
    });
    match copied {
        Ok(()) => Ok(None),
        // What stands in the way of one way stands in the way of the other; the second says it.
        Err(first) => clone(home, &wanted.wanted, bounds).map(|()| Some(first.why)),
    }
}

/// Makes a clone beside its place by `make`, which gets a folder by path and by descriptor, and moves it there.
fn beside(
    home: &OwnedFd,
    wanted: &CloneDesired,
    make: impl FnOnce(&Path, &OwnedFd) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let CloneDesired { path, url, .. } = wanted;
    transfer::check_url(url).map_err(|(why, next)| Failure::new(why, next))?;
    let (parent, name) = tree::parent(home, path).map_err(|errno| cannot("make", path, errno))?;
    if tree::stat(&parent, name).map_err(|errno| cannot("look at", path, errno))?.is_some() {
        return Err(cannot("make", path, Errno::EEXIST));
    }
    let unfinished = tree::unfinished(path);
    let (_, beside) = unfinished.rsplit_once('/').unwrap_or(("", &unfinished));
    tree::make_folder(&parent, beside).map_err(|errno| cannot("make", &unfinished, errno))?;

    let done = tree::open(&parent, beside, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(|errno| cannot("make", &unfinished, errno))
        .and_then(|folder| make(Path::new(&unfinished), &folder))
        .and_then(|()| {
            // On disk before it has its name: after a power cut nobody would look into a clone that seems complete.
            tree::sync(&parent).map_err(|errno| cannot("write", &unfinished, errno))?;
            // The place was free a moment ago. If the person has put something there since, it stays.
            tree::rename(&parent, beside, name).map_err(|errno| cannot("make", path, errno))
        });
    if done.is_err() {
        // If this fails as well, the next observation finds it.
        let _ = tree::remove(&parent, beside);
    }
    done
}

/// Clones by libgit2's own clone.
fn from_server(wanted: &CloneDesired, transfer: &Transfer<'_>, into: &Path) -> Result<(), git2::Error> {
    sys::set_up_libgit2()?;
    RepoBuilder::new()
        .clone_local(CloneLocal::None)
        .fetch_options(transfer.options())
        // Called before anything is fetched, so the filter is there at the first checkout.
        .remote_create(|repository, name, url| {
            if wanted.locked {
                locked::lock(repository)?;
            }
            repository.remote(name, url)
        })
        .clone(&wanted.url, into)
        .and_then(|repository| if wanted.locked { locked::lock_named(&repository) } else { Ok(()) })
}

/// Clones from the mirror: the same refs and settings that libgit2's own clone makes.
fn from_mirror(
    mirrors: &Mirrors,
    wanted: &MirrorClone,
    bounds: Bounds,
    into: &Path,
    folder: &OwnedFd,
) -> Result<(), String> {
    let CloneDesired { url, locked, .. } = &wanted.wanted;
    let git = |error: git2::Error| error.message().to_owned();
    let errno = |errno| tree::words(errno).to_owned();
    sys::set_up_libgit2().map_err(git)?;
    let repository = Repository::init(into).map_err(git)?;
    if *locked {
        locked::lock(&repository).map_err(git)?;
    }
    repository.remote("origin", url).map_err(git)?;
    let packs = tree::open(folder, ".git/objects/pack", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(errno)?;
    mirrors.copy(url, &packs, bounds.mib)?;
    check_out(&repository, wanted, folder)?;
    if *locked { locked::lock_named(&repository).map_err(git) } else { Ok(()) }
}

fn check_out(repository: &Repository, wanted: &MirrorClone, folder: &OwnedFd) -> Result<(), String> {
    let git = |error: git2::Error| error.message().to_owned();
    let MirrorClone { wanted: CloneDesired { url, .. }, refs } = wanted;
    let head = refs.head.as_ref().ok_or("its default branch is not known")?;
    let tip = refs.branches.get(head).ok_or("its default branch is not there")?;
    let odb = repository.odb().map_err(git)?;
    odb.refresh().map_err(git)?;
    let mut lines = String::from("# pack-refs with: sorted \n");
    for (prefix, refs) in [("refs/remotes/origin/", &refs.branches), ("refs/tags/", &refs.tags)] {
        for (name, id) in refs {
            if !Oid::from_str(id.as_str()).is_ok_and(|id| odb.exists(id)) {
                return Err(format!("it does not have {prefix}{name}"));
            }
            lines.push_str(&format!("{id} {prefix}{name}\n"));
        }
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(folder, ".git/packed-refs", flags, Mode::from_bits_truncate(0o644));
    let mut file = std::fs::File::from(file.map_err(|errno| tree::words(errno).to_owned())?);
    std::io::Write::write_all(&mut file, lines.as_bytes()).map_err(|error| error.to_string())?;

    let set = || {
        let text = format!("clone: from {url}");
        let target = format!("refs/remotes/origin/{head}");
        repository.reference_symbolic("refs/remotes/origin/HEAD", &target, true, &text)?;
        let local = format!("refs/heads/{head}");
        repository.reference(&local, Oid::from_str(tip.as_str())?, true, &text)?;
        repository.set_head(&local)?;
        let mut config = repository.config()?;
        config.set_str(&format!("branch.{head}.remote"), "origin")?;
        config.set_str(&format!("branch.{head}.merge"), &local)?;
        repository.checkout_head(Some(CheckoutBuilder::new().force()))
    };
    set().map_err(git)
}
