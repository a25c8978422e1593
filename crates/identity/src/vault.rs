//! Vault, as the worker sees it: logging in, one list for each kind and one read for each thing of ours, and single
//! changes. Decides nothing about what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use roster::plan::VaultAction;
use roster::vault::{
    LoginMethod, Mark, PREFIXES, ROLE_ENDING, ROLE_TTL_S, SeenEntity, SeenRole, Unread, VaultLook,
    VaultObserved, same_policy,
};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::{Server, Trouble, percent};
use crate::protocol::{Access, Failure, Looked};
use crate::tls::Site;

mod people;
mod said;

use said::{aliases_of, instance_of, no_sense, policy, says_nothing_is_there, strings};

const SITE: Site = Site {
    who: "Vault",
    authority: "`ca` of [vault]",
    address: "`address` of [vault]",
    client: "`[vault]` knows no client certificates: let Vault's listener do without them",
};

/// A token with less than this left is told, when it cannot be renewed.
const SOON_S: u64 = 7 * 24 * 3600;

/// A Vault that has let us in.
#[derive(Clone)]
pub(crate) struct Vault {
    server: Server,
    turns: Arc<Semaphore>,
    /// The token was made for this run, so it ends with it.
    is_for_this_run: bool,
    notices: Vec<String>,
}

type Found<T> = Result<T, Trouble>;

impl Vault {
    /// Logs in.
    pub(crate) async fn open(access: &Access, parallel: usize) -> Result<Vault, Failure> {
        let Access::Vault { kubeconfig, namespace, method, mount, role, secret } = access else {
            return Err(Failure::new("this worker is not one for a Vault", "tell the developers of rosterd"));
        };
        let unfit = |why: String| {
            Failure::new(format!("Vault cannot be spoken to: {why}"), "mend `[vault]` in config.toml")
        };
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        if let Some(namespace) = namespace {
            let value = HeaderValue::from_str(namespace).map_err(|error| unfit(error.to_string()))?;
            headers.insert(HeaderName::from_static("x-vault-namespace"), value);
        }
        let server = Server::new(kubeconfig, headers).await.map_err(unfit)?;
        let login = match method {
            LoginMethod::Token => None,
            LoginMethod::Kubernetes => Some(json!({"role": role, "jwt": secret.expose_secret()})),
            LoginMethod::Approle => Some(json!({"role_id": role, "secret_id": secret.expose_secret()})),
        };
        let token: SecretString = match &login {
            None => secret.clone(),
            Some(login) => {
                let path = format!("/v1/auth/{mount}/login");
                let said = server.send(&Method::POST, &path, Some(login), JSON).await;
                let said = said.map_err(|trouble| match trouble {
                    Trouble::Refused(code, said) if code.is_client_error() => Failure::new(
                        format!("Vault does not let us in by {mount}: {}", words(code, &said)),
                        "look at the role and at `vault.login`; its file is read anew for each run",
                    ),
                    trouble => told(trouble, "log in"),
                })?;
                let said: Value = serde_json::from_slice(&said).unwrap_or_default();
                let token = said.pointer("/auth/client_token").and_then(Value::as_str);
                token.ok_or_else(|| unfit("its answer to the login has no token".into()))?.to_owned().into()
            }
        };
        let mut value = HeaderValue::from_str(token.expose_secret())
            .map_err(|_| unfit("the token holds what no token has".into()))?;
        value.set_sensitive(true);
        let server = server.with(HeaderMap::from_iter([(HeaderName::from_static("x-vault-token"), value)]));
        let turns = Arc::new(Semaphore::new(parallel.max(1)));
        let is_for_this_run = login.is_some();
        let mut vault = Vault { server, turns, is_for_this_run, notices: Vec::new() };
        if !is_for_this_run {
            vault.renew().await?;
        }
        Ok(vault)
    }

    /// Renews a token that has lived half of its time, and tells of one that will end.
    async fn renew(&mut self) -> Result<(), Failure> {
        let token: Value = self.read("auth/token/lookup-self").await.map_err(|trouble| match trouble {
            Trouble::Refused(StatusCode::FORBIDDEN, said) => Failure::new(
                format!("Vault does not accept the token: {}", words(StatusCode::FORBIDDEN, &said)),
                "put a new one into the file of `vault.login`, which is read anew for each run; if it is a good one, its policy \
                 lacks what docs/identity.md lists: Vault says the same of both",
            ),
            trouble => told(trouble, "read auth/token/lookup-self"),
        })?;
        let number = |key: &str| token.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (left, whole) = (number("ttl"), number("creation_ttl").max(number("period")));
        if left == 0 || left > whole / 2 {
            return Ok(());
        }
        let is_renewable = token.get("renewable").and_then(Value::as_bool).unwrap_or(false);
        let failed = match is_renewable {
            true => self.write("auth/token/renew-self", &json!({})).await.err(),
            false if left < SOON_S => None,
            false => return Ok(()),
        };
        let why = match failed {
            None if is_renewable => return Ok(()),
            None => "it cannot be renewed".to_owned(),
            Some(trouble) => told(trouble, "renew the token").why,
        };
        let days = Duration::from_secs(left).as_secs() / (24 * 3600);
        self.notices.push(format!("the token for Vault ends in {days} days: {why}"));
        Ok(())
    }

    /// Ends a token that was made for this run.
    pub(crate) async fn close(&self) {
        if self.is_for_this_run {
            // It ends by itself too.
            let _ = self.write("auth/token/revoke-self", &json!({})).await;
        }
    }

    /// What there is of what is asked for, and of ours.
    pub(crate) async fn look(&self, look: &VaultLook) -> Looked {
        let list = async {
            match &look.k8s_users {
                Some(place) => self.list_of_people(place).await,
                None => Ok(None),
            }
        };
        let roles = async {
            match &look.pipelines_mount {
                Some(mount) => self.roles(mount, &look.roles).await,
                None => Ok(BTreeMap::new()),
            }
        };
        let keys = async {
            match &look.transit_mount {
                Some(mount) => self.list(&format!("{mount}/keys")).await,
                None => Ok(BTreeSet::new()),
            }
        };
        let people = async {
            let (policies, accessor) = tokio::join!(self.policies(), self.accessor(&look.people_mount));
            let entities = match &accessor {
                Ok(accessor) => self.entities(look, accessor.as_deref(), policies.as_ref().ok()).await,
                Err(_) => Ok(Vec::new()),
            };
            (policies, accessor, entities)
        };
        let (list, (policies, accessor, entities), roles, keys) = tokio::join!(list, people, roles, keys);
        // In the same words for each part that has the same cause: which part it is, the plan says.
        let unread = |trouble| {
            let Failure { why, next } = match trouble {
                Trouble::Refused(StatusCode::FORBIDDEN, said) => Failure::new(
                    format!("Vault forbids it: {}", words(StatusCode::FORBIDDEN, &said)),
                    "give rosterd's token the policy that docs/identity.md lists, with the mounts that it names",
                ),
                trouble => told(trouble, "look"),
            };
            Unread { why, next }
        };
        let observed = VaultObserved {
            list: list.map_err(unread),
            policies: policies.map_err(unread),
            accessor: accessor.map_err(unread),
            entities: entities.map_err(unread),
            roles: roles.map_err(unread),
            keys: keys.map_err(unread),
        };
        Looked { observed, notices: self.notices.clone() }
    }

    async fn policies(&self) -> Found<BTreeMap<String, String>> {
        let names = self.list("sys/policies/acl").await?;
        let ours = names.into_iter().filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        let read = self.read_each("sys/policies/acl", ours).await?;
        read.into_iter().map(|(name, found)| Ok((name, policy(&found)?.to_owned()))).collect()
    }

    async fn accessor(&self, mount: &str) -> Found<Option<String>> {
        let mounts: Value = self.read("sys/auth").await?;
        // Every Vault has this one.
        mounts.get("token/").ok_or_else(|| no_sense("token/"))?;
        let accessor = mounts.get(format!("{mount}/")).and_then(|mount| mount.get("accessor"));
        Ok(accessor.and_then(Value::as_str).map(str::to_owned))
    }

    async fn entities(
        &self,
        look: &VaultLook,
        accessor: Option<&str>,
        policies: Option<&BTreeMap<String, String>>,
    ) -> Found<Vec<SeenEntity>> {
        let marks: Vec<Mark> =
            policies.iter().flat_map(|all| all.values()).filter_map(|p| Mark::of(p)).collect();
        let small = |text: &str| text.to_lowercase();
        let names: BTreeSet<String> = look
            .entities
            .iter()
            .chain(marks.iter().map(|mark| &mark.entity))
            .map(|name| small(name))
            .collect();
        let aliases: BTreeSet<String> = look
            .aliases
            .iter()
            .chain(marks.iter().filter_map(|mark| mark.alias.as_ref()))
            .map(|alias| small(alias))
            .collect();
        let listed = match self.read::<Value>("identity/entity/id?list=true").await {
            Ok(listed) => listed,
            Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => return Ok(Vec::new()),
            Err(trouble) => return Err(trouble),
        };
        let matters = |entity: &Value| {
            entity.get("name").and_then(Value::as_str).is_some_and(|name| names.contains(&small(name)))
                || aliases_of(entity, accessor).0.iter().any(|alias| aliases.contains(&small(alias)))
        };
        let all = listed.get("key_info").and_then(Value::as_object).ok_or_else(|| no_sense("key_info"))?;
        let wanted = all.into_iter().filter(|(_, entity)| matters(entity));
        let read = self.read_each("identity/entity/id", wanted.map(|(id, _)| id.clone())).await?;
        let seen = |(id, entity): (String, Value)| {
            let (aliases, others) = aliases_of(&entity, accessor);
            let name = entity.get("name").and_then(Value::as_str).ok_or_else(|| no_sense("name"))?.to_owned();
            Ok(SeenEntity { id, name, policies: strings(&entity, "policies")?, aliases, others })
        };
        read.into_iter().map(seen).collect()
    }

    async fn roles(&self, mount: &str, wanted: &BTreeSet<String>) -> Found<BTreeMap<String, SeenRole>> {
        let path = format!("auth/{mount}/role");
        let names = self.list(&path).await?;
        let names = names.into_iter().filter(|name| wanted.contains(name) || name.ends_with(ROLE_ENDING));
        let is_changed = |role: &Value, key: &str, default: &Value| {
            role.get(key).is_some_and(|found| found != default && !found.is_null())
        };
        let seen = |(name, role): (String, Value)| {
            let changed =
                role_defaults().into_iter().filter(|(key, default)| is_changed(&role, key, default));
            let seen = SeenRole {
                names: strings(&role, "bound_service_account_names")?,
                namespaces: strings(&role, "bound_service_account_namespaces")?,
                policies: strings(&role, "token_policies")?,
                ttl_s: role.get("token_ttl").and_then(Value::as_u64).ok_or_else(|| no_sense("token_ttl"))?,
                changed: changed.map(|(key, _)| key.to_owned()).collect(),
            };
            Ok((name, seen))
        };
        self.read_each(&path, names).await?.into_iter().map(seen).collect()
    }

    /// Does one step. Looks again right before, only to refuse.
    pub(crate) async fn apply(&self, action: &VaultAction) -> Result<(), Failure> {
        let meanwhile = || Failure::new("somebody has changed it meanwhile", "the next run looks again");
        let done: Found<()> = match action {
            VaultAction::WritePolicy { name, text } => {
                let path = format!("sys/policies/acl/{}", percent(name));
                let there = match self.read::<Value>(&path).await {
                    Ok(found) => policy(&found).map(|there| Some(there.to_owned())),
                    Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(None),
                    Err(trouble) => Err(trouble),
                };
                match there {
                    // Nobody's may become ours when it allows the same.
                    Ok(Some(there))
                        if instance_of(&there) != instance_of(text)
                            && (instance_of(&there).is_some() || !same_policy(&there, text)) =>
                    {
                        return Err(meanwhile());
                    }
                    Ok(_) => self.write(&path, &json!({"policy": text})).await.map(drop),
                    Err(trouble) => Err(trouble),
                }
            }
            VaultAction::DeletePolicy { name } => {
                self.delete(&format!("sys/policies/acl/{}", percent(name))).await
            }
            VaultAction::MakeEntity { name, policies, alias } => {
                // Posted, one of that name would be somebody else's with our policies, and an alias would move to us.
                if self.is_known(&by_alias(alias)).await? || self.is_known(&json!({"name": name})).await? {
                    return Err(meanwhile());
                }
                self.make_entity(name, policies, alias).await
            }
            VaultAction::AddAlias { id, alias, .. } => {
                if self.is_known(&by_alias(alias)).await? {
                    return Err(meanwhile());
                }
                self.add_alias(id, alias).await
            }
            VaultAction::SetPolicies { id, before, policies, .. } => {
                let path = format!("identity/entity/id/{}", percent(id));
                let there = match self.read::<Value>(&path).await {
                    Ok(found) => strings(&found, "policies").map(Some),
                    Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(None),
                    Err(trouble) => Err(trouble),
                };
                match there {
                    Ok(there) if there.as_ref() != Some(before) => return Err(meanwhile()),
                    Ok(_) => self.write(&path, &json!({"policies": policies})).await.map(drop),
                    Err(trouble) => Err(trouble),
                }
            }
            VaultAction::WriteRole { mount, name, role } => {
                let mut said = json!({
                    "bound_service_account_names": [role.service_account.name],
                    "bound_service_account_namespaces": [role.service_account.namespace],
                    "token_policies": role.policies,
                    "token_ttl": ROLE_TTL_S,
                });
                // What is not said, stays as somebody else has made it.
                for (key, value) in role_defaults() {
                    said[key] = value;
                }
                self.write(&format!("auth/{mount}/role/{}", percent(name)), &said).await.map(drop)
            }
            VaultAction::DeleteRole { mount, name } => {
                self.delete(&format!("auth/{mount}/role/{}", percent(name))).await
            }
            VaultAction::MakeKey { mount, name } => {
                let key = json!({"type": "aes256-gcm96"});
                self.write(&format!("{mount}/keys/{}", percent(name)), &key).await.map(drop)
            }
            VaultAction::Publish { place, entries } => return self.publish(place, entries).await,
        };
        done.map_err(|trouble| told(trouble, &action.to_string()))
    }

    /// Whether Vault knows somebody so.
    async fn is_known(&self, asked: &Value) -> Result<bool, Failure> {
        let said = self.write("identity/lookup/entity", asked).await;
        let said = said.and_then(|said| match said.pointer("/data/id") {
            None if said.is_null() => Ok(false),
            None => Err(no_sense("id")),
            Some(_) => Ok(true),
        });
        said.map_err(|trouble| told(trouble, "identity/lookup/entity"))
    }

    async fn make_entity(
        &self,
        name: &str,
        policies: &BTreeSet<String>,
        alias: &(String, String),
    ) -> Found<()> {
        let entity = json!({"name": name, "policies": policies, "metadata": {"managed-by": "rosterd"}});
        let made = self.write("identity/entity", &entity).await?;
        let id = made.pointer("/data/id").and_then(Value::as_str).map(str::to_owned);
        let id = match id {
            Some(id) => id,
            // Where an answer was lost and it was there at the second try, Vault has nothing to say.
            None => {
                let found: Value = self.read(&format!("identity/entity/name/{}", percent(name))).await?;
                let id = found.get("id").and_then(Value::as_str);
                id.ok_or_else(|| Trouble::NoAnswer("the new entity has no id".into()))?.to_owned()
            }
        };
        self.add_alias(&id, alias).await.map(drop)
    }

    async fn add_alias(&self, id: &str, (accessor, name): &(String, String)) -> Found<()> {
        let alias = json!({"name": name, "canonical_id": id, "mount_accessor": accessor});
        self.write("identity/entity-alias", &alias).await.map(drop)
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Found<T> {
        #[derive(serde::Deserialize)]
        struct Whole<T> {
            data: T,
        }
        let said = self.server.get::<Whole<T>>(&format!("/v1/{path}")).await.map(|whole| whole.data);
        said.map_err(|trouble| match trouble {
            // A mount that is gone, or a proxy, says that too, and then nothing is known.
            Trouble::Refused(StatusCode::NOT_FOUND, said) if !says_nothing_is_there(&said) => {
                let why = words(StatusCode::NOT_FOUND, &said);
                Trouble::NoAnswer(format!("asked for {path}, it says: {why}"))
            }
            trouble => trouble,
        })
    }

    /// The names in a folder; none when there is nothing in it.
    async fn list(&self, path: &str) -> Found<BTreeSet<String>> {
        match self.read::<Value>(&format!("{path}?list=true")).await {
            Ok(data) => strings(&data, "keys"),
            Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(BTreeSet::new()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Reads several things of a folder, some at a time. What is gone meanwhile is left out.
    async fn read_each(
        &self,
        folder: &str,
        names: impl Iterator<Item = String>,
    ) -> Found<BTreeMap<String, Value>> {
        let mut reads = JoinSet::new();
        for name in names {
            let (vault, path) = (self.clone(), format!("{folder}/{}", percent(&name)));
            reads.spawn(async move {
                let _turn = vault.turns.acquire().await;
                (name, vault.read::<Value>(&path).await)
            });
        }
        let mut all = BTreeMap::new();
        while let Some(read) = reads.join_next().await {
            match read.map_err(|error| Trouble::NoAnswer(error.to_string()))? {
                (name, Ok(value)) => drop(all.insert(name, value)),
                (_, Err(Trouble::Refused(StatusCode::NOT_FOUND, _))) => {}
                (_, Err(trouble)) => return Err(trouble),
            }
        }
        Ok(all)
    }

    /// What is answered; null where that is nothing.
    async fn write(&self, path: &str, body: &(dyn Display + Sync)) -> Found<Value> {
        let said = self.server.send(&Method::POST, &format!("/v1/{path}"), Some(body), JSON).await?;
        match said.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&said)
                .map_err(|error| Trouble::NoAnswer(format!("its answer makes no sense: {error}"))),
        }
    }

    async fn delete(&self, path: &str) -> Found<()> {
        match self.server.send(&Method::DELETE, &format!("/v1/{path}"), None, JSON).await {
            Ok(_) | Err(Trouble::Refused(StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }
}

const JSON: &str = "application/json";

fn by_alias((accessor, name): &(String, String)) -> Value {
    json!({"alias_name": name, "alias_mount_accessor": accessor})
}

/// What else a role says, and what Vault takes where nobody has said it.
fn role_defaults() -> [(&'static str, Value); 10] {
    [
        ("alias_name_source", json!("serviceaccount_uid")),
        ("audience", json!("")),
        ("bound_service_account_namespace_selector", json!("")),
        ("token_bound_cidrs", json!([])),
        ("token_explicit_max_ttl", json!(0)),
        ("token_max_ttl", json!(0)),
        ("token_no_default_policy", json!(false)),
        ("token_num_uses", json!(0)),
        ("token_period", json!(0)),
        ("token_type", json!("default")),
    ]
}

/// What Vault says went wrong.
fn words(code: StatusCode, said: &[u8]) -> String {
    let said: Value = serde_json::from_slice(said).unwrap_or_default();
    let errors: Vec<String> = strings(&said, "errors").unwrap_or_default().into_iter().collect();
    if errors.is_empty() { code.to_string() } else { errors.join("; ") }
}

fn told(trouble: Trouble, doing: &str) -> Failure {
    match trouble {
        Trouble::Untrusted(flaw) => flaw.told(&SITE),
        Trouble::TooBig => Failure::new(
            format!("Vault's answer is bigger than any that makes sense (to: {doing})"),
            "look whether what `address` in [vault] names is a Vault",
        ),
        Trouble::NoAnswer(why) => Failure::new(
            format!("Vault gives no answer that can be used: {why}"),
            "look whether it is up and can be reached from here; tried again by itself",
        ),
        Trouble::Refused(StatusCode::FORBIDDEN, said) => Failure::new(
            format!("Vault forbids it: {}", words(StatusCode::FORBIDDEN, &said)),
            format!("let rosterd {doing}; docs/identity.md has the policy that it needs"),
        ),
        Trouble::Refused(StatusCode::SERVICE_UNAVAILABLE, said) => Failure::new(
            format!("Vault is not in service: {}", words(StatusCode::SERVICE_UNAVAILABLE, &said)),
            "unseal it; tried again by itself",
        ),
        Trouble::Refused(code, said) => Failure::new(
            format!("Vault answers {}: {}", code.as_u16(), words(code, &said)),
            "tried again by itself; if it stays, look at Vault",
        ),
    }
}
