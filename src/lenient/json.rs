//! JSON read without loss: numbers as written, members in order, repeated members kept.
//!
//! `serde_json` does the reading; what it would turn into its own number type stays the text that
//! came, because the platform's ids exceed 2^53 and because an event's identity is its content.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(&'a str),
    /// A string, its escapes resolved.
    String(Cow<'a, str>),
    /// A string with an escape that stands for no character (half of a surrogate pair): its text
    /// as written, and the same made readable.
    Broken(&'a str, String),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object's members in order; a name may come more than once.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Deeper nesting is not read as JSON: no push nests beyond four levels.
const MAX_DEPTH: usize = 64;

impl<'a> Json<'a> {
    /// Reads a whole text; `None` if it is no JSON.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if !text.starts_with(['{', '[']) {
            // What is neither is taken at its word below, so that it has to be valid.
            serde_json::from_str::<&RawValue>(text).ok()?;
        }
        Self::read(text, MAX_DEPTH)
    }

    /// The elements of an array, each as the text that it is written in.
    pub fn elements(text: &'a str) -> Option<Vec<&'a str>> {
        let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        Some(elements.into_iter().map(RawValue::get).collect())
    }

    /// Reads a value without white space around it. Objects and arrays may be no JSON yet, and
    /// what stands in them is valid once they are.
    fn read(text: &'a str, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        Some(match text.as_bytes().first()? {
            b'n' => Self::Null,
            b't' => Self::Bool(true),
            b'f' => Self::Bool(false),
            b'"' => Self::string(text),
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let mut read = Vec::with_capacity(elements.len());
                for element in elements {
                    read.push(Self::read(element.get(), depth)?);
                }
                Self::Array(read)
            }
            b'{' => {
                let Members(members) = serde_json::from_str(text).ok()?;
                let mut read = Vec::with_capacity(members.len());
                for (name, value) in members {
                    read.push((name.0, Self::read(value.get(), depth)?));
                }
                Self::Object(read)
            }
            _ => Self::Number(text),
        })
    }

    fn string(text: &'a str) -> Self {
        let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        if let Some(inner) = inner.filter(|inner| !inner.contains('\\')) {
            return Self::String(Cow::Borrowed(inner));
        }
        match serde_json::from_str::<Text<'_>>(text) {
            Ok(string) => Self::String(string.0),
            Err(_) => Self::Broken(text, text.trim_matches('"').to_owned()),
        }
    }

    /// The text that stands for the value when identities are compared: no white space, members
    /// sorted by name, strings with the fewest escapes, numbers as written.
    pub fn canonical(&self) -> String {
        // Room for most pushes.
        let mut text = String::with_capacity(1024);
        self.write_canonical(&mut text);
        text
    }

    fn write_canonical(&self, text: &mut String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(true) => text.push_str("true"),
            Self::Bool(false) => text.push_str("false"),
            Self::Number(number) => text.push_str(number),
            Self::String(string) => write_string(string, text),
            Self::Broken(written, _) => text.push_str(written),
            Self::Array(elements) => {
                text.push('[');
                for (i, element) in elements.iter().enumerate() {
                    separate(i, text);
                    element.write_canonical(text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
                // Stable: members of the same name keep their order, which tells their values.
                sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
                text.push('{');
                for (i, (name, value)) in sorted.into_iter().enumerate() {
                    separate(i, text);
                    write_string(name, text);
                    text.push(':');
                    value.write_canonical(text);
                }
                text.push('}');
            }
        }
    }
}

fn separate(i: usize, text: &mut String) {
    if i > 0 {
        text.push(',');
    }
}

fn write_string(string: &str, text: &mut String) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if string.bytes().all(is_plain) {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        // Writing a str as JSON to memory cannot fail.
        text.push_str(&serde_json::to_string(string).unwrap_or_default());
    }
}

/// A string that borrows where it can.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's members, repeated names included.
struct Members<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(24));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        Json::parse(text).map(|json| json.canonical())
    }

    #[test]
    fn white_space_key_order_and_escapes_do_not_matter() {
        let a = canonical("{\"b\": [1, 2],\n \"a\": \"\\u4f60\\/\"}");
        assert_eq!(a.as_deref(), Some("{\"a\":\"你/\",\"b\":[1,2]}"));
        assert_eq!(a, canonical("{\"a\":\"你/\",\"b\":[1,2]}"));
    }

    #[test]
    fn numbers_stay_as_written() {
        for number in [
            "1",
            "1.0",
            "1e2",
            "1E+2",
            "-0",
            "346252615123869699",
            "0.10",
        ] {
            assert_eq!(canonical(number).as_deref(), Some(number));
        }
    }

    #[test]
    fn repeated_members_make_another_value() {
        assert_ne!(canonical(r#"{"a":1,"a":2}"#), canonical(r#"{"a":2}"#));
        assert_ne!(canonical(r#"{"a":1,"a":2}"#), canonical(r#"{"a":2,"a":1}"#));
    }

    #[test]
    fn half_a_surrogate_pair_is_kept_as_written() {
        let json = Json::parse(r#"{"a":"x\ud83d"}"#).unwrap();
        assert_eq!(json.canonical(), r#"{"a":"x\ud83d"}"#);
    }

    #[test]
    fn nesting_without_end_is_no_json() {
        assert_eq!(
            canonical(&("[".repeat(100_000) + &"]".repeat(100_000))),
            None
        );
    }

    proptest! {
        #[test]
        fn reading_any_text_agrees_with_serde_json_and_does_not_panic(text in "\\PC*") {
            let ours = canonical(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text).ok();
            prop_assert_eq!(ours.is_some(), theirs.is_some());
        }

        #[test]
        fn canonical_text_reads_back_as_itself(text in r#"[\[\]{},:0-9a-c"\\ .eE+-]{0,40}"#) {
            if let Some(once) = canonical(&text) {
                prop_assert_eq!(canonical(&once), Some(once));
            }
        }
    }
}
