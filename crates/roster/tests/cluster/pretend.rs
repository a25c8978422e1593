//! A cluster in memory that takes the steps of a plan as an API server would take them.

use std::collections::{BTreeMap, BTreeSet};

use roster::cluster::{
    self, ClusterDesired, ClusterObserved, Key, Kind, Kubernetes, MANAGER, Owner, Reading, Seen, fields,
};
use roster::k8s_users::MapState;
use roster::model::Roster;
use roster::name::OsUser;
use roster::plan::{self, Action, ClusterAction, Plan, Step};
use serde_json::{Value, json};

pub(crate) fn roster(people: Value) -> Roster {
    serde_json::from_value(json!({"users": people})).unwrap()
}

pub(crate) fn person(name: &str, tier: &str, namespaces: &[&str]) -> Value {
    json!({
        "authentik_user": name, "k8s_user": name, "email": format!("{name}@example.org"), "tier": tier,
        "namespaces": namespaces,
    })
}

pub(crate) fn us() -> Owner {
    Owner { name: MANAGER.into(), applies: true }
}

pub(crate) fn hand() -> Owner {
    Owner { name: "kubectl-edit".into(), applies: false }
}

pub(crate) fn other() -> Owner {
    Owner { name: "terraform".into(), applies: false }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pretend {
    pub(crate) objects: BTreeMap<Key, Seen>,
    pub(crate) unreadable: BTreeSet<Kind>,
    pub(crate) writes: usize,
}

impl Pretend {
    /// An object of somebody else's.
    pub(crate) fn foreign(&mut self, key: Key, content: &Value, owner: &Owner) {
        let fields = fields(content);
        let owners = fields.keys().map(|path| (path.clone(), vec![owner.clone()])).collect();
        self.put(key, fields, owners);
    }

    fn put(&mut self, key: Key, fields: BTreeMap<String, Value>, owners: BTreeMap<String, Vec<Owner>>) {
        self.writes += 1;
        let version = self.writes.to_string();
        let uid = self.objects.get(&key).map_or_else(|| format!("uid-{version}"), |seen| seen.uid.clone());
        self.objects.insert(key.clone(), Seen { key, uid, version, terminating: false, fields, owners });
    }

    /// Somebody writes one field, whatever it was.
    pub(crate) fn edit(&mut self, key: &Key, path: &str, value: Value, owner: &Owner) {
        let seen = self.objects[key].clone();
        let (mut fields, mut owners) = (seen.fields, seen.owners);
        fields.insert(path.into(), value);
        owners.insert(path.into(), vec![owner.clone()]);
        self.put(key.clone(), fields, owners);
    }

    /// Somebody brings an object back from a copy of it: nobody knows any more who set its fields.
    pub(crate) fn restore(&mut self, key: &Key) {
        let seen = self.objects[key].clone();
        self.put(key.clone(), seen.fields, BTreeMap::new());
    }

    pub(crate) fn observe(&self, desired: &ClusterDesired) -> ClusterObserved {
        let mut kinds: BTreeMap<Kind, Reading> =
            Kind::ALL.into_iter().map(|kind| (kind, Reading::Seen(Vec::new()))).collect();
        for seen in self.objects.values() {
            let wanted = desired.objects.contains_key(&seen.key) || seen.is_marked(&desired.instance);
            if let Some(Reading::Seen(all)) = kinds.get_mut(&seen.key.kind)
                && wanted
            {
                all.push(seen.clone());
            }
        }
        for kind in &self.unreadable {
            let refused = Reading::Unreadable { why: "forbidden".into(), next: "allow it".into() };
            kinds.insert(*kind, refused);
        }
        ClusterObserved { kinds }
    }

    pub(crate) fn plan(&self, roster: &Roster, config: &Kubernetes, left: &[OsUser]) -> Plan {
        let desired = cluster::desired(roster, config, &MapState::None, left.iter());
        plan::cluster(&desired, &self.observe(&desired))
    }

    /// Takes a step, or refuses it as a server would.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), String> {
        let Action::Cluster(action) = &step.action else { panic!("{step}") };
        match action {
            ClusterAction::Apply { key, manifest, force } => self.apply(key, manifest, *force),
            ClusterAction::Copy { .. } => panic!("{step}: nobody asked for a copy"),
            ClusterAction::Delete { key, uid, version } => self.delete(key, uid, version),
            ClusterAction::Replace { key, uid, version, manifest } => {
                self.delete(key, uid, version)?;
                self.apply(key, manifest, false)
            }
        }
    }

    fn delete(&mut self, key: &Key, uid: &str, version: &str) -> Result<(), String> {
        assert_ne!(key.kind, Kind::Namespace, "a namespace is never deleted");
        match self.objects.get(key) {
            // Held by a finalizer, a grant is emptied instead.
            Some(seen) if seen.uid == uid && seen.terminating => {
                let empty = json!([]);
                self.objects.get_mut(key).unwrap().fields.insert("/subjects".into(), empty);
                self.writes += 1;
                Ok(())
            }
            Some(seen) if seen.uid == uid && seen.version == version => {
                self.objects.remove(key);
                self.writes += 1;
                Ok(())
            }
            _ => Err("409: it has changed".into()),
        }
    }

    fn apply(&mut self, key: &Key, manifest: &Value, force: bool) -> Result<(), String> {
        if let Some(namespace) = &key.namespace
            && !self.objects.contains_key(&Key::wide(Kind::Namespace, namespace))
        {
            return Err("404: no such namespace".into());
        }
        let before = self.objects.get(key).cloned();
        let (mut fields_now, mut owners) =
            before.as_ref().map_or_else(Default::default, |seen| (seen.fields.clone(), seen.owners.clone()));
        let wanted = fields(manifest);
        for (path, value) in &wanted {
            if before.is_some() && path.starts_with("/roleRef/") && fields_now.get(path) != Some(value) {
                return Err("422: roleRef cannot be changed".into());
            }
            let all = owners.entry(path.clone()).or_default();
            if fields_now.get(path).is_some_and(|now| now != value) {
                let others = all.iter().any(|owner| owner.name != MANAGER);
                if others && !force {
                    return Err(format!("409: {path} belongs to {all:?}"));
                }
                all.clear();
            }
            if !all.contains(&us()) {
                all.push(us());
            }
            fields_now.insert(path.clone(), value.clone());
        }
        // What we declare no longer and nobody else does either is gone.
        owners.iter_mut().filter(|(path, _)| !wanted.contains_key(*path)).for_each(|(path, all)| {
            let had = all.len();
            all.retain(|owner| owner.name != MANAGER);
            if had > 0 && all.is_empty() {
                fields_now.remove(path);
            }
        });
        owners.retain(|_, all| !all.is_empty());
        self.put(key.clone(), fields_now, owners);
        Ok(())
    }

    /// Applies a plan as the daemon does: a step whose need failed is not tried. `fails` says which are to fail.
    pub(crate) fn run(&mut self, plan: &Plan, mut fails: impl FnMut(usize) -> bool) -> Vec<bool> {
        let mut done = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let may = step.needs.iter().all(|need| done[*need]);
            done.push(may && !fails(index) && self.take(step).is_ok());
        }
        done
    }

    /// The roles that grants give to a name.
    pub(crate) fn roles_of(&self, email: &str) -> BTreeSet<String> {
        let grants = self.objects.values().filter(|seen| seen.key.kind.is_grant());
        grants
            .filter(|seen| seen.fields["/subjects"][0]["name"] == email)
            .map(|seen| {
                let role = seen.fields["/roleRef/name"].as_str().unwrap();
                seen.key.namespace.as_ref().map_or_else(|| role.to_owned(), |place| format!("{place}/{role}"))
            })
            .collect()
    }
}
