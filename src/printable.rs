//! Text that others wrote, made safe to show: what a terminal obeys, and what a reader cannot see, is left out or
//! escaped.

use std::borrow::Cow;
use std::fmt;

/// Returns the text with each hidden character escaped, like `\u{1b}`. Line feeds and tabs stay.
///
/// Hidden is what a terminal obeys, or what a reader cannot see: control characters, marks that change the
/// direction of a text, characters without a width, separators of lines and paragraphs, tags, and characters
/// for private use. Use it for a path, a URL or any other text of others that your program prints. The errors
/// of this crate are escaped already.
///
/// ```
/// use tokenkeep::error::escape_hidden;
///
/// assert_eq!(escape_hidden("/tmp/\u{1b}[2Ja\u{202e}b"), "/tmp/\\u{1b}[2Ja\\u{202e}b");
/// assert_eq!(escape_hidden("/home/zoë"), "/home/zoë");
/// ```
#[must_use]
pub fn escape_hidden(text: &str) -> Cow<'_, str> {
    escape(text, |character| is_hidden(character) && !matches!(character, '\n' | '\t'))
}

/// Like [`escape_hidden`], but escapes line feeds and tabs too. So the text cannot look like a message of its
/// own in a log.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

fn escape(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Writes to a formatter as [`one_line`] does. An error writes its whole text through this, so that no field of
/// it can be forgotten.
pub(crate) struct OneLine<'a, 'b>(pub(crate) &'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&one_line(text))
    }
}

/// Returns the printable characters of a text, at most `max_chars` of them. A text that was longer ends with
/// `…`.
///
/// A line break or a tab becomes a space, and a double quote a single one. What a terminal obeys, or what a reader cannot see, is left out:
/// control characters, marks that change the direction of a text, characters without a width, line and
/// paragraph separators, tags, and characters for private use.
///
/// # Security
///
/// The result is still another program's text. Quote it, and say whose it is.
#[cfg(any(feature = "oauth2", feature = "postgres"))]
pub(crate) fn printable(text: &str, max_chars: usize) -> String {
    let mut kept = text.chars().filter_map(|character| match character {
        '\n' | '\r' | '\t' => Some(' '),
        // So that the text cannot end the quotes that it is shown in.
        '"' => Some('\''),
        character => (!is_hidden(character)).then_some(character),
    });
    let mut shown: String = kept.by_ref().take(max_chars).collect();
    if kept.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Returns whether a terminal would obey this character, or a reader not see it.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'                     // soft hyphen
            | '\u{34f}'                  // grapheme joiner
            | '\u{61c}'                  // Arabic letter mark
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // fillers
            | '\u{17b4}' | '\u{17b5}'    // inherent vowels
            | '\u{180b}'..='\u{180f}'    // Mongolian selectors and separator
            | '\u{200b}'..='\u{200f}'    // zero-width characters, direction marks
            | '\u{2028}'..='\u{202e}'    // separators of lines and paragraphs, embeddings, overrides
            | '\u{2060}'..='\u{206f}'    // word joiner, invisible operators, isolates
            | '\u{e000}'..='\u{f8ff}'    // private use
            | '\u{fe00}'..='\u{fe0f}'    // variation selectors
            | '\u{feff}'                 // byte order mark
            | '\u{fff9}'..='\u{fffb}'    // annotations
            | '\u{13430}'..='\u{1343f}'  // joiners of hieroglyphs
            | '\u{1bca0}'..='\u{1bca3}'  // controls of shorthand
            | '\u{1d173}'..='\u{1d17a}'  // controls of musical notation
            | '\u{e0000}'..='\u{e01ef}'  // tags, variation selectors
            | '\u{f0000}'..='\u{10ffff}' // private use
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "oauth2", feature = "postgres"))]
    #[test]
    fn text_of_any_language_stays_as_it_is() {
        for text in ["", "database app does not exist", "Datenbank »ä« fehlt", "データ", "e\u{301}"]
        {
            assert_eq!(printable(text, 200), text);
        }
    }

    #[cfg(any(feature = "oauth2", feature = "postgres"))]
    #[test]
    fn a_line_break_or_a_tab_becomes_a_space() {
        assert_eq!(printable("a\nb\tc\rd", 200), "a b c d");
        assert_eq!(printable("ok\"; now run `x` (\"", 200), "ok'; now run `x` ('");
    }

    #[cfg(any(feature = "oauth2", feature = "postgres"))]
    #[test]
    fn what_a_terminal_obeys_or_a_reader_cannot_see_is_left_out() {
        for (first, last) in [
            ('\0', '\u{8}'),
            ('\u{b}', '\u{c}'),
            ('\u{e}', '\u{1f}'),
            ('\u{7f}', '\u{9f}'),
            ('\u{ad}', '\u{ad}'),
            ('\u{61c}', '\u{61c}'),
            ('\u{200b}', '\u{200f}'),
            ('\u{2028}', '\u{202e}'),
            ('\u{2060}', '\u{2060}'),
            ('\u{2066}', '\u{2069}'),
            ('\u{e000}', '\u{f8ff}'),
            ('\u{feff}', '\u{feff}'),
            ('\u{e0000}', '\u{e007f}'),
            ('\u{f0000}', '\u{ffffd}'),
            ('\u{100000}', '\u{10fffd}'),
        ] {
            for character in first..=last {
                assert_eq!(printable(&format!("a{character}b"), 200), "ab", "{character:?}");
            }
        }
    }

    #[cfg(any(feature = "oauth2", feature = "postgres"))]
    #[test]
    fn a_longer_text_is_cut_and_says_so() {
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("abcd", 3), "abc…");
        assert_eq!(printable("äöüß", 3), "äöü…");
        assert_eq!(printable("abc\u{200b}", 3), "abc", "nothing that would be shown was cut");
        assert_eq!(printable(&"a".repeat(5_000_000), 200).chars().count(), 201);
    }

    #[test]
    fn a_hidden_character_is_escaped_and_everything_else_stays() {
        for (text, shown) in [
            ("/home/zoë/データ", "/home/zoë/データ"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{7f}\u{9b}b", "a\\u{7f}\\u{9b}b"),
            ("a\u{202e}\u{2066}b", "a\\u{202e}\\u{2066}b"),
            ("a\u{200b}\u{feff}b", "a\\u{200b}\\u{feff}b"),
            ("a\u{e000}b", "a\\u{e000}b"),
            ("a\rb", "a\\rb"),
        ] {
            assert_eq!(escape_hidden(text), shown);
            assert_eq!(one_line(text), shown);
        }
        assert_eq!(escape_hidden("a\n\tb"), "a\n\tb");
        assert_eq!(one_line("a\n\tb"), "a\\n\\tb");
    }
}
