//! Deadlines, their extension, and a clock that never jumps.

use std::time::{Duration, Instant};

use yeta_gateway::store::subscriptions::{AckOutcome, Backoff, Change, Nack};

use super::{
    Engine, LONG, NAME, Opened, SHORT, assert_waits, content, contents, ids, spec, take, take_one,
    until_overdue,
};

#[tokio::test]
async fn what_is_kept_longer_than_the_deadline_goes_to_another_member_as_the_second_attempt() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut slow = opened.member(1).await;
    let mut quick = opened.member(1).await;
    opened.append(["a"]).await;
    let started = Instant::now();
    let first = take_one(&mut slow).await;
    let second = take_one(&mut quick).await;
    assert!(started.elapsed() >= SHORT);
    assert_eq!(
        (content(&second), first.attempt, second.attempt),
        ("a".into(), 1, 2)
    );
    assert_ne!(first.ack_id, second.ack_id);
}

#[tokio::test]
async fn what_is_kept_longer_than_the_deadline_goes_to_the_same_member_if_it_asks() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    for attempt in 1..=4 {
        let delivery = take_one(&mut member).await;
        assert_eq!(delivery.attempt, attempt);
    }
}

#[tokio::test]
async fn what_has_been_taken_away_leaves_its_member_room() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut slow = opened.member(1).await;
    let end = opened.append(["a"]).await;
    take_one(&mut slow).await;
    opened
        .change(Change {
            ack_deadline: Some(LONG),
            ..Change::default()
        })
        .await;
    until_overdue(&opened, end).await;
    let mut other = opened.member(1).await;
    assert_eq!(take_one(&mut other).await.attempt, 2);
    opened.append(["b"]).await;
    assert_eq!(content(&take_one(&mut slow).await), "b");
}

#[tokio::test]
async fn an_extension_keeps_an_entry() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(Duration::from_secs(2))).await;
    let mut member = opened.member(10).await;
    opened.append(["kept", "let go"]).await;
    let held = take(&mut member, 2).await;
    assert_eq!(
        opened.extend_one(&held[0], Some(LONG)).await,
        AckOutcome::Ok
    );
    let again = take_one(&mut member).await;
    assert_eq!((content(&again), again.attempt), ("let go".into(), 2));
    assert_waits(&mut member).await;
    opened.ack_all(&[held[0].clone()]).await;
}

#[tokio::test]
async fn an_extension_counts_from_the_moment_it_is_asked_for() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    let asked = Instant::now();
    assert_eq!(opened.extend_one(&held, Some(SHORT)).await, AckOutcome::Ok);
    assert_eq!(take_one(&mut member).await.attempt, 2);
    assert!(asked.elapsed() >= SHORT);
}

#[tokio::test]
async fn an_extension_without_a_time_is_by_the_ack_deadline() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    opened
        .change(Change {
            ack_deadline: Some(SHORT),
            ..Change::default()
        })
        .await;
    assert_eq!(opened.extend_one(&held, None).await, AckOutcome::Ok);
    assert_eq!(take_one(&mut member).await.attempt, 2);
}

#[tokio::test]
async fn an_extension_is_told_what_became_of_each_id() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["acknowledged", "again", "out"]).await;
    let held = take(&mut member, 3).await;
    opened.ack_all(&held[..1]).await;
    opened.nack_one(&held[1], super::at_once("")).await;
    take_one(&mut member).await;
    let mut asked = ids(&held);
    asked.push("no ack id".into());
    assert_eq!(
        opened.extend(NAME, &asked, Some(LONG)).await.unwrap(),
        [
            AckOutcome::Unknown,
            AckOutcome::Superseded,
            AckOutcome::Ok,
            AckOutcome::Unknown
        ]
    );
}

#[tokio::test]
async fn an_extension_after_the_deadline_is_too_late() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut member = opened.member(10).await;
    let end = opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    until_overdue(&opened, end).await;
    assert_eq!(
        opened.extend_one(&held, Some(LONG)).await,
        AckOutcome::Unknown
    );
    assert_eq!(take_one(&mut member).await.attempt, 2);
}

#[tokio::test]
async fn an_entry_overdue_waits_for_the_backoff_too() {
    let engine = Engine::new();
    let mut spec = spec(SHORT);
    spec.backoff = Backoff {
        minimum: 2 * SHORT,
        maximum: LONG,
    };
    let opened = Opened::with(&engine, spec).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let appended = Instant::now();
    take_one(&mut member).await;
    assert_eq!(take_one(&mut member).await.attempt, 2);
    assert!(appended.elapsed() >= 3 * SHORT);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_moves_no_deadline_and_no_delay() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["out", "refused"]).await;
    let held = take(&mut member, 2).await;
    opened.nack_one(&held[1], super::after(LONG, "later")).await;
    engine.pass(5 * LONG);
    opened.append(["b"]).await;
    let mut other = opened.member(10).await;
    assert_eq!(content(&take_one(&mut other).await), "b");
    assert_waits(&mut other).await;
    assert_eq!(opened.info().await.redelivered, 0);
    opened.ack_all(&held[..1]).await;
}

#[tokio::test]
async fn a_clock_that_jumps_back_moves_no_deadline_and_no_delay() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut member = opened.member(10).await;
    opened.append(["out", "refused"]).await;
    let held = take(&mut member, 2).await;
    let delay = Nack::Retry {
        delay: Some(SHORT),
        reason: String::new(),
    };
    opened.nack_one(&held[1], delay).await;
    engine
        .now_ms
        .fetch_sub(5 * 3_600_000, std::sync::atomic::Ordering::SeqCst);
    let mut other = opened.member(1).await;
    let mut again = Vec::new();
    while again.len() < 2 {
        let one = take_one(&mut other).await;
        assert_eq!(one.attempt, 2);
        opened.ack_all(std::slice::from_ref(&one)).await;
        again.push(one);
    }
    let mut again = contents(&again);
    again.sort();
    assert_eq!(again, ["out", "refused"]);
}

#[tokio::test]
async fn deadlines_are_each_entrys_own() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(super::numbered(0..20)).await;
    let held = take(&mut member, 20).await;
    let (even, odd): (Vec<_>, Vec<_>) = held
        .into_iter()
        .partition(|d| d.entry.cursor.position.0 % 2 == 0);
    opened.extend(NAME, &ids(&even), Some(SHORT)).await.unwrap();
    let mut again = take(&mut member, 10).await;
    again.sort_by_key(|d| d.entry.cursor.position);
    assert_eq!(contents(&again), contents(&even));
    opened.ack_all(&odd).await;
    opened.ack_all(&again).await;
    assert_eq!(opened.info().await.unacked, 0);
}
