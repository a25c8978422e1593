//! What is made, put right and taken away.

use super::*;

#[tokio::test]
async fn a_first_sync_and_then_no_write_and_one_list_per_kind_invariant_9() {
    let server = VaultStandIn::start(TOKEN);
    let first = run(&server, &everybody()).await;
    assert!(first.is_done(), "{}", first.told());
    insta::assert_snapshot!(server.shown(), @"
    policy namespace-owner-carol
    policy state-bob
    policy state-carol
    policy workstation-bob
    policy workstation-carol
    entity bob (bob): state-bob workstation-bob
    entity carol (carol): namespace-owner-carol state-carol workstation-carol
    role carol-dev-deployer: ci/deployer gets namespace-owner-carol for 3600 s
    key state-bob
    key state-carol
    ");
    insta::assert_snapshot!(server.state().policies["namespace-owner-carol"], @r#"
    # rosterd: {"instance":"default","user":"carol","entity":"carol","alias":"carol"}
    # Kept by rosterd: what is changed here is changed back.

    path "kubernetes/creds/carol-dev-deployer" {
      capabilities = ["read", "update"]
    }

    path "secret/data/carol-dev/*" {
      capabilities = ["create", "delete", "list", "read", "update"]
    }

    path "secret/data/carol/*" {
      capabilities = ["create", "delete", "list", "read", "update"]
    }

    path "secret/metadata/carol-dev/*" {
      capabilities = ["delete", "list", "read"]
    }

    path "secret/metadata/carol/*" {
      capabilities = ["delete", "list", "read"]
    }
    "#);
    let before = server.shown();
    server.requests();
    let second = run(&server, &everybody()).await;
    assert!(second.is_done() && second.plan.steps.is_empty(), "{}", second.told());
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.starts_with("GET ")), "{requests:?}");
    let mut counted: BTreeMap<&String, usize> = BTreeMap::new();
    requests.iter().for_each(|request| *counted.entry(request).or_default() += 1);
    assert!(counted.values().all(|count| *count == 1), "{counted:?}");
    assert_eq!(requests.iter().filter(|request| request.ends_with("list=true")).count(), 4, "{requests:?}");
    assert_eq!(server.shown(), before);
}

/// What is sent twice although it was answered is a fault of ours, or of the server's framing.
#[tokio::test]
async fn where_nothing_goes_wrong_nothing_is_sent_twice() {
    let mut people = json!({});
    for number in 0..60 {
        let name = format!("u{number}");
        people[&name] = person(&name, "power-user", &[]);
    }
    let server = VaultStandIn::start(TOKEN);
    let first = run(&server, &people).await;
    assert!(first.is_done(), "{}", first.told());
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    server.requests().into_iter().for_each(|request| *counted.entry(request).or_default() += 1);
    // By name and by alias, before one is made.
    for (path, count) in [("lookup/entity", 120), ("entity", 60), ("entity-alias", 60)] {
        assert_eq!(counted.remove(&format!("POST /v1/identity/{path}")), Some(count), "{path}");
    }
    counted.retain(|_, count| *count > 1);
    assert_eq!(counted, BTreeMap::new());
}

#[tokio::test]
async fn drift_is_put_right_and_only_what_differs_is_written() {
    let server = synced(&everybody()).await;
    let before = server.shown();
    {
        let mut state = server.state();
        // The same in other words is no difference.
        let carol = state.policies["workstation-carol"].replace("  capabilities", "\tcapabilities ");
        state.policies.insert("workstation-carol".into(), format!("{carol}\n# checked\n"));
        let wide = state.policies["workstation-bob"].replace("\"read\"", "\"read\", \"sudo\"");
        state.policies.insert("workstation-bob".into(), wide);
        state.roles.get_mut("carol-dev-deployer").unwrap()["bound_service_account_names"] = json!(["*"]);
        let bob = state.entities.values_mut().find(|entity| entity["name"] == "bob").unwrap();
        bob["policies"] = json!(["namespace-owner-carol", "state-bob", "theirs", "workstation-bob"]);
    }
    let again = run(&server, &everybody()).await;
    insta::assert_snapshot!(again.told(), @"
    bob: entity bob: take namespace-owner-carol: its policies are not those of the roster
    bob: write policy workstation-bob: it allows something else
    carol: write role kubernetes/carol-dev-deployer: it differs
    ");
    assert!(again.is_done());
    assert_eq!(writes(&server).len(), 3);
    assert_eq!(
        server.shown(),
        before.replace("state-bob workstation-bob", "state-bob theirs workstation-bob")
    );
    assert!(run(&server, &everybody()).await.plan.steps.is_empty());
}

#[tokio::test]
async fn a_tier_goes_up_and_down_and_a_person_leaves_and_comes_back() {
    let server = synced(&carol()).await;
    let first = server.shown();
    let up = run(&server, &json!({"carol": person("carol", "power-user", &[])})).await;
    insta::assert_snapshot!(up.told(), @"
    carol: delete role kubernetes/carol-dev-deployer: the roster asks for it no longer
    carol: entity carol: take namespace-owner-carol: its policies are not those of the roster
    carol: delete policy namespace-owner-carol: the roster asks for it no longer
    ");
    assert!(up.is_done());
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(server.shown(), first);
    let more = json!({"carol": person("carol", "namespace-owner", &["carol-dev", "carol-prod"])});
    assert!(run(&server, &more).await.is_done());
    assert!(server.state().policies["namespace-owner-carol"].contains("secret/data/carol-prod/*"));
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(server.shown(), first);
    let cut = run(&server, &json!({})).await;
    insta::assert_snapshot!(cut.told(), @"
    carol: delete role kubernetes/carol-dev-deployer: the roster asks for it no longer
    carol: entity carol: take namespace-owner-carol, state-carol, workstation-carol: the roster gives them to nobody of that name
    carol: delete policy namespace-owner-carol: the roster asks for it no longer
    carol: delete policy state-carol: the roster asks for it no longer
    carol: delete policy workstation-carol: the roster asks for it no longer
    ");
    assert!(cut.is_done());
    // Who they are stays, and so does the key, without which nobody could read their state again.
    insta::assert_snapshot!(server.shown(), @"
    entity carol (carol):
    key state-carol
    ");
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(server.shown(), first);
}

#[tokio::test]
async fn who_has_logged_in_before_keeps_their_entity_and_a_stranger_of_the_name_gets_nothing() {
    let server = VaultStandIn::start(TOKEN);
    server.log_in("carol", &["theirs"]);
    let first = run(&server, &carol()).await;
    assert!(first.is_done(), "{}", first.told());
    assert_eq!(server.state().entities.len(), 1);
    assert!(
        server.shown().contains("entity entity_id-0001 (carol): namespace-owner-carol state-carol theirs")
    );
    // They leave: ours goes, by whatever name their entity has.
    assert!(run(&server, &json!({})).await.is_done());
    assert!(server.shown().contains("entity entity_id-0001 (carol): theirs"), "{}", server.shown());

    // An entity of that name by which somebody else logs in.
    let server = synced(&carol()).await;
    server.state().entities.values_mut().next().unwrap()["aliases"][0]["name"] = "mallory".into();
    let again = run(&server, &carol()).await;
    insta::assert_snapshot!(again.told(), @"
    carol: entity carol: take namespace-owner-carol, state-carol, workstation-carol: the roster gives them to nobody of that name
    PROBLEM carol: entity carol is not as the roster says: it is known as mallory, and the roster says carol
    ");
    assert!(!server.shown().contains("mallory): namespace-owner"), "{}", server.shown());
}

#[tokio::test]
async fn what_somebody_else_made_is_used_when_it_allows_the_same_and_told_otherwise() {
    let server = synced(&carol()).await;
    let (ours, role) = {
        let state = server.state();
        (state.policies.clone(), state.roles["carol-dev-deployer"].clone())
    };
    let unmarked =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let server = VaultStandIn::start(TOKEN);
    {
        let mut state = server.state();
        state.policies.insert("workstation-carol".into(), unmarked(&ours["workstation-carol"]));
        state
            .policies
            .insert("namespace-owner-carol".into(), "path \"*\" {\n capabilities = [\"sudo\"]\n}".into());
        state.policies.insert("state-zoe".into(), "path \"a\" {\n capabilities = [\"read\"]\n}".into());
        let mut theirs = role;
        theirs["token_policies"] = json!(["ci"]);
        state.roles.insert("carol-dev-deployer".into(), theirs.clone());
        state.roles.insert("zoe-deployer".into(), theirs);
    }
    let run = run(&server, &carol()).await;
    insta::assert_snapshot!(run.told(), @"
    carol: make key transit/state-carol: it is not there
    carol: write policy state-carol: it is not there
    carol: write policy workstation-carol: it is there already, and becomes ours
    carol: make entity carol, known as carol, with state-carol, workstation-carol: it is not there
    PROBLEM carol: policy namespace-owner-carol is not as the roster says: it is there already, allows something else, and is not marked as rosterd's
    PROBLEM carol: role kubernetes/carol-dev-deployer is not as the roster says: it is there already, and gives policies that are not rosterd's
    ");
    insta::assert_snapshot!(server.shown(), @"
    policy namespace-owner-carol
    policy state-carol
    policy state-zoe
    policy workstation-carol
    entity carol (carol): state-carol workstation-carol
    role carol-dev-deployer: ci/deployer gets ci for 3600 s
    role zoe-deployer: ci/deployer gets ci for 3600 s
    key state-carol
    ");
}

#[tokio::test]
async fn more_than_may_be_taken_away_at_once_is_not() {
    let server = synced(&everybody()).await;
    let before = server.shown();
    let few = Vault { max_deletes: 3, ..config(&server) };
    let run = run_with(&few, TOKEN, &json!({})).await;
    assert!(run.plan.steps.is_empty() && run.told().contains("max_deletes"), "{}", run.told());
    assert_eq!(server.shown(), before);
}

#[tokio::test]
async fn without_the_method_by_which_people_log_in_nobody_gets_an_entity() {
    let server = VaultStandIn::start(TOKEN);
    server.state().has_no_people = true;
    let run = run(&server, &carol()).await;
    assert!(run.told().contains("it has no auth method `oidc`"), "{}", run.told());
    assert!(server.state().entities.is_empty() && server.state().policies.len() == 3);
}
