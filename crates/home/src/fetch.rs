//! Brings what moved at a remote into a clone: objects first, then refs, and nothing into the work tree. Objects
//! come from the mirror where the remote is public, else from the server with the person's own login.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use git2::{Oid, Repository, RepositoryOpenFlags};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use roster::remote::Fetch;

use crate::credentials::Credentials;
use crate::objects::Mirrors;
use crate::protocol::Failure;
use crate::ref_files::RefFiles;
use crate::transfer::{self, Bounds, Transfer};
use crate::{refs, sys, tree};

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
    bounds: Bounds,
) -> Result<Done, Failure> {
    let Fetch { path, url, .. } = wanted;
    let failed = |(why, next): (String, String)| {
        Failure::new(format!("cannot fetch {url} into ~/{path}: {why}"), next)
    };
    let look =
        |why: String| failed((why, format!("look at ~/{path} with the person; nothing there was changed")));
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
    if !has_all(&ids).map_err(git)?
        && let Some(mirrors) = mirrors.filter(|_| wanted.mirrored)
    {
        damaged = mirrors.bring(url, &ids, &repository).err();
    }
    if !has_all(&ids).map_err(git)? {
        let transfer = Transfer::new(url, bounds, Some(Credentials::new(home, url)));
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
    move_refs(home, &who(&repository), wanted).map_err(|errno| match errno {
        Errno::EEXIST | Errno::EWOULDBLOCK => {
            failed(("another git command holds a lock in it".into(), "tried again later by itself".into()))
        }
        errno => look(tree::words(errno).to_owned()),
    })?;
    Ok(damaged)
}

/// Writes to disk the packs that were written since `began`.
fn sync_new_packs(home: &OwnedFd, path: &str, began: SystemTime) -> nix::Result<()> {
    let folder =
        tree::open(home, &format!("{path}/.git/objects/pack"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
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
    Ok(())
}

fn from_server(repository: &Repository, wanted: &Fetch, transfer: &Transfer<'_>) -> Result<(), git2::Error> {
    let Fetch { remote, url, .. } = wanted;
    let branches = wanted.moved.keys().map(|name| format!("+refs/heads/{name}:refs/remotes/{remote}/{name}"));
    let tags = wanted.tags.keys().map(|name| format!("+refs/tags/{name}:refs/tags/{name}"));
    let specs: Vec<String> = branches.chain(tags).collect();
    repository.remote_anonymous(url)?.download(&specs, Some(&mut transfer.options()))
}

/// Who moves refs, as a record of them has it: the person, as far as the clone knows them.
pub(crate) fn who(repository: &Repository) -> String {
    let known = repository.signature().ok().and_then(|who| {
        let (name, email) = (who.name().ok()?.to_owned(), who.email().ok()?.to_owned());
        Some(format!("{name} <{email}>"))
    });
    let plain = |who: &String| !who.contains(|c: char| c.is_control());
    known.filter(plain).unwrap_or_else(|| "rosterd <rosterd@localhost>".into())
}

fn move_refs(home: &OwnedFd, who: &str, wanted: &Fetch) -> nix::Result<()> {
    let Fetch { path, remote, moved, gone, tags, .. } = wanted;
    let git = tree::open(home, &format!("{path}/.git"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let files = RefFiles::begin(&git, who)?;
    // First, so that `topic/a` can take the place of `topic`.
    let gone: Vec<_> = gone.iter().map(|branch| format!("refs/remotes/{remote}/{branch}")).collect();
    files.remove(&gone)?;
    for (branch, id) in moved {
        files.set(
            &format!("refs/remotes/{remote}/{branch}"),
            None,
            id,
            &format!("fetch {remote}: rosterd"),
        )?;
    }
    for (tag, id) in tags {
        let name = format!("refs/tags/{tag}");
        // One that the person made meanwhile stays.
        if refs::value(&git, &name).is_none() {
            files.set(&name, None, id, "")?;
        }
    }
    files.end()
}
