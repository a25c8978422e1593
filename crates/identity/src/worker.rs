//! The worker's own life: read the credential, become the system user, then answer requests until the input ends.

use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use home::SystemUser;
use roster::cluster::Kind;
use tokio::io::BufReader;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc};

use crate::kubernetes::Cluster;
use crate::protocol::{self, Begin, Failure, Reply, Request};

/// The entry of `rosterd provider`. Speaks the protocol of this crate over stdin and stdout, and nothing else.
pub fn worker() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The daemon takes it up when the worker ends without an answer.
            let _ = writeln!(io::stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // The daemon says no more than this until it is answered, so nothing of what follows is read too early.
    let mut first = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut first)?;
    if first.is_empty() {
        return Ok(());
    }
    // An error of the parser would quote the text.
    let begin = match serde_json::from_slice(&first) {
        Ok(Request::Begin(begin)) => begin,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the first request must say how to begin",
            ));
        }
    };
    drop(first);
    let reply = match enter(&begin) {
        Ok(landlock) => Reply::Ready { landlock },
        Err(failure) => Reply::Refused(failure),
    };
    let refused = matches!(reply, Reply::Refused(_));
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()?;
    drop(stdout);
    if refused {
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(answer(begin))
}

fn enter(begin: &Begin) -> Result<home::Landlock, Failure> {
    let user = SystemUser {
        uid: begin.uid,
        gid: begin.gid,
        memory_mib: begin.memory_mib,
        cpu: Duration::from_secs(begin.cpu_s),
    };
    home::become_system_user(&user).map_err(|why| {
        Failure::new(
            format!("the worker could not become the system user: {why}"),
            "rosterd must run as root with CAP_SETUID and CAP_SETGID; `systemd-sysusers rosterd.conf` makes the user",
        )
    })
}

async fn answer(begin: Begin) -> io::Result<()> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let mut requests = BufReader::new(pipe::Receiver::from_owned_fd(stdin)?);
    let mut replies = pipe::Sender::from_owned_fd(stdout)?;
    let (say, mut said) = mpsc::unbounded_channel::<Reply>();
    let writer = tokio::spawn(async move {
        while let Some(reply) = said.recv().await {
            protocol::write_line(&mut replies, &reply).await?;
        }
        io::Result::Ok(())
    });
    let cluster = Cluster::new(&begin.kubeconfig).await;
    let turns = Arc::new(Semaphore::new(begin.parallel.max(1)));
    while let Some(line) = protocol::read_line(&mut requests).await? {
        match serde_json::from_slice(&line)? {
            Request::Begin(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this worker has begun already"));
            }
            Request::Observe { instance, wanted } => {
                let (instance, wanted) = (Arc::new(instance), Arc::new(wanted));
                for kind in Kind::ALL {
                    let (cluster, turns, say) = (cluster.clone(), Arc::clone(&turns), say.clone());
                    let (instance, wanted) = (Arc::clone(&instance), Arc::clone(&wanted));
                    tokio::spawn(async move {
                        let _turn = turns.acquire().await;
                        let reading = match cluster {
                            Ok(cluster) => cluster.read(kind, &wanted, &instance).await,
                            Err(Failure { why, next }) => roster::cluster::Reading::Unreadable { why, next },
                        };
                        let _ = say.send(Reply::Read { kind, reading });
                    });
                }
            }
            Request::Apply { id, action } => {
                let (cluster, turns, say) = (cluster.clone(), Arc::clone(&turns), say.clone());
                tokio::spawn(async move {
                    let _turn = turns.acquire().await;
                    let result = match cluster {
                        Ok(cluster) => cluster.apply(&action).await,
                        Err(failure) => Err(failure),
                    };
                    let _ = say.send(Reply::Applied { id, failure: result.err() });
                });
            }
        }
    }
    drop(say);
    writer.await.map_err(io::Error::other)?
}
