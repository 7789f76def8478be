//! The rules of request ids.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use yeta_gateway::proto::{GetSubmissionRequest, ListSubmissionsRequest};

use super::requests::{Told, call_out, create_task, insert, submission, told, told_by};
use super::stage::{Stage, silent};
use crate::bridge::reason;
use crate::support::eventually;

const ROW: [&str; 2] = ["13000000002", "one"];
const OTHER: [&str; 2] = ["13000000002", "two"];

fn is_ours(status: &Status, code: Code, expected: &str) {
    let found = reason(status);
    assert_eq!(
        (found.0, &*found.1, &*found.2),
        (code, expected, "yeta-gateway"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_repeat_gets_the_first_outcome_and_does_not_reach_the_platform() {
    let mut stage = Stage::set(silent(), "").await;
    let task = stage.task("rows").await;
    let ask = async |stage: &Stage| {
        let mut client = stage.outbound();
        [
            told(client.call_out(call_out("a", &[ROW])).await),
            told(client.create_task(create_task("b", "mine")).await),
            told(client.insert_task_data(insert("c", &task, &[ROW])).await),
            told(
                client
                    .call_out(call_out("d", &[["13000009999", "bad"]]))
                    .await,
            ),
        ]
    };
    let first = ask(&stage).await;
    assert!(
        first[..3]
            .iter()
            .all(|told| matches!(told, Told::Accepted(_))),
        "{first:?}"
    );
    assert_eq!(first[3], Told::Refused("200203".into()));
    assert_eq!(ask(&stage).await, first);
    stage.kill_and_start().await;
    assert_eq!(ask(&stage).await, first);
    for (operation, received) in [("callout", 2), ("create", 2), ("insert", 1)] {
        let counts = stage.sandbox.counts(operation).await;
        assert_eq!(counts["received"], received, "{operation}");
    }
    for (id, outcome) in ["a", "b", "c", "d"].iter().zip(first) {
        let kept = submission(&mut stage.outbound(), id).await.unwrap();
        assert_eq!(told_by(&kept), outcome);
    }
}

#[tokio::test]
async fn a_repeated_refusal_is_told_as_it_was_the_first_time() {
    let stage = Stage::set(silent(), "").await;
    let mut client = stage.outbound();
    let request = call_out("a", &[["13000009999", "bad"]]);
    let first = client.call_out(request.clone()).await.unwrap_err();
    let again = client.call_out(request).await.unwrap_err();
    assert_eq!(
        (first.code(), first.message()),
        (again.code(), again.message())
    );
    let info = |status: &Status| status.get_error_details().error_info().cloned().unwrap();
    let (first, again) = (info(&first), info(&again));
    assert_eq!(
        (&first.reason, &first.domain),
        (&again.reason, &again.domain)
    );
    assert_eq!(first.metadata["code"], again.metadata["code"]);
    assert_eq!(first.metadata["message"], again.metadata["message"]);
}

#[tokio::test]
async fn repeats_at_the_same_time_reach_the_platform_once() {
    let stage = Stage::set(silent(), "").await;
    let slow = json!({ "operation": "callout", "fault": "latency", "millis": 200 });
    stage.sandbox.fault(slow).await;
    let client = stage.outbound();
    let ask = async |_: i32| told(client.clone().call_out(call_out("a", &[ROW])).await);
    let all = futures_util::future::join_all((0..20).map(ask)).await;
    assert!(matches!(all[0], Told::Accepted(_)), "{:?}", all[0]);
    assert!(all.iter().all(|told| *told == all[0]), "{all:?}");
    assert_eq!(stage.row(&ROW).await, (1, 1));
}

#[tokio::test]
async fn the_same_id_with_other_content_is_refused() {
    let stage = Stage::set(silent(), "").await;
    let mut client = stage.outbound();
    let task = stage.task("rows").await;
    assert!(client.call_out(call_out("a", &[ROW])).await.is_ok());
    let reused = |status: &Status| is_ours(status, Code::InvalidArgument, "REQUEST_ID_REUSED");
    reused(&client.call_out(call_out("a", &[OTHER])).await.unwrap_err());
    reused(
        &client
            .create_task(create_task("a", "mine"))
            .await
            .unwrap_err(),
    );
    reused(
        &client
            .insert_task_data(insert("a", &task, &[ROW]))
            .await
            .unwrap_err(),
    );
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 1);
    assert!(client.call_out(call_out("a", &[ROW])).await.is_ok());
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 1);
}

#[tokio::test]
async fn an_id_that_is_too_long_is_refused() {
    let stage = Stage::set(silent(), "").await;
    let mut client = stage.outbound();
    assert!(
        client
            .call_out(call_out(&"i".repeat(128), &[ROW]))
            .await
            .is_ok()
    );
    let status = client
        .call_out(call_out(&"i".repeat(129), &[ROW]))
        .await
        .unwrap_err();
    is_ours(&status, Code::InvalidArgument, "INVALID_REQUEST");
    let details = status.get_error_details();
    let faults = &details.bad_request().unwrap().field_violations;
    assert_eq!(faults[0].field, "request_id");
}

#[tokio::test]
async fn without_an_id_each_request_is_one_of_its_own() {
    let stage = Stage::set(silent(), "").await;
    let mut client = stage.outbound();
    for _ in 0..2 {
        assert!(client.call_out(call_out("", &[ROW])).await.is_ok());
    }
    assert_eq!(stage.row(&ROW).await, (2, 2));
    let listed = client
        .list_submissions(ListSubmissionsRequest::default())
        .await;
    assert!(listed.unwrap().into_inner().submissions.is_empty());
}

#[tokio::test]
async fn what_was_not_sent_is_not_kept_and_goes_out_with_a_repeat() {
    let stage = Stage::set(silent(), "").await;
    let mut client = stage.outbound();
    // Refused by the gateway.
    let status = client.call_out(call_out("a", &[])).await.unwrap_err();
    is_ours(&status, Code::InvalidArgument, "INVALID_REQUEST");
    // Refused for the token, twice.
    let refuse = json!({ "operation": "callout", "fault": "refuse_token", "times": 2 });
    stage.sandbox.fault(refuse).await;
    let status = client.call_out(call_out("a", &[ROW])).await.unwrap_err();
    assert_eq!(reason(&status).1, "TOKEN_REFUSED");
    let status = submission(&mut client, "a").await.unwrap_err();
    is_ours(&status, Code::NotFound, "SUBMISSION_NOT_FOUND");
    assert!(client.call_out(call_out("a", &[ROW])).await.is_ok());
    assert_eq!(stage.row(&ROW).await, (3, 1));
}

#[tokio::test]
async fn an_id_is_its_accounts_own() {
    let second = "[[accounts]]\nname = 'second'\napp_key = 'key'\napp_secret = 'secret'\n\
                  push_secret = 'second-push-secret'\n";
    let stage = Stage::set(silent(), second).await;
    let mut client = stage.outbound();
    let mut all = Vec::new();
    for account in ["second", "default"] {
        let mut request = Request::new(call_out("a", &[ROW]));
        let account = MetadataValue::from_static(account);
        request
            .metadata_mut()
            .insert("yeta-account", account.clone());
        all.push(told(client.call_out(request).await));
        let mut request = Request::new(GetSubmissionRequest {
            request_id: "a".into(),
            ..GetSubmissionRequest::default()
        });
        request
            .metadata_mut()
            .insert("yeta-account", account.clone());
        let kept = client.get_submission(request).await.unwrap().into_inner();
        assert_eq!(kept.account, account.to_str().unwrap());
        let mut request = Request::new(ListSubmissionsRequest::default());
        request
            .metadata_mut()
            .insert("yeta-account", account.clone());
        let listed = client.list_submissions(request).await.unwrap().into_inner();
        assert_eq!(listed.submissions, [kept]);
    }
    assert_ne!(all[0], all[1]);
    assert_eq!(stage.row(&ROW).await, (2, 2));
}

#[tokio::test]
async fn only_a_client_that_may_call_sees_submissions() {
    let mut clients = String::new();
    for (name, allow) in [("caller", "outbound"), ("reader", "calls")] {
        let mut hash = String::new();
        for byte in Sha256::digest(format!("{name}-token")) {
            write!(hash, "{byte:02x}").unwrap();
        }
        writeln!(
            clients,
            "[[clients]]\nname = '{name}'\ntoken_sha256 = '{hash}'\nallow = ['{allow}']\n\
             accounts = ['*']"
        )
        .unwrap();
    }
    let stage = Stage::set(silent(), &clients).await;
    let mut client = stage.outbound();
    let bearer =
        |name: &str| -> MetadataValue<_> { format!("Bearer {name}-token").parse().unwrap() };
    for (name, expected) in [("reader", Some("RPC_FORBIDDEN")), ("caller", None)] {
        let mut request = Request::new(call_out("a", &[ROW]));
        request.metadata_mut().insert("authorization", bearer(name));
        let called = client.call_out(request).await.err();
        let mut request = Request::new(GetSubmissionRequest {
            request_id: "a".into(),
            ..GetSubmissionRequest::default()
        });
        request.metadata_mut().insert("authorization", bearer(name));
        let got = client.get_submission(request).await.err();
        let mut request = Request::new(ListSubmissionsRequest::default());
        request.metadata_mut().insert("authorization", bearer(name));
        let listed = client.list_submissions(request).await.err();
        let mut request = Request::new(tokio_stream::empty());
        request.metadata_mut().insert("authorization", bearer(name));
        let submitted = client.submit_rows(request).await.err();
        // An upload without a header is refused, but not for the client's sake.
        let submitted = submitted.filter(|status| status.code() == Code::PermissionDenied);
        for refused in [called, got, listed, submitted] {
            assert_eq!(
                refused.map(|status| reason(&status).1).as_deref(),
                expected,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_caller_who_cannot_wait_gets_the_outcome_with_a_repeat() {
    let stage = Stage::set(silent(), "").await;
    let slow = json!({ "operation": "callout", "fault": "latency", "millis": 4_000 });
    let mut client = stage.outbound();
    // So that the token is there, and the request goes out well before its deadline.
    client.call_out(call_out("first", &[OTHER])).await.unwrap();
    stage.sandbox.fault(slow).await;
    let mut request = Request::new(call_out("a", &[ROW]));
    request.set_timeout(Duration::from_secs(2));
    let status = client.call_out(request).await.unwrap_err();
    is_ours(&status, Code::DeadlineExceeded, "OUTCOME_UNKNOWN");
    // The request is followed to its end although its caller is gone.
    eventually("the outcome", async || {
        let again = told(client.call_out(call_out("a", &[ROW])).await);
        matches!(again, Told::Accepted(_)).then_some(())
    })
    .await;
    assert_eq!(stage.row(&ROW).await, (1, 1));
}
