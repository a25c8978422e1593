//! The roles by which pipelines log in.

use std::collections::{BTreeMap, BTreeSet};

use super::{VaultAction, Work};
use crate::name::OsUser;
use crate::plan::{Notice, Problem};
use crate::vault::{ROLE_TTL_S, Role, SeenRole, subject};

impl Work<'_> {
    /// Removes the roles that we made and nobody wants. What bears our ending and gives a policy of ours in another way is
    /// somebody else's.
    pub(super) fn remove_roles(&mut self, mount: &str, roles: &BTreeMap<String, SeenRole>) {
        for (name, role) in roles.iter().filter(|(name, _)| !self.desired.roles.contains_key(*name)) {
            let Some(user) = self.whose_pipeline(role) else { continue };
            if self.desired.kept.contains(&user) {
                continue;
            }
            if self.is_as_made(role) {
                let action = VaultAction::DeleteRole { mount: mount.to_owned(), name: name.clone() };
                let step = self.add(&subject(&user), action, "the roster asks for it no longer");
                self.free(&role.policies, step);
            } else {
                let given: Vec<&str> = role.policies.iter().map(String::as_str).collect();
                self.plan.notices.push(Notice {
                    subject: subject(&user),
                    text: format!(
                        "role {mount}/{name} gives {} and is not as rosterd makes them, so it is left",
                        given.join(", ")
                    ),
                });
                self.held.extend(role.policies.iter().cloned());
            }
        }
    }

    /// Whether it is to the letter what would be written for somebody.
    fn is_as_made(&self, role: &SeenRole) -> bool {
        let mut policies = role.policies.iter();
        let (first, more) = (policies.next(), policies.next());
        let account = self.desired.pipelines.as_ref();
        first.is_some_and(|name| {
            name.starts_with("namespace-owner-") && self.marks.contains_key(name.as_str())
        }) && more.is_none()
            && account.is_some_and(|account| {
                let service_account = account.clone();
                *role == seen_of(&Role { service_account, policies: role.policies.clone() })
            })
    }

    /// Whose policies a role gives.
    fn whose_pipeline(&self, role: &SeenRole) -> Option<OsUser> {
        role.policies.iter().find_map(|name| self.marks.get(name.as_str())).map(|mark| mark.user.clone())
    }

    pub(super) fn write_roles(&mut self, mount: &str, roles: &BTreeMap<String, SeenRole>) {
        let desired = self.desired;
        for (name, (user, role)) in &desired.roles {
            let wanted = seen_of(role);
            let is_ours = |seen: &SeenRole| {
                !seen.policies.is_empty()
                    && seen.policies.iter().all(|name| self.marks.contains_key(name.as_str()))
            };
            let reason = match roles.get(name) {
                Some(seen) if *seen == wanted => continue,
                Some(seen) if seen.policies == wanted.policies || is_ours(seen) => "it differs",
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
            self.free(
                roles.get(name).into_iter().flat_map(|seen| seen.policies.difference(&role.policies)),
                step,
            );
        }
    }
}

/// A role as it is seen when it has been written.
fn seen_of(role: &Role) -> SeenRole {
    SeenRole {
        names: BTreeSet::from([role.service_account.name.clone()]),
        namespaces: BTreeSet::from([role.service_account.namespace.clone()]),
        policies: role.policies.clone(),
        ttl_s: ROLE_TTL_S,
        changed: BTreeSet::new(),
    }
}
