//! The units of people's services: what stops, what is enabled and started, and who is told what keeps a unit from
//! running. A unit is touched when the roster asks for it or when the ledger says that rosterd enabled or adopted it;
//! every other one is somebody else's. What runs is never restarted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, PANE_DROP_IN, Plan, Problem, Step, Subject};
use crate::desired::{Desired, UnitDesired, UnitWish};
use crate::ledger::{Ledger, Reload};
use crate::name::{OsUser, UnitName};
use crate::observed::{Activity, PortHolder, UnitFile, UnitState, UnitsObserved};

/// What is done about units, and what the ledger keeps about them before the first step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitsPlan {
    /// Done first: whatever holds a port that somebody else gets is gone then.
    pub stop: Plan,
    /// Done last, when homes are ready to work in.
    pub start: Plan,
    /// The units that are ours until their last step is done.
    pub owned: BTreeMap<OsUser, BTreeSet<UnitName>>,
}

/// Every unit to look at, with the port that it should listen on.
pub fn units_to_watch(desired: &Desired, ledger: &Ledger) -> BTreeMap<UnitName, Option<u16>> {
    let owned = ledger.units.values().flatten().map(|unit| (unit.clone(), None));
    let wanted = desired.accounts.values().flat_map(|account| &account.units);
    // What is wanted comes last: it knows the port.
    owned.chain(wanted.map(|wanted| (wanted.unit.clone(), wanted.port))).collect()
}

/// The steps of the units. One person's problems take no step from anybody else (invariant 4).
pub fn units(desired: &Desired, ledger: &Ledger, observed: &UnitsObserved) -> UnitsPlan {
    let mut plan = UnitsPlan::default();
    let mut static_templates = BTreeSet::new();
    for (user, owned) in &ledger.units {
        let listed = desired.accounts.get(user);
        let wanted: BTreeSet<&UnitName> =
            listed.iter().flat_map(|account| &account.units).map(|w| &w.unit).collect();
        let reason = match listed {
            Some(_) => "rosterd enabled it, and roster and config no longer ask for it",
            None => "no longer in the roster",
        };
        for unit in owned.iter().filter(|unit| !wanted.contains(unit)) {
            plan.retire(user, unit, reason.into(), observed);
        }
    }
    let wanted =
        || desired.accounts.iter().flat_map(|(user, account)| account.units.iter().map(move |w| (user, w)));
    for (user, wanted) in wanted() {
        if let UnitWish::Stopped { why } = &wanted.wish {
            plan.retire(user, &wanted.unit, why.clone(), observed);
        }
    }
    // Only now is all known that stops: it may hold a port that is somebody else's from now on.
    for (user, wanted) in wanted().filter(|(_, wanted)| wanted.wish == UnitWish::Running) {
        plan.owned.entry(user.clone()).or_default().insert(wanted.unit.clone());
        if let Some(state) = observed.units.get(&wanted.unit) {
            plan.run(user, wanted, state, observed, &mut static_templates);
        }
    }
    for template in static_templates {
        plan.start.notice(
            &Subject::Machine,
            format!(
                "{template} has no [Install] section, so its units cannot be enabled: rosterd starts them, boot does \
                 not; add one with `WantedBy=multi-user.target`"
            ),
        );
    }
    plan
}

impl UnitsPlan {
    /// Whose account is not as it should be, by the plan of the host, gets no service. It must show before the first
    /// step: a unit that will not be enabled is no reason to have systemd read everything again, run after run.
    pub fn for_ready(self, host: &Plan) -> Self {
        let is_ready = |subject: &Subject| !host.problems.iter().any(|problem| problem.subject == *subject);
        let start = self.start.only(|subject| *subject == Subject::Machine || is_ready(subject));
        UnitsPlan { start, ..self }
    }

    /// Stops and disables a unit, unless it is so already.
    fn retire(&mut self, user: &OsUser, unit: &UnitName, reason: String, observed: &UnitsObserved) {
        // What could not be looked at is kept, so that nothing is concluded from it (invariant 8).
        let is_down =
            observed.units.get(unit).map(|state| state.activity == Activity::Inactive && !state.enabled);
        if is_down != Some(true) {
            self.owned.entry(user.clone()).or_default().insert(unit.clone());
        }
        if is_down == Some(false) {
            let action = Action::StopUnit { unit: unit.clone() };
            self.stop.step(&Subject::User(user.clone()), action, reason).inverse =
                Some(format!("systemctl enable --now {unit}"));
        }
    }

    /// Whether whoever holds a port is stopped before anything is started: the unit's predecessor.
    fn stops(&self, holder: &PortHolder) -> bool {
        self.stop.steps.iter().any(|step| match &step.action {
            Action::StopUnit { unit } => holder.unit.as_deref() == Some(unit.as_str()),
            _ => false,
        })
    }

    /// Enables and starts a unit, or tells what keeps it from running.
    fn run(
        &mut self,
        user: &OsUser,
        wanted: &UnitDesired,
        state: &UnitState,
        observed: &UnitsObserved,
        static_templates: &mut BTreeSet<String>,
    ) {
        let (unit, subject) = (&wanted.unit, Subject::User(user.clone()));
        if let Some(problem) = file_problem(&subject, unit, &state.file) {
            return self.start.problems.push(problem);
        }
        let installable = observed.installable.get(&unit.template()).copied().unwrap_or(true);
        if !installable {
            static_templates.insert(unit.template());
        } else if !state.enabled {
            let action = Action::EnableUnit { unit: unit.clone() };
            let reason = format!("`{}` is wanted, not enabled", wanted.service);
            self.start.step(&subject, action, reason).inverse = Some(format!("systemctl disable {unit}"));
        }
        let holder = wanted.port.and_then(|port| Some((port, observed.holders.get(&port)?)));
        if let Some((port, holder)) =
            holder.filter(|(_, holder)| is_foreign(holder, unit) && !self.stops(holder))
        {
            self.start.problems.push(taken(&subject, wanted, port, holder));
            // It would only fail, or worse, take the place of who holds the port now.
            return;
        }
        let ended = |what: &str, how: &str, next: &str| Problem {
            subject: subject.clone(),
            what: format!("{unit} {what}"),
            why: how.to_owned(),
            next: format!("`journalctl -u {unit} -n 50` says why; {next}"),
        };
        let reason = match &state.activity {
            Activity::Active | Activity::Stopping => return,
            Activity::Restarting(how) => {
                return self.start.problems.push(ended(
                    "does not stay up, systemd starts it again and again",
                    how,
                    "what it runs must be mended",
                ));
            }
            Activity::Failed(how) => {
                self.start.problems.push(ended(
                    "had failed",
                    how,
                    "rosterd starts it again, less and less often",
                ));
                "it had failed".to_owned()
            }
            Activity::Inactive => format!("`{}` is wanted, not running", wanted.service),
        };
        let action = Action::StartUnit { unit: unit.clone() };
        self.start.step(&subject, action, reason).inverse = Some(format!("systemctl stop {unit}"));
    }
}

fn file_problem(subject: &Subject, unit: &UnitName, file: &UnitFile) -> Option<Problem> {
    let template = unit.template();
    let (what, why, next) = match file {
        UnitFile::Loaded => return None,
        UnitFile::Missing => (
            "does not exist",
            format!("systemd knows no {template}"),
            format!(
                "install it, for example as /etc/systemd/system/{template}, or take it out of config.toml"
            ),
        ),
        UnitFile::Masked => (
            "is masked",
            "somebody forbade it".to_owned(),
            format!(
                "`systemctl unmask {unit}`, or take it out of config.toml; for one person, set `parked: true`"
            ),
        ),
        UnitFile::Broken(why) => (
            "cannot be loaded",
            why.clone(),
            format!("correct its file (`systemctl cat {unit}`, `systemd-analyze verify {unit}`)"),
        ),
    };
    Some(Problem { subject: subject.clone(), what: format!("{unit} {what}"), why, next })
}

/// Whether a port is somebody else's. systemd itself holds it for a socket unit.
fn is_foreign(holder: &PortHolder, unit: &UnitName) -> bool {
    holder.unit.as_deref() != Some(unit.as_str()) && holder.process.as_ref().is_none_or(|(pid, _)| *pid != 1)
}

fn taken(subject: &Subject, wanted: &UnitDesired, port: u16, holder: &PortHolder) -> Problem {
    let process = match &holder.process {
        Some((pid, name)) => format!("process {pid} ({name}) of {}", holder.user),
        None => format!("a process of {}", holder.user),
    };
    let unit = holder.unit.as_ref().map(|unit| format!(" in {unit}")).unwrap_or_default();
    let stop = match (&holder.unit, &holder.process) {
        // An instance of a template is most likely a predecessor that nobody retired; what another service is
        // there for, only an admin knows.
        (Some(unit), _) if unit.ends_with(".service") && unit.contains('@') && !unit.starts_with("user@") => {
            format!("`systemctl disable --now {unit}`")
        }
        (Some(unit), _) if unit.ends_with(".service") => {
            format!("`systemctl status {unit}` shows what it is")
        }
        (_, Some((pid, _))) => format!("`kill {pid}`"),
        _ => format!("`ss -ltnp 'sport = :{port}'` finds it"),
    };
    Problem {
        subject: subject.clone(),
        what: format!("port {port} of `{}` is taken", wanted.service),
        why: format!("{process}{unit} listens on it, not {}", wanted.unit),
        next: format!(
            "end that: {stop}; the port stays {subject}'s, and {} starts when it is free",
            wanted.unit
        ),
    }
}

/// What is ours after the steps that stop: those that were done are no longer.
pub fn is_done(owned: &mut BTreeMap<OsUser, BTreeSet<UnitName>>, step: &Step) {
    if let (Subject::User(user), Action::StopUnit { unit }) = (&step.subject, &step.action)
        && let Some(units) = owned.get_mut(user)
    {
        units.remove(unit);
        if units.is_empty() {
            owned.remove(user);
        }
    }
}

/// What systemd has to read again once these steps are applied.
pub fn reload_due<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Reload {
    let due = |step: &Step| match &step.action {
        Action::StopUnit { .. } | Action::EnableUnit { .. } => Reload::System,
        Action::WriteFile(super::WholeFile { path, .. }) | Action::RemoveFile { path } => {
            if path.as_os_str() == PANE_DROP_IN {
                Reload::Users
            } else if path.starts_with("/etc/systemd/system") {
                Reload::System
            } else {
                Reload::None
            }
        }
        _ => Reload::None,
    };
    steps.into_iter().map(due).max().unwrap_or_default()
}

/// The one reload of a run, or nothing.
pub fn reload(what: Reload) -> Plan {
    let mut plan = Plan::default();
    if what != Reload::None {
        plan.step(&Subject::Machine, Action::Reload { what }, "units or limits have changed");
    }
    plan
}
