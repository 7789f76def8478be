//! The simulated platform as a whole: its parts, and the work in progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::catalog::Catalog;
use super::config::SandboxConfig;
use super::delivery::{self, Pusher};
use super::failed::Failures;
use super::faults::Faults;
use super::inbound::Inbound;
use super::received::Received;
use super::tasks::Tasks;
use super::tokens::Tokens;
use super::voice::Recordings;

/// Pushes of one call set out within this time after it, in any order.
const PUSH_SPREAD_MS: u64 = 2_000;

pub(super) struct World {
    pub config: SandboxConfig,
    pub catalog: Catalog,
    pub pusher: Pusher,
    tokens: Mutex<Tokens>,
    tasks: Mutex<Tasks>,
    faults: Mutex<Faults>,
    received: Mutex<Received>,
    recordings: Mutex<Recordings>,
    inbound: Mutex<Inbound>,
    failures: Mutex<Failures>,
    stop: CancellationToken,
    work: TaskTracker,
}

impl World {
    pub fn new(config: SandboxConfig) -> std::io::Result<Self> {
        let catalog = Catalog::of_the_documents();
        Ok(Self {
            pusher: Pusher::new(&config.push_to)?,
            tokens: Mutex::default(),
            tasks: Mutex::new(Tasks::new(catalog.lines.len(), config.balance)),
            faults: Mutex::default(),
            received: Mutex::default(),
            recordings: Mutex::default(),
            inbound: Mutex::default(),
            failures: Mutex::default(),
            stop: CancellationToken::new(),
            work: TaskTracker::new(),
            catalog,
            config,
        })
    }

    pub fn tokens(&self) -> MutexGuard<'_, Tokens> {
        lock(&self.tokens)
    }

    pub fn tasks(&self) -> MutexGuard<'_, Tasks> {
        lock(&self.tasks)
    }

    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }

    pub fn recordings(&self) -> MutexGuard<'_, Recordings> {
        lock(&self.recordings)
    }

    pub fn inbound(&self) -> MutexGuard<'_, Inbound> {
        lock(&self.inbound)
    }

    pub fn failures(&self) -> MutexGuard<'_, Failures> {
        lock(&self.failures)
    }

    /// Sends a push on its way.
    pub fn push(self: &Arc<Self>, module: &'static str, body: &Value, rng: &mut StdRng) {
        let wait = Duration::from_millis(rng.random_range(0..PUSH_SPREAD_MS));
        let body = Bytes::from(body.to_string());
        delivery::send(self, module, &body, self.config.scaled(wait));
    }

    /// Runs something in the background until it is done or the sandbox stops.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.work
            .spawn(async move { stop.run_until_cancelled(work).await });
    }

    /// Forgets everything but the tokens: tasks, calls not yet made, faults,
    /// counters. Recordings stay.
    pub fn reset(&self) {
        // Runners and calls of the forgotten tasks find nothing to book.
        self.tasks().forget(self.config.balance);
        *self.faults() = Faults::default();
        *self.received() = Received::default();
        *self.inbound() = Inbound::default();
        *self.failures() = Failures::default();
        self.pusher.forget();
    }

    /// Ends all background work when it is dropped, should nobody await `stop`.
    pub fn stop_on_drop(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Ends all background work.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.work.close();
        self.work.wait().await;
    }
}

/// A panic elsewhere leaves counters behind, nothing that could mislead.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
