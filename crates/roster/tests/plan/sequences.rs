//! Whatever sequence of edits a roster sees: joining, leaving, returning, tiers, parking, logins, hosts, and kills.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use roster::config::Config;
use roster::hosts;
use roster::model::Roster;
use roster::name::HostName;
use roster::observed::{EnvFileState, FileState, LoginState};
use roster::plan::Action;
use serde_json::{Map, Value, json};

use crate::machine::{Machine, roster};

const NAMES: [&str; 6] = ["al", "bo", "cy", "di", "ed", "fay"];

/// One edit of the roster.
#[derive(Debug, Clone)]
enum Edit {
    Put(&'static str, &'static str),
    Leave(&'static str),
    Tier(&'static str, &'static str),
    Park(&'static str, bool),
    /// Another login at the identity provider.
    Login(&'static str, u8),
    Host(&'static str, &'static str),
    /// Limits of their own, or those of the tier again.
    Limit(&'static str, Option<u32>),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let name = || select(&NAMES[..]);
    let tier = || select(vec!["admin", "power-user"]);
    prop_oneof![
        3 => (name(), tier()).prop_map(|(name, tier)| Edit::Put(name, tier)),
        2 => name().prop_map(Edit::Leave),
        1 => (name(), tier()).prop_map(|(name, tier)| Edit::Tier(name, tier)),
        1 => (name(), any::<bool>()).prop_map(|(name, parked)| Edit::Park(name, parked)),
        1 => (name(), 0u8..4).prop_map(|(name, number)| Edit::Login(name, number)),
        1 => (name(), select(vec!["devvm", "other", "*"])).prop_map(|(name, host)| Edit::Host(name, host)),
        1 => (name(), prop::option::of(100u32..104)).prop_map(|(name, tasks)| Edit::Limit(name, tasks)),
    ]
}

fn apply(people: &mut Map<String, Value>, edit: &Edit) {
    let mut set = |name: &str, key: &str, value: Value| {
        if let Some(person) = people.get_mut(name) {
            person[key] = value;
        }
    };
    match edit {
        Edit::Put(name, tier) => drop(people.insert((*name).into(), json!({"tier": tier}))),
        Edit::Leave(name) => drop(people.remove(*name)),
        Edit::Tier(name, tier) => set(name, "tier", json!(tier)),
        Edit::Park(name, parked) => set(name, "parked", json!(parked)),
        Edit::Login(name, number) => set(name, "authentik_user", json!(format!("{name}.{number}"))),
        Edit::Host(name, host) => set(name, "hosts", json!([host])),
        Edit::Limit(name, tasks) => {
            set(name, "limits", json!(tasks.map(|tasks| json!({"tasks_max": tasks}))))
        }
    }
}

fn text(machine: &Machine, path: &std::path::Path) -> String {
    match &machine.host.files[path] {
        FileState::Present { content, .. } => String::from_utf8(content.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What a machine should be by its last roster, without what is only ever added to (ids, ports, older groups, files of
/// people who left) and in no order that comes from those.
#[derive(Debug, PartialEq)]
struct Picture {
    admins: String,
    logins: BTreeSet<String>,
    targets: BTreeMap<String, Value>,
    /// By person and service, the key of the port.
    ports: BTreeSet<(String, String)>,
    /// By person.
    limits: BTreeMap<String, String>,
    cut: usize,
    withheld: usize,
}

fn picture(machine: &Machine, here: &BTreeSet<String>) -> Picture {
    let maps = &machine.config.maps;
    let dispatch: BTreeMap<String, Value> = serde_json::from_str(&text(machine, &maps.dispatch)).unwrap();
    let mut ports = BTreeSet::new();
    for user in here {
        for service in machine.config.service.iter() {
            let Some(at) = service.port() else { continue };
            let name = user.parse().unwrap();
            let Some(EnvFileState::Present { ports: found, .. }) =
                machine.host.env_files.get(&at.env_file_of(&name))
            else {
                continue;
            };
            // What the ledger, the file and the map say is one port.
            let kept = machine.ledger.ports[&service.name][&name].to_string();
            assert_eq!(found.get(at.key), Some(&kept), "{user}");
            if service.name.as_str() == "t3" {
                let sent = dispatch.values().find(|to| to["os_user"] == user.as_str()).unwrap();
                assert_eq!(sent["port"].to_string(), kept, "{user}");
            }
            ports.insert((user.clone(), at.key.to_owned()));
        }
    }
    let uid = |path: &std::path::Path| {
        let slice = path.display().to_string();
        slice.strip_prefix("/etc/systemd/system/user-")?.split('.').next()?.parse::<u32>().ok()
    };
    let limits = machine.host.drop_ins.iter().map(|(path, state)| {
        let FileState::Present { content, .. } = state else { panic!("{path:?}") };
        let whose = machine.host.accounts.iter().find(|(_, entry)| Some(entry.uid) == uid(path));
        (whose.unwrap().0.clone(), String::from_utf8(content.clone()).unwrap())
    });
    Picture {
        admins: text(machine, &maps.ttyd_admins),
        // In the order of their ports, which stay.
        logins: text(machine, &maps.ttyd_user_map).lines().map(str::to_owned).collect(),
        targets: dispatch.iter().map(|(login, to)| (login.clone(), to["os_user"].clone())).collect(),
        ports,
        limits: limits.collect(),
        cut: machine.ledger.cut.keys().filter(|user| here.contains(user.as_str())).count(),
        withheld: machine.ledger.withheld.keys().filter(|user| here.contains(user.as_str())).count(),
    }
}

fn groups_of(machine: &Machine, name: &str) -> BTreeSet<String> {
    let is_in = |(_, group): &(&String, &roster::observed::GroupEntry)| group.members.contains(name);
    machine.host.groups.iter().filter(is_in).map(|(group, _)| group.clone()).collect()
}

fn config() -> Config {
    let text = "[tiers.admin.limits]\nmemory_max = \"8G\"\n[tiers.power-user.limits]\nmemory_max = \"4G\"\ntasks_max = 400\n";
    roster::parse::config("config.toml", text.as_bytes()).unwrap()
}

/// A machine on which `al` and `bo` had accounts before, with passwords, `al` in a gate group.
fn machine() -> Machine {
    let mut machine = Machine { config: config(), ..Machine::fresh() };
    machine.add_account("al", 1000);
    machine.add_account("bo", 1001);
    machine.host.logins.insert("bo".into(), LoginState { locked: false, expires: Some(30_000) });
    machine.add_group("gate", 500);
    machine.host.groups.get_mut("gate").unwrap().members.insert("al".into());
    machine.config.cut.groups = vec![roster::name::GroupName::new("gate").unwrap()];
    machine.config.cut.end_sessions = true;
    machine
}

fn login_before(name: &str) -> LoginState {
    match name {
        "al" => LoginState { locked: false, expires: None },
        "bo" => LoginState { locked: false, expires: Some(30_000) },
        // Made by rosterd, with a locked password.
        _ => LoginState { locked: true, expires: None },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn two_hundred_sequences_of_edits_cut_once_keep_all_data_and_end_like_a_fresh_machine_invariant_6(
        edits in prop::collection::vec((any_edit(), prop::option::of(0usize..25)), 1..25),
    ) {
        let host = HostName::new("devvm").unwrap();
        let mut machine = machine();
        let mut people = Map::new();
        let mut here: BTreeSet<String> = BTreeSet::new();
        let mut ever: BTreeSet<String> = BTreeSet::new();
        let mut ports: BTreeMap<_, BTreeMap<_, u16>> = BTreeMap::new();
        let mut part = Roster::default();
        for (edit, killed_after) in edits {
            apply(&mut people, &edit);
            part = hosts::part(&roster(Value::Object(people.clone())), &host);
            let before = machine.clone();
            let mut ended = BTreeSet::new();
            let mut run = |machine: &mut Machine, writes| {
                let run = machine.run_until_killed(&part, writes);
                ended.extend(run.plan.steps.into_iter().filter_map(|step| match step.action {
                    Action::EndSessions { user, .. } => Some(user.to_string()),
                    _ => None,
                }));
            };
            if let Some(writes) = killed_after {
                run(&mut machine, writes);
            }
            run(&mut machine, usize::MAX);
            let quiet = machine.clone().run(&part).plan;
            prop_assert!(quiet.steps.is_empty(), "{:#?}", quiet.steps);
            prop_assert!(quiet.problems.is_empty(), "{:#?}", quiet.problems);

            let now: BTreeSet<String> = part.users.keys().map(ToString::to_string).collect();
            let told: Vec<_> = machine.edges.drain(..).map(|(user, edge)| (user.to_string(), edge)).collect();
            let left = here.difference(&now).map(|user| (user.clone(), "cut"));
            let back = now.difference(&here).filter(|user| ever.contains(*user));
            let mut expected: Vec<_> = left.chain(back.map(|user| (user.clone(), "return"))).collect();
            expected.sort();
            let mut told_sorted = told.clone();
            told_sorted.sort();
            prop_assert_eq!(told_sorted, expected, "each edge once, at the edge");
            prop_assert!(ended.iter().all(|user| here.contains(user) && !now.contains(user)), "{:?}", ended);
            ever.extend(now.iter().cloned());
            here = now;

            // No data touched: every account, home and id is what it was.
            for (name, entry) in &before.host.accounts {
                prop_assert_eq!(Some(entry), machine.host.accounts.get(name));
            }
            for (path, home) in &before.homes {
                prop_assert_eq!(Some(home), machine.homes.get(path));
            }
            for (service, users) in &machine.ledger.ports {
                for (user, port) in users {
                    let known = ports.entry(service.clone()).or_default().entry(user.clone()).or_insert(*port);
                    prop_assert_eq!(known, port, "a port moved");
                }
            }
            for name in &ever {
                let expected = if here.contains(name) { login_before(name) } else { LoginState::CUT };
                prop_assert_eq!(machine.host.logins[name], expected, "{}", name);
            }
            let in_gate = groups_of(&machine, "al").contains("gate");
            prop_assert_eq!(in_gate, here.contains("al") || !ever.contains("al"));
        }

        let mut fresh = Machine { config: config(), ..Machine::fresh() };
        fresh.run(&part);
        prop_assert_eq!(picture(&machine, &here), picture(&fresh, &here));
        let cut: BTreeSet<String> = machine.ledger.cut.keys().map(ToString::to_string).collect();
        prop_assert_eq!(cut, ever.difference(&here).cloned().collect::<BTreeSet<_>>());
        for name in &here {
            prop_assert!(machine.host.accounts.contains_key(name));
            prop_assert!(groups_of(&machine, name).is_superset(&groups_of(&fresh, name)));
        }
    }
}
