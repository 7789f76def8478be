//! An engine in memory, for simulations: deterministic, with faults on request.
//!
//! [`MemoryDisk`] is the medium, which outlives the stores opened on it. A simulation kills a whole
//! gateway by [`MemoryDisk::kill`] or [`MemoryDisk::lose_power`] and opens the next one on the same
//! disk. The engine starts no thread, reads no clock but the one given, and draws no random number.
//! Its memory is bounded by [`MemoryStore::retire`] and by what the caller keeps in notes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use prost::Message;
use tokio::sync::watch;

use super::embedded::Clock;
use super::{
    AppendError, Appended, Batch, Entry, NewEntry, Note, NoteChange, Notes, PushLog, ReadError,
    ReadLimit, Survives, place,
};
use crate::push::{Cursor, EventId, Position, StoreId};

/// An operation that a store is about to run.
#[derive(Debug)]
pub enum Op<'a> {
    /// [`PushLog::append`].
    Append(&'a [NewEntry]),
    /// [`Notes::change`].
    Change {
        /// The changes, in order.
        changes: &'a [NoteChange],
        /// The durability asked for.
        survives: Survives,
    },
    /// [`Notes::get_many`].
    GetMany(&'a [String]),
    /// [`Notes::list`], with its prefix.
    List(&'a str),
    /// [`PushLog::read`] and [`PushLog::seek`].
    Read,
}

/// A fault injected into one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation runs.
    None,
    /// The operation does not run and fails with `Unavailable`.
    FailBefore,
    /// The operation runs and fails with `Unavailable`.
    FailAfter,
    /// The disk is killed instead of the operation, which never resolves.
    KillBefore,
    /// The operation runs, then the disk is killed; the operation never resolves.
    KillAfter,
    /// The calling task panics instead of running the operation.
    PanicBefore,
    /// The operation runs, then the calling task panics.
    PanicAfter,
    /// The operation neither runs nor resolves.
    Hang,
}

/// Chooses the fault of each operation. It may kill the disk, and must not call `set_faults`.
pub type Faults = Box<dyn FnMut(&Op<'_>) -> Fault + Send>;

/// The medium that survives the stores opened on it. Clones share it.
#[derive(Clone)]
pub struct MemoryDisk {
    id: StoreId,
    contents: Arc<Mutex<Contents>>,
    faults: Arc<Mutex<Option<Faults>>>,
}

#[derive(Default)]
struct Contents {
    /// The number of the store that may use the disk; any other store is closed.
    open: u64,
    /// Consecutive entries; always synced.
    log: VecDeque<Arc<Entry>>,
    numbers: BTreeMap<EventId, u64>,
    earliest: Position,
    end: Position,
    bytes: u64,
    last_received_ms: u64,
    /// Notes as written.
    notes: BTreeMap<String, Vec<u8>>,
    /// The synced value of each note changed since the last sync.
    unsynced: BTreeMap<String, Option<Vec<u8>>>,
}

impl Contents {
    fn append(&mut self, store: StoreId, now_ms: u64, new: &[NewEntry]) -> Vec<Appended> {
        self.last_received_ms = self.last_received_ms.max(now_ms);
        let appended = new.iter().map(|new| {
            if let Some(number) = self.numbers.get(&new.id) {
                return Appended {
                    position: Position(*number),
                    duplicate: true,
                };
            }
            self.end = self.end.next();
            let position = self.end;
            let cursor = Cursor { store, position };
            let mut event = new.event.to_vec();
            place(cursor, self.last_received_ms).encode_raw(&mut event);
            let placed = NewEntry {
                event: event.into(),
                ..new.clone()
            };
            let entry = Entry::new(cursor, self.last_received_ms, placed);
            self.bytes += stored_bytes(&entry);
            self.numbers.insert(new.id, position.0);
            self.log.push_back(Arc::new(entry));
            Appended {
                position,
                duplicate: false,
            }
        });
        let appended = appended.collect();
        self.unsynced.clear();
        appended
    }

    fn change(&mut self, changes: &[NoteChange], survives: Survives) {
        for NoteChange { key, value } in changes {
            let before = match value {
                Some(value) => self.notes.insert(key.clone(), value.clone()),
                None => self.notes.remove(key),
            };
            if survives == Survives::Kill {
                self.unsynced.entry(key.clone()).or_insert(before);
            }
        }
        if survives == Survives::PowerLoss {
            self.unsynced.clear();
        }
    }

    fn read(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError> {
        let earliest = self.earliest;
        let Some(skip) = after.0.checked_sub(earliest.0) else {
            return Err(ReadError::Expired { earliest });
        };
        let skip = usize::try_from(skip).map_or(self.log.len(), |skip| skip.min(self.log.len()));
        let mut bytes = 0;
        let within_limit = self.log.range(skip..).take_while(|entry| {
            let has_room = bytes < limit.bytes;
            bytes += entry.size();
            has_room
        });
        let entries: Vec<_> = within_limit.take(limit.entries).cloned().collect();
        let reaches_end = skip + entries.len() >= self.log.len();
        Ok(Batch {
            entries,
            reaches_end,
        })
    }

    fn seek(&self, ms: u64) -> Position {
        let older = self.log.partition_point(|entry| entry.received_at_ms < ms);
        Position(self.earliest.0 + older as u64)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Vec<Note> {
        let start = if after >= prefix {
            Bound::Excluded(after)
        } else {
            Bound::Included(prefix)
        };
        let following = self.notes.range::<str, _>((start, Bound::Unbounded));
        let matching = following.take_while(|(key, _)| key.starts_with(prefix));
        let cloned = matching.map(|(key, value)| (key.clone(), value.clone()));
        cloned.take(limit).collect()
    }

    fn retire(&mut self, oldest_ms: u64, max_bytes: u64) {
        while let Some(entry) = self.log.front() {
            let too_many = max_bytes > 0 && self.bytes > max_bytes;
            if entry.received_at_ms >= oldest_ms && !too_many {
                break;
            }
            self.bytes -= stored_bytes(entry);
            self.earliest = entry.cursor.position;
            self.numbers.remove(&entry.id);
            self.log.pop_front();
            self.unsynced.clear();
        }
    }
}

fn stored_bytes(entry: &Entry) -> u64 {
    (entry.event.len() + entry.raw.len()) as u64
}

impl MemoryDisk {
    /// An empty disk, whose log has this id.
    pub fn new(id: StoreId) -> Self {
        Self {
            id,
            contents: Arc::default(),
            faults: Arc::default(),
        }
    }

    /// Closes the open store as kill −9 does: everything written stays.
    pub fn kill(&self) {
        lock(&self.contents).open += 1;
    }

    /// Closes the open store as a loss of power does: only what was synced stays.
    pub fn lose_power(&self) {
        let mut contents = lock(&self.contents);
        contents.open += 1;
        for (key, value) in std::mem::take(&mut contents.unsynced) {
            match value {
                Some(value) => contents.notes.insert(key, value),
                None => contents.notes.remove(&key),
            };
        }
    }

    /// Asks `faults` about every operation from now on; `None` ends that.
    pub fn set_faults(&self, faults: Option<Faults>) {
        *lock(&self.faults) = faults;
    }

    fn fault(&self, op: &Op<'_>) -> Fault {
        lock(&self.faults)
            .as_mut()
            .map_or(Fault::None, |faults| faults(op))
    }
}

/// A store on a [`MemoryDisk`].
pub struct MemoryStore {
    disk: MemoryDisk,
    clock: Clock,
    /// The store's number; the disk names the one that is open.
    number: u64,
    end: watch::Sender<Position>,
}

/// Why an operation did not answer.
enum Failure {
    Closed,
    Unavailable,
    Killed,
    Hangs,
    Panics,
}

impl MemoryStore {
    /// Opens a disk. The store that had it open before is closed.
    pub fn open(disk: MemoryDisk, clock: Clock) -> Self {
        let mut contents = lock(&disk.contents);
        contents.open += 1;
        let (number, end) = (contents.open, watch::Sender::new(contents.end));
        drop(contents);
        Self {
            disk,
            clock,
            number,
            end,
        }
    }

    /// Removes entries older than `max_age`, and the oldest beyond `max_bytes`; 0: no bound.
    pub fn retire(&self, max_age: Duration, max_bytes: u64) {
        let oldest_ms = self.now_ms().saturating_sub(millis(max_age));
        if let Ok(mut contents) = self.contents() {
            contents.retire(oldest_ms, max_bytes);
        }
    }

    /// Bytes of the entries retained.
    pub fn retained_bytes(&self) -> u64 {
        lock(&self.disk.contents).bytes
    }

    fn now_ms(&self) -> u64 {
        millis(
            (self.clock)()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    fn contents(&self) -> Result<MutexGuard<'_, Contents>, Failure> {
        let contents = lock(&self.disk.contents);
        let is_open = contents.open == self.number;
        is_open.then_some(contents).ok_or(Failure::Closed)
    }

    /// Runs an operation. Other tasks can run before and after it.
    async fn perform<T>(
        &self,
        op: Op<'_>,
        job: impl FnOnce(&mut Contents) -> T,
    ) -> Result<T, Failure> {
        tokio::task::yield_now().await;
        let result = self.perform_now(&op, job);
        if matches!(result, Err(Failure::Killed)) {
            self.disk.kill();
        }
        tokio::task::yield_now().await;
        match result {
            Err(Failure::Killed | Failure::Hangs) => std::future::pending().await,
            Err(Failure::Panics) => panic!("injected fault"),
            other => other,
        }
    }

    fn perform_now<T>(
        &self,
        op: &Op<'_>,
        job: impl FnOnce(&mut Contents) -> T,
    ) -> Result<T, Failure> {
        drop(self.contents()?);
        let (before, after) = match self.disk.fault(op) {
            Fault::None => (Ok(()), Ok(())),
            Fault::FailBefore => (Err(Failure::Unavailable), Ok(())),
            Fault::FailAfter => (Ok(()), Err(Failure::Unavailable)),
            Fault::KillBefore => (Err(Failure::Killed), Ok(())),
            Fault::KillAfter => (Ok(()), Err(Failure::Killed)),
            Fault::PanicBefore => (Err(Failure::Panics), Ok(())),
            Fault::PanicAfter => (Ok(()), Err(Failure::Panics)),
            Fault::Hang => (Err(Failure::Hangs), Ok(())),
        };
        before?;
        let answer = job(&mut *self.contents()?);
        after?;
        Ok(answer)
    }
}

#[async_trait]
impl PushLog for MemoryStore {
    fn id(&self) -> StoreId {
        self.disk.id
    }

    async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<Appended>, AppendError> {
        let append = |contents: &mut Contents| {
            let appended = contents.append(self.disk.id, self.now_ms(), &entries);
            self.end.send_replace(contents.end);
            appended
        };
        Ok(self.perform(Op::Append(&entries), append).await?)
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError> {
        let read = |contents: &mut Contents| contents.read(after, limit);
        self.perform(Op::Read, read).await?
    }

    async fn seek(&self, time: SystemTime) -> Result<Position, ReadError> {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Rounded up: an entry received earlier in the same millisecond precedes `time`.
        let ms = u64::try_from(since_1970.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Ok(self.perform(Op::Read, |contents| contents.seek(ms)).await?)
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.end.subscribe()
    }

    fn earliest(&self) -> Position {
        lock(&self.disk.contents).earliest
    }

    async fn close(&self) {
        tokio::task::yield_now().await;
        if let Ok(mut contents) = self.contents() {
            contents.open += 1;
        }
    }
}

#[async_trait]
impl Notes for MemoryStore {
    async fn change(
        &self,
        changes: Vec<NoteChange>,
        survives: Survives,
    ) -> Result<(), AppendError> {
        let op = Op::Change {
            changes: &changes,
            survives,
        };
        let change = |contents: &mut Contents| contents.change(&changes, survives);
        Ok(self.perform(op, change).await?)
    }

    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let get = |contents: &mut Contents| {
            let values = keys.iter().map(|key| contents.notes.get(key).cloned());
            values.collect()
        };
        Ok(self.perform(Op::GetMany(&keys), get).await?)
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Note>, ReadError> {
        let list = |contents: &mut Contents| contents.list(prefix, after, limit);
        Ok(self.perform(Op::List(prefix), list).await?)
    }
}

/// The two failures that reach a caller; `perform` handles the others.
macro_rules! answer_failures {
    ($($error:ident),*) => {$(
        impl From<Failure> for $error {
            fn from(failure: Failure) -> Self {
                match failure {
                    Failure::Closed => Self::Closed,
                    _ => Self::Unavailable("injected fault".into()),
                }
            }
        }
    )*};
}
answer_failures!(AppendError, ReadError);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Locks. A panic elsewhere leaves no value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
