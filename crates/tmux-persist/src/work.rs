//! A job done for one person, by a process that is that person: the same for root's worker and for the person
//! themself.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use crate::capture::{Capture, Wanted, capture, screen_name, screens};
use crate::client::{Clients, MAKING, Server};
use crate::history::{Past, merge, sightings};
use crate::job::{
    Answer, Forgotten, Help, Job, JobError, Known, Listed, Outcome, Restored, Saved, Settings, View, one_line,
};
use crate::model::{ConversationId, Folder, Moment, Session, SessionName, Snapshot};
use crate::plan::{Doing, Facts, Live, NotThere, Resolved, Typed, resolve, select};
use crate::script::{Programs, script, typed_mark};
use crate::series::{Tombstones, Verdict, judge};
use crate::store::{Store, StoreError, whole};
use crate::transcripts::Transcripts;
use crate::waiting;

/// How many snapshots are kept. With a change at every tick that is most of a day; a day in which nothing changes takes
/// none.
const KEPT: usize = 200;

/// tmux makes a session and says nothing, and then there is none.
const GONE_AGAIN: &str = "it was gone again at once: see whether `tmux new-session -d` makes one that stays, which \
    `destroy-unattached` in the person's configuration prevents";

/// One person, as that person's process sees it.
struct Work<'a> {
    home: Folder,
    store: Store,
    server: Server,
    settings: &'a Settings,
    help: Help<'a>,
}

/// A snapshot, and what there is now.
struct Looked<'a> {
    snapshot: &'a Snapshot,
    live: Live,
    facts: Facts,
    tombstones: Tombstones,
}

impl Looked<'_> {
    fn rows(&self) -> Vec<Resolved> {
        resolve(self.snapshot, &self.live, &self.facts, &self.tombstones)
    }
}

/// The panes that these rows type into.
fn typed_into(rows: &[Resolved]) -> BTreeSet<String> {
    typed(rows).map(|one| one.pane.id.clone()).collect()
}

fn typed(rows: &[Resolved]) -> impl Iterator<Item = &Typed> {
    rows.iter().flat_map(|one| match &one.doing {
        Doing::Type(typed) => typed.as_slice(),
        _ => &[],
    })
}

/// Does a job. The process is the person already.
pub(crate) fn run<'a>(
    user: &str,
    home: &Path,
    settings: &'a Settings,
    job: &Job,
    help: Help<'a>,
) -> Result<Answer, JobError> {
    // Root's worker has somebody to start a server for it, elsewhere.
    let clients = if help.start_server.is_some() { Clients::Alone } else { Clients::Free };
    let store = match Store::open(Store::place(&settings.state, user)) {
        // Root makes it with its first save; until then there is nothing, which is no failure.
        Err(StoreError::Write { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            return nothing_yet(&Store::place(&settings.state, user), job, source);
        }
        opened => opened?,
    };
    let mut work = Work {
        home: Folder::new(home).ok_or_else(|| JobError::Home(home.to_owned()))?,
        store,
        server: Server::new(&settings.socket, clients),
        settings,
        help,
    };
    work.carry_over()?;
    Ok(match job {
        Job::Save => {
            let (saved, left_out) = work.save()?;
            Answer::Saved { saved, left_out }
        }
        Job::Snapshots => Answer::Snapshots(work.list()?),
        Job::History => Answer::History(work.history()?),
        Job::Snapshot(taken) => {
            let snapshot = match taken {
                Some(taken) => work.snapshot(*taken)?,
                None => work.store.promoted()?.ok_or(JobError::NoneYet)?,
            };
            let rows = work.look(&snapshot)?.rows().into_iter().map(|one| one.row).collect();
            Answer::Snapshot(View { taken: snapshot.taken, rows })
        }
        Job::Restore => {
            let _lock = work.store.lock()?;
            match work.store.promoted()? {
                None => Answer::Restored(Restored {
                    taken: None,
                    damaged: work.store.pointed(),
                    sessions: Vec::new(),
                }),
                Some(snapshot) => {
                    let restored = work.restore(&snapshot, |mut rows| {
                        for one in rows.iter_mut().filter(|one| !one.row.default) {
                            one.doing = Doing::Nothing;
                        }
                        Ok(rows)
                    })?;
                    let damaged = work.store.pointed().filter(|pointed| *pointed != snapshot.taken);
                    Answer::Restored(Restored { damaged, ..restored })
                }
            }
        }
        Job::RestoreSelection(taken, names) => {
            let _lock = work.store.lock()?;
            let snapshot = work.snapshot(*taken)?;
            Answer::Restored(work.restore(&snapshot, |rows| select(rows, names))?)
        }
        Job::RestoreOne(selector) => {
            let _lock = work.store.lock()?;
            let (snapshot, name) = work.find(selector)?;
            Answer::Restored(work.restore(&snapshot, |rows| select(rows, &[name.to_string()]))?)
        }
        Job::Forget(name, at) => {
            let _lock = work.store.lock()?;
            let newest = work.store.moments()?.last().map(|newest| newest.next());
            // A close happens after every snapshot there is, whatever the clock says; whoever gives a time knows it.
            let at = at.unwrap_or_else(|| newest.map_or(work.now(), |newest| newest.max(work.now())));
            work.store.bury(name, at)?;
            Answer::Forgotten(Forgotten { name: name.clone(), known: work.known(name)? })
        }
    })
}

/// The answer of a store that is not there and that whoever asks may not make.
fn nothing_yet(place: &Path, job: &Job, source: std::io::Error) -> Result<Answer, JobError> {
    let there = !matches!(place.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    match job {
        Job::Snapshots if !there => Ok(Answer::Snapshots(Vec::new())),
        Job::History if !there => Ok(Answer::History(Vec::new())),
        Job::Restore if !there => Ok(Answer::Restored(Restored::default())),
        Job::Snapshot(None) if !there => Err(JobError::NoneYet),
        _ => Err(StoreError::Write { path: place.to_owned(), source }.into()),
    }
}

impl Work<'_> {
    fn now(&self) -> Moment {
        Moment::new(self.settings.now.unwrap_or_else(|| jiff::Timestamp::now().as_second()))
    }

    /// Takes over what the earlier layout holds, once.
    fn carry_over(&mut self) -> Result<(), JobError> {
        if self.store.is_carried_over() {
            return Ok(());
        }
        let _lock = self.store.lock()?;
        let earlier = (self.help.earlier)().map_err(JobError::Earlier)?;
        let snapshots = earlier.snapshots(&self.home);
        self.store.take_over(&snapshots)?;
        for (name, at) in earlier.forgotten() {
            self.store.bury(&name, at)?;
        }
        if self.store.pointed().is_none()
            && let Some(newest) = snapshots.last()
        {
            self.store.promote(newest.taken)?;
        }
        Ok(self.store.carried_over()?)
    }

    fn capture(&self) -> Result<Capture, JobError> {
        let wanted = Wanted { commands: &self.settings.commands, environment: &self.settings.environment };
        Ok(capture(&self.server, self.home.path(), wanted)?)
    }

    fn save(&mut self) -> Result<(Saved, Vec<String>), JobError> {
        let _lock = self.store.lock()?;
        let Capture { sessions, live, left_out } = self.capture()?;
        if sessions.is_empty() {
            return Ok((Saved::NoSessions, left_out));
        }
        let stored = self.store.stored()?;
        let promoted = match (&stored, self.store.pointed()) {
            (Some(stored), Some(pointed)) if stored.taken == pointed => Some(stored.clone()),
            _ => self.store.promoted()?,
        };
        // Also when nothing else has changed.
        let tombstones = self.store.unbury(&sessions)?;
        let verdict = judge(&sessions, stored.as_ref(), promoted.as_ref(), &tombstones, self.now());
        let (saved, taken) = match verdict {
            Verdict::Unchanged(taken) => (Saved::Unchanged, taken),
            Verdict::Confirm(taken) => {
                self.store.promote(taken)?;
                (Saved::Confirmed { taken }, taken)
            }
            Verdict::Store { taken, promote } => {
                let count = sessions.len();
                self.store.write(&Snapshot { taken, sessions })?;
                if promote {
                    self.store.promote(taken)?;
                }
                self.store.prune(KEPT)?;
                (Saved::Stored { taken, sessions: count, held: !promote }, taken)
            }
        };
        self.store.remember(&live)?;
        match self.settings.scrollback_kib {
            0 => self.store.drop_screens()?,
            // What the panes show goes on while the sessions stay the same.
            kib => screens::<JobError>(&self.server, &live, kib, |name, screen| {
                Ok(self.store.write_screen(taken, name, screen)?)
            })?,
        }
        Ok((saved, left_out))
    }

    fn list(&self) -> Result<Vec<Listed>, JobError> {
        let moments = self.store.moments()?;
        let newest = self.store.pointed().or_else(|| self.store.stored().ok().flatten().map(|s| s.taken));
        let listed = moments.into_iter().rev().map(|taken| Listed {
            taken,
            sessions: self.store.sessions_in(taken).ok(),
            newest: Some(taken) == newest,
        });
        Ok(listed.collect())
    }

    fn snapshot(&self, taken: Moment) -> Result<Snapshot, JobError> {
        match self.store.read(taken) {
            Err(StoreError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Err(JobError::NoSnapshot(taken))
            }
            other => Ok(other?),
        }
    }

    fn look<'s>(&self, snapshot: &'s Snapshot) -> Result<Looked<'s>, JobError> {
        let mut live = self.capture()?.live;
        let talks = |name: &SessionName| {
            snapshot
                .sessions
                .iter()
                .any(|saved| saved.name == *name && saved.conversations().next().is_some())
        };
        let asked = live.sessions.iter_mut().filter(|(name, _)| talks(name));
        waiting::find(&self.server, asked.flat_map(|(_, panes)| panes))?;
        let seen_in = self.store.places().on(live.server.as_ref());
        let facts = Facts { seen_in, ..self.facts(&snapshot.sessions) };
        Ok(Looked { snapshot, live, facts, tombstones: self.store.tombstones()? })
    }

    /// Restores what `choose` takes of a snapshot. Where something would be typed, it is found out first whether nothing is
    /// on the line; if something is, the session is made beside.
    fn restore(
        &mut self,
        snapshot: &Snapshot,
        choose: impl Fn(Vec<Resolved>) -> Result<Vec<Resolved>, NotThere>,
    ) -> Result<Restored, JobError> {
        let choose = |looked: &Looked| {
            choose(looked.rows()).map_err(|missing| JobError::Selection(snapshot.taken, missing))
        };
        let mut looked = self.look(snapshot)?;
        let mut rows = choose(&looked)?;
        let asked = typed_into(&rows);
        if !asked.is_empty() {
            let panes = looked.live.sessions.values_mut().flatten();
            waiting::prove(&self.server, panes.filter(|pane| asked.contains(&pane.id)).collect())?;
            rows = choose(&looked)?;
            let typed = typed_into(&rows);
            let panes = looked.live.sessions.values().flatten();
            waiting::take_back(&self.server, panes.filter(|pane| !typed.contains(&pane.id)))?;
        }
        self.apply(snapshot.taken, rows)
    }

    /// Looks at the folders and transcripts that the sessions name.
    fn facts(&self, sessions: &[Session]) -> Facts {
        let transcripts = Transcripts::new(self.home.path());
        let mut facts = Facts {
            home: self.home.clone(),
            transcripts: Default::default(),
            folders: BTreeSet::new(),
            seen_in: Default::default(),
        };
        let mut looked_at = BTreeSet::new();
        let mut look = |folders: &mut BTreeSet<Folder>, folder: &Folder| {
            if looked_at.insert(folder.clone()) && folder.path().is_dir() {
                folders.insert(folder.clone());
            }
        };
        for pane in sessions.iter().flat_map(|session| &session.windows).flat_map(|window| &window.panes) {
            look(&mut facts.folders, &pane.folder);
            if let Some(conversation) = &pane.conversation
                && let Some(folder) = transcripts.resumes_in(&conversation.id, &conversation.folder)
            {
                look(&mut facts.folders, &folder);
                facts.transcripts.insert(conversation.id.clone(), folder);
            }
        }
        facts
    }

    /// Carries rows out and looks at what became of them.
    fn apply(&mut self, taken: Moment, mut rows: Vec<Resolved>) -> Result<Restored, JobError> {
        self.find_screens(taken, &mut rows);
        let programs = Programs { pane: self.settings.pane.clone(), claude: self.settings.claude.clone() };
        let script = script(&rows, &self.home, &programs);
        let mut said = String::new();
        let mut told = String::new();
        if !script.is_empty() {
            if self.server.is_there()? {
                let answer = self.server.call(&["source-file", "-"], &script, MAKING)?;
                (told, said) = (String::from_utf8_lossy(&answer.output).into_owned(), answer.errors);
            } else if let Some(start_server) = &mut self.help.start_server {
                let path = self.store.write_file("restore.tmux", &script)?;
                let started = start_server(&path);
                self.store.remove_file("restore.tmux")?;
                started.map_err(JobError::ServerStart)?;
            } else {
                said = self.server.call(&["start-server", ";", "source-file", "-"], &script, MAKING)?.errors;
            }
        }
        let done = |one: &Typed| told.lines().any(|line| line == typed_mark(&one.pane.id));
        let (typed, spared): (Vec<_>, Vec<_>) = typed(&rows).partition(|one| done(one));
        waiting::take_back(&self.server, spared.into_iter().map(|one| &one.pane))?;
        let typed: Vec<_> = typed.into_iter().map(|one| &one.pane).collect();
        let resumed = waiting::until_resumed(&self.server, &typed)?;
        let live = if script.is_empty() { Default::default() } else { self.capture()?.live };
        // Where it cannot be written, the next save tells.
        let _ = self.store.remember(&live);
        let lines = said.lines();
        let reason = one_line(&said);
        let because = |what: String| match reason.as_str() {
            "" => Outcome::Failed(what),
            reason => Outcome::Failed(format!("{what}: {reason}")),
        };
        let duplicate = |name: &SessionName| {
            lines.clone().any(|line| line.trim_end().ends_with(&format!("duplicate session: {name}")))
        };
        let outcome = |one: &Resolved| match &one.doing {
            Doing::Nothing => Outcome::LeftAlone,
            Doing::Type(typed) if !typed.iter().all(done) => {
                because("a pane of it is not as it was any more, and nothing was typed there".into())
            }
            Doing::Type(typed) if typed.iter().any(|one| !resumed.contains(&one.pane.id)) => {
                let within = waiting::STARTING.as_secs();
                Outcome::Failed(format!(
                    "it was typed into its pane, and no claude came of it within {within} s"
                ))
            }
            Doing::Type(_) => Outcome::Resumed,
            Doing::Make { session, .. } => match live.sessions.get(&one.row.target) {
                None if reason.is_empty() => Outcome::Failed(GONE_AGAIN.into()),
                None => because("tmux did not make it".into()),
                Some(_) if duplicate(&one.row.target) => {
                    Outcome::Failed("the name was taken meanwhile".into())
                }
                Some(panes) if panes.len() < session.panes() => {
                    let (has, wanted) = (panes.len(), session.panes());
                    because(format!("it has {has} of its {wanted} panes"))
                }
                Some(_) => Outcome::Made,
            },
        };
        let sessions = rows.iter().map(|one| (one.row.clone(), outcome(one))).collect();
        Ok(Restored { taken: Some(taken), damaged: None, sessions })
    }

    /// The files with what the panes showed, where there are any.
    fn find_screens(&self, taken: Moment, rows: &mut [Resolved]) {
        let place = self.store.scrollback(taken);
        if !place.is_dir() {
            return;
        }
        for one in rows {
            let Doing::Make { session, screens, .. } = &mut one.doing else { continue };
            let panes = session.windows.iter().flat_map(|window| {
                (0..window.panes.len())
                    .map(|position| screen_name(&session.name, window.index.unwrap_or(0), position))
            });
            for (screen, name) in screens.iter_mut().zip(panes) {
                *screen = Some(place.join(name)).filter(|path| path.is_file());
            }
        }
    }

    /// The newest snapshot with a session of that name or, when there is none, with a conversation that begins so.
    fn find(&self, selector: &str) -> Result<(Snapshot, SessionName), JobError> {
        if let Some(found) = self.newest_with(|session| session.name.as_str() == selector)? {
            return Ok(found);
        }
        let begins = |id: &ConversationId| selector.len() >= 4 && id.as_str().starts_with(selector);
        let found = self.newest_with(|session| session.conversations().any(|c| begins(&c.id)))?;
        found.ok_or_else(|| JobError::NoSession(selector.to_owned()))
    }

    fn newest_with(
        &self,
        matches: impl Fn(&Session) -> bool,
    ) -> Result<Option<(Snapshot, SessionName)>, JobError> {
        for taken in self.store.moments()?.iter().rev() {
            let Some(snapshot) = whole(self.store.read(*taken))? else { continue };
            if let Some(session) = snapshot.sessions.iter().find(|session| matches(session)) {
                let name = session.name.clone();
                return Ok(Some((snapshot, name)));
            }
        }
        Ok(None)
    }

    /// Where a session is known from, for whoever may have mistyped its name.
    fn known(&self, name: &SessionName) -> Result<Known, JobError> {
        // A server that does not answer keeps nobody from forgetting.
        let live = self.capture().ok().map(|capture| capture.live.sessions.contains_key(name));
        if live == Some(true) {
            return Ok(Known::Live);
        }
        let saved = self.newest_with(|session| session.name == *name)?.is_some();
        Ok(match live {
            _ if saved => Known::Saved,
            Some(_) => Known::Unknown,
            None => Known::Unclear,
        })
    }

    fn history(&self) -> Result<Vec<Past>, JobError> {
        let live = self.capture()?.live;
        let mut snapshots = Vec::new();
        for taken in self.store.moments()? {
            // One that was pruned since the folder was listed is none; a damaged one is told by `snapshots`.
            let Some(file) = whole(self.store.file(taken))? else { continue };
            if let Ok(seen) = sightings(&file) {
                snapshots.push((taken, seen));
            }
        }
        let tombstones = self.store.tombstones()?;
        let alive = |name: &SessionName, conversation: Option<&ConversationId>| {
            let talks = |id: &ConversationId| {
                live.sessions.values().flatten().any(|pane| pane.conversation.as_ref() == Some(id))
            };
            live.sessions.contains_key(name) || conversation.is_some_and(talks)
        };
        Ok(merge(snapshots, alive, |name, last_seen| tombstones.closed_at(name, last_seen)))
    }
}
