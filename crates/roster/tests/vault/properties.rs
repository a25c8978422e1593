//! What holds for every roster and every Vault.

use std::collections::BTreeSet;

use proptest::prelude::*;
use roster::k8s_users::MapState;
use roster::plan::{Action, VaultAction};
use roster::vault::{Mark, SeenEntity, SeenRole};
use serde_json::{Map, Value, json};

use crate::pretend::{Pretend, Unreadable, roster};

const NAMES: [&str; 4] = ["ann", "bob", "cyd", "dan"];

fn people() -> impl Strategy<Value = Value> {
    let one = (0..3_usize, proptest::sample::subsequence(vec!["x", "y", "z"], 1..3));
    proptest::collection::btree_map(proptest::sample::select(&NAMES[..]), one, 0..4).prop_map(|people| {
        let one = |(name, (tier, namespaces)): (&str, (usize, Vec<&str>))| {
            let tier = ["namespace-owner", "power-user", "admin"][tier];
            let namespaces: Vec<String> = match tier {
                "namespace-owner" => namespaces.iter().map(|end| format!("{name}-{end}")).collect(),
                _ => Vec::new(),
            };
            let person = json!({
                "authentik_user": name, "k8s_user": format!("k{name}"), "tier": tier, "namespaces": namespaces,
            });
            (name.to_owned(), person)
        };
        Value::Object(people.into_iter().map(one).collect::<Map<_, _>>())
    })
}

/// What others have made before us.
fn strangers() -> impl Strategy<Value = Pretend> {
    let policies = proptest::collection::btree_set(
        proptest::sample::select(vec!["namespace-owner-kann", "workstation-kbob", "state-zoe", "ci"]),
        0..4,
    );
    let entities = proptest::collection::vec((0..6_usize, any::<bool>(), any::<bool>()), 0..3);
    (policies, entities, any::<bool>()).prop_map(|(policies, entities, has_role)| {
        let mut vault = Pretend {
            list: Some(r#"{"zoe": {"role": "admin"}, "kann": {"note": 1}}"#.into()),
            ..Pretend::default()
        };
        for name in policies {
            vault.policies.insert(name.into(), "path \"theirs\" {\n  capabilities = [\"read\"]\n}".into());
        }
        for (index, (who, by_alias, has_policy)) in entities.into_iter().enumerate() {
            let name = ["ann", "bob", "cyd", "dan", "zoe", "yan"][who];
            if vault
                .entities
                .iter()
                .any(|entity| entity.name.ends_with(name) || entity.aliases.contains(name))
            {
                continue;
            }
            let policies = if has_policy { BTreeSet::from(["ci".to_owned()]) } else { BTreeSet::new() };
            vault.entities.push(SeenEntity {
                id: format!("theirs-{index}"),
                name: if by_alias { format!("entity_{index}") } else { format!("k{name}") },
                policies,
                aliases: by_alias.then(|| name.to_owned()).into_iter().collect(),
                others: BTreeSet::new(),
            });
        }
        if has_role {
            let one = |text: &str| BTreeSet::from([text.to_owned()]);
            let role = SeenRole {
                names: one("x"),
                namespaces: one("y"),
                policies: one("ci"),
                ttl_s: 60,
                changed: BTreeSet::new(),
            };
            vault.roles.insert("ann-x-deployer".into(), role.clone());
            vault.roles.insert("other-deployer".into(), role);
        }
        vault
    })
}

/// What is others', as it must stay.
fn theirs(vault: &Pretend) -> Value {
    let foreign = |name: &&String| vault.policies.get(*name).is_none_or(|text| Mark::of(text).is_none());
    let entities: Vec<_> = vault
        .entities
        .iter()
        .filter(|entity| entity.id.starts_with("theirs"))
        .map(|entity| {
            json!([entity.id, entity.name, entity.policies.iter().filter(foreign).collect::<Vec<_>>()])
        })
        .collect();
    let policies: Vec<_> = vault.policies.iter().filter(|(_, text)| Mark::of(text).is_none()).collect();
    let roles: Vec<_> =
        vault.roles.iter().filter(|(_, role)| role.policies.contains("ci")).map(|(name, _)| name).collect();
    let list: Value = vault.list.as_ref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
    json!({"entities": entities, "policies": policies, "roles": roles, "zoe": list["zoe"], "note": list["kann"]["note"]})
}

/// A namespace goes, and its role does not: what the person may no longer do waits for nobody.
#[test]
fn a_policy_is_narrowed_whatever_else_fails() {
    let owner = |namespaces: Value| {
        roster(json!({"ann": {
            "authentik_user": "ann", "k8s_user": "kann", "tier": "namespace-owner", "namespaces": namespaces,
        }}))
    };
    let mut vault = Pretend::default();
    let plan = vault.plan(&owner(json!(["ann-x", "ann-y"])));
    vault.run(&plan, |_| false);
    let plan = vault.plan(&owner(json!(["ann-x"])));
    let is_role = |index: usize| plan.steps[index].to_string().contains("delete role");
    assert_eq!(vault.run(&plan, is_role).iter().filter(|done| !**done).count(), 1);
    assert!(!vault.policies["namespace-owner-kann"].contains("ann-y"));
}

/// A roster at some time, what cannot be known then, and which steps fail.
#[derive(Debug, Clone)]
struct Moment {
    people: Value,
    hidden: Unreadable,
    fails: Vec<bool>,
    /// The steps before this one are done; then rosterd is killed.
    killed: usize,
}

/// People whose logins and names in the cluster go from one to another; of some neither is known by what they log in.
fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let one = (0..3_usize, 0..4_usize, 0..4_usize, proptest::bool::weighted(0.8));
    let people = proptest::collection::btree_map(proptest::sample::select(&NAMES[..]), one, 0..4);
    let rare = || proptest::bool::weighted(0.1);
    let fails = proptest::collection::vec(proptest::bool::weighted(0.2), 20);
    let moment = (people, (rare(), rare(), rare()), fails, prop_oneof![Just(99), 0..20_usize]);
    let moment = moment.prop_map(|(people, (entities, roles, has_no_people), fails, killed)| {
        let one = |(name, (tier, login, k8s_user, has_email)): (&str, (usize, usize, usize, bool))| {
            let namespaces = if tier == 0 { vec![format!("{name}-dev")] } else { vec![] };
            let tier = ["namespace-owner", "power-user", "admin"][tier];
            let person = json!({
                "authentik_user": name, "k8s_user": format!("k{k8s_user}"),
                "tier": tier, "namespaces": namespaces,
                "email": has_email.then(|| format!("l{login}@example.org")),
            });
            (name.to_owned(), person)
        };
        let people = Value::Object(people.into_iter().map(one).collect());
        let hidden = Unreadable { entities, roles, has_no_people, ..Unreadable::default() };
        Moment { people, hidden, fails, killed }
    });
    proptest::collection::vec(moment, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever fails, is killed or cannot be read while people get other logins and other names: at any time whoever has a
    /// policy of ours is named by it (each run asserts that), and in the end nobody has one who should not.
    #[test]
    fn nobody_keeps_what_they_should_not_have_invariant_8(
        logged_in in proptest::sample::subsequence(vec!["l0", "l1", "l2", "l3"], 0..4), moments in moments(),
    ) {
        let mut vault = Pretend { list: Some("{}".into()), ..Pretend::default() };
        logged_in.iter().for_each(|login| vault.log_in(&format!("{login}@example.org")));
        for moment in &moments {
            vault.unreadable = moment.hidden;
            // Whether a list could not be read, or says nothing of them.
            let map = if moment.killed % 2 == 0 { MapState::Unreadable } else { MapState::None };
            let (_, plan) = vault.plan_by_email(&roster(moment.people.clone()), &map);
            vault.run(&plan, |index| index >= moment.killed || moment.fails[index % moment.fails.len()]);
        }
        vault.unreadable = Unreadable::default();
        let mut last = moments.last().unwrap().people.clone();
        let mut known = BTreeSet::new();
        for (name, person) in last.as_object_mut().unwrap() {
            if !person["email"].as_str().is_some_and(|email| known.insert(email.to_owned())) {
                person["email"] = format!("new-{name}@example.org").into();
            }
        }
        let last = roster(last);
        let (desired, plan) = vault.plan_by_email(&last, &MapState::None);
        prop_assert!(vault.run(&plan, |_| false).iter().all(|done| *done));
        let (_, again) = vault.plan_by_email(&last, &MapState::None);
        prop_assert!(again.steps.is_empty(), "{:#?}", again.steps);
        for entity in &vault.entities {
            let is_theirs = |alias: &&String| entity.aliases.contains(*alias);
            let person = desired.people.values().find(|person| person.alias.iter().any(|alias| is_theirs(&alias)));
            for name in &entity.policies {
                prop_assert!(person.is_some_and(|person| person.policies.contains(name)), "{name} {entity:?}");
            }
        }
        for name in vault.policies.keys() {
            prop_assert!(desired.policies.contains_key(name), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever fails at first, the next runs converge; and what is others' stays theirs.
    #[test]
    fn runs_converge_and_leave_what_is_others(
        start in strangers(), first in people(), second in people(), broken in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let mut vault = start.clone();
        let before = theirs(&start);
        for people in [&first, &second] {
            let roster = roster(people.clone());
            let plan = vault.plan(&roster);
            vault.run(&plan, |index| broken[index % broken.len()]);
            prop_assert_eq!(&theirs(&vault), &before);
            let plan = vault.plan(&roster);
            prop_assert!(vault.run(&plan, |_| false).iter().all(|done| *done));
            prop_assert_eq!(&theirs(&vault), &before);
            let again = vault.plan(&roster);
            prop_assert!(again.steps.is_empty(), "{:#?}", again.steps);
        }
    }

    /// After a run that went through, nobody has a policy of ours that the roster does not give them; and no policy of
    /// ours is left that the roster does not ask for.
    #[test]
    fn nobody_keeps_yesterdays_tier(start in strangers(), first in people(), second in people()) {
        let mut vault = start;
        for people in [first, second] {
            let roster = roster(people);
            let plan = vault.plan(&roster);
            vault.run(&plan, |_| false);
            let desired = Pretend::desired(&roster);
            for entity in &vault.entities {
                let ours = entity.policies.iter().filter(|name| {
                    vault.policies.get(*name).is_none_or(|text| Mark::of(text).is_some()) && *name != "ci"
                });
                let of = desired.people.values().find(|person| person.alias.as_ref().is_some_and(|alias| entity.aliases.contains(alias)));
                for name in ours {
                    prop_assert!(of.is_some_and(|person| person.policies.contains(name)), "{entity:?}");
                }
            }
            for (name, text) in &vault.policies {
                prop_assert!(Mark::of(text).is_none() || desired.policies.contains_key(name));
            }
        }
    }

    /// A policy that somebody may still have is never removed, and what was not read is not taken for gone (invariant 8).
    #[test]
    fn what_cannot_be_read_is_left_invariant_8(
        start in strangers(), first in people(), second in people(), hidden in 0..32_u8,
    ) {
        let mut vault = start;
        let plan = vault.plan(&roster(first));
        vault.run(&plan, |_| false);
        let bit = |bit: u8| hidden & (1 << bit) != 0;
        vault.unreadable = Unreadable {
            list: bit(0),
            policies: bit(1),
            entities: bit(2),
            roles: bit(3),
            has_no_people: bit(4),
        };
        let plan = vault.plan(&roster(second));
        for step in &plan.steps {
            let Action::Vault(action) = &step.action else { panic!() };
            let allowed = match action {
                VaultAction::Publish { .. } => !bit(0),
                VaultAction::WritePolicy { .. } => !bit(1),
                VaultAction::DeletePolicy { .. } => hidden & 0b11110 == 0,
                VaultAction::WriteRole { .. } | VaultAction::DeleteRole { .. } => !bit(1) && !bit(3),
                VaultAction::MakeKey { .. } => true,
                _ => !bit(1) && !bit(2) && !bit(4),
            };
            prop_assert!(allowed, "{step}");
        }
        prop_assert_eq!(hidden == 0 || !plan.problems.is_empty(), true);
    }
}
