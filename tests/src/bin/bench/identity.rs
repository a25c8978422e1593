//! The part of the bench about providers: 500 people with 800 namespaces in a cluster and in a Vault. Both are stand-ins on
//! the loopback, so what is measured is rosterd: the worker `rosterd-provider`, the plan, and what is said between them.

use std::path::Path;
use std::time::{Duration, Instant};

use identity::{Credential, Limits, Worker};
use roster::cluster::{self, Kubernetes};
use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::plan::{self, Plan};
use roster::report::StepResult;
use roster::vault::{self, Vault};
use serde_json::json;

#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/real_vault.rs"]
mod real_vault;
#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/stand_in.rs"]
mod stand_in;
#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/vault.rs"]
mod vault_stand_in;

use stand_in::StandIn;
use vault_stand_in::VaultStandIn;

const TOKEN: &str = "a-token";
const PARALLEL: usize = 8;
/// How long the servers take for each answer in the first sync, as one over a network does.
const ANSWER: Duration = Duration::from_millis(5);
/// No-op ticks; memory is compared over the second half of them.
const TICKS: usize = 20;

type Row = fn(&str, Duration, Option<(&str, Duration)>);

/// Measures both.
pub(crate) fn rows(row: Row) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        kubernetes(row).await;
        in_vault(row).await;
    });
}

fn people() -> Roster {
    let mut people = json!({});
    for number in 0..500 {
        // 300 with two namespaces, 200 with one.
        let namespaces: Vec<String> =
            (0..if number < 300 { 2 } else { 1 }).map(|n| format!("ns-{number}-{n}")).collect();
        let name = format!("u{number}");
        people[&name] = json!({
            "authentik_user": name, "k8s_user": name, "email": format!("{name}@example.org"),
            "tier": "namespace-owner", "namespaces": namespaces, "quota": {"cpu": "4", "memory": "8Gi"},
        });
    }
    serde_json::from_value::<Roster>(json!({"users": people})).unwrap()
}

async fn worker(credential: &Credential) -> Worker {
    let limits = Limits { deadline: Duration::from_secs(600), memory_mib: 1024, parallel: PARALLEL };
    // A worker's folder is `/`.
    let program = std::path::absolute("target/release/rosterd-provider").unwrap();
    Worker::start(&program, (977, 977), credential, limits).await.unwrap()
}

async fn apply(worker: &mut Worker, plan: &Plan) {
    worker.apply(plan, |_, result, _| assert_eq!(result, StepResult::Done)).await;
}

async fn kubernetes(row: Row) {
    let (roster, config) = (people(), Kubernetes::default());
    let server = StandIn::start(TOKEN);
    let text = server.kubeconfig(TOKEN);
    let credential = Credential::kubeconfig(Path::new("/kubeconfig"), |_| Ok(text.clone().into())).unwrap();
    let tick = async || {
        let mut worker = worker(&credential).await;
        let desired = cluster::desired(&roster, &config, &MapState::None, std::iter::empty());
        let observed = worker.observe(&desired).await.unwrap();
        let plan = plan::cluster(&desired, &observed);
        apply(&mut worker, &plan).await;
        worker.finish().await;
        plan.steps.len()
    };
    server.slow(ANSWER);
    let began = Instant::now();
    let steps = tick().await;
    first_sync(row, "kubernetes", steps, began.elapsed(), server.busiest());
    server.slow(Duration::ZERO);
    ticks(row, "kubernetes", &server, async || tick().await).await;
}

async fn in_vault(row: Row) {
    let roster = people();
    let server = VaultStandIn::start(TOKEN);
    let config = Vault {
        address: Some(server.address()),
        pipelines: Some("ci/deployer".parse().unwrap()),
        transit_mount: Some("transit".into()),
        ..Vault::default()
    };
    let credential = Credential::vault(&config, |_| Ok(TOKEN.into())).unwrap();
    let tick = async || {
        let mut worker = worker(&credential).await;
        let desired = vault::desired(&roster, &config, &MapState::None, std::iter::empty());
        let looked = worker.look(&desired.look).await.unwrap();
        let plan = plan::vault(&desired, &looked.observed);
        apply(&mut worker, &plan).await;
        worker.finish().await;
        plan.steps.len()
    };
    server.slow(ANSWER);
    let began = Instant::now();
    let steps = tick().await;
    first_sync(row, "vault", steps, began.elapsed(), server.busiest());
    server.slow(Duration::ZERO);
    ticks(row, "vault", &server, async || tick().await).await;
}

/// Beside a tool that sends one request after the other, which takes at least this long.
fn first_sync(row: Row, name: &str, steps: usize, took: Duration, busiest: usize) {
    let what = format!("{name}: first sync, {steps} steps, answers take 5 ms, {busiest} at the same time");
    row(&what, took, Some(("one by one, at least", ANSWER * u32::try_from(steps).unwrap())));
}

async fn ticks(row: Row, name: &str, server: &server::Server, tick: impl AsyncFn() -> usize) {
    server.requests();
    let mut slowest = Duration::ZERO;
    let (mut requests, mut half) = (0, 0);
    for number in 0..TICKS {
        let began = Instant::now();
        assert_eq!(tick().await, 0, "a tick that should change nothing");
        slowest = slowest.max(began.elapsed());
        let sent = server.requests();
        assert!(sent.iter().all(|request| request.starts_with("GET ")));
        requests = sent.len();
        if number == TICKS / 2 {
            half = resident_kib();
        }
    }
    row(&format!("{name}: no-op tick, slowest of {TICKS}, {requests} requests"), slowest, None);
    let grown = resident_kib().saturating_sub(half);
    let worker =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!(
        "| {name}: memory grown over {} ticks: {grown} KiB; a worker at most {worker} KiB | | | |",
        TICKS / 2
    );
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
