//! Fills a store with calls that are complete, as the assembler adds them to the log.

use std::ops::RangeInclusive;

use anyhow::Context;
use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::{Call, PushEvent, PushKind};
use yeta_gateway::push::{EventId, Position};
use yeta_gateway::store::{NewEntry, PushLog, ReadLimit};

use crate::gateway::store_folder;
use crate::measure::server_runtime;
use crate::pushes::{PUSHES, call_uuid, of_call};
use crate::store::{Assembling, Store};

/// So many calls a task has, at least and at most.
const TASK: RangeInclusive<u64> = 50..=5000;
/// So many tasks are called at once.
const AT_ONCE: usize = 8;
/// So many calls are stored at once.
const BATCH: usize = 1000;

/// A store with so many calls in its log, and the ids of their tasks.
pub async fn fill(calls: u64) -> anyhow::Result<(TempDir, Vec<String>)> {
    let mut call = example().await?;
    let store = Store::open(store_folder()?).await?;
    // The same at each run.
    let mut tasks = Tasks::new(StdRng::seed_from_u64(1));
    let mut entries = Vec::with_capacity(BATCH);
    for number in 0..calls {
        let task = tasks.next();
        entries.push(entry(numbered(&mut call, number, task)));
        if entries.len() == BATCH || number + 1 == calls {
            store.log.append(std::mem::take(&mut entries)).await?;
        }
    }
    Ok((store.close().await, tasks.ids))
}

/// A call as the assembler adds it to the log.
async fn example() -> anyhow::Result<Call> {
    const ONE: ReadLimit = ReadLimit {
        entries: 1,
        bytes: 1,
    };
    let store = Store::open(store_folder()?).await?;
    store.append(&of_call(0)).await?;
    let runtime = server_runtime("assembler")?;
    let assembling = Assembling::start(&runtime, &store).await?;
    store.until_it_holds(PUSHES + 1).await?;
    let batch = store.log.read(Position(PUSHES), ONE).await?;
    assembling.stop().await?;
    store.close().await;
    runtime.shutdown_background();
    let entry = batch.entries.first().context("the call in the log")?;
    match PushEvent::decode(entry.event.clone())?.payload {
        Some(Payload::Call(call)) => Ok(call),
        other => anyhow::bail!("no call: {other:?}"),
    }
}

/// Makes another call of this one.
fn numbered<'a>(call: &'a mut Call, number: u64, task_id: &str) -> &'a Call {
    let call_uuid = call_uuid(number);
    let task_data_id = (346_252_615_123_000_000 + number).to_string();
    let record = call.call_record.get_or_insert_default();
    record.call_uuid.clone_from(&call_uuid);
    task_id.clone_into(&mut record.task_id);
    record.task_data_id.clone_from(&task_data_id);
    let voice = call.voice.get_or_insert_default();
    voice.call_uuid.clone_from(&call_uuid);
    voice.task_data_id.clone_from(&task_data_id);
    let dialog = call.dialog.get_or_insert_default();
    dialog.call_uuid.clone_from(&call_uuid);
    task_id.clone_into(&mut dialog.task_id);
    dialog.task_data_id.clone_from(&task_data_id);
    for (push, which) in call.pushes.iter_mut().zip(0..) {
        // A call every half second.
        let ms = 1_700_000_000_000 + i64::try_from(number).unwrap_or_default() * 500 + which;
        push.received_at = Some(Timestamp {
            seconds: ms / 1000,
            nanos: i32::try_from(ms % 1000).unwrap_or_default() * 1_000_000,
        });
        let content = format!("{number} {which}");
        push.event_id = EventId::of_raw("default", "bench", content.as_bytes()).to_string();
    }
    call.call_uuid = call_uuid;
    task_id.clone_into(&mut call.task_id);
    call.task_data_id = task_data_id;
    call
}

/// As the assembler makes it, so that it has nothing to add.
fn entry(call: &Call) -> NewEntry {
    let content = Call {
        revision: 0,
        pushes: Vec::new(),
        ..call.clone()
    };
    let content = content.encode_to_vec();
    let id = EventId::of_raw(&call.account, "yeta-gateway.call", &content);
    let event = PushEvent {
        event_id: id.to_string(),
        account: call.account.clone(),
        kind: PushKind::Call.into(),
        payload: Some(Payload::Call(call.clone())),
        ..PushEvent::default()
    };
    NewEntry::new(id, &event, Bytes::new())
}

/// Tasks that are called at the same time, each until it has had all of its calls.
struct Tasks {
    chance: StdRng,
    ids: Vec<String>,
    /// Of each that is called now: which it is, and how many calls it has still to come.
    current: Vec<(usize, u64)>,
}

impl Tasks {
    fn new(chance: StdRng) -> Self {
        Self {
            chance,
            ids: Vec::new(),
            current: vec![(0, 0); AT_ONCE],
        }
    }

    /// The task of the next call.
    fn next(&mut self) -> &str {
        let at = self.chance.random_range(0..AT_ONCE);
        if self.current[at].1 == 0 {
            let task = self.ids.len();
            self.ids.push((3_457_986_492_000_000 + task).to_string());
            self.current[at] = (task, self.chance.random_range(TASK));
        }
        let (task, left) = &mut self.current[at];
        *left -= 1;
        &self.ids[*task]
    }
}
