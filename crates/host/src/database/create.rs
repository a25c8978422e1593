//! A new account: what stands against it, and its line in each file.

use roster::plan::NewAccount;

use super::table::Ranges;
use super::{Database, collision};
use crate::failure::Failure;

/// What `login.defs` says of passwords; absent numbers are empty fields, as `useradd` writes them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aging {
    pub(crate) min: Option<i64>,
    pub(crate) max: Option<i64>,
    pub(crate) warn: Option<i64>,
    /// Days since 1970.
    pub(crate) today: i64,
}

impl Database {
    /// Why the account cannot be added to what is there now, if it cannot.
    pub(crate) fn check(&self, account: &NewAccount) -> Result<(), Failure> {
        let user = account.user.as_str();
        let home = account.home.path.to_string_lossy();
        if [account.gecos.as_str(), &home].iter().any(|field| field.contains([':', '\n', '\0', '\u{fffd}'])) {
            return Err(Failure::new(
                format!(
                    "the comment {:?} or the home {home:?} cannot be written to /etc/passwd",
                    account.gecos
                ),
                "choose them without colons and line breaks",
            ));
        }
        if self.passwd.line(user).is_some() {
            return Err(collision(format!("somebody added an account {user} since the plan was made")));
        }
        if let Some(other) = self.uids.get(&account.uid) {
            return Err(collision(format!("uid {} belongs to {other} since the plan was made", account.uid)));
        }
        match self.gids.get(&account.gid) {
            Some(other) if other != user => {
                return Err(collision(format!(
                    "gid {} belongs to group {other} since the plan was made",
                    account.gid
                )));
            }
            Some(_) => {}
            None if self.group.line(user).is_some() => {
                return Err(collision(format!(
                    "a group {user} with another gid than {} exists",
                    account.gid
                )));
            }
            None => {}
        }
        for group in &account.groups {
            self.group_exists(group.as_str())?;
        }
        for (file, ranges, wanted) in
            [("subuid", &self.subuid, account.subuid), ("subgid", &self.subgid, account.subgid)]
        {
            if let (Some(ranges), Some(wanted)) = (ranges, wanted) {
                ranges.check(file, user, wanted)?;
            }
        }
        Ok(())
    }

    /// Adds an account that [`Database::check`] let through, with a locked password.
    pub(crate) fn add(&mut self, account: &NewAccount, aging: &Aging) {
        let user = account.user.as_str();
        let (uid, gid) = (account.uid, account.gid);
        let home = account.home.path.display();
        self.passwd.push(user, format!("{user}:x:{uid}:{gid}:{}:{home}:{}", account.gecos, account.shell));
        self.uids.insert(uid, user.to_string());

        if self.group.line(user).is_none() {
            let password = if self.gshadow.is_some() { "x" } else { "!" };
            self.group.push(user, format!("{user}:{password}:{gid}:"));
            self.gids.insert(gid, user.to_string());
            if let Some(gshadow) = &mut self.gshadow {
                gshadow.set(user, format!("{user}:!::"));
            }
        } else if let Some(gshadow) = &mut self.gshadow
            && gshadow.line(user).is_none()
        {
            gshadow.push(user, format!("{user}:!::"));
        }

        // An orphaned line of the same name may hold an old password: it is replaced, as useradd does.
        let days = |days: Option<i64>| {
            days.filter(|days| *days >= 0).map_or_else(String::new, |days| days.to_string())
        };
        let Aging { min, max, warn, today } = *aging;
        self.shadow.set(user, format!("{user}:!:{today}:{}:{}:{}:::", days(min), days(max), days(warn)));

        for (ranges, range) in [(&mut self.subuid, account.subuid), (&mut self.subgid, account.subgid)] {
            if let Some(range) = range {
                ranges.get_or_insert_with(|| Ranges::new(b"")).add(user, range);
            }
        }
        for group in &account.groups {
            self.add_to_group(user, group.as_str());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use roster::name::{GroupName, OsUser, Shell};
    use roster::plan::NewHome;

    use super::super::Texts;
    use super::super::tests::{text, texts};
    use super::*;

    pub(in super::super) fn account(name: &str, id: u32, groups: &[&str]) -> NewAccount {
        NewAccount {
            user: OsUser::new(name).unwrap(),
            uid: id,
            gid: id,
            gecos: String::new(),
            shell: Shell::new("/bin/zsh").unwrap(),
            subuid: Some((100_000 + (id - 1000) * 65_536, 65_536)),
            subgid: Some((100_000 + (id - 1000) * 65_536, 65_536)),
            groups: groups.iter().map(|group| GroupName::new(*group).unwrap()).collect(),
            home: NewHome {
                path: format!("/home/{name}").into(),
                uid: id,
                gid: id,
                skel: "/etc/skel".into(),
                exists: false,
            },
        }
    }

    pub(in super::super) fn aging() -> Aging {
        Aging { min: Some(0), max: Some(99_999), warn: Some(7), today: 20_781 }
    }

    #[test]
    fn a_new_account_has_a_line_in_each_file_and_every_other_byte_stays() {
        let mut database = Database::new(&texts());
        let alice = account("alice", 1000, &["sudo", "docker"]);
        database.check(&alice).unwrap();
        database.add(&alice, &aging());
        let changed = database.changed();
        assert_eq!(
            changed.passwd.as_deref().unwrap(),
            b"root:x:0:0:root:/root:/bin/bash\n# odd \xff bytes\nalice:x:1000:1000::/home/alice:/bin/zsh\n+::::::\n"
        );
        assert_eq!(text(changed.group), "root:x:0:\nsudo:x:27:zoe,alice\ndocker:x:28:alice\nalice:x:1000:\n");
        assert_eq!(text(changed.shadow), "root:*:20000:0:99999:7:::\nalice:!:20781:0:99999:7:::\n");
        assert_eq!(text(changed.gshadow), "root:*::\nsudo:*::zoe,alice\ndocker:!::alice\nalice:!::\n");
        assert_eq!(text(changed.subuid), "alice:100000:65536\n");
        assert_eq!(text(changed.subgid), "alice:100000:65536\n");
    }

    #[test]
    fn invariant_5_what_a_killed_run_wrote_is_used_again() {
        let alice = account("alice", 1000, &["sudo"]);
        let add = |texts: &Texts| {
            let mut database = Database::new(texts);
            database.check(&alice).unwrap();
            database.add(&alice, &aging());
            database.changed()
        };
        let whole = add(&texts());
        // A kill between any two of the renames leaves the first few files new.
        for kept in 0..=5 {
            let mut torn = texts();
            let new = add(&texts());
            if kept > 0 {
                torn.subuid = new.subuid;
            }
            if kept > 1 {
                torn.subgid = new.subgid;
            }
            if kept > 2 {
                torn.gshadow = new.gshadow;
            }
            if kept > 3 {
                torn.shadow = new.shadow.unwrap();
            }
            if kept > 4 {
                torn.group = new.group.unwrap();
            }
            let again = add(&torn);
            assert_eq!(again.subuid.or(torn.subuid), whole.subuid, "kept {kept}");
            assert_eq!(again.subgid.or(torn.subgid), whole.subgid, "kept {kept}");
            assert_eq!(again.gshadow.or(torn.gshadow), whole.gshadow, "kept {kept}");
            assert_eq!(again.shadow.unwrap_or(torn.shadow), whole.shadow.clone().unwrap(), "kept {kept}");
            assert_eq!(again.group.unwrap_or(torn.group), whole.group.clone().unwrap(), "kept {kept}");
            assert_eq!(again.passwd, whole.passwd, "kept {kept}");
        }
    }

    #[test]
    fn an_orphaned_shadow_line_does_not_bring_its_password_back() {
        let mut texts = texts();
        texts.shadow.extend_from_slice(b"alice:$6$old:19000:0:99999:7:::\n");
        let mut database = Database::new(&texts);
        database.add(&account("alice", 1000, &[]), &aging());
        assert_eq!(
            text(database.changed().shadow),
            "root:*:20000:0:99999:7:::\nalice:!:20781:0:99999:7:::\n"
        );
    }

    #[test]
    fn a_collision_fails_that_account_and_says_with_whom() {
        let mut texts = texts();
        texts.passwd = b"bob:x:1000:5000::/home/bob:/bin/sh\n".to_vec();
        texts.group.extend_from_slice(b"carol:x:1002:\nstaff:x:1003:\neve:x:7777:\n");
        texts.subuid = Some(b"dora:100000:65536\n".to_vec());
        let database = Database::new(&texts);
        let why = |account: &NewAccount| database.check(account).unwrap_err().why;
        assert_eq!(why(&account("alice", 1000, &[])), "uid 1000 belongs to bob since the plan was made");
        assert_eq!(why(&account("bob", 1009, &[])), "somebody added an account bob since the plan was made");
        assert_eq!(
            why(&account("frank", 1002, &[])),
            "gid 1002 belongs to group carol since the plan was made"
        );
        assert_eq!(why(&account("eve", 1005, &[])), "a group eve with another gid than 1005 exists");
        assert_eq!(why(&account("gus", 1006, &["wheel"])), "there is no group wheel any more");
        let mut overlaps = account("hal", 1007, &[]);
        overlaps.subuid = Some((165_000, 65_536));
        assert_eq!(why(&overlaps), "/etc/subuid gives dora the ids from 100000 on since the plan was made");
        database.check(&account("carol", 1002, &[])).unwrap();
        texts.subuid = Some(b"ida:100000:65536\nida:900000:10\n".to_vec());
        let mut database = Database::new(&texts);
        let mut ida = account("ida", 1008, &[]);
        ida.subuid = Some((100_000, 65_536));
        database.check(&ida).unwrap();
        database.add(&ida, &aging());
        assert_eq!(database.changed().subuid, None, "it has what it should have already");
    }

    #[test]
    fn without_gshadow_the_group_has_the_password_that_useradd_gives() {
        let mut texts = texts();
        texts.gshadow = None;
        let mut database = Database::new(&texts);
        database.add(&account("alice", 1000, &[]), &Aging::default());
        let changed = database.changed();
        assert!(text(changed.group).ends_with("\nalice:!:1000:\n"));
        assert!(text(changed.shadow).ends_with("\nalice:!:0::::::\n"));
        assert_eq!(changed.gshadow, None);
    }
}
