//! Writes down what subscriptions have come to: one task for all of them, so that whatever is
//! acknowledged while one write is under way goes into the next together.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::subscription::Subscription;
use crate::store::AppendError;
use crate::store::embedded::EmbeddedLog;
use crate::store::subscriptions::SubscriptionError;

/// What nobody waits for is written, and everything written synced, within this time.
const LATEST: Duration = Duration::from_secs(1);

/// What is to be written.
#[derive(Default)]
pub(super) struct Keeper {
    pending: Mutex<Pending>,
    wake: Notify,
}

type Subscriptions = HashMap<u64, Arc<Subscription>>;
type Waiting = oneshot::Sender<Result<(), AppendError>>;

#[derive(Default)]
struct Pending {
    /// To be written at once.
    eager: Subscriptions,
    /// Who waits for that.
    waiting: Vec<Waiting>,
    /// To be written soon.
    lazy: Subscriptions,
    closing: Option<oneshot::Sender<()>>,
    is_closed: bool,
}

impl Keeper {
    /// Resolves once what the subscription has come to survives kill −9.
    pub async fn save(&self, subscription: &Arc<Subscription>) -> Result<(), SubscriptionError> {
        let (done, waiting) = oneshot::channel();
        {
            let mut pending = self.lock();
            if pending.is_closed {
                return Err(SubscriptionError::Closed);
            }
            pending
                .eager
                .insert(subscription.key(), subscription.clone());
            pending.waiting.push(done);
        }
        self.wake.notify_one();
        match waiting.await {
            Ok(kept) => kept.map_err(failed),
            Err(_) => Err(SubscriptionError::Closed),
        }
    }

    /// Whether anything may still be changed.
    pub fn check_open(&self) -> Result<(), SubscriptionError> {
        if self.lock().is_closed {
            return Err(SubscriptionError::Closed);
        }
        Ok(())
    }

    /// Sees to it that what the subscription has come to is written soon.
    pub fn note(&self, subscription: &Arc<Subscription>) {
        let mut pending = self.lock();
        let is_first = pending.lazy.is_empty();
        pending
            .lazy
            .insert(subscription.key(), subscription.clone());
        drop(pending);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Writes everything that is still to be written, and ends.
    pub async fn close(&self) {
        let (done, waiting) = oneshot::channel();
        {
            let mut pending = self.lock();
            if pending.is_closed {
                return;
            }
            pending.closing = Some(done);
        }
        self.wake.notify_one();
        // An error means that the runtime is ending: then there is nobody to wait for.
        let _ = waiting.await;
    }

    /// Writes until closed.
    pub async fn run(self: Arc<Self>, log: Arc<EmbeddedLog>) {
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let is_due = due.is_some_and(|due| due <= Instant::now());
            let (subscriptions, waiting, closing) = self.take(is_due);
            let wrote = !subscriptions.is_empty();
            if wrote {
                let kept = self.write(&log, subscriptions).await;
                for done in waiting {
                    // Whoever waited may have gone.
                    let _: Result<(), _> = done.send(kept.clone());
                }
            }
            if is_due || closing.is_some() {
                due = None;
                if let Err(error) = log.sync().await {
                    tracing::warn!(%error, "the state of subscriptions could not be synced");
                    due = Some(Instant::now() + LATEST);
                }
            }
            if (wrote && !is_due) || !self.lock().lazy.is_empty() {
                due.get_or_insert_with(|| Instant::now() + LATEST);
            }
            if let Some(done) = closing {
                let mut pending = self.lock();
                pending.is_closed = true;
                // Whoever asks now learns that it is closed.
                *pending = Pending {
                    is_closed: true,
                    ..Pending::default()
                };
                let _: Result<(), ()> = done.send(());
                return;
            }
        }
    }

    fn take(&self, is_due: bool) -> (Subscriptions, Vec<Waiting>, Option<oneshot::Sender<()>>) {
        let mut pending = self.lock();
        let closing = pending.closing.take();
        let mut subscriptions = mem::take(&mut pending.eager);
        if is_due || closing.is_some() {
            subscriptions.extend(mem::take(&mut pending.lazy));
        } else {
            pending
                .lazy
                .retain(|key, _| !subscriptions.contains_key(key));
        }
        (subscriptions, mem::take(&mut pending.waiting), closing)
    }

    async fn write(
        &self,
        log: &EmbeddedLog,
        subscriptions: Subscriptions,
    ) -> Result<(), AppendError> {
        let writes: Vec<_> = subscriptions
            .values()
            .map(|subscription| subscription.unsaved())
            .collect();
        let kept = log.keep(writes.iter().flatten().cloned().collect()).await;
        if kept.is_err() {
            for (subscription, writes) in subscriptions.values().zip(writes) {
                subscription.not_saved(writes);
                self.note(subscription);
            }
        }
        kept
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure to write, as callers of subscriptions know it.
pub(super) fn failed(error: AppendError) -> SubscriptionError {
    match error {
        AppendError::Unavailable(why) => SubscriptionError::Unavailable(why),
        AppendError::Closed => SubscriptionError::Closed,
    }
}
