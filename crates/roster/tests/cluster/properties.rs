//! What holds for every roster and every cluster.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use roster::cluster::{Key, Kind, Kubernetes, Seen};
use roster::model::Roster;
use roster::plan::{Action, ClusterAction, Step};
use serde_json::{Value, json};

use crate::pretend::{Pretend, hand, other, person, roster, us};

const NAMES: [&str; 4] = ["ana", "bea", "cleo", "dora"];
const PLACES: [&str; 3] = ["one", "two", "three"];

fn any_person(name: &'static str) -> impl Strategy<Value = Value> {
    let tier = select(vec!["admin", "power-user", "namespace-owner"]);
    let places = subsequence(PLACES.to_vec(), 1..=PLACES.len());
    let quota = prop::option::of(select(vec![json!({"cpu": "4"}), json!({"memory": "8Gi", "pods": "20"})]));
    (tier, places, quota, prop::bool::weighted(0.9)).prop_map(move |(tier, places, quota, email)| {
        let mut person = person(name, tier, if tier == "namespace-owner" { &places } else { &[] });
        if let Some(quota) = quota {
            person["quota"] = quota;
        }
        if !email {
            person.as_object_mut().unwrap().remove("email");
        }
        person
    })
}

fn any_roster() -> impl Strategy<Value = Roster> {
    let people = NAMES.map(|name| prop::option::of(any_person(name)));
    people.prop_map(|people| {
        let listed =
            NAMES.into_iter().zip(people).filter_map(|(name, person)| Some((name.to_owned(), person?)));
        roster(Value::Object(listed.collect()))
    })
}

/// Objects of others, some in the place of ours, some with our label copied.
fn any_cluster() -> impl Strategy<Value = Pretend> {
    let ours = json!({"labels": {"app.kubernetes.io/managed-by": "rosterd", "app.kubernetes.io/instance": "default"}});
    let grant = move |role: &str, name: &str, labelled: bool| {
        json!({
            "metadata": if labelled { ours.clone() } else { json!({}) },
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        })
    };
    let objects = (select(&NAMES[..]), select(&PLACES[..]), 0..6, any::<bool>(), any::<bool>());
    prop::collection::vec(objects, 0..6).prop_map(move |objects| {
        let mut cluster = Pretend::default();
        for (name, place, what, labelled, by_hand) in objects {
            let owner = if by_hand { hand() } else { other() };
            let somebody = "somebody@example.org";
            let (key, content) = match what {
                0 => (Key::wide(Kind::Namespace, place), json!({"metadata": {"labels": {"team": "x"}}})),
                1 => (
                    Key::wide(Kind::ClusterRoleBinding, format!("{name}-cluster-admin")),
                    grant("cluster-admin", somebody, labelled),
                ),
                2 => (
                    Key::wide(Kind::ClusterRoleBinding, format!("{name}-read-only")),
                    grant("view", somebody, labelled),
                ),
                3 => (Key::wide(Kind::ClusterRole, "oidc-power-user-readonly"), json!({"rules": []})),
                4 => (Key::inside(Kind::RoleBinding, place, "theirs"), grant("edit", somebody, labelled)),
                _ => (
                    Key::inside(Kind::ResourceQuota, place, format!("{place}-quota")),
                    json!({"spec": {"hard": {"cpu": "1"}}}),
                ),
            };
            if let Some(place) = &key.namespace {
                cluster.foreign(Key::wide(Kind::Namespace, place), &json!({}), &other());
            }
            cluster.foreign(key, &content, &owner);
        }
        cluster
    })
}

fn config(revoke_on_cut: bool) -> Kubernetes {
    Kubernetes { revoke_on_cut, max_deletes: 1000, ..Kubernetes::default() }
}

/// The roles of a tier.
fn roles(roster: &Roster, name: &str) -> BTreeSet<String> {
    let Some((_, person)) = roster.users.iter().find(|(user, _)| user.as_str() == name) else {
        return BTreeSet::new();
    };
    match person.tier {
        roster::model::Tier::Admin => ["cluster-admin".to_owned()].into(),
        roster::model::Tier::PowerUser => ["oidc-power-user-readonly".to_owned()].into(),
        roster::model::Tier::NamespaceOwner => {
            let own = person.namespaces.iter().map(|place| format!("{place}/admin"));
            own.chain([format!("{name}-read-only")]).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_second_run_has_no_steps_invariant_9(
        cluster in any_cluster(), rosters in prop::collection::vec(any_roster(), 1..4),
    ) {
        let mut cluster = cluster;
        for people in rosters {
            let first = cluster.plan(&people, &config(true), &[]);
            let done = cluster.run(&first, |_| false);
            // What the plan offers, the cluster takes: no step is refused for something that could be seen.
            prop_assert!(done.iter().all(|done| *done), "{first:#?}");
            let second = cluster.plan(&people, &config(true), &[]);
            prop_assert!(second.steps.is_empty(), "{:#?}", second.steps);
            prop_assert_eq!(second.problems, first.problems);
        }
    }

    #[test]
    fn nobody_keeps_yesterdays_tier(
        rosters in prop::collection::vec(any_roster(), 2..5), failing in prop::collection::vec(0usize..12, 0..6),
        widened in prop::collection::vec(0usize..8, 0..3),
    ) {
        let mut cluster = Pretend::default();
        for (round, people) in rosters.iter().enumerate() {
            // Some of the grants name another role than they did: they have to be made anew.
            let grants: Vec<Key> = cluster.objects.keys().filter(|key| key.kind.is_grant()).cloned().collect();
            for key in widened.iter().filter_map(|index| grants.get(*index)) {
                cluster.edit(key, "/roleRef/name", json!("wide"), &us());
            }
            let plan = cluster.plan(people, &config(true), &[]);
            let mut failing = failing.clone();
            let mut done: Vec<bool> = Vec::new();
            // After each single step, nobody has a right of today's tier that they did not have before beside one
            // that today's tier does not give.
            let before = NAMES.map(|name| cluster.roles_of(&format!("{name}@example.org")));
            for (index, step) in plan.steps.iter().enumerate() {
                let may = step.needs.iter().all(|need| done[*need]);
                let fails = round + 1 < rosters.len() && failing.first() == Some(&index);
                if fails {
                    failing.remove(0);
                }
                // Of a step that is two calls, the second fails.
                let half = match &step.action {
                    Action::Cluster(ClusterAction::Replace { key, uid, version, .. }) if may && fails => {
                        let (key, uid, version) = (key.clone(), uid.clone(), version.clone());
                        let action = ClusterAction::Delete { key, uid, version };
                        Some(Step { action: Action::Cluster(action), ..step.clone() })
                    }
                    _ => None,
                };
                if let Some(half) = half {
                    prop_assert!(cluster.take(&half).is_ok());
                }
                done.push(may && !fails && cluster.take(step).is_ok());
                for (name, before) in NAMES.iter().zip(&before) {
                    let now = cluster.roles_of(&format!("{name}@example.org"));
                    let wanted = roles(people, name);
                    let gained = now.difference(before).count();
                    prop_assert!(gained == 0 || now.is_subset(&wanted), "{name} has {now:?} of {wanted:?}");
                }
            }
        }
        // The last run had no failure: everybody has exactly what today's tier gives.
        let people = rosters.last().unwrap();
        for (user, person) in &people.users {
            if person.email.is_some() {
                prop_assert_eq!(cluster.roles_of(&format!("{user}@example.org")), roles(people, user.as_str()));
            }
        }
        for name in NAMES.iter().filter(|name| !people.users.keys().any(|user| user.as_str() == **name)) {
            let left = cluster.roles_of(&format!("{name}@example.org"));
            prop_assert!(left.is_empty(), "{name} keeps {left:?}");
        }
    }

    #[test]
    fn only_ours_is_pruned_and_namespaces_stay(
        cluster in any_cluster(), rosters in prop::collection::vec(any_roster(), 1..4),
    ) {
        let mut cluster = cluster;
        // A grant with our labels is ours by that alone.
        let is_theirs = |seen: &&Seen| !(seen.key.kind.is_grant() && seen.is_marked(&config(true).instance));
        let theirs: Vec<_> = cluster.objects.values().filter(is_theirs).cloned().collect();
        let mut places = BTreeSet::new();
        for people in rosters {
            let plan = cluster.plan(&people, &config(true), &[]);
            cluster.run(&plan, |_| false);
            for seen in &theirs {
                let now = cluster.objects.get(&seen.key);
                prop_assert_eq!(now.map(|now| &now.uid), Some(&seen.uid), "{} is gone", seen.key);
                for (path, value) in &seen.fields {
                    prop_assert_eq!(now.unwrap().fields.get(path), Some(value), "{} of {}", path, seen.key);
                }
            }
            places.extend(cluster.objects.keys().filter(|key| key.kind == Kind::Namespace).cloned());
            prop_assert!(places.iter().all(|place| cluster.objects.contains_key(place)));
        }
    }

    #[test]
    fn a_failed_read_concludes_nothing_invariant_8(
        rosters in prop::collection::vec(any_roster(), 2..3), unreadable in subsequence(Kind::ALL.to_vec(), 1..4),
    ) {
        let mut cluster = Pretend::default();
        let plan = cluster.plan(&rosters[0], &config(true), &[]);
        cluster.run(&plan, |_| false);
        let whole = cluster.plan(&rosters[1], &config(true), &[]);
        cluster.unreadable = unreadable.iter().copied().collect();
        let part = cluster.plan(&rosters[1], &config(true), &[]);
        for step in &part.steps {
            let Action::Cluster(action) = &step.action else { panic!() };
            let kind = action.key().kind;
            prop_assert!(!cluster.unreadable.contains(&kind), "{step}");
            prop_assert!(whole.steps.iter().any(|other| other.action == step.action), "{step}");
            let blind = cluster.unreadable.iter().any(|kind| kind.is_grant());
            let gives = kind.is_grant() && action.kind() == "cluster-apply";
            prop_assert!(!(blind && gives), "{step} though not every grant was seen");
        }
        for kind in &cluster.unreadable {
            let named = format!("{kind}s");
            let told = |problem: &&roster::plan::Problem| {
                let words: Vec<&str> = problem.what.split([' ', ',']).collect();
                words.contains(&named.as_str()) && problem.what.contains("cannot be read")
            };
            // All of them have one cause here.
            prop_assert_eq!(part.problems.iter().filter(told).count(), 1);
        }
        cluster.unreadable = BTreeSet::new();
        cluster.run(&part, |_| false);
        let rest = cluster.plan(&rosters[1], &config(true), &[]);
        cluster.run(&rest, |_| false);
        prop_assert!(cluster.plan(&rosters[1], &config(true), &[]).steps.is_empty());
    }

    #[test]
    fn who_left_keeps_everything_where_that_is_configured(first in any_roster()) {
        let mut cluster = Pretend::default();
        let plan = cluster.plan(&first, &config(false), &[]);
        cluster.run(&plan, |_| false);
        let left: Vec<_> = first.users.keys().cloned().collect();
        let nobody = roster(json!({}));
        let is_theirs = |step: &roster::plan::Step| step.subject != roster::plan::Subject::Machine;
        prop_assert!(!cluster.plan(&nobody, &config(false), &left).steps.iter().any(is_theirs));
        let gone = cluster.plan(&nobody, &config(true), &left);
        cluster.run(&gone, |_| false);
        for name in NAMES {
            let left = cluster.roles_of(&format!("{name}@example.org"));
            prop_assert!(left.is_empty(), "{name} keeps {left:?}");
        }
    }
}
