//! The part of the bench about providers: 500 people with 800 namespaces in a cluster and in a Vault. Both are stand-ins on
//! the loopback, so what is measured is rosterd: the worker `rosterd-provider`, the plan, and what is said between them. With
//! a real cluster (`./dev cluster ./dev bench identity`) it is that one beside rosterd, on the same processors.

use std::path::Path;
use std::time::{Duration, Instant};

use identity::{Credential, Limits, Worker};
use machine_tests::{Machine, Suite};
use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::plan::{self, Plan};
use roster::report::StepResult;
use roster::vault::{self, Vault};
use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../../../../crates/identity/tests/support/real.rs"]
mod real;
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

use cluster::Cluster;
use vault_stand_in::VaultStandIn;

const TOKEN: &str = "a-token";
const PARALLEL: usize = 8;
/// How long the servers take for each answer in the first sync, as one over a network does.
const ANSWER: Duration = Duration::from_millis(5);
/// No-op ticks; memory is compared over all but the first two.
const TICKS: usize = 20;

type Row = fn(&str, Duration, Option<(&str, Duration)>);

/// Measures both.
pub(crate) fn rows(row: Row) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        kubernetes(row).await;
        in_vault(row).await;
    });
    in_the_daemon();
}

/// What the daemon holds after each tick of both, on a machine. The people work on another one, so that it has nothing else to do.
fn in_the_daemon() {
    let (cluster, vault) = (Cluster::start(), VaultStandIn::start(TOKEN));
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/kubeconfig", cluster.kubeconfig(&cluster.token()));
    machine.write_file("/etc/rosterd/vault-token", TOKEN);
    machine.sh("chmod 0600 /etc/rosterd/kubeconfig /etc/rosterd/vault-token").ok();
    let config = format!(
        "host = \"devvm\"\n[kubernetes]\nkubeconfig = \"/etc/rosterd/kubeconfig\"\ninstance = \"{}\"\ndeadline_s = 600\n\
         [vault]\naddress = \"{}\"\npipelines = \"ci/deployer\"\ntransit_mount = \"transit\"\ndeadline_s = 600\n",
        cluster.config().instance,
        vault.address()
    );
    machine.write_file("/etc/rosterd/config.toml", config);
    let mut text = json!({"users": cluster.people(&people_of(&json!({"hosts": ["other"]})))}).to_string();
    text.push('\n');
    // JSON is YAML.
    machine.write_file("/etc/rosterd/roster.yaml", text);
    machine.run(&["rosterctl", "wait", "--timeout", "600"]).ok();
    let tick = || {
        for provider in ["kubernetes", "vault"] {
            machine.run(&["rosterctl", "reconcile", "--provider", provider]).ok();
        }
        super::of_the_daemon(&machine, "VmRSS")
    };
    let first = tick();
    let held: Vec<u64> = (0..TICKS).map(|_| tick()).collect();
    // The watchdog's beat gives back what a run took.
    std::thread::sleep(Duration::from_secs(35));
    let idle = super::of_the_daemon(&machine, "VmRSS");
    println!(
        "| the daemon's memory after the first sync of both: {first} KiB; after no-op tick 2, {half}, {TICKS}: {}, {}, {} KiB; \
         idle: {idle} KiB | | | |",
        held[1],
        held[TICKS / 2 - 1],
        held[TICKS - 1],
        half = TICKS / 2
    );
}

fn people() -> Value {
    people_of(&json!({}))
}

/// Each with something more.
fn people_of(more: &Value) -> Value {
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
        people[&name].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    people
}

fn roster(people: &Value) -> Roster {
    serde_json::from_value(json!({"users": people})).unwrap()
}

async fn worker(credential: &Credential, parallel: usize) -> Worker {
    let limits = Limits { deadline: Duration::from_secs(600), memory_mib: 1024, parallel };
    // A worker's folder is `/`.
    let program = std::path::absolute("target/release/rosterd-provider").unwrap();
    Worker::start(&program, (977, 977), credential, limits).await.unwrap()
}

async fn apply(worker: &mut Worker, plan: &Plan) {
    worker.apply(plan, |_, result, _| assert_eq!(result, StepResult::Done)).await;
}

fn roster_of(server: &Cluster) -> Roster {
    roster(&server.people(&people()))
}

/// One run, as the daemon does it; how many steps it took, and the most memory that the worker had, in KiB.
async fn cluster_run(server: &Cluster, roster: &Roster, parallel: usize) -> (usize, u64) {
    let text = server.kubeconfig(&server.token());
    let credential = Credential::kubeconfig(Path::new("/kubeconfig"), |_| Ok(text.clone().into())).unwrap();
    let mut worker = worker(&credential, parallel).await;
    let desired = roster::cluster::desired(roster, &server.config(), &MapState::None, std::iter::empty());
    let observed = worker.observe(&desired).await.unwrap();
    let plan = plan::cluster(&desired, &observed);
    apply(&mut worker, &plan).await;
    let peak = peak_of_the_worker();
    worker.finish().await;
    (plan.steps.len(), peak)
}

async fn kubernetes(row: Row) {
    let server = Cluster::start();
    let roster = roster_of(&server);
    server.slow(ANSWER);
    server.requests();
    let began = Instant::now();
    let (steps, _) = cluster_run(&server, &roster, PARALLEL).await;
    let took = began.elapsed();
    if server.is_real() {
        let busiest = server.busiest();
        // The same again, for as long as one request after the other takes there.
        let other = Cluster::start();
        let again = roster_of(&other);
        let began = Instant::now();
        cluster_run(&other, &again, 1).await;
        let what =
            format!("kubernetes: first sync of a real server, {steps} steps, {busiest} at the same time");
        row(&what, took, Some(("one by one", began.elapsed())));
    } else {
        first_sync(row, "kubernetes", steps, took, server.busiest());
    }
    server.slow(Duration::ZERO);
    let tick = async || cluster_run(&server, &roster, PARALLEL).await;
    ticks(row, "kubernetes", || server.requests(), tick).await;
}

async fn in_vault(row: Row) {
    let roster = roster(&people());
    let server = VaultStandIn::start(TOKEN);
    let config = Vault {
        address: Some(server.address()),
        pipelines: Some("ci/deployer".parse().unwrap()),
        transit_mount: Some("transit".into()),
        ..Vault::default()
    };
    let credential = Credential::vault(&config, |_| Ok(TOKEN.into())).unwrap();
    let tick = async || {
        let mut worker = worker(&credential, PARALLEL).await;
        let desired = vault::desired(&roster, &config, &MapState::None, std::iter::empty());
        let looked = worker.look(&desired.look).await.unwrap();
        let plan = plan::vault(&desired, &looked.observed);
        apply(&mut worker, &plan).await;
        let peak = peak_of_the_worker();
        worker.finish().await;
        (plan.steps.len(), peak)
    };
    server.slow(ANSWER);
    let began = Instant::now();
    let (steps, _) = tick().await;
    first_sync(row, "vault", steps, began.elapsed(), server.busiest());
    server.slow(Duration::ZERO);
    ticks(row, "vault", || server.requests(), async || tick().await).await;
}

/// Beside a tool that sends one request after the other, which takes at least this long.
fn first_sync(row: Row, name: &str, steps: usize, took: Duration, busiest: usize) {
    let what = format!("{name}: first sync, {steps} steps, answers take 5 ms, {busiest} at the same time");
    row(&what, took, Some(("one by one, at least", ANSWER * u32::try_from(steps).unwrap())));
}

async fn ticks(row: Row, name: &str, asked: impl Fn() -> Vec<String>, tick: impl AsyncFn() -> (usize, u64)) {
    asked();
    let mut slowest = Duration::ZERO;
    let (mut requests, mut peaks) = (0, Vec::new());
    for _ in 0..TICKS {
        let began = Instant::now();
        let (steps, peak) = tick().await;
        slowest = slowest.max(began.elapsed());
        assert_eq!(steps, 0, "a tick that should change nothing");
        peaks.push(peak);
        let sent = asked();
        assert!(sent.iter().all(|request| request.starts_with("GET ")));
        requests = sent.len();
    }
    row(&format!("{name}: no-op tick, slowest of {TICKS}, {requests} requests"), slowest, None);
    println!(
        "| {name}: the most that the worker of no-op tick 2 and {TICKS} held: {} and {} KiB; of all {TICKS}: {} to {} KiB | | | |",
        peaks[1],
        peaks[TICKS - 1],
        peaks.iter().min().unwrap(),
        peaks.iter().max().unwrap(),
    );
}

/// Of the one worker that runs: the most that it has held in memory.
fn peak_of_the_worker() -> u64 {
    let children =
        std::fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid())).unwrap();
    let peak = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    children.split_whitespace().filter_map(peak).max().unwrap()
}
