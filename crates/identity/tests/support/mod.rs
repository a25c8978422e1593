//! What the tests of this crate share: a cluster, and a person with `kubectl` beside us.

pub(crate) mod real_vault;
pub(crate) mod server;
pub(crate) mod stand_in;
pub(crate) mod vault;

use std::path::PathBuf;
use std::time::Duration;

use identity::{Credential, Limits, Worker, WorkerError};
use roster::cluster::{self, ClusterDesired, ClusterObserved, Kubernetes};
use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::plan::{self, Plan};
use roster::report::StepResult;
use serde_json::{Value, json};

pub(crate) use server::Wrong;
pub(crate) use stand_in::StandIn;

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

pub(crate) fn desired(people: &Value, config: &Kubernetes) -> ClusterDesired {
    cluster::desired(&roster(people.clone()), config, &MapState::None, std::iter::empty())
}

pub(crate) fn credential(kubeconfig: &str) -> Credential {
    let text = kubeconfig.to_owned();
    Credential::kubeconfig(std::path::Path::new("/kubeconfig"), move |_| Ok(text.clone().into_bytes()))
        .unwrap()
}

pub(crate) async fn worker(server: &StandIn, token: &str, limits: Limits) -> Worker {
    Worker::start(&program(), ACCOUNT, &credential(&server.kubeconfig(token)), limits).await.unwrap()
}

pub(crate) async fn observe(
    server: &StandIn,
    desired: &ClusterDesired,
) -> Result<ClusterObserved, WorkerError> {
    let mut worker = worker(server, TOKEN, limits()).await;
    let observed = worker.observe(desired).await;
    worker.finish().await;
    observed
}

/// Observe, plan and apply, as the daemon does it.
pub(crate) async fn run(server: &StandIn, people: &Value) -> Run {
    run_with(server, people, &Kubernetes::default(), limits()).await
}

pub(crate) async fn run_with(server: &StandIn, people: &Value, config: &Kubernetes, limits: Limits) -> Run {
    let desired = desired(people, config);
    let mut worker = worker(server, TOKEN, limits).await;
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

/// Writes as somebody at a command line would, under that program's name.
pub(crate) fn write_as(server: &StandIn, manager: &str, path: &str, patch: &Value) {
    let body = patch.to_string();
    let kind = "application/merge-patch+json";
    let answer = http(server, "PATCH", &format!("{path}?fieldManager={manager}"), kind, &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

pub(crate) fn delete(server: &StandIn, path: &str) {
    let answer = http(server, "DELETE", path, "application/json", "{}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn http(server: &StandIn, method: &str, path: &str, kind: &str, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
