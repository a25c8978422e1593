//! The worker's own life: become the user, confine itself, then answer requests until the input ends.

use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::protocol::{self, Become, Failure, Landlock, Reply, Request};
use crate::{clone, confine, identity, place, tree};

/// The entry of `rosterd worker`. Speaks the protocol of this crate over stdin and stdout, and nothing else.
pub fn worker() -> ExitCode {
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The daemon takes it up when the worker ends without an answer.
            let _ = writeln!(io::stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(requests: &mut impl BufRead, replies: &mut impl Write) -> io::Result<()> {
    let Some(first) = next(requests)? else { return Ok(()) };
    let Request::Become(person) = first else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first request must say whom to become"));
    };
    // A transfer that goes on too long ends by itself before it is killed, so that it can clean up.
    let allowed = Duration::from_secs(person.deadline_s.min(30 * 86_400));
    let deadline = Instant::now() + allowed - (allowed / 10).min(Duration::from_secs(10));
    let home = match enter(&person) {
        Ok((home, landlock)) => {
            protocol::write_line(replies, &Reply::Ready { landlock })?;
            home
        }
        Err(failure) => return protocol::write_line(replies, &Reply::Failed(failure)),
    };
    let limits = clone::Limits { deadline, bytes: person.max_clone_mib.saturating_mul(1 << 20) };
    while let Some(request) = next(requests)? {
        let reply = match request {
            Request::Become(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this worker is somebody already"));
            }
            Request::Observe(desired) => Reply::Observed(place::observe(&home, &desired)),
            Request::Apply(action) => match clone::apply(&home, &action, limits) {
                Ok(()) => Reply::Done,
                Err(failure) => Reply::Failed(failure),
            },
        };
        protocol::write_line(replies, &reply)?;
    }
    Ok(())
}

fn next(requests: &mut impl BufRead) -> io::Result<Option<Request>> {
    match protocol::read_line(requests)? {
        Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
        None => Ok(None),
    }
}

/// Becomes the person and steps into their home. No path below it is looked at before the worker is theirs.
pub(crate) fn enter(person: &Become) -> Result<(OwnedFd, Landlock), Failure> {
    person.check()?;
    identity::become_user(person)?;
    let unfit = |why: String| {
        Failure::new(
            format!("the home {} cannot be used: {why}", person.home.display()),
            format!("make it a folder that {} owns and may enter", person.user),
        )
    };
    let home = tree::open_home(&person.home).map_err(unfit)?;
    let landlock = confine::confine(&home).map_err(|error| {
        Failure::new(
            format!("the worker could not confine itself: {error}"),
            "this is an error in rosterd; please report it",
        )
    })?;
    nix::unistd::fchdir(&home).map_err(|errno| unfit(tree::words(errno).to_owned()))?;
    Ok((home, landlock))
}
