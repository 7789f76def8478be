//! Lines of text with delimiters between their values, as spreadsheets export them.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, bail};
use csv::{ByteRecord, ReaderBuilder, Terminator};
use encoding_rs::GB18030;

use super::Line;

/// How a text file is to be read.
pub struct Dialect {
    encoding: Encoding,
    delimiter: u8,
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Utf8,
    Utf8Bom,
    /// What Excel writes on a Chinese Windows. Its characters of several bytes have no delimiter,
    /// quote or line end among their bytes, so that lines are cut first and decoded then.
    Gb18030,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Stands after the file's end: read as a record of its own, it shows that no quote was left open,
/// which the csv reader does not tell.
const END: &[u8] = b"\n\x04\n";

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = match self.encoding {
            Encoding::Utf8 => "UTF-8",
            Encoding::Utf8Bom => "UTF-8 with BOM",
            Encoding::Gb18030 => "GB18030",
        };
        let delimiter = match self.delimiter {
            b'\t' => "tab",
            b';' => "semicolon",
            _ => "comma",
        };
        write!(f, "text, {encoding}, {delimiter} between values")
    }
}

/// What of a file tells its encoding, as far as it was seen.
pub struct Seen {
    start: Vec<u8>,
    is_utf8: bool,
    /// The beginning of a character whose other bytes are still to come.
    rest: Vec<u8>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            start: Vec::new(),
            is_utf8: true,
            rest: Vec::new(),
        }
    }
}

impl Seen {
    /// Looks at the next piece of the file.
    pub fn add(&mut self, piece: &[u8]) {
        let missing = BOM.len() - self.start.len();
        self.start.extend(piece.iter().take(missing));
        if !self.is_utf8 {
            return;
        }
        self.rest.extend(piece);
        match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.clear(),
            Err(error) if error.error_len().is_none() => {
                self.rest.drain(..error.valid_up_to());
            }
            Err(_) => self.is_utf8 = false,
        }
    }

    /// How the file is to be read, once all of it was seen.
    pub fn dialect(&self, path: &Path) -> anyhow::Result<Dialect> {
        let encoding = if self.start == BOM {
            Encoding::Utf8Bom
        } else if self.start.starts_with(b"\xff\xfe") || self.start.starts_with(b"\xfe\xff") {
            bail!("it is UTF-16; save it as UTF-8");
        } else if self.start.starts_with(b"PK") {
            bail!("it is no text; a workbook's name must end in .xlsx");
        } else if self.is_utf8 && self.rest.is_empty() {
            Encoding::Utf8
        } else {
            Encoding::Gb18030
        };
        let delimiter = delimiter(path)?;
        Ok(Dialect {
            encoding,
            delimiter,
        })
    }
}

/// A header is searched for its delimiter up to here.
const LONGEST_HEADER: u64 = 1 << 20;

/// The delimiter that the first line has most of, outside quotes.
fn delimiter(path: &Path) -> std::io::Result<u8> {
    let mut start = BufReader::new(File::open(path)?).take(LONGEST_HEADER);
    let mut line = Vec::new();
    while line.trim_ascii().is_empty() {
        line.clear();
        if start.read_until(b'\n', &mut line)? == 0 {
            break;
        }
    }
    let mut is_quoted = false;
    line.retain(|byte| {
        is_quoted ^= *byte == b'"';
        !is_quoted
    });
    let count = |delimiter| line.split(|byte| *byte == delimiter).count();
    // Of equals the last one is taken, so the comma is.
    let delimiter = b"\t;,".iter().max_by_key(|delimiter| count(**delimiter));
    Ok(*delimiter.expect("there are three"))
}

/// Hands out every line that is not blank until `take` has enough.
pub fn read(
    path: &Path,
    dialect: &Dialect,
    mut take: impl FnMut(Line) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let start = match dialect.encoding {
        Encoding::Utf8Bom => BOM.len() as u64,
        Encoding::Utf8 | Encoding::Gb18030 => 0,
    };
    let len = file.seek(SeekFrom::End(0))?.saturating_sub(start);
    file.seek(SeekFrom::Start(start))?;
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(dialect.delimiter)
        // With the default, lines are miscounted where they end in CR and LF.
        .terminator(Terminator::Any(b'\n'))
        .buffer_capacity(1 << 16)
        .from_reader(file.take(len).chain(END));
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let newlines = record.as_slice().iter().filter(|byte| **byte == b'\n');
        let newlines = newlines.count() as u64;
        if reader.position().byte() >= len + END.len() as u64 {
            if record.as_slice() == b"\x04" {
                return Ok(());
            }
            let number = reader.position().line() - newlines;
            bail!("line {number}: a quote is opened and never closed");
        }
        let line = dialect.line(reader.position().line() - newlines - 1, &record);
        if !line.is_blank() && take(line).is_break() {
            return Ok(());
        }
    }
    Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)).context("it became shorter")
}

impl Dialect {
    fn line(&self, number: u64, record: &ByteRecord) -> Line {
        let mut is_text = true;
        let last = record.len().saturating_sub(1);
        let values = record.iter().enumerate().map(|(i, value)| {
            let ending = if i == last { b"\r".as_slice() } else { b"" };
            let value = value.strip_suffix(ending).unwrap_or(value);
            let (text, is_valid) = self.decoded(value);
            is_text &= is_valid;
            text
        });
        let values = values.collect();
        let fault = (!is_text).then(|| "the line is no text in the file's encoding".to_owned());
        Line {
            number,
            values,
            fault,
        }
    }

    /// A value as text, and whether all of it could be read.
    fn decoded(&self, value: &[u8]) -> (String, bool) {
        if self.encoding == Encoding::Gb18030 {
            let (text, is_faulty) = GB18030.decode_without_bom_handling(value);
            return (text.into_owned(), !is_faulty);
        }
        match std::str::from_utf8(value) {
            Ok(text) => (text.to_owned(), true),
            Err(_) => (String::from_utf8_lossy(value).into_owned(), false),
        }
    }
}
