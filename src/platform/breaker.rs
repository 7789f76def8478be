//! Holds an account's calls back while the platform is known to be away.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    PlatformConfig,
    code::Code,
    error::{Outage, PlatformError, masked},
    metrics::PlatformMetrics,
};

/// The longest time between two probes of a platform that cannot be reached.
pub(super) const LONGEST_UNREACHABLE: Duration = Duration::from_secs(60);
/// The longest time between two probes during maintenance.
const LONGEST_MAINTENANCE: Duration = Duration::from_secs(300);
/// When to call again while a probe is out.
pub(super) const PROBE_IS_OUT: Duration = Duration::from_secs(1);
/// A probe of which nothing was heard for so long is taken to be lost, though
/// it was not dropped: all its tries and waits are over by then.
pub(super) const PROBE_LOST: Duration = Duration::from_secs(120);
/// The most that is kept of the platform's words, in bytes.
const LONGEST_WORDS: usize = 1024;

/// An account's breaker.
///
/// Closed, it lets every call through and looks at the outcomes. It opens when
/// the platform says that it is under maintenance, or when so many calls in a
/// row did not reach it. Open, it refuses every call, until it is time to let
/// one through as a probe, whose outcome closes it, or has it wait twice as long.
pub(super) struct Breaker {
    account: String,
    /// Calls in a row that find the platform unreachable open it; 0: never.
    failures: u32,
    /// The first wait after the platform could not be reached.
    unreachable_wait: Duration,
    /// The first wait after the platform said that it is under maintenance.
    maintenance_wait: Duration,
    metrics: PlatformMetrics,
    state: Mutex<State>,
}

enum State {
    Closed {
        /// Calls in a row that did not reach the platform.
        unreachable: u32,
    },
    Open(Open),
}

struct Open {
    outage: Outage,
    since: SystemTime,
    /// From the last failure to the next probe.
    wait: Duration,
    next_probe: Instant,
    /// When the probe was let through that is out.
    probe: Option<Instant>,
}

/// What a call's outcome tells of the platform.
enum Sign {
    /// It answered.
    Well,
    /// It is away.
    Away(Outage),
    /// It was connected to, and no answer could be read.
    Unclear,
    /// Nothing: the call did not get as far.
    None,
}

/// Leave for one call. Dropped without an outcome, a probe's leave goes to the
/// next call, unless the probe is known to have reached nobody.
pub(super) struct Pass {
    breaker: Arc<Breaker>,
    is_probe: bool,
    /// Why the last try did not reach the platform.
    unreached: Option<String>,
}

impl Breaker {
    pub(super) fn new(account: &str, config: &PlatformConfig, metrics: PlatformMetrics) -> Self {
        metrics.breaker(account, false);
        Self {
            account: account.to_owned(),
            failures: config.breaker_failures,
            unreachable_wait: config.unreachable_wait,
            maintenance_wait: config.maintenance_wait,
            metrics,
            state: Mutex::new(State::Closed { unreachable: 0 }),
        }
    }

    /// Leave for a call to go ahead, or the reason why it is held back.
    pub(super) fn pass(self: &Arc<Self>) -> Result<Pass, PlatformError> {
        let now = Instant::now();
        let mut is_probe = false;
        if let State::Open(open) = &mut *self.lock() {
            if !open.admits_probe(now) {
                return Err(open.held_back());
            }
            open.probe = Some(now);
            is_probe = true;
        }
        Ok(Pass {
            breaker: Arc::clone(self),
            is_probe,
            unreached: None,
        })
    }

    /// What [`pass`](Self::pass) would answer now, without side effects: whether the call would be
    /// the probe, or the reason why it would be held back.
    pub(super) fn admits(&self) -> Result<bool, PlatformError> {
        match &*self.lock() {
            State::Closed { .. } => Ok(false),
            State::Open(open) if open.admits_probe(Instant::now()) => Ok(true),
            State::Open(open) => Err(open.held_back()),
        }
    }

    /// No panic can happen while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, sign: Sign, is_probe: bool) {
        let mut state = self.lock();
        match (&mut *state, sign) {
            (State::Closed { unreachable }, Sign::Well | Sign::Unclear) => *unreachable = 0,
            (State::Closed { unreachable }, Sign::Away(outage)) => {
                if matches!(outage, Outage::Unreachable { .. }) {
                    *unreachable = unreachable.saturating_add(1);
                    if self.failures == 0 || *unreachable < self.failures {
                        return;
                    }
                }
                *state = State::Open(self.open(outage));
            }
            (State::Closed { .. }, Sign::None) => {}
            // It went out before the others were held back, and tells nothing of now.
            (State::Open(_), _) if !is_probe => {}
            (State::Open(open), Sign::None) => open.probe = None,
            (State::Open(open), Sign::Away(outage)) => self.extend(open, Some(outage)),
            (State::Open(open), Sign::Unclear) if open.is_maintenance() => {
                self.extend(open, None);
            }
            (State::Open(open), Sign::Well | Sign::Unclear) => {
                self.closes(open);
                *state = State::Closed { unreachable: 0 };
            }
        }
    }

    fn open(&self, outage: Outage) -> Open {
        let wait = self.bounds(&outage).0;
        self.metrics.breaker(&self.account, true);
        tracing::warn!(
            account = self.account,
            outage = masked(&outage.to_string()),
            next_probe_in = ?wait,
            "the platform is away; calls are held back"
        );
        Open {
            outage,
            since: SystemTime::now(),
            wait,
            next_probe: Instant::now() + wait,
            probe: None,
        }
    }

    /// The probe has failed: the next one comes after twice the time.
    fn extend(&self, open: &mut Open, outage: Option<Outage>) {
        open.outage = outage.unwrap_or_else(|| open.outage.clone());
        let (shortest, longest) = self.bounds(&open.outage);
        open.wait = (open.wait * 2).min(longest).max(shortest);
        open.next_probe = Instant::now() + open.wait;
        open.probe = None;
        tracing::info!(
            account = self.account,
            outage = masked(&open.outage.to_string()),
            next_probe_in = ?open.wait,
            "the platform is still away"
        );
    }

    fn closes(&self, open: &Open) {
        self.metrics.breaker(&self.account, false);
        // The clock may have been set meanwhile; it is for the log alone.
        let held_back = open.since.elapsed().unwrap_or_default();
        tracing::info!(
            account = self.account,
            ?held_back,
            "the platform is back; calls are sent again"
        );
    }

    /// The first wait and the longest.
    fn bounds(&self, outage: &Outage) -> (Duration, Duration) {
        match outage {
            Outage::Maintenance { .. } => (self.maintenance_wait, LONGEST_MAINTENANCE),
            Outage::Unreachable { .. } | Outage::Unreadable { .. } => {
                (self.unreachable_wait, LONGEST_UNREACHABLE)
            }
        }
    }
}

impl Open {
    fn is_maintenance(&self) -> bool {
        matches!(self.outage, Outage::Maintenance { .. })
    }

    /// Whether a probe is due and none is in flight.
    fn admits_probe(&self, now: Instant) -> bool {
        let in_flight = self.probe.is_some_and(|sent| now < sent + PROBE_LOST);
        !in_flight && now >= self.next_probe
    }

    fn held_back(&self) -> PlatformError {
        let until_probe = self.next_probe.saturating_duration_since(Instant::now());
        let retry_after = if until_probe.is_zero() {
            PROBE_IS_OUT
        } else {
            until_probe
        };
        PlatformError::HeldBack {
            outage: self.outage.clone(),
            since: self.since,
            retry_after,
        }
    }
}

impl Pass {
    /// Whether the call is the one that tries how the platform is.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Asks once more, right before sending: others may have found out meanwhile
    /// that the platform is away.
    pub(super) fn still_good(&self) -> Result<(), PlatformError> {
        match &*self.breaker.lock() {
            State::Open(open) if !self.is_probe => Err(open.held_back()),
            State::Open(_) | State::Closed { .. } => Ok(()),
        }
    }

    /// Notes of a try that has ended why it did not reach the platform, or that
    /// it did. It is what is known of a call whose time runs out between tries.
    pub(super) fn note(&mut self, unreached: Option<&str>) {
        self.unreached = unreached.map(bounded);
    }

    /// Tells how the call has ended.
    pub(super) fn tell(mut self, error: Option<&PlatformError>) {
        let is_probe = std::mem::take(&mut self.is_probe);
        self.unreached = None;
        self.breaker.learn(Sign::of(error), is_probe);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let unreached = self.unreached.take();
        if self.is_probe || unreached.is_some() {
            let outage = unreached.map(|detail| Outage::Unreachable { detail });
            let sign = outage.map_or(Sign::None, Sign::Away);
            self.breaker.learn(sign, self.is_probe);
        }
    }
}

impl Sign {
    fn of(error: Option<&PlatformError>) -> Self {
        match error {
            Some(PlatformError::Refused {
                code: Code::UnderMaintenance,
                message,
                ..
            }) => Self::Away(Outage::Maintenance {
                message: bounded(message),
            }),
            Some(PlatformError::Unreachable { detail, .. }) => Self::Away(Outage::Unreachable {
                detail: bounded(detail),
            }),
            None
            | Some(
                PlatformError::Refused { proven: true, .. } | PlatformError::TokenRefused { .. },
            ) => Self::Well,
            // An attempt ends by its deadline only where it was sent; one that
            // was not is dropped.
            Some(
                // Perhaps a proxy answered in the platform's place.
                PlatformError::Refused { proven: false, .. }
                | PlatformError::Unreadable { .. }
                | PlatformError::OutcomeUnknown { .. }
                | PlatformError::DeadlineExceeded,
            ) => Self::Unclear,
            Some(
                PlatformError::UnknownAccount(_)
                | PlatformError::AccountDisabled(_)
                | PlatformError::CredentialsUnreadable(_)
                | PlatformError::Overloaded { .. }
                | PlatformError::HeldBack { .. },
            ) => Self::None,
        }
    }
}

pub(super) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_WORDS)].to_owned()
}

#[cfg(test)]
mod tests;
