//! An index, in memory, of what may have been sent and is not settled.
//!
//! It answers three questions without a look at the store: whose row can a call record be about,
//! is a request still in flight, and has everything finished that was in flight at some moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::record::{Fit, Key, Record, created_at_ms, rows};
use crate::proto::submission::Request;
use crate::proto::{SubmissionEvidence, SubmissionState};
use crate::submissions::check::Numbers;

/// With more unknown rows of one account than this, nothing new with an id is sent.
pub(super) const MAX_UNKNOWN_ROWS: usize = 200_000;
/// The refusals of one account that evidence is held against; the oldest make room.
const MAX_REFUSED: usize = 2000;
/// The refusals that have made room and wait for their places in the store to be changed.
const MAX_SURPLUS: usize = 100_000;
/// The evidence that a request in flight collects.
const MAX_HEARD: usize = 100;

/// Everything open, by account.
pub(super) struct OpenIndex {
    inner: Mutex<Inner>,
    /// Changes whenever a batch of an upload ends.
    ended: watch::Sender<u64>,
    /// Changes whenever an outcome becomes unknown, or known.
    opened: watch::Sender<u64>,
    numbers: Numbers,
}

#[derive(Default)]
struct Inner {
    next: u64,
    accounts: BTreeMap<String, Account>,
}

#[derive(Default)]
struct Account {
    entries: HashMap<Key, Entry>,
    by_number: HashMap<String, Vec<(Key, usize)>>,
    by_task_name: BTreeMap<String, Vec<Key>>,
    /// Those with call records that fit a row and have not settled it.
    undecided: HashSet<Key>,
    /// The batches of uploads that are in flight.
    batches: BTreeSet<u64>,
    /// Refused ones, the oldest first.
    refused: BTreeSet<(u64, Key)>,
    /// Those that have made room since the last sweep.
    surplus: Vec<Key>,
    rows: usize,
    /// Those that are not refused.
    unknown_rows: usize,
    /// Keys of ids that answers without a request id have claimed, until the store has them.
    claimed: HashSet<String>,
}

struct Entry {
    created_at_ms: u64,
    aged_ms: u64,
    state: SubmissionState,
    /// What finds it: number keys of its rows in their order, or the name of its task.
    numbers: Vec<Option<String>>,
    task_name: Option<String>,
    /// Whether call records fit a row of it and have not settled it.
    is_undecided: bool,
    /// While it is in flight.
    live: Option<Live>,
}

struct Live {
    number: u64,
    request: Arc<Request>,
    /// Whether it can have been sent by now.
    can_be_sent: bool,
    heard: Vec<Heard>,
}

/// Evidence about a request that is in flight: it counts once the request ends unanswered.
#[derive(Clone)]
pub(super) struct Heard {
    pub evidence: SubmissionEvidence,
    pub fit: Option<Fit>,
}

/// An open submission.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub key: Key,
    pub state: SubmissionState,
    pub created_at_ms: u64,
    pub aged_ms: u64,
}

/// A moment; requests were sent before it or after.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

/// A request is in flight as long as this is held. Dropped without a word about the outcome, it
/// leaves an unknown one.
pub(super) struct InFlight {
    index: Arc<OpenIndex>,
    key: Key,
    number: u64,
    /// Whether the index forgets it with the drop: nothing of it is in the store.
    forgets: bool,
}

impl OpenIndex {
    pub fn new(numbers: Numbers) -> Self {
        Self {
            inner: Mutex::default(),
            ended: watch::Sender::new(0),
            opened: watch::Sender::new(0),
            numbers,
        }
    }

    /// Registers a request before it is recorded, or before it is sent without a record.
    pub fn begin(
        self: &Arc<Self>,
        key: &Key,
        record: &Record,
        request: Arc<Request>,
        is_recorded_later: bool,
    ) -> InFlight {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        let account = inner.accounts.entry(key.account.clone()).or_default();
        account.remove(key);
        let mut entry = self.entry(record, Some(&request));
        entry.live = Some(Live {
            number,
            request,
            can_be_sent: !is_recorded_later,
            heard: Vec::new(),
        });
        if key.is_batch() {
            account.batches.insert(number);
        }
        account.insert(key, entry);
        drop(inner);
        InFlight {
            index: self.clone(),
            key: key.clone(),
            number,
            forgets: true,
        }
    }

    /// Takes the record of a submission as the store has it now.
    pub fn update(&self, key: &Key, record: &Record) {
        {
            let mut inner = self.inner();
            let account = inner.accounts.entry(key.account.clone()).or_default();
            let live = account.remove(key).and_then(|entry| entry.live);
            if record.is_open() && !record.is_unreadable() {
                let mut entry = self.entry(record, None);
                entry.live = live;
                account.insert(key, entry);
            }
        }
        notify(&self.opened);
    }

    /// Forgets a submission of which nothing is to be found any more.
    pub fn remove(&self, key: &Key) {
        if let Some(account) = self.inner().accounts.get_mut(&key.account) {
            account.remove(key);
        }
        notify(&self.opened);
    }

    fn entry(&self, record: &Record, request: Option<&Request>) -> Entry {
        let submission = record.get();
        let request = request.or(submission.request.as_ref());
        let numbers = rows(request).iter();
        let task_name = match request {
            Some(Request::CreateTask(request)) => Some(request.task_name.clone()),
            Some(Request::CallOut(_) | Request::InsertTaskData(_)) | None => None,
        };
        Entry {
            created_at_ms: created_at_ms(submission),
            aged_ms: record.aged_ms,
            state: submission.state(),
            numbers: numbers
                .map(|row| self.numbers.key(row.values.first()?))
                .collect(),
            task_name,
            is_undecided: !record.fits.is_empty(),
            live: None,
        }
    }

    /// The rows that have one of these numbers, and their submissions, without repetition.
    pub fn with_numbers<'a>(
        &self,
        account: &str,
        texts: impl Iterator<Item = &'a str>,
    ) -> Vec<(Key, usize)> {
        let inner = self.inner();
        let Some(account) = inner.accounts.get(account).filter(|it| it.rows > 0) else {
            return Vec::new();
        };
        let keys = texts.filter_map(|text| self.numbers.key(text));
        let mut found: Vec<_> = keys
            .filter_map(|number| account.by_number.get(&number))
            .flatten()
            .cloned()
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The submissions that have rows with one of these numbers, and call records that fit a row
    /// and have not settled it.
    pub fn undecided<'a>(
        &self,
        account: &str,
        texts: impl Iterator<Item = &'a str>,
    ) -> BTreeSet<Key> {
        let inner = self.inner();
        let Some(account) = inner.accounts.get(account) else {
            return BTreeSet::new();
        };
        if account.undecided.is_empty() {
            return BTreeSet::new();
        }
        let keys = texts.filter_map(|text| self.numbers.key(text));
        let rows = keys.filter_map(|number| account.by_number.get(&number));
        rows.flatten()
            .map(|(key, _)| key)
            .filter(|key| account.undecided.contains(key))
            .cloned()
            .collect()
    }

    /// The open CreateTask submissions with this name.
    pub fn with_task_name(&self, account: &str, name: &str) -> Vec<Key> {
        let inner = self.inner();
        let found = inner.accounts.get(account);
        let found = found.and_then(|account| account.by_task_name.get(name));
        found.cloned().unwrap_or_default()
    }

    /// What a request in flight asks for; `None`: it is not in flight.
    pub fn live_request(&self, key: &Key) -> Option<(Arc<Request>, u64)> {
        let inner = self.inner();
        let entry = inner.accounts.get(&key.account)?.entries.get(key)?;
        let live = entry.live.as_ref()?;
        Some((live.request.clone(), entry.created_at_ms))
    }

    pub fn is_live(&self, key: &Key) -> bool {
        self.live_request(key).is_some()
    }

    /// Keeps evidence for a request in flight; false: it is not in flight any more.
    pub fn hear(&self, key: &Key, heard: &Heard) -> bool {
        let mut inner = self.inner();
        let entry = inner.accounts.get_mut(&key.account);
        let entry = entry.and_then(|account| account.entries.get_mut(key));
        let Some(live) = entry.and_then(|entry| entry.live.as_mut()) else {
            return false;
        };
        // What came before it could be sent is not about it.
        if live.can_be_sent && live.heard.len() < MAX_HEARD {
            live.heard.push(heard.clone());
        }
        true
    }

    /// Claims the ids of an answer, by their keys, until the store has them.
    pub fn claim(&self, account: &str, keys: &[String]) {
        let mut inner = self.inner();
        let account = inner.accounts.entry(account.to_owned()).or_default();
        account.claimed.extend(keys.iter().cloned());
    }

    /// Ends such claims: the store has them.
    pub fn unclaim(&self, account: &str, keys: &[String]) {
        if let Some(account) = self.inner().accounts.get_mut(account) {
            for key in keys {
                account.claimed.remove(key);
            }
        }
    }

    pub fn is_claimed(&self, account: &str, key: &str) -> bool {
        let inner = self.inner();
        let account = inner.accounts.get(account);
        account.is_some_and(|account| account.claimed.contains(key))
    }

    /// Whether an account has open rows.
    pub fn has_rows(&self, account: &str) -> bool {
        let inner = self.inner();
        inner.accounts.get(account).is_some_and(|it| it.rows > 0)
    }

    /// Whether an account has as many unknown rows as it can have.
    pub fn is_full(&self, account: &str) -> bool {
        let inner = self.inner();
        let account = inner.accounts.get(account);
        account.is_some_and(|it| it.unknown_rows >= MAX_UNKNOWN_ROWS)
    }

    /// Everything open that is not in flight, the oldest first.
    pub fn all(&self, account: &str) -> Vec<Open> {
        let inner = self.inner();
        let Some(account) = inner.accounts.get(account) else {
            return Vec::new();
        };
        let entries = account.entries.iter();
        let mut all: Vec<_> = entries
            .filter(|(_, entry)| entry.live.is_none())
            .map(|(key, entry)| Open {
                key: key.clone(),
                state: entry.state,
                created_at_ms: entry.created_at_ms,
                aged_ms: entry.aged_ms,
            })
            .collect();
        drop(inner);
        all.sort_by(|a, b| (a.created_at_ms, &a.key).cmp(&(b.created_at_ms, &b.key)));
        all
    }

    /// How many submissions of an account have an unknown outcome.
    pub fn unknown(&self, account: &str) -> usize {
        let inner = self.inner();
        let entries = inner.accounts.get(account).map(|it| it.entries.values());
        let is_unknown =
            |entry: &&Entry| entry.live.is_none() && entry.state != SubmissionState::Refused;
        entries.map_or(0, |entries| entries.filter(is_unknown).count())
    }

    /// The refusals that evidence is not held against any longer.
    pub fn take_surplus(&self, account: &str) -> Vec<Key> {
        let mut inner = self.inner();
        let account = inner.accounts.get_mut(account);
        account.map_or_else(Vec::new, |account| std::mem::take(&mut account.surplus))
    }

    /// The CreateTask submissions whose outcome is unknown.
    pub fn unknown_tasks(&self) -> Vec<Key> {
        let inner = self.inner();
        let accounts = inner.accounts.values();
        let is_unknown = |account: &Account, key: &&Key| {
            let entry = account.entries.get(*key);
            entry.is_some_and(|it| it.live.is_none() && it.state != SubmissionState::Refused)
        };
        accounts
            .flat_map(|account| {
                let keys = account.by_task_name.values().flatten();
                keys.filter(|key| is_unknown(account, key))
            })
            .cloned()
            .collect()
    }

    /// Changes whenever an outcome becomes unknown, or known.
    pub fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Whether a batch of an upload is in flight that can have a row with one of these numbers.
    pub fn is_batch_in_flight<'a>(
        &self,
        account: &str,
        numbers: Option<impl Iterator<Item = &'a str>>,
    ) -> bool {
        let is_any = self.is_any_before(account, self.now());
        let Some(numbers) = numbers.filter(|_| is_any) else {
            return is_any;
        };
        let rows = self.with_numbers(account, numbers);
        rows.iter()
            .any(|(key, _)| key.is_batch() && self.is_live(key))
    }

    /// This moment.
    pub fn now(&self) -> Moment {
        Moment(self.inner().next)
    }

    /// Waits until every batch of an upload has ended that was sent before a moment.
    pub async fn until_ended(&self, account: &str, moment: Moment) {
        let mut ended = self.ended.subscribe();
        while self.is_any_before(account, moment) {
            // The sender is this index's own.
            let _ = ended.changed().await;
        }
    }

    fn is_any_before(&self, account: &str, moment: Moment) -> bool {
        let inner = self.inner();
        let first = inner.accounts.get(account);
        let first = first.and_then(|account| account.batches.first());
        first.is_some_and(|first| *first < moment.0)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// What it counts towards the bound.
    fn weight(&self) -> usize {
        self.numbers.len().max(1)
    }
}

impl Account {
    fn insert(&mut self, key: &Key, entry: Entry) {
        for (row, number) in entry.numbers.iter().enumerate() {
            if let Some(number) = number {
                let rows = self.by_number.entry(number.clone()).or_default();
                rows.push((key.clone(), row));
            }
        }
        if let Some(name) = &entry.task_name {
            let keys = self.by_task_name.entry(name.clone()).or_default();
            keys.push(key.clone());
        }
        if entry.is_undecided {
            self.undecided.insert(key.clone());
        }
        let is_refused = entry.state == SubmissionState::Refused;
        self.rows += entry.numbers.len();
        if is_refused {
            self.refused.insert((entry.created_at_ms, key.clone()));
        } else {
            self.unknown_rows += entry.weight();
        }
        self.entries.insert(key.clone(), entry);
        if self.refused.len() > MAX_REFUSED
            && let Some((_, oldest)) = self.refused.first().cloned()
        {
            self.remove(&oldest);
            if self.surplus.len() < MAX_SURPLUS {
                self.surplus.push(oldest);
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.rows -= entry.numbers.len();
        if entry.state != SubmissionState::Refused {
            self.unknown_rows -= entry.weight();
        }
        for number in entry.numbers.iter().flatten() {
            if let Some(rows) = self.by_number.get_mut(number) {
                rows.retain(|(other, _)| other != key);
                if rows.is_empty() {
                    self.by_number.remove(number);
                }
            }
        }
        if let Some(name) = &entry.task_name
            && let Some(keys) = self.by_task_name.get_mut(name)
        {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.by_task_name.remove(name);
            }
        }
        self.undecided.remove(key);
        self.refused.remove(&(entry.created_at_ms, key.clone()));
        Some(entry)
    }
}

fn notify(version: &watch::Sender<u64>) {
    version.send_modify(|version| *version += 1);
}

impl InFlight {
    /// The store has a record of it: it can be sent now, and an outcome that nobody learns is
    /// unknown.
    pub fn recorded(&mut self) {
        self.forgets = false;
        let mut inner = self.index.inner();
        let entry = inner.accounts.get_mut(&self.key.account);
        let entry = entry.and_then(|account| account.entries.get_mut(&self.key));
        if let Some(live) = entry.and_then(|entry| entry.live.as_mut()) {
            live.can_be_sent = true;
        }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether the store has a record of it.
    pub fn is_recorded(&self) -> bool {
        !self.forgets
    }

    /// The evidence that came while the request was in flight.
    pub fn heard(&self) -> Vec<Heard> {
        let inner = self.index.inner();
        let entry = inner.accounts.get(&self.key.account);
        let entry = entry.and_then(|account| account.entries.get(&self.key));
        let live = entry.and_then(|entry| entry.live.as_ref());
        live.map_or_else(Vec::new, |live| live.heard.clone())
    }

    /// Ends the flight: the store has this record of it, or none.
    pub fn end(mut self, record: Option<&Record>) {
        let open = record.filter(|record| record.is_open());
        self.forgets = open.is_none();
        self.leave(open);
    }

    fn leave(&self, record: Option<&Record>) {
        let mut inner = self.index.inner();
        let Some(account) = inner.accounts.get_mut(&self.key.account) else {
            return;
        };
        account.batches.remove(&self.number);
        let live = account.entries.get(&self.key).map(|it| it.live.as_ref());
        // Otherwise it has ended before; another flight may have the key since.
        if live.flatten().is_none_or(|it| it.number != self.number) {
            return;
        }
        let Some(mut entry) = account.remove(&self.key) else {
            return;
        };
        entry.live = None;
        if !self.forgets {
            let entry = record.map_or(entry, |record| self.index.entry(record, None));
            account.insert(&self.key, entry);
        }
        drop(inner);
        if !self.forgets {
            notify(&self.index.opened);
        }
        if self.key.is_batch() {
            notify(&self.index.ended);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Of one without a record, a panic leaves no trace but this: it stays in flight.
        if !(self.forgets && std::thread::panicking()) {
            // Does nothing where the flight has ended.
            self.leave(None);
        }
    }
}

#[cfg(test)]
impl OpenIndex {
    pub fn assert_idle(&self) {
        let inner = self.inner();
        for account in inner.accounts.values() {
            let live = account.entries.values().filter(|it| it.live.is_some());
            assert_eq!(live.count(), 0, "requests are in flight for ever");
            assert_eq!(account.claimed.len(), 0, "claims are held for ever");
            let rows = account.by_number.values().map(Vec::len).sum::<usize>();
            let known = account.entries.values().flat_map(|it| &it.numbers);
            assert_eq!(rows, known.flatten().count(), "rows of no submission");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::proto::{CallOutRequest, Row, Submission};

    fn record(state: SubmissionState, number: &str) -> Record {
        let mut record = Record::new(Submission {
            request: Some(Request::CallOut(CallOutRequest {
                call_list: vec![Row {
                    values: vec![number.to_owned()],
                }],
                ..CallOutRequest::default()
            })),
            ..Submission::default()
        });
        record.get_mut().set_state(state);
        record
    }

    fn begin(index: &Arc<OpenIndex>, name: &str, is_recorded: bool) -> InFlight {
        let name = if is_recorded {
            format!("u.{name}")
        } else {
            format!("p.{name}")
        };
        let name = name.as_str();
        let record = record(SubmissionState::InFlight, "13800138000");
        let request = Arc::new(record.get().request.clone().unwrap());
        let mut flight = index.begin(&key(name), &record, request, is_recorded);
        if is_recorded {
            flight.recorded();
        }
        flight
    }

    fn key(name: &str) -> Key {
        Key {
            account: "a".to_owned(),
            name: name.to_owned(),
        }
    }

    fn found(index: &OpenIndex) -> Vec<String> {
        let found = index.with_numbers("a", ["+86 138 0013 8000"].into_iter());
        found.into_iter().map(|(key, _)| key.name).collect()
    }

    #[test]
    fn a_dropped_flight_stays_open_if_it_is_recorded_and_goes_if_not() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        let (recorded, other) = (begin(&index, "r", true), begin(&index, "p", false));
        assert_eq!(found(&index), ["p.p", "u.r"]);
        drop((recorded, other));
        assert_eq!(found(&index), ["u.r"]);
        assert!(!index.is_live(&key("u.r")));
    }

    #[test]
    fn a_flight_ends_with_what_the_store_has() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        for (state, expected) in [
            (SubmissionState::Accepted, vec![]),
            (SubmissionState::Unknown, vec!["u.r".to_owned()]),
            (SubmissionState::Refused, vec!["u.r".to_owned()]),
        ] {
            begin(&index, "r", true).end(Some(&record(state, "13800138000")));
            assert_eq!(found(&index), expected, "{state:?}");
            index.remove(&key("u.r"));
        }
        begin(&index, "r", true).end(None);
        assert_eq!(found(&index), [""; 0]);
        assert!(!index.has_rows("a"));
    }

    #[test]
    fn only_submissions_with_records_that_have_not_settled_their_rows_are_undecided() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        let undecided = |number: &str| {
            let found = index.undecided("a", [number].into_iter());
            found.into_iter().map(|key| key.name).collect::<Vec<_>>()
        };
        let mut unknown = record(SubmissionState::Unknown, "13800138000");
        index.update(&key("r.without"), &unknown);
        assert_eq!(undecided("13800138000"), [""; 0]);
        unknown.fits.push(Fit::default());
        begin(&index, "with", true).end(Some(&unknown));
        assert_eq!(undecided("+86 138 0013 8000"), ["u.with"]);
        assert_eq!(undecided("13800138001"), [""; 0]);
        unknown.fits.clear();
        index.update(&key("u.with"), &unknown);
        assert_eq!(undecided("13800138000"), [""; 0]);
    }

    #[test]
    fn only_what_was_sent_before_the_moment_is_waited_for() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        let first = begin(&index, "1", true);
        let moment = index.now();
        let _later = begin(&index, "2", true);
        assert!(index.until_ended("b", moment).now_or_never().is_some());
        assert!(index.until_ended("a", moment).now_or_never().is_none());
        drop(first);
        assert!(index.until_ended("a", moment).now_or_never().is_some());
    }

    #[test]
    fn the_oldest_refusals_make_room_and_count_for_no_bound() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        for at in 0..MAX_REFUSED + 3 {
            let mut refused = record(SubmissionState::Refused, "13800138000");
            refused.get_mut().created_at = Some(prost_types::Timestamp {
                seconds: i64::try_from(at).unwrap(),
                nanos: 0,
            });
            index.update(&key(&format!("r.{at:06}")), &refused);
        }
        let surplus = index.take_surplus("a");
        assert_eq!(surplus, [0, 1, 2].map(|at| key(&format!("r.{at:06}"))));
        assert_eq!(index.all("a").len(), MAX_REFUSED);
        assert_eq!(index.unknown("a"), 0);
        assert!(!index.is_full("a"));
    }

    #[test]
    fn an_account_is_full_of_unknown_rows_and_has_room_again_when_some_are_settled() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        let mut unknown = record(SubmissionState::Unknown, "13800138000");
        if let Some(Request::CallOut(request)) = &mut unknown.get_mut().request {
            request.call_list = (0..1000)
                .map(|at| Row {
                    values: vec![format!("138{at:08}")],
                })
                .collect();
        }
        for at in 0..MAX_UNKNOWN_ROWS / 1000 {
            assert!(!index.is_full("a"));
            index.update(&key(&format!("r.{at}")), &unknown);
        }
        assert!(index.is_full("a") && !index.is_full("b"));
        index.remove(&key("r.0"));
        assert!(!index.is_full("a"));
    }

    #[test]
    fn evidence_is_kept_for_a_flight_and_only_so_much_of_it() {
        let index = Arc::new(OpenIndex::new(Numbers::default()));
        let heard = Heard {
            evidence: SubmissionEvidence::default(),
            fit: None,
        };
        assert!(!index.hear(&key("u.r"), &heard));
        let flight = begin(&index, "r", true);
        for _ in 0..2 * MAX_HEARD {
            assert!(index.hear(&key("u.r"), &heard));
        }
        assert_eq!(flight.heard().len(), MAX_HEARD);
    }
}
