//! Requests with a request id: each goes out once, and everybody who asks gets its first outcome.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::SubmissionsError;
use super::ledger::{Ledger, unknown};
use super::metrics::{SubmissionsMetrics, Told};
use super::out::IsOut;
use super::request::Submit;
use super::resolver::Resolver;
use super::stored::Key;
use super::unsettled::Unsettled as _;
use crate::platform::{Code, Platform, PlatformError, Proof};
use crate::proto::submission::{Outcome, Request};
use crate::proto::{Submission, SubmissionError, SubmissionOperation, SubmissionState};

/// The way of requests that carry a request id.
pub(super) struct Requests {
    pub ledger: Arc<Ledger>,
    pub platform: Arc<Platform>,
    pub resolver: Arc<Resolver>,
    pub metrics: SubmissionsMetrics,
    /// Those under way in this process.
    pub live: Mutex<HashMap<Key, Live>>,
    /// They go on when their callers leave.
    pub tasks: TaskTracker,
}

/// A request under way.
pub(super) struct Live {
    request: Request,
    stage: watch::Receiver<Stage>,
}

/// How far a request under way has come.
#[derive(Clone)]
enum Stage {
    /// It may still go out, unless its first caller's deadline comes before.
    Pending,
    /// The first caller's deadline has come, and it is out.
    Out,
    /// It has ended.
    Done(Result<Box<Submission>, SubmissionsError>),
}

/// The outcome is answered although it could not be written down within this time; that goes on.
const WRITING: Duration = Duration::from_secs(1);

impl Requests {
    /// Does what is asked for, unless that has been done, or is being done, under the same id.
    pub async fn submit<S: Submit>(
        self: &Arc<Self>,
        account: &str,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<S::Reply, SubmissionsError> {
        let key = Key::of_request(account, request.request_id());
        let (stage, is_first) = self.take_up(&key, request, deadline)?;
        let mut submission = self.wait(&key, stage, deadline, is_first).await?;
        let request_id = request.request_id();
        request_id.clone_into(&mut submission.request_id);
        match submission.outcome {
            Some(Outcome::Error(error)) => Err(SubmissionsError::RefusedBefore {
                code: Code::parse(&error.platform_code),
                message: error.message,
                at: submission.settled_at,
            }),
            // What was read back has been held against the request: the reply is of its kind.
            Some(outcome) => S::reply(outcome).ok_or(SubmissionsError::Reused),
            None => Err(SubmissionsError::Unknown(submission)),
        }
    }

    /// Joins the request that is under way under this key, or sets it on its way.
    fn take_up<S: Submit>(
        self: &Arc<Self>,
        key: &Key,
        request: &S,
        deadline: Option<Instant>,
    ) -> Result<(watch::Receiver<Stage>, bool), SubmissionsError> {
        let written = request.written();
        let mut live = self.live();
        let place = match live.entry(key.clone()) {
            Entry::Occupied(live) if live.get().request == written => {
                self.metrics.told(S::OPERATION, Told::Joined);
                return Ok((live.get().stage.clone(), false));
            }
            Entry::Occupied(_) => return Err(SubmissionsError::Reused),
            Entry::Vacant(place) => place,
        };
        let (tell, stage) = watch::channel(Stage::Pending);
        place.insert(Live {
            request: written.clone(),
            stage: stage.clone(),
        });
        let lead = Lead {
            requests: self.clone(),
            key: key.clone(),
            request: request.clone(),
            written,
            tell,
            send_by: deadline,
        };
        self.tasks.spawn(lead.run());
        Ok((stage, true))
    }

    /// Waits for the end, and no longer than the caller's deadline.
    async fn wait(
        &self,
        key: &Key,
        mut stage: watch::Receiver<Stage>,
        deadline: Option<Instant>,
        is_first: bool,
    ) -> Result<Box<Submission>, SubmissionsError> {
        let done = {
            let ended = stage.wait_for(|stage| matches!(stage, Stage::Done(_)));
            match deadline {
                None => Some(ended.await.map(|stage| stage.clone())),
                Some(deadline) => timeout_at(deadline, ended)
                    .await
                    .ok()
                    .map(|ended| ended.map(|stage| stage.clone())),
            }
        };
        let done = match done {
            Some(done) => done,
            // It ends now, unless it is out.
            None if is_first => {
                let late = stage.wait_for(|stage| !matches!(stage, Stage::Pending));
                late.await.map(|stage| stage.clone())
            }
            None => Ok(Stage::Out),
        };
        match done {
            Ok(Stage::Done(ended)) => ended,
            // An error: it panicked, at a moment that nobody knows.
            Ok(Stage::Out | Stage::Pending) | Err(_) => Ok(self.still_out(key).await),
        }
    }

    /// What a caller is told whose deadline has come before the outcome.
    async fn still_out(&self, key: &Key) -> Box<Submission> {
        let found = self.ledger.load(key).await.ok().flatten();
        let mut submission = found.unwrap_or_default();
        if submission.outcome.is_none() {
            unknown(&mut submission, "no answer before the deadline", true);
        }
        Box::new(submission)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Key, Live>> {
        // Whole after a panic: each change is one step.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who does what a request asks for, on behalf of all who ask.
struct Lead<S> {
    requests: Arc<Requests>,
    key: Key,
    request: S,
    written: Request,
    tell: watch::Sender<Stage>,
    /// It does not go out any later.
    send_by: Option<Instant>,
}

/// Nobody joins a request any more that has ended, or panicked.
struct Leaving<'a> {
    requests: &'a Requests,
    key: &'a Key,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.requests.live().remove(self.key);
    }
}

/// How a request ended, and what is left to be written down of it.
struct Ended {
    result: Result<Box<Submission>, SubmissionsError>,
    told: Told,
    left: Left,
}

enum Left {
    Nothing,
    /// Its outcome.
    Settle {
        submission: Box<Submission>,
        _is_out: IsOut,
    },
    /// That it was not sent.
    Release(Box<Submission>),
}

impl Ended {
    fn failed(error: impl Into<SubmissionsError>, left: Left) -> Self {
        Self {
            result: Err(error.into()),
            told: Told::Failed,
            left,
        }
    }
}

impl<S: Submit> Lead<S> {
    async fn run(self) {
        let _leaving = Leaving {
            requests: &self.requests,
            key: &self.key,
        };
        let ended = self.carry_out().await;
        self.requests.metrics.told(S::OPERATION, ended.told);
        let done = Stage::Done(ended.result);
        let mut writing = std::pin::pin!(self.write(&ended.left));
        let is_written = timeout(WRITING, &mut writing).await.is_ok();
        // Nobody may be waiting any more.
        self.tell.send_replace(done);
        if !is_written {
            // Until then it counts as under way: nobody else may write under this key.
            writing.await;
        }
    }

    async fn write(&self, left: &Left) {
        let ledger = &self.requests.ledger;
        match left {
            Left::Nothing => {}
            Left::Settle { submission, .. } => ledger.settle_surely(&self.key, submission).await,
            Left::Release(submission) => ledger.release(&self.key, submission).await,
        }
    }

    async fn carry_out(&self) -> Ended {
        match self.known().await {
            Ok(Some(submission)) => Ended {
                result: Ok(Box::new(submission)),
                told: Told::Repeated,
                left: Left::Nothing,
            },
            Ok(None) => self.write_down_and_send().await,
            Err(error) => Ended::failed(error, Left::Nothing),
        }
    }

    /// What is known under this id from before.
    async fn known(&self) -> Result<Option<Submission>, SubmissionsError> {
        let load = self.requests.ledger.load(&self.key);
        let Some(mut known) = self.in_time(load).await?? else {
            return Ok(None);
        };
        if known.request.as_ref() != Some(&self.written) {
            return Err(SubmissionsError::Reused);
        }
        if known.state() == SubmissionState::Unknown
            && S::OPERATION == SubmissionOperation::CreateTask
        {
            let resolver = &self.requests.resolver;
            resolver.look_for_task(&self.key, self.send_by).await;
            let load = self.requests.ledger.load(&self.key);
            known = self.in_time(load).await??.unwrap_or(known);
        }
        Ok(Some(known))
    }

    async fn write_down_and_send(&self) -> Ended {
        let ledger = &self.requests.ledger;
        let mut submission = Box::new(ledger.draft(&self.key.account, S::OPERATION));
        let request_id = self.request.request_id();
        request_id.clone_into(&mut submission.request_id);
        submission.request = Some(self.written.clone());
        let write = ledger.write_down(&self.key, &submission);
        let is_out = match self.in_time(write).await.and_then(|written| written) {
            Ok(is_out) => is_out,
            // It may have been written down all the same, and was not sent.
            Err(error) => return Ended::failed(error, Left::Release(submission)),
        };
        match self.send().await {
            Ok(reply) => {
                submission.outcome = Some(S::outcome(reply, &submission.push_cursor));
                submission.set_state(SubmissionState::Accepted);
            }
            Err(
                error @ PlatformError::Refused {
                    for_token: false, ..
                },
            ) => {
                if let PlatformError::Refused { code, message, .. } = &error {
                    submission.outcome = Some(Outcome::Error(SubmissionError {
                        platform_code: code.as_str().to_owned(),
                        message: message.clone(),
                    }));
                }
                submission.set_state(SubmissionState::Refused);
                submission.settled_at = Some(ledger.now().into());
                return Ended {
                    result: Err(error.into()),
                    told: Told::Refused,
                    left: Left::Settle {
                        submission,
                        _is_out: is_out,
                    },
                };
            }
            Err(error) if error.proof() == Proof::NothingSent => {
                return Ended::failed(error, Left::Release(submission));
            }
            Err(error) => unknown(&mut submission, &error.to_string(), error.timed_out()),
        }
        if submission.state() != SubmissionState::Unknown {
            submission.settled_at = Some(ledger.now().into());
        }
        Ended {
            result: Ok(submission.clone()),
            told: Told::of(submission.state()),
            left: Left::Settle {
                submission,
                _is_out: is_out,
            },
        }
    }

    async fn send(&self) -> Result<S::Reply, PlatformError> {
        let platform = &self.requests.platform;
        let out_at_deadline = || {
            self.tell.send_replace(Stage::Out);
        };
        let account = &self.key.account;
        platform
            .carry_out(account, &self.request, self.send_by, out_at_deadline)
            .await
    }

    /// Waits for something that comes before the request goes out.
    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, SubmissionsError> {
        let Some(send_by) = self.send_by else {
            return Ok(step.await);
        };
        let done = timeout_at(send_by, step).await;
        done.map_err(|_| PlatformError::DeadlineExceeded.into())
    }
}
