//! The engine seam: what the gateway needs of a durable log of pushes.
//!
//! [`PushLog`] states the contract; `tests/it/conformance.rs` holds every engine to it, sentence
//! by sentence. Nothing above this room knows which engine runs, assumes that it is alone, or
//! compares positions itself.

pub mod embedded;
mod end;
mod entry;
mod filter;
pub mod memory;
pub mod subscriptions;

use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::end::End;
pub use self::entry::{Entry, Header, NewEntry, place};
pub use self::filter::Filter;
use crate::push::{Cursor, CursorError, Position, StoreId};

/// An append-only, durable, deduplicating log of pushes.
///
/// # Contract
///
/// 1. **Durable.** When [`append`](Self::append) returns `Ok`, every entry given is on disk (or
///    held by a quorum) and survives kill −9 and loss of power. When it returns an error, an entry
///    may or may not be there; offering it again is always safe.
/// 2. **Once.** The log holds one entry for each [`EventId`](crate::push::EventId) as long as it
///    retains that entry, whoever offers it, however often, also across restarts.
/// 3. **Ordered.** Positions are dense and never used again, not even after a crash, after loss,
///    or when everything has been retired. `received_at` never decreases along the log.
/// 4. **Complete.** A read returns entries in order without a gap. What cannot be read is an
///    error that says which entries are missing and where reading can go on.
/// 5. **Visible when durable.** No reader sees an entry before its append is durable.
/// 6. **Retention** removes from the old end only, beside reads and appends. A position that
///    retention has passed is an error that names the earliest one left.
#[async_trait]
pub trait PushLog: Send + Sync + 'static {
    /// The log's name, which its cursors carry.
    fn id(&self) -> StoreId;

    /// Stores the entries in order, all of them or none, and resolves once they are durable.
    async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<Appended>, AppendError>;

    /// The entries that follow `after`, `limit` at most; none at the end of the log.
    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError>;

    /// The position just before the first entry received at `time` or later.
    async fn seek(&self, time: SystemTime) -> Result<Position, ReadError>;

    /// The position after the last entry, as it changes.
    fn end(&self) -> watch::Receiver<Position>;

    /// The position just before the oldest entry retained.
    fn earliest(&self) -> Position;

    /// Finishes what has been accepted, then closes. Later calls fail.
    async fn close(&self);

    /// The cursor of a position in this log.
    fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            store: self.id(),
            position,
        }
    }

    /// The position that a client's cursor stands for.
    fn position(&self, cursor: &str) -> Result<Position, CursorError> {
        let position = Cursor::parse(cursor, self.id())?;
        if position > *self.end().borrow() {
            return Err(CursorError::BeyondEnd);
        }
        Ok(position)
    }
}

/// Small facts that the gateway must remember across restarts, by key, beside the log.
///
/// Keys are texts of ASCII letters, digits and `/ _ - . =`, which every engine can have.
#[async_trait]
pub trait Notes: Send + Sync + 'static {
    /// Makes all of the changes or none, and resolves once they survive what is asked. After an
    /// error they may or may not have been made; making them again is always safe.
    async fn change(&self, changes: Vec<NoteChange>, survives: Survives)
    -> Result<(), AppendError>;

    /// The facts remembered under these keys, in their order.
    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, ReadError>;

    /// The facts whose keys begin with `prefix` and come after `after`, by key, `limit` at most.
    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Note>, ReadError>;

    /// Remembers a fact in place of an earlier one; resolves once it survives kill −9.
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), AppendError> {
        let change = NoteChange::put(key, value);
        self.change(vec![change], Survives::Kill).await
    }

    /// The fact remembered under a key.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let found = self.get_many(vec![key.to_owned()]).await?;
        Ok(found.into_iter().next().flatten())
    }
}

/// A key and the fact remembered under it.
pub type Note = (String, Vec<u8>);

/// A change of what is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct NoteChange {
    /// Under which key.
    pub key: String,
    /// What is remembered there from now on; `None`: nothing any more.
    pub value: Option<Vec<u8>>,
}

impl NoteChange {
    /// Remembers a fact in place of an earlier one.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self {
            key: key.into(),
            value: Some(value),
        }
    }

    /// Forgets what is remembered under a key.
    pub fn forget(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
        }
    }
}

/// What a change has to survive before it counts as made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The death of the process; loss of power may take back what no later push or careful change
    /// has brought onto the disk.
    Kill,
    /// Loss of power, too.
    PowerLoss,
}

/// What became of an entry that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The entry's place.
    pub position: Position,
    /// Whether the log held the same content already.
    pub duplicate: bool,
}

/// Why entries could not be stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Not now: the disk is full or failing, or the peer is away. Offering the same again later
    /// is right, and safe.
    #[error("the log cannot be written: {0}")]
    Unavailable(String),
    /// The log is closed because the gateway is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Why entries could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention has removed what follows the position; reading can start at the earliest.
    #[error("the position is older than retention")]
    Expired {
        /// The position just before the oldest entry retained.
        earliest: Position,
    },
    /// Entries that were stored cannot be read any more. They are lost unless a backup has them.
    #[error("entries {} to {} of the log are damaged", lost.start, lost.end - 1)]
    Damaged {
        /// The numbers of the lost entries; reading can go on after the last of them.
        lost: Range<u64>,
    },
    /// Not now; the same read may succeed later.
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
    /// The log is closed because the gateway is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Bounds of one read.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// At most so many entries.
    pub entries: usize,
    /// Stop once the entries' bytes reach this; at least one entry is returned.
    pub bytes: usize,
}

/// Consecutive entries of the log.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The entries in log order.
    pub entries: Vec<std::sync::Arc<Entry>>,
    /// Whether the log ended with them when they were read.
    pub reaches_end: bool,
}
