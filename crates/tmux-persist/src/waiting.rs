//! Whether a shell waits in a pane: whether what is typed into it is read as a command, and by nobody as anything else.
//! The kernel tells what runs there ([`processes`](crate::processes)), tmux what the pane shows ([`prompt`](crate::prompt)),
//! and last of all whoever reads the line whether there is anything on it. In doubt none waits, and nothing is typed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::{ClientError, PATIENCE, Server};
use crate::plan::LivePane;
use crate::processes;
use crate::prompt::About;
use crate::script::{press, pressed_mark};

/// What tmux tells of a pane. While it stays the same, nobody has typed there and nothing was written: the cursor is where
/// it was. `source-file` compares it in the moment of typing.
const STATE: &str = "#{pid} #{pane_id} #{pane_pid} #{pane_width} #{pane_in_mode} #{pane_synchronized} \
    #{pane_input_off} #{pane_current_command} #{history_size} #{cursor_x} #{cursor_y}";

/// How long a shell may take to do what was typed: a claude is named so only when its interpreter has started.
pub(crate) const STARTING: Duration = Duration::from_secs(10);

/// How long a shell may take to move its cursor to the left. One that is slower gets a blank into its line, before the blank
/// that is left of the cursor.
const MOVING: Duration = Duration::from_millis(100);

/// How long a shell may take to show a blank.
const SHOWING: Duration = Duration::from_secs(2);

/// How many panes are asked for in one call, so that their answer stays within its bound.
const AT_ONCE: usize = 64;

/// A pane in which a shell waited when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// What tmux told of it, without what follows.
    pane: String,
    older: usize,
    x: usize,
    y: usize,
    /// How it is known that nothing is on the line, once that is known.
    empty: Option<Empty>,
}

/// How it is known that nothing is on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Empty {
    /// The shell's own editor has nothing to the left of the blank that was typed and is there still.
    Blank,
    /// The kernel, which gathers the line, has shown all of it again.
    Shown,
}

impl Prompt {
    /// By what tmux told; none if that could not be compared as it is.
    pub(crate) fn new(state: &str) -> Option<Prompt> {
        let plain = |c: char| c.is_ascii_alphanumeric() || " %_.-".contains(c);
        let (rest, y) = state.chars().all(plain).then_some(state)?.rsplit_once(' ')?;
        let (rest, x) = rest.rsplit_once(' ')?;
        let (pane, older) = rest.rsplit_once(' ')?;
        let [older, x, y] = [older, x, y].map(|number| number.parse::<usize>().ok());
        Some(Prompt { pane: pane.to_owned(), older: older?, x: x?, y: y?, empty: None })
    }

    /// Known to have nothing on its line, with a blank typed.
    #[cfg(test)]
    pub(crate) fn empty(state: &str) -> Option<Prompt> {
        Some(Prompt { empty: Some(Empty::Blank), ..Prompt::new(state)? })
    }

    /// A condition in tmux's language that holds as long as the pane is as it was.
    fn still(&self) -> String {
        format!("#{{==:{STATE},{} {} {} {}}}", self.pane, self.older, self.x, self.y)
    }

    /// The same, of a pane with nothing on its line: then something may be typed.
    pub(crate) fn still_empty(&self) -> Option<String> {
        self.empty.map(|_| self.still())
    }

    /// With the cursor in another column of its row.
    fn at(&self, x: usize) -> Prompt {
        Prompt { x, empty: None, ..self.clone() }
    }
}

/// Finds out in which of these panes a shell waits, as far as the screen can tell.
pub(crate) fn find<'a>(
    server: &Server,
    panes: impl Iterator<Item = &'a mut LivePane>,
) -> Result<(), ClientError> {
    let about = About::here();
    let without_claude = panes.filter(|pane| !pane.claude);
    let mut asked: Vec<(&mut LivePane, u32)> =
        without_claude.filter_map(|pane| Some((pane.pid?, pane)).and_then(with_shell)).collect();
    let ids: Vec<String> = asked.iter().map(|(pane, _)| pane.id.clone()).collect();
    for ((pane, shell), shown) in asked.iter_mut().zip(look(server, &ids)?) {
        pane.prompt = shown.and_then(|shown| {
            let prompt = Prompt::new(&shown.state)?;
            shown.waits(*shell, &about, &prompt).then_some(prompt)
        });
    }
    Ok(())
}

fn with_shell((pid, pane): (u32, &mut LivePane)) -> Option<(&mut LivePane, u32)> {
    Some((pane, processes::waiting_shell(pid)?))
}

/// A pane that is asked whether anything is on its line.
struct Asked<'a> {
    pane: &'a mut LivePane,
    /// As it was found, and what it showed then.
    found: Prompt,
    screen: Vec<String>,
    shell: u32,
    /// Whether the kernel gathers its line.
    by_kernel: bool,
    /// Whether the blank was seen on the line when it was looked at last.
    blank: bool,
}

/// Of panes in which a shell waits as far as the screen can tell, finds out where nothing is on the line: a text of several
/// lines may well end with what looks like a prompt. Whoever reads the line is asked, without a loss. In the others none waits.
///
/// - `Left` moves the cursor unless nothing is left of it, and `Right` moves it back.
/// - Where it has not moved, a blank does, by one: then the shell edits its line, takes letters for letters, and had nothing
///   on it. The blank stays before what is typed.
/// - Where the kernel gathers the line, `C-r` has it show the line once more, which leaves the cursor in the first column.
///
/// tmux presses a key only where the pane is as it was, and tells where it has: a pane in which `Left` was not pressed says
/// nothing by a cursor that stays. A blank that is in doubt is taken back where it was seen, and only there: in a shell that
/// has stalled, the last letter may be one that its person typed. One that is left is before another blank.
pub(crate) fn prove(server: &Server, panes: Vec<&mut LivePane>) -> Result<(), ClientError> {
    let about = About::here();
    let mut asked: Vec<Asked> = panes
        .into_iter()
        .filter_map(|pane| {
            let found = pane.prompt.take()?;
            pane.doubtful = true;
            let (pane, shell) = with_shell((pane.pid?, pane))?;
            let by_kernel = processes::is_dash(shell);
            Some(Asked { pane, found, screen: Vec::new(), shell, by_kernel, blank: false })
        })
        .collect();
    let mut script = Vec::new();
    for one in asked.iter().filter(|one| !one.by_kernel) {
        press(&mut script, &one.pane.id, &one.found.still(), "Left");
    }
    if !script.is_empty() {
        let pressed = say(server, &script)?;
        asked.retain(|one| one.by_kernel || pressed.contains(&pressed_mark(&one.pane.id)));
        std::thread::sleep(MOVING);
    }
    script.clear();
    let shown = look(server, &ids(&asked))?;
    let mut still = Vec::new();
    for (mut one, shown) in asked.into_iter().zip(shown) {
        let Some(shown) = shown else { continue };
        let Some(now) = Prompt::new(&shown.state) else { continue };
        if now == one.found && shown.waits(one.shell, &about, &one.found) {
            let keys = if one.by_kernel { "C-r" } else { "Space" };
            press(&mut script, &one.pane.id, &one.found.still(), keys);
            one.screen = shown.rows;
            still.push(one);
        } else if !one.by_kernel && now.x.checked_add(1) == Some(one.found.x) && now == one.found.at(now.x) {
            press(&mut script, &one.pane.id, &now.still(), "Right");
        }
    }
    let pressed = say(server, &script)?;
    asked = still;
    asked.retain(|one| pressed.contains(&pressed_mark(&one.pane.id)));
    let until = Instant::now() + SHOWING;
    let mut pause = Duration::from_millis(5);
    while !asked.is_empty() && Instant::now() < until {
        std::thread::sleep(pause);
        pause *= 2;
        let shown = look(server, &ids(&asked))?;
        let mut still = Vec::new();
        for (mut one, shown) in asked.into_iter().zip(shown) {
            one.blank = shown.as_ref().is_some_and(|shown| shown.has_blank(&one));
            match shown.and_then(|shown| shown.is_empty(&one)) {
                Some(empty) => (one.pane.prompt, one.pane.doubtful) = (Some(empty), false),
                None => still.push(one),
            }
        }
        asked = still;
    }
    script.clear();
    for one in asked.iter().filter(|one| one.blank) {
        press(&mut script, &one.pane.id, &one.found.at(one.found.x + 1).still(), "BSpace");
    }
    say(server, &script)?;
    Ok(())
}

/// Leaves these panes as they were found: nothing is typed into them after all.
pub(crate) fn take_back<'a>(
    server: &Server,
    panes: impl Iterator<Item = &'a LivePane>,
) -> Result<(), ClientError> {
    let mut script = Vec::new();
    for pane in panes {
        if let Some(prompt) = pane.prompt.as_ref().filter(|prompt| prompt.empty == Some(Empty::Blank)) {
            press(&mut script, &pane.id, &prompt.still(), "BSpace");
        }
    }
    say(server, &script)?;
    Ok(())
}

fn ids(asked: &[Asked]) -> Vec<String> {
    asked.iter().map(|one| one.pane.id.clone()).collect()
}

/// Lines of which each may fail, as when its pane has ended; what the server tells.
fn say(server: &Server, script: &[u8]) -> Result<BTreeSet<String>, ClientError> {
    if script.is_empty() {
        return Ok(BTreeSet::new());
    }
    let told = server.call(&["source-file", "-"], script, PATIENCE)?.output;
    Ok(String::from_utf8_lossy(&told).lines().map(str::to_owned).collect())
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
    fn waits(&self, shell: u32, about: &About, prompt: &Prompt) -> bool {
        let fields: Vec<&str> = prompt.pane.split(' ').collect();
        let [server, _, _, width, mode, synchronized, off, _] = fields[..] else { return false };
        let Ok(width) = width.parse() else { return false };
        // Somebody reads back in it; what is typed would go to other panes too; or nowhere.
        let plain = [mode, synchronized, off] == ["0"; 3];
        let here = server.parse().is_ok_and(|server| processes::see_the_same(shell, server));
        let about = about.shell(shell);
        let at = (prompt.x, prompt.y);
        plain && here && about.is_some_and(|about| about.is_empty_prompt(&self.rows, width, at, prompt.older))
    }

    /// Whether the blank that was typed is to the left of the cursor, and no letter.
    fn has_blank(&self, asked: &Asked) -> bool {
        let found = &asked.found;
        let left = self.rows.get(found.y).and_then(|row| row.chars().nth(found.x));
        !asked.by_kernel
            && Prompt::new(&self.state) == Some(found.at(found.x + 1))
            && left.is_none_or(|left| left == ' ')
    }

    /// The pane with nothing on its line, once that has shown.
    fn is_empty(&self, asked: &Asked) -> Option<Prompt> {
        let (now, found) = (Prompt::new(&self.state)?, &asked.found);
        if asked.by_kernel {
            // It has scrolled, unless there was a row more.
            let above = now.y.checked_sub(1).and_then(|y| self.rows.get(y));
            let again = above.is_some_and(|row| row.trim_end().ends_with("^R"));
            let down = now.x == 0 && (now.y == found.y + 1 || now.y == found.y);
            let empty = again && down && now.pane == found.pane;
            return empty.then_some(Prompt { empty: Some(Empty::Shown), ..now });
        }
        // What is right of the cursor has not moved along, as a text would and a prompt would not.
        let same = now == found.at(found.x + 1) && self.rows == asked.screen;
        same.then_some(Prompt { empty: Some(Empty::Blank), ..now })
    }
}

/// Looks at panes; none for one that cannot be had.
fn look(server: &Server, panes: &[String]) -> Result<Vec<Option<Shown>>, ClientError> {
    let mark = crate::capture::mark().map_err(ClientError::Start)?;
    let mut all = Vec::new();
    for some in panes.chunks(AT_ONCE) {
        all.extend(shown(server, some, &mark)?);
    }
    Ok(all)
}

fn shown(server: &Server, panes: &[String], mark: &str) -> Result<Vec<Option<Shown>>, ClientError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compared_is_no_prompt() {
        assert!(Prompt::new("1 %3 77 80 0 0 0 bash 0 2 0").is_some());
        for state in ["1 %3 a,b 0 2 0", "1 %3 #{x} 0 2 0", "1 %3 } 0 2 0", "1 %3 é 0 2 0", "1 %3 0 -2 0", "1"]
        {
            assert_eq!(Prompt::new(state), None, "{state}");
        }
    }

    #[test]
    fn nothing_is_typed_on_a_line_that_is_not_known_to_be_empty() {
        let state = "1 %3 77 80 0 0 0 bash 0 2 0";
        assert_eq!(Prompt::new(state).unwrap().still_empty(), None);
        assert!(Prompt::empty(state).unwrap().still_empty().unwrap().ends_with(&format!(",{state}}}")));
    }

    #[test]
    fn a_blank_is_taken_back_only_where_it_is_seen() {
        let state = |x: usize| format!("1 %3 77 80 0 0 0 bash 0 {x} 1");
        let mut pane = LivePane {
            id: "%3".into(),
            window: 0,
            pane: 0,
            position: 0,
            active: true,
            pid: None,
            prompt: None,
            doubtful: true,
            claude: false,
            conversation: None,
        };
        let found = Prompt::new(&state(2)).unwrap();
        let screen = Vec::new();
        let mut asked = Asked { pane: &mut pane, found, screen, shell: 77, by_kernel: false, blank: false };
        let shown = |row: &str, x: usize| Shown { state: state(x), rows: vec!["above".into(), row.into()] };
        // tmux tells no blanks at the end of a row.
        assert!(shown("$", 3).has_blank(&asked) && shown("$  text", 3).has_blank(&asked));
        // The shell has stalled, or `Left` was late and the person typed.
        assert!(!shown("$", 2).has_blank(&asked) && !shown("$ l", 3).has_blank(&asked));
        assert!(!shown("$  rm", 5).has_blank(&asked));
        asked.by_kernel = true;
        assert!(!shown("$", 3).has_blank(&asked));
    }
}
