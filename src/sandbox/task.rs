//! One outbound task: its settings, its state, and the rows still to dial.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::code::{DATA_RELATION, Refusal, TASK_DELETED, TASK_FINISHED};

/// The documented task states 0 to 4, and the later 5 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    New = 0,
    /// Started, and waiting for its `time_begin`.
    Started = 1,
    Running = 2,
    Paused = 3,
    Finished = 4,
    /// Between two rounds, waiting `time_recall_wait`.
    WaitingForRetry = 5,
    OutsideHours = 6,
    /// `time_end` came before all rows were dialled.
    Expired = 7,
}

/// One row of numbers to dial. Its redials share `data_id`.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub data_id: i64,
    pub index: i64,
    pub head: Arc<[String]>,
    pub values: Arc<[String]>,
    /// How often it was redialled: 0 on the first call.
    pub tries: u32,
}

/// What the creator of a task chose.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub name: String,
    /// Positions in the catalog; `line_num` is how the creator wrote them.
    pub lines: Vec<usize>,
    pub line_num: String,
    pub robot: usize,
    pub voice_code: Option<String>,
    pub recall_count: u32,
    /// Seconds between two rounds.
    pub recall_wait: u64,
    pub time_range: Vec<String>,
    pub time_begin: i64,
    pub time_end: Option<i64>,
    /// Such calls are not recorded.
    pub trubo_mode: bool,
}

/// Counters of what was dialled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Rows submitted.
    pub rows: u64,
    /// Calls made, redials included.
    pub calls: u64,
    /// Rows dialled at least once.
    pub dialled: u64,
    pub answered: u64,
    /// Rounds of redials done.
    pub rounds: u32,
}

pub(super) struct Task {
    pub id: u64,
    pub settings: Settings,
    /// The long-lived task behind direct callouts: never new, never finished.
    pub direct: bool,
    pub status: Status,
    pub deleted: bool,
    pub created: i64,
    pub started: Option<i64>,
    pub finished: Option<i64>,
    pub counts: Counts,
    pub queue: VecDeque<Row>,
    pub retry: VecDeque<Row>,
    /// When the next round begins, while the task waits for it.
    pub retry_due: Option<i64>,
    pub under_way: u64,
    /// Counts the starts; an older runner sees that it is not wanted any more.
    pub run: u64,
    /// Told of every change, so that the runner looks again.
    pub changed: watch::Sender<()>,
}

impl Task {
    pub fn new(id: u64, settings: Settings, created: i64, direct: bool) -> Self {
        Self {
            id,
            settings,
            direct,
            status: if direct { Status::Running } else { Status::New },
            deleted: false,
            created,
            started: direct.then_some(created),
            finished: None,
            counts: Counts::default(),
            queue: VecDeque::new(),
            retry: VecDeque::new(),
            retry_due: None,
            under_way: 0,
            run: 0,
            changed: watch::Sender::new(()),
        }
    }

    /// Refuses what can be done neither to a deleted nor to an ended task, nor
    /// to the long-lived one, whose calls nobody can stop.
    pub fn controllable(&self) -> Result<(), Refusal> {
        if self.direct {
            return Err(DATA_RELATION.because("the task of direct callouts cannot be controlled"));
        }
        if self.deleted {
            return Err(TASK_DELETED.because(format!("task {} is deleted", self.id)));
        }
        if self.ended() {
            return Err(TASK_FINISHED.because(format!("task {} has ended", self.id)));
        }
        Ok(())
    }

    pub fn ended(&self) -> bool {
        matches!(self.status, Status::Finished | Status::Expired)
    }

    /// Started, and neither paused nor ended.
    pub fn active(&self) -> bool {
        !self.deleted
            && matches!(
                self.status,
                Status::Started | Status::Running | Status::WaitingForRetry | Status::OutsideHours
            )
    }

    pub fn take_row_for_dialling(&mut self) -> Option<Row> {
        let row = self.queue.pop_front()?;
        self.under_way += 1;
        Some(row)
    }

    /// Books a call that has ended; an unanswered row waits for the next round.
    pub fn book(&mut self, row: Row, answered: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        self.counts.calls += 1;
        self.counts.dialled += u64::from(row.tries == 0);
        self.counts.answered += u64::from(answered);
        if !answered && row.tries < self.settings.recall_count {
            self.retry.push_back(Row {
                tries: row.tries + 1,
                ..row
            });
        }
        self.changed.send_replace(());
    }

    /// Moves the unanswered rows back for one more round.
    pub fn begin_next_round(&mut self) {
        self.queue.append(&mut self.retry);
        self.counts.rounds += 1;
    }

    pub fn remaining(&self) -> usize {
        self.queue.len() + self.retry.len()
    }
}
