//! Overdue rows, page by page.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::civil::Date;
use prost::Message;
use prost_types::Timestamp;

use super::Reconciliation;
use crate::backfill::days::{kept, of_ms};
use crate::calls::CallsError;
use crate::proto::{OverdueReason, OverdueRow};
use crate::store::ReadError;
use crate::submissions::awaited::{self, Awaited, AwaitedRow};

/// Which overdue rows to list. Within a list any value matches; between fields all must match;
/// what is empty or `None` matches everything.
#[derive(Clone, Debug, Default)]
pub struct OverdueQuery {
    /// Only rows of these accounts; unlike the other lists, an empty one matches nothing.
    pub accounts: Option<BTreeSet<String>>,
    /// Only rows of these tasks.
    pub task_ids: HashSet<String>,
    /// Only rows that are overdue for one of these reasons.
    pub reasons: Vec<OverdueReason>,
    /// At most so many rows, at least one.
    pub size: usize,
    /// [`OverduePage::next`] of the page before; empty: the first page.
    pub page_token: String,
}

/// A page of overdue rows, by account, the oldest of each first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OverduePage {
    /// The rows.
    pub rows: Vec<OverdueRow>,
    /// Asks for the next page; `None`: this is the last.
    pub next: Option<String>,
    /// The first and last day whose failed-push files may hold their records.
    pub days: Option<(Date, Date)>,
}

/// So many requests' rows are looked at together.
const SLICE: usize = 64;
/// So many such slices make a page at most.
const MAX_SLICES: usize = 20;

/// Behind which row a page begins.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(string, tag = "1")]
    account: String,
    /// Where the rows' request stands among the account's; empty: before all.
    #[prost(string, tag = "2")]
    request: String,
    /// The row within it; empty: behind all of them.
    #[prost(string, tag = "3")]
    row: String,
    /// Of what is before.
    #[prost(fixed32, tag = "4")]
    checksum: u32,
}

impl Place {
    fn token(&self) -> String {
        let checksum = self.sum();
        let place = Self {
            checksum,
            ..self.clone()
        };
        URL_SAFE_NO_PAD.encode(place.encode_to_vec())
    }

    /// Reads a token; one that was not given out is none.
    fn parse(token: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let place = Self::decode(bytes.as_slice()).ok()?;
        let is_whole = place.checksum == place.sum() && place.token() == token;
        (is_whole && !place.account.is_empty()).then_some(place)
    }

    fn sum(&self) -> u32 {
        let whole = Self {
            checksum: 0,
            ..self.clone()
        };
        crc32fast::hash(&whole.encode_to_vec())
    }
}

impl Reconciliation {
    /// A page of overdue rows. Those whose record has come meanwhile are left out.
    pub async fn list(&self, query: &OverdueQuery) -> Result<OverduePage, CallsError> {
        let mut place = match query.page_token.as_str() {
            "" => Place::default(),
            token => Place::parse(token).ok_or(CallsError::BadPageToken)?,
        };
        let mut page = OverduePage::default();
        let is_wanted = |account: &&String| {
            let wanted = query.accounts.as_ref();
            wanted.is_none_or(|wanted| wanted.contains(*account))
        };
        let mut slices = MAX_SLICES;
        let from = place.account.clone();
        for account in self.accounts().filter(is_wanted) {
            if *account < from {
                continue;
            }
            if *account != place.account {
                place = Place {
                    account: account.clone(),
                    ..Place::default()
                };
            }
            if !self
                .page_of(query, &mut place, &mut page, &mut slices)
                .await?
            {
                page.next = Some(place.token());
                break;
            }
        }
        page.days = self.days_of(&page.rows);
        Ok(page)
    }

    /// Adds an account's rows from a place on; tells whether these were all, and if not, how far
    /// it has come.
    async fn page_of(
        &self,
        query: &OverdueQuery,
        place: &mut Place,
        page: &mut OverduePage,
        slices: &mut usize,
    ) -> Result<bool, CallsError> {
        let prefix = awaited::overdue(&place.account);
        loop {
            if *slices == 0 || page.rows.len() >= query.size {
                return Ok(false);
            }
            *slices -= 1;
            let slice = self.slice(&prefix, place).await?;
            let is_last = slice.len() < SLICE;
            let asked_for = slice.iter().map(|(_, note)| note);
            let asked_for = asked_for.filter(|note| is_asked_for(query, note));
            let recorded = self.recorded(&place.account, asked_for).await?;
            for (key, mut note) in slice {
                if page.rows.len() >= query.size {
                    // Before the place moves on to this request.
                    return Ok(false);
                }
                let request = &key[prefix.len()..];
                let row = std::mem::take(&mut place.row);
                let behind = if place.request == request {
                    row
                } else {
                    String::new()
                };
                request.clone_into(&mut place.request);
                if !is_asked_for(query, &note) {
                    continue;
                }
                // In an order that stays when some of them go.
                note.rows
                    .sort_by(|a, b| a.task_data_id.cmp(&b.task_data_id));
                let rows = note.rows.iter().filter(|row| {
                    row.task_data_id > behind && !recorded.contains(&row.task_data_id)
                });
                for row in rows {
                    if page.rows.len() >= query.size {
                        return Ok(false);
                    }
                    place.row.clone_from(&row.task_data_id);
                    page.rows.push(shown(&place.account, &note, row));
                }
                place.row.clear();
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    /// The requests from a place on, that of the place among them if it has rows left.
    async fn slice(
        &self,
        prefix: &str,
        place: &Place,
    ) -> Result<Vec<(String, Awaited)>, CallsError> {
        let key = format!("{prefix}{}", place.request);
        let mut slice = Vec::new();
        if !place.row.is_empty()
            && let Some(bytes) = self.notes.get(&key).await.map_err(unavailable)?
        {
            slice.push((key.clone(), bytes));
        }
        let after = if place.request.is_empty() { "" } else { &key };
        let limit = SLICE - slice.len();
        slice.extend(
            self.notes
                .list(prefix, after, limit)
                .await
                .map_err(unavailable)?,
        );
        let read = |(key, bytes): (String, Vec<u8>)| {
            let note = Awaited::decode(bytes.as_slice()).unwrap_or_default();
            (key, note)
        };
        Ok(slice.into_iter().map(read).collect())
    }

    /// The days whose failed-push files may hold the records of rows: from the first of their
    /// submission on, as far as the platform has any.
    fn days_of(&self, rows: &[OverdueRow]) -> Option<(Date, Date)> {
        let submitted = rows.iter().filter_map(|row| row.submitted_at);
        let first = submitted.min_by_key(|at| (at.seconds, at.nanos))?;
        let first = of_ms(u64::try_from(first.seconds).ok()? * 1000)?;
        let kept = kept((self.options.clock)());
        let last = *kept.last()?;
        (first <= last).then_some((first.max(*kept.first()?), last))
    }
}

fn is_asked_for(query: &OverdueQuery, note: &Awaited) -> bool {
    let reason = OverdueReason::try_from(note.reason).unwrap_or_default();
    (query.task_ids.is_empty() || query.task_ids.contains(&note.task_id))
        && (query.reasons.is_empty() || query.reasons.contains(&reason))
}

fn shown(account: &str, note: &Awaited, row: &AwaitedRow) -> OverdueRow {
    OverdueRow {
        account: account.to_owned(),
        task_data_id: row.task_data_id.clone(),
        task_id: note.task_id.clone(),
        row_key: row.row_key.clone(),
        request_id: note.request_id.clone(),
        upload_id: note.upload_id.clone(),
        submitted_at: timestamp(note.submitted_at_ms),
        overdue_since: timestamp(note.overdue_since_ms),
        reason: note.reason,
    }
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms))?;
    Some(time.into())
}

fn unavailable(error: ReadError) -> CallsError {
    match error {
        ReadError::Closed => CallsError::Closed,
        other => CallsError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_reads_back_and_one_with_a_character_changed_is_refused(
            account in "[a-z]{1,9}", request in "[0-9]{13}/[a-z.]{0,9}", row in "[0-9]{0,20}",
            at: prop::sample::Index, with in "[A-Za-z0-9_-]",
        ) {
            let place = Place { account, request, row, checksum: 0 };
            let token = place.token();
            let read = Place::parse(&token).unwrap();
            prop_assert_eq!((&read.account, &read.request, &read.row), (&place.account, &place.request, &place.row));
            let mut changed = token.clone();
            let at = at.index(token.len());
            changed.replace_range(at..=at, &with);
            prop_assert!(changed == token || Place::parse(&changed).is_none());
        }

        #[test]
        fn any_other_text_is_no_token(text: String) {
            prop_assert!(Place::parse(&text).is_none());
        }
    }
}
