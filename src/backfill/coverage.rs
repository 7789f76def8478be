//! Which days have been covered, remembered across restarts.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BackfillError;
use crate::store::{NoteChange, Notes, Survives};

/// What is remembered of an account's days.
#[derive(Clone)]
pub(super) struct Coverage {
    notes: Arc<dyn Notes>,
    account: String,
}

/// What is remembered of one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Day {
    /// Whether every file of the day has been read, and there will be no more.
    #[serde(default)]
    pub covered: bool,
    /// Whether the following day had ended, too, when these were read.
    #[serde(default)]
    pub is_settled: bool,
    /// The files that have been read to their end, by [`name`].
    #[serde(default)]
    pub read: BTreeSet<String>,
    /// The files that were read before, and are to be read once more.
    #[serde(default)]
    pub read_before: BTreeSet<String>,
}

impl Day {
    /// The day is settled. A file that was read before may have grown, so that each is read once
    /// more.
    pub fn settle(&mut self) {
        if !self.is_settled {
            self.is_settled = true;
            self.read_again();
        }
    }

    /// All files are to be read once more.
    pub fn read_again(&mut self) {
        self.read_before.append(&mut self.read);
    }

    /// Whether what stands in a file was in the log once.
    pub fn was_read(&self, name: &str) -> bool {
        self.covered || self.read_before.contains(name)
    }
}

/// Names a file for good, without its address, which may hold a secret.
pub(super) fn name(url: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(url.as_bytes())[..16])
}

impl Coverage {
    pub fn of(notes: Arc<dyn Notes>, account: &str) -> Self {
        Self {
            notes,
            account: account.to_owned(),
        }
    }

    fn prefix(&self) -> String {
        format!("backfill/{}/", self.account)
    }

    fn key(&self, day: Date) -> String {
        format!("{}{day}", self.prefix())
    }

    /// What is known of a day; nothing, where what is remembered cannot be read: the day is only
    /// read again then.
    pub async fn day(&self, day: Date) -> Result<Day, BackfillError> {
        let note = self.notes.get(&self.key(day)).await?;
        let day = note.and_then(|note| serde_json::from_slice(&note).ok());
        Ok(day.unwrap_or_default())
    }

    pub async fn put(&self, date: Date, day: &Day) -> Result<(), BackfillError> {
        let note = serde_json::to_vec(day).unwrap_or_default();
        Ok(self.notes.put(&self.key(date), note).await?)
    }

    /// Forgets the days before `oldest`, whose files the platform has no more; tells those of
    /// them that were never covered.
    pub async fn forget_before(&self, oldest: Date) -> Result<Vec<String>, BackfillError> {
        let prefix = self.prefix();
        let first_kept = self.key(oldest);
        let notes = self.notes.list(&prefix, "", 1000).await?;
        let old = notes.into_iter().filter(|(key, _)| *key < first_kept);
        let (mut forgotten, mut never_covered) = (Vec::new(), Vec::new());
        for (key, note) in old {
            let day: Day = serde_json::from_slice(&note).unwrap_or_default();
            if !day.covered {
                never_covered.extend(key.strip_prefix(&prefix).map(str::to_owned));
            }
            forgotten.push(NoteChange::forget(key));
        }
        if !forgotten.is_empty() {
            self.notes.change(forgotten, Survives::Kill).await?;
        }
        Ok(never_covered)
    }
}
