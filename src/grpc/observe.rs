//! Counts every gRPC request, by method and outcome.

use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tonic::body::Body;
use tower::{Layer, Service};

use super::rpc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    /// The gRPC status as a number; 0 is OK.
    code: i32,
}

/// Counts and times of gRPC requests.
#[derive(Clone)]
pub struct GrpcMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<MethodLabels, Histogram, fn() -> Histogram>,
}

impl GrpcMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(buckets),
        };
        registry.register(
            "grpc_requests",
            "gRPC requests that have ended, by method and status code",
            metrics.requests.clone(),
        );
        registry.register(
            "grpc_request_duration_seconds",
            "Time from a gRPC request to its status; for a stream, until it ended",
            metrics.duration.clone(),
        );
        metrics
    }
}

/// Watches requests to their end.
#[derive(Clone)]
pub struct ObserveLayer(pub GrpcMetrics);

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// See [`ObserveLayer`].
#[derive(Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: GrpcMetrics,
}

impl<S, B> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut watch = Watch {
            // Unknown methods are counted together.
            method: rpc::find(request.uri().path()).map_or("other", |rpc| rpc.path),
            started: Instant::now(),
            metrics: self.metrics.clone(),
            code: None,
        };
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            // An error stands in the headers, success in the trailers after the body.
            watch.see(response.headers());
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    if let Some(trailers) = frame.trailers_ref() {
                        watch.see(trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

/// A request under way; counts it when dropped.
struct Watch {
    method: &'static str,
    started: Instant,
    metrics: GrpcMetrics,
    code: Option<i32>,
}

impl Watch {
    fn see(&mut self, headers: &HeaderMap) {
        let status = headers
            .get("grpc-status")
            .and_then(|status| status.to_str().ok());
        self.code = status.and_then(|status| status.parse().ok()).or(self.code);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Without a status the caller has gone before the end.
        let code = self.code.unwrap_or(tonic::Code::Cancelled as i32);
        let took = self.started.elapsed();
        let method = self.method;
        tracing::debug!(method, code, ?took, "request ended");
        self.metrics
            .duration
            .get_or_create(&MethodLabels { method })
            .observe(took.as_secs_f64());
        self.metrics
            .requests
            .get_or_create(&RequestLabels { method, code })
            .inc();
    }
}
