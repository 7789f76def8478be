//! The four pushes of an answered call, as the documents show them: two records, a recording and a
//! dialog of some turns.

use bytes::Bytes;
use serde_json::{Value, json};
use yeta_gateway::edge::reading::{self, Received};
use yeta_gateway::store::NewEntry;

/// How many pushes a call has.
pub const PUSHES: u64 = 4;

/// A call's number as an id: as long as those of the platform, and in no order.
pub fn call_uuid(number: u64) -> String {
    // Multiplying by an odd number leaves each number different.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{mixed:016x}{:016x}", mixed.rotate_left(29))
}

/// The pushes of a call, as the log takes them.
pub fn of_call(number: u64) -> Vec<NewEntry> {
    let identity = json!({
        "business_id": "2745",
        "app_id": "test",
        "robot_id": "2745001",
        "call_uuid": call_uuid(number),
        "task_data_id": (346_252_615_123_000_000 + number).to_string(),
    });
    let basic = with(&identity, basic_record());
    let outbound = with(&basic, outbound_record());
    let dialog = with(&identity, dialog());
    [
        ("receiveCallRecord", basic),
        ("receiveCallRecord", outbound),
        ("receiveVoice", with(&identity, voice())),
        ("receiveDialog", dialog),
    ]
    .into_iter()
    .flat_map(|(module, body)| read(module, &body))
    .collect()
}

fn read(module: &str, body: &Value) -> Vec<NewEntry> {
    let received = Received {
        account: "default",
        module,
        content_type: Some("application/json;charset=UTF-8"),
        voice_base_url: "http://voice.example:9000/",
    };
    let pushes = reading::read(&received, &Bytes::from(body.to_string()));
    pushes.into_iter().map(NewEntry::from).collect()
}

/// The members of both objects.
fn with(one: &Value, other: Value) -> Value {
    let mut both = one.clone();
    if let (Value::Object(both), Value::Object(other)) = (&mut both, other) {
        both.extend(other);
    }
    both
}

fn basic_record() -> Value {
    json!({
        "task_id": "3457986492696704",
        "caller": "055196866001",
        "callee": "19900000001",
        "direction": 2,
        "time_dial": 1_527_737_756_729_i64,
        "time_ring": 1_527_737_757_449_i64,
        "time_answer": 1_527_737_763_429_i64,
        "time_hangup": 1_527_737_784_829_i64,
        "duration_ring": 7,
        "duration_call": 28,
    })
}

fn outbound_record() -> Value {
    json!({
        "task_result": "0",
        "task_result_desc": "成功",
        "task_tries": 0,
        "task_row_index": 34_951_420,
        "task_row_head": ["客户手机号码", "装货时间", "装货地三级地址", "卸货地三级地址", "备注"],
        "task_row_value": [
            "0271111111", "3月13日", "河北省张家口市张北县", "天津市天津市宁河区", "需要回单",
        ],
    })
}

fn voice() -> Value {
    json!({
        "url": "ant/4/ivr/0/2018/05/31/0/271034-0f3c9a52-6483-11e8-b467-0ed5f89f718b.wav",
        "size": 365_804,
        "duration": 22,
    })
}

fn dialog() -> Value {
    let turns: Vec<_> = (1..=8).map(turn).collect();
    json!({
        "task_id": "3457986492696704",
        "time_begin": 1_527_737_763_429_i64,
        "time_end": 1_527_737_784_829_i64,
        "tag_max": "A",
        "tag_min": "C",
        "dialog": turns,
    })
}

fn turn(seq: i64) -> Value {
    let begun = 1_527_737_763_429 + 2500 * seq;
    let mut turn = json!({
        "seq": seq,
        "role": "robot",
        "node_id": format!("words_node_9bdd01e7-{seq}"),
        "node_name": "确认装货时间",
        "node_type": "NormalNode",
        "content_id": "a75f4j9uN32d440b13ac08m",
        "text_robot": "您好,您在平台上发布的货源还需要车吗?装货时间是三月十三号对吧?",
        "time_start": begun,
    });
    if seq % 2 == 0 {
        let customer = json!({
            "role": "customer",
            "text_man": "对的还需要,你那边什么时候能到",
            "tag_name": "A",
            "tag_desc": "有意向",
            "time_speaking": begun + 800,
            "hits": [{ "hit": "肯定", "pick": true }, { "hit": "需要", "pick": false }],
        });
        turn = with(&turn, customer);
    }
    turn
}
