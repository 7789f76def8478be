//! Phone numbers in JSON: what the platform sent, and what the proto has no field for.

use bytes::Bytes;
use prost_types::value::Kind as ProtoKind;
use serde_json::Value;

use super::field::{self, Holds};
use super::text;

/// Masks a body as it was received. What is not JSON is masked as text; what is no text either, or
/// may hide digits behind escapes, is withheld.
pub fn raw(body: &Bytes) -> Bytes {
    if body.is_empty() {
        return Bytes::new();
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(body) {
        mask(Holds::Text, &mut value);
        return Bytes::from(value.to_string());
    }
    match std::str::from_utf8(body) {
        Ok(body) if !body.contains("\\u") => Bytes::from(text::text(body).into_owned()),
        Ok(_) | Err(_) => Bytes::new(),
    }
}

fn mask(holds: Holds, value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => {
            let written = number.to_string();
            let masked = field::mask(holds, &written);
            if masked != written {
                *value = Value::String(masked);
            }
        }
        Value::String(string) => *string = field::mask(holds, string),
        Value::Array(values) => {
            for value in values {
                mask(holds, value);
            }
        }
        Value::Object(members) => {
            let masked = std::mem::take(members).into_iter().map(|(key, mut value)| {
                mask(field::of_json(&key), &mut value);
                (text::text(&key).into_owned(), value)
            });
            *members = masked.collect();
            mask_columns(members);
        }
    }
}

/// Masks the values of a row by the names of its columns.
fn mask_columns(members: &mut serde_json::Map<String, Value>) {
    for (heads, values) in field::COLUMNS {
        let names: Vec<String> = members
            .get(heads)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect();
        let Some(values) = members.get_mut(values).and_then(Value::as_array_mut) else {
            continue;
        };
        for (index, value) in values.iter_mut().enumerate() {
            match value {
                // Rows, each a list of values.
                Value::Array(row) => {
                    for (index, value) in row.iter_mut().enumerate() {
                        mask(field::of_column(index, names.get(index)), value);
                    }
                }
                value => mask(field::of_column(index, names.get(index)), value),
            }
        }
    }
}

/// Masks the members of a `google.protobuf.Struct`.
pub fn members(object: &mut prost_types::Struct) {
    let masked = std::mem::take(&mut object.fields)
        .into_iter()
        .map(|(key, mut value)| {
            mask_proto(field::of_json(&key), &mut value);
            (text::text(&key).into_owned(), value)
        });
    object.fields = masked.collect();
}

fn mask_proto(holds: Holds, value: &mut prost_types::Value) {
    match &mut value.kind {
        None | Some(ProtoKind::NullValue(_) | ProtoKind::BoolValue(_)) => {}
        Some(ProtoKind::NumberValue(number)) => {
            let written = number.to_string();
            let masked = field::mask(holds, &written);
            if masked != written {
                value.kind = Some(ProtoKind::StringValue(masked));
            }
        }
        Some(ProtoKind::StringValue(string)) => *string = field::mask(holds, string),
        Some(ProtoKind::StructValue(object)) => members(object),
        Some(ProtoKind::ListValue(list)) => {
            for value in &mut list.values {
                mask_proto(holds, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(body: &str) -> String {
        let body = raw(&Bytes::copy_from_slice(body.as_bytes()));
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn numbers_in_a_body_are_masked_and_ids_are_not() {
        let body = masked(
            r#"{"callee":"13812345678","caller":12345678,"task_data_id":13812345678,
                "call_uuid":"13812345678","context":{"mobile_no":"87654321","n":13812345678,
                "note":"call 138 1234 5678"},"phones":["1","2"],"time_dial":1764300000000,
                "task_row_head":["号码","name","备用电话","city"],
                "task_row_value":["87654321","Wang","1234567","0571"],
                "13812345678":true,"text":"\u0031\u00338 1234 5678"}"#,
        );
        let body: Value = serde_json::from_str(&body).unwrap();
        let expected = serde_json::json!({
            "callee": "138****5678", "caller": "****", "task_data_id": 13_812_345_678_u64,
            "call_uuid": "13812345678", "context": {"mobile_no": "****", "n": "138****5678",
            "note": "call 138****5678"}, "phones": ["****", "****"],
            "time_dial": 1_764_300_000_000_u64,
            "task_row_head": ["号码", "name", "备用电话", "city"],
            "task_row_value": ["****", "Wang", "****", "0571"],
            "138****5678": true, "text": "138****5678",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn rows_of_a_call_out_are_masked_by_their_columns() {
        let body = masked(r#"{"call_column":["to","tel"],"call_list":[["87654321","1234567"]]}"#);
        assert_eq!(
            body,
            r#"{"call_column":["to","tel"],"call_list":[["****","****"]]}"#
        );
    }

    #[test]
    fn a_body_that_is_no_json_is_masked_as_text_or_withheld() {
        assert_eq!(masked("to=13812345678&x=1"), "to=138****5678&x=1");
        assert_eq!(masked(r#"{"to":"\u0031\u00338"#), "");
        assert_eq!(
            raw(&Bytes::from_static(b"\xff\xfe1\x003\x00")),
            Bytes::new()
        );
    }

    #[test]
    fn a_struct_is_masked_like_a_body() {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let text = |text: &str| value(ProtoKind::StringValue(text.into()));
        let mut object = prost_types::Struct {
            fields: [
                ("phone".to_owned(), text("87654321")),
                ("task_id".to_owned(), text("13812345678")),
                (
                    "n".to_owned(),
                    value(ProtoKind::NumberValue(13_812_345_678.0)),
                ),
            ]
            .into(),
        };
        members(&mut object);
        assert_eq!(object.fields["phone"], text("****"));
        assert_eq!(object.fields["task_id"], text("13812345678"));
        assert_eq!(object.fields["n"], text("138****5678"));
    }
}
