//! What the relay counts.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

/// Counts readers and what they are given.
#[derive(Clone, Default)]
pub struct RelayMetrics {
    pub(super) readers: Gauge,
    pub(super) delivered: Counter,
}

impl RelayMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "readers",
            "Subscriber streams open now",
            metrics.readers.clone(),
        );
        registry.register(
            "delivered_events",
            "Events handed to subscribers",
            metrics.delivered.clone(),
        );
        metrics
    }
}

/// How durable subscriptions were doing when they were last looked at. Replaced as a whole, so
/// that a deleted one leaves nothing behind.
#[derive(Clone, Default)]
pub struct SubscriptionMetrics(Arc<Mutex<Vec<SubscriptionGauges>>>);

/// How one of them was doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SubscriptionGauges {
    pub subscription: String,
    pub lag: u64,
    pub unacked: u64,
    pub oldest_unacked: Duration,
    pub members: u32,
    pub dead_letters: u64,
    pub redelivered: u64,
    pub lost: u64,
}

impl SubscriptionMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    pub(super) fn set(&self, gauges: Vec<SubscriptionGauges>) {
        // Replaced in one step: nobody who panicked can have left half of it.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }
}

impl fmt::Debug for SubscriptionMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubscriptionMetrics")
    }
}

/// A gauge of every subscription: its name, what it says, and how to read it.
type Described = (&'static str, &'static str, fn(&SubscriptionGauges) -> f64);

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
const GAUGES: [Described; 7] = [
    (
        "subscription_lag_events",
        "Events of the log not handed out yet, those included that the filter will leave out",
        |it| it.lag as f64,
    ),
    (
        "subscription_unacked",
        "Events handed out and not acknowledged",
        |it| it.unacked as f64,
    ),
    (
        "subscription_oldest_unacked_seconds",
        "Age of the oldest event that is not dealt with, handed out or still to be",
        |it| it.oldest_unacked.as_secs_f64(),
    ),
    ("subscription_members", "Streams open", |it| {
        f64::from(it.members)
    }),
    ("subscription_dead_letters", "Events given up", |it| {
        it.dead_letters as f64
    }),
    (
        "subscription_redelivered",
        "Deliveries beyond the first of each event",
        |it| it.redelivered as f64,
    ),
    (
        "subscription_lost_events",
        "Events lost before they were acknowledged",
        |it| it.lost as f64,
    ),
];

impl Collector for SubscriptionMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, read) in GAUGES {
            let mut of_all: MetricEncoder<'_> =
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for gauges in all.iter() {
                let labels = [("subscription", gauges.subscription.as_str())];
                ConstGauge::new(read(gauges)).encode(of_all.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
