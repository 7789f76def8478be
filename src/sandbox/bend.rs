//! Bends an answer's JSON the way the live platform has been seen to.

use serde_json::{Map, Value, json};

use super::faults::Kind;

/// Writes the answer, bent as the fault has it.
pub(super) fn serialize(mut envelope: Value, fault: Option<Kind>) -> Vec<u8> {
    match fault {
        Some(Kind::NumbersAsStrings) => numbers_as_strings(&mut envelope),
        Some(Kind::StringsAsNumbers) => strings_as_numbers(&mut envelope),
        Some(Kind::NullFields) => null_fields(&mut envelope),
        Some(Kind::UnknownFields) => unknown_fields(&mut envelope),
        Some(Kind::InvalidJsonStrings) => return invalid_json_strings(envelope),
        _ => {}
    }
    envelope.to_string().into_bytes()
}

/// Removes `task_id`, and all `task_data_ids` but the first `kept`.
pub(super) fn drop_ids(result: &mut Value, kept: usize) {
    let Some(fields) = result.as_object_mut() else {
        return;
    };
    fields.remove("task_id");
    if let Some(ids) = fields
        .get_mut("task_data_ids")
        .and_then(Value::as_array_mut)
    {
        ids.truncate(kept);
    }
}

fn numbers_as_strings(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Array(items) => items.iter_mut().for_each(numbers_as_strings),
        Value::Object(fields) => fields.values_mut().for_each(numbers_as_strings),
        _ => {}
    }
}

/// Only strings that are an integer as JSON would write it: a line number with
/// its leading zero stays one.
fn strings_as_numbers(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(number) = text.parse::<i64>()
                && number.to_string() == *text
            {
                *value = json!(number);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strings_as_numbers),
        Value::Object(fields) => fields.values_mut().for_each(strings_as_numbers),
        _ => {}
    }
}

/// Nulls what a client can live without: the message, an empty result, and in
/// listed objects every field but ids and states.
fn null_fields(envelope: &mut Value) {
    envelope["message"] = Value::Null;
    let Some(result) = envelope["result"].as_object_mut() else {
        return;
    };
    if result.is_empty() {
        envelope["result"] = Value::Null;
        return;
    }
    let lists = result
        .values_mut()
        .filter_map(Value::as_array_mut)
        .flatten();
    for fields in lists.filter_map(Value::as_object_mut) {
        for (name, value) in fields {
            if !KEPT.contains(&name.as_str()) {
                *value = Value::Null;
            }
        }
    }
}

const KEPT: [&str; 6] = [
    "task_id",
    "status",
    "line_num",
    "robot_id",
    "voice_code",
    "url_module",
];

fn unknown_fields(envelope: &mut Value) {
    if let Some(result) = envelope["result"].as_object_mut() {
        let lists = result
            .values_mut()
            .filter_map(Value::as_array_mut)
            .flatten();
        lists.filter_map(Value::as_object_mut).for_each(add_unknown);
        add_unknown(result);
    }
    if let Some(fields) = envelope.as_object_mut() {
        add_unknown(fields);
    }
}

fn add_unknown(fields: &mut Map<String, Value>) {
    fields.insert(
        "sandbox_unknown".to_owned(),
        json!({ "text": "新字段", "list": [1, null] }),
    );
}

/// The lists of a task query as the document prints them, which is no JSON:
/// `"time_range":"["07:30:00-23:30:00"]"`.
fn invalid_json_strings(mut envelope: Value) -> Vec<u8> {
    let mut printed = Vec::new();
    let rows = envelope["result"]["rows"]
        .as_array_mut()
        .into_iter()
        .flatten();
    for fields in rows.filter_map(Value::as_object_mut) {
        for name in ["time_range", "intention_push"] {
            let list = match fields.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(list @ Value::Array(_)) => list.to_string(),
                _ => continue,
            };
            let placeholder = format!("sandbox list {}", printed.len());
            fields.insert(name.to_owned(), json!(placeholder));
            printed.push((format!("\"{placeholder}\""), format!("\"{list}\"")));
        }
    }
    let text = envelope.to_string();
    let print = |text: String, (from, to): &(String, String)| text.replacen(from, to, 1);
    printed.iter().fold(text, print).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_a_task_query_print_as_in_the_document() {
        let rows =
            json!([{ "time_range": "[\"07:30:00-23:30:00\"]", "intention_push": ["A", "B"] }]);
        let text = serialize(
            json!({ "result": { "rows": rows } }),
            Some(Kind::InvalidJsonStrings),
        );
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains(r#""time_range":"["07:30:00-23:30:00"]""#),
            "{text}"
        );
        assert!(text.contains(r#""intention_push":"["A","B"]""#), "{text}");
        assert!(serde_json::from_str::<Value>(&text).is_err());
    }

    #[test]
    fn ids_beyond_doubles_survive_as_strings_and_back() {
        let id = 346_252_615_123_869_699_i64;
        let mut value = json!({ "task_data_ids": [id], "line_num": "055169101407" });
        numbers_as_strings(&mut value);
        assert_eq!(value["task_data_ids"][0], json!(id.to_string()));
        strings_as_numbers(&mut value);
        assert_eq!(value["task_data_ids"][0], json!(id));
        assert_eq!(value["line_num"], json!("055169101407"));
    }
}
