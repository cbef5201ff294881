//! A table that fits the terminal it is printed on.

use std::io::{self, IsTerminal, Write};

/// A column of a [`Table`].
#[derive(Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Whether its cells may be cut when the terminal is too narrow.
    pub shrinks: bool,
}

/// Rows of cells below titles, with two blanks between columns.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

const GAP: usize = 2;
/// No column is cut to less, so that its cells can still be told apart.
const NARROWEST: usize = 8;

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Prints to fit standard output where that is a terminal, else in full.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let terminal = io::stdout();
        let size = terminal.is_terminal().then(|| rustix::termios::tcgetwinsize(&terminal));
        let limit = size.and_then(Result::ok).map(|size| usize::from(size.ws_col));
        out.write_all(self.render(limit.filter(|limit| *limit > 0)).as_bytes())
    }

    fn render(&self, limit: Option<usize>) -> String {
        let widths = self.widths(limit);
        let titles = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let cell = cut(cell, *width);
                format!("{cell:width$}")
            });
            let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let width = |(at, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.chain([column.title.len()]).max().unwrap_or_default()
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let gaps = GAP * self.columns.len().saturating_sub(1);
        while limit.is_some_and(|limit| widths.iter().sum::<usize>() + gaps > limit) {
            let shrinkable = self.columns.iter().zip(&mut widths).filter(|(c, _)| c.shrinks);
            match shrinkable.map(|(_, width)| width).max_by_key(|width| **width) {
                Some(widest) if *widest > NARROWEST => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |title, shrinks| Column { title, shrinks };
        let mut table = Table::new(&[column("PORT", false), column("OWNER", true)]);
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
}
