//! Asks one service: over connections that are there, a second time where that helps, and not at
//! all while it is silent.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::answered::Missing;
use super::circuit::{Circuit, Turn};
use super::endpoint::{Endpoint, EndpointError};
use super::lane::Lane;
use super::lanes::{Lanes, Picked};
use super::metrics::{EndpointMetrics, ProviderMetrics};
use super::options::Options;
use super::wire::{Connector, Wire};
use crate::proto::dialog_context_service_client::DialogContextServiceClient;
use crate::proto::{
    AnalyzeSemanticsRequest, AnalyzeSemanticsResponse, GetDialogContextRequest,
    GetDialogContextResponse,
};
use crate::secret::Secret;

/// A service that is asked.
pub(super) struct Service {
    name: Arc<str>,
    endpoint: Endpoint,
    token: Option<Secret>,
    lanes: Lanes,
    circuit: Circuit,
    second_tries: SecondTries,
    second_try_after: Duration,
    metrics: EndpointMetrics,
}

type Client = DialogContextServiceClient<Wire>;

/// A question, and the call that asks it.
pub(super) trait Ask: Clone + Send {
    type Answer: Send;

    fn ask(
        self,
        client: Client,
        terms: Terms,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// What a request carries beside its question.
pub(super) struct Terms {
    /// The time that the service has.
    time: Duration,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Ask for GetDialogContextRequest {
    type Answer = GetDialogContextResponse;

    async fn ask(self, mut client: Client, terms: Terms) -> Result<Self::Answer, Status> {
        let answer = client.get_dialog_context(terms.request(self)).await;
        answer.map(tonic::Response::into_inner)
    }
}

impl Ask for AnalyzeSemanticsRequest {
    type Answer = AnalyzeSemanticsResponse;

    async fn ask(self, mut client: Client, terms: Terms) -> Result<Self::Answer, Status> {
        let answer = client.analyze_semantics(terms.request(self)).await;
        answer.map(tonic::Response::into_inner)
    }
}

impl Terms {
    fn request<T>(self, question: T) -> Request<T> {
        let mut request = Request::new(question);
        request.set_timeout(self.time);
        if let Some(authorization) = self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization);
        }
        request
    }
}

/// The header that carries a token; no log shows it.
fn bearer(token: &Secret) -> Option<MetadataValue<Ascii>> {
    // The token was read at the start, and each later one is checked before it takes its place.
    let token = token.read().ok()?;
    let mut header: MetadataValue<Ascii> =
        format!("Bearer {}", token.expose_secret()).parse().ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl Service {
    /// Connects in the background.
    pub fn new(
        endpoint: &Endpoint,
        options: &Options,
        metrics: &ProviderMetrics,
    ) -> Result<Self, EndpointError> {
        let name: Arc<str> = endpoint.name().into();
        let metrics = metrics.of(&name);
        let connector = Connector::new(endpoint, options.connection_age)?;
        let lane = || {
            let connected = metrics.connections.clone();
            Lane::open(
                connector.clone(),
                options.connection_age,
                name.clone(),
                connected,
            )
        };
        Ok(Self {
            lanes: Lanes::new([lane(), lane()]),
            token: endpoint.token()?,
            endpoint: endpoint.clone(),
            circuit: Circuit::default(),
            second_tries: SecondTries::default(),
            second_try_after: options.second_try_after,
            name,
            metrics,
        })
    }

    /// The token of its requests, which is to be read again when its file changes.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The service's answer, if there is one by the deadline.
    pub async fn ask<Q: Ask>(&self, question: Q, deadline: Instant) -> Result<Q::Answer, Missing> {
        let asked = Instant::now();
        if !self.circuit.lets_through(asked) {
            return Err(Missing::CircuitOpen);
        }
        self.second_tries.earn();
        match timeout_at(deadline, self.tries(&question, deadline)).await {
            Ok(Some(Ok(answer))) => {
                self.heard();
                Ok(answer)
            }
            Ok(Some(Err(status))) if status.code() != Code::Unavailable => {
                self.heard();
                Err(Missing::Error(status.code()))
            }
            // It said so, or nothing is there that could: nobody waited, and nobody answered.
            Ok(Some(Err(_)) | None) => Err(Missing::Unreachable),
            Err(_late) => {
                self.missed(asked);
                Err(Missing::Late)
            }
        }
    }

    /// What one try gave, or the second; `None` without a connection.
    async fn tries<Q: Ask>(
        &self,
        question: &Q,
        deadline: Instant,
    ) -> Option<Result<Q::Answer, Status>> {
        let picked = self.lanes.pick(None).await?;
        let first_at = picked.at;
        let mut first = pin!(self.one_try(picked, question.clone(), deadline));
        let told = tokio::select! {
            told = &mut first => Some(told),
            () = self.silence(deadline) => None,
        };
        match told {
            // Whoever was there is not any more; another may be.
            Some(Err(status)) if status.code() == Code::Unavailable => {
                let picked = self.lanes.pick(Some(first_at)).await?;
                Some(self.one_try(picked, question.clone(), deadline).await)
            }
            Some(told) => Some(told),
            None => Some(match self.other(first_at) {
                Some(picked) => {
                    let second = pin!(self.one_try(picked, question.clone(), deadline));
                    first_good(first, second).await
                }
                None => first.await,
            }),
        }
    }

    async fn one_try<Q: Ask>(
        &self,
        mut picked: Picked<'_>,
        question: Q,
        deadline: Instant,
    ) -> Result<Q::Answer, Status> {
        let client = Client::with_origin(picked.wire.clone(), self.endpoint.uri().clone());
        let terms = Terms {
            time: deadline.saturating_duration_since(Instant::now()),
            authorization: self.token.as_ref().and_then(bearer),
        };
        let told = question.ask(client, terms).await;
        picked.heard();
        told
    }

    /// Resolves when the first try has been silent for long enough, if a second one then has as
    /// much time as the first had.
    async fn silence(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.second_try_after.is_zero() || left < 2 * self.second_try_after {
            return std::future::pending().await;
        }
        sleep(self.second_try_after).await;
    }

    /// Another connection for a second try, if one may be made.
    fn other(&self, first_at: usize) -> Option<Picked<'_>> {
        if !self.lanes.has_other(first_at) || !self.second_tries.spend() {
            return None;
        }
        self.metrics.second_tries.inc();
        self.lanes.pick_other(first_at)
    }

    fn heard(&self) {
        if self.circuit.answered(Instant::now()) == Turn::Closed {
            self.metrics.circuit_open.set(0);
            tracing::info!(provider = %self.name, "the provider answers again");
        }
    }

    fn missed(&self, asked: Instant) {
        if self.circuit.missed(asked, Instant::now()) == Turn::Opened {
            self.metrics.circuit_open.set(1);
            tracing::warn!(
                provider = %self.name,
                "the provider does not answer in time: it is asked once a second until it does"
            );
            self.lanes.renew();
        }
    }
}

/// The answer that comes first; an error only if the other is one, too.
async fn first_good<T>(
    mut one: impl Future<Output = Result<T, Status>> + Unpin,
    mut other: impl Future<Output = Result<T, Status>> + Unpin,
) -> Result<T, Status> {
    tokio::select! {
        told = &mut one => match told {
            Ok(answer) => Ok(answer),
            Err(_) => other.await,
        },
        told = &mut other => match told {
            Ok(answer) => Ok(answer),
            Err(_) => one.await,
        },
    }
}

/// Second tries after a silence are one in ten questions, after ten at once: a service that is slow
/// because it has too much to do is not given twice as much.
struct SecondTries {
    /// In tenths of a try.
    left: AtomicU32,
}

const MOST: u32 = 100;
const COST: u32 = 10;

impl Default for SecondTries {
    fn default() -> Self {
        Self {
            left: AtomicU32::new(MOST),
        }
    }
}

impl SecondTries {
    fn earn(&self) {
        let more = |left| (left < MOST).then_some(left + 1);
        // At the most already: there is no more to be had.
        let _ = (self.left).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        let less = |left: u32| left.checked_sub(COST);
        (self.left)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_tries_are_one_in_ten_questions_after_the_first_ten() {
        let tries = SecondTries::default();
        assert_eq!((0..200).filter(|_| tries.spend()).count(), 10);
        let mut spent = 0;
        for _ in 0..200 {
            tries.earn();
            spent += u32::from(tries.spend());
        }
        assert_eq!(spent, 20);
    }
}
