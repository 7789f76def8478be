//! Loss is counted: retention that overtakes a subscription, and damage.

use yeta_gateway::push::Position;
use yeta_gateway::store::PushLog;
use yeta_gateway::store::subscriptions::AckOutcome;

use super::{
    Engine, LONG, NAME, Opened, assert_waits, content, contents, numbered, of_account, park, spec,
    take, take_one,
};
use crate::embedded::{cut_off, find, journal, large, overwrite, table_with};
use crate::support::eventually;

/// A log that keeps entries for a minute.
fn forgetful() -> Engine {
    let mut engine = Engine::new();
    engine.options.retention = std::time::Duration::from_secs(60);
    engine
}

impl Opened {
    /// Lets retention remove everything that is there now.
    async fn forget(&self, engine: &Engine) {
        engine.pass(std::time::Duration::from_secs(61));
        self.log.retire(0).await;
        assert_eq!(self.log.earliest(), *self.log.end().borrow());
    }

    async fn until_lost(&self, lost: u64) {
        eventually("the count of what was lost", async || {
            (self.info().await.lost >= lost).then_some(())
        })
        .await;
        assert_eq!(self.info().await.lost, lost);
    }
}

#[tokio::test]
async fn what_retention_removed_before_it_was_handed_out_is_counted_and_delivery_goes_on() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..5)).await;
    opened.forget(&engine).await;
    let end = opened.append(["young"]).await;
    let mut member = opened.member(10).await;
    let held = take_one(&mut member).await;
    assert_eq!(content(&held), "young");
    opened.until_lost(5).await;
    opened.ack_all(&[held]).await;
    let info = opened.info().await;
    assert_eq!((info.place, info.unacked), (end, 0));
    opened.close().await;
    drop(member);
    assert_eq!(engine.open().await.info().await.lost, 5);
}

#[tokio::test]
async fn what_was_acknowledged_is_not_lost_when_retention_removes_it() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..6)).await;
    let mut member = opened.member(4).await;
    let held = take(&mut member, 4).await;
    opened.ack_all(&held[2..]).await;
    drop(member);
    opened.forget(&engine).await;
    opened.append(["young"]).await;
    let mut member = opened.member(10).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
    // Two that were given back, and two that had not been handed out.
    opened.until_lost(4).await;
    assert_waits(&mut member).await;
}

#[tokio::test]
async fn what_is_out_when_retention_removes_it_can_be_acknowledged_or_is_lost() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..3)).await;
    let mut member = opened.member(10).await;
    let held = take(&mut member, 3).await;
    opened.forget(&engine).await;
    opened.append(["young"]).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
    let counted = match opened.ack_one(&held[0]).await {
        AckOutcome::Ok => 2,
        _ => 3,
    };
    drop(member);
    let mut member = opened.member(10).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
    opened.until_lost(counted).await;
    assert_eq!(opened.info().await.unacked, 1);
}

#[tokio::test]
async fn retention_that_overtook_while_nobody_was_there_is_counted_when_opened_again() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..5)).await;
    let mut member = opened.member(3).await;
    let held = take(&mut member, 3).await;
    opened.ack_all(&held[1..2]).await;
    opened.close().await;
    drop(member);
    let opened = engine.open().await;
    opened.forget(&engine).await;
    opened.close().await;
    let opened = engine.open().await;
    opened.append(["young"]).await;
    let mut member = opened.member(10).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
    opened.until_lost(4).await;
}

#[tokio::test]
async fn a_dead_letter_stays_as_long_as_the_log_retains_it() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(["old"]).await;
    let mut member = opened.member(10).await;
    let held = take_one(&mut member).await;
    opened.nack_one(&held, park("poison")).await;
    opened.forget(&engine).await;
    opened.append(["young"]).await;
    let held = take_one(&mut member).await;
    opened.nack_one(&held, park("poison too")).await;
    let letters = opened
        .dead_letters(NAME, Position::START, 10)
        .await
        .unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(reasons, ["poison too"]);
    assert_eq!(opened.redrive(NAME, None).await.unwrap(), 1);
    assert_eq!(content(&take_one(&mut member).await), "young");
}

#[tokio::test]
async fn moved_to_before_what_is_retained_a_subscription_goes_on_with_what_is_left() {
    let engine = forgetful();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(numbered(0..5)).await;
    opened.forget(&engine).await;
    opened.append(["young"]).await;
    opened.seek(NAME, Position::START).await.unwrap();
    let mut member = opened.member(10).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
}

#[tokio::test]
async fn entries_that_are_damaged_are_counted_and_delivery_goes_on_behind_them() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    opened.append(["one", "two"]).await;
    opened.append(["three"]).await;
    opened.append(["four"]).await;
    opened.close().await;
    cut_off(&journal(engine.folder.path()), "three");
    let opened = engine.open().await;
    assert_eq!(opened.log.stats().lost, 2);
    let end = opened.append(["five"]).await;
    let mut member = opened.member(10).await;
    let held = take(&mut member, 3).await;
    assert_eq!(contents(&held), ["one", "two", "five"]);
    opened.until_lost(2).await;
    opened.ack_all(&held).await;
    assert_eq!(opened.info().await.place, end);
}

#[tokio::test]
async fn an_entry_damaged_among_others_is_counted_and_the_others_are_delivered() {
    let engine = Engine::new();
    let opened = Opened::with(&engine, spec(LONG)).await;
    let (mut appended, damaged) = (0, "push number     10");
    let folder = engine.folder.path();
    while appended < 10 || table_with(folder, damaged).is_none() {
        appended += 1;
        let text = String::from_utf8(large(appended)).unwrap();
        opened.append([text]).await;
    }
    opened.close().await;
    let table = table_with(folder, damaged).unwrap();
    overwrite(&table, find(&table, damaged), b"PUSH");

    let opened = engine.open().await;
    let mut member = opened.member(1000).await;
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(appended).unwrap() - 1 {
        let some = super::some(&mut member).await;
        seen.extend(some.iter().map(|d| d.entry.cursor.position.0));
        opened.ack_all(&some).await;
    }
    let expected: Vec<_> = (1..=appended).filter(|n| *n != 10).collect();
    assert_eq!(seen, expected);
    opened.until_lost(1).await;
    assert_eq!(opened.info().await.place, Position(appended));
}

#[tokio::test]
async fn retention_beside_a_filter_does_not_stop_delivery() {
    let engine = forgetful();
    let mut wanted = spec(LONG);
    wanted.filter = of_account("sales");
    let opened = Opened::with(&engine, wanted).await;
    opened.append_to("default", numbered(0..10)).await;
    opened.append_to("sales", ["wanted"]).await;
    opened.forget(&engine).await;
    opened.append_to("sales", ["young"]).await;
    let mut member = opened.member(10).await;
    assert_eq!(content(&take_one(&mut member).await), "young");
    let lost = opened.info().await.lost;
    // What the filter would have left out can't be told any more.
    assert!((1..=11).contains(&lost), "{lost}");
}
