//! Oddities of types, and of fields that come and go.

use serde_json::{Value, json};

use super::{DIALOG, Quirk, RECORD, VOICE_MODULE, odd_record, of};

pub(super) fn quirks() -> Vec<Quirk> {
    vec![
        odd_record(
            "numbers_as_strings",
            &json!({
                "direction": "2", "time_dial": "1527737756729", "time_answer": "1527737763429",
                "time_hangup": "1527737784829", "duration_ring": "7", "duration_call": "28",
                "task_tries": "0", "task_row_index": "34951420",
            }),
        ),
        odd_record(
            "strings_as_numbers",
            &json!({
                "business_id": 2745, "robot_id": 2_745_001, "task_id": 0, "task_data_id": 262_381,
                "caller": 69_102_939, "callee": 15_556_985_227_i64, "task_result": 0,
                "task_row_value": [13_000_000_001_i64, true, null, 3.5],
            }),
        ),
        odd_record(
            "ids_as_numbers_beyond_doubles",
            &json!({
                "task_data_id": 346_252_615_123_869_699_i64,
                "call_relation_id": 18_446_744_073_709_551_615_u64,
            }),
        ),
        odd_record("optional_fields_null", &optional_fields(&Value::Null)),
        odd_record("optional_fields_empty", &optional_fields(&json!(""))),
        of(
            "optional_fields_absent",
            RECORD,
            &json!({ "call_uuid": "optional_fields_absent" }),
        ),
        odd_record(
            "unknown_fields",
            &json!({ "new_field": { "a": [1, "二", null] }, "new_id": 346_252_615_123_869_699_i64 }),
        ),
        odd_record(
            "unknown_codes",
            &json!({ "direction": 3, "task_result": "99", "task_result_desc": "新结果" }),
        ),
        of(
            "no_call_uuid",
            RECORD,
            &json!({ "direction": 2, "task_data_id": "262381" }),
        ),
        of(
            "no_call_uuid_voice",
            VOICE_MODULE,
            &json!({ "url": "ant/1.wav", "size": 1 }),
        ),
        of(
            "no_call_uuid_dialog",
            DIALOG,
            &json!({ "task_data_id": "262381", "dialog": [] }),
        ),
        of(
            "call_uuid_as_number",
            RECORD,
            &json!({ "call_uuid": 1_234_567_890_123_i64 }),
        ),
        of(
            "fields_of_wrong_kind",
            RECORD,
            &json!({
                "call_uuid": "fields_of_wrong_kind", "direction": { "a": 1 }, "time_answer": [1],
                "task_row_head": "客户手机号码", "caller": false,
            }),
        ),
    ]
}

fn optional_fields(value: &Value) -> Value {
    const NAMES: [&str; 18] = [
        "business_id",
        "app_id",
        "robot_id",
        "call_relation_id",
        "task_id",
        "task_data_id",
        "caller",
        "callee",
        "time_dial",
        "time_ring",
        "time_answer",
        "task_result",
        "task_result_desc",
        "task_tries",
        "task_row_index",
        "task_row_head",
        "task_row_value",
        "duration_ring",
    ];
    NAMES
        .iter()
        .map(|name| ((*name).to_owned(), value.clone()))
        .collect()
}
