//! What the log holds, read when somebody asks for the metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::EmbeddedLog;
use crate::store::PushLog;

/// Tells how much the log holds.
pub struct StoreMetrics(Arc<EmbeddedLog>);

impl StoreMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, log: Arc<EmbeddedLog>) {
        registry.register_collector(Box::new(Self(log)));
    }
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreMetrics")
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let end = self.0.end().borrow().0;
        for (name, help, value) in [
            ("store_end", "Number of the newest event ever stored", end),
            ("store_events", "Events retained", stats.entries),
            (
                "store_bytes",
                "Bytes of the events retained, before compression",
                stats.bytes,
            ),
            (
                "store_disk_bytes",
                "Bytes that the store takes on disk",
                stats.disk_bytes,
            ),
            (
                "store_lost_events",
                "Stored events found missing at start",
                stats.lost,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}
