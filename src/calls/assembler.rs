//! The durable subscriber that puts calls together and adds them to the log.
//!
//! Each round takes what is there, applies it, adds calls that have become final to the log,
//! commits what it knows, and only then acknowledges. Every step can be done again without harm,
//! so that it can end anywhere. Two rules keep a call from being added twice:
//!
//! - An event of a call is named by its content, and the log holds each content once.
//! - What the log held at the start is applied before anything is added. So an event that an
//!   earlier run added, but had not noted, is seen first and counts as its revision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::assemble;
use super::draft::{Deadlines, Draft};
use super::list::whole;
use super::metrics::CallsMetrics;
use super::projection::{Old, Projection, View, WriteRight};
use super::stored::{CallKey, Index};
use super::{Calls, CallsError, SUBSCRIPTION, turbo_note};
use crate::proto::{PushFilter, PushKind};
use crate::push::Position;
use crate::store::subscriptions::{
    Delivery, Handed, Member, Spec, SubscriptionError, Subscriptions, Window,
};
use crate::store::{AppendError, Appended, Entry, NewEntry, Notes, PushLog, ReadError};

/// Tells the time; replaced in tests.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How calls are put together.
#[derive(Clone)]
pub struct AssemblerOptions {
    /// How long a call waits for what is missing, from its first push on.
    pub wait: Duration,
    /// Tells when that has passed while nothing comes.
    pub clock: Clock,
}

impl Default for AssemblerOptions {
    fn default() -> Self {
        Self {
            wait: Duration::from_mins(10),
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// Puts calls together, from the log and for the log.
pub struct Assembler {
    calls: Arc<Calls>,
    log: Arc<dyn PushLog>,
    subscriptions: Arc<dyn Subscriptions>,
    notes: Arc<dyn Notes>,
    options: AssemblerOptions,
    metrics: CallsMetrics,
}

/// How much may be handed out to the assembler.
const WINDOW: Window = Window {
    events: 1024,
    bytes: 16 << 20,
};
const ACK_DEADLINE: Duration = Duration::from_mins(1);
/// A round takes so many events, if they are there.
const ROUND: usize = 512;
/// And so many calls that wait for time alone, or are old.
const SLICE: usize = 512;
/// The clock is looked at so often while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// While nothing comes, a deadline has passed only so long after it: what was received before it
/// may still be on its way here.
const GRACE: Duration = Duration::from_secs(1);
/// After a failure, the same is tried again no sooner than this.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a session ended.
enum End {
    /// The store is closed.
    Closed,
    /// Something failed; another session can go on.
    Failed(String),
}

impl Assembler {
    /// An assembler that keeps what it knows in `calls`.
    pub fn new(
        calls: Arc<Calls>,
        log: Arc<dyn PushLog>,
        subscriptions: Arc<dyn Subscriptions>,
        notes: Arc<dyn Notes>,
        options: AssemblerOptions,
        metrics: CallsMetrics,
    ) -> Self {
        Self {
            calls,
            log,
            subscriptions,
            notes,
            options,
            metrics,
        }
    }

    /// Puts calls together until it is stopped, or the store is closed.
    pub async fn run(self, stop: CancellationToken) {
        let sessions = async {
            let mut has_failed = false;
            while let Err(End::Failed(error)) = self.session(&mut has_failed).await {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::error!(error, "calls cannot be assembled; trying again");
                }
                sleep(PAUSE).await;
            }
        };
        // Whatever is under way may end anywhere.
        stop.run_until_cancelled(sessions).await;
    }

    /// Takes the subscription up where it is, and goes on until something fails.
    async fn session(&self, has_failed: &mut bool) -> Result<(), End> {
        let right = self.projection().write_right().await;
        // Behind whatever an earlier session may still have under way.
        self.log.append(Vec::new()).await?;
        let history = *self.log.end().borrow();
        self.take_up(&right).await?;
        let mut member = self.subscriptions.join(SUBSCRIPTION, WINDOW).await?;
        let mut session = Session {
            assembler: self,
            right,
            history,
            emits: false,
            closed_until_ms: 0,
            swept: Swept::default(),
        };
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let handed = tokio::select! {
                biased;
                handed = member.next() => Some(handed?),
                _ = look.tick() => None,
            };
            let deliveries = drain(member.as_mut(), handed)?;
            session.round(member.place(), &deliveries).await?;
            if std::mem::take(has_failed) {
                tracing::info!("calls are assembled again");
            }
        }
    }

    /// Sees to it that the subscription is there, and behind nothing that the projection lacks.
    async fn take_up(&self, right: &WriteRight) -> Result<(), End> {
        let (log, earliest) = (self.log.id(), self.log.earliest());
        let (found, applied) = tokio::sync::oneshot::channel();
        self.projection()
            .write(right, move |disk| {
                // Whoever waits for it may have gone.
                let _: Result<(), _> = found.send(disk.adopt(log)?);
                Ok(())
            })
            .await?;
        let applied = applied.await.ok().flatten();
        let start = applied.unwrap_or(earliest).max(earliest);
        match self.subscriptions.get(SUBSCRIPTION).await {
            Ok(info) if applied.is_none() || start < info.place => {
                tracing::info!("assembling calls again from the log");
                Ok(self.subscriptions.seek(SUBSCRIPTION, start).await?)
            }
            Ok(_) => Ok(()),
            Err(SubscriptionError::NotFound(_)) => {
                let spec = spec();
                Ok(self.subscriptions.create(SUBSCRIPTION, spec, start).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn projection(&self) -> &Arc<Projection> {
        &self.calls.projection
    }

    /// Until when everything has come that was received, while nothing comes.
    fn quiet_ms(&self) -> u64 {
        let since_1970 = (self.options.clock)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let quiet = since_1970.saturating_sub(GRACE);
        u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX)
    }
}

fn spec() -> Spec {
    let kinds = [
        PushKind::CallRecord,
        PushKind::Voice,
        PushKind::Dialog,
        PushKind::Call,
    ];
    Spec {
        filter: PushFilter {
            kinds: kinds.map(Into::into).to_vec(),
            ..PushFilter::default()
        },
        ack_deadline: ACK_DEADLINE,
        max_attempts: 0,
        ..Spec::default()
    }
}

/// What was handed, and what more there is at once.
fn drain(member: &mut dyn Member, first: Option<Handed>) -> Result<Vec<Delivery>, End> {
    let mut deliveries = Vec::new();
    let mut next = first;
    while let Some(handed) = next {
        if let Handed::Deliveries(more) = handed {
            deliveries.extend(more);
        }
        if deliveries.len() >= ROUND {
            break;
        }
        next = member.next().now_or_never().transpose()?;
    }
    Ok(deliveries)
}

/// The assembler with its hold on the projection.
struct Session<'a> {
    assembler: &'a Assembler,
    right: WriteRight,
    /// Where the log ended when the session began.
    history: Position,
    /// Whether everything up to there has been applied, so that calls may be added to the log.
    emits: bool,
    /// Every call whose deadline lies before this has been closed.
    closed_until_ms: u64,
    /// How far old calls have been removed.
    swept: Swept,
}

/// Entries by the call that they are of; `None`: look at the call again without any.
type Work = BTreeMap<CallKey, Vec<Arc<Entry>>>;

impl Session<'_> {
    /// Applies deliveries and the passing of time, then acknowledges. `place`: the subscription's;
    /// nothing up to there is handed out and not acknowledged.
    async fn round(&mut self, place: Position, deliveries: &[Delivery]) -> Result<(), End> {
        let catches_up = !self.emits && place >= self.history;
        self.emits |= catches_up;
        let last = deliveries.iter().map(|delivery| &delivery.entry);
        let last = last.max_by_key(|entry| entry.cursor.position);
        let applied = last.map(|entry| entry.cursor.position);
        let close_before_ms = match last {
            Some(entry) => entry.received_at_ms,
            None if place >= *self.assembler.log.end().borrow() => self.assembler.quiet_ms(),
            None => 0,
        };

        let work = by_call(deliveries);
        self.step(work, close_before_ms, applied).await?;
        self.close_due(close_before_ms).await?;
        if catches_up {
            self.emit_pending().await?;
        }
        self.sweep().await?;
        if !deliveries.is_empty() {
            let ids: Vec<_> = deliveries
                .iter()
                .map(|delivery| delivery.ack_id.clone())
                .collect();
            // What became of each does not matter: what comes again changes nothing.
            self.assembler.subscriptions.ack(SUBSCRIPTION, &ids).await?;
        }
        Ok(())
    }

    /// Closes the calls whose deadline has passed.
    async fn close_due(&mut self, before_ms: u64) -> Result<(), End> {
        while self.closed_until_ms < before_ms {
            let from_ms = self.closed_until_ms;
            let due = self
                .find(move |view| view.due(from_ms, before_ms, SLICE))
                .await?;
            let is_last = due.len() < SLICE;
            self.step(due, before_ms, None).await?;
            if is_last {
                self.closed_until_ms = before_ms;
            }
        }
        Ok(())
    }

    /// Adds to the log what had to wait until its history was applied.
    async fn emit_pending(&mut self) -> Result<(), End> {
        loop {
            let pending = self.find(|view| view.pending(SLICE)).await?;
            if pending.is_empty() {
                return Ok(());
            }
            self.step(pending, 0, None).await?;
        }
    }

    async fn find(
        &self,
        find: impl FnOnce(&View<'_>) -> fjall::Result<Vec<CallKey>> + Send + 'static,
    ) -> Result<Work, End> {
        let read = self
            .assembler
            .projection()
            .read(move |disk| find(&disk.view()));
        Ok(read
            .await?
            .into_iter()
            .map(|key| (key, Vec::new()))
            .collect())
    }

    /// Applies entries to calls, and looks again at calls without any; adds to the log what is to
    /// be added; commits.
    async fn step(
        &mut self,
        work: Work,
        close_before_ms: u64,
        applied: Option<Position>,
    ) -> Result<(), End> {
        if work.is_empty() && applied.is_none() {
            return Ok(());
        }
        let assembler = self.assembler;
        let take_up = assembler.projection().read(move |disk| {
            let view = disk.view();
            work.into_iter()
                .map(|(key, entries)| {
                    let entries: Vec<&Entry> = entries.iter().map(AsRef::as_ref).collect();
                    Draft::new(&view, key, &entries, entries.is_empty())
                })
                .collect::<fjall::Result<Vec<_>>>()
        });
        let mut drafts = take_up.await?;
        let deadlines = Deadlines {
            wait: assembler.options.wait,
            close_before_ms,
        };
        self.settle(&mut drafts, deadlines).await?;
        if self.emits {
            self.emit(&mut drafts).await?;
        }
        if let Some(due_ms) = drafts.iter().filter_map(Draft::due_ms).min() {
            self.closed_until_ms = self.closed_until_ms.min(due_ms);
        }
        let commit = assembler.projection().write(&self.right, move |disk| {
            let changes = drafts.into_iter().filter_map(Draft::into_change).collect();
            disk.commit(changes, applied)
        });
        Ok(commit.await?)
    }

    /// Decides how far each call has come.
    async fn settle(&self, drafts: &mut [Draft], deadlines: Deadlines) -> Result<(), End> {
        let mut turbo: HashMap<String, bool> = HashMap::new();
        for draft in drafts {
            let mut is_turbo = false;
            if let Some((account, task_id)) = draft.task() {
                let note = turbo_note(account, task_id);
                is_turbo = match turbo.get(&note) {
                    Some(known) => *known,
                    None => self.assembler.notes.get(&note).await?.is_some(),
                };
                turbo.insert(note, is_turbo);
            }
            draft.settle(is_turbo, deadlines);
        }
        Ok(())
    }

    /// Adds calls to the log.
    async fn emit(&self, drafts: &mut [Draft]) -> Result<(), End> {
        let (mut entries, mut told) = (Vec::new(), Vec::new());
        for draft in drafts {
            if let Some(entry) = draft.emit() {
                entries.push(entry);
                told.push(draft);
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let appended = self.append(entries).await?;
        for (draft, appended) in told.into_iter().zip(appended) {
            if !appended.duplicate {
                draft.count(&self.assembler.metrics);
            }
        }
        Ok(())
    }

    /// Offers the same entries until the log takes them: one that was taken although it did not
    /// seem so is known by its id.
    async fn append(&self, entries: Vec<NewEntry>) -> Result<Vec<Appended>, End> {
        let mut has_failed = false;
        loop {
            match self.assembler.log.append(entries.clone()).await {
                Err(AppendError::Unavailable(error)) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::error!(error, "assembled calls cannot be stored; trying again");
                    }
                    sleep(PAUSE).await;
                }
                appended => return Ok(appended?),
            }
        }
    }

    /// Removes some of the calls of which the log holds nothing any more.
    async fn sweep(&mut self) -> Result<(), End> {
        let earliest = self.assembler.log.earliest();
        if self.swept.done >= earliest {
            return Ok(());
        }
        let from = self.swept.next.clone();
        let find = self
            .assembler
            .projection()
            .read(move |disk| disk.view().old(from, earliest, SLICE));
        let Old {
            calls,
            first_kept,
            next,
        } = find.await?;
        if !calls.is_empty() {
            let remove = self
                .assembler
                .projection()
                .write(&self.right, move |disk| disk.remove(&calls));
            remove.await?;
        }
        self.swept.advance(first_kept, next, earliest);
        Ok(())
    }
}

/// How far the list of all calls has been searched for old ones, from its old end.
struct Swept {
    /// Up to where the log had been retired when the list was last searched through.
    done: Position,
    /// Where the search goes on.
    next: Vec<u8>,
    /// The first call that this search left in the list: the next search starts there.
    first_kept: Option<Vec<u8>>,
}

impl Swept {
    fn advance(&mut self, first_kept: Option<Vec<u8>>, next: Option<Vec<u8>>, earliest: Position) {
        self.first_kept = self.first_kept.take().or(first_kept);
        if let Some(next) = next {
            self.next = next;
        } else {
            self.done = earliest;
            self.next = self
                .first_kept
                .take()
                .unwrap_or_else(|| whole(Index::All).0);
        }
    }
}

impl Default for Swept {
    fn default() -> Self {
        Self {
            done: Position::START,
            next: whole(Index::All).0,
            first_kept: None,
        }
    }
}

/// Sorts entries by the call that they are of, in log order; what is of no call is left out.
fn by_call(deliveries: &[Delivery]) -> Work {
    let mut seen = HashSet::new();
    let mut entries: Vec<_> = deliveries.iter().map(|delivery| &delivery.entry).collect();
    entries.sort_by_key(|entry| entry.cursor.position);
    let mut work = Work::new();
    for entry in entries {
        let Some(event) = entry.decoded() else {
            continue;
        };
        let call_uuid = assemble::call_uuid(event);
        if call_uuid.is_empty() || !seen.insert(entry.cursor.position) {
            continue;
        }
        let key = CallKey::new(&event.account, call_uuid);
        work.entry(key).or_default().push(entry.clone());
    }
    work
}

impl From<SubscriptionError> for End {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::Closed | SubscriptionError::Log(ReadError::Closed) => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<AppendError> for End {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::Closed,
            AppendError::Unavailable(error) => Self::Failed(error),
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<CallsError> for End {
    fn from(error: CallsError) -> Self {
        match error {
            CallsError::Closed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}
