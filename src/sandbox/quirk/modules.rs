//! What the documents' contradictions do to each module's pushes.

use serde_json::{Value, json};

use super::bodies::{DIALOG_000, DIALOG_001, RECORD_000, RECORD_001, VOICE, dialog, record, voice};
use super::{DIALOG, JSON, Quirk, RECORD, VOICE_MODULE, odd_record, of, raw};

pub(super) fn records() -> Vec<Quirk> {
    let unanswered = |name, time_answer| {
        odd_record(
            name,
            &json!({
                "time_answer": time_answer, "duration_call": 0,
                "task_result": "20", "task_result_desc": "用户未接",
            }),
        )
    };
    let mut absent = record(
        "unanswered_time_answer_absent",
        &json!({ "duration_call": 0 }),
    );
    let mut basic = record("basic_without_task_data_id", &json!({ "direction": 2 }));
    for fields in [absent.as_object_mut(), basic.as_object_mut()]
        .into_iter()
        .flatten()
    {
        fields.remove("time_answer");
    }
    if let Some(fields) = basic.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("task_"));
    }
    vec![
        raw("inbound_with_outbound_fields", RECORD, JSON, RECORD_000),
        raw("inbound_with_dials_times", RECORD, JSON, RECORD_001),
        unanswered("unanswered_time_answer_zero", json!(0)),
        unanswered("unanswered_time_answer_null", Value::Null),
        unanswered("unanswered_time_answer_empty", json!("")),
        of("unanswered_time_answer_absent", RECORD, &absent),
        of("basic_without_task_data_id", RECORD, &basic),
        odd_record(
            "call_uuid_without_dashes",
            &json!({
                "call_uuid": "809c825c648311e8b8db2769c24918cd",
            }),
        ),
        odd_record(
            "call_uuid_malformed",
            &json!({
                "call_uuid": "23425c-6483-11e8-b8fa-2769c24918cd",
            }),
        ),
        odd_record(
            "times_of_whole_seconds",
            &json!({
                "time_dial": 1_527_737_756_000_i64, "time_answer": 1_527_737_763_000_i64,
                "time_hangup": 1_527_737_784_000_i64,
            }),
        ),
        odd_record(
            "duration_counted_from_answer",
            &json!({ "duration_call": 21 }),
        ),
        odd_record(
            "code_22_as_reminder",
            &json!({
                "task_result": "22", "task_result_desc": "来电提醒",
            }),
        ),
        odd_record(
            "code_22_as_diversion",
            &json!({
                "task_result": "22", "task_result_desc": "呼叫转移",
            }),
        ),
        odd_record(
            "row_values_short_of_head",
            &json!({ "task_row_value": ["0271111111"] }),
        ),
    ]
}

pub(super) fn voices(base: &str) -> Vec<Quirk> {
    let path = "ant/4/ivr/0/2018/05/31/0/452263-7571100e-7afc-42aa-9d69-ac25805d45b6.wav";
    let odd = |name, changes: &Value| of(name, VOICE_MODULE, &voice(name, changes));
    let absolute = format!("{}/{path}", base.trim_end_matches('/'));
    vec![
        raw("relative_voice_url", VOICE_MODULE, JSON, VOICE),
        odd("absolute_voice_url", &json!({ "url": absolute })),
        odd(
            "voice_url_with_leading_slash",
            &json!({ "url": format!("/{path}") }),
        ),
        odd(
            "voice_url_on_a_foreign_host",
            &json!({ "url": "http://192.0.2.1/secret.wav" }),
        ),
        odd(
            "voice_url_climbing_out",
            &json!({ "url": "../../etc/passwd" }),
        ),
        odd("voice_url_empty", &json!({ "url": "" })),
        odd(
            "voice_numbers_as_strings",
            &json!({ "size": "1043244", "duration": "32" }),
        ),
        odd(
            "voice_size_beyond_doubles",
            &json!({ "size": 9_007_199_254_740_993_i64 }),
        ),
    ]
}

pub(super) fn dialogs() -> Vec<Quirk> {
    let odd = |name, turns: &Value| of(name, DIALOG, &dialog(name, turns));
    let mut extra = dialog("dialog_with_all_tags", &json!([]));
    extra["tag_max"] = json!("A");
    extra["tag_min"] = json!("D");
    extra["label"] = json!("意向");
    vec![
        raw("dialog_with_later_fields", DIALOG, JSON, DIALOG_000),
        raw("dialog_with_earlier_fields", DIALOG, JSON, DIALOG_001),
        of("dialog_with_all_tags", DIALOG, &extra),
        odd(
            "seq_as_integer",
            &json!([{ "seq": 0, "role": "robot", "text_robot": "喂,您好!" }]),
        ),
        odd(
            "seq_as_string",
            &json!([{ "seq": "6", "role": "customer", "text_man": "你说" }]),
        ),
        odd(
            "role_in_chinese",
            &json!([{ "seq": "1", "role": "话术" }, { "role": "机器人" }]),
        ),
        odd(
            "unknown_node_type",
            &json!([{ "seq": "1", "role": "agent", "node_type": "NewNode" }]),
        ),
        odd(
            "hit_as_object",
            &json!([{
                "seq": 1, "role": "customer", "hit": { "pick": true, "name": "肯定", "id": 17 },
                "reject": false, "un_hit": 0, "has_reply": true,
            }]),
        ),
        odd(
            "hits_null",
            &json!([{ "seq": "1", "role": "customer", "hits": null }]),
        ),
        odd(
            "hits_with_pick_as_string",
            &json!([{ "seq": "1", "hits": [{ "hit": "肯定", "pick": "true", "answer_id": 1 }] }]),
        ),
        odd("dialog_empty", &json!([])),
        odd("dialog_null", &Value::Null),
        odd("turns_that_are_no_objects", &json!([null, "test", 1])),
    ]
}
