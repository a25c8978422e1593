//! Walks a plan. Steps that are better done together are: accounts and memberships in one change of the user
//! database, homes in one build. Every other choice was the plan's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use roster::plan::{Action, Plan, Step};
use roster::report::StepResult;

use crate::Host;
use crate::accounts::UserChange;

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
    Alone,
    NotOurs,
}

fn way(action: &Action) -> Way {
    match action {
        Action::CreateAccount(_) | Action::AddToGroup { .. } => Way::Users,
        Action::CreateHome(_) => Way::Homes,
        Action::WriteFile(_) | Action::SetEnvKeys { .. } => Way::Alone,
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
        let (together, results) = match &step.action {
            Action::WriteFile(file) => (vec![index], vec![self.host.write_file(file)]),
            Action::SetEnvKeys { path, keys } => {
                let keys = keys.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                (vec![index], vec![self.host.set_env_keys(path, keys)])
            }
            _ => return self.together(index, began),
        };
        for (index, result) in together.into_iter().zip(results) {
            self.tell(index, result.map_or_else(StepResult::from, |()| StepResult::Done), began.elapsed());
        }
    }

    /// Applies the step together with all others of its kind that can be applied now.
    fn together(&mut self, first: usize, began: Instant) {
        let Some(kind) = self.steps.get(first).map(|step| way(&step.action)) else { return };
        let mut together: Vec<usize> = Vec::new();
        for (index, step) in self.steps.iter().enumerate().skip(first) {
            let ready = |needed: &usize| self.state(*needed) == State::Met;
            if way(&step.action) == kind
                && self.state(index) == State::Waiting
                && step.needs.iter().all(ready)
            {
                together.push(index);
            }
        }
        let actions = together.iter().filter_map(|index| self.steps.get(*index)).map(|step| &step.action);
        let results = if kind == Way::Users {
            let changes: Vec<UserChange<'_>> = actions
                .filter_map(|action| match action {
                    Action::CreateAccount(account) => Some(UserChange::Account(account)),
                    Action::AddToGroup { user, group } => Some(UserChange::Member { user, group }),
                    _ => None,
                })
                .collect();
            self.host.change_users(&changes, self.stop)
        } else {
            let homes: Vec<_> = actions
                .filter_map(|action| match action {
                    Action::CreateHome(home) => Some(home),
                    _ => None,
                })
                .collect();
            self.host.make_homes(&homes)
        };
        let took = began.elapsed();
        for (index, result) in together.into_iter().zip(results) {
            self.tell(index, result, took);
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
