//! The client of the users' `DialogContextService`: what the platform asks while somebody is on the
//! line is answered in time, by the service or in its place.

mod answered;
mod cache;
mod circuit;
mod endpoint;
mod lane;
mod lanes;
pub mod metrics;
mod options;
mod service;
mod wire;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use self::answered::{Answered, Missing, Question, Source};
use self::cache::Cache;
pub(crate) use self::endpoint::is_loopback;
pub use self::endpoint::{Endpoint, EndpointError};
use self::metrics::ProviderMetrics;
pub use self::options::{Options, Override, Whom};
use self::service::Service;
use crate::proto::semantic_value::Value;
use crate::proto::{
    AnalyzeSemanticsRequest, AnalyzeSemanticsResponse, GetDialogContextRequest, SemanticValue,
};
use crate::secret;

/// The services that are asked, and what is answered in their place.
///
/// Each answer is one in time: asking ends at the deadline, and everything else is at hand.
pub struct Providers {
    options: Options,
    services: HashMap<Endpoint, Service>,
    cache: Cache,
    answered: Answered,
}

/// How a question came.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When its first bytes had arrived; the time to answer counts from then.
    pub at: Instant,
}

impl Providers {
    /// Connects to the services, in the background, ahead of the first question. Must be called on
    /// a runtime.
    pub fn new(options: Options, metrics: &ProviderMetrics) -> Result<Self, EndpointError> {
        let mut services = HashMap::new();
        for endpoint in options.endpoints() {
            if !services.contains_key(endpoint) {
                let service = Service::new(endpoint, &options, metrics)?;
                services.insert(endpoint.clone(), service);
            }
        }
        let tokens = services.values().filter_map(Service::token);
        if let Err(error) = secret::keep_fresh(tokens) {
            tracing::error!(%error, "tokens are not read again when their files change");
        }
        Ok(Self {
            services,
            cache: Cache::new(options.cache_for, options.cache_bytes),
            answered: Answered::new(metrics.clone()),
            options,
        })
    }

    /// By when a question must have been read to be asked at all.
    pub fn read_by(&self, account: &str, asked: Asked) -> Instant {
        asked.at + self.options.for_robot(account, "").timeout
    }

    /// The answer to `getDialogContext`: a JSON object of strings.
    pub async fn dialog_context(&self, request: GetDialogContextRequest, asked: Asked) -> Bytes {
        let (account, id) = (request.account.clone(), request.call_relation_id.clone());
        let robot_id = request.robot_id.clone();
        let chosen = self.options.for_robot(&account, &robot_id);
        let told = match self.service(chosen.endpoint) {
            Some(service) => service.ask(request, asked.at + chosen.timeout).await,
            None => Err(Missing::NoEndpoint),
        };
        let (answer, source, missing) = match told {
            Ok(response) => {
                let context: BTreeMap<_, _> = response.context.into_iter().collect();
                let answer = Bytes::from(json!(context).to_string());
                self.cache.put([&account, &robot_id, &id], &answer);
                (answer, Source::Provider, None)
            }
            Err(missing) => match self.cache.get([&account, &robot_id, &id]) {
                Some(earlier) => (earlier, Source::Cache, Some(missing)),
                None => fallback(chosen.fallback, missing),
            },
        };
        self.answered
            .note(Question::DialogContext, &account, source, missing, asked.at);
        answer
    }

    /// The answer to `analyzeSemantics`: a JSON array.
    pub async fn semantics(&self, request: AnalyzeSemanticsRequest, asked: Asked) -> Bytes {
        let account = request.account.clone();
        let chosen = self.options.for_robot(&account, &request.robot_id);
        let told = match self.service(chosen.endpoint) {
            Some(service) => service.ask(request, asked.at + chosen.timeout).await,
            None => Err(Missing::NoEndpoint),
        };
        let (answer, source, missing) = match told {
            Ok(response) => (values(response), Source::Provider, None),
            Err(missing) => (no_values(), Source::Empty, Some(missing)),
        };
        self.answered
            .note(Question::Semantics, &account, source, missing, asked.at);
        answer
    }

    /// The answer to a `getDialogContext` that did not arrive whole.
    pub fn dialog_context_unread(&self, account: &str, asked: Asked) -> Bytes {
        let chosen = self.options.for_robot(account, "");
        let (answer, source, missing) = fallback(chosen.fallback, Missing::Unread);
        self.answered
            .note(Question::DialogContext, account, source, missing, asked.at);
        answer
    }

    /// The answer to an `analyzeSemantics` that did not arrive whole.
    pub fn semantics_unread(&self, account: &str, asked: Asked) -> Bytes {
        let (source, missing) = (Source::Empty, Some(Missing::Unread));
        self.answered
            .note(Question::Semantics, account, source, missing, asked.at);
        no_values()
    }

    fn service(&self, endpoint: Option<&Endpoint>) -> Option<&Service> {
        self.services.get(endpoint?)
    }
}

/// What is configured, and whether that is anything.
fn fallback(
    context: &BTreeMap<String, String>,
    missing: Missing,
) -> (Bytes, Source, Option<Missing>) {
    let source = if context.is_empty() {
        Source::Empty
    } else {
        Source::Fallback
    };
    let answer = json!(context).to_string();
    (answer.into(), source, Some(missing))
}

fn values(response: AnalyzeSemanticsResponse) -> Bytes {
    let value = |value: SemanticValue| {
        let SemanticValue { key, value } = value;
        Some(match value? {
            Value::StringValue(text) => json!({ "key": key, "type": "string", "value": text }),
            Value::IntegerValue(n) => json!({ "key": key, "type": "integer", "value": n }),
        })
    };
    let values: serde_json::Value = response.values.into_iter().filter_map(value).collect();
    values.to_string().into()
}

fn no_values() -> Bytes {
    Bytes::from_static(b"[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_types_and_those_without_one_are_left_out() {
        let value = |key: &str, value| SemanticValue {
            key: key.into(),
            value,
        };
        let response = AnalyzeSemanticsResponse {
            values: vec![
                value("意向", Some(Value::StringValue("A".into()))),
                value("none", None),
                value("count", Some(Value::IntegerValue(i64::MIN))),
            ],
        };
        assert_eq!(
            values(response),
            r#"[{"key":"意向","type":"string","value":"A"},{"key":"count","type":"integer","value":-9223372036854775808}]"#
        );
        assert_eq!(values(AnalyzeSemanticsResponse::default()), no_values());
    }
}
