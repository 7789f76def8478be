//! The life of a submission, as a pure function of its state and what happens.
//!
//! Everything that changes a record asks this table first. An event that has no place in a state
//! changes nothing and is an error of its sender.

use crate::proto::SubmissionState;

/// The state of one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The store knows nothing of it, or knows that it was never sent.
    Absent,
    /// It is durably recorded, and may have been sent.
    InFlight,
    /// The platform accepted it.
    Accepted,
    /// The platform provably refused it.
    Refused,
    /// It was sent, and nobody knows its outcome.
    Unknown,
}

/// Something that happens to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is recorded, just before it is sent.
    Intended,
    /// It provably did not reach the platform.
    NotSent,
    /// The platform answered that it accepted it.
    Accepted,
    /// The platform answered with a documented refusal.
    Refused,
    /// It was sent, and no answer proves anything.
    Unanswered,
    /// Whoever sent it has died before the outcome.
    Abandoned,
    /// Certain evidence shows that the platform accepted it.
    Evidence,
    /// A person states that the platform accepted it.
    SettledAccepted,
    /// A person states that it was not sent.
    SettledNotSent,
    /// It has been kept for long enough.
    Expired,
}

/// An event that has no place in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a submission that is {state:?}")]
pub(super) struct OutOfPlace {
    state: State,
    event: Event,
}

/// The state after an event.
pub(super) fn next(state: State, event: Event) -> Result<State, OutOfPlace> {
    use {Event as E, State as S};
    match (state, event) {
        (S::Absent, E::Intended) => Ok(S::InFlight),
        (S::InFlight, E::NotSent)
        | (S::Unknown, E::SettledNotSent)
        | (S::Accepted | S::Refused | S::Unknown, E::Expired) => Ok(S::Absent),
        // An answer is the last word, also after evidence, or after a person's.
        (S::InFlight | S::Accepted | S::Unknown, E::Accepted)
        | (S::Unknown, E::SettledAccepted)
        // A refusal that evidence contradicts was none.
        | (S::Accepted | S::Refused | S::Unknown, E::Evidence) => Ok(S::Accepted),
        (S::InFlight | S::Unknown, E::Refused) => Ok(S::Refused),
        (S::InFlight, E::Unanswered | E::Abandoned) => Ok(S::Unknown),
        (
            S::Absent | S::InFlight | S::Accepted | S::Refused | S::Unknown,
            E::Intended
            | E::NotSent
            | E::Accepted
            | E::Refused
            | E::Unanswered
            | E::Abandoned
            | E::Evidence
            | E::SettledAccepted
            | E::SettledNotSent
            | E::Expired,
        ) => Err(OutOfPlace { state, event }),
    }
}

impl From<SubmissionState> for State {
    fn from(state: SubmissionState) -> Self {
        match state {
            SubmissionState::Unspecified => Self::Absent,
            SubmissionState::InFlight => Self::InFlight,
            SubmissionState::Accepted => Self::Accepted,
            SubmissionState::Refused => Self::Refused,
            SubmissionState::Unknown => Self::Unknown,
        }
    }
}

impl From<State> for SubmissionState {
    fn from(state: State) -> Self {
        match state {
            State::Absent => Self::Unspecified,
            State::InFlight => Self::InFlight,
            State::Accepted => Self::Accepted,
            State::Refused => Self::Refused,
            State::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_submission_is_this_table() {
        use {Event as E, State as S};
        let states = [S::Absent, S::InFlight, S::Accepted, S::Refused, S::Unknown];
        let no = None;
        let (absent, in_flight, accepted, refused, unknown) = (
            Some(S::Absent),
            Some(S::InFlight),
            Some(S::Accepted),
            Some(S::Refused),
            Some(S::Unknown),
        );
        // One line an event; one column a state, in the order above.
        let table = [
            (E::Intended, [in_flight, no, no, no, no]),
            (E::NotSent, [no, absent, no, no, no]),
            (E::Accepted, [no, accepted, accepted, no, accepted]),
            (E::Refused, [no, refused, no, no, refused]),
            (E::Unanswered, [no, unknown, no, no, no]),
            (E::Abandoned, [no, unknown, no, no, no]),
            (E::Evidence, [no, no, accepted, accepted, accepted]),
            (E::SettledAccepted, [no, no, no, no, accepted]),
            (E::SettledNotSent, [no, no, no, no, absent]),
            (E::Expired, [no, no, absent, absent, absent]),
        ];
        for (event, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(next(state, event).ok(), expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn what_may_have_been_sent_becomes_absent_only_by_proof_a_person_or_age() {
        let ways = [Event::NotSent, Event::SettledNotSent, Event::Expired];
        for event in [
            Event::Intended,
            Event::Accepted,
            Event::Refused,
            Event::Unanswered,
            Event::Abandoned,
            Event::Evidence,
            Event::SettledAccepted,
        ]
        .into_iter()
        .chain(ways)
        {
            for state in [State::InFlight, State::Accepted, State::Unknown] {
                let is_gone = next(state, event) == Ok(State::Absent);
                assert!(!is_gone || ways.contains(&event), "{state:?} {event:?}");
            }
        }
    }
}
