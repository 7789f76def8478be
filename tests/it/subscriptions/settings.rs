//! Creating, looking at, changing, pausing, moving and deleting a subscription.

use std::time::Duration;

use yeta_gateway::push::Position;
use yeta_gateway::store::subscriptions::{AckOutcome, Backoff, Change, Spec, SubscriptionError};

use super::{
    Engine, LONG, MAX, NAME, Opened, SHORT, assert_not_found, assert_waits, at_once, attempts,
    content, contents, ids, numbered, of_account, park, spec, take, take_one, window,
};

fn paused(paused: bool) -> Change {
    Change {
        paused: Some(paused),
        ..Change::default()
    }
}

#[tokio::test]
async fn a_name_is_given_once() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let again = opened.create(NAME, spec(SHORT), Position::START).await;
    assert!(
        matches!(&again, Err(SubscriptionError::AlreadyExists(name)) if name == NAME),
        "{again:?}"
    );
    assert_eq!(opened.info().await.spec, spec(LONG));
}

#[tokio::test]
async fn two_who_create_the_same_name_at_once_are_told_apart() {
    let engine = Engine::new();
    let opened = engine.open().await;
    let creations = (0..20).map(|_| opened.create(NAME, spec(LONG), Position::START));
    let created = futures_util::future::join_all(creations).await;
    assert_eq!(created.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        created
            .iter()
            .all(|result| matches!(result, Ok(()) | Err(SubscriptionError::AlreadyExists(_))))
    );
}

#[tokio::test]
async fn there_are_no_more_subscriptions_than_there_may_be() {
    let engine = Engine::new();
    let opened = engine.open().await;
    for n in 0..MAX {
        let name = n.to_string();
        let created = opened.create(&name, spec(LONG), Position::START).await;
        created.unwrap();
    }
    for _ in 0..2 {
        let refused = opened.create(NAME, spec(LONG), Position::START).await;
        assert!(
            matches!(refused, Err(SubscriptionError::TooMany(MAX))),
            "{refused:?}"
        );
    }
    // The gateway's own are there besides.
    opened
        .create("yeta-gateway.one", spec(LONG), Position::START)
        .await
        .unwrap();
    opened.delete("7").await.unwrap();
    opened
        .create(NAME, spec(LONG), Position::START)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_subscription_is_reads_back() {
    let engine = Engine::new();
    let whole = Spec {
        filter: of_account("sales"),
        ack_deadline: Duration::from_millis(1234),
        max_attempts: 7,
        backoff: Backoff {
            minimum: SHORT,
            maximum: LONG,
        },
        paused: true,
    };
    let opened = Opened::with(&engine, whole.clone()).await;
    let info = opened.info().await;
    assert_eq!((&*info.name, &info.spec), (NAME, &whole));
    assert_eq!((info.members, info.unacked, info.dead_letters), (0, 0, 0));
    assert_eq!(
        (info.redelivered, info.lost, info.oldest_unacked),
        (0, 0, None)
    );
    let changed = opened
        .change(Change {
            max_attempts: Some(0),
            ..Change::default()
        })
        .await;
    assert_eq!(
        changed.spec,
        Spec {
            max_attempts: 0,
            ..whole
        }
    );
    assert_eq!(opened.info().await.spec, changed.spec);
}

#[tokio::test]
async fn subscriptions_are_listed_by_name_page_by_page() {
    let engine = Engine::new();
    let opened = engine.open().await;
    let mut names = ["b", "a", "a.b", "B", "a-b", "z", "10", "9", "a0"];
    for name in names {
        opened
            .create(name, spec(LONG), Position::START)
            .await
            .unwrap();
    }
    names.sort_unstable();
    let mut listed: Vec<String> = Vec::new();
    loop {
        let last = listed.last().cloned().unwrap_or_default();
        let page = opened.list(&last, 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|info| info.name));
    }
    assert_eq!(listed, names);
}

#[tokio::test]
async fn what_is_told_of_a_subscription_is_exact() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let told = async || {
        let info = opened.info().await;
        assert_eq!(opened.list("", 10).await.unwrap()[0].unacked, info.unacked);
        (info.place.0, info.handed_out.0, info.unacked, info.members)
    };
    opened.append(["a"]).await;
    engine.pass(SHORT);
    opened.append(["b", "c", "d"]).await;
    assert_eq!(told().await, (0, 0, 0, 0));
    let (mut one, mut other) = (opened.member(2).await, opened.member(10).await);
    let first = take(&mut one, 2).await;
    assert_eq!(told().await, (0, 2, 2, 2));
    let second = take(&mut other, 2).await;
    assert_eq!(told().await, (0, 4, 4, 2));
    let oldest = opened.info().await.oldest_unacked;
    assert_eq!(oldest, Some(first[0].entry.received_at()));
    opened.ack_all(&first[1..]).await;
    assert_eq!(told().await, (0, 4, 3, 2));
    opened.ack_all(&first[..1]).await;
    assert_eq!(told().await, (2, 4, 2, 2));
    let oldest = opened.info().await.oldest_unacked;
    assert_eq!(oldest, Some(second[0].entry.received_at()));
    opened
        .nack_one(&second[0], super::after(LONG, "later"))
        .await;
    // What waits after a failed attempt holds the place back no more, and is not acknowledged.
    assert_eq!(told().await, (3, 4, 2, 2));
    opened.ack_all(&second[1..]).await;
    assert_eq!(told().await, (4, 4, 1, 2));
    assert_eq!((one.place(), other.place()), (Position(4), Position(4)));
    drop(one);
    assert_eq!(told().await, (4, 4, 1, 1));
    drop(other);
    assert_eq!(told().await, (4, 4, 1, 0));
    assert_eq!(opened.info().await.redelivered, 0);
}

#[tokio::test]
async fn what_was_delivered_again_is_counted() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["a", "b"]).await;
    for redelivered in [0, 1, 2] {
        let held = super::some(&mut member).await;
        assert_eq!(opened.info().await.redelivered, redelivered);
        let (a, b): (Vec<_>, Vec<_>) = held.into_iter().partition(|d| content(d) == "a");
        opened.ack_all(&b).await;
        opened.nack_one(&a[0], at_once("no")).await;
    }
}

#[tokio::test]
async fn a_paused_subscription_hands_out_nothing_and_what_is_out_can_be_acknowledged() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(["a", "b", "c"]).await;
    let held = take(&mut member, 3).await;
    assert!(opened.change(paused(true)).await.spec.paused);
    opened
        .create("other", spec(LONG), Position::START)
        .await
        .unwrap();
    let mut other = opened.join("other", window(10)).await.unwrap();
    opened.append(["d"]).await;
    take(&mut other, 4).await;
    opened.ack_all(&held[..1]).await;
    opened.nack_one(&held[1], at_once("no")).await;
    assert_waits(&mut member).await;
    let mut late = opened.member(100).await;
    assert_waits(&mut late).await;
    drop(late);
    let info = opened.info().await;
    assert_eq!(
        (info.handed_out, info.unacked, info.members),
        (Position(3), 2, 1)
    );
    opened.change(paused(false)).await;
    let mut rest = take(&mut member, 2).await;
    rest.sort_by_key(|delivery| delivery.entry.cursor.position);
    assert_eq!(
        (contents(&rest), attempts(&rest)),
        (vec!["b".into(), "d".into()], vec![2, 1])
    );
    opened.ack_all(&rest).await;
    opened.ack_all(&held[2..]).await;
}

#[tokio::test]
async fn a_member_that_waits_at_a_pause_goes_on_at_its_end() {
    let engine = Engine::new();
    let mut still = spec(LONG);
    still.paused = true;
    let opened = Opened::with(&engine, still).await;
    let mut member = opened.member(100).await;
    opened.append(["a"]).await;
    assert_waits(&mut member).await;
    let (held, _) = tokio::join!(take_one(&mut member), async {
        tokio::task::yield_now().await;
        opened.change(paused(false)).await
    });
    assert_eq!(content(&held), "a");
}

#[tokio::test]
async fn a_filter_changed_counts_for_what_is_not_out_yet() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(2).await;
    for n in 0..5 {
        opened.append_to("default", [format!("other {n}")]).await;
        opened.append_to("sales", [format!("push {n}")]).await;
    }
    let held = take(&mut member, 2).await;
    let change = Change {
        filter: Some(of_account("sales")),
        ..Change::default()
    };
    assert_eq!(opened.change(change).await.spec.filter, of_account("sales"));
    opened.ack_all(&held).await;
    let mut wide = opened.member(100).await;
    drop(member);
    assert_eq!(contents(&take(&mut wide, 4).await), numbered(1..5));
    opened.append_to("default", ["left out"]).await;
    opened.append_to("sales", ["taken"]).await;
    assert_eq!(content(&take_one(&mut wide).await), "taken");
}

#[tokio::test]
async fn what_is_out_goes_on_with_the_deadline_that_it_was_handed_out_with() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    opened.append(["before"]).await;
    let before = take_one(&mut member).await;
    let change = Change {
        ack_deadline: Some(SHORT),
        ..Change::default()
    };
    assert_eq!(opened.change(change).await.spec.ack_deadline, SHORT);
    opened.append(["after"]).await;
    take_one(&mut member).await;
    let again = take_one(&mut member).await;
    assert_eq!((content(&again), again.attempt), ("after".into(), 2));
    assert_waits(&mut member).await;
    opened.ack_all(&[before]).await;
}

#[tokio::test]
async fn moved_back_a_subscription_has_everything_behind_the_place_again() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    let end = opened.append(numbered(0..6)).await;
    let held = take(&mut member, 6).await;
    opened.ack_all(&held[2..3]).await;
    opened.nack_one(&held[3], park("before")).await;
    opened.nack_one(&held[4], super::after(LONG, "later")).await;
    opened.nack_one(&held[0], park("stays")).await;
    opened.seek(NAME, Position(1)).await.unwrap();
    let info = opened.info().await;
    assert_eq!((info.place, info.dead_letters), (Position(1), 1));
    let again = take(&mut member, 5).await;
    assert_eq!(contents(&again), numbered(1..6));
    assert_eq!(attempts(&again), [1; 5]);
    // Whatever was out, waiting or parked then has been overtaken.
    for old in [&held[1], &held[4], &held[5]] {
        assert_eq!(opened.ack_one(old).await, AckOutcome::Superseded);
    }
    for old in [&held[2], &held[3]] {
        assert_ne!(opened.ack_one(old).await, AckOutcome::Ok);
    }
    assert_eq!(opened.info().await.unacked, 5);
    opened.ack_all(&again).await;
    let info = opened.info().await;
    assert_eq!((info.place, info.unacked, info.dead_letters), (end, 0, 1));
    let letters = opened
        .dead_letters(NAME, Position::START, 10)
        .await
        .unwrap();
    assert_eq!(letters[0].reason, "stays");
}

#[tokio::test]
async fn moved_ack_ids_of_before_are_superseded_also_before_anything_is_handed_out_again() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(2).await;
    opened.append(numbered(0..4)).await;
    let held = take(&mut member, 2).await;
    opened.seek(NAME, Position::START).await.unwrap();
    assert_eq!(
        opened.ack(NAME, &ids(&held)).await.unwrap(),
        [AckOutcome::Superseded; 2]
    );
    assert_eq!(
        opened.nack_one(&held[0], park("")).await,
        AckOutcome::Superseded
    );
    assert_eq!(
        opened.extend_one(&held[0], None).await,
        AckOutcome::Superseded
    );
    let info = opened.info().await;
    assert_eq!((info.place, info.dead_letters), (Position::START, 0));
    // What the member held before the move takes no room of its window.
    assert_eq!(contents(&take(&mut member, 2).await), numbered(0..2));
    drop(member);
    let mut member = opened.member(100).await;
    take(&mut member, 4).await;
}

#[tokio::test]
async fn moved_ahead_a_subscription_leaves_out_what_lies_between() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(3).await;
    opened.append(numbered(0..10)).await;
    let held = take(&mut member, 3).await;
    opened
        .nack_one(&held[0], super::after(SHORT, "waits"))
        .await;
    opened.nack_one(&held[1], park("stays")).await;
    opened.seek(NAME, Position(6)).await.unwrap();
    let info = opened.info().await;
    assert_eq!(
        (info.place, info.unacked, info.dead_letters),
        (Position(6), 0, 1)
    );
    assert_eq!(opened.ack_one(&held[2]).await, AckOutcome::Superseded);
    let again = take(&mut member, 3).await;
    assert_eq!(contents(&again), numbered(6..9));
    opened.ack_all(&again).await;
    assert_eq!(content(&take_one(&mut member).await), "push 9");
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn moved_to_the_end_a_subscription_has_only_what_is_new() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let end = opened.append(numbered(0..10)).await;
    let mut member = opened.member(3).await;
    take(&mut member, 3).await;
    opened.seek(NAME, end).await.unwrap();
    let info = opened.info().await;
    assert_eq!((info.place, info.handed_out, info.unacked), (end, end, 0));
    opened.append(["new"]).await;
    assert_eq!(content(&take_one(&mut member).await), "new");
    opened.assert_only_new([]).await;
}

#[tokio::test]
async fn a_member_that_waits_is_woken_by_a_move() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(3).await;
    opened.append(["a"]).await;
    let held = take_one(&mut member).await;
    opened.ack_all(&[held]).await;
    let (again, moved) = tokio::join!(take_one(&mut member), async {
        tokio::task::yield_now().await;
        opened.seek(NAME, Position::START).await
    });
    moved.unwrap();
    assert_eq!(content(&again), "a");
}

#[tokio::test]
async fn deleted_a_subscription_ends_its_members_and_a_new_one_starts_afresh() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let (mut one, mut other) = (opened.member(3).await, opened.member(3).await);
    let end = opened.append(["a", "b"]).await;
    let held = take(&mut one, 2).await;
    opened.nack_one(&held[1], park("poison")).await;
    let ((), deleted) = tokio::join!(assert_not_found(&mut other), async {
        tokio::task::yield_now().await;
        opened.delete(NAME).await
    });
    deleted.unwrap();
    assert_not_found(&mut one).await;
    assert!(opened.list("", 10).await.unwrap().is_empty());
    assert!(matches!(
        opened.get(NAME).await,
        Err(SubscriptionError::NotFound(_))
    ));

    opened.create(NAME, spec(SHORT), end).await.unwrap();
    let info = opened.info().await;
    assert_eq!((info.place, info.dead_letters, info.members), (end, 0, 0));
    assert_eq!(
        (info.unacked, info.redelivered, info.spec),
        (0, 0, spec(SHORT))
    );
    assert_eq!(
        opened.ack(NAME, &ids(&held)).await.unwrap(),
        [AckOutcome::Unknown; 2]
    );
    // Members of the old one have no part in it.
    drop((one, other));
    assert_eq!(opened.info().await.members, 0);
    opened.delete(NAME).await.unwrap();

    opened
        .create(NAME, spec(LONG), Position::START)
        .await
        .unwrap();
    let mut member = opened.member(3).await;
    let again = take(&mut member, 2).await;
    assert_eq!(
        (contents(&again), attempts(&again)),
        (contents(&held), vec![1, 1])
    );
    assert_eq!(
        opened.ack(NAME, &ids(&held)).await.unwrap(),
        [AckOutcome::Unknown; 2]
    );
    opened.ack_all(&again).await;
}

#[tokio::test]
async fn a_name_that_begins_like_another_is_another() {
    let engine = Engine::new();
    let opened = engine.open().await;
    for name in ["a", "ab", "a.b", "b"] {
        opened
            .create(name, spec(LONG), Position::START)
            .await
            .unwrap();
    }
    opened.append(["x"]).await;
    for name in ["a", "ab", "a.b", "b"] {
        let mut member = opened.join(name, window(1)).await.unwrap();
        let held = take_one(&mut member).await;
        opened.nack(name, &[held.ack_id], park(name)).await.unwrap();
    }
    opened.delete("a").await.unwrap();
    for name in ["ab", "a.b", "b"] {
        let letters = opened
            .dead_letters(name, Position::START, 10)
            .await
            .unwrap();
        assert_eq!((letters.len(), &*letters[0].reason), (1, name));
    }
    opened
        .create("a", spec(LONG), Position::START)
        .await
        .unwrap();
    assert!(
        opened
            .dead_letters("a", Position::START, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(opened.get("a").await.unwrap().dead_letters, 0);
}
