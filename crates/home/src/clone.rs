//! The steps in a home: make a folder, clone a repository, remove an unfinished clone. A clone is made beside its
//! place and moved there whole, so that at any moment there is none or all of it.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use git2::build::{CloneLocal, RepoBuilder};
use git2::{ErrorClass, ErrorCode, FetchOptions, RemoteCallbacks, RemoteRedirect};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use roster::desired::CloneDesired;
use roster::plan::HomeAction;

use crate::credentials::{Credentials, host_of};
use crate::protocol::Failure;
use crate::{locked, moves, sys, tree, wiring};

const LATER: &str = "tried again later by itself";

/// What a transfer may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// When it gives up, early enough to clean up.
    pub(crate) deadline: Instant,
    /// What a server may send for one clone.
    pub(crate) bytes: u64,
}

/// Does one step.
pub(crate) fn apply(home: &OwnedFd, action: &HomeAction, limits: Limits) -> Result<(), Failure> {
    // What a person finds in the clone has the modes that their own git would give it; the home itself is 0700.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    match action {
        HomeAction::MakeFolder { path } => {
            let (parent, name) = tree::parent(home, path).map_err(|errno| cannot("make", path, errno))?;
            tree::make_folder(&parent, name).map_err(|errno| cannot("make", path, errno))
        }
        HomeAction::RemoveUnfinished { path } => remove_unfinished(home, path),
        HomeAction::Clone(wanted) => clone(home, wanted, limits),
        HomeAction::Move(action) => moves::apply(home, action),
        HomeAction::Wire(wire) => wiring::apply(home, wire),
    }
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

fn clone(home: &OwnedFd, wanted: &CloneDesired, limits: Limits) -> Result<(), Failure> {
    let CloneDesired { path, url, .. } = wanted;
    check_url(wanted)?;
    if Instant::now() >= limits.deadline {
        let why = "not tried: the steps before it have used up the time for one home";
        return Err(Failure::new(why, "tried again later by itself; see what those before it waited for"));
    }
    let (parent, name) = tree::parent(home, path).map_err(|errno| cannot("make", path, errno))?;
    if tree::stat(&parent, name).map_err(|errno| cannot("look at", path, errno))?.is_some() {
        return Err(cannot("make", path, Errno::EEXIST));
    }
    let unfinished = tree::unfinished(path);
    let (_, beside) = unfinished.rsplit_once('/').unwrap_or(("", &unfinished));
    tree::make_folder(&parent, beside).map_err(|errno| cannot("make", &unfinished, errno))?;

    let attempt = Attempt {
        wanted,
        limits,
        credentials: RefCell::new(Credentials::new(home, url)),
        late: Cell::new(false),
        big: Cell::new(false),
    };
    let done = attempt
        .fetch_and_check_out(Path::new(&unfinished))
        .map_err(|error| attempt.explain(&error))
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

/// `http` and `https` speak to a server in this process. `ssh` and `git` would need the person's keys or start a
/// program, and a path or `file` would read what the worker must not see.
fn check_url(wanted: &CloneDesired) -> Result<(), Failure> {
    let CloneDesired { url, .. } = wanted;
    let refuse = |why: &str, next: &str| Err(Failure::new(why, next));
    let rest = ["https://", "http://"].into_iter().find_map(|scheme| url.strip_prefix(scheme));
    match rest {
        None => {
            refuse("only https:// and http:// are possible", "change the URL in /etc/rosterd/config.toml")
        }
        Some(rest) if rest.split('/').next().is_some_and(|authority| authority.contains('@')) => refuse(
            "its URL has a login in it, which would end in the clone's configuration",
            "remove it from the URL and put it into ~/.git-credentials of the person",
        ),
        Some(_) => Ok(()),
    }
}

/// One try to clone.
struct Attempt<'a> {
    wanted: &'a CloneDesired,
    limits: Limits,
    credentials: RefCell<Credentials<'a>>,
    /// libgit2 does not say that it was a callback of ours that ended a transfer.
    late: Cell<bool>,
    big: Cell<bool>,
}

impl Attempt<'_> {
    fn in_time(&self) -> bool {
        self.late.set(self.late.get() || Instant::now() >= self.limits.deadline);
        !self.late.get()
    }

    fn fetch_and_check_out(&self, into: &Path) -> Result<(), git2::Error> {
        sys::set_up_libgit2()?;
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(|asking, _, allowed| self.credentials.borrow_mut().next(asking, allowed));
        callbacks.transfer_progress(|progress| {
            self.big.set(progress.received_bytes() as u64 > self.limits.bytes);
            !self.big.get() && self.in_time()
        });
        callbacks.sideband_progress(|_| self.in_time());
        let mut fetch = FetchOptions::new();
        // To another path of the same host only: a redirect to another host would take the login along.
        fetch.remote_callbacks(callbacks).follow_redirects(RemoteRedirect::None);
        RepoBuilder::new()
            .clone_local(CloneLocal::None)
            .fetch_options(fetch)
            // Called before anything is fetched, so the filter is there at the first checkout.
            .remote_create(|repository, name, url| {
                if self.wanted.locked {
                    locked::lock(repository)?;
                }
                repository.remote(name, url)
            })
            .clone(&self.wanted.url, into)
            .map(drop)
    }

    /// What libgit2 says, for an admin.
    fn explain(&self, error: &git2::Error) -> Failure {
        let CloneDesired { url, .. } = self.wanted;
        let said = error.message();
        let has = |part: &str| said.to_ascii_lowercase().contains(part);
        let host = host_of(url);
        let scheme = url.split_once("://").map_or("https", |(scheme, _)| scheme);
        let add_login = format!(
            "add this line to ~/.git-credentials of the person, NAME and TOKEN percent-encoded: \
                 {scheme}://NAME:TOKEN@{host}"
        );
        let (why, next) = match (error.code(), error.class()) {
        (ErrorCode::Auth, _) => {
            let outcome = self.credentials.borrow().outcome.as_ref().map(|outcome| format!(", and {outcome}")).unwrap_or_default();
            (format!("the server asks for a login{outcome}"), add_login)
        }
        (ErrorCode::Certificate, _) | (_, ErrorClass::Ssl) => (
            format!("its certificate is not trusted: {said}"),
            "put the authority's certificate into /usr/local/share/ca-certificates and run `update-ca-certificates`"
                .to_owned(),
        ),
        _ if self.big.get() => (
            format!("the server sent more than {} MiB", self.limits.bytes >> 20),
            "raise `worker.max_clone_mib` in /etc/rosterd/config.toml if the repository is that big".to_owned(),
        ),
        _ if self.late.get() => (
            "it takes longer than the time for one home".to_owned(),
            "raise `worker.deadline_s` in /etc/rosterd/config.toml, or look whether the server is slow".to_owned(),
        ),
        (_, ErrorClass::NoMemory) => (
            "it needs more memory than a worker may use".to_owned(),
            "raise `worker.memory_mib` in /etc/rosterd/config.toml".to_owned(),
        ),
        _ if has("status code: 404") => (
            "there is no such repository, or it is private and hidden from this person".to_owned(),
            format!("check the URL; if it is private, {add_login}"),
        ),
        _ if has("status code: 403") => {
            ("the server forbids it to this person".to_owned(), "give the person access to the repository".to_owned())
        }
        _ if has("cannot redirect") => (
            format!("the server sends to another host, which is not followed: {said}"),
            "put the URL it is sent to into /etc/rosterd/config.toml".to_owned(),
        ),
        _ if has("no space left") => ("the disk is full".to_owned(), format!("free some space; {LATER}")),
        _ if has("quota exceeded") => {
            ("the disk quota of the person is used up".to_owned(), format!("let them free some space; {LATER}"))
        }
        _ if has("read-only file system") => {
            ("the home is on a read-only file system".to_owned(), format!("make it writable; {LATER}"))
        }
        _ if has("connection refused") => ("connection refused".to_owned(), LATER.to_owned()),
        _ if has("timed out") => ("the server does not answer".to_owned(), LATER.to_owned()),
        _ if has("failed to resolve") => {
            (format!("no address is known for {host}"), format!("check the URL and the name server; {LATER}"))
        }
        _ => (said.to_owned(), LATER.to_owned()),
    };
        // Which repository and where to, the step has said.
        Failure::new(why, next)
    }
}
