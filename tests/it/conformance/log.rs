//! The sentences of `PushLog`'s contract.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use yeta_gateway::push::{CursorError, EventId, Position};
use yeta_gateway::store::{AppendError, Header, NewEntry, PushLog, ReadError, ReadLimit};

use super::{Engine, at};

const ALL: ReadLimit = ReadLimit {
    entries: 100_000,
    bytes: usize::MAX,
};

pub fn entry(content: &str) -> NewEntry {
    NewEntry {
        id: EventId::of_raw("default", "receiveVoice", content.as_bytes()),
        header: Header::default(),
        event: Bytes::new(),
        raw: Bytes::copy_from_slice(content.as_bytes()),
    }
}

pub async fn append(log: &impl PushLog, content: &str) -> Position {
    log.append(vec![entry(content)]).await.unwrap()[0].position
}

/// The contents after a position up to the log's end.
pub async fn contents(log: &impl PushLog, mut after: Position) -> Vec<String> {
    let mut contents = Vec::new();
    loop {
        let batch = log
            .read(
                after,
                ReadLimit {
                    entries: 7,
                    bytes: 1 << 20,
                },
            )
            .await
            .unwrap();
        for entry in batch.entries {
            assert_eq!(entry.cursor.position, after.next(), "a gap");
            after = entry.cursor.position;
            contents.push(String::from_utf8(entry.raw.to_vec()).unwrap());
        }
        if batch.reaches_end {
            return contents;
        }
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("push {n}")).collect()
}

pub async fn what_was_appended_is_read_in_order_also_after_reopening<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    for content in numbered(0..100) {
        append(&log, &content).await;
    }
    assert_eq!(contents(&log, Position::START).await, numbered(0..100));
    let (id, end) = (log.id(), *log.end().borrow());
    log.close().await;
    let log = engine.open().await;
    assert_eq!((log.id(), *log.end().borrow()), (id, end));
    assert_eq!(contents(&log, Position::START).await, numbered(0..100));
    assert_eq!(contents(&log, Position(90)).await, numbered(90..100));
}

pub async fn what_was_appended_survives_kill<E: Engine>() {
    let mut engine = E::new(0);
    for round in 0..3 {
        let log = engine.open().await;
        let held = contents(&log, Position::START).await;
        assert_eq!(held, numbered(0..10 * round));
        for content in numbered(10 * round..10 * (round + 1)) {
            append(&log, &content).await;
        }
        engine.kill(log).await;
    }
    let log = engine.open().await;
    assert_eq!(contents(&log, Position::START).await, numbered(0..30));
}

pub async fn the_same_content_is_held_once_whoever_offers_it_also_after_reopening<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    let first = log
        .append(vec![entry("a"), entry("b"), entry("a")])
        .await
        .unwrap();
    assert_eq!(
        first.iter().map(|a| a.duplicate).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert_eq!(first[0].position, first[2].position);
    log.close().await;
    let log = engine.open().await;
    let again = log.append(vec![entry("b"), entry("c")]).await.unwrap();
    assert_eq!(
        (again[0].position, again[0].duplicate),
        (first[1].position, true)
    );
    assert!(!again[1].duplicate);
    assert_eq!(contents(&log, Position::START).await, ["a", "b", "c"]);
}

pub async fn concurrent_appends_of_the_same_contents_store_each_once_without_a_gap<E: Engine>() {
    let engine = E::new(0);
    let log = Arc::new(engine.open().await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                for content in numbered(0..200) {
                    append(&*log, &content).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut held = contents(&*log, Position::START).await;
    held.sort();
    let mut expected = numbered(0..200);
    expected.sort();
    assert_eq!(held, expected);
}

pub async fn an_append_is_visible_when_it_resolves_and_wakes_who_waits<E: Engine>() {
    let engine = E::new(0);
    let log = Arc::new(engine.open().await);
    let mut end = log.end();
    let waiting = tokio::spawn(async move {
        end.changed().await.unwrap();
        *end.borrow()
    });
    let position = append(&*log, "a").await;
    assert_eq!(contents(&*log, Position::START).await, ["a"]);
    assert_eq!(waiting.await.unwrap(), position);
}

pub async fn received_at_never_decreases_when_the_clock_jumps_back<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    append(&log, "a").await;
    engine.clock().step_back(50_000);
    append(&log, "b").await;
    log.close().await;
    let log = engine.open().await;
    append(&log, "c").await;
    let batch = log.read(Position::START, ALL).await.unwrap();
    assert!(batch.entries.is_sorted_by_key(|entry| entry.received_at_ms));
}

pub async fn seeking_a_time_finds_the_first_entry_received_then_or_later<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    let mut times = Vec::new();
    for n in 0..50_u64 {
        times.push(engine.clock().advance(10 + n % 3));
        append(&log, &n.to_string()).await;
    }
    for (n, time) in times.iter().enumerate() {
        let n = n as u64;
        assert_eq!(log.seek(at(*time)).await.unwrap(), Position(n));
        assert_eq!(
            log.seek(at(*time) + Duration::from_nanos(1)).await.unwrap(),
            Position(n + 1)
        );
    }
    assert_eq!(log.seek(UNIX_EPOCH).await.unwrap(), Position::START);
    assert_eq!(
        log.seek(at(u64::from(u32::MAX) * 1000)).await.unwrap(),
        Position(50)
    );
}

pub async fn retention_by_age_removes_the_old_end_and_says_where_the_log_begins<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    for content in numbered(0..1500) {
        append(&log, &content).await;
    }
    engine.clock().advance(59_000);
    append(&log, "young").await;
    engine.retire(&log).await;
    assert_eq!(log.earliest(), Position::START);
    engine.clock().advance(2_000);
    engine.retire(&log).await;
    assert_eq!(log.earliest(), Position(1500));
    let expired = log.read(Position(1499), ALL).await;
    assert!(
        matches!(
            expired,
            Err(ReadError::Expired {
                earliest: Position(1500)
            })
        ),
        "{expired:?}"
    );
    assert_eq!(contents(&log, log.earliest()).await, ["young"]);
}

pub async fn retention_by_bytes_keeps_the_newest_within_the_bound<E: Engine>() {
    let engine = E::new(10_000);
    let log = engine.open().await;
    for n in 0..100 {
        append(&log, &format!("{n:0>500}")).await;
    }
    engine.retire(&log).await;
    let bytes = engine.retained_bytes(&log);
    assert!(bytes <= 10_000 && bytes > 9_000, "{bytes}");
    assert_eq!(
        contents(&log, log.earliest()).await.last().unwrap(),
        &format!("{:0>500}", 99)
    );
}

pub async fn positions_are_not_given_out_again_when_everything_has_been_retired<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    append(&log, "a").await;
    engine.clock().advance(61_000);
    engine.retire(&log).await;
    log.close().await;
    let log = engine.open().await;
    assert_eq!(
        (log.earliest(), *log.end().borrow()),
        (Position(1), Position(1))
    );
    // What retention has removed counts as new when it comes again.
    let again = log.append(vec![entry("a")]).await.unwrap()[0];
    assert_eq!((again.position, again.duplicate), (Position(2), false));
}

pub async fn retention_runs_beside_appends_and_reads<E: Engine>() {
    let engine = E::new(20_000);
    let log = Arc::new(engine.open().await);
    let appended = Arc::new(Mutex::new(HashSet::new()));
    let writing = tokio::spawn({
        let (log, appended) = (log.clone(), appended.clone());
        async move {
            for content in numbered(0..2000) {
                append(&*log, &content).await;
                appended.lock().unwrap().insert(content);
            }
        }
    });
    while !writing.is_finished() {
        engine.retire(&log).await;
        // A read may be overtaken by retention; it may never take that for damage.
        match log.read(log.earliest(), ALL).await {
            Ok(_) | Err(ReadError::Expired { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    writing.await.unwrap();
    engine.retire(&log).await;
    let held = contents(&*log, log.earliest()).await;
    assert!(held.len() < 1000 && !held.is_empty(), "{}", held.len());
    assert!(
        appended
            .lock()
            .unwrap()
            .is_superset(&held.into_iter().collect())
    );
}

pub async fn a_cursor_is_good_in_its_own_log_alone<E: Engine>() {
    let (one, other) = (E::new(0), E::new(0));
    let (one, other) = (one.open().await, other.open().await);
    let position = append(&one, "a").await;
    let cursor = one.cursor(position).to_string();
    assert_eq!(one.position(&cursor), Ok(position));
    assert_eq!(other.position(&cursor), Err(CursorError::Foreign));
    let beyond = one.cursor(position.next()).to_string();
    assert_eq!(one.position(&beyond), Err(CursorError::BeyondEnd));
}

pub async fn reads_keep_to_their_bounds_and_return_at_least_one_entry<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    for n in 0..20 {
        append(&log, &format!("{n:0>5000}")).await;
    }
    let bounded = log
        .read(
            Position::START,
            ReadLimit {
                entries: 5,
                bytes: usize::MAX,
            },
        )
        .await;
    assert_eq!(bounded.unwrap().entries.len(), 5);
    for start in [Position(0), Position(19)] {
        let bounded = log
            .read(
                start,
                ReadLimit {
                    entries: 5,
                    bytes: 1,
                },
            )
            .await
            .unwrap();
        assert_eq!(bounded.entries.len(), 1);
        assert_eq!(bounded.reaches_end, start == Position(19));
    }
}

pub async fn a_closed_log_says_so<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    append(&log, "a").await;
    log.close().await;
    assert!(matches!(
        log.append(vec![entry("b")]).await,
        Err(AppendError::Closed)
    ));
    assert!(matches!(
        log.read(Position::START, ALL).await,
        Err(ReadError::Closed)
    ));
    assert!(matches!(log.seek(at(0)).await, Err(ReadError::Closed)));
    assert_eq!(contents(&engine.open().await, Position::START).await, ["a"]);
}

pub async fn entries_come_back_as_they_were<E: Engine>() {
    let engine = E::new(0);
    let log = engine.open().await;
    let raw = Bytes::from((0..=255).collect::<Vec<u8>>());
    let entry = NewEntry {
        header: Header {
            account: "默认".into(),
            kind: 3,
            task_id: 7,
            call_uuid: u64::MAX,
            ..Header::default()
        },
        raw: raw.clone(),
        ..entry("bytes")
    };
    log.append(vec![entry.clone()]).await.unwrap();
    log.close().await;
    let log = engine.open().await;
    let read = log.read(Position::START, ALL).await.unwrap().entries[0].clone();
    assert_eq!((&read.raw, read.id), (&raw, entry.id));
    assert_eq!(read.header, entry.header);
    let event = read.decode().unwrap();
    assert_eq!(event.cursor, log.cursor(Position(1)).to_string());
    assert_eq!(event.received_at.unwrap().seconds, 1_600_000_000);
}
