//! Text of others, made safe to show: a terminal obeys some characters instead of showing them.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Stands for a character that is not shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Whether a terminal may obey the character, hide it, or reorder the text around it.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Marks, embeddings, overrides and isolates of bidirectional text.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Separators of lines and paragraphs, annotations, deprecated format characters.
            | '\u{2028}' | '\u{2029}' | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}'
            // A byte order mark, and tags: both are invisible.
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text as one line that a terminal only shows. Line breaks and tabs become spaces.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let show = |c| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_unsafe(c) => REPLACEMENT,
        c => c,
    };
    Cow::Owned(text.chars().map(show).collect())
}

/// The same, but for line breaks, which stay.
pub fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(clean).collect();
    lines.join("\n")
}

/// JSON that a terminal only shows, with the same value: unsafe characters stand as escapes.
pub fn clean_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A String takes whatever is written.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Any text, with many characters that a terminal obeys.
#[cfg(test)]
pub fn hostile() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let unsafe_char = prop::sample::select(vec![
        '\0',
        '\u{7}',
        '\u{8}',
        '\t',
        '\n',
        '\r',
        '\u{1b}',
        '\u{7f}',
        '\u{84}',
        '\u{9b}',
        '\u{9d}',
        '\u{61c}',
        '\u{202e}',
        '\u{2028}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
    ]);
    let part = prop_oneof![
        any::<char>().prop_map(String::from),
        unsafe_char.prop_map(String::from),
        Just("\u{1b}]52;c;cm0gLXJmIH4=\u{7}".to_owned()),
        Just("\u{1b}[2J".to_owned()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced_and_the_rest_stays() {
        for (text, expected) in [
            ("张先生 said “no” 🙂", "张先生 said “no” 🙂"),
            ("\u{1b}]0;title\u{7}", "\u{fffd}]0;title\u{fffd}"),
            ("one\r\ntwo\tthree", "one  two three"),
            (
                "\u{9b}2J\u{7f}\u{202e}gpj.exe",
                "\u{fffd}2J\u{fffd}\u{fffd}gpj.exe",
            ),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    proptest! {
        #[test]
        fn a_cleaned_line_is_one_line_without_anything_a_terminal_obeys(text in hostile()) {
            let cleaned = clean(&text);
            prop_assert!(!cleaned.contains(is_unsafe));
            prop_assert_eq!(cleaned.chars().count(), text.chars().count());
            prop_assert_eq!(clean(&cleaned), &*cleaned);
        }

        #[test]
        fn cleaned_lines_keep_their_breaks_alone(text in hostile()) {
            let cleaned = clean_lines(&text);
            prop_assert!(!cleaned.contains(|c| c != '\n' && is_unsafe(c)));
            prop_assert_eq!(cleaned.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn cleaned_json_has_the_same_value_in_one_line(key in hostile(), text in hostile()) {
            let value = serde_json::json!({ key: text });
            let cleaned = clean_json(&value.to_string()).into_owned();
            prop_assert!(!cleaned.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
        }
    }
}
