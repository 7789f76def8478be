//! Uploads: any number of rows, checked, sent in batches, each with a result of its own.
//!
//! One stream is a [`Session`]: it takes rows as they come, answers those that need not be sent,
//! and gathers the others into batches (`batch`). A row's record names the batch that it went out
//! with, and is written with the batch's record, before the batch is sent (`rows`). So another
//! session of the same upload finds each row that may have been sent.

mod batch;
mod halving;
mod rows;
mod session;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::session::Session;
pub use self::verdict::Refusal;
use super::ledger::Ledger;
use super::metrics::SubmissionsMetrics;
use super::record::{self, KnownUpload};
use super::row_keys::RowKeys;
use super::{Caller, SubmissionsError};
use crate::platform::{Platform, PlatformError};
use crate::proto::{DuplicateRule, UploadHeader, UploadProgress};
use crate::random;
use crate::store::{NoteChange, Survives};

/// The rows that the platform takes at once. Source: API document, 单次上限50条.
pub(super) const BATCH: usize = 50;

/// How uploads behave.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// The rule for a number that another row has, unless the upload has its own.
    pub duplicate_numbers: DuplicateRule,
    /// The rule for a row key that another row has, unless the upload has its own.
    pub duplicate_row_keys: DuplicateRule,
    /// The batches of an upload that are sent at once.
    pub max_batches: usize,
    /// How long an upload waits for a platform that is busy or cannot be reached.
    pub patience: Duration,
    /// The live streams of one client and account.
    pub max_uploads: usize,
    /// A stream without a row for this long is ended.
    pub idle_timeout: Duration,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            duplicate_numbers: DuplicateRule::Refuse,
            duplicate_row_keys: DuplicateRule::Refuse,
            max_batches: 4,
            patience: Duration::from_secs(30),
            max_uploads: 64,
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// What the client of a stream learns, as it happens.
#[derive(Clone, Debug)]
pub enum UploadEvent {
    /// The result of a row.
    Row(RowResult),
    /// How far the upload has come.
    Progress(UploadProgress),
}

/// The result of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowResult {
    /// The caller's own id of it.
    pub row_key: String,
    /// Its outcome.
    pub outcome: RowOutcome,
    /// What is odd about it.
    pub warnings: Vec<RowFault>,
    /// Whether that was known before, so that nothing was sent.
    pub known_before: bool,
}

/// The outcome of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOutcome {
    /// The platform took it, and this is its id.
    Accepted(String),
    /// The gateway did not send it.
    Faulty(RowFault),
    /// The platform refused it.
    Refused(Refusal),
    /// It was sent, and nobody knows.
    Unknown(String),
}

/// What the gateway finds wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// In one word.
    pub reason: &'static str,
    /// In words, without the number.
    pub message: String,
}

/// Why a stream ends before all of its rows have a result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stopped {
    /// Another stream has begun for this upload.
    #[error("another stream has begun for this upload")]
    TakenOver,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
    /// No row came for as long as a stream may wait. Begin the upload again with the rest.
    #[error("no row came for {}", humantime::format_duration(*.0))]
    Idle(Duration),
    /// The platform cannot be reached, or not asked; nothing of the rest was sent.
    #[error(transparent)]
    Platform(PlatformError),
    /// Nothing can be recorded, so nothing more is sent.
    #[error(transparent)]
    Submissions(SubmissionsError),
}

/// All uploads.
pub(super) struct Uploads {
    pub ledger: Arc<Ledger>,
    pub platform: Arc<Platform>,
    pub row_keys: Arc<RowKeys>,
    pub options: UploadOptions,
    pub metrics: SubmissionsMetrics,
    /// Batches go on when their stream ends.
    pub running: TaskTracker,
    pub live: Mutex<HashMap<String, LiveUpload>>,
}

/// An upload that a stream, or the sweeper, holds.
pub(super) struct LiveUpload {
    /// Account and client.
    owner: (String, String),
    taken_over: CancellationToken,
    /// Held as long as anything of a session is in flight.
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// A session's hold on its upload.
pub(super) struct UploadLock {
    uploads: Arc<Uploads>,
    name: String,
    hold: Option<OwnedMutexGuard<()>>,
}

impl Uploads {
    /// Begins an upload, or goes on with it; an earlier stream of it ends.
    pub async fn begin(
        self: &Arc<Self>,
        caller: Caller<'_>,
        mut header: UploadHeader,
        drain: CancellationToken,
    ) -> Result<Session, SubmissionsError> {
        if header.upload_id.is_empty() {
            header.upload_id = format!("gateway-{:032x}", random::unique());
        }
        self.ledger.admit(caller.account)?;
        if self.ledger.records_lost {
            return Err(SubmissionsError::RecordsLost);
        }
        let name = record::upload_name(caller.account, caller.client, &header.upload_id);
        // Before the hold, so that a wrong header disturbs nobody.
        self.check(caller.account, &name, &header).await?;
        let owner = (caller.account.to_owned(), caller.client.to_owned());
        let (lock, taken_over) = self.hold(&name, owner, self.options.max_uploads).await?;
        self.check(caller.account, &name, &header).await?;
        self.note(caller, &name, &header).await?;
        self.row_keys.expect_rows();
        Ok(Session::new(lock, caller, header, taken_over, drain))
    }

    /// A hold on an upload that nobody holds; `None`: somebody does.
    pub async fn try_hold(self: &Arc<Self>, account: &str, name: &str) -> Option<UploadLock> {
        if self.live().contains_key(name) {
            return None;
        }
        // A stream that begins in between is waited for, and ended; that is rare and harmless.
        let owner = (account.to_owned(), String::new());
        let hold = self.hold(name, owner, usize::MAX).await;
        hold.ok().map(|(lock, _)| lock)
    }

    /// Ends an earlier session of an upload, and waits until nothing of it is in flight, for as
    /// long as patience allows.
    async fn hold(
        self: &Arc<Self>,
        name: &str,
        owner: (String, String),
        max: usize,
    ) -> Result<(UploadLock, CancellationToken), SubmissionsError> {
        let taken_over = CancellationToken::new();
        let place = {
            let mut live = self.live();
            let earlier = live.get(name);
            let own = live.values().filter(|upload| upload.owner == owner);
            if earlier.is_none() && own.count() >= max {
                return Err(SubmissionsError::TooManyUploads { max });
            }
            let lock = earlier.map_or_else(Arc::default, |earlier| {
                earlier.taken_over.cancel();
                earlier.lock.clone()
            });
            let now = LiveUpload {
                owner,
                taken_over: taken_over.clone(),
                lock: lock.clone(),
            };
            live.insert(name.to_owned(), now);
            lock
        };
        self.metrics.uploads.inc();
        // Made before the wait, which may be given up.
        let mut lock = UploadLock {
            uploads: self.clone(),
            name: name.to_owned(),
            hold: None,
        };
        let hold = timeout(self.options.patience, place.lock_owned()).await;
        lock.hold = Some(hold.map_err(|_elapsed| {
            let error = "an earlier stream of the upload has rows in flight";
            SubmissionsError::Unavailable(error.to_owned())
        })?);
        Ok((lock, taken_over))
    }

    /// Whether the header is the same as what is known under the upload's name.
    async fn check(
        &self,
        account: &str,
        name: &str,
        header: &UploadHeader,
    ) -> Result<(), SubmissionsError> {
        let place = format!("{}{name}", record::uploads(account));
        let Some(known) = self.ledger.notes.get(&place).await? else {
            return Ok(());
        };
        let known = KnownUpload::decode(known.as_slice()).ok();
        match known.and_then(|known| known.header) {
            Some(known) if is_same(&known, header) => Ok(()),
            Some(_) => Err(SubmissionsError::UploadReused),
            None => {
                let error = "the record of the upload cannot be read";
                Err(SubmissionsError::Unavailable(error.to_owned()))
            }
        }
    }

    /// Records an upload.
    async fn note(
        &self,
        caller: Caller<'_>,
        name: &str,
        header: &UploadHeader,
    ) -> Result<(), SubmissionsError> {
        let place = format!("{}{name}", record::uploads(caller.account));
        let upload = KnownUpload {
            header: Some(header.clone()),
            aged_ms: self.ledger.age.now_ms(),
            client: caller.client.to_owned(),
        };
        let change = NoteChange::put(place, upload.encode_to_vec());
        let notes = &self.ledger.notes;
        Ok(notes.change(vec![change], Survives::PowerLoss).await?)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, LiveUpload>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the rows of both go to the same place in the same form.
fn is_same(known: &UploadHeader, header: &UploadHeader) -> bool {
    known.target == header.target && known.call_column == header.call_column
}

impl Drop for UploadLock {
    fn drop(&mut self) {
        self.uploads.metrics.uploads.dec();
        drop(self.hold.take());
        let mut live = self.uploads.live();
        // Nobody else holds it or waits for it.
        if live
            .get(&self.name)
            .is_some_and(|live| Arc::strong_count(&live.lock) == 1)
        {
            live.remove(&self.name);
        }
    }
}
