//! What robot and customer say to each other: the dialog push.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::bodies::CallFacts;
use super::world::World;

/// One exchange: the robot's node and line, then an answer and what it hit.
struct Exchange {
    node: &'static str,
    node_type: &'static str,
    robot: &'static str,
    customer: &'static str,
    hit: &'static str,
}

const OPENING: Exchange = Exchange {
    node: "开场询问",
    node_type: "NormalNode",
    robot: "喂,您好!",
    customer: "你说",
    hit: "肯定",
};
const OFFER: Exchange = Exchange {
    node: "优惠券介绍",
    node_type: "NormalNode",
    robot: "这里有一张优惠券可以领取,您需要吗?",
    customer: "好的,可以",
    hit: "肯定",
};
const REFUSED: Exchange = Exchange {
    node: "优惠券介绍",
    node_type: "AnyNode",
    robot: "这里有一张优惠券可以领取,您需要吗?",
    customer: "不需要,谢谢",
    hit: "否定",
};

/// The dialog of an answered call: the union of both documents' fields, with
/// `seq` as a string and robot turns without `hits`.
pub(super) fn dialog(call: &CallFacts, world: &World, rng: &mut StdRng) -> Value {
    let willing = rng.random_bool(0.6);
    let exchanges = [&OPENING, if willing { &OFFER } else { &REFUSED }];
    let step = (call.time_hangup - call.time_answer) / 6;
    let mut turns = Vec::new();
    for exchange in exchanges {
        let at = call.time_answer + step * i64::try_from(turns.len()).unwrap_or_default();
        let node_id = format!("words_node_{:08x}-{}", rng.random::<u32>(), turns.len());
        turns.push(robot_turn(turns.len(), exchange, &node_id, at));
        turns.push(customer_turn(turns.len(), exchange, &node_id, at, step));
    }
    turns.push(farewell(turns.len(), call.time_hangup - step));
    let mut dialog = call.identity(world);
    dialog["task_id"] = json!(call.task_id);
    dialog["time_begin"] = json!(call.time_answer);
    dialog["time_end"] = json!(call.time_hangup);
    dialog["tag_max"] = json!(if willing { "A" } else { "C" });
    dialog["tag_min"] = json!("D");
    dialog["dialog"] = json!(turns);
    dialog
}

fn robot_turn(seq: usize, exchange: &Exchange, node_id: &str, at: i64) -> Value {
    json!({
        "seq": (seq + 1).to_string(),
        "role": "robot",
        "node_id": node_id,
        "node_name": exchange.node,
        "node_type": exchange.node_type,
        "time_start": at,
        "text_robot": exchange.robot,
        "text_man": "",
        "question_id": "",
    })
}

fn customer_turn(seq: usize, exchange: &Exchange, node_id: &str, at: i64, step: i64) -> Value {
    let willing = exchange.hit == "肯定";
    json!({
        "seq": (seq + 1).to_string(),
        "role": "customer",
        "node_id": node_id,
        "node_name": exchange.node,
        "node_type": exchange.node_type,
        "content_id": "a75f4j9uN32d440b13ac08m",
        "label": "",
        "tag_name": if willing { "A" } else { "C" },
        "tag_desc": if willing { "有意向" } else { "无意向" },
        "time_start": at,
        "time_speaking": at + step,
        "text_robot": exchange.robot,
        "text_man": exchange.customer,
        "question_id": "",
        "hits": [
            { "hit": exchange.hit, "pick": true, "answer_id": "" },
            { "hit": "任意回答", "pick": false, "answer_id": "" },
        ],
    })
}

/// The last turn is the robot's, and has no `node_type`: it comes and goes.
fn farewell(seq: usize, at: i64) -> Value {
    json!({
        "seq": (seq + 1).to_string(),
        "role": "robot",
        "node_id": "words_node_end",
        "node_name": "结束语",
        "time_start": at,
        "text_robot": "感谢您的接听,再见!",
        "text_man": "",
        "question_id": "",
    })
}
