//! Kubernetes by a real worker: what it does to a cluster, and what it does when the cluster is not well. The cluster is a
//! stand-in, or the real one that `ROSTERD_TEST_KUBECONFIG` names (`./dev test cluster`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[allow(dead_code)]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Limits, Worker, WorkerError};
use roster::cluster::{Kind, Kubernetes, Reading};
use roster::plan;
use roster::report::StepResult;
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

#[tokio::test]
async fn a_first_sync_and_then_no_write_and_one_list_per_kind_invariant_9() {
    let server = Cluster::start();
    let first = run(&server, &everybody()).await;
    assert!(first.is_done() && first.plan.steps.len() == 9, "{}", server.shown(&first.told()));
    let objects: Vec<_> = server.objects().into_keys().collect();
    insta::assert_snapshot!(objects.join("\n"), @r"
    clusterrolebindings alice-cluster-admin
    clusterrolebindings bob-power-user
    clusterrolebindings carol-read-only
    clusterroles carol-read-only
    clusterroles oidc-power-user-readonly
    namespaces carol-dev
    resourcequotas carol-dev/carol-dev-quota
    rolebindings carol-dev/carol-admin
    roles carol-dev/carol-dev-deployer
    ");
    let before = server.objects();
    server.requests();
    let second = run(&server, &everybody()).await;
    assert!(second.is_done() && second.plan.steps.is_empty(), "{}", server.shown(&second.told()));
    let requests = server.requests();
    assert_eq!(writes(&requests), Vec::<&String>::new());
    // Nobody is to have a copy of a certificate, so secrets are not looked at. A kind of which there is much comes in pages.
    let lists: BTreeSet<&String> =
        requests.iter().filter(|request| !request.contains("&continue=")).collect();
    assert_eq!(lists.len(), Kind::ALL.len() - 1, "{requests:?}");
    assert!(requests.iter().all(|request| request.contains("?limit=")), "{requests:?}");
    assert_eq!(server.objects(), before);
}

#[tokio::test]
async fn drift_is_put_right() {
    let server = synced(&carol()).await;
    let before = server.objects();
    server.delete("rolebindings carol-dev/carol-admin");
    let wide = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    server.write_as("kubectl-edit", "clusterroles carol-read-only", &wide);
    let quota = json!({"spec": {"hard": {"pods": "900"}}});
    server.write_as("kubectl-patch", "resourcequotas carol-dev/carol-dev-quota", &quota);
    let labels = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null, "theirs": "kept"}}});
    server.write_as("kubectl-label", "namespaces carol-dev", &labels);
    let run = run(&server, &carol()).await;
    insta::assert_snapshot!(server.shown(&run.told()), @r"
    carol: apply Namespace carol-dev: it is not marked as ours should be
    carol: put right ClusterRole carol-read-only: rules was changed by kubectl-edit
    carol: put right ResourceQuota carol-dev/carol-dev-quota: spec.hard.pods was changed by kubectl-patch
    carol: apply RoleBinding carol-dev/carol-admin: it is not there
    ");
    assert!(run.is_done(), "{run:?}");
    let after = server.objects();
    for key in ["clusterroles carol-read-only", "resourcequotas carol-dev/carol-dev-quota"] {
        assert_eq!(
            (&after[key]["rules"], &after[key]["spec"]),
            (&before[key]["rules"], &before[key]["spec"])
        );
    }
    assert_eq!(after["namespaces carol-dev"]["metadata"]["labels"]["theirs"], "kept");
    assert!(support::run(&server, &carol()).await.plan.steps.is_empty());
}

#[tokio::test]
async fn a_tier_goes_up_and_down_and_a_person_leaves_and_comes_back() {
    let server = synced(&carol()).await;
    let grants = |server: &Cluster| -> Vec<String> {
        server.objects().into_keys().filter(|key| key.contains("rolebindings")).collect()
    };
    let first = grants(&server);
    let up = json!({"carol": person("carol", "admin", &[])});
    assert!(run(&server, &up).await.is_done());
    assert_eq!(grants(&server), ["clusterrolebindings carol-cluster-admin"]);
    // The namespace, and what is in it that is not ours, stays.
    assert!(server.objects().contains_key("namespaces carol-dev"));
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(grants(&server), first);
    let more = json!({"carol": person("carol", "namespace-owner", &["carol-dev", "carol-prod"])});
    assert!(run(&server, &more).await.is_done());
    assert!(grants(&server).contains(&"rolebindings carol-prod/carol-admin".to_owned()));
    // A namespace that is taken away stays, without anything of hers in it.
    let fewer = run(&server, &carol()).await;
    assert!(
        fewer.is_done() && server.shown(&fewer.told()).contains("stays until somebody deletes it"),
        "{}",
        server.shown(&fewer.told())
    );
    assert_eq!(grants(&server), first);
    let left: Vec<_> = server.objects().into_keys().filter(|key| key.contains("carol-prod")).collect();
    assert_eq!(left, ["namespaces carol-prod"]);
    assert!(run(&server, &json!({})).await.is_done());
    assert_eq!(grants(&server), [""; 0]);
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(grants(&server), first);
}

#[tokio::test]
async fn another_manager_is_named_and_not_fought_over() {
    let server = Cluster::start();
    let mut theirs = json!({
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": server.own("carol-read-only"),
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": server.own("dave@example.org"),
        }],
    });
    server.write_as("terraform", "clusterrolebindings carol-read-only", &theirs);
    let run = run(&server, &carol()).await;
    insta::assert_snapshot!(server.shown(&run.told()).lines().filter(|line| line.contains("terraform")).collect::<String>(), @"PROBLEM carol: ClusterRoleBinding carol-read-only is not as the roster says: subjects is set by terraform");
    let kept = &server.objects()["clusterrolebindings carol-read-only"];
    assert_eq!(kept["subjects"][0]["name"], "dave@example.org");

    // One that came between looking and applying is named by the server.
    let server = synced(&carol()).await;
    theirs["roleRef"]["name"] = server.own("carol-read-only").into();
    let wanted = desired(&server, &carol(), &server.config());
    let mut worker = worker(&server, &server.token(), limits()).await;
    server.delete("clusterrolebindings carol-read-only");
    let plan = plan::cluster(&wanted, &worker.observe(&wanted).await.unwrap());
    server.write_as("argocd", "clusterrolebindings carol-read-only", &theirs);
    let results = apply(&mut worker, &plan).await;
    let StepResult::Failed { why, .. } = &results[0] else { panic!("{results:?}") };
    assert_eq!(why, "subjects is set by argocd");
    worker.finish().await;
}

#[tokio::test]
async fn a_grant_that_somebody_changed_goes_with_its_person() {
    for manager in ["kubectl-edit", "terraform"] {
        let server = synced(&carol()).await;
        let subject = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": server.own(name)});
        let both = json!({"subjects": [subject("carol@example.org"), subject("dave@example.org")]});
        server.write_as(manager, "rolebindings carol-dev/carol-admin", &both);
        let cut = run(&server, &json!({})).await;
        assert!(cut.is_done(), "{}", server.shown(&cut.told()));
        assert!(!server.objects().into_keys().any(|key| key.contains("bindings")), "{manager}");
    }
}

#[tokio::test]
async fn what_changed_meanwhile_is_not_deleted() {
    let server = synced(&carol()).await;
    let nobody = desired(&server, &json!({}), &server.config());
    let mut worker = worker(&server, &server.token(), limits()).await;
    let plan = plan::cluster(&nobody, &worker.observe(&nobody).await.unwrap());
    let theirs = json!({"metadata": {"labels": {"theirs": "yes"}}});
    server.write_as("kubectl-label", "resourcequotas carol-dev/carol-dev-quota", &theirs);
    let results = apply(&mut worker, &plan).await;
    let failed: Vec<_> = results.iter().filter(|result| **result != StepResult::Done).collect();
    let [StepResult::Failed { why, .. }] = failed[..] else { panic!("{results:?}") };
    assert_eq!(why, "somebody has changed it meanwhile");
    worker.finish().await;
}

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
}

#[tokio::test]
async fn the_portals_list_is_kept() {
    let server = Cluster::start();
    server.prepare("portal");
    let place = format!("{}/{}", server.own("portal"), server.own("people"));
    let config = Kubernetes { portal: Some(place.parse().unwrap()), ..server.config() };
    let run = async |people: &Value| run_with(&server, people, &config, limits()).await;
    assert!(run(&everybody()).await.is_done());
    let listed = |server: &Cluster| {
        let text =
            server.objects()["configmaps portal/people"]["data"]["people.json"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(listed(&server)["carol@example.org"]["namespaces"], json!(["carol-dev"]));
    assert!(run(&everybody()).await.plan.steps.is_empty());
    assert!(run(&carol()).await.is_done());
    assert_eq!(listed(&server).as_object().unwrap().len(), 1);
}

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

#[tokio::test]
async fn certificates_are_there_where_cert_manager_is() {
    let mut people = carol();
    people["carol"]["domains"] = json!(["carol.example.org"]);
    let server = Cluster::start();
    let _turn = server.without_cert_manager();
    let config = Kubernetes { cluster_issuer: Some("letsencrypt".into()), ..server.config() };
    let without = run_with(&server, &people, &config, limits()).await;
    assert!(
        without.is_done() && server.shown(&without.told()).contains("no cert-manager"),
        "{}",
        server.shown(&without.told())
    );
    server.install_cert_manager();
    let with = run_with(&server, &people, &config, limits()).await;
    assert_eq!(
        server.shown(&with.told()),
        "carol: apply Certificate carol-dev/tls-carol-dev: it is not there\n"
    );
    let spec = &server.objects()["certificates carol-dev/tls-carol-dev"]["spec"];
    assert_eq!(spec["dnsNames"], json!(["carol.example.org"]));
}

/// As `kubectl create secret tls` makes it.
fn certificate(server: &Cluster, place: &str, manager: &str, key: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "data": {"tls.crt": key, "tls.key": key},
    });
    server.write_as(manager, &format!("secrets {place}"), &secret);
}

#[tokio::test]
async fn a_certificate_is_copied_where_cert_manager_makes_none_and_nobody_sees_it_invariant_7() {
    const KEY: &str = "aHVudGVyMg==";
    let mut people = carol();
    people["carol"]["domains"] = json!(["carol.example.org"]);
    people["dora"] = person("dora", "namespace-owner", &["dora-dev"]);
    let server = Cluster::start();
    let _turn = server.without_cert_manager();
    let config = Kubernetes {
        cluster_issuer: Some("letsencrypt".into()),
        tls_secret: Some(format!("{}/{}", server.own("ingress"), server.own("wildcard")).parse().unwrap()),
        ..server.config()
    };
    let run = async |people: &Value| run_with(&server, people, &config, limits()).await;
    let without = run(&people).await;
    assert!(
        server.shown(&without.told()).contains("there is no Secret ingress/wildcard"),
        "{}",
        server.shown(&without.told())
    );
    certificate(&server, "ingress/wildcard", "kubectl-create", KEY);
    let first = run(&people).await;
    assert!(first.is_done(), "{}", server.shown(&first.told()));
    insta::assert_snapshot!(server.shown(&first.told()), @"
    carol: copy Secret ingress/wildcard to Secret carol-dev/tls-carol-dev: it is not there
    dora: copy Secret ingress/wildcard to Secret dora-dev/tls-dora-dev: it is not there
    ");
    let copy = |namespace: &str| server.objects()[&format!("secrets {namespace}/tls-{namespace}")].clone();
    assert_eq!(
        (&copy("carol-dev")["data"]["tls.key"], &copy("dora-dev")["type"]),
        (&json!(KEY), &json!("kubernetes.io/tls"))
    );
    assert!(!format!("{first:?}").contains(KEY));
    server.requests();
    assert!(run(&people).await.plan.steps.is_empty());
    assert!(writes(&server.requests()).is_empty());
    // The source is renewed, and a copy was edited.
    certificate(&server, "ingress/wildcard", "kubectl-create", "bmV3");
    certificate(&server, "dora-dev/tls-dora-dev", "kubectl-edit", "b3RoZXI=");
    let renewed = run(&people).await;
    assert!(renewed.is_done(), "{}", server.shown(&renewed.told()));
    eprintln!("{}", server.shown(&renewed.told()));
    assert_eq!(
        [&copy("carol-dev")["data"]["tls.key"], &copy("dora-dev")["data"]["tls.key"]],
        ["bmV3", "bmV3"]
    );
    // cert-manager comes: a certificate of one's own, and the copy stays until that has filled it.
    server.install_cert_manager();
    let with = run(&people).await;
    assert_eq!(
        server.shown(&with.told()),
        "carol: apply Certificate carol-dev/tls-carol-dev: it is not there\n"
    );
    assert!(run(&people).await.plan.steps.is_empty());
    certificate(&server, "carol-dev/tls-carol-dev", "cert-manager-certificates-issuing", "b3du");
    let after = run(&people).await;
    insta::assert_snapshot!(server.shown(&after.told()), @"carol: apply Secret carol-dev/tls-carol-dev: the roster asks for it no longer; data is somebody else's");
    assert_eq!(copy("carol-dev")["data"]["tls.key"], "b3du");
    assert!(run(&people).await.plan.steps.is_empty());
    // One that somebody else made is theirs.
    people["erin"] = person("erin", "namespace-owner", &["erin-dev"]);
    certificate(&server, "erin-dev/tls-erin-dev", "terraform", "dGhlaXJz");
    let theirs = run(&people).await;
    assert!(
        server.shown(&theirs.told()).contains("PROBLEM erin: Secret erin-dev/tls-erin-dev is not a copy"),
        "{}",
        server.shown(&theirs.told())
    );
    assert_eq!(copy("erin-dev")["data"]["tls.key"], "dGhlaXJz");
}

#[tokio::test]
async fn of_two_hosts_that_take_the_lease_at_once_one_has_it() {
    let server = Cluster::start();
    server.prepare("rosterd");
    let place = format!("{}/{}", server.own("rosterd"), server.own("hosts")).parse().unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let (mut one, mut other) =
        (worker(&server, &server.token(), limits()).await, worker(&server, &server.token(), limits()).await);
    assert_eq!(one.lease(&place).await.unwrap().unwrap(), None);
    assert!(one.take_lease(&place, None, "one", now).await.unwrap().unwrap());
    assert!(!other.take_lease(&place, None, "other", now).await.unwrap().unwrap());
    let seen = other.lease(&place).await.unwrap().unwrap();
    let held = seen.clone().unwrap();
    assert_eq!((held.holder.as_str(), held.renewed), ("one", now));
    // It is over; both see that, and both take it.
    assert!(other.take_lease(&place, seen.clone(), "other", now).await.unwrap().unwrap());
    assert!(!one.take_lease(&place, seen, "one", now).await.unwrap().unwrap());
    assert_eq!(server.holder("rosterd/hosts").unwrap(), "other");
    server.forbid("leases");
    let refused = one.lease(&place).await.unwrap().unwrap_err();
    assert!(refused.next.contains("get leases"), "{refused:?}");
    one.finish().await;
    other.finish().await;
}

fn child_of_ours(uid: u32) -> PathBuf {
    let mine = std::process::id();
    let process = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).find(|path| {
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"))
            && status.contains(&format!("\nPPid:\t{mine}\n"))
    });
    process.expect("a child of ours with that uid")
}

#[tokio::test]
async fn a_worker_is_the_system_user_and_shows_its_credential_to_nobody_invariant_3_invariant_7() {
    let server = Cluster::start();
    let worker = worker(&server, &server.token(), limits()).await;
    let process = child_of_ours(977);
    let status = fs::read_to_string(process.join("status")).unwrap();
    for line in ["Gid:\t977\t977\t977\t977", "Groups:\t ", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(&format!("\n{line}\n")), "{line} is not in {status}");
    }
    for file in ["cmdline", "environ"] {
        let text = fs::read(process.join(file)).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(&server.token()), "{file}");
    }
    worker.finish().await;
}
