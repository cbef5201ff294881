//! Colours: on a terminal only, and not where `NO_COLOR` is set.

use std::{fmt::Display, io};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Writes in colours, or does not.
#[derive(Clone, Copy)]
pub struct Ink {
    is_coloured: bool,
}

impl Ink {
    /// What standard output takes.
    pub fn of_stdout() -> Self {
        let is_coloured = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Self { is_coloured }
    }

    /// All is well.
    pub fn good(self, text: impl Display) -> String {
        self.paint(AnsiColor::Green, text)
    }

    /// Something is to be looked at.
    pub fn warning(self, text: impl Display) -> String {
        self.paint(AnsiColor::Yellow, text)
    }

    /// Something is not as it should be.
    pub fn bad(self, text: impl Display) -> String {
        self.paint(AnsiColor::Red, text)
    }

    fn paint(self, colour: AnsiColor, text: impl Display) -> String {
        if !self.is_coloured {
            return text.to_string();
        }
        let style: Style = colour.on_default();
        format!("{style}{text}{style:#}")
    }
}
