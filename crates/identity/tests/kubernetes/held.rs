//! Grants that somebody would like to keep: held by a finalizer, or written into all the time.

use roster::cluster::{INSTANCE, MANAGED_BY, MANAGER};
use roster::plan;
use roster::report::StepResult;
use serde_json::json;

use crate::support::server::Wrong;
use crate::support::*;
use crate::{carol, synced};

/// As a controller of somebody else's does that wants to know of a deletion, or somebody who would like to keep a right.
#[tokio::test]
async fn a_grant_that_is_deleted_and_still_there_is_for_nobody() {
    let server = synced(&json!({"carol": person("carol", "admin", &[])})).await;
    let old = "clusterrolebindings carol-cluster-admin";
    server.write_as("rancher", old, &json!({"metadata": {"finalizers": ["example.org/controller"]}}));
    assert!(run(&server, &carol()).await.is_done());
    let held = server.objects()[old].clone();
    assert!(held["subjects"].is_null() && !held["metadata"]["deletionTimestamp"].is_null(), "{held}");
    // It is over for us, and whoever holds it may take their time.
    assert!(run(&server, &carol()).await.plan.steps.is_empty());
    server.write_as("rancher", old, &json!({"metadata": {"finalizers": null}}));
    assert!(!server.objects().contains_key(old));
}

/// Somebody else has deleted it, and in the run of a moment ago it could not be emptied.
#[tokio::test]
async fn a_grant_that_somebody_else_deleted_is_emptied_too() {
    let server = synced(&json!({"carol": person("carol", "admin", &[])})).await;
    let old = "clusterrolebindings carol-cluster-admin";
    server.write_as("rancher", old, &json!({"metadata": {"finalizers": ["example.org/controller"]}}));
    server.delete(old);
    assert!(!server.objects()[old]["subjects"].is_null());
    let patch = format!("PATCH {}", server.place(old).1);
    server.wrong(&patch, 0, 1, Wrong::Code(403));
    let first = run(&server, &carol()).await;
    assert!(
        first.told().contains("FAILED it is deleted, held by a finalizer, and cannot be emptied"),
        "{first:?}"
    );
    let grants =
        |server: &Cluster| server.objects().into_keys().filter(|key| key.contains("bindings")).count();
    assert_eq!(grants(&server), 1, "nothing new beside it");
    assert!(run(&server, &carol()).await.is_done());
    assert!(server.objects()[old]["subjects"].is_null() && grants(&server) == 3);
    server.write_as("rancher", old, &json!({"metadata": {"finalizers": null}}));
}

/// Who writes into their own grant all the time, so that it is never as it was when it was looked at, does not keep it.
#[tokio::test]
async fn a_grant_goes_whoever_has_written_into_it_since() {
    let server = synced(&carol()).await;
    let grant = "rolebindings carol-dev/carol-admin";
    let wanted = desired(&server, &json!({}), &server.config());
    let mut worker = worker(&server, &server.token(), limits()).await;
    let plan = plan::cluster(&wanted, &worker.observe(&wanted).await.unwrap());
    server.write_as("kubectl-annotate", grant, &json!({"metadata": {"annotations": {"x": "y"}}}));
    let results = apply(&mut worker, &plan).await;
    worker.finish().await;
    assert!(results.iter().all(|result| *result == StepResult::Done), "{results:?}");
    assert!(!server.objects().contains_key(grant));
}

/// Nor does whoever makes it anew, so that it is another one each time.
#[tokio::test]
async fn a_grant_that_is_made_anew_meanwhile_goes_too() {
    let server = synced(&carol()).await;
    let grant = "rolebindings carol-dev/carol-admin";
    let wanted = desired(&server, &json!({}), &server.config());
    let mut worker = worker(&server, &server.token(), limits()).await;
    let plan = plan::cluster(&wanted, &worker.observe(&wanted).await.unwrap());
    server.delete(grant);
    let rbac = "rbac.authorization.k8s.io";
    let again = json!({
        "metadata": {"labels": {MANAGED_BY: MANAGER, INSTANCE: server.config().instance}},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": server.own("carol@example.org")}],
    });
    server.write_as("kubectl-create", grant, &again);
    let results = apply(&mut worker, &plan).await;
    worker.finish().await;
    assert!(results.iter().all(|result| *result == StepResult::Done), "{results:?}");
    assert!(!server.objects().contains_key(grant));
}
