//! The audit log.

use serde_json::Value;
use yeta_gateway::proto::call_service_client::CallServiceClient;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscription_service_client::SubscriptionServiceClient;
use yeta_gateway::proto::{
    AckPushesRequest, CallOutRequest, CreateSubscriptionRequest, GetCallRequest,
    GetSubmissionRequest, Row, Subscription,
};

use super::{Issuer, by, channel, hex};
use crate::support::Process;

const NUMBER: &str = "13812345678";

/// What each request of the test leaves, in their order.
const LINES: [[(&str, &str); 8]; 5] = [
    [
        ("client", "crm"),
        ("auth", "jwt"),
        ("rpc", "/yeta.v1.OutboundService/CallOut"),
        ("account", "default"),
        ("request_id", "order-138****5678"),
        ("rows", "2"),
        ("outcome", "UNAVAILABLE"),
        ("reason", "PLATFORM_UNREACHABLE"),
    ],
    [
        ("client", "crm"),
        ("auth", "token"),
        ("rpc", "/yeta.v1.OutboundService/GetSubmission"),
        ("account", "default"),
        ("request_id", "order-7"),
        ("rows", "null"),
        ("outcome", "NOT_FOUND"),
        ("reason", "SUBMISSION_NOT_FOUND"),
    ],
    [
        ("client", "crm"),
        ("auth", "token"),
        ("rpc", "/yeta.v1.CallService/GetCall"),
        ("account", "null"),
        ("object", "call-7"),
        ("rows", "null"),
        ("outcome", "NOT_FOUND"),
        ("reason", "CALL_NOT_FOUND"),
    ],
    [
        ("message", "authentication failed"),
        ("rpc", "/yeta.v1.CallService/GetCall"),
        ("reason", "UNAUTHENTICATED"),
        ("left_out", "0"),
        ("client", "null"),
        ("auth", "null"),
        ("level", "WARN"),
        ("account", "null"),
    ],
    [
        ("client", "crm"),
        ("auth", "token"),
        ("rpc", "/yeta.v1.SubscriptionService/CreateSubscription"),
        ("object", "billing"),
        ("account", "null"),
        ("rows", "null"),
        ("outcome", "OK"),
        ("reason", "null"),
    ],
];

#[tokio::test]
async fn each_change_and_each_read_by_id_leaves_a_line_without_numbers_and_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, issuer.jwks()).unwrap();
    Process::configure(folder.path(), "");
    let file = folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let token = "token-of-the-crm-5e0a";
    let jwt = issuer.token("dialer", "yeta-gateway", 600);
    let more = format!(
        "[[clients]]\nname = 'crm'\ntoken_sha256 = '{}'\n\
         kubernetes = {{ namespace = 'crm', service_account = 'dialer' }}\n\
         allow = ['outbound', 'subscribe', 'calls']\naccounts = ['*']\n\
         [auth.kubernetes]\nissuer = 'https://cluster'\njwks_file = '{}'\n",
        hex(token),
        keys.display()
    );
    std::fs::write(&file, text + &more).unwrap();
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let channel = channel(&gateway.addresses.grpc);

    let mut outbound = OutboundServiceClient::new(channel.clone());
    let row = || Row {
        values: vec![NUMBER.into()],
    };
    let call_out = CallOutRequest {
        robot_id: "1".into(),
        line_num: "1".into(),
        call_column: vec!["number".into()],
        call_list: vec![row(), row()],
        request_id: format!("order-{NUMBER}"),
        ..CallOutRequest::default()
    };
    outbound.call_out(by(&jwt, call_out)).await.unwrap_err();
    let get = GetSubmissionRequest {
        request_id: "order-7".into(),
        ..GetSubmissionRequest::default()
    };
    outbound.get_submission(by(token, get)).await.unwrap_err();
    let mut calls = CallServiceClient::new(channel.clone());
    let get = GetCallRequest {
        call_uuid: "call-7".into(),
    };
    calls.get_call(by(token, get.clone())).await.unwrap_err();
    calls.get_call(by("wrong-token-77", get)).await.unwrap_err();
    let mut subscriptions = SubscriptionServiceClient::new(channel.clone());
    let create = CreateSubscriptionRequest {
        subscription: Some(Subscription {
            name: "billing".into(),
            ..Subscription::default()
        }),
        start: None,
    };
    subscriptions
        .create_subscription(by(token, create))
        .await
        .unwrap();
    let ack = AckPushesRequest {
        subscription: "billing".into(),
        ack_ids: Vec::new(),
    };
    PushServiceClient::new(channel)
        .ack_pushes(by(token, ack))
        .await
        .unwrap();

    gateway.terminate();
    let (status, output) = gateway.ended().await;
    assert!(status.success(), "{status}");
    for secret in [
        NUMBER,
        token,
        "wrong-token-77",
        jwt.as_str(),
        jwt.rsplit('.').next().unwrap(),
    ] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
    let lines: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["target"] == "audit")
        .collect();
    assert_eq!(lines.len(), LINES.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(LINES) {
        for (field, value) in expected {
            let found = &line[field];
            let found = found
                .as_str()
                .map_or_else(|| found.to_string(), ToOwned::to_owned);
            assert_eq!(found, value, "{field} of {line:#}");
        }
        let peer = line["peer"].as_str().unwrap_or_default();
        assert!(peer.starts_with("127.0.0.1:"), "{line:#}");
    }
    assert!(lines[0]["duration_ms"].is_u64());
}
