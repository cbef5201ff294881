//! Text that is safe on a terminal, whatever it holds.

use std::borrow::Cow;

/// The text with escapes in place of control characters and of those that change
/// the direction of writing.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() && !is_format(c);
    if text.chars().all(is_plain) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_debug());
        }
    }
    escaped.into()
}

fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            printable("\x1b[31m\r\n\u{9b}\u{202e}\u{7f}"),
            r"\u{1b}[31m\r\n\u{9b}\u{202e}\u{7f}"
        );
        assert!(matches!(printable("/var/lib/pört claim\\"), Cow::Borrowed(_)));
    }
}
