//! An entry of the log, before and after it has found its place.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;

use crate::proto::push_event::Payload;
use crate::proto::{PushEvent, PushKind, UnrecognizedPush};
use crate::push::{Cursor, EventId};

/// The facts that decide who may see an entry. They stand beside the encoded event, so that rights
/// and filters never depend on decoding it.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// The account that the event belongs to.
    #[prost(string, tag = "1")]
    pub account: String,
    /// The event's [`PushKind`].
    #[prost(enumeration = "PushKind", tag = "2")]
    pub kind: i32,
}

/// An entry to be appended.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Identifies the content.
    pub id: EventId,
    /// Account and kind.
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
            header: Header {
                account: event.account.clone(),
                kind: event.kind,
            },
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
            header: Header {
                account: unrecognized.account.clone(),
                kind: unrecognized.kind,
            },
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
    /// Account and kind.
    pub header: Header,
    /// The whole `PushEvent`, encoded once for all who ever read it; without `raw_json`.
    pub event: Bytes,
    /// The bytes as received.
    pub raw: Bytes,
    decoded: OnceLock<Option<Box<PushEvent>>>,
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
