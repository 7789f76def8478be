//! The submitter's own id of a row comes back on every push and call of the row, on every attempt.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{
    CallState, CreateTaskRequest, ListCallsRequest, PushEvent, StartTaskRequest, UploadRow,
};
use yeta_gateway::sandbox::SandboxConfig;

use super::requests::{call_out, create_task};
use super::stage::{Stage, fast};
use super::upload::{Row, Told, direct, good, into_task, outcome, row, submit};
use crate::support::{earliest, eventually, next_event};

/// Calls that are over as soon as they are dialled.
fn instant() -> SandboxConfig {
    SandboxConfig {
        speed: 1e9,
        ..fast()
    }
}

/// The row's key by its id.
fn keys(told: &Told) -> HashMap<String, String> {
    let key = |result| match outcome(result) {
        Row::Taken(id) => (id, result.row_key.clone()),
        Row::Not(..) => panic!("{result:?}"),
    };
    told.results.iter().map(key).collect()
}

/// The row's id and the call that an event is of.
fn of(event: &PushEvent) -> (String, String) {
    let (id, uuid) = match event.payload.as_ref().unwrap() {
        Payload::CallRecord(record) => (&record.task_data_id, &record.call_uuid),
        Payload::Voice(voice) | Payload::VoiceArchived(voice) => {
            (&voice.task_data_id, &voice.call_uuid)
        }
        Payload::Dialog(dialog) => (&dialog.task_data_id, &dialog.call_uuid),
        Payload::Call(call) => {
            assert_eq!(call.row_key, event.row_key, "a call and its event");
            let record = call.call_record.as_ref().unwrap();
            (&record.task_data_id, &call.call_uuid)
        }
        Payload::Unrecognized(other) => panic!("{other:?}"),
    };
    (id.clone(), uuid.clone())
}

/// Reads the log from its beginning until so many calls are whole, and checks each event's key.
async fn check_events(stage: &Stage, keys: &HashMap<String, String>, calls: usize) {
    let mut stream = stage
        .pushes()
        .subscribe_pushes(earliest())
        .await
        .unwrap()
        .into_inner();
    let mut whole = HashSet::new();
    while whole.len() < calls {
        let event = next_event(&mut stream).await;
        let (id, uuid) = of(&event);
        let key = keys.get(&id).map_or("", String::as_str);
        assert_eq!(event.row_key, key, "row {id}: {event:?}");
        if let Some(Payload::Call(call)) = &event.payload
            && call.state() == CallState::Complete
        {
            whole.insert(uuid);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_push_and_call_of_a_row_carries_its_key_however_quick_the_pushes_are() {
    let stage = Stage::set(instant(), "").await;
    // Nobody's: a callout that is no upload.
    let other = stage
        .outbound()
        .call_out(call_out("", &[["13000000001", "no key"]]))
        .await;
    let other = other.unwrap().into_inner().task_data_ids;
    let rows: Vec<_> = (0..300)
        .map(|index| {
            let mut row = good(index);
            row.values.pop();
            row
        })
        .collect();
    let told = submit(&stage.outbound(), direct("u"), &rows).await;
    let keys = keys(&told);
    assert_eq!(keys.len(), 300);
    assert!(!keys.contains_key(&other[0]));
    check_events(&stage, &keys, 301).await;

    let mut calls = stage.calls();
    for (id, key) in keys.iter().take(20) {
        let request = ListCallsRequest {
            row_keys: vec![key.clone()],
            ..ListCallsRequest::default()
        };
        // What the log tells may be listed a moment later, and until then as it was before.
        let call = eventually("the row's whole call", async || {
            let page = calls.list_calls(request.clone()).await.unwrap();
            let call = page.into_inner().calls.pop();
            call.filter(|call| call.state() == CallState::Complete)
        })
        .await;
        let record = call.call_record.unwrap_or_default();
        assert_eq!((&call.row_key, &record.task_data_id), (key, id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_that_overtake_the_answer_to_their_batch_carry_the_key() {
    let stage = Stage::set(instant(), "").await;
    let slow = json!({ "operation": "callout", "fault": "latency", "millis": 500 });
    stage.sandbox.fault(slow).await;
    // Answered: each has a recording and a dialog, too.
    let rows: Vec<_> = (1..=5)
        .map(|index| {
            row(
                &format!("key {index}"),
                &[&format!("130000{index}0001"), "n"],
            )
        })
        .collect();
    let told = submit(&stage.outbound(), direct("u"), &rows).await;
    check_events(&stage, &keys(&told), 5).await;
}

/// Rows of which each is not answered at first, and then is.
fn called_twice(count: usize) -> Vec<UploadRow> {
    (0..count)
        .map(|index| {
            let number = format!("1380{index:03}0101");
            row(&format!("key {index}"), &[&number, "twice", "t3"])
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_called_again_carries_its_key_again_also_after_a_kill() {
    let mut stage = Stage::set(fast(), "").await;
    let task = CreateTaskRequest {
        recall_count: Some(1),
        time_recall_wait: Some(60),
        time_begin: 1_527_321_492_000,
        ..create_task("", "twice")
    };
    let task = stage
        .outbound()
        .create_task(task)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let told = submit(&stage.outbound(), into_task("u", &task), &called_twice(40)).await;
    let keys = keys(&told);
    stage.kill_and_start().await;
    let start = StartTaskRequest { task_id: task };
    stage.outbound().start_task(start).await.unwrap();
    check_events(&stage, &keys, 80).await;

    let mut calls = stage.calls();
    for (id, key) in &keys {
        let request = ListCallsRequest {
            row_keys: vec![key.clone()],
            ..ListCallsRequest::default()
        };
        let found = eventually("both calls", async || {
            let page = calls
                .list_calls(request.clone())
                .await
                .unwrap()
                .into_inner();
            // A recording may come before its record.
            let have_come = page.calls.iter().filter(|call| call.call_record.is_some());
            (have_come.count() == 2).then_some(page.calls)
        })
        .await;
        let is_of_row = |call: &yeta_gateway::proto::Call| {
            call.row_key == *key && call.call_record.as_ref().unwrap().task_data_id == *id
        };
        assert!(found.iter().all(is_of_row), "{key}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_lost_batch_carry_their_keys_once_their_records_come() {
    let mut stage = Stage::set(fast(), "").await;
    stage.hold_pushes();
    let lose = json!({ "operation": "callout", "fault": "cut_after_reading" });
    stage.sandbox.fault(lose).await;
    let rows: Vec<_> = (1..=5)
        .map(|index| {
            row(
                &format!("key {index}"),
                &[&format!("130000{index}0002"), "n"],
            )
        })
        .collect();
    let told = submit(&stage.outbound(), direct("u"), &rows).await;
    assert_eq!(told.totals().unknown, 5);
    let report = stage.sandbox.get("/sandbox/requests").await;
    let ids = &report["rows"]["ids_by_content"];
    let keys: HashMap<_, _> = rows
        .iter()
        .map(|row| {
            let id = &ids[json!(row.values).to_string()][0];
            (id.as_str().unwrap().to_owned(), row.row_key.clone())
        })
        .collect();
    stage.let_pushes_through();
    // The record that is the evidence itself may come before the gateway knows.
    eventually("calls with their keys", async || {
        let request = ListCallsRequest {
            row_keys: rows.iter().map(|row| row.row_key.clone()).collect(),
            ..ListCallsRequest::default()
        };
        let page = stage
            .calls()
            .list_calls(request)
            .await
            .unwrap()
            .into_inner();
        let found: HashMap<_, _> = page
            .calls
            .iter()
            .map(|call| {
                let record = call.call_record.clone().unwrap_or_default();
                (record.task_data_id, call.row_key.clone())
            })
            .collect();
        (found == keys).then_some(())
    })
    .await;
    // And the upload, taken up again, tells that they were taken.
    eventually("the rows to be known", async || {
        let again = submit(&stage.outbound(), direct("u"), &rows).await;
        (again.totals().accepted == 5).then_some(())
    })
    .await;
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 5);
}
