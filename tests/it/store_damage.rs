//! Journals that a crash or a bad disk leaves behind.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use yeta_gateway::push::Position;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::{NoteChange, Notes, PushLog as _, Survives};

use crate::conformance::engines::copy_files;
use crate::conformance::{append, contents};
use crate::embedded::{cut_off, journal, overwrite};
use crate::sandbox::harness::Sandbox;
use crate::submissions::requests::call_out;
use crate::submissions::stage::{outbound, silent};
use crate::support::{Process, within};

async fn open(path: &Path) -> EmbeddedLog {
    EmbeddedLog::open(Options::new(path)).await.unwrap()
}

async fn note(log: &EmbeddedLog, key: &str, survives: Survives) {
    let change = NoteChange::put(key, format!("value of {key}").into_bytes());
    log.change(vec![change], survives).await.unwrap();
}

/// A journal is allocated ahead, filled with zeros.
fn content_end(journal: &Path) -> usize {
    let bytes = fs::read(journal).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// A copy of the folder whose journal was changed.
fn damaged(folder: &Path, damage: impl FnOnce(&Path)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(folder, copy.path());
    damage(&journal(copy.path()));
    copy
}

#[tokio::test]
async fn a_journal_damaged_at_any_byte_of_its_last_two_batches_is_cut_there_and_nothing_else_is_lost()
 {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    append(&log, "durable").await;
    note(&log, "first", Survives::Kill).await;
    let start = content_end(&journal(folder.path()));
    note(&log, "second", Survives::Kill).await;
    note(&log, "third", Survives::Kill).await;
    let whole = damaged(folder.path(), |_| {});
    drop(log);
    let bytes = fs::read(journal(whole.path())).unwrap();
    let end = content_end(&journal(whole.path()));
    for (at, byte) in bytes.iter().enumerate().take(end).skip(start) {
        for is_short in [false, true] {
            let copy = damaged(whole.path(), |journal| {
                if is_short {
                    let file = fs::OpenOptions::new().write(true).open(journal);
                    file.unwrap().set_len(at as u64).unwrap();
                } else {
                    overwrite(journal, at, &[byte ^ 0x55]);
                }
            });
            let log = open(copy.path()).await;
            assert_eq!(contents(&log, Position::START).await, ["durable"], "{at}");
            assert_eq!(log.stats().lost, 0, "{at} {is_short}");
            assert!(!log.records_lost(), "{at} {is_short}");
            assert!(log.get("first").await.unwrap().is_some(), "{at} {is_short}");
            assert_eq!(append(&log, "next").await, Position(2), "{at} {is_short}");
            log.close().await;
        }
    }
}

#[tokio::test]
async fn durable_notes_that_are_missing_are_noticed_until_an_operator_has_confirmed_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    append(&log, "durable").await;
    note(&log, "careless", Survives::Kill).await;
    note(&log, "careful", Survives::PowerLoss).await;
    log.close().await;
    cut_off(&journal(folder.path()), "value of careful");
    for _ in 0..2 {
        let log = open(folder.path()).await;
        assert!(log.records_lost());
        assert_eq!(log.stats().lost, 0);
        assert_eq!(log.get("careful").await.unwrap(), None);
        log.close().await;
    }
    fs::remove_file(folder.path().join("lost-records")).unwrap();
    assert!(!open(folder.path()).await.records_lost());
}

#[tokio::test]
async fn where_records_are_lost_an_id_without_record_is_unknown_and_not_sent() {
    let sandbox = Sandbox::start(silent()).await;
    let folder = tempfile::tempdir().unwrap();
    Process::configure_with_platform(folder.path(), &sandbox.base, "");
    let submit = async |gateway: &Process, id: &str| {
        let request = call_out(id, &[["13000000001", "one"]]);
        let mut client = outbound(&gateway.addresses.grpc);
        within("an answer", client.call_out(request)).await
    };
    let rows = async || sandbox.get("/sandbox/rows").await["accepted"].clone();
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let recorded = submit(&gateway, "recorded").await.unwrap().into_inner();
    gateway.terminate();
    gateway.ended().await;

    let mark = folder.path().join("store/lost-records");
    fs::write(&mark, "").unwrap();
    let gateway = Process::spawn(Process::command(folder.path())).await;
    let again = submit(&gateway, "recorded").await.unwrap().into_inner();
    assert_eq!(again.task_data_ids, recorded.task_data_ids);
    let status = submit(&gateway, "without record").await.unwrap_err();
    assert_eq!(
        crate::bridge::reason(&status).1,
        "OUTCOME_UNKNOWN",
        "{status:?}"
    );
    assert_eq!(rows().await, 1);
    gateway.terminate();
    gateway.ended().await;

    fs::remove_file(mark).unwrap();
    let gateway = Process::spawn(Process::command(folder.path())).await;
    submit(&gateway, "without record").await.unwrap();
    assert_eq!(rows().await, 2);
}
