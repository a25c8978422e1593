//! From roster and config to the objects that should be in the cluster.

use serde_json::{Map, Value, json};

use crate::cluster::{ClusterDesired, Key, Kind, Kubernetes, Object, rules};
use crate::k8s_users::{Entry, MapState};
use crate::model::{Person, Quota, Roster, Tier};
use crate::name::{Namespace, OsUser};
use crate::plan::{Notice, Problem, Subject};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Thinks roster, config and the cluster's map through to single objects. `left` are people who left the roster.
pub fn desired<'u>(
    roster: &Roster,
    config: &Kubernetes,
    map: &MapState,
    left: impl Iterator<Item = &'u OsUser>,
) -> ClusterDesired {
    let mut cluster = Cluster {
        config,
        desired: ClusterDesired {
            instance: config.instance.clone(),
            max_deletes: config.max_deletes,
            tls_source: config
                .tls_secret
                .as_ref()
                .map(|place| Key::inside(Kind::Secret, &place.namespace, &place.name)),
            ..ClusterDesired::default()
        },
        portal: Map::new(),
        portal_is_known: true,
    };
    if !config.revoke_on_cut {
        cluster.desired.kept = left.cloned().collect();
    }
    for (user, person) in &roster.users {
        cluster.person(user, person, map.entry(&person.k8s_user));
    }
    if roster.users.values().any(|person| person.tier == Tier::PowerUser) {
        cluster.power_user_role();
    } else {
        // Others may use it as they found it, and by itself it gives nobody anything.
        let key = Key::wide(Kind::ClusterRole, &config.power_user_role);
        cluster.desired.unknown.insert(key);
    }
    cluster.portal();
    // Of a namespace with two owners, one's limits may be known and the other's not.
    let ClusterDesired { objects, unknown, .. } = &mut cluster.desired;
    objects.retain(|key, _| !unknown.contains(key));
    cluster.desired
}

struct Cluster<'c> {
    config: &'c Kubernetes,
    desired: ClusterDesired,
    portal: Map<String, Value>,
    /// Whether every e-mail address that belongs into it is known.
    portal_is_known: bool,
}

/// One person, and the name that the API server knows them by, when it is known.
struct Who<'p> {
    user: &'p OsUser,
    person: &'p Person,
    name: Option<String>,
}

impl Cluster<'_> {
    fn person(&mut self, user: &OsUser, person: &Person, entry: Entry<'_>) {
        let email = person.email.as_ref().or(match entry {
            Entry::Known(known) => known.and_then(|known| known.email.as_ref()),
            Entry::Unknown => None,
        });
        if email.is_none() && matches!(entry, Entry::Known(_)) {
            self.desired.problems.push(Problem {
                subject: Subject::User(user.clone()),
                what: "no rights in the cluster can be given".into(),
                why: "neither the roster nor the cluster's map has the e-mail address that the cluster knows the person by"
                    .into(),
                next: "add `email: …` to the roster, as the identity provider spells it".into(),
            });
        }
        match email {
            Some(email) => {
                let listed = json!({"role": person.tier.as_str(), "namespaces": person.namespaces});
                self.portal.insert(email.to_string(), listed);
            }
            None => self.portal_is_known &= matches!(entry, Entry::Known(_)),
        }
        let name = email.map(|email| format!("{}{email}", self.config.user_prefix));
        let who = Who { user, person, name };
        let k8s_user = &person.k8s_user;
        match person.tier {
            Tier::Admin => self.wide(&who, format!("{k8s_user}-cluster-admin"), "cluster-admin"),
            Tier::PowerUser => {
                let role = self.config.power_user_role.clone();
                self.wide(&who, format!("{k8s_user}-power-user"), &role);
            }
            Tier::NamespaceOwner => {
                let read_only = format!("{k8s_user}-read-only");
                let key = Key::wide(Kind::ClusterRole, &read_only);
                self.add(user, key, json!({"rules": rules::read_only()}));
                self.wide(&who, read_only.clone(), &read_only);
                for namespace in &person.namespaces {
                    self.namespace(&who, namespace, &entry);
                }
            }
        }
    }

    fn namespace(&mut self, who: &Who<'_>, namespace: &Namespace, entry: &Entry<'_>) {
        let (user, person) = (who.user, who.person);
        let Kubernetes { portal, tls_secret, lease, .. } = self.config;
        for (place, what) in [(portal, "portal"), (tls_secret, "tls_secret"), (lease, "lease")] {
            if place.as_ref().is_some_and(|place| place.namespace == namespace.as_str()) {
                self.desired.notices.push(Notice {
                    subject: Subject::User(user.clone()),
                    text: format!(
                        "owns the namespace {namespace}, and so what `{what}` of [kubernetes] names there"
                    ),
                });
            }
        }
        self.add(user, Key::wide(Kind::Namespace, namespace.as_str()), json!({}));
        let inside = |kind, name: String| Key::inside(kind, namespace.as_str(), name);
        self.bind(who, inside(Kind::RoleBinding, format!("{}-admin", person.k8s_user)), "admin");
        self.add(
            user,
            inside(Kind::Role, format!("{namespace}-deployer")),
            json!({"rules": rules::deployer()}),
        );
        let quota = inside(Kind::ResourceQuota, format!("{namespace}-quota"));
        match (&person.quota, entry) {
            (Some(limits), _) => self.quota(user, quota, limits),
            (None, Entry::Unknown) => drop(self.desired.unknown.insert(quota)),
            (None, Entry::Known(known)) => {
                if let Some(limits) = known.and_then(|known| known.quota.as_ref()) {
                    self.quota(user, quota, limits);
                }
            }
        }
        let name = format!("tls-{namespace}");
        if self.config.tls_secret.is_some() {
            let key = inside(Kind::Secret, name.clone());
            self.desired.copies.entry(key).or_insert_with(|| Subject::User(user.clone()));
        }
        if let Some(issuer) = &self.config.cluster_issuer
            && !person.domains.is_empty()
        {
            let spec = json!({
                "secretName": name,
                "dnsNames": person.domains,
                "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": issuer},
            });
            self.add(user, inside(Kind::Certificate, name), json!({"spec": spec}));
        }
    }

    fn quota(&mut self, user: &OsUser, key: Key, quota: &Quota) {
        let limits = [
            ("requests.cpu", &quota.cpu),
            ("requests.memory", &quota.memory),
            ("limits.memory", &quota.memory_limits),
            ("requests.storage", &quota.storage),
            ("pods", &quota.pods),
        ];
        let hard: Map<String, Value> = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), limit.as_ref()?.as_str().into())))
            .collect();
        self.add(user, key, json!({"spec": {"hard": hard}}));
    }

    /// The role is the same for all; one that was there before is used as it is.
    fn power_user_role(&mut self) {
        let key = Key::wide(Kind::ClusterRole, &self.config.power_user_role);
        let content = object(json!({"rules": rules::power_user()}));
        let object = Object { key: key.clone(), subject: Subject::Machine, content, as_found: true };
        self.desired.objects.insert(key, object);
    }

    fn portal(&mut self) {
        let Some(place) = &self.config.portal else { return };
        let key = Key::inside(Kind::ConfigMap, &place.namespace, &place.name);
        if !self.portal_is_known {
            self.desired.unknown.insert(key);
            return;
        }
        let people = format!("{:#}\n", Value::Object(std::mem::take(&mut self.portal)));
        let content = object(json!({"data": {"people.json": people}}));
        let object = Object { key: key.clone(), subject: Subject::Machine, content, as_found: false };
        self.desired.objects.insert(key, object);
    }

    fn wide(&mut self, who: &Who<'_>, binding: String, role: &str) {
        self.bind(who, Key::wide(Kind::ClusterRoleBinding, binding), role);
    }

    fn bind(&mut self, who: &Who<'_>, key: Key, role: &str) {
        let Some(name) = &who.name else {
            self.desired.unknown.insert(key);
            return;
        };
        self.add(
            who.user,
            key,
            json!({
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": name}],
            }),
        );
    }

    /// Two people may own a namespace together: what is the namespace's then comes from the first of them.
    fn add(&mut self, user: &OsUser, key: Key, content: Value) {
        let object = Object {
            key: key.clone(),
            subject: Subject::User(user.clone()),
            content: object(content),
            as_found: false,
        };
        match self.desired.objects.get(&key) {
            None => drop(self.desired.objects.insert(key, object)),
            Some(first) if first.content != object.content => {
                let text = format!("{key} is as {} has it, who is listed before", first.subject);
                self.desired.notices.push(Notice { subject: object.subject, text });
            }
            Some(_) => {}
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
