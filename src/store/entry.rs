//! An entry of the log, before and after it has found its place.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;

use crate::proto::PushEvent;
use crate::push::{Cursor, EventId};

/// An entry to be appended.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Identifies the content.
    pub id: EventId,
    /// The `PushEvent`, encoded, without what only its place in the log tells (`cursor`,
    /// `received_at`) and without `raw_json`.
    pub event: Bytes,
    /// The bytes as received.
    pub raw: Bytes,
}

/// An entry of the log.
#[derive(Debug)]
pub struct Entry {
    /// Where the entry stands: the position after it.
    pub cursor: Cursor,
    /// When the log took it, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// Identifies the content.
    pub id: EventId,
    /// The whole `PushEvent`, encoded once for all who ever read it; without `raw_json`.
    pub event: Bytes,
    /// The bytes as received.
    pub raw: Bytes,
    decoded: OnceLock<Option<Box<PushEvent>>>,
}

impl Entry {
    /// An entry whose event is whole.
    pub fn new(cursor: Cursor, received_at_ms: u64, id: EventId, event: Bytes, raw: Bytes) -> Self {
        Self {
            cursor,
            received_at_ms,
            id,
            event,
            raw,
            decoded: OnceLock::new(),
        }
    }

    /// The event decoded, once for all who look at it; `None` if its bytes are no event.
    pub fn decoded(&self) -> Option<&PushEvent> {
        self.decoded
            .get_or_init(|| PushEvent::decode(self.event.clone()).ok().map(Box::new))
            .as_deref()
    }

    /// When the log took the entry.
    pub fn received_at(&self) -> SystemTime {
        time(self.received_at_ms)
    }

    /// How many bytes the entry keeps in memory, roughly.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.event.len() + self.raw.len()
    }
}

/// What makes a [`NewEntry`]'s event whole: its place in the log. Appended to the event's bytes, as
/// protobuf messages merge by concatenation.
pub fn place(cursor: Cursor, received_at_ms: u64) -> PushEvent {
    PushEvent {
        cursor: cursor.to_string(),
        received_at: Some(time(received_at_ms).into()),
        ..PushEvent::default()
    }
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}
