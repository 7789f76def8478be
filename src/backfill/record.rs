//! A line of a file of failed pushes: the push, and what the platform says about it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the push would have gone; empty where the line does not say.
    pub module: String,
    /// The push, byte for byte; the whole line where that is no such record.
    pub body: Bytes,
    /// When the platform gave the push up, in milliseconds since 1970; `None`: it does not say, or
    /// in another unit.
    pub given_up_ms: Option<u64>,
    /// Whether the line is what such lines are documented to be.
    pub is_record: bool,
}

/// `{"data":{…},"module":"receiveCallRecord","retryTimes":4,"timestamp":1543935214693}`
#[derive(Deserialize)]
struct Form<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    module: String,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

impl Record {
    /// Reads a line. One in another form is taken as it is, to be kept as an unrecognized push.
    pub fn read(line: &Bytes) -> Self {
        Self::read_form(line).unwrap_or_else(|| Self {
            module: String::new(),
            body: line.clone(),
            given_up_ms: None,
            is_record: false,
        })
    }

    fn read_form(line: &Bytes) -> Option<Self> {
        let form: Form<'_> = serde_json::from_slice(line).ok()?;
        let data = form.data.get();
        let body = match data.as_bytes().first()? {
            b'{' | b'[' => line.slice_ref(data.as_bytes()),
            // The platform writes JSON inside of strings elsewhere.
            b'"' => {
                let inner: Cow<'_, str> = serde_json::from_str::<String>(data).ok()?.into();
                inner.trim_start().starts_with(['{', '[']).then_some(())?;
                Bytes::from(inner.into_owned())
            }
            _ => return None,
        };
        let has_module = !form.module.trim().is_empty();
        has_module.then(|| Self {
            module: form.module,
            body,
            given_up_ms: form.timestamp.and_then(milliseconds),
            is_record: true,
        })
    }
}

/// No push is so old: a smaller number is no milliseconds (this is in 2001). A push must not count
/// as outdated for it.
const EARLIEST_MS: u64 = 1_000_000_000_000;

/// A number, or one in a string.
fn milliseconds(value: &RawValue) -> Option<u64> {
    let ms = value.get().trim_matches('"').trim().parse().ok();
    ms.filter(|ms| *ms >= EARLIEST_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &'static str) -> Record {
        Record::read(&Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn the_push_is_taken_byte_for_byte_with_its_numbers_as_written() {
        let record = read(
            r#" {"timestamp":1543935214693, "module" : "receiveVoice","data": {"size":1.0, "id":346252615123869699} ,"retryTimes":4}"#,
        );
        assert_eq!(record.body, r#"{"size":1.0, "id":346252615123869699}"#);
        assert_eq!(record.module, "receiveVoice");
        assert_eq!(record.given_up_ms, Some(1_543_935_214_693));
        assert!(record.is_record);
    }

    #[test]
    fn a_push_inside_of_a_string_is_taken_out() {
        let record =
            read(r#"{"data":"{\"a\":\"\\u4f60\"}","module":"m","timestamp":"1543935214693"}"#);
        assert_eq!(record.body, r#"{"a":"\u4f60"}"#);
        assert_eq!(record.given_up_ms, Some(1_543_935_214_693));
    }

    #[test]
    fn a_line_in_another_form_is_kept_whole() {
        for line in [
            "rubbish",
            "{}",
            r#"{"data":{}}"#,
            r#"{"data":{},"module":""}"#,
            r#"{"data":{},"module":7}"#,
            r#"{"data":null,"module":"m"}"#,
            r#"{"data":"text","module":"m"}"#,
            r#"{"data":{},"data":{},"module":"m"}"#,
            r#"{"data":{},"module":"m"} more"#,
            r#"[{"data":{},"module":"m"}]"#,
        ] {
            let record = read(line);
            assert!(!record.is_record, "{line}");
            assert_eq!((&*record.module, &*record.body), ("", line.as_bytes()));
        }
    }

    #[test]
    fn a_time_that_is_none_in_milliseconds_is_not_known() {
        for timeless in [
            r#"{"data":{},"module":"m"}"#,
            r#"{"data":{},"module":"m","timestamp":null}"#,
            r#"{"data":{},"module":"m","timestamp":0}"#,
            r#"{"data":{},"module":"m","timestamp":1543935214}"#,
            r#"{"data":{},"module":"m","timestamp":"2018-12-04"}"#,
        ] {
            let record = read(timeless);
            assert!(
                record.is_record && record.given_up_ms.is_none(),
                "{timeless}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_none_is_lost(
            line in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                r#"\{("data"|"module"|"timestamp"|:|,|\{|\}|"|[0-9a-z\\]){0,20}\}"#
                    .prop_map(String::into_bytes),
            ],
        ) {
            let line = Bytes::from(line);
            let record = Record::read(&line);
            prop_assert!(record.is_record || record.body == line);
        }
    }
}
