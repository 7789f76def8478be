use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::poll;

use super::*;
use crate::store::Header;

fn disk() -> MemoryDisk {
    MemoryDisk::new(StoreId([7; 8]))
}

fn open(disk: &MemoryDisk) -> MemoryStore {
    MemoryStore::open(disk.clone(), Arc::new(|| UNIX_EPOCH))
}

fn entry(content: &'static str) -> NewEntry {
    NewEntry {
        id: EventId::of_raw("default", "receiveVoice", content.as_bytes()),
        header: Header::default(),
        event: Bytes::new(),
        raw: Bytes::from_static(content.as_bytes()),
    }
}

/// Injects `fault` into every operation.
fn always(fault: Fault) -> Faults {
    Box::new(move |_| fault)
}

/// Puts a note whose value is its key.
async fn put(store: &MemoryStore, key: &str, survives: Survives) -> Result<(), AppendError> {
    let change = NoteChange::put(key, key.as_bytes().to_vec());
    store.change(vec![change], survives).await
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    let notes = store.list("", "", usize::MAX).await.unwrap();
    notes.into_iter().map(|(key, _)| key).collect()
}

/// Polls often enough that an operation without a fault has resolved.
async fn settles<T>(operation: impl Future<Output = T>) -> Option<T> {
    let mut operation = std::pin::pin!(operation);
    for _ in 0..10 {
        if let Poll::Ready(answer) = poll!(operation.as_mut()) {
            return Some(answer);
        }
    }
    None
}

#[tokio::test]
async fn kill_keeps_what_was_written_and_a_loss_of_power_only_what_was_synced() {
    for (power_loss, kept) in [(false, vec!["a", "b", "c"]), (true, vec!["a", "b"])] {
        let disk = disk();
        let store = open(&disk);
        put(&store, "a", Survives::Kill).await.unwrap();
        put(&store, "b", Survives::PowerLoss).await.unwrap();
        put(&store, "c", Survives::Kill).await.unwrap();
        if power_loss {
            disk.lose_power();
        } else {
            disk.kill();
        }
        assert_eq!(keys(&open(&disk)).await, kept);
    }
}

#[tokio::test]
async fn a_loss_of_power_restores_the_synced_value_of_a_note_changed_and_forgotten_since() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "a", Survives::PowerLoss).await.unwrap();
    store.put("a", b"second".to_vec()).await.unwrap();
    let forget = vec![NoteChange::forget("a")];
    store.change(forget, Survives::Kill).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    disk.lose_power();
    assert_eq!(open(&disk).get("a").await.unwrap(), Some(b"a".to_vec()));
}

#[tokio::test]
async fn an_append_syncs_the_notes_written_before_it() {
    let disk = disk();
    let store = open(&disk);
    put(&store, "before", Survives::Kill).await.unwrap();
    store.append(vec![entry("push")]).await.unwrap();
    put(&store, "after", Survives::Kill).await.unwrap();
    disk.lose_power();
    let store = open(&disk);
    assert_eq!(keys(&store).await, ["before"]);
    assert_eq!(*store.end().borrow(), Position(1));
}

#[tokio::test]
async fn power_lost_after_a_kill_takes_back_what_the_kill_kept() {
    let disk = disk();
    put(&open(&disk), "a", Survives::Kill).await.unwrap();
    disk.kill();
    disk.lose_power();
    assert_eq!(keys(&open(&disk)).await, [""; 0]);
}

#[tokio::test]
async fn a_killed_store_answers_closed_also_when_the_disk_is_open_again() {
    type Close = fn(&MemoryDisk);
    let closes: [Close; 3] = [MemoryDisk::kill, MemoryDisk::lose_power, |disk| {
        drop(open(disk));
    }];
    for close in closes {
        let disk = disk();
        let old = open(&disk);
        close(&disk);
        let _new = open(&disk);
        let all = ReadLimit {
            entries: 1,
            bytes: 1,
        };
        assert!(matches!(
            old.append(vec![entry("a")]).await,
            Err(AppendError::Closed)
        ));
        assert!(matches!(
            old.put("a", vec![]).await,
            Err(AppendError::Closed)
        ));
        assert!(matches!(old.get("a").await, Err(ReadError::Closed)));
        assert!(matches!(old.list("", "", 1).await, Err(ReadError::Closed)));
        assert!(matches!(
            old.read(Position::START, all).await,
            Err(ReadError::Closed)
        ));
        assert!(matches!(old.seek(UNIX_EPOCH).await, Err(ReadError::Closed)));
    }
}

#[tokio::test]
async fn a_fault_decides_whether_the_operation_runs_and_how_it_ends() {
    use Fault::{FailAfter, FailBefore, Hang, KillAfter, KillBefore};
    for (fault, made, resolves, closed) in [
        (Fault::None, true, true, false),
        (FailBefore, false, true, false),
        (FailAfter, true, true, false),
        (KillBefore, false, false, true),
        (KillAfter, true, false, true),
        (Hang, false, false, false),
    ] {
        let disk = disk();
        let store = open(&disk);
        disk.set_faults(Some(always(fault)));
        let changed = settles(put(&store, "a", Survives::Kill)).await;
        assert_eq!(changed.is_some(), resolves, "{fault:?}");
        if let Some(changed) = changed {
            let failed = matches!(changed, Err(AppendError::Unavailable(_)));
            assert_eq!(failed, fault != Fault::None, "{fault:?}");
        }
        disk.set_faults(None);
        let is_closed = matches!(store.get("a").await, Err(ReadError::Closed));
        assert_eq!(is_closed, closed, "{fault:?}");
        let found = open(&disk).get("a").await.unwrap();
        assert_eq!(found.is_some(), made, "{fault:?}");
    }
}

#[tokio::test]
async fn an_injected_panic_ends_the_calling_task_and_leaves_the_disk_usable() {
    for (fault, made) in [(Fault::PanicBefore, 0), (Fault::PanicAfter, 1)] {
        let disk = disk();
        let store = Arc::new(open(&disk));
        disk.set_faults(Some(always(fault)));
        let caller = store.clone();
        let append = async move { caller.append(vec![entry("a")]).await };
        assert!(tokio::spawn(append).await.unwrap_err().is_panic());
        disk.set_faults(None);
        assert_eq!(*store.end().borrow(), Position(made), "{fault:?}");
        put(&store, "a", Survives::Kill).await.unwrap();
    }
}

#[tokio::test]
async fn faults_see_each_operation_before_it_runs() {
    let disk = disk();
    let store = open(&disk);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ops = seen.clone();
    disk.set_faults(Some(Box::new(move |op| {
        let name = match op {
            Op::Append(entries) => format!("append {}", entries.len()),
            Op::Change { changes, survives } => format!("change {} {survives:?}", changes[0].key),
            Op::GetMany(keys) => format!("get {}", keys.join(" ")),
            Op::List(prefix) => format!("list {prefix}"),
            Op::Read => "read".to_owned(),
        };
        ops.lock().unwrap().push(name);
        Fault::FailBefore
    })));
    let all = ReadLimit {
        entries: 1,
        bytes: 1,
    };
    assert!(store.append(vec![entry("a")]).await.is_err());
    assert!(put(&store, "k", Survives::PowerLoss).await.is_err());
    assert!(store.get_many(vec!["k".into(), "l".into()]).await.is_err());
    assert!(store.list("p/", "", 1).await.is_err());
    assert!(store.read(Position::START, all).await.is_err());
    assert!(store.seek(UNIX_EPOCH).await.is_err());
    let expected = [
        "append 1",
        "change k PowerLoss",
        "get k l",
        "list p/",
        "read",
        "read",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn other_tasks_run_during_an_operation() {
    let store = open(&disk());
    let count = Arc::new(AtomicUsize::new(0));
    let other = count.clone();
    let other = tokio::spawn(async move {
        for _ in 0..2 {
            other.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    store.get("a").await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    other.await.unwrap();
}

#[tokio::test]
async fn a_million_notes_are_listed_page_by_page() {
    let store = open(&disk());
    for batch in 0..1000 {
        let changes = (0..1000).map(|n| NoteChange::put(format!("n/{batch:03}{n:03}"), vec![0]));
        let changes = changes.collect();
        store.change(changes, Survives::PowerLoss).await.unwrap();
    }
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let page = store.list("n/", &after, 1000).await.unwrap();
        count += page.len();
        let Some((last, _)) = page.into_iter().next_back() else {
            break;
        };
        after = last;
    }
    assert_eq!(count, 1_000_000);
}
