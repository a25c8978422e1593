//! Work in homes, several at a time, each in a worker of its own. A home that takes long does not keep the others
//! waiting: it gives its turn away, and when another run is wanted, that run goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use roster::config::Config;
use roster::desired::HomeDesired;
use roster::name::OsUser;
use roster::observed::HostObserved;
use roster::plan::{self, Action, HomeAction, Notice, Plan, Problem, Step, Subject};
use roster::report::StepResult;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::daemon::Daemon;
use crate::journal;
use crate::refresh;
use crate::remotes::{ACCOUNT, MIRRORS, Remotes};
use crate::run::{HostWork, chain};
use crate::running::Running;

/// A home that is not done after this no longer counts among those that are worked in at a time: most of what takes
/// longer waits, for a server or for a person who stopped their own worker, and must not hold up the rest.
const TURN: Duration = Duration::from_secs(30);

/// How long a run waits for homes before it looks whether another is wanted.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is being done in homes, also from one run to the next.
#[derive(Debug)]
pub(crate) struct Homes {
    in_hand: BTreeMap<OsUser, InHand>,
    begun: u64,
    /// What the remotes of homes in hand said about the machine, also to earlier runs.
    machine: Found,
    batches: JoinSet<()>,
    turns: (usize, Rc<Semaphore>),
    /// When it is looked at next whether another run is wanted.
    look_at: tokio::time::Instant,
    tell: mpsc::UnboundedSender<Said>,
    told: mpsc::UnboundedReceiver<Said>,
}

#[derive(Debug)]
struct InHand {
    /// Tells it from one that was begun for the same person before.
    number: u64,
    desired: HomeDesired,
    work: AbortHandle,
    /// What earlier runs were told about it.
    before: Found,
}

/// What was found wrong with a home, or to be told about it, by runs that ended before it was done. It counts when it
/// is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) problems: Vec<Problem>,
    /// Steps that failed; the journal knows them.
    pub(crate) failed: Vec<Problem>,
    pub(crate) notices: Vec<Notice>,
}

/// What work in homes, and with the remotes they need, tells the run.
#[derive(Debug)]
pub(crate) enum Said {
    Plan(Plan),
    Step(Box<Step>, StepResult, Duration),
    Problem(Box<Problem>),
    /// This home is done, well or not; the number tells which work in it.
    Done(OsUser, u64),
}

impl Default for Homes {
    fn default() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let turns = (0, Rc::new(Semaphore::new(0)));
        let look_at = tokio::time::Instant::now();
        Homes {
            in_hand: BTreeMap::new(),
            begun: 0,
            machine: Found::default(),
            batches: JoinSet::new(),
            turns,
            look_at,
            tell,
            told,
        }
    }
}

impl Homes {
    /// Whose home is being worked in.
    pub(crate) fn in_hand(&self) -> impl Iterator<Item = &OsUser> {
        self.in_hand.keys()
    }

    /// Keeps what a run that ends was told about the homes that it leaves in hand.
    pub(crate) fn keep(&mut self, running: &Running<'_>) {
        for (user, home) in &mut self.in_hand {
            let found = running.found(&Subject::User(user.clone()));
            home.before.problems.extend(found.problems);
            home.before.failed.extend(found.failed);
            home.before.notices.extend(found.notices);
        }
    }

    /// Begins with the homes of `scope` and waits until all of those are done. Gives it up early when the daemon is
    /// told to stop, and when another run is wanted: then that one goes on with what is in hand. Gives whose homes
    /// are done.
    pub(crate) async fn work(
        &mut self,
        daemon: &Rc<Daemon>,
        running: &mut Running<'_>,
        config: &Config,
        host: &HostWork,
        scope: &BTreeSet<Subject>,
    ) -> BTreeSet<OsUser> {
        let mut finished = BTreeSet::new();
        let in_scope = |user: &OsUser| scope.contains(&Subject::User(user.clone()));
        // A worker in the home of somebody who left, or who has nothing to be done there, has no business any more.
        self.in_hand.retain(|user, home| {
            let wanted = host.desired.accounts.get(user).is_some_and(|a| !a.home_content.is_empty());
            if !wanted {
                home.work.abort();
            }
            wanted
        });
        running.found_before(self.machine.clone());
        let content = |user: &OsUser| host.desired.accounts.get(user).map(|account| &account.home_content);
        let with_person = |user: &OsUser, running: &Running<'_>| {
            Some((person(user, host, running)?, content(user)?.clone()))
        };
        let mut begin: Vec<_> = host
            .desired
            .accounts
            .iter()
            .filter(|(user, account)| !account.home_content.is_empty() && in_scope(user))
            .filter(|(user, _)| !self.in_hand.contains_key(*user))
            .filter_map(|(user, _)| with_person(user, running))
            .collect();
        if begin.is_empty() && self.in_hand.is_empty() || daemon.is_stopping() {
            return finished;
        }
        running.phase(format!(
            "looking at {}",
            journal::count(begin.len() + self.in_hand.len(), "home", "homes")
        ));
        self.look_at = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.begin(daemon, running, config, host, std::mem::take(&mut begin));
            let Some((user, towards)) = self.next_done(daemon, running, scope).await else { return finished };
            // One that an earlier run began may have worked towards something else.
            begin.extend(
                with_person(&user, running).filter(|(_, wanted)| *wanted != towards && !daemon.is_stopping()),
            );
            if begin.is_empty() {
                finished.insert(user);
            }
        }
    }

    /// Waits for what an earlier run has begun, when this one can begin nothing. Gives whose homes are done.
    pub(crate) async fn see_through(
        &mut self,
        daemon: &Rc<Daemon>,
        running: &mut Running<'_>,
    ) -> BTreeSet<OsUser> {
        let scope = self.in_hand().cloned().map(Subject::User).collect();
        self.look_at = tokio::time::Instant::now() + PATIENCE;
        running.found_before(self.machine.clone());
        let mut finished = BTreeSet::new();
        while let Some((user, _)) = self.next_done(daemon, running, &scope).await {
            finished.insert(user);
        }
        finished
    }

    /// Waits until a home is done, and gives whose and what it was worked towards; nothing when no home of `scope` is
    /// in hand any more, or this run is to end.
    async fn next_done(
        &mut self,
        daemon: &Rc<Daemon>,
        running: &mut Running<'_>,
        scope: &BTreeSet<Subject>,
    ) -> Option<(OsUser, HomeDesired)> {
        loop {
            let in_scope = |user: &OsUser| scope.contains(&Subject::User(user.clone()));
            let only_others = !self.in_hand.is_empty() && !self.in_hand.keys().any(in_scope);
            if self.told.is_empty() && (self.batches.is_empty() || only_others) {
                if self.batches.is_empty() {
                    // Nobody works any more: who has not said so never will.
                    self.in_hand.clear();
                    self.machine = Found::default();
                }
                return None;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.look_at) => {
                    self.look_at = tokio::time::Instant::now() + PATIENCE;
                    running.settle_failed(scope, self.in_hand.keys());
                    if daemon.is_wanted(self.in_hand.keys()) {
                        return None;
                    }
                    running.phase(format!("waiting for {}", few(self.in_hand.keys())));
                }
                () = daemon.stopped() => {
                    // A worker that is killed loses nothing: a clone counts from its last rename on.
                    self.batches.shutdown().await;
                    return None;
                }
                Some(said) = self.told.recv() => match said {
                    Said::Plan(plan) => {
                        let ours = |subject: &Subject| *subject == Subject::Machine;
                        self.machine.problems.extend(plan.problems.iter().filter(|p| ours(&p.subject)).cloned());
                        self.machine.notices.extend(plan.notices.iter().filter(|n| ours(&n.subject)).cloned());
                        running.take(&plan);
                    }
                    Said::Step(step, result, took) => running.record(*step, result, took),
                    Said::Problem(problem) => {
                        if problem.subject == Subject::Machine {
                            self.machine.problems.push((*problem).clone());
                        }
                        running.problems.push(*problem);
                    }
                    Said::Done(user, number) => {
                        if self.in_hand.get(&user).is_some_and(|home| home.number == number)
                            && let Some(done) = self.in_hand.remove(&user)
                        {
                            running.found_before(done.before);
                            return Some((user, done.desired));
                        }
                    }
                },
                Some(_) = self.batches.join_next() => {}
            }
        }
    }

    /// Starts a task for each of `people`, which asks their remotes first.
    fn begin(
        &mut self,
        daemon: &Rc<Daemon>,
        running: &mut Running<'_>,
        config: &Config,
        host: &HostWork,
        people: Vec<(home::Person, HomeDesired)>,
    ) {
        if people.is_empty() {
            return;
        }
        let limits = limits(config);
        let parallel = config.worker.parallel.max(1);
        if self.turns.0 != parallel {
            self.turns = (parallel, Rc::new(Semaphore::new(parallel)));
        }
        let account = prepare_mirrors(host, running);
        let urls = plan::refresh::to_ask(people.iter().map(|(_, desired)| desired));
        let how = (limits, parallel);
        let remotes = Rc::new(Remotes::ask(daemon, urls, account, how, true, self.tell.clone()));
        let mut each = JoinSet::new();
        for (person, desired) in people {
            self.begun += 1;
            let number = self.begun;
            let (tell, turns, daemon) = (self.tell.clone(), Rc::clone(&self.turns.1), Rc::clone(daemon));
            let (remotes, user, wanted) = (Rc::clone(&remotes), person.user.clone(), desired.clone());
            let work = each.spawn_local(async move {
                // Before its turn: a remote that hangs keeps only those waiting who need it.
                let known = remotes.of(&desired).await;
                let turn = turns.acquire().await;
                let mut work =
                    std::pin::pin!(one_home(&daemon, &person, &desired, limits, (&remotes, known), &tell));
                if tokio::time::timeout(TURN, &mut work).await.is_err() {
                    drop(turn);
                    work.await;
                }
                // Nobody listens only when the daemon was told to stop.
                let _ = tell.send(Said::Done(person.user.clone(), number));
            });
            let before = Found::default();
            self.in_hand.insert(user, InHand { number, desired: wanted, work, before });
        }
        self.batches.spawn_local(async move {
            while each.join_next().await.is_some() {}
            remotes.check_failed().await;
        });
    }
}

/// Some names for a line that must not become long.
fn few<'a>(mut users: impl ExactSizeIterator<Item = &'a OsUser>) -> String {
    const FEW: usize = 3;
    let more = users.len().saturating_sub(FEW);
    let mut names: Vec<_> = users.by_ref().take(FEW).map(|user| user.to_string()).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    format!("the {} of {}", if more + names.len() == 1 { "home" } else { "homes" }, names.join(", "))
}

pub(crate) fn limits(config: &Config) -> home::Limits {
    home::Limits {
        deadline: Duration::from_secs(config.worker.deadline_s),
        memory_mib: config.worker.memory_mib,
        max_clone_mib: config.worker.max_clone_mib,
        mirrors: MIRRORS,
    }
}

/// The ids of the system user that asks remotes, with a folder for the mirrors that is its own. Without either,
/// each person asks.
fn prepare_mirrors(host: &HostWork, running: &mut Running<'_>) -> Option<(u32, u32)> {
    let account = asker(&host.observed)?;
    if let Err(error) = host::mirrors_folder(Path::new(MIRRORS), account) {
        running.problems.push(Problem {
            subject: Subject::Machine,
            what: format!("the folder of the mirrors {MIRRORS} cannot be made"),
            why: error.to_string(),
            next: "see to it that it can be; until then each person asks the remotes".into(),
        });
        return None;
    }
    Some(account)
}

pub(crate) fn asker(observed: &HostObserved) -> Option<(u32, u32)> {
    observed.accounts.get(ACCOUNT).map(|entry| (entry.uid, entry.gid))
}

/// Who a worker becomes: an account that exists now, with the ids that the ledger reserved.
fn person(user: &OsUser, host: &HostWork, running: &Running<'_>) -> Option<home::Person> {
    if let Some(entry) = host.observed.accounts.get(user.as_str()) {
        let refused = running.problems.iter().any(|problem| problem.subject == Subject::User(user.clone()));
        return (!refused).then(|| home::Person {
            user: user.clone(),
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.clone(),
        });
    }
    running.steps.iter().find_map(|record| match (&record.step.action, &record.result) {
        (Action::CreateAccount(new), StepResult::Done) if new.user == *user => Some(home::Person {
            user: user.clone(),
            uid: new.uid,
            gid: new.gid,
            groups: Vec::new(),
            home: new.home.path.clone(),
        }),
        _ => None,
    })
}

/// Observe, plan and apply in one home. What goes wrong is that subject's alone (invariant 4).
async fn one_home(
    daemon: &Daemon,
    person: &home::Person,
    desired: &HomeDesired,
    limits: home::Limits,
    (remotes, known): (&Remotes, roster::remote::Remotes),
    tell: &tokio::sync::mpsc::UnboundedSender<Said>,
) {
    let subject = Subject::User(person.user.clone());
    let say = |said| drop(tell.send(said));
    let failed = |what: &str, error: &home::WorkerError| {
        let (why, next) = (chain(error), error.next());
        Said::Problem(Box::new(Problem { subject: subject.clone(), what: what.into(), why, next }))
    };
    let look = plan::refresh::look_at(desired, &known);
    let started = home::Worker::start_looking(&daemon.program, person, limits, desired, look).await;
    let (mut worker, mut observed, mut states) = match started {
        Ok(started) => started,
        Err(error) => return say(failed("the home could not be looked at", &error)),
    };
    let plan = plan::home(&person.user, desired, &observed);
    say(Said::Plan(Plan { steps: Vec::new(), ..plan.clone() }));
    worker.prepare(&plan).await;
    let mut done = vec![false; plan.steps.len()];
    for (index, step) in plan.steps.into_iter().enumerate() {
        let clock = Instant::now();
        let missing = step.needs.iter().any(|need| !done.get(*need).copied().unwrap_or(false));
        let result = match &step.action {
            Action::Home(action) if !missing && !daemon.is_stopping() => {
                let way = plan::refresh::way(action, &known);
                let (result, without_mirror) = worker.apply_from(action, &way).await;
                if let (Some(why), HomeAction::Clone(clone)) = (without_mirror, action) {
                    remotes.mirror_failed(&clone.url, why);
                }
                result
            }
            _ => StepResult::Skipped { why: "a step that it needs was not applied".into() },
        };
        done[index] = result == StepResult::Done;
        say(Said::Step(Box::new(step), result, clock.elapsed()));
    }
    if done.contains(&true) {
        let look = plan::refresh::look_at(desired, &known);
        let again = async { Ok((worker.observe(desired).await?, worker.look(look).await?)) };
        (observed, states) = match again.await {
            Ok(seen) => seen,
            Err(error) => return say(failed("the home could not be looked at", &error)),
        };
        let seen = plan::home(&person.user, desired, &observed).seen;
        say(Said::Plan(Plan { seen, ..Plan::default() }));
    }
    let states = plan::refresh::ours(desired, &observed, states);
    let home = refresh::Home { daemon, user: &person.user, desired, say: &say };
    if let Err(error) = refresh::refresh(&home, &mut worker, states, known).await {
        say(failed("the clones could not be refreshed", &error));
    }
    worker.finish();
}
