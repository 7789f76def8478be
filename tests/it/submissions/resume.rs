//! Uploads that are broken off and taken up again.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use yeta_gateway::proto::submit_rows_response::Message;
use yeta_gateway::proto::{UploadHeader, UploadRow};

use super::bulk::{Expected, rows_of, some_bad};
use super::requests::content;
use super::stage::{Outbound, Stage, silent};
use super::upload::{Row, Told, direct, good, header, into_task, messages, outcome, rows, submit};
use crate::bridge::reason;
use crate::support::within;

const ROWS: usize = 4_000;
const KILLS: usize = 8;

/// Submits rows and stops, having got so many results, a little later.
async fn some(client: &Outbound, of: UploadHeader, all: &[UploadRow], results: usize) -> Told {
    let (sender, receiver) = mpsc::channel(1);
    let messages = messages(of, all);
    let sending = tokio::spawn(async move {
        for message in messages {
            if sender.send(message).await.is_err() {
                return;
            }
        }
        // More rows may come, for all that the gateway knows.
        sender.closed().await;
    });
    let mut told = Told {
        results: Vec::new(),
        progress: Vec::new(),
        end: Ok(()),
    };
    let answers = client
        .clone()
        .submit_rows(ReceiverStream::new(receiver))
        .await;
    let mut answers = answers.unwrap().into_inner();
    while told.results.len() < results {
        match within("an answer", answers.message()).await.unwrap() {
            Some(answer) => told.take(answer.message.unwrap()),
            None => break,
        }
    }
    drop(answers);
    sending.abort();
    told
}

/// What all tries together have told of each row.
#[derive(Default)]
struct Joint(HashMap<String, Row>);

impl Joint {
    /// What was told once is told again.
    fn add(&mut self, told: &Told) {
        for result in &told.results {
            let now = outcome(result);
            let earlier = self.0.insert(result.row_key.clone(), now.clone());
            assert!(
                earlier.as_ref().is_none_or(|earlier| *earlier == now),
                "{}: {earlier:?}, then {now:?}",
                result.row_key
            );
        }
    }

    /// That of an upload that nobody disturbed, but for rows that were on their way at a break.
    async fn check(&self, stage: &Stage, expected: &[Expected], breaks: usize) {
        let report = stage.sandbox.get("/sandbox/requests").await;
        assert_eq!(report["rows"]["accepted_again"], 0, "a row was taken twice");
        let mut unknown = 0;
        for (row, refused) in expected {
            let held = &report["rows"]["ids_by_content"][content(&row.values)];
            match (&self.0[&row.row_key], refused) {
                (Row::Taken(id), None) => assert_eq!(held, &json!([id]), "{}", row.row_key),
                (Row::Not(reason, _), _) if reason == "OUTCOME_UNKNOWN" => unknown += 1,
                (found @ Row::Not(..), Some(refused)) => {
                    assert_eq!(found, refused, "{}", row.row_key);
                    assert!(held.is_null(), "{}", row.row_key);
                }
                (found, _) => panic!("{}: {found:?}, not {refused:?}", row.row_key),
            }
        }
        println!("{breaks} breaks, {unknown} rows unknown");
        // Four batches are sent at a time, and one more is recorded.
        let most = breaks * 5 * 50;
        assert!(unknown <= most, "{unknown} rows are unknown, over {most}");
    }
}

fn seed() -> u64 {
    let seed: u64 =
        std::env::var("YETA_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed} (YETA_TEST_SEED={seed} to run it again)");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_taken_up_after_each_kill_ends_as_one_that_nobody_disturbed() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut stage = Stage::set(silent(), "").await;
    let task = stage.task("killed").await;
    let expected = some_bad(ROWS, 3);
    let all = rows_of(&expected);
    let mut joint = Joint::default();
    for kill in 0..KILLS {
        // Further each time, so that there is something to be done at every kill.
        let most = ROWS * (kill + 1) / (KILLS + 1);
        let results = random.random_range(most * 3 / 4..most);
        let told = some(&stage.outbound(), into_task("u", &task), &all, results).await;
        joint.add(&told);
        tokio::time::sleep(Duration::from_micros(random.random_range(0..5000))).await;
        stage.kill_and_start().await;
    }
    let last = submit(&stage.outbound(), into_task("u", &task), &all).await;
    assert_eq!(last.by_key().len(), ROWS);
    joint.add(&last);
    joint.check(&stage, &expected, KILLS).await;
    stage.kill_and_start().await;
    let again = submit(&stage.outbound(), into_task("u", &task), &all).await;
    assert_eq!(again.totals(), last.totals());
    joint.add(&again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_killed_while_its_client_reads_ends_for_it_with_an_error() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut stage = Stage::set(silent(), "").await;
    let task = stage.task("killed").await;
    let expected: Vec<_> = (0..ROWS).map(|index| (good(index), None)).collect();
    let all = rows_of(&expected);
    let mut joint = Joint::default();
    for _ in 0..3 {
        let client = stage.outbound();
        let (header, rows) = (into_task("u", &task), all.clone());
        let uploading = tokio::spawn(async move { submit(&client, header, &rows).await });
        let before = stage.sandbox.get("/sandbox/rows").await["accepted"].clone();
        let more = before.as_u64().unwrap() + random.random_range(100..600);
        let is_there = |rows: &serde_json::Value| rows["accepted"].as_u64() >= Some(more);
        stage.sandbox.wait_for("/sandbox/rows", is_there).await;
        stage.kill_and_start().await;
        let told = within("the upload's end", uploading).await.unwrap();
        joint.add(&told);
        assert!(told.end.is_err() || told.results.len() == ROWS);
    }
    let last = submit(&stage.outbound(), into_task("u", &task), &all).await;
    assert_eq!(last.by_key().len(), ROWS);
    joint.add(&last);
    joint.check(&stage, &expected, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_its_client_breaks_off_goes_on_where_it_was() {
    let stage = Stage::set(silent(), "").await;
    let expected: Vec<_> = some_bad(ROWS / 2, 5)
        .into_iter()
        .map(|(mut row, refused)| {
            row.values.pop();
            (row, refused)
        })
        .collect();
    let all = rows_of(&expected);
    let mut joint = Joint::default();
    for results in [1, 500, 1_500] {
        joint.add(&some(&stage.outbound(), direct("u"), &all, results).await);
    }
    let last = submit(&stage.outbound(), direct("u"), &all).await;
    assert_eq!(last.by_key().len(), expected.len());
    joint.add(&last);
    joint.check(&stage, &expected, 3).await;
}

#[tokio::test]
async fn rows_in_another_order_and_further_ones_go_on_under_the_same_id() {
    let stage = Stage::set(silent(), "").await;
    let client = stage.outbound();
    let first: Vec<_> = (0..120).map(good).collect();
    let task = stage.task("again").await;
    let told = submit(&client, into_task("u", &task), &first).await;
    let mut all: Vec<_> = (0..200).map(good).collect();
    all.reverse();
    let again = submit(&client, into_task("u", &task), &all).await;
    let (before, now) = (told.by_key(), again.by_key());
    for row in &all {
        let result = now[row.row_key.as_str()];
        let known = before.get(row.row_key.as_str());
        assert_eq!(result.known_before, known.is_some(), "{}", row.row_key);
        assert!(known.is_none_or(|known| outcome(known) == outcome(result)));
    }
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 200);
}

#[tokio::test]
async fn a_later_stream_of_an_upload_takes_it_over() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("twice").await;
    let client = stage.outbound();
    let all: Vec<_> = (0..100).map(good).collect();

    let (sender, receiver) = mpsc::channel(4);
    sender.send(header(into_task("u", &task))).await.unwrap();
    sender.send(rows(&all[..50])).await.unwrap();
    let answers = client
        .clone()
        .submit_rows(ReceiverStream::new(receiver))
        .await;
    let mut answers = answers.unwrap().into_inner();
    let mut told = Told {
        results: Vec::new(),
        progress: Vec::new(),
        end: Ok(()),
    };
    while told.results.len() < 50 {
        let answer = within("an answer", answers.message()).await.unwrap();
        told.take(answer.unwrap().message.unwrap());
    }

    let later = submit(&client, into_task("u", &task), &all).await;
    assert_eq!(later.totals().accepted, 100);
    let ended = loop {
        match within("the earlier's end", answers.message()).await {
            Ok(Some(answer)) => assert!(matches!(answer.message, Some(Message::Progress(_)))),
            Ok(None) => panic!("it ended well"),
            Err(status) => break status,
        }
    };
    let (code, reason, domain) = reason(&ended);
    assert_eq!(
        (code, &*reason, &*domain),
        (Code::Aborted, "UPLOAD_TAKEN_OVER", "yeta-gateway")
    );
    let known = later.results.iter().filter(|result| result.known_before);
    assert_eq!(known.count(), 50);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_an_upload_that_run_at_once_send_no_row_twice() {
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("many").await;
    let expected: Vec<_> = (0..1_000).map(|index| (good(index), None)).collect();
    let all = rows_of(&expected);
    let client = stage.outbound();
    let at_once = (0..6).map(|_| submit(&client, into_task("u", &task), &all));
    let mut joint = Joint::default();
    let mut ended_well = 0;
    for told in futures_util::future::join_all(at_once).await {
        joint.add(&told);
        match &told.end {
            Ok(()) => ended_well += 1,
            Err(status) => assert_eq!(reason(status).1, "UPLOAD_TAKEN_OVER"),
        }
    }
    assert!(ended_well >= 1);
    joint.check(&stage, &expected, 5).await;
}
