//! The client of yeta: operations, tokens, codes and the rule for sending again.
//!
//! It speaks in the messages of [`crate::proto`] and knows nothing of gRPC.

mod answer;
mod attempt;
mod breaker;
mod change_breaker;
mod code;
mod download;
mod error;
mod gate;
mod lines;
mod metrics;
mod operation;
mod pace;
mod record;
mod refusals;
mod resend;
mod submission;
mod token;
mod transport;
mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

pub(crate) use self::error::{masked, refusal_text};
use self::{
    attempt::Attempt,
    breaker::Breaker,
    change_breaker::ChangeBreaker,
    gate::Gate,
    lines::Lines,
    pace::Pace,
    submission::{Heirs, Submission},
    token::Tokens,
    transport::Transport,
    wire::Wire,
};
pub use self::{
    code::Code,
    download::{DownloadConfig, DownloadError, Downloads},
    error::{Outage, PlatformError, Proof},
    lines::Occupation,
    metrics::PlatformMetrics,
    operation::Operation,
    resend::Effect,
    wire::WireError,
};
use crate::account::Account;

/// What a simulated network needs to stand in for the platform.
#[cfg(test)]
pub(crate) mod simulation_seam {
    pub(crate) use super::{
        gate::Gate,
        transport::{HttpAnswer, PostError, Transport},
    };
}

/// Where the platform is and how long to wait for it.
#[derive(Clone, Debug)]
pub struct PlatformConfig {
    /// The platform's address: scheme, host, port, and a path if it has one.
    pub base_url: String,
    /// What stands between the address and the operations' own paths.
    pub path_prefix: String,
    /// How long one request may take, its connection included.
    pub request_timeout: Duration,
    /// How long a connection may take to come about, TLS included.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. A request on a connection that
    /// the platform closes at that moment has an unknown outcome, so this must
    /// be shorter than the platform keeps connections.
    pub pool_idle_timeout: Duration,
    /// How many requests an account may send in a second, those for a token
    /// aside; 0: no bound.
    pub max_requests_per_second: u32,
    /// How many requests of an account may be under way at once; 0: no bound.
    pub max_concurrent_requests: usize,
    /// After so many calls in a row that did not reach the platform, an
    /// account's calls are held back; 0: never, nor are its changes after
    /// unreadable answers.
    pub breaker_failures: u32,
    /// For how long they are held back at first.
    pub unreachable_wait: Duration,
    /// For how long an account's calls are held back at first after the platform
    /// has answered that it is under maintenance.
    pub maintenance_wait: Duration,
}

impl PlatformConfig {
    /// Whether a client can be made from this.
    pub fn check(&self) -> Result<(), WireError> {
        Wire::new(self).map(|_| ())
    }
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            base_url: "https://www.xfyeta.com".to_owned(),
            path_prefix: "/openapi".to_owned(),
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            pool_idle_timeout: Duration::from_secs(10),
            max_requests_per_second: 500,
            max_concurrent_requests: 128,
            breaker_failures: 5,
            unreachable_wait: Duration::from_secs(1),
            maintenance_wait: Duration::from_secs(2),
        }
    }
}

/// The platform, as the accounts of this gateway see it.
pub struct Platform {
    transport: Arc<dyn Transport>,
    accounts: HashMap<String, Arc<AccountClient>>,
    metrics: PlatformMetrics,
    heirs: Heirs,
}

struct AccountClient {
    account: Arc<Account>,
    /// Whether the account places calls.
    enabled: AtomicBool,
    tokens: Tokens,
    pace: Pace,
    breaker: Arc<Breaker>,
    changes: Arc<ChangeBreaker>,
    lines: Lines,
}

impl AccountClient {
    /// Fails where the account is switched off.
    fn may_place_calls(&self) -> Result<(), PlatformError> {
        if self.enabled.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(PlatformError::AccountDisabled(self.account.name.clone()))
    }
}

impl Platform {
    /// Readies the client and begins to keep a token for each account. Must be
    /// called within a tokio runtime.
    pub fn new(
        config: &PlatformConfig,
        accounts: impl IntoIterator<Item = Arc<Account>>,
        metrics: PlatformMetrics,
    ) -> Result<Self, WireError> {
        let wire = Arc::new(Wire::new(config)?);
        Ok(Self::with_transport(config, accounts, metrics, wire))
    }

    /// As [`new`](Self::new), over another transport than HTTP.
    pub(crate) fn with_transport(
        config: &PlatformConfig,
        accounts: impl IntoIterator<Item = Arc<Account>>,
        metrics: PlatformMetrics,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let accounts = accounts
            .into_iter()
            .map(|account| {
                let name = account.name.clone();
                let client = AccountClient {
                    tokens: Tokens::keep(
                        Arc::clone(&account),
                        config.request_timeout,
                        Arc::clone(&transport),
                        metrics.clone(),
                    ),
                    pace: Pace::new(&name, config, metrics.clone()),
                    breaker: Arc::new(Breaker::new(&name, config, metrics.clone())),
                    changes: Arc::new(ChangeBreaker::new(&name, config, metrics.clone())),
                    lines: Lines::default(),
                    enabled: AtomicBool::new(account.enabled),
                    account,
                };
                (name, Arc::new(client))
            })
            .collect();
        Self {
            transport,
            accounts,
            metrics,
            heirs: Heirs {
                runtime: Handle::current(),
                tasks: TaskTracker::new(),
            },
        }
    }

    /// Fails where a change of this account would be held back or would find no token at the
    /// moment. Sends nothing and changes nothing, so that a caller can ask before it writes a
    /// change to disk.
    pub fn admits(&self, account: &str) -> Result<(), PlatformError> {
        let client = self.client(account)?;
        client.may_place_calls()?;
        let probes = [client.changes.admits()?, client.breaker.admits()?];
        if probes.contains(&true) {
            // A probe starts a token request of its own.
            return Ok(());
        }
        client.tokens.admits()
    }

    /// Switches an account's calls on or off. What the platform has accepted before goes on there:
    /// pause its tasks.
    pub fn set_enabled(&self, account: &str, enabled: bool) {
        if let Some(client) = self.accounts.get(account) {
            client.enabled.store(enabled, Ordering::Release);
        }
    }

    fn client(&self, account: &str) -> Result<&Arc<AccountClient>, PlatformError> {
        let client = self.accounts.get(account);
        client.ok_or_else(|| PlatformError::UnknownAccount(account.to_owned()))
    }

    /// Does `operation` for the account named `account`, by `deadline` if there
    /// is one.
    ///
    /// When the returned future is dropped, or the deadline passes, a changing
    /// operation that has gone out is still followed to its outcome, which is
    /// logged; one that has not gone out never will.
    pub async fn call<O: Operation>(
        &self,
        account: &str,
        operation: &O,
        deadline: Option<Instant>,
    ) -> Result<O::Reply, PlatformError> {
        self.call_observed(account, operation, deadline, |_| {})
            .await
    }

    /// As [`call`](Self::call), and gives the outcome to `observe`, whether the caller still waits
    /// for it or not. An operation that was given up before it was sent has no outcome.
    pub(crate) async fn call_observed<O: Operation>(
        &self,
        account: &str,
        operation: &O,
        deadline: Option<Instant>,
        observe: impl FnOnce(Result<&O::Reply, &PlatformError>) + Send + 'static,
    ) -> Result<O::Reply, PlatformError> {
        let mut submission = self.submission(account, operation, deadline, observe)?;
        let Some(deadline) = deadline else {
            return submission.await;
        };
        match tokio::time::timeout_at(deadline, &mut submission).await {
            Ok(outcome) => outcome,
            Err(_) => Err(submission.out_of_time()),
        }
    }

    /// As [`call`](Self::call), but once the operation has gone out, waits for its outcome beyond
    /// the deadline: `send_by` only keeps it from going out any later. `out_at_deadline` is called
    /// when the deadline passes while the outcome of what has gone out is still to come.
    pub async fn carry_out<O: Operation>(
        &self,
        account: &str,
        operation: &O,
        send_by: Option<Instant>,
        out_at_deadline: impl FnOnce(),
    ) -> Result<O::Reply, PlatformError> {
        let mut submission = self.submission(account, operation, send_by, |_| {})?;
        if let Some(send_by) = send_by {
            match tokio::time::timeout_at(send_by, &mut submission).await {
                Ok(outcome) => return outcome,
                Err(_) if submission.send_no_more() => out_at_deadline(),
                Err(_) => return Err(PlatformError::DeadlineExceeded),
            }
        }
        submission.await
    }

    fn submission<O: Operation>(
        &self,
        account: &str,
        operation: &O,
        deadline: Option<Instant>,
        observe: impl FnOnce(Result<&O::Reply, &PlatformError>) + Send + 'static,
    ) -> Result<Submission<O::Reply>, PlatformError> {
        let client = self.client(account)?;
        if O::PLACES_CALLS {
            // Again just before it is sent.
            client.may_place_calls()?;
        }
        let gate = Arc::new(Gate::default());
        let caller_left = Arc::new(AtomicBool::new(false));
        let attempt = Attempt::<O>::new(
            operation,
            Arc::clone(&self.transport),
            client,
            Arc::clone(&gate),
            deadline,
            Arc::clone(&caller_left),
        );
        let attempt = attempt.run(self.metrics.clone());
        let run = async move {
            let outcome = attempt.await;
            observe(outcome.as_ref());
            outcome
        };
        let heirs = self.heirs.clone();
        Ok(Submission::new(run, O::EFFECT, gate, caller_left, heirs))
    }

    /// Every account, in no order.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().map(|client| &*client.account)
    }

    /// Waits until every operation whose caller has left has its outcome. To be
    /// awaited at shutdown, when no new calls come.
    pub async fn finish(&self) {
        self.heirs.tasks.close();
        self.heirs.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
