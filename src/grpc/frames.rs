//! The stream of a subscriber, message by message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Response, Status};

use super::outgoing::ResumeAt;
use super::status;
use crate::proto::{EncodedDelivery, EncodedEvent, SubscribeProgress, SubscribePushesResponse};
use crate::push::{Cursor, Position};
use crate::relay::{RelayError, Source, Step};
use crate::store::subscriptions::Delivery;
use crate::store::{Entry, PushLog};

pub(super) type Frame = SubscribePushesResponse;
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// The response with what a source gives; ends with word of how far it came when the gateway
/// drains.
pub(super) fn response<S: Source>(
    source: S,
    log: Arc<dyn PushLog>,
    position: impl Fn(&S::Event) -> Position + Copy + Send + 'static,
    frame: impl Fn(&S::Event) -> Frame + Copy + Send + 'static,
) -> Response<Frames> {
    let given = Arc::new(AtomicU64::new(source.cursor().position.0));
    let cursors = log.clone();
    let resume_at = ResumeAt {
        position: given.clone(),
        cursor: Arc::new(move |at| cursors.cursor(Position(at)).to_string()),
    };
    let mut response = Response::new(frames(source, log, move |event| {
        given.store(position(event).0, Relaxed);
        frame(event)
    }));
    response.extensions_mut().insert(resume_at);
    response
}

fn frames<S: Source>(
    source: S,
    log: Arc<dyn PushLog>,
    frame: impl Fn(&S::Event) -> Frame + Clone + Send + 'static,
) -> Frames {
    let steps = stream::unfold(Some(source), |source| async {
        let mut source = source?;
        match source.next().await {
            Ok(step) => Some((Ok(step), Some(source))),
            Err(error) => Some((Err((error, source.cursor())), None)),
        }
    });
    let frames = steps.flat_map(move |step| {
        let (events, word, end) = match step {
            Ok(Step::Events(events)) => (events, None, None),
            Ok(Step::Progress { cursor, caught_up }) => {
                (Vec::new(), Some(progress(&cursor, caught_up)), None)
            }
            Err((error, cursor)) => {
                let is_drain = matches!(error, RelayError::Draining);
                if !is_drain {
                    tracing::warn!(%error, "a subscriber's stream has been ended");
                }
                let word = is_drain.then(|| progress(&cursor, false));
                let status = status::of_relay(&error, |position| log.cursor(position));
                (Vec::new(), word, Some(status))
            }
        };
        // Most polls come no further than here: the next event of a handful.
        let frame = frame.clone();
        let events = events.into_iter().map(move |event| frame(&event));
        stream::iter(events.chain(word).map(Ok).chain(end.map(Err)))
    });
    Box::pin(frames)
}

/// An entry as an independent reader gets it.
pub(super) fn of_entry(entry: &Entry, include_raw: bool) -> Frame {
    Frame::Encoded(EncodedEvent {
        event: entry.event.clone(),
        raw_json: include_raw.then(|| entry.raw.clone()),
        delivery: None,
    })
}

/// A delivery as a member gets it.
pub(super) fn of_delivery(delivery: &Delivery, include_raw: bool) -> Frame {
    let Delivery {
        entry,
        ack_id,
        attempt,
    } = delivery;
    Frame::Encoded(EncodedEvent {
        event: entry.event.clone(),
        raw_json: include_raw.then(|| entry.raw.clone()),
        delivery: Some(EncodedDelivery {
            ack_id: ack_id.clone(),
            attempt: *attempt,
        }),
    })
}

fn progress(cursor: &Cursor, caught_up: bool) -> Frame {
    Frame::Progress(SubscribeProgress {
        cursor: cursor.to_string(),
        caught_up,
    })
}
