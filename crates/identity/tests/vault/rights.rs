//! Nobody has what they should not have, and nobody loses what they should, whatever cannot be known.

use super::*;

#[tokio::test]
async fn while_the_list_of_people_cannot_be_read_nobody_loses_anything_invariant_8() {
    let server = VaultStandIn::start(TOKEN);
    server.log_in("carol@example.org", &["theirs"]);
    server.log_in("bob@example.org", &[]);
    let mut people = everybody();
    people["carol"]["email"] = Value::Null;
    people["bob"]["email"] = Value::Null;
    let list = |text: &str| MapState::Known(roster::parse::k8s_users("list", text.as_bytes()).unwrap());
    let whole = list(r#"{"carol": {"email": "carol@example.org"}, "bob": {"email": "bob@example.org"}}"#);
    let config = Vault { alias: AliasName::Email, ..config(&server) };
    let run = async |people: &Value, map: &MapState| {
        let wanted = vault::desired(&roster(people.clone()), &config, map, std::iter::empty());
        run_by(&config, TOKEN, wanted).await
    };
    assert!(run(&people, &whole).await.is_done());
    let before = server.shown();
    let policies = server.state().policies.clone();
    for map in [MapState::Unreadable, list(r#"{"carol": {"email": 1}, "bob": {"email": 1}}"#), list("{}")] {
        let during = run(&people, &map).await;
        assert!(during.plan.steps.is_empty(), "{}", during.told());
    }
    assert_eq!((server.shown(), &server.state().policies), (before.clone(), &policies));
    // By what was known last they are still found, so that a change of the roster comes through.
    people["carol"]["namespaces"] = json!(["carol-prod"]);
    people["bob"] = person("bob", "namespace-owner", &["bob-dev"]);
    people["bob"]["email"] = Value::Null;
    // Nothing was ever known of dora, whatever bears her name.
    people["dora"] = person("dora", "power-user", &[]);
    people["dora"]["email"] = Value::Null;
    server.log_in("dora@example.org", &["state-dora"]);
    let changed = run(&people, &MapState::Unreadable).await;
    insta::assert_snapshot!(changed.told(), @"
    dora: make key transit/state-dora: it is not there
    carol: delete role kubernetes/carol-dev-deployer: the roster asks for it no longer
    bob: write policy namespace-owner-bob: it is not there
    carol: write policy namespace-owner-carol: it allows something else
    dora: write policy state-dora: it is not there
    dora: write policy workstation-dora: it is not there
    bob: entity entity_id-0002: give namespace-owner-bob: its policies are not those of the roster
    bob: write role kubernetes/bob-dev-deployer: it is not there
    carol: write role kubernetes/carol-prod-deployer: it is not there
    ");
    assert!(changed.is_done());
    assert!(server.state().policies["namespace-owner-bob"].contains("bob@example.org"));
    people.as_object_mut().unwrap().remove("dora");
    let cut = run(&json!({}), &MapState::Unreadable).await;
    assert!(cut.is_done() && !server.shown().contains("policy"), "{}{}", cut.told(), server.shown());
}

#[tokio::test]
async fn an_old_login_loses_its_rights_whatever_fails_meanwhile() {
    let server = VaultStandIn::start(TOKEN);
    server.log_in("carol", &[]);
    assert!(run(&server, &carol()).await.is_done());
    let mut people = carol();
    people["carol"]["authentik_user"] = "carol2".into();
    server.wrong("POST /v1/identity/entity/id", 0, usize::MAX, Wrong::Code(403));
    let first = run(&server, &people).await;
    insta::assert_snapshot!(first.told(), @"
    carol: entity entity_id-0001: take namespace-owner-carol, state-carol, workstation-carol: FAILED Vault forbids it: this was injected
    carol: write policy namespace-owner-carol: SKIPPED a step that it needs was not applied
    carol: write policy state-carol: SKIPPED a step that it needs was not applied
    carol: write policy workstation-carol: SKIPPED a step that it needs was not applied
    carol: make entity carol, known as carol2, with namespace-owner-carol, state-carol, workstation-carol: SKIPPED a step that it needs was not applied
    ");
    assert!(!server.shown().contains("carol2"), "{}", server.shown());
    server.mend();
    let second = run(&server, &people).await;
    assert!(second.is_done(), "{}", second.told());
    insta::assert_snapshot!(server.shown(), @"
    policy namespace-owner-carol
    policy state-carol
    policy workstation-carol
    entity carol (carol2): namespace-owner-carol state-carol workstation-carol
    entity entity_id-0001 (carol):
    role carol-dev-deployer: ci/deployer gets namespace-owner-carol for 3600 s
    key state-carol
    ");
}

#[tokio::test]
async fn who_else_logs_in_as_an_entity_is_seen() {
    let server = VaultStandIn::start(TOKEN);
    // Beside the person: told. Without the person, as one that is only named so: somebody else's.
    server.log_in("carol", &[]);
    server.log_in_elsewhere("carol", "robot");
    let named = json!({"id": "id-9", "name": "bob", "policies": ["theirs"], "aliases": []});
    server.state().entities.insert("id-9".into(), named);
    server.log_in_elsewhere("bob", "robot2");
    let first = run(&server, &everybody()).await;
    insta::assert_snapshot!(first.told(), @"
    bob: make key transit/state-bob: it is not there
    carol: make key transit/state-carol: it is not there
    carol: write policy namespace-owner-carol: it is not there
    bob: write policy state-bob: it is not there
    carol: write policy state-carol: it is not there
    bob: write policy workstation-bob: it is not there
    carol: write policy workstation-carol: it is not there
    carol: entity entity_id-0001: give namespace-owner-carol, state-carol, workstation-carol: its policies are not those of the roster
    carol: write role kubernetes/carol-dev-deployer: it is not there
    PROBLEM bob: entity bob is not as the roster says: it is known as robot2 at auth/approle, and the roster says bob
    NOTICE carol: entity entity_id-0001 is also robot at auth/approle: whoever logs in so has the same in Vault
    ");
    assert!(first.results.iter().all(|result| matches!(result, StepResult::Done)));
    let state = server.state();
    let policies = |id: &str| {
        let entity = state.entities.values().find(|entity| entity["name"].as_str().unwrap().starts_with(id));
        entity.unwrap()["policies"].to_string()
    };
    assert!(policies("entity_").contains("namespace-owner-carol"));
    assert_eq!(policies("bob"), r#"["theirs"]"#);
}

#[tokio::test]
async fn roles_that_somebody_else_made_stay_and_ours_are_put_right_in_every_setting() {
    let server = synced(&carol()).await;
    let ours = server.state().roles["carol-dev-deployer"].clone();
    {
        let mut state = server.state();
        let mut theirs = ours.clone();
        theirs["bound_service_account_names"] = json!(["robot"]);
        state.roles.insert("hand-deployer".into(), theirs);
        let role = state.roles.get_mut("carol-dev-deployer").unwrap();
        for (key, value) in [
            ("alias_name_source", json!("serviceaccount_name")),
            ("audience", json!("any")),
            ("bound_service_account_namespace_selector", json!("{\"matchLabels\":{}}")),
            ("token_bound_cidrs", json!(["10.0.0.0/8"])),
            ("token_explicit_max_ttl", json!(999_999)),
            ("token_max_ttl", json!(999_999)),
            ("token_no_default_policy", json!(true)),
            ("token_num_uses", json!(7)),
            ("token_period", json!(999_999)),
            ("token_type", json!("service")),
        ] {
            role[key] = value;
        }
    }
    let again = run(&server, &carol()).await;
    insta::assert_snapshot!(again.told(), @"
    carol: write role kubernetes/carol-dev-deployer: it differs
    NOTICE carol: role kubernetes/hand-deployer gives namespace-owner-carol and is not as rosterd makes them, so it is left
    ");
    assert!(again.is_done());
    for (key, value) in ours.as_object().unwrap() {
        assert_eq!(server.state().roles["carol-dev-deployer"].get(key), Some(value), "{key}");
    }
    assert!(run(&server, &carol()).await.plan.steps.is_empty());
    // Who is cut has nothing left, and what somebody else's role names is never another person's.
    let cut = run(&server, &json!({})).await;
    insta::assert_snapshot!(cut.told(), @"
    carol: delete role kubernetes/carol-dev-deployer: the roster asks for it no longer
    carol: entity carol: take namespace-owner-carol, state-carol, workstation-carol: the roster gives them to nobody of that name
    carol: write policy namespace-owner-carol: the roster asks for it no longer
    carol: delete policy state-carol: the roster asks for it no longer
    carol: delete policy workstation-carol: the roster asks for it no longer
    PROBLEM carol: policy namespace-owner-carol stays, and allows nothing: the roster asks for it no longer, and a role that is not rosterd's gives it
    NOTICE carol: role kubernetes/hand-deployer gives namespace-owner-carol and is not as rosterd makes them, so it is left
    ");
    assert!(cut.results.iter().all(|result| matches!(result, StepResult::Done)));
    assert!(!server.state().policies["namespace-owner-carol"].contains("path"));
    assert!(run(&server, &json!({})).await.plan.steps.is_empty());
    server.state().roles.clear();
    assert!(run(&server, &json!({})).await.is_done());
    assert!(server.state().policies.is_empty());
}

#[tokio::test]
async fn without_the_method_by_which_people_log_in_no_policy_goes_that_somebody_may_have() {
    let server = synced(&carol()).await;
    server.state().has_no_people = true;
    let during = run(&server, &json!({})).await;
    assert!(!during.told().contains("delete policy"), "{}", during.told());
    assert_eq!(server.state().policies.len(), 3);
}

/// What names of old policies somebody still has, they lose before there are new ones.
#[tokio::test]
async fn whoever_has_a_policy_by_name_loses_it_before_it_is_made_for_somebody_else() {
    let server = VaultStandIn::start(TOKEN);
    server.log_in("carol", &[]);
    assert!(run(&server, &carol()).await.is_done());
    // By hand, or as an earlier version left it.
    server.state().policies.clear();
    let mut people = json!({"caroline": person("carol", "power-user", &[])});
    people["caroline"]["authentik_user"] = "caroline".into();
    // By the login of who had the name.
    people["dora"] = person("dora", "power-user", &[]);
    people["dora"]["authentik_user"] = "carol".into();
    let again = run(&server, &people).await;
    insta::assert_snapshot!(again.told(), @"
    dora: make key transit/state-dora: it is not there
    dora: entity entity_id-0001: take state-carol, workstation-carol: its policies are not those of the roster
    caroline: write policy state-carol: it is not there
    dora: write policy state-dora: it is not there
    caroline: write policy workstation-carol: it is not there
    dora: write policy workstation-dora: it is not there
    caroline: make entity carol, known as caroline, with state-carol, workstation-carol: it is not there
    dora: entity entity_id-0001: give state-dora, workstation-dora: its policies are not those of the roster
    ");
    insta::assert_snapshot!(server.shown(), @"
    policy state-carol
    policy state-dora
    policy workstation-carol
    policy workstation-dora
    entity carol (caroline): state-carol workstation-carol
    entity entity_id-0001 (carol): namespace-owner-carol state-dora workstation-dora
    role carol-dev-deployer: ci/deployer gets namespace-owner-carol for 3600 s
    key state-carol
    key state-dora
    ");
}
