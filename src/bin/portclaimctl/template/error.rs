//! Why a template is refused or cannot be filled.

use std::fmt;

use super::expression::ExpressionError;

/// Where in which template. Shown as `web.yaml:9`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The template, as the caller calls it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a template is refused or cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The port of a claim is needed and not there.
    #[error("{at}: port claim {claim:?} is not set")]
    NotSet {
        /// Where it is needed.
        at: Place,
        /// The claim.
        claim: String,
    },
    /// What stands in `{{ }}` or behind a directive is not what may stand there.
    #[error("{at}: cannot read {found:?}")]
    Expression {
        /// Where it begins.
        at: Place,
        /// All of it, or its first characters.
        found: String,
        /// What is wrong with it.
        #[source]
        cause: ExpressionError,
    },
    /// `$portClaims` in the middle of text.
    #[error(
        "{at}: $portClaims is outside of {{{{ }}}}, @if(), @elseif() and @isset(); between @verbatim \
         and @endverbatim it is text"
    )]
    Outside {
        /// Where.
        at: Place,
    },
    /// A directive of Blade's that has no meaning for ports.
    #[error(
        "{at}: @{name} is not supported, only @if, @elseif, @else, @endif, @isset, @endisset, \
         @verbatim and @endverbatim are; @@{name} is text"
    )]
    Unsupported {
        /// Where.
        at: Place,
        /// The directive, without its `@`.
        name: &'static str,
    },
    /// Something is opened and not closed.
    #[error("{at}: {opening:?} is not closed by {closing:?}")]
    Unclosed {
        /// Where it is opened.
        at: Place,
        /// What is opened.
        opening: &'static str,
        /// What would close it.
        closing: &'static str,
    },
    /// A directive that belongs to an earlier one, which is not there.
    #[error("{at}: {directive} has no {opening} before it that is still open")]
    Unopened {
        /// Where.
        at: Place,
        /// The directive.
        directive: &'static str,
        /// What should be open.
        opening: &'static str,
    },
    /// A directive ends what another one has opened since.
    #[error("{at}: {directive} comes before the {missing} that the {opening} of line {line} needs")]
    Crossed {
        /// Where.
        at: Place,
        /// The directive.
        directive: &'static str,
        /// What has been opened since.
        opening: &'static str,
        /// Its line.
        line: usize,
        /// What would close that.
        missing: &'static str,
    },
    /// A second `@else`, or an `@elseif` behind it.
    #[error("{at}: {directive} comes after the @else of the {opening} of line {line}")]
    AfterElse {
        /// Where.
        at: Place,
        /// The directive.
        directive: &'static str,
        /// What the `@else` belongs to.
        opening: &'static str,
        /// Its line.
        line: usize,
    },
    /// More conditions within each other than the engine can hold.
    #[error("{at}: at most {most} conditions may be open, each @elseif counts as one")]
    Deep {
        /// Where the first one too many is.
        at: Place,
        /// How many are allowed.
        most: usize,
    },
    /// A NUL, which is in no text.
    #[error("{at}: a NUL character is in the text")]
    Nul {
        /// Where.
        at: Place,
    },
    /// The engine refuses what the template was translated into.
    #[error("{file}: the template engine fails")]
    Engine {
        /// The template.
        file: String,
        /// What the engine says.
        #[source]
        cause: minijinja::Error,
    },
}
