//! What is counted of questions and of the services that answer them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Counts of questions. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ProviderMetrics {
    answers: Family<AnswerLabels, Counter>,
    durations: Family<QuestionLabels, Histogram>,
    connections: Family<EndpointLabels, Gauge>,
    circuit_open: Family<EndpointLabels, Gauge>,
    second_tries: Family<EndpointLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    account: String,
    question: &'static str,
    source: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuestionLabels {
    question: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: String,
}

/// Upper bounds in seconds, closest together where an answer becomes a late one: the gateway's own
/// timeout is 400 ms, and the platform waits 500.
const BUCKETS: [f64; 15] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.425, 0.45, 0.48, 0.5, 1.0,
];

/// Of one service.
#[derive(Clone, Debug)]
pub(super) struct EndpointMetrics {
    pub connections: Gauge,
    pub circuit_open: Gauge,
    pub second_tries: Counter,
}

impl ProviderMetrics {
    /// Makes the counts and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            answers: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            connections: Family::default(),
            circuit_open: Family::default(),
            second_tries: Family::default(),
        };
        registry.register(
            "dialog_context_answers",
            "Answers to the platform's questions, by where they were from, and why not from the \
             provider",
            metrics.answers.clone(),
        );
        registry.register(
            "dialog_context_duration_seconds",
            "Time from a question's head to its answer",
            metrics.durations.clone(),
        );
        registry.register(
            "dialog_context_connections",
            "Connections to a provider, two when all is well",
            metrics.connections.clone(),
        );
        registry.register(
            "dialog_context_circuit_open",
            "1 while a provider does not answer in time and is asked once a second only",
            metrics.circuit_open.clone(),
        );
        registry.register(
            "dialog_context_second_tries",
            "Questions asked a second time because the first try was silent",
            metrics.second_tries.clone(),
        );
        metrics
    }

    pub(super) fn of(&self, endpoint: &str) -> EndpointMetrics {
        let labels = EndpointLabels {
            endpoint: endpoint.to_owned(),
        };
        EndpointMetrics {
            connections: self.connections.get_or_create_owned(&labels),
            circuit_open: self.circuit_open.get_or_create_owned(&labels),
            second_tries: self.second_tries.get_or_create_owned(&labels),
        }
    }

    pub(super) fn answer(
        &self,
        account: &str,
        question: &'static str,
        (source, reason): (&'static str, &'static str),
        took: Duration,
    ) {
        let labels = AnswerLabels {
            account: account.to_owned(),
            question,
            source,
            reason,
        };
        self.answers.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&QuestionLabels { question })
            .observe(took.as_secs_f64());
    }
}
