//! Tells what was answered, in metrics and in the log.

use tokio::time::Instant;
use tonic::Code;

use super::metrics::ProviderMetrics;

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

/// Counts answers, and writes a line about each.
pub(super) struct Answered {
    metrics: ProviderMetrics,
}

impl Answered {
    pub fn new(metrics: ProviderMetrics) -> Self {
        Self { metrics }
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
        match missing {
            // The normal case, with a provider or without.
            None | Some(Missing::NoEndpoint) => {
                tracing::info!(account, question, source, reason, took_ms, "answered");
            }
            Some(_) => tracing::warn!(
                account,
                question,
                source,
                reason,
                code,
                took_ms,
                "answered in the provider's place"
            ),
        }
    }
}
