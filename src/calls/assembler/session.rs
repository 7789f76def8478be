//! What the assembler does while it has hold of the projection: round after round, apply, add to
//! the log, commit, acknowledge.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::sleep;

use super::super::draft::{Deadlines, Draft, Push};
use super::super::projection::{Old, View, WriteRight};
use super::super::stored::{CallKey, Index};
use super::super::{SUBSCRIPTION, assemble, turbo_note};
use super::{Assembler, PAUSE, SLICE};
use crate::push::Position;
use crate::store::subscriptions::Delivery;
use crate::store::{AppendError, Appended, End, NewEntry};

/// The assembler with its hold on the projection.
pub(super) struct Session<'a> {
    assembler: &'a Assembler,
    right: WriteRight,
    /// Where the log ended when the session began.
    history: Position,
    /// Whether everything up to there has been applied, so that calls may be added to the log.
    emits: bool,
    /// Every call whose deadline lies before this has been closed.
    closed_until_ms: u64,
    /// How far this session has applied the log.
    applied: Position,
    /// How far old calls have been removed.
    swept: Swept,
}

/// Entries by the call that they are of; `None`: look at the call again without any.
type Work = BTreeMap<CallKey, Vec<Push>>;

impl<'a> Session<'a> {
    /// A session that adds nothing to the log before it has applied what the log holds now, up to
    /// `history`.
    pub fn new(assembler: &'a Assembler, right: WriteRight, history: Position) -> Self {
        Self {
            assembler,
            right,
            history,
            emits: false,
            closed_until_ms: 0,
            applied: Position::START,
            swept: Swept::default(),
        }
    }

    /// Whether calls are added to the log: its history has been applied.
    pub fn emits(&self) -> bool {
        self.emits
    }

    /// Applies deliveries and the passing of time, then acknowledges. `place`: the subscription's;
    /// nothing up to there is handed out and not acknowledged.
    pub async fn round(&mut self, place: Position, deliveries: &[Delivery]) -> Result<(), End> {
        let catches_up = !self.emits && place >= self.history;
        self.emits |= catches_up;
        let last = deliveries.iter().map(|delivery| &delivery.entry);
        let last = last.max_by_key(|entry| entry.cursor.position);
        // What comes again lies behind what has been applied since.
        let applied = last.map(|entry| self.applied.max(entry.cursor.position));
        self.applied = applied.unwrap_or(self.applied);
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
                .map(|(key, entries)| Draft::new(&view, key, &entries, entries.is_empty()))
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
                .unwrap_or_else(|| Index::All.whole().0);
        }
    }
}

impl Default for Swept {
    fn default() -> Self {
        Self {
            done: Position::START,
            next: Index::All.whole().0,
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
        let Some(event) = entry.decode() else {
            continue;
        };
        let call_uuid = assemble::call_uuid(&event);
        if call_uuid.is_empty() || !seen.insert(entry.cursor.position) {
            continue;
        }
        let key = CallKey::new(&event.account, call_uuid);
        let entry = entry.clone();
        work.entry(key).or_default().push(Push { entry, event });
    }
    work
}
