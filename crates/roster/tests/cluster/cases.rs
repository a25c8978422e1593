//! Single cases, with what a person reads.

use roster::cluster::{self, Key, Kind, Kubernetes, Reading, Seen};
use roster::k8s_users::MapState;
use roster::plan::{self, Plan, Step};
use roster::revocation;
use serde_json::json;

use crate::pretend::{Pretend, hand, other, person, roster, us};

fn told(plan: &Plan) -> String {
    let step = |step: &Step| {
        let needs = if step.needs.is_empty() { String::new() } else { format!(" (needs {:?})", step.needs) };
        format!("{step}: {}{needs}\n", step.reason)
    };
    let steps: String = plan.steps.iter().map(step).collect();
    let problems =
        plan.problems.iter().map(|p| format!("PROBLEM {}: {}: {}; {}\n", p.subject, p.what, p.why, p.next));
    let notices = plan.notices.iter().map(|n| format!("NOTICE {}: {}\n", n.subject, n.text));
    steps + &problems.collect::<String>() + &notices.collect::<String>()
}

fn config() -> Kubernetes {
    Kubernetes::default()
}

fn synced(people: serde_json::Value) -> Pretend {
    let mut cluster = Pretend::default();
    let plan = cluster.plan(&roster(people), &config(), &[]);
    assert!(cluster.run(&plan, |_| false).iter().all(|done| *done), "{}", told(&plan));
    cluster
}

#[test]
fn the_first_sync_makes_everything_in_an_order_that_works() {
    let mut carol = person("carol", "namespace-owner", &["carol-dev"]);
    carol["quota"] = json!({"cpu": "4", "memory": "8Gi", "storage": "20Gi", "pods": "20"});
    carol["domains"] = json!(["carol.example.org"]);
    let people = roster(json!({
        "alice": person("alice", "admin", &[]), "bob": person("bob", "power-user", &[]), "carol": carol,
    }));
    let issuer = Kubernetes {
        cluster_issuer: Some("letsencrypt".into()),
        portal: Some("portal/people".parse().unwrap()),
        ..config()
    };
    insta::assert_snapshot!(told(&Pretend::default().plan(&people, &issuer, &[])), @r"
    carol: apply Namespace carol-dev: it is not there
    carol: apply ClusterRole carol-read-only: it is not there
    machine: apply ClusterRole oidc-power-user-readonly: it is not there
    carol: apply Role carol-dev/carol-dev-deployer: it is not there (needs [0])
    carol: apply ResourceQuota carol-dev/carol-dev-quota: it is not there (needs [0])
    machine: apply ConfigMap portal/people: it is not there
    carol: apply Certificate carol-dev/tls-carol-dev: it is not there (needs [0])
    alice: apply ClusterRoleBinding alice-cluster-admin: it is not there
    bob: apply ClusterRoleBinding bob-power-user: it is not there (needs [2])
    carol: apply ClusterRoleBinding carol-read-only: it is not there (needs [1])
    carol: apply RoleBinding carol-dev/carol-admin: it is not there (needs [0])
    ");
}

#[test]
fn a_lower_tier_loses_the_old_grant_before_it_gets_the_new_one() {
    let cluster = synced(json!({"carol": person("carol", "admin", &[])}));
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["carol-dev"])}));
    insta::assert_snapshot!(told(&cluster.plan(&people, &config(), &[])), @r"
    carol: delete ClusterRoleBinding carol-cluster-admin: the roster asks for it no longer
    carol: apply Namespace carol-dev: it is not there
    carol: apply ClusterRole carol-read-only: it is not there
    carol: apply Role carol-dev/carol-dev-deployer: it is not there (needs [1])
    carol: apply ClusterRoleBinding carol-read-only: it is not there (needs [0, 2])
    carol: apply RoleBinding carol-dev/carol-admin: it is not there (needs [0, 1])
    ");
}

#[test]
fn what_was_changed_by_hand_is_put_right() {
    let carol = json!({"carol": person("carol", "namespace-owner", &["carol-dev"])});
    let mut cluster = synced(carol.clone());
    let role = Key::inside(Kind::Role, "carol-dev", "carol-dev-deployer");
    cluster.edit(&role, "/rules", json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]), &hand());
    let place = Key::wide(Kind::Namespace, "carol-dev");
    cluster.edit(&place, "/metadata/labels/app.kubernetes.io~1managed-by", json!("me"), &hand());
    cluster.objects.remove(&Key::wide(Kind::ClusterRoleBinding, "carol-read-only"));
    insta::assert_snapshot!(told(&cluster.plan(&roster(carol), &config(), &[])), @r"
    carol: put right Namespace carol-dev: metadata.labels.app.kubernetes.io/managed-by was changed by kubectl-edit
    carol: put right Role carol-dev/carol-dev-deployer: rules was changed by kubectl-edit (needs [0])
    carol: apply ClusterRoleBinding carol-read-only: it is not there
    ");
}

#[test]
fn another_programs_fields_are_not_fought_over() {
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["carol-dev"])}));
    let mut cluster = Pretend::default();
    cluster.foreign(
        Key::wide(Kind::Namespace, "carol-dev"),
        &json!({"metadata": {"labels": {"team": "x"}}}),
        &other(),
    );
    let admins = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "admins"}],
    });
    cluster.foreign(Key::inside(Kind::RoleBinding, "carol-dev", "carol-admin"), &admins, &other());
    let plan = cluster.plan(&people, &config(), &[]);
    insta::assert_snapshot!(told(&plan), @r"
    carol: apply Namespace carol-dev: it is there already, and becomes ours
    carol: apply ClusterRole carol-read-only: it is not there
    carol: apply Role carol-dev/carol-dev-deployer: it is not there (needs [0])
    carol: apply ClusterRoleBinding carol-read-only: it is not there (needs [1])
    PROBLEM carol: RoleBinding carol-dev/carol-admin is not as the roster says: subjects is set by terraform; let only one of the two keep it: take it out of the other's hands, or give it another name
    ");
    cluster.run(&plan, |_| false);
    // The namespace is ours now as well, and keeps what others set.
    let place = &cluster.objects[&Key::wide(Kind::Namespace, "carol-dev")];
    assert_eq!(place.fields["/metadata/labels/team"], "x");
    assert!(place.is_of("default"));
}

#[test]
fn a_role_that_cannot_be_changed_is_replaced_where_it_is_ours() {
    let carol = json!({"carol": person("carol", "power-user", &[])});
    let cluster = synced(carol.clone());
    let renamed = Kubernetes { power_user_role: "readers".into(), ..config() };
    insta::assert_snapshot!(told(&cluster.plan(&roster(carol), &renamed, &[])), @r"
    machine: apply ClusterRole readers: it is not there
    carol: replace ClusterRoleBinding carol-power-user: it names another role, and that cannot be changed (needs [0])
    machine: delete ClusterRole oidc-power-user-readonly: the roster asks for it no longer
    ");
}

/// A binding names another role, and a second one goes in the same run.
#[test]
fn who_loses_more_than_one_grant_loses_all_of_them_before_any_is_given() {
    let mut cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one", "two"])}));
    let reader = Key::wide(Kind::ClusterRoleBinding, "carol-read-only");
    cluster.edit(&reader, "/roleRef/name", json!("cluster-admin"), &us());
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    insta::assert_snapshot!(told(&cluster.plan(&people, &config(), &[])), @"
    carol: delete RoleBinding two/carol-admin: the roster asks for it no longer
    carol: delete ClusterRoleBinding carol-read-only: it names another role, and that cannot be changed
    carol: apply ClusterRoleBinding carol-read-only: it names another role, and that cannot be changed (needs [0, 1])
    carol: delete Role two/two-deployer: the roster asks for it no longer
    NOTICE machine: Namespace two is in nobody's list any more; it stays until somebody deletes it
    ");
}

/// A finalizer of somebody else's holds a grant that was deleted, and the cluster obeys it meanwhile.
#[test]
fn a_grant_that_will_not_go_is_emptied_before_a_new_one_is_given() {
    let mut cluster = synced(json!({"carol": person("carol", "admin", &[])}));
    let old = Key::wide(Kind::ClusterRoleBinding, "carol-cluster-admin");
    cluster.objects.get_mut(&old).unwrap().terminating = true;
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    let plan = cluster.plan(&people, &config(), &[]);
    insta::assert_snapshot!(told(&plan), @"
    carol: delete ClusterRoleBinding carol-cluster-admin: the roster asks for it no longer; it is deleted, and gives its right until it is gone
    carol: apply Namespace one: it is not there
    carol: apply ClusterRole carol-read-only: it is not there
    carol: apply Role one/one-deployer: it is not there (needs [1])
    carol: apply ClusterRoleBinding carol-read-only: it is not there (needs [0, 2])
    carol: apply RoleBinding one/carol-admin: it is not there (needs [0, 1])
    ");
    // Where that fails, nothing new is given.
    let mut refusing = cluster.clone();
    refusing.run(&plan, |index| index == 0);
    assert_eq!(refusing.roles_of("carol@example.org"), ["cluster-admin".to_owned()].into());
    cluster.run(&plan, |_| false);
    assert_eq!(cluster.roles_of("carol@example.org").len(), 2);
    // What is left gives nobody anything.
    insta::assert_snapshot!(told(&cluster.plan(&people, &config(), &[])), @"");
    // Wanted again, under the same name: that has to wait.
    let back = roster(json!({"carol": person("carol", "admin", &[])}));
    insta::assert_snapshot!(told(&cluster.plan(&back, &config(), &[])), @"
    carol: delete ClusterRoleBinding carol-read-only: the roster asks for it no longer
    carol: delete RoleBinding one/carol-admin: the roster asks for it no longer
    carol: delete ClusterRole carol-read-only: the roster asks for it no longer
    carol: delete Role one/one-deployer: the roster asks for it no longer
    PROBLEM carol: ClusterRoleBinding carol-cluster-admin is not as the roster says: it is being deleted; wait until it is gone; if it stays, look at its finalizers
    NOTICE machine: Namespace one is in nobody's list any more; it stays until somebody deletes it
    ");
}

/// Whom a grant in a namespace is for says a note that the namespace's owner may change, and they may put a finalizer on it.
#[test]
fn who_rules_a_namespace_keeps_nobody_from_their_rights() {
    let mut cluster = synced(json!({
        "bob": person("bob", "power-user", &[]), "carol": person("carol", "namespace-owner", &["one"]),
    }));
    let own = Key::inside(Kind::RoleBinding, "one", "carol-admin");
    let key = Key::inside(Kind::RoleBinding, "one", "forged");
    let forged =
        Seen { key: key.clone(), uid: "forged".into(), terminating: true, ..cluster.objects[&own].clone() };
    cluster.objects.insert(key.clone(), forged);
    cluster.edit(&key, "/metadata/annotations/rosterd.io~1user", json!("bob"), &us());
    cluster.objects.get_mut(&key).unwrap().terminating = true;
    let people = roster(json!({
        "bob": person("bob", "admin", &[]), "carol": person("carol", "namespace-owner", &["one"]),
    }));
    let plan = cluster.plan(&people, &config(), &[]);
    assert!(cluster.run(&plan, |_| false).iter().all(|done| *done), "{}", told(&plan));
    assert_eq!(cluster.roles_of("bob@example.org"), ["cluster-admin".to_owned()].into());
}

#[test]
fn a_dropped_namespace_stays_and_loses_what_we_put_into_it() {
    let cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one", "two"])}));
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["two"])}));
    insta::assert_snapshot!(told(&cluster.plan(&people, &config(), &[])), @r"
    carol: delete RoleBinding one/carol-admin: the roster asks for it no longer
    carol: delete Role one/one-deployer: the roster asks for it no longer
    NOTICE machine: Namespace one is in nobody's list any more; it stays until somebody deletes it
    ");
}

#[test]
fn a_shared_namespace_keeps_what_the_other_owner_needs() {
    let (ana, bea) = (person("ana", "namespace-owner", &["one"]), person("bea", "namespace-owner", &["one"]));
    let cluster = synced(json!({"ana": ana, "bea": bea.clone()}));
    insta::assert_snapshot!(told(&cluster.plan(&roster(json!({"bea": bea})), &config(), &[])), @r"
    ana: delete ClusterRoleBinding ana-read-only: the roster asks for it no longer
    ana: delete RoleBinding one/ana-admin: the roster asks for it no longer
    bea: apply Namespace one: it is not marked as ours should be
    bea: apply Role one/one-deployer: it is not marked as ours should be (needs [2])
    ana: delete ClusterRole ana-read-only: the roster asks for it no longer
    ");
}

#[test]
fn a_grant_goes_whoever_changed_for_whom_it_is() {
    for owner in [hand(), other()] {
        let mut cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one"])}));
        let both = json!([{"name": "carol@example.org"}, {"name": "dave@example.org"}]);
        let grant = Key::inside(Kind::RoleBinding, "one", "carol-admin");
        cluster.edit(&grant, "/subjects", both, &owner);
        let plan = cluster.plan(&roster(json!({})), &config(), &[]);
        assert!(told(&plan).contains("delete RoleBinding one/carol-admin"), "{}", told(&plan));
        assert!(cluster.run(&plan, |_| false).iter().all(|done| *done));
        assert!(cluster.roles_of("carol@example.org").is_empty());
    }
}

#[test]
fn too_many_deletions_are_none() {
    let cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one", "two"])}));
    let few = Kubernetes { max_deletes: 3, ..config() };
    insta::assert_snapshot!(told(&cluster.plan(&roster(json!({"ana": person("ana", "admin", &[])})), &few, &[])), @r"
    PROBLEM machine: 6 objects of the cluster would be deleted, so nothing is changed there: that is more than `kubernetes.max_deletes`, which is 3; look at `rosterctl derive`; if it is meant, raise `max_deletes` in config.toml
    NOTICE machine: Namespace one is in nobody's list any more; it stays until somebody deletes it
    NOTICE machine: Namespace two is in nobody's list any more; it stays until somebody deletes it
    ");
}

#[test]
fn who_has_no_address_is_told_and_what_is_there_stays() {
    let mut carol = person("carol", "namespace-owner", &["one"]);
    let cluster = synced(json!({"carol": carol.clone()}));
    carol.as_object_mut().unwrap().remove("email");
    insta::assert_snapshot!(told(&cluster.plan(&roster(json!({"carol": carol})), &config(), &[])), @"PROBLEM carol: no rights in the cluster can be given: neither the roster nor the cluster's map has the e-mail address that the cluster knows the person by; add `email: …` to the roster, as the identity provider spells it");
}

#[test]
fn two_that_share_a_cluster_leave_each_other_alone() {
    let cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    let neighbour = Kubernetes { instance: "other".into(), ..config() };
    let people = roster(json!({"dora": person("dora", "admin", &[])}));
    insta::assert_snapshot!(told(&cluster.plan(&people, &neighbour, &[])), @"dora: apply ClusterRoleBinding dora-cluster-admin: it is not there");
}

#[test]
fn two_that_share_a_person_do_not_take_each_others_grants() {
    let carol = json!({"carol": person("carol", "admin", &[])});
    let cluster = synced(carol.clone());
    let neighbour = Kubernetes { instance: "other".into(), ..config() };
    insta::assert_snapshot!(told(&cluster.plan(&roster(carol), &neighbour, &[])), @"PROBLEM carol: ClusterRoleBinding carol-cluster-admin is not as the roster says: it is kept by the rosterd of the instance `default`; let only one of the two have it; if `default` was this one's name, `kubectl label --overwrite` with app.kubernetes.io/instance=other makes it this one's again");
}

#[test]
fn what_was_restored_from_a_copy_becomes_ours_and_goes_at_a_cut() {
    let people = json!({"carol": person("carol", "namespace-owner", &["one"])});
    let mut cluster = synced(people.clone());
    let grants: Vec<Key> = cluster.objects.keys().filter(|key| key.kind.is_grant()).cloned().collect();
    grants.iter().for_each(|key| cluster.restore(key));
    // Nobody is to have them: who set their fields, they say themselves.
    insta::assert_snapshot!(told(&cluster.plan(&roster(json!({})), &config(), &[])), @"
    carol: delete ClusterRoleBinding carol-read-only: the roster asks for it no longer
    carol: delete RoleBinding one/carol-admin: the roster asks for it no longer
    carol: delete ClusterRole carol-read-only: the roster asks for it no longer
    carol: delete Role one/one-deployer: the roster asks for it no longer
    NOTICE machine: Namespace one is in nobody's list any more; it stays until somebody deletes it
    ");
    let plan = cluster.plan(&roster(people), &config(), &[]);
    insta::assert_snapshot!(told(&plan), @"
    carol: apply ClusterRoleBinding carol-read-only: it is there already, and becomes ours
    carol: apply RoleBinding one/carol-admin: it is there already, and becomes ours
    ");
    assert!(cluster.run(&plan, |_| false).iter().all(|done| *done));
    let plan = cluster.plan(&roster(json!({})), &config(), &[]);
    assert!(plan.problems.is_empty(), "{}", told(&plan));
    assert!(cluster.run(&plan, |_| false).iter().all(|done| *done));
    assert!(cluster.roles_of("carol@example.org").is_empty());
}

#[test]
fn who_rules_a_namespace_cannot_stop_what_is_taken_from_them() {
    let mut cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    let grant = cluster.objects[&Key::inside(Kind::RoleBinding, "one", "carol-admin")].clone();
    for number in 0..500 {
        let key = Key::inside(Kind::RoleBinding, "one", format!("forged-{number}-admin"));
        cluster.objects.insert(key.clone(), Seen { key, uid: number.to_string(), ..grant.clone() });
    }
    let plan = cluster.plan(&roster(json!({})), &Kubernetes { max_deletes: 5, ..config() }, &[]);
    assert!(cluster.run(&plan, |_| false).iter().all(|done| *done), "{}", told(&plan));
    assert!(cluster.roles_of("carol@example.org").is_empty());
}

#[test]
fn who_owns_a_namespace_that_holds_what_is_rosterds_is_told() {
    let config = Kubernetes { lease: Some("one/rosterd".parse().unwrap()), ..config() };
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    let plan = Pretend::default().plan(&people, &config, &[]);
    assert!(
        told(&plan).contains(
            "NOTICE carol: owns the namespace one, and so what `lease` of [kubernetes] names there"
        )
    );
}

#[test]
fn the_power_users_role_stays_for_others_who_use_it() {
    let cluster = synced(json!({"bob": person("bob", "power-user", &[])}));
    insta::assert_snapshot!(told(&cluster.plan(&roster(json!({})), &config(), &[])), @"bob: delete ClusterRoleBinding bob-power-user: the roster asks for it no longer");
}

#[test]
fn more_than_is_told_of_a_namespace_is_a_problem_and_nobody_counts_as_seen_to_be_gone() {
    let cluster = synced(json!({"carol": person("carol", "namespace-owner", &["one"])}));
    let desired = cluster::desired(&roster(json!({})), &config(), &MapState::None, std::iter::empty());
    let mut observed = cluster.observe(&desired);
    let seen = observed.kinds[&Kind::RoleBinding].seen().unwrap().to_vec();
    assert!(revocation::holders_in_the_cluster(&observed, "default").is_some());
    let namespaces = ["one".to_owned()].into();
    observed.kinds.insert(Kind::RoleBinding, Reading::InPart { seen, namespaces });
    insta::assert_snapshot!(told(&plan::cluster(&desired, &observed)), @"
    carol: delete ClusterRoleBinding carol-read-only: the roster asks for it no longer
    carol: delete RoleBinding one/carol-admin: the roster asks for it no longer
    carol: delete ClusterRole carol-read-only: the roster asks for it no longer
    carol: delete Role one/one-deployer: the roster asks for it no longer
    PROBLEM machine: of the RoleBindings in one only some are looked at in a run: there are more of rosterd's label than it can have made, so somebody else did; ask the namespace's owner; what is not wanted goes bit by bit, run by run
    NOTICE machine: Namespace one is in nobody's list any more; it stays until somebody deletes it
    ");
    assert_eq!(revocation::holders_in_the_cluster(&observed, "default"), None);
}
