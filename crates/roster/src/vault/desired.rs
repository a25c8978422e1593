//! From roster and config to what should be in Vault.

use std::collections::{BTreeMap, BTreeSet};

use crate::k8s_users::{Entry, MapState};
use crate::model::{Person, Roster, Tier};
use crate::name::OsUser;
use crate::plan::Problem;
use crate::vault::policy::{Mark, Rules};
use crate::vault::{
    AliasName, Entity, ROLE_ENDING, Role, Vault, VaultDesired, VaultLook, publish, same_name, subject,
};

const ALL: [&str; 5] = ["create", "read", "update", "delete", "list"];

/// Thinks roster, config and the cluster's list through to single objects. `left` are people who left the roster.
pub fn desired<'u>(
    roster: &Roster,
    config: &Vault,
    map: &MapState,
    left: impl Iterator<Item = &'u OsUser>,
) -> VaultDesired {
    let mut desired = VaultDesired {
        instance: config.instance.clone(),
        max_deletes: config.max_deletes,
        look: VaultLook {
            people_mount: config.people_mount.clone(),
            pipelines_mount: config.pipelines.as_ref().map(|_| config.pipelines_mount.clone()),
            transit_mount: config.transit_mount.clone(),
            k8s_users: config.k8s_users.clone(),
            ..VaultLook::default()
        },
        pipelines: config.pipelines.clone(),
        publish: config.publish.then(|| publish::entries(roster)),
        ..VaultDesired::default()
    };
    if !config.revoke_on_cut {
        desired.kept = left.cloned().collect();
    }
    let mut names: BTreeMap<String, &OsUser> = BTreeMap::new();
    for (user, person) in &roster.users {
        let name = person.k8s_user.as_str().to_lowercase();
        // Vault takes names without their case, so both would have one and the same policy.
        if let Some(other) = names.get(&name) {
            desired.problems.push(Problem {
                subject: subject(user),
                what: "no rights in Vault can be given".into(),
                why: format!("Vault cannot tell `{}` from the one of {other}", person.k8s_user),
                next: "give one of the two another `k8s_user`".into(),
            });
            continue;
        }
        names.insert(name, user);
        one(&mut desired, config, roster, (user, person), map.entry(&person.k8s_user));
    }
    let VaultDesired { look, people, roles, .. } = &mut desired;
    look.entities = people.values().map(|entity| entity.name.clone()).collect();
    look.aliases = people.values().filter_map(|entity| entity.alias.clone()).collect();
    look.roles = roles.keys().cloned().collect();
    desired
}

fn one(
    desired: &mut VaultDesired,
    config: &Vault,
    roster: &Roster,
    (user, person): (&OsUser, &Person),
    entry: Entry<'_>,
) {
    let k8s_user = person.k8s_user.as_str().to_lowercase();
    let alias = alias(desired, config, user, person, entry);
    let mark = Mark {
        instance: config.instance.clone(),
        user: user.clone(),
        entity: k8s_user.clone(),
        alias: alias.clone(),
    };
    let mut policies = BTreeSet::new();
    let mut add = |name: String, rules: Rules| {
        desired.policies.insert(name.clone(), (mark.clone(), rules));
        policies.insert(name);
    };
    let kv = &config.kv_mount;
    let workstation = format!("{}/{user}", config.workstations);
    add(
        format!("workstation-{k8s_user}"),
        rules([
            (format!("{kv}/data/{workstation}/*"), &["read"][..]),
            (format!("{kv}/metadata/{workstation}/*"), &["list", "read"][..]),
        ]),
    );
    if person.tier == Tier::NamespaceOwner {
        let mut all = Rules::new();
        for folder in folders(&mut desired.problems, config, roster, (user, person)) {
            all.extend(rules([
                (format!("{kv}/data/{folder}/*"), &ALL[..]),
                (format!("{kv}/metadata/{folder}/*"), &["delete", "list", "read"][..]),
            ]));
        }
        for namespace in &person.namespaces {
            let creds = format!("{}/creds/{namespace}{ROLE_ENDING}", config.creds_mount);
            all.extend(rules([(creds, &["read", "update"][..])]));
        }
        add(format!("namespace-owner-{k8s_user}"), all);
    }
    if let Some(mount) = &config.transit_mount {
        let key = format!("state-{k8s_user}");
        let rules = rules([
            (format!("{mount}/encrypt/{key}"), &["update"][..]),
            (format!("{mount}/decrypt/{key}"), &["update"][..]),
        ]);
        add(key.clone(), rules);
        desired.keys.insert(key, user.clone());
    }
    if let Some(account) = &config.pipelines {
        for namespace in &person.namespaces {
            let role = Role {
                service_account: account.clone(),
                policies: BTreeSet::from([format!("namespace-owner-{k8s_user}")]),
            };
            // Of a namespace with two owners, the pipelines are the first one's.
            desired.roles.entry(format!("{namespace}{ROLE_ENDING}")).or_insert((user.clone(), role));
        }
    }
    desired.people.insert(user.clone(), Entity { name: k8s_user, alias, policies });
}

/// The folders that are a person's: those of their namespaces, and one of their own. One that is somebody else's too is
/// nobody's.
fn folders(
    problems: &mut Vec<Problem>,
    config: &Vault,
    roster: &Roster,
    (user, person): (&OsUser, &Person),
) -> BTreeSet<String> {
    let own = person.k8s_user.as_str().to_lowercase();
    let mut folders: BTreeSet<String> = person.namespaces.iter().map(ToString::to_string).collect();
    folders.insert(own.clone());
    folders.retain(|folder| {
        let others = || roster.users.iter().filter(|(other, _)| *other != user);
        let is_named = |person: &Person| person.k8s_user.as_str().to_lowercase() == *folder;
        let has = |person: &Person| person.namespaces.iter().any(|namespace| namespace.as_str() == folder);
        let holds_list = config.k8s_users.as_ref().is_some_and(|place| {
            place.mount == config.kv_mount && place.path.starts_with(&format!("{folder}/"))
        });
        let why = if *folder == config.workstations.to_lowercase() {
            "everybody's workstation secrets are there".to_owned()
        } else if holds_list {
            "the cluster's list of people is there".to_owned()
        } else if let Some((other, _)) = others().find(|(_, person)| *folder != own && is_named(person)) {
            format!("`{folder}` is the `k8s_user` of {other}")
        } else if let Some((other, _)) = others().find(|(_, person)| *folder == own && has(person)) {
            format!("`{folder}` is a namespace of {other}")
        } else {
            return true;
        };
        problems.push(Problem {
            subject: subject(user),
            what: format!("no rights in {}/{folder} can be given", config.kv_mount),
            why,
            next: "give the namespace or the person another name".into(),
        });
        false
    });
    folders
}

fn rules<const N: usize>(of: [(String, &[&str]); N]) -> Rules {
    let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    of.into_iter().map(|(path, capabilities)| (path, set(capabilities))).collect()
}

/// What the people's mount knows them by. Without it nobody can log in as them, so it is not made up.
fn alias(
    desired: &mut VaultDesired,
    config: &Vault,
    user: &OsUser,
    person: &Person,
    entry: Entry<'_>,
) -> Option<String> {
    let alias = match (config.alias, entry) {
        (AliasName::Login, _) => Some(person.authentik_user.to_string()),
        (AliasName::Email, entry) => person.email.as_ref().map(ToString::to_string).or(match entry {
            Entry::Known(known) => known.and_then(|known| known.email.as_ref()).map(ToString::to_string),
            Entry::Unknown => None,
        }),
    };
    let taken = alias.as_ref().and_then(|alias| {
        let same = |entity: &&Entity| entity.alias.as_ref().is_some_and(|other| same_name(other, alias));
        desired.people.values().find(same).map(|entity| entity.name.clone())
    });
    if let Some(other) = taken {
        desired.problems.push(Problem {
            subject: subject(user),
            what: "no rights in Vault can be given".into(),
            why: format!("Vault knows {user} and `{other}` by the same name"),
            next: "give each a login or an e-mail address of their own".into(),
        });
        return None;
    }
    if alias.is_none() && matches!(entry, Entry::Known(_)) {
        desired.problems.push(Problem {
            subject: subject(user),
            what: "no rights in Vault can be given".into(),
            why: "neither the roster nor the cluster's map has the e-mail address that Vault knows the person by"
                .into(),
            next: "add `email: …` to the roster, as the identity provider spells it".into(),
        });
    }
    alias
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tier;
    use crate::sample::person;

    #[test]
    fn nobody_gets_a_folder_that_is_somebody_elses_too() {
        let owner = |name: &str, k8s_user: &str, namespaces: &[&str]| {
            let (user, mut person) = person(name, Tier::NamespaceOwner);
            person.k8s_user = k8s_user.parse().unwrap();
            person.namespaces = namespaces.iter().map(|namespace| namespace.parse().unwrap()).collect();
            (user, person)
        };
        let mut people = [
            owner("ann", "ann", &["ann", "shared", "workstation", "platform"]),
            owner("bob", "bob", &["shared", "carol"]),
            owner("carol", "Carol", &["carol-dev"]),
            owner("dora", "carol-dev", &["dora-dev"]),
        ];
        // Who has no folder now may have had one.
        people[2].1.tier = Tier::PowerUser;
        let roster = Roster { users: people.into_iter().collect() };
        let k8s_users = Some("secret/platform/people#k8s_users".parse().unwrap());
        let config = Vault { k8s_users, ..Vault::default() };
        let desired = desired(&roster, &config, &MapState::None, std::iter::empty());
        let folders = |name: &str| {
            let paths = desired.policies[name].1.keys().filter_map(|path| path.strip_prefix("secret/data/"));
            paths.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(folders("namespace-owner-ann"), "ann/* shared/*");
        assert_eq!(folders("namespace-owner-bob"), "bob/* shared/*");
        assert_eq!(folders("namespace-owner-carol-dev"), "dora-dev/*");
        let told: Vec<_> = desired
            .problems
            .iter()
            .map(|problem| format!("{:?}: {}: {}", problem.subject, problem.what, problem.why))
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        User("ann"): no rights in secret/platform can be given: the cluster's list of people is there
        User("ann"): no rights in secret/workstation can be given: everybody's workstation secrets are there
        User("bob"): no rights in secret/carol can be given: `carol` is the `k8s_user` of carol
        User("dora"): no rights in secret/carol-dev can be given: `carol-dev` is a namespace of carol
        "#);
    }
}
