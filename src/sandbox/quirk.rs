//! One push for each oddity that the live platform has been seen to send, or
//! that the documents' contradictions make likely.

use serde_json::{Value, json};

use super::quirk_bodies::{
    DIALOG_000, DIALOG_001, RECORD_000, RECORD_001, VOICE, dialog, record, voice,
};

/// An odd push, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Quirk {
    /// What is odd about it, as a short name in snake case.
    pub name: &'static str,
    /// The module it is pushed to.
    pub module: &'static str,
    /// Its Content-Type; none: the header is missing.
    pub content_type: Option<&'static str>,
    /// The body's bytes, which need not be JSON.
    pub body: Vec<u8>,
}

const JSON: Option<&str> = Some("application/json;charset=UTF-8");
const RECORD: &str = "receiveCallRecord";
const VOICE_MODULE: &str = "receiveVoice";
const DIALOG: &str = "receiveDialog";

/// All quirks. No two have the same body and module, so that a receiver that
/// drops doubles still shows each of them.
pub fn quirks() -> Vec<Quirk> {
    quirks_with(None)
}

/// All quirks, with the base of the absolute recording URL.
pub(super) fn quirks_with(voice_base_url: Option<&str>) -> Vec<Quirk> {
    let mut quirks = wire_quirks();
    quirks.extend(type_quirks());
    quirks.extend(record_quirks());
    quirks.extend(voice_quirks(
        voice_base_url.unwrap_or("http://voice.kxjlcc.com:9000/"),
    ));
    quirks.extend(dialog_quirks());
    quirks
}

fn raw(
    name: &'static str,
    module: &'static str,
    content_type: Option<&'static str>,
    body: impl Into<Vec<u8>>,
) -> Quirk {
    Quirk {
        name,
        module,
        content_type,
        body: body.into(),
    }
}

fn of(name: &'static str, module: &'static str, body: &Value) -> Quirk {
    raw(name, module, JSON, body.to_string())
}

/// A call record whose `call_uuid` is the quirk's own name.
fn odd_record(name: &'static str, changes: &Value) -> Quirk {
    of(name, RECORD, &record(name, changes))
}

/// Oddities of the transport and of bodies as a whole.
fn wire_quirks() -> Vec<Quirk> {
    let two = json!([
        record("array_first", &json!({})),
        record("array_second", &json!({}))
    ]);
    let mixed = json!([record("array_mixed", &json!({})), null, 1, "test"]);
    let record = |name| record(name, &json!({})).to_string();
    let with_bom = |text: String| [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat();
    let long = record("cut_short");
    let gbk = b"{\"call_uuid\":\"gbk\",\"task_result_desc\":\"\xb3\xc9\xb9\xa6\"}";
    vec![
        raw(
            "missing_content_type",
            RECORD,
            None,
            record("missing_content_type"),
        ),
        raw(
            "wrong_content_type",
            RECORD,
            Some("text/plain"),
            record("wrong_content_type"),
        ),
        raw(
            "form_content_type",
            RECORD,
            Some("application/x-www-form-urlencoded"),
            record("form_content_type"),
        ),
        raw(
            "foreign_charset",
            RECORD,
            Some("application/json;charset=GBK"),
            record("foreign_charset"),
        ),
        raw("utf8_bom", RECORD, JSON, with_bom(record("utf8_bom"))),
        raw(
            "utf8_bom_without_content_type",
            VOICE_MODULE,
            None,
            with_bom(voice("bom_voice", &json!({})).to_string()),
        ),
        raw(
            "surrounding_white_space",
            RECORD,
            JSON,
            format!("\r\n {} \n", record("white_space")),
        ),
        of("array_of_pushes", RECORD, &two),
        of("array_with_other_things", RECORD, &mixed),
        of("empty_array", RECORD, &json!([])),
        raw("not_json", RECORD, JSON, "call_uuid=1&direction=2"),
        raw("not_utf8", RECORD, JSON, gbk),
        raw(
            "cut_short",
            RECORD,
            JSON,
            &long.as_bytes()[..long.len() / 2],
        ),
        raw("empty_body", RECORD, JSON, ""),
        raw("json_but_no_object", RECORD, JSON, "\"test\""),
        raw("test_push", RECORD, JSON, "{\"test\":\"test\"}"),
        raw("test_push_without_json", DIALOG, Some("text/plain"), "test"),
        of(
            "unknown_module",
            "receiveSomethingNew",
            &json!({ "call_uuid": "unknown_module" }),
        ),
    ]
}

/// Oddities of types and of fields that come and go, in any module.
fn type_quirks() -> Vec<Quirk> {
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

/// What the documents' contradictions do to call records.
fn record_quirks() -> Vec<Quirk> {
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

fn voice_quirks(base: &str) -> Vec<Quirk> {
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

fn dialog_quirks() -> Vec<Quirk> {
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_bodies_are_all_different() {
        let quirks = quirks();
        let names: HashSet<_> = quirks.iter().map(|quirk| quirk.name).collect();
        let bodies: HashSet<_> = quirks
            .iter()
            .map(|quirk| (quirk.module, &quirk.body))
            .collect();
        assert_eq!((names.len(), bodies.len()), (quirks.len(), quirks.len()));
    }

    #[test]
    fn ids_beyond_doubles_are_written_as_exact_numbers() {
        let quirks = quirks();
        let quirk = quirks
            .iter()
            .find(|quirk| quirk.name == "ids_as_numbers_beyond_doubles");
        let body = String::from_utf8(quirk.unwrap().body.clone()).unwrap();
        assert!(
            body.contains("\"task_data_id\":346252615123869699"),
            "{body}"
        );
    }
}
