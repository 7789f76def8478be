//! Only a documented code in an answer without a server error proves that the platform refused.

use serde_json::{Value, json};
use tonic_types::StatusExt;
use yeta_gateway::proto::{SubmissionEvidenceKind, SubmissionState};

use super::records::{Call, assert_unknown, id_of, when, when_it};
use super::requests::{Told, accepted, call_out, create_task, submission, told, told_by};
use super::stage::{Stage, silent};
use super::upload::{direct, not, outcome, row, submit};

const ROW: [&str; 2] = ["13000000002", "one"];
const OTHER: [&str; 2] = ["13100000002", "two"];

/// Answers behind which the platform may have acted.
fn unproven() -> [Value; 4] {
    [
        json!({ "code": 500, "status": 500 }),
        json!({ "code": 200_209, "status": 503 }),
        json!({ "code": 10_001, "status": 502 }),
        json!({ "code": 77, "status": 200 }),
    ]
}

async fn answer_applied(stage: &Stage, mut fault: Value) {
    fault["operation"] = json!("callout");
    fault["fault"] = json!("code");
    fault["applied"] = json!(true);
    stage.sandbox.fault(fault).await;
}

#[tokio::test]
async fn a_request_answered_without_proof_is_unknown_to_its_caller_and_to_every_repeat() {
    for fault in unproven() {
        let mut stage = Stage::set(silent(), "").await;
        answer_applied(&stage, fault.clone()).await;
        for _ in 0..2 {
            let answer = stage.outbound().call_out(call_out("a", &[ROW])).await;
            assert_eq!(told(answer), Told::Unknown, "{fault}");
            assert_unknown(&stage, "a", &[ROW]).await;
            stage.kill_and_start().await;
        }
        assert_eq!(stage.row(&ROW).await, (1, 1), "{fault}");
    }
}

#[tokio::test]
async fn rows_answered_without_proof_are_unknown_and_never_sent_again() {
    for fault in unproven() {
        let stage = Stage::set(silent(), "").await;
        answer_applied(&stage, fault.clone()).await;
        let rows = [row("k1", &ROW), row("k2", &OTHER)];
        for _ in 0..3 {
            let told = submit(&stage.outbound(), direct("u"), &rows).await;
            for result in told.by_key().values() {
                let reason = outcome(result);
                assert!(
                    matches!(&reason, super::upload::Row::Not(reason, _) if reason == "OUTCOME_UNKNOWN"),
                    "{fault}: {result:?}"
                );
            }
            assert_eq!(told.results.len(), 2);
        }
        assert_eq!(stage.row(&ROW).await, (1, 1), "{fault}");
    }
}

#[tokio::test]
async fn a_documented_code_without_a_server_error_is_a_refusal() {
    for status in [200, 400] {
        let stage = Stage::set(silent(), "").await;
        let fault = json!({
            "operation": "callout", "fault": "code", "code": 200_209, "status": status,
        });
        stage.sandbox.fault(fault).await;
        for _ in 0..2 {
            let answer = stage.outbound().call_out(call_out("a", &[ROW])).await;
            assert_eq!(told(answer), Told::Refused("200209".into()));
        }
        let kept = submission(&mut stage.outbound(), "a").await.unwrap();
        assert_eq!(kept.state(), SubmissionState::Refused);
        assert_eq!(stage.row(&ROW).await, (1, 0));
    }
}

#[tokio::test]
async fn a_created_task_without_its_id_is_unknown_until_it_is_found() {
    let stage = Stage::set(silent(), "").await;
    let fault = json!({ "operation": "create", "fault": "no_ids" });
    stage.sandbox.fault(fault).await;
    let request = create_task("a", "mine");
    let status = stage.outbound().create_task(request.clone()).await;
    let details = status.unwrap_err().get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "OUTCOME_UNKNOWN");
    let kept = when_it(&stage, "a", |kept| !kept.evidence.is_empty()).await;
    assert!(!kept.unknown_because.is_empty() || kept.state() == SubmissionState::Accepted);
    let kept = when(&stage, "a", SubmissionState::Accepted).await;
    let session = stage.sandbox.session().await;
    let found = session
        .result("query", json!({ "task_name": "mine" }))
        .await;
    let id = found["rows"][0]["task_id"].as_str().unwrap();
    assert_eq!(told_by(&kept), accepted(&[id]));
    let mut evidence = kept.evidence.iter();
    assert!(evidence.any(|it| it.kind() == SubmissionEvidenceKind::Task && it.settled));
    let repeat = stage.outbound().create_task(request).await;
    assert_eq!(told(repeat), accepted(&[id]));
    assert_eq!(stage.sandbox.counts("create").await["received"], 1);
}

#[tokio::test]
async fn an_accepted_request_with_fewer_ids_than_rows_has_an_empty_id_until_a_record_comes() {
    let stage = Stage::set(silent(), "").await;
    let fault = json!({ "operation": "callout", "fault": "no_ids", "ids": 1 });
    stage.sandbox.fault(fault).await;
    let request = call_out("a", &[ROW, OTHER]);
    let answer = stage.outbound().call_out(request.clone()).await;
    let ids = [id_of(&stage, &ROW).await, id_of(&stage, &OTHER).await];
    // Which of the rows the id belongs to is not known.
    let unnamed = accepted(&["", ""]);
    assert_eq!(told(answer), unnamed);
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(told_by(&kept), unnamed);
    Call::of(&OTHER, &ids[1]).push(&stage).await;
    let partly = accepted(&["", &ids[1]]);
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(told_by(&kept), partly);
    Call::of(&ROW, &ids[0]).push(&stage).await;
    let both = accepted(&[&ids[0], &ids[1]]);
    when_it(&stage, "a", |kept| told_by(kept) == both).await;
    let repeat = stage.outbound().call_out(request).await;
    assert_eq!(told(repeat), both);
}

#[tokio::test]
async fn a_row_without_an_id_in_the_answer_is_unknown_and_never_sent_again() {
    let stage = Stage::set(silent(), "").await;
    let fault = json!({ "operation": "callout", "fault": "no_ids", "ids": 0 });
    stage.sandbox.fault(fault).await;
    for _ in 0..2 {
        let told = submit(&stage.outbound(), direct("u"), &[row("k1", &ROW)]).await;
        assert_eq!(outcome(&told.results[0]), not("OUTCOME_UNKNOWN", ""));
    }
    assert_eq!(stage.row(&ROW).await, (1, 1));
}
