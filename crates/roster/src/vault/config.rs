//! `[vault]` of the config.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::PlacedName;
use crate::name::NameError;

/// The Vault that keeps people's secrets, and the cluster's list of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vault {
    /// Where it is; without one nothing is done there.
    #[schemars(extend("pattern" = r"^https?://[^/@?#\s]+$"))]
    pub address: Option<String>,
    /// The certificates that its own is verified with; the system's when absent.
    #[schemars(extend("pattern" = "^/"))]
    pub ca: Option<PathBuf>,
    /// The namespace, where the server has them.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"))]
    pub namespace: Option<String>,
    /// How rosterd logs in.
    pub login: VaultLogin,
    /// Which rosterd this is. Hosts with the same roster have the same.
    #[schemars(extend("pattern" = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))]
    pub instance: String,
    /// The cluster's list of people, `mount/path#field`, in a KV v2 engine.
    pub k8s_users: Option<KvField>,
    /// Whether the roster's people are written into that list, rather than compared with it.
    pub publish: bool,
    /// The mount by which people log in.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub people_mount: String,
    /// What that mount knows a person by.
    pub alias: AliasName,
    /// The KV v2 engine of people's secrets.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub kv_mount: String,
    /// The folder of that engine with a folder for each person's workstation.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub workstations: String,
    /// The Kubernetes secrets engine that gives out credentials of deployers.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub creds_mount: String,
    /// The Kubernetes auth method by which pipelines log in.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub pipelines_mount: String,
    /// The service account of the pipelines, `namespace/name`; without one there are no roles for them.
    pub pipelines: Option<PlacedName>,
    /// The transit engine with a key for each person's state; without one there are none.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub transit_mount: Option<String>,
    /// Whether people who leave the roster lose what they have in Vault.
    pub revoke_on_cut: bool,
    /// The most policies and roles that may be taken away in one run; with more, nothing is done.
    #[schemars(range(max = 100_000))]
    pub max_deletes: usize,
    /// How many requests are under way at the same time.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: usize,
    /// How long one run may take, in seconds.
    #[schemars(range(min = 5, max = 3600))]
    pub deadline_s: u64,
}

impl Default for Vault {
    fn default() -> Self {
        Vault {
            address: None,
            ca: None,
            namespace: None,
            login: VaultLogin::default(),
            instance: "default".into(),
            k8s_users: None,
            publish: false,
            people_mount: "oidc".into(),
            alias: AliasName::Login,
            kv_mount: "secret".into(),
            workstations: "workstation".into(),
            creds_mount: "kubernetes".into(),
            pipelines_mount: "kubernetes".into(),
            pipelines: None,
            transit_mount: None,
            revoke_on_cut: true,
            max_deletes: 50,
            parallel: 8,
            deadline_s: 120,
        }
    }
}

/// How rosterd logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaultLogin {
    /// By what.
    pub method: LoginMethod,
    /// What is secret about it: the token, the service account's token, or the secret id.
    #[schemars(extend("pattern" = "^/"))]
    pub file: PathBuf,
    /// The role's name (`kubernetes`) or id (`approle`).
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"))]
    pub role: Option<String>,
    /// Where the method is mounted; its own name when absent.
    #[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub mount: Option<String>,
}

impl Default for VaultLogin {
    fn default() -> Self {
        VaultLogin {
            method: LoginMethod::Token,
            file: "/etc/rosterd/vault-token".into(),
            role: None,
            mount: None,
        }
    }
}

/// By what rosterd logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoginMethod {
    /// A token, which is renewed.
    Token,
    /// A service account of Kubernetes.
    Kubernetes,
    /// A role id and a secret id.
    Approle,
}

impl LoginMethod {
    /// Every method.
    pub const ALL: [LoginMethod; 3] = [LoginMethod::Token, LoginMethod::Kubernetes, LoginMethod::Approle];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            LoginMethod::Token => "token",
            LoginMethod::Kubernetes => "kubernetes",
            LoginMethod::Approle => "approle",
        }
    }
}

/// What the people's mount knows a person by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AliasName {
    /// The login at the identity provider.
    Login,
    /// The e-mail address.
    Email,
}

/// A field of a secret, written `mount/path#field`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvField {
    /// Where the engine is mounted.
    pub mount: String,
    /// The secret in it.
    pub path: String,
    /// The field of the secret.
    pub field: String,
}

impl TryFrom<String> for KvField {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 128
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let (place, field) = text.split_once('#').unwrap_or((&text, ""));
        match place.split_once('/') {
            Some((mount, path)) if plain(mount) && path.split('/').all(plain) && plain(field) => {
                Ok(KvField { mount: mount.into(), path: path.into(), field: field.into() })
            }
            _ => Err(NameError("is not a field of a secret such as `secret/platform#k8s_users`".into())),
        }
    }
}

impl std::str::FromStr for KvField {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl std::fmt::Display for KvField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}#{}", self.mount, self.path, self.field)
    }
}

impl From<KvField> for String {
    fn from(place: KvField) -> String {
        place.to_string()
    }
}

impl JsonSchema for KvField {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KvField".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A field of a secret, written `mount/path#field`.",
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+#[A-Za-z0-9][A-Za-z0-9._-]*$",
        })
    }
}
