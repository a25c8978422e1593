//! An object as the daemon is told of it: what the core compares, and no more than that. Whoever rules a namespace can put
//! what they like into what looks like ours, so what is told is bounded, and what is in a Secret stays here.

use std::collections::{BTreeMap, BTreeSet};

use roster::cluster::{INSTANCE, Key, Kind, MANAGED_BY, MANAGER, Owner, Seen, USER, fields, owners};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::http::Trouble;

/// A value that is longer is none that we set, except for the portal's list.
const LONGEST: usize = 16 << 10;
/// The same of what is told of an object that nobody wants: names.
const LONGEST_NAME: usize = 256;
/// None of ours has as many fields, nor as many who set one.
const MOST_FIELDS: usize = 256;
const MOST_OWNERS: usize = 8;

/// An object, when it is ours or wanted.
pub(super) fn look(
    kind: Kind,
    item: &Value,
    wanted: &BTreeSet<Key>,
    instance: &str,
) -> Result<Option<Seen>, Trouble> {
    let meta = item.get("metadata").unwrap_or(&Value::Null);
    let text = |key: &str| meta.get(key).and_then(Value::as_str);
    let must = |key: &str| {
        let missing = || Trouble::NoAnswer(format!("it gives a {kind} without {key}"));
        text(key).map(str::to_owned).ok_or_else(missing)
    };
    let key = Key { kind, namespace: text("namespace").map(str::to_owned), name: must("name")? };
    let label = |label: &str| meta.get("labels").and_then(|labels| labels.get(label)).and_then(Value::as_str);
    let is_wanted = wanted.contains(&key);
    if !is_wanted && (label(MANAGED_BY) != Some(MANAGER) || label(INSTANCE) != Some(instance)) {
        return Ok(None);
    }
    // Names that we give are plain. Another one is not ours, whatever its labels say, and stops nobody's run.
    let is_plain = |name: &str| name.len() <= LONGEST_NAME && name.bytes().all(|b| b.is_ascii_graphic());
    if !is_wanted && !is_plain(&key.name) {
        return Ok(None);
    }
    let pointer = |name: &str| name.replace('/', "~1");
    let metadata = [
        format!("/metadata/labels/{}", pointer(MANAGED_BY)),
        format!("/metadata/labels/{}", pointer(INSTANCE)),
        format!("/metadata/annotations/{}", pointer(USER)),
    ];
    let matters = |path: &str| {
        metadata.iter().any(|of_ours| path == of_ours)
            || (kind != Kind::Namespace && !path.starts_with("/metadata/"))
    };
    let managed = meta.get("managedFields").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (mut fields, mut owners) = (fields(item), owners(managed));
    let is_ours = |all: &[Owner]| all.iter().any(|owner| owner.name == MANAGER);
    let ours = owners.values().find(|all| is_ours(all)).cloned();
    fields.retain(|path, _| matters(path));
    owners.retain(|path, _| matters(path));
    // Of what is not told it counts only whether any of it is ours.
    owners.extend(ours.map(|all| ("/metadata/other".to_owned(), all)));
    if kind == Kind::Secret {
        let within = owners.iter().filter(|(path, _)| path.starts_with("/data"));
        let within: BTreeSet<Owner> = within.flat_map(|(_, all)| all.clone()).collect();
        let stays = |path: &str| path.starts_with("/metadata/") || path == "/type";
        fields.retain(|path, _| stays(path));
        owners.retain(|path, _| stays(path));
        fields.insert("/data".into(), digest(item.get("data")).into());
        owners.insert("/data".into(), within.into_iter().collect());
    } else if !is_wanted {
        fields = fields.into_iter().map(brief).collect();
        owners = whose(owners);
    }
    let longest = match (is_wanted, kind) {
        (true, Kind::ConfigMap) => usize::MAX,
        (true, _) => LONGEST,
        (false, _) => LONGEST_NAME,
    };
    let too_long = |value: &&mut Value| value.to_string().len() > longest;
    fields.values_mut().filter(too_long).for_each(|value| *value = Value::Null);
    fields = fields.into_iter().take(MOST_FIELDS).collect();
    owners = owners.into_iter().take(MOST_FIELDS).collect();
    for all in owners.values_mut() {
        all.sort_by_key(|owner| owner.name != MANAGER);
        all.truncate(MOST_OWNERS);
    }
    Ok(Some(Seen {
        key,
        uid: must("uid")?,
        version: must("resourceVersion")?,
        terminating: text("deletionTimestamp").is_some(),
        fields,
        owners,
    }))
}

/// What is told whole of an object that nobody wants: whose it is, and which right it gives.
fn is_told_whole(path: &str) -> bool {
    path.starts_with("/metadata/") || path.starts_with("/roleRef/")
}

fn top(path: &str) -> &str {
    path.get(1..).and_then(|rest| rest.find('/')).map_or(path, |end| path.get(..=end).unwrap_or(path))
}

/// Of the rest, that it is there.
fn brief((path, value): (String, Value)) -> (String, Value) {
    match is_told_whole(&path) || value.as_array().is_some_and(Vec::is_empty) {
        true => (path, value),
        false => (top(&path).to_owned(), Value::Null),
    }
}

/// Of the rest, whether there is anything that is not ours.
fn whose(owners: BTreeMap<String, Vec<Owner>>) -> BTreeMap<String, Vec<Owner>> {
    let mut brief: BTreeMap<String, Vec<Owner>> = BTreeMap::new();
    for (path, all) in owners {
        if is_told_whole(&path) {
            brief.insert(path, all);
            continue;
        }
        let known = brief.entry(top(&path).to_owned()).or_default();
        let is_theirs = |all: &[Owner]| !all.is_empty() && all.iter().all(|owner| owner.name != MANAGER);
        if known.is_empty() || (!is_theirs(known) && is_theirs(&all)) {
            *known = all;
        }
    }
    brief
}

/// Stands for what is in a Secret.
fn digest(data: Option<&Value>) -> String {
    let text = data.map(Value::to_string).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(data: &Value, managers: &[(&str, &str)]) -> Value {
        let managed = managers.iter().map(|(manager, key)| {
            json!({"manager": manager, "operation": "Apply", "fieldsV1": {"f:data": {format!("f:{key}"): {}}}})
        });
        json!({
            "metadata": {
                "name": "x", "namespace": "one", "uid": "1", "resourceVersion": "2",
                "labels": {MANAGED_BY: MANAGER, INSTANCE: "default"}, "managedFields": managed.collect::<Vec<_>>(),
            },
            "data": data,
        })
    }

    #[test]
    fn of_what_nobody_wants_it_is_told_that_it_is_there_and_whose() {
        let data: Value = (0..1000).map(|number| (number.to_string(), json!("x".repeat(1000)))).collect();
        for (managers, theirs) in [
            (&[("rosterd", "1"), ("someone", "2")][..], true),
            (&[("rosterd", "1"), ("rosterd", "2")], false),
        ] {
            let seen =
                look(Kind::ConfigMap, &item(&data, managers), &BTreeSet::new(), "default").unwrap().unwrap();
            assert!(seen.is_of("default"));
            assert_eq!(seen.fields["/data"], Value::Null);
            assert_eq!(seen.owners["/data"][0].name != MANAGER, theirs);
            assert!(serde_json::to_string(&seen).unwrap().len() < 1000);
        }
        let other = look(Kind::ConfigMap, &item(&data, &[]), &BTreeSet::new(), "other");
        assert_eq!(other.unwrap(), None);
    }

    #[test]
    fn what_a_namespaces_owner_makes_of_ours_is_told_within_bounds() {
        let mut grant = item(&json!({}), &[]);
        grant["metadata"]["annotations"] = json!({USER: "x".repeat(200_000)});
        grant["roleRef"] = json!({"name": "y".repeat(200_000)});
        let managers: Vec<Value> = (0..1000)
            .map(|number| {
                json!({"manager": number.to_string(), "operation": "Update", "fieldsV1": {"f:roleRef": {"f:name": {}}}})
            })
            .collect();
        grant["metadata"]["managedFields"] = managers.into();
        let seen = look(Kind::RoleBinding, &grant, &BTreeSet::new(), "default").unwrap().unwrap();
        assert!(serde_json::to_string(&seen).unwrap().len() < 2000);
        for name in ["a b", &"a".repeat(600)] {
            grant["metadata"]["name"] = name.into();
            assert_eq!(look(Kind::RoleBinding, &grant, &BTreeSet::new(), "default").unwrap(), None);
        }
    }

    #[test]
    fn a_value_that_is_too_long_to_be_ours_is_not_told() {
        let key = Key::inside(Kind::RoleBinding, "one", "x");
        let mut grant = item(&json!({}), &[]);
        grant["subjects"] = json!([{"name": "x".repeat(1 << 20)}]);
        let seen = look(Kind::RoleBinding, &grant, &BTreeSet::from([key]), "default").unwrap().unwrap();
        assert_eq!(seen.fields["/subjects"], Value::Null);
    }
}
