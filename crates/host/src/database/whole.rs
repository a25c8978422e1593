//! A whole account: what the files say of it, out of them at a removal, and back at a restore.

use super::table::{Ranges, Table};
use super::{Database, collision};
use crate::failure::Failure;
use crate::removal::AccountLines;

impl Database {
    /// What the files say of one account.
    pub(crate) fn lines_of(&self, user: &str) -> Option<AccountLines> {
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let one = |table: &Table| table.line(user).map(text);
        let ranges = |ranges: &Option<Ranges>| {
            ranges.iter().flat_map(|ranges| ranges.table.all(user)).map(text).collect()
        };
        let own = one(&self.group).filter(|_| self.owns_its_group(user));
        Some(AccountLines {
            passwd: one(&self.passwd)?,
            shadow: one(&self.shadow),
            gshadow: self.gshadow.as_ref().filter(|_| own.is_some()).and_then(one),
            group: own,
            member_of: self.group.lists_with(user).into_iter().filter(|group| group != user).collect(),
            subuid: ranges(&self.subuid),
            subgid: ranges(&self.subgid),
        })
    }

    /// Whether the group of the account's name is its primary one, and nobody else's.
    fn owns_its_group(&self, user: &str) -> bool {
        let field = |line: Option<&[u8]>, index| {
            line.and_then(|line| line.split(|byte| *byte == b':').nth(index)).map(<[u8]>::to_vec)
        };
        let gid = field(self.passwd.line(user), 3);
        let shared = self.passwd.lines().filter(|line| field(Some(line), 3) == gid).count() > 1;
        let members = field(self.group.line(user), 3).unwrap_or_default();
        let alone = members.is_empty() || members == user.as_bytes();
        gid.is_some() && gid == field(self.group.line(user), 2) && !shared && alone
    }

    /// Takes an account out of all files, if it is there. What a killed removal has left is taken out as well.
    pub(crate) fn remove(&mut self, user: &str, uid: u32) -> Result<(), Failure> {
        if let Some(owner) = self.passwd.line(user) {
            let found = owner.split(|byte| *byte == b':').nth(2).and_then(|id| std::str::from_utf8(id).ok());
            if found != Some(&uid.to_string()) {
                return Err(collision(format!("{user} has another uid than {uid} by now")));
            }
        }
        if self.owns_its_group(user)
            || self.passwd.line(user).is_none() && self.gids.get(&uid) == Some(&user.into())
        {
            self.group.remove(user);
            if let Some(gshadow) = &mut self.gshadow {
                gshadow.remove(user);
            }
        }
        for group in self.group.lists_with(user) {
            self.group.remove_from_list(&group, user);
        }
        if let Some(gshadow) = &mut self.gshadow {
            for group in gshadow.lists_with(user) {
                gshadow.remove_from_list(&group, user);
            }
        }
        for ranges in [&mut self.subuid, &mut self.subgid].into_iter().flatten() {
            ranges.table.remove(user);
        }
        self.shadow.remove(user);
        self.passwd.remove(user);
        Ok(())
    }

    /// Puts an account back that was taken out, with what it had; groups that are gone since are left out.
    pub(crate) fn put_back(&mut self, user: &str, lines: &AccountLines) -> Result<(), Failure> {
        let is_line = |line: &str, fields: usize| {
            line.split(':').next() == Some(user)
                && line.split(':').count() == fields
                && !line.contains(['\n', '\0'])
        };
        let broken =
            || Failure::new(format!("the archive's lines of {user} are not whole"), "look at its manifest");
        let fits = is_line(&lines.passwd, 7)
            && lines.shadow.iter().all(|line| is_line(line, 9))
            && lines.group.iter().chain(&lines.gshadow).all(|line| is_line(line, 4))
            && lines.subuid.iter().chain(&lines.subgid).all(|line| is_line(line, 3));
        let uid: u32 = lines.passwd.split(':').nth(2).and_then(|id| id.parse().ok()).ok_or_else(broken)?;
        if !fits {
            return Err(broken());
        }
        if let Some(there) = self.passwd.line(user).filter(|there| *there != lines.passwd.as_bytes()) {
            let there = String::from_utf8_lossy(there).into_owned();
            return Err(collision(format!("there is an account {user} already: {there}")));
        }
        if let Some(other) = self.uids.get(&uid).filter(|other| *other != user) {
            return Err(collision(format!("uid {uid} belongs to {other} by now")));
        }
        if let Some(group) = &lines.group {
            let gid = group.split(':').nth(2).and_then(|id| id.parse().ok()).ok_or_else(broken)?;
            if let Some(other) = self.gids.get(&gid).filter(|other| *other != user) {
                return Err(collision(format!("gid {gid} belongs to group {other} by now")));
            }
            self.group.set(user, group.clone());
        }
        if let (Some(table), Some(line)) = (&mut self.gshadow, &lines.gshadow) {
            table.set(user, line.clone());
        }
        if let Some(line) = &lines.shadow {
            self.shadow.set(user, line.clone());
        }
        for (ranges, kept) in [(&mut self.subuid, &lines.subuid), (&mut self.subgid, &lines.subgid)] {
            for line in kept {
                let ranges = ranges.get_or_insert_with(|| Ranges::new(b""));
                if !ranges.table.all(user).any(|there| there == line.as_bytes()) {
                    ranges.table.push(user, line.clone());
                }
            }
        }
        for group in &lines.member_of {
            if self.group_exists(group).is_ok() {
                self.add_to_group(user, group);
            }
        }
        self.passwd.set(user, lines.passwd.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Texts;
    use super::super::tests::{text, texts};
    use super::*;

    #[test]
    fn an_account_goes_with_all_that_is_its_own_and_comes_back_to_the_byte() {
        let mut texts = texts();
        texts.passwd =
            b"root:x:0:0:root:/root:/bin/bash\nzoe:x:1001:1001::/home/zoe:/bin/sh\n+::::::\n".to_vec();
        texts.group = b"root:x:0:\nsudo:x:27:al,zoe,bo\nzoe:x:1001:\ndocker:x:28:zoe\n".to_vec();
        texts.shadow = b"root:*:20000:0:99999:7:::\nzoe:!$6$hash:20000:0:99999:7::1:\n".to_vec();
        texts.gshadow = Some(b"root:*::\nsudo:*::al,zoe,bo\nzoe:!::\ndocker:!::zoe\n".to_vec());
        texts.subuid = Some(b"al:1:2\nzoe:100000:65536\nzoe:900000:10\n".to_vec());
        let lines = Database::new(&texts).lines_of("zoe").unwrap();
        assert_eq!(lines.member_of, ["sudo", "docker"]);
        assert!(!format!("{lines:?}").contains("hash"), "{lines:?}");
        let mut database = Database::new(&texts);
        assert!(database.remove("zoe", 1002).is_err());
        database.remove("zoe", 1001).unwrap();
        let gone = database.changed();
        assert_eq!(text(gone.passwd.clone()), "root:x:0:0:root:/root:/bin/bash\n+::::::\n");
        assert_eq!(text(gone.group.clone()), "root:x:0:\nsudo:x:27:al,bo\ndocker:x:28:\n");
        assert_eq!(text(gone.shadow.clone()), "root:*:20000:0:99999:7:::\n");
        assert_eq!(text(gone.gshadow.clone()), "root:*::\nsudo:*::al,bo\ndocker:!::\n");
        assert_eq!(text(gone.subuid.clone()), "al:1:2\n");

        let without = Texts {
            passwd: gone.passwd.unwrap(),
            group: gone.group.unwrap(),
            shadow: gone.shadow.unwrap(),
            gshadow: gone.gshadow,
            subuid: gone.subuid,
            subgid: texts.subgid.clone(),
        };
        let mut database = Database::new(&without);
        database.put_back("zoe", &lines).unwrap();
        let back = database.changed();
        assert_eq!(
            text(back.passwd),
            "root:x:0:0:root:/root:/bin/bash\nzoe:x:1001:1001::/home/zoe:/bin/sh\n+::::::\n"
        );
        assert_eq!(text(back.group), "root:x:0:\nsudo:x:27:al,bo,zoe\ndocker:x:28:zoe\nzoe:x:1001:\n");
        assert_eq!(back.shadow.unwrap(), texts.shadow);
        assert_eq!(back.subuid, texts.subuid);
        // Its uid went to somebody else meanwhile: by hand, since rosterd never does that.
        let mut taken = without;
        taken.passwd.extend_from_slice(b"eve:x:1001:1001::/home/eve:/bin/sh\n");
        assert!(Database::new(&taken).put_back("zoe", &lines).unwrap_err().why.contains("belongs to eve"));
    }
}
