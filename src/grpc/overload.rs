//! Refuses requests beyond a number served at once, instead of letting all of them become slow.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

use super::status;

/// Lets so many requests in at once. A stream counts until its first answer: what it costs later
/// is bounded by flow control.
#[derive(Clone)]
pub struct OverloadLayer(Arc<Semaphore>);

impl OverloadLayer {
    /// At most `max` requests at once.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))))
    }
}

impl<S> Layer<S> for OverloadLayer {
    type Service = Overload<S>;

    fn layer(&self, inner: S) -> Overload<S> {
        Overload {
            inner,
            room: self.0.clone(),
        }
    }
}

/// See [`OverloadLayer`].
#[derive(Clone)]
pub struct Overload<S> {
    inner: S,
    room: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for Overload<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let place = self.room.clone().try_acquire_owned();
        let response = place.is_ok().then(|| self.inner.call(request));
        Box::pin(async move {
            let _place = place;
            match response {
                Some(response) => response.await,
                None => Ok(status::overloaded().into_http()),
            }
        })
    }
}
