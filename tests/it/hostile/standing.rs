//! Clients, pushes and questions of the platform are answered while a hostile load stands.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use yeta_gateway::config::Config;
use yeta_gateway::memory::Needs;
use yeta_gateway::proto::submit_rows_request::Message;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{DirectCall, SubmitRowsRequest, UploadHeader};

use super::raw::{Raw, address, framed};
use super::{CALL_OUT, probe, process, resident};
use crate::bridge::reason;
use crate::support::{Addresses, Http, PUSH_SECRET, Process, record, within};

const SUBMIT_ROWS: &str = "/yeta.v1.OutboundService/SubmitRows";

/// A unary call of another client, a push and a question, which must all be answered well.
async fn all_are_answered(at: &Addresses, http: &Http) {
    probe(&at.grpc).await;
    let pushed = http.push(&at.push, "receiveCallRecord", record("a"));
    assert!(within("a push", pushed).await.unwrap().is_success());
    let asked = http.push(&at.push, "getDialogContext", "{}");
    assert_eq!(within("a question", asked).await.unwrap().status, 200);
}

/// The head of a push that announces a body of this many bytes.
fn head(length: usize) -> String {
    format!(
        "POST /v1/push/default/{PUSH_SECRET}/receiveDialog HTTP/1.1\r\nhost: x\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = within("an answer", stream.read_to_string(&mut answer));
    read.await.unwrap();
    answer
}

#[tokio::test]
async fn silent_connections_of_both_ports_keep_nobody_out() {
    let settings = "push.header_timeout = '10m'";
    let (_folder, gateway) = process(settings).await;
    let (at, http) = (&gateway.addresses, Http::new());
    let mut silent = Vec::new();
    for _ in 0..1100 {
        for url in [&at.grpc, &at.push] {
            silent.push(TcpStream::connect(address(url)).await.unwrap());
        }
    }
    let before = resident(&gateway);
    for _ in 0..3 {
        all_are_answered(at, &http).await;
    }
    for stream in silent.iter().skip(1).step_by(2) {
        let read = stream.try_read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert!(resident(&gateway) < before + 50, "{before}");
}

#[tokio::test]
async fn bodies_that_trickle_keep_nobody_out_and_are_given_up_at_the_deadline_of_a_push() {
    let (_folder, gateway) = process("push.append_timeout = '1s'").await;
    let (at, http) = (&gateway.addresses, Http::new());
    let mut trickles = JoinSet::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(address(&at.push)).await.unwrap();
        stream.write_all(head(1 << 20).as_bytes()).await.unwrap();
        trickles.spawn(async move {
            let (mut read, mut write) = stream.split();
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            let mut answer = String::new();
            let trickle = async {
                // Fails once the gateway has closed the connection.
                while write.write_all(b" ").await.is_ok() {
                    ticks.tick().await;
                }
            };
            let answered = within("an answer", read.read_to_string(&mut answer));
            tokio::select! {
                // A connection that is reset has ended as well.
                _ = answered => {}
                () = trickle => {}
            }
            answer
        });
    }
    for _ in 0..3 {
        all_are_answered(at, &http).await;
    }
    for answer in trickles.join_all().await {
        let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 408 ");
        assert!(is_refused, "{answer}");
    }
}

#[tokio::test]
async fn the_largest_pushes_at_once_keep_nobody_out_and_stay_within_the_bounds_of_memory() {
    const LENGTH: usize = 8 << 20;
    // An unoptimized build needs more than the platform's three seconds.
    let settings = "push.append_timeout = '60s'\npush.max_buffered_bytes = 33554432\n\
        grpc.max_buffered_bytes = 16777216\ngrpc.max_streams = 100";
    let (_folder, gateway) = process(settings).await;
    let (at, http) = (&gateway.addresses, Http::new());
    let mut pushes = JoinSet::new();
    for number in 10..16 {
        let mut stream = TcpStream::connect(address(&at.push)).await.unwrap();
        let body = format!("[{number}{}]", ",0".repeat(LENGTH / 2 - 2));
        assert_eq!(body.len(), LENGTH);
        pushes.spawn(async move {
            stream.write_all(head(LENGTH).as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            answer(&mut stream).await
        });
    }
    for _ in 0..3 {
        all_are_answered(at, &http).await;
    }
    for answer in pushes.join_all().await {
        assert!(answer.ends_with("success"), "{answer}");
    }
    let config = Config::parse(settings, std::iter::empty()).unwrap();
    let allowed = Needs::of(&config).total() >> 20;
    let peak = peak_mib(&gateway);
    assert!(peak < allowed, "{peak} MiB of {allowed} MiB");
}

/// The highest memory that a process has had resident, in MiB.
fn peak_mib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn messages_that_become_large_keep_nobody_out_and_are_refused() {
    const BOMBS: usize = 64;
    let (_folder, gateway) = process("").await;
    let (at, http) = (&gateway.addresses, Http::new());
    let before = resident(&gateway);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&vec![0; 64 << 20]).unwrap();
    let bomb = framed(1, &encoder.finish().unwrap());
    let raw = Raw::connect(&at.grpc, 1 << 20).await;
    let mut sent = FuturesUnordered::new();
    for _ in 0..BOMBS {
        let encoding = [("grpc-encoding", "gzip")];
        let head = raw.head_with(CALL_OUT, Some("crm-token"), &encoding).await;
        let mut head = head.unwrap();
        head.body.send_data(bomb.clone(), true).unwrap();
        sent.push(head.status());
    }
    all_are_answered(at, &http).await;
    while let Some(status) = sent.next().await {
        let reason = reason(&status).1;
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            ["MESSAGE_TOO_LARGE", "OVERLOADED"].contains(&&*reason),
            "{reason}"
        );
    }
    assert!(resident(&gateway) < before + 100, "{before}");
}

#[tokio::test]
async fn idle_uploads_of_one_client_keep_nobody_out() {
    // `submissions.max_uploads` by default.
    const MOST: usize = 64;
    const UPLOADS: usize = 256;
    let (_folder, gateway) = process("").await;
    let (at, http) = (&gateway.addresses, Http::new());
    let header = UploadHeader {
        target: Some(Target::Direct(DirectCall {
            robot_id: "11".into(),
            line_num: "69101338".into(),
            ..DirectCall::default()
        })),
        call_column: vec!["客户手机号码".into()],
        ..UploadHeader::default()
    };
    let header = prost::Message::encode_to_vec(&SubmitRowsRequest {
        message: Some(Message::Header(header)),
    });
    let mut open = FuturesUnordered::new();
    for _ in 0..UPLOADS / 128 {
        let raw = Raw::connect(&at.grpc, 1 << 20).await;
        for _ in 0..128 {
            let mut sent = raw.head(SUBMIT_ROWS, Some("crm-token")).await.unwrap();
            sent.body.send_data(framed(0, &header), false).unwrap();
            open.push(sent.status());
        }
    }
    for _ in MOST..UPLOADS {
        let status = within("a refusal", open.next()).await.unwrap();
        let expected = (Code::ResourceExhausted, "OVERLOADED");
        assert_eq!((status.code(), &*reason(&status).1), expected);
    }
    assert_eq!(open.len(), MOST);
    all_are_answered(at, &http).await;
    let raw = Raw::connect(&at.grpc, 1 << 20).await;
    let mut other = raw.head(SUBMIT_ROWS, Some("bi-token")).await.unwrap();
    other.body.send_data(framed(0, &header), true).unwrap();
    assert_eq!(other.status().await.code(), Code::Ok);
}
