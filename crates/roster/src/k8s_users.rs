//! The cluster's own list of people, `k8s_users`: `{k8s_user: {role, email, namespaces, quota, …}}`.
//!
//! It is written by others too, so an entry that cannot be read is told and left out, and fields that rosterd does not
//! know are none of its business.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostics;
use crate::model::{Quota, Tier};
use crate::name::{Email, KubeUser, Namespace};

/// The list, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct K8sUsers {
    /// The entries that can be read.
    pub people: BTreeMap<KubeUser, K8sUser>,
    /// The names of the entries that cannot.
    pub unreadable: BTreeSet<String>,
    /// What is wrong with those.
    pub diagnostics: Option<Diagnostics>,
}

/// What the list says about a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct K8sUser {
    /// What they may do.
    pub role: Option<Tier>,
    /// The e-mail address that the cluster knows them by.
    pub email: Option<Email>,
    /// Their namespaces.
    pub namespaces: Vec<Namespace>,
    /// Limits of each of those.
    pub quota: Option<Quota>,
}

/// What is known of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapState {
    /// The site has none.
    None,
    /// It could not be read: nothing is concluded from that (invariant 8).
    Unreadable,
    /// It was read.
    Known(K8sUsers),
}

/// What is known of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'m> {
    /// It was read, or it is not there.
    Known(Option<&'m K8sUser>),
    /// There may be one.
    Unknown,
}

impl MapState {
    /// What is known of a person.
    pub fn entry(&self, k8s_user: &KubeUser) -> Entry<'_> {
        match self {
            MapState::None => Entry::Known(None),
            MapState::Unreadable => Entry::Unknown,
            MapState::Known(map) if map.unreadable.contains(k8s_user.as_str()) => Entry::Unknown,
            MapState::Known(map) => Entry::Known(map.people.get(k8s_user)),
        }
    }
}
