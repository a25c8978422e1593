//! A part of a real cluster: what an admin does to it, what its own audit log says, and an account for rosterd that has the
//! rights that docs/identity.md asks for, and no others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use kube::Config;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use roster::cluster::Kind;
use serde_json::{Value, json};
use tokio::sync::mpsc as tasks;

use super::cluster::collection;
use super::server::{Answer, Asked, Server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CERTIFICATES: &str = "certificates.cert-manager.io";
/// On what is not of a namespace and not rosterd's.
const LABEL: &str = "rosterd.test";
/// For what the server does by and by, such as to heed a role that was changed.
const WITHIN: Duration = Duration::from_secs(60);

/// Whose cluster it is, when there is one.
pub(crate) fn kubeconfig() -> Option<PathBuf> {
    std::env::var_os("ROSTERD_TEST_KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A part of a cluster. It is cleared away at the end.
#[derive(Debug)]
pub(crate) struct Real {
    /// Passes on what it is asked, unless something is to go wrong.
    pub(crate) front: Server,
    admin: Client,
    nobody: Client,
    /// Without anybody's credential.
    kubeconfig: Kubeconfig,
    /// The namespace of rosterd's account, and the name of its roles.
    home: String,
    prefix: String,
    token: Mutex<String>,
    audit: Option<Mutex<Audit>>,
}

impl Real {
    /// Makes the account.
    pub(crate) fn start(kubeconfig: &std::path::Path, prefix: &str) -> Real {
        let admin = Kubeconfig::read_from(kubeconfig).unwrap();
        let bare = without_credential(admin.clone());
        let nobody = Client::start(bare.clone());
        let passes = nobody.clone();
        let real = Real {
            front: Server::start(move |asked| passes.pass(asked)),
            admin: Client::start(admin),
            nobody,
            kubeconfig: bare,
            home: format!("rosterd-test-{}", prefix.trim_end_matches('-')),
            prefix: prefix.to_owned(),
            token: Mutex::default(),
            audit: std::env::var_os("ROSTERD_TEST_AUDIT_LOG")
                .map(|path| Mutex::new(Audit::open(path.into()))),
        };
        real.make_namespace(&real.home);
        let documented = include_str!("../../../../docs/identity.md");
        let documents =
            documented.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let is_role = |document: &&str| document.contains("kind: ClusterRole\nmetadata: {name: rosterd}");
        let role = documents.split("---\n").find(is_role).unwrap();
        let role = role.replace("{name: rosterd}", &format!("{{name: {}}}", real.home));
        assert!(role.contains("kind: ClusterRole") && role.contains(&real.home), "{role}");
        real.post_yaml(&format!("{RBAC}/clusterroles"), role);
        // And what it says in words, for whoever has `tls_secret` and `lease`.
        let more = format!("{}-more", real.home);
        let rules = json!([
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "patch", "delete"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        ]);
        real.post(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": more}, "rules": rules}));
        for role in [&real.home, &more] {
            let binding = json!({
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "namespace": real.home, "name": "rosterd"}],
            });
            real.post(&format!("{RBAC}/clusterrolebindings"), &binding);
        }
        real.make_account();
        for path in ["/api/v1/namespaces", "/api/v1/secrets", &format!("{RBAC}/rolebindings")] {
            real.wait(path, 200, &real.token());
        }
        real
    }

    /// How the server names rosterd's account.
    pub(crate) fn account(&self) -> String {
        format!("system:serviceaccount:{}:rosterd", self.home)
    }

    pub(crate) fn token(&self) -> String {
        self.token.lock().unwrap().clone()
    }

    /// Straight to the server; past us when something is to go wrong, or when only we can count.
    pub(crate) fn kubeconfig(&self, token: &str) -> String {
        let mut config = self.kubeconfig.clone();
        for named in &mut config.auth_infos {
            named.auth_info = Some(AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() });
        }
        if self.audit.is_none() || self.front.is_wrong() {
            for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
                cluster.certificate_authority_data = None;
                cluster.server = Some(format!("http://127.0.0.1:{}", self.front.port));
            }
        }
        serde_json::to_string(&config).unwrap()
    }

    /// An account without a past.
    fn make_account(&self) {
        let accounts = format!("/api/v1/namespaces/{}/serviceaccounts", self.home);
        self.post(&accounts, &json!({"metadata": {"name": "rosterd"}}));
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200},
        });
        let made = self.post(&format!("{accounts}/rosterd/token"), &wanted);
        *self.token.lock().unwrap() = made["status"]["token"].as_str().unwrap().to_owned();
    }

    pub(crate) fn renew(&self) -> String {
        let before = self.token();
        let account = format!("/api/v1/namespaces/{}/serviceaccounts/rosterd", self.home);
        self.ask("DELETE", &account, "application/json", &json!({}));
        self.make_account();
        self.wait("/api/v1/namespaces", 401, &before);
        self.wait("/api/v1/namespaces", 200, &self.token());
        self.token()
    }

    pub(crate) fn forbid(&self, plural: &str) {
        let mut group = String::new();
        for role in [self.home.clone(), format!("{}-more", self.home)] {
            let path = format!("{RBAC}/clusterroles/{role}");
            let mut role = self.get(&path);
            for rule in role["rules"].as_array_mut().unwrap() {
                let resources = rule["resources"].as_array_mut().unwrap();
                let before = resources.len();
                resources.retain(|resource| resource != plural);
                if resources.len() < before {
                    group = rule["apiGroups"][0].as_str().unwrap().to_owned();
                }
            }
            role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!([]));
            assert_eq!(self.ask("PUT", &path, "application/json", &role).0, 200);
        }
        let root = if group.is_empty() { "/api/v1".into() } else { format!("/apis/{group}/v1") };
        self.wait(&format!("{root}/{plural}"), 403, &self.token());
    }

    /// Until the server answers so.
    fn wait(&self, path: &str, code: u16, token: &str) {
        let header = [("authorization", format!("Bearer {token}"))];
        eventually(path, || self.nobody.ask("GET", path, &header, Vec::new()).0 == code);
    }

    /// As somebody else, by what the server calls impersonation.
    pub(crate) fn ask_as(&self, user: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = [("content-type", "application/json".into()), ("impersonate-user", user.to_owned())];
        let body = if method == "GET" { Vec::new() } else { body.to_string().into() };
        let (code, bytes) = self.admin.ask(method, path, &headers, body);
        (code, json_of(&bytes))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let body = if method == "GET" { Vec::new() } else { body.to_string().into() };
        let (code, bytes) = self.admin.ask(method, path, &[("content-type", kind.to_owned())], body);
        (code, json_of(&bytes))
    }

    fn get(&self, path: &str) -> Value {
        self.ask("GET", path, "application/json", &Value::Null).1
    }

    /// Makes something.
    pub(crate) fn post(&self, path: &str, object: &Value) -> Value {
        let (code, answer) = self.ask("POST", path, "application/json", object);
        assert!(code == 200 || code == 201, "{path}: {answer}");
        answer
    }

    fn post_yaml(&self, path: &str, object: String) {
        let header = [("content-type", "application/yaml".to_owned())];
        let (code, answer) = self.admin.ask("POST", path, &header, object.into());
        assert_eq!(code, 201, "{}", String::from_utf8_lossy(&answer));
    }

    pub(crate) fn make_namespace(&self, name: &str) {
        let object = json!({"metadata": {"name": name, "labels": {LABEL: self.home}}});
        let (code, answer) = self.ask("POST", "/api/v1/namespaces", "application/json", &object);
        assert!(code == 201 || code == 409, "{answer}");
    }

    fn is_ours(&self, object: &Value) -> bool {
        ["name", "namespace"].iter().any(|field| {
            let text = object["metadata"][*field].as_str().unwrap_or_default();
            text.starts_with(&self.prefix)
        })
    }

    fn list(&self, kind: Kind) -> Vec<Value> {
        let mut list = self.get(&collection(kind, None));
        // Of a kind that the server does not know it says so in plain text.
        let items =
            list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        items.into_iter().filter(|item| self.is_ours(item)).collect()
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = BTreeMap::new();
        for kind in Kind::ALL {
            for mut object in self.list(kind) {
                // What the cluster itself puts into each namespace, and what we have put beside rosterd.
                let by_itself = ["kubernetes.io/service-account-token"]
                    .contains(&object["type"].as_str().unwrap_or(""))
                    || object["metadata"]["name"] == "kube-root-ca.crt"
                    || !object["metadata"]["labels"][LABEL].is_null();
                if by_itself {
                    continue;
                }
                let name = object["metadata"]["name"].as_str().unwrap();
                let place = object["metadata"]["namespace"].as_str().map(|place| format!("{place}/"));
                let key = format!("{} {}{name}", kind.resource().2, place.unwrap_or_default());
                let parts = object.as_object_mut().unwrap();
                parts.remove("status");
                let metadata = parts["metadata"].as_object_mut().unwrap();
                metadata.retain(|field, _| field != "managedFields" && field != "resourceVersion");
                objects.insert(key, object);
            }
        }
        objects
    }

    /// Takes the definition of certificates away, for as long as the answer lives.
    pub(crate) fn without_cert_manager(&self) -> CertManager<'_> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = format!("{DEFINITIONS}/{CERTIFICATES}");
        let found = self.ask("GET", &path, "application/json", &Value::Null);
        assert!(
            found.0 == 404 || !found.1["metadata"]["labels"][LABEL].is_null(),
            "this cluster has a cert-manager, so what is done without one cannot be shown on it"
        );
        let turn = CertManager { real: self, _turn: turn };
        turn.remove();
        turn
    }

    pub(crate) fn install_cert_manager(&self) {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "metadata": {"name": CERTIFICATES, "labels": {LABEL: self.home}},
            "spec": {
                "group": "cert-manager.io", "scope": "Namespaced",
                "names": {"plural": "certificates", "singular": "certificate", "kind": "Certificate", "listKind": "CertificateList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        self.post(DEFINITIONS, &definition);
        self.wait(&collection(Kind::Certificate, None), 200, &self.token());
    }

    pub(crate) fn lease_of(&self, namespace: &str, name: &str, spec: &Value) {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let path = format!("{leases}/{name}");
        if self.ask("PATCH", &path, "application/merge-patch+json", &json!({"spec": spec})).0 == 404 {
            self.post(&leases, &json!({"metadata": {"name": name}, "spec": spec}));
        }
    }

    pub(crate) fn holder(&self, namespace: &str, name: &str) -> Option<String> {
        let lease = self.get(&format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"));
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// By the server's own record, where it keeps one.
    pub(crate) fn requests(&self) -> Vec<String> {
        let at_front = self.front.requests();
        match &self.audit {
            Some(audit) => audit.lock().unwrap().requests(&self.account()),
            None => at_front,
        }
    }

    /// How many requests of rosterd's were under way at the same time since the last call of `requests`, at most.
    pub(crate) fn busiest(&self) -> usize {
        match &self.audit {
            Some(audit) => audit.lock().unwrap().busiest(&self.account()),
            None => self.front.busiest(),
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let delete = |path: String| self.ask("DELETE", &path, "application/json", &json!({}));
        for kind in [Kind::ClusterRoleBinding, Kind::ClusterRole, Kind::Namespace] {
            let folder = collection(kind, None);
            for object in self.list(kind) {
                delete(format!("{folder}/{}", object["metadata"]["name"].as_str().unwrap_or_default()));
            }
        }
        for role in [self.home.clone(), format!("{}-more", self.home)] {
            delete(format!("{RBAC}/clusterrolebindings/{role}"));
            delete(format!("{RBAC}/clusterroles/{role}"));
        }
        delete(format!("/api/v1/namespaces/{}", self.home));
    }
}

/// The turn of the test that has cert-manager's definitions to itself.
#[derive(Debug)]
pub(crate) struct CertManager<'r> {
    real: &'r Real,
    _turn: MutexGuard<'static, ()>,
}

impl CertManager<'_> {
    fn remove(&self) {
        let path = format!("{DEFINITIONS}/{CERTIFICATES}");
        self.real.ask("DELETE", &path, "application/json", &json!({}));
        self.real.wait(&collection(Kind::Certificate, None), 404, &self.real.token());
    }
}

impl Drop for CertManager<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Until it is so.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < WITHIN, "it is not so after {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
}

/// With the authority inside, so that it can be used elsewhere.
fn without_credential(mut config: Kubeconfig) -> Kubeconfig {
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if let Some(path) = cluster.certificate_authority.take() {
            let bytes = k8s_openapi::ByteString(fs::read(path).unwrap());
            cluster.certificate_authority_data = json!(bytes).as_str().map(str::to_owned);
        }
    }
    for named in &mut config.auth_infos {
        named.auth_info = Some(AuthInfo::default());
    }
    config
}

type Reply = (u16, Vec<u8>);

/// Asks a server from wherever, in its own thread.
#[derive(Debug, Clone)]
struct Client {
    tasks: tasks::UnboundedSender<(Request<Body>, mpsc::Sender<Reply>)>,
}

impl Client {
    fn start(kubeconfig: Kubeconfig) -> Client {
        let (sender, mut tasks) = tasks::unbounded_channel::<(Request<Body>, mpsc::Sender<Reply>)>();
        let serve = async move {
            let config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            let client = kube::Client::try_from(config).unwrap();
            while let Some((request, reply)) = tasks.recv().await {
                let client = client.clone();
                tokio::spawn(async move {
                    let answer = client.send(request).await.unwrap();
                    let code = answer.status().as_u16();
                    let body = answer.into_body().collect().await.unwrap().to_bytes().to_vec();
                    let _ = reply.send((code, body));
                });
            }
        };
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve);
        });
        Client { tasks: sender }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, String)], body: Vec<u8>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("accept", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let (reply, answer) = mpsc::channel();
        self.tasks.send((request.body(Body::from(body)).unwrap(), reply)).unwrap();
        answer.recv().unwrap_or_else(|_| panic!("no answer to {method} {path}"))
    }

    fn pass(&self, asked: &Asked<'_>) -> Answer {
        let headers: Vec<_> = ["authorization", "content-type", "user-agent"]
            .into_iter()
            .filter_map(|name| Some((name, asked.headers.get(name)?.clone())))
            .collect();
        let (code, body) = self.ask(asked.method, asked.target, &headers, asked.body.to_vec());
        Answer { code, body: json_of(&body), after: None }
    }
}

/// The server's record of what it was asked.
#[derive(Debug)]
struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    fn open(path: PathBuf) -> Audit {
        let from = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Audit { path, from }
    }

    fn events(&self, account: &str) -> (Vec<Value>, u64) {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.from)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        // The last line may be on its way.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        let ours = format!("\"username\":\"{account}\"");
        let events = text.lines().filter(|line| line.contains(&ours));
        let events = events.map(|line| serde_json::from_str(line).unwrap()).collect();
        (events, self.from + text.len() as u64)
    }

    fn requests(&mut self, account: &str) -> Vec<String> {
        let (events, end) = self.events(account);
        self.from = end;
        // It is in the record before it is answered.
        let received = events.iter().filter(|event| event["stage"] == "RequestReceived");
        let told =
            received.filter(|event| event["userAgent"].as_str().is_some_and(|a| a.starts_with("rosterd/")));
        told.map(|event| {
            let method = match event["verb"].as_str().unwrap() {
                "get" | "list" => "GET",
                "create" => "POST",
                "update" => "PUT",
                "patch" => "PATCH",
                "delete" => "DELETE",
                other => other,
            };
            format!("{method} {}", event["requestURI"].as_str().unwrap())
        })
        .collect()
    }

    fn busiest(&self, account: &str) -> usize {
        let mut at: Vec<_> = self.events(account).0;
        at.sort_by_key(|event| event["stageTimestamp"].as_str().map(str::to_owned));
        let (mut now, mut most) = (0_usize, 0);
        for event in at {
            match event["stage"].as_str() {
                Some("RequestReceived") => now += 1,
                _ => now = now.saturating_sub(1),
            }
            most = most.max(now);
        }
        most
    }
}
