//! Walks a plan. Steps that are better done together are: accounts and memberships in one change of the user
//! database, homes in one build, environment files with one sync. Every other choice was the plan's.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use roster::plan::{Action, Plan, Step};
use roster::report::StepResult;

use crate::Host;
use crate::accounts::{UserChange, What};
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
        Action::CreateAccount(_)
        | Action::AddToGroup { .. }
        | Action::RemoveFromGroup { .. }
        | Action::LockLogin { .. }
        | Action::RestoreLogin { .. } => Way::Users,
        Action::CreateHome(_) => Way::Homes,
        Action::SetEnvKeys { .. } => Way::EnvFiles,
        Action::WriteFile(_) | Action::RemoveFile { .. } | Action::EndSessions { .. } => Way::Alone,
        // Those of units are applied by `units`, at another time.
        Action::StopUnit { .. }
        | Action::EnableUnit { .. }
        | Action::StartUnit { .. }
        | Action::Reload { .. } => Way::NotOurs,
        Action::Cut
        | Action::Return
        | Action::Home(_)
        | Action::Mirror(_)
        | Action::Cluster(_)
        | Action::Vault(_) => Way::NotOurs,
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
        if let Some(why) = self.unmet(step) {
            return self.tell(index, StepResult::Skipped { why }, Duration::ZERO);
        }
        let began = Instant::now();
        let alone = match &step.action {
            Action::WriteFile(file) => Some(self.host.write_file(file)),
            Action::RemoveFile { path } => Some(self.host.remove_file(path)),
            Action::EndSessions { uid, .. } => Some(crate::sessions::end(*uid)),
            _ => None,
        };
        if let Some(result) = alone {
            let result = result.map_or_else(StepResult::from, |()| StepResult::Done);
            return self.tell(index, result, began.elapsed());
        }
        let together = self.together(index, way(&step.action));
        let results = self.apply_together(&together, way(&step.action));
        let took = began.elapsed();
        for (index, result) in together.into_iter().zip(results) {
            let unmet = self.steps.get(index).and_then(|step| self.unmet(step));
            self.tell(index, unmet.map_or(result, |why| StepResult::Skipped { why }), took);
        }
    }

    /// Which step that this one needs was not done, in words.
    fn unmet(&self, step: &Step) -> Option<String> {
        let needed = step.needs.iter().find(|needed| self.state(**needed) != State::Met)?;
        Some(match self.steps.get(*needed) {
            Some(needed) => {
                format!("it needs {} of {}, which was not done", needed.action.kind(), needed.subject)
            }
            None => format!("it needs step {needed}, which is not in the plan"),
        })
    }

    /// The step and all others of its kind that can be applied now.
    fn together(&self, first: usize, kind: Way) -> Vec<usize> {
        let mut together = BTreeSet::new();
        let mut paths = BTreeSet::new();
        for (index, step) in self.steps.iter().enumerate().skip(first) {
            if way(&step.action) != kind || self.state(index) != State::Waiting {
                continue;
            }
            // Within one change of the user database, a step may wait for one before it.
            let met = |needed: &usize| {
                self.state(*needed) == State::Met || kind == Way::Users && together.contains(needed)
            };
            // A file that two steps are about is written by one after the other.
            let is_free = match &step.action {
                Action::SetEnvKeys { path, .. } => paths.insert(path),
                _ => true,
            };
            if step.needs.iter().all(met) && is_free {
                together.insert(index);
            }
        }
        together.into_iter().collect()
    }

    fn apply_together(&self, together: &[usize], kind: Way) -> Vec<StepResult> {
        let steps = || together.iter().filter_map(|index| self.steps.get(*index));
        let actions = || steps().map(|step| &step.action);
        match kind {
            Way::Users => {
                let changes = steps().filter_map(|step| {
                    let what = match &step.action {
                        Action::CreateAccount(account) => What::Account(account),
                        Action::AddToGroup { user, group } => What::Member { user, group },
                        Action::RemoveFromGroup { user, group } => What::NoMember { user, group },
                        Action::LockLogin { user, before } => What::Lock { user, before: *before },
                        Action::RestoreLogin { user, before } => What::Restore { user, before: *before },
                        _ => return None,
                    };
                    let place = |needed: &usize| together.binary_search(needed).ok();
                    Some(UserChange { what, needs: step.needs.iter().filter_map(place).collect() })
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
