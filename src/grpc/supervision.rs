//! What holds for each request of a client from its admission to its end: the client's bounds,
//! masking, revocation, and its line in the audit log.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::admission::Admitted;
use super::auth::{AuthError, peer};
use super::masking;
use super::quota::{Exceeded, StreamPermit};
use super::rpc::{Rpc, Shape};
use super::status;
use crate::audit::{self, Details, Sender};

/// Stands inside the admission, which finds out who calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct SupervisionLayer;

impl<S> Layer<S> for SupervisionLayer {
    type Service = Supervision<S>;

    fn layer(&self, inner: S) -> Supervision<S> {
        Supervision { inner }
    }
}

/// See [`SupervisionLayer`].
#[derive(Clone, Debug)]
pub struct Supervision<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Supervision<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let (Some(admitted), Some(rpc)) = (
            extensions.get::<Admitted>().cloned(),
            extensions.get::<&'static Rpc>().copied(),
        ) else {
            // Health and reflection, which belong to no client.
            return Box::pin(self.inner.call(request));
        };
        let details = Details::default();
        if let Ok(account) = admitted.account() {
            details.account(account);
        }
        let mut entry = rpc.is_audited().then(|| {
            let sender = Sender {
                client: admitted.caller.name().to_owned(),
                auth: admitted.caller.method().name(),
                peer: peer(request.extensions()),
            };
            audit::Entry::new(sender, rpc.path, details.clone())
        });
        let permit = match bounds(&admitted, rpc) {
            Ok(permit) => permit,
            Err(exceeded) => {
                let status = Status::from(exceeded);
                if let Some(entry) = &mut entry {
                    entry.ended(&status);
                }
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        request.extensions_mut().insert(details);
        let is_masked = admitted.caller.is_masked();
        if is_masked {
            masking::prepare(&mut request);
        }
        let revoked = admitted.caller.revoked().clone().cancelled_owned();
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let response = supervise(response, entry, permit, revoked);
            Ok(if is_masked {
                masking::mask(rpc.path, response)
            } else {
                response
            })
        })
    }
}

/// Counts a request against its client's bounds.
fn bounds(admitted: &Admitted, rpc: &Rpc) -> Result<Option<StreamPermit>, Exceeded> {
    let (bounds, usage) = (admitted.caller.bounds(), admitted.caller.usage());
    usage.request(bounds.max_requests_per_second, Instant::now())?;
    if rpc.shape == Shape::Unary {
        return Ok(None);
    }
    usage.stream(bounds.max_streams).map(Some)
}

fn supervise(
    response: Response<Body>,
    mut entry: Option<audit::Entry>,
    permit: Option<StreamPermit>,
    revoked: WaitForCancellationFutureOwned,
) -> Response<Body> {
    // An error stands in the headers, success in the trailers after the body.
    if let Some(entry) = &mut entry {
        entry.see(response.headers());
    }
    response.map(|body| {
        Body::new(SupervisedBody {
            body,
            entry,
            _permit: permit,
            revoked: Box::pin(revoked),
            is_ended: false,
        })
    })
}

/// The body of an answer to a client.
struct SupervisedBody {
    body: Body,
    entry: Option<audit::Entry>,
    _permit: Option<StreamPermit>,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    is_ended: bool,
}

impl SupervisedBody {
    /// Ends the stream of a client whose credentials or rights have changed.
    fn revoke(&mut self) -> Frame<Bytes> {
        self.is_ended = true;
        self.body = Body::empty();
        let status = Status::from(AuthError::Revoked);
        if let Some(entry) = &mut self.entry {
            entry.ended(&status);
        }
        Frame::trailers(status::trailers(&status))
    }
}

impl http_body::Body for SupervisedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if self.revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Ok(self.revoke())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let trailers = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        if let (Some(trailers), Some(entry)) = (trailers, &mut self.entry) {
            entry.see(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.body.is_end_stream()
    }
}
