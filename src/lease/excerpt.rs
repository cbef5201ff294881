//! What messages repeat of a text from outside.

use std::fmt;

/// The beginning of a text from outside, cut and made printable: safe in a
/// message, in a log and on a terminal, whatever the text holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// The most bytes of UTF-8 that are repeated, escapes counted as they are shown.
    pub const SHOWN: usize = 120;

    /// The text in quotation marks, as `{:?}` writes it.
    #[must_use]
    pub fn quoted(text: &str) -> Self {
        let (start, is_cut) = beginning(text, "'");
        Self(format!("\"{start}{}\"", if is_cut { "…" } else { "" }))
    }

    /// The text without quotation marks: JSON, which has its own, or a reason.
    #[must_use]
    pub fn plain(text: &str) -> Self {
        let (mut start, is_cut) = beginning(text, "'\"\\");
        if is_cut {
            start.push('…');
        }
        Self(start)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As much of a text as is shown, with escapes for all but what is printable and
/// the characters in `kept`; and whether it has more.
fn beginning(text: &str, kept: &str) -> (String, bool) {
    let (mut start, mut shown) = (String::new(), 0);
    for c in text.chars() {
        let is_kept = kept.contains(c);
        shown += if is_kept { 1 } else { c.escape_debug().map(char::len_utf8).sum() };
        if shown > Excerpt::SHOWN {
            return (start, true);
        }
        if is_kept {
            start.push(c);
        } else {
            start.extend(c.escape_debug());
        }
    }
    (start, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_printable_and_short() {
        for (text, quoted, plain) in [
            ("", r#""""#, ""),
            ("it's", r#""it's""#, "it's"),
            (r#"a"\b"#, r#""a\"\\b""#, r#"a"\b"#),
            ("\0\n\u{7f}", r#""\0\n\u{7f}""#, r"\0\n\u{7f}"),
            ("\u{202e}\u{2028}ü", r#""\u{202e}\u{2028}ü""#, r"\u{202e}\u{2028}ü"),
        ] {
            assert_eq!(Excerpt::quoted(text).to_string(), quoted);
            assert_eq!(Excerpt::plain(text).to_string(), plain);
        }
        for c in ['a', '\0', '\u{10ffff}', '🐢'] {
            let long = c.to_string().repeat(200_000);
            for shown in [Excerpt::quoted(&long), Excerpt::plain(&long)] {
                let shown = shown.to_string();
                assert!(shown.len() <= Excerpt::SHOWN + 5, "{shown}");
                assert!(shown.contains('…'), "{shown}");
            }
        }
    }
}
