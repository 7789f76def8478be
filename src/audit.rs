//! The audit log: tracing target `audit`, one line for each request that changes something or reads
//! personal data by id, and for each refused one.
//!
//! No line has a phone number or a token.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::mask;

/// Lines about failed authentications in one [`WINDOW`]; more are counted.
const MAX_FAILURES: u64 = 10;
/// The time after which failed authentications are written again.
const WINDOW: Duration = Duration::from_secs(1);
/// The most bytes of an id that are written.
const MAX_ID: usize = 256;

/// Who sends a request.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    /// The client; empty: not known.
    pub client: String,
    /// How it has shown who it is.
    pub auth: &'static str,
    /// The address that it connects from.
    pub peer: Option<SocketAddr>,
}

/// What a request is about, filled in by its handler.
#[derive(Clone, Debug, Default)]
pub struct Details(Arc<Mutex<Fields>>);

#[derive(Clone, Debug, Default)]
struct Fields {
    account: String,
    request_id: String,
    upload_id: String,
    object: String,
    rows: Option<u64>,
    settled: &'static str,
    note: String,
}

impl Details {
    /// The details of a request; those of a request that is not audited go nowhere.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }

    /// The account.
    pub fn account(&self, account: &str) -> &Self {
        self.set(|fields| fields.account = bounded(account))
    }

    /// The id of the request.
    pub fn request_id(&self, id: &str) -> &Self {
        self.set(|fields| fields.request_id = bounded(id))
    }

    /// The upload.
    pub fn upload_id(&self, id: &str) -> &Self {
        self.set(|fields| fields.upload_id = bounded(id))
    }

    /// What is changed or read: a task, a subscription, a call, a recording.
    pub fn object(&self, name: &str) -> &Self {
        self.set(|fields| fields.object = bounded(name))
    }

    /// Adds rows.
    pub fn rows(&self, rows: usize) -> &Self {
        self.set(|fields| {
            let rows = u64::try_from(rows).unwrap_or(u64::MAX);
            fields.rows = Some(fields.rows.unwrap_or(0).saturating_add(rows));
        })
    }

    /// What a person has settled, and how they know.
    pub fn settled(&self, outcome: &'static str, note: &str) -> &Self {
        self.set(|fields| {
            fields.settled = outcome;
            fields.note = bounded(note);
        })
    }

    fn set(&self, change: impl FnOnce(&mut Fields)) -> &Self {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        self
    }
}

/// An id without numbers in it, no longer than is written.
fn bounded(id: &str) -> String {
    let id = &id[..id.floor_char_boundary(MAX_ID)];
    mask::text(id).into_owned()
}

/// A request whose line is written when it is dropped.
#[derive(Debug)]
pub struct Entry {
    sender: Sender,
    rpc: &'static str,
    details: Details,
    started: Instant,
    outcome: Option<(tonic::Code, String)>,
}

impl Entry {
    /// Begins with a request of the RPC at this path.
    pub fn new(sender: Sender, rpc: &'static str, details: Details) -> Self {
        Self {
            sender,
            rpc,
            details,
            started: Instant::now(),
            outcome: None,
        }
    }

    /// Notes how the request ended, from headers or trailers with a status.
    pub fn see(&mut self, headers: &http::HeaderMap) {
        if let Some(status) = tonic::Status::from_header_map(headers) {
            self.ended(&status);
        }
    }

    /// Notes how the request ended.
    pub fn ended(&mut self, status: &tonic::Status) {
        self.outcome = Some((status.code(), reason(status)));
    }
}

/// The machine-readable reason of an error.
pub fn reason(status: &tonic::Status) -> String {
    let info = tonic_types::StatusExt::get_details_error_info(status);
    info.map(|info| info.reason).unwrap_or_default()
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Without a status the client has gone before the end.
        let (code, reason) = self
            .outcome
            .take()
            .unwrap_or((tonic::Code::Cancelled, String::new()));
        let fields = self
            .details
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        tracing::info!(
            target: "audit",
            client = self.sender.client,
            auth = self.sender.auth,
            peer = self.sender.peer.map(tracing::field::display),
            rpc = self.rpc,
            account = optional(&fields.account),
            request_id = optional(&fields.request_id),
            upload_id = optional(&fields.upload_id),
            object = optional(&fields.object),
            rows = fields.rows,
            settled = optional(fields.settled),
            note = optional(&fields.note),
            outcome = code_name(code),
            reason = optional(&reason),
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// Failed authentications, of which no more than some are written.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Option<Failed>>);

#[derive(Debug)]
struct Failed {
    since: Instant,
    /// Failures in this window.
    count: u64,
}

impl Failures {
    /// Writes a line about a failed authentication, unless there are too many.
    pub fn write(&self, peer: Option<SocketAddr>, rpc: &str, reason: &str) {
        if let Some(left_out) = self.admit(Instant::now()) {
            tracing::warn!(
                target: "audit",
                peer = peer.map(tracing::field::display),
                rpc,
                reason,
                left_out,
                "authentication failed"
            );
        }
    }

    /// Whether a line may be written, and how many failures before it were not.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failed.as_ref();
        let is_over = before.is_none_or(|failed| now.duration_since(failed.since) >= WINDOW);
        if is_over {
            let left_out = before.map_or(0, |failed| failed.count.saturating_sub(MAX_FAILURES));
            *failed = Some(Failed {
                since: now,
                count: 1,
            });
            return Some(left_out);
        }
        let failed = failed.as_mut()?;
        failed.count += 1;
        (failed.count <= MAX_FAILURES).then_some(0)
    }
}

/// A code as the gRPC documents name it.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_authentications_are_written_ten_a_second_and_the_rest_is_counted() {
        let failures = Failures::default();
        let start = Instant::now();
        let written = (0..30).filter_map(|_| failures.admit(start)).count();
        assert_eq!(written, 10);
        assert_eq!(failures.admit(start + WINDOW), Some(20));
        assert_eq!(failures.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn ids_are_written_without_numbers_and_cut() {
        assert_eq!(bounded("order-13812345678"), "order-138****5678");
        assert_eq!(bounded(&"é".repeat(200)).len(), MAX_ID);
    }
}
