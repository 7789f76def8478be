//! Mends the database's newest journal where the database does not mend it itself.
//!
//! A batch that was being written when power went can have all its length and still hold blocks
//! that never reached the disk. The database discards a short last batch, but refuses to open for
//! one whose checksum is wrong. So the journal is cut before the first such batch. Batches that
//! were written and not synced may stand behind it; they go with it. Whether anything durable was
//! cut, too, shows the [watermark](super::watermark).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fjall::Database;

use super::OpenError;

const BLOCK: usize = 64 << 10;

/// Opens a database. If its newest journal has a damaged batch, cuts it there, and keeps a copy of
/// the journal as it was.
pub(super) fn open(
    folder: &Path,
    open: impl Fn() -> fjall::Result<Database>,
) -> Result<Database, OpenError> {
    let failed = |error| OpenError::from_fjall(folder, error);
    let error = match open() {
        Err(error @ fjall::Error::JournalRecovery(_)) => error,
        other => return other.map_err(failed),
    };
    let io = |error| OpenError::Io {
        path: folder.into(),
        error,
    };
    let Some(journal) = newest(folder).map_err(io)? else {
        return Err(failed(error));
    };
    let damaged = journal.with_extension("jnl-damaged");
    fs::copy(&journal, &damaged).map_err(io)?;
    let opens = |end| {
        cut(&damaged, &journal, end)?;
        io::Result::Ok(open().is_ok())
    };
    let end = content_end(&damaged).map_err(io)?;
    if !opens(0).map_err(io)? {
        // The damage is elsewhere.
        fs::rename(&damaged, &journal).map_err(io)?;
        return Err(failed(error));
    }
    let whole = last_for_which(end, opens).map_err(io)?;
    cut(&damaged, &journal, whole).map_err(io)?;
    tracing::warn!(
        copy = %damaged.display(),
        "the database's journal was damaged and has been cut before the damage"
    );
    open().map_err(failed)
}

/// Writes the journals' content again and syncs it.
///
/// After a failed sync the system may take pages for clean that never reached the disk. Reading
/// them shows what was written, and a sync reports success. Only new writes reach the disk.
pub(super) fn write_again(folder: &Path) -> io::Result<()> {
    for journal in all(folder)? {
        let end = content_end(&journal)?;
        let file = OpenOptions::new().read(true).write(true).open(&journal)?;
        let mut block = vec![0; BLOCK];
        let mut at = 0;
        while at < end {
            let len = usize::try_from(end - at).map_or(BLOCK, |left| left.min(BLOCK));
            file.read_exact_at(&mut block[..len], at)?;
            file.write_all_at(&block[..len], at)?;
            at += len as u64;
        }
        file.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

/// The greatest number up to `most` for which this is so, if it is so for all up to some number.
/// It is so for 0.
fn last_for_which(most: u64, mut is_so: impl FnMut(u64) -> io::Result<bool>) -> io::Result<u64> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = high - (high - low) / 2;
        if is_so(middle)? {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

/// Makes the journal the first part of its copy.
fn cut(copy: &Path, journal: &Path, end: u64) -> io::Result<()> {
    let mut from = File::open(copy)?.take(end);
    let mut to = File::create(journal)?;
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    to.sync_all()
}

fn all(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|file| Ok(file?.path()));
    let files: io::Result<Vec<_>> = files.collect();
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|it| it == "jnl");
    Ok(files?.into_iter().filter(is_journal).collect())
}

fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    Ok(all(folder)?.into_iter().max_by_key(number))
}

/// Where the journal's content ends: it is allocated ahead, filled with zeros.
fn content_end(journal: &Path) -> io::Result<u64> {
    let mut file = File::open(journal)?;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(&mut file)
            .take(end - start)
            .read_to_end(&mut block)?;
        if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_last_number_for_which_it_is_so() {
        for most in 0..40 {
            for last in 0..=most {
                let found = last_for_which(most, |number| Ok(number <= last));
                assert_eq!(found.unwrap(), last, "of {most}");
            }
        }
    }
}
