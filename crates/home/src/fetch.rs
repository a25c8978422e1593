//! Brings what moved at a remote into a clone: objects first, then refs, and nothing into the work tree. Objects
//! come from the mirror where the remote is public, else from the server with the person's own login.

use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use git2::{ErrorCode, Oid, Repository, RepositoryOpenFlags};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use roster::remote::Fetch;

use crate::credentials::Credentials;
use crate::objects::Mirrors;
use crate::protocol::Failure;
use crate::transfer::{self, Transfer};
use crate::{sys, tree};

/// What was done, and why not as it should: the mirror failed, and the server was asked.
pub(crate) type Done = Option<String>;

/// Opens the clone at `path` and nothing else: no folder above it, and no work tree but its own.
pub(crate) fn open(path: &str) -> Result<Repository, String> {
    let open = || {
        sys::set_up_libgit2()?;
        let none: [&std::ffi::OsStr; 0] = [];
        Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, none)
    };
    let repository = open().map_err(|error| error.message().to_owned())?;
    let expected = std::env::current_dir().map(|home| home.join(path)).map_err(|error| error.to_string())?;
    match repository.workdir() {
        Some(folder) if folder.components().eq(expected.components()) => Ok(repository),
        _ => Err("its work tree is not where it is".to_owned()),
    }
}

/// Fetches.
pub(crate) fn fetch(
    home: &OwnedFd,
    mirrors: Option<&Mirrors>,
    wanted: &Fetch,
    deadline: Instant,
) -> Result<Done, Failure> {
    let Fetch { path, url, .. } = wanted;
    let failed = |(why, next): (String, String)| {
        Failure::new(format!("cannot fetch {url} into ~/{path}: {why}"), next)
    };
    let look = |why: String| failed((why, format!("look at ~/{path} with the person; nothing there was changed")));
    transfer::check_url(url).map_err(|(why, next)| failed((why.into(), next.into())))?;
    let repository = open(path).map_err(look)?;
    let ids = wanted.moved.values().chain(wanted.tags.values());
    let ids: Vec<Oid> = ids
        .map(|id| Oid::from_str(id.as_str()))
        .collect::<Result<_, _>>()
        .map_err(|error| look(error.message().to_owned()))?;
    let has_all = |ids: &[Oid]| {
        let odb = repository.odb()?;
        odb.refresh()?;
        Ok(ids.iter().all(|id| odb.exists(*id)))
    };
    let git = |error: git2::Error| look(error.message().to_owned());
    let mut damaged = None;
    let began = SystemTime::now();
    if !has_all(&ids).map_err(git)? && let Some(mirrors) = mirrors.filter(|_| wanted.mirrored) {
        damaged = mirrors.bring(url, &ids, &repository).err();
    }
    if !has_all(&ids).map_err(git)? {
        let transfer = Transfer::new(url, deadline, Some(Credentials::new(home, url)));
        from_server(&repository, wanted, &transfer).map_err(|error| failed(transfer.explain(&error)))?;
        if !has_all(&ids).map_err(git)? {
            return Err(failed((
                "its refs moved again meanwhile".into(),
                "tried again later by itself".into(),
            )));
        }
    }
    // On disk before a ref names it.
    sync_new_packs(home, path, began).map_err(|errno| look(tree::words(errno).to_owned()))?;
    move_refs(&repository, wanted).map_err(|error| match error.code() {
        ErrorCode::Locked => failed((
            "another git command holds a lock in it".into(),
            "tried again later by itself".into(),
        )),
        _ => git(error),
    })?;
    Ok(damaged)
}

/// Writes to disk the packs that were written since `began`.
fn sync_new_packs(home: &OwnedFd, path: &str, began: SystemTime) -> nix::Result<()> {
    let folder = tree::open(home, &format!("{path}/.git/objects/pack"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    // The clock of the file system may lag behind by a tick, and the worst is to sync an older pack.
    let since = began.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64 - 1);
    let here = folder.try_clone().map_err(|_| Errno::EMFILE)?;
    for entry in Dir::from_fd(here)?.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_new = |stat: FileStat| !tree::is_folder(&stat) && stat.st_mtime.max(stat.st_ctime) >= since;
        if tree::stat(&folder, name)?.is_some_and(is_new) {
            nix::unistd::fsync(tree::open(&folder, name, OFlag::O_RDONLY)?)?;
        }
    }
    nix::unistd::fsync(folder)
}

fn from_server(repository: &Repository, wanted: &Fetch, transfer: &Transfer<'_>) -> Result<(), git2::Error> {
    let Fetch { remote, url, .. } = wanted;
    let branches = wanted.moved.keys().map(|name| format!("+refs/heads/{name}:refs/remotes/{remote}/{name}"));
    let tags = wanted.tags.keys().map(|name| format!("+refs/tags/{name}:refs/tags/{name}"));
    let specs: Vec<String> = branches.chain(tags).collect();
    repository.remote_anonymous(url)?.download(&specs, Some(&mut transfer.options()))
}

fn move_refs(repository: &Repository, wanted: &Fetch) -> Result<(), git2::Error> {
    let full = |name: &dyn std::fmt::Display| format!("refs/remotes/{}/{name}", wanted.remote);
    // First, so that `topic/a` can take the place of `topic`.
    for branch in &wanted.gone {
        match repository.find_reference(&full(branch)) {
            Ok(mut reference) => reference.delete()?,
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for (branch, id) in &wanted.moved {
        let text = format!("fetch {}: rosterd", wanted.remote);
        repository.reference(&full(branch), Oid::from_str(id.as_str())?, true, &text)?;
    }
    for (tag, id) in &wanted.tags {
        let name = format!("refs/tags/{tag}");
        match repository.reference(&name, Oid::from_str(id.as_str())?, false, "") {
            // The person made one meanwhile: theirs stays.
            Err(error) if error.code() != ErrorCode::Exists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
