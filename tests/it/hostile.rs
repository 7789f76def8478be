//! Load that is meant to do harm: others are served meanwhile, and memory stays within bounds.

pub mod raw;
mod standing;

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;
use yeta_gateway::config::{Client, Config};
use yeta_gateway::proto::ListPushesRequest;

use self::raw::{Raw, Sent, address, framed};
use crate::bridge::reason;
use crate::support::{
    Http, Process, TestApp, earliest, eventually, from_cursor, next_event, pushes_client, record,
    within,
};

const GET_CALL: &str = "/yeta.v1.CallService/GetCall";
const CALL_OUT: &str = "/yeta.v1.OutboundService/CallOut";
const UPDATE: &str = "/yeta.v1.SubscriptionService/UpdateSubscription";
const LIST_PUSHES: &str = "/yeta.v1.PushService/ListPushes";
const SUBSCRIBE: &str = "/yeta.v1.PushService/SubscribePushes";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// The streams that one connection may have.
const STREAMS: usize = 200;

/// Two clients, `crm` and `bi`, whose tokens are their names with "-token".
fn clients_text() -> String {
    let client = |name: &str| {
        let hash = Sha256::digest(format!("{name}-token"));
        let hex = hash
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!(
            "[[clients]]\nname = '{name}'\ntoken_sha256 = '{hex}'\naccounts = ['*']\n\
             allow = ['outbound', 'subscribe', 'calls', 'admin']\n"
        )
    };
    client("crm") + &client("bi")
}

fn clients() -> Vec<Client> {
    let text = format!(
        "[[accounts]]\napp_key = 'k'\napp_secret = 's'\npush_secret = 'push-secret-9f31'\n{}",
        clients_text()
    );
    Config::parse(&text, std::iter::empty()).unwrap().clients
}

async fn process(settings: &str) -> (tempfile::TempDir, Process) {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), &format!("{settings}\n{}", clients_text()));
    let gateway = Process::spawn(Process::command(folder.path())).await;
    (folder, gateway)
}

/// The resident memory of a process, in MiB.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        / 1024
}

/// A request of the client `bi` that must succeed.
async fn probe(url: &str) {
    let mut request = Request::new(ListPushesRequest::default());
    let bearer = "Bearer bi-token".parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    within("the probe", pushes_client(url).list_pushes(request))
        .await
        .unwrap();
}

/// Sends heads without a body over as many connections as that takes.
async fn heads(url: &str, count: usize, token: Option<&str>) -> Vec<Sent> {
    let mut sent = Vec::new();
    while sent.len() < count {
        let raw = Raw::connect(url, 1 << 20).await;
        for _ in 0..STREAMS.min(count - sent.len()) {
            sent.push(raw.head(GET_CALL, token).await.unwrap());
        }
    }
    sent
}

#[tokio::test]
async fn heads_without_credentials_are_refused_at_once_and_cost_nobody_a_permit() {
    let (_folder, gateway) = process("grpc.max_concurrent_requests = 2").await;
    let url = &gateway.addresses.grpc;
    let before = resident(&gateway);
    let sent = heads(url, 4096, None).await;
    probe(url).await;
    for sent in sent {
        assert_eq!(sent.status().await.code(), Code::Unauthenticated);
    }
    probe(url).await;
    assert!(resident(&gateway) < before + 150, "{before}");
}

#[tokio::test]
async fn heads_without_a_body_of_one_client_leave_the_others_their_half() {
    let settings = "grpc.message_timeout = '10m'\ngrpc.max_concurrent_requests = 400";
    let (_folder, gateway) = process(settings).await;
    let url = &gateway.addresses.grpc;
    let sent = heads(url, 1000, Some("crm-token")).await;
    // All but its half are answered at once.
    let mut open: FuturesUnordered<_> = sent.into_iter().map(Sent::status).collect();
    for _ in 0..800 {
        let status = within("a refusal", open.next()).await.unwrap();
        let expected = (Code::ResourceExhausted, "OVERLOADED");
        assert_eq!((status.code(), &*reason(&status).1), expected);
    }
    assert_eq!(open.len(), 200);
    probe(url).await;
    drop(open);
    let raw = Raw::connect(url, 1 << 20).await;
    eventually("the permits to be free again", async || {
        let sent = raw
            .call(GET_CALL, Some("crm-token"), &ListPushesRequest::default())
            .await;
        (sent.status().await.code() != Code::ResourceExhausted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_does_not_arrive_is_not_waited_for() {
    let app = TestApp::with(|config| {
        config.clients = clients();
        config.grpc.message_timeout = Duration::from_millis(100);
    })
    .await;
    let raw = Raw::connect(&app.grpc, 1 << 20).await;
    for (path, token) in [(GET_CALL, Some("crm-token")), (HEALTH, None)] {
        for part in [&b""[..], &[0, 0, 0], &[0, 0, 0, 0, 9, 1]] {
            let mut sent = raw.head(path, token).await.unwrap();
            sent.body
                .send_data(Bytes::copy_from_slice(part), false)
                .unwrap();
            assert_eq!(
                sent.status().await.code(),
                Code::DeadlineExceeded,
                "{part:?}"
            );
        }
    }
    app.stop().await.unwrap();
}

#[tokio::test]
async fn half_sent_messages_hold_no_more_memory_than_their_clients_share() {
    let (_folder, gateway) = process("grpc.message_timeout = '10m'").await;
    let url = &gateway.addresses.grpc;
    probe(url).await;
    let before = resident(&gateway);
    let message = framed(0, &vec![b'x'; 4 << 20]).slice(..(4 << 20) - 100);
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        // Each on its own connection, as they would hold up each other.
        let raw = Raw::connect(url, 1 << 20).await;
        let mut sent = raw.head(CALL_OUT, Some("crm-token")).await.unwrap();
        sent.body.send_data(message.clone(), false).unwrap();
        // Sent, or refused by its header.
        let mut response = sent.response;
        let end = within("the message", async {
            loop {
                sent.body.reserve_capacity(1);
                tokio::select! {
                    refused = &mut response => return Some(refused.unwrap()),
                    () = tokio::task::yield_now() => {
                        if is_sent(&mut sent.body) {
                            return None;
                        }
                    }
                }
            }
        })
        .await;
        if let Some(response) = end {
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(reason(&status).1, "OVERLOADED");
            refused += 1;
        } else {
            open.push((raw, sent.body, response));
        }
    }
    // Half of 64 MiB.
    assert_eq!((open.len(), refused), (7, 293));
    probe(url).await;
    assert!(resident(&gateway) < before + 150, "{before}");
}

/// Whether everything that was given to a stream has gone out.
fn is_sent(body: &mut h2::SendStream<Bytes>) -> bool {
    body.capacity() > 0
}

#[tokio::test]
async fn a_small_message_that_becomes_large_is_refused_before_it_is_decoded() {
    let app = TestApp::with(|config| config.clients = clients()).await;
    let raw = Raw::connect(&app.grpc, 1 << 20).await;
    // Two million empty rows, and as many paths of an update mask.
    let rows = [0x2a, 0].repeat(2_000_000);
    let paths = [0x0a, 0].repeat(240_000);
    let mask = [&[0x12][..], &prefixed(&paths)].concat();
    for (path, message, encoding, code, expected) in [
        (
            CALL_OUT,
            &rows,
            "zstd",
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        ),
        (
            CALL_OUT,
            &rows,
            "identity",
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
        (
            UPDATE,
            &mask,
            "identity",
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
        (
            GET_CALL,
            &rows,
            "identity",
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        ),
    ] {
        let bytes = match encoding {
            "zstd" => framed(1, &zstd::encode_all(&message[..], 3).unwrap()),
            _ => framed(0, message),
        };
        let headers = [("grpc-encoding", encoding)];
        let sent = raw.head_with(path, Some("crm-token"), &headers).await;
        let mut sent = sent.unwrap();
        sent.body.send_data(bytes, true).unwrap();
        let status = sent.status().await;
        assert_eq!(
            (status.code(), &*reason(&status).1),
            (code, expected),
            "{path}"
        );
    }
    app.stop().await.unwrap();
}

/// Bytes behind their length as a varint.
fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::new();
    prost::encoding::encode_varint(bytes.len() as u64, &mut prefixed);
    prefixed.extend_from_slice(bytes);
    prefixed
}

#[tokio::test]
async fn silent_connections_keep_neither_pushes_nor_probes_nor_clients_out() {
    let folder = tempfile::tempdir().unwrap();
    Process::configure(folder.path(), &clients_text());
    let command = Process::command_after("ulimit -n 1024", folder.path());
    let gateway = Process::spawn(command).await;
    let at = &gateway.addresses;
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(
            tokio::net::TcpStream::connect(address(&at.grpc))
                .await
                .unwrap(),
        );
    }
    let http = Http::new();
    for number in 0..3 {
        probe(&at.grpc).await;
        let pushed = http.push(&at.push, "receiveCallRecord", record(&number.to_string()));
        assert!(within("a push", pushed).await.unwrap().is_success());
        let live = within("the probe", http.get(&at.admin, "/livez")).await;
        assert_eq!(live.unwrap().status, 200);
    }
    let raw = Raw::connect(&at.grpc, 1 << 20).await;
    let sent = raw.call(HEALTH, None, &HealthCheckRequest::default()).await;
    assert_eq!(sent.status().await.code(), Code::Ok);
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(
        status.success() && !output.contains("not accepted"),
        "{output}"
    );
    drop(silent);
}

#[tokio::test]
async fn what_has_shown_no_credentials_does_not_delay_the_end() {
    let (_folder, gateway) = process("shutdown_grace = '1h'").await;
    let url = &gateway.addresses.grpc;
    let silent = tokio::net::TcpStream::connect(address(url)).await.unwrap();
    let raw = Raw::connect(url, 1 << 20).await;
    let half = raw.head(HEALTH, None).await.unwrap();
    let reflection = raw.head(REFLECTION, None).await.unwrap();
    probe(url).await;
    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success() && !output.contains("cut off"), "{output}");
    drop((silent, half, reflection));
}

#[tokio::test]
async fn a_stream_that_is_never_read_is_ended_with_the_cursor_to_go_on_from() {
    let app = TestApp::with(|config| {
        config.clients = clients();
        config.grpc.slow_consumer_timeout = Duration::from_millis(200);
    })
    .await;
    for number in 0..3 {
        app.push("receiveCallRecord", record(&number.to_string()))
            .await;
    }
    let raw = Raw::connect(&app.grpc, 0).await;
    // A request that stays open keeps the connection.
    let _open = raw.head(REFLECTION, None).await.unwrap();
    let slow = raw.call(SUBSCRIBE, Some("crm-token"), &earliest()).await;
    let response = within("the head", slow.response).await.unwrap();
    eventually("the reader to be ended", async || {
        let metrics = app.http.get(&app.admin, "/metrics").await.ok()?.text();
        metrics
            .lines()
            .any(|line| line.starts_with("yeta_gateway_readers 0"))
            .then_some(())
    })
    .await;
    raw.open_windows(1 << 20);
    let (bytes, trailers) = raw::rest(response.into_body()).await;
    // What was on its way arrives, and the cursor is behind it.
    for number in 0..3 {
        let call = format!(r#""call_uuid":"{number}""#);
        assert!(String::from_utf8_lossy(&bytes).contains(&call), "{call}");
    }
    let status = Status::from_header_map(&trailers.unwrap()).unwrap();
    let expected = (Code::ResourceExhausted, "SLOW_CONSUMER");
    assert_eq!((status.code(), &*reason(&status).1), expected);
    let details = status.get_error_details();
    let cursor = &details.error_info().unwrap().metadata["cursor"];
    app.push("receiveCallRecord", record("3")).await;
    let mut request = Request::new(from_cursor(cursor));
    let bearer = "Bearer bi-token".parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let mut client = pushes_client(&app.grpc);
    let mut stream = client.subscribe_pushes(request).await.unwrap().into_inner();
    let event = next_event(&mut stream).await;
    assert!(String::from_utf8_lossy(&event.raw_json).contains(r#""call_uuid":"3""#));
    app.stop().await.unwrap();
}

#[tokio::test]
async fn answers_that_are_never_read_give_their_places_back() {
    let app = TestApp::with(|config| {
        config.clients = clients();
        config.grpc.slow_consumer_timeout = Duration::from_millis(200);
    })
    .await;
    app.push("receiveCallRecord", record("a")).await;
    let raw = Raw::connect(&app.grpc, 0).await;
    // As many as there are places for the pages of one client.
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(
            raw.call(
                LIST_PUSHES,
                Some("crm-token"),
                &ListPushesRequest::default(),
            )
            .await,
        );
    }
    let reading = Raw::connect(&app.grpc, 1 << 20).await;
    let sent = reading
        .call(
            LIST_PUSHES,
            Some("crm-token"),
            &ListPushesRequest::default(),
        )
        .await;
    assert_eq!(sent.status().await.code(), Code::Ok);
    // Nobody but they is left on their connection, which is closed.
    let mut closed = raw.head(GET_CALL, Some("crm-token")).await;
    eventually("the connection's end", async || {
        closed = raw.head(GET_CALL, Some("crm-token")).await;
        closed.is_err().then_some(())
    })
    .await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_has_no_more_streams_than_it_may() {
    let app = TestApp::with(|config| {
        config.clients = clients();
        config.grpc.max_streams_per_client = 2;
    })
    .await;
    let raw = Raw::connect(&app.grpc, 1 << 20).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let stream = raw.call(SUBSCRIBE, Some("crm-token"), &earliest()).await;
        open.push(within("a stream", stream.response).await.unwrap());
    }
    let refused = raw
        .call(SUBSCRIBE, Some("crm-token"), &earliest())
        .await
        .status()
        .await;
    assert_eq!(
        (refused.code(), &*reason(&refused).1),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    let other = raw.call(SUBSCRIBE, Some("bi-token"), &earliest()).await;
    let other = within("another's stream", other.response).await.unwrap();
    assert!(Status::from_header_map(other.headers()).is_none());
    drop(open);
    eventually("a stream to be free", async || {
        let stream = raw.call(SUBSCRIBE, Some("crm-token"), &earliest()).await;
        let response = within("an answer", stream.response).await.unwrap();
        Status::from_header_map(response.headers())
            .is_none()
            .then_some(())
    })
    .await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let app = TestApp::with(|config| config.grpc.reflection = false).await;
    let raw = Raw::connect(&app.grpc, 1 << 20).await;
    let sent = raw
        .call(REFLECTION, None, &ListPushesRequest::default())
        .await;
    assert_eq!(sent.status().await.code(), Code::Unimplemented);
    app.stop().await.unwrap();
}
