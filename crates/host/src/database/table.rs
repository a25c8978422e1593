//! The lines of one file of the database. What is not changed keeps every byte.

use std::collections::{BTreeSet, HashMap};

use super::collision;
use crate::failure::Failure;

/// A file of lines that begin with a name and a colon.
#[derive(Debug)]
pub(super) struct Table {
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
    pub(super) fn new(text: &[u8]) -> Table {
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

    pub(super) fn line(&self, name: &str) -> Option<&[u8]> {
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
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let stays = |(index, _): &(usize, &Vec<u8>)| !self.gone.contains(index);
        self.lines
            .iter()
            .enumerate()
            .filter(stays)
            .map(|(_, line)| line.as_slice())
            .chain(self.new.iter().map(Vec::as_slice))
    }

    /// Every line of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines().filter(move |line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()))
    }

    /// Takes every line of a name out.
    pub(super) fn remove(&mut self, name: &str) {
        self.names.remove(name.as_bytes());
        for (index, line) in self.lines.iter().enumerate() {
            if line.split(|byte| *byte == b':').next() == Some(name.as_bytes()) {
                self.gone.insert(index);
                self.changed = true;
            }
        }
    }

    /// The names of the lines whose list at the end has this member.
    pub(super) fn lists_with(&self, member: &str) -> Vec<String> {
        let has = |line: &&[u8]| {
            let list = line.rsplit(|byte| *byte == b':').next().unwrap_or_default();
            list.split(|byte| *byte == b',').any(|other| other == member.as_bytes())
        };
        let name = |line: &[u8]| line.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
        self.lines().filter(has).filter_map(|line| String::from_utf8(name(line)).ok()).collect()
    }

    pub(super) fn push(&mut self, name: &str, line: String) {
        self.names.entry(name.as_bytes().to_vec()).or_insert(self.lines.len() + self.new.len());
        self.new.push(line.into_bytes());
        self.changed = true;
    }

    /// Puts `line` in the place of the one of the same name, or at the end.
    pub(super) fn set(&mut self, name: &str, line: String) {
        if self.names.contains_key(name.as_bytes()) {
            self.set_bytes(name, line.into_bytes());
        } else {
            self.push(name, line);
        }
    }

    /// Puts `line` in the place of the one of the same name, if there is one.
    pub(super) fn set_bytes(&mut self, name: &str, line: Vec<u8>) {
        let index = self.names.get(name.as_bytes()).copied();
        if let Some(old) = index.and_then(|index| self.get_mut(index))
            && *old != line
        {
            *old = line;
            self.changed = true;
        }
    }

    /// Adds `member` to the comma-separated list at the end of the line of `name`, if there is such a line.
    pub(super) fn add_to_list(&mut self, name: &str, member: &str) {
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
    pub(super) fn remove_from_list(&mut self, name: &str, member: &str) {
        let Some(line) = self.line(name) else { return };
        let at = line.iter().rposition(|byte| *byte == b':').map_or(0, |colon| colon + 1);
        let (head, list) = line.split_at(at);
        let rest: Vec<&[u8]> =
            list.split(|byte| *byte == b',').filter(|other| *other != member.as_bytes()).collect();
        let line = [head, &rest.join(&b',')].concat();
        self.set_bytes(name, line);
    }

    /// Who has the id in the third field.
    pub(super) fn owners(&self) -> HashMap<u32, String> {
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

    pub(super) fn changed(self) -> Option<Vec<u8>> {
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
pub(super) struct Ranges {
    pub(super) table: Table,
    /// Owner, first id, how many.
    ranges: Vec<(String, u64, u64)>,
}

impl Ranges {
    pub(super) fn new(text: &[u8]) -> Ranges {
        let parsed = crate::parse::subordinate(&String::from_utf8_lossy(text));
        let ranges =
            parsed.into_iter().map(|range| (range.owner, range.start.into(), range.count.into())).collect();
        Ranges { table: Table::new(text), ranges }
    }

    pub(super) fn check(&self, file: &str, user: &str, (start, count): (u32, u32)) -> Result<(), Failure> {
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

    pub(super) fn add(&mut self, user: &str, (start, count): (u32, u32)) {
        let range = (user.to_string(), u64::from(start), u64::from(count));
        if !self.ranges.contains(&range) {
            self.table.push(user, format!("{user}:{start}:{count}"));
            self.ranges.push(range);
        }
    }
}
