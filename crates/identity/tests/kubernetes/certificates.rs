//! `tls-<namespace>`: by cert-manager, or as a copy.

use roster::cluster::Kubernetes;
use serde_json::{Value, json};

use crate::support::*;
use crate::{carol, writes};

#[tokio::test]
async fn certificates_are_there_where_cert_manager_is() {
    let mut people = carol();
    people["carol"]["domains"] = json!(["carol.example.org"]);
    let server = Cluster::start();
    let _turn = server.without_cert_manager();
    let config = Kubernetes { cluster_issuer: Some("letsencrypt".into()), ..server.config() };
    let without = run_with(&server, &people, &config, limits()).await;
    assert!(
        without.is_done() && server.shown(&without.told()).contains("no cert-manager"),
        "{}",
        server.shown(&without.told())
    );
    server.install_cert_manager();
    let with = run_with(&server, &people, &config, limits()).await;
    assert_eq!(
        server.shown(&with.told()),
        "carol: apply Certificate carol-dev/tls-carol-dev: it is not there\n"
    );
    let spec = &server.objects()["certificates carol-dev/tls-carol-dev"]["spec"];
    assert_eq!(spec["dnsNames"], json!(["carol.example.org"]));
}

/// As `kubectl create secret tls` makes it.
fn certificate(server: &Cluster, place: &str, manager: &str, key: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "data": {"tls.crt": key, "tls.key": key},
    });
    server.write_as(manager, &format!("secrets {place}"), &secret);
}

#[tokio::test]
async fn a_certificate_is_copied_where_cert_manager_makes_none_and_nobody_sees_it_invariant_7() {
    const KEY: &str = "aHVudGVyMg==";
    let mut people = carol();
    people["carol"]["domains"] = json!(["carol.example.org"]);
    people["dora"] = person("dora", "namespace-owner", &["dora-dev"]);
    let server = Cluster::start();
    let _turn = server.without_cert_manager();
    let config = Kubernetes {
        cluster_issuer: Some("letsencrypt".into()),
        tls_secret: Some(format!("{}/{}", server.own("ingress"), server.own("wildcard")).parse().unwrap()),
        ..server.config()
    };
    let run = async |people: &Value| run_with(&server, people, &config, limits()).await;
    let without = run(&people).await;
    assert!(
        server.shown(&without.told()).contains("there is no Secret ingress/wildcard"),
        "{}",
        server.shown(&without.told())
    );
    certificate(&server, "ingress/wildcard", "kubectl-create", KEY);
    let first = run(&people).await;
    assert!(first.is_done(), "{}", server.shown(&first.told()));
    insta::assert_snapshot!(server.shown(&first.told()), @"
    carol: copy Secret ingress/wildcard to Secret carol-dev/tls-carol-dev: it is not there
    dora: copy Secret ingress/wildcard to Secret dora-dev/tls-dora-dev: it is not there
    ");
    let copy = |namespace: &str| server.objects()[&format!("secrets {namespace}/tls-{namespace}")].clone();
    assert_eq!(
        (&copy("carol-dev")["data"]["tls.key"], &copy("dora-dev")["type"]),
        (&json!(KEY), &json!("kubernetes.io/tls"))
    );
    assert!(!format!("{first:?}").contains(KEY));
    server.requests();
    assert!(run(&people).await.plan.steps.is_empty());
    assert!(writes(&server.requests()).is_empty());
    // The source is renewed, and a copy was edited.
    certificate(&server, "ingress/wildcard", "kubectl-create", "bmV3");
    certificate(&server, "dora-dev/tls-dora-dev", "kubectl-edit", "b3RoZXI=");
    let renewed = run(&people).await;
    assert!(renewed.is_done(), "{}", server.shown(&renewed.told()));
    eprintln!("{}", server.shown(&renewed.told()));
    assert_eq!(
        [&copy("carol-dev")["data"]["tls.key"], &copy("dora-dev")["data"]["tls.key"]],
        ["bmV3", "bmV3"]
    );
    // cert-manager comes: a certificate of one's own, and the copy stays until that has filled it.
    server.install_cert_manager();
    let with = run(&people).await;
    assert_eq!(
        server.shown(&with.told()),
        "carol: apply Certificate carol-dev/tls-carol-dev: it is not there\n"
    );
    assert!(run(&people).await.plan.steps.is_empty());
    certificate(&server, "carol-dev/tls-carol-dev", "cert-manager-certificates-issuing", "b3du");
    let after = run(&people).await;
    insta::assert_snapshot!(server.shown(&after.told()), @"carol: apply Secret carol-dev/tls-carol-dev: the roster asks for it no longer; data is somebody else's");
    assert_eq!(copy("carol-dev")["data"]["tls.key"], "b3du");
    assert!(run(&people).await.plan.steps.is_empty());
    // One that somebody else made is theirs.
    people["erin"] = person("erin", "namespace-owner", &["erin-dev"]);
    certificate(&server, "erin-dev/tls-erin-dev", "terraform", "dGhlaXJz");
    let theirs = run(&people).await;
    assert!(
        server.shown(&theirs.told()).contains("PROBLEM erin: Secret erin-dev/tls-erin-dev is not a copy"),
        "{}",
        server.shown(&theirs.told())
    );
    assert_eq!(copy("erin-dev")["data"]["tls.key"], "dGhlaXJz");
}
