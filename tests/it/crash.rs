//! Kill −9 at random moments under load: what was answered `success` is there, once.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::transport::Channel;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::push_service_client::PushServiceClient;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    ListPushesRequest, Position, PushEvent, SubscribePushesRequest, SubscribePushesResponse,
    list_pushes_request,
};

use crate::process::{Gateway, Pusher, config};

const KILLS: usize = 50;
const PUSHERS: usize = 8;

/// What the platform side knows.
#[derive(Default)]
struct Platform {
    next: usize,
    acknowledged: HashSet<String>,
    /// Sent without an answer: to be sent again, as the platform does.
    unanswered: Vec<String>,
}

fn body(call: &str) -> String {
    format!(r#"{{"call_uuid":"{call}","callee":"19900000001","direction":2}}"#)
}

/// Pushes until the gateway is gone: new ones, unanswered ones, and some a second time.
async fn push_until_gone(
    pusher: Pusher,
    platform: Arc<Mutex<Platform>>,
    answered: watch::Sender<usize>,
    seed: u64,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut last: Option<String> = None;
    loop {
        let again = last.take().filter(|_| random.random_bool(0.1));
        let call = again.unwrap_or_else(|| {
            let mut platform = platform.lock().unwrap();
            platform.unanswered.pop().unwrap_or_else(|| {
                platform.next += 1;
                format!("call-{}", platform.next)
            })
        });
        match pusher.post("receiveCallRecord", body(&call)).await {
            Some((_, true)) => {
                platform.lock().unwrap().acknowledged.insert(call.clone());
                answered.send_modify(|count| *count += 1);
                last = Some(call);
            }
            Some((status, false)) => panic!("answered {status}"),
            None => {
                let mut platform = platform.lock().unwrap();
                if !platform.acknowledged.contains(&call) {
                    platform.unanswered.push(call);
                }
                return;
            }
        }
    }
}

/// Reads on from the last cursor until the gateway is gone, or until caught up if so asked.
async fn read_on(
    mut pushes: PushServiceClient<Channel>,
    mut seen: Vec<PushEvent>,
    until_caught_up: bool,
) -> Vec<PushEvent> {
    let start = seen
        .last()
        .map_or(Start::Position(Position::Earliest.into()), |event| {
            Start::Cursor(event.cursor.clone())
        });
    let request = SubscribePushesRequest {
        start: Some(start),
        ..Default::default()
    };
    // A gateway killed before it could answer has nothing to read.
    let Ok(stream) = pushes.subscribe_pushes(request).await else {
        return seen;
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(message)) = stream.message().await {
        match message {
            SubscribePushesResponse::Event(event) => seen.push(*event),
            SubscribePushesResponse::Progress(progress) => {
                if until_caught_up && progress.caught_up {
                    return seen;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    seen
}

fn call_of(event: &PushEvent) -> &str {
    match &event.payload {
        Some(Payload::CallRecord(record)) => &record.call_uuid,
        other => panic!("{other:?}"),
    }
}

/// One life of the gateway, ended at a random moment.
async fn live_and_die(
    folder: &Path,
    platform: &Arc<Mutex<Platform>>,
    seen: Vec<PushEvent>,
    random: &mut StdRng,
) -> Vec<PushEvent> {
    let gateway = Gateway::start(folder, &config(folder, "http://127.0.0.1:1")).await;
    let (answered, mut count) = watch::channel(0);
    let pusher = Pusher::new(gateway.push);
    let pushers: Vec<_> = (0..PUSHERS)
        .map(|_| {
            let (pusher, platform) = (pusher.clone(), platform.clone());
            tokio::spawn(push_until_gone(
                pusher,
                platform,
                answered.clone(),
                random.random(),
            ))
        })
        .collect();
    let reader = tokio::spawn(read_on(gateway.pushes(), seen, false));
    let lifetime = random.random_range(1..200);
    count.wait_for(|count| *count >= lifetime).await.unwrap();
    gateway.kill().await;
    for pusher in pushers {
        pusher.await.unwrap();
    }
    reader.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_through_fifty_kills() {
    let chance: u64 = rand::random();
    println!("seed {chance}");
    let mut random = StdRng::seed_from_u64(chance);
    let folder = tempfile::tempdir().unwrap();
    let platform = Arc::new(Mutex::new(Platform::default()));
    let mut seen = Vec::new();
    for _ in 0..KILLS {
        seen = live_and_die(folder.path(), &platform, seen, &mut random).await;
    }

    let gateway = Gateway::start(folder.path(), &config(folder.path(), "http://127.0.0.1:1")).await;
    let log = read_on(gateway.pushes(), Vec::new(), true).await;
    let mut places = HashMap::new();
    for (place, event) in log.iter().enumerate() {
        let earlier = places.insert(call_of(event).to_owned(), place);
        assert_eq!(earlier, None, "{} stands twice in the log", call_of(event));
    }
    let acknowledged = platform.lock().unwrap().acknowledged.clone();
    let missing: Vec<_> = acknowledged
        .iter()
        .filter(|call| !places.contains_key(*call))
        .collect();
    assert!(missing.is_empty(), "acknowledged and missing: {missing:?}");
    assert!(
        acknowledged.len() > KILLS,
        "{} pushes are no load",
        acknowledged.len()
    );

    // The reader that went on from its own cursor after each kill has seen the same.
    let seen = read_on(gateway.pushes(), seen, true).await;
    let cursors = |events: &[PushEvent]| -> Vec<_> {
        events.iter().map(|event| event.cursor.clone()).collect()
    };
    assert_eq!(cursors(&seen), cursors(&log));
    for (place, event) in log.iter().enumerate().step_by(7) {
        let request = ListPushesRequest {
            start: Some(list_pushes_request::Start::Cursor(event.cursor.clone())),
            page_size: 1,
            ..Default::default()
        };
        let page = gateway
            .pushes()
            .list_pushes(request)
            .await
            .unwrap()
            .into_inner();
        let next = log.get(place + 1).map(|event| &event.cursor);
        assert_eq!(page.events.first().map(|event| &event.cursor), next);
    }
}
