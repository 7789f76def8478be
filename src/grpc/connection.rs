//! One connection of a client, from its first byte to its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::connections::Slot;
use super::outgoing::{Traffic, Verdict};
use super::status;
use crate::tls::{PeerNames, ServerTls};

/// A peer that has not finished the TLS handshake and sent the HTTP/2 preface by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A peer that has vanished without a word is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of streams of one connection.
const MAX_STREAMS: u32 = 200;
/// What a client may send ahead of being read: on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What may wait inside of the connection for one stream.
const SEND_BUFFER: usize = 64 << 10;
/// The maximum size of a request's headers.
const MAX_HEADERS: u32 = 16 << 10;
/// The size of the HTTP/2 preface.
const PREFACE: usize = 24;
/// The time that requests have to end after `max_connection_age`.
const AGE_GRACE: Duration = Duration::from_secs(30);
/// Connections of clients are looked at this often, and sooner where `patience` is short.
const SWEEP: Duration = Duration::from_secs(10);
/// The time that last answers need. A connection is closed after it when the grace of its age is
/// over, and while the gateway drains if it has no client's request.
const LINGER: Duration = Duration::from_secs(1);

/// What requests know of their connection; an extension of each.
pub struct Connection {
    /// The address of the other end.
    pub peer: SocketAddr,
    /// The names in the verified certificate of the other end.
    pub names: Option<Arc<PeerNames>>,
    pub(super) traffic: Arc<Traffic>,
    slot: Slot,
    is_admitted: AtomicBool,
}

impl Connection {
    /// Notes that a request on the connection has shown a client's credentials.
    pub(super) fn admit(&self) {
        if !self.is_admitted.swap(true, Relaxed) {
            self.slot.admit();
        }
    }
}

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Serving {
    /// Plain text if there is none.
    pub tls: Option<Arc<ServerTls>>,
    /// The age at which a connection is closed; zero: none.
    pub max_age: Duration,
    /// The time after which a response is ended of which the client takes nothing.
    pub patience: Duration,
    /// Cancelled when the gateway stops.
    pub drain: CancellationToken,
}

impl Serving {
    /// Serves one connection to its end.
    pub(super) async fn serve<S>(self, stream: TcpStream, peer: SocketAddr, slot: Slot, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let deadline = Instant::now() + HANDSHAKE;
        let Some(tls) = &self.tls else {
            return self
                .serve_http(stream, None, peer, slot, service, deadline)
                .await;
        };
        let accepted = async {
            tokio::select! {
                accepted = tls.accept(stream) => accepted,
                () = slot.evicted() => Err(io::ErrorKind::ConnectionAborted.into()),
                () = self.drain.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        };
        match timeout_at(deadline, accepted).await {
            Ok(Ok((stream, names))) => {
                let names = names.map(Arc::new);
                self.serve_http(stream, names, peer, slot, service, deadline)
                    .await;
            }
            Ok(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    async fn serve_http<IO, S>(
        self,
        io: IO,
        names: Option<Arc<PeerNames>>,
        peer: SocketAddr,
        slot: Slot,
        service: S,
        handshake: Instant,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let connection = Arc::new(Connection {
            peer,
            names,
            traffic: Arc::default(),
            slot,
            is_admitted: AtomicBool::new(false),
        });
        let of_requests = connection.clone();
        let service = service.map_request(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(of_requests.clone());
            request
        });
        let has_preface = Arc::new(AtomicBool::new(false));
        let io = Counted {
            io,
            left: PREFACE,
            has_preface: has_preface.clone(),
        };
        let http = builder().serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
        let mut http = std::pin::pin!(http);
        let mut bounds = Timetable::new(&self);
        let mut is_leaving = false;
        loop {
            let step = tokio::select! {
                ended = &mut http => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, %peer, "a connection ended early");
                    }
                    return;
                }
                () = connection.slot.evicted() => {
                    tracing::debug!(%peer, "a connection yielded to another");
                    return;
                }
                () = sleep_until(handshake), if !has_preface.load(Relaxed) => {
                    // It may have come since the wait began.
                    if has_preface.load(Relaxed) {
                        continue;
                    }
                    tracing::debug!(%peer, "a connection sent no HTTP/2 preface in time");
                    return;
                }
                step = bounds.next(&connection.traffic) => step,
            };
            match step {
                // Nothing can be announced before the handshake.
                Step::Leave if !has_preface.load(Relaxed) => return,
                Step::Leave if !is_leaving => {
                    is_leaving = true;
                    http.as_mut().graceful_shutdown();
                }
                Step::Leave => {}
                Step::End => connection.traffic.end_all(status::connection_aged),
                Step::Close => return,
            }
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// What is to be done with a connection.
enum Step {
    /// Announce that no further requests are taken.
    Leave,
    /// End the responses that are open.
    End,
    /// Cut it off.
    Close,
}

/// When a connection leaves, and when it is cut off.
struct Timetable {
    drain: CancellationToken,
    is_draining: bool,
    patience: Duration,
    sweep: tokio::time::Interval,
    /// The next step that the connection's age asks for.
    aging: Option<(Instant, Step)>,
}

impl Timetable {
    fn new(serving: &Serving) -> Self {
        let period = SWEEP
            .min(serving.patience / 4)
            .max(Duration::from_millis(10));
        let mut sweep = interval(period);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            drain: serving.drain.clone(),
            is_draining: false,
            patience: serving.patience,
            sweep,
            aging: (!serving.max_age.is_zero())
                .then(|| (Instant::now() + serving.max_age, Step::Leave)),
        }
    }

    /// Takes the step that is due by age, and sets the next one.
    fn age(&mut self) -> Step {
        let (_, step) = self.aging.take().unwrap_or((Instant::now(), Step::Close));
        let next = match step {
            Step::Leave => Some((AGE_GRACE, Step::End)),
            Step::End => Some((LINGER, Step::Close)),
            Step::Close => None,
        };
        self.aging = next.map(|(after, step)| (Instant::now() + after, step));
        step
    }

    async fn next(&mut self, traffic: &Traffic) -> Step {
        loop {
            tokio::select! {
                () = self.drain.cancelled(), if !self.is_draining => {
                    self.is_draining = true;
                    self.sweep = interval(LINGER);
                    self.sweep.reset();
                    return Step::Leave;
                }
                () = at(self.aging.as_ref().map(|(at, _)| *at)) => return self.age(),
                now = self.sweep.tick() => {
                    if self.is_draining && !traffic.has_admitted() {
                        return Step::Close;
                    }
                    match traffic.sweep(now, self.patience) {
                        Verdict::Keep => {}
                        Verdict::Retire => return Step::Leave,
                        Verdict::Close => return Step::Close,
                    }
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Notes when the HTTP/2 preface has come.
struct Counted<IO> {
    io: IO,
    left: usize,
    has_preface: Arc<AtomicBool>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if self.left > 0 {
            let read = buffer.filled().len() - before;
            self.left = self.left.saturating_sub(read);
            self.has_preface.store(self.left == 0, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use tokio::io::duplex;
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    use super::super::connections::Connections;
    use super::super::outgoing::Outgoing;
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(300);

    /// Answers with a stream that has no end. Its first frame is larger than what a client with
    /// small windows takes.
    async fn endless(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        use futures_util::StreamExt as _;
        let connection = request.extensions().get::<Arc<Connection>>().unwrap();
        let first = Ok::<_, Status>(Frame::data(Bytes::from(vec![0; 1000])));
        let frames = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let body = Body::new(http_body_util::StreamBody::new(frames));
        let open = connection.traffic.begin(true);
        let body = Outgoing::new(body, open, None, Box::new(()));
        Ok(Response::new(Body::new(body)))
    }

    /// The stream of a client of a new connection, and the connection's end.
    async fn connect(
        window: u32,
    ) -> (
        http::Response<h2::RecvStream>,
        tokio::task::JoinHandle<Result<(), h2::Error>>,
    ) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let serving = Serving {
            tls: None,
            max_age: MAX_AGE,
            patience: MAX_AGE * 2,
            drain: CancellationToken::new(),
        };
        let (client, server) = duplex(64 << 10);
        let slot = Connections::new(1, 1).open(peer).unwrap();
        let service = tower::service_fn(endless);
        let handshake = Instant::now() + HANDSHAKE;
        tokio::spawn(serving.serve_http(server, None, peer, slot, service, handshake));
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (send, connection) = builder.handshake(client).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let request = Request::post("http://gateway/stream").body(()).unwrap();
        let (response, _): (_, h2::SendStream<Bytes>) = send.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        (response, connection)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_outlives_the_grace_of_its_connection_ends_with_a_status_to_retry() {
        let begun = Instant::now();
        let (response, connection) = connect(1 << 20).await;
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap().len(), 1000);
        assert!(body.data().await.is_none());
        assert_eq!(begun.elapsed(), MAX_AGE + AGE_GRACE);
        let trailers = body.trailers().await.unwrap().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(details.error_info().unwrap().reason, "DRAINING");
        assert!(details.retry_info().is_some());
        connection.await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), MAX_AGE + AGE_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_a_moment_after_the_grace() {
        let begun = Instant::now();
        let (_response, connection) = connect(1).await;
        // The end of its bytes, with a stream still open.
        let _ = connection.await.unwrap();
        assert_eq!(begun.elapsed(), MAX_AGE + AGE_GRACE + LINGER);
    }
}
