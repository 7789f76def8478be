//! What the relay counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
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
