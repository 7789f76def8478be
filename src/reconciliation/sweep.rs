//! One look at all awaited rows of an account: which have their record, which are overdue.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::civil::Date;
use prost::Message;
use tokio::time::Instant;

use super::days::{self, DayNote};
use super::tasks::{Stage, Tasks};
use super::{Reconciliation, millis};
use crate::backfill::days::of_ms;
use crate::proto::OverdueReason;
use crate::store::{End, NoteChange, Survives};
use crate::submissions::awaited::{self, Awaited};

/// So many requests' rows are looked at together.
const SLICE: usize = 64;

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// By the day in China on which rows were submitted.
    pub days: BTreeMap<Date, Day>,
    /// How long it took.
    pub took: Duration,
}

/// Rows of a day of which no record has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Day {
    /// Of which none should have come yet.
    pub awaited: u64,
    /// Of which one should have come, by the reason for it.
    pub overdue: BTreeMap<i32, u64>,
}

impl Day {
    /// All that are overdue.
    pub fn overdue(&self) -> u64 {
        self.overdue.values().sum()
    }
}

impl Found {
    /// Rows of which no record should have come yet.
    pub fn awaited(&self) -> u64 {
        self.days.values().map(|day| day.awaited).sum()
    }

    /// Rows that are overdue.
    pub fn overdue(&self) -> u64 {
        self.days.values().map(Day::overdue).sum()
    }

    pub(super) fn overdue_for(&self, reason: OverdueReason) -> u64 {
        let of_day = |day: &Day| day.overdue.get(&(reason as i32)).copied();
        self.days.values().filter_map(of_day).sum()
    }

    fn add(&mut self, note: &Awaited) {
        let Some(date) = of_ms(note.submitted_at_ms) else {
            return;
        };
        let day = self.days.entry(date).or_default();
        let rows = note.rows.len() as u64;
        if note.overdue_since_ms == 0 {
            day.awaited += rows;
        } else {
            *day.overdue.entry(note.reason).or_default() += rows;
        }
    }
}

/// A look under way.
pub(super) struct Sweep<'a> {
    reconciliation: &'a Reconciliation,
    account: &'a str,
    tasks: &'a mut Tasks,
    now_ms: u64,
    found: Found,
}

/// What a slice of rows comes to.
#[derive(Default)]
struct Changes {
    notes: Vec<NoteChange>,
    /// What is to be added to what is known of days.
    days: BTreeMap<Date, DayNote>,
    /// Rows that become overdue.
    overdue: u64,
    /// Rows that are not awaited any longer although no record came.
    given_up: u64,
}

impl<'a> Sweep<'a> {
    pub fn new(
        reconciliation: &'a Reconciliation,
        account: &'a str,
        tasks: &'a mut Tasks,
        now_ms: u64,
    ) -> Self {
        Self {
            reconciliation,
            account,
            tasks,
            now_ms,
            found: Found::default(),
        }
    }

    /// Looks at all of them.
    pub async fn run(mut self) -> Result<Found, End> {
        let since = Instant::now();
        // What is overdue first: what becomes so in this look is not looked at twice.
        self.walk(&awaited::overdue(self.account)).await?;
        self.walk(&awaited::awaited(self.account)).await?;
        self.tasks.forget_others();
        self.found.took = since.elapsed();
        Ok(self.found)
    }

    async fn walk(&mut self, prefix: &str) -> Result<(), End> {
        let mut after = String::new();
        loop {
            let notes = &self.reconciliation.notes;
            let slice = notes.list(prefix, &after, SLICE).await?;
            let Some((last, _)) = slice.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let read = |(place, bytes): (String, Vec<u8>)| {
                Some((place, Awaited::decode(bytes.as_slice()).ok()?))
            };
            self.slice(slice.into_iter().filter_map(read).collect())
                .await?;
        }
    }

    async fn slice(&mut self, notes: Vec<(String, Awaited)>) -> Result<(), End> {
        // Of rows that were just submitted no record can have come yet.
        let is_new = |(_, note): &(String, Awaited)| self.is_new(note);
        let (new, notes): (Vec<_>, Vec<_>) = notes.into_iter().partition(is_new);
        for (_, note) in new {
            self.found.add(&note);
        }
        let looked_at = notes.iter().map(|(_, note)| note);
        let recorded = self.reconciliation.recorded(self.account, looked_at);
        let recorded = recorded.await?;
        let mut changes = Changes::default();
        for (place, note) in notes {
            self.look_at(place, note, &recorded, &mut changes);
        }
        let mut notes = changes.notes;
        if notes.is_empty() {
            return Ok(());
        }
        let store = &self.reconciliation.notes;
        // Nobody else writes them.
        notes.extend(days::added(store.as_ref(), self.account, changes.days).await?);
        store.change(notes, Survives::Kill).await?;
        self.tell(changes.overdue, changes.given_up);
        Ok(())
    }

    fn look_at(
        &mut self,
        place: String,
        mut note: Awaited,
        recorded: &HashSet<String>,
        changes: &mut Changes,
    ) {
        let all = note.rows.len();
        note.rows
            .retain(|row| !recorded.contains(&row.task_data_id));
        let left = note.rows.len();
        let is_news = !note.is_counted || left < all;
        if is_news && let Some(date) = of_ms(note.submitted_at_ms) {
            let day = changes.days.entry(date).or_default();
            if !std::mem::replace(&mut note.is_counted, true) {
                day.sent += all as u64;
            }
            day.answered += (all - left) as u64;
        }
        if left == 0 {
            changes.notes.push(NoteChange::forget(place));
            return;
        }
        if self.is_old(&note) {
            changes.given_up += left as u64;
            changes.notes.push(NoteChange::forget(place));
            return;
        }
        let is_awaited = note.overdue_since_ms == 0;
        if is_awaited && let Some(reason) = self.overdue(&note) {
            note.overdue_since_ms = self.now_ms;
            note.reason = reason.into();
            changes.overdue += left as u64;
            let name = &place[awaited::awaited(self.account).len()..];
            let new_place = awaited::overdue(self.account) + name;
            let note = NoteChange::put(new_place, note.encode_to_vec());
            changes.notes.extend([NoteChange::forget(place), note]);
        } else if is_news {
            let note = NoteChange::put(place, note.encode_to_vec());
            changes.notes.push(note);
        }
        self.found.add(&note);
    }

    /// Why rows are overdue, if they are.
    fn overdue(&mut self, note: &Awaited) -> Option<OverdueReason> {
        let options = &self.reconciliation.options;
        let submitted_at_ms = note.submitted_at_ms;
        if note.task_id.is_empty() {
            let is_over = passed(submitted_at_ms, self.now_ms, options.after_submission);
            return is_over.then_some(OverdueReason::CallOver);
        }
        let known = self.tasks.meet(&note.task_id);
        let (since_ms, wait, reason) = match known.stage {
            Stage::Open => return None,
            Stage::CalledAll(since_ms) => {
                let reason = OverdueReason::CallOver;
                (since_ms, options.after_submission, reason)
            }
            Stage::Ended(reason, at_ms) => (at_ms, options.after_task_end, reason),
        };
        // It was so until it was asked about last; what is since then is not known.
        let is_over = passed(since_ms.max(submitted_at_ms), known.answered_ms, wait);
        is_over.then_some(reason)
    }

    /// Whether rows were submitted since about the last look.
    fn is_new(&self, note: &Awaited) -> bool {
        let every = self.reconciliation.options.every;
        // Those of a day that has ended are counted before it is reported.
        let is_today = of_ms(note.submitted_at_ms) == of_ms(self.now_ms);
        is_today && !note.is_counted && !passed(note.submitted_at_ms, self.now_ms, every)
    }

    /// Whether rows need not be awaited any longer.
    fn is_old(&self, note: &Awaited) -> bool {
        let options = &self.reconciliation.options;
        match note.overdue_since_ms {
            0 => passed(note.submitted_at_ms, self.now_ms, options.keep_awaited),
            since_ms => passed(since_ms, self.now_ms, options.keep),
        }
    }

    /// Tells what has become of rows.
    fn tell(&self, overdue: u64, given_up: u64) {
        let account = self.account;
        if overdue > 0 {
            tracing::warn!(
                account,
                rows = overdue,
                "rows are overdue: no call record has come"
            );
        }
        if given_up > 0 {
            self.reconciliation.metrics.given_up(account, given_up);
            tracing::warn!(
                account,
                rows = given_up,
                "rows are given up: no call record ever came"
            );
        }
    }
}

/// Whether so much time has passed between two times in milliseconds since 1970.
fn passed(since_ms: u64, until_ms: u64, wait: Duration) -> bool {
    until_ms >= since_ms.saturating_add(millis(wait))
}
