//! The worker's own life: read the credential, become the system user, then answer requests until the input ends.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use home::SystemUser;
use roster::cluster::{Key, Kind, Reading};
use roster::vault::{Unread, VaultLook, VaultObserved};
use tokio::io::BufReader;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::kubernetes::Cluster;
use crate::protocol::{self, Access, Begin, Change, Failure, Looked, MAX_LINE, Reply, Request};
use crate::vault::Vault;

/// The entry of `rosterd-provider`. Speaks the protocol of this crate over stdin and stdout, and nothing else.
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
    let provider = Provider::open(&begin).await;
    let turns = Arc::new(Semaphore::new(begin.parallel.max(1)));
    let mut work = JoinSet::new();
    while let Some(line) = worker_process::read_line(&mut requests, MAX_LINE).await? {
        match serde_json::from_slice(&line)? {
            Request::Begin(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this worker has begun already"));
            }
            Request::Observe { instance, kinds, wanted } => {
                let (instance, wanted) = (Arc::new(instance), Arc::new(wanted));
                for kind in kinds {
                    let (provider, turns, say) = (provider.clone(), Arc::clone(&turns), say.clone());
                    let (instance, wanted) = (Arc::clone(&instance), Arc::clone(&wanted));
                    work.spawn(async move {
                        let _turn = turns.acquire().await;
                        let reading = provider.read(kind, &wanted, &instance).await;
                        let _ = say.send(Reply::Read { kind, reading });
                    });
                }
            }
            Request::Lease { place } => {
                let (provider, say) = (provider.clone(), say.clone());
                work.spawn(async move {
                    let lease = match provider.cluster() {
                        Ok(cluster) => cluster.lease(&place).await,
                        Err(failure) => Err(failure),
                    };
                    let _ = say.send(Reply::Lease(lease));
                });
            }
            Request::TakeLease { place, before, holder, now } => {
                let (provider, say) = (provider.clone(), say.clone());
                work.spawn(async move {
                    let taken = match provider.cluster() {
                        Ok(cluster) => cluster.take_lease(&place, before.as_ref(), &holder, now).await,
                        Err(failure) => Err(failure),
                    };
                    let _ = say.send(Reply::LeaseTaken(taken));
                });
            }
            Request::Look(look) => {
                let (provider, say) = (provider.clone(), say.clone());
                work.spawn(async move {
                    let _ = say.send(Reply::Looked(Box::new(provider.look(&look).await)));
                });
            }
            Request::Apply { id, change } => {
                let (provider, turns, say) = (provider.clone(), Arc::clone(&turns), say.clone());
                work.spawn(async move {
                    let _turn = turns.acquire().await;
                    let failure = provider.apply(&change).await.err();
                    let _ = say.send(Reply::Applied { id, failure });
                });
            }
        }
        while work.try_join_next().is_some() {}
    }
    while work.join_next().await.is_some() {}
    if let Provider::Vault(vault) = &provider {
        vault.close().await;
    }
    drop(say);
    writer.await.map_err(io::Error::other)?
}

/// The one that this worker is for.
#[derive(Clone)]
enum Provider {
    Cluster(Cluster),
    Vault(Vault),
    /// It cannot be spoken to.
    Closed(Failure),
}

impl Provider {
    async fn open(begin: &Begin) -> Provider {
        let opened = match &begin.access {
            Access::Kubernetes { kubeconfig } => Cluster::new(kubeconfig).await.map(Provider::Cluster),
            access @ Access::Vault { .. } => Vault::open(access, begin.parallel).await.map(Provider::Vault),
        };
        opened.unwrap_or_else(Provider::Closed)
    }

    /// Why there is no answer.
    fn closed(&self) -> Failure {
        match self {
            Provider::Closed(failure) => failure.clone(),
            _ => Failure::new("this worker is for another provider", "tell the developers of rosterd"),
        }
    }

    fn cluster(&self) -> Result<&Cluster, Failure> {
        match self {
            Provider::Cluster(cluster) => Ok(cluster),
            _ => Err(self.closed()),
        }
    }

    async fn read(&self, kind: Kind, wanted: &BTreeSet<Key>, instance: &str) -> Reading {
        match self {
            Provider::Cluster(cluster) => cluster.read(kind, wanted, instance).await,
            _ => {
                let Failure { why, next } = self.closed();
                Reading::Unreadable { why, next }
            }
        }
    }

    async fn look(&self, look: &VaultLook) -> Looked {
        match self {
            Provider::Vault(vault) => vault.look(look).await,
            _ => {
                let Failure { why, next } = self.closed();
                Looked { observed: VaultObserved::unread(&Unread { why, next }), notices: Vec::new() }
            }
        }
    }

    async fn apply(&self, change: &Change) -> Result<(), Failure> {
        match (self, change) {
            (Provider::Cluster(cluster), Change::Cluster(action)) => cluster.apply(action).await,
            (Provider::Vault(vault), Change::Vault(action)) => vault.apply(action).await,
            _ => Err(self.closed()),
        }
    }
}
