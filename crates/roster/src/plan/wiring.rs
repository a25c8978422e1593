//! What git is told in a home, where nobody has told it. A value that is there wins, whoever set it and wherever.

use super::home::{same_repository, without_user};
use super::{Action, HomeAction, Plan, Subject};
use crate::desired::HomeDesired;
use crate::name::OsUser;
use crate::observed::HomeObserved;
use crate::wiring::{
    CloneConfig, CredentialsFile, Driver, EMAIL, Filter, Follower, HELPER, NAME, PersonConfig, Wire,
    WiringObserved,
};

/// The infra clone as the other steps of a plan leave it.
#[derive(Debug)]
pub(super) enum Infra {
    /// There is none that is ours to wire.
    Elsewhere,
    /// A step makes it.
    Cloned(usize),
    /// It is at this place now, and a step may move it.
    There(String, Option<usize>),
}

/// Plans what git is told.
pub(super) fn wiring(
    plan: &mut Plan,
    subject: &Subject,
    desired: &HomeDesired,
    observed: &HomeObserved,
    infra: &Infra,
) {
    for file in &observed.wiring.interrupted {
        let action = Wire::CleanUp { file: file.clone() };
        wire(plan, subject, action, "an earlier run ended in the middle of a change");
    }
    if let Some(person) = &observed.wiring.person {
        self::person(plan, subject, desired, person);
    }
    let Some(wanted) = desired.infra() else { return };
    let path = &wanted.path;
    match infra {
        Infra::Elsewhere => {}
        Infra::Cloned(step) => {
            if let Some(remote) = &desired.wiring.push {
                let (clone, remote) = (path.clone(), remote.clone());
                let action = Wire::PushRemote { clone, remote, branch: Follower::Default };
                let index = wire(plan, subject, action, "code.push_remote");
                plan.steps[index].needs.push(*step);
            }
        }
        Infra::There(now, moved) => {
            let Some(config) = observed.wiring.clones.get(now) else { return };
            if config.is_open && config.filters.values().any(|filter| *filter == Filter::Unlocked) {
                let what = format!("others may read ~/{now}, which git-crypt has unlocked");
                plan.access(subject, what, format!("chmod o-rwx ~{subject}/{now}"));
            }
            let before = plan.steps.len();
            clone(plan, subject, desired, path, config, &observed.wiring.person);
            plan.steps[before..].iter_mut().for_each(|step| step.needs.extend(*moved));
        }
    }
}

fn wire(plan: &mut Plan, subject: &Subject, action: Wire, reason: &str) -> usize {
    plan.step(subject, Action::Home(HomeAction::Wire(action)), reason);
    plan.steps.len() - 1
}

fn person(plan: &mut Plan, subject: &Subject, desired: &HomeDesired, seen: &PersonConfig) {
    let wanted = &desired.wiring;
    let helper = wanted.store_credentials.then(|| "store".to_owned());
    let mut settings = Vec::new();
    for (key, value) in [(NAME, wanted.name.clone()), (EMAIL, wanted.email.clone()), (HELPER, helper)] {
        match value {
            Some(value) if !seen.set.iter().any(|set| set == key) => settings.push((key.to_owned(), value)),
            _ => {}
        }
    }
    let mut stores = seen.stores;
    let mut set = None;
    if let (Some(why), false) = (&seen.closed, settings.is_empty()) {
        let keys: Vec<_> = settings.iter().map(|(key, _)| key.as_str()).collect();
        let text = format!("~/{} is left alone: {why}; not set: {}", seen.file, keys.join(", "));
        plan.notice(subject, text);
    } else if !settings.is_empty() {
        stores |= settings.iter().any(|(key, _)| key == HELPER);
        let undo: Vec<_> =
            settings.iter().map(|(key, _)| format!("git config --global --unset {key}")).collect();
        let action = Wire::Set { file: seen.file.clone(), settings };
        let step = wire(plan, subject, action, "git has no value for it");
        plan.steps[step].inverse = Some(undo.join("; "));
        set = Some(step);
    }
    match &seen.credentials {
        CredentialsFile::Absent if stores && wanted.store_credentials => {
            let step = wire(plan, subject, Wire::CredentialsFile, "git keeps logins in it");
            plan.steps[step].inverse = Some("rm ~/.git-credentials".into());
            plan.steps[step].needs.extend(set);
        }
        CredentialsFile::Present { mode } if mode & 0o077 != 0 => {
            let action = Wire::CredentialsMode { from: *mode };
            let step = wire(plan, subject, action, "it holds logins, and others may use it");
            plan.steps[step].inverse = Some(format!("chmod {mode:04o} ~/.git-credentials"));
        }
        CredentialsFile::Other(what) => {
            plan.notice(subject, format!("~/.git-credentials is {what}; it is left alone"));
        }
        CredentialsFile::Absent | CredentialsFile::Present { .. } => {}
    }
}

/// What lets the locked clones of a home refuse plain text, where something has taken that away.
pub fn locks(user: &OsUser, desired: &HomeDesired, observed: &WiringObserved) -> Plan {
    let subject = Subject::User(user.clone());
    let mut plan = Plan::default();
    for clone in desired.clones.iter().filter(|clone| clone.locked) {
        let Some(seen) = observed.clones.get(&clone.path) else { continue };
        let open = open_filters(seen, &observed.person);
        if !open.is_empty() && !is_closed(&mut plan, &subject, &clone.path, seen) {
            lock(&mut plan, &subject, &clone.path, open);
        }
    }
    plan
}

/// The filters of a clone that let plain text through.
fn open_filters<'a>(seen: &'a CloneConfig, person: &Option<PersonConfig>) -> Vec<(&'a Driver, Filter)> {
    let is_persons =
        |driver: &Driver| person.as_ref().is_some_and(|p| p.set.iter().any(|key| *key == driver.clean()));
    let is_open = |driver: &Driver, filter: Filter| match filter {
        Filter::Weak => true,
        Filter::Absent => !is_persons(driver),
        Filter::Ours | Filter::Unlocked | Filter::Own => false,
    };
    let filters = seen.filters.iter().map(|(driver, filter)| (driver, *filter));
    filters.filter(|(driver, filter)| is_open(driver, *filter)).collect()
}

fn lock(plan: &mut Plan, subject: &Subject, path: &str, open: Vec<(&Driver, Filter)>) {
    for (driver, filter) in open {
        let reason = match filter {
            Filter::Weak => {
                "its filter lets what is no secret of this repository be committed in the place of one"
            }
            _ => "nothing answers git-crypt, so plain text can be committed in the place of a secret",
        };
        wire(plan, subject, Wire::Lock { clone: path.into(), driver: driver.clone() }, reason);
    }
}

/// Whether the configuration of a clone is not to be changed, which is told.
fn is_closed(plan: &mut Plan, subject: &Subject, path: &str, seen: &CloneConfig) -> bool {
    if let Some(why) = &seen.closed {
        plan.notice(subject, format!("~/{path}/.git/config is left alone: {why}"));
    }
    seen.closed.is_some()
}

/// The infra clone that will be at `path`.
fn clone(
    plan: &mut Plan,
    subject: &Subject,
    desired: &HomeDesired,
    path: &str,
    seen: &CloneConfig,
    person: &Option<PersonConfig>,
) {
    let is_locked = desired.infra().is_some_and(|clone| clone.locked);
    let open = if is_locked { open_filters(seen, person) } else { Vec::new() };
    let push = desired.wiring.push.as_ref().filter(|_| seen.push_url.is_none());
    if (!open.is_empty() || push.is_some()) && is_closed(plan, subject, path, seen) {
        return;
    }
    lock(plan, subject, path, open);
    if let Some(remote) = push {
        let branch = match (&seen.default_branch, &seen.follows) {
            (Some(branch), None) => Follower::Branch(branch.clone()),
            // As every clone is made.
            (Some(branch), Some((remote, merge)))
                if remote == "origin" && *merge == format!("refs/heads/{branch}") =>
            {
                Follower::Branch(branch.clone())
            }
            _ => Follower::None,
        };
        let name = remote.name.clone();
        let action = Wire::PushRemote { clone: path.into(), remote: remote.clone(), branch };
        let step = wire(plan, subject, action, "code.push_remote, no such remote");
        plan.steps[step].inverse = Some(format!("git -C ~/{path} remote remove {name}"));
    }
    told(plan, subject, desired, path, seen);
}

/// What is there and differs from what the configuration says.
fn told(plan: &mut Plan, subject: &Subject, desired: &HomeDesired, path: &str, seen: &CloneConfig) {
    let (Some(wanted), Some(url)) = (&desired.wiring.push, &seen.push_url) else { return };
    let name = &wanted.name;
    if !same_repository(url, &wanted.url) {
        let url = without_user(url);
        let text = format!(
            "the remote {name} of ~/{path} is {url}, not {}; it is left alone. To change it: \
             git -C ~/{path} remote set-url {name} {}",
            wanted.url, wanted.url
        );
        plan.notice(subject, text);
    } else if let (Some(branch), Some((remote, merge))) = (&seen.default_branch, &seen.follows)
        && remote != name.as_str()
    {
        let merge = merge.trim_start_matches("refs/heads/");
        let text = format!(
            "{branch} of ~/{path} follows {remote}/{merge}, not {name}/{branch}; it is left alone. To change it: \
             git -C ~/{path} branch -u {name}/{branch} {branch}"
        );
        plan.notice(subject, text);
    }
}
