//! A batch under way: recorded, sent, and where it is refused for a row's sake, halved until the
//! bad rows are alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::halving;
use super::rows::{self, Ready};
use super::session::Shared;
use super::verdict::{self, Refusal};
use super::{RowOutcome, RowResult, Stopped};
use crate::platform::{Code, PlatformError, Proof};
use crate::proto::submission::{Outcome, Request};
use crate::proto::upload_header;
use crate::proto::{
    CallOutRequest, InsertTaskDataRequest, Row, Submission, SubmissionError, SubmissionOperation,
    SubmissionState, UploadHeader,
};
use crate::random;
use crate::submissions::SubmissionsError;
use crate::submissions::metrics::Outcome as Counted;
use crate::submissions::open::InFlight;
use crate::submissions::record::{Key, Record};
use crate::submissions::requests::unanswered;
use crate::submissions::state::Event;
use crate::submissions::weigh::{accepted_rows, unnamed};

/// What was not sent is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);
/// After this many batches in a row without a readable answer the rest is not sent.
const MAX_UNANSWERED: u32 = 3;
/// When to begin such an upload again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

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
    /// Given back when every row has a result.
    _room: OwnedSemaphorePermit,
}

/// Rows that are recorded and can be sent.
struct Recorded {
    flight: InFlight,
    record: Record,
    request: Request,
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

    fn operation(&self) -> SubmissionOperation {
        match self {
            Self::Direct(_) => SubmissionOperation::CallOut,
            Self::Task(_) => SubmissionOperation::InsertTaskData,
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
            let given_up = self.shared.verdict().given_up().map(not_sent);
            let sent = match given_up {
                Some(refusal) => Sent::Refused(refusal),
                None => match self.send(&part, &mut tally).await {
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
        tally.judge(&self.shared).await;
        ending.is_good = true;
        self.shared.report_progress().await;
    }

    /// Sends some rows once; what provably was not sent, or was refused for a while, again until
    /// patience ends.
    async fn send(&self, rows: &[Ready], tally: &mut Tally) -> Result<Sent, Stopped> {
        let patience = self.shared.uploads().options.patience;
        let mut since = None;
        loop {
            let error = match self.send_once(rows, tally).await? {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            let give_up = *since.get_or_insert_with(Instant::now) + patience;
            let pause = error.retry_after().unwrap_or(PAUSE).max(PAUSE);
            if is_hopeless(&error) || Instant::now() + pause >= give_up {
                return Err(Stopped::Platform(error));
            }
            // Batches that wait for the same do not come back together.
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause + random::jitter(PAUSE)) => {}
                () = self.shared.until_stopped() => return Err(self.shared.why_stopped()),
            }
        }
    }

    /// Records rows, sends them, and writes the outcome. The inner error: they can go out again.
    async fn send_once(
        &self,
        rows: &[Ready],
        tally: &mut Tally,
    ) -> Result<Result<Sent, PlatformError>, Stopped> {
        let shared = &self.shared;
        let uploads = shared.uploads();
        let ledger = &uploads.ledger;
        if let Err(held_back) = uploads.platform.admits(&shared.account) {
            return Ok(Err(held_back));
        }
        self.count_task_rows().await;
        let mut recorded = self.record(rows).await?;
        let Ok(permit) = shared.sending.clone().acquire_owned().await else {
            return Err(shared.why_stopped());
        };
        if shared.is_stopped() {
            // Recorded in advance, and not sent.
            let Recorded { flight, record, .. } = recorded;
            ledger.release(flight, &record).await;
            return Err(shared.why_stopped());
        }
        let result = self.carry_out(&recorded.request).await;
        let proof = result.as_ref().err().map(PlatformError::proof);
        let sent = match (result, proof) {
            (Err(error), Some(Proof::NothingSent)) => {
                drop(permit);
                let Recorded { flight, record, .. } = recorded;
                ledger.release(flight, &record).await;
                return Ok(Err(error));
            }
            (Err(PlatformError::Refused { code, message, .. }), Some(Proof::Refused)) => {
                let refusal = Refusal::new(code, &message);
                shared.unanswered.store(0, Ordering::Relaxed);
                drop(permit);
                match self.refused(rows, &mut recorded, refusal).await {
                    Ok(sent) => sent,
                    Err(refusal) => {
                        let Recorded { flight, record, .. } = recorded;
                        ledger.release(flight, &record).await;
                        uploads.metrics.batch(&shared.account, Counted::Refused);
                        if verdict::passes(&refusal.code) {
                            return Ok(Err(passing(refusal)));
                        }
                        return Ok(Ok(Sent::Split));
                    }
                }
            }
            (Err(error), _) => {
                let submission = recorded.record.get_mut();
                submission.timed_out = error.timed_out();
                self.unanswered(unanswered(&error))
            }
            (Ok(ids), _) => {
                shared.unanswered.store(0, Ordering::Relaxed);
                self.accepted(rows, &mut recorded, ids)
            }
        };
        uploads.metrics.batch(&shared.account, sent.counted());
        Ok(Ok(self.conclude(rows, recorded, sent, tally).await))
    }

    /// Before the first batch into a task, notes how many rows it has.
    async fn count_task_rows(&self) {
        if let Target::Task(request) = &self.shared.target {
            let platform = &self.shared.uploads().platform;
            let count = halving::rows_in(platform, &self.shared.account, &request.task_id);
            self.shared.rows_before.get_or_init(|| count).await;
        }
    }

    /// Records rows durably, with the batch that they go out with.
    async fn record(&self, rows: &[Ready]) -> Result<Recorded, Stopped> {
        let shared = &self.shared;
        let ledger = &shared.uploads().ledger;
        ledger.admit(&shared.account)?;
        let request = shared.target.request(rows);
        let mut record = Record::new(Submission {
            upload_id: shared.upload_id.clone(),
            row_keys: rows.iter().map(|ready| ready.row.row_key.clone()).collect(),
            request: Some(request.clone()),
            ..ledger.draft(&shared.account, &shared.client, shared.target.operation())
        });
        let batch = shared.next_batch();
        let key = Key::of_batch(&shared.account, shared.upload_name(), batch);
        let changes = rows::intent(
            &shared.uploads().ledger.hash_key,
            shared.upload_name(),
            batch,
            rows,
        );
        let flights = &ledger.index;
        let mut flight = flights.begin(&key, &record, Arc::new(request.clone()), true);
        ledger.intend(&key, &mut record, changes).await?;
        flight.recorded();
        Ok(Recorded {
            flight,
            record,
            request,
        })
    }

    async fn carry_out(&self, request: &Request) -> Result<Vec<String>, PlatformError> {
        let shared = &self.shared;
        let (platform, account) = (&shared.uploads().platform, &shared.account);
        match request {
            Request::CallOut(request) => {
                let reply = platform.carry_out(account, request, None, || {}).await?;
                Ok(reply.task_data_ids)
            }
            Request::InsertTaskData(request) => {
                let reply = platform.carry_out(account, request, None, || {}).await?;
                Ok(reply.task_data_ids)
            }
            Request::CreateTask(_) => Ok(Vec::new()),
        }
    }

    /// What a documented refusal means for the rows. An error: they can go out again, in halves or
    /// after a while.
    async fn refused(
        &self,
        rows: &[Ready],
        recorded: &mut Recorded,
        refusal: Refusal,
    ) -> Result<Sent, Refusal> {
        if verdict::passes(&refusal.code) {
            return Err(refusal);
        }
        if verdict::splits(&refusal.code, rows.len()) {
            if self.can_be_halved().await {
                return Err(refusal);
            }
            let because = format!(
                "the platform refused the batch ({}), and may have kept its good rows",
                refusal.code
            );
            self.shared.is_any_unknown.store(true, Ordering::Release);
            return Ok(Sent::Unknown(because));
        }
        recorded.record.get_mut().outcome = Some(Outcome::Error(SubmissionError {
            platform_code: refusal.code.as_str().to_owned(),
            message: refusal.message.clone(),
        }));
        Ok(Sent::Refused(refusal))
    }

    /// Whether a refused batch has provably left nothing at the platform.
    async fn can_be_halved(&self) -> bool {
        let shared = &self.shared;
        let Target::Task(request) = &shared.target else {
            // Documented for callout.
            return true;
        };
        let mut may_halve = shared.may_halve.lock().await;
        if *may_halve {
            // Nothing else of this upload is being sent meanwhile.
            let _alone = shared.sending.acquire_many(shared.max_sending).await;
            let platform = &shared.uploads().platform;
            let after = halving::rows_in(platform, &shared.account, &request.task_id).await;
            let before = shared.rows_before.get().copied().flatten();
            let is_known = !shared.is_any_unknown.load(Ordering::Acquire);
            let taken = is_known.then(|| shared.taken.load(Ordering::Acquire));
            *may_halve = halving::has_not_grown(before, taken, after);
            if !*may_halve {
                tracing::warn!(
                    account = shared.account,
                    upload_id = shared.upload_id,
                    "a refused insert may have kept its good rows; it is not halved"
                );
            }
        }
        *may_halve
    }

    fn unanswered(&self, because: String) -> Sent {
        let shared = &self.shared;
        shared.is_any_unknown.store(true, Ordering::Release);
        if shared.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_UNANSWERED {
            let detail = format!(
                "{MAX_UNANSWERED} batches in a row had no readable answer; the rest was not \
                 sent: {because}"
            );
            shared.stop(Stopped::Platform(PlatformError::Unreadable {
                detail,
                retry_after: RETRY_AFTER,
            }));
        }
        Sent::Unknown(because)
    }

    fn accepted(&self, rows: &[Ready], recorded: &mut Recorded, ids: Vec<String>) -> Sent {
        let taken = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        self.shared.taken.fetch_add(taken, Ordering::AcqRel);
        let submission = recorded.record.get_mut();
        if ids.len() == rows.len() && !ids.iter().any(String::is_empty) {
            submission.outcome = Some(accepted_rows(submission, ids.clone()));
            return Sent::Accepted(ids);
        }
        submission.outcome = Some(unnamed(submission, rows.len()));
        let (rows, ids) = (rows.len(), ids.len());
        Sent::Unknown(format!(
            "the platform took a batch of {rows} rows and named {ids} ids"
        ))
    }

    /// Writes the outcome of rows that were sent.
    async fn conclude(
        &self,
        rows: &[Ready],
        recorded: Recorded,
        sent: Sent,
        tally: &mut Tally,
    ) -> Sent {
        let Recorded {
            flight, mut record, ..
        } = recorded;
        let uploads = self.shared.uploads();
        let is_accepted = record.get().outcome.is_some();
        let event = match &sent {
            Sent::Refused(refusal) => {
                let is_alone = rows.len() == 1;
                let is_any_accepted = tally.is_any_accepted;
                record.is_rows_fault =
                    is_alone && verdict::is_rows_fault(&refusal.code, is_any_accepted);
                if is_alone && !record.is_rows_fault {
                    tally
                        .undecided
                        .push((flight.key().clone(), refusal.code.clone()));
                }
                Event::Refused
            }
            Sent::Unknown(because) if !is_accepted => {
                record.get_mut().unknown_because.clone_from(because);
                Event::Unanswered
            }
            Sent::Accepted(_) | Sent::Unknown(_) | Sent::Split => Event::Accepted,
        };
        let record = uploads.ledger.conclude(flight, record, event).await;
        if record.state() == SubmissionState::Unknown {
            return Sent::Unknown(record.get().unknown_because.clone());
        }
        sent
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
            self.shared.report_row(result).await;
        }
        self.shared.have_ended(rows);
    }
}

/// Whether waiting cannot help.
fn is_hopeless(error: &PlatformError) -> bool {
    match error {
        PlatformError::UnknownAccount(_)
        | PlatformError::AccountDisabled(_)
        | PlatformError::CredentialsUnreadable(_) => true,
        PlatformError::Refused { code, .. } => !verdict::passes(code),
        PlatformError::TokenRefused { .. }
        | PlatformError::Unreachable { .. }
        | PlatformError::Unreadable { .. }
        | PlatformError::OutcomeUnknown { .. }
        | PlatformError::DeadlineExceeded
        | PlatformError::Overloaded { .. }
        | PlatformError::HeldBack { .. } => false,
    }
}

/// A refusal that passes by itself, as the platform answered it.
fn passing(refusal: Refusal) -> PlatformError {
    PlatformError::Refused {
        code: refusal.code,
        message: refusal.message,
        occupation: None,
        for_token: false,
        proven: true,
    }
}

/// The refusal of rows that are not sent, as the batches before them were refused.
fn not_sent(refusal: &Refusal) -> Refusal {
    Refusal {
        message: format!(
            "not sent, as the batches before were refused: {}",
            refusal.message
        ),
        code: refusal.code.clone(),
    }
}

impl Sent {
    fn counted(&self) -> Counted {
        match self {
            Self::Accepted(_) => Counted::Accepted,
            Self::Split | Self::Refused(_) => Counted::Refused,
            Self::Unknown(_) => Counted::Unknown,
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
            // Unless another reason is known, its task has died.
            let why = SubmissionsError::Unavailable("a batch has failed".to_owned());
            self.shared.stop(Stopped::Submissions(why));
        }
    }
}

/// The outcomes of the rows of one batch.
#[derive(Default)]
struct Tally {
    rows: usize,
    is_any_accepted: bool,
    is_any_unknown: bool,
    /// Parts that were refused although they had more than one row.
    refused_whole: Option<Refusal>,
    refused_alone: Option<Refusal>,
    /// Rows refused alone before any other row was accepted.
    undecided: Vec<(Key, Code)>,
}

impl Tally {
    fn count(&mut self, sent: &Sent, part: &[Ready]) {
        self.rows += part.len();
        match sent {
            Sent::Accepted(_) => self.is_any_accepted = true,
            Sent::Split => {}
            Sent::Unknown(_) => self.is_any_unknown = true,
            Sent::Refused(refusal) => {
                let is_rows_fault = part.len() == 1 && verdict::may_be_a_rows_fault(&refusal.code);
                let of = if is_rows_fault {
                    &mut self.refused_alone
                } else {
                    &mut self.refused_whole
                };
                *of = Some(refusal.clone());
            }
        }
    }

    /// What the batch has shown about its rows and about the whole upload.
    async fn judge(self, shared: &Shared) {
        if self.is_any_accepted {
            for (key, code) in &self.undecided {
                if verdict::is_rows_fault(code, true) {
                    shared.uploads().ledger.blame_row(key).await;
                }
            }
        }
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
