//! Reading a push loses nothing, whatever was pushed: no byte of it, and no member of an object.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use yeta_gateway::edge::reading::{self, Received};
use yeta_gateway::proto::PushEvent;

/// Any JSON value, as deep and as odd as they come.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        Just(json!("")),
        "\\PC{0,12}".prop_map(Value::from),
        "-?[0-9]{1,20}(\\.0)?".prop_map(Value::from),
        Just(json!("[\"a\",1]")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any_name(), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// Documented names above all, so that the typed fields meet every kind of value.
fn any_name() -> impl Strategy<Value = String> {
    let documented = prop::sample::select(vec![
        "business_id",
        "app_id",
        "robot_id",
        "call_uuid",
        "caller",
        "callee",
        "direction",
        "time_answer",
        "time_hangup",
        "duration_ring",
        "duration_call",
        "call_relation_id",
        "task_id",
        "task_data_id",
        "time_dial",
        "task_result",
        "task_result_desc",
        "task_tries",
        "task_row_index",
        "task_row_head",
        "task_row_value",
        "url",
        "size",
        "duration",
        "time_begin",
        "tag_max",
        "dialog",
        "seq",
        "role",
        "node_type",
        "hits",
        "hit",
        "pick",
        "name",
        "id",
    ]);
    prop_oneof![4 => documented.prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn read(module: &str, body: &[u8]) -> Vec<(PushEvent, Bytes)> {
    let received = Received {
        account: "default",
        module,
        content_type: None,
        voice_base_url: "http://voice.example/",
    };
    let body = Bytes::copy_from_slice(body);
    let read = reading::read(&received, &body);
    let decode = |push: reading::Push| {
        let entry = yeta_gateway::store::NewEntry::from(push);
        (PushEvent::decode(entry.event).unwrap(), entry.raw)
    };
    read.into_iter().map(decode).collect()
}

/// null and "" are what the platform sends for absent.
fn is_absent(value: &Value) -> bool {
    value.is_null() || value == ""
}

/// The payload with every field as protobuf's JSON has it, its own names.
fn payload_json(event: &PushEvent) -> Value {
    use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
    let pool = DescriptorPool::decode(yeta_gateway::proto::FILE_DESCRIPTOR_SET).unwrap();
    let descriptor = pool.get_message_by_name("yeta.v1.PushEvent").unwrap();
    let message = DynamicMessage::decode(descriptor, &*event.encode_to_vec()).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}

const TEXT_ALIASES: [(&str, &str); 4] = [
    ("direction", "direction_code"),
    ("task_result", "task_result_code"),
    ("role", "role_code"),
    ("node_type", "node_type_code"),
];

/// Whether a member's value stands in what was made of the object: as the typed field of its name
/// with the same value, or in `extra_fields` with the same value.
///
/// The same value: of a typed field, the number or text that is written; within lists of objects,
/// every member of each in turn. Zero and "" leave no trace in JSON, nor need they.
fn check_member(name: &str, value: &Value, typed: &Value, extra: &Value) -> Result<(), String> {
    if is_absent(value) {
        return Ok(());
    }
    if let Some(kept) = extra.get(name) {
        return same_in_struct(value, kept)
            .then_some(())
            .ok_or_else(|| format!("{name}: {value} became {kept}"));
    }
    let field = TEXT_ALIASES
        .iter()
        .find(|(from, _)| *from == name)
        .map_or(name, |(_, to)| to);
    let lost = || format!("{name}: {value} is in neither {typed} nor {extra}");
    let kept = typed.get(field);
    match (value, kept) {
        (Value::Array(elements), None) if elements.is_empty() => Ok(()),
        (Value::Array(_) | Value::Object(_), _) if name == "dialog" || name == "hits" => {
            check_objects(value, kept.ok_or_else(lost)?)
        }
        (Value::Array(elements), Some(Value::Array(kept))) => {
            let same = elements.len() == kept.len()
                && elements.iter().zip(kept).all(|(a, b)| same_text(a, b));
            same.then_some(()).ok_or_else(lost)
        }
        // A text alone is a list of one.
        (value, Some(Value::Array(kept))) if kept.len() == 1 && same_text(value, &kept[0]) => {
            Ok(())
        }
        // A list written as JSON inside a string.
        (Value::String(text), Some(Value::Array(kept))) => {
            let inner: Value = serde_json::from_str(text).map_err(|_| lost())?;
            let inner = inner.as_array().ok_or_else(lost)?;
            let same =
                inner.len() == kept.len() && inner.iter().zip(kept).all(|(a, b)| same_text(a, b));
            same.then_some(()).ok_or_else(lost)
        }
        (Value::String(text), None) if name.starts_with("task_row_") => {
            (serde_json::from_str(text).ok() == Some(json!([])))
                .then_some(())
                .ok_or_else(lost)
        }
        (value, Some(kept)) => same_text(value, kept).then_some(()).ok_or_else(lost),
        (_, None) => Err(lost()),
    }
}

/// Lists of turns and of hits; one object alone is a list of one.
fn check_objects(value: &Value, kept: &Value) -> Result<(), String> {
    let alone = [value.clone()];
    let objects = value.as_array().map_or(&alone[..], Vec::as_slice);
    let kept = kept.as_array().cloned().unwrap_or_default();
    for (object, kept) in objects.iter().zip(&kept) {
        let nothing = json!({});
        let extra = kept.get("extra_fields").unwrap_or(&nothing);
        for (name, value) in object.as_object().into_iter().flatten() {
            // The later shape's one hit joins the list; its name may stand in `hit`.
            if (name == "hit" && value.is_object()) || name == "name" || name == "hits" {
                continue;
            }
            check_member(name, value, kept, extra)?;
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}

/// A number may stand for its text and the other way about.
fn same_text(sent: &Value, kept: &Value) -> bool {
    let (Some(sent), Some(kept)) = (text_of(sent), text_of(kept)) else {
        return false;
    };
    if sent == kept {
        return true;
    }
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let truth = |text: &str| match text.trim() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    };
    number(&sent).is_some_and(|sent| number(&kept) == Some(sent))
        || truth(&sent).is_some_and(|sent| truth(&kept) == Some(sent))
}

/// As `google.protobuf.Struct` has it: numbers are doubles, or texts where that is not exact.
fn same_in_struct(sent: &Value, kept: &Value) -> bool {
    match (sent, kept) {
        (Value::Array(sent), Value::Array(kept)) => {
            sent.len() == kept.len() && sent.iter().zip(kept).all(|(a, b)| same_in_struct(a, b))
        }
        (Value::Object(sent), Value::Object(kept)) => {
            sent.len() == kept.len()
                && sent.iter().all(|(name, sent)| {
                    kept.get(name)
                        .is_some_and(|kept| same_in_struct(sent, kept))
                })
        }
        (Value::Number(sent), Value::Number(kept)) => sent.as_f64() == kept.as_f64(),
        (Value::Number(sent), Value::String(kept)) => sent.to_string() == *kept,
        (sent, kept) => sent == kept,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_bytes_are_pushed_become_entries_that_hold_them(
        module in "receive(CallRecord|Voice|Dialog)|\\PC{0,12}",
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "\\PC{0,100}".prop_map(String::into_bytes),
            r#"[\[\]{},:0-9a-c"\\ .eE+-]{0,60}"#.prop_map(String::into_bytes),
        ],
    ) {
        let entries = read(&module, &body);
        prop_assert!(!entries.is_empty());
        for (event, raw) in &entries {
            prop_assert!(event.payload.is_some());
            prop_assert!(entries.len() > 1 || !raw.is_empty() || body.is_empty());
            let inside = raw.is_empty() || body.windows(raw.len()).any(|window| window == raw);
            prop_assert!(inside);
        }
        if !body.trim_ascii_start().starts_with(b"[") && !body.starts_with(b"\xef\xbb\xbf") {
            prop_assert_eq!(entries.len(), 1);
            prop_assert_eq!(&entries[0].1[..], &body[..]);
        }
    }

    #[test]
    fn no_member_of_an_object_is_lost(
        module in "receive(CallRecord|Voice|Dialog)|other",
        object in prop::collection::btree_map(any_name(), any_json(), 0..12),
    ) {
        let body = json!(object).to_string();
        let entries = read(&module, body.as_bytes());
        prop_assert_eq!(entries.len(), 1);
        let (event, raw) = &entries[0];
        prop_assert_eq!(&raw[..], body.as_bytes());
        let all = payload_json(event);
        let nothing = json!({});
        let payload = ["call_record", "voice", "dialog"].iter().find_map(|name| all.get(name));
        let extra = all.get("extra_fields").unwrap_or(&nothing);
        for (name, value) in &object {
            if let Err(lost) = check_member(name, value, payload.unwrap_or(&nothing), extra) {
                prop_assert!(false, "{}", lost);
            }
        }
    }

    #[test]
    fn an_object_in_another_order_and_spacing_has_the_same_id(
        object in prop::collection::btree_map(any_name(), any_json(), 0..8),
    ) {
        let reversed: Vec<_> = object
            .iter()
            .rev()
            .map(|(name, value)| format!("{} :\t{value:#}", json!(name)))
            .collect();
        let a = read("receiveVoice", json!(object).to_string().as_bytes());
        let b = read("receiveVoice", format!(" {{ {} }}\n", reversed.join(" , ")).as_bytes());
        prop_assert_eq!(&a[0].0.event_id, &b[0].0.event_id);
    }
}
