//! Which clones move. A move is planned only where every part of it was seen: what is tracked, what is in the way,
//! what would not survive. All else stays where it is and is told.

use std::collections::{BTreeMap, BTreeSet};

use super::home::same_repository;
use super::{Action, HomeAction, Plan, Problem, Subject};
use crate::desired::HomeDesired;
use crate::moves::{Candidate, Move, Tracked, within};
use crate::observed::{HomeObserved, Place};

/// What the moves of a plan leave for its other steps.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// The step after which `~/code` is a plain folder.
    pub(super) workspace: Option<usize>,
    /// By the place where a clone should be: the step that brings it there, and where it is now.
    pub(super) arrives: BTreeMap<String, (usize, String)>,
    /// Places that nothing is cloned to, for their clone is elsewhere and stays there.
    pub(super) kept_free: BTreeSet<String>,
}

/// Plans the moves.
pub(super) fn moves(
    plan: &mut Plan,
    subject: &Subject,
    desired: &HomeDesired,
    observed: &HomeObserved,
) -> Moved {
    let mut moved = Moved::default();
    let others: Vec<&str> = match desired.workspace {
        true => {
            let paths = desired.clones.iter().map(|clone| clone.path.as_str());
            paths.filter(|path| *path != "code/infra").collect()
        }
        false => Vec::new(),
    };
    resume(plan, subject, observed, Move::infra(), &mut moved);
    for path in &others {
        resume(plan, subject, observed, Move::hoist(path), &mut moved);
    }
    if !desired.workspace || moved.kept_free.contains("code/infra") {
        return moved;
    }
    if is_infra(desired, &observed.code) && !infra(plan, subject, observed, &mut moved) {
        return moved;
    }
    for path in others {
        if !moved.arrives.contains_key(path) && !moved.kept_free.contains(path) {
            hoist(plan, subject, observed, path, &mut moved);
        }
    }
    moved
}

fn is_infra(desired: &HomeDesired, place: &Place) -> bool {
    matches!((desired.infra(), place), (Some(infra), Place::Clone { origin: Some(origin), .. })
        if same_repository(origin, &infra.url))
}

/// Brings on what an earlier run left on the way.
fn resume(plan: &mut Plan, subject: &Subject, observed: &HomeObserved, action: Move, moved: &mut Moved) {
    let Move::Clone { from, through, to } = &action else { return };
    let target = match to.as_str() {
        "code/infra" => observed.clones.get(to).unwrap_or(&observed.moves.infra),
        to => observed.clones.get(to).unwrap_or(&Place::Absent),
    };
    let (found, free) = match observed.moves.on_the_way.get(through) {
        None | Some(Place::Absent) => return,
        // `~/code` itself makes room by an exchange with an empty folder, so a folder or nothing is right there.
        Some(found) => {
            let room = matches!(observed.code, Place::EmptyFolder | Place::Folder | Place::Absent);
            (found, room && *target == Place::Absent)
        }
    };
    let (through, to) = (through.clone(), to.clone());
    match found {
        Place::EmptyFolder if from == "code" => {
            // Of no use unless the move begins again, which then takes it.
            if !matches!(observed.code, Place::Clone { .. }) {
                let action = Action::Home(HomeAction::Move(Move::CleanUp { path: through }));
                plan.step(subject, action, "an earlier run ended before it moved anything");
            }
        }
        Place::Clone { .. } if free => {
            let is_infra = from == "code";
            plan.step(
                subject,
                Action::Home(HomeAction::Move(action)),
                format!("an earlier run ended in the middle of it; the clone is at ~/{through}"),
            );
            let step = plan.steps.len() - 1;
            moved.arrives.insert(to, (step, through));
            if is_infra && observed.code == Place::Absent {
                moved.workspace = Some(step);
            }
        }
        found => {
            let why = match found {
                Place::Clone { .. } => format!("something is at ~/{to} by now"),
                Place::Unreadable(why) => why.clone(),
                _ => "it is no clone".into(),
            };
            plan.problems.push(Problem {
                subject: subject.clone(),
                what: format!("~/{through}, which was on its way to ~/{to}, stays where it is"),
                why,
                next: format!("let {subject} look into ~/{through} and move one of the two away"),
            });
            moved.kept_free.insert(to);
        }
    }
}

/// The infra clone from `~/code` to `~/code/infra`. Whether it moves.
fn infra(plan: &mut Plan, subject: &Subject, observed: &HomeObserved, moved: &mut Moved) -> bool {
    let Some(candidate) = observed.moves.candidates.get("code") else {
        unanswered(plan, subject, "code");
        return false;
    };
    if stays(plan, subject, "code", "code/infra", candidate) {
        return false;
    }
    let step = plan.step(
        subject,
        Action::Home(HomeAction::Move(Move::infra())),
        "code_layout: workspace; branches, changes and all files stay as they are",
    );
    step.inverse = Some(
        "mv ~/code/infra ~/infra && rmdir ~/code && mv ~/infra ~/code && git -C ~/code worktree repair"
            .into(),
    );
    let step = plan.steps.len() - 1;
    remarks(plan, subject, candidate);
    moved.workspace = Some(step);
    moved.arrives.insert("code/infra".into(), (step, "code".into()));
    true
}

/// A clone within the infra clone to its own place at `path`.
fn hoist(plan: &mut Plan, subject: &Subject, observed: &HomeObserved, path: &str, moved: &mut Moved) {
    let Move::Clone { from, .. } = Move::hoist(path) else { return };
    // The infra clone itself may move first, and takes it along.
    let infra = moved.arrives.get("code/infra");
    let now = within(infra.map_or("code/infra", |(_, now)| now), path);
    let first = infra.map(|(step, _)| *step);
    let single = infra.is_some_and(|(_, now)| now == "code");
    let Some(candidate) = observed.moves.candidates.get(&now) else { return };
    if candidate.tracked == Tracked::Yes {
        return;
    }
    if !single && observed.clones.get(path) != Some(&Place::Absent) {
        plan.notice(subject, format!("~/{from} is a clone as well as ~/{path}; both are left alone"));
        return;
    }
    if let Tracked::Unknown(why) = &candidate.tracked {
        let text = format!(
            "~/{now} stays where it is: whether the infra repository holds it cannot be told ({why})"
        );
        plan.notice(subject, text);
        moved.kept_free.insert(path.into());
        return;
    }
    if stays(plan, subject, &now, path, candidate) {
        moved.kept_free.insert(path.into());
        return;
    }
    let step = plan.step(
        subject,
        Action::Home(HomeAction::Move(Move::hoist(path))),
        "in the roster; it was made within the infra clone, which does not hold it",
    );
    step.inverse = Some(format!("mv ~/{path} ~/{from}"));
    step.needs.extend(first);
    let step = plan.steps.len() - 1;
    remarks(plan, subject, candidate);
    moved.arrives.insert(path.into(), (step, now));
}

/// Tells why a clone does not move, if it does not.
fn stays(plan: &mut Plan, subject: &Subject, from: &str, to: &str, candidate: &Candidate) -> bool {
    for obstacle in &candidate.obstacles {
        plan.notice(subject, format!("~/{from} does not move to ~/{to} by itself: {obstacle}"));
    }
    !candidate.obstacles.is_empty()
}

fn remarks(plan: &mut Plan, subject: &Subject, candidate: &Candidate) {
    candidate.remarks.iter().for_each(|remark| plan.notice(subject, remark.clone()));
}

fn unanswered(plan: &mut Plan, subject: &Subject, path: &str) {
    plan.problems.push(Problem {
        subject: subject.clone(),
        what: format!("~/{path} cannot be moved"),
        why: "the worker did not say what is in it".into(),
        next: "this is an error in rosterd; please report it".into(),
    });
}
