//! Rows of requests without an id, noted so that their records are awaited.
//!
//! Nobody waits for these notes, and there can be thousands of requests a second. So rows that
//! were answered within a few milliseconds go into one note together, by the task that they were
//! put into.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::awaited::{self, Awaited, AwaitedRow};
use super::ledger::Ledger;
use super::stored::Key;
use crate::store::{AppendError, NoteChange, Survives};

/// The rows of a request that was answered.
pub(super) struct PlainRows {
    pub account: String,
    /// The task that they were put into; empty for direct calls.
    pub task_id: String,
    /// The platform's ids.
    pub ids: Vec<String>,
    /// When they were answered, in milliseconds since 1970.
    pub answered_ms: u64,
}

/// So many requests wait to be noted.
pub(super) const QUEUE: usize = 4096;
/// Rows gather for so long.
const GATHER: Duration = Duration::from_millis(20);
/// After a failure of the store, the same is tried again so much later.
const PAUSE: Duration = Duration::from_millis(250);
/// A note has so many rows.
const ROWS: usize = 50;

/// Notes rows as they come; at the end, those that have come by then.
pub(super) async fn run(
    ledger: &Ledger,
    rows: &mut mpsc::Receiver<PlainRows>,
    end: CancellationToken,
) {
    let mut gathered = Vec::new();
    loop {
        let is_end = tokio::select! {
            count = rows.recv_many(&mut gathered, QUEUE) => count == 0,
            () = end.cancelled() => true,
        };
        if !is_end {
            // Cut short by the end.
            let _ = end.run_until_cancelled(sleep(GATHER)).await;
        }
        while let Ok(more) = rows.try_recv() {
            gathered.push(more);
        }
        note(ledger, std::mem::take(&mut gathered), &end).await;
        if is_end {
            return;
        }
    }
}

/// Notes rows, however long the store takes none; what comes meanwhile queues.
async fn note(ledger: &Ledger, rows: Vec<PlainRows>, end: &CancellationToken) {
    let changes = changes(rows);
    let mut has_failed = false;
    while !changes.is_empty() {
        let noted = ledger.notes().change(changes.clone(), Survives::Kill);
        match noted.await {
            Ok(()) | Err(AppendError::Closed) => return,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "the ids that were answered are not noted; trying again");
                }
                if end.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

fn changes(rows: Vec<PlainRows>) -> Vec<NoteChange> {
    let mut together: BTreeMap<(String, String), Awaited> = BTreeMap::new();
    let mut changes = Vec::new();
    for PlainRows {
        account,
        task_id,
        ids,
        answered_ms,
    } in rows
    {
        for task_data_id in ids.into_iter().filter(|id| !id.is_empty()) {
            let of_task = together.entry((account.clone(), task_id.clone()));
            // The first of them is answered first.
            let note = of_task.or_insert_with(|| Awaited {
                submitted_at_ms: answered_ms,
                task_id: task_id.clone(),
                ..Awaited::default()
            });
            note.rows.push(AwaitedRow {
                task_data_id,
                row_key: String::new(),
            });
            if note.rows.len() == ROWS {
                changes.push(awaited::put(&Key::of_nobody(&account), note));
                together.remove(&(account.clone(), task_id.clone()));
            }
        }
    }
    let rest = together.iter();
    changes.extend(rest.map(|((account, _), note)| awaited::put(&Key::of_nobody(account), note)));
    changes
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn rows_of_one_task_go_together_fifty_at_most() {
        let of = |account: &str, task: &str, ids: std::ops::Range<usize>| PlainRows {
            account: account.to_owned(),
            task_id: task.to_owned(),
            ids: ids.map(|id| id.to_string()).collect(),
            answered_ms: 5,
        };
        let rows = vec![
            of("a", "", 0..30),
            of("a", "7", 100..101),
            of("b", "", 200..201),
            of("a", "", 30..60),
        ];
        let notes = changes(rows);
        let notes: Vec<_> = notes
            .iter()
            .map(|change| {
                let note = Awaited::decode(change.value.as_deref().unwrap()).unwrap();
                let account = change.key.split('/').nth(1).unwrap().to_owned();
                (account, note.task_id, note.rows.len())
            })
            .collect();
        let expected = [("a", "", 50), ("a", "", 10), ("a", "7", 1), ("b", "", 1)];
        assert_eq!(notes.len(), 4);
        for (account, task, count) in expected {
            assert!(notes.contains(&(account.to_owned(), task.to_owned(), count)));
        }
    }
}
