//! Kubernetes, as the worker sees it: one list for each kind, and single changes. Decides nothing about what should be.

use std::collections::BTreeSet;

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use roster::cluster::{
    INSTANCE, Key, Kind, MANAGED_BY, MANAGER, Owner, PlacedName, Reading, Seen, USER, fields, owners,
};
use roster::lease::{LEASE_S, SeenLease};
use roster::plan::ClusterAction;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{Server, Trouble, percent};
use crate::protocol::Failure;
use crate::tls::Site;

pub(crate) const SITE: Site = Site {
    who: "the cluster",
    authority: "`certificate-authority` of the kubeconfig (in a pod, `ca.crt`)",
    address: "`server` of the kubeconfig",
    client: "look at `client-certificate` of the kubeconfig, and by whom the cluster wants it signed",
};

const PAGE: usize = 500;
/// How often a list that the server has forgotten is begun anew.
const LISTS: usize = 3;
/// How often an object that somebody else writes at the same moment is applied.
const APPLIES: usize = 4;

/// A cluster that can be spoken to.
#[derive(Clone)]
pub(crate) struct Cluster {
    server: Server,
}

impl Cluster {
    /// Reads the credential. Connects nowhere yet.
    pub(crate) async fn new(kubeconfig: &SecretString) -> Result<Cluster, Failure> {
        let server = Server::new(kubeconfig, HeaderMap::new()).await.map_err(|why| {
            Failure::new(
                format!("the kubeconfig cannot be used: {why}"),
                "mend the file that `kubeconfig` of [kubernetes] names; docs/identity.md shows one",
            )
        })?;
        Ok(Cluster { server })
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
        let Failure { why, next } = unread(trouble, kind);
        Reading::Unreadable { why, next }
    }

    async fn list(&self, kind: Kind, wanted: &BTreeSet<Key>, instance: &str) -> Result<Vec<Seen>, Trouble> {
        // What these hold may be secret or big, so that of others is not asked for.
        let only_ours = matches!(kind, Kind::ConfigMap | Kind::Secret | Kind::Certificate);
        let mut query = format!("limit={PAGE}");
        if only_ours {
            query.push_str(&format!("&labelSelector={MANAGED_BY}%3D{MANAGER}%2C{INSTANCE}%3D{instance}"));
        }
        let mut seen = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("{}?{query}{next}", collection(kind, None));
            let page: Page = self.server.get(&path).await?;
            seen.extend(page.items.iter().filter_map(|item| look(kind, item, wanted, instance)));
            match page.metadata.go_on {
                Some(token) if !token.is_empty() => next = format!("&continue={}", percent(&token)),
                _ => break,
            }
        }
        let found: BTreeSet<Key> = seen.iter().map(|seen| seen.key.clone()).collect();
        let is_single = matches!(kind, Kind::ConfigMap | Kind::Secret);
        for key in wanted.iter().filter(|key| is_single && kind == key.kind && !found.contains(key)) {
            match self.server.get::<Value>(&path(key)).await {
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
            ClusterAction::Copy { key, from, manifest, force } => {
                self.copy(key, from, manifest.clone(), *force).await
            }
            ClusterAction::Delete { key, uid, version } => self.delete(key, uid, version).await,
            ClusterAction::Replace { key, uid, version, manifest } => {
                self.delete(key, uid, version).await?;
                self.declare(key, manifest, false).await.map_err(|failure| Failure {
                    why: format!(
                        "it was removed and could not be made again, so until then nobody has it: {}",
                        failure.why
                    ),
                    next: failure.next,
                })
            }
        }
    }

    /// What is in a Secret goes from the server to the server, and to nobody else.
    async fn copy(&self, key: &Key, from: &Key, mut manifest: Value, force: bool) -> Result<(), Failure> {
        let source: Value =
            self.server.get(&path(from)).await.map_err(|trouble| told(trouble, &format!("get {from}")))?;
        for field in ["type", "data"] {
            if let (Some(manifest), Some(value)) = (manifest.as_object_mut(), source.get(field)) {
                manifest.insert(field.into(), value.clone());
            }
        }
        self.declare(key, &manifest, force).await
    }

    /// The Lease by which hosts agree; nothing when there is none.
    pub(crate) async fn lease(&self, place: &PlacedName) -> Result<Option<SeenLease>, Failure> {
        let lease: Lease = match self.server.get(&lease_path(place, true)).await {
            Ok(lease) => lease,
            Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => return Ok(None),
            Err(trouble) => return Err(told(trouble, "get leases")),
        };
        let spec = lease.spec.unwrap_or_default();
        let renewed = spec.renew_time.or(spec.acquire_time).map(|time| time.0.to_string());
        Ok(Some(SeenLease {
            holder: spec.holder_identity.unwrap_or_default(),
            renewed: renewed.and_then(|time| time.parse().ok()).unwrap_or(Timestamp::MIN),
            seconds: spec.lease_duration_seconds.unwrap_or(0).into(),
            version: lease.metadata.resource_version.unwrap_or_default(),
            transitions: spec.lease_transitions.unwrap_or(0).into(),
        }))
    }

    /// Says that the Lease is ours, unless somebody else has been quicker.
    pub(crate) async fn take_lease(
        &self,
        place: &PlacedName,
        before: Option<&SeenLease>,
        holder: &str,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let now = format!("{now:.6}");
        let changes = before.map_or(0, |lease| lease.transitions + i64::from(lease.holder != holder));
        let mut metadata = json!({"name": place.name, "namespace": place.namespace});
        if let Some(before) = before {
            metadata["resourceVersion"] = before.version.clone().into();
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
            "spec": {
                "holderIdentity": holder, "leaseDurationSeconds": LEASE_S, "acquireTime": now, "renewTime": now,
                "leaseTransitions": changes,
            },
        });
        let (method, path) = match before {
            Some(_) => (Method::PUT, lease_path(place, true)),
            None => (Method::POST, lease_path(place, false)),
        };
        let path = format!("{path}?fieldManager={MANAGER}");
        match self.server.send(&method, &path, Some(&lease), "application/json").await {
            Ok(_) => Ok(true),
            Err(Trouble::Refused(StatusCode::CONFLICT | StatusCode::NOT_FOUND, _)) if before.is_some() => {
                Ok(false)
            }
            Err(Trouble::Refused(StatusCode::CONFLICT, _)) => Ok(false),
            Err(trouble) => Err(told(trouble, "create and update leases")),
        }
    }

    async fn declare(&self, key: &Key, manifest: &Value, force: bool) -> Result<(), Failure> {
        let path = format!("{}?fieldManager={MANAGER}&force={force}&fieldValidation=Strict", path(key));
        let mut tries = 0;
        loop {
            tries += 1;
            let kind = "application/apply-patch+yaml";
            match self.server.send(&Method::PATCH, &path, Some(manifest), kind).await {
                Ok(_) => return Ok(()),
                // Two writers at once, and no field of another one: the server merges anew.
                Err(Trouble::Refused(StatusCode::CONFLICT, said))
                    if tries < APPLIES && conflicts(&status(&said)).is_empty() => {}
                Err(trouble) => return Err(told(trouble, &format!("apply {key}"))),
            }
        }
    }

    async fn delete(&self, key: &Key, uid: &str, version: &str) -> Result<(), Failure> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": uid, "resourceVersion": version},
        });
        match self.server.send(&Method::DELETE, &path(key), Some(&options), "application/json").await {
            Ok(said) if is_held(&said) => Err(Failure::new(
                "it is deleted and still there, because it has finalizers",
                "wait until it is gone; if it stays, look at its finalizers",
            )),
            Ok(_) | Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(Trouble::Refused(StatusCode::CONFLICT, _)) => {
                Err(Failure::new("somebody has changed it meanwhile", "the next run looks again"))
            }
            Err(trouble) => Err(told(trouble, &format!("delete {key}"))),
        }
    }
}

/// Why a kind could not be read: in the same words for each kind that has the same cause.
fn unread(trouble: Trouble, kind: Kind) -> Failure {
    if let Trouble::Refused(StatusCode::FORBIDDEN, said) = &trouble {
        let said = status(said).message.unwrap_or_default();
        let account =
            said.split_once("User \"").and_then(|(_, rest)| rest.split_once("\" cannot list resource "));
        if let Some((account, _)) = account {
            return Failure::new(
                format!("the cluster does not let {account} list them"),
                "bind the role of docs/identity.md to that account, whole",
            );
        }
    }
    told(trouble, &format!("list {}", kind.resource().2))
}

fn told(trouble: Trouble, doing: &str) -> Failure {
    let (code, status) = match trouble {
        Trouble::NoAnswer(why) => {
            return Failure::new(
                format!("the cluster gives no answer: {why}"),
                "look whether the cluster is up and can be reached from here; tried again by itself",
            );
        }
        Trouble::Untrusted(flaw) => return flaw.told(&SITE),
        Trouble::Refused(code, said) => (code, status(&said)),
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
        StatusCode::FORBIDDEN if has_cause(&status, "NamespaceTerminating") => {
            Failure::new("its namespace is being deleted", "the next run looks again")
        }
        // The words are the server's own whenever somebody lacks a right; the rest is admission.
        StatusCode::FORBIDDEN if !said.contains(" cannot ") => Failure::new(
            format!("the cluster forbids it: {said}"),
            "this is no matter of rights: look at its quotas and at what it admits",
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

/// Whether the answer to a deletion is the object, which stays until somebody has taken its finalizers away.
fn is_held(said: &[u8]) -> bool {
    let said: Value = serde_json::from_slice(said).unwrap_or_default();
    let finalizers = said.pointer("/metadata/finalizers").and_then(Value::as_array);
    said.pointer("/metadata/deletionTimestamp").is_some() && finalizers.is_some_and(|all| !all.is_empty())
}

fn status(said: &[u8]) -> Status {
    serde_json::from_slice(said).unwrap_or_default()
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let mut causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    causes.any(|cause| cause.reason.as_deref() == Some(reason))
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
    if kind == Kind::Secret {
        fields.retain(|path, _| path.starts_with("/metadata/") || path == "/type");
        fields.insert("/data".into(), digest(item.get("data")).into());
    }
    let managed = meta.get("managedFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut owners = owners(managed);
    owners.retain(|path, all| matters(path) || all.iter().any(|owner| owner.name == MANAGER));
    if kind == Kind::Secret {
        let within: BTreeSet<Owner> = owners
            .iter()
            .filter(|(path, _)| path.starts_with("/data"))
            .flat_map(|(_, all)| all.clone())
            .collect();
        owners.retain(|path, _| path.starts_with("/metadata/") || path == "/type");
        owners.insert("/data".into(), within.into_iter().collect());
    }
    Some(Seen {
        key,
        uid: text("uid")?.to_owned(),
        version: text("resourceVersion")?.to_owned(),
        terminating: text("deletionTimestamp").is_some(),
        fields,
        owners,
    })
}

/// Stands for what is in a Secret, which stays here.
fn digest(data: Option<&Value>) -> String {
    let text = data.map(Value::to_string).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lease_path(place: &PlacedName, with_name: bool) -> String {
    let folder = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", percent(&place.namespace));
    if with_name { format!("{folder}/{}", percent(&place.name)) } else { folder }
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
