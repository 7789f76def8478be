//! What is counted of recordings.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What a recording is fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For a client that asked for it.
    Download,
    /// For the archive.
    Archive,
}

/// What came of a recording that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is kept.
    Archived,
    /// Not this time; it is tried again.
    Failed,
    /// It is not tried any more.
    GivenUp,
}

/// Counts recordings and their bytes.
#[derive(Clone)]
pub struct VoiceMetrics {
    bytes: Family<PurposeLabels, Counter>,
    interruptions: Counter,
    archive: Family<OutcomeLabels, Counter>,
    waiting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PurposeLabels {
    purpose: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl VoiceMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            bytes: Family::default(),
            interruptions: Counter::default(),
            archive: Family::default(),
            waiting: Gauge::default(),
        };
        registry.register(
            "voice_bytes",
            "Bytes of recordings fetched from the voice server",
            metrics.bytes.clone(),
        );
        registry.register(
            "voice_interruptions",
            "Fetches of recordings that broke off on the way",
            metrics.interruptions.clone(),
        );
        registry.register(
            "voice_archive",
            "Tries to keep a recording, by what came of them",
            metrics.archive.clone(),
        );
        registry.register(
            "voice_archive_waiting",
            "Recordings under way to the archive, or waiting to be tried again",
            metrics.waiting.clone(),
        );
        metrics
    }

    pub(super) fn received(&self, purpose: Purpose, bytes: usize) {
        let purpose = match purpose {
            Purpose::Download => "download",
            Purpose::Archive => "archive",
        };
        let counter = self.bytes.get_or_create(&PurposeLabels { purpose });
        counter.inc_by(bytes as u64);
    }

    pub(super) fn interrupted(&self) {
        self.interruptions.inc();
    }

    pub(super) fn kept(&self, kept: Kept) {
        let outcome = match kept {
            Kept::Archived => "archived",
            Kept::Failed => "failed",
            Kept::GivenUp => "given_up",
        };
        self.archive.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(super) fn waiting(&self, recordings: u64) {
        self.waiting
            .set(i64::try_from(recordings).unwrap_or(i64::MAX));
    }
}
