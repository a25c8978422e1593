//! The single changes in Vault, as data and in words.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::vault::{KvField, Role};

/// A change in Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum VaultAction {
    /// Writes a policy.
    WritePolicy {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
    },
    /// Removes a policy.
    DeletePolicy {
        /// Its name.
        name: String,
    },
    /// Makes an entity, and then what the people's mount knows it by.
    MakeEntity {
        /// Its name.
        name: String,
        /// Its policies.
        policies: BTreeSet<String>,
        /// Accessor of the mount, and the name there.
        alias: (String, String),
    },
    /// Replaces the policies of an entity.
    SetPolicies {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// What they were when the plan was made.
        before: BTreeSet<String>,
        /// All that it is to have.
        policies: BTreeSet<String>,
    },
    /// Tells Vault by what the people's mount knows an entity.
    AddAlias {
        /// The entity's id.
        id: String,
        /// Its name.
        name: String,
        /// Accessor of the mount, and the name there.
        alias: (String, String),
    },
    /// Writes a role of an auth method.
    WriteRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's name.
        name: String,
        /// What it gives to whom.
        role: Role,
    },
    /// Removes a role of an auth method.
    DeleteRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's name.
        name: String,
    },
    /// Makes a key in the transit engine.
    MakeKey {
        /// Where the engine is mounted.
        mount: String,
        /// The key's name.
        name: String,
    },
    /// Writes the roster's people into the cluster's list.
    Publish {
        /// Where the list is.
        place: KvField,
        /// What is said of each.
        entries: Map<String, Value>,
    },
}

impl VaultAction {
    /// The kind as the journal and `plan` name it.
    pub fn kind(&self) -> &'static str {
        match self {
            VaultAction::WritePolicy { .. } => "vault-write-policy",
            VaultAction::DeletePolicy { .. } => "vault-delete-policy",
            VaultAction::MakeEntity { .. } => "vault-make-entity",
            VaultAction::SetPolicies { .. } => "vault-set-policies",
            VaultAction::AddAlias { .. } => "vault-add-alias",
            VaultAction::WriteRole { .. } => "vault-write-role",
            VaultAction::DeleteRole { .. } => "vault-delete-role",
            VaultAction::MakeKey { .. } => "vault-make-key",
            VaultAction::Publish { .. } => "vault-publish",
        }
    }

    /// Whether something that is there goes.
    pub fn is_removal(&self) -> bool {
        match self {
            VaultAction::DeletePolicy { .. } | VaultAction::DeleteRole { .. } => true,
            VaultAction::SetPolicies { before, policies, .. } => !policies.is_superset(before),
            _ => false,
        }
    }
}

impl fmt::Display for VaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |policies: &BTreeSet<String>| policies.iter().cloned().collect::<Vec<_>>().join(", ");
        match self {
            VaultAction::WritePolicy { name, .. } => write!(f, "write policy {name}"),
            VaultAction::DeletePolicy { name } => write!(f, "delete policy {name}"),
            VaultAction::MakeEntity { name, policies, alias: (_, alias) } => {
                write!(f, "make entity {name}, known as {alias}, with {}", listed(policies))
            }
            VaultAction::SetPolicies { name, before, policies, .. } => {
                write!(f, "entity {name}:")?;
                let gone: BTreeSet<_> = before.difference(policies).cloned().collect();
                let new: BTreeSet<_> = policies.difference(before).cloned().collect();
                if !gone.is_empty() {
                    write!(f, " take {}", listed(&gone))?;
                }
                if !new.is_empty() {
                    write!(f, "{} give {}", if gone.is_empty() { "" } else { "," }, listed(&new))?;
                }
                Ok(())
            }
            VaultAction::AddAlias { name, alias: (_, alias), .. } => {
                write!(f, "entity {name}: known as {alias}")
            }
            VaultAction::WriteRole { mount, name, .. } => write!(f, "write role {mount}/{name}"),
            VaultAction::DeleteRole { mount, name } => write!(f, "delete role {mount}/{name}"),
            VaultAction::MakeKey { mount, name } => write!(f, "make key {mount}/{name}"),
            VaultAction::Publish { place, .. } => write!(f, "publish people to {place}"),
        }
    }
}
