//! What the assembler counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::proto::CallState;

/// Counts the calls that the assembler adds to the log.
#[derive(Clone)]
pub struct CallsMetrics {
    assembled: Family<StateLabels, Counter>,
    completion: Histogram,
    revisions: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Upper bounds of the buckets, in seconds: from pushes that come together to the platform's last
/// try and a long wait.
const BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];

impl CallsMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            assembled: Family::default(),
            completion: Histogram::new(BUCKETS),
            revisions: Counter::default(),
        };
        registry.register(
            "calls_assembled",
            "Calls put together, by the state in which they first became final",
            metrics.assembled.clone(),
        );
        registry.register(
            "call_completion_seconds",
            "Time from a call's first push to the one that completed it",
            metrics.completion.clone(),
        );
        registry.register(
            "call_revisions",
            "Events of calls added to the log, later revisions among them",
            metrics.revisions.clone(),
        );
        metrics
    }

    /// Notes an event of a call that the log took; `seconds`: between its first push and its last.
    pub(super) fn appended(&self, state: CallState, revision: u32, seconds: f64) {
        self.revisions.inc();
        if revision > 1 {
            return;
        }
        let state = match state {
            CallState::Complete => {
                self.completion.observe(seconds);
                "complete"
            }
            CallState::TimedOut => "timed_out",
            CallState::Partial | CallState::Unspecified => "partial",
        };
        self.assembled.get_or_create(&StateLabels { state }).inc();
    }
}
