//! The same row or request once more, while the first is under way or after its refusal.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic_types::StatusExt;
use yeta_gateway::proto::submit_rows_response::Message;

use super::records::{drop_faults, fault};
use super::requests::{Told, call_out, create_task, submission, told, told_by};
use super::stage::{Stage, silent};
use super::upload::{Row, direct, header, outcome, row, rows};
use crate::support::within;

const ROW: [&str; 2] = ["13000000002", "one"];

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_repeat_of_an_unknown_request_is_told_that_nothing_was_changed() {
    let stage = Stage::set(silent(), "").await;
    let request = create_task("a", "mine");
    fault(&stage, "create", "cut_before_reading").await;
    let answer = stage.outbound().create_task(request.clone()).await;
    assert_eq!(told(answer), Told::Unknown);
    // From now on nobody can look for the task.
    let hanging = json!({ "operation": "query", "fault": "hold", "times": 1_000_000 });
    stage.sandbox.fault(hanging).await;
    let mut reasons = Vec::new();
    for _ in 0..6 {
        let repeats = (0..4).map(|_| {
            let request = with_deadline(request.clone(), Duration::from_secs(1));
            let mut client = stage.outbound();
            async move { client.create_task(request).await.unwrap_err() }
        });
        for status in within("the repeats", join_all(repeats)).await {
            // Without a reason, the status is that of the client's own deadline.
            if let Some(info) = status.get_error_details().error_info() {
                reasons.push(info.reason.clone());
            }
        }
    }
    assert!(!reasons.is_empty());
    let others: Vec<_> = reasons
        .iter()
        .filter(|it| *it != "OUTCOME_UNKNOWN")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(told_by(&kept), Told::Unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_that_joins_a_request_has_its_own_deadline() {
    let stage = Stage::set(silent(), "platform.request_timeout = '60s'").await;
    let warm = call_out("", &[["13900000002", "warm"]]);
    stage.outbound().call_out(warm).await.unwrap();
    // The first try is refused, and nothing goes out before there is another token.
    fault(&stage, "token", "hold").await;
    stage.sandbox.admin("tokens/expire", json!({})).await;
    let before = stage.sandbox.counts("callout").await["received"].clone();
    let (mut first, mut second) = (stage.outbound(), stage.outbound());
    let hurried = with_deadline(call_out("a", &[ROW]), Duration::from_secs(3));
    let hurried = tokio::spawn(async move { first.call_out(hurried).await });
    let is_refused = |report: &Value| report["operations"]["callout"]["received"] != before;
    stage
        .sandbox
        .wait_for("/sandbox/requests", is_refused)
        .await;
    let patient = tokio::spawn(async move { second.call_out(call_out("a", &[ROW])).await });
    let answer = within("the first answer", hurried).await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    drop_faults(&stage).await;
    let answer = within("the second answer", patient).await.unwrap();
    let answer = told(answer);
    assert!(matches!(answer, Told::Accepted(_)), "{answer:?}");
    assert_eq!(stage.row(&ROW).await.1, 1);
}

#[tokio::test]
async fn a_row_sent_again_behind_its_refusal_is_no_duplicate_of_itself() {
    let stage = Stage::set(silent(), "").await;
    let refusal = json!({
        "operation": "callout", "fault": "code", "code": 200_209, "millis": 300,
    });
    stage.sandbox.fault(refusal).await;
    let (sender, receiver) = mpsc::channel(4);
    sender.send(header(direct("u"))).await.unwrap();
    let same = [row("k1", &ROW)];
    sender.send(rows(&same)).await.unwrap();
    let stream = ReceiverStream::new(receiver);
    let answers = stage.outbound().submit_rows(stream).await;
    let mut answers = answers.unwrap().into_inner();
    // The platform has read the first; its refusal comes after the second was submitted.
    stage
        .sandbox
        .wait_for("/sandbox/rows", |rows| rows["received"] == 1)
        .await;
    sender.send(rows(&same)).await.unwrap();
    drop(sender);
    let mut outcomes = Vec::new();
    while let Some(answer) = within("an answer", answers.message()).await.unwrap() {
        if let Some(Message::Row(result)) = answer.message {
            outcomes.push(outcome(&result));
        }
    }
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        match outcome {
            Row::Taken(_) => {}
            Row::Not(reason, _) => assert_eq!(reason, "INSUFFICIENT_BALANCE"),
        }
    }
}
