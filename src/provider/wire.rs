//! One HTTP/2 connection to a service, and how it is made.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::seq::SliceRandom;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt, service_fn};

use super::endpoint::{Endpoint, EndpointError};
use crate::tls::ClientTls;

/// Resolving the name, connecting to one of its addresses, and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Who does not answer a ping within this time is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Common gRPC servers take three pings of a connection that carries nothing, and close it at the
/// next: it must have been replaced by then.
const PINGS: u32 = 3;
/// So much of an answer may be under way; most are far smaller.
const WINDOW: u32 = 1 << 20;

/// Makes connections to one endpoint.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: BoxCloneSyncService<Uri, TokioIo<TcpStream>, BoxError>,
    tls: Option<Arc<ClientTls>>,
    uri: Uri,
    ping_interval: Duration,
}

/// What keeps a connection going; ends with it.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Connector {
    pub fn new(endpoint: &Endpoint, connection_age: Duration) -> Result<Self, EndpointError> {
        let mut tcp = HttpConnector::new_with_resolver(service_fn(resolve));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Split among the name's addresses, so that one that does not answer leaves time for others.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT * 3 / 4));
        Ok(Self {
            tcp: BoxCloneSyncService::new(tcp.map_err(BoxError::from)),
            tls: endpoint.tls()?.map(Arc::new),
            uri: endpoint.uri().clone(),
            ping_interval: connection_age / PINGS,
        })
    }

    /// Resolves the name anew and connects to one of its addresses, whichever comes up.
    pub async fn connect(&self) -> Result<(Wire, Driver), BoxError> {
        let made = timeout(CONNECT_TIMEOUT, async {
            let stream = self.stream().await?;
            let handshake = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(2 * WINDOW)
                .keep_alive_interval(self.ping_interval)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true)
                .handshake(stream)
                .await?;
            Ok::<_, BoxError>(handshake)
        });
        let (sender, connection) = made.await.map_err(|_| "connecting took too long")??;
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a provider broke");
            }
        };
        Ok((Wire { sender }, Box::pin(driver)))
    }

    /// Connects, with the present certificates where the endpoint has TLS.
    async fn stream(&self) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let (tcp, uri) = (self.tcp.clone(), self.uri.clone());
        let Some(tls) = self.tls.clone() else {
            return Ok(MaybeHttpsStream::Http(tcp.oneshot(uri).await?));
        };
        let mut connector = HttpsConnector::from((tcp, tls.config().await));
        connector.enforce_https();
        BoxCloneSyncService::new(connector).oneshot(uri).await
    }
}

/// All addresses of a name in an order of chance: connections are to be spread over a service's
/// instances, and the system sorts addresses the same way each time. `localhost` is this machine,
/// whatever the system says: a token may be sent there without TLS.
async fn resolve(name: Name) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    let mut addresses: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
    if name.as_str().eq_ignore_ascii_case("localhost") {
        addresses.retain(|address| address.ip().is_loopback());
    }
    addresses.shuffle(&mut rand::rng());
    Ok(addresses.into_iter())
}

/// Sends requests over a connection. Clones share it.
#[derive(Clone)]
pub(super) struct Wire {
    sender: SendRequest<Body>,
}

impl Wire {
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.sender.poll_ready(context).map_err(|_| broken())
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.sender.send_request(request);
        Box::pin(async move { answer.await.map_err(|_| broken()) })
    }
}

/// The same as a service says that is not there: another try may find one that is.
fn broken() -> Status {
    Status::unavailable("the connection broke")
}
