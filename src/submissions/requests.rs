//! Requests with a request id: carried out once for all who ask under the same id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::ledger::Ledger;
use super::metrics::{Answered, SubmissionsMetrics};
use super::open::InFlight;
use super::record::{self, Key, Record};
use super::request::Submit;
use super::state::Event;
use super::tasks::TaskSearch;
use super::weigh::unnamed;
use super::{Caller, SubmissionsError};
use crate::platform::{Code, Platform, PlatformError, Proof};
use crate::proto::submission::{Outcome, Request};
use crate::proto::{Submission, SubmissionError, SubmissionOperation, SubmissionState};
use crate::store::NoteChange;

/// Everything that is needed to carry requests out.
pub(super) struct Requests {
    pub ledger: Arc<Ledger>,
    pub platform: Arc<Platform>,
    pub tasks: Arc<TaskSearch>,
    pub metrics: SubmissionsMetrics,
    /// The requests under way.
    pub flights: Mutex<HashMap<Key, Flight>>,
    /// They go on when their callers leave.
    pub running: TaskTracker,
}

/// A request under way, for those who join it.
pub(super) struct Flight {
    request: Request,
    progress: watch::Receiver<Progress>,
}

/// How far a request under way has come.
#[derive(Clone)]
enum Progress {
    /// It can still go out, unless its first caller's deadline comes before.
    Pending,
    /// The first caller's deadline has passed, and it has been sent.
    Sent,
    /// It has ended, and what is known is written.
    Done(Result<Box<Submission>, SubmissionsError>),
}

impl Requests {
    /// Carries a request out, unless that was done, or is being done, under the same id.
    pub async fn submit<S: Submit>(
        self: &Arc<Self>,
        caller: Caller<'_>,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<S::Reply, SubmissionsError> {
        let key = Key::of_request(caller.account, caller.client, request.request_id());
        loop {
            let (progress, is_first) = self.join_or_start(&key, caller, request, deadline)?;
            match self.wait(&key, progress, deadline, is_first).await {
                // Not sent, for want of the first caller's time: this one may have more.
                Err(SubmissionsError::Platform(error))
                    if !is_first && is_out_of_time(&error) && has_time(deadline) => {}
                ended => return reply::<S>(ended?, request.request_id()),
            }
        }
    }

    /// Joins the request that is under way under this key, or starts it.
    fn join_or_start<S: Submit>(
        self: &Arc<Self>,
        key: &Key,
        caller: Caller<'_>,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<(watch::Receiver<Progress>, bool), SubmissionsError> {
        let sent = request.written();
        let mut flights = self.flights();
        let place = match flights.entry(key.clone()) {
            Entry::Occupied(flight) if flight.get().request == sent => {
                self.metrics.answered(S::OPERATION, Answered::Joined);
                return Ok((flight.get().progress.clone(), false));
            }
            Entry::Occupied(_) => return Err(SubmissionsError::Reused),
            Entry::Vacant(place) => place,
        };
        let (report, progress) = watch::channel(Progress::Pending);
        place.insert(Flight {
            request: sent.clone(),
            progress: progress.clone(),
        });
        let execution = Execution {
            requests: self.clone(),
            key: key.clone(),
            client: caller.client.to_owned(),
            request: request.clone(),
            sent,
            report,
            send_by: deadline,
        };
        self.running.spawn(execution.run());
        Ok((progress, true))
    }

    /// Waits for the end, and no longer than the caller's deadline.
    async fn wait(
        &self,
        key: &Key,
        mut progress: watch::Receiver<Progress>,
        deadline: Option<Instant>,
        is_first: bool,
    ) -> Result<Box<Submission>, SubmissionsError> {
        let is_done = |progress: &Progress| matches!(progress, Progress::Done(_));
        let done = until(deadline, progress.wait_for(is_done)).await;
        let done = done.map(|done| done.map(|progress| progress.clone()));
        let done = match done {
            Some(done) => done,
            // It ends at once, unless it has been sent.
            None if is_first => {
                let is_decided = |progress: &Progress| !matches!(progress, Progress::Pending);
                let decided = progress.wait_for(is_decided).await;
                decided.map(|progress| progress.clone())
            }
            None => Ok(Progress::Sent),
        };
        match done {
            Ok(Progress::Done(ended)) => ended,
            // An error: its task has died.
            Ok(Progress::Sent | Progress::Pending) | Err(_) => Ok(self.still_unknown(key).await),
        }
    }

    /// The submission as a caller sees it whose deadline has passed before the outcome.
    async fn still_unknown(&self, key: &Key) -> Box<Submission> {
        let found = self.ledger.load(key).await.ok().flatten();
        let mut submission = found.unwrap_or_default().submission.unwrap_or_default();
        if submission.outcome.is_none() {
            unknown(&mut submission, "no answer before the deadline", true);
        }
        Box::new(submission)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reply to a request whose submission is this.
fn reply<S: Submit>(
    mut submission: Box<Submission>,
    request_id: &str,
) -> Result<S::Reply, SubmissionsError> {
    request_id.clone_into(&mut submission.request_id);
    match submission.outcome {
        Some(Outcome::Error(error)) => Err(SubmissionsError::RefusedBefore {
            code: Code::parse(&error.platform_code),
            message: error.message,
            at: submission.settled_at,
        }),
        // It was compared with the request: the reply is of its kind.
        Some(outcome) => S::reply(outcome).ok_or(SubmissionsError::Reused),
        None => Err(SubmissionsError::Unknown(submission)),
    }
}

/// Whether a request was not sent because its first caller had too little time.
fn is_out_of_time(error: &PlatformError) -> bool {
    matches!(
        error,
        PlatformError::DeadlineExceeded | PlatformError::Overloaded { .. }
    )
}

fn has_time(deadline: Option<Instant>) -> bool {
    deadline.is_none_or(|deadline| Instant::now() < deadline)
}

/// Makes a submission one whose outcome nobody knows.
pub(super) fn unknown(submission: &mut Submission, because: &str, timed_out: bool) {
    submission.set_state(SubmissionState::Unknown);
    because.clone_into(&mut submission.unknown_because);
    submission.timed_out = timed_out;
}

async fn until<T>(deadline: Option<Instant>, step: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(step.await),
        Some(deadline) => timeout_at(deadline, step).await.ok(),
    }
}

/// Carries one request out, on behalf of all who ask for it.
struct Execution<S> {
    requests: Arc<Requests>,
    key: Key,
    client: String,
    request: S,
    sent: Request,
    report: watch::Sender<Progress>,
    /// It does not go out any later.
    send_by: Option<Instant>,
}

/// Nobody joins a request any more that has ended, or whose task has died.
struct Leaving<'a> {
    requests: &'a Requests,
    key: &'a Key,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.requests.flights().remove(self.key);
    }
}

/// What is known under an id.
enum Known {
    Submission(Box<Submission>),
    /// Nothing was sent; perhaps a person has said so.
    NotSent(Option<Box<Record>>),
}

impl Known {
    fn of(record: Record) -> Self {
        Self::Submission(Box::new(record.submission.unwrap_or_default()))
    }
}

/// What an answer, or the lack of one, means for a submission.
pub(super) fn event_of<S: Submit>(
    result: Result<S::Reply, &PlatformError>,
    submission: &mut Submission,
) -> Event {
    match result {
        Ok(reply) => {
            let outcome = S::outcome(reply, &submission.push_cursor);
            accepted(submission, outcome)
        }
        Err(error) => match error.proof() {
            Proof::NothingSent => Event::NotSent,
            Proof::Refused => {
                if let PlatformError::Refused { code, message, .. } = error {
                    submission.outcome = Some(Outcome::Error(SubmissionError {
                        platform_code: code.as_str().to_owned(),
                        message: message.clone(),
                    }));
                }
                Event::Refused
            }
            Proof::Nothing => {
                submission.unknown_because = unanswered(error);
                submission.timed_out = error.timed_out();
                Event::Unanswered
            }
        },
    }
}

/// Why nobody knows, without saying again that it was sent.
pub(super) fn unanswered(error: &PlatformError) -> String {
    match error {
        PlatformError::OutcomeUnknown { detail, .. } => detail.clone(),
        other => other.to_string(),
    }
}

/// Why the outcome of a CreateTask with an incomplete answer is unknown.
pub(super) const NO_TASK: &str = "the platform accepted the request and named no task";

/// Takes an answer with code 0. The platform may leave ids out.
fn accepted(submission: &mut Submission, outcome: Outcome) -> Event {
    let rows = record::rows(submission.request.as_ref()).len();
    let named = |ids: &[String]| ids.len() == rows;
    let is_whole = match &outcome {
        Outcome::CreateTaskResponse(reply) if reply.task_id.is_empty() => {
            NO_TASK.clone_into(&mut submission.unknown_because);
            return Event::Unanswered;
        }
        Outcome::CreateTaskResponse(_) | Outcome::Error(_) => true,
        Outcome::CallOutResponse(reply) => named(&reply.task_data_ids),
        Outcome::InsertTaskDataResponse(reply) => named(&reply.task_data_ids),
    };
    submission.outcome = Some(if is_whole {
        outcome
    } else {
        // Which of the rows an id belongs to is not known.
        unnamed(submission, rows)
    });
    Event::Accepted
}

impl<S: Submit> Execution<S> {
    async fn run(self) {
        let _leaving = Leaving {
            requests: &self.requests,
            key: &self.key,
        };
        let (answered, ended) = match self.known().await {
            Ok(Known::Submission(submission)) => (Answered::Repeated, Ok(submission)),
            Ok(Known::NotSent(settled)) => self.record_and_send(settled).await,
            Err(error) => (Answered::Failed, Err(error)),
        };
        self.requests.metrics.answered(S::OPERATION, answered);
        // Nobody may be waiting any more.
        self.report.send_replace(Progress::Done(ended));
    }

    /// Without a record, nothing was sent; unless records were lost.
    fn without_record(&self) -> Result<Known, SubmissionsError> {
        if !self.requests.ledger.records_lost {
            return Ok(Known::NotSent(None));
        }
        let mut submission = Submission {
            account: self.key.account.clone(),
            request: Some(self.sent.clone()),
            ..Submission::default()
        };
        let because = "records of submissions were lost with files of the store";
        unknown(&mut submission, because, false);
        Err(SubmissionsError::Unknown(Box::new(submission)))
    }

    /// What is known under this id from before.
    async fn known(&self) -> Result<Known, SubmissionsError> {
        let ledger = &self.requests.ledger;
        let load = until(self.send_by, ledger.load(&self.key)).await;
        let Some(mut known) = load.ok_or(PlatformError::DeadlineExceeded)?? else {
            return self.without_record();
        };
        if known.state() == SubmissionState::Unspecified {
            return Ok(Known::NotSent(Some(Box::new(known))));
        }
        if known.is_unreadable() {
            return Ok(Known::of(known));
        }
        if known.get().request.as_ref() != Some(&self.sent) {
            return Err(SubmissionsError::Reused);
        }
        let is_create = S::OPERATION == SubmissionOperation::CreateTask;
        if is_create && known.state() == SubmissionState::Unknown {
            self.requests.tasks.look_for(&self.key, self.send_by).await;
            // From here on nothing but its own state is an answer.
            known = ledger.load(&self.key).await.ok().flatten().unwrap_or(known);
        }
        Ok(Known::of(known))
    }

    async fn record_and_send(
        &self,
        settled: Option<Box<Record>>,
    ) -> (Answered, Result<Box<Submission>, SubmissionsError>) {
        let (flight, mut record) = match self.record(settled).await {
            Ok(recorded) => recorded,
            Err(error) => return (Answered::Failed, Err(error)),
        };
        let ledger = &self.requests.ledger;
        let result = self.send().await;
        let event = event_of::<S>(result.as_ref().cloned(), record.get_mut());
        match (event, result) {
            (Event::NotSent, Err(error)) => {
                ledger.release(flight, &record).await;
                (Answered::Failed, Err(error.into()))
            }
            (Event::Refused, Err(error)) => {
                let record = ledger.conclude(flight, record, event).await;
                if record.state() == SubmissionState::Refused {
                    return (Answered::Refused, Err(error.into()));
                }
                (
                    Answered::Unknown,
                    Ok(Box::new(record.submission.unwrap_or_default())),
                )
            }
            (event, _) => {
                let record = ledger.conclude(flight, record, event).await;
                let answered = Answered::of(record.state());
                (
                    answered,
                    Ok(Box::new(record.submission.unwrap_or_default())),
                )
            }
        }
    }

    /// Records the request durably; from then on it counts as in flight.
    async fn record(
        &self,
        settled: Option<Box<Record>>,
    ) -> Result<(InFlight, Record), SubmissionsError> {
        let ledger = &self.requests.ledger;
        let account = &self.key.account;
        ledger.admit(account)?;
        self.requests.platform.admits(account)?;
        let mut submission = ledger.draft(account, &self.client, S::OPERATION);
        self.request
            .request_id()
            .clone_into(&mut submission.request_id);
        submission.request = Some(self.sent.clone());
        let mut also = Vec::new();
        if let Some(settled) = settled {
            // What a person has said stays with the id.
            let created_at_ms = record::created_at_ms(settled.get());
            let place = self.key.at(&record::settled(account), created_at_ms);
            also.push(NoteChange::forget(place));
            submission.settlements = settled.submission.unwrap_or_default().settlements;
        }
        let mut record = Record::new(submission);
        if let Request::CreateTask(request) = &self.sent {
            let tasks = &self.requests.tasks;
            let before = tasks.before(account, request, self.send_by).await;
            record.are_tasks_before_known = before.is_some();
            record.tasks_before = before.unwrap_or_default();
        }
        let request = Arc::new(self.sent.clone());
        let mut flight = {
            // A settled record is not being forgotten at this moment.
            let _lock = if also.is_empty() {
                None
            } else {
                ledger.lock(account).await
            };
            ledger.index.begin(&self.key, &record, request, true)
        };
        let intend = ledger.intend(&self.key, &mut record, also);
        let intended = until(self.send_by, intend).await;
        intended.ok_or(PlatformError::DeadlineExceeded)??;
        flight.recorded();
        Ok((flight, record))
    }

    async fn send(&self) -> Result<S::Reply, PlatformError> {
        let platform = &self.requests.platform;
        let sent_at_deadline = || {
            self.report.send_replace(Progress::Sent);
        };
        let account = &self.key.account;
        platform
            .carry_out(account, &self.request, self.send_by, sent_at_deadline)
            .await
    }
}

#[cfg(test)]
impl Requests {
    pub fn assert_idle(&self) {
        assert_eq!(self.flights().len(), 0, "requests are under way for ever");
    }
}
