//! JSON read without loss: numbers as written, members in order, repeated members kept.
//!
//! `serde_json` validates the text. Values are then read here, because its own number type would
//! change what came: the platform's ids exceed 2^53, and an event's identity is its content.

use std::borrow::Cow;

use serde::Deserialize;
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
    /// Reads a whole text; `None` if it is no JSON, or nests too deep.
    ///
    /// The text is validated as a whole first. The reader that follows relies on that, so that each
    /// byte is looked at twice, however deep it stands.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        serde_json::from_str::<&RawValue>(text).ok()?;
        Reader { text, at: 0 }.value(MAX_DEPTH)
    }

    /// The elements of an array, each as the text that it is written in.
    pub fn elements(text: &'a str) -> Option<Vec<&'a str>> {
        let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        Some(elements.into_iter().map(RawValue::get).collect())
    }

    /// The maximum number of values that a text can hold: of a JSON text, the exact number, with each
    /// empty array and object counted twice. Allocates nothing.
    pub fn count_values(text: &str) -> usize {
        let mut count = 1;
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b',' | b'[' | b'{' => count += 1,
                b'"' => skip_string(&mut bytes),
                _ => {}
            }
        }
        count
    }

    /// The number of elements of the longest array.
    pub fn longest_list(&self) -> usize {
        match self {
            Self::Array(elements) => {
                let inner = elements.iter().map(Self::longest_list).max();
                elements.len().max(inner.unwrap_or_default())
            }
            Self::Object(members) => {
                let inner = members.iter().map(|(_, value)| value.longest_list()).max();
                inner.unwrap_or_default()
            }
            _ => 0,
        }
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

/// Passes over the rest of a string, its closing quote included.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Reads values from a text that is valid JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads the next value, which nests at most `depth` levels.
    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        let depth = depth.checked_sub(1)?;
        self.skip_space();
        Some(match self.peek()? {
            b'"' => Json::string(self.string()?),
            b'[' => self.array(depth)?,
            b'{' => self.object(depth)?,
            _ => match self.scalar()? {
                "null" => Json::Null,
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                number => Json::Number(number),
            },
        })
    }

    fn array(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut elements = Vec::new();
        while self.goes_on(b']')? {
            elements.push(self.value(depth)?);
        }
        Some(Json::Array(elements))
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut members = Vec::new();
        while self.goes_on(b'}')? {
            self.skip_space();
            // A name with half a character stands for no text.
            let Json::String(name) = Json::string(self.string()?) else {
                return None;
            };
            self.skip_space();
            // The colon.
            self.at += 1;
            members.push((name, self.value(depth)?));
        }
        Some(Json::Object(members))
    }

    /// Passes over what stands before the next element; false at the end of the array or object.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        self.skip_space();
        let byte = self.peek()?;
        self.at += 1;
        if byte == end {
            return Some(false);
        }
        if byte == b',' {
            return Some(true);
        }
        // The opening bracket: the array or object may be empty.
        self.skip_space();
        let is_empty = self.peek()? == end;
        self.at += usize::from(is_empty);
        Some(!is_empty)
    }

    /// The text of a string, its quotes included.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        let mut rest = self.text.get(start + 1..)?.bytes();
        skip_string(&mut rest);
        self.at = self.text.len() - rest.len();
        self.text.get(start..self.at)
    }

    /// The text of a number or of a word.
    fn scalar(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let end = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']);
        let scalar = &rest[..end.unwrap_or(rest.len())];
        self.at += scalar.len();
        Some(scalar)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
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
    fn values_are_read_wherever_white_space_stands() {
        let text = " { \"a\" : [ 1 , [ ] , { } , \"x\\\"]\" ] ,\n\"b\"\t:null , \"c\":{ \"d\":true}, \"\":-1.5e3 } ";
        let expected = r#"{"":-1.5e3,"a":[1,[],{},"x\"]"],"b":null,"c":{"d":true}}"#;
        assert_eq!(canonical(text).as_deref(), Some(expected));
    }

    #[test]
    fn values_are_counted_without_those_in_strings() {
        for (text, count) in [
            ("1", 1),
            ("[]", 2),
            ("[1,2]", 3),
            (r#"{"a":"[,{\",[","b":[{}]}"#, 5),
            ("", 1),
            ("\"", 1),
        ] {
            assert_eq!(Json::count_values(text), count, "{text}");
        }
    }

    #[test]
    fn the_longest_list_is_found_at_any_depth() {
        let longest = |text| Json::parse(text).unwrap().longest_list();
        assert_eq!(longest(r#"{"a":[1,{"b":[1,2,3]}]}"#), 3);
        assert_eq!(longest("{}"), 0);
    }

    #[test]
    fn eight_megabytes_nested_without_end_cost_no_more_than_their_length() {
        // Read anew at each level, this would take sixty-four times as long as one pass.
        let depth = 4 << 20;
        let text = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(Json::parse(&text), None);
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
