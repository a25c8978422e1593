//! Vault by a real worker: what it does to one, and what it does when it is not well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

mod login;
mod people;
mod rights;
mod sync;
mod trouble;

use std::collections::BTreeMap;
use std::time::Duration;

use identity::{Credential, Limits, Worker, WorkerError};
use roster::k8s_users::MapState;
use roster::plan;
use roster::report::StepResult;
use roster::vault::{self, AliasName, LoginMethod, Vault, VaultDesired, VaultLogin};
use serde_json::{Map, Value, json};

use support::vault::VaultStandIn;
use support::{ACCOUNT, Run, TOKEN, Wrong, apply, limits, person, program, roster};

fn config(server: &VaultStandIn) -> Vault {
    Vault {
        address: Some(server.address()),
        pipelines: Some("ci/deployer".parse().unwrap()),
        transit_mount: Some("transit".into()),
        ..Vault::default()
    }
}

fn desired(config: &Vault, people: &Value) -> VaultDesired {
    vault::desired(&roster(people.clone()), config, &MapState::None, std::iter::empty())
}

async fn worker_with(config: &Vault, secret: &'static str, limits: Limits) -> Worker {
    let credential = Credential::vault(config, |_| Ok(secret.into())).unwrap();
    Worker::start(&program(), ACCOUNT, &credential, limits).await.unwrap()
}

async fn run_with(config: &Vault, secret: &'static str, people: &Value) -> Run {
    run_by(config, secret, desired(config, people)).await
}

async fn run_by(config: &Vault, secret: &'static str, desired: VaultDesired) -> Run {
    let mut worker = worker_with(config, secret, limits()).await;
    let looked = worker.look(&desired.look).await.unwrap();
    let mut plan = plan::vault(&desired, &looked.observed);
    let results = apply(&mut worker, &plan).await;
    worker.finish().await;
    let notice = |text| plan::Notice { subject: plan::Subject::Machine, text };
    plan.notices.extend(looked.notices.into_iter().map(notice));
    Run { plan, results }
}

async fn run(server: &VaultStandIn, people: &Value) -> Run {
    run_with(&config(server), TOKEN, people).await
}

fn carol() -> Value {
    json!({"carol": person("carol", "namespace-owner", &["carol-dev"])})
}

fn everybody() -> Value {
    let mut people = carol();
    people["bob"] = person("bob", "power-user", &[]);
    people
}

async fn synced(people: &Value) -> VaultStandIn {
    let server = VaultStandIn::start(TOKEN);
    let first = run(&server, people).await;
    assert!(first.is_done(), "{}", first.told());
    server.requests();
    server
}

fn writes(server: &VaultStandIn) -> Vec<String> {
    server.requests().into_iter().filter(|request| !request.starts_with("GET ")).collect()
}

fn list(server: &VaultStandIn) -> Value {
    let state = server.state();
    let fields = state.secrets["platform"].1.clone().unwrap();
    serde_json::from_str(fields["k8s_users"].as_str().unwrap()).unwrap()
}

fn put(server: &VaultStandIn, fields: Value) {
    let fields: Map<String, Value> = fields.as_object().unwrap().clone();
    server.state().secrets.insert("platform".into(), (7, Some(fields)));
}

fn publishing(server: &VaultStandIn) -> Vault {
    let place = "secret/platform#k8s_users".parse().unwrap();
    Vault { k8s_users: Some(place), publish: true, ..config(server) }
}
