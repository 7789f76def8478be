//! Ack ids name one delivery; late, doubled and foreign ones.

use yeta_gateway::push::Position;
use yeta_gateway::store::subscriptions::{AckOutcome, Change, SubscriptionError};

use super::{
    Engine, LONG, NAME, Opened, SHORT, assert_waits, at_once, attempts, content, contents, ids,
    numbered, park, spec, take, take_one, until_overdue, window,
};

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(numbered(0..10)).await;
    let held = take(&mut member, 10).await;
    opened.ack_all(&held[3..7]).await;
    drop(member);
    let mut member = opened.member(100).await;
    let mut again = contents(&take(&mut member, 6).await);
    again.sort();
    assert_eq!(again, [numbered(0..3), numbered(7..10)].concat());
    assert_waits(&mut member).await;
}

#[tokio::test]
async fn an_acknowledgement_after_the_deadline_counts_until_the_entry_is_handed_out_again() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let mut member = opened.member(1).await;
    let end = opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    until_overdue(&opened, end).await;
    assert_eq!(opened.ack_one(&held).await, AckOutcome::Ok);
    opened
        .change(Change {
            ack_deadline: Some(LONG),
            ..Change::default()
        })
        .await;
    opened.assert_only_new([]).await;
    assert_eq!(opened.info().await.redelivered, 0);
}

#[tokio::test]
async fn an_acknowledgement_of_an_earlier_delivery_is_superseded_and_changes_nothing() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    let (mut slow, mut quick) = (opened.member(1).await, opened.member(1).await);
    opened.append(["a"]).await;
    let first = take_one(&mut slow).await;
    opened
        .change(Change {
            ack_deadline: Some(LONG),
            ..Change::default()
        })
        .await;
    let second = take_one(&mut quick).await;
    assert_eq!(opened.ack_one(&first).await, AckOutcome::Superseded);
    assert_eq!(
        opened.nack_one(&first, at_once("late")).await,
        AckOutcome::Superseded
    );
    assert_eq!(
        opened.nack_one(&first, park("late")).await,
        AckOutcome::Superseded
    );
    assert_eq!(
        opened.extend_one(&first, Some(SHORT)).await,
        AckOutcome::Superseded
    );
    let info = opened.info().await;
    assert_eq!((info.unacked, info.dead_letters), (1, 0));
    assert_waits(&mut slow).await;
    assert_eq!(opened.ack_one(&second).await, AckOutcome::Ok);
    assert_eq!(opened.info().await.unacked, 0);
}

#[tokio::test]
async fn a_delivery_given_back_and_handed_out_again_supersedes_its_earlier_self() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(1).await;
    opened.append(["a"]).await;
    let first = take_one(&mut member).await;
    drop(member);
    let mut member = opened.member(1).await;
    let second = take_one(&mut member).await;
    assert_eq!(attempts(&[first.clone(), second.clone()]), [1, 1]);
    assert_ne!(first.ack_id, second.ack_id);
    assert_eq!(opened.ack_one(&first).await, AckOutcome::Superseded);
    assert_eq!(opened.ack_one(&second).await, AckOutcome::Ok);
}

#[tokio::test]
async fn a_second_acknowledgement_is_unknown() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a", "b"]).await;
    let held = take(&mut member, 2).await;
    // One that stands ahead of the place, and one that the place has passed.
    for delivery in [&held[1], &held[0]] {
        assert_eq!(opened.ack_one(delivery).await, AckOutcome::Ok);
        assert_eq!(opened.ack_one(delivery).await, AckOutcome::Unknown);
        assert_eq!(
            opened.nack_one(delivery, at_once("")).await,
            AckOutcome::Unknown
        );
        assert_eq!(
            opened.nack_one(delivery, park("")).await,
            AckOutcome::Unknown
        );
        assert_eq!(opened.extend_one(delivery, None).await, AckOutcome::Unknown);
    }
    opened.assert_only_new([]).await;
    assert_eq!(opened.info().await.dead_letters, 0);
}

#[tokio::test]
async fn an_id_given_twice_in_one_go_is_done_once() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a"]).await;
    let id = take_one(&mut member).await.ack_id;
    assert_eq!(
        opened.ack(NAME, &[id.clone(), id]).await.unwrap(),
        [AckOutcome::Ok, AckOutcome::Unknown]
    );
    assert_eq!(opened.info().await.unacked, 0);
}

#[tokio::test]
async fn ids_that_are_none_are_unknown_and_fail_no_other() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened
        .create("other", spec(LONG), Position::START)
        .await
        .unwrap();
    opened.append(numbered(0..3)).await;
    let mut member = opened.member(10).await;
    let mut theirs = opened.join("other", window(10)).await.unwrap();
    let (held, theirs) = (take(&mut member, 3).await, take(&mut theirs, 3).await);
    let id = &held[0].ack_id;
    let mut wrong = vec![
        theirs[1].ack_id.clone(),
        String::new(),
        "x".into(),
        "ΩΩ 听".into(),
        "A".repeat(100_000),
        "-1".into(),
        u64::MAX.to_string(),
        id[..id.len() - 1].to_owned(),
        format!("{id}0"),
        format!("{id}A"),
        format!(" {id}"),
    ];
    // Every text that differs in one place.
    for at in 0..id.len() {
        for with in ['0', '1', 'A', 'z', '_'] {
            let mut changed: Vec<char> = id.chars().collect();
            changed[at] = with;
            let changed: String = changed.into_iter().collect();
            if !held.iter().any(|held| held.ack_id == changed) {
                wrong.push(changed);
            }
        }
    }
    for text in &wrong {
        let outcome = opened.ack(NAME, std::slice::from_ref(text)).await.unwrap();
        assert_ne!(outcome, [AckOutcome::Ok], "{text:?} for {id:?}");
    }
    let among = [wrong[0].clone(), held[1].ack_id.clone(), wrong[1].clone()];
    assert_eq!(
        opened.ack(NAME, &among).await.unwrap(),
        [AckOutcome::Unknown, AckOutcome::Ok, AckOutcome::Unknown]
    );
    let all = opened
        .ack(NAME, &ids(&[held[0].clone(), held[2].clone()]))
        .await;
    assert_eq!(all.unwrap(), [AckOutcome::Ok; 2]);
    assert_eq!(opened.get("other").await.unwrap().unacked, 3);
}

#[tokio::test]
async fn no_ids_at_all_are_no_fault() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    assert_eq!(opened.ack(NAME, &[]).await.unwrap(), []);
    assert_eq!(opened.nack(NAME, &[], park("")).await.unwrap(), []);
    assert_eq!(opened.extend(NAME, &[], None).await.unwrap(), []);
}

#[tokio::test]
async fn a_member_that_leaves_gives_back_what_it_held_and_burns_no_attempt() {
    let engine = Engine::new();
    let mut once = spec(LONG);
    once.max_attempts = 1;
    // No attempt failed, so there is nothing to back off from.
    once.backoff.minimum = LONG;
    once.backoff.maximum = LONG;
    let opened = Opened::with(&engine, once).await;
    opened.append(numbered(0..5)).await;
    for _ in 0..5 {
        let mut member = opened.member(100).await;
        let held = take(&mut member, 5).await;
        assert_eq!(attempts(&held), [1; 5]);
    }
    let info = opened.info().await;
    assert_eq!(
        (info.unacked, info.dead_letters, info.redelivered),
        (5, 0, 20)
    );
    assert_eq!((info.members, info.place), (0, Position::START));
}

#[tokio::test]
async fn what_a_member_leaves_behind_goes_to_one_that_waits() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let (mut one, mut other) = (opened.member(10).await, opened.member(10).await);
    opened.append(["a"]).await;
    take_one(&mut one).await;
    let (again, ()) = tokio::join!(take_one(&mut other), async {
        tokio::task::yield_now().await;
        drop(one);
    });
    assert_eq!((content(&again), again.attempt), ("a".into(), 1));
}

#[tokio::test]
async fn an_acknowledgement_counts_after_the_member_has_gone() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a", "b"]).await;
    let held = take(&mut member, 2).await;
    drop(member);
    assert_eq!(opened.ack_one(&held[0]).await, AckOutcome::Ok);
    opened.assert_only_new(["b"]).await;
}

#[tokio::test]
async fn a_refusal_counts_after_the_member_has_gone() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a", "b"]).await;
    let held = take(&mut member, 2).await;
    drop(member);
    assert_eq!(opened.nack_one(&held[0], at_once("")).await, AckOutcome::Ok);
    assert_eq!(
        opened.nack_one(&held[1], park("poison")).await,
        AckOutcome::Ok
    );
    let mut member = opened.member(10).await;
    let again = take_one(&mut member).await;
    assert_eq!((content(&again), again.attempt), ("a".into(), 2));
    assert_eq!(opened.info().await.dead_letters, 1);
}

#[tokio::test]
async fn acknowledgements_in_any_order_settle_everything() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(1000).await;
    let end = opened.append(numbered(0..500)).await;
    let held = take(&mut member, 500).await;
    let mut ids = ids(&held);
    ids.reverse();
    for some in ids.chunks(37) {
        let outcomes = opened.ack(NAME, some).await.unwrap();
        assert_eq!(outcomes, vec![AckOutcome::Ok; some.len()]);
    }
    let info = opened.info().await;
    assert_eq!(
        (info.place, info.unacked, info.oldest_unacked),
        (end, 0, None)
    );
}

#[tokio::test]
async fn what_concerns_a_subscription_that_is_none_is_not_found() {
    let engine = Engine::new();
    let opened = engine.open().await;
    let id = ["x".to_owned()];
    let faults = [
        opened.ack(NAME, &id).await.map(drop),
        opened.nack(NAME, &id, park("")).await.map(drop),
        opened.extend(NAME, &id, None).await.map(drop),
        opened.get(NAME).await.map(drop),
        opened.update(NAME, Change::default()).await.map(drop),
        opened.delete(NAME).await,
        opened.seek(NAME, Position::START).await,
        opened.join(NAME, window(1)).await.map(drop),
        opened
            .dead_letters(NAME, Position::START, 10)
            .await
            .map(drop),
        opened.redrive(NAME, None).await.map(drop),
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        assert!(
            matches!(&fault, Err(SubscriptionError::NotFound(name)) if name == NAME),
            "{n}: {fault:?}"
        );
    }
}
