//! The bodies of one call's pushes: both call records, the recording, and the
//! dialog, with the fields of both documents.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::clock::{date_path, now_ms};
use super::dialer::CallSpec;
use super::outcome::Outcome;
use super::script;
use super::world::World;

/// What all pushes of one call share.
pub(super) struct CallFacts {
    pub call_uuid: String,
    pub robot_id: String,
    pub task_id: String,
    /// Of an outbound call.
    pub task_data_id: Option<String>,
    /// Of an inbound call.
    call_relation_id: Option<String>,
    pub caller: String,
    pub callee: String,
    /// The customer's name and the like: column and value.
    pub row: Vec<(String, String)>,
    pub time_dial: i64,
    pub time_ring: i64,
    pub time_answer: i64,
    pub time_hangup: i64,
    /// In seconds as the called person lives them, whatever the speed.
    ring_seconds: u64,
    talk_seconds: u64,
    recorded: bool,
    tries: u32,
    row_index: i64,
}

impl CallFacts {
    /// The facts of a call that was dialled then and hung up just now. The
    /// times between lie as they would at a speed of 1.
    pub fn new(world: &World, spec: &CallSpec, outcome: &Outcome, time_dial: i64) -> Self {
        let mut rng = StdRng::seed_from_u64(outcome.rng);
        let ms = |time: u64| i64::try_from(time).unwrap_or_default();
        let time_hangup = now_ms().max(time_dial);
        let whole = ms(outcome.ring_ms + outcome.talk_ms).max(1);
        let after = |time: u64| time_dial + (time_hangup - time_dial) * ms(time) / whole;
        let row = spec
            .row
            .head
            .iter()
            .cloned()
            .zip(spec.row.values.iter().cloned())
            .collect();
        Self {
            call_uuid: uuid(&mut rng),
            robot_id: world.catalog.robots[spec.robot].id.to_owned(),
            task_id: spec.task.to_string(),
            task_data_id: Some(spec.row.data_id.to_string()),
            call_relation_id: None,
            caller: world.catalog.lines[spec.line].num.to_owned(),
            callee: spec.row.values.first().cloned().unwrap_or_default(),
            row,
            time_dial,
            time_ring: after(outcome.ring_ms / 4),
            time_answer: after(outcome.ring_ms),
            time_hangup,
            ring_seconds: outcome.ring_ms / 1000,
            talk_seconds: outcome.talk_ms / 1000,
            recorded: spec.recorded,
            tries: spec.row.tries,
            row_index: spec.row.index,
        }
    }

    /// The facts of an inbound call that was answered and hung up just now.
    pub fn inbound(
        call_uuid: String,
        robot_id: String,
        call_relation_id: String,
        caller: String,
        line: &str,
        (ring, talk): (Duration, Duration),
    ) -> Self {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or_default();
        let time_hangup = now_ms();
        let time_answer = time_hangup - ms(talk);
        let time_ring = time_answer - ms(ring);
        Self {
            call_uuid,
            robot_id,
            // As in the documents' example.
            task_id: "0".to_owned(),
            task_data_id: None,
            call_relation_id: Some(call_relation_id),
            caller,
            callee: line.to_owned(),
            row: Vec::new(),
            time_dial: time_ring,
            time_ring,
            time_answer,
            time_hangup,
            ring_seconds: ring.as_secs(),
            talk_seconds: talk.as_secs(),
            recorded: true,
            tries: 0,
            row_index: 0,
        }
    }

    /// Sends the pushes of an inbound call: one record, the recording and the
    /// dialog.
    pub fn push_inbound(&self, world: &Arc<World>, rng: &mut StdRng) {
        let mut record = self.identity(world);
        record["caller"] = json!(self.caller);
        record["callee"] = json!(self.callee);
        record["direction"] = json!(1);
        record["time_ring"] = json!(self.time_ring);
        record["time_answer"] = json!(self.time_answer);
        record["time_hangup"] = json!(self.time_hangup);
        record["duration_ring"] = json!(self.ring_seconds);
        record["duration_call"] = json!(self.talk_seconds);
        world.push("receiveCallRecord", &record, rng);
        world.push("receiveVoice", &self.voice(world, rng), rng);
        world.push("receiveDialog", &script::dialog(self, world, rng), rng);
    }

    /// Sends the pushes, each after a wait of its own, so that they arrive in
    /// any order.
    pub fn push(&self, world: &Arc<World>, outcome: &Outcome) {
        let mut rng = StdRng::seed_from_u64(outcome.rng.rotate_left(17));
        let basic = self.basic_record(world, outcome);
        world.push(
            "receiveCallRecord",
            &self.outbound_record(&basic, outcome),
            &mut rng,
        );
        world.push("receiveCallRecord", &basic, &mut rng);
        if outcome.answered {
            if self.recorded {
                world.push("receiveVoice", &self.voice(world, &mut rng), &mut rng);
            }
            world.push(
                "receiveDialog",
                &script::dialog(self, world, &mut rng),
                &mut rng,
            );
        }
    }

    /// Who and which call: part of every push.
    pub fn identity(&self, world: &World) -> Value {
        let mut identity = json!({
            "business_id": world.config.business_id,
            "app_id": world.config.app_id,
            "robot_id": self.robot_id,
            "call_uuid": self.call_uuid,
        });
        if let Some(id) = &self.task_data_id {
            identity["task_data_id"] = json!(id);
        }
        if let Some(id) = &self.call_relation_id {
            identity["call_relation_id"] = json!(id);
        }
        identity
    }

    /// The record of the call's basic properties.
    fn basic_record(&self, world: &World, outcome: &Outcome) -> Value {
        let mut record = self.identity(world);
        record["caller"] = json!(self.caller);
        record["callee"] = json!(self.callee);
        record["direction"] = json!(2);
        record["task_id"] = json!(self.task_id);
        record["time_dial"] = json!(self.time_dial);
        record["time_ring"] = json!(self.time_ring);
        record["time_hangup"] = json!(self.time_hangup);
        record["duration_ring"] = json!(self.ring_seconds);
        record["duration_call"] = json!(self.talk_seconds);
        if let Some(time) = self.time_answer_as_pushed(outcome) {
            record["time_answer"] = time;
        }
        record
    }

    /// `time_answer` is required, and tells whether the call was answered: an
    /// unanswered call shows any of 0, null, "" and no field at all.
    fn time_answer_as_pushed(&self, outcome: &Outcome) -> Option<Value> {
        if outcome.answered {
            return Some(json!(self.time_answer));
        }
        match outcome.rng % 4 {
            0 => Some(json!(0)),
            1 => Some(Value::Null),
            2 => Some(json!("")),
            _ => None,
        }
    }

    /// All of the basic record, and what the task knows.
    fn outbound_record(&self, basic: &Value, outcome: &Outcome) -> Value {
        let mut record = basic.clone();
        let (head, value): (Vec<&str>, Vec<&str>) = self
            .row
            .iter()
            .map(|(head, value)| (head.as_str(), value.as_str()))
            .unzip();
        record["task_result"] = json!(outcome.result.to_string());
        record["task_result_desc"] = json!(outcome.desc);
        record["task_tries"] = json!(self.tries);
        record["task_row_index"] = json!(self.row_index);
        record["task_row_head"] = json!(head);
        record["task_row_value"] = json!(value);
        record
    }

    /// The recording, which the sandbox serves from now on.
    fn voice(&self, world: &World, rng: &mut StdRng) -> Value {
        let path = format!(
            "ant/4/ivr/0/{}/0/{}-{}.wav",
            date_path(self.time_hangup),
            rng.random_range(100_000..999_999),
            dashed(rng.random())
        );
        let size = world.recordings().add(&path, self.talk_seconds);
        let mut voice = self.identity(world);
        voice["url"] = json!(path);
        voice["size"] = json!(size);
        voice["duration"] = json!(self.talk_seconds);
        voice
    }
}

/// With dashes as documented, or 32 characters without as in live samples.
fn uuid(rng: &mut StdRng) -> String {
    let id = rng.random();
    if rng.random_bool(0.5) {
        dashed(id)
    } else {
        format!("{id:032x}")
    }
}

fn dashed(id: u128) -> String {
    let hex = format!("{id:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}
