//! The callers' own ids of rows, for the pushes of their calls; and evidence, as it comes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::evidence::is_id;
use super::ledger::Ledger;
use super::record::{self, KnownRow};
use super::weigh::Testimony;
use crate::proto::CallRecord;

/// Finds the callers' own ids of rows.
pub struct RowKeys {
    ledger: Arc<Ledger>,
    /// Whether there has ever been a row with such an id.
    are_any: AtomicBool,
}

/// The subject of a push.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// The id of the push's content.
    pub event_id: String,
    /// The platform's id of the row; empty where it has none.
    pub task_data_id: &'a str,
    /// The call record, if it is one.
    pub record: Option<&'a CallRecord>,
}

/// The longest that a push waits for the answer that gives its row the id.
const PATIENCE: Duration = Duration::from_millis(1500);

impl RowKeys {
    pub(super) fn new(ledger: Arc<Ledger>, are_any: bool) -> Self {
        Self {
            ledger,
            are_any: AtomicBool::new(are_any),
        }
    }

    /// From now on there are rows with ids of their own.
    pub(super) fn expect_rows(&self) {
        self.are_any.store(true, Ordering::Release);
    }

    /// The callers' own ids of the rows that these pushes are about, which came together. Call
    /// records of rows that nobody knows are weighed as evidence.
    ///
    /// A push can overtake the answer that gives its row the id. So a push of an unknown row waits
    /// for batches in flight that can have the row, until `deadline` and no longer than 1.5 s.
    pub async fn of(
        &self,
        account: &str,
        pushes: &[About<'_>],
        deadline: Instant,
    ) -> Vec<Option<String>> {
        let nothing = vec![None; pushes.len()];
        let are_any = self.are_any.load(Ordering::Acquire);
        let index = &self.ledger.index;
        if !(are_any || index.has_rows(account)) || !pushes.iter().any(About::has_row) {
            return nothing;
        }
        let came = index.now();
        let mut rows = self.known(account, pushes).await;
        let waits = |(about, row): (&About<'_>, &Option<KnownRow>)| {
            about.has_row() && row.is_none() && index.is_batch_in_flight(account, about.numbers())
        };
        if are_any && pushes.iter().zip(&rows).any(waits) {
            let latest = deadline.min(Instant::now() + PATIENCE);
            let ended = timeout_at(latest, index.until_ended(account, came));
            if ended.await.is_err() {
                tracing::debug!(account, "a push came before the answer to its batch");
            }
            rows = self.known(account, pushes).await;
        }
        let mut keys = Vec::with_capacity(pushes.len());
        for (about, row) in pushes.iter().zip(rows) {
            keys.push(match (row, about.record) {
                (Some(row), _) => Some(row.row_key).filter(|key| !key.is_empty()),
                (None, Some(record)) if about.has_row() && index.has_rows(account) => {
                    self.weigh(account, &about.event_id, record, deadline).await
                }
                (None, _) => None,
            });
        }
        keys
    }

    /// Weighs a record; once begun, that goes on, and is waited for until `deadline`.
    async fn weigh(
        &self,
        account: &str,
        event_id: &str,
        record: &CallRecord,
        deadline: Instant,
    ) -> Option<String> {
        let (ledger, account) = (self.ledger.clone(), account.to_owned());
        let (event_id, record) = (event_id.to_owned(), record.clone());
        let weighing = tokio::spawn(async move {
            let testimony = Testimony {
                record: &record,
                event_id: &event_id,
            };
            ledger.weigh(&account, testimony).await
        });
        if let Ok(weighed) = timeout_at(deadline, weighing).await {
            return weighed.ok().flatten();
        }
        tracing::warn!("a call record was not weighed in time");
        None
    }

    /// What is known of the rows of pushes.
    async fn known(&self, account: &str, pushes: &[About<'_>]) -> Vec<Option<KnownRow>> {
        let notes = pushes
            .iter()
            .map(|about| record::row(account, about.task_data_id));
        let found = self.ledger.notes.get_many(notes.collect()).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(account, %error, "pushes go without their row keys");
            vec![None; pushes.len()]
        });
        let row = |bytes: Option<Vec<u8>>| KnownRow::decode(bytes?.as_slice()).ok();
        found.into_iter().map(row).collect()
    }
}

impl About<'_> {
    fn has_row(&self) -> bool {
        is_id(self.task_data_id)
    }

    /// The texts of a record that can be the row's number.
    fn numbers(&self) -> Option<impl Iterator<Item = &str>> {
        let record = self.record?;
        let texts = record.task_row_value.iter().chain([&record.callee]);
        Some(texts.map(String::as_str))
    }
}
