//! The user database as text: `passwd`, `group`, `shadow`, `gshadow`, `subuid`, `subgid`. Pure functions that
//! say whether an account can be added and what the files are with it. Lines that are not about it keep every
//! byte, NIS lines stay last, and what a killed run had added already is used again.

use std::collections::{BTreeSet, HashMap};

use roster::observed::LoginState;
use roster::plan::NewAccount;

use crate::failure::Failure;
use crate::removal::AccountLines;

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

/// What `login.defs` says of passwords; absent numbers are empty fields, as `useradd` writes them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aging {
    pub(crate) min: Option<i64>,
    pub(crate) max: Option<i64>,
    pub(crate) warn: Option<i64>,
    /// Days since 1970.
    pub(crate) today: i64,
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

    /// Locks a password as `usermod --lock` does, and lets the account expire.
    pub(crate) fn lock_login(&mut self, user: &str, before: LoginState) -> Result<(), Failure> {
        self.change_login(user, |password, expires| {
            if !before.locked && !password.starts_with(b"!") {
                password.insert(0, b'!');
            }
            *expires = LoginState::CUT.expires.map_or_else(Vec::new, |day| day.to_string().into_bytes());
        })
    }

    /// Takes back what [`Database::lock_login`] did. What somebody has changed since stays as they made it.
    pub(crate) fn restore_login(&mut self, user: &str, before: LoginState) -> Result<(), Failure> {
        self.change_login(user, |password, expires| {
            if !before.locked && password.starts_with(b"!") {
                password.remove(0);
            }
            let cut = LoginState::CUT.expires.map(|day| day.to_string().into_bytes());
            if Some(&*expires) == cut.as_ref() {
                *expires = before.expires.map_or_else(Vec::new, |day| day.to_string().into_bytes());
            }
        })
    }

    /// Changes the second and the eighth field of a line of `shadow`.
    fn change_login(
        &mut self,
        user: &str,
        change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<(), Failure> {
        if self.passwd.line(user).is_none() {
            return Err(collision(format!("there is no account {user} any more")));
        }
        let malformed = || {
            let why = format!("/etc/shadow has no whole line of {user}");
            Failure::new(why, "`pwck` and `pwconv` mend it; the next run tries again")
        };
        let line = self.shadow.line(user).ok_or_else(malformed)?;
        let mut fields: Vec<Vec<u8>> = line.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
        let [_, password, _, _, _, _, _, expires, _] = fields.as_mut_slice() else { return Err(malformed()) };
        change(password, expires);
        self.shadow.set_bytes(user, fields.join(&b':'));
        Ok(())
    }

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

/// A file of lines that begin with a name and a colon.
#[derive(Debug)]
struct Table {
    lines: Vec<Vec<u8>>,
    /// Where the first line of each name is.
    names: HashMap<Vec<u8>, usize>,
    /// Lines to come: after the last ordinary line, before the first of NIS.
    new: Vec<Vec<u8>>,
    /// Which of `lines` are taken out.
    gone: BTreeSet<usize>,
    changed: bool,
}

impl Table {
    fn new(text: &[u8]) -> Table {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let lines: Vec<Vec<u8>> = if text.is_empty() {
            Vec::new()
        } else {
            text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        };
        let mut names = HashMap::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            names.entry(name.to_vec()).or_insert(index);
        }
        Table { lines, names, new: Vec::new(), gone: BTreeSet::new(), changed: false }
    }

    fn line(&self, name: &str) -> Option<&[u8]> {
        let index = *self.names.get(name.as_bytes())?;
        self.get(index)
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        self.lines.get(index).or_else(|| self.new.get(index - self.lines.len())).map(Vec::as_slice)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Vec<u8>> {
        let old = self.lines.len();
        if index < old { self.lines.get_mut(index) } else { self.new.get_mut(index - old) }
    }

    /// The lines that were there and are not taken out.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let stays = |(index, _): &(usize, &Vec<u8>)| !self.gone.contains(index);
        self.lines
            .iter()
            .enumerate()
            .filter(stays)
            .map(|(_, line)| line.as_slice())
            .chain(self.new.iter().map(Vec::as_slice))
    }

    /// Every line of a name.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines().filter(move |line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()))
    }

    /// Takes every line of a name out.
    fn remove(&mut self, name: &str) {
        self.names.remove(name.as_bytes());
        for (index, line) in self.lines.iter().enumerate() {
            if line.split(|byte| *byte == b':').next() == Some(name.as_bytes()) {
                self.gone.insert(index);
                self.changed = true;
            }
        }
    }

    /// The names of the lines whose list at the end has this member.
    fn lists_with(&self, member: &str) -> Vec<String> {
        let has = |line: &&[u8]| {
            let list = line.rsplit(|byte| *byte == b':').next().unwrap_or_default();
            list.split(|byte| *byte == b',').any(|other| other == member.as_bytes())
        };
        let name = |line: &[u8]| line.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
        self.lines().filter(has).filter_map(|line| String::from_utf8(name(line)).ok()).collect()
    }

    fn push(&mut self, name: &str, line: String) {
        self.names.entry(name.as_bytes().to_vec()).or_insert(self.lines.len() + self.new.len());
        self.new.push(line.into_bytes());
        self.changed = true;
    }

    /// Puts `line` in the place of the one of the same name, or at the end.
    fn set(&mut self, name: &str, line: String) {
        if self.names.contains_key(name.as_bytes()) {
            self.set_bytes(name, line.into_bytes());
        } else {
            self.push(name, line);
        }
    }

    /// Puts `line` in the place of the one of the same name, if there is one.
    fn set_bytes(&mut self, name: &str, line: Vec<u8>) {
        let index = self.names.get(name.as_bytes()).copied();
        if let Some(old) = index.and_then(|index| self.get_mut(index))
            && *old != line
        {
            *old = line;
            self.changed = true;
        }
    }

    /// Adds `member` to the comma-separated list at the end of the line of `name`, if there is such a line.
    fn add_to_list(&mut self, name: &str, member: &str) {
        let Some(index) = self.names.get(name.as_bytes()).copied() else { return };
        let Some(line) = self.get_mut(index) else { return };
        let list = line.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        if list.split(|byte| *byte == b',').any(|other| other == member.as_bytes()) {
            return;
        }
        if !list.is_empty() {
            line.push(b',');
        }
        line.extend_from_slice(member.as_bytes());
        self.changed = true;
    }

    /// Takes `member` out of the comma-separated list at the end of the line of `name`.
    fn remove_from_list(&mut self, name: &str, member: &str) {
        let Some(line) = self.line(name) else { return };
        let at = line.iter().rposition(|byte| *byte == b':').map_or(0, |colon| colon + 1);
        let (head, list) = line.split_at(at);
        let rest: Vec<&[u8]> =
            list.split(|byte| *byte == b',').filter(|other| *other != member.as_bytes()).collect();
        let line = [head, &rest.join(&b',')].concat();
        self.set_bytes(name, line);
    }

    /// Who has the id in the third field.
    fn owners(&self) -> HashMap<u32, String> {
        let mut owners = HashMap::with_capacity(self.lines.len());
        for line in &self.lines {
            let mut fields = line.split(|byte| *byte == b':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
            if let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
                owners.entry(id).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
            }
        }
        owners
    }

    fn changed(self) -> Option<Vec<u8>> {
        if !self.changed {
            return None;
        }
        let nis = |line: &Vec<u8>| matches!(line.first(), Some(b'+' | b'-'));
        let at = self.lines.iter().position(nis).unwrap_or(self.lines.len());
        let mut text = Vec::with_capacity(self.lines.len() * 40 + self.new.len() * 80);
        let stay = |range: std::ops::Range<usize>| {
            range.filter(|index| !self.gone.contains(index)).filter_map(|index| self.lines.get(index))
        };
        for line in stay(0..at).chain(&self.new).chain(stay(at..self.lines.len())) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        Some(text)
    }
}

/// `subuid` or `subgid`: a table of ranges.
#[derive(Debug)]
struct Ranges {
    table: Table,
    /// Owner, first id, how many.
    ranges: Vec<(String, u64, u64)>,
}

impl Ranges {
    fn new(text: &[u8]) -> Ranges {
        let parsed = crate::parse::subordinate(&String::from_utf8_lossy(text));
        let ranges =
            parsed.into_iter().map(|range| (range.owner, range.start.into(), range.count.into())).collect();
        Ranges { table: Table::new(text), ranges }
    }

    fn check(&self, file: &str, user: &str, (start, count): (u32, u32)) -> Result<(), Failure> {
        let (start, count) = (u64::from(start), u64::from(count));
        for (owner, other, other_count) in &self.ranges {
            // Whatever else it has is its own, from an admin or a run that was killed.
            if owner != user && start < other + other_count && *other < start + count {
                return Err(collision(format!(
                    "/etc/{file} gives {owner} the ids from {other} on since the plan was made"
                )));
            }
        }
        Ok(())
    }

    fn add(&mut self, user: &str, (start, count): (u32, u32)) {
        let range = (user.to_string(), u64::from(start), u64::from(count));
        if !self.ranges.contains(&range) {
            self.table.push(user, format!("{user}:{start}:{count}"));
            self.ranges.push(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use roster::name::{GroupName, OsUser, Shell};
    use roster::plan::NewHome;

    use super::*;

    pub(super) fn account(name: &str, id: u32, groups: &[&str]) -> NewAccount {
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

    fn texts() -> Texts {
        Texts {
            passwd: b"root:x:0:0:root:/root:/bin/bash\n# odd \xff bytes\n+::::::".to_vec(),
            group: b"root:x:0:\nsudo:x:27:zoe\ndocker:x:28:\n".to_vec(),
            shadow: b"root:*:20000:0:99999:7:::\n".to_vec(),
            gshadow: Some(b"root:*::\nsudo:*::zoe\ndocker:!::\n".to_vec()),
            subuid: Some(Vec::new()),
            subgid: Some(Vec::new()),
        }
    }

    fn aging() -> Aging {
        Aging { min: Some(0), max: Some(99_999), warn: Some(7), today: 20_781 }
    }

    fn text(bytes: Option<Vec<u8>>) -> String {
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
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
