//! What the tests of this crate share: a cluster or a Vault, and a run of rosterd on it.

pub(crate) mod cluster;
pub(crate) mod real;
pub(crate) mod real_vault;
pub(crate) mod server;
pub(crate) mod stand_in;
pub(crate) mod vault;

use std::path::PathBuf;
use std::time::Duration;

use identity::{Credential, Limits, Worker, WorkerError};
use roster::cluster::{ClusterDesired, ClusterObserved, Kubernetes};
use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::plan::{self, Plan};
use roster::report::StepResult;
use serde_json::{Value, json};

pub(crate) use cluster::Cluster;
pub(crate) use server::Wrong;

/// What the tests' token is; it must be seen nowhere.
pub(crate) const TOKEN: &str = "hunter2-the-token";

/// Ids that no account has; a worker needs none.
pub(crate) const ACCOUNT: (u32, u32) = (977, 977);

pub(crate) fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_identity-test-worker").into()
}

pub(crate) fn limits() -> Limits {
    Limits { deadline: Duration::from_secs(60), memory_mib: 1024, parallel: 8 }
}

pub(crate) fn roster(people: Value) -> Roster {
    serde_json::from_value(json!({"users": people})).unwrap()
}

pub(crate) fn person(name: &str, tier: &str, namespaces: &[&str]) -> Value {
    json!({
        "authentik_user": name, "k8s_user": name, "email": format!("{name}@example.org"), "tier": tier,
        "namespaces": namespaces,
    })
}

/// What a run did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) results: Vec<StepResult>,
}

impl Run {
    /// Steps with what became of them, and problems, as a person reads them.
    pub(crate) fn told(&self) -> String {
        let steps = self.plan.steps.iter().zip(&self.results).map(|(step, result)| match result {
            StepResult::Done => format!("{step}: {}\n", step.reason),
            StepResult::Failed { why, .. } => format!("{step}: FAILED {why}\n"),
            StepResult::Skipped { why } => format!("{step}: SKIPPED {why}\n"),
        });
        let problems =
            self.plan.problems.iter().map(|p| format!("PROBLEM {}: {}: {}\n", p.subject, p.what, p.why));
        let notices = self.plan.notices.iter().map(|n| format!("NOTICE {}: {}\n", n.subject, n.text));
        steps.chain(problems).chain(notices).collect()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.results.iter().all(|result| *result == StepResult::Done) && self.plan.problems.is_empty()
    }
}

pub(crate) fn desired(server: &Cluster, people: &Value, config: &Kubernetes) -> ClusterDesired {
    let roster = roster(server.people(people));
    roster::cluster::desired(&roster, config, &MapState::None, std::iter::empty())
}

pub(crate) fn credential(kubeconfig: &str) -> Credential {
    let text = kubeconfig.to_owned();
    Credential::kubeconfig(std::path::Path::new("/kubeconfig"), move |_| Ok(text.clone().into_bytes()))
        .unwrap()
}

pub(crate) async fn worker(server: &Cluster, token: &str, limits: Limits) -> Worker {
    Worker::start(&program(), ACCOUNT, &credential(&server.kubeconfig(token)), limits).await.unwrap()
}

pub(crate) async fn observe(
    server: &Cluster,
    token: &str,
    desired: &ClusterDesired,
) -> Result<ClusterObserved, WorkerError> {
    let mut worker = worker(server, token, limits()).await;
    let observed = worker.observe(desired).await;
    worker.finish().await;
    observed
}

/// Observe, plan and apply, as the daemon does it.
pub(crate) async fn run(server: &Cluster, people: &Value) -> Run {
    run_with(server, people, &server.config(), limits()).await
}

pub(crate) async fn run_with(server: &Cluster, people: &Value, config: &Kubernetes, limits: Limits) -> Run {
    let desired = desired(server, people, config);
    let mut worker = worker(server, &server.token(), limits).await;
    let observed = worker.observe(&desired).await.unwrap();
    let plan = plan::cluster(&desired, &observed);
    let results = apply(&mut worker, &plan).await;
    worker.finish().await;
    Run { plan, results }
}

pub(crate) async fn apply(worker: &mut Worker, plan: &Plan) -> Vec<StepResult> {
    let mut results = vec![None; plan.steps.len()];
    worker.apply(plan, |index, result, _| results[index] = Some(result)).await;
    results.into_iter().map(|result| result.expect("every step has a result")).collect()
}
