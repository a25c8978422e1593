//! TOML into the tree, by the parser of the `toml` crate, which keeps the place of every key and value.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::parse::node::{Entry, Node, Value};
use crate::parse::reader::{Found, Reader};

/// The file's table, `None` when it cannot be read at all.
pub(super) fn parse<'t>(text: &'t str, reader: &mut Reader) -> Option<Node<'t>> {
    if let Some(found) = too_deep(text) {
        reader.tell(found);
        return None;
    }
    match DeTable::parse(text) {
        Ok(table) => Some(Node { span: 0..0, end: 0, value: mapping(table.into_inner()) }),
        Err(error) => {
            let span = error.span().unwrap_or(text.len()..text.len());
            reader.tell(Found::new(span, format!("not valid TOML: {}", error.message())));
            None
        }
    }
}

/// `a.a.a.…` makes a table for each dot. The parser bounds the depth of brackets but not of these, and the tables are
/// dropped by recursion: a line of 100 kB would end the process by exhausting its stack. Counted without regard to
/// strings, and far above what a configuration needs.
fn too_deep(text: &str) -> Option<Found> {
    const MOST_DOTS: usize = 16;
    const MOST_TABLES: usize = 32;
    let mut begin = 0;
    let mut tables = 0;
    for line in text.split('\n') {
        if !line.trim_start().starts_with('#') {
            let count = |what: &str| line.matches(what).count();
            tables += count("{") - count("{user}") - count("{name}");
            if count(".") > MOST_DOTS {
                return Some(Found::new(
                    begin..begin + line.len(),
                    format!("a line with more than {MOST_DOTS} dots"),
                ));
            }
            if tables > MOST_TABLES {
                let message = format!("the file has more than {MOST_TABLES} tables in braces");
                return Some(Found::new(begin..begin + line.len(), message));
            }
        }
        begin += line.len() + 1;
    }
    None
}

fn mapping(table: DeTable<'_>) -> Value<'_> {
    Value::Mapping(
        table
            .into_iter()
            .map(|(key, value)| Entry { key_span: key.span(), key: key.into_inner(), value: node(value) })
            .collect(),
    )
}

fn node(value: Spanned<DeValue<'_>>) -> Node<'_> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Boolean(boolean) => Value::Bool(boolean),
        DeValue::String(text) => Value::Text(text),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.to_string().into()),
            Err(_) => Value::Number(number.to_string().into()),
        },
        DeValue::Float(number) => Value::Number(number.to_string().into()),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Sequence(items.into_iter().map(node).collect()),
        DeValue::Table(table) => mapping(table),
    };
    Node { end: span.end, span, value }
}
