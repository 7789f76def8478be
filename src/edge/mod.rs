//! The front door for yeta: the listener that its pushes arrive at.

mod auth;
mod body;
mod buffer;
mod client;
mod encoding;
pub mod entries;
pub mod metrics;
mod payloads;
mod questions;
pub mod readers;
pub mod reading;
mod text;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body::Body as _;
use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};

use self::body::BodyError;
use self::buffer::{Buffer, Room};
use self::metrics::{EdgeMetrics, PushResult};
use self::questions::{Question, Questions};
use self::readers::Readers;
use self::reading::Received;
use crate::account::Account;
use crate::http_server::Peer;
use crate::log_limit::LogLimit;
use crate::provider::{Asked, Providers};
use crate::store::PushLog;
use crate::submissions::RowKeys;

/// What the listener needs to know.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// How many bytes one push may have.
    pub max_body_bytes: usize,
    /// How many bytes of pushes are held at once.
    pub max_buffered_bytes: usize,
    /// How long a push may take from its head to the answer.
    pub append_timeout: Duration,
    /// The networks of proxies that name the client's address in `X-Forwarded-For`.
    pub trusted_proxies: Vec<IpNet>,
    /// What relative addresses of recordings are relative to.
    pub voice_base_url: String,
}

/// The accounts that are pushed to, and where pushes go.
pub struct Edge {
    config: EdgeConfig,
    accounts: Vec<Arc<Account>>,
    log: Arc<dyn PushLog>,
    row_keys: Arc<RowKeys>,
    questions: Questions,
    metrics: EdgeMetrics,
    buffer: Buffer,
    readers: Readers,
    refusals: LogLimit,
}

/// What is left of a push's time for answering one that is too large.
const ANSWER_TIME: Duration = Duration::from_millis(50);
/// What the platform looks for in the answer.
const SUCCESS: &str = "success";

impl Edge {
    /// Pushes for these accounts go to this log.
    pub fn new(
        config: EdgeConfig,
        accounts: Vec<Arc<Account>>,
        log: Arc<dyn PushLog>,
        row_keys: Arc<RowKeys>,
        providers: Providers,
        metrics: EdgeMetrics,
    ) -> Self {
        let names: Vec<&str> = accounts.iter().map(|it| it.name.as_str()).collect();
        let readers = Readers::default();
        Self {
            buffer: Buffer::new(config.max_buffered_bytes, config.max_body_bytes, &names),
            questions: Questions::new(providers, readers.clone(), &names),
            config,
            accounts,
            log,
            row_keys,
            metrics,
            readers,
            refusals: LogLimit::new(Duration::from_secs(1)),
        }
    }

    /// Everything that the listener answers.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/push/{account}/{push_secret}/{module}", post(receive))
            .with_state(Arc::new(self))
    }
}

/// Where a push was sent to.
type Address = Path<(String, String, String)>;

async fn receive(
    State(edge): State<Arc<Edge>>,
    Path((account, secret, module)): Address,
    request: Request,
) -> Response {
    let started = Instant::now();
    let client = edge.client(&request);
    let Some(account) = auth::account(&edge.accounts, &account, &secret, client) else {
        edge.refused(client);
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Some(question) = Question::of(&module) {
        let asked = Asked { at: started };
        let body = request.into_body();
        let answer = edge.questions.answer(question, &account.name, body, asked);
        let answer = answer.await;
        edge.metrics
            .count(&account.name, &module, PushResult::Answered);
        return answer;
    }
    let result = edge.store(account, &module, request, started).await;
    edge.metrics
        .observe(&account.name, &module, result, started.elapsed());
    answer(result)
}

/// The word that ends the platform's retries stands in one answer only.
fn answer(result: PushResult) -> Response {
    match result {
        PushResult::Stored | PushResult::Duplicate => SUCCESS.into_response(),
        PushResult::Answered => StatusCode::OK.into_response(),
        PushResult::TooLarge => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        PushResult::Incomplete => StatusCode::REQUEST_TIMEOUT.into_response(),
        PushResult::NotStored => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        PushResult::NotFound => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Edge {
    /// The address of the client, unless the router is served without a listener of its own.
    fn client(&self, request: &Request) -> Option<IpAddr> {
        let Peer(peer) = request.extensions().get::<Peer>()?;
        let proxies = &self.config.trusted_proxies;
        Some(client::address(peer.ip(), request.headers(), proxies))
    }

    /// Counts and logs a push with a wrong address. The log has neither the account nor the secret
    /// that were tried: they may be somebody's right ones, at the wrong place.
    fn refused(&self, client: Option<IpAddr>) {
        self.metrics.count("", "", PushResult::NotFound);
        if let Some(left_out) = self.refusals.admit() {
            let client = client.map(tracing::field::display);
            tracing::warn!(
                client,
                left_out,
                "push refused: wrong account, secret or network"
            );
        }
    }

    /// Stores a push; resolves to [`PushResult::Stored`] only when it is durable. `started` is when
    /// its head had arrived: everything together ends within the timeout from then on.
    async fn store(
        &self,
        account: &Account,
        module: &str,
        request: Request,
        started: Instant,
    ) -> PushResult {
        let deadline = started + self.config.append_timeout;
        let (parts, body) = request.into_parts();
        let mut room = self.buffer.room(&account.name);
        let received = timeout_at(deadline, self.receive(body, &mut room, deadline)).await;
        let body = match received {
            Ok(Ok(body)) => body,
            Ok(Err(result)) => return result,
            Err(_elapsed) if room.is_waiting() => {
                tracing::warn!(
                    account = account.name,
                    module,
                    "push refused: the buffer for pushes is full"
                );
                return PushResult::NotStored;
            }
            Err(_elapsed) => return PushResult::Incomplete,
        };
        let received = Received {
            account: &account.name,
            module,
            content_type: content_type(&parts.headers),
            voice_base_url: &self.config.voice_base_url,
        };
        // Dropping the wait does not undo the append: the push may yet become durable, and the
        // platform's next try will find it.
        let append = async {
            let body = self.decode(&parts.headers, body).await;
            self.append(received, body, deadline).await
        };
        let stored = timeout_at(deadline, append).await;
        stored.unwrap_or_else(|_elapsed| {
            tracing::warn!(
                account = account.name,
                module,
                "push refused: storing took too long"
            );
            PushResult::NotStored
        })
    }

    /// Receives a body; one that is too large is read to its end first.
    async fn receive(
        &self,
        mut body: Body,
        room: &mut Room,
        deadline: Instant,
    ) -> Result<Bytes, PushResult> {
        let max = self.config.max_body_bytes;
        let is_announced_too_large = body.size_hint().lower() > max as u64;
        let read = if is_announced_too_large {
            Err(BodyError::TooLarge)
        } else {
            body::read(&mut body, max, room).await
        };
        match read {
            Ok(body) => Ok(body),
            Err(BodyError::Incomplete) => Err(PushResult::Incomplete),
            Err(BodyError::TooLarge) => {
                // Ends just before the deadline of the whole, so that the answer is still given.
                body::discard(body, deadline - ANSWER_TIME).await;
                Err(PushResult::TooLarge)
            }
        }
    }

    /// A body without its Content-Encoding; as it came if that cannot be undone.
    async fn decode(&self, headers: &HeaderMap, body: Bytes) -> Bytes {
        let Some(encoding) = headers.get(header::CONTENT_ENCODING) else {
            return body;
        };
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
        let (max, encoded) = (self.config.max_body_bytes, body.clone());
        let decoded = self.readers.run(max, move || {
            encoding::decode(&encoding, &encoded, max).unwrap_or(encoded)
        });
        decoded.await.unwrap_or(body)
    }

    /// Appends what a body holds to the log.
    async fn append(&self, received: Received<'_>, body: Bytes, deadline: Instant) -> PushResult {
        let (account, module) = (received.account, received.module);
        let Some(pushes) = self.readers.read(received, body).await else {
            return PushResult::NotStored;
        };
        let faults: Vec<_> = pushes
            .iter()
            .map(|push| push.fault.map(|fault| (fault, push.entry.raw.len())))
            .collect();
        // The other half of the time is left to the log.
        let keyed_by = deadline - self.config.append_timeout / 2;
        let entries = entries::entries(&self.row_keys, account, pushes, keyed_by).await;
        match self.log.append(entries).await {
            Ok(appended) if appended.iter().all(|entry| entry.duplicate) => {
                tracing::debug!(account, module, "push held already");
                PushResult::Duplicate
            }
            Ok(appended) => {
                let new = appended.iter().zip(faults).filter(|(it, _)| !it.duplicate);
                for (reason, bytes) in new.filter_map(|(_, fault)| fault) {
                    self.metrics.not_understood(account, module, reason);
                    tracing::warn!(
                        account,
                        module,
                        reason,
                        bytes,
                        "push stored, not understood"
                    );
                }
                PushResult::Stored
            }
            Err(error) => {
                tracing::warn!(account, module, %error, "push refused");
                PushResult::NotStored
            }
        }
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}
