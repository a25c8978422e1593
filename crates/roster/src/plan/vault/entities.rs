//! Who has which entity, and which policies each entity has.

use std::collections::{BTreeMap, BTreeSet};

use super::{VaultAction, Work};
use crate::name::OsUser;
use crate::plan::{Action, Notice, Problem};
use crate::vault::{Entity, SeenEntity, same_name, subject};

/// What an entity has after it has lost what is not its person's, and the step in which it loses that.
type Left = (BTreeSet<String>, Option<usize>);

impl<'a> Work<'a> {
    /// Takes what somebody should not have, writes the policies, and gives them.
    pub(super) fn people(&mut self, accessor: &str, entities: &'a [SeenEntity]) {
        let desired = self.desired;
        let theirs = self.whose(entities);
        let persons: BTreeMap<&str, &OsUser> =
            theirs.iter().map(|(user, seen)| (seen.id.as_str(), *user)).collect();
        let left: BTreeMap<&str, Left> = entities
            .iter()
            .map(|seen| (seen.id.as_str(), self.strip(seen, persons.get(seen.id.as_str()).copied())))
            .collect();
        self.write_policies();
        for (user, entity) in &desired.people {
            match (theirs.get(user), &entity.alias) {
                (Some(seen), alias) => {
                    if let (Some(alias), true) = (alias, seen.aliases.is_empty()) {
                        let alias = (accessor.to_owned(), alias.clone());
                        let (id, name) = (seen.id.clone(), seen.name.clone());
                        let action = VaultAction::AddAlias { id, name, alias };
                        self.add(&subject(user), action, "Vault does not know by what the person logs in");
                    }
                    let left = left.get(seen.id.as_str()).cloned().unwrap_or_default();
                    self.give(user, entity, seen, left);
                }
                (None, Some(alias)) if !entities.iter().any(|seen| could_be(seen, entity, alias)) => {
                    self.make(user, entity, (accessor.to_owned(), alias.clone()));
                }
                _ => {}
            }
        }
    }

    /// The entity of each person who has one. Whoever has logged in before has one that Vault made up; by their alias
    /// they are known, and by the entity's name only where nobody logs in as it.
    fn whose(&mut self, entities: &'a [SeenEntity]) -> BTreeMap<&'a OsUser, &'a SeenEntity> {
        let desired = self.desired;
        let mut theirs: BTreeMap<&OsUser, &SeenEntity> = BTreeMap::new();
        for (user, person) in &desired.people {
            let Some(alias) = &person.alias else { continue };
            let by_alias = entities.iter().find(|seen| is_known_as(seen, alias));
            let by_name = || entities.iter().find(|seen| same_name(&seen.name, &person.name));
            match by_alias.or_else(by_name) {
                None => {}
                Some(seen) if seen.aliases.is_empty() && seen.others.is_empty() => {
                    theirs.insert(user, seen);
                }
                Some(seen) if seen.aliases.len() == 1 && is_known_as(seen, alias) => {
                    theirs.insert(user, seen);
                    if !seen.others.is_empty() {
                        let others: Vec<&str> = seen.others.iter().map(String::as_str).collect();
                        self.plan.notices.push(Notice {
                            subject: subject(user),
                            text: format!(
                                "entity {} is also {}: whoever logs in so has the same in Vault",
                                seen.name,
                                others.join(", ")
                            ),
                        });
                    }
                }
                Some(seen) => {
                    let known: Vec<&str> =
                        seen.aliases.iter().chain(&seen.others).map(String::as_str).collect();
                    self.plan.problems.push(Problem {
                        subject: subject(user),
                        what: format!("entity {} is not as the roster says", seen.name),
                        why: format!("it is known as {}, and the roster says {alias}", known.join(" and ")),
                        next: "delete what is not the same person's; or give the person another `k8s_user`"
                            .into(),
                    });
                }
            }
        }
        // While it is not known by what somebody logs in, only what was known last tells which is theirs.
        for user in desired.people.iter().filter(|(_, person)| person.alias.is_none()).map(|(user, _)| user) {
            let is_free = |seen: &&SeenEntity| !theirs.values().any(|other| other.id == seen.id);
            let found = self.last_alias(user).and_then(|alias| {
                entities.iter().find(|seen| seen.aliases.len() == 1 && is_known_as(seen, alias))
            });
            match found.filter(is_free) {
                Some(seen) => drop(theirs.insert(user, seen)),
                None => drop(self.unknown.insert(user.clone())),
            }
        }
        theirs
    }

    /// By what somebody logged in when that was known, where their policies agree on it.
    pub(super) fn last_alias(&self, user: &OsUser) -> Option<&str> {
        let mut all =
            self.marks.values().filter(|mark| mark.user == *user).filter_map(|mark| mark.alias.as_deref());
        let first = all.next()?;
        all.all(|alias| same_name(alias, first)).then_some(first)
    }

    /// Takes from an entity those of our policies that are not its person's; where it is nobody's, all.
    fn strip(&mut self, seen: &SeenEntity, whose: Option<&OsUser>) -> Left {
        let goes = |name: &str| {
            self.owner(name).is_some_and(|owner| match whose {
                Some(user) => owner != user,
                None => !self.stays(owner),
            })
        };
        let gone: BTreeSet<String> = seen.policies.iter().filter(|name| goes(name)).cloned().collect();
        let left: BTreeSet<String> = seen.policies.difference(&gone).cloned().collect();
        let Some(owner) = gone.iter().find_map(|name| self.owner(name)) else { return (left, None) };
        let (user, reason) = match whose {
            Some(user) => (user, "its policies are not those of the roster"),
            None => (owner, "the roster gives them to nobody of that name"),
        };
        let (id, name, before) = (seen.id.clone(), seen.name.clone(), seen.policies.clone());
        let action = VaultAction::SetPolicies { id, name, before, policies: left.clone() };
        let step = self.add(&subject(user), action, reason);
        self.free(&gone, step);
        (left, Some(step))
    }

    fn give(&mut self, user: &OsUser, entity: &Entity, seen: &SeenEntity, (before, strip): Left) {
        let wanted = self.grantable(entity);
        let goes = |name: &str| !wanted.contains(name) && self.owner(name) == Some(user);
        let gone: BTreeSet<String> = before.iter().filter(|name| goes(name)).cloned().collect();
        let policies: BTreeSet<String> = before.difference(&gone).cloned().chain(wanted).collect();
        if policies == before {
            return;
        }
        let new: BTreeSet<String> = policies.difference(&before).cloned().collect();
        let needs = self.needs(user, &new);
        let (id, name) = (seen.id.clone(), seen.name.clone());
        let action = VaultAction::SetPolicies { id, name, before, policies };
        let step = self.add(&subject(user), action, "its policies are not those of the roster");
        self.need(step, strip);
        if !new.is_empty() {
            self.need(step, needs);
        }
        self.free(&gone, step);
    }

    fn make(&mut self, user: &OsUser, entity: &Entity, alias: (String, String)) {
        let policies = self.grantable(entity);
        let needs = self.needs(user, &policies);
        let action = VaultAction::MakeEntity { name: entity.name.clone(), policies, alias };
        let step = self.add(&subject(user), action, "it is not there");
        self.need(step, needs);
    }

    fn grantable(&self, entity: &Entity) -> BTreeSet<String> {
        entity.policies.difference(&self.refused).cloned().collect()
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
}

fn is_known_as(seen: &SeenEntity, alias: &str) -> bool {
    seen.aliases.iter().any(|one| same_name(one, alias))
}

/// Whether an entity is in the way of a new one.
fn could_be(seen: &SeenEntity, entity: &Entity, alias: &str) -> bool {
    is_known_as(seen, alias) || same_name(&seen.name, &entity.name)
}
