//! The refresh of the clones in one home: fetches, then fast-forwards, in the person's worker. What is done is
//! decided by `roster::plan::refresh`.

use std::time::Instant;

use home::{Worker, WorkerError};
use roster::desired::HomeDesired;
use roster::name::OsUser;
use roster::plan::refresh::{self, States};
use roster::plan::{Action, HomeAction, Plan, Step, Subject};
use roster::remote::{Remote, Remotes};
use roster::report::StepResult;

use crate::daemon::Daemon;
use crate::homes::Said;

/// What is told about one home.
pub(crate) struct Home<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) user: &'a OsUser,
    pub(crate) desired: &'a HomeDesired,
    pub(crate) say: &'a dyn Fn(Said),
}

/// Refreshes the clones that are what they should be, seen as `states`.
pub(crate) async fn refresh(
    home: &Home<'_>,
    worker: &mut Worker,
    states: States,
    remotes: Remotes,
) -> Result<(), WorkerError> {
    let Home { user, desired, say, .. } = *home;
    let (fetches, mut states, remotes) = plan_fetches(home, worker, states, remotes).await?;
    if !fetches.steps.is_empty() {
        apply(home, worker, fetches).await;
        states = look_again(home, worker, &states, &remotes).await?;
    } else {
        say(Said::Plan(fetches));
    }
    let (branches, told) = refresh::behind(user, desired, &states, &remotes);
    say(Said::Plan(told));
    if !branches.is_empty() {
        let standings = worker.inspect(branches.clone()).await?;
        let pairs: Vec<_> = branches.into_iter().zip(standings).collect();
        apply(home, worker, refresh::fast_forwards(user, &pairs)).await;
    }
    Ok(())
}

/// What a refresh would do, as far as it shows before anything is fetched.
pub(crate) async fn preview(
    home: &Home<'_>,
    worker: &mut Worker,
    states: States,
    remotes: Remotes,
) -> Result<Plan, WorkerError> {
    let Home { user, desired, .. } = *home;
    let (mut plan, mut states, remotes) = plan_fetches(home, worker, states, remotes).await?;
    // What a fetch brings decides about the rest.
    states.retain(|path, _| {
        !plan
            .steps
            .iter()
            .any(|step| matches!(&step.action, Action::Home(HomeAction::Fetch(f)) if f.path == *path))
    });
    let (branches, told) = refresh::behind(user, desired, &states, &remotes);
    plan.append(told);
    if !branches.is_empty() {
        let standings = worker.inspect(branches.clone()).await?;
        let pairs: Vec<_> = branches.into_iter().zip(standings).collect();
        plan.append(refresh::fast_forwards(user, &pairs));
    }
    Ok(plan)
}

/// The fetches, and the remotes with the answers that only this person gets.
async fn plan_fetches(
    home: &Home<'_>,
    worker: &mut Worker,
    mut states: States,
    mut remotes: Remotes,
) -> Result<(Plan, States, Remotes), WorkerError> {
    let Home { user, desired, .. } = *home;
    let mut plan = Plan::default();
    let urls = refresh::to_ask_as_person(&states, desired, &remotes);
    let asks = !urls.is_empty();
    for url in urls {
        let answer = worker.ask_remote(&url).await?.answer;
        plan.append(refresh::not_asked(&Subject::User(user.clone()), &url, &answer));
        remotes.insert(url, Remote { answer, mirrored: false });
    }
    if asks {
        // The answers say which branch is the default one.
        states = look_again(home, worker, &states, &remotes).await?;
    }
    plan.append(refresh::fetches(user, desired, &states, &remotes));
    Ok((plan, states, remotes))
}

async fn look_again(
    home: &Home<'_>,
    worker: &mut Worker,
    states: &States,
    remotes: &Remotes,
) -> Result<States, WorkerError> {
    let mut look = refresh::look_at(home.desired, remotes);
    look.retain(|look| states.contains_key(&look.path));
    worker.look(look).await
}

async fn apply(home: &Home<'_>, worker: &mut Worker, plan: Plan) {
    (home.say)(Said::Plan(Plan { steps: Vec::new(), ..plan.clone() }));
    worker.prepare(&plan).await;
    for step in plan.steps {
        let clock = Instant::now();
        let result = one(home, worker, &step).await;
        (home.say)(Said::Step(Box::new(step), result, clock.elapsed()));
    }
}

async fn one(home: &Home<'_>, worker: &mut Worker, step: &Step) -> StepResult {
    match &step.action {
        Action::Home(action) if !home.daemon.is_stopping() => worker.apply(action).await,
        _ => StepResult::Skipped { why: "rosterd was told to stop".into() },
    }
}
