//! Columns for a terminal: as wide as their widest cell, numbers to the right, nothing drawn around them.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::output::{Tone, harmless};

const GAP: &str = "  ";

pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    title: &'static str,
    right: bool,
}

/// One word or number in a tone.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl ToString, tone: Tone) -> Self {
        Self { text: harmless(&text.to_string()).replace('\n', "\\n"), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl Table {
    /// A title that begins with `>` has its column to the right.
    pub(super) fn new(titles: &[&'static str]) -> Self {
        let columns = titles.iter().map(|title| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        });
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn to_text(&self) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let cells = self.rows.iter().map(|row| row[at].text.width());
                cells.max().unwrap_or(0).max(column.title.width())
            })
            .collect();
        let titles: Vec<Cell> =
            self.columns.iter().map(|column| Cell::new(column.title, Tone::Bold)).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let last = row.iter().rposition(|cell| !cell.text.is_empty());
            for (at, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[at] - cell.text.width());
                let painted = cell.tone.paint(&cell.text);
                if at > 0 {
                    text.push_str(GAP);
                }
                let _ = match (self.columns[at].right, Some(at) == last) {
                    (true, _) => write!(text, "{pad}{painted}"),
                    (false, true) => write!(text, "{painted}"),
                    (false, false) => write!(text, "{painted}{pad}"),
                };
                if Some(at) == last {
                    break;
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&["TOPIC", ">RECORDS", "STATE"]);
        table.row(["日本".into(), 7.into(), "".into()]);
        // Names come from outside.
        table.row(["a\x1b[2J\nb".into(), 1.into(), "".into()]);
        table.row(["orders".into(), "1,234,567".into(), "ok".into()]);
        assert_eq!(
            table.to_text(),
            "TOPIC            RECORDS  STATE\n日本                   7\na\\u{1b}[2J\\nb          1\norders         1,234,567  ok\n"
        );
    }
}
