//! How the log stands on disk: the bytes of an entry, and the record of where the log ends.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fjall::Slice;
use prost::Message;

use crate::push::{Cursor, EventId, Position, StoreId};
use crate::store::{Entry, Header, NewEntry, place};

/// The version of what stands on disk. A folder of another version is refused, not converted.
pub(super) const FORMAT: u8 = 3;

/// Where the log begins and ends; written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The position before the oldest entry retained.
    pub earliest: Position,
    /// The position after the newest entry.
    pub end: Position,
    /// The bytes of all entries ever stored, before compression.
    pub total_bytes: u64,
    /// `total_bytes` before the oldest entry retained.
    pub retired_bytes: u64,
    /// When the newest entry was received, in milliseconds since 1970.
    pub last_received_ms: u64,
    /// How long the log has been open in all its life, in milliseconds.
    pub age_ms: u64,
    /// How many commits there have been.
    pub commits: u64,
}

impl State {
    const WORDS: usize = 7;

    /// The bytes of the entries retained, before compression.
    pub fn bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.retired_bytes)
    }

    pub fn encode(&self) -> [u8; 8 * Self::WORDS] {
        let mut bytes = [0; 8 * Self::WORDS];
        let words: [u64; Self::WORDS] = [
            self.earliest.0,
            self.end.0,
            self.total_bytes,
            self.retired_bytes,
            self.last_received_ms,
            self.age_ms,
            self.commits,
        ];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let words: &[[u8; 8]; Self::WORDS] = words.try_into().ok()?;
        let words = words.map(u64::from_be_bytes);
        let [
            earliest,
            end,
            total_bytes,
            retired_bytes,
            last_received_ms,
            age_ms,
            commits,
        ] = words;
        Some(Self {
            earliest: Position(earliest),
            end: Position(end),
            total_bytes,
            retired_bytes,
            last_received_ms,
            age_ms,
            commits,
        })
    }
}

/// When an entry was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// In milliseconds since 1970.
    pub received_at_ms: u64,
    /// The log's age then, in milliseconds.
    pub age_ms: u64,
    /// The bytes of all entries before it, before compression.
    pub bytes_before: u64,
}

/// An entry that has been given its place.
pub(super) struct Placed {
    /// As it is written; the database and `entry` share its bytes.
    value: Slice,
    /// As readers see it.
    pub entry: Arc<Entry>,
}

impl Placed {
    pub fn new(cursor: Cursor, taken: Taken, new: &NewEntry) -> Self {
        let (value, event) = encode(cursor, taken, new);
        let value = Slice::from(value);
        let bytes = Bytes::from_owner(value.clone());
        let placed = NewEntry {
            id: new.id,
            header: new.header.clone(),
            raw: bytes.slice(event.end..),
            event: bytes.slice(event),
        };
        let entry = Entry::new(cursor, taken.received_at_ms, placed);
        Self {
            value,
            entry: Arc::new(entry),
        }
    }

    /// The entry as it is written.
    pub fn value(&self) -> Slice {
        self.value.clone()
    }

    /// How many bytes the entry has in the log.
    pub fn size(&self) -> u64 {
        self.value.len() as u64
    }
}

/// The part of an entry that has a fixed length.
pub(super) struct Prefix {
    pub id: EventId,
    pub taken: Taken,
    header_len: usize,
    event_len: usize,
}

const PREFIX: usize = 1 + 3 * 8 + EventId::LEN + 4 + 4;

impl Prefix {
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (format, rest) = value.split_first()?;
        let (received_at_ms, rest) = rest.split_first_chunk()?;
        let (age_ms, rest) = rest.split_first_chunk()?;
        let (bytes_before, rest) = rest.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (header_len, rest) = rest.split_first_chunk()?;
        let (event_len, _) = rest.split_first_chunk()?;
        (*format == FORMAT).then_some(Self {
            id: EventId::from_bytes(*id),
            taken: Taken {
                received_at_ms: u64::from_be_bytes(*received_at_ms),
                age_ms: u64::from_be_bytes(*age_ms),
                bytes_before: u64::from_be_bytes(*bytes_before),
            },
            header_len: u32::from_be_bytes(*header_len) as usize,
            event_len: u32::from_be_bytes(*event_len) as usize,
        })
    }
}

/// `format u8, received_at_ms u64, age_ms u64, bytes_before u64, id, length of header u32, length
/// of event u32, header, event, raw`, integers big-endian; and where the event stands in it.
fn encode(cursor: Cursor, taken: Taken, new: &NewEntry) -> (Vec<u8>, Range<usize>) {
    let place = place(cursor, taken.received_at_ms);
    let event_len = new.event.len() + place.encoded_len();
    let header_len = new.header.encoded_len();
    let start = PREFIX + header_len;
    let mut value = Vec::with_capacity(start + event_len + new.raw.len());
    value.push(FORMAT);
    for word in [taken.received_at_ms, taken.age_ms, taken.bytes_before] {
        value.extend_from_slice(&word.to_be_bytes());
    }
    value.extend_from_slice(new.id.as_bytes());
    for len in [header_len, event_len] {
        let len = u32::try_from(len).expect("a push is far smaller than 4 GiB");
        value.extend_from_slice(&len.to_be_bytes());
    }
    new.header.encode_raw(&mut value);
    value.extend_from_slice(&new.event);
    place.encode_raw(&mut value);
    value.extend_from_slice(&new.raw);
    (value, start..start + event_len)
}

/// Reads an entry, which keeps the bytes as they came from the database.
pub(super) fn decode(store: StoreId, number: u64, value: Slice) -> Option<Entry> {
    let prefix = Prefix::decode(&value)?;
    let event = PREFIX.checked_add(prefix.header_len)?;
    let event_end = event.checked_add(prefix.event_len)?;
    let value = Bytes::from_owner(value);
    if event_end > value.len() {
        return None;
    }
    let entry = NewEntry {
        id: prefix.id,
        header: Header::decode(&value[PREFIX..event]).ok()?,
        event: value.slice(event..event_end),
        raw: value.slice(event_end..),
    };
    let cursor = Cursor {
        store,
        position: Position(number),
    };
    Some(Entry::new(cursor, prefix.taken.received_at_ms, entry))
}

/// The number that a key stands for.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}
