//! The people of a roster as objects of a Kubernetes cluster: what should be there and what is, as plain data.
//!
//! | part | what it holds |
//! | --- | --- |
//! | [`Kubernetes`] | `[kubernetes]` of the config |
//! | [`desired()`] | from roster and config to the objects that should be there |
//! | [`ClusterObserved`] | what the cluster shows of them |
//! | [`fields()`], [`owners()`] | an object as a flat list of fields, and who set each |
//!
//! The steps between the two are planned in [`crate::plan::cluster()`]. Objects are JSON here and not the types of a
//! client: the core computes, it does not need to know every kind of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::name::OsUser;
use crate::plan::{Notice, Problem, Subject};

mod config;
mod desired;
mod fields;
mod quantity;
mod rules;

pub use config::{Kubernetes, PlacedName};
pub use desired::desired;
pub use fields::{Owner, fields, owners};
pub(crate) use fields::{owners_of, shown};
pub(crate) use quantity::same_quantity;

/// The name under which rosterd sets fields.
pub const MANAGER: &str = "rosterd";

/// The label that says who keeps an object; its value is [`MANAGER`] on ours.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The label that says which rosterd keeps it, so that two that share a cluster leave each other's objects alone.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// The annotation that names the account an object is there for.
pub const USER: &str = "rosterd.io/user";

/// A kind of object that rosterd keeps, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A namespace. Never deleted.
    Namespace,
    /// What a cluster-wide grant allows.
    ClusterRole,
    /// What a grant in a namespace allows.
    Role,
    /// The limits of a namespace.
    ResourceQuota,
    /// The portal's list of people.
    ConfigMap,
    /// A certificate with its key, copied from another one. What is in it is never seen: a digest stands for it.
    Secret,
    /// A certificate, kept by cert-manager.
    Certificate,
    /// A cluster-wide grant.
    ClusterRoleBinding,
    /// A grant in a namespace.
    RoleBinding,
}

impl Kind {
    /// Every kind, in the order in which objects are made.
    pub const ALL: [Kind; 9] = [
        Kind::Namespace,
        Kind::ClusterRole,
        Kind::Role,
        Kind::ResourceQuota,
        Kind::ConfigMap,
        Kind::Secret,
        Kind::Certificate,
        Kind::ClusterRoleBinding,
        Kind::RoleBinding,
    ];

    /// Whether it gives somebody a right.
    pub fn is_grant(self) -> bool {
        matches!(self, Kind::ClusterRoleBinding | Kind::RoleBinding)
    }

    /// Whether its objects are in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Namespace | Kind::ClusterRole | Kind::ClusterRoleBinding)
    }

    /// Group, version and the plural name in URLs.
    pub fn resource(self) -> (&'static str, &'static str, &'static str) {
        const RBAC: &str = "rbac.authorization.k8s.io";
        match self {
            Kind::Namespace => ("", "v1", "namespaces"),
            Kind::ClusterRole => (RBAC, "v1", "clusterroles"),
            Kind::Role => (RBAC, "v1", "roles"),
            Kind::ResourceQuota => ("", "v1", "resourcequotas"),
            Kind::ConfigMap => ("", "v1", "configmaps"),
            Kind::Secret => ("", "v1", "secrets"),
            Kind::Certificate => ("cert-manager.io", "v1", "certificates"),
            Kind::ClusterRoleBinding => (RBAC, "v1", "clusterrolebindings"),
            Kind::RoleBinding => (RBAC, "v1", "rolebindings"),
        }
    }

    /// Its name as manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::ClusterRole => "ClusterRole",
            Kind::Role => "Role",
            Kind::ResourceQuota => "ResourceQuota",
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
            Kind::Certificate => "Certificate",
            Kind::ClusterRoleBinding => "ClusterRoleBinding",
            Kind::RoleBinding => "RoleBinding",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, where its kind has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A cluster-wide object.
    pub fn wide(kind: Kind, name: impl Into<String>) -> Key {
        Key { kind, namespace: None, name: name.into() }
    }

    /// An object in a namespace.
    pub fn inside(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { kind, namespace: Some(namespace.into()), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// An object that should be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Which.
    pub key: Key,
    /// Whom it is about.
    pub subject: Subject,
    /// Whatever it has beside `metadata`: `rules`, `spec`, `data` and so on.
    pub content: Map<String, Value>,
    /// One of this name that is not ours is used as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_found: bool,
}

impl Object {
    /// The whole object, as it is sent to the cluster.
    pub fn manifest(&self, instance: &str) -> Value {
        let mut whole = bare(&self.key);
        if let Some(Value::Object(metadata)) = whole.get_mut("metadata") {
            metadata.insert("labels".into(), json!({MANAGED_BY: MANAGER, INSTANCE: instance}));
            if let Subject::User(user) = &self.subject {
                metadata.insert("annotations".into(), json!({USER: user.as_str()}));
            }
        }
        if let Value::Object(whole) = &mut whole {
            whole.extend(self.content.clone());
        }
        whole
    }
}

/// An object with nothing but its name. Applied, it gives up whatever we set before.
pub(crate) fn bare(key: &Key) -> Value {
    let (group, version, _) = key.kind.resource();
    let api = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut metadata = Map::new();
    metadata.insert("name".into(), key.name.clone().into());
    if let Some(namespace) = &key.namespace {
        metadata.insert("namespace".into(), namespace.clone().into());
    }
    json!({"apiVersion": api, "kind": key.kind.as_str(), "metadata": metadata})
}

/// Everything that should be in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterDesired {
    /// Which rosterd this is.
    pub instance: String,
    /// The objects.
    pub objects: BTreeMap<Key, Object>,
    /// Objects that should be there with a content that is not known now: they are left as they are.
    pub unknown: BTreeSet<Key>,
    /// The Secret that others are copies of.
    pub tls_source: Option<Key>,
    /// Secrets that are copies of it, where no Certificate takes their place, and whom each is about.
    pub copies: BTreeMap<Key, Subject>,
    /// People whose objects stay although they left the roster.
    pub kept: BTreeSet<OsUser>,
    /// The most objects that may be deleted in one run.
    pub max_deletes: usize,
    /// What keeps people from what the roster says.
    pub problems: Vec<Problem>,
    /// What an admin should know.
    pub notices: Vec<Notice>,
}

impl ClusterDesired {
    /// The kinds that have to be read. Secrets only when there may be any of ours.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let secrets = self.tls_source.is_some();
        Kind::ALL.into_iter().filter(move |kind| secrets || *kind != Kind::Secret)
    }

    /// What has to be found although it may not be ours.
    pub fn wanted(&self) -> BTreeSet<Key> {
        let all = self.objects.keys().chain(&self.unknown).chain(self.copies.keys()).chain(&self.tls_source);
        all.cloned().collect()
    }
}

/// What the cluster shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterObserved {
    /// Per kind, what was read. A kind that is missing was not read.
    pub kinds: BTreeMap<Kind, Reading>,
}

/// What reading the objects of a kind gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// All of them that are ours or that were asked for.
    Seen(Vec<Seen>),
    /// The same, but somebody made so many that look like ours in these namespaces that only some of those are told.
    InPart {
        /// What is told.
        seen: Vec<Seen>,
        /// Where there are more.
        namespaces: BTreeSet<String>,
    },
    /// The cluster does not have this kind.
    NoSuchKind,
    /// They could not be read, so nothing is concluded about them (invariant 8).
    Unreadable {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
}

impl Reading {
    /// What was read of the kind.
    pub fn seen(&self) -> Option<&[Seen]> {
        match self {
            Reading::Seen(seen) | Reading::InPart { seen, .. } => Some(seen),
            Reading::NoSuchKind | Reading::Unreadable { .. } => None,
        }
    }
}

/// An object as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which.
    pub key: Key,
    /// The identity of this very object; another of the same name has another one.
    pub uid: String,
    /// Changes with each write.
    pub version: String,
    /// Whether it is being deleted.
    #[serde(default)]
    pub terminating: bool,
    /// Its fields by path.
    pub fields: BTreeMap<String, Value>,
    /// Who set each field, by path; a field that is not here is in one that is above it.
    pub owners: BTreeMap<String, Vec<Owner>>,
}

impl Seen {
    fn label(&self, label: &str) -> Option<&str> {
        self.fields.get(&fields::path(&["metadata", "labels", label]))?.as_str()
    }

    /// Whether rosterd set a field of it.
    pub fn is_touched_by_us(&self) -> bool {
        self.owners.values().flatten().any(|owner| owner.name == MANAGER)
    }

    /// Whether it says that it is one of `instance`'s. Of a grant that counts alone: who set a field says an object itself, and
    /// somebody who would like to keep a right may make it say what they like.
    pub fn is_marked(&self, instance: &str) -> bool {
        self.label(MANAGED_BY) == Some(MANAGER) && self.label(INSTANCE) == Some(instance)
    }

    /// Whether it is one of `instance`'s: it says so, and rosterd did set a field of it. Who copies one of ours copies
    /// the label too, and that copy is theirs.
    pub fn is_of(&self, instance: &str) -> bool {
        self.is_marked(instance) && self.is_touched_by_us()
    }

    /// The rosterd that keeps it, when that is another one than `instance`. What somebody else has put into the label
    /// does not count.
    pub(crate) fn is_of_another(&self, instance: &str) -> Option<&str> {
        let by_rosterd = |owner: &Owner| owner.name == MANAGER;
        let label = fields::path(&["metadata", "labels", INSTANCE]);
        let other = self.label(INSTANCE).filter(|other| *other != instance)?;
        (self.label(MANAGED_BY) == Some(MANAGER) && owners_of(&self.owners, &label).iter().any(by_rosterd))
            .then_some(other)
    }

    /// Whether it is deleted and gives nobody anything while somebody's finalizer keeps it.
    pub fn is_going(&self) -> bool {
        let names_somebody = self
            .fields
            .get("/subjects")
            .is_some_and(|subjects| subjects.as_array().is_none_or(|all| !all.is_empty()));
        self.terminating && !(self.key.kind.is_grant() && names_somebody)
    }

    /// Whom it is there for.
    pub fn subject(&self) -> Subject {
        let user = self.fields.get(&fields::path(&["metadata", "annotations", USER]));
        user.and_then(Value::as_str)
            .and_then(|user| OsUser::new(user).ok())
            .map_or(Subject::Machine, Subject::User)
    }
}
