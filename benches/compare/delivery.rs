//! Delivery to 1, 10 and 100 readers, each on a connection of its own, beside a bare tonic stream
//! that sends one ready event of the same size from memory.

mod bare;

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::bail;
use bytes::Bytes;
use futures_util::future::try_join;
use prost::Message;
use tokio::task::JoinSet;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{Position, SubscribePushesRequest, SubscribePushesResponse};

use self::bare::BareStream;
use crate::gateway::{self, Gateway};
use crate::load::{Until, push};
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, measure};
use crate::platform::Platform;
use crate::reader::Reader;

/// How many events the log holds: more than the gateway keeps in memory.
const HISTORY: u64 = 40_000;
/// How many events are delivered live in a round, to all readers together.
const LIVE: u64 = 200_000;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let platform = Platform::start()?;
    let gateway = Gateway::start(platform.address)?;
    let client = client_runtime()?;
    client.block_on(push(gateway.push, Until::Answered(HISTORY)))?;
    let event = client.block_on(first_event(gateway.grpc))?;
    let size = event.len();
    let bare = BareStream::start(event, HISTORY)?;

    for readers in [1, 10, 100] {
        // All of it to a hundred readers takes long and tells no more than a part of it.
        let events = if readers == 100 { HISTORY / 4 } else { HISTORY };
        let run = |to| client.block_on(read_history(to, readers, events));
        compare(
            &format!("delivery: history, {readers} readers, {size} bytes an event"),
            plan,
            &Side {
                name: "gateway, from its log",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| run(gateway.grpc),
            },
            &Side {
                name: "bare stream of one event",
                cpu: Cpu::Threads(&["bare-stream"]),
                run: &|| run(bare.address),
            },
        )?;
    }
    for readers in [1, 10, 100] {
        measure(
            &format!("delivery: live, {readers} readers, while 128 connections push"),
            plan.rounds.min(3),
            &Side {
                name: "gateway, events delivered",
                cpu: Cpu::Threads(gateway::THREADS),
                run: &|| client.block_on(read_live(&gateway, readers)),
            },
        )?;
    }
    gateway.stop()
}

/// The bytes of an event as the gateway sends it.
async fn first_event(from: SocketAddr) -> anyhow::Result<Bytes> {
    let mut reader = Reader::subscribe(from, request(Position::Earliest)).await?;
    match SubscribePushesResponse::decode(reader.message().await?)? {
        SubscribePushesResponse::Event(event) => Ok(event.encode_to_vec().into()),
        other => bail!("no event: {other:?}"),
    }
}

fn request(from: Position) -> Bytes {
    let request = SubscribePushesRequest {
        start: Some(Start::Position(from.into())),
        ..SubscribePushesRequest::default()
    };
    request.encode_to_vec().into()
}

async fn read_history(from: SocketAddr, readers: u64, events: u64) -> anyhow::Result<Sample> {
    let mut reading = JoinSet::new();
    let started = Instant::now();
    for _ in 0..readers {
        reading.spawn(async move {
            let mut reader = Reader::subscribe(from, request(Position::Earliest)).await?;
            reader.read(events).await
        });
    }
    while let Some(read) = reading.join_next().await {
        read??;
    }
    Ok(Sample::new(
        readers * events,
        started.elapsed(),
        latencies(),
    ))
}

async fn read_live(gateway: &Gateway, readers: u64) -> anyhow::Result<Sample> {
    let events = LIVE / readers.max(10);
    let mut reading = JoinSet::new();
    for _ in 0..readers {
        let mut reader = Reader::subscribe(gateway.grpc, request(Position::Latest)).await?;
        // It stands at the end of the log once it says that it has caught up.
        reader.until_caught_up().await?;
        reading.spawn(async move { reader.read(events).await });
    }
    let started = Instant::now();
    let everybody = async {
        while let Some(read) = reading.join_next().await {
            read??;
        }
        Ok(())
    };
    try_join(push(gateway.push, Until::Answered(events)), everybody).await?;
    Ok(Sample::new(
        readers * events,
        started.elapsed(),
        latencies(),
    ))
}
