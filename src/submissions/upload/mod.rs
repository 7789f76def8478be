//! Uploads: any number of rows, checked, sent in batches, each answered for on its own.
//!
//! One stream is a [`Session`]: it takes rows as they come, answers those that need not be sent,
//! and gathers the others into batches (`batch`), some of which are out at once. What became of a
//! row is kept (`fates`), so that another session of the same upload answers it from there.

mod batch;
pub(super) mod fates;
mod session;
pub(super) mod split;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::session::Session;
pub use self::split::Refusal;
use super::SubmissionsError;
use super::ledger::Ledger;
use super::metrics::SubmissionsMetrics;
use super::rows::RowKeys;
use super::stored::{self, KnownUpload};
use crate::platform::{Platform, PlatformError};
use crate::proto::{DuplicateRule, UploadHeader, UploadProgress};
use crate::store::{NoteChange, Survives};

/// How many rows the platform takes at once. Source: API document, 单次上限50条.
pub(super) const BATCH: usize = 50;

/// So many uploads may be under way at once.
const MAX_LIVE: usize = 256;

/// How uploads behave.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// What is done with a number that another row has, unless the upload says.
    pub duplicate_numbers: DuplicateRule,
    /// What is done with a row key that another row has, unless the upload says.
    pub duplicate_row_keys: DuplicateRule,
    /// So many batches of an upload are out at once.
    pub max_batches: usize,
    /// How long an upload waits for a platform that cannot be reached.
    pub patience: Duration,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            duplicate_numbers: DuplicateRule::Refuse,
            duplicate_row_keys: DuplicateRule::Refuse,
            max_batches: 4,
            patience: Duration::from_secs(30),
        }
    }
}

/// What a stream is told, as it happens.
#[derive(Clone, Debug)]
pub enum Told {
    /// What became of a row.
    Row(RowResult),
    /// How far the upload has come.
    Progress(UploadProgress),
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowResult {
    /// The caller's own id of it.
    pub row_key: String,
    /// What became of it.
    pub outcome: RowOutcome,
    /// What is odd about it.
    pub warnings: Vec<RowFault>,
    /// Whether that was known before, so that nothing was sent.
    pub known_before: bool,
}

/// What became of a row.
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

/// Why a stream ends before all of its rows are answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stopped {
    /// Another stream has taken the upload up.
    #[error("another stream has taken up this upload")]
    TakenOver,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
    /// The platform cannot be reached, or not asked; nothing of what is left was sent.
    #[error(transparent)]
    Platform(PlatformError),
    /// Nothing can be written down, so nothing more is sent.
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
    pub tasks: TaskTracker,
    pub live: Mutex<HashMap<String, Live>>,
}

/// An upload under way.
pub(super) struct Live {
    taken_over: CancellationToken,
    /// Held as long as anything of a session is out.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A session's hold on its upload.
pub(super) struct Turn {
    uploads: Arc<Uploads>,
    name: String,
    hold: Option<OwnedMutexGuard<()>>,
}

impl Uploads {
    /// Begins an upload, or takes it up again; an earlier stream of it ends.
    pub async fn begin(
        self: &Arc<Self>,
        account: &str,
        mut header: UploadHeader,
        drain: CancellationToken,
    ) -> Result<Session, SubmissionsError> {
        if header.upload_id.is_empty() {
            header.upload_id = format!("gateway-{:032x}", rand::random::<u128>());
        }
        let name = stored::upload_name(account, &header.upload_id);
        // Before the turn is taken, so that a wrong header disturbs nobody.
        self.check(account, &name, &header).await?;
        let (turn, taken_over) = self.take_turn(&name).await?;
        self.check(account, &name, &header).await?;
        self.note(account, &name, &header).await?;
        Ok(Session::new(turn, account, header, taken_over, drain))
    }

    /// A hold on an upload that is not under way; `None`: it is.
    pub async fn try_take_turn(self: &Arc<Self>, name: &str) -> Option<Turn> {
        if self.live().contains_key(name) {
            return None;
        }
        // Whoever comes in between is waited for, and told to end; that is rare, and does no harm.
        let turn = self.take_turn(name).await;
        turn.ok().map(|(turn, _)| turn)
    }

    /// Waits until nothing of an earlier session is out, which is told to end.
    async fn take_turn(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<(Turn, CancellationToken), SubmissionsError> {
        let taken_over = CancellationToken::new();
        let place = {
            let mut live = self.live();
            let earlier = live.get(name);
            if earlier.is_none() && live.len() >= MAX_LIVE {
                return Err(SubmissionsError::TooManyUploads);
            }
            let turn = earlier.map_or_else(Arc::default, |earlier| {
                earlier.taken_over.cancel();
                earlier.turn.clone()
            });
            let now = Live {
                taken_over: taken_over.clone(),
                turn: turn.clone(),
            };
            live.insert(name.to_owned(), now);
            turn
        };
        self.metrics.uploads.inc();
        // Made before the wait, which may be given up.
        let mut turn = Turn {
            uploads: self.clone(),
            name: name.to_owned(),
            hold: None,
        };
        turn.hold = Some(place.lock_owned().await);
        Ok((turn, taken_over))
    }

    /// Whether the header is the same as what is known under the upload's name.
    async fn check(
        &self,
        account: &str,
        name: &str,
        header: &UploadHeader,
    ) -> Result<(), SubmissionsError> {
        let place = format!("{}{name}", stored::uploads(account));
        let Some(known) = self.ledger.notes().get(&place).await? else {
            return Ok(());
        };
        let known = KnownUpload::decode(known.as_slice()).ok();
        match known.and_then(|known| known.header) {
            Some(known) if is_same(&known, header) => Ok(()),
            Some(_) => Err(SubmissionsError::UploadReused),
            None => {
                let error = "what is kept of the upload cannot be read";
                Err(SubmissionsError::Unavailable(error.to_owned()))
            }
        }
    }

    /// Writes an upload down.
    async fn note(
        &self,
        account: &str,
        name: &str,
        header: &UploadHeader,
    ) -> Result<(), SubmissionsError> {
        let place = format!("{}{name}", stored::uploads(account));
        let upload = KnownUpload {
            header: Some(header.clone()),
            last_ms: self.ledger.now_ms(),
        };
        let change = NoteChange::put(place, upload.encode_to_vec());
        let notes = self.ledger.notes();
        Ok(notes.change(vec![change], Survives::PowerLoss).await?)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        // Whole after a panic: each change is one step.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the rows of both go to the same place in the same form.
fn is_same(known: &UploadHeader, header: &UploadHeader) -> bool {
    known.target == header.target && known.call_column == header.call_column
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.uploads.metrics.uploads.dec();
        drop(self.hold.take());
        let mut live = self.uploads.live();
        // Nobody else holds it or waits for it.
        if live
            .get(&self.name)
            .is_some_and(|live| Arc::strong_count(&live.turn) == 1)
        {
            live.remove(&self.name);
        }
    }
}
