//! Decides whether a call record can be about a row, and a task about a CreateTask request.
//!
//! Pure functions. They would rather find nothing than something wrong: what is not shown to have
//! been accepted stays unknown.

use std::collections::BTreeSet;

use super::check::Numbers;
use crate::proto::submission::Request;
use crate::proto::{CallDirection, CallRecord, CreateTaskRequest, Row, Task};

/// A call may seem to have been dialled this much before its request was recorded: the platform
/// rounds its times, and its clock is not the gateway's.
pub(super) const SLACK_MS: i64 = 60_000;

/// How well a call record fits a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// It has the row's number, and no values. Another row may have the number, too.
    Number,
    /// It has all values of the row.
    Values,
}

/// The columns and rows of a request, and the task that they were for.
struct Rows<'a> {
    columns: &'a [String],
    list: &'a [Row],
    /// Empty for direct calls.
    task_id: &'a str,
}

impl<'a> Rows<'a> {
    fn of(request: &'a Request) -> Option<Self> {
        match request {
            Request::CallOut(request) => Some(Self {
                columns: &request.call_column,
                list: &request.call_list,
                task_id: "",
            }),
            Request::InsertTaskData(request) => Some(Self {
                columns: &request.call_column,
                list: &request.call_list,
                task_id: &request.task_id,
            }),
            Request::CreateTask(_) => None,
        }
    }

    /// The values under these heads, in an order that does not depend on the columns'. Empty
    /// values are left out, as the platform may leave them out. Numbers are in one form.
    fn content<'b>(
        &self,
        heads: &'b [String],
        values: &'b [String],
        numbers: Numbers,
    ) -> Vec<(&'b str, String)> {
        let number_head = self.columns.first().map_or("", |head| head.trim());
        let mut content: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let head = heads.get(at).map_or("", |head| head.trim());
                let number = numbers.key(value).filter(|_| head == number_head);
                (head, number.unwrap_or_else(|| value.trim().to_owned()))
            })
            .filter(|(_, value)| !value.is_empty())
            .collect();
        content.sort();
        content
    }

    fn content_of(&self, row: usize, numbers: Numbers) -> Option<Vec<(&str, String)>> {
        let row = self.list.get(row)?;
        Some(self.content(self.columns, &row.values, numbers))
    }
}

/// Whether a call record can be about a row of a request that was recorded at this time.
///
/// A record without the platform's id of the row proves nothing: whether the call belongs to
/// another request could not be checked. The other record of the same call has the id.
pub(super) fn fit(
    request: &Request,
    row: usize,
    created_at_ms: u64,
    record: &CallRecord,
    numbers: Numbers,
) -> Option<Match> {
    let rows = Rows::of(request)?;
    if !is_id(&record.task_data_id) {
        return None;
    }
    if record.direction() == CallDirection::Inbound && record.task_row_value.is_empty() {
        return None;
    }
    let is_other_task =
        !rows.task_id.is_empty() && is_id(&record.task_id) && record.task_id != rows.task_id;
    if is_other_task || dialled_at(record)?.saturating_add(SLACK_MS) < signed(created_at_ms) {
        return None;
    }
    let values = &record.task_row_value;
    if values.is_empty() {
        let callee = numbers.key(&record.callee)?;
        let number = rows.list.get(row)?.values.first();
        let is_it = number.and_then(|number| numbers.key(number)) == Some(callee);
        return is_it.then_some(Match::Number);
    }
    let has_heads = record.task_row_head.len() == values.len();
    let heads = if has_heads {
        &record.task_row_head
    } else {
        rows.columns
    };
    let is_it = rows.content_of(row, numbers)? == rows.content(heads, values, numbers);
    // Without heads, the values can be those of a row with other columns.
    let how = if has_heads {
        Match::Values
    } else {
        Match::Number
    };
    is_it.then_some(how)
}

/// Whether a call was dialled soon enough after its request to settle it: within `window` for a
/// direct call, at any time for a row of a task that the record names.
pub(super) fn is_in_time(
    request: &Request,
    created_at_ms: u64,
    record: &CallRecord,
    window_ms: u64,
) -> bool {
    let latest = signed(created_at_ms.saturating_add(window_ms));
    match request {
        Request::CallOut(_) => dialled_at(record).is_some_and(|dialled| dialled <= latest),
        Request::InsertTaskData(request) => record.task_id == request.task_id,
        Request::CreateTask(_) => false,
    }
}

/// Whether a call record that fits one of two rows fits the other one, too.
pub(super) fn are_twins(a: (&Request, usize), b: (&Request, usize), numbers: Numbers) -> bool {
    let (Some(rows_a), Some(rows_b)) = (Rows::of(a.0), Rows::of(b.0)) else {
        return false;
    };
    // A record of a direct call names a task that nobody knows beforehand.
    let are_tasks_apart = !rows_a.task_id.is_empty()
        && !rows_b.task_id.is_empty()
        && rows_a.task_id != rows_b.task_id;
    !are_tasks_apart && rows_a.content_of(a.1, numbers) == rows_b.content_of(b.1, numbers)
}

/// Whether an id is one: the platform sends "0" for none.
pub(super) fn is_id(id: &str) -> bool {
    !matches!(id, "" | "0")
}

/// When the call was dialled at the earliest, in milliseconds since 1970. Where the record does
/// not have that time, a later one less what had passed by then.
pub(super) fn dialled_at(record: &CallRecord) -> Option<i64> {
    let there = |time: Option<i64>| time.filter(|time| *time > 0);
    let ms = |seconds: Option<i32>| i64::from(seconds.unwrap_or_default().max(0)) * 1000;
    let ring = ms(record.duration_ring);
    let lasted = ring + ms(record.duration_call);
    there(record.time_dial)
        .or_else(|| there(record.time_ring))
        .or_else(|| Some(there(record.time_answer)?.saturating_sub(ring)))
        .or_else(|| Some(there(record.time_hangup)?.saturating_sub(lasted)))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Whether a task has the very name, robot, lines and time (to the second) of a request, and was
/// not deleted.
pub(super) fn is_task_of(request: &CreateTaskRequest, task: &Task) -> bool {
    is_id(&task.task_id)
        && task.task_name == request.task_name
        && task.robot_id == request.robot_id
        && lines(&task.line_num) == lines(&request.line_num)
        && is_same_second(task.time_task_estimate_begin, request.time_begin)
        && task.deleted != Some(true)
}

/// Whether one task could be the outcome of either request.
pub(super) fn are_same_task(a: &CreateTaskRequest, b: &CreateTaskRequest) -> bool {
    a.task_name == b.task_name
        && a.robot_id == b.robot_id
        && lines(&a.line_num) == lines(&b.line_num)
        // Each may be a second off the task's.
        && a.time_begin.abs_diff(b.time_begin) < 2000
}

/// The lines in a text that joins several.
fn lines(text: &str) -> BTreeSet<&str> {
    let lines = text.split([';', ',', '；', '，']).map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

/// Whether two times in milliseconds are the same but for rounding to whole seconds, either way.
fn is_same_second(time: Option<i64>, other: i64) -> bool {
    time.is_some_and(|time| time.abs_diff(other) < 1000)
}

#[cfg(test)]
mod tests;
