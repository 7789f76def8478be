//! Lists of submissions, page by page.

use prost::Message as _;

use super::record::{self, Key};
use super::{Submissions, SubmissionsError};
use crate::proto::{Submission, SubmissionState};

/// What a list holds.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The account.
    pub account: &'a str,
    /// Only those of this client; `None`: everybody's.
    pub client: Option<&'a str>,
    /// Only those in this state, all if it is unspecified.
    pub state: SubmissionState,
    /// Where the page begins; empty: at the beginning.
    pub page_token: &'a str,
    /// How many it has at most.
    pub page_size: usize,
}

/// A page of a list of submissions.
pub struct Page {
    /// The oldest first.
    pub submissions: Vec<Submission>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// A page ends once it has this many bytes.
const PAGE_BYTES: usize = 2 << 20;
/// How many places are read at a time.
const SLICE: usize = 256;
/// A page looks at no more places than this.
const MAX_LOOKED_AT: usize = 20 * SLICE;

impl Submissions {
    /// A page of an account's submissions.
    pub async fn list(&self, query: Query<'_>) -> Result<Page, SubmissionsError> {
        let lists = match query.state {
            SubmissionState::InFlight | SubmissionState::Unknown => {
                vec![record::open(query.account)]
            }
            SubmissionState::Accepted | SubmissionState::Refused | SubmissionState::Unspecified => {
                vec![record::open(query.account), record::settled(query.account)]
            }
        };
        let mut after = query.page_token.to_owned();
        if !after.is_empty() && Key::from_at(query.account, "", &after).is_none() {
            return Err(SubmissionsError::BadPageToken);
        }
        let mut submissions = Vec::new();
        let mut bytes = 0;
        for _ in 0..MAX_LOOKED_AT / SLICE {
            let (places, is_last) = self.places(&lists, &after).await?;
            for place in places {
                if submissions.len() == query.page_size || bytes >= PAGE_BYTES {
                    let next = Some(after);
                    return Ok(Page { submissions, next });
                }
                let key = Key::from_at(query.account, "", &place);
                after = place;
                let Some((_, key)) = key else { continue };
                let found = self.ledger.load(&key).await?;
                let found = found.and_then(|record| record.submission);
                if let Some(found) = found.filter(|found| is_wanted(found, &query)) {
                    bytes += found.encoded_len();
                    submissions.push(found);
                }
            }
            if is_last {
                return Ok(Page {
                    submissions,
                    next: None,
                });
            }
        }
        let next = Some(after);
        Ok(Page { submissions, next })
    }

    /// The places that follow in any of the lists, in order, and whether these are the last.
    async fn places(
        &self,
        lists: &[String],
        after: &str,
    ) -> Result<(Vec<String>, bool), SubmissionsError> {
        let mut places = Vec::new();
        // Of a list that goes on, what follows its last place is not known yet.
        let mut known_to: Option<String> = None;
        for prefix in lists {
            let start = if after.is_empty() {
                String::new()
            } else {
                format!("{prefix}{after}")
            };
            let found = self.ledger.notes.list(prefix, &start, SLICE).await?;
            let found = found.into_iter();
            let found: Vec<_> = found
                .map(|(place, _)| place[prefix.len()..].to_owned())
                .collect();
            if found.len() == SLICE
                && let Some(last) = found.last()
            {
                let earlier = known_to.filter(|known| known < last);
                known_to = Some(earlier.unwrap_or_else(|| last.clone()));
            }
            places.extend(found);
        }
        places.sort_unstable();
        // One may have changed from one list to the other between the reads.
        places.dedup();
        if let Some(known_to) = &known_to {
            places.retain(|place| place <= known_to);
        }
        Ok((places, known_to.is_none()))
    }
}

fn is_wanted(found: &Submission, query: &Query<'_>) -> bool {
    let is_state = query.state == SubmissionState::Unspecified || found.state() == query.state;
    // A refused batch is kept as evidence against itself, and nobody has to look after it.
    let is_shown = found.upload_id.is_empty() || found.state() != SubmissionState::Refused;
    is_state && is_shown && query.client.is_none_or(|client| client == found.client)
}
