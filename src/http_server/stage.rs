//! What a connection waits for, and for how long.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// The stage of one connection, shared by its stream and its service.
#[derive(Clone, Debug)]
pub struct Watch {
    header_timeout: Duration,
    idle_timeout: Duration,
    stage: Arc<Mutex<Stage>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The client is to send the rest of a request's head. A new connection begins so.
    Head { since: Instant },
    /// The client has a request in flight, whose own time limits apply.
    Request,
    /// The client has been answered, and may send another request.
    Idle { since: Instant },
}

impl Watch {
    /// The watch of a connection that has just been made.
    pub fn new(header_timeout: Duration, idle_timeout: Duration) -> Self {
        Self {
            header_timeout,
            idle_timeout,
            stage: Arc::new(Mutex::new(Stage::Head {
                since: Instant::now(),
            })),
        }
    }

    /// A request's head has arrived.
    pub fn request(&self) {
        self.change(|_| Stage::Request);
    }

    /// The request has been answered.
    pub fn answered(&self) {
        self.change(|_| Stage::Idle {
            since: Instant::now(),
        });
    }

    /// Some bytes have arrived.
    fn read(&self) {
        self.change(|stage| match stage {
            Stage::Idle { .. } => Stage::Head {
                since: Instant::now(),
            },
            other => other,
        });
    }

    fn change(&self, change: impl FnOnce(Stage) -> Stage) {
        // A panic elsewhere leaves no stage half changed.
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = change(*stage);
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Head { since } => Some(since + self.header_timeout),
            Stage::Request => None,
            Stage::Idle { since } => Some(since + self.idle_timeout),
        }
    }

    /// Runs a connection; `None` if its client was silent for too long.
    pub async fn run<F: Future>(&self, connection: F) -> Option<F::Output> {
        let mut connection = std::pin::pin!(connection);
        let mut sleep = std::pin::pin!(sleep_until(Instant::now()));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            let Some(deadline) = self.deadline() else {
                return Poll::Pending;
            };
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            Poll::Ready(None)
        })
        .await
    }
}

/// A stream whose reads move its connection's stage on.
pub struct Watched<S> {
    pub stream: S,
    pub watch: Watch,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watch.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_timeout_a_request_none_and_an_idle_connection_a_longer_one() {
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let watch = Watch::new(Duration::from_secs(5), Duration::from_secs(75));
        assert_eq!(watch.deadline(), at(5));
        pass(1).await;
        watch.read();
        assert_eq!(watch.deadline(), at(5), "counted from the connection on");
        watch.request();
        watch.read();
        assert_eq!(watch.deadline(), None);
        watch.answered();
        assert_eq!(watch.deadline(), at(76));
        pass(1).await;
        watch.read();
        assert_eq!(watch.deadline(), at(7), "counted from the first byte on");
        pass(1).await;
        watch.read();
        assert_eq!(watch.deadline(), at(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_stage_takes_too_long() {
        let watch = Watch::new(Duration::from_secs(5), Duration::from_secs(75));
        let start = Instant::now();
        let silent = watch.run(std::future::pending::<()>()).await;
        assert_eq!(silent, None);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        let busy = async {
            watch.request();
            tokio::time::sleep(Duration::from_secs(600)).await;
        };
        assert_eq!(watch.run(busy).await, Some(()));
    }
}
