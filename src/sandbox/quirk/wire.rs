//! Oddities of the transport and of bodies as a whole.

use serde_json::json;

use super::bodies::{record, voice};
use super::{DIALOG, JSON, Quirk, RECORD, VOICE_MODULE, of, raw};

pub(super) fn quirks() -> Vec<Quirk> {
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
