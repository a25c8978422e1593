//! What a run makes of a cluster: a first one, one without anything to do, drift, tiers, people who come and go, and what
//! others declare.

use std::collections::BTreeSet;

use roster::cluster::{Kind, Kubernetes};
use roster::plan;
use roster::report::StepResult;
use serde_json::{Value, json};

use crate::support;
use crate::support::*;
use crate::{carol, everybody, synced, writes};

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
