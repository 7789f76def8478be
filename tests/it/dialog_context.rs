//! What the platform asks during a call, answered by a provider of the test's own or in its place.

mod inbound;
pub mod provider;
mod semantics;
pub mod tls;
mod trouble;

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use prost_types::value::Kind;
use serde_json::{Value, json};
use tonic::Code;
use yeta_gateway::config::Config;
use yeta_gateway::proto::GetDialogContextRequest;
use yeta_gateway::proto::dialog_context_service_client::DialogContextServiceClient;
use yeta_gateway::provider::{Endpoint, Override, Whom};

use self::provider::{Mode, Provider};
use super::support::{PATIENCE, TestApp, eventually};

/// The documented question.
pub const QUESTION: &str =
    r#"{"call_relation_id":"1111","business_id":"167","app_id":"3333","robot_id":"4444"}"#;

/// So little that waiting for it in vain costs nothing.
pub const SHORT: Duration = Duration::from_millis(50);

pub fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url).unwrap()
}

pub fn fallback() -> BTreeMap<String, String> {
    BTreeMap::from([("姓名".to_owned(), "客户".to_owned())])
}

/// Asks this provider, for as long as it takes, and never twice.
pub fn patiently(url: &str) -> impl FnOnce(&mut Config) + use<> {
    let endpoint = endpoint(url);
    move |config| {
        let options = &mut config.dialog_context;
        options.endpoint = Some(endpoint);
        options.timeout = PATIENCE;
        options.second_try_after = Duration::ZERO;
        options.fallback = fallback();
    }
}

/// Asks this provider, and gives up soon.
pub fn shortly(url: &str) -> impl FnOnce(&mut Config) + use<> {
    let patiently = patiently(url);
    move |config| {
        patiently(config);
        config.dialog_context.timeout = SHORT;
    }
}

/// The answer to a question, which must be a JSON object of strings.
pub async fn ask(app: &TestApp, body: impl Into<bytes::Bytes>) -> BTreeMap<String, String> {
    let answer = app.http.push(&app.push, "getDialogContext", body).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    serde_json::from_slice(&answer.body).unwrap()
}

/// A count of the metrics page; zero if it is not there.
pub async fn count(app: &TestApp, line: &str) -> u64 {
    let page = app.http.get(&app.admin, "/metrics").await.unwrap().text();
    let found = page.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0, |value| value.trim().parse().unwrap())
}

/// How many answers there were of a source and for a reason.
pub async fn answers(app: &TestApp, source: &str, reason: &str) -> u64 {
    let line = format!(
        "yeta_gateway_dialog_context_answers_total{{account=\"default\",\
         question=\"getDialogContext\",source=\"{source}\",reason=\"{reason}\"}}"
    );
    count(app, &line).await
}

/// Resolves when the gateway has both of its connections to the provider.
pub async fn connected(app: &TestApp, provider: &str) {
    let line = format!("yeta_gateway_dialog_context_connections{{endpoint=\"{provider}\"}}");
    let both = async || (count(app, &line).await == 2).then_some(());
    eventually("both connections", both).await;
}

#[tokio::test]
async fn a_provider_is_told_the_question_and_its_answer_is_the_answer() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    let body =
        r#"{"call_relation_id":1111,"robot_id":"4444","vip":[1,"x"],"id":346252615123869699}"#;
    assert_eq!(ask(&app, body).await, provider.context());
    let told = provider.last_question();
    assert_eq!(told.account, "default");
    assert_eq!(told.call_relation_id, "1111");
    assert_eq!((&*told.robot_id, &*told.app_id), ("4444", ""));
    let extra = told.extra_fields.unwrap().fields;
    assert_eq!(
        extra["id"].kind,
        Some(Kind::StringValue("346252615123869699".into()))
    );
    assert!(matches!(extra["vip"].kind, Some(Kind::ListValue(_))));
    assert_eq!(answers(&app, "provider", "").await, 1);
}

#[tokio::test]
async fn a_scoped_module_is_the_same_question() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    for module in ["getDialogContext%7CAppX", "getDialogContext%7C%7C4567"] {
        let answer = app.http.push(&app.push, module, QUESTION).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer, json!(provider.context()));
    }
}

#[tokio::test]
async fn a_body_that_is_no_question_is_asked_about_as_one_that_says_nothing() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    let bodies: [&[u8]; 7] = [
        b"",
        b"{}",
        b"null",
        b"no json",
        b"[1]",
        b"\xff\xfe",
        b"{\"robot_id\":{}}",
    ];
    for body in bodies {
        assert_eq!(ask(&app, body).await, provider.context());
        let told = provider.last_question();
        assert_eq!((&*told.account, &*told.robot_id), ("default", ""));
    }
    let app = TestApp::with(|_| {}).await;
    assert!(ask(&app, "no json").await.is_empty());
    assert_eq!(answers(&app, "empty", "no_endpoint").await, 1);
}

#[tokio::test]
async fn strangers_are_not_asked_about() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(patiently(&provider.url)).await;
    let uri = format!("{}/v1/push/default/wrong/getDialogContext", app.push);
    let request = http::Request::post(uri).body(QUESTION.into()).unwrap();
    let answer = app.http.send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(provider.asked(), 0);
}

#[tokio::test]
async fn a_robot_and_an_account_may_have_settings_of_their_own() {
    let (all, own) = tokio::join!(Provider::start(Mode::Answer), Provider::start(Mode::Answer));
    let other = BTreeMap::from([("姓名".to_owned(), "您".to_owned())]);
    let override_of = |robot: &str| Override {
        robot_id: Some(robot.to_owned()),
        ..Override::default()
    };
    let app = TestApp::with(|config| {
        patiently(&all.url)(config);
        config.dialog_context.overrides = vec![
            Override {
                account: Some("default".to_owned()),
                endpoint: Some(Whom::Service(endpoint(&own.url))),
                ..override_of("4444")
            },
            Override {
                endpoint: Some(Whom::Nobody),
                fallback: Some(other.clone()),
                ..override_of("5555")
            },
        ];
    })
    .await;
    assert_eq!(ask(&app, r#"{"robot_id":"4444"}"#).await, own.context());
    assert_eq!(ask(&app, r#"{"robot_id":5555}"#).await, other);
    assert_eq!(ask(&app, r#"{"robot_id":"1"}"#).await, all.context());
    assert_eq!((own.asked(), all.asked()), (1, 1));
}

#[tokio::test]
async fn an_earlier_answer_stands_in_where_that_is_allowed() {
    let provider = Provider::start(Mode::Answer).await;
    let app = TestApp::with(|config| {
        patiently(&provider.url)(config);
        config.dialog_context.cache_for = PATIENCE * 60;
    })
    .await;
    assert_eq!(ask(&app, QUESTION).await, provider.context());
    provider.set(Mode::Fail(Code::Internal));
    assert_eq!(ask(&app, QUESTION).await, provider.context());
    assert_eq!(ask(&app, r#"{"call_relation_id":"2"}"#).await, fallback());
    // Another robot's script has other names.
    let other = QUESTION.replace("4444", "5555");
    assert_eq!(ask(&app, other).await, fallback());
    assert_eq!(answers(&app, "cache", "error").await, 1);

    provider.set(Mode::Answer);
    let app = TestApp::with(patiently(&provider.url)).await;
    assert_eq!(ask(&app, QUESTION).await, provider.context());
    provider.set(Mode::Fail(Code::Internal));
    assert_eq!(ask(&app, QUESTION).await, fallback());
}

#[tokio::test]
async fn the_gateway_does_not_serve_what_it_asks() {
    let app = TestApp::start().await;
    let mut client = DialogContextServiceClient::new(
        tonic::transport::Endpoint::from_shared(app.grpc.clone())
            .unwrap()
            .connect_lazy(),
    );
    let refused = client
        .get_dialog_context(GetDialogContextRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
