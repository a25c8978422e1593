//! Standard output and standard error: who reads them, and writing so that a reader who leaves is no drama.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Instant;

use serde::Serialize;

use crate::error::Result;
use crate::page::{Look, Style};

/// Columns where nobody says how many there are.
const WIDTH: usize = 80;

/// Where a command's answer goes.
#[derive(Debug)]
pub(crate) struct Out {
    /// Whether the answer is for a program.
    pub(crate) json: bool,
    /// How text on standard output looks.
    pub(crate) look: Look,
    /// How text on standard error looks.
    pub(crate) aside: Look,
}

impl Out {
    /// Looks once at the terminal and the environment.
    pub(crate) fn new(json: bool) -> Self {
        let width = width();
        let look = |terminal: bool| Look { colour: terminal && colour(), marks: terminal && utf8(), width };
        Out { json, look: look(io::stdout().is_terminal()), aside: look(io::stderr().is_terminal()) }
    }

    /// Writes text for people.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// Writes one document for programs.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.text(&(text + "\n"))
    }

    /// Writes one of many lines for programs.
    pub(crate) fn event(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.text(&(text + "\n"))
    }

    /// Says something beside the answer. Nobody may be listening, and then nothing is lost.
    pub(crate) fn aside(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }
}

/// Asks on the terminal; `None` where there is none.
pub(crate) fn ask(out: &Out, question: &str) -> Result<Option<String>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    out.aside(question);
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(Some(answer.trim().to_owned()))
}

/// <https://no-color.org>: set and not empty means no colour.
fn colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

fn utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(env::var_os).find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_string_lossy().to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

fn width() -> usize {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    columns.or_else(terminal).unwrap_or(WIDTH).clamp(40, 200)
}

/// One line on standard error that says what a run is at; only on a terminal.
#[derive(Debug)]
pub(crate) struct Spinner {
    on: bool,
    look: Look,
    phase: String,
    began: Instant,
    frame: usize,
}

impl Spinner {
    /// A spinner that starts with `phase`.
    pub(crate) fn new(out: &Out, phase: &str) -> Self {
        let on = io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        Spinner { on, look: out.aside, phase: phase.into(), began: Instant::now(), frame: 0 }
    }

    /// The run is at something else.
    pub(crate) fn phase(&mut self, text: &str) {
        self.phase = crate::page::clean(text).replace('\n', " ");
    }

    /// Draws the next picture.
    pub(crate) fn tick(&mut self) {
        if !self.on {
            return;
        }
        let frames: &[&str] = if self.look.marks {
            &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
        } else {
            &["|", "/", "-", "\\"]
        };
        let frame = frames.get(self.frame % frames.len()).copied().unwrap_or_default();
        self.frame = self.frame.wrapping_add(1);
        let text = format!("{}, {} s", self.phase, self.began.elapsed().as_secs());
        let text: String = text.chars().take(self.look.width.saturating_sub(3)).collect();
        self.draw(&format!("\r\u{1b}[K{frame} {}", self.look.paint(Style::Faint, &text)));
    }

    /// Takes the line away, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        if self.on && self.frame > 0 {
            self.draw("\r\u{1b}[K");
        }
    }

    fn draw(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }
}
