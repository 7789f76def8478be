//! Uploads while the platform is in trouble: little is put at risk, and the rest waits.

use serde_json::{Value, json};
use tonic::{Code, Status};
use yeta_gateway::proto::QueryTasksRequest;
use yeta_gateway::sandbox::SandboxConfig;

use super::records::drop_faults;
use super::requests::{call_out, content};
use super::stage::{Stage, silent};
use super::upload::{Row, Told, direct, good, into_task, outcome, row, submit};
use crate::bridge::reason;
use crate::support::eventually;

/// Upload streams end quickly where the platform cannot be asked.
const HURRIED: &str = "submissions.patience = '1s'";
const FOREVER: u64 = 1_000_000_000;
/// Rows of a batch.
const BATCH: usize = 50;
/// `submissions.max_batches`.
const BATCHES: usize = 4;

/// Lets the token operation answer so from now on, and ends the token that the gateway has.
async fn without_token(stage: &Stage, fault: Value) {
    let warm = call_out("", &[["13900000002", "warm"]]);
    stage.outbound().call_out(warm).await.unwrap();
    stage.sandbox.fault(fault).await;
    stage.sandbox.admin("tokens/expire", json!({})).await;
}

fn ended(told: &Told, expected: &str) -> Status {
    let status = told.end.clone().unwrap_err();
    let (code, reason, _) = reason(&status);
    assert_eq!(
        (code, &*reason),
        (Code::Unavailable, expected),
        "{status:?}"
    );
    status
}

fn how_many(told: &Told, reason: &str) -> usize {
    let results = told.results.iter().map(outcome);
    results
        .filter(|row| matches!(row, Row::Not(why, _) if why == reason))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_answers_stop_an_upload_after_a_few_batches_and_the_rest_goes_out_later() {
    const ROWS: usize = 5_000;
    let stage = Stage::set(silent(), HURRIED).await;
    let task = stage.task("bulk").await;
    let page = json!({ "operation": "any", "fault": "html", "status": 502, "times": FOREVER });
    stage.sandbox.fault(page).await;
    let all: Vec<_> = (0..ROWS).map(good).collect();
    let first = submit(&stage.outbound(), into_task("u", &task), &all).await;
    ended(&first, "PLATFORM_UNREADABLE");
    let unknown = how_many(&first, "OUTCOME_UNKNOWN");
    assert_eq!(unknown, first.results.len(), "the rest has no result");
    assert!(
        unknown <= (3 + BATCHES) * BATCH,
        "{unknown} rows are unknown"
    );
    let received = stage.sandbox.get("/sandbox/rows").await["received"].clone();
    assert_eq!(
        received, unknown,
        "what was sent is unknown, and nothing else"
    );

    drop_faults(&stage).await;
    // A readable answer shows the gateway that the platform is well again.
    let query = QueryTasksRequest::default();
    stage.outbound().query_tasks(query).await.unwrap();
    let second = submit(&stage.outbound(), into_task("u", &task), &all).await;
    let totals = second.totals();
    assert_eq!(totals.unknown, i64::try_from(unknown).unwrap());
    assert_eq!(totals.accepted, i64::try_from(ROWS - unknown).unwrap());
    let rows = stage.sandbox.get("/sandbox/rows").await;
    assert_eq!(
        (&rows["received"], &rows["accepted"]),
        (&json!(ROWS), &json!(ROWS - unknown))
    );
}

#[tokio::test]
async fn a_code_that_all_rows_get_is_no_rows_own_fault() {
    for code in [10_005, 200_212] {
        let stage = Stage::set(silent(), "").await;
        let refusal = json!({
            "operation": "callout", "fault": "code", "code": code, "times": FOREVER,
        });
        stage.sandbox.fault(refusal).await;
        let rows: Vec<_> = (0..200)
            .map(|index| {
                let mut row = good(index);
                row.values.pop();
                row
            })
            .collect();
        let first = submit(&stage.outbound(), direct("u"), &rows).await;
        assert_eq!(first.totals().refused, 200);
        drop_faults(&stage).await;
        let second = submit(&stage.outbound(), direct("u"), &rows).await;
        assert_eq!(second.totals().accepted, 200, "{code}");
        let rows = stage.sandbox.get("/sandbox/rows").await;
        assert_eq!(rows["accepted_again"], 0);
    }
}

#[tokio::test]
async fn a_busy_platform_ends_an_upload_with_its_rows_unsent_after_the_patience() {
    let stage = Stage::set(silent(), HURRIED).await;
    let busy = json!({ "operation": "insert", "fault": "busy", "times": FOREVER });
    stage.sandbox.fault(busy).await;
    let task = stage.task("busy").await;
    let all: Vec<_> = (0..500).map(good).collect();
    let told = submit(&stage.outbound(), into_task("u", &task), &all).await;
    ended(&told, "PLATFORM_BUSY");
    assert!(told.results.is_empty(), "{:?}", told.results);
    drop_faults(&stage).await;
    let again = submit(&stage.outbound(), into_task("u", &task), &all).await;
    assert_eq!(again.totals().accepted, 500);
    assert_eq!(
        stage.sandbox.get("/sandbox/rows").await["accepted_again"],
        0
    );
}

#[tokio::test]
async fn all_rows_go_through_where_the_platform_is_busy_for_less_than_the_patience() {
    let stage = Stage::set(silent(), "").await;
    let busy = json!({ "operation": "insert", "fault": "busy", "times": 6 });
    stage.sandbox.fault(busy).await;
    let task = stage.task("busy").await;
    let all: Vec<_> = (0..500).map(good).collect();
    let told = submit(&stage.outbound(), into_task("u", &task), &all).await;
    assert_eq!(told.totals().accepted, 500);
}

#[tokio::test]
async fn an_upload_waits_for_a_token_operation_that_is_busy_or_under_maintenance() {
    for fault in [
        json!({ "operation": "token", "times": 2, "fault": "busy" }),
        json!({ "operation": "token", "times": 2, "fault": "code", "code": 10_020 }),
    ] {
        let stage = Stage::set(silent(), "").await;
        without_token(&stage, fault.clone()).await;
        let rows = [row("k1", &["13000000002", "one"])];
        let told = submit(&stage.outbound(), direct("u"), &rows).await;
        assert!(told.end.is_ok(), "{fault}: {told:?}");
        assert_eq!(told.totals().accepted, 1, "{fault}");
    }
}

#[tokio::test]
async fn an_upload_ends_unsent_where_the_token_operation_is_busy_for_longer_than_the_patience() {
    // Long enough for several requests for a token.
    let stage = Stage::set(silent(), "submissions.patience = '8s'").await;
    let busy = json!({ "operation": "token", "fault": "busy", "times": FOREVER });
    without_token(&stage, busy).await;
    let asked = async || {
        let counts = stage.sandbox.counts("token").await;
        counts["received"].as_u64().unwrap_or(0)
    };
    let before = asked().await;
    let rows = [row("k1", &["13000000002", "one"])];
    let (client, all) = (stage.outbound(), rows.clone());
    let upload = tokio::spawn(async move { submit(&client, direct("u"), &all).await });
    eventually("the second request for a token", async || {
        (asked().await >= before + 2).then_some(())
    })
    .await;
    assert!(
        !upload.is_finished(),
        "the upload does not wait for a token"
    );
    let told = upload.await.unwrap();
    let status = told.end.clone().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(told.results.is_empty(), "{:?}", told.results);
    drop_faults(&stage).await;
    eventually("a token", async || {
        let call = call_out("", &[["13900000002", "another"]]);
        stage.outbound().call_out(call).await.ok()
    })
    .await;
    let again = submit(&stage.outbound(), direct("u"), &rows).await;
    assert_eq!(again.totals().accepted, 1);
}

#[tokio::test]
async fn no_row_goes_out_twice_where_a_refused_insert_has_kept_its_good_rows() {
    for keeps in [true, false] {
        let config = SandboxConfig {
            insert_keeps_good_rows: keeps,
            ..silent()
        };
        let stage = Stage::set(config, "").await;
        let task = stage.task("kept").await;
        let mut all: Vec<_> = (0..150).map(good).collect();
        for bad in [7, 60, 61] {
            all[bad].values[0] = format!("13900{bad:02}9999");
        }
        for _ in 0..2 {
            let told = submit(&stage.outbound(), into_task("u", &task), &all).await;
            let report = stage.sandbox.get("/sandbox/requests").await;
            let rows = &report["rows"];
            assert_eq!(rows["accepted_again"], 0, "keeps: {keeps}");
            for (row, result) in all.iter().map(|row| (row, told.by_key()[&*row.row_key])) {
                let held = &rows["ids_by_content"][content(&row.values)];
                match outcome(result) {
                    Row::Taken(id) => assert_eq!(held, &json!([id])),
                    Row::Not(reason, _) if reason == "OUTCOME_UNKNOWN" => assert!(keeps),
                    Row::Not(reason, code) => {
                        assert_eq!((&*reason, &*code), ("BAD_PHONE_NUMBER", "200203"));
                        assert!(held.is_null(), "{} is held and refused", row.row_key);
                    }
                }
            }
            if !keeps {
                assert_eq!(told.totals().accepted, 147);
            }
        }
    }
}
