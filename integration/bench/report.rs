//! The report: what was measured, ratios first, and whether it is as it should be.

use std::fmt;

/// The most that is allowed of something.
#[derive(Clone, Copy, Debug)]
pub struct Target(pub f64);

impl Target {
    /// `0.31 | ≤ 0.40, pass`: two cells.
    pub fn cells(self, value: f64, unit: &str) -> String {
        let verdict = if value <= self.0 { "pass" } else { "**miss**" };
        format!("{value:.2}{unit} | ≤ {:.2}{unit}, {verdict}", self.0)
    }

    /// The same where there may be no target.
    pub fn cells_of(target: Option<Self>, value: f64, unit: &str) -> String {
        match target {
            Some(target) => target.cells(value, unit),
            None => format!("{value:.2}{unit} | –"),
        }
    }
}

/// A table with a title.
#[derive(Debug)]
struct Table {
    title: String,
    columns: &'static str,
    rows: Vec<String>,
    note: &'static str,
}

/// Everything that is written in the end.
#[derive(Debug)]
pub struct Report {
    machine: String,
    tables: Vec<Table>,
}

impl Report {
    /// One without measurements.
    pub fn new(machine: String) -> Self {
        Self { machine, tables: Vec::new() }
    }

    /// Adds a table; cells are separated by ` | `.
    pub fn table(
        &mut self,
        title: &str,
        columns: &'static str,
        rows: Vec<String>,
        note: &'static str,
    ) {
        self.tables.push(Table { title: title.to_owned(), columns, rows, note });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for Table { title, columns, rows, note } in &self.tables {
            writeln!(f, "\n### {title}\n\n| {columns} |")?;
            // Words to the left, numbers to the right.
            let rules: Vec<_> = columns
                .split(" | ")
                .enumerate()
                .map(|(column, _)| if column == 0 { "---" } else { "--:" })
                .collect();
            writeln!(f, "| {} |", rules.join(" | "))?;
            for row in rows {
                writeln!(f, "| {row} |")?;
            }
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}
