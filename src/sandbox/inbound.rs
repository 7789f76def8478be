//! Inbound calls: somebody rings, the receiver is asked what the robot should
//! know, and maybe what to make of the reply; then come the call's pushes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bodies::CallFacts;
use super::delivery::JSON;
use super::world::World;

/// So long the platform holds up a caller. Never sped up: it is the receiver's
/// time.
const ANSWER_TIME: Duration = Duration::from_millis(500);
const RING: Duration = Duration::from_secs(3);
const TALK: Duration = Duration::from_secs(20);
const MAX_KEPT: usize = 1_000;

/// An inbound call to play. Without a robot the first one takes it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    call_relation_id: String,
    robot_id: Option<String>,
    #[serde(default = "somebody")]
    caller: String,
    /// Whether `analyzeSemantics` is asked in the middle of the call.
    #[serde(default)]
    semantics: bool,
}

fn somebody() -> String {
    "13000000001".to_owned()
}

/// The inbound calls so far, the last ones in detail.
#[derive(Default)]
pub(super) struct Inbound {
    played: u64,
    last: VecDeque<(u64, Value)>,
}

impl Inbound {
    fn add(&mut self, note: Value) -> u64 {
        self.played += 1;
        if self.last.len() >= MAX_KEPT {
            self.last.pop_front();
        }
        self.last.push_back((self.played, note));
        self.played
    }

    fn note(&mut self, number: u64, name: &str, value: Value) {
        if let Some((_, call)) = self.last.iter_mut().find(|(n, _)| *n == number) {
            call[name] = value;
        }
    }
}

/// `GET /sandbox/inbound`: what each call's questions were answered.
pub(super) async fn list(State(world): State<Arc<World>>) -> Json<Value> {
    let inbound = world.inbound();
    let calls: Vec<_> = inbound.last.iter().map(|(_, call)| call).collect();
    Json(json!({ "played": inbound.played, "calls": calls }))
}

/// `POST /sandbox/inbound`: somebody rings. Answers when the robot knows what
/// it should know; the call goes on.
pub(super) async fn play(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => {
            let error = json!({ "error": error.to_string() });
            return (StatusCode::BAD_REQUEST, Json(error)).into_response();
        }
    };
    let robot_id = order.robot_id.as_deref();
    let robot_id = robot_id.unwrap_or(world.catalog.robots[0].id).to_owned();
    let question = json!({
        "call_relation_id": order.call_relation_id,
        "business_id": world.config.business_id,
        "app_id": world.config.app_id,
        "robot_id": robot_id,
    });
    let context = ask(&world, "getDialogContext", &question, is_context).await;
    let note = json!({
        "call_relation_id": order.call_relation_id,
        "robot_id": robot_id,
        "context": context,
    });
    let number = world.inbound().add(note.clone());
    let call = Call {
        number,
        robot_id,
        context: context["answer"].clone(),
        order,
    };
    let background = Arc::clone(&world);
    world.spawn(async move { call.go_on(&background).await });
    Json(note).into_response()
}

struct Call {
    number: u64,
    order: Order,
    robot_id: String,
    context: Value,
}

impl Call {
    /// Rings, talks, hangs up, and sends the pushes on their way.
    async fn go_on(self, world: &Arc<World>) {
        let mut rng = StdRng::seed_from_u64(world.config.seed ^ self.number);
        let call_uuid = format!("{:032x}", rng.random::<u128>());
        tokio::time::sleep(world.config.scaled(RING + TALK / 2)).await;
        if self.order.semantics {
            let question = self.semantics(world, &call_uuid);
            let answer = ask(world, "analyzeSemantics", &question, is_values).await;
            world.inbound().note(self.number, "semantics", answer);
        }
        tokio::time::sleep(world.config.scaled(TALK / 2)).await;
        let facts = CallFacts::inbound(
            call_uuid,
            self.robot_id,
            self.order.call_relation_id,
            self.order.caller,
            world.catalog.lines[0].num,
            (RING, TALK),
        );
        let call_uuid = facts.call_uuid.clone();
        facts.push_inbound(world, &mut rng);
        world
            .inbound()
            .note(self.number, "call_uuid", call_uuid.into());
    }

    /// The question in its samples' form: ids are numbers, `seq` counts from 0,
    /// and a turn has one object `hit`.
    fn semantics(&self, world: &World, call_uuid: &str) -> Value {
        json!({
            "business_id": as_number(&world.config.business_id),
            "app_id": as_number(&world.config.app_id),
            "robot_id": as_number(&self.robot_id),
            "call_uuid": call_uuid,
            "call_relation_id": self.order.call_relation_id,
            "caller": self.order.caller,
            "context": self.context,
            "code": "intention",
            "reply": "好的,可以",
            "dialog": [
                {
                    "seq": 0, "role": "robot", "node_id": 4001, "node_name": "开场询问",
                    "text_robot": "喂,您好!", "text_man": "",
                    "has_reply": false,
                },
                {
                    "seq": 1, "role": "customer", "node_id": 4001, "node_name": "开场询问",
                    "text_robot": "喂,您好!", "text_man": "好的,可以",
                    "hit": { "pick": true, "name": "肯定", "id": 11 },
                    "reject": false, "un_hit": false, "has_reply": true,
                },
            ],
        })
    }
}

fn as_number(id: &str) -> Value {
    id.parse::<i64>().map_or_else(|_| json!(id), Value::from)
}

/// Asks the first receiver, and says what it answered, how long it took, and
/// what is wrong with the answer.
async fn ask(
    world: &World,
    module: &'static str,
    question: &Value,
    is_good: fn(&Value) -> bool,
) -> Value {
    let Some(url) = world.pusher.urls_of(module).into_iter().next() else {
        return json!({ "error": "no receiver is configured for this module" });
    };
    let (asked, body) = (Instant::now(), Bytes::from(question.to_string()));
    let answer = world
        .pusher
        .post_within(&url, Some(JSON), body, ANSWER_TIME)
        .await;
    let mut note = Map::new();
    let took = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
    note.insert("took_ms".into(), took.into());
    match answer.map(|receipt| (receipt.status, serde_json::from_slice(&receipt.body))) {
        Ok((200, Ok(answer))) if is_good(&answer) => note.insert("answer".into(), answer),
        Ok((200, Ok(_))) => note.insert("error".into(), json!("an answer of another form")),
        Ok((200, Err(error))) => note.insert("error".into(), json!(error.to_string())),
        Ok((status, _)) => note.insert("error".into(), json!(format!("status {status}"))),
        Err(error) => note.insert("error".into(), json!(error)),
    };
    Value::Object(note)
}

/// A map of strings.
fn is_context(answer: &Value) -> bool {
    let members = answer.as_object();
    members.is_some_and(|members| members.values().all(Value::is_string))
}

/// Each element a key, a type, and a value of that type.
fn is_values(answer: &Value) -> bool {
    let is_value = |value: &Value| {
        value["key"].is_string()
            && match value["type"].as_str() {
                Some("integer") => value["value"].is_i64(),
                Some("string") => value["value"].is_string(),
                _ => false,
            }
    };
    answer
        .as_array()
        .is_some_and(|values| values.iter().all(is_value))
}
