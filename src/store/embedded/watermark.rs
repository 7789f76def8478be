//! Remembers, beside the database, how far the log has ever been durable.
//!
//! A damaged journal can come back shorter than it was, and its remains look like a log that
//! simply ended earlier. This file tells the difference, so that entries lost that way are
//! reported, and their numbers, which clients may hold as cursors, are not given out again.
//!
//! It is written after each sync and not synced itself: it may lag behind after a loss of power,
//! but never runs ahead of what was durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::push::Position;

/// The file that holds the position.
pub(super) struct Watermark {
    file: File,
}

/// Tells a whole record from a torn or empty one.
const MARK: u64 = 0x7965_7461_2d65_6e64;

impl Watermark {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self { file })
    }

    /// The last position written, if there is a whole one.
    pub fn read(&self) -> Option<Position> {
        let mut bytes = [0; 16];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (end, check) = bytes.split_at(8);
        let end = u64::from_be_bytes(end.try_into().ok()?);
        (check == (end ^ MARK).to_be_bytes()).then_some(Position(end))
    }

    pub fn write(&self, end: Position) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&end.0.to_be_bytes());
        bytes[8..].copy_from_slice(&(end.0 ^ MARK).to_be_bytes());
        self.file.write_all_at(&bytes, 0)
    }
}
