//! Reads one git configuration file, as `man git-config` says under *Syntax*, and changes keys in its text so that
//! every other byte stays. Starting libgit2 for the few values that an observation asks for would cost more than the
//! rest of the worker, and it would rewrite more of a file than the line in question.

use std::ops::Range;

/// What some editors put before the first byte, and git passes over.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A variable of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The section, in lower case.
    pub(crate) section: String,
    /// The subsection, as it is.
    pub(crate) subsection: String,
    /// The key, in lower case.
    pub(crate) key: String,
    /// The value; a key without `=` has the value "true".
    pub(crate) value: String,
    /// Where it stands, from the key's first byte to the value's last.
    place: Range<usize>,
}

impl Entry {
    /// Whether this is `section.subsection.key`.
    pub(crate) fn is(&self, key: &Key<'_>) -> bool {
        self.section.eq_ignore_ascii_case(key.section)
            && self.subsection == key.subsection
            && self.key.eq_ignore_ascii_case(key.key)
    }
}

/// A variable's name: `user.name`, `remote.forgejo.url`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    section: &'a str,
    subsection: &'a str,
    key: &'a str,
}

impl<'a> Key<'a> {
    /// The parts of a dotted name. The subsection is all between the first dot and the last.
    pub(crate) fn of(name: &'a str) -> Key<'a> {
        let (section, rest) = name.split_once('.').unwrap_or(("", name));
        let (subsection, key) = rest.rsplit_once('.').unwrap_or(("", rest));
        Key { section, subsection, key }
    }
}

/// Every variable in the order of the file. `Err` names a malformed line.
pub(crate) fn entries(text: &[u8]) -> Result<Vec<Entry>, usize> {
    let mut found = Vec::new();
    let (mut section, mut subsection) = (String::new(), String::new());
    let mut rest = Reader { text, at: if text.starts_with(MARK) { MARK.len() } else { 0 }, line: 1, end: 0 };
    while let Some(c) = rest.peek() {
        let (line, start) = (rest.line, rest.at);
        match c {
            c if is_space(c) => _ = rest.next(),
            b'#' | b';' => rest.skip_line(),
            b'[' => (section, subsection) = rest.section().map_err(|Malformed| line)?,
            c if c.is_ascii_alphabetic() && !section.is_empty() => {
                let (key, value) = rest.variable().map_err(|Malformed| line)?;
                let (section, subsection) = (section.clone(), subsection.clone());
                found.push(Entry { section, subsection, key, value, place: start..rest.end });
            }
            _ => return Err(line),
        }
    }
    Ok(found)
}

/// The last value of a key.
pub(crate) fn value<'e>(entries: &'e [Entry], name: &str) -> Option<&'e str> {
    let key = Key::of(name);
    entries.iter().rev().find(|entry| entry.is(&key)).map(|entry| entry.value.as_str())
}

/// The text with each key set to one value. Where a key has a value, the last one is replaced in its place and
/// the others go, since git refuses to change a key of many values; where it has none, it comes at the end.
pub(crate) fn set(text: &[u8], settings: &[(&str, &str)]) -> Result<Vec<u8>, usize> {
    let entries = entries(text)?;
    let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    let mut added: Vec<(Key<'_>, &str)> = Vec::new();
    for (name, value) in settings {
        let key = Key::of(name);
        let mut places: Vec<_> =
            entries.iter().filter(|entry| entry.is(&key)).map(|entry| entry.place.clone()).collect();
        match places.pop() {
            Some(_) if places.is_empty() && self::value(&entries, name) == Some(value) => {}
            Some(last) => {
                edits.push((last, format!("{} = {}", key.key, quoted(value)).into_bytes()));
                edits.extend(places.into_iter().map(|place| (place, Vec::new())));
            }
            None => added.push((key, value)),
        }
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut new = Vec::with_capacity(text.len() + 256);
    let mut at = 0;
    for (place, instead) in edits {
        new.extend_from_slice(&text[at..place.start]);
        new.extend_from_slice(&instead);
        at = place.end;
    }
    new.extend_from_slice(&text[at..]);
    if !added.is_empty() && !new.is_empty() && !new.ends_with(b"\n") {
        new.push(b'\n');
    }
    let mut section = None;
    for (key, value) in added {
        let head = header(&key);
        if section.as_ref() != Some(&head) {
            new.extend_from_slice(head.as_bytes());
            section = Some(head);
        }
        new.extend_from_slice(format!("\t{} = {}\n", key.key, quoted(value)).as_bytes());
    }
    Ok(new)
}

/// The text with an include before everything else, so that all of it counts more than what is included.
pub(crate) fn include_first(text: &[u8], path: &str) -> Vec<u8> {
    let (mark, rest) = text.split_at(if text.starts_with(MARK) { MARK.len() } else { 0 });
    [mark, format!("[include]\n\tpath = {}\n", quoted(path)).as_bytes(), rest].concat()
}

fn header(key: &Key<'_>) -> String {
    match key.subsection {
        "" => format!("[{}]\n", key.section),
        subsection => {
            let subsection = subsection.replace('\\', "\\\\").replace('"', "\\\"");
            format!("[{} \"{subsection}\"]\n", key.section)
        }
    }
}

/// A value as it is read back.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    let outer = value.starts_with(' ') || value.ends_with(' ');
    if outer || value.is_empty() || value.contains(['#', ';']) { format!("\"{escaped}\"") } else { escaped }
}

/// What stands here is no git configuration.
struct Malformed;

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
    /// Where the last variable ends.
    end: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let mut c = self.peek()?;
        self.at += 1;
        if c == b'\r' && self.peek() == Some(b'\n') {
            self.at += 1;
            c = b'\n';
        }
        self.line += usize::from(c == b'\n');
        Some(c)
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != b'\n') {}
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c == b' ' || c == b'\t') {
            self.next();
        }
    }

    fn word(&mut self, extra: &[u8]) -> String {
        let mut word = Vec::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || extra.contains(c)) {
            self.next();
            word.push(c);
        }
        text(word)
    }

    /// `[section "subsection"]`, or the older `[section.subsection]`.
    fn section(&mut self) -> Result<(String, String), Malformed> {
        self.next();
        let name = self.word(b"-.").to_ascii_lowercase();
        self.blanks();
        let (name, subsection) = match self.next() {
            Some(b']') => match name.split_once('.') {
                Some((name, sub)) => (name.to_owned(), sub.to_owned()),
                None => (name, String::new()),
            },
            Some(b'"') => {
                let mut sub = Vec::new();
                loop {
                    match self.next() {
                        Some(b'"') => break,
                        Some(b'\\') => match self.next() {
                            None | Some(b'\n') => return Err(Malformed),
                            Some(c) => sub.push(c),
                        },
                        None | Some(b'\n') => return Err(Malformed),
                        Some(c) => sub.push(c),
                    }
                }
                if self.next() != Some(b']') {
                    return Err(Malformed);
                }
                (name, text(sub))
            }
            _ => return Err(Malformed),
        };
        if name.is_empty() { Err(Malformed) } else { Ok((name, subsection)) }
    }

    fn variable(&mut self) -> Result<(String, String), Malformed> {
        let name = self.word(b"-").to_ascii_lowercase();
        self.end = self.at;
        self.blanks();
        match self.peek() {
            Some(b'=') => {
                self.next();
                self.end = self.at;
                self.blanks();
                Ok((name, self.value()?))
            }
            None | Some(b'\n' | b'\r' | b'#' | b';') => {
                self.skip_line();
                Ok((name, "true".to_owned()))
            }
            Some(_) => Err(Malformed),
        }
    }

    fn value(&mut self) -> Result<String, Malformed> {
        let mut value = Vec::new();
        // White space at the end counts only within quotes.
        let mut kept = 0;
        let mut quoted = false;
        loop {
            match self.next() {
                Some(b'"') => {
                    quoted = !quoted;
                    kept = value.len();
                    self.end = self.at;
                }
                Some(b'\\') => {
                    match self.next() {
                        Some(b'\n') => continue,
                        Some(b'n') => value.push(b'\n'),
                        Some(b't') => value.push(b'\t'),
                        Some(b'b') => value.push(0x08),
                        Some(c @ (b'"' | b'\\')) => value.push(c),
                        _ => return Err(Malformed),
                    }
                    kept = value.len();
                    self.end = self.at;
                }
                Some(b'\n') | None if quoted => return Err(Malformed),
                Some(b'\n') | None => break,
                Some(b'#' | b';') if !quoted => {
                    self.skip_line();
                    break;
                }
                Some(c) => {
                    value.push(c);
                    if quoted || !is_space(c) {
                        kept = value.len();
                        self.end = self.at;
                    }
                }
            }
        }
        value.truncate(kept);
        Ok(text(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_git_reads() {
        let text = "\u{feff}; first\n[core]\r\n\tbare = false # no\n[remote \"origin\"]\n\turl = https://a.example/x.git  \n\
                    [REMOTE \"origin\"] URL=\"https://b.example/a b.git \" ; last wins\n[remote \"Origin\"]\nurl = other\n\
                    [filter.git-crypt]\n\tclean = a \\\"q\\\" \\\n  b\\\\c\n\trequired\n[a \"x\\\"]y\"] k = 1";
        let all = entries(text.as_bytes()).unwrap();
        let get = |name| value(&all, name);
        assert_eq!(get("remote.origin.url"), Some("https://b.example/a b.git "));
        assert_eq!(get("core.bare"), Some("false"));
        assert_eq!(get("filter.git-crypt.clean"), Some("a \"q\"   b\\c"));
        assert_eq!(get("filter.git-crypt.required"), Some("true"));
        assert_eq!(get("a.x\"]y.k"), Some("1"));
        assert_eq!(get("remote.upstream.url"), None);
    }

    #[test]
    fn names_the_malformed_line() {
        for (text, line) in [
            ("[core\n", 1),
            ("[a]\n=x", 2),
            ("[a]\nk = \"x\n", 2),
            ("\n[a \"b\n\"]", 2),
            ("[a]k = \\q", 1),
            ("k = v\n", 1),
            ("[]\nk = v\n", 1),
            ("[a]\nk = v\\", 2),
            ("\0\0\0", 1),
        ] {
            assert_eq!(entries(text.as_bytes()), Err(line), "{text:?}");
        }
    }

    #[test]
    fn a_change_keeps_every_other_byte() {
        let before = b"# mine\n[Branch \"main\"]  ; yes\r\n\tRemote = origin # as cloned\r\n\tmerge = refs/heads/main\n\n\
            [filter \"git-crypt\"] clean = cat\n\trequired\n\tclean=\"cat\"\n[a]\n\tb = \xff\xfe";
        let after = set(
            before,
            &[
                ("branch.main.remote", "forgejo"),
                ("filter.git-crypt.clean", "a \"b\"; \\"),
                ("remote.forgejo.url", "https://x/"),
                ("remote.forgejo.fetch", "+refs/heads/*:refs/remotes/forgejo/*"),
                ("user.name", " A #1 "),
            ],
        )
        .unwrap();
        let expected = b"# mine\n[Branch \"main\"]  ; yes\r\n\tremote = forgejo # as cloned\r\n\tmerge = refs/heads/main\n\n\
            [filter \"git-crypt\"] \n\trequired\n\tclean = \"a \\\"b\\\"; \\\\\"\n[a]\n\tb = \xff\xfe\n\
            [remote \"forgejo\"]\n\turl = https://x/\n\tfetch = +refs/heads/*:refs/remotes/forgejo/*\n[user]\n\tname = \" A #1 \"\n";
        assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(expected));
        assert_eq!(set(b"", &[("user.name", "A")]).unwrap(), b"[user]\n\tname = A\n");
        assert_eq!(set(b"[a", &[("user.name", "A")]), Err(1));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_back_and_nothing_else_changes(
            before in prop::collection::vec(
                prop::sample::select(vec![
                    "[user]\n", "\tname = x # c\n", "[remote \"a b\"]\r\n", "url = \"q;q\" \n", "; comment\n",
                    "\n", "  email\n", "[a.b] k = v \\\n w\n", "K=\\\"\n",
                ]),
                0..12,
            ),
            value_set in "[ -~\t\n]{0,12}",
            subsection in "[ -~]{1,6}",
        ) {
            let before = before.concat().into_bytes();
            let Ok(old) = entries(&before) else { return Ok(()) };
            let name = format!("remote.{subsection}.url");
            let settings = [("user.name", value_set.as_str()), (name.as_str(), "https://x/y.git")];
            let after = set(&before, &settings).unwrap();
            let new = entries(&after).unwrap();
            prop_assert_eq!(value(&new, "user.name"), Some(value_set.as_str()));
            prop_assert_eq!(value(&new, &name), Some("https://x/y.git"));
            let others = |all: &[Entry]| -> Vec<(String, String, String, String)> {
                let keys = [Key::of("user.name"), Key::of(&name)];
                all.iter().filter(|entry| !keys.iter().any(|key| entry.is(key)))
                    .map(|e| (e.section.clone(), e.subsection.clone(), e.key.clone(), e.value.clone())).collect()
            };
            prop_assert_eq!(others(&new), others(&old));
            prop_assert_eq!(set(&after, &settings).unwrap(), after);
        }
    }
}
