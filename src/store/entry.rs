//! An entry of the log, before and after it has found its place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::proto::push_event::Payload;
use crate::proto::{PushEvent, PushKind, UnrecognizedPush};
use crate::push::{Cursor, EventId};

/// What rights and filters go by. It stands beside the encoded event, so that neither depends on
/// decoding it.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// The account that the event belongs to.
    #[prost(string, tag = "1")]
    pub account: String,
    /// The event's [`PushKind`].
    #[prost(enumeration = "PushKind", tag = "2")]
    pub kind: i32,
    /// A hash of the event's `app_id`; 0 where it has none.
    #[prost(fixed64, tag = "3")]
    pub app_id: u64,
    /// The same of its `robot_id`.
    #[prost(fixed64, tag = "4")]
    pub robot_id: u64,
    /// The same of its `task_id`.
    #[prost(fixed64, tag = "5")]
    pub task_id: u64,
    /// The same of its `task_data_id`.
    #[prost(fixed64, tag = "6")]
    pub task_data_id: u64,
    /// The same of its `call_relation_id`.
    #[prost(fixed64, tag = "7")]
    pub call_relation_id: u64,
    /// The same of its `call_uuid`.
    #[prost(fixed64, tag = "8")]
    pub call_uuid: u64,
}

/// What stands for an id in a header; 0 for an event without that id.
///
/// It is no secret: a filter chooses events, and does not guard them. Two ids of one store have the
/// same hash with a probability below 1 in 10^8 among a million.
pub fn id_hash(id: &str) -> u64 {
    if id.is_empty() {
        0
    } else {
        xxh3_64(id.as_bytes()).max(1)
    }
}

impl Header {
    /// The header of an event.
    pub fn of(event: &PushEvent) -> Self {
        /// The hashes of the ids that a payload has.
        macro_rules! header {
            ($payload:ident, $task_id:expr) => {
                Self {
                    account: event.account.clone(),
                    kind: event.kind,
                    app_id: id_hash(&$payload.app_id),
                    robot_id: id_hash(&$payload.robot_id),
                    task_id: id_hash($task_id),
                    task_data_id: id_hash(&$payload.task_data_id),
                    call_relation_id: id_hash(&$payload.call_relation_id),
                    call_uuid: id_hash(&$payload.call_uuid),
                }
            };
        }
        match &event.payload {
            Some(Payload::CallRecord(it)) => header!(it, &it.task_id),
            Some(Payload::Dialog(it)) => header!(it, &it.task_id),
            Some(Payload::Call(it)) => header!(it, &it.task_id),
            // A recording is of no task.
            Some(Payload::Voice(it) | Payload::VoiceArchived(it)) => header!(it, ""),
            Some(Payload::Unrecognized(_)) | None => Self {
                account: event.account.clone(),
                kind: event.kind,
                ..Self::default()
            },
        }
    }
}

/// An entry to be appended.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Identifies the content.
    pub id: EventId,
    /// What rights and filters go by.
    pub header: Header,
    /// The `PushEvent`, encoded, without what only its place in the log tells (`cursor`,
    /// `received_at`) and without `raw_json`.
    pub event: Bytes,
    /// The bytes as received.
    pub raw: Bytes,
}

impl NewEntry {
    /// Makes an entry of an event that lacks `cursor`, `received_at` and `raw_json`.
    ///
    /// Every entry is made here. An event whose bytes do not decode would break each reader of the
    /// log, so it is replaced by an unrecognized push that keeps its raw bytes.
    pub fn new(id: EventId, event: &PushEvent, raw: Bytes) -> Self {
        let encoded = Bytes::from(event.encode_to_vec());
        let encoded = match PushEvent::decode(encoded.clone()) {
            Ok(_) => encoded,
            Err(error) => {
                tracing::error!(
                    account = event.account,
                    event_id = %id,
                    %error,
                    "an event cannot be decoded and is stored as an unrecognized push"
                );
                return Self::unrecognized(id, event, raw);
            }
        };
        Self {
            id,
            header: Header::of(event),
            event: encoded,
            raw,
        }
    }

    /// Sets fields of the event that are not set yet, as protobuf messages merge by concatenation.
    pub fn amend(&mut self, fields: &PushEvent) {
        let mut event = Vec::with_capacity(self.event.len() + fields.encoded_len());
        event.extend_from_slice(&self.event);
        fields.encode_raw(&mut event);
        self.event = event.into();
    }

    fn unrecognized(id: EventId, event: &PushEvent, raw: Bytes) -> Self {
        let payload = UnrecognizedPush {
            reason: "cannot be encoded as an event".into(),
            size: i64::try_from(raw.len()).unwrap_or(i64::MAX),
            ..UnrecognizedPush::default()
        };
        let unrecognized = PushEvent {
            event_id: id.to_string(),
            account: event.account.clone(),
            kind: PushKind::Unrecognized.into(),
            origin: event.origin,
            payload: Some(Payload::Unrecognized(payload)),
            ..PushEvent::default()
        };
        Self {
            id,
            header: Header::of(&unrecognized),
            event: unrecognized.encode_to_vec().into(),
            raw,
        }
    }
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
    /// What rights and filters go by.
    pub header: Header,
    /// The whole `PushEvent`, encoded once for all who ever read it; without `raw_json`.
    pub event: Bytes,
    /// The bytes as received.
    pub raw: Bytes,
}

impl Entry {
    /// An entry whose event is whole.
    pub fn new(cursor: Cursor, received_at_ms: u64, entry: NewEntry) -> Self {
        Self {
            cursor,
            received_at_ms,
            id: entry.id,
            header: entry.header,
            event: entry.event,
            raw: entry.raw,
        }
    }

    /// Decodes the event; `None` if its bytes are no event.
    pub fn decode(&self) -> Option<PushEvent> {
        PushEvent::decode(self.event.clone()).ok()
    }

    /// When the log took the entry.
    pub fn received_at(&self) -> SystemTime {
        time(self.received_at_ms)
    }

    /// How many bytes the entry keeps in memory.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.header.account.len() + self.event.len() + self.raw.len()
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

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct, Value};

    use super::*;

    #[test]
    fn an_event_that_does_not_decode_becomes_an_unrecognized_push_with_its_raw_bytes() {
        let deep = (0..60).fold(Value::default(), |inner, _| Value {
            kind: Some(Kind::ListValue(ListValue {
                values: vec![inner],
            })),
        });
        let event = PushEvent {
            account: "a".into(),
            kind: PushKind::Voice.into(),
            extra_fields: Some(Struct {
                fields: [("x".to_owned(), deep)].into(),
            }),
            ..PushEvent::default()
        };
        let raw = Bytes::from_static(b"{}");
        let entry = NewEntry::new(EventId::from_bytes([7; 16]), &event, raw.clone());
        let decoded = PushEvent::decode(entry.event.clone()).unwrap();
        assert_eq!(decoded.kind(), PushKind::Unrecognized);
        assert_eq!(decoded.account, "a");
        assert_eq!(entry.header.account, "a");
        assert_eq!(entry.header.kind, i32::from(PushKind::Unrecognized));
        assert_eq!(entry.raw, raw);
    }
}
