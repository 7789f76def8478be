//! The documents' own example pushes, and pushes made from them with changes.

use serde_json::{Value, json};

/// The call record of the push document: inbound, with outbound-only fields,
/// `task_id` 0 beside a real `task_data_id`, and a malformed `call_uuid`.
pub(super) const RECORD_000: &str = r#"{
    "business_id":"2745",
    "app_id":"test",
    "robot_id":"2745001",
    "call_uuid":"123425c-6483-11e8-b8fa-2769c24918cd",
    "call_relation_id":"test-123",
    "task_id":"0",
    "task_data_id":"262381",
    "caller":"055196866001",
    "callee":"19900000001",
    "direction":1,
    "time_dial":1527737756729,
    "time_ring":1527737757449,
    "time_answer":1527737763429,
    "time_hangup":1527737784829,
    "duration_ring":7,
    "duration_call":28,
    "task_result":"0",
    "task_result_desc":"成功",
    "task_tries":0,
    "task_row_index":34951420,
    "task_row_head":[
        "客户手机号码",
        "装货时间",
        "装货地三级地址",
        "卸货地三级地址"
    ],
    "task_row_value":[
        "0271111111",
        "3月13日",
        "河北省张家口市张北县",
        "天津市天津市宁河区"
    ]
}"#;

/// The call record of the API document.
pub(super) const RECORD_001: &str = r#"{
    "business_id":"2745",
    "app_id":"test",
    "robot_id":"2745001",
    "call_uuid":"123425c-6483-11e8-b8fa-2769c24918cd",
    "call_relation_id":"test-123",
    "task_id":"0",
    "task_data_id":"262381",
    "caller":"69102939",
    "callee":"15556985227",
    "direction":1,
    "time_dial":1527737756729,
    "time_ring":1527737757449,
    "time_answer":1527737763429,
    "time_hangup":1527737784829,
    "duration_ring":7,
    "duration_call":28
}
"#;

/// The recording of both documents.
pub(super) const VOICE: &str = r#"{
    "call_uuid":"809c825c-6483-11e8-b8db-2769c24918cd",
    "url":"ant/4/ivr/0/2018/05/31/0/452263-7571100e-7afc-42aa-9d69-ac25805d45b6.wav",
    "size":1043244,
    "duration":32,
    "business_id":"10527",
    "app_id":"123",
    "robot_id":"10527"
}
"#;

/// The dialog of the push document.
pub(super) const DIALOG_000: &str = r#"{
    "business_id": "10527",
    "app_id": "123",
    "robot_id": "10527",
    "call_uuid": "f3b13ebc-6394-11e8-907d-ebcc4d560c04",
    "task_id":"3457986492696704",
    "task_data_id":"346252615123869699",
    "call_relation_id":"346252615123869699",
    "time_begin":1618795847425,
    "time_end":1618795868298,
    "dialog": [
        {
            "seq": "6",
            "role": "customer",
            "node_id": "words_node_9bdd01e7-1",
            "node_name": "开场询问",
            "node_type": "NormalNode",
            "content_id": "a75f4j9uN32d440b13ac08m",
            "time_start": 1618795849743,
            "time_speaking": 1618795858958,
            "text_robot": "喂,您好!",
            "text_man": "你说",
            "question_id": "",
            "hits": [
                {
                    "hit": "肯定",
                    "pick": true,
                    "answer_id": ""
                }
            ]
        },
        {
            "seq": "7",
            "role": "robot",
            "node_id": "words_node_97ab88da-d",
            "node_name": "优惠券介绍",
            "node_type": "NormalNode",
            "time_start": 1618795859788,
            "text_robot": "喂,您好!",
            "text_man": "",
            "question_id": ""
        }
    ]
}"#;

/// The dialog of the API document.
pub(super) const DIALOG_001: &str = r#"
{
    "business_id":"10527",
    "app_id":"123",
    "robot_id":"10527",
    "call_uuid":"f3b13ebc-6394-11e8-907d-ebcc4d560c04",
    "dialog":[
        {
            "seq":"3",
            "role":"robot",
            "node_id":"word_node_70601",
            "node_name":"开头语",
            "text_robot":"喂，您好！",
            "text_man":"",
            "question_id":""
        },
        {
            "seq":"4",
            "role":"customer",
            "node_id":"word_node_70601",
            "node_name":"开头语",
            "text_robot":"喂，您好！",
            "text_man":"",
            "question_id":"",
            "hits":[
                {
                    "hit":"任意回答",
                    "pick":true,
                    "answer_id":""
                }
            ]
        }
    ]
}
"#;

/// An outbound record made from the example, with this `call_uuid` and other
/// fields instead of its own.
pub(super) fn record(call_uuid: &str, changes: &Value) -> Value {
    let base = json!({
        "business_id": "2745", "app_id": "test", "robot_id": "2745001", "call_uuid": call_uuid,
        "task_id": "3457986492696704", "task_data_id": "346252615123869699",
        "caller": "69102939", "callee": "15556985227", "direction": 2,
        "time_dial": 1_527_737_756_729_i64, "time_ring": 1_527_737_757_449_i64,
        "time_answer": 1_527_737_763_429_i64, "time_hangup": 1_527_737_784_829_i64,
        "duration_ring": 7, "duration_call": 28, "task_result": "0", "task_result_desc": "成功",
        "task_tries": 0, "task_row_index": 34_951_420,
        "task_row_head": ["客户手机号码", "姓名"], "task_row_value": ["15556985227", "张先生"],
    });
    changed(base, changes)
}

/// A recording made from the example.
pub(super) fn voice(call_uuid: &str, changes: &Value) -> Value {
    let base = json!({
        "call_uuid": call_uuid, "business_id": "10527", "app_id": "123", "robot_id": "10527",
        "url": "ant/4/ivr/0/2018/05/31/0/452263-7571100e-7afc-42aa-9d69-ac25805d45b6.wav",
        "size": 1_043_244, "duration": 32,
    });
    changed(base, changes)
}

/// A dialog of these turns.
pub(super) fn dialog(call_uuid: &str, turns: &Value) -> Value {
    json!({
        "business_id": "10527", "app_id": "123", "robot_id": "10527", "call_uuid": call_uuid,
        "task_data_id": "346252615123869699", "dialog": turns,
    })
}

fn changed(mut base: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        base[name] = value.clone();
    }
    base
}
