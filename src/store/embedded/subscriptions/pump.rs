//! Reads the log for a subscription, while it has members: what follows, and what comes again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::subscription::{Subscription, Task};
use crate::push::Position;
use crate::store::subscriptions::SubscriptionError;
use crate::store::{Filter, PushLog, ReadError, ReadLimit};

/// How much is read at a time: what it may hold in memory.
const BATCH: ReadLimit = ReadLimit {
    entries: 512,
    bytes: 1 << 20,
};
const ONE: ReadLimit = ReadLimit {
    entries: 1,
    bytes: 1,
};
/// A log that cannot be read is tried again after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Long enough to be never.
const FAR: Duration = Duration::from_hours(24);

/// Runs until the subscription has no members or has ended.
pub(super) async fn run(subscription: Arc<Subscription>) {
    let mut end = subscription.common().log.end();
    loop {
        // Seen before looking, so that what is appended meanwhile wakes the wait.
        let reached = end.borrow_and_update().0;
        let outcome = match subscription.next_task(reached) {
            Task::Read {
                after,
                filter,
                epoch,
            } => read(&subscription, after, &filter, epoch).await,
            Task::Load(numbers) => load(&subscription, numbers).await,
            Task::Wait { until } => {
                let until = until.unwrap_or_else(|| Instant::now() + FAR);
                tokio::select! {
                    () = subscription.woken() => {}
                    () = sleep_until(until) => {}
                    // An error means that the log is closed, which the next read says.
                    _ = end.changed() => {}
                }
                Ok(())
            }
            Task::End => return,
        };
        match outcome {
            Ok(()) => tokio::task::coop::consume_budget().await,
            Err(ReadError::Closed) => {
                subscription.end(&SubscriptionError::Closed);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a subscription's events cannot be read");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn read(
    subscription: &Arc<Subscription>,
    after: Position,
    filter: &Filter,
    epoch: u64,
) -> Result<(), ReadError> {
    match subscription.common().log.read(after, BATCH).await {
        Ok(batch) => {
            if let Some(last) = batch.entries.last() {
                let up_to = last.cursor.position;
                let matching = batch.entries.into_iter().filter(|e| filter.matches(e));
                subscription.take(epoch, up_to, matching.collect());
            }
            Ok(())
        }
        Err(error) => pass_over(subscription, error),
    }
}

/// Reads entries that are to be handed out again.
async fn load(subscription: &Arc<Subscription>, numbers: Vec<u64>) -> Result<(), ReadError> {
    for number in numbers {
        let before = Position(number).before();
        match subscription.common().log.read(before, ONE).await {
            Ok(batch) => match batch.entries.into_iter().next() {
                Some(entry) => subscription.load(entry),
                None => subscription.lose(number..=number, "the log no longer holds them"),
            },
            Err(error) => pass_over(subscription, error)?,
        }
    }
    Ok(())
}

/// Passes over what cannot be read any more; any other failure may pass by itself.
fn pass_over(subscription: &Arc<Subscription>, error: ReadError) -> Result<(), ReadError> {
    match error {
        ReadError::Expired { earliest } => {
            subscription.lose(1..=earliest.0, "retention removed them first");
            Ok(())
        }
        ReadError::Damaged { lost } => {
            subscription.lose(lost.start..=lost.end - 1, "the log is damaged there");
            Ok(())
        }
        ReadError::Unavailable(_) | ReadError::Closed => Err(error),
    }
}
