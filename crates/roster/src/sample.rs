//! Small rosters for the tests of this crate.

use crate::model::{Person, Roster, Tier};
use crate::name::OsUser;

/// A person whose login and name in the cluster are that of the account.
pub(crate) fn person(name: &str, tier: Tier) -> (OsUser, Person) {
    let text = format!(r#"{{"authentik_user": "{name}", "k8s_user": "{name}", "tier": "{tier}"}}"#);
    (OsUser::new(name).unwrap(), serde_json::from_str(&text).unwrap())
}

/// People of the floor tier.
pub(crate) fn roster(names: &[&str]) -> Roster {
    Roster { users: names.iter().map(|name| person(name, Tier::NamespaceOwner)).collect() }
}
