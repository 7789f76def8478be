//! Reads the log on behalf of subscribers: where to start, what to leave out, how far it has come.
//!
//! A reader holds at most two batches in memory, the one being sent and the next, so that a slow
//! subscriber costs little and delays nobody. There is no queue that could overflow: the log is
//! the buffer.

pub mod metrics;
mod page;
mod reader;

pub use self::page::{Page, PageQuery, list};
pub use self::reader::{Reader, Step};

use std::sync::Arc;
use std::time::SystemTime;

use crate::push::{CursorError, Position};
use crate::store::{PushLog, ReadError, ReadLimit};

/// Where a reader starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// After what carried this cursor.
    Cursor(String),
    /// At the first event received at this time or later.
    Since(SystemTime),
    /// At the oldest event retained.
    Earliest,
    /// After the newest event.
    Latest,
}

/// Why reading cannot start or go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RelayError {
    /// The caller's cursor is none of this log.
    #[error(transparent)]
    BadCursor(#[from] CursorError),
    /// The log cannot be read from there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The gateway is shutting down; another replica, or this one later, can go on.
    #[error("the gateway is shutting down")]
    Draining,
}

/// How much a reader takes from the log at a time: what it may hold in memory.
const BATCH: ReadLimit = ReadLimit {
    entries: 512,
    bytes: 1 << 20,
};

/// The position that a start stands for.
pub async fn resolve(log: &Arc<dyn PushLog>, start: &Start) -> Result<Position, RelayError> {
    match start {
        Start::Cursor(cursor) => {
            let position = log.position(cursor)?;
            let earliest = log.earliest();
            if position < earliest {
                return Err(ReadError::Expired { earliest }.into());
            }
            Ok(position)
        }
        Start::Since(time) => Ok(log.seek(*time).await?),
        Start::Earliest => Ok(log.earliest()),
        Start::Latest => Ok(*log.end().borrow()),
    }
}
