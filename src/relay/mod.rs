//! Reads the log on behalf of subscribers: where to start, what to leave out, how far it has come;
//! and feeds the members of durable subscriptions.
//!
//! A reader holds at most two batches in memory, the one being sent and the next, so that a slow
//! subscriber costs little and delays nobody. There is no queue that could overflow: the log is
//! the buffer.

mod backlog;
pub mod metrics;
mod page;
mod reader;
mod subscriber;
pub mod watch;

use self::backlog::first_match;
pub use self::backlog::{Backlog, backlog};
pub use self::page::{Page, PageQuery, dead_letters, list};
pub use self::reader::Reader;
pub use self::subscriber::Subscriber;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::push::{Cursor, CursorError, Position};
use crate::store::subscriptions::SubscriptionError;
use crate::store::{PushLog, ReadError, ReadLimit};

/// What a stream is fed from, event by event.
pub trait Source: Send + 'static {
    /// What it gives.
    type Event: Send + 'static;

    /// Waits for the next events or word of progress. After an error there is nothing more.
    fn next(&mut self) -> impl Future<Output = Result<Step<Self::Event>, RelayError>> + Send;

    /// The cursor of how far it has come.
    fn cursor(&self) -> Cursor;
}

/// What a source has come to.
#[derive(Clone, Debug)]
pub enum Step<E> {
    /// Events that match, in order: at least one, and few enough that whoever takes them one by
    /// one comes back soon.
    Events(Vec<E>),
    /// How far it has come, past what the filter left out.
    Progress {
        /// Where that is.
        cursor: Cursor,
        /// Whether this was the end of the log.
        caught_up: bool,
    },
}

/// Progress is told at least this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

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
    /// The subscription cannot be read.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// The subscription has come to take pushes that this member may not see.
    #[error("the subscription has pushes of account {account:?}, which is not this member's")]
    Forbidden {
        /// Whose pushes they are.
        account: String,
    },
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
