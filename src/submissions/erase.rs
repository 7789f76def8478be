//! What the store has of one person's submissions, for their erasure.

use prost::Message;

use super::record::{self, Record};
use crate::proto::submission::Request;

/// To whom a value belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// To an account.
    Account(&'a str),
    /// To an upload, by its name in the store.
    Upload(&'a str),
    /// To the store as a whole.
    Nobody,
}

/// To whom the value under a key belongs.
pub fn owner(key: &str) -> Owner<'_> {
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("upload-row" | "upload-number"), Some(upload), Some(_)) => Owner::Upload(upload),
        (
            Some(
                "submission" | "submission-open" | "submission-at" | "upload" | "row" | "task"
                | "claims" | "awaited" | "overdue" | "backfill",
            ),
            Some(account),
            Some(_),
        ) => Owner::Account(account),
        _ => Owner::Nobody,
    }
}

/// The upload that is kept under a key, if it is one of the account's.
pub fn upload<'a>(key: &'a str, account: &str) -> Option<&'a str> {
    key.strip_prefix(&record::uploads(account))
}

/// The platform's ids of those rows of a submission of the account that have a value of the
/// person's.
pub fn rows(
    key: &str,
    account: &str,
    value: &[u8],
    is_persons: impl Fn(&str) -> bool,
) -> Vec<String> {
    if !is_submission(key) || owner(key) != Owner::Account(account) {
        return Vec::new();
    }
    let record = Record::decode(value);
    let ids = record::ids(record.get());
    let rows = record.rows().iter().enumerate();
    let own = rows.filter(|(_, row)| row.values.iter().any(|value| is_persons(value)));
    let ids = own.filter_map(|(at, _)| ids.get(at));
    ids.filter(|id| !id.is_empty()).cloned().collect()
}

/// A submission without the contents of the rows that have a value of the person's; `None`: it has
/// no such row. Its ids stay, so that a repeat is not sent.
pub fn empty_rows(key: &str, value: &[u8], is_persons: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    if !is_submission(key) {
        return None;
    }
    let mut record = Record::decode(value);
    if record.is_unreadable() {
        return None;
    }
    let submission = record.get_mut();
    let rows = match &mut submission.request {
        Some(Request::CallOut(request)) => &mut request.call_list,
        Some(Request::InsertTaskData(request)) => &mut request.call_list,
        Some(Request::CreateTask(_)) | None => return None,
    };
    let mut has_any = false;
    for (at, row) in rows.iter_mut().enumerate() {
        if row.values.iter().any(|value| is_persons(value)) {
            row.values.iter_mut().for_each(String::clear);
            if let Some(row_key) = submission.row_keys.get_mut(at) {
                row_key.clear();
            }
            has_any = true;
        }
    }
    has_any.then(|| record.encode_to_vec())
}

fn is_submission(key: &str) -> bool {
    key.starts_with("submission/")
}
