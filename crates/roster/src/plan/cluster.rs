//! The steps from what the cluster shows to what should be there.
//!
//! - Removals of grants come first, and a grant needs every removal of that person's to have succeeded: nobody has the rights of
//!   yesterday's tier beside those of today's, and nobody has neither for longer than a run. What cannot be changed is
//!   replaced, the removal first: then neither is there for the one call between.
//! - Only what is marked ours is removed: a grant by its labels alone, anything else where we set a field too; a namespace
//!   never is.
//! - A field that another program declares is not fought over: that is a problem for a person to solve. What somebody
//!   changed by hand in an object that we made is put right again.
//! - Of a kind that could not be read, and of what is in a namespace that could not be looked for, nothing is
//!   concluded.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::cluster::{
    ClusterDesired, ClusterObserved, INSTANCE, Key, Kind, MANAGER, Object, Owner, Reading, Seen, bare,
    fields, owners_of, same_quantity, shown,
};
use crate::plan::unread::{by_cause, listed};
use crate::plan::{Action, Notice, Plan, Problem, Step, Subject};

mod action;

pub use action::ClusterAction;

/// What is to be done with one object.
enum Verdict {
    /// Nothing.
    Same,
    /// This, for that reason.
    Do(ClusterAction, String),
    /// Nothing, and an admin must look.
    Stuck { why: String, next: String },
}

/// Plans the cluster.
pub fn cluster(desired: &ClusterDesired, observed: &ClusterObserved) -> Plan {
    let mut plan =
        Plan { problems: desired.problems.clone(), notices: desired.notices.clone(), ..Plan::default() };
    let view = View::new(observed, &mut plan);
    let removals = view.removals(desired, &mut plan);
    // Who rules a namespace can make any number of objects there that look like ours, and must not be able to stop what is
    // to be taken from them.
    let place = |seen: &&Seen| match &seen.key.namespace {
        Some(namespace) => (namespace.clone(), None),
        None => (seen.key.name.clone(), Some(seen.key.kind)),
    };
    let places: BTreeSet<_> = removals.iter().map(place).collect();
    if places.len() > desired.max_deletes {
        plan.problems.push(Problem {
            subject: Subject::Machine,
            what: format!(
                "{} objects of the cluster would be deleted, so nothing is changed there",
                removals.len()
            ),
            why: format!("that is more than `kubernetes.max_deletes`, which is {}", desired.max_deletes),
            next: "look at `rosterctl derive`; if it is meant, raise `max_deletes` in config.toml".into(),
        });
        return plan;
    }
    let (grants, others): (Vec<_>, Vec<_>) = removals.into_iter().partition(|seen| seen.key.kind.is_grant());
    let mut verdicts = Vec::new();
    for object in desired.objects.values().filter(|object| view.is_readable(&object.key)) {
        match view.compare(object, &desired.instance) {
            Verdict::Same => {}
            Verdict::Do(action, reason) => verdicts.push((object, action, reason)),
            Verdict::Stuck { why, next } => plan.problems.push(Problem {
                subject: object.subject.clone(),
                what: format!("{} is not as the roster says", object.key),
                why,
                next,
            }),
        }
    }
    take(&mut plan, &grants, &mut verdicts);
    let taken = plan.steps.len();
    if observed.kinds.get(&Kind::Certificate) == Some(&Reading::NoSuchKind)
        && desired.tls_source.is_none()
        && let Some(wanted) = desired.objects.keys().find(|key| key.kind == Kind::Certificate)
    {
        let text =
            format!("the cluster has no cert-manager, so there is no {wanted} nor any other certificate");
        plan.notice(&Subject::Machine, text);
    }
    let mut made = BTreeMap::new();
    let copies = view.copies(desired, observed, &mut plan);
    // Kinds are ordered so that what a step needs comes before it. Of the grants, which are the last kinds, replacements
    // come first: they remove.
    verdicts.sort_by_key(|(object, action, _)| (object.key.kind.is_grant(), !action.is_removal()));
    for (object, action, reason) in verdicts {
        let inverse = inverse(&action);
        let needs = needs(&plan, object, taken, &made);
        let step = plan.step(&object.subject, Action::Cluster(action), reason);
        step.needs = needs;
        step.inverse = inverse;
        made.insert(object.key.clone(), plan.steps.len() - 1);
    }
    for (key, subject, action, reason) in copies {
        let namespace = key.namespace.as_ref().and_then(|name| made.get(&Key::wide(Kind::Namespace, name)));
        plan.step(&subject, Action::Cluster(action), reason).needs = namespace.copied().into_iter().collect();
    }
    // What a grant was about goes last: by itself it gives nobody anything.
    others.into_iter().for_each(|seen| remove(&mut plan, seen));
    plan
}

/// Whether a grant is deleted, still there, and gives something else than what is wanted under its name.
fn gives_another(seen: &Seen, object: &Object) -> bool {
    let content = fields(&Value::Object(object.content.clone()));
    seen.terminating
        && seen.key.kind.is_grant()
        && content.iter().any(|(path, value)| seen.fields.get(path) != Some(value))
}

fn remove(plan: &mut Plan, seen: &Seen) {
    let (action, reason) = removal(seen);
    plan.step(&seen.subject(), Action::Cluster(action), reason);
}

/// The grants that go, before anything is given. Who loses more than one loses all of them first; one that is alone and
/// has to be made anew stays a step of its own, so that its person has neither for one call only.
fn take(plan: &mut Plan, grants: &[&Seen], verdicts: &mut [(&Object, ClusterAction, String)]) {
    let gone = grants.iter().map(|seen| seen.subject());
    let replaced = verdicts.iter().filter(|(_, action, _)| action.is_removal());
    let mut losses: BTreeMap<Subject, usize> = BTreeMap::new();
    for subject in gone.chain(replaced.map(|(object, ..)| object.subject.clone())) {
        *losses.entry(subject).or_default() += 1;
    }
    grants.iter().for_each(|seen| remove(plan, seen));
    for (object, action, reason) in verdicts {
        if let ClusterAction::Replace { key, uid, version, manifest } = action
            && losses.get(&object.subject) != Some(&1)
        {
            let given = ClusterAction::Apply { key: key.clone(), manifest: manifest.take(), force: false };
            let taken =
                ClusterAction::Delete { key: key.clone(), uid: uid.clone(), version: version.clone() };
            plan.step(&object.subject, Action::Cluster(taken), reason.clone());
            *action = given;
        }
    }
}

/// Deletes an object, or takes only what is ours out of one that others keep something in. A grant goes, whoever has changed it.
fn removal(seen: &Seen) -> (ClusterAction, String) {
    let Seen { key, uid, version, .. } = seen.clone();
    let theirs = |(path, _): &(&String, &Value)| {
        let owners = owners_of(&seen.owners, path);
        !key.kind.is_grant() && !path.starts_with("/metadata/") && !owners.is_empty() && !ours(owners)
    };
    let reason = "the roster asks for it no longer";
    if seen.terminating {
        // As long as somebody's finalizer holds it, the cluster obeys it. Asked again, the worker empties it.
        let reason = format!("{reason}; it is deleted, and gives its right until it is gone");
        return (ClusterAction::Delete { key, uid, version }, reason);
    }
    match seen.fields.iter().find(theirs) {
        None => (ClusterAction::Delete { key, uid, version }, reason.into()),
        Some((path, _)) => {
            let reason = format!("{reason}; {} is somebody else's", shown(path));
            let mut manifest = bare(&key);
            // The one field that a cluster lets nobody take away.
            if let (Some(whole), Some(value)) = (manifest.as_object_mut(), seen.fields.get("/type")) {
                whole.insert("type".into(), value.clone());
            }
            (ClusterAction::Apply { key, manifest, force: false }, reason)
        }
    }
}

/// A grant needs the role it names, and that what goes of that person's has gone: the first steps, as many as were `taken`,
/// and what is replaced. Everything in a namespace needs that.
fn needs(plan: &Plan, object: &Object, taken: usize, made: &BTreeMap<Key, usize>) -> Vec<usize> {
    let mut needs = BTreeSet::new();
    if let Some(namespace) = &object.key.namespace {
        needs.extend(made.get(&Key::wide(Kind::Namespace, namespace)));
    }
    if object.key.kind.is_grant() {
        let role = object.content.get("roleRef").and_then(|role| role.get("name")).and_then(Value::as_str);
        needs.extend(role.and_then(|role| made.get(&Key::wide(Kind::ClusterRole, role))));
        let goes = |(index, step): &(usize, &Step)| {
            let replaces = matches!(step.action, Action::Cluster(ClusterAction::Replace { .. }));
            (*index < taken || replaces) && step.subject == object.subject
        };
        needs.extend(plan.steps.iter().enumerate().filter(goes).map(|(index, _)| index));
    }
    needs.into_iter().collect()
}

fn inverse(action: &ClusterAction) -> Option<String> {
    match action {
        ClusterAction::Apply { key, .. } if key.kind == Kind::Namespace => None,
        ClusterAction::Apply { key: Key { kind, namespace, name }, .. } => {
            let place = namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
            Some(format!("kubectl delete{place} {} {name}", kind.as_str().to_lowercase()))
        }
        _ => None,
    }
}

/// Why something of the cluster could not be read.
pub(crate) struct Unseen {
    /// Of which kinds, in words.
    pub(crate) of: String,
    /// That, and what follows from it.
    what: String,
    pub(crate) why: String,
    next: String,
}

/// What could not be read, by cause.
pub(crate) fn unseen(observed: &ClusterObserved) -> Vec<Unseen> {
    let unread = observed.kinds.iter().filter_map(|(kind, reading)| match reading {
        Reading::Unreadable { why, next } => Some((format!("{kind}s"), why.as_str(), next.as_str())),
        _ => None,
    });
    let told = |(kinds, why, next): (Vec<String>, &str, &str)| {
        let is_all = kinds.len() > 1 && kinds.len() == observed.kinds.len();
        let (of, what) = match (is_all, listed(&kinds)) {
            (true, _) => ("everything".into(), "the cluster cannot be read, so nothing is done there".into()),
            (false, kinds) => {
                let what = format!("the cluster's {kinds} cannot be read, so nothing is done about them");
                (kinds, what)
            }
        };
        Unseen { of, what, why: why.to_owned(), next: next.to_owned() }
    };
    by_cause(unread).into_iter().map(told).collect()
}

/// What was read, by key.
struct View<'o> {
    objects: BTreeMap<&'o Key, &'o Seen>,
    readable: BTreeSet<Kind>,
}

impl<'o> View<'o> {
    fn new(observed: &'o ClusterObserved, plan: &mut Plan) -> Self {
        let mut view = View { objects: BTreeMap::new(), readable: BTreeSet::new() };
        for (kind, reading) in &observed.kinds {
            // Only cert-manager's kind may be missing; whether anybody wants it is told below.
            if let Some(objects) = reading.seen() {
                view.readable.insert(*kind);
                view.objects.extend(objects.iter().map(|seen| (&seen.key, seen)));
            }
            if let Reading::InPart { namespaces, .. } = reading {
                plan.problems.push(too_many(*kind, namespaces));
            }
        }
        for Unseen { what, why, next, .. } in unseen(observed) {
            plan.problems.push(Problem { subject: Subject::Machine, what, why, next });
        }
        view
    }

    fn grants_are_readable(&self) -> bool {
        [Kind::ClusterRoleBinding, Kind::RoleBinding].iter().all(|kind| self.readable.contains(kind))
    }

    /// Whether enough is known to change an object. A grant needs all grants to be known, or a person might keep an
    /// old one that was not seen.
    fn is_readable(&self, key: &Key) -> bool {
        self.readable.contains(&key.kind)
            && (!key.kind.is_namespaced() || self.readable.contains(&Kind::Namespace))
            && (!key.kind.is_grant() || self.grants_are_readable())
    }

    /// What is ours and no longer wanted.
    fn removals(&self, desired: &ClusterDesired, plan: &mut Plan) -> Vec<&'o Seen> {
        let mut removals = Vec::new();
        for seen in self.objects.values() {
            let key = &seen.key;
            // A copy whose place a Certificate takes stays until that one has filled it.
            let is_filled = self.readable.contains(&Kind::Certificate)
                && desired.objects.contains_key(&certificate(key))
                && !ours(owners_of(&seen.owners, "/data"));
            let is_copy = desired.copies.contains_key(key) && !is_filled;
            let object = desired.objects.get(key);
            let wanted = object.is_some_and(|object| !gives_another(seen, object))
                || desired.unknown.contains(key)
                || is_copy;
            let subject = seen.subject();
            let kept = matches!(&subject, Subject::User(user) if desired.kept.contains(user));
            if wanted || kept || seen.is_going() || !seen.is_marked(&desired.instance) {
                continue;
            }
            if !key.kind.is_grant() && !seen.is_touched_by_us() {
                continue;
            }
            if key.kind == Kind::Namespace {
                let text = format!("{key} is in nobody's list any more; it stays until somebody deletes it");
                plan.notices.push(Notice { subject: Subject::Machine, text });
                continue;
            }
            removals.push(*seen);
        }
        removals
    }

    /// The copies that are not what they are copies of.
    fn copies(
        &self,
        desired: &ClusterDesired,
        observed: &ClusterObserved,
        plan: &mut Plan,
    ) -> Vec<(Key, Subject, ClusterAction, String)> {
        let mut copies = Vec::new();
        let Some(from) = desired.tls_source.as_ref().filter(|from| self.is_readable(from)) else {
            return copies;
        };
        let has_certificates = match observed.kinds.get(&Kind::Certificate) {
            Some(Reading::NoSuchKind) => false,
            Some(reading) if reading.seen().is_some() => true,
            _ => return copies,
        };
        let wanted: Vec<_> = desired
            .copies
            .iter()
            .filter(|(key, _)| !(has_certificates && desired.objects.contains_key(&certificate(key))))
            .collect();
        let content = |seen: &Seen| seen.fields.get("/data").cloned();
        let Some(source) = self.objects.get(from).and_then(|seen| content(seen)) else {
            if !wanted.is_empty() {
                plan.problems.push(Problem {
                    subject: Subject::Machine,
                    what: "nobody gets a copy of the certificate".into(),
                    why: format!("there is no {from}"),
                    next: "make it, or name another one: `tls_secret` in config.toml".into(),
                });
            }
            return copies;
        };
        for (key, subject) in wanted {
            let seen = self.objects.get(key);
            let is_ours = seen.is_some_and(|seen| seen.is_of(&desired.instance));
            let stuck = |why: String| Problem {
                subject: subject.clone(),
                what: format!("{key} is not a copy of {from}"),
                why,
                next: "let only one of the two keep it: delete it, or take it out of the other's hands"
                    .into(),
            };
            let (reason, force) = match seen {
                None => ("it is not there", false),
                Some(seen) if content(seen).as_ref() == Some(&source) || seen.terminating => continue,
                Some(_) if !is_ours => {
                    plan.problems.push(stuck("it is there already, and not rosterd's".into()));
                    continue;
                }
                Some(seen) => {
                    let others: Vec<&Owner> = owners_of(&seen.owners, "/data")
                        .iter()
                        .filter(|owner| owner.name != MANAGER)
                        .collect();
                    if let Some(other) = others.iter().find(|owner| !owner.is_by_hand()) {
                        plan.problems.push(stuck(format!("what is in it is set by {}", other.name)));
                        continue;
                    }
                    ("it is not the same any more", !others.is_empty())
                }
            };
            let object =
                Object { key: key.clone(), subject: subject.clone(), content: Map::new(), as_found: false };
            let manifest = object.manifest(&desired.instance);
            let action = ClusterAction::Copy { key: key.clone(), from: from.clone(), manifest, force };
            copies.push((key.clone(), subject.clone(), action, reason.into()));
        }
        copies
    }

    fn compare(&self, object: &Object, instance: &str) -> Verdict {
        let key = &object.key;
        if let Some(namespace) = &key.namespace
            && self.objects.get(&Key::wide(Kind::Namespace, namespace)).is_some_and(|seen| seen.terminating)
        {
            return Verdict::Stuck {
                why: format!("the namespace {namespace} is being deleted"),
                next: "wait until it is gone; if it stays, look at the finalizers of what is in it".into(),
            };
        }
        let manifest = object.manifest(instance);
        let apply = |force| ClusterAction::Apply { key: key.clone(), manifest: manifest.clone(), force };
        let Some(seen) = self.objects.get(key) else {
            return Verdict::Do(apply(false), "it is not there".into());
        };
        if object.as_found && !seen.is_of(instance) {
            return Verdict::Same;
        }
        if seen.terminating {
            return Verdict::Stuck {
                why: "it is being deleted".into(),
                next: "wait until it is gone; if it stays, look at its finalizers".into(),
            };
        }
        if let Some(other) = seen.is_of_another(instance) {
            return Verdict::Stuck {
                why: format!("it is kept by the rosterd of the instance `{other}`"),
                next: format!(
                    "let only one of the two have it; if `{other}` was this one's name, `kubectl label --overwrite` with \
                     {INSTANCE}={instance} makes it this one's again"
                ),
            };
        }
        let wanted = fields(&manifest);
        let differs: Vec<&String> = wanted
            .iter()
            .filter(|(path, value)| !same(key.kind, value, seen.fields.get(*path)))
            .map(|(path, _)| path)
            .collect();
        let left: Vec<&String> = seen
            .fields
            .keys()
            .filter(|path| !wanted.contains_key(*path) && ours(owners_of(&seen.owners, path)))
            .collect();
        if differs.is_empty() && left.is_empty() {
            // Restored from a copy, it is as it should be and nobody's. Left so, a cut would not take it.
            return match seen.is_touched_by_us() {
                true => Verdict::Same,
                false => Verdict::Do(apply(false), "it is there already, and becomes ours".into()),
            };
        }
        let names = |paths: &[&String]| paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ");
        if differs.iter().any(|path| path.starts_with("/roleRef/")) {
            return replace(seen, instance, manifest);
        }
        let foreign = |path: &String| {
            let is_there = seen.fields.contains_key(path);
            owners_of(&seen.owners, path).iter().filter(move |owner| is_there && owner.name != MANAGER)
        };
        let (taken, free): (Vec<&String>, Vec<&String>) =
            differs.iter().partition(|path| foreign(path).next().is_some());
        let others: BTreeSet<&Owner> = taken.iter().flat_map(|path| foreign(path)).collect();
        let listed = || others.iter().map(|owner| owner.name.as_str()).collect::<BTreeSet<_>>();
        let listed = listed().into_iter().collect::<Vec<_>>().join(", ");
        let reason = match (differs.is_empty(), others.is_empty()) {
            (true, _) => format!("{} is no longer wanted", names(&left)),
            (false, true) if free.iter().all(|path| path.starts_with("/metadata/")) => {
                match seen.is_touched_by_us() {
                    true => "it is not marked as ours should be".into(),
                    false => "it is there already, and becomes ours".into(),
                }
            }
            (false, true) => format!("{} differs", names(&free)),
            (false, false) => format!("{} was changed by {listed}", names(&taken)),
        };
        let by_hand = others.iter().all(|owner| owner.is_by_hand());
        match (others.is_empty(), by_hand && seen.is_touched_by_us()) {
            (true, _) => Verdict::Do(apply(false), reason),
            (false, true) => Verdict::Do(apply(true), reason),
            (false, false) => Verdict::Stuck {
                why: format!("{} is set by {listed}", names(&taken)),
                next: "let only one of the two keep it: take it out of the other's hands, or give it another name".into(),
            },
        }
    }
}

/// The role of a grant cannot be changed. One that is ours is made anew in two calls, the removal first.
fn replace(seen: &Seen, instance: &str, manifest: Value) -> Verdict {
    let Seen { key, uid, version, .. } = seen.clone();
    if seen.is_marked(instance) {
        return Verdict::Do(
            ClusterAction::Replace { key, uid, version, manifest },
            "it names another role, and that cannot be changed".into(),
        );
    }
    let owners: BTreeSet<&str> = seen.owners.values().flatten().map(|owner| owner.name.as_str()).collect();
    let owners = owners.into_iter().collect::<Vec<_>>().join(", ");
    Verdict::Stuck {
        why: format!(
            "it names another role and was made by {}",
            if owners.is_empty() { "somebody" } else { &owners }
        ),
        next: "delete it, or give it another name".into(),
    }
}

/// Somebody fills a namespace with what looks like ours.
fn too_many(kind: Kind, namespaces: &BTreeSet<String>) -> Problem {
    let named: Vec<&str> = namespaces.iter().take(5).map(String::as_str).collect();
    let more = namespaces.len().saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more namespaces") };
    Problem {
        subject: Subject::Machine,
        what: format!("of the {kind}s in {}{more} only some are looked at in a run", named.join(", ")),
        why: "there are more of rosterd's label than it can have made, so somebody else did".into(),
        next: "ask the namespace's owner; what is not wanted goes bit by bit, run by run".into(),
    }
}

/// The Certificate that fills a Secret.
fn certificate(secret: &Key) -> Key {
    Key { kind: Kind::Certificate, ..secret.clone() }
}

fn ours(owners: &[Owner]) -> bool {
    owners.iter().any(|owner| owner.name == MANAGER)
}

fn same(kind: Kind, wanted: &Value, found: Option<&Value>) -> bool {
    match (kind, wanted, found) {
        (_, _, None) => false,
        (Kind::ResourceQuota, Value::String(wanted), Some(Value::String(found))) => {
            same_quantity(wanted, found)
        }
        (_, wanted, Some(found)) => wanted == found,
    }
}
