//! Files that the configuration asks for, in homes and on the machine. Each is of one *kind*, and the kind says whose it
//! is and what may be done with it:
//!
//! | kind | the file is | what is done |
//! | --- | --- | --- |
//! | `copy` | rosterd's | replaced whenever it differs; what somebody else wrote there stays beside. With a `header`, a file without that first line is the person's |
//! | `once` | the person's | made where there is nothing |
//! | `link` | the person's | made where there is nothing |
//! | `json` | the person's | single keys are added where they are absent |
//! | `block` | the person's | what is between two marks is replaced |
//!
//! A home's files are looked at and changed by its worker; the texts are thought through here.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::FileKind;

pub mod block;
mod entries;
pub mod json;
pub(crate) mod template;

pub use entries::{MachineFile, add, machine, sources, targets};

/// What a file of a person's keys may be read by: its owner.
pub const JSON_MODE: u32 = 0o600;

/// The text of a file. Plans and records hold its digest; the text itself goes only where it is written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The SHA-256 of the text, in hexadecimal digits.
    pub sha256: String,
    #[serde(skip)]
    text: Arc<str>,
}

impl Text {
    /// Takes it over.
    pub fn new(text: impl Into<Arc<str>>) -> Text {
        let text = text.into();
        Text { sha256: sha256(text.as_bytes()), text }
    }

    /// The text; empty where only its digest came along.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes, {:.12})", self.text.len(), self.sha256)
    }
}

/// The digest by which texts are compared.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that should be in a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDesired {
    /// Its place below the home; no part of it is `.` or `..`.
    pub path: String,
    /// What it should be.
    #[serde(flatten)]
    pub wanted: FileWanted,
}

/// What a file should be, by its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FileWanted {
    /// This text.
    Copy {
        /// The text, its header included.
        text: Text,
        /// The first line of a file that is ours; without one, it is ours whatever it holds.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        header: Option<String>,
        /// Permission bits.
        mode: u32,
    },
    /// Anything; this text where there is nothing.
    Once {
        /// The text.
        text: Text,
        /// Permission bits of a new one, and the widest that is all right.
        mode: u32,
    },
    /// Anything; a link where there is nothing.
    Link {
        /// Where it leads.
        target: String,
    },
    /// A JSON object that has these keys.
    Json {
        /// By JSON pointer, what to add where there is nothing.
        keys: Vec<(String, Value)>,
    },
    /// A text with this block.
    Block {
        /// What is between the marks.
        text: Text,
        /// How a line of comment begins.
        comment: String,
    },
}

impl FileWanted {
    /// Its kind.
    pub fn kind(&self) -> FileKind {
        match self {
            FileWanted::Copy { .. } => FileKind::Copy,
            FileWanted::Once { .. } => FileKind::Once,
            FileWanted::Link { .. } => FileKind::Link,
            FileWanted::Json { .. } => FileKind::Json,
            FileWanted::Block { .. } => FileKind::Block,
        }
    }
}

/// What stands in the place of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSeen {
    /// The thing itself.
    pub found: Found,
    /// Whether a change of it ended in the middle, and left a file beside.
    #[serde(default)]
    pub unfinished: bool,
}

/// What stands at a place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Nothing.
    #[default]
    Absent,
    /// A regular file of the person's, with one name.
    File {
        /// Permission bits.
        mode: u32,
        /// What was read of it.
        content: Content,
    },
    /// A symlink.
    Link {
        /// Where it leads.
        target: String,
    },
    /// A folder.
    Folder,
    /// Something else, in words: a FIFO, a hard link, a place behind a symlink.
    Other(String),
    /// It could not be looked at: why.
    Unreadable(String),
}

/// What was read of a file: as much as its kind needs, and nothing that is the person's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Nothing.
    NotRead,
    /// All of it.
    Text {
        /// Its digest.
        sha256: String,
        /// Whether it begins with the line that was asked for.
        has_header: bool,
        /// Whether it is as rosterd wrote it.
        is_untouched: bool,
    },
    /// A JSON object.
    Keys {
        /// Of the pointers that were asked for, those that lead to nothing.
        absent: Vec<String>,
        /// Those that cannot lead anywhere, because what is above them is no object.
        blocked: Vec<String>,
    },
    /// A text without a block.
    NoBlock,
    /// A text with a block.
    Block {
        /// The digest of what is between the marks.
        sha256: String,
    },
    /// It is not what the kind needs: why. It is never touched then.
    Unfit(String),
}

/// A folder that others cannot go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedFolder {
    /// The folder: below the home, or an absolute path of the machine.
    pub folder: String,
    /// Its permission bits.
    pub mode: u32,
}

impl ClosedFolder {
    /// What others should be able to do with it, on the way to `base`.
    pub(crate) fn wanted(&self, base: &str) -> &'static str {
        if self.folder == base { "o+rx" } else { "o+x" }
    }
}

/// One change of a file in a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "file", rename_all = "kebab-case")]
pub enum FileAction {
    /// Removes what an interrupted change left beside it.
    CleanUp {
        /// The file.
        path: String,
    },
    /// Makes it where there is nothing.
    Create {
        /// The file.
        path: String,
        /// Its text.
        text: Text,
        /// Permission bits.
        mode: u32,
    },
    /// Replaces it whole.
    Replace {
        /// The file.
        path: String,
        /// Its text.
        text: Text,
        /// Permission bits.
        mode: u32,
        /// What may be lost by it.
        over: Over,
    },
    /// Sets its permission bits.
    Mode {
        /// The file.
        path: String,
        /// Those it has.
        from: u32,
        /// Those it gets.
        to: u32,
    },
    /// Makes a link where there is nothing.
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Adds keys to a JSON file, and makes it where there is none.
    AddKeys {
        /// The file.
        path: String,
        /// By JSON pointer, what to add where there is nothing.
        keys: Vec<(String, Value)>,
    },
    /// Sets the block, and makes the file where there is none.
    SetBlock {
        /// The file.
        path: String,
        /// What is between the marks.
        text: Text,
        /// How a line of comment begins.
        comment: String,
    },
}

/// What a copy may replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// A file with this first line.
    Header(String),
    /// The file with this digest, which rosterd wrote.
    Digest(String),
    /// Whatever it is; it stays beside.
    Kept,
}

/// What is put behind the name of a file that a copy replaced.
pub const BEFORE: &str = ".rosterd-before";

impl FileAction {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            FileAction::CleanUp { .. } => "clean-up-file",
            FileAction::Create { .. } => "create-file",
            FileAction::Replace { .. } => "replace-file",
            FileAction::Mode { .. } => "set-file-mode",
            FileAction::Link { .. } => "link-file",
            FileAction::AddKeys { .. } => "add-json-keys",
            FileAction::SetBlock { .. } => "set-block",
        }
    }

    /// The file, below the home.
    pub fn path(&self) -> &str {
        match self {
            FileAction::CleanUp { path }
            | FileAction::Create { path, .. }
            | FileAction::Replace { path, .. }
            | FileAction::Mode { path, .. }
            | FileAction::Link { path, .. }
            | FileAction::AddKeys { path, .. }
            | FileAction::SetBlock { path, .. } => path,
        }
    }

    /// The text that it writes, where it is one.
    pub fn text(&self) -> Option<&Text> {
        match self {
            FileAction::Create { text, .. }
            | FileAction::Replace { text, .. }
            | FileAction::SetBlock { text, .. } => Some(text),
            FileAction::CleanUp { .. }
            | FileAction::Mode { .. }
            | FileAction::Link { .. }
            | FileAction::AddKeys { .. } => None,
        }
    }
}

impl fmt::Display for FileAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileAction::CleanUp { path } => write!(f, "remove what an interrupted change of ~/{path} left"),
            FileAction::Create { path, mode, .. } => write!(f, "make ~/{path}, mode {mode:04o}"),
            FileAction::Replace { path, over: Over::Kept, .. } => {
                write!(f, "replace ~/{path}; what was there stays beside it")
            }
            FileAction::Replace { path, .. } => write!(f, "replace ~/{path}"),
            FileAction::Mode { path, from, to } => {
                write!(f, "set the mode of ~/{path} from {from:04o} to {to:04o}")
            }
            FileAction::Link { path, target } => write!(f, "link ~/{path} to {target}"),
            FileAction::AddKeys { path, keys } => {
                f.write_str("add")?;
                keys.iter().try_for_each(|(pointer, _)| write!(f, " {pointer}"))?;
                write!(f, " to ~/{path}")
            }
            FileAction::SetBlock { path, .. } => write!(f, "set the block of rosterd in ~/{path}"),
        }
    }
}

/// How a file stands, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The file, as it is configured: `~/…`, or an absolute path of the machine.
    pub path: String,
    /// Its kind.
    pub kind: FileKind,
    /// Whose it is.
    pub owner: FileOwner,
    /// What is there, in a few words.
    pub found: String,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileOwner {
    /// rosterd's: it is replaced when it differs.
    Rosterd,
    /// The person's, or the admin's: it is left alone.
    Person,
    /// The person's, with a part that is rosterd's.
    Both,
}

impl FileOwner {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            FileOwner::Rosterd => "rosterd",
            FileOwner::Person => "person",
            FileOwner::Both => "both",
        }
    }
}
