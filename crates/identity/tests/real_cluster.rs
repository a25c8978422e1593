//! What only a real API server shows, above all what people can do there. These run by `./dev test cluster`, which sets
//! `ROSTERD_TEST_KUBECONFIG`; what people can do is asked in their names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[allow(dead_code, unused_imports)]
mod support;

use roster::cluster::Kubernetes;
use roster::plan;
use roster::report::StepResult;
use serde_json::{Value, json};

use support::real::eventually;
use support::*;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

/// Somebody whom the cluster knows by a name.
struct Person<'c> {
    server: &'c Cluster,
    name: String,
}

impl Person<'_> {
    fn of<'c>(server: &'c Cluster, name: &str) -> Person<'c> {
        Person { server, name: server.own(&format!("{name}@example.org")) }
    }

    /// The code that this is answered with.
    fn asks(&self, method: &str, path: &str, body: &Value) -> u16 {
        self.server.real().ask_as(&self.name, method, path, body).0
    }

    fn gets(&self, path: &str) -> u16 {
        self.asks("GET", path, &Value::Null)
    }

    /// What the cluster says to `kubectl auth can-i VERB RESOURCE.GROUP/SUBRESOURCE`, everywhere.
    fn may(&self, verb: &str, what: &str) -> bool {
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let asked = json!({"spec": {"resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        }}});
        let path = format!("{REVIEWS}/selfsubjectaccessreviews");
        let (code, answer) = self.server.real().ask_as(&self.name, "POST", &path, &asked);
        assert_eq!(code, 201, "{answer}");
        answer["status"]["allowed"].as_bool().unwrap()
    }

    /// All that they may do in a namespace, as the cluster lists it.
    fn rules(&self, namespace: &str) -> String {
        let asked = json!({"spec": {"namespace": self.server.own(namespace)}});
        let path = format!("{REVIEWS}/selfsubjectrulesreviews");
        let (code, answer) = self.server.real().ask_as(&self.name, "POST", &path, &asked);
        assert_eq!(code, 201, "{answer}");
        let mut rules: Vec<String> = ["resourceRules", "nonResourceRules"]
            .iter()
            .flat_map(|kind| answer["status"][*kind].as_array().unwrap())
            .map(Value::to_string)
            .collect();
        rules.sort();
        rules.dedup();
        rules.join("\n")
    }
}

fn pod(name: &str) -> Value {
    let container = json!({"name": "main", "image": "example.org/nothing"});
    json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
}

fn place(server: &Cluster, namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{}/{plural}", server.own(namespace))
}

async fn sync(server: &Cluster, people: &Value) {
    let run = run(server, people).await;
    assert!(run.is_done(), "{}", server.shown(&run.told()));
}

#[tokio::test]
#[ignore = "only a real API server shows it: ./dev test cluster"]
async fn an_owner_of_a_namespace_works_in_it_and_reads_no_secret_elsewhere() {
    let server = Cluster::start();
    let mut people = json!({
        "carol": person("carol", "namespace-owner", &["carol-dev"]),
        "dora": person("dora", "namespace-owner", &["dora-dev"]),
    });
    people["carol"]["quota"] = json!({"pods": "2"});
    sync(&server, &people).await;
    let secret = json!({"data": {"key": "aHVudGVyMg=="}});
    server.write_as("test", "secrets carol-dev/hers", &secret);
    server.write_as("test", "secrets dora-dev/not-hers", &secret);
    let carol = Person::of(&server, "carol");
    let (own, other) = (place(&server, "carol-dev", "pods"), place(&server, "dora-dev", "pods"));
    // The cluster has to make the namespace's own account first, and below to count what the quota holds.
    eventually("carol makes a pod", || carol.asks("POST", &own, &pod("one")) == 201);
    assert_eq!(carol.asks("POST", &own, &pod("two")), 201);
    eventually("the quota holds", || carol.asks("POST", &format!("{own}?dryRun=All"), &pod("three")) == 403);
    assert_eq!(carol.asks("POST", &own, &pod("three")), 403);
    assert_eq!(carol.gets(&place(&server, "carol-dev", &format!("secrets/{}", server.own("hers")))), 200);

    assert_eq!(carol.asks("POST", &other, &pod("one")), 403);
    assert_eq!(carol.gets(&place(&server, "dora-dev", &format!("secrets/{}", server.own("not-hers")))), 403);
    assert_eq!(carol.gets(&place(&server, "dora-dev", "secrets")), 403);
    assert_eq!(carol.gets("/api/v1/secrets"), 403);
    for seen in ["/api/v1/pods", "/api/v1/nodes", "/api/v1/namespaces", "/apis/apps/v1/deployments"] {
        assert_eq!(carol.gets(seen), 200, "{seen}");
    }
    for (verb, what) in [
        ("create", "pods"),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("get", "secrets"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("delete", "namespaces"),
        ("impersonate", "users"),
    ] {
        assert!(!carol.may(verb, what), "{verb} {what} everywhere");
    }
    // Nor can she give herself more, or a wider quota, in what is hers.
    let grants =
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", server.own("carol-dev"));
    let grant = |role: &str| {
        json!({
            "metadata": {"name": role}, "subjects": [{"kind": "User", "name": carol.name}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        })
    };
    assert_eq!(carol.asks("POST", &grants, &grant("cluster-admin")), 403);
    assert_eq!(carol.asks("POST", &grants, &grant("view")), 201);
    let quota = place(
        &server,
        "carol-dev",
        &format!("resourcequotas/{}?fieldManager=test", server.own("carol-dev-quota")),
    );
    assert_eq!(carol.asks("DELETE", &quota, &json!({})), 403);
}

#[tokio::test]
#[ignore = "only a real API server shows it: ./dev test cluster"]
async fn a_power_user_reads_widely_and_no_secret_and_changes_nothing() {
    let server = Cluster::start();
    let people = json!({
        "bob": person("bob", "power-user", &[]), "dora": person("dora", "namespace-owner", &["dora-dev"]),
    });
    let config = Kubernetes { user_prefix: "oidc:".into(), ..server.config() };
    assert!(run_with(&server, &people, &config, limits()).await.is_done());
    server.write_as("test", "secrets dora-dev/not-his", &json!({"data": {"key": "aHVudGVyMg=="}}));
    let unknown = Person::of(&server, "bob");
    let bob = Person { server: &server, name: format!("oidc:{}", unknown.name) };
    eventually("bob reads pods", || bob.gets("/api/v1/pods") == 200);
    for seen in [
        "/api/v1/configmaps",
        "/api/v1/events",
        "/api/v1/nodes",
        "/api/v1/serviceaccounts",
        "/api/v1/resourcequotas",
        "/apis/apps/v1/deployments",
        "/apis/batch/v1/jobs",
        "/apis/networking.k8s.io/v1/ingresses",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "/apis/storage.k8s.io/v1/storageclasses",
    ] {
        assert_eq!(bob.gets(seen), 200, "{seen}");
    }
    assert_eq!(bob.gets("/api/v1/secrets"), 403);
    assert_eq!(bob.gets(&place(&server, "dora-dev", "secrets")), 403);
    assert_eq!(bob.gets(&place(&server, "dora-dev", &format!("secrets/{}", server.own("not-his")))), 403);
    assert_eq!(bob.asks("POST", &place(&server, "dora-dev", "pods"), &pod("one")), 403);
    for what in
        ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"]
    {
        assert!(!bob.may("get", what) && !bob.may("create", what), "{what}");
    }
    for what in
        ["pods", "secrets", "configmaps", "deployments.apps", "clusterroles.rbac.authorization.k8s.io"]
    {
        for verb in ["create", "update", "patch", "delete", "deletecollection", "escalate", "bind"] {
            assert!(!bob.may(verb, what), "{verb} {what}");
        }
    }
    assert!(!bob.may("create", "serviceaccounts/token") && !bob.may("impersonate", "users"));
    // He is known with the prefix only.
    assert_eq!(unknown.gets("/api/v1/pods"), 403);
}

#[tokio::test]
#[ignore = "only a real API server shows it: ./dev test cluster"]
async fn nobody_keeps_yesterdays_tier_and_who_is_cut_can_do_nothing_invariant_6() {
    let server = Cluster::start();
    let erin = |tier: &str, namespaces: &[&str]| json!({"erin": person("erin", tier, namespaces)});
    let (person, stranger) = (Person::of(&server, "erin"), Person::of(&server, "nobody"));
    let reads_roles = || person.may("list", "clusterroles.rbac.authorization.k8s.io");
    let works = || person.rules("erin-dev").contains("\"pods/exec\"");
    let (admin, power, owner) =
        (erin("admin", &[]), erin("power-user", &[]), erin("namespace-owner", &["erin-dev"]));
    let nothing = stranger.rules("erin-dev");
    assert_eq!(person.rules("erin-dev"), nothing);
    // Up and down, each after each other.
    for tier in ["admin", "power", "owner", "admin", "owner", "power", "admin", "cut", "owner", "cut"] {
        match tier {
            "admin" => sync(&server, &admin).await,
            "power" => sync(&server, &power).await,
            "owner" => sync(&server, &owner).await,
            _ => sync(&server, &json!({})).await,
        }
        let expected = match tier {
            "admin" => (true, true, false),
            "power" => (false, true, false),
            "owner" => (false, false, true),
            _ => (false, false, false),
        };
        // The server heeds a change of its grants by and by.
        eventually(&format!("erin has the rights of {tier}"), || {
            (person.may("*", "*.*"), reads_roles(), works()) == expected
        });
        if tier == "cut" {
            eventually("erin has what a stranger has", || person.rules("erin-dev") == nothing);
            for path in ["/api/v1/pods", "/api/v1/namespaces", "/api/v1/secrets"] {
                assert_eq!(person.gets(path), 403, "{path}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "only a real API server shows it: ./dev test cluster"]
async fn a_namespace_that_somebody_deletes_is_waited_for_and_made_again() {
    let server = Cluster::start();
    let people = json!({"carol": person("carol", "namespace-owner", &["carol-dev"])});
    sync(&server, &people).await;
    // What holds it is somebody else's, as a volume that is still used.
    let held = json!({"metadata": {"finalizers": ["example.org/held"]}});
    server.write_as("test", "configmaps carol-dev/held", &held);
    let wanted = desired(&server, &people, &server.config());
    let mut worker = worker(&server, &server.token(), limits()).await;
    server.delete("rolebindings carol-dev/carol-admin");
    let plan = plan::cluster(&wanted, &worker.observe(&wanted).await.unwrap());
    server.delete("namespaces carol-dev");
    // It went between looking and applying.
    let results = apply(&mut worker, &plan).await;
    let [StepResult::Failed { why, next }] = &results[..] else { panic!("{results:?}") };
    assert_eq!((why.as_str(), next.as_str()), ("its namespace is being deleted", "the next run looks again"));
    worker.finish().await;
    let first = run(&server, &people).await;
    assert!(
        server.shown(&first.told()).contains("the namespace carol-dev is being deleted"),
        "{}",
        first.told()
    );
    server.write_as("test", "configmaps carol-dev/held", &json!({"metadata": {"finalizers": null}}));
    eventually("the namespace is there again", || server.objects().len() < 3);
    assert!(run(&server, &people).await.is_done());
    assert!(run(&server, &people).await.plan.steps.is_empty());
}

#[tokio::test]
#[ignore = "only a real API server shows it: ./dev test cluster"]
async fn what_a_quota_forbids_is_not_told_as_a_lack_of_rights() {
    let server = Cluster::start();
    server.write_as("test", "resourcequotas portal/none", &json!({"spec": {"hard": {"configmaps": "0"}}}));
    let maps = format!("{}?dryRun=All", place(&server, "portal", "configmaps"));
    let map = json!({"metadata": {"name": "one"}});
    eventually("the quota holds", || server.real().ask("POST", &maps, "application/json", &map).0 == 403);
    let place = format!("{}/{}", server.own("portal"), server.own("people"));
    let config = Kubernetes { portal: Some(place.parse().unwrap()), ..server.config() };
    let run = run_with(&server, &json!({}), &config, limits()).await;
    let [StepResult::Failed { why, next }] = &run.results[..] else { panic!("{run:?}") };
    assert!(why.contains("forbidden") && why.contains("quota"), "{why}");
    assert!(next.starts_with("this is no matter of rights"), "{next}");
}
