//! A Vault in memory that takes the steps of a plan as a server would take them.

use std::collections::{BTreeMap, BTreeSet};

use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::name::OsUser;
use roster::plan::{self, Action, Plan, VaultAction};
use roster::vault::{
    self, AliasName, Mark, SeenEntity, SeenRole, Unread, Vault, VaultDesired, VaultObserved, published,
    same_name,
};
use serde_json::{Value, json};

pub(crate) fn roster(people: Value) -> Roster {
    serde_json::from_value(json!({"users": people})).unwrap()
}

pub(crate) fn config() -> Vault {
    Vault {
        address: Some("https://vault.example.org".into()),
        pipelines: Some("ci/deployer".parse().unwrap()),
        transit_mount: Some("transit".into()),
        k8s_users: Some("secret/platform#k8s_users".parse().unwrap()),
        publish: true,
        ..Vault::default()
    }
}

/// Which parts cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Unreadable {
    pub(crate) list: bool,
    pub(crate) policies: bool,
    pub(crate) entities: bool,
    pub(crate) roles: bool,
    /// The mount by which people log in is not there.
    pub(crate) has_no_people: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pretend {
    pub(crate) list: Option<String>,
    pub(crate) policies: BTreeMap<String, String>,
    pub(crate) entities: Vec<SeenEntity>,
    pub(crate) roles: BTreeMap<String, SeenRole>,
    pub(crate) keys: BTreeSet<String>,
    pub(crate) unreadable: Unreadable,
}

impl Pretend {
    pub(crate) fn desired(roster: &Roster) -> VaultDesired {
        vault::desired(roster, &config(), &MapState::None, std::iter::empty())
    }

    /// Where those who leave keep what they have.
    pub(crate) fn plan_without_revoking(&self, roster: &Roster, left: &[OsUser]) -> Plan {
        let config = Vault { revoke_on_cut: false, ..config() };
        let desired = vault::desired(roster, &config, &MapState::None, left.iter());
        plan::vault(&desired, &self.observe(&desired))
    }

    /// Where people are known by an e-mail address, which the roster or a list of people has.
    pub(crate) fn plan_by_email(&self, roster: &Roster, map: &MapState) -> (VaultDesired, Plan) {
        let config = Vault { alias: AliasName::Email, ..config() };
        let desired = vault::desired(roster, &config, map, std::iter::empty());
        let plan = plan::vault(&desired, &self.observe(&desired));
        (desired, plan)
    }

    /// Somebody who has logged in: an entity that Vault made up.
    pub(crate) fn log_in(&mut self, alias: &str) {
        let id = format!("id-{}", self.entities.len());
        let (name, aliases) = (format!("entity_{id}"), BTreeSet::from([alias.to_owned()]));
        let (policies, others) = (BTreeSet::new(), BTreeSet::new());
        self.entities.push(SeenEntity { id, name, policies, aliases, others });
    }

    /// Whoever has a policy of ours is named by its first line, by which they are found when it goes.
    pub(crate) fn assert_holders_are_named(&self) {
        for entity in &self.entities {
            for name in &entity.policies {
                let Some(mark) = self.policies.get(name).and_then(|text| Mark::of(text)) else { continue };
                let is_named = mark.entity == entity.name
                    || mark.alias.as_ref().is_some_and(|alias| entity.aliases.contains(alias));
                assert!(is_named, "{name} of {mark:?} is had by {entity:?}");
            }
        }
    }

    pub(crate) fn plan(&self, roster: &Roster) -> Plan {
        let desired = Self::desired(roster);
        plan::vault(&desired, &self.observe(&desired))
    }

    /// What should be, and what is.
    pub(crate) fn sides(&self, roster: &Roster) -> (VaultDesired, VaultObserved) {
        let desired = Self::desired(roster);
        let observed = self.observe(&desired);
        (desired, observed)
    }

    fn observe(&self, desired: &VaultDesired) -> VaultObserved {
        let marks: Vec<Mark> = self.policies.values().filter_map(|text| Mark::of(text)).collect();
        let is_asked_for = |entity: &SeenEntity| {
            let named = |name: &String| same_name(name, &entity.name);
            let known = |alias: &String| entity.aliases.iter().any(|one| same_name(one, alias));
            desired.look.entities.iter().any(named)
                || desired.look.aliases.iter().any(known)
                || marks.iter().any(|mark| named(&mark.entity) || mark.alias.as_ref().is_some_and(known))
        };
        fn seen<T>(hidden: bool, found: T) -> Result<T, Unread> {
            if hidden { Err(Unread { why: "forbidden".into(), next: "allow it".into() }) } else { Ok(found) }
        }
        let entities = self.entities.iter().filter(|entity| is_asked_for(entity)).cloned().collect();
        VaultObserved {
            list: seen(self.unreadable.list, self.list.clone()),
            accessor: Ok((!self.unreadable.has_no_people).then(|| "auth_oidc_1".into())),
            policies: seen(self.unreadable.policies, self.policies.clone()),
            entities: seen(self.unreadable.entities, entities),
            roles: seen(self.unreadable.roles, self.roles.clone()),
            keys: Ok(self.keys.clone()),
        }
    }

    /// Takes the steps that do not fail and whose needs were done. Tells which were.
    pub(crate) fn run(&mut self, plan: &Plan, fails: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut done: Vec<bool> = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let is_done = !fails(index) && step.needs.iter().all(|need| done[*need]);
            if is_done {
                let Action::Vault(action) = &step.action else { panic!("{step}") };
                self.take(action);
                self.assert_holders_are_named();
            }
            done.push(is_done);
        }
        done
    }

    fn take(&mut self, action: &VaultAction) {
        match action.clone() {
            VaultAction::WritePolicy { name, text } => drop(self.policies.insert(name, text)),
            VaultAction::DeletePolicy { name } => drop(self.policies.remove(&name)),
            VaultAction::MakeEntity { name, policies, alias: (_, alias) } => {
                let id = format!("id-{}", self.entities.len());
                let (aliases, others) = (BTreeSet::from([alias]), BTreeSet::new());
                self.entities.push(SeenEntity { id, name, policies, aliases, others });
            }
            VaultAction::SetPolicies { id, before, policies, .. } => {
                let entity = self.entities.iter_mut().find(|entity| entity.id == id).unwrap();
                assert_eq!(entity.policies, before);
                entity.policies = policies;
            }
            VaultAction::AddAlias { id, alias: (_, alias), .. } => {
                let held = |entity: &SeenEntity| entity.aliases.contains(&alias);
                assert!(!self.entities.iter().any(held));
                self.entities.iter_mut().find(|entity| entity.id == id).unwrap().aliases.insert(alias);
            }
            VaultAction::WriteRole { name, role, .. } => {
                let role = SeenRole {
                    names: BTreeSet::from([role.service_account.name]),
                    namespaces: BTreeSet::from([role.service_account.namespace]),
                    policies: role.policies,
                    ttl_s: 3600,
                    changed: BTreeSet::new(),
                };
                self.roles.insert(name, role);
            }
            VaultAction::DeleteRole { name, .. } => drop(self.roles.remove(&name)),
            VaultAction::MakeKey { name, .. } => drop(self.keys.insert(name)),
            VaultAction::Publish { entries, .. } => {
                if let Some(after) = published(self.list.as_deref(), &entries).unwrap() {
                    self.list = Some(after);
                }
            }
        }
    }
}
