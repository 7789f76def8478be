//! `submission settle`: what the command asks for, what it prints, and one whole settlement.

use serde_json::{Value, json};
use yeta_gateway::proto::settle_submission_request::{Outcome, Which};
use yeta_gateway::proto::{
    SettleSubmissionRequest, SettledAccepted, SettledNotSent, UploadRowName,
};

use super::submissions::place;
use super::{Place, Ran, assert_no_numbers, run};
use crate::submissions::stage::{Stage, silent};

const SETTLE: [&str; 2] = ["submission", "settle"];
const REASON: [&str; 2] = ["--reason", "seen in the console"];

async fn settle(place: &Place, arguments: &[&str]) -> Ran {
    place.run(&[&SETTLE, arguments, &REASON].concat()).await
}

fn by_request_id(request_id: &str) -> Which {
    Which::RequestId(request_id.into())
}

fn accepted(task_data_ids: &[&str], task_id: &str) -> Outcome {
    Outcome::Accepted(SettledAccepted {
        task_data_ids: task_data_ids.iter().map(|&id| id.to_owned()).collect(),
        task_id: task_id.into(),
    })
}

#[tokio::test]
async fn the_arguments_become_the_request_to_settle() {
    let row = Which::UploadRow(UploadRowName {
        upload_id: "file-1".into(),
        row_key: "17".into(),
    });
    let not_sent = Outcome::NotSent(SettledNotSent {});
    for (arguments, which, outcome, client) in [
        (
            &["lost", "--accepted", "1", "2"][..],
            by_request_id("lost"),
            accepted(&["1", "2"], ""),
            "",
        ),
        (
            &["lost", "--accepted", "1,2", "--client", "crm"],
            by_request_id("lost"),
            accepted(&["1", "2"], ""),
            "crm",
        ),
        (
            &["lost", "--task-id", "129"],
            by_request_id("lost"),
            accepted(&[], "129"),
            "",
        ),
        (
            &["lost", "--not-sent"],
            by_request_id("lost"),
            not_sent.clone(),
            "",
        ),
        (
            &["--upload", "file-1", "--row", "17", "--accepted", "1"],
            row.clone(),
            accepted(&["1"], ""),
            "",
        ),
        (
            &["--upload", "file-1", "--row", "17", "--not-sent"],
            row,
            not_sent,
            "",
        ),
    ] {
        let place = place().await;
        let ran = settle(&place, arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
        let expected = SettleSubmissionRequest {
            which: Some(which),
            outcome: Some(outcome),
            reason: REASON[1].into(),
            client: client.into(),
        };
        let settled = &place.fake.book.lock().unwrap().settled;
        assert_eq!(settled, &[expected], "{arguments:?}");
    }
}

#[tokio::test]
async fn arguments_that_leave_the_settlement_unclear_are_refused_unsent() {
    let place = place().await;
    for arguments in [
        &["--not-sent"][..],
        &["lost"],
        &["lost", "--accepted"],
        &["lost", "--accepted", "1", "--not-sent"],
        &["lost", "--task-id", "129", "--not-sent"],
        &["lost", "--upload", "file-1", "--row", "17", "--not-sent"],
        &["lost", "--row", "17", "--not-sent"],
        &["--upload", "file-1", "--not-sent"],
        &["--upload", "file-1", "--row", "17", "--task-id", "129"],
    ] {
        let ran = settle(&place, arguments).await;
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}{}", ran.out, ran.err);
    }
    let without_reason = [&SETTLE[..], &["lost", "--not-sent"]].concat();
    assert_eq!(place.run(&without_reason).await.code, Some(2));
    assert_eq!(place.fake.book.lock().unwrap().settled, []);
}

#[tokio::test]
async fn the_settled_submission_is_shown_with_what_a_repeat_does() {
    let place = place().await;
    let ran = settle(&place, &["lost", "--not-sent"]).await;
    for text in ["ops", "seen in the console", "138****0001"] {
        assert!(ran.out.contains(text), "{text} in {}", ran.out);
    }
    let last = ran.out.lines().last();
    assert_eq!(
        last,
        Some("settled as not sent: the same request id goes out again")
    );
    assert_no_numbers(&ran.out);
    let ran = settle(&place, &["lost", "--accepted", "1", "--json"]).await;
    let shown: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown["settlements"][1]["accepted"], true);
}

#[tokio::test]
async fn a_refused_settlement_names_the_reason() {
    let place = place().await;
    let ran = settle(&place, &["refused", "--not-sent"]).await;
    assert_eq!((ran.code, &*ran.out), (Some(1), ""));
    assert!(ran.err.contains("SUBMISSION_NOT_UNKNOWN"), "{}", ran.err);
}

#[tokio::test]
async fn the_help_says_that_what_was_not_sent_goes_out_again() {
    let place = Place::new().await;
    let help = place.run(&[&SETTLE[..], &["--help"]].concat()).await;
    let words: Vec<_> = help.out.split_whitespace().collect();
    let help = words.join(" ");
    for text in [
        "after --not-sent the same id, or the same row of the upload, goes out again",
        "A repeat under the same id gets this outcome, and calls nobody",
    ] {
        assert!(help.contains(text), "{text} in {help}");
    }
}

#[tokio::test]
async fn a_lost_request_settled_from_the_shell_as_not_sent_goes_out_once() {
    let stage = Stage::set(silent(), "").await;
    let gateway = stage.place().borrow().clone().unwrap().grpc;
    let folder = tempfile::tempdir().unwrap();
    let row = ["13800000001", "one"];
    let values = row.join(",");
    let call = [
        &["call", "out", "--robot", "719", "--line", "69101338"][..],
        &["--request-id", "order-17", "--columns", "客户手机号码,姓名"],
        &["--row", &values, "--json"],
    ]
    .concat();
    let fault = json!({ "operation": "callout", "fault": "cut_before_reading" });
    stage.sandbox.fault(fault).await;
    for _ in 0..2 {
        let lost = run(&gateway, folder.path(), &call).await;
        assert_eq!(lost.code, Some(1), "{}", lost.out);
        assert!(lost.err.contains("OUTCOME_UNKNOWN"), "{}", lost.err);
    }
    assert_eq!(stage.row(&row).await, (0, 0));

    let arguments = [&SETTLE[..], &["order-17", "--not-sent"], &REASON].concat();
    let settled = run(&gateway, folder.path(), &arguments).await;
    assert_eq!(settled.code, Some(0), "{}", settled.err);
    assert!(settled.out.contains("not sent"), "{}", settled.out);

    let mut ids = Vec::new();
    for _ in 0..2 {
        let sent = run(&gateway, folder.path(), &call).await;
        assert_eq!(sent.code, Some(0), "{}", sent.err);
        let sent: Value = serde_json::from_str(&sent.out).unwrap();
        ids.push(sent["taskDataIds"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(stage.row(&row).await, (1, 1));

    let again = run(&gateway, folder.path(), &arguments).await;
    assert_eq!(again.code, Some(1), "{}", again.out);
    assert!(
        again.err.contains("SUBMISSION_NOT_UNKNOWN"),
        "{}",
        again.err
    );
    let shown = ["submission", "get", "order-17"];
    let shown = run(&gateway, folder.path(), &shown).await;
    assert!(shown.out.contains(REASON[1]), "{}", shown.out);
    assert_no_numbers(&shown.out);
}
