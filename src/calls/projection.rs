//! What lies on disk: a fjall database that can be made again from the log at any time.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `calls` | `call_uuid`, account | the `Call`, encoded as it is answered |
//! | `summaries` | the same | [`Summary`] |
//! | `parts` | the same | [`Parts`](super::stored::Parts) |
//! | `index` | list, value, order; see [`Index`](super::stored::Index) | the call's key |
//! | `meta` | `format`, `log`, `applied` | how it is written; of which log; how far it has come |
//!
//! A commit is one atomic batch, which survives kill −9. It is not synced: what a loss of power
//! takes is read from the log again.

mod view;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use prost::Message;
use tokio::sync::OwnedMutexGuard;

pub(super) use self::view::{Old, View};
use super::stored::{CallKey, Summary};
use super::{CallsError, OpenError};
use crate::database;
use crate::push::{Position, StoreId};

/// How many bytes of blocks are kept in memory: the index and the summaries of a million calls.
const CACHE: u64 = 128 << 20;
/// How the database is written; another one is made anew.
const FORMAT: [u8; 1] = [2];
/// A commit waits no longer than this for the database's background work.
const PATIENCE: Duration = Duration::from_secs(2);
/// That work is looked at so often meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The right to write, held by one assembler at a time, and by its writes until they are done.
pub(super) type WriteRight = Arc<OwnedMutexGuard<()>>;

/// The database, and the way to it.
pub(super) struct Projection {
    path: PathBuf,
    disk: RwLock<Held>,
    writer: Arc<tokio::sync::Mutex<()>>,
}

enum Held {
    Open(Disk),
    /// Opening it anew after a failure has failed.
    Broken,
    Closed,
}

/// The database's keyspaces.
pub(super) struct Disk {
    db: Database,
    calls: Keyspace,
    summaries: Keyspace,
    parts: Keyspace,
    index: Keyspace,
    meta: Keyspace,
}

/// What is written of one call.
pub(super) struct Change {
    pub key: CallKey,
    /// As it is on disk.
    pub before: Option<Summary>,
    pub after: Summary,
    /// The call, if it was put together again; if not, it stands in the same lists as before.
    pub call: Option<Vec<u8>>,
    /// Its parts, if they have changed.
    pub parts: Option<Vec<u8>>,
}

impl Projection {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            path: path.into(),
            disk: RwLock::new(Held::Open(Disk::open(path)?)),
            writer: Arc::default(),
        })
    }

    /// Waits until nobody else writes.
    pub async fn write_right(&self) -> WriteRight {
        Arc::new(self.writer.clone().lock_owned().await)
    }

    /// Runs a read where it may block.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Disk) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T, CallsError> {
        let projection = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let held = projection
                .disk
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            job(held.open()?).map_err(unavailable)
        });
        read.await
            .unwrap_or_else(|_| Err(CallsError::Unavailable("a read failed".into())))
    }

    /// Runs a write where it may block, after opening the database anew if an earlier write has
    /// failed.
    pub async fn write(
        self: &Arc<Self>,
        right: &WriteRight,
        job: impl FnOnce(&Disk) -> fjall::Result<()> + Send + 'static,
    ) -> Result<(), CallsError> {
        let (projection, right) = (self.clone(), right.clone());
        let write = tokio::task::spawn_blocking(move || {
            let _right = right;
            projection.ensure_open()?;
            let held = projection
                .disk
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let disk = held.open()?;
            disk.wait_until_ready()?;
            job(disk).map_err(unavailable)
        });
        write
            .await
            .unwrap_or_else(|_| Err(CallsError::Unavailable("a write failed".into())))
    }

    fn ensure_open(&self) -> Result<(), CallsError> {
        let is_good = match &*self.disk.read().unwrap_or_else(PoisonError::into_inner) {
            Held::Open(disk) => !disk.is_broken(),
            Held::Broken => false,
            Held::Closed => return Err(CallsError::Closed),
        };
        if is_good {
            return Ok(());
        }
        let mut held = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        // The old one must be gone before the folder's lock is free.
        *held = Held::Broken;
        *held = Held::Open(Disk::open(&self.path).map_err(unavailable)?);
        // It may have been made anew: whoever writes has to see first how far it has come.
        Err(CallsError::Unavailable(
            "the database was opened anew".into(),
        ))
    }

    /// How many bytes the tables take on disk; none while the database is not open.
    pub fn table_bytes(&self) -> u64 {
        match &*self.disk.read().unwrap_or_else(PoisonError::into_inner) {
            Held::Open(disk) => disk.keyspaces().map(Keyspace::disk_space).iter().sum(),
            Held::Broken | Held::Closed => 0,
        }
    }

    /// Lets go of the database; later reads and writes fail.
    pub fn close(&self) {
        *self.disk.write().unwrap_or_else(PoisonError::into_inner) = Held::Closed;
    }
}

impl Held {
    fn open(&self) -> Result<&Disk, CallsError> {
        match self {
            Self::Open(disk) => Ok(disk),
            Self::Broken => Err(CallsError::Unavailable("the database is not open".into())),
            Self::Closed => Err(CallsError::Closed),
        }
    }
}

impl Disk {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io {
            path: path.into(),
            error,
        };
        std::fs::create_dir_all(path).map_err(io)?;
        let error = match Self::try_open(path) {
            Ok(disk) => return Ok(disk),
            Err(fjall::Error::Locked) => return Err(OpenError::InUse { path: path.into() }),
            // What could not be read now may be read later.
            Err(error) if database::is_out_of_reach(&error) => {
                return Err(io(std::io::Error::other(error)));
            }
            Err(error) => error,
        };
        tracing::warn!(
            %error,
            path = %path.display(),
            "the assembled calls cannot be read; assembling them again from the log"
        );
        std::fs::remove_dir_all(path).map_err(io)?;
        std::fs::create_dir_all(path).map_err(io)?;
        Self::try_open(path).map_err(|error| io(std::io::Error::other(error)))
    }

    fn try_open(path: &Path) -> fjall::Result<Self> {
        // With more than one, the first spins for as long as the others compact.
        let db = Database::builder(path)
            .cache_size(CACHE)
            .worker_threads(1)
            .max_journaling_size(database::MAX_JOURNALS)
            .open()?;
        // What is looked up by key is nearly always there: no filter is needed where most of it
        // lies.
        let by_key = || KeyspaceCreateOptions::default().expect_point_read_hits(true);
        let disk = Self {
            calls: db.keyspace("calls", by_key)?,
            summaries: db.keyspace("summaries", by_key)?,
            parts: db.keyspace("parts", by_key)?,
            index: db.keyspace("index", by_key)?,
            meta: db.keyspace("meta", KeyspaceCreateOptions::default)?,
            db,
        };
        if disk
            .meta
            .get("format")?
            .is_none_or(|format| *format != FORMAT)
        {
            disk.clear()?;
        }
        Ok(disk)
    }

    fn clear(&self) -> fjall::Result<()> {
        // `meta` first: what is left then belongs to no log, and is cleared at the next try.
        for keyspace in self.keyspaces() {
            keyspace.clear()?;
        }
        self.meta.insert("format", FORMAT)
    }

    fn keyspaces(&self) -> [&Keyspace; 5] {
        [
            &self.meta,
            &self.index,
            &self.calls,
            &self.summaries,
            &self.parts,
        ]
    }

    /// Whether an earlier failure has closed the database to writes until it is opened anew.
    fn is_broken(&self) -> bool {
        self.db.persist(PersistMode::Buffer).is_err()
    }

    /// Waits until a commit need not wait inside the database.
    fn wait_until_ready(&self) -> Result<(), CallsError> {
        let since = Instant::now();
        while database::is_behind(self.keyspaces()) {
            if since.elapsed() >= PATIENCE {
                return Err(CallsError::Unavailable(
                    "the database cannot keep up".into(),
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Everything as it is at one moment.
    pub fn view(&self) -> View<'_> {
        View::new(self, self.db.snapshot())
    }

    /// Clears what is of another log; tells how far what is left has come.
    pub fn adopt(&self, log: StoreId) -> fjall::Result<Option<Position>> {
        if self.meta.get("log")?.is_none_or(|held| *held != log.0) {
            self.clear()?;
            self.meta.insert("log", log.0)?;
        }
        self.applied()
    }

    /// How far the log has been applied.
    pub fn applied(&self) -> fjall::Result<Option<Position>> {
        let applied = self.meta.get("applied")?;
        Ok(applied.and_then(|bytes| {
            Some(Position(u64::from_be_bytes(
                bytes.as_ref().try_into().ok()?,
            )))
        }))
    }

    /// Writes changed calls, and how far the log has been applied.
    pub fn commit(&self, changes: Vec<Change>, applied: Option<Position>) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for change in changes {
            let key = change.key.as_bytes();
            batch.insert(&self.summaries, key, change.after.encode_to_vec());
            if let Some(call) = change.call {
                batch.insert(&self.calls, key, call);
                let old = change.before.map(|before| before.index_keys());
                let (old, new) = (old.unwrap_or_default(), change.after.index_keys());
                for gone in old.difference(&new) {
                    batch.remove(&self.index, gone.as_slice());
                }
                for come in new.difference(&old) {
                    batch.insert(&self.index, come.as_slice(), key);
                }
            }
            if let Some(parts) = change.parts {
                batch.insert(&self.parts, key, parts);
            }
        }
        if let Some(applied) = applied {
            batch.insert(&self.meta, "applied", applied.0.to_be_bytes());
        }
        batch.commit()
    }

    /// Removes calls with everything that is kept of them.
    pub fn remove(&self, calls: &[(CallKey, Summary)]) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for (key, summary) in calls {
            for index_key in summary.index_keys() {
                batch.remove(&self.index, index_key);
            }
            for keyspace in [&self.summaries, &self.calls, &self.parts] {
                batch.remove(keyspace, key.as_bytes());
            }
        }
        batch.commit()
    }
}

fn unavailable(error: impl std::error::Error) -> CallsError {
    CallsError::Unavailable(error.to_string())
}
