//! Masks the answers to clients with `mask_phones`, message by message, errors included.
//!
//! Every answer of such a client passes here, whatever service it is of. An answer that cannot be
//! masked is not sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};

use super::status;
use crate::mask::{self, MaskError, Masker};

/// The length of what stands before each message: a flag and the message's length.
const PREFIX: usize = 5;
/// The largest message that is masked; a page of events is far smaller.
const MAX_MESSAGE: usize = 64 << 20;

/// Why a body was ended.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the RPC is not known")]
    UnknownRpc,
    #[error("a message is compressed")]
    Compressed,
    #[error("a message has {0} bytes, more than {MAX_MESSAGE}")]
    TooLarge(usize),
    #[error("the body ends within a message")]
    CutOff,
    #[error(transparent)]
    Message(#[from] MaskError),
}

/// Asks the services for answers that can be masked: uncompressed ones.
pub(super) fn prepare<B>(request: &mut Request<B>) {
    request.headers_mut().remove("grpc-accept-encoding");
}

/// Masks an answer of the RPC with this path.
pub(super) fn mask(path: &str, response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    mask_status(&mut parts.headers);
    let body = MaskedBody {
        body,
        masker: Masker::of_rpc(path),
        received: BytesMut::new(),
        is_ended: false,
    };
    Response::from_parts(parts, Body::new(body))
}

/// Masks the error in headers or trailers, if there is one.
fn mask_status(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if status.code() == Code::Ok && status.message().is_empty() {
        return;
    }
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    if let Err(status) = mask::status(&status).add_header(headers) {
        tracing::error!(%status, "an error could not be written after masking");
        headers.insert("grpc-status", http::HeaderValue::from_static("13"));
    }
}

/// A body whose messages are masked.
struct MaskedBody {
    body: Body,
    masker: Option<Masker>,
    /// The beginning of a message whose end has not come.
    received: BytesMut,
    is_ended: bool,
}

impl MaskedBody {
    /// Masks the messages that have been received whole.
    fn take_messages(&mut self) -> Result<Bytes, BodyError> {
        let mut masked = BytesMut::new();
        while let Some(message) = self.next_message()? {
            let masker = self.masker.as_ref().ok_or(BodyError::UnknownRpc)?;
            let message = masker.mask(&message)?;
            let length = u32::try_from(message.len());
            let length = length.map_err(|_| BodyError::TooLarge(message.len()))?;
            masked.reserve(PREFIX + message.len());
            masked.put_u8(0);
            masked.put_u32(length);
            masked.put_slice(&message);
        }
        Ok(masked.freeze())
    }

    fn next_message(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(mut prefix) = self.received.get(..PREFIX) else {
            return Ok(None);
        };
        let is_compressed = prefix.get_u8() != 0;
        let length = prefix.get_u32() as usize;
        if is_compressed {
            return Err(BodyError::Compressed);
        }
        if length > MAX_MESSAGE {
            return Err(BodyError::TooLarge(length));
        }
        if self.received.len() < PREFIX + length {
            return Ok(None);
        }
        self.received.advance(PREFIX);
        Ok(Some(self.received.split_to(length).freeze()))
    }

    /// Ends the body with an error instead of the message that cannot be masked.
    fn fail(&mut self, error: &BodyError) -> Frame<Bytes> {
        tracing::error!(%error, "an answer is withheld: it cannot be masked");
        self.is_ended = true;
        self.received.clear();
        let status = Status::internal("the answer cannot be masked; the gateway's log has more");
        Frame::trailers(status::trailers(&status))
    }
}

impl http_body::Body for MaskedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.is_ended {
                return Poll::Ready(None);
            }
            let frame = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.is_ended = true;
                    if self.received.is_empty() {
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Ok(self.fail(&BodyError::CutOff))));
                }
                Some(Ok(frame)) => frame,
                Some(Err(status)) => return Poll::Ready(Some(Err(mask::status(&status)))),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    if !self.received.is_empty() {
                        return Poll::Ready(Some(Ok(self.fail(&BodyError::CutOff))));
                    }
                    mask_status(&mut trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            };
            self.received.extend_from_slice(&data);
            match self.take_messages() {
                Ok(masked) if masked.is_empty() => {}
                Ok(masked) => return Poll::Ready(Some(Ok(Frame::data(masked)))),
                Err(error) => return Poll::Ready(Some(Ok(self.fail(&error)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.body.is_end_stream() && self.received.is_empty()
    }
}
