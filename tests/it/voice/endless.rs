//! A voice server that announces no size and never ends an answer.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use yeta_gateway::config::Config;

use super::{Got, call, call_when, download, metadata};
use crate::bridge::reason;
use crate::support::TestApp;

/// The smallest setting of `voice.max_bytes`.
const MAX_BYTES: u64 = 64 << 10;

/// Answers each request with bytes until the client closes the connection.
async fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let head = stream.read(&mut [0; 4096]).await?;
    assert!(head > 0);
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: audio/x-wav\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(answer.as_bytes()).await?;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    loop {
        stream.write_all(chunk.as_bytes()).await?;
    }
}

async fn gateway(change: impl FnOnce(&mut Config)) -> TestApp {
    let server = endless().await;
    TestApp::with(|config| {
        config.platform.voice_base_url = format!("http://{server}/").parse().unwrap();
        config.voice.max_bytes = MAX_BYTES;
        change(config);
    })
    .await
}

/// How many bytes the gateway has taken in for this purpose.
async fn fetched(app: &TestApp, purpose: &str) -> u64 {
    let metrics = app.http.get(&app.admin, "/metrics").await.unwrap().text();
    let name = format!("voice_bytes_total{{purpose=\"{purpose}\"}}");
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.contains(&name));
    line.and_then(|line| line.rsplit(' ').next())
        .map_or(0, |value| value.parse().unwrap())
}

async fn push(app: &TestApp, call_uuid: &str, size: Option<u64>) {
    let push = json!({ "call_uuid": call_uuid, "app_id": "app", "url": "a.wav", "size": size });
    app.push("receiveVoice", push.to_string()).await;
}

#[tokio::test]
async fn the_archive_takes_no_more_of_a_recording_than_was_announced_or_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let app = gateway(|config| {
        config.voice.archive = format!("file://{}", folder.path().display());
        config.voice.retry_after = Duration::from_millis(20);
        config.voice.retry_for = Duration::from_millis(200);
    })
    .await;
    push(&app, "announced", Some(39)).await;
    push(&app, "unannounced", None).await;
    for (call_uuid, expected) in [
        ("announced", "SIZE_MISMATCH: "),
        ("unannounced", "VOICE_TOO_LARGE: "),
    ] {
        let call = call_when(&app.grpc, call_uuid, |call| {
            let voice = call.voice.as_ref();
            voice.is_some_and(|voice| !voice.archive_error.is_empty())
        })
        .await;
        let voice = call.voice.unwrap();
        assert!(voice.archive_error.starts_with(expected), "{voice:?}");
        assert_eq!(voice.archived_url, "");
    }
    assert!(fetched(&app, "archive").await <= MAX_BYTES);
    let mut left = walk(folder.path());
    left.retain(|(_, bytes)| *bytes > 0);
    assert_eq!(left, []);
}

/// The files below a folder and their sizes.
fn walk(folder: &std::path::Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push((
                entry.path().display().to_string(),
                entry.metadata().unwrap().len(),
            ));
        }
    }
    found
}

#[tokio::test]
async fn a_download_ends_at_what_was_announced_or_is_allowed() {
    let app = gateway(|_| {}).await;
    push(&app, "announced", Some(3000)).await;
    push(&app, "unannounced", None).await;
    for (call_uuid, most, expected, bound) in [
        (
            "announced",
            3000,
            (Code::DataLoss, "SIZE_MISMATCH"),
            "pushed_size",
        ),
        (
            "unannounced",
            MAX_BYTES,
            (Code::FailedPrecondition, "VOICE_TOO_LARGE"),
            "max_bytes",
        ),
    ] {
        call_when(&app.grpc, call_uuid, |call| call.voice.is_some()).await;
        let got = download(&app.grpc, call(call_uuid), 0).await.unwrap();
        let Got { bytes, end, .. } = got;
        let status = end.unwrap_err();
        let (code, reason, _) = reason(&status);
        assert_eq!((code, &*reason), expected);
        assert_eq!(metadata(&status, bound), most.to_string());
        assert!(bytes.len() as u64 <= most, "{}", bytes.len());
    }
}
