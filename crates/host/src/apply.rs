//! Walks a plan. Steps that are better done together are: accounts and memberships in one change of the user
//! database, homes in one build, environment files with one sync. Every other choice was the plan's.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use roster::plan::{Action, Plan, Step};
use roster::report::StepResult;

use crate::Host;
use crate::accounts::UserChange;
use crate::files::EnvKeys;

/// Why steps were skipped when the daemon was told to stop.
pub(crate) const STOPPED: &str = "rosterd was told to stop; the next run does it";

/// What has become of a step so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Done, or not ours to do.
    Met,
    NotMet,
}

/// How a step is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Users,
    Homes,
    EnvFiles,
    Alone,
    NotOurs,
}

fn way(action: &Action) -> Way {
    match action {
        Action::CreateAccount(_) | Action::AddToGroup { .. } => Way::Users,
        Action::CreateHome(_) => Way::Homes,
        Action::SetEnvKeys { .. } => Way::EnvFiles,
        Action::WriteFile(_) => Way::Alone,
        Action::Cut | Action::Return | Action::Home(_) => Way::NotOurs,
    }
}

impl Host {
    /// See [`crate::apply`].
    pub fn apply(&self, plan: &Plan, stop: &AtomicBool, report: &mut dyn FnMut(usize, StepResult, Duration)) {
        let mut run = Run {
            host: self,
            steps: &plan.steps,
            stop,
            report,
            states: plan
                .steps
                .iter()
                .map(|step| if way(&step.action) == Way::NotOurs { State::Met } else { State::Waiting })
                .collect(),
        };
        for index in 0..plan.steps.len() {
            run.step(index);
        }
    }
}

/// A plan being applied.
struct Run<'a> {
    host: &'a Host,
    steps: &'a [Step],
    stop: &'a AtomicBool,
    report: &'a mut dyn FnMut(usize, StepResult, Duration),
    states: Vec<State>,
}

impl Run<'_> {
    fn step(&mut self, index: usize) {
        let Some(step) = self.steps.get(index) else { return };
        if self.state(index) != State::Waiting {
            return;
        }
        if self.stop.load(Ordering::Relaxed) {
            return self.tell(index, StepResult::Skipped { why: STOPPED.into() }, Duration::ZERO);
        }
        if let Some(needed) = step.needs.iter().copied().find(|needed| self.state(*needed) != State::Met) {
            let why = match self.steps.get(needed) {
                Some(needed) => {
                    format!("it needs {} of {}, which was not done", needed.action.kind(), needed.subject)
                }
                None => format!("it needs step {needed}, which is not in the plan"),
            };
            return self.tell(index, StepResult::Skipped { why }, Duration::ZERO);
        }
        let began = Instant::now();
        if let Action::WriteFile(file) = &step.action {
            let result = self.host.write_file(file).map_or_else(StepResult::from, |()| StepResult::Done);
            return self.tell(index, result, began.elapsed());
        }
        let together = self.together(index, way(&step.action));
        let results = self.apply_together(&together, way(&step.action));
        let took = began.elapsed();
        for (index, result) in together.into_iter().zip(results) {
            self.tell(index, result, took);
        }
    }

    /// The step and all others of its kind that can be applied now.
    fn together(&self, first: usize, kind: Way) -> Vec<usize> {
        let mut paths = BTreeSet::new();
        let ready = |needed: &usize| self.state(*needed) == State::Met;
        let waits = |(index, step): &(usize, &Step)| {
            way(&step.action) == kind && self.state(*index) == State::Waiting && step.needs.iter().all(ready)
        };
        // A file that two steps are about is written by one after the other.
        let first_of_its_file = |(_, step): &(usize, &Step)| match &step.action {
            Action::SetEnvKeys { path, .. } => paths.insert(path.clone()),
            _ => true,
        };
        let steps = self.steps.iter().enumerate().skip(first);
        steps.filter(waits).filter(first_of_its_file).map(|(index, _)| index).collect()
    }

    fn apply_together(&self, together: &[usize], kind: Way) -> Vec<StepResult> {
        let actions = || together.iter().filter_map(|index| self.steps.get(*index)).map(|step| &step.action);
        match kind {
            Way::Users => {
                let changes = actions().filter_map(|action| match action {
                    Action::CreateAccount(account) => Some(UserChange::Account(account)),
                    Action::AddToGroup { user, group } => Some(UserChange::Member { user, group }),
                    _ => None,
                });
                self.host.change_users(&changes.collect::<Vec<_>>(), self.stop)
            }
            Way::Homes => {
                let homes = actions().filter_map(|action| match action {
                    Action::CreateHome(home) => Some(home),
                    _ => None,
                });
                self.host.make_homes(&homes.collect::<Vec<_>>())
            }
            Way::EnvFiles => {
                let files = actions().filter_map(|action| match action {
                    Action::SetEnvKeys { path, keys } => Some(EnvKeys { path, keys }),
                    _ => None,
                });
                let results = self.host.set_env_keys(&files.collect::<Vec<_>>());
                results
                    .into_iter()
                    .map(|result| result.map_or_else(StepResult::from, |()| StepResult::Done))
                    .collect()
            }
            Way::Alone | Way::NotOurs => Vec::new(),
        }
    }

    fn state(&self, index: usize) -> State {
        self.states.get(index).copied().unwrap_or(State::NotMet)
    }

    fn tell(&mut self, index: usize, result: StepResult, took: Duration) {
        if let Some(state) = self.states.get_mut(index) {
            *state = if result == StepResult::Done { State::Met } else { State::NotMet };
        }
        (self.report)(index, result, took);
    }
}
