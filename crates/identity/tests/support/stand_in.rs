//! A stand-in for an API server: lists with pages, server-side apply with managed fields and conflicts, merge patches,
//! and deletion with preconditions. What it is sent must fit the types of Kubernetes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use roster::cluster::{Kind, fields};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::server::{Answer, Asked, Server};

/// Plural, namespace, name.
pub(crate) type Place = (String, Option<String>, String);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Place, Stored>,
    leases: BTreeMap<String, Value>,
    version: u64,
    token: String,
    forbidden: BTreeSet<String>,
    has_cert_manager: bool,
}

#[derive(Debug, Clone)]
struct Stored {
    object: Value,
    /// Manager and operation, with the paths of the fields they set.
    managers: BTreeMap<(String, &'static str), BTreeSet<String>>,
}

/// The server. It runs until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct StandIn {
    state: Arc<Mutex<State>>,
    server: Server,
}

impl std::ops::Deref for StandIn {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn ok(body: Value) -> Answer {
    Answer { code: 200, body, after: None }
}

fn refuse(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code,
    });
    Answer { code, body: status, after: None }
}

impl StandIn {
    /// Starts one that accepts `token`.
    pub(crate) fn start(token: &str) -> StandIn {
        let state = Arc::new(Mutex::new(State { token: token.into(), ..State::default() }));
        let kept = Arc::clone(&state);
        let server = Server::start(move |asked| kept.lock().unwrap().answer(asked));
        StandIn { state, server }
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\nusers: [{{name: u, user: {{token: {token}}}}}]\n",
            self.port
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// It accepts another token from now on.
    pub(crate) fn accept(&self, token: &str) {
        self.state().token = token.into();
    }

    /// The token that it accepts.
    pub(crate) fn token(&self) -> String {
        self.state().token.clone()
    }

    /// Nothing of this kind may be read or changed any more.
    pub(crate) fn forbid(&self, plural: &str) {
        self.state().forbidden.insert(plural.into());
    }

    /// Asks it as somebody else than rosterd.
    pub(crate) fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (body, token) = (body.to_string(), self.token());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nauthorization: Bearer {token}\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap())
    }

    /// cert-manager is installed.
    pub(crate) fn install_cert_manager(&self) {
        self.state().has_cert_manager = true;
    }

    /// The Lease of that place, as somebody else would write it.
    pub(crate) fn lease_of(&self, place: &str, spec: Value) {
        let (namespace, name) = place.split_once('/').unwrap();
        let metadata = json!({"namespace": namespace, "name": name, "resourceVersion": "1"});
        self.state().leases.insert(place.into(), json!({"metadata": metadata, "spec": spec}));
    }

    /// Who holds a Lease.
    pub(crate) fn holder(&self, place: &str) -> Option<String> {
        self.state().leases.get(place)?["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Every object there is, by `kind namespace/name`.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        let state = self.state();
        let named = state.objects.iter().map(|((kind, namespace, name), stored)| {
            let place = namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
            (format!("{kind} {place}{name}"), stored.object.clone())
        });
        named.collect()
    }
}

/// A request's place: plural, namespace and, of a single object, name.
fn place(path: &str) -> Option<(String, Option<String>, Option<String>)> {
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let root = if parts.first() == Some(&"api") { 2 } else { 3 };
    let group = if root == 2 { "" } else { parts[1] }.to_owned();
    parts.drain(..root.min(parts.len()));
    let decode = |text: &str| text.replace("%40", "@").replace("%2B", "+");
    let (plural, namespace, name) = match parts[..] {
        [plural] => (plural, None, None),
        [plural, name] => (plural, None, Some(name)),
        ["namespaces", namespace, plural] => (plural, Some(namespace), None),
        ["namespaces", namespace, plural, name] => (plural, Some(namespace), Some(name)),
        _ => return None,
    };
    let known = Kind::ALL.iter().any(|kind| kind.resource().0 == group && kind.resource().2 == plural);
    known.then(|| (plural.into(), namespace.map(str::to_owned), name.map(decode)))
}

impl State {
    fn answer(&mut self, asked: &Asked<'_>) -> Answer {
        let Asked { method, target, headers, body } = *asked;
        if headers.get("authorization") != Some(&format!("Bearer {}", self.token)) {
            return refuse(401, "Unauthorized", "Unauthorized");
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Some(plural) = self.forbidden.iter().find(|plural| path.split('/').any(|part| part == *plural))
        {
            let group = Kind::ALL
                .into_iter()
                .find(|kind| kind.resource().2 == plural)
                .map_or("", |kind| kind.resource().0);
            let what = format!("{plural}.{group}");
            return refuse(
                403,
                "Forbidden",
                &format!(
                    "{} is forbidden: User \"rosterd\" cannot list resource \"{plural}\" in API group \"{group}\" at \
                     the cluster scope",
                    what.trim_end_matches('.')
                ),
            );
        }
        if let Some(path) = path.strip_prefix("/apis/coordination.k8s.io/v1/namespaces/") {
            return self.lease(method, path, body);
        }
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let Some((plural, namespace, name)) = place(path) else {
            return refuse(404, "NotFound", "the server could not find the requested resource");
        };
        if plural == "certificates" && !self.has_cert_manager {
            return refuse(404, "NotFound", "the server could not find the requested resource");
        }
        match (method, name) {
            ("GET", None) => self.list(&plural, namespace.as_deref(), &query),
            ("GET", Some(name)) => match self.objects.get(&(plural, namespace, name)) {
                Some(stored) => ok(stored.shown()),
                None => refuse(404, "NotFound", "not found"),
            },
            ("PATCH", Some(name)) => {
                let Ok(patch) = serde_json::from_slice(body) else {
                    return refuse(400, "BadRequest", "this is no JSON");
                };
                let merge = headers.get("content-type").is_some_and(|kind| kind.contains("merge-patch"));
                let manager = (*query.get("fieldManager").unwrap_or(&"unknown")).to_owned();
                let at = (plural, namespace, name);
                if merge {
                    self.merge(at, &patch, manager)
                } else {
                    self.apply(at, patch, manager, query["force"] == "true")
                }
            }
            ("DELETE", Some(name)) => self.delete(&(plural, namespace, name), body),
            _ => refuse(405, "MethodNotAllowed", "this is not done here"),
        }
    }

    fn lease(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let name = path.replace("/leases", "");
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let body: Result<Lease, _> = serde_json::from_slice(body);
        match (method, self.leases.get(&name), body) {
            ("GET", Some(lease), _) => ok(lease.clone()),
            ("GET", None, _) | ("PUT", None, Ok(_)) => refuse(404, "NotFound", "not found"),
            ("PUT", Some(before), Ok(lease)) if version(before) != version(&json!(lease)) => {
                refuse(409, "Conflict", "the object has been modified")
            }
            ("POST", _, Ok(lease))
                if self.leases.contains_key(&format!("{name}/{}", lease.metadata.name.clone().unwrap())) =>
            {
                refuse(409, "AlreadyExists", "already exists")
            }
            ("PUT" | "POST", _, Ok(lease)) => {
                self.version += 1;
                let at = if method == "PUT" {
                    name
                } else {
                    format!("{name}/{}", lease.metadata.name.clone().unwrap())
                };
                let mut lease = json!(lease);
                lease["metadata"]["resourceVersion"] = self.version.to_string().into();
                self.leases.insert(at, lease.clone());
                ok(lease)
            }
            _ => refuse(400, "BadRequest", "this is no lease"),
        }
    }

    fn list(&self, plural: &str, namespace: Option<&str>, query: &BTreeMap<&str, &str>) -> Answer {
        let selector = query
            .get("labelSelector")
            .map(|text| text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/"));
        let selected = |object: &Value| {
            selector.iter().flat_map(|all| all.split(',')).all(|one| {
                let (key, value) = one.split_once('=').unwrap();
                object["metadata"]["labels"][key] == value
            })
        };
        let all: Vec<&Stored> = self
            .objects
            .iter()
            .filter(|((kind, place, _), _)| {
                kind == plural && (namespace.is_none() || place.as_deref() == namespace)
            })
            .map(|(_, stored)| stored)
            .filter(|stored| selected(&stored.object))
            .collect();
        let number = |key: &str| query.get(key).and_then(|text| text.parse().ok());
        let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
        let items: Vec<Value> = all.iter().skip(from).take(limit).map(|stored| stored.shown()).collect();
        let next = from + items.len();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if next < all.len() {
            metadata["continue"] = next.to_string().into();
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.resource().2 == plural).unwrap();
        ok(json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn delete(&mut self, at: &Place, body: &[u8]) -> Answer {
        let Some(stored) = self.objects.get(at) else { return refuse(404, "NotFound", "not found") };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        let meta = &stored.object["metadata"];
        for key in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][key];
            if !wanted.is_null() && *wanted != meta[key] {
                return refuse(
                    409,
                    "Conflict",
                    &format!("the {key} in the precondition is not that of the object"),
                );
            }
        }
        if meta["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            let mut stored = stored.clone();
            stored.object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            return self.store(at.clone(), stored);
        }
        self.objects.remove(at);
        ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn store(&mut self, at: Place, mut stored: Stored) -> Answer {
        self.version += 1;
        let version = self.version.to_string();
        let uid = self.objects.get(&at).map_or_else(
            || format!("uid-{version}"),
            |before| before.object["metadata"]["uid"].as_str().unwrap().to_owned(),
        );
        stored.object["metadata"]["uid"] = uid.into();
        stored.object["metadata"]["resourceVersion"] = version.into();
        stored.managers.retain(|_, fields| !fields.is_empty());
        let shown = stored.shown();
        self.objects.insert(at, stored);
        ok(shown)
    }

    fn apply(&mut self, at: Place, manifest: Value, manager: String, force: bool) -> Answer {
        if let Err(problem) = fits(&at.0, &manifest) {
            return refuse(400, "BadRequest", &problem);
        }
        if let Some(namespace) = &at.1
            && !self.objects.contains_key(&("namespaces".into(), None, namespace.clone()))
        {
            return refuse(404, "NotFound", &format!("namespaces {namespace:?} not found"));
        }
        let me = (manager, "Apply");
        let wanted = fields(&manifest);
        let before = self.objects.get(&at).cloned();
        let mut stored = before.clone().unwrap_or_else(|| {
            let name = json!({"name": at.2, "namespace": at.1});
            Stored {
                object: json!({"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": name}),
                managers: BTreeMap::new(),
            }
        });
        let now = fields(&stored.object);
        let mut causes = Vec::new();
        for (path, value) in &wanted {
            let changes = now.get(path).is_some_and(|now| now != value);
            for (other, theirs) in stored.managers.iter_mut().filter(|(other, _)| **other != me) {
                if changes && theirs.contains(path) {
                    if force {
                        theirs.remove(path);
                    } else {
                        let message = format!("conflict with \"{}\" using v1", other.0);
                        let field = path.replace('/', ".").replace("~1", "/");
                        causes.push(
                            json!({"reason": "FieldManagerConflict", "message": message, "field": field}),
                        );
                    }
                }
            }
        }
        if !causes.is_empty() {
            let mut answer = refuse(409, "Conflict", "Apply failed with conflicts");
            answer.body["details"] = json!({"causes": causes});
            return answer;
        }
        let mine = stored.managers.insert(me.clone(), wanted.keys().cloned().collect()).unwrap_or_default();
        for path in mine.iter().filter(|path| !wanted.contains_key(*path)) {
            if !stored.managers.values().any(|fields| fields.contains(path)) {
                set(&mut stored.object, path, None);
            }
        }
        for (path, value) in wanted {
            set(&mut stored.object, &path, Some(value));
        }
        if let Some(before) = &before {
            // Both have to be there, and neither can be changed.
            let kind = |object: &Value| object["type"].as_str().unwrap_or("Opaque").to_owned();
            if before.object["roleRef"] != stored.object["roleRef"] {
                return refuse(422, "Invalid", "roleRef: Invalid value: cannot change roleRef");
            }
            if kind(&before.object) != kind(&stored.object) {
                return refuse(422, "Invalid", "type: Invalid value: field is immutable");
            }
        }
        match before {
            // What changes nothing is no write.
            Some(before) if before.object == stored.object && before.managers == stored.managers => {
                ok(before.shown())
            }
            _ => self.store(at, stored),
        }
    }

    /// As `kubectl edit` writes: whatever changes is the writer's from then on.
    fn merge(&mut self, at: Place, patch: &Value, manager: String) -> Answer {
        let mut stored = self.objects.get(&at).cloned().unwrap_or_else(|| Stored {
            object: json!({"metadata": {"name": at.2, "namespace": at.1}}),
            managers: BTreeMap::new(),
        });
        let before = fields(&stored.object);
        merge(&mut stored.object, patch);
        let is_gone = |meta: &Value| {
            !meta["deletionTimestamp"].is_null() && meta["finalizers"].as_array().is_none_or(Vec::is_empty)
        };
        if is_gone(&stored.object["metadata"]) {
            self.objects.remove(&at);
            return ok(stored.shown());
        }
        let after = fields(&stored.object);
        let changed: BTreeSet<String> = before
            .keys()
            .chain(after.keys())
            .filter(|path| before.get(*path) != after.get(*path))
            .cloned()
            .collect();
        for theirs in stored.managers.values_mut() {
            theirs.retain(|path| !changed.contains(path));
        }
        let left = changed.into_iter().filter(|path| after.contains_key(path));
        stored.managers.entry((manager, "Update")).or_default().extend(left);
        self.store(at, stored)
    }
}

impl Stored {
    fn shown(&self) -> Value {
        let entries = self.managers.iter().map(|((manager, operation), paths)| {
            let mut tree = json!({});
            for path in paths {
                // The cluster keeps a role reference and each list as one.
                let path = if path.starts_with("/roleRef/") { "/roleRef" } else { path };
                let mut at = &mut tree;
                for part in path.split('/').skip(1) {
                    let part = format!("f:{}", part.replace("~1", "/").replace("~0", "~"));
                    at = at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
                }
            }
            json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": tree})
        });
        let mut object = self.object.clone();
        object["metadata"]["managedFields"] = entries.collect();
        object
    }
}

fn set(object: &mut Value, path: &str, value: Option<Value>) {
    let parts: Vec<String> =
        path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    let (last, above) = parts.split_last().unwrap();
    let mut at = object;
    for part in above {
        at = at.as_object_mut().unwrap().entry(part.clone()).or_insert_with(|| json!({}));
    }
    let at = at.as_object_mut().unwrap();
    match value {
        Some(value) => drop(at.insert(last.clone(), value)),
        None => drop(at.remove(last)),
    }
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    for (key, value) in patch {
        let object = object.as_object_mut().unwrap();
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Whether a manifest is one of its kind, with no field that Kubernetes does not know.
fn fits(plural: &str, manifest: &Value) -> Result<(), String> {
    fn same<T: DeserializeOwned + Serialize>(manifest: &Value) -> Result<(), String> {
        let typed: T = serde_json::from_value(manifest.clone()).map_err(|error| error.to_string())?;
        let back = serde_json::to_value(typed).map_err(|error| error.to_string())?;
        let unknown: Vec<_> = fields(manifest)
            .into_iter()
            .filter(|(path, value)| fields(&back).get(path) != Some(value))
            .collect();
        if unknown.is_empty() { Ok(()) } else { Err(format!("unknown fields: {unknown:?}")) }
    }
    match plural {
        "namespaces" => same::<Namespace>(manifest),
        "configmaps" => same::<ConfigMap>(manifest),
        "secrets" => same::<Secret>(manifest),
        "resourcequotas" => same::<ResourceQuota>(manifest),
        "roles" => same::<Role>(manifest),
        "rolebindings" => same::<RoleBinding>(manifest),
        "clusterroles" => same::<ClusterRole>(manifest),
        "clusterrolebindings" => same::<ClusterRoleBinding>(manifest),
        _ => Ok(()),
    }
}
