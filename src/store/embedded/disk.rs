//! The database of a log: four keyspaces of fjall.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `log` | number of the entry, u64 big-endian | the entry, see [`format`](super::format) |
//! | `ids` | event id | number of the entry |
//! | `meta` | `format`, `store`, `state` | the format's version; the log's name; where it begins and ends |
//! | `kept` | chosen by its owner | small state beside the log: notes, subscriptions |
//!
//! One atomic batch holds the new entries, the changes of what is kept beside the log, and the
//! log's state. A batch with entries is synced before a reader can see it, and so is one with a
//! change that must survive a loss of power. A batch of other changes is handed to the system,
//! which keeps it when the process is killed; a later batch syncs it.
//!
//! Retention leaves no tombstones. It drops whole tables of `log`, and compaction drops from `ids`
//! what stands for retired entries.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::config::BlockSizePolicy;
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::OpenError;
use super::format::{FORMAT, Placed, Prefix, State, decode, number};
use super::journal;
use crate::database;
use crate::push::{EventId, Position, StoreId};
use crate::store::{Entry, Survives};

/// The fjall database of a log.
pub(super) struct Disk {
    pub db: Database,
    pub log: Keyspace,
    pub ids: Keyspace,
    pub meta: Keyspace,
    pub kept: Keyspace,
    /// Up to this number, entries are retired.
    retired: Arc<AtomicU64>,
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
    /// Something stands there that cannot be read.
    Unreadable,
}

/// A file of the log that holds consecutive entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogTable {
    /// The number of its last entry.
    pub last: u64,
    /// Its size on disk.
    pub bytes: u64,
}

/// How many bytes the log's blocks have, before compression.
const LOG_BLOCK: u32 = 32 << 10;
/// fjall's default for the size of a memtable, and of a table.
const MEMTABLE: u64 = 64 << 20;
const LEAST_MEMTABLE: u64 = 1 << 20;
/// This part of the bound on the folder is the size of a memtable.
const MEMTABLES_IN_BOUND: u64 = 32;

impl Disk {
    /// Opens the database, and makes it where there is none. `max_bytes` bounds its folder; 0: no
    /// bound.
    pub fn open(path: &Path, max_bytes: u64) -> Result<(Self, StoreId, State), OpenError> {
        let failed = |error| OpenError::from_fjall(path, error);
        std::fs::create_dir_all(path).map_err(|error| OpenError::Io {
            path: path.into(),
            error,
        })?;
        let retired = Arc::new(AtomicU64::new(0));
        let db = journal::open(path, || open_database(path, &retired))?;
        let keyspace = |name, options| db.keyspace(name, || options).map_err(failed);
        let memtable = match max_bytes {
            0 => MEMTABLE,
            bytes => (bytes / MEMTABLES_IN_BOUND).clamp(LEAST_MEMTABLE, MEMTABLE),
        };
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        // The log is read in order and seldom looked up, so that larger blocks cost less.
        let in_order = options().data_block_size_policy(BlockSizePolicy::all(LOG_BLOCK));
        let disk = Self {
            log: keyspace("log", in_order)?,
            ids: keyspace("ids", options())?,
            meta: keyspace("meta", options())?,
            kept: keyspace("kept", options())?,
            db,
            retired,
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
        disk.retired.store(state.earliest.0, Ordering::Relaxed);
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

    /// The number of the entry that holds this content. One that was damaged since, or retired,
    /// holds it no more: what is offered again then replaces it.
    pub fn find(&self, id: &EventId) -> fjall::Result<Option<u64>> {
        let Some(number) = self.ids.get(id.as_bytes())?.and_then(|it| number(&it)) else {
            return Ok(None);
        };
        if number <= self.retired.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let is_there = self.prefix(number)?.is_some_and(|found| found.id == *id);
        Ok(is_there.then_some(number))
    }

    /// Writes new entries, changes of what is kept beside the log, and the log's state: all of
    /// them or none. Returns once the commit, and every earlier one, survives what is asked.
    pub fn commit<'a>(
        &self,
        entries: &[Placed],
        writes: impl Iterator<Item = &'a Write>,
        state: &State,
        survives: Survives,
    ) -> fjall::Result<()> {
        let mode = match survives {
            Survives::Kill => PersistMode::Buffer,
            Survives::PowerLoss => PersistMode::SyncAll,
        };
        let mut batch = self.db.batch().durability(Some(mode));
        for placed in entries {
            let entry = &placed.entry;
            let key = entry.cursor.position.0.to_be_bytes();
            batch.insert(&self.log, key, placed.value());
            batch.insert(&self.ids, *entry.id.as_bytes(), key);
        }
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.insert(&self.kept, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.kept, key.as_slice()),
            }
        }
        if batch.is_empty() {
            return self.db.persist(mode);
        }
        batch.insert(&self.meta, "state", state.encode());
        batch.commit()
    }

    /// Records that entries are retired, durably, before anything of them is dropped.
    pub fn retire(&self, state: &State) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "state", state.encode());
        batch.commit()?;
        self.retired.store(state.earliest.0, Ordering::Relaxed);
        Ok(())
    }

    /// Drops the files that hold retired entries alone. This waits for a compaction of the log.
    pub fn drop_retired(&self) -> fjall::Result<()> {
        let retired = self.retired.load(Ordering::Relaxed);
        let oldest = self.log_tables().first().copied();
        if oldest.is_none_or(|table| table.last > retired) {
            return Ok(());
        }
        let range = ..=retired.to_be_bytes();
        Ok(self.log.tree.drop_range::<[u8; 8], _>(range)?)
    }

    /// The files of the log, the oldest first. What stands in memory is in none of them.
    pub fn log_tables(&self) -> Vec<LogTable> {
        let version = self.log.tree.current_version();
        let tables = version.iter_tables().filter_map(|table| {
            Some(LogTable {
                last: number(table.metadata.key_range.max())?,
                bytes: table.metadata.file_size,
            })
        });
        let mut tables: Vec<_> = tables.collect();
        tables.sort_by_key(|table| table.last);
        tables
    }

    /// The first entry from this number on that can be read, with what stands before it. Passes
    /// over this many that cannot.
    pub fn first_from(&self, first: u64, most: usize) -> fjall::Result<Option<(u64, Prefix)>> {
        for item in self.log.range(first.to_be_bytes()..).take(most) {
            let Some((key, value)) = unless_damaged(item.into_inner())? else {
                continue;
            };
            if let (Some(number), Some(prefix)) = (number(&key), Prefix::decode(&value)) {
                return Ok(Some((number, prefix)));
            }
        }
        Ok(None)
    }

    /// The bytes of all tables.
    pub fn table_bytes(&self) -> u64 {
        let keyspaces = [&self.log, &self.ids, &self.meta, &self.kept];
        keyspaces.map(Keyspace::disk_space).iter().sum()
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

    /// What stands before an entry; nothing where there is no entry, or a damaged one.
    pub fn prefix(&self, number: u64) -> fjall::Result<Option<Prefix>> {
        let value = unless_damaged(self.log.get(number.to_be_bytes()))?;
        Ok(value.flatten().and_then(|value| Prefix::decode(&value)))
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

fn open_database(path: &Path, retired: &Arc<AtomicU64>) -> fjall::Result<Database> {
    let drop_retired: Arc<dyn Factory> = Arc::new(DropRetired(retired.clone()));
    let filters = move |keyspace: &str| (keyspace == "ids").then(|| drop_retired.clone());
    Database::builder(path)
        // One worker flushes and compacts. Of several, the first does nothing but flush, and
        // spins while the others compact.
        .worker_threads(1)
        .max_journaling_size(database::MAX_JOURNALS)
        .with_compaction_filter_factories(Arc::new(filters))
        .open()
}

/// Leaves ids of retired entries out when their tables are compacted.
struct DropRetired(Arc<AtomicU64>);

impl Factory for DropRetired {
    fn name(&self) -> &'static str {
        "retired entries"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(RetiredUpTo(self.0.load(Ordering::Relaxed)))
    }
}

struct RetiredUpTo(u64);

impl CompactionFilter for RetiredUpTo {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let number = number(&item.value()?);
        Ok(match number {
            // An id's older number is retired before its newer one, so that dropping it without a
            // tombstone shows nothing that was hidden.
            Some(number) if number <= self.0 => Verdict::Destroy,
            _ => Verdict::Keep,
        })
    }
}
