//! What restoring a snapshot would do, given what is live. Pure: the result is data that is shown as it is, and that
//! [`script`](crate::script) turns into tmux commands without deciding anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::job::one_line;
use crate::model::{
    Conversation, ConversationId, Folder, Moment, Pane, Session, SessionName, Snapshot, Window,
};
use crate::series::Tombstones;
use crate::shell;
use crate::waiting::Prompt;

/// The sessions of a server, as far as a restore must know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// Which server: its process and when that started; none when no pane tells.
    pub(crate) server: Option<String>,
    pub(crate) sessions: BTreeMap<SessionName, Vec<LivePane>>,
}

/// One pane of a running session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LivePane {
    /// tmux's own name of it, such as `%12`: another pane never has it while the server lives.
    pub(crate) id: String,
    pub(crate) window: u32,
    pub(crate) pane: u32,
    /// Its place among the panes of its window.
    pub(crate) position: usize,
    /// Whether it is the active pane of the active window.
    pub(crate) active: bool,
    /// Its first process; none when that has ended.
    pub(crate) pid: Option<u32>,
    /// Its prompt, if a shell waits in it for a command; looked for only where something may be typed.
    pub(crate) prompt: Option<Prompt>,
    /// Whether its shell was asked whether nothing is on the line, and that could not be told.
    pub(crate) doubtful: bool,
    /// Whether a claude runs in it, with a known conversation or not.
    pub(crate) claude: bool,
    pub(crate) conversation: Option<ConversationId>,
}

/// What the home and the folders show. What is not in it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) home: Folder,
    /// The conversations whose transcript exists, with the folder each resumes in.
    pub(crate) transcripts: BTreeMap<ConversationId, Folder>,
    /// The folders that exist.
    pub(crate) folders: BTreeSet<Folder>,
    /// The pane in which each conversation was seen last, if that was on the server that is there now.
    pub(crate) seen_in: BTreeMap<ConversationId, String>,
}

/// How a session of a snapshot stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No such session.
    Missing,
    /// It is there, and so is its work.
    LiveSame,
    /// It is there with something else in it.
    LiveOtherConv,
    /// It is there, its claude is not, and a shell waits in the pane.
    LiveNoClaude,
}

/// What a restore does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is made.
    New,
    /// It is made beside the live one, under another name.
    Suffixed,
    /// Its conversation is resumed in the pane that is there.
    InPlace,
    /// Nothing.
    Skip,
}

impl State {
    /// As in `--tsv` and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Missing => "missing",
            State::LiveSame => "live_same",
            State::LiveOtherConv => "live_other_conv",
            State::LiveNoClaude => "live_no_claude",
        }
    }
}

impl Action {
    /// As in `--tsv` and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::New => "new",
            Action::Suffixed => "suffixed",
            Action::InPlace => "in_place",
            Action::Skip => "skip",
        }
    }
}

/// One session of a snapshot and what restoring it would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its name in the snapshot.
    pub name: SessionName,
    /// Its folder.
    pub folder: Folder,
    /// Its conversation; with several panes, that of the active one.
    pub conversation: Option<ConversationId>,
    /// How it stands now.
    pub state: State,
    /// What a restore does with it.
    pub action: Action,
    /// The name of the session that a restore makes or types into.
    pub target: SessionName,
    /// Whether a restore of the whole snapshot includes it; the picker ticks it at first.
    pub default: bool,
    /// What else to know: `killed@<seconds>`, `live@<session>`, `gone`, `folder_gone`, `taken`,
    /// `unprintable`, `pane_closed`, `half_typed`.
    #[serde(default, deserialize_with = "read_note")]
    pub note: Option<String>,
    /// Where its shell is instead, when the folder that it was in is gone, or that in which its conversation resumes.
    #[serde(default)]
    pub instead: Option<Folder>,
    /// How many windows it has.
    pub windows: usize,
    /// How many panes it has.
    pub panes: usize,
}

/// A worker's note may be anything.
fn read_note<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(|note| one_line(&note)))
}

/// A row with all that is needed to carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) row: Row,
    pub(crate) doing: Doing,
}

/// What is to be done, with nothing left to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Make the session, each pane beginning so and showing the text in that file, in the order of its panes.
    Make {
        session: Session,
        starts: Vec<Start>,
        screens: Vec<Option<PathBuf>>,
    },
    /// Type into these panes.
    Type(Vec<Typed>),
    Nothing,
}

/// How a pane begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// The login shell.
    Shell { folder: Folder },
    /// A program, then the login shell.
    Run { folder: Folder, command: Vec<String> },
    /// The conversation, then the login shell.
    Resume { folder: Folder, id: ConversationId },
    /// The login shell, which says that this conversation is gone.
    Gone { folder: Folder, id: ConversationId },
    /// The login shell, which says that the folder in which this conversation resumes is gone.
    FolderGone { folder: Folder, id: ConversationId, wants: Folder },
}

/// A conversation to resume by typing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) pane: LivePane,
    pub(crate) id: ConversationId,
    pub(crate) folder: Folder,
}

/// The longest folder that is typed. A terminal whose shell does not edit takes lines of 4095 bytes and cuts longer ones.
const MAX_TYPED: usize = 3000;

/// Resolves each session of a snapshot.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    live: &Live,
    facts: &Facts,
    tombstones: &Tombstones,
) -> Vec<Resolved> {
    let mut context = Context {
        taken: snapshot.taken,
        live,
        facts,
        running: live
            .sessions
            .iter()
            .flat_map(|(name, panes)| {
                panes.iter().filter_map(move |p| Some((p.conversation.clone()?, name.clone())))
            })
            .collect(),
        names: live
            .sessions
            .keys()
            .cloned()
            .chain(snapshot.sessions.iter().map(|s| s.name.clone()))
            .collect(),
    };
    snapshot.sessions.iter().map(|session| context.resolve(session, tombstones)).collect()
}

struct Context<'a> {
    taken: Moment,
    live: &'a Live,
    facts: &'a Facts,
    /// The conversations that run, or will once the rows before have been carried out, and where.
    running: BTreeMap<ConversationId, SessionName>,
    /// The names that a suffixed session cannot have.
    names: BTreeSet<SessionName>,
}

impl Context<'_> {
    fn resolve(&mut self, session: &Session, tombstones: &Tombstones) -> Resolved {
        let wanted: Vec<&Conversation> = session
            .conversations()
            .filter(|conversation| !self.running.contains_key(&conversation.id))
            .collect();
        let elsewhere = session.conversations().find_map(|conversation| {
            self.running.get(&conversation.id).filter(|name| **name != session.name).cloned()
        });
        let talks = session.conversations().next().is_some();
        let main = session.main_pane();
        let mut row = Row {
            name: session.name.clone(),
            folder: main.map_or_else(|| self.facts.home.clone(), |pane| pane.folder.clone()),
            conversation: main.and_then(|pane| pane.conversation.as_ref()).map(|c| c.id.clone()),
            state: State::Missing,
            action: Action::New,
            target: session.name.clone(),
            default: true,
            note: elsewhere.map(|name| format!("live@{name}")),
            instead: None,
            windows: session.windows.len(),
            panes: session.panes(),
        };
        let doing = match self.live.sessions.get(&session.name) {
            // All that was in it goes on under another name.
            None if talks && wanted.is_empty() => skip(&mut row),
            None => {
                if let Some(closed) = tombstones.closed_at(&session.name, self.taken) {
                    row.default = false;
                    row.note = Some(format!("killed@{}", closed.0));
                }
                self.make(&mut row, session)
            }
            Some(_) if wanted.is_empty() => skip(&mut row),
            Some(panes) => match in_place(session, &wanted, panes, &self.facts.seen_in) {
                Some(places) => {
                    (row.state, row.action) = (State::LiveNoClaude, Action::InPlace);
                    self.retype(&mut row, places)
                }
                None => {
                    (row.state, row.action) = (State::LiveOtherConv, Action::Suffixed);
                    match self.free_name(&session.name) {
                        Some(name) => {
                            row.target = name;
                            let doing = self.make(&mut row, session);
                            if row.note.is_none() {
                                row.note = why_beside(&wanted, panes, &self.facts.seen_in).map(str::to_owned);
                            }
                            doing
                        }
                        None => {
                            row.note = Some("taken".into());
                            (row.action, row.default) = (Action::Skip, false);
                            Doing::Nothing
                        }
                    }
                }
            },
        };
        Resolved { row, doing }
    }

    fn make(&mut self, row: &mut Row, session: &Session) -> Doing {
        let starts: Vec<Start> = session.panes_in_order().map(|pane| self.start(&row.target, pane)).collect();
        let lost = starts.iter().find_map(|start| match start {
            Start::Gone { .. } => Some("gone"),
            Start::FolderGone { .. } => Some("folder_gone"),
            _ => None,
        });
        if row.note.is_none() {
            row.note = lost.map(str::to_owned);
        }
        row.instead = starts.iter().zip(session.panes_in_order()).find_map(|(start, pane)| match start {
            Start::FolderGone { folder, .. } => Some(folder.clone()),
            Start::Shell { folder } | Start::Gone { folder, .. } if *folder != pane.folder => {
                Some(folder.clone())
            }
            _ => None,
        });
        let screens = vec![None; starts.len()];
        Doing::Make { session: session.clone(), starts, screens }
    }

    fn start(&mut self, target: &SessionName, pane: &Pane) -> Start {
        let facts = self.facts;
        let folder = if facts.folders.contains(&pane.folder) { &pane.folder } else { &facts.home }.clone();
        if let Some(conversation) = &pane.conversation
            && !self.running.contains_key(&conversation.id)
        {
            self.running.insert(conversation.id.clone(), target.clone());
            let id = conversation.id.clone();
            return match facts.transcripts.get(&id) {
                None => Start::Gone { folder, id },
                Some(wants) if !facts.folders.contains(wants) => {
                    Start::FolderGone { folder, id, wants: wants.clone() }
                }
                Some(wants) => Start::Resume { folder: wants.clone(), id },
            };
        }
        if !pane.command.is_empty() && facts.folders.contains(&pane.folder) {
            return Start::Run { folder, command: pane.command.clone() };
        }
        Start::Shell { folder }
    }

    /// What is typed into the panes; a conversation that cannot be resumed is not.
    fn retype(&mut self, row: &mut Row, places: Vec<(Conversation, LivePane)>) -> Doing {
        let mut typed = Vec::new();
        for (conversation, pane) in places {
            let id = conversation.id;
            match self.facts.transcripts.get(&id) {
                None => row.note = Some("gone".into()),
                Some(folder) if !self.facts.folders.contains(folder) => row.note = Some("folder_gone".into()),
                // The terminal would obey it instead of passing it on.
                Some(folder)
                    if folder.bytes().iter().any(u8::is_ascii_control)
                        || shell::quoted(folder.bytes()).len() > MAX_TYPED =>
                {
                    row.note = Some("unprintable".into());
                }
                Some(folder) => {
                    self.running.insert(id.clone(), row.name.clone());
                    typed.push(Typed { pane, id, folder: folder.clone() });
                }
            }
        }
        if typed.is_empty() {
            (row.action, row.default) = (Action::Skip, false);
            return Doing::Nothing;
        }
        Doing::Type(typed)
    }

    /// `<name>-<HHMM>` of the snapshot, or the next free one of that kind.
    fn free_name(&mut self, name: &SessionName) -> Option<SessionName> {
        let moment = self.taken.to_string();
        let time = moment.get(9..13).unwrap_or("0000");
        let suffixes = std::iter::once(format!("-{time}")).chain((2..=9).map(|n| format!("-{time}-{n}")));
        let free = suffixes.map(|suffix| name.suffixed(&suffix)).find(|name| !self.names.contains(name))?;
        self.names.insert(free.clone());
        Some(free)
    }
}

fn skip(row: &mut Row) -> Doing {
    (row.state, row.action, row.default) = (State::LiveSame, Action::Skip, false);
    Doing::Nothing
}

/// The pane for each wanted conversation, if all of them have one in which a shell waits: the very pane in which it was seen
/// last or, when this server never showed it, the only one that can be meant.
fn in_place(
    session: &Session,
    wanted: &[&Conversation],
    live: &[LivePane],
    seen_in: &BTreeMap<ConversationId, String>,
) -> Option<Vec<(Conversation, LivePane)>> {
    let waits = |pane: &&LivePane| pane.prompt.is_some() && !pane.claude;
    let mut used = BTreeSet::new();
    wanted
        .iter()
        .map(|conversation| {
            let pane = match seen_in.get(&conversation.id) {
                Some(id) => live.iter().find(|pane| pane.id == *id),
                None => the_only_one(session, &conversation.id, live),
            };
            let pane = pane.filter(waits)?;
            used.insert(&pane.id).then(|| ((*conversation).clone(), pane.clone()))
        })
        .collect()
}

/// Why a conversation is not resumed in a live session, where it is something else than what runs there.
fn why_beside(
    wanted: &[&Conversation],
    live: &[LivePane],
    seen_in: &BTreeMap<ConversationId, String>,
) -> Option<&'static str> {
    let closed = |id: &String| live.iter().all(|pane| pane.id != *id);
    if wanted.iter().filter_map(|conversation| seen_in.get(&conversation.id)).any(closed) {
        return Some("pane_closed");
    }
    live.iter().any(|pane| pane.doubtful).then_some("half_typed")
}

/// The pane that can be meant where none is known: the only one of the session, whatever number its window has got, or of
/// that window, then and now.
fn the_only_one<'a>(session: &Session, id: &ConversationId, live: &'a [LivePane]) -> Option<&'a LivePane> {
    let talks = |window: &&Window| {
        window.panes.iter().any(|pane| pane.conversation.as_ref().is_some_and(|c| c.id == *id))
    };
    let window = session.windows.iter().find(talks)?;
    let mut there = live.iter().filter(|pane| Some(pane.window) == window.index);
    match (live, there.next(), there.next()) {
        ([only], ..) if session.panes() == 1 => Some(only),
        (_, Some(only), None) if window.panes.len() == 1 => Some(only),
        _ => None,
    }
}

/// Why the rows asked for cannot be restored: nothing is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not in the snapshot: {}", .0.join(", "))]
pub(crate) struct NotThere(pub(crate) Vec<String>);

/// The rows of these names, in this order. All of them must exist.
pub(crate) fn select(resolved: Vec<Resolved>, names: &[String]) -> Result<Vec<Resolved>, NotThere> {
    let mut by_name: BTreeMap<String, Resolved> =
        resolved.into_iter().map(|one| (one.row.name.to_string(), one)).collect();
    let missing: Vec<String> = names.iter().filter(|name| !by_name.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        return Err(NotThere(missing));
    }
    Ok(names.iter().filter_map(|name| by_name.remove(name)).collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
