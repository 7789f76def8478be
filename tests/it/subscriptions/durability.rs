//! What is kept over a clean end, and what over kill −9 right after an answer.

use yeta_gateway::push::Position;
use yeta_gateway::store::subscriptions::{AckOutcome, Backoff, Change, Spec, SubscriptionError};

use super::{
    Engine, LONG, NAME, Opened, SHORT, after, at_once, attempts, content, contents, id_of,
    numbered, of_account, park, some, spec, take, take_one, window,
};
use crate::support::within;

#[tokio::test]
async fn opened_again_nothing_acknowledged_comes_back_and_everything_else_does() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(numbered(0..20)).await;
    let held = take(&mut member, 20).await;
    let (even, odd): (Vec<_>, Vec<_>) = held
        .into_iter()
        .partition(|d| d.entry.cursor.position.0 % 2 == 0);
    opened.ack_all(&even).await;
    opened.close().await;
    drop(member);

    let opened = engine.open().await;
    let mut member = opened.member(100).await;
    let mut again = take(&mut member, 10).await;
    again.sort_by_key(|d| d.entry.cursor.position);
    assert_eq!(contents(&again), contents(&odd));
    assert_eq!(attempts(&again), [1; 10]);
    opened.ack_all(&again).await;
    drop(member);
    opened.assert_only_new([]).await;
    opened.close().await;
    engine.open().await.assert_only_new([]).await;
}

#[tokio::test]
async fn opened_again_a_subscription_is_what_it_was() {
    let engine = Engine::new();
    let whole = Spec {
        filter: of_account("sales"),
        ack_deadline: LONG,
        max_attempts: 3,
        backoff: Backoff {
            minimum: SHORT,
            maximum: LONG,
        },
        paused: false,
    };
    let opened = Opened::with(&engine, whole).await;
    let mut member = opened.member(100).await;
    opened.append_to("sales", numbered(0..5)).await;
    let held = take(&mut member, 5).await;
    opened.ack_all(&held[..2]).await;
    opened.nack_one(&held[3], park("poison")).await;
    opened
        .change(Change {
            paused: Some(true),
            ..Change::default()
        })
        .await;
    let before = opened.info().await;
    let letters = opened
        .dead_letters(NAME, Position::START, 10)
        .await
        .unwrap();
    engine.pass(LONG);
    opened.close().await;
    drop(member);

    let opened = engine.open().await;
    let info = opened.info().await;
    assert_eq!((&info.name, &info.spec), (&before.name, &before.spec));
    assert_eq!(info.created_at, before.created_at);
    assert_eq!((info.place, info.members), (Position(2), 0));
    assert_eq!((info.dead_letters, info.lost), (1, 0));
    let kept = opened
        .dead_letters(NAME, Position::START, 10)
        .await
        .unwrap();
    assert_eq!(kept[0].entry.id, letters[0].entry.id);
    assert_eq!((&*kept[0].reason, kept[0].attempts), ("poison", 1));
    assert_eq!(kept[0].parked_at, letters[0].parked_at);
}

#[tokio::test]
async fn the_end_of_the_process_burns_no_attempt_and_forgives_none() {
    let engine = Engine::new();
    let mut twice = spec(LONG);
    twice.max_attempts = 2;
    let mut opened = Opened::with(&engine, twice).await;
    opened.append(["refused", "held"]).await;
    let mut member = opened.member(100).await;
    let held = take(&mut member, 2).await;
    opened.nack_one(&held[0], at_once("no")).await;
    for _ in 0..3 {
        opened.close().await;
        drop(member);
        opened = engine.open().await;
        member = opened.member(100).await;
        let mut again = take(&mut member, 2).await;
        again.sort_by_key(|d| d.entry.cursor.position);
        assert_eq!(attempts(&again), [2, 1]);
    }
}

#[tokio::test]
async fn a_deadline_that_passed_is_kept_over_a_clean_end() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(SHORT)).await;
    opened.append(["a"]).await;
    let mut member = opened.member(100).await;
    take_one(&mut member).await;
    opened
        .change(Change {
            ack_deadline: Some(LONG),
            ..Change::default()
        })
        .await;
    assert_eq!(take_one(&mut member).await.attempt, 2);
    opened.close().await;
    drop(member);
    let opened = engine.open().await;
    assert_eq!(take_one(&mut opened.member(1).await).await.attempt, 2);
}

#[tokio::test]
async fn an_acknowledgement_counts_over_the_end_of_the_process() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(["a", "b"]).await;
    let mut member = opened.member(100).await;
    let held = take(&mut member, 2).await;
    opened.close().await;
    drop(member);
    let opened = engine.open().await;
    // Whatever is answered holds.
    match opened.ack_one(&held[0]).await {
        AckOutcome::Ok => opened.assert_only_new(["b"]).await,
        _ => opened.assert_only_new(["a", "b"]).await,
    }
}

#[tokio::test]
async fn an_ack_id_of_an_earlier_process_does_not_count_for_a_later_delivery() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..3)).await;
    let mut member = opened.member(100).await;
    let old = take(&mut member, 3).await;
    opened.close().await;
    drop(member);
    let opened = engine.open().await;
    let mut member = opened.member(100).await;
    let new = take(&mut member, 3).await;
    for old in &old {
        assert!(new.iter().all(|new| new.ack_id != old.ack_id));
        assert_eq!(opened.ack_one(old).await, AckOutcome::Superseded);
        assert_eq!(opened.nack_one(old, park("")).await, AckOutcome::Superseded);
    }
    assert_eq!(opened.info().await.unacked, 3);
    opened.ack_all(&new).await;
}

#[tokio::test]
async fn an_acknowledgement_answered_survives_a_kill() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(numbered(0..6)).await;
    let held = take(&mut member, 6).await;
    opened.ack_all(&held[1..2]).await;
    opened.ack_all(&held[3..6]).await;
    let opened = engine.as_killed().open().await;
    opened.assert_only_new(["push 0", "push 2"]).await;
}

#[tokio::test]
async fn a_refusal_answered_survives_a_kill() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(["again", "later", "parked"]).await;
    let held = take(&mut member, 3).await;
    opened.nack_one(&held[0], at_once("no")).await;
    opened.nack_one(&held[1], after(SHORT, "no")).await;
    opened.nack_one(&held[2], park("poison")).await;
    let killed = engine.as_killed();
    let opened = killed.open().await;
    let mut member = opened.member(100).await;
    let mut again = Vec::new();
    while again.len() < 2 {
        again.extend(some(&mut member).await);
    }
    again.sort_by_key(|d| d.entry.cursor.position);
    assert_eq!(
        (contents(&again), attempts(&again)),
        (vec!["again".into(), "later".into()], vec![2, 2])
    );
    let letters = opened
        .dead_letters(NAME, Position::START, 10)
        .await
        .unwrap();
    assert_eq!((letters.len(), &*letters[0].reason), (1, "poison"));
}

#[tokio::test]
async fn what_was_created_changed_and_deleted_survives_a_kill() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened
        .create("deleted", spec(LONG), Position::START)
        .await
        .unwrap();
    opened.append(["a", "b"]).await;
    opened
        .create("later", spec(LONG), Position(1))
        .await
        .unwrap();
    let mut member = opened.join("deleted", window(1)).await.unwrap();
    let held = take_one(&mut member).await;
    opened
        .nack("deleted", &[held.ack_id], park("x"))
        .await
        .unwrap();
    opened.delete("deleted").await.unwrap();
    opened
        .change(Change {
            max_attempts: Some(3),
            ..Change::default()
        })
        .await;
    let killed = engine.as_killed();
    let opened = killed.open().await;
    let names: Vec<_> = opened.list("", 10).await.unwrap();
    assert_eq!(
        names.iter().map(|i| &*i.name).collect::<Vec<_>>(),
        [NAME, "later"]
    );
    assert_eq!(names[0].spec.max_attempts, 3);
    let mut member = opened.join("later", window(10)).await.unwrap();
    assert_eq!(content(&take_one(&mut member).await), "b");
    opened
        .create("deleted", spec(LONG), Position(1))
        .await
        .unwrap();
    assert!(
        opened
            .dead_letters("deleted", Position::START, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_move_survives_a_kill() {
    for to in [Position(2), Position(6)] {
        let engine = Engine::new();
        let opened = Opened::with(&engine, spec(LONG)).await;
        let mut member = opened.member(4).await;
        opened.append(numbered(0..8)).await;
        let held = take(&mut member, 4).await;
        opened.ack_all(&held[1..3]).await;
        opened.nack_one(&held[3], park("x")).await;
        opened.seek(NAME, to).await.unwrap();
        let killed = engine.as_killed();
        let opened = killed.open().await;
        assert_eq!(opened.info().await.place, to);
        let mut member = opened.member(100).await;
        let rest = usize::try_from(8 - to.0).unwrap();
        assert_eq!(
            contents(&take(&mut member, rest).await),
            numbered(8 - rest..8)
        );
        let dead = opened.info().await.dead_letters;
        assert_eq!(dead, u64::from(to.0 == 6));
        for old in &held {
            assert_ne!(opened.ack_one(old).await, AckOutcome::Ok);
        }
    }
}

#[tokio::test]
async fn dead_letters_redriven_survive_a_kill() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(4).await;
    opened.append(["a", "b"]).await;
    for delivery in take(&mut member, 2).await {
        opened.nack_one(&delivery, park("x")).await;
    }
    let a = [id_of("default", "a")];
    assert_eq!(opened.redrive(NAME, Some(&a)).await.unwrap(), 1);
    let killed = engine.as_killed();
    let opened = killed.open().await;
    let mut member = opened.member(4).await;
    let again = take_one(&mut member).await;
    assert_eq!((content(&again), again.attempt), ("a".into(), 1));
    assert_eq!(opened.info().await.dead_letters, 1);
}

#[tokio::test]
async fn closed_it_says_so_and_its_members_end() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(4).await;
    let mut waiting = opened.member(4).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    let ended = async |member: &mut Box<dyn yeta_gateway::store::subscriptions::Member>| {
        within("the member's end", async {
            loop {
                if let Err(error) = member.next().await {
                    return error;
                }
            }
        })
        .await
    };
    let (error, ()) = tokio::join!(ended(&mut waiting), async {
        tokio::task::yield_now().await;
        opened.close().await;
    });
    assert!(matches!(error, SubscriptionError::Closed), "{error}");
    let error = ended(&mut member).await;
    assert!(matches!(error, SubscriptionError::Closed), "{error}");
    let opened = engine.open().await;
    opened.subscriptions.close().await;
    let late = [
        opened.ack(NAME, &[held.ack_id]).await.map(drop),
        opened.join(NAME, window(1)).await.map(drop),
        opened.create("new", spec(LONG), Position::START).await,
        opened.seek(NAME, Position::START).await,
        opened.delete(NAME).await,
    ];
    for fault in late {
        assert!(matches!(fault, Err(SubscriptionError::Closed)), "{fault:?}");
    }
    opened.subscriptions.close().await;
}
