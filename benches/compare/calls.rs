//! Calls put together: from their pushes until each is complete in the log, beside an independent
//! reader that reads and decodes the same pushes, and does nothing with them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures_util::future::try_join;
use prost::Message;
use tokio::runtime::Runtime;
use yeta_gateway::proto::PushEvent;
use yeta_gateway::push::Position;
use yeta_gateway::store::embedded::EmbeddedLog;
use yeta_gateway::store::{NewEntry, PushLog, ReadLimit};

use crate::gateway::store_folder;
use crate::measure::{Cpu, Plan, Sample, Side, client_runtime, compare, latencies, server_runtime};
use crate::pushes::{PUSHES, of_call};
use crate::store::{Assembling, Store};

/// How many calls a round puts together.
const CALLS: usize = 10_000;
/// A push of a call comes when the one before it has come of so many calls more: few calls have all
/// of theirs in one go.
const APART: usize = 400;
const LIMIT: ReadLimit = ReadLimit {
    entries: 512,
    bytes: 1 << 20,
};

/// When the pushes come.
#[derive(Clone, Copy, PartialEq)]
enum Come {
    /// Meanwhile; it takes its time to store them, too.
    Live,
    /// Before.
    Earlier,
}

/// What a round has used: its threads must last until their CPU time has been read.
type Kept = RefCell<Option<Store>>;

pub fn run(plan: &Plan) -> anyhow::Result<()> {
    let entries = entries();
    let (client, kept) = (client_runtime()?, Kept::default());
    let assembler = server_runtime("assembler")?;
    let reader = server_runtime("bare-reader")?;
    for (come, how) in [
        (Come::Live, "as their pushes come"),
        (Come::Earlier, "again, from the log"),
    ] {
        compare(
            &format!("calls: {CALLS} calls of {PUSHES} pushes put together {how}"),
            plan,
            &Side {
                name: "assembler",
                cpu: Cpu::Threads(&["assembler", "store-writer", "fjall"]),
                run: &|| client.block_on(assemble(&assembler, &entries, come, &kept)),
            },
            &Side {
                name: "one reader that decodes",
                cpu: Cpu::Threads(&["bare-reader", "store-writer", "fjall"]),
                run: &|| client.block_on(read(&reader, &entries, come, &kept)),
            },
        )?;
    }
    if let Some(store) = kept.take() {
        client.block_on(store.close());
    }
    Ok(())
}

/// The pushes of all calls, in the order of their coming.
fn entries() -> Vec<NewEntry> {
    let mut entries: Vec<_> = (0..CALLS)
        .flat_map(|call| {
            let pushes = of_call(call as u64).into_iter().enumerate();
            pushes.map(move |(which, push)| (call + which * APART, push))
        })
        .collect();
    entries.sort_by_key(|(when, _)| *when);
    entries.into_iter().map(|(_, push)| push).collect()
}

async fn assemble(
    on: &Runtime,
    entries: &[NewEntry],
    come: Come,
    kept: &Kept,
) -> anyhow::Result<Sample> {
    let store = open(entries, come, kept).await?;
    let started = Instant::now();
    let assembling = Assembling::start(on, &store).await?;
    let complete = entries.len() + CALLS;
    let complete = store.until_it_holds(complete as u64);
    try_join(append(&store, entries, come), complete).await?;
    let took = started.elapsed();
    assembling.stop().await?;
    kept.replace(Some(store));
    Ok(Sample::new(CALLS as u64, took, latencies()))
}

async fn read(
    on: &Runtime,
    entries: &[NewEntry],
    come: Come,
    kept: &Kept,
) -> anyhow::Result<Sample> {
    let store = open(entries, come, kept).await?;
    let started = Instant::now();
    let reading = on.spawn(decode(store.log.clone(), entries.len()));
    let reading = async { reading.await? };
    try_join(append(&store, entries, come), reading).await?;
    let took = started.elapsed();
    kept.replace(Some(store));
    Ok(Sample::new(CALLS as u64, took, latencies()))
}

/// A new store, with everything in it that came earlier.
async fn open(entries: &[NewEntry], come: Come, kept: &Kept) -> anyhow::Result<Store> {
    if let Some(last) = kept.take() {
        last.close().await;
    }
    let store = Store::open(store_folder()?).await?;
    if come == Come::Live {
        return Ok(store);
    }
    store.append(entries).await?;
    // Opened anew, with nothing of it in memory.
    Store::open(store.close().await).await
}

async fn append(store: &Store, entries: &[NewEntry], come: Come) -> anyhow::Result<()> {
    match come {
        Come::Live => store.append(entries).await,
        Come::Earlier => Ok(()),
    }
}

async fn decode(log: Arc<EmbeddedLog>, entries: usize) -> anyhow::Result<()> {
    let (mut end, mut after, mut seen) = (log.end(), Position::START, 0);
    while seen < entries {
        end.borrow_and_update();
        let batch = log.read(after, LIMIT).await?;
        for entry in &batch.entries {
            let event = PushEvent::decode(entry.event.clone())?;
            ensure!(event.payload.is_some(), "an event without a payload");
            after = entry.cursor.position;
        }
        seen += batch.entries.len();
        if batch.entries.is_empty() {
            end.changed().await.context("the log has been closed")?;
        }
    }
    Ok(())
}
