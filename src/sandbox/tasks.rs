//! All tasks of the account, and which of them holds which line.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::now_ms;
use super::code::{LINE_OCCUPIED, NO_BALANCE, Refusal, UNKNOWN_TASK};
use super::rows::Batch;
use super::task::{Row, Settings, Task};

/// The first id that a created task gets: the documents' own.
const FIRST_TASK: u64 = 129;
/// The long-lived task behind direct callouts, by the dialog document's id.
pub(super) const DIRECT_TASK: u64 = 3_457_986_492_696_704;
/// Beyond 2^53, where a double loses the last digits.
const FIRST_DATA_ID: i64 = 346_252_615_123_869_699;
const FIRST_ROW_INDEX: i64 = 34_951_420;

pub(super) struct Tasks {
    by_id: BTreeMap<u64, Task>,
    next_task: u64,
    next_data_id: i64,
    next_row_index: i64,
    /// Per line: the task that it serves, and its direct calls under way.
    holders: Vec<Option<u64>>,
    direct_calls: Vec<u64>,
    /// Calls that the account can still pay for; none: no bound.
    pub balance: Option<u64>,
}

impl Tasks {
    pub fn new(lines: usize, balance: Option<u64>) -> Self {
        Self {
            by_id: BTreeMap::new(),
            next_task: FIRST_TASK,
            next_data_id: FIRST_DATA_ID,
            next_row_index: FIRST_ROW_INDEX,
            holders: vec![None; lines],
            direct_calls: vec![0; lines],
            balance,
        }
    }

    /// Drops all tasks. Ids go on counting: none is ever given twice.
    pub fn forget(&mut self, balance: Option<u64>) {
        self.by_id.clear();
        self.holders.fill(None);
        self.direct_calls.fill(0);
        self.balance = balance;
    }

    pub fn create(&mut self, settings: Settings) -> u64 {
        let id = self.next_task;
        self.next_task += 1;
        self.by_id
            .insert(id, Task::new(id, settings, now_ms(), false));
        id
    }

    /// The long-lived task, made at the first direct callout.
    pub fn direct(&mut self, settings: impl FnOnce() -> Settings) -> &mut Task {
        self.by_id
            .entry(DIRECT_TASK)
            .or_insert_with(|| Task::new(DIRECT_TASK, settings(), now_ms(), true))
    }

    /// The task of this id as the platform writes it.
    pub fn find(&self, id: &str) -> Result<&Task, Refusal> {
        let known = id.parse().ok().and_then(|id: u64| self.by_id.get(&id));
        known.ok_or_else(|| UNKNOWN_TASK.because(format!("there is no task {id}")))
    }

    pub fn find_mut(&mut self, id: &str) -> Result<&mut Task, Refusal> {
        let known = id.parse().ok().and_then(|id: u64| self.by_id.get_mut(&id));
        known.ok_or_else(|| UNKNOWN_TASK.because(format!("there is no task {id}")))
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Task> {
        self.by_id.get_mut(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Task> {
        self.by_id.values()
    }

    /// Gives each row of a batch its ids.
    pub fn number(&mut self, batch: Batch) -> Vec<Row> {
        let Batch { head, rows } = batch;
        let mut numbered = Vec::with_capacity(rows.len());
        for values in rows {
            numbered.push(Row {
                data_id: self.next_data_id,
                index: self.next_row_index,
                head: Arc::clone(&head),
                values: values.into(),
                tries: 0,
            });
            self.next_data_id += 1;
            self.next_row_index += 1;
        }
        numbered
    }

    /// Refuses the lines if one of them serves another task, or direct calls
    /// while `task` is no direct one.
    pub fn lines_free_for(&self, task: Option<u64>, lines: &[usize]) -> Result<(), Refusal> {
        for &line in lines {
            if let Some(holder) = self.holders[line].filter(|holder| Some(*holder) != task) {
                return Err(LINE_OCCUPIED.because(format!("the line serves task {holder}")));
            }
            if task.is_some() && self.direct_calls[line] > 0 {
                return Err(LINE_OCCUPIED.because("the line serves direct callouts"));
            }
        }
        Ok(())
    }

    pub fn hold_lines(&mut self, task: u64, lines: &[usize]) {
        for &line in lines {
            self.holders[line] = Some(task);
        }
    }

    pub fn release_lines(&mut self, task: u64) {
        for holder in &mut self.holders {
            if *holder == Some(task) {
                *holder = None;
            }
        }
    }

    pub fn begin_direct_calls(&mut self, line: usize, count: u64) {
        self.direct_calls[line] += count;
    }

    pub fn end_direct_call(&mut self, line: usize) {
        self.direct_calls[line] = self.direct_calls[line].saturating_sub(1);
    }

    pub fn line_in_use(&self, line: usize) -> bool {
        self.holders[line].is_some() || self.direct_calls[line] > 0
    }

    /// Refuses what the account cannot pay for.
    pub fn can_pay(&self, calls: u64) -> Result<(), Refusal> {
        match self.balance {
            Some(balance) if balance < calls => {
                Err(NO_BALANCE.because(format!("{calls} calls, and a balance for {balance}")))
            }
            _ => Ok(()),
        }
    }

    pub fn pay(&mut self, calls: u64) {
        self.balance = self.balance.map(|balance| balance.saturating_sub(calls));
    }
}
