//! A stand-in for an API server: lists with pages, server-side apply with managed fields and conflicts, merge patches,
//! deletion with preconditions, and whatever goes wrong on a network. What it is sent must fit the types of
//! Kubernetes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use roster::cluster::{Kind, fields};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// Plural, namespace, name.
pub(crate) type Place = (String, Option<String>, String);

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wrong {
    /// It is answered with this code.
    Code(u16),
    /// It is to come back after so many seconds.
    Later(u64),
    /// The connection ends without an answer.
    Close,
    /// The answer stops in the middle.
    Cut,
    /// There never is an answer.
    Hang,
}

#[derive(Debug)]
struct Fault {
    /// `GET /api/v1/namespaces`, or a part of it.
    of: String,
    /// The requests before it that are answered.
    after: usize,
    times: usize,
    wrong: Wrong,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Place, Stored>,
    version: u64,
    token: String,
    has_cert_manager: bool,
    requests: Vec<String>,
    faults: Vec<Fault>,
    busy: usize,
    busiest: usize,
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
    /// Where it listens.
    pub(crate) port: u16,
}

struct Answer {
    code: u16,
    body: Value,
    after: Option<u64>,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { token: token.into(), ..State::default() };
        let server = StandIn { state: Arc::new(Mutex::new(state)), port };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || drop(server.connection(&stream)));
            }
        });
        server
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

    /// The next `times` requests that `of` is a part of go wrong, after the first `after`.
    pub(crate) fn wrong(&self, of: &str, after: usize, times: usize, wrong: Wrong) {
        self.state().faults.push(Fault { of: of.into(), after, times, wrong });
    }

    /// The requests since the last call, as `GET /api/v1/namespaces?limit=500`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// How many requests were under way at the same time, at most.
    pub(crate) fn busiest(&self) -> usize {
        self.state().busiest
    }

    /// It accepts another token from now on.
    pub(crate) fn accept(&self, token: &str) {
        self.state().token = token.into();
    }

    /// cert-manager is installed.
    pub(crate) fn install_cert_manager(&self) {
        self.state().has_cert_manager = true;
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

    fn connection(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream.try_clone()?;
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((key, value)) = line.trim().split_once(':') else { break };
                headers.insert(key.to_ascii_lowercase(), value.trim().to_owned());
            }
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let mut words = first.split_whitespace();
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let wrong = {
                let mut state = self.state();
                state.requests.push(format!("{method} {target}"));
                state.busy += 1;
                state.busiest = state.busiest.max(state.busy);
                state.next_fault(&format!("{method} {target}"))
            };
            let answer = match wrong {
                Some(Wrong::Code(code)) => refuse(code, "Injected", "this was injected"),
                Some(Wrong::Later(seconds)) => {
                    Answer { after: Some(seconds), ..refuse(429, "TooManyRequests", "too many requests") }
                }
                Some(Wrong::Hang) => {
                    std::thread::sleep(Duration::from_secs(600));
                    return Ok(());
                }
                Some(Wrong::Close) => {
                    self.state().busy -= 1;
                    return stream.shutdown(Shutdown::Both);
                }
                Some(Wrong::Cut) | None => self.state().answer(method, target, &headers, &body),
            };
            let text = answer.body.to_string();
            let after = answer.after.map_or_else(String::new, |after| format!("retry-after: {after}\r\n"));
            let head = format!(
                "HTTP/1.1 {} X\r\ncontent-type: application/json\r\n{after}content-length: {}\r\n\r\n",
                answer.code,
                text.len()
            );
            self.state().busy -= 1;
            writer.write_all(head.as_bytes())?;
            if wrong == Some(Wrong::Cut) {
                writer.write_all(&text.as_bytes()[..text.len() / 2])?;
                return stream.shutdown(Shutdown::Both);
            }
            writer.write_all(text.as_bytes())?;
        }
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
    fn next_fault(&mut self, request: &str) -> Option<Wrong> {
        let fault = self.faults.iter_mut().find(|fault| request.contains(&fault.of) && fault.times > 0)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.wrong)
    }

    fn answer(
        &mut self,
        method: &str,
        target: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Answer {
        if headers.get("authorization") != Some(&format!("Bearer {}", self.token)) {
            return refuse(401, "Unauthorized", "Unauthorized");
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
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
        ok(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
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
            if changes && path.starts_with("/roleRef/") {
                return refuse(422, "Invalid", "roleRef: Invalid value: cannot change roleRef");
            }
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
        "resourcequotas" => same::<ResourceQuota>(manifest),
        "roles" => same::<Role>(manifest),
        "rolebindings" => same::<RoleBinding>(manifest),
        "clusterroles" => same::<ClusterRole>(manifest),
        "clusterrolebindings" => same::<ClusterRoleBinding>(manifest),
        _ => Ok(()),
    }
}
