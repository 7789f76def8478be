//! Backfills that the gateway does by itself: at its start, and daily.

use std::time::Duration;

use jiff::civil::Date;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::run::Job;
use super::{Backfill, BackfillError, Progress, Shared, days};

/// What failed is tried again after this long at most.
const LONGEST_BACKOFF: Duration = Duration::from_hours(1);
/// The clock is looked at so often: it may be set, and a machine may sleep.
const LOOK_EVERY: Duration = Duration::from_mins(5);

impl Backfill {
    /// Covers what is not covered, now and daily, until told to stop. What failed is tried again
    /// before. A few accounts are asked about at once, the others wait.
    pub async fn run(&self, end: CancellationToken) {
        let mut accounts = JoinSet::new();
        for account in self.shared.turns.keys() {
            let (shared, account) = (self.shared.clone(), account.clone());
            accounts.spawn(async move { shared.keep_covering(&account).await });
        }
        end.cancelled().await;
        // Whatever they are at can be done again.
        accounts.shutdown().await;
    }

    /// Covers an account's days that are not covered yet, as the gateway does by itself.
    pub async fn catch_up(&self, account: &str) -> Result<Progress, BackfillError> {
        self.shared.catch_up(account, None).await
    }

    /// The same, and reads files that are new of days from `first` on, although these are covered.
    pub async fn look_again(&self, account: &str, first: Date) -> Result<Progress, BackfillError> {
        self.shared.catch_up(account, Some(first)).await
    }
}

impl Shared {
    async fn keep_covering(&self, account: &str) {
        let mut failures = 0;
        loop {
            let done = self.catch_up(account, None).await;
            let wait = match done {
                Ok(_) => {
                    failures = 0;
                    days::until(self.options.at, (self.options.clock)())
                }
                Err(BackfillError::Closed) => return,
                Err(_) => {
                    failures += 1;
                    self.backoff(failures)
                }
            };
            self.pass(wait).await;
        }
    }

    async fn catch_up(
        &self,
        account: &str,
        again_from: Option<Date>,
    ) -> Result<Progress, BackfillError> {
        let _turn = self.turn_of(account)?.lock_owned().await;
        // Never closed, so that an error cannot be; what is asked for is done either way.
        let _place = self.places.acquire().await;
        let progress = watch::Sender::new(Progress::default());
        let job = Job::new(self, account, &progress);
        let outcome = match job.missing(again_from).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let told = error.for_log();
                tracing::warn!(account, error = told, "failed pushes cannot be fetched");
                return Err(error);
            }
        };
        match outcome.error {
            Some(error) => Err(error),
            None => Ok(*progress.borrow()),
        }
    }

    /// Doubled with each failure, and never the same for two.
    fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let whole = self.options.backoff.saturating_mul(1 << doublings);
        let share = rand::rng().random_range(0.5..=1.0);
        whole.min(LONGEST_BACKOFF).mul_f64(share)
    }

    /// Waits by the wall clock.
    async fn pass(&self, wait: Duration) {
        let due = (self.options.clock)() + wait;
        while let Ok(left) = due.duration_since((self.options.clock)()) {
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }
}
