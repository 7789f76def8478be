//! The engine inside the process: a log on [fjall], for one gateway with a volume of its own.
//!
//! One thread writes (`writer`); readers share the newest entries from memory (`tail`) and read
//! older ones from `disk` (`reading`).

mod disk;
mod format;
mod journal;
pub mod metrics;
mod reading;
mod retention;
pub mod rewrite;
mod round;
pub mod subscriptions;
mod tail;
mod watermark;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use self::disk::{Disk, Kept, Write};
use self::format::State;
use self::tail::Tail;
use self::watermark::{Durable, Watermark};
use self::writer::{Command, Writer};
use super::{
    AppendError, Appended, Batch, End, NewEntry, Note, NoteChange, Notes, PushLog, ReadError,
    ReadLimit, Survives,
};
use crate::push::{EventId, Position, StoreId};

/// Gives the time of day; replaced in tests.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Gives the time since some moment, which no step of the time of day changes; replaced in tests.
pub type Elapsed = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How an embedded log behaves.
#[derive(Clone)]
pub struct Options {
    /// The folder of the log; made if it is not there.
    pub path: PathBuf,
    /// How long an entry is kept.
    pub retention: Duration,
    /// How many bytes of entries are kept at most, before compression, and how many the folder
    /// takes on disk; 0: no bound.
    pub retention_bytes: u64,
    /// The part of the volume that stays free, in hundredths.
    pub min_free_percent: u8,
    /// How many bytes of the newest entries are kept in memory for readers.
    pub tail_bytes: usize,
    /// Gives the time of receipt.
    pub clock: Clock,
    /// Gives the age of the log, and so of its entries.
    pub elapsed: Elapsed,
}

impl Options {
    /// A week's retention in this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let started = Instant::now();
        Self {
            path: path.into(),
            retention: Duration::from_hours(7 * 24),
            retention_bytes: 0,
            tail_bytes: 32 << 20,
            min_free_percent: 0,
            clock: Arc::new(SystemTime::now),
            elapsed: Arc::new(move || started.elapsed()),
        }
    }

    /// Takes the time of receipt and the age of the log from one clock, which a test sets.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        let elapsed = clock.clone();
        let elapsed = move || elapsed().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            clock,
            elapsed: Arc::new(elapsed),
            ..self
        }
    }

    fn retention_ms(&self) -> u64 {
        u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX)
    }

    fn now_ms(&self) -> u64 {
        let since_1970 = (self.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open. Two gateways must not share a folder: give each its own.
    #[error("the store {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// What lies there can't be read as a log. Restore it, or move it away to start an empty one.
    #[error("the store {} is damaged: {detail}", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The folder was written by another version of the gateway. Start with an empty folder, or run
    /// the version that wrote it.
    #[error(
        "the store {} has format {found}, this version reads and writes format {expected} alone: \
         use an empty folder, or the version of the gateway that wrote it",
        path.display()
    )]
    OtherFormat {
        /// The folder.
        path: PathBuf,
        /// The format of the folder.
        found: u8,
        /// The format of this version.
        expected: u8,
    },
    /// The folder or a file in it can't be used.
    #[error("the store {} cannot be opened: {error}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

impl OpenError {
    fn from_fjall(path: &Path, error: fjall::Error) -> Self {
        let path = path.to_path_buf();
        match error {
            fjall::Error::Locked => Self::InUse { path },
            fjall::Error::Io(error) => Self::Io { path, error },
            other => Self::Damaged {
                path,
                detail: other.to_string(),
            },
        }
    }
}

/// A log in a folder of this machine.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What the writer and the readers share.
struct Shared {
    options: Options,
    id: StoreId,
    /// Empty while it is being opened anew after a failure, and once the log is closed.
    disk: RwLock<Option<Disk>>,
    tail: RwLock<Tail>,
    end: watch::Sender<Position>,
    earliest: AtomicU64,
    /// The log's age when it was opened, in milliseconds, and the time that had elapsed then.
    age_before_ms: u64,
    opened: Duration,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
    lost: AtomicU64,
    /// Whether durable changes beside the log are missing.
    records_lost: bool,
    closed: AtomicBool,
}

/// How much a log holds.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// How many entries are retained.
    pub entries: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// What the database takes on disk.
    pub disk_bytes: u64,
    /// How many durable entries were found missing when the log was opened.
    pub lost: u64,
}

/// So many appends may wait for the writer; more wait for a place.
const QUEUE: usize = 1024;

impl EmbeddedLog {
    /// Opens the log of a folder and starts its writer.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(options)).await;
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn open_blocking(options: Options) -> Result<Self, OpenError> {
        let (disk, id, mut state) = Disk::open(&options.path.join(LOG), options.retention_bytes)?;
        let io = |error| OpenError::Io {
            path: options.path.clone(),
            error,
        };
        let watermark = Watermark::open(&options.path.join("durable-end")).map_err(io)?;
        let end_on_disk = state.end;
        let lost_mark = options.path.join(LOST_RECORDS);
        let durable = watermark.read().unwrap_or_default();
        let lost = find_loss(&mut state, durable);
        if durable.commits > state.commits {
            mark_loss(&lost_mark, durable.commits - state.commits).map_err(io)?;
            // The file stands for it from now on.
            let found = Durable::from(&state);
            watermark.write(found).map_err(io)?;
        }
        let shared = Arc::new(Shared {
            id,
            disk: RwLock::new(Some(disk)),
            tail: RwLock::new(Tail::new(options.tail_bytes)),
            end: watch::Sender::new(state.end),
            earliest: AtomicU64::new(state.earliest.0),
            age_before_ms: state.age_ms,
            opened: (options.elapsed)(),
            bytes: AtomicU64::new(state.bytes()),
            total_bytes: AtomicU64::new(state.total_bytes),
            lost: AtomicU64::new(lost),
            records_lost: lost_mark.exists(),
            closed: AtomicBool::new(false),
            options,
        });
        let (commands, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(shared.clone(), state, end_on_disk, watermark, queue);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io {
                path: shared.options.path.clone(),
                error,
            })?;
        Ok(Self { shared, commands })
    }

    /// Removes what retention no longer holds, and resolves when that is done. `beside` is what the
    /// rest of the folder takes on disk, in bytes.
    pub async fn retire(&self, beside: u64) {
        if let Err(error) = self.try_retire(beside).await {
            tracing::warn!(%error, "retention could not remove old pushes; trying again later");
        }
    }

    async fn try_retire(&self, beside: u64) -> Result<(), End> {
        let shared = &self.shared;
        let up_to = shared
            .blocking(move |shared| shared.retirable(beside))
            .await?;
        self.command(|done| Command::Retire(up_to, done)).await?;
        let dropped = shared.blocking(|shared| shared.with_disk(Disk::drop_retired));
        Ok(dropped.await?)
    }

    /// Keeps small state beside the log; resolves once it survives kill −9.
    async fn keep(&self, writes: Vec<Write>) -> Result<(), AppendError> {
        self.command(|done| Command::Keep(writes, Survives::Kill, done))
            .await
    }

    /// Resolves once what has been kept so far survives a loss of power, too.
    async fn sync(&self) -> Result<(), AppendError> {
        self.command(Command::Sync).await
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Command,
    ) -> Result<T, AppendError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }

    /// What is kept beside the log under the keys of a range, `limit` at most.
    async fn kept_range(
        &self,
        range: Range<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Kept>, ReadError> {
        let read = move |disk: &Disk| disk.kept_range(range, limit);
        self.shared
            .blocking(move |shared| shared.with_disk(read))
            .await
    }

    /// The position after the entry that holds this content.
    async fn find(&self, id: EventId) -> Result<Option<Position>, ReadError> {
        let find = move |disk: &Disk| disk.find(&id);
        let number = self
            .shared
            .blocking(move |shared| shared.with_disk(find))
            .await?;
        Ok(number.map(Position))
    }

    /// Whether durable changes beside the log were found missing, at this start or an earlier one,
    /// and nobody has confirmed it by removing the file `lost-records`.
    pub fn records_lost(&self) -> bool {
        self.shared.records_lost
    }

    /// How much the log holds.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let end = shared.end.borrow().0;
        Stats {
            entries: end.saturating_sub(shared.earliest.load(Ordering::Acquire)),
            bytes: shared.bytes.load(Ordering::Relaxed),
            disk_bytes: read(&shared.disk).as_ref().map_or(0, Disk::size),
            lost: shared.lost.load(Ordering::Relaxed),
        }
    }
}

/// Leaves a file that says what is missing until an operator removes it.
fn mark_loss(path: &Path, commits: u64) -> std::io::Result<()> {
    tracing::error!(
        commits,
        file = %path.display(),
        "durable changes are missing from the store: its files were damaged or replaced"
    );
    let text = format!(
        "{commits} durable changes were missing when the store was opened. They may be records of \
         submissions. While this file is here, requests with an id that has no record are answered \
         as unknown, and uploads are refused. Remove it, and restart, once nothing that was sent \
         before can be sent again.\n"
    );
    std::fs::write(path, text)?;
    std::fs::File::open(path)?.sync_all()
}

/// Holds what was found against the watermark: numbers that were durable are not given out again.
/// Returns how many entries are lost.
fn find_loss(state: &mut State, durable: Durable) -> u64 {
    if durable.end <= state.end {
        return 0;
    }
    let lost = durable.end.0 - state.end.0;
    tracing::error!(
        first = state.end.next().0,
        last = durable.end.0,
        "stored pushes are missing from the log: its files were damaged or replaced"
    );
    state.end = durable.end;
    lost
}

#[async_trait]
impl PushLog for EmbeddedLog {
    fn id(&self) -> StoreId {
        self.shared.id
    }

    async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<Appended>, AppendError> {
        self.command(|reply| Command::Append(entries, reply)).await
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Batch, ReadError> {
        let shared = &self.shared;
        shared.check_open()?;
        shared.check_retained(after)?;
        if after >= *shared.end.borrow() {
            return Ok(Batch {
                entries: Vec::new(),
                reaches_end: true,
            });
        }
        if let Some(batch) = read(&shared.tail).read(after, limit) {
            return Ok(batch);
        }
        shared
            .blocking(move |shared| shared.read_disk(after, limit))
            .await
    }

    async fn seek(&self, time: SystemTime) -> Result<Position, ReadError> {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Rounded up: an entry stamped within the same millisecond may have come before.
        let ms = u64::try_from(since_1970.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.shared
            .blocking(move |shared| shared.seek_disk(ms))
            .await
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.shared.end.subscribe()
    }

    fn earliest(&self) -> Position {
        self.shared.earliest()
    }

    async fn close(&self) {
        let (done, waiting) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // An error means that another close was served first.
            let _ = waiting.await;
        }
    }
}

#[async_trait]
impl Notes for EmbeddedLog {
    async fn change(
        &self,
        changes: Vec<NoteChange>,
        survives: Survives,
    ) -> Result<(), AppendError> {
        let writes = changes.into_iter().map(|change| Write {
            key: note(&change.key),
            value: change.value,
        });
        let writes = writes.collect();
        self.command(|done| Command::Keep(writes, survives, done))
            .await
    }

    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let read = move |disk: &Disk| keys.iter().map(|key| disk.kept(&note(key))).collect();
        self.shared
            .blocking(move |shared| shared.with_disk(read))
            .await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Note>, ReadError> {
        let mut end = note(prefix);
        // No key has such a byte.
        end.push(u8::MAX);
        let mut start = note(prefix.max(after));
        if after >= prefix {
            start.push(0);
        }
        if start >= end {
            return Ok(Vec::new());
        }
        let found = self.kept_range(start..end, limit).await?;
        let notes = found.into_iter().map(|(key, value)| {
            let key = String::from_utf8_lossy(&key[NOTE.len()..]).into_owned();
            (key, value)
        });
        Ok(notes.collect())
    }
}

/// The file that stays where durable changes are missing.
const LOST_RECORDS: &str = "lost-records";
/// The folder of the log's database.
const LOG: &str = "log";
const NOTE: &[u8] = b"note/";

/// The key of a note among everything that is kept beside the log.
fn note(key: &str) -> Vec<u8> {
    [NOTE, key.as_bytes()].concat()
}

/// Locks for reading; a panic elsewhere leaves these values whole, as each is set in one step.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing; see [`read`].
fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
