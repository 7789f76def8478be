//! What each client has used of its own bounds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use tokio::time::Instant;

/// A client is over one of its bounds. Nothing was done; safe to call again after a while.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is over its bound {bound}; nothing was done")]
pub struct Exceeded {
    /// The setting of the bound.
    pub bound: &'static str,
    /// When a call can be let in again.
    pub retry_after: Duration,
}

/// When to open another stream.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// What a client has used. Kept in memory: a restart begins anew.
#[derive(Debug, Default)]
pub struct Usage {
    requests: Mutex<Option<Bucket>>,
    rows: Mutex<Option<Day>>,
    streams: AtomicUsize,
}

/// A token bucket that holds the requests of one second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// The rows of a day of China's calendar.
#[derive(Clone, Copy, Debug)]
struct Day {
    date: Date,
    rows: u64,
}

impl Usage {
    /// Counts a request; `bound` a second, 0: no bound.
    pub fn request(&self, bound: u32, now: Instant) -> Result<(), Exceeded> {
        if bound == 0 {
            return Ok(());
        }
        let bound = f64::from(bound);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = requests.get_or_insert(Bucket {
            left: bound,
            at: now,
        });
        let passed = now.saturating_duration_since(bucket.at);
        bucket.left = (bucket.left + passed.as_secs_f64() * bound).min(bound);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(Exceeded {
                bound: "max_requests_per_second",
                retry_after: Duration::from_secs_f64((1.0 - bucket.left) / bound),
            });
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Counts rows that are about to be submitted; `bound` a day, 0: no bound.
    pub fn rows(&self, bound: u64, rows: u64, now: SystemTime) -> Result<(), Exceeded> {
        if bound == 0 {
            return Ok(());
        }
        let (date, left) = day(now);
        let mut day = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let day = day.get_or_insert(Day { date, rows: 0 });
        if day.date != date {
            *day = Day { date, rows: 0 };
        }
        if day.rows.saturating_add(rows) > bound {
            return Err(Exceeded {
                bound: "max_rows_per_day",
                retry_after: left,
            });
        }
        day.rows += rows;
        Ok(())
    }

    /// Takes back a counted row for which nothing was sent.
    pub fn give_back_row(&self) {
        let mut day = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(day) = day.as_mut() {
            day.rows = day.rows.saturating_sub(1);
        }
    }

    /// Counts a stream until the permit is dropped; 0: no bound.
    pub fn stream(self: &Arc<Self>, bound: usize) -> Result<StreamPermit, Exceeded> {
        let open = self.streams.fetch_add(1, Ordering::Relaxed);
        let permit = StreamPermit(self.clone());
        if bound > 0 && open >= bound {
            return Err(Exceeded {
                bound: "max_streams",
                retry_after: STREAM_RETRY,
            });
        }
        Ok(permit)
    }
}

/// Counts an open stream.
#[derive(Debug)]
pub struct StreamPermit(Arc<Usage>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The day in China, and how long it lasts yet.
fn day(now: SystemTime) -> (Date, Duration) {
    let china = TimeZone::fixed(Offset::constant(8));
    let now = Timestamp::try_from(now).unwrap_or_default();
    let now = now.to_zoned(china);
    let tomorrow = now.start_of_day().and_then(|day| day.checked_add(1.day()));
    let left = tomorrow.map(|tomorrow| now.duration_until(&tomorrow));
    let left = left.ok().and_then(|left| left.try_into().ok());
    (now.date(), left.unwrap_or(Duration::from_hours(24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_let_in_as_fast_as_the_bound_says() {
        let usage = Usage::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let let_in = |millis| usage.request(2, at(millis)).is_ok();
        assert_eq!(
            [0, 0, 0, 499, 500, 501, 1000].map(let_in),
            [true, true, false, false, true, false, true]
        );
        let refused = usage.request(2, at(1000)).unwrap_err();
        assert_eq!(refused.bound, "max_requests_per_second");
        assert_eq!(refused.retry_after, Duration::from_millis(500));
        assert!(usage.request(0, at(1000)).is_ok());
    }

    #[test]
    fn rows_are_counted_by_the_day_in_china() {
        let usage = Usage::default();
        let at = |time: &str| SystemTime::from(time.parse::<Timestamp>().unwrap());
        let before_midnight = at("2026-11-28T15:59:00Z");
        assert_eq!(usage.rows(100, 60, before_midnight), Ok(()));
        let refused = usage.rows(100, 41, before_midnight).unwrap_err();
        assert_eq!(refused.bound, "max_rows_per_day");
        assert_eq!(refused.retry_after, Duration::from_secs(60));
        assert_eq!(usage.rows(100, 40, before_midnight), Ok(()));
        assert_eq!(usage.rows(100, 100, at("2026-11-28T16:00:00Z")), Ok(()));
        assert_eq!(usage.rows(0, u64::MAX, before_midnight), Ok(()));
    }

    #[test]
    fn a_stream_counts_until_it_ends() {
        let usage = Arc::new(Usage::default());
        let first = usage.stream(1).unwrap();
        assert_eq!(usage.stream(1).unwrap_err().bound, "max_streams");
        drop(first);
        let _second = usage.stream(1).unwrap();
        let _unbounded = usage.stream(0).unwrap();
    }
}
