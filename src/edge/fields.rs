//! Reading fields leniently: a number as a string, a string as a number, null for absent.
//!
//! Each way of being lenient is a function here with a name. What a function cannot read stays
//! among the rest, so that nothing is lost.

use std::borrow::Cow;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::json::Json;

/// The members of an object that have not been read yet.
pub struct Fields<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
}

impl<'a> Fields<'a> {
    /// The members of an object.
    pub fn new(members: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        Self { members }
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

    /// A whole number, also written as a string or with a fraction of zero.
    pub fn int64(&mut self, name: &str) -> Option<i64> {
        self.take(name, int64)
    }

    /// A whole number of 32 bits; a larger one stays unread.
    pub fn int32(&mut self, name: &str) -> Option<i32> {
        self.take(name, |value| int64(value)?.try_into().ok())
    }

    /// A truth value, also written as a string or as 0 or 1.
    pub fn bool(&mut self, name: &str) -> Option<bool> {
        self.take(name, |value| match value {
            Json::Bool(value) => Some(*value),
            other => match text(other)?.trim() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
        })
    }

    /// A list of texts, also one that is written as JSON inside a string.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        fn elements(value: &Json<'_>) -> Option<Vec<String>> {
            match value {
                Json::Array(elements) => elements
                    .iter()
                    .map(|e| {
                        if is_absent(e) {
                            Some(String::new())
                        } else {
                            text(e)
                        }
                    })
                    .collect(),
                Json::String(inner) => match Json::parse(inner)? {
                    list @ Json::Array(_) => elements(&list),
                    _ => None,
                },
                _ => None,
            }
        }
        self.take(name, elements).unwrap_or_default()
    }

    /// A list of objects; one object alone is a list of one. Stays unread if anything else is in it.
    pub fn objects(&mut self, name: &str) -> Vec<Fields<'a>> {
        self.take(name, |value| match value {
            Json::Object(members) => Some(vec![Fields::new(members.clone())]),
            Json::Array(elements) => elements
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
        (!self.members.is_empty()).then(|| to_struct(&self.members))
    }
}

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

fn int64(value: &Json<'_>) -> Option<i64> {
    let text = match value {
        Json::Number(number) => number,
        Json::String(text) => text.trim(),
        _ => return None,
    };
    text.parse().ok().or_else(|| {
        // 1527737756729.0 and 1.5277e12 are whole too; up to 2^53 a double holds them exactly.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let number: f64 = text.parse().ok()?;
        #[allow(clippy::cast_possible_truncation, reason = "whole and within ±2^53")]
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    })
}

fn to_struct(members: &[(Cow<'_, str>, Json<'_>)]) -> Struct {
    Struct {
        fields: members
            .iter()
            .map(|(name, value)| (name.clone().into_owned(), to_value(value)))
            .collect(),
    }
}

fn to_value(value: &Json<'_>) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => exact(number).map_or_else(
            || Kind::StringValue((*number).to_owned()),
            Kind::NumberValue,
        ),
        Json::String(text) => Kind::StringValue(text.clone().into_owned()),
        Json::Broken(_, text) => Kind::StringValue(text.clone()),
        Json::Array(elements) => Kind::ListValue(ListValue {
            values: elements.iter().map(to_value).collect(),
        }),
        Json::Object(members) => Kind::StructValue(to_struct(members)),
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
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        match Json::parse(text) {
            Some(Json::Object(members)) => Fields::new(members),
            other => panic!("not an object: {other:?}"),
        }
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
        let mut fields = fields(r#"{"a":"[\"x\",1,null]","b":["y"],"c":"z"}"#);
        assert_eq!(fields.texts("a"), ["x", "1", ""]);
        assert_eq!(fields.texts("b"), ["y"]);
        assert!(fields.texts("c").is_empty());
        assert!(fields.rest().unwrap().fields.contains_key("c"));
    }
}
