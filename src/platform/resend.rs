//! The rule for sending again.

use std::time::Duration;

use crate::random;

/// What an operation does at the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only asks.
    Reads,
    /// It changes something, in most cases by dialling people.
    Changes,
}

/// What is known of a try after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing was sent.
    NotSent,
    /// The platform answered that it does not take the token (10001), and another takes its place.
    TokenRefused,
    /// The same, and the token stays: only this operation is refused.
    TokenKept,
    /// The platform answered with another code, which settles the try.
    Answered,
    /// An answer came with a code that does not prove that the platform did not act on a change.
    Unproven,
    /// Something was sent, and no answer came that could be read.
    NoReadableAnswer,
    /// Something was sent, and time ran out.
    TimedOut,
}

/// What has been tried of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// Tries that failed without the platform's refusal of the token.
    pub failed: u32,
    /// Tries that ended with the platform's refusal of the token.
    pub refused_tokens: u32,
}

/// What to do after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send again at once, with another token.
    WithAnotherToken,
    /// Send again after a pause.
    AfterPause,
    /// Report the failure.
    GiveUp,
}

/// How often an operation is tried, refusals of the token aside.
const MAX_TRIES: u32 = 3;

/// Decides whether to send an operation again. `tries` counts the last one.
///
/// **Never dial twice**: an operation that changes something goes out again
/// only when the platform has provably refused it, or nothing was sent. Nothing
/// else in this crate sends an operation again.
pub(super) fn next(effect: Effect, last: Known, tries: Tries) -> Next {
    let may_pause = tries.failed < MAX_TRIES;
    match (last, effect) {
        (Known::TokenRefused, _) if tries.refused_tokens < 2 => Next::WithAnotherToken,
        (Known::NotSent, _) | (Known::NoReadableAnswer | Known::TimedOut, Effect::Reads)
            if may_pause =>
        {
            Next::AfterPause
        }
        (
            Known::TokenRefused
            | Known::TokenKept
            | Known::NotSent
            | Known::Answered
            | Known::Unproven
            | Known::NoReadableAnswer
            | Known::TimedOut,
            _,
        ) => Next::GiveUp,
    }
}

/// The pause before another try after `failed` failures: about 100 ms, doubled
/// each time, and jittered so that many callers do not come back together.
pub(super) fn pause(failed: u32) -> Duration {
    backoff(failed, Duration::from_millis(100), Duration::from_secs(2))
}

/// Exponential backoff: `first` doubled for each failure after the first, at
/// most `most`, of which a random share between a half and all.
pub(super) fn backoff(failed: u32, first: Duration, most: Duration) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    let whole = first.saturating_mul(1 << doublings).min(most);
    whole.mul_f64(0.5 + random::share() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::{Effect::*, Known::*, Next::*, *};

    #[test]
    fn the_rule_for_sending_again_is_this_table() {
        let table = [
            // effect, last try, failed, refused tokens, next
            (Reads, NotSent, 1, 0, AfterPause),
            (Reads, NotSent, 2, 0, AfterPause),
            (Reads, NotSent, 3, 0, GiveUp),
            (Reads, TokenRefused, 0, 1, WithAnotherToken),
            (Reads, TokenRefused, 0, 2, GiveUp),
            (Reads, TokenRefused, 2, 1, WithAnotherToken),
            (Reads, TokenKept, 0, 1, GiveUp),
            (Reads, TokenKept, 0, 2, GiveUp),
            (Reads, Answered, 1, 0, GiveUp),
            (Reads, Unproven, 1, 0, GiveUp),
            (Reads, NoReadableAnswer, 1, 0, AfterPause),
            (Reads, NoReadableAnswer, 2, 1, AfterPause),
            (Reads, NoReadableAnswer, 3, 0, GiveUp),
            (Reads, TimedOut, 1, 0, AfterPause),
            (Reads, TimedOut, 3, 0, GiveUp),
            (Changes, NotSent, 1, 0, AfterPause),
            (Changes, NotSent, 2, 1, AfterPause),
            (Changes, NotSent, 3, 0, GiveUp),
            (Changes, TokenRefused, 0, 1, WithAnotherToken),
            (Changes, TokenRefused, 0, 2, GiveUp),
            (Changes, TokenRefused, 2, 1, WithAnotherToken),
            (Changes, TokenKept, 0, 1, GiveUp),
            (Changes, TokenKept, 0, 2, GiveUp),
            (Changes, Answered, 1, 0, GiveUp),
            (Changes, Unproven, 1, 0, GiveUp),
            (Changes, Unproven, 0, 1, GiveUp),
            (Changes, NoReadableAnswer, 1, 0, GiveUp),
            (Changes, NoReadableAnswer, 1, 1, GiveUp),
            (Changes, TimedOut, 1, 0, GiveUp),
        ];
        for (effect, last, failed, refused_tokens, expected) in table {
            let tries = Tries {
                failed,
                refused_tokens,
            };
            assert_eq!(
                next(effect, last, tries),
                expected,
                "{effect:?} {last:?} {tries:?}"
            );
        }
    }

    #[test]
    fn backoff_grows_to_its_bound_and_stays_there() {
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(30));
        for failed in 0..100 {
            let pause = backoff(failed, first, most);
            assert!(pause >= first / 2 && pause <= most, "{failed}: {pause:?}");
        }
        assert!(backoff(50, first, most) >= most / 2);
    }
}
