//! A file of rows: what it is, and readings of it from the beginning, as many as wanted.

mod sheet;
mod text;

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// A file of rows, looked through once so that its readings are known to succeed.
pub struct Source {
    path: PathBuf,
    format: Format,
    stamp: Stamp,
    /// SHA-256 of the file's bytes.
    pub digest: [u8; 32],
    /// The first line that is not blank: the columns' names.
    pub header: Vec<String>,
    /// How many lines follow it, blank ones not counted.
    pub rows: u64,
    /// The first of them.
    pub sample: Vec<Line>,
}

/// How the file holds its rows.
enum Format {
    /// Lines of text.
    Text(text::Dialect),
    /// A sheet of a workbook, by its name.
    Sheet(String),
}

/// A line of the file that is not blank.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Where it is, counted from 1 as editors and spreadsheets count.
    pub number: u64,
    /// Its values, as many as it has.
    pub values: Vec<String>,
    /// Why its values are not what the file means, if they are not.
    pub fault: Option<String>,
}

/// What changes when somebody writes to a file.
#[derive(PartialEq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self {
            len: found.len(),
            modified: found.modified().ok(),
        })
    }
}

/// So many of the first rows are kept to be shown.
const SAMPLE: usize = 3;

impl Source {
    /// Looks through a file: a workbook if it is named `.xlsx`, and text otherwise. `sheet` names
    /// one of a workbook's sheets; without it, the first.
    pub fn open(path: &Path, sheet: Option<&str>) -> anyhow::Result<Self> {
        let of_file = || path.display().to_string();
        let stamp = Stamp::of(path).with_context(of_file)?;
        let mut seen = text::Seen::default();
        let digest = digest(path, |chunk| seen.add(chunk)).with_context(of_file)?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension.map(str::to_lowercase).as_deref() {
            Some("xlsx") => Format::Sheet(sheet::find(path, sheet).with_context(of_file)?),
            Some("xls") => bail!("{}: save it as .xlsx or .csv", path.display()),
            _ if sheet.is_some() => bail!("only an .xlsx file has sheets"),
            _ => Format::Text(seen.dialect(path).with_context(of_file)?),
        };
        let mut source = Self {
            path: path.to_owned(),
            format,
            stamp,
            digest,
            header: Vec::new(),
            rows: 0,
            sample: Vec::new(),
        };
        source.look_through().with_context(of_file)?;
        Ok(source)
    }

    fn look_through(&mut self) -> anyhow::Result<()> {
        let (mut header, mut rows, mut sample) = (None, 0, Vec::new());
        self.read_all(|line| {
            if header.is_none() {
                header = Some(line);
            } else {
                rows += 1;
                if sample.len() < SAMPLE {
                    sample.push(line);
                }
            }
            ControlFlow::Continue(())
        })?;
        let header = header.context("it is empty")?;
        if let Some(fault) = header.fault {
            bail!("line {}: {fault}", header.number);
        }
        (self.header, self.rows, self.sample) = (header.values, rows, sample);
        Ok(())
    }

    /// Hands out the rows from the beginning, one after the other, without the header, until
    /// `take` has enough. Blocks. Fails where the file is not what it was when opened.
    pub fn read(&self, mut take: impl FnMut(Line) -> ControlFlow<()>) -> anyhow::Result<()> {
        let mut is_header = true;
        let read = self.read_all(|line| {
            if std::mem::take(&mut is_header) {
                return ControlFlow::Continue(());
            }
            take(line)
        });
        read.with_context(|| self.path.display().to_string())
    }

    fn read_all(&self, take: impl FnMut(Line) -> ControlFlow<()>) -> anyhow::Result<()> {
        let unchanged = || anyhow::Ok(Stamp::of(&self.path)? == self.stamp);
        if unchanged()? {
            match &self.format {
                Format::Text(dialect) => text::read(&self.path, dialect, take)?,
                Format::Sheet(name) => sheet::read(&self.path, name, take)?,
            }
        }
        if !unchanged()? {
            bail!("it was changed meanwhile");
        }
        Ok(())
    }

    /// The sheet that is read, of a workbook.
    pub fn sheet(&self) -> Option<&str> {
        match &self.format {
            Format::Sheet(name) => Some(name),
            Format::Text(_) => None,
        }
    }

    /// How the file holds its rows, in words.
    pub fn described(&self) -> String {
        match &self.format {
            Format::Text(dialect) => dialect.to_string(),
            Format::Sheet(name) => format!("workbook, sheet {name:?}"),
        }
    }
}

impl Line {
    fn is_blank(&self) -> bool {
        self.fault.is_none() && self.values.iter().all(|value| value.trim().is_empty())
    }
}

/// Reads a file to its end, shows each piece of it, and gives its SHA-256.
fn digest(path: &Path, mut show: impl FnMut(&[u8])) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(digest.finalize().into());
        }
        digest.update(&chunk[..read]);
        show(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests;
