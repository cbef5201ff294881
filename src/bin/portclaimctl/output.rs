//! How things are printed: tables for people, JSON and YAML for programs.

use std::{
    fmt::Display,
    io::{self, Write},
};

use clap::ValueEnum;
use portclaim::lease::{Excerpt, Protocol};
use serde::Serialize;

use crate::{escape::printable, table::terminal};

/// Values of `-o` where there are more columns to show.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// What fits 80 columns.
    Table,
    /// More columns.
    Wide,
    Json,
    Yaml,
}

/// Values of `-o` elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlainOutput {
    Table,
    Json,
    Yaml,
}

/// Prints as JSON, in lines that people can read.
pub fn json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Prints as JSON on one line.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Prints as YAML.
pub fn yaml(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_yaml_ng::to_string(value)?;
    Ok(out.write_all(text.as_bytes())?)
}

/// Items with commas between them.
pub fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

/// Prints a text behind what begins its first line, to fit standard output where
/// that is a terminal; all lines but the first are `indent` blanks in.
pub fn paragraph(out: &mut impl Write, begin: &str, indent: usize, text: &str) -> io::Result<()> {
    let limit = terminal().map(|(columns, _)| columns);
    let mut lines = wrap(&printable(text), limit, indent.max(begin.len())).into_iter();
    writeln!(out, "{begin}{}", lines.next().unwrap_or_default())?;
    for line in lines {
        writeln!(out, "{:indent$}{line}", "")?;
    }
    Ok(())
}

/// The lines of a text that leave so many columns to others. Words are not broken.
pub fn wrap(text: &str, limit: Option<usize>, taken: usize) -> Vec<String> {
    let Some(limit) = limit else { return vec![text.to_owned()] };
    let room = limit.saturating_sub(taken);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A protocol on the command line.
pub fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_name(text)
        .ok_or_else(|| format!("{} is not tcp, udp or sctp", Excerpt::quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_go_on_below() {
        let text = "one two three";
        assert_eq!(wrap(text, None, 99), [text]);
        assert_eq!(wrap(text, Some(15), 2), [text]);
        assert_eq!(wrap(text, Some(14), 2), ["one two", "three"]);
        assert_eq!(wrap(text, Some(1), 2), ["one", "two", "three"]);
    }
}
