//! Everything that is counted.

use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::backfill::metrics::BackfillMetrics;
use crate::calls::metrics::CallsMetrics;
use crate::edge::metrics::EdgeMetrics;
use crate::grpc::observe::GrpcMetrics;
use crate::platform::PlatformMetrics;
use crate::provider::metrics::ProviderMetrics;
use crate::reconciliation::metrics::ReconciliationMetrics;
use crate::relay::metrics::{RelayMetrics, SubscriptionMetrics};
use crate::submissions::metrics::SubmissionsMetrics;
use crate::voice::metrics::VoiceMetrics;

/// The counts, room by room.
pub(super) struct Metrics {
    pub grpc: GrpcMetrics,
    pub edge: EdgeMetrics,
    pub relay: RelayMetrics,
    pub subscriptions: SubscriptionMetrics,
    pub platform: PlatformMetrics,
    pub provider: ProviderMetrics,
    pub calls: CallsMetrics,
    pub submissions: SubmissionsMetrics,
    pub backfill: BackfillMetrics,
    pub reconciliation: ReconciliationMetrics,
    pub voice: VoiceMetrics,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            grpc: GrpcMetrics::register(registry),
            edge: EdgeMetrics::register(registry),
            relay: RelayMetrics::register(registry),
            subscriptions: SubscriptionMetrics::register(registry),
            platform: PlatformMetrics::register(registry),
            provider: ProviderMetrics::register(registry),
            calls: CallsMetrics::register(registry),
            submissions: SubmissionsMetrics::register(registry),
            backfill: BackfillMetrics::register(registry),
            reconciliation: ReconciliationMetrics::register(registry),
            voice: VoiceMetrics::register(registry),
        }
    }
}

/// Registers whether the gateway serves callers without credentials.
pub(super) fn register_openness(registry: &mut Registry, is_open: bool) {
    registry.register(
        "open_to_everybody",
        "1 while no clients are configured, so that nobody needs credentials",
        ConstGauge::new(i64::from(is_open)),
    );
}
