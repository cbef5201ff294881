//! JSON where serde's derive does not do: why a text is none, and objects as
//! they are written, with the place of every part.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::lease::Excerpt;

/// Why a text is not the JSON that it should be: what the parser says, cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at line {line} column {column}")]
pub struct JsonError {
    reason: Excerpt,
    line: usize,
    /// In bytes, from 1.
    column: usize,
}

impl JsonError {
    /// What is wrong, without the place.
    #[must_use]
    pub fn reason(&self) -> &Excerpt {
        &self.reason
    }

    /// The place in the text that was parsed: the character, counted from 1, at
    /// which the parser stopped or the one before it.
    #[must_use]
    pub fn character(&self, text: &str) -> usize {
        let lines = text.split_inclusive('\n').take(self.line.saturating_sub(1));
        let end = lines.map(str::len).sum::<usize>() + self.column;
        text.char_indices().take_while(|(at, _)| *at < end).count().max(1)
    }
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Self { reason: Excerpt::plain(reason), line: error.line(), column: error.column() }
    }
}

/// An object's keys and values as they are written and in their order, also
/// those that are there twice. They borrow from the text.
#[derive(Debug)]
pub struct Object<'a>(pub Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads an object.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        Ok(serde_json::from_str(text)?)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The text that a JSON string stands for; none for what is no string, and for
/// escapes that stand for no character.
#[must_use]
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let written = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if written.contains('\\') {
        return serde_json::from_str(raw.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(written))
}

/// The key of an object that is written like this; one that stands for no text is
/// taken as it is written.
#[must_use]
pub fn key(raw: &RawValue) -> Cow<'_, str> {
    text(raw).unwrap_or_else(|| Cow::Borrowed(raw.get().trim_matches('"')))
}

/// Whether the value is null, which counts as absent.
#[must_use]
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_as_they_are_written() {
        let json = "{ \"a\" :1, \"\\u0062\": [ {} ],\"a\":null, \"\\ud800\":\"x\\n\"}";
        let Object(entries) = Object::parse(json).unwrap();
        let found: Vec<_> = entries.iter().map(|(k, value)| (key(k), value.get())).collect();
        assert_eq!(
            found.iter().map(|(key, value)| (key.as_ref(), *value)).collect::<Vec<_>>(),
            [("a", "1"), ("b", "[ {} ]"), ("a", "null"), ("\\ud800", "\"x\\n\"")]
        );
        assert_eq!(entries[1].0.get().as_ptr(), json[10..].as_ptr());
        assert_eq!(text(entries[3].1).as_deref(), Some("x\n"));
        assert_eq!((text(entries[0].1), text(entries[3].0)), (None, None));
        assert!(is_null(entries[2].1));
        assert!(Object::parse("[]").is_err() && Object::parse("{\"a\":1,}").is_err());
    }

    #[test]
    fn errors_know_the_character() {
        for (json, character, reason) in [
            ("", 1, "EOF while parsing a value"),
            ("{\"ä\":1\n,\n \"ü\" 2}", 15, "expected `:`"),
            ("{\"a\":1", 6, "EOF while parsing an object"),
            ("{} x", 4, "trailing characters"),
        ] {
            let error = Object::parse(json).unwrap_err();
            assert_eq!(
                (error.character(json), error.reason().to_string().as_str()),
                (character, reason)
            );
        }
        let long = format!("\"{}\"", "\\u0000".repeat(100_000));
        let error = Object::parse(&long).unwrap_err().to_string();
        assert!(error.len() < 300 && error.starts_with("invalid type: string"), "{error}");
        assert!(error.ends_with(" column 600002"), "{error}");
    }
}
