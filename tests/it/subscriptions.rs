//! What every engine of durable subscriptions must do, sentence by sentence of the contract of
//! `Subscriptions`.
//!
//! An engine joins by opening itself in [`Engine::open`]; each test runs on every engine. Where a
//! test needs a deadline to pass it waits for what follows from it; where none may pass, it is an
//! hour.

mod acks;
mod deadlines;
mod delivery;
mod durability;
mod loss;
mod model;
mod refusals;
mod settings;

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;
use yeta_gateway::proto::{PushEvent, PushFilter};
use yeta_gateway::push::{EventId, Position};
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::{
    AckOutcome, Change, Delivery, Handed, Info, Member, Nack, Spec, SubscriptionError,
    Subscriptions, Window,
};
use yeta_gateway::store::{NewEntry, PushLog};

use crate::support::{eventually, within};

/// The subscription that most tests have.
const NAME: &str = "billing";

/// So many subscriptions there may be.
const MAX: usize = 20;

/// A deadline that does not pass while a test runs.
const LONG: Duration = Duration::from_secs(3600);

/// A deadline that a test waits for.
const SHORT: Duration = Duration::from_millis(150);

/// The data of an engine, with a clock that the test sets.
struct Engine {
    folder: TempDir,
    now_ms: Arc<AtomicU64>,
    options: Options,
}

/// An open engine.
struct Opened {
    log: Arc<EmbeddedLog>,
    subscriptions: Arc<dyn Subscriptions>,
}

impl Engine {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    fn in_folder(folder: TempDir) -> Self {
        let now_ms = Arc::new(AtomicU64::new(1_600_000_000_000));
        let clock = now_ms.clone();
        let options = Options {
            // Small, so that entries come from the disk too.
            tail_bytes: 8 << 10,
            ..Options::new(folder.path()).with_clock(Arc::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }))
        };
        Self {
            folder,
            now_ms,
            options,
        }
    }

    async fn open(&self) -> Opened {
        let log = Arc::new(EmbeddedLog::open(self.options.clone()).await.unwrap());
        let subscriptions = Arc::new(EmbeddedSubscriptions::open(log.clone(), MAX).await.unwrap());
        Opened { log, subscriptions }
    }

    /// The data as kill −9 would leave them at this moment.
    fn as_killed(&self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), copy.path());
        let copy = Self::in_folder(copy);
        let now_ms = self.now_ms.load(Ordering::SeqCst);
        copy.now_ms.store(now_ms, Ordering::SeqCst);
        copy
    }

    fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_folder(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

impl Deref for Opened {
    type Target = dyn Subscriptions;

    fn deref(&self) -> &Self::Target {
        &*self.subscriptions
    }
}

impl Opened {
    /// An open engine with the subscription [`NAME`] from the log's beginning.
    async fn with(engine: &Engine, spec: Spec) -> Self {
        let opened = engine.open().await;
        opened.create(NAME, spec, Position::START).await.unwrap();
        opened
    }

    /// Appends entries in one go; gives the log's end.
    async fn append<T: AsRef<str>>(&self, contents: impl IntoIterator<Item = T>) -> Position {
        self.append_to("default", contents).await
    }

    /// The same of an account, for filters.
    async fn append_to<T: AsRef<str>>(
        &self,
        account: &str,
        contents: impl IntoIterator<Item = T>,
    ) -> Position {
        let entries = contents.into_iter().map(|c| entry(account, c.as_ref()));
        let appended = self.log.append(entries.collect()).await.unwrap();
        appended.last().unwrap().position
    }

    /// A member of [`NAME`] that may hold so many entries.
    async fn member(&self, events: usize) -> Box<dyn Member> {
        self.join(NAME, window(events)).await.unwrap()
    }

    async fn info(&self) -> Info {
        self.get(NAME).await.unwrap()
    }

    async fn change(&self, change: Change) -> Info {
        self.update(NAME, change).await.unwrap()
    }

    /// Acknowledges what must still count.
    async fn ack_all(&self, deliveries: &[Delivery]) {
        let outcomes = self.ack(NAME, &ids(deliveries)).await.unwrap();
        assert_eq!(outcomes, vec![AckOutcome::Ok; deliveries.len()]);
    }

    async fn ack_one(&self, delivery: &Delivery) -> AckOutcome {
        one(self.ack(NAME, std::slice::from_ref(&delivery.ack_id)).await)
    }

    async fn nack_one(&self, delivery: &Delivery, how: Nack) -> AckOutcome {
        one(self
            .nack(NAME, std::slice::from_ref(&delivery.ack_id), how)
            .await)
    }

    async fn extend_one(&self, delivery: &Delivery, by: Option<Duration>) -> AckOutcome {
        one(self
            .extend(NAME, std::slice::from_ref(&delivery.ack_id), by)
            .await)
    }

    /// Nothing but this is handed out to a new member with all the room: what else there is has
    /// been settled, or is held by others.
    async fn assert_only_new<const N: usize>(&self, expected: [&str; N]) {
        let mut member = self.member(100_000).await;
        self.append(["the last of all"]).await;
        let mut got = Vec::new();
        while got.len() <= N || !got.iter().any(|text| text == "the last of all") {
            got.extend(contents(&some(&mut member).await));
        }
        got.retain(|text| text != "the last of all");
        got.sort();
        assert_eq!(got, expected);
        assert_waits(&mut member).await;
    }

    async fn close(self) {
        self.subscriptions.close().await;
        self.log.close().await;
    }
}

fn one(outcomes: Result<Vec<AckOutcome>, SubscriptionError>) -> AckOutcome {
    let outcomes = outcomes.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes[0]
}

fn entry(account: &str, content: &str) -> NewEntry {
    let event = PushEvent {
        account: account.to_owned(),
        ..PushEvent::default()
    };
    let raw = Bytes::copy_from_slice(content.as_bytes());
    NewEntry::new(id_of(account, content), &event, raw)
}

fn id_of(account: &str, content: &str) -> EventId {
    EventId::of_raw(account, "receiveVoice", content.as_bytes())
}

fn spec(ack_deadline: Duration) -> Spec {
    Spec {
        ack_deadline,
        ..Spec::default()
    }
}

fn of_account(account: &str) -> PushFilter {
    PushFilter {
        accounts: vec![account.to_owned()],
        ..PushFilter::default()
    }
}

fn window(events: usize) -> Window {
    Window {
        events,
        bytes: 1 << 30,
    }
}

fn at_once(reason: &str) -> Nack {
    after(Duration::ZERO, reason)
}

fn after(delay: Duration, reason: &str) -> Nack {
    Nack::Retry {
        delay: Some(delay),
        reason: reason.to_owned(),
    }
}

fn park(reason: &str) -> Nack {
    Nack::Park {
        reason: reason.to_owned(),
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("push {n}")).collect()
}

fn content(delivery: &Delivery) -> String {
    String::from_utf8(delivery.entry.raw.to_vec()).unwrap()
}

fn contents(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(content).collect()
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| d.ack_id.clone()).collect()
}

fn attempts(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().map(|d| d.attempt).collect()
}

/// The next deliveries, however many.
async fn some(member: &mut Box<dyn Member>) -> Vec<Delivery> {
    within("a delivery", async {
        loop {
            if let Handed::Deliveries(deliveries) = member.next().await.unwrap() {
                assert!(!deliveries.is_empty());
                return deliveries;
            }
        }
    })
    .await
}

/// So many deliveries, and no more in the same breath.
async fn take(member: &mut Box<dyn Member>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(some(member).await);
    }
    assert_eq!(taken.len(), count, "{:?}", contents(&taken));
    taken
}

async fn take_one(member: &mut Box<dyn Member>) -> Delivery {
    take(member, 1).await.remove(0)
}

/// There is nothing for the member now; to be asked after something else has shown that there has
/// been time for it.
async fn assert_waits(member: &mut Box<dyn Member>) {
    for _ in 0..10 {
        match member.next().now_or_never() {
            None | Some(Ok(Handed::CaughtUp)) => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
}

async fn assert_not_found(member: &mut Box<dyn Member>) {
    let ended = within("the member's end", async {
        loop {
            if let Err(error) = member.next().await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(ended, SubscriptionError::NotFound(_)), "{ended}");
}

/// Waits until the deadline of everything up to a position has passed: what waits to be handed out
/// again holds the place back no more.
async fn until_overdue(opened: &Opened, position: Position) {
    eventually("a deadline that passes", async || {
        (opened.info().await.place >= position).then_some(())
    })
    .await;
}
