//! Plain tables for people: columns aligned, colour only on a terminal.

use std::io::IsTerminal as _;

/// Rows under a header.
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell, and how it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// What a cell says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// Between columns.
const GAP: usize = 2;
const RESET: &str = "\x1b[0m";

impl Tone {
    /// The terminal's green, yellow and red (ECMA-48 SGR).
    fn escape(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("\x1b[32m"),
            Self::Doubtful => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
        }
    }
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        // What others wrote must not command the terminal.
        let text: String = text.into().chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        Self { text, tone }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl Table {
    pub(super) fn new(header: Vec<&'static str>) -> Self {
        Self { header, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The table as text, a line a row, its last column as long as it is.
    pub(super) fn text(&self, colour: bool) -> String {
        let header: Vec<Cell> = self.header.iter().copied().map(Cell::from).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let width = |column: usize| {
            let cells = lines().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            // Spaces are owed until something follows them.
            let mut owed = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if !cell.text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', owed));
                    owed = 0;
                }
                match cell.tone.escape().filter(|_| colour) {
                    Some(escape) => line.extend([escape, &cell.text, RESET]),
                    None => line.push_str(&cell.text),
                }
                owed += width - cell.text.chars().count() + GAP;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// Whether standard output takes colour: a terminal whose owner did not decline (<https://no-color.org>).
pub(super) fn colour() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let mut table = Table::new(vec!["POD", "STATE", "WHY"]);
        table.push(vec!["wüb".into(), Cell::new("injected", Tone::Good), "".into()]);
        table.push(vec!["a-long-name".into(), Cell::new("missing", Tone::Bad), "made while away".into()]);
        let expected = "POD          STATE     WHY\nwüb          injected\na-long-name  missing   made while away\n";
        assert_eq!(table.text(false), expected);
        assert!(table.text(true).contains("\x1b[31mmissing\x1b[0m   made"));
    }

    #[test]
    fn what_others_wrote_does_not_command_the_terminal() {
        let mut table = Table::new(vec!["WHY"]);
        table.push(vec!["a\x1b[2Jb\nc".into()]);
        assert_eq!(table.text(false), "WHY\na [2Jb c\n");
    }
}
