//! Keeps callers from waiting for a service that does not answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many questions in a row without an answer in time open the circuit.
const MISSES: u32 = 5;
/// While it is open, one question in so much time is still asked. Its caller waits as any would,
/// and has the answer if there is one.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// Open while the service is silent. Only silence counts: whoever refuses at once makes nobody
/// wait.
#[derive(Default)]
pub(super) struct Circuit {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    misses: u32,
    last_answer: Option<Instant>,
    /// While the circuit is open: when the next question is asked.
    next_trial: Option<Instant>,
}

/// What a question did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Opened,
    Closed,
    Stayed,
}

impl Circuit {
    /// Whether a question may be asked now.
    pub fn lets_through(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.next_trial {
            None => true,
            Some(at) if at > now => false,
            Some(_) => {
                state.next_trial = Some(now + TRIAL_EVERY);
                true
            }
        }
    }

    /// The service answered, whatever it said.
    pub fn answered(&self, now: Instant) -> Turn {
        let mut state = self.state();
        state.misses = 0;
        state.last_answer = Some(now);
        match state.next_trial.take() {
            Some(_) => Turn::Closed,
            None => Turn::Stayed,
        }
    }

    /// The service did not answer in time what it was asked then.
    pub fn missed(&self, asked: Instant, now: Instant) -> Turn {
        let mut state = self.state();
        if state.last_answer.is_some_and(|answer| answer >= asked) {
            // It has come back since.
            return Turn::Stayed;
        }
        state.misses = state.misses.saturating_add(1);
        if state.misses < MISSES || state.next_trial.is_some() {
            return Turn::Stayed;
        }
        state.next_trial = Some(now + TRIAL_EVERY);
        Turn::Opened
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_misses_in_a_row_open_it_and_one_answer_closes_it() {
        let (circuit, start) = (Circuit::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..4 {
            assert_eq!(circuit.missed(at(0), at(1)), Turn::Stayed);
        }
        assert_eq!(circuit.answered(at(1)), Turn::Stayed);
        for _ in 0..4 {
            assert_eq!(circuit.missed(at(2), at(3)), Turn::Stayed);
        }
        assert!(circuit.lets_through(at(3)));
        assert_eq!(circuit.missed(at(2), at(3)), Turn::Opened);
        assert!(!circuit.lets_through(at(3)));
        assert!(circuit.lets_through(at(4)));
        assert!(!circuit.lets_through(at(4)));
        assert_eq!(circuit.missed(at(4), at(5)), Turn::Stayed);
        assert!(circuit.lets_through(at(5)));
        assert_eq!(circuit.answered(at(5)), Turn::Closed);
        assert!(circuit.lets_through(at(5)));
    }

    #[test]
    fn what_was_asked_before_the_last_answer_counts_no_more() {
        let (circuit, start) = (Circuit::default(), Instant::now());
        circuit.answered(start + Duration::from_secs(1));
        for _ in 0..200 {
            assert_eq!(circuit.missed(start, start), Turn::Stayed);
        }
        assert!(circuit.lets_through(start));
    }
}
