//! The units of people: what they do, and the steps of a plan about them, those of a kind in one call where systemd
//! has such a call. Makes no choice: the plan said which unit stops, is enabled or starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use roster::ledger::Reload;
use roster::name::UnitName;
use roster::observed::{Activity, HostObserved, PortHolder, UnitFile, UnitState, UnitsObserved};
use roster::plan::{Action, Plan};
use roster::report::StepResult;

use crate::Host;
use crate::apply::STOPPED;
use crate::observe::ObserveError;
use crate::ports;
use crate::systemd::{CallError, Row, Systemd};

/// How long a unit may take to stop before its step fails: systemd's own default and a little.
const STOP_WAIT: Duration = Duration::from_secs(100);
/// How long a unit may take to start; one that takes longer is on its way, and the next run sees what became of it.
const START_WAIT: Duration = Duration::from_secs(20);
/// A program that cannot work mostly ends at once. It counts as started when it lives after this time.
const SETTLE: Duration = Duration::from_millis(700);
/// A service that systemd started again less than this ago may well end once more. The words do not change while that
/// lasts, so that it is told once.
const STEADY: Duration = Duration::from_secs(30);
const AGAIN: &str = "it ended and was started again less than 30 s ago";
const POLL: Duration = Duration::from_millis(50);

/// Where `systemctl enable` puts its links.
const UNITS: &str = "/etc/systemd/system";

/// Why units could not be looked at. A failed read is not an empty answer (invariant 8).
#[derive(Debug, thiserror::Error)]
pub enum UnitsError {
    /// systemd does not answer as it should.
    #[error("systemd cannot be asked about units: {0}")]
    Systemd(String),
    /// A folder of links cannot be read.
    #[error(transparent)]
    Links(#[from] ObserveError),
    /// The list of sockets cannot be read.
    #[error("who listens on which port cannot be read: {0}")]
    Sockets(String),
}

impl From<CallError> for UnitsError {
    fn from(error: CallError) -> Self {
        UnitsError::Systemd(error.why)
    }
}

/// Blocks this thread until `work` is done. The daemon's own runtime lives on another thread.
pub(crate) fn block_on<T, E: From<CallError>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| E::from(CallError { why: error.to_string(), no_such_unit: false }))?
        .block_on(work)
}

impl Host {
    /// See [`crate::observe_units`].
    pub fn observe_units(
        &self,
        watched: &BTreeMap<UnitName, Option<u16>>,
        host: &HostObserved,
    ) -> Result<UnitsObserved, UnitsError> {
        if watched.is_empty() {
            return Ok(UnitsObserved::default());
        }
        let enabled = self.enabled_units()?;
        let mut observed = block_on(look(watched, &enabled))?;
        observed.holders = self.port_holders(watched, &observed, host)?;
        Ok(observed)
    }

    /// The names of all links in folders such as `multi-user.target.wants`.
    fn enabled_units(&self) -> Result<BTreeSet<String>, ObserveError> {
        let mut enabled = BTreeSet::new();
        for folder in self.names_in(Path::new(UNITS))? {
            let kind = Path::new(&folder).extension().and_then(|kind| kind.to_str());
            if matches!(kind, Some("wants" | "requires" | "upholds")) {
                let names = self.names_in(&Path::new(UNITS).join(&folder))?;
                enabled.extend(names.into_iter().filter_map(|name| name.into_string().ok()));
            }
        }
        Ok(enabled)
    }

    /// Who listens on the ports of people. A port whose owner listens on it while the unit runs is not looked into.
    fn port_holders(
        &self,
        watched: &BTreeMap<UnitName, Option<u16>>,
        observed: &UnitsObserved,
        host: &HostObserved,
    ) -> Result<BTreeMap<u16, PortHolder>, UnitsError> {
        let listeners = ports::listeners(self.root()).map_err(UnitsError::Sockets)?;
        let mut searched = Vec::new();
        for (unit, port) in watched.iter().filter_map(|(unit, port)| Some((unit, (*port)?))) {
            let runs = observed.units.get(unit).is_some_and(|state| state.activity == Activity::Active);
            let owner = host.accounts.get(unit.instance()).map(|entry| entry.uid);
            let on_port = listeners.iter().filter(|listener| listener.port == port);
            searched.extend(on_port.filter(|listener| !runs || Some(listener.uid) != owner));
        }
        if searched.is_empty() {
            return Ok(BTreeMap::new());
        }
        let by_inode = ports::holders(self.root(), &searched);
        let names: BTreeMap<u32, &String> =
            host.accounts.iter().map(|(name, entry)| (entry.uid, name)).collect();
        let mut holders = BTreeMap::new();
        for listener in searched {
            let Some(mut holder) = by_inode.get(&listener.inode).cloned() else { continue };
            if let Some(name) = names.get(&listener.uid) {
                holder.user = (*name).clone();
            }
            // Several may share a port; one that is found is told rather than one that is not.
            let known: &mut PortHolder = holders.entry(listener.port).or_insert_with(|| holder.clone());
            if known.process.is_none() {
                *known = holder;
            }
        }
        Ok(holders)
    }
}

async fn look(
    watched: &BTreeMap<UnitName, Option<u16>>,
    enabled: &BTreeSet<String>,
) -> Result<UnitsObserved, UnitsError> {
    let systemd = Systemd::connect().await?;
    let mut observed = UnitsObserved::default();
    for template in watched.keys().map(UnitName::template).collect::<BTreeSet<_>>() {
        // One that is not there has no state; the units say so themselves.
        if let Ok(state) = systemd.file_state(&template).await {
            observed.installable.insert(template, state != "static");
        }
    }
    let names: Vec<&str> = watched.keys().map(UnitName::as_str).collect();
    for (unit, row) in watched.keys().zip(systemd.list(&names).await?) {
        let mut enabled = enabled.contains(unit.as_str());
        // An [Install] section may ask for something else than such a link, an alias for example. It is asked for only
        // where a unit runs and has no link, which is rare.
        if !enabled && row.active == "active" && observed.installable.get(&unit.template()) == Some(&true) {
            let state = systemd.file_state(unit.as_str()).await.unwrap_or_default();
            enabled = matches!(state.as_str(), "enabled" | "enabled-runtime" | "alias" | "indirect");
        }
        let file = match row.load.as_str() {
            "not-found" => UnitFile::Missing,
            "masked" => UnitFile::Masked,
            "error" | "bad-setting" => {
                let why = systemd.load_error(&row).await.unwrap_or_default();
                UnitFile::Broken(if why.is_empty() { "systemd does not say why".into() } else { why })
            }
            _ => UnitFile::Loaded,
        };
        let remembered = enabled || observed.installable.get(&unit.template()) == Some(&false);
        let activity = activity(&systemd, unit.as_str(), &row, remembered).await?;
        observed.units.insert(unit.clone(), UnitState { file, activity, enabled });
    }
    Ok(observed)
}

/// What a unit does. `should_have_run`: an inactive unit may have done its work already.
async fn activity(
    systemd: &Systemd,
    unit: &str,
    row: &Row,
    should_have_run: bool,
) -> Result<Activity, CallError> {
    let is_service = unit.ends_with(".service");
    let how = async || match is_service {
        true => systemd.service(row).await.map(|ended| ended.words()),
        false => Ok("systemd says no more".to_owned()),
    };
    Ok(match (row.active.as_str(), row.sub.as_str()) {
        ("failed", _) => Activity::Failed(how().await?),
        (_, "auto-restart" | "auto-restart-queued") => Activity::Restarting(AGAIN.into()),
        // Between two ends it runs, so that a look at the state alone mostly sees nothing.
        ("active", "running")
            if is_service && systemd.restarts(row).await? > 0 && systemd.active_for(row).await? < STEADY =>
        {
            Activity::Restarting(AGAIN.into())
        }
        ("inactive", _) if should_have_run && is_service => {
            let ended = systemd.service(row).await?;
            match ended.kind == "oneshot" && ended.has_run && ended.result == "success" {
                true => Activity::Active,
                false => Activity::Inactive,
            }
        }
        ("inactive", _) => Activity::Inactive,
        ("deactivating", _) => Activity::Stopping,
        _ => Activity::Active,
    })
}

/// How a service ended that is started again and again. While it lives, systemd says nothing of its last end.
async fn between_two_lives(systemd: &Systemd, row: &Row) -> Result<String, CallError> {
    for _ in 0..20 {
        let ended = systemd.service(row).await?;
        if ended.code != 0 {
            return Ok(ended.words());
        }
        tokio::time::sleep(POLL / 2).await;
    }
    Ok("it ended".to_owned())
}

/// See [`crate::apply_units`].
pub(crate) fn apply(plan: &Plan, stop: &AtomicBool, report: &mut dyn FnMut(usize, StepResult, Duration)) {
    if plan.steps.is_empty() {
        return;
    }
    let began = Instant::now();
    let mut run = Run { plan, stop, results: BTreeMap::new() };
    if let Err(error) = block_on(run.all()) {
        run.fail_rest(&error);
    }
    let took = began.elapsed();
    for (index, result) in run.results {
        report(index, result, took);
    }
}

struct Run<'a> {
    plan: &'a Plan,
    stop: &'a AtomicBool,
    results: BTreeMap<usize, StepResult>,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<(), CallError> {
        let systemd = Systemd::connect().await?;
        let stops = self.of(|action| match action {
            Action::StopUnit { unit } => Some(unit.as_str()),
            _ => None,
        });
        self.stop_units(&systemd, &stops).await;
        let enables = self.of(|action| match action {
            Action::EnableUnit { unit } => Some(unit.as_str()),
            _ => None,
        });
        self.enable(&systemd, &enables).await;
        let starts = self.of(|action| match action {
            Action::StartUnit { unit } => Some(unit.as_str()),
            _ => None,
        });
        self.start(&systemd, &starts).await;
        for (index, step) in self.plan.steps.iter().enumerate() {
            if let Action::Reload { what } = step.action {
                let result = if what == Reload::None { Ok(()) } else { systemd.reload(what).await };
                self.results.insert(index, told(result));
            }
        }
        Ok(())
    }

    fn of<'s>(&self, unit: impl Fn(&'s Action) -> Option<&'s str>) -> Vec<(usize, &'s str)>
    where
        Self: 's,
    {
        let plan: &'s Plan = self.plan;
        plan.steps.iter().enumerate().filter_map(|(index, step)| Some((index, unit(&step.action)?))).collect()
    }

    fn is_told_to_stop(&mut self, steps: &[(usize, &str)]) -> bool {
        let stop = self.stop.load(Ordering::Relaxed);
        if stop {
            self.results
                .extend(steps.iter().map(|(index, _)| (*index, StepResult::Skipped { why: STOPPED.into() })));
        }
        stop
    }

    async fn stop_units(&mut self, systemd: &Systemd, steps: &[(usize, &str)]) {
        if steps.is_empty() || self.is_told_to_stop(steps) {
            return;
        }
        let names: Vec<&str> = steps.iter().map(|(_, name)| *name).collect();
        let mut failed: BTreeMap<&str, CallError> = BTreeMap::new();
        if systemd.disable(&names).await.is_err() {
            // One that cannot be disabled must not keep the others.
            for name in &names {
                if let Err(error) = systemd.disable(&[name]).await {
                    failed.insert(name, error);
                }
            }
        }
        for name in &names {
            match systemd.stop(name).await {
                Err(error) if !error.no_such_unit => drop(failed.insert(name, error)),
                _ => {}
            }
        }
        let rows = self.wait(systemd, &names, STOP_WAIT, |row| {
            !row.has_job && matches!(row.active.as_str(), "inactive" | "failed")
        });
        match rows.await {
            Err(error) => failed.extend(names.iter().map(|name| (*name, error.clone()))),
            Ok(rows) => {
                for (name, row) in names.iter().zip(rows) {
                    let reset = match row.active.as_str() {
                        "failed" => systemd.reset_failed(name).await,
                        "inactive" => Ok(()),
                        state => Err(CallError { why: format!("it is still {state}"), no_such_unit: false }),
                    };
                    if let Err(error) = reset
                        && !error.no_such_unit
                    {
                        failed.entry(name).or_insert(error);
                    }
                }
            }
        }
        for (index, name) in steps {
            self.results.insert(*index, told(failed.remove(name).map_or(Ok(()), Err)));
        }
    }

    async fn enable(&mut self, systemd: &Systemd, steps: &[(usize, &str)]) {
        if steps.is_empty() || self.is_told_to_stop(steps) {
            return;
        }
        let names: Vec<&str> = steps.iter().map(|(_, name)| *name).collect();
        let together = systemd.enable(&names).await;
        for (index, name) in steps {
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) => systemd.enable(&[name]).await,
            };
            self.results.insert(*index, told(result));
        }
    }

    async fn start(&mut self, systemd: &Systemd, steps: &[(usize, &str)]) {
        if steps.is_empty() || self.is_told_to_stop(steps) {
            return;
        }
        let names: Vec<&str> = steps.iter().map(|(_, name)| *name).collect();
        let mut results = vec![Ok(()); names.len()];
        // A unit that failed too often would refuse to start.
        match systemd.list(&names).await {
            Ok(rows) => {
                for (name, _) in names.iter().zip(rows).filter(|(_, row)| row.active == "failed") {
                    // If it is not failed any more, there is nothing to reset; if it is, the start tells.
                    let _ = systemd.reset_failed(name).await;
                }
            }
            Err(error) => results = vec![Err(error); names.len()],
        }
        for (name, result) in names.iter().zip(&mut results).filter(|(_, result)| result.is_ok()) {
            *result = systemd.start(name).await;
        }
        let settled = async {
            self.wait(systemd, &names, START_WAIT, |row| !row.has_job).await?;
            tokio::time::sleep(SETTLE).await;
            systemd.list(&names).await
        };
        match settled.await {
            Ok(rows) => {
                for ((name, row), result) in names.iter().zip(rows).zip(&mut results) {
                    if result.is_ok() {
                        *result = lives(systemd, name, &row).await;
                    }
                }
            }
            Err(error) => results = vec![Err(error); names.len()],
        }
        for ((index, name), result) in steps.iter().zip(results) {
            let result = result.map_or_else(
                |error| StepResult::Failed {
                    why: error.why,
                    next: format!("`journalctl -u {name} -n 50` says why; rosterd tries again by itself"),
                },
                |()| StepResult::Done,
            );
            self.results.insert(*index, result);
        }
    }

    /// Looks until all are `ready`, the time is over or the daemon is told to stop.
    async fn wait(
        &self,
        systemd: &Systemd,
        names: &[&str],
        at_most: Duration,
        ready: impl Fn(&Row) -> bool,
    ) -> Result<Vec<Row>, CallError> {
        let began = Instant::now();
        loop {
            let rows = systemd.list(names).await?;
            let is_over = began.elapsed() > at_most || self.stop.load(Ordering::Relaxed);
            if is_over || rows.iter().all(&ready) {
                return Ok(rows);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn fail_rest(&mut self, error: &CallError) {
        for index in 0..self.plan.steps.len() {
            self.results.entry(index).or_insert_with(|| told(Err(error.clone())));
        }
    }
}

/// Whether a unit lives that was just started.
async fn lives(systemd: &Systemd, name: &str, row: &Row) -> Result<(), CallError> {
    let why = match activity(systemd, name, row, true).await? {
        Activity::Failed(why) => why,
        Activity::Restarting(_) => between_two_lives(systemd, row).await?,
        _ => return Ok(()),
    };
    Err(CallError { why, no_such_unit: false })
}

fn told(result: Result<(), CallError>) -> StepResult {
    match result {
        Ok(()) => StepResult::Done,
        Err(error) => StepResult::Failed {
            why: error.why,
            next: "the next run tries again; `journalctl -b _PID=1 -n 50` has systemd's view".into(),
        },
    }
}
