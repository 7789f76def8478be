//! kill −9 while members of a durable subscription work: every event is completed, none whose
//! acknowledgement was answered OK comes again, and no kill burns an attempt.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use yeta_gateway::proto::push_event::Payload;
use yeta_gateway::proto::subscribe_pushes_request::Start;
use yeta_gateway::proto::{
    AckPushesRequest, AckStatus, Position, PushEvent, SubscribeProgress, SubscribePushesRequest,
    SubscribePushesResponse,
};

use crate::support::{Addresses, Http, Process, Pushes, eventually, pushes_client, within};

const KILLS: usize = 40;
const PUSHERS: usize = 2;
const MEMBERS: usize = 2;
const SUBSCRIPTION: &str = "billing";

/// Where the gateway is now; `None` while there is none.
type Place = watch::Receiver<Option<Addresses>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_acknowledged_stay_so_and_no_attempt_is_burnt_over_forty_kills() {
    let seed: u64 =
        std::env::var("YETA_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed} (YETA_TEST_SEED={seed} to run it again)");
    let folder = tempfile::tempdir().unwrap();
    let place = watch::Sender::new(None);
    let books = Arc::new(Books::default());
    let done = watch::Sender::new(false);

    let mut pushers = JoinSet::new();
    for number in 0..PUSHERS {
        pushers.spawn(push(
            number,
            place.subscribe(),
            books.clone(),
            done.subscribe(),
        ));
    }
    let mut members = JoinSet::new();
    for number in 0..MEMBERS as u64 {
        let random = StdRng::seed_from_u64(seed ^ (number + 1));
        members.spawn(work(
            place.subscribe(),
            books.clone(),
            random,
            done.subscribe(),
        ));
    }

    let mut random = StdRng::seed_from_u64(seed);
    Process::configure(folder.path(), "");
    for _ in 0..KILLS {
        let gateway = start(folder.path(), &place).await;
        let more = random.random_range(1..40);
        within("acknowledgements", books.more(more)).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..5000))).await;
        place.send_replace(None);
        gateway.kill();
    }
    let last = start(folder.path(), &place).await;
    done.send_replace(true);
    while let Some(pusher) = within("a pusher's end", pushers.join_next()).await {
        pusher.unwrap();
    }
    eventually("every event to be completed", async || {
        books.missing().is_empty().then_some(())
    })
    .await;
    let perhaps = books.perhaps.lock().unwrap().len();
    println!("{perhaps} acknowledgements that were not answered have counted");
    members.abort_all();
    while let Some(member) = members.join_next().await {
        assert!(member.is_ok() || member.unwrap_err().is_cancelled());
    }
    last.kill();
    let counts = books.counts.lock().unwrap();
    println!("{KILLS} kills, {counts:?}");
    assert!(counts.completed > KILLS, "no load");
}

async fn start(folder: &Path, place: &watch::Sender<Option<Addresses>>) -> Process {
    let gateway = Process::spawn(Process::command(folder)).await;
    place.send_replace(Some(gateway.addresses.clone()));
    gateway
}

/// What was promised, and to whom.
#[derive(Default)]
struct Books {
    /// Calls whose push was answered `success`.
    pushed: Mutex<HashSet<String>>,
    /// Calls whose acknowledgement was answered OK.
    completed: Mutex<HashSet<String>>,
    /// Calls whose acknowledgement was not answered: it may have counted, or not.
    perhaps: Mutex<HashSet<String>>,
    /// How often each call has come.
    deliveries: Mutex<HashMap<String, u32>>,
    counts: Mutex<Counts>,
    changed: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    completed: usize,
    redelivered: usize,
    superseded: usize,
    unknown: usize,
}

impl Books {
    fn missing(&self) -> Vec<String> {
        let (pushed, completed) = (self.pushed.lock().unwrap(), self.completed.lock().unwrap());
        let perhaps = self.perhaps.lock().unwrap();
        let missing = pushed.difference(&completed);
        missing
            .filter(|call| !perhaps.contains(*call))
            .cloned()
            .collect()
    }

    async fn more(&self, count: usize) {
        let mut changed = self.changed.subscribe();
        let wanted = *changed.borrow() + count;
        changed.wait_for(|now| *now >= wanted).await.unwrap();
    }

    fn delivered(&self, event: &PushEvent) {
        let call = call(event);
        // If it comes again, the acknowledgement has not counted.
        self.perhaps.lock().unwrap().remove(&call);
        // An acknowledgement answered before the event came is an acknowledgement that counted.
        assert!(
            !self.completed.lock().unwrap().contains(&call),
            "{call} was acknowledged, and comes again"
        );
        assert_eq!(event.delivery_attempt, 1, "{call}: a kill burnt an attempt");
        let mut deliveries = self.deliveries.lock().unwrap();
        let times = deliveries.entry(call).or_default();
        *times += 1;
        self.counts.lock().unwrap().redelivered += usize::from(*times > 1);
    }

    fn answered(&self, call: String, status: AckStatus) {
        let mut counts = self.counts.lock().unwrap();
        match status {
            AckStatus::Ok => {
                self.completed.lock().unwrap().insert(call);
                counts.completed += 1;
                self.changed.send_modify(|count| *count += 1);
            }
            AckStatus::Superseded => counts.superseded += 1,
            AckStatus::Unknown => counts.unknown += 1,
            AckStatus::Unspecified => panic!("no status for {call}"),
        }
    }
}

fn call(event: &PushEvent) -> String {
    let Some(Payload::CallRecord(record)) = &event.payload else {
        panic!("{event:?}")
    };
    record.call_uuid.clone()
}

/// Pushes arrays of records, each until it is answered `success`.
async fn push(number: usize, mut place: Place, books: Arc<Books>, done: watch::Receiver<bool>) {
    let http = Http::new();
    for count in 0.. {
        let calls: Vec<_> = (0..3).map(|n| format!("{number}-{count}-{n}")).collect();
        let records: Vec<_> = calls
            .iter()
            .map(|call| format!(r#"{{"call_uuid":"{call}"}}"#))
            .collect();
        let body = format!("[{}]", records.join(","));
        loop {
            let now = place.wait_for(Option::is_some).await.unwrap().clone();
            let base = now.unwrap().push;
            let answer = http.push(&base, "receiveCallRecord", body.clone()).await;
            if answer.is_ok_and(|answer| answer.is_success()) {
                books.pushed.lock().unwrap().extend(calls);
                break;
            }
        }
        if *done.borrow() {
            return;
        }
    }
}

fn request() -> SubscribePushesRequest {
    SubscribePushesRequest {
        subscription: SUBSCRIPTION.into(),
        start: Some(Start::Position(Position::Earliest.into())),
        max_in_flight: Some(16),
        ..SubscribePushesRequest::default()
    }
}

/// A member: takes events, acknowledges them some at a time, and comes back after each kill.
async fn work(
    mut place: Place,
    books: Arc<Books>,
    mut random: StdRng,
    done: watch::Receiver<bool>,
) {
    loop {
        let now = place.wait_for(Option::is_some).await.unwrap().clone();
        let mut client = pushes_client(&now.unwrap().grpc);
        let Ok(stream) = client.subscribe_pushes(request()).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut stream = stream.into_inner();
        let mut held: Vec<PushEvent> = Vec::new();
        let mut done = done.clone();
        // Some of what is held is left to each kill, until there are no more of them.
        let mut at_once = random.random_range(1..10);
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                ended = done.wait_for(|done| *done), if at_once > 0 => {
                    drop(ended.unwrap());
                    at_once = 0;
                    Ok(Some(SubscribePushesResponse::Progress(SubscribeProgress::default())))
                }
            };
            match message {
                Ok(Some(SubscribePushesResponse::Event(event))) => {
                    books.delivered(&event);
                    held.push(*event);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
            if held.is_empty() || held.len() < at_once {
                continue;
            }
            if !acknowledge(&mut client, &books, &mut held).await {
                break;
            }
            if at_once > 0 {
                at_once = random.random_range(1..10);
            }
        }
    }
}

/// Acknowledges what is held; tells whether the gateway answered.
async fn acknowledge(client: &mut Pushes, books: &Books, held: &mut Vec<PushEvent>) -> bool {
    let events = std::mem::take(held);
    let request = AckPushesRequest {
        subscription: SUBSCRIPTION.into(),
        ack_ids: events.iter().map(|event| event.ack_id.clone()).collect(),
    };
    let Ok(answer) = client.ack_pushes(request).await else {
        let calls = events.iter().map(call);
        books.perhaps.lock().unwrap().extend(calls);
        return false;
    };
    let results = answer.into_inner().results;
    assert_eq!(results.len(), events.len());
    for (event, result) in events.iter().zip(results) {
        assert_eq!(result.ack_id, event.ack_id);
        books.answered(call(event), result.status());
    }
    true
}
