//! How tasks are asked about, and what is read from the answers.

use std::collections::BTreeSet;

use super::*;

const NOW: u64 = 1_795_240_800_000;

fn task(status: TaskStatus) -> Task {
    Task {
        task_id: "1".into(),
        status: status.into(),
        count_tel: Some(10),
        process_tel_count: Some(4),
        ..Task::default()
    }
}

#[test]
fn how_far_a_task_has_come_is_read_from_its_state() {
    use OverdueReason::{TaskDeleted, TaskExpired, TaskFinished};
    for (task, stage) in [
        (None, Stage::Ended(TaskDeleted, NOW)),
        (
            Some(Task {
                deleted: Some(true),
                ..task(TaskStatus::Running)
            }),
            Stage::Ended(TaskDeleted, NOW),
        ),
        (
            Some(task(TaskStatus::Completed)),
            Stage::Ended(TaskFinished, NOW),
        ),
        (
            Some(Task {
                time_task_finish: Some(1_795_240_000_000),
                ..task(TaskStatus::Completed)
            }),
            Stage::Ended(TaskFinished, 1_795_240_000_000),
        ),
        (
            Some(task(TaskStatus::Expired)),
            Stage::Ended(TaskExpired, NOW),
        ),
        (Some(task(TaskStatus::Running)), Stage::Open),
        (Some(task(TaskStatus::Paused)), Stage::Open),
        (Some(task(TaskStatus::New)), Stage::Open),
        (
            Some(Task {
                process_tel_count: Some(10),
                ..task(TaskStatus::AwaitingRecall)
            }),
            Stage::CalledAll(NOW),
        ),
        (
            Some(Task {
                process_tel_count: Some(10),
                ..task(TaskStatus::Paused)
            }),
            Stage::Open,
        ),
        (
            // The vendor's own example: redials are counted.
            Some(Task {
                count_tel: Some(4),
                process_tel_count: Some(7),
                ..task(TaskStatus::Running)
            }),
            Stage::Open,
        ),
    ] {
        assert_eq!(stage_of(task.as_ref(), NOW), stage, "{task:?}");
    }
}

#[test]
fn a_time_of_another_unit_or_of_the_future_is_not_believed() {
    for finish in [-1, 0, 1_795_240_000, 1_795_240_800_001, i64::MAX] {
        let task = Task {
            time_task_finish: Some(finish),
            ..task(TaskStatus::Completed)
        };
        let stage = stage_of(Some(&task), NOW);
        assert_eq!(stage, Stage::Ended(OverdueReason::TaskFinished, NOW));
    }
}

#[test]
fn those_that_have_waited_longest_are_asked_about_first_and_all_have_their_turn() {
    let mut tasks = Tasks::default();
    let all: BTreeSet<_> = (0..1000).map(|id| id.to_string()).collect();
    for id in &all {
        tasks.meet(id);
    }
    let mut asked = BTreeSet::new();
    for look in 0..5 {
        let now_ms = NOW + look * 60_000;
        for id in tasks.due(now_ms) {
            let known = tasks.known.get_mut(&id).unwrap();
            known.asked_ms = now_ms;
            known.learn(Stage::Open, now_ms, Duration::from_mins(1));
            assert!(asked.insert(id), "asked twice before the others once");
        }
    }
    assert_eq!(asked, all);
}

#[test]
fn what_is_known_of_a_task_is_known_since_it_was_first_said() {
    let mut tasks = Tasks::default();
    tasks.meet("1");
    let known = tasks.known.get_mut("1").unwrap();
    let pause = Duration::from_mins(1);
    let ended = |at| Stage::Ended(OverdueReason::TaskDeleted, at);
    known.learn(Stage::Open, NOW, pause);
    known.learn(ended(NOW + 1), NOW + 1, pause);
    known.learn(ended(NOW + 9), NOW + 9, pause);
    assert_eq!((known.stage, known.answered_ms), (ended(NOW + 1), NOW + 9));
    known.learn(Stage::Open, NOW + 10, pause);
    assert_eq!((known.stage, known.answered_ms), (Stage::Open, NOW + 10));
}

#[test]
fn a_clock_that_is_set_back_keeps_no_task_from_being_asked_about() {
    let mut tasks = Tasks::default();
    tasks.meet("1");
    let known = tasks.known.get_mut("1").unwrap();
    known.asked_ms = NOW;
    known.pause_ms = 60_000;
    assert_eq!(tasks.due(NOW + 1), [] as [String; 0]);
    assert_eq!(tasks.due(NOW - 1), ["1"]);
}

#[test]
fn what_is_known_outlives_a_look_that_was_put_off_and_not_one_that_did_not_meet_it() {
    let mut tasks = Tasks::default();
    tasks.meet("1");
    tasks.forget_others();
    let known = tasks.known.get_mut("1").unwrap();
    known.learn(Stage::CalledAll(NOW), NOW, Duration::from_mins(1));
    // A look that was put off meets nothing, and forgets nothing.
    assert_eq!(tasks.meet("1").stage, Stage::CalledAll(NOW));
    tasks.forget_others();
    assert_eq!(tasks.known.len(), 1);
    tasks.forget_others();
    assert_eq!(tasks.known.len(), 0);
}

#[test]
fn an_end_that_the_platform_dates_later_counts_from_then() {
    let mut tasks = Tasks::default();
    tasks.meet("1");
    let known = tasks.known.get_mut("1").unwrap();
    let ended = |at| Stage::Ended(OverdueReason::TaskFinished, at);
    let pause = Duration::from_mins(1);
    known.learn(ended(NOW), NOW + 5, pause);
    known.learn(ended(NOW + 7), NOW + 9, pause);
    assert_eq!(known.stage, ended(NOW + 7));
    // Where it gives no date, that of the first answer stays.
    known.learn(ended(NOW + 20), NOW + 20, pause);
    assert_eq!(known.stage, ended(NOW + 7));
}

#[test]
fn a_refusal_of_one_task_says_nothing_of_others_and_an_absent_platform_of_none() {
    let refused = |code: Code, for_token| PlatformError::Refused {
        code,
        message: String::new(),
        occupation: None,
        for_token,
        proven: true,
    };
    let said = |error| match said_by(&error, NOW) {
        Said::Stage(Stage::Ended(reason, _)) => reason.as_str_name(),
        Said::Stage(_) => "open",
        Said::Refused => "refused",
        Said::Away => "away",
    };
    let deleted = "OVERDUE_REASON_TASK_DELETED";
    assert_eq!(said(refused(Code::TaskNotFound, false)), deleted);
    assert_eq!(said(refused(Code::TaskDeleted, false)), deleted);
    let finished = "OVERDUE_REASON_TASK_FINISHED";
    assert_eq!(said(refused(Code::TaskCompleted, false)), finished);
    assert_eq!(said(refused(Code::InvalidParameter, false)), "refused");
    assert_eq!(said(refused(Code::Busy, false)), "away");
    assert_eq!(said(refused(Code::TokenNotAuthorized, true)), "away");
    assert_eq!(said(PlatformError::DeadlineExceeded), "away");
}
