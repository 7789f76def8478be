//! `SubscriptionService`: creating, looking, changing, moving, and dead letters.

use std::time::SystemTime;

use tonic::Code;
use yeta_gateway::proto::{
    AckStatus, CreateSubscriptionRequest, DeleteSubscriptionRequest, GetSubscriptionRequest,
    ListDeadLettersRequest, ListSubscriptionsRequest, NackPushesRequest, Position, PushFilter,
    RedeliveryBackoff, RedriveDeadLettersRequest, SeekSubscriptionRequest, Subscription,
    UpdateSubscriptionRequest, create_subscription_request, seek_subscription_request,
};

use super::{
    Manager, NAME, ack, ack_ids, call, calls, creating, dead_letters, expected, faulty, get, join,
    joining, manager, nack, named, numbers, push_numbers, refusal, seconds, stats, take,
    until_caught_up,
};
use crate::support::{TestApp, eventually, next_event};

#[tokio::test]
async fn a_subscription_is_created_with_defaults_and_only_once() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    push_numbers(&app, 0..3).await;
    let created = manager.create_subscription(creating(named(NAME))).await;
    let created = created.unwrap().into_inner();
    let stats = created.stats.unwrap();
    assert_eq!(created.name, NAME);
    assert_eq!(created.filter, Some(PushFilter::default()));
    assert_eq!(created.ack_deadline, Some(seconds(30)));
    assert_eq!(created.max_delivery_attempts, Some(10));
    assert_eq!(created.paused, Some(false));
    assert!(created.create_time.is_some());
    assert_eq!((stats.lag_events, stats.unacked, stats.members), (3, 0, 0));
    assert!(stats.lag.is_some() && stats.oldest_unacked.is_none());
    let again = manager.create_subscription(creating(named(NAME))).await;
    assert_eq!(
        refusal(again),
        expected(Code::AlreadyExists, "SUBSCRIPTION_EXISTS")
    );
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    assert_eq!(until_caught_up(&mut stream).await, numbers(0..3));
}

#[tokio::test]
async fn a_subscription_that_makes_no_sense_is_refused_and_says_why() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let backoff = |minimum, maximum| {
        Some(RedeliveryBackoff {
            minimum: Some(seconds(minimum)),
            maximum: Some(seconds(maximum)),
        })
    };
    for (subscription, fields) in [
        (named(""), vec!["subscription.name"]),
        (named(".hidden"), vec!["subscription.name"]),
        (named(&"x".repeat(129)), vec!["subscription.name"]),
        (
            Subscription {
                ack_deadline: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 99_000_000,
                }),
                backoff: backoff(5, 4),
                ..named(NAME)
            },
            vec!["subscription.ack_deadline", "subscription.backoff.maximum"],
        ),
        (
            Subscription {
                ack_deadline: Some(seconds(12 * 3600 + 1)),
                backoff: backoff(1, 12 * 3600 + 1),
                ..named(NAME)
            },
            vec!["subscription.ack_deadline", "subscription.backoff.maximum"],
        ),
    ] {
        let refused = manager.create_subscription(creating(subscription)).await;
        assert_eq!(faulty(refused), fields);
    }
    let nothing = CreateSubscriptionRequest::default();
    assert_eq!(
        faulty(manager.create_subscription(nothing).await),
        ["subscription"]
    );
    let elsewhere = CreateSubscriptionRequest {
        start: Some(create_subscription_request::Start::Cursor("AAAA".into())),
        ..creating(named(NAME))
    };
    assert_eq!(
        refusal(manager.create_subscription(elsewhere).await),
        expected(Code::InvalidArgument, "BAD_CURSOR")
    );
    let longest = named(&"x".repeat(128));
    manager
        .create_subscription(creating(longest))
        .await
        .unwrap();
}

#[tokio::test]
async fn there_may_be_so_many_subscriptions() {
    let app = TestApp::with(|config| config.subscriptions.max = 2).await;
    let mut manager = manager(&app);
    for name in ["a", "b"] {
        manager
            .create_subscription(creating(named(name)))
            .await
            .unwrap();
    }
    let too_many = expected(Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS");
    let refused = manager.create_subscription(creating(named("c"))).await;
    assert_eq!(refusal(refused), too_many);
    let refused = app.pushes().subscribe_pushes(joining("c")).await;
    assert_eq!(refusal(refused), too_many);
    join(&mut app.pushes(), joining("a")).await;
}

#[tokio::test]
async fn what_is_no_subscription_is_not_found() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let not_found = expected(Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    let name = || NAME.to_owned();
    let got = manager.get_subscription(GetSubscriptionRequest { name: name() });
    assert_eq!(refusal(got.await), not_found);
    let deleted = manager.delete_subscription(DeleteSubscriptionRequest { name: name() });
    assert_eq!(refusal(deleted.await), not_found);
    let updated = manager.update_subscription(UpdateSubscriptionRequest {
        subscription: Some(named(NAME)),
        update_mask: None,
    });
    assert_eq!(refusal(updated.await), not_found);
    let moved = manager.seek_subscription(to(Position::Earliest));
    assert_eq!(refusal(moved.await), not_found);
    let listed = manager.list_dead_letters(ListDeadLettersRequest {
        subscription: name(),
        ..ListDeadLettersRequest::default()
    });
    assert_eq!(refusal(listed.await), not_found);
    let redriven = manager.redrive_dead_letters(redrive(&[]));
    assert_eq!(refusal(redriven.await), not_found);
}

fn update(subscription: Subscription, paths: &[&str]) -> UpdateSubscriptionRequest {
    UpdateSubscriptionRequest {
        subscription: Some(subscription),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
    }
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_without_one_what_is_set() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let whole = Subscription {
        filter: Some(PushFilter {
            task_ids: vec!["t".into()],
            ..PushFilter::default()
        }),
        ack_deadline: Some(seconds(5)),
        max_delivery_attempts: Some(0),
        backoff: Some(RedeliveryBackoff {
            minimum: Some(seconds(2)),
            maximum: None,
        }),
        paused: Some(true),
        ..named(NAME)
    };
    let created = manager.create_subscription(creating(whole.clone())).await;
    let created = created.unwrap().into_inner();
    assert_eq!(created.max_delivery_attempts, Some(0));
    assert_eq!(created.backoff.unwrap().maximum, Some(seconds(20)));

    let set = Subscription {
        ack_deadline: Some(seconds(7)),
        ..named(NAME)
    };
    let updated = manager.update_subscription(update(set, &[])).await.unwrap();
    let updated = updated.into_inner();
    assert_eq!(updated.ack_deadline, Some(seconds(7)));
    assert_eq!(updated.filter, whole.filter);
    assert_eq!(
        (updated.max_delivery_attempts, updated.paused),
        (Some(0), Some(true))
    );

    let mixed = Subscription {
        ack_deadline: Some(seconds(9)),
        max_delivery_attempts: Some(3),
        ..named(NAME)
    };
    let paths = ["max_delivery_attempts", "filter", "backoff", "paused"];
    let updated = manager
        .update_subscription(update(mixed, &paths))
        .await
        .unwrap();
    let updated = updated.into_inner();
    assert_eq!(updated.ack_deadline, Some(seconds(7)));
    assert_eq!(updated.max_delivery_attempts, Some(3));
    assert_eq!(updated.filter, Some(PushFilter::default()));
    assert_eq!(updated.backoff.unwrap().minimum, Some(seconds(0)));
    assert_eq!(updated.paused, Some(false));

    for paths in [&["name"][..], &["stats", "*"], &["backoff.minimum"]] {
        let refused = manager
            .update_subscription(update(named(NAME), paths))
            .await;
        assert_eq!(faulty(refused), vec!["update_mask"; paths.len()]);
    }
}

#[tokio::test]
async fn a_paused_subscription_hands_nothing_out_until_it_is_resumed() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    push_numbers(&app, 0..2).await;
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    let events = take(&mut stream, 2).await;
    let paused = |paused| Subscription {
        paused: Some(paused),
        ..named(NAME)
    };
    manager
        .update_subscription(update(paused(true), &[]))
        .await
        .unwrap();
    push_numbers(&app, 2..3).await;
    let refused = NackPushesRequest {
        ack_ids: ack_ids(&events[..1]),
        ..NackPushesRequest::default()
    };
    nack(&mut app.pushes(), refused).await;
    // What is out can be settled meanwhile.
    let statuses = ack(&mut app.pushes(), ack_ids(&events[1..])).await;
    assert_eq!(statuses, [AckStatus::Ok]);
    let told = stats(&mut manager).await;
    assert_eq!((told.lag_events, told.unacked, told.members), (1, 1, 1));
    manager
        .update_subscription(update(paused(false), &[]))
        .await
        .unwrap();
    let mut come = calls(&take(&mut stream, 2).await);
    come.sort();
    assert_eq!(come, ["0", "2"]);
}

fn to(position: Position) -> SeekSubscriptionRequest {
    to_start(seek_subscription_request::Start::Position(position.into()))
}

fn to_start(start: seek_subscription_request::Start) -> SeekSubscriptionRequest {
    SeekSubscriptionRequest {
        name: NAME.into(),
        start: Some(start),
    }
}

#[tokio::test]
async fn a_seek_moves_back_and_forward_and_old_ack_ids_count_no_more() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let mut client = app.pushes();
    push_numbers(&app, 0..3).await;
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 3).await;
    ack(&mut client, ack_ids(&events[..2])).await;

    let back = to_start(seek_subscription_request::Start::Cursor(
        events[0].cursor.clone(),
    ));
    let moved = manager.seek_subscription(back).await.unwrap().into_inner();
    assert_eq!(moved.cursor, events[0].cursor);
    let again = take(&mut stream, 2).await;
    assert_eq!(calls(&again), numbers(1..3));
    assert_eq!(
        ack(&mut client, ack_ids(&events[2..])).await,
        [AckStatus::Superseded]
    );
    assert_eq!(ack(&mut client, ack_ids(&again)).await, [AckStatus::Ok; 2]);

    manager
        .seek_subscription(to(Position::Earliest))
        .await
        .unwrap();
    assert_eq!(calls(&take(&mut stream, 3).await), numbers(0..3));
    let moved = manager
        .seek_subscription(to(Position::Latest))
        .await
        .unwrap();
    assert_eq!(moved.into_inner().cursor, events[2].cursor);
    push_numbers(&app, 3..4).await;
    assert_eq!(call(&next_event(&mut stream).await), "3");
    let since = seek_subscription_request::Start::Since(SystemTime::UNIX_EPOCH.into());
    manager.seek_subscription(to_start(since)).await.unwrap();
    assert_eq!(calls(&take(&mut stream, 4).await), numbers(0..4));

    // A place that was forgotten does not pass over everything.
    for request in [
        to(Position::Unspecified),
        SeekSubscriptionRequest {
            name: NAME.into(),
            start: None,
        },
    ] {
        assert_eq!(faulty(manager.seek_subscription(request).await), ["start"]);
    }
}

fn redrive(event_ids: &[&str]) -> RedriveDeadLettersRequest {
    RedriveDeadLettersRequest {
        subscription: NAME.into(),
        event_ids: event_ids.iter().map(|&id| id.to_owned()).collect(),
    }
}

#[tokio::test]
async fn dead_letters_say_why_and_are_delivered_again_on_demand() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let mut client = app.pushes();
    push_numbers(&app, 0..3).await;
    let once = Subscription {
        max_delivery_attempts: Some(1),
        ..named(NAME)
    };
    manager.create_subscription(creating(once)).await.unwrap();
    let mut stream = join(&mut client, joining(NAME)).await;
    let events = take(&mut stream, 3).await;
    let park = NackPushesRequest {
        ack_ids: ack_ids(&events[..2]),
        park: true,
        reason: "坏".repeat(1000),
        ..NackPushesRequest::default()
    };
    assert_eq!(nack(&mut client, park).await, [AckStatus::Ok; 2]);
    let refuse = NackPushesRequest {
        ack_ids: ack_ids(&events[2..]),
        reason: "no room".into(),
        ..NackPushesRequest::default()
    };
    assert_eq!(nack(&mut client, refuse).await, [AckStatus::Ok]);
    let letters = dead_letters(&mut manager).await;
    let told: Vec<_> = letters
        .iter()
        .map(|letter| call(letter.event.as_ref().unwrap()))
        .collect();
    assert_eq!(told, numbers(0..3));
    assert_eq!(letters[0].reason, "坏".repeat(341));
    assert_eq!(
        (letters[2].reason.as_str(), letters[2].attempts),
        ("no room", 1)
    );
    assert!(letters[0].parked_at.is_some());
    let told = stats(&mut manager).await;
    assert_eq!((told.dead_letters, told.unacked), (3, 0));

    let malformed = manager
        .redrive_dead_letters(redrive(&[&events[0].event_id, "XYZ"]))
        .await;
    assert_eq!(faulty(malformed), ["event_ids[1]"]);
    let unknown = "0".repeat(32);
    let some = manager
        .redrive_dead_letters(redrive(&[&events[1].event_id, &unknown]))
        .await;
    assert_eq!(some.unwrap().into_inner().redriven, 1);
    let again = next_event(&mut stream).await;
    assert_eq!((call(&again).as_str(), again.delivery_attempt), ("1", 1));
    let all = manager.redrive_dead_letters(redrive(&[])).await;
    assert_eq!(all.unwrap().into_inner().redriven, 2);
    assert_eq!(calls(&take(&mut stream, 2).await), ["0", "2"]);
    assert!(dead_letters(&mut manager).await.is_empty());
}

#[tokio::test]
async fn pages_of_subscriptions_and_dead_letters_join_into_the_whole() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let mut names: Vec<_> = (0..7).map(|number| format!("s{number}")).collect();
    for name in &names {
        manager
            .create_subscription(creating(named(name)))
            .await
            .unwrap();
    }
    // The gateway has one of its own, which puts calls together.
    names.push("yeta-gateway.calls".into());
    eventually("the gateway's own", async || {
        (list(&mut manager, 100).await.len() == names.len()).then_some(())
    })
    .await;
    for size in [1, 3, 7, 100] {
        assert_eq!(list(&mut manager, size).await, names);
    }
    let bad = ListSubscriptionsRequest {
        page_size: 1001,
        page_token: "%".into(),
    };
    assert_eq!(
        faulty(manager.list_subscriptions(bad).await),
        ["page_size", "page_token"]
    );

    push_numbers(&app, 0..40).await;
    let mut stream = join(&mut app.pushes(), joining(NAME)).await;
    let events = take(&mut stream, 40).await;
    let park = NackPushesRequest {
        ack_ids: ack_ids(&events),
        park: true,
        ..NackPushesRequest::default()
    };
    nack(&mut app.pushes(), park).await;
    for size in [7, 40, 1000] {
        let mut request = ListDeadLettersRequest {
            subscription: NAME.into(),
            page_size: size,
            include_raw: true,
            ..ListDeadLettersRequest::default()
        };
        let mut told = Vec::new();
        loop {
            let page = manager
                .list_dead_letters(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert!(page.dead_letters.len() <= usize::try_from(size).unwrap());
            let events = page
                .dead_letters
                .iter()
                .filter_map(|letter| letter.event.as_ref());
            told.extend(
                events
                    .inspect(|event| assert!(!event.raw_json.is_empty()))
                    .map(call),
            );
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(told, numbers(0..40));
    }
    let bad = ListDeadLettersRequest {
        subscription: NAME.into(),
        page_token: "AAAA".into(),
        ..ListDeadLettersRequest::default()
    };
    assert_eq!(
        refusal(manager.list_dead_letters(bad).await),
        expected(Code::InvalidArgument, "BAD_CURSOR")
    );
}

/// The names of all subscriptions, read in pages of a size; none but the last may be short.
async fn list(manager: &mut Manager, page_size: i32) -> Vec<String> {
    let mut names = Vec::new();
    let mut request = ListSubscriptionsRequest {
        page_size,
        ..ListSubscriptionsRequest::default()
    };
    loop {
        let page = manager
            .list_subscriptions(request.clone())
            .await
            .unwrap()
            .into_inner();
        let is_last = page.next_page_token.is_empty();
        let count = i32::try_from(page.subscriptions.len()).unwrap();
        assert!(
            count == page_size || is_last && count > 0,
            "{count} of {page_size}"
        );
        names.extend(page.subscriptions.into_iter().map(|it| it.name));
        if is_last {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn lag_counts_what_matches_the_filter_and_has_not_been_handed_out() {
    let app = TestApp::start().await;
    let mut manager = manager(&app);
    let filtered = Subscription {
        filter: Some(PushFilter {
            call_uuids: vec!["3".into(), "5".into(), "7".into()],
            ..PushFilter::default()
        }),
        ..named(NAME)
    };
    manager
        .create_subscription(creating(filtered))
        .await
        .unwrap();
    let lag = stats(&mut manager).await;
    assert_eq!((lag.lag_events, lag.lag), (0, None));
    push_numbers(&app, 0..3).await;
    let lag = stats(&mut manager).await;
    assert_eq!((lag.lag_events, lag.lag), (0, None));
    push_numbers(&app, 3..10).await;
    assert_eq!(stats(&mut manager).await.lag_events, 3);
    let request = yeta_gateway::proto::SubscribePushesRequest {
        max_in_flight: Some(1),
        ..joining(NAME)
    };
    let mut stream = join(&mut app.pushes(), request).await;
    assert_eq!(call(&next_event(&mut stream).await), "3");
    let told = stats(&mut manager).await;
    assert_eq!((told.lag_events, told.unacked), (2, 1));
    assert!(told.lag.is_some() && told.oldest_unacked.is_some());
    assert_eq!(get(&mut manager).await.name, NAME);
}
