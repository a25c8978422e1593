//! Reads one git configuration file, as `man git-config` says under *Syntax*. Two values of `.git/config` tell all
//! that an observation asks of a clone; starting libgit2 for them would cost more than the rest of the worker.
//! Includes are not followed: they may lead anywhere.

/// The last value of `section.subsection.key`; a key without `=` has the value "true".
/// Section and key are compared without case, the subsection with it. `Err` names a malformed line.
pub(crate) fn value(text: &str, section: &str, subsection: &str, key: &str) -> Result<Option<String>, usize> {
    let mut found = None;
    let mut inside = false;
    let mut rest =
        Reader { chars: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
    while let Some(c) = rest.peek() {
        let line = rest.line;
        match c {
            c if c.is_whitespace() => _ = rest.next(),
            '#' | ';' => rest.skip_line(),
            '[' => {
                let (name, sub) = rest.section().map_err(|Malformed| line)?;
                inside = name.eq_ignore_ascii_case(section) && sub == subsection;
            }
            c if c.is_ascii_alphabetic() => {
                let (name, value) = rest.variable().map_err(|Malformed| line)?;
                if inside && name.eq_ignore_ascii_case(key) {
                    found = Some(value);
                }
            }
            _ => return Err(line),
        }
    }
    Ok(found)
}

/// What stands here is no git configuration.
struct Malformed;

struct Reader<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let mut c = self.chars.next()?;
        if c == '\r' && self.peek() == Some('\n') {
            self.chars.next();
            c = '\n';
        }
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != '\n') {}
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.next();
        }
    }

    fn word(&mut self, extra: &str) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || extra.contains(*c)) {
            self.next();
            word.push(c);
        }
        word
    }

    /// `[section "subsection"]`, or the older `[section.subsection]`.
    fn section(&mut self) -> Result<(String, String), Malformed> {
        self.next();
        let name = self.word("-.");
        self.blanks();
        match self.next() {
            Some(']') => Ok(match name.split_once('.') {
                Some((name, sub)) => (name.to_owned(), sub.to_ascii_lowercase()),
                None => (name, String::new()),
            }),
            Some('"') => {
                let mut sub = String::new();
                loop {
                    match self.next() {
                        Some('"') => break,
                        Some('\\') => sub.extend(self.next()),
                        None | Some('\n') => return Err(Malformed),
                        Some(c) => sub.push(c),
                    }
                }
                if self.next() == Some(']') { Ok((name, sub)) } else { Err(Malformed) }
            }
            _ => Err(Malformed),
        }
    }

    fn variable(&mut self) -> Result<(String, String), Malformed> {
        let name = self.word("-");
        self.blanks();
        match self.peek() {
            Some('=') => {
                self.next();
                self.blanks();
                Ok((name, self.value()?))
            }
            None | Some('\n' | '\r' | '#' | ';') => {
                self.skip_line();
                Ok((name, "true".to_owned()))
            }
            Some(_) => Err(Malformed),
        }
    }

    fn value(&mut self) -> Result<String, Malformed> {
        let mut value = String::new();
        // White space at the end counts only within quotes.
        let mut kept = 0;
        let mut quoted = false;
        loop {
            match self.next() {
                Some('"') => {
                    quoted = !quoted;
                    kept = value.len();
                }
                Some('\\') => {
                    match self.next() {
                        Some('\n') => continue,
                        Some('n') => value.push('\n'),
                        Some('t') => value.push('\t'),
                        Some('b') => value.push('\u{8}'),
                        Some(c @ ('"' | '\\')) => value.push(c),
                        _ => return Err(Malformed),
                    }
                    kept = value.len();
                }
                Some('\n') | None if quoted => return Err(Malformed),
                Some('\n') | None => break,
                Some('#' | ';') if !quoted => {
                    self.skip_line();
                    break;
                }
                Some(c) => {
                    value.push(c);
                    if quoted || !c.is_whitespace() {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_git_reads() {
        let text = "\u{feff}; first\n[core]\r\n\tbare = false # no\n[remote \"origin\"]\n\turl = https://a.example/x.git  \n\
                    [REMOTE \"origin\"] URL=\"https://b.example/a b.git \" ; last wins\n[remote \"Origin\"]\nurl = other\n\
                    [filter.git-crypt]\n\tclean = a \\\"q\\\" \\\n  b\\\\c\n\trequired\n[a \"x\\\"]y\"] k = 1";
        let get = |section, sub, key| value(text, section, sub, key).unwrap();
        assert_eq!(get("remote", "origin", "url").as_deref(), Some("https://b.example/a b.git "));
        assert_eq!(get("core", "", "bare").as_deref(), Some("false"));
        assert_eq!(get("filter", "git-crypt", "clean").as_deref(), Some("a \"q\"   b\\c"));
        assert_eq!(get("filter", "git-crypt", "required").as_deref(), Some("true"));
        assert_eq!(get("a", "x\"]y", "k").as_deref(), Some("1"));
        assert_eq!(get("remote", "upstream", "url"), None);
    }

    #[test]
    fn names_the_malformed_line() {
        for (text, line) in
            [("[core\n", 1), ("[a]\n=x", 2), ("[a]\nk = \"x\n", 2), ("\n[a \"b\n\"]", 2), ("[a]k = \\q", 1)]
        {
            assert_eq!(value(text, "core", "", "bare"), Err(line), "{text:?}");
        }
    }
}
