//! An object as a flat list of fields. A path is a JSON pointer (RFC 6901); a list is one field, because every list
//! that rosterd writes is replaced as a whole by the cluster too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who set a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The name that the program gave itself.
    pub name: String,
    /// Whether it declared the whole of what it wants (server-side apply), rather than writing once.
    pub applies: bool,
}

impl Owner {
    /// Whether it was a person at a command line. `kubectl` names itself after its verb; what `kubectl apply` wrote is
    /// declared somewhere and would come back.
    pub fn is_by_hand(&self) -> bool {
        !self.applies && self.name.starts_with("kubectl-") && self.name != "kubectl-client-side-apply"
    }
}

/// The path of keys.
pub(super) fn path(keys: &[&str]) -> String {
    let mut path = String::new();
    keys.iter().for_each(|key| push(&mut path, key));
    path
}

fn push(path: &mut String, key: &str) {
    path.push('/');
    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// The fields of an object beside those that name it.
pub fn fields(object: &Value) -> BTreeMap<String, Value> {
    let mut fields = BTreeMap::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for key in ["labels", "annotations"] {
                    if let Some(value) = value.get(key) {
                        flatten(&mut path(&["metadata", key]), value, &mut fields);
                    }
                }
            }
            _ => flatten(&mut path(&[key]), value, &mut fields),
        }
    }
    fields
}

fn flatten(at: &mut String, value: &Value, into: &mut BTreeMap<String, Value>) {
    let Value::Object(map) = value else {
        into.insert(at.clone(), value.clone());
        return;
    };
    for (key, value) in map {
        let length = at.len();
        push(at, key);
        flatten(at, value, into);
        at.truncate(length);
    }
}

/// Who set each field, from `metadata.managedFields`.
pub fn owners(managed_fields: &[Value]) -> BTreeMap<String, Vec<Owner>> {
    let mut owners: BTreeMap<String, Vec<Owner>> = BTreeMap::new();
    for entry in managed_fields {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        // Controllers write the status by itself; nothing of ours is there.
        if !text("subresource").is_empty() {
            continue;
        }
        let owner = Owner { name: text("manager").to_owned(), applies: text("operation") == "Apply" };
        if let Some(Value::Object(set)) = entry.get("fieldsV1") {
            mark(&mut String::new(), set, &owner, &mut owners);
        }
    }
    owners
}

fn mark(at: &mut String, set: &Map<String, Value>, owner: &Owner, into: &mut BTreeMap<String, Vec<Owner>>) {
    let mut is_leaf = true;
    for (key, below) in set {
        // `k:` and `v:` are items of lists that are merged; none of ours is one.
        let (Some(key), Value::Object(below)) = (key.strip_prefix("f:"), below) else { continue };
        is_leaf = false;
        let length = at.len();
        push(at, key);
        mark(at, below, owner, into);
        at.truncate(length);
    }
    if is_leaf && !at.is_empty() {
        let all = into.entry(at.clone()).or_default();
        if !all.contains(owner) {
            all.push(owner.clone());
        }
    }
}

/// The owners of a field: its own, or those of the nearest field above that was set as a whole.
pub(crate) fn owners_of<'o>(owners: &'o BTreeMap<String, Vec<Owner>>, field: &str) -> &'o [Owner] {
    let mut at = field;
    loop {
        if let Some(found) = owners.get(at) {
            return found;
        }
        match at.rfind('/') {
            Some(end) if end > 0 => at = &at[..end],
            _ => return &[],
        }
    }
}

/// A path for people: `spec.hard.requests.cpu`.
pub(crate) fn shown(path: &str) -> String {
    path.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_a_flat_list_of_fields() {
        let object = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "status": {"used": {"pods": "1"}},
            "metadata": {"name": "q", "uid": "1", "labels": {"a/b": "c"}, "annotations": {"x~y": "z"}},
            "spec": {"hard": {"requests.cpu": "4", "pods": "20"}}, "rules": [{"verbs": ["get"]}],
        });
        let found: Vec<_> =
            fields(&object).into_iter().map(|(path, value)| format!("{path} = {value}")).collect();
        insta::assert_snapshot!(found.join("\n"), @r#"
        /metadata/annotations/x~0y = "z"
        /metadata/labels/a~1b = "c"
        /rules = [{"verbs":["get"]}]
        /spec/hard/pods = "20"
        /spec/hard/requests.cpu = "4"
        "#);
        assert_eq!(shown("/metadata/labels/a~1b"), "metadata.labels.a/b");
    }

    #[test]
    fn who_set_a_field_is_found_also_above_it() {
        let managed = json!([
            {"manager": "rosterd", "operation": "Apply", "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/managed-by": {}}}, "f:roleRef": {}, "f:subjects": {},
            }},
            {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:subjects": {}}},
            {"manager": "kubelet", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}},
        ]);
        let owners = owners(managed.as_array().unwrap());
        let names = |path: &str| owners_of(&owners, path).iter().map(|o| o.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names("/roleRef/name"), ["rosterd"]);
        assert_eq!(names("/subjects"), ["rosterd", "kubectl-edit"]);
        assert_eq!(names("/metadata/labels/app.kubernetes.io~1managed-by"), ["rosterd"]);
        assert_eq!(names("/metadata/labels/other"), [""; 0]);
        assert!(!owners.contains_key("/status"));
    }
}
