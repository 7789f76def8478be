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
    code::Code,
    error::{PlatformError, masked},
    gate::Gate,
    metrics::PlatformMetrics,
    operation::Operation,
    resend::{self, Effect, Known, Next, Tries},
    token::Tokens,
    wire::{PostError, Wire},
};

/// When to call again after a failure that tells nothing about it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is needed to do an operation, of its caller's or of a task's own.
pub(super) struct Attempt<O> {
    wire: Arc<Wire>,
    tokens: Arc<Tokens>,
    account: String,
    body: Bytes,
    gate: Arc<Gate>,
    deadline: Option<Instant>,
    caller_left: Arc<AtomicBool>,
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
        wire: Arc<Wire>,
        client: &AccountClient,
        gate: Arc<Gate>,
        deadline: Option<Instant>,
        caller_left: Arc<AtomicBool>,
    ) -> Self {
        let body = serde_json::to_vec(&operation.body());
        Self {
            wire,
            tokens: Arc::clone(&client.tokens),
            account: client.account.name.clone(),
            body: body.expect("texts and numbers always serialize").into(),
            gate,
            deadline,
            caller_left,
            operation: PhantomData,
        }
    }

    /// Does the operation, and counts and logs its outcome.
    pub(super) fn run(
        self,
        metrics: PlatformMetrics,
    ) -> impl Future<Output = Result<O::Reply, PlatformError>> + Send + 'static {
        let began = Instant::now();
        let mut record = Record {
            account: self.account.clone(),
            operation: O::NAME,
            effect: O::EFFECT,
            began,
            metrics,
            caller_left: Arc::clone(&self.caller_left),
            told: false,
        };
        async move {
            let outcome = self.try_until_settled().await;
            record.tell(outcome.as_ref().err());
            outcome
        }
    }

    async fn try_until_settled(&self) -> Result<O::Reply, PlatformError> {
        let mut tries = Tries::default();
        loop {
            let failed = match self.try_once().await? {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            if failed.known == Known::TokenRefused {
                tries.refused_tokens += 1;
            } else {
                tries.failed += 1;
            }
            if self.caller_left.load(Ordering::Acquire) {
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

    /// One try. The outer error is that of the token, which is not tried again.
    async fn try_once(&self) -> Result<Result<O::Reply, Failed>, PlatformError> {
        let token = self.tokens.get().await?;
        let posted = self
            .wire
            .post(O::PATH, Some(&token.value), self.body.clone(), &self.gate)
            .await;
        let answer = match posted {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error.into())),
        };
        let text = answer::text(&answer);
        let Some(mut answer) = Answer::read(&text) else {
            return Ok(Err(Failed {
                known: Known::NoReadableAnswer,
                detail: "no json with a code".to_owned(),
                code: None,
            }));
        };
        if answer.code == "0" {
            return Ok(Ok(O::read(&mut answer.result)));
        }
        let code = Code::parse(&answer.code);
        let known = if code == Code::InvalidToken {
            self.tokens.refused(&token);
            Known::TokenRefused
        } else {
            Known::Answered
        };
        Ok(Err(Failed {
            known,
            detail: answer.message,
            code: Some(code),
        }))
    }
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
            (Known::TokenRefused, _, _) => PlatformError::TokenRefused { message: detail },
            (Known::Answered, code, _) => PlatformError::Refused {
                code: code.unwrap_or(Code::Other(String::new())),
                message: detail,
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

/// Tells an operation's outcome to the log and the metrics, once. One that is
/// dropped before its outcome was given up with nothing changed.
struct Record {
    account: String,
    operation: &'static str,
    effect: Effect,
    began: Instant,
    metrics: PlatformMetrics,
    caller_left: Arc<AtomicBool>,
    told: bool,
}

impl Record {
    fn tell(&mut self, error: Option<&PlatformError>) {
        self.told = true;
        let took = self.began.elapsed();
        let outcome = error.map_or("ok", PlatformError::outcome);
        self.metrics
            .request(&self.account, self.operation, outcome, took);
        let (account, operation) = (self.account.as_str(), self.operation);
        let caller_left = self.caller_left.load(Ordering::Acquire);
        match (error, self.effect) {
            (Some(error), _) => {
                let error = masked(&error.to_string());
                tracing::warn!(
                    account,
                    operation,
                    outcome,
                    caller_left,
                    ?took,
                    error,
                    "platform call failed"
                );
            }
            (None, Effect::Changes) => {
                tracing::info!(account, operation, caller_left, ?took, "platform call done");
            }
            (None, Effect::Reads) => {
                tracing::debug!(account, operation, ?took, "platform call done");
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let took = self.began.elapsed();
        self.metrics
            .request(&self.account, self.operation, "abandoned", took);
        let (account, operation) = (self.account.as_str(), self.operation);
        tracing::info!(
            account,
            operation,
            ?took,
            "platform call abandoned, nothing changed"
        );
    }
}
