//! Templates that are filled with the ports of claims, in the syntax of Laravel's
//! Blade, as far as ports need it. No I/O.
//!
//! | in the template | becomes |
//! |---|---|
//! | `{{ $portClaims['web'] }}` | the port of claim `web`; an error where it is not set |
//! | `{{ $portClaims['web'] ?? 8080 }}` | the same, or 8080 |
//! | `@if(isset($portClaims['web']))`, `@elseif(…)`, `@else`, `@endif` | one of what is between them; conditions may have `!`, `&&`, <code>&#124;&#124;</code> and parentheses |
//! | `@isset($portClaims['web'])`, `@endisset` | the same in short |
//! | `{{-- … --}}` | nothing |
//! | `@{{ … }}`, `@@if(…)` | the same without the first `@` |
//! | `@verbatim`, `@endverbatim` | what is between them, as it is |
//!
//! Everything else is text and comes out byte for byte; the `@` of `ops@if.example`
//! follows a letter and begins nothing. Lines on which nothing but directives and
//! comments stand go away with their indentation and their end, so that the YAML
//! around them stays whole. (Blade leaves the indentation there and takes the line's
//! end even behind other text; neither survives in YAML.)
//!
//! What looks like a part of the syntax and is not is refused rather than left in
//! the output: Helm's `{{ .Values.x }}`, Blade's `@foreach`, `$portClaims` in the
//! middle of text. `@endisset` ends only `@isset`, and `@endif` only `@if`.
//!
//! Blade is translated into a template of minijinja, whose delimiters here contain
//! NUL. A text with a NUL is refused: so nothing in it can be taken for the engine's.

mod error;
mod expression;
mod scanner;
#[cfg(test)]
mod tests;
mod translation;

use std::{collections::BTreeMap, error::Error as _, fmt};

use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig};

pub use error::{Place, TemplateError};

/// A template that has been read and can be filled any number of times.
#[derive(Debug)]
pub struct Template {
    file: String,
    engine: Environment<'static>,
}

/// The name that the engine knows a template by: each has an engine of its own.
const NAME: &str = "template";

impl Template {
    /// Reads a template. Errors call it `file` and tell the line, from 1.
    ///
    /// Takes time in proportion to the text.
    pub fn parse(file: &str, text: &str) -> Result<Self, TemplateError> {
        let source = translation::translate(file, text)?;
        // Nothing that is built in: no filters, no functions, no escaping of HTML.
        let mut engine = Environment::empty();
        engine.set_syntax(syntax());
        engine.add_function("unset", unset);
        engine
            .add_template_owned(NAME, source)
            .map_err(|cause| TemplateError::Engine { file: file.to_owned(), cause })?;
        Ok(Self { file: file.to_owned(), engine })
    }

    /// The text, filled with the ports of the claims of these names. Fails when it
    /// comes to a port without a default that is not there.
    pub fn render(&self, ports: &BTreeMap<String, u16>) -> Result<String, TemplateError> {
        let context = BTreeMap::from([("claims", Value::from(ports.clone()))]);
        let template = self.engine.get_template(NAME);
        template.and_then(|template| template.render(context)).map_err(|cause| {
            match cause.source().and_then(|source| source.downcast_ref::<Unset>()) {
                Some(unset) => TemplateError::NotSet {
                    at: Place { file: self.file.clone(), line: unset.line },
                    claim: unset.claim.clone(),
                },
                None => TemplateError::Engine { file: self.file.clone(), cause },
            }
        })
    }
}

fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .block_delimiters(translation::BLOCK.0, translation::BLOCK.1)
        .variable_delimiters(translation::VARIABLE.0, translation::VARIABLE.1)
        .comment_delimiters("\0#", "#\0")
        .keep_trailing_newline(true)
        .build()
        .expect("the delimiters differ")
}

/// What the engine calls where a port must be set and is not: the cause that
/// [`Template::render`] finds its place in. The engine's own lines end at 65535.
#[derive(Debug)]
struct Unset {
    claim: String,
    line: usize,
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port claim {:?} is not set on line {}", self.claim, self.line)
    }
}

impl std::error::Error for Unset {}

fn unset(claim: String, line: usize) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::UndefinedError, "");
    Err(error.with_source(Unset { claim, line }))
}
