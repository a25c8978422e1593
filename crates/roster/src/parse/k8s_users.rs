//! The rules of the cluster's list of people. It is JSON, which the YAML front end reads as well.

use std::collections::BTreeSet;

use crate::diagnostic::quoted;
use crate::k8s_users::{K8sUser, K8sUsers};
use crate::model::Tier;
use crate::name::{Email, KubeUser, Namespace};
use crate::parse::node::{Entry, Node, Value};
use crate::parse::reader::{Field, Found, Reader};
use crate::parse::roster::read_quota;

/// Nothing when it is no list of people at all.
pub(super) fn read(reader: &mut Reader, root: &Node<'_>) -> Option<K8sUsers> {
    let Value::Mapping(entries) = &root.value else {
        let found = Found::new(root.span.clone(), "the map must hold people by their names in the cluster");
        reader.tell(found.help("such as `{\"carol\": {\"role\": \"namespace-owner\"}}`"));
        return None;
    };
    let mut users = K8sUsers::default();
    // Which of two entries counts, others who read the list may see otherwise.
    let (mut keys, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for Entry { key, .. } in entries {
        if !keys.insert(key.as_ref()) {
            twice.insert(key.as_ref());
        }
    }
    for field in reader.unique(entries) {
        let before = reader.found.len() + reader.omitted;
        let name = reader.checked::<KubeUser>(field.key, field.key_span);
        let user = read_user(reader, &field);
        match (name, user) {
            (Some(name), Some(user))
                if reader.found.len() + reader.omitted == before && !twice.contains(field.key) =>
            {
                users.people.insert(name, user);
            }
            _ => drop(users.unreadable.insert(field.key.to_owned())),
        }
    }
    Some(users)
}

fn read_user(reader: &mut Reader, field: &Field<'_>) -> Option<K8sUser> {
    let what = format!("the entry {}", quoted(field.key));
    // Unknown fields are other programs': what is not taken is not told.
    let mut fields = reader.fields(field.node, &what, field.key_span)?;
    let tiers = Tier::ALL.map(|tier| (tier.as_str(), tier));
    Some(K8sUser {
        role: fields.take("role").and_then(|field| reader.choice(field.node, "role", &tiers)),
        email: fields.take("email").and_then(|field| reader.name::<Email>(field.node)),
        namespaces: fields
            .take("namespaces")
            .map_or_else(Vec::new, |field| reader.names::<Namespace>("namespaces", field.node)),
        quota: fields.take("quota").map(|inner| read_quota(reader, &inner, field.key)),
    })
}
