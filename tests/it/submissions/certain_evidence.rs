//! Call records settle a submission only where they are certain; the others are listed.

use std::time::Duration;

use serde_json::json;
use yeta_gateway::proto::{SubmissionEvidenceKind, SubmissionState};

use super::records::{
    Call, HOUR, assert_unknown, fault, id_of, lists, lose, until_judged, when, when_it,
};
use super::requests::{Told, accepted, call_out, insert, submission, told, told_by};
use super::stage::{Stage, silent};
use super::upload::{Row, direct, outcome, row, submit};

const ROW: [&str; 2] = ["13000000002", "one"];
const OTHER: [&str; 2] = ["13100000002", "two"];
const CALL_RECORD: SubmissionEvidenceKind = SubmissionEvidenceKind::CallRecord;

#[tokio::test]
async fn records_with_the_values_of_the_rows_settle_a_lost_request_under_the_right_ids() {
    let mut stage = Stage::set(silent(), "").await;
    lose(&stage, "a", &[ROW, OTHER], "cut_after_reading").await;
    let ids = [id_of(&stage, &ROW).await, id_of(&stage, &OTHER).await];
    // In the opposite order of the rows.
    for (row, id) in [ROW, OTHER].iter().zip(&ids).rev() {
        Call::of(row, id).push(&stage).await;
    }
    let expected = accepted(&[&ids[0], &ids[1]]);
    let kept = when_it(&stage, "a", |kept| told_by(kept) == expected).await;
    for (row, id) in (0..).zip(&ids) {
        let mut evidence = kept.evidence.iter();
        let settled = evidence.find(|it| it.row == row && it.settled);
        let settled = settled.unwrap_or_else(|| panic!("row {row}: {kept:?}"));
        assert_eq!(settled.kind(), CALL_RECORD);
        assert_eq!(&settled.task_data_id, id);
    }
    stage.kill_and_start().await;
    let repeat = stage
        .outbound()
        .call_out(call_out("a", &[ROW, OTHER]))
        .await;
    assert_eq!(told(repeat), expected);
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn a_record_without_values_is_listed_and_settles_nothing_until_the_other_one_comes() {
    let stage = Stage::set(silent(), "").await;
    lose(&stage, "a", &[ROW], "cut_after_reading").await;
    let id = id_of(&stage, &ROW).await;
    let call = Call::of(&ROW, &id);
    call.push_basic(&stage).await;
    let kept = when_it(&stage, "a", |kept| !kept.evidence.is_empty()).await;
    assert!(lists(&kept, CALL_RECORD, false), "{kept:?}");
    until_judged(&stage).await;
    assert_unknown(&stage, "a", &[ROW]).await;
    call.push_outbound(&stage).await;
    let kept = when(&stage, "a", SubmissionState::Accepted).await;
    assert_eq!(told_by(&kept), accepted(&[&id]));
    assert!(lists(&kept, CALL_RECORD, true), "{kept:?}");
}

#[tokio::test]
async fn a_direct_call_dialled_outside_of_the_evidence_window_settles_nothing() {
    for (more, late) in [
        ("", 3 * HOUR),
        ("submissions.evidence_window = '10m'", HOUR),
    ] {
        let stage = Stage::set(silent(), more).await;
        lose(&stage, "a", &[ROW], "cut_after_reading").await;
        let id = id_of(&stage, &ROW).await;
        Call::of(&ROW, &id).later(late).push(&stage).await;
        Call::of(&ROW, &id).earlier(HOUR).push(&stage).await;
        until_judged(&stage).await;
        assert_unknown(&stage, "a", &[ROW]).await;
    }
}

#[tokio::test]
async fn a_direct_call_dialled_within_the_evidence_window_settles_its_submission() {
    for (more, late) in [
        ("", HOUR),
        (
            "submissions.evidence_window = '10m'",
            Duration::from_secs(300),
        ),
    ] {
        let stage = Stage::set(silent(), more).await;
        lose(&stage, "a", &[ROW], "cut_after_reading").await;
        let id = id_of(&stage, &ROW).await;
        Call::of(&ROW, &id).later(late).push(&stage).await;
        let kept = when(&stage, "a", SubmissionState::Accepted).await;
        assert_eq!(told_by(&kept), accepted(&[&id]));
    }
}

#[tokio::test]
async fn rows_of_a_task_are_settled_by_a_call_however_late_but_not_by_one_of_another_task() {
    let stage = Stage::set(silent(), "").await;
    let (task, other) = (stage.task("mine").await, stage.task("other").await);
    fault(&stage, "insert", "cut_after_reading").await;
    let request = insert("a", &task, &[ROW]);
    let answer = stage.outbound().insert_task_data(request.clone()).await;
    assert_eq!(told(answer), Told::Unknown);
    let values = [ROW[0], ROW[1], "t3"];
    let id = id_of(&stage, &values).await;
    let call = Call::of(&values, &id).later(72 * HOUR);
    call.clone().in_task(&other).push(&stage).await;
    until_judged(&stage).await;
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(told_by(&kept), Told::Unknown, "{kept:?}");
    call.in_task(&task).push(&stage).await;
    when(&stage, "a", SubmissionState::Accepted).await;
    let repeat = stage.outbound().insert_task_data(request).await;
    assert_eq!(told(repeat), accepted(&[&id]));
}

#[tokio::test]
async fn a_refusal_that_a_certain_record_contradicts_becomes_an_acceptance() {
    let mut stage = Stage::set(silent(), "").await;
    let refusal = json!({
        "operation": "callout", "fault": "code", "code": 200_209, "message": "余额不足",
        "applied": true,
    });
    stage.sandbox.fault(refusal).await;
    let answer = stage.outbound().call_out(call_out("a", &[ROW])).await;
    assert_eq!(told(answer), Told::Refused("200209".into()));
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(told_by(&kept), Told::Refused("200209".into()));
    assert_eq!(kept.contradicted, None);
    let id = id_of(&stage, &ROW).await;
    let call = Call::of(&ROW, &id);
    call.push_basic(&stage).await;
    until_judged(&stage).await;
    let kept = submission(&mut stage.outbound(), "a").await.unwrap();
    assert_eq!(kept.state(), SubmissionState::Refused, "{kept:?}");
    call.push_outbound(&stage).await;
    for _ in 0..2 {
        let kept = when(&stage, "a", SubmissionState::Accepted).await;
        assert_eq!(told_by(&kept), accepted(&[&id]));
        let contradicted = kept.contradicted.unwrap();
        assert_eq!(contradicted.platform_code, "200209");
        assert_eq!(contradicted.message, "余额不足");
        let repeat = stage.outbound().call_out(call_out("a", &[ROW])).await;
        assert_eq!(told(repeat), accepted(&[&id]));
        stage.kill_and_start().await;
    }
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn a_lost_row_of_an_upload_is_accepted_under_its_id_once_its_record_has_come() {
    let stage = Stage::set(silent(), "").await;
    fault(&stage, "callout", "cut_after_reading").await;
    let rows = [row("k1", &ROW), row("k2", &OTHER)];
    let lost = submit(&stage.outbound(), direct("u"), &rows).await;
    assert_eq!(lost.totals().unknown, 2);
    let id = id_of(&stage, &ROW).await;
    Call::of(&ROW, &id).push(&stage).await;
    until_judged(&stage).await;
    let again = submit(&stage.outbound(), direct("u"), &rows).await;
    let by_key = again.by_key();
    assert_eq!(outcome(by_key["k1"]), Row::Taken(id));
    assert_eq!(again.totals().unknown, 1);
    assert!(again.results.iter().all(|result| result.known_before));
    assert_eq!(stage.row(&OTHER).await, (1, 1));
}
