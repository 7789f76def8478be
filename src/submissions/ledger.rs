//! The ledger: each request is recorded before it is sent, and its outcome replaces the record.
//!
//! Nothing that dies can lose a record. A record that is IN_FLIGHT, and whose sender is not alive
//! in this process, is UNKNOWN for every reader; nothing needs to be reconciled at start.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::age::Age;
use super::check::Numbers;
use super::metrics::SubmissionsMetrics;
use super::open::{Heard, InFlight, OpenIndex};
use super::record::{self, DIED, Key, Record};
use super::state::{self, Event};
use super::trust::Trust;
use super::{Clock, Options, SubmissionsError, awaited};
use crate::hash_key::HashKey;
use crate::proto::{Submission, SubmissionOperation, SubmissionState};
use crate::store::{AppendError, NoteChange, Notes, PushLog, ReadError, Survives};

/// After a failed write, the store is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);
/// How many records are read at a time.
const SLICE: usize = 256;
/// Why an outcome is unknown that the gateway had.
const NOT_RECORDED: &str = "the gateway stopped before it could record the outcome";
/// With more records to be removed than this, nothing new is accepted.
const MAX_RELEASES: usize = 4096;

/// The records of all accounts, and the index of those that are open.
pub(super) struct Ledger {
    pub notes: Arc<dyn Notes>,
    log: Arc<dyn PushLog>,
    pub numbers: Numbers,
    pub hash_key: HashKey,
    clock: Clock,
    pub age: Age,
    pub index: Arc<OpenIndex>,
    pub trust: Trust,
    pub evidence_window: Duration,
    /// Whether durable records were lost.
    pub records_lost: bool,
    pub metrics: SubmissionsMetrics,
    /// Held while a record that is not in flight is changed, by account.
    locks: HashMap<String, Mutex<()>>,
    /// What removes records whose write failed; nothing of them was sent.
    releases: std::sync::Mutex<BTreeMap<Key, Vec<NoteChange>>>,
    /// Held while some of them are being removed.
    releasing: Mutex<()>,
    /// Whether the last write failed. Nothing new is accepted meanwhile.
    is_down: AtomicBool,
    failed: Notify,
}

impl Ledger {
    /// Opens the ledger of these accounts, and indexes what is open.
    pub async fn open(
        notes: Arc<dyn Notes>,
        log: Arc<dyn PushLog>,
        options: &Options,
        metrics: SubmissionsMetrics,
    ) -> Result<Self, SubmissionsError> {
        let accounts = &options.accounts;
        let age = Age::open(notes.as_ref()).await?;
        let now = (options.clock)().duration_since(UNIX_EPOCH);
        let now_ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let trust = Trust::open(notes.as_ref(), accounts, age.no_earlier(now_ms)).await?;
        age.note(notes.as_ref(), now_ms)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the age of the submissions is not noted");
            });
        let ledger = Self {
            age,
            index: Arc::new(OpenIndex::new(options.numbers)),
            trust,
            numbers: options.numbers,
            hash_key: options.hash_key.clone(),
            clock: options.clock.clone(),
            evidence_window: options.evidence_window,
            records_lost: options.records_lost,
            metrics,
            locks: accounts
                .iter()
                .map(|name| (name.clone(), Mutex::default()))
                .collect(),
            releases: std::sync::Mutex::default(),
            releasing: Mutex::default(),
            is_down: AtomicBool::new(false),
            failed: Notify::new(),
            notes,
            log,
        };
        for account in accounts {
            ledger.index_open(account).await?;
        }
        Ok(ledger)
    }

    async fn index_open(&self, account: &str) -> Result<(), SubmissionsError> {
        let prefix = record::open(account);
        let mut after = String::new();
        loop {
            let places = self.notes.list(&prefix, &after, SLICE).await?;
            let Some((last, _)) = places.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let keys = places.iter().map(|(place, _)| place);
            let keys = keys.filter_map(|place| Key::from_at(account, &prefix, place));
            let keys: Vec<Key> = keys.map(|(_, key)| key).collect();
            let notes = keys.iter().map(Key::note).collect();
            let records = self.notes.get_many(notes).await?;
            for (key, bytes) in keys.iter().zip(records) {
                let Some(record) = bytes.map(|bytes| Record::decode(&bytes)) else {
                    continue;
                };
                if record.is_unreadable() {
                    tracing::error!(account, name = key.name, "a submission cannot be read");
                }
                self.index.update(key, &record);
            }
        }
    }

    /// A submission of now, before it is recorded.
    pub fn draft(&self, account: &str, client: &str, operation: SubmissionOperation) -> Submission {
        Submission {
            operation: operation.into(),
            account: account.to_owned(),
            client: client.to_owned(),
            created_at: Some(self.now().into()),
            push_cursor: self.log.cursor(*self.log.end().borrow()).to_string(),
            ..Submission::default()
        }
    }

    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub fn now_ms(&self) -> u64 {
        let since_1970 = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    /// Holds the account's records that are not in flight against other changes.
    pub async fn lock(&self, account: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        Some(self.locks.get(account)?.lock().await)
    }

    /// Whether something new can be recorded now. Asked before anything is prepared.
    pub fn admit(&self, account: &str) -> Result<(), SubmissionsError> {
        if self.is_down.load(Ordering::Acquire) || self.releases().len() >= MAX_RELEASES {
            let error = "the store takes no writes".to_owned();
            return Err(SubmissionsError::Unavailable(error));
        }
        if self.index.is_full(account) {
            return Err(SubmissionsError::TooManyUnknown);
        }
        Ok(())
    }

    /// Records a request durably, together with other changes; once this resolves, it may be sent.
    pub async fn intend(
        &self,
        key: &Key,
        record: &mut Record,
        also: Vec<NoteChange>,
    ) -> Result<(), SubmissionsError> {
        self.release_now(key).await?;
        let state = transition(key, record, Event::Intended);
        record.get_mut().set_state(state);
        record.aged_ms = self.age.now_ms();
        let mut changes = record::keep(key, record, false);
        changes.extend(also);
        let undo = record::forget(key, record::created_at_ms(record.get()));
        // Given up, or failed, it may be written all the same.
        let mut guard = Unwritten(Some((self, key, undo)));
        let written = self.write(changes, Survives::PowerLoss).await;
        if written.is_ok() {
            guard.0 = None;
        }
        Ok(written?)
    }

    /// Removes the record of what provably was not sent. The caller need not wait for a store in
    /// trouble: until the record is gone, it counts as none.
    pub async fn release(&self, flight: InFlight, record: &Record) {
        let key = flight.key().clone();
        let changes = record::forget(&key, record::created_at_ms(record.get()));
        let mut guard = Unwritten(Some((self, &key, changes.clone())));
        if self.write(changes, Survives::Kill).await.is_ok() {
            guard.0 = None;
        }
        flight.end(None);
        self.reconsider(&key, record).await;
    }

    /// Replaces the record of a request with its outcome. Resolves when it is written, however long
    /// the store takes. If the store closes before that, this caller and all later ones get UNKNOWN.
    pub async fn conclude(&self, flight: InFlight, mut record: Record, event: Event) -> Record {
        let key = flight.key().clone();
        let state = transition(&key, &record, event);
        record.get_mut().set_state(state);
        if state == SubmissionState::Accepted || state == SubmissionState::Refused {
            record.get_mut().settled_at = Some(self.now().into());
        }
        record.aged_ms = self.age.now_ms();
        let mut heard = 0;
        loop {
            let all = flight.heard();
            if record.is_open() {
                for Heard { evidence, fit } in all.iter().skip(heard).cloned() {
                    record.get_mut().evidence.push(evidence);
                    record.fits.extend(fit);
                }
            }
            heard = all.len();
            let mut changes = record::keep(&key, &record, flight.is_recorded());
            changes.extend(record::claimed(record.get()));
            changes.extend(awaited::change(&key, record.get()));
            if self.write_surely(changes).await.is_err() {
                let submission = record.get_mut();
                submission.set_state(SubmissionState::Unknown);
                submission.outcome = None;
                NOT_RECORDED.clone_into(&mut submission.unknown_because);
                return record;
            }
            // The write may take long, and more may come meanwhile.
            if !record.is_open() || flight.heard().len() == heard {
                break;
            }
        }
        flight.end(Some(&record));
        self.reconsider(&key, &record).await;
        record
    }

    /// Replaces a record that is not in flight; to be called under the account's lock.
    pub async fn replace(
        &self,
        key: &Key,
        record: &mut Record,
        event: Event,
    ) -> Result<(), SubmissionsError> {
        let state = transition(key, record, event);
        record.get_mut().set_state(state);
        if state == SubmissionState::Unspecified {
            record.get_mut().unknown_because.clear();
            let changes = record::forget(key, record::created_at_ms(record.get()));
            self.write(changes, Survives::PowerLoss).await?;
            self.index.remove(key);
            return Ok(());
        }
        record.aged_ms = self.age.now_ms();
        // A person's word is not found again by anybody.
        let survives = match event {
            Event::SettledAccepted => Survives::PowerLoss,
            _ => Survives::Kill,
        };
        self.write_record(key, record, survives).await
    }

    /// Keeps of a request only that a person has settled it as not sent. To be called under the
    /// account's lock.
    pub async fn settle_not_sent(
        &self,
        key: &Key,
        record: &mut Record,
    ) -> Result<(), SubmissionsError> {
        let state = transition(key, record, Event::SettledNotSent);
        record.get_mut().set_state(state);
        record.get_mut().unknown_because.clear();
        record.aged_ms = self.age.now_ms();
        let changes = record::keep(key, record, true);
        self.write(changes, Survives::PowerLoss).await?;
        self.index.remove(key);
        Ok(())
    }

    /// Writes a record that is not in flight, whose state stays.
    pub async fn rewrite(&self, key: &Key, record: &Record) -> Result<(), SubmissionsError> {
        self.write_record(key, record, Survives::Kill).await
    }

    async fn write_record(
        &self,
        key: &Key,
        record: &Record,
        survives: Survives,
    ) -> Result<(), SubmissionsError> {
        let mut changes = record::keep(key, record, true);
        changes.extend(record::claimed(record.get()));
        self.write(changes, survives).await?;
        self.index.update(key, record);
        Ok(())
    }

    /// Remembers of a refused row that it would be refused again.
    pub async fn blame_row(&self, key: &Key) {
        let blamed = async {
            let _lock = self.lock(&key.account).await;
            let record = self.load(key).await?;
            let refused = record.filter(|it| it.state() == SubmissionState::Refused);
            if let Some(mut record) = refused {
                record.is_rows_fault = true;
                self.rewrite(key, &record).await?;
            }
            Ok::<_, SubmissionsError>(())
        };
        if let Err(error) = blamed.await {
            let account = &key.account;
            tracing::warn!(account, %error, "a refused row will be asked for again");
        }
    }

    /// The record of a submission as a reader sees it: without a living sender, IN_FLIGHT is
    /// UNKNOWN.
    pub async fn load(&self, key: &Key) -> Result<Option<Record>, ReadError> {
        // Before the record is read: a flight that ends meanwhile has written its outcome.
        let is_live = self.index.is_live(key);
        if self.releases().contains_key(key) {
            return Ok(None);
        }
        let Some(bytes) = self.notes.get(&key.note()).await? else {
            return Ok(None);
        };
        let mut record = Record::decode(&bytes);
        if record.state() == SubmissionState::InFlight && !is_live && !self.index.is_live(key) {
            abandon(key, &mut record);
        }
        Ok(Some(record))
    }

    /// Writes changes, and notices whether the store takes them.
    async fn write(&self, changes: Vec<NoteChange>, how: Survives) -> Result<(), AppendError> {
        let written = self.notes.change(changes, how).await;
        match &written {
            Ok(()) => self.is_down.store(false, Ordering::Release),
            Err(error) => {
                if !self.is_down.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "the store takes no writes; submissions are refused");
                }
                self.failed.notify_one();
            }
        }
        written
    }

    /// Writes changes however long the store takes none. An error: it is closed.
    pub async fn write_surely(&self, changes: Vec<NoteChange>) -> Result<(), Closed> {
        loop {
            match self.write(changes.clone(), Survives::Kill).await {
                Ok(()) => return Ok(()),
                Err(AppendError::Closed) => return Err(Closed),
                Err(AppendError::Unavailable(_)) => sleep(PAUSE).await,
            }
        }
    }

    /// Removes a record at once whose write has failed before.
    async fn release_now(&self, key: &Key) -> Result<(), SubmissionsError> {
        if !self.releases().contains_key(key) {
            return Ok(());
        }
        let _releasing = self.releasing.lock().await;
        let changes = self.releases().get(key).cloned();
        if let Some(changes) = changes {
            self.write(changes, Survives::Kill).await?;
            self.releases().remove(key);
        }
        Ok(())
    }

    /// Tries the store while it takes no writes, and removes what was not sent, until the end.
    pub async fn recover(&self, end: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = self.failed.notified() => {}
                () = end.cancelled() => return,
            }
            while self.is_down.load(Ordering::Acquire) || !self.releases().is_empty() {
                if end.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return;
                }
                self.try_store().await;
            }
        }
    }

    async fn try_store(&self) {
        let _releasing = self.releasing.lock().await;
        let releases = self.releases().clone();
        let written = if releases.is_empty() {
            self.age.note(self.notes.as_ref(), self.now_ms()).await
        } else {
            let changes = releases.values().flatten().cloned().collect();
            self.notes.change(changes, Survives::Kill).await
        };
        if written.is_ok() {
            self.releases().retain(|key, _| !releases.contains_key(key));
            if self.is_down.swap(false, Ordering::AcqRel) {
                tracing::info!("the store takes writes again");
            }
        }
    }

    fn releases(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<NoteChange>>> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a record that was left IN_FLIGHT the unknown one that it is.
fn abandon(key: &Key, record: &mut Record) {
    let state = transition(key, record, Event::Abandoned);
    let submission = record.get_mut();
    submission.set_state(state);
    DIED.clone_into(&mut submission.unknown_because);
}

/// The store is closed.
pub(super) struct Closed;

/// The state after an event. An event out of place changes nothing.
fn transition(key: &Key, record: &Record, event: Event) -> SubmissionState {
    let state = record.state();
    match state::next(state.into(), event) {
        Ok(next) => next.into(),
        Err(error) => {
            tracing::error!(account = key.account, name = key.name, %error, "ignored");
            state
        }
    }
}

/// A record that may have been written and of which nothing was sent. Dropped, it is to be
/// removed.
struct Unwritten<'a>(Option<(&'a Ledger, &'a Key, Vec<NoteChange>)>);

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        let Some((ledger, key, changes)) = self.0.take() else {
            return;
        };
        ledger.releases().insert(key.clone(), changes);
        ledger.failed.notify_one();
    }
}
