//! A gateway without clients.

use tonic::Code;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::settle_submission_request::{Outcome, Which};
use yeta_gateway::proto::{ListPushesRequest, SettleSubmissionRequest, SettledNotSent};

use crate::support::TestApp;

async fn settle(app: &TestApp) -> Code {
    let mut client = OutboundServiceClient::connect(app.grpc.clone())
        .await
        .unwrap();
    let request = SettleSubmissionRequest {
        which: Some(Which::RequestId("order-1".into())),
        outcome: Some(Outcome::NotSent(SettledNotSent {})),
        reason: "tried".into(),
        ..SettleSubmissionRequest::default()
    };
    client.settle_submission(request).await.unwrap_err().code()
}

async fn openness(app: &TestApp) -> String {
    let metrics = app.http.get(&app.admin, "/metrics").await.unwrap().text();
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("yeta_gateway_open_to_everybody "));
    line.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn without_clients_nobody_beyond_this_machine_is_an_administrator() {
    let app = TestApp::with(|config| {
        config.grpc.listen = "0.0.0.0:0".parse().unwrap();
        config.grpc.insecure = true;
    })
    .await;
    assert_eq!(settle(&app).await, Code::PermissionDenied);
    let listed = app.pushes().list_pushes(ListPushesRequest::default()).await;
    assert!(listed.is_ok(), "{listed:?}");
    assert_eq!(openness(&app).await, "yeta_gateway_open_to_everybody 1");
}

#[tokio::test]
async fn without_clients_everybody_on_this_machine_is_an_administrator() {
    let app = TestApp::start().await;
    assert_eq!(settle(&app).await, Code::NotFound);
    assert_eq!(openness(&app).await, "yeta_gateway_open_to_everybody 1");
}

#[tokio::test]
async fn with_clients_the_gateway_is_open_to_nobody_else() {
    let text = format!(
        "[[accounts]]\napp_key = 'k'\napp_secret = 's'\npush_secret = 'push-secret-9f31'\n\
         [[clients]]\nname = 'crm'\ntoken_sha256 = '{}'\n",
        "0".repeat(63) + "1"
    );
    let clients = yeta_gateway::config::Config::parse(&text, std::iter::empty());
    let clients = clients.unwrap().clients;
    let app = TestApp::with(|config| config.clients = clients).await;
    assert_eq!(settle(&app).await, Code::Unauthenticated);
    assert_eq!(openness(&app).await, "yeta_gateway_open_to_everybody 0");
}
