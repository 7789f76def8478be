//! The sentences of `Notes`' contract.

use std::sync::Arc;

use yeta_gateway::store::{AppendError, NoteChange, Notes, PushLog, ReadError, Survives};

use super::Engine;

fn put(key: &str, value: &str) -> NoteChange {
    NoteChange::put(key, value.as_bytes().to_vec())
}

/// Checks the values of some notes.
async fn check<V: AsRef<[u8]>>(store: &impl Notes, notes: &[(&str, Option<V>)]) {
    let keys = notes.iter().map(|(key, _)| (*key).to_owned()).collect();
    let found = store.get_many(keys).await.unwrap();
    let found: Vec<_> = found.iter().map(Option::as_deref).collect();
    let expected: Vec<_> = notes
        .iter()
        .map(|(_, value)| value.as_ref().map(AsRef::as_ref))
        .collect();
    assert_eq!(found, expected);
}

async fn list(store: &impl Notes, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    let notes = store.list(prefix, after, limit).await.unwrap();
    notes.into_iter().map(|(key, _)| key).collect()
}

pub async fn a_change_survives_kill_and_reopening<E: Engine>() {
    let mut engine = E::new(0);
    let store = engine.open().await;
    for (n, survives) in [Survives::Kill, Survives::PowerLoss, Survives::Kill]
        .into_iter()
        .enumerate()
    {
        let changes = vec![
            put("a", &format!("a{n}")),
            put("b", &format!("b{n}")),
            NoteChange::forget(format!("c{n}")),
            put(&format!("c{}", n + 1), "c"),
        ];
        store.change(changes, survives).await.unwrap();
    }
    let expected = [
        ("a", Some("a2")),
        ("b", Some("b2")),
        ("c2", None),
        ("c3", Some("c")),
    ];
    check(&store, &expected).await;
    engine.kill(store).await;
    let store = engine.open().await;
    check(&store, &expected).await;
    store.close().await;
    check(&engine.open().await, &expected).await;
}

pub async fn changes_of_one_key_take_effect_in_order<E: Engine>() {
    let mut engine = E::new(0);
    let store = engine.open().await;
    let changes = vec![
        put("put-last", "1"),
        NoteChange::forget("put-last"),
        put("put-last", "2"),
        put("forgotten-last", "1"),
        NoteChange::forget("forgotten-last"),
    ];
    store.change(changes, Survives::Kill).await.unwrap();
    for n in 0..100 {
        let survives = [Survives::Kill, Survives::PowerLoss][n % 2];
        let change = put("put-often", &n.to_string());
        store.change(vec![change], survives).await.unwrap();
    }
    let expected = [
        ("put-last", Some("2")),
        ("forgotten-last", None),
        ("put-often", Some("99")),
    ];
    check(&store, &expected).await;
    engine.kill(store).await;
    check(&engine.open().await, &expected).await;
}

pub async fn concurrent_changes_are_all_made<E: Engine>() {
    let engine = E::new(0);
    let store = Arc::new(engine.open().await);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let survives = [Survives::Kill, Survives::PowerLoss][(task + n) % 2];
                    let change = put(&format!("{task}/{n:02}"), "");
                    store.change(vec![change], survives).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<_> = (0..8)
        .flat_map(|task| (0..50).map(move |n| format!("{task}/{n:02}")))
        .collect();
    assert_eq!(list(&*store, "", "", 1000).await, expected);
}

pub async fn changes_that_race_with_close_are_made_whole_or_not_at_all<E: Engine>() {
    let engine = E::new(0);
    let store = Arc::new(engine.open().await);
    let change = |n: usize| vec![put(&format!("a/{n:03}"), ""), put(&format!("b/{n:03}"), "")];
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                store.change(change(n), Survives::Kill).await
            })
        })
        .collect();
    // Some changes have been asked for by then, others have not.
    tasks.into_iter().nth(100).unwrap().await.unwrap().unwrap();
    store.close().await;
    let store = engine.open().await;
    let first = list(&store, "a/", "", 1000).await;
    let second = list(&store, "b/", "", 1000).await;
    let numbers = |keys: Vec<String>| keys.into_iter().map(|key| key[2..].to_owned());
    assert!(numbers(first).eq(numbers(second)));
    check(&store, &[("a/100", Some(""))]).await;
}

pub async fn a_failed_change_can_be_made_again<E: Engine>() {
    let engine = E::new(0);
    let store = engine.open().await;
    store.put("a", b"before".to_vec()).await.unwrap();
    store.close().await;
    let change = vec![put("a", "after"), put("b", "after")];
    let failed = store.change(change.clone(), Survives::PowerLoss).await;
    assert!(failed.is_err());
    let store = engine.open().await;
    for _ in 0..2 {
        let again = store.change(change.clone(), Survives::PowerLoss).await;
        again.unwrap();
    }
    check(&store, &[("a", Some("after")), ("b", Some("after"))]).await;
}

pub async fn values_come_back_as_they_were_in_the_order_of_the_keys<E: Engine>() {
    let engine = E::new(0);
    let store = engine.open().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = vec![7; 1 << 20];
    store.put("empty", vec![]).await.unwrap();
    store.put("bytes", every_byte.clone()).await.unwrap();
    store.put("large", large.clone()).await.unwrap();
    let expected: [(_, Option<&[u8]>); 5] = [
        ("large", Some(&large)),
        ("none", None),
        ("empty", Some(&[])),
        ("bytes", Some(&every_byte)),
        ("large", Some(&large)),
    ];
    check(&store, &expected).await;
    check::<&str>(&store, &[]).await;
    store.change(vec![], Survives::PowerLoss).await.unwrap();
    let many: Vec<_> = (0..500).map(|n| format!("many/{n}")).collect();
    let changes = many.iter().map(|key| put(key, key)).collect();
    store.change(changes, Survives::Kill).await.unwrap();
    let expected: Vec<_> = many.iter().map(|key| (&**key, Some(&**key))).collect();
    check(&store, &expected).await;
}

pub async fn a_list_holds_what_has_the_prefix_and_follows_the_key_up_to_the_limit<E: Engine>() {
    let engine = E::new(0);
    let store = engine.open().await;
    let texts = [
        "", "-", "A", "a", "a-", "a.b", "a/", "a/1", "a/10", "a/2", "a/=", "a/z", "a0", "aa", "b",
        "b/1", "z", "zz",
    ];
    let keys: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    let changes = keys.iter().rev().map(|key| put(key, key)).collect();
    store.change(changes, Survives::Kill).await.unwrap();
    store.put("a/3", vec![]).await.unwrap();
    let forgotten = vec![NoteChange::forget("a/3")];
    store.change(forgotten, Survives::Kill).await.unwrap();
    for prefix in texts {
        // Some of them are not the key of any note.
        for after in texts.into_iter().chain(["a/3", "a/11", "zzz"]) {
            for limit in [0, 1, 3, usize::MAX] {
                let matching = keys
                    .iter()
                    .filter(|key| key.starts_with(prefix) && **key > after);
                let expected: Vec<_> = matching.take(limit).copied().collect();
                let found = list(&store, prefix, after, limit).await;
                assert_eq!(found, expected, "{prefix:?} after {after:?}, {limit}");
            }
        }
    }
}

pub async fn a_list_is_read_to_its_end_page_by_page<E: Engine>() {
    let mut engine = E::new(0);
    let store = engine.open().await;
    let all: Vec<_> = (0..1000).map(|n| format!("n/{n:04}")).collect();
    let changes = all.iter().map(|key| put(key, key)).collect();
    store.change(changes, Survives::Kill).await.unwrap();
    engine.kill(store).await;
    let store = engine.open().await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = store.list("n/", &after, 7).await.unwrap();
        let Some((last, _)) = page.last() else {
            break;
        };
        after.clone_from(last);
        for (key, value) in page {
            assert_eq!(key.as_bytes(), value);
            found.push(key);
        }
    }
    assert_eq!(found, all);
}

pub async fn retention_leaves_notes_alone<E: Engine>() {
    let engine = E::new(1);
    let store = engine.open().await;
    store.put("a", b"a".to_vec()).await.unwrap();
    super::append(&store, "push").await;
    engine.clock().advance(61_000);
    engine.retire(&store).await;
    assert_eq!(store.earliest(), *store.end().borrow());
    check(&store, &[("a", Some("a"))]).await;
}

pub async fn closed_notes_say_so<E: Engine>() {
    let engine = E::new(0);
    let store = engine.open().await;
    store.close().await;
    let changed = store.put("a", vec![]).await;
    assert!(matches!(changed, Err(AppendError::Closed)), "{changed:?}");
    let found = store.get("a").await;
    assert!(matches!(found, Err(ReadError::Closed)), "{found:?}");
    let listed = store.list("", "", 1).await;
    assert!(matches!(listed, Err(ReadError::Closed)), "{listed:?}");
}
