//! What became of the rows: counts, and a file of those that were not accepted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tempfile::{NamedTempFile, TempPath};
use yeta_gateway::proto::upload_row_result::Outcome;
use yeta_gateway::proto::{UploadRowError, UploadRowResult};

use super::columns::REPORTED;
use super::source::Line;

/// The reason of rows of which nobody knows whether they were called.
pub const UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// What was answered for the rows of one reading of the file.
pub struct Report {
    pub counts: Counts,
    rejected: Rejected,
}

/// How many rows came out how.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub accepted: u64,
    /// Of those accepted: known from an earlier try, and not sent again.
    pub known_before: u64,
    pub refused: u64,
    pub refused_by_reason: BTreeMap<String, u64>,
    /// Sent, and nobody knows.
    pub unknown: u64,
    /// What was odd about rows that went through, by reason.
    pub warnings: BTreeMap<String, u64>,
}

impl Counts {
    /// How many rows have come to an end.
    pub fn settled(&self) -> u64 {
        self.accepted + self.refused + self.unknown
    }
}

impl Report {
    /// An empty one. Rejected rows go to `path` when it is finished, under the file's own columns.
    pub fn new(path: &Path, names: &[String]) -> Self {
        Self {
            counts: Counts::default(),
            rejected: Rejected {
                path: path.to_owned(),
                names: names.to_vec(),
                file: None,
            },
        }
    }

    /// Notes what the gateway said of a line.
    pub fn settle(&mut self, line: &Line, result: UploadRowResult) -> anyhow::Result<()> {
        for warning in result.warnings {
            *self.counts.warnings.entry(warning.reason).or_default() += 1;
        }
        match result.outcome {
            Some(Outcome::TaskDataId(_)) => {
                self.counts.accepted += 1;
                self.counts.known_before += u64::from(result.known_before);
                Ok(())
            }
            Some(Outcome::Error(error)) => self.refuse(line, &error),
            // A newer gateway may have an outcome that has no name here.
            None => self.refuse(line, &no_outcome()),
        }
    }

    /// Notes that a line was not taken, or that nobody knows whether it was.
    pub fn refuse(&mut self, line: &Line, error: &UploadRowError) -> anyhow::Result<()> {
        let mut message = error.message.clone();
        if error.reason == UNKNOWN {
            self.counts.unknown += 1;
            message.push_str(" (it may have been called: do not submit it again)");
        } else {
            self.counts.refused += 1;
            let reasons = &mut self.counts.refused_by_reason;
            *reasons.entry(error.reason.clone()).or_default() += 1;
        }
        let written = self.rejected.write(line, &error.reason, &message);
        written.context("the file of rejected rows cannot be written")
    }

    /// Puts the file of rejected rows in its place, or none where none was rejected.
    pub fn finish(self) -> anyhow::Result<(Counts, Option<PathBuf>)> {
        let path = self.rejected.path.clone();
        let rejected = self.rejected.finish();
        let rejected = rejected.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok((self.counts, rejected))
    }
}

fn no_outcome() -> UploadRowError {
    UploadRowError {
        reason: UNKNOWN.to_owned(),
        message: "the gateway told no outcome".to_owned(),
        ..UploadRowError::default()
    }
}

/// The file of rejected rows, under another name until it is complete. It is readable by its owner
/// alone, since it holds phone numbers, and it is gone when dropped before its end.
struct Rejected {
    path: PathBuf,
    names: Vec<String>,
    file: Option<(csv::Writer<BufWriter<File>>, TempPath)>,
}

impl Rejected {
    fn write(&mut self, line: &Line, reason: &str, message: &str) -> anyhow::Result<()> {
        let width = self.names.len();
        let (file, _) = match &mut self.file {
            Some(file) => file,
            missing => missing.insert(create(&self.path, &self.names)?),
        };
        for column in 0..width {
            file.write_field(line.values.get(column).map_or("", String::as_str))?;
        }
        file.write_record([reason, message, &line.number.to_string()])?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Option<PathBuf>> {
        let Some((mut file, temporary)) = self.file else {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(None),
            };
        };
        file.flush()?;
        drop(file);
        temporary.persist(&self.path)?;
        Ok(Some(self.path))
    }
}

fn create(
    path: &Path,
    names: &[String],
) -> anyhow::Result<(csv::Writer<BufWriter<File>>, TempPath)> {
    // In the same folder, so that it can be renamed.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let file = NamedTempFile::with_prefix_in(".rejected", folder.unwrap_or(Path::new(".")))?;
    let (file, temporary) = file.into_parts();
    let mut file = BufWriter::new(file);
    // By this Excel knows that it is UTF-8.
    file.write_all("\u{feff}".as_bytes())?;
    let mut file = csv::Writer::from_writer(file);
    let names = names.iter().map(String::as_str);
    file.write_record(names.chain(REPORTED))?;
    Ok((file, temporary))
}
