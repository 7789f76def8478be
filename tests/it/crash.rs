//! kill −9 under load, again and again: nothing acknowledged is lost, nothing is held twice, and
//! every cursor that a client ever held goes on to work.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use yeta_gateway::proto::{ListPushesRequest, SubscribePushesResponse, list_pushes_request};

use crate::support::{
    Addresses, Http, Process, Pushes, earliest, from_cursor, next_message, pushes_client, within,
};

const KILLS: usize = 50;
const PUSHERS: u64 = 8;
const SUBSCRIBERS: usize = 3;
/// Between two kills at most so many pushes are acknowledged.
const ACKNOWLEDGED: usize = 60;

/// Where the gateway is now; `None` while there is none.
type Place = watch::Receiver<Option<Addresses>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_acknowledged_and_cursors_held_survive_fifty_kills() {
    let seed =
        std::env::var("YETA_TEST_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("seed {seed} (YETA_TEST_SEED={seed} to run it again)");
    let folder = tempfile::tempdir().unwrap();
    let place = watch::Sender::new(None);
    let acknowledged = Arc::new(Acknowledged::default());
    let done = watch::Sender::new(false);

    let pushers: Vec<_> = (0..PUSHERS)
        .map(|number| {
            let pusher = Pusher {
                number,
                random: StdRng::seed_from_u64(seed ^ (number + 1)),
                place: place.subscribe(),
                acknowledged: acknowledged.clone(),
                http: Http::new(),
                mine: Vec::new(),
            };
            tokio::spawn(pusher.push_until(done.subscribe()))
        })
        .collect();
    let end = watch::Sender::new(None);
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| tokio::spawn(subscribe(place.subscribe(), end.subscribe())))
        .collect();

    let last = kill_again_and_again(folder.path(), seed, &place, &acknowledged).await;
    done.send_replace(true);
    for pusher in pushers {
        within("a pusher's end", pusher).await.unwrap();
    }

    let mut client = pushes_client(&last.addresses.grpc);
    let log = whole_log(&mut client).await;
    check_log(&log, &acknowledged);
    end.send_replace(log.last().cloned());
    let mut cursors = HashMap::new();
    for subscriber in subscribers {
        let seen = within("a subscriber's end", subscriber).await.unwrap();
        assert_eq!(
            seen.events, log,
            "what a subscriber was given, over all its streams"
        );
        for (cursor, before) in seen.cursors {
            let earlier = cursors.insert(cursor, before);
            assert!(earlier.is_none_or(|earlier| earlier == before));
        }
    }
    check_cursors(&mut client, &log, cursors).await;
    println!(
        "{} events, {} acknowledged",
        log.len(),
        acknowledged.count()
    );
}

/// An event's id, its call and its cursor.
type Event = (String, String, String);

/// What was answered `success`, by the call_uuid in it.
#[derive(Default)]
struct Acknowledged {
    calls: Mutex<HashSet<String>>,
    changed: watch::Sender<usize>,
}

impl Acknowledged {
    fn add(&self, calls: &[String]) {
        self.calls.lock().unwrap().extend(calls.iter().cloned());
        self.changed.send_modify(|count| *count += 1);
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Waits until so many more pushes have been acknowledged.
    async fn more(&self, count: usize) {
        let mut changed = self.changed.subscribe();
        let wanted = *changed.borrow() + count;
        changed.wait_for(|now| *now >= wanted).await.unwrap();
    }
}

/// Starts and kills gateways on one store; gives the last one, still running.
async fn kill_again_and_again(
    folder: &Path,
    seed: u64,
    place: &watch::Sender<Option<Addresses>>,
    acknowledged: &Acknowledged,
) -> Process {
    let mut random = StdRng::seed_from_u64(seed);
    let mut starting = Duration::ZERO;
    Process::configure(folder, "");
    for _ in 0..KILLS {
        if random.random_ratio(1, 5) {
            // Killed while it opens its store, perhaps.
            let after = Duration::from_millis(random.random_range(0..60));
            Process::spawn_and_kill(Process::command(folder), after).await;
        }
        let started = Instant::now();
        let gateway = Process::spawn(Process::command(folder)).await;
        starting += started.elapsed();
        place.send_replace(Some(gateway.addresses.clone()));
        let pushes = random.random_range(1..=ACKNOWLEDGED);
        within("pushes to be acknowledged", acknowledged.more(pushes)).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..5000))).await;
        place.send_replace(None);
        gateway.kill();
    }
    println!("{KILLS} kills, {starting:?} to start all");
    let last = Process::spawn(Process::command(folder)).await;
    place.send_replace(Some(last.addresses.clone()));
    last
}

struct Pusher {
    number: u64,
    random: StdRng,
    place: Place,
    acknowledged: Arc<Acknowledged>,
    http: Http,
    /// What it has pushed with success.
    mine: Vec<String>,
}

impl Pusher {
    async fn push_until(mut self, done: watch::Receiver<bool>) {
        for count in 0.. {
            if *done.borrow() {
                return;
            }
            let (calls, body) = self.new_body(count);
            self.offer(&calls, &body).await;
            if !self.mine.is_empty() && self.random.random_ratio(1, 8) {
                // The platform sends again what it has had an answer to, at times.
                let again = self.random.random_range(0..self.mine.len());
                let body = self.mine[again].clone();
                self.offer(&[], &body).await;
            }
        }
    }

    /// One record, or an array of some; of any size from tiny to some KiB.
    fn new_body(&mut self, count: usize) -> (Vec<String>, String) {
        let records = if self.random.random_ratio(1, 10) {
            3
        } else {
            1
        };
        let calls: Vec<_> = (0..records)
            .map(|record| format!("{}-{count}-{record}", self.number))
            .collect();
        let bodies: Vec<_> = calls
            .iter()
            .map(|call| {
                let padding = "x".repeat(1 << self.random.random_range(0..13));
                format!(r#"{{"call_uuid":"{call}","direction":2,"padding":"{padding}"}}"#)
            })
            .collect();
        let body = match records {
            1 => bodies[0].clone(),
            _ => format!("[{}]", bodies.join(", ")),
        };
        (calls, body)
    }

    /// Sends a body until it is acknowledged: once, and three times more, as the platform does.
    async fn offer(&mut self, calls: &[String], body: &str) {
        for _ in 0..4 {
            let base = match self.place.wait_for(Option::is_some).await.unwrap().as_ref() {
                Some(addresses) => addresses.push.clone(),
                None => return,
            };
            let answer = self
                .http
                .push(&base, "receiveCallRecord", body.to_owned())
                .await;
            if answer.is_ok_and(|answer| answer.is_success()) {
                self.acknowledged.add(calls);
                self.mine.push(body.to_owned());
                return;
            }
        }
    }
}

/// What a subscriber was given, and every cursor that it ever held with the number of events that
/// came before.
#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    cursors: HashMap<String, usize>,
}

/// Reads the log from its beginning, and goes on from its cursor after each loss of the gateway,
/// until it has come to the end.
async fn subscribe(mut place: Place, end: watch::Receiver<Option<Event>>) -> Seen {
    let mut seen = Seen::default();
    let mut cursor = None;
    loop {
        let reached =
            |seen: &Seen| end.borrow().is_some() && seen.events.last() == end.borrow().as_ref();
        if reached(&seen) {
            return seen;
        }
        let Some(addresses) = place.wait_for(Option::is_some).await.unwrap().clone() else {
            continue;
        };
        let request = cursor.as_deref().map_or_else(earliest, from_cursor);
        let mut client = pushes_client(&addresses.grpc);
        let Ok(stream) = client.subscribe_pushes(request).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut stream = stream.into_inner();
        let mut ended = end.clone();
        loop {
            let message = tokio::select! {
                message = next_message(&mut stream) => message,
                changed = ended.changed() => {
                    changed.unwrap();
                    if reached(&seen) {
                        return seen;
                    }
                    continue;
                }
            };
            let held = match message {
                Ok(SubscribePushesResponse::Event(event)) => {
                    seen.events.push(identity(&event));
                    event.cursor
                }
                Ok(SubscribePushesResponse::Progress(progress)) => progress.cursor,
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            };
            let before = seen.events.len();
            let earlier = seen.cursors.insert(held.clone(), before);
            assert!(
                earlier.is_none_or(|earlier| earlier == before),
                "one cursor, two places"
            );
            cursor = Some(held);
            if reached(&seen) {
                return seen;
            }
        }
    }
}

fn identity(event: &yeta_gateway::proto::PushEvent) -> Event {
    use yeta_gateway::proto::push_event::Payload;
    let Some(Payload::CallRecord(record)) = &event.payload else {
        panic!("{event:?}")
    };
    (
        event.event_id.clone(),
        record.call_uuid.clone(),
        event.cursor.clone(),
    )
}

async fn whole_log(client: &mut Pushes) -> Vec<Event> {
    let mut log = Vec::new();
    let mut request = ListPushesRequest {
        page_size: 1000,
        ..ListPushesRequest::default()
    };
    loop {
        let page = client
            .list_pushes(request.clone())
            .await
            .unwrap()
            .into_inner();
        log.extend(page.events.iter().map(identity));
        if page.next_page_token.is_empty() {
            return log;
        }
        request.page_token = page.next_page_token;
    }
}

fn check_log(log: &[Event], acknowledged: &Acknowledged) {
    let held: HashSet<_> = log.iter().map(|(_, call, _)| call.clone()).collect();
    assert_eq!(held.len(), log.len(), "a push is held twice");
    let ids: HashSet<_> = log.iter().map(|(id, ..)| id).collect();
    assert_eq!(ids.len(), log.len(), "an event id stands for two pushes");
    let acknowledged = acknowledged.calls.lock().unwrap();
    let missing: Vec<_> = acknowledged.difference(&held).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    assert!(
        acknowledged.len() > KILLS,
        "{} pushes are no load",
        acknowledged.len()
    );
}

/// Each cursor goes on with exactly what follows the event that it was held after.
async fn check_cursors(client: &mut Pushes, log: &[Event], cursors: HashMap<String, usize>) {
    for (cursor, before) in cursors {
        let request = ListPushesRequest {
            start: Some(list_pushes_request::Start::Cursor(cursor)),
            page_size: 2,
            ..ListPushesRequest::default()
        };
        let page = client.list_pushes(request).await.unwrap().into_inner();
        let next: Vec<_> = page.events.iter().map(identity).collect();
        let expected = &log[before..log.len().min(before + 2)];
        assert_eq!(next, expected, "after event {before}");
    }
}
