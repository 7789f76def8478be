//! Forgets submissions and uploads that have been kept for long enough.
//!
//! What is old is decided by the ledger's own age, never by the wall clock, and nothing is
//! forgotten in the first minute after a start.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::metrics::{AccountLabels, SubmissionsMetrics};
use super::record::{self, Claims, Key, KnownUpload, Record};
use super::state::{self, Event};
use super::upload::Uploads;
use super::{Options, SubmissionsError, age, trust};
use crate::proto::SubmissionState;
use crate::store::{NoteChange, Survives};

/// How often the ledger is looked through, and the first time after a start.
const EVERY: Duration = age::EVERY;
/// How many notes are read and removed at a time.
const SLICE: usize = 256;
/// After this many that are not old, no more old ones are looked for.
const MAX_YOUNG: usize = 2 * SLICE;

/// Forgets what is old every minute, until the end.
pub(super) async fn run(
    ledger: &Ledger,
    uploads: &Arc<Uploads>,
    options: &Options,
    end: &CancellationToken,
) {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            let sweep = Sweep {
                ledger,
                uploads,
                options,
            };
            if let Err(error) = sweep.run().await {
                tracing::warn!(%error, "old submissions were not forgotten; trying again later");
            }
        }
    };
    end.run_until_cancelled(looking).await;
}

/// Keeps the gauge of unknown outcomes, until the end.
pub(super) async fn count(
    ledger: &Ledger,
    options: &Options,
    metrics: &SubmissionsMetrics,
    end: &CancellationToken,
) {
    const EVERY: Duration = Duration::from_secs(1);
    let mut opened = ledger.index.opened();
    loop {
        opened.borrow_and_update();
        for account in &options.accounts {
            let labels = AccountLabels {
                account: account.clone(),
            };
            let count = ledger.index.unknown(account);
            let gauge = metrics.open.get_or_create(&labels);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let next = async {
            tokio::time::sleep(EVERY).await;
            opened.changed().await
        };
        if !matches!(end.run_until_cancelled(next).await, Some(Ok(()))) {
            return;
        }
    }
}

/// One look through everything.
pub(super) struct Sweep<'a> {
    pub ledger: &'a Ledger,
    pub uploads: &'a Arc<Uploads>,
    pub options: &'a Options,
}

impl Sweep<'_> {
    pub async fn run(&self) -> Result<(), SubmissionsError> {
        let notes = self.ledger.notes.as_ref();
        self.ledger.age.note(notes, self.ledger.now_ms()).await?;
        self.ledger.trust.tidy(notes, trust::LINGER).await?;
        for account in &self.options.accounts {
            self.settled(account).await?;
            self.open(account).await?;
            self.claims(account).await?;
            self.of_uploads(account).await?;
        }
        Ok(())
    }

    fn is_old(&self, aged_ms: u64, keep: Duration) -> bool {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        aged_ms.saturating_add(keep_ms) < self.ledger.age.now_ms()
    }

    /// How long unknown outcomes and claims are kept.
    fn longest(&self) -> Duration {
        self.options.keep_rows.max(self.options.keep)
    }

    /// Forgets settled submissions. They stand in the order in which they were made, which is
    /// nearly that in which they grow old.
    async fn settled(&self, account: &str) -> Result<(), SubmissionsError> {
        let prefix = record::settled(account);
        let (mut after, mut young) = (String::new(), 0);
        loop {
            let places = self.ledger.notes.list(&prefix, &after, SLICE).await?;
            let Some((last, _)) = places.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let keys = places.iter().map(|(place, _)| place);
            let keys = keys.filter_map(|place| Key::from_at(account, &prefix, place));
            let keys: Vec<Key> = keys.map(|(_, key)| key).collect();
            let notes = keys.iter().map(Key::note).collect();
            let records = self.ledger.notes.get_many(notes).await?;
            for (key, bytes) in keys.iter().zip(records) {
                let record = bytes.map(|bytes| Record::decode(&bytes));
                // What cannot be read may have been sent, at any time.
                let is_old =
                    |it: &Record| !it.is_unreadable() && self.is_old(it.aged_ms, self.options.keep);
                if record.as_ref().is_some_and(is_old) {
                    let _lock = self.ledger.lock(account).await;
                    let again = self.ledger.load(key).await?;
                    if let Some(again) = again.filter(is_old) {
                        self.forget(key, &again).await?;
                    }
                } else {
                    young += 1;
                }
                if young >= MAX_YOUNG {
                    return Ok(());
                }
            }
        }
    }

    /// Forgets unknown submissions, and refusals that no evidence has contradicted.
    async fn open(&self, account: &str) -> Result<(), SubmissionsError> {
        let index = &self.ledger.index;
        for key in index.take_surplus(account) {
            self.close(&key).await?;
        }
        for open in index.all(account) {
            let is_refused = open.state == SubmissionState::Refused;
            let keep = if is_refused {
                self.options.evidence_window.max(self.options.keep)
            } else {
                self.longest()
            };
            if !self.is_old(open.aged_ms, keep) {
                continue;
            }
            if open.key.is_batch() {
                // Kept as long as its upload: what is unknown must not go out again.
                if is_refused {
                    self.close(&open.key).await?;
                }
                continue;
            }
            let _lock = self.ledger.lock(account).await;
            if let Some(record) = self.ledger.load(&open.key).await? {
                self.forget(&open.key, &record).await?;
            }
        }
        Ok(())
    }

    /// Stops holding evidence against a refusal, which stays one.
    async fn close(&self, key: &Key) -> Result<(), SubmissionsError> {
        let _lock = self.ledger.lock(&key.account).await;
        let record = self.ledger.load(key).await?;
        let Some(record) = record.filter(|it| it.state() == SubmissionState::Refused) else {
            return Ok(());
        };
        let created_at_ms = record::created_at_ms(record.get());
        let open = key.at(&record::open(&key.account), created_at_ms);
        let mut changes = vec![NoteChange::forget(open)];
        if !key.is_batch() {
            let settled = key.at(&record::settled(&key.account), created_at_ms);
            changes.push(NoteChange::put(settled, Vec::new()));
        }
        self.ledger.notes.change(changes, Survives::Kill).await?;
        self.ledger.index.remove(key);
        Ok(())
    }

    /// Forgets a submission that is not in flight; to be called under the account's lock. What it
    /// claims is kept for longer: as long as unknown outcomes are,
    /// which could be settled by it otherwise. An upload keeps the claims of its rows.
    async fn forget(&self, key: &Key, record: &Record) -> Result<(), SubmissionsError> {
        if self.ledger.index.is_live(key) {
            return Ok(());
        }
        let is_absent = record.state() == SubmissionState::Unspecified;
        if !is_absent && state::next(record.state().into(), Event::Expired).is_err() {
            return Ok(());
        }
        let submission = record.get();
        let mut changes = record::forget(key, record::created_at_ms(submission));
        let keys = record::claimed(submission);
        let keys: Vec<_> = keys.into_iter().map(|claim| claim.key).collect();
        if !keys.is_empty() && !key.is_batch() {
            let place = key.at(&record::claims(&key.account), record.aged_ms);
            changes.push(NoteChange::put(place, Claims { keys }.encode_to_vec()));
        }
        self.ledger.notes.change(changes, Survives::Kill).await?;
        self.ledger.index.remove(key);
        Ok(())
    }

    async fn claims(&self, account: &str) -> Result<(), SubmissionsError> {
        let prefix = record::claims(account);
        loop {
            let places = self.ledger.notes.list(&prefix, "", SLICE).await?;
            let is_last = places.len() < SLICE;
            let mut changes = Vec::new();
            let mut has_young = false;
            for (place, bytes) in places {
                let at = Key::from_at(account, &prefix, &place);
                if at.is_some_and(|(aged_ms, _)| !self.is_old(aged_ms, self.longest())) {
                    has_young = true;
                    break;
                }
                let claims = Claims::decode(bytes.as_slice()).unwrap_or_default();
                changes.extend(claims.keys.into_iter().map(NoteChange::forget));
                changes.push(NoteChange::forget(place));
            }
            if !changes.is_empty() {
                self.ledger.notes.change(changes, Survives::Kill).await?;
            }
            if is_last || has_young {
                return Ok(());
            }
        }
    }

    async fn of_uploads(&self, account: &str) -> Result<(), SubmissionsError> {
        let prefix = record::uploads(account);
        let mut after = String::new();
        loop {
            let found = self.ledger.notes.list(&prefix, &after, SLICE).await?;
            let Some((last, _)) = found.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for (place, bytes) in found {
                if !self.is_old_upload(&bytes) {
                    continue;
                }
                let name = &place[prefix.len()..];
                // Nobody begins it meanwhile; and if somebody has since it was listed, it stays.
                let Some(_hold) = self.uploads.try_hold(account, name).await else {
                    continue;
                };
                let now = self.ledger.notes.get(&place).await?;
                if now.is_some_and(|bytes| self.is_old_upload(&bytes)) {
                    self.forget_upload(account, &place, name).await?;
                }
            }
        }
    }

    /// Whether an upload was last begun long ago. One that cannot be read is not touched.
    fn is_old_upload(&self, upload: &[u8]) -> bool {
        let upload = KnownUpload::decode(upload);
        upload.is_ok_and(|known| self.is_old(known.aged_ms, self.options.keep_rows))
    }

    /// Forgets an upload's rows and batches, then itself.
    async fn forget_upload(
        &self,
        account: &str,
        place: &str,
        name: &str,
    ) -> Result<(), SubmissionsError> {
        let notes = &self.ledger.notes;
        for prefix in record::upload_prefixes(account, name) {
            loop {
                // Evidence that is weighed meanwhile would write a batch anew.
                let _lock = self.ledger.lock(account).await;
                let found = notes.list(&prefix, "", SLICE).await?;
                if found.is_empty() {
                    break;
                }
                let mut changes = Vec::new();
                let mut forgotten = Vec::new();
                for (key, bytes) in found {
                    if let Some(batch) = key.strip_prefix(&format!("submission/{account}/")) {
                        let key = Key {
                            account: account.to_owned(),
                            name: batch.to_owned(),
                        };
                        let record = Record::decode(&bytes);
                        let claims = record::claimed(record.get()).into_iter();
                        changes.extend(claims.map(|claim| NoteChange::forget(claim.key)));
                        let created_at_ms = record::created_at_ms(record.get());
                        changes.extend(record::forget(&key, created_at_ms));
                        forgotten.push(key);
                    }
                    changes.push(NoteChange::forget(key));
                }
                notes.change(changes, Survives::Kill).await?;
                for key in &forgotten {
                    self.ledger.index.remove(key);
                }
            }
        }
        let change = NoteChange::forget(place);
        Ok(notes.change(vec![change], Survives::Kill).await?)
    }
}
