//! One stream of an upload: which rows need not be sent, and which go out in batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Target};
use super::split::Verdict;
use super::{BATCH, Refusal, RowFault, RowOutcome, RowResult, Stopped, Told, Turn, Uploads};
use crate::platform::Code;
use crate::proto::{DuplicateRule, UploadHeader, UploadProgress, UploadRow};
use crate::submissions::SubmissionsError;
use crate::submissions::check::{self, RowFault as CheckFault};
use crate::submissions::metrics::Came;
use crate::submissions::stored::{self, Fate, KnownFate, Taken};

/// So many results wait for a client that does not take them; then no more rows are taken.
const TOLD: usize = 16 * 1024;

/// One stream of an upload.
pub struct Session {
    shared: Arc<Shared>,
    columns: usize,
    numbers_rule: DuplicateRule,
    keys_rule: DuplicateRule,
    ready: Vec<Ready>,
    out: Arc<Semaphore>,
    max_out: u32,
    told: Option<mpsc::Receiver<Told>>,
}

/// What a session shares with its batches.
pub(super) struct Shared {
    turn: Turn,
    pub account: String,
    pub upload_id: String,
    pub target: Target,
    pub verdict: Mutex<Verdict>,
    tell: mpsc::Sender<Told>,
    counts: Counts,
    in_play: Mutex<InPlay>,
    taken_over: CancellationToken,
    drain: CancellationToken,
    stop: CancellationToken,
    stopped: OnceLock<Stopped>,
    batches: AtomicU64,
}

#[derive(Default)]
struct Counts {
    received: AtomicI64,
    accepted: AtomicI64,
    refused: AtomicI64,
    unknown: AtomicI64,
}

/// Rows that are ready or out, or of which the store has only told since it was last asked.
#[derive(Default)]
struct InPlay {
    /// How often each row key occurs.
    keys: HashMap<String, usize>,
    /// How often each number occurs, and one row that has it.
    numbers: HashMap<String, (usize, String)>,
    /// Those that have come back: the store knows of them.
    back: Vec<Ready>,
}

/// A row to be sent.
pub(super) struct Ready {
    pub row: UploadRow,
    /// Its number in one form.
    pub number: String,
    pub warnings: Vec<RowFault>,
}

/// What is kept of a row, of its key and of its number.
#[derive(Default)]
struct Kept {
    fate: Option<Fate>,
    key: Option<Taken>,
    number: Option<Taken>,
}

impl Session {
    pub(super) fn new(
        turn: Turn,
        account: &str,
        header: UploadHeader,
        taken_over: CancellationToken,
        drain: CancellationToken,
    ) -> Self {
        let options = &turn.uploads.options;
        let rule = |own: DuplicateRule, configured| match own {
            DuplicateRule::Unspecified => configured,
            own => own,
        };
        let numbers_rule = rule(header.duplicate_numbers(), options.duplicate_numbers);
        let keys_rule = rule(header.duplicate_row_keys(), options.duplicate_row_keys);
        let max_out = u32::try_from(options.max_batches).unwrap_or(u32::MAX);
        let (tell, told) = mpsc::channel(TOLD);
        let columns = header.call_column.len();
        let upload_id = header.upload_id.clone();
        let shared = Shared {
            account: account.to_owned(),
            upload_id,
            target: Target::new(header),
            verdict: Mutex::default(),
            tell,
            counts: Counts::default(),
            in_play: Mutex::default(),
            taken_over,
            drain,
            stop: CancellationToken::new(),
            stopped: OnceLock::new(),
            // Unlike any of another session's.
            batches: AtomicU64::new(u64::from(rand::random::<u32>()) << 32),
            turn,
        };
        Self {
            shared: Arc::new(shared),
            columns,
            numbers_rule,
            keys_rule,
            ready: Vec::new(),
            out: Arc::new(Semaphore::new(max_out as usize)),
            max_out,
            told: Some(told),
        }
    }

    /// What the client is told; to be taken once.
    pub fn told(&mut self) -> Option<mpsc::Receiver<Told>> {
        self.told.take()
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
        self.shared
            .counts
            .received
            .fetch_add(count, Ordering::Relaxed);
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
        let numbers = self.uploads().ledger.numbers();
        let checked: Vec<_> = rows
            .into_iter()
            .map(|row| (check::check(&row, self.columns, &numbers), row))
            .collect();
        let good = checked.iter().filter_map(|(checked, row)| {
            let number = checked.as_ref().ok()?;
            Some((row, number.as_str()))
        });
        // First this, then the store: whatever has come back by now is found there, and whatever
        // comes back later stays in play until the store is asked for the next rows.
        self.shared.in_play().forget_back();
        let mut kept = self.kept(good).await?.into_iter();
        for (checked, row) in checked {
            let number = match checked {
                Ok(number) => number,
                Err(fault) => {
                    self.answer(row.row_key, RowOutcome::Faulty(of_check(&fault)), false)
                        .await;
                    continue;
                }
            };
            let kept = kept.next().unwrap_or_default();
            self.decide(row, number, kept).await?;
        }
        Ok(())
    }

    /// What is kept of rows, in their order.
    async fn kept<'a>(
        &self,
        rows: impl Iterator<Item = (&'a UploadRow, &'a str)>,
    ) -> Result<Vec<Kept>, Stopped> {
        let upload = &self.shared.turn.name;
        let keys = rows.flat_map(|(row, number)| {
            [
                stored::upload_row(upload, row),
                stored::upload_key(upload, &row.row_key),
                stored::upload_number(upload, number),
            ]
        });
        let notes = self.uploads().ledger.notes();
        let found = notes.get_many(keys.collect()).await;
        let found = found.map_err(|error| Stopped::Submissions(error.into()))?;
        let (rows, _) = found.as_chunks::<3>();
        let kept = rows.iter().map(|[fate, key, number]| Kept {
            fate: fate.as_deref().map(fate_of),
            key: key.as_deref().map(taken_of),
            number: number.as_deref().map(taken_of),
        });
        Ok(kept.collect())
    }

    /// Answers a row, or makes it ready to be sent.
    async fn decide(
        &mut self,
        row: UploadRow,
        number: String,
        mut kept: Kept,
    ) -> Result<(), Stopped> {
        if self.shared.in_play().keys.contains_key(&row.row_key) {
            // What becomes of the one before decides about this one.
            self.flush().await?;
            self.wait_for_all().await?;
            let rows = std::iter::once((&row, number.as_str()));
            kept = self.kept(rows).await?.pop().unwrap_or_default();
        }
        if let Some(outcome) = kept.fate.and_then(known_outcome) {
            self.answer(row.row_key, outcome, true).await;
            return Ok(());
        }
        let digest = stored::digest(&row.values);
        let mut faults = Vec::new();
        if kept.key.is_some_and(|taken| taken.digest != digest) {
            let fault = RowFault {
                reason: "DUPLICATE_ROW_KEY",
                message: "another row of the upload has this row_key".to_owned(),
            };
            faults.push((self.keys_rule, fault));
        }
        let other = |taken: Taken| {
            (taken.row_key != row.row_key || taken.digest != digest).then_some(taken.row_key)
        };
        let in_play = self.shared.in_play().numbers.get(&number).cloned();
        let in_play = in_play.map(|(_, row_key)| row_key);
        if let Some(row_key) = in_play.or_else(|| kept.number.and_then(other)) {
            let fault = RowFault {
                reason: "DUPLICATE_NUMBER",
                message: format!("the row {row_key:?} has this phone number, too"),
            };
            faults.push((self.numbers_rule, fault));
        }
        let refused = faults.iter().find(|(rule, _)| *rule != DuplicateRule::Warn);
        if let Some((_, fault)) = refused {
            let outcome = RowOutcome::Faulty(fault.clone());
            self.answer(row.row_key, outcome, false).await;
            return Ok(());
        }
        self.shared.in_play().add(&row.row_key, &number);
        self.ready.push(Ready {
            row,
            number,
            warnings: faults.into_iter().map(|(_, fault)| fault).collect(),
        });
        if self.ready.len() == BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what is ready, once a batch may go out.
    pub async fn flush(&mut self) -> Result<(), Stopped> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let room = self.out.clone().acquire_owned();
        let room = tokio::select! {
            why = self.stopped() => return Err(why),
            room = room => room,
        };
        let Ok(room) = room else {
            return Err(self.shared.why_stopped());
        };
        let batch = Batch::new(self.shared.clone(), std::mem::take(&mut self.ready), room);
        self.uploads().tasks.spawn(batch.run());
        Ok(())
    }

    /// Sends the rest, and waits until every row has been answered.
    pub async fn finish(mut self) -> Result<(), Stopped> {
        self.flush().await?;
        self.wait_for_all().await?;
        self.shared.tell_progress().await;
        Ok(())
    }

    /// Waits until every row that was sent has been answered.
    async fn wait_for_all(&self) -> Result<(), Stopped> {
        tokio::select! {
            why = self.stopped() => return Err(why),
            () = self.wait_for_out() => {}
        }
        // A batch that ends early says so before it makes room.
        if self.shared.is_stopped() {
            return Err(self.shared.why_stopped());
        }
        Ok(())
    }

    /// Waits until nothing is out any more, whatever became of it.
    pub async fn wait_for_out(&self) {
        // Never closed.
        let _ = self.out.acquire_many(self.max_out).await;
    }

    async fn answer(&self, row_key: String, outcome: RowOutcome, known_before: bool) {
        let result = RowResult {
            row_key,
            outcome,
            warnings: Vec::new(),
            known_before,
        };
        self.shared.tell_row(result).await;
    }

    fn uploads(&self) -> &Arc<Uploads> {
        self.shared.uploads()
    }
}

impl Drop for Session {
    /// What is out goes on to its answer; what is not stays where it is.
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    pub fn uploads(&self) -> &Arc<Uploads> {
        &self.turn.uploads
    }

    pub fn upload_name(&self) -> &str {
        &self.turn.name
    }

    /// The number of the next batch.
    pub fn next_batch(&self) -> u64 {
        self.batches.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether nothing more is to be sent.
    pub fn is_stopped(&self) -> bool {
        let tokens = [&self.stop, &self.taken_over, &self.drain];
        tokens.into_iter().any(CancellationToken::is_cancelled)
    }

    /// Resolves when nothing more is to be sent.
    pub async fn until_stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.taken_over.cancelled() => {}
            () = self.drain.cancelled() => {}
        }
    }

    /// Why nothing more is to be sent.
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

    /// Tells what became of a row, when the client has room for it.
    pub async fn tell_row(&self, result: RowResult) {
        let (count, came) = match &result.outcome {
            RowOutcome::Accepted(_) => (&self.counts.accepted, Came::Accepted),
            RowOutcome::Faulty(_) | RowOutcome::Refused(_) => (&self.counts.refused, Came::Refused),
            RowOutcome::Unknown(_) => (&self.counts.unknown, Came::Unknown),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let came = if result.known_before {
            Came::Known
        } else {
            came
        };
        self.uploads().metrics.rows(&self.account, came, 1);
        self.tell(Told::Row(result)).await;
    }

    /// Tells how far the upload has come.
    pub async fn tell_progress(&self) {
        let count = |count: &AtomicI64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        let progress = UploadProgress {
            received: count(&counts.received),
            accepted: count(&counts.accepted),
            refused: count(&counts.refused),
            unknown: count(&counts.unknown),
            upload_id: self.upload_id.clone(),
        };
        self.tell(Told::Progress(progress)).await;
    }

    async fn tell(&self, told: Told) {
        tokio::select! {
            biased;
            // A client that has gone is told nothing; it may ask again.
            _ = self.tell.send(told) => {}
            () = self.until_stopped() => {}
        }
    }

    /// Rows have come back, and the store knows what came of them.
    pub fn are_back(&self, rows: Vec<Ready>) {
        self.in_play().back.extend(rows);
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

    fn forget_back(&mut self) {
        for Ready { row, number, .. } in std::mem::take(&mut self.back) {
            if let Some(rows) = self.keys.get_mut(&row.row_key) {
                *rows -= 1;
                if *rows == 0 {
                    self.keys.remove(&row.row_key);
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

/// What became of a row, as it was kept. What cannot be read may have been sent.
fn fate_of(bytes: &[u8]) -> Fate {
    let fate = KnownFate::decode(bytes).ok().and_then(|known| known.fate);
    fate.unwrap_or_else(|| Fate::Unknown("what is kept of the row cannot be read".to_owned()))
}

/// Who has a key or a number; what cannot be read is somebody else.
fn taken_of(bytes: &[u8]) -> Taken {
    Taken::decode(bytes).unwrap_or_default()
}

/// What is answered from the store; `None` where the row is to go out again.
fn known_outcome(fate: Fate) -> Option<RowOutcome> {
    match fate {
        Fate::Accepted(id) => Some(RowOutcome::Accepted(id)),
        Fate::Unknown(because) => Some(RowOutcome::Unknown(because)),
        Fate::Refused(refusal) => refusal.is_rows_fault.then(|| {
            RowOutcome::Refused(Refusal {
                code: Code::parse(&refusal.code),
                message: refusal.message,
            })
        }),
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
