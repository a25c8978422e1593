//! tmux's layout strings, such as `b25f,200x50,0,0{100x50,0,0,1,99x50,101,0,2}`: a checksum, then cells; a cell is its
//! size and place, then either a pane's number or the cells within. Pane numbers differ on every server, so they and
//! the checksum, which covers them, are left out of a snapshot and made anew. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Far more than any screen holds, so that a hostile string ends early.
const MAX_LENGTH: usize = 64 * 1024;
const MAX_DEPTH: usize = 64;

/// A layout without pane numbers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Layout {
    cells: String,
    panes: usize,
    size: (u32, u32),
}

impl Layout {
    /// Reads what `#{window_layout}` says; `None` for a form that is not known.
    pub(crate) fn from_tmux(text: &str) -> Option<Layout> {
        let (checksum, cells) = text.split_once(',')?;
        let hex = checksum.len() == 4 && checksum.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex {
            return None;
        }
        Layout::from_cells(cells)
    }

    /// Reads the cells alone, with pane numbers or without.
    pub(crate) fn from_cells(text: &str) -> Option<Layout> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let mut reader = Reader { rest: text, cells: String::new(), panes: 0 };
        let size = reader.cell(0)?;
        let well = reader.rest.is_empty() && size.0 > 0 && size.1 > 0;
        well.then_some(Layout { cells: reader.cells, panes: reader.panes, size })
    }

    /// For `select-layout`: the cells with their checksum.
    pub(crate) fn to_tmux(&self) -> String {
        format!("{:04x},{}", checksum(&self.cells), self.cells)
    }

    /// How many panes it places.
    pub(crate) fn panes(&self) -> usize {
        self.panes
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u32, u32) {
        self.size
    }
}

impl TryFrom<String> for Layout {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Layout::from_cells(&text).ok_or_else(|| format!("`{}` is no layout", text.escape_default()))
    }
}

impl From<Layout> for String {
    fn from(layout: Layout) -> String {
        layout.cells
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cells)
    }
}

/// As tmux computes it: a 16-bit sum that is rotated right before each byte.
fn checksum(cells: &str) -> u16 {
    cells.bytes().fold(0, |sum: u16, byte| sum.rotate_right(1).wrapping_add(u16::from(byte)))
}

struct Reader<'a> {
    rest: &'a str,
    cells: String,
    panes: usize,
}

impl Reader<'_> {
    fn cell(&mut self, depth: usize) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let width = self.number()?;
        self.expect('x')?;
        let height = self.number()?;
        self.expect(',')?;
        self.number()?;
        self.expect(',')?;
        self.number()?;
        match self.rest.chars().next() {
            Some(open @ ('{' | '[')) => {
                let close = if open == '{' { '}' } else { ']' };
                self.expect(open)?;
                self.cell(depth + 1)?;
                while self.rest.starts_with(',') {
                    self.expect(',')?;
                    self.cell(depth + 1)?;
                }
                self.expect(close)?;
            }
            _ => {
                self.panes += 1;
                self.skip_pane_number();
            }
        }
        Some((width, height))
    }

    /// `,7`, unless it begins the next cell: `,7x…`.
    fn skip_pane_number(&mut self) {
        let Some(after) = self.rest.strip_prefix(',') else { return };
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() < after.len() && !rest.starts_with('x') {
            self.rest = rest;
        }
    }

    fn number(&mut self) -> Option<u32> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.rest.split_at_checked(digits)?;
        let value: u32 = number.parse().ok().filter(|value| *value <= 65_535)?;
        self.cells.push_str(&value.to_string());
        self.rest = rest;
        Some(value)
    }

    fn expect(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        self.cells.push(c);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pane_numbers_are_left_out_and_the_checksum_is_tmuxs() {
        let layout =
            Layout::from_tmux("81f0,200x50,0,0[200x25,0,0,0,200x24,0,26{100x24,0,26,1,99x24,101,26,2}]")
                .unwrap();
        assert_eq!(
            String::from(layout.clone()),
            "200x50,0,0[200x25,0,0,200x24,0,26{100x24,0,26,99x24,101,26}]"
        );
        assert_eq!((layout.panes(), layout.size()), (3, (200, 50)));
        // The sum itself, on a string whose sum tmux printed.
        assert_eq!(checksum("80x24,0,0,3"), 0xb260);
        assert_eq!(checksum("200x50,0,0[200x25,0,0,0,200x24,0,26{100x24,0,26,1,99x24,101,26,2}]"), 0x81f0);
    }

    #[test]
    fn what_is_no_layout_is_none() {
        for bad in [
            "",
            "80x24,0,0",
            "b260,80x24,0",
            "b260,80x24,0,0{",
            "b260,80x24,0,0,3}",
            "b260,0x0,0,0,1",
            "zz,1x1,0,0",
        ] {
            assert_eq!(Layout::from_tmux(bad), None, "{bad}");
        }
        assert_eq!(Layout::from_cells(&"1x1,0,0{".repeat(5000)), None);
    }

    fn cells() -> impl Strategy<Value = String> {
        let size = || (1..300u32, 1..100u32, 0..300u32, 0..100u32);
        let leaf = (size(), proptest::option::of(0..999u32)).prop_map(|((w, h, x, y), id)| {
            let id = id.map(|id| format!(",{id}")).unwrap_or_default();
            format!("{w}x{h},{x},{y}{id}")
        });
        leaf.prop_recursive(4, 24, 4, move |inner| {
            (size(), proptest::collection::vec(inner, 2..4), any::<bool>()).prop_map(
                |((w, h, x, y), cells, across)| {
                    let (open, close) = if across { ('{', '}') } else { ('[', ']') };
                    format!("{w}x{h},{x},{y}{open}{}{close}", cells.join(","))
                },
            )
        })
    }

    proptest! {
        #[test]
        fn a_layout_that_was_read_is_read_again_as_the_same(cells in cells()) {
            let layout = Layout::from_cells(&cells).unwrap();
            prop_assert_eq!(Layout::from_tmux(&layout.to_tmux()).unwrap(), layout);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9x,{}\\[\\]a-f]{0,40}") {
            let _ = Layout::from_tmux(&text);
        }
    }
}
