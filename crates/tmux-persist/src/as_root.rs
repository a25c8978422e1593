//! Root's end: a worker for each person, all of them at once, each with a deadline. Touches no home and no socket of
//! anybody; makes the folders of the stores, reads the earlier layout, and starts tmux servers in units of their own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, fchownat};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use worker_process::{Advice, Process, WorkerError};

use crate::Failure;
use crate::earlier::Earlier;
use crate::job::{Answer, Job, Settings};
use crate::people::Person;
use crate::processes;
use crate::server_unit;
use crate::store::Store;
use crate::worker::{LONGEST, Order, Report, Work};

/// How many people are worked for at the same time. One that hangs holds one of these places until its deadline.
const AT_ONCE: usize = 64;

/// How long a process that was killed may take to be gone. One that hangs in a file system takes for ever.
const STRAYS: Duration = Duration::from_secs(5);

const ADVICE: Advice = Advice {
    deadline: "see what their tmux server does",
    memory: "look at their tmux server's process and at the size of their snapshots",
    ended: "try again",
    protocol: "please report it",
};

/// How long a worker may take, with its waiting for a lock and for its server.
fn deadline(job: &Job) -> Duration {
    match job {
        Job::Save | Job::Snapshots | Job::Snapshot(_) | Job::History | Job::Forget(..) => {
            Duration::from_secs(20)
        }
        Job::Restore | Job::RestoreSelection(..) | Job::RestoreOne(_) => Duration::from_secs(90),
    }
}

/// Does a job for each of these people, as each of them; `program` with `arguments`, the first of which is its name, is
/// started as the worker. The answers are in the order of the people. The process that asks has no other children: what
/// descends from it and is still there at the end is killed, and told where that is not possible.
pub async fn run_as(
    program: &Path,
    arguments: &[&str],
    people: Vec<Person>,
    settings: &Settings,
    job: &Job,
) -> (Vec<(Person, Result<Answer, Failure>)>, Option<Failure>) {
    // What a worker leaves becomes a child of this process. Where that is refused, the end of the unit has to do.
    let _ = prctl::set_child_subreaper(true);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let arguments: Arc<[String]> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut tasks = Vec::new();
    for person in people {
        let (places, settings, job) = (Arc::clone(&places), settings.clone(), job.clone());
        let (program, arguments) = (program.to_owned(), Arc::clone(&arguments));
        let who = person.clone();
        let task = tokio::spawn(async move {
            let _place = places.acquire().await;
            one(&program, &arguments, &person, &settings, &job).await
        });
        tasks.push((who, task));
    }
    let mut answers = Vec::new();
    for (person, task) in tasks {
        let answer = task.await.unwrap_or_else(|error| Err(failure(error, "please report it")));
        answers.push((person, answer));
    }
    (answers, end_strays().await)
}

async fn one(
    program: &Path,
    arguments: &[String],
    person: &Person,
    settings: &Settings,
    job: &Job,
) -> Result<Answer, Failure> {
    make_store(&settings.state, person).map_err(|why| failure(why, "check who owns that folder"))?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let given = (Instant::now(), deadline(job));
    let mut worker = Process::start(program, &arguments, given, LONGEST, &ADVICE).map_err(of_worker)?;
    let answer = converse(&mut worker, person, settings, job).await;
    // One that has answered ends by itself, any other one with the drop.
    if answer.is_ok() {
        let _ = worker.finish().await;
    }
    answer
}

async fn converse(
    worker: &mut Process,
    person: &Person,
    settings: &Settings,
    job: &Job,
) -> Result<Answer, Failure> {
    let mut order = Order::Work(Box::new(Work {
        user: person.user.clone(),
        uid: person.uid,
        gid: person.gid,
        groups: person.groups.clone(),
        home: person.home.clone(),
        settings: settings.clone(),
        job: job.clone(),
    }));
    // Each of the two questions may be asked once.
    for _ in 0..3 {
        let until = worker.deadline();
        order = match worker.ask(&[&order], "working for them", until).await.map_err(of_worker)? {
            Report::Done(answer) => return Ok(answer),
            Report::Failed(said) => return Err(said.bounded()),
            Report::Earlier => {
                let (state, user) = (settings.state.clone(), person.user.clone());
                let earlier = tokio::task::spawn_blocking(move || Earlier::read(&state, &user)).await;
                Order::Earlier(match earlier {
                    Ok(earlier) => earlier.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                })
            }
            Report::StartServer => {
                let script = Store::place(&settings.state, &person.user).join("restore.tmux");
                Order::Started(server_unit::start(person, &settings.socket, &script).await)
            }
        };
    }
    Err(failure("the worker asks again and again", "please report it"))
}

fn of_worker(error: WorkerError) -> Failure {
    let next = error.next();
    let why = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Failure { why, next }.bounded()
}

fn failure(why: impl std::fmt::Display, next: &str) -> Failure {
    Failure { why: why.to_string(), next: next.into() }
}

/// The folder of a person's snapshots, which is theirs. Every step goes by descriptors, and through folders that only
/// root can write.
fn make_store(state: &Path, person: &Person) -> Result<(), String> {
    let told = |what: &Path| {
        let what = what.display().to_string();
        move |errno: Errno| format!("cannot make or open {what}: {errno}")
    };
    let users = state.join("users");
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let exists = |result: nix::Result<()>| match result {
        Err(Errno::EEXIST) => Ok(false),
        other => other.map(|()| true),
    };
    exists(mkdirat(AT_FDCWD, state, Mode::from_bits_truncate(0o755))).map_err(told(state))?;
    let state_fd = openat(AT_FDCWD, state, folder, Mode::empty()).map_err(told(state))?;
    exists(mkdirat(&state_fd, "users", Mode::from_bits_truncate(0o711))).map_err(told(&users))?;
    let users_fd = openat(&state_fd, "users", folder, Mode::empty()).map_err(told(&users))?;
    let place = users.join(&person.user);
    let made = exists(mkdirat(&users_fd, person.user.as_str(), Mode::from_bits_truncate(0o700)))
        .map_err(told(&place))?;
    // By O_PATH, so that root needs no right to read what is theirs.
    let own = openat(&users_fd, person.user.as_str(), folder, Mode::empty()).map_err(told(&place))?;
    let stat = fstat(&own).map_err(told(&place))?;
    if stat.st_uid == person.uid {
        return Ok(());
    }
    // Root's own: just made, or by a run that ended before the next line.
    if made || stat.st_uid == 0 {
        let (uid, gid) = (Uid::from_raw(person.uid), Gid::from_raw(person.gid));
        return fchownat(&own, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH).map_err(told(&place));
    }
    Err(format!("{} belongs to uid {}, not to {}", place.display(), stat.st_uid, person.user))
}

/// Ends what a worker left. Whoever talks to a person's server runs a tmux whose deeds that server has a say in (it may
/// tell its client to become another program, and the person may kill the worker that watches it), in the unit or the
/// login of root's that asked for the job. It cannot start other processes, see [`become_user::alone`], so once each child
/// is dead no process of it is left.
async fn end_strays() -> Option<Failure> {
    let until = Instant::now() + STRAYS;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                let children = processes::children(std::process::id());
                if Instant::now() > until {
                    let children: Vec<String> = children.iter().map(ToString::to_string).collect();
                    let why =
                        format!("what the workers started does not end: process {}", children.join(", "));
                    return Some(
                        failure(why, "see what it waits for: `ps -o pid,user,stat,wchan,cmd -p PID`")
                            .bounded(),
                    );
                }
                for child in children {
                    if let Ok(child) = i32::try_from(child) {
                        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // One that had ended already.
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    use super::*;

    fn person(uid: u32) -> Person {
        Person { user: "ann".into(), uid, gid: uid, groups: vec![], home: "/home/ann".into() }
    }

    #[test]
    fn a_store_is_made_for_its_owner_and_never_given_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let state: PathBuf = dir.path().join("state");
        make_store(&state, &person(61_000)).unwrap();
        make_store(&state, &person(61_000)).unwrap();
        let meta = fs::metadata(state.join("users/ann")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (61_000, 61_000, 0o700));
        assert_eq!(fs::metadata(state.join("users")).unwrap().mode() & 0o777, 0o711);
        let refused = make_store(&state, &person(61_001)).unwrap_err();
        assert!(refused.ends_with("belongs to uid 61000, not to ann"), "{refused}");
        // A link in its place is not followed.
        fs::remove_dir(state.join("users/ann")).unwrap();
        symlink("/tmp", state.join("users/ann")).unwrap();
        assert!(make_store(&state, &person(61_000)).is_err());
    }
}
