//! The HTTP server on the level of connections, which faults can break.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::ServiceExt;

use super::world::World;

/// Breaks the connection that a request came by. Every request carries one.
#[derive(Clone, Default)]
pub(super) struct Cut {
    reset: Arc<Notify>,
    close: Arc<Notify>,
}

impl Cut {
    /// Resets the connection; the caller gets no answer, and never goes on.
    pub async fn reset(&self) -> Response {
        self.reset.notify_one();
        pending().await
    }

    /// Closes the connection after what has been written.
    pub fn close(&self) {
        self.close.notify_one();
    }
}

/// Accepts connections until `shutdown`, then ends all work.
pub(super) async fn run(
    world: Arc<World>,
    router: Router,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    tokio::pin!(shutdown);
    let _guard = world.stop_on_drop();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => world.spawn(connection(stream, router.clone())),
                Err(error) => {
                    // Out of descriptors, mostly: it passes when some are closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    world.stop().await;
}

async fn connection(stream: TcpStream, router: Router) {
    // Only latency is lost where it cannot be set.
    let _ = stream.set_nodelay(true);
    let cut = Cut::default();
    let of_requests = cut.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(of_requests.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    let mut connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A connection that the client broke is the client's business.
        _ = &mut connection => return,
        () = cut.close.notified() => return,
        () = cut.reset.notified() => {}
    }
    let stream = connection.into_parts().io.into_inner();
    // Without linger the close is a reset. Where it cannot be set, the plain
    // close that follows breaks the exchange as well.
    let _ = stream.set_zero_linger();
}
