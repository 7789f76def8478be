//! The answer to a request of the open API, straight or bent by a fault.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Frame, SizeHint};
use serde_json::{Value, json};

use super::bend;
use super::code::{BAD_TOKEN, BUSY, OK, Refusal};
use super::faults::{Fault, Kind};
use super::server::Cut;

const JSON: &str = "application/json;charset=UTF-8";
const REASON: HeaderName = HeaderName::from_static("x-sandbox-reason");
const PAGE: &str = "<html><head><title>502 Bad Gateway</title></head>\
    <body><center><h1>502 Bad Gateway</h1></center></body></html>";

pub(super) struct Answer {
    /// The code in the body, where it has one.
    pub code: Option<i64>,
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
    reason: Option<String>,
}

impl Answer {
    /// `{code, message, result}`, bent as the fault has it.
    pub fn of(outcome: Result<Value, Refusal>, fault: Option<Kind>) -> Self {
        let (code, message, result, reason) = match outcome {
            Ok(result) => (OK.0, OK.1, result, None),
            Err(refusal) => (
                refusal.code.0,
                refusal.code.1,
                Value::Null,
                Some(refusal.reason),
            ),
        };
        let envelope = json!({ "code": code, "message": message, "result": result });
        let content_type = match fault {
            Some(Kind::WrongContentType) => "text/html;charset=ISO-8859-1",
            _ => JSON,
        };
        Self {
            code: Some(code),
            status: StatusCode::OK,
            content_type,
            body: bend::serialize(envelope, fault),
            reason,
        }
    }

    /// The answer of a fault that takes the place of the operation's own.
    pub fn instead(fault: &Fault) -> Option<Self> {
        match fault.kind {
            Kind::RefuseToken => Some(Self::coded(BAD_TOKEN.0, BAD_TOKEN.1)),
            Kind::Busy => Some(Self {
                status: fault.http_status(),
                ..Self::coded(BUSY.0, BUSY.1)
            }),
            Kind::Code => {
                let message = fault.message.as_deref().unwrap_or("sandbox fault");
                Some(Self {
                    status: fault.http_status(),
                    ..Self::coded(fault.code.unwrap_or(BUSY.0), message)
                })
            }
            Kind::Http500 if fault.text => Some(Self {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                ..Self::text("text/plain", "Internal Server Error")
            }),
            Kind::Http500 => {
                let message = fault.message.as_deref().unwrap_or(BUSY.1);
                let answer = Self::coded(fault.code.unwrap_or(BUSY.0), message);
                Some(Self {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    ..answer
                })
            }
            Kind::Html => Some(Self {
                status: fault.http_status(),
                ..Self::text("text/html", PAGE)
            }),
            _ => None,
        }
    }

    /// A file's bytes.
    pub fn file(body: Vec<u8>) -> Self {
        Self {
            code: None,
            status: StatusCode::OK,
            content_type: "application/zip",
            body,
            reason: None,
        }
    }

    fn coded(code: i64, message: &str) -> Self {
        let envelope = json!({ "code": code, "message": message, "result": null });
        Self {
            code: Some(code),
            status: StatusCode::OK,
            content_type: JSON,
            body: envelope.to_string().into_bytes(),
            reason: None,
        }
    }

    fn text(content_type: &'static str, body: &str) -> Self {
        let body = body.as_bytes().to_vec();
        Self {
            code: None,
            status: StatusCode::OK,
            content_type,
            body,
            reason: None,
        }
    }

    /// Half of the body, and then the end of the connection.
    pub fn cut_in_half(self, cut: Cut) -> Response {
        let half = self.body.len() / 2;
        self.last(half, cut)
    }

    /// The whole body, and then, unannounced, the end of the connection.
    pub fn and_close(self, cut: Cut) -> Response {
        let all = self.body.len();
        self.last(all, cut)
    }

    /// Sends so much of the body before the connection ends.
    fn last(self, sent: usize, cut: Cut) -> Response {
        let left = self.body.len() as u64;
        let part = Some(Bytes::from(self.body).slice(..sent));
        let body = Body::new(LastBody { left, part, cut });
        (self.status, [(CONTENT_TYPE, self.content_type)], body).into_response()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let headers = [(CONTENT_TYPE, self.content_type)];
        let mut response = (self.status, headers, self.body).into_response();
        if let Some(reason) = self
            .reason
            .and_then(|text| HeaderValue::from_str(&text).ok())
        {
            response.headers_mut().insert(REASON, reason);
        }
        response
    }
}

/// The last body of a connection, which may announce more than it has. The
/// connection closes when the server asks for the rest, or needs no more of
/// it: either way what there is has been written then.
struct LastBody {
    /// Announced and not yet sent.
    left: u64,
    part: Option<Bytes>,
    cut: Cut,
}

impl http_body::Body for LastBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(part) = self.part.take() {
            self.left -= part.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        self.cut.close();
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for LastBody {
    fn drop(&mut self) {
        self.cut.close();
    }
}
