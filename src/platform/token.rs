//! One token per account, kept fresh in the background.
//!
//! A task per account owns the token, so there is one request for a token at a
//! time by construction, and no caller's deadline cuts it short. Callers take
//! the present token, wait for the request that is under way, or get the last
//! failure while the next attempt is still some way off.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    answer::{self, Answer},
    code::Code,
    error::{PlatformError, masked},
    gate::Gate,
    metrics::PlatformMetrics,
    refusals::{Refusals, YOUNG},
    resend::backoff,
    transport::{PostError, Transport},
};
use crate::account::Account;

const PATH: &str = "/oauth/v1/token";

/// The life of a token that does not tell its own. Source: API document, 获取token.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// No life is taken for shorter than this, or every call would fetch a token.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// No life is taken for longer, whatever the platform says.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A token and the time for which it is good.
#[derive(Debug)]
pub(super) struct Token {
    /// The token itself.
    pub value: SecretString,
    generation: u64,
    issued: Instant,
    expires: Instant,
}

/// The account's tokens, as its callers see them.
pub(super) struct Tokens {
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    refusals: Mutex<Refusals>,
    /// The longest time that a caller waits for a token.
    patience: Duration,
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The highest generation that the platform has refused.
    refused: AtomicU64,
    /// Wakes the keeper: a token was refused, or a caller lacks one.
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Set from a failed attempt until the next one begins.
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    error: PlatformError,
    next_attempt: Instant,
}

impl Tokens {
    /// Starts to keep `account`'s token. Callers wait for one for `patience` at most.
    pub(super) fn keep(
        account: Arc<Account>,
        patience: Duration,
        transport: Arc<dyn Transport>,
        metrics: PlatformMetrics,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let state = watch::Sender::default();
        let keeper = Keeper {
            account,
            transport,
            metrics,
            shared: Arc::clone(&shared),
            state: state.clone(),
            generation: 0,
            refresh_at: Instant::now(),
            failed: 0,
            young_refusals: 0,
        };
        Self {
            shared,
            state,
            refusals: Mutex::default(),
            patience,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())),
        }
    }

    /// A token that is good as far as is known. Waits while one is being
    /// fetched, for a bounded time; fails with the last failure while none is.
    pub(super) async fn get(&self) -> Result<Arc<Token>, PlatformError> {
        if let Some(token) = self.shared.usable(&self.state.borrow()) {
            return Ok(token);
        }
        let waited = tokio::time::timeout(self.patience, self.wait()).await;
        waited.unwrap_or_else(|_| {
            let patience = humantime::format_duration(self.patience);
            Err(PlatformError::Unreachable {
                detail: format!("no token within {patience}"),
                retry_after: Duration::from_secs(1),
            })
        })
    }

    async fn wait(&self) -> Result<Arc<Token>, PlatformError> {
        let mut state = self.state.subscribe();
        loop {
            {
                let state = state.borrow_and_update();
                if let Some(token) = self.shared.usable(&state) {
                    return Ok(token);
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.now());
                }
            }
            self.shared.wake.notify_one();
            if state.changed().await.is_err() {
                return Err(PlatformError::Unreachable {
                    detail: "the gateway is shutting down".to_owned(),
                    retry_after: Duration::from_secs(1),
                });
            }
        }
    }

    /// Fails where [`get`](Self::get) would fail at once. Without side effects.
    pub(super) fn admits(&self) -> Result<(), PlatformError> {
        let state = self.state.borrow();
        match &state.failure {
            Some(failure) if self.shared.usable(&state).is_none() => Err(failure.now()),
            _ => Ok(()),
        }
    }

    /// Has the next attempt made at once instead of after its pause, where the
    /// last one failed: a call is about to try how the platform is, and the last
    /// failure is no answer to that.
    pub(super) fn retry_now(&self) {
        let had_failed = self
            .state
            .send_if_modified(|state| state.failure.take().is_some());
        if had_failed {
            self.shared.wake.notify_one();
        }
    }

    /// Reports that the platform took `token` for this operation.
    pub(super) fn served(&self, operation: &'static str, token: &Token) {
        let mut refusals = self.refusals();
        refusals.served(operation, token.generation, Instant::now());
    }

    /// Reports that the platform has refused `token` for this operation. A hundred reports of one
    /// token cause one refresh. Returns whether another token takes its place; false where the
    /// refusal is the operation's own.
    pub(super) fn refused(&self, operation: &'static str, token: &Token) -> bool {
        let now = Instant::now();
        let generation = token.generation;
        let is_to_be_replaced = (self.refusals()).refused(operation, generation, token.issued, now);
        if !is_to_be_replaced {
            return self.shared.refused.load(Ordering::Acquire) >= generation;
        }
        let before = self.shared.refused.fetch_max(generation, Ordering::AcqRel);
        if before < generation {
            self.shared.wake.notify_one();
        }
        true
    }

    /// No panic can happen while it is held.
    fn refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn usable(&self, state: &State) -> Option<Arc<Token>> {
        let token = state.token.as_ref()?;
        let good = token.generation > self.refused.load(Ordering::Acquire)
            && Instant::now() < token.expires;
        good.then(|| Arc::clone(token))
    }
}

impl Failure {
    /// The failure as it is to be told now.
    fn now(&self) -> PlatformError {
        let mut error = self.error.clone();
        if let PlatformError::Unreachable { retry_after, .. }
        | PlatformError::Unreadable { retry_after, .. } = &mut error
        {
            *retry_after = self.next_attempt.saturating_duration_since(Instant::now());
        }
        error
    }
}

/// Owns an account's token.
struct Keeper {
    account: Arc<Account>,
    transport: Arc<dyn Transport>,
    metrics: PlatformMetrics,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    generation: u64,
    /// When to replace a good token.
    refresh_at: Instant,
    /// Failed attempts in a row.
    failed: u32,
    /// Tokens in a row that were refused soon after they were issued.
    young_refusals: u32,
}

/// What the platform answered.
struct Issued {
    value: SecretString,
    at: Instant,
    life: Duration,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            self.wait_until_due().await;
            self.pause_after_refusals().await;
            self.state.send_modify(|state| state.failure = None);
            match self.fetch().await {
                Ok(issued) => self.issued(issued),
                Err(error) => self.failed(error),
            }
        }
    }

    async fn wait_until_due(&self) {
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.due()) => return,
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn due(&self) -> Instant {
        let state = self.state.borrow();
        if let Some(failure) = &state.failure {
            failure.next_attempt
        } else if self.shared.usable(&state).is_some() {
            self.refresh_at
        } else {
            Instant::now()
        }
    }

    /// Keeps a platform that refuses every token it issues from being asked for
    /// tokens as fast as it answers. Callers wait; one refusal costs nothing.
    async fn pause_after_refusals(&mut self) {
        let refused = self.shared.refused.load(Ordering::Acquire);
        let age = match &self.state.borrow().token {
            Some(token) if token.generation <= refused => token.issued.elapsed(),
            _ => return,
        };
        self.young_refusals = if age < YOUNG {
            self.young_refusals + 1
        } else {
            0
        };
        if let Some(extra) = self
            .young_refusals
            .checked_sub(2)
            .filter(|extra| *extra > 0)
        {
            let pause = backoff(extra, Duration::from_millis(50), Duration::from_secs(5));
            tokio::time::sleep(pause).await;
        }
    }

    fn issued(&mut self, issued: Issued) {
        self.generation += 1;
        self.failed = 0;
        self.refresh_at = issued.at + issued.life - margin(issued.life);
        let token = Arc::new(Token {
            value: issued.value,
            generation: self.generation,
            issued: issued.at,
            expires: issued.at + issued.life,
        });
        tracing::info!(
            account = self.account.name,
            generation = self.generation,
            life_s = issued.life.as_secs(),
            "token issued"
        );
        self.metrics.token_refresh(&self.account.name, "ok");
        let expiry = SystemTime::now() + issued.life - issued.at.elapsed().min(issued.life);
        if let Ok(since_1970) = expiry.duration_since(UNIX_EPOCH) {
            self.metrics
                .token_expiry(&self.account.name, since_1970.as_secs_f64());
        }
        self.state.send_modify(|state| state.token = Some(token));
    }

    fn failed(&mut self, error: PlatformError) {
        self.failed += 1;
        let pause = backoff(
            self.failed,
            Duration::from_millis(200),
            Duration::from_secs(30),
        );
        tracing::warn!(
            account = self.account.name,
            failed = self.failed,
            next_attempt_in = ?pause,
            error = masked(&error.to_string()),
            "no token issued"
        );
        self.metrics
            .token_refresh(&self.account.name, error.outcome());
        let failure = Failure {
            error,
            next_attempt: Instant::now() + pause,
        };
        self.state
            .send_modify(|state| state.failure = Some(failure));
    }

    async fn fetch(&self) -> Result<Issued, PlatformError> {
        let body = self.credentials()?;
        // Counted from before the request, so that the token is never thought
        // younger than the platform thinks it.
        let at = Instant::now();
        let gate = Arc::new(Gate::default());
        let answer = self
            .transport
            .post(PATH, None, body.into(), &gate)
            .await
            .map_err(no_answer)?;
        let text = answer::text(&answer.body);
        let mut answer = Answer::read(&text).ok_or_else(|| unreadable("no json with a code"))?;
        if answer.code != "0" {
            return Err(PlatformError::Refused {
                code: Code::parse(&answer.code),
                message: answer.message,
                occupation: None,
                for_token: true,
                proven: true,
            });
        }
        let value = answer.result.text("token");
        if value.is_empty() {
            return Err(unreadable("no token in the answer to a token request"));
        }
        Ok(Issued {
            value: value.into(),
            at,
            life: life(answer.result.double("time_expire")),
        })
    }

    fn credentials(&self) -> Result<Vec<u8>, PlatformError> {
        #[derive(Serialize)]
        struct Body<'a> {
            app_key: &'a str,
            app_secret: &'a str,
        }
        let unreadable = |error: crate::secret::SecretError| {
            PlatformError::CredentialsUnreadable(error.to_string())
        };
        let app_key = self.account.app_key.read().map_err(unreadable)?;
        let app_secret = self.account.app_secret.read().map_err(unreadable)?;
        let body = serde_json::to_vec(&Body {
            app_key: app_key.expose_secret(),
            app_secret: app_secret.expose_secret(),
        });
        Ok(body.expect("two texts always serialize"))
    }
}

/// Of the caller's operation nothing was sent in any of these cases.
fn no_answer(error: PostError) -> PlatformError {
    match error {
        PostError::NotSent(detail) => PlatformError::Unreachable {
            detail,
            retry_after: Duration::ZERO,
        },
        PostError::NoAnswer(detail) => unreadable(&detail),
        PostError::TimedOut => unreadable("no answer in time to a token request"),
    }
}

fn unreadable(detail: &str) -> PlatformError {
    PlatformError::Unreadable {
        detail: detail.to_owned(),
        retry_after: Duration::ZERO,
    }
}

/// A token's life from `time_expire` in seconds, which may be the remaining life
/// rather than the full hour, nothing, or nonsense.
fn life(time_expire: Option<f64>) -> Duration {
    time_expire.map_or(DEFAULT_LIFE, |seconds| {
        let seconds = seconds.clamp(SHORTEST_LIFE.as_secs_f64(), LONGEST_LIFE.as_secs_f64());
        Duration::from_secs_f64(seconds)
    })
}

/// How long before its expiry a token is replaced: a fifth of its life, five
/// minutes at most.
fn margin(life: Duration) -> Duration {
    (life / 5).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_a_fifth_of_its_life_before_its_end_and_at_most_five_minutes() {
        for (life, expected) in [(3600, 300), (1500, 300), (1000, 200), (60, 12), (5, 1)] {
            let margin = margin(Duration::from_secs(life));
            assert_eq!(margin, Duration::from_secs(expected), "{life}");
        }
    }

    #[test]
    fn a_life_is_honoured_however_small_and_bounded_where_it_is_nonsense() {
        for (time_expire, expected) in [
            (Some(3600.0), Duration::from_secs(3600)),
            (Some(7.0), Duration::from_secs(7)),
            (Some(1.5), Duration::from_millis(1500)),
            (Some(0.0), SHORTEST_LIFE),
            (Some(-1.0), SHORTEST_LIFE),
            (Some(1e18), LONGEST_LIFE),
            (None, DEFAULT_LIFE),
        ] {
            assert_eq!(life(time_expire), expected, "{time_expire:?}");
        }
    }
}
