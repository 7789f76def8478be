//! Refuses requests beyond what is served at once, instead of letting all of them become slow.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::admission::Admitted;
use super::connection::Connection;
use super::outgoing::{Held, Outgoing, ResumeAt};
use super::rpc::{Access, Pool, Rpc, Shape};
use super::shares::{Share, Shares};
use super::status;
use super::turns::Turns;

/// The maximum number of health checks at once.
const HEALTH: usize = 64;
/// The maximum number of streams that watch health.
const HEALTH_WATCHES: usize = 1024;
/// The maximum number of streams of server reflection.
const REFLECTION: usize = 16;
/// The maximum number of pages at once, from the request until the client has taken the answer.
pub const PAGES: usize = 32;

/// The bounds of requests.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum number of requests at once.
    pub requests: usize,
    /// The maximum number of open streams.
    pub streams: usize,
    /// The maximum number of open streams of one client; 0: half of all where there are several.
    pub streams_per_client: usize,
    /// The number of configured clients.
    pub clients: usize,
}

/// What requests take their permits from.
struct Pools {
    requests: Arc<Shares>,
    streams: Arc<Shares>,
    pages: Turns,
    health: Arc<Semaphore>,
    health_watches: Arc<Semaphore>,
    reflection: Arc<Semaphore>,
}

/// What one request holds.
struct Permits {
    request: Option<Share>,
    /// Held until the response has been taken.
    rest: Vec<Held>,
}

impl Pools {
    fn new(bounds: Bounds) -> Self {
        let Bounds {
            requests,
            streams,
            streams_per_client,
            clients,
        } = bounds;
        Self {
            requests: Shares::halves(requests, clients),
            streams: match streams_per_client {
                0 => Shares::halves(streams, clients),
                each => Shares::new(streams, each),
            },
            pages: Turns::new(
                "pages",
                PAGES,
                if clients > 1 {
                    PAGES.div_ceil(2)
                } else {
                    PAGES
                },
            ),
            health: Arc::new(Semaphore::new(HEALTH)),
            health_watches: Arc::new(Semaphore::new(HEALTH_WATCHES)),
            reflection: Arc::new(Semaphore::new(REFLECTION)),
        }
    }

    /// The permits of a request that need no waiting.
    fn take(&self, rpc: &Rpc, admitted: Option<&Admitted>) -> Result<Permits, Status> {
        let Some(Admitted { caller, .. }) = admitted else {
            let pool = match rpc.access {
                Access::Public(Pool::Health) => &self.health,
                Access::Public(Pool::HealthWatch) => &self.health_watches,
                Access::Public(Pool::Reflection) => &self.reflection,
                Access::Any(_) => return Err(Status::internal("the request was not admitted")),
            };
            let public = pool.clone().try_acquire_owned();
            let public = public.map_err(|_| status::overloaded("requests"))?;
            return Ok(Permits {
                request: None,
                rest: vec![Box::new(public)],
            });
        };
        let request = self.requests.take(caller, 1);
        let request = request.ok_or_else(|| status::overloaded("requests"))?;
        let mut permits = Permits {
            request: Some(request),
            rest: Vec::new(),
        };
        if rpc.shape != Shape::Unary {
            let stream = self.streams.take(caller, 1);
            let stream = stream.ok_or_else(|| status::overloaded("streams"))?;
            permits.rest.push(Box::new(stream));
        }
        Ok(permits)
    }
}

/// Gives each request its permits.
///
/// A unary request holds them until its client has taken the answer. A stream holds the permit of
/// a request until its first answer, and that of a stream until its end.
#[derive(Clone)]
pub struct OverloadLayer(Arc<Pools>);

impl OverloadLayer {
    /// Serves no more than these bounds allow.
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Pools::new(bounds)))
    }
}

impl<S> Layer<S> for OverloadLayer {
    type Service = Overload<S>;

    fn layer(&self, inner: S) -> Overload<S> {
        Overload {
            inner,
            pools: self.0.clone(),
        }
    }
}

/// See [`OverloadLayer`].
#[derive(Clone)]
pub struct Overload<S> {
    inner: S,
    pools: Arc<Pools>,
}

impl<S> Service<Request<Body>> for Overload<S>
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
        let extensions = request.extensions();
        let Some(rpc) = extensions.get::<&'static Rpc>().copied() else {
            return Box::pin(async { Ok(Status::internal("no such RPC").into_http()) });
        };
        let admitted = extensions.get::<Admitted>().cloned();
        let mut permits = match self.pools.take(rpc, admitted.as_ref()) {
            Ok(permits) => permits,
            Err(status) => return Box::pin(async { Ok(status.into_http()) }),
        };
        let connection = extensions.get::<Arc<Connection>>();
        let open = connection.map(|it| it.traffic.begin(admitted.is_some()));
        let pools = self.pools.clone();
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            if let Some(admitted) = admitted.filter(|_| rpc.is_page) {
                match pools.pages.take(&admitted.caller).await {
                    Ok(page) => permits.rest.push(Box::new(page)),
                    Err(status) => return Ok(status.into_http()),
                }
            }
            let response = inner.call(request).await?;
            if rpc.shape != Shape::Unary {
                permits.request = None;
            }
            let is_end = http_body::Body::is_end_stream(response.body());
            let Some(open) = open.filter(|_| !is_end) else {
                return Ok(response);
            };
            let (mut head, body) = response.into_parts();
            let resume_at = head.extensions.remove::<ResumeAt>();
            let body = Outgoing::new(body, open, resume_at, Box::new(permits));
            Ok(Response::from_parts(head, Body::new(body)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::auth::Caller;
    use crate::grpc::rpc::find;

    const GET_CALL: &str = "/yeta.v1.CallService/GetCall";
    const WATCH_CALLS: &str = "/yeta.v1.CallService/WatchCalls";

    fn admitted(name: &str) -> Admitted {
        Admitted::nobody(Caller::nobody(name))
    }

    fn pools() -> Pools {
        Pools::new(Bounds {
            requests: 4,
            streams: 4,
            streams_per_client: 1,
            clients: 2,
        })
    }

    #[test]
    fn a_client_has_half_of_the_requests_at_most() {
        let (pools, rpc) = (pools(), find(GET_CALL).unwrap());
        let (crm, bi) = (admitted("crm"), admitted("bi"));
        let held = [(); 2].map(|()| pools.take(rpc, Some(&crm)).unwrap());
        assert!(pools.take(rpc, Some(&crm)).is_err());
        let others = [(); 2].map(|()| pools.take(rpc, Some(&bi)).unwrap());
        drop(held);
        assert!(pools.take(rpc, Some(&crm)).is_ok());
        drop(others);
    }

    #[test]
    fn a_client_has_its_number_of_streams_and_still_its_requests() {
        let (pools, rpc) = (pools(), find(WATCH_CALLS).unwrap());
        let crm = admitted("crm");
        let stream = pools.take(rpc, Some(&crm)).unwrap();
        assert!(pools.take(rpc, Some(&crm)).is_err());
        assert!(pools.take(find(GET_CALL).unwrap(), Some(&crm)).is_ok());
        drop(stream);
        assert!(pools.take(rpc, Some(&crm)).is_ok());
    }

    #[test]
    fn health_and_reflection_have_pools_of_their_own() {
        let pools = pools();
        let standard = |path| pools.take(find(path).unwrap(), None);
        for (path, max) in [
            ("/grpc.health.v1.Health/Check", HEALTH),
            ("/grpc.health.v1.Health/Watch", HEALTH_WATCHES),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                REFLECTION,
            ),
        ] {
            let held: Vec<_> = (0..max).map(|_| standard(path).ok().unwrap()).collect();
            assert!(standard(path).is_err(), "{path}");
            drop(held);
            assert!(standard(path).is_ok(), "{path}");
        }
        assert!(standard(GET_CALL).is_err());
    }
}
