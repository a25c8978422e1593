//! What is done for one person, by a process that is that person: the same for root's worker and for the person
//! themself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capture::{Capture, Wanted, capture, screen_name, screens};
use crate::client::{ClientError, MAKING, Server};
use crate::earlier::Earlier;
use crate::format::{FormatError, decode_as};
use crate::model::{ConversationId, Folder, Moment, Session, SessionName, Snapshot};
use crate::plan::{self, Doing, Facts, Resolved, Row, resolve, select};
use crate::script::{Programs, script};
use crate::series::{Past, Sighting, Verdict, judge, merge};
use crate::store::{Store, StoreError};
use crate::transcripts::Transcripts;

/// How many snapshots are kept. With a change at every tick that is most of a day; a day in which nothing changes takes
/// none.
const KEPT: usize = 200;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// A snapshot of what is live, if it differs from the newest.
    Save,
    /// What is missing of the newest snapshot.
    Restore,
    /// The list of snapshots.
    Snapshots,
    /// One snapshot against what is live; the one that a restore takes when none is named.
    Snapshot(Option<Moment>),
    /// These sessions of one snapshot.
    RestoreSelection(Moment, Vec<String>),
    /// One session from the newest snapshot that has it.
    RestoreOne(String),
    /// What all snapshots tell.
    History,
    /// A session was closed on purpose, now or at the given time.
    Forget(SessionName, Option<Moment>),
}

/// How it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The folder of all stores.
    pub state: PathBuf,
    /// The name of the tmux server's socket.
    pub socket: String,
    /// The program that resumes a conversation.
    pub claude: String,
    /// The programs that a restore starts again, by name.
    pub commands: Vec<String>,
    /// The keys of a session's environment that are saved.
    pub environment: Vec<String>,
    /// How many KiB of each pane's text are saved; none when 0.
    pub scrollback_kib: u32,
    /// The seconds since 1970, when not those of the clock.
    pub now: Option<i64>,
    /// The command line of the program that panes begin with, see [`crate::pane`].
    pub pane: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of a save.
    Saved(Saved),
    /// Of every restore.
    Restored(Restored),
    /// The snapshots, the newest first.
    Snapshots(Vec<Listed>),
    /// The rows of one snapshot.
    Snapshot(View),
    /// The history, the newest first.
    History(Vec<Past>),
    /// The close is recorded.
    Forgotten(SessionName),
}

/// What a save did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saved {
    /// There is no session that is somebody's work, so nothing was written.
    NoSessions,
    /// It is as the newest snapshot.
    Unchanged,
    /// A snapshot was written.
    Stored {
        /// Its name.
        taken: Moment,
        /// How many sessions it has.
        sessions: usize,
        /// Whether most was missing, so that a restore goes on taking the one before for now.
        held: bool,
    },
    /// What was missing is still missing: from now on a restore takes the newest snapshot.
    Confirmed {
        /// Its name.
        taken: Moment,
    },
}

/// A snapshot in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub taken: Moment,
    /// How many sessions it has; none when its file is damaged.
    pub sessions: Option<usize>,
    /// Whether a restore takes it.
    pub newest: bool,
}

/// One snapshot against what is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its name.
    pub taken: Moment,
    /// Its sessions.
    pub rows: Vec<Row>,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The snapshot it took; none when there is none.
    pub taken: Option<Moment>,
    /// Its sessions, with what became of each.
    pub sessions: Vec<(Row, Outcome)>,
}

/// What became of a session in a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was made.
    Made,
    /// Its conversation was resumed in the pane that was there.
    Resumed,
    /// There was nothing to do.
    LeftAlone,
    /// It did not work.
    Failed(String),
}

impl Restored {
    /// Whether anything did not work.
    pub fn failed(&self) -> bool {
        self.sessions.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no snapshot {0}")]
    NoSnapshot(Moment),
    #[error("there is no snapshot yet")]
    NoneYet,
    #[error("the snapshot {0} does not have all that was asked for, so nothing was restored")]
    Selection(Moment, #[source] plan::NotThere),
    #[error("no session of that name, and no conversation that begins so, is in any snapshot: {0}")]
    NoSession(String),
    #[error("the home {} is no absolute path", .0.display())]
    Home(PathBuf),
    #[error("the tmux server could not be started: {0}")]
    ServerStart(String),
    #[error("what the earlier layout holds could not be read: {0}")]
    Earlier(String),
}

impl JobError {
    /// What to do next.
    pub(crate) fn next(&self) -> &'static str {
        match self {
            JobError::Client(ClientError::Start(_)) => "install tmux",
            JobError::Client(ClientError::Deadline { .. } | ClientError::TooMuch { .. }) => {
                "look at that server's process; other people are not affected"
            }
            JobError::Client(_) => "see whether `tmux list-sessions` works for this person",
            JobError::Store(StoreError::Write { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                "root's first `rosterctl tmux save`, which the timer does, makes each person's folder; every folder above it \
                 must let them through"
            }
            JobError::Store(StoreError::Write { .. }) => {
                "make room and check who owns the folder; what was saved before is still there"
            }
            JobError::Store(StoreError::Read { .. } | StoreError::Unusable { .. }) => {
                "`rosterctl tmux snapshots` lists the others"
            }
            JobError::Store(StoreError::Locked { .. }) => "try again when that has ended",
            JobError::NoSnapshot(_) | JobError::Selection(..) => {
                "`rosterctl tmux snapshots` and `rosterctl tmux snapshot TS` list what there is"
            }
            JobError::NoneYet => "`rosterctl tmux save` makes one when a session is there",
            JobError::NoSession(_) => {
                "`rosterctl tmux history` lists all; a conversation wants four characters"
            }
            JobError::Home(_) => "correct the home in /etc/passwd",
            JobError::ServerStart(_) => "see `journalctl -u 'rosterd-tmux-*'`",
            JobError::Earlier(_) => "root can: `rosterctl tmux save`",
        }
    }
}

/// Starts a tmux server that runs this script, in a place where it lives on.
pub(crate) type StartServer<'a> = &'a mut dyn FnMut(&Path) -> Result<(), String>;

/// What the person's process cannot do itself and asks for.
pub(crate) struct Help<'a> {
    /// `None`: this process starts it.
    pub(crate) start_server: Option<StartServer<'a>>,
    /// What the earlier layout holds.
    pub(crate) earlier: &'a mut dyn FnMut() -> Result<Earlier, String>,
}

/// One person, as that person's process sees it.
struct Work<'a> {
    home: Folder,
    store: Store,
    server: Server,
    settings: &'a Settings,
    help: Help<'a>,
}

/// Does a job. The process is the person already.
pub(crate) fn run<'a>(
    user: &str,
    home: &Path,
    settings: &'a Settings,
    job: &Job,
    help: Help<'a>,
) -> Result<Answer, JobError> {
    let mut work = Work {
        home: Folder::new(home).ok_or_else(|| JobError::Home(home.to_owned()))?,
        store: Store::open(Store::place(&settings.state, user))?,
        server: Server::new(&settings.socket),
        settings,
        help,
    };
    work.carry_over()?;
    Ok(match job {
        Job::Save => Answer::Saved(work.save()?),
        Job::Snapshots => Answer::Snapshots(work.list()?),
        Job::History => Answer::History(work.history()?),
        Job::Snapshot(taken) => {
            let snapshot = match taken {
                Some(taken) => work.snapshot(*taken)?,
                None => work.store.promoted()?.ok_or(JobError::NoneYet)?,
            };
            let rows = work.resolve(&snapshot)?.into_iter().map(|one| one.row).collect();
            Answer::Snapshot(View { taken: snapshot.taken, rows })
        }
        Job::Restore => {
            let _lock = work.store.lock()?;
            match work.store.promoted()? {
                None => Answer::Restored(Restored { taken: None, sessions: Vec::new() }),
                Some(snapshot) => {
                    let mut rows = work.resolve(&snapshot)?;
                    for one in rows.iter_mut().filter(|one| !one.row.default) {
                        one.doing = Doing::Nothing;
                    }
                    Answer::Restored(work.apply(snapshot.taken, rows)?)
                }
            }
        }
        Job::RestoreSelection(taken, names) => {
            let _lock = work.store.lock()?;
            let snapshot = work.snapshot(*taken)?;
            let rows = select(work.resolve(&snapshot)?, names)
                .map_err(|missing| JobError::Selection(snapshot.taken, missing))?;
            Answer::Restored(work.apply(snapshot.taken, rows)?)
        }
        Job::RestoreOne(selector) => {
            let _lock = work.store.lock()?;
            let (snapshot, name) = work.find(selector)?;
            let rows = select(work.resolve(&snapshot)?, &[name.to_string()])
                .map_err(|missing| JobError::Selection(snapshot.taken, missing))?;
            Answer::Restored(work.apply(snapshot.taken, rows)?)
        }
        Job::Forget(name, at) => {
            let _lock = work.store.lock()?;
            let newest = work.store.moments()?.last().map(|newest| newest.next());
            // A close happens after every snapshot there is, whatever the clock says; whoever gives a time knows it.
            let at = at.unwrap_or_else(|| newest.map_or(work.now(), |newest| newest.max(work.now())));
            work.store.bury(name, at)?;
            Answer::Forgotten(name.clone())
        }
    })
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

    fn save(&mut self) -> Result<Saved, JobError> {
        let _lock = self.store.lock()?;
        let Capture { sessions, live } = self.capture()?;
        if sessions.is_empty() {
            return Ok(Saved::NoSessions);
        }
        let stored = self.store.stored()?;
        let promoted = match (&stored, self.store.pointed()) {
            (Some(stored), Some(pointed)) if stored.taken == pointed => Some(stored.clone()),
            _ => self.store.promoted()?,
        };
        let tombstones = self.store.tombstones()?;
        match judge(&sessions, stored.as_ref(), promoted.as_ref(), &tombstones, self.now()) {
            Verdict::Unchanged => Ok(Saved::Unchanged),
            Verdict::Confirm(taken) => {
                self.store.promote(taken)?;
                Ok(Saved::Confirmed { taken })
            }
            Verdict::Store { taken, promote } => {
                let count = sessions.len();
                self.store.write(&Snapshot { taken, sessions })?;
                if promote {
                    self.store.promote(taken)?;
                }
                for (name, screen) in screens(&self.server, &live, self.settings.scrollback_kib)? {
                    self.store.write_screen(taken, &name, &screen)?;
                }
                self.store.prune(KEPT)?;
                Ok(Saved::Stored { taken, sessions: count, held: !promote })
            }
        }
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
            Err(StoreError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(JobError::NoSnapshot(taken))
            }
            other => Ok(other?),
        }
    }

    fn resolve(&self, snapshot: &Snapshot) -> Result<Vec<Resolved>, JobError> {
        let live = self.capture()?.live;
        let facts = self.facts(&snapshot.sessions);
        Ok(resolve(snapshot, &live, &facts, &self.store.tombstones()?))
    }

    /// Looks at the folders and transcripts that the sessions name.
    fn facts(&self, sessions: &[Session]) -> Facts {
        let transcripts = Transcripts::new(self.home.path());
        let mut facts =
            Facts { home: self.home.clone(), transcripts: Default::default(), folders: BTreeSet::new() };
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
        if !script.is_empty() {
            if self.server.is_there()? {
                said = self.server.call(&["source-file", "-"], &script, MAKING)?.errors;
            } else if let Some(start_server) = &mut self.help.start_server {
                let path = self.store.write_file("restore.tmux", &script)?;
                start_server(&path).map_err(JobError::ServerStart)?;
            } else {
                said = self.server.call(&["start-server", ";", "source-file", "-"], &script, MAKING)?.errors;
            }
        }
        let live = if script.is_empty() { Default::default() } else { self.capture()?.live };
        let outcome = |one: &Resolved| match &one.doing {
            Doing::Nothing => Outcome::LeftAlone,
            Doing::Type(_) => Outcome::Resumed,
            Doing::Make { session, .. } => match live.sessions.get(&one.row.target) {
                None => Outcome::Failed(format!("tmux did not make it: {said}")),
                Some(_) if said.contains(&format!("duplicate session: {}", one.row.target)) => {
                    Outcome::Failed("the name was taken meanwhile".into())
                }
                Some(panes) if panes.len() < session.panes() => {
                    let (has, wanted) = (panes.len(), session.panes());
                    Outcome::Failed(format!("it has {has} of its {wanted} panes: {said}"))
                }
                Some(_) => Outcome::Made,
            },
        };
        let sessions = rows.iter().map(|one| (one.row.clone(), outcome(one))).collect();
        Ok(Restored { taken: Some(taken), sessions })
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
        let moments = self.store.moments()?;
        let by_name = |session: &Session| session.name.as_str() == selector;
        let begins = |id: &ConversationId| selector.len() >= 4 && id.as_str().starts_with(selector);
        let by_conversation = |session: &Session| session.conversations().any(|c| begins(&c.id));
        for matches in [&by_name as &dyn Fn(&Session) -> bool, &by_conversation] {
            for taken in moments.iter().rev() {
                let snapshot = match self.store.read(*taken) {
                    Err(StoreError::Unusable { .. }) => continue,
                    other => other?,
                };
                if let Some(session) = snapshot.sessions.iter().find(|session| matches(session)) {
                    let name = session.name.clone();
                    return Ok((snapshot, name));
                }
            }
        }
        Err(JobError::NoSession(selector.to_owned()))
    }

    fn history(&self) -> Result<Vec<Past>, JobError> {
        let live = self.capture()?.live;
        let mut snapshots = Vec::new();
        for taken in self.store.moments()? {
            let file = match self.store.file(taken) {
                // Pruned since the folder was listed.
                Err(StoreError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    continue;
                }
                file => file?,
            };
            match sightings(&file) {
                Ok(seen) => snapshots.push((taken, seen)),
                // A damaged one is told by `snapshots`.
                Err(_) => continue,
            }
        }
        Ok(merge(snapshots, |name, conversation| {
            let talks = |id: &ConversationId| {
                live.sessions.values().flatten().any(|pane| pane.conversation.as_ref() == Some(id))
            };
            live.sessions.contains_key(name) || conversation.is_some_and(talks)
        }))
    }
}

/// Of a session, what a history tells.
#[derive(Deserialize)]
struct Seen {
    name: SessionName,
    #[serde(default)]
    windows: Vec<SeenWindow>,
}

#[derive(Deserialize)]
struct SeenWindow {
    #[serde(default)]
    active: bool,
    panes: Vec<SeenPane>,
}

#[derive(Deserialize)]
struct SeenPane {
    folder: Folder,
    #[serde(default)]
    active: bool,
    #[serde(default)]
    conversation: Option<SeenConversation>,
}

#[derive(Deserialize)]
struct SeenConversation {
    id: ConversationId,
}

impl Seen {
    /// The same pane as [`Session::main_pane`].
    fn main_pane(&self) -> Option<&SeenPane> {
        let window = self.windows.iter().find(|window| window.active).or(self.windows.first())?;
        let active = window.panes.iter().find(|pane| pane.active).or(window.panes.first());
        let talking =
            self.windows.iter().flat_map(|window| &window.panes).find(|pane| pane.conversation.is_some());
        match active {
            Some(pane) if pane.conversation.is_some() => Some(pane),
            _ => talking.or(active),
        }
    }
}

fn sightings(file: &[u8]) -> Result<Vec<Sighting>, FormatError> {
    let (_, sessions) = decode_as::<Seen>(file)?;
    let sighting = |session: Seen| {
        let main = session.main_pane()?;
        let (folder, conversation) = (main.folder.clone(), main.conversation.as_ref().map(|c| c.id.clone()));
        Some(Sighting { folder, conversation, name: session.name })
    };
    Ok(sessions.into_iter().filter_map(sighting).collect())
}
