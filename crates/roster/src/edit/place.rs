//! Where in the text a change goes: people and fields in lines of their own or in braces, lists in lines or in
//! brackets.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::edit::field::Assignment;
use crate::edit::splice::{Splice, Splices};
use crate::edit::write::{self, Quotes};
use crate::edit::{Edit, EditError};
use crate::name::OsUser;
use crate::parse;
use crate::parse::node::{Entry, Node, Value};

/// The smallest changes: each is about one place.
#[derive(Debug, Clone, Copy)]
enum Change<'e> {
    Add(&'e OsUser, &'e [Assignment], Option<&'e str>),
    Set(&'e OsUser, &'e Assignment),
    Remove(&'e OsUser),
    CommentOut(&'e OsUser, &'e str),
}

impl<'e> Change<'e> {
    fn of(edit: &'e Edit) -> Vec<Change<'e>> {
        match edit {
            Edit::Add { user, fields, note } => vec![Change::Add(user, fields, note.as_deref())],
            Edit::Set { user, fields } => fields.iter().map(|field| Change::Set(user, field)).collect(),
            Edit::Remove { user } => vec![Change::Remove(user)],
            Edit::CommentOut { user, note } => vec![Change::CommentOut(user, note)],
        }
    }

    fn is_add(&self) -> bool {
        matches!(self, Change::Add(..))
    }

    fn user(&self) -> &'e OsUser {
        match self {
            Change::Add(user, ..)
            | Change::Set(user, _)
            | Change::Remove(user)
            | Change::CommentOut(user, _) => user,
        }
    }
}

/// The text with all changes. Those that are about different places are made at once, so that a thousand people who
/// join cost no thousand readings of the file.
pub(super) fn all(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    let eol = match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    };
    let open_end = !text.is_empty() && !text.ends_with('\n');
    let mut text = if open_end { format!("{text}{eol}") } else { text.to_owned() };
    let mut rest: Vec<Change<'_>> = edits.iter().flat_map(Change::of).collect();
    while !rest.is_empty() {
        let Ok(root) = parse::tree(&text) else { return clever("a change would break it") };
        let layout = Layout { text: &text, eol };
        let people = People::of(root.as_ref())?;
        let mut splices = Splices::default();
        // Newcomers stand behind everybody, so they come when the others have all their lines. Lines that go are in
        // nobody's way.
        let newcomers: BTreeSet<_> = rest.iter().filter(|change| change.is_add()).map(Change::user).collect();
        let goes = |change: &Change<'_>| {
            matches!(change, Change::Remove(_) | Change::CommentOut(..)) && people.in_lines()
        };
        let come = rest.iter().all(|change| newcomers.contains(change.user()) || goes(change));
        let (mut touched, mut added, mut later) = (BTreeSet::new(), false, Vec::new());
        for change in rest {
            let is_add = change.is_add();
            let turn = match come {
                true => !is_add || !added || people.in_lines(),
                false => !newcomers.contains(change.user()),
            };
            let first = touched.insert(change.user());
            if turn && first && splices.take(layout.splices(&people, change)?) {
                added |= is_add;
            } else {
                later.push(change);
            }
        }
        text = splices.apply(&text);
        rest = later;
    }
    // An empty line that is the last one now can only be kept with its line end.
    if open_end
        && let Some(shorter) = text.strip_suffix("\r\n").or(text.strip_suffix('\n'))
        && !shorter.ends_with('\n')
    {
        text.truncate(shorter.len());
    }
    Ok(text)
}

fn clever<T>(why: impl Into<String>) -> Result<T, EditError> {
    Err(EditError::TooClever(why.into()))
}

/// Where people stand.
#[derive(Debug)]
enum People<'n> {
    /// There is no `users` yet, and nothing else.
    Nowhere,
    /// The file is in braces and has no `users`.
    InRoot(&'n Node<'n>),
    /// `users` holds nothing, not even braces.
    Empty(&'n Entry<'n>),
    Listed(&'n Entry<'n>, &'n [Entry<'n>]),
}

impl<'n> People<'n> {
    fn of(root: Option<&'n Node<'n>>) -> Result<Self, EditError> {
        let Some(root) = root else { return Ok(People::Nowhere) };
        let fields = match &root.value {
            Value::Null if root.span.is_empty() => return Ok(People::Nowhere),
            Value::Mapping(fields) => fields,
            _ => return clever("it is no list of `users`"),
        };
        match fields.iter().find(|field| field.key == "users") {
            None => Ok(People::InRoot(root)),
            Some(users) => match &users.value.value {
                Value::Null => Ok(People::Empty(users)),
                Value::Mapping(people) => Ok(People::Listed(users, people)),
                _ => clever("`users` is no list of people"),
            },
        }
    }

    /// Whether each person begins a line.
    fn in_lines(&self) -> bool {
        matches!(self, People::Listed(users, _) if !in_brackets(&users.value))
    }
}

fn in_brackets(node: &Node<'_>) -> bool {
    !node.span.is_empty()
}

#[derive(Debug, Clone, Copy)]
struct Layout<'t> {
    /// Ends with a line break, unless it is empty.
    text: &'t str,
    eol: &'static str,
}

impl Layout<'_> {
    fn splices(&self, people: &People<'_>, change: Change<'_>) -> Result<Vec<Splice>, EditError> {
        if let Change::Add(user, fields, note) = change {
            return self.add(people, user, fields, note);
        }
        let user = change.user();
        let People::Listed(users, listed) = people else { return clever(format!("`{user}` was not found")) };
        let Some(index) = listed.iter().position(|entry| entry.key == user.as_str()) else {
            return clever(format!("`{user}` was not found"));
        };
        let Some(person) = listed.get(index) else { return clever(format!("`{user}` was not found")) };
        match change {
            Change::Add(..) => Ok(Vec::new()),
            Change::Set(_, assignment) => self.set(person, assignment),
            Change::Remove(_) => self.remove(&users.value, listed, index),
            Change::CommentOut(_, note) => self.comment_out(person, note),
        }
    }

    // People.

    fn add(
        &self,
        people: &People<'_>,
        user: &OsUser,
        fields: &[Assignment],
        note: Option<&str>,
    ) -> Result<Vec<Splice>, EditError> {
        let person =
            Person { user: write::text(user.as_str(), Quotes::None), fields: write::fields(fields), note };
        match people {
            People::Nowhere => {
                let lines = person.lines(2, 2, self.eol);
                Ok(vec![Splice::insert(self.text.len(), format!("users:{}{lines}", self.eol))])
            }
            People::InRoot(root) => {
                let Value::Mapping(fields) = &root.value else { return clever("it is no list of `users`") };
                let text = format!("users: {{{}}}", person.in_braces()?);
                Ok(self.append(root, &self.parts(fields), &[text]))
            }
            People::Empty(users) => {
                let Some(colon) = self.colon(users) else {
                    return clever("`users` is not followed by a `:`");
                };
                if !self.begins_line(users.key_span.start) {
                    return Ok(vec![Splice::insert(colon, format!(" {{{}}}", person.in_braces()?))]);
                }
                let mut splices = Vec::new();
                if in_brackets(&users.value) {
                    splices.push(Splice::delete(colon..users.value.end));
                }
                let column = self.column(users.key_span.start);
                let at = self.line_end(self.end(users));
                splices.push(Splice::insert(at, person.lines(column + 2, 2, self.eol)));
                Ok(splices)
            }
            People::Listed(users, listed) if in_brackets(&users.value) => {
                // `users: {}` on a line of its own is where most rosters begin.
                if listed.is_empty()
                    && self.begins_line(users.key_span.start)
                    && self.text[users.value.span.start..users.value.end].bytes().all(|b| b != b'\n')
                    && let Some(colon) = self.colon(users)
                {
                    let column = self.column(users.key_span.start);
                    let at = self.line_end(users.value.end);
                    let lines = person.lines(column + 2, 2, self.eol);
                    return Ok(vec![Splice::delete(colon..users.value.end), Splice::insert(at, lines)]);
                }
                Ok(self.append(&users.value, &self.parts(listed), &[person.in_braces()?]))
            }
            People::Listed(_, listed) => {
                let Some(last) = listed.last() else { return clever("`users` is empty and yet is not") };
                let at = self.own_lines(last)?.end;
                let column = self.column(last.key_span.start);
                let apart = listed.len() >= 2
                    && listed.get(listed.len() - 2).is_some_and(|before| {
                        let between = self.line_end(self.end(before))..self.line_start(last.key_span.start);
                        let between = self.text.get(between).unwrap_or_default();
                        between.lines().any(|line| line.trim().is_empty())
                    });
                let step = match &last.value.value {
                    Value::Mapping(fields) if !in_brackets(&last.value) => {
                        fields.first().map(|field| self.column(field.key_span.start).saturating_sub(column))
                    }
                    _ => None,
                };
                let lines = match step {
                    Some(step) => person.lines(column, step.max(1), self.eol),
                    None => person.line(column, self.eol),
                };
                let blank = if apart { self.eol } else { "" };
                Ok(vec![Splice::insert(at, format!("{blank}{lines}"))])
            }
        }
    }

    fn comment_out(&self, person: &Entry<'_>, note: &str) -> Result<Vec<Splice>, EditError> {
        let lines = self.own_lines(person)?;
        let column = self.column(person.key_span.start);
        let mut splices = vec![Splice::above(lines.start, format!("{:column$}# {note}{}", "", self.eol))];
        let mut at = lines.start;
        for line in self.text[lines].split_inclusive('\n') {
            let indent = line.len() - line.trim_start_matches(' ').len();
            if !line.trim().is_empty() {
                splices.push(Splice::insert(at + indent.min(column), "# "));
            }
            at += line.len();
        }
        Ok(splices)
    }

    // Fields.

    fn set(&self, person: &Entry<'_>, assignment: &Assignment) -> Result<Vec<Splice>, EditError> {
        let Value::Mapping(fields) = &person.value.value else {
            return clever(format!("`{}` has no fields", person.key));
        };
        let Some((outer, inner)) = assignment.path.split_once('.') else {
            return self.field(&person.value, fields, assignment.path, assignment);
        };
        let whole = format!("{{{inner}: {}}}", write::value(assignment));
        let Some(index) = fields.iter().position(|field| field.key == outer) else {
            return match assignment.value.is_empty() {
                true => Ok(Vec::new()),
                false => self.insert(&person.value, fields, outer, &whole),
            };
        };
        let Some(holder) = fields.get(index) else { return Ok(Vec::new()) };
        match &holder.value.value {
            Value::Null if assignment.value.is_empty() => Ok(Vec::new()),
            Value::Null => self.put(holder, &whole),
            Value::Mapping(inner_fields) => {
                let named = |field: &Entry<'_>| is_named(field, inner, assignment);
                let has = |field: &&Entry<'_>| !matches!(field.value.value, Value::Null);
                let others = inner_fields.iter().filter(has).filter(|field| !named(field)).count();
                let there = inner_fields.iter().filter(has).any(named);
                if assignment.value.is_empty() && there && others == 0 {
                    return self.remove(&person.value, fields, index);
                }
                self.field(&holder.value, inner_fields, inner, assignment)
            }
            _ => clever(format!("`{outer}` has no fields")),
        }
    }

    fn field(
        &self,
        mapping: &Node<'_>,
        fields: &[Entry<'_>],
        key: &str,
        assignment: &Assignment,
    ) -> Result<Vec<Splice>, EditError> {
        let index = fields.iter().position(|field| is_named(field, key, assignment));
        let entry = index.and_then(|index| fields.get(index));
        let old = entry.map_or(&Value::Null, |entry| &entry.value.value);
        if assignment.is_list() {
            let items: &[Node<'_>] = match old {
                Value::Sequence(items) => items,
                _ => &[],
            };
            let old: Vec<String> = items.iter().map(item_text).collect();
            let Ok(new) = assignment.list(&old) else { return clever("a list changed meanwhile") };
            return match (index, entry) {
                _ if new == old => Ok(Vec::new()),
                (Some(index), _) if new.is_empty() => self.remove(mapping, fields, index),
                (_, Some(entry)) => self.list(entry, items, &old, &new),
                _ => self.insert(mapping, fields, key, &write::list(&new)),
            };
        }
        match (index, entry) {
            (Some(index), Some(_)) if assignment.value.is_empty() => match old {
                Value::Null => Ok(Vec::new()),
                _ => self.remove(mapping, fields, index),
            },
            (_, Some(entry)) => {
                let same = match old {
                    Value::Text(text) => text == assignment.value.as_str(),
                    Value::Number(text) => text == assignment.value.as_str(),
                    Value::Bool(value) => value.to_string() == assignment.value,
                    _ => false,
                };
                if same {
                    return Ok(Vec::new());
                }
                let quotes = Quotes::of(self.text.get(entry.value.span.clone()).unwrap_or_default());
                self.put(entry, &write::scalar(assignment, quotes))
            }
            _ if assignment.value.is_empty() => Ok(Vec::new()),
            _ => self.insert(mapping, fields, key, &write::value(assignment)),
        }
    }

    /// A list gets other items.
    fn list(
        &self,
        entry: &Entry<'_>,
        items: &[Node<'_>],
        old: &[String],
        new: &[String],
    ) -> Result<Vec<Splice>, EditError> {
        let kept: Vec<&String> = old.iter().filter(|item| new.contains(item)).collect();
        let in_order = kept.iter().zip(new).all(|(kept, new)| *kept == new);
        let appended = new.get(kept.len()..).unwrap_or_default();
        if in_brackets(&entry.value) {
            if in_order && kept.len() == old.len() {
                let parts: Vec<_> = items.iter().map(|item| item.span.start..item.end).collect();
                let new: Vec<_> = appended.iter().map(|item| write::text(item, Quotes::None)).collect();
                return Ok(self.append(&entry.value, &parts, &new));
            }
            return self.put(entry, &write::list(new));
        }
        if !in_order || kept.is_empty() {
            return self.put(entry, &write::list(new));
        }
        let mut splices = Vec::new();
        for (item, text) in items.iter().zip(old) {
            if !new.contains(text) {
                splices.push(Splice::delete(self.item_lines(item)?));
            }
        }
        if let Some(last) = items.last().filter(|_| !appended.is_empty()) {
            let lines = self.item_lines(last)?;
            let begin = &self.text[lines.start..last.span.start];
            let text: String = appended
                .iter()
                .map(|item| format!("{begin}{}{}", write::text(item, Quotes::None), self.eol))
                .collect();
            splices.push(Splice::insert(lines.end, text));
        }
        Ok(splices)
    }

    /// The value of a field becomes `text`, on the line of its key.
    fn put(&self, entry: &Entry<'_>, text: &str) -> Result<Vec<Splice>, EditError> {
        let node = &entry.value;
        let Some(colon) = self.colon(entry) else {
            return clever(format!("`{}` is not followed by a `:`", entry.key));
        };
        if matches!(node.value, Value::Null) {
            let old = if in_brackets(node) { colon..node.end } else { colon..colon };
            return Ok(vec![Splice::new(old, format!(" {text}"))]);
        }
        if !in_brackets(node) {
            // A collection in lines below the key.
            let first = match &node.value {
                Value::Sequence(items) => items.first().map(|item| item.span.start),
                Value::Mapping(fields) => fields.first().map(|field| field.key_span.start),
                _ => None,
            };
            let Some(first) = first else { return clever(format!("`{}` holds nothing", entry.key)) };
            let lines = self.line_start(first)..self.line_end(self.end(entry));
            if lines.start < colon {
                return clever(format!("`{}` begins on the line of its key", entry.key));
            }
            return Ok(vec![Splice::insert(colon, format!(" {text}")), Splice::delete(lines)]);
        }
        // What stands between is nothing, a comment, or the head of a text in lines (`|`, `>-`).
        let between = self.text.get(colon..node.span.start).unwrap_or_default();
        let head = between.trim_start();
        let start = match head.starts_with(['|', '>']) {
            true => colon + between.len() - head.len(),
            false => node.span.start,
        };
        let end = self.end(entry);
        if self.text.get(start..end).is_some_and(|old| old.contains('#') && old.contains('\n')) {
            return clever(format!("`{}` has a comment within its value", entry.key));
        }
        Ok(vec![Splice::new(start..end, text)])
    }

    fn insert(
        &self,
        mapping: &Node<'_>,
        fields: &[Entry<'_>],
        key: &str,
        value: &str,
    ) -> Result<Vec<Splice>, EditError> {
        let text = format!("{key}: {value}");
        if in_brackets(mapping) {
            return Ok(self.append(mapping, &self.parts(fields), &[text]));
        }
        let (Some(first), Some(last)) = (fields.first(), fields.last()) else {
            return clever("fields that are not there");
        };
        let column = self.column(first.key_span.start);
        let at = self.own_lines(last)?.end;
        Ok(vec![Splice::insert(at, format!("{:column$}{text}{}", "", self.eol))])
    }

    fn remove(
        &self,
        mapping: &Node<'_>,
        entries: &[Entry<'_>],
        index: usize,
    ) -> Result<Vec<Splice>, EditError> {
        let Some(entry) = entries.get(index) else { return clever("a field that is not there") };
        let lines = self.own_lines(entry);
        if !in_brackets(mapping) || lines.is_ok() {
            return Ok(vec![Splice::delete(lines?)]);
        }
        let parts = self.parts(entries);
        let Some(part) = parts.get(index) else { return clever("a field that is not there") };
        let before = index.checked_sub(1).and_then(|index| parts.get(index));
        let range = match (before, parts.get(index + 1)) {
            (Some(before), _) => before.end..part.end,
            (None, Some(next)) => part.start..next.start,
            (None, None) => part.start..self.comma(part.end).unwrap_or(part.end),
        };
        let between = [range.start..part.start, part.end..range.end];
        let comment =
            between.into_iter().any(|between| self.text.get(between).is_some_and(|text| text.contains('#')));
        if comment {
            return clever(format!("a comment stands between `{}` and its neighbour", entry.key));
        }
        Ok(vec![Splice::delete(range)])
    }

    // Places.

    /// New parts at the end of a collection in brackets.
    fn append(&self, node: &Node<'_>, parts: &[Range<usize>], new: &[String]) -> Vec<Splice> {
        let Some(last) = parts.last() else {
            return vec![Splice::insert(node.span.end, new.join(", "))];
        };
        let comma = self.comma(last.end);
        let in_lines = self.begins_line(last.start)
            && self.text.get(last.end..node.end).is_some_and(|rest| rest.contains('\n'));
        if !in_lines {
            let new = new.join(", ");
            return vec![match comma {
                Some(comma) => Splice::insert(comma, format!(" {new},")),
                None => Splice::insert(last.end, format!(", {new}")),
            }];
        }
        let indent = &self.text[self.line_start(last.start)..last.start];
        let at = self.line_end(comma.unwrap_or(last.end));
        let between = format!(",{}{indent}", self.eol);
        let closing = if comma.is_some() { "," } else { "" };
        let lines = format!("{indent}{}{closing}{}", new.join(&between), self.eol);
        let mut splices = Vec::new();
        if comma.is_none() {
            splices.push(Splice::insert(last.end, ","));
        }
        splices.push(Splice::insert(at, lines));
        splices
    }

    fn parts(&self, entries: &[Entry<'_>]) -> Vec<Range<usize>> {
        entries.iter().map(|entry| entry.key_span.start..self.end(entry)).collect()
    }

    /// The lines that are an entry's alone, with the comments below it that are indented deeper.
    fn own_lines(&self, entry: &Entry<'_>) -> Result<Range<usize>, EditError> {
        let shares = || format!("`{}` shares a line with something else", entry.key);
        let start = self.line_start(entry.key_span.start);
        let end = self.end(entry);
        if !self.begins_line(entry.key_span.start) || !self.ends_line(end) {
            return clever(shares());
        }
        Ok(start..self.with_comments(self.line_end(end), entry.key_span.start - start))
    }

    fn item_lines(&self, item: &Node<'_>) -> Result<Range<usize>, EditError> {
        let start = self.line_start(item.span.start);
        let begin = self.text.get(start..item.span.start).unwrap_or_default();
        if begin.trim() != "-" {
            return clever("an item of a list does not begin on the line of its `-`");
        }
        let dash = begin.len() - begin.trim_start().len();
        let end = self.text.get(..item.end).map_or(item.end, |text| text.trim_end().len());
        Ok(start..self.with_comments(self.line_end(end), dash))
    }

    /// `at`, or behind the comments that follow there and are indented deeper than `column`.
    fn with_comments(&self, mut at: usize, column: usize) -> usize {
        while let Some(rest) = self.text.get(at..).filter(|rest| !rest.is_empty()) {
            let text = rest.trim_start_matches(' ');
            if rest.len() - text.len() <= column || !text.starts_with('#') {
                break;
            }
            at = self.line_end(at);
        }
        at
    }

    /// Where an entry ends, without the white space behind it.
    fn end(&self, entry: &Entry<'_>) -> usize {
        if matches!(entry.value.value, Value::Null) && entry.value.span.is_empty() {
            return self.colon(entry).unwrap_or(entry.key_span.end);
        }
        self.text.get(..entry.value.end).map_or(entry.value.end, |text| text.trim_end().len())
    }

    /// Behind the colon of an entry.
    fn colon(&self, entry: &Entry<'_>) -> Option<usize> {
        let rest = self.text.get(entry.key_span.end..)?;
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        rest.get(blank..)?.starts_with(':').then_some(entry.key_span.end + blank + 1)
    }

    /// Behind the comma that follows a part.
    fn comma(&self, mut at: usize) -> Option<usize> {
        loop {
            let rest = self.text.get(at..)?;
            let text = rest.trim_start();
            at += rest.len() - text.len();
            match text.bytes().next()? {
                b',' => return Some(at + 1),
                b'#' => at = self.line_end(at),
                _ => return None,
            }
        }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|text| text.find('\n')).map_or(self.text.len(), |end| at + end + 1)
    }

    fn column(&self, at: usize) -> usize {
        at - self.line_start(at)
    }

    fn begins_line(&self, at: usize) -> bool {
        self.text.get(self.line_start(at)..at).is_some_and(|before| before.bytes().all(|b| b == b' '))
    }

    /// Whether only a comma, white space and a comment follow on the line.
    fn ends_line(&self, at: usize) -> bool {
        let rest = self.text.get(at..self.line_end(at)).unwrap_or_default().trim_start_matches([' ', '\t']);
        let rest = rest.strip_prefix(',').unwrap_or(rest).trim();
        rest.is_empty() || rest.starts_with('#')
    }
}

fn is_named(field: &Entry<'_>, key: &str, assignment: &Assignment) -> bool {
    field.key == key || assignment.other_spelling.is_some_and(|other| field.key == other)
}

fn item_text(item: &Node<'_>) -> String {
    match &item.value {
        Value::Text(text) | Value::Number(text) => text.trim_end().to_owned(),
        _ => String::new(),
    }
}

/// A new person, as they are written.
#[derive(Debug)]
struct Person<'e> {
    user: String,
    fields: Vec<(&'static str, String)>,
    note: Option<&'e str>,
}

impl Person<'_> {
    fn note(&self, column: usize, eol: &str) -> String {
        self.note.map_or_else(String::new, |note| format!("{:column$}# {note}{eol}", ""))
    }

    fn lines(&self, column: usize, step: usize, eol: &str) -> String {
        let mut text = self.note(column, eol);
        text.push_str(&format!("{:column$}{}:{eol}", "", self.user));
        for (key, value) in &self.fields {
            text.push_str(&format!("{:1$}{key}: {value}{eol}", "", column + step));
        }
        text
    }

    fn line(&self, column: usize, eol: &str) -> String {
        format!("{}{:column$}{}{eol}", self.note(column, eol), "", self.entry())
    }

    fn entry(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        format!("{}: {{{}}}", self.user, fields.join(", "))
    }

    fn in_braces(&self) -> Result<String, EditError> {
        match self.note {
            Some(_) => clever(
                "`users` is in braces, where a note has no line; write everybody on lines of their own",
            ),
            None => Ok(self.entry()),
        }
    }
}
