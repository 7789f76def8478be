//! Files of the pushes that were given up.

use std::io::{Cursor, Read};

use http::StatusCode;
use serde_json::{Value, json};
use zip::ZipArchive;

use super::harness::{Receiver, Reply, Sandbox, callout, fast};

/// The day in Beijing, so many days ago.
fn days_ago(days: i64) -> String {
    let hours = 8 - 24 * days;
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    at.to_string()[..10].to_owned()
}

async fn list(sandbox: &Sandbox, token: &str, body: Value) -> Value {
    let path = format!("/openapi/download/v1/push/failed?token={token}");
    let answer = sandbox.post_raw(&path, &body.to_string()).await;
    answer.unwrap().json()
}

async fn fetch(sandbox: &Sandbox, path: &str, range: &str) -> Result<Reply, String> {
    let request = http::Request::get(format!("{}/push_download/{path}", sandbox.base))
        .header("range", range)
        .body(http_body_util::Full::default());
    sandbox.exchange(request.unwrap()).await
}

/// A sandbox that has given up the pushes of these calls.
async fn with_failures(numbers: &[&str], failed: u64) -> (Sandbox, Receiver) {
    let receiver = Receiver::start(usize::MAX).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let session = sandbox.session().await;
    session.result("callout", callout(numbers)).await;
    sandbox
        .wait_for("/sandbox/pushes", |pushes| pushes["failed"] == failed)
        .await;
    (sandbox, receiver)
}

#[tokio::test]
async fn pushes_given_up_lie_in_a_zip_from_the_next_day_on_and_for_seven_days() {
    let (sandbox, receiver) = with_failures(&["13000000006", "13000000001"], 6).await;
    let token = sandbox.token().await;
    let yesterday = json!({ "date": days_ago(1) });
    assert_eq!(
        list(&sandbox, &token, yesterday.clone()).await["result"],
        json!({ "url": [] })
    );
    sandbox.admin("calendar", json!({ "days": 1 })).await;
    let answer = list(&sandbox, &token, yesterday).await;
    let urls = answer["result"]["url"].as_array().unwrap().clone();
    assert_eq!(urls.len(), 1, "{answer}");
    assert_eq!(list(&sandbox, &token, json!({})).await, answer);

    let path = urls[0].as_str().unwrap();
    let zip = fetch(&sandbox, path, "none").await.unwrap();
    assert_eq!(zip.status, StatusCode::OK);
    let mut archive = ZipArchive::new(Cursor::new(zip.body.clone())).unwrap();
    let mut pushes = Vec::new();
    for index in 0..archive.len() {
        let mut text = String::new();
        let mut file = archive.by_index(index).unwrap();
        assert!(file.name().unwrap().contains('/'));
        file.read_to_string(&mut text).unwrap();
        pushes.extend(text.lines().map(str::to_owned));
    }
    assert_eq!(pushes.len(), 6);
    for push in &pushes {
        let line: Value = serde_json::from_str(push).unwrap();
        assert_eq!(line["retryTimes"], 4);
        let mut sent = receiver.so_far().into_iter();
        let same = |body: &[u8]| push.contains(std::str::from_utf8(body).unwrap());
        assert!(sent.any(|it| same(&it.body) && line["module"] == it.module.as_str()));
    }

    let part = fetch(&sandbox, path, "bytes=10-19").await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, zip.body[10..20]);

    sandbox.admin("calendar", json!({ "days": 6 })).await;
    let oldest = list(&sandbox, &token, json!({ "date": days_ago(7) })).await;
    assert_eq!(oldest["result"]["url"].as_array().unwrap().len(), 1);
    sandbox.admin("calendar", json!({ "days": 1 })).await;
    let path = oldest["result"]["url"][0].as_str().unwrap();
    let gone = fetch(&sandbox, path, "none").await.unwrap();
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn lists_need_a_token_and_one_of_the_seven_days() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let refused = list(&sandbox, "wrong", json!({})).await;
    assert_eq!(refused["code"], 10001);
    let token = sandbox.token().await;
    for date in [
        json!(days_ago(0)),
        json!(days_ago(8)),
        json!("soon"),
        json!(7),
    ] {
        let refused = list(&sandbox, &token, json!({ "date": date })).await;
        assert_eq!(refused["code"], 10005, "{date}");
    }
}

#[tokio::test]
async fn downloads_take_faults() {
    let (sandbox, _receiver) = with_failures(&["13000000006"], 2).await;
    sandbox.admin("calendar", json!({ "days": 1 })).await;
    let token = sandbox.token().await;
    let answer = list(&sandbox, &token, json!({})).await;
    let path = answer["result"]["url"][0].as_str().unwrap();
    for fault in ["cut_before_reading", "cut_mid_answer"] {
        sandbox
            .fault(json!({ "operation": "download", "fault": fault }))
            .await;
        assert!(fetch(&sandbox, path, "none").await.is_err(), "{fault}");
    }
    sandbox
        .fault(json!({ "operation": "download", "fault": "http_500" }))
        .await;
    let failed = fetch(&sandbox, path, "none").await.unwrap();
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let whole = fetch(&sandbox, path, "none").await.unwrap();
    assert_eq!(whole.status, StatusCode::OK);
}
