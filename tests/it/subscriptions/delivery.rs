//! At least once, one holder, windows, and fair hand-out.

use std::collections::HashMap;

use futures_util::FutureExt;
use tokio::sync::watch;
use yeta_gateway::push::Position;
use yeta_gateway::store::PushLog;
use yeta_gateway::store::subscriptions::{Handed, Member, Window};

use super::{
    Engine, LONG, NAME, Opened, SHORT, assert_waits, content, contents, numbered, of_account, some,
    spec, take, take_one, window,
};
use crate::support::within;

#[tokio::test]
async fn each_entry_after_the_start_is_handed_out_history_and_live() {
    let engine = Engine::new();
    let opened = engine.open().await;
    opened.append(numbered(0..20)).await;
    opened.create(NAME, spec(LONG), Position(5)).await.unwrap();
    let mut member = opened.member(100).await;
    let history = take(&mut member, 15).await;
    assert_eq!(contents(&history), numbered(5..20));
    opened.append(numbered(20..25)).await;
    let live = take(&mut member, 5).await;
    assert_eq!(contents(&live), numbered(20..25));
    assert!(history.iter().chain(&live).all(|d| d.attempt == 1));
}

#[tokio::test]
async fn what_the_filter_leaves_out_is_not_handed_out_and_settled() {
    let engine = Engine::new();
    let mut wanted = spec(LONG);
    wanted.filter = of_account("sales");
    let opened = Opened::with(&engine, wanted).await;
    for n in 0..10 {
        opened.append_to("default", [format!("other {n}")]).await;
        opened.append_to("sales", [format!("push {n}")]).await;
    }
    let end = opened.append_to("default", ["other"]).await;
    let mut member = opened.member(100).await;
    let got = take(&mut member, 10).await;
    assert_eq!(contents(&got), numbered(0..10));
    opened.ack_all(&got).await;
    assert!(matches!(
        within("word", member.next()).await.unwrap(),
        Handed::CaughtUp
    ));
    let info = opened.info().await;
    assert_eq!((info.place, info.handed_out, info.unacked), (end, end, 0));
    assert_eq!(member.place(), end);
}

#[tokio::test]
async fn competing_members_have_each_entry_once_among_them() {
    let engine = Engine::new();
    let opened = std::sync::Arc::new(Opened::with(&engine, spec(LONG)).await);
    let (told, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let members: Vec<_> = (0..4)
        .map(|_| {
            let (opened, told) = (opened.clone(), told.clone());
            tokio::spawn(async move {
                let mut member = opened.member(16).await;
                loop {
                    let deliveries = some(&mut member).await;
                    opened.ack_all(&deliveries).await;
                    for delivery in &deliveries {
                        assert_eq!(delivery.attempt, 1);
                        told.send(content(delivery)).unwrap();
                    }
                }
            })
        })
        .collect();
    for start in (0..2000).step_by(50) {
        opened.append(numbered(start..start + 50)).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2000 {
        seen.push(within("an entry", taken.recv()).await.unwrap());
    }
    assert!(taken.try_recv().is_err());
    seen.sort();
    let mut expected = numbered(0..2000);
    expected.sort();
    assert_eq!(seen, expected);
    let info = opened.info().await;
    assert_eq!((info.unacked, info.redelivered), (0, 0));
    members.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Lets members ask for more until so many entries are out; gives how many each has.
async fn share<const N: usize>(
    opened: &Opened,
    mut members: [Box<dyn Member>; N],
    burst: usize,
) -> [usize; N] {
    for member in &mut members {
        assert!(matches!(member.next().await.unwrap(), Handed::CaughtUp));
    }
    let total = watch::Sender::new(0);
    let hungry = members.each_mut().map(|member| async {
        let (mut mine, mut watching) = (0, total.subscribe());
        loop {
            tokio::select! {
                handed = member.next() => if let Handed::Deliveries(deliveries) = handed.unwrap() {
                    mine += deliveries.len();
                    total.send_modify(|total| *total += deliveries.len());
                },
                done = watching.wait_for(|total| *total >= burst) => {
                    done.unwrap();
                    return mine;
                }
            }
        }
    });
    let all = futures_util::future::join_all(hungry);
    let (shares, _) = within("a burst to be shared", async {
        tokio::join!(all, opened.append(numbered(0..burst)))
    })
    .await;
    shares.try_into().unwrap()
}

#[tokio::test]
async fn two_hungry_members_share_a_burst_equally() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let members = [opened.member(1000).await, opened.member(1000).await];
    let [one, other] = share(&opened, members, 40).await;
    assert!(one.abs_diff(other) <= 2, "{one} and {other}");
}

#[tokio::test]
async fn the_member_with_more_room_gets_more() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let members = [opened.member(10).await, opened.member(60).await];
    let [small, large] = share(&opened, members, 40).await;
    assert!(small < large, "{small} and {large}");
}

#[tokio::test]
async fn no_member_holds_more_entries_than_its_window() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..10)).await;
    let mut narrow = opened.member(3).await;
    let held = take(&mut narrow, 3).await;
    let mut wide = opened.member(100).await;
    assert_eq!(take(&mut wide, 7).await.len(), 7);
    opened.append(["more"]).await;
    assert_eq!(contents(&take(&mut wide, 1).await), ["more"]);
    assert_waits(&mut narrow).await;
    drop(wide);
    // Each one settled makes room for one.
    opened.ack_all(&held[..2]).await;
    take(&mut narrow, 2).await;
    assert_waits(&mut narrow).await;
}

#[tokio::test]
async fn no_member_holds_more_bytes_than_its_window() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append((0..9).map(|n| format!("{n:0>10000}"))).await;
    let narrow = Window {
        events: 100,
        bytes: 25_000,
    };
    let mut narrow = opened.join(NAME, narrow).await.unwrap();
    let held = take(&mut narrow, 2).await;
    let mut wide = opened.member(100).await;
    take(&mut wide, 7).await;
    assert_waits(&mut narrow).await;
    drop(wide);
    opened.ack_all(&held[..1]).await;
    take(&mut narrow, 1).await;
    assert_waits(&mut narrow).await;
}

#[tokio::test]
async fn an_entry_larger_than_the_window_is_handed_out_when_no_other_is_held() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let large = "x".repeat(5000);
    opened.append(["small", &large, "small too"]).await;
    let narrow = Window {
        events: 100,
        bytes: 1000,
    };
    let mut narrow = opened.join(NAME, narrow).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let held = some(&mut narrow).await;
        let bytes: usize = held.iter().map(|d| d.entry.raw.len()).sum();
        assert!(
            held.len() == 1 || bytes <= 1000,
            "{bytes} bytes in {}",
            held.len()
        );
        assert_waits(&mut narrow).await;
        seen.extend(contents(&held));
        opened.ack_all(&held).await;
    }
    seen.sort();
    assert_eq!(seen, ["small", "small too", &large]);
}

#[tokio::test]
async fn a_member_that_never_reads_delays_nobody() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let silent = opened.member(1000).await;
    let mut stopped = opened.member(1000).await;
    opened.append(["first"]).await;
    take_one(&mut stopped).await;
    let mut reading = opened.member(1000).await;
    for n in 0..20 {
        opened.append(numbered(10 * n..10 * n + 10)).await;
        let got = take(&mut reading, 10).await;
        assert_eq!(contents(&got), numbered(10 * n..10 * n + 10));
        opened.ack_all(&got).await;
    }
    drop((silent, stopped));
}

#[tokio::test]
async fn two_subscriptions_never_wait_for_each_other() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    for name in ["flows", "paused", "overdue"] {
        let mut spec = spec(LONG);
        spec.paused = name == "paused";
        if name == "overdue" {
            spec.ack_deadline = SHORT;
            spec.max_attempts = 0;
        }
        opened.create(name, spec, Position::START).await.unwrap();
    }
    let mut stuck = opened.member(1).await;
    let mut overdue = opened.join("overdue", window(1)).await.unwrap();
    opened.append(["the one that is held"]).await;
    take_one(&mut stuck).await;
    take_one(&mut overdue).await;
    let mut flows = opened.join("flows", window(50)).await.unwrap();
    take_one(&mut flows).await;
    for n in 0..20 {
        opened.append(numbered(20 * n..20 * n + 20)).await;
        let got = take(&mut flows, 20).await;
        let done = opened.ack("flows", &super::ids(&got)).await.unwrap();
        assert_eq!(done.len(), 20);
    }
    assert_eq!(opened.info().await.handed_out, Position(1));
    let paused = opened.get("paused").await.unwrap();
    assert_eq!(paused.handed_out, Position::START);
}

#[tokio::test]
async fn each_subscription_has_every_entry_for_itself() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened
        .create("other", spec(LONG), Position::START)
        .await
        .unwrap();
    opened.append(numbered(0..10)).await;
    let mut one = opened.member(100).await;
    let mut other = opened.join("other", window(100)).await.unwrap();
    let got = take(&mut one, 10).await;
    opened.ack_all(&got).await;
    let theirs = take(&mut other, 10).await;
    assert_eq!(contents(&theirs), contents(&got));
    assert_eq!(opened.get("other").await.unwrap().unacked, 10);
}

#[tokio::test]
async fn each_member_is_told_once_that_everything_has_been_handed_out() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..10)).await;
    let mut member = opened.member(100).await;
    assert!(!member.is_caught_up());
    let mut history = 0;
    while let Handed::Deliveries(deliveries) = within("word", member.next()).await.unwrap() {
        history += deliveries.len();
    }
    assert_eq!(history, 10);
    assert!(member.is_caught_up());
    opened.append(["live"]).await;
    let handed = within("a delivery", member.next()).await.unwrap();
    assert!(matches!(handed, Handed::Deliveries(_)), "{handed:?}");
    assert!(member.next().now_or_never().is_none());
    let mut later = opened.member(100).await;
    let handed = within("word", later.next()).await.unwrap();
    assert!(matches!(handed, Handed::CaughtUp), "{handed:?}");
    assert!(later.is_caught_up());
}

#[tokio::test]
async fn next_may_be_dropped_and_called_again_without_losing_anything() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(7).await;
    let appending = async {
        for content in numbered(0..200) {
            opened.append([content]).await;
        }
    };
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < 200 {
            match member.next().now_or_never() {
                Some(Ok(Handed::Deliveries(deliveries))) => {
                    opened.ack_all(&deliveries).await;
                    seen.extend(contents(&deliveries));
                }
                Some(Err(error)) => panic!("{error}"),
                _ => tokio::task::yield_now().await,
            }
        }
        seen
    };
    let (seen, ()) = within("all entries", async { tokio::join!(reading, appending) }).await;
    assert_eq!(seen, numbered(0..200));
    assert_eq!(opened.info().await.redelivered, 0);
}

#[tokio::test]
async fn an_entry_is_handed_out_only_when_its_append_is_durable() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(100).await;
    for n in 0..50 {
        let appended = opened.append([format!("push {n}")]);
        let (position, got) = tokio::join!(appended, take_one(&mut member));
        assert_eq!(got.entry.cursor.position, position);
        assert!(*opened.log.end().borrow() >= position);
    }
}

#[tokio::test]
async fn a_large_backlog_is_worked_off_through_a_small_window() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..3000)).await;
    let mut member = opened.member(25).await;
    let mut seen = Vec::new();
    while seen.len() < 3000 {
        let got = some(&mut member).await;
        assert!(got.len() <= 25);
        opened.ack_all(&got).await;
        seen.extend(contents(&got));
    }
    assert_eq!(seen, numbered(0..3000));
}

#[tokio::test]
async fn a_stuck_entry_holds_back_the_place_and_not_the_entries_behind_it() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let mut member = opened.member(10).await;
    opened.append(["stuck"]).await;
    let stuck = take_one(&mut member).await;
    let mut counts: HashMap<String, u32> = HashMap::new();
    for n in 0..30 {
        opened.append(numbered(100 * n..100 * n + 100)).await;
        let mut got = 0;
        while got < 100 {
            let some = some(&mut member).await;
            got += some.len();
            opened.ack_all(&some).await;
            for delivery in &some {
                *counts.entry(content(delivery)).or_default() += 1;
            }
        }
    }
    assert!(counts.len() == 3000 && counts.values().all(|count| *count == 1));
    assert_eq!(opened.info().await.place, Position::START);
    opened.ack_all(&[stuck]).await;
    assert_eq!(opened.info().await.place, Position(3001));
}
