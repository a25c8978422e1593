//! Root's end: a worker for each person, all of them at once, each with a deadline. Touches no home and no socket of
//! anybody; makes the folders of the stores, reads the earlier layout, and starts tmux servers in units of their own.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Pid, Uid, fchownat};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::Failure;
use crate::earlier::Earlier;
use crate::job::{Answer, Job, Settings};
use crate::people::Person;
use crate::server_unit;
use crate::store::Store;
use crate::worker::{MAX_REPORT, Order, Report, Work};

/// How many people are worked for at the same time. One that hangs holds one of these places until its deadline.
const AT_ONCE: usize = 64;

/// How long a worker may take, with its waiting for a lock and for its server.
fn deadline(job: &Job) -> Duration {
    match job {
        Job::Save | Job::Snapshots | Job::Snapshot(_) | Job::History | Job::Forget(..) => {
            Duration::from_secs(20)
        }
        Job::Restore | Job::RestoreSelection(..) | Job::RestoreOne(_) => Duration::from_secs(90),
    }
}

/// Does a job for each of these people, as each of them; `program` with `arguments` is started as the worker. The
/// answers are in the order of the people.
pub async fn run_as(
    program: &Path,
    arguments: &[&str],
    people: Vec<Person>,
    settings: &Settings,
    job: &Job,
) -> Vec<(Person, Result<Answer, Failure>)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut tasks = Vec::new();
    for person in people {
        let (places, settings, job) = (Arc::clone(&places), settings.clone(), job.clone());
        let (program, arguments) = (program.to_owned(), arguments.clone());
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
    answers
}

async fn one(
    program: &Path,
    arguments: &[String],
    person: &Person,
    settings: &Settings,
    job: &Job,
) -> Result<Answer, Failure> {
    make_store(&settings.state, person).map_err(|why| failure(why, "check who owns that folder"))?;
    let mut worker = Worker::start(program, arguments, deadline(job))?;
    let answer = converse(&mut worker, person, settings, job).await;
    worker.end();
    answer
}

async fn converse(
    worker: &mut Worker,
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
        order = match worker.ask(&order).await? {
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

/// A worker that runs.
struct Worker {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    deadline: Instant,
    allowed: Duration,
}

impl Worker {
    fn start(program: &Path, arguments: &[String], allowed: Duration) -> Result<Worker, Failure> {
        let start = |error: std::io::Error| {
            failure(format!("cannot start {}: {error}", program.display()), "install rosterd completely")
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let (Some(orders), Some(reports)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let deadline = Instant::now() + allowed;
        Ok(Worker { child, orders, reports: BufReader::new(reports), deadline, allowed })
    }

    async fn ask(&mut self, order: &Order) -> Result<Report, Failure> {
        let mut line = serde_json::to_vec(order).map_err(|error| failure(error, "please report it"))?;
        line.push(b'\n');
        let answer = timeout_at(self.deadline, async {
            // Whether the worker is there shows when the answer is read.
            let _ = self.orders.write_all(&line).await;
            let mut line = Vec::new();
            (&mut self.reports).take(MAX_REPORT).read_until(b'\n', &mut line).await.map(|_| line)
        })
        .await;
        let line = match answer {
            Err(_) => {
                let seconds = self.allowed.as_secs();
                return Err(failure(format!("gave up after {seconds} s"), "see what their tmux server does"));
            }
            Ok(Err(error)) => return Err(failure(error, "please report it")),
            Ok(Ok(line)) => line,
        };
        if line.is_empty() {
            let mut said = Vec::new();
            if let Some(stderr) = self.child.stderr.take() {
                let soon = Instant::now() + Duration::from_secs(1);
                let _ = timeout_at(soon, stderr.take(2048).read_to_end(&mut said)).await;
            }
            let said = String::from_utf8_lossy(&said);
            return Err(failure(format!("the worker ended without an answer: {}", said.trim()), "try again")
                .bounded());
        }
        serde_json::from_slice(&line).map_err(|error| {
            failure(format!("the worker's answer makes no sense: {error}"), "please report it")
        })
    }

    /// Ends the worker, and the call of tmux that it may be waiting for: it leads a session of its own.
    fn end(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.start_kill();
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
