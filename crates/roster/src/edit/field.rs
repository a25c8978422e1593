//! The fields of a person as an admin names them on a command line: `tier=power-user`, `repos+=website`,
//! `quota.cpu=4`, `email=`.

use std::fmt;
use std::str::FromStr;

use crate::parse::reader::nearest;

/// What a field holds, and so how its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Number,
    /// Names, apart by commas.
    List,
    /// Lines, each given by itself.
    Lines,
    /// Fields of its own.
    Fields,
}

/// Every field with its second spelling, if it has one. A test holds it to the JSON Schema.
pub(super) const FIELDS: &[(&str, Option<&str>, Kind)] = &[
    ("authentik_user", None, Kind::Text),
    ("k8s_user", None, Kind::Text),
    ("email", None, Kind::Text),
    ("tier", None, Kind::Text),
    ("namespaces", None, Kind::List),
    ("code_layout", None, Kind::Text),
    ("repos", None, Kind::List),
    ("domains", None, Kind::List),
    ("quota", None, Kind::Fields),
    ("quota.cpu", Some("cpu_requests"), Kind::Text),
    ("quota.memory", Some("memory_requests"), Kind::Text),
    ("quota.memory_limits", None, Kind::Text),
    ("quota.storage", None, Kind::Text),
    ("quota.pods", None, Kind::Text),
    ("parked", None, Kind::Bool),
    ("claude_auth", None, Kind::Bool),
    ("forgejo", None, Kind::Fields),
    ("forgejo.user", None, Kind::Text),
    ("forgejo.push", None, Kind::Text),
    ("shell", None, Kind::Text),
    ("uid", None, Kind::Number),
    ("groups", None, Kind::List),
    ("ssh_keys", None, Kind::Lines),
    ("limits", None, Kind::Fields),
    ("limits.memory_max", None, Kind::Text),
    ("limits.memory_swap_max", None, Kind::Text),
    ("limits.cpu_weight", None, Kind::Number),
    ("limits.io_weight", None, Kind::Number),
    ("limits.tasks_max", None, Kind::Number),
    ("hosts", None, Kind::List),
];

/// What is done to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It gets this value; without a value it goes.
    Set,
    /// The list gets these too.
    Add,
    /// The list loses these.
    Take,
}

/// One field and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub(super) path: &'static str,
    pub(super) other_spelling: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) operation: Operation,
    pub(super) value: String,
}

/// Why a text is no assignment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// There is no sign in it.
    #[error("`{0}` is not FIELD=VALUE; a list takes also FIELD+=VALUE and FIELD-=VALUE")]
    NoSign(String),
    /// No such field.
    #[error("there is no field `{field}`{}", near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// What was given.
        field: String,
        /// What was probably meant.
        near: Option<&'static str>,
    },
    /// It is no list.
    #[error("`{0}` is not a list; write `{0}=VALUE`")]
    NotAList(&'static str),
    /// It has fields of its own.
    #[error("`{0}` has fields of its own, such as `{1}`; `{0}=` takes all of it away")]
    HasFields(&'static str, &'static str),
    /// It would be more than one line.
    #[error("the value of `{0}` holds a line break or another control character")]
    Control(&'static str),
}

impl Assignment {
    /// `field` is one of a person's, such as `tier` or `quota.cpu`.
    pub fn new(field: &str, operation: Operation, value: &str) -> Result<Self, AssignmentError> {
        let known = FIELDS.iter().find(|(path, _, _)| *path == field);
        let Some(&(path, other_spelling, kind)) = known else {
            let near = nearest(field, FIELDS.iter().map(|(path, _, _)| *path));
            return Err(AssignmentError::Unknown { field: field.to_owned(), near });
        };
        if operation != Operation::Set && !matches!(kind, Kind::List | Kind::Lines) {
            return Err(AssignmentError::NotAList(path));
        }
        if kind == Kind::Fields && !value.is_empty() {
            let inner = FIELDS.iter().find(|(other, _, _)| inner_of(other, path));
            return Err(AssignmentError::HasFields(path, inner.map_or("", |(path, _, _)| path)));
        }
        if value.contains(char::is_control) {
            return Err(AssignmentError::Control(path));
        }
        Ok(Assignment { path, other_spelling, kind, operation, value: value.trim().to_owned() })
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<&str> {
        match self.kind {
            Kind::Lines if !self.value.is_empty() => vec![&self.value],
            _ => self.value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Lines)
    }

    /// The list `old` after it.
    pub(super) fn list(&self, old: &[String]) -> Result<Vec<String>, String> {
        let items = self.items();
        let mut list: Vec<String> = match self.operation {
            Operation::Set => Vec::new(),
            Operation::Add | Operation::Take => old.to_vec(),
        };
        for item in items {
            match (self.operation, list.iter().position(|listed| listed == item)) {
                (Operation::Take, Some(at)) => drop(list.remove(at)),
                (Operation::Take, None) => return Err(item.to_owned()),
                (Operation::Add, Some(_)) => {}
                // What is given twice is the parser's to tell.
                (Operation::Set, _) | (Operation::Add, None) => list.push(item.to_owned()),
            }
        }
        Ok(list)
    }
}

fn inner_of(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
}

impl FromStr for Assignment {
    type Err = AssignmentError;

    fn from_str(text: &str) -> Result<Self, AssignmentError> {
        let (field, value) =
            text.split_once('=').ok_or_else(|| AssignmentError::NoSign(text.escape_debug().to_string()))?;
        let (field, operation) = if let Some(field) = field.strip_suffix('+') {
            (field, Operation::Add)
        } else if let Some(field) = field.strip_suffix('-') {
            (field, Operation::Take)
        } else {
            (field, Operation::Set)
        };
        Assignment::new(field, operation, value)
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.operation {
            Operation::Set => "=",
            Operation::Add => "+=",
            Operation::Take => "-=",
        };
        write!(f, "{}{sign}{}", self.path, self.value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_assignment_names_a_field_that_there_is() {
        for text in
            ["tier=admin", "repos+=a,b", "repos-=a", "quota.cpu=4", "email=", "ssh_keys+=ssh-rsa AA= a,b"]
        {
            assert_eq!(text.parse::<Assignment>().unwrap().to_string(), text);
        }
        let errors = ["tier", "teir=admin", "tier+=admin", "quota=4", "email=a\nb", "=x", "quota.cpus=4"];
        let errors = errors.map(|text| text.parse::<Assignment>().unwrap_err().to_string()).join("\n");
        insta::assert_snapshot!(errors, @"
        `tier` is not FIELD=VALUE; a list takes also FIELD+=VALUE and FIELD-=VALUE
        there is no field `teir`; did you mean `tier`?
        `tier` is not a list; write `tier=VALUE`
        `quota` has fields of its own, such as `quota.cpu`; `quota=` takes all of it away
        the value of `email` holds a line break or another control character
        there is no field ``
        there is no field `quota.cpus`; did you mean `quota.cpu`?
        ");
    }

    #[test]
    fn every_field_of_a_person_can_be_set() {
        let schema = crate::schema::roster().to_value();
        let mut known = BTreeSet::new();
        for (name, property) in schema["$defs"]["Person"]["properties"].as_object().unwrap() {
            known.insert(name.clone());
            let alternatives = property["anyOf"].as_array().into_iter().flatten();
            for inner in alternatives.chain([property]).filter_map(|property| property["$ref"].as_str()) {
                let inner = schema.pointer(inner.trim_start_matches('#')).unwrap();
                for field in inner["properties"].as_object().into_iter().flatten() {
                    known.insert(format!("{name}.{}", field.0));
                }
            }
        }
        let spellings = FIELDS.iter().flat_map(|(path, other, _)| {
            let holder = path.split('.').next().unwrap_or_default();
            [Some((*path).to_owned()), other.map(|other| format!("{holder}.{other}"))].into_iter().flatten()
        });
        assert_eq!(known, spellings.collect());
    }
}
