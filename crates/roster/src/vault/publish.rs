//! The roster's people in the cluster's list, `k8s_users`. Others write there too: what is not said here stays.

use serde_json::{Map, Value, json};

use crate::cluster::same_quantity;
use crate::model::{Person, Quota, Roster};

/// What the roster says of its people, by their name in the list.
pub(super) fn entries(roster: &Roster) -> Map<String, Value> {
    roster.users.values().map(|person| (person.k8s_user.to_string(), entry(person))).collect()
}

fn entry(person: &Person) -> Value {
    let mut entry = Map::new();
    entry.insert("role".into(), person.tier.as_str().into());
    if let Some(email) = &person.email {
        entry.insert("email".into(), email.as_str().into());
    }
    // A list that is empty says something too: those of yesterday's tier go.
    entry.insert("namespaces".into(), json!(person.namespaces));
    if !person.domains.is_empty() {
        entry.insert("domains".into(), json!(person.domains));
    }
    if let Some(quota) = &person.quota {
        entry.insert("quota".into(), quota_of(quota));
    }
    Value::Object(entry)
}

fn quota_of(quota: &Quota) -> Value {
    let Quota { cpu, memory, memory_limits, storage, pods } = quota;
    let limits = [
        ("cpu", cpu),
        ("memory", memory),
        ("memory_limits", memory_limits),
        ("storage", storage),
        ("pods", pods),
    ];
    let given = limits.into_iter().filter_map(|(name, limit)| Some((name, limit.as_ref()?.as_str().into())));
    Value::Object(given.map(|(name, limit): (_, Value)| (name.to_owned(), limit)).collect())
}

/// Why nothing is written into a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is no list.
    #[error("the list of people there is no JSON object, so nothing is written into it")]
    NoObject,
    /// It has a name twice, and writing it back would lose one of the two.
    #[error("an object in the list of people has a key twice, so nothing is written into it")]
    Twice,
}

/// The list with `entries` in it; nothing when it says the same already. An entry's fields that are not said here, and
/// every other entry, stay; so does the spelling of a limit that is the same amount.
pub fn published(list: Option<&str>, entries: &Map<String, Value>) -> Result<Option<String>, PublishError> {
    let text = list.unwrap_or("{}");
    let before: Value = serde_json::from_str(text).map_err(|_| PublishError::NoObject)?;
    if !before.is_object() {
        return Err(PublishError::NoObject);
    }
    if members(text) != count(&before) {
        return Err(PublishError::Twice);
    }
    let mut after = before.clone();
    for (name, said) in entries {
        if let Value::Object(all) = &mut after {
            merge(all.entry(name.clone()).or_insert_with(|| json!({})), said);
        }
    }
    if list.is_some() && after == before {
        return Ok(None);
    }
    Ok(Some(after.to_string()))
}

fn merge(into: &mut Value, said: &Value) {
    if !into.is_object() {
        *into = json!({});
    }
    let (Value::Object(into), Value::Object(said)) = (into, said) else { return };
    for (key, value) in said {
        match (key.as_str(), value) {
            ("quota", Value::Object(limits)) => {
                let quota = into.entry(key.clone()).or_insert_with(|| json!({}));
                merge_quota(quota, limits);
            }
            // Whoever leaves an empty list away says the same.
            ("namespaces", Value::Array(list)) if list.is_empty() && !into.contains_key("namespaces") => {}
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

/// Two spellings are in use; the one that is there stays.
fn merge_quota(into: &mut Value, limits: &Map<String, Value>) {
    if !into.is_object() {
        *into = json!({});
    }
    let Value::Object(into) = into else { return };
    for (name, limit) in limits {
        let other = match name.as_str() {
            "cpu" => "cpu_requests",
            "memory" => "memory_requests",
            _ => name,
        };
        let key = if into.contains_key(other) { other } else { name };
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        if !same_quantity(&text(into.get(key)), &text(Some(limit))) {
            into.insert(key.to_owned(), limit.clone());
        }
    }
}

/// How many members the objects of a text have, those of the same name counted each.
fn members(text: &str) -> usize {
    let (mut colons, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b':' if !quoted => colons += 1,
            _ => {}
        }
    }
    colons
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(count).sum::<usize>(),
        Value::Array(list) => list.iter().map(count).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(entries: Value) -> Map<String, Value> {
        entries.as_object().unwrap().clone()
    }

    #[test]
    fn others_entries_and_fields_stay() {
        let list = r#"{"dave": {"role": "admin", "n": 1.5}, "carol": {"role": "power-user", "note": "x", "domains": ["a"],
            "quota": {"cpu_requests": "4000m", "memory": "1Gi", "gpu": "1"}}}"#;
        let entries = said(json!({
            "carol": {"role": "namespace-owner", "namespaces": ["carol-dev"], "quota": {"cpu": "4", "memory": "2Gi"}},
            "erin": {"role": "admin", "namespaces": []},
        }));
        let after = published(Some(list), &entries).unwrap().unwrap();
        let after: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(
            after,
            json!({
                "dave": {"role": "admin", "n": 1.5},
                "carol": {"role": "namespace-owner", "note": "x", "domains": ["a"], "namespaces": ["carol-dev"],
                    "quota": {"cpu_requests": "4000m", "memory": "2Gi", "gpu": "1"}},
                "erin": {"role": "admin"},
            })
        );
        assert_eq!(published(Some(&after.to_string()), &entries), Ok(None));
    }

    #[test]
    fn what_would_lose_something_is_left_invariant_8() {
        let entries = said(json!({"carol": {"role": "admin"}}));
        for list in ["", "[]", "null", "{", "\"{}\""] {
            assert_eq!(published(Some(list), &entries), Err(PublishError::NoObject), "{list}");
        }
        for list in [r#"{"carol": {}, "carol": {"role": "admin"}}"#, r#"{"x": {"a\":": 1, "b": 2, "b": 3}}"#]
        {
            assert_eq!(published(Some(list), &entries), Err(PublishError::Twice), "{list}");
        }
        assert_eq!(published(None, &Map::new()), Ok(Some("{}".into())));
    }
}
