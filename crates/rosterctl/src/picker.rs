//! `rosterctl tmux restore --pick`: on the left the snapshots, on the right what one of them holds and what restoring it
//! would do. [`Picker`] is pure: keys go in, lines come out. [`pick`] has the terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Write};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use jiff::Timestamp;
use tmux_persist::{Action, Listed, Moment, Row, View};

use crate::error::{CommandError, Result};
use crate::page::{Look, Style};
use crate::render::tmux::{ago, does, note, one_line, short};

/// Columns of the list of snapshots, and on a narrow terminal.
const LEFT: usize = 24;
const NARROW_LEFT: usize = 15;

/// What `?` shows.
const HELP: [&str; 9] = [
    "Left, right    to the snapshots, to the sessions (or Tab, h, l)",
    "Up, down       one line on (or k, j; page and end keys)",
    "Enter          from a snapshot to its sessions;",
    "               there: restore what is ticked",
    "Space          tick a session, or not",
    "a              tick all, or none",
    "q, Esc         leave, and restore nothing",
    "* marks the snapshot that a restore takes by itself.",
    "[x] is ticked; what is live cannot be.",
];

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Draw again.
    Stay,
    /// Ask what this snapshot holds.
    Look(Moment),
    /// Restore these.
    Restore(Moment, Vec<String>),
    /// Do nothing.
    Leave,
}

/// What is shown and ticked.
#[derive(Debug)]
pub(crate) struct Picker {
    snapshots: Vec<Listed>,
    at: usize,
    views: BTreeMap<Moment, Shown>,
    right: bool,
    height: usize,
    help: bool,
    /// Why the last key did nothing.
    said: Option<&'static str>,
}

#[derive(Debug)]
struct Shown {
    rows: Vec<Row>,
    ticked: BTreeSet<usize>,
    at: usize,
}

impl Picker {
    /// Begins at the snapshot that a restore takes.
    pub(crate) fn new(snapshots: Vec<Listed>) -> Picker {
        let at = snapshots.iter().position(|one| one.newest).unwrap_or(0);
        Picker { snapshots, at, views: BTreeMap::new(), right: false, height: 24, help: false, said: None }
    }

    /// The snapshot whose rows are wanted and not known yet.
    pub(crate) fn wants(&self) -> Option<Moment> {
        let taken = self.snapshots.get(self.at)?.taken;
        (!self.views.contains_key(&taken)).then_some(taken)
    }

    /// The rows of a snapshot; what a restore would include is ticked.
    pub(crate) fn show(&mut self, view: View) {
        let on = |(at, row): (usize, &Row)| row.default.then_some(at);
        let ticked = view.rows.iter().enumerate().filter_map(on).collect();
        self.views.insert(view.taken, Shown { rows: view.rows, ticked, at: 0 });
    }

    /// A snapshot that cannot be shown has no rows.
    pub(crate) fn show_nothing(&mut self, taken: Moment) {
        self.views.insert(taken, Shown { rows: Vec::new(), ticked: BTreeSet::new(), at: 0 });
    }

    /// What a key does.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Next {
        let page = self.height.saturating_sub(6).max(1);
        self.said = None;
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::Leave,
            _ if self.help => self.help = false,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('q') | KeyCode::Esc => return Next::Leave,
            KeyCode::Tab | KeyCode::BackTab => self.right = !self.right,
            KeyCode::Left | KeyCode::Char('h') => self.right = false,
            KeyCode::Right | KeyCode::Char('l') => self.right = true,
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-isize::try_from(page).unwrap_or(1)),
            KeyCode::PageDown => self.go(isize::try_from(page).unwrap_or(1)),
            KeyCode::Home => self.go(isize::MIN),
            KeyCode::End => self.go(isize::MAX),
            KeyCode::Char(' ') if self.right => self.tick(),
            KeyCode::Char(' ') => self.said = Some("Space ticks sessions: Enter goes there"),
            KeyCode::Char('a') => self.tick_all(),
            KeyCode::Enter if !self.right => self.right = true,
            KeyCode::Enter => {
                if let Some((taken, names)) = self.chosen() {
                    return Next::Restore(taken, names);
                }
                self.said = Some("nothing is ticked: Space ticks");
            }
            _ => {}
        }
        self.wants().map_or(Next::Stay, Next::Look)
    }

    fn shown(&self) -> Option<&Shown> {
        self.views.get(&self.snapshots.get(self.at)?.taken)
    }

    fn shown_mut(&mut self) -> Option<&mut Shown> {
        self.views.get_mut(&self.snapshots.get(self.at)?.taken)
    }

    fn go(&mut self, by: isize) {
        let moved = |at: usize, length: usize| at.saturating_add_signed(by).min(length.saturating_sub(1));
        if self.right {
            if let Some(shown) = self.shown_mut() {
                shown.at = moved(shown.at, shown.rows.len());
            }
        } else {
            self.at = moved(self.at, self.snapshots.len());
        }
    }

    fn tick(&mut self) {
        let Some(shown) = self.shown_mut() else { return };
        let Some(row) = shown.rows.get(shown.at) else { return };
        if row.action == Action::Skip {
            self.said = Some("there is nothing to restore of it");
        } else if !shown.ticked.remove(&shown.at) {
            shown.ticked.insert(shown.at);
        }
    }

    /// All that can be restored or, when all of that is ticked, nothing.
    fn tick_all(&mut self) {
        if let Some(shown) = self.shown_mut() {
            let can = |(at, row): (usize, &Row)| (row.action != Action::Skip).then_some(at);
            let all: BTreeSet<usize> = shown.rows.iter().enumerate().filter_map(can).collect();
            shown.ticked = if shown.ticked == all { BTreeSet::new() } else { all };
        }
    }

    fn chosen(&self) -> Option<(Moment, Vec<String>)> {
        let shown = self.shown()?;
        let names: Vec<String> =
            shown.ticked.iter().filter_map(|at| Some(shown.rows.get(*at)?.name.to_string())).collect();
        (!names.is_empty()).then_some((self.snapshots.get(self.at)?.taken, names))
    }

    /// The screen, a line for each of its rows.
    pub(crate) fn draw(&mut self, look: Look, height: usize, now: Timestamp) -> Vec<String> {
        self.height = height;
        let body = height.saturating_sub(6).max(1);
        let left_width = if look.width < 60 { NARROW_LEFT } else { LEFT };
        let right_width = look.width.saturating_sub(left_width + 3);
        let left = self.left(look, body, left_width, now);
        let (heading, right, detail) = self.rows(look, body, right_width);
        let mut lines = Vec::new();
        let title = self.snapshots.get(self.at).map_or_else(String::new, |one| one.taken.to_string());
        lines.push(
            look.paint(Style::Strong, &fit("Restore tmux sessions", left_width))
                + "   "
                + &look.paint(Style::Strong, &fit(&title, right_width)),
        );
        let taken = fit(&format!("  {:<13}{:>8}", "TAKEN", "SESSIONS"), left_width);
        lines.push(look.paint(Style::Faint, &format!("{taken} | {}", fit(&heading, right_width))));
        let blank = || " ".repeat(left_width);
        for at in 0..body {
            if self.help {
                let line = HELP.get(at).copied().unwrap_or_default();
                lines.push(fit(line, look.width.saturating_sub(1)));
                continue;
            }
            let left = left.get(at).cloned().unwrap_or_else(blank);
            let right = right.get(at).cloned().unwrap_or_default();
            lines.push(format!("{left} {} {right}", look.paint(Style::Faint, "|")));
        }
        lines.push(look.paint(Style::Faint, &"-".repeat(look.width.saturating_sub(1))));
        lines.extend(detail.iter().map(|line| fit(line, look.width.saturating_sub(1))));
        let chosen = self.shown().map_or(0, |shown| shown.ticked.len());
        let keys = match (self.help, self.said, self.right) {
            (true, ..) => "any key goes back".into(),
            (_, Some(said), _) => said.into(),
            (_, _, false) => format!("{chosen} ticked   Enter to the sessions  a all  ? help  q leave"),
            (_, _, true) => format!("{chosen} ticked   Enter restore  Space tick  a all  ? help  q leave"),
        };
        lines.push(look.paint(Style::Strong, &fit(&keys, look.width.saturating_sub(1))));
        lines
    }

    fn left(&self, look: Look, body: usize, width: usize, now: Timestamp) -> Vec<String> {
        let from = window(self.at, self.snapshots.len(), body);
        let line = |(at, one): (usize, &Listed)| {
            let here = at == self.at;
            let pointer = if here { ">" } else { " " };
            let mark = if one.newest { "*" } else { " " };
            let when = ago(one.taken, now).replace('\u{a0}', " ");
            let count = one.sessions.map_or_else(|| "damaged".into(), |count| count.to_string());
            let text = format!("{pointer}{mark}{when:<13}{count:>8}");
            let text = text.get(..width).unwrap_or(&text);
            look.paint(if here && !self.right { Style::Warn } else { Style::Plain }, &fit(text, width))
        };
        self.snapshots.iter().enumerate().skip(from).take(body).map(line).collect()
    }

    /// What stands above the sessions, they themself, and what there is to know of the one under the pointer.
    fn rows(&self, look: Look, body: usize, width: usize) -> (String, Vec<String>, [String; 2]) {
        let Some(shown) = self.shown() else {
            return (String::new(), vec!["…".into()], Default::default());
        };
        if shown.rows.is_empty() {
            return (String::new(), vec!["nothing that can be shown".into()], Default::default());
        }
        let from = window(shown.at, shown.rows.len(), body);
        let longest = shown.rows.iter().map(|row| row.name.as_str().len()).max().unwrap_or(0);
        let name_width = longest.min(width / 2).max(8);
        let line = |(at, row): (usize, &Row)| {
            let here = at == shown.at && self.right;
            let tick = match (row.action, shown.ticked.contains(&at)) {
                (Action::Skip, _) => "   ",
                (_, true) => "[x]",
                (_, false) => "[ ]",
            };
            let (style, does) = does(row);
            let note = note(row);
            let does = if note.is_empty() { does } else { format!("{does}, {note}") };
            let pointer = if here { ">" } else { " " };
            let head = format!("{pointer}{tick} {} ", fit(row.name.as_str(), name_width));
            let head: String = head.chars().take(width).collect();
            let room = width.saturating_sub(head.chars().count());
            let head = look.paint(if here { Style::Warn } else { Style::Plain }, &head);
            head + &look.paint(style, fit(&does, room).trim_end())
        };
        let heading = format!("     {} RESTORE", fit("SESSION", name_width));
        let lines = shown.rows.iter().enumerate().skip(from).take(body).map(line).collect();
        let detail = shown.rows.get(shown.at).map_or_else(Default::default, |row| {
            let conversation = match &row.conversation {
                None => "no conversation".into(),
                Some(id) if look.width < 80 => short(id).to_owned(),
                Some(id) => format!("conversation {id}"),
            };
            let windows = crate::page::count(row.windows, "window", "windows");
            let panes = crate::page::count(row.panes, "pane", "panes");
            [one_line(&row.folder), format!("{windows}, {panes}, {conversation}")]
        });
        (heading, lines, detail)
    }
}

/// The first line to show so that line `at` of `length` is among `room`.
fn window(at: usize, length: usize, room: usize) -> usize {
    at.saturating_sub(room / 2).min(length.saturating_sub(room))
}

/// Exactly `width` columns. A character that takes two is shown as `?`, so that columns stay columns.
fn fit(text: &str, width: usize) -> String {
    let plain = |c: char| {
        let wide = matches!(c as u32, 0x0300..=0x036f | 0x1100..=0x115f | 0x200b..=0x200f
                | 0x202a..=0x202e
                | 0x2066..=0x2069
                | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe00..=0xfe6f | 0xff00..=0xff60 | 0x1f000..);
        if c.is_control() || wide { '?' } else { c }
    };
    let mut line: String = text.chars().map(plain).take(width).collect();
    if text.chars().count() > width && width > 0 {
        line.pop();
        line.push('~');
    }
    let missing = width.saturating_sub(line.chars().count());
    line + &" ".repeat(missing)
}

/// The terminal while the picker has it; given back whatever happens.
struct Screen;

impl Screen {
    fn take() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        let screen = Screen;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Lets a person choose; `look_at` asks what a snapshot holds. `None` when they leave.
pub(crate) fn pick(
    snapshots: Vec<Listed>,
    colour: bool,
    mut look_at: impl FnMut(Moment) -> Result<Option<View>>,
) -> Result<Option<(Moment, Vec<String>)>> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(CommandError::new("--pick needs a terminal")
            .next("over ssh: ssh -t HOST rosterctl tmux restore --pick; in a script: restore-selection"));
    }
    let mut picker = Picker::new(snapshots);
    let _screen = Screen::take()?;
    loop {
        if let Some(taken) = picker.wants() {
            match look_at(taken)? {
                Some(view) => picker.show(view),
                None => picker.show_nothing(taken),
            }
        }
        let (width, height) = terminal::size()?;
        let look = Look { colour, marks: false, width: usize::from(width).max(24) };
        paint(&picker.draw(look, usize::from(height), Timestamp::now()))?;
        // A resize draws again as well.
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match picker.key(key) {
                Next::Stay | Next::Look(_) => {}
                Next::Restore(taken, names) => return Ok(Some((taken, names))),
                Next::Leave => return Ok(None),
            }
        }
    }
}

fn paint(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (row, line) in lines.iter().enumerate() {
        queue!(
            out,
            cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)),
            style::Print(line),
            terminal::Clear(terminal::ClearType::UntilNewLine)
        )?;
    }
    queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use tmux_persist::{ConversationId, Folder, SessionName, State};

    use super::*;

    const LOOK: Look = Look { colour: false, marks: false, width: 80 };
    const NOW: i64 = 1_772_370_000;

    fn row(name: &str, action: Action, default: bool, note: Option<&str>) -> Row {
        Row {
            name: SessionName::new(name).unwrap(),
            folder: Folder::new("/home/ann/code").unwrap(),
            conversation: ConversationId::new("01234567-89ab-cdef-0123-456789abcdef"),
            state: State::Missing,
            action,
            target: SessionName::new(&format!("{name}-1200")).unwrap(),
            default,
            note: note.map(str::to_owned),
            instead: None,
            windows: 1,
            panes: 2,
        }
    }

    fn picker() -> Picker {
        let listed = |ago: i64, sessions, newest| Listed { taken: Moment(NOW - ago), sessions, newest };
        let mut picker = Picker::new(vec![
            listed(2, Some(1), false),
            listed(400, Some(4), true),
            listed(90_000, None, false),
        ]);
        picker.show(View {
            taken: Moment(NOW - 400),
            rows: vec![
                row("infra", Action::New, true, None),
                row("web", Action::Suffixed, true, None),
                row("live", Action::Skip, false, None),
                row("old", Action::New, false, Some("killed@1772369000")),
            ],
        });
        picker
    }

    fn drawn(picker: &mut Picker, height: usize) -> String {
        drawn_in(picker, 80, height)
    }

    fn drawn_in(picker: &mut Picker, width: usize, height: usize) -> String {
        let lines = picker.draw(Look { width, ..LOOK }, height, Timestamp::from_second(NOW).unwrap());
        assert_eq!(lines.len(), height);
        assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
        lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    fn press(picker: &mut Picker, code: KeyCode) -> Next {
        picker.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn it_fits_a_small_terminal() {
        insta::assert_snapshot!(drawn(&mut picker(), 12), @"
    Restore tmux sessions      20260301T125320
      TAKEN        SESSIONS  |      SESSION  RESTORE
      just now            1  |  [x] infra    make it
    >*6 min ago           4  |  [x] web      make web-1200, web is live with someth~
      25 h ago      damaged  |      live     nothing, it is live
                             |  [ ] old      make it, closed on purpose since
                             |
                             |
    -------------------------------------------------------------------------------
    /home/ann/code
    1 window, 2 panes, conversation 01234567-89ab-cdef-0123-456789abcdef
    2 ticked   Enter to the sessions  a all  ? help  q leave
    ");
        let mut picker = picker();
        press(&mut picker, KeyCode::Enter);
        let keys = drawn(&mut picker, 12).lines().last().map(str::to_owned);
        assert_eq!(keys.as_deref(), Some("2 ticked   Enter restore  Space tick  a all  ? help  q leave"));
        let _ = drawn(&mut picker, 24);
        for width in [24, 30, 39] {
            let _ = drawn_in(&mut picker, width, 12);
        }
        insta::assert_snapshot!(drawn_in(&mut picker, 40, 12), @"
        Restore tmux s~   20260301T125320
          TAKEN       ~ |      SESSION  RESTORE
          just now      | >[x] infra    make it
        >*6 min ago     |  [x] web      make we~
          25 h ago      |      live     nothing~
                        |  [ ] old      make it~
                        |
                        |
        ---------------------------------------
        /home/ann/code
        1 window, 2 panes, 01234567
        2 ticked   Enter restore  Space tick  ~
        ");
    }

    #[test]
    fn a_question_mark_shows_the_keys_and_any_key_goes_back() {
        let mut picker = picker();
        assert_eq!(press(&mut picker, KeyCode::Char('?')), Next::Stay);
        insta::assert_snapshot!(drawn(&mut picker, 15), @"
        Restore tmux sessions      20260301T125320
          TAKEN        SESSIONS  |      SESSION  RESTORE
        Left, right    to the snapshots, to the sessions (or Tab, h, l)
        Up, down       one line on (or k, j; page and end keys)
        Enter          from a snapshot to its sessions;
                       there: restore what is ticked
        Space          tick a session, or not
        a              tick all, or none
        q, Esc         leave, and restore nothing
        * marks the snapshot that a restore takes by itself.
        [x] is ticked; what is live cannot be.
        -------------------------------------------------------------------------------
        /home/ann/code
        1 window, 2 panes, conversation 01234567-89ab-cdef-0123-456789abcdef
        any key goes back
        ");
        assert_eq!(press(&mut picker, KeyCode::Char('q')), Next::Stay);
        assert!(drawn(&mut picker, 15).contains("infra"));
    }

    #[test]
    fn a_key_that_does_nothing_says_why() {
        let mut picker = picker();
        let mut said = |code: KeyCode| {
            press(&mut picker, code);
            drawn(&mut picker, 12).lines().last().unwrap().to_owned()
        };
        assert_eq!(said(KeyCode::Char(' ')), "Space ticks sessions: Enter goes there");
        assert_eq!(said(KeyCode::Enter), "2 ticked   Enter restore  Space tick  a all  ? help  q leave");
        assert_eq!(said(KeyCode::Char(' ')), "1 ticked   Enter restore  Space tick  a all  ? help  q leave");
        assert_eq!(said(KeyCode::Char(' ')), "2 ticked   Enter restore  Space tick  a all  ? help  q leave");
        said(KeyCode::Down);
        said(KeyCode::Down);
        assert_eq!(said(KeyCode::Char(' ')), "there is nothing to restore of it");
        said(KeyCode::Char('a'));
        said(KeyCode::Char('a'));
        assert_eq!(said(KeyCode::Enter), "nothing is ticked: Space ticks");
    }

    #[test]
    fn keys_move_and_tick_and_what_is_live_cannot_be_ticked() {
        let mut picker = picker();
        assert_eq!(press(&mut picker, KeyCode::Enter), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::Char(' ')), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::Down), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::Down), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::Char(' ')), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::End), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::Char(' ')), Next::Stay);
        assert_eq!(
            press(&mut picker, KeyCode::Enter),
            Next::Restore(Moment(NOW - 400), vec!["web".into(), "old".into()])
        );
        press(&mut picker, KeyCode::Char('a'));
        press(&mut picker, KeyCode::Char('a'));
        assert_eq!(press(&mut picker, KeyCode::Enter), Next::Stay, "nothing is ticked");
        assert_eq!(press(&mut picker, KeyCode::Esc), Next::Leave);
    }

    #[test]
    fn another_snapshot_is_asked_for_once() {
        let mut picker = picker();
        assert_eq!(press(&mut picker, KeyCode::Down), Next::Look(Moment(NOW - 90_000)));
        picker.show_nothing(Moment(NOW - 90_000));
        assert_eq!(press(&mut picker, KeyCode::Up), Next::Stay);
        assert_eq!(press(&mut picker, KeyCode::PageUp), Next::Look(Moment(NOW - 2)));
    }

    #[test]
    fn hostile_text_keeps_its_place() {
        assert_eq!(fit("a\u{1b}[2Jb\n漢字e\u{301}", 8), "a?[2Jb?~");
        assert_eq!(fit("ab", 4), "ab  ");
    }
}
