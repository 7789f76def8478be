//! Counts what a subscription has still to hand out.

use std::sync::Arc;
use std::time::SystemTime;

use super::BATCH;
use crate::proto::PushFilter;
use crate::push::Position;
use crate::store::{Batch, Filter, PushLog, ReadError, ReadLimit};

/// What lies before a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many events.
    pub events: u64,
    /// When the first of them was received.
    pub oldest: Option<SystemTime>,
}

/// Counts the events after a position that match: one by one for the next `look_at` entries, and
/// all of those beyond.
pub async fn backlog(
    log: &Arc<dyn PushLog>,
    after: Position,
    filter: &PushFilter,
    look_at: u64,
) -> Result<Backlog, ReadError> {
    // Where everything matches there is nothing to look at.
    let look_at = if *filter == PushFilter::default() {
        0
    } else {
        look_at
    };
    let filter = Filter::new(filter.clone(), None);
    let end = *log.end().borrow();
    let mut position = after.max(log.earliest());
    let looked_at = Position(position.0.saturating_add(look_at).min(end.0));
    let mut backlog = Backlog::default();
    while position < looked_at {
        let left = usize::try_from(looked_at.0 - position.0).unwrap_or(usize::MAX);
        let limit = ReadLimit {
            entries: left.min(BATCH.entries),
            ..BATCH
        };
        let batch = read_on(log, &mut position, limit).await?;
        let Some(last) = batch.entries.last() else {
            break;
        };
        position = last.cursor.position;
        for entry in batch.entries.iter().filter(|entry| filter.matches(entry)) {
            backlog.events += 1;
            backlog.oldest = backlog.oldest.or(Some(entry.received_at()));
        }
        // There may be much to look at; others must get their turn meanwhile.
        tokio::task::coop::consume_budget().await;
    }
    backlog.events += end.0.saturating_sub(position.0);
    if backlog.oldest.is_none() && position < end {
        backlog.oldest = received_after(log, position).await?;
    }
    Ok(backlog)
}

/// When the first entry after a position was received.
async fn received_after(
    log: &Arc<dyn PushLog>,
    after: Position,
) -> Result<Option<SystemTime>, ReadError> {
    const ONE: ReadLimit = ReadLimit {
        entries: 1,
        bytes: 1,
    };
    let mut position = after.max(log.earliest());
    let batch = read_on(log, &mut position, ONE).await?;
    Ok(batch.entries.first().map(|entry| entry.received_at()))
}

/// When the first of the next `look_at` entries after a position was received that matches; the
/// position moves past those that don't.
pub async fn first_match(
    log: &Arc<dyn PushLog>,
    position: &mut Position,
    filter: &PushFilter,
    look_at: usize,
) -> Result<Option<SystemTime>, ReadError> {
    *position = log.earliest().max(*position);
    let limit = ReadLimit {
        entries: look_at,
        ..BATCH
    };
    let filter = Filter::new(filter.clone(), None);
    for entry in read_on(log, position, limit).await?.entries {
        if filter.matches(&entry) {
            return Ok(Some(entry.received_at()));
        }
        *position = entry.cursor.position;
    }
    Ok(None)
}

/// Reads on after a position, which moves past what can't be read any more.
async fn read_on(
    log: &Arc<dyn PushLog>,
    position: &mut Position,
    limit: ReadLimit,
) -> Result<Batch, ReadError> {
    loop {
        match log.read(*position, limit).await {
            Err(ReadError::Expired { earliest }) => *position = earliest,
            Err(ReadError::Damaged { lost }) => *position = Position(lost.end).before(),
            read => return read,
        }
    }
}
