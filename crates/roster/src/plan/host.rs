//! From what should be on the machine to the steps, given what it shows. The order is: who left, who is back,
//! accounts, homes, memberships, the maps, the environment files.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::{Existing, View};
use super::cut::Edges;
use super::homes_gone::HomesGone;
use super::ids::Ids;
use super::{Action, NewAccount, Plan, Problem, Seen, Subject, files, limits};
use crate::config::Config;
use crate::desired::Desired;
use crate::ledger::{Identity, Ledger, Withheld};
use crate::name::{GroupName, OsUser};
use crate::observed::HostObserved;

/// The steps of the machine, and the ids to keep in the ledger before the first of them is applied: whatever is
/// killed when, nobody else gets those ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPlan {
    /// The steps.
    pub plan: Plan,
    /// Ids of accounts that are made or adopted.
    pub identities: BTreeMap<OsUser, Identity>,
    /// What cuts take, of everybody of whom something is withheld.
    pub withheld: BTreeMap<OsUser, Withheld>,
}

/// The steps of the machine. One person's problems take no step from anybody else (invariant 4).
pub fn host(desired: &Desired, config: &Config, ledger: &Ledger, observed: &HostObserved) -> HostPlan {
    let view = View::new(desired, config, ledger, observed);
    let mut ids = Ids::new(ledger, observed);
    let mut plan = Plan::default();
    let mut identities = BTreeMap::new();
    let mut accounts = BTreeMap::new();

    let edges = Edges { desired, config, ledger, observed };
    let withheld = edges.plan(&mut plan);
    plan.problems.extend(view.homes_gone.as_ref().map(HomesGone::problem));

    for (user, made) in new_accounts(desired, &view, &mut ids) {
        match made {
            Ok((account, notices)) => {
                let (uid, gid, subuid, subgid) = (account.uid, account.gid, account.subuid, account.subgid);
                identities
                    .insert(user.clone(), Identity { uid, gid, subuid, subgid, created: true, used: false });
                let is_known = ledger.identities.get(user).is_some_and(|known| known.uid == uid);
                let index = create_account(&mut plan, account, is_known);
                accounts.insert(user, Some(index));
                plan.notices.extend(notices);
                if let Some(removed) = ledger.removed.get(user) {
                    let text = format!(
                        "was removed on {}, and gets a new home; the one of then is kept: to have it back, take them out of the roster, \
                         and `rosterctl restore-account {}` before they join again",
                        removed.since.strftime("%F"),
                        removed.archive
                    );
                    plan.notice(&Subject::User(user.clone()), text);
                }
            }
            Err(problem) => plan.problems.push(problem),
        }
    }

    let mut existing = BTreeMap::new();
    for (user, wanted) in &desired.accounts {
        let Some(entry) = observed.accounts.get(user.as_str()) else { continue };
        match view.existing(user, wanted, entry, &ids) {
            Ok(found) => drop(existing.insert(user, found)),
            Err(problem) => plan.problems.push(problem),
        }
    }
    existing_accounts(&mut plan, &mut identities, &existing);
    accounts.extend(existing.into_keys().map(|user| (user, None)));
    groups_of_new_accounts(&mut plan, desired, observed, &accounts);
    machine_notices(&mut plan, desired, config, observed, &accounts);

    files::maps(&mut plan, desired, config, observed);
    files::managed_settings(&mut plan, config, observed);
    plan.seen.insert(Subject::Machine, Seen::default());
    files::bases(&mut plan, observed);
    files::of_machine(&mut plan, config, observed);
    files::env_files(&mut plan, desired, config, observed, &accounts);
    limits::slices(&mut plan, desired, observed, &identities, &accounts);
    limits::panes(&mut plan, config, observed);
    edges.end_sessions(&mut plan, &withheld);
    HostPlan { plan, identities, withheld }
}

/// The accounts to make, by name. Ids that are known or asked for are given first, so that none of them goes to
/// somebody who would take any.
fn new_accounts<'a>(
    desired: &'a Desired,
    view: &View<'a>,
    ids: &mut Ids<'a>,
) -> BTreeMap<&'a OsUser, Result<(NewAccount, Vec<super::Notice>), Problem>> {
    let absent =
        desired.accounts.iter().filter(|(user, _)| !view.observed.accounts.contains_key(user.as_str()));
    let (certain, others): (Vec<_>, Vec<_>) =
        absent.partition(|(user, wanted)| wanted.uid.is_some() || view.reserved(user, ids).is_some());
    certain.into_iter().chain(others).map(|(user, wanted)| (user, view.absent(user, wanted, ids))).collect()
}

fn create_account(plan: &mut Plan, account: NewAccount, is_known: bool) -> usize {
    let user = account.user.clone();
    let reason = if is_known {
        "in the roster, no such account; the ids are those that the ledger keeps for it"
    } else {
        "in the roster, no such account"
    };
    let inverse = format!("userdel {user} (its home stays)");
    plan.step(&Subject::User(user), Action::CreateAccount(account), reason).inverse = Some(inverse);
    plan.steps.len() - 1
}

fn existing_accounts(
    plan: &mut Plan,
    identities: &mut BTreeMap<OsUser, Identity>,
    existing: &BTreeMap<&OsUser, Existing>,
) {
    for (user, found) in existing {
        plan.notices.extend(found.notices.iter().cloned());
        identities.extend(found.adopted.clone().map(|identity| ((*user).clone(), identity)));
        if let Some(home) = &found.home {
            let inverse = format!("remove {}", home.path.display());
            let reason = "rosterd made the account, its home is gone";
            plan.step(&Subject::User((*user).clone()), Action::CreateHome(home.clone()), reason).inverse =
                Some(inverse);
        }
    }
    for (user, found) in existing {
        for group in &found.groups {
            let action = Action::AddToGroup { user: (*user).clone(), group: group.clone() };
            plan.step(&Subject::User((*user).clone()), action, "the roster or the tier names the group")
                .inverse = Some(format!("gpasswd --delete {user} {group}"));
        }
    }
}

/// Memberships in groups that come with an account of this plan: they wait for that account and for their own.
fn groups_of_new_accounts(
    plan: &mut Plan,
    desired: &Desired,
    observed: &HostObserved,
    accounts: &BTreeMap<&OsUser, Option<usize>>,
) {
    for (user, own_account) in accounts {
        let Some(wanted) = desired.accounts.get(*user) else { continue };
        for group in wanted.groups.iter().filter(|group| group.as_str() != user.as_str()) {
            let Some(account) = new_group(group, observed, accounts) else { continue };
            let action = Action::AddToGroup { user: (*user).clone(), group: group.clone() };
            let step = plan.step(&Subject::User((*user).clone()), action, MEMBERSHIP);
            step.inverse = Some(format!("gpasswd --delete {user} {group}"));
            step.needs.extend([account].into_iter().chain(*own_account));
        }
    }
}

/// The step that makes a group which is not there yet: that of the account of the same name.
fn new_group(
    group: &GroupName,
    observed: &HostObserved,
    accounts: &BTreeMap<&OsUser, Option<usize>>,
) -> Option<usize> {
    let is_there = observed.groups.contains_key(group.as_str());
    let owner = OsUser::new(group.as_str()).ok().filter(|_| !is_there)?;
    accounts.get(&owner).copied().flatten()
}

const MEMBERSHIP: &str = "the roster or the tier names the group";

/// What concerns nobody in particular. The texts name no people, so that each is told once and not whenever
/// somebody joins.
fn machine_notices(
    plan: &mut Plan,
    desired: &Desired,
    config: &Config,
    observed: &HostObserved,
    accounts: &BTreeMap<&OsUser, Option<usize>>,
) {
    let wanted: BTreeSet<&GroupName> =
        desired.accounts.values().flat_map(|account| &account.groups).collect();
    let is_missing = |group: &&GroupName| {
        !observed.groups.contains_key(group.as_str()) && new_group(group, observed, accounts).is_none()
    };
    for group in wanted.into_iter().filter(is_missing) {
        plan.notice(
            &Subject::Machine,
            format!("there is no group `{group}`, so nobody is added to it; `groupadd {group}` and the next run adds them"),
        );
    }
    if config.code.repositories.is_none()
        && desired.accounts.values().any(|account| !account.repos.is_empty())
    {
        plan.notice(
            &Subject::Machine,
            "the roster lists repos, but config.toml does not say where they are ([code] repositories), so none is cloned",
        );
    }
    let makes_some = desired.accounts.keys().any(|user| !observed.accounts.contains_key(user.as_str()));
    if makes_some && !observed.directory_services.is_empty() {
        plan.notice(
            &Subject::Machine,
            format!(
                "nsswitch.conf names {} for passwd: rosterd does not know all ids in there, so give new people a \
                 `uid:` in the roster that is free in it",
                observed.directory_services.join(", ")
            ),
        );
    }
}
