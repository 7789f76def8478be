//! What is counted of rows whose records are awaited.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::sweep::Found;
use crate::proto::OverdueReason;

/// Counts of rows. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ReconciliationMetrics {
    awaited: Family<AccountLabels, Gauge>,
    overdue: Family<ReasonLabels, Gauge>,
    given_up: Family<AccountLabels, Counter>,
    looked_at: Family<AccountLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    account: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    account: String,
    reason: &'static str,
}

impl ReconciliationMetrics {
    /// Makes the counts and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            awaited: Family::default(),
            overdue: Family::default(),
            given_up: Family::default(),
            looked_at: Family::default(),
        };
        registry.register(
            "rows_awaited",
            "Accepted rows of which no call record has come, and none should have come yet",
            metrics.awaited.clone(),
        );
        registry.register(
            "rows_overdue",
            "Accepted rows of which no call record has come although it should have, by reason",
            metrics.overdue.clone(),
        );
        registry.register(
            "rows_given_up",
            "Accepted rows of which a call record is not awaited any longer; none ever came",
            metrics.given_up.clone(),
        );
        registry.register(
            "rows_looked_at_timestamp_seconds",
            "When awaited rows were last held against call records",
            metrics.looked_at.clone(),
        );
        metrics
    }

    /// Shows what there was of an account at a time.
    pub(super) fn show(&self, account: &str, found: &Found, now_ms: u64) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let account = account.to_owned();
        let labels = AccountLabels {
            account: account.clone(),
        };
        self.awaited
            .get_or_create(&labels)
            .set(gauge(found.awaited()));
        self.looked_at
            .get_or_create(&labels)
            .set(gauge(now_ms / 1000));
        for reason in REASONS {
            let labels = ReasonLabels {
                account: account.clone(),
                reason: name(reason),
            };
            let count = found.overdue_for(reason);
            self.overdue.get_or_create(&labels).set(gauge(count));
        }
    }

    pub(super) fn given_up(&self, account: &str, rows: u64) {
        let labels = AccountLabels {
            account: account.to_owned(),
        };
        self.given_up.get_or_create(&labels).inc_by(rows);
    }
}

const REASONS: [OverdueReason; 4] = [
    OverdueReason::TaskFinished,
    OverdueReason::TaskExpired,
    OverdueReason::TaskDeleted,
    OverdueReason::CallOver,
];

fn name(reason: OverdueReason) -> &'static str {
    match reason {
        OverdueReason::TaskFinished => "task_finished",
        OverdueReason::TaskExpired => "task_expired",
        OverdueReason::TaskDeleted => "task_deleted",
        OverdueReason::CallOver => "call_over",
        OverdueReason::Unspecified => "unspecified",
    }
}
