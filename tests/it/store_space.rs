//! The space that a log takes, and the clock steps that must not empty it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rand::RngExt as _;
use yeta_gateway::push::{EventId, Position};
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::{Header, NewEntry, PushLog as _};

use crate::conformance::{append, contents};

const MIB: u64 = 1 << 20;
/// fjall begins another journal at 64 MB, and keeps the one before until its content is in tables.
const JOURNALS: u64 = 160 * MIB;

/// An entry of its own whose bytes no compression makes smaller.
fn noise(number: u64) -> NewEntry {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bytes = vec![0; 64 << 10];
        rand::rng().fill(&mut bytes[..]);
        bytes
    });
    let mut raw = NOISE.clone();
    raw[..8].copy_from_slice(&number.to_be_bytes());
    NewEntry {
        id: EventId::of_raw("default", "receiveVoice", &raw[..8]),
        header: Header::default(),
        event: Bytes::new(),
        raw: raw.into(),
    }
}

#[tokio::test]
async fn the_folder_keeps_its_bound_however_much_is_pushed_and_gives_space_back_while_it_runs() {
    const BOUND: u64 = 512 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(Options {
        retention_bytes: BOUND,
        ..Options::new(folder.path())
    });
    let log = log.await.unwrap();
    let mut most = 0;
    for round in 0..1000 {
        let entries = (0..16).map(|n| noise(16 * round + n)).collect();
        log.append(entries).await.unwrap();
        log.retire(0).await;
        most = most.max(log.stats().disk_bytes);
    }
    assert!(most < BOUND * 3 / 2, "{} MiB", most / MIB);
    let stats = log.stats();
    assert!(stats.bytes <= BOUND && stats.bytes > BOUND / 4, "{stats:?}");
    // The newest are there, in order.
    let end = *log.end().borrow();
    let last = log.read(Position(end.0 - 1), crate::embedded::ALL).await;
    assert_eq!(last.unwrap().entries[0].cursor.position, end);

    // What takes space beside the log leaves less to it, down to a quarter of the bound.
    log.retire(BOUND).await;
    let stats = log.stats();
    assert!(
        stats.disk_bytes < BOUND / 4 + JOURNALS + 32 * MIB,
        "{stats:?}"
    );
    assert!(stats.entries > 0, "{stats:?}");
}

#[tokio::test]
async fn a_step_of_the_clock_retires_nothing_and_stamps_nothing_ahead_for_long() {
    const START: u64 = 1_600_000_000_000;
    const DAY: u64 = 24 * 3600 * 1000;
    let folder = tempfile::tempdir().unwrap();
    let (wall, passed) = (Arc::new(AtomicU64::new(START)), Arc::new(AtomicU64::new(0)));
    let (clock, elapsed) = (wall.clone(), passed.clone());
    let log = EmbeddedLog::open(Options {
        clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))),
        elapsed: Arc::new(move || Duration::from_millis(elapsed.load(Ordering::SeqCst))),
        ..Options::new(folder.path())
    });
    let log = log.await.unwrap();
    for (step, now) in [
        ("none", START),
        ("one day ahead", START + DAY),
        ("back again", START + 1),
        ("eight days ahead", START + 8 * DAY),
        ("back again", START + 2),
        ("an hour back", START - DAY / 24),
    ] {
        wall.store(now, Ordering::SeqCst);
        append(&log, &format!("{step} at {now}")).await;
        log.retire(0).await;
        assert_eq!(log.earliest(), Position::START, "{step}");
        let end = *log.end().borrow();
        let read = log.read(end.before(), crate::embedded::ALL).await.unwrap();
        let ahead = read.entries[0].received_at_ms.saturating_sub(now);
        assert!(ahead <= 60_000, "{step}: {ahead} ms ahead");
    }
    assert_eq!(contents(&log, Position::START).await.len(), 6);
    // A week that passes does.
    passed.store(7 * DAY + 1, Ordering::SeqCst);
    log.retire(0).await;
    assert_eq!(log.earliest(), Position(6));
}
