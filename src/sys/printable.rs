//! Text that other programs wrote, made safe to show.

/// Returns the printable characters of a text, at most `max_chars` of them. A text that was longer ends with
/// `…`.
///
/// A line break or a tab becomes a space. What a terminal obeys, or what a reader cannot see, is left out:
/// control characters, marks that change the direction of a text, characters without a width, line and
/// paragraph separators, tags, and characters for private use.
///
/// # Security
///
/// The result is still another program's text. Quote it, and say whose it is.
pub(crate) fn printable(text: &str, max_chars: usize) -> String {
    let mut kept = text.chars().filter_map(|character| match character {
        '\n' | '\r' | '\t' => Some(' '),
        character => (!is_hidden(character)).then_some(character),
    });
    let mut shown: String = kept.by_ref().take(max_chars).collect();
    if kept.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Returns whether a terminal would obey this character, or a reader not see it.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'                     // soft hyphen
            | '\u{61c}'                  // Arabic letter mark
            | '\u{180e}'                 // Mongolian vowel separator
            | '\u{200b}'..='\u{200f}'    // zero-width characters, direction marks
            | '\u{2028}'..='\u{202e}'    // separators of lines and paragraphs, embeddings, overrides
            | '\u{2060}'..='\u{206f}'    // word joiner, invisible operators, isolates
            | '\u{e000}'..='\u{f8ff}'    // private use
            | '\u{feff}'                 // byte order mark
            | '\u{fff9}'..='\u{fffb}'    // annotations
            | '\u{e0000}'..='\u{e007f}'  // tags
            | '\u{f0000}'..='\u{10ffff}' // private use
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_language_stays_as_it_is() {
        for text in
            ["", "database \"app\" does not exist", "Datenbank »ä« fehlt", "データ", "e\u{301}"]
        {
            assert_eq!(printable(text, 200), text);
        }
    }

    #[test]
    fn a_line_break_or_a_tab_becomes_a_space() {
        assert_eq!(printable("a\nb\tc\rd", 200), "a b c d");
    }

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

    #[test]
    fn a_longer_text_is_cut_and_says_so() {
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("abcd", 3), "abc…");
        assert_eq!(printable("äöüß", 3), "äöü…");
        assert_eq!(printable("abc\u{200b}", 3), "abc", "nothing that would be shown was cut");
        assert_eq!(printable(&"a".repeat(5_000_000), 200).chars().count(), 201);
    }
}
