//! What a snapshot holds. Pure data: what must survive a reboot, and nothing that changes by itself (process ids, pane
//! ids, times), so that two captures of the same sessions are equal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::layout::Layout;

/// All sessions of one person at one moment, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The second in UTC that names it.
    pub(crate) taken: Moment,
    /// The sessions, sorted by name.
    pub(crate) sessions: Vec<Session>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Its name.
    pub(crate) name: SessionName,
    /// Where its new windows open; the home when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<Folder>,
    /// The keys of its environment that the configuration lists.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environment: BTreeMap<String, String>,
    /// The session whose windows it shows too; then it has none of its own here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shares: Option<SessionName>,
    /// The number of its current window, when it shares another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<u32>,
    /// Its windows, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) windows: Vec<Window>,
}

/// One window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Its number in the session; none in a snapshot of the earlier layout, which did not save it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    /// Its name; none when tmux names it after what runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// How its panes are laid out; none for one that this program does not understand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layout: Option<Layout>,
    /// Whether the active pane covers the others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) zoomed: bool,
    /// Whether it is the session's current window.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) active: bool,
    /// Its panes, in order.
    pub(crate) panes: Vec<Pane>,
}

/// One pane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pane {
    /// The folder of what runs in it.
    pub(crate) folder: Folder,
    /// Its title, unless it is tmux's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    /// Whether it is the window's active pane.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) active: bool,
    /// The conversation in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) conversation: Option<Conversation>,
    /// What runs in it, when the configuration lists that program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
}

/// A conversation and the folder it resumes in: it resumes nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conversation {
    /// Which one.
    pub(crate) id: ConversationId,
    /// Where it was started.
    pub(crate) folder: Folder,
}

impl Session {
    /// Its conversations, in the order of its panes.
    pub(crate) fn conversations(&self) -> impl Iterator<Item = &Conversation> {
        self.panes_in_order().filter_map(|pane| pane.conversation.as_ref())
    }

    /// Its panes, window by window.
    pub(crate) fn panes_in_order(&self) -> impl Iterator<Item = &Pane> {
        self.windows.iter().flat_map(|window| &window.panes)
    }

    /// How many panes it has.
    pub(crate) fn panes(&self) -> usize {
        self.windows.iter().map(|window| window.panes.len()).sum()
    }

    /// The pane that a row in a table stands for: the active one, or else the first with a conversation.
    pub(crate) fn main_pane(&self) -> Option<&Pane> {
        let active = self
            .windows
            .iter()
            .find(|window| window.active)
            .or(self.windows.first())
            .and_then(|window| window.panes.iter().find(|pane| pane.active).or(window.panes.first()));
        let talking =
            self.windows.iter().flat_map(|window| &window.panes).find(|pane| pane.conversation.is_some());
        match active {
            Some(pane) if pane.conversation.is_some() => Some(pane),
            _ => talking.or(active),
        }
    }

    /// The same without what may differ between two captures although nobody did anything: titles, which programs
    /// animate.
    pub(crate) fn without_titles(&self) -> Session {
        let mut session = self.clone();
        for pane in session.windows.iter_mut().flat_map(|window| &mut window.panes) {
            pane.title = None;
        }
        session
    }
}

/// A second in UTC. Written as `20260301T120000`, it names a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(pub i64);

impl Moment {
    /// The years 1970 to 9998, which a name of this form can say.
    const RANGE: std::ops::RangeInclusive<i64> = 0..=253_370_764_799;

    /// The seconds since 1970, within the years that a name can say.
    pub fn new(seconds: i64) -> Moment {
        Moment(seconds.clamp(*Self::RANGE.start(), *Self::RANGE.end()))
    }

    /// Reads `20260301T120000`.
    pub fn parse(text: &str) -> Option<Moment> {
        let (date, time) = text.split_once('T')?;
        let digits = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(date, 8) || !digits(time, 6) {
            return None;
        }
        let at: jiff::Timestamp = format!(
            "{}-{}-{}T{}:{}:{}Z",
            date.get(0..4)?,
            date.get(4..6)?,
            date.get(6..8)?,
            time.get(0..2)?,
            time.get(2..4)?,
            time.get(4..6)?
        )
        .parse()
        .ok()?;
        Some(Moment(at.as_second())).filter(|moment| Self::RANGE.contains(&moment.0))
    }

    /// One second later.
    pub fn next(self) -> Moment {
        Moment::new(self.0.saturating_add(1))
    }
}

impl TryFrom<String> for Moment {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Moment::parse(&text).ok_or_else(|| format!("`{}` is no snapshot's name", text.escape_default()))
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.to_string()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_second(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{}", at.strftime("%Y%m%dT%H%M%S"))
    }
}

/// A session's name, if it is somebody's work: letters, digits, `_` and `-`, 32 at most. Another name marks a warm
/// spare, which is neither saved nor restored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

impl SessionName {
    /// The longest.
    pub const MAX: usize = 32;

    /// The name, if it is one.
    pub fn new(text: &str) -> Option<SessionName> {
        let fits = (1..=Self::MAX).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        (fits && plain).then(|| SessionName(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `<name><suffix>`, with the name cut so that it fits. The suffix is plain and short.
    pub(crate) fn suffixed(&self, suffix: &str) -> SessionName {
        let room = Self::MAX.saturating_sub(suffix.len());
        SessionName(format!("{}{suffix}", self.0.get(..room).unwrap_or(&self.0)))
    }
}

impl TryFrom<String> for SessionName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        SessionName::new(&text).ok_or_else(|| format!("`{}` is no session's name", text.escape_default()))
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> String {
        name.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A conversation's identifier: a UUID in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConversationId(String);

impl ConversationId {
    /// The identifier, if it is one.
    pub fn new(text: &str) -> Option<ConversationId> {
        let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let well = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| if hyphen(at) { byte == b'-' } else { hex(byte) });
        well.then(|| ConversationId(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ConversationId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        ConversationId::new(&text).ok_or_else(|| format!("`{}` is no UUID", text.escape_default()))
    }
}

impl From<ConversationId> for String {
    fn from(id: ConversationId) -> String {
        id.0
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A folder, byte for byte: a name on Linux need not be UTF-8. In JSON it is a text when it can be, and a list of
/// bytes when not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder at an absolute path without NUL.
    pub fn new(path: impl Into<PathBuf>) -> Option<Folder> {
        let path = path.into();
        let fits = path.as_os_str().len() <= 4096 && !path.as_os_str().as_bytes().contains(&0);
        (fits && path.is_absolute()).then_some(Folder(path))
    }

    /// As a path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// For people; what is not UTF-8 shows as `�`.
    pub fn text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Serialize for Folder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Folder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an absolute path, as a text or a list of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Folder, E> {
                Folder::new(text).ok_or_else(|| E::custom("a folder is an absolute path"))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut bytes: A) -> Result<Folder, A::Error> {
                let mut raw = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    raw.push(byte);
                }
                let path = OsString::from_vec(raw);
                Folder::new(path).ok_or_else(|| de::Error::custom("a folder is an absolute path"))
            }
        }
        // Without a look at which of the two it is: there are many, and a history reads them all.
        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_written() {
        for seconds in [0, 1_764_085_667, 253_370_764_799, 951_782_400] {
            let text = Moment(seconds).to_string();
            assert_eq!(Moment::parse(&text), Some(Moment(seconds)), "{text}");
        }
        assert_eq!(Moment(1_764_085_667).to_string(), "20251125T154747");
        for bad in
            ["", "20251125", "20251325T154747", "2025112５T154747", "20251125T154747x", "+0251125T154747"]
        {
            assert_eq!(Moment::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_that_are_not_plain_are_warm_spares() {
        for good in ["a", "007", "-x", "_", "A-b_9", &"x".repeat(32)] {
            assert!(SessionName::new(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a.b", "a:b", "é", "a\tb", "a\n", &"x".repeat(33)] {
            assert!(SessionName::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_suffix_keeps_the_name_within_its_length() {
        let name = SessionName::new(&"x".repeat(32)).unwrap();
        assert_eq!(name.suffixed("-1207").as_str(), format!("{}-1207", "x".repeat(27)));
        assert_eq!(SessionName::new("web").unwrap().suffixed("-1207").as_str(), "web-1207");
    }

    #[test]
    fn a_folder_keeps_its_bytes() {
        for bytes in [&b"/a b"[..], b"/\xff\xfe", b"/t\tn\n"] {
            let folder = Folder::new(OsString::from_vec(bytes.to_vec())).unwrap();
            let text = serde_json::to_string(&folder).unwrap();
            assert_eq!(serde_json::from_str::<Folder>(&text).unwrap(), folder, "{text}");
        }
        assert!(Folder::new("relative").is_none() && Folder::new("").is_none());
        assert!(serde_json::from_str::<Folder>("\"relative\"").is_err());
    }

    #[test]
    fn only_a_uuid_is_a_conversation() {
        assert!(ConversationId::new("01234567-89ab-cdef-0123-456789abcdef").is_some());
        for bad in [
            "",
            "01234567-89ab-cdef-0123-456789abcdeF",
            "01234567-89ab-cdef-0123-456789abcde",
            "01234567089ab-cdef-0123-456789abcdef",
            "../../../../../../../../etc/passwd.x",
        ] {
            assert!(ConversationId::new(bad).is_none(), "{bad}");
        }
    }
}
