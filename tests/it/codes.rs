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
