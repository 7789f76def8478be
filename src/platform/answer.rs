//! The platform's answers: three fields around what was asked for, and one way of being broken
//! that gets mended.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::lenient::Fields;

/// The three fields that every answer has. Source: API document, 返回json对象说明.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// The return code as written; "0" is success.
    pub code: String,
    /// The platform's words for it.
    pub message: String,
    /// What was asked for; without fields where the platform sends none.
    pub result: Fields<'a>,
}

impl<'a> Answer<'a> {
    /// Reads an answer; `None` when it is no JSON object with a code.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut fields = Fields::parse(text)?;
        let code = match fields.int64("code") {
            Some(number) => number.to_string(),
            None => fields.text("code"),
        };
        if code.is_empty() {
            return None;
        }
        Some(Self {
            code,
            message: fields.text("message"),
            result: fields.object("result"),
        })
    }
}

/// An answer's bytes as text ready for [`Answer::read`]: a byte order mark is
/// dropped, bytes that are no UTF-8 are replaced, and JSON that is broken in the
/// way that the task query's is gets mended.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    if serde_json::from_str::<&RawValue>(&text).is_ok() {
        return text;
    }
    match mend_lists(&text) {
        Some(mended) => Cow::Owned(mended),
        None => text,
    }
}

/// Takes the quotes off lists that were put into text without escaping, as the
/// API document prints them: `"time_range":"["07:30:00-23:30:00"]"`. `None` when
/// there is no such list.
fn mend_lists(json: &str) -> Option<String> {
    const OPENING: &str = "\"[\"";
    const CLOSING: &str = "\"]\"";
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    let mut found = false;
    while let Some(quote) = rest.find('"') {
        let (before, string) = rest.split_at(quote);
        mended.push_str(before);
        let list_end = string
            .strip_prefix(OPENING)
            .filter(|inner| !ends_value(inner))
            .and_then(|_| end_of_list(string, CLOSING));
        let end = if let Some(end) = list_end {
            found = true;
            mended.push_str(&string[1..end - 1]);
            end
        } else {
            let end = end_of_string(string);
            mended.push_str(&string[..end]);
            end
        };
        rest = &string[end..];
    }
    mended.push_str(rest);
    found.then_some(mended)
}

/// Where the list that `string` begins with ends, its closing quote included.
fn end_of_list(string: &str, closing: &str) -> Option<usize> {
    string
        .match_indices(closing)
        .map(|(at, _)| at + closing.len())
        .find(|end| *end > closing.len() && ends_value(&string[*end..]))
}

/// Whether what follows can only follow a whole value.
fn ends_value(rest: &str) -> bool {
    rest.trim_start().starts_with([',', '}', ']'])
}

/// Where the JSON string that `string` begins with ends, quotes included.
fn end_of_string(string: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in string.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    string.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_printed_as_the_document_prints_them_are_mended() {
        let printed = br#"{"code":0,"message":"ok","result":{"rows":[{
            "status_recall":"[1,1]",
            "time_range":"["07:30:00-12:00:00","13:00:00-23:30:00"]",
            "task_name":"a \"[\" b",
            "intention_push":"["A","B"]" }]}}"#;
        let text = text(printed);
        let mut answer = Answer::read(&text).unwrap();
        let row = &mut answer.result.objects("rows")[0];
        assert_eq!(row.text("status_recall"), "[1,1]");
        assert_eq!(
            row.texts("time_range"),
            ["07:30:00-12:00:00", "13:00:00-23:30:00"]
        );
        assert_eq!(row.text("task_name"), r#"a "[" b"#);
        assert_eq!(row.texts("intention_push"), ["A", "B"]);
    }

    #[test]
    fn valid_json_is_never_mended() {
        let odd = r#"{"code":0,"message":"[","result":{"a":"]"}}"#;
        assert!(matches!(text(odd.as_bytes()), Cow::Borrowed(text) if text == odd));
        let broken_elsewhere = r#"{"a":"[","b":"]",}"#;
        assert_eq!(mend_lists(broken_elsewhere), None);
    }

    #[test]
    fn an_answer_needs_a_code_and_nothing_else() {
        for json in [
            "\u{feff}{\"code\":0}",
            r#"{"code":"0","message":null,"result":null}"#,
            r#"{"code":0.0,"result":[],"more":1}"#,
        ] {
            let text = text(json.as_bytes());
            assert_eq!(Answer::read(&text).unwrap().code, "0", "{json}");
        }
        for json in [
            "",
            "{}",
            "[]",
            "0",
            "null",
            "<html>",
            r#"{"code":null}"#,
            r#"{"code":0"#,
        ] {
            assert!(Answer::read(json).is_none(), "{json}");
        }
    }

    fn read_everything(bytes: &[u8]) {
        let text = text(bytes);
        if let Some(answer) = Answer::read(&text) {
            let mut read: [Fields<'_>; 4] = std::array::from_fn(|_| answer.result.clone());
            let [a, b, c, d] = &mut read;
            let _ = (a.text("a"), b.int64("a"), c.texts("a"), d.objects("a"));
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read_everything(&bytes);
        }

        #[test]
        fn reading_something_like_an_answer_never_panics(
            inner in r#"([a-z0-9\[\]{}",:\\ .é-]|null|"\["|"\]"|"a":){0,40}"#
        ) {
            read_everything(format!(r#"{{"code":0,"result":{{{inner}}}}}"#).as_bytes());
            read_everything(format!(r#"{{"code":0,"result":{{"a":{inner}}}}}"#).as_bytes());
        }
    }
}
