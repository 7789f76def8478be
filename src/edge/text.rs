//! Finds the JSON text of a body that does not begin with it: in another charset, with a broken
//! byte, or in a field of a form.

use std::borrow::Cow;
use std::str;

use bytes::Bytes;
use encoding_rs::{Encoding, GB18030, UTF_8};

use crate::lenient::Json;

/// A text in UTF-8, and how it was found.
#[derive(Debug, PartialEq)]
pub(super) struct Text {
    pub bytes: Bytes,
    /// The steps from the body to the text; none if the body is the text.
    pub notes: Vec<String>,
}

/// The text of a body, without a byte order mark.
pub(super) fn of(content_type: Option<&str>, body: &Bytes) -> Text {
    let mut notes = Vec::new();
    let text = if let Ok(text) = str::from_utf8(body) {
        Cow::Borrowed(text)
    } else {
        let (text, note) = decoded(content_type, body);
        notes.push(note);
        text
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if looks_like_form(text)
        && let Some(field) = json_field(text)
    {
        notes.push("taken from the form's only field that holds JSON".to_owned());
        return Text {
            bytes: field.into(),
            notes,
        };
    }
    let bytes = if notes.is_empty() {
        body.slice_ref(text.as_bytes())
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    };
    Text { bytes, notes }
}

/// Reads bytes that are not UTF-8. A byte order mark decides, then the charset that the sender
/// names if all bytes are of it. Then it is UTF-8 with broken bytes if most of what is not ASCII is
/// whole, or else GB18030, the charset of the platform's country.
fn decoded<'a>(content_type: Option<&str>, body: &'a [u8]) -> (Cow<'a, str>, String) {
    let named = content_type.and_then(charset).map(|it| (it, 0));
    let marked = Encoding::for_bom(body);
    for (encoding, mark) in marked.into_iter().chain(named) {
        if let Some(text) = whole(encoding, &body[mark..]) {
            return (text, format!("decoded from {}", encoding.name()));
        }
    }
    let lossy = String::from_utf8_lossy(body);
    let broken = lossy.chars().filter(|it| *it == '\u{fffd}').count();
    let good = lossy.chars().filter(|it| !it.is_ascii()).count() - broken;
    if good <= broken
        && let Some(text) = whole(GB18030, body)
    {
        return (text, format!("decoded from {}", GB18030.name()));
    }
    let note = format!("{broken} broken bytes of {} replaced", UTF_8.name());
    (lossy, note)
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
    fn a_form_with_two_json_fields_and_bytes_of_no_text_stay_as_they_are() {
        let form = "a=%7B%7D&b=%5B%5D";
        assert_eq!(read("", form), (form.to_owned(), String::new()));
        let (found, _) = read("", &b"\xff\x00\x80"[..]);
        assert!(Json::parse(&found).is_none());
    }
}
