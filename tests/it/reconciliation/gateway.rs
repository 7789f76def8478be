//! Overdue rows as a client sees them, through a whole gateway before the sandbox.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::Code;
use tonic_types::StatusExt;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::{
    BackfillPushesRequest, CallOutResponse, CallState, ListCallsRequest, ListOverdueRequest,
    ListOverdueResponse, OverdueReason, OverdueRow,
};

use crate::bridge::reason;
use crate::submissions::requests::call_out;
use crate::submissions::stage::{Stage, fast};
use crate::submissions::upload::{Row, direct, number, outcome, row, submit};
use crate::support::{Process, eventually};

/// Rows are overdue at once, and looked at all the time.
const AT_ONCE: &str = "[reconciliation]\n\
    after_submission = '0s'\nafter_task_end = '0s'\nevery = '1s'\n";

async fn page(stage: &Stage, request: ListOverdueRequest) -> ListOverdueResponse {
    let page = stage.calls().list_overdue(request).await.unwrap();
    page.into_inner()
}

async fn rows(stage: &Stage) -> Vec<OverdueRow> {
    let request = ListOverdueRequest {
        page_size: 1000,
        ..ListOverdueRequest::default()
    };
    page(stage, request).await.rows
}

/// The rows that are overdue once there are so many.
async fn overdue(stage: &Stage, count: usize) -> Vec<OverdueRow> {
    eventually("the overdue rows", async || {
        let rows = rows(stage).await;
        (rows.len() == count).then_some(rows)
    })
    .await
}

fn ids<'a>(rows: impl IntoIterator<Item = &'a OverdueRow>) -> BTreeSet<String> {
    rows.into_iter()
        .map(|row| row.task_data_id.clone())
        .collect()
}

/// From now on records are lost on their way.
async fn lose_records(stage: &Stage) {
    let fault = json!({ "operation": "receiveCallRecord", "fault": "lose", "times": 100_000 });
    stage.sandbox.fault(fault).await;
}

async fn call(stage: &Stage, rows: &[[&str; 2]]) -> CallOutResponse {
    let called = stage.outbound().call_out(call_out("", rows)).await;
    called.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_records_were_lost_are_listed_with_what_they_were_submitted_with() {
    let stage = Stage::set(fast(), AT_ONCE).await;
    call(&stage, &[["13000000001", "Anne"], ["13000000006", "Ben"]]).await;
    eventually("their calls", async || {
        let calls = stage.calls().list_calls(ListCallsRequest::default()).await;
        let calls = calls.unwrap().into_inner().calls;
        let whole = calls
            .iter()
            .filter(|call| call.state() == CallState::Complete);
        (whole.count() == 2).then_some(())
    })
    .await;
    lose_records(&stage).await;
    let plain = call(&stage, &[["13000000002", "Cora"]]).await;
    let request = call_out("order 7", &[["13000000003", "Dan"]]);
    let with_id = stage
        .outbound()
        .call_out(request)
        .await
        .unwrap()
        .into_inner();
    let upload = [
        row("ours 1", &[&number(1), "Eve"]),
        row("ours 2", &[&number(2), "Finn"]),
    ];
    let told = submit(&stage.outbound(), direct("monday"), &upload).await;
    let uploaded = told.results.iter().map(|result| match outcome(result) {
        Row::Taken(id) => (id, result.row_key.clone()),
        Row::Not(..) => panic!("{result:?}"),
    });

    let rows = overdue(&stage, 4).await;
    let of = |id: &String| rows.iter().find(|row| row.task_data_id == *id).unwrap();
    let told = |row: &OverdueRow| {
        (
            row.request_id.clone(),
            row.upload_id.clone(),
            row.row_key.clone(),
        )
    };
    let expected = |request: &str, upload: &str, key: &str| {
        (request.to_owned(), upload.to_owned(), key.to_owned())
    };
    assert_eq!(told(of(&plain.task_data_ids[0])), expected("", "", ""));
    assert_eq!(
        told(of(&with_id.task_data_ids[0])),
        expected("order 7", "", "")
    );
    for (id, key) in uploaded {
        assert_eq!(told(of(&id)), expected("", "monday", &key));
    }
    for row in &rows {
        assert_eq!(row.account, "default");
        assert_eq!(row.reason(), OverdueReason::CallOver);
        assert!(row.submitted_at.is_some() && row.overdue_since.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overdue_rows_survive_a_kill_and_leave_the_list_with_their_record() {
    let mut stage = Stage::set(fast(), AT_ONCE).await;
    lose_records(&stage).await;
    let called = call(&stage, &[["13000000001", "Anne"], ["13000000006", "Ben"]]).await;
    let before = overdue(&stage, 2).await;
    assert_eq!(ids(&before), called.task_data_ids.iter().cloned().collect());
    stage.kill_and_start().await;
    assert_eq!(rows(&stage).await, before);

    let record = json!({
        "call_uuid": "late", "task_data_id": called.task_data_ids[0], "direction": 1,
    });
    let path = "/sandbox/push?module=receiveCallRecord";
    let pushed = stage
        .sandbox
        .post_raw(path, &record.to_string())
        .await
        .unwrap();
    assert_eq!(pushed.json()["acknowledged"], true);
    let left = overdue(&stage, 1).await;
    assert_eq!(left[0].task_data_id, called.task_data_ids[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_the_days_that_the_list_names_brings_the_missing_records() {
    // Pushes go where nobody takes them.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let stage = Stage::set_pushing(fast(), AT_ONCE, Some(&nowhere)).await;
    let called = call(&stage, &[["13000000001", "Anne"], ["13000000006", "Ben"]]).await;
    let listed = overdue(&stage, 2).await;
    assert_eq!(ids(&listed), called.task_data_ids.iter().cloned().collect());
    let given_up = |pushes: &Value| pushes["in_flight"] == 0 && pushes["failed"] != 0;
    stage.sandbox.wait_for("/sandbox/pushes", given_up).await;
    stage.sandbox.admin("calendar", json!({ "days": 1 })).await;
    let grpc = stage.place().borrow().clone().unwrap().grpc;
    let mut client = PushServiceClient::connect(grpc).await.unwrap();
    let all = BackfillPushesRequest::default();
    let mut progress = client.backfill_pushes(all).await.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    overdue(&stage, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_hold_each_row_once_also_while_rows_leave_the_list() {
    let stage = Stage::set(fast(), AT_ONCE).await;
    lose_records(&stage).await;
    // Requests of 20 rows and of one.
    for index in 0..8 {
        let of_one = index % 2;
        let count = if of_one == 1 { 1 } else { 20 };
        let numbers: Vec<_> = (0..count).map(|of| number(index * 20 + of)).collect();
        let rows: Vec<_> = numbers.iter().map(|number| [&**number, "name"]).collect();
        call(&stage, &rows).await;
    }
    let all = ids(&overdue(&stage, 84).await);
    // Pages that end with a request and within one.
    for (page_size, leaves) in [(1, false), (7, false), (20, false), (21, false), (7, true)] {
        let mut request = ListOverdueRequest {
            page_size,
            ..ListOverdueRequest::default()
        };
        let mut seen = Vec::new();
        loop {
            let answer = page(&stage, request.clone()).await;
            assert!(answer.rows.len() <= usize::try_from(page_size).unwrap());
            seen.extend(answer.rows.iter().map(|row| row.task_data_id.clone()));
            if let Some(row) = answer.rows.first().filter(|_| leaves) {
                let record = json!({
                    "call_uuid": row.task_data_id, "task_data_id": row.task_data_id, "direction": 1,
                });
                let path = "/sandbox/push?module=receiveCallRecord";
                stage
                    .sandbox
                    .post_raw(path, &record.to_string())
                    .await
                    .unwrap();
            }
            request.page_token = answer.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(
            seen.iter().cloned().collect::<BTreeSet<_>>(),
            all,
            "{leaves}"
        );
        assert_eq!(seen.len(), all.len(), "{leaves}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_asked_for_by_task_and_reason() {
    let stage = Stage::set(fast(), AT_ONCE).await;
    lose_records(&stage).await;
    call(&stage, &[["13000000001", "Anne"]]).await;
    overdue(&stage, 1).await;
    let count = async |task_ids: &[&str], reasons: &[OverdueReason]| {
        let request = ListOverdueRequest {
            task_ids: task_ids.iter().map(|&id| id.to_owned()).collect(),
            reasons: reasons.iter().map(|&reason| reason.into()).collect(),
            ..ListOverdueRequest::default()
        };
        page(&stage, request).await.rows.len()
    };
    assert_eq!(count(&[""], &[]).await, 1);
    assert_eq!(count(&["1"], &[]).await, 0);
    assert_eq!(
        count(&[], &[OverdueReason::CallOver, OverdueReason::TaskFinished]).await,
        1
    );
    assert_eq!(count(&[], &[OverdueReason::TaskFinished]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_no_list_is_refused_with_its_field() {
    let stage = Stage::set(fast(), AT_ONCE).await;
    let bad = ListOverdueRequest {
        task_ids: vec!["1".into(); 1001],
        reasons: vec![1, 0, 99],
        page_size: 1001,
        ..ListOverdueRequest::default()
    };
    let refused = stage.calls().list_overdue(bad).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_details_bad_request().unwrap();
    let fields: Vec<_> = details
        .field_violations
        .into_iter()
        .map(|it| it.field)
        .collect();
    assert_eq!(
        fields,
        ["page_size", "task_ids", "reasons[1]", "reasons[2]"]
    );

    let bad = ListOverdueRequest {
        page_token: "x".into(),
        ..ListOverdueRequest::default()
    };
    let refused = stage.calls().list_overdue(bad).await.unwrap_err();
    assert_eq!(reason(&refused).1, "BAD_PAGE_TOKEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_overdue_rows_and_how_to_look_for_them() {
    let stage = Stage::set(fast(), AT_ONCE).await;
    lose_records(&stage).await;
    let run = async |more: &[&str]| -> String {
        let grpc = stage.place().borrow().clone().unwrap().grpc;
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_yeta-gateway"))
            .args(["call", "overdue", "--address", &grpc])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success());
        String::from_utf8(text).unwrap()
    };
    assert!(run(&[]).await.contains("no row is overdue"));
    let called = call(&stage, &[["13000000001", "Anne"], ["13000000006", "Ben"]]).await;
    overdue(&stage, 2).await;
    let table = run(&[]).await;
    for id in &called.task_data_ids {
        assert!(table.contains(id), "{table}");
    }
    assert!(table.contains("call over"), "{table}");
    let lines = run(&["--json", "--limit", "1"]).await;
    let row: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(row["reason"], "OVERDUE_REASON_CALL_OVER", "{lines}");
    assert!(
        run(&["--reason", "task-deleted"])
            .await
            .contains("no row is overdue")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_of_each_account_what_was_sent_answered_and_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[reconciliation]\nevery = '1s'\nreport_at = '00:00'\n";
    Process::configure(folder.path(), more);
    let gateway = Process::spawn(Process::command(folder.path())).await;
    gateway.until_logged("rows of a day").await;
    gateway.terminate();
    let (_, log) = gateway.ended().await;
    let line = log.lines().find(|line| line.contains("rows of a day"));
    let line: Value = serde_json::from_str(line.unwrap()).unwrap();
    let fields = ["account", "sent", "answered", "missing"].map(|of| line[of].clone());
    assert_eq!(json!(fields), json!(["default", 0, 0, 0]), "{line}");
}
