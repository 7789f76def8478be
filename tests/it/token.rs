//! The token under load and under failures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use yeta_gateway::{
    platform::{Code, PlatformError},
    proto::{QueryTasksRequest, StartTaskRequest},
};

use crate::{bridge::Bridge, fake::Fake, sandbox::harness::eventually};

const OK: &str = r#"{"code":0,"message":"ok","result":{}}"#;
const REFUSED: &str = r#"{"code":10001,"message":"无效的token请求","result":null}"#;

fn start_task() -> StartTaskRequest {
    StartTaskRequest {
        task_id: "129".into(),
    }
}

/// Starts `count` calls at once.
fn calls(bridge: &Bridge, count: usize) -> JoinSet<Result<(), PlatformError>> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let platform = Arc::clone(&bridge.platform);
        calls.spawn(async move {
            let done = platform.call("default", &start_task(), None).await;
            done.map(|_| ())
        });
    }
    calls
}

async fn call(bridge: &Bridge) -> Result<(), PlatformError> {
    calls(bridge, 1).join_all().await.remove(0)
}

#[tokio::test]
async fn a_thousand_calls_at_an_expired_token_cause_one_token_request() {
    let fake = Fake::start(|_, token, _| match token {
        "token-2" => OK.to_owned(),
        _ => REFUSED.to_owned(),
    })
    .await;
    // The first token lasts a second, and the request for the next one is held
    // until the first has expired and everybody waits.
    fake.token_answer(json!({ "time_expire": 1 }));
    let bridge = Bridge::start(&fake.base_url).await;
    fake.arrived(1).await;
    fake.hold_tokens(true);
    let expiry = Instant::now() + Duration::from_secs(1);
    fake.arrived(2).await;
    fake.token_answer(json!({ "time_expire": 3600 }));
    tokio::time::sleep_until(expiry + Duration::from_millis(50)).await;

    let calls = calls(&bridge, 1000);
    tokio::task::yield_now().await;
    fake.hold_tokens(false);
    let outcomes = calls.join_all().await;
    assert_eq!(outcomes, vec![Ok(()); 1000]);
    assert_eq!((fake.tokens(), fake.operations()), (2, 1000));
}

#[tokio::test]
async fn a_thousand_calls_refused_with_10001_cause_one_more_token_request_and_succeed() {
    let fake = Fake::start(|_, token, _| match token {
        "token-1" => REFUSED.to_owned(),
        _ => OK.to_owned(),
    })
    .await;
    // None is refused before all have been sent with the first token.
    fake.hold_operations_until(1000);
    let bridge = Bridge::start(&fake.base_url).await;
    let outcomes = calls(&bridge, 1000).join_all().await;
    assert_eq!(outcomes, vec![Ok(()); 1000]);
    assert_eq!((fake.tokens(), fake.operations()), (2, 2000));
}

#[tokio::test]
async fn a_token_that_is_always_refused_ends_the_call_after_one_retry() {
    let fake = Fake::start(|_, _, _| REFUSED.to_owned()).await;
    let bridge = Bridge::start(&fake.base_url).await;
    assert!(matches!(
        call(&bridge).await,
        Err(PlatformError::TokenRefused { .. })
    ));
    assert_eq!(fake.operations(), 2);
}

#[tokio::test]
async fn an_operation_that_is_always_refused_leaves_the_others_their_token() {
    let fake = Fake::start(|path, _, _| match path {
        "/openapi/outbound/v1/task/start" => REFUSED.to_owned(),
        _ => OK.to_owned(),
    })
    .await;
    let bridge = Bridge::start(&fake.base_url).await;
    for _ in 0..50 {
        assert!(matches!(
            call(&bridge).await,
            Err(PlatformError::TokenRefused { .. })
        ));
        let request = QueryTasksRequest::default();
        let served = bridge.platform.call("default", &request, None).await;
        served.unwrap();
    }
    assert!(fake.tokens() <= 3, "{} token requests", fake.tokens());
}

#[tokio::test]
async fn the_old_token_serves_while_its_refresh_fails() {
    let fake = Fake::start(|_, token, _| match token {
        "token-1" => OK.to_owned(),
        _ => REFUSED.to_owned(),
    })
    .await;
    // Due for its refresh after 2.4 s, good for 0.6 s more.
    fake.token_answer(json!({ "time_expire": "3" }));
    let bridge = Bridge::start(&fake.base_url).await;
    assert_eq!(call(&bridge).await, Ok(()));
    fake.token_answer(json!("<html>busy</html>"));
    fake.arrived(3).await;
    assert_eq!(fake.tokens(), 2);
    assert_eq!(call(&bridge).await, Ok(()));
}

#[tokio::test]
async fn a_short_lived_token_is_replaced_without_any_call() {
    let fake = Fake::start(|_, _, _| OK.to_owned()).await;
    fake.token_answer(json!({ "time_expire": "1" }));
    let bridge = Bridge::start(&fake.base_url).await;
    fake.arrived(3).await;
    assert_eq!(fake.operations(), 0);
    assert!(
        bridge
            .metrics()
            .contains("platform_token_refreshes_total{account=\"default\",result=\"ok\"}")
    );
}

#[tokio::test]
async fn wrong_credentials_are_told_at_once_and_recovered_from() {
    let fake = Fake::start(|_, _, _| OK.to_owned()).await;
    fake.token_answer(json!(r#"{"code":200101,"message":"账号或密码错误"}"#));
    let bridge = Bridge::start(&fake.base_url).await;
    let error = call(&bridge).await.unwrap_err();
    assert!(
        matches!(
            &error,
            PlatformError::Refused {
                code: Code::BadCredentials,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(fake.operations(), 0, "nothing was sent without a token");
    fake.token_answer(json!({ "time_expire": 3600 }));
    eventually(async || call(&bridge).await.ok()).await;
}

#[tokio::test]
async fn a_token_request_outlives_the_deadline_of_the_call_that_caused_it() {
    let fake = Fake::start(|_, _, _| OK.to_owned()).await;
    fake.hold_tokens(true);
    let bridge = Bridge::start(&fake.base_url).await;
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let request = start_task();
    let late = bridge.platform.call("default", &request, deadline).await;
    assert_eq!(late, Err(PlatformError::DeadlineExceeded));
    fake.hold_tokens(false);
    assert_eq!(call(&bridge).await, Ok(()));
    assert_eq!((fake.tokens(), fake.operations()), (1, 1));
}

#[tokio::test]
async fn accounts_have_tokens_of_their_own() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let fake = Fake::start(move |_, _, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        OK.to_owned()
    })
    .await;
    let settings = crate::bridge::settings(&fake.base_url);
    let bridge = Bridge::with(&settings, &["first", "second"], &[]).await;
    for account in ["first", "second", "first"] {
        let done = bridge.platform.call(account, &start_task(), None).await;
        assert!(done.is_ok());
    }
    let unknown = bridge.platform.call("third", &start_task(), None).await;
    assert_eq!(unknown, Err(PlatformError::UnknownAccount("third".into())));
    assert_eq!((fake.tokens(), served.load(Ordering::SeqCst)), (2, 3));
}
