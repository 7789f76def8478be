//! Serves an axum router on a listener that is already bound, within bounds on its connections.

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
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service as _;

use self::addresses::{Addresses, Counted};
use self::stage::{Watch, Watched};
use crate::log_limit::LogLimit;

/// The address at the other end of the connection; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Bounds of a listener.
#[derive(Clone, Debug)]
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
        }
    }
}

/// A client that has been answered may take this long until its next request: longer than the pools
/// of common clients and proxies keep a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// What clients are told of it. A client that goes by it never meets a closed connection.
const KEEP_ALIVE: HeaderValue = HeaderValue::from_static("timeout=70");
/// The maximum size of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// When no connection can be accepted, for want of file descriptors, others need time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The kernel asks a silent peer this often whether it is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
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
    let mut acceptor = Acceptor::new(listener, limits);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, peer, slot) = acceptor.next() => {
                let watch = Watch::new(acceptor.limits.header_timeout, IDLE_TIMEOUT);
                serve_connection(stream, peer, slot, watch, &router, &connections);
            }
        }
    }
    drop(acceptor);
    connections.shutdown().await;
}

/// A connection's place within the limits; free again when dropped.
struct Slot {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

/// Accepts connections within the limits.
struct Acceptor {
    listener: TcpListener,
    limits: Limits,
    slots: Arc<Semaphore>,
    addresses: Addresses,
    full: LogLimit,
    refused: LogLimit,
    failed: LogLimit,
}

impl Acceptor {
    fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(limits.max_connections)),
            addresses: Addresses::new(limits.max_per_address),
            listener,
            limits,
            full: LogLimit::new(LOG_INTERVAL),
            refused: LogLimit::new(LOG_INTERVAL),
            failed: LogLimit::new(LOG_INTERVAL),
        }
    }

    /// Waits for the next connection. May be dropped and called again.
    async fn next(&mut self) -> (TcpStream, Peer, Slot) {
        let listener = self.limits.name;
        loop {
            let permit = self.slot().await;
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(slot) = self.admit(peer.ip(), permit) {
                        return (stream, Peer(peer), slot);
                    }
                }
                Err(error) => {
                    if let Some(left_out) = self.failed.admit() {
                        tracing::warn!(listener, %error, left_out, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        let slots = self.slots.clone();
        if slots.available_permits() == 0
            && let Some(left_out) = self.full.admit()
        {
            tracing::warn!(
                listener = self.limits.name,
                max_connections = self.limits.max_connections,
                left_out,
                "new connections wait: the listener has as many as it may have"
            );
        }
        let permit = slots.acquire_owned().await;
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

fn serve_connection(
    stream: TcpStream,
    peer: Peer,
    slot: Slot,
    watch: Watch,
    router: &Router,
    all: &GracefulShutdown,
) {
    // Without it a small answer may wait for the peer's delayed acknowledgement. A socket that
    // does not take an option still works.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let (router, stage) = (router.clone(), watch.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        stage.request();
        request.extensions_mut().insert(peer);
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
        watch: watch.clone(),
    };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let connection = all.watch(connection);
    tokio::spawn(async move {
        let _slot = slot;
        match watch.run(connection).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, peer = %peer.0, "a connection ended early");
            }
            None => tracing::debug!(peer = %peer.0, "a silent connection was closed"),
        }
    });
}
