//! A file of failed pushes, from the platform or from a caller: a zip of files, or lines alone.
//!
//! Nothing in it is trusted. How much is unpacked has a bound, and so has everything that is kept
//! in memory. Names are neither used as paths nor looked at.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use zip::ZipArchive;

use super::lines::{Line, Lines};

/// Bounds of a file.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many bytes it may have.
    pub file_bytes: u64,
    /// How many bytes it may unpack to.
    pub unpacked_bytes: u64,
    /// How many times its own size it may unpack to. Lines of JSON come to 30 or so.
    pub ratio: u64,
    /// How many files a zip may hold.
    pub entries: usize,
    /// How many bytes a line may have.
    pub line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            unpacked_bytes: 4 << 30,
            ratio: 200,
            entries: 10_000,
            line_bytes: 8 << 20,
        }
    }
}

/// Why a file was not read, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is neither a zip nor lines of JSON.
    #[error("it is neither a zip nor lines of JSON")]
    NoPushes,
    /// It holds more files than it may.
    #[error("it holds more than {0} files")]
    TooManyEntries(usize),
    /// It unpacks to more than it may.
    #[error("it unpacks to more than {0} bytes, the most for a file of its size")]
    UnpacksTooFar(u64),
    /// It is damaged, or a zip of a kind that is not read.
    #[error("the zip cannot be read: {0}")]
    BadZip(String),
    /// It could not be read from the disk.
    #[error("the file cannot be read: {0}")]
    Io(String),
    /// Its reader panicked.
    #[error("reading it failed for a fault of the gateway's own")]
    Panic,
}

/// A file so small may unpack to so much, whatever the ratio.
const SMALL: u64 = 1 << 20;
/// So much of a zip is read at most to find out what is in it.
const DIRECTORY_BYTES: u64 = 8 << 20;
const BUFFER: usize = 64 << 10;
/// Where a zip's end can begin: before the longest comment, and a little more.
const TAIL: u64 = 128 << 10;
/// The record that ends a zip.
const END: &[u8] = b"PK\x05\x06";
/// Announces the directory of a zip beyond 4 GiB or 65,535 files, which are beyond bounds anyway.
const ZIP64: &[u8] = b"PK\x06\x07";
/// So many bytes before the end's record; elsewhere these bytes mean nothing.
const ZIP64_BEFORE_END: usize = 20;
/// What a zip begins with: a file, or the end of its directory where it holds none.
const ZIP: [&[u8]; 2] = [b"PK\x03\x04", END];

/// Hands each line of a file to `take`, until that wants no more. What can be read of a damaged
/// zip is, before the error is told.
pub fn read(
    mut file: File,
    limits: &Limits,
    mut take: impl FnMut(Line) -> bool,
) -> Result<(), FileError> {
    let io = |error: io::Error| FileError::Io(error.to_string());
    file.rewind().map_err(io)?;
    let mut head = Vec::new();
    (&file).take(4).read_to_end(&mut head).map_err(io)?;
    file.rewind().map_err(io)?;
    if ZIP.contains(&&*head) {
        return unpack(file, limits, &mut take);
    }
    let mut reader = BufReader::with_capacity(BUFFER, file);
    if !begins_like_json(reader.fill_buf().map_err(io)?) {
        return Err(FileError::NoPushes);
    }
    let mut lines = Lines::new(reader, limits.line_bytes);
    while let Some(line) = lines.next_line().map_err(io)? {
        if !take(line) {
            break;
        }
    }
    Ok(())
}

fn begins_like_json(start: &[u8]) -> bool {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

fn unpack(
    mut file: File,
    limits: &Limits,
    take: &mut impl FnMut(Line) -> bool,
) -> Result<(), FileError> {
    let length = refuse_zip64(&mut file)?;
    let allowance = Allowance::new(DIRECTORY_BYTES);
    let metered = Metered {
        inner: file,
        allowance: allowance.clone(),
    };
    let opened = ZipArchive::new(BufReader::new(metered));
    let mut archive = opened.map_err(|error| {
        if allowance.is_used_up() {
            FileError::TooManyEntries(limits.entries)
        } else {
            FileError::BadZip(error.to_string())
        }
    })?;
    if archive.len() > limits.entries {
        return Err(FileError::TooManyEntries(limits.entries));
    }
    if archive.has_duplicate_names() {
        // The library would show one of them alone.
        return Err(FileError::BadZip("two files have the same name".to_owned()));
    }
    allowance.set(u64::MAX);
    let most = length.saturating_mul(limits.ratio).max(SMALL);
    let most = most.min(limits.unpacked_bytes);
    let unpacked = Allowance::new(most);
    let mut damage = None;
    for index in 0..archive.len() {
        let entry = match archive.by_index(index) {
            Ok(entry) if entry.is_file() => entry,
            Ok(_) => continue,
            Err(error) => {
                damage.get_or_insert_with(|| error.to_string());
                continue;
            }
        };
        let metered = Metered {
            inner: entry,
            allowance: unpacked.clone(),
        };
        match read_entry(metered, limits, take) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(_) if unpacked.is_used_up() => return Err(FileError::UnpacksTooFar(most)),
            Err(error) => {
                damage.get_or_insert_with(|| error.to_string());
            }
        }
    }
    damage.map_or(Ok(()), |damage| Err(FileError::BadZip(damage)))
}

/// Reads one file of a zip; false: no more is wanted.
fn read_entry(
    entry: impl Read,
    limits: &Limits,
    take: &mut impl FnMut(Line) -> bool,
) -> io::Result<bool> {
    let mut reader = BufReader::with_capacity(BUFFER, entry);
    if ZIP
        .iter()
        .any(|start| matches!(reader.fill_buf(), Ok(head) if head.starts_with(start)))
    {
        return Err(io::Error::other("it holds another zip"));
    }
    let mut lines = Lines::new(reader, limits.line_bytes);
    while let Some(line) = lines.next_line()? {
        if !take(line) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses what the library would set memory aside for before it has looked at it; tells the
/// file's length.
fn refuse_zip64(file: &mut File) -> Result<u64, FileError> {
    let io = |error: io::Error| FileError::Io(error.to_string());
    let length = file.seek(SeekFrom::End(0)).map_err(io)?;
    let start = SeekFrom::Start(length.saturating_sub(TAIL));
    file.seek(start).map_err(io)?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).map_err(io)?;
    file.rewind().map_err(io)?;
    if announces_zip64(&tail) {
        return Err(FileError::BadZip("zip64 is not read".to_owned()));
    }
    Ok(length)
}

/// Whether an end's record has an announcement right before it. Each record counts that looks like
/// an end, as the library goes on to the next where the last turns out to be none.
fn announces_zip64(tail: &[u8]) -> bool {
    let begins = |at: usize, with: &[u8]| tail.get(at..).is_some_and(|it| it.starts_with(with));
    let is_announced = |end| begins(end - ZIP64_BEFORE_END, ZIP64);
    (ZIP64_BEFORE_END..tail.len()).any(|at| begins(at, END) && is_announced(at))
}

/// How many bytes may yet be read.
#[derive(Clone)]
struct Allowance(Rc<Cell<Option<u64>>>);

impl Allowance {
    fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(Some(bytes))))
    }

    fn set(&self, bytes: u64) {
        self.0.set(Some(bytes));
    }

    fn is_used_up(&self) -> bool {
        self.0.get().is_none()
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let left = self.0.get().and_then(|left| left.checked_sub(bytes));
        self.0.set(left);
        let over = || io::Error::other("more bytes than allowed");
        left.map(|_| ()).ok_or_else(over)
    }
}

/// Reads no more than is allowed.
struct Metered<R> {
    inner: R,
    allowance: Allowance,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.allowance.take(read as u64)?;
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests;
