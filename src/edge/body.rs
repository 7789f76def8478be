//! Reads a request's body within its bounds.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::buffer::Room;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is larger than allowed.
    TooLarge,
    /// It ended early, or no byte came for [`MAX_SILENCE`].
    Incomplete,
}

/// A body of which no byte comes for this long is given up.
const MAX_SILENCE: Duration = Duration::from_millis(1500);
/// At most this much of a body that is too large is read and thrown away.
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// Reads a body of at most `max` bytes. Room is taken for the bytes that have arrived.
pub async fn read(body: &mut Body, max: usize, room: &mut Room) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    loop {
        let frame = match timeout(MAX_SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(_))) | Err(_) => return Err(BodyError::Incomplete),
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let len = whole.len() + data.len();
        if len > max {
            return Err(BodyError::TooLarge);
        }
        room.grow_to(len).await;
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
}

/// Reads the rest of a body until `deadline` and keeps nothing of it. An answer given before the
/// sender is done would break its connection, and the sender would not learn what is wrong.
pub async fn discard(mut body: Body, deadline: Instant) {
    let rest = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > MAX_DISCARDED_BYTES {
                return;
            }
        }
    };
    // The connection of a sender that has not come to an end by then is closed.
    let _ = timeout_at(deadline, rest).await;
}
