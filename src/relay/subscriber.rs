//! A member of a durable subscription: its share of the events, each until it is acknowledged.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::metrics::RelayMetrics;
use super::{PROGRESS_EVERY, RelayError, Source, Step};
use crate::proto::PushFilter;
use crate::push::Cursor;
use crate::store::subscriptions::{Delivery, Handed, Member};
use crate::store::{Filter, PushLog};

/// Takes deliveries as a member. What is out with it goes back when it is dropped.
pub struct Subscriber {
    log: Arc<dyn PushLog>,
    member: Box<dyn Member>,
    /// What the member may see, however the subscription is changed meanwhile; `None`: everything.
    visible: Option<Filter>,
    drain: CancellationToken,
    metrics: RelayMetrics,
    progress_due: Instant,
    /// Whether the stream ended in order: by draining, or by an error that the client is told.
    has_ended: bool,
}

impl Subscriber {
    /// A subscriber that may see these accounts (`None`: all) and ends when `drain` is cancelled.
    pub fn new(
        log: Arc<dyn PushLog>,
        member: Box<dyn Member>,
        accounts: Option<Vec<String>>,
        drain: CancellationToken,
        metrics: RelayMetrics,
    ) -> Self {
        metrics.readers.inc();
        Self {
            log,
            member,
            visible: accounts.map(|held| Filter::new(PushFilter::default(), Some(held))),
            drain,
            metrics,
            progress_due: Instant::now() + PROGRESS_EVERY,
            has_ended: false,
        }
    }

    /// Makes sure that the member may see all that it is handed.
    fn check(&self, deliveries: &[Delivery]) -> Result<(), RelayError> {
        let Some(visible) = &self.visible else {
            return Ok(());
        };
        let hidden = deliveries.iter().find(|it| !visible.matches(&it.entry));
        hidden.map_or(Ok(()), |it| {
            let account = it.entry.header.account.clone();
            Err(RelayError::Forbidden { account })
        })
    }

    fn progress(&mut self, caught_up: bool) -> Step<Delivery> {
        self.progress_due = Instant::now() + PROGRESS_EVERY;
        Step::Progress {
            cursor: self.cursor(),
            caught_up,
        }
    }
}

impl Source for Subscriber {
    type Event = Delivery;

    async fn next(&mut self) -> Result<Step<Delivery>, RelayError> {
        let step = self.step().await;
        self.has_ended = step.is_err();
        step
    }

    fn cursor(&self) -> Cursor {
        self.log.cursor(self.member.place())
    }
}

impl Subscriber {
    async fn step(&mut self) -> Result<Step<Delivery>, RelayError> {
        tokio::select! {
            // Draining first, so that a busy member ends too; then progress, for the same reason.
            biased;
            () = self.drain.cancelled() => Err(RelayError::Draining),
            () = sleep_until(self.progress_due) => {
                let caught_up = self.member.is_caught_up();
                Ok(self.progress(caught_up))
            }
            handed = self.member.next() => match handed? {
                Handed::Deliveries(deliveries) => {
                    self.check(&deliveries)?;
                    self.metrics.delivered.inc_by(deliveries.len() as u64);
                    Ok(Step::Events(deliveries))
                }
                Handed::CaughtUp => Ok(self.progress(true)),
            },
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if !self.has_ended {
            self.member.mark_broken();
        }
        self.metrics.readers.dec();
    }
}
