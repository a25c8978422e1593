//! The cluster of a test: the stand-in, or a part of the real one that `ROSTERD_TEST_KUBECONFIG` names, for itself alone.
//!
//! Tests speak of `carol` and `carol-dev`. In the cluster all names have a prefix of this very test, and go with it, so that
//! tests can share one and harm nobody who lends theirs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use roster::cluster::{Kind, Kubernetes};
use serde_json::{Value, json};

use super::real::{self, Real};
use super::server::Server;
use super::stand_in::StandIn;

/// A cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    prefix: String,
    side: Side,
}

#[derive(Debug)]
enum Side {
    StandIn(StandIn),
    Real(Box<Real>),
}

/// What makes things go wrong. In front of a real cluster it stands only when something is to.
impl std::ops::Deref for Cluster {
    type Target = Server;

    fn deref(&self) -> &Server {
        match &self.side {
            Side::StandIn(stand_in) => stand_in,
            Side::Real(real) => &real.front,
        }
    }
}

impl Cluster {
    /// The real one where there is one, or else a stand-in.
    pub(crate) fn start() -> Cluster {
        let prefix = prefix();
        let side = match real::kubeconfig() {
            Some(kubeconfig) => Side::Real(Box::new(Real::start(&kubeconfig, &prefix))),
            None => Side::StandIn(StandIn::start(&format!("hunter2-{prefix}token"))),
        };
        Cluster { prefix, side }
    }

    /// What rosterd's account shows to the cluster.
    pub(crate) fn token(&self) -> String {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.token(),
            Side::Real(real) => real.token(),
        }
    }

    /// A kubeconfig with this token.
    pub(crate) fn kubeconfig(&self, token: &str) -> String {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.kubeconfig(token),
            Side::Real(real) => real.kubeconfig(token),
        }
    }

    /// `[kubernetes]` for this test.
    pub(crate) fn config(&self) -> Kubernetes {
        let instance = self.prefix.trim_end_matches('-').to_owned();
        Kubernetes {
            instance,
            power_user_role: self.own("oidc-power-user-readonly"),
            ..Kubernetes::default()
        }
    }

    /// A name as the cluster has it.
    pub(crate) fn own(&self, name: &str) -> String {
        // The one kind of name that does not begin with whose it is.
        match name.strip_prefix("tls-") {
            Some(rest) => format!("tls-{}{rest}", self.prefix),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// People as the roster has to have them.
    pub(crate) fn people(&self, people: &Value) -> Value {
        let mut people = people.clone();
        for person in people.as_object_mut().unwrap().values_mut() {
            for field in ["k8s_user", "email"] {
                if let Some(text) = person[field].as_str() {
                    person[field] = self.own(text).into();
                }
            }
            if let Some(namespaces) = person["namespaces"].as_array_mut() {
                namespaces.iter_mut().for_each(|name| *name = self.own(name.as_str().unwrap()).into());
            }
        }
        people
    }

    /// A text with the names of which tests speak.
    pub(crate) fn shown(&self, text: &str) -> String {
        let text = text.replace(&self.prefix, "");
        match &self.side {
            Side::StandIn(_) => text,
            Side::Real(real) => text.replace(&real.account(), "rosterd"),
        }
    }

    /// What rosterd asked the cluster since the last call, as `GET /api/v1/namespaces?limit=500`.
    pub(crate) fn requests(&self) -> Vec<String> {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.requests(),
            Side::Real(real) => real.requests(),
        }
    }

    /// How many of those were under way at the same time, at most.
    pub(crate) fn busiest(&self) -> usize {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.busiest(),
            Side::Real(real) => real.busiest(),
        }
    }

    pub(crate) fn is_real(&self) -> bool {
        matches!(self.side, Side::Real(_))
    }

    /// The objects of this test, by `kind namespace/name`, without what changes by itself.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        let objects = match &self.side {
            Side::StandIn(stand_in) => stand_in.objects(),
            Side::Real(real) => real.objects(),
        };
        let shown = |(key, object): (String, Value)| {
            (self.shown(&key), serde_json::from_str(&self.shown(&object.to_string())).unwrap())
        };
        objects.into_iter().map(shown).collect()
    }

    /// Writes an object as somebody at a command line would, under that program's name.
    pub(crate) fn write_as(&self, manager: &str, key: &str, patch: &Value) {
        let (kind, path) = self.place(key);
        let merge = "application/merge-patch+json";
        let (code, answer) = self.ask("PATCH", &format!("{path}?fieldManager={manager}"), merge, patch);
        if code != 404 {
            assert_eq!(code, 200, "{answer}");
            return;
        }
        let (folder, name) = path.rsplit_once('/').unwrap();
        if let Some((_, rest)) = folder.split_once("/namespaces/") {
            self.make_namespace(rest.split('/').next().unwrap());
        }
        let (group, version, _) = kind.resource();
        let mut object = json!({
            "apiVersion": format!("{group}/{version}").trim_start_matches('/'), "kind": kind.as_str(),
            "metadata": {"name": name},
        });
        for (field, value) in patch.as_object().unwrap() {
            match field.as_str() {
                "metadata" => {
                    object["metadata"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone())
                }
                _ => object[field] = value.clone(),
            }
        }
        let (code, answer) =
            self.ask("POST", &format!("{folder}?fieldManager={manager}"), "application/json", &object);
        assert_eq!(code, 201, "{answer}");
    }

    /// Deletes an object as an admin.
    pub(crate) fn delete(&self, key: &str) {
        let (code, answer) = self.ask("DELETE", &self.place(key).1, "application/json", &json!({}));
        assert_eq!(code, 200, "{answer}");
    }

    /// rosterd's account may not do anything with this kind any more.
    pub(crate) fn forbid(&self, plural: &str) {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.forbid(plural),
            Side::Real(real) => real.forbid(plural),
        }
    }

    /// The token that rosterd's account had is not good any more; here is the new one.
    pub(crate) fn renew(&self) -> String {
        match &self.side {
            Side::StandIn(stand_in) => {
                stand_in.accept(&format!("another-{}token", self.prefix));
                stand_in.token()
            }
            Side::Real(real) => real.renew(),
        }
    }

    /// For as long as the answer lives, no other test installs or removes cert-manager; there is none now.
    pub(crate) fn without_cert_manager(&self) -> Option<real::CertManager<'_>> {
        match &self.side {
            Side::StandIn(_) => None,
            Side::Real(real) => Some(real.without_cert_manager()),
        }
    }

    /// cert-manager is there: what it defines, and nobody who acts on it.
    pub(crate) fn install_cert_manager(&self) {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.install_cert_manager(),
            Side::Real(real) => real.install_cert_manager(),
        }
    }

    /// The Lease of that place, as somebody else would write it.
    pub(crate) fn lease_of(&self, place: &str, spec: &Value) {
        let (namespace, name) = place.split_once('/').unwrap();
        match &self.side {
            Side::StandIn(stand_in) => {
                stand_in.lease_of(&format!("{}/{}", self.own(namespace), self.own(name)), spec.clone());
            }
            Side::Real(real) => {
                self.make_namespace(&self.own(namespace));
                real.lease_of(&self.own(namespace), &self.own(name), spec);
            }
        }
    }

    /// A namespace of this test that nobody of the roster has, such as that of a Lease.
    pub(crate) fn prepare(&self, namespace: &str) {
        match &self.side {
            Side::StandIn(_) => self.write_as("test", &format!("namespaces {namespace}"), &json!({})),
            Side::Real(real) => real.make_namespace(&self.own(namespace)),
        }
    }

    /// Who holds a Lease.
    pub(crate) fn holder(&self, place: &str) -> Option<String> {
        let (namespace, name) = place.split_once('/').unwrap();
        match &self.side {
            Side::StandIn(stand_in) => {
                stand_in.holder(&format!("{}/{}", self.own(namespace), self.own(name)))
            }
            Side::Real(real) => real.holder(&self.own(namespace), &self.own(name)),
        }
    }

    /// The real one; there has to be one.
    pub(crate) fn real(&self) -> &Real {
        match &self.side {
            Side::Real(real) => real,
            Side::StandIn(_) => panic!("this wants a real cluster: ./dev test cluster"),
        }
    }

    fn make_namespace(&self, name: &str) {
        if let Side::Real(real) = &self.side {
            real.make_namespace(name);
        }
    }

    /// Asks as an admin.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        match &self.side {
            Side::StandIn(stand_in) => stand_in.ask(method, path, kind, body),
            Side::Real(real) => real.ask(method, path, kind, body),
        }
    }

    /// The path of `rolebindings carol-dev/carol-admin`.
    pub(crate) fn place(&self, key: &str) -> (Kind, String) {
        let (plural, name) = key.split_once(' ').unwrap();
        let kind = Kind::ALL.into_iter().find(|kind| kind.resource().2 == plural).unwrap();
        let path = match name.split_once('/') {
            Some((namespace, name)) => {
                format!("{}/{}", collection(kind, Some(&self.own(namespace))), self.own(name))
            }
            None => format!("{}/{}", collection(kind, None), self.own(name)),
        };
        (kind, path)
    }
}

/// The path of all objects of a kind.
pub(crate) fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let (group, version, plural) = kind.resource();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// One that no other test has, of this run nor of an earlier one.
fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let run = (now << 8 ^ u64::from(std::process::id())) & 0xff_ffff;
    format!("rt{run:06x}{:x}-", COUNT.fetch_add(1, Ordering::Relaxed))
}
