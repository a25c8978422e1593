//! Which clones fetch, which branches go forward, and what is told of those that stay. Everything is decided from
//! what the remotes answered, each asked once, and from what the clones know; nothing is concluded from a remote
//! that did not answer (invariant 8), and what a person has not finished is left alone (invariant 1).

use std::collections::{BTreeMap, BTreeSet};

use super::home::{same_repository, without_user};
use super::{Action, HomeAction, MirrorAction, Plan, Subject};
use crate::desired::{CloneDesired, HomeDesired};
use crate::name::{OsUser, RefName};
use crate::observed::{HomeObserved, Place};
use crate::remote::{
    Answer, Asked, CloneState, FastForward, Fetch, LookAt, MirrorClone, Refs, Relation, Remote, RemoteRefs,
    Remotes, Side, Standing,
};

/// The remotes of a clone that are kept fresh, by name and URL. Others, which a person added, are theirs.
fn remotes_of<'a>(
    home: &'a HomeDesired,
    clone: &'a CloneDesired,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_infra = home.infra().is_some_and(|infra| infra.path == clone.path);
    let push = home.wiring.push.as_ref().filter(|_| is_infra);
    let push = push.map(|push| (push.name.as_str(), push.url.as_str()));
    std::iter::once(("origin", clone.url.as_str())).chain(push)
}

/// The URLs that have to be asked for some homes, each once.
pub fn to_ask<'a>(homes: impl IntoIterator<Item = &'a HomeDesired>) -> BTreeSet<String> {
    let of = |home: &'a HomeDesired| home.clones.iter().flat_map(move |clone| remotes_of(home, clone));
    homes.into_iter().flat_map(of).map(|(_, url)| url.to_owned()).collect()
}

/// The step that brings the mirror of a remote up to date.
pub fn mirror(url: &str, asked: &Asked) -> Plan {
    let mut plan = Plan::default();
    if let (Answer::Refs(_), 1..) = (&asked.answer, asked.not_mirrored) {
        let action = Action::Mirror(MirrorAction::Fetch { url: url.into() });
        plan.step(&Subject::Machine, action, "its refs name objects that the mirror does not have");
    }
    plan
}

/// The step that looks at a mirror that failed somebody. A worker of a home says so, who may be anybody: whether it is
/// true is for the mirror's own user to see.
pub fn check(url: &str, why: &str) -> Plan {
    let mut plan = Plan::default();
    let action = Action::Mirror(MirrorAction::Check { url: url.into() });
    plan.step(&Subject::Machine, action, format!("a clone had to turn to the server: {why}"));
    plan
}

/// What is told of a remote that did not answer: once for all, or of the person who alone may ask it.
pub fn not_asked(subject: &Subject, url: &str, answer: &Answer) -> Plan {
    let mut plan = Plan::default();
    if let Answer::Failed { why, .. } = answer {
        let text = format!("{url} cannot be read ({why}); clones of it stay as they are until it can");
        plan.notice(subject, text);
    }
    plan
}

/// How a step is done that may need a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// From the mirror; the worker turns to the server when the mirror fails it.
    Mirror(MirrorClone),
    /// From the server, by the person's own worker.
    Server,
    /// Not now: the server did not answer just now, and is not asked by everybody again.
    NotNow {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
}

/// How a step in a home is done: which matters for clones.
pub fn way(action: &HomeAction, remotes: &Remotes) -> Way {
    let HomeAction::Clone(clone) = action else { return Way::Server };
    match remotes.get(&clone.url) {
        Some(Remote { answer: Answer::Refs(refs), mirrored: true })
            if refs.head.as_ref().is_some_and(|head| refs.branches.contains_key(head)) =>
        {
            Way::Mirror(MirrorClone { wanted: clone.clone(), refs: refs.clone() })
        }
        Some(Remote { answer: Answer::Failed { why, next }, .. }) => {
            Way::NotNow { why: why.clone(), next: next.clone() }
        }
        _ => Way::Server,
    }
}

/// The clones among `paths` whose remotes have to be asked by the person, because they show themselves to nobody else.
pub fn to_ask_as_person(states: &States, desired: &HomeDesired, remotes: &Remotes) -> BTreeSet<String> {
    known(desired, states)
        .flat_map(|(clone, _)| remotes_of(desired, clone))
        .filter(|(_, url)| {
            matches!(remotes.get(*url), Some(Remote { answer: Answer::WantsLogin { .. }, .. }))
        })
        .map(|(_, url)| url.to_owned())
        .collect()
}

/// What to look at in a home: each place where a clone should be.
pub fn look_at(desired: &HomeDesired, remotes: &Remotes) -> Vec<LookAt> {
    let look = |clone: &CloneDesired| LookAt {
        path: clone.path.clone(),
        remotes: remotes_of(desired, clone).map(|(name, _)| name.to_owned()).collect(),
        branch: refs_of(remotes, &clone.url).and_then(|refs| refs.head.clone()),
    };
    desired.clones.iter().map(look).collect()
}

/// Of what was looked at, the clones that are what they should be; the others are nobody's to refresh.
pub fn ours(desired: &HomeDesired, observed: &HomeObserved, mut states: States) -> States {
    let is_ours = |clone: &CloneDesired| {
        let place =
            if clone.path == "code" { Some(&observed.code) } else { observed.clones.get(&clone.path) };
        matches!(place, Some(Place::Clone { origin: Some(origin), .. }) if same_repository(origin, &clone.url))
    };
    states.retain(|path, _| desired.clones.iter().any(|clone| clone.path == *path && is_ours(clone)));
    states
}

/// Clones by path, as they were seen.
pub type States = BTreeMap<String, CloneState>;

/// Finishes what was interrupted, and fetches where something moved.
pub fn fetches(user: &OsUser, desired: &HomeDesired, states: &States, remotes: &Remotes) -> Plan {
    let subject = Subject::User(user.clone());
    let mut plan = Plan::default();
    for (clone, state) in known(desired, states) {
        let path = &clone.path;
        if let Some(what) = &state.unfit {
            let text = format!("~/{path} is {what}; it is not refreshed, its person does that");
            plan.notice(&subject, text);
            continue;
        }
        if state.unfinished {
            let action = Action::Home(HomeAction::FinishRefresh { path: path.clone() });
            plan.step(&subject, action, "an earlier run ended in the middle of it");
        }
        for (name, url) in remotes_of(desired, clone) {
            let side = state.remotes.get(name).filter(|side| same_repository(&side.url, url));
            if let (Some(side), Some(remote)) = (side, remotes.get(url)) {
                fetch(&mut plan, &subject, clone, (name, url, side), state, remote);
            }
        }
    }
    plan
}

fn fetch(
    plan: &mut Plan,
    subject: &Subject,
    clone: &CloneDesired,
    (name, url, side): (&str, &str, &Side),
    state: &CloneState,
    remote: &Remote,
) {
    let path = &clone.path;
    let refs = match &remote.answer {
        Answer::Refs(refs) => refs,
        // Told once for all, by `not_asked`.
        Answer::Failed { .. } => return,
        Answer::WantsLogin { why, next } => {
            let from = if name == "origin" { String::new() } else { format!(" from `{name}`") };
            return plan.notice(subject, format!("~/{path} is not refreshed{from}: {why}; {next}"));
        }
    };
    if !side.whole {
        let text = format!(
            "~/{path} has its own idea of what `{name}` fetches; it is not refreshed, its person does that"
        );
        return plan.notice(subject, text);
    }
    if refs.branches.is_empty() && !side.branches.is_empty() {
        let text = format!("{url} says that it has no branches any more; ~/{path} keeps those it has");
        return plan.notice(subject, text);
    }
    let moved = differing(&refs.branches, &side.branches);
    let gone: Vec<_> =
        side.branches.keys().filter(|branch| !refs.branches.contains_key(*branch)).cloned().collect();
    let is_new = |tag: &RefName| name == "origin" && !state.tags.contains(tag);
    let tags: Refs =
        refs.tags.iter().filter(|(tag, _)| is_new(tag)).map(|(tag, id)| (tag.clone(), id.clone())).collect();
    if moved.is_empty() && gone.is_empty() && tags.is_empty() {
        return;
    }
    let fetch = Fetch {
        path: path.clone(),
        remote: name.into(),
        url: url.into(),
        mirrored: remote.mirrored,
        moved,
        gone,
        tags,
    };
    plan.step(subject, Action::Home(HomeAction::Fetch(fetch)), "the remote's refs have moved");
}

fn differing(remote: &Refs, known: &Refs) -> Refs {
    let moved = remote.iter().filter(|(branch, id)| known.get(*branch) != Some(*id));
    moved.map(|(branch, id)| (branch.clone(), id.clone())).collect()
}

/// After the fetches: the branches to look at closer, and what is told of those that need no closer look.
pub fn behind(
    user: &OsUser,
    desired: &HomeDesired,
    states: &States,
    remotes: &Remotes,
) -> (Vec<FastForward>, Plan) {
    let subject = Subject::User(user.clone());
    let (mut closer, mut plan) = (Vec::new(), Plan::default());
    for (clone, state) in known(desired, states).filter(|(_, state)| state.unfit.is_none()) {
        match branch_behind(desired, clone, state, remotes) {
            Ok(Some(branch)) => closer.push(branch),
            Ok(None) => {}
            Err(why) => plan.notice(&subject, format!("~/{} does not follow its remote: {why}", clone.path)),
        }
    }
    (closer, plan)
}

/// The branch of a clone that may go forward. `Err` says in what state it is that keeps it behind.
fn branch_behind(
    desired: &HomeDesired,
    clone: &CloneDesired,
    state: &CloneState,
    remotes: &Remotes,
) -> Result<Option<FastForward>, String> {
    let origin = state.remotes.get("origin").filter(|side| same_repository(&side.url, &clone.url));
    let Some(origin) = origin else { return Ok(None) };
    let asked = refs_of(remotes, &clone.url).and_then(|refs| refs.head.as_ref());
    let Some(default) = asked.or(origin.head.as_ref()) else { return Ok(None) };
    let Some(wanted) = origin.branches.get(default) else { return Ok(None) };
    let local = state.branches.get(default);
    let is_checked_out = state.head.as_ref() == Some(default);
    // Which remote's branch counts is the person's choice, or that of the push remote's wiring.
    let followed = state.upstream.as_ref().filter(|_| is_checked_out);
    let wanted = match followed {
        Some((remote, branch)) if remotes_of(desired, clone).any(|(name, _)| name == remote) => {
            state.remotes.get(remote).and_then(|side| side.branches.get(branch)).unwrap_or(wanted)
        }
        _ => wanted,
    };
    if local == Some(wanted) {
        return Ok(None);
    }
    if let Some(what) = &state.busy {
        return Err(format!("its person is in the middle of {what}"));
    }
    let Some(local) = local.filter(|_| is_checked_out) else {
        return Err(match (&state.head, local) {
            (None, _) => "no branch is checked out (detached head)".into(),
            (Some(head), None) => format!(
                "`{head}` is checked out, and the default branch of the remote is `{default}`; \
                 `git switch {default}` goes over to it"
            ),
            (Some(head), Some(_)) => {
                format!("`{head}` is checked out, not the default branch `{default}`")
            }
        });
    };
    match followed {
        None => Err(format!(
            "`{default}` has no upstream; `git branch --set-upstream-to=origin/{default} {default}` sets it"
        )),
        // A remote of the person's own is theirs to fetch and to follow.
        Some((remote, _)) if !remotes_of(desired, clone).any(|(name, _)| name == remote) => Ok(None),
        Some((remote, branch)) if branch != default => Err(format!(
            "`{default}` follows `{remote}/{branch}`, not the default branch; \
             `git branch --set-upstream-to={remote}/{default} {default}` changes that"
        )),
        Some(_) => Ok(Some(FastForward {
            path: clone.path.clone(),
            branch: default.clone(),
            from: local.clone(),
            to: wanted.clone(),
        })),
    }
}

/// The branches that go forward, and what keeps the others.
pub fn fast_forwards(user: &OsUser, looked_at: &[(FastForward, Standing)]) -> Plan {
    let subject = Subject::User(user.clone());
    let mut plan = Plan::default();
    for (forward, standing) in looked_at {
        let FastForward { path, branch, from, .. } = forward;
        let why = match standing {
            Standing { relation: Relation::Ahead, .. } => continue,
            Standing { relation: Relation::Diverged, .. } => {
                format!("`{branch}` has commits that its upstream does not have, and lacks some that it has")
            }
            Standing { dirty: true, .. } => "there are changes that are not committed".into(),
            Standing { obstacle: Some(obstacle), .. } => obstacle.clone(),
            Standing { relation: Relation::Behind, dirty: false, obstacle: None, plain } => {
                let action = Action::Home(HomeAction::FastForward(forward.clone()));
                let step = plan.step(&subject, action, "clean, and behind its upstream");
                step.inverse = Some(format!("git -C ~/{path} reset --keep {from}"));
                if !plain.is_empty() {
                    let text = format!(
                        "~/{path} gets in plain text what its attributes say is encrypted: {}. Whoever has the key can \
                         encrypt it (`git-crypt status -f`), and what was a secret needs a new one",
                        plain.join(", ")
                    );
                    plan.notice(&subject, text);
                }
                continue;
            }
        };
        plan.notice(&subject, format!("~/{path} does not follow its remote: {why}"));
    }
    plan
}

fn known<'a>(
    desired: &'a HomeDesired,
    states: &'a States,
) -> impl Iterator<Item = (&'a CloneDesired, &'a CloneState)> {
    desired.clones.iter().filter_map(|clone| Some((clone, states.get(&clone.path)?)))
}

fn refs_of<'a>(remotes: &'a Remotes, url: &str) -> Option<&'a RemoteRefs> {
    match &remotes.get(url)?.answer {
        Answer::Refs(refs) => Some(refs),
        Answer::WantsLogin { .. } | Answer::Failed { .. } => None,
    }
}

/// What should be in a home whose clones are found rather than named by a roster: each as its `origin` says, and locked
/// where it is.
pub fn as_found(found: &[(String, String, bool)]) -> HomeDesired {
    let clone = |(path, url, locked): &(String, String, bool)| CloneDesired {
        path: path.clone(),
        url: without_user(url),
        locked: *locked,
    };
    HomeDesired { clones: found.iter().map(clone).collect(), ..HomeDesired::default() }
}
