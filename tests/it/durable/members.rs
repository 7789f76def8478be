//! Joining, taking events, and settling them.

use std::collections::HashSet;

use tonic::Code;
use yeta_gateway::proto::{
    AckPushesRequest, AckStatus, DeleteSubscriptionRequest, ExtendAckDeadlineRequest,
    NackPushesRequest, PushFilter, SubscribePushesRequest, SubscribePushesResponse, Subscription,
};

use super::{
    NAME, ack, ack_ids, call, calls, creating, dead_letters, ended, expected, faulty, get, join,
    joining, manager, nack, named, numbers, push_numbers, refusal, seconds, stats, take,
    until_caught_up,
};
use crate::bridge::reason;
use crate::support::{TestApp, eventually, next_event, next_message, within};

#[tokio::test]
async fn the_first_subscriber_creates_the_subscription_with_its_start_and_filter() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..4).await;
    let filter = |calls: &[&str]| PushFilter {
        call_uuids: calls.iter().map(|&call| call.to_owned()).collect(),
        ..PushFilter::default()
    };
    let first = SubscribePushesRequest {
        filter: Some(filter(&["1", "2", "9"])),
        ..joining(NAME)
    };
    let mut first = join(&mut app.pushes(), first).await;
    assert_eq!(until_caught_up(&mut first).await, numbers(1..3));
    drop(first);
    // What a later one brings of both is not looked at.
    let later = SubscribePushesRequest {
        filter: Some(filter(&["3"])),
        start: None,
        ..joining(NAME)
    };
    let mut later = join(&mut app.pushes(), later).await;
    assert_eq!(until_caught_up(&mut later).await, numbers(1..3));
    push_numbers(&app, 9..10).await;
    assert_eq!(call(&next_event(&mut later).await), "9");
    let held = get(&mut manager(&app)).await;
    assert_eq!(held.filter, Some(filter(&["1", "2", "9"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_subscribers_that_race_all_join_the_same_subscription() {
    const MEMBERS: usize = 8;
    let app = TestApp::start().await;
    push_numbers(&app, 0..MEMBERS).await;
    let racers: Vec<_> = (0..MEMBERS)
        .map(|_| {
            let mut client = app.pushes();
            let request = SubscribePushesRequest {
                max_in_flight: Some(1),
                ..joining(NAME)
            };
            tokio::spawn(async move {
                let mut stream = join(&mut client, request).await;
                (call(&next_event(&mut stream).await), stream)
            })
        })
        .collect();
    let mut streams = Vec::new();
    let mut seen = HashSet::new();
    for racer in racers {
        let (call, stream) = within("a racer", racer).await.unwrap();
        seen.insert(call);
        streams.push(stream);
    }
    assert_eq!(seen, numbers(0..MEMBERS).into_iter().collect());
    let stats = stats(&mut manager(&app)).await;
    assert_eq!((stats.members, stats.unacked), (8, 8));
}

#[tokio::test]
async fn events_carry_what_to_acknowledge_and_do_not_come_again_once_they_are() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..3).await;
    let request = SubscribePushesRequest {
        include_raw: true,
        ..joining(NAME)
    };
    let mut stream = join(&mut app.pushes(), request).await;
    let events = take(&mut stream, 3).await;
    assert_eq!(calls(&events), numbers(0..3));
    assert!(events.iter().all(|event| event.delivery_attempt == 1));
    assert!(events.iter().all(|event| !event.raw_json.is_empty()));
    let distinct: HashSet<_> = ack_ids(&events).into_iter().collect();
    assert_eq!(distinct.len(), 3);
    assert!(!distinct.contains(""));
    // By another connection than the stream's.
    let statuses = ack(&mut app.pushes(), ack_ids(&events[..2])).await;
    assert_eq!(statuses, [AckStatus::Ok, AckStatus::Ok]);
    drop(stream);
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    let again = next_event(&mut stream).await;
    assert_eq!((call(&again).as_str(), again.delivery_attempt), ("2", 1));
    ack(&mut app.pushes(), vec![again.ack_id]).await;
    assert!(until_caught_up(&mut stream).await.is_empty());
    let held = get(&mut manager(&app)).await;
    assert_eq!(held.cursor, again.cursor);
    assert_eq!(held.stats.unwrap().unacked, 0);
}

#[tokio::test]
async fn what_became_of_each_ack_id_is_told_in_order() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    push_numbers(&app, 0..2).await;
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 2).await;
    let refused = NackPushesRequest {
        ack_ids: vec![events[0].ack_id.clone()],
        delay: Some(seconds(0)),
        ..NackPushesRequest::default()
    };
    assert_eq!(nack(&mut client, refused).await, [AckStatus::Ok]);
    let again = next_event(&mut stream).await;
    assert_eq!((call(&again).as_str(), again.delivery_attempt), ("0", 2));
    let ids = vec![
        events[0].ack_id.clone(),
        "nonsense".into(),
        again.ack_id.clone(),
        events[1].ack_id.clone(),
    ];
    assert_eq!(
        ack(&mut client, ids.clone()).await,
        [
            AckStatus::Superseded,
            AckStatus::Unknown,
            AckStatus::Ok,
            AckStatus::Ok
        ]
    );
    assert_eq!(
        ack(&mut client, ids[2..].to_vec()).await,
        [AckStatus::Unknown; 2]
    );

    let many = AckPushesRequest {
        subscription: NAME.into(),
        ack_ids: vec!["x".into(); 10_001],
    };
    assert_eq!(faulty(client.ack_pushes(many).await), ["ack_ids"]);
    let too_long = NackPushesRequest {
        subscription: NAME.into(),
        delay: Some(seconds(12 * 3600 + 1)),
        ..NackPushesRequest::default()
    };
    assert_eq!(faulty(client.nack_pushes(too_long).await), ["delay"]);
}

#[tokio::test]
async fn settling_events_of_no_subscription_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    let not_found = expected(Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    let subscription = || "nobody".to_owned();
    let acked = client.ack_pushes(AckPushesRequest {
        subscription: subscription(),
        ..AckPushesRequest::default()
    });
    assert_eq!(refusal(acked.await), not_found);
    let nacked = client.nack_pushes(NackPushesRequest {
        subscription: subscription(),
        ..NackPushesRequest::default()
    });
    assert_eq!(refusal(nacked.await), not_found);
    let extended = client.extend_ack_deadline(ExtendAckDeadlineRequest {
        subscription: subscription(),
        ..ExtendAckDeadlineRequest::default()
    });
    assert_eq!(refusal(extended.await), not_found);
}

#[tokio::test]
async fn an_event_comes_again_when_its_deadline_passes_and_not_while_it_is_extended() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    push_numbers(&app, 0..2).await;
    let short = Subscription {
        ack_deadline: Some(prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
        ..named(NAME)
    };
    let mut manager = manager(&app);
    manager.create_subscription(creating(short)).await.unwrap();
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 2).await;
    let request = ExtendAckDeadlineRequest {
        subscription: NAME.into(),
        ack_ids: vec![events[0].ack_id.clone(), "nonsense".into()],
        ack_deadline: Some(seconds(3600)),
    };
    let results = client.extend_ack_deadline(request).await.unwrap();
    let results = results.into_inner().results;
    assert_eq!(results[0].status(), AckStatus::Ok);
    assert_eq!(results[1].status(), AckStatus::Unknown);
    for attempt in 2..4 {
        let again = next_event(&mut stream).await;
        assert_eq!(
            (call(&again).as_str(), again.delivery_attempt),
            ("1", attempt)
        );
    }
    let statuses = ack(&mut client, vec![events[0].ack_id.clone()]).await;
    assert_eq!(statuses, [AckStatus::Ok]);
}

#[tokio::test]
async fn a_member_holds_no_more_than_its_window_in_events_and_in_bytes() {
    let app = TestApp::start().await;
    let padding = "x".repeat(10_000);
    for number in 0..6 {
        let body = format!(r#"{{"call_uuid":"{number}","direction":2,"padding":"{padding}"}}"#);
        app.push("receiveCallRecord", body).await;
    }
    for (events, bytes, held) in [
        (Some(2), None, 2),
        // Each entry is its event and its raw bytes.
        (None, Some(70_000), 3),
        // One comes even where there is no room for it.
        (None, Some(1), 1),
    ] {
        let name = format!("window-{held}");
        let request = SubscribePushesRequest {
            max_in_flight: events,
            max_in_flight_bytes: bytes,
            ..joining(&name)
        };
        let mut stream = join(&mut app.pushes(), request).await;
        let mut out = take(&mut stream, held).await;
        // All others go to a member with room: the first one's window is full.
        let mut other = join(&mut app.pushes(), joining(&name)).await;
        assert_eq!(calls(&take(&mut other, 6 - held).await), numbers(held..6));
        // Room is made by settling what is out, and by nothing else.
        let first = out.remove(0);
        let request = NackPushesRequest {
            subscription: name,
            ack_ids: vec![first.ack_id],
            delay: Some(seconds(0)),
            ..NackPushesRequest::default()
        };
        drop(other);
        app.pushes().nack_pushes(request).await.unwrap();
        assert_eq!(next_event(&mut stream).await.delivery_attempt, 2);
    }
    for (field, request) in [
        (
            "max_in_flight",
            SubscribePushesRequest {
                max_in_flight: Some(10_001),
                ..joining(NAME)
            },
        ),
        (
            "max_in_flight_bytes",
            SubscribePushesRequest {
                max_in_flight_bytes: Some(0),
                ..joining(NAME)
            },
        ),
        ("subscription", joining("a/b")),
    ] {
        let refused = app.pushes().subscribe_pushes(request).await;
        assert_eq!(faulty(refused), [field]);
    }
}

#[tokio::test]
async fn two_members_share_events_by_their_free_room() {
    let app = TestApp::start().await;
    let mut client = app.pushes();
    let mut first = join(&mut client, joining(NAME)).await;
    let mut second = join(&mut client, joining(NAME)).await;
    until_caught_up(&mut first).await;
    until_caught_up(&mut second).await;
    push_numbers(&app, 0..20).await;
    let mut all = calls(&take(&mut first, 10).await);
    all.extend(calls(&take(&mut second, 10).await));
    all.sort_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(all, numbers(0..20));
}

#[tokio::test]
async fn what_a_member_leaves_goes_to_another_without_a_failed_attempt() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..3).await;
    let mut leaving = join(&mut app.pushes(), joining(NAME)).await;
    take(&mut leaving, 3).await;
    let mut staying = join(&mut app.pushes(), joining(NAME)).await;
    drop(leaving);
    let events = take(&mut staying, 3).await;
    assert_eq!(calls(&events), numbers(0..3));
    assert!(events.iter().all(|event| event.delivery_attempt == 1));
}

#[tokio::test]
async fn an_event_that_breaks_every_stream_is_parked_with_that_reason_and_the_others_go_on() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..3).await;
    let mut delivered = Vec::new();
    for _ in 0..3 {
        let mut stream = join(&mut app.pushes(), joining(NAME)).await;
        loop {
            let event = next_event(&mut stream).await;
            delivered.push(call(&event));
            if call(&event) == "1" {
                break;
            }
            ack(&mut app.pushes(), vec![event.ack_id]).await;
        }
        drop(stream);
        let left = async || (stats(&mut manager(&app)).await.members == 0).then_some(());
        eventually("the member has left", left).await;
    }
    assert_eq!(delivered, ["0", "1", "1", "1"]);
    let dead = eventually("a dead letter", async || {
        let dead = dead_letters(&mut manager(&app)).await;
        (!dead.is_empty()).then_some(dead)
    });
    let dead = dead.await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].event.as_ref().map(call).as_deref(), Some("1"));
    assert!(
        dead[0].reason.contains("broke within a second"),
        "{}",
        dead[0].reason
    );
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    assert_eq!(call(&next_event(&mut stream).await), "2");
}

#[tokio::test]
async fn a_drain_in_mid_delivery_burns_no_attempt_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let app = TestApp::with(|config| config.store.path.clone_from(&path)).await;
    let mut client = app.pushes();
    push_numbers(&app, 0..5).await;
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 5).await;
    ack(&mut client, ack_ids(&events[..2])).await;
    let place = get(&mut manager(&app)).await.cursor;
    assert_eq!(place, events[1].cursor);

    let stopped = tokio::spawn(app.stop());
    let mut last = None;
    let status = loop {
        match next_message(&mut stream).await {
            Ok(SubscribePushesResponse::Progress(progress)) => last = Some(progress.cursor),
            Ok(other) => panic!("{other:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(last, Some(place));
    let (code, reason, _) = reason(&status);
    assert_eq!((code, reason), expected(Code::Unavailable, "DRAINING"));
    drop((stream, client));
    within("the gateway's end", stopped).await.unwrap().unwrap();

    let app = TestApp::with(|config| config.store.path = path).await;
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    let again = take(&mut stream, 3).await;
    assert_eq!(calls(&again), numbers(2..5));
    assert!(again.iter().all(|event| event.delivery_attempt == 1));
}

#[tokio::test]
async fn the_streams_of_a_deleted_subscription_end_and_coming_back_creates_it_anew() {
    let app = TestApp::start().await;
    push_numbers(&app, 0..1).await;
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    let event = next_event(&mut stream).await;
    ack(&mut app.pushes(), vec![event.ack_id.clone()]).await;
    let request = DeleteSubscriptionRequest { name: NAME.into() };
    manager(&app).delete_subscription(request).await.unwrap();
    let (code, reason, _) = reason(&ended(&mut stream).await);
    assert_eq!(
        (code, reason),
        expected(Code::NotFound, "SUBSCRIPTION_NOT_FOUND")
    );
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    assert_eq!(call(&next_event(&mut stream).await), "0");
    // An id of the one that was deleted is none of this one.
    let statuses = ack(&mut app.pushes(), vec![event.ack_id]).await;
    assert_eq!(statuses, [AckStatus::Unknown]);
}
