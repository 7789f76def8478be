//! Removes one person's data from the store of a stopped gateway, ahead of retention.
//!
//! | data | what happens |
//! |---|---|
//! | a push that has the number, or belongs to a call that has it | an empty event with the same id takes its place, so that the push is not stored again |
//! | a row of a submission that has the number | its values and its row key are emptied; the ids stay, so that nobody is called again |
//! | other values beside the log that have the number | the number is masked |
//! | recordings of those calls in the archive | deleted |
//! | assembled calls | deleted; the gateway assembles the rest again from the log |
//!
//! The log is written anew without the data, and takes the place of the old one in one step. So no
//! old value stays in a file of the database.

mod person;

use std::collections::HashSet;
use std::path::PathBuf;

use bytes::Bytes;

pub use self::person::Person;
use crate::proto::push_event::Payload;
use crate::proto::{PushEvent, PushKind, UnrecognizedPush};
use crate::store::embedded::rewrite::{self, Edit, RewriteError};
use crate::store::{Entry, NewEntry};
use crate::submissions::erase as submissions;
use crate::voice::Archive;

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Pushes and calls in the log.
    pub events: u64,
    /// Submissions and other values beside the log.
    pub values: u64,
    /// Recordings in the archive.
    pub recordings: u64,
    /// Addresses of recordings that are in another archive than the configured one.
    pub elsewhere: Vec<String>,
    /// Keys whose values still have the number.
    pub left: Vec<String>,
}

/// Why nothing, or not everything, was erased. Erasing again is safe.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The store cannot be opened or written anew; stop the gateway first.
    #[error(transparent)]
    Store(#[from] RewriteError),
    /// A recording cannot be deleted; nothing else was changed.
    #[error("a recording cannot be deleted from the archive: {0}")]
    Archive(String),
    /// The assembled calls cannot be deleted; delete the folder.
    #[error("the assembled calls in {} cannot be deleted: {error}", path.display())]
    Calls {
        /// Their folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Erases a person's data of one account from the store in `folder`.
pub async fn erase(
    folder: PathBuf,
    archive: Option<&Archive>,
    account: &str,
    person: Person,
) -> Result<Erased, EraseError> {
    let mut subject = Subject {
        account: account.to_owned(),
        person,
        rows: HashSet::new(),
        calls: HashSet::new(),
        recordings: HashSet::new(),
        uploads: HashSet::new(),
        erased: Erased::default(),
    };
    let reading = folder.clone();
    let mut subject = blocking(move || {
        rewrite::each_value(&reading, |key, value| subject.learn_value(key, value))?;
        // Until nothing more is found: a recording can stand before the record with the number.
        let mut known = usize::MAX;
        while known != subject.known() {
            known = subject.known();
            rewrite::each_entry(&reading, |entry| subject.learn_entry(entry))?;
        }
        Ok::<_, EraseError>(subject)
    })
    .await?;
    // First, while the log still names them.
    for url in std::mem::take(&mut subject.recordings) {
        let deleted = match archive {
            Some(archive) => archive.delete(&url).await.map_err(EraseError::Archive)?,
            None => None,
        };
        match deleted {
            Some(()) => subject.erased.recordings += 1,
            None => subject.erased.elsewhere.push(url),
        }
    }
    blocking(move || {
        rewrite::rewrite(&folder, &mut subject)?;
        let path = folder.join("calls");
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EraseError::Calls { path, error })
            }
            _ => Ok(subject.erased),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What belongs to the person.
struct Subject {
    account: String,
    person: Person,
    /// The platform's ids of rows that have the number.
    rows: HashSet<String>,
    calls: HashSet<String>,
    /// Where recordings are archived.
    recordings: HashSet<String>,
    /// The account's uploads, by their names in the store.
    uploads: HashSet<String>,
    erased: Erased,
}

impl Subject {
    /// How much is known to belong to the person.
    fn known(&self) -> usize {
        self.rows.len() + self.calls.len() + self.recordings.len()
    }

    fn learn_value(&mut self, key: &str, value: &[u8]) {
        if let Some(upload) = submissions::upload(key, &self.account) {
            self.uploads.insert(upload.to_owned());
        }
        let is_persons = |text: &str| self.person.is_in(text.as_bytes());
        let rows = submissions::rows(key, &self.account, value, is_persons);
        self.rows.extend(rows);
    }

    fn learn_entry(&mut self, entry: &Entry) {
        let Some(event) = entry.decode().filter(|_| self.is_persons(entry)) else {
            return;
        };
        let (call_uuid, task_data_id) = ids(&event);
        // A dialog can mention the number of somebody else.
        let is_dialog = matches!(event.payload, Some(Payload::Dialog(_)));
        if !is_dialog || self.calls.contains(call_uuid) || self.rows.contains(task_data_id) {
            let known = [(&mut self.calls, call_uuid), (&mut self.rows, task_data_id)];
            for (set, id) in known {
                if !id.is_empty() {
                    set.insert(id.to_owned());
                }
            }
        }
        if let Some(url) = archived_url(&event) {
            self.recordings.insert(url.to_owned());
        }
    }

    fn is_persons(&self, entry: &Entry) -> bool {
        let is_known = |event: &PushEvent| {
            let (call_uuid, task_data_id) = ids(event);
            self.calls.contains(call_uuid) || self.rows.contains(task_data_id)
        };
        entry.header.account == self.account
            && (entry.decode().as_ref().is_some_and(is_known)
                || self.person.is_in(&entry.event)
                || self.person.is_in(&entry.raw))
    }

    /// Whether a value beside the log belongs to the account, or to no account.
    fn is_accounts(&self, key: &str) -> bool {
        match submissions::owner(key) {
            submissions::Owner::Account(account) => account == self.account,
            submissions::Owner::Upload(upload) => self.uploads.contains(upload),
            submissions::Owner::Nobody => true,
        }
    }
}

impl Edit for Subject {
    fn entry(&mut self, entry: &Entry) -> Option<NewEntry> {
        if !self.is_persons(entry) {
            return None;
        }
        self.erased.events += 1;
        Some(empty(entry, &self.account))
    }

    fn value(&mut self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        if !self.is_accounts(key) {
            return None;
        }
        let is_persons = |text: &str| self.person.is_in(text.as_bytes());
        let emptied = submissions::empty_rows(key, value, is_persons);
        let mut edited = emptied.unwrap_or_else(|| value.to_vec());
        self.person.mask(&mut edited);
        if self.person.is_in(key.as_bytes()) {
            self.erased.left.push(key.to_owned());
        }
        let is_edited = edited != value;
        self.erased.values += u64::from(is_edited);
        is_edited.then_some(edited)
    }
}

/// The event that takes the place of an erased one: it holds the same content no more, but its id.
fn empty(entry: &Entry, account: &str) -> NewEntry {
    let event = PushEvent {
        event_id: entry.id.to_string(),
        account: account.to_owned(),
        kind: PushKind::Unrecognized.into(),
        origin: entry.decode().map_or(0, |event| event.origin),
        payload: Some(Payload::Unrecognized(UnrecognizedPush {
            reason: "erased".to_owned(),
            ..UnrecognizedPush::default()
        })),
        ..PushEvent::default()
    };
    NewEntry::new(entry.id, &event, Bytes::new())
}

/// The call and the row of an event; empty where it names none.
fn ids(event: &PushEvent) -> (&str, &str) {
    match &event.payload {
        Some(Payload::CallRecord(it)) => (&it.call_uuid, &it.task_data_id),
        Some(Payload::Voice(it) | Payload::VoiceArchived(it)) => (&it.call_uuid, &it.task_data_id),
        Some(Payload::Dialog(it)) => (&it.call_uuid, &it.task_data_id),
        Some(Payload::Call(it)) => (&it.call_uuid, &it.task_data_id),
        Some(Payload::Unrecognized(_)) | None => ("", ""),
    }
}

fn archived_url(event: &PushEvent) -> Option<&str> {
    let voice = match &event.payload {
        Some(Payload::VoiceArchived(voice)) => Some(voice),
        Some(Payload::Call(call)) => call.voice.as_ref(),
        _ => None,
    };
    let url = voice.map(|voice| voice.archived_url.as_str());
    url.filter(|url| !url.is_empty())
}
