//! Text for people: wrapping, tables and colour. Pure: whoever prints says how wide and how colourful.

use std::fmt::Write as _;

/// How the output looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Whether colour may be used.
    pub(crate) colour: bool,
    /// Whether the reader sees a terminal that shows more than ASCII.
    pub(crate) marks: bool,
    /// Columns.
    pub(crate) width: usize,
}

/// What a piece of text means; how that looks is decided here alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
}

impl Look {
    /// Colours `text`, which holds no line break.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Text in the making.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) look: Look,
    text: String,
}

impl Page {
    pub(crate) fn new(look: Look) -> Self {
        Page { look, text: String::new() }
    }

    /// The text; what was kept together on a line has ordinary spaces now.
    pub(crate) fn finish(self) -> String {
        self.text.replace('\u{a0}', " ")
    }

    /// An empty line, unless at the top or after another one.
    pub(crate) fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph in one style.
    pub(crate) fn para(&mut self, style: Style, text: &str) {
        self.hang("", Style::Plain, text, style);
    }

    /// A paragraph behind `lead`; further lines are indented as far as `lead` reaches.
    pub(crate) fn hang(&mut self, lead: &str, lead_style: Style, text: &str, style: Style) {
        self.indented(lead.chars().count(), lead, lead_style, text, style);
    }

    /// A paragraph that opens with `lead`; further lines are indented a little.
    pub(crate) fn open(&mut self, lead: &str, lead_style: Style, text: &str) {
        self.indented(2, lead, lead_style, text, Style::Plain);
    }

    fn indented(&mut self, indent: usize, lead: &str, lead_style: Style, text: &str, style: Style) {
        let first = lead.chars().count();
        for (number, line) in wrap(&clean(text), self.look.width, first, indent).iter().enumerate() {
            let lead = if number == 0 { self.look.paint(lead_style, lead) } else { " ".repeat(indent) };
            let line = self.look.paint(style, line);
            self.text.push_str(format!("{lead}{line}").trim_end());
            self.text.push('\n');
        }
    }

    /// Text that is laid out already, each line behind `indent`.
    pub(crate) fn verbatim(&mut self, indent: &str, text: &str) {
        for line in text.lines() {
            self.text.push_str(format!("{indent}{}", clean(line)).trim_end());
            self.text.push('\n');
        }
    }

    /// Rows of equal length under a heading, in columns.
    pub(crate) fn table(&mut self, heading: &[&str], rows: &[Vec<(Style, String)>]) {
        let heading = heading.iter().map(|cell| (Style::Faint, (*cell).to_owned())).collect::<Vec<_>>();
        let rows = std::iter::once(&heading)
            .chain(rows)
            .map(|row| row.iter().map(|(style, cell)| (*style, clean_line(cell))).collect::<Vec<_>>());
        let rows: Vec<_> = rows.collect();
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                rows.iter().filter_map(|row| row.get(column)).map(|(_, cell)| cell.chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        for row in &rows {
            let mut line = String::new();
            let last = row.iter().rposition(|(_, cell)| !cell.is_empty()).unwrap_or_default();
            for ((style, cell), width) in row.iter().zip(&widths).take(last + 1) {
                let pad = if line.is_empty() { "" } else { "  " };
                let fill = width.saturating_sub(cell.chars().count());
                let _ = write!(line, "{pad}{}{}", self.look.paint(*style, cell), " ".repeat(fill));
            }
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }
}

/// Breaks at spaces so that the first line fits behind `first` columns and the others behind `indent`. A word
/// longer than a line stays whole, so that a path can be copied.
fn wrap(text: &str, width: usize, first: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut length = 0;
        for word in paragraph.split(' ').filter(|word| !word.is_empty()) {
            let taken = if lines.is_empty() { first } else { indent };
            let word_length = word.chars().count();
            if length > 0 && taken + length + 1 + word_length > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += word_length;
        }
        lines.push(line);
    }
    lines
}

/// Shows control characters instead of obeying them: reasons carry what remotes and homes said, and such text
/// must not move the admin's cursor or turn the reading direction.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push(c),
            '\t' => clean.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                clean.extend(c.escape_unicode())
            }
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

/// The same for what is one line, or part of one, and may not pass for another of ours.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', "\\n").replace('\u{2028}', "\\u{2028}").replace('\u{2029}', "\\u{2029}")
}

/// `1 step`, `2 steps`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, marks: false, width: 24 };

    #[test]
    fn text_wraps_under_its_beginning() {
        let mut page = Page::new(PLAIN);
        page.hang(
            "  next: ",
            Style::Faint,
            "ask the remote whether it is well /a/path/that/is/longer/than/a/line",
            Style::Plain,
        );
        insta::assert_snapshot!(page.finish(), @r"
          next: ask the remote
                whether it is
                well
                /a/path/that/is/longer/than/a/line
        ");
    }

    #[test]
    fn a_table_aligns_also_with_colour() {
        let mut page = Page::new(Look { colour: true, ..PLAIN });
        page.table(
            &["NAME", "STATE"],
            &[
                vec![(Style::Strong, "al".into()), (Style::Bad, "degraded".into())],
                vec![(Style::Plain, "carol".into()), (Style::Plain, String::new())],
            ],
        );
        assert_eq!(
            page.finish(),
            "\u{1b}[2mNAME\u{1b}[0m   \u{1b}[2mSTATE\u{1b}[0m\n\u{1b}[1mal\u{1b}[0m     \u{1b}[31mdegraded\u{1b}[0m\ncarol\n"
        );
    }

    #[test]
    fn hostile_text_does_not_reach_the_terminal() {
        let mut page = Page::new(PLAIN);
        page.para(Style::Plain, "a\u{1b}[2Jb\rc\u{202e}d\u{9b}e");
        assert_eq!(page.finish(), "a\\u{1b}[2Jb\\rc\\u{202e}d\\u{9b}e\n");
        let mut page = Page::new(PLAIN);
        page.table(&["A", "B"], &[vec![(Style::Plain, "a\nb".into()), (Style::Plain, "c\u{2028}d".into())]]);
        assert_eq!(page.finish(), "A     B\na\\nb  c\\u{2028}d\n");
    }
}
