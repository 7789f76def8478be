//! Idle upload streams stop nobody else, and end.

use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use yeta_gateway::proto::submit_rows_response::Message;
use yeta_gateway::proto::{SubmitRowsRequest, SubmitRowsResponse};

use super::clients::{client, configured};
use super::stage::{Stage, silent};
use super::upload::{Row, direct, header, outcome, row, rows, submit, submit_messages};
use crate::bridge::reason;
use crate::support::within;

/// `submissions.max_uploads` by default.
const MOST: usize = 64;

/// An upload that has sent a row and sends nothing more.
struct Idle {
    answers: Streaming<SubmitRowsResponse>,
    rows: mpsc::Sender<SubmitRowsRequest>,
}

/// Where an upload comes from, and for whom.
#[derive(Clone, Copy, Default)]
struct From<'a> {
    client: Option<&'a str>,
    account: Option<&'a str>,
}

impl From<'_> {
    fn request<T>(self, message: T) -> Request<T> {
        let mut request = match self.client {
            Some(name) => client(name, message),
            None => Request::new(message),
        };
        if let Some(account) = self.account {
            let account = account.parse().unwrap();
            request.metadata_mut().insert("yeta-account", account);
        }
        request
    }
}

/// Opens an upload, and waits for the result of its one row.
async fn open(stage: &Stage, from: From<'_>, index: usize) -> Result<Idle, Status> {
    let number = format!("1300000{index:04}");
    let upload_id = format!("u{index}");
    let (sender, receiver) = mpsc::channel(4);
    let one = rows(&[row("k1", &[&number, "n"])]);
    for message in [header(direct(&upload_id)), one] {
        sender.send(message).await.unwrap();
    }
    let request = from.request(ReceiverStream::new(receiver));
    let mut outbound = stage.outbound();
    let answers = within("an answer", outbound.submit_rows(request)).await?;
    let mut idle = Idle {
        answers: answers.into_inner(),
        rows: sender,
    };
    while let Some(answer) = within("a result", idle.answers.message()).await? {
        if let Some(Message::Row(result)) = answer.message {
            assert!(matches!(outcome(&result), Row::Taken(_)), "{result:?}");
            return Ok(idle);
        }
    }
    panic!("an open upload has ended");
}

async fn fill(stage: &Stage, from: From<'_>) -> Vec<Idle> {
    let mut all = Vec::new();
    for index in 0..MOST {
        all.push(open(stage, from, index).await.unwrap());
    }
    all
}

async fn assert_overloaded(stage: &Stage, from: From<'_>) {
    let refused = open(stage, from, MOST).await.err();
    let status = refused.expect("one upload too many");
    let (code, reason, _) = reason(&status);
    assert_eq!((code, &*reason), (Code::ResourceExhausted, "OVERLOADED"));
}

#[tokio::test]
async fn one_more_than_the_most_uploads_is_refused_until_another_ends() {
    let stage = Stage::set(silent(), "").await;
    let mut all = fill(&stage, From::default()).await;
    assert_overloaded(&stage, From::default()).await;
    let mut ended = all.pop().unwrap();
    drop(ended.rows);
    while within("the end", ended.answers.message())
        .await
        .unwrap()
        .is_some()
    {}
    open(&stage, From::default(), MOST).await.unwrap();
}

#[tokio::test]
async fn the_most_uploads_can_be_set() {
    let stage = Stage::set(silent(), "submissions.max_uploads = 1").await;
    let _first = open(&stage, From::default(), 0).await.unwrap();
    assert_overloaded(&stage, From::default()).await;
}

#[tokio::test]
async fn the_uploads_of_one_client_do_not_stop_those_of_another() {
    let clients = configured(&[("a", "'outbound'"), ("b", "'outbound'")]);
    let stage = Stage::set(silent(), &clients).await;
    let [a, b] = ["a", "b"].map(|name| From {
        client: Some(name),
        ..From::default()
    });
    let _all = fill(&stage, a).await;
    assert_overloaded(&stage, a).await;
    open(&stage, b, MOST + 1).await.unwrap();
}

#[tokio::test]
async fn the_uploads_of_one_account_do_not_stop_those_of_another() {
    let other = "[[accounts]]\nname = 'other'\napp_key = 'key'\napp_secret = 'secret'\n\
        push_secret = 'push-secret-other'";
    let stage = Stage::set(silent(), other).await;
    let [default, other] = ["default", "other"].map(|name| From {
        account: Some(name),
        ..From::default()
    });
    let _all = fill(&stage, default).await;
    assert_overloaded(&stage, default).await;
    open(&stage, other, MOST + 1).await.unwrap();
}

#[tokio::test]
async fn an_upload_without_a_row_for_too_long_ends_and_can_be_resumed() {
    let stage = Stage::set(silent(), "submissions.idle_timeout = '1s'").await;
    let mut idle = open(&stage, From::default(), 2).await.unwrap();
    let status = loop {
        match within("the end", idle.answers.message()).await {
            Ok(answer) => assert!(answer.is_some(), "it ended without a status"),
            Err(status) => break status,
        }
    };
    let (code, reason, domain) = reason(&status);
    assert_eq!(
        (code, &*reason, &*domain),
        (Code::Aborted, "UPLOAD_IDLE", "yeta-gateway")
    );
    let more = rows(&[
        row("k1", &["13000000002", "n"]),
        row("k2", &["13100000002", "n"]),
    ]);
    let again = submit_messages(&stage.outbound(), vec![header(direct("u2")), more]).await;
    let by_key = again.by_key();
    assert!(by_key["k1"].known_before && !by_key["k2"].known_before);
    assert_eq!(again.totals().accepted, 2);
    let rows = stage.sandbox.get("/sandbox/rows").await;
    assert_eq!(
        (&rows["accepted"], &rows["accepted_again"]),
        (&json!(2), &json!(0))
    );
}

#[tokio::test]
async fn an_upload_that_has_sent_all_and_waits_for_its_results_is_not_idle() {
    let more = "submissions.idle_timeout = '1s'\nplatform.request_timeout = '60s'";
    let stage = Stage::set(silent(), more).await;
    let slow = json!({ "operation": "callout", "fault": "latency", "millis": 3_000 });
    stage.sandbox.fault(slow).await;
    let all = [row("k1", &["13000000002", "n"])];
    let told = submit(&stage.outbound(), direct("u"), &all).await;
    told.end.clone().unwrap();
    assert_eq!(told.totals().accepted, 1);
}
