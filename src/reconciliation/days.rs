//! What is remembered of each day: how many rows were sent, and of how many a record has come.
//!
//! | key | value |
//! |---|---|
//! | `rows-of-day/ACCOUNT/DATE` | [`DayNote`] |

use std::collections::BTreeMap;

use jiff::civil::Date;
use prost::Message;

use crate::store::{End, NoteChange, Notes};

/// What is remembered of a day in China, of the rows that were submitted then.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DayNote {
    /// Rows that the platform accepted.
    #[prost(uint64, tag = "1")]
    pub sent: u64,
    /// Those of which a call record has come.
    #[prost(uint64, tag = "2")]
    pub answered: u64,
    /// Whether it was reported.
    #[prost(bool, tag = "3")]
    pub is_reported: bool,
}

fn prefix(account: &str) -> String {
    format!("rows-of-day/{account}/")
}

pub(super) fn key(account: &str, date: Date) -> String {
    format!("{}{date}", prefix(account))
}

/// What is known of a day.
pub(super) async fn day(notes: &dyn Notes, account: &str, date: Date) -> Result<DayNote, End> {
    let note = notes.get(&key(account, date)).await?;
    let day = note.and_then(|bytes| DayNote::decode(bytes.as_slice()).ok());
    Ok(day.unwrap_or_default())
}

/// The changes that add to what is known of days.
pub(super) async fn added(
    notes: &dyn Notes,
    account: &str,
    days: BTreeMap<Date, DayNote>,
) -> Result<Vec<NoteChange>, End> {
    let mut changes = Vec::new();
    for (date, more) in days {
        let mut known = day(notes, account, date).await?;
        known.sent += more.sent;
        known.answered += more.answered;
        changes.push(NoteChange::put(key(account, date), known.encode_to_vec()));
    }
    Ok(changes)
}

/// The changes that forget the days before one.
pub(super) async fn forgotten(
    notes: &dyn Notes,
    account: &str,
    before: Date,
) -> Result<Vec<NoteChange>, End> {
    let first_kept = key(account, before);
    let days = notes.list(&prefix(account), "", 1000).await?;
    let old = days.into_iter().filter(|(key, _)| *key < first_kept);
    Ok(old.map(|(key, _)| NoteChange::forget(key)).collect())
}
