//! Cuts a template into its text and what Blade would act on.

use super::error::{Place, TemplateError};

/// One part of a template.
#[derive(Debug)]
pub(super) enum Piece<'t> {
    /// Text that is kept. Goes no further than the end of its line, which is in it.
    Text(&'t str),
    /// A comment, `@verbatim` or `@endverbatim`.
    Nothing,
    /// `{{ … }}`.
    Echo(Quote<'t>),
    /// `@if(…)`.
    If(Quote<'t>),
    /// `@elseif(…)`.
    ElseIf(Quote<'t>),
    /// `@isset(…)`.
    IsSet(Quote<'t>),
    Else,
    EndIf,
    EndIsSet,
}

/// A part of the template with an expression in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote<'t> {
    pub(super) whole: &'t str,
    pub(super) expression: &'t str,
}

/// Blade's directives that would do something there, and cannot here. Others may be
/// anything: `@daily`, `@media`.
const UNSUPPORTED: [&str; 19] = [
    "break",
    "continue",
    "empty",
    "endempty",
    "endfor",
    "endforeach",
    "endforelse",
    "endphp",
    "endswitch",
    "endunless",
    "endwhile",
    "for",
    "foreach",
    "forelse",
    "include",
    "php",
    "switch",
    "unless",
    "while",
];

const CLAIMS: &str = "$portClaims";

/// Reads a template once, from its beginning to its end.
pub(super) struct Scanner<'t> {
    file: &'t str,
    text: &'t str,
    at: usize,
    line: usize,
    /// Up to where everything is text.
    kept_until: usize,
    /// Where the `@endverbatim` is that the last `@verbatim` goes up to.
    verbatim_ends: Option<usize>,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, at: 0, line: 1, kept_until: 0, verbatim_ends: None }
    }

    /// The next piece and the line on which it begins, from 1; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(Piece<'t>, usize)>, TemplateError> {
        // Nothing is found where an `@` is dropped.
        loop {
            let line = self.line;
            if self.at == self.text.len() {
                return Ok(None);
            }
            let found = if self.at < self.kept_until {
                let kept = &self.text[self.at..self.kept_until];
                let end = kept.find('\n').map_or(kept.len(), |end| end + 1);
                Some(Piece::Text(self.advance(end)))
            } else if self.verbatim_ends == Some(self.at) {
                self.advance("@endverbatim".len());
                Some(Piece::Nothing)
            } else if self.rest().starts_with("{{--") {
                self.advance_past("{{--", "--}}")?;
                Some(Piece::Nothing)
            } else if self.rest().starts_with("{{") {
                let whole = self.advance_past("{{", "}}")?;
                Some(Piece::Echo(Quote { whole, expression: &whole[2..whole.len() - 2] }))
            } else if self.rest().starts_with("@{{") {
                // Blade takes this one for an escape behind a word, too.
                self.at += 1;
                let length = self.rest().find("}}").ok_or_else(|| self.unclosed("{{", "}}"))?;
                self.kept_until = self.at + length + 2;
                None
            } else if self.rest().starts_with('@') && !self.follows_a_word() {
                self.directive()?
            } else {
                Some(self.plain()?)
            };
            if let Some(piece) = found {
                return Ok(Some((piece, line)));
            }
        }
    }

    fn place(&self) -> Place {
        Place { file: self.file.to_owned(), line: self.line }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'t str {
        let passed = &self.rest()[..bytes];
        self.line += passed.bytes().filter(|b| *b == b'\n').count();
        self.at += bytes;
        passed
    }

    /// Passes what stands here up to its end, both included. What is not closed ends
    /// the scan: looked for once, so that many of them take no longer than one.
    fn advance_past(
        &mut self,
        opening: &'static str,
        closing: &'static str,
    ) -> Result<&'t str, TemplateError> {
        let length = self.rest()[opening.len()..].find(closing);
        let length = length.ok_or_else(|| self.unclosed(opening, closing))?;
        Ok(self.advance(opening.len() + length + closing.len()))
    }

    fn unclosed(&self, opening: &'static str, closing: &'static str) -> TemplateError {
        TemplateError::Unclosed { at: self.place(), opening, closing }
    }

    /// Whether a letter, a digit or `_` stands before this: then it is the `@` of an
    /// address.
    fn follows_a_word(&self) -> bool {
        let before = self.text[..self.at].chars().next_back();
        before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    /// Text, at least one character of it, up to what may be more than that.
    fn plain(&mut self) -> Result<Piece<'t>, TemplateError> {
        let rest = self.rest();
        if rest.strip_prefix(CLAIMS).is_some_and(|behind| word(behind).is_empty()) {
            return Err(TemplateError::Outside { at: self.place() });
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = if rest.starts_with('\n') {
            first
        } else {
            let end = rest[first..].find(['\n', '{', '@', '$']).map(|end| first + end);
            end.map_or(rest.len(), |end| end + usize::from(rest[end..].starts_with('\n')))
        };
        Ok(Piece::Text(self.advance(length)))
    }

    /// What an `@` begins. Nothing is found where it only keeps what follows.
    fn directive(&mut self) -> Result<Option<Piece<'t>>, TemplateError> {
        let behind = &self.rest()[1..];
        if let Some(escaped) = behind.strip_prefix('@').map(word).filter(|name| !name.is_empty()) {
            self.at += 1;
            let lower = escaped.to_ascii_lowercase();
            let has_expression = matches!(lower.as_str(), "if" | "elseif" | "isset")
                || UNSUPPORTED.contains(&lower.as_str());
            let quote = if has_expression { self.quote(escaped)? } else { None };
            self.kept_until = self.at + quote.map_or(1 + escaped.len(), |quote| quote.whole.len());
            return Ok(None);
        }
        let name = word(behind);
        let lower = name.to_ascii_lowercase();
        Ok(Some(match lower.as_str() {
            "if" => Piece::If(self.expression(name)?),
            "elseif" => Piece::ElseIf(self.expression(name)?),
            "isset" => Piece::IsSet(self.expression(name)?),
            "else" => self.word(Piece::Else, name),
            "endif" => self.word(Piece::EndIf, name),
            "endisset" => self.word(Piece::EndIsSet, name),
            "verbatim" => {
                let begin = self.at + 1 + name.len();
                let length = self.text[begin..].find("@endverbatim");
                let length = length.ok_or_else(|| self.unclosed("@verbatim", "@endverbatim"))?;
                self.kept_until = begin + length;
                self.verbatim_ends = Some(begin + length);
                self.word(Piece::Nothing, name)
            }
            "endverbatim" => {
                return Err(TemplateError::Unopened {
                    at: self.place(),
                    directive: "@endverbatim",
                    opening: "@verbatim",
                });
            }
            _ => match UNSUPPORTED.into_iter().find(|unsupported| *unsupported == lower) {
                Some(name) => {
                    return Err(TemplateError::Unsupported { at: self.place(), name });
                }
                None => self.plain()?,
            },
        }))
    }

    fn word(&mut self, piece: Piece<'t>, name: &str) -> Piece<'t> {
        self.advance(1 + name.len());
        piece
    }

    /// Passes a directive with its expression, which is empty where there is none.
    fn expression(&mut self, name: &str) -> Result<Quote<'t>, TemplateError> {
        let whole = &self.rest()[..=name.len()];
        let quote = self.quote(name)?.unwrap_or(Quote { whole, expression: "" });
        self.advance(quote.whole.len());
        Ok(quote)
    }

    /// The directive of this name that stands here, where parentheses follow it.
    fn quote(&self, name: &str) -> Result<Option<Quote<'t>>, TemplateError> {
        let rest = self.rest();
        let behind = &rest[1 + name.len()..];
        let opened = behind.trim_start_matches([' ', '\t']);
        if !opened.starts_with('(') {
            return Ok(None);
        }
        let begin = rest.len() - opened.len();
        let mut open = 0_usize;
        for (at, b) in opened.bytes().enumerate() {
            match b {
                b'(' => open += 1,
                b')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                let expression = &rest[begin + 1..begin + at];
                return Ok(Some(Quote { whole: &rest[..=begin + at], expression }));
            }
        }
        Err(self.unclosed("(", ")"))
    }
}

/// The letters, digits and `_` that a text begins with.
fn word(text: &str) -> &str {
    let is_outside = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    &text[..text.find(is_outside).unwrap_or(text.len())]
}
