//! What the search for unknown outcomes needs of the ledger.

use async_trait::async_trait;
use tokio::sync::watch;

use super::stored::Key;
use crate::proto::{Submission, SubmissionOperation};
use crate::store::{AppendError, ReadError};

/// A submission of which something is still to be found: its outcome, or ids of rows.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// Which one.
    pub key: Key,
    /// What it asked for.
    pub operation: SubmissionOperation,
    /// When it was written down, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// The end of the push log just before it was sent.
    pub push_cursor: String,
}

/// The submissions of which something is still to be found.
#[async_trait]
pub(super) trait Unsettled: Send + Sync + 'static {
    /// All of them, the oldest first; not those in flight.
    fn open_ones(&self) -> Vec<Open>;

    /// Changes whenever `open_ones` does.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Those of an account with a row whose first value is this text.
    fn with_number(&self, account: &str, number: &str) -> Vec<Key>;

    /// Whether an account has any CallOut or InsertTaskData among them.
    fn has_open_rows(&self, account: &str) -> bool;

    /// Reads one; `None`: there is none any more.
    async fn load(&self, key: &Key) -> Result<Option<Submission>, ReadError>;

    /// Whether the platform's id of a row belongs to a submission already.
    async fn is_claimed(&self, account: &str, task_data_id: &str) -> Result<bool, ReadError>;

    /// Whether a task belongs to a submission already.
    async fn is_task_claimed(&self, account: &str, task_id: &str) -> Result<bool, ReadError>;

    /// Waits until everything of an account that is out now has its outcome. What is nobody's then
    /// is not about to become somebody's.
    async fn until_back(&self, account: &str);

    /// Writes down what was found: the same submission with more evidence, and with state
    /// ACCEPTED and an outcome where that is shown.
    async fn found(&self, key: &Key, submission: Submission) -> Result<(), AppendError>;
}
