//! What holds for every roster on every machine.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use roster::model::Roster;
use roster::observed::{EnvFileState, HomeFolder, HostObserved, SubordinateRange};
use roster::plan::{Action, Plan};
use serde_json::{Value, json};

use crate::machine::{Machine, roster, user};

const NAMES: [&str; 7] = ["al", "bo", "cy", "di", "ed", "fay", "gus"];

fn any_person() -> impl Strategy<Value = Value> {
    let groups = subsequence(vec!["sudo", "docker", "users", "nogroup", "al"], 0..3);
    let uid = prop_oneof![4 => Just(None), 1 => (998u32..1010).prop_map(Some)];
    let tier = select(vec!["admin", "power-user", "namespace-owner"]);
    let tasks = prop_oneof![2 => Just(None), 1 => select(vec![Some(100u32), Some(200)])];
    (groups, uid, tier, any::<bool>(), tasks).prop_map(|(groups, uid, tier, parked, tasks)| {
        let mut person = json!({"groups": groups, "tier": tier, "parked": parked});
        if let Some(uid) = uid {
            person["uid"] = uid.into();
        }
        if let Some(tasks) = tasks {
            person["limits"] = json!({"tasks_max": tasks});
        }
        person
    })
}

fn any_roster() -> impl Strategy<Value = Roster> {
    prop::collection::btree_map(select(&NAMES[..]), any_person(), 0..=NAMES.len()).prop_map(|people| {
        roster(people.into_iter().map(|(name, person)| (name.to_owned(), person)).collect())
    })
}

/// Accounts, groups, memberships, homes, subordinate ids and environment files of an earlier life, in any state.
fn any_machine() -> impl Strategy<Value = Machine> {
    let some_names = || prop::collection::btree_map(select(&NAMES[..]), 990u32..1012, 0..4);
    let members = prop::collection::vec((select(vec!["sudo", "docker"]), select(&NAMES[..])), 0..4);
    let homes = prop::collection::btree_map(
        select(&NAMES[..]),
        prop_oneof![
            (995u32..1010).prop_map(|uid| HomeFolder::Folder { uid, mode: 0o750 }),
            Just(HomeFolder::Other("a symlink".into())),
        ],
        0..3,
    );
    let env = prop::collection::btree_map(
        select(&NAMES[..]),
        (select(vec!["3773", "3775", "8931", "80", "x", ""]), select(vec![0o600u32, 0o644, 0o400])),
        0..4,
    );
    let limits = (1000u32..1003, 1003u32..1100, select(vec![0u32, 65_536]));
    (some_names(), some_names(), some_names(), members, homes, env, limits).prop_map(
        |(accounts, groups, foreign, members, homes, env, (uid_min, uid_max, count))| {
            let mut machine = Machine::fresh();
            let limits = &mut machine.host.limits;
            (limits.uid_min, limits.uid_max, limits.gid_min, limits.gid_max) =
                (uid_min, uid_max, uid_min, uid_max);
            (limits.sub_uid_count, limits.sub_gid_count) = (count, count);
            for (name, uid) in accounts {
                machine.add_account(name, uid);
                let line = SubordinateRange { owner: name.into(), start: 100_000 + uid * 7, count: 500 };
                machine.host.subuids.push(line);
            }
            for (name, gid) in groups {
                machine
                    .host
                    .groups
                    .entry(name.into())
                    .or_insert_with(|| roster::observed::GroupEntry { gid, members: BTreeSet::new() });
            }
            for (group, member) in members {
                machine.host.groups.get_mut(group).unwrap().members.insert(member.into());
            }
            machine.host.foreign_accounts =
                foreign.into_iter().map(|(name, uid)| (user(name), uid)).collect();
            machine
                .homes
                .extend(homes.into_iter().map(|(name, home)| (format!("/home/{name}").into(), home)));
            for (name, (port, mode)) in env {
                let ports = BTreeMap::from([("T3_PORT".to_owned(), port.to_owned())]);
                machine.host.env_files.insert(
                    format!("/etc/t3-serve/{name}.env").into(),
                    EnvFileState::Present { ports, mode },
                );
            }
            machine
        },
    )
}

/// Nothing that was there is gone or changed (invariant 1).
fn only_grew(before: &HostObserved, after: &HostObserved) -> Result<(), TestCaseError> {
    for (name, entry) in &before.accounts {
        prop_assert_eq!(Some(entry), after.accounts.get(name));
    }
    for (name, group) in &before.groups {
        let now = &after.groups[name];
        prop_assert_eq!(group.gid, now.gid);
        prop_assert!(now.members.is_superset(&group.members), "{} lost a member", name);
    }
    prop_assert!(after.subuids.starts_with(&before.subuids) && after.subgids.starts_with(&before.subgids));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_second_run_has_no_steps_invariant_9(machine in any_machine(), people in any_roster()) {
        let mut machine = machine;
        let first = machine.run(&people);
        let after = machine.clone();
        let second = machine.run(&people);
        prop_assert!(second.plan.steps.is_empty(), "{:#?}", second.plan.steps);
        prop_assert_eq!(&machine, &after);
        prop_assert_eq!(&second.desired, &first.desired);
        prop_assert_eq!(&second.plan.problems, &first.plan.problems);
    }

    #[test]
    fn a_run_only_adds_invariant_1(machine in any_machine(), people in any_roster()) {
        let mut after = machine.clone();
        after.run(&people);
        only_grew(&machine.host, &after.host)?;
        let owner = |home: &HomeFolder| match home {
            HomeFolder::Folder { uid, .. } => Ok(*uid),
            other => Err(other.clone()),
        };
        for (path, home) in &machine.homes {
            prop_assert_eq!(owner(home), owner(&after.homes[path]));
        }
    }

    #[test]
    fn new_ids_are_nobody_elses(machine in any_machine(), people in any_roster()) {
        let (_, planned, _) = machine.plan(&people);
        let host = machine.observe(&people);
        let mut uids: BTreeSet<u32> = host.accounts.values().map(|entry| entry.uid).collect();
        uids.extend(host.foreign_accounts.values());
        let mut gids: BTreeSet<u32> = host.groups.values().map(|group| group.gid).collect();
        let mut ranges: Vec<(u32, u32)> =
            host.subuids.iter().map(|line| (line.start, line.start + line.count)).collect();
        for step in planned.plan.steps {
            let Action::CreateAccount(account) = step.action else { continue };
            let limits = &host.limits;
            prop_assert!((limits.uid_min..=limits.uid_max).contains(&account.uid));
            prop_assert!(uids.insert(account.uid), "uid {} is taken", account.uid);
            prop_assert!(gids.insert(account.gid), "gid {} is taken", account.gid);
            if let Some((start, count)) = account.subuid {
                let end = start + count;
                prop_assert!(ranges.iter().all(|(from, to)| end <= *from || *to <= start));
                ranges.push((start, end));
            }
            prop_assert_eq!(&planned.identities[&account.user].uid, &account.uid);
        }
    }

    #[test]
    fn whatever_write_a_kill_comes_behind_the_next_run_converges_invariant_5(
        machine in any_machine(),
        people in any_roster(),
        writes in 0usize..30,
    ) {
        let mut whole = machine.clone();
        let planned = whole.run(&people).plan;
        let mut killed = machine;
        killed.run_until_killed(&people, writes);
        let resumed = killed.run(&people).plan;
        // The same problems, though a uid's holder may be known by the ledger alone where it had an account before.
        let facts = |plan: &Plan| -> Vec<_> {
            plan.problems.iter().map(|problem| (problem.subject.clone(), problem.what.clone())).collect()
        };
        prop_assert_eq!(facts(&resumed), facts(&planned));
        // Only the order of lines in the user database may differ.
        for lines in [&mut killed.host.subuids, &mut whole.host.subuids] {
            lines.sort_by(|a, b| a.owner.cmp(&b.owner));
        }
        prop_assert_eq!(killed, whole);
    }

    /// Whatever a `useradd` beside takes between two tries, nobody who joins is kept out for good, and no account
    /// is given an id of another.
    #[test]
    fn whoever_takes_reserved_ids_keeps_no_newcomer_out(
        tries in prop::collection::vec((0usize..4, any::<bool>()), 1..6),
        names in subsequence(&NAMES[..], 1..=4),
    ) {
        let mut machine = Machine::fresh();
        let people = roster(names.iter().map(|name| ((*name).to_owned(), json!({}))).collect());
        for (number, (writes, takes_reserved)) in tries.into_iter().enumerate() {
            // Killed before `passwd`, and before the homes: only the ledger has the ids.
            machine.run_until_killed(&people, 0);
            let reserved: Vec<u32> = machine.ledger.identities.values().map(|ids| ids.uid).collect();
            let uid = if takes_reserved { reserved[writes % reserved.len()] } else { 1500 + number as u32 };
            if machine.host.accounts.values().all(|entry| entry.uid != uid) {
                machine.add_account(&format!("other{number}"), uid);
            }
        }
        let run = machine.run(&people);
        prop_assert!(run.plan.problems.is_empty(), "{:#?}", run.plan.problems);
        let uids: BTreeSet<u32> = machine.host.accounts.values().map(|entry| entry.uid).collect();
        prop_assert_eq!(uids.len(), machine.host.accounts.len());
        prop_assert!(names.iter().all(|name| machine.host.accounts.contains_key(*name)));
        prop_assert!(machine.ledger.identities.values().all(|ids| ids.used));
        prop_assert!(machine.run(&people).plan.steps.is_empty());
    }

    #[test]
    fn ids_and_ports_never_move_and_cuts_are_edges_invariant_6(
        machine in any_machine(),
        rosters in prop::collection::vec(any_roster(), 1..7),
        removed in prop::collection::vec(select(&NAMES[..]), 6),
    ) {
        let mut machine = machine;
        let mut uid_of: BTreeMap<String, u32> = BTreeMap::new();
        let mut ports = machine.ledger.ports.clone();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut ever_cut: BTreeSet<String> = BTreeSet::new();
        for (people, removed) in rosters.into_iter().zip(removed) {
            let before = machine.clone();
            machine.run(&people);
            only_grew(&before.host, &machine.host)?;
            for (user, identity) in &machine.ledger.identities {
                let uid = uid_of.entry(user.to_string()).or_insert(identity.uid);
                prop_assert_eq!(*uid, identity.uid, "the uid of {} moved", user);
                let made = identity.created.then_some(identity.uid);
                let same = machine.ledger.identities.values().filter(|other| Some(other.uid) == made).count();
                prop_assert!(same <= 1, "uid {} has two names", identity.uid);
            }
            for (service, users) in &ports {
                for (user, port) in users {
                    prop_assert_eq!(machine.ledger.ports[service].get(user), Some(port));
                }
            }
            ports = machine.ledger.ports.clone();

            let now: BTreeSet<String> = people.users.keys().map(ToString::to_string).collect();
            let told: BTreeSet<_> = machine.edges.drain(..).map(|(user, edge)| (user.to_string(), edge)).collect();
            let left = listed.difference(&now).map(|user| (user.clone(), "cut"));
            let back = now.intersection(&ever_cut).filter(|user| !listed.contains(*user));
            let expected: BTreeSet<_> = left.chain(back.map(|user| (user.clone(), "return"))).collect();
            prop_assert_eq!(told, expected);
            ever_cut.extend(listed.difference(&now).cloned());
            listed = now;

            // Somebody removes an account by hand, as `userdel` does it. The ledger remembers.
            if machine.ledger.identities.get(&user(removed)).is_some_and(|ids| ids.created) {
                machine.host.accounts.remove(removed);
                machine.host.groups.remove(removed);
                machine.host.groups.values_mut().for_each(|group| {
                    group.members.remove(removed);
                });
                machine.host.subuids.retain(|line| line.owner != removed);
                machine.host.subgids.retain(|line| line.owner != removed);
            }
        }
    }
}
