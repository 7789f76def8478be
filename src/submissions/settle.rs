//! A person settles what evidence cannot: an unknown submission, or an unknown row of an upload.

use prost::Message;

use super::ledger::Ledger;
use super::record::{self, Key, Record, RowState, SentRow, SentRows};
use super::state::Event;
use super::weigh::name_row;
use super::{Submissions, SubmissionsError};
use crate::proto::settle_submission_request::{Outcome as Settled, Which};
use crate::proto::submission::{Outcome, Request};
use crate::proto::{
    CreateTaskResponse, SettleSubmissionRequest, SettledAccepted, Settlement, Submission,
    SubmissionState, UploadRowName,
};

/// What is to be settled: a submission, or one of its rows.
struct Target {
    key: Key,
    row: Option<usize>,
}

impl Submissions {
    /// Settles an unknown submission, or a row of an upload, on behalf of `person`.
    pub async fn settle(
        &self,
        account: &str,
        person: &str,
        request: &SettleSubmissionRequest,
    ) -> Result<Submission, SubmissionsError> {
        let ledger = &self.ledger;
        let lock = ledger.lock(account).await;
        let mut found = Vec::new();
        for client in self.clients_named(&request.client) {
            found.extend(
                self.targets(account, client, request.which.as_ref())
                    .await?,
            );
        }
        let target = match found.len() {
            0 => return Err(SubmissionsError::NotFound),
            1 => found.swap_remove(0),
            _ => return Err(SubmissionsError::Ambiguous),
        };
        let (key, row) = (target.key, target.row);
        let Some(mut record) = ledger.load(&key).await? else {
            return Err(SubmissionsError::NotFound);
        };
        if ledger.index.is_live(&key) || !is_unknown(&record, row) {
            return Err(SubmissionsError::NotUnknown);
        }
        let settled = request.outcome.as_ref();
        record.get_mut().settlements.push(Settlement {
            client: person.to_owned(),
            at: Some(ledger.now().into()),
            reason: request.reason.clone(),
            accepted: matches!(settled, Some(Settled::Accepted(_))),
            row: row.and_then(|row| i32::try_from(row).ok()),
        });
        match settled {
            Some(Settled::Accepted(accepted)) => {
                accept(ledger, &key, &mut record, row, accepted).await?;
            }
            Some(Settled::NotSent(_)) | None => {
                take_back(ledger, &key, &mut record, row).await?;
            }
        }
        drop(lock);
        ledger.reconsider(&key, &record).await;
        Ok(record.submission.unwrap_or_default())
    }

    /// The clients that a request can mean.
    pub(super) fn clients_named<'a>(&'a self, client: &'a str) -> Vec<&'a str> {
        if !client.is_empty() {
            return vec![client];
        }
        let known = self.options.clients.iter().map(String::as_str);
        known.chain([""]).collect()
    }

    async fn targets(
        &self,
        account: &str,
        client: &str,
        which: Option<&Which>,
    ) -> Result<Vec<Target>, SubmissionsError> {
        match which {
            Some(Which::RequestId(id)) => {
                let key = Key::of_request(account, client, id);
                let is_there = self.ledger.load(&key).await?.is_some();
                let target = Target { key, row: None };
                Ok(is_there.then_some(target).into_iter().collect())
            }
            Some(Which::UploadRow(name)) => self.rows(account, client, name).await,
            None => Ok(Vec::new()),
        }
    }

    /// The rows of an upload with a row key: the unknown ones, or if there are none, all.
    async fn rows(
        &self,
        account: &str,
        client: &str,
        name: &UploadRowName,
    ) -> Result<Vec<Target>, SubmissionsError> {
        let ledger = &self.ledger;
        let upload = record::upload_name(account, client, &name.upload_id);
        let place = record::upload_row(&ledger.hash_key, &upload, &name.row_key);
        let Some(bytes) = ledger.notes.get(&place).await? else {
            return Ok(Vec::new());
        };
        let sent = SentRows::decode(bytes.as_slice()).unwrap_or_default();
        let (mut unknown, mut others) = (Vec::new(), Vec::new());
        for SentRow { batch, row, .. } in &sent.rows {
            let key = Key::of_batch(account, &upload, *batch);
            let Some(record) = ledger.load(&key).await? else {
                continue;
            };
            let row = *row as usize;
            let target = Target {
                key,
                row: Some(row),
            };
            if is_unknown(&record, Some(row)) {
                unknown.push(target);
            } else {
                others.push(target);
            }
        }
        Ok(if unknown.is_empty() { others } else { unknown })
    }
}

fn is_unknown(record: &Record, row: Option<usize>) -> bool {
    match row {
        None => record.state() == SubmissionState::Unknown,
        Some(row) => matches!(record.row(row), RowState::Unknown(_)),
    }
}

/// Settles that the platform accepted it.
async fn accept(
    ledger: &Ledger,
    key: &Key,
    record: &mut Record,
    row: Option<usize>,
    accepted: &SettledAccepted,
) -> Result<(), SubmissionsError> {
    let ids = &accepted.task_data_ids;
    for (at, id) in ids.iter().enumerate() {
        if ids[..at].contains(id) || ledger.is_claimed(&key.account, id).await? {
            return Err(SubmissionsError::ClaimedId(id.clone()));
        }
    }
    let task = record::task(&key.account, &accepted.task_id);
    if !accepted.task_id.is_empty() && ledger.has_claim(&key.account, &task).await? {
        return Err(SubmissionsError::ClaimedId(accepted.task_id.clone()));
    }
    let rows = record.rows().len();
    let named: Vec<usize> = row.map_or_else(|| (0..rows).collect(), |row| vec![row]);
    let submission = record.get_mut();
    if let Some(Request::CreateTask(_)) = &submission.request {
        let task_id = accepted.task_id.clone();
        if task_id.is_empty() || !ids.is_empty() {
            return Err(SubmissionsError::WrongIds { wanted: 0 });
        }
        submission.outcome = Some(Outcome::CreateTaskResponse(CreateTaskResponse { task_id }));
    } else {
        let is_each_named = ids.len() == named.len() && !ids.iter().any(String::is_empty);
        if !is_each_named || !accepted.task_id.is_empty() {
            return Err(SubmissionsError::WrongIds {
                wanted: named.len(),
            });
        }
        for (row, id) in named.into_iter().zip(ids) {
            name_row(submission, row, id);
        }
    }
    submission.settled_at = Some(ledger.now().into());
    submission.unknown_because.clear();
    submission.timed_out = false;
    if record.state() == SubmissionState::Accepted {
        return ledger.rewrite(key, record).await;
    }
    ledger.replace(key, record, Event::SettledAccepted).await
}

/// Settles that it was not sent: it can go out again.
async fn take_back(
    ledger: &Ledger,
    key: &Key,
    record: &mut Record,
    row: Option<usize>,
) -> Result<(), SubmissionsError> {
    if let Some(row) = row {
        record.not_sent.extend(u32::try_from(row));
        let rows = record.rows().len();
        if (0..rows).any(|row| record.row(row) != RowState::Absent) {
            return ledger.rewrite(key, record).await;
        }
    }
    if key.is_batch() {
        return ledger.replace(key, record, Event::SettledNotSent).await;
    }
    ledger.settle_not_sent(key, record).await
}
