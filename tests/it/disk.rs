//! A disk that refuses writes: pushes are refused, nothing is lost, and service resumes by itself.

use std::path::Path;
use std::process::Command as Plain;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use tokio::process::Command;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{Position, SubscribePushesRequest, SubscribePushesResponse};

use crate::process::{Gateway, Pusher, config, write};

/// Every file of the store stops growing here.
const LIMIT: usize = 24 << 20;

/// A gateway that is told of a file too large instead of being killed for it.
async fn start(folder: &Path) -> Gateway {
    let path = write(folder, &config(folder, "http://127.0.0.1:1"));
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(r#"trap "" XFSZ; exec "$0" serve --config "$1""#);
    command.arg(env!("CARGO_BIN_EXE_yeta-gateway")).arg(path);
    Gateway::spawn(command)
        .await
        .unwrap_or_else(|log| panic!("not started:\n{log}"))
}

/// Sets the largest size that the gateway's files may have.
fn limit_files(gateway: &Gateway, limit: &str) {
    let pid = gateway.pid().to_string();
    let limit = format!("--fsize={limit}:");
    let set = Plain::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status()
        .unwrap();
    assert!(set.success());
}

fn body(n: usize) -> String {
    // Random, so that the store cannot make it smaller.
    let ballast: Vec<u8> = (0..40_000).map(|_| rand::random()).collect();
    format!(
        r#"{{"call_uuid":"call-{n}","ballast":"{}"}}"#,
        STANDARD.encode(ballast)
    )
}

/// Pushes until one is answered with `until`; returns how many were before it.
async fn push_until(pusher: &Pusher, until: StatusCode, acknowledged: &mut Vec<String>) {
    for n in acknowledged.len().. {
        let body = body(n);
        let (status, success) = pusher.post("receiveCallRecord", body).await.unwrap();
        assert_eq!(success, status == StatusCode::OK);
        if success {
            acknowledged.push(format!("call-{n}"));
        } else {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
        if status == until {
            return;
        }
    }
}

/// The calls that the log holds, in order.
async fn held(gateway: &Gateway) -> Vec<String> {
    let request = SubscribePushesRequest {
        start: Some(Start::Position(Position::Earliest.into())),
        ..Default::default()
    };
    let mut stream = gateway
        .pushes()
        .subscribe_pushes(request)
        .await
        .unwrap()
        .into_inner();
    let mut calls = Vec::new();
    loop {
        match stream.message().await.unwrap().unwrap() {
            SubscribePushesResponse::Event(event) => match event.payload.unwrap() {
                yeta_gateway::proto::push_event::Payload::CallRecord(record) => {
                    calls.push(record.call_uuid);
                }
                other => panic!("{other:?}"),
            },
            SubscribePushesResponse::Progress(progress) if progress.caught_up => return calls,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_pushes_loses_none_and_heals_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path()).await;
    let pusher = Pusher::new(gateway.push);
    let mut acknowledged = Vec::new();

    limit_files(&gateway, &LIMIT.to_string());
    push_until(&pusher, StatusCode::SERVICE_UNAVAILABLE, &mut acknowledged).await;
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    // What was stored can be read meanwhile.
    assert_eq!(held(&gateway).await, acknowledged);
    for _ in 0..20 {
        let refused = pusher
            .post("receiveCallRecord", body(acknowledged.len()))
            .await
            .unwrap();
        assert_eq!(refused, (StatusCode::SERVICE_UNAVAILABLE, false));
    }

    limit_files(&gateway, "unlimited");
    let before = acknowledged.len();
    push_until(&pusher, StatusCode::OK, &mut acknowledged).await;
    assert_eq!(acknowledged.len(), before + 1);
    assert_eq!(held(&gateway).await, acknowledged);

    gateway.kill().await;
    let gateway = start(folder.path()).await;
    assert_eq!(held(&gateway).await, acknowledged);
}
