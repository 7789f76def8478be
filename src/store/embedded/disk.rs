//! What lies on disk, and how: four keyspaces of one fjall database.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `log` | number of the entry, u64 big-endian | the entry, see [`encode`] |
//! | `ids` | event id | number of the entry |
//! | `meta` | `format`, `store`, `state` | the format's version; the log's name; where it begins and ends |
//! | `kept` | of whoever keeps it | small state beside the log: notes, subscriptions |
//!
//! One atomic batch holds the new entries and the changes of what is kept beside the log. A batch
//! with entries is synced before a reader can see it, and so is one with a change that must survive
//! a loss of power. A batch of other changes is handed to the system, which keeps it when the
//! process is killed; a later batch syncs it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::config::BlockSizePolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};
use prost::Message;

use super::OpenError;
use super::repair;
use crate::database;
use crate::push::{Cursor, EventId, Position, StoreId};
use crate::store::{Entry, Header, NewEntry, Survives, place};

/// The fjall database of a log.
pub(super) struct Disk {
    pub db: Database,
    pub log: Keyspace,
    pub ids: Keyspace,
    pub meta: Keyspace,
    pub kept: Keyspace,
}

/// Where the log begins and ends; written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The position before the oldest entry retained.
    pub earliest: Position,
    /// The position after the newest entry.
    pub end: Position,
    /// How many bytes the entries have together, before compression.
    pub bytes: u64,
    /// When the newest entry was received, in milliseconds since 1970.
    pub last_received_ms: u64,
}

/// An entry that has been given its place.
pub(super) struct Placed {
    /// As it is written; the database and `entry` share its bytes.
    value: Slice,
    /// As readers see it.
    pub entry: Arc<Entry>,
}

impl Placed {
    pub fn new(cursor: Cursor, received_at_ms: u64, new: &NewEntry) -> Self {
        let (value, event) = encode(cursor, received_at_ms, new);
        let value = Slice::from(value);
        let bytes = Bytes::from_owner(value.clone());
        let placed = NewEntry {
            id: new.id,
            header: new.header.clone(),
            raw: bytes.slice(event.end..),
            event: bytes.slice(event),
        };
        let entry = Entry::new(cursor, received_at_ms, placed);
        Self {
            value,
            entry: Arc::new(entry),
        }
    }

    /// The entry as it is written.
    pub fn value(self) -> Slice {
        self.value
    }

    /// How many bytes the entry has in the log.
    pub fn size(&self) -> u64 {
        self.value.len() as u64
    }
}

/// A change of what is kept beside the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    pub key: Vec<u8>,
    /// `None`: nothing is kept there any more.
    pub value: Option<Vec<u8>>,
}

/// A key and what is kept under it.
pub(super) type Kept = (Vec<u8>, Vec<u8>);

/// One step of a walk through the log.
pub(super) enum Step {
    /// The entry of that number.
    Entry(u64, Entry),
    /// Something lies there that can't be read.
    Unreadable,
}

/// The oldest entries, chosen for removal.
#[derive(Default)]
pub(super) struct Expired {
    /// The position after the last of them; damage among them is passed over.
    pub up_to: Position,
    /// Number and id of each that could be read.
    pub entries: Vec<(u64, EventId)>,
    /// Their bytes.
    pub bytes: u64,
}

/// The version of what stands on disk. A folder of another version is refused, not converted.
const FORMAT: u8 = 2;
/// How many bytes the log's blocks have, before compression.
const LOG_BLOCK: u32 = 32 * 1024;
const PREFIX: usize = 1 + 8 + EventId::LEN + 4 + 4;

impl Disk {
    /// Opens the database, and makes it where there is none.
    pub fn open(path: &Path) -> Result<(Self, StoreId, State), OpenError> {
        let failed = |error| OpenError::from_fjall(path, error);
        std::fs::create_dir_all(path).map_err(|error| OpenError::Io {
            path: path.into(),
            error,
        })?;
        let db = open_database(path)?;
        let keyspace = |name, options| db.keyspace(name, || options).map_err(failed);
        let options = KeyspaceCreateOptions::default;
        // The log is read in order and seldom looked up, so that larger blocks cost less.
        let in_order = options().data_block_size_policy(BlockSizePolicy::all(LOG_BLOCK));
        let log = keyspace("log", in_order)?;
        let (ids, meta) = (keyspace("ids", options())?, keyspace("meta", options())?);
        let kept = keyspace("kept", options())?;
        let disk = Self {
            db,
            log,
            ids,
            meta,
            kept,
        };
        let store = match disk.meta.get("store").map_err(failed)? {
            Some(_) if disk.format().map_err(failed)? != FORMAT => {
                return Err(OpenError::OtherFormat {
                    path: path.into(),
                    found: disk.format().map_err(failed)?,
                    expected: FORMAT,
                });
            }
            Some(bytes) => StoreId(bytes.as_ref().try_into().map_err(|_| OpenError::Damaged {
                path: path.into(),
                detail: "the log's name is not readable".into(),
            })?),
            None => disk.name_it().map_err(failed)?,
        };
        let state = match disk.meta.get("state").map_err(failed)? {
            Some(bytes) => State::decode(&bytes).ok_or_else(|| OpenError::Damaged {
                path: path.into(),
                detail: "the record of where the log ends is not readable".into(),
            })?,
            None => State::default(),
        };
        Ok((disk, store, state))
    }

    /// The version of the format that the log was created with. The first one left no record of it.
    fn format(&self) -> fjall::Result<u8> {
        let format = self.meta.get("format")?;
        Ok(format.and_then(|it| it.first().copied()).unwrap_or(1))
    }

    fn name_it(&self) -> fjall::Result<StoreId> {
        let store = StoreId(rand::random());
        let mut batch = self.db.batch();
        batch.insert(&self.meta, "format", [FORMAT]);
        batch.insert(&self.meta, "store", store.0);
        batch.commit()?;
        self.db.persist(PersistMode::SyncAll)?;
        Ok(store)
    }

    /// Whether an earlier failure has closed the database to writes until it is opened anew.
    pub fn is_broken(&self) -> bool {
        self.db.persist(PersistMode::Buffer).is_err()
    }

    /// Whether a commit may have to wait for the database's background work.
    pub fn is_behind(&self) -> bool {
        database::is_behind([&self.log, &self.ids, &self.meta, &self.kept])
    }

    /// The number of the entry that holds this content. One that was damaged since holds it no
    /// more: what is offered again then replaces it.
    pub fn find(&self, id: &EventId) -> fjall::Result<Option<u64>> {
        let number = self
            .ids
            .get(id.as_bytes())?
            .and_then(|bytes| number(&bytes));
        match number {
            Some(number) if self.prefix(number)?.is_some() => Ok(Some(number)),
            Some(_) | None => Ok(None),
        }
    }

    /// Writes new entries with the log's state, and changes of what is kept beside the log: all of
    /// them or none. Returns once the commit, and every earlier one, survives what is asked.
    pub fn commit<'a>(
        &self,
        entries: Option<(&[Placed], &State)>,
        writes: impl Iterator<Item = &'a Write>,
        survives: Survives,
    ) -> fjall::Result<()> {
        let mode = match survives {
            Survives::Kill => PersistMode::Buffer,
            Survives::PowerLoss => PersistMode::SyncAll,
        };
        let mut batch = self.db.batch().durability(Some(mode));
        if let Some((entries, state)) = entries {
            for Placed { value, entry } in entries {
                let key = entry.cursor.position.0.to_be_bytes();
                batch.insert(&self.log, key, value.clone());
                batch.insert(&self.ids, *entry.id.as_bytes(), key);
            }
            batch.insert(&self.meta, "state", state.encode());
        }
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.insert(&self.kept, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.kept, key.as_slice()),
            }
        }
        if batch.is_empty() {
            // An empty batch commits without a sync.
            return self.db.persist(mode);
        }
        batch.commit()
    }

    /// What is kept under a key.
    pub fn kept(&self, key: &[u8]) -> fjall::Result<Option<Vec<u8>>> {
        Ok(self.kept.get(key)?.map(|value| value.to_vec()))
    }

    /// What is kept under the keys of a range, in order, `limit` at most.
    pub fn kept_range(&self, range: Range<Vec<u8>>, limit: usize) -> fjall::Result<Vec<Kept>> {
        let found = self.kept.range(range).take(limit).map(|item| {
            let (key, value) = item.into_inner()?;
            Ok((key.to_vec(), value.to_vec()))
        });
        found.collect()
    }

    /// Chooses at most `limit` of the oldest entries for which `expired` holds, as it is told each
    /// one's time of receipt and the bytes that would still be held with it.
    pub fn expired(
        &self,
        state: &State,
        limit: usize,
        expired: impl Fn(u64, u64) -> bool,
    ) -> Expired {
        let mut chosen = Expired {
            up_to: state.earliest,
            ..Expired::default()
        };
        let mut held = state.bytes;
        let oldest = self
            .log
            .range(state.earliest.next().0.to_be_bytes()..)
            .take(limit);
        let readable = oldest.map_while(|item| {
            let (key, value) = item.into_inner().ok()?;
            Some((number(&key)?, Prefix::decode(&value)?, value.len() as u64))
        });
        for (number, prefix, bytes) in readable {
            if !expired(prefix.received_at_ms, held) {
                return chosen;
            }
            held = held.saturating_sub(bytes);
            chosen.bytes += bytes;
            chosen.up_to = Position(number);
            chosen.entries.push((number, prefix.id));
        }
        if chosen.entries.is_empty() {
            chosen.up_to = self.damaged_until(state, |ms| expired(ms, state.bytes));
        }
        chosen
    }

    /// Where damage at the old end ends, if what follows it has expired: damage tells no age.
    fn damaged_until(&self, state: &State, expired: impl Fn(u64) -> bool) -> Position {
        const LOOK_AHEAD: usize = 4096;
        let mut following = (state.earliest.next().0..=state.end.0).take(LOOK_AHEAD);
        let readable = following.find_map(|number| match self.prefix(number) {
            Ok(Some(prefix)) => Some(Some((number, prefix))),
            Ok(None) => None,
            // What is out of reach may be whole.
            Err(_) => Some(None),
        });
        match readable.flatten() {
            Some((number, prefix)) if expired(prefix.received_at_ms) => Position(number).before(),
            _ => state.earliest,
        }
    }

    /// What stands before an entry; nothing where there is no entry, or a damaged one.
    fn prefix(&self, number: u64) -> fjall::Result<Option<Prefix>> {
        let value = unless_damaged(self.log.get(number.to_be_bytes()))?;
        Ok(value.flatten().and_then(|value| Prefix::decode(&value)))
    }

    /// Removes entries together with the record of their content.
    pub fn remove(&self, expired: &Expired, state: &State) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (number, id) in &expired.entries {
            batch.remove(&self.log, number.to_be_bytes());
            batch.remove(&self.ids, *id.as_bytes());
        }
        batch.insert(&self.meta, "state", state.encode());
        batch.commit()
    }

    /// The entries after a position, in order, as far as they can be read.
    pub fn walk(&self, store: StoreId, after: Position) -> impl Iterator<Item = Step> + use<> {
        self.log
            .range(after.next().0.to_be_bytes()..)
            .map(move |item| {
                item.into_inner()
                    .ok()
                    .and_then(|(key, value)| {
                        let number = number(&key)?;
                        Some(Step::Entry(number, decode(store, number, value)?))
                    })
                    .unwrap_or(Step::Unreadable)
            })
    }

    /// The entry of that number, unless it is not there or damaged. An error may pass by itself.
    pub fn entry(&self, store: StoreId, number: u64) -> fjall::Result<Option<Entry>> {
        let value = unless_damaged(self.log.get(number.to_be_bytes()))?;
        Ok(value
            .flatten()
            .and_then(|value| decode(store, number, value)))
    }

    /// The entry under a key; `None`: it cannot be read.
    pub fn read(store: StoreId, key: &[u8], value: Slice) -> Option<Entry> {
        decode(store, number(key)?, value)
    }

    /// How many bytes the database takes on disk.
    pub fn size(&self) -> u64 {
        self.db.disk_space().unwrap_or_default()
    }
}

/// Nothing where what was read is damaged. Where it is only out of reach, that is an error: it is
/// not lost.
fn unless_damaged<T>(read: fjall::Result<T>) -> fjall::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if database::is_out_of_reach(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    let open = || Database::builder(path).open();
    let failed = |error| OpenError::from_fjall(path, error);
    let io = |error| OpenError::Io {
        path: path.into(),
        error,
    };
    let error = match open() {
        Err(error @ fjall::Error::JournalRecovery(_)) => error,
        other => return other.map_err(failed),
    };
    // A batch that a crash tore can look damaged instead of short; see `repair`.
    let Some(cut) = repair::cut_last_batch(path).map_err(io)? else {
        return Err(failed(error));
    };
    if let Ok(db) = open() {
        cut.keep();
        return Ok(db);
    }
    cut.undo().map_err(io)?;
    Err(failed(error))
}

/// `format u8, received_at_ms u64, id, length of header u32, length of event u32, header, event,
/// raw`, integers big-endian; and where the event stands in it.
fn encode(cursor: Cursor, received_at_ms: u64, new: &NewEntry) -> (Vec<u8>, Range<usize>) {
    let place = place(cursor, received_at_ms);
    let event_len = new.event.len() + place.encoded_len();
    let header_len = new.header.encoded_len();
    let start = PREFIX + header_len;
    let mut value = Vec::with_capacity(start + event_len + new.raw.len());
    value.push(FORMAT);
    value.extend_from_slice(&received_at_ms.to_be_bytes());
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

/// The part of an entry that has a fixed length.
struct Prefix {
    received_at_ms: u64,
    id: EventId,
    header_len: usize,
    event_len: usize,
}

impl Prefix {
    fn decode(value: &[u8]) -> Option<Self> {
        let (format, rest) = value.split_first()?;
        let (received_at_ms, rest) = rest.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (header_len, rest) = rest.split_first_chunk()?;
        let (event_len, _) = rest.split_first_chunk()?;
        (*format == FORMAT).then_some(Self {
            received_at_ms: u64::from_be_bytes(*received_at_ms),
            id: EventId::from_bytes(*id),
            header_len: u32::from_be_bytes(*header_len) as usize,
            event_len: u32::from_be_bytes(*event_len) as usize,
        })
    }
}

/// Reads an entry, which keeps the bytes as they came from the database.
fn decode(store: StoreId, number: u64, value: Slice) -> Option<Entry> {
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
    Some(Entry::new(cursor, prefix.received_at_ms, entry))
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

impl State {
    pub fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let words = [
            self.earliest.0,
            self.end.0,
            self.bytes,
            self.last_received_ms,
        ];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let [earliest, end, bytes, last_received_ms] = words else {
            return None;
        };
        Some(Self {
            earliest: Position(u64::from_be_bytes(*earliest)),
            end: Position(u64::from_be_bytes(*end)),
            bytes: u64::from_be_bytes(*bytes),
            last_received_ms: u64::from_be_bytes(*last_received_ms),
        })
    }
}
