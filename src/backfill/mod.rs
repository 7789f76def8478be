//! Pushes that the platform could not deliver, fetched from its files of them.
//!
//! The platform keeps a zip or more of each day, for seven days, from the day after on. The
//! gateway asks for the days that it has not covered, at its start and daily (`schedule`), or when
//! it is told to (`run`), and adds what the log does not hold (`intake`). Which days are covered is
//! remembered (`coverage`). Everything can be done again without harm: content has one id,
//! whichever way it comes.

mod coverage;
pub mod days;
pub mod file;
mod intake;
pub mod lines;
pub mod metrics;
pub mod record;
mod run;
mod schedule;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, Time};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::coverage::Coverage;
use self::file::{FileError, Limits};
use self::intake::{Covered, Intake};
use self::metrics::BackfillMetrics;
use self::run::Job;
use crate::edge::readers::Readers;
use crate::platform::{DownloadError, Downloads, Platform, PlatformError, masked};
use crate::proto::{ListFailedPushFilesRequest, ListFailedPushFilesResponse};
use crate::store::{AppendError, Notes, PushLog, ReadError};
use crate::submissions::{Clock, RowKeys};

/// How backfills are done.
#[derive(Clone)]
pub struct Options {
    /// When they are done by themselves, besides at the start: a time of day in China.
    pub at: Time,
    /// Where files lie while they are read; they have no names there.
    pub folder: PathBuf,
    /// What relative addresses of recordings are relative to.
    pub voice_base_url: String,
    /// Bounds of a file.
    pub limits: Limits,
    /// How long to wait before what failed is tried again; doubled each time, an hour at most.
    pub backoff: Duration,
    /// Tells the time.
    pub clock: Clock,
}

/// How far a backfill has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that were read to their end.
    pub files_done: u32,
    /// Files that could not be fetched or read.
    pub files_failed: u32,
    /// Files that the platform lists.
    pub files_total: u32,
    /// Lines that were read.
    pub lines: u64,
    /// Events added to the log.
    pub added: u64,
    /// Events that the log held already.
    pub already_held: u64,
    /// Lines that are no failed pushes in the documented form.
    pub unreadable: u64,
    /// Lines left out because they were read before, and are older than what the log holds.
    pub outdated: u64,
}

/// Why a backfill could not be done, or not wholly.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackfillError {
    /// Files of the account are being read already; try again later.
    #[error("failed-push files of this account are being read already")]
    Running,
    /// The platform did not list its files.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A file could not be fetched.
    #[error("a failed-push file was not fetched: {0}")]
    Download(#[from] DownloadError),
    /// A file could not be read, or not to its end.
    #[error("a failed-push file cannot be read: {0}")]
    File(#[from] FileError),
    /// The log takes nothing now, or cannot be read. The same may succeed later.
    #[error("pushes cannot be stored: {0}")]
    Unavailable(String),
    /// The gateway is shutting down.
    #[error("the log is closed")]
    Closed,
}

impl BackfillError {
    /// As it may stand in a log: what the platform says may quote a phone number.
    fn for_log(&self) -> String {
        match self {
            Self::Platform(error) => masked(&error.to_string()),
            other => other.to_string(),
        }
    }
}

impl From<AppendError> for BackfillError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            AppendError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl From<ReadError> for BackfillError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The platform's files of failed pushes, and the way from them into the log.
pub struct Backfill {
    shared: Arc<Shared>,
}

struct Shared {
    platform: Arc<Platform>,
    downloads: Downloads,
    notes: Arc<dyn Notes>,
    intake: Intake,
    options: Options,
    metrics: BackfillMetrics,
    /// Held while files of the account are read.
    turns: HashMap<String, Arc<Mutex<()>>>,
    /// So many accounts are asked about at once, by themselves.
    places: Semaphore,
}

/// The right to read files of an account; nobody else has it until it is dropped.
pub struct Turn {
    account: String,
    _held: OwnedMutexGuard<()>,
}

/// Accounts that are backfilled at once, unless somebody asks for more.
const AT_ONCE: usize = 2;

impl Backfill {
    /// Readies backfills of the platform's accounts.
    pub fn new(
        platform: Arc<Platform>,
        downloads: Downloads,
        log: Arc<dyn PushLog>,
        notes: Arc<dyn Notes>,
        row_keys: Arc<RowKeys>,
        options: Options,
        metrics: BackfillMetrics,
    ) -> Self {
        let names = platform.accounts().map(|account| account.name.clone());
        let turns = names.map(|name| (name, Arc::default())).collect();
        Self {
            shared: Arc::new(Shared {
                platform,
                downloads,
                notes,
                intake: Intake {
                    log,
                    row_keys,
                    readers: Readers::default(),
                    voice_base_url: options.voice_base_url.clone(),
                    limits: options.limits,
                },
                options,
                metrics,
                turns,
                places: Semaphore::new(AT_ONCE),
            }),
        }
    }

    /// The time, by which it is decided what day it is.
    pub fn now(&self) -> SystemTime {
        (self.shared.options.clock)()
    }

    /// Bounds of a file.
    pub fn limits(&self) -> &Limits {
        &self.shared.options.limits
    }

    /// The files that the platform lists, with their whole addresses.
    pub async fn list(
        &self,
        account: &str,
        request: &ListFailedPushFilesRequest,
        deadline: Option<Instant>,
    ) -> Result<ListFailedPushFilesResponse, PlatformError> {
        let call = self.shared.platform.call(account, request, deadline);
        let mut listed = call.await?;
        for file in &mut listed.files {
            let address = self.shared.downloads.address(&file.url);
            file.absolute_url = address.map(|it| it.to_string()).unwrap_or_default();
        }
        Ok(listed)
    }

    /// Takes the right to read files of an account as soon as nobody has it, if that is by
    /// `deadline`. The gateway
    /// itself has it at its start, for as long as the platform takes to answer.
    pub async fn turn_by(&self, account: &str, deadline: Instant) -> Result<Turn, BackfillError> {
        let turn = self.shared.turn_of(account)?;
        let held = timeout_at(deadline, turn.lock_owned()).await;
        Ok(Turn {
            account: account.to_owned(),
            _held: held.map_err(|_| BackfillError::Running)?,
        })
    }

    /// Reads the platform's files of these days, whether they were read before or not.
    pub fn days(&self, turn: Turn, days: Vec<Date>) -> Run {
        let shared = self.shared.clone();
        Run::start(move |progress| async move {
            // The whole of it: naming a field alone would leave the lock behind.
            let Turn { account, _held } = turn;
            let job = Job::new(&shared, &account, &progress);
            job.again(&days).await
        })
    }

    /// Reads a file that came another way.
    pub fn file(&self, turn: Turn, file: File) -> Run {
        let shared = self.shared.clone();
        Run::start(move |progress| async move {
            // As above.
            let Turn { account, _held } = turn;
            let job = Job::new(&shared, &account, &progress);
            job.one(file).await
        })
    }

    /// An empty file on the disk that a caller's file is written into; gone when it is closed.
    pub async fn spool(&self) -> Result<tokio::fs::File, BackfillError> {
        self.shared.spool().await
    }
}

impl Shared {
    fn turn_of(&self, account: &str) -> Result<Arc<Mutex<()>>, BackfillError> {
        let turn = self.turns.get(account).cloned();
        turn.ok_or_else(|| PlatformError::UnknownAccount(account.to_owned()).into())
    }

    fn coverage(&self, account: &str) -> Coverage {
        Coverage::of(self.notes.clone(), account)
    }

    async fn spool(&self) -> Result<tokio::fs::File, BackfillError> {
        let folder = self.options.folder.clone();
        let made = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            tempfile::tempfile_in(folder)
        });
        let made = made.await.map_err(std::io::Error::other).and_then(|it| it);
        match made {
            Ok(file) => Ok(tokio::fs::File::from_std(file)),
            Err(error) => Err(FileError::Io(error.to_string()).into()),
        }
    }

    /// The days of an account that are covered, among those that the platform still has.
    async fn covered(&self, account: &str) -> Result<Covered, BackfillError> {
        let coverage = self.coverage(account);
        let mut covered = Vec::new();
        for day in days::kept((self.options.clock)()) {
            if coverage.day(day).await?.covered {
                covered.push(day);
            }
        }
        Ok(Covered::Days(covered))
    }
}

/// A backfill under way; it ends when this is dropped.
pub struct Run {
    progress: watch::Receiver<Progress>,
    work: Option<AbortOnDropHandle<Result<(), BackfillError>>>,
    failed: Option<BackfillError>,
}

impl Run {
    fn start<F>(work: impl FnOnce(watch::Sender<Progress>) -> F) -> Self
    where
        F: Future<Output = Result<(), BackfillError>> + Send + 'static,
    {
        let (sender, progress) = watch::channel(Progress::default());
        Self {
            work: Some(AbortOnDropHandle::new(tokio::spawn(work(sender)))),
            progress,
            failed: None,
        }
    }

    /// How far it has come, as that changes; the sum before the end, and `None` or the first
    /// error then.
    pub async fn next(&mut self) -> Option<Result<Progress, BackfillError>> {
        let Some(work) = &mut self.work else {
            return self.failed.take().map(Err);
        };
        if self.progress.changed().await.is_ok() {
            return Some(Ok(*self.progress.borrow_and_update()));
        }
        // It tells no more, so it has ended.
        match work.await {
            Ok(ended) => self.failed = ended.err(),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        self.work = None;
        Some(Ok(*self.progress.borrow_and_update()))
    }
}
