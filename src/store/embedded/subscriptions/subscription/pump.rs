//! Reads the log for a subscription, while it has members: what follows, and what comes again.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::state::Want;
use super::Subscription;
use super::inbox::Inbox;
use crate::push::Position;
use crate::store::subscriptions::SubscriptionError;
use crate::store::{Entry, Filter, PushLog, ReadError, ReadLimit};

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
/// After so many reads of which nothing matched, what is appended is let gather for a moment
/// before the next: a subscription for which little comes costs little.
const BARREN_READS: u32 = 16;
const GATHER: Duration = Duration::from_millis(25);
/// Long enough to be never.
const FAR: Duration = Duration::from_hours(24);

/// What the pump does next.
enum Task {
    /// Reads what follows this position for this filter, unless the epoch has changed then.
    Read {
        after: Position,
        filter: Arc<Filter>,
        epoch: u64,
    },
    /// Reads single entries.
    Load(Vec<u64>),
    /// Waits to be woken, for this moment at most.
    Wait { until: Option<Instant> },
    /// Nobody is left to pump for.
    End,
}

/// Runs until the subscription has no members or has ended.
pub(super) async fn run(subscription: Arc<Subscription>) {
    let mut end = subscription.common().log.end();
    let mut barren_reads = 0;
    loop {
        // Seen before looking, so that what is appended meanwhile wakes the wait.
        let reached = end.borrow_and_update().0;
        let outcome = match subscription.next_task(reached) {
            Task::Read {
                after,
                filter,
                epoch,
            } => {
                let matching = read(&subscription, after, &filter, epoch).await;
                barren_reads = match matching {
                    Ok(0) => barren_reads + 1,
                    Ok(_) | Err(_) => 0,
                };
                matching.map(drop)
            }
            Task::Load(numbers) => load(&subscription, numbers).await,
            Task::Wait { until } => {
                let until = until.unwrap_or_else(|| Instant::now() + FAR);
                let appended = async {
                    // An error means that the log is closed, which the next read says.
                    let _ = end.changed().await;
                    if barren_reads >= BARREN_READS {
                        sleep(GATHER).await;
                    }
                };
                tokio::select! {
                    () = subscription.woken() => {}
                    () = sleep_until(until) => {}
                    () = appended => {}
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

/// Reads what follows; tells how many entries match.
async fn read(
    subscription: &Arc<Subscription>,
    after: Position,
    filter: &Filter,
    epoch: u64,
) -> Result<usize, ReadError> {
    let batch = match subscription.common().log.read(after, BATCH).await {
        Ok(batch) => batch,
        Err(error) => return pass_over(subscription, error).map(|()| 0),
    };
    let Some(last) = batch.entries.last() else {
        return Ok(0);
    };
    let up_to = last.cursor.position;
    let matching = batch.entries.into_iter().filter(|e| filter.matches(e));
    let matching: Vec<_> = matching.collect();
    let found = matching.len();
    subscription.take(epoch, up_to, matching);
    Ok(found)
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

impl Subscription {
    /// What the pump does next, after everything that can be handed out has been.
    fn next_task(self: &Arc<Self>, end: u64) -> Task {
        let mut inner = self.lock();
        if inner.ended.is_some() || inner.inboxes.is_empty() {
            return Task::End;
        }
        self.hand_out(&mut inner);
        if inner.state.take_changed() {
            self.common.keeper.note(self);
        }
        match inner.state.want(&inner.spec, end) {
            Want::After(number) => Task::Read {
                after: Position(number),
                filter: inner.filter.clone(),
                epoch: inner.state.epoch(),
            },
            Want::Entries(numbers) => Task::Load(numbers),
            Want::Nothing => {
                if inner.state.is_caught_up(end) {
                    inner.inboxes.values_mut().for_each(Inbox::tell_caught_up);
                }
                let timer = inner.state.next_timer();
                let until = timer.map(|at| self.common.origin + Duration::from_millis(at));
                Task::Wait { until }
            }
        }
    }

    /// Resolves when the pump should look again.
    async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes what the pump has read, up to a position: the entries that match.
    fn take(&self, epoch: u64, up_to: Position, matching: Vec<Arc<Entry>>) {
        let mut inner = self.lock();
        if inner.state.epoch() == epoch {
            inner.state.take(up_to.0, matching);
        }
    }

    /// Takes an entry that is to be handed out again, unless the filter has changed since.
    fn load(&self, entry: Arc<Entry>) {
        let mut inner = self.lock();
        if inner.filter.matches(&entry) {
            inner.state.load(entry);
        } else {
            inner.state.leave_out(entry.cursor.position.0);
        }
    }

    /// Passes over entries that cannot be had any more.
    pub(super) fn lose(self: &Arc<Self>, gone: RangeInclusive<u64>, why: &str) {
        let (first, last) = (*gone.start(), *gone.end());
        let lost = self.lock().state.lose(gone);
        if lost > 0 {
            self.common.keeper.note(self);
            tracing::error!(
                subscription = self.name,
                lost,
                first,
                last,
                "events were lost to a subscription: {why}"
            );
        }
    }
}
