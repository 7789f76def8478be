//! Request ids and upload ids belong to the client that chose them.

use std::fmt::Write;

use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use yeta_gateway::proto::{
    GetSubmissionRequest, ListSubmissionsRequest, Submission, UploadHeader, UploadRow,
};

use super::records::fault;
use super::requests::{Told, call_out, told};
use super::stage::{Stage, silent};
use super::upload::{Row, Told as Upload, direct, into_task, messages, outcome, row};
use crate::bridge::reason;
use crate::support::within;

const ROW: [&str; 2] = ["13000000002", "one"];
const OTHER: [&str; 2] = ["13100000002", "two"];

/// Clients with their rights, as the gateway's configuration has them.
pub fn configured(all: &[(&str, &str)]) -> String {
    let mut clients = String::new();
    for (name, allow) in all {
        let mut hash = String::new();
        for byte in Sha256::digest(format!("{name}-token")) {
            write!(hash, "{byte:02x}").unwrap();
        }
        writeln!(
            clients,
            "[[clients]]\nname = '{name}'\ntoken_sha256 = '{hash}'\nallow = [{allow}]\n\
             accounts = ['*']"
        )
        .unwrap();
    }
    clients
}

/// A request of a client.
pub fn client<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {name}-token").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// Two clients that call, and one that looks after them.
async fn stage() -> Stage {
    let clients = configured(&[
        ("a", "'outbound'"),
        ("b", "'outbound'"),
        ("boss", "'outbound', 'admin'"),
    ]);
    Stage::set(silent(), &clients).await
}

async fn call(stage: &Stage, from: &str, request_id: &str, row: [&str; 2]) -> Told {
    let request = client(from, call_out(request_id, &[row]));
    told(stage.outbound().call_out(request).await)
}

async fn get(stage: &Stage, from: &str, id: &str, of: &str) -> Result<Submission, Status> {
    let request = GetSubmissionRequest {
        request_id: id.into(),
        client: of.into(),
    };
    let mut outbound = stage.outbound();
    let answer = outbound.get_submission(client(from, request)).await?;
    Ok(answer.into_inner())
}

async fn listed(stage: &Stage, from: &str, of: &str) -> Vec<(String, String)> {
    let request = ListSubmissionsRequest {
        client: of.into(),
        ..ListSubmissionsRequest::default()
    };
    let mut outbound = stage.outbound();
    let page = outbound.list_submissions(client(from, request)).await;
    let all = page.unwrap().into_inner().submissions.into_iter();
    let mut all: Vec<_> = all.map(|it| (it.client, it.request_id)).collect();
    all.sort();
    all
}

#[tokio::test]
async fn the_same_request_id_of_two_clients_is_two_submissions() {
    let stage = stage().await;
    let first = call(&stage, "a", "1", ROW).await;
    let second = call(&stage, "b", "1", OTHER).await;
    assert!(matches!(second, Told::Accepted(_)), "{second:?}");
    assert_eq!(call(&stage, "a", "1", ROW).await, first);
    assert_eq!(call(&stage, "b", "1", OTHER).await, second);
    // Equal requests, too.
    let first = call(&stage, "a", "2", ROW).await;
    let second = call(&stage, "b", "2", ROW).await;
    assert!(first != second, "{first:?}");
    assert_eq!(stage.row(&ROW).await, (3, 3));
    assert_eq!(stage.row(&OTHER).await, (1, 1));
}

#[tokio::test]
async fn no_client_sees_the_submission_of_another() {
    let stage = stage().await;
    call(&stage, "a", "1", ROW).await;
    assert_eq!(get(&stage, "a", "1", "").await.unwrap().client, "a");
    let status = get(&stage, "b", "1", "").await.unwrap_err();
    let (code, why, _) = reason(&status);
    assert_eq!((code, &*why), (Code::NotFound, "SUBMISSION_NOT_FOUND"));
    let status = get(&stage, "b", "1", "a").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(listed(&stage, "b", "").await, []);
}

#[tokio::test]
async fn a_client_with_the_right_admin_sees_the_submissions_of_all() {
    let mut stage = stage().await;
    call(&stage, "a", "1", ROW).await;
    call(&stage, "b", "1", OTHER).await;
    for _ in 0..2 {
        let pair = |client: &str| (client.to_owned(), "1".to_owned());
        assert_eq!(listed(&stage, "boss", "").await, [pair("a"), pair("b")]);
        assert_eq!(listed(&stage, "boss", "b").await, [pair("b")]);
        assert_eq!(listed(&stage, "a", "").await, [pair("a")]);
        assert_eq!(get(&stage, "boss", "1", "a").await.unwrap().client, "a");
        assert_eq!(get(&stage, "boss", "1", "b").await.unwrap().client, "b");
        stage.kill_and_start().await;
    }
}

/// Submits rows as a client.
async fn submit(stage: &Stage, from: &str, of: UploadHeader, rows: &[UploadRow]) -> Upload {
    let mut told = Upload {
        results: Vec::new(),
        progress: Vec::new(),
        end: Ok(()),
    };
    let request = client(from, tokio_stream::iter(messages(of, rows)));
    let mut outbound = stage.outbound();
    let answers = within("an answer", outbound.submit_rows(request)).await;
    let mut answers = match answers {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            told.end = Err(status);
            return told;
        }
    };
    while told.end.is_ok() {
        match within("an answer", answers.message()).await {
            Ok(Some(answer)) => told.take(answer.message.unwrap()),
            Ok(None) => break,
            Err(status) => told.end = Err(status),
        }
    }
    told
}

#[tokio::test]
async fn the_same_upload_id_of_two_clients_is_two_uploads() {
    let stage = stage().await;
    let made = stage.outbound();
    let task = super::requests::create_task("", "task");
    let made = made.clone().create_task(client("a", task)).await.unwrap();
    let task = made.into_inner().task_id;
    let first = submit(&stage, "a", direct("u"), &[row("k1", &ROW)]).await;
    assert_eq!(first.totals().accepted, 1);
    // Another target and other columns: another upload, and not another use of the same id.
    let values = [ROW[0], ROW[1], "t3"];
    let second = submit(&stage, "b", into_task("u", &task), &[row("k1", &values)]).await;
    assert_eq!(second.totals().accepted, 1);
    assert!(!second.results[0].known_before);
    // The very same upload of another client goes out on its own.
    let third = submit(&stage, "boss", direct("u"), &[row("k1", &ROW)]).await;
    assert_eq!(third.totals().accepted, 1);
    assert!(outcome(&third.results[0]) != outcome(&first.results[0]));
    let again = submit(&stage, "a", direct("u"), &[row("k1", &ROW)]).await;
    assert_eq!(outcome(&again.results[0]), outcome(&first.results[0]));
    assert!(again.results[0].known_before);
    assert!(matches!(outcome(&again.results[0]), Row::Taken(_)));
    assert_eq!(stage.row(&ROW).await, (2, 2));
}

#[tokio::test]
async fn the_unknown_request_of_one_client_does_not_hold_up_that_of_another() {
    let stage = stage().await;
    fault(&stage, "callout", "cut_after_reading").await;
    assert_eq!(call(&stage, "a", "1", ROW).await, Told::Unknown);
    let other = call(&stage, "b", "1", OTHER).await;
    assert!(matches!(other, Told::Accepted(_)), "{other:?}");
    assert_eq!(call(&stage, "a", "1", ROW).await, Told::Unknown);
    let counts = stage.sandbox.counts("callout").await;
    assert_eq!(counts["received"], json!(2));
}
