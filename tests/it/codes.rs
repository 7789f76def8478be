//! Every code of the platform as the status that a client gets.

use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;
use yeta_gateway::{
    platform,
    proto::{QueryConfigRequest, StartTaskRequest},
    sandbox::SandboxConfig,
};

use crate::{
    bridge::{Bridge, reason},
    fake::Fake,
    sandbox::harness::Sandbox,
};

#[tokio::test]
async fn every_code_gives_its_status_reason_and_metadata_and_is_sent_once() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let table = include_str!("codes.txt");
    let mut codes = 0;
    for line in table.lines() {
        let [code, grpc, expected] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        codes += 1;
        // One of its own: some codes have a gateway hold back what comes next.
        let bridge = Bridge::start(&sandbox.base).await;
        let before = sandbox.counts("start").await["received"].as_u64();
        let number: i64 = code.parse().unwrap();
        let fault = json!({
            "operation": "start", "fault": "code", "code": number, "message": "描述",
            "times": if code == "10001" { 2 } else { 1 },
        });
        sandbox.fault(fault).await;
        let request = StartTaskRequest {
            task_id: "1".into(),
        };
        let status = bridge
            .outbound
            .clone()
            .start_task(request)
            .await
            .unwrap_err();
        let found = reason(&status);
        assert_eq!(format!("{:?}", found.0), grpc, "{code}");
        assert_eq!(
            (found.1.as_str(), found.2.as_str()),
            (expected, "xfyeta.com")
        );
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(
            (metadata["code"].as_str(), metadata["message"].as_str()),
            (code, "描述")
        );
        assert_eq!(
            details.retry_info().is_some(),
            status.code() == Code::Unavailable,
            "{code}"
        );
        let after = sandbox.counts("start").await["received"].as_u64();
        let sent = after.unwrap_or(0) - before.unwrap_or(0);
        assert_eq!(sent, if code == "10001" { 2 } else { 1 }, "{code}");
    }
    assert_eq!(codes, platform::Code::KNOWN.len() + 1);
}

#[tokio::test]
async fn wrong_credentials_are_a_failed_precondition() {
    let config = SandboxConfig {
        credentials: Some(("other".into(), "other".into())),
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await;
    let bridge = Bridge::start(&sandbox.base).await;
    let request = QueryConfigRequest::default();
    let status = bridge
        .config
        .clone()
        .query_config(request)
        .await
        .unwrap_err();
    let expected = (
        Code::FailedPrecondition,
        "BAD_CREDENTIALS".into(),
        "xfyeta.com".into(),
    );
    assert_eq!(reason(&status), expected);
}

#[tokio::test]
async fn a_code_that_proves_nothing_about_a_change_says_so_and_the_change_is_sent_once() {
    // HTTP status, code, gRPC status, reason, and whether the refusal is proven.
    for (http, code, grpc, expected, proven) in [
        (200, 504, Code::Unknown, "PLATFORM_ERROR", false),
        (500, 500, Code::Unknown, "PLATFORM_ERROR", false),
        (
            500,
            10005,
            Code::InvalidArgument,
            "INVALID_PARAMETER",
            false,
        ),
        (503, 10004, Code::Unavailable, "PLATFORM_BUSY", false),
        (502, 10001, Code::Unavailable, "TOKEN_REFUSED", false),
        (400, 10005, Code::InvalidArgument, "INVALID_PARAMETER", true),
        (400, 10004, Code::Unavailable, "PLATFORM_BUSY", true),
    ] {
        let answer = json!({ "code": code, "message": "m" }).to_string();
        let fake = Fake::start(move |_, _, _| answer.clone()).await;
        fake.http_status(http);
        let bridge = Bridge::start(&fake.base_url).await;
        let request = StartTaskRequest {
            task_id: "1".into(),
        };
        let status = bridge.outbound.clone().start_task(request).await;
        let status = status.unwrap_err();
        let found = reason(&status);
        let wanted = (grpc, expected.to_owned(), "xfyeta.com".to_owned());
        assert_eq!(found, wanted, "{http} {code}");
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        let said = metadata.get("proven").map(String::as_str);
        assert_eq!(said, (!proven).then_some("false"), "{http} {code}");
        let asks_to_retry = details.retry_info().is_some();
        let may_retry = proven && grpc == Code::Unavailable;
        assert_eq!(asks_to_retry, may_retry, "{http} {code}");
        assert_eq!(fake.operations(), 1, "{http} {code}");
    }
}

#[tokio::test]
async fn a_success_is_one_whatever_the_http_status() {
    let fake = Fake::start(|_, _, _| r#"{"code":0,"result":{}}"#.to_owned()).await;
    fake.http_status(500);
    let bridge = Bridge::start(&fake.base_url).await;
    let request = StartTaskRequest {
        task_id: "1".into(),
    };
    bridge.outbound.clone().start_task(request).await.unwrap();
    assert_eq!(fake.operations(), 1);
}
