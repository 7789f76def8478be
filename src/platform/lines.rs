//! Which task has which line, as far as the gateway has seen it.
//!
//! A line that serves a task is refused to others until the task ends (3030002), paused or not,
//! and the platform does not say which task that is. The gateway remembers it from the tasks that
//! it creates and from answers to task queries, and sends nothing to find out.

use std::{
    collections::VecDeque,
    fmt,
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

impl Occupation {
    /// The task's state in a word or two, as `running`.
    pub fn status_name(&self) -> String {
        let name = self.task_status.as_str_name();
        let name = name.strip_prefix("TASK_STATUS_").unwrap_or(name);
        name.to_lowercase().replace('_', " ")
    }
}

impl fmt::Display for Occupation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} serves task {}", self.line_num, self.task_id)?;
        if !self.task_name.is_empty() {
            write!(f, " ({:?})", self.task_name)?;
        }
        let seen_at = humantime::format_rfc3339_seconds(self.seen_at);
        write!(f, ", {} at {seen_at}", self.status_name())
    }
}

/// The line and the task that a request names; empty where it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineUse {
    pub line_num: String,
    pub task_id: String,
    pub task_name: String,
    /// The task's state once the operation is done.
    pub becomes: Option<TaskStatus>,
}

impl LineUse {
    /// An operation on an existing task.
    pub(super) fn of_task(task_id: &str, becomes: Option<TaskStatus>) -> Self {
        Self {
            task_id: task_id.to_owned(),
            becomes,
            ..Self::default()
        }
    }
}

/// What the answer to an operation shows of tasks.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    Nothing,
    /// The id of the created task.
    Created(&'a str),
    /// Tasks as they are.
    Tasks(&'a [Task]),
}

/// An account's tasks that have lines or may get them, the one seen last first.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<VecDeque<Occupation>>);

impl Lines {
    /// Remembers what a successful operation shows.
    pub(super) fn learn(&self, used: &LineUse, seen: Seen<'_>) {
        let seen_at = SystemTime::now();
        let mut tasks = self.lock();
        match (seen, used.becomes) {
            (Seen::Tasks(rows), _) => {
                for row in rows {
                    let status = match row.deleted {
                        Some(true) => TaskStatus::Completed,
                        _ => row.status(),
                    };
                    let task = task(&row.task_id, &row.line_num, &row.task_name, status, seen_at);
                    keep(&mut tasks, task);
                }
            }
            (Seen::Created(task_id), _) => {
                let (line_num, task_name) = (&used.line_num, &used.task_name);
                let task = task(task_id, line_num, task_name, TaskStatus::New, seen_at);
                keep(&mut tasks, task);
            }
            (Seen::Nothing, Some(task_status)) => {
                let known = tasks.iter().find(|task| task.task_id == used.task_id);
                if let Some(known) = known.cloned() {
                    let task = Occupation {
                        task_status,
                        seen_at,
                        ..known
                    };
                    keep(&mut tasks, task);
                }
            }
            (Seen::Nothing, None) => {}
        }
    }

    /// The task that has the line for which an operation was refused, where it is known.
    pub(super) fn occupation(&self, used: &LineUse) -> Option<Occupation> {
        let tasks = self.lock();
        let is_own = |task: &&Occupation| task.task_id == used.task_id;
        let wanted = match used.line_num.as_str() {
            "" => &tasks.iter().find(is_own)?.line_num,
            line_num => line_num,
        };
        let mut others = tasks.iter().filter(|task| !is_own(task));
        others.find_map(|task| {
            let line = split(&task.line_num)
                .filter(|_| task.task_status != TaskStatus::New)
                .find(|line| split(wanted).any(|wanted| is_same(line, wanted)))?;
            Some(Occupation {
                line_num: line.to_owned(),
                ..task.clone()
            })
        })
    }

    /// No panic can happen while it is held.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Occupation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn task(
    task_id: &str,
    line_num: &str,
    name: &str,
    task_status: TaskStatus,
    seen_at: SystemTime,
) -> Occupation {
    Occupation {
        line_num: line_num.to_owned(),
        task_id: task_id.to_owned(),
        // A name may be anything, a list of customers' numbers included.
        task_name: masked(name).chars().take(LONGEST_NAME).collect(),
        task_status,
        seen_at,
    }
}

/// Puts a task first, or forgets it where it has ended.
fn keep(tasks: &mut VecDeque<Occupation>, task: Occupation) {
    tasks.retain(|known| known.task_id != task.task_id);
    let has_ended = matches!(
        task.task_status,
        TaskStatus::Unspecified | TaskStatus::Completed | TaskStatus::Expired
    );
    let is_odd = |text: &str| text.is_empty() || text.len() > LONGEST_ID;
    if !has_ended && !is_odd(&task.task_id) && !is_odd(&task.line_num) {
        tasks.truncate(MOST_TASKS - 1);
        tasks.push_front(task);
    }
}

/// Several lines are joined by `;`, and in a vendor's demo by `,`.
fn split(line_num: &str) -> impl Iterator<Item = &str> {
    let lines = line_num.split([';', ',']).map(str::trim);
    lines.filter(|line| !line.is_empty())
}

fn is_same(one: &str, other: &str) -> bool {
    let [short, long] = if one.len() < other.len() {
        [one, other]
    } else {
        [other, one]
    };
    long == short || short.len() >= SHORTEST_LOCAL_NUMBER && long.ends_with(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task_id: &str, line_num: &str, status: TaskStatus) -> Task {
        Task {
            task_id: task_id.into(),
            task_name: format!("13000000001 {}", "长".repeat(1000)),
            line_num: line_num.into(),
            status: status.into(),
            ..Task::default()
        }
    }

    fn holder(
        lines: &Lines,
        line_num: &str,
        task_id: &str,
    ) -> Option<(String, String, TaskStatus)> {
        let used = LineUse {
            line_num: line_num.into(),
            ..LineUse::of_task(task_id, None)
        };
        let found = lines.occupation(&used)?;
        Some((found.line_num, found.task_id, found.task_status))
    }

    #[test]
    fn a_created_task_has_its_lines_from_its_start_until_its_end() {
        let (lines, line) = (Lines::default(), "69101339");
        let create = LineUse {
            line_num: "69101338;69101339".into(),
            ..LineUse::default()
        };
        lines.learn(&create, Seen::Created("12"));
        for (status, is_held) in [
            (TaskStatus::New, false),
            (TaskStatus::Started, true),
            (TaskStatus::Paused, true),
            (TaskStatus::Completed, false),
        ] {
            lines.learn(&LineUse::of_task("12", Some(status)), Seen::Nothing);
            let expected = (line.to_owned(), "12".to_owned(), status);
            assert_eq!(holder(&lines, line, ""), is_held.then_some(expected));
        }
    }

    #[test]
    fn a_task_query_shows_who_has_a_line_and_who_has_it_no_more() {
        let lines = Lines::default();
        let rows = [
            row("1", "055169101407, 055169101408", TaskStatus::Running),
            row("2", "69101338", TaskStatus::Completed),
            row("3", "055169101408", TaskStatus::New),
            row("long", &"1;".repeat(1000), TaskStatus::Running),
        ];
        lines.learn(&LineUse::default(), Seen::Tasks(&rows));
        let held = (
            "055169101408".to_owned(),
            "1".to_owned(),
            TaskStatus::Running,
        );
        assert_eq!(
            holder(&lines, "69101408", ""),
            Some(held.clone()),
            "without area code"
        );
        assert_eq!(holder(&lines, "", "3"), Some(held), "the task's own line");
        for (line_num, task_id) in [
            ("1408", ""),
            ("69101338", ""),
            ("", "1"),
            ("", "9"),
            ("", ""),
        ] {
            assert_eq!(
                holder(&lines, line_num, task_id),
                None,
                "{line_num} {task_id}"
            );
        }
        let ended = [row("1", "055169101408", TaskStatus::Expired)];
        lines.learn(&LineUse::default(), Seen::Tasks(&ended));
        assert_eq!(holder(&lines, "055169101408", ""), None);
    }

    #[test]
    fn memory_is_bounded_and_names_hold_no_numbers() {
        let lines = Lines::default();
        for id in 0..MOST_TASKS + 10 {
            let rows = [row(&id.to_string(), "69101338", TaskStatus::Running)];
            lines.learn(&LineUse::default(), Seen::Tasks(&rows));
        }
        let tasks = lines.lock();
        assert_eq!(
            (tasks.len(), tasks[0].task_name.chars().count()),
            (MOST_TASKS, LONGEST_NAME)
        );
        assert!(tasks[0].task_name.starts_with("*********01 长"));
        assert_eq!(tasks[0].status_name(), "running");
    }
}
