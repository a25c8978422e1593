//! A snapshot as a file, and the files of the earlier layout. Pure: bytes in, bytes out.
//!
//! ```text
//! {"format":"rosterd-tmux","version":1,"taken":…,"sessions":2,"bytes":…,"sha256":"…"}    the head, one line
//! {"name":"infra","windows":[…]}                                                        one line a session, by name
//! {"name":"web","windows":[…]}
//! ```
//! The head is short and comes first, so that a list of all snapshots reads a few bytes of each and still tells a file
//! that was cut short. The checksum covers every byte after the head.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{
    Conversation, ConversationId, Folder, Moment, Pane, Session, SessionName, Snapshot, Window,
};

const FORMAT: &str = "rosterd-tmux";
const VERSION: u32 = 1;

/// More than any head is.
pub(crate) const HEAD: usize = 512;

/// More than thousands of sessions take.
pub(crate) const MAX_FILE: u64 = 16 << 20;

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    format: String,
    version: u32,
    taken: Moment,
    /// How many sessions follow.
    pub(crate) sessions: usize,
    /// How many bytes follow; earlier files do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    sha256: String,
}

/// Why a file is not a snapshot that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Some other file, or one whose beginning is gone.
    #[error("it is no snapshot")]
    Foreign,
    /// Written by a newer program.
    #[error("it is of version {0}; this program reads version {VERSION}")]
    Newer(u32),
    /// Cut short or changed.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The file of a snapshot.
pub(crate) fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = Vec::new();
    for session in &snapshot.sessions {
        serde_json::to_writer(&mut body, session)?;
        body.push(b'\n');
    }
    let head = Head {
        format: FORMAT.into(),
        version: VERSION,
        taken: snapshot.taken,
        sessions: snapshot.sessions.len(),
        bytes: u64::try_from(body.len()).ok(),
        sha256: checksum(&body),
    };
    let mut file = serde_json::to_vec(&head)?;
    file.push(b'\n');
    file.append(&mut body);
    Ok(file)
}

/// Reads the head from the beginning of a file.
fn head(beginning: &[u8]) -> Result<Head, FormatError> {
    let line = beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
    #[derive(Deserialize)]
    struct Kind {
        format: String,
        version: u32,
    }
    let kind: Kind = serde_json::from_slice(line).map_err(|_| FormatError::Foreign)?;
    if kind.format != FORMAT {
        return Err(FormatError::Foreign);
    }
    if kind.version != VERSION {
        return Err(FormatError::Newer(kind.version));
    }
    serde_json::from_slice(line).map_err(|error| FormatError::Damaged(error.to_string()))
}

/// How many sessions a file has, by its beginning and its size alone; none when only the whole file can tell.
pub(crate) fn sessions_in(beginning: &[u8], size: u64) -> Result<Option<usize>, FormatError> {
    let head = head(beginning)?;
    let line = beginning.iter().position(|byte| *byte == b'\n').map_or(size, |at| at as u64 + 1);
    match head.bytes {
        None => Ok(None),
        Some(bytes) if line.saturating_add(bytes) == size => Ok(Some(head.sessions)),
        Some(_) => Err(FormatError::Damaged("it is cut short, or something was added".into())),
    }
}

/// Reads a whole file.
pub(crate) fn decode(file: &[u8]) -> Result<Snapshot, FormatError> {
    let (head, sessions) = decode_as::<Session>(file)?;
    Ok(Snapshot { taken: head.taken, sessions })
}

/// Reads a whole file, of each session only what `T` wants.
pub(crate) fn decode_as<'a, T: Deserialize<'a>>(file: &'a [u8]) -> Result<(Head, Vec<T>), FormatError> {
    let head = head(file)?;
    let end = file.iter().position(|byte| *byte == b'\n').map_or(file.len(), |at| at + 1);
    let body = file.get(end..).unwrap_or_default();
    if checksum(body) != head.sha256 {
        return Err(FormatError::Damaged("its checksum differs".into()));
    }
    let sessions = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<Vec<T>, _>>()
        .map_err(|error| FormatError::Damaged(error.to_string()))?;
    if sessions.len() != head.sessions {
        return Err(FormatError::Damaged("sessions are missing".into()));
    }
    Ok((head, sessions))
}

fn checksum(body: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(body).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a file of the earlier layout: `name <TAB> folder <TAB> conversation`, with `-` or nothing for none. Such a
/// session had one pane. Lines that say nothing usable are left out.
pub(crate) fn from_tsv(taken: Moment, text: &[u8], home: &Folder) -> Snapshot {
    let text = String::from_utf8_lossy(text);
    let mut sessions: Vec<Session> = text.lines().filter_map(|line| session_from_tsv(line, home)).collect();
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    sessions.dedup_by(|a, b| a.name == b.name);
    Snapshot { taken, sessions }
}

fn session_from_tsv(line: &str, home: &Folder) -> Option<Session> {
    let mut fields = line.split('\t');
    let name = SessionName::new(fields.next()?)?;
    let folder = fields.next().and_then(Folder::new).unwrap_or_else(|| home.clone());
    let conversation = fields.next().and_then(ConversationId::new);
    let pane = Pane {
        folder: folder.clone(),
        title: None,
        active: true,
        conversation: conversation.map(|id| Conversation { id, folder }),
        command: Vec::new(),
    };
    let window =
        Window { index: None, name: None, layout: None, zoomed: false, active: true, panes: vec![pane] };
    Some(Session {
        name,
        folder: None,
        environment: Default::default(),
        shares: None,
        current: None,
        windows: vec![window],
    })
}

/// Reads the tombstones of either layout: `name <TAB> seconds`, one a line. The last of a name counts.
pub(crate) fn tombstones(text: &[u8]) -> Vec<(SessionName, Moment)> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .filter_map(|line| {
            let (name, at) = line.split_once('\t')?;
            Some((SessionName::new(name)?, Moment::new(at.trim().parse().ok()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let home = Folder::new("/home/ann").unwrap();
        from_tsv(
            Moment(1_764_085_667),
            b"web\t/srv/a b\t01234567-89ab-cdef-0123-456789abcdef\n007\t/tmp\t-\nx y\t/tmp\t-\nold\t\t\nlast\t/tmp\t-\n",
            &home,
        )
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let file = encode(&snapshot()).unwrap();
        assert_eq!(decode(&file).unwrap(), snapshot());
        assert!(file.iter().position(|byte| *byte == b'\n').unwrap() < HEAD);
        insta::assert_snapshot!(String::from_utf8(file).unwrap(), @r#"
        {"format":"rosterd-tmux","version":1,"taken":"20251125T154747","sessions":4,"bytes":431,"sha256":"4875159c3cb2d321a5852ce419cb889e20dae53a753d6deea4970703c1ef4826"}
        {"name":"007","windows":[{"active":true,"panes":[{"folder":"/tmp","active":true}]}]}
        {"name":"last","windows":[{"active":true,"panes":[{"folder":"/tmp","active":true}]}]}
        {"name":"old","windows":[{"active":true,"panes":[{"folder":"/home/ann","active":true}]}]}
        {"name":"web","windows":[{"active":true,"panes":[{"folder":"/srv/a b","active":true,"conversation":{"id":"01234567-89ab-cdef-0123-456789abcdef","folder":"/srv/a b"}}]}]}
        "#);
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let file = encode(&snapshot()).unwrap();
        for length in 0..file.len() {
            assert!(decode(&file[..length]).is_err(), "cut to {length} bytes");
            let beginning = &file[..length.min(HEAD)];
            assert!(sessions_in(beginning, length as u64).is_err(), "cut to {length} bytes");
        }
        assert_eq!(sessions_in(&file[..HEAD], file.len() as u64), Ok(Some(4)));
        assert!(sessions_in(&file[..HEAD], file.len() as u64 + 1).is_err());
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            // A change of the head may leave a head; it may not make other sessions of it.
            if let Ok(read) = decode(&changed) {
                assert_eq!(read.sessions, snapshot().sessions, "byte {at}");
            }
        }
        assert_eq!(decode(b"hello\n"), Err(FormatError::Foreign));
        let newer = br#"{"format":"rosterd-tmux","version":2,"more":1}"#;
        assert_eq!(decode(newer), Err(FormatError::Newer(2)));
    }

    #[test]
    fn the_earlier_layout_is_understood() {
        let names: Vec<_> = snapshot().sessions.iter().map(|session| session.name.to_string()).collect();
        assert_eq!(names, ["007", "last", "old", "web"]);
        assert_eq!(snapshot().sessions[2].windows[0].panes[0].folder, Folder::new("/home/ann").unwrap());
        assert_eq!(snapshot().sessions[3].conversations().count(), 1);
        assert_eq!(
            tombstones(b"a\t5\nb\tx\n\nc d\t1\na\t7\n"),
            [(SessionName::new("a").unwrap(), Moment(5)), (SessionName::new("a").unwrap(), Moment(7))]
        );
    }
}
