//! What Vault's answers say. One that lacks what it should say says nothing, rather than that there is none.

use std::collections::BTreeSet;

use roster::vault::{Mark, same_name};
use serde_json::Value;

use super::Found;
use crate::http::Trouble;

/// A list of texts. One that is not there, or is none, says nothing; it is not an empty one, which may be null.
pub(super) fn strings(of: &Value, key: &str) -> Found<BTreeSet<String>> {
    let none = Vec::new();
    let list = match of.get(key) {
        Some(Value::Array(list)) => list,
        Some(Value::Null) => &none,
        _ => return Err(no_sense(key)),
    };
    list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(|| no_sense(key))).collect()
}

/// The text of a policy.
pub(super) fn policy(found: &Value) -> Found<&str> {
    found.get("policy").and_then(Value::as_str).ok_or_else(|| no_sense("policy"))
}

/// Whose a policy is.
pub(super) fn instance_of(policy: &str) -> Option<String> {
    Mark::of(policy).map(|mark| mark.instance)
}

pub(super) fn no_sense(lacks: &str) -> Trouble {
    Trouble::NoAnswer(format!("its answer makes no sense: it has no `{lacks}`"))
}

/// What a mount knows an entity by, and what others do.
pub(super) fn aliases_of(entity: &Value, accessor: Option<&str>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
    for alias in entity.get("aliases").and_then(Value::as_array).into_iter().flatten() {
        let said = |key: &str| alias.get(key).and_then(Value::as_str);
        let (name, at) = (said("name").unwrap_or_default(), said("mount_accessor"));
        if at.zip(accessor).is_some_and(|(a, b)| same_name(a, b)) {
            ours.insert(name.to_owned());
        } else {
            let mount = said("mount_path").or(at).unwrap_or_default();
            others.insert(format!("{name} at {}", mount.trim_end_matches('/')));
        }
    }
    (ours, others)
}

/// Whether a 404 is Vault's word for nothing: no errors, and perhaps the versions of what was deleted.
pub(super) fn says_nothing_is_there(said: &[u8]) -> bool {
    let said: Value = serde_json::from_slice(said).unwrap_or_default();
    let no_errors = said.get("errors").is_some_and(|errors| errors.as_array().is_some_and(Vec::is_empty));
    no_errors || said.pointer("/data/metadata/version").is_some()
}
