//! Reads the store of a stopped gateway, and writes it anew with some values changed.
//!
//! The database keeps an overwritten value until it compacts its files and drops its journals. So a
//! value that must be gone is left out of a new database, which then takes the place of the old
//! one in one step. Positions, ids and the store's own id stay, so that cursors stay valid.

use std::fs;
use std::io;
use std::path::Path;

use fjall::PersistMode;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::disk::Disk;
use super::format::{Placed, Prefix, State};
use super::{LOG, NOTE, OpenError};
use crate::push::{Cursor, Position, StoreId};
use crate::store::{Entry, NewEntry};

/// Why a store could not be read or written anew. The old one is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be read or written.
    #[error("the store cannot be written anew: {0}")]
    Database(#[from] fjall::Error),
    /// A file cannot be written or moved.
    #[error("the store cannot be written anew: {0}")]
    Io(#[from] io::Error),
}

/// Changes what a store holds while it is written anew.
pub trait Edit {
    /// What takes the place of an entry; `None`: it stays.
    fn entry(&mut self, entry: &Entry) -> Option<NewEntry>;

    /// What takes the place of a value beside the log; `None`: it stays.
    fn value(&mut self, key: &str, value: &[u8]) -> Option<Vec<u8>>;
}

/// The entries in one batch of the copy.
const BATCH: usize = 512;

/// Shows each value beside the log.
pub fn each_value(folder: &Path, mut show: impl FnMut(&str, &[u8])) -> Result<(), RewriteError> {
    let (disk, _, _) = Disk::open(&folder.join(LOG), 0)?;
    for item in disk.kept.iter() {
        let (key, value) = item.into_inner()?;
        show(&name(&key), &value);
    }
    Ok(())
}

/// Shows each entry that can be read.
pub fn each_entry(folder: &Path, mut show: impl FnMut(&Entry)) -> Result<(), RewriteError> {
    let (disk, store, _) = Disk::open(&folder.join(LOG), 0)?;
    for item in disk.log.iter() {
        let (key, value) = item.into_inner()?;
        if let Some(entry) = Disk::read(store, &key, value) {
            show(&entry);
        }
    }
    Ok(())
}

/// Writes a store anew. Entries that cannot be read are left out.
pub fn rewrite(folder: &Path, edit: &mut impl Edit) -> Result<(), RewriteError> {
    let (old, new) = (folder.join(LOG), folder.join("log.new"));
    // Left by a process that was killed here.
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    {
        let (from, store, state) = Disk::open(&old, 0)?;
        let (to, _, _) = Disk::open(&new, 0)?;
        copy(&from, &to, store, state, edit)?;
    }
    Ok(exchange(folder, &old, &new)?)
}

fn copy(
    from: &Disk,
    to: &Disk,
    store: StoreId,
    state: State,
    edit: &mut impl Edit,
) -> Result<(), RewriteError> {
    let mut batch = to.db.batch();
    for (at, item) in from.log.iter().enumerate() {
        let (key, value) = item.into_inner()?;
        let Some(entry) = Disk::read(store, &key, value.clone()) else {
            continue;
        };
        let position: Position = entry.cursor.position;
        let edited = edit.entry(&entry).zip(Prefix::decode(&value));
        let value = match edited {
            None => value,
            Some((new, before)) => {
                Placed::new(Cursor { store, position }, before.taken, &new).value()
            }
        };
        batch.insert(&to.log, key.clone(), value);
        batch.insert(&to.ids, *entry.id.as_bytes(), key);
        if at % BATCH == BATCH - 1 {
            std::mem::replace(&mut batch, to.db.batch()).commit()?;
        }
    }
    batch.commit()?;
    let mut batch = to.db.batch();
    for (at, item) in from.kept.iter().enumerate() {
        let (key, value) = item.into_inner()?;
        match edit.value(&name(&key), &value) {
            None => batch.insert(&to.kept, key, value),
            Some(edited) => batch.insert(&to.kept, key, edited),
        }
        if at % BATCH == BATCH - 1 {
            std::mem::replace(&mut batch, to.db.batch()).commit()?;
        }
    }
    batch.insert(&to.meta, "store", store.0);
    batch.insert(&to.meta, "state", state.encode());
    batch.commit()?;
    Ok(to.db.persist(PersistMode::SyncAll)?)
}

/// Puts the new database in the place of the old one, and deletes the old one.
fn exchange(folder: &Path, old: &Path, new: &Path) -> io::Result<()> {
    renameat_with(CWD, old, CWD, new, RenameFlags::EXCHANGE)?;
    fs::File::open(folder)?.sync_all()?;
    fs::remove_dir_all(new)
}

/// The name of a value beside the log: a note's own key, or where the gateway keeps it.
fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key.strip_prefix(NOTE).unwrap_or(key)).into_owned()
}
