//! The records of an upload's rows: with which batch each went out.

use std::collections::HashMap;

use prost::Message;

use super::RowFault;
use crate::hash_key::HashKey;
use crate::proto::UploadRow;
use crate::store::{NoteChange, ReadError};
use crate::submissions::ledger::Ledger;
use crate::submissions::record::{self, Key, Record, RowState, SentRow, SentRows};

/// A row to be sent.
pub(super) struct Ready {
    pub row: UploadRow,
    /// Its number in one form.
    pub number: String,
    pub warnings: Vec<RowFault>,
    /// The other rows of the upload that have the row key.
    pub others: Vec<SentRow>,
    /// Whether no other row has the number.
    pub owns_number: bool,
}

/// What the store has of a row, of its key and of its number.
#[derive(Default)]
pub(super) struct Known {
    pub sent: SentRows,
    /// Whether `sent` could not be read: the row may have been sent.
    pub is_unreadable: bool,
    pub number: Option<SentRow>,
}

/// Reads what the store has of rows, in their order.
pub(super) async fn known<'a>(
    ledger: &Ledger,
    upload: &str,
    rows: impl Iterator<Item = (&'a UploadRow, &'a str)>,
) -> Result<Vec<Known>, ReadError> {
    let keys = rows.flat_map(|(row, number)| {
        [
            record::upload_row(&ledger.hash_key, upload, &row.row_key),
            record::upload_number(&ledger.hash_key, upload, number),
        ]
    });
    let found = ledger.notes.get_many(keys.collect()).await?;
    let (rows, _) = found.as_chunks::<2>();
    let known = rows.iter().map(|[sent, number]| {
        let sent = sent.as_deref().map(SentRows::decode);
        Known {
            is_unreadable: matches!(sent, Some(Err(_))),
            sent: sent.and_then(Result::ok).unwrap_or_default(),
            number: number
                .as_deref()
                .and_then(|bytes| SentRow::decode(bytes).ok()),
        }
    });
    Ok(known.collect())
}

/// Reads the states of rows that were sent; the batches that were read last are kept.
pub(super) struct Batches {
    account: String,
    upload: String,
    last: HashMap<u64, Option<Record>>,
}

/// The batches that are kept.
const KEPT: usize = 16;

impl Batches {
    pub fn new(account: &str, upload: &str) -> Self {
        Self {
            account: account.to_owned(),
            upload: upload.to_owned(),
            last: HashMap::new(),
        }
    }

    /// The state of a row that was sent.
    pub async fn state(&mut self, ledger: &Ledger, sent: &SentRow) -> Result<RowState, ReadError> {
        if !self.last.contains_key(&sent.batch) {
            let key = Key::of_batch(&self.account, &self.upload, sent.batch);
            let record = ledger.load(&key).await?;
            if self.last.len() >= KEPT {
                self.last.clear();
            }
            self.last.insert(sent.batch, record);
        }
        let record = self.last.get(&sent.batch).and_then(Option::as_ref);
        Ok(record.map_or(RowState::Absent, |it| it.row(sent.row as usize)))
    }

    /// Forgets what was read: it may have changed.
    pub fn forget(&mut self) {
        self.last.clear();
    }
}

/// What records with which batch rows go out. It may stay when the batch's own record goes: a row
/// whose batch has no record was not sent.
pub(super) fn intent(
    hash_key: &HashKey,
    upload: &str,
    batch: u64,
    rows: &[Ready],
) -> Vec<NoteChange> {
    let mut changes = Vec::new();
    for (at, ready) in rows.iter().enumerate() {
        let sent = SentRow {
            digest: hash_key.digest(&ready.row.values).to_vec(),
            batch,
            row: u32::try_from(at).unwrap_or(u32::MAX),
            row_key: String::new(),
        };
        let mut all = SentRows {
            rows: ready.others.clone(),
        };
        all.rows.push(sent.clone());
        let place = record::upload_row(hash_key, upload, &ready.row.row_key);
        changes.push(NoteChange::put(place, all.encode_to_vec()));
        if ready.owns_number {
            let sent = SentRow {
                row_key: ready.row.row_key.clone(),
                ..sent
            };
            let place = record::upload_number(hash_key, upload, &ready.number);
            changes.push(NoteChange::put(place, sent.encode_to_vec()));
        }
    }
    changes
}
