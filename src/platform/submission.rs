//! An operation under way, which outlives a caller that leaves.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::{error::PlatformError, gate::Gate, resend::Effect};

type Outcome<R> = Result<R, PlatformError>;

/// An operation under way.
///
/// Dropped after a changing request has gone out and before its answer came, it
/// hands the rest of itself to a task, so that the outcome is read and logged.
/// Dropped earlier, it ends, and the request will not go out.
pub(super) struct Submission<R: Send + 'static> {
    rest: Option<Pin<Box<dyn Future<Output = Outcome<R>> + Send>>>,
    pub gate: Arc<Gate>,
    pub caller_left: Arc<AtomicBool>,
    pub effect: Effect,
    pub heirs: Heirs,
}

/// Who takes over operations whose callers have left.
#[derive(Clone)]
pub(super) struct Heirs {
    pub runtime: Handle,
    pub tasks: TaskTracker,
}

impl<R: Send + 'static> Submission<R> {
    pub(super) fn new(
        rest: impl Future<Output = Outcome<R>> + Send + 'static,
        effect: Effect,
        gate: Arc<Gate>,
        caller_left: Arc<AtomicBool>,
        heirs: Heirs,
    ) -> Self {
        Self {
            rest: Some(Box::pin(rest)),
            gate,
            caller_left,
            effect,
            heirs,
        }
    }

    /// Keeps the operation from going out any more; says whether it has gone out, and its answer
    /// is still to come.
    pub(super) fn send_no_more(&self) -> bool {
        let is_out = self.gate.abandon();
        if is_out {
            self.caller_left.store(true, Ordering::Release);
        }
        is_out
    }

    /// Ends the wait for the operation: what its caller is to be told when time
    /// has run out.
    pub(super) fn out_of_time(&self) -> PlatformError {
        if self.gate.abandon() && self.effect == Effect::Changes {
            PlatformError::OutcomeUnknown {
                detail: "no answer before the deadline".to_owned(),
                timed_out: true,
            }
        } else {
            PlatformError::DeadlineExceeded
        }
    }
}

impl<R: Send + 'static> Future for Submission<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<R>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Pending;
        };
        let outcome = rest.as_mut().poll(context);
        if outcome.is_ready() {
            self.rest = None;
        }
        outcome
    }
}

impl<R: Send + 'static> Drop for Submission<R> {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else {
            return;
        };
        if self.gate.abandon() && self.effect == Effect::Changes {
            self.caller_left.store(true, Ordering::Release);
            self.heirs.tasks.spawn_on(rest, &self.heirs.runtime);
        }
    }
}
