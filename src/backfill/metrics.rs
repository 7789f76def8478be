//! What is counted of backfills.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Progress;

/// Counts of backfills. Cloning shares them.
#[derive(Clone, Debug)]
pub struct BackfillMetrics {
    lines: Family<ResultLabels, Counter>,
    files: Family<ResultLabels, Counter>,
    missing: Family<AccountLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    account: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    account: String,
}

impl BackfillMetrics {
    /// Makes the counts and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            lines: Family::default(),
            files: Family::default(),
            missing: Family::default(),
        };
        registry.register(
            "backfill_lines",
            "Lines of failed-push files, by account and what became of them",
            metrics.lines.clone(),
        );
        registry.register(
            "backfill_files",
            "Failed-push files, by account and whether they were read",
            metrics.files.clone(),
        );
        registry.register(
            "backfill_days_failed",
            "Days whose failed-push files could not be listed and read at the last try",
            metrics.missing.clone(),
        );
        metrics
    }

    /// Counts what has been done since it was counted last.
    pub(super) fn lines(&self, account: &str, now: &Progress, before: &Progress) {
        for (result, count) in [
            ("added", now.added - before.added),
            ("already_held", now.already_held - before.already_held),
            ("unreadable", now.unreadable - before.unreadable),
            ("outdated", now.outdated - before.outdated),
        ] {
            if count > 0 {
                let labels = ResultLabels {
                    account: account.to_owned(),
                    result,
                };
                self.lines.get_or_create(&labels).inc_by(count);
            }
        }
    }

    pub(super) fn file(&self, account: &str, result: &'static str) {
        let account = account.to_owned();
        let labels = ResultLabels { account, result };
        self.files.get_or_create(&labels).inc();
    }

    pub(super) fn days_failed(&self, account: &str, days: usize) {
        let account = account.to_owned();
        let gauge = self.missing.get_or_create(&AccountLabels { account });
        gauge.set(i64::try_from(days).unwrap_or(i64::MAX));
    }
}
