//! Refusals, backoff, attempts, and dead letters.

use std::time::{Duration, Instant};

use yeta_gateway::push::Position;
use yeta_gateway::store::subscriptions::{AckOutcome, Backoff, Change, DeadLetter, Nack, Spec};

use super::{
    Engine, LONG, NAME, Opened, SHORT, after, assert_waits, at_once, attempts, content, contents,
    id_of, ids, numbered, park, spec, take, take_one,
};
use crate::support::eventually;

fn by_backoff(reason: &str) -> Nack {
    Nack::Retry {
        delay: None,
        reason: reason.to_owned(),
    }
}

fn backoff(minimum: Duration, maximum: Duration) -> Spec {
    let mut spec = spec(LONG);
    spec.backoff = Backoff { minimum, maximum };
    spec
}

fn attempts_bounded(max_attempts: u32) -> Spec {
    let mut spec = spec(LONG);
    spec.max_attempts = max_attempts;
    spec
}

async fn dead(opened: &Opened) -> Vec<DeadLetter> {
    let letters = opened.dead_letters(NAME, Position::START, 1000).await;
    letters.unwrap()
}

fn dead_contents(letters: &[DeadLetter]) -> Vec<String> {
    let texts = letters.iter().map(|letter| letter.entry.raw.to_vec());
    texts.map(|text| String::from_utf8(text).unwrap()).collect()
}

#[tokio::test]
async fn what_is_refused_comes_again_at_once_as_the_next_attempt() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    for attempt in 1..5 {
        let held = take_one(&mut member).await;
        assert_eq!(held.attempt, attempt);
        assert_eq!(
            opened.nack_one(&held, by_backoff("no")).await,
            AckOutcome::Ok
        );
    }
}

#[tokio::test]
async fn a_delay_of_zero_is_at_once_whatever_the_backoff() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, backoff(LONG, LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    opened.nack_one(&held, at_once("no")).await;
    assert_eq!(take_one(&mut member).await.attempt, 2);
}

#[tokio::test]
async fn what_is_refused_with_a_delay_comes_after_it_and_holds_up_no_other() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a", "b", "c"]).await;
    let held = take_one(&mut member).await;
    assert_eq!(content(&held), "a");
    opened.nack_one(&held, after(LONG, "no")).await;
    let held = take_one(&mut member).await;
    assert_eq!(content(&held), "b");
    let refused = Instant::now();
    opened.nack_one(&held, after(SHORT, "no")).await;
    assert_eq!(content(&take_one(&mut member).await), "c");
    let mut other = opened.member(10).await;
    let again = take_one(&mut other).await;
    assert!(refused.elapsed() >= SHORT);
    assert_eq!((content(&again), again.attempt), ("b".into(), 2));
    assert_waits(&mut other).await;
}

#[tokio::test]
async fn the_backoff_doubles_with_each_failed_attempt() {
    let engine = Engine::new();
    let unit = Duration::from_millis(40);
    let opened = Opened::with(&engine, backoff(unit, LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    let mut held = take_one(&mut member).await;
    for factor in [1, 2, 4, 8] {
        let refused = Instant::now();
        opened.nack_one(&held, by_backoff("no")).await;
        held = take_one(&mut member).await;
        assert!(refused.elapsed() >= factor * unit, "after {factor}");
    }
}

#[tokio::test]
async fn the_backoff_has_a_maximum() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, backoff(LONG, SHORT)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    let refused = Instant::now();
    opened.nack_one(&held, by_backoff("no")).await;
    take_one(&mut member).await;
    assert!(refused.elapsed() >= SHORT);
    let table = Backoff {
        minimum: SHORT,
        maximum: 5 * SHORT,
    };
    let waits: Vec<_> = (1..=5).map(|attempts| table.after(attempts)).collect();
    assert_eq!(waits, [1, 2, 4, 5, 5].map(|factor| factor * SHORT));
    assert_eq!(table.after(u32::MAX), 5 * SHORT);
}

#[tokio::test]
async fn a_second_refusal_of_the_same_delivery_burns_no_second_attempt() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    assert_eq!(
        opened.nack_one(&held, after(SHORT, "no")).await,
        AckOutcome::Ok
    );
    opened.nack_one(&held, after(SHORT, "no")).await;
    let again = take_one(&mut member).await;
    assert_eq!(again.attempt, 2);
    assert_eq!(opened.ack_one(&again).await, AckOutcome::Ok);
    assert_eq!(
        opened.nack_one(&again, at_once("no")).await,
        AckOutcome::Unknown
    );
}

#[tokio::test]
async fn what_is_parked_is_a_dead_letter_with_its_reason_and_is_settled() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    let end = opened.append(["a", "b"]).await;
    let held = take(&mut member, 2).await;
    opened.ack_all(&held[1..]).await;
    engine.pass(LONG);
    assert_eq!(
        opened.nack_one(&held[0], park("poison")).await,
        AckOutcome::Ok
    );
    let letters = dead(&opened).await;
    assert_eq!(dead_contents(&letters), ["a"]);
    assert_eq!((&*letters[0].reason, letters[0].attempts), ("poison", 1));
    assert_eq!(letters[0].entry.cursor.position, Position(1));
    let parked_at = letters[0].parked_at;
    assert!(parked_at >= letters[0].entry.received_at(), "{parked_at:?}");
    let info = opened.info().await;
    assert_eq!((info.place, info.unacked, info.dead_letters), (end, 0, 1));
    assert_eq!(opened.ack_one(&held[0]).await, AckOutcome::Unknown);
    assert_eq!(dead(&opened).await.len(), 1);
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn at_the_bound_an_entry_refused_is_parked_with_the_last_reason() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(3)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    for attempt in 1..=3 {
        assert_eq!(opened.info().await.dead_letters, 0);
        let held = take_one(&mut member).await;
        assert_eq!(held.attempt, attempt);
        opened
            .nack_one(&held, at_once(&format!("reason {attempt}")))
            .await;
    }
    let letters = dead(&opened).await;
    assert_eq!(dead_contents(&letters), ["a"]);
    assert_eq!((&*letters[0].reason, letters[0].attempts), ("reason 3", 3));
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn at_the_bound_an_entry_overdue_is_parked_whether_anybody_asks_or_not() {
    let engine = Engine::new();
    let mut once = attempts_bounded(1);
    once.ack_deadline = SHORT;
    let opened = Opened::with(&engine, once).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    let letters = eventually("a dead letter", async || {
        Some(dead(&opened).await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!(
        (dead_contents(&letters), letters[0].attempts),
        (vec!["a".into()], 1)
    );
    assert_ne!(letters[0].reason, "");
    assert_eq!(opened.ack_one(&held).await, AckOutcome::Unknown);
    assert_eq!(opened.info().await.dead_letters, 1);
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn refusals_and_deadlines_count_together() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(3)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    opened.nack_one(&held, at_once("no")).await;
    let held = take_one(&mut member).await;
    opened.extend_one(&held, Some(SHORT)).await;
    let held = take_one(&mut member).await;
    assert_eq!(held.attempt, 3);
    opened.nack_one(&held, at_once("never")).await;
    assert_eq!(dead(&opened).await[0].attempts, 3);
}

#[tokio::test]
async fn a_bound_of_zero_is_none() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(0)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    for attempt in 1..50 {
        let held = take_one(&mut member).await;
        assert_eq!(held.attempt, attempt);
        opened.nack_one(&held, at_once("no")).await;
    }
    assert_eq!(opened.info().await.dead_letters, 0);
}

/// Ten entries, each parked after two failed attempts.
async fn ten_dead(opened: &Opened) {
    let mut member = opened.member(10).await;
    opened.append(numbered(0..10)).await;
    for reason in ["no", "never"] {
        let held = take(&mut member, 10).await;
        opened
            .nack(NAME, &ids(&held), at_once(reason))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn dead_letters_are_listed_in_log_order_page_by_page() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(2)).await;
    ten_dead(&opened).await;
    let mut listed = Vec::new();
    let mut last = Position::START;
    loop {
        let page = opened.dead_letters(NAME, last, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(letter) = page.last() else { break };
        last = letter.entry.cursor.position;
        listed.extend(page);
    }
    assert_eq!(dead_contents(&listed), numbered(0..10));
    assert!(
        listed
            .iter()
            .all(|l| l.attempts == 2 && l.reason == "never")
    );
}

#[tokio::test]
async fn dead_letters_are_delivered_again_some_with_attempts_from_the_beginning() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(2)).await;
    ten_dead(&opened).await;
    let some = ["push 3", "push 7", "no dead letter"].map(|text| id_of("default", text));
    assert_eq!(opened.redrive(NAME, Some(&some)).await.unwrap(), 2);
    assert_eq!(opened.redrive(NAME, Some(&some)).await.unwrap(), 0);
    assert_eq!(opened.redrive(NAME, Some(&[])).await.unwrap(), 0);
    let mut member = opened.member(10).await;
    let mut again = take(&mut member, 2).await;
    assert_eq!(attempts(&again), [1, 1]);
    again.sort_by_key(|delivery| delivery.entry.cursor.position);
    assert_eq!(contents(&again), ["push 3", "push 7"]);
    opened.ack_all(&again[..1]).await;
    opened.nack_one(&again[1], at_once("no")).await;
    let second = take_one(&mut member).await;
    assert_eq!(second.attempt, 2);
    opened.nack_one(&second, at_once("again")).await;
    let letters = dead(&opened).await;
    let mut left = numbered(0..10);
    left.remove(3);
    assert_eq!(dead_contents(&letters), left);
    assert_eq!((letters[6].attempts, &*letters[6].reason), (2, "again"));
}

#[tokio::test]
async fn dead_letters_are_delivered_again_all() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(2)).await;
    ten_dead(&opened).await;
    let mut member = opened.member(100).await;
    assert_eq!(opened.redrive(NAME, None).await.unwrap(), 10);
    assert_eq!(opened.redrive(NAME, None).await.unwrap(), 0);
    assert_eq!(opened.info().await.dead_letters, 0);
    let again = take(&mut member, 10).await;
    assert_eq!(attempts(&again), [1; 10]);
    let mut texts = contents(&again);
    texts.sort();
    assert_eq!(texts, numbered(0..10));
    opened.ack_all(&again).await;
    assert!(dead(&opened).await.is_empty());
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn an_ack_id_of_before_the_parking_does_not_count_for_what_is_delivered_again() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let first = take_one(&mut member).await;
    opened.nack_one(&first, at_once("no")).await;
    let second = take_one(&mut member).await;
    opened.nack_one(&second, park("no")).await;
    opened.redrive(NAME, None).await.unwrap();
    for old in [&first, &second] {
        assert_eq!(opened.ack_one(old).await, AckOutcome::Superseded);
        assert_eq!(
            opened.nack_one(old, park("no")).await,
            AckOutcome::Superseded
        );
    }
    let new = take_one(&mut member).await;
    assert_eq!(new.attempt, 1);
    for old in [&first, &second] {
        assert_eq!(opened.ack_one(old).await, AckOutcome::Superseded);
    }
    assert_eq!(opened.ack_one(&new).await, AckOutcome::Ok);
}

#[tokio::test]
async fn the_bound_may_change_while_members_are_connected() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(0)).await;
    let mut member = opened.member(10).await;
    opened.append(["a", "b"]).await;
    for _ in 0..3 {
        let held = take(&mut member, 2).await;
        opened.nack(NAME, &ids(&held), at_once("no")).await.unwrap();
    }
    let held = take(&mut member, 2).await;
    assert_eq!(attempts(&held), [4, 4]);
    let to = |bound| Change {
        max_attempts: Some(bound),
        ..Change::default()
    };
    opened.change(to(4)).await;
    opened.nack_one(&held[0], at_once("no")).await;
    assert_eq!(dead(&opened).await[0].attempts, 4);
    opened.change(to(5)).await;
    opened.nack_one(&held[1], at_once("no")).await;
    assert_eq!(take_one(&mut member).await.attempt, 5);
}

#[tokio::test]
async fn the_backoff_may_change_while_members_are_connected() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, backoff(LONG, LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    opened
        .change(Change {
            backoff: Some(Backoff::default()),
            ..Change::default()
        })
        .await;
    opened.nack_one(&held, by_backoff("no")).await;
    assert_eq!(take_one(&mut member).await.attempt, 2);
}

#[tokio::test]
async fn a_poison_entry_does_not_hold_up_the_others() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, attempts_bounded(4)).await;
    let mut member = opened.member(5).await;
    let end = opened.append(numbered(0..100)).await;
    let mut acknowledged = 0;
    while acknowledged < 99 {
        for delivery in super::some(&mut member).await {
            if content(&delivery) == "push 10" {
                opened.nack_one(&delivery, at_once("poison")).await;
            } else {
                opened.ack_all(&[delivery]).await;
                acknowledged += 1;
            }
        }
    }
    // The poison's last attempts may still be to come.
    while opened.info().await.dead_letters == 0 {
        let held = take_one(&mut member).await;
        opened.nack_one(&held, at_once("poison")).await;
    }
    assert_eq!(dead_contents(&dead(&opened).await), ["push 10"]);
    assert_eq!(opened.info().await.place, end);
}

#[tokio::test]
async fn dead_letters_are_delivered_again_all_however_many() {
    const MANY: usize = 10_500;
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..MANY)).await;
    let mut member = opened.member(MANY).await;
    let mut parked = 0;
    while parked < MANY {
        let held = super::some(&mut member).await;
        parked += held.len();
        opened.nack(NAME, &ids(&held), park("no")).await.unwrap();
    }
    assert_eq!(opened.info().await.dead_letters, MANY as u64);
    assert_eq!(opened.redrive(NAME, None).await.unwrap(), MANY as u64);
    assert_eq!(opened.info().await.dead_letters, 0);
}
