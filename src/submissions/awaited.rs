//! Rows that were accepted, and of which no call record was seen yet.
//!
//! | key | value |
//! |---|---|
//! | `awaited/ACCOUNT/TIME/NAME` | the [`Awaited`] rows of one request that was accepted |
//! | `overdue/ACCOUNT/TIME/NAME` | the same, once their record should have come |
//!
//! They are written here, with what came of the request, and looked after by `reconciliation`.

use prost::Message;

use super::record::{Key, created_at_ms, ids};
use crate::proto::submission::Request;
use crate::proto::{Submission, SubmissionState};
use crate::store::NoteChange;

/// Rows that were accepted together.
#[derive(Clone, PartialEq, Message)]
pub struct Awaited {
    /// When they were submitted, in milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub submitted_at_ms: u64,
    /// The task that they were put into; empty for direct calls.
    #[prost(string, tag = "2")]
    pub task_id: String,
    /// The request id; empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
    /// The upload; empty: none.
    #[prost(string, tag = "4")]
    pub upload_id: String,
    /// The rows of which no record was seen.
    #[prost(message, repeated, tag = "5")]
    pub rows: Vec<AwaitedRow>,
    /// Whether the rows are among what was counted as sent.
    #[prost(bool, tag = "6")]
    pub is_counted: bool,
    /// Of overdue ones: since when, in milliseconds since 1970.
    #[prost(uint64, tag = "7")]
    pub overdue_since_ms: u64,
    /// Of overdue ones: the `OverdueReason`.
    #[prost(int32, tag = "8")]
    pub reason: i32,
}

/// One of them.
#[derive(Clone, PartialEq, Message)]
pub struct AwaitedRow {
    /// The platform's id.
    #[prost(string, tag = "1")]
    pub task_data_id: String,
    /// The caller's own id; empty: none.
    #[prost(string, tag = "2")]
    pub row_key: String,
}

/// What the keys of an account's awaited rows begin with; the oldest come first.
pub fn awaited(account: &str) -> String {
    format!("awaited/{account}/")
}

/// The same for those that are overdue.
pub fn overdue(account: &str) -> String {
    format!("overdue/{account}/")
}

/// Takes note of the rows of a request that was answered. Those that a record has shown to be
/// accepted are not awaited any more.
pub(super) fn change(key: &Key, submission: &Submission) -> Option<NoteChange> {
    let is_answered = submission.state() == SubmissionState::Accepted;
    if !is_answered || !submission.evidence.is_empty() {
        return None;
    }
    let mut row_keys = submission.row_keys.iter();
    let rows = ids(submission).iter().map(|id| AwaitedRow {
        task_data_id: id.clone(),
        row_key: row_keys.next().cloned().unwrap_or_default(),
    });
    let rows: Vec<_> = rows.filter(|row| !row.task_data_id.is_empty()).collect();
    if rows.is_empty() {
        return None;
    }
    let note = Awaited {
        submitted_at_ms: created_at_ms(submission),
        task_id: task_id(submission).to_owned(),
        request_id: submission.request_id.clone(),
        upload_id: submission.upload_id.clone(),
        rows,
        ..Awaited::default()
    };
    Some(put(key, &note))
}

/// Keeps such rows.
pub(super) fn put(key: &Key, note: &Awaited) -> NoteChange {
    let place = key.at(&awaited(&key.account), note.submitted_at_ms);
    NoteChange::put(place, note.encode_to_vec())
}

/// The task that a submission's rows were put into; empty for direct calls.
pub(super) fn task_id(submission: &Submission) -> &str {
    match &submission.request {
        Some(Request::InsertTaskData(request)) => &request.task_id,
        Some(Request::CallOut(_) | Request::CreateTask(_)) | None => "",
    }
}
