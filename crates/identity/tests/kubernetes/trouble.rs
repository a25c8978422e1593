//! A cluster that is busy, broken, gone or forbidden: what is told of it, and that nothing is concluded from it.

use std::time::{Duration, Instant};

use identity::{Limits, WorkerError};
use roster::cluster::{Kind, Reading};
use roster::plan;
use roster::report::StepResult;
use serde_json::json;

use crate::support;
use crate::support::*;
use crate::{carol, synced};

#[tokio::test]
async fn one_kind_that_may_not_be_read_holds_up_no_other_invariant_8() {
    let server = synced(&carol()).await;
    server.delete("resourcequotas carol-dev/carol-dev-quota");
    server.forbid("rolebindings");
    let mut people = carol();
    people["dora"] = person("dora", "namespace-owner", &["dora-dev"]);
    let run = run(&server, &people).await;
    insta::assert_snapshot!(server.shown(&run.told()), @r#"
    dora: apply Namespace dora-dev: it is not there
    dora: apply ClusterRole dora-read-only: it is not there
    dora: apply Role dora-dev/dora-dev-deployer: it is not there
    carol: apply ResourceQuota carol-dev/carol-dev-quota: it is not there
    PROBLEM machine: the cluster's RoleBindings cannot be read, so nothing is done about them: the cluster does not let rosterd list them
    "#);
}

#[tokio::test]
async fn a_server_that_is_busy_or_broken_for_a_moment_is_asked_again() {
    for (wrong, times) in [
        (Wrong::Later(1), 1),
        (Wrong::Code(500), 3),
        (Wrong::Code(503), 2),
        (Wrong::Code(409), 2),
        (Wrong::Close, 2),
        (Wrong::HalfClose, 2),
        (Wrong::CloseAfter, 9),
        (Wrong::Cut, 2),
    ] {
        let server = Cluster::start();
        if wrong != Wrong::Code(409) {
            server.wrong("/namespaces", 0, times, wrong);
        }
        server.wrong("PATCH /apis/rbac", 1, times, wrong);
        let began = Instant::now();
        let run = run(&server, &carol()).await;
        assert!(run.is_done(), "{wrong:?}: {}", server.shown(&run.told()));
        assert!(
            wrong != Wrong::Later(1) || began.elapsed() >= Duration::from_secs(1),
            "Retry-After is not obeyed"
        );
    }
}

#[tokio::test]
async fn a_list_that_the_server_forgets_is_begun_anew() {
    let mut people = json!({});
    for number in 0..600 {
        people[format!("u{number}")] = person(&format!("u{number}"), "admin", &[]);
    }
    let server = synced(&people).await;
    server.wrong("GET /apis/rbac.authorization.k8s.io/v1/clusterrolebindings", 1, 1, Wrong::Code(410));
    let run = run(&server, &people).await;
    assert!(run.is_done() && run.plan.steps.is_empty(), "{}", server.shown(&run.told()));
    // A list that stays incomplete is no list.
    server.wrong(
        "GET /apis/rbac.authorization.k8s.io/v1/clusterrolebindings?limit=500&continue",
        0,
        99,
        Wrong::Code(410),
    );
    let run = support::run(&server, &json!({})).await;
    assert!(run.plan.steps.is_empty() && !run.plan.problems.is_empty(), "{}", server.shown(&run.told()));
}

#[tokio::test]
async fn what_all_kinds_have_in_common_is_told_once_and_nothing_is_changed_invariant_8() {
    let server = synced(&carol()).await;
    for of in [" /", "/rbac"] {
        server.wrong(of, 0, usize::MAX, Wrong::Code(500));
        let run = run_with(&server, &json!({}), &server.config(), limits()).await;
        let is_grant = |step: &plan::Step| step.action.to_string().contains("Binding");
        assert!(!run.plan.steps.iter().any(is_grant), "{}", server.shown(&run.told()));
        let [problem] = &run.plan.problems[..] else { panic!("{of}: {}", server.shown(&run.told())) };
        let what = match of {
            " /" => "the cluster cannot be read, so nothing is done there",
            _ => {
                "the cluster's ClusterRoles, Roles, ClusterRoleBindings and RoleBindings cannot be read, so nothing is \
                 done about them"
            }
        };
        assert_eq!(problem.what, what);
        server.mend();
    }
    // An account without its role: each kind is refused, and that is one thing to mend.
    for kind in Kind::ALL {
        server.forbid(kind.resource().2);
    }
    let refused = run(&server, &carol()).await;
    insta::assert_snapshot!(server.shown(&refused.told()), @"PROBLEM machine: the cluster cannot be read, so nothing is done there: the cluster does not let rosterd list them");
}

#[tokio::test]
async fn an_expired_token_is_told_as_one_and_a_new_one_needs_no_restart() {
    let server = synced(&carol()).await;
    let (before, after) = (server.token(), server.renew());
    let wanted = desired(&server, &carol(), &server.config());
    let observed = observe(&server, &before, &wanted).await.unwrap();
    let Some(Reading::Unreadable { why, next }) = observed.kinds.get(&Kind::Namespace) else { panic!() };
    insta::assert_snapshot!(format!("{why}\n{next}"), @r"
    the cluster does not accept the credential: Unauthorized
    renew the token or certificate in the kubeconfig; it is read anew for each run
    ");
    let observed = observe(&server, &after, &wanted).await.unwrap();
    assert!(matches!(observed.kinds[&Kind::Namespace], Reading::Seen(_)));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_at_the_deadline() {
    let server = synced(&carol()).await;
    server.wrong("GET /api/v1/namespaces", 0, usize::MAX, Wrong::Hang);
    let wanted = desired(&server, &carol(), &server.config());
    let short = Limits { deadline: Duration::from_secs(2), ..limits() };
    let mut worker = worker(&server, &server.token(), short).await;
    let error = worker.observe(&wanted).await.unwrap_err();
    assert!(matches!(error, WorkerError::Deadline { .. }), "{error}");
    assert_eq!(error.to_string(), "gave up after 2 s while looking at the cluster");
    // Everything after that fails at once, and each step is told.
    let plan = plan::cluster(
        &wanted,
        &roster::cluster::ClusterObserved {
            kinds: Kind::ALL.into_iter().map(|kind| (kind, Reading::Seen(Vec::new()))).collect(),
        },
    );
    let results = apply(&mut worker, &plan).await;
    assert!(!results.is_empty() && results.iter().all(|result| *result != StepResult::Done));
}

/// A proxy that says 200 and gives something else, or a list that was cut short.
#[tokio::test]
async fn what_is_no_list_is_not_an_empty_one_invariant_8() {
    let server = synced(&carol()).await;
    let list = "GET /apis/rbac.authorization.k8s.io/v1/rolebindings";
    for body in [
        "{}",
        r#"{"kind":"Status","metadata":{},"items":[]}"#,
        r#"{"kind":"RoleBindingList","metadata":{}}"#,
        r#"{"kind":"RoleBindingList","metadata":{},"items":[{"metadata":{"namespace":"y"}}]}"#,
    ] {
        server.wrong(list, 0, 1, Wrong::Says(body));
        let run = run(&server, &json!({"carol": person("carol", "admin", &[])})).await;
        assert!(run.told().contains("RoleBindings cannot be read"), "{body}: {run:?}");
        assert!(!run.told().contains("carol-cluster-admin"), "{body}: {run:?}");
    }
    assert!(server.objects().contains_key("rolebindings carol-dev/carol-admin"));
    // Empty it may be, as some write it.
    let none = r#"{"kind":"ResourceQuotaList","metadata":{},"items":null}"#;
    server.wrong("GET /api/v1/resourcequotas", 0, 1, Wrong::Says(none));
    let run = run(&server, &carol()).await;
    assert!(run.plan.problems.is_empty(), "{run:?}");
}
