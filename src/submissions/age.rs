//! The ledger's age: the time that the store itself has seen.
//!
//! Forgetting goes by this age alone. It grows with the monotonic clock while a gateway runs, and
//! is noted beside the data, so that no step of the wall clock makes anything old.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{AppendError, NoteChange, Notes, ReadError, Survives};

/// Where the age stands in the store.
const NOTE: &str = "submissions-age";
/// How often it is noted; a crash takes back no more than this.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// The age of a ledger.
pub(super) struct Age {
    before: Duration,
    opened: Instant,
    /// The latest wall clock that was noted, in milliseconds since 1970.
    latest_ms: u64,
}

impl Age {
    /// Continues from the age that the store has.
    pub async fn open(notes: &dyn Notes) -> Result<Self, ReadError> {
        let bytes = notes.get(NOTE).await?.unwrap_or_default();
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |at: usize| numbers.get(at).map_or(0, |it| u64::from_be_bytes(*it));
        Ok(Self {
            before: Duration::from_millis(number(0)),
            opened: Instant::now(),
            latest_ms: number(1),
        })
    }

    /// A wall clock that no earlier process had passed when it noted its age last: this one, or a
    /// later one if it is behind.
    pub fn no_earlier(&self, now_ms: u64) -> u64 {
        let unnoted = u64::try_from(EVERY.as_millis()).unwrap_or_default();
        now_ms.max(self.latest_ms.saturating_add(2 * unnoted))
    }

    /// How long this process has the ledger open.
    pub fn uptime(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The age in milliseconds.
    pub fn now_ms(&self) -> u64 {
        let age = self.before + self.uptime();
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes the age, and the wall clock.
    pub async fn note(&self, notes: &dyn Notes, now_ms: u64) -> Result<(), AppendError> {
        let latest_ms = self.latest_ms.max(now_ms);
        let numbers = [self.now_ms().to_be_bytes(), latest_ms.to_be_bytes()];
        let change = NoteChange::put(NOTE, numbers.concat());
        notes.change(vec![change], Survives::Kill).await
    }
}
