//! What has been submitted, written down: before it is sent, and again when its outcome is known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use prost::Message;
use tokio::sync::watch;
use tokio::time::sleep;

use super::awaited;
use super::check::Numbers;
use super::evidence::number_key;
use super::out::{IsOut, Out};
use super::stored::{self, Fate, Key, KnownFate, created_at_ms};
use super::sweep::{claims, forgotten};
use super::unsettled::{Open, Unsettled};
use super::upload::fates;
use super::{Clock, SubmissionsError};
use crate::proto::{Submission, SubmissionOperation, SubmissionState};
use crate::store::{AppendError, Notes, PushLog, ReadError, Survives};

/// What is written down, and what of it is still to be found out.
pub(super) struct Ledger {
    notes: Arc<dyn Notes>,
    log: Arc<dyn PushLog>,
    numbers: Numbers,
    clock: Clock,
    /// What is out under any name.
    out: Arc<Out>,
    open: Mutex<OpenOnes>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct OpenOnes {
    by_time: BTreeMap<(u64, Key), Open>,
    /// By account, then by phone number as it was sent.
    by_number: HashMap<String, HashMap<String, HashSet<Key>>>,
}

/// A page of a list of submissions.
pub struct Page {
    /// The oldest first.
    pub submissions: Vec<Submission>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// After a failure to write, the same is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);
/// So many are read at a time.
const SLICE: usize = 256;
/// A page looks at no more than so many.
const MAX_LOOKED_AT: usize = 20 * SLICE;

impl Ledger {
    /// Takes up what the store holds for these accounts. What an earlier process left in flight
    /// has an unknown outcome from now on.
    pub async fn take_up(
        notes: Arc<dyn Notes>,
        log: Arc<dyn PushLog>,
        numbers: Numbers,
        clock: Clock,
        accounts: &[String],
    ) -> Result<Self, SubmissionsError> {
        let ledger = Self {
            notes,
            log,
            numbers,
            clock,
            out: Arc::default(),
            open: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        for account in accounts {
            ledger.take_up_open(account).await?;
        }
        Ok(ledger)
    }

    async fn take_up_open(&self, account: &str) -> Result<(), SubmissionsError> {
        let prefix = stored::open(account);
        let mut after = String::new();
        loop {
            let places = self.notes.list(&prefix, &after, SLICE).await?;
            let Some((last, _)) = places.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for (_, key) in places
                .iter()
                .filter_map(|(place, _)| Key::from_at(account, &prefix, place))
            {
                let Some(mut submission) = self.load(&key).await? else {
                    continue;
                };
                if submission.state() == SubmissionState::InFlight {
                    if self.went_out_later(&submission).await? {
                        self.release(&key, &submission).await;
                        continue;
                    }
                    let because = "the gateway ended before the answer came";
                    unknown(&mut submission, because, false);
                    self.settle(&key, &submission).await?;
                } else {
                    self.note_open(&key, &submission);
                }
            }
        }
    }

    /// Whether a row of a batch was accepted with another one. That went out only because this one
    /// had not, although it was written down.
    async fn went_out_later(&self, batch: &Submission) -> Result<bool, ReadError> {
        let upload = stored::upload_name(&batch.account, &batch.upload_id);
        let rows = fates::upload_rows(batch).map(|row| stored::upload_row(&upload, &row));
        let fates = self.notes.get_many(rows.collect()).await?;
        let mut fates = fates.iter().flatten();
        Ok(fates.any(|fate| {
            let known = KnownFate::decode(fate.as_slice());
            known.is_ok_and(|known| matches!(known.fate, Some(Fate::Accepted(_))))
        }))
    }

    /// A submission of now, as it is written down before it is sent.
    pub fn draft(&self, account: &str, operation: SubmissionOperation) -> Submission {
        Submission {
            state: SubmissionState::InFlight.into(),
            operation: operation.into(),
            account: account.to_owned(),
            created_at: Some((self.clock)().into()),
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

    /// How phone numbers are read.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    pub fn notes(&self) -> &Arc<dyn Notes> {
        &self.notes
    }

    /// Writes a submission down; once this resolves, it may be sent. What is returned is to be held
    /// until its outcome has been written down.
    pub async fn write_down(
        &self,
        key: &Key,
        submission: &Submission,
    ) -> Result<IsOut, SubmissionsError> {
        let is_out = self.out.go(&key.account);
        let changes = stored::keep(key, submission, true);
        self.notes.change(changes, Survives::PowerLoss).await?;
        Ok(is_out)
    }

    /// Writes down what came of a submission.
    pub async fn settle(&self, key: &Key, submission: &Submission) -> Result<(), AppendError> {
        let is_open = is_open(submission);
        let is_batch = !submission.upload_id.is_empty();
        let mut changes = if is_batch && !is_open {
            // What is known of its rows tells it all.
            stored::forget(key, created_at_ms(submission))
        } else {
            stored::keep(key, submission, is_open)
        };
        changes.extend(fates::changes(submission, self.numbers));
        changes.extend(awaited::change(key, submission));
        self.notes.change(changes, Survives::Kill).await?;
        if is_open {
            self.note_open(key, submission);
        } else {
            self.note_settled(key, submission);
        }
        Ok(())
    }

    /// As [`settle`](Self::settle), again and again until it is done, or the store is closed.
    pub async fn settle_surely(&self, key: &Key, submission: &Submission) {
        while let Err(AppendError::Unavailable(_)) = self.settle(key, submission).await {
            sleep(PAUSE).await;
        }
    }

    /// Forgets a submission of which nothing was sent, surely.
    pub async fn release(&self, key: &Key, submission: &Submission) {
        let changes = stored::forget(key, created_at_ms(submission));
        while let Err(AppendError::Unavailable(_)) =
            self.notes.change(changes.clone(), Survives::Kill).await
        {
            sleep(PAUSE).await;
        }
    }

    /// Whether anything of an account is out, or something is still to be found of it.
    pub fn is_any_open_or_out(&self, account: &str) -> bool {
        let is_open = |open: &Open| open.key.account == account;
        self.out.is_any(account) || self.open().by_time.values().any(is_open)
    }

    /// Takes note of whose the platform's ids are, of a submission that is not kept itself, and of
    /// its rows.
    pub async fn claim(&self, answered: Submission) -> Result<(), AppendError> {
        let key = Key::of_nobody(&answered.account);
        let mut changes = fates::claims(&answered);
        changes.extend(claims(&key, &answered));
        changes.extend(awaited::change(&key, &answered));
        self.notes.change(changes, Survives::Kill).await
    }

    /// Forgets a submission that has become old.
    pub async fn forget(&self, key: &Key, submission: &Submission) -> Result<(), AppendError> {
        let changes = forgotten(key, submission);
        self.notes.change(changes, Survives::Kill).await?;
        self.note_settled(key, submission);
        Ok(())
    }

    /// A page of an account's submissions in a state, all if it is unspecified.
    pub async fn list(
        &self,
        account: &str,
        state: SubmissionState,
        page_token: &str,
        page_size: usize,
    ) -> Result<Page, SubmissionsError> {
        let prefix = match state {
            SubmissionState::InFlight | SubmissionState::Unknown => stored::open(account),
            _ => stored::all(account),
        };
        let mut after = format!("{prefix}{page_token}");
        if !page_token.is_empty() && Key::from_at(account, &prefix, &after).is_none() {
            return Err(SubmissionsError::BadPageToken);
        }
        let mut submissions = Vec::new();
        for _ in 0..MAX_LOOKED_AT / SLICE {
            let places = self.notes.list(&prefix, &after, SLICE).await?;
            let is_last = places.len() < SLICE;
            for (place, _) in places {
                if submissions.len() == page_size {
                    let next = Some(after[prefix.len()..].to_owned());
                    return Ok(Page { submissions, next });
                }
                let key = Key::from_at(account, &prefix, &place);
                after = place;
                let Some((_, key)) = key else { continue };
                let found = self.load(&key).await?;
                let wanted = |found: &Submission| {
                    state == SubmissionState::Unspecified || found.state() == state
                };
                submissions.extend(found.filter(wanted));
            }
            if is_last {
                return Ok(Page {
                    submissions,
                    next: None,
                });
            }
        }
        let next = Some(after[prefix.len()..].to_owned());
        Ok(Page { submissions, next })
    }

    fn open(&self) -> MutexGuard<'_, OpenOnes> {
        // A panic elsewhere leaves an entry too many or too few in a list of what to look for.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_open(&self, key: &Key, submission: &Submission) {
        let created_at_ms = created_at_ms(submission);
        let open = Open {
            key: key.clone(),
            operation: submission.operation(),
            created_at_ms,
            push_cursor: submission.push_cursor.clone(),
        };
        {
            let mut ones = self.open();
            for number in names(submission) {
                let all = ones.by_number.entry(key.account.clone()).or_default();
                all.entry(number).or_default().insert(key.clone());
            }
            ones.by_time.insert((created_at_ms, key.clone()), open);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    fn note_settled(&self, key: &Key, submission: &Submission) {
        {
            let mut ones = self.open();
            let place = (created_at_ms(submission), key.clone());
            if ones.by_time.remove(&place).is_none() {
                return;
            }
            let Some(all) = ones.by_number.get_mut(&key.account) else {
                return;
            };
            for number in names(submission) {
                if let Some(keys) = all.get_mut(&number) {
                    keys.remove(key);
                    if keys.is_empty() {
                        all.remove(&number);
                    }
                }
            }
            if all.is_empty() {
                ones.by_number.remove(&key.account);
            }
        }
        self.changed.send_modify(|version| *version += 1);
    }
}

#[async_trait]
impl Unsettled for Ledger {
    fn open_ones(&self) -> Vec<Open> {
        self.open().by_time.values().cloned().collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn with_number(&self, account: &str, number: &str) -> Vec<Key> {
        let open = self.open();
        let keys = open.by_number.get(account).and_then(|all| all.get(number));
        let mut keys: Vec<Key> = keys.into_iter().flatten().cloned().collect();
        keys.sort_unstable();
        keys
    }

    fn has_open_rows(&self, account: &str) -> bool {
        self.open().by_number.contains_key(account)
    }

    async fn load(&self, key: &Key) -> Result<Option<Submission>, ReadError> {
        let bytes = self.notes.get(&key.note()).await?;
        let submission = bytes.map(|bytes| Submission::decode(bytes.as_slice()));
        submission.transpose().map_err(|_| unreadable())
    }

    async fn is_claimed(&self, account: &str, task_data_id: &str) -> Result<bool, ReadError> {
        let row = self.notes.get(&stored::row(account, task_data_id)).await?;
        Ok(row.is_some())
    }

    async fn is_task_claimed(&self, account: &str, task_id: &str) -> Result<bool, ReadError> {
        let task = self.notes.get(&stored::task(account, task_id)).await?;
        Ok(task.is_some())
    }

    async fn until_back(&self, account: &str) {
        self.out.until_back(account, self.out.now()).await;
    }

    async fn found(&self, key: &Key, submission: Submission) -> Result<(), AppendError> {
        self.settle(key, &submission).await
    }
}

/// What is kept cannot be read, by a version that is older perhaps. It may have been sent.
fn unreadable() -> ReadError {
    ReadError::Unavailable("a submission that is kept cannot be read".to_owned())
}

/// Says of a submission that nobody knows what came of it.
pub(super) fn unknown(submission: &mut Submission, because: &str, timed_out: bool) {
    submission.set_state(SubmissionState::Unknown);
    because.clone_into(&mut submission.unknown_because);
    submission.timed_out = timed_out;
}

/// The phone numbers by which a submission is found: as they were sent, and as a push may have them.
fn names(submission: &Submission) -> impl Iterator<Item = String> {
    let numbers = stored::numbers(submission.request.as_ref());
    numbers.flat_map(|number| iter::once(number.to_owned()).chain(number_key(number)))
}

/// Whether something is still to be found of a submission: its outcome, or the ids of rows.
fn is_open(submission: &Submission) -> bool {
    match submission.state() {
        SubmissionState::Unknown | SubmissionState::InFlight => true,
        SubmissionState::Accepted => stored::ids(submission).iter().any(String::is_empty),
        SubmissionState::Refused | SubmissionState::Unspecified => false,
    }
}
