//! What the store keeps of submissions, and under which keys.
//!
//! | key | value |
//! |---|---|
//! | `submission/ACCOUNT/NAME` | the [`Record`] of one request to the platform: the only place of its state |
//! | `submission-open/ACCOUNT/TIME/NAME` | nothing: those of which something is still to be found |
//! | `submission-at/ACCOUNT/TIME/NAME` | nothing: the other ones that have a request id |
//! | `upload/ACCOUNT/UPLOAD` | [`KnownUpload`] |
//! | `upload-row/UPLOAD/ROW_KEY` | [`SentRows`]: with which requests the rows of this key went out |
//! | `upload-number/UPLOAD/NUMBER` | [`SentRow`]: the first row with this number |
//! | `row/ACCOUNT/TASK_DATA_ID` | [`KnownRow`]: a row that the platform has accepted |
//! | `task/ACCOUNT/TASK_ID` | nothing: a task that an answered request has created |
//! | `claims/ACCOUNT/AGE/NAME` | [`Claims`]: keys of the two above whose submission is forgotten |
//!
//! Rows whose call records are awaited have keys of their own, see [`awaited`](super::awaited).
//! What callers choose stands in keys by its hash: request ids by a plain one, row keys and numbers
//! by one with the store's key, which their owners alone can compute.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};

use crate::hash_key::HashKey;
use crate::proto::submission::{Outcome, Request};
use crate::proto::{Row, Submission, SubmissionState, UploadHeader};
use crate::random;
use crate::store::NoteChange;

/// Names a submission within the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub account: String,
    /// Made from the client and its request id, or from the upload and the number of its batch.
    pub name: String,
}

impl Key {
    pub fn of_request(account: &str, client: &str, request_id: &str) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("r.{}", hashed(&[client, request_id])),
        }
    }

    pub fn of_batch(account: &str, upload: &str, batch: u64) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("u.{upload}.{batch:016x}"),
        }
    }

    /// A name for a request that has no id.
    pub fn random(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            name: format!("p.{:032x}", random::unique()),
        }
    }

    /// Whether it names a batch of an upload.
    pub fn is_batch(&self) -> bool {
        self.name.starts_with("u.")
    }

    pub fn note(&self) -> String {
        format!("submission/{}/{}", self.account, self.name)
    }

    /// The key's place in a list that is in order of time.
    pub fn at(&self, prefix: &str, ms: u64) -> String {
        format!("{prefix}{ms:013}/{}", self.name)
    }

    /// The time and the key at such a place.
    pub fn from_at(account: &str, prefix: &str, note: &str) -> Option<(u64, Self)> {
        let (ms, name) = note.strip_prefix(prefix)?.split_once('/')?;
        let key = Self {
            account: account.to_owned(),
            name: name.to_owned(),
        };
        Some((ms.parse().ok()?, key))
    }
}

/// One request to the platform: what was sent, its state, and what was found since.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    /// The submission, as clients see it. IN_FLIGHT means UNKNOWN once its sender has died.
    #[prost(message, optional, tag = "1")]
    pub submission: Option<Submission>,
    /// The ledger's age when the state was written, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub aged_ms: u64,
    /// Of CreateTask: the ids of tasks that had the name before the request was sent.
    #[prost(string, repeated, tag = "3")]
    pub tasks_before: Vec<String>,
    /// Whether `tasks_before` could be asked for.
    #[prost(bool, tag = "4")]
    pub are_tasks_before_known: bool,
    /// Rows that a person has settled as not sent.
    #[prost(uint32, repeated, tag = "5")]
    pub not_sent: Vec<u32>,
    /// Call records that carry all values of a row; any of them may settle it.
    #[prost(message, repeated, tag = "6")]
    pub fits: Vec<Fit>,
    /// Whether a refusal is due to the row itself, so that the row is not sent again.
    #[prost(bool, tag = "7")]
    pub is_rows_fault: bool,
}

/// A call record that carries all values of a row of a submission.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Fit {
    #[prost(uint32, tag = "1")]
    pub row: u32,
    #[prost(string, tag = "2")]
    pub task_data_id: String,
    #[prost(string, tag = "3")]
    pub call_uuid: String,
    #[prost(string, tag = "4")]
    pub event_id: String,
    /// When the call was dialled, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub dialled_ms: u64,
    /// The task that the record names.
    #[prost(string, tag = "6")]
    pub task_id: String,
}

impl Record {
    pub fn new(submission: Submission) -> Self {
        Self {
            submission: Some(submission),
            ..Self::default()
        }
    }

    /// The submission. A record always has one; `decode` sees to that.
    pub fn get(&self) -> &Submission {
        static NONE: std::sync::LazyLock<Submission> = std::sync::LazyLock::new(Default::default);
        self.submission.as_ref().unwrap_or(&NONE)
    }

    pub fn get_mut(&mut self) -> &mut Submission {
        self.submission.get_or_insert_default()
    }

    pub fn state(&self) -> SubmissionState {
        self.get().state()
    }

    /// The rows of the request, as they were sent.
    pub fn rows(&self) -> &[Row] {
        rows(self.get().request.as_ref())
    }

    /// Reads a record. One that cannot be read may have been sent: it is UNKNOWN.
    pub fn decode(bytes: &[u8]) -> Self {
        match <Self as Message>::decode(bytes) {
            Ok(record) if record.submission.is_some() => record,
            _ => {
                let mut unreadable = Self::default();
                let submission = unreadable.get_mut();
                submission.set_state(SubmissionState::Unknown);
                UNREADABLE.clone_into(&mut submission.unknown_because);
                unreadable
            }
        }
    }

    /// The record without the rows' contents: of a batch whose ids are all known nothing else is
    /// needed.
    fn without_content(&self) -> Self {
        let mut record = self.clone();
        record.get_mut().request = None;
        record.get_mut().row_keys.clear();
        record
    }

    /// Whether it could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.get().unknown_because == UNREADABLE
    }

    /// Whether something is still to be found: the outcome, the ids of rows, or evidence against a
    /// refusal.
    pub fn is_open(&self) -> bool {
        match self.state() {
            SubmissionState::Unknown | SubmissionState::InFlight | SubmissionState::Refused => true,
            SubmissionState::Accepted => ids(self.get()).iter().any(String::is_empty),
            SubmissionState::Unspecified => false,
        }
    }

    /// The state of one row.
    pub fn row(&self, row: usize) -> RowState {
        let submission = self.get();
        if self.not_sent.iter().any(|it| *it as usize == row) {
            return RowState::Absent;
        }
        match (submission.state(), &submission.outcome) {
            (SubmissionState::Accepted, _) => match ids(submission).get(row).map(String::as_str) {
                Some("") | None => RowState::Unknown(UNNAMED.to_owned()),
                Some(id) => RowState::Accepted(id.to_owned()),
            },
            (SubmissionState::Refused, Some(Outcome::Error(error))) => RowState::Refused {
                code: error.platform_code.clone(),
                message: error.message.clone(),
                is_rows_fault: self.is_rows_fault,
            },
            (SubmissionState::InFlight, _) => RowState::Unknown(DIED.to_owned()),
            _ => RowState::Unknown(submission.unknown_because.clone()),
        }
    }
}

/// What is known of one row of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    /// It was not sent.
    Absent,
    /// The platform's id of it.
    Accepted(String),
    Refused {
        code: String,
        message: String,
        /// Whether it would be refused again.
        is_rows_fault: bool,
    },
    /// Why nobody knows.
    Unknown(String),
}

/// Why the outcome of a request is unknown whose sender has died.
pub(super) const DIED: &str = "the gateway stopped before the answer came";
const UNREADABLE: &str = "the record of the submission cannot be read";
const UNNAMED: &str = "the platform took the request; the id of this row is not known yet";

/// The prefix of an account's settled submissions, in order of time.
pub(super) fn settled(account: &str) -> String {
    format!("submission-at/{account}/")
}

/// The prefix of an account's open submissions, in order of time.
pub(super) fn open(account: &str) -> String {
    format!("submission-open/{account}/")
}

/// The prefix of an account's forgotten claims, in order of age.
pub(super) fn claims(account: &str) -> String {
    format!("claims/{account}/")
}

/// Everything that keeps a record: itself, and its place in one of two lists. `was_open` spares
/// removing a place that it never had.
pub(super) fn keep(key: &Key, record: &Record, was_open: bool) -> Vec<NoteChange> {
    let created_at_ms = created_at_ms(record.get());
    let is_batch = !record.get().upload_id.is_empty();
    let bytes = if is_batch && !record.is_open() {
        record.without_content().encode_to_vec()
    } else {
        record.encode_to_vec()
    };
    let mut changes = vec![NoteChange::put(key.note(), bytes)];
    let open_place = key.at(&open(&key.account), created_at_ms);
    if record.is_open() {
        if !was_open {
            changes.push(NoteChange::put(open_place, Vec::new()));
        }
        return changes;
    }
    if was_open {
        changes.push(NoteChange::forget(open_place));
    }
    // The settled batches of an upload are found through the upload's rows alone.
    if !is_batch {
        let place = key.at(&settled(&key.account), created_at_ms);
        changes.push(NoteChange::put(place, Vec::new()));
    }
    changes
}

/// Removes a record and its places.
pub(super) fn forget(key: &Key, created_at_ms: u64) -> Vec<NoteChange> {
    vec![
        NoteChange::forget(key.note()),
        NoteChange::forget(key.at(&settled(&key.account), created_at_ms)),
        NoteChange::forget(key.at(&open(&key.account), created_at_ms)),
    ]
}

/// When a submission was recorded, in milliseconds since 1970.
pub(super) fn created_at_ms(submission: &Submission) -> u64 {
    let Timestamp { seconds, nanos } = submission.created_at.unwrap_or_default();
    u64::try_from(seconds * 1000 + i64::from(nanos / 1_000_000)).unwrap_or_default()
}

/// The rows of a request.
pub(super) fn rows(request: Option<&Request>) -> &[Row] {
    match request {
        Some(Request::CallOut(request)) => &request.call_list,
        Some(Request::InsertTaskData(request)) => &request.call_list,
        Some(Request::CreateTask(_)) | None => &[],
    }
}

/// The platform's ids of a submission's rows, as far as they are known.
pub(super) fn ids(submission: &Submission) -> &[String] {
    match &submission.outcome {
        Some(Outcome::CallOutResponse(reply)) => &reply.task_data_ids,
        Some(Outcome::InsertTaskDataResponse(reply)) => &reply.task_data_ids,
        Some(Outcome::CreateTaskResponse(_) | Outcome::Error(_)) | None => &[],
    }
}

/// The key of a row that the platform has accepted.
pub(super) fn row(account: &str, task_data_id: &str) -> String {
    // Ids are digits; anything else stands there by its hash.
    if !task_data_id.is_empty() && task_data_id.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("row/{account}/{task_data_id}")
    } else {
        format!("row/{account}/h.{}", hashed(&[task_data_id]))
    }
}

/// The key of a task that an answered request has created.
pub(super) fn task(account: &str, task_id: &str) -> String {
    format!("task/{account}/{}", hashed(&[task_id]))
}

/// The ids that a submission's outcome claims, as keys with their values.
pub(super) fn claimed(submission: &Submission) -> Vec<NoteChange> {
    let account = &submission.account;
    if let Some(Outcome::CreateTaskResponse(reply)) = &submission.outcome {
        return vec![NoteChange::put(task(account, &reply.task_id), Vec::new())];
    }
    let mut row_keys = submission.row_keys.iter();
    let rows = ids(submission).iter().map(|id| (id, row_keys.next()));
    rows.filter(|(id, _)| !id.is_empty())
        .map(|(id, row_key)| {
            let row_key = row_key.cloned().unwrap_or_default();
            NoteChange::put(row(account, id), KnownRow { row_key }.encode_to_vec())
        })
        .collect()
}

/// A row that the platform has accepted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownRow {
    /// The caller's own id; empty where there was none.
    #[prost(string, tag = "1")]
    pub row_key: String,
}

/// Keys of claims whose submission is forgotten.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Claims {
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
}

/// The name of an upload among those of all accounts and clients.
pub(super) fn upload_name(account: &str, client: &str, upload_id: &str) -> String {
    hashed(&[account, client, upload_id])
}

/// The prefix of an account's uploads.
pub(super) fn uploads(account: &str) -> String {
    format!("upload/{account}/")
}

/// The prefixes of everything that is kept of an upload beside itself.
pub(super) fn upload_prefixes(account: &str, upload: &str) -> [String; 3] {
    [
        format!("upload-row/{upload}/"),
        format!("upload-number/{upload}/"),
        format!("submission/{account}/u.{upload}."),
    ]
}

/// The key of the rows of an upload that have this row key.
pub(super) fn upload_row(hash_key: &HashKey, upload: &str, row_key: &str) -> String {
    format!("upload-row/{upload}/{}", hash_key.text(&[row_key]))
}

/// The key of the row of an upload that has this number, in its one form.
pub(super) fn upload_number(hash_key: &HashKey, upload: &str, number: &str) -> String {
    format!("upload-number/{upload}/{}", hash_key.text(&[number]))
}

/// An upload.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownUpload {
    /// Its target and columns, and its id.
    #[prost(message, optional, tag = "1")]
    pub header: Option<UploadHeader>,
    /// The ledger's age when a stream of it last began, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub aged_ms: u64,
    /// The client that made it.
    #[prost(string, tag = "3")]
    pub client: String,
}

/// The rows of an upload that have one row key: one, unless duplicates are let through.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SentRows {
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<SentRow>,
}

/// With which request a row went out.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SentRow {
    /// The hash of the row's values.
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// The number of the batch.
    #[prost(fixed64, tag = "2")]
    pub batch: u64,
    /// Its place in the batch.
    #[prost(uint32, tag = "3")]
    pub row: u32,
    /// The row key; only beside a number.
    #[prost(string, tag = "4")]
    pub row_key: String,
}

/// A key part made of texts: no two lists of texts give the same.
pub(super) fn hashed<T: AsRef<str>>(texts: &[T]) -> String {
    URL_SAFE_NO_PAD.encode(digest(texts))
}

/// 128 bits that differ for different lists of texts.
fn digest<T: AsRef<str>>(texts: &[T]) -> [u8; 16] {
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
