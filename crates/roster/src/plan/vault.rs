//! The steps from what Vault shows to what should be there.
//!
//! - A policy is ours when its first line says so. One of the same name that is not is used when it allows the same, and is
//!   otherwise a problem for a person to solve.
//! - What an entity has beside our policies stays. All that changes of a person's own changes in one write, so that nobody
//!   has yesterday's policies beside today's, nor neither.
//! - A policy goes after whatever names it, so that a later one of the same name gives nothing to those who had it.
//! - Of what could not be read nothing is concluded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::name::OsUser;
use crate::plan::unread::{by_cause, listed};
use crate::plan::{Action, Plan, Problem, Subject};
use crate::vault::{
    Entity, KvField, Mark, ROLE_TTL_S, Role, SeenEntity, SeenRole, VaultDesired, VaultLook, VaultObserved,
    published, same_name, same_policy, subject,
};

/// A change in Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum VaultAction {
    /// Writes a policy.
    WritePolicy {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
    },
    /// Removes a policy.
    DeletePolicy {
        /// Its name.
        name: String,
    },
    /// Makes an entity, and then what the people's mount knows it by.
    MakeEntity {
        /// Its name.
        name: String,
        /// Its policies.
        policies: BTreeSet<String>,
        /// Accessor of the mount, and the name there.
        alias: (String, String),
    },
    /// Replaces the policies of an entity.
    SetPolicies {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// What they were when the plan was made.
        before: BTreeSet<String>,
        /// All that it is to have.
        policies: BTreeSet<String>,
    },
    /// Tells Vault by what the people's mount knows an entity.
    AddAlias {
        /// The entity's id.
        id: String,
        /// Its name.
        name: String,
        /// Accessor of the mount, and the name there.
        alias: (String, String),
    },
    /// Writes a role of an auth method.
    WriteRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's name.
        name: String,
        /// What it gives to whom.
        role: Role,
    },
    /// Removes a role of an auth method.
    DeleteRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's name.
        name: String,
    },
    /// Makes a key in the transit engine.
    MakeKey {
        /// Where the engine is mounted.
        mount: String,
        /// The key's name.
        name: String,
    },
    /// Writes the roster's people into the cluster's list.
    Publish {
        /// Where the list is.
        place: KvField,
        /// What is said of each.
        entries: Map<String, Value>,
    },
}

impl VaultAction {
    /// The kind as the journal and `plan` name it.
    pub fn kind(&self) -> &'static str {
        match self {
            VaultAction::WritePolicy { .. } => "vault-write-policy",
            VaultAction::DeletePolicy { .. } => "vault-delete-policy",
            VaultAction::MakeEntity { .. } => "vault-make-entity",
            VaultAction::SetPolicies { .. } => "vault-set-policies",
            VaultAction::AddAlias { .. } => "vault-add-alias",
            VaultAction::WriteRole { .. } => "vault-write-role",
            VaultAction::DeleteRole { .. } => "vault-delete-role",
            VaultAction::MakeKey { .. } => "vault-make-key",
            VaultAction::Publish { .. } => "vault-publish",
        }
    }

    /// Whether something that is there goes.
    pub fn is_removal(&self) -> bool {
        match self {
            VaultAction::DeletePolicy { .. } | VaultAction::DeleteRole { .. } => true,
            VaultAction::SetPolicies { before, policies, .. } => !policies.is_superset(before),
            _ => false,
        }
    }
}

impl fmt::Display for VaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |policies: &BTreeSet<String>| policies.iter().cloned().collect::<Vec<_>>().join(", ");
        match self {
            VaultAction::WritePolicy { name, .. } => write!(f, "write policy {name}"),
            VaultAction::DeletePolicy { name } => write!(f, "delete policy {name}"),
            VaultAction::MakeEntity { name, policies, alias: (_, alias) } => {
                write!(f, "make entity {name}, known as {alias}, with {}", listed(policies))
            }
            VaultAction::SetPolicies { name, before, policies, .. } => {
                write!(f, "entity {name}:")?;
                let gone: BTreeSet<_> = before.difference(policies).cloned().collect();
                let new: BTreeSet<_> = policies.difference(before).cloned().collect();
                if !gone.is_empty() {
                    write!(f, " take {}", listed(&gone))?;
                }
                if !new.is_empty() {
                    write!(f, "{} give {}", if gone.is_empty() { "" } else { "," }, listed(&new))?;
                }
                Ok(())
            }
            VaultAction::AddAlias { name, alias: (_, alias), .. } => {
                write!(f, "entity {name}: known as {alias}")
            }
            VaultAction::WriteRole { mount, name, .. } => write!(f, "write role {mount}/{name}"),
            VaultAction::DeleteRole { mount, name } => write!(f, "delete role {mount}/{name}"),
            VaultAction::MakeKey { mount, name } => write!(f, "make key {mount}/{name}"),
            VaultAction::Publish { place, .. } => write!(f, "publish people to {place}"),
        }
    }
}

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
    work.write_policies();
    match (accessor, entities) {
        (Some(Some(accessor)), Some(entities)) => work.entities(accessor, entities),
        (Some(None), _) => work.plan.problems.push(Problem {
            subject: Subject::Machine,
            what: "nobody gets rights in Vault".into(),
            why: format!("it has no auth method `{}`", desired.look.people_mount),
            next: "name the one by which people log in: `people_mount` in config.toml".into(),
        }),
        _ => work.unknown_holders = true,
    }
    if let (Some(roles), Some(mount)) = (roles, &desired.look.pipelines_mount) {
        work.write_roles(mount, roles);
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
    /// Policies that may not be given: somebody else's has the name.
    refused: BTreeSet<String>,
    /// The steps after which nothing names a policy any more, by its name.
    freed: BTreeMap<String, Vec<usize>>,
    /// Who has a policy is not known.
    unknown_holders: bool,
}

impl<'a> Work<'a> {
    fn new(desired: &'a VaultDesired, policies: &'a BTreeMap<String, String>, plan: Plan) -> Self {
        let mark = |(name, text): (&'a String, &'a String)| {
            let mark = Mark::of(text).filter(|mark| mark.instance == desired.instance)?;
            Some((name.as_str(), mark))
        };
        let marks = policies.iter().filter_map(mark).collect();
        let (written, refused, freed) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Work { desired, policies, marks, plan, written, refused, freed, unknown_holders: false }
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

    /// Whether a policy that is there is ours and no longer wanted.
    fn is_unwanted(&self, name: &str) -> bool {
        self.marks.get(name).is_some_and(|mark| {
            !self.desired.policies.contains_key(name) && !self.desired.kept.contains(&mark.user)
        })
    }

    /// A role is ours when all that it gives is.
    fn is_ours(&self, role: &SeenRole) -> bool {
        !role.policies.is_empty() && role.policies.iter().all(|name| self.marks.contains_key(name.as_str()))
    }

    fn owner(&self, role: &SeenRole) -> Option<OsUser> {
        role.policies.iter().find_map(|name| self.marks.get(name.as_str())).map(|mark| mark.user.clone())
    }

    fn remove_roles(&mut self, mount: &str, roles: &BTreeMap<String, SeenRole>) {
        for (name, role) in roles {
            let Some(user) = self.owner(role).filter(|_| self.is_ours(role)) else { continue };
            if self.desired.roles.contains_key(name) || self.desired.kept.contains(&user) {
                continue;
            }
            let action = VaultAction::DeleteRole { mount: mount.to_owned(), name: name.clone() };
            let step = self.add(&subject(&user), action, "the roster asks for it no longer");
            for policy in &role.policies {
                self.freed.entry(policy.clone()).or_default().push(step);
            }
        }
    }

    fn write_policies(&mut self) {
        for (name, (mark, text)) in &self.desired.policies {
            let reason = match self.policies.get(name) {
                Some(found) if same_policy(found, text) => {
                    // A mark that says something else must be put right: by it a person's entity is found later.
                    match self.marks.get(name.as_str()) {
                        Some(found) if found != mark => "its first line is not as it should be",
                        _ => continue,
                    }
                }
                Some(_) if self.marks.contains_key(name.as_str()) => "it allows something else",
                Some(_) => {
                    self.refused.insert(name.clone());
                    self.plan.problems.push(Problem {
                        subject: mark.subject(),
                        what: format!("policy {name} is not as the roster says"),
                        why: "it is there already, allows something else, and is not marked as rosterd's"
                            .into(),
                        next: "delete it, and rosterd makes its own; or let it allow the same".into(),
                    });
                    continue;
                }
                None => "it is not there",
            };
            let action = VaultAction::WritePolicy { name: name.clone(), text: text.clone() };
            let step = self.add(&mark.subject(), action, reason);
            self.written.insert(name.clone(), step);
        }
    }

    fn entities(&mut self, accessor: &str, entities: &[SeenEntity]) {
        let mut known = BTreeSet::new();
        let desired = self.desired;
        for (user, entity) in &desired.people {
            let by_alias = entity.alias.as_ref().and_then(|alias| {
                entities.iter().find(|seen| seen.alias.as_ref().is_some_and(|name| same_name(name, alias)))
            });
            let by_name = entities.iter().find(|seen| same_name(&seen.name, &entity.name));
            // Whoever has logged in before has an entity that Vault made up; by that one they are known.
            let Some(seen) = by_alias.or(by_name) else {
                self.make(user, entity, accessor);
                continue;
            };
            known.insert(seen.id.as_str());
            match (&entity.alias, &seen.alias) {
                (Some(alias), None) => {
                    let alias = (accessor.to_owned(), alias.clone());
                    let (id, name) = (seen.id.clone(), seen.name.clone());
                    let action = VaultAction::AddAlias { id, name, alias };
                    self.add(&subject(user), action, "Vault does not know by what the person logs in");
                }
                (Some(alias), Some(other)) if !same_name(alias, other) => {
                    self.plan.problems.push(Problem {
                        subject: subject(user),
                        what: format!("entity {} is not as the roster says", seen.name),
                        why: format!("it is known as {other}, and the roster says {alias}"),
                        next: "delete that alias, if it is the same person's; or give the person another `k8s_user`"
                            .into(),
                    });
                    // Whoever that is must not get what the person should have.
                    self.strip(seen, Some(user));
                    continue;
                }
                _ => {}
            }
            self.give(user, entity, seen);
        }
        for seen in entities.iter().filter(|seen| !known.contains(seen.id.as_str())) {
            self.strip(seen, None);
        }
    }

    fn grantable(&self, entity: &Entity) -> BTreeSet<String> {
        entity.policies.difference(&self.refused).cloned().collect()
    }

    fn make(&mut self, user: &OsUser, entity: &Entity, accessor: &str) {
        // Told already: nobody could log in as it.
        let Some(alias) = &entity.alias else { return };
        let policies = self.grantable(entity);
        let needs = self.needs(user, &policies);
        let action = VaultAction::MakeEntity {
            name: entity.name.clone(),
            policies,
            alias: (accessor.to_owned(), alias.clone()),
        };
        let step = self.add(&subject(user), action, "it is not there");
        self.need(step, needs);
    }

    /// The writes of what is given, and the removals of the person's own: before both, nothing is given.
    fn needs(&self, user: &OsUser, policies: &BTreeSet<String>) -> Vec<usize> {
        let written = policies.iter().filter_map(|name| self.written.get(name).copied());
        let steps = self.plan.steps.iter().enumerate();
        let removals = steps.filter(|(_, step)| {
            step.subject == subject(user)
                && matches!(&step.action, Action::Vault(VaultAction::DeleteRole { .. }))
        });
        written.chain(removals.map(|(index, _)| index)).collect()
    }

    fn give(&mut self, user: &OsUser, entity: &Entity, seen: &SeenEntity) {
        let wanted = self.grantable(entity);
        let gone: BTreeSet<String> = seen
            .policies
            .iter()
            .filter(|name| !wanted.contains(*name) && self.marks.contains_key(name.as_str()))
            .cloned()
            .collect();
        let policies: BTreeSet<String> = seen.policies.difference(&gone).cloned().chain(wanted).collect();
        if policies == seen.policies {
            return;
        }
        let new: BTreeSet<String> = policies.difference(&seen.policies).cloned().collect();
        let needs = self.needs(user, &new);
        let (id, name, before) = (seen.id.clone(), seen.name.clone(), seen.policies.clone());
        let action = VaultAction::SetPolicies { id, name, before, policies };
        let step = self.add(&subject(user), action, "its policies are not those of the roster");
        if !new.is_empty() {
            self.need(step, needs);
        }
        for policy in gone {
            self.freed.entry(policy).or_default().push(step);
        }
    }

    /// Takes from an entity what is ours and no longer wanted; with `whose`, also what that person is to have.
    fn strip(&mut self, seen: &SeenEntity, whose: Option<&OsUser>) {
        let goes = |name: &str| {
            self.marks.get(name).is_some_and(|mark| {
                whose.is_some_and(|user| *user == mark.user) || !self.desired.kept.contains(&mark.user)
            })
        };
        let gone: BTreeSet<String> = seen.policies.iter().filter(|name| goes(name)).cloned().collect();
        let user = gone.iter().find_map(|name| self.marks.get(name.as_str())).map(|mark| mark.user.clone());
        let Some(user) = user else { return };
        let (id, name, before) = (seen.id.clone(), seen.name.clone(), seen.policies.clone());
        let policies = before.difference(&gone).cloned().collect();
        let action = VaultAction::SetPolicies { id, name, before, policies };
        let step = self.add(&subject(&user), action, "the roster gives them to nobody of that name");
        for policy in gone {
            self.freed.entry(policy).or_default().push(step);
        }
    }

    fn write_roles(&mut self, mount: &str, roles: &BTreeMap<String, SeenRole>) {
        let desired = self.desired;
        for (name, (user, role)) in &desired.roles {
            let wanted = SeenRole {
                names: BTreeSet::from([role.service_account.name.clone()]),
                namespaces: BTreeSet::from([role.service_account.namespace.clone()]),
                policies: role.policies.clone(),
                ttl_s: ROLE_TTL_S,
            };
            let reason = match roles.get(name) {
                Some(seen) if *seen == wanted => continue,
                Some(seen) if seen.policies == wanted.policies || self.is_ours(seen) => "it differs",
                Some(_) => {
                    self.plan.problems.push(Problem {
                        subject: subject(user),
                        what: format!("role {mount}/{name} is not as the roster says"),
                        why: "it is there already, and gives policies that are not rosterd's".into(),
                        next: "delete it, and rosterd makes its own".into(),
                    });
                    continue;
                }
                None => "it is not there",
            };
            if !role.policies.is_disjoint(&self.refused) {
                continue;
            }
            let action =
                VaultAction::WriteRole { mount: mount.to_owned(), name: name.clone(), role: role.clone() };
            let needs: Vec<usize> =
                role.policies.iter().filter_map(|name| self.written.get(name).copied()).collect();
            let step = self.add(&subject(user), action, reason);
            self.need(step, needs);
            // What it gave before, it gives no longer.
            for policy in
                roles.get(name).into_iter().flat_map(|seen| seen.policies.difference(&role.policies))
            {
                self.freed.entry(policy.clone()).or_default().push(step);
            }
        }
    }

    fn delete_policies(&mut self) {
        let unwanted: Vec<(String, Mark)> = self
            .marks
            .iter()
            .filter(|(name, _)| self.is_unwanted(name))
            .map(|(name, mark)| ((*name).to_owned(), mark.clone()))
            .collect();
        for (name, mark) in unwanted {
            // Deleted now, it would be found on whoever has it when somebody else's gets the same name.
            if self.unknown_holders {
                continue;
            }
            let action = VaultAction::DeletePolicy { name: name.clone() };
            let step = self.add(&mark.subject(), action, "the roster asks for it no longer");
            let needs = self.freed.get(&name).cloned().unwrap_or_default();
            self.need(step, needs);
        }
    }
}
