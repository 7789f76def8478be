//! A person settles what nobody else can prove.

use tonic::{Code, Status};
use yeta_gateway::proto::settle_submission_request::{Outcome, Which};
use yeta_gateway::proto::{
    SettleSubmissionRequest, SettledAccepted, SettledNotSent, Submission, SubmissionState,
    UploadRowName,
};

use super::clients::{client, configured};
use super::records::{fault, id_of, lose};
use super::requests::{Told, accepted, call_out, create_task, submission, told, told_by};
use super::stage::{Stage, silent};
use super::upload::{Row, direct, not, outcome, row, submit};
use crate::bridge::reason;

const ROW: [&str; 2] = ["13000000002", "one"];
const OTHER: [&str; 2] = ["13100000002", "two"];
const REASON: &str = "asked the platform's support";

fn by_request_id(request_id: &str) -> Which {
    Which::RequestId(request_id.into())
}

fn by_row(upload_id: &str, row_key: &str) -> Which {
    Which::UploadRow(UploadRowName {
        upload_id: upload_id.into(),
        row_key: row_key.into(),
    })
}

fn with_ids(ids: &[&str]) -> Outcome {
    Outcome::Accepted(SettledAccepted {
        task_data_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        task_id: String::new(),
    })
}

fn as_task(task_id: &str) -> Outcome {
    Outcome::Accepted(SettledAccepted {
        task_data_ids: Vec::new(),
        task_id: task_id.into(),
    })
}

const fn not_sent() -> Outcome {
    Outcome::NotSent(SettledNotSent {})
}

fn request(which: Which, outcome: Outcome) -> SettleSubmissionRequest {
    SettleSubmissionRequest {
        which: Some(which),
        outcome: Some(outcome),
        reason: REASON.into(),
        client: String::new(),
    }
}

async fn settle(stage: &Stage, which: Which, outcome: Outcome) -> Result<Submission, Status> {
    let request = request(which, outcome);
    let answer = stage.outbound().settle_submission(request).await?;
    Ok(answer.into_inner())
}

/// The reason of a refusal, which must have this code.
fn refused(answer: Result<Submission, Status>, expected: Code) -> String {
    let status = answer.expect_err("a refusal");
    let (code, reason, _) = reason(&status);
    assert_eq!(code, expected, "{status:?}");
    reason
}

fn assert_settlement(kept: &Submission, is_accepted: bool, row: Option<i32>) {
    let last = kept.settlements.last().expect("a settlement");
    assert_eq!((last.accepted, last.row), (is_accepted, row), "{kept:?}");
    assert_eq!(last.reason, REASON);
    assert!(last.at.is_some());
}

#[tokio::test]
async fn a_request_settled_as_accepted_answers_its_ids_also_after_a_restart() {
    let mut stage = Stage::set(silent(), "").await;
    lose(&stage, "a", &[ROW, OTHER], "cut_after_reading").await;
    let ids = [id_of(&stage, &ROW).await, id_of(&stage, &OTHER).await];
    let outcome = || with_ids(&[&ids[0], &ids[1]]);
    let kept = settle(&stage, by_request_id("a"), outcome()).await.unwrap();
    assert_eq!(kept.state(), SubmissionState::Accepted);
    for _ in 0..2 {
        let kept = submission(&mut stage.outbound(), "a").await.unwrap();
        assert_eq!(told_by(&kept), accepted(&[&ids[0], &ids[1]]));
        assert_eq!(kept.settlements.len(), 1);
        assert_settlement(&kept, true, None);
        let repeat = stage
            .outbound()
            .call_out(call_out("a", &[ROW, OTHER]))
            .await;
        assert_eq!(told(repeat), accepted(&[&ids[0], &ids[1]]));
        stage.kill_and_start().await;
    }
    let again = settle(&stage, by_request_id("a"), outcome()).await;
    assert_eq!(
        refused(again, Code::FailedPrecondition),
        "SUBMISSION_NOT_UNKNOWN"
    );
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn a_request_settled_as_not_sent_goes_out_once_more() {
    for is_killed in [false, true] {
        let mut stage = Stage::set(silent(), "").await;
        lose(&stage, "a", &[ROW], "cut_before_reading").await;
        settle(&stage, by_request_id("a"), not_sent())
            .await
            .unwrap();
        if is_killed {
            stage.kill_and_start().await;
        }
        for _ in 0..2 {
            let repeat = stage.outbound().call_out(call_out("a", &[ROW])).await;
            let id = id_of(&stage, &ROW).await;
            assert_eq!(told(repeat), accepted(&[&id]));
        }
        assert_eq!(stage.row(&ROW).await, (1, 1));
        let kept = submission(&mut stage.outbound(), "a").await.unwrap();
        assert_settlement(&kept, false, None);
    }
}

#[tokio::test]
async fn a_request_settled_as_not_sent_that_is_lost_again_is_unknown_again() {
    let stage = Stage::set(silent(), "").await;
    lose(&stage, "a", &[ROW], "cut_before_reading").await;
    settle(&stage, by_request_id("a"), not_sent())
        .await
        .unwrap();
    lose(&stage, "a", &[ROW], "cut_after_reading").await;
    let repeat = stage.outbound().call_out(call_out("a", &[ROW])).await;
    assert_eq!(told(repeat), Told::Unknown);
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn a_task_is_settled_by_its_id() {
    let stage = Stage::set(silent(), "").await;
    // Two of one name, so that nobody but a person can say which it is.
    stage.task("mine").await;
    fault(&stage, "create", "cut_before_reading").await;
    let lost = create_task("a", "mine");
    let answer = stage.outbound().create_task(lost.clone()).await;
    assert_eq!(told(answer), Told::Unknown);
    let no_task = settle(&stage, by_request_id("a"), with_ids(&["1"])).await;
    refused(no_task, Code::InvalidArgument);
    settle(&stage, by_request_id("a"), as_task("4711"))
        .await
        .unwrap();
    let repeat = stage.outbound().create_task(lost).await;
    assert_eq!(told(repeat), accepted(&["4711"]));
}

#[tokio::test]
async fn rows_of_an_upload_are_settled_one_by_one() {
    let mut stage = Stage::set(silent(), "").await;
    fault(&stage, "callout", "cut_before_reading").await;
    let third = ["13200000002", "three"];
    let rows = [row("k1", &ROW), row("k2", &OTHER), row("k3", &third)];
    let lost = submit(&stage.outbound(), direct("u"), &rows).await;
    assert_eq!(lost.totals().unknown, 3);
    let too_many = settle(&stage, by_row("u", "k1"), with_ids(&["1", "2"])).await;
    refused(too_many, Code::InvalidArgument);
    let kept = settle(&stage, by_row("u", "k1"), with_ids(&["4711"])).await;
    let kept = kept.unwrap();
    assert_eq!(kept.upload_id, "u");
    let place = kept.row_keys.iter().position(|key| key == "k1").unwrap();
    assert_settlement(&kept, true, Some(i32::try_from(place).unwrap()));
    settle(&stage, by_row("u", "k2"), not_sent()).await.unwrap();
    stage.kill_and_start().await;

    let again = submit(&stage.outbound(), direct("u"), &rows).await;
    let by_key = again.by_key();
    assert_eq!(outcome(by_key["k1"]), Row::Taken("4711".into()));
    assert_eq!(
        outcome(by_key["k2"]),
        Row::Taken(id_of(&stage, &OTHER).await)
    );
    assert!(by_key["k1"].known_before && !by_key["k2"].known_before);
    assert_eq!(outcome(by_key["k3"]), not("OUTCOME_UNKNOWN", ""));
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 1);

    let known = settle(&stage, by_row("u", "k2"), not_sent()).await;
    assert_eq!(
        refused(known, Code::FailedPrecondition),
        "SUBMISSION_NOT_UNKNOWN"
    );
    let missing = settle(&stage, by_row("u", "k4"), not_sent()).await;
    assert_eq!(refused(missing, Code::NotFound), "SUBMISSION_NOT_FOUND");
}

#[tokio::test]
async fn the_last_row_settled_as_not_sent_leaves_nothing_unknown() {
    let stage = Stage::set(silent(), "").await;
    fault(&stage, "callout", "cut_before_reading").await;
    let rows = [row("k1", &ROW), row("k2", &OTHER)];
    submit(&stage.outbound(), direct("u"), &rows).await;
    let first = settle(&stage, by_row("u", "k1"), not_sent()).await.unwrap();
    assert_eq!(first.state(), SubmissionState::Unknown);
    let last = settle(&stage, by_row("u", "k2"), not_sent()).await.unwrap();
    assert_eq!(last.state(), SubmissionState::Unspecified);
    assert_eq!(last.unknown_because, "");
}

#[tokio::test]
async fn a_settlement_that_does_not_fit_the_submission_is_refused() {
    let stage = Stage::set(silent(), "").await;
    lose(&stage, "a", &[ROW, OTHER], "cut_before_reading").await;
    for outcome in [with_ids(&[]), with_ids(&["1"]), with_ids(&["1", "2", "3"])] {
        let answer = settle(&stage, by_request_id("a"), outcome).await;
        refused(answer, Code::InvalidArgument);
    }
    let whole = request(by_request_id("a"), not_sent());
    for broken in [
        SettleSubmissionRequest {
            which: None,
            ..whole.clone()
        },
        SettleSubmissionRequest {
            outcome: None,
            ..whole.clone()
        },
        SettleSubmissionRequest {
            reason: String::new(),
            ..whole.clone()
        },
        SettleSubmissionRequest {
            reason: "r".repeat(513),
            ..whole.clone()
        },
    ] {
        let answer = stage.outbound().settle_submission(broken).await;
        refused(
            answer.map(tonic::Response::into_inner),
            Code::InvalidArgument,
        );
    }
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!((told_by(&kept), kept.settlements.len()), (Told::Unknown, 0));
    let missing = settle(&stage, by_request_id("b"), not_sent()).await;
    assert_eq!(refused(missing, Code::NotFound), "SUBMISSION_NOT_FOUND");
}

#[tokio::test]
async fn what_is_known_cannot_be_settled() {
    let stage = Stage::set(silent(), "").await;
    let answer = stage.outbound().call_out(call_out("a", &[ROW])).await;
    assert!(matches!(told(answer), Told::Accepted(_)));
    let bad = ["13300009999", "n"];
    let answer = stage.outbound().call_out(call_out("b", &[bad])).await;
    assert!(matches!(told(answer), Told::Refused(_)));
    for request_id in ["a", "b"] {
        for outcome in [not_sent(), with_ids(&["1"])] {
            let answer = settle(&stage, by_request_id(request_id), outcome).await;
            assert_eq!(
                refused(answer, Code::FailedPrecondition),
                "SUBMISSION_NOT_UNKNOWN"
            );
        }
    }
}

#[tokio::test]
async fn only_a_client_with_the_right_admin_settles_and_names_the_client_where_several_fit() {
    let clients = configured(&[
        ("a", "'outbound'"),
        ("b", "'outbound'"),
        ("boss", "'outbound', 'admin'"),
    ]);
    let stage = Stage::set(silent(), &clients).await;
    let mut outbound = stage.outbound();
    for name in ["a", "b"] {
        fault(&stage, "callout", "cut_before_reading").await;
        let lost = outbound.call_out(client(name, call_out("1", &[ROW]))).await;
        assert_eq!(told(lost), Told::Unknown, "{name}");
    }
    let whole = request(by_request_id("1"), not_sent());
    let own = outbound.settle_submission(client("a", whole.clone())).await;
    let own = own.map(tonic::Response::into_inner);
    assert_eq!(refused(own, Code::PermissionDenied), "RPC_FORBIDDEN");
    let unclear = outbound
        .settle_submission(client("boss", whole.clone()))
        .await;
    let unclear = unclear.map(tonic::Response::into_inner);
    assert_eq!(
        refused(unclear, Code::FailedPrecondition),
        "SUBMISSION_AMBIGUOUS"
    );
    let named = SettleSubmissionRequest {
        client: "a".into(),
        ..whole
    };
    let settled = outbound.settle_submission(client("boss", named)).await;
    let settled = settled.unwrap().into_inner();
    assert_eq!(
        (&*settled.client, &*settled.settlements[0].client),
        ("a", "boss")
    );
    let again = outbound.call_out(client("a", call_out("1", &[ROW]))).await;
    assert!(matches!(told(again), Told::Accepted(_)));
    let other = outbound.call_out(client("b", call_out("1", &[ROW]))).await;
    assert_eq!(told(other), Told::Unknown);
}
