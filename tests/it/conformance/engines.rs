//! The engines held to the contract, each with a clock that the test sets.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use yeta_gateway::push::StoreId;
use yeta_gateway::store::embedded::{self, EmbeddedLog, Options};
use yeta_gateway::store::memory::{MemoryDisk, MemoryStore};
use yeta_gateway::store::{Notes, PushLog};

const RETENTION: Duration = Duration::from_secs(60);

/// An engine, and the disk that its stores are opened on.
pub trait Engine {
    type Store: PushLog + Notes;

    /// An empty disk. Entries are retained for 60 s, and for this many bytes; 0: no bound.
    fn new(retention_bytes: u64) -> Self;

    async fn open(&self) -> Self::Store;

    /// Ends a store as kill −9 does.
    async fn kill(&mut self, store: Self::Store);

    async fn retire(&self, store: &Self::Store);

    fn retained_bytes(&self, store: &Self::Store) -> u64;

    fn clock(&self) -> &Clock;
}

/// A clock in milliseconds since 1970.
#[derive(Clone)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_600_000_000_000)))
    }

    /// Moves the clock and gives the new time.
    pub fn advance(&self, ms: u64) -> u64 {
        self.0.fetch_add(ms, Ordering::SeqCst) + ms
    }

    pub fn step_back(&self, ms: u64) {
        self.0.fetch_sub(ms, Ordering::SeqCst);
    }

    fn as_function(&self) -> embedded::Clock {
        let clock = self.0.clone();
        Arc::new(move || at(clock.load(Ordering::SeqCst)))
    }
}

/// The time so many milliseconds after 1970.
pub fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

pub struct Embedded {
    /// The last one is in use.
    folders: Vec<TempDir>,
    retention_bytes: u64,
    clock: Clock,
}

impl Embedded {
    fn folder(&self) -> &Path {
        self.folders.last().unwrap().path()
    }
}

impl Engine for Embedded {
    type Store = EmbeddedLog;

    fn new(retention_bytes: u64) -> Self {
        Self {
            folders: vec![tempfile::tempdir().unwrap()],
            retention_bytes,
            clock: Clock::new(),
        }
    }

    async fn open(&self) -> EmbeddedLog {
        let options = Options {
            retention: RETENTION,
            retention_bytes: self.retention_bytes,
            clock: self.clock.as_function(),
            // Small, so that reads also reach the disk.
            tail_bytes: 8 << 10,
            ..Options::new(self.folder()).with_clock(self.clock.as_function())
        };
        EmbeddedLog::open(options).await.unwrap()
    }

    /// Goes on in a copy of the folder: the system's view of the files is all that kill −9 leaves.
    async fn kill(&mut self, store: EmbeddedLog) {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.folder(), copy.path());
        self.folders.push(copy);
        drop(store);
    }

    async fn retire(&self, store: &EmbeddedLog) {
        store.retire(0).await;
    }

    fn retained_bytes(&self, store: &EmbeddedLog) -> u64 {
        store.stats().bytes
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// Copies a folder's files into another.
pub fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_files(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

pub struct Memory {
    disk: MemoryDisk,
    retention_bytes: u64,
    clock: Clock,
}

impl Engine for Memory {
    type Store = MemoryStore;

    fn new(retention_bytes: u64) -> Self {
        Self {
            disk: MemoryDisk::new(StoreId(rand::random())),
            retention_bytes,
            clock: Clock::new(),
        }
    }

    async fn open(&self) -> MemoryStore {
        MemoryStore::open(self.disk.clone(), self.clock.as_function())
    }

    async fn kill(&mut self, store: MemoryStore) {
        self.disk.kill();
        drop(store);
    }

    async fn retire(&self, store: &MemoryStore) {
        store.retire(RETENTION, self.retention_bytes);
    }

    fn retained_bytes(&self, store: &MemoryStore) -> u64 {
        store.retained_bytes()
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }
}
