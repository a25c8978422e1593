//! What one person can reach, and why: what roster and config give beside what is found, on the machine and at each
//! provider. Pure; whoever asks has looked already.

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterDesired, ClusterObserved, Kind, Reading, Seen};
use crate::desired::{Desired, UnitWish};
use crate::model::{Roster, Tier};
use crate::name::OsUser;
use crate::observed::HostObserved;
use crate::plan::Subject;
use crate::vault::{Mark, VaultDesired, VaultObserved, same_name};

/// What a person can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Who.
    pub user: OsUser,
    /// What they may do; nothing when the roster does not have them.
    pub tier: Option<Tier>,
    /// What each place gives them.
    pub places: Vec<Place>,
}

/// The machine, or a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// What is given there.
    pub grants: Vec<Grant>,
    /// Why not everything is known of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// One thing that is given, or should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What.
    pub what: String,
    /// What in roster or config gives it; nothing when they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it is there; nothing when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<bool>,
}

impl Grant {
    fn new(what: impl Into<String>, why: Option<String>, found: Option<bool>) -> Grant {
        Grant { what: what.into(), why, found }
    }
}

impl Place {
    /// A place that could not be looked at.
    pub fn unknown(name: impl Into<String>, why: impl Into<String>) -> Place {
        Place { name: name.into(), grants: Vec::new(), unknown: vec![why.into()] }
    }
}

/// On the machine: account, groups and services. What leads to them from outside is only said.
pub fn on_the_machine(
    user: &OsUser,
    roster: &Roster,
    desired: &Desired,
    observed: &HostObserved,
    tier_groups: &dyn Fn(Tier) -> Vec<String>,
) -> Place {
    let mut place = Place { name: "machine".into(), grants: Vec::new(), unknown: Vec::new() };
    let person = roster.users.get(user);
    let listed = person.map(|person| format!("in the roster, tier {}", person.tier));
    let has_account = observed.accounts.contains_key(user.as_str());
    if listed.is_some() || has_account {
        place.grants.push(Grant::new(format!("account {user}"), listed, Some(has_account)));
    }
    let is_in =
        |group: &str| observed.groups.get(group).is_some_and(|group| group.members.contains(user.as_str()));
    let account = desired.accounts.get(user);
    let mut known = Vec::new();
    for group in account.iter().flat_map(|account| &account.groups) {
        let why = match person {
            Some(person) if tier_groups(person.tier).iter().any(|one| one == group.as_str()) => {
                format!("tier {}", person.tier)
            }
            _ => "`groups` in the roster".into(),
        };
        let found = observed.groups.contains_key(group.as_str()).then(|| is_in(group.as_str()));
        place.grants.push(Grant::new(format!("group {group}"), Some(why), found));
        known.push(group.to_string());
    }
    for name in observed.groups.keys().filter(|name| is_in(name) && !known.contains(name)) {
        place.grants.push(Grant::new(format!("group {name}"), None, Some(true)));
    }
    for unit in account.iter().flat_map(|account| &account.units) {
        let port = unit.port.map_or_else(String::new, |port| format!(" at port {port}"));
        if unit.wish == UnitWish::Running {
            let what = format!("{}{port}", unit.unit);
            place.grants.push(Grant::new(what, Some(format!("service {}", unit.service)), None));
        }
    }
    for domain in person.iter().flat_map(|person| &person.domains) {
        let why = Some("`domains` in the roster".into());
        place.grants.push(Grant::new(format!("domain {domain}"), why, None));
    }
    place
}

/// In the cluster.
pub fn in_the_cluster(
    user: &OsUser,
    roster: &Roster,
    desired: &ClusterDesired,
    observed: &ClusterObserved,
) -> Place {
    let mut place = Place { name: "kubernetes".into(), grants: Vec::new(), unknown: Vec::new() };
    let subject = Subject::User(user.clone());
    let why = roster.users.get(user).map(|person| format!("tier {}", person.tier));
    let seen = |kind: Kind| match observed.kinds.get(&kind) {
        Some(Reading::Seen(all)) => Some(all.as_slice()),
        Some(Reading::NoSuchKind) => Some(&[][..]),
        _ => None,
    };
    for (kind, reading) in &observed.kinds {
        if let Reading::Unreadable { why, .. } = reading {
            place.unknown.push(format!("{kind}s: {why}"));
        }
    }
    let matters = |kind: Kind| kind.is_grant() || matches!(kind, Kind::Namespace | Kind::ResourceQuota);
    for object in desired.objects.values().filter(|object| matters(object.key.kind)) {
        if object.subject == subject {
            let found = seen(object.key.kind).map(|all| all.iter().any(|seen| seen.key == object.key));
            let role =
                object.content.get("roleRef").and_then(|role| role.get("name")).and_then(|n| n.as_str());
            place.grants.push(Grant::new(granted(&object.key.to_string(), role), why.clone(), found));
        }
    }
    let ours =
        Kind::ALL.into_iter().filter(|kind| matters(*kind)).flat_map(|kind| seen(kind).unwrap_or_default());
    let left = |seen: &&Seen| {
        seen.subject() == subject
            && seen.is_of(&desired.instance)
            && !desired.objects.contains_key(&seen.key)
            && !desired.unknown.contains(&seen.key)
    };
    for seen in ours.filter(left) {
        let role = seen.fields.get("/roleRef/name").and_then(|name| name.as_str());
        place.grants.push(Grant::new(granted(&seen.key.to_string(), role), None, Some(true)));
    }
    for key in desired.unknown.iter().filter(|key| key.kind.is_grant()) {
        if seen(key.kind).unwrap_or_default().iter().any(|seen| seen.key == *key && seen.subject() == subject)
        {
            place.unknown.push(format!("{key} is there, and is left while the person's e-mail is not known"));
        }
    }
    place
}

fn granted(key: &str, role: Option<&str>) -> String {
    role.map_or_else(|| key.to_owned(), |role| format!("{key}: {role}"))
}

/// In Vault.
pub fn in_vault(user: &OsUser, roster: &Roster, desired: &VaultDesired, observed: &VaultObserved) -> Place {
    let mut place = Place { name: "vault".into(), grants: Vec::new(), unknown: Vec::new() };
    let why = roster.users.get(user).map(|person| format!("tier {}", person.tier));
    let entity = desired.people.get(user);
    let policies = observed.policies.as_ref().ok();
    let mark = |name: &String| policies.and_then(|all| all.get(name)).and_then(|text| Mark::of(text));
    for unread in [observed.policies.as_ref().err(), observed.entities.as_ref().err()].into_iter().flatten() {
        if !place.unknown.contains(&unread.why) {
            place.unknown.push(unread.why.clone());
        }
    }
    let alias = entity.and_then(|entity| entity.alias.clone());
    let named = entity.map(|entity| entity.name.clone());
    let all = observed.entities.as_ref().ok();
    let is_theirs = |seen: &&crate::vault::SeenEntity| match (&alias, &seen.alias) {
        (Some(alias), Some(seen)) => same_name(alias, seen),
        _ => named.as_ref().is_some_and(|name| same_name(name, &seen.name)),
    };
    let seen = all.and_then(|all| all.iter().find(is_theirs));
    for name in entity.iter().flat_map(|entity| &entity.policies) {
        // A policy that is not there gives nothing to whoever has it.
        let is_there = policies.map(|all| all.contains_key(name));
        let has = all.map(|_| seen.is_some_and(|seen| seen.policies.contains(name)));
        let found = is_there.zip(has).map(|(is_there, has)| is_there && has);
        place.grants.push(Grant::new(format!("policy {name}"), why.clone(), found));
    }
    let wanted = |name: &String| entity.is_some_and(|entity| entity.policies.contains(name));
    let of_seen = seen.iter().flat_map(|seen| &seen.policies);
    // Whoever left has no entity that is looked for by name; what is marked as theirs says it.
    let left = all.into_iter().flatten().flat_map(|seen| &seen.policies);
    let left = left.filter(|name| mark(name).is_some_and(|mark| mark.user == *user));
    let mut more: Vec<&String> = of_seen.chain(left).filter(|name| !wanted(name)).collect();
    more.sort();
    more.dedup();
    place.grants.extend(more.into_iter().map(|name| Grant::new(format!("policy {name}"), None, Some(true))));
    let roles = observed.roles.as_ref().ok();
    for (name, (owner, role)) in &desired.roles {
        if owner == user {
            let found = roles.map(|all| all.get(name).is_some_and(|seen| seen.policies == role.policies));
            place.grants.push(Grant::new(format!("pipelines log in as {name}"), why.clone(), found));
        }
    }
    place
}
