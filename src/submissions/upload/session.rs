//! One stream of an upload: which rows need not be sent, and which go out in batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Target};
use super::rows::{self, Batches, Known, Ready};
use super::verdict::Verdict;
use super::{
    BATCH, Refusal, RowFault, RowOutcome, RowResult, Stopped, UploadEvent, UploadLock, Uploads,
};
use crate::platform::Code;
use crate::proto::{DuplicateRule, UploadHeader, UploadProgress, UploadRow};
use crate::random;
use crate::submissions::check::{self, Checked, RowFault as CheckFault};
use crate::submissions::metrics::Outcome;
use crate::submissions::record::{RowState, SentRow};
use crate::submissions::{Caller, SubmissionsError};

/// The results that wait for a client that does not read; then no more rows are taken.
const RESULTS: usize = 16 * 1024;

/// One stream of an upload.
pub struct Session {
    shared: Arc<Shared>,
    columns: usize,
    numbers_rule: DuplicateRule,
    keys_rule: DuplicateRule,
    ready: Vec<Ready>,
    batches: Batches,
    /// Room for batches: some are sent, others are being recorded meanwhile.
    room: Arc<Semaphore>,
    max_room: u32,
    events: Option<mpsc::Receiver<UploadEvent>>,
}

/// What a session shares with its batches.
pub(super) struct Shared {
    lock: UploadLock,
    pub account: String,
    pub client: String,
    pub upload_id: String,
    pub target: Target,
    pub verdict: Mutex<Verdict>,
    /// Whether refused inserts have left nothing so far.
    pub may_halve: tokio::sync::Mutex<bool>,
    /// The rows that the task had before the first batch.
    pub rows_before: OnceCell<Option<i64>>,
    /// Whether what this session has put into the task is not known.
    pub is_any_unknown: AtomicBool,
    /// The rows that the platform has taken in this session.
    pub taken: AtomicI64,
    /// Batches in a row without a readable answer.
    pub unanswered: AtomicU32,
    /// One permit for each batch that is being sent.
    pub sending: Arc<Semaphore>,
    pub max_sending: u32,
    events: mpsc::Sender<UploadEvent>,
    counts: Counts,
    in_play: Mutex<InPlay>,
    taken_over: CancellationToken,
    drain: CancellationToken,
    stop: CancellationToken,
    stopped: OnceLock<Stopped>,
    next_batch: AtomicU64,
}

#[derive(Default)]
struct Counts {
    received: AtomicI64,
    accepted: AtomicI64,
    refused: AtomicI64,
    unknown: AtomicI64,
}

/// Rows that are ready or in flight, or that have ended since the store was last read.
#[derive(Default)]
struct InPlay {
    /// How often each row key occurs.
    keys: HashMap<String, usize>,
    /// How often each number occurs, and the key of one row that has it.
    numbers: HashMap<String, (usize, String)>,
    /// Those that have ended: the store has their outcome.
    ended: Vec<(String, String)>,
}

impl Session {
    pub(super) fn new(
        lock: UploadLock,
        caller: Caller<'_>,
        header: UploadHeader,
        taken_over: CancellationToken,
        drain: CancellationToken,
    ) -> Self {
        let options = &lock.uploads.options;
        let rule = |own: DuplicateRule, configured| match own {
            DuplicateRule::Unspecified => configured,
            own => own,
        };
        let numbers_rule = rule(header.duplicate_numbers(), options.duplicate_numbers);
        let keys_rule = rule(header.duplicate_row_keys(), options.duplicate_row_keys);
        let max_sending = u32::try_from(options.max_batches.max(1)).unwrap_or(u32::MAX / 2);
        // One more is recorded while these are sent: a kill leaves no more than that unknown.
        let max_room = max_sending + 1;
        let (sender, events) = mpsc::channel(RESULTS);
        let columns = header.call_column.len();
        let batches = Batches::new(caller.account, &lock.name);
        let shared = Shared {
            account: caller.account.to_owned(),
            client: caller.client.to_owned(),
            upload_id: header.upload_id.clone(),
            target: Target::new(header),
            verdict: Mutex::default(),
            may_halve: tokio::sync::Mutex::new(true),
            rows_before: OnceCell::new(),
            is_any_unknown: AtomicBool::new(false),
            taken: AtomicI64::new(0),
            unanswered: AtomicU32::new(0),
            sending: Arc::new(Semaphore::new(max_sending as usize)),
            max_sending,
            events: sender,
            counts: Counts::default(),
            in_play: Mutex::default(),
            taken_over,
            drain,
            stop: CancellationToken::new(),
            stopped: OnceLock::new(),
            next_batch: AtomicU64::new(first_batch()),
            lock,
        };
        Self {
            shared: Arc::new(shared),
            columns,
            numbers_rule,
            keys_rule,
            ready: Vec::new(),
            batches,
            room: Arc::new(Semaphore::new(max_room as usize)),
            max_room,
            events: Some(events),
        }
    }

    /// What the client learns; to be taken once.
    pub fn events(&mut self) -> Option<mpsc::Receiver<UploadEvent>> {
        self.events.take()
    }

    /// How long the stream may wait for a row.
    pub fn idle_timeout(&self) -> Duration {
        self.uploads().options.idle_timeout
    }

    /// Whether rows wait for more, to go out together.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Resolves when the stream is to end before its rows do.
    pub fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
        let shared = self.shared.clone();
        async move {
            shared.until_stopped().await;
            shared.why_stopped()
        }
    }

    /// Takes rows: answers those that need not be sent, sends what makes a batch.
    pub async fn take(&mut self, rows: Vec<UploadRow>) -> Result<(), Stopped> {
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let received = &self.shared.counts.received;
        received.fetch_add(count, Ordering::Relaxed);
        let mut rows = rows.into_iter();
        loop {
            let some: Vec<UploadRow> = rows.by_ref().take(BATCH).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.take_some(some).await?;
        }
    }

    async fn take_some(&mut self, rows: Vec<UploadRow>) -> Result<(), Stopped> {
        let numbers = self.uploads().ledger.numbers;
        let checked = rows
            .into_iter()
            .map(|mut row| (check::check(&mut row, self.columns, &numbers), row));
        let checked: Vec<_> = checked.collect();
        let good = checked.iter().filter_map(|(checked, row)| {
            let number = &checked.as_ref().ok()?.number;
            Some((row, number.as_str()))
        });
        // Before the store is read: what has ended by now is found there, and what ends later stays
        // in play until the store is read for the next rows.
        self.shared.in_play().forget_ended();
        self.batches.forget();
        let mut known = self.known(good).await?.into_iter();
        for (checked, row) in checked {
            match checked {
                Ok(checked) => {
                    let known = known.next().unwrap_or_default();
                    self.decide(row, checked, known).await?;
                }
                Err(fault) => {
                    let outcome = RowOutcome::Faulty(of_check(&fault));
                    self.answer(row.row_key, outcome, false).await;
                }
            }
        }
        Ok(())
    }

    async fn known<'a>(
        &self,
        rows: impl Iterator<Item = (&'a UploadRow, &'a str)>,
    ) -> Result<Vec<Known>, Stopped> {
        let known = rows::known(&self.uploads().ledger, &self.shared.lock.name, rows).await;
        known.map_err(|error| Stopped::Submissions(error.into()))
    }

    /// Answers a row, or makes it ready to be sent.
    async fn decide(
        &mut self,
        row: UploadRow,
        checked: Checked,
        mut known: Known,
    ) -> Result<(), Stopped> {
        let number = checked.number;
        if self.shared.in_play().keys.contains_key(&row.row_key) {
            // The outcome of the one before decides about this one.
            self.flush().await?;
            self.wait_for_all().await?;
            self.batches.forget();
            let rows = std::iter::once((&row, number.as_str()));
            known = self.known(rows).await?.pop().unwrap_or_default();
        }
        if known.is_unreadable {
            let outcome = RowOutcome::Unknown("the record of the row cannot be read".to_owned());
            self.answer(row.row_key, outcome, true).await;
            return Ok(());
        }
        let digest = self.uploads().ledger.hash_key.digest(&row.values);
        let (same, others): (Vec<_>, Vec<_>) =
            (known.sent.rows.into_iter()).partition(|sent| sent.digest == digest);
        if let Some(sent) = same.first()
            && let Some(outcome) = known_outcome(self.state(sent).await?)
        {
            self.answer(row.row_key, outcome, true).await;
            return Ok(());
        }
        let mut faults: Vec<(DuplicateRule, RowFault)> = Vec::new();
        let others = self.that_count(others).await?;
        if !others.is_empty() {
            faults.push((self.keys_rule, duplicate_key()));
        }
        let holder = known
            .number
            .filter(|it| it.row_key != row.row_key || it.digest != digest);
        let holder = self.that_count(holder.into_iter().collect()).await?.pop();
        let in_play = self.shared.in_play().numbers.get(&number).cloned();
        let in_play = in_play.map(|(_, row_key)| row_key);
        let in_play = in_play.filter(|row_key| *row_key != row.row_key);
        let owns_number = holder.is_none() && in_play.is_none();
        if let Some(row_key) = in_play.or(holder.map(|it| it.row_key)) {
            faults.push((self.numbers_rule, duplicate_number(&row_key)));
        }
        let refused = faults.iter().find(|(rule, _)| *rule != DuplicateRule::Warn);
        if let Some((_, fault)) = refused {
            let outcome = RowOutcome::Faulty(fault.clone());
            self.answer(row.row_key, outcome, false).await;
            return Ok(());
        }
        let mut warnings: Vec<_> = faults.into_iter().map(|(_, fault)| fault).collect();
        if checked.is_rewritten {
            warnings.push(rewritten());
        }
        self.shared.in_play().add(&row.row_key, &number);
        self.ready.push(Ready {
            row,
            number,
            warnings,
            others,
            owns_number,
        });
        if self.ready.len() == BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    /// Those of some sent rows that hold their key or number: refused ones leave them to others.
    async fn that_count(&mut self, sent: Vec<SentRow>) -> Result<Vec<SentRow>, Stopped> {
        let mut count = Vec::new();
        for sent in sent {
            match self.state(&sent).await? {
                RowState::Absent | RowState::Refused { .. } => {}
                RowState::Accepted(_) | RowState::Unknown(_) => count.push(sent),
            }
        }
        Ok(count)
    }

    async fn state(&mut self, sent: &SentRow) -> Result<RowState, Stopped> {
        let ledger = self.shared.uploads().ledger.clone();
        let state = self.batches.state(&ledger, sent).await;
        state.map_err(|error| Stopped::Submissions(error.into()))
    }

    /// Sends what is ready, once there is room for a batch.
    pub async fn flush(&mut self) -> Result<(), Stopped> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let room = self.room.clone().acquire_owned();
        let room = tokio::select! {
            biased;
            why = self.stopped() => return Err(why),
            room = room => room,
        };
        let Ok(room) = room else {
            return Err(self.shared.why_stopped());
        };
        let batch = Batch::new(self.shared.clone(), std::mem::take(&mut self.ready), room);
        self.uploads().running.spawn(batch.run());
        Ok(())
    }

    /// Sends the rest, and waits until every row has a result.
    pub async fn finish(mut self) -> Result<(), Stopped> {
        self.flush().await?;
        self.wait_for_all().await?;
        self.shared.report_progress().await;
        Ok(())
    }

    /// Waits until every row that was sent has a result.
    async fn wait_for_all(&self) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            why = self.stopped() => return Err(why),
            () = self.wait_for_batches() => {}
        }
        // A batch that ends early says so before it makes room.
        if self.shared.is_stopped() {
            return Err(self.shared.why_stopped());
        }
        Ok(())
    }

    /// Waits until no batch is under way, whatever its outcome.
    pub async fn wait_for_batches(&self) {
        // Never closed.
        let _ = self.room.acquire_many(self.max_room).await;
    }

    async fn answer(&self, row_key: String, outcome: RowOutcome, known_before: bool) {
        let result = RowResult {
            row_key,
            outcome,
            warnings: Vec::new(),
            known_before,
        };
        self.shared.report_row(result).await;
    }

    fn uploads(&self) -> &Arc<Uploads> {
        self.shared.uploads()
    }
}

impl Drop for Session {
    /// What is in flight goes on to its answer; the rest is not sent.
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    pub fn uploads(&self) -> &Arc<Uploads> {
        &self.lock.uploads
    }

    pub fn upload_name(&self) -> &str {
        &self.lock.name
    }

    /// The number of the next batch.
    pub fn next_batch(&self) -> u64 {
        self.next_batch.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether nothing more is to be sent.
    pub fn is_stopped(&self) -> bool {
        let tokens = [&self.stop, &self.taken_over, &self.drain];
        tokens.into_iter().any(CancellationToken::is_cancelled)
    }

    /// Resolves when nothing more is to be sent.
    pub async fn until_stopped(&self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.taken_over.cancelled() => {}
            () = self.drain.cancelled() => {}
        }
    }

    /// Why nothing more is sent.
    pub fn why_stopped(&self) -> Stopped {
        match self.stopped.get() {
            Some(why) => why.clone(),
            None if self.taken_over.is_cancelled() => Stopped::TakenOver,
            None => Stopped::Draining,
        }
    }

    /// Ends the stream.
    pub fn stop(&self, why: Stopped) {
        // The first reason is the one.
        let _ = self.stopped.set(why);
        self.stop.cancel();
    }

    pub fn verdict(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the result of a row, when the client has room for it.
    pub async fn report_row(&self, result: RowResult) {
        let (count, outcome) = match &result.outcome {
            RowOutcome::Accepted(_) => (&self.counts.accepted, Outcome::Accepted),
            RowOutcome::Faulty(_) | RowOutcome::Refused(_) => {
                (&self.counts.refused, Outcome::Refused)
            }
            RowOutcome::Unknown(_) => (&self.counts.unknown, Outcome::Unknown),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let outcome = if result.known_before {
            Outcome::Known
        } else {
            outcome
        };
        self.uploads().metrics.rows(&self.account, outcome, 1);
        self.report(UploadEvent::Row(result)).await;
    }

    /// Reports how far the upload has come.
    pub async fn report_progress(&self) {
        let count = |count: &AtomicI64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        let progress = UploadProgress {
            received: count(&counts.received),
            accepted: count(&counts.accepted),
            refused: count(&counts.refused),
            unknown: count(&counts.unknown),
            upload_id: self.upload_id.clone(),
        };
        self.report(UploadEvent::Progress(progress)).await;
    }

    async fn report(&self, event: UploadEvent) {
        tokio::select! {
           biased;
            // A client that has gone may ask again.
            _ = self.events.send(event) => {}
            () = self.until_stopped() => {}
        }
    }

    /// Rows have ended, and the store has their outcome.
    pub fn have_ended(&self, rows: Vec<Ready>) {
        let rows = rows.into_iter().map(|it| (it.row.row_key, it.number));
        self.in_play().ended.extend(rows);
    }

    fn in_play(&self) -> MutexGuard<'_, InPlay> {
        self.in_play.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InPlay {
    fn add(&mut self, row_key: &str, number: &str) {
        *self.keys.entry(row_key.to_owned()).or_default() += 1;
        let entry = self.numbers.entry(number.to_owned());
        entry.or_insert_with(|| (0, row_key.to_owned())).0 += 1;
    }

    fn forget_ended(&mut self) {
        for (row_key, number) in std::mem::take(&mut self.ended) {
            if let Some(rows) = self.keys.get_mut(&row_key) {
                *rows -= 1;
                if *rows == 0 {
                    self.keys.remove(&row_key);
                }
            }
            if let Some(rows) = self.numbers.get_mut(&number) {
                rows.0 -= 1;
                if rows.0 == 0 {
                    self.numbers.remove(&number);
                }
            }
        }
    }
}

/// The number of the first batch of a session, unlike any of another session's.
fn first_batch() -> u64 {
    u64::try_from(random::unique() >> 64).unwrap_or_default()
}

/// The answer that the store gives; `None` where the row is to go out.
fn known_outcome(state: RowState) -> Option<RowOutcome> {
    match state {
        RowState::Accepted(id) => Some(RowOutcome::Accepted(id)),
        RowState::Unknown(because) => Some(RowOutcome::Unknown(because)),
        RowState::Refused {
            code,
            message,
            is_rows_fault: true,
        } => Some(RowOutcome::Refused(Refusal {
            code: Code::parse(&code),
            message,
        })),
        RowState::Absent | RowState::Refused { .. } => None,
    }
}

fn duplicate_key() -> RowFault {
    RowFault {
        reason: "DUPLICATE_ROW_KEY",
        message: "another row of the upload has this row_key".to_owned(),
    }
}

fn duplicate_number(row_key: &str) -> RowFault {
    RowFault {
        reason: "DUPLICATE_NUMBER",
        message: format!("the row {row_key:?} has this phone number, too"),
    }
}

fn rewritten() -> RowFault {
    RowFault {
        reason: "NUMBER_REWRITTEN",
        message: "the phone number was sent in its plain national form".to_owned(),
    }
}

fn of_check(fault: &CheckFault) -> RowFault {
    RowFault {
        reason: fault.reason(),
        message: fault.to_string(),
    }
}

impl From<SubmissionsError> for Stopped {
    fn from(error: SubmissionsError) -> Self {
        Self::Submissions(error)
    }
}
