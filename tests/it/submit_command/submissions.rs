//! Request ids on the command line, and what is told of submissions.

use yeta_gateway::proto::submission::{Outcome, Request};
use yeta_gateway::proto::{
    CallOutRequest, CreateTaskRequest, Row, Submission, SubmissionError, SubmissionEvidence,
    SubmissionEvidenceKind, SubmissionOperation, SubmissionState,
};

use super::{Place, assert_no_numbers};

async fn place() -> Place {
    let place = Place::new().await;
    let lost = Submission {
        request_id: "lost".into(),
        state: SubmissionState::Unknown.into(),
        operation: SubmissionOperation::CallOut.into(),
        account: "default".into(),
        request: Some(Request::CallOut(CallOutRequest {
            robot_id: "719".into(),
            line_num: "0551".into(),
            call_list: vec![Row {
                values: vec!["13800000001".into(), "张".into()],
            }],
            ..CallOutRequest::default()
        })),
        unknown_because: "the connection broke".into(),
        evidence: vec![SubmissionEvidence {
            kind: SubmissionEvidenceKind::CallRecord.into(),
            call_uuid: "call-7".into(),
            task_data_id: "data-9".into(),
            ..SubmissionEvidence::default()
        }],
        ..Submission::default()
    };
    let refused = Submission {
        request_id: "refused".into(),
        state: SubmissionState::Refused.into(),
        operation: SubmissionOperation::CreateTask.into(),
        request: Some(Request::CreateTask(CreateTaskRequest::default())),
        outcome: Some(Outcome::Error(SubmissionError {
            platform_code: "200203".into(),
            message: "号码13800000002不合规".into(),
        })),
        ..Submission::default()
    };
    let batch = Submission {
        upload_id: "file-1".into(),
        request_id: String::new(),
        row_keys: vec!["17".into()],
        ..lost.clone()
    };
    place.fake.book.lock().unwrap().submissions = vec![lost, refused, batch];
    place
}

#[tokio::test]
async fn submissions_are_listed_page_by_page_and_by_state() {
    let place = place().await;
    let all = place.run(&["submission", "list"]).await;
    assert_eq!(all.code, Some(0), "{}", all.err);
    for told in [
        "lost",
        "refused",
        "upload file-1",
        "code 200203",
        "the connection broke",
    ] {
        assert!(all.out.contains(told), "{told} in {}", all.out);
    }
    assert_no_numbers(&all.out);
    let unknown = place
        .run(&["submission", "list", "--state", "unknown", "--json"])
        .await;
    let states = unknown.out.lines().map(|line| {
        let told: serde_json::Value = serde_json::from_str(line).unwrap();
        told["state"].as_str().unwrap().to_owned()
    });
    let states: Vec<_> = states.collect();
    assert_eq!(states, ["SUBMISSION_STATE_UNKNOWN"; 2]);
    let one = place.run(&["submission", "list", "--limit", "1"]).await;
    assert!(one.out.contains("there may be more"), "{}", one.out);
}

#[tokio::test]
async fn a_submission_is_shown_with_its_rows_and_evidence() {
    let place = place().await;
    let shown = place.run(&["submission", "get", "lost"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    for told in [
        "unknown",
        "138****0001",
        "call record",
        "data-9",
        "call-7",
        "robot 719",
    ] {
        assert!(shown.out.contains(told), "{told} in {}", shown.out);
    }
    assert_no_numbers(&shown.out);
    let shown = place.run(&["submission", "get", "nowhere"]).await;
    assert_eq!(shown.code, Some(1));
}

#[tokio::test]
async fn request_ids_go_out_with_the_requests_that_take_one() {
    let place = place().await;
    let rows = ["--columns", "号码", "--row", "13800000001"];
    let call = [
        "call",
        "out",
        "--robot",
        "1",
        "--line",
        "2",
        "--request-id",
        "a",
    ];
    assert_eq!(place.run(&[&call[..], &rows].concat()).await.code, Some(0));
    let create = [
        "task",
        "create",
        "name",
        "--robot",
        "1",
        "--line",
        "2",
        "--request-id",
        "b",
    ];
    assert_eq!(place.run(&create).await.code, Some(0));
    let insert = ["task", "insert", "12", "--request-id", "c"];
    assert_eq!(
        place.run(&[&insert[..], &rows].concat()).await.code,
        Some(0)
    );
    assert_eq!(place.fake.book.lock().unwrap().request_ids, ["a", "b", "c"]);
}
