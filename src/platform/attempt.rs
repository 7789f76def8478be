//! An operation from its token to its outcome.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    AccountClient,
    answer::{self, Answer},
    breaker::Pass,
    code::Code,
    error::PlatformError,
    gate::Gate,
    metrics::PlatformMetrics,
    operation::Operation,
    record::Record,
    resend::{self, Effect, Known, Next, Tries},
    transport::{HttpAnswer, PostError, Transport},
};
use crate::proto::{QueryTasksRequest, Task};

/// When to call again after a failure that tells nothing about it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is needed to do an operation, of its caller's or of a task's own.
pub(super) struct Attempt<O> {
    transport: Arc<dyn Transport>,
    client: Arc<AccountClient>,
    body: Bytes,
    named: Task,
    gate: Arc<Gate>,
    deadline: Option<Instant>,
    caller_left: Arc<AtomicBool>,
    /// Whether one failed try ends it.
    once: bool,
    operation: PhantomData<fn() -> O>,
}

/// How one try ended without what was asked for.
struct Failed {
    known: Known,
    detail: String,
    /// The platform's code, where it answered with one.
    code: Option<Code>,
}

impl<O: Operation> Attempt<O> {
    pub(super) fn new(
        operation: &O,
        transport: Arc<dyn Transport>,
        client: &Arc<AccountClient>,
        gate: Arc<Gate>,
        deadline: Option<Instant>,
        caller_left: Arc<AtomicBool>,
    ) -> Self {
        let body = serde_json::to_vec(&operation.body());
        Self {
            transport,
            client: Arc::clone(client),
            body: body.expect("texts and numbers always serialize").into(),
            named: operation.named(),
            gate,
            deadline,
            caller_left,
            once: false,
            operation: PhantomData,
        }
    }

    /// Does the operation, and counts and logs its outcome.
    pub(super) fn run(
        self,
        metrics: PlatformMetrics,
    ) -> impl Future<Output = Result<O::Reply, PlatformError>> + Send + 'static {
        let mut record = self.record(metrics.clone());
        async move {
            if let Err(error) = self.read_first(metrics.clone()).await {
                record.tell(Some(&error));
                return Err(error);
            }
            self.settle(record).await
        }
    }

    fn record(&self, metrics: PlatformMetrics) -> Record {
        let account = self.client.account.name.clone();
        let caller_left = Arc::clone(&self.caller_left);
        Record::begin::<O>(account, metrics, caller_left)
    }

    /// Has a read prove that the platform's answers can be read, where the last answers to
    /// changes could not and this is a change. Fails where the change may not go out.
    async fn read_first(&self, metrics: PlatformMetrics) -> Result<(), PlatformError> {
        if O::EFFECT == Effect::Reads {
            return Ok(());
        }
        let Some(probe) = self.client.changes.admit()? else {
            return Ok(());
        };
        self.client.tokens.retry_now();
        let question = QueryTasksRequest {
            page_index: Some(1),
            page_size: Some(1),
            ..QueryTasksRequest::default()
        };
        let mut attempt = Attempt::new(
            &question,
            Arc::clone(&self.transport),
            &self.client,
            Arc::new(Gate::default()),
            self.deadline,
            Arc::new(AtomicBool::new(false)),
        );
        attempt.once = true;
        let record = attempt.record(metrics);
        let outcome = Box::pin(attempt.settle(record)).await;
        probe.ended(outcome.as_ref().err())
    }

    /// Does the operation, unless the breaker holds it back, and tells its outcome
    /// to all who learn from it.
    async fn settle(&self, mut record: Record) -> Result<O::Reply, PlatformError> {
        let mut outcome = match self.client.breaker.pass() {
            Ok(mut pass) => {
                let outcome = self.try_until_settled(&mut pass).await;
                pass.tell(outcome.as_ref().err());
                outcome
            }
            Err(held_back) => Err(held_back),
        };
        let error = outcome.as_ref().err();
        record.tell(error);
        match O::EFFECT {
            Effect::Reads => self.client.changes.read_ended(error),
            Effect::Changes => self.client.changes.change_ended(error),
        }
        match &mut outcome {
            Ok(reply) => self.client.lines.learn(&self.named, O::seen(reply)),
            Err(PlatformError::Refused {
                code: Code::Busy, ..
            }) => self.client.pace.slow_down(),
            Err(PlatformError::Refused {
                code: Code::NumberOccupied,
                occupation,
                ..
            }) => *occupation = self.client.lines.occupation(&self.named).map(Box::new),
            Err(_) => {}
        }
        outcome
    }

    async fn try_until_settled(&self, pass: &mut Pass) -> Result<O::Reply, PlatformError> {
        let mut tries = Tries::default();
        if pass.is_probe() {
            self.client.tokens.retry_now();
        }
        loop {
            let failed = match self.try_once(pass).await? {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            if matches!(failed.known, Known::TokenRefused | Known::TokenKept) {
                tries.refused_tokens += 1;
            } else {
                tries.failed += 1;
            }
            if self.once || self.caller_left.load(Ordering::Acquire) {
                // The rest of the rule is for callers who wait; one who left is
                // owed the outcome of what was sent, and nothing more.
                return Err(failed.into_error(O::EFFECT));
            }
            match resend::next(O::EFFECT, failed.known, tries) {
                Next::WithAnotherToken => {}
                Next::AfterPause => {
                    let resume = Instant::now() + resend::pause(tries.failed);
                    if self.deadline.is_some_and(|deadline| resume >= deadline) {
                        return Err(failed.into_error(O::EFFECT));
                    }
                    tokio::time::sleep_until(resume).await;
                }
                Next::GiveUp => return Err(failed.into_error(O::EFFECT)),
            }
        }
    }

    /// One try. The outer error is what kept it from being one: no token, no room,
    /// or what others have found out of the platform. It is not tried again.
    async fn try_once(&self, pass: &mut Pass) -> Result<Result<O::Reply, Failed>, PlatformError> {
        let tokens = &self.client.tokens;
        // Nobody takes up room while there is no token to be had.
        tokens.get().await?;
        let _place = self.client.pace.place(self.deadline).await?;
        // Another one may have been issued while this waited.
        let token = tokens.get().await?;
        pass.still_good()?;
        if O::EFFECT == Effect::Changes {
            self.client.changes.still_closed()?;
        }
        if O::PLACES_CALLS {
            self.client.may_place_calls()?;
        }
        let posted = self
            .transport
            .post(O::PATH, Some(&token.value), self.body.clone(), &self.gate)
            .await;
        pass.note(match &posted {
            Err(PostError::NotSent(detail)) => Some(detail.as_str()),
            Err(PostError::NoAnswer(_) | PostError::TimedOut) | Ok(_) => None,
        });
        let answer = match posted {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut read = read_answer::<O>(&answer);
        match &mut read {
            Err(failed) if failed.code == Some(Code::InvalidToken) => {
                let is_replaced = tokens.refused(O::NAME, &token);
                if !is_replaced && failed.known == Known::TokenRefused {
                    failed.known = Known::TokenKept;
                }
            }
            Ok(_) => tokens.served(O::NAME, &token),
            Err(failed) if failed.known == Known::Answered => tokens.served(O::NAME, &token),
            Err(_) => {}
        }
        Ok(read)
    }
}

/// What an answer says of the try, and what it proves.
///
/// Of a change, only a documented code in an answer below HTTP 500 is the platform's own refusal.
/// Proxies answer with JSON and a `code`, too, after the platform has acted.
fn read_answer<O: Operation>(answer: &HttpAnswer) -> Result<O::Reply, Failed> {
    let text = answer::text(&answer.body);
    let Some(mut body) = Answer::read(&text) else {
        return Err(Failed {
            known: Known::NoReadableAnswer,
            detail: format!("no json with a code, HTTP status {}", answer.status),
            code: None,
        });
    };
    if body.code == "0" {
        return Ok(O::read(&mut body.result));
    }
    let code = Code::parse(&body.code);
    let is_documented = !matches!(code, Code::Other(_));
    let is_proof = O::EFFECT == Effect::Reads || is_documented && answer.status < 500;
    let known = match code {
        _ if !is_proof => Known::Unproven,
        Code::InvalidToken => Known::TokenRefused,
        _ => Known::Answered,
    };
    Err(Failed {
        known,
        detail: body.message,
        code: Some(code),
    })
}

impl From<PostError> for Failed {
    fn from(error: PostError) -> Self {
        let (known, detail) = match error {
            PostError::NotSent(detail) => (Known::NotSent, detail),
            PostError::NoAnswer(detail) => (Known::NoReadableAnswer, detail),
            PostError::TimedOut => (Known::TimedOut, "no answer in time".to_owned()),
        };
        Self {
            known,
            detail,
            code: None,
        }
    }
}

impl Failed {
    fn into_error(self, effect: Effect) -> PlatformError {
        let detail = self.detail;
        match (self.known, self.code, effect) {
            (Known::TokenRefused | Known::TokenKept, _, _) => {
                PlatformError::TokenRefused { message: detail }
            }
            (Known::Answered | Known::Unproven, code, _) => PlatformError::Refused {
                code: code.unwrap_or(Code::Other(String::new())),
                message: detail,
                occupation: None,
                for_token: false,
                proven: self.known == Known::Answered,
            },
            (Known::NotSent, _, _) => PlatformError::Unreachable {
                detail,
                retry_after: RETRY_AFTER,
            },
            (Known::NoReadableAnswer, _, Effect::Reads) => PlatformError::Unreadable {
                detail,
                retry_after: RETRY_AFTER,
            },
            (Known::TimedOut, _, Effect::Reads) => PlatformError::DeadlineExceeded,
            (Known::NoReadableAnswer, _, Effect::Changes) => PlatformError::OutcomeUnknown {
                detail,
                timed_out: false,
            },
            (Known::TimedOut, _, Effect::Changes) => PlatformError::OutcomeUnknown {
                detail,
                timed_out: true,
            },
        }
    }
}
