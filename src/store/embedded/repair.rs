//! Mends the one kind of damage that a crash leaves and the database does not mend itself.
//!
//! A batch that was being written when power went can have all its length and still hold blocks
//! that never reached the disk. The database discards a short last batch, but refuses to open
//! for one whose checksum is wrong. Nobody was told that this batch is durable, so that it may be
//! discarded: cutting off its last byte makes it a short one. If something else is wrong, opening
//! fails as it did before, and the journal is put back as it was.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A journal whose last batch has been cut short, and a copy of it as it was.
pub(super) struct Cut {
    journal: PathBuf,
    copy: PathBuf,
}

/// Cuts the last batch of the newest journal short; `None` if there is nothing to cut.
pub(super) fn cut_last_batch(database: &Path) -> io::Result<Option<Cut>> {
    let Some(journal) = newest_journal(database)? else {
        return Ok(None);
    };
    let end = content_end(&journal)?;
    if end == 0 {
        return Ok(None);
    }
    let copy = journal.with_extension("jnl-damaged");
    fs::copy(&journal, &copy)?;
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(end - 1)?;
    file.sync_all()?;
    Ok(Some(Cut { journal, copy }))
}

impl Cut {
    /// The cut has helped. The copy stays, for whoever wants to know what was in it.
    pub fn keep(self) {
        tracing::warn!(
            copy = %self.copy.display(),
            "the last batch of the journal was damaged and has been discarded as unfinished"
        );
    }

    /// The cut has not helped: puts the journal back as it was.
    pub fn undo(self) -> io::Result<()> {
        fs::rename(&self.copy, &self.journal)
    }
}

fn newest_journal(database: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for file in fs::read_dir(database)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number: Option<u64> = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            newest = newest.max(number.map(|number| (number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the journal's content ends: it is allocated ahead, filled with zeros.
fn content_end(journal: &Path) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = fs::File::open(journal)?;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(end - start).read_to_end(&mut block)?;
        if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
