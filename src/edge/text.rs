//! Finds the JSON text of a body that does not begin with it: in another charset, with a broken
//! byte, or in a field of a form.

use std::borrow::Cow;
use std::str::{self, Utf8Chunks};

use bytes::Bytes;
use encoding_rs::{Encoding, GB18030, UTF_8};

use crate::lenient::Json;

/// A text in UTF-8, and how it was found.
#[derive(Debug, PartialEq)]
pub(super) struct Text {
    pub bytes: Bytes,
    /// The steps from the body to the text; none if the body is the text.
    pub notes: Vec<String>,
    /// Whether broken bytes were replaced, and nothing else was changed.
    pub is_lossy: bool,
}

/// Finds places of a text with replaced bytes in the body that it was read from.
pub(super) struct Original<'a> {
    chunks: Utf8Chunks<'a>,
    /// Bytes of the present chunk that are still ahead.
    valid: usize,
    invalid: usize,
    at_in_text: usize,
    at_in_body: usize,
}

impl<'a> Original<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            chunks: body.utf8_chunks(),
            valid: 0,
            invalid: 0,
            at_in_text: 0,
            at_in_body: 0,
        }
    }

    /// The place in the body of a place in the text. Later calls ask for later places.
    pub fn place(&mut self, wanted: usize) -> usize {
        loop {
            let step = self.valid.min(wanted.saturating_sub(self.at_in_text));
            self.valid -= step;
            self.at_in_text += step;
            self.at_in_body += step;
            if self.at_in_text >= wanted {
                return self.at_in_body;
            }
            if self.invalid > 0 {
                self.at_in_text += char::REPLACEMENT_CHARACTER.len_utf8();
                self.at_in_body += std::mem::take(&mut self.invalid);
            } else if let Some(chunk) = self.chunks.next() {
                self.valid = chunk.valid().len();
                self.invalid = chunk.invalid().len();
            } else {
                return self.at_in_body;
            }
        }
    }
}

/// The text of a body, without a byte order mark.
pub(super) fn of(content_type: Option<&str>, body: &Bytes) -> Text {
    let mut notes = Vec::new();
    let mut is_lossy = false;
    let text = if let Ok(text) = str::from_utf8(body) {
        Cow::Borrowed(text)
    } else {
        let (text, note) = exactly(content_type, body).unwrap_or_else(|| {
            is_lossy = true;
            lossy(body)
        });
        notes.push(note);
        text
    };
    // A text with replaced bytes keeps its mark, so that places in it are places in the body.
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) if !is_lossy => rest,
        _ => &text,
    };
    if looks_like_form(text)
        && let Some(field) = json_field(text)
    {
        notes.push("taken from the form's only field that holds JSON".to_owned());
        return Text {
            bytes: field.into(),
            notes,
            is_lossy: false,
        };
    }
    let bytes = if notes.is_empty() {
        body.slice_ref(text.as_bytes())
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    };
    Text {
        bytes,
        notes,
        is_lossy,
    }
}

/// Reads bytes that are not UTF-8 and all of another charset. A byte order mark decides, then the
/// charset that the sender names. Then it is GB18030, the charset of the platform's country, unless
/// most of what is not ASCII is whole in UTF-8.
fn exactly<'a>(content_type: Option<&str>, body: &'a [u8]) -> Option<(Cow<'a, str>, String)> {
    let named = content_type.and_then(charset).map(|it| (it, 0));
    let marked = Encoding::for_bom(body);
    for (encoding, mark) in marked.into_iter().chain(named) {
        if let Some(text) = whole(encoding, &body[mark..]) {
            return Some((text, format!("decoded from {}", encoding.name())));
        }
    }
    let not_ascii = |it: &char| !it.is_ascii();
    let chunks = body.utf8_chunks();
    let good: usize = chunks
        .map(|chunk| chunk.valid().chars().filter(not_ascii).count())
        .sum();
    if good > broken(body) {
        return None;
    }
    let text = whole(GB18030, body)?;
    Some((text, format!("decoded from {}", GB18030.name())))
}

/// How many pieces of a body are no UTF-8.
fn broken(body: &[u8]) -> usize {
    let chunks = body.utf8_chunks();
    chunks.filter(|chunk| !chunk.invalid().is_empty()).count()
}

/// Reads bytes as UTF-8, with a character in place of each broken piece.
fn lossy(body: &[u8]) -> (Cow<'_, str>, String) {
    let note = format!("{} broken bytes of {} replaced", broken(body), UTF_8.name());
    (String::from_utf8_lossy(body), note)
}

/// The text of bytes that are all of a charset.
fn whole<'a>(encoding: &'static Encoding, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    encoding.decode_without_bom_handling_and_without_replacement(bytes)
}

/// The charset that a Content-Type names.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(';').skip(1);
    parameters.find_map(|parameter| {
        let (name, label) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| Encoding::for_label(label.trim().trim_matches('"').as_bytes()))?
    })
}

fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Whether a text begins as a form does: with a field's name, or with JSON that is encoded for one.
fn looks_like_form(text: &str) -> bool {
    const LONGEST_NAME: usize = 64;
    let is_of_name = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.');
    let text = text.trim_start();
    let rest = text.trim_start_matches(is_of_name);
    let is_named = (1..=LONGEST_NAME).contains(&(text.len() - rest.len())) && rest.starts_with('=');
    is_named
        || ["%7B", "%7b", "%5B", "%5b"]
            .iter()
            .any(|it| text.starts_with(it))
}

/// The value, or the name without a value, of a form's field, if no other holds JSON.
fn json_field(text: &str) -> Option<String> {
    let fields = url::form_urlencoded::parse(text.trim().as_bytes());
    let texts = fields.map(|(name, value)| if value.is_empty() { name } else { value });
    let mut found = texts.filter(|text| looks_like_json(text) && Json::parse(text).is_some());
    let only = found.next()?.into_owned();
    found.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"call_uuid":"c","call_content":"您好，通话结束"}"#;

    fn read(content_type: &str, body: impl Into<Bytes>) -> (String, String) {
        let text = of(Some(content_type), &body.into());
        let found = str::from_utf8(&text.bytes).unwrap().to_owned();
        (found, text.notes.join(", "))
    }

    fn utf16(text: &str, mark: bool) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        let units = mark.into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn a_record_is_found_in_each_charset_and_form_that_senders_use() {
        let gbk = GB18030.encode(RECORD).0.into_owned();
        let form = |name: &str| {
            url::form_urlencoded::byte_serialize(RECORD.as_bytes())
                .fold(name.to_owned(), |form, part| form + part)
        };
        for (content_type, body, note) in [
            ("application/json", RECORD.into(), ""),
            ("", format!("\u{feff}{RECORD}").into_bytes(), ""),
            (
                "application/json; charset=GBK",
                gbk.clone(),
                "decoded from GBK",
            ),
            ("application/json", gbk, "decoded from gb18030"),
            (
                "application/json",
                utf16(RECORD, true),
                "decoded from UTF-16LE",
            ),
            (
                "text/plain; charset=\"utf-16le\"",
                utf16(RECORD, false),
                "decoded from UTF-16LE",
            ),
            (
                "application/x-www-form-urlencoded",
                form("v=1&data=").into(),
                "taken from the form's only field that holds JSON",
            ),
            (
                "application/x-www-form-urlencoded",
                form("").into(),
                "taken from the form's only field that holds JSON",
            ),
        ] {
            let found = read(content_type, body);
            assert_eq!(
                found,
                (RECORD.to_owned(), note.to_owned()),
                "{content_type}"
            );
        }
    }

    #[test]
    fn one_broken_byte_costs_no_more_than_its_character() {
        let mut body = RECORD.as_bytes().to_vec();
        let at = RECORD.find('好').unwrap();
        body[at + 1] = b'x';
        let (found, note) = read("application/json", body);
        assert!(
            found.starts_with(r#"{"call_uuid":"c","call_content":"您"#),
            "{found}"
        );
        assert!(found.ends_with("，通话结束\"}"), "{found}");
        assert!(note.ends_with("broken bytes of UTF-8 replaced"), "{note}");
    }

    #[test]
    fn places_in_a_text_with_replaced_bytes_are_found_in_the_body() {
        let body = b"\xef\xbb\xbf[\"\xff\xfe\",\"\xe6\x88\",7]";
        let text = String::from_utf8_lossy(body);
        let mut original = Original::new(body);
        for part in ["[", ",", "7", "]"] {
            let place = original.place(text.find(part).unwrap());
            assert_eq!(body[place], part.as_bytes()[0], "{part}");
        }
        assert_eq!(original.place(text.len()), body.len());
    }

    #[test]
    fn a_form_with_two_json_fields_and_bytes_of_no_text_stay_as_they_are() {
        let form = "a=%7B%7D&b=%5B%5D";
        assert_eq!(read("", form), (form.to_owned(), String::new()));
        let (found, _) = read("", &b"\xff\x00\x80"[..]);
        assert!(Json::parse(&found).is_none());
    }
}
