//! A table that fits the terminal it is printed on.

use std::io::{self, IsTerminal, Write};

use crate::{escape::printable, output::wrap};

/// A column of a [`Table`].
#[derive(Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Whether its cells may be cut when the terminal is too narrow. Others are cut
    /// only when that is not enough, and keep their ends.
    pub shrinks: bool,
}

/// Rows of cells below titles, with two blanks between columns.
pub struct Table {
    columns: Vec<Column>,
    numbers: Vec<usize>,
    at_least: Vec<usize>,
    rows: Vec<Row>,
}

enum Row {
    Cells(Vec<String>),
    /// One text across all columns, so many blanks from the left.
    Note(usize, String),
}

const GAP: usize = 2;
/// No column is cut to less, so that its cells can still be told apart.
const NARROWEST: usize = 8;

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            numbers: Vec::new(),
            at_least: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Aligns these columns, counted from 0, to the right.
    pub fn align_right(mut self, columns: &[usize]) -> Self {
        self.numbers = columns.to_vec();
        self
    }

    /// Makes the columns at least so wide as those of the table before.
    pub fn at_least(mut self, widths: &[usize]) -> Self {
        self.at_least = widths.to_vec();
        self
    }

    /// Adds a row with a cell for each column. What a terminal would not print is
    /// escaped.
    pub fn push(&mut self, row: Vec<String>) {
        let row = row.into_iter().map(|cell| match printable(&cell) {
            std::borrow::Cow::Borrowed(_) => cell,
            std::borrow::Cow::Owned(escaped) => escaped,
        });
        self.rows.push(Row::Cells(row.collect()));
    }

    /// Adds a text below the rows there are, across all columns.
    pub fn push_note(&mut self, indent: usize, note: String) {
        self.rows.push(Row::Note(indent, note));
    }

    /// Prints to fit standard output where that is a terminal, else in full.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let limit = terminal().map(|(columns, _)| columns);
        out.write_all(self.render(limit).as_bytes())
    }

    /// The lines that are printed, the titles first.
    pub fn lines(&self, limit: Option<usize>) -> Vec<String> {
        let widths = self.widths(limit);
        let titles = self.columns.iter().map(|column| column.title.to_owned());
        let titles: Vec<_> = titles.collect();
        let mut lines = vec![self.line(&titles, &widths)];
        for row in &self.rows {
            match row {
                Row::Cells(cells) => lines.push(self.line(cells, &widths)),
                Row::Note(indent, note) => {
                    let indent = " ".repeat(*indent);
                    let wrapped = wrap(&printable(note), limit, indent.len());
                    lines.extend(wrapped.into_iter().map(|line| format!("{indent}{line}")));
                }
            }
        }
        lines
    }

    fn render(&self, limit: Option<usize>) -> String {
        self.lines(limit).into_iter().map(|line| line + "\n").collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = if self.columns[at].shrinks { cut(cell, *width) } else { end(cell, *width) };
            let blanks = width.saturating_sub(cell.chars().count());
            let (before, after) =
                if self.numbers.contains(&at) { (blanks, 0) } else { (0, blanks) };
            line.extend(std::iter::repeat_n(' ', before + if at == 0 { 0 } else { GAP }));
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', after));
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// How wide each column is.
    pub fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let titles = self.columns.iter().map(|column| column.title.len());
        let at_least = self.at_least.iter().copied().chain(std::iter::repeat(0));
        let mut widths: Vec<usize> =
            titles.zip(at_least).map(|(title, least)| title.max(least)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        let gaps = GAP * self.columns.len().saturating_sub(1);
        for shrinks in [true, false] {
            while limit.is_some_and(|limit| widths.iter().sum::<usize>() + gaps > limit) {
                let columns = self.columns.iter().zip(&mut widths);
                let shrinkable = columns.filter(|(column, _)| column.shrinks == shrinks);
                match shrinkable.map(|(_, width)| width).max_by_key(|width| **width) {
                    Some(widest) if *widest > NARROWEST => *widest -= 1,
                    _ => break,
                }
            }
        }
        widths
    }
}

/// The columns and rows of the terminal that standard output is; none where it is
/// none, or does not know its size.
pub fn terminal() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some((columns, rows))
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The end of a cell: that of a host port is its number.
fn end(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    ['…'].into_iter().chain(cell.chars().skip(length + 1 - width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Column = Column { title: "PORT", shrinks: false };
    const OWNER: Column = Column { title: "OWNER", shrinks: true };

    fn table() -> Table {
        let mut table = Table::new(&[PORT, OWNER]);
        table.push(vec!["8080/tcp".into(), "a-long-namespace/a-long-pod".into()]);
        table.push(vec!["9/udp".into(), "ü".into()]);
        table
    }

    #[test]
    fn what_fits_is_shown_whole() {
        let whole = "PORT      OWNER\n8080/tcp  a-long-namespace/a-long-pod\n9/udp     ü\n";
        assert_eq!(table().render(None), whole);
        assert_eq!(table().render(Some(37)), whole);
    }

    #[test]
    fn what_does_not_fit_is_cut_where_it_may_be() {
        let narrow = "PORT      OWNER\n8080/tcp  a-long-nam…\n9/udp     ü\n";
        assert_eq!(table().render(Some(21)), narrow);
        let narrowest = "PORT      OWNER\n8080/tcp  a-long-…\n9/udp     ü\n";
        assert_eq!(table().render(Some(3)), narrowest);
    }

    #[test]
    fn where_that_is_not_enough_the_ends_are_kept() {
        let mut table = Table::new(&[PORT, OWNER]);
        table.push(vec!["[2001:db8::1]:19805/sctp".into(), "a-long-pod".into()]);
        assert_eq!(table.render(Some(24)), "PORT            OWNER\n…1]:19805/sctp  a-long-…\n");
    }

    #[test]
    fn numbers_stand_below_each_other() {
        let mut table = Table::new(&[OWNER, PORT]).align_right(&[1]);
        table.push(vec!["a".into(), "7".into()]);
        table.push(vec!["b".into(), "12345".into()]);
        table.push_note(2, "and a note".into());
        let aligned = "OWNER   PORT\na          7\nb      12345\n  and a note\n";
        assert_eq!(table.render(None), aligned);
        assert!(table.render(Some(8)).ends_with("\n  and a\n  note\n"));
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        let mut table = Table::new(&[OWNER]);
        table.push(vec!["\x1b[2J".into()]);
        assert_eq!(table.render(None), "OWNER\n\\u{1b}[2J\n");
    }
}
