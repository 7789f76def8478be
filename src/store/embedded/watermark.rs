//! Remembers, beside the database, what has ever been durable.
//!
//! A damaged journal can come back shorter than it was, and its remains look like a database that
//! simply ended earlier. This file shows the difference, so that what is lost that way is reported,
//! and the numbers of lost entries, which clients may hold as cursors, are not given out again.
//!
//! It is written after each sync and not synced itself: it may lag behind after a loss of power,
//! but never runs ahead of what was durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::State;
use crate::push::Position;

/// What was durable at a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Durable {
    /// The position after the newest entry.
    pub end: Position,
    /// How many commits there had been.
    pub commits: u64,
}

impl From<&State> for Durable {
    fn from(state: &State) -> Self {
        Self {
            end: state.end,
            commits: state.commits,
        }
    }
}

/// The file that holds it.
pub(super) struct Watermark {
    file: File,
}

/// Shows that a record is whole, and not torn or empty.
const MARK: u64 = 0x7965_7461_2d65_6e64;
const LEN: usize = 3 * 8;

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

    /// What was written last, if it is whole.
    pub fn read(&self) -> Option<Durable> {
        let mut bytes = [0; LEN];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let words: [[u8; 8]; 3] = words.try_into().ok()?;
        let [end, commits, check] = words.map(u64::from_be_bytes);
        (check == end ^ commits ^ MARK).then_some(Durable {
            end: Position(end),
            commits,
        })
    }

    pub fn write(&self, durable: Durable) -> io::Result<()> {
        let Durable { end, commits } = durable;
        let mut bytes = [0; LEN];
        let words = [end.0, commits, end.0 ^ commits ^ MARK];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        self.file.write_all_at(&bytes, 0)
    }
}
