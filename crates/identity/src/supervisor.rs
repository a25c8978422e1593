//! The daemon's end of a worker. What comes from the worker is untrusted: lines are bounded, an answer to something that
//! was not asked is an error, and texts are cleaned before anyone reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use roster::cluster::{ClusterDesired, ClusterObserved, Kind, PlacedName, Reading, Seen};
use roster::lease::SeenLease;
use roster::plan::{Action, ClusterAction, Plan};
use roster::report::StepResult;
use roster::vault::{Unread, VaultLook};
use tokio::time::Instant;
use worker_process::{Advice, Process, WorkerError, clean};

use crate::credential::Credential;
use crate::protocol::{Begin, Change, Failure, Looked, MAX_LINE, Reply, Request};

/// What a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the whole run, from the start of the worker.
    pub deadline: Duration,
    /// Heap and other private memory, in MiB.
    pub memory_mib: u64,
    /// Requests that are under way at the same time.
    pub parallel: usize,
}

/// What an admin can do when a worker fails.
const ADVICE: Advice = Advice {
    deadline: "tried again by itself; if the provider is that slow, raise its `deadline_s` in the config",
    memory: "tried again by itself; if it stays, the provider holds more than rosterd is made for: please report it",
    ended: "tried again by itself",
    protocol: "tried again by itself; if it stays, see what the provider's server runs",
};

/// A process that works with one provider as a system user. Dropping it kills it.
///
/// Start it from a thread that lives as long as the worker: the kernel kills a worker when the thread that started
/// it ends.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    parallel: usize,
    landlock: home::Landlock,
}

impl Worker {
    /// Starts `program` and waits until it has become `account`, the ids of a system user.
    pub async fn start(
        program: &Path,
        account: (u32, u32),
        credential: &Credential,
        limits: Limits,
    ) -> Result<Worker, WorkerError> {
        let given = (Instant::now(), limits.deadline);
        let process = Process::start(program, &["rosterd-provider"], given, MAX_LINE, &ADVICE)?;
        let mut worker = Worker { process, parallel: limits.parallel, landlock: home::Landlock::Absent };
        let begin = Begin {
            uid: account.0,
            gid: account.1,
            memory_mib: limits.memory_mib,
            cpu_s: limits.deadline.as_secs().max(1),
            parallel: limits.parallel,
            access: credential.access.clone(),
        };
        let doing = "beginning";
        worker.tell(&Request::Begin(begin), doing).await?;
        match worker.hear(doing).await? {
            Reply::Ready { landlock } => worker.landlock = landlock,
            Reply::Refused(failure) => {
                return Err(WorkerError::Refused { why: clean(&failure.why), next: clean(&failure.next) });
            }
            _ => return Err(worker.process.nonsense("not what was asked", doing)),
        }
        Ok(worker)
    }

    /// How far Landlock confines it.
    pub fn landlock(&self) -> home::Landlock {
        self.landlock
    }

    /// What the provider shows of what is desired in it, and of what is ours.
    pub async fn observe(&mut self, desired: &ClusterDesired) -> Result<ClusterObserved, WorkerError> {
        let doing = "looking at the cluster";
        let kinds: Vec<Kind> = desired.kinds().collect();
        let count = kinds.len();
        let instance = desired.instance.clone();
        self.tell(&Request::Observe { instance, kinds, wanted: desired.wanted() }, doing).await?;
        let mut observed = ClusterObserved::default();
        while observed.kinds.len() < count {
            let Reply::Read { kind, reading } = self.hear(doing).await? else {
                return Err(self.process.nonsense("not what was asked", doing));
            };
            let reading = checked(kind, reading).map_err(|what| self.process.nonsense(what, doing))?;
            if observed.kinds.insert(kind, reading).is_some() {
                return Err(self.process.nonsense("it tells of a kind twice", doing));
            }
        }
        Ok(observed)
    }

    /// The Lease by which several hosts agree, as it is.
    pub async fn lease(
        &mut self,
        place: &PlacedName,
    ) -> Result<Result<Option<SeenLease>, Failure>, WorkerError> {
        let doing = "reading the lease";
        self.tell(&Request::Lease { place: place.clone() }, doing).await?;
        match self.hear(doing).await? {
            Reply::Lease(lease) => Ok(lease
                .map(|lease| lease.map(|lease| SeenLease { holder: clean(&lease.holder), ..lease }))
                .map_err(shown)),
            _ => Err(self.process.nonsense("not what was asked", doing)),
        }
    }

    /// Says that the Lease is ours. Whether it is: of two hosts that say so, the server lets one.
    pub async fn take_lease(
        &mut self,
        place: &PlacedName,
        before: Option<SeenLease>,
        holder: &str,
        now: Timestamp,
    ) -> Result<Result<bool, Failure>, WorkerError> {
        let doing = "taking the lease";
        let (place, holder) = (place.clone(), holder.to_owned());
        self.tell(&Request::TakeLease { place, before, holder, now }, doing).await?;
        match self.hear(doing).await? {
            Reply::LeaseTaken(taken) => Ok(taken.map_err(shown)),
            _ => Err(self.process.nonsense("not what was asked", doing)),
        }
    }

    /// What a Vault shows of what is desired in it, and of what is ours.
    pub async fn look(&mut self, look: &VaultLook) -> Result<Looked, WorkerError> {
        let doing = "looking at Vault";
        self.tell(&Request::Look(look.clone()), doing).await?;
        match self.hear(doing).await? {
            Reply::Looked(looked) => {
                checked_vault(*looked).map_err(|what| self.process.nonsense(what, doing))
            }
            _ => Err(self.process.nonsense("not what was asked", doing)),
        }
    }

    /// Applies the steps of a plan, several at a time, each after those that it needs. `told` hears what became of each.
    pub async fn apply(&mut self, plan: &Plan, mut told: impl FnMut(usize, StepResult, Duration)) {
        let mut ended: BTreeMap<usize, bool> = BTreeMap::new();
        let mut under_way: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut waiting: Vec<usize> = (0..plan.steps.len()).collect();
        let mut failed: Option<WorkerError> = None;
        loop {
            // In the order of the plan, whatever is ready.
            let mut later = Vec::new();
            let mut queue = std::mem::take(&mut waiting).into_iter();
            while let Some(index) = queue.next() {
                // With every place taken the rest is not looked at: there may be thousands of them.
                if under_way.len() >= self.parallel.max(1) {
                    later.push(index);
                    later.extend(queue);
                    break;
                }
                let Some(step) = plan.steps.get(index) else { continue };
                let needs = step.needs.iter().map(|need| ended.get(need).copied());
                let missing = needs.clone().any(|need| need == Some(false)) || failed.is_some();
                let ready = needs.clone().all(|need| need == Some(true));
                let change = match &step.action {
                    Action::Cluster(action) if ready => Some(Change::Cluster(action.clone())),
                    Action::Vault(action) if ready => Some(Change::Vault(action.clone())),
                    _ => None,
                };
                let is_ours = matches!(&step.action, Action::Cluster(_) | Action::Vault(_));
                match change {
                    None if is_ours && !missing => later.push(index),
                    Some(change) if !missing => match self.send(index, change).await {
                        Ok(()) => drop(under_way.insert(index, Instant::now())),
                        Err(error) => {
                            ended.insert(index, false);
                            told(index, result(&error), Duration::ZERO);
                            failed = Some(error);
                        }
                    },
                    _ => {
                        ended.insert(index, false);
                        let why = match &failed {
                            Some(error) => error.to_string(),
                            None => "a step that it needs was not applied".into(),
                        };
                        told(index, StepResult::Skipped { why }, Duration::ZERO);
                    }
                }
            }
            waiting = later;
            if under_way.is_empty() {
                // With nothing under way and nothing failed, whatever waits has become ready or was skipped.
                if waiting.is_empty() {
                    return;
                }
                continue;
            }
            let doing = "making changes";
            let heard = match self.hear(doing).await {
                Ok(Reply::Applied { id, failure }) if under_way.contains_key(&id) => Ok((id, failure)),
                Ok(_) => Err(self.process.nonsense("not what was asked", doing)),
                Err(error) => Err(error),
            };
            match heard {
                Ok((id, failure)) => {
                    let took = under_way.remove(&id).map_or(Duration::ZERO, |since| since.elapsed());
                    ended.insert(id, failure.is_none());
                    let result = match failure {
                        None => StepResult::Done,
                        Some(failure) => {
                            StepResult::Failed { why: clean(&failure.why), next: clean(&failure.next) }
                        }
                    };
                    told(id, result, took);
                }
                Err(error) => {
                    for (id, since) in std::mem::take(&mut under_way) {
                        ended.insert(id, false);
                        told(id, broken(plan, id, &error), since.elapsed());
                    }
                    failed = Some(error);
                }
            }
        }
    }

    async fn send(&mut self, id: usize, change: Change) -> Result<(), WorkerError> {
        self.tell(&Request::Apply { id, change }, "making changes").await
    }

    /// Lets the worker end.
    pub async fn finish(self) {
        let _ = self.process.finish().await;
    }

    async fn tell(&mut self, request: &Request, doing: &str) -> Result<(), WorkerError> {
        self.process.tell(&[request], doing).await
    }

    async fn hear(&mut self, doing: &str) -> Result<Reply, WorkerError> {
        self.process.hear(doing).await
    }
}

fn shown(failure: Failure) -> Failure {
    Failure { why: clean(&failure.why), next: clean(&failure.next) }
}

fn result(error: &WorkerError) -> StepResult {
    StepResult::Failed { why: error.to_string(), next: error.next() }
}

/// Of a step that was under way, nobody knows how far it got.
fn broken(plan: &Plan, index: usize, error: &WorkerError) -> StepResult {
    let action = plan.steps.get(index).map(|step| &step.action);
    let mut why = error.to_string();
    if matches!(action, Some(Action::Cluster(ClusterAction::Replace { .. }))) {
        why.push_str("; it may have been removed already, and then nobody has it until it is made again");
    }
    StepResult::Failed { why, next: error.next() }
}

/// What a worker says it saw of a kind, as far as it can be one's, with texts that can be shown.
fn checked(kind: Kind, reading: Reading) -> Result<Reading, &'static str> {
    let (objects, more) = match reading {
        Reading::Seen(objects) => (objects, BTreeSet::new()),
        Reading::InPart { seen, namespaces } => (seen, namespaces),
        Reading::NoSuchKind => return Ok(Reading::NoSuchKind),
        Reading::Unreadable { why, next } => {
            return Ok(Reading::Unreadable { why: clean(&why), next: clean(&next) });
        }
    };
    let plain =
        |text: &str| !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic());
    let fits = |seen: &Seen| {
        let key = &seen.key;
        key.kind == kind
            && key.namespace.is_some() == kind.is_namespaced()
            && key.namespace.iter().chain([&key.name, &seen.uid, &seen.version]).all(|text| plain(text))
    };
    if !objects.iter().all(fits) || !more.iter().all(|namespace| plain(namespace)) {
        return Err("it tells of objects that cannot be");
    }
    let shown = |mut seen: Seen| {
        for owner in seen.owners.values_mut().flatten() {
            owner.name = clean(&owner.name);
        }
        seen.owners = seen.owners.into_iter().map(|(path, owners)| (clean(&path), owners)).collect();
        seen.fields = seen.fields.into_iter().map(|(path, value)| (clean(&path), value)).collect();
        seen
    };
    let seen = objects.into_iter().map(shown).collect();
    Ok(if more.is_empty() { Reading::Seen(seen) } else { Reading::InPart { seen, namespaces: more } })
}

/// What a worker says it saw of a Vault, with names that can be one's and texts that can be shown.
fn checked_vault(looked: Looked) -> Result<Looked, &'static str> {
    let Looked { mut observed, notices } = looked;
    fn shown<T>(found: Result<T, Unread>) -> Result<T, Unread> {
        found.map_err(|Unread { why, next }| Unread { why: clean(&why), next: clean(&next) })
    }
    let plain = |text: &str| !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control);
    let policies = observed.policies.iter().flatten().map(|(name, _)| name);
    let entities = observed.entities.iter().flatten().flat_map(|entity| {
        [&entity.id, &entity.name]
            .into_iter()
            .chain(&entity.policies)
            .chain(&entity.aliases)
            .chain(&entity.others)
    });
    let roles = observed.roles.iter().flatten();
    let roles = roles.flat_map(|(name, role)| {
        [name]
            .into_iter()
            .chain(&role.names)
            .chain(&role.namespaces)
            .chain(&role.policies)
            .chain(&role.changed)
    });
    let keys = observed.keys.iter().flatten();
    let accessor = observed.accessor.iter().flatten();
    if !policies.chain(entities).chain(roles).chain(keys).chain(accessor).all(|text| plain(text)) {
        return Err("it tells of things that cannot be");
    }
    observed.list = shown(observed.list);
    observed.accessor = shown(observed.accessor);
    observed.policies = shown(observed.policies);
    observed.entities = shown(observed.entities);
    observed.roles = shown(observed.roles);
    observed.keys = shown(observed.keys);
    Ok(Looked { observed, notices: notices.iter().map(|text| clean(text)).collect() })
}
