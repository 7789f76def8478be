//! Reads what the platform answers, with named leniency.
//!
//! Numbers may be text and text numbers; null, "" and absent are alike; unknown
//! fields are passed over; lists may be text. Numbers are taken from their
//! digits as written and never go through a float, since ids exceed 2^53.

use std::{borrow::Cow, collections::HashMap};

use serde_json::value::RawValue;

/// A JSON object of the platform, its values still as written.
#[derive(Debug, Default)]
pub struct Fields<'a>(HashMap<String, &'a RawValue>);

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
        let fields = Fields::read(text)?;
        let code = match fields.long("code") {
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

impl<'a> Fields<'a> {
    fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// The value as written, unless it is null.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let json = self.0.get(name)?.get();
        (json != "null").then_some(json)
    }

    /// A text; a number or anything else as it is written.
    pub(super) fn text(&self, name: &str) -> String {
        self.raw(name).map(text_of).unwrap_or_default()
    }

    /// A whole number of any size that fits, written as number or text.
    pub(super) fn long(&self, name: &str) -> Option<i64> {
        long_of(&text_of(self.raw(name)?))
    }

    /// As [`Self::long`]; out of range counts as absent.
    pub(super) fn int(&self, name: &str) -> Option<i32> {
        self.long(name)?.try_into().ok()
    }

    /// A number with or without a fraction, written as number or text.
    pub(super) fn double(&self, name: &str) -> Option<f64> {
        let number = text_of(self.raw(name)?).trim().parse::<f64>().ok()?;
        number.is_finite().then_some(number)
    }

    /// A flag: 0 and 1 as the documents have it, or true and false.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match text_of(self.raw(name)?).trim() {
            "true" => Some(true),
            "false" => Some(false),
            number => long_of(number).map(|number| number != 0),
        }
    }

    /// A list of texts: an array, text that holds an array, or, where neither
    /// can be read, the one text that stands there.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let Some(raw) = self.raw(name) else {
            return Vec::new();
        };
        if let Some(list) = array_of_texts(raw) {
            return list;
        }
        let text = text_of(raw);
        match array_of_texts(&text) {
            Some(list) => list,
            None if text.is_empty() => Vec::new(),
            None => vec![text],
        }
    }

    /// An object; one without fields where there is none.
    pub(super) fn object(&self, name: &str) -> Self {
        self.raw(name).and_then(Self::read).unwrap_or_default()
    }

    /// A list of objects; what is none is passed over.
    pub(super) fn objects(&self, name: &str) -> Vec<Self> {
        self.raw(name)
            .and_then(|json| serde_json::from_str::<Vec<&'a RawValue>>(json).ok())
            .map(|list| {
                list.iter()
                    .filter_map(|item| Self::read(item.get()))
                    .collect()
            })
            .unwrap_or_default()
    }
}

/// A JSON value as text: a string's content, anything else as written.
fn text_of(json: &str) -> String {
    if !json.starts_with('"') {
        return json.to_owned();
    }
    serde_json::from_str(json).unwrap_or_else(|_| {
        // An escape that no text can hold, such as half a surrogate pair.
        json.trim_matches('"').to_owned()
    })
}

/// A whole number from its digits; "3.0" is one too.
fn long_of(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number = text.parse::<f64>().ok()?;
    // Beyond 2^53 a float no longer tells whole numbers apart.
    let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "whole and in range")]
    exact.then_some(number as i64)
}

fn array_of_texts(json: &str) -> Option<Vec<String>> {
    let list = serde_json::from_str::<Vec<&RawValue>>(json).ok()?;
    let items = list.iter().map(|item| item.get());
    Some(items.filter(|json| *json != "null").map(text_of).collect())
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

    fn fields(json: &str) -> Fields<'_> {
        Fields::read(json).unwrap()
    }

    #[test]
    fn numbers_and_texts_stand_for_each_other() {
        let f = fields(r#"{"a":7,"b":"7","c":" 7 ","d":7.0,"e":null,"f":"","g":"x","h":true}"#);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(f.int(name), Some(7), "{name}");
            assert_eq!(f.double(name), Some(7.0), "{name}");
        }
        for name in ["e", "f", "g", "absent"] {
            assert_eq!(f.int(name), None, "{name}");
        }
        assert_eq!(
            (f.text("a"), f.text("b"), f.text("e")),
            ("7".into(), "7".into(), String::new())
        );
        assert_eq!(
            (f.flag("a"), f.flag("h"), f.flag("e")),
            (Some(true), Some(true), None)
        );
        assert_eq!(fields(r#"{"a":5000000000}"#).int("a"), None);
    }

    #[test]
    fn ids_beyond_the_range_of_floats_stay_exact() {
        let f =
            fields(r#"{"ids":[346252615123869699,"9007199254740993",99999999999999999999999]}"#);
        assert_eq!(
            f.texts("ids"),
            [
                "346252615123869699",
                "9007199254740993",
                "99999999999999999999999"
            ]
        );
        assert_eq!(
            fields(r#"{"a":346252615123869699}"#).long("a"),
            Some(346_252_615_123_869_699)
        );
        assert_eq!(fields(r#"{"a":1e300}"#).long("a"), None);
    }

    #[test]
    fn lists_are_read_from_arrays_and_texts() {
        for (json, expected) in [
            (r#"["07:30:00-23:30:00"]"#, vec!["07:30:00-23:30:00"]),
            (r#""[\"A\",\"B\"]""#, vec!["A", "B"]),
            (r#""A""#, vec!["A"]),
            (r#""[A""#, vec!["[A"]),
            (r#""""#, vec![]),
            ("null", vec![]),
            ("[]", vec![]),
            ("[null,1]", vec!["1"]),
        ] {
            assert_eq!(
                fields(&format!(r#"{{"a":{json}}}"#)).texts("a"),
                expected,
                "{json}"
            );
        }
    }

    #[test]
    fn lists_printed_as_the_document_prints_them_are_mended() {
        let printed = br#"{"code":0,"message":"ok","result":{"rows":[{
            "status_recall":"[1,1]",
            "time_range":"["07:30:00-12:00:00","13:00:00-23:30:00"]",
            "task_name":"a \"[\" b",
            "intention_push":"["A","B"]" }]}}"#;
        let text = text(printed);
        let answer = Answer::read(&text).unwrap();
        let row = &answer.result.objects("rows")[0];
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

    fn touch_everything(bytes: &[u8]) {
        let text = text(bytes);
        let Some(answer) = Answer::read(&text) else {
            return;
        };
        let names: Vec<_> = answer.result.0.keys().cloned().collect();
        for name in &names {
            let f = &answer.result;
            let _ = (f.text(name), f.long(name), f.int(name), f.double(name));
            let _ = (f.flag(name), f.texts(name), f.object(name), f.objects(name));
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            touch_everything(&bytes);
        }

        #[test]
        fn reading_something_like_an_answer_never_panics(
            inner in r#"([a-z0-9\[\]{}",:\\ .é-]|null|"\["|"\]"|"a":){0,40}"#
        ) {
            touch_everything(format!(r#"{{"code":0,"result":{{{inner}}}}}"#).as_bytes());
            touch_everything(format!(r#"{{"code":0,"result":{{"a":{inner}}}}}"#).as_bytes());
        }

        #[test]
        fn every_long_reads_back_exactly(number: i64, as_text: bool) {
            let json = if as_text { format!(r#"{{"a":"{number}"}}"#) } else { format!(r#"{{"a":{number}}}"#) };
            let f = fields(&json);
            prop_assert_eq!(f.long("a"), Some(number));
            prop_assert_eq!(f.text("a"), number.to_string());
        }
    }
}
