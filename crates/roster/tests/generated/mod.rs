//! Rosters at random, each of them valid.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use roster::model::{CodeLayout, Forgejo, Limits, Person, Push, Quota, Roster, Tier};
use roster::name::{
    Domain, Email, GroupName, HostGlob, KubeUser, Login, MemorySize, Namespace, OsUser, Quantity, RepoName,
    Shell, SshKey,
};

/// Values of a name type that match `pattern` and what the type asks beyond it.
fn name<T: std::str::FromStr + std::fmt::Debug>(pattern: &str) -> impl Strategy<Value = T> + use<T> {
    proptest::string::string_regex(pattern)
        .unwrap()
        .prop_filter_map("refused by the type", |text| text.parse().ok())
}

fn list<T: Ord + std::fmt::Debug>(items: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    btree_set(items, 0..3).prop_map(|items| items.into_iter().collect()).prop_shuffle()
}

fn quantity() -> impl Strategy<Value = Option<Quantity>> {
    option::of(name("[0-9]{1,4}(\\.[0-9]{1,2})?(m|k|M|G|Ki|Mi|Gi|Ti)?"))
}

fn quota() -> impl Strategy<Value = Quota> {
    let pods = option::of(name("[0-9]{1,4}"));
    (quantity(), quantity(), quantity(), quantity(), pods).prop_map(
        |(cpu, memory, memory_limits, storage, pods)| Quota { cpu, memory, memory_limits, storage, pods },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let max = option::of(name::<MemorySize>("[1-9][0-9]{0,3}G|[1-9][0-9]?%|infinity"));
    let swap = option::of(name::<MemorySize>("[0-9]{1,4}[KMGT]?"));
    (max, swap, option::of(1..=10_000_u32), option::of(1..=10_000_u32), option::of(32..=4_194_304_u32))
        .prop_map(|(memory_max, memory_swap_max, cpu_weight, io_weight, tasks_max)| Limits {
            memory_max,
            memory_swap_max,
            cpu_weight,
            io_weight,
            tasks_max,
        })
}

/// A person whose own fields fit each other; what two people may not share is made different by `unique`.
fn person() -> impl Strategy<Value = Person> {
    let who = (
        option::of(name::<Email>("[a-z0-9.+_-]{1,12}@[a-z0-9]{1,8}\\.org")),
        select(Tier::ALL.to_vec()),
        btree_set(name::<Namespace>("[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"), 1..3),
    );
    let code = (any::<bool>(), list(name::<RepoName>("[A-Za-z0-9][A-Za-z0-9._-]{0,10}")));
    let rights = (
        list(name::<Domain>("[a-z0-9]{1,8}\\.(example|lab)\\.org")),
        option::of(quota()),
        any::<bool>(),
        any::<bool>(),
        option::of(select(vec![Push::None, Push::Collaborator, Push::Whitelist])),
    );
    let account = (
        option::of(name::<Shell>("/[a-z]{1,8}/[a-z.+-]{1,8}")),
        option::of(1000..=60_000_u32),
        list(name::<GroupName>("[a-z_][a-z0-9_-]{0,12}")),
        list(name::<SshKey>("ssh-(ed25519|rsa) AAAA[A-Za-z0-9+/]{64}( [a-z: #@-]{0,10}[a-z])?")),
        option::of(limits()),
        list(name::<HostGlob>("[a-z0-9*?]([a-z0-9.*?-]{0,8}[a-z*])?")),
    );
    (who, code, rights, account).prop_map(
        |(
            (email, tier, namespaces),
            (workspace, repos),
            (domains, quota, parked, claude_auth, push),
            account,
        )| {
            let (shell, uid, groups, ssh_keys, limits, hosts) = account;
            let owner = tier == Tier::NamespaceOwner;
            Person {
                authentik_user: Login::new("x").unwrap(),
                k8s_user: KubeUser::new("x").unwrap(),
                email,
                tier,
                namespaces: if owner { namespaces.into_iter().collect() } else { Vec::new() },
                code_layout: if workspace { CodeLayout::Workspace } else { CodeLayout::Single },
                repos: if workspace {
                    repos.into_iter().filter(|repo| repo.as_str() != "infra").collect()
                } else {
                    Vec::new()
                },
                domains,
                quota,
                parked,
                claude_auth,
                forgejo: push.map(|push| Forgejo { user: Login::new("x").unwrap(), push }),
                shell,
                uid,
                groups,
                ssh_keys,
                limits,
                hosts,
            }
        },
    )
}

/// Gives each person what nobody else has, and takes away what an earlier one has already.
fn unique(people: BTreeMap<OsUser, (Person, String)>) -> Roster {
    let mut taken = std::collections::BTreeSet::new();
    let mut users = BTreeMap::new();
    for (number, (os_user, (mut person, login))) in people.into_iter().enumerate() {
        let numbered = format!("{number}{login}");
        person.authentik_user = Login::new(numbered.clone()).unwrap();
        person.k8s_user = KubeUser::new(numbered.clone()).unwrap();
        if let Some(forgejo) = &mut person.forgejo {
            forgejo.user = Login::new(numbered).unwrap();
        }
        person.email = person.email.filter(|email| taken.insert(email.to_string()));
        person.uid = person.uid.filter(|uid| taken.insert(uid.to_string()));
        person.domains.retain(|domain| taken.insert(domain.to_string()));
        users.insert(os_user, person);
    }
    Roster { users }
}

pub(crate) fn roster() -> impl Strategy<Value = Roster> {
    let login = "[A-Za-z._+-]{0,6}(@[a-z]{1,6})?";
    btree_map(
        name::<OsUser>("[a-z_][a-z0-9_-]{0,31}"),
        (person(), proptest::string::string_regex(login).unwrap()),
        0..6,
    )
    .prop_map(unique)
}
