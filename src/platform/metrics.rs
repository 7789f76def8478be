//! What the platform's client counts.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Counts of the platform's client. Cloning shares them.
#[derive(Clone, Debug)]
pub struct PlatformMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<OperationLabels, Histogram>,
    token_refreshes: Family<RefreshLabels, Counter>,
    token_expiry: Family<AccountLabels, Gauge<f64, AtomicU64>>,
    waits: Family<AccountLabels, Histogram>,
    slowed: Family<AccountLabels, Gauge>,
    breakers: Family<AccountLabels, Gauge>,
    changes_held_back: Family<AccountLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    account: String,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    account: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    account: String,
}

/// Upper bounds of the latency buckets, in seconds: from a platform nearby to
/// the default request timeout and beyond.
const BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The same of waits: from none to the default request timeout and beyond.
const WAIT_BUCKETS: [f64; 8] = [0.001, 0.01, 0.05, 0.25, 1.0, 2.5, 10.0, 30.0];

impl AccountLabels {
    fn of(account: &str) -> Self {
        Self {
            account: account.to_owned(),
        }
    }
}

impl PlatformMetrics {
    /// Makes the counts and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            token_refreshes: Family::default(),
            token_expiry: Family::default(),
            waits: Family::new_with_constructor(|| Histogram::new(WAIT_BUCKETS)),
            slowed: Family::default(),
            breakers: Family::default(),
            changes_held_back: Family::default(),
        };
        registry.register(
            "platform_requests",
            "Operations asked of the platform, by account, operation and outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "platform_request_duration_seconds",
            "Time an operation took at the platform, tries and pauses included",
            metrics.durations.clone(),
        );
        registry.register(
            "platform_token_refreshes",
            "Requests for a token, by account and result",
            metrics.token_refreshes.clone(),
        );
        registry.register(
            "platform_token_expiry_timestamp_seconds",
            "When the account's token expires, in seconds since 1970",
            metrics.token_expiry.clone(),
        );
        registry.register(
            "platform_wait_seconds",
            "Time that a try waited for its turn within the account's bounds",
            metrics.waits.clone(),
        );
        registry.register(
            "platform_slowed",
            "1 while the account sends slowly because the platform is busy",
            metrics.slowed.clone(),
        );
        registry.register(
            "platform_breaker_open",
            "1 while the account's calls are held back because the platform is away",
            metrics.breakers.clone(),
        );
        registry.register(
            "platform_changes_held_back",
            "1 while the account's changes are held back because answers to them cannot be read",
            metrics.changes_held_back.clone(),
        );
        metrics
    }

    pub(super) fn request(
        &self,
        account: &str,
        operation: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        let labels = RequestLabels {
            account: account.to_owned(),
            operation,
            outcome,
        };
        self.requests.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&OperationLabels { operation })
            .observe(took.as_secs_f64());
    }

    pub(super) fn token_refresh(&self, account: &str, result: &'static str) {
        let labels = RefreshLabels {
            account: account.to_owned(),
            result,
        };
        self.token_refreshes.get_or_create(&labels).inc();
    }

    pub(super) fn token_expiry(&self, account: &str, unix_seconds: f64) {
        let labels = AccountLabels::of(account);
        self.token_expiry.get_or_create(&labels).set(unix_seconds);
    }

    pub(super) fn waited(&self, account: &str, waited: Duration) {
        let labels = AccountLabels::of(account);
        self.waits
            .get_or_create(&labels)
            .observe(waited.as_secs_f64());
    }

    pub(super) fn slowed(&self, account: &str, is_slow: bool) {
        let labels = AccountLabels::of(account);
        self.slowed.get_or_create(&labels).set(is_slow.into());
    }

    pub(super) fn breaker(&self, account: &str, is_open: bool) {
        let labels = AccountLabels::of(account);
        self.breakers.get_or_create(&labels).set(is_open.into());
    }

    pub(super) fn changes_held_back(&self, account: &str, is_open: bool) {
        let labels = AccountLabels::of(account);
        self.changes_held_back
            .get_or_create(&labels)
            .set(is_open.into());
    }
}
