//! Servers whose certificate is not what it should be, each a real one that speaks TLS: what an admin is told of it, by a
//! real worker, for a cluster and for a Vault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[allow(dead_code, unused_imports)]
mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use identity::{Credential, Worker};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use roster::k8s_users::MapState;
use roster::plan;
use roster::vault::Vault;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use support::*;

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// All of one name, so that only their keys tell them apart.
fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

/// What is good about a server's certificate, for a test to spoil.
fn good() -> CertificateParams {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "server");
    params.use_authority_key_identifier_extension = false;
    params
}

/// Shows this certificate to whoever comes, and hangs up. Gives its address.
fn serve(shown: &rcgen::Certificate, key: &KeyPair, clients: Option<&Authority>) -> String {
    let builder = rustls::ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            let pem = authority.pem.as_bytes();
            let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
            roots.add(der).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = Arc::new(builder.with_single_cert(vec![shown.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, config) = (stream.unwrap(), Arc::clone(&config));
            std::thread::spawn(move || {
                let mut connection = rustls::ServerConnection::new(config).unwrap();
                // Until the client hangs up, for it must not lose what it is told.
                while connection.complete_io(&mut stream).is_ok_and(|moved| moved != (0, 0)) {}
            });
        }
    });
    address
}

/// A server with a certificate by this authority.
fn signed(authority: &Authority, params: &CertificateParams) -> String {
    let key = KeyPair::generate().unwrap();
    serve(&params.signed_by(&key, &authority.issuer).unwrap(), &key, None)
}

/// What an admin is told of the cluster there.
async fn cluster(address: &str, trusted: &str) -> String {
    let pem = k8s_openapi::ByteString(trusted.as_bytes().to_vec());
    let kubeconfig = json!({
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": address, "certificate-authority-data": pem}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    });
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["carol-dev"])}));
    let desired = roster::cluster::desired(&people, &Default::default(), &MapState::None, std::iter::empty());
    let credential = credential(&kubeconfig.to_string());
    let mut worker = Worker::start(&program(), ACCOUNT, &credential, limits()).await.unwrap();
    let observed = worker.observe(&desired).await.unwrap();
    worker.finish().await;
    told(&plan::cluster(&desired, &observed), address)
}

/// What an admin is told of the Vault there.
async fn vault(address: &str, trusted: &str) -> String {
    let config = Vault {
        address: Some(address.to_owned()),
        ca: Some("/ca.pem".into()),
        transit_mount: Some("transit".into()),
        ..Vault::default()
    };
    let read = |path: &Path| Ok(if path.ends_with("ca.pem") { trusted.into() } else { TOKEN.into() });
    let credential = Credential::vault(&config, read).unwrap();
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["carol-dev"])}));
    let desired = roster::vault::desired(&people, &config, &MapState::None, std::iter::empty());
    let mut worker = Worker::start(&program(), ACCOUNT, &credential, limits()).await.unwrap();
    let looked = worker.look(&desired.look).await.unwrap();
    worker.finish().await;
    told(&plan::vault(&desired, &looked.observed), address)
}

/// One problem, and no step.
fn told(plan: &plan::Plan, address: &str) -> String {
    assert!(plan.steps.is_empty(), "{plan:?}");
    let [problem] = &plan.problems[..] else { panic!("one cause, told once: {:?}", plan.problems) };
    let port = address.rsplit(':').next().unwrap();
    format!("{}: {}\n  next: {}\n", problem.what, problem.why, problem.next).replace(port, "PORT")
}

#[tokio::test]
async fn what_is_wrong_with_a_servers_certificate_is_told_once_with_the_setting_to_look_at() {
    let ours = authority();
    let mut unknown = CertificateParams::default();
    unknown.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    unknown.distinguished_name.push(rcgen::DnType::CommonName, "another");
    let key = KeyPair::generate().unwrap();
    let unknown = Authority { pem: String::new(), issuer: Issuer::new(unknown, key) };
    let mut expired = good();
    expired.not_after = date_time_ymd(2020, 2, 29);
    let mut early = good();
    early.not_before = date_time_ymd(2090, 1, 1);
    early.not_after = date_time_ymd(2091, 1, 1);
    let mut clients = good();
    clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut elsewhere = good();
    elsewhere.subject_alt_names =
        CertificateParams::new(["kubernetes".to_owned()]).unwrap().subject_alt_names;
    let self_signed = KeyPair::generate().unwrap();
    let mut ca = good();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca.self_signed(&self_signed).unwrap();

    let mut all = String::new();
    for (what, server) in [
        ("another authority", signed(&unknown, &good())),
        ("an authority made anew", signed(&authority(), &good())),
        ("another name", signed(&ours, &elsewhere)),
        ("expired", signed(&ours, &expired)),
        ("too early", signed(&ours, &early)),
        ("for clients", signed(&ours, &clients)),
    ] {
        all += &format!("{what}\n{}", cluster(&server, &ours.pem).await);
    }
    let server = serve(&ca, &self_signed, None);
    all += &format!("self-signed\n{}", cluster(&server, &ca.pem()).await);
    all += &format!("no TLS\n{}", cluster(&no_tls(), &ours.pem).await);
    let nobody = format!("https://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    all += &format!("nobody listens\n{}", cluster(&nobody, &ours.pem).await);
    insta::assert_snapshot!(all, @"
    another authority
    the cluster cannot be read, so nothing is done there: the certificate of the cluster is signed by nobody who is trusted here (UnknownIssuer)
      next: put the CA that signed it into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`); where that says nothing, the CAs of this machine are trusted
    an authority made anew
    the cluster cannot be read, so nothing is done there: the certificate of the cluster is signed by another CA of the right name (BadSignature)
      next: the CA was made anew, it seems: put the one that signed it into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`)
    another name
    the cluster cannot be read, so nothing is done there: the certificate of the cluster is not for 127.0.0.1, only for kubernetes (NotValidForName)
      next: write a name that it is for into `server` of the kubeconfig, or give the server one that has 127.0.0.1 too
    expired
    the cluster cannot be read, so nothing is done there: the certificate of the cluster expired on 2020-02-29 (Expired)
      next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
    too early
    the cluster cannot be read, so nothing is done there: the certificate of the cluster is not valid before 2090-01-01 (NotValidYet)
      next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
    for clients
    the cluster cannot be read, so nothing is done there: the certificate of the cluster is not one for servers (InvalidPurpose)
      next: give the server one with extendedKeyUsage serverAuth
    self-signed
    the cluster cannot be read, so nothing is done there: the cluster shows the certificate of a CA as its own (CaUsedAsEndEntity)
      next: give the server a certificate with basicConstraints CA:FALSE that a CA has signed, and put that CA into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`)
    no TLS
    the cluster cannot be read, so nothing is done there: the cluster does not speak TLS at its address (InvalidContentType)
      next: look at the port and at `https` in `server` of the kubeconfig
    nobody listens
    the cluster cannot be read, so nothing is done there: the cluster gives no answer: 127.0.0.1:PORT: tcp connect error: Connection refused (os error 111)
      next: look whether the cluster is up and can be reached from here; tried again by itself
    ");
}

/// One that speaks HTTP, and says so to whoever does not.
fn no_tls() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    });
    address
}

#[tokio::test]
async fn a_vault_is_told_with_its_own_settings() {
    let ours = authority();
    let (mut expired, key) = (good(), KeyPair::generate().unwrap());
    expired.not_after = date_time_ymd(2020, 2, 29);
    let wants_clients = serve(&good().signed_by(&key, &ours.issuer).unwrap(), &key, Some(&ours));
    let mut all = String::new();
    for server in [signed(&authority(), &good()), signed(&ours, &expired), wants_clients] {
        all += &vault(&server, &ours.pem).await;
    }
    insta::assert_snapshot!(all, @"
    Vault cannot be read, so nothing is done there: the certificate of Vault is signed by another CA of the right name (BadSignature)
      next: the CA was made anew, it seems: put the one that signed it into `ca` of [vault]
    Vault cannot be read, so nothing is done there: the certificate of Vault expired on 2020-02-29 (Expired)
      next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
    Vault cannot be read, so nothing is done there: Vault does not accept the certificate that it is shown, or wants one (CertificateRequired)
      next: `[vault]` knows no client certificates: let Vault's listener do without them
    ");
}
