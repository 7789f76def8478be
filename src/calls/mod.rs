//! One answer for each call: its pushes put together, whatever their order and however often each
//! came.
//!
//! [`Assembler`] is a durable subscriber of the log like any other: it takes pushes, puts calls
//! together (`assemble`), adds each final call to the log as an event of its own, and keeps what
//! it knows where [`Calls`] finds it (`projection`). What is kept can be made again from the log
//! at any time.

mod assemble;
mod assembler;
mod draft;
mod fold;
mod list;
pub mod metrics;
mod outcome;
mod projection;
mod stored;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;

pub use self::assembler::{Assembler, AssemblerOptions, Clock};
use self::list::Search;
use self::projection::{Disk, Projection};
use self::stored::Index;
use crate::proto::{Call, CallOutcome, CallState};
use crate::push::Position;
use crate::store::End;

/// The durable subscription of the assembler.
pub const SUBSCRIPTION: &str = "yeta-gateway.calls";

/// Nobody who asks for a call waits longer for it to be put together.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many calls of one row are told.
const MAX_ATTEMPTS: usize = 1000;

/// The calls, as far as they have been put together.
pub struct Calls {
    projection: Arc<Projection>,
    /// Up to where this process has found the log applied.
    reached: watch::Sender<Position>,
}

/// Why the calls could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder open. Two gateways must not share one: give each its own.
    #[error("the calls in {} are in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it can't be used.
    #[error("the calls in {} cannot be opened: {error}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Why calls could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallsError {
    /// The page token is none of these lists; the caller should pass on exactly what it was given.
    #[error("not a page token")]
    BadPageToken,
    /// Not now; the same may succeed later.
    #[error("the calls cannot be read: {0}")]
    Unavailable(String),
    /// Closed because the gateway is shutting down.
    #[error("the calls are closed")]
    Closed,
}

impl From<CallsError> for End {
    fn from(error: CallsError) -> Self {
        match error {
            CallsError::Closed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Which calls to list. Within a list any value matches; between fields all must match; what is
/// empty or `None` matches everything.
#[derive(Clone, Debug, Default)]
pub struct CallQuery {
    /// Only calls of these accounts; unlike the other lists, an empty one matches nothing.
    pub accounts: Option<BTreeSet<String>>,
    /// Only calls of these tasks.
    pub task_ids: Vec<String>,
    /// Only calls of these rows.
    pub task_data_ids: Vec<String>,
    /// Only calls of rows that were submitted with these ids.
    pub row_keys: Vec<String>,
    /// Only inbound calls with these ids.
    pub call_relation_ids: Vec<String>,
    /// Only calls to these numbers.
    pub callees: Vec<String>,
    /// Only calls whose first push was received at this time or later.
    pub since: Option<SystemTime>,
    /// Only calls whose first push was received before this time.
    pub until: Option<SystemTime>,
    /// Only calls that came out in one of these ways.
    pub outcomes: Vec<CallOutcome>,
    /// Only calls in one of these states.
    pub states: Vec<CallState>,
    /// Only calls that were answered, or only those that were not.
    pub answered: Option<bool>,
    /// At most so many calls, at least one.
    pub size: usize,
    /// [`CallPage::next`] of the page before; empty: the first page.
    pub page_token: String,
}

/// A page of calls, newest first.
#[derive(Clone, Debug, Default)]
pub struct CallPage {
    /// The calls, each an encoded [`Call`]; fewer than asked for, even none, where much had to be
    /// looked at.
    pub calls: Vec<Bytes>,
    /// Asks for the next page; `None`: this is the last.
    pub next: Option<String>,
}

impl Calls {
    /// Opens the calls of a folder of their own; made if it is not there. What can't be read there
    /// is removed, to be put together again from the log.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let projection = Arc::new(Projection::open(path)?);
        Ok(Self {
            projection,
            reached: watch::Sender::new(Position::START),
        })
    }

    /// A call of one of these accounts; `None`: of any.
    pub async fn get(
        &self,
        accounts: Option<&BTreeSet<String>>,
        call_uuid: &str,
    ) -> Result<Option<Call>, CallsError> {
        let (accounts, call_uuid) = (accounts.cloned(), call_uuid.to_owned());
        let read = self.projection.read(move |disk| {
            let view = disk.view();
            view.first(view.keys(&call_uuid), accounts.as_ref())
        });
        read.await
    }

    /// Every call of a row, the first attempt first; those whose attempt is not known at the end.
    pub async fn row(&self, account: &str, task_data_id: &str) -> Result<Vec<Call>, CallsError> {
        let (account, task_data_id) = (account.to_owned(), task_data_id.to_owned());
        let read = self.projection.read(move |disk| {
            let view = disk.view();
            let (from, to) = Index::TaskData(&task_data_id).whole();
            let mut calls = Vec::new();
            for item in view.list(from, to).take(MAX_ATTEMPTS) {
                let (_, key) = item?;
                if key.account() == account.as_bytes() {
                    let call = view.call(&key)?;
                    calls.extend(call.and_then(|call| Call::decode(call.as_ref()).ok()));
                }
            }
            Ok(calls)
        });
        let mut calls = read.await?;
        calls.sort_by_key(|call| (call.attempt == 0, call.attempt));
        Ok(calls)
    }

    /// The last call whose recording lies at this whole address.
    pub async fn of_voice(
        &self,
        accounts: Option<&BTreeSet<String>>,
        url: &Url,
    ) -> Result<Option<Call>, CallsError> {
        let (accounts, url) = (accounts.cloned(), url.clone());
        let read = self.projection.read(move |disk| {
            let view = disk.view();
            let (from, to) = Index::Voice(url.as_str()).whole();
            let keys = view.list(from, to).rev();
            view.first(keys.map(|item| Ok(item?.1)), accounts.as_ref())
        });
        read.await
    }

    /// How far the log has been applied: events up to here are among the calls. `None`: not at
    /// all.
    pub async fn applied(&self) -> Result<Option<Position>, CallsError> {
        self.projection.read(Disk::applied).await
    }

    /// Waits until events up to here are among the calls.
    pub async fn until_applied(&self, end: Position) {
        let mut reached = self.reached.subscribe();
        // The sender lives as long as this does.
        let _ = reached.wait_for(|reached| *reached >= end).await;
    }

    /// The same for whoever was told of a push and asks for its call at once: calls are put together
    /// a moment later. What is not there within two seconds counts as not there.
    pub async fn soon_applied(&self, end: Position) {
        let _ = timeout(PATIENCE, self.until_applied(end)).await;
    }

    /// Of these rows of an account, those of which a call record is among the calls.
    pub async fn recorded(
        &self,
        account: &str,
        task_data_ids: Vec<String>,
    ) -> Result<HashSet<String>, CallsError> {
        let account = account.to_owned();
        let read = self.projection.read(move |disk| {
            let view = disk.view();
            let mut recorded = HashSet::new();
            for id in task_data_ids {
                if view.has_record(&account, &id)? {
                    recorded.insert(id);
                }
            }
            Ok(recorded)
        });
        read.await
    }

    /// A page of calls.
    pub async fn list(&self, query: CallQuery) -> Result<CallPage, CallsError> {
        let search = Search::new(query)?;
        self.projection.read(move |disk| search.run(disk)).await
    }

    /// How many bytes the calls take on disk, without journals.
    pub fn table_bytes(&self) -> u64 {
        self.projection.table_bytes()
    }

    /// Lets go of the folder once the reads under way are done; later ones fail.
    pub async fn close(&self) {
        let projection = self.projection.clone();
        if let Err(panic) = tokio::task::spawn_blocking(move || projection.close()).await {
            tracing::error!(%panic, "closing the calls failed");
        }
    }
}

/// Under which key [`Notes`](crate::store::Notes) remember that a task makes no recordings, as it
/// was created with `trubo_mode`.
pub fn turbo_note(account: &str, task_id: &str) -> String {
    format!("calls.turbo/{account}/{task_id}")
}
