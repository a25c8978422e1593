//! What a run would do, for `rosterctl plan`. Changes nothing.

use std::rc::Rc;

use jiff::Timestamp;
use roster::desired::HomeDesired;
use roster::ledger::{Ledger, WaitingCause};
use roster::name::OsUser;
use roster::observed::HomeObserved;
use roster::plan::{self, Action, Notice, Plan, Problem, Step, Subject};

use crate::accept::{self, Decision, InForce};
use crate::daemon::Daemon;
use crate::homes::{Said, asker, limits};
use crate::refresh;
use crate::remotes::Remotes;
use crate::run::{chain, plan_host};
use crate::services;
use crate::sources::OnDisk;

/// What a run would have in force.
pub(crate) fn about_to_be_in_force(daemon: &Daemon) -> Option<Rc<InForce>> {
    let (disk, before) = (daemon.read_disk(), daemon.in_force());
    let name = daemon.config_path.display().to_string();
    match accept::decide(&daemon.ledger(), before.as_deref(), &name, &disk, Timestamp::now()) {
        Decision::Accept { new, .. } => Some(Rc::new(*new)),
        _ => before,
    }
}

/// What a run would have in force if this text were saved as the roster, and what the guard would say to it.
fn draft_in_force(daemon: &Daemon, draft: &str) -> Result<(Rc<InForce>, Option<Notice>), Problem> {
    let problem = |why: String| Problem {
        subject: Subject::Machine,
        what: "the draft cannot be planned".into(),
        why,
        next: "correct it; nothing was changed".into(),
    };
    let before = daemon.in_force();
    let disk = OnDisk { roster: Ok(draft.as_bytes().to_vec()), ..daemon.read_disk() };
    let name = daemon.config_path.display().to_string();
    // A ledger in which nothing waits: what an admin has confirmed was something else.
    let ledger = Ledger { waiting: None, ..Ledger::clone(&daemon.ledger()) };
    let decided = accept::decide(&ledger, before.as_deref(), &name, &disk, Timestamp::now());
    let cause = match decided {
        Decision::Accept { new, .. } => return Ok((Rc::new(*new), None)),
        Decision::Unchanged | Decision::NothingYet => {
            return before.map(|before| (before, None)).ok_or_else(|| problem("it is no roster".into()));
        }
        Decision::Wait(waiting) => waiting.cause,
    };
    match cause {
        WaitingCause::Held { cuts, why, .. } => {
            let no_guard = Ledger { applied: None, ..ledger };
            let Decision::Accept { new, .. } =
                accept::decide(&no_guard, None, &name, &disk, Timestamp::now())
            else {
                return Err(problem(why.to_string()));
            };
            let cuts: Vec<_> = cuts.iter().map(ToString::to_string).collect();
            let text = format!(
                "saved like this it would be held, because {why} ({}); `rosterctl confirm` would let it pass",
                cuts.join(", ")
            );
            Ok((Rc::new(*new), Some(Notice { subject: Subject::Machine, text })))
        }
        WaitingCause::Invalid { diagnostics } => Err(problem(diagnostics)),
        WaitingCause::TierMismatch { .. } => Err(problem("tiers differ from the cluster's map".into())),
    }
}

/// What a reconcile would do now, for everybody or for one; with a draft, if that were saved as the roster.
pub(crate) async fn preview(
    daemon: &Rc<Daemon>,
    user: Option<&OsUser>,
    draft: Option<String>,
) -> Result<Plan, Problem> {
    if let Some(problem) = daemon.ledger_trouble() {
        return Err(problem);
    }
    let (in_force, held) = match draft {
        Some(draft) => draft_in_force(daemon, &draft)?,
        None => match about_to_be_in_force(daemon) {
            Some(in_force) => (in_force, None),
            None => return Ok(Plan::default()),
        },
    };
    let host = plan_host(daemon, &in_force).await?;
    let mut plan = host.plan.clone();
    plan.notices.extend(held);
    let reload = services::reload_due(&daemon.ledger(), &plan, &host.units);
    plan.append(host.units.stop.clone());
    let limits = limits(&in_force.config);
    let wanted = |name: &OsUser| user.is_none_or(|user| user == name);
    let homes = host
        .desired
        .accounts
        .iter()
        .filter(|(name, account)| !account.home_content.is_empty() && wanted(name));
    let urls = plan::refresh::to_ask(homes.clone().map(|(_, account)| &account.home_content));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let how = (limits, in_force.config.worker.parallel);
    let remotes = Remotes::ask(daemon, urls, asker(&host.observed), how, false, tell);
    let mut in_homes = Plan::default();
    for (name, account) in homes {
        let subject = Subject::User(name.clone());
        if plan.problems.iter().any(|problem| problem.subject == subject) {
            continue;
        }
        let makes_home =
            |step: &Step| step.subject == subject && matches!(step.action, Action::CreateHome(_));
        let is_new = plan.steps.iter().any(makes_home);
        let looked = match host.observed.accounts.get(name.as_str()).filter(|_| !is_new) {
            None => {
                let observed = HomeObserved::of_a_new_home(&account.home_content);
                Ok(plan::home(name, &account.home_content, &observed))
            }
            Some(entry) => {
                let person = home::Person {
                    user: name.clone(),
                    uid: entry.uid,
                    gid: entry.gid,
                    groups: Vec::new(),
                    home: entry.home.clone(),
                };
                let known = remotes.of(&account.home_content).await;
                look(daemon, &person, &account.home_content, limits, known).await
            }
        };
        match looked {
            Ok(looked) => in_homes.append(looked),
            Err(error) => plan.problems.push(Problem {
                subject,
                what: "the home could not be looked at".into(),
                why: chain(&error),
                next: error.next(),
            }),
        }
    }
    drop(remotes);
    while let Ok(said) = told.try_recv() {
        match said {
            Said::Plan(more) => plan.append(more),
            Said::Problem(problem) => plan.problems.push(*problem),
            Said::Step(..) | Said::Done(..) => {}
        }
    }
    plan.append(in_homes);
    plan.append(host.units.start.clone());
    plan.append(plan::reload(reload));
    Ok(match user {
        Some(user) => plan.only(|subject| *subject == Subject::User(user.clone())),
        None => plan,
    })
}

async fn look(
    daemon: &Daemon,
    person: &home::Person,
    desired: &HomeDesired,
    limits: home::Limits,
    known: roster::remote::Remotes,
) -> Result<Plan, home::WorkerError> {
    let look = plan::refresh::look_at(desired, &known);
    let (mut worker, observed, states) =
        home::Worker::start_looking(&daemon.program, person, limits, desired, look).await?;
    let mut plan = plan::home(&person.user, desired, &observed);
    let home = refresh::Home { daemon, user: &person.user, desired, say: &drop };
    plan.append(
        refresh::preview(&home, &mut worker, plan::refresh::ours(desired, &observed, states), known).await?,
    );
    worker.finish();
    Ok(plan)
}
