//! Reads a page of what the log holds.

use std::sync::Arc;
use std::time::SystemTime;

use super::{BATCH, RelayError};
use crate::push::{Cursor, Position};
use crate::store::subscriptions::{DeadLetter, SubscriptionError, Subscriptions};
use crate::store::{Entry, Filter, PushLog};

/// What a page is to hold.
#[derive(Debug)]
pub struct PageQuery {
    /// Only what follows this.
    pub after: Position,
    /// Only what was received before this.
    pub until: Option<SystemTime>,
    /// Only what matches.
    pub filter: Filter,
    /// At most so many events.
    pub size: usize,
}

/// A page, and where the next one begins.
#[derive(Debug)]
pub struct Page {
    /// The events, in order.
    pub entries: Vec<Arc<Entry>>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Cursor>,
}

/// A page may end early after so many events looked at, so that no request holds on for long.
const LOOK_AT: usize = 100_000;
/// A page ends once its events have so many bytes: clients take messages of 4 MiB by default.
const PAGE_BYTES: usize = 2 << 20;

/// Reads the page.
pub async fn list(log: &Arc<dyn PushLog>, query: &PageQuery) -> Result<Page, RelayError> {
    let mut entries = Vec::new();
    let mut position = query.after;
    let (mut looked_at, mut bytes) = (0, 0);
    while looked_at < LOOK_AT {
        let batch = log.read(position, BATCH).await?;
        looked_at += batch.entries.len();
        for entry in batch.entries {
            if query
                .until
                .is_some_and(|until| entry.received_at() >= until)
            {
                return Ok(Page {
                    entries,
                    next: None,
                });
            }
            position = entry.cursor.position;
            if query.filter.matches(&entry) {
                bytes += entry.size();
                entries.push(entry);
            }
            if entries.len() == query.size || bytes >= PAGE_BYTES {
                let more = position < *log.end().borrow();
                return Ok(Page {
                    entries,
                    next: more.then(|| log.cursor(position)),
                });
            }
        }
        if batch.reaches_end {
            return Ok(Page {
                entries,
                next: None,
            });
        }
    }
    Ok(Page {
        entries,
        next: Some(log.cursor(position)),
    })
}

/// A page of at most `size` dead letters after a position, and the position that the next page
/// follows; `None`: there is none.
pub async fn dead_letters(
    subscriptions: &Arc<dyn Subscriptions>,
    name: &str,
    mut after: Position,
    size: usize,
) -> Result<(Vec<DeadLetter>, Option<Position>), SubscriptionError> {
    /// So many are read at a time, as each may be large.
    const HANDFUL: usize = 32;
    let mut page = Vec::new();
    let mut bytes = 0;
    loop {
        // One more than there is room for tells whether there is another page.
        let limit = HANDFUL.min(size + 1 - page.len());
        let letters = subscriptions.dead_letters(name, after, limit).await?;
        let is_last = letters.len() < limit;
        for letter in letters {
            if page.len() == size || bytes >= PAGE_BYTES {
                return Ok((page, Some(after)));
            }
            after = letter.entry.cursor.position;
            bytes += letter.entry.size();
            page.push(letter);
        }
        if is_last {
            return Ok((page, None));
        }
    }
}
