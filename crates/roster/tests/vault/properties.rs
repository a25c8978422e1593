//! What holds for every roster and every Vault.

use std::collections::BTreeSet;

use proptest::prelude::*;
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
                .any(|entity| entity.name.ends_with(name) || entity.alias.as_deref() == Some(name))
            {
                continue;
            }
            let policies = if has_policy { BTreeSet::from(["ci".to_owned()]) } else { BTreeSet::new() };
            vault.entities.push(SeenEntity {
                id: format!("theirs-{index}"),
                name: if by_alias { format!("entity_{index}") } else { format!("k{name}") },
                policies,
                alias: by_alias.then(|| name.to_owned()),
            });
        }
        if has_role {
            let one = |text: &str| BTreeSet::from([text.to_owned()]);
            let role = SeenRole { names: one("x"), namespaces: one("y"), policies: one("ci"), ttl_s: 60 };
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
                let of = desired.people.values().find(|person| person.alias.is_some() && person.alias == entity.alias);
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
        start in strangers(), first in people(), second in people(), hidden in 0..16_u8,
    ) {
        let mut vault = start;
        let plan = vault.plan(&roster(first));
        vault.run(&plan, |_| false);
        let bit = |bit: u8| hidden & (1 << bit) != 0;
        vault.unreadable = Unreadable { list: bit(0), policies: bit(1), entities: bit(2), roles: bit(3) };
        let plan = vault.plan(&roster(second));
        for step in &plan.steps {
            let Action::Vault(action) = &step.action else { panic!() };
            let allowed = match action {
                VaultAction::Publish { .. } => !bit(0),
                VaultAction::WritePolicy { .. } => !bit(1),
                VaultAction::DeletePolicy { .. } => !bit(1) && !bit(2),
                VaultAction::WriteRole { .. } | VaultAction::DeleteRole { .. } => !bit(1) && !bit(3),
                VaultAction::MakeKey { .. } => true,
                _ => !bit(1) && !bit(2),
            };
            prop_assert!(allowed, "{step}");
        }
        prop_assert_eq!(hidden == 0 || !plan.problems.is_empty(), true);
    }
}
