use serde_json::{Value, json};
use tonic::Code;
use yeta_gateway::proto::analyze_semantics_request::Context;

use super::provider::{Mode, Provider};
use super::{patiently, shortly};
use crate::support::TestApp;

async fn ask(app: &TestApp, body: &str) -> Value {
    let answer = app
        .http
        .push(&app.push, "analyzeSemantics", body.to_owned());
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_provider_is_told_the_dialog_so_far_and_answers_with_typed_values() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    let body = json!({
        "call_uuid": "u-1", "robot_id": 4444, "code": "order", "reply": "好的",
        "context": { "姓名": "张三" }, "later": 1,
        "dialog": [
            { "seq": 0, "role": "robot", "text_robot": "您好", "node_id": 7 },
            { "seq": 1, "role": "customer", "text_man": "好的", "has_reply": true,
              "hit": { "pick": true, "name": "肯定", "id": 9 } },
        ],
    });
    let expected = json!([
        { "key": "意向", "type": "string", "value": "A" },
        { "key": "id", "type": "integer", "value": 346_252_615_123_869_699_i64 },
    ]);
    assert_eq!(ask(&app, &body.to_string()).await, expected);
    let told = provider.last_semantics();
    assert_eq!((&*told.code, &*told.reply), ("order", "好的"));
    assert_eq!((&*told.call_uuid, &*told.robot_id), ("u-1", "4444"));
    assert!(matches!(told.context, Some(Context::ContextMap(map)) if map.fields.len() == 1));
    assert_eq!(told.dialog.len(), 2);
    assert_eq!(told.dialog[1].hits[0].id, "9");
    assert!(told.extra_fields.unwrap().fields.contains_key("later"));
}

#[tokio::test]
async fn without_an_answer_there_are_no_values() {
    let provider = Provider::start(Mode::Fail(Code::NotFound)).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    for body in ["{}", "", "no json", "[]"] {
        assert_eq!(ask(&app, body).await, json!([]));
    }
    let hanging = Provider::start(Mode::Hang).await;
    let app = TestApp::with(shortly(&hanging.url)).await;
    assert_eq!(ask(&app, "{}").await, json!([]));
}
