//! Answers that do not show what the platform did, and inserts that keep a part of their rows.

use http::StatusCode;
use serde_json::json;
use yeta_gateway::sandbox::SandboxConfig;

use super::harness::{Sandbox, callout};

async fn sandbox() -> Sandbox {
    Sandbox::start(SandboxConfig::default()).await
}

#[tokio::test]
async fn a_code_comes_with_the_http_status_of_its_fault_and_hides_what_was_applied() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!([
            { "operation": "callout", "fault": "code", "code": 504, "status": 504, "applied": true },
            { "operation": "callout", "fault": "busy", "status": 503 },
            { "operation": "callout", "fault": "html", "status": 502, "times": 1_000_000 },
        ]))
        .await;
    let answer = async || {
        let answer = session.raw("callout", &callout(&["13000000001"])).await;
        answer.unwrap()
    };
    let coded = answer().await;
    assert_eq!(
        (coded.status, &coded.json()["code"]),
        (StatusCode::GATEWAY_TIMEOUT, &json!(504))
    );
    let busy = answer().await;
    assert_eq!(
        (busy.status, &busy.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!(10004))
    );
    for _ in 0..3 {
        let page = answer().await;
        assert_eq!(page.status, StatusCode::BAD_GATEWAY);
        assert_eq!(page.content_type, "text/html");
    }
    let counts = sandbox.counts("callout").await;
    assert_eq!(
        (&counts["received"], &counts["applied"]),
        (&json!(5), &json!(1))
    );
    let request = http::Request::delete(format!("{}/sandbox/faults", sandbox.base));
    let dropped = sandbox
        .exchange(request.body(<_>::default()).unwrap())
        .await;
    assert_eq!(dropped.unwrap().status, StatusCode::OK);
    assert_eq!(answer().await.json()["code"], 0);
}

#[tokio::test]
async fn a_status_that_is_none_or_belongs_to_another_fault_is_refused() {
    let sandbox = sandbox().await;
    for order in [
        json!({ "fault": "busy", "status": 99 }),
        json!({ "fault": "busy", "status": 100 }),
        json!({ "fault": "latency", "status": 502 }),
        json!({ "operation": "push", "fault": "lose", "status": 502 }),
    ] {
        let reply = sandbox
            .post_raw("/sandbox/faults", &order.to_string())
            .await;
        assert_eq!(reply.unwrap().status, StatusCode::BAD_REQUEST, "{order}");
    }
}

#[tokio::test]
async fn the_token_operation_can_be_busy() {
    let sandbox = sandbox().await;
    sandbox
        .fault(json!({ "operation": "token", "fault": "busy", "times": 2 }))
        .await;
    for code in [10004, 10004, 0] {
        assert_eq!(sandbox.token_answer("key", "secret").await["code"], code);
    }
    assert_eq!(sandbox.get("/sandbox/tokens").await["issued"], 1);
}

#[tokio::test]
async fn an_answer_without_ids_has_applied_the_operation() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!([
            { "operation": "create", "fault": "no_ids" },
            { "operation": "callout", "fault": "no_ids", "ids": 1 },
            { "operation": "callout", "fault": "no_ids" },
        ]))
        .await;
    let task = json!({
        "task_name": "nameless", "line_num": "055169101407", "robot_id": "11", "time_begin": 1,
    });
    assert_eq!(session.result("create", task).await, json!({}));
    let tasks = session.result("query", json!({})).await;
    assert_eq!(tasks["rows"][0]["task_name"], "nameless");

    let rows = callout(&["13000000001", "13000000002"]);
    let fewer = session.result("callout", rows.clone()).await;
    let none = session.result("callout", rows).await;
    let report = sandbox.get("/sandbox/requests").await;
    let first = &report["rows"]["ids_by_content"][r#"["13000000001","张先生"]"#][0];
    assert_eq!(fewer["task_data_ids"].as_array().unwrap().len(), 1);
    assert_eq!(
        fewer["task_data_ids"][0].to_string(),
        first.as_str().unwrap()
    );
    assert_eq!(none["task_data_ids"], json!([]));
    assert_eq!(report["rows"]["accepted"], 4);
}

#[tokio::test]
async fn a_held_answer_comes_when_the_faults_are_dropped() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    for path in ["faults", "reset"] {
        sandbox
            .fault(json!({ "operation": "callout", "fault": "hold" }))
            .await;
        let rows = callout(&["13000000001"]);
        let drop_faults = async {
            sandbox
                .wait_for("/sandbox/requests", |r| r["rows"]["accepted"] == 1)
                .await;
            let method = if path == "reset" { "POST" } else { "DELETE" };
            let request = http::Request::builder()
                .method(method)
                .uri(format!("{}/sandbox/{path}", sandbox.base))
                .body(<_>::default());
            sandbox.exchange(request.unwrap()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(session.raw("callout", &rows), drop_faults);
        assert_eq!(answer.unwrap().json()["code"], 0, "{path}");
        sandbox.admin("reset", json!({})).await;
    }
}

#[tokio::test]
async fn an_insert_with_a_bad_row_keeps_the_good_ones_only_where_it_is_set_so() {
    for keeps in [false, true] {
        let sandbox = Sandbox::start(SandboxConfig {
            insert_keeps_good_rows: keeps,
            ..SandboxConfig::default()
        })
        .await;
        let session = sandbox.session().await;
        let task = session.task(json!({})).await;
        let answer = session
            .insert(&task, &["13000000001", "13000009999", "13000000002"])
            .await;
        assert_eq!(answer["code"], 200_203);
        let kept = if keeps { 2 } else { 0 };
        assert_eq!(sandbox.get("/sandbox/rows").await["accepted"], kept);
        let found = session.result("query", json!({ "task_id": task })).await;
        assert_eq!(found["rows"][0]["count_tel"], kept);
        // A callout fails whole in either case.
        let bad = callout(&["13000000001", "13000009999"]);
        assert_eq!(session.code("callout", bad).await, 200_203);
        assert_eq!(sandbox.get("/sandbox/rows").await["accepted"], kept);
    }
}
