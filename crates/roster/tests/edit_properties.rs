//! Edits of the roster's text: what the changed text says is the changed roster, and every line that is not about the
//! change is what it was, byte for byte, in whatever style the roster is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod generated;

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use roster::edit::{self, Assignment, Edit, EditError};
use roster::model::{CodeLayout, Person, Roster, Tier};
use roster::name::{Email, HostGlob, OsUser, Quantity, RepoName, SshKey};
use serde_json::Value;

/// Who a line is about: people, each with a field or as a whole.
type About = Vec<(String, Option<String>)>;

/// A line as it is written, and what may touch it.
#[derive(Debug, Clone)]
struct Line {
    text: String,
    about: About,
    /// In braces over several lines: whoever comes behind it gives it a comma.
    in_braces: bool,
}

/// Writes a roster in styles that the dice choose.
struct Writer {
    dice: Vec<u8>,
    at: usize,
    lines: Vec<Line>,
}

impl Writer {
    fn roll(&mut self, sides: u8) -> u8 {
        self.at += 1;
        self.dice[self.at % self.dice.len()].wrapping_add(self.at as u8) % sides
    }

    fn line(&mut self, text: String, about: &[(&str, Option<&str>)], in_braces: bool) {
        let about =
            about.iter().map(|(user, field)| ((*user).to_owned(), field.map(str::to_owned))).collect();
        self.lines.push(Line { text, about, in_braces });
    }

    fn scalar(&mut self, value: &Value) -> String {
        let Value::String(text) = value else { return value.to_string() };
        let simple = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._@-".contains(c))
            && !["true", "false", "null", "y", "n", "no", "on", "yes", "off"].contains(&text.as_str());
        match self.roll(4) {
            0 => format!("'{}'", text.replace('\'', "''")),
            1 => serde_json::to_string(text).unwrap(),
            _ if simple => text.clone(),
            _ => serde_json::to_string(text).unwrap(),
        }
    }

    fn flow(&mut self, value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| self.scalar(item)).collect();
                let end = if !items.is_empty() && self.roll(5) == 0 { "," } else { "" };
                format!("[{}{end}]", items.join(", "))
            }
            Value::Object(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(key, value)| format!("{key}: {}", self.flow(value))).collect();
                let end = if !fields.is_empty() && self.roll(5) == 0 { ", " } else { "" };
                format!("{{{}{end}}}", fields.join(", "))
            }
            scalar => self.scalar(scalar),
        }
    }

    fn comment(&mut self) -> &'static str {
        match self.roll(4) {
            0 => "  # until May: {not, yaml",
            1 => " # é",
            _ => "",
        }
    }

    /// Lines that are nobody's.
    fn chatter(&mut self, indent: usize) {
        match self.roll(6) {
            0 => self.line(format!("{:indent$}# somebody: {{a: b}}", ""), &[], false),
            1 => self.line(String::new(), &[], false),
            2 => self.line("# at the margin".into(), &[], false),
            _ => {}
        }
    }

    fn key(&mut self, user: &str) -> String {
        let word = ["true", "false", "null", "y", "n", "no", "on", "yes", "off"].contains(&user);
        if word || self.roll(4) == 0 { format!("\"{user}\"") } else { user.to_owned() }
    }

    fn person(&mut self, user: &str, person: &Value, indent: usize) {
        let key = self.key(user);
        let fields = person.as_object().unwrap().clone();
        match self.roll(4) {
            0 => {
                let text = format!("{:indent$}{key}: {}{}", "", self.flow(person), self.comment());
                self.line(text, &[(user, None)], false);
            }
            1 => {
                self.line(format!("{:indent$}{key}: {{", ""), &[(user, None)], false);
                let comma_at_the_end = self.roll(2) == 0;
                for (number, (field, value)) in fields.iter().enumerate() {
                    let comma = if comma_at_the_end || number + 1 < fields.len() { "," } else { "" };
                    let value = self.flow(value);
                    let text = format!("{:1$}{field}: {value}{comma}{2}", "", indent + 3, self.comment());
                    self.line(text, &[(user, Some(field))], true);
                }
                self.line(format!("{:1$}}}", "", indent + 1), &[(user, None)], false);
            }
            _ => {
                let text = format!("{:indent$}{key}:{}", "", self.comment());
                self.line(text, &[(user, None)], false);
                let inner = indent + 1 + usize::from(self.roll(4));
                for (field, value) in &fields {
                    self.field(user, field, value, inner);
                }
            }
        }
    }

    fn field(&mut self, user: &str, field: &str, value: &Value, indent: usize) {
        let about = [(user, Some(field))];
        match value {
            Value::Array(items) if !items.is_empty() && self.roll(2) == 0 => {
                let text = format!("{:indent$}{field}:{}", "", self.comment());
                self.line(text, &about, false);
                let step = usize::from(self.roll(2)) * 2;
                for item in items {
                    let text = format!("{:1$}- {2}{3}", "", indent + step, self.scalar(item), self.comment());
                    self.line(text, &about, false);
                }
            }
            Value::Object(fields) if !fields.is_empty() && self.roll(2) == 0 => {
                self.line(format!("{:indent$}{field}:", ""), &about, false);
                for (inner, value) in fields {
                    let text =
                        format!("{:1$}{inner}: {2}{3}", "", indent + 2, self.scalar(value), self.comment());
                    self.line(text, &about, false);
                }
            }
            Value::String(text) if field == "email" && self.roll(3) == 0 => {
                self.line(format!("{:indent$}{field}: >-", ""), &about, false);
                self.line(format!("{:1$}{text}", "", indent + 2), &about, false);
            }
            value => {
                let text = format!("{:indent$}{field}: {}{}", "", self.flow(value), self.comment());
                self.line(text, &about, false);
            }
        }
        if self.roll(8) == 0 {
            self.line(format!("{:indent$}# between fields", ""), &[(user, None)], false);
        }
    }
}

#[derive(Debug, Clone)]
struct Written {
    lines: Vec<Line>,
    bytes: Vec<u8>,
    /// Everybody in one pair of braces.
    in_braces: bool,
}

fn write(roster: &Roster, dice: Vec<u8>) -> Written {
    let mut writer = Writer { dice, at: 0, lines: Vec::new() };
    let people: Vec<(String, Value)> = roster
        .users
        .iter()
        .map(|(user, person)| (user.to_string(), serde_json::to_value(person).unwrap()))
        .collect();
    if writer.roll(2) == 0 {
        writer.line("# yaml-language-server: $schema=roster.schema.json".into(), &[], false);
    }
    if writer.roll(6) == 0 {
        writer.line("---".into(), &[], false);
    }
    let in_braces = writer.roll(8) == 0;
    if in_braces {
        let all: Vec<_> = people
            .iter()
            .map(|(user, person)| format!("{}: {}", writer.key(user), writer.flow(person)))
            .collect();
        let mut about: Vec<_> = people.iter().map(|(user, _)| (user.as_str(), None)).collect();
        about.push(("whoever joins", None));
        writer.line(format!("users: {{{}}}", all.join(", ")), &about, true);
    } else {
        let text = format!("users:{}", writer.comment());
        writer.line(text, &[], false);
        let indent = 1 + usize::from(writer.roll(4));
        for (user, person) in &people {
            writer.chatter(indent);
            writer.person(user, person, indent);
        }
    }
    writer.chatter(0);
    let eol = if writer.roll(4) == 0 { "\r\n" } else { "\n" };
    let mut text: String = if writer.roll(4) == 0 { "\u{feff}".into() } else { String::new() };
    text.push_str(&writer.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(eol));
    if writer.roll(3) > 0 {
        text.push_str(eol);
    } else if writer.lines.last().is_some_and(|line| line.text.is_empty()) {
        // Nothing behind the last line break is no line.
        writer.lines.pop();
    }
    Written { lines: writer.lines, bytes: text.into_bytes(), in_braces }
}

/// What is done to somebody, in the words of an admin, and what it means.
#[derive(Debug, Clone)]
enum Deed {
    Tier(Tier),
    Email(Option<Email>),
    Layout(Vec<RepoName>),
    Park(bool),
    Cpu(Option<Quantity>),
    Hosts(Vec<HostGlob>),
    AddHost(HostGlob),
    AddKey(SshKey),
    Uid,
    Remove,
    CommentOut,
    Join,
}

fn deed() -> impl Strategy<Value = Deed> {
    let repos = vec("[a-z][a-z0-9._-]{0,6}".prop_map(|name| RepoName::new(name).unwrap()), 0..3);
    let host = || "[a-z*][a-z0-9*?.]{0,5}[a-z*]".prop_map(|glob| HostGlob::new(glob).unwrap());
    prop_oneof![
        prop::sample::select(Tier::ALL.to_vec()).prop_map(Deed::Tier),
        prop::option::of("[a-z0-9.+]{1,8}@new\\.org".prop_map(|text| Email::new(text).unwrap()))
            .prop_map(Deed::Email),
        repos.prop_map(|repos| {
            let mut seen = BTreeSet::new();
            Deed::Layout(
                repos
                    .into_iter()
                    .filter(|repo| repo.as_str() != "infra" && seen.insert(repo.clone()))
                    .collect(),
            )
        }),
        any::<bool>().prop_map(Deed::Park),
        prop::option::of("[1-9][0-9]{0,2}m?".prop_map(|text| Quantity::new(text).unwrap()))
            .prop_map(Deed::Cpu),
        vec(host(), 0..3).prop_map(|hosts| {
            let mut seen = BTreeSet::new();
            Deed::Hosts(hosts.into_iter().filter(|host| seen.insert(host.clone())).collect())
        }),
        host().prop_map(Deed::AddHost),
        "ssh-rsa AAAA[A-Za-z0-9+/]{64} [a-z: #@-]{0,6}[a-z]"
            .prop_map(|key| Deed::AddKey(SshKey::new(key).unwrap())),
        Just(Deed::Uid),
        Just(Deed::Remove),
        Just(Deed::CommentOut),
        Just(Deed::Join),
    ]
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Deed {
    /// The edit, the fields that it is about, and the roster after it.
    fn on(&self, roster: &mut Roster, user: &OsUser, number: usize) -> Option<(Edit, Vec<&'static str>)> {
        if let Deed::Join = self {
            let user = OsUser::new(format!("new_{number}")).unwrap();
            let text = format!(
                r#"{{"authentik_user": "new.{number}", "k8s_user": "yes", "tier": "admin", "quota": {{"cpu": "{number}"}}}}"#
            );
            let mut person: Person = serde_json::from_str(&text).unwrap();
            person.k8s_user = roster::name::KubeUser::new(format!("{number}e5")).unwrap();
            let fields = [
                format!("authentik_user=new.{number}"),
                format!("k8s_user={number}e5"),
                "tier=admin".into(),
                format!("quota.cpu={number}"),
            ];
            let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
            roster.users.insert(user.clone(), person);
            return Some((Edit::Add { user, fields, note: None }, vec![]));
        }
        let person = roster.users.get_mut(user)?;
        let (texts, about): (Vec<String>, Vec<&'static str>) = match self {
            Deed::Tier(tier) => {
                person.tier = *tier;
                let owner = *tier == Tier::NamespaceOwner;
                person.namespaces.clear();
                if owner {
                    person.namespaces = vec!["new-one".parse().unwrap(), "new-two".parse().unwrap()];
                }
                let spaces = join(&person.namespaces);
                (vec![format!("tier={tier}"), format!("namespaces={spaces}")], vec!["tier", "namespaces"])
            }
            Deed::Email(email) => {
                let email = email.clone().map(|email| Email::new(format!("{number}{email}")).unwrap());
                person.email = email.clone();
                (
                    vec![format!("email={}", email.map_or_else(String::new, |email| email.to_string()))],
                    vec!["email"],
                )
            }
            Deed::Layout(repos) => {
                person.code_layout = CodeLayout::Workspace;
                person.repos = repos.clone();
                let texts = vec!["code_layout=workspace".into(), format!("repos={}", join(repos))];
                (texts, vec!["code_layout", "repos"])
            }
            Deed::Park(parked) => {
                person.parked = *parked;
                (vec![format!("parked={parked}")], vec!["parked"])
            }
            Deed::Cpu(cpu) => {
                match cpu {
                    Some(cpu) => person.quota.get_or_insert_default().cpu = Some(cpu.clone()),
                    None => {
                        if let Some(quota) = &mut person.quota
                            && quota.cpu.take().is_some()
                            && *quota == Default::default()
                        {
                            person.quota = None;
                        }
                    }
                }
                let text = cpu.as_ref().map_or_else(String::new, ToString::to_string);
                (vec![format!("quota.cpu={text}")], vec!["quota"])
            }
            Deed::Hosts(hosts) => {
                person.hosts = hosts.clone();
                (vec![format!("hosts={}", join(hosts))], vec!["hosts"])
            }
            Deed::AddHost(host) => {
                if !person.hosts.contains(host) {
                    person.hosts.push(host.clone());
                }
                (vec![format!("hosts+={host}")], vec!["hosts"])
            }
            Deed::AddKey(key) => {
                if !person.ssh_keys.contains(key) {
                    person.ssh_keys.push(key.clone());
                }
                (vec![format!("ssh_keys+={key}")], vec!["ssh_keys"])
            }
            Deed::Uid => {
                person.uid = None;
                (vec!["uid=".into()], vec!["uid"])
            }
            Deed::Remove => {
                roster.users.remove(user);
                return Some((Edit::Remove { user: user.clone() }, vec!["*"]));
            }
            Deed::CommentOut => {
                roster.users.remove(user);
                let note = "2026-11-25: left".into();
                return Some((Edit::CommentOut { user: user.clone(), note }, vec!["*"]));
            }
            Deed::Join => return None,
        };
        let fields = texts.iter().map(|text| text.parse::<Assignment>().unwrap()).collect();
        Some((Edit::Set { user: user.clone(), fields }, about))
    }
}

fn without_comma(line: &str) -> String {
    line.replacen(", #", " #", 1).trim_end_matches(',').replace(",  #", "  #")
}

/// The lines of `old` that may not change are in `new`, in their order.
fn untouched(written: &Written, new: &str, touched: &BTreeSet<(String, &'static str)>) -> Result<(), String> {
    let mut new_lines = new.trim_start_matches('\u{feff}').lines();
    for line in &written.lines {
        let is_touched = line.about.iter().any(|(user, field)| {
            touched.iter().any(|(of, what)| {
                of == user && (*what == "*" || field.as_deref().is_none_or(|field| field == *what))
            })
        });
        // A person's key, brace or comment is touched only when the person goes, or is one line.
        let head_only = line.about.iter().all(|(user, field)| {
            field.is_none() && !touched.iter().any(|(of, what)| of == user && *what == "*")
        });
        let one_line = line.text.contains(": {") && line.text.contains('}');
        if is_touched && (one_line || !head_only) {
            continue;
        }
        let same = |new: &str| {
            new == line.text || (line.in_braces && without_comma(new) == without_comma(&line.text))
        };
        if !new_lines.any(same) {
            return Err(format!("this line is gone or moved: {:?}", line.text));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_text_says_the_edited_roster_and_keeps_every_other_line(
        roster in generated::roster(),
        dice in vec(any::<u8>(), 40..80),
        deeds in vec((any::<Index>(), deed()), 1..4),
    ) {
        let written = write(&roster, dice);
        let text = String::from_utf8(written.bytes.clone()).unwrap();
        let read = roster::parse::roster("roster.yaml", &written.bytes);
        prop_assert_eq!(read.as_ref().ok(), Some(&roster), "{}\n{:?}", text, read);

        let users: Vec<OsUser> = roster.users.keys().cloned().collect();
        let (mut expected, mut edits, mut touched) = (roster.clone(), Vec::new(), BTreeSet::new());
        for (number, (index, deed)) in deeds.iter().enumerate() {
            let nobody = OsUser::new("nobody_at_all").unwrap();
            let user = if users.is_empty() { &nobody } else { index.get(&users) };
            if let Some((edit, about)) = deed.on(&mut expected, user, number + 1) {
                touched.extend(about.into_iter().map(|field| (edit.user().to_string(), field)));
                // A newcomer stands behind the last one, and shares braces with everybody.
                if written.in_braces && matches!(edit, Edit::Add { .. }) {
                    touched.insert(("whoever joins".into(), "*"));
                }
                edits.push(edit);
            }
        }
        match edit::apply("roster.yaml", &written.bytes, &edits) {
            Ok(edited) => {
                prop_assert_eq!(&edited.before, &roster);
                prop_assert_eq!(&edited.after, &expected, "{}\n{}\n{:?}", text, edited.text, edits);
                let read = roster::parse::roster("roster.yaml", edited.text.as_bytes());
                prop_assert_eq!(read.ok(), Some(expected.clone()), "{}", edited.text);
                if let Err(why) = untouched(&written, &edited.text, &touched) {
                    prop_assert!(false, "{why}\n{text}\n---\n{}\n{edits:?}", edited.text);
                }
                prop_assert_eq!(edited.text.starts_with('\u{feff}'), text.starts_with('\u{feff}'));
                let empty_line = edited.text.lines().next_back() == Some("");
                let ends = edited.text.ends_with('\n');
                prop_assert!(ends == text.ends_with('\n') || (ends && empty_line), "{:?}\n{:?}", text, edited.text);
                let carriage_returns = text.contains("\r\n");
                if carriage_returns || text.contains('\n') {
                    let bare = edited.text.replace("\r\n", "").contains('\n');
                    prop_assert_eq!(bare, !carriage_returns && edited.text.contains('\n'), "{:?}", edited.text);
                }
                if deeds.len() == 1 && expected == roster && !edits.iter().any(|edit| matches!(edit, Edit::CommentOut { .. })) {
                    prop_assert_eq!(&edited.text, &text, "{:?}", edits);
                }
            }
            // Who shares a line cannot be commented out.
            Err(EditError::TooClever(_)) if written.in_braces => {
                let out = edits.iter().any(|edit| matches!(edit, Edit::CommentOut { .. }));
                prop_assert!(out, "{text}\n{edits:?}");
            }
            Err(error) => prop_assert!(false, "{error:?}\n{text}\n{edits:?}"),
        }
    }
}
