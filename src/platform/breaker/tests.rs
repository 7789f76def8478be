//! The breaker on a clock that stands still.

use prometheus_client::registry::Registry;
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> Arc<Breaker> {
    let metrics = PlatformMetrics::register(&mut Registry::default());
    let config = PlatformConfig::default();
    Arc::new(Breaker::new("default", &config, metrics))
}

fn unreachable() -> PlatformError {
    PlatformError::Unreachable {
        detail: "connection refused".into(),
        retry_after: SECOND,
    }
}

fn refused(code: Code) -> PlatformError {
    PlatformError::Refused {
        code,
        message: "描述".into(),
        occupation: None,
        for_token: false,
        proven: true,
    }
}

fn unknown() -> PlatformError {
    PlatformError::OutcomeUnknown {
        detail: String::new(),
        timed_out: false,
    }
}

/// A call that is let through and ends so.
#[expect(clippy::needless_pass_by_value, reason = "reads better at each call")]
fn call(breaker: &Arc<Breaker>, error: Option<PlatformError>) {
    breaker
        .pass()
        .unwrap_or_else(|error| panic!("{error}"))
        .tell(error.as_ref());
}

/// How long callers are asked to wait; `None` where calls are let through.
fn held_back(breaker: &Arc<Breaker>) -> Option<Duration> {
    let pass = breaker.pass();
    match pass.err()? {
        PlatformError::HeldBack { retry_after, .. } => Some(retry_after),
        error => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn five_calls_in_a_row_that_reach_nobody_open_it_and_fewer_do_not() {
    let breaker = breaker();
    for between in [None, Some(refused(Code::Busy)), Some(unknown())] {
        for _ in 0..4 {
            call(&breaker, Some(unreachable()));
        }
        call(&breaker, between);
    }
    for _ in 0..4 {
        call(&breaker, Some(unreachable()));
    }
    // What never got as far counts for neither side.
    call(
        &breaker,
        Some(PlatformError::Overloaded {
            retry_after: SECOND,
        }),
    );
    drop(breaker.pass());
    assert_eq!(held_back(&breaker), None);
    call(&breaker, Some(unreachable()));
    assert_eq!(held_back(&breaker), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn one_answer_of_maintenance_opens_it() {
    let breaker = breaker();
    call(&breaker, Some(refused(Code::UnderMaintenance)));
    let error = breaker.pass().err().unwrap();
    let PlatformError::HeldBack {
        outage,
        retry_after,
        ..
    } = error
    else {
        panic!("{error}");
    };
    let message = "描述".to_owned();
    assert_eq!(outage, Outage::Maintenance { message });
    assert_eq!(retry_after, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn each_probe_that_fails_doubles_the_wait_up_to_its_bound() {
    let breaker = breaker();
    call(&breaker, Some(refused(Code::UnderMaintenance)));
    for expected in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(held_back(&breaker), Some(expected * SECOND));
        advance(expected * SECOND).await;
        call(&breaker, Some(refused(Code::UnderMaintenance)));
    }
    // What keeps it open now is another trouble, with bounds of its own.
    advance(300 * SECOND).await;
    call(&breaker, Some(unreachable()));
    assert_eq!(held_back(&breaker), Some(60 * SECOND));
    advance(60 * SECOND).await;
    call(&breaker, None);
    // From the beginning.
    call(&breaker, Some(refused(Code::UnderMaintenance)));
    assert_eq!(held_back(&breaker), Some(2 * SECOND));
}

fn opened_by(error: &PlatformError) -> Arc<Breaker> {
    let breaker = breaker();
    for _ in 0..5 {
        if let Ok(pass) = breaker.pass() {
            pass.tell(Some(error));
        }
    }
    breaker
}

#[tokio::test(start_paused = true)]
async fn one_probe_goes_out_and_the_others_wait_for_it() {
    let breaker = opened_by(&unreachable());
    advance(SECOND).await;
    let probe = breaker.pass().unwrap_or_else(|error| panic!("{error}"));
    assert!(probe.is_probe());
    assert!(probe.still_good().is_ok());
    assert_eq!(held_back(&breaker), Some(PROBE_IS_OUT));
    probe.tell(None);
    let pass = breaker.pass().unwrap_or_else(|error| panic!("{error}"));
    assert!(!pass.is_probe());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_or_lost_makes_room_for_another() {
    let breaker = opened_by(&unreachable());
    advance(SECOND).await;
    drop(breaker.pass());
    let no_room = PlatformError::Overloaded {
        retry_after: SECOND,
    };
    call(&breaker, Some(no_room));
    let kept = breaker.pass().unwrap_or_else(|error| panic!("{error}"));
    advance(PROBE_LOST).await;
    call(&breaker, None);
    drop(kept);
    assert_eq!(held_back(&breaker), None);
}

#[tokio::test(start_paused = true)]
async fn any_answer_to_a_probe_closes_it_and_an_unreadable_one_only_proves_that_it_was_reached() {
    for (opened, probe, closes) in [
        (unreachable(), None, true),
        (unreachable(), Some(refused(Code::BadPhoneNumber)), true),
        (unreachable(), Some(unknown()), true),
        (unreachable(), Some(unreachable()), false),
        (refused(Code::UnderMaintenance), None, true),
        (
            refused(Code::UnderMaintenance),
            Some(refused(Code::Busy)),
            true,
        ),
        (refused(Code::UnderMaintenance), Some(unknown()), false),
        (refused(Code::UnderMaintenance), Some(unreachable()), false),
    ] {
        let breaker = opened_by(&opened);
        advance(10 * SECOND).await;
        let told = format!("{opened:?} {probe:?}");
        call(&breaker, probe);
        assert_eq!(held_back(&breaker).is_none(), closes, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_can_send_no_more_and_its_outcome_says_nothing_of_now() {
    let breaker = breaker();
    let before = || breaker.pass().unwrap_or_else(|error| panic!("{error}"));
    let (waiting, sent, also_sent) = (before(), before(), before());
    call(&breaker, Some(refused(Code::UnderMaintenance)));
    let error = waiting.still_good().unwrap_err();
    waiting.tell(Some(&error));
    sent.tell(None);
    also_sent.tell(Some(&refused(Code::UnderMaintenance)));
    assert_eq!(held_back(&breaker), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn calls_whose_time_runs_out_between_tries_that_reach_nobody_count_as_well() {
    let breaker = breaker();
    let given_up = || {
        let mut pass = breaker.pass().unwrap_or_else(|error| panic!("{error}"));
        pass.note(None);
        pass.note(Some("connection refused"));
    };
    for _ in 0..5 {
        assert_eq!(held_back(&breaker), None);
        given_up();
    }
    assert_eq!(held_back(&breaker), Some(SECOND));
    advance(SECOND).await;
    given_up();
    assert_eq!(held_back(&breaker), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn without_a_number_of_failures_unreachability_never_opens_it() {
    let metrics = PlatformMetrics::register(&mut Registry::default());
    let config = PlatformConfig {
        breaker_failures: 0,
        ..PlatformConfig::default()
    };
    let breaker = Arc::new(Breaker::new("default", &config, metrics));
    for _ in 0..100 {
        call(&breaker, Some(unreachable()));
    }
    assert_eq!(held_back(&breaker), None);
}
