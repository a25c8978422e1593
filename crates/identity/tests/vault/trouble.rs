//! Servers that are not well, and what is done by others meanwhile.

use super::*;

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
