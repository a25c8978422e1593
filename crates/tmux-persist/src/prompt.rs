//! Whether a screen shows an empty prompt of a shell. Pure, but for whom the prompt tells of.

use crate::processes;

/// What a prompt tells of, and what its shell can do.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    person: String,
    host: String,
    /// The last part of the folder that the shell is in; empty for `/`.
    folder: String,
    /// The shell's own program, whatever it is called.
    program: String,
}

/// What ends a prompt: beside `$`, `#`, `%` and `>` only what people's prompts are known to end with.
const SIGNS: &str = "$#%>❯❮❱➜λ»›▶";

impl About {
    /// The person and the machine.
    pub(crate) fn here() -> About {
        let person = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
        let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
        About {
            person: person.map(|person| person.name).unwrap_or_default(),
            host: host.unwrap_or_default(),
            ..About::default()
        }
    }

    pub(crate) fn shell(&self, shell: u32) -> Option<About> {
        let folder = processes::folder(shell)?.text();
        let folder = folder.rsplit('/').next().unwrap_or_default().to_owned();
        Some(About { folder, program: processes::program(shell)?, ..self.clone() })
    }

    /// Whether the cursor stands behind a prompt and nothing has been typed. What a prompt is only its shell knows. This
    /// takes what cannot well be anything else: the cursor is one blank behind a sign, and all that stands before the sign
    /// are names of the person, the machine and the folder. Of a text with several lines that was not sent yet, and of a
    /// command that goes on, the last line has other words. `older` rows are above those that are shown.
    pub(crate) fn is_empty_prompt(
        &self,
        rows: &[String],
        width: usize,
        (x, y): (usize, usize),
        older: usize,
    ) -> bool {
        let row = |y: usize| rows.get(y).map_or("", |row| row.trim_end());
        let above = y.checked_sub(1).map_or("", row);
        let goes_on = most_columns(above) + 1 >= width;
        let below = rows.iter().skip(y.saturating_add(1)).any(|row| !row.trim_end().is_empty());
        let mut shown = row(y).chars();
        // With anything but narrow letters, a place in the text is not a column.
        if goes_on || below || !row(y).chars().all(is_narrow) {
            return false;
        }
        // tmux tells a row without the blanks at its end, so the one in front of the cursor may be missing.
        let Some(length) = x.checked_sub(1) else { return false };
        let prompt: String = shown.by_ref().take(length).collect();
        let blank = shown.next().is_none_or(|c| c == ' ');
        let right = shown.as_str();
        if prompt.chars().count() != length || !blank || !self.is_right_prompt(right, width, x) {
            return false;
        }
        let Some((before, sign)) = prompt.char_indices().next_back().and_then(|(at, sign)| {
            let before = prompt.get(..at)?;
            SIGNS.contains(sign).then_some((before, sign))
        }) else {
            return false;
        };
        // `> ` and `quote> ` ask for more; ` > ` and ` # ` are words of a command.
        let continued = sign == '>' && before.chars().all(|c| c.is_alphabetic() || c == ' ');
        if continued || ">#".contains(sign) && before.ends_with(' ') {
            return false;
        }
        if before.chars().all(is_line) {
            // A bare sign could be the last line of several, unless the shell has no such lines or there is no other.
            let first = older == 0 && rows.iter().take(y).all(|row| row.trim_end().is_empty());
            let one_line = ["dash", "mksh", "ksh93"].contains(&self.program.as_str());
            return first || one_line || self.begins_prompt(above);
        }
        // An environment in parentheses, as Python's and Debian's `chroot` have it.
        let environment = before.strip_prefix('(').and_then(|before| before.split_once(')'));
        let before = environment.filter(|(name, _)| !name.contains(' ')).map_or(before, |(_, rest)| rest);
        // A branch behind them, as git's own `__git_ps1` tells it.
        let branch = before.strip_suffix(')').and_then(|before| before.rsplit_once(" ("));
        let before =
            branch.filter(|(_, branch)| !branch.contains(['(', ')'])).map_or(before, |(rest, _)| rest);
        self.are_names(before)
    }

    /// Whether what is right of the cursor belongs to the prompt: it stands apart and reaches the right edge. bash has none.
    fn is_right_prompt(&self, right: &str, width: usize, x: usize) -> bool {
        let at_edge = || {
            let end = x.saturating_add(right.chars().count());
            // zsh leaves a column free.
            right.starts_with("  ") && end <= width && end.saturating_add(1) >= width
        };
        right.is_empty() || ["zsh", "fish"].contains(&self.program.as_str()) && at_edge()
    }

    /// Whether a row is the first of a prompt of two: names, and what some programs tell behind `on` and `via`.
    fn begins_prompt(&self, row: &str) -> bool {
        let names: Vec<&str> = row.split(' ').take_while(|word| !["on", "via"].contains(word)).collect();
        let names =
            names.into_iter().filter(|word| !["in", "at"].contains(word)).collect::<Vec<_>>().join(" ");
        self.are_names(&names) && !row.split(' ').any(|word| word.ends_with(|c| SIGNS.contains(c)))
    }

    /// Whether a text has names, and nothing but names.
    fn are_names(&self, text: &str) -> bool {
        let parts = text.split(|c| " @:[]".contains(c) || is_line(c)).filter(|part| !part.is_empty());
        let mut parts = parts.peekable();
        parts.peek().is_some() && parts.all(|part| self.is_name(part))
    }

    fn is_name(&self, part: &str) -> bool {
        let short = self.host.split('.').next().unwrap_or_default();
        let path = part.starts_with(['/', '~']) || part.starts_with("...");
        let folder = || part.rsplit('/').next() == Some(self.folder.as_str());
        // As bash has it: `bash-5.2`, with a dash before it in the shell of a login.
        let version = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let shell = part.strip_prefix('-').unwrap_or(part).split_once('-');
        [self.person.as_str(), &self.host, short, &self.folder, "~"].contains(&part)
            || path && folder() && (part == "/" || !self.folder.is_empty())
            || shell.is_some_and(|(name, rest)| ["bash", "sh"].contains(&name) && version(rest))
    }
}

/// What two rows of a prompt are joined by.
fn is_line(c: char) -> bool {
    ('\u{2500}'..='\u{257f}').contains(&c)
}

/// Whether every terminal gives this one column.
fn is_narrow(c: char) -> bool {
    let letter = c.is_alphanumeric() && c < '\u{300}';
    c == ' ' || c.is_ascii_graphic() || letter || is_line(c) || SIGNS.contains(c)
}

/// At most so many columns a text takes.
fn most_columns(text: &str) -> usize {
    text.chars().map(|c| if is_narrow(c) { 1 } else { 2 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(program: &str) -> About {
        About {
            person: "ann".into(),
            host: "devvm.example.org".into(),
            folder: "code".into(),
            program: program.into(),
        }
    }

    /// A screen of 40 columns; `|` is the cursor.
    fn waits(program: &str, screen: &str) -> bool {
        let y = screen.lines().position(|line| line.contains('|')).unwrap();
        let x = screen.lines().nth(y).unwrap().chars().position(|c| c == '|').unwrap();
        let rows: Vec<String> =
            screen.lines().map(|line| line.replacen('|', "", 1).trim_end().to_owned()).collect();
        about(program).is_empty_prompt(&rows, 40, (x, y), 0)
    }

    #[test]
    fn an_empty_prompt_is_known() {
        for (program, prompt) in [
            ("bash", "ann@devvm:~$ |"),
            ("bash", "ann@devvm:~/code$ |"),
            ("bash", "ann@devvm:/srv/x/code$ |"),
            ("bash", "ann@devvm:.../x/code$ |"),
            ("bash", "(venv) ann@devvm:~/code$ |"),
            ("bash", "ann@devvm:~/code (main)$ |"),
            ("bash", "ann@devvm:~/code (main *$>)$ |"),
            ("bash", "(stable)ann@devvm:~/code$ |"),
            ("bash", "ann@devvm.example.org:~# |"),
            ("bash", "[ann@devvm code]$ |"),
            ("bash", "bash-5.2$ |"),
            ("bash", "-bash-5.2$ |"),
            ("bash", "sh-5.2# |"),
            ("bash", "ann$ |"),
            ("bash", "$ |"),
            ("bash", "# |"),
            ("bash", "$ claude\nkilled\nann@devvm:~$ |\n\n\n"),
            ("bash", "長長長長長長長長\nann@devvm:~$ |"),
            ("bash", "╭─ann@devvm ~/code\n╰─$ |"),
            ("dash", "$ |"),
            ("dash", "$ ls\na b\n$ |"),
            ("dash", "# ls\na b\n# |"),
            ("zsh", "devvm% |"),
            ("zsh", "ann@devvm code % |"),
            ("zsh", "devvm% |                     ~/code 12:30"),
            ("zsh", "devvm% |                    ~/code 12:30"),
            ("zsh", "~/code ❯ |"),
            ("zsh", "❯ |"),
            ("zsh", "\n❯ |"),
            ("zsh", "ls\na b\n\n~/code\n❯ |"),
            ("zsh", "ls\n\ncode on  main [$!] via 🦀 v1.8\n❯ |"),
            ("zsh", "ann in devvm in ~/code on  main\n➜ |"),
            ("zsh", "╭─ann@devvm ~/code\n╰─❯ |"),
            ("fish", "ann@devvm ~> |"),
            ("fish", "ann@devvm ~/s/code> |"),
            ("fish", "ann@devvm ~> |                     12:30"),
        ] {
            assert!(waits(program, prompt), "{program}: {prompt}");
        }
    }

    #[test]
    fn what_may_be_something_else_is_none() {
        let shells = ["bash", "zsh", "fish"];
        for other in [
            "|",
            "$|",
            "ann@devvm:~$|",
            "ann@devvm:~$  |",
            "$ read x\n|",
            "Really delete all? [y/N] |",
            "Your name: |",
            "#? |",
            "Password for ann> |",
            "> |",
            "quote> |",
            "code> |",
            "cmdsubst dquote> |",
            "∙ |",
            "ann@devvm:~$ cat <<E\n∙ |",
            "ann@devvm:~$ cat <<E\n➜ |",
            "ann in code on  main\n➜ cat <<E\n➜ |",
            "Drop all tables (y/n) › |",
            "Drop all tables [y/n]> |",
            "ann@devvm:~$ half typed|",
            "ann@devvm:~$ half typed |",
            "ann@devvm:~$ echo 5 > |",
            "ann@devvm:~$ ~/code > |",
            "ann@devvm:~$ echo $|",
            "ann: echo important > |",
            "ann: code > |",
            "ann: code # |",
            "ann@devvm:~$ ls |# not now",
            "ann@devvm:~$ |ls",
            "ann@devvm:~$ | ls",
            "ann@devvm:~$ |   ; touch x",
            "❯ sort > |",
            "devvm% echo ✗ |",
            "(reverse-i-search)`': |",
            "--More--(5%)|",
            "ann@devvm:~$ touch harm\necho done 50%|",
            "ann@devvm:~$ touch harm\necho done 50% |",
            "ann@devvm:~$ touch harm\n# |",
            "ann@devvm:~$ touch harm\n\n$ |",
            "ann: touch harm\n# |",
            "❯ touch harm\n❯ |",
            "ann@devvm:~$ echo 長長長長長長長長長長長長長\nい文章。|",
            "ann@devvm:~$ echo 長長長長長長長長長長長長長\nい文章% |",
            "ann@devvm 長:~$ |",
            "ann@devvm:~$ echo 56789012345678901234567\nann$ |",
            "ann@devvm:~$ echo 長長長長長長長長長長長\nann$ |",
            "ann@devvm:~$ echo\nand then 50% |",
            "eve@devvm:~$ |",
            "ann@prod:~$ |",
            "ann@devvm:~/other$ |",
            "ann@devvm:~/code/$ |",
            "devvm% for a in b; do|\nfoo",
            "ann@devvm:~$ |\ntouch harm",
        ] {
            for program in shells {
                assert!(!waits(program, other), "{program}: {other}");
            }
        }
        // A right prompt of a shell that has none.
        assert!(!waits("bash", "devvm% |                     ~/code 12:30"));
        // One that is not at the edge, or not apart.
        assert!(!waits("zsh", "devvm% |                   ~/code 12:30"));
        assert!(!waits("zsh", "devvm% | 234567890123456789012345678901234"));
        assert!(!waits("zsh", "devvm% |                    ~/長de 12:3"));
        // A bare sign, with something that has scrolled away.
        assert!(!about("zsh").is_empty_prompt(&["❯".into()], 40, (2, 0), 1));
        // Nonsense from a server.
        assert!(!about("zsh").is_empty_prompt(&["❯".into()], 40, (usize::MAX, usize::MAX - 1), 0));
    }
}
