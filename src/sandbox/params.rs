//! Strict reading of a request's JSON object.
//!
//! The real platform's leniency towards its callers is unknown, so the sandbox
//! takes exactly the documented types: whatever passes here is right by the
//! documents.

use serde_json::{Map, Value};

use super::code::{BAD_PARAMETER, Refusal};

/// The parameters of one request.
pub(super) struct Params(Map<String, Value>);

impl Params {
    /// Reads a request body, which must be a JSON object.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(BAD_PARAMETER.because("the body is no JSON object")),
            Err(error) => Err(BAD_PARAMETER.because(format!("the body is no JSON: {error}"))),
        }
    }

    /// The value unless it is absent or null, which mean the same.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Result<&str, Refusal> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    /// An empty string counts as absent.
    pub fn optional_text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    pub fn integer(&self, name: &str) -> Result<i64, Refusal> {
        self.optional_integer(name)?.ok_or_else(|| missing(name))
    }

    pub fn optional_integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| wrong(name, "an integer of 64 bits")),
        }
    }

    pub fn optional_bool(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_bool()
                .map(Some)
                .ok_or_else(|| wrong(name, "a boolean")),
        }
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        self.optional_texts(name)?.ok_or_else(|| missing(name))
    }

    pub fn optional_texts(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        strings(value)
            .map(Some)
            .ok_or_else(|| wrong(name, "an array of strings"))
    }

    pub fn optional_integers(&self, name: &str) -> Result<Option<Vec<i64>>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let integers = value
            .as_array()
            .and_then(|items| items.iter().map(Value::as_i64).collect());
        integers
            .map(Some)
            .ok_or_else(|| wrong(name, "an array of integers"))
    }

    /// A `string[][]`.
    pub fn grid(&self, name: &str) -> Result<Vec<Vec<String>>, Refusal> {
        let value = self.get(name).ok_or_else(|| missing(name))?;
        let rows = value
            .as_array()
            .and_then(|rows| rows.iter().map(strings).collect());
        rows.ok_or_else(|| wrong(name, "an array of arrays of strings"))
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn missing(name: &str) -> Refusal {
    BAD_PARAMETER.because(format!("{name} is missing"))
}

fn wrong(name: &str, expected: &str) -> Refusal {
    BAD_PARAMETER.because(format!("{name} is not {expected}"))
}
