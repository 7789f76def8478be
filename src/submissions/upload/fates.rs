//! What is kept of the rows of a submission once something is known of them.

use prost::Message;

use super::split;
use crate::platform::Code;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{Row, Submission, SubmissionState, UploadRow};
use crate::store::NoteChange;
use crate::submissions::check::Numbers;
use crate::submissions::stored::{self, Fate, KnownFate, KnownRefusal, KnownRow, Taken};

/// The changes that keep what a submission tells of its rows, or of the task that it made.
pub fn changes(submission: &Submission, numbers: Numbers) -> Vec<NoteChange> {
    let mut changes = claims(submission);
    if submission.upload_id.is_empty() {
        return changes;
    }
    let upload = stored::upload_name(&submission.account, &submission.upload_id);
    for (row, fate) in upload_rows(submission).zip(fates(submission)) {
        changes.extend(of_row(&upload, &row, fate, numbers));
    }
    changes
}

/// Whose the platform's ids are.
pub fn claims(submission: &Submission) -> Vec<NoteChange> {
    let account = &submission.account;
    if let Some(Outcome::CreateTaskResponse(reply)) = &submission.outcome {
        return vec![NoteChange::put(
            stored::task(account, &reply.task_id),
            Vec::new(),
        )];
    }
    let mut row_keys = submission.row_keys.iter();
    let rows = stored::ids(submission)
        .iter()
        .map(|id| (id, row_keys.next()));
    let known = rows.filter(|(id, _)| !id.is_empty());
    known
        .map(|(id, row_key)| {
            let row_key = row_key.cloned().unwrap_or_default();
            NoteChange::put(
                stored::row(account, id),
                KnownRow { row_key }.encode_to_vec(),
            )
        })
        .collect()
}

/// The rows of a batch, with their own ids.
pub fn upload_rows(submission: &Submission) -> impl Iterator<Item = UploadRow> {
    let rows: &[Row] = match &submission.request {
        Some(Request::CallOut(request)) => &request.call_list,
        Some(Request::InsertTaskData(request)) => &request.call_list,
        Some(Request::CreateTask(_)) | None => &[],
    };
    let pairs = submission.row_keys.iter().zip(rows);
    pairs.map(|(row_key, row)| UploadRow {
        row_key: row_key.clone(),
        values: row.values.clone(),
    })
}

/// What became of each row of a batch.
fn fates(submission: &Submission) -> Vec<Fate> {
    let rows = submission.row_keys.len();
    match (submission.state(), &submission.outcome) {
        (SubmissionState::Accepted, _) => stored::ids(submission)
            .iter()
            .map(|id| match id.as_str() {
                "" => Fate::Unknown("the batch was taken; the row's id is not known yet".into()),
                id => Fate::Accepted(id.to_owned()),
            })
            .collect(),
        (SubmissionState::Refused, Some(Outcome::Error(error))) => {
            let refusal = KnownRefusal {
                code: error.platform_code.clone(),
                message: error.message.clone(),
                is_rows_fault: split::is_a_rows_fault(&Code::parse(&error.platform_code), rows),
            };
            vec![Fate::Refused(refusal); rows]
        }
        _ => vec![Fate::Unknown(submission.unknown_because.clone()); rows],
    }
}

fn of_row(upload: &str, row: &UploadRow, fate: Fate, numbers: Numbers) -> Vec<NoteChange> {
    let taken = Taken {
        row_key: row.row_key.clone(),
        digest: stored::digest(&row.values).to_vec(),
    };
    // A refused row leaves its number and its key to others.
    let is_taken = !matches!(fate, Fate::Refused(_));
    let known = KnownFate {
        fate: Some(fate),
        row_key: row.row_key.clone(),
    };
    let key = stored::upload_row(upload, row);
    let mut changes = vec![NoteChange::put(key, known.encode_to_vec())];
    if is_taken {
        let taken = taken.encode_to_vec();
        let key = stored::upload_key(upload, &row.row_key);
        changes.push(NoteChange::put(key, taken.clone()));
        let number = row.values.first().map(String::as_str).unwrap_or_default();
        if let Ok(number) = numbers.read(number) {
            let key = stored::upload_number(upload, &number);
            changes.push(NoteChange::put(key, taken));
        }
    }
    changes
}
