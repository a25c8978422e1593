//! Kubernetes, as the worker sees it: one list for each kind, and single changes. Decides nothing about what should be.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use roster::cluster::{INSTANCE, Key, Kind, MANAGED_BY, MANAGER, PlacedName, Reading, Seen};
use roster::lease::{LEASE_S, SeenLease};
use roster::plan::ClusterAction;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Server, Trouble, percent};
use crate::protocol::Failure;
use crate::tls::Site;

mod look;

use look::look;

pub(crate) const SITE: Site = Site {
    who: "the cluster",
    authority: "`certificate-authority` of the kubeconfig (in a pod, `ca.crt`)",
    address: "`server` of the kubeconfig",
    client: "look at `client-certificate` of the kubeconfig, and by whom the cluster wants it signed",
};

/// Whoever shows nothing that the API server knows. Nobody may give rights to that.
const ANONYMOUS: &str = "system:anonymous";
const PAGE: usize = 500;
/// The most objects of a kind in a namespace that are told although nobody wants them. When these are gone, others are.
const UNWANTED: usize = 200;
/// How often a list that the server has forgotten is begun anew.
const LISTS: usize = 3;
/// How often an object that somebody else writes at the same moment is applied.
const APPLIES: usize = 4;
/// How often a grant that somebody makes anew at the same moment is deleted.
const DELETES: usize = 8;

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
                Ok((seen, more)) if more.is_empty() => return Reading::Seen(seen),
                Ok((seen, namespaces)) => return Reading::InPart { seen, namespaces },
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

    async fn list(
        &self,
        kind: Kind,
        wanted: &BTreeSet<Key>,
        instance: &str,
    ) -> Result<(Vec<Seen>, BTreeSet<String>), Trouble> {
        // What these hold may be secret or big, so that of others is not asked for.
        let only_ours = matches!(kind, Kind::ConfigMap | Kind::Secret | Kind::Certificate);
        let mut query = String::new();
        if only_ours {
            query.push_str(&format!("&labelSelector={MANAGED_BY}%3D{MANAGER}%2C{INSTANCE}%3D{instance}"));
        }
        let mut seen = Vec::new();
        let (mut next, mut limit) = (String::new(), PAGE);
        // Nobody's namespace may hold so much that says it is ours that nothing else can be told.
        let mut unwanted: BTreeMap<String, usize> = BTreeMap::new();
        let mut more = BTreeSet::new();
        loop {
            let path = format!("{}?limit={limit}{query}{next}", collection(kind, None));
            let page: Page = match self.server.get(&path).await {
                Err(Trouble::TooBig) if limit > 1 => {
                    limit = limit.div_ceil(8);
                    continue;
                }
                page => page?,
            };
            if page.kind != format!("{kind}List") {
                return Err(Trouble::NoAnswer(format!("asked for a {kind}List, it gives a {}", page.kind)));
            }
            for item in page.items.iter().flatten() {
                let Some(found) = look(kind, item, wanted, instance)? else { continue };
                if let Some(namespace) = &found.key.namespace
                    && !wanted.contains(&found.key)
                {
                    // Nothing more is to be done about it.
                    if found.is_going() {
                        continue;
                    }
                    let count = unwanted.entry(namespace.clone()).or_default();
                    *count += 1;
                    if *count > UNWANTED {
                        more.insert(namespace.clone());
                        continue;
                    }
                }
                seen.push(found);
            }
            match page.metadata.go_on {
                Some(token) if !token.is_empty() => next = format!("&continue={}", percent(&token)),
                _ => break,
            }
        }
        let found: BTreeSet<Key> = seen.iter().map(|seen| seen.key.clone()).collect();
        let is_single = matches!(kind, Kind::ConfigMap | Kind::Secret);
        for key in wanted.iter().filter(|key| is_single && kind == key.kind && !found.contains(key)) {
            match self.server.get::<Value>(&path(key)).await {
                Ok(item) => seen.extend(look(kind, &item, wanted, instance)?),
                Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok((seen, more))
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
        let mut uid = uid.to_owned();
        for _ in 0..DELETES {
            // A grant goes, whoever has changed it since: somebody who writes all the time could keep it otherwise.
            let preconditions = match key.kind.is_grant() {
                true => json!({"uid": uid}),
                false => json!({"uid": uid, "resourceVersion": version}),
            };
            let options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
                "preconditions": preconditions,
            });
            match self.server.send(&Method::DELETE, &path(key), Some(&options), "application/json").await {
                Ok(said) if is_held(&said) && key.kind.is_grant() => return self.empty(key, &uid).await,
                Ok(said) if is_held(&said) => {
                    return Err(Failure::new(
                        "it is deleted and still there, because it has finalizers",
                        "wait until it is gone; if it stays, look at its finalizers",
                    ));
                }
                Ok(_) | Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => return Ok(()),
                Err(Trouble::Refused(StatusCode::CONFLICT, _)) => {}
                Err(trouble) => return Err(told(trouble, &format!("delete {key}"))),
            }
            if !key.kind.is_grant() {
                break;
            }
            // And whoever makes it anew, with our labels.
            match self.server.get::<Value>(&path(key)).await {
                Ok(found) if found.pointer("/metadata/labels").is_some_and(is_labelled) => {
                    uid =
                        found.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
                }
                Ok(_) => break,
                Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => return Ok(()),
                Err(trouble) => return Err(told(trouble, &format!("get {key}"))),
            }
        }
        Err(Failure::new("somebody has changed it meanwhile", "the next run looks again"))
    }

    /// A grant that a finalizer holds is obeyed until it is gone, unless it is for nobody.
    async fn empty(&self, key: &Key, uid: &str) -> Result<(), Failure> {
        let path = format!("{}?fieldManager={MANAGER}", path(key));
        let patch = json!({"metadata": {"uid": uid}, "subjects": null});
        match self.server.send(&Method::PATCH, &path, Some(&patch), "application/merge-patch+json").await {
            Ok(_) | Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(trouble) => {
                let Failure { why, next } = told(trouble, &format!("patch {key}"));
                Err(Failure::new(
                    format!("it is deleted, held by a finalizer, and cannot be emptied: {why}"),
                    next,
                ))
            }
        }
    }
}

/// Why a kind could not be read: in the same words for each kind that has the same cause.
fn unread(trouble: Trouble, kind: Kind) -> Failure {
    if let Trouble::Refused(StatusCode::FORBIDDEN, said) = &trouble {
        let said = status(said).message.unwrap_or_default();
        let account =
            said.split_once("User \"").and_then(|(_, rest)| rest.split_once("\" cannot list resource "));
        if let Some((account, _)) = account.filter(|(account, _)| *account != ANONYMOUS) {
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
        Trouble::TooBig => {
            return Failure::new(
                format!("the cluster's answer is bigger than any that makes sense (to: {doing})"),
                "look whether what the kubeconfig names is an API server",
            );
        }
        Trouble::Refused(code, said) => (code, status(&said)),
    };
    let said = status.message.clone().filter(|said| !said.is_empty()).unwrap_or_else(|| code.to_string());
    let managers = conflicts(&status);
    match code {
        StatusCode::CONFLICT if !managers.is_empty() => Failure::new(
            managers,
            "let only one of the two keep it: take it out of the other's hands, or give it another name",
        ),
        StatusCode::FORBIDDEN if said.contains(&format!("User \"{ANONYMOUS}\" cannot")) => Failure::new(
            format!(
                "the cluster takes us for nobody ({ANONYMOUS}): what the kubeconfig holds says nothing to it"
            ),
            "write the service account's token into the kubeconfig; it is read anew for each run",
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

fn is_labelled(labels: &Value) -> bool {
    labels.get(MANAGED_BY).and_then(Value::as_str) == Some(MANAGER)
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

/// What is no list, whatever its status, must not be taken for an empty one.
#[derive(Deserialize)]
struct Page {
    kind: String,
    metadata: PageMeta,
    // Some write an empty list as `null`; it has to be there.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    go_on: Option<String>,
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
