//! The user database as text: `passwd`, `group`, `shadow`, `gshadow`, `subuid`, `subgid`. Pure functions that
//! say whether a change can be made and what the files are with it. Lines that are not about it keep every
//! byte, NIS lines stay last, and what a killed run had added already is used again.
//!
//! [`create`] adds an account, [`login`] closes and opens one, [`whole`] takes one out and puts it back; [`table`] has the
//! lines.

use std::collections::HashMap;

use crate::failure::Failure;

mod create;
mod login;
mod table;
mod whole;

pub(crate) use create::Aging;
use table::{Ranges, Table};

/// The six texts. A machine without the last three has none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) passwd: Vec<u8>,
    pub(crate) group: Vec<u8>,
    pub(crate) shadow: Vec<u8>,
    pub(crate) gshadow: Option<Vec<u8>>,
    pub(crate) subuid: Option<Vec<u8>>,
    pub(crate) subgid: Option<Vec<u8>>,
}

/// The database while it is being changed.
#[derive(Debug)]
pub(crate) struct Database {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Option<Table>,
    subuid: Option<Ranges>,
    subgid: Option<Ranges>,
    /// Who has an id.
    uids: HashMap<u32, String>,
    gids: HashMap<u32, String>,
}

impl Database {
    pub(crate) fn new(texts: &Texts) -> Database {
        let passwd = Table::new(&texts.passwd);
        let group = Table::new(&texts.group);
        Database {
            uids: passwd.owners(),
            gids: group.owners(),
            passwd,
            group,
            shadow: Table::new(&texts.shadow),
            gshadow: texts.gshadow.as_deref().map(Table::new),
            subuid: texts.subuid.as_deref().map(Ranges::new),
            subgid: texts.subgid.as_deref().map(Ranges::new),
        }
    }

    /// Makes an account a member of a group; it is fine when it is one already.
    pub(crate) fn add_member(&mut self, user: &str, group: &str) -> Result<(), Failure> {
        if self.passwd.line(user).is_none() {
            return Err(collision(format!("there is no account {user} any more")));
        }
        self.group_exists(group)?;
        self.add_to_group(user, group);
        Ok(())
    }

    /// Takes an account out of a group, if it is in it.
    pub(crate) fn remove_member(&mut self, user: &str, group: &str) {
        self.group.remove_from_list(group, user);
        if let Some(gshadow) = &mut self.gshadow {
            gshadow.remove_from_list(group, user);
        }
    }

    /// The six texts, of which only those that changed are present.
    pub(crate) fn changed(self) -> Changed {
        Changed {
            subuid: self.subuid.and_then(|ranges| ranges.table.changed()),
            subgid: self.subgid.and_then(|ranges| ranges.table.changed()),
            gshadow: self.gshadow.and_then(Table::changed),
            shadow: self.shadow.changed(),
            group: self.group.changed(),
            passwd: self.passwd.changed(),
        }
    }

    fn group_exists(&self, group: &str) -> Result<(), Failure> {
        match self.group.line(group) {
            Some(line) if line.iter().filter(|byte| **byte == b':').count() == 3 => Ok(()),
            Some(_) => Err(Failure::new(
                format!("the line of group {group} in /etc/group is malformed"),
                "correct it: `grpck` shows how",
            )),
            None => Err(collision(format!("there is no group {group} any more"))),
        }
    }

    fn add_to_group(&mut self, user: &str, group: &str) {
        self.group.add_to_list(group, user);
        if let Some(gshadow) = &mut self.gshadow {
            gshadow.add_to_list(group, user);
        }
    }
}

/// The texts to write, in the order in which they come into force: an account exists from the moment its line
/// is in `passwd`, and by then all the rest of it is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) subuid: Option<Vec<u8>>,
    pub(crate) subgid: Option<Vec<u8>>,
    pub(crate) gshadow: Option<Vec<u8>>,
    pub(crate) shadow: Option<Vec<u8>>,
    pub(crate) group: Option<Vec<u8>>,
    pub(crate) passwd: Option<Vec<u8>>,
}

impl Changed {
    /// File names and texts, `passwd` last.
    pub(crate) fn in_order(self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        [
            ("subuid", self.subuid),
            ("subgid", self.subgid),
            ("gshadow", self.gshadow),
            ("shadow", self.shadow),
            ("group", self.group),
            ("passwd", self.passwd),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
    }
}

fn collision(why: String) -> Failure {
    Failure::new(why, "nothing was changed for it; the next run plans with what is there now")
}

#[cfg(test)]
mod tests {
    use super::create::tests::{account, aging};
    use super::*;

    pub(super) fn texts() -> Texts {
        Texts {
            passwd: b"root:x:0:0:root:/root:/bin/bash\n# odd \xff bytes\n+::::::".to_vec(),
            group: b"root:x:0:\nsudo:x:27:zoe\ndocker:x:28:\n".to_vec(),
            shadow: b"root:*:20000:0:99999:7:::\n".to_vec(),
            gshadow: Some(b"root:*::\nsudo:*::zoe\ndocker:!::\n".to_vec()),
            subuid: Some(Vec::new()),
            subgid: Some(Vec::new()),
        }
    }

    pub(super) fn text(bytes: Option<Vec<u8>>) -> String {
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    }

    #[test]
    fn a_thousand_members_of_one_group_are_written_once_and_each_once() {
        let mut database = Database::new(&texts());
        for id in 0..1000 {
            let account = account(&format!("u{id}"), 1000 + id, &["docker"]);
            database.check(&account).unwrap();
            database.add(&account, &aging());
            database.add_member(&format!("u{id}"), "docker").unwrap();
        }
        let group = text(database.changed().group);
        let docker = group.lines().find(|line| line.starts_with("docker:")).unwrap();
        assert_eq!(docker.split(',').count(), 1000);
    }

    #[test]
    fn nothing_to_change_is_no_text() {
        let mut database = Database::new(&texts());
        database.add(&account("alice", 1000, &["sudo"]), &aging());
        let changed = database.changed();
        let texts = Texts { passwd: changed.passwd.unwrap(), group: changed.group.unwrap(), ..texts() };
        let mut database = Database::new(&texts);
        database.add_member("alice", "sudo").unwrap();
        let changed = database.changed();
        assert_eq!((changed.passwd, changed.group), (None, None));
        assert_eq!(database_error(&texts), "there is no account ghost any more");
    }

    fn database_error(texts: &Texts) -> String {
        Database::new(texts).add_member("ghost", "sudo").unwrap_err().why
    }
}
