//! Grants whose role changes, which a cluster lets nobody change: two calls, and whatever may go wrong between them.

use std::sync::Arc;
use std::time::Duration;

use identity::Worker;
use roster::cluster::Kubernetes;
use roster::plan;
use serde_json::{Value, json};

use crate::process::child_of_ours;
use crate::support;
use crate::support::*;
use crate::synced;

fn bob() -> Value {
    json!({"bob": person("bob", "power-user", &[])})
}

/// A power user's grant names this role from now on, which the cluster lets nobody change.
fn readers(server: &Cluster) -> Kubernetes {
    Kubernetes { power_user_role: server.own("readers"), ..server.config() }
}

const BOBS: &str = "clusterrolebindings bob-power-user";

fn role_of_bob(server: &Cluster) -> Option<String> {
    server.objects().get(BOBS).map(|grant| grant["roleRef"]["name"].as_str().unwrap().to_owned())
}

/// The second of the two calls.
fn patch_of_bob(server: &Cluster) -> String {
    let name = server.own("bob-power-user");
    format!("PATCH /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}")
}

#[tokio::test]
async fn a_grant_that_cannot_be_changed_is_replaced_in_two_calls_the_removal_first() {
    let server = synced(&bob()).await;
    let run = run_with(&server, &bob(), &readers(&server), limits()).await;
    assert!(run.is_done(), "{}", server.shown(&run.told()));
    assert_eq!(role_of_bob(&server).as_deref(), Some("readers"));
    let calls: Vec<String> = server.requests().into_iter().filter(|call| !call.starts_with("GET ")).collect();
    let of_bob: Vec<usize> =
        (0..calls.len()).filter(|index| calls[*index].contains(&server.own("bob-power-user"))).collect();
    // Nothing was sent in between: neither is there for this one call.
    let [first, second] = of_bob[..] else { panic!("{calls:?}") };
    assert!(calls[first].starts_with("DELETE ") && calls[second].starts_with("PATCH "), "{calls:?}");
    assert_eq!(second, first + 1, "{calls:?}");
}

#[tokio::test]
async fn a_failure_between_the_two_calls_leaves_neither_is_told_and_healed_by_the_next_look() {
    // What passes by itself is waited for in the same run.
    for (wrong, times) in [
        (Wrong::Code(500), 3),
        (Wrong::Code(409), 3),
        (Wrong::Later(1), 1),
        (Wrong::Close, 2),
        (Wrong::Lost, 2),
    ] {
        let server = synced(&bob()).await;
        server.wrong(&patch_of_bob(&server), 0, times, wrong);
        let run = run_with(&server, &bob(), &readers(&server), limits()).await;
        assert!(run.is_done(), "{wrong:?}: {}", server.shown(&run.told()));
        assert_eq!(role_of_bob(&server).as_deref(), Some("readers"), "{wrong:?}");
    }
    // An answer to the removal that is lost is no reason to stop half way.
    let server = synced(&bob()).await;
    server.wrong("DELETE /apis/rbac.authorization.k8s.io/v1/clusterrolebindings", 0, 1, Wrong::Lost);
    assert!(run_with(&server, &bob(), &readers(&server), limits()).await.is_done());
    assert_eq!(role_of_bob(&server).as_deref(), Some("readers"));
    // What stays wrong is told, and nobody has yesterday's meanwhile.
    for code in [500, 403, 409, 422] {
        let server = synced(&bob()).await;
        server.wrong(&patch_of_bob(&server), 0, usize::MAX, Wrong::Code(code));
        let broken = run_with(&server, &bob(), &readers(&server), limits()).await;
        let told = server.shown(&broken.told());
        assert!(
            told.contains("it was removed and could not be made again, so until then nobody has it"),
            "{told}"
        );
        assert_eq!(role_of_bob(&server), None);
        server.mend();
        let healed = run_with(&server, &bob(), &readers(&server), limits()).await;
        assert_eq!(
            server.shown(&healed.told()),
            "bob: apply ClusterRoleBinding bob-power-user: it is not there\n"
        );
        assert_eq!(role_of_bob(&server).as_deref(), Some("readers"));
    }
    // A removal that is refused leaves it as it was.
    let server = synced(&bob()).await;
    server.wrong("DELETE ", 0, usize::MAX, Wrong::Code(403));
    let refused = run_with(&server, &bob(), &readers(&server), limits()).await;
    assert!(refused.told().contains("FAILED the cluster forbids it"), "{refused:?}");
    assert_eq!(role_of_bob(&server).as_deref(), Some("oidc-power-user-readonly"));
}

#[tokio::test]
async fn a_worker_that_is_killed_between_the_two_calls_is_told_and_healed_by_the_next_look_invariant_5() {
    let server = synced(&bob()).await;
    let patch = patch_of_bob(&server);
    server.wrong(&patch, 0, 1, Wrong::Hang);
    let wanted = desired(&server, &bob(), &readers(&server));
    // An account of its own, by which it is found among the workers of the other tests.
    let credential = credential(&server.kubeconfig(&server.token()));
    let mut worker = Worker::start(&program(), (978, 978), &credential, limits()).await.unwrap();
    let plan = plan::cluster(&wanted, &worker.observe(&wanted).await.unwrap());
    let server = Arc::new(server);
    let seen = Arc::clone(&server);
    let killer = std::thread::spawn(move || {
        // A real server never gets it.
        let front: &support::server::Server = &seen;
        while !front.requests().iter().any(|call| call.starts_with(&patch)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(role_of_bob(&seen), None);
        let process = child_of_ours(978);
        let pid = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    let results = apply(&mut worker, &plan).await;
    killer.join().unwrap();
    let told = format!("{results:?}");
    assert!(told.contains("nobody has it until it is made again"), "{told}");
    let healed = run_with(&server, &bob(), &readers(&server), limits()).await;
    assert!(healed.is_done() && role_of_bob(&server).as_deref() == Some("readers"), "{healed:?}");
}
