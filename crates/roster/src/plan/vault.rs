//! The steps from what Vault shows to what should be there.
//!
//! - A policy is ours when its first line says so. One of the same name that is nobody's becomes ours when it allows the same, and is
//!   otherwise a problem for a person to solve.
//! - What an entity has beside our policies stays. All that changes of a person's own changes in one write, so that nobody
//!   has yesterday's policies beside today's, nor neither.
//! - First goes what somebody has of others', then policies are written, then they are given, and last those go that
//!   nobody has any more. So whoever has a policy is always named by its first line, and is found by that after any failure;
//!   and no policy gets another meaning while somebody has it for the old one.
//! - Of what could not be read nothing is concluded.
//!
//! | part | what it plans |
//! | --- | --- |
//! | `entities` | who has which entity, and the policies of each |
//! | `policies` | the policies themselves |
//! | `roles` | what pipelines log in by |

use std::collections::{BTreeMap, BTreeSet};

use crate::name::OsUser;
use crate::plan::unread::{by_cause, listed};
use crate::plan::{Action, Plan, Problem, Subject};
use crate::vault::{Mark, VaultDesired, VaultLook, VaultObserved, published, subject};

mod action;
mod entities;
mod policies;
mod roles;

pub use action::VaultAction;

/// Plans Vault.
pub fn vault(desired: &VaultDesired, observed: &VaultObserved) -> Plan {
    let mut plan =
        Plan { problems: desired.problems.clone(), notices: desired.notices.clone(), ..Plan::default() };
    for Unseen { what, why, next } in unseen(desired, observed) {
        plan.problems.push(Problem { subject: Subject::Machine, what, why, next });
    }
    let list = desired.look.k8s_users.as_ref().and_then(|_| observed.list.as_ref().ok());
    let policies = observed.policies.as_ref().ok();
    let accessor = observed.accessor.as_ref().ok();
    let entities = observed.entities.as_ref().ok();
    let roles = desired.look.pipelines_mount.as_ref().and_then(|_| observed.roles.as_ref().ok());
    let keys = desired.look.transit_mount.as_ref().and_then(|_| observed.keys.as_ref().ok());
    if let Some(list) = list {
        publish(&mut plan, desired, list.as_deref());
    }
    if let (Some(keys), Some(mount)) = (keys, &desired.look.transit_mount) {
        for (name, user) in desired.keys.iter().filter(|(name, _)| !keys.contains(*name)) {
            let (mount, name) = (mount.clone(), name.clone());
            let action = Action::Vault(VaultAction::MakeKey { mount, name });
            plan.step(&subject(user), action, "it is not there");
        }
    }
    // Whose a role or an entity is shows in its policies.
    let Some(policies) = policies else { return plan };
    let whole = plan.clone();
    let mut work = Work::new(desired, policies, plan);
    if let (Some(roles), Some(mount)) = (roles, &desired.look.pipelines_mount) {
        work.remove_roles(mount, roles);
    }
    match (accessor, entities) {
        (Some(Some(accessor)), Some(entities)) => work.people(accessor, entities),
        (accessor, _) => {
            if accessor.is_some_and(Option::is_none) {
                work.plan.problems.push(Problem {
                    subject: Subject::Machine,
                    what: "nobody gets rights in Vault".into(),
                    why: format!("it has no auth method `{}`", desired.look.people_mount),
                    next: "name the one by which people log in: `people_mount` in config.toml".into(),
                });
            }
            work.unknown_holders = true;
            work.write_policies();
        }
    }
    match (roles, &desired.look.pipelines_mount) {
        (Some(roles), Some(mount)) => work.write_roles(mount, roles),
        (None, Some(_)) => work.unknown_holders = true,
        (_, None) => {}
    }
    work.delete_policies();
    let removals = work.plan.steps.iter().filter(|step| is_removal(&step.action)).count();
    if removals > desired.max_deletes {
        let mut plan = whole;
        plan.steps.clear();
        plan.problems.push(Problem {
            subject: Subject::Machine,
            what: format!("{removals} things would be taken away in Vault, so nothing is changed there"),
            why: format!("that is more than `vault.max_deletes`, which is {}", desired.max_deletes),
            next: "look at `rosterctl derive`; if it is meant, raise `max_deletes` in config.toml".into(),
        });
        return plan;
    }
    work.plan
}

fn is_removal(action: &Action) -> bool {
    matches!(action, Action::Vault(action) if action.is_removal())
}

/// Why something of Vault could not be read.
struct Unseen {
    /// What, and what follows from it.
    what: String,
    why: String,
    next: String,
}

/// What could not be read, by cause. Each part is named with where it is, as the policy of docs/identity.md names it.
fn unseen(desired: &VaultDesired, observed: &VaultObserved) -> Vec<Unseen> {
    let VaultLook { k8s_users, pipelines_mount, transit_mount, .. } = &desired.look;
    let parts = [
        k8s_users
            .as_ref()
            .map(|place| (format!("the list of people ({place})"), observed.list.as_ref().err())),
        Some(("the policies (sys/policies/acl)".to_owned(), observed.policies.as_ref().err())),
        Some(("the auth methods (sys/auth)".to_owned(), observed.accessor.as_ref().err())),
        // Without the accessor they are not asked for.
        observed
            .accessor
            .is_ok()
            .then(|| ("the entities (identity/entity)".to_owned(), observed.entities.as_ref().err())),
        pipelines_mount
            .as_ref()
            .map(|mount| (format!("the roles (auth/{mount}/role)"), observed.roles.as_ref().err())),
        transit_mount
            .as_ref()
            .map(|mount| (format!("the keys ({mount}/keys)"), observed.keys.as_ref().err())),
    ];
    let asked = parts.iter().flatten().count();
    let unread = parts.into_iter().flatten().filter_map(|(what, unread)| {
        let unread = unread?;
        Some((what, unread.why.as_str(), unread.next.as_str()))
    });
    let told = |(parts, why, next): (Vec<String>, &str, &str)| Unseen {
        what: match parts.len() == asked {
            true => "Vault cannot be read, so nothing is done there".into(),
            false => format!("{} of Vault cannot be read, so nothing is done about them", listed(&parts)),
        },
        why: why.to_owned(),
        next: next.to_owned(),
    };
    by_cause(unread).into_iter().map(told).collect()
}

fn publish(plan: &mut Plan, desired: &VaultDesired, list: Option<&str>) {
    let (Some(entries), Some(place)) = (&desired.publish, &desired.look.k8s_users) else { return };
    match published(list, entries) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let action = VaultAction::Publish { place: place.clone(), entries: entries.clone() };
            plan.step(&Subject::Machine, Action::Vault(action), "the list differs from the roster");
        }
        Err(error) => plan.problems.push(Problem {
            subject: Subject::Machine,
            what: format!("{place} is not as the roster says"),
            why: error.to_string(),
            next: "mend it by hand".into(),
        }),
    }
}

/// A plan that grows.
struct Work<'a> {
    desired: &'a VaultDesired,
    /// What is there.
    policies: &'a BTreeMap<String, String>,
    /// Those of them that are ours.
    marks: BTreeMap<&'a str, Mark>,
    plan: Plan,
    /// The steps that write policies, by name.
    written: BTreeMap<String, usize>,
    /// Policies that may not be given: what is there of the name is somebody else's.
    refused: BTreeSet<String>,
    /// The steps after which nobody has a policy any more who should not, by its name.
    freed: BTreeMap<String, Vec<usize>>,
    /// Policies that roles of others name.
    held: BTreeSet<String>,
    /// Who has a policy is not known.
    unknown_holders: bool,
    /// People of whom it is not known which entity is theirs: nothing of theirs is given or taken.
    unknown: BTreeSet<OsUser>,
}

impl<'a> Work<'a> {
    fn new(desired: &'a VaultDesired, policies: &'a BTreeMap<String, String>, plan: Plan) -> Self {
        let mark = |(name, text): (&'a String, &'a String)| {
            let mark = Mark::of(text).filter(|mark| mark.instance == desired.instance)?;
            Some((name.as_str(), mark))
        };
        Work {
            desired,
            policies,
            marks: policies.iter().filter_map(mark).collect(),
            plan,
            written: BTreeMap::new(),
            refused: BTreeSet::new(),
            freed: BTreeMap::new(),
            held: BTreeSet::new(),
            unknown_holders: false,
            unknown: BTreeSet::new(),
        }
    }

    fn add(&mut self, subject: &Subject, action: VaultAction, reason: impl Into<String>) -> usize {
        self.plan.step(subject, Action::Vault(action), reason);
        self.plan.steps.len() - 1
    }

    fn need(&mut self, step: usize, needs: impl IntoIterator<Item = usize>) {
        if let Some(step) = self.plan.steps.get_mut(step) {
            let needs: BTreeSet<usize> = step.needs.iter().copied().chain(needs).collect();
            step.needs = needs.into_iter().collect();
        }
    }

    /// Notes that after a step nobody has these any more who should not.
    fn free<'n>(&mut self, policies: impl IntoIterator<Item = &'n String>, step: usize) {
        for policy in policies {
            self.freed.entry(policy.clone()).or_default().push(step);
        }
    }

    /// Whose a policy of ours is: as the roster says, or else as its first line does. One that is to be made is ours too:
    /// its name may have been left behind. Of others nothing is said.
    fn owner(&self, name: &str) -> Option<&OsUser> {
        let mark = self.marks.get(name);
        if mark.is_none() && self.policies.contains_key(name) {
            return None;
        }
        let wanted = self.desired.policies.get(name).map(|(mark, _)| &mark.user);
        wanted.or(mark.map(|mark| &mark.user))
    }

    /// Whether somebody's policies stay where they are, whatever the roster says.
    fn stays(&self, user: &OsUser) -> bool {
        self.desired.kept.contains(user) || self.unknown.contains(user)
    }
}
