//! Reads what is no longer in memory, and tells damage from what retention has removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::{Disk, Step};
use super::{Shared, read};
use crate::push::Position;
use crate::store::{Batch, ReadError, ReadLimit};

impl Shared {
    pub(super) fn earliest(&self) -> Position {
        Position(self.earliest.load(Ordering::Acquire))
    }

    /// How long the log has been open in all its life, in milliseconds. It is the age of entries.
    pub(super) fn age_ms(&self) -> u64 {
        let open = (self.options.elapsed)().saturating_sub(self.opened);
        let open = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
        self.age_before_ms.saturating_add(open)
    }

    pub(super) fn check_retained(&self, after: Position) -> Result<(), ReadError> {
        let earliest = self.earliest();
        if after < earliest {
            Err(ReadError::Expired { earliest })
        } else {
            Ok(())
        }
    }

    pub(super) fn check_open(&self) -> Result<(), ReadError> {
        if self.closed.load(Ordering::Acquire) {
            Err(ReadError::Closed)
        } else {
            Ok(())
        }
    }

    /// The error of a read that finds no database: the log is closed, or reopens after a failure.
    pub(super) fn not_open(&self) -> ReadError {
        self.check_open()
            .err()
            .unwrap_or_else(|| ReadError::Unavailable("the store reopens after a failure".into()))
    }

    /// Runs a read of the disk where it may block.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = self.clone();
        let read = tokio::task::spawn_blocking(move || job(&shared)).await;
        read.unwrap_or_else(|_| Err(ReadError::Unavailable("a read of the log failed".into())))
    }

    /// Reads what is kept beside the log.
    pub(super) fn with_disk<T>(
        &self,
        job: impl FnOnce(&Disk) -> fjall::Result<T>,
    ) -> Result<T, ReadError> {
        let guard = read(&self.disk);
        let disk = guard.as_ref().ok_or_else(|| self.not_open())?;
        job(disk).map_err(unavailable)
    }

    pub(super) fn read_disk(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError> {
        let end = *self.end.borrow();
        let guard = read(&self.disk);
        let disk = guard.as_ref().ok_or_else(|| self.not_open())?;
        let mut batch = Batch::default();
        let mut reached = after;
        let mut bytes = 0;
        for step in disk.walk(self.id, after) {
            let full = batch.entries.len() >= limit.entries || bytes >= limit.bytes;
            if reached >= end || full {
                break;
            }
            match step {
                Step::Entry(number, entry) if number == reached.next().0 => {
                    bytes += entry.size();
                    batch.entries.push(Arc::new(entry));
                    reached = reached.next();
                }
                Step::Entry(..) | Step::Unreadable => break,
            }
        }
        if batch.entries.is_empty() && reached < end {
            // Retention may have removed them while they were being read.
            self.check_retained(after)?;
            // Damage further on ends a walk as well; an entry by itself may still be whole.
            let Some(entry) = disk.entry(self.id, after.next().0).map_err(unavailable)? else {
                return Err(self.damage(disk, after, end));
            };
            batch.entries.push(Arc::new(entry));
            reached = after.next();
        }
        batch.reaches_end = reached >= end;
        Ok(batch)
    }

    /// Finds out how far the damage after a position reaches.
    fn damage(&self, disk: &Disk, after: Position, end: Position) -> ReadError {
        let first = after.next().0;
        let mut next = first + 1;
        while next <= end.0 {
            match disk.entry(self.id, next) {
                Ok(Some(_)) => break,
                Ok(None) => next += 1,
                // How far the damage reaches cannot be told now.
                Err(error) => return unavailable(error),
            }
        }
        let lost = first..next;
        tracing::error!(
            first = lost.start,
            last = lost.end - 1,
            "stored pushes cannot be read"
        );
        ReadError::Damaged { lost }
    }

    pub(super) fn seek_disk(&self, ms: u64) -> Result<Position, ReadError> {
        let guard = read(&self.disk);
        let disk = guard.as_ref().ok_or_else(|| self.not_open())?;
        // Everything up to `low` is older, everything after `high` is not.
        let (mut low, mut high) = (self.earliest().0, self.end.borrow().0);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut following = middle + 1..=high;
            let entry = following.find_map(|number| disk.entry(self.id, number).transpose());
            match entry.transpose().map_err(unavailable)? {
                Some(entry) if entry.received_at_ms < ms => low = entry.cursor.position.0,
                Some(_) | None => high = middle,
            }
        }
        Ok(Position(low))
    }
}

/// A failure that may pass by itself.
pub(super) fn unavailable(error: impl std::error::Error) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
