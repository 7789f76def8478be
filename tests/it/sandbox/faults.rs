//! Every fault, over the socket.

use http::StatusCode;
use serde_json::{Value, json};
use yeta_gateway::sandbox::SandboxConfig;

use super::harness::{Receiver, Sandbox, callout, fast};

async fn sandbox() -> Sandbox {
    Sandbox::start(SandboxConfig::default()).await
}

fn fault(operation: &str, fault: &str) -> Value {
    json!({ "operation": operation, "fault": fault })
}

#[tokio::test]
async fn a_cut_before_reading_applies_nothing() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox.fault(fault("callout", "cut_before_reading")).await;
    assert!(
        session
            .raw("callout", &callout(&["13000000001"]))
            .await
            .is_err()
    );
    let counts = sandbox.counts("callout").await;
    assert_eq!(
        counts,
        json!({ "received": 1, "applied": 0, "refused": 0, "cut": 1 })
    );
    assert_eq!(session.code("callout", callout(&["13000000001"])).await, 0);
}

#[tokio::test]
async fn a_cut_after_reading_has_applied_the_operation() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    for cut in ["cut_after_reading", "cut_mid_answer"] {
        sandbox.fault(fault("callout", cut)).await;
        assert!(
            session
                .raw("callout", &callout(&["13000000001"]))
                .await
                .is_err(),
            "{cut}"
        );
    }
    let requests = sandbox.get("/sandbox/requests").await;
    assert_eq!(requests["operations"]["callout"]["applied"], 2);
    assert_eq!(requests["rows"]["accepted"], 2);
    assert_eq!(requests["rows"]["by_number"]["13000000001"], 2);
    assert_eq!(
        requests["rows"]["by_content"][r#"["13000000001","张先生"]"#],
        2
    );
}

#[tokio::test]
async fn half_an_answer_is_really_sent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sandbox = sandbox().await;
    sandbox.fault(fault("token", "cut_mid_answer")).await;
    let address = sandbox.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = r#"{"app_key":"a","app_secret":"b"}"#;
    let request = format!(
        "POST /openapi/oauth/v1/token HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains(r#"{"code":0,"#), "{answer}");
    assert!(!answer.ends_with('}'), "{answer}");
}

#[tokio::test]
async fn a_connection_can_close_after_its_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sandbox = sandbox().await;
    sandbox.fault(fault("token", "close_after_answer")).await;
    let address = sandbox.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "POST /openapi/oauth/v1/token HTTP/1.1\r\nhost: a\r\n\
        content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains(r#"{"code":10005,"#) && answer.ends_with('}'),
        "{answer}"
    );
    assert!(
        !answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_refused_token_does_not_refuse_the_next_one() {
    let sandbox = sandbox().await;
    sandbox
        .fault(json!({ "operation": "any", "fault": "refuse_token" }))
        .await;
    let session = sandbox.session().await;
    assert_eq!(session.code("config", json!({})).await, 10001);
    assert_eq!(session.code("config", json!({})).await, 0);
}

#[tokio::test]
async fn codes_take_the_place_of_the_operation() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!([
            { "operation": "callout", "fault": "busy" },
            { "operation": "callout", "fault": "code", "code": 42, "message": "新错误" },
            { "operation": "any", "fault": "refuse_token", "times": 2 },
        ]))
        .await;
    let answer = async || session.call("callout", callout(&["13000000001"])).await;
    assert_eq!(answer().await["code"], 10004);
    assert_eq!(
        answer().await,
        json!({ "code": 42, "message": "新错误", "result": null })
    );
    assert_eq!(answer().await["code"], 10001);
    assert_eq!(answer().await["code"], 10001);
    assert_eq!(sandbox.counts("callout").await["applied"], 0);
    assert_eq!(answer().await["code"], 0, "the token itself is still good");
    sandbox
        .fault(json!({ "fault": "refuse_token", "kill": true }))
        .await;
    assert_eq!(answer().await["code"], 10001);
    assert_eq!(answer().await["code"], 10001, "the token is dead");
}

#[tokio::test]
async fn an_error_can_hide_that_the_operation_was_carried_out() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!([
            { "operation": "callout", "fault": "html" },
            { "operation": "callout", "fault": "http_500", "text": true, "applied": true },
            { "operation": "callout", "fault": "http_500" },
        ]))
        .await;
    let answer = async || {
        session
            .raw("callout", &callout(&["13000000001"]))
            .await
            .unwrap()
    };
    let html = answer().await;
    assert_eq!(
        (html.status, html.content_type.as_str()),
        (StatusCode::OK, "text/html")
    );
    assert!(html.body.starts_with(b"<html>"));
    let text = answer().await;
    assert_eq!(text.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text.body, "Internal Server Error");
    let coded = answer().await;
    assert_eq!(coded.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(coded.json()["code"], 10004);
    assert_eq!(sandbox.counts("callout").await["applied"], 1);
}

#[tokio::test]
async fn answers_can_be_bent() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    let task = session.task(json!({})).await;
    let query = json!({ "task_id": task });
    let bent = async |kind: &str| {
        sandbox.fault(fault("query", kind)).await;
        session.raw("query", &query).await.unwrap()
    };
    let text = bent("numbers_as_strings").await.json();
    assert_eq!(
        (&text["code"], &text["result"]["rows"][0]["status"]),
        (&json!("0"), &json!("0"))
    );
    let numbers = bent("strings_as_numbers").await.json();
    assert_eq!(numbers["result"]["rows"][0]["task_id"], 129);
    assert_eq!(numbers["result"]["rows"][0]["line_num"], "055169101407");
    let nulls = bent("null_fields").await.json();
    assert_eq!(nulls["message"], Value::Null);
    assert_eq!(nulls["result"]["rows"][0]["task_name"], Value::Null);
    assert_eq!(nulls["result"]["rows"][0]["task_id"], "129");
    let unknown = bent("unknown_fields").await.json();
    assert!(unknown["sandbox_unknown"].is_object());
    assert!(unknown["result"]["rows"][0]["sandbox_unknown"].is_object());
    let typed = bent("wrong_content_type").await;
    assert!(typed.content_type.starts_with("text/html"));
    assert_eq!(typed.json()["code"], 0);
    let printed = bent("invalid_json_strings").await;
    let printed = String::from_utf8(printed.body.to_vec()).unwrap();
    assert!(
        printed.contains(r#""intention_push":"["A","B"]""#),
        "{printed}"
    );
}

#[tokio::test]
async fn latency_comes_after_the_operation_was_applied() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!({ "operation": "callout", "fault": "latency", "millis": 3_600_000 }))
        .await;
    let path = session.path("callout");
    let body = callout(&["13000000001"]).to_string();
    tokio::select! {
        _ = sandbox.post_raw(&path, &body) => panic!("an hour has passed"),
        _ = sandbox.wait_for("/sandbox/requests", |r| r["rows"]["accepted"] == 1) => {}
    }
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused() {
    let sandbox = sandbox().await;
    for order in [
        json!({ "operation": "dial", "fault": "busy" }),
        json!({ "operation": "push", "fault": "busy" }),
        json!({ "operation": "callout", "fault": "duplicate" }),
        json!({ "operation": "callout", "fault": "code" }),
        json!({ "operation": "callout", "fault": "busy", "time": 3 }),
        json!({ "fault": "no_such_fault" }),
    ] {
        let reply = sandbox
            .post_raw("/sandbox/faults", &order.to_string())
            .await
            .unwrap();
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{order}");
    }
    assert_eq!(sandbox.get("/sandbox/faults").await, json!([]));
}

#[tokio::test]
async fn pushes_can_be_doubled_delayed_reordered_and_lost() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let session = sandbox.session().await;
    sandbox
        .fault(json!([
            { "operation": "receiveVoice", "fault": "duplicate" },
            { "operation": "receiveDialog", "fault": "delay", "millis": 1 },
            { "operation": "receiveCallRecord", "fault": "reorder" },
            { "operation": "receiveCallRecord", "fault": "lose" },
        ]))
        .await;
    session.result("callout", callout(&["13000000001"])).await;
    let pushes = sandbox
        .wait_for("/sandbox/pushes", |p| {
            p["acknowledged"] == 4 && p["in_flight"] == 0
        })
        .await;
    assert_eq!(pushes["lost"], 1);
    let count = |module: &str| {
        receiver
            .so_far()
            .iter()
            .filter(|a| a.module == module)
            .count()
    };
    assert_eq!((count("receiveVoice"), count("receiveDialog")), (2, 1));
    assert_eq!(count("receiveCallRecord"), 1);
}

#[tokio::test]
async fn raw_pushes_go_out_as_they_are() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let path = "/sandbox/push?module=receiveVoice";
    let reply = sandbox.post_raw(path, "{not json").await.unwrap().json();
    assert_eq!(reply["status"], 200);
    assert_eq!(reply["body"], "success");
    assert_eq!(receiver.so_far()[0].body, "{not json");
}

#[tokio::test]
async fn every_quirk_is_pushed_once() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let report = sandbox.admin("quirks", json!({})).await;
    let quirks = yeta_gateway::sandbox::quirks();
    assert!(quirks.len() > 20);
    assert_eq!(report.as_array().unwrap().len(), quirks.len());
    let arrivals = receiver.so_far();
    for (quirk, arrival) in quirks.iter().zip(&arrivals) {
        assert_eq!(quirk.module, arrival.module, "{}", quirk.name);
        assert_eq!(
            quirk.content_type,
            arrival.content_type.as_deref(),
            "{}",
            quirk.name
        );
        assert_eq!(quirk.body, arrival.body, "{}", quirk.name);
    }
}

#[tokio::test]
async fn a_reset_forgets_all_but_the_tokens() {
    let sandbox = sandbox().await;
    let session = sandbox.session().await;
    session.task(json!({})).await;
    sandbox.fault(fault("any", "busy")).await;
    sandbox.admin("reset", json!({})).await;
    assert_eq!(
        sandbox.get("/sandbox/requests").await["operations"],
        json!({})
    );
    assert_eq!(session.result("query", json!({})).await["total_rows"], 0);
    assert_eq!(session.task(json!({})).await, "130", "no id is given twice");
}
