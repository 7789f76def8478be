//! Holds an account's changes back while the answers to them cannot be read.
//!
//! Each change whose answer cannot be read has an unknown outcome for good. A change is therefore
//! never the probe: before one goes out again, a read has to bring a readable answer. Reads are
//! never held back here; [`Breaker`](super::breaker::Breaker) holds back both.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    PlatformConfig,
    breaker::{LONGEST_UNREACHABLE, PROBE_IS_OUT, PROBE_LOST, bounded},
    code::Code,
    error::{Outage, PlatformError, masked, refusal_text},
    metrics::PlatformMetrics,
    resend::backoff,
};

/// Changes in a row with unreadable answers that open the breaker.
const UNREADABLE_IN_A_ROW: u32 = 3;

/// An account's breaker for changes.
pub(super) struct ChangeBreaker {
    account: String,
    is_enabled: bool,
    /// The wait after the first failed probe.
    first_wait: Duration,
    metrics: PlatformMetrics,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Changes in a row whose answer could not be read.
        unreadable: u32,
    },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    detail: String,
    since: SystemTime,
    failed_probes: u32,
    next_probe: Instant,
    /// When the probe in flight was let through.
    probe: Option<Instant>,
}

/// What an outcome shows about the platform's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Evidence {
    Readable,
    Unreadable(String),
    /// The request did not get as far as an answer.
    None,
}

/// What a change has to do before it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Send,
    ProbeFirst,
    Wait,
}

/// Leave for one probe. Dropped without an outcome, it goes to the next change.
pub(super) struct Probe(Arc<ChangeBreaker>);

impl State {
    fn look(&self, now: Instant) -> Admission {
        match self {
            Self::Closed { .. } => Admission::Send,
            Self::Open(open) if open.in_flight(now) || now < open.next_probe => Admission::Wait,
            Self::Open(_) => Admission::ProbeFirst,
        }
    }

    fn admit(&mut self, now: Instant) -> Admission {
        let admission = self.look(now);
        if let (Admission::ProbeFirst, Self::Open(open)) = (admission, &mut *self) {
            open.probe = Some(now);
        }
        admission
    }

    /// Counts a change's outcome. While open, changes that went out before show nothing new.
    fn change_ended(&mut self, evidence: Evidence, now: Instant) {
        let Self::Closed { unreadable } = self else {
            return;
        };
        match evidence {
            Evidence::None => {}
            Evidence::Readable => *unreadable = 0,
            Evidence::Unreadable(detail) => {
                *unreadable += 1;
                if *unreadable >= UNREADABLE_IN_A_ROW {
                    *self = Self::Open(Open {
                        detail,
                        since: SystemTime::now(),
                        failed_probes: 0,
                        next_probe: now,
                        probe: None,
                    });
                }
            }
        }
    }

    /// Closes an open breaker where a read, the probe or another, brought a readable answer.
    fn read_ended(&mut self, evidence: &Evidence) {
        if matches!(self, Self::Open(_)) && *evidence == Evidence::Readable {
            *self = Self::Closed { unreadable: 0 };
        }
    }

    /// Ends the probe. `wait` gives the time to the next one after this many failed ones.
    fn probe_ended(
        &mut self,
        evidence: Evidence,
        now: Instant,
        wait: impl FnOnce(u32) -> Duration,
    ) {
        let Self::Open(open) = self else {
            return;
        };
        open.probe = None;
        if let Evidence::Unreadable(detail) = evidence {
            open.failed_probes = open.failed_probes.saturating_add(1);
            open.next_probe = now + wait(open.failed_probes);
            open.detail = detail;
        }
    }
}

impl Open {
    fn in_flight(&self, now: Instant) -> bool {
        self.probe.is_some_and(|sent| now < sent + PROBE_LOST)
    }

    fn held_back(&self, now: Instant) -> PlatformError {
        let until_probe = self.next_probe.saturating_duration_since(now);
        PlatformError::HeldBack {
            outage: Outage::Unreadable {
                detail: self.detail.clone(),
            },
            since: self.since,
            retry_after: if until_probe.is_zero() {
                PROBE_IS_OUT
            } else {
                until_probe
            },
        }
    }
}

impl ChangeBreaker {
    pub(super) fn new(account: &str, config: &PlatformConfig, metrics: PlatformMetrics) -> Self {
        metrics.changes_held_back(account, false);
        Self {
            account: account.to_owned(),
            is_enabled: config.breaker_failures > 0,
            first_wait: config.unreachable_wait,
            metrics,
            state: Mutex::new(State::Closed { unreadable: 0 }),
        }
    }

    /// Leave for a change to go ahead: `None` at once, `Some` after a probe.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Option<Probe>, PlatformError> {
        let now = Instant::now();
        let mut state = self.lock();
        match (state.admit(now), &*state) {
            (Admission::ProbeFirst, _) => Ok(Some(Probe(Arc::clone(self)))),
            (Admission::Wait, State::Open(open)) => Err(open.held_back(now)),
            (Admission::Send | Admission::Wait, _) => Ok(None),
        }
    }

    /// What [`admit`](Self::admit) would answer now, without side effects: whether the change
    /// would have to probe first, or the reason why it would be held back.
    pub(super) fn admits(&self) -> Result<bool, PlatformError> {
        let now = Instant::now();
        let state = self.lock();
        match (state.look(now), &*state) {
            (Admission::Wait, State::Open(open)) => Err(open.held_back(now)),
            (admission, _) => Ok(admission == Admission::ProbeFirst),
        }
    }

    /// Fails while it is open. Asked right before a change is sent, as others may have opened it
    /// meanwhile.
    pub(super) fn still_closed(&self) -> Result<(), PlatformError> {
        match &*self.lock() {
            State::Closed { .. } => Ok(()),
            State::Open(open) => Err(open.held_back(Instant::now())),
        }
    }

    /// Counts the outcome of a change.
    pub(super) fn change_ended(&self, error: Option<&PlatformError>) {
        if self.is_enabled {
            let now = Instant::now();
            self.update(|state| state.change_ended(Evidence::of_change(error), now));
        }
    }

    /// Counts the outcome of a read.
    pub(super) fn read_ended(&self, error: Option<&PlatformError>) {
        self.update(|state| state.read_ended(&Evidence::of_read(error)));
    }

    /// Changes the state, and logs and counts where that opens or closes the breaker.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let was_open = matches!(&*state, State::Open(_));
        change(&mut state);
        let account = self.account.as_str();
        match &*state {
            State::Open(open) if !was_open => {
                let detail = masked(&open.detail);
                tracing::warn!(
                    account,
                    detail,
                    "answers to changes cannot be read; changes are held back"
                );
                self.metrics.changes_held_back(account, true);
            }
            State::Closed { .. } if was_open => {
                tracing::info!(account, "answers can be read again; changes are sent again");
                self.metrics.changes_held_back(account, false);
            }
            State::Open(_) | State::Closed { .. } => {}
        }
    }

    /// No panic can happen while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// Ends the probe with the outcome of its read; fails where the change may not go out.
    pub(super) fn ended(self, error: Option<&PlatformError>) -> Result<(), PlatformError> {
        let now = Instant::now();
        let evidence = Evidence::of_read(error);
        let breaker = &self.0;
        breaker.read_ended(error);
        breaker.update(|state| {
            state.probe_ended(evidence.clone(), now, |failed| {
                let longest = LONGEST_UNREACHABLE.max(breaker.first_wait);
                backoff(failed, breaker.first_wait, longest)
            });
        });
        match (evidence, error) {
            (Evidence::None, Some(error)) => Err(error.clone()),
            _ => breaker.still_closed(),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let unused = |_| Duration::ZERO;
        self.0
            .update(|state| state.probe_ended(Evidence::None, Instant::now(), unused));
    }
}

impl Evidence {
    fn of_change(error: Option<&PlatformError>) -> Self {
        use PlatformError as E;
        match error {
            None
            | Some(
                E::TokenRefused { .. }
                | E::Refused {
                    for_token: false,
                    proven: true,
                    ..
                },
            ) => Self::Readable,
            Some(E::OutcomeUnknown { detail, .. }) => Self::Unreadable(bounded(detail)),
            Some(E::Refused {
                for_token: false,
                proven: false,
                code,
                message,
                ..
            }) => Self::Unreadable(bounded(&refusal_text(code, message, false))),
            Some(
                E::Refused {
                    for_token: true, ..
                }
                | E::UnknownAccount(_)
                | E::AccountDisabled(_)
                | E::Unreachable { .. }
                | E::Unreadable { .. }
                | E::DeadlineExceeded
                | E::CredentialsUnreadable(_)
                | E::Overloaded { .. }
                | E::HeldBack { .. },
            ) => Self::None,
        }
    }

    /// An undocumented code is no more readable here than in the answer to a change.
    fn of_read(error: Option<&PlatformError>) -> Self {
        use PlatformError as E;
        match error {
            Some(
                error @ (E::Refused {
                    for_token: false,
                    code: Code::Other(_),
                    ..
                }
                | E::Unreachable { .. }
                | E::Unreadable { .. }
                | E::OutcomeUnknown { .. }
                | E::DeadlineExceeded),
            ) => Self::Unreadable(bounded(&error.to_string())),
            None
            | Some(
                E::TokenRefused { .. }
                | E::Refused {
                    for_token: false, ..
                },
            ) => Self::Readable,
            Some(
                E::Refused {
                    for_token: true, ..
                }
                | E::UnknownAccount(_)
                | E::AccountDisabled(_)
                | E::CredentialsUnreadable(_)
                | E::Overloaded { .. }
                | E::HeldBack { .. },
            ) => Self::None,
        }
    }
}

#[cfg(test)]
mod tests;
