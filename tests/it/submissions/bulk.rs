//! Many rows at once: good ones go through in spite of bad ones, and each bad one has its reason.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use yeta_gateway::proto::{
    ListSubmissionsRequest, SubmissionState, UploadHeader, UploadRow, submission,
};

use super::requests::content;
use super::stage::{Stage, silent};
use super::upload::{
    Row, Told, Totals, direct, good, into_task, not, number, outcome, row, submit,
};

/// What the sandbox does not take in a value.
const CONTROL: char = '\u{7}';

/// A row, and what it is to end as; nothing: as taken.
pub type Expected = (UploadRow, Option<Row>);

/// So many rows, one in a hundred of them bad, in places and ways by chance.
pub fn some_bad(count: usize, seed: u64) -> Vec<Expected> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bad = BTreeSet::new();
    while bad.len() < count / 100 {
        bad.insert(random.random_range(0..count));
    }
    let make = |index: usize| {
        if !bad.contains(&index) {
            return (good(index), None);
        }
        let mut row = good(index);
        let refused = match random.random_range(0..4) {
            0 => {
                row.values[0] = format!("139{:04}9999", index % 10_000);
                not("BAD_PHONE_NUMBER", "200203")
            }
            1 => {
                row.values[1].push(CONTROL);
                not("INVALID_PARAMETER", "10005")
            }
            2 => {
                row.values[0] = format!("99{index:019}");
                not("IMPLAUSIBLE_PHONE_NUMBER", "")
            }
            _ => {
                row.values.pop();
                not("ROW_MISMATCH", "")
            }
        };
        (row, Some(refused))
    };
    (0..count).map(make).collect()
}

pub fn rows_of(expected: &[Expected]) -> Vec<UploadRow> {
    expected.iter().map(|(row, _)| row.clone()).collect()
}

/// All good rows in exactly once and under the ids that were told, and each bad one with its
/// reason and not in.
pub fn check(expected: &[Expected], told: &Told, report: &Value) {
    let by_key = told.by_key();
    assert_eq!(by_key.len(), expected.len());
    let ids = &report["rows"]["ids_by_content"];
    for (row, refused) in expected {
        let found = outcome(by_key[row.row_key.as_str()]);
        let held = &ids[content(&row.values)];
        match (&found, refused) {
            (Row::Taken(id), None) => assert_eq!(held, &json!([id]), "{}", row.row_key),
            (Row::Not(..), Some(refused)) => {
                assert_eq!(&found, refused, "{}", row.row_key);
                assert!(held.is_null(), "{} was taken", row.row_key);
            }
            _ => panic!("{}: {found:?}, not {refused:?}", row.row_key),
        }
    }
}

fn count(report: &Value, operation: &str, name: &str) -> u64 {
    report["operations"][operation][name].as_u64().unwrap_or(0)
}

/// How many bad rows only the platform knows to be bad.
fn found_by_the_platform(expected: &[Expected]) -> u64 {
    let by_the_platform =
        |(_, refused): &&Expected| matches!(refused, Some(Row::Not(_, code)) if !code.is_empty());
    expected.iter().filter(by_the_platform).count() as u64
}

/// 2·b·⌈log2 50⌉ + 1 for each batch, over all of them. A batch may have fewer than 50 rows where
/// the sender makes the gateway wait.
fn most_calls(expected: &[Expected]) -> u64 {
    let batches = expected.len() as u64 / 50;
    12 * found_by_the_platform(expected) + 2 * batches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rows_go_into_a_task_but_for_the_bad_ones_which_are_named() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("bulk").await;
    let expected = some_bad(10_000, 7);
    let client = stage.outbound();
    let told = submit(&client, into_task("", &task), &rows_of(&expected)).await;
    let report = stage.sandbox.get("/sandbox/requests").await;
    check(&expected, &told, &report);
    let totals = Totals {
        accepted: 9_900,
        refused: 100,
        unknown: 0,
    };
    assert_eq!(told.totals(), totals);
    let calls = count(&report, "insert", "received");
    println!(
        "{calls} calls, {} bad rows found",
        found_by_the_platform(&expected)
    );
    assert!(calls <= most_calls(&expected), "{calls}");
    assert_eq!(report["rows"]["accepted"], 9_900);

    // All of them once more: answered from the store.
    let upload_id = &told.progress[0].upload_id;
    assert!(!upload_id.is_empty(), "an id was made up");
    let again = submit(&client, into_task(upload_id, &task), &rows_of(&expected)).await;
    let report_again = stage.sandbox.get("/sandbox/requests").await;
    check(&expected, &again, &report_again);
    assert!(again.results.iter().all(|result| result.known_before
        || matches!(outcome(result), Row::Not(_, code) if code.is_empty())));
    assert_eq!(report_again["rows"]["accepted"], 9_900);
    assert_eq!(report_again["rows"]["accepted_again"], 0);
}

#[tokio::test]
async fn rows_called_at_once_go_through_but_for_the_bad_ones() {
    let stage = Stage::set(silent(), "").await;
    let mut expected = some_bad(1_000, 11);
    for (row, _) in &mut expected {
        // This robot has a column less.
        row.values.pop();
    }
    let told = submit(&stage.outbound(), direct("now"), &rows_of(&expected)).await;
    let report = stage.sandbox.get("/sandbox/requests").await;
    check(&expected, &told, &report);
    assert!(count(&report, "callout", "received") <= most_calls(&expected));
    assert!(
        told.progress
            .iter()
            .all(|progress| progress.upload_id == "now")
    );
}

#[tokio::test]
async fn a_batch_with_bad_rows_alone_costs_no_more_than_the_bound() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("bad").await;
    let expected: Vec<_> = (0..50)
        .map(|index| {
            let mut row = good(index);
            row.values[0] = format!("139{index:04}9999");
            (row, Some(not("BAD_PHONE_NUMBER", "200203")))
        })
        .collect();
    let told = submit(&stage.outbound(), into_task("", &task), &rows_of(&expected)).await;
    let report = stage.sandbox.get("/sandbox/requests").await;
    check(&expected, &told, &report);
    let calls = count(&report, "insert", "received");
    assert!(calls <= 2 * 50 * 6 + 1, "{calls}");
}

fn fault(operation: &str, fault: &str, more: &Value) -> Value {
    let mut order = json!({ "operation": operation, "fault": fault });
    for (name, value) in more.as_object().unwrap() {
        order[name] = value.clone();
    }
    order
}

/// So many good rows for a task.
fn all_good(count: usize) -> Vec<UploadRow> {
    (0..count).map(good).collect()
}

/// How many rows ended as this.
fn ended_as(told: &Told, row: &Row) -> usize {
    let results = told.results.iter();
    results.filter(|result| outcome(result) == *row).count()
}

#[tokio::test]
async fn a_refusal_for_another_cause_is_told_to_its_rows_and_the_others_go_on() {
    for (code, reason) in [
        (200_209, "INSUFFICIENT_BALANCE"),
        (200_200, "DATA_RELATION"),
    ] {
        let stage = Stage::set(silent(), "").await;
        let task = stage.task("refused").await;
        let order = fault("insert", "code", &json!({ "code": code }));
        stage.sandbox.fault(order).await;
        let rows = all_good(500);
        let told = submit(&stage.outbound(), into_task("", &task), &rows).await;
        assert_eq!(told.by_key().len(), 500);
        let refused = ended_as(&told, &not(reason, &code.to_string()));
        let totals = told.totals();
        assert!((1..=50).contains(&refused), "{code}: {totals:?}");
        assert_eq!(totals.accepted, 500 - i64::try_from(refused).unwrap());
        let report = stage.sandbox.get("/sandbox/requests").await;
        assert_eq!(count(&report, "insert", "refused"), 1, "{code}: bisected");
        // What was refused is not sent again either.
        assert_eq!(report["rows"]["received"], 500, "{code}");
    }
}

/// Ways in which an answer is lost; whether the rows were taken.
const LOST: [(&str, bool); 4] = [
    ("cut_before_reading", false),
    ("cut_after_reading", true),
    ("cut_mid_answer", true),
    ("html", true),
];

#[tokio::test]
async fn a_batch_whose_answer_is_lost_is_unknown_row_by_row_and_never_sent_again() {
    for (name, taken) in LOST {
        let stage = Stage::set(silent(), "").await;
        let task = stage.task("lost").await;
        let applied = json!({ "applied": taken });
        stage.sandbox.fault(fault("insert", name, &applied)).await;
        let rows = all_good(500);
        let client = stage.outbound();
        let told = submit(&client, into_task("u", &task), &rows).await;
        assert_eq!(told.by_key().len(), 500, "{name}");
        let lost = told.totals().unknown;
        assert!((1..=50).contains(&lost), "{name}: {lost}");
        assert_eq!(told.totals().refused, 0, "{name}");

        for _ in 0..2 {
            let again = submit(&client, into_task("u", &task), &rows).await;
            assert_eq!(again.totals(), told.totals(), "{name}");
            for (key, result) in again.by_key() {
                assert!(result.known_before, "{name} {key}");
                assert_eq!(outcome(result), outcome(told.by_key()[key]), "{name}");
            }
        }
        let totals = stage.sandbox.get("/sandbox/rows").await;
        let once = 500 - if taken { 0 } else { lost };
        assert_eq!(totals["accepted"], once, "{name}");
        assert_eq!(totals["accepted_again"], 0, "{name}");
        check_listed(&stage, &task, lost).await;
    }
}

/// The one batch whose outcome is not known is listed, with its rows.
async fn check_listed(stage: &Stage, task: &str, lost: i64) {
    let request = ListSubmissionsRequest {
        state: SubmissionState::Unknown.into(),
        ..ListSubmissionsRequest::default()
    };
    let listed = stage.outbound().list_submissions(request).await.unwrap();
    let listed = listed.into_inner().submissions;
    assert_eq!(listed.len(), 1);
    assert_eq!((&*listed[0].upload_id, &*listed[0].request_id), ("u", ""));
    assert_eq!(i64::try_from(listed[0].row_keys.len()).unwrap(), lost);
    let Some(submission::Request::InsertTaskData(sent)) = &listed[0].request else {
        panic!("{listed:?}")
    };
    assert_eq!(sent.task_id, task);
    assert_eq!(sent.call_list.len(), listed[0].row_keys.len());
    for (key, row) in listed[0].row_keys.iter().zip(&sent.call_list) {
        let index: usize = key.trim_start_matches("key ").parse().unwrap();
        assert_eq!(row.values[0], number(index));
    }
}

#[tokio::test]
async fn a_lost_answer_in_a_bisection_leaves_its_own_rows_unknown_and_finds_the_others() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("halves").await;
    // Refused as a whole; then the answer to the one half is lost.
    let lose = fault("insert", "cut_after_reading", &json!({}));
    let refuse = fault("insert", "code", &json!({ "code": 200_203 }));
    stage.sandbox.fault(json!([refuse, lose])).await;
    let rows = all_good(50);
    let told = submit(&stage.outbound(), into_task("u", &task), &rows).await;
    let totals = told.totals();
    assert!((1..50).contains(&totals.unknown), "{totals:?}");
    assert_eq!(totals.accepted + totals.unknown, 50, "{totals:?}");
    let rows = stage.sandbox.get("/sandbox/rows").await;
    assert_eq!(
        (&rows["accepted"], &rows["accepted_again"]),
        (&json!(50), &json!(0))
    );
}

#[tokio::test]
async fn an_upload_whose_platform_says_that_everything_is_bad_ends_with_each_row_refused() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("all").await;
    // A 10005 that no row causes: halving it finds nobody, and ends within the bound.
    let always = fault("insert", "code", &json!({ "code": 10_005, "times": 1_000 }));
    stage.sandbox.fault(always).await;
    let rows = all_good(50);
    let told = submit(&stage.outbound(), into_task("", &task), &rows).await;
    assert_eq!(ended_as(&told, &not("INVALID_PARAMETER", "10005")), 50);
    let calls = stage.sandbox.counts("insert").await["received"].clone();
    assert!(calls.as_u64().unwrap() <= 2 * 50 * 6 + 1, "{calls}");
}

#[tokio::test]
async fn columns_that_are_not_the_robots_are_refused_row_by_row_within_the_bound() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("columns").await;
    let header = UploadHeader {
        call_column: vec!["客户手机号码".into(), "no".into(), "none".into()],
        ..into_task("", &task)
    };
    let told = submit(&stage.outbound(), header, &all_good(50)).await;
    assert_eq!(ended_as(&told, &not("ROW_MISMATCH", "200212")), 50);
    let calls = stage.sandbox.counts("insert").await["received"].clone();
    assert!(calls.as_u64().unwrap() <= 2 * 50 * 6 + 1, "{calls}");
}

#[tokio::test]
async fn a_task_that_is_gone_refuses_every_row_and_the_stream_ends_well() {
    let stage = Stage::set(silent(), "").await;
    let rows = all_good(120);
    let told = submit(&stage.outbound(), into_task("", "4711"), &rows).await;
    assert_eq!(ended_as(&told, &not("TASK_NOT_FOUND", "200202")), 120);
}

#[tokio::test]
async fn an_upload_without_rows_ends_at_once() {
    let stage = Stage::set(silent(), "").await;
    let told = submit(&stage.outbound(), into_task("", "129"), &[]).await;
    assert_eq!(told.totals(), Totals::default());
    assert!(!told.progress[0].upload_id.is_empty());
    // And one whose rows are all refused.
    let told = submit(&stage.outbound(), direct("x"), &[row("k", &["", "n"])]).await;
    assert_eq!(ended_as(&told, &not("PHONE_NUMBER_MISSING", "")), 1);
}
