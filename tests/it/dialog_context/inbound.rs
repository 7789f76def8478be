use serde_json::{Value, json};
use yeta_gateway::sandbox::SandboxConfig;

use super::patiently;
use super::provider::{Mode, Provider};
use crate::sandbox::harness::Sandbox;
use crate::support::{PUSH_SECRET, TestApp, earliest, eventually, next_event, pushed};

/// A sandbox that pushes to the gateway.
async fn sandbox(app: &TestApp) -> Sandbox {
    Sandbox::start(SandboxConfig {
        push_to: vec![format!("{}/v1/push/default/{PUSH_SECRET}", app.push)],
        speed: 1000.0,
        ..SandboxConfig::default()
    })
    .await
}

#[tokio::test]
async fn an_inbound_call_of_the_sandbox_asks_and_comes_back_as_pushes() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    super::ask(&app, "{}").await;
    let sandbox = sandbox(&app).await;
    // On a busy machine an answer may take longer than the platform waits: then another rings.
    let call = eventually("a call with both answers", async || {
        let order = json!({ "call_relation_id": "r-1", "robot_id": "719", "semantics": true });
        sandbox.admin("inbound", order).await;
        let ended = async || {
            let calls = sandbox.get("/sandbox/inbound").await["calls"].clone();
            let last = calls.as_array().unwrap().last().unwrap().clone();
            Some(last).filter(|call| call["call_uuid"].is_string())
        };
        let call = eventually("the end of the call", ended).await;
        let answered = |question: &str| !call[question]["answer"].is_null();
        (answered("context") && answered("semantics")).then_some(call)
    })
    .await;
    assert_eq!(call["context"]["answer"], json!(provider.context()));
    assert_eq!(call["semantics"]["answer"][0]["key"], "意向", "{call}");
    let told = provider.last_question();
    assert_eq!((&*told.call_relation_id, &*told.robot_id), ("r-1", "719"));
    let told = provider.last_semantics();
    assert_eq!((told.dialog.len(), &*told.robot_id), (2, "719"));

    let mut request = earliest();
    request.filter = Some(pushed());
    let mut stream = app
        .pushes()
        .subscribe_pushes(request)
        .await
        .unwrap()
        .into_inner();
    let mut of_the_call = 0;
    while of_the_call < 3 {
        let event = next_event(&mut stream).await;
        let raw: Value = serde_json::from_slice(&event.raw_json).unwrap();
        assert_eq!(raw["call_relation_id"], "r-1");
        of_the_call += usize::from(raw["call_uuid"] == call["call_uuid"]);
    }
}

#[tokio::test]
async fn the_sandbox_says_what_is_wrong_with_an_answer() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let note = sandbox
        .admin("inbound", json!({ "call_relation_id": "r-1" }))
        .await;
    assert!(note["context"]["error"].is_string(), "{note}");
}
