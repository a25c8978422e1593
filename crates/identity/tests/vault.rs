//! Vault by a real worker: what it does to one, and what it does when it is not well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use identity::{Credential, Limits, Worker, WorkerError};
use roster::k8s_users::MapState;
use roster::plan;
use roster::report::StepResult;
use roster::vault::{self, AliasName, LoginMethod, Vault, VaultDesired, VaultLogin};
use serde_json::{Map, Value, json};

use support::vault::VaultStandIn;
use support::{ACCOUNT, Run, TOKEN, Wrong, apply, limits, person, program, roster};

fn config(server: &VaultStandIn) -> Vault {
    Vault {
        address: Some(server.address()),
        pipelines: Some("ci/deployer".parse().unwrap()),
        transit_mount: Some("transit".into()),
        ..Vault::default()
    }
}

fn desired(config: &Vault, people: &Value) -> VaultDesired {
    vault::desired(&roster(people.clone()), config, &MapState::None, std::iter::empty())
}

async fn worker_with(config: &Vault, secret: &'static str, limits: Limits) -> Worker {
    let credential = Credential::vault(config, |_| Ok(secret.into())).unwrap();
    Worker::start(&program(), ACCOUNT, &credential, limits).await.unwrap()
}

async fn run_with(config: &Vault, secret: &'static str, people: &Value) -> Run {
    run_by(config, secret, desired(config, people)).await
}

async fn run_by(config: &Vault, secret: &'static str, desired: VaultDesired) -> Run {
    let mut worker = worker_with(config, secret, limits()).await;
    let looked = worker.look(&desired.look).await.unwrap();
    let mut plan = plan::vault(&desired, &looked.observed);
    let results = apply(&mut worker, &plan).await;
    worker.finish().await;
    let notice = |text| plan::Notice { subject: plan::Subject::Machine, text };
    plan.notices.extend(looked.notices.into_iter().map(notice));
    Run { plan, results }
}

async fn run(server: &VaultStandIn, people: &Value) -> Run {
    run_with(&config(server), TOKEN, people).await
}

fn carol() -> Value {
    json!({"carol": person("carol", "namespace-owner", &["carol-dev"])})
}

fn everybody() -> Value {
    let mut people = carol();
    people["bob"] = person("bob", "power-user", &[]);
    people
}

async fn synced(people: &Value) -> VaultStandIn {
    let server = VaultStandIn::start(TOKEN);
    let first = run(&server, people).await;
    assert!(first.is_done(), "{}", first.told());
    server.requests();
    server
}

fn writes(server: &VaultStandIn) -> Vec<String> {
    server.requests().into_iter().filter(|request| !request.starts_with("GET ")).collect()
}

fn list(server: &VaultStandIn) -> Value {
    let state = server.state();
    let fields = state.secrets["platform"].1.clone().unwrap();
    serde_json::from_str(fields["k8s_users"].as_str().unwrap()).unwrap()
}

fn put(server: &VaultStandIn, fields: Value) {
    let fields: Map<String, Value> = fields.as_object().unwrap().clone();
    server.state().secrets.insert("platform".into(), (7, Some(fields)));
}

fn publishing(server: &VaultStandIn) -> Vault {
    let place = "secret/platform#k8s_users".parse().unwrap();
    Vault { k8s_users: Some(place), publish: true, ..config(server) }
}

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
async fn people_are_published_without_losing_anybody_elses_entry_or_field() {
    let server = VaultStandIn::start(TOKEN);
    let theirs =
        json!({"dave": {"role": "admin", "note": 1}, "carol": {"role": "power-user", "portal": true}});
    put(&server, json!({"k8s_users": theirs.to_string(), "db_password": "hunter2"}));
    // Twice somebody else writes between our reading and our writing.
    server.state().meddle = 2;
    let first = run_with(&publishing(&server), TOKEN, &carol()).await;
    assert!(first.is_done(), "{}", first.told());
    assert_eq!(
        list(&server),
        json!({
            "dave": {"role": "admin", "note": 1},
            "other-8": {"role": "power-user"}, "other-9": {"role": "power-user"},
            "carol": {"role": "namespace-owner", "email": "carol@example.org", "namespaces": ["carol-dev"], "portal": true},
        })
    );
    assert_eq!(server.state().secrets["platform"].1.as_ref().unwrap()["db_password"], "hunter2");
    server.requests();
    let second = run_with(&publishing(&server), TOKEN, &carol()).await;
    assert!(second.plan.steps.is_empty() && writes(&server).is_empty(), "{}", second.told());
    // The rest of the secret is nobody's business but the worker's.
    assert!(!format!("{first:?}{second:?}").contains("hunter2"));
    // Who leaves stays in the list: others' entries look the same.
    assert!(run_with(&publishing(&server), TOKEN, &json!({})).await.is_done());
    assert!(list(&server)["carol"].is_object());
}

#[tokio::test]
async fn a_list_that_makes_no_sense_is_not_written_over_invariant_8() {
    let server = VaultStandIn::start(TOKEN);
    for (fields, why) in [
        (json!({"k8s_users": "{"}), "no JSON object"),
        (json!({"k8s_users": {"carol": {}}}), "is no text"),
        (json!({"k8s_users": r#"{"a": {}, "a": {"role": "admin"}}"#}), "has a key twice"),
    ] {
        put(&server, fields.clone());
        let run = run_with(&publishing(&server), TOKEN, &carol()).await;
        assert!(run.told().contains(why), "{}", run.told());
        assert_eq!(json!(server.state().secrets["platform"].1), fields);
    }
    server.state().secrets.insert("platform".into(), (9, None));
    let run = run_with(&publishing(&server), TOKEN, &carol()).await;
    assert!(run.told().contains("the newest version of secret/platform is deleted"), "{}", run.told());
    // The first list of all is made.
    server.state().secrets.clear();
    assert!(run_with(&publishing(&server), TOKEN, &carol()).await.is_done());
    assert_eq!(list(&server)["carol"]["role"], "namespace-owner");
    // Somebody who writes all the time is not written over either.
    server.state().meddle = 99;
    let mut people = carol();
    people["carol"]["namespaces"] = json!(["carol-prod"]);
    let run = run_with(&publishing(&server), TOKEN, &people).await;
    assert!(run.told().contains("others write to it all the time"), "{}", run.told());
}

#[tokio::test]
async fn one_logs_in_by_approle_or_kubernetes_and_leaves_no_token_behind() {
    let login = |method, role: &str| VaultLogin { method, role: Some(role.into()), ..VaultLogin::default() };
    let server =
        VaultStandIn::start_without_real(TOKEN, "a login by a service account of Kubernetes, in a namespace");
    server.state().namespace = Some("team".into());
    for (method, role, secret) in [
        (LoginMethod::Approle, "the-role", "hunter2-secret"),
        (LoginMethod::Kubernetes, "rosterd", "hunter2-jwt"),
    ] {
        let config = Vault { login: login(method, role), namespace: Some("team".into()), ..config(&server) };
        let done = run_with(&config, secret, &carol()).await;
        assert!(done.is_done(), "{}", done.told());
        assert!(server.requests().last().unwrap().ends_with("/auth/token/revoke-self"));
        assert_eq!(server.state().tokens.keys().collect::<Vec<_>>(), [TOKEN]);
        let wrong = run_with(&config, "hunter2-wrong", &carol()).await;
        let [problem] = &wrong.plan.problems[..] else { panic!("{}", wrong.told()) };
        assert_eq!(
            problem.why,
            format!("Vault does not let us in by {}: invalid role or secret ID", method.as_str())
        );
        assert!(wrong.plan.steps.is_empty() && !format!("{wrong:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn an_approle_lets_in_and_a_short_token_is_renewed() {
    let server = VaultStandIn::start(TOKEN);
    server.let_in_by_approle();
    let role =
        VaultLogin { method: LoginMethod::Approle, role: Some("the-role".into()), ..VaultLogin::default() };
    let before = server.count_tokens();
    let by_role = Vault { login: role, ..config(&server) };
    let done = run_with(&by_role, "hunter2-secret", &carol()).await;
    assert!(done.is_done(), "{}", done.told());
    assert_eq!(server.count_tokens(), before, "the token of this run ended with it");
    let wrong = run_with(&by_role, "hunter2-wrong", &carol()).await;
    let [problem] = &wrong.plan.problems[..] else { panic!("{}", wrong.told()) };
    assert!(problem.why.starts_with("Vault does not let us in by approle: "), "{}", problem.why);

    let short: &'static str = Box::leak(server.hand_out(6).into_boxed_str());
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.requests();
    let renewed = run_with(&config(&server), short, &carol()).await;
    assert!(renewed.is_done() && renewed.plan.notices.is_empty(), "{}", renewed.told());
    let asked = server.requests();
    assert_eq!(asked.iter().filter(|call| call.ends_with("/auth/token/renew-self")).count(), 1, "{asked:?}");
    // It would have ended by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = run_with(&config(&server), short, &carol()).await;
    assert!(later.is_done() && later.plan.steps.is_empty(), "{}", later.told());
}

#[tokio::test]
async fn a_token_is_renewed_in_time_and_one_that_ends_is_told() {
    let server =
        VaultStandIn::start_without_real(TOKEN, "a token with half of its hour gone, and one that has ended");
    assert!(run(&server, &carol()).await.is_done());
    for (token, renewals) in [((3000, true), 0), ((1700, true), 1)] {
        server.state().tokens.insert(TOKEN.into(), token);
        server.requests();
        let run = run(&server, &carol()).await;
        assert!(run.is_done() && run.plan.notices.is_empty(), "{}", run.told());
        assert_eq!(writes(&server).len(), renewals, "{token:?}");
    }
    server.state().tokens.insert(TOKEN.into(), (1700, false));
    let ending = run(&server, &carol()).await;
    assert!(
        ending.told().contains("NOTICE machine: the token for Vault ends in 0 days: it cannot be renewed")
    );
    server.state().tokens.insert(TOKEN.into(), (1700, true));
    server.wrong("renew-self", 0, 99, Wrong::Code(403));
    let failing = run(&server, &carol()).await;
    assert!(failing.is_done() && failing.told().contains("Vault forbids it"), "{}", failing.told());
    // One that has ended, and a new one in its file.
    server.state().tokens = BTreeMap::from([("another".to_owned(), (0, false))]);
    let ended = run(&server, &json!({})).await;
    insta::assert_snapshot!(ended.told(), @"PROBLEM machine: Vault cannot be read, so nothing is done there: Vault does not accept the token: invalid token; permission denied");
    assert!(run_with(&config(&server), "another", &carol()).await.is_done());
}

#[tokio::test]
async fn a_server_that_is_busy_or_broken_for_a_moment_is_asked_again() {
    for (wrong, times) in [
        (Wrong::Later(1), 1),
        (Wrong::Code(500), 3),
        (Wrong::Code(503), 2),
        (Wrong::Close, 2),
        (Wrong::HalfClose, 2),
        (Wrong::CloseAfter, 9),
        (Wrong::Cut, 2),
    ] {
        let server = VaultStandIn::start(TOKEN);
        server.wrong("GET ", 0, times, wrong);
        server.wrong("POST ", 1, times, wrong);
        let run = run(&server, &carol()).await;
        assert!(run.is_done(), "{wrong:?}: {}", run.told());
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_done_once_and_one_that_fails_half_way_is_brought_to_its_end() {
    let whole = synced(&carol()).await.shown();
    for path in [
        "identity/lookup/entity",
        "identity/entity",
        "identity/entity-alias",
        "sys/policies/acl/namespace-owner-carol",
        "auth/kubernetes/role/carol-dev-deployer",
        "transit/keys/state-carol",
    ] {
        let server = VaultStandIn::start(TOKEN);
        server.wrong(&format!("POST /v1/{path}"), 0, 1, Wrong::Lost);
        let run = run(&server, &carol()).await;
        assert!(run.is_done(), "{path}: {}", run.told());
        assert_eq!(server.shown(), whole, "{path}");
        assert_eq!(server.state().entities.len(), 1, "{path}");
    }
    let server = VaultStandIn::start(TOKEN);
    server.wrong("POST /v1/identity/entity-alias", 0, 1, Wrong::Code(403));
    let first = run(&server, &carol()).await;
    assert!(
        first.told().contains("FAILED Vault forbids it") && server.shown().contains("entity carol (nobody)")
    );
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(server.shown(), whole);
}

#[tokio::test]
async fn one_part_that_may_not_be_read_holds_up_no_other_invariant_8() {
    for (part, expected) in [
        ("sys/policies/acl?list", 0),
        ("sys/auth", 2),
        ("identity/entity/id?list", 2),
        ("auth/kubernetes/role?list", 2),
        ("transit/keys?list", 2),
    ] {
        let server = synced(&carol()).await;
        server.state().policies.clear();
        server.state().keys.clear();
        server.wrong(&format!("GET /v1/{part}"), 0, usize::MAX, Wrong::Code(403));
        let run = run(&server, &carol()).await;
        let [problem] = &run.plan.problems[..] else { panic!("{part}: {}", run.told()) };
        assert!(problem.why.starts_with("Vault forbids it"), "{}", problem.why);
        let policies = run.told().lines().filter(|line| line.contains("write policy")).count();
        assert!(policies >= expected, "{part}: {}", run.told());
        // What was not seen is not taken for gone.
        let cut = support_cut(&server).await;
        assert!(
            !cut.contains(match part {
                "sys/policies/acl?list" | "sys/auth" | "identity/entity/id?list" => "delete policy",
                "auth/kubernetes/role?list" => "delete role",
                _ => "nothing of the kind",
            }),
            "{part}: {cut}"
        );
    }
}

#[tokio::test]
async fn what_several_parts_have_in_common_is_told_once() {
    let server = synced(&carol()).await;
    server.wrong("GET /v1/sys/", 0, usize::MAX, Wrong::Code(403));
    server.wrong("GET /v1/transit/", 0, usize::MAX, Wrong::Code(403));
    let run = run(&server, &carol()).await;
    let [problem] = &run.plan.problems[..] else { panic!("{}", run.told()) };
    insta::assert_snapshot!(format!("{}: {}\n{}", problem.what, problem.why, problem.next), @"
    the policies (sys/policies/acl), the auth methods (sys/auth) and the keys (transit/keys) of Vault cannot be read, so nothing is done about them: Vault forbids it: this was injected
    give rosterd's token the policy that docs/identity.md lists, with the mounts that it names
    ");
}

async fn support_cut(server: &VaultStandIn) -> String {
    run(server, &json!({})).await.told()
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
async fn what_changed_meanwhile_is_left() {
    let server = synced(&carol()).await;
    let cut = desired(&config(&server), &json!({}));
    let mut worker = worker_with(&config(&server), TOKEN, limits()).await;
    let plan = plan::vault(&cut, &worker.look(&cut.look).await.unwrap().observed);
    server.state().entities.values_mut().next().unwrap()["policies"] =
        json!(["namespace-owner-carol", "new", "state-carol", "workstation-carol"]);
    let results = apply(&mut worker, &plan).await;
    let refused = results.iter().filter(|result| {
        matches!(result, StepResult::Failed { why, .. } if why == "somebody has changed it meanwhile")
    });
    assert_eq!(refused.count(), 1);
    // What it names stays as long.
    assert_eq!(server.state().policies.len(), 3);
    worker.finish().await;

    // Somebody logs in for the first time between looking and making.
    let server = VaultStandIn::start(TOKEN);
    let wanted = desired(&config(&server), &carol());
    let mut worker = worker_with(&config(&server), TOKEN, limits()).await;
    let plan = plan::vault(&wanted, &worker.look(&wanted.look).await.unwrap().observed);
    server.log_in("carol", &[]);
    let results = apply(&mut worker, &plan).await;
    assert!(results.iter().any(|result| matches!(result, StepResult::Failed { .. })), "{results:?}");
    worker.finish().await;
    assert!(run(&server, &carol()).await.is_done());
    assert_eq!(server.state().entities.len(), 1);

    // Somebody makes an entity of that name, which is theirs.
    let server = VaultStandIn::start(TOKEN);
    let mut worker = worker_with(&config(&server), TOKEN, limits()).await;
    let plan = plan::vault(&wanted, &worker.look(&wanted.look).await.unwrap().observed);
    let theirs = json!({"id": "id-9", "name": "carol", "policies": ["theirs"], "aliases": []});
    server.state().entities.insert("id-9".into(), theirs);
    let results = apply(&mut worker, &plan).await;
    assert!(results.iter().any(|result| matches!(result, StepResult::Failed { .. })), "{results:?}");
    worker.finish().await;
    assert_eq!(
        server.shown().lines().find(|line| line.contains("carol (")),
        Some("entity carol (nobody): theirs")
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_at_the_deadline() {
    let server = synced(&carol()).await;
    server.wrong("GET /v1/sys/auth", 0, usize::MAX, Wrong::Hang);
    let wanted = desired(&config(&server), &carol());
    let short = Limits { deadline: Duration::from_secs(2), ..limits() };
    let mut worker = worker_with(&config(&server), TOKEN, short).await;
    let error = worker.look(&wanted.look).await.unwrap_err();
    assert!(matches!(error, WorkerError::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn without_the_method_by_which_people_log_in_nobody_gets_an_entity() {
    let server = VaultStandIn::start(TOKEN);
    server.state().has_no_people = true;
    let run = run(&server, &carol()).await;
    assert!(run.told().contains("it has no auth method `oidc`"), "{}", run.told());
    assert!(server.state().entities.is_empty() && server.state().policies.len() == 3);
}

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

#[tokio::test]
async fn an_answer_that_lacks_what_it_should_say_is_no_empty_one_invariant_8() {
    let server = VaultStandIn::start(TOKEN);
    assert!(run(&server, &carol()).await.is_done());
    let before = server.shown();
    for (part, answers) in [
        ("sys/policies/acl?list", &[r#"{}"#, r#"{"data": {}}"#, r#"{"data": {"keys": "none"}}"#][..]),
        ("sys/policies/acl/workstation", &[r#"{}"#, r#"{"data": {}}"#, r#"{"data": {"policy": null}}"#]),
        ("sys/auth", &[r#"{}"#, r#"{"data": {}}"#]),
        ("identity/entity/id?list", &[r#"{}"#, r#"{"data": {"keys": []}}"#]),
        (
            "identity/entity/id/",
            &[r#"{}"#, r#"{"data": {"name": "carol"}}"#, r#"{"data": {"policies": []}}"#],
        ),
        ("auth/kubernetes/role?list", &[r#"{}"#, r#"{"data": {}}"#]),
        ("auth/kubernetes/role/", &[r#"{}"#, r#"{"data": {"token_policies": []}}"#]),
        ("transit/keys?list", &[r#"{}"#, r#"{"data": {}}"#]),
    ] {
        for answer in answers {
            server.wrong(&format!("GET /v1/{part}"), 0, usize::MAX, Wrong::Says(answer));
            for people in [carol(), json!({})] {
                let during = run(&server, &people).await;
                let [problem] = &during.plan.problems[..] else {
                    panic!("{part} {answer}: {}", during.told())
                };
                assert!(problem.why.contains("makes no sense"), "{part} {answer}: {}", problem.why);
                if people != json!({}) {
                    assert!(during.plan.steps.is_empty(), "{part} {answer}: {}", during.told());
                }
            }
            server.mend();
            assert!(run(&server, &carol()).await.is_done());
            assert_eq!(server.shown(), before, "{part} {answer}");
        }
    }
    // Whether somebody is known there, an answer that says nothing does not say.
    server.wrong("POST /v1/identity/lookup/entity", 0, usize::MAX, Wrong::Says("{}"));
    let mut people = carol();
    people["dora"] = person("dora", "power-user", &[]);
    assert!(run(&server, &people).await.told().contains("makes no sense"));
    assert!(!server.shown().contains("entity dora"));
}

#[tokio::test]
async fn what_others_wrote_into_the_secret_stays_to_the_letter() {
    let server = VaultStandIn::start(TOKEN);
    let fields = json!({
        "k8s_users": r#"{"dave": {"role": "admin", "n": 12345678901234567890123, "e": 1E400}}"#,
    });
    put(&server, fields);
    let text = r#"{"data": {"data": {"k8s_users": "{\"dave\":{\"n\":12345678901234567890123,\"e\":1E400}}",
        "id": 12345678901234567890123, "f": 0.10000000000000000555}, "metadata": {"version": 7}}}"#;
    server.wrong("GET /v1/secret/data/platform", 0, usize::MAX, Wrong::Says(text));
    assert!(run_with(&publishing(&server), TOKEN, &carol()).await.is_done());
    let sent = server.sent("POST /v1/secret/data/platform");
    for kept in [
        r#""id":12345678901234567890123"#,
        r#""f":0.10000000000000000555"#,
        r#"\"n\":12345678901234567890123,\"e\":1E400"#,
    ] {
        assert!(sent.contains(kept), "{sent}");
    }
}
