//! Whose sessions may be asked about: the people in the map of the web terminal. Reads that map and the user database.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{User, getgrouplist};
use roster::name::OsUser;

/// Somebody with an account on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Account name.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
}

/// Why nobody can be asked about.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The map cannot be read. That is not an empty one.
    #[error("cannot read {}", path.display())]
    Map {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The map does not name this account.
    #[error("{user} is not among the people in {}", path.display())]
    Unknown {
        /// Who.
        user: String,
        /// Which map.
        path: PathBuf,
    },
    /// The account is not a person's.
    #[error("{0} has no account of a person on this machine")]
    NoAccount(String),
}

/// The accounts in a map: `<login>=<account>` a line, perhaps with `:<folder>` after it; `#` begins a comment.
pub fn known(map: &Path) -> Result<BTreeSet<String>, PeopleError> {
    let text = fs::read_to_string(map).map_err(|source| PeopleError::Map { path: map.to_owned(), source })?;
    Ok(accounts(&text))
}

fn accounts(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let (_, account) = line.split_once('=')?;
            let account = account.split(':').next().unwrap_or_default().trim();
            OsUser::new(account).ok().map(String::from)
        })
        .collect()
}

impl Person {
    /// Looks an account up. Only a person's is answered for: no system account, and not root.
    pub fn look_up(user: &str) -> Result<Person, PeopleError> {
        let no_account = || PeopleError::NoAccount(user.to_owned());
        let found = User::from_name(user).ok().flatten().ok_or_else(no_account)?;
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        if !become_user::is_person(uid) || !become_user::is_group(gid) || !found.dir.is_absolute() {
            return Err(no_account());
        }
        let name = std::ffi::CString::new(user).map_err(|_| no_account())?;
        // A folder may be reachable by one of them only.
        let groups = getgrouplist(&name, found.gid).unwrap_or_default();
        let groups =
            groups.iter().map(|gid| gid.as_raw()).filter(|gid| become_user::is_group(*gid)).collect();
        Ok(Person { user: found.name, uid, gid, groups, home: found.dir })
    }

    /// Looks up somebody who must be in the map.
    pub fn known(user: &str, map: &Path) -> Result<Person, PeopleError> {
        if !known(map)?.contains(user) {
            return Err(PeopleError::Unknown { user: user.to_owned(), path: map.to_owned() });
        }
        Person::look_up(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_read_with_comments_and_folders() {
        let text = "# by rosterd\n\nalice.doe=alice\nbob=bob:/home/bob/code # old form\nx=root\ny=Bad Name\nnone\nz=carol \n";
        assert_eq!(accounts(text).into_iter().collect::<Vec<_>>(), ["alice", "bob", "carol"]);
    }

    #[test]
    fn only_people_are_looked_up() {
        for user in ["root", "daemon", "nobody", "no-such-account-here"] {
            assert!(Person::look_up(user).is_err(), "{user}");
        }
    }
}
