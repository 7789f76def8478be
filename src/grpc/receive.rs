//! Receives request messages within bounds of size, time and memory, before they are decoded.

mod elements;
mod messages;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use self::elements::SCHEMA;
use self::messages::{Compressed, Encoding, HEADER, MessageError, Messages, Whole, framed};
use super::admission::Admitted;
use super::auth::Caller;
use super::rpc::{Rpc, Shape};
use super::shares::{Share, Shares};
use super::turns::Turns;
use super::{deadline, status};

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The large messages that are decompressed at once, and those of one client.
const OPENING: usize = 2;
const OPENING_EACH: usize = 1;

/// The bounds of request messages.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveBounds {
    /// The maximum size of any message.
    pub max_request_bytes: usize,
    /// The maximum size of all messages that are held at once.
    pub max_buffered_bytes: usize,
    /// The maximum time from the first byte of a message to its last.
    pub message_timeout: Duration,
    /// The number of configured clients.
    pub clients: usize,
}

/// Hands on whole messages, not compressed, and refuses what is over its bounds.
#[derive(Clone)]
pub struct ReceiveLayer {
    bounds: ReceiveBounds,
    buffered: Arc<Shares>,
    opening: Arc<Turns>,
}

impl ReceiveLayer {
    /// Receives within these bounds.
    pub fn new(bounds: ReceiveBounds) -> Self {
        Self {
            buffered: Shares::halves(bounds.max_buffered_bytes, bounds.clients),
            opening: Arc::new(Turns::new("compressed messages", OPENING, OPENING_EACH)),
            bounds,
        }
    }
}

impl<S> Layer<S> for ReceiveLayer {
    type Service = Receive<S>;

    fn layer(&self, inner: S) -> Receive<S> {
        Receive {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`ReceiveLayer`].
#[derive(Clone)]
pub struct Receive<S> {
    inner: S,
    layer: ReceiveLayer,
}

impl<S> Service<Request<Body>> for Receive<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let encoding = match head.headers.get(&ENCODING) {
            None => Some(Encoding::Identity),
            Some(name) => Encoding::parse(name.as_bytes()),
        };
        let rpc = head.extensions.get::<&'static Rpc>().copied();
        let (Some(encoding), Some(rpc)) = (encoding, rpc) else {
            // Refused by tonic, which names the encodings that it knows.
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        };
        head.headers.remove(&ENCODING);
        let admitted = head.extensions.get::<Admitted>();
        let incoming = Incoming {
            body,
            messages: Messages::new(
                encoding,
                rpc.messages.max_bytes(self.layer.bounds.max_request_bytes),
            ),
            rpc,
            budget: admitted.map(|admitted| Budget {
                buffered: self.layer.buffered.clone(),
                opening: self.layer.opening.clone(),
                caller: admitted.caller.clone(),
            }),
            shares: Vec::new(),
            opening: None,
            message_timeout: self.layer.bounds.message_timeout,
            late: None,
        };
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let allowed = deadline::timeout(&head.headers);
        let started = Instant::now();
        Box::pin(async move {
            let received = async {
                match rpc.shape {
                    Shape::BidiStreaming => Ok((Body::new(incoming), Vec::new())),
                    Shape::Unary | Shape::ServerStreaming => {
                        let (message, shares) = incoming.only().await?;
                        Ok((Body::new(Full::new(message)), shares))
                    }
                }
            };
            let received = match by(started, allowed, received).await {
                Some(received) => received,
                None => Err(status::deadline(false)),
            };
            // Held until the message has been dealt with.
            let (body, _shares) = match received {
                Ok(received) => received,
                Err(status) => return Ok(status.into_http()),
            };
            if let Some(allowed) = allowed {
                // The service counts from now on.
                shorten(&mut head.headers, allowed, started.elapsed());
            }
            let response = inner.call(Request::from_parts(head, body));
            let response = by(started, allowed, response).await;
            response.unwrap_or_else(|| Ok(status::deadline(rpc.changes).into_http()))
        })
    }
}

/// Waits for a step, no longer than the request is allowed; `None`: that time is over.
async fn by<T>(
    started: Instant,
    allowed: Option<Duration>,
    step: impl Future<Output = T>,
) -> Option<T> {
    match allowed.and_then(|allowed| started.checked_add(allowed)) {
        None => Some(step.await),
        Some(deadline) => timeout_at(deadline, step).await.ok(),
    }
}

/// Takes the time that has passed off a deadline.
fn shorten(headers: &mut HeaderMap, allowed: Duration, passed: Duration) {
    let left = allowed.saturating_sub(passed).as_millis();
    // The header has eight digits; a longer timeout stays as it is.
    if passed.as_millis() > 0
        && left < 100_000_000
        && let Ok(left) = HeaderValue::try_from(format!("{left}m"))
    {
        headers.insert(TIMEOUT, left);
    }
}

/// What the messages of a client take from.
#[derive(Clone)]
struct Budget {
    buffered: Arc<Shares>,
    opening: Arc<Turns>,
    caller: Caller,
}

/// A large message that is being decompressed.
type Opening = BoxFuture<'static, Result<(Bytes, Share), Status>>;

impl Budget {
    /// Decompresses a large message off the async workers, where it delays no other request.
    fn open(&self, message: Compressed) -> Opening {
        let budget = self.clone();
        Box::pin(async move {
            let turn = budget.opening.take(&budget.caller).await?;
            let open = tokio::task::spawn_blocking(move || {
                // Held until the work is done, also when nobody waits for it any more.
                let _turn = turn;
                let plain = message.open().map_err(|error| refused(&error))?;
                let share = budget.take(plain.len())?;
                Ok((plain, share))
            });
            let lost = |_| Status::internal("the message could not be decompressed");
            open.await.map_err(lost)?
        })
    }

    fn take(&self, bytes: usize) -> Result<Share, Status> {
        let share = self.buffered.take(&self.caller, bytes);
        share.ok_or_else(no_room)
    }
}

fn no_room() -> Status {
    status::overloaded("bytes of request messages")
}

/// The messages of a request, each whole.
struct Incoming {
    body: Body,
    messages: Messages,
    rpc: &'static Rpc,
    /// Public requests have none: they are small, and bounded by their pools.
    budget: Option<Budget>,
    /// Of the message that is being received, or that was handed on last.
    shares: Vec<Share>,
    opening: Option<Opening>,
    message_timeout: Duration,
    /// When the present message is late.
    late: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// The one message of a request, behind its header, and the memory that it takes.
    async fn only(mut self) -> Result<(Bytes, Vec<Share>), Status> {
        self.late = Some(Box::pin(sleep(self.message_timeout)));
        let message = self.next().await?;
        let message = message.ok_or_else(|| status::bad_message("the request has no message"))?;
        let shares = std::mem::take(&mut self.shares);
        // The end belongs to the request, and has the same time.
        self.late
            .get_or_insert_with(|| Box::pin(sleep(self.message_timeout)));
        if self.next().await?.is_some() {
            return Err(status::bad_message("the request has more than one message"));
        }
        Ok((message, shares))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        std::future::poll_fn(|cx| self.poll_message(cx))
            .await
            .transpose()
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(opening) = &mut self.opening {
                let opened = ready!(opening.as_mut().poll(cx));
                self.opening = None;
                return Poll::Ready(Some(opened.and_then(|(message, share)| {
                    self.shares.push(share);
                    self.checked(&message)
                })));
            }
            match self.take() {
                Ok(None) => {}
                Ok(Some(whole)) => {
                    self.late = None;
                    match (whole, &self.budget) {
                        (Whole::Large(message), Some(budget)) => {
                            self.opening = Some(budget.open(message));
                            continue;
                        }
                        (Whole::Large(message), None) => {
                            let plain = message.open().map_err(|error| refused(&error));
                            let checked = plain.and_then(|plain| self.checked(&plain));
                            return Poll::Ready(Some(checked));
                        }
                        (Whole::Plain(message), _) => {
                            return Poll::Ready(Some(self.checked(&message)));
                        }
                    }
                }
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(None) => {
                    let is_cut = self.messages.is_partial();
                    let cut = || Err(status::bad_message("the request ended within a message"));
                    return Poll::Ready(is_cut.then(cut));
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.messages.push(data);
                    }
                }
                Poll::Pending => {
                    if self.late.is_none() && self.messages.is_partial() {
                        self.late = Some(Box::pin(sleep(self.message_timeout)));
                    }
                    let Some(late) = &mut self.late else {
                        return Poll::Pending;
                    };
                    ready!(late.as_mut().poll(cx));
                    let status = status::message_late(self.message_timeout);
                    return Poll::Ready(Some(Err(status)));
                }
            }
        }
    }

    /// The message that has come, if it is whole.
    fn take(&mut self) -> Result<Option<Whole>, Status> {
        let had = self.messages.has_header();
        let Some(announced) = self.messages.announced().map_err(|error| refused(&error))? else {
            return Ok(None);
        };
        if !had {
            // The message before it has been decoded by now.
            self.shares.clear();
            self.hold(announced.length + HEADER)?;
        }
        let whole = self.messages.take().map_err(|error| refused(&error))?;
        if let Some(Whole::Plain(message)) = &whole
            && announced.is_compressed
        {
            self.hold(message.len())?;
        }
        Ok(whole)
    }

    /// A message behind its header, if it has no more elements than it may.
    fn checked(&self, message: &Bytes) -> Result<Bytes, Status> {
        let max = self.rpc.messages.max_elements();
        if !SCHEMA.has_at_most(max, self.rpc.path, message) {
            return Err(status::too_many_elements(max));
        }
        Ok(framed(message))
    }

    /// Reserves memory for the next bytes.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        self.shares.push(budget.take(bytes)?);
        Ok(())
    }
}

fn refused(error: &MessageError) -> Status {
    let text = error.to_string();
    match error {
        MessageError::TooLarge { max } => status::message_too_large(*max, text),
        MessageError::TooDense => status::too_dense(text),
        MessageError::Malformed(_) => status::bad_message(&text),
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.poll_message(cx).map_ok(Frame::data)
    }
}
