//! How fast an account sends: so many requests a second, so many at once, and
//! less of both while the platform is busy.
//!
//! No library is in it beyond tokio: its semaphore is first come, first served,
//! and the rate is two lines beside a queue. The rate limiters to be had let
//! waiters race for the next turn, or have one waiter keep the time for all,
//! who stand still when that one is not polled.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{PlatformConfig, error::PlatformError, metrics::PlatformMetrics};

/// For how long an account goes slowly after the last 10004.
const SLOW_FOR: Duration = Duration::from_secs(30);
/// What is left of the rate while the platform is busy.
const SLOW_SHARE: u32 = 10;
/// The rate while the platform is busy, in requests per second, where none is
/// configured.
const SLOW_RATE: u32 = 5;
/// What may go out at once after a silence, as a share of a second's requests.
/// It also makes up for timers that wake up late.
const BURST_SHARE: u32 = 10;
/// So long before its deadline a caller is told that there was no room, rather
/// than that time ran out.
const MOMENT: Duration = Duration::from_millis(2);
/// When to call again after there was no room.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An account's bounds, through which every request but that for a token goes.
pub(super) struct Pace {
    account: String,
    has_rate: bool,
    places: Option<Arc<Semaphore>>,
    turns: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Until when the account goes slowly; past while it does not.
    slow_until: watch::Sender<Instant>,
    /// How long a request without a deadline waits.
    patience: Duration,
    metrics: PlatformMetrics,
    _usher: AbortOnDropHandle<()>,
}

/// A place among the account's requests under way, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pace {
    /// Must be called within a tokio runtime.
    pub(super) fn new(account: &str, config: &PlatformConfig, metrics: PlatformMetrics) -> Self {
        let rate = config.max_requests_per_second;
        let places = config.max_concurrent_requests.min(Semaphore::MAX_PERMITS);
        let (turns, queue) = mpsc::unbounded_channel();
        let now = Instant::now();
        let (slow_until, watched) = watch::channel(now);
        metrics.slowed(account, false);
        let usher = Usher {
            account: account.to_owned(),
            rate,
            queue,
            slow_until: watched,
            next: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
            slow: false,
            metrics: metrics.clone(),
        };
        Self {
            account: account.to_owned(),
            has_rate: rate > 0,
            places: (places > 0).then(|| Arc::new(Semaphore::new(places))),
            turns,
            slow_until,
            patience: config.request_timeout,
            metrics,
            _usher: AbortOnDropHandle::new(tokio::spawn(usher.run())),
        }
    }

    /// Waits for a place and then for a turn, first come first served, until
    /// `deadline`, or for `request_timeout` where there is none.
    pub(super) async fn place(&self, deadline: Option<Instant>) -> Result<Place, PlatformError> {
        let came = Instant::now();
        let latest = match deadline {
            Some(deadline) => deadline.checked_sub(MOMENT).unwrap_or(deadline),
            None => came + self.patience,
        };
        let place = timeout_at(latest, self.wait()).await;
        self.metrics.waited(&self.account, came.elapsed());
        place.map_err(|_| PlatformError::Overloaded {
            retry_after: RETRY_AFTER,
        })
    }

    /// The turn comes last, so that the rate is that of what really goes out,
    /// also when many places are given back at once.
    async fn wait(&self) -> Place {
        let permit = match &self.places {
            // The semaphore is never closed.
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
            None => None,
        };
        if self.has_rate || Instant::now() < *self.slow_until.borrow() {
            let (turn, mine) = oneshot::channel();
            // The usher ends with this, or with the runtime: no turn matters then.
            if self.turns.send(turn).is_ok() {
                let _ = mine.await;
            }
        }
        Place { _permit: permit }
    }

    /// Goes slowly from now on for a while: the platform has answered that it
    /// is busy.
    pub(super) fn slow_down(&self) {
        self.slow_until.send_replace(Instant::now() + SLOW_FOR);
    }
}

/// Gives an account's requests their turns, one after the other.
struct Usher {
    account: String,
    /// Requests per second; 0: no bound.
    rate: u32,
    queue: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    slow_until: watch::Receiver<Instant>,
    /// When the next turn may be given; long past after a silence.
    next: Instant,
    slow: bool,
    metrics: PlatformMetrics,
}

impl Usher {
    async fn run(mut self) {
        loop {
            let slow_until = *self.slow_until.borrow_and_update();
            self.tell(Instant::now() < slow_until);
            tokio::select! {
                biased;
                changed = self.slow_until.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(slow_until), if self.slow => {}
                turn = self.queue.recv() => match turn {
                    Some(turn) => self.give(turn).await,
                    None => return,
                },
            }
        }
    }

    async fn give(&mut self, turn: oneshot::Sender<()>) {
        let (rate, burst) = match (self.rate, self.slow) {
            (0, false) => {
                // Whoever gives up its turn loses nothing.
                let _ = turn.send(());
                return;
            }
            (0, true) => (SLOW_RATE, 1),
            (rate, true) => ((rate / SLOW_SHARE).max(1), 1),
            (rate, false) => (rate, (rate / BURST_SHARE).max(1)),
        };
        if turn.is_closed() {
            return;
        }
        sleep_until(self.next).await;
        // One that has left meanwhile costs the others nothing.
        if turn.send(()).is_ok() {
            let interval = Duration::from_secs(1) / rate;
            let now = Instant::now();
            let earliest = now.checked_sub(interval * (burst - 1)).unwrap_or(now);
            self.next = self.next.max(earliest) + interval;
        }
    }

    fn tell(&mut self, slow: bool) {
        if self.slow == slow {
            return;
        }
        self.slow = slow;
        self.metrics.slowed(&self.account, slow);
        let account = self.account.as_str();
        if slow {
            tracing::warn!(account, "the platform is busy; sending slowly");
        } else {
            tracing::info!(account, "sending at the usual rate again");
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::task::JoinSet;

    use super::*;

    fn pace(rate: u32, places: usize) -> Arc<Pace> {
        let config = PlatformConfig {
            max_requests_per_second: rate,
            max_concurrent_requests: places,
            request_timeout: Duration::from_secs(10),
            ..PlatformConfig::default()
        };
        let metrics = PlatformMetrics::register(&mut Registry::default());
        Arc::new(Pace::new("default", &config, metrics))
    }

    /// When each of `count` requests that come at once gets its place, in
    /// milliseconds from now; each gives it back `held` later.
    async fn places(pace: &Arc<Pace>, count: usize, held: Duration) -> Vec<u128> {
        let began = Instant::now();
        let mut waiting = JoinSet::new();
        for index in 0..count {
            let pace = Arc::clone(pace);
            waiting.spawn(async move {
                let place = pace.place(None).await.unwrap();
                let at = began.elapsed().as_millis();
                tokio::time::sleep(held).await;
                drop(place);
                (index, at)
            });
        }
        let mut got = waiting.join_all().await;
        got.sort_unstable();
        got.into_iter().map(|(_, at)| at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_rate_go_out_one_after_the_other_as_they_came() {
        let pace = pace(20, 0);
        // A tenth of a second's requests at once, the others every 50 ms.
        let expected = [0, 0, 50, 100, 150, 200, 250, 300];
        assert_eq!(places(&pace, 8, Duration::ZERO).await, expected);
        // A silence, however long, makes room for no more than that.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(places(&pace, 8, Duration::ZERO).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_requests_are_under_way_than_may_be() {
        let pace = pace(0, 3);
        let got = places(&pace, 8, Duration::from_secs(1)).await;
        assert_eq!(got, [0, 0, 0, 1000, 1000, 1000, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_bounds_nothing_waits() {
        let got = places(&pace(0, 0), 1000, Duration::from_secs(1)).await;
        assert_eq!(got, vec![0; 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_until_just_before_its_deadline_or_for_the_request_timeout() {
        let pace = pace(0, 1);
        let taken = pace.place(None).await.unwrap();
        let overloaded = Err(PlatformError::Overloaded {
            retry_after: RETRY_AFTER,
        });
        for (deadline, waits) in [
            (Some(Duration::from_secs(60)), 59_998),
            (Some(Duration::ZERO), 0),
            (None, 10_000),
        ] {
            let began = Instant::now();
            let got = pace.place(deadline.map(|after| began + after)).await;
            assert_eq!(got.map(|_| ()), overloaded, "{deadline:?}");
            assert_eq!(began.elapsed().as_millis(), waits, "{deadline:?}");
        }
        drop(taken);
        assert!(pace.place(None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_leave_the_queue_cost_the_others_no_turn() {
        let pace = pace(1, 0);
        drop(pace.place(None).await.unwrap());
        let began = Instant::now();
        let soon = Some(began + Duration::from_millis(500));
        let mut leaving = JoinSet::new();
        for _ in 0..10 {
            let pace = Arc::clone(&pace);
            leaving.spawn(async move { pace.place(soon).await.is_err() });
        }
        tokio::task::yield_now().await;
        assert_eq!(places(&pace, 2, Duration::ZERO).await, [1000, 2000]);
        assert_eq!(leaving.join_all().await, [true; 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_platform_gets_a_tenth_for_thirty_seconds_after_its_last_word() {
        for (rate, slowly) in [(20, 500), (4, 1000), (1, 1000), (0, 200)] {
            let pace = pace(rate, 0);
            tokio::time::sleep(Duration::from_secs(1)).await;
            pace.slow_down();
            tokio::time::sleep(Duration::from_secs(20)).await;
            pace.slow_down();
            let got = places(&pace, 4, Duration::ZERO).await;
            assert_eq!(got, [0, slowly, 2 * slowly, 3 * slowly], "{rate}");
            tokio::time::sleep(Duration::from_secs(31)).await;
            let got = places(&pace, 3, Duration::ZERO).await;
            let usual = match rate {
                20 => [0, 0, 50],
                4 => [0, 250, 500],
                1 => [0, 1000, 2000],
                _ => [0, 0, 0],
            };
            assert_eq!(got, usual, "{rate}");
        }
    }
}
