//! What is known of the lines: which task has which.
//!
//! A line that serves a task is refused to others until the task ends (3030002),
//! paused or not, and the platform does not say which task that is. The gateway
//! remembers it from the tasks that it creates and from every answer to a task
//! query that passes by, in memory alone, and asks when it knows nothing.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::error::masked;
use crate::proto::{QueryTasksRequest, SortOrder, Task, TaskSortName, TaskStatus};

/// The most tasks that are remembered of an account; the one that was seen
/// longest ago makes room.
const MOST_TASKS: usize = 1000;
/// The most that is kept of a task's name, in characters.
const LONGEST_NAME: usize = 64;
/// A longer id, or a longer list of lines, is not remembered; in bytes.
const LONGEST_ID: usize = 512;
/// Line numbers of at least so many characters are the same when one ends with
/// the other, as they are written with or without area code.
const SHORTEST_LOCAL_NUMBER: usize = 7;
/// The platform is asked no more often than this.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Who occupies a line, as far as the gateway knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupation {
    /// The line, as the platform writes it, or as the request wrote it.
    pub line_num: String,
    /// The task that has it, where that is known.
    pub task: Option<Holder>,
}

/// A task that has a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The task's id.
    pub task_id: String,
    /// Its name, shortened and with long numbers masked; empty where it is not
    /// known.
    pub task_name: String,
    /// Its state in a word, as `running`.
    pub task_status: &'static str,
    /// When the gateway saw this.
    pub seen_at: SystemTime,
}

impl fmt::Display for Occupation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(task) = &self.task else {
            return write!(f, "what line {} serves is not known", self.line_num);
        };
        write!(f, "line {} serves task {}", self.line_num, task.task_id)?;
        if !task.task_name.is_empty() {
            write!(f, " ({:?})", task.task_name)?;
        }
        let seen_at = humantime::format_rfc3339_seconds(task.seen_at);
        write!(f, ", {} at {seen_at}", task.task_status)
    }
}

/// What an operation has to do with lines and tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineUse {
    /// Nothing.
    None,
    /// It takes a line for itself.
    CallOut { line_num: String },
    /// It makes a task for these lines.
    Create { line_num: String, task_name: String },
    /// It adds to a task.
    Insert { task_id: String },
    /// It starts a task, on the task's lines.
    Start { task_id: String },
    /// It pauses a task, which keeps its lines.
    Pause { task_id: String },
    /// It ends a task.
    Delete { task_id: String },
}

/// What the answer to an operation tells of tasks.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Nothing.
    Nothing,
    /// The id of the task that was made.
    Created(&'a str),
    /// Tasks as they are.
    Tasks(&'a [Task]),
}

/// What is known of an account's lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tasks: Mutex<HashMap<String, Known>>,
    /// When the platform was last asked; held while it is.
    pub asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Known {
    line_num: String,
    task_name: String,
    status: TaskStatus,
    seen_at: SystemTime,
}

impl Lines {
    /// Takes up what an operation that was done tells.
    pub(super) fn learn(&self, used: &LineUse, seen: Seen<'_>) {
        let now = SystemTime::now();
        match (used, seen) {
            (_, Seen::Tasks(rows)) => {
                let mut tasks = self.lock();
                for row in rows {
                    see(&mut tasks, row, now);
                }
            }
            (
                LineUse::Create {
                    line_num,
                    task_name,
                },
                Seen::Created(task_id),
            ) => {
                let known = Known {
                    line_num: line_num.clone(),
                    task_name: name(task_name),
                    status: TaskStatus::New,
                    seen_at: now,
                };
                keep(&mut self.lock(), task_id, known);
            }
            (LineUse::Start { task_id }, _) => self.now_is(task_id, TaskStatus::Started, now),
            (LineUse::Pause { task_id }, _) => self.now_is(task_id, TaskStatus::Paused, now),
            (LineUse::Delete { task_id }, _) => {
                self.lock().remove(task_id);
            }
            (
                LineUse::None
                | LineUse::CallOut { .. }
                | LineUse::Create { .. }
                | LineUse::Insert { .. },
                Seen::Nothing | Seen::Created(_),
            ) => {}
        }
    }

    /// What is known of the line for which an operation was refused; `None`
    /// where not even the line is.
    pub(super) fn occupation(&self, used: &LineUse) -> Option<Occupation> {
        let tasks = self.lock();
        let (own, wanted) = match used {
            LineUse::CallOut { line_num } | LineUse::Create { line_num, .. } => ("", line_num),
            LineUse::Insert { task_id }
            | LineUse::Start { task_id }
            | LineUse::Pause { task_id }
            | LineUse::Delete { task_id } => (task_id.as_str(), &tasks.get(task_id)?.line_num),
            LineUse::None => return None,
        };
        let holder = tasks
            .iter()
            .filter(|(task_id, known)| *task_id != own && holds_lines(known.status))
            .filter_map(|(task_id, known)| {
                let line = split(&known.line_num)
                    .find(|line| split(wanted).any(|wanted| is_same(line, wanted)))?;
                Some((line, task_id, known))
            })
            .max_by_key(|(_, _, known)| known.seen_at);
        Some(match holder {
            Some((line, task_id, known)) => Occupation {
                line_num: line.to_owned(),
                task: Some(Holder {
                    task_id: task_id.clone(),
                    task_name: known.task_name.clone(),
                    task_status: status_name(known.status),
                    seen_at: known.seen_at,
                }),
            },
            None => Occupation {
                line_num: wanted.clone(),
                task: None,
            },
        })
    }

    /// The question to the platform that may tell more; `None` where it was asked
    /// a moment ago.
    pub(super) fn question(
        &self,
        used: &LineUse,
        asked: &mut Option<Instant>,
    ) -> Option<QueryTasksRequest> {
        let now = Instant::now();
        if *used == LineUse::None || asked.is_some_and(|at| now < at + ASK_EVERY) {
            return None;
        }
        *asked = Some(now);
        let mut states: Vec<i32> = HOLDING.map(Into::into).into();
        if self.occupation(used).is_none() {
            // The task's own line is not known either.
            states.push(TaskStatus::New.into());
        }
        Some(QueryTasksRequest {
            page_size: Some(50),
            sort_name: TaskSortName::CreateTime.into(),
            sort_order: SortOrder::Desc.into(),
            // A later field: a platform that does not know it answers with all tasks.
            task_status_list: states,
            ..QueryTasksRequest::default()
        })
    }

    fn now_is(&self, task_id: &str, status: TaskStatus, seen_at: SystemTime) {
        if let Some(known) = self.lock().get_mut(task_id) {
            (known.status, known.seen_at) = (status, seen_at);
        }
    }

    /// No panic can happen while it is held.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// States in which a task has its lines.
const HOLDING: [TaskStatus; 5] = [
    TaskStatus::Started,
    TaskStatus::Running,
    TaskStatus::Paused,
    TaskStatus::AwaitingRecall,
    TaskStatus::OutsideWorkingHours,
];

fn holds_lines(status: TaskStatus) -> bool {
    HOLDING.contains(&status)
}

fn status_name(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Unspecified => "unknown",
        TaskStatus::New => "new",
        TaskStatus::Started => "started",
        TaskStatus::Running => "running",
        TaskStatus::Paused => "paused",
        TaskStatus::Completed => "completed",
        TaskStatus::AwaitingRecall => "awaiting recall",
        TaskStatus::OutsideWorkingHours => "outside working hours",
        TaskStatus::Expired => "expired",
    }
}

/// Only tasks that have lines, or may come to have them, are worth the memory.
fn see(tasks: &mut HashMap<String, Known>, row: &Task, seen_at: SystemTime) {
    let status = row.status();
    let may_hold = holds_lines(status) || status == TaskStatus::New;
    if !may_hold || row.deleted == Some(true) {
        tasks.remove(&row.task_id);
        return;
    }
    let known = Known {
        line_num: row.line_num.clone(),
        task_name: name(&row.task_name),
        status,
        seen_at,
    };
    keep(tasks, &row.task_id, known);
}

fn keep(tasks: &mut HashMap<String, Known>, task_id: &str, known: Known) {
    let is_odd = |text: &str| text.is_empty() || text.len() > LONGEST_ID;
    if is_odd(task_id) || is_odd(&known.line_num) {
        return;
    }
    if tasks.len() >= MOST_TASKS && !tasks.contains_key(task_id) {
        let oldest = tasks.iter().min_by_key(|(_, known)| known.seen_at);
        if let Some(oldest) = oldest.map(|(task_id, _)| task_id.clone()) {
            tasks.remove(&oldest);
        }
    }
    tasks.insert(task_id.to_owned(), known);
}

/// A name may be anything, a list of customers' numbers included.
fn name(task_name: &str) -> String {
    masked(task_name).chars().take(LONGEST_NAME).collect()
}

/// Several lines are joined by `;`, and in a vendor's demo by `,`.
fn split(line_num: &str) -> impl Iterator<Item = &str> {
    line_num
        .split([';', ','])
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

fn is_same(one: &str, other: &str) -> bool {
    let (long, short) = if one.len() < other.len() {
        (other, one)
    } else {
        (one, other)
    };
    long == short || short.len() >= SHORTEST_LOCAL_NUMBER && long.ends_with(short)
}

#[cfg(test)]
mod tests;
