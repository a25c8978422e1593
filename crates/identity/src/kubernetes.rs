//! Kubernetes, as the worker sees it: one list for each kind, and single changes. Decides nothing about what should be.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use roster::cluster::{INSTANCE, Key, Kind, MANAGED_BY, MANAGER, Reading, Seen, USER, fields, owners};
use roster::plan::ClusterAction;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::protocol::Failure;
use crate::retry::{self, Ended};

const CONNECT: Duration = Duration::from_secs(10);
/// A page of a list takes a busy server a second or two.
const ANSWER: Duration = Duration::from_secs(20);
const PAGE: usize = 500;
/// A page of the largest objects that a cluster stores does not reach this.
const MAX_ANSWER: usize = 256 << 20;
/// How often a list that the server has forgotten is begun anew.
const LISTS: usize = 3;

/// A cluster that can be spoken to.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    answer: Duration,
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Trouble {
    /// The server refused it.
    Refused(StatusCode, Status),
    /// There was no answer that could be used.
    NoAnswer(String),
}

impl Cluster {
    /// Reads the credential. Connects nowhere yet.
    pub(crate) async fn new(kubeconfig: &SecretString) -> Result<Cluster, Failure> {
        let unfit = |why: String| {
            Failure::new(format!("the kubeconfig cannot be used: {why}"), "mend the kubeconfig")
        };
        let parsed: Kubeconfig = serde_json::from_str(kubeconfig.expose_secret())
            .map_err(|_| unfit("it is not what a kubeconfig is".into()))?;
        let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
            .await
            .map_err(|error| unfit(chain(&error)))?;
        config.connect_timeout = Some(CONNECT);
        // How long an answer may take, and what is tried again, is decided here.
        config.read_timeout = None;
        config.default_retry = false;
        config.accept_invalid_certs = false;
        let client = Client::try_from(config).map_err(|error| unfit(chain(&error)))?;
        Ok(Cluster { client, answer: ANSWER })
    }

    /// Everything of a kind that is ours or wanted.
    pub(crate) async fn read(&self, kind: Kind, wanted: &BTreeSet<Key>, instance: &str) -> Reading {
        let mut trouble = Trouble::NoAnswer("the server forgets the list while it gives it".into());
        for _ in 0..LISTS {
            match self.list(kind, wanted, instance).await {
                Ok(seen) => return Reading::Seen(seen),
                Err(Trouble::Refused(StatusCode::GONE, _)) => {}
                Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) if kind == Kind::Certificate => {
                    return Reading::NoSuchKind;
                }
                Err(other) => {
                    trouble = other;
                    break;
                }
            }
        }
        let Failure { why, next } = trouble.told(&format!("list {}", kind.resource().2));
        Reading::Unreadable { why, next }
    }

    async fn list(&self, kind: Kind, wanted: &BTreeSet<Key>, instance: &str) -> Result<Vec<Seen>, Trouble> {
        // What these hold may be secret or big, so that of others is not asked for.
        let only_ours = matches!(kind, Kind::ConfigMap | Kind::Certificate);
        let mut query = format!("limit={PAGE}");
        if only_ours {
            query.push_str(&format!("&labelSelector={MANAGED_BY}%3D{MANAGER}%2C{INSTANCE}%3D{instance}"));
        }
        let mut seen = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("{}?{query}{next}", collection(kind, None));
            let page: Page = self.get(&path).await?;
            seen.extend(page.items.iter().filter_map(|item| look(kind, item, wanted, instance)));
            match page.metadata.go_on {
                Some(token) if !token.is_empty() => next = format!("&continue={}", percent(&token)),
                _ => break,
            }
        }
        let found: BTreeSet<Key> = seen.iter().map(|seen| seen.key.clone()).collect();
        for key in wanted
            .iter()
            .filter(|key| key.kind == Kind::ConfigMap && kind == key.kind && !found.contains(key))
        {
            match self.get::<Value>(&path(key)).await {
                Ok(item) => seen.extend(look(kind, &item, wanted, instance)),
                Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(seen)
    }

    /// Does one step.
    pub(crate) async fn apply(&self, action: &ClusterAction) -> Result<(), Failure> {
        match action {
            ClusterAction::Apply { key, manifest, force } => self.declare(key, manifest, *force).await,
            ClusterAction::Delete { key, uid, version } => self.delete(key, uid, version).await,
            ClusterAction::Replace { key, uid, version, manifest } => {
                self.delete(key, uid, version).await?;
                self.declare(key, manifest, false).await.map_err(|failure| Failure {
                    why: format!("it was removed and could not be made again: {}", failure.why),
                    next: failure.next,
                })
            }
        }
    }

    async fn declare(&self, key: &Key, manifest: &Value, force: bool) -> Result<(), Failure> {
        let path = format!("{}?fieldManager={MANAGER}&force={force}&fieldValidation=Strict", path(key));
        let sent = self.send(&Method::PATCH, &path, Some(manifest), "application/apply-patch+yaml").await;
        sent.map(drop).map_err(|trouble| trouble.told(&format!("apply {key}")))
    }

    async fn delete(&self, key: &Key, uid: &str, version: &str) -> Result<(), Failure> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": uid, "resourceVersion": version},
        });
        match self.send(&Method::DELETE, &path(key), Some(&options), "application/json").await {
            Ok(_) | Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(Trouble::Refused(StatusCode::CONFLICT, _)) => {
                Err(Failure::new("somebody has changed it meanwhile", "the next run looks again"))
            }
            Err(trouble) => Err(trouble.told(&format!("delete {key}"))),
        }
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, Trouble> {
        let bytes = self.send(&Method::GET, path, None, "application/json").await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::NoAnswer(format!("its answer makes no sense: {error}")))
    }

    /// Sends a request until it is answered or not worth another try.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        kind: &str,
    ) -> Result<Vec<u8>, Trouble> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (ended, trouble) =
                match tokio::time::timeout(self.answer, self.once(method, path, body, kind)).await {
                    Ok(Ok((status, bytes, _))) if status.is_success() => return Ok(bytes),
                    Ok(Ok((code, bytes, after))) => {
                        let trouble =
                            Trouble::Refused(code, serde_json::from_slice(&bytes).unwrap_or_default());
                        if code != StatusCode::TOO_MANY_REQUESTS && !code.is_server_error() {
                            return Err(trouble);
                        }
                        (Ended::Busy(after), trouble)
                    }
                    Ok(Err(why)) => (Ended::Busy(None), Trouble::NoAnswer(why)),
                    Err(_) => {
                        let why = format!("it does not answer within {} s", self.answer.as_secs());
                        (Ended::Hung, Trouble::NoAnswer(why))
                    }
                };
            match retry::wait(ended, tries) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(trouble),
            }
        }
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        kind: &str,
    ) -> Result<(StatusCode, Vec<u8>, Option<Duration>), String> {
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("rosterd/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(bytes))
            .map_err(|error| error.to_string())?;
        let answer = self.client.send(request).await.map_err(|error| chain(&error))?;
        let (status, after) = (answer.status(), retry_after(&answer));
        let bytes =
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| chain(&*error))?;
        Ok((status, bytes.to_bytes().to_vec(), after))
    }
}

impl Trouble {
    fn told(self, doing: &str) -> Failure {
        let (code, status) = match self {
            Trouble::NoAnswer(why) => {
                return Failure::new(
                    format!("the cluster gives no answer: {why}"),
                    "look whether the cluster is up and can be reached from here; tried again by itself",
                );
            }
            Trouble::Refused(code, status) => (code, status),
        };
        let said = status.message.clone().filter(|said| !said.is_empty()).unwrap_or_else(|| code.to_string());
        let managers = conflicts(&status);
        match code {
            StatusCode::CONFLICT if !managers.is_empty() => Failure::new(
                managers,
                "let only one of the two keep it: take it out of the other's hands, or give it another name",
            ),
            StatusCode::UNAUTHORIZED => Failure::new(
                format!("the cluster does not accept the credential: {said}"),
                "renew the token or certificate in the kubeconfig; it is read anew for each run",
            ),
            StatusCode::FORBIDDEN => Failure::new(
                format!("the cluster forbids it: {said}"),
                format!("let the credential's account {doing}; docs/identity.md has the role that it needs"),
            ),
            _ => Failure::new(
                format!("the cluster answers {}: {said}", code.as_u16()),
                "tried again by itself; if it stays, look at the cluster",
            ),
        }
    }
}

/// Who else holds the fields of a refused apply, in words.
fn conflicts(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let told = causes.filter(|cause| cause.reason.as_deref() == Some("FieldManagerConflict")).map(|cause| {
        let message = cause.message.as_deref().unwrap_or_default();
        // `conflict with "kubectl-edit" using v1`
        let manager = message.split('"').nth(1).unwrap_or(message);
        format!("{} is set by {manager}", cause.field.as_deref().unwrap_or_default().trim_start_matches('.'))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    go_on: Option<String>,
}

/// An object, when it is ours or wanted, with what the core compares.
fn look(kind: Kind, item: &Value, wanted: &BTreeSet<Key>, instance: &str) -> Option<Seen> {
    let meta = item.get("metadata")?;
    let text = |key: &str| meta.get(key).and_then(Value::as_str);
    let key = Key { kind, namespace: text("namespace").map(str::to_owned), name: text("name")?.to_owned() };
    let label = |label: &str| meta.get("labels").and_then(|labels| labels.get(label)).and_then(Value::as_str);
    let ours = label(MANAGED_BY) == Some(MANAGER) && label(INSTANCE) == Some(instance);
    if !ours && !wanted.contains(&key) {
        return None;
    }
    let pointer = |name: &str| name.replace('/', "~1");
    let metadata = [
        format!("/metadata/labels/{}", pointer(MANAGED_BY)),
        format!("/metadata/labels/{}", pointer(INSTANCE)),
        format!("/metadata/annotations/{}", pointer(USER)),
    ];
    let matters = |path: &str| {
        metadata.iter().any(|of_ours| path == of_ours)
            || (kind != Kind::Namespace && !path.starts_with("/metadata/"))
    };
    let mut fields = fields(item);
    fields.retain(|path, _| matters(path));
    let managed = meta.get("managedFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut owners = owners(managed);
    owners.retain(|path, all| matters(path) || all.iter().any(|owner| owner.name == MANAGER));
    Some(Seen {
        key,
        uid: text("uid")?.to_owned(),
        version: text("resourceVersion")?.to_owned(),
        terminating: text("deletionTimestamp").is_some(),
        fields,
        owners,
    })
}

fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let (group, version, plural) = kind.resource();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

fn path(key: &Key) -> String {
    format!("{}/{}", collection(key.kind, key.namespace.as_deref()), percent(&key.name))
}

/// A text as one part of a URL.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// An error with everything that led to it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}
