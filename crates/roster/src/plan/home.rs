//! From what should be in a home to the steps, given what the worker saw in it. What a person made there is
//! never touched (invariant 1): a place that is taken is told and left as it is.

use super::home_files::files;
use super::moves::{Moved, moves};
use super::wiring::{Infra, wiring};
use super::{Action, HomeAction, Plan, Problem, Seen, Subject};
use crate::desired::{CloneDesired, HomeDesired};
use crate::name::OsUser;
use crate::observed::{HomeObserved, Place};

const CODE: &str = "code";

/// The steps in the home of `user`.
pub fn home(user: &OsUser, desired: &HomeDesired, observed: &HomeObserved) -> Plan {
    let subject = Subject::User(user.clone());
    let mut plan = Plan::default();
    // Also where there is nothing to show: what was shown before is over then.
    plan.seen.insert(subject.clone(), Seen::default());
    for path in &observed.unfinished {
        let action = Action::Home(HomeAction::RemoveUnfinished { path: path.clone() });
        plan.step(&subject, action, "an earlier run ended in the middle of it");
    }
    let moved = moves(&mut plan, &subject, desired, observed);
    let infra = clones(&mut plan, &subject, desired, observed, &moved);
    wiring(&mut plan, &subject, desired, observed, &infra);
    files(&mut plan, &subject, desired, observed);
    plan
}

/// Plans the clones. Gives where the infra clone is afterwards.
fn clones(
    plan: &mut Plan,
    subject: &Subject,
    desired: &HomeDesired,
    observed: &HomeObserved,
    moved: &Moved,
) -> Infra {
    let mut infra = Infra::Elsewhere;
    let folder = match (desired.workspace, moved.workspace) {
        (_, Some(step)) => Some(step),
        (true, None) => match workspace(plan, subject, desired, observed) {
            Ok(folder) => folder,
            Err(Taken) => return infra,
        },
        (false, None) => None,
    };
    if !desired.workspace && back_to_single(plan, subject, observed, moved) {
        return infra;
    }
    // What lies in an infra clone that moves is there no longer afterwards.
    let inside_moves = moved.arrives.get("code/infra").is_some_and(|(_, now)| now == CODE);
    for clone in &desired.clones {
        let is_infra = desired.infra() == Some(clone);
        if let Some((step, now)) = moved.arrives.get(&clone.path) {
            if is_infra {
                infra = Infra::There(now.clone(), Some(*step));
            }
            continue;
        }
        let place = match clone.path == CODE {
            _ if moved.kept_free.contains(&clone.path) => continue,
            true => Some(&observed.code),
            false if inside_moves => Some(&Place::Absent),
            false => observed.clones.get(&clone.path),
        };
        match place {
            Some(Place::Absent) => {
                let action = Action::Home(HomeAction::Clone(clone.clone()));
                let step = plan.step(subject, action, "wanted, not there");
                step.inverse = Some(format!("remove ~/{}", clone.path));
                step.needs.extend(folder);
                if is_infra {
                    infra = Infra::Cloned(plan.steps.len() - 1);
                }
            }
            Some(place) => {
                let ours = matches!(place, Place::Clone { origin: Some(origin), .. }
                    if same_repository(origin, &clone.url));
                if is_infra && ours {
                    infra = Infra::There(clone.path.clone(), None);
                }
                taken(plan, subject, clone, place);
            }
            None => cannot_look(plan, subject, &clone.path, "the worker did not answer for it"),
        }
    }
    infra
}

/// Whether the roster says `single` and the home is a workspace, which is told and stays one.
fn back_to_single(plan: &mut Plan, subject: &Subject, observed: &HomeObserved, moved: &Moved) -> bool {
    let there = matches!(observed.moves.infra, Place::Clone { .. });
    let is = matches!(observed.code, Place::Folder | Place::EmptyFolder) && there;
    if is || moved.arrives.contains_key("code/infra") {
        plan.notice(
            subject,
            "~/code is a workspace and the roster says `code_layout: single`; nothing is moved back by itself. \
             Say `workspace` in the roster, or let the person move ~/code/infra to ~/code",
        );
        return true;
    }
    false
}

/// There is no folder for the clones, and there will be none.
struct Taken;

/// Sees to the folder that holds the clones: the step that makes it, or nothing where it is there already.
fn workspace(
    plan: &mut Plan,
    subject: &Subject,
    desired: &HomeDesired,
    observed: &HomeObserved,
) -> Result<Option<usize>, Taken> {
    match &observed.code {
        Place::EmptyFolder | Place::Folder => return Ok(None),
        Place::Absent => {
            let action = Action::Home(HomeAction::MakeFolder { path: CODE.into() });
            plan.step(subject, action, "code_layout: workspace, no such folder").inverse =
                Some("rmdir ~/code".into());
            return Ok(Some(plan.steps.len() - 1));
        }
        Place::Clone { .. } => plan.notice(
            subject,
            "~/code is a clone and the roster says `code_layout: workspace`; it stays as it is until its person \
             has moved it",
        ),
        Place::Other(what) => plan.notice(subject, format!("~/code is {what}, not a folder; it is left alone")),
        Place::Unreadable(why) => cannot_look(plan, subject, CODE, why),
    }
    if !desired.clones.is_empty() && !matches!(observed.code, Place::Unreadable(_)) {
        let paths: Vec<_> = desired.clones.iter().map(|clone| format!("~/{}", clone.path)).collect();
        plan.notice(subject, format!("not cloned, for ~/code is no plain folder: {}", paths.join(", ")));
    }
    Err(Taken)
}

/// Tells about a place that something stands in, unless it is the clone that should be there.
fn taken(plan: &mut Plan, subject: &Subject, clone: &CloneDesired, place: &Place) {
    let path = &clone.path;
    let left = "it is left alone";
    match place {
        Place::Clone { origin: Some(origin), .. } if same_repository(origin, &clone.url) => {}
        Place::Clone { origin: Some(origin), .. } => plan.notice(
            subject,
            format!(
                "~/{path} is a clone of {}, not of {url}; {left}. If that is the same repository at its new address: \
                 git -C ~/{path} remote set-url origin {url}; if not, move ~/{path} away, and {url} is cloned there",
                without_user(origin),
                url = clone.url
            ),
        ),
        Place::Clone { origin: None, .. } => {
            plan.notice(subject, format!("~/{path} is a git repository without an `origin`; {left}"));
        }
        Place::EmptyFolder => {
            let text = format!(
                "~/{path} is an empty folder that rosterd did not make; {left}. Without it, {} is cloned there",
                clone.url
            );
            plan.notice(subject, text);
        }
        Place::Folder => {
            plan.notice(subject, format!("~/{path} is a folder, not a clone of {}; {left}", clone.url));
        }
        Place::Other(what) => {
            plan.notice(subject, format!("~/{path} is {what}, not a clone of {}; {left}", clone.url));
        }
        Place::Unreadable(why) => cannot_look(plan, subject, path, why),
        Place::Absent => {}
    }
}

fn cannot_look(plan: &mut Plan, subject: &Subject, path: &str, why: &str) {
    plan.problems.push(Problem {
        subject: subject.clone(),
        what: format!("~/{path} cannot be looked at"),
        why: why.into(),
        next: format!("see to it that {subject} can read ~/{path}"),
    });
}

/// Whether two URLs name one repository: user information, a last `/` and `.git` make no difference.
pub(super) fn same_repository(one: &str, other: &str) -> bool {
    let plain = |url: &str| {
        let url = without_user(url);
        let url = url.trim_end_matches('/');
        url.strip_suffix(".git").unwrap_or(url).to_owned()
    };
    plain(one) == plain(other)
}

/// A URL as it may be shown: user information can be a secret (invariant 7).
pub(super) fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}
