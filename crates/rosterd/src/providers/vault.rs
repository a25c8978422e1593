//! A look at the server of `[vault]`.

use identity::{Credential, Worker};
use roster::plan::{self, Notice, Problem, Subject};
use roster::provider::Provider;
use roster::vault;

use super::kubernetes::{no_credential, open_to_others, read, stopped};
use super::{Looked, Sides, account, failed, left, limits, map};
use crate::accept::InForce;
use crate::daemon::Daemon;

pub(super) async fn look(daemon: &Daemon, in_force: &InForce) -> Result<Looked, Problem> {
    let config = &in_force.config.vault;
    let files = config.clone();
    let credential = tokio::task::spawn_blocking(move || {
        (Credential::vault(&files, read), open_to_others(&files.login.file, "chmod 0600 it"))
    });
    let (credential, mut notices) = credential.await.map_err(stopped)?;
    let credential = credential.map_err(|error| no_credential(Provider::Vault, &error))?;
    let (map, told) = map::read(daemon, &in_force.config).await?;
    notices.extend(told);
    let ledger = daemon.ledger();
    let desired = vault::desired(&in_force.whole, config, &map, left(&ledger, in_force));
    let limits = limits(config.deadline_s, config.parallel);
    let worker = Worker::start(&daemon.provider, account()?, &credential, limits).await;
    let mut worker = worker.map_err(|error| failed("no worker for Vault", &error))?;
    let looked = worker.look(&desired.look).await;
    let looked = looked.map_err(|error| failed("Vault could not be looked at", &error))?;
    notices.extend(looked.notices.into_iter().map(|text| Notice { subject: Subject::Machine, text }));
    let list = config.k8s_users.as_ref().and_then(|_| looked.observed.list.clone().ok());
    let plan = plan::vault(&desired, &looked.observed);
    let sides = Sides::Vault(Box::new((desired, looked.observed)));
    Ok(Looked { plan, worker, sides, notices, list })
}
