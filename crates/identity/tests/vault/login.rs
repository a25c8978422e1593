//! How the worker logs in.

use super::*;

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
