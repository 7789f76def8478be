//! Submissions: what dials people is written down before it is sent, and its outcome after, so
//! that nobody is called twice for one request.
//!
//! Two ways lead through here: requests with a request id (`requests`), and uploads of many rows
//! (`upload`). Both write into one ledger (`ledger`). Where a request was sent and not answered,
//! `resolver` looks for evidence of what came of it. `rows` tells pushes whose they are, `sweep`
//! forgets what is old.

pub mod awaited;
pub mod check;
mod evidence;
mod ledger;
pub mod metrics;
mod out;
mod plain;
mod request;
mod requests;
mod resolver;
mod rows;
mod stored;
mod sweep;
mod unsettled;
mod upload;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::check::Numbers;
use self::ledger::Ledger;
pub use self::ledger::Page;
use self::metrics::SubmissionsMetrics;
use self::plain::PlainRows;
pub use self::request::Submit;
use self::requests::Requests;
use self::resolver::Resolver;
pub use self::rows::{About, RowKeys};
use self::stored::Key;
use self::unsettled::Unsettled as _;
use self::upload::Uploads;
pub use self::upload::{
    Refusal, RowFault, RowOutcome, RowResult, Session, Stopped, Told, UploadOptions,
};
use crate::platform::{Code, Platform, PlatformError};
use crate::proto::submission::Request;
use crate::proto::{Submission, SubmissionState, UploadHeader};
use crate::store::{AppendError, Notes, PushLog, ReadError};

/// Tells the time; replaced in tests.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How submissions are kept and uploads behave.
#[derive(Clone)]
pub struct Options {
    /// How long the outcome of a request id is kept.
    pub keep: Duration,
    /// How long uploads, with their rows' own ids, are kept after they were last taken up, and
    /// submissions whose outcome is unknown.
    pub keep_rows: Duration,
    /// How phone numbers are read.
    pub numbers: Numbers,
    /// How uploads behave.
    pub uploads: UploadOptions,
    /// The accounts.
    pub accounts: Vec<String>,
    /// Tells the time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep: Duration::from_hours(24),
            keep_rows: Duration::from_hours(30 * 24),
            numbers: Numbers::default(),
            uploads: UploadOptions::default(),
            accounts: Vec::new(),
            clock: Arc::new(SystemTime::now),
        }
    }
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
    /// It was sent, and nobody knows what came of it. Asking again tells, once that is known.
    #[error("the request was sent and its outcome is unknown: {}", .0.unknown_because)]
    Unknown(Box<Submission>),
    /// So many uploads are under way as may be. The same may succeed later.
    #[error("as many uploads are under way as may be")]
    TooManyUploads,
    /// The page token is none of these lists; pass on exactly what was given.
    #[error("not a page token")]
    BadPageToken,
    /// Nothing can be written down or looked up now, so nothing was sent. The same may succeed
    /// later.
    #[error("submissions cannot be written down: {0}")]
    Unavailable(String),
    /// The gateway is shutting down; nothing was sent.
    #[error("submissions are closed")]
    Closed,
}

/// Everything that has been submitted, and the ways to submit.
pub struct Submissions {
    ledger: Arc<Ledger>,
    requests: Arc<Requests>,
    uploads: Arc<Uploads>,
    row_keys: Arc<RowKeys>,
    resolver: Arc<Resolver>,
    options: Options,
    metrics: SubmissionsMetrics,
    tasks: TaskTracker,
    /// Rows of requests without an id, to be noted by `run`.
    plain: mpsc::Sender<PlainRows>,
    plain_rows: tokio::sync::Mutex<mpsc::Receiver<PlainRows>>,
    /// Whether the last such rows are not noted: too many wait for a store that takes none.
    leaves_out: AtomicBool,
}

impl Submissions {
    /// Takes up what the store holds. What an earlier process left in flight is unknown from now
    /// on.
    pub async fn open(
        log: Arc<dyn PushLog>,
        notes: Arc<dyn Notes>,
        platform: Arc<Platform>,
        options: Options,
        metrics: SubmissionsMetrics,
    ) -> Result<Self, SubmissionsError> {
        let ledger = Ledger::take_up(
            notes.clone(),
            log.clone(),
            options.numbers,
            options.clock.clone(),
            &options.accounts,
        );
        let ledger = Arc::new(ledger.await?);
        let are_any = !notes.list("upload/", "", 1).await?.is_empty();
        let row_keys = Arc::new(RowKeys::new(ledger.clone(), are_any));
        let resolver = Resolver::new(
            ledger.clone(),
            log,
            platform.clone(),
            metrics.resolved.clone(),
        );
        let resolver = Arc::new(resolver);
        let tasks = TaskTracker::new();
        let requests = Requests {
            ledger: ledger.clone(),
            platform: platform.clone(),
            resolver: resolver.clone(),
            metrics: metrics.clone(),
            live: Mutex::default(),
            tasks: tasks.clone(),
        };
        let uploads = Uploads {
            ledger: ledger.clone(),
            platform,
            row_keys: row_keys.clone(),
            options: options.uploads.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            live: Mutex::default(),
        };
        let (plain, plain_rows) = mpsc::channel(plain::QUEUE);
        Ok(Self {
            ledger,
            requests: Arc::new(requests),
            uploads: Arc::new(uploads),
            row_keys,
            resolver,
            options,
            metrics,
            tasks,
            plain,
            plain_rows: plain_rows.into(),
            leaves_out: AtomicBool::new(false),
        })
    }

    /// Does what is asked for, once for all who ask for it under the same request id.
    ///
    /// Once begun it goes on when its caller leaves; it does not go out after `deadline`.
    pub async fn submit<S: Submit>(
        &self,
        account: &str,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<S::Reply, SubmissionsError> {
        self.requests.submit(account, request, deadline).await
    }

    /// Begins an upload, or takes it up again; an earlier stream of it ends. Nothing more of it is
    /// sent once `drain` is cancelled.
    pub async fn upload(
        &self,
        account: &str,
        header: UploadHeader,
        drain: CancellationToken,
    ) -> Result<Session, SubmissionsError> {
        self.uploads.begin(account, header, drain).await
    }

    /// Takes note of what was answered to a request without an id: of rows whose records are
    /// awaited from now on; and at once, where the ids could be taken for the outcome of another
    /// request that nobody knows. `asked` is the request, with its rows or without.
    pub async fn answered<S: Submit>(&self, account: &str, asked: Request, reply: &S::Reply) {
        let mut answered = Submission {
            account: account.to_owned(),
            request: Some(asked),
            outcome: Some(S::outcome(reply.clone(), "")),
            ..Submission::default()
        };
        if !self.ledger.is_any_open_or_out(account) {
            let rows = PlainRows {
                account: account.to_owned(),
                task_id: awaited::task_id(&answered).to_owned(),
                ids: stored::ids(&answered).to_vec(),
                answered_ms: self.ledger.now_ms(),
            };
            let is_left_out = !rows.ids.is_empty() && self.plain.try_send(rows).is_err();
            if is_left_out && !self.leaves_out.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    account,
                    "the ids that are answered are not noted for a while"
                );
            } else if !is_left_out {
                self.leaves_out.store(false, Ordering::Relaxed);
            }
            return;
        }
        answered.set_state(SubmissionState::Accepted);
        answered.created_at = Some(self.ledger.now().into());
        if let Err(error) = self.ledger.claim(answered).await {
            tracing::warn!(account, %error, "the ids that were answered are not noted");
        }
    }

    /// What is known of a request id.
    pub async fn get(
        &self,
        account: &str,
        request_id: &str,
    ) -> Result<Option<Submission>, SubmissionsError> {
        let key = Key::of_request(account, request_id);
        Ok(self.ledger.load(&key).await?)
    }

    /// A page of an account's submissions in a state, all if it is unspecified.
    pub async fn list(
        &self,
        account: &str,
        state: SubmissionState,
        page_token: &str,
        page_size: usize,
    ) -> Result<Page, SubmissionsError> {
        self.ledger
            .list(account, state, page_token, page_size)
            .await
    }

    /// Tells the callers' own ids of rows.
    pub fn row_keys(&self) -> Arc<RowKeys> {
        self.row_keys.clone()
    }

    /// Looks for unknown outcomes, notes rows of requests without an id, and forgets what is old,
    /// until told to stop. To be run once.
    pub async fn run(&self, end: CancellationToken) {
        let mut plain_rows = self.plain_rows.lock().await;
        let plain = plain::run(&self.ledger, &mut plain_rows, end.clone());
        let sweep = sweep::run(
            &self.ledger,
            &self.uploads,
            &self.options,
            &self.metrics,
            end.clone(),
        );
        tokio::join!(self.resolver.run(end.clone()), plain, sweep);
    }

    /// Waits until everything that has gone out has its outcome written down. To be awaited at
    /// shutdown, when nothing new comes.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
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
            other => Self::Unavailable(other.to_string()),
        }
    }
}
