//! Walks the tree and collects what is wrong. Every reading method tells its diagnostics itself and returns
//! `None` for what it could not read, so that a caller goes on with the rest and never tells anything twice.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::diagnostic::{Diagnostics, quoted};
use crate::name::NameError;
use crate::parse::node::{Entry, Node, Span, Value};

/// Something wrong, before its place is known in lines and columns.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) also: Option<(Span, String)>,
    /// What is written there may not be repeated: diagnostics end in logs.
    pub(super) secret: bool,
}

impl Found {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Found { span, message: message.into(), help: None, also: None, secret: false }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn also(mut self, span: &Span, message: impl Into<String>) -> Self {
        self.also = Some((span.clone(), message.into()));
        self
    }

    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// How the file spells a list; the rest is the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Toml,
}

impl Format {
    fn mapping(self) -> &'static str {
        match self {
            Format::Yaml => "fields, such as `name: value`",
            Format::Toml => "a table",
        }
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    format: Format,
    pub(super) found: Vec<Found>,
    /// How many more there are.
    pub(super) omitted: usize,
}

impl Reader {
    pub(super) fn new(format: Format) -> Self {
        Reader { format, found: Vec::new(), omitted: 0 }
    }

    pub(super) fn tell(&mut self, found: Found) {
        // Twice what is shown, because they are told nearly but not quite in the order of their places.
        if self.found.len() < 2 * Diagnostics::MOST { self.found.push(found) } else { self.omitted += 1 }
    }

    /// Whether it is still worth to look for what was meant.
    fn patient(&self) -> bool {
        self.omitted == 0
    }

    /// The fields of a mapping; `what` names it in messages ("user `carol`"), `place` is where a missing field is told.
    pub(super) fn fields<'n>(&mut self, node: &'n Node<'_>, what: &str, place: &Span) -> Option<Fields<'n>> {
        let entries = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Refused => return None,
            _ => {
                self.wrong_type(node, self.format.mapping());
                return None;
            }
        };
        Some(Fields {
            what: what.to_owned(),
            place: place.clone(),
            entries: self.unique(entries),
            known: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// The entries of a mapping, each key once.
    pub(super) fn unique<'n>(&mut self, entries: &'n [Entry<'_>]) -> Vec<Field<'n>> {
        let mut first = BTreeMap::<&str, &Span>::new();
        let mut kept = Vec::with_capacity(entries.len());
        for Entry { key, key_span, value } in entries {
            if let Some(span) = first.get(key.as_ref()) {
                let message = format!("{} is given twice", quoted(key));
                self.tell(
                    Found::new(key_span.clone(), message)
                        .also(span, "first given here")
                        .help("keep one of them"),
                );
                continue;
            }
            first.insert(key, key_span);
            kept.push(Field { key, key_span, node: value });
        }
        kept
    }

    pub(super) fn text<'n>(&mut self, node: &'n Node<'_>) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => return Some(text),
            Value::Number(number) => {
                let message = format!("expected text, found the number {}", quoted(number));
                self.tell(
                    Found::new(node.span.clone(), message)
                        .help(format!("write it in quotes: `\"{number}\"`")),
                );
            }
            Value::Bool(boolean) => {
                let message = format!("expected text, found the boolean `{boolean}`");
                self.tell(
                    Found::new(node.span.clone(), message)
                        .help(format!("write it in quotes: `\"{boolean}\"`")),
                );
            }
            _ => self.wrong_type(node, "text"),
        }
        None
    }

    pub(super) fn name<T: FromStr<Err = NameError>>(&mut self, node: &Node<'_>) -> Option<T> {
        let text = self.text(node)?;
        self.checked(text, &node.span)
    }

    pub(super) fn checked<T: FromStr<Err = NameError>>(&mut self, text: &str, span: &Span) -> Option<T> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let mut found = Found::new(span.clone(), format!("{} {error}", quoted(text)));
                let lower = text.to_lowercase();
                if lower != text && lower.parse::<T>().is_ok() {
                    found = found.help(format!("write `{lower}`"));
                } else if text.trim() != text && text.trim().parse::<T>().is_ok() {
                    found = found.help("remove the white space around it");
                }
                self.tell(found);
                None
            }
        }
    }

    /// A name that may also be written as a bare number, as quantities are.
    pub(super) fn number_or_name<T: FromStr<Err = NameError>>(&mut self, node: &Node<'_>) -> Option<T> {
        match &node.value {
            Value::Number(number) => self.checked(number, &node.span),
            _ => self.name(node),
        }
    }

    /// `true` or `false` and nothing that looks like it: `yes` is a boolean to some readers of YAML and a text to others.
    pub(super) fn boolean(&mut self, node: &Node<'_>) -> Option<bool> {
        match &node.value {
            Value::Bool(boolean) => return Some(*boolean),
            Value::Text(text) => {
                let found = Found::new(
                    node.span.clone(),
                    format!("expected true or false, found the text {}", quoted(text)),
                );
                self.tell(match text.to_lowercase().as_str() {
                    "yes" | "on" | "y" => found.help("write `true`"),
                    "no" | "off" | "n" => found.help("write `false`"),
                    "true" => found.help("write `true`, without quotes"),
                    "false" => found.help("write `false`, without quotes"),
                    _ => found,
                });
            }
            _ => self.wrong_type(node, "true or false"),
        }
        None
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number<T>(&mut self, node: &Node<'_>, least: T, most: T) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let number = match &node.value {
            Value::Number(number) => number,
            Value::Text(text) if text.parse::<i64>().is_ok() => {
                let message = format!("expected a number, found the text {}", quoted(text));
                self.tell(
                    Found::new(node.span.clone(), message).help(format!("write {text} without quotes")),
                );
                return None;
            }
            _ => {
                self.wrong_type(node, "a whole number");
                return None;
            }
        };
        // A leading zero is octal to some readers and decimal to others.
        let plain = number == "0" || !number.starts_with(['0', '+']);
        if plain
            && let Ok(value) = number.parse::<T>()
            && value >= least
            && value <= most
        {
            return Some(value);
        }
        self.tell(Found::new(
            node.span.clone(),
            format!("{} is not a whole number from {least} to {most}", quoted(number)),
        ));
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let found = Found::new(node.span.clone(), format!("unknown {what} {}", quoted(text)));
        self.tell(found.help(match nearest(text, words()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("it is one of {}", listed(words())),
        }));
        None
    }

    /// The items of a list.
    pub(super) fn items<'n, 't>(&mut self, key: &str, node: &'n Node<'t>) -> &'n [Node<'t>] {
        match &node.value {
            Value::Sequence(items) => return items,
            Value::Text(text) | Value::Number(text) => {
                let found =
                    Found::new(node.span.clone(), format!("{} must be a list, found one value", quoted(key)));
                // Whoever meant several wrote them apart by commas or blanks.
                let items = text.split([',', ' ']).filter(|item| !item.is_empty());
                let items: Vec<String> = match self.format {
                    Format::Yaml => items.map(str::to_owned).collect(),
                    Format::Toml => items.map(|item| format!("{item:?}")).collect(),
                };
                let equals = if self.format == Format::Yaml { ":" } else { " =" };
                self.tell(match text.len() > 80 || text.contains(char::is_control) {
                    false => found.help(format!("write `{key}{equals} [{}]`", items.join(", "))),
                    true if text.contains("PRIVATE KEY") => found.secret(),
                    true => found,
                });
            }
            _ => self.wrong_type(node, "a list"),
        }
        &[]
    }

    /// A list of names, each at most once.
    pub(super) fn names<T: FromStr<Err = NameError> + Ord + Clone>(
        &mut self,
        key: &str,
        node: &Node<'_>,
    ) -> Vec<T> {
        self.names_with(key, node, |_, _, _| {})
    }

    /// The same, with a further look at each name.
    pub(super) fn names_with<T: FromStr<Err = NameError> + Ord + Clone>(
        &mut self,
        key: &str,
        node: &Node<'_>,
        mut look: impl FnMut(&mut Self, &T, &Span),
    ) -> Vec<T> {
        let mut first = BTreeMap::<T, &Span>::new();
        let mut names = Vec::new();
        for item in self.items(key, node) {
            let Some(name) = self.name::<T>(item) else { continue };
            if let Some(span) = first.get(&name) {
                let text = self.text(item).map(quoted).unwrap_or_default();
                let found = Found::new(item.span.clone(), format!("{text} is listed twice in `{key}`"));
                self.tell(found.also(span, "first listed here").help("remove one of them"));
                continue;
            }
            look(self, &name, &item.span);
            first.insert(name.clone(), &item.span);
            names.push(name);
        }
        names
    }

    fn wrong_type(&mut self, node: &Node<'_>, expected: &str) {
        let actual = match &node.value {
            Value::Refused => return,
            Value::Null => "nothing".to_owned(),
            Value::Bool(boolean) => format!("the boolean `{boolean}`"),
            Value::Number(number) => format!("the number {}", quoted(number)),
            Value::Text(text) => format!("the text {}", quoted(text)),
            Value::Other(what) => (*what).to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => self.format.mapping().to_owned(),
        };
        self.tell(Found::new(node.span.clone(), format!("expected {expected}, found {actual}")));
    }
}

/// A key and its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'n> {
    pub(super) key: &'n str,
    pub(super) key_span: &'n Span,
    pub(super) node: &'n Node<'n>,
}

/// The fields of one mapping. What [`Fields::take`] was asked for is what is known, so that there is no second
/// list of fields to keep in step.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    what: String,
    place: Span,
    entries: Vec<Field<'n>>,
    known: Vec<&'static str>,
    missing: Vec<(&'static str, String)>,
}

impl<'n> Fields<'n> {
    /// The field, if it is there and has a value: `repos:` with nothing behind it is the same as no `repos`.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'n>> {
        self.known.push(key);
        let field = self.entries.iter().find(|field| field.key == key)?;
        (!matches!(field.node.value, Value::Null)).then_some(*field)
    }

    /// Whether the key is written, with or without a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|field| field.key == key)
    }

    /// The field; that it is missing is told by [`Fields::finish`], with `help`.
    pub(super) fn require(&mut self, key: &'static str, help: impl Into<String>) -> Option<Field<'n>> {
        let field = self.take(key);
        if field.is_none() {
            self.missing.push((key, help.into()));
        }
        field
    }

    /// Tells unknown and missing fields.
    pub(super) fn finish(mut self, reader: &mut Reader) {
        for field in &self.entries {
            if self.known.contains(&field.key) {
                continue;
            }
            let near = nearest(field.key, self.known.iter().copied().filter(|_| reader.patient()));
            // A misspelt field is one mistake, not two.
            self.missing.retain(|(missing, _)| near != Some(missing));
            let found = Found::new(
                field.key_span.clone(),
                format!("unknown field {} in {}", quoted(field.key), self.what),
            );
            reader.tell(found.help(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the fields are {}", listed(self.known.iter().copied())),
            }));
        }
        for (key, help) in self.missing {
            let empty = self.entries.iter().find(|field| field.key == key);
            let (span, problem) = match empty {
                Some(field) => (field.key_span, "an empty"),
                None => (&self.place, "no"),
            };
            reader.tell(Found::new(span.clone(), format!("{} has {problem} `{key}`", self.what)).help(help));
        }
    }
}

/// The known word that `text` was probably meant to be: one a slip away, or the shortest that begins as it does.
pub fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if text.len() > 40 {
        return None;
    }
    let normal = text.to_lowercase().replace(['-', ' '], "_");
    let words: Vec<&str> = words.collect();
    let slip = words
        .iter()
        .map(|word| (strsim::osa_distance(&normal, &word.replace('-', "_")), *word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word);
    // `mem` for `memory`, `copie` for `copy`; a long word that goes on differently is another one.
    let first = if normal.len() > 5 { Some(normal.as_str()) } else { normal.get(..3) };
    let beginning = |first: &str| {
        words.iter().filter(|word| word.starts_with(first)).min_by_key(|word| word.len()).copied()
    };
    slip.or_else(|| first.and_then(beginning))
}

fn listed<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
