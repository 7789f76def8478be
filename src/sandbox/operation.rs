//! One request of the open API: fault, read, apply, note, answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode, Uri};
use serde_json::Value;

use super::answer::Answer;
use super::clock::now_ms;
use super::code::{BAD_PARAMETER, BAD_TOKEN, Refusal};
use super::faults::{Fault, Kind};
use super::params::Params;
use super::received::Line;
use super::server::Cut;
use super::world::World;
use super::{bend, catalog, failed, outbound, task_query, tokens};

const MAX_BODY: usize = 8 * 1024 * 1024;

/// The documented operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Token,
    Config,
    CallOut,
    Create,
    Insert,
    Start,
    Pause,
    Delete,
    Query,
    Failed,
    /// No operation of the API, but a file: here for the faults that it takes.
    Download,
}

impl Operation {
    const ALL: [Self; 11] = [
        Self::Token,
        Self::Config,
        Self::CallOut,
        Self::Create,
        Self::Insert,
        Self::Start,
        Self::Pause,
        Self::Delete,
        Self::Query,
        Self::Failed,
        Self::Download,
    ];

    /// The name in faults and counts: the last word of the path where the
    /// paths differ.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Config => "config",
            Self::CallOut => "callout",
            Self::Create => "create",
            Self::Insert => "insert",
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Delete => "delete",
            Self::Query => "query",
            Self::Failed => "failed",
            Self::Download => "download",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    fn takes_rows(self) -> bool {
        matches!(self, Self::CallOut | Self::Insert)
    }

    fn apply(
        self,
        world: &Arc<World>,
        parts: &Parts,
        params: Result<Params, Refusal>,
    ) -> Result<Value, Refusal> {
        if self != Self::Token {
            let token = token_of(&parts.uri);
            if !world.tokens().admit(token.as_deref()) {
                return Err(BAD_TOKEN.because("the token is missing, unknown, old or killed"));
            }
        }
        check_content_type(&parts.headers)?;
        let params = params?;
        match self {
            Self::Token => tokens::issue(world, &params),
            Self::Config => catalog::query(world, &params),
            Self::CallOut => outbound::callout(world, &params),
            Self::Create => outbound::create(world, &params),
            Self::Insert => outbound::insert(world, &params),
            Self::Start => outbound::start(world, &params),
            Self::Pause => outbound::pause(world, &params),
            Self::Delete => outbound::delete(world, &params),
            Self::Query => task_query::query(world, &params),
            Self::Failed => failed::list(world, &params),
            Self::Download => Ok(Value::Null),
        }
    }
}

/// Handles one request.
pub(super) async fn handle(
    operation: Operation,
    world: Arc<World>,
    cut: Cut,
    request: Request<Body>,
) -> Response {
    let (fault, cleared) = {
        let mut faults = world.faults();
        (faults.take(operation), faults.until_cleared())
    };
    let kind = fault.as_ref().map(|fault| fault.kind);
    if let Some(kind @ Kind::CutBeforeReading) = kind {
        world.received().cut(operation, kind);
        return cut.reset().await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let answer = answer(operation, &world, &parts, &body, fault.as_ref());
    if let Some(fault) = &fault {
        tokio::time::sleep(Duration::from_millis(fault.millis)).await;
    }
    if kind == Some(Kind::Hold) {
        cleared.await;
    }
    match kind {
        Some(Kind::CutAfterReading) => cut.reset().await,
        Some(Kind::CutMidAnswer) => answer.cut_in_half(cut),
        Some(Kind::CloseAfterAnswer) => answer.and_close(cut),
        _ => answer.into_response(),
    }
}

/// Everything between reading and answering, without a pause: a client that
/// hangs up can neither prevent nor halve an operation once it was read.
fn answer(
    operation: Operation,
    world: &Arc<World>,
    parts: &Parts,
    body: &Bytes,
    fault: Option<&Fault>,
) -> Answer {
    if let Some(Fault {
        kind: Kind::RefuseToken,
        kill: true,
        ..
    }) = fault
    {
        world.tokens().expire();
    }
    let params = Params::read(body);
    if let Ok(params) = &params
        && operation.takes_rows()
    {
        // Rows that cannot be read as rows are no rows.
        let rows = params.grid("call_list").unwrap_or_default();
        world.received().rows.receive(&rows);
    }
    let forestalled = fault.and_then(Answer::instead);
    let carry_out = forestalled.is_none() || fault.is_some_and(|fault| fault.applied == Some(true));
    let mut outcome = carry_out.then(|| operation.apply(world, parts, params));
    if let Some(fault) = fault
        && fault.kind == Kind::NoIds
        && let Some(Ok(result)) = &mut outcome
    {
        bend::drop_ids(result, fault.ids);
    }
    let refusal = outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    let line = Line {
        time: now_ms(),
        operation: operation.name(),
        applied: outcome.as_ref().is_some_and(Result::is_ok),
        code: None,
        reason: refusal.map(|refusal| refusal.reason.clone()),
        fault: fault.map(|fault| fault.kind),
    };
    let answer = match (forestalled, outcome) {
        (Some(answer), _) => answer,
        (None, Some(outcome)) => Answer::of(outcome, fault.map(|fault| fault.kind)),
        (None, None) => Answer::of(Ok(Value::Null), None),
    };
    world.received().read(Line {
        code: answer.code,
        ..line
    });
    answer
}

/// The token travels in the query.
fn token_of(uri: &Uri) -> Option<String> {
    let Query(mut query) = Query::<HashMap<String, String>>::try_from_uri(uri).ok()?;
    query.remove("token")
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let plain = content_type
        .unwrap_or_default()
        .to_ascii_lowercase()
        .replace([' ', '"'], "");
    match plain.as_str() {
        "application/json" | "application/json;charset=utf-8" => Ok(()),
        _ => Err(BAD_PARAMETER.because("Content-Type is not application/json;charset=UTF-8")),
    }
}
