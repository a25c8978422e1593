//! `[kubernetes]` of the config.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cluster that people have rights in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// How the cluster is reached: a kubeconfig, or the folder of a pod's service account; without one nothing is done
    /// there.
    #[schemars(extend("pattern" = "^/"))]
    pub kubeconfig: Option<PathBuf>,
    /// Which rosterd this is, as a label. Hosts with the same roster have the same.
    #[schemars(extend("pattern" = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))]
    pub instance: String,
    /// What the API server puts before an e-mail address to make a user's name of it (`--oidc-username-prefix`).
    #[schemars(extend("pattern" = "^[A-Za-z0-9._:/#@-]{0,64}$"))]
    pub user_prefix: String,
    /// The ClusterRole of power users; made when it is not there.
    #[schemars(extend("pattern" = "^[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?$"))]
    pub power_user_role: String,
    /// The ConfigMap, `namespace/name`, that lists people for the portal.
    pub portal: Option<PlacedName>,
    /// The Lease, `namespace/name`, by which several hosts with the same roster agree which of them changes the cluster
    /// and Vault; a lone host needs none.
    pub lease: Option<PlacedName>,
    /// The ClusterIssuer of cert-manager that signs `tls-<namespace>`; without one nobody gets one of their own.
    #[schemars(extend("pattern" = "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"))]
    pub cluster_issuer: Option<String>,
    /// The Secret, `namespace/name`, that `tls-<namespace>` is a copy of where there is no certificate of one's own.
    pub tls_secret: Option<PlacedName>,
    /// Whether people who leave the roster lose what they have in the cluster.
    pub revoke_on_cut: bool,
    /// The most objects that may be deleted in one run; with more, nothing is done.
    #[schemars(range(max = 100_000))]
    pub max_deletes: usize,
    /// How many requests are under way at the same time.
    #[schemars(range(min = 1, max = 64))]
    pub parallel: usize,
    /// How long one run may take, in seconds.
    #[schemars(range(min = 5, max = 3600))]
    pub deadline_s: u64,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Kubernetes {
            kubeconfig: None,
            instance: "default".into(),
            user_prefix: String::new(),
            power_user_role: "oidc-power-user-readonly".into(),
            portal: None,
            lease: None,
            cluster_issuer: None,
            tls_secret: None,
            revoke_on_cut: true,
            max_deletes: 50,
            parallel: 8,
            deadline_s: 120,
        }
    }
}

/// The name of an object and its namespace, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl TryFrom<String> for PlacedName {
    type Error = crate::name::NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let label = |text: &str, most| {
            let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            (1..=most).contains(&text.len())
                && text.starts_with(ends)
                && text.ends_with(ends)
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        match text.split_once('/') {
            Some((namespace, name))
                if label(namespace, 63) && !namespace.contains('.') && label(name, 253) =>
            {
                Ok(PlacedName { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(crate::name::NameError("is not a place such as `portal/people`".into())),
        }
    }
}

impl std::str::FromStr for PlacedName {
    type Err = crate::name::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<PlacedName> for String {
    fn from(placed: PlacedName) -> String {
        format!("{}/{}", placed.namespace, placed.name)
    }
}

impl JsonSchema for PlacedName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PlacedName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "The name of an object and its namespace, written `namespace/name`.",
            "type": "string",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        })
    }
}
