//! Reading fields leniently: a number as a string, a string as a number, null for absent.
//!
//! Each way of being lenient is a function here with a name. What a function cannot read stays
//! among the rest, so that nothing is lost.

use std::borrow::Cow;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::json::Json;

/// The members of an object that have not been read yet.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
}

impl<'a> Fields<'a> {
    /// The members of an object.
    pub fn new(members: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        Self { members }
    }

    /// The members of a text that is a JSON object.
    pub fn parse(text: &'a str) -> Option<Self> {
        match Json::parse(text)? {
            Json::Object(members) => Some(Self::new(members)),
            _ => None,
        }
    }

    /// Whether there is a member of that name with a value other than null and "".
    pub fn has(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|(n, value)| n == name && !is_absent(value))
    }

    /// Takes the last member of a name if `read` can read it; one that is absent by any of the
    /// ways to be so is taken as well, and gives `None`.
    fn take<T>(&mut self, name: &str, read: impl FnOnce(&Json<'a>) -> Option<T>) -> Option<T> {
        let at = self.members.iter().rposition(|(n, _)| n == name)?;
        let (_, value) = &self.members[at];
        if is_absent(value) {
            self.members.remove(at);
            return None;
        }
        let read = read(value)?;
        self.members.remove(at);
        Some(read)
    }

    /// A text; a number or a truth value gives its text.
    pub fn text(&mut self, name: &str) -> String {
        self.take(name, text).unwrap_or_default()
    }

    /// A text; anything that is none as the JSON that it is.
    pub fn text_or_json(&mut self, name: &str) -> String {
        self.take(name, |value| {
            text(value).or_else(|| Some(value.canonical()))
        })
        .unwrap_or_default()
    }

    /// A whole number, also written as a string or with a fraction of zero.
    pub fn int64(&mut self, name: &str) -> Option<i64> {
        self.take(name, int64)
    }

    /// A whole number of 32 bits; a larger one stays unread.
    pub fn int32(&mut self, name: &str) -> Option<i32> {
        self.take(name, |value| int64(value)?.try_into().ok())
    }

    /// A number with or without a fraction, also written as a string.
    pub fn double(&mut self, name: &str) -> Option<f64> {
        self.take(name, |value| {
            let number: f64 = text(value)?.trim().parse().ok()?;
            number.is_finite().then_some(number)
        })
    }

    /// A truth value, also written as a string or as 0 or 1.
    pub fn bool(&mut self, name: &str) -> Option<bool> {
        self.take(name, |value| match text(value)?.trim() {
            "true" => Some(true),
            "false" => Some(false),
            number => match whole(number)? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
        })
    }

    /// A list of texts, also one that is written as JSON inside a string; a text alone is a list
    /// of one. Missing elements are empty, so that the others keep their places.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        self.take(name, |value| match value {
            Json::Array(elements) => texts(elements),
            Json::String(inner) => match list_within(inner) {
                Some(elements) => texts(&elements),
                None => Some(vec![inner.clone().into_owned()]),
            },
            other => Some(vec![text(other)?]),
        })
        .unwrap_or_default()
    }

    /// An object; one without members where there is none.
    #[must_use]
    pub fn object(&mut self, name: &str) -> Self {
        self.take(name, |value| match value {
            Json::Object(members) => Some(Self::new(members.clone())),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// An object as a whole.
    pub fn structure(&mut self, name: &str) -> Option<Struct> {
        self.take(name, |value| match value {
            Json::Object(members) => Some(to_struct(members, MAX_LEVELS)),
            _ => None,
        })
    }

    /// A list of objects; one object alone is a list of one. Stays unread if anything else is in
    /// it, or if it is longer than [`MAX_LIST`].
    pub fn objects(&mut self, name: &str) -> Vec<Fields<'a>> {
        self.take(name, |value| match value {
            Json::Object(members) => Some(vec![Fields::new(members.clone())]),
            Json::Array(elements) if elements.len() <= MAX_LIST => elements
                .iter()
                .map(|element| match element {
                    Json::Object(members) => Some(Fields::new(members.clone())),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// What has not been read, for `extra_fields`; `None` if there is nothing.
    pub fn rest(self) -> Option<Struct> {
        (!self.members.is_empty()).then(|| to_struct(&self.members, MAX_LEVELS))
    }
}

/// The maximum length of a list that is read into fields. No dialog has a tenth of it.
pub const MAX_LIST: usize = 10_000;

/// How many levels of protobuf messages a `Struct` may hold, itself included.
///
/// prost and the libraries for C++, Java and Python refuse a message that nests deeper than 100
/// levels, Python one level earlier. The deepest place of a `Struct` is six levels below a dead
/// letter's page: letter, event, call, dialog, turn, hit. The rest is a reserve for messages that
/// will wrap these.
const MAX_LEVELS: usize = 84;

/// null, "" and a missing member mean the same in what the platform sends.
fn is_absent(value: &Json<'_>) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        _ => false,
    }
}

fn text(value: &Json<'_>) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone().into_owned()),
        Json::Broken(_, text) => Some(text.clone()),
        Json::Number(number) => Some((*number).to_owned()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The elements of a list that is written as JSON inside a string.
fn list_within(text: &str) -> Option<Vec<Json<'_>>> {
    let is_list = text.trim_start().starts_with('[');
    // A value inside a string is in no count of the whole.
    let is_bounded = is_list && Json::count_values(text) <= MAX_LIST;
    match is_bounded.then(|| Json::parse(text))?? {
        Json::Array(elements) => Some(elements),
        _ => None,
    }
}

fn texts(elements: &[Json<'_>]) -> Option<Vec<String>> {
    if elements.len() > MAX_LIST {
        return None;
    }
    let texts = elements.iter().map(|element| {
        if is_absent(element) {
            Some(String::new())
        } else {
            text(element)
        }
    });
    texts.collect()
}

fn int64(value: &Json<'_>) -> Option<i64> {
    match value {
        Json::Number(number) => whole(number),
        Json::String(text) => whole(text.trim()),
        _ => None,
    }
}

/// A whole number from its digits; 7.0 and 1.5277e12 are whole too.
fn whole(text: &str) -> Option<i64> {
    /// Up to 2^53 a double holds every whole number exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        #[allow(clippy::cast_possible_truncation, reason = "whole and within ±2^53")]
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    })
}

/// A `Struct` of at most `levels` levels. Each of its values stands two levels deeper, within an
/// entry of the map.
fn to_struct(members: &[(Cow<'_, str>, Json<'_>)], levels: usize) -> Struct {
    let levels = levels.saturating_sub(2);
    let field = |(name, value): &(Cow<'_, str>, Json<'_>)| {
        (name.clone().into_owned(), to_value(value, levels))
    };
    Struct {
        fields: members.iter().map(field).collect(),
    }
}

/// A `Value` of at most `levels` levels, itself included. What nests deeper becomes a text that
/// holds its JSON.
fn to_value(value: &Json<'_>, levels: usize) -> Value {
    /// The value itself, its list and a value in that.
    const ARRAY: usize = 3;
    /// The value itself, its struct, an entry and a value in that.
    const OBJECT: usize = 4;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => exact(number).map_or_else(
            || Kind::StringValue((*number).to_owned()),
            Kind::NumberValue,
        ),
        Json::String(text) => Kind::StringValue(text.clone().into_owned()),
        Json::Broken(_, text) => Kind::StringValue(text.clone()),
        Json::Array(elements) if levels >= ARRAY => Kind::ListValue(ListValue {
            values: elements.iter().map(|it| to_value(it, levels - 2)).collect(),
        }),
        Json::Object(members) if levels >= OBJECT => {
            Kind::StructValue(to_struct(members, levels - 1))
        }
        Json::Array(_) | Json::Object(_) => Kind::StringValue(value.canonical()),
    };
    Value { kind: Some(kind) }
}

/// The number as a double, if that keeps all of its digits.
fn exact(number: &str) -> Option<f64> {
    let double: f64 = number
        .parse()
        .ok()
        .filter(|double: &f64| double.is_finite())?;
    let significant = |text: &str| -> String {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    // Rust prints the shortest text that reads back as the same double.
    (significant(number) == significant(&double.to_string())).then_some(double)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        Fields::parse(text).unwrap()
    }

    #[test]
    fn numbers_and_strings_stand_for_each_other() {
        let mut fields = fields(
            r#"{"a":"7","b":346252615123869699,"c":7.0,"d":" 8 ","e":"x","f":"1","g":0,"h":true}"#,
        );
        assert_eq!(fields.int32("a"), Some(7));
        assert_eq!(fields.text("b"), "346252615123869699");
        assert_eq!(fields.int64("c"), Some(7));
        assert_eq!(fields.int64("d"), Some(8));
        assert_eq!(fields.int64("e"), None);
        assert_eq!(fields.bool("f"), Some(true));
        assert_eq!(fields.bool("g"), Some(false));
        assert_eq!(fields.text("h"), "true");
        let rest = fields.rest().unwrap();
        assert_eq!(rest.fields.keys().collect::<Vec<_>>(), ["e"]);
    }

    #[test]
    fn what_is_no_text_can_be_read_as_its_json() {
        let mut fields = fields(r#"{"a":[1, 1],"b":"[1,1]","c":null}"#);
        assert_eq!(fields.text_or_json("a"), "[1,1]");
        assert_eq!(fields.text_or_json("b"), "[1,1]");
        assert_eq!(fields.text_or_json("c"), "");
    }

    /// The levels of messages that a `Struct` takes, itself included.
    fn levels(it: &Struct) -> usize {
        fn of_value(value: &Value) -> usize {
            1 + match value.kind.as_ref() {
                Some(Kind::ListValue(list)) => {
                    1 + list.values.iter().map(of_value).max().unwrap_or_default()
                }
                Some(Kind::StructValue(it)) => levels(it),
                _ => 0,
            }
        }
        let deepest = it.fields.values().map(of_value).max();
        1 + deepest.map_or(0, |deepest| 1 + deepest)
    }

    /// A `Struct` written as nested arrays and objects, to `depth` levels of JSON.
    fn nested(depth: usize, is_array: impl Fn(usize) -> bool) -> Struct {
        let (mut text, mut end) = (String::from("{\"x\":"), String::from("}"));
        for level in 0..depth {
            let (open, close) = if is_array(level) {
                ("[", "]")
            } else {
                ("{\"y\":", "}")
            };
            text += open;
            end.insert_str(0, close);
        }
        let text = text + "7" + &end;
        let fields = Fields::parse(&text).unwrap();
        fields.rest().unwrap()
    }

    #[test]
    fn what_nests_deeper_than_every_library_reads_becomes_text() {
        let mut deepest = 0;
        for depth in 0..=60 {
            for it in [
                nested(depth, |_| true),
                nested(depth, |_| false),
                nested(depth, |level| level % 2 == 0),
            ] {
                deepest = deepest.max(levels(&it));
                assert!(levels(&it) <= MAX_LEVELS, "{depth}: {}", levels(&it));
            }
        }
        assert!(deepest >= MAX_LEVELS - 1, "{deepest} levels are used");
        // Nothing is lost: the text holds the rest.
        let Struct { fields } = nested(60, |_| true);
        let mut value = fields["x"].clone();
        let mut depth = 0;
        while let Some(Kind::ListValue(mut list)) = value.kind {
            depth += 1;
            value = list.values.remove(0);
        }
        let rest = "[".repeat(60 - depth) + "7" + &"]".repeat(60 - depth);
        assert_eq!(value.kind, Some(Kind::StringValue(rest)));
    }

    #[test]
    fn a_list_that_is_too_long_stays_unread_as_a_whole() {
        let of = |count: usize| format!("{{\"a\":[{}]}}", vec!["{}"; count].join(","));
        let (most, more) = (of(MAX_LIST), of(MAX_LIST + 1));
        assert_eq!(fields(&most).objects("a").len(), MAX_LIST);
        let mut too_long = fields(&more);
        assert!(too_long.objects("a").is_empty());
        assert!(too_long.texts("a").is_empty());
        assert!(too_long.has("a"));
        let within = format!("{{\"a\":\"[{}0]\"}}", "0,".repeat(MAX_LIST));
        assert_eq!(fields(&within).texts("a").len(), 1);
    }

    proptest! {
        #[test]
        fn every_whole_number_reads_back_exactly(number: i64, as_text: bool) {
            let quote = if as_text { "\"" } else { "" };
            let json = format!(r#"{{"a":{quote}{number}{quote}}}"#);
            prop_assert_eq!(fields(&json).int64("a"), Some(number));
            prop_assert_eq!(fields(&json).text("a"), number.to_string());
        }
    }

    #[test]
    fn null_empty_and_missing_are_absent_alike() {
        let mut fields = fields(r#"{"a":null,"b":""}"#);
        assert_eq!(
            (fields.int64("a"), fields.int64("b"), fields.int64("c")),
            (None, None, None)
        );
        assert!(fields.rest().is_none());
    }

    #[test]
    fn an_unread_number_beyond_double_precision_keeps_its_digits() {
        let rest = fields(r#"{"id":346252615123869699,"rate":0.25,"big":1e3}"#)
            .rest()
            .unwrap();
        let kind = |name: &str| rest.fields[name].kind.clone().unwrap();
        assert_eq!(kind("id"), Kind::StringValue("346252615123869699".into()));
        assert_eq!(kind("rate"), Kind::NumberValue(0.25));
        assert_eq!(kind("big"), Kind::NumberValue(1000.0));
    }

    #[test]
    fn a_list_inside_a_string_is_read() {
        let mut fields = fields(r#"{"a":"[\"x\",1,null]","b":["y"],"c":"[z","d":[{}]}"#);
        assert_eq!(fields.texts("a"), ["x", "1", ""]);
        assert_eq!(fields.texts("b"), ["y"]);
        assert_eq!(fields.texts("c"), ["[z"]);
        assert!(fields.texts("d").is_empty());
        assert!(fields.rest().unwrap().fields.contains_key("d"));
    }
}
