//! A batch on its way: written down, sent, and where it is refused for a row's sake, taken apart
//! until the bad rows are alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::session::{Ready, Shared};
use super::split::{self, Refusal};
use super::{RowOutcome, RowResult, Stopped};
use crate::platform::{PlatformError, Proof};
use crate::proto::submission::{Outcome, Request};
use crate::proto::upload_header;
use crate::proto::{
    CallOutRequest, CallOutResponse, InsertTaskDataRequest, InsertTaskDataResponse, Row,
    Submission, SubmissionError, SubmissionOperation, SubmissionState, UploadHeader,
};
use crate::submissions::SubmissionsError;
use crate::submissions::ledger::unknown;
use crate::submissions::metrics::Came;
use crate::submissions::request::Submit;
use crate::submissions::stored::Key;

/// What was not sent is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);

/// Where the rows of an upload go: a request without rows.
pub(super) enum Target {
    Direct(CallOutRequest),
    Task(InsertTaskDataRequest),
}

/// What is known of rows that were sent together.
enum Sent {
    /// The platform's ids, in their order.
    Accepted(Vec<String>),
    /// For the sake of some of them: they go out again in halves.
    Split,
    Refused(Refusal),
    Unknown(String),
}

/// Rows on their way together.
pub(super) struct Batch {
    shared: Arc<Shared>,
    rows: Vec<Ready>,
    /// Given back when every row has been answered.
    _room: OwnedSemaphorePermit,
}

impl Target {
    pub fn new(header: UploadHeader) -> Self {
        match header.target {
            Some(upload_header::Target::Direct(direct)) => Self::Direct(CallOutRequest {
                robot_id: direct.robot_id,
                line_num: direct.line_num,
                voice_code: direct.voice_code,
                robot_speed: direct.robot_speed,
                call_column: header.call_column,
                ..CallOutRequest::default()
            }),
            Some(upload_header::Target::TaskId(task_id)) => Self::Task(InsertTaskDataRequest {
                task_id,
                call_column: header.call_column,
                ..InsertTaskDataRequest::default()
            }),
            // Refused before; the platform would refuse it, too.
            None => Self::Task(InsertTaskDataRequest::default()),
        }
    }

    /// The request that submits some rows.
    fn request(&self, rows: &[Ready]) -> Request {
        let rows = rows.iter().map(|ready| Row {
            values: ready.row.values.clone(),
        });
        let call_list = rows.collect();
        match self {
            Self::Direct(request) => Request::CallOut(CallOutRequest {
                call_list,
                ..request.clone()
            }),
            Self::Task(request) => Request::InsertTaskData(InsertTaskDataRequest {
                call_list,
                ..request.clone()
            }),
        }
    }
}

impl Batch {
    pub fn new(shared: Arc<Shared>, rows: Vec<Ready>, room: OwnedSemaphorePermit) -> Self {
        Self {
            shared,
            rows,
            _room: room,
        }
    }

    /// Sends the rows, in ever smaller parts where that is needed, and answers each.
    pub async fn run(mut self) {
        let mut ending = Ending {
            shared: self.shared.clone(),
            is_good: false,
        };
        let mut tally = Tally::default();
        let mut parts = vec![std::mem::take(&mut self.rows)];
        while let Some(mut part) = parts.pop() {
            if self.shared.is_stopped() {
                return self.shared.stop(self.shared.why_stopped());
            }
            let given_up = self.shared.verdict().given_up().cloned();
            let sent = match given_up {
                Some(refusal) => Sent::Refused(Refusal {
                    message: format!(
                        "not sent, as the batches before were refused: {}",
                        refusal.message
                    ),
                    code: refusal.code,
                }),
                None => match self.send(&part).await {
                    Ok(sent) => sent,
                    Err(why) => return self.shared.stop(why),
                },
            };
            if let Sent::Split = sent {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
                continue;
            }
            tally.count(&sent, &part);
            self.answer(part, sent).await;
        }
        tally.judge(&self.shared);
        ending.is_good = true;
        self.shared.tell_progress().await;
    }

    /// Sends some rows once; what is certain not to have been sent, again until patience ends.
    async fn send(&self, rows: &[Ready]) -> Result<Sent, Stopped> {
        let uploads = self.shared.uploads();
        let give_up = Instant::now() + uploads.options.patience;
        loop {
            let error = match self.send_once(rows).await? {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            let pause = error.retry_after().unwrap_or(PAUSE).max(PAUSE);
            let is_hopeless = matches!(
                error,
                PlatformError::UnknownAccount(_)
                    | PlatformError::CredentialsUnreadable(_)
                    | PlatformError::Refused { .. }
            );
            if is_hopeless || Instant::now() + pause >= give_up {
                return Err(Stopped::Platform(error));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.until_stopped() => return Err(self.shared.why_stopped()),
            }
        }
    }

    /// Writes rows down, sends them, writes down what came of it. The inner error: nothing was
    /// sent.
    async fn send_once(&self, rows: &[Ready]) -> Result<Result<Sent, PlatformError>, Stopped> {
        let shared = &self.shared;
        let uploads = shared.uploads();
        let ledger = &uploads.ledger;
        let request = shared.target.request(rows);
        let operation = match request {
            Request::CallOut(_) => CallOutRequest::OPERATION,
            _ => InsertTaskDataRequest::OPERATION,
        };
        let mut submission = Submission {
            upload_id: shared.upload_id.clone(),
            row_keys: rows.iter().map(|ready| ready.row.row_key.clone()).collect(),
            request: Some(request.clone()),
            ..ledger.draft(&shared.account, operation)
        };
        let key = Key::of_batch(&shared.account, shared.upload_name(), shared.next_batch());
        // Pushes of these rows wait until their ids are known.
        let _pushes_wait = uploads.row_keys.go_out(&shared.account);
        let written = ledger.write_down(&key, &submission).await;
        let _is_out = match written {
            Ok(is_out) => is_out,
            Err(error) => {
                // It may have been written down all the same, and was not sent.
                let ledger = ledger.clone();
                let release = async move { ledger.release(&key, &submission).await };
                uploads.tasks.spawn(release);
                return Err(error.into());
            }
        };
        let sent = match self.carry_out(request).await {
            Ok(ids) => of_ids(ids, rows.len()),
            Err(PlatformError::Refused {
                code,
                message,
                for_token: false,
                ..
            }) => {
                let refusal = Refusal::new(code, &message);
                if split::splits(&refusal, rows.len()) {
                    // Its parts will tell.
                    ledger.release(&key, &submission).await;
                    uploads.metrics.batch(&shared.account, Came::Refused);
                    return Ok(Ok(Sent::Split));
                }
                Sent::Refused(refusal)
            }
            Err(error) if error.proof() == Proof::NothingSent => {
                ledger.release(&key, &submission).await;
                return Ok(Err(error));
            }
            Err(error) => Sent::Unknown(error.to_string()),
        };
        uploads.metrics.batch(&shared.account, sent.came());
        sent.write_into(&mut submission, operation);
        ledger.settle_surely(&key, &submission).await;
        Ok(Ok(sent))
    }

    async fn carry_out(&self, request: Request) -> Result<Vec<String>, PlatformError> {
        let shared = &self.shared;
        let (platform, account) = (&shared.uploads().platform, &shared.account);
        match request {
            Request::CallOut(request) => {
                let reply = platform.carry_out(account, &request, None, || {}).await?;
                Ok(reply.task_data_ids)
            }
            Request::InsertTaskData(request) => {
                let reply = platform.carry_out(account, &request, None, || {}).await?;
                Ok(reply.task_data_ids)
            }
            Request::CreateTask(_) => Ok(Vec::new()),
        }
    }

    /// Answers each row.
    async fn answer(&self, rows: Vec<Ready>, sent: Sent) {
        let mut ids = match &sent {
            Sent::Accepted(ids) => ids.clone().into_iter(),
            Sent::Split | Sent::Refused(_) | Sent::Unknown(_) => Vec::new().into_iter(),
        };
        for ready in &rows {
            let outcome = match &sent {
                Sent::Accepted(_) => RowOutcome::Accepted(ids.next().unwrap_or_default()),
                Sent::Split => continue,
                Sent::Refused(refusal) => RowOutcome::Refused(refusal.clone()),
                Sent::Unknown(because) => RowOutcome::Unknown(because.clone()),
            };
            let result = RowResult {
                row_key: ready.row.row_key.clone(),
                outcome,
                warnings: ready.warnings.clone(),
                known_before: false,
            };
            self.shared.tell_row(result).await;
        }
        self.shared.are_back(rows);
    }
}

/// Ids that belong to so many rows; others tell that the rows were taken, but not which is which.
fn of_ids(ids: Vec<String>, rows: usize) -> Sent {
    if ids.len() == rows && !ids.iter().any(String::is_empty) {
        return Sent::Accepted(ids);
    }
    let count = ids.len();
    Sent::Unknown(format!(
        "the platform took a batch of {rows} rows and named {count} ids"
    ))
}

impl Sent {
    fn came(&self) -> Came {
        match self {
            Self::Accepted(_) => Came::Accepted,
            Self::Split | Self::Refused(_) => Came::Refused,
            Self::Unknown(_) => Came::Unknown,
        }
    }

    fn write_into(&self, submission: &mut Submission, operation: SubmissionOperation) {
        let push_cursor = submission.push_cursor.clone();
        match self {
            Self::Accepted(ids) => {
                let (total, task_data_ids) = (i32::try_from(ids.len()).ok(), ids.clone());
                submission.set_state(SubmissionState::Accepted);
                submission.outcome = Some(if operation == SubmissionOperation::CallOut {
                    Outcome::CallOutResponse(CallOutResponse {
                        total,
                        task_data_ids,
                        push_cursor,
                    })
                } else {
                    Outcome::InsertTaskDataResponse(InsertTaskDataResponse {
                        total,
                        task_data_ids,
                        push_cursor,
                    })
                });
            }
            Self::Refused(refusal) => {
                submission.set_state(SubmissionState::Refused);
                submission.outcome = Some(Outcome::Error(SubmissionError {
                    platform_code: refusal.code.as_str().to_owned(),
                    message: refusal.message.clone(),
                }));
            }
            Self::Split => {}
            Self::Unknown(because) => unknown(submission, because, false),
        }
    }
}

/// Sees to it that a stream does not end well where a batch has not.
struct Ending {
    shared: Arc<Shared>,
    is_good: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.is_good {
            // Unless another reason is known, it panicked.
            let why = SubmissionsError::Unavailable("a batch has failed".to_owned());
            self.shared.stop(Stopped::Submissions(why));
        }
    }
}

/// What became of the rows of one batch.
#[derive(Default)]
struct Tally {
    rows: usize,
    is_any_accepted: bool,
    is_any_unknown: bool,
    /// Parts that were refused although they had more than one row.
    refused_whole: Option<Refusal>,
    refused_alone: Option<Refusal>,
}

impl Tally {
    fn count(&mut self, sent: &Sent, part: &[Ready]) {
        self.rows += part.len();
        match sent {
            Sent::Accepted(_) => self.is_any_accepted = true,
            Sent::Split => {}
            Sent::Unknown(_) => self.is_any_unknown = true,
            Sent::Refused(refusal) => {
                let is_rows_fault = part.len() == 1 && split::may_be_a_rows_fault(&refusal.code);
                let of = if is_rows_fault {
                    &mut self.refused_alone
                } else {
                    &mut self.refused_whole
                };
                *of = Some(refusal.clone());
            }
        }
    }

    /// What the batch has shown about the whole upload.
    fn judge(self, shared: &Shared) {
        let mut verdict = shared.verdict();
        if self.is_any_accepted {
            verdict.accepted();
        } else if self.is_any_unknown {
            // Nobody knows.
        } else if let Some(refusal) = self.refused_whole {
            verdict.refused_as_a_whole(&refusal);
        } else if let Some(refusal) = self.refused_alone {
            verdict.refused_one_by_one(&refusal, self.rows);
        }
    }
}
