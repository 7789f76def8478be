//! The front door for yeta: the listener that its pushes arrive at.

mod auth;
pub mod entries;
pub mod metrics;
mod payloads;
mod questions;
pub mod reading;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use self::metrics::{EdgeMetrics, PushResult};
use self::questions::Question;
use self::reading::Received;
use crate::account::Account;
use crate::http_server::Peer;
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
    /// How long storing may take.
    pub append_timeout: Duration,
    /// What relative addresses of recordings are relative to.
    pub voice_base_url: String,
}

/// The accounts that are pushed to, and where pushes go.
pub struct Edge {
    config: EdgeConfig,
    accounts: Vec<Arc<Account>>,
    log: Arc<dyn PushLog>,
    row_keys: Arc<RowKeys>,
    providers: Providers,
    metrics: EdgeMetrics,
    /// A permit for each KiB of body that may be held.
    buffer: Semaphore,
}

/// A body that trickles in more slowly than this is given up.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// So much of a body too large is taken in to let its sender come to an end.
const MAX_DISCARDED_BYTES: usize = 64 << 20;
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
        let buffer = Semaphore::new(permits(config.max_buffered_bytes) as usize);
        Self {
            config,
            accounts,
            log,
            row_keys,
            providers,
            metrics,
            buffer,
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
    let peer = request.extensions().get::<Peer>().copied();
    let Some(account) = auth::account(&edge.accounts, &account, &secret, peer) else {
        edge.metrics.count("", "", PushResult::NotFound);
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Some(question) = Question::of(&module) {
        let asked = Asked { at: started.into() };
        let body = request.into_body();
        let answer = question.answer(&edge.providers, &account.name, body, asked);
        let answer = answer.await;
        edge.metrics
            .count(&account.name, &module, PushResult::Answered);
        return answer;
    }
    let result = edge.store(account, &module, request).await;
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
    /// Takes a push in; resolves to [`PushResult::Stored`] only when it is durable.
    async fn store(&self, account: &Account, module: &str, request: Request) -> PushResult {
        let (parts, mut body) = request.into_parts();
        let max = self.config.max_body_bytes;
        let announced = body.size_hint().upper().unwrap_or(max as u64);
        if announced > max as u64 {
            discard(body).await;
            return PushResult::TooLarge;
        }
        let wanted = permits(usize::try_from(announced).unwrap_or(max));
        let room = self.buffer.acquire_many(wanted);
        let Ok(Ok(_room)) = timeout(self.config.append_timeout, room).await else {
            tracing::warn!(
                account = account.name,
                module,
                "push refused: too many wait to be stored"
            );
            return PushResult::NotStored;
        };
        let body = match read_body(&mut body, max).await {
            Ok(body) => body,
            Err(result) => {
                if result == PushResult::TooLarge {
                    discard(body).await;
                }
                return result;
            }
        };
        let received = Received {
            account: &account.name,
            module,
            content_type: content_type(&parts.headers),
            voice_base_url: &self.config.voice_base_url,
        };
        let pushes = reading::read(&received, &body);
        // One time for both: the platform waits three seconds in all.
        let deadline = tokio::time::Instant::now() + self.config.append_timeout;
        let keyed_by = deadline - self.config.append_timeout / 2;
        let entries = entries::entries(&self.row_keys, &account.name, pushes, keyed_by).await;
        // Dropping the wait does not undo the append: the push may yet become durable, and the
        // platform's next try will find it.
        match timeout_at(deadline, self.log.append(entries)).await {
            Ok(Ok(appended)) if appended.iter().all(|entry| entry.duplicate) => {
                tracing::debug!(account = account.name, module, "push held already");
                PushResult::Duplicate
            }
            Ok(Ok(_)) => PushResult::Stored,
            Ok(Err(error)) => {
                tracing::warn!(account = account.name, module, %error, "push refused");
                PushResult::NotStored
            }
            Err(_elapsed) => {
                tracing::warn!(
                    account = account.name,
                    module,
                    "push refused: storing took too long"
                );
                PushResult::NotStored
            }
        }
    }
}

async fn read_body(body: &mut Body, max: usize) -> Result<Bytes, PushResult> {
    match timeout(BODY_READ_TIMEOUT, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(PushResult::TooLarge)
        }
        Ok(Err(_)) | Err(_) => Err(PushResult::Incomplete),
    }
}

/// Takes in the rest of a body and keeps nothing of it. An answer given before the sender is done
/// would break its connection, and it would not learn what is wrong.
async fn discard(mut body: Body) {
    let rest = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > MAX_DISCARDED_BYTES {
                return;
            }
        }
    };
    // Who has not come to an end by now is cut off.
    let _ = timeout(BODY_READ_TIMEOUT, rest).await;
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// One permit a KiB, and at least one.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .max(1)
}
