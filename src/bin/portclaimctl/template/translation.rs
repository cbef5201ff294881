//! Blade in the engine's words.

use super::{
    error::{Place, TemplateError},
    expression::{Condition, Echo, ExpressionError},
    scanner::{Piece, Quote, Scanner},
};

/// The engine's delimiters. No text has a NUL in it, so no text has these.
pub(super) const BLOCK: (&str, &str) = ("\0%", "%\0");
pub(super) const VARIABLE: (&str, &str) = ("\0{", "}\0");

/// The most conditions that are open at once, each `@elseif` counted: the engine
/// nests it into the `@if` before it, and its parser calls itself for each.
const MAX_OPEN: usize = 64;

/// The most characters of a template that an error repeats.
const SHOWN: usize = 80;

/// The engine's template for a text.
pub(super) fn translate(file: &str, text: &str) -> Result<String, TemplateError> {
    if let Some(at) = text.find('\0') {
        let line = 1 + text[..at].matches('\n').count();
        return Err(TemplateError::Nul { at: Place { file: file.to_owned(), line } });
    }
    let mut translation = Translation {
        file,
        source: String::with_capacity(text.len()),
        line: Line::default(),
        blocks: Vec::new(),
    };
    let mut scanner = Scanner::new(file, text);
    while let Some((piece, line)) = scanner.next()? {
        translation.add(&piece, line)?;
    }
    if let Some(block) = translation.blocks.last() {
        return Err(TemplateError::Unclosed {
            at: translation.place(block.line),
            opening: block.opening,
            closing: block.closing,
        });
    }
    translation.line.end(&mut translation.source);
    Ok(translation.source)
}

struct Translation<'t> {
    file: &'t str,
    source: String,
    line: Line,
    blocks: Vec<Block>,
}

/// An `@if` or `@isset` that is open.
struct Block {
    opening: &'static str,
    closing: &'static str,
    line: usize,
    has_else: bool,
    /// How many conditions it has.
    conditions: usize,
}

/// A line of the template, or several that a comment joins.
#[derive(Default)]
struct Line {
    all: String,
    /// Without its text: what is left of it when that is blank.
    directives: String,
    has_directive: bool,
    has_text: bool,
}

impl Line {
    fn directive(&mut self, translated: &str) {
        self.all.push_str(translated);
        self.directives.push_str(translated);
        self.has_directive = true;
    }

    fn text(&mut self, text: &str) {
        self.all.push_str(text);
        self.has_text |= !text.trim_matches([' ', '\t', '\r', '\n']).is_empty();
    }

    /// Writes it down and makes room for the next one.
    fn end(&mut self, out: &mut String) {
        let is_dropped = self.has_directive && !self.has_text;
        out.push_str(if is_dropped { &self.directives } else { &self.all });
        self.all.clear();
        self.directives.clear();
        (self.has_directive, self.has_text) = (false, false);
    }
}

impl Translation<'_> {
    fn place(&self, line: usize) -> Place {
        Place { file: self.file.to_owned(), line }
    }

    fn add(&mut self, piece: &Piece, line: usize) -> Result<(), TemplateError> {
        match piece {
            Piece::Text(text) => {
                self.line.text(text);
                if text.ends_with('\n') {
                    self.line.end(&mut self.source);
                }
            }
            Piece::Nothing => self.line.directive(""),
            Piece::Echo(quote) => {
                let echo = self.read(*quote, line, Echo::parse)?;
                self.echo(&echo, line);
            }
            Piece::If(quote) => {
                let condition = self.read(*quote, line, Condition::parse)?;
                self.open("@if", "@endif", &condition, line)?;
            }
            Piece::IsSet(quote) => {
                let condition = self.read(*quote, line, Condition::parse_claims)?;
                self.open("@isset", "@endisset", &condition, line)?;
            }
            Piece::ElseIf(quote) => {
                let condition = self.read(*quote, line, Condition::parse)?;
                self.count(line)?;
                self.branch("@elseif", line)?.conditions += 1;
                self.block(&format!("elif {}", condition.translation()));
            }
            Piece::Else => {
                self.branch("@else", line)?.has_else = true;
                self.block("else");
            }
            Piece::EndIf => self.close("@endif", "@if", line)?,
            Piece::EndIsSet => self.close("@endisset", "@isset", line)?,
        }
        Ok(())
    }

    fn read<T>(
        &self,
        quote: Quote,
        line: usize,
        parse: fn(&str) -> Result<T, ExpressionError>,
    ) -> Result<T, TemplateError> {
        parse(quote.expression).map_err(|cause| {
            let mut found: String = quote.whole.chars().take(SHOWN).collect();
            if found.len() < quote.whole.len() {
                found.push('…');
            }
            TemplateError::Expression { at: self.place(line), found, cause }
        })
    }

    fn echo(&mut self, echo: &Echo, line: usize) {
        let name = echo.claim.as_str();
        let otherwise = match echo.default {
            Some(port) => port.to_string(),
            None => format!("unset({name:?}, {line})"),
        };
        let (open, close) = VARIABLE;
        let port =
            format!("{open} claims[{name:?}] if {name:?} in claims else {otherwise} {close}");
        self.line.all.push_str(&port);
        self.line.has_text = true;
    }

    fn block(&mut self, statement: &str) {
        let (open, close) = BLOCK;
        self.line.directive(&format!("{open} {statement} {close}"));
    }

    fn open(
        &mut self,
        opening: &'static str,
        closing: &'static str,
        condition: &Condition,
        line: usize,
    ) -> Result<(), TemplateError> {
        self.count(line)?;
        self.blocks.push(Block { opening, closing, line, has_else: false, conditions: 1 });
        self.block(&format!("if {}", condition.translation()));
        Ok(())
    }

    /// The block that gets another branch.
    fn branch(
        &mut self,
        directive: &'static str,
        line: usize,
    ) -> Result<&mut Block, TemplateError> {
        let at = self.place(line);
        match self.blocks.last_mut() {
            None => Err(TemplateError::Unopened { at, directive, opening: "@if or @isset" }),
            Some(Block { has_else: true, opening, line, .. }) => {
                Err(TemplateError::AfterElse { at, directive, opening, line: *line })
            }
            Some(block) => Ok(block),
        }
    }

    fn close(
        &mut self,
        directive: &'static str,
        opening: &'static str,
        line: usize,
    ) -> Result<(), TemplateError> {
        let at = self.place(line);
        match self.blocks.pop() {
            Some(block) if block.closing == directive => {
                self.block("endif");
                Ok(())
            }
            Some(Block { opening, closing: missing, line, .. }) => {
                Err(TemplateError::Crossed { at, directive, opening, line, missing })
            }
            None => Err(TemplateError::Unopened { at, directive, opening }),
        }
    }

    /// Makes sure that there is room for another condition.
    fn count(&self, line: usize) -> Result<(), TemplateError> {
        let open: usize = self.blocks.iter().map(|block| block.conditions).sum();
        if open < MAX_OPEN {
            return Ok(());
        }
        Err(TemplateError::Deep { at: self.place(line), most: MAX_OPEN })
    }
}
