use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::world::World;
use crate::proto::submission::Outcome;
use crate::proto::{SubmissionEvidenceKind, SubmissionState};
use crate::store::{PushLog, ReadError};

const LI: [&str; 2] = ["13800138000", "Li"];
const WANG: [&str; 2] = ["13900139000", "Wang"];
const ZHAO: [&str; 2] = ["13700137000", "Zhao"];

#[tokio::test]
async fn records_of_its_rows_show_that_a_callout_was_accepted() {
    let world = World::new().await;
    world.stub.open("a", world.call_out(&[LI, WANG]));
    world.run();

    world.push("100", ["13100131000", "Qian"]).await;
    world.push("101", WANG).await;
    world.stub.accepted("a").await;
    let found = world.stub.get("a");
    let Some(Outcome::CallOutResponse(response)) = &found.outcome else {
        panic!("{:?}", found.outcome);
    };
    assert_eq!(response.total, Some(2));
    assert_eq!(response.task_data_ids, ["", "101"]);
    assert_eq!(response.push_cursor, found.push_cursor);
    assert!(found.settled_at.is_some() && found.unknown_because.is_empty() && !found.timed_out);
    let [evidence] = &found.evidence[..] else {
        panic!("{:?}", found.evidence);
    };
    assert_eq!(evidence.kind(), SubmissionEvidenceKind::CallRecord);
    assert_eq!(evidence.call_uuid, "call of 101");
    assert_eq!((evidence.row, &evidence.task_data_id[..]), (1, "101"));
    assert!(!evidence.event_id.is_empty() && evidence.found_at.is_some());

    world.push("102", LI).await;
    world.stub.until(|inner| inner.writes == 2).await;
    assert_eq!(world.stub.ids("a"), ["102", "101"]);
    assert_eq!(world.stub.get("a").settled_at, found.settled_at);
}

#[tokio::test]
async fn what_was_pushed_before_the_resolver_ran_is_found_and_once_only() {
    let mut world = World::new().await;
    world.stub.open("a", world.call_out(&[LI, WANG]));
    world.push("101", LI).await;
    world.push("101", LI).await;
    world.stub.open("b", world.call_out(&[ZHAO, ZHAO]));
    world.push("102", ZHAO).await;
    let running = world.run();
    world.stub.accepted("b").await;
    world.stop.cancel();
    running.await.unwrap();
    assert_eq!(world.stub.inner().writes, 2);

    // Another one begins where the first submission was sent, and finds nothing new.
    world.stop = CancellationToken::new();
    world.run();
    world.push("103", ZHAO).await;
    world.stub.until(|inner| inner.writes == 3).await;
    assert_eq!(world.stub.ids("a"), ["101", ""]);
    assert_eq!(world.stub.ids("b"), ["102", "103"]);
}

#[tokio::test]
async fn reading_goes_back_for_a_submission_that_becomes_unknown_later() {
    let world = World::new().await;
    let sent_first = world.call_out(&[LI]);
    world.push("101", LI).await;
    world.stub.open("b", world.call_out(&[WANG, ZHAO]));
    world.run();
    world.push("102", WANG).await;
    world.stub.accepted("b").await;
    world.stub.open("a", sent_first);
    world.stub.accepted("a").await;
    assert_eq!(world.stub.ids("a"), ["101"]);
}

#[tokio::test]
async fn a_row_of_another_submission_shows_nothing() {
    let world = World::new().await;
    world.stub.inner().claimed.insert("101".to_owned());
    world.stub.open("a", world.call_out(&[LI]));
    world.stub.open("b", world.call_out(&[WANG]));
    world.run();
    world.push("101", LI).await;
    world.push("102", WANG).await;
    world.stub.accepted("b").await;
    assert_eq!(world.stub.get("a").state(), SubmissionState::Unknown);

    // The same row in two submissions: each call is of one of them.
    world.stub.open("c", world.call_out(&[LI]));
    world.push("103", LI).await;
    world.push("103", LI).await;
    world.push("104", LI).await;
    world.stub.accepted("c").await;
    assert_eq!(world.stub.ids("a"), ["103"]);
    assert_eq!(world.stub.ids("c"), ["104"]);
}

#[tokio::test]
async fn what_the_log_cannot_give_is_passed_over_and_failures_are_tried_again() {
    let world = World::new().await;
    let mut sent = world.call_out(&[LI, WANG]);
    sent.push_cursor = "no cursor".to_owned();
    world.push("101", LI).await;
    world.push("102", WANG).await;
    world.stub.open("a", sent);
    world.log.faults.lock().unwrap().extend([
        ReadError::Unavailable("away".to_owned()),
        ReadError::Expired {
            earliest: world.log.earliest(),
        },
        ReadError::Damaged { lost: 1..2 },
    ]);
    world.stub.inner().refuse = 1;
    world.run();
    world.stub.accepted("a").await;
    assert_eq!(world.stub.ids("a"), ["", "102"]);
}

#[tokio::test]
async fn a_submission_that_cannot_be_read_does_not_keep_the_others() {
    let world = World::new().await;
    world.stub.open("a", world.call_out(&[LI]));
    world.stub.open("b", world.call_out(&[LI]));
    world.stub.inner().unreadable.insert("a".to_owned());
    world.run();
    world.push("101", LI).await;
    world.stub.accepted("b").await;
}

#[tokio::test]
async fn the_log_is_not_read_while_nothing_is_open_and_its_close_ends_the_resolver() {
    let world = World::new().await;
    let running = world.run();
    for number in 0..10 {
        world.push(&number.to_string(), LI).await;
    }
    assert_eq!(world.log.reads.load(Ordering::SeqCst), 0);
    world.stub.open("a", world.call_out(&[LI]));
    world.push("101", LI).await;
    world.stub.accepted("a").await;

    let closed = ReadError::Closed;
    world.log.faults.lock().unwrap().push_back(closed);
    world.stub.open("b", world.call_out(&[LI]));
    running.await.unwrap();
}
