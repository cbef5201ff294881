//! `portclaimctl doctor`.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Args;
use portclaim::command::{Diagnosis, State};
use serde::Serialize;

use crate::{check::Output, site::Site};

#[derive(Args)]
pub struct Options {
    /// How to print: lines for people, or JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Serialize)]
struct Row<'a> {
    check: &'a str,
    state: &'a str,
    text: &'a str,
    advice: Option<&'a str>,
}

/// Where lines end, unless the terminal is narrower.
const WIDTH: usize = 80;
/// `fail  `.
const INDENT: usize = 6;

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let found = site.operator()?.diagnose(&site.conflists);
    match options.output {
        Output::Json => {
            let rows = found.iter().map(|found| Row {
                check: found.check,
                state: found.state.name(),
                text: &found.text,
                advice: found.advice.as_deref(),
            });
            serde_json::to_writer_pretty(&mut *out, &rows.collect::<Vec<_>>())
                .map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Output::Text => {
            let width = width();
            for found in &found {
                write!(out, "{}", render(found, width))?;
            }
        }
    }
    let has_failed = found.iter().any(|found| found.state == State::Fail);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn width() -> usize {
    let terminal = io::stdout();
    let size = terminal.is_terminal().then(|| rustix::termios::tcgetwinsize(&terminal));
    let columns = size.and_then(Result::ok).map_or(WIDTH, |size| usize::from(size.ws_col));
    columns.clamp(2 * INDENT, WIDTH)
}

/// The finding, and below it what to do.
fn render(found: &Diagnosis, width: usize) -> String {
    let mut text = String::new();
    let state = format!("{:INDENT$}", found.state.name());
    wrap(&mut text, &state, &format!("{}: {}", found.check, found.text), width);
    if let Some(advice) = &found.advice {
        let arrow = format!("{:INDENT$}→ ", "");
        wrap(&mut text, &arrow, advice, width);
    }
    text
}

/// Breaks between words; a word that is too long stays whole, to be copied.
fn wrap(text: &mut String, start: &str, words: &str, width: usize) {
    let mut line = start.to_owned();
    let indent = start.chars().count();
    let mut is_empty = true;
    for word in words.split(' ') {
        let length = line.chars().count() + usize::from(!is_empty) + word.chars().count();
        if !is_empty && length > width {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let found = Diagnosis {
            check: "nft",
            state: State::Fail,
            text: "it is /a/path/that/is/too/long/for/a/line of version 0.9".to_owned(),
            advice: Some("install a later one".to_owned()),
        };
        assert_eq!(
            render(&found, 30),
            "fail  nft: it is\n      /a/path/that/is/too/long/for/a/line\n      of version 0.9\n      \
             → install a later one\n"
        );
    }
}
