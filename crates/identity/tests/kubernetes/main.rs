//! Kubernetes by a real worker: what it does to a cluster, and what it does when the cluster is not well. The cluster is a
//! stand-in, or the real one that `ROSTERD_TEST_KUBECONFIG` names (`./dev test cluster`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod certificates;
mod held;
mod process;
mod replacement;
mod sync;
mod trouble;

use serde_json::{Value, json};

use support::*;

fn carol() -> Value {
    let mut carol = person("carol", "namespace-owner", &["carol-dev"]);
    // A cluster has other words for some of these amounts.
    carol["quota"] = json!({"cpu": "4000m", "memory": "1024Mi", "storage": "0.5Gi", "pods": "20"});
    json!({"carol": carol})
}

fn everybody() -> Value {
    let mut people = carol();
    people["alice"] = person("alice", "admin", &[]);
    people["bob"] = person("bob", "power-user", &[]);
    people
}

async fn synced(people: &Value) -> Cluster {
    let server = Cluster::start();
    let first = run(&server, people).await;
    assert!(first.is_done(), "{}", server.shown(&first.told()));
    server.requests();
    server
}

fn writes(requests: &[String]) -> Vec<&String> {
    requests.iter().filter(|request| !request.starts_with("GET ")).collect()
}
