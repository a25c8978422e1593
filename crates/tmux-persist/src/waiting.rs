//! Whether a shell waits in a pane: whether what is typed into it is read as a command, and by nobody as anything else.
//! Asked before anything is typed. The kernel tells what runs there ([`processes`](crate::processes)); this asks tmux what
//! the pane shows. In doubt none waits, and nothing is typed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::{ClientError, PATIENCE, Server};
use crate::plan::LivePane;
use crate::processes;

/// What tmux tells of a pane. While it stays the same, nobody has typed there and nothing was written: the cursor is where
/// it was. `source-file` compares it in the moment of typing.
const STATE: &str = "#{pid} #{pane_id} #{pane_pid} #{pane_width} #{cursor_x} #{cursor_y} #{history_size} \
    #{pane_in_mode} #{pane_synchronized} #{pane_input_off} #{pane_current_command}";

/// How long a shell may take to do what was typed: a claude is named so only when its interpreter has started.
pub(crate) const STARTING: Duration = Duration::from_secs(10);

/// How many panes are asked for in one call, so that their answer stays within its bound.
const AT_ONCE: usize = 64;

/// A pane in which a shell waited when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt(String);

impl Prompt {
    /// By what tmux told; none if that could not be compared as it is.
    pub(crate) fn new(state: &str) -> Option<Prompt> {
        let plain = |c: char| c.is_ascii_alphanumeric() || " %_.-".contains(c);
        state.chars().all(plain).then(|| Prompt(state.to_owned()))
    }

    /// A condition in tmux's language that holds as long as the pane is as it was.
    pub(crate) fn still(&self) -> String {
        format!("#{{==:{STATE},{}}}", self.0)
    }
}

/// Finds out in which of these panes a shell waits.
pub(crate) fn find<'a>(
    server: &Server,
    panes: impl Iterator<Item = &'a mut LivePane>,
) -> Result<(), ClientError> {
    let mark = crate::capture::mark().map_err(ClientError::Start)?;
    let without_claude = panes.filter(|pane| !pane.claude);
    let mut asked: Vec<(&mut LivePane, u32)> = without_claude
        .filter_map(|pane| {
            let shell = processes::waiting_shell(pane.pid?)?;
            Some((pane, shell))
        })
        .collect();
    for some in asked.chunks_mut(AT_ONCE) {
        let ids: Vec<&str> = some.iter().map(|(pane, _)| pane.id.as_str()).collect();
        let shown = shown(server, &ids, &mark)?;
        for ((pane, shell), shown) in some.iter_mut().zip(shown) {
            pane.prompt =
                shown.filter(|shown| shown.waits(*shell)).and_then(|shown| Prompt::new(&shown.state));
        }
    }
    Ok(())
}

/// Waits until in each of these panes claude runs or a shell waits again, at most [`STARTING`]; in which of them claude
/// runs. Until then a second look would find neither, and a second restore would resume the conversation once more.
pub(crate) fn until_resumed(server: &Server, panes: &[&LivePane]) -> Result<BTreeSet<String>, ClientError> {
    let until = Instant::now() + STARTING;
    let mut waited: Vec<LivePane> = panes.iter().map(|pane| (*pane).clone()).collect();
    loop {
        let before: Vec<Option<Prompt>> = waited.iter_mut().map(|pane| pane.prompt.take()).collect();
        find(server, waited.iter_mut())?;
        let runs = |pane: &&LivePane| pane.pid.is_some_and(|pid| processes::claude(pid).is_some());
        let resumed: BTreeSet<String> = waited.iter().filter(runs).map(|pane| pane.id.clone()).collect();
        let over = waited.iter().zip(&before).all(|(pane, before)| {
            let again = pane.prompt.is_some() && pane.prompt != *before;
            again || resumed.contains(&pane.id)
        });
        if over || Instant::now() >= until {
            return Ok(resumed);
        }
        for (pane, before) in waited.iter_mut().zip(before) {
            pane.prompt = before;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pane as tmux shows it.
struct Shown {
    state: String,
    rows: Vec<String>,
}

impl Shown {
    fn waits(&self, shell: u32) -> bool {
        let fields: Vec<&str> = self.state.split(' ').collect();
        let [server, _, _, width, x, y, _, mode, synchronized, off, _] = fields[..] else { return false };
        let number = |text: &str| text.parse::<usize>().ok();
        let (Some(width), Some(x), Some(y)) = (number(width), number(x), number(y)) else { return false };
        // Somebody reads back in it; what is typed would go to other panes too; or nowhere.
        let plain = [mode, synchronized, off] == ["0"; 3];
        let here = server.parse().is_ok_and(|server| processes::see_the_same(shell, server));
        plain && here && is_empty_prompt(&self.rows, width, x, y)
    }
}

/// Asks for panes; none for one that cannot be had.
fn shown(server: &Server, panes: &[&str], mark: &str) -> Result<Vec<Option<Shown>>, ClientError> {
    let mut call = Vec::new();
    for id in panes {
        call.extend(["display-message", "-p", "-t", id, STATE, ";", "capture-pane", "-p", "-t", id, ";"]);
        call.extend(["display-message", "-p", mark, ";"]);
    }
    let said = server.call(&call, b"", PATIENCE)?;
    if said.success {
        let texts = crate::capture::split(&said.output, mark.as_bytes());
        return Ok(texts.into_iter().map(|text| Some(read(text))).collect());
    }
    // One of them has ended meanwhile.
    match panes {
        [] | [_] => Ok(panes.iter().map(|_| None).collect()),
        _ => {
            let (some, others) = panes.split_at(panes.len() / 2);
            let mut all = shown(server, some, mark)?;
            all.extend(shown(server, others, mark)?);
            Ok(all)
        }
    }
}

fn read(text: &[u8]) -> Shown {
    let text = String::from_utf8_lossy(text.strip_prefix(b"\n").unwrap_or(text)).into_owned();
    let mut lines = text.split('\n').map(str::to_owned);
    Shown { state: lines.next().unwrap_or_default(), rows: lines.collect() }
}

/// Whether the cursor stands behind a prompt and nothing has been typed. What a prompt is only its shell knows; this takes
/// a line that ends with `$`, `#`, `%`, `>` or a symbol that no keyboard has, without another of them before a space: that
/// would be a prompt with something behind it. A continued line, `> ` or `quote> `, has only letters before its `>`.
fn is_empty_prompt(rows: &[String], width: usize, x: usize, y: usize) -> bool {
    let row = |y: usize| rows.get(y).map_or("", |row| row.trim_end());
    // What begins in the row above goes on in this one.
    let goes_on = y.checked_sub(1).is_some_and(|above| row(above).chars().count() + 1 >= width);
    let below = rows.iter().skip(y + 1).any(|row| !row.trim_end().is_empty());
    let left: String = row(y).chars().take(x).collect();
    let right: String = row(y).chars().skip(x).collect();
    // What stands at the right edge belongs to the prompt.
    if goes_on || below || !(right.is_empty() || right.starts_with("  ")) {
        return false;
    }
    let left = left.trim_end();
    let ends = |c: char| "$#%>".contains(c) || !c.is_ascii() && !c.is_alphanumeric() && !c.is_whitespace();
    let Some((at, last)) = left.char_indices().next_back() else { return false };
    let before = left.get(..at).unwrap_or_default();
    let second = before.chars().zip(before.chars().skip(1)).any(|(c, next)| ends(c) && next.is_whitespace());
    let continued = last == '>' && before.chars().all(|c| c.is_alphabetic() || c.is_whitespace());
    ends(last) && !second && !continued
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen of 40 columns; `|` is the cursor.
    fn waits(screen: &str) -> bool {
        let y = screen.lines().position(|line| line.contains('|')).unwrap();
        let x = screen.lines().nth(y).unwrap().chars().position(|c| c == '|').unwrap();
        let rows: Vec<String> = screen.lines().map(|line| line.replacen('|', "", 1)).collect();
        is_empty_prompt(&rows, 40, x, y)
    }

    #[test]
    fn an_empty_prompt_is_known() {
        for prompt in [
            "$ |",
            "# |",
            "$|",
            "ann@host:~$ |",
            "ann@host:~/a b#c$ |",
            "ann@host ~/code> |",
            "host% |",
            "host% |                     ~/code 12:30",
            "╭─ann@host ~/code\n╰─❯ |",
            "❯ |",
            "$ claude\nkilled\nann@host:~$ |\n\n\n",
            "[ann@host p]$ |",
        ] {
            assert!(waits(prompt), "{prompt}");
        }
    }

    #[test]
    fn what_may_be_something_else_is_none() {
        for other in [
            "|",
            "$ read x\n|",
            "Really delete all? [y/N] |",
            "Your name: |",
            "#? |",
            "Password for ann> |",
            "> |",
            "quote> |",
            "cmdsubst dquote> |",
            "ann@host:~$ half typed|",
            "ann@host:~$ half typed |",
            "ann@host:~$ echo 5 > |",
            "ann@host:~$ echo $|",
            "ann@host:~$ ls |# not now",
            "ann@host:~$ |ls",
            "ann@host:~$ | ls",
            "❯ sort > |",
            "host% echo ✗ |",
            "(reverse-i-search)`': |",
            "--More--(5%)|",
            "ann@host:~$ 0123456789012345678901234567\n0123 $ |",
            "host% for a in b; do|\nfoo",
        ] {
            assert!(!waits(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_no_prompt() {
        assert!(Prompt::new("1 %3 77 80 2 0 0 0 0 0 bash").is_some());
        for state in ["1 %3 a,b", "1 %3 #{x}", "1 %3 }", "1 %3 é"] {
            assert_eq!(Prompt::new(state), None);
        }
    }
}
