//! The remotes of a run: each is asked once, by a worker that is the system user `rosterd`, however many people have
//! a clone of it; and its mirror is brought up to date before anybody takes from it. A home waits for its own
//! remotes only.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use roster::desired::HomeDesired;
use roster::plan::{Action, Notice, Plan, Problem, Subject, refresh};
use roster::remote::{Answer, Asked, Remote};
use roster::report::StepResult;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::daemon::Daemon;
use crate::homes::Said;
use crate::run::chain;

/// Where the mirrors are. Its folder is made by the unit's `CacheDirectory=`.
pub(crate) const MIRRORS: &str = "/var/cache/rosterd/mirror";

/// The system user that speaks to public remotes; the package makes it.
pub(crate) const ACCOUNT: &str = "rosterd";

/// What the remotes of a run said, as it comes.
pub(crate) struct Remotes {
    known: BTreeMap<String, watch::Receiver<Option<Remote>>>,
    /// Mirrors that failed somebody, and how.
    failed: RefCell<BTreeMap<String, String>>,
    asker: Rc<Asker>,
    /// Dropped with this, and their workers with them.
    _asking: JoinSet<()>,
}

/// Who asks, and how.
struct Asker {
    daemon: Rc<Daemon>,
    account: Option<(u32, u32)>,
    limits: home::Limits,
    /// Whether mirrors are kept; a preview asks, looks at them, and changes nothing.
    mirror: bool,
    parallel: Semaphore,
    tell: mpsc::UnboundedSender<Said>,
}

impl Remotes {
    /// Begins to ask. What there is to tell goes to `tell`.
    pub(crate) fn ask(
        daemon: &Rc<Daemon>,
        urls: BTreeSet<String>,
        account: Option<(u32, u32)>,
        (limits, parallel): (home::Limits, usize),
        mirror: bool,
        tell: mpsc::UnboundedSender<Said>,
    ) -> Remotes {
        let daemon = Rc::clone(daemon);
        let parallel = Semaphore::new(parallel.max(1));
        let asker = Rc::new(Asker { daemon, account, limits, mirror, parallel, tell });
        if account.is_none() && !urls.is_empty() {
            let text = format!(
                "there is no system user `{ACCOUNT}`, so remotes are asked by each person and nothing is mirrored; \
                 `systemd-sysusers rosterd.conf` makes it"
            );
            asker.say(Said::Plan(Plan {
                notices: vec![Notice { subject: Subject::Machine, text }],
                ..Plan::default()
            }));
        }
        let mut asking = JoinSet::new();
        let known = urls.into_iter().map(|url| {
            let (told, known) = watch::channel(None);
            let (asker, of) = (Rc::clone(&asker), url.clone());
            asking.spawn_local(async move {
                let remote = asker.one(&of).await;
                // Nobody waits any more only when the run was told to stop.
                let _ = told.send(Some(remote));
            });
            (url, known)
        });
        let known = known.collect();
        Remotes { known, failed: RefCell::default(), asker, _asking: asking }
    }

    /// The remotes of one home, when all of them are known.
    pub(crate) async fn of(&self, desired: &HomeDesired) -> roster::remote::Remotes {
        let mut remotes = roster::remote::Remotes::new();
        for url in refresh::to_ask([desired]) {
            let Some(known) = self.known.get(&url) else { continue };
            let remote = known.clone().wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
            remotes.extend(remote.map(|remote| (url, remote)));
        }
        remotes
    }

    /// A clone could not be made from the mirror of `url`.
    pub(crate) fn mirror_failed(&self, url: &str, why: String) {
        self.failed.borrow_mut().insert(url.to_owned(), why);
    }

    /// Looks at the mirrors that failed somebody, when nobody takes from them any more.
    pub(crate) async fn check_failed(&self) {
        for (url, why) in self.failed.take() {
            self.asker.check(&url, &why).await;
        }
    }
}

impl Asker {
    fn say(&self, said: Said) {
        // Nobody listens only when the run was told to stop.
        let _ = self.tell.send(said);
    }

    /// The remote is asked by each person instead, as one that shows itself to nobody else.
    fn by_persons(&self) -> Remote {
        let answer =
            Answer::WantsLogin { why: "it could not be asked for everybody".into(), next: String::new() };
        Remote { answer, mirrored: false }
    }

    /// An earlier run's worker may still be writing to the mirror.
    async fn alone(&self, url: &str) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        if self.mirror { Some(self.daemon.mirror(url).lock_owned().await) } else { None }
    }

    async fn start(&self, url: &str) -> Option<home::RemoteWorker> {
        let started = home::RemoteWorker::start(
            &self.daemon.program.work,
            self.account?,
            url,
            self.mirror,
            self.limits,
        )
        .await;
        match started {
            Ok(worker) => Some(worker),
            Err(error) => {
                self.say(Said::Problem(Box::new(Problem {
                    subject: Subject::Machine,
                    what: format!("{url} could not be asked for everybody, so each person asks"),
                    why: chain(&error),
                    next: error.next(),
                })));
                None
            }
        }
    }

    async fn one(&self, url: &str) -> Remote {
        let _turn = self.parallel.acquire().await;
        let _mirror = self.alone(url).await;
        let Some(mut worker) = self.start(url).await else { return self.by_persons() };
        let asked = worker.ask().await.unwrap_or_else(|error| {
            let (why, next) = match error {
                home::WorkerError::Deadline { .. } => (
                    "the server does not answer".into(),
                    "look whether it hangs; tried again later by itself".into(),
                ),
                error => (chain(&error), error.next()),
            };
            Asked { answer: Answer::Failed { why, next }, not_mirrored: 0 }
        });
        self.daemon.remote_said(url, &asked.answer);
        self.say(Said::Plan(refresh::not_asked(&Subject::Machine, url, &asked.answer)));
        let mut mirrored = matches!(asked.answer, Answer::Refs(_));
        let plan = refresh::mirror(url, &asked);
        if !self.mirror {
            self.say(Said::Plan(plan));
            worker.finish();
            return Remote { answer: asked.answer, mirrored };
        }
        for step in plan.steps {
            let Action::Mirror(action) = &step.action else { continue };
            let clock = Instant::now();
            let result = worker.apply(action).await;
            mirrored &= result == StepResult::Done;
            self.say(Said::Step(Box::new(step), result, clock.elapsed()));
        }
        worker.finish();
        Remote { answer: asked.answer, mirrored }
    }

    async fn check(&self, url: &str, why: &str) {
        let _mirror = self.alone(url).await;
        let Some(mut worker) = self.start(url).await else { return };
        for step in refresh::check(url, why).steps {
            let Action::Mirror(action) = &step.action else { continue };
            let clock = Instant::now();
            let result = worker.apply(action).await;
            self.say(Said::Step(Box::new(step), result, clock.elapsed()));
        }
        worker.finish();
    }
}
