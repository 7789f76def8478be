//! Which column is what, and what of a line is sent.

use anyhow::{Context, bail};
use clap::Args;
use yeta_gateway::proto::UploadRow;

use super::report::UNKNOWN;
use super::source::Line;
use crate::cli::print;

/// Which columns mean something.
#[derive(Args, Clone, Default)]
pub struct ColumnArgs {
    /// The column with the phone numbers; it is sent as the first. Without it, the first column.
    #[arg(long, value_name = "COLUMN")]
    phone_column: Option<String>,
    /// The column with your own ids of the rows, which come back on every push and call. It is not
    /// sent as a value. Without it, a row's id is the number of its line in the file ("17"), and
    /// the file's order is part of what makes an upload resumable.
    #[arg(long, value_name = "COLUMN")]
    row_key: Option<String>,
    /// Sends the column of --row-key as a value too.
    #[arg(long, requires = "row_key")]
    keep_row_key: bool,
}

/// Where in a line everything is.
pub struct Columns {
    /// The file's columns, without what an earlier report added to them.
    pub names: Vec<String>,
    /// The columns that are sent, by their places in the file: the phone number's first.
    sent: Vec<usize>,
    /// The column with the row's own id.
    key: Option<usize>,
    /// The column with the reason of an earlier refusal, in a file of rejected rows. It is heeded
    /// in other files too: somebody may have removed some of what was added.
    reason: Option<usize>,
    /// How many values a line has.
    width: usize,
}

/// What is added to rejected rows.
pub const REPORTED: [&str; 3] = ["reason", "message", "line"];

/// A row of more bytes would make a message that no gateway takes, and end the whole upload.
const LONGEST: usize = 1 << 20;

/// Why a line is not sent, as the gateway would say it.
#[derive(Debug, PartialEq)]
pub struct Fault {
    pub reason: &'static str,
    pub message: String,
}

impl Fault {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

impl Columns {
    /// Finds the columns in a file's header.
    pub fn find(header: &[String], args: &ColumnArgs) -> anyhow::Result<Self> {
        let mut names = header.to_vec();
        while names.last().is_some_and(|name| name.trim().is_empty()) {
            names.pop();
        }
        let is_report = names.len() > REPORTED.len() && names.ends_with(&REPORTED.map(Into::into));
        names.truncate(names.len() - if is_report { REPORTED.len() } else { 0 });
        check(&names)?;
        let find = |wanted: &String| {
            let found = names.iter().position(|name| name == wanted);
            found.with_context(|| format!("no column {wanted:?}, there are: {}", names.join(", ")))
        };
        let key = args.row_key.as_ref().map(find).transpose()?;
        let phone = args.phone_column.as_ref().map(find).transpose()?;
        if key.is_some() && key == phone {
            bail!("a phone number is no row key: it would stand in logs");
        }
        let is_sent = |column: &usize| args.keep_row_key || key != Some(*column);
        let mut sent: Vec<_> = (0..names.len()).filter(is_sent).collect();
        if phone.is_none() && key == Some(0) {
            bail!("the first column is the row key: say with --phone-column which is the number");
        }
        let phone = phone.unwrap_or(0);
        sent.retain(|column| *column != phone);
        sent.insert(0, phone);
        Ok(Self {
            reason: header.iter().rposition(|name| name == REPORTED[0]),
            width: names.len() + if is_report { REPORTED.len() } else { 0 },
            names,
            sent,
            key,
        })
    }

    /// The names of the columns that are sent.
    pub fn sent(&self) -> Vec<String> {
        let names = self.sent.iter().map(|column| self.names[*column].clone());
        names.collect()
    }

    /// The line as it is sent, or why it is not.
    pub fn row(&self, line: &Line) -> Result<UploadRow, Fault> {
        if let Some(fault) = &line.fault {
            return Err(Fault::new("ROW_UNREADABLE", fault));
        }
        let used = line.values.iter().rposition(|value| !value.is_empty());
        let used = used.map_or(0, |last| last + 1);
        // Exports have empty values beyond the last column where something was deleted.
        if used > self.width || line.values.len() < self.width {
            let found = line.values.len().max(used);
            let message = format!("{found} values for {} columns", self.width);
            return Err(Fault::new("ROW_MISMATCH", message));
        }
        if line.values.iter().map(String::len).sum::<usize>() > LONGEST {
            let message = format!("longer than {LONGEST} bytes");
            return Err(Fault::new("ROW_TOO_LONG", message));
        }
        let value = |column: usize| line.values.get(column).cloned().unwrap_or_default();
        if self.reason.is_some_and(|column| value(column) == UNKNOWN) {
            let message = "not sent again: an earlier upload sent it and had no answer";
            return Err(Fault::new(UNKNOWN, message));
        }
        Ok(UploadRow {
            row_key: self.key.map_or_else(|| line.number.to_string(), value),
            values: self.sent.iter().map(|column| value(*column)).collect(),
        })
    }
}

/// Finds what no header has.
fn check(names: &[String]) -> anyhow::Result<()> {
    for (i, name) in names.iter().enumerate() {
        if name.trim().is_empty() {
            bail!("column {} has no name in the file's first line", i + 1);
        }
        if names[..i].contains(name) {
            bail!("two columns are named {:?}", print::without_numbers(name));
        }
        if print::without_numbers(name) != *name {
            bail!("the file's first line holds numbers, and not the names of the columns");
        }
    }
    if names.is_empty() {
        bail!("the file's first line names no columns");
    }
    Ok(())
}
