//! An independent reader: every event after its start that matches, in order, without end.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::metrics::RelayMetrics;
use super::{BATCH, PROGRESS_EVERY, RelayError, Source, Step};
use crate::push::{Cursor, Position};
use crate::store::{Batch, Entry, Filter, PushLog, ReadError};

/// So many events are given at a time: what is done for each handful costs little for each event,
/// and a reader still learns soon that the gateway drains.
const HANDFUL: usize = 32;

/// Reads the log from a position, first what is there, then what arrives.
pub struct Reader {
    log: Arc<dyn PushLog>,
    filter: Filter,
    drain: CancellationToken,
    metrics: RelayMetrics,
    end: watch::Receiver<Position>,
    /// How far the reader has come.
    position: Position,
    batch: std::vec::IntoIter<Arc<Entry>>,
    /// The batch after that, being read while this one is sent; only while more is known to follow.
    ahead: Option<AbortOnDropHandle<Result<Batch, ReadError>>>,
    /// Whether the present batch was cut short by its bound, so that more is known to follow.
    is_behind: bool,
    has_told_caught_up: bool,
    progress_due: Instant,
}

impl Reader {
    /// A reader that starts after a position and ends when `drain` is cancelled.
    pub fn new(
        log: Arc<dyn PushLog>,
        start: Position,
        filter: Filter,
        drain: CancellationToken,
        metrics: RelayMetrics,
    ) -> Self {
        metrics.readers.inc();
        Self {
            end: log.end(),
            log,
            filter,
            drain,
            metrics,
            position: start,
            batch: Vec::new().into_iter(),
            ahead: None,
            is_behind: false,
            has_told_caught_up: false,
            progress_due: Instant::now() + PROGRESS_EVERY,
        }
    }

    /// The next events of the present batch that match; none at its end.
    fn handful(&mut self) -> Vec<Arc<Entry>> {
        let mut events = Vec::new();
        while events.len() < HANDFUL
            && let Some(entry) = self.batch.next()
        {
            self.position = entry.cursor.position;
            if self.filter.matches(&entry) {
                if events.is_empty() {
                    events.reserve_exact(HANDFUL.min(1 + self.batch.len()));
                }
                events.push(entry);
            }
        }
        events
    }

    /// Reads the next batch; false at the end of the log.
    async fn fill(&mut self) -> Result<bool, RelayError> {
        // Seen before reading, so that what is appended in between wakes the wait.
        self.end.borrow_and_update();
        let batch = self.read().await?;
        let filled = !batch.entries.is_empty();
        if filled && !batch.reaches_end {
            self.is_behind = true;
        } else if filled && self.is_behind {
            // The end is in sight again: say so once it is reached.
            self.is_behind = false;
            self.has_told_caught_up = false;
        }
        self.batch = batch.entries.into_iter();
        if filled {
            // The filter may leave out much; others must get their turn meanwhile.
            tokio::task::coop::consume_budget().await;
        }
        Ok(filled)
    }

    /// The batch that was read ahead, or else one read now.
    async fn read(&mut self) -> Result<Batch, ReadError> {
        let mut batch = Batch::default();
        // A read that panicked is tried once more here, where the panic shows.
        if let Some(ahead) = self.ahead.take()
            && let Ok(read) = ahead.await
        {
            batch = read?;
        }
        if batch.entries.is_empty() {
            // Only what is read now can tell that nothing follows.
            batch = self.log.read(self.position, BATCH).await?;
        }
        if let Some(last) = batch.entries.last().filter(|_| !batch.reaches_end) {
            let (log, after) = (self.log.clone(), last.cursor.position);
            let ahead = tokio::spawn(async move { log.read(after, BATCH).await });
            self.ahead = Some(AbortOnDropHandle::new(ahead));
        }
        Ok(batch)
    }

    /// Waits until the log grows, progress is due, or the gateway drains.
    async fn wait(&mut self) {
        tokio::select! {
            // An error means that the log is closed, which the next read says.
            _ = self.end.changed() => {}
            () = self.drain.cancelled() => {}
            () = sleep_until(self.progress_due) => {}
        }
    }

    fn progress(&mut self, caught_up: bool) -> Step<Arc<Entry>> {
        self.progress_due = Instant::now() + PROGRESS_EVERY;
        Step::Progress {
            cursor: self.cursor(),
            caught_up,
        }
    }
}

impl Source for Reader {
    type Event = Arc<Entry>;

    async fn next(&mut self) -> Result<Step<Arc<Entry>>, RelayError> {
        loop {
            if self.drain.is_cancelled() {
                return Err(RelayError::Draining);
            }
            let events = self.handful();
            if !events.is_empty() {
                self.metrics.delivered.inc_by(events.len() as u64);
                return Ok(Step::Events(events));
            }
            if Instant::now() >= self.progress_due {
                let caught_up = self.position == *self.end.borrow();
                return Ok(self.progress(caught_up));
            }
            if !self.fill().await? {
                if !self.has_told_caught_up {
                    self.has_told_caught_up = true;
                    return Ok(self.progress(true));
                }
                self.wait().await;
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.log.cursor(self.position)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.metrics.readers.dec();
    }
}
