//! From roster and config to what should be in Vault.

use std::collections::{BTreeMap, BTreeSet};

use crate::k8s_users::{Entry, MapState};
use crate::model::{Person, Roster, Tier};
use crate::name::OsUser;
use crate::plan::{Notice, Problem};
use crate::vault::policy::{Mark, Rules, text};
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
        // A folder of their own must not be what belongs to somebody else.
        let is_taken = name == config.workstations.to_lowercase()
            || roster.users.iter().any(|(other, person)| {
                other != user && person.namespaces.iter().any(|namespace| namespace.as_str() == name)
            });
        names.insert(name, user);
        one(&mut desired, config, (user, person), map.entry(&person.k8s_user), is_taken);
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
    (user, person): (&OsUser, &Person),
    entry: Entry<'_>,
    is_taken: bool,
) {
    let k8s_user = person.k8s_user.as_str().to_lowercase();
    let alias = alias(desired, config, user, person, entry);
    let mark = Mark {
        instance: config.instance.clone(),
        user: user.clone(),
        entity: k8s_user.clone(),
        alias: alias.clone(),
    };
    if is_taken && person.tier == Tier::NamespaceOwner {
        desired.notices.push(Notice {
            subject: subject(user),
            text: format!(
                "{}/{k8s_user} is somebody else's folder, so they get none of that name",
                config.kv_mount
            ),
        });
    }
    let mut policies = BTreeSet::new();
    let mut add = |name: String, rules: Rules| {
        desired.policies.insert(name.clone(), (mark.clone(), text(&mark, &rules)));
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
        let folders = person.namespaces.iter().map(|namespace| namespace.as_str());
        for folder in folders.chain((!is_taken).then_some(k8s_user.as_str())) {
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
    use crate::cluster::PlacedName;
    use crate::model::Tier;
    use crate::sample::person;

    #[test]
    fn nobody_gets_the_folder_of_somebody_elses_namespace() {
        let mut people = [person("carol", Tier::NamespaceOwner), person("dora", Tier::NamespaceOwner)];
        people[0].1.namespaces = vec!["carol-dev".parse().unwrap()];
        people[1].1.namespaces = vec!["dora-dev".parse().unwrap()];
        people[1].1.k8s_user = "carol-dev".parse().unwrap();
        let roster = Roster { users: people.into_iter().collect() };
        let pipelines = Some(PlacedName::try_from("ci/deployer".to_owned()).unwrap());
        let config = Vault { pipelines, ..Vault::default() };
        let desired = desired(&roster, &config, &MapState::None, std::iter::empty());
        let text = &desired.policies["namespace-owner-carol-dev"].1;
        assert!(text.contains("secret/data/dora-dev/*") && !text.contains("secret/data/carol-dev"), "{text}");
        assert_eq!(desired.notices.len(), 1);
        assert!(desired.policies["namespace-owner-carol"].1.contains("secret/data/carol-dev/*"));
    }
}
