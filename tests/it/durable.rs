//! Durable subscriptions as their members and operators see them, through a whole gateway.

mod manage;
mod members;
mod rights;
mod shell;
mod watch;

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    AckPushesRequest, AckResult, AckStatus, CreateSubscriptionRequest, DeadLetter,
    GetSubscriptionRequest, ListDeadLettersRequest, NackPushesRequest, Position, PushEvent,
    SubscribePushesRequest, SubscribePushesResponse, Subscription, SubscriptionStats,
    create_subscription_request,
};

use crate::bridge::reason;
use crate::support::{Pushes, TestApp, next_event, next_message, record};

type Stream = Streaming<SubscribePushesResponse>;
type Manager = SubscriptionServiceClient<Channel>;

const NAME: &str = "results";

fn manager(app: &TestApp) -> Manager {
    let channel = Endpoint::from_shared(app.grpc.clone())
        .unwrap()
        .connect_lazy();
    SubscriptionServiceClient::new(channel)
}

/// Joins from the log's beginning.
fn joining(name: &str) -> SubscribePushesRequest {
    SubscribePushesRequest {
        subscription: name.to_owned(),
        start: Some(Start::Position(Position::Earliest.into())),
        ..SubscribePushesRequest::default()
    }
}

async fn join(client: &mut Pushes, request: SubscribePushesRequest) -> Stream {
    client.subscribe_pushes(request).await.unwrap().into_inner()
}

/// A subscription from the log's beginning.
fn creating(subscription: Subscription) -> CreateSubscriptionRequest {
    let earliest = create_subscription_request::Start::Position(Position::Earliest.into());
    CreateSubscriptionRequest {
        subscription: Some(subscription),
        start: Some(earliest),
    }
}

fn named(name: &str) -> Subscription {
    Subscription {
        name: name.to_owned(),
        ..Subscription::default()
    }
}

async fn push_numbers(app: &TestApp, range: std::ops::Range<usize>) {
    for number in range {
        app.push("receiveCallRecord", record(&number.to_string()))
            .await;
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn call(event: &PushEvent) -> String {
    match &event.payload {
        Some(Payload::CallRecord(record)) => record.call_uuid.clone(),
        Some(Payload::Voice(voice)) => voice.call_uuid.clone(),
        other => panic!("{other:?}"),
    }
}

/// The next so many events.
async fn take(stream: &mut Stream, count: usize) -> Vec<PushEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.push(next_event(stream).await);
    }
    events
}

/// The events before word that everything has been handed out.
async fn until_caught_up(stream: &mut Stream) -> Vec<String> {
    let mut calls = Vec::new();
    loop {
        match next_message(stream).await.unwrap() {
            SubscribePushesResponse::Event(event) => calls.push(call(&event)),
            SubscribePushesResponse::Progress(progress) if progress.caught_up => return calls,
            _ => {}
        }
    }
}

/// What the stream ends with; nothing but progress may come before.
async fn ended(stream: &mut Stream) -> Status {
    loop {
        match next_message(stream).await {
            Ok(SubscribePushesResponse::Progress(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(status) => return status,
        }
    }
}

fn calls(events: &[PushEvent]) -> Vec<String> {
    events.iter().map(call).collect()
}

fn ack_ids(events: &[PushEvent]) -> Vec<String> {
    events.iter().map(|event| event.ack_id.clone()).collect()
}

async fn ack(client: &mut Pushes, ack_ids: Vec<String>) -> Vec<AckStatus> {
    let request = AckPushesRequest {
        subscription: NAME.into(),
        ack_ids: ack_ids.clone(),
    };
    let results = client
        .ack_pushes(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let answered: Vec<_> = results.iter().map(|result| result.ack_id.clone()).collect();
    assert_eq!(answered, ack_ids);
    results.iter().map(AckResult::status).collect()
}

async fn nack(client: &mut Pushes, request: NackPushesRequest) -> Vec<AckStatus> {
    let request = NackPushesRequest {
        subscription: NAME.into(),
        ..request
    };
    let results = client
        .nack_pushes(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    results.iter().map(AckResult::status).collect()
}

async fn get(manager: &mut Manager) -> Subscription {
    let request = GetSubscriptionRequest { name: NAME.into() };
    manager
        .get_subscription(request)
        .await
        .unwrap()
        .into_inner()
}

async fn stats(manager: &mut Manager) -> SubscriptionStats {
    get(manager).await.stats.unwrap()
}

async fn dead_letters(manager: &mut Manager) -> Vec<DeadLetter> {
    let request = ListDeadLettersRequest {
        subscription: NAME.into(),
        ..ListDeadLettersRequest::default()
    };
    let page = manager.list_dead_letters(request).await.unwrap();
    page.into_inner().dead_letters
}

fn seconds(seconds: u64) -> prost_types::Duration {
    Duration::from_secs(seconds).try_into().unwrap()
}

/// The code and the reason of a refusal.
fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let (code, reason, _) = reason(&answer.unwrap_err());
    (code, reason)
}

fn expected(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

/// The fields that an invalid request's refusal names.
fn faulty<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    violations.iter().map(|fault| fault.field.clone()).collect()
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}
