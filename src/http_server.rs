//! Serves an axum router over HTTP/1.1, with TLS or without, within bounds on its connections.

mod addresses;
mod stage;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service as _;

use self::addresses::{Addresses, Counted};
use self::stage::{Watch, Watched};
use crate::accept::Acceptor;
use crate::log_limit::LogLimit;
use crate::tls::ServerTls;

/// The address at the other end of the connection; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Bounds of a listener.
#[derive(Clone)]
pub struct Limits {
    /// The listener's name in the log.
    pub name: &'static str,
    /// The maximum number of connections. Further ones wait to be accepted.
    pub max_connections: usize,
    /// The maximum number of connections from one address. Further ones are closed.
    pub max_per_address: usize,
    /// The networks of proxies, to whose addresses that maximum does not apply.
    pub proxies: Vec<IpNet>,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// Plain text if there is none.
    pub tls: Option<Arc<ServerTls>>,
}

impl Limits {
    /// The limits of a listener that only probes and operators use.
    pub fn small(name: &'static str) -> Self {
        Self {
            name,
            max_connections: 128,
            max_per_address: 64,
            proxies: Vec::new(),
            header_timeout: Duration::from_secs(5),
            tls: None,
        }
    }
}

/// A client that has been answered may take this long until its next request: longer than the pools
/// of common clients and proxies keep a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The idle time that clients are given. It is shorter, so that they never use a closed connection.
const KEEP_ALIVE: HeaderValue = HeaderValue::from_static("timeout=70");
/// The maximum size of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves; then accepts nothing more, lets requests in flight finish
/// and returns.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let connections = GracefulShutdown::new();
    let mut acceptor = Acceptor::new(limits.name, listener);
    let slots = Slots::new(limits);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, peer, slot) = next(&mut acceptor, &slots) => {
                let connection = Connection {
                    router: router.clone(),
                    peer,
                    watch: Watch::new(slots.limits.header_timeout, IDLE_TIMEOUT),
                    watcher: connections.watcher(),
                    _slot: slot,
                };
                tokio::spawn(connection.serve(stream, slots.limits.tls.clone()));
            }
        }
    }
    drop(acceptor);
    connections.shutdown().await;
}

/// Waits for the next connection within the limits. May be dropped and called again.
async fn next(acceptor: &mut Acceptor, slots: &Slots) -> (TcpStream, SocketAddr, Slot) {
    loop {
        let permit = slots.permit().await;
        let (stream, peer) = acceptor.accept().await;
        if let Some(slot) = slots.admit(peer.ip(), permit) {
            return (stream, peer, slot);
        }
    }
}

/// A connection's place within the limits; free again when dropped.
struct Slot {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

/// The places of a listener's connections.
struct Slots {
    limits: Limits,
    permits: Arc<Semaphore>,
    addresses: Addresses,
    full: LogLimit,
    refused: LogLimit,
}

impl Slots {
    fn new(limits: Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.max_connections)),
            addresses: Addresses::new(limits.max_per_address),
            limits,
            full: LogLimit::new(LOG_INTERVAL),
            refused: LogLimit::new(LOG_INTERVAL),
        }
    }

    /// Waits until there may be another connection.
    async fn permit(&self) -> OwnedSemaphorePermit {
        let permits = self.permits.clone();
        if permits.available_permits() == 0
            && let Some(left_out) = self.full.admit()
        {
            tracing::warn!(
                listener = self.limits.name,
                max_connections = self.limits.max_connections,
                left_out,
                "new connections wait: the listener has as many as it may have"
            );
        }
        let permit = permits.acquire_owned().await;
        permit.expect("nobody closes this semaphore")
    }

    /// A place for a connection, unless its address has as many as it may have.
    fn admit(&self, peer: IpAddr, permit: OwnedSemaphorePermit) -> Option<Slot> {
        let peer = peer.to_canonical();
        if self.limits.proxies.iter().any(|it| it.contains(&peer)) {
            return Some(Slot {
                _permit: permit,
                _counted: None,
            });
        }
        let counted = self.addresses.count(peer);
        if counted.is_none()
            && let Some(left_out) = self.refused.admit()
        {
            tracing::warn!(
                listener = self.limits.name,
                %peer,
                max_per_address = self.limits.max_per_address,
                left_out,
                "a connection was closed: its address has as many as it may have"
            );
        }
        Some(Slot {
            _permit: permit,
            _counted: Some(counted?),
        })
    }
}

/// One connection.
struct Connection {
    router: Router,
    peer: SocketAddr,
    watch: Watch,
    watcher: Watcher,
    _slot: Slot,
}

impl Connection {
    /// Serves it to its end. A TLS handshake counts into the time of the first head.
    async fn serve(self, stream: TcpStream, tls: Option<Arc<ServerTls>>) {
        let Some(tls) = tls else {
            return self.serve_http(stream).await;
        };
        let peer = self.peer;
        match self.watch.run(tls.accept(stream)).await {
            Some(Ok((stream, _names))) => self.serve_http(stream).await,
            Some(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
            None => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    async fn serve_http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (peer, router, stage) = (self.peer, self.router, self.watch.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            stage.request();
            request.extensions_mut().insert(Peer(peer));
            let (mut router, stage) = (router.clone(), stage.clone());
            async move {
                let answer = router.call(request).await;
                let mut answer = answer.unwrap_or_else(|e| match e {});
                let name = const { HeaderName::from_static("keep-alive") };
                answer.headers_mut().insert(name, KEEP_ALIVE);
                stage.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        let stream = Watched {
            stream,
            watch: self.watch.clone(),
        };
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        match self.watch.run(self.watcher.watch(connection)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, %peer, "a connection ended early"),
            None => tracing::debug!(%peer, "a silent connection was closed"),
        }
    }
}
