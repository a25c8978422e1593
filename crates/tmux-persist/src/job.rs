//! What can be asked for one person, and what is answered: the words of root, its worker and the command line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::client::ClientError;
use crate::earlier::Earlier;
use crate::history::Past;
use crate::model::{Moment, SessionName};
use crate::plan::{self, Row};
use crate::store::StoreError;

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
    Saved {
        /// What it did.
        saved: Saved,
        /// The names of sessions that are not saved because of their names, some of them when there are many.
        #[serde(default, deserialize_with = "read_lines")]
        left_out: Vec<String>,
    },
    /// Of every restore.
    Restored(Restored),
    /// The snapshots, the newest first.
    Snapshots(Vec<Listed>),
    /// The rows of one snapshot.
    Snapshot(View),
    /// The history, the newest first.
    History(Vec<Past>),
    /// The close is recorded.
    Forgotten(Forgotten),
}

/// A close that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Of which session.
    pub name: SessionName,
    /// Whether that is known.
    pub known: Known,
}

/// Where a session of a name is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It is there now.
    Live,
    /// A snapshot has it.
    Saved,
    /// It is neither there nor in any snapshot.
    Unknown,
    /// No snapshot has it, and whether it is there could not be found out.
    Unclear,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The snapshot it took; none when there is none.
    pub taken: Option<Moment>,
    /// The snapshot that it would have taken, if that was not damaged.
    #[serde(default)]
    pub damaged: Option<Moment>,
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
    /// It did not work: why, on one line.
    Failed(#[serde(deserialize_with = "read_line")] String),
}

impl Restored {
    /// Whether anything did not work.
    pub fn failed(&self) -> bool {
        self.sessions.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}

/// What a server, a program or a worker says, as one line that can be shown and written to a journal: it may not pass for
/// another line of ours.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    worker_process::clean(&lines.join("; "))
}

/// Reads such a line from whoever may have arranged it.
pub(crate) fn read_line<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(one_line(&String::deserialize(from)?))
}

fn read_lines<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<String>::deserialize(from)?.iter().take(LEFT_OUT).map(|name| one_line(name)).collect())
}

/// So many names of sessions that are not saved are told.
pub(crate) const LEFT_OUT: usize = 10;

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
            JobError::Client(ClientError::Folder { .. }) => {
                "remove it, and ask its owner what it is for: tmux makes one of the person's own when they start it"
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
