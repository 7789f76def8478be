//! What is counted of submissions.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::proto::{SubmissionOperation, SubmissionState};

/// Counts of submissions. Cloning shares them.
#[derive(Clone, Debug)]
pub struct SubmissionsMetrics {
    submissions: Family<SubmissionLabels, Counter>,
    pub(super) open: Family<AccountLabels, Gauge>,
    rows: Family<RowLabels, Counter>,
    batches: Family<BatchLabels, Counter>,
    pub(super) uploads: Gauge,
    resolved: Counter,
    contradicted: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SubmissionLabels {
    operation: &'static str,
    outcome: &'static str,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AccountLabels {
    pub account: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RowLabels {
    account: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BatchLabels {
    account: String,
    outcome: &'static str,
}

/// How a request with a request id was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Accepted,
    Refused,
    Unknown,
    /// As an earlier one was.
    Repeated,
    /// As one under way that it joined.
    Joined,
    /// It failed, and nothing was sent.
    Failed,
}

impl Answered {
    pub fn of(state: SubmissionState) -> Self {
        match state {
            SubmissionState::Accepted => Self::Accepted,
            SubmissionState::Refused => Self::Refused,
            SubmissionState::Unknown | SubmissionState::InFlight | SubmissionState::Unspecified => {
                Self::Unknown
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Repeated => "repeated",
            Self::Joined => "joined",
            Self::Failed => "not_sent",
        }
    }
}

/// The outcome of a row, or of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Refused,
    Unknown,
    /// The outcome was known before.
    Known,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Known => "known_before",
        }
    }
}

impl SubmissionsMetrics {
    /// Makes the counts and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            submissions: Family::default(),
            open: Family::default(),
            rows: Family::default(),
            batches: Family::default(),
            uploads: Gauge::default(),
            resolved: Counter::default(),
            contradicted: Counter::default(),
        };
        registry.register(
            "submissions",
            "Requests with a request id, by operation and outcome",
            metrics.submissions.clone(),
        );
        registry.register(
            "submissions_unknown",
            "Requests and batches whose outcome, or the ids of whose rows, are unknown",
            metrics.open.clone(),
        );
        registry.register(
            "submissions_resolved",
            "Unknown outcomes that evidence has settled",
            metrics.resolved.clone(),
        );
        registry.register(
            "submissions_contradicted",
            "Refusals by the platform that a call record has contradicted since",
            metrics.contradicted.clone(),
        );
        registry.register(
            "upload_rows",
            "Rows of uploads, by account and outcome",
            metrics.rows.clone(),
        );
        registry.register(
            "upload_batches",
            "Batches of uploads sent to the platform, by account and outcome",
            metrics.batches.clone(),
        );
        registry.register("uploads_live", "Uploads under way", metrics.uploads.clone());
        metrics
    }

    pub(super) fn answered(&self, operation: SubmissionOperation, answered: Answered) {
        let operation = match operation {
            SubmissionOperation::CallOut => "call_out",
            SubmissionOperation::CreateTask => "create_task",
            SubmissionOperation::InsertTaskData => "insert_task_data",
            SubmissionOperation::Unspecified => "",
        };
        let labels = SubmissionLabels {
            operation,
            outcome: answered.name(),
        };
        self.submissions.get_or_create(&labels).inc();
    }

    /// Counts an outcome that evidence has changed.
    pub(super) fn resolved(&self, was: SubmissionState) {
        match was {
            SubmissionState::Refused => self.contradicted.inc(),
            SubmissionState::Unknown => self.resolved.inc(),
            // More ids of an accepted one.
            SubmissionState::Accepted
            | SubmissionState::InFlight
            | SubmissionState::Unspecified => 0,
        };
    }

    pub(super) fn rows(&self, account: &str, outcome: Outcome, count: usize) {
        let labels = RowLabels {
            account: account.to_owned(),
            outcome: outcome.name(),
        };
        self.rows.get_or_create(&labels).inc_by(count as u64);
    }

    pub(super) fn batch(&self, account: &str, outcome: Outcome) {
        let labels = BatchLabels {
            account: account.to_owned(),
            outcome: outcome.name(),
        };
        self.batches.get_or_create(&labels).inc();
    }
}
