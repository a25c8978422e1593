//! Adds single keys to a JSON text of somebody else's. The text is edited, not written anew: order, spacing and
//! everything else in it stay byte for byte. What does not parse is never touched.

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::value::RawValue;

/// What is at a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Something, whatever it is.
    Something,
    /// Nothing, and it can be added.
    Nothing,
    /// Nothing, and something that is no object is above it.
    Blocked,
}

/// What is at each of the pointers.
pub fn look(text: &str, pointers: &[&str]) -> Result<Vec<At>, String> {
    let members = parse(text)?;
    pointers
        .iter()
        .map(|pointer| {
            Ok(match walk(text.trim(), &members, &segments(pointer))? {
                Walk::Found => At::Something,
                Walk::Ends { .. } => At::Nothing,
                Walk::Blocked => At::Blocked,
            })
        })
        .collect()
}

/// The text with each value at its pointer, where there is nothing. A text of nothing but white space is an empty
/// object only when `is_new`: what somebody else left empty does not parse.
pub fn add(text: &str, keys: &[(String, Value)], is_new: bool) -> Result<String, String> {
    let mut new = if is_new && text.is_empty() { "{\n}\n".to_owned() } else { text.to_owned() };
    let mut wanted: Value = value(&new)?;
    for (pointer, value) in keys {
        let segments = segments(pointer);
        if let Some(changed) = insert(&new, &segments, value)? {
            set(&mut wanted, &segments, value);
            new = changed;
        }
    }
    // Read back by somebody else's parser: what came out is what went in, and the keys.
    match value(&new)? == wanted {
        true => Ok(new),
        false => Err("it cannot be changed without changing more of it".into()),
    }
}

fn value(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text).map_err(words)? {
        object @ Value::Object(_) => Ok(object),
        _ => Err("it is no JSON object".into()),
    }
}

fn parse(text: &str) -> Result<Members<'_>, String> {
    serde_json::from_str(text).map_err(|error| match error.is_data() {
        true => "it is no JSON object".into(),
        false => words(error),
    })
}

/// A message of the parser may quote what it met, and that may be a secret.
fn words(error: serde_json::Error) -> String {
    format!("it is no valid JSON (line {}, column {})", error.line(), error.column())
}

/// The parts of a JSON pointer (RFC 6901).
fn segments(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

/// The members of an object in their order, each with its place in the text.
#[derive(Clone)]
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Members<'t> {
    /// Of a key that is there twice, readers take the last.
    fn get(&self, key: &str) -> Option<&'t str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }
}

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'t> Visitor<'t> for InOrder {
            type Value = Members<'t>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if members.len() >= 1_000_000 {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push((key, map.next_value::<&RawValue>()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

enum Walk<'t> {
    Found,
    /// The innermost object on the way, its members, and how many parts of the pointer lead to it.
    Ends {
        object: &'t str,
        members: Members<'t>,
        depth: usize,
    },
    Blocked,
}

fn walk<'t>(root: &'t str, members: &Members<'t>, segments: &[String]) -> Result<Walk<'t>, String> {
    let (mut object, mut inner) = (root, None);
    for (depth, segment) in segments.iter().enumerate() {
        let members = inner.as_ref().unwrap_or(members);
        let Some(value) = members.get(segment) else {
            return Ok(Walk::Ends { object, members: members.clone(), depth });
        };
        if depth + 1 == segments.len() {
            return Ok(Walk::Found);
        }
        if !value.starts_with('{') {
            return Ok(Walk::Blocked);
        }
        object = value;
        inner = Some(serde_json::from_str(value).map_err(words)?);
    }
    Ok(Walk::Found)
}

/// Where a part of the text is in it.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

/// The text with the value, or nothing when there is something already or no place for it.
fn insert(text: &str, segments: &[String], value: &Value) -> Result<Option<String>, String> {
    let root = parse(text)?;
    let Walk::Ends { object, members, depth } = walk(text.trim(), &root, segments)? else { return Ok(None) };
    let Some((key, below)) = segments.get(depth..).and_then(<[String]>::split_first) else { return Ok(None) };
    let nest =
        |value: Value, segment: &String| Value::Object([(segment.clone(), value)].into_iter().collect());
    let value = below.iter().rev().fold(value.clone(), nest);
    let style = Style::of(text);
    let start = offset(text, object);
    let inner = object.get(1..).unwrap_or_default();
    let lead = &inner[..inner.len() - inner.trim_start().len()];
    let at_line = |lead: &str| lead.rsplit_once('\n').map(|(_, indent)| indent.to_owned());
    if let (Some((_, first)), Some((_, last))) = (members.0.first(), members.0.last()) {
        let end = offset(text, last.get()) + last.get().len();
        // As the first member is written: its space behind the colon, and what is before it on its line.
        let colon = &text[start..offset(text, first.get())];
        let space = &colon[colon.trim_end().len()..];
        let space = if space.contains('\n') { " " } else { space };
        let added = match at_line(lead) {
            Some(indent) => {
                format!(",{}{indent}{}:{space}{}", style.newline, quoted(key), style.pretty(&value, &indent)?)
            }
            None => {
                let between = match members.0.as_slice() {
                    [(_, one), (_, two), ..] => {
                        let gap = &text[offset(text, one.get()) + one.get().len()..offset(text, two.get())];
                        if gap.contains(", ") { " " } else { "" }
                    }
                    _ => space,
                };
                format!(",{between}{}:{space}{value}", quoted(key))
            }
        };
        return Ok(Some(format!("{}{added}{}", &text[..end], &text[end..])));
    }
    let end = start + object.len();
    let filled = if style.is_multiline {
        // On the line of the brace, whatever else is on it.
        let line = text[..start].rsplit('\n').next().unwrap_or_default();
        let outer = &line[..line.len() - line.trim_start().len()];
        let indent = format!("{outer}{}", style.unit);
        let pretty = style.pretty(&value, &indent)?;
        format!("{{{}{indent}{}: {pretty}{}{outer}}}", style.newline, quoted(key), style.newline)
    } else {
        format!("{{{}: {value}}}", quoted(key))
    };
    Ok(Some(format!("{}{filled}{}", &text[..start], &text[end..])))
}

fn quoted(key: &str) -> String {
    Value::from(key).to_string()
}

/// How the text is written.
struct Style {
    is_multiline: bool,
    unit: String,
    newline: &'static str,
}

impl Style {
    fn of(text: &str) -> Style {
        let root = text.trim();
        let inner = root.get(1..).unwrap_or_default();
        let lead = &inner[..inner.len() - inner.trim_start().len()];
        let unit = lead.rsplit_once('\n').map_or("", |(_, indent)| indent);
        Style {
            is_multiline: root.contains('\n'),
            unit: if unit.is_empty() { "  ".into() } else { unit.into() },
            newline: if text.contains("\r\n") { "\r\n" } else { "\n" },
        }
    }

    /// The value, with its further lines behind `indent`.
    fn pretty(&self, value: &Value, indent: &str) -> Result<String, String> {
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(self.unit.as_bytes());
        let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
        serde::Serialize::serialize(value, &mut serializer).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        // Within a text a line break is escaped, so each one that is there is the formatter's.
        Ok(text.replace('\n', &format!("{}{indent}", self.newline)))
    }
}

fn set(value: &mut Value, segments: &[String], new: &Value) {
    let Some((first, rest)) = segments.split_first() else {
        *value = new.clone();
        return;
    };
    if let Value::Object(object) = value {
        let below = object.entry(first.clone()).or_insert_with(|| match rest.is_empty() {
            true => Value::Null,
            false => Value::Object(serde_json::Map::new()),
        });
        set(below, rest, new);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn keys() -> Vec<(String, Value)> {
        vec![
            ("/mcpServers/playwright".into(), json!({"type": "http", "url": "http://localhost:8931/mcp"})),
            ("/done".into(), json!(true)),
        ]
    }

    #[test]
    fn keys_are_added_in_the_manner_of_the_text() {
        let texts = [
            ("", true),
            ("{}", false),
            ("{\n}", false),
            ("{\"a\":1,\"b\":[1, 2]}", false),
            ("{\"a\": 1}\n", false),
            ("{\n    \"mcpServers\": {},\n    \"z\": \"ü\\u00fc\"\n}\n", false),
            ("{\r\n\t\"mcpServers\": {\r\n\t\t\"own\": {\"type\":  \"stdio\"}\r\n\t}\r\n}", false),
        ];
        let all: Vec<String> = texts
            .iter()
            .map(|(text, is_new)| format!("{:?}\n{}\n", text, add(text, &keys(), *is_new).unwrap()))
            .collect();
        insta::assert_snapshot!(all.join("\n").replace('\r', "␍").replace('\t', "⇥"), @r#"
        ""
        {
          "mcpServers": {
            "playwright": {
              "type": "http",
              "url": "http://localhost:8931/mcp"
            }
          },
          "done": true
        }


        "{}"
        {"mcpServers": {"playwright":{"type":"http","url":"http://localhost:8931/mcp"}}, "done": true}

        "{\n}"
        {
          "mcpServers": {
            "playwright": {
              "type": "http",
              "url": "http://localhost:8931/mcp"
            }
          },
          "done": true
        }

        "{\"a\":1,\"b\":[1, 2]}"
        {"a":1,"b":[1, 2],"mcpServers":{"playwright":{"type":"http","url":"http://localhost:8931/mcp"}},"done":true}

        "{\"a\": 1}\n"
        {"a": 1, "mcpServers": {"playwright":{"type":"http","url":"http://localhost:8931/mcp"}}, "done": true}


        "{\n    \"mcpServers\": {},\n    \"z\": \"ü\\u00fc\"\n}\n"
        {
            "mcpServers": {
                "playwright": {
                    "type": "http",
                    "url": "http://localhost:8931/mcp"
                }
            },
            "z": "ü\u00fc",
            "done": true
        }


        "{\r\n\t\"mcpServers\": {\r\n\t\t\"own\": {\"type\":  \"stdio\"}\r\n\t}\r\n}"
        {␍
        ⇥"mcpServers": {␍
        ⇥⇥"own": {"type":  "stdio"},␍
        ⇥⇥"playwright": {␍
        ⇥⇥⇥"type": "http",␍
        ⇥⇥⇥"url": "http://localhost:8931/mcp"␍
        ⇥⇥}␍
        ⇥},␍
        ⇥"done": true␍
        }
        "#);
    }

    #[test]
    fn what_is_there_is_never_overwritten_invariant_1() {
        for text in [
            r#"{"mcpServers": {"playwright": {"url": "theirs"}}, "done": false}"#,
            r#"{"mcpServers": {"playwright": null}, "done": null}"#,
            r#"{"mcpServers": [], "done": 1e400}"#.replace("1e400", "1e40").as_str(),
            r#"{"mcpServers": "off", "done": {}}"#,
        ] {
            assert_eq!(add(text, &keys(), false).unwrap(), text);
        }
        let pointers = ["/a/b", "/a", "/c/d", "/e~1f", "/x"];
        let seen = look(r#"{"a": {"b": 1}, "c": 2, "e/f": 0}"#, &pointers).unwrap();
        assert_eq!(seen, [At::Something, At::Something, At::Blocked, At::Something, At::Nothing]);
    }

    #[test]
    fn what_does_not_parse_is_never_touched() {
        for text in
            ["", " ", "{", "[]", "null", "{\"a\": 1,}", "// x\n{}", "{} {}", "\u{feff}{}", "{\"a\": 'x'}"]
        {
            assert!(add(text, &keys(), false).is_err(), "{text}");
            assert!(look(text, &["/a"]).is_err(), "{text}");
        }
        let why = look("{\"key\": s3cret}", &["/a"]).unwrap_err();
        assert_eq!(why, "it is no valid JSON (line 1, column 9)");
        // Deeper than anybody nests; a text that is looked at is never walked by recursion.
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(look(&deep, &["/b"]).unwrap(), [At::Nothing]);
        assert!(add(&deep, &keys(), false).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~é\n\"\\\\]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-d/~ ]{1,2}", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn written(value: &Value, style: u8) -> String {
        match style {
            0 => value.to_string(),
            1 => format!("{value:#}\n"),
            2 => format!("{value:#}").replace('\n', "\r\n"),
            _ => value.to_string().replace(',', " ,\n\n ").replace(':', " :\t"),
        }
    }

    proptest! {
        /// Whatever the text, what comes out is the text with something put in at one place for each key.
        #[test]
        fn every_other_byte_stays_and_twice_is_once_invariant_1(
            root in prop::collection::vec(("[a-d/~ ]{1,2}", any_json()), 0..6),
            pointer in prop::collection::vec("[a-d ]{1,2}", 1..4),
            new in any_json(),
            style in 0..4_u8,
        ) {
            let old = Value::Object(root.into_iter().collect());
            let text = written(&old, style);
            // The last style may have changed a text within; then it is another object, or none.
            let Ok(old) = value(&text) else { return Ok(()) };
            let keys = vec![(format!("/{}", pointer.join("/")), new.clone())];
            let at = look(&text, &[keys[0].0.as_str()]).unwrap()[0];
            let added = add(&text, &keys, false).unwrap();
            prop_assert_eq!(add(&added, &keys, false).unwrap(), added.clone());
            if at != At::Nothing {
                prop_assert_eq!(added, text);
                return Ok(());
            }
            let read = value(&added).unwrap();
            prop_assert_eq!(read.pointer(&keys[0].0), Some(&new));
            let mut expected = old;
            set(&mut expected, &pointer, &new);
            prop_assert_eq!(&read, &expected);
            // Keys keep their order.
            prop_assert_eq!(read.to_string(), expected.to_string());
            let same = text.bytes().zip(added.bytes()).take_while(|(a, b)| a == b).count();
            let rest = text.bytes().rev().zip(added.bytes().rev()).take_while(|(a, b)| a == b).count();
            let is_empty_object = same + rest < text.len();
            // Only the white space within an empty object may go.
            if is_empty_object {
                let gone = &text[same..text.len() - rest];
                prop_assert!(gone.trim().is_empty(), "{gone:?}");
            }
        }
    }
}
