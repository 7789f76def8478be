//! Calls of others settle nothing: a submission that the platform never received stays unknown,
//! and no push carries the row key of another row.

use serde_json::json;
use tonic::Response;
use yeta_gateway::proto::{
    CallOutResponse, SubmissionEvidenceKind, SubmissionState, SubscribePushesRequest,
};

use super::records::{
    Call, assert_unknown, drop_faults, fault, id_of, lists, lose, until_judged, when, when_it,
};
use super::requests::{CALL_COLUMNS, Told, accepted, call_out, create_task, submission, told};
use super::stage::{Stage, silent};
use super::upload::{Row, direct, not, outcome, row, submit};
use crate::support::{earliest, next_event, pushed};

const ROW: [&str; 2] = ["13000000002", "one"];
/// The number of `ROW` with other values.
const OTHER_VALUES: [&str; 2] = [ROW[0], "two"];

/// Time enough for a test to release what the platform holds.
const PATIENT: &str = "platform.request_timeout = '60s'";

/// Calls a row without a request id, and returns the platform's id of it.
async fn plain(stage: &Stage, row: [&str; 2]) -> String {
    let answer = stage.outbound().call_out(call_out("", &[row])).await;
    only_id(&answer.unwrap())
}

fn only_id(answer: &Response<CallOutResponse>) -> String {
    let ids = &answer.get_ref().task_data_ids;
    assert_eq!(ids.len(), 1);
    ids[0].clone()
}

/// Calls a row as another system on the same account does.
async fn from_the_console(stage: &Stage, row: [&str; 2]) -> String {
    let session = stage.sandbox.session().await;
    let call = json!({
        "line_num": "69101338", "robot_id": "719",
        "call_column": CALL_COLUMNS, "call_list": [row],
    });
    let result = session.result("callout", call).await;
    result["task_data_ids"][0].to_string()
}

/// Reads the row keys of the first call records in the log.
async fn row_keys(stage: &Stage, records: usize) -> Vec<String> {
    let request = SubscribePushesRequest {
        filter: Some(pushed()),
        ..earliest()
    };
    let stream = stage.pushes().subscribe_pushes(request).await;
    let mut stream = stream.unwrap().into_inner();
    let mut keys = Vec::new();
    while keys.len() < records {
        keys.push(next_event(&mut stream).await.row_key);
    }
    keys
}

#[tokio::test]
async fn the_call_of_a_plain_request_made_before_leaves_the_lost_request_unknown() {
    let stage = Stage::set(silent(), "").await;
    let id = plain(&stage, ROW).await;
    lose(&stage, "order-1", &[ROW], "cut_before_reading").await;
    Call::of(&ROW, &id).push(&stage).await;
    until_judged(&stage).await;
    assert_unknown(&stage, "order-1", &[ROW]).await;
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn the_call_of_a_plain_request_made_after_leaves_the_lost_request_unknown() {
    let mut stage = Stage::set(silent(), "").await;
    lose(&stage, "order-1", &[ROW], "cut_before_reading").await;
    let id = plain(&stage, ROW).await;
    // The claim of the plain request outlives the process.
    stage.kill_and_start().await;
    Call::of(&ROW, &id).push(&stage).await;
    assert_unknown(&stage, "order-1", &[ROW]).await;
}

#[tokio::test]
async fn the_call_of_a_plain_request_that_still_waits_for_its_answer_settles_nothing() {
    let stage = Stage::set(silent(), PATIENT).await;
    lose(&stage, "order-1", &[ROW], "cut_before_reading").await;
    fault(&stage, "callout", "hold").await;
    let mut client = stage.outbound();
    let waiting = tokio::spawn(async move { client.call_out(call_out("", &[ROW])).await });
    stage
        .sandbox
        .wait_for("/sandbox/rows", |rows| rows["accepted"] == 1)
        .await;
    let id = id_of(&stage, &ROW).await;
    Call::of(&ROW, &id).push(&stage).await;
    row_keys(&stage, 2).await;
    assert_unknown(&stage, "order-1", &[ROW]).await;
    drop_faults(&stage).await;
    assert_eq!(only_id(&waiting.await.unwrap().unwrap()), id);
    until_judged(&stage).await;
    assert_unknown(&stage, "order-1", &[ROW]).await;
}

/// Loses a request for other values than those of a call, whose basic record comes first.
async fn lose_other_values(stage: &Stage, called: &str) {
    lose(stage, "loan B", &[OTHER_VALUES], "cut_before_reading").await;
    Call::of(&ROW, called).push(stage).await;
    until_judged(stage).await;
    assert_unknown(stage, "loan B", &[OTHER_VALUES]).await;
}

#[tokio::test]
async fn a_plain_call_with_other_values_settles_nothing_although_its_basic_record_comes_first() {
    let stage = Stage::set(silent(), "").await;
    let id = plain(&stage, ROW).await;
    lose_other_values(&stage, &id).await;
}

#[tokio::test]
async fn a_call_from_the_console_with_other_values_settles_nothing() {
    let stage = Stage::set(silent(), "").await;
    let id = from_the_console(&stage, ROW).await;
    lose_other_values(&stage, &id).await;
}

#[tokio::test]
async fn one_call_that_fits_two_unknown_requests_is_listed_by_both_and_settles_neither() {
    let stage = Stage::set(silent(), "").await;
    lose(&stage, "first", &[ROW], "cut_before_reading").await;
    lose(&stage, "second", &[ROW], "cut_after_reading").await;
    let id = id_of(&stage, &ROW).await;
    Call::of(&ROW, &id).push(&stage).await;
    for request_id in ["first", "second"] {
        let kind = SubmissionEvidenceKind::SeveralSubmissions;
        when_it(&stage, request_id, |kept| {
            assert_eq!(kept.state(), SubmissionState::Unknown, "{kept:?}");
            lists(kept, kind, false)
        })
        .await;
    }
    until_judged(&stage).await;
    assert_unknown(&stage, "first", &[ROW]).await;
    assert_unknown(&stage, "second", &[ROW]).await;
}

#[tokio::test]
async fn calls_of_one_upload_never_carry_row_keys_of_another_with_the_same_numbers() {
    let stage = Stage::set(silent(), "").await;
    let numbers: Vec<_> = (2..10).map(|n| format!("1300000000{n}")).collect();
    let rows = |key: &str, offer: &str| -> Vec<_> {
        let row = |number: &String| row(&format!("{key} {number}"), &[number, offer]);
        numbers.iter().map(row).collect()
    };
    let (a, b) = (rows("a", "offer A"), rows("b", "offer B"));
    for (upload_id, rows, how) in [
        ("a", &a, "cut_before_reading"),
        ("b", &b, "cut_after_reading"),
    ] {
        let lost = json!({ "operation": "callout", "fault": how, "times": 1_000_000 });
        stage.sandbox.fault(lost).await;
        let told = submit(&stage.outbound(), direct(upload_id), rows).await;
        assert_eq!(told.totals().unknown, 8, "{upload_id}");
        drop_faults(&stage).await;
    }
    let mut ids = Vec::new();
    for number in &numbers {
        let values = [number.as_str(), "offer B"];
        let id = id_of(&stage, &values).await;
        Call::of(&values, &id).push(&stage).await;
        ids.push(id);
    }
    until_judged(&stage).await;
    for key in row_keys(&stage, 2 * numbers.len()).await {
        assert!(key.is_empty() || key.starts_with("b "), "{key}");
    }
    let again = submit(&stage.outbound(), direct("a"), &a).await;
    for result in &again.results {
        assert_eq!(outcome(result), not("OUTCOME_UNKNOWN", ""));
    }
    let again = submit(&stage.outbound(), direct("b"), &b).await;
    let by_key = again.by_key();
    for (row, id) in b.iter().zip(ids) {
        assert_eq!(outcome(by_key[&*row.row_key]), Row::Taken(id));
    }
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 9);
}

#[tokio::test]
async fn a_call_of_a_request_in_flight_does_not_carry_the_row_key_of_a_lost_upload() {
    let stage = Stage::set(silent(), PATIENT).await;
    fault(&stage, "callout", "cut_before_reading").await;
    let lost = [row("k1", &ROW)];
    let first_try = submit(&stage.outbound(), direct("lost"), &lost).await;
    assert_eq!(first_try.totals().unknown, 1);
    fault(&stage, "callout", "hold").await;
    let mut client = stage.outbound();
    let waiting = tokio::spawn(async move { client.call_out(call_out("order-2", &[ROW])).await });
    stage
        .sandbox
        .wait_for("/sandbox/rows", |rows| rows["accepted"] == 1)
        .await;
    let id = id_of(&stage, &ROW).await;
    Call::of(&ROW, &id).push(&stage).await;
    assert_eq!(row_keys(&stage, 2).await, ["", ""]);
    drop_faults(&stage).await;
    assert_eq!(told(waiting.await.unwrap()), accepted(&[&id]));
    until_judged(&stage).await;
    let again = submit(&stage.outbound(), direct("lost"), &lost).await;
    assert_eq!(outcome(&again.results[0]), not("OUTCOME_UNKNOWN", ""));
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

/// Makes a task as another system on the same account does, equal to that of `create_task`.
async fn task_from_the_console(stage: &Stage, name: &str) {
    let task = json!({
        "task_name": name, "line_num": "055169101407", "robot_id": "11",
        "time_range": ["00:00:00-23:59:59"], "time_begin": 4_000_000_000_000_i64,
    });
    let session = stage.sandbox.session().await;
    session.result("create", task).await;
}

/// Loses the creation of a task whose name another task has.
async fn lose_creation(stage: &Stage, name: &str) {
    fault(stage, "create", "cut_before_reading").await;
    let request = create_task("lost", name);
    let answer = stage.outbound().create_task(request.clone()).await;
    assert_eq!(told(answer), Told::Unknown);
    let kept = when_it(stage, "lost", |kept| !kept.evidence.is_empty()).await;
    assert_eq!(kept.state(), SubmissionState::Unknown, "{kept:?}");
    let repeat = stage.outbound().create_task(request).await;
    assert_eq!(told(repeat), Told::Unknown);
}

#[tokio::test]
async fn a_task_made_before_without_an_id_leaves_the_lost_creation_unknown() {
    let stage = Stage::set(silent(), "").await;
    stage.task("mine").await;
    lose_creation(&stage, "mine").await;
}

#[tokio::test]
async fn a_task_made_before_in_the_console_leaves_the_lost_creation_unknown() {
    let stage = Stage::set(silent(), "").await;
    task_from_the_console(&stage, "mine").await;
    lose_creation(&stage, "mine").await;
}

#[tokio::test]
async fn a_task_made_afterwards_without_an_id_leaves_the_lost_creation_unknown() {
    let mut stage = Stage::set(silent(), "").await;
    fault(&stage, "create", "cut_before_reading").await;
    let request = create_task("lost", "mine");
    let answer = stage.outbound().create_task(request.clone()).await;
    assert_eq!(told(answer), Told::Unknown);
    stage.task("mine").await;
    for _ in 0..2 {
        // A repeat looks for the task.
        let repeat = stage.outbound().create_task(request.clone()).await;
        assert_eq!(told(repeat), Told::Unknown);
        stage.kill_and_start().await;
    }
    let kept = submission(&mut stage.outbound(), "lost").await.unwrap();
    assert_eq!(kept.state(), SubmissionState::Unknown, "{kept:?}");
    // The gateway still settles what is certain.
    lose(&stage, "certain", &[ROW], "cut_after_reading").await;
    let id = id_of(&stage, &ROW).await;
    Call::of(&ROW, &id).push_outbound(&stage).await;
    when(&stage, "certain", SubmissionState::Accepted).await;
}
