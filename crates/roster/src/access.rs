//! What one person can reach, and why: what roster and config give beside what is found, on the machine and at each
//! provider. Pure; whoever asks has looked already.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterDesired, ClusterObserved, Kind, Reading, Seen};
use crate::config::Config;
use crate::desired::{Desired, UnitWish};
use crate::ledger::Ledger;
use crate::model::{Roster, Tier};
use crate::name::{OsUser, UnitName};
use crate::observed::{Activity, EnvFileState, HostObserved, UnitsObserved};
use crate::plan::{Subject, unseen};
use crate::vault::{Mark, VaultDesired, VaultObserved, same_name};

/// What a person can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Who.
    pub user: OsUser,
    /// What they may do; nothing when the roster does not have them.
    pub tier: Option<Tier>,
    /// Since when somebody who left the roster is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Timestamp>,
    /// Since when the account of somebody who left is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Timestamp>,
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

/// What is known of the machine when somebody asks.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The roster in force, this machine's part of it.
    pub roster: &'a Roster,
    /// The configuration in force.
    pub config: &'a Config,
    /// What should be.
    pub desired: &'a Desired,
    /// What rosterd remembers.
    pub ledger: &'a Ledger,
    /// What is.
    pub observed: &'a HostObserved,
    /// What people's units do, or why nobody knows.
    pub units: Result<&'a UnitsObserved, &'a str>,
}

/// On the machine: account, groups and services. What leads to them from outside is only said.
pub fn on_the_machine(user: &OsUser, machine: &Machine<'_>) -> Place {
    let mut place = Place { name: "machine".into(), grants: Vec::new(), unknown: Vec::new() };
    machine.account(user, &mut place.grants);
    machine.groups(user, &mut place.grants);
    machine.services(user, &mut place);
    machine.ports(user, &mut place.grants);
    let person = machine.roster.users.get(user);
    for domain in person.iter().flat_map(|person| &person.domains) {
        let why = Some("`domains` in the roster".into());
        place.grants.push(Grant::new(format!("domain {domain}"), why, None));
    }
    place
}

impl Machine<'_> {
    /// Since when somebody who left is cut.
    fn cut(&self, user: &OsUser) -> Option<Timestamp> {
        if self.roster.users.contains_key(user) { None } else { self.ledger.cut.get(user).copied() }
    }

    /// An account with its login. A cut leaves the account and closes the login.
    fn account(&self, user: &OsUser, grants: &mut Vec<Grant>) {
        let is_there = self.observed.accounts.contains_key(user.as_str());
        let listed = self.roster.users.get(user).map(|person| format!("in the roster, tier {}", person.tier));
        match self.cut(user) {
            Some(since) if is_there => {
                let is_closed = self.is_closed(user, since);
                let login = if is_closed { "login locked and expired, " } else { "" };
                let why = format!("cut since {}; {login}home kept", since.strftime("%F %TZ"));
                grants.push(Grant::new(format!("account {user}"), Some(why), Some(true)));
                if !is_closed {
                    grants.push(Grant::new("login, not locked or not expired", None, Some(true)));
                }
            }
            _ if listed.is_some() || is_there => {
                grants.push(Grant::new(format!("account {user}"), listed, Some(is_there)));
            }
            _ => {}
        }
    }

    /// Whether a login is closed as a cut closes it: no password, and expired then at the latest.
    fn is_closed(&self, user: &OsUser, since: Timestamp) -> bool {
        let day = since.as_second().div_euclid(86_400);
        let login = self.observed.logins.get(user.as_str());
        login.is_some_and(|login| login.locked && login.expires.is_some_and(|expires| expires <= day))
    }

    fn groups(&self, user: &OsUser, grants: &mut Vec<Grant>) {
        let is_in = |group: &str| {
            self.observed.groups.get(group).is_some_and(|group| group.members.contains(user.as_str()))
        };
        let wanted =
            self.desired.accounts.get(user).map(|account| account.groups.as_slice()).unwrap_or_default();
        let of_tier = self.roster.users.get(user).map(|person| person.tier).and_then(|tier| {
            let policy = self.config.tiers.get(&tier)?;
            Some((tier, &policy.groups))
        });
        for group in wanted {
            let why = match of_tier {
                Some((tier, groups)) if groups.contains(group) => format!("tier {tier}"),
                _ => "`groups` in the roster".into(),
            };
            let is_no_group = !self.observed.groups.contains_key(group.as_str());
            let why =
                if is_no_group { format!("{why}; there is no such group on this machine") } else { why };
            grants.push(Grant::new(format!("group {group}"), Some(why), Some(is_in(group.as_str()))));
        }
        let more = self.observed.groups.keys().filter(|name| is_in(name));
        for name in more.filter(|name| !wanted.iter().any(|group| group.as_str() == *name)) {
            let is_left = self.cut(user).is_some_and(|since| self.is_closed(user, since))
                && !self.config.cut.groups.iter().any(|group| group.as_str() == name);
            let why = is_left.then(|| "the login is closed, and `[cut] groups` does not name it".to_owned());
            grants.push(Grant::new(format!("group {name}"), why, Some(true)));
        }
    }

    fn services(&self, user: &OsUser, place: &mut Place) {
        let runs = |unit: &UnitName| match self.units {
            Ok(units) => {
                let state = units.units.get(unit);
                Some(state.is_some_and(|state| matches!(state.activity, Activity::Active)))
            }
            Err(_) => None,
        };
        let wanted =
            self.desired.accounts.get(user).map(|account| account.units.as_slice()).unwrap_or_default();
        for unit in wanted {
            let port = unit.port.map_or_else(String::new, |port| format!(" at port {port}"));
            let what = format!("{}{port}", unit.unit);
            match &unit.wish {
                UnitWish::Running => {
                    let why = Some(format!("service {}", unit.service));
                    place.grants.push(Grant::new(what, why, runs(&unit.unit)));
                }
                UnitWish::Stopped { .. } if runs(&unit.unit) == Some(true) => {
                    place.grants.push(Grant::new(what, None, Some(true)));
                }
                UnitWish::Stopped { .. } => {}
            }
        }
        let ours = self.ledger.units.get(user).into_iter().flatten();
        for unit in ours.filter(|unit| !wanted.iter().any(|wanted| wanted.unit == **unit)) {
            if runs(unit) == Some(true) {
                place.grants.push(Grant::new(unit.to_string(), None, Some(true)));
            }
        }
        if let Err(why) = self.units {
            place.unknown.push(format!("services: {why}"));
        }
    }

    /// The ports of services without units: whoever runs such a service finds its port in a file.
    fn ports(&self, user: &OsUser, grants: &mut Vec<Grant>) {
        let Some(account) = self.desired.accounts.get(user) else { return };
        let without = self.config.service.iter().filter(|service| service.units.is_empty());
        for service in without.filter(|service| service.tiers.contains(&account.tier)) {
            let port = self.desired.ports.get(&service.name).and_then(|ports| ports.get(user));
            let (Some(at), Some(port)) = (service.port(), port) else { continue };
            let path = at.env_file_of(user);
            let found = match self.observed.env_files.get(&path) {
                Some(EnvFileState::Present { ports, .. }) => {
                    Some(ports.get(at.key).is_some_and(|found| *found == port.to_string()))
                }
                Some(EnvFileState::Absent) => Some(false),
                Some(EnvFileState::Unreadable(_)) | None => None,
            };
            let what = format!("port {port} in {}", path.display());
            grants.push(Grant::new(what, Some(format!("service {}", service.name)), found));
        }
    }
}

/// Why somebody who left has what they had.
const KEPT: &str = "it stays until the account is removed: `revoke_on_cut = false`";

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
    let seen = |kind: Kind| match observed.kinds.get(&kind)? {
        Reading::NoSuchKind => Some(&[][..]),
        reading => reading.seen(),
    };
    place.unknown.extend(unseen(observed).into_iter().map(|unseen| format!("{}: {}", unseen.of, unseen.why)));
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
            && seen.is_marked(&desired.instance)
            && !seen.is_going()
            && !desired.objects.contains_key(&seen.key)
            && !desired.unknown.contains(&seen.key)
    };
    for seen in ours.filter(left) {
        let role = seen.fields.get("/roleRef/name").and_then(|name| name.as_str());
        let is_kept = desired.kept.contains(user);
        let stays = match seen.key.kind {
            Kind::Namespace if why.is_none() => Some("no namespace is deleted when its person leaves"),
            _ => is_kept.then_some(KEPT),
        };
        place.grants.push(Grant::new(
            granted(&seen.key.to_string(), role),
            stays.map(str::to_owned),
            Some(true),
        ));
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
    let is_theirs = |seen: &&crate::vault::SeenEntity| match &alias {
        Some(alias) if !seen.aliases.is_empty() => seen.aliases.iter().any(|seen| same_name(alias, seen)),
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
    let kept = desired.kept.contains(user).then(|| KEPT.to_owned());
    let more = more.into_iter().map(|name| Grant::new(format!("policy {name}"), kept.clone(), Some(true)));
    place.grants.extend(more);
    let roles = observed.roles.as_ref().ok();
    for (name, (owner, role)) in &desired.roles {
        if owner == user {
            let found = roles.map(|all| all.get(name).is_some_and(|seen| seen.policies == role.policies));
            place.grants.push(Grant::new(format!("pipelines log in as {name}"), why.clone(), found));
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::derive::derive;
    use crate::desired::{Ports, UnknownPorts};
    use crate::observed::{GroupEntry, LoginState, PasswdEntry, UnitFile, UnitState};
    use crate::parse;

    const CONFIG: &str = "[tiers.power-user]\ngroups = [\"docker\", \"kvm\"]\n\
        [[service]]\nname = \"t3\"\nbase_port = 3773\nenv_file = \"/etc/t3-serve/{user}.env\"\nport_key = \"T3_PORT\"\n\
        units = [\"t3-serve@{user}.service\"]\n\
        [[service]]\nname = \"notes\"\nbase_port = 4500\nenv_file = \"/etc/notes/{user}.env\"\nport_key = \"PORT\"\n";

    const CUT: &str = "2026-11-20T10:00:00Z";

    /// What `access` says of ann, a line for each grant: `+` is missing, `-` is too much, `?` is not known.
    fn told(
        roster: &str,
        ledger: &Ledger,
        observed: &HostObserved,
        units: Result<&UnitsObserved, &str>,
    ) -> String {
        let roster = parse::roster("roster.yaml", roster.as_bytes()).unwrap();
        let config = parse::config("config.toml", CONFIG.as_bytes()).unwrap();
        let ports = Ports::from([
            ("t3".to_owned().try_into().unwrap(), [(ann(), 3773)].into()),
            ("notes".to_owned().try_into().unwrap(), [(ann(), 4500)].into()),
        ]);
        let desired = derive(&roster, &config, &ports, &UnknownPorts::new(), &BTreeSet::new()).unwrap();
        let machine =
            Machine { roster: &roster, config: &config, desired: &desired, ledger, observed, units };
        let place = on_the_machine(&ann(), &machine);
        let line = |grant: &Grant| {
            let mark = match (&grant.why, grant.found) {
                (None, _) => "-",
                (_, Some(false)) => "+",
                (_, Some(true)) => "=",
                (_, None) => "?",
            };
            format!("{mark} {} ({})", grant.what, grant.why.as_deref().unwrap_or_default())
        };
        let unknown = place.unknown.iter().map(|why| format!("! {why}"));
        place.grants.iter().map(line).chain(unknown).collect::<Vec<_>>().join("\n")
    }

    fn ann() -> OsUser {
        OsUser::new("ann").unwrap()
    }

    const ANN: &str =
        "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user, domains: [ann.example.org]}\n";

    fn machine() -> HostObserved {
        let home = "/home/ann".into();
        let ann = PasswdEntry { uid: 1000, gid: 1000, home, shell: "/bin/bash".into() };
        let docker = GroupEntry { gid: 990, members: ["ann".to_owned()].into() };
        HostObserved {
            accounts: [("ann".to_owned(), ann)].into(),
            groups: [("docker".to_owned(), docker)].into(),
            env_files: [(
                "/etc/notes/ann.env".into(),
                EnvFileState::Present { ports: [("PORT".to_owned(), "4500".to_owned())].into(), mode: 0o600 },
            )]
            .into(),
            ..HostObserved::default()
        }
    }

    fn unit(activity: Activity) -> UnitsObserved {
        let name: UnitName = "t3-serve@ann.service".to_owned().try_into().unwrap();
        let state = UnitState { file: UnitFile::Loaded, activity, enabled: true };
        UnitsObserved { units: [(name, state)].into(), ..UnitsObserved::default() }
    }

    #[test]
    fn services_ports_and_groups_say_whether_they_are_there() {
        let (mut observed, ledger) = (machine(), Ledger::default());
        insta::assert_snapshot!(told(ANN, &ledger, &observed, Ok(&unit(Activity::Active))), @"
        = account ann (in the roster, tier power-user)
        = group docker (tier power-user)
        + group kvm (tier power-user; there is no such group on this machine)
        = t3-serve@ann.service at port 3773 (service t3)
        = port 4500 in /etc/notes/ann.env (service notes)
        ? domain ann.example.org (`domains` in the roster)
        ");
        observed.env_files.clear();
        observed.env_files.insert("/etc/notes/ann.env".into(), EnvFileState::Absent);
        insta::assert_snapshot!(told(ANN, &ledger, &observed, Ok(&unit(Activity::Inactive))), @"
        = account ann (in the roster, tier power-user)
        = group docker (tier power-user)
        + group kvm (tier power-user; there is no such group on this machine)
        + t3-serve@ann.service at port 3773 (service t3)
        + port 4500 in /etc/notes/ann.env (service notes)
        ? domain ann.example.org (`domains` in the roster)
        ");
        let silent = told(ANN, &ledger, &observed, Err("systemd does not answer"));
        assert!(silent.contains("? t3-serve@ann.service at port 3773"), "{silent}");
        assert!(silent.ends_with("! services: systemd does not answer"), "{silent}");
        let parked = ANN.replace("domains", "parked: true, domains");
        let runs = told(&parked, &ledger, &observed, Ok(&unit(Activity::Active)));
        assert!(runs.contains("- t3-serve@ann.service at port 3773"), "{runs}");
        let stopped = told(&parked, &ledger, &observed, Ok(&unit(Activity::Inactive)));
        assert!(!stopped.contains("t3-serve"), "{stopped}");
    }

    /// Account and home of somebody who left stay; what they must not have is the login.
    #[test]
    fn somebody_who_is_cut_as_a_cut_cuts_is_as_the_roster_says() {
        let mut ledger = Ledger { cut: [(ann(), CUT.parse().unwrap())].into(), ..Ledger::default() };
        let mut observed = machine();
        observed.logins.insert("ann".into(), LoginState::CUT);
        insta::assert_snapshot!(told("users:", &ledger, &observed, Ok(&UnitsObserved::default())), @"
        = account ann (cut since 2026-11-20 10:00:00Z; login locked and expired, home kept)
        = group docker (the login is closed, and `[cut] groups` does not name it)
        ");
        for open in [
            LoginState { locked: false, ..LoginState::CUT },
            LoginState { expires: None, ..LoginState::CUT },
            LoginState { expires: Some(90_000), ..LoginState::CUT },
        ] {
            observed.logins.insert("ann".into(), open);
            ledger.units.insert(ann(), ["t3-serve@ann.service".to_owned().try_into().unwrap()].into());
            let told = told("users:", &ledger, &observed, Ok(&unit(Activity::Active)));
            let too_much: Vec<&str> = told.lines().filter(|line| line.starts_with('-')).collect();
            assert_eq!(
                too_much,
                ["- login, not locked or not expired ()", "- group docker ()", "- t3-serve@ann.service ()"]
            );
        }
        // One whose account was removed has nothing, and one who never was here neither.
        assert_eq!(told("users:", &ledger, &HostObserved::default(), Ok(&UnitsObserved::default())), "");
    }
}
