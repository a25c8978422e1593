//! The worker's own life: become the user, confine itself, then answer requests until the input ends. There are two
//! programs: one that only looks and starts in half a millisecond, because most homes want no more, and one that does
//! all the rest, with libgit2 and TLS.

use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use roster::observed::HomeObserved;
use roster::remote::{Asked, LookAt};

use crate::confine::Room;
use crate::credentials::Credentials;
use crate::objects::Mirrors;
use crate::protocol::{self, Become, Failure, Landlock, Reply, Request, Task};
use crate::transfer::{Bounds, Transfer};
use crate::{clone, confine, fast_forward, files, identity, mirror, moves, place, refs, tree};

/// A ref list comes at once or not at all; a server that accepts and says nothing holds up nobody for longer.
pub(crate) const ASK: Duration = Duration::from_secs(15);

/// The entry of `rosterd-worker`. Speaks the protocol of this crate over stdin and stdout, and nothing else.
pub fn worker() -> ExitCode {
    ended(serve(&mut io::stdin().lock(), &mut io::stdout().lock()))
}

/// The entry of `rosterd-look`: the same, for whoever only looks. Nothing that is reached from here may need libgit2, or
/// the program would load it and OpenSSL, which takes longer than the look.
pub fn look() -> ExitCode {
    ended(serve_looks(&mut io::stdin().lock(), &mut io::stdout().lock()))
}

fn ended(how: io::Result<()>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The daemon takes it up when the worker ends without an answer.
            let _ = writeln!(io::stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whom to become; nobody when there is nothing to do.
fn first(requests: &mut impl BufRead) -> io::Result<Option<Become>> {
    match protocol::next(requests)? {
        None => Ok(None),
        Some(Request::Become(person)) => Ok(Some(person)),
        Some(_) => Err(unexpected("the first request must say whom to become")),
    }
}

fn serve_looks(requests: &mut impl BufRead, replies: &mut impl Write) -> io::Result<()> {
    let Some(person) = first(requests)? else { return Ok(()) };
    if person.task != Task::Look {
        return Err(unexpected("this worker only looks"));
    }
    let (place, landlock) = match enter(&person) {
        Ok(entered) => entered,
        Err(failure) => return protocol::write_line(replies, &Reply::Failed(failure)),
    };
    protocol::write_line(replies, &Reply::Ready { landlock })?;
    let Place::Home { home, .. } = place else { return Ok(()) };
    while let Some(request) = protocol::next(requests)? {
        let reply = match request {
            Request::Observe(desired) => observed(place::observe(&home, &desired, None)),
            Request::Look(clones) => states(&home, &clones),
            _ => return Err(unexpected("this worker only looks")),
        };
        protocol::write_line(replies, &reply)?;
    }
    Ok(())
}

fn observed(observed: Option<HomeObserved>) -> Reply {
    observed.map_or(Reply::NeedsGit, |observed| Reply::Observed(Box::new(observed)))
}

fn states(home: &OwnedFd, clones: &[LookAt]) -> Reply {
    Reply::States(clones.iter().map(|look| refs::state(home, look)).collect())
}

fn serve(requests: &mut impl BufRead, replies: &mut impl Write) -> io::Result<()> {
    let Some(person) = first(requests)? else { return Ok(()) };
    // A transfer that goes on too long ends by itself before it is killed, so that it can clean up.
    let allowed = Duration::from_secs(person.deadline_s.min(30 * 86_400));
    let deadline = Instant::now() + allowed - (allowed / 10).min(Duration::from_secs(10));
    let bounds = Bounds { deadline, mib: person.max_clone_mib };
    let (place, landlock) = match enter(&person) {
        Ok(entered) => entered,
        Err(failure) => return protocol::write_line(replies, &Reply::Failed(failure)),
    };
    protocol::write_line(replies, &Reply::Ready { landlock })?;
    match place {
        Place::Home { home, mirrors } => in_home(requests, replies, &home, mirrors.as_ref(), bounds),
        Place::Mirror(room) => {
            let Task::Remote { url, mirror } = &person.task else { return Ok(()) };
            let room = mirror::Room { folder: room.as_ref(), keeps: *mirror };
            mirror::serve(requests, replies, room, url, (Instant::now() + ASK, bounds))
        }
    }
}

fn in_home(
    requests: &mut impl BufRead,
    replies: &mut impl Write,
    home: &OwnedFd,
    mirrors: Option<&Mirrors>,
    bounds: Bounds,
) -> io::Result<()> {
    // How many transfers share what is left of the time.
    let mut transfers = 1_u32;
    let applied = |result| match result {
        Ok(None) => Reply::Done,
        Ok(Some(why)) => Reply::DoneWithoutMirror { why },
        Err(failure) => Reply::Failed(failure),
    };
    while let Some(request) = protocol::next(requests)? {
        let reply = match request {
            Request::Become(_) | Request::Mirror(_) => {
                return Err(unexpected("not what a worker of a home does"));
            }
            Request::Observe(desired) => observed(place::observe(home, &desired, Some(moves::tracked))),
            Request::Transfers(count) => {
                transfers = count;
                Reply::Done
            }
            Request::Apply(action) if action.is_transfer() => match share(bounds, &mut transfers) {
                Some(share) => applied(clone::apply(home, mirrors, &action, share)),
                None => too_late(),
            },
            Request::Apply(action) => applied(clone::apply(home, mirrors, &action, bounds)),
            Request::File { action, text } => applied(files::apply(home, &action, &text).map(|()| None)),
            Request::CloneMirrored(wanted) => match share(bounds, &mut transfers) {
                Some(share) => applied(clone::clone_mirrored(home, mirrors, &wanted, share)),
                None => too_late(),
            },
            Request::Look(clones) => states(home, &clones),
            Request::Ask { url } => {
                let asking = bounds.until(Instant::now() + ASK);
                let transfer = Transfer::new(&url, asking, Some(Credentials::new(home, &url)));
                Reply::Asked(Asked { answer: transfer.ask(), not_mirrored: 0 })
            }
            Request::Inspect(branches) => {
                Reply::Standings(branches.iter().map(fast_forward::inspect).collect())
            }
        };
        protocol::write_line(replies, &reply)?;
    }
    Ok(())
}

/// What the next of some transfers may use; nothing when the time is up.
fn share(bounds: Bounds, transfers: &mut u32) -> Option<Bounds> {
    let share = bounds.share(*transfers);
    *transfers = transfers.saturating_sub(1);
    (!bounds.left().is_zero()).then_some(share)
}

fn too_late() -> Reply {
    Reply::Failed(Failure::new(
        "not tried: what came before it has used up the time for one home",
        "tried again later by itself; see what it was that took so long",
    ))
}

/// Where a worker works.
pub(crate) enum Place {
    Home {
        home: OwnedFd,
        mirrors: Option<Mirrors>,
    },
    /// The folder of one mirror, which is the working folder; it need not be there to be looked at.
    Mirror(Option<OwnedFd>),
}

/// Becomes the person and steps into their home. No path below it is looked at before the worker is theirs.
pub(crate) fn enter(person: &Become) -> Result<(Place, Landlock), Failure> {
    person.check()?;
    identity::become_user(person)?;
    settle(person)
}

/// Steps into the place of the work and confines this thread to it.
fn settle(person: &Become) -> Result<(Place, Landlock), Failure> {
    let unfit = |why: String| {
        Failure::new(
            format!("the folder {} cannot be used: {why}", person.home.display()),
            format!("make it a folder that {} owns and may enter", person.user),
        )
    };
    let errno = |errno| unfit(tree::words(errno).to_owned());
    let looks = matches!(person.task, Task::Look | Task::Remote { mirror: false, .. });
    let place = match (&person.task, tree::open_home(&person.home)) {
        // Before the first run there is none.
        (Task::Remote { url, mirror: false }, mirrors) => Place::Mirror(mirrors.ok().and_then(|mirrors| {
            tree::open(mirrors, &mirror::folder(url), OFlag::O_PATH | OFlag::O_DIRECTORY).ok()
        })),
        (_, Err(why)) => return Err(unfit(why)),
        (Task::Look, Ok(home)) => Place::Home { home, mirrors: None },
        (Task::Home { mirrors }, Ok(home)) => Place::Home { home, mirrors: Mirrors::open(mirrors) },
        (Task::Remote { url, mirror: true }, Ok(home)) => {
            // Everybody may have what everybody may read.
            umask(Mode::S_IWGRP | Mode::S_IWOTH);
            let name = mirror::folder(url);
            let open = || tree::open(&home, &name, OFlag::O_PATH | OFlag::O_DIRECTORY);
            let room = match open() {
                Err(Errno::ENOENT) => tree::make_folder(&home, &name).and_then(|()| open()),
                opened => opened,
            };
            Place::Mirror(Some(room.map_err(errno)?))
        }
    };
    let room = match &place {
        Place::Home { home, .. } if looks => Room { write: None, read: Some(home), network: false },
        Place::Home { home, mirrors } => {
            Room { write: Some(home), read: mirrors.as_ref().map(|mirrors| &mirrors.dir), network: true }
        }
        Place::Mirror(room) if looks => Room { write: None, read: room.as_ref(), network: true },
        Place::Mirror(room) => Room { write: room.as_ref(), read: None, network: true },
    };
    let landlock = confine::confine(&room).map_err(|error| {
        Failure::new(
            format!("the worker could not confine itself: {error}"),
            "this is an error in rosterd; please report it",
        )
    })?;
    if let Some(folder) = if looks { room.read } else { room.write } {
        nix::unistd::fchdir(folder).map_err(errno)?;
    }
    Ok((place, landlock))
}
