//! The newest entries in memory, so that readers who keep up share one copy of each.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::push::Position;
use crate::store::{Batch, Entry, ReadLimit};

/// Consecutive entries up to the end of the log, bounded in bytes.
pub(super) struct Tail {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    max_bytes: usize,
}

impl Tail {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// Adds the log's next entry, and lets go of the oldest ones beyond the bound.
    pub fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.size();
            }
        }
    }

    /// The entries after a position, if the tail reaches back so far.
    pub fn read(&self, after: Position, limit: ReadLimit) -> Option<Batch> {
        let oldest = self.entries.front()?.cursor.position;
        let skip = usize::try_from(after.next().0.checked_sub(oldest.0)?).ok()?;
        let mut bytes = 0;
        let entries: Vec<_> = self
            .entries
            .range(skip.min(self.entries.len())..)
            .take(limit.entries)
            .take_while(|entry| {
                let room = bytes < limit.bytes;
                bytes += entry.size();
                room
            })
            .cloned()
            .collect();
        let reaches_end = skip + entries.len() >= self.entries.len();
        Some(Batch {
            entries,
            reaches_end,
        })
    }
}
