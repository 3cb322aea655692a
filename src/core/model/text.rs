//! Text from outside: detects characters that a reader cannot see, and makes them visible.

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::{PercentDecode, percent_decode_str};

/// Characters that are invisible, control a terminal, reorder the text around them, or have no
/// agreed meaning: the general categories Cc, Cf, Zl, Zp and Co, the noncharacters, and
/// Default_Ignorable_Code_Point (Unicode 17.0, DerivedGeneralCategory.txt and
/// DerivedCoreProperties.txt). RFC 8264 disallows the same in its FreeformClass. Left out are the
/// joiners U+200C and U+200D, which Persian, Indic scripts and emoji need, and the variation
/// selectors, which emoji, Mongolian and Japanese names need. In ascending order.
const HIDDEN: &[(char, char)] = &[
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200b}'),
    ('\u{200e}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{fffe}', '\u{ffff}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{1fffe}', '\u{1ffff}'),
    ('\u{2fffe}', '\u{2ffff}'),
    ('\u{3fffe}', '\u{3ffff}'),
    ('\u{4fffe}', '\u{4ffff}'),
    ('\u{5fffe}', '\u{5ffff}'),
    ('\u{6fffe}', '\u{6ffff}'),
    ('\u{7fffe}', '\u{7ffff}'),
    ('\u{8fffe}', '\u{8ffff}'),
    ('\u{9fffe}', '\u{9ffff}'),
    ('\u{afffe}', '\u{affff}'),
    ('\u{bfffe}', '\u{bffff}'),
    ('\u{cfffe}', '\u{cffff}'),
    ('\u{dfffe}', '\u{e00ff}'),
    ('\u{e01f0}', '\u{10ffff}'),
];

/// Decodes percent-encoded text (RFC 3986, 2.1); `+` stays `+`. `None` if an escape is invalid,
/// which the library would leave unchanged.
pub fn percent_decoded(text: &str) -> Option<PercentDecode<'_>> {
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    text.split('%').skip(1).all(is_escape).then(|| percent_decode_str(text))
}

/// True if a character is invisible, or changes how the text around it is displayed.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let after = HIDDEN.partition_point(|(first, _)| *first <= c);
    after > 0 && c <= HIDDEN[after - 1].1
}

/// True if a text shows nothing: it is empty, or contains only hidden characters, white space,
/// joiners, variation selectors and the empty Braille pattern.
pub fn is_blank(text: &str) -> bool {
    let empty = |c: char| {
        let selects = matches!(c, '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}');
        c.is_whitespace() || selects || matches!(c, '\u{200c}' | '\u{200d}' | '\u{2800}')
    };
    text.chars().all(|c| empty(c) || is_hidden(c))
}

/// A text that is safe to print on one line of a terminal. Hidden characters are written as JSON
/// escapes (`\u202e`), so that JSON keeps its meaning.
pub fn visible(text: &str) -> Cow<'_, str> {
    visible_but(text, &[])
}

/// Like [`visible`], but keeps some characters.
pub fn visible_but<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let is_shown = |c: char| !is_hidden(c) || kept.contains(&c);
    if text.chars().all(is_shown) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_shown(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _infallible = write!(shown, "\\u{unit:04x}");
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_ranges_ascend() {
        assert!(HIDDEN.iter().all(|(first, last)| first <= last));
        assert!(HIDDEN.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn hidden_characters_exclude_those_that_names_need() {
        for c in "\0\u{1b}\n\u{85}\u{ad}\u{34f}\u{61c}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\
                  \u{2066}\u{3164}\u{e000}\u{feff}\u{fffe}\u{1ffff}\u{e0041}\u{10fffd}\u{10ffff}"
            .chars()
        {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in "aé東\u{200c}\u{200d}\u{fe0f}\u{e0100}\u{a0}\u{3000}🎟\u{2800}\u{1f1e6}".chars()
        {
            assert!(!is_hidden(c), "{c:?}");
        }
    }

    #[test]
    fn text_without_visible_characters_is_blank() {
        for blank in ["", " ", "\u{a0}\u{3000}", "\u{200d}\u{200c}", "\u{fe0f}", "\u{2800}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        assert!(!is_blank(" a ") && !is_blank("\u{94d}") && !is_blank("."));
    }

    #[test]
    fn hidden_characters_are_shown_as_json_escapes() {
        let raw = "a\u{1b}[2J\n\u{202e}\u{e0041}é";
        assert_eq!(visible(raw), "a\\u001b[2J\\u000a\\u202e\\udb40\\udc41é");
        let json = serde_json::to_string(raw).unwrap();
        assert_eq!(serde_json::from_str::<String>(&visible(&json)).unwrap(), raw);
        assert_eq!(visible_but("a\nb\r", &['\n']), "a\nb\\u000d");
        assert!(matches!(visible("Zoë 東京 🎟"), Cow::Borrowed(_)));
    }
}
