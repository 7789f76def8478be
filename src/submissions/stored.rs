//! What is kept of submissions and uploads, and under which keys.
//!
//! | key | value |
//! |---|---|
//! | `submission/ACCOUNT/NAME` | the [`Submission`] |
//! | `submission-at/ACCOUNT/TIME/NAME` | nothing: submissions in the order in which they were made |
//! | `submission-open/ACCOUNT/TIME/NAME` | nothing: those of which something is still to be found |
//! | `row/ACCOUNT/TASK_DATA_ID` | [`KnownRow`] |
//! | `task/ACCOUNT/TASK_ID` | nothing: tasks whose creation was answered |
//! | `claims/ACCOUNT/TIME/NAME` | the keys of such rows and tasks whose submission is forgotten |
//! | `upload/ACCOUNT/UPLOAD` | [`KnownUpload`] |
//! | `upload-row/UPLOAD/ROW_KEY.VALUES` | [`KnownFate`] |
//! | `upload-key/UPLOAD/ROW_KEY`, `upload-number/UPLOAD/NUMBER` | [`Taken`], unless by a refused row |
//!
//! Rows whose records are awaited have keys of their own, see [`awaited`](super::awaited).
//!
//! What callers choose (request ids, row keys, numbers) stands in keys by its hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};

use crate::proto::submission::{Outcome, Request};
use crate::proto::{Submission, UploadHeader, UploadRow};
use crate::store::NoteChange;

/// Names a submission within the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub account: String,
    /// Made from the request id, or from the upload and the number of its batch.
    pub name: String,
}

impl Key {
    pub fn of_request(account: &str, request_id: &str) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("r.{}", hashed(&[request_id])),
        }
    }

    pub fn of_batch(account: &str, upload: &str, batch: u64) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("u.{upload}.{batch:016x}"),
        }
    }

    /// Of what has no name of its own.
    pub fn of_nobody(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("p.{:032x}", rand::random::<u128>()),
        }
    }

    pub fn note(&self) -> String {
        format!("submission/{}/{}", self.account, self.name)
    }

    /// The key's place in a list that is in order of time.
    pub fn at(&self, prefix: &str, created_at_ms: u64) -> String {
        format!("{prefix}{created_at_ms:013}/{}", self.name)
    }

    /// The key, and its time, at such a place.
    pub fn from_at(account: &str, prefix: &str, note: &str) -> Option<(u64, Self)> {
        let (ms, name) = note.strip_prefix(prefix)?.split_once('/')?;
        let key = Self {
            account: account.to_owned(),
            name: name.to_owned(),
        };
        Some((ms.parse().ok()?, key))
    }
}

/// What the keys of an account's submissions in their order begin with.
pub(super) fn all(account: &str) -> String {
    format!("submission-at/{account}/")
}

/// What the keys of an account's claims in their order begin with.
pub(super) fn claims(account: &str) -> String {
    format!("claims/{account}/")
}

/// The same for those of which something is still to be found.
pub(super) fn open(account: &str) -> String {
    format!("submission-open/{account}/")
}

/// Everything that keeps a submission: itself, its place in the order, and whether it is open.
pub(super) fn keep(key: &Key, submission: &Submission, is_open: bool) -> Vec<NoteChange> {
    let created_at_ms = created_at_ms(submission);
    let at = key.at(&all(&key.account), created_at_ms);
    let open = key.at(&open(&key.account), created_at_ms);
    let open = if is_open {
        NoteChange::put(open, Vec::new())
    } else {
        NoteChange::forget(open)
    };
    vec![
        NoteChange::put(key.note(), submission.encode_to_vec()),
        NoteChange::put(at, Vec::new()),
        open,
    ]
}

/// Forgets a submission.
pub(super) fn forget(key: &Key, created_at_ms: u64) -> Vec<NoteChange> {
    vec![
        NoteChange::forget(key.note()),
        NoteChange::forget(key.at(&all(&key.account), created_at_ms)),
        NoteChange::forget(key.at(&open(&key.account), created_at_ms)),
    ]
}

/// When a submission was written down, in milliseconds since 1970.
pub(super) fn created_at_ms(submission: &Submission) -> u64 {
    ms(submission.created_at)
}

/// When its outcome was known, or if it is not, when it was written down.
pub(super) fn settled_at_ms(submission: &Submission) -> u64 {
    ms(submission.settled_at.or(submission.created_at))
}

fn ms(time: Option<Timestamp>) -> u64 {
    let Timestamp { seconds, nanos } = time.unwrap_or_default();
    u64::try_from(seconds * 1000 + i64::from(nanos / 1_000_000)).unwrap_or_default()
}

/// The first value of each row of a request: the phone numbers as they were sent.
pub(super) fn numbers(request: Option<&Request>) -> impl Iterator<Item = &str> {
    let rows = match request {
        Some(Request::CallOut(request)) => request.call_list.as_slice(),
        Some(Request::InsertTaskData(request)) => request.call_list.as_slice(),
        Some(Request::CreateTask(_)) | None => &[],
    };
    rows.iter()
        .filter_map(|row| row.values.first().map(String::as_str))
}

/// The platform's ids of a submission's rows, as far as they are known.
pub(super) fn ids(submission: &Submission) -> &[String] {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(reply)) => &reply.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(reply)) => &reply.task_data_ids,
        Some(Outcome::CreateTaskResponse(_) | Outcome::Error(_)) | None => &[],
    }
}

/// Under which key a row is found by the platform's id of it.
pub(super) fn row(account: &str, task_data_id: &str) -> String {
    // Ids are digits; what is not is told apart by its hash.
    if !task_data_id.is_empty() && task_data_id.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("row/{account}/{task_data_id}")
    } else {
        format!("row/{account}/h.{}", hashed(&[task_data_id]))
    }
}

/// Under which key it is noted that a task's creation was answered.
pub(super) fn task(account: &str, task_id: &str) -> String {
    format!("task/{account}/{}", hashed(&[task_id]))
}

/// A row that was submitted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownRow {
    /// The caller's own id; empty where there was none.
    #[prost(string, tag = "1")]
    pub row_key: String,
}

/// Names an upload among all accounts'.
pub(super) fn upload_name(account: &str, upload_id: &str) -> String {
    hashed(&[account, upload_id])
}

/// What the keys of an account's uploads begin with.
pub(super) fn uploads(account: &str) -> String {
    format!("upload/{account}/")
}

/// What the keys of everything that is kept of an upload's rows begin with.
pub(super) fn upload_prefixes(upload: &str) -> [String; 3] {
    ["upload-row", "upload-key", "upload-number"].map(|list| format!("{list}/{upload}/"))
}

/// Under which key stands what became of a row.
pub(super) fn upload_row(upload: &str, row: &UploadRow) -> String {
    let (key, values) = (hashed(&[&row.row_key]), hashed(&row.values));
    format!("upload-row/{upload}/{key}.{values}")
}

/// Under which key stands who has a row key.
pub(super) fn upload_key(upload: &str, row_key: &str) -> String {
    format!("upload-key/{upload}/{}", hashed(&[row_key]))
}

/// Under which key stands who has a number, in its one form.
pub(super) fn upload_number(upload: &str, number: &str) -> String {
    format!("upload-number/{upload}/{}", hashed(&[number]))
}

/// Keys under which claims stand.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Claims {
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
}

/// An upload.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownUpload {
    /// Its target and columns, and its id.
    #[prost(message, optional, tag = "1")]
    pub header: Option<UploadHeader>,
    /// When it was last taken up.
    #[prost(uint64, tag = "2")]
    pub last_ms: u64,
}

/// What became of one row.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownFate {
    #[prost(oneof = "Fate", tags = "1, 2, 3")]
    pub fate: Option<Fate>,
    /// The caller's own id of the row.
    #[prost(string, tag = "4")]
    pub row_key: String,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Fate {
    /// The platform's id.
    #[prost(string, tag = "1")]
    Accepted(String),
    #[prost(message, tag = "2")]
    Refused(KnownRefusal),
    /// Why nobody knows.
    #[prost(string, tag = "3")]
    Unknown(String),
}

/// A refusal by the platform.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownRefusal {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the row itself is to blame, so that it would be refused again.
    #[prost(bool, tag = "3")]
    pub is_rows_fault: bool,
}

/// Which row of an upload has a number or a row key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Taken {
    #[prost(string, tag = "1")]
    pub row_key: String,
    /// Of its values.
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// Texts as a key can hold them, whatever they are: no two lists of texts give the same.
pub(super) fn hashed<T: AsRef<str>>(texts: &[T]) -> String {
    URL_SAFE_NO_PAD.encode(digest(texts))
}

/// 128 bits that tell lists of texts apart.
pub(super) fn digest<T: AsRef<str>>(texts: &[T]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in texts {
        let text = text.as_ref();
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let whole = hash.finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&whole[..16]);
    short
}
