//! Looks for what tells the outcome of submissions that were not answered.
//!
//! For rows it reads the log from where the oldest such submission was sent, and then along with
//! its end. Where it has come to is written nowhere: a submission holds the cursor of its
//! sending for as long as something of it is to be found, and what has been found once is found
//! again without harm. For tasks it asks the platform, less and less often.
//!
//! While nothing is open, it sleeps.

mod records;
mod tasks;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::stored::Key;
use super::unsettled::Unsettled;
use crate::platform::Platform;
use crate::proto::{Submission, SubmissionState};
use crate::store::{AppendError, PushLog, ReadError};

/// A task is looked for so long after its submission was given up; each pause after that is twice
/// as long.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// And no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// After a failure of the store, the same is tried again so much later.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks for the outcomes of submissions that were not answered.
pub(super) struct Resolver {
    unsettled: Arc<dyn Unsettled>,
    log: Arc<dyn PushLog>,
    platform: Arc<Platform>,
    /// Counts unknown outcomes that were found.
    resolved: Counter,
    first_look: Duration,
    /// Held while a task is given to a submission, so that no two get the same.
    giving: Mutex<()>,
}

/// Why nothing could be found out.
enum Failure {
    /// The store is closed.
    Closed,
    /// The same may succeed later.
    Later(String),
}

impl Resolver {
    /// A resolver that looks once it is run.
    pub(super) fn new(
        unsettled: Arc<dyn Unsettled>,
        log: Arc<dyn PushLog>,
        platform: Arc<Platform>,
        resolved: Counter,
    ) -> Self {
        Self {
            unsettled,
            log,
            platform,
            resolved,
            first_look: FIRST_LOOK,
            giving: Mutex::new(()),
        }
    }

    /// Looks until it is stopped, or the store is closed.
    pub(super) async fn run(&self, stop: CancellationToken) {
        // When one of them ends because the store is closed, so must the other.
        let stop = stop.child_token();
        let records = async {
            self.follow_records(&stop).await;
            stop.cancel();
        };
        let tasks = async {
            self.follow_tasks(&stop).await;
            stop.cancel();
        };
        tokio::join!(records, tasks);
    }

    /// Writes down what was found.
    async fn write(&self, key: &Key, found: Submission, was_unknown: bool) -> Result<(), Failure> {
        let operation = found.operation().as_str_name();
        let is_settled = found.state() == SubmissionState::Accepted;
        let (request_id, upload_id) = (found.request_id.clone(), found.upload_id.clone());
        self.unsettled.found(key, found).await?;
        if was_unknown && is_settled {
            self.resolved.inc();
            tracing::info!(
                account = key.account,
                request_id,
                upload_id,
                operation,
                "a submission that was not answered turns out to be accepted"
            );
        }
        Ok(())
    }
}

/// Makes a submission one that the platform is known to have accepted.
fn accept(submission: &mut Submission) {
    submission.set_state(SubmissionState::Accepted);
    submission.settled_at.get_or_insert_with(now);
    submission.unknown_because.clear();
    submission.timed_out = false;
}

fn is_unknown(submission: &Submission) -> bool {
    submission.state() == SubmissionState::Unknown
}

fn now() -> prost_types::Timestamp {
    SystemTime::now().into()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            error @ (ReadError::Unavailable(_)
            | ReadError::Expired { .. }
            | ReadError::Damaged { .. }) => Self::Later(error.to_string()),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            error @ AppendError::Unavailable(_) => Self::Later(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
