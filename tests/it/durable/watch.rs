//! The watch over subscriptions: gauges, and what an operator is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use yeta_gateway::edge::reading::{Received, read};
use yeta_gateway::proto::PushFilter;
use yeta_gateway::push::Position;
use yeta_gateway::relay::metrics::SubscriptionMetrics;
use yeta_gateway::relay::watch::{Finding, Limits, Watch};
use yeta_gateway::store::PushLog;
use yeta_gateway::store::embedded::subscriptions::EmbeddedSubscriptions;
use yeta_gateway::store::embedded::{EmbeddedLog, Options};
use yeta_gateway::store::subscriptions::{Handed, Spec, Subscriptions, Window};

use super::NAME;
use crate::support::{record, within};

const WINDOW: Window = Window {
    events: 100,
    bytes: 1 << 20,
};

/// A log whose clock stands still until it is moved, and a watch over its subscriptions.
struct Watched {
    log: Arc<EmbeddedLog>,
    subscriptions: Arc<EmbeddedSubscriptions>,
    watch: Watch,
    registry: Registry,
    now_ms: Arc<AtomicU64>,
    fullness: Arc<AtomicU64>,
    _folder: TempDir,
}

impl Watched {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicU64::new(1_700_000_000_000));
        let clock = now_ms.clone();
        let options = Options {
            retention: Duration::from_secs(3600),
            ..Options::new(folder.path()).with_clock(Arc::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }))
        };
        let log = Arc::new(EmbeddedLog::open(options).await.unwrap());
        let subscriptions = EmbeddedSubscriptions::open(log.clone(), 100).await.unwrap();
        let subscriptions = Arc::new(subscriptions);
        let mut registry = Registry::default();
        let fullness = Arc::new(AtomicU64::new(0));
        let percent = fullness.clone();
        let limits = Limits {
            stuck_after: Duration::from_secs(300),
            retention: Duration::from_secs(3600),
            fullness: Box::new(move || {
                f64::from(u32::try_from(percent.load(Ordering::SeqCst)).unwrap()) / 100.0
            }),
        };
        let metrics = SubscriptionMetrics::register(&mut registry);
        Self {
            watch: Watch::new(log.clone(), subscriptions.clone(), metrics, limits),
            log,
            subscriptions,
            registry,
            now_ms,
            fullness,
            _folder: folder,
        }
    }

    async fn create(&self, spec: Spec) {
        let created = self.subscriptions.create(NAME, spec, Position::START);
        created.await.unwrap();
    }

    async fn push(&self, call: &str) {
        let received = Received {
            account: "default",
            module: "receiveCallRecord",
            content_type: None,
            voice_base_url: "",
        };
        let pushes = read(&received, &record(call).into());
        let entries = pushes.into_iter().map(Into::into).collect();
        self.log.append(entries).await.unwrap();
    }

    /// Looks after so many seconds.
    async fn look_after(&mut self, seconds: u64) -> Vec<Finding> {
        self.now_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
        let now = Duration::from_millis(self.now_ms.load(Ordering::SeqCst));
        self.watch.look(SystemTime::UNIX_EPOCH + now).await.unwrap()
    }

    /// The gauge of the one subscription.
    fn gauge(&self, name: &str) -> Option<f64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let start = format!("subscription_{name}{{subscription=\"{NAME}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(value.parse().unwrap())
    }
}

fn stuck(seconds: u64, members: u32, unacked: u64) -> Vec<Finding> {
    vec![Finding::Stuck {
        subscription: NAME.into(),
        oldest: Duration::from_secs(seconds),
        members,
        unacked,
        paused: false,
    }]
}

#[tokio::test]
async fn a_stuck_subscription_is_told_of_once_then_now_and_then_and_when_it_moves() {
    let mut watched = Watched::start().await;
    watched.create(Spec::default()).await;
    watched.push("a").await;
    assert_eq!(watched.look_after(300).await, []);
    assert_eq!(watched.look_after(1).await, stuck(301, 0, 0));
    assert_eq!(watched.look_after(599).await, []);
    assert_eq!(watched.look_after(1).await, stuck(901, 0, 0));
    // Handed out and not settled is as stuck as before.
    let mut member = watched.subscriptions.join(NAME, WINDOW).await.unwrap();
    let Handed::Deliveries(out) = within("a delivery", member.next()).await.unwrap() else {
        panic!("nothing is handed out")
    };
    assert_eq!(watched.look_after(600).await, stuck(1501, 1, 1));
    let acked = watched
        .subscriptions
        .ack(NAME, &[out[0].ack_id.clone()])
        .await;
    acked.unwrap();
    let moving = Finding::Moving {
        subscription: NAME.into(),
    };
    assert_eq!(watched.look_after(1).await, [moving]);
    assert_eq!(watched.look_after(10_000).await, []);
}

#[tokio::test]
async fn a_subscription_that_nothing_matches_is_not_stuck() {
    let mut watched = Watched::start().await;
    let others = PushFilter {
        task_ids: vec!["another task".into()],
        ..PushFilter::default()
    };
    let spec = Spec {
        filter: others,
        ..Spec::default()
    };
    watched.create(spec).await;
    watched.push("a").await;
    assert_eq!(watched.look_after(2000).await, []);
    assert_eq!(watched.gauge("oldest_unacked_seconds"), Some(0.0));
}

#[tokio::test]
async fn events_within_twice_their_ack_deadline_are_not_stuck() {
    let mut watched = Watched::start().await;
    let patient = Spec {
        ack_deadline: Duration::from_secs(400),
        ..Spec::default()
    };
    watched.create(patient).await;
    watched.push("a").await;
    assert_eq!(watched.look_after(800).await, []);
    assert_eq!(watched.look_after(1).await, stuck(801, 0, 0));
}

#[tokio::test]
async fn retention_is_warned_of_before_it_overtakes_and_what_is_lost_is_counted() {
    let mut watched = Watched::start().await;
    watched.create(Spec::default()).await;
    watched.push("a").await;
    watched.push("b").await;
    let findings = watched.look_after(2881).await;
    let near = Finding::NearRetention {
        subscription: NAME.into(),
        oldest: Duration::from_secs(2881),
        backlog: 2,
    };
    assert!(findings.contains(&near), "{findings:?}");
    watched.now_ms.fetch_add(1000 * 1000, Ordering::SeqCst);
    watched.push("c").await;
    watched.log.retire(0).await;
    let moving = Finding::Moving {
        subscription: NAME.into(),
    };
    assert_eq!(watched.look_after(0).await, [moving]);
    assert_eq!(watched.gauge("lost_events"), Some(2.0));
    assert_eq!(watched.look_after(1).await, []);
}

#[test]
fn looks_are_as_frequent_as_the_shortest_time_needs() {
    let every = |stuck_after, retention| {
        let limits = Limits {
            stuck_after: Duration::from_secs(stuck_after),
            retention: Duration::from_secs(retention),
            fullness: Box::new(|| 0.0),
        };
        limits.every()
    };
    assert_eq!(every(300, 7 * 24 * 3600), Duration::from_secs(2));
    assert_eq!(every(300, 10), Duration::from_millis(500));
    assert_eq!(every(20, 3600), Duration::from_secs(1));
    assert_eq!(every(300, 1), Duration::from_millis(100));
}

#[tokio::test]
async fn a_backlog_that_fills_a_log_of_bounded_size_is_warned_of() {
    let mut watched = Watched::start().await;
    watched.create(Spec::default()).await;
    watched.push("a").await;
    assert_eq!(watched.look_after(1).await, []);
    watched.fullness.store(80, Ordering::SeqCst);
    let near = Finding::NearRetention {
        subscription: NAME.into(),
        oldest: Duration::from_secs(2),
        backlog: 1,
    };
    assert_eq!(watched.look_after(1).await, [near]);
    watched.subscriptions.seek(NAME, Position(1)).await.unwrap();
    assert_eq!(watched.look_after(1).await, []);
}

#[tokio::test]
async fn gauges_tell_how_each_subscription_is_doing_and_vanish_with_it() {
    let mut watched = Watched::start().await;
    watched.create(Spec::default()).await;
    for call in ["a", "b", "c"] {
        watched.push(call).await;
    }
    watched.look_after(5).await;
    assert_eq!(watched.gauge("lag_events"), Some(3.0));
    assert_eq!(watched.gauge("oldest_unacked_seconds"), Some(5.0));
    let one = Window {
        events: 2,
        ..WINDOW
    };
    let mut member = watched.subscriptions.join(NAME, one).await.unwrap();
    let mut out = 0;
    while out < 2 {
        if let Handed::Deliveries(deliveries) = within("deliveries", member.next()).await.unwrap() {
            out += deliveries.len();
        }
    }
    watched.look_after(5).await;
    for (name, value) in [
        ("lag_events", 1.0),
        ("unacked", 2.0),
        ("oldest_unacked_seconds", 10.0),
        ("members", 1.0),
        ("dead_letters", 0.0),
        ("redelivered", 0.0),
        ("lost_events", 0.0),
    ] {
        assert_eq!(watched.gauge(name), Some(value), "{name}");
    }
    watched.subscriptions.delete(NAME).await.unwrap();
    watched.look_after(5).await;
    assert_eq!(watched.gauge("lag_events"), None);
}
