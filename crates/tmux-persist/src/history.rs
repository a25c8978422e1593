//! What all snapshots tell of a session or a conversation: the history. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::format::{FormatError, decode_as};
use crate::model::{ConversationId, Folder, Moment, SessionName};

/// One line of the history: a conversation, or a session without one, over all snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The session's name when it was last seen.
    pub name: SessionName,
    /// Its folder then.
    pub folder: Folder,
    /// The conversation.
    pub conversation: Option<ConversationId>,
    /// The first snapshot that has it.
    pub first_seen: Moment,
    /// The last one.
    pub last_seen: Moment,
    /// Whether a session of that name, or the conversation under another, is there now.
    pub alive: bool,
    /// When it was closed on purpose, if that was after it was last seen.
    #[serde(default)]
    pub closed: Option<Moment>,
}

/// A sighting of a session in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) name: SessionName,
    pub(crate) folder: Folder,
    pub(crate) conversation: Option<ConversationId>,
}

/// Merges sightings, the oldest snapshot first, into lines, the newest first.
pub(crate) fn merge(
    snapshots: impl IntoIterator<Item = (Moment, Vec<Sighting>)>,
    alive: impl Fn(&SessionName, Option<&ConversationId>) -> bool,
    closed: impl Fn(&SessionName, Moment) -> Option<Moment>,
) -> Vec<Past> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key {
        Conversation(ConversationId),
        Name(SessionName),
    }
    let mut lines: HashMap<Key, Past> = HashMap::new();
    for (taken, sightings) in snapshots {
        for seen in sightings {
            let key = match &seen.conversation {
                Some(id) => Key::Conversation(id.clone()),
                None => Key::Name(seen.name.clone()),
            };
            let line = lines.entry(key).or_insert_with(|| Past {
                name: seen.name.clone(),
                folder: seen.folder.clone(),
                conversation: seen.conversation.clone(),
                first_seen: taken,
                last_seen: taken,
                alive: false,
                closed: None,
            });
            line.last_seen = taken;
            if line.name != seen.name {
                line.name = seen.name;
            }
            if line.folder != seen.folder {
                line.folder = seen.folder;
            }
        }
    }
    let mut lines: Vec<Past> = lines.into_values().collect();
    for line in &mut lines {
        line.alive = alive(&line.name, line.conversation.as_ref());
        line.closed = closed(&line.name, line.last_seen);
    }
    lines.sort_by(|a, b| {
        (b.last_seen, &a.name, &a.conversation).cmp(&(a.last_seen, &b.name, &b.conversation))
    });
    lines
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

/// What a snapshot's file shows.
pub(crate) fn sightings(file: &[u8]) -> Result<Vec<Sighting>, FormatError> {
    let (_, sessions) = decode_as::<Seen>(file)?;
    let sighting = |session: Seen| {
        let main = session.main_pane()?;
        let (folder, conversation) = (main.folder.clone(), main.conversation.as_ref().map(|c| c.id.clone()));
        Some(Sighting { folder, conversation, name: session.name })
    };
    Ok(sessions.into_iter().filter_map(sighting).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_follows_a_conversation_through_its_names() {
        let id = ConversationId::new("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        let seen = |name: &str, folder: &str, id: Option<&ConversationId>| Sighting {
            name: SessionName::new(name).unwrap(),
            folder: Folder::new(folder).unwrap(),
            conversation: id.cloned(),
        };
        let lines = merge(
            [
                (Moment(1), vec![seen("old", "/a", Some(&id)), seen("7", "/b", None)]),
                (Moment(2), vec![seen("new", "/a", Some(&id)), seen("007", "/b", None)]),
            ],
            |name, _| name.as_str() == "7",
            |name, last_seen| (name.as_str() == "new").then_some(last_seen.next()),
        );
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.name.as_str(), line.first_seen.0, line.last_seen.0, line.alive, line.closed))
            .collect();
        assert_eq!(
            told,
            [("007", 2, 2, false, None), ("new", 1, 2, false, Some(Moment(3))), ("7", 1, 1, true, None)]
        );
    }
}
