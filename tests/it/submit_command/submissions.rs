//! Request ids on the command line, and how submissions are shown.

use yeta_gateway::proto::submission::{Outcome, Request};
use yeta_gateway::proto::{
    CallOutRequest, CallOutResponse, CreateTaskRequest, Row, Settlement, Submission,
    SubmissionError, SubmissionEvidence, SubmissionEvidenceKind, SubmissionOperation,
    SubmissionState,
};

use super::{Place, assert_no_numbers};

pub async fn place() -> Place {
    let place = Place::new().await;
    place.fake.book.lock().unwrap().submissions = submissions().into();
    place
}

fn submissions() -> [Submission; 4] {
    let lost = Submission {
        request_id: "lost".into(),
        state: SubmissionState::Unknown.into(),
        operation: SubmissionOperation::CallOut.into(),
        account: "default".into(),
        client: "crm".into(),
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
    let contradicted = Submission {
        request_id: "contradicted".into(),
        client: "shop".into(),
        state: SubmissionState::Accepted.into(),
        unknown_because: String::new(),
        outcome: Some(Outcome::CallOutResponse(CallOutResponse {
            task_data_ids: vec!["data-9".into()],
            ..CallOutResponse::default()
        })),
        evidence: vec![
            SubmissionEvidence {
                kind: SubmissionEvidenceKind::SeveralSubmissions.into(),
                event_id: "event-6".into(),
                call_uuid: "call-6".into(),
                ..SubmissionEvidence::default()
            },
            SubmissionEvidence {
                settled: true,
                ..lost.evidence[0].clone()
            },
        ],
        contradicted: Some(SubmissionError {
            platform_code: "200222".into(),
            message: "outside of the hours".into(),
        }),
        ..lost.clone()
    };
    [lost, refused, batch, contradicted]
}

/// Whether one line of a table has all of these texts.
fn has_line(table: &str, texts: &[&str]) -> bool {
    let mut lines = table.lines();
    lines.any(|line| texts.iter().all(|text| line.contains(text)))
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
        "crm",
        "evidence",
        "1 call record, 1 several submissions",
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
async fn submissions_of_one_client_can_be_asked_for() {
    let place = place().await;
    let list = ["submission", "list", "--client", "shop", "--json"];
    let listed = place.run(&list).await;
    let listed: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["requestId"], "contradicted");
    let of_crm = place
        .run(&["submission", "get", "contradicted", "--client", "crm"])
        .await;
    assert_eq!((of_crm.code, of_crm.out), (Some(1), String::new()));
}

#[tokio::test]
async fn an_answer_that_evidence_contradicts_is_shown_with_the_evidence() {
    let place = place().await;
    let shown = place.run(&["submission", "get", "contradicted"]).await;
    let has_line = |texts: &[&str]| has_line(&shown.out, texts);
    assert!(has_line(&["client", "shop"]), "{}", shown.out);
    assert!(has_line(&["settled by", "evidence"]), "{}", shown.out);
    let outcome = ["outcome", "1 rows accepted, contradicting", "code 200222"];
    assert!(has_line(&outcome), "{}", shown.out);
    let settles = ["call record", "yes", "data-9", "call-7"];
    assert!(has_line(&settles), "{}", shown.out);
    let leaves_open = ["several submissions", "no", "1", "call-6"];
    assert!(has_line(&leaves_open), "{}", shown.out);
}

#[tokio::test]
async fn settlements_are_shown_with_the_rows_that_were_not_sent() {
    let place = place().await;
    let settlement = |row, accepted, reason: &str| Settlement {
        client: "ops".into(),
        reason: reason.into(),
        accepted,
        row,
        ..Settlement::default()
    };
    place.fake.book.lock().unwrap().submissions = vec![Submission {
        request_id: "settled".into(),
        settlements: vec![
            settlement(Some(0), false, "13800000003 says no"),
            settlement(None, true, "seen in the console"),
        ],
        ..submissions()[0].clone()
    }];
    let shown = place.run(&["submission", "get", "settled"]).await;
    let has_line = |texts: &[&str]| has_line(&shown.out, texts);
    assert!(has_line(&["138****0001", "not sent"]), "{}", shown.out);
    assert!(has_line(&["settled by", "person"]), "{}", shown.out);
    let not_sent = ["ops", "1", "not sent", "138****0003 says no"];
    assert!(has_line(&not_sent), "{}", shown.out);
    let accepted = ["ops", "accepted", "seen in the console"];
    assert!(has_line(&accepted), "{}", shown.out);
    assert_no_numbers(&shown.out);
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
