//! A stand-in for a Vault: policies, identities, roles, keys, KV version 2 with check-and-set, and three ways to log in. Or a
//! real one behind the same face, where one is named: see [`RealVault`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Map, Value, json};

use super::real_vault::{RealVault, Turn};
use super::server::{Answer, Asked, Server};

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Seconds that are left of each, and whether it can be renewed.
    pub(crate) tokens: BTreeMap<String, (u64, bool)>,
    pub(crate) namespace: Option<String>,
    pub(crate) policies: BTreeMap<String, String>,
    /// By id.
    pub(crate) entities: BTreeMap<String, Value>,
    pub(crate) roles: BTreeMap<String, Value>,
    pub(crate) keys: BTreeSet<String>,
    /// Version and fields; none where the newest version is deleted.
    pub(crate) secrets: BTreeMap<String, (u64, Option<Map<String, Value>>)>,
    /// How often somebody else writes to a secret right before we do.
    pub(crate) meddle: usize,
    /// Without the method by which people log in.
    pub(crate) has_no_people: bool,
    made: usize,
}

/// The server. It runs until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct VaultStandIn {
    state: Arc<Mutex<State>>,
    server: Server,
    real: Option<(RealVault, Arc<Turn>)>,
}

/// What there is, to look at and to change.
pub(crate) struct Held<'s> {
    state: MutexGuard<'s, State>,
    /// A real one, and what was there.
    real: Option<(&'s RealVault, State)>,
}

impl std::ops::Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some((real, before)) = &self.real {
            self.state.write_to(real, before);
        }
    }
}

impl std::ops::Deref for VaultStandIn {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// What the people's mount is called inside.
pub(crate) const ACCESSOR: &str = "auth_oidc_1a2b";
/// How long a token lives that is made here.
const LIFE: u64 = 3600;

impl VaultStandIn {
    /// Starts one that accepts `token`, which does not end; or takes the real one, where one is named.
    pub(crate) fn start(token: &str) -> VaultStandIn {
        let Some(mut real) = RealVault::named() else { return VaultStandIn::pretended(token) };
        let turn = Arc::new(Turn::take());
        real.empty();
        let (state, ours) = (Arc::<Mutex<State>>::default(), token.to_owned());
        let (kept, server) = (Arc::clone(&state), real.clone());
        let server = Server::start(move |asked| {
            let secret = asked.target.strip_prefix("/v1/secret/data/").filter(|_| asked.method == "POST");
            let mut state = kept.lock().unwrap();
            if let Some(path) = secret.filter(|_| state.meddle > 0) {
                state.meddle -= 1;
                let mut now = State::default();
                now.read_from(&server);
                let before = now.clone();
                let found = now.secrets.get(path).cloned();
                let version = found.as_ref().map_or(0, |(version, _)| *version) + 1;
                now.secrets.insert(path.to_owned(), meddled(version, found));
                now.write_to(&server, &before);
            }
            let token = asked.headers.get("x-vault-token").map(String::as_str);
            let (code, body) = server.pass_on(asked.method, asked.target, token, &ours, asked.body);
            Answer { code, body, after: None }
        });
        VaultStandIn { state, server, real: Some((real, turn)) }
    }

    /// A token that lives for so long.
    pub(crate) fn hand_out(&self, seconds: u64) -> String {
        match &self.real {
            Some((real, _)) => real.hand_out(seconds),
            None => {
                self.state().tokens.insert("hunter2-short".into(), (seconds, true));
                "hunter2-short".into()
            }
        }
    }

    /// It lets in who has `the-role` and `hunter2-secret`.
    pub(crate) fn let_in_by_approle(&self) {
        if let Some((real, _)) = &self.real {
            real.let_in_by_approle();
        }
    }

    /// How many tokens there are.
    pub(crate) fn count_tokens(&self) -> usize {
        match &self.real {
            Some((real, _)) => real.list("auth/token/accessors").len(),
            None => self.state().tokens.len(),
        }
    }

    /// Starts one for what a real one cannot be brought to show, and says so where one is named.
    pub(crate) fn start_without_real(token: &str, what: &str) -> VaultStandIn {
        use std::io::Write;
        if RealVault::named().is_some() {
            let _ = writeln!(
                std::io::stderr(),
                "NOT SHOWN by the server that is named, but by the stand-in: {what}"
            );
        }
        VaultStandIn::pretended(token)
    }

    fn pretended(token: &str) -> VaultStandIn {
        let state = State { tokens: BTreeMap::from([(token.into(), (0, false))]), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let kept = Arc::clone(&state);
        let server = Server::start(move |asked| kept.lock().unwrap().answer(asked));
        VaultStandIn { state, server, real: None }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn state(&self) -> Held<'_> {
        let mut state = self.state.lock().unwrap();
        let real = self.real.as_ref().map(|(real, _)| {
            state.read_from(real);
            (real, state.clone())
        });
        Held { state, real }
    }

    /// Everything there is, one thing a line.
    pub(crate) fn shown(&self) -> String {
        let state = self.state();
        let list = |value: &Value| {
            let all: Vec<_> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            all.join(" ")
        };
        let mut lines: Vec<String> = state.policies.keys().map(|name| format!("policy {name}")).collect();
        // Which was made first is chance: several are under way.
        let mut entities: Vec<&Value> = state.entities.values().collect();
        entities.sort_by_key(|entity| entity["name"].as_str());
        for entity in entities {
            let aliases = entity["aliases"].as_array().unwrap();
            let alias = aliases.first().map_or("nobody", |alias| alias["name"].as_str().unwrap());
            let line = format!(
                "entity {} ({alias}): {}",
                entity["name"].as_str().unwrap(),
                list(&entity["policies"])
            );
            lines.push(line.trim_end().to_owned());
        }
        lines.extend(state.roles.iter().map(|(name, role)| {
            let [names, namespaces] =
                ["names", "namespaces"].map(|key| list(&role[format!("bound_service_account_{key}")]));
            format!(
                "role {name}: {namespaces}/{names} gets {} for {} s",
                list(&role["token_policies"]),
                role["token_ttl"]
            )
        }));
        lines.extend(state.keys.iter().map(|name| format!("key {name}")));
        lines.extend(
            state
                .secrets
                .iter()
                .map(|(path, (version, fields))| format!("secret {path} v{version}: {}", json!(fields))),
        );
        lines.join("\n")
    }

    /// An entity as Vault makes it up for whoever logs in for the first time.
    pub(crate) fn log_in(&self, alias: &str, policies: &[&str]) {
        let mut state = self.state();
        let id = state.next_id();
        let accessor = self.real.as_ref().map_or_else(|| ACCESSOR.to_owned(), |(real, _)| real.accessor());
        let entity = json!({
            "id": id, "name": format!("entity_{id}"), "policies": policies, "metadata": null,
            "aliases": [{"id": "a", "name": alias, "mount_accessor": accessor, "canonical_id": id}],
        });
        state.entities.insert(id, entity);
    }

    /// Somebody logs in by another mount as the entity that has this name, or that the people's mount knows so.
    pub(crate) fn log_in_elsewhere(&self, known: &str, as_whom: &str) {
        let mut state = self.state();
        let is_known = |entity: &&mut Value| {
            let aliases = entity["aliases"].as_array().unwrap();
            entity["name"] == known || aliases.iter().any(|alias| alias["name"] == known)
        };
        let entity = state.entities.values_mut().find(is_known).unwrap();
        let mut alias =
            json!({"name": as_whom, "canonical_id": entity["id"], "mount_accessor": "auth_approle_1"});
        if let Some((real, _)) = &self.real {
            let mounts = real.ok("GET", "sys/auth", &Value::Null);
            alias["mount_accessor"] = mounts["approle/"]["accessor"].clone();
            real.ok("POST", "identity/entity-alias", &alias);
        } else {
            alias["mount_path"] = "auth/approle/".into();
            entity["aliases"].as_array_mut().unwrap().push(alias);
        }
    }
}

fn ok(data: Value) -> Answer {
    Answer { code: 200, body: json!({"request_id": "1", "data": data}), after: None }
}

fn done() -> Answer {
    Answer { code: 204, body: Value::Null, after: None }
}

fn refuse(code: u16, errors: &[&str]) -> Answer {
    Answer { code, body: json!({"errors": errors}), after: None }
}

fn keys<'k>(keys: impl Iterator<Item = &'k String>) -> Answer {
    let keys: Vec<_> = keys.cloned().collect();
    if keys.is_empty() { refuse(404, &[]) } else { ok(json!({"keys": keys})) }
}

/// What somebody else has made of a secret.
fn meddled(
    version: u64,
    found: Option<(u64, Option<Map<String, Value>>)>,
) -> (u64, Option<Map<String, Value>>) {
    let mut fields = found.and_then(|(_, fields)| fields).unwrap_or_default();
    let mut list: Value = fields
        .get("k8s_users")
        .map_or_else(|| json!({}), |text| serde_json::from_str(text.as_str().unwrap()).unwrap());
    list[format!("other-{version}")] = json!({"role": "power-user"});
    fields.insert("k8s_users".into(), list.to_string().into());
    (version, Some(fields))
}

/// Who is known by an alias.
fn held(entities: &BTreeMap<String, Value>, alias: &Value, accessor: &Value) -> Option<Value> {
    let has = |entity: &&Value| {
        let aliases = entity["aliases"].as_array().unwrap();
        aliases.iter().any(|one| one["name"] == *alias && one["mount_accessor"] == *accessor)
    };
    entities.values().find(has).cloned()
}

impl State {
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("id-{:04}", self.made)
    }

    fn answer(&mut self, asked: &Asked<'_>) -> Answer {
        let (path, query) = asked.target.split_once('?').unwrap_or((asked.target, ""));
        let method = if query == "list=true" { "LIST" } else { asked.method };
        let path = path.strip_prefix("/v1/").unwrap().replace("%40", "@").replace("%2B", "+");
        let body: Value = serde_json::from_slice(asked.body).unwrap_or_default();
        if asked.headers.get("x-vault-namespace") != self.namespace.as_ref() {
            return refuse(404, &["no handler for route"]);
        }
        if let ("POST", Some(mount)) =
            (method, path.strip_prefix("auth/").and_then(|p| p.strip_suffix("/login")))
        {
            return self.log_in_by(mount, &body);
        }
        let token = asked.headers.get("x-vault-token").cloned().unwrap_or_default();
        let Some(&(ttl, renewable)) = self.tokens.get(&token) else {
            return refuse(403, &["permission denied", "invalid token"]);
        };
        let parts: Vec<&str> = path.split('/').collect();
        match (method, &parts[..]) {
            ("GET", ["auth", "token", "lookup-self"]) => {
                let creation = if ttl == 0 { 0 } else { LIFE };
                ok(json!({"ttl": ttl, "creation_ttl": creation, "renewable": renewable}))
            }
            ("POST", ["auth", "token", "renew-self"]) => {
                self.tokens.insert(token, (LIFE, true));
                ok(Value::Null)
            }
            ("POST", ["auth", "token", "revoke-self"]) => {
                self.tokens.remove(&token);
                done()
            }
            ("GET", ["sys", "auth"]) => {
                let mut mounts = json!({"token/": {"accessor": "auth_token_1", "type": "token"}});
                if !self.has_no_people {
                    mounts["oidc/"] = json!({"accessor": ACCESSOR, "type": "oidc"});
                }
                ok(mounts)
            }
            ("LIST", ["sys", "policies", "acl"]) => {
                let builtin = ["default".to_owned(), "root".to_owned()];
                keys(builtin.iter().chain(self.policies.keys()))
            }
            ("GET", ["sys", "policies", "acl", name]) => match self.policies.get(*name) {
                Some(text) => ok(json!({"name": name, "policy": text})),
                None => refuse(404, &[]),
            },
            ("POST", ["sys", "policies", "acl", name]) => {
                self.policies.insert((*name).to_lowercase(), body["policy"].as_str().unwrap().to_owned());
                done()
            }
            ("DELETE", ["sys", "policies", "acl", name]) => {
                self.policies.remove(*name);
                done()
            }
            (_, ["identity", rest @ ..]) => self.identity(method, rest, &body),
            ("LIST", ["auth", "kubernetes", "role"]) => keys(self.roles.keys()),
            ("GET", ["auth", "kubernetes", "role", name]) => match self.roles.get(*name) {
                Some(role) => ok(role.clone()),
                None => refuse(404, &[]),
            },
            ("POST", ["auth", "kubernetes", "role", name]) => {
                let role = self.roles.entry((*name).to_owned()).or_insert_with(|| json!({"audience": ""}));
                for (key, value) in body.as_object().unwrap() {
                    role[key] = value.clone();
                }
                done()
            }
            ("DELETE", ["auth", "kubernetes", "role", name]) => {
                self.roles.remove(*name);
                done()
            }
            ("LIST", ["transit", "keys"]) => keys(self.keys.iter()),
            ("POST", ["transit", "keys", name]) => {
                self.keys.insert((*name).to_owned());
                done()
            }
            (_, ["secret", "data", rest @ ..]) => self.secret(method, &rest.join("/"), &body),
            _ => refuse(405, &["unsupported operation"]),
        }
    }

    fn log_in_by(&mut self, mount: &str, body: &Value) -> Answer {
        let fits = match mount {
            "approle" => *body == json!({"role_id": "the-role", "secret_id": "hunter2-secret"}),
            "kubernetes" => *body == json!({"role": "rosterd", "jwt": "hunter2-jwt"}),
            _ => return refuse(404, &["no handler for route"]),
        };
        if !fits {
            return refuse(400, &["invalid role or secret ID"]);
        }
        let token = format!("hunter2-{}", self.next_id());
        self.tokens.insert(token.clone(), (LIFE, true));
        Answer {
            code: 200,
            body: json!({"auth": {"client_token": token, "lease_duration": LIFE}}),
            after: None,
        }
    }

    fn identity(&mut self, method: &str, path: &[&str], body: &Value) -> Answer {
        let named = |entities: &BTreeMap<String, Value>, name: &str| {
            entities.values().find(|entity| entity["name"] == name).cloned()
        };
        match (method, path) {
            ("LIST", ["entity", "id"]) if self.entities.is_empty() => refuse(404, &[]),
            ("LIST", ["entity", "id"]) => {
                let info = |(id, entity): (&String, &Value)| {
                    (id.clone(), json!({"name": entity["name"], "aliases": entity["aliases"]}))
                };
                let info: Map<String, Value> = self.entities.iter().map(info).collect();
                ok(json!({"keys": self.entities.keys().collect::<Vec<_>>(), "key_info": info}))
            }
            ("GET", ["entity", "id", id]) => match self.entities.get(*id) {
                Some(entity) => ok(entity.clone()),
                None => refuse(404, &[]),
            },
            ("GET", ["entity", "name", name]) => match named(&self.entities, name) {
                Some(entity) => ok(entity),
                None => refuse(404, &[]),
            },
            ("POST", ["entity"]) => {
                if let Some(found) = named(&self.entities, body["name"].as_str().unwrap()) {
                    let id = found["id"].as_str().unwrap().to_owned();
                    self.entities.get_mut(&id).unwrap()["policies"] = body["policies"].clone();
                    return done();
                }
                let id = self.next_id();
                let entity = json!({
                    "id": id, "name": body["name"], "policies": body["policies"], "metadata": body["metadata"],
                    "aliases": [],
                });
                self.entities.insert(id.clone(), entity);
                ok(json!({"id": id, "name": body["name"], "aliases": null}))
            }
            ("POST", ["entity", "id", id]) => {
                let Some(entity) = self.entities.get_mut(*id) else { return refuse(404, &[]) };
                entity["policies"] = body["policies"].clone();
                done()
            }
            ("POST", ["entity-alias"]) => self.alias(body),
            ("POST", ["lookup", "entity"]) => {
                let found = match body["name"].as_str() {
                    Some(name) => named(&self.entities, name),
                    None => held(&self.entities, &body["alias_name"], &body["alias_mount_accessor"]),
                };
                match found {
                    Some(entity) => ok(entity),
                    None => done(),
                }
            }
            _ => refuse(405, &["unsupported operation"]),
        }
    }

    /// An alias has one entity, and an entity one alias of a mount. Posted again, it is left as it is, or moves to the
    /// entity that is named now.
    fn alias(&mut self, body: &Value) -> Answer {
        let (name, accessor) = (&body["name"], &body["mount_accessor"]);
        let Some(id) = body["canonical_id"].as_str().filter(|id| self.entities.contains_key(*id)) else {
            return refuse(400, &["invalid canonical ID"]);
        };
        if accessor != ACCESSOR {
            return refuse(400, &[&format!("invalid mount accessor {accessor}")]);
        }
        let holder =
            held(&self.entities, name, accessor).map(|entity| entity["id"].as_str().unwrap().to_owned());
        if holder.as_deref() == Some(id) {
            return done();
        }
        fn aliases(entity: &mut Value) -> &mut Vec<Value> {
            entity["aliases"].as_array_mut().unwrap()
        }
        let entity = self.entities.get_mut(id).unwrap();
        if aliases(entity).iter().any(|alias| alias["mount_accessor"] == *accessor) {
            return refuse(400, &["Alias already exists for requested entity and mount accessor"]);
        }
        let alias = json!({"id": format!("alias-{id}"), "name": name, "mount_accessor": accessor});
        aliases(entity).push(alias);
        if let Some(holder) = holder {
            aliases(self.entities.get_mut(&holder).unwrap()).retain(|alias| alias["name"] != *name);
        }
        ok(json!({"id": format!("alias-{id}"), "canonical_id": id}))
    }

    fn secret(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let found = self.secrets.get(path).cloned();
        match (method, found) {
            ("GET", None) => refuse(404, &[]),
            ("GET", Some((version, None))) => {
                let metadata = json!({"version": version, "deletion_time": "2026-01-01T00:00:00Z"});
                Answer { code: 404, body: json!({"data": {"data": null, "metadata": metadata}}), after: None }
            }
            ("GET", Some((version, Some(fields)))) => {
                ok(json!({"data": fields, "metadata": {"version": version, "deletion_time": ""}}))
            }
            ("POST", found) => {
                let mut version = found.as_ref().map_or(0, |(version, _)| *version);
                if self.meddle > 0 {
                    self.meddle -= 1;
                    version += 1;
                    self.secrets.insert(path.to_owned(), meddled(version, found));
                }
                if body["options"]["cas"] != version {
                    return refuse(400, &["check-and-set parameter did not match the current version"]);
                }
                let fields = body["data"].as_object().unwrap().clone();
                self.secrets.insert(path.to_owned(), (version + 1, Some(fields)));
                ok(json!({"version": version + 1}))
            }
            _ => refuse(405, &["unsupported operation"]),
        }
    }
}

/// To and from a real one.
impl State {
    fn read_from(&mut self, real: &RealVault) {
        let get = |path: String| real.ok("GET", &path, &Value::Null);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let policy = |name: String| (name.clone(), text(&get(format!("sys/policies/acl/{name}"))["policy"]));
        self.policies = real.policies().into_iter().map(policy).collect();
        let entities = real.list("identity/entity/id").into_iter();
        self.entities = entities.map(|id| (id.clone(), get(format!("identity/entity/id/{id}")))).collect();
        let roles = real.list("auth/kubernetes/role").into_iter();
        self.roles = roles.map(|name| (name.clone(), get(format!("auth/kubernetes/role/{name}")))).collect();
        self.keys = real.list("transit/keys").into_iter().collect();
        let secret = |path: String| {
            let (_, said) = real.call("GET", &format!("secret/data/{path}"), &Value::Null);
            let version = said["data"]["metadata"]["version"].as_u64().unwrap();
            (path, (version, said["data"]["data"].as_object().cloned()))
        };
        self.secrets = real.list("secret/metadata").into_iter().map(secret).collect();
    }

    /// Writes what differs from `before`.
    fn write_to(&self, real: &RealVault, before: &State) {
        let post = |path: &str, body: &Value| real.ok("POST", path, body);
        let delete = |path: &str| real.ok("DELETE", path, &Value::Null);
        if self.has_no_people && !before.has_no_people {
            delete("sys/auth/oidc");
        }
        for (name, text) in &self.policies {
            if before.policies.get(name) != Some(text) {
                post(&format!("sys/policies/acl/{name}"), &json!({"policy": text}));
            }
        }
        for name in before.policies.keys().filter(|name| !self.policies.contains_key(*name)) {
            delete(&format!("sys/policies/acl/{name}"));
        }
        for (id, entity) in
            self.entities.iter().filter(|(id, entity)| before.entities.get(*id) != Some(*entity))
        {
            let said = json!({"name": entity["name"], "policies": entity["policies"]});
            let known = before.entities.contains_key(id);
            let id = match known {
                true => {
                    post(&format!("identity/entity/id/{id}"), &said);
                    json!(id)
                }
                false => post("identity/entity", &said)["id"].clone(),
            };
            for alias in entity["aliases"].as_array().unwrap() {
                let mut said = json!({"name": alias["name"], "mount_accessor": alias["mount_accessor"], "canonical_id": id});
                if known {
                    said["id"] = alias["id"].clone();
                }
                post("identity/entity-alias", &said);
            }
        }
        for (name, role) in self.roles.iter().filter(|(name, role)| before.roles.get(*name) != Some(*role)) {
            post(&format!("auth/kubernetes/role/{name}"), role);
        }
        for name in before.roles.keys().filter(|name| !self.roles.contains_key(*name)) {
            delete(&format!("auth/kubernetes/role/{name}"));
        }
        for name in before.keys.difference(&self.keys) {
            post(&format!("transit/keys/{name}/config"), &json!({"deletion_allowed": true}));
            delete(&format!("transit/keys/{name}"));
        }
        for path in before.secrets.keys().filter(|path| !self.secrets.contains_key(*path)) {
            delete(&format!("secret/metadata/{path}"));
        }
        for (path, (version, fields)) in &self.secrets {
            if before.secrets.get(path).map(|(_, fields)| fields) == Some(fields) {
                continue;
            }
            let said = json!({"data": fields.clone().unwrap_or_default()});
            // Versions go up by one.
            while post(&format!("secret/data/{path}"), &said)["version"].as_u64().unwrap() < *version {}
            if fields.is_none() {
                delete(&format!("secret/data/{path}"));
            }
        }
    }
}
