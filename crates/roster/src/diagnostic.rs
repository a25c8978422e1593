//! What is wrong with a roster or a configuration, and where: data first, text for a person second.
//!
//! A diagnostic carries the line it speaks of, so that it can be shown long after the file has changed, by
//! a program that never read it (`rosterctl status` shows what the daemon found).

use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// A place in a file, with the line that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The line's text; of a very long line the part around the place, between `…`.
    pub text: String,
    /// Where in `text` the place begins, in characters from 0.
    pub start: usize,
    /// How many characters of `text` it covers; 0 when it is the end of the line.
    pub width: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, as the caller named it.
    pub file: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Another place that is part of it, such as where a name was given first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Also>,
}

/// A second place and what it has to do with the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Also {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What is there.
    pub message: String,
}

/// Everything that is wrong with a file, in the order of the places. Never empty when it comes from
/// [`crate::parse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// The diagnostics, at most [`Diagnostics::MOST`].
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there are.
    pub omitted: usize,
}

impl Diagnostics {
    /// More than this many help nobody, and a hostile file must not make us print for minutes.
    pub const MOST: usize = 500;

    /// All of them for a person: each with its place, its line, a caret and a help; a sum at the end.
    /// Ends with a line break.
    pub fn render(&self, colour: bool) -> String {
        let renderer =
            if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&diagnostic.placed(renderer.render(&[diagnostic.group()])));
            out.push_str("\n\n");
        }
        if self.omitted > 0 {
            out.push_str(&format!("… and {} more\n\n", self.omitted));
        }
        let all = self.diagnostics.len() + self.omitted;
        let file = self.diagnostics.first().map_or("", |first| first.file.as_str());
        let errors = if all == 1 { "error" } else { "errors" };
        out.push_str(&format!("{}: {all} {errors}\n", visible(file)));
        out
    }
}

impl fmt::Display for Diagnostics {
    /// One line: the first of them and how many follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.diagnostics.first() else { return f.write_str("nothing is wrong") };
        first.fmt(f)?;
        match self.diagnostics.len() + self.omitted - 1 {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    /// One line, without the source text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, .. } = self.place;
        write!(f, "{}:{line}:{column}: {}", visible(&self.file), self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    /// The renderer counts columns in the text it gets; of a line that was cut only we know the column.
    fn placed(&self, mut rendered: String) -> String {
        for place in std::iter::once(&self.place).chain(self.also.as_ref().map(|also| &also.place)) {
            if place.column != place.start + 1 {
                let at = |column| format!("{}:{}:{column}", self.file, place.line);
                rendered = rendered.replacen(&at(place.start + 1), &at(place.column), 1);
            }
        }
        rendered
    }

    fn group(&self) -> Group<'_> {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let here = AnnotationKind::Primary.span(self.place.bytes());
        let also = self.also.as_ref().map(|also| {
            let there = AnnotationKind::Context.span(also.place.bytes());
            (&also.place, there.label(Some(also.message.as_str())))
        });
        let group = match also {
            Some((place, there)) if place.line == self.place.line && place.text == self.place.text => {
                title.element(self.snippet(&self.place).annotation(here).annotation(there))
            }
            Some((place, there)) => {
                let group = title.element(self.snippet(&self.place).annotation(here));
                group.element(self.snippet(place).annotation(there))
            }
            None => title.element(self.snippet(&self.place).annotation(here)),
        };
        match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }

    fn snippet<'a>(&'a self, place: &'a Place) -> Snippet<'a, Annotation<'a>> {
        Snippet::source(place.text.as_str()).line_start(place.line).path(self.file.as_str())
    }
}

impl Place {
    /// The part of `text` that it covers, in bytes.
    fn bytes(&self) -> Range<usize> {
        let byte = |chars: usize| self.text.char_indices().nth(chars).map_or(self.text.len(), |(at, _)| at);
        byte(self.start)..byte(self.start + self.width)
    }
}

/// A text from a file as part of a message: in backticks, cut when long, with nothing in it that a terminal
/// or a log would obey.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("`{}…`", visible(&text[..cut])),
        None => format!("`{}`", visible(text)),
    }
}

fn visible(text: &str) -> String {
    // The bidirectional overrides can make a line read as something it is not.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
