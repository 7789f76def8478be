//! What only the embedded engine has to survive: other processes, torn files, damage.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use yeta_gateway::push::{EventId, Position};
use yeta_gateway::store::embedded::{EmbeddedLog, OpenError, Options};
use yeta_gateway::store::{
    Header, NewEntry, NoteChange, Notes, PushLog, ReadError, ReadLimit, Survives,
};

use crate::conformance::{append, contents};

pub const ALL: ReadLimit = ReadLimit {
    entries: 100_000,
    bytes: usize::MAX,
};

async fn open(path: &Path) -> EmbeddedLog {
    EmbeddedLog::open(Options::new(path)).await.unwrap()
}

async fn fill(path: &Path, contents: &[&str]) {
    let log = open(path).await;
    for content in contents {
        append(&log, content).await;
    }
    log.close().await;
}

pub fn journal(path: &Path) -> PathBuf {
    let files = fs::read_dir(path.join("log"))
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|e| e == "jnl"))
        .max()
        .unwrap()
}

/// Where the last copy of a text stands in a file.
pub fn find(file: &Path, text: &str) -> usize {
    let bytes = fs::read(file).unwrap();
    bytes
        .windows(text.len())
        .rposition(|window| window == text.as_bytes())
        .unwrap()
}

/// Ends a file where the last copy of a text begins.
pub fn cut_off(file: &Path, text: &str) {
    let at = find(file, text) as u64;
    OpenOptions::new()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(at)
        .unwrap();
}

pub fn overwrite(file: &Path, at: usize, with: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(with, at as u64).unwrap();
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let second = EmbeddedLog::open(Options::new(folder.path())).await;
    assert!(
        matches!(second, Err(OpenError::InUse { .. })),
        "{:?}",
        second.err()
    );
    log.close().await;
    open(folder.path()).await;
}

#[tokio::test]
async fn a_file_in_the_folders_place_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let opened = EmbeddedLog::open(Options::new(file.path())).await;
    assert!(
        matches!(opened, Err(OpenError::Io { .. })),
        "{:?}",
        opened.err()
    );
}

#[tokio::test]
async fn a_batch_torn_by_a_crash_is_discarded_and_the_rest_kept() {
    // As after a crash in mid-write: the last batch ends early, or its middle never reached the
    // disk. The record of what was durable does not know of it.
    for tear in ["short", "blank"] {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), &["one", "two"]).await;
        let durable = fs::read(folder.path().join("durable-end")).unwrap();
        fill(folder.path(), &["three: the torn one"]).await;
        fs::write(folder.path().join("durable-end"), durable).unwrap();
        let journal = journal(folder.path());
        let at = find(&journal, "the torn one");
        match tear {
            "short" => fs::OpenOptions::new()
                .write(true)
                .open(&journal)
                .unwrap()
                .set_len(at as u64)
                .unwrap(),
            _ => overwrite(&journal, at, &[0; 8]),
        }
        let log = open(folder.path()).await;
        assert_eq!(
            contents(&log, Position::START).await,
            ["one", "two"],
            "{tear}"
        );
        assert_eq!(log.stats().lost, 0, "{tear}");
        assert_eq!(append(&log, "three again").await, Position(3), "{tear}");
        log.close().await;
        let log = open(folder.path()).await;
        assert_eq!(
            contents(&log, Position::START).await,
            ["one", "two", "three again"],
            "{tear}"
        );
    }
}

#[tokio::test]
async fn durable_entries_cut_off_are_reported_and_their_positions_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &["one", "two", "three", "four"]).await;
    let journal = journal(folder.path());
    cut_off(&journal, "three");
    let log = open(folder.path()).await;
    assert_eq!(log.stats().lost, 2);
    assert_eq!(append(&log, "five").await, Position(5));
    let batch = log.read(Position::START, ALL).await.unwrap();
    assert_eq!(batch.entries.len(), 2);
    assert!(!batch.reaches_end);
    match log.read(Position(2), ALL).await {
        Err(ReadError::Damaged { lost }) => assert_eq!(lost, 3..5),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&log, Position(4)).await, ["five"]);
}

#[tokio::test]
async fn changes_and_pushes_that_queue_together_are_made_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = std::sync::Arc::new(open(folder.path()).await);
    // The runtime has one thread, so the tasks queue their requests in this order.
    let tasks: Vec<_> = (0..100)
        .map(|n: usize| {
            let log = log.clone();
            tokio::spawn(async move {
                let note = NoteChange::put("last", n.to_string().into_bytes());
                let survives = [Survives::Kill, Survives::PowerLoss][n % 2];
                let number = n.to_string();
                let (noted, position) =
                    tokio::join!(log.change(vec![note], survives), append(&*log, &number));
                noted.unwrap();
                assert_eq!(position, Position(n as u64 + 1));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    log.close().await;
    let log = open(folder.path()).await;
    assert_eq!(log.get("last").await.unwrap(), Some(b"99".to_vec()));
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(contents(&log, Position::START).await, expected);
}

#[tokio::test]
async fn a_damaged_middle_of_the_journal_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &["one", "two", "three", "four"]).await;
    let journal = journal(folder.path());
    let at = find(&journal, "two");
    overwrite(&journal, at, b"2wo");
    match EmbeddedLog::open(Options::new(folder.path())).await {
        Err(OpenError::Damaged { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(log) => {
            // It may also open without what is damaged, if it says so.
            assert_ne!(log.stats().lost, 0);
            let read = log.read(Position(1), ALL).await;
            assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
        }
    }
}

/// A mebibyte that tells its number and takes little room on disk.
pub fn large(n: u64) -> Vec<u8> {
    let mut bytes = vec![b'.'; 1 << 20];
    let head = format!("push number {n:>6}");
    bytes[..head.len()].copy_from_slice(head.as_bytes());
    bytes
}

/// The database's table that holds a text, once there is one.
pub fn table_with(path: &Path, text: &str) -> Option<PathBuf> {
    let keyspaces = fs::read_dir(path.join("log").join("keyspaces")).unwrap();
    let tables =
        keyspaces.filter_map(|keyspace| fs::read_dir(keyspace.ok()?.path().join("tables")).ok());
    let mut files = tables.flatten().map(|file| file.unwrap().path());
    files.find(|file| {
        let bytes = fs::read(file).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn a_folder_of_another_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &["a"]).await;
    let change = |format: Option<u8>| {
        let database = fjall::Database::builder(folder.path().join("log"));
        let database = database.open().unwrap();
        let meta = database.keyspace("meta", Default::default).unwrap();
        match format {
            Some(format) => meta.insert("format", [format]).unwrap(),
            None => meta.remove("format").unwrap(),
        }
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    };
    for (format, expected) in [(None, 1), (Some(2), 2), (Some(4), 4)] {
        change(format);
        let refused = EmbeddedLog::open(Options::new(folder.path())).await;
        match refused.err().unwrap() {
            OpenError::OtherFormat { found, .. } => assert_eq!(found, expected),
            other => panic!("{other}"),
        }
    }
    change(Some(3));
    let log = open(folder.path()).await;
    assert_eq!(contents(&log, Position::START).await, ["a"]);
}

#[tokio::test]
async fn a_damaged_block_is_reported_and_reading_goes_on_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    // Until the database has moved the first entries from its journal to a table.
    let (mut appended, damaged) = (0, "push number     10");
    while appended < 10 || table_with(folder.path(), damaged).is_none() {
        appended += 1;
        let raw = large(appended);
        let id = EventId::of_raw("default", "receiveVoice", &raw);
        let entry = NewEntry {
            id,
            header: Header::default(),
            event: Bytes::new(),
            raw: raw.into(),
        };
        log.append(vec![entry]).await.unwrap();
    }
    log.close().await;
    let table = table_with(folder.path(), damaged).unwrap();
    overwrite(&table, find(&table, damaged), b"PUSH");

    let log = open(folder.path()).await;
    let mut after = Position::START;
    let mut lost = Vec::new();
    while after < *log.end().borrow() {
        match log
            .read(
                after,
                ReadLimit {
                    entries: 4,
                    bytes: usize::MAX,
                },
            )
            .await
        {
            Ok(batch) => {
                for entry in &batch.entries {
                    assert_eq!(entry.cursor.position, after.next());
                    after = entry.cursor.position;
                    assert!(
                        entry.raw == large(after.0),
                        "entry {} is not what it was",
                        after.0
                    );
                }
            }
            Err(ReadError::Damaged { lost: range }) => {
                assert_eq!(range.start, after.next().0);
                after = Position(range.end - 1);
                lost.extend(range);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(lost, [10]);
}

#[tokio::test]
async fn content_lost_to_damage_is_stored_again_when_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), &["one", "two"]).await;
    let log = open(folder.path()).await;
    append(&log, "three").await;
    log.close().await;
    let journal = journal(folder.path());
    cut_off(&journal, "three");
    let log = open(folder.path()).await;
    assert_eq!(log.stats().lost, 1);
    assert_eq!(append(&log, "three").await, Position(4));
    assert_eq!(append(&log, "two").await, Position(2));
}

#[tokio::test]
async fn retention_passes_over_damage_at_the_old_end() {
    let folder = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicU64::new(1_600_000_000_000));
    let clock = now_ms.clone();
    let options = Options {
        retention: Duration::from_secs(60),
        ..Options::new(folder.path()).with_clock(Arc::new(move || {
            UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
        }))
    };
    let log = EmbeddedLog::open(options.clone()).await.unwrap();
    append(&log, "one: the lost one").await;
    log.close().await;
    let journal = journal(folder.path());
    cut_off(&journal, "one: the lost one");
    let log = EmbeddedLog::open(options).await.unwrap();
    append(&log, "two").await;
    now_ms.fetch_add(61_000, Ordering::SeqCst);
    append(&log, "three").await;
    log.retire(0).await;
    assert_eq!(log.earliest(), Position(2));
    assert_eq!(contents(&log, Position(2)).await, ["three"]);
}
