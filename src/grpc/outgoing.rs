//! The bodies of responses on their way to a client, and the end of those that it does not take.
//!
//! hyper asks a body for its next frame when the client has room for it. A frame that was given
//! and no question since then means that the client takes nothing.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::status;

/// The maximum size of one frame: no more of an answer waits inside of the HTTP/2 connection than
/// this and its send buffer.
const MAX_FRAME: usize = 64 << 10;

/// Where a client can go on whose stream is ended; an extension of its response.
#[derive(Clone)]
pub(super) struct ResumeAt {
    /// The position of the last event that the stream has given.
    pub position: Arc<AtomicU64>,
    /// The cursor of a position.
    pub cursor: Arc<dyn Fn(u64) -> String + Send + Sync>,
}

/// The requests and responses of one connection.
#[derive(Default)]
pub(super) struct Traffic {
    /// Requests whose response is not yet at its end.
    requests: AtomicUsize,
    /// Those among them that came with the credentials of a client.
    admitted: AtomicUsize,
    bodies: Mutex<Bodies>,
}

#[derive(Default)]
struct Bodies {
    next: u64,
    open: HashMap<u64, Arc<Mutex<State>>>,
}

/// What a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its client takes what it asked for.
    Keep,
    /// The end of a response has not been taken either: no further request is welcome.
    Retire,
    /// Nothing is left but responses that are not taken.
    Close,
}

impl Traffic {
    /// Counts a request until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, is_admitted: bool) -> OpenRequest {
        self.requests.fetch_add(1, Relaxed);
        self.admitted.fetch_add(usize::from(is_admitted), Relaxed);
        OpenRequest {
            of: self.clone(),
            is_admitted,
        }
    }

    /// Whether a client's request is still open.
    pub(super) fn has_admitted(&self) -> bool {
        self.admitted.load(Relaxed) > 0
    }

    /// Ends the responses of which the client has taken nothing for `patience`.
    pub(super) fn sweep(&self, now: Instant, patience: Duration) -> Verdict {
        let open: Vec<_> = self.bodies().open.values().cloned().collect();
        let mut refused = 0;
        for state in &open {
            let mut state = match state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // It is being asked for a frame.
                Err(TryLockError::WouldBlock) => continue,
            };
            let idle = match state.waits {
                Waits::ForClient { since } => now.saturating_duration_since(since),
                Waits::ForGateway => continue,
            };
            if idle >= patience {
                state.refuse(patience);
            }
            refused += usize::from(idle >= patience * 2);
        }
        if refused == 0 {
            Verdict::Keep
        } else if refused == self.requests.load(Relaxed) {
            Verdict::Close
        } else {
            Verdict::Retire
        }
    }

    /// Ends every response with a status, which is given the cursor where its client can go on.
    pub(super) fn end_all(&self, status: fn(Option<&str>) -> Status) {
        let open: Vec<_> = self.bodies().open.values().cloned().collect();
        for state in open {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let given = state.given();
            state.end(given, status);
        }
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose response is not yet at its end.
pub(super) struct OpenRequest {
    of: Arc<Traffic>,
    is_admitted: bool,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let is_admitted = usize::from(self.is_admitted);
        self.of.admitted.fetch_sub(is_admitted, Relaxed);
        self.of.requests.fetch_sub(1, Relaxed);
    }
}

/// What a response holds until it has been taken: its place among requests, and the like.
pub(super) type Held = Box<dyn Send>;

/// Whom a response waits for.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// The client: it has not asked for more since then.
    ForClient { since: Instant },
    /// The gateway, for its next frame.
    ForGateway,
}

struct State {
    /// `None` once it has ended.
    body: Option<Body>,
    /// The rest of a large frame.
    rest: Bytes,
    waits: Waits,
    /// Wakes the task that waits for the next frame.
    waker: Option<Waker>,
    /// The last word to the client, in place of the response's own.
    end: Option<HeaderMap>,
    resume_at: Option<ResumeAt>,
    /// The position before the frame of which `rest` is a part.
    taken: u64,
    held: Option<Held>,
}

impl State {
    /// Ends a response of which the client takes nothing. The client finds the reason once it takes
    /// what is on its way.
    fn refuse(&mut self, patience: Duration) {
        if self.body.is_none() {
            return;
        }
        let is_whole = std::mem::take(&mut self.rest).is_empty();
        // A frame of which a part is dropped is not taken: its events come again.
        let position = if is_whole { self.given() } else { self.taken };
        self.end(position, |cursor| status::slow_consumer(patience, cursor));
    }

    /// Frees what the response holds, and ends it with a status behind `position`.
    fn end(&mut self, position: u64, status: impl FnOnce(Option<&str>) -> Status) {
        if self.body.take().is_none() {
            return;
        }
        self.held = None;
        let resume_at = self.resume_at.take();
        let cursor = resume_at.map(|resume_at| (resume_at.cursor)(position));
        self.end = Some(status::trailers(&status(cursor.as_deref())));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The position of the last event that the client is given with the frames so far.
    fn given(&self) -> u64 {
        let resume_at = self.resume_at.as_ref();
        resume_at.map_or(0, |resume_at| resume_at.position.load(Relaxed))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            let piece = self.rest.split_to(MAX_FRAME.min(self.rest.len()));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = self.end.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Some(resume_at) = &self.resume_at {
            self.taken = resume_at.position.load(Relaxed);
        }
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(mut data) if data.len() > MAX_FRAME => {
                    self.rest = data.split_off(MAX_FRAME);
                    Frame::data(data)
                }
                Ok(data) => Frame::data(data),
                Err(frame) => frame,
            })),
            other => other,
        })
    }
}

/// The body of a response of a connection.
pub(super) struct Outgoing {
    state: Arc<Mutex<State>>,
    traffic: Arc<Traffic>,
    id: u64,
    _request: OpenRequest,
}

impl Outgoing {
    /// A body that gives back what is `held` once it is taken, and ends if it is not.
    pub(super) fn new(
        body: Body,
        request: OpenRequest,
        resume_at: Option<ResumeAt>,
        held: Held,
    ) -> Self {
        let traffic = request.of.clone();
        let state = Arc::new(Mutex::new(State {
            body: Some(body),
            rest: Bytes::new(),
            waits: Waits::ForClient {
                since: Instant::now(),
            },
            waker: None,
            end: None,
            resume_at,
            taken: 0,
            held: Some(held),
        }));
        let mut bodies = traffic.bodies();
        let id = bodies.next;
        bodies.next += 1;
        bodies.open.insert(id, state.clone());
        drop(bodies);
        Self {
            state,
            traffic,
            id,
            _request: request,
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waits = Waits::ForGateway;
        let Poll::Ready(frame) = state.poll_frame(cx) else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        state.waits = Waits::ForClient {
            since: Instant::now(),
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = state.rest.is_empty() && state.end.is_none();
        is_taken && state.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.traffic.bodies().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A body with a frame for each size, which moves the position on by one each time.
    fn outgoing(sizes: Vec<usize>) -> (Arc<Traffic>, Outgoing, Arc<()>) {
        let position = Arc::new(AtomicU64::new(10));
        let resume_at = ResumeAt {
            position: position.clone(),
            cursor: Arc::new(|position| format!("at-{position}")),
        };
        let frames = sizes.into_iter().map(move |size| {
            position.fetch_add(1, Relaxed);
            Ok::<_, Status>(Frame::data(Bytes::from(vec![0; size])))
        });
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let (traffic, held) = (Arc::new(Traffic::default()), Arc::new(()));
        let request = traffic.begin(true);
        let outgoing = Outgoing::new(
            Body::new(body),
            request,
            Some(resume_at),
            Box::new(held.clone()),
        );
        (traffic, outgoing, held)
    }

    /// Takes a frame: its size, or the cursor in the last word.
    fn take(body: &mut Outgoing) -> Result<usize, String> {
        let frame = body
            .frame()
            .now_or_never()
            .expect("a frame")
            .unwrap()
            .unwrap();
        frame.into_data().map(|data| data.len()).map_err(|frame| {
            use tonic_types::StatusExt;
            let trailers = frame.into_trailers().unwrap();
            let status = Status::from_header_map(&trailers).unwrap();
            let details = status.get_error_details();
            details.error_info().unwrap().metadata["cursor"].clone()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_taken_is_ended_behind_what_was_taken_whole() {
        for (sizes, taken, cursor) in [
            (&[1, 1, 1][..], &[][..], "at-10"),
            (&[1, 1, 1], &[1, 1], "at-12"),
            (&[1, MAX_FRAME + 5, 1], &[1, MAX_FRAME, 5], "at-12"),
            // The rest of the second frame is dropped.
            (&[1, MAX_FRAME + 5, 1], &[1, MAX_FRAME], "at-11"),
        ] {
            let (traffic, mut body, held) = outgoing(sizes.to_vec());
            for size in taken {
                assert_eq!(take(&mut body), Ok(*size));
            }
            let now = Instant::now();
            let almost = now + PATIENCE - Duration::from_millis(1);
            assert_eq!(traffic.sweep(almost, PATIENCE), Verdict::Keep);
            assert_eq!(Arc::strong_count(&held), 2);
            assert_eq!(traffic.sweep(now + PATIENCE, PATIENCE), Verdict::Keep);
            assert_eq!(Arc::strong_count(&held), 1);
            assert_eq!(take(&mut body), Err(cursor.to_owned()));
            assert!(body.frame().now_or_never().expect("the end").is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_nothing_but_responses_that_are_not_taken_is_closed() {
        let (traffic, body, _held) = outgoing(vec![1]);
        let other = traffic.begin(true);
        let late = Instant::now() + PATIENCE * 2;
        assert_eq!(traffic.sweep(late, PATIENCE), Verdict::Retire);
        assert!(traffic.has_admitted());
        drop(other);
        assert_eq!(traffic.sweep(late, PATIENCE), Verdict::Close);
        drop(body);
        assert_eq!(traffic.sweep(late, PATIENCE), Verdict::Keep);
        assert!(!traffic.has_admitted());
    }

    /// A body that never has a frame.
    fn silent(traffic: &Arc<Traffic>) -> Outgoing {
        let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Status>,
        >());
        let request = traffic.begin(true);
        Outgoing::new(Body::new(silent), request, None, Box::new(()))
    }

    #[tokio::test]
    async fn all_responses_are_ended_behind_what_was_given_and_those_that_wait_are_woken() {
        let (traffic, mut body, held) = outgoing(vec![1, MAX_FRAME + 5, 1]);
        assert_eq!([take(&mut body), take(&mut body)], [Ok(1), Ok(MAX_FRAME)]);
        let mut waiting = silent(&traffic);
        let waiting = tokio::spawn(async move { waiting.frame().await });
        tokio::task::yield_now().await;
        traffic.end_all(status::connection_aged);
        assert_eq!(Arc::strong_count(&held), 1);
        // The rest of the frame still comes, so that no message is torn.
        assert_eq!(take(&mut body), Ok(5));
        assert_eq!(take(&mut body), Err("at-12".to_owned()));
        let frame = waiting.await.unwrap().unwrap().unwrap();
        let status = Status::from_header_map(frame.trailers_ref().unwrap()).unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_waits_for_the_gateway_is_never_ended() {
        let traffic = Arc::new(Traffic::default());
        let mut body = silent(&traffic);
        assert!(body.frame().now_or_never().is_none());
        let late = Instant::now() + PATIENCE * 9;
        assert_eq!(traffic.sweep(late, PATIENCE), Verdict::Keep);
        assert!(body.frame().now_or_never().is_none());
    }
}
