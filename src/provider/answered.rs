//! Tells what was answered, in metrics and in the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::metrics::ProviderMetrics;

/// So often, at most, the log has a line about answers that were not a provider's.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What the platform asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    DialogContext,
    Semantics,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The service.
    Provider,
    /// The service, to an earlier question of the same `call_relation_id`.
    Cache,
    /// The configuration.
    Fallback,
    /// Nowhere: it says nothing.
    Empty,
}

/// Why there is no answer of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// None is configured.
    NoEndpoint,
    /// The question did not arrive whole, or not in time.
    Unread,
    /// There was none in time.
    Late,
    /// There is no connection to it, or the service itself said that it is not available.
    Unreachable,
    /// It has been silent lately, and was not asked.
    CircuitOpen,
    /// It answered with an error.
    Error(Code),
}

impl Question {
    fn name(self) -> &'static str {
        match self {
            Self::DialogContext => "getDialogContext",
            Self::Semantics => "analyzeSemantics",
        }
    }
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Cache => "cache",
            Self::Fallback => "fallback",
            Self::Empty => "empty",
        }
    }
}

impl Missing {
    fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Unread => "unread",
            Self::Late => "late",
            Self::Unreachable => "unreachable",
            Self::CircuitOpen => "circuit_open",
            Self::Error(_) => "error",
        }
    }
}

/// Counts answers, and writes about those that were not a provider's.
pub(super) struct Answered {
    metrics: ProviderMetrics,
    line: Mutex<Line>,
}

/// The last line in the log.
#[derive(Default)]
struct Line {
    written: Option<Instant>,
    left_out: u64,
}

impl Answered {
    pub fn new(metrics: ProviderMetrics) -> Self {
        Self {
            metrics,
            line: Mutex::default(),
        }
    }

    /// An answer is on its way. Who called and what was answered stands in no line.
    pub fn note(
        &self,
        question: Question,
        account: &str,
        source: Source,
        missing: Option<Missing>,
        asked_at: Instant,
    ) {
        let (question, source, took) = (question.name(), source.name(), asked_at.elapsed());
        let reason = missing.map_or("", Missing::name);
        self.metrics
            .answer(account, question, (source, reason), took);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let code = match missing {
            Some(Missing::Error(code)) => Some(tracing::field::debug(code)),
            _ => None,
        };
        let left_out = match missing {
            // The normal case, with a provider or without.
            None | Some(Missing::NoEndpoint) => None,
            Some(_) => self.line_is_due(),
        };
        if let Some(left_out) = left_out {
            tracing::warn!(
                account,
                question,
                source,
                reason,
                code,
                took_ms,
                left_out,
                "answered in the provider's place"
            );
        } else {
            tracing::debug!(account, question, source, reason, code, took_ms, "answered");
        }
    }

    /// How many lines were left out, if one may be written.
    fn line_is_due(&self) -> Option<u64> {
        // A panic elsewhere leaves a count behind, and nothing that could mislead.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.written.is_some_and(|at| at.elapsed() < LINE_EVERY) {
            line.left_out += 1;
            return None;
        }
        line.written = Some(Instant::now());
        Some(std::mem::take(&mut line.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second_says_how_many_were_left_out() {
        let metrics =
            ProviderMetrics::register(&mut prometheus_client::registry::Registry::default());
        let answered = Answered::new(metrics);
        assert_eq!(answered.line_is_due(), Some(0));
        assert_eq!(answered.line_is_due(), None);
        assert_eq!(answered.line_is_due(), None);
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!(answered.line_is_due(), Some(2));
        assert_eq!(answered.line_is_due(), None);
    }
}
