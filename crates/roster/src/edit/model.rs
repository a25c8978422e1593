//! The changes on the roster itself: what the changed text must say.

use serde_json::{Map, Value};

use crate::edit::field::{Assignment, Kind};
use crate::edit::{Edit, EditError};
use crate::model::{Person, Roster};
use crate::name::OsUser;
use crate::parse::reader::nearest;

/// The roster with its changes; nothing when a value is not even of the right type, which the parser tells better.
pub(super) fn apply(roster: &Roster, edits: &[Edit]) -> Result<Option<Roster>, EditError> {
    let mut roster = roster.clone();
    for edit in edits {
        let user = edit.user();
        let known = roster.users.get(user);
        let (fields, mut person) = match (edit, known) {
            (Edit::Add { .. }, Some(_)) => return Err(EditError::Exists(user.clone())),
            (Edit::Add { fields, .. }, None) => (fields, Map::new()),
            (_, None) => {
                let near = nearest(user.as_str(), roster.users.keys().map(OsUser::as_str)).map(str::to_owned);
                return Err(EditError::NoSuchUser { user: user.clone(), near });
            }
            (Edit::Remove { .. } | Edit::CommentOut { .. }, Some(_)) => {
                roster.users.remove(user);
                continue;
            }
            (Edit::Set { fields, .. }, Some(person)) => match serde_json::to_value(person) {
                Ok(Value::Object(person)) => (fields, person),
                _ => return Ok(None),
            },
        };
        for field in fields {
            set(&mut person, field, user)?;
        }
        let Ok(person) = serde_json::from_value::<Person>(Value::Object(person)) else { return Ok(None) };
        roster.users.insert(user.clone(), person);
    }
    Ok(Some(roster))
}

fn set(person: &mut Map<String, Value>, field: &Assignment, user: &OsUser) -> Result<(), EditError> {
    let Some((outer, inner)) = field.path.split_once('.') else {
        let value = value(person.get(field.path), field, user)?;
        put(person, field.path, value);
        return Ok(());
    };
    let mut fields = match person.get(outer) {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    let was_empty = fields.is_empty();
    put(&mut fields, inner, value(None, field, user)?);
    // Without its last field it goes as a whole.
    if fields.is_empty() && !was_empty {
        person.remove(outer);
    } else if !fields.is_empty() || person.contains_key(outer) {
        person.insert(outer.to_owned(), Value::Object(fields));
    }
    Ok(())
}

fn put(fields: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(fields.insert(key.to_owned(), value)),
        None => drop(fields.remove(key)),
    }
}

fn value(old: Option<&Value>, field: &Assignment, user: &OsUser) -> Result<Option<Value>, EditError> {
    if field.is_list() {
        let old: Vec<String> = match old {
            Some(Value::Array(items)) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        let list = field.list(&old);
        let list =
            list.map_err(|item| EditError::NotListed { user: user.clone(), field: field.path, item })?;
        return Ok((!list.is_empty()).then(|| list.into()));
    }
    let text = field.value.as_str();
    Ok(match field.kind {
        _ if text.is_empty() => None,
        Kind::Bool => Some(text.parse::<bool>().map_or_else(|_| text.into(), Value::from)),
        Kind::Number => Some(text.parse::<u64>().map_or_else(|_| text.into(), Value::from)),
        _ => Some(text.into()),
    })
}
