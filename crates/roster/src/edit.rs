//! Changes of the roster as text: only the lines they are about change, and comments, order, style, line ends, byte
//! order mark and a missing last line end stay.
//!
//! The text is changed at places that the parser's tree names (`splice`, `place`). What comes out is read again, and
//! is refused unless it is the old roster with exactly that change (`model`). So a text that is laid out in a way
//! nobody thought of costs a refusal, and never somebody else's line.

mod field;
mod model;
mod place;
mod splice;
mod write;

use crate::diagnostic::Diagnostics;
use crate::model::Roster;
use crate::name::OsUser;
use crate::parse;

pub use field::{Assignment, AssignmentError, Operation};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A person joins, behind everybody else.
    Add {
        /// Their account.
        user: OsUser,
        /// Their fields, in the order in which they are written.
        fields: Vec<Assignment>,
        /// A comment above their lines.
        note: Option<String>,
    },
    /// Some of a person's fields change.
    Set {
        /// Whose.
        user: OsUser,
        /// What changes, one after the other.
        fields: Vec<Assignment>,
    },
    /// A person's lines go.
    Remove {
        /// Whose.
        user: OsUser,
    },
    /// A person's lines become comments.
    CommentOut {
        /// Whose.
        user: OsUser,
        /// A comment above them that says why.
        note: String,
    },
}

impl Edit {
    /// Whom it is about.
    pub fn user(&self) -> &OsUser {
        match self {
            Edit::Add { user, .. }
            | Edit::Set { user, .. }
            | Edit::Remove { user }
            | Edit::CommentOut { user, .. } => user,
        }
    }
}

/// The text with its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// What it was.
    pub before: Roster,
    /// What it is.
    pub after: Roster,
    /// The whole new text.
    pub text: String,
}

/// Why a roster was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is wrong before any change; only a person can know what was meant.
    #[error("the roster is not valid as it is")]
    Invalid(#[source] Diagnostics),
    /// It would be wrong with the changes. The diagnostics show the changed text.
    #[error("the roster would not be valid")]
    Refused(#[source] Diagnostics),
    /// It is laid out in a way that cannot be changed safely.
    #[error("the roster is laid out in a way that is not safe to change by program: {0}")]
    TooClever(String),
    /// There is no such person.
    #[error("there is no `{user}` in the roster{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    NoSuchUser {
        /// Who was asked for.
        user: OsUser,
        /// Who was probably meant.
        near: Option<String>,
    },
    /// The person is there already.
    #[error("`{0}` is in the roster already")]
    Exists(OsUser),
    /// A list does not hold what is to be taken from it.
    #[error("`{item}` is not in the {field} of `{user}`")]
    NotListed {
        /// Whose list.
        user: OsUser,
        /// Which.
        field: &'static str,
        /// What it does not hold.
        item: String,
    },
}

/// Changes the text of a roster; `file` is only its name in diagnostics.
pub fn apply(file: &str, bytes: &[u8], edits: &[Edit]) -> Result<Edited, EditError> {
    let before = parse::roster(file, bytes).map_err(EditError::Invalid)?;
    let expected = model::apply(&before, edits)?;
    // It has just been parsed, so it is UTF-8.
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (mark, text) = match text.strip_prefix('\u{feff}') {
        Some(text) => ("\u{feff}", text),
        None => ("", text),
    };
    if text.replace("\r\n", "\n").contains('\r') {
        return Err(EditError::TooClever("it has carriage returns within its lines".into()));
    }
    let text = format!("{mark}{}", place::all(text, edits)?);
    let after = parse::roster(file, text.as_bytes()).map_err(EditError::Refused)?;
    if Some(&after) != expected.as_ref() {
        return Err(EditError::TooClever(
            "the changed text would say something else than was asked for".into(),
        ));
    }
    Ok(Edited { before, after, text })
}
