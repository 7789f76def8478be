//! What the push listener counts.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::reading::unscoped;

/// What became of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PushResult {
    /// Durable, and new in part at least.
    Stored,
    /// Durable since an earlier push of the same content.
    Duplicate,
    /// A question, answered and not stored.
    Answered,
    /// Larger than allowed.
    TooLarge,
    /// Its body never arrived whole.
    Incomplete,
    /// Could not be made durable in time; the platform will try again.
    NotStored,
    /// Wrong account or secret, or from a network that may not push.
    NotFound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    account: String,
    module: &'static str,
    result: PushResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    account: String,
    module: &'static str,
    reason: &'static str,
}

/// Counts pushes, and how long the platform waited for the answer.
#[derive(Clone)]
pub struct EdgeMetrics {
    pushes: Family<Labels, Counter>,
    not_understood: Family<FaultLabels, Counter>,
    duration: Histogram,
}

impl EdgeMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            pushes: Family::default(),
            not_understood: Family::default(),
            duration: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
        };
        registry.register(
            "pushes",
            "Pushes received, by what became of them",
            metrics.pushes.clone(),
        );
        registry.register(
            "pushes_unrecognized",
            "Pushes stored as unrecognized, by why they were not understood",
            metrics.not_understood.clone(),
        );
        registry.register(
            "push_duration_seconds",
            "Time from a push's head to the gateway's answer",
            metrics.duration.clone(),
        );
        metrics
    }

    pub(super) fn observe(&self, account: &str, module: &str, result: PushResult, took: Duration) {
        self.count(account, module, result);
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn not_understood(&self, account: &str, module: &str, reason: &'static str) {
        let labels = FaultLabels {
            account: account.to_owned(),
            module: label(module),
            reason,
        };
        self.not_understood.get_or_create(&labels).inc();
    }

    pub(super) fn count(&self, account: &str, module: &str, result: PushResult) {
        let labels = Labels {
            account: account.to_owned(),
            module: label(module),
            result,
        };
        self.pushes.get_or_create(&labels).inc();
    }
}

/// Module names are free text from outside; as labels only the documented ones are told apart.
fn label(module: &str) -> &'static str {
    match unscoped(module) {
        "receiveCallRecord" => "receiveCallRecord",
        "receiveVoice" => "receiveVoice",
        "receiveDialog" => "receiveDialog",
        "getDialogContext" => "getDialogContext",
        "analyzeSemantics" => "analyzeSemantics",
        _ => "other",
    }
}
