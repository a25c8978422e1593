//! What a step was done to, as one field of its record: with person and kind, enough to follow somebody's life by the
//! journal's fields alone.

use std::fmt;

use super::Action;
use crate::observed::LoginState;

/// The target of a step. Its `Display` is the text of the field.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a>(pub &'a Action);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::CreateAccount(account) => write!(f, "{}", account.uid),
            Action::EndSessions { uid, .. } => write!(f, "{uid}"),
            Action::CreateHome(home) => write!(f, "{}", home.path.display()),
            Action::AddToGroup { group, .. } | Action::RemoveFromGroup { group, .. } => group.fmt(f),
            Action::WriteFile(file) => write!(f, "{}", file.path.display()),
            Action::RemoveFile { path } | Action::SetEnvKeys { path, .. } => write!(f, "{}", path.display()),
            Action::StopUnit { unit } | Action::EnableUnit { unit } | Action::StartUnit { unit } => {
                unit.fmt(f)
            }
            // How it was before the cut, which is what a return gives back.
            Action::LockLogin { before, .. } | Action::RestoreLogin { before, .. } => login(f, before),
            Action::Cut | Action::Return | Action::Reload { .. } => Ok(()),
            Action::Home(_) | Action::Mirror(_) | Action::Cluster(_) | Action::Vault(_) => self.0.fmt(f),
        }
    }
}

fn login(f: &mut fmt::Formatter<'_>, login: &LoginState) -> fmt::Result {
    f.write_str(if login.locked { "locked" } else { "unlocked" })?;
    match login.expires {
        Some(day) => write!(f, ", expires on day {day}"),
        None => f.write_str(", never expires"),
    }
}
