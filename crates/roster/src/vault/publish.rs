//! The roster's people in the cluster's list, `k8s_users`. Others write there too: what is not said here stays.

use serde_json::{Map, Value, json};

use crate::cluster::same_quantity;
use crate::model::{Person, Quota, Roster};
use crate::vault::json::Members;

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
/// every other entry, stay to the letter; so does the spelling of a limit that is the same amount.
pub fn published(list: Option<&str>, entries: &Map<String, Value>) -> Result<Option<String>, PublishError> {
    let mut all = match list {
        Some(text) => once(Members::of(text).ok_or(PublishError::NoObject)?)?,
        None => Members::default(),
    };
    let mut is_changed = list.is_none();
    for (name, said) in entries {
        let Value::Object(said) = said else { continue };
        is_changed |= change(&mut all, name, |entry| merge(entry, said))?;
    }
    let text = || serde_json::to_string(&all).map_err(|_| PublishError::NoObject);
    is_changed.then(text).transpose()
}

/// What is written back must not have lost one of two.
fn once(members: Members) -> Result<Members, PublishError> {
    if members.has_twins() { Err(PublishError::Twice) } else { Ok(members) }
}

/// Changes the object of a name, which is made where there is none. Tells whether that changed anything.
fn change(
    of: &mut Members,
    name: &str,
    with: impl FnOnce(&mut Members) -> Result<bool, PublishError>,
) -> Result<bool, PublishError> {
    let there = of.get(name).and_then(Members::of);
    let is_new = there.is_none();
    let mut object = once(there.unwrap_or_default())?;
    let is_changed = with(&mut object)? || is_new;
    if is_changed {
        of.set(name, &object);
    }
    Ok(is_changed)
}

fn merge(into: &mut Members, said: &Map<String, Value>) -> Result<bool, PublishError> {
    let mut is_changed = false;
    for (key, value) in said {
        match (key.as_str(), value) {
            ("quota", Value::Object(limits)) => {
                is_changed |= change(into, key, |quota| Ok(merge_quota(quota, limits)))?;
            }
            // Whoever leaves an empty list away says the same.
            ("namespaces", Value::Array(list)) if list.is_empty() && into.get(key).is_none() => {}
            _ if into.get(key).and_then(|text| serde_json::from_str(text).ok()).as_ref() == Some(value) => {}
            _ => {
                into.set(key, value);
                is_changed = true;
            }
        }
    }
    Ok(is_changed)
}

/// Two spellings are in use; the one that is there stays.
fn merge_quota(into: &mut Members, limits: &Map<String, Value>) -> bool {
    let mut is_changed = false;
    for (name, limit) in limits {
        let other = match name.as_str() {
            "cpu" => "cpu_requests",
            "memory" => "memory_requests",
            _ => name,
        };
        let key = if into.get(other).is_some() { other } else { name };
        // A text, or a number as it is.
        let there = into.get(key).unwrap_or_default();
        let there = serde_json::from_str(there).unwrap_or_else(|_| there.to_owned());
        if !same_quantity(&there, limit.as_str().unwrap_or_default()) {
            into.set(key, limit);
            is_changed = true;
        }
    }
    is_changed
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
        for list in
            [r#"{"carol": {}, "carol": {"role": "admin"}}"#, r#"{"carol": {"a\":": 1, "b": 2, "b": 3}}"#]
        {
            assert_eq!(published(Some(list), &entries), Err(PublishError::Twice), "{list}");
        }
        assert_eq!(published(None, &Map::new()), Ok(Some("{}".into())));
    }

    #[test]
    fn what_is_not_ours_stays_to_the_letter() {
        let entries = said(json!({"carol": {"role": "admin", "quota": {"cpu": "2"}}}));
        let list = r#"{"dave":{"n":12345678901234567890123,"f":0.10000000000000000555,"e":1E400,"b":1, "b":2},
            "carol":{"role":"admin","n":1E400,"quota":{"cpu":2,"gpu":1.50}}}"#;
        assert_eq!(published(Some(list), &entries), Ok(None));
        let after = published(Some(&list.replace("\"cpu\":2", "\"cpu\":3")), &entries).unwrap().unwrap();
        insta::assert_snapshot!(after, @r#"{"dave":{"n":12345678901234567890123,"f":0.10000000000000000555,"e":1E400,"b":1, "b":2},"carol":{"role":"admin","n":1E400,"quota":{"cpu":"2","gpu":1.50}}}"#);
    }
}
