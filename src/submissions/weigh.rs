//! Evidence: what call records show about rows whose outcome is open.
//!
//! A record is weighed once, when its push comes in. It is listed for each open row that it fits.
//! It settles a row only if it has all values of the row, was dialled in time, its id is nobody
//! else's, and no other open row could have it. Where another row could, the record is kept as a
//! [`Fit`] and decided when that row is settled.

use std::time::Duration;

use super::SubmissionsError;
use super::evidence::{self, Match};
use super::ledger::Ledger;
use super::open::Heard;
use super::record::{self, Fit, Key, Record};
use super::state::Event;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CallOutResponse, CallRecord, InsertTaskDataResponse, Submission, SubmissionEvidence,
    SubmissionEvidenceKind, SubmissionState,
};
use crate::store::ReadError;

/// The pieces of evidence that one submission lists; later ones are left out.
const MAX_EVIDENCE: usize = 200;

/// A call record as evidence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Testimony<'a> {
    pub record: &'a CallRecord,
    /// The id of its push.
    pub event_id: &'a str,
}

impl Ledger {
    /// Weighs a record whose id nobody has claimed. Gives the caller's own id of the row that it
    /// has settled, if any.
    pub async fn weigh(&self, account: &str, testimony: Testimony<'_>) -> Option<String> {
        let record = testimony.record;
        // The number need not be first: the platform may have another order of columns.
        let texts = record.task_row_value.iter().chain([&record.callee]);
        let rows = self.index.with_numbers(account, texts.map(String::as_str));
        if rows.is_empty() {
            return None;
        }
        match self.weigh_for(account, testimony, rows).await {
            Ok(row_key) => row_key,
            Err(error) => {
                tracing::warn!(account, %error, "a call record was not weighed as evidence");
                None
            }
        }
    }

    async fn weigh_for(
        &self,
        account: &str,
        testimony: Testimony<'_>,
        rows: Vec<(Key, usize)>,
    ) -> Result<Option<String>, SubmissionsError> {
        let id = &testimony.record.task_data_id;
        let _lock = self.lock(account).await;
        // Claimed since it was looked for.
        if self.is_claimed(account, id).await? {
            return Ok(None);
        }
        let mut row_key = None;
        for (key, row) in rows {
            let settled = self.list(&key, row, testimony).await?;
            row_key = row_key.or(settled);
        }
        Ok(row_key)
    }

    /// Lists a record for a row that it fits, and decides. To be called under the account's lock.
    async fn list(
        &self,
        key: &Key,
        row: usize,
        testimony: Testimony<'_>,
    ) -> Result<Option<String>, SubmissionsError> {
        if let Some((request, created_at_ms)) = self.index.live_request(key) {
            // Its answer decides first.
            match self.heard(&request, row, created_at_ms, testimony) {
                Some(heard) if self.index.hear(key, &heard) => return Ok(None),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let Some(mut record) = self.load(key).await?.filter(Record::is_open) else {
            return Ok(None);
        };
        let submission = record.get();
        let created_at_ms = record::created_at_ms(submission);
        let Some(request) = submission.request.as_ref() else {
            return Ok(None);
        };
        let heard = self.heard(request, row, created_at_ms, testimony);
        let Some(Heard { evidence, fit }) = heard else {
            return Ok(None);
        };
        let is_listed =
            |it: &SubmissionEvidence| it.event_id == evidence.event_id && it.row == evidence.row;
        let is_named = record::ids(submission)
            .get(row)
            .is_some_and(|id| !id.is_empty());
        if is_named || submission.evidence.iter().any(is_listed) {
            return Ok(None);
        }
        if submission.evidence.len() < MAX_EVIDENCE {
            record.get_mut().evidence.push(evidence);
        }
        if record.fits.len() < MAX_EVIDENCE {
            record.fits.extend(fit);
        }
        let is_settled = self.decide(key, &mut record).await?;
        if !is_settled {
            self.rewrite(key, &record).await?;
        }
        let is_it = matches!(record.row(row), record::RowState::Accepted(id) if id == testimony.record.task_data_id);
        Ok(record.get().row_keys.get(row).filter(|_| is_it).cloned())
    }

    /// A record as evidence for a row, if it fits.
    fn heard(
        &self,
        request: &Request,
        row: usize,
        created_at_ms: u64,
        testimony: Testimony<'_>,
    ) -> Option<Heard> {
        let Testimony { record, event_id } = testimony;
        let how = evidence::fit(request, row, created_at_ms, record, self.numbers)?;
        let dialled_ms = u64::try_from(evidence::dialled_at(record)?).ok()?;
        let window = self.evidence_window;
        let can_settle = how == Match::Values
            && evidence::is_in_time(request, created_at_ms, record, millis(window));
        let row = u32::try_from(row).ok()?;
        Some(Heard {
            evidence: SubmissionEvidence {
                kind: SubmissionEvidenceKind::CallRecord.into(),
                found_at: Some(self.now().into()),
                event_id: event_id.to_owned(),
                call_uuid: record.call_uuid.clone(),
                task_data_id: record.task_data_id.clone(),
                row: i32::try_from(row).ok()?,
                ..SubmissionEvidence::default()
            },
            fit: can_settle.then(|| Fit {
                row,
                task_data_id: record.task_data_id.clone(),
                call_uuid: record.call_uuid.clone(),
                event_id: event_id.to_owned(),
                dialled_ms,
                task_id: record.task_id.clone(),
            }),
        })
    }

    /// Settles the rows of a record that can be settled now, and writes it; false: there are none.
    /// To be called under the account's lock.
    async fn decide(&self, key: &Key, record: &mut Record) -> Result<bool, SubmissionsError> {
        let mut is_settled = false;
        for fit in record.fits.clone() {
            let row = fit.row as usize;
            let is_open = match record.row(row) {
                record::RowState::Accepted(_) | record::RowState::Absent => false,
                record::RowState::Unknown(_) | record::RowState::Refused { .. } => true,
            };
            // Asked again each time: there may have been a crash since the record came.
            let is_certain = self.trust.is_certain(
                &key.account,
                &fit.task_id,
                fit.dialled_ms,
                self.evidence_window,
            );
            // Whoever answers claims its id before it leaves the index. So the twins come first.
            let has_twin = is_open && self.has_twin(key, record, row).await?;
            if !is_open || self.is_claimed(&key.account, &fit.task_data_id).await? {
                record.fits.retain(|it| *it != fit);
                continue;
            }
            if !is_certain {
                continue;
            }
            if has_twin {
                mark(record.get_mut(), &fit, |it| {
                    it.set_kind(SubmissionEvidenceKind::SeveralSubmissions);
                });
                continue;
            }
            name_row(record.get_mut(), row, &fit.task_data_id);
            mark(record.get_mut(), &fit, |it| {
                it.set_kind(SubmissionEvidenceKind::CallRecord);
                it.settled = true;
            });
            record.fits.retain(|it| *it != fit);
            is_settled = true;
        }
        if is_settled {
            self.accept(key, record).await?;
        }
        Ok(is_settled)
    }

    /// Writes a record that evidence has settled.
    pub(super) async fn accept(
        &self,
        key: &Key,
        record: &mut Record,
    ) -> Result<(), SubmissionsError> {
        let (account, was) = (&key.account, record.state());
        let submission = record.get_mut();
        submission.settled_at.get_or_insert(self.now().into());
        submission.unknown_because.clear();
        submission.timed_out = false;
        let request_id = submission.request_id.clone();
        let upload_id = submission.upload_id.clone();
        self.replace(key, record, Event::Evidence).await?;
        if was == SubmissionState::Refused {
            tracing::error!(
                account,
                request_id,
                upload_id,
                "the platform refused a submission, and a call record shows that it accepted it"
            );
        } else {
            tracing::info!(
                account,
                request_id,
                upload_id,
                "evidence settles a submission"
            );
        }
        self.metrics.resolved(was);
        Ok(())
    }

    /// Whether a call record of this row could be of another open row, too.
    async fn has_twin(&self, key: &Key, record: &Record, row: usize) -> Result<bool, ReadError> {
        let Some(request) = record.get().request.as_ref() else {
            return Ok(true);
        };
        let number = record.rows().get(row).and_then(|row| row.values.first());
        let texts = number.into_iter().map(String::as_str);
        for (other_key, other_row) in self.index.with_numbers(&key.account, texts) {
            if (&other_key, other_row) == (key, row) {
                continue;
            }
            if let Some((other, _)) = self.index.live_request(&other_key) {
                if evidence::are_twins((request, row), (&other, other_row), self.numbers) {
                    return Ok(true);
                }
                continue;
            }
            let Some(other) = self.load(&other_key).await? else {
                continue;
            };
            // A refused one is a twin only of a refused one: it is the less likely owner.
            let is_open = match other.row(other_row) {
                record::RowState::Accepted(_) | record::RowState::Absent => false,
                record::RowState::Unknown(_) => true,
                record::RowState::Refused { .. } => record.state() == SubmissionState::Refused,
            };
            let is_twin = |other: &Request| {
                evidence::are_twins((request, row), (other, other_row), self.numbers)
            };
            if is_open && other.get().request.as_ref().is_some_and(is_twin) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks again at what a submission and its neighbours could not decide: one that stood in the
    /// way has ended.
    pub async fn reconsider(&self, key: &Key, record: &Record) {
        let rows = record.rows().iter();
        let texts = rows.filter_map(|row| row.values.first().map(String::as_str));
        // Of the others there is nothing to decide. One in flight looks by itself when it ends.
        let keys = self.index.undecided(&key.account, texts);
        if keys.is_empty() {
            return;
        }
        let _lock = self.lock(&key.account).await;
        for key in keys {
            if let Err(error) = self.reconsider_one(&key).await {
                tracing::warn!(account = key.account, %error, "evidence was not looked at again");
            }
        }
    }

    async fn reconsider_one(&self, key: &Key) -> Result<(), SubmissionsError> {
        if self.index.is_live(key) {
            return Ok(());
        }
        let Some(mut record) = self.load(key).await?.filter(Record::is_open) else {
            return Ok(());
        };
        let before = record.clone();
        let is_settled = self.decide(key, &mut record).await?;
        if !is_settled && record != before {
            self.rewrite(key, &record).await?;
        }
        Ok(())
    }

    /// Whether the platform's id of a row belongs to a submission already.
    pub async fn is_claimed(&self, account: &str, id: &str) -> Result<bool, ReadError> {
        self.has_claim(account, &record::row(account, id)).await
    }

    /// Whether an id is claimed that has this key.
    pub async fn has_claim(&self, account: &str, key: &str) -> Result<bool, ReadError> {
        if self.index.is_claimed(account, key) {
            return Ok(true);
        }
        Ok(self.notes.get(key).await?.is_some())
    }
}

/// Changes what a submission lists of a fit.
fn mark(submission: &mut Submission, fit: &Fit, change: impl Fn(&mut SubmissionEvidence)) {
    for evidence in &mut submission.evidence {
        let is_it =
            evidence.event_id == fit.event_id && u32::try_from(evidence.row).ok() == Some(fit.row);
        if is_it {
            change(evidence);
        }
    }
}

/// Gives a row the platform's id of it. The rows that have none yet stay without.
pub(super) fn name_row(submission: &mut Submission, row: usize, id: &str) {
    let count = record::rows(submission.request.as_ref()).len();
    if let Some(Outcome::Error(error)) = submission.outcome.take_if(|it| is_error(it)) {
        submission.contradicted = Some(error);
    }
    if submission.outcome.is_none() {
        submission.outcome = Some(unnamed(submission, count));
    }
    let ids = match &mut submission.outcome {
        Some(Outcome::CallOutResponse(response)) => &mut response.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(response)) => &mut response.task_data_ids,
        Some(Outcome::CreateTaskResponse(_) | Outcome::Error(_)) | None => return,
    };
    if let Some(place) = ids.get_mut(row) {
        id.clone_into(place);
    }
}

fn is_error(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Error(_))
}

/// The outcome of an accepted request whose rows' ids are not known.
pub(super) fn unnamed(submission: &Submission, rows: usize) -> Outcome {
    accepted_rows(submission, vec![String::new(); rows])
}

/// The outcome of an accepted request whose rows have these ids.
pub(super) fn accepted_rows(submission: &Submission, task_data_ids: Vec<String>) -> Outcome {
    let total = i32::try_from(task_data_ids.len()).ok();
    let push_cursor = submission.push_cursor.clone();
    match &submission.request {
        Some(Request::InsertTaskData(_)) => {
            Outcome::InsertTaskDataResponse(InsertTaskDataResponse {
                total,
                task_data_ids,
                push_cursor,
            })
        }
        _ => Outcome::CallOutResponse(CallOutResponse {
            total,
            task_data_ids,
            push_cursor,
        }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
