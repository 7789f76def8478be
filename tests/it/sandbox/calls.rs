//! Calls, their pushes and recordings, redials, and the delivery of pushes.

use std::collections::HashSet;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use yeta_gateway::sandbox::SandboxConfig;

use super::harness::{Arrival, Receiver, Sandbox, callout, eventually, fast};

fn of_module(arrivals: &[Arrival], module: &str) -> Vec<Value> {
    arrivals
        .iter()
        .filter(|arrival| arrival.module == module)
        .map(Arrival::json)
        .collect()
}

#[tokio::test]
async fn an_answered_call_gives_two_records_a_recording_and_a_dialog() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let session = sandbox.session().await;
    session.result("callout", callout(&["13000000001"])).await;
    let arrivals = receiver.wait_for(4).await;
    assert!(arrivals.iter().all(|arrival| {
        arrival.content_type.as_deref() == Some("application/json;charset=UTF-8")
            && arrival.json()["task_data_id"] == "346252615123869699"
    }));

    let records = of_module(&arrivals, "receiveCallRecord");
    let outbound: Vec<_> = records
        .iter()
        .filter(|r| !r["task_row_index"].is_null())
        .collect();
    assert_eq!((records.len(), outbound.len()), (2, 1));
    let outbound = outbound[0];
    assert_eq!(outbound["task_result"], "0");
    assert_eq!(outbound["task_result_desc"], "成功");
    assert_eq!(outbound["direction"], 2);
    assert_eq!(outbound["task_row_value"], json!(["13000000001", "张先生"]));
    let basic = records
        .iter()
        .find(|r| r["task_row_index"].is_null())
        .unwrap();
    for (name, value) in basic.as_object().unwrap() {
        assert_eq!(
            &outbound[name], value,
            "the outbound record holds all of the basic one"
        );
    }

    let dialog = &of_module(&arrivals, "receiveDialog")[0];
    assert_eq!(dialog["call_uuid"], outbound["call_uuid"]);
    assert!(dialog["dialog"][0]["seq"].is_string());
    assert!(
        dialog["dialog"][0]["hits"].is_null(),
        "a robot's turn has no hits"
    );
    assert!(dialog["dialog"][1]["hits"].is_array());

    let pushes = sandbox
        .wait_for("/sandbox/pushes", |p| p["acknowledged"] == 4)
        .await;
    assert_eq!(pushes["sent"], 4);
    assert_eq!(pushes["failed"], 0);
}

#[tokio::test]
async fn a_recording_can_be_fetched_whole_and_in_part() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000001"]))
        .await;
    let is_voice = |arrival: &Arrival| arrival.module == "receiveVoice";
    let arrivals = receiver.wait_until(|all| all.iter().any(is_voice)).await;
    let voice = &of_module(&arrivals, "receiveVoice")[0];
    let url = format!("{}/voice/{}", sandbox.base, voice["url"].as_str().unwrap());
    let get = async |range: Option<&str>| {
        let mut request = http::Request::get(&url);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        sandbox
            .exchange(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .unwrap()
    };
    let whole = get(None).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.body.len() as u64, voice["size"].as_u64().unwrap());
    assert_eq!(&whole.body[..4], b"RIFF");
    let part = get(Some("bytes=44-143")).await;
    assert_eq!(part.status, 206);
    assert_eq!(part.body, whole.body[44..144]);
    assert_eq!(get(Some("bytes=99999999-")).await.status, 416);
}

#[tokio::test]
async fn an_unanswered_call_gives_records_alone() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000002"]))
        .await;
    sandbox
        .wait_for("/sandbox/pushes", |p| p["acknowledged"] == 2)
        .await;
    let arrivals = receiver.so_far();
    let records = of_module(&arrivals, "receiveCallRecord");
    assert_eq!(records.len(), 2);
    let outbound = records
        .iter()
        .find(|r| !r["task_row_index"].is_null())
        .unwrap();
    assert_eq!(outbound["task_result_desc"], "正在通话中");
    assert!(
        outbound["time_answer"].is_null()
            || outbound["time_answer"] == 0
            || outbound["time_answer"] == ""
    );
    assert_eq!(sandbox.get("/sandbox/pushes").await["sent"], 2);
}

#[tokio::test]
async fn a_redial_shares_the_row_and_not_the_call() {
    let receiver = Receiver::start(0).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    let session = sandbox.session().await;
    let task = session
        .task(json!({ "recall_count": 2, "time_recall_wait": 1 }))
        .await;
    session.insert(&task, &["13000000002"]).await;
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 4).await;
    let records = of_module(&receiver.wait_for(6).await, "receiveCallRecord");
    let of = |name: &str| {
        records
            .iter()
            .map(|r| r[name].to_string())
            .collect::<HashSet<_>>()
    };
    assert_eq!(of("task_data_id").len(), 1);
    assert_eq!(of("call_uuid").len(), 3);
    let mut tries: Vec<_> = records
        .iter()
        .filter_map(|r| r["task_tries"].as_i64())
        .collect();
    tries.sort_unstable();
    assert_eq!(tries, [0, 1, 2]);
    let row = session.result("query", json!({ "task_id": task })).await["rows"][0].clone();
    assert_eq!(row["process_count"], 3);
    assert_eq!(row["process_tel_count"], 1);
    assert_eq!(row["count_recalled"], 2);
    assert_eq!(row["process_through_count"], 0);
}

#[tokio::test]
async fn a_task_waits_between_rounds_and_can_be_stopped_there() {
    let sandbox = Sandbox::start(SandboxConfig {
        speed: 1000.0,
        ..Default::default()
    })
    .await;
    let session = sandbox.session().await;
    let waiting = json!({ "recall_count": 1, "time_recall_wait": 1_000_000_000 });
    let task = session.task(waiting).await;
    session.insert(&task, &["13000000002"]).await;
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 5).await;
    session.result("pause", json!({ "task_id": task })).await;
    assert_eq!(session.status(&task).await, 3);
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 5).await;
    session.result("delete", json!({ "task_id": task })).await;
}

#[tokio::test]
async fn a_task_expires_with_rows_left() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let end = jiff::Timestamp::now().as_millisecond() + 1_500;
    let task = session.task(json!({ "time_end": end })).await;
    // The line carries ten calls at a time.
    session.insert(&task, &["13000000001"; 11]).await;
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 7).await;
    assert_eq!(
        session.code("start", json!({ "task_id": task })).await,
        3_010_101
    );
}

#[tokio::test]
async fn a_task_keeps_its_hours_where_told_to() {
    let config = SandboxConfig {
        enforce_hours: true,
        ..Default::default()
    };
    let sandbox = Sandbox::start(config).await;
    let session = sandbox.session().await;
    // One half of the day is always outside.
    let halves = ["00:00:00-11:59:59", "12:00:00-23:59:59"];
    let mut tasks = Vec::new();
    for (half, line_num) in halves.into_iter().zip(["69101338", "055169101408"]) {
        let task = session
            .task(json!({ "time_range": [half], "line_num": line_num }))
            .await;
        session.insert(&task, &["13000000001"]).await;
        session.result("start", json!({ "task_id": task })).await;
        tasks.push(task);
    }
    eventually(async || {
        let outside = session.status(&tasks[0]).await == 6 || session.status(&tasks[1]).await == 6;
        outside.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_task_of_tomorrow_begins_soon_when_time_is_sped_up() {
    let receiver = Receiver::start(0).await;
    let config = SandboxConfig {
        speed: 1_000_000.0,
        ..fast(&receiver)
    };
    let sandbox = Sandbox::start(config).await;
    let session = sandbox.session().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let tomorrow = i64::try_from(now).unwrap() + 24 * 3_600_000;
    let task = session
        .task(json!({ "time_begin": tomorrow, "time_end": null }))
        .await;
    session.insert(&task, &["13000000001"]).await;
    session.result("start", json!({ "task_id": task })).await;
    receiver.wait_for(4).await;
}

#[tokio::test]
async fn a_task_waits_for_its_beginning() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let far = 4_102_444_800_000_i64;
    let task = session
        .task(json!({ "time_begin": far, "time_end": far + 1 }))
        .await;
    session.insert(&task, &["13000000001"]).await;
    session.result("start", json!({ "task_id": task })).await;
    assert_eq!(session.status(&task).await, 1);
}

#[tokio::test]
async fn a_push_without_the_word_is_sent_again_byte_by_byte() {
    let receiver = Receiver::start(2).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000002"]))
        .await;
    let pushes = sandbox
        .wait_for("/sandbox/pushes", |p| p["acknowledged"] == 2)
        .await;
    assert_eq!(pushes["retried"], 2);
    let bodies: HashSet<_> = receiver
        .so_far()
        .into_iter()
        .map(|arrival| arrival.body)
        .collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(receiver.so_far().len(), 4);
}

#[tokio::test]
async fn a_push_not_answered_in_three_seconds_is_sent_again() {
    let receiver = Receiver::start_deaf_once().await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000002"]))
        .await;
    let pushes = sandbox
        .wait_for("/sandbox/pushes", |p| p["acknowledged"] == 2)
        .await;
    assert_eq!(pushes["retried"], 1);
    assert_eq!(receiver.so_far()[0].body, receiver.so_far()[2].body);
}

#[tokio::test]
async fn a_push_is_given_up_after_three_retries() {
    let receiver = Receiver::start(usize::MAX).await;
    let sandbox = Sandbox::start(fast(&receiver)).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000002"]))
        .await;
    let pushes = sandbox
        .wait_for("/sandbox/pushes", |p| p["failed"] == 2)
        .await;
    assert_eq!(pushes["posts"], 8);
    assert_eq!(receiver.so_far().len(), 8);
    let failed = sandbox.get("/sandbox/pushes/failed").await;
    assert_eq!(failed[0]["module"], "receiveCallRecord");
    assert_eq!(failed[0]["data"]["callee"], "13000000002");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_calls() {
    let results = async || {
        let receiver = Receiver::start(0).await;
        let sandbox = Sandbox::start(SandboxConfig {
            seed: 42,
            ..fast(&receiver)
        })
        .await;
        let numbers = ["15556985227"; 20];
        sandbox
            .session()
            .await
            .result("callout", callout(&numbers))
            .await;
        let outbound = |arrival: &&Arrival| !arrival.json()["task_row_index"].is_null();
        let arrivals = receiver
            .wait_until(|all| all.iter().filter(outbound).count() == numbers.len())
            .await;
        let result = |arrival: &Arrival| {
            let record = arrival.json();
            (
                record["task_data_id"].to_string(),
                record["task_result"].to_string(),
            )
        };
        let mut results: Vec<_> = arrivals.iter().filter(outbound).map(result).collect();
        results.sort();
        results
    };
    assert_eq!(results().await, results().await);
}

#[tokio::test]
async fn a_url_that_ends_in_a_module_gets_that_module_alone() {
    let records = Receiver::start(0).await;
    let config = SandboxConfig {
        push_to: vec![format!("{}/receiveDialog", records.base)],
        ..fast(&records)
    };
    let sandbox = Sandbox::start(config).await;
    sandbox
        .session()
        .await
        .result("callout", callout(&["13000000001"]))
        .await;
    sandbox
        .wait_for("/sandbox/pushes", |p| p["acknowledged"] == 1)
        .await;
    assert_eq!(records.so_far()[0].module, "receiveDialog");
    assert_eq!(sandbox.get("/sandbox/pushes").await["sent"], 1);
}
