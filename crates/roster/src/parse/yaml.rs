//! YAML into the tree.
//!
//! The parser is `granit-parser`, the one under serde-saphyr: serde-saphyr itself delivers values, not what was
//! written (no place of a key, of a second equal key, of the tag or alias that a value came from; `"4"` and `4`
//! only as types) and it ends at the first error.
//!
//! What YAML offers beyond mappings, lists and scalars is refused: aliases make a file of some lines grow to
//! gigabytes, and one person's line mean another's; tags and directives have no use in a roster. So the tree is never larger than the text.

use std::borrow::Cow;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, StrInput};

use crate::parse::node::{Entry, Node, Span, Value};
use crate::parse::reader::{Found, Reader};

/// A roster needs five levels. The tree is walked and dropped by recursion, so depth must be bounded.
const DEEPEST: usize = 16;

/// A person has some forty values.
const MOST_VALUES: usize = 200_000;

/// The one document's root, `None` when there is nothing or what is there cannot be read at all.
pub(super) fn parse<'t>(text: &'t str, reader: &mut Reader) -> Option<Node<'t>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.emit_anchor_events = true;
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = DEEPEST;
    options.block_nesting_limit = DEEPEST;
    let parser = Parser::new_from_str_with_options(text, options).keep_tags(true);
    let mut builder = Builder { text, parser, reader, values: 0 };
    match builder.stream() {
        Ok(root) => root,
        Err(Stop(found)) => {
            // What was told before it may be its consequence.
            builder.reader.found.clear();
            builder.reader.tell(*found);
            None
        }
    }
}

/// Nothing after this can be read.
struct Stop(Box<Found>);

impl From<Found> for Stop {
    fn from(found: Found) -> Self {
        Stop(Box::new(found))
    }
}

struct Builder<'t, 'r> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    reader: &'r mut Reader,
    values: usize,
}

impl<'t> Builder<'t, '_> {
    /// The next event that is not about presentation.
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        loop {
            let (event, span) = match self.parser.next_event() {
                None => return Ok((Event::StreamEnd, self.text.len()..self.text.len())),
                Some(Ok(event)) => event,
                Some(Err(error)) => return Err(self.syntax(&error).into()),
            };
            let tag = span.tag_span().and_then(|tag| tag.byte_range());
            let span = span.byte_range().unwrap_or_default();
            if let Some(tag) = tag {
                let found = Found::new(tag, "a roster has no use for YAML tags (`!…`)");
                self.once(found.help("remove it; write a text that begins with `!` in quotes"));
            }
            match event {
                Event::Anchor(..) => {
                    let found = Found::new(span, "anchors (`&…`) are not accepted");
                    self.once(found.help("write the values out for each person, and remove every anchor"));
                }
                event => return Ok((event, span)),
            }
        }
    }

    /// Tells only the first of its kind: where there is one there are many.
    fn once(&mut self, found: Found) {
        if !self.reader.found.iter().any(|other| other.message == found.message) {
            self.reader.tell(found);
        }
    }

    fn stream(&mut self) -> Result<Option<Node<'t>>, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    let found = Found::new(span, "a second YAML document begins here, a roster is one");
                    return Err(found.help("remove the `---`, and give `users:` only once").into());
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, span)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node<'t>, Stop> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(Found::new(span, format!("the roster has more than {MOST_VALUES} values")).into());
        }
        let mut end = span.end;
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(text),
            Event::Scalar(text, ..) => Value::Text(text),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let found = Found::new(span.clone(), "aliases (`*…`) are not accepted");
                self.once(found.help("write every value out; write a text that begins with `*` in quotes"));
                Value::Refused
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, close) => {
                            let last = items.last().map(|item: &Node<'_>| item.end);
                            end = end_of(&close, last, end);
                            break Value::Sequence(items);
                        }
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, close) => {
                            let last = entries.last().map(|entry: &Entry<'_>| entry.value.end);
                            end = end_of(&close, last, end);
                            break Value::Mapping(entries);
                        }
                        (event, span) => self.node(event, span)?,
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span)?;
                    if let Some(key_text) = self.key(&key) {
                        entries.push(Entry { key: key_text, key_span: key.span, value });
                    }
                }
            }
            // The parser keeps its events balanced; should it ever not, this is an error and no panic.
            _ => return Err(Found::new(span, "not valid YAML").into()),
        };
        Ok(Node { span, end, value })
    }

    fn key(&mut self, key: &Node<'t>) -> Option<Cow<'t, str>> {
        let found = match &key.value {
            Value::Text(text) if text == "<<" => {
                Found::new(key.span.clone(), "merge keys (`<<`) are not accepted")
                    .help("write the values out for each person")
            }
            Value::Text(text) | Value::Number(text) => return Some(text.clone()),
            Value::Refused => return None,
            Value::Bool(_) => Found::new(key.span.clone(), "a key must be text, this is a boolean")
                .help("write it in quotes"),
            Value::Null => Found::new(key.span.clone(), "a key is missing before the `:`"),
            _ => Found::new(key.span.clone(), "a key must be text"),
        };
        self.reader.tell(found);
        None
    }

    fn syntax(&self, error: &granit_parser::ScanError) -> Found {
        let at = error.marker().byte_offset().unwrap_or(self.text.len()).min(self.text.len());
        let (before, after) = self.text.split_at_checked(at).unwrap_or((self.text, ""));
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let previous = before[..begin].trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        let line_above = &before[previous..begin];

        // A text may go on in the next line, so the parser sees a tab's line as part of the one before, or stumbles
        // only in the one after.
        let mut line_at = previous;
        for line in self.text[previous..].split('\n').take(3) {
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = line[..indent].find('\t') {
                let tab = line_at + tab;
                return Found::new(tab..tab + 1, "YAML may not be indented with tabs")
                    .help("use spaces, two for each level");
            }
            if ["<<<<<<< ", "=======", ">>>>>>> "].iter().any(|mark| line.starts_with(mark)) {
                let found = Found::new(line_at..line_at + line.len(), "a merge conflict is left in the file");
                return found
                    .help("choose one side, and remove the lines with `<<<<<<<`, `=======` and `>>>>>>>`");
            }
            line_at += line.len() + 1;
        }

        let here = at..at + after.chars().next().map_or(0, char::len_utf8);
        let found = |message: &str| Found::new(here.clone(), message);
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => found("nested more deeply than a roster can be"),
            ErrorKind::DirectiveDisallowed => {
                found("YAML directives (`%…`) are not accepted").help("remove the line")
            }
            ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
                found("YAML may not be indented with tabs").help("use spaces, two for each level")
            }
            ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
                let found = found("not valid YAML: a `:` may not stand here");
                let above = line_above.trim_end();
                if above.contains(':') && !above.contains(": ") && !above.ends_with(':') {
                    found.help("the `:` in the line above needs a space behind it")
                } else {
                    found.help("check the indentation; write a text that holds `: ` in quotes")
                }
            }
            ErrorKind::InvalidIndentation
            | ErrorKind::ExpectedBlockMappingKey
            | ErrorKind::SimpleKeyExpected => {
                found("not valid YAML: this line does not fit the ones around it")
                    .help("fields of one person begin at the same column, each as `name: value`")
            }
            ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::ExpectedFlowSequenceSeparator
            | ErrorKind::UnexpectedEofFlowMapping
            | ErrorKind::UnexpectedEofFlowSequence
            | ErrorKind::UnclosedFlowCollection { .. } => {
                let found = found("not valid YAML: expected `,` or the closing bracket");
                let is_open = |open: char, close: char| {
                    line_above.matches(open).count() > line_above.matches(close).count()
                };
                found.help(match (is_open('{', '}'), is_open('[', ']')) {
                    (true, _) => "the `{` in the line above is not closed; end it with `}`",
                    (_, true) => "the `[` in the line above is not closed; end it with `]`",
                    _ => "a `{` or `[` before it is not closed",
                })
            }
            ErrorKind::UnclosedQuotedScalar => found("not valid YAML: this quote is not closed"),
            kind => found(&format!("not valid YAML: {kind}")),
        }
    }
}

/// Behind the bracket that closes a collection, or where its last part ends.
fn end_of(close: &Span, last: Option<usize>, begin: usize) -> usize {
    if close.is_empty() { last.unwrap_or(begin) } else { close.end }
}

/// See [`crate::parse::is_plain_text`].
pub(super) fn is_text(text: &str) -> bool {
    matches!(plain(text.into()), Value::Text(_))
}

/// What a scalar without quotes is, by the core schema of YAML 1.2: there `yes` and `on` are texts.
fn plain(text: Cow<'_, str>) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        number if is_number(number) => Value::Number(text),
        _ => Value::Text(text),
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str, of: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| of(&c));
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, |c| c.is_digit(8));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, char::is_ascii_hexdigit);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // What is left is what Rust takes for a float, less its words for infinity and not-a-number.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok()
}
