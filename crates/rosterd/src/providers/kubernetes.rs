//! A look at the cluster of `[kubernetes]`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use identity::{Credential, CredentialError, Worker};
use roster::cluster::{self, Kubernetes};
use roster::plan::{self, Notice, Problem, Subject};
use roster::provider::Provider;

use super::{Looked, Sides, account, failed, left, limits, map, problem};
use crate::accept::InForce;
use crate::daemon::Daemon;
use crate::sources;

pub(super) async fn look(daemon: &Daemon, in_force: &InForce) -> Result<Looked, Problem> {
    let config = &in_force.config.kubernetes;
    let (mut worker, mut notices) = begin(daemon, config).await?;
    let (map, told) = map::read(daemon, &in_force.config).await?;
    notices.extend(told);
    let ledger = daemon.ledger();
    let desired = cluster::desired(&in_force.whole, config, &map, left(&ledger, in_force));
    let observed = worker.observe(&desired).await;
    let observed = observed.map_err(|error| failed("the cluster could not be looked at", &error))?;
    let plan = plan::cluster(&desired, &observed);
    let sides = Sides::Kubernetes(Box::new((desired, observed)));
    Ok(Looked { plan, worker, sides, notices, list: None })
}

/// Starts a worker that may speak to the cluster.
pub(super) async fn begin(daemon: &Daemon, config: &Kubernetes) -> Result<(Worker, Vec<Notice>), Problem> {
    let Some(path) = config.kubeconfig.clone() else {
        return Err(problem(
            "no cluster is configured",
            "there is no `kubeconfig`",
            "name one in config.toml",
        ));
    };
    let read = tokio::task::spawn_blocking(move || {
        // A folder is that of a service account, as a pod has it.
        if !path.is_dir() {
            let mut secret = Vec::new();
            let credential = Credential::kubeconfig(&path, |file| {
                let content = read(file)?;
                let has = |what: &str| content.windows(what.len()).any(|part| part == what.as_bytes());
                // What a kubeconfig names is a key or a token, unless it is somebody's certificate.
                if !has("-----BEGIN CERTIFICATE-----") || has("PRIVATE KEY-----") {
                    secret.push(file.to_owned());
                }
                Ok(content)
            });
            return (
                credential,
                secret.iter().flat_map(|file| open_to_others(file, "chmod 0600 it")).collect(),
            );
        }
        let credential = Credential::service_account(&path, &own_cluster(), read);
        (credential, open_to_others(&path.join("token"), "project it with `defaultMode: 0400`"))
    });
    let (credential, notices) = read.await.map_err(stopped)?;
    let credential = credential.map_err(|error| no_credential(Provider::Kubernetes, &error))?;
    let limits = limits(config.deadline_s, config.parallel);
    let worker = Worker::start(&daemon.provider, account()?, &credential, limits).await;
    let worker = worker.map_err(|error| failed("no worker for the cluster", &error))?;
    Ok((worker, notices))
}

/// Where a pod finds the API server of its cluster.
fn own_cluster() -> String {
    let var = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (var("KUBERNETES_SERVICE_HOST"), var("KUBERNETES_SERVICE_PORT")) {
        (Some(host), Some(port)) if host.contains(':') => format!("https://[{host}]:{port}"),
        (Some(host), Some(port)) => format!("https://{host}:{port}"),
        _ => "https://kubernetes.default.svc".into(),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    sources::read_linked(path).map(|(content, _)| content).map_err(|error| error.to_string())
}

pub(super) fn open_to_others(path: &Path, how: &str) -> Vec<Notice> {
    if !std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        return Vec::new();
    }
    let text = format!("{} can be read by others than root: {how}", path.display());
    vec![Notice { subject: Subject::Machine, text }]
}

pub(super) fn stopped(error: tokio::task::JoinError) -> Problem {
    problem("the provider's files cannot be read", error.to_string(), "see the journal")
}

pub(super) fn no_credential(provider: Provider, error: &CredentialError) -> Problem {
    problem(&format!("there is no credential for {provider}"), error.to_string(), error.next())
}
