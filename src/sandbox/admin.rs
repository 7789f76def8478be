//! The sandbox's own endpoints, under `/sandbox`: faults, raw pushes, counts.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::faults::Fault;
use super::quirk::{Quirk, quirks_with};
use super::world::World;

type Shared = State<Arc<World>>;

/// `GET /sandbox`: what there is.
pub(super) async fn index() -> Json<Value> {
    Json(json!({
        "endpoints": {
            "GET /sandbox/faults": "the faults not yet used up",
            "POST /sandbox/faults": "adds one fault or an array of them",
            "DELETE /sandbox/faults": "drops all faults",
            "GET /sandbox/requests": "counts per operation and per row, and the last requests",
            "GET /sandbox/rows": "rows received, accepted, and accepted again",
            "GET /sandbox/tokens": "tokens issued, live, and refusals",
            "POST /sandbox/tokens/expire": "refuses the present tokens from now on",
            "GET /sandbox/pushes": "pushes sent, acknowledged, retried, failed",
            "GET /sandbox/pushes/failed": "the pushes given up",
            "POST /sandbox/push?module=M": "sends the request's bytes and Content-Type as a push",
            "GET /sandbox/quirks": "the quirks by name",
            "POST /sandbox/quirks?name=N": "sends one push of each quirk, or the one named",
            "GET /sandbox/inbound": "the inbound calls played, and what their questions were answered",
            "POST /sandbox/inbound": "plays an inbound call that asks getDialogContext first",
            "POST /sandbox/balance": "{\"calls\": N} or {\"calls\": null} for no bound",
            "POST /sandbox/calendar": "{\"days\": N}: the pushes given up so far, N days earlier",
            "GET /sandbox/recordings": "how often recordings were asked for",
            "POST /sandbox/recordings": "{\"path\": \"a.wav\", \"bytes\": N} serves /voice/a.wav",
            "POST /sandbox/reset": "forgets tasks, faults and counts",
        },
        "fault": {
            "operation": "any | token | config | callout | create | insert | start | pause \
                | delete | query | failed | download; for pushes: push | receiveCallRecord | receiveVoice \
                | receiveDialog; for recordings: voice",
            "fault": "latency | refuse_token | code | busy | http_500 | html \
                | wrong_content_type | numbers_as_strings | strings_as_numbers | null_fields \
                | unknown_fields | invalid_json_strings | no_ids | hold | cut_before_reading \
                | cut_after_reading | cut_mid_answer | close_after_answer; for pushes: duplicate | reorder | delay \
                | lose; for voice: not_found | redirect | ignore_range | wrong_size | slow \
                | latency | http_500 | cut_before_reading | cut_mid_answer",
            "times": "how often, 1 by default",
            "millis": "latency before the answer, beside any fault; the wait of delay; before \
                each 64 KiB of slow",
            "location": "for redirect",
            "code, message": "for code and http_500",
            "applied": "true: code, busy, refuse_token, http_500 and html answer so although \
                the operation was carried out",
            "kill": "for refuse_token: ends the present tokens too",
            "text": "for http_500: plain text instead of JSON",
            "status": "for code, busy and html: the HTTP status of the answer, 200 by default",
            "ids": "for no_ids: how many task_data_ids the answer keeps, 0 by default",
        },
    }))
}

pub(super) async fn faults(State(world): Shared) -> Json<Value> {
    Json(json!(world.faults().list()))
}

/// One fault or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Orders {
    Several(Vec<Value>),
    One(Value),
}

pub(super) async fn add_faults(State(world): Shared, body: Bytes) -> Response {
    let orders = match serde_json::from_slice(&body) {
        Ok(Orders::Several(orders)) => orders,
        Ok(Orders::One(order)) => vec![order],
        Err(error) => return bad_request(&error.to_string()),
    };
    let mut faults = Vec::with_capacity(orders.len());
    for order in orders {
        let fault = serde_json::from_value::<Fault>(order).map_err(|error| error.to_string());
        match fault.and_then(|fault| fault.check().map(|()| fault)) {
            Ok(fault) => faults.push(fault),
            Err(why) => return bad_request(&why),
        }
    }
    let mut queue = world.faults();
    for fault in faults {
        queue.add(fault);
    }
    Json(json!(queue.list())).into_response()
}

pub(super) async fn clear_faults(State(world): Shared) -> Json<Value> {
    world.faults().clear();
    Json(json!([]))
}

pub(super) async fn requests(State(world): Shared) -> Json<Value> {
    Json(world.received().report())
}

pub(super) async fn rows(State(world): Shared) -> Json<Value> {
    Json(world.received().rows.totals())
}

pub(super) async fn tokens(State(world): Shared) -> Json<Value> {
    let tokens = world.tokens();
    Json(json!({ "issued": tokens.issued, "live": tokens.live(), "refused": tokens.refused }))
}

pub(super) async fn expire_tokens(State(world): Shared) -> Json<Value> {
    Json(json!({ "expired": world.tokens().expire() }))
}

pub(super) async fn pushes(State(world): Shared) -> Json<Value> {
    Json(world.pusher.report())
}

pub(super) async fn failed_pushes(State(world): Shared) -> Json<Value> {
    Json(world.failures().list())
}

#[derive(Deserialize)]
pub(super) struct RawPush {
    module: String,
}

/// Sends the body as it came, once, and tells what the receivers answered.
pub(super) async fn push(
    State(world): Shared,
    Query(RawPush { module }): Query<RawPush>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let answers = post_to_all(&world, &module, content_type, &body).await;
    let Some(first) = answers.first().cloned() else {
        return bad_request("no receiver is configured for this module");
    };
    let mut report = first;
    report["deliveries"] = Value::Array(answers);
    Json(report).into_response()
}

async fn post_to_all(
    world: &World,
    module: &str,
    content_type: Option<&str>,
    body: &Bytes,
) -> Vec<Value> {
    let mut answers = Vec::new();
    for url in world.pusher.urls_of(module) {
        answers.push(
            match world.pusher.post(&url, content_type, body.clone()).await {
                Ok(receipt) => json!({
                    "status": receipt.status,
                    "body": String::from_utf8_lossy(&receipt.body),
                    "acknowledged": receipt.acknowledges(),
                }),
                Err(error) => json!({ "status": null, "error": error, "acknowledged": false }),
            },
        );
    }
    answers
}

pub(super) async fn quirks(State(world): Shared) -> Json<Value> {
    let describe = |quirk: &Quirk| {
        json!({
            "name": quirk.name,
            "module": quirk.module,
            "content_type": quirk.content_type,
            "body": String::from_utf8_lossy(&quirk.body),
        })
    };
    Json(
        quirks_with(world.config.voice_base_url.as_deref())
            .iter()
            .map(describe)
            .collect(),
    )
}

#[derive(Deserialize)]
pub(super) struct WhichQuirk {
    name: Option<String>,
}

pub(super) async fn push_quirks(
    State(world): Shared,
    Query(WhichQuirk { name }): Query<WhichQuirk>,
) -> Json<Value> {
    let mut report = Vec::new();
    let wanted = |quirk: &Quirk| name.as_deref().is_none_or(|name| name == quirk.name);
    let quirks = quirks_with(world.config.voice_base_url.as_deref());
    for quirk in quirks.into_iter().filter(wanted) {
        let body = Bytes::from(quirk.body);
        let answers = post_to_all(&world, quirk.module, quirk.content_type, &body).await;
        report.push(json!({
            "name": quirk.name,
            "module": quirk.module,
            "deliveries": answers,
        }));
    }
    Json(json!(report))
}

#[derive(Deserialize)]
struct NewRecording {
    path: String,
    bytes: u64,
}

/// Serves a recording of any size under `/voice/`.
pub(super) async fn add_recording(State(world): Shared, body: Bytes) -> Response {
    match serde_json::from_slice::<NewRecording>(&body) {
        Ok(new) => {
            world.recordings().add_noise(&new.path, new.bytes);
            Json(json!({ "path": new.path, "bytes": new.bytes })).into_response()
        }
        Err(error) => bad_request(&error.to_string()),
    }
}

pub(super) async fn recordings(State(world): Shared) -> Json<Value> {
    Json(json!({ "requests": world.recordings().requests() }))
}

#[derive(Deserialize)]
struct Balance {
    calls: Option<u64>,
}

pub(super) async fn balance(State(world): Shared, body: Bytes) -> Response {
    match serde_json::from_slice::<Balance>(&body) {
        Ok(Balance { calls }) => {
            world.tasks().balance = calls;
            Json(json!({ "calls": calls })).into_response()
        }
        Err(error) => bad_request(&error.to_string()),
    }
}

#[derive(Deserialize)]
struct Calendar {
    days: u16,
}

/// Lets days go by for the pushes that were given up: a test cannot wait for tomorrow.
pub(super) async fn calendar(State(world): Shared, body: Bytes) -> Response {
    match serde_json::from_slice::<Calendar>(&body) {
        Ok(Calendar { days }) => {
            world.failures().age(days);
            Json(json!({ "days": days })).into_response()
        }
        Err(error) => bad_request(&error.to_string()),
    }
}

pub(super) async fn reset(State(world): Shared) -> Json<Value> {
    world.reset();
    Json(json!({}))
}

fn bad_request(why: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": why }))).into_response()
}
