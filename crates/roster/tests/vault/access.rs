//! What a person can reach in a Vault, beside what the roster gives them.

use roster::access::{self, Grant, Place};
use roster::model::Roster;
use serde_json::{Value, json};

use crate::pretend::{Pretend, roster};

fn told(place: &Place) -> String {
    let grant = |grant: &Grant| {
        let why = grant.why.as_deref().unwrap_or("not given");
        let found = match grant.found {
            Some(true) => "is there",
            Some(false) => "is not there",
            None => "is not known to be there",
        };
        format!("{} ({why}): {found}\n", grant.what)
    };
    let unknown = place.unknown.iter().map(|why| format!("unknown: {why}\n"));
    place.grants.iter().map(grant).chain(unknown).collect()
}

fn carol() -> Value {
    json!({"carol": {
        "authentik_user": "carol", "k8s_user": "carol", "tier": "namespace-owner", "namespaces": ["carol-dev"],
    }})
}

fn reach(vault: &Pretend, roster: &Roster) -> String {
    let (desired, observed) = vault.sides(roster);
    told(&access::in_vault(&"carol".parse().unwrap(), roster, &desired, &observed))
}

#[test]
fn what_is_given_and_what_is_found_stand_side_by_side() {
    let mut vault = Pretend::default();
    let people = roster(carol());
    let plan = vault.plan(&people);
    vault.run(&plan, |_| false);
    insta::assert_snapshot!(reach(&vault, &people), @r"
    policy namespace-owner-carol (tier namespace-owner): is there
    policy state-carol (tier namespace-owner): is there
    policy workstation-carol (tier namespace-owner): is there
    pipelines log in as carol-dev-deployer (tier namespace-owner): is there
    ");
    vault.entities[0].policies.remove("state-carol");
    vault.entities[0].policies.insert("root-like".into());
    vault.roles.clear();
    insta::assert_snapshot!(reach(&vault, &people), @r"
    policy namespace-owner-carol (tier namespace-owner): is there
    policy state-carol (tier namespace-owner): is not there
    policy workstation-carol (tier namespace-owner): is there
    policy root-like (not given): is there
    pipelines log in as carol-dev-deployer (tier namespace-owner): is not there
    ");
    // Gone from the roster, and not yet from Vault.
    insta::assert_snapshot!(reach(&vault, &roster(json!({}))), @r"
    policy namespace-owner-carol (not given): is there
    policy workstation-carol (not given): is there
    ");
    vault.unreadable.entities = true;
    insta::assert_snapshot!(reach(&vault, &people), @r"
    policy namespace-owner-carol (tier namespace-owner): is not known to be there
    policy state-carol (tier namespace-owner): is not known to be there
    policy workstation-carol (tier namespace-owner): is not known to be there
    pipelines log in as carol-dev-deployer (tier namespace-owner): is not there
    unknown: forbidden
    ");
}

#[test]
fn who_leaves_keeps_everything_where_that_is_configured() {
    let mut vault = Pretend::default();
    let plan = vault.plan(&roster(carol()));
    vault.run(&plan, |_| false);
    let nobody = roster(json!({}));
    let kept = vault.plan_without_revoking(&nobody, &["carol".parse().unwrap()]);
    assert!(kept.steps.is_empty(), "{:?}", kept.steps);
    // Whoever never had an account here is no person who left.
    assert!(!vault.plan_without_revoking(&nobody, &[]).steps.is_empty());
    assert!(!vault.plan(&nobody).steps.is_empty());
}
