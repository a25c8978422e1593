//! What a step in the cluster does, as data and in words.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cluster::Key;

/// A change in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum ClusterAction {
    /// Declares the whole of what we want of an object (server-side apply).
    Apply {
        /// Which.
        key: Key,
        /// The whole object.
        manifest: Value,
        /// Whether fields that somebody else set are taken over.
        force: bool,
    },
    /// Declares a Secret whose content is that of another one.
    Copy {
        /// Which.
        key: Key,
        /// The other one.
        from: Key,
        /// Everything but the content.
        manifest: Value,
        /// Whether fields that somebody else set are taken over.
        force: bool,
    },
    /// Removes this very object.
    Delete {
        /// Which.
        key: Key,
        /// Its identity.
        uid: String,
        /// What it was when the plan was made.
        version: String,
    },
    /// Removes this very object and makes it anew in the next call, because the cluster lets nobody change what differs.
    /// Where the second call fails there is nothing, and the next look finds that.
    Replace {
        /// Which.
        key: Key,
        /// Its identity.
        uid: String,
        /// What it was when the plan was made.
        version: String,
        /// The whole object.
        manifest: Value,
    },
}

impl ClusterAction {
    /// The kind as the journal and `plan` name it.
    pub fn kind(&self) -> &'static str {
        match self {
            ClusterAction::Apply { .. } => "cluster-apply",
            ClusterAction::Copy { .. } => "cluster-copy",
            ClusterAction::Delete { .. } => "cluster-delete",
            ClusterAction::Replace { .. } => "cluster-replace",
        }
    }

    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            ClusterAction::Apply { key, .. }
            | ClusterAction::Copy { key, .. }
            | ClusterAction::Delete { key, .. }
            | ClusterAction::Replace { key, .. } => key,
        }
    }

    /// Whether something that is there goes.
    pub fn is_removal(&self) -> bool {
        !matches!(self, ClusterAction::Apply { .. } | ClusterAction::Copy { .. })
    }
}

impl fmt::Display for ClusterAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterAction::Apply { key, force: false, .. } => write!(f, "apply {key}"),
            ClusterAction::Apply { key, force: true, .. } => write!(f, "put right {key}"),
            ClusterAction::Copy { key, from, .. } => write!(f, "copy {from} to {key}"),
            ClusterAction::Delete { key, .. } => write!(f, "delete {key}"),
            ClusterAction::Replace { key, .. } => write!(f, "replace {key}"),
        }
    }
}
