//! What is told of an operation to the log and the metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use super::{
    error::{PlatformError, masked},
    metrics::PlatformMetrics,
    operation::Operation,
    resend::Effect,
};

/// Tells an operation's outcome to the log and the metrics, once. One that is
/// dropped before its outcome was given up with nothing changed.
pub(super) struct Record {
    account: String,
    operation: &'static str,
    effect: Effect,
    began: Instant,
    metrics: PlatformMetrics,
    caller_left: Arc<AtomicBool>,
    told: bool,
}

impl Record {
    /// An operation that begins now. `caller_left` is told with its outcome.
    pub(super) fn begin<O: Operation>(
        account: String,
        metrics: PlatformMetrics,
        caller_left: Arc<AtomicBool>,
    ) -> Self {
        Self {
            account,
            operation: O::NAME,
            effect: O::EFFECT,
            began: Instant::now(),
            metrics,
            caller_left,
            told: false,
        }
    }

    /// Tells how it has ended.
    pub(super) fn tell(&mut self, error: Option<&PlatformError>) {
        self.told = true;
        let took = self.began.elapsed();
        let outcome = error.map_or("ok", PlatformError::outcome);
        self.metrics
            .request(&self.account, self.operation, outcome, took);
        let (account, operation) = (self.account.as_str(), self.operation);
        let caller_left = self.caller_left.load(Ordering::Acquire);
        match (error, self.effect) {
            // What holds them back has been logged, once.
            (Some(PlatformError::HeldBack { .. }), _) => {
                tracing::debug!(account, operation, "platform call held back");
            }
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
