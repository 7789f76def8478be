//! The pushes of a world's calls: two records for each row, in any order, some twice, some never.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::book::Dialled;
use super::gateway::{Gateway, House};
use crate::edge::entries::entries;
use crate::edge::reading::Push;
use crate::proto::push_event::Payload;
use crate::proto::{CallDirection, CallRecord, CallRecordVariant, PushEvent};
use crate::push::EventId;
use crate::store::PushLog;

/// The row keys that the pushes of each row have carried.
pub type Carried = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Pushes what is dialled, until the end.
pub async fn run(house: Arc<House>, carried: Carried, end: CancellationToken) {
    while !end.is_cancelled() {
        let new: Vec<Dialled> = {
            let mut book = house.world.book();
            let new = std::mem::take(&mut book.new_rows);
            new.into_iter().map(|at| book.rows[at].clone()).collect()
        };
        for row in new {
            plan(&house, &carried, &row);
        }
        end.run_until_cancelled(house.world.dialled.notified())
            .await;
    }
}

fn plan(house: &Arc<House>, carried: &Carried, row: &Dialled) {
    let (dial_s, is_late) = house.random(|it| (it.random_range(0..10), it.random_ratio(1, 10)));
    let wait = Duration::from_secs(if is_late { dial_s * 100 } else { dial_s });
    let waited = i64::try_from(wait.as_millis()).unwrap();
    let dialled_ms = house.now_ms() + waited;
    let first = house.random(|it| it.random_ratio(1, 2));
    for outbound in [first, !first] {
        let times = house.random(|it| match it.random_range(0..10) {
            0 => 0,
            1 => 2,
            _ => 1,
        });
        for _ in 0..times {
            let after = house.random(|it| Duration::from_millis(it.random_range(0..30_000)));
            let record = record(row, dialled_ms, outbound);
            let push = deliver(house.clone(), carried.clone(), record, wait + after);
            tokio::spawn(push);
        }
    }
}

fn record(row: &Dialled, dialled_ms: i64, outbound: bool) -> CallRecord {
    let record = CallRecord {
        call_uuid: format!("call-{}", row.id),
        callee: row.values[0].clone(),
        task_id: row.task_id.clone(),
        task_data_id: row.id.clone(),
        time_dial: Some(dialled_ms),
        variant: CallRecordVariant::Basic.into(),
        direction: CallDirection::Outbound.into(),
        ..CallRecord::default()
    };
    if !outbound {
        return record;
    }
    CallRecord {
        task_row_head: vec!["phone".to_owned(), "name".to_owned()],
        task_row_value: row.values.clone(),
        variant: CallRecordVariant::Outbound.into(),
        ..record
    }
}

/// Pushes a record until it is answered.
async fn deliver(house: Arc<House>, carried: Carried, record: CallRecord, after: Duration) {
    sleep(after).await;
    loop {
        let gateway = house.gateway().await;
        let dead = gateway.dead.clone();
        let (carried, record) = (carried.clone(), record.clone());
        let push = tokio::spawn(async move {
            // The platform waits no longer.
            let taken = timeout(Duration::from_secs(3), take(&gateway, record, carried));
            taken.await.is_ok_and(|taken| taken)
        });
        let is_taken = tokio::select! {
            biased;
            () = dead.cancelled() => false,
            taken = push => taken.unwrap_or(false),
        };
        if is_taken {
            return;
        }
        sleep(Duration::from_secs(5)).await;
    }
}

/// What the listener does with a push.
async fn take(gateway: &Gateway, record: CallRecord, carried: Carried) -> bool {
    let (id, outbound) = (record.task_data_id.clone(), record.variant);
    let content = format!("{id}-{outbound}");
    let push = Push::new(
        EventId::of_raw("a", "receiveCallRecord", content.as_bytes()),
        PushEvent {
            account: "a".to_owned(),
            payload: Some(Payload::CallRecord(record)),
            ..PushEvent::default()
        },
        Bytes::new(),
    );
    let row_keys = gateway.submissions.row_keys();
    let deadline = Instant::now() + Duration::from_millis(1250);
    let entries = entries(&row_keys, "a", vec![push], deadline).await;
    let event = <PushEvent as prost::Message>::decode(entries[0].event.clone()).unwrap();
    let is_taken = gateway.store.append(entries).await.is_ok();
    if is_taken {
        let mut carried = carried.lock().unwrap();
        carried.entry(id).or_default().push(event.row_key);
    }
    is_taken
}
