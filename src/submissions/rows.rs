//! The callers' own ids of rows, for the pushes of their calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;

use super::out::{IsOut, Out};
use super::stored::{self, KnownRow};
use super::unsettled::Unsettled as _;
use super::upload::fates;
use super::{evidence, ledger::Ledger};
use crate::proto::CallRecord;

/// Tells the callers' own ids of rows.
pub struct RowKeys {
    ledger: Arc<Ledger>,
    /// Whether there has ever been a row with such an id.
    are_any: AtomicBool,
    /// Batches whose rows have such ids.
    out: Arc<Out>,
}

/// What a push is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The platform's id of the row; empty where it has none.
    pub task_data_id: &'a str,
    /// The call record, if it is one.
    pub record: Option<&'a CallRecord>,
}

/// A push waits no longer than this for the answer that tells whose it is.
const PATIENCE: Duration = Duration::from_secs(2);

impl RowKeys {
    pub(super) fn new(ledger: Arc<Ledger>, are_any: bool) -> Self {
        Self {
            ledger,
            are_any: AtomicBool::new(are_any),
            out: Arc::default(),
        }
    }

    /// The callers' own ids of the rows that pushes are about, which came together.
    ///
    /// A push can overtake the answer that gives the row its id. So while batches are out that
    /// went before it, pushes of rows that nobody knows wait for them, for two seconds at most:
    /// the platform waits three.
    pub async fn of(&self, account: &str, pushes: &[About<'_>]) -> Vec<Option<String>> {
        let came = self.out.now();
        let has_row = |about: &About<'_>| !matches!(about.task_data_id, "" | "0");
        if !self.are_any.load(Ordering::Acquire) || !pushes.iter().any(has_row) {
            return vec![None; pushes.len()];
        }
        let mut rows = self.known(account, pushes).await;
        let is_strange =
            |(about, row): (&About<'_>, &Option<KnownRow>)| has_row(about) && row.is_none();
        if pushes.iter().zip(&rows).any(is_strange) {
            let all_back = self.out.until_back(account, came);
            if timeout(PATIENCE, all_back).await.is_err() {
                tracing::debug!(account, "a push came before the answer to its batch");
            }
            rows = self.known(account, pushes).await;
        }
        let mut keys = Vec::with_capacity(pushes.len());
        for (about, row) in pushes.iter().zip(rows) {
            keys.push(match (row, about.record) {
                (Some(row), _) => Some(row.row_key).filter(|key| !key.is_empty()),
                (None, Some(record)) => self.by_evidence(account, record).await,
                (None, None) => None,
            });
        }
        keys
    }

    /// What is known of the rows of pushes.
    async fn known(&self, account: &str, pushes: &[About<'_>]) -> Vec<Option<KnownRow>> {
        let notes = pushes
            .iter()
            .map(|about| stored::row(account, about.task_data_id));
        let found = self.ledger.notes().get_many(notes.collect()).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(account, %error, "pushes go without their row keys");
            vec![None; pushes.len()]
        });
        let row = |bytes: Option<Vec<u8>>| KnownRow::decode(bytes?.as_slice()).ok();
        found.into_iter().map(row).collect()
    }

    /// The id of the row that a record describes, if that is one of a batch without an answer.
    async fn by_evidence(&self, account: &str, record: &CallRecord) -> Option<String> {
        if !self.ledger.has_open_rows(account) {
            return None;
        }
        let numbers = [record.task_row_value.first(), Some(&record.callee)];
        for key in numbers
            .into_iter()
            .flatten()
            .flat_map(|number| self.ledger.with_number(account, number))
        {
            let Ok(Some(submission)) = self.ledger.load(&key).await else {
                continue;
            };
            let row = evidence::row_of(&submission, record);
            if let Some(row) = row.and_then(|row| fates::upload_rows(&submission).nth(row)) {
                return Some(row.row_key);
            }
        }
        None
    }

    /// A batch of rows with ids of their own goes out; pushes of its rows wait until it is back.
    pub(super) fn go_out(&self, account: &str) -> IsOut {
        self.are_any.store(true, Ordering::Release);
        self.out.go(account)
    }
}
