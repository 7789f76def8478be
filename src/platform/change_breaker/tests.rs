//! The breaker for changes as a state machine, on a clock that the table moves.

use super::{Admission::*, *};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A change ends.
    Change(Answer),
    /// A read that a client asked for ends.
    Read(Answer),
    /// The probe ends.
    Probe(Answer),
    /// A change asks for leave, and gets this answer.
    Admit(Admission),
    Advance(Duration),
}
use Event::{Admit, Advance, Change, Probe as ProbeEnds, Read};

#[derive(Clone, Copy, Debug)]
enum Answer {
    Good,
    Bad,
    Missing,
}
use Answer::{Bad, Good, Missing};

fn evidence(answer: Answer) -> Evidence {
    match answer {
        Good => Evidence::Readable,
        Bad => Evidence::Unreadable("html".to_owned()),
        Missing => Evidence::None,
    }
}

/// Without jitter, so that the table can name the times.
fn wait(failed: u32) -> Duration {
    SECOND * (1 << (failed - 1))
}

fn run(events: &[Event]) {
    let mut now = Instant::now();
    let mut state = State::Closed { unreadable: 0 };
    for (step, event) in events.iter().enumerate() {
        match *event {
            Change(answer) => state.change_ended(evidence(answer), now),
            Read(answer) => state.read_ended(&evidence(answer)),
            ProbeEnds(answer) => {
                state.read_ended(&evidence(answer));
                state.probe_ended(evidence(answer), now, wait);
            }
            Advance(time) => now += time,
            Admit(expected) => {
                let looked = state.look(now);
                let admission = state.admit(now);
                assert_eq!(looked, admission, "step {step} of {events:?}");
                assert_eq!(admission, expected, "step {step} of {events:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_for_changes_is_this_table() {
    let opened = [Change(Bad), Change(Bad), Change(Bad)];
    let after_opening = |events: &[Event]| run(&[&opened, events].concat());

    // Three in a row open it; a readable change in between begins anew, others show nothing.
    run(&[Change(Bad), Change(Bad), Admit(Send)]);
    run(&[
        Change(Bad),
        Change(Bad),
        Change(Good),
        Change(Bad),
        Change(Bad),
        Admit(Send),
    ]);
    run(&[
        Change(Bad),
        Read(Good),
        Change(Missing),
        Read(Bad),
        Change(Bad),
        Admit(Send),
    ]);
    run(&[
        Change(Bad),
        Read(Good),
        Change(Bad),
        Change(Missing),
        Change(Bad),
        Admit(ProbeFirst),
    ]);

    // The first probe is due at once; one at a time.
    after_opening(&[Admit(ProbeFirst), Admit(Wait), Advance(SECOND), Admit(Wait)]);
    after_opening(&[Admit(ProbeFirst), ProbeEnds(Good), Admit(Send), Admit(Send)]);
    // Closed again, it counts from the beginning.
    after_opening(&[
        Admit(ProbeFirst),
        ProbeEnds(Good),
        Change(Bad),
        Change(Bad),
        Admit(Send),
        Change(Bad),
        Admit(ProbeFirst),
    ]);
    // Each failed probe doubles the wait.
    after_opening(&[
        Admit(ProbeFirst),
        ProbeEnds(Bad),
        Admit(Wait),
        Advance(SECOND),
        Admit(ProbeFirst),
        ProbeEnds(Bad),
        Advance(SECOND),
        Admit(Wait),
        Advance(SECOND),
        Admit(ProbeFirst),
        ProbeEnds(Good),
        Admit(Send),
    ]);
    // A probe that got no answer, or was dropped, leaves its turn to the next change.
    after_opening(&[Admit(ProbeFirst), ProbeEnds(Missing), Admit(ProbeFirst)]);
    // One that neither ended nor was dropped counts as lost.
    after_opening(&[
        Admit(ProbeFirst),
        Advance(PROBE_LOST),
        Admit(ProbeFirst),
        Admit(Wait),
    ]);
    // Any readable read closes it, also while a probe is in flight. Changes from before do not.
    after_opening(&[Read(Bad), Read(Missing), Change(Good), Admit(ProbeFirst)]);
    after_opening(&[Read(Good), Admit(Send)]);
    after_opening(&[
        Admit(ProbeFirst),
        Read(Good),
        Admit(Send),
        ProbeEnds(Bad),
        Admit(Send),
    ]);
}

#[test]
fn what_an_outcome_shows_about_answers_is_this_table() {
    const READABLE: &str = "readable";
    const UNREADABLE: &str = "unreadable";
    const NOTHING: &str = "nothing";
    let (text, retry_after) = (String::new, SECOND);
    let refused = |code: Code, for_token, proven| PlatformError::Refused {
        code,
        message: text(),
        occupation: None,
        for_token,
        proven,
    };
    let name = |evidence| match evidence {
        Evidence::Readable => READABLE,
        Evidence::Unreadable(_) => UNREADABLE,
        Evidence::None => NOTHING,
    };
    let other = || Code::Other("504".to_owned());
    let unknown = PlatformError::OutcomeUnknown {
        detail: text(),
        timed_out: true,
    };
    let unreachable = PlatformError::Unreachable {
        detail: text(),
        retry_after,
    };
    let unreadable = PlatformError::Unreadable {
        detail: text(),
        retry_after,
    };
    let held_back = PlatformError::HeldBack {
        outage: Outage::Unreadable { detail: text() },
        since: SystemTime::UNIX_EPOCH,
        retry_after,
    };
    let token_refused = PlatformError::TokenRefused { message: text() };
    // An outcome; what it shows as that of a change, and as that of a read.
    for (error, change, read) in [
        (None, READABLE, READABLE),
        (Some(refused(Code::Busy, false, true)), READABLE, READABLE),
        (Some(refused(other(), false, true)), READABLE, UNREADABLE),
        (
            Some(refused(Code::Busy, false, false)),
            UNREADABLE,
            READABLE,
        ),
        (Some(refused(other(), false, false)), UNREADABLE, UNREADABLE),
        (Some(refused(Code::Busy, true, true)), NOTHING, NOTHING),
        (Some(token_refused), READABLE, READABLE),
        (Some(unknown), UNREADABLE, UNREADABLE),
        (Some(unreachable), NOTHING, UNREADABLE),
        (Some(unreadable), NOTHING, UNREADABLE),
        (Some(PlatformError::DeadlineExceeded), NOTHING, UNREADABLE),
        (
            Some(PlatformError::Overloaded { retry_after }),
            NOTHING,
            NOTHING,
        ),
        (Some(held_back), NOTHING, NOTHING),
        (
            Some(PlatformError::UnknownAccount(text())),
            NOTHING,
            NOTHING,
        ),
        (
            Some(PlatformError::CredentialsUnreadable(text())),
            NOTHING,
            NOTHING,
        ),
    ] {
        assert_eq!(
            name(Evidence::of_change(error.as_ref())),
            change,
            "{error:?}"
        );
        assert_eq!(name(Evidence::of_read(error.as_ref())), read, "{error:?}");
    }
}
