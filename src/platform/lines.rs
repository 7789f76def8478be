//! Which task has which line, as far as the gateway has seen it.
//!
//! A line that serves a task is refused to others until the task ends (3030002), paused or not,
//! and the platform does not say which task that is. The gateway remembers it from the tasks that
//! it creates and from answers to task queries, and sends nothing to find out.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::error::masked;
use crate::proto::{Task, TaskStatus};

/// Maximum number of tasks remembered of an account; the one seen longest ago makes room.
const MOST_TASKS: usize = 256;
/// Maximum length of a remembered task name, in characters.
const LONGEST_NAME: usize = 64;
/// Maximum length of a remembered id or list of lines, in bytes.
const LONGEST_ID: usize = 512;
/// Line numbers of at least this many characters are the same when one ends with the other, as
/// they are written with or without area code.
const SHORTEST_LOCAL_NUMBER: usize = 7;

/// The task that occupies a line, as the gateway saw it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupation {
    /// The line, as the platform writes it.
    pub line_num: String,
    /// The task's id.
    pub task_id: String,
    /// Its name, shortened and with long numbers masked; may be empty.
    pub task_name: String,
    /// Its state.
    pub task_status: TaskStatus,
    /// When the gateway saw this.
    pub seen_at: SystemTime,
}

/// What the answer to an operation shows of tasks.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    Nothing,
    /// The id of the created task.
    Created(&'a str),
    Tasks(&'a [Task]),
}

/// An account's tasks, the one seen last first.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<VecDeque<Occupation>>);

impl Lines {
    /// Remembers what a successful operation shows. `named` is the task that its request names.
    pub(super) fn learn(&self, named: &Task, seen: Seen<'_>) {
        let mut tasks = self.lock();
        match seen {
            Seen::Tasks(rows) => rows.iter().for_each(|row| keep(&mut tasks, row)),
            Seen::Created(task_id) => {
                let mut task = named.clone();
                task_id.clone_into(&mut task.task_id);
                keep(&mut tasks, &task);
            }
            Seen::Nothing if named.status() == TaskStatus::Unspecified => {}
            Seen::Nothing => {
                let known = tasks.iter_mut().find(|task| task.task_id == named.task_id);
                if let Some(task) = known {
                    (task.task_status, task.seen_at) = (named.status(), SystemTime::now());
                }
            }
        }
    }

    /// The task that has the line for which an operation was refused, where it is known.
    pub(super) fn occupation(&self, named: &Task) -> Option<Occupation> {
        let tasks = self.lock();
        let is_own = |task: &&Occupation| task.task_id == named.task_id;
        let wanted = match named.line_num.as_str() {
            "" => &tasks.iter().find(is_own)?.line_num,
            line_num => line_num,
        };
        let is_wanted = |line: &&str| split(wanted).any(|wanted| is_same(line, wanted));
        let mut others = tasks
            .iter()
            .filter(|task| !is_own(task) && has_lines(task.task_status));
        others.find_map(|task| {
            let line_num = split(&task.line_num).find(is_wanted)?.to_owned();
            Some(Occupation {
                line_num,
                ..task.clone()
            })
        })
    }

    /// No panic can happen while it is held.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Occupation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(tasks: &mut VecDeque<Occupation>, task: &Task) {
    let is_odd = |text: &str| text.is_empty() || text.len() > LONGEST_ID;
    if is_odd(&task.task_id) || is_odd(&task.line_num) {
        return;
    }
    tasks.retain(|known| known.task_id != task.task_id);
    tasks.truncate(MOST_TASKS - 1);
    tasks.push_front(Occupation {
        line_num: task.line_num.clone(),
        task_id: task.task_id.clone(),
        // A name may be anything, a list of customers' numbers included.
        task_name: masked(&task.task_name).chars().take(LONGEST_NAME).collect(),
        task_status: match task.deleted {
            Some(true) => TaskStatus::Completed,
            _ => task.status(),
        },
        seen_at: SystemTime::now(),
    });
}

fn has_lines(status: TaskStatus) -> bool {
    use TaskStatus as S;
    !matches!(status, S::Unspecified | S::New | S::Completed | S::Expired)
}

/// Several lines are joined by `;`, and in a vendor's demo by `,`.
fn split(line_num: &str) -> impl Iterator<Item = &str> {
    let lines = line_num.split([';', ',']).map(str::trim);
    lines.filter(|line| !line.is_empty())
}

fn is_same(one: &str, other: &str) -> bool {
    let ends = one.ends_with(other) || other.ends_with(one);
    one == other || ends && one.len().min(other.len()) >= SHORTEST_LOCAL_NUMBER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(task_id: &str, line_num: &str, status: i32) -> Task {
        Task {
            task_id: task_id.into(),
            line_num: line_num.into(),
            task_name: format!("13000000001 {}", "长".repeat(1000)),
            status,
            ..Task::default()
        }
    }

    #[test]
    fn a_task_has_its_lines_from_its_start_until_its_end_as_created_or_queried() {
        const LINES: &str = "055169101338, 055169101339";
        let (created, queried) = (Lines::default(), Lines::default());
        created.learn(&task("", LINES, 0), Seen::Created("12"));
        for status in [100, 1, 2, 3, 5, 6, 7, 4] {
            created.learn(&task("12", "", status), Seen::Nothing);
            queried.learn(&task("", "", 0), Seen::Tasks(&[task("12", LINES, status)]));
            for (line_num, task_id, is_held) in [
                ("055169101339", "", true),
                ("1;69101338", "", true),
                ("1339", "", false),
                (LINES, "12", false),
                ("", "12", false),
                ("", "", false),
            ] {
                let is_held = is_held && ![100, 7, 4].contains(&status);
                for lines in [&created, &queried] {
                    let found = lines.occupation(&task(task_id, line_num, 0));
                    assert_eq!(found.is_some(), is_held, "{status} {line_num} {task_id}");
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_names_hold_no_numbers() {
        let (lines, long) = (Lines::default(), "1;".repeat(LONGEST_ID));
        for id in 0..MOST_TASKS + 10 {
            lines.learn(&task("", "1", 0), Seen::Created(&id.to_string()));
            lines.learn(&task("", "1", 0), Seen::Created(&long));
        }
        let tasks = lines.lock();
        assert_eq!(tasks.len(), MOST_TASKS);
        assert_eq!(tasks[0].task_id, (MOST_TASKS + 9).to_string());
        assert_eq!(tasks[0].task_name.chars().count(), LONGEST_NAME);
        assert!(tasks[0].task_name.starts_with("*********01 长"));
    }
}
