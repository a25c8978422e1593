//! The list of people, and the secret that it is in.

use super::*;

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
