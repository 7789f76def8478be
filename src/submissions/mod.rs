//! Submissions: each request that dials people is recorded before it is sent, and its outcome
//! replaces the record, so that nobody is called twice for one request.
//!
//! Requests with a request id (`requests`) and the batches of uploads (`upload`) are records of one
//! ledger (`ledger`), and have one life (`state`). Requests without an id (`untracked`) become
//! records if they have no answer. Where an outcome is unknown, call records (`weigh`) and tasks
//! (`tasks`) settle it if they are certain; a person can settle the rest (`settle`). `expiry`
//! forgets what is old by the ledger's own `age`.

mod age;
pub mod awaited;
pub mod check;
pub(crate) mod erase;
mod evidence;
mod expiry;
mod ledger;
mod list;
pub mod metrics;
mod open;
mod record;
mod request;
mod requests;
mod row_keys;
mod settle;
#[cfg(test)]
mod simulation;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod trust;
mod untracked;
mod upload;
mod weigh;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::check::Numbers;
use self::ledger::Ledger;
pub use self::list::{Page, Query};
use self::metrics::SubmissionsMetrics;
use self::record::Key;
pub use self::request::Submit;
use self::requests::Requests;
pub use self::row_keys::{About, RowKeys};
use self::tasks::TaskSearch;
use self::untracked::Untracked;
use self::upload::Uploads;
pub use self::upload::{
    Refusal, RowFault, RowOutcome, RowResult, Session, Stopped, UploadEvent, UploadOptions,
};
use crate::hash_key::HashKey;
use crate::platform::{Code, Platform, PlatformError};
use crate::proto::{Submission, UploadHeader};
use crate::store::{AppendError, Notes, PushLog, ReadError};

/// Tells the time; replaced in tests.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How submissions are kept and uploads behave.
#[derive(Clone)]
pub struct Options {
    /// How long the outcome of a request id is kept.
    pub keep: Duration,
    /// How long uploads are kept after a stream of them last began, and unknown outcomes.
    pub keep_rows: Duration,
    /// How long after a direct call's submission a call record can settle it.
    pub evidence_window: Duration,
    /// How phone numbers are read.
    pub numbers: Numbers,
    /// How uploads behave.
    pub uploads: UploadOptions,
    /// The key of the hashes of rows.
    pub hash_key: HashKey,
    /// The accounts.
    pub accounts: Vec<String>,
    /// The names of the configured clients.
    pub clients: Vec<String>,
    /// Whether durable records were lost, so that what has no record may have been sent.
    pub records_lost: bool,
    /// Tells the time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep: Duration::from_hours(24),
            keep_rows: Duration::from_hours(30 * 24),
            evidence_window: Duration::from_hours(2),
            numbers: Numbers::default(),
            uploads: UploadOptions::default(),
            hash_key: HashKey::new(b"of tests"),
            accounts: Vec::new(),
            clients: Vec::new(),
            records_lost: false,
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// Who submits, for which account. Ids belong to the client.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The account.
    pub account: &'a str,
    /// The client; empty where no clients are configured.
    pub client: &'a str,
}

/// Why a submission has no outcome to be answered with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmissionsError {
    /// The platform refused it, or nothing was sent.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The request id was used before with other content. Take another.
    #[error("the request id was used before for another request")]
    Reused,
    /// The upload id was used before with another target or other columns. Take another.
    #[error("the upload_id was used before with another target or other columns")]
    UploadReused,
    /// The platform has refused it before, and it was not sent again. Take another id to try again.
    #[error("the platform refused with code {code}: {message}")]
    RefusedBefore {
        /// Its code.
        code: Code,
        /// Its message.
        message: String,
        /// When.
        at: Option<Timestamp>,
    },
    /// It was sent, and its outcome is unknown. Repeat it later to learn more.
    #[error("the request was sent and its outcome is unknown: {}", .0.unknown_because)]
    Unknown(Box<Submission>),
    /// Durable records were lost. An operator has to confirm that rows may be sent again.
    #[error(
        "records of submissions were lost with files of the store, so that rows sent before could \
         be sent again; an operator has to confirm this"
    )]
    RecordsLost,
    /// The client has too many uploads of this account open. End some, or retry later.
    #[error("too many concurrent uploads of this client (limit {max})")]
    TooManyUploads {
        /// The limit.
        max: usize,
    },
    /// Too many outcomes of the account are unknown. Somebody has to settle some.
    #[error("too many outcomes of the account are unknown; settle them first")]
    TooManyUnknown,
    /// The page token is none of these lists; pass on exactly what was given.
    #[error("not a page token")]
    BadPageToken,
    /// Nothing is known under this id.
    #[error("nothing is known under this id")]
    NotFound,
    /// Its outcome is known, or its request is in flight. Nothing was changed.
    #[error("the submission is not unknown; only unknown ones can be settled")]
    NotUnknown,
    /// Several clients have used the id. Name one of them.
    #[error("several clients have used this id; name one in `client`")]
    Ambiguous,
    /// The ids do not fit the submission. Give one for each of its rows.
    #[error("{wanted} task_data_ids are needed, or the task_id of a CreateTask")]
    WrongIds {
        /// How many ids are needed.
        wanted: usize,
    },
    /// The id is known to belong to another submission.
    #[error("the id {0:?} belongs to another submission")]
    ClaimedId(String),
    /// Nothing can be recorded or looked up now, so nothing was sent. Retry later.
    #[error("submissions cannot be recorded: {0}")]
    Unavailable(String),
    /// The gateway is shutting down; nothing was sent.
    #[error("submissions are closed")]
    Closed,
}

/// Everything that has been submitted, and the ways to submit.
pub struct Submissions {
    ledger: Arc<Ledger>,
    requests: Arc<Requests>,
    untracked: Arc<Untracked>,
    uploads: Arc<Uploads>,
    row_keys: Arc<RowKeys>,
    tasks: Arc<TaskSearch>,
    options: Options,
    metrics: SubmissionsMetrics,
    running: TaskTracker,
}

impl<'a> Caller<'a> {
    /// The same account, on behalf of another client.
    #[must_use]
    pub fn of(self, client: &'a str) -> Self {
        Self { client, ..self }
    }
}

impl Submissions {
    /// Opens what the store holds. What an earlier process left in flight is unknown.
    pub async fn open(
        log: Arc<dyn PushLog>,
        notes: Arc<dyn Notes>,
        platform: Arc<Platform>,
        options: Options,
        metrics: SubmissionsMetrics,
    ) -> Result<Self, SubmissionsError> {
        let are_any = !notes.list("upload/", "", 1).await?.is_empty();
        warn_of_default_account(notes.as_ref(), &options.accounts).await?;
        let ledger = Ledger::open(notes, log, &options, metrics.clone()).await?;
        let ledger = Arc::new(ledger);
        let row_keys = Arc::new(RowKeys::new(ledger.clone(), are_any));
        let tasks = Arc::new(TaskSearch::new(ledger.clone(), platform.clone()));
        let running = TaskTracker::new();
        let requests = Requests {
            ledger: ledger.clone(),
            platform: platform.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            flights: Mutex::default(),
            running: running.clone(),
        };
        let uploads = Uploads {
            ledger: ledger.clone(),
            platform: platform.clone(),
            row_keys: row_keys.clone(),
            options: options.uploads.clone(),
            metrics: metrics.clone(),
            running: running.clone(),
            live: Mutex::default(),
        };
        Ok(Self {
            untracked: Arc::new(Untracked::new(ledger.clone(), platform)),
            ledger,
            requests: Arc::new(requests),
            uploads: Arc::new(uploads),
            row_keys,
            tasks,
            options,
            metrics,
            running,
        })
    }

    /// Does what is asked for; under a request id, once for all who ask for it.
    ///
    /// With an id it goes on when its caller leaves. It does not go out after `deadline`.
    pub async fn submit<S: Submit>(
        &self,
        caller: Caller<'_>,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<S::Reply, SubmissionsError> {
        if request.request_id().is_empty() {
            return Ok(self.untracked.call(caller, request, deadline).await?);
        }
        self.requests.submit(caller, request, deadline).await
    }

    /// Begins an upload, or goes on with it; an earlier stream of it ends. Nothing more of it is
    /// sent once `drain` is cancelled.
    pub async fn upload(
        &self,
        caller: Caller<'_>,
        header: UploadHeader,
        drain: CancellationToken,
    ) -> Result<Session, SubmissionsError> {
        self.uploads.begin(caller, header, drain).await
    }

    /// What is known of a client's request id.
    pub async fn get(
        &self,
        caller: Caller<'_>,
        request_id: &str,
    ) -> Result<Option<Submission>, SubmissionsError> {
        let key = Key::of_request(caller.account, caller.client, request_id);
        let record = self.ledger.load(&key).await?;
        Ok(record.and_then(|record| record.submission))
    }

    /// What is known of a request id, whichever client has used it; `Ambiguous` where several have.
    pub async fn get_any(
        &self,
        account: &str,
        request_id: &str,
    ) -> Result<Option<Submission>, SubmissionsError> {
        let mut found = None;
        for client in self.clients_named("") {
            let caller = Caller { account, client };
            let own = self.get(caller, request_id).await?;
            if own.is_some() && found.is_some() {
                return Err(SubmissionsError::Ambiguous);
            }
            found = found.or(own);
        }
        Ok(found)
    }

    /// Finds the callers' own ids of rows, and weighs call records as evidence.
    pub fn row_keys(&self) -> Arc<RowKeys> {
        self.row_keys.clone()
    }

    /// The work beside requests, until the end. To be run once.
    pub async fn run(&self, end: CancellationToken) {
        tokio::join!(
            self.ledger.recover(&end),
            Box::pin(self.tasks.run(&end)),
            Box::pin(self.untracked.run(&end)),
            Box::pin(expiry::run(
                &self.ledger,
                &self.uploads,
                &self.options,
                &end
            )),
            expiry::count(&self.ledger, &self.options, &self.metrics, &end),
        );
    }

    /// Waits until everything that was sent has its outcome written. To be awaited at shutdown,
    /// when nothing new comes.
    pub async fn finish(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

/// Where the name of the default account stands in the store.
const DEFAULT_ACCOUNT: &str = "submissions-default-account";

/// Warns if requests that name no account go to another account than before: repeats of earlier
/// ones would be carried out again there.
async fn warn_of_default_account(
    notes: &dyn Notes,
    accounts: &[String],
) -> Result<(), SubmissionsError> {
    let Some(now) = accounts.first() else {
        return Ok(());
    };
    let before = notes.get(DEFAULT_ACCOUNT).await?;
    if before.as_deref() == Some(now.as_bytes()) {
        return Ok(());
    }
    if let Some(before) = before {
        let before = String::from_utf8_lossy(&before).into_owned();
        tracing::warn!(
            before,
            now,
            "the default account has changed; repeats without yeta-account are new requests"
        );
    }
    // Without a store that takes it, the next start warns.
    let _ = notes.put(DEFAULT_ACCOUNT, now.as_bytes().to_vec()).await;
    Ok(())
}

impl From<AppendError> for SubmissionsError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            AppendError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl From<ReadError> for SubmissionsError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            error @ (ReadError::Unavailable(_)
            | ReadError::Expired { .. }
            | ReadError::Damaged { .. }) => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
impl Submissions {
    /// Nothing is kept in memory of requests that have ended.
    fn assert_idle(&self) {
        self.requests.assert_idle();
        self.ledger.index.assert_idle();
    }
}
