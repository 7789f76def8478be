//! Follows the log for call records of rows whose submission was not answered.

use std::collections::{BTreeSet, HashSet};
use std::iter;
use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::evidence::{self, number_key};
use super::super::stored::Key;
use super::super::unsettled::Open;
use super::{Failure, PAUSE, Resolver, accept, is_unknown, now};
use crate::proto::push_event::Payload;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CallOutResponse, CallRecord, InsertTaskDataResponse, Submission, SubmissionEvidence,
    SubmissionEvidenceKind, SubmissionOperation, SubmissionState,
};
use crate::push::Position;
use crate::store::{Batch, Entry, ReadError, ReadLimit};

/// How much is read from the log at a time.
const BATCH: ReadLimit = ReadLimit {
    entries: 512,
    bytes: 1 << 20,
};

/// How far the log has been read.
struct Place {
    position: Position,
    /// The submissions that have been taken into account in it.
    known: HashSet<(Key, u64)>,
}

impl Resolver {
    /// Reads the log while there are rows to be found, until it is stopped or the store closes.
    pub(super) async fn follow_records(&self, stop: &CancellationToken) {
        let (mut changed, mut end) = (self.unsettled.changed(), self.log.end());
        let mut place: Option<Place> = None;
        let (mut is_at_end, mut has_failed) = (true, false);
        loop {
            // Seen before looking, so that what changes in between wakes the wait.
            end.borrow_and_update();
            // Only at the end of the log is it gone back for what was not known of: otherwise the
            // end might never be reached while there is always something new.
            if is_at_end {
                changed.borrow_and_update();
                place = self.place(place);
            }
            let read = match &mut place {
                Some(place) => self.read_on(place, stop).await,
                None => Ok(false),
            };
            is_at_end = matches!(read, Ok(false));
            match read {
                Ok(true) => has_failed = false,
                Ok(false) => tokio::select! {
                    // An error means that there is nothing left to wait for.
                    closed = changed.changed() => if closed.is_err() { return },
                    closed = end.changed(), if place.is_some() => if closed.is_err() { return },
                    () = stop.cancelled() => {}
                },
                Err(Failure::Closed) => return,
                Err(Failure::Later(error)) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(error, "submissions cannot be resolved; trying again");
                    }
                    stop.run_until_cancelled(sleep(PAUSE)).await;
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Where to read on: where reading had come to, or further back, where a submission was sent
    /// that had not been known of. `None`: there is nothing to look for.
    fn place(&self, place: Option<Place>) -> Option<Place> {
        let open = self.unsettled.open_ones();
        let open: Vec<_> = open.iter().filter(|it| has_rows(it)).collect();
        if open.is_empty() {
            return None;
        }
        let (mut position, known) =
            place.map_or_else(Default::default, |it| (Some(it.position), it.known));
        let mut still_known = HashSet::with_capacity(open.len());
        for it in open {
            let id = (it.key.clone(), it.created_at_ms);
            if !known.contains(&id) {
                let sent = self.sent_at(it);
                position = Some(position.map_or(sent, |position| position.min(sent)));
            }
            still_known.insert(id);
        }
        position.map(|position| Place {
            position,
            known: still_known,
        })
    }

    /// Where the log ended when a submission was sent. A cursor that does not say it (any more)
    /// means the log's beginning.
    fn sent_at(&self, open: &Open) -> Position {
        let sent = self.log.position(&open.push_cursor);
        sent.unwrap_or(Position::START).max(self.log.earliest())
    }

    /// Reads what follows; false at the end of the log.
    async fn read_on(&self, place: &mut Place, stop: &CancellationToken) -> Result<bool, Failure> {
        let Some(read) = stop
            .run_until_cancelled(self.log.read(place.position, BATCH))
            .await
        else {
            return Ok(true);
        };
        let batch: Batch = match read {
            Ok(batch) => batch,
            Err(ReadError::Expired { earliest }) => {
                pass_over(place, earliest, "retention removed it");
                return Ok(true);
            }
            Err(ReadError::Damaged { lost }) => {
                pass_over(place, Position(lost.end).before(), "it is damaged");
                return Ok(true);
            }
            Err(error @ (ReadError::Unavailable(_) | ReadError::Closed)) => {
                return Err(error.into());
            }
        };
        let has_more = !batch.entries.is_empty();
        for entry in batch.entries {
            if stop.is_cancelled() {
                break;
            }
            self.look_at(&entry, stop).await?;
            place.position = entry.cursor.position;
            // There may be much to look at; others must get their turn meanwhile.
            tokio::task::coop::consume_budget().await;
        }
        Ok(has_more)
    }

    /// Takes from an entry what it tells of a submission, if it does.
    async fn look_at(&self, entry: &Arc<Entry>, stop: &CancellationToken) -> Result<(), Failure> {
        let Some(event) = entry.decoded() else {
            return Ok(());
        };
        let Some(Payload::CallRecord(record)) = &event.payload else {
            return Ok(());
        };
        if !self.unsettled.has_open_rows(&event.account) {
            return Ok(());
        }
        let candidates = self.candidates(&event.account, record).await?;
        let told = |it: &Submission| {
            evidence::told_by(it).any(|told| told.task_data_id == record.task_data_id)
        };
        // Seen before, or called again: nothing new.
        if candidates.iter().any(|(_, it)| told(it)) {
            return Ok(());
        }
        let found = candidates.into_iter().find_map(|(key, it)| {
            let row = evidence::row_of(&it, record)?;
            Some((key, it, row))
        });
        let Some((key, mut submission, row)) = found else {
            return Ok(());
        };
        // It may be of a request whose answer is still to come.
        let back = self.unsettled.until_back(&event.account);
        if stop.run_until_cancelled(back).await.is_none() {
            return Ok(());
        }
        let id = &record.task_data_id;
        if self.unsettled.is_claimed(&event.account, id).await? {
            return Ok(());
        }
        let was_unknown = is_unknown(&submission);
        if tell(&mut submission, row, record) {
            submission.evidence.push(SubmissionEvidence {
                kind: SubmissionEvidenceKind::CallRecord.into(),
                found_at: Some(now()),
                event_id: entry.id.to_string(),
                call_uuid: record.call_uuid.clone(),
                task_data_id: record.task_data_id.clone(),
                row: i32::try_from(row).unwrap_or(i32::MAX),
                task_ids: Vec::new(),
                settled: true,
            });
            accept(&mut submission);
            self.write(&key, submission, was_unknown).await?;
        }
        Ok(())
    }

    /// The submissions that a record may be about, the oldest first.
    async fn candidates(
        &self,
        account: &str,
        record: &CallRecord,
    ) -> Result<Vec<(Key, Submission)>, Failure> {
        // The number need not stand first: the platform may have another order of columns.
        let texts = record.task_row_value.iter().chain([&record.callee]);
        let texts = texts.cloned().chain(number_key(&record.callee));
        let keys: BTreeSet<Key> = texts
            .flat_map(|text| self.unsettled.with_number(account, &text))
            .collect();
        let mut candidates = Vec::with_capacity(keys.len());
        for key in keys {
            let loaded = match self.unsettled.load(&key).await {
                // What cannot be read must not keep the others from being found.
                Err(ReadError::Expired { .. } | ReadError::Damaged { .. }) => None,
                loaded => loaded?,
            };
            candidates.extend(loaded.filter(is_open).map(|it| (key, it)));
        }
        candidates.sort_by_key(|(_, it)| it.created_at.map(|time| (time.seconds, time.nanos)));
        Ok(candidates)
    }
}

fn pass_over(place: &mut Place, to: Position, why: &str) {
    tracing::warn!(
        after = place.position.0,
        up_to = to.0,
        "a part of the log cannot tell of submissions that were not answered: {why}"
    );
    place.position = to;
}

fn has_rows(open: &Open) -> bool {
    match open.operation {
        SubmissionOperation::CallOut | SubmissionOperation::InsertTaskData => true,
        SubmissionOperation::CreateTask | SubmissionOperation::Unspecified => false,
    }
}

/// Whether something may still be found of a submission.
fn is_open(submission: &Submission) -> bool {
    match submission.state() {
        SubmissionState::Unknown | SubmissionState::Accepted => true,
        SubmissionState::InFlight | SubmissionState::Refused | SubmissionState::Unspecified => {
            false
        }
    }
}

/// Puts the platform's id of a row into a submission's outcome; false where it has one already.
fn tell(submission: &mut Submission, row: usize, record: &CallRecord) -> bool {
    let rows = match &submission.request {
        Some(Request::CallOut(request)) => request.call_list.len(),
        Some(Request::InsertTaskData(request)) => request.call_list.len(),
        Some(Request::CreateTask(_)) | None => return false,
    };
    let ids = || iter::repeat_n(String::new(), rows).collect();
    let (total, push_cursor) = (i32::try_from(rows).ok(), submission.push_cursor.clone());
    if submission.outcome.is_none() {
        submission.outcome = Some(match &submission.request {
            Some(Request::InsertTaskData(_)) => {
                Outcome::InsertTaskDataResponse(InsertTaskDataResponse {
                    total,
                    task_data_ids: ids(),
                    push_cursor,
                })
            }
            _ => Outcome::CallOutResponse(CallOutResponse {
                total,
                task_data_ids: ids(),
                push_cursor,
            }),
        });
    }
    let ids = match &mut submission.outcome {
        Some(Outcome::CallOutResponse(response)) => &mut response.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(response)) => &mut response.task_data_ids,
        Some(Outcome::CreateTaskResponse(_) | Outcome::Error(_)) | None => return false,
    };
    match ids.get_mut(row) {
        Some(id) if id.is_empty() => {
            id.clone_from(&record.task_data_id);
            true
        }
        _ => false,
    }
}
