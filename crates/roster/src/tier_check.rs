//! The comparison of tiers with the cluster's `k8s_users` map: a person's rights on the machine and in the
//! cluster are to be the same.

use std::fmt;

use serde_json::{Map, Value};

use crate::model::{Roster, Tier};
use crate::name::{KubeUser, OsUser};

/// What the comparison showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TierCheck {
    /// Tiers that differ: no change is made while there are any.
    pub differences: Vec<Difference>,
    /// People whom the map does not know.
    pub warnings: Vec<Missing>,
}

/// A tier that is not the role in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The account.
    pub os_user: OsUser,
    /// The name in the map.
    pub k8s_user: KubeUser,
    /// What the roster says.
    pub tier: Tier,
    /// What the map says.
    pub role: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { os_user, k8s_user, tier, role } = self;
        write!(f, "{os_user} is `{tier}` in the roster, `{k8s_user}` is `{}` in the map", role.escape_debug())
    }
}

/// A person whom the map does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The account.
    pub os_user: OsUser,
    /// The name that the map does not have.
    pub k8s_user: KubeUser,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the cluster's map has no `{}`, who is {} in the roster", self.k8s_user, self.os_user)
    }
}

/// Why nothing could be compared. That is no difference: the check is skipped and told (invariant 8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierCheckError {
    /// Not JSON, or not an object.
    #[error("the map is no JSON object: {0}")]
    NoObject(String),
    /// A person's entry has no role.
    #[error("the map's entry `{0}` has no text `role`")]
    NoRole(KubeUser),
}

/// Compares every tier but `admin` with the role in `k8s_users_json`, `{k8s_user: {"role": …}}`. Admins are
/// exempt: their rights in the cluster come from elsewhere.
pub fn compare(roster: &Roster, k8s_users_json: &[u8]) -> Result<TierCheck, TierCheckError> {
    let map: Map<String, Value> = serde_json::from_slice(k8s_users_json)
        .map_err(|error| TierCheckError::NoObject(error.to_string()))?;
    let mut check = TierCheck::default();
    for (os_user, person) in roster.users.iter().filter(|(_, person)| person.tier != Tier::Admin) {
        let (os_user, k8s_user) = (os_user.clone(), person.k8s_user.clone());
        let Some(entry) = map.get(k8s_user.as_str()) else {
            check.warnings.push(Missing { os_user, k8s_user });
            continue;
        };
        let role = entry.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| TierCheckError::NoRole(k8s_user.clone()))?;
        if role != person.tier.as_str() {
            check.differences.push(Difference { os_user, k8s_user, tier: person.tier, role: role.into() });
        }
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::person;

    fn people() -> Roster {
        let people = [
            person("alice", Tier::Admin),
            person("bob", Tier::PowerUser),
            person("carol", Tier::NamespaceOwner),
        ];
        Roster { users: people.into_iter().collect() }
    }

    #[test]
    fn the_same_roles_pass_and_admins_and_strangers_are_not_looked_at() {
        let map = br#"{"alice": 7, "bob": {"role": "power-user", "x": 1}, "carol": {"role": "namespace-owner"}, "z": []}"#;
        assert_eq!(compare(&people(), map), Ok(TierCheck::default()));
    }

    #[test]
    fn a_difference_names_both_and_a_missing_entry_is_a_warning() {
        let check = compare(&people(), br#"{"bob": {"role": "admin"}}"#).unwrap();
        let lines: Vec<_> = check.differences.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["bob is `power-user` in the roster, `bob` is `admin` in the map"]);
        let lines: Vec<_> = check.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["the cluster's map has no `carol`, who is carol in the roster"]);
    }

    #[test]
    fn a_map_that_cannot_be_read_is_an_error_and_no_difference_invariant_8() {
        for map in ["", "[]", "null", "{\"bob\": ", "\"{}\"", "{\"bob\": {}}", "{\"bob\": {\"role\": 3}}"] {
            assert!(compare(&people(), map.as_bytes()).is_err(), "{map}");
        }
    }
}
