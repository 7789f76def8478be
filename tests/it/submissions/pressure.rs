//! Uploads of any size in bounded memory, and clients that do not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::transport::Endpoint;
use yeta_gateway::proto::SubmitRowsRequest;
use yeta_gateway::proto::outbound_service_client::OutboundServiceClient;
use yeta_gateway::proto::submit_rows_response::Message;

use super::requests::{call_out, told};
use super::stage::{Outbound, Stage, silent};
use super::upload::{Told, good, header, into_task, rows, submit};
use crate::support::within;

/// A stream of messages that counts the rows that were taken from it.
fn counted(
    task: &str,
    count: usize,
    padding: usize,
    taken: Arc<AtomicUsize>,
) -> impl Iterator<Item = SubmitRowsRequest> + Send + 'static {
    const MESSAGE: usize = 100;
    let padding = "x".repeat(padding);
    let messages = (0..count / MESSAGE).map(move |message| {
        taken.fetch_add(MESSAGE, Ordering::Relaxed);
        let all: Vec<_> = (0..MESSAGE)
            .map(|row| {
                let mut row = good(message * MESSAGE + row);
                row.values[2].clone_from(&padding);
                row
            })
            .collect();
        rows(&all)
    });
    std::iter::once(header(into_task("", task))).chain(messages)
}

/// A client with small windows, so that little lies between it and the gateway.
fn narrow(stage: &Stage) -> Outbound {
    let grpc = stage.place().borrow().clone().unwrap().grpc;
    let endpoint = Endpoint::from_shared(grpc)
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    OutboundServiceClient::new(endpoint.connect_lazy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_stops_taking_rows_from_a_client_that_reads_no_results_and_serves_others() {
    const ROWS: usize = 30_000;
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("unread").await;
    let taken = Arc::new(AtomicUsize::new(0));
    let stream = tokio_stream::iter(counted(&task, ROWS, 450, taken.clone()));
    let answers = narrow(&stage).submit_rows(stream).await;
    let mut answers = answers.unwrap().into_inner();

    // Another upload goes from its beginning to its end meanwhile, and so does a callout.
    let other = stage.task("other").await;
    let all: Vec<_> = (0..2_000).map(|index| good(1_000_000 + index)).collect();
    let through = submit(&stage.outbound(), into_task("", &other), &all).await;
    assert_eq!(through.totals().accepted, 2_000);
    let called = stage
        .outbound()
        .call_out(call_out("a", &[["13000000002", "n"]]))
        .await;
    assert!(matches!(told(called), super::requests::Told::Accepted(_)));
    let so_far = taken.load(Ordering::Relaxed);
    assert!(
        so_far < ROWS * 5 / 6,
        "{so_far} rows were taken from a client that does not read"
    );

    let mut told = Told {
        results: Vec::new(),
        progress: Vec::new(),
        end: Ok(()),
    };
    while let Some(answer) = within("an answer", answers.message()).await.unwrap() {
        told.take(answer.message.unwrap());
    }
    assert_eq!(told.totals().accepted, 30_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_three_times_as_large_takes_no_more_memory() {
    const ROWS: usize = 60_000;
    /// In MiB.
    const MORE: u64 = 48;
    let stage = Stage::set(silent(), "").await;
    let task = stage.task("large").await;
    let taken = Arc::new(AtomicUsize::new(0));
    let stream = tokio_stream::iter(counted(&task, ROWS, 20, taken));
    let answers = stage.outbound().submit_rows(stream).await;
    let mut answers = answers.unwrap().into_inner();
    let (mut results, mut at_a_third) = (0, 0);
    while let Some(answer) = within("an answer", answers.message()).await.unwrap() {
        if let Some(Message::Row(_)) = answer.message {
            results += 1;
            if results == ROWS / 3 {
                at_a_third = stage.resident();
            }
        }
    }
    let at_the_end = stage.resident();
    println!("{at_a_third} MiB after a third, {at_the_end} MiB after all");
    assert_eq!(results, ROWS);
    assert!(
        at_the_end <= at_a_third + MORE,
        "{at_a_third} MiB, then {at_the_end} MiB"
    );
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["accepted"], 60_000);
}
