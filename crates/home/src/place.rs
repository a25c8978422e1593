//! What a home shows. Every lookup is below the home's descriptor; nothing is listed further than needed, no index
//! and no object is read, and nothing a user can plant makes it wait.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::Uid;

use roster::desired::HomeDesired;
use roster::moves::Lookout;
use roster::observed::{HomeObserved, Place};

use crate::edit::MAX_CONFIG;
use crate::{files, gitconfig, locked, moves, tree, wiring};

/// Looks at `~/code` and at each place where a clone should be. Nothing, when it takes `tracked` to tell and there is
/// none.
pub(crate) fn observe(
    home: &OwnedFd,
    desired: &HomeDesired,
    tracked: Option<moves::Tracks>,
) -> Option<HomeObserved> {
    let mut unfinished: Vec<String> = std::iter::once("code")
        .chain(desired.clones.iter().map(|clone| clone.path.as_str()))
        .map(tree::unfinished)
        .filter(|path| tree::open(home, path, OFlag::O_PATH).is_ok())
        .collect();
    unfinished.sort();
    unfinished.dedup();
    let code = look(home, "code");
    let moves = moves::observe(home, desired, &code, tracked)?;
    let clones: BTreeMap<_, _> =
        desired.clones.iter().map(|clone| (clone.path.clone(), look(home, &clone.path))).collect();
    let infra = Lookout::infra().into_iter().filter(|path| matches!(look(home, path), Place::Clone { .. }));
    let wiring = wiring::observe(home, desired, &infra.collect::<Vec<_>>());
    let files = files::observe(home, &desired.files);
    let closed_bases = files::closed_bases(home, &desired.bases);
    Some(HomeObserved { code, clones, unfinished, moves, wiring, files, closed_bases })
}

pub(crate) fn look(home: &OwnedFd, path: &str) -> Place {
    let found = match tree::open(home, path, OFlag::O_PATH) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Place::Absent,
        Err(Errno::ELOOP) => return Place::Other("a place behind a symlink".into()),
        Err(Errno::ENOTDIR) => return Place::Other("a place below something that is no folder".into()),
        Err(errno) => return unreadable(errno),
    };
    match fstat(&found) {
        Err(errno) => unreadable(errno),
        Ok(stat) if !tree::is_folder(&stat) => Place::Other(tree::kind(&stat).into()),
        // As git does: what is in a stranger's repository is nobody's wish here.
        Ok(stat) if stat.st_uid != Uid::current().as_raw() => {
            Place::Other(format!("a folder that belongs to uid {}", stat.st_uid))
        }
        Ok(_) => look_inside(&found).unwrap_or_else(unreadable),
    }
}

fn look_inside(folder: &OwnedFd) -> nix::Result<Place> {
    Ok(match tree::stat(folder, ".git")? {
        Some(git) if tree::is_folder(&git) => {
            let git = tree::open(folder, ".git", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            if is_repository(&git)? {
                clone(&git)
            } else {
                Place::Other("a folder whose .git is no repository".into())
            }
        }
        Some(git) => Place::Other(format!("a folder whose .git is {}", tree::kind(&git))),
        None if is_repository(folder)? => Place::Other("a bare repository".into()),
        None if tree::is_empty(folder)? => Place::EmptyFolder,
        None => Place::Folder,
    })
}

/// What git itself asks of a folder before it takes it for a repository.
fn is_repository(git: impl AsFd) -> nix::Result<bool> {
    let folder = |name| Ok(tree::stat(&git, name)?.is_some_and(|stat| tree::is_folder(&stat)));
    Ok(tree::stat(&git, "HEAD")?.is_some() && folder("objects")? && folder("refs")?)
}

fn clone(git: &OwnedFd) -> Place {
    let text = match tree::read(git, "config", MAX_CONFIG) {
        Ok(content) => content.unwrap_or_default(),
        Err(why) => return Place::Unreadable(format!("its .git/config: {why}")),
    };
    match gitconfig::entries(&text) {
        Ok(entries) => Place::Clone {
            origin: gitconfig::value(&entries, "remote.origin.url").map(without_user),
            locked: match gitconfig::value(&entries, "filter.git-crypt.clean") {
                None => locked::has_answers(&entries),
                clean => locked::is_locked(clean),
            },
        },
        Err(line) => Place::Unreadable(format!("its .git/config: line {line} is malformed")),
    }
}

/// A URL without what may be a secret in it.
pub(crate) fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[host..])
        }
        None => url.to_owned(),
    }
}

fn unreadable(errno: Errno) -> Place {
    Place::Unreadable(tree::words(errno).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_7_a_url_is_told_without_its_user() {
        for (url, told) in [
            ("https://bob:s3cret@git.example/a@b.git", "https://git.example/a@b.git"),
            ("https://t@k@git.example:8443", "https://git.example:8443"),
            ("https://git.example/x", "https://git.example/x"),
            ("git@git.example:x", "git@git.example:x"),
        ] {
            assert_eq!(without_user(url), told);
        }
    }
}
